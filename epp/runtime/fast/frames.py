"""HTTP/2 frames as bytes, and the fault that a peer can commit.

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

HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE = range(1, 6)
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


class Fault(Exception):
    """The peer broke the rules: of one stream, which is reset, or (0) of the connection, which is closed."""

    def __init__(self, code: ErrorCode, text: str, stream: int = 0) -> None:
        super().__init__(text)
        self.code, self.stream = code, stream


def require(condition: bool, code: ErrorCode, text: str, stream: int = 0) -> None:
    """Fault unless ``condition``."""
    if not condition:
        raise Fault(code, text, stream)


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


# --- from the peer: each of these raises Fault -------------------------------------------------------

_OF_A_STREAM = {PRIORITY, RST_STREAM, CONTINUATION}
_OF_THE_CONNECTION = {SETTINGS, PING, GOAWAY}
_SIZES = {RST_STREAM: range(4, 5), PING: range(8, 9), GOAWAY: range(8, LARGEST), WINDOW_UPDATE: range(4, 5)}
_VALUES = {
    ENABLE_PUSH: (range(2), ErrorCode.PROTOCOL_ERROR),
    INITIAL_WINDOW_SIZE: (range(LARGEST + 1), ErrorCode.FLOW_CONTROL_ERROR),
    MAX_FRAME_SIZE: (MAX_FRAME_SIZES, ErrorCode.PROTOCOL_ERROR),
}


def check(kind: int, stream: int, size: int) -> None:
    """Whether a frame of this kind may have this stream and size."""
    require(kind != PUSH_PROMISE, ErrorCode.PROTOCOL_ERROR, "PUSH_PROMISE from a client")
    wrong = _OF_THE_CONNECTION if stream else _OF_A_STREAM
    require(kind not in wrong, ErrorCode.PROTOCOL_ERROR, "a frame on a stream of the wrong kind")
    fits = kind not in _SIZES or size in _SIZES[kind]
    require(fits, ErrorCode.FRAME_SIZE_ERROR, "a frame of a wrong size")


def read_settings(payload: bytes) -> dict[int, int]:
    """SETTINGS by number; what we do not know is kept, and so of no effect."""
    require(len(payload) % SETTING.size == 0, ErrorCode.FRAME_SIZE_ERROR, "SETTINGS")
    values = list(SETTING.iter_unpack(payload))
    for name, value in values:
        allowed, code = _VALUES.get(name, (range(2**32), ErrorCode.NO_ERROR))
        require(value in allowed, code, f"setting {name} is {value}")
    return dict(values)


def unpadded(flags: int, data: bytes, at: int, end: int) -> tuple[int, int]:
    """Where the content of a frame's payload begins and ends."""
    if flags & PADDED:
        require(at < end, ErrorCode.FRAME_SIZE_ERROR, "no room for the pad length")
        at, end = at + 1, end - data[at]
        require(at <= end, ErrorCode.PROTOCOL_ERROR, "more padding than payload")
    return at, end


def depends_on(data: bytes, at: int) -> int:
    """The stream that a priority names."""
    return int.from_bytes(data[at : at + 4], "big") & LARGEST
