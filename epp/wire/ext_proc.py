"""ext_proc messages to events, answers to ext_proc messages.

Place:   between the driver's bytes and epp.core.stream.
Ignores: state; every message is translated by itself.
Rule:    knows every gateway's spelling (raw_value or value, lists or comma strings) so that the core
         needs to know none.
Source:  envoy/service/ext_proc/v3/external_processor.proto; the endpoint picker protocol of the
         Gateway API Inference Extension.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from google.protobuf.message import DecodeError

from epp.core.events import (
    Answer,
    AnswerBufferedBody,
    AnswerRequestBody,
    AnswerRequestHeaders,
    AnswerRequestTrailers,
    AnswerResponseBody,
    AnswerResponseHeaders,
    AnswerResponseTrailers,
    BodyMode,
    ContinueRequestBody,
    ContinueRequestHeaders,
    ContinueResponseBody,
    Event,
    Reject,
    RequestBody,
    RequestHeaders,
    RequestTrailers,
    ResponseBody,
    ResponseHeaders,
    ResponseTrailers,
)
from epp.wire.pb import ext_proc_pb2 as pb

DESTINATION = "x-gateway-destination-endpoint"
DESTINATION_NAMESPACE = "envoy.lb"
SERVED = "x-gateway-destination-endpoint-served"
SUBSET = "x-gateway-destination-endpoint-subset"
SUBSET_NAMESPACE = "envoy.lb.subset_hint"
WENT_THROUGH = "x-went-into-resp-headers"
"""Set on every response, as the upstream picker does: a client can see that a picker was there."""

OVERWRITE = pb.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD

_MODES = {
    pb.NONE: BodyMode.NONE,
    pb.STREAMED: BodyMode.STREAMED,
    pb.BUFFERED: BodyMode.BUFFERED,
    pb.BUFFERED_PARTIAL: BodyMode.BUFFERED_PARTIAL,
    pb.FULL_DUPLEX_STREAMED: BodyMode.FULL_DUPLEX,
}


class WireError(Exception):
    """The bytes are not a message of this protocol."""


# --- from the gateway --------------------------------------------------------------------------


def events(data: bytes) -> Sequence[Event]:
    """The event of one ProcessingRequest; none for a message kind that we do not know."""
    event = _quick_headers(data) if data.startswith(_HEADERS) else None
    return (event,) if event is not None else _events(data)


def _events(data: bytes) -> Sequence[Event]:
    """The same, whatever the message's form."""
    try:
        message = pb.ProcessingRequest.FromString(data)
    except DecodeError as failure:
        raise WireError("not an ext_proc ProcessingRequest") from failure
    kind = message.WhichOneof("request")
    return (_READERS[kind](message),) if kind else ()


def _request_headers(message: pb.ProcessingRequest) -> Event:
    request_mode, response_mode = _modes(message)
    part = message.request_headers
    return RequestHeaders(
        _headers(part.headers), _subset(message), request_mode, response_mode, part.end_of_stream
    )


def _request_body(message: pb.ProcessingRequest) -> Event:
    part = message.request_body
    return RequestBody(part.body, part.end_of_stream, _subset(message))


def _response_headers(message: pb.ProcessingRequest) -> Event:
    response_mode = _modes(message)[1] if message.HasField("protocol_config") else None
    part = message.response_headers
    return ResponseHeaders(_headers(part.headers), _served(message), part.end_of_stream, response_mode)


def _response_body(message: pb.ProcessingRequest) -> Event:
    return ResponseBody(message.response_body.body, message.response_body.end_of_stream)


_READERS: Mapping[str, Callable[[pb.ProcessingRequest], Event]] = {
    "request_headers": _request_headers,
    "request_body": _request_body,
    "request_trailers": lambda message: RequestTrailers(_subset(message)),
    "response_headers": _response_headers,
    "response_body": _response_body,
    "response_trailers": lambda message: ResponseTrailers(),
}


# Headers are read here without making a protobuf message of each: most came like this many times before
# (ten of them: 2.9 against 6.3 us). Every other form is left to ``_events``.

_FIELD_1 = 0x0A
_HEADERS = (b"\x12", b"\x1a")
"""How a message with request or response headers begins."""


def _quick_headers(data: bytes) -> Event | None:
    """Headers, entry by entry; None for a form that only ``_events`` reads."""
    try:
        outer, at = _length(data, 1)
        outer += at
        inner, at = _length(data, at + 1)
        if data[at - (2 if inner < 0x80 else 3)] != _FIELD_1:
            return None
        end = at + inner
        read: dict[str, str] = {}
        count = 0
        while at < end:
            size = data[at + 1]
            begin = at + 2
            if size > 0x7F:
                size, begin = _length(data, at + 1)
            if data[at] != _FIELD_1:
                return None
            at = begin + size
            name, value = _header(data[begin:at])
            read[name] = value
            count += 1
    except (IndexError, DecodeError):
        return None
    if at != end or end > outer or outer > len(data) or outer - end >= 1 << 14 or count != len(read):
        return None
    return _headers_event(read, data[:1], data[end:outer], data[outer:])


