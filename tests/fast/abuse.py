"""What no peer may do to an HTTP/2 server, as bytes, and the error code that it gets for it.

Shared by the tests of the connection and of the whole process. Each entry is sent after the preface and the
first SETTINGS of a connection that is new.
"""

import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import hpack

from bench import frames
from bench.frames import (
    END_HEADERS,
    LARGEST_WINDOW,
    PADDED,
    PRIORITIZED,
    Error,
    Kind,
    Setting,
    block,
    call,
    continuation,
    data,
    frame,
    headers,
    message,
    ping,
    priority,
    request,
    reset,
    settings,
    table_size,
    window_update,
)

Bytes = Callable[[str], Iterable[bytes]]
"""Given the path of a method that is served, what is sent."""
FLOOD = 30_000
"""Frames of one kind at once: no use of HTTP/2 needs so many that say nothing."""


@dataclass(frozen=True, slots=True)
class Abuse:
    """Something sent, and how it ends: the connection, or stream 1 alone."""

    sent: Bytes
    code: Error
    acknowledged: bool = True
    """False: while the server's SETTINGS are not acknowledged, so that its table has the usual size."""


def _one(*parts: bytes) -> Bytes:
    return lambda path: parts


def _on_call(*parts: bytes) -> Bytes:
    """After a call has begun on stream 1."""
    return lambda path: (call(1, path), *parts)


def _after_call(*parts: bytes) -> Bytes:
    """After the call on stream 1 has ended."""
    return lambda path: (call(1, path, ended=True), *parts)


def _streams() -> range:
    return range(1, 2 * FLOOD, 2)


def _huge_list(path: str) -> list[tuple[str, str]]:
    return [*request(path), *(("x-more", "x" * 4_000) for _ in range(50))]


def _in_pieces(stream: int, whole: bytes, size: int) -> list[bytes]:
    pieces = [whole[at : at + size] for at in range(0, len(whole), size)]
    middle = (continuation(stream, piece, whole=False) for piece in pieces[1:-1])
    return [headers(stream, pieces[0], whole=False), *middle, continuation(stream, pieces[-1])]


def _bomb(path: str) -> bytes:
    """A header of 4,000 bytes that the table keeps, referred to by one byte each time."""
    kept = hpack.Encoder().encode([*request(path), ("x-bomb", "x" * 4_000)])
    return bytes(kept) + b"\xbe" * 10_000


def _nested(settings_count: int) -> bytes:
    """One SETTINGS frame that changes the window again and again."""
    pairs = itertools.islice(itertools.cycle([(4, 1), (4, 65_535)]), settings_count)
    payload = b"".join(name.to_bytes(2, "big") + value.to_bytes(4, "big") for name, value in pairs)
    return frame(Kind.SETTINGS, 0, 0, payload)


