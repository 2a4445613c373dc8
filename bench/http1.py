"""An incremental reader of HTTP/1.1 messages, without I/O.

Place:   inside the load generator's client and the bench's engine; both must cost next to nothing.
Ignores: sockets, time, what a message means.
Rule:    however the bytes are cut, the sink sees the same heads, the same body bytes and the same ends.
Source:  RFC 9112, sections 2 to 7
"""

import enum
from typing import Protocol

HEAD_LIMIT = 65_536
LINE_LIMIT = 4_096
_VERSION = b"HTTP/1."


class ProtocolError(Exception):
    """The peer did not speak HTTP/1.1."""


class Sink(Protocol):
    """What a reader tells its owner, in this order: one head, body pieces, one end."""

    def on_head(self, head: bytes) -> None: ...
    def on_body(self, data: bytes) -> None: ...
    def on_end(self) -> None: ...


class _State(enum.Enum):
    HEAD = "head"
    BODY = "body of known length"
    CHUNK_SIZE = "chunk size"
    CHUNK_DATA = "chunk"
    CHUNK_END = "end of a chunk"
    TRAILERS = "trailers"
    UNTIL_CLOSE = "body until the connection closes"


class Reader:
    """Reads requests (``responses=False``) or responses, one after the other, from one connection."""

    __slots__ = ("_left", "_pending", "_responses", "_sink", "_state", "_trailer_bytes")

    def __init__(self, sink: Sink, *, responses: bool) -> None:
        self._sink = sink
        self._responses = responses
        self._state = _State.HEAD
        self._pending = b""  # bytes of an incomplete line or head
        self._left = 0  # body bytes still to come
        self._trailer_bytes = 0

    @property
    def between_messages(self) -> bool:
        """Nothing of a next message has arrived."""
        return self._state is _State.HEAD and not self._pending

    def feed(self, data: bytes) -> None:
        """Take over what arrived; raises ProtocolError."""
        if self._pending:
            data, self._pending = self._pending + data, b""
        position = 0
        while position < len(data):
            state = self._state
            if state is _State.HEAD:
                position = self._head(data, position)
            elif state is _State.BODY or state is _State.CHUNK_DATA:
                position = self._counted(data, position)
            elif state is _State.UNTIL_CLOSE:
                self._sink.on_body(data[position:])
                return
            else:
                position = self._line(data, position)

    def eof(self) -> bool:
        """The peer closed. True when no message was cut off by that."""
        if self._state is _State.UNTIL_CLOSE:
            self._end()
            return True
        return self.between_messages

    def _head(self, data: bytes, position: int) -> int:
        if self._responses and not _VERSION.startswith(data[position : position + len(_VERSION)]):
            raise ProtocolError(f"not an HTTP/1.1 answer: {data[position : position + 40]!r}")
        end = data.find(b"\r\n\r\n", position)
        self._check(data, position, end, HEAD_LIMIT)
        if end < 0:
            return self._wait(data, position)
        head = data[position:end]
        self._framing(head)
        return end + 4

    def _framing(self, head: bytes) -> None:
        """Decide from the head how the body ends (RFC 9112, section 6.3)."""
        status = status_of(head) if self._responses else 0
        if 100 <= status < 200:
            return  # an interim answer: the real one follows
        self._sink.on_head(head)
        coding = header(head, b"transfer-encoding")
        length = header(head, b"content-length")
        if status in (204, 304):
            self._end()
        elif coding is not None and coding.lower().endswith(b"chunked"):
            self._state = _State.CHUNK_SIZE
        elif length is not None:
            self._left = _number(length, 10)
            if self._left:
                self._state = _State.BODY
            else:
                self._end()
        elif self._responses:
            self._state = _State.UNTIL_CLOSE
        else:
            self._end()

    def _counted(self, data: bytes, position: int) -> int:
        left = self._left
        piece = data[position : position + left]
        left -= len(piece)
        self._left = left
        self._sink.on_body(piece)
        if not left:
            if self._state is _State.BODY:
                self._end()
            else:
                self._state = _State.CHUNK_END
        return position + len(piece)

    def _line(self, data: bytes, position: int) -> int:
        end = data.find(b"\r\n", position)
        self._check(data, position, end, LINE_LIMIT)
        if end < 0:
            return self._wait(data, position)
        line = data[position:end]
        if self._state is _State.CHUNK_SIZE:
            self._left = _number(line.partition(b";")[0], 16)
            self._state = _State.CHUNK_DATA if self._left else _State.TRAILERS
        elif self._state is _State.CHUNK_END:
            if line:
                raise ProtocolError(f"chunk longer than announced: {line[:40]!r}")
            self._state = _State.CHUNK_SIZE
        elif line:
            self._trailer_bytes += len(line)
            if self._trailer_bytes > HEAD_LIMIT:
                raise ProtocolError(f"trailers of more than {HEAD_LIMIT} bytes")
        else:
            self._end()
        return end + 2

    def _check(self, data: bytes, position: int, end: int, limit: int) -> None:
        # One byte of a terminator may be there already without being recognised as such.
        if (len(data) if end < 0 else end) - position > limit + (4 if end < 0 else 0):
            raise ProtocolError(f"{self._state.value} of more than {limit} bytes")

    def _wait(self, data: bytes, position: int) -> int:
        self._pending = data[position:]
        return len(data)

    def _end(self) -> None:
        self._state = _State.HEAD
        self._trailer_bytes = 0
        self._sink.on_end()


def status_of(head: bytes) -> int:
    """The status code in a response's head."""
    digits = head[9:12]
    if not digits.isdigit() or head[8:9] != b" ":
        raise ProtocolError(f"no status code: {head[:40]!r}")
    return int(digits)


def header(head: bytes, name: bytes) -> bytes | None:
    """A header's value; ``name`` in lower case. The first where there are several."""
    start = head.lower().find(b"\r\n" + name + b":")
    if start < 0:
        return None
    start += len(name) + 3
    end = head.find(b"\r\n", start)
    return (head[start:] if end < 0 else head[start:end]).strip()


def _number(text: bytes, base: int) -> int:
    stripped = text.strip()
    digits = b"0123456789abcdefABCDEF" if base == 16 else b"0123456789"
    if not stripped or len(stripped) > 16 or stripped.strip(digits):
        raise ProtocolError(f"not a length: {text[:40]!r}")
    return int(stripped, base)