def _length(data: bytes, at: int) -> tuple[int, int]:
    """A length, and where what it counts begins."""
    size, more = data[at], data[at + 1]
    if size < 0x80:
        return size, at + 1
    if more < 0x80:
        return size & 0x7F | more << 7, at + 2
    raise IndexError  # of 16 KB or more: not usual


@lru_cache(maxsize=4096)
def _header(entry: bytes) -> tuple[str, str]:
    """A HeaderValue: most come again and again."""
    one = pb.HeaderValue.FromString(entry)
    return one.key.lower(), (one.raw_value or one.value).decode("utf-8", "replace")


def _headers_event(read: dict[str, str], tag: bytes, inner: bytes, outer: bytes) -> Event | None:
    rest = _rest(tag, inner, outer)
    if isinstance(rest, RequestHeaders):
        return RequestHeaders(read, rest.subset, rest.request_mode, rest.response_mode, rest.ended)
    if isinstance(rest, ResponseHeaders):
        return ResponseHeaders(read, rest.served, rest.ended, rest.response_mode)
    return None


@lru_cache(maxsize=1024)
def _rest(tag: bytes, inner: bytes, outer: bytes) -> Event | None:
    """What a message says beside its headers: the same each time, but for subset hints."""
    try:
        (event,) = _events(tag + _varint(len(inner)) + inner + outer)
    except (WireError, ValueError):
        return None
    plain = isinstance(event, RequestHeaders | ResponseHeaders) and not event.headers
    return event if plain else None


def _varint(number: int) -> bytes:
    return bytes((number,)) if number < 0x80 else bytes((number & 0x7F | 0x80, number >> 7))


def _headers(headers: pb.HeaderMap) -> dict[str, str]:
    """Lower-case names; a header that comes several times is one comma list (RFC 9110, 5.3)."""
    given = headers.headers
    read = {one.key.lower(): (one.raw_value or one.value).decode("utf-8", "replace") for one in given}
    return read if len(read) == len(given) else _joined(headers)


def _joined(headers: pb.HeaderMap) -> dict[str, str]:
    read: dict[str, str] = {}
    for one in headers.headers:
        name, value = one.key.lower(), (one.raw_value or one.value).decode("utf-8", "replace")
        read[name] = f"{read[name]}, {value}" if name in read else value
    return read


def _modes(message: pb.ProcessingRequest) -> tuple[BodyMode, BodyMode]:
    """Gateways that do not say (NGINX, older agentgateway) behave as FULL_DUPLEX does."""
    if not message.HasField("protocol_config"):
        return BodyMode.FULL_DUPLEX, BodyMode.FULL_DUPLEX
    config = message.protocol_config
    try:
        return _MODES[config.request_body_mode], _MODES[config.response_body_mode]
    except KeyError as unknown:
        raise WireError(f"unknown body mode {unknown} in protocol_config") from None


def _metadata(message: pb.ProcessingRequest, namespace: str, key: str) -> Any:
    """One value out of the gateway's filter metadata; None when it is not there."""
    if not message.HasField("metadata_context"):
        return None
    known = message.metadata_context.filter_metadata
    if namespace not in known or key not in known[namespace].fields:
        return None
    value = known[namespace].fields[key]
    match value.WhichOneof("kind"):
        case "string_value":
            return value.string_value
        case "list_value":
            return [item.string_value for item in value.list_value.values]
        case _:
            return None


def _subset(message: pb.ProcessingRequest) -> tuple[str, ...] | None:
    hint = _metadata(message, SUBSET_NAMESPACE, SUBSET)
    if hint is None:
        return None
    items = hint.split(",") if isinstance(hint, str) else hint
    return tuple(item.strip() for item in items if item.strip())


def _served(message: pb.ProcessingRequest) -> str | None:
    served = _metadata(message, DESTINATION_NAMESPACE, SERVED)
    return served if isinstance(served, str) else None


# --- to the gateway ----------------------------------------------------------------------------


def encode(answer: Answer) -> bytes:
    """The ProcessingResponse for one answer."""
    constant = _CONSTANTS.get(type(answer))
    return constant if constant is not None else _WRITERS[type(answer)](answer)


