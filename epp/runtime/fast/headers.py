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

import hpack

from epp.runtime.calls import Code
from epp.runtime.fast.frames import ConnectionFault, ErrorCode

MAX_LIST_BYTES = 64 * 1024
"""Of one header list, uncompressed, as we announce it."""
_REMEMBERED = 1024
_REQUEST_PSEUDO = {":method", ":scheme", ":path", ":authority"}
_CONNECTION_SPECIFIC = {"connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"}
_TIMEOUT = re.compile(r"([0-9]{1,8})([HMSmun])")
_LENGTH = re.compile(r"[0-9]{1,18}")
_UNITS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}


class Malformed(Exception):
    """A request that breaks the rules of HTTP: its stream is reset."""


@dataclass(frozen=True, slots=True)
class Opening:
    """What a stream's first block asks for."""

    path: str
    is_grpc: bool
    content_length: int | None = None
    """Bytes of all DATA, where the peer says so."""
    timeout: float | None = None
    """Seconds until the stream ends with DEADLINE_EXCEEDED."""


class HeaderReader:
    """Reads the blocks of one connection."""

    def __init__(self) -> None:
        self._decoder = hpack.Decoder(MAX_LIST_BYTES)
        self._known: dict[bytes, Opening] = {}

    def table_is_gone(self) -> None:
        """The peer has acknowledged our table size of 0.

        Its next block ought to say that it follows, but one that never uses the table may not know of it
        (NGINX's gRPC client), so that we do not insist.
        """
        self._decoder.max_allowed_table_size = self._decoder.header_table_size = 0

    def opening(self, block: bytes) -> Opening:
        """A request. Raises Malformed, or ConnectionFault when the table may be out of step."""
        known = self._known.get(block)
        if known is None:
            known = _opening(self._decode(block))
            if self._decoder.header_table_size == 0 and len(block) < 4096:
                if len(self._known) >= _REMEMBERED:
                    self._known.clear()
                self._known[block] = known
        return known

    def trailers(self, block: bytes) -> None:
        """What follows a request's messages; nothing in it matters. Raises as ``opening``."""
        for name, _ in self._decode(block):
            if name.startswith(":"):
                raise Malformed(f"{name} in trailers")
            _check_name(name)

    def _decode(self, block: bytes) -> list[tuple[str, str]]:
        try:
            pairs = self._decoder.decode(block, raw=True)
        except hpack.OversizedHeaderListError as fault:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "header list too large") from fault
        except hpack.HPACKError as fault:
            raise ConnectionFault(ErrorCode.COMPRESSION_ERROR, "header block") from fault
        return [(bytes(pair[0]).decode("latin-1"), bytes(pair[1]).decode("latin-1")) for pair in pairs]


def _opening(pairs: Sequence[tuple[str, str]]) -> Opening:
    """Check a request's header list and take from it what a gRPC server wants to know."""
    fields: dict[str, str] = {}
    regular = False
    for name, value in pairs:
        if name.startswith(":"):
            if regular or name in fields or name not in _REQUEST_PSEUDO:
                raise Malformed(f"{name} where it may not be")
        else:
            regular = True
            _check_name(name)
        fields[name] = value
    if (
        not all(map(fields.get, (":method", ":scheme", ":path")))
        or fields.get("te", "trailers") != "trailers"
    ):
        raise Malformed("a request needs :method, :scheme and :path, and te may only say trailers")
    length, timeout = fields.get("content-length"), fields.get("grpc-timeout")
    return Opening(
        path=fields[":path"],
        is_grpc=fields[":method"] == "POST" and _is_grpc(fields.get("content-type", "")),
        content_length=None if length is None else int(_match(_LENGTH, length)[0]),
        timeout=None if timeout is None else _seconds(_match(_TIMEOUT, timeout)),
    )


def _match(pattern: re.Pattern[str], value: str) -> re.Match[str]:
    match = pattern.fullmatch(value)
    if match is None:
        raise Malformed(f"{value!r} cannot be read")
    return match


def _seconds(timeout: re.Match[str]) -> float:
    return int(timeout[1]) * _UNITS[timeout[2]]


def _is_grpc(content_type: str) -> bool:
    return content_type == "application/grpc" or content_type.startswith(
        ("application/grpc+", "application/grpc;")
    )


def _check_name(name: str) -> None:
    if not name or name != name.lower() or name in _CONNECTION_SPECIFIC:
        raise Malformed(f"{name!r} may not be a header's name here")


# --- what we send ------------------------------------------------------------------------------


def block(pairs: Sequence[tuple[bytes, bytes]]) -> bytes:
    """A header block that touches no table, so that it is always the same bytes."""
    return hpack.Encoder().encode([hpack.NeverIndexedHeaderTuple(*pair) for pair in pairs], huffman=False)


RESPONSE = block(
    [(b":status", b"200"), (b"content-type", b"application/grpc"), (b"grpc-accept-encoding", b"identity")]
)
NOT_GRPC = block([(b":status", b"415"), (b"content-type", b"text/plain; charset=utf-8")])
OK = block([(b"grpc-status", b"0")])


def failure(code: Code, message: str) -> bytes:
    """Trailers of a call that failed; ``message`` percent-encoded as gRPC wants it."""
    text = message.encode("utf-8", "replace")[:1024]
    return block([(b"grpc-status", b"%d" % code), (b"grpc-message", b"".join(map(_percent, text)))])


def _percent(byte: int) -> bytes:
    return b"%c" % byte if 0x20 <= byte <= 0x7E and byte != 0x25 else b"%%%02X" % byte