CONNECTION: Mapping[str, Abuse] = {
    # RFC 9113, 4: frames and header blocks
    "a frame over the limit": Abuse(_one(frame(Kind.DATA, 0, 1, length=2**24 - 1)), Error.FRAME_SIZE_ERROR),
    "rubbish for a header block": Abuse(_one(headers(1, b"\xff" * 20)), Error.COMPRESSION_ERROR),
    "a table that was given up": Abuse(
        lambda path: (headers(1, hpack.Encoder().encode(request(path)) + b"\xbe"),), Error.COMPRESSION_ERROR
    ),
    "index 0": Abuse(_one(headers(1, b"\x80")), Error.COMPRESSION_ERROR),
    "an index beyond the table": Abuse(_one(headers(1, b"\xfe")), Error.COMPRESSION_ERROR),
    "an integer that never ends": Abuse(_one(headers(1, b"\x7f" + b"\xff" * 40)), Error.COMPRESSION_ERROR),
    "a table larger than allowed": Abuse(
        _one(headers(1, table_size(1 << 20) + block(request()))), Error.COMPRESSION_ERROR
    ),
    "a block cut off": Abuse(_one(headers(1, block(request())[:-3])), Error.COMPRESSION_ERROR),
    "another frame inside a block": Abuse(
        lambda path: (headers(1, block(request(path))[:9], whole=False), ping()), Error.PROTOCOL_ERROR
    ),
    "an unknown frame inside a block": Abuse(
        lambda path: (headers(1, block(request(path))[:9], whole=False), frame(0x42)), Error.PROTOCOL_ERROR
    ),
    "another stream's CONTINUATION": Abuse(
        lambda path: (headers(1, block(request(path))[:9], whole=False), continuation(3, b"")),
        Error.PROTOCOL_ERROR,
    ),
    "CONTINUATION out of nowhere": Abuse(_on_call(continuation(1, b"")), Error.PROTOCOL_ERROR),
    # 5: streams
    "a stream number of ours": Abuse(lambda path: (call(2, path),), Error.PROTOCOL_ERROR),
    "a stream number that goes back": Abuse(
        lambda path: (call(5, path, ended=True), call(3, path)), Error.PROTOCOL_ERROR
    ),
    "DATA on an idle stream": Abuse(_one(data(1, b"x")), Error.PROTOCOL_ERROR),
    "RST_STREAM on an idle stream": Abuse(_one(reset(1)), Error.PROTOCOL_ERROR),
    "an idle stream that depends on itself": Abuse(_one(priority(1, depends_on=1)), Error.PROTOCOL_ERROR),
    "PRIORITY of 4 bytes on an idle stream": Abuse(
        _one(frame(Kind.PRIORITY, 0, 1, bytes(4))), Error.FRAME_SIZE_ERROR
    ),
    "WINDOW_UPDATE on an idle stream": Abuse(_one(window_update(1, 1)), Error.PROTOCOL_ERROR),
    "HEADERS on a stream that has ended": Abuse(
        lambda path: (call(1, path, ended=True), call(1, path)), Error.STREAM_CLOSED
    ),
    # 6: every frame
    "DATA on stream 0": Abuse(_one(data(0, b"x")), Error.PROTOCOL_ERROR),
    "DATA with more padding than payload": Abuse(
        _on_call(frame(Kind.DATA, PADDED, 1, b"\x09short")), Error.PROTOCOL_ERROR
    ),
    "padded DATA without a length of it": Abuse(
        _on_call(frame(Kind.DATA, PADDED, 1)), Error.FRAME_SIZE_ERROR
    ),
    "HEADERS on stream 0": Abuse(lambda path: (call(0, path),), Error.PROTOCOL_ERROR),
    "HEADERS with more padding than payload": Abuse(
        _one(frame(Kind.HEADERS, PADDED | END_HEADERS, 1, b"\x09short")), Error.PROTOCOL_ERROR
    ),
    "HEADERS too short for their priority": Abuse(
        _one(frame(Kind.HEADERS, PRIORITIZED | END_HEADERS, 1, b"\0\0")), Error.FRAME_SIZE_ERROR
    ),
    "PRIORITY on stream 0": Abuse(_one(priority(0)), Error.PROTOCOL_ERROR),
    "RST_STREAM on stream 0": Abuse(_one(reset(0)), Error.PROTOCOL_ERROR),
    "RST_STREAM of 3 bytes": Abuse(_on_call(frame(Kind.RST_STREAM, 0, 1, b"abc")), Error.FRAME_SIZE_ERROR),
    "SETTINGS on a stream": Abuse(_on_call(frame(Kind.SETTINGS, 0, 1)), Error.PROTOCOL_ERROR),
    "SETTINGS of 7 bytes": Abuse(_one(frame(Kind.SETTINGS, 0, 0, bytes(7))), Error.FRAME_SIZE_ERROR),
    "an acknowledgement that says something": Abuse(
        _one(frame(Kind.SETTINGS, frames.ACK, 0, bytes(6))), Error.FRAME_SIZE_ERROR
    ),
    "ENABLE_PUSH 2": Abuse(_one(settings({Setting.ENABLE_PUSH: 2})), Error.PROTOCOL_ERROR),
    "INITIAL_WINDOW_SIZE too large": Abuse(
        _one(settings({Setting.INITIAL_WINDOW_SIZE: LARGEST_WINDOW + 1})), Error.FLOW_CONTROL_ERROR
    ),
    "INITIAL_WINDOW_SIZE that overflows a stream": Abuse(
        _on_call(window_update(1, LARGEST_WINDOW - 65_535), settings({Setting.INITIAL_WINDOW_SIZE: 65_536})),
        Error.FLOW_CONTROL_ERROR,
    ),
    "MAX_FRAME_SIZE too small": Abuse(_one(settings({Setting.MAX_FRAME_SIZE: 16_383})), Error.PROTOCOL_ERROR),
    "MAX_FRAME_SIZE too large": Abuse(_one(settings({Setting.MAX_FRAME_SIZE: 2**24})), Error.PROTOCOL_ERROR),
    "PUSH_PROMISE": Abuse(_on_call(frame(Kind.PUSH_PROMISE, END_HEADERS, 1, bytes(4))), Error.PROTOCOL_ERROR),
    "PING on a stream": Abuse(_on_call(frame(Kind.PING, 0, 1, bytes(8))), Error.PROTOCOL_ERROR),
    "PING of 7 bytes": Abuse(_one(ping(bytes(7))), Error.FRAME_SIZE_ERROR),
    "GOAWAY on a stream": Abuse(_on_call(frame(Kind.GOAWAY, 0, 1, bytes(8))), Error.PROTOCOL_ERROR),
    "GOAWAY of 7 bytes": Abuse(_one(frame(Kind.GOAWAY, 0, 0, bytes(7))), Error.FRAME_SIZE_ERROR),
    "WINDOW_UPDATE of 3 bytes": Abuse(
        _one(frame(Kind.WINDOW_UPDATE, 0, 0, bytes(3))), Error.FRAME_SIZE_ERROR
    ),
    "WINDOW_UPDATE of nothing": Abuse(_one(window_update(0, 0)), Error.PROTOCOL_ERROR),
    "a window that overflows": Abuse(_one(window_update(0, LARGEST_WINDOW)), Error.FLOW_CONTROL_ERROR),
    # too much
    "a header list too large": Abuse(
        lambda path: _in_pieces(1, block(_huge_list(path)), 16_000), Error.ENHANCE_YOUR_CALM
    ),
    "a small block that is a large list": Abuse(
        lambda path: (headers(1, _bomb(path)),), Error.ENHANCE_YOUR_CALM, acknowledged=False
    ),
    "CONTINUATION without end": Abuse(
        lambda path: (
            headers(1, block(request(path)), whole=False),
            *itertools.repeat(continuation(1, b"", whole=False), FLOOD),
        ),
        Error.ENHANCE_YOUR_CALM,
    ),
    "a header block without end": Abuse(
        lambda path: (
            headers(1, block(request(path)), whole=False),
            *itertools.repeat(continuation(1, block([("x", "y" * 100)]), whole=False), FLOOD),
        ),
        Error.ENHANCE_YOUR_CALM,
    ),
    "streams opened to be reset": Abuse(
        lambda path: (part for n in _streams() for part in (call(n, path), reset(n))),
        Error.ENHANCE_YOUR_CALM,
    ),
    "streams that make us reset them": Abuse(
        lambda path: (part for n in _streams() for part in (call(n, path), window_update(n, 0))),
        Error.ENHANCE_YOUR_CALM,
    ),
    "requests that are none": Abuse(
        lambda path: (headers(n, block([("x", "y")])) for n in _streams()), Error.ENHANCE_YOUR_CALM
    ),
    **{
        f"a flood of {name}": Abuse(sent, Error.ENHANCE_YOUR_CALM)
        for name, sent in {
            "SETTINGS": _one(*[settings()] * FLOOD),
            "SETTINGS that change the window": _one(*[settings({Setting.INITIAL_WINDOW_SIZE: 5})] * FLOOD),
            "acknowledgements": _one(*[settings(ack=True)] * FLOOD),
            "settings in few frames": _on_call(*[_nested(2_000)] * 100),
            "PING": _one(*[ping()] * FLOOD),
            "answers to PING": _one(*[ping(ack=True)] * FLOOD),
            "PRIORITY": _one(*[priority(7)] * FLOOD),
            "GOAWAY": _one(*[frames.goaway()] * FLOOD),
            "unknown frames": _one(*[frame(0x42)] * FLOOD),
            "empty DATA": _on_call(*[data(1)] * FLOOD),
            "DATA of padding": _on_call(*[data(1, padding=3)] * FLOOD),
            "DATA on a stream that has ended": _after_call(*[data(1, b"x")] * FLOOD),
            "empty DATA on a stream that was reset": _on_call(window_update(1, 0), *[data(1)] * FLOOD),
            "RST_STREAM on a stream that has ended": _after_call(*[reset(1)] * FLOOD),
            "WINDOW_UPDATE on a stream that has ended": _after_call(*[window_update(1, 1)] * FLOOD),
        }.items()
    },
}
"""Ends the connection with GOAWAY and this code."""


