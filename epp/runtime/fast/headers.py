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
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote

import hpack

from epp.runtime.calls import Code
from epp.runtime.fast.frames import ErrorCode, Fault

MAX_LIST_BYTES = 64 * 1024
"""Of one header list, uncompressed, as we announce it."""
_REMEMBERED, _SHORT = 256, 1024
"""Blocks that are kept, and bytes of the longest: a quarter of a MB a connection at most."""
_PSEUDO = {":method", ":scheme", ":path", ":authority"}
_CONNECTION_SPECIFIC = {"connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"}
_TIMEOUT = re.compile(r"([0-9]{1,8})([HMSmun])")
_LENGTH = re.compile(r"[0-9]{1,18}")
_NAME = re.compile(r"[!-9;-@\[-~]+")  # what can be seen, no colon and no capital
_VALUE = re.compile(r"([^\0\r\n\t ]([^\0\r\n]*[^\0\r\n\t ])?)?")
_GRPC = re.compile(r"application/grpc([+;]|$)")
_UNQUOTED = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")
_UNITS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}


@dataclass(frozen=True, slots=True)
class Opening:
    """What a stream's first block asks for. Trailers ask for nothing."""

    path: str = ""
    is_grpc: bool = False
    names_encoding: bool = False
    """Messages may be compressed, it says."""
    content_length: int | None = None
    """Bytes of all DATA, where the peer says so."""
    timeout: float | None = None
    """Seconds until the stream ends with DEADLINE_EXCEEDED."""


TRAILERS = Opening()


class HeaderReader:
    """Reads the blocks of one connection."""

    def __init__(self) -> None:
        self._decoder = hpack.Decoder(MAX_LIST_BYTES)
        self._known: dict[bytes, Opening | None] = {}
        self._has_table = True

    def table_is_gone(self) -> None:
        """The peer has acknowledged our table size of 0.

        Its next block ought to say that it follows, but one that never uses the table may not know of it
        (NGINX's gRPC client), so that we do not insist.
        """
        self._decoder.max_allowed_table_size = self._decoder.header_table_size = 0
        self._has_table = False

    def read(self, block: bytes) -> Opening | None:
        """What a block says; None: it breaks the rules of HTTP. Raises Fault when the table is lost."""
        if block in self._known:
            return self._known[block]
        opening = _opening(self._decode(block))
        if not self._has_table and len(block) <= _SHORT:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            self._known[block] = opening
        return opening

    def _decode(self, block: bytes) -> list[tuple[str, str]]:
        try:
            pairs = self._decoder.decode(block, raw=True)
        except hpack.OversizedHeaderListError as fault:
            raise Fault(ErrorCode.ENHANCE_YOUR_CALM, "header list too large") from fault
        except hpack.HPACKError as fault:
            raise Fault(ErrorCode.COMPRESSION_ERROR, "header block") from fault
        return [(bytes(pair[0]).decode("latin-1"), bytes(pair[1]).decode("latin-1")) for pair in pairs]


def _opening(pairs: Sequence[tuple[str, str]]) -> Opening | None:
    """What a gRPC server wants to know of a request; None where the list breaks the rules of HTTP."""
    try:
        fields = _checked(pairs)
        if not any(name in _PSEUDO for name in fields):
            return TRAILERS
        if not all(map(fields.get, (":method", ":scheme", ":path"))):
            return None
        length, timeout = fields.get("content-length"), fields.get("grpc-timeout")
        return Opening(
            path=fields[":path"],
            is_grpc=fields[":method"] == "POST" and _GRPC.match(fields.get("content-type", "")) is not None,
            names_encoding=fields.get("grpc-encoding", "identity") != "identity",
            content_length=None if length is None else int(_match(_LENGTH, length)[0]),
            timeout=None if timeout is None else _seconds(_match(_TIMEOUT, timeout)),
        )
    except ValueError:
        return None


def _checked(pairs: Sequence[tuple[str, str]]) -> dict[str, str]:
    """By name. Raises ValueError."""
    fields: dict[str, str] = {}
    regular = False
    for name, value in pairs:
        if name.startswith(":"):
            good = name in _PSEUDO and name not in fields and not regular
        else:
            regular = True
            good = name not in _CONNECTION_SPECIFIC and (name != "te" or value == "trailers")
            _match(_NAME, name)
        _match(_VALUE, value)
        if not good or (name == "content-length" and fields.get(name, value) != value):
            raise ValueError(name)
        fields[name] = value
    return fields


def _match(pattern: re.Pattern[str], text: str) -> re.Match[str]:
    match = pattern.fullmatch(text)
    if match is None:
        raise ValueError(text)
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
    text = quote(message.encode("utf-8", "replace")[:1024], safe=_UNQUOTED)
    return block([(b"grpc-status", b"%d" % code), (b"grpc-message", text.encode())])
