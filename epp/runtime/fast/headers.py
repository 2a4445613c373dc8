"""Header blocks: what a request's says, and those we send.

Place:   used by epp.runtime.fast.connection.
Ignores: frames.
Rule:    one HeaderReader per connection, given every block in order, since blocks share a table. Once
         the peer has taken over our table size of 0, a block means the same each time: a gateway's
         stream opens with the same bytes thousands of times, and a look-up takes the place of decoding
         (0.1 against 45 us).
Source:  RFC 7541; RFC 9113, section 8; gRPC over HTTP/2 (PROTOCOL-HTTP2.md).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import hpack

from epp.runtime.calls import Code
from epp.runtime.fast.frames import ConnectionFault, ErrorCode

MAX_LIST_BYTES = 64 * 1024
"""Of one header list, uncompressed, as we announce it."""
_REMEMBERED, _SHORT = 256, 1024
"""Blocks that are kept, and bytes of the longest: a quarter of a MB a connection at most."""
_REQUEST_PSEUDO = {":method", ":scheme", ":path", ":authority"}
_CONNECTION_SPECIFIC = {"connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"}
_TIMEOUT = re.compile(r"([0-9]{1,8})([HMSmun])")
_LENGTH = re.compile(r"[0-9]{1,18}")
_NAME = re.compile(r"[!-9;-@\[-~]+")  # what can be seen, no colon and no capital
_VALUE = re.compile(r"([^\0\r\n\t ]([^\0\r\n]*[^\0\r\n\t ])?)?")
_GRPC = re.compile(r"application/grpc([+;]|$)")
_UNITS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}


class _Malformed(Exception):
    """A header list that breaks the rules of HTTP."""


@dataclass(frozen=True, slots=True)
class Opening:
    """What a stream's first block asks for."""

    path: str
    is_grpc: bool
    names_encoding: bool = False
    """Messages may be compressed, it says."""
    content_length: int | None = None
    """Bytes of all DATA, where the peer says so."""
    timeout: float | None = None
    """Seconds until the stream ends with DEADLINE_EXCEEDED."""


@dataclass(frozen=True, slots=True)
class Block:
    """What a block can stand for; neither: it breaks the rules of HTTP."""

    opening: Opening | None
    are_trailers: bool


class HeaderReader:
    """Reads the blocks of one connection."""

    def __init__(self) -> None:
        self._decoder = hpack.Decoder(MAX_LIST_BYTES)
        self._known: dict[bytes, Block] = {}
        self._has_table = True

    def table_is_gone(self) -> None:
        """The peer has acknowledged our table size of 0.

        Its next block ought to say that it follows, but one that never uses the table may not know of it
        (NGINX's gRPC client), so that we do not insist.
        """
        self._decoder.max_allowed_table_size = self._decoder.header_table_size = 0
        self._has_table = False

    def read(self, block: bytes) -> Block:
        """What a block says. Raises ConnectionFault when the table may be out of step."""
        known = self._known.get(block)
        if known is None:
            known = _block(self._decode(block))
            if not self._has_table and len(block) <= _SHORT:
                if len(self._known) >= _REMEMBERED:
                    self._known.clear()
                self._known[block] = known
        return known

    def _decode(self, block: bytes) -> list[tuple[str, str]]:
        try:
            pairs = self._decoder.decode(block, raw=True)
        except hpack.OversizedHeaderListError as fault:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "header list too large") from fault
        except hpack.HPACKError as fault:
            raise ConnectionFault(ErrorCode.COMPRESSION_ERROR, "header block") from fault
        return [(bytes(pair[0]).decode("latin-1"), bytes(pair[1]).decode("latin-1")) for pair in pairs]


def _block(pairs: Sequence[tuple[str, str]]) -> Block:
    try:
        fields = _checked(pairs)
        if not any(name.startswith(":") for name in fields):
            return Block(None, are_trailers=True)
        return Block(_opening(fields), are_trailers=False)
    except _Malformed:
        return Block(None, are_trailers=False)


def _checked(pairs: Sequence[tuple[str, str]]) -> dict[str, str]:
    fields: dict[str, str] = {}
    regular = False
    for name, value in pairs:
        if name.startswith(":"):
            if regular or name in fields or name not in _REQUEST_PSEUDO:
                raise _Malformed
        else:
            regular = True
            if name in _CONNECTION_SPECIFIC or (name == "te" and value != "trailers"):
                raise _Malformed
            _match(_NAME, name)
        _match(_VALUE, value)
        if name == "content-length" and fields.get(name, value) != value:
            raise _Malformed
        fields[name] = value
    return fields


def _opening(fields: Mapping[str, str]) -> Opening:
    """What a gRPC server wants to know of a request."""
    if not all(map(fields.get, (":method", ":scheme", ":path"))):
        raise _Malformed
    length, timeout = fields.get("content-length"), fields.get("grpc-timeout")
    return Opening(
        path=fields[":path"],
        is_grpc=fields[":method"] == "POST" and _GRPC.match(fields.get("content-type", "")) is not None,
        names_encoding=fields.get("grpc-encoding", "identity") != "identity",
        content_length=None if length is None else int(_match(_LENGTH, length)[0]),
        timeout=None if timeout is None else _seconds(_match(_TIMEOUT, timeout)),
    )


def _match(pattern: re.Pattern[str], text: str) -> re.Match[str]:
    match = pattern.fullmatch(text)
    if match is None:
        raise _Malformed
    return match


def _seconds(timeout: re.Match[str]) -> float:
    return int(timeout[1]) * _UNITS[timeout[2]]


# --- what we send ------------------------------------------------------------------------------


def block(pairs: Sequence[tuple[bytes, bytes]]) -> bytes:
    """A header block that touches no table, so that it is always the same bytes."""
    return hpack.Encoder().encode([hpack.NeverIndexedHeaderTuple(*pair) for pair in pairs], huffman=False)


_NO_TABLE = b"\x20"
"""We keep no table, whatever the peer allows: said in the first block of each stream, and so in the first of
all, as RFC 7541, 4.2 wants it of a peer that allows less than the usual."""
RESPONSE = _NO_TABLE + block(
    [(b":status", b"200"), (b"content-type", b"application/grpc"), (b"grpc-accept-encoding", b"identity")]
)
NOT_GRPC = _NO_TABLE + block([(b":status", b"415"), (b"content-type", b"text/plain; charset=utf-8")])
OK = block([(b"grpc-status", b"0")])


def failure(code: Code, message: str) -> bytes:
    """Trailers of a call that failed; ``message`` percent-encoded as gRPC wants it."""
    text = message.encode("utf-8", "replace")[:1024]
    return block([(b"grpc-status", b"%d" % code), (b"grpc-message", b"".join(map(_percent, text)))])


def _percent(byte: int) -> bytes:
    return b"%c" % byte if 0x20 <= byte <= 0x7E and byte != 0x25 else b"%%%02X" % byte