def _set_header(mutation: pb.HeaderMutation, name: str, value: str) -> None:
    option = mutation.set_headers.add(append_action=OVERWRITE)
    option.header.key = name
    option.header.raw_value = value.encode()


@lru_cache(maxsize=4096)
def _to(part: str, addresses: str) -> bytes:
    """Where to send the request, in both places gateways read it from, with the same value in both."""
    response = pb.ProcessingResponse()
    common: pb.CommonResponse = getattr(response, part).response
    common.clear_route_cache = True
    _set_header(common.header_mutation, DESTINATION, addresses)
    response.dynamic_metadata.get_or_create_struct(DESTINATION_NAMESPACE)[DESTINATION] = addresses
    return response.SerializeToString()


def _write_request_headers(answer: AnswerRequestHeaders) -> bytes:
    decision = _to("request_headers", ",".join(answer.addresses))
    if answer.content_length is None and answer.request_id is None:
        return decision
    response = pb.ProcessingResponse.FromString(decision)
    mutation = response.request_headers.response.header_mutation
    if answer.content_length is not None:
        _set_header(mutation, "Content-Length", str(answer.content_length))
    if answer.request_id is not None:
        _set_header(mutation, "x-request-id", answer.request_id)
    return response.SerializeToString()


def _write_buffered_body(answer: AnswerBufferedBody) -> bytes:
    response = pb.ProcessingResponse.FromString(_to("request_body", ",".join(answer.addresses)))
    common = response.request_body.response
    if answer.request_id is not None:
        _set_header(common.header_mutation, "x-request-id", answer.request_id)
    if answer.body is not None:
        _set_header(common.header_mutation, "Content-Length", str(len(answer.body)))
        common.body_mutation.body = answer.body
    return response.SerializeToString()


_ENDED = pb.StreamedBodyResponse(end_of_stream=True).SerializeToString()


@lru_cache(maxsize=8192)
def _before_piece(part: str, size: int, *, ended: bool) -> bytes:
    """Everything in front of a piece's bytes: it depends on their number alone.

    Putting a piece between this and the end mark takes a fifth of the time of building the message
    (0.4 against 2.2 us for 200 bytes), and there is one for every token.
    """
    response = pb.ProcessingResponse()
    streamed = getattr(response, part).response.body_mutation.streamed_response
    streamed.body, streamed.end_of_stream = bytes(size), ended
    whole = response.SerializeToString()
    return whole[: len(whole) - size - len(_ENDED) * ended]


def _piece(part: str, data: bytes, *, ended: bool) -> bytes:
    """One piece of a body on its way (FULL_DUPLEX_STREAMED)."""
    before = _before_piece(part, len(data), ended=ended)
    return b"".join((before, data, _ENDED)) if ended else before + data


def _write_reject(answer: Reject) -> bytes:
    rejection = answer.rejection
    immediate = pb.ImmediateResponse(
        status=pb.HttpStatus(code=rejection.status), body=rejection.body.encode("utf-8", "replace")
    )
    for name, value in rejection.headers.items():
        _set_header(immediate.headers, name, value)
    return pb.ProcessingResponse(immediate_response=immediate).SerializeToString()


def _response_headers_constant() -> bytes:
    common = pb.CommonResponse()
    _set_header(common.header_mutation, WENT_THROUGH, "true")
    return pb.ProcessingResponse(response_headers=pb.HeadersResponse(response=common)).SerializeToString()


_CONSTANTS: Mapping[type[Answer], bytes] = {
    ContinueRequestHeaders: pb.ProcessingResponse(
        request_headers=pb.HeadersResponse(response=pb.CommonResponse())
    ).SerializeToString(),
    ContinueRequestBody: pb.ProcessingResponse(
        request_body=pb.BodyResponse(response=pb.CommonResponse())
    ).SerializeToString(),
    ContinueResponseBody: pb.ProcessingResponse(
        response_body=pb.BodyResponse(response=pb.CommonResponse())
    ).SerializeToString(),
    AnswerRequestTrailers: pb.ProcessingResponse(request_trailers=pb.TrailersResponse()).SerializeToString(),
    AnswerResponseTrailers: pb.ProcessingResponse(
        response_trailers=pb.TrailersResponse()
    ).SerializeToString(),
    AnswerResponseHeaders: _response_headers_constant(),
}

_WRITERS: Mapping[type[Answer], Callable[[Any], bytes]] = {
    AnswerRequestHeaders: _write_request_headers,
    AnswerBufferedBody: _write_buffered_body,
    AnswerRequestBody: lambda answer: _piece("request_body", answer.data, ended=answer.ended),
    AnswerResponseBody: lambda answer: _piece("response_body", answer.data, ended=answer.ended),
    Reject: _write_reject,
}
