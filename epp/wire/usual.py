"""Messages from the gateway to events: their usual forms, without a protobuf message for each.

Place:   what the driver calls for every message; what is not usual is left to epp.wire.ext_proc.
Rule:    the event that epp.wire.ext_proc would read, or none: every byte is accounted for, and any other
         field, order or length is not usual.
Source:  the protobuf encoding; the forms are those that Envoy writes.

A piece of a body of 200 bytes takes 0.7 us here and 1.0 us there; eleven headers, of which most came like
this many times before, 3.2 and 8.0 us.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Final

from google.protobuf.message import DecodeError

from epp.core.events import Event, RequestBody, RequestHeaders, ResponseBody, ResponseHeaders
from epp.wire import ext_proc
from epp.wire.ext_proc import WireError
from epp.wire.pb import ext_proc_pb2 as pb

_FIELD_1: Final = 0x0A  # of bytes, a text or a message
_ENDED = b"\x10\x01"
"""``HttpBody.end_of_stream``."""
_NO_METADATA = b"B\x00"
"""An empty ``metadata_context``, which Envoy puts into every message."""
_REMEMBERED_BYTES = 256
"""The most of what is remembered; a longer header is hardly ever the same again."""
_REMEMBERED_HEADERS = 4096


def event(data: bytes) -> Event | None:
    """The event of one ProcessingRequest; None for a message kind that we do not know. Raises WireError."""
    read = _READERS.get(data[:1])
    found = read(data) if read is not None else None
    return found if found is not None else ext_proc.event(data)


# --- bodies ------------------------------------------------------------------------------------


def _response_body(data: bytes) -> Event | None:
    found = _body(data)
    if found is None:
        return None
    piece, is_last, rest = found
    return ResponseBody(piece, is_last) if rest == _NO_METADATA or _adds_nothing(rest) else None


def _request_body(data: bytes) -> Event | None:
    found = _body(data)
    if found is None:
        return None
    piece, is_last, rest = found
    if rest == _NO_METADATA:
        return RequestBody(piece, is_last)
    return RequestBody(piece, is_last, _subset_in(rest)) if _adds_nothing(rest) else None


def _body(data: bytes) -> tuple[bytes, bool, bytes] | None:
    """The piece of the body, whether it is the last, and what follows the body's field."""
    try:
        size, at = data[1], 2
        if size > 0x7F:
            size, at = _length(data, 1)
        end = at + size
        if size and data[at] == _FIELD_1:
            size, at = data[at + 1], at + 2
            if size > 0x7F:
                size, at = _length(data, at - 1)
            stop = at + size
        else:
            stop = at
    except IndexError:
        return None
    if stop == end:
        is_last = False
    elif data[stop:end] == _ENDED:
        is_last = True
    else:
        return None
    return (data[at:stop], is_last, data[end:]) if end <= len(data) else None


def _length(data: bytes, at: int) -> tuple[int, int]:
    """A length of more than one byte, and where what it counts begins."""
    low, high = data[at], data[at + 1]
    if high < 0x80:
        return low & 0x7F | high << 7, at + 2
    third, fourth = data[at + 2], data[at + 3]
    size = low & 0x7F | (high & 0x7F) << 7 | (third & 0x7F) << 14
    if third < 0x80:
        return size, at + 3
    if fourth < 0x80:
        return size | fourth << 21, at + 4
    raise IndexError  # of 256 MB or more


def _adds_nothing(rest: bytes) -> bool:
    """Whether these fields hold no second request or response, only what is said about one."""
    return len(rest) <= _REMEMBERED_BYTES and _is_said_about_one(rest)


@lru_cache(maxsize=1024)
def _is_said_about_one(rest: bytes) -> bool:
    try:
        return ext_proc.event(rest) is None
    except WireError:
        return False


@lru_cache(maxsize=1024)
def _subset_in(rest: bytes) -> tuple[str, ...] | None:
    return ext_proc.subset(pb.ProcessingRequest.FromString(rest))


# --- headers -----------------------------------------------------------------------------------


def _headers(data: bytes) -> Event | None:
    try:
        size, at = data[1], 2
        if size > 0x7F:
            size, at = _length(data, 1)
        end = at + size
        if data[at] != _FIELD_1:
            return None
        size, at = data[at + 1], at + 2
        if size > 0x7F:
            size, at = _length(data, at - 1)
        stop = at + size
        read: dict[str, str] = {}
        count = 0
        while at < stop:
            size, begin = data[at + 1], at + 2
            if size > 0x7F:
                size, begin = _length(data, at + 1)
            after = begin + size
            name, value = _known_headers.get(data[at:after]) or _header(data[at:after])
            read[name] = value
            count += 1
            at = after
    except (IndexError, DecodeError):
        return None
    if at != stop or stop > end or end > len(data) or count != len(read):
        return None
    inner, outer = data[stop:end], data[end:]
    if len(inner) > 0x7F or not _adds_nothing(outer):
        return None
    return _with_headers(read, _without_headers(data[:1], inner, outer))


_known_headers: dict[bytes, tuple[str, str]] = {}


def _header(field: bytes) -> tuple[str, str]:
    """One field of a HeaderMap, read and remembered; DecodeError if it is none."""
    found = pb.HeaderMap.FromString(field).headers
    if len(found) != 1:
        raise DecodeError
    header = ext_proc.header(found[0])
    if len(field) <= _REMEMBERED_BYTES:
        if len(_known_headers) >= _REMEMBERED_HEADERS:
            _known_headers.clear()
        _known_headers[field] = header
    return header


def _with_headers(read: Mapping[str, str], plain: Event | None) -> Event | None:
    if isinstance(plain, RequestHeaders):
        return RequestHeaders(read, plain.subset, plain.request_mode, plain.response_mode, plain.ended)
    if isinstance(plain, ResponseHeaders):
        return ResponseHeaders(read, plain.served, plain.ended, plain.response_mode)
    return None


@lru_cache(maxsize=1024)
def _without_headers(tag: bytes, inner: bytes, outer: bytes) -> Event | None:
    """What a message says beside its headers: the same each time, but for subset hints."""
    try:
        plain = ext_proc.event(tag + bytes((len(inner),)) + inner + outer)
    except WireError:
        return None
    return None if isinstance(plain, RequestHeaders | ResponseHeaders) and plain.headers else plain


_READERS: Mapping[bytes, Callable[[bytes], Event | None]] = {
    b"\x12": _headers,
    b"\x1a": _headers,
    b"\x22": _request_body,
    b"\x2a": _response_body,
}
"""By a message's first byte: number and type of its first field."""
