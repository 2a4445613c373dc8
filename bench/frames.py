"""HTTP/2 and gRPC as a client writes and reads them, right or wrong: bytes, no rules.

Place:   the pen of whatever plays a peer of our server: bench.soak, bench.fuzz, tests.
Ignores: sockets, windows, what may follow what. It has nothing of epp.runtime.fast, which it is to prove.
Source:  RFC 9113, sections 4 and 6; RFC 7541; gRPC over HTTP/2 (PROTOCOL-HTTP2.md).
"""

import enum
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import hpack

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DEFAULT_WINDOW = 65_535
LARGEST_WINDOW = 2**31 - 1
SMALLEST_MAX_FRAME = 16_384

END_STREAM = ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
PRIORITIZED = 0x20


class Kind(enum.IntEnum):
    """Frame types."""

    DATA = 0
    HEADERS = 1
    PRIORITY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PUSH_PROMISE = 5
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9


class Setting(enum.IntEnum):
    """What SETTINGS may set."""

    HEADER_TABLE_SIZE = 1
    ENABLE_PUSH = 2
    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5
    MAX_HEADER_LIST_SIZE = 6


class Error(enum.IntEnum):
    """Why a stream or a connection ends."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11
    INADEQUATE_SECURITY = 12
    HTTP_1_1_REQUIRED = 13


# --- frames as we send them --------------------------------------------------------------------------


def frame(
    kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"", *, length: int | None = None
) -> bytes:
    """Any frame at all; ``length`` where the head is to lie about the payload."""
    size = len(payload) if length is None else length
    return size.to_bytes(3, "big") + struct.pack(">BBL", kind, flags, stream) + payload


def settings(values: Mapping[int, int] | None = None, *, ack: bool = False) -> bytes:
    pairs = b"".join(struct.pack(">HL", name, value) for name, value in (values or {}).items())
    return frame(Kind.SETTINGS, ACK if ack else 0, 0, pairs)


def headers(
    stream: int,
    block: bytes,
    *,
    ended: bool = False,
    whole: bool = True,
    padding: int | None = None,
    priority: bytes = b"",
) -> bytes:
    """HEADERS; ``whole`` False: CONTINUATION follows. ``priority``: its five bytes."""
    flags = (END_STREAM if ended else 0) | (END_HEADERS if whole else 0) | (PRIORITIZED if priority else 0)
    return frame(Kind.HEADERS, *_padded(flags, stream, priority + block, padding))


def continuation(stream: int, block: bytes, *, whole: bool = True) -> bytes:
    return frame(Kind.CONTINUATION, END_HEADERS if whole else 0, stream, block)


def data(stream: int, content: bytes = b"", *, ended: bool = False, padding: int | None = None) -> bytes:
    return frame(Kind.DATA, *_padded(END_STREAM if ended else 0, stream, content, padding))


def _padded(flags: int, stream: int, content: bytes, padding: int | None) -> tuple[int, int, bytes]:
    if padding is None:
        return flags, stream, content
    return flags | PADDED, stream, bytes([padding]) + content + bytes(padding)


def priority(stream: int, depends_on: int = 0, weight: int = 15) -> bytes:
    return frame(Kind.PRIORITY, 0, stream, priority_bytes(depends_on, weight))


def priority_bytes(depends_on: int = 0, weight: int = 15) -> bytes:
    return struct.pack(">LB", depends_on, weight)


def reset(stream: int, code: int = Error.CANCEL) -> bytes:
    return frame(Kind.RST_STREAM, 0, stream, struct.pack(">L", code))


def ping(payload: bytes = b"12345678", *, ack: bool = False) -> bytes:
    return frame(Kind.PING, ACK if ack else 0, 0, payload)


def goaway(last_stream: int = 0, code: int = Error.NO_ERROR, text: bytes = b"") -> bytes:
    return frame(Kind.GOAWAY, 0, 0, struct.pack(">LL", last_stream, code) + text)


def window_update(stream: int, increment: int) -> bytes:
    return frame(Kind.WINDOW_UPDATE, 0, stream, struct.pack(">L", increment))


# --- header blocks -----------------------------------------------------------------------------------

Pairs = Sequence[tuple[str, str]]


def block(pairs: Iterable[tuple[str, str]]) -> bytes:
    """Literals that touch no table, so that any text at all can be said, and said twice."""
    return b"".join(b"\x00" + _text(name) + _text(value) for name, value in pairs)


def _text(text: str) -> bytes:
    coded = text.encode("latin-1")
    return integer(len(coded), 7) + coded


def integer(value: int, prefix: int, first: int = 0) -> bytes:
    """RFC 7541, 5.1; ``first``: the bits in front of the prefix."""
    most = (1 << prefix) - 1
    if value < most:
        return bytes([first | value])
    out, value = [first | most], value - most
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def table_size(size: int) -> bytes:
    """A dynamic table size update, which may open a block."""
    return integer(size, 5, 0x20)


PROCESS = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"


def request(
    path: str = PROCESS, *more: tuple[str, str], method: str = "POST", kind: str | None = "application/grpc"
) -> Pairs:
    """The header list that opens a gRPC call; ``kind`` None: no content-type."""
    pairs = [(":method", method), (":scheme", "http"), (":path", path), (":authority", "picker")]
    return [*pairs, ("te", "trailers"), *([] if kind is None else [("content-type", kind)]), *more]


def call(stream: int, path: str = PROCESS, *more: tuple[str, str], ended: bool = False) -> bytes:
    """The HEADERS of one gRPC call."""
    return headers(stream, block(request(path, *more)), ended=ended)


def message(content: bytes, *, compressed: bool = False, length: int | None = None) -> bytes:
    """One gRPC message with its prefix; ``length`` where that is to lie."""
    return struct.pack(">BL", compressed, len(content) if length is None else length) + content


# --- frames as we receive them -----------------------------------------------------------------------


class Frame(NamedTuple):
    """One frame."""

    kind: int
    flags: int
    stream: int
    payload: bytes

    @property
    def ended(self) -> bool:
        return self.kind in (Kind.DATA, Kind.HEADERS) and bool(self.flags & END_STREAM)

    @property
    def code(self) -> Error:
        """Of RST_STREAM and GOAWAY."""
        at = 0 if self.kind == Kind.RST_STREAM else 4
        return Error(int.from_bytes(self.payload[at : at + 4], "big"))

    def __bytes__(self) -> bytes:
        return frame(*self)


class FrameReader:
    """Cuts bytes into frames."""

    def __init__(self) -> None:
        self.rest = b""
        """The beginning of a frame whose end has not come."""

    def feed(self, some: bytes) -> list[Frame]:
        """The frames that ``some`` completes."""
        held, at, found = self.rest + some, 0, []
        while len(held) - at >= 9:
            end = at + 9 + int.from_bytes(held[at : at + 3], "big")
            if end > len(held):
                break
            kind, flags, stream = struct.unpack_from(">BBL", held, at + 3)
            found.append(Frame(kind, flags, stream & LARGEST_WINDOW, held[at + 9 : end]))
            at = end
        self.rest = held[at:]
        return found


@dataclass(slots=True)
class Reply:
    """What a server said on one stream."""

    headers: dict[str, str] = field(default_factory=dict)
    """Of both its header blocks."""
    body: bytes = b""
    ended: bool = False
    reset: Error | None = None

    @property
    def status(self) -> int | None:
        """gRPC's; None as long as it has not come."""
        text = self.headers.get("grpc-status")
        return None if text is None else int(text)

    @property
    def is_over(self) -> bool:
        return self.ended or self.reset is not None

    @property
    def messages(self) -> list[bytes]:
        """The whole gRPC messages in the body."""
        found, at = [], 0
        while len(self.body) - at >= 5:
            size = int.from_bytes(self.body[at + 1 : at + 5], "big")
            if at + 5 + size > len(self.body):
                break
            found.append(self.body[at + 5 : at + 5 + size])
            at += 5 + size
        return found


