"""HTTP/2 frames as bytes, and the faults a peer can commit.

Place:   used by epp.runtime.fast.connection; knows no state.
Source:  RFC 9113, sections 4, 6 and 7.
"""

import enum
import struct
from collections.abc import Mapping

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEAD = struct.Struct(">HBBBL")
"""Length (16 and 8 bits), type, flags, stream."""
SETTING = struct.Struct(">HL")

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = (
    range(10)
)
END_STREAM = ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
PRIORITIZED = 0x20

HEADER_TABLE_SIZE = 1
ENABLE_PUSH = 2
MAX_CONCURRENT_STREAMS = 3
INITIAL_WINDOW_SIZE = 4
MAX_FRAME_SIZE = 5
MAX_HEADER_LIST_SIZE = 6

DEFAULT_WINDOW = 65_535
LARGEST = 2**31 - 1
"""Of windows, increments and stream numbers; the bit above is reserved."""
MAX_FRAME_SIZES = range(2**14, 2**24)


class ErrorCode(enum.IntEnum):
    """Why a stream or a connection ends (RFC 9113, 7)."""

    NO_ERROR = 0x0
    PROTOCOL_ERROR = 0x1
    FLOW_CONTROL_ERROR = 0x3
    STREAM_CLOSED = 0x5
    FRAME_SIZE_ERROR = 0x6
    REFUSED_STREAM = 0x7
    COMPRESSION_ERROR = 0x9
    ENHANCE_YOUR_CALM = 0xB


class ConnectionFault(Exception):
    """The peer broke the connection's rules: GOAWAY and close."""

    def __init__(self, code: ErrorCode, text: str) -> None:
        super().__init__(text)
        self.code = code


class StreamFault(Exception):
    """The peer broke one stream's rules: RST_STREAM."""

    def __init__(self, stream: int, code: ErrorCode) -> None:
        super().__init__(stream, code)
        self.stream = stream
        self.code = code


def require(condition: bool, code: ErrorCode, text: str) -> None:
    """ConnectionFault unless ``condition``."""
    if not condition:
        raise ConnectionFault(code, text)


# --- to the peer ---------------------------------------------------------------------------------


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One whole frame."""
    size = len(payload)
    return HEAD.pack(size >> 8, size & 0xFF, kind, flags, stream) + payload


def settings(values: Mapping[int, int]) -> bytes:
    """SETTINGS with these values, by number."""
    return frame(SETTINGS, 0, 0, b"".join(SETTING.pack(*item) for item in values.items()))


def numbers(kind: int, stream: int, *values: int) -> bytes:
    """A frame of 32-bit numbers: RST_STREAM, WINDOW_UPDATE, GOAWAY."""
    return frame(kind, 0, stream, b"".join(value.to_bytes(4, "big") for value in values))


# --- from the peer ---------------------------------------------------------------------------------

_ON_STREAM = {
    PRIORITY: True,
    RST_STREAM: True,
    SETTINGS: False,
    PING: False,
    GOAWAY: False,
    CONTINUATION: True,
}
_SIZE = {RST_STREAM: 4, PING: 8, WINDOW_UPDATE: 4}


def check(kind: int, stream: int, size: int) -> None:
    """Whether a frame of this kind may have this stream and size. Raises ConnectionFault."""
    require(kind != PUSH_PROMISE, ErrorCode.PROTOCOL_ERROR, "PUSH_PROMISE from a client")
    on_stream = _ON_STREAM.get(kind)
    require(on_stream is None or on_stream == bool(stream), ErrorCode.PROTOCOL_ERROR, f"stream {stream}")
    fits = size >= 8 if kind == GOAWAY else size == _SIZE.get(kind, size)
    require(fits, ErrorCode.FRAME_SIZE_ERROR, f"{size} bytes in a frame of type {kind}")


def check_setting(name: int, value: int) -> None:
    """Whether a setting may have this value. Raises ConnectionFault."""
    if name == INITIAL_WINDOW_SIZE:
        require(value <= LARGEST, ErrorCode.FLOW_CONTROL_ERROR, "INITIAL_WINDOW_SIZE")
    elif name == MAX_FRAME_SIZE:
        require(value in MAX_FRAME_SIZES, ErrorCode.PROTOCOL_ERROR, "MAX_FRAME_SIZE")
    elif name == ENABLE_PUSH:
        require(value <= 1, ErrorCode.PROTOCOL_ERROR, "ENABLE_PUSH")


def unpadded(flags: int, data: bytes, at: int, end: int) -> tuple[int, int]:
    """Where the content of a frame's payload begins and ends. Raises ConnectionFault."""
    if flags & PADDED:
        require(at < end, ErrorCode.FRAME_SIZE_ERROR, "no room for the pad length")
        at, end = at + 1, end - data[at]
        require(at <= end, ErrorCode.PROTOCOL_ERROR, "more padding than payload")
    return at, end


def depends_on(data: bytes, at: int) -> int:
    """The stream that a priority names."""
    return int.from_bytes(data[at : at + 4], "big") & LARGEST