def _opening(*pairs: tuple[str, str]) -> Bytes:
    return lambda path: (headers(1, block([*request(path), *pairs])),)


def _without(name: str) -> Bytes:
    return lambda path: (headers(1, block([pair for pair in request(path) if pair[0] != name])),)


STREAM: Mapping[str, Abuse] = {
    "DATA after the end": Abuse(_after_call(data(1, b"x")), Error.STREAM_CLOSED),
    "a stream that depends on itself": Abuse(_on_call(priority(1, depends_on=1)), Error.PROTOCOL_ERROR),
    "PRIORITY of 4 bytes": Abuse(_on_call(frame(Kind.PRIORITY, 0, 1, bytes(4))), Error.FRAME_SIZE_ERROR),
    "WINDOW_UPDATE of nothing": Abuse(_on_call(window_update(1, 0)), Error.PROTOCOL_ERROR),
    "a window that overflows": Abuse(_on_call(window_update(1, LARGEST_WINDOW)), Error.FLOW_CONTROL_ERROR),
    "trailers that do not end the stream": Abuse(
        _on_call(headers(1, block([("x", "y")]))), Error.PROTOCOL_ERROR
    ),
    "trailers with a pseudo-header": Abuse(
        _on_call(headers(1, block([(":path", "/")]), ended=True)), Error.PROTOCOL_ERROR
    ),
    "more DATA than announced": Abuse(
        lambda path: (call(1, path, ("content-length", "3")), data(1, message(b""), ended=True)),
        Error.PROTOCOL_ERROR,
    ),
    "less DATA than announced": Abuse(
        lambda path: (call(1, path, ("content-length", "7")), data(1, message(b""), ended=True)),
        Error.PROTOCOL_ERROR,
    ),
    "no :method": Abuse(_without(":method"), Error.PROTOCOL_ERROR),
    "no :scheme": Abuse(_without(":scheme"), Error.PROTOCOL_ERROR),
    "no :path": Abuse(_without(":path"), Error.PROTOCOL_ERROR),
    **{
        name: Abuse(_opening(pair), Error.PROTOCOL_ERROR)
        for name, pair in {
            "a pseudo-header after a header": (":authority", "again"),
            "a pseudo-header of responses": (":status", "200"),
            "an unknown pseudo-header": (":wonder", "1"),
            "an upper-case name": ("X-Loud", "1"),
            "an empty name": ("", "1"),
            "a name with a blank": ("x y", "1"),
            "a name with a colon": ("x:y", "1"),
            "a name beyond ASCII": ("x\xe9", "1"),
            "a line end in a value": ("x-two", "1\r\n2"),
            "a zero in a value": ("x-zero", "1\x002"),
            "a connection header": ("connection", "close"),
            "transfer-encoding": ("transfer-encoding", "chunked"),
            "te that is not trailers": ("te", "gzip"),
            "a content-length that is no number": ("content-length", "+7"),
            "two content-lengths": ("content-length", "1, 2"),
        }.items()
    },
    "a :path twice": Abuse(
        lambda path: (headers(1, block([(":path", path), *request(path)])),), Error.PROTOCOL_ERROR
    ),
}
"""Ends stream 1 with RST_STREAM and this code; the connection goes on."""