class Replies:
    """Collects what a server says, by stream; raises when its frames make no sense."""

    def __init__(self) -> None:
        self.frames: list[Frame] = []
        self.goaways: list[Frame] = []
        self._streams: dict[int, Reply] = {}
        self._reader = FrameReader()
        self._decoder = hpack.Decoder()

    def __getitem__(self, stream: int) -> Reply:
        return self._streams.setdefault(stream, Reply())

    def feed(self, some: bytes) -> list[Frame]:
        """Take over what came; the frames it completed."""
        new = self._reader.feed(some)
        for one in new:
            self._take(one)
        self.frames += new
        return new

    def _take(self, one: Frame) -> None:
        reply = self[one.stream]
        match one.kind:
            case Kind.HEADERS:
                assert one.flags & END_HEADERS and not one.flags & (PADDED | PRIORITIZED), one
                assert not reply.is_over, one
                for pair in self._decoder.decode(one.payload, raw=True):
                    name, value = (bytes(text).decode() for text in pair)
                    assert name not in reply.headers, (name, one)
                    reply.headers[name] = value
            case Kind.DATA:
                assert reply.headers and not reply.is_over and not one.flags & PADDED, one
                reply.body += one.payload
            case Kind.RST_STREAM:
                reply.reset = one.code
            case Kind.GOAWAY:
                self.goaways.append(one)
            case _:
                pass
        reply.ended = reply.ended or one.ended
