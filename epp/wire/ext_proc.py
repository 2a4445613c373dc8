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
from google.protobuf.struct_pb2 import Struct

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


def _headers(headers: pb.HeaderMap) -> dict[str, str]:
    """Lower-case names; a header that comes several times is one comma list (RFC 9110, 5.3)."""
    read: dict[str, str] = {}
    for header in headers.headers:
        name = header.key.lower()
        value = (header.raw_value or header.value).decode("utf-8", "replace")
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


def _decision(destination: str, request_id: str | None) -> tuple[pb.CommonResponse, Struct]:
    """Where to send the request, for the two places gateways read it from (same value in both)."""
    common = pb.CommonResponse(clear_route_cache=True)
    _set_header(common.header_mutation, DESTINATION, destination)
    if request_id is not None:
        _set_header(common.header_mutation, "x-request-id", request_id)
    return common, _destination_metadata(destination)


@lru_cache(maxsize=4096)
def _destination_metadata(destination: str) -> Struct:
    metadata = Struct()
    metadata.get_or_create_struct(DESTINATION_NAMESPACE)[DESTINATION] = destination
    return metadata


def _set_header(mutation: pb.HeaderMutation, name: str, value: str) -> None:
    option = mutation.set_headers.add(append_action=OVERWRITE)
    option.header.key = name
    option.header.raw_value = value.encode()


def _write_request_headers(answer: AnswerRequestHeaders) -> bytes:
    common, metadata = _decision(",".join(answer.addresses), answer.request_id)
    if answer.content_length is not None:
        _set_header(common.header_mutation, "Content-Length", str(answer.content_length))
    response = pb.ProcessingResponse(request_headers=pb.HeadersResponse(response=common))
    response.dynamic_metadata.CopyFrom(metadata)
    return response.SerializeToString()


def _write_buffered_body(answer: AnswerBufferedBody) -> bytes:
    common, metadata = _decision(",".join(answer.addresses), answer.request_id)
    if answer.body is not None:
        _set_header(common.header_mutation, "Content-Length", str(len(answer.body)))
        common.body_mutation.body = answer.body
    response = pb.ProcessingResponse(request_body=pb.BodyResponse(response=common))
    response.dynamic_metadata.CopyFrom(metadata)
    return response.SerializeToString()


def _piece(answer: AnswerRequestBody | AnswerResponseBody) -> pb.BodyResponse:
    streamed = pb.StreamedBodyResponse(body=answer.data, end_of_stream=answer.ended)
    return pb.BodyResponse(
        response=pb.CommonResponse(body_mutation=pb.BodyMutation(streamed_response=streamed))
    )


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
    AnswerRequestBody: lambda answer: pb.ProcessingResponse(request_body=_piece(answer)).SerializeToString(),
    AnswerResponseBody: lambda answer: pb.ProcessingResponse(
        response_body=_piece(answer)
    ).SerializeToString(),
    Reject: _write_reject,
}
