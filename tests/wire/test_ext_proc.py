"""Every gateway's spelling becomes the same event, and every answer is what gateways read."""

from collections.abc import Callable

import pytest
from google.protobuf.json_format import MessageToDict
from hypothesis import given
from hypothesis import strategies as st

from epp.core import rejection
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
    Override,
    Reject,
    RequestBody,
    RequestHeaders,
    RequestTrailers,
    ResponseBody,
    ResponseHeaders,
    ResponseTrailers,
)
from epp.wire import ext_proc
from epp.wire.pb import ext_proc_pb2 as pb

HINT = "x-gateway-destination-endpoint-subset"
SERVED = "x-gateway-destination-endpoint-served"


def headers(*pairs: tuple[str, bytes], raw: bool = True) -> pb.HeaderMap:
    values = [
        pb.HeaderValue(key=key, raw_value=value) if raw else pb.HeaderValue(key=key, value=value)
        for key, value in pairs
    ]
    return pb.HeaderMap(headers=values)


def request_headers(*pairs: tuple[str, bytes], raw: bool = True, ended: bool = False) -> pb.ProcessingRequest:
    return pb.ProcessingRequest(
        request_headers=pb.HttpHeaders(headers=headers(*pairs, raw=raw), end_of_stream=ended)
    )


def with_metadata(
    message: pb.ProcessingRequest, namespace: str, key: str, value: object
) -> pb.ProcessingRequest:
    message.metadata_context.filter_metadata[namespace][key] = value
    return message


def with_modes(message: pb.ProcessingRequest, request: int, response: int) -> pb.ProcessingRequest:
    message.protocol_config.request_body_mode = request  # type: ignore[assignment]
    message.protocol_config.response_body_mode = response  # type: ignore[assignment]
    return message


def body(data: bytes, ended: bool) -> pb.HttpBody:
    return pb.HttpBody(body=data, end_of_stream=ended)


FULL = BodyMode.FULL_DUPLEX


@pytest.mark.parametrize(
    "message, event",
    [
        pytest.param(
            request_headers((":path", b"/v1/models"), ended=True),
            RequestHeaders({":path": "/v1/models"}, None, FULL, FULL, True),
            id="raw_value, as Envoy",
        ),
        pytest.param(
            request_headers((":path", b"/v1/models"), raw=False),
            RequestHeaders({":path": "/v1/models"}),
            id="value, as agentgateway's pseudo-headers",
        ),
        pytest.param(
            request_headers(("X-Session-Id", b"a"), ("x-session-id", b"b")),
            RequestHeaders({"x-session-id": "a, b"}),
            id="names are lower-cased, repeated headers are a list",
        ),
        pytest.param(
            request_headers(("x-name", b"\xff\xfe ok")),
            RequestHeaders({"x-name": "�� ok"}),
            id="a value that is not UTF-8",
        ),
        pytest.param(
            request_headers(("x-name", b"\xff"), raw=False),
            RequestHeaders({"x-name": "�"}),
            id="a value that is not UTF-8 in the text field",
        ),
        pytest.param(
            with_modes(request_headers(), 2, 1),
            RequestHeaders({}, None, BodyMode.BUFFERED, BodyMode.STREAMED),
            id="body modes",
        ),
        pytest.param(
            with_modes(request_headers(), 3, 4),
            RequestHeaders({}, None, BodyMode.BUFFERED_PARTIAL, FULL),
            id="the rarer body modes",
        ),
        pytest.param(
            with_modes(request_headers(), 0, 0),
            RequestHeaders({}, None, BodyMode.NONE, BodyMode.NONE),
            id="body modes that are all default values",
        ),
        pytest.param(
            with_metadata(request_headers(), "envoy.lb.subset_hint", HINT, ["10.0.0.1:80", "10.0.0.2"]),
            RequestHeaders({}, ("10.0.0.1:80", "10.0.0.2")),
            id="subset hint as a list",
        ),
        pytest.param(
            with_metadata(request_headers(), "envoy.lb.subset_hint", HINT, "10.0.0.1:80, 10.0.0.2"),
            RequestHeaders({}, ("10.0.0.1:80", "10.0.0.2")),
            id="subset hint as a string",
        ),
        pytest.param(
            with_metadata(request_headers(), "envoy.lb.subset_hint", HINT, []),
            RequestHeaders({}, ()),
            id="an empty subset is a hint, too",
        ),
        pytest.param(
            with_metadata(request_headers(), "envoy.lb.subset_hint", HINT, 7),
            RequestHeaders({}, None),
            id="a hint of another type is none",
        ),
        pytest.param(
            with_metadata(
                pb.ProcessingRequest(request_body=body(b"{}", True)), "envoy.lb.subset_hint", HINT, ["a"]
            ),
            RequestBody(b"{}", True, ("a",)),
            id="subset hint on the body",
        ),
        pytest.param(
            pb.ProcessingRequest(request_trailers=pb.HttpTrailers()), RequestTrailers(), id="request trailers"
        ),
        pytest.param(
            with_metadata(
                pb.ProcessingRequest(request_trailers=pb.HttpTrailers()), "envoy.lb.subset_hint", HINT, "a, b"
            ),
            RequestTrailers(("a", "b")),
            id="subset hint on the trailers",
        ),
        pytest.param(
            with_metadata(
                pb.ProcessingRequest(
                    response_headers=pb.HttpHeaders(headers=headers((":status", b"200")), end_of_stream=True)
                ),
                "envoy.lb",
                SERVED,
                "10.0.0.1:80",
            ),
            ResponseHeaders({":status": "200"}, "10.0.0.1:80", True),
            id="served endpoint",
        ),
        pytest.param(
            with_modes(pb.ProcessingRequest(response_headers=pb.HttpHeaders()), 0, 4),
            ResponseHeaders({}, None, False, FULL),
            id="a conversation that begins with the response",
        ),
        pytest.param(
            pb.ProcessingRequest(response_body=body(b"x", False)), ResponseBody(b"x"), id="response body"
        ),
        pytest.param(
            pb.ProcessingRequest(response_trailers=pb.HttpTrailers()),
            ResponseTrailers(),
            id="response trailers",
        ),
    ],
)
def test_messages_become_events(message: pb.ProcessingRequest, event: Event) -> None:
    assert ext_proc.event(message.SerializeToString()) == event


def test_a_kind_that_is_newer_than_us_is_passed_over() -> None:
    assert ext_proc.event(b"") is None


@pytest.mark.parametrize(
    "data", [b"\xff", b"\x12\x7f", with_modes(request_headers(), 77, 0).SerializeToString()]
)
def test_rubbish_is_a_wire_error(data: bytes) -> None:
    with pytest.raises(ext_proc.WireError):
        ext_proc.event(data)


def set_headers(mutation: pb.HeaderMutation) -> dict[str, bytes]:
    """What a mutation sets; every header must overwrite, and in the field that all gateways read."""
    for option in mutation.set_headers:
        assert option.append_action == pb.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
        assert not option.header.value
    assert not mutation.remove_headers
    return {option.header.key: option.header.raw_value for option in mutation.set_headers}


def told(answer: Answer) -> pb.ProcessingResponse:
    return pb.ProcessingResponse.FromString(ext_proc.encode(answer))


def test_the_destination_is_in_the_header_and_in_the_metadata() -> None:
    response = told(AnswerRequestHeaders(["10.0.0.1:80"], 17, "id-1"))
    common = response.request_headers.response
    assert common.clear_route_cache
    assert set_headers(common.header_mutation) == {
        "x-gateway-destination-endpoint": b"10.0.0.1:80",
        "Content-Length": b"17",
        "x-request-id": b"id-1",
    }
    assert MessageToDict(response.dynamic_metadata) == {
        "envoy.lb": {"x-gateway-destination-endpoint": "10.0.0.1:80"}
    }


@pytest.mark.parametrize("kind", [AnswerRequestHeaders, AnswerBufferedBody])
def test_the_scores_are_in_the_metadata_beside_the_destination(
    kind: type[AnswerRequestHeaders | AnswerBufferedBody],
) -> None:
    response = told(kind(["10.0.0.1:80"], scores={"10.0.0.1:80": 0.5, "10.0.0.2:80": 0.25}))
    assert MessageToDict(response.dynamic_metadata) == {
        "envoy.lb": {
            "x-gateway-destination-endpoint": "10.0.0.1:80",
            "x-gateway-destination-endpoint-scores": {"10.0.0.1:80": 0.5, "10.0.0.2:80": 0.25},
        }
    }


@given(
    addresses=st.lists(st.sampled_from(["10.0.0.1:80", "[fd00::1]:8000"]), min_size=1, max_size=8),
    length=st.none() | st.integers(0, 1 << 26),
    request_id=st.none() | st.text(max_size=300),
)
def test_a_destination_is_what_the_generated_classes_write(
    addresses: list[str], length: int | None, request_id: str | None
) -> None:
    expected = pb.ProcessingResponse()
    common = expected.request_headers.response
    common.clear_route_cache = True
    given_headers = {"x-gateway-destination-endpoint": ",".join(addresses)}
    if length is not None:
        given_headers["Content-Length"] = str(length)
    if request_id is not None:
        given_headers["x-request-id"] = request_id
    for name, value in given_headers.items():
        one = common.header_mutation.set_headers.add(append_action=ext_proc.OVERWRITE)
        one.header.key, one.header.raw_value = name, value.encode()
    expected.dynamic_metadata["envoy.lb"] = {"x-gateway-destination-endpoint": ",".join(addresses)}
    assert (
        ext_proc.encode(AnswerRequestHeaders(addresses, length, request_id)) == expected.SerializeToString()
    )


FURTHER: dict[str, str | None] = {"x-prefiller-host-port": "10.0.0.9:80", "x-encoder-hosts-ports": None}


@pytest.mark.parametrize(
    "answer, part",
    [
        (AnswerRequestHeaders(["10.0.0.1:80"], 17, "id", headers=FURTHER), "request_headers"),
        (AnswerBufferedBody(["10.0.0.1:80"], None, "id", FURTHER), "request_body"),
    ],
    ids=["headers", "body"],
)
def test_a_request_gets_further_headers_and_loses_others(answer: Answer, part: str) -> None:
    mutation = getattr(told(answer), part).response.header_mutation
    assert list(mutation.remove_headers) == ["x-encoder-hosts-ports"]
    del mutation.remove_headers[:]
    assert set_headers(mutation).items() >= {
        ("x-gateway-destination-endpoint", b"10.0.0.1:80"),
        ("x-request-id", b"id"),
        ("x-prefiller-host-port", b"10.0.0.9:80"),
    }


def test_a_response_gets_further_headers() -> None:
    override = Override(BodyMode.STREAMED, True)
    for asked in (None, override):
        response = told(AnswerResponseHeaders(asked, headers={"x-session-token": "abc"}))
        mutation = response.response_headers.response.header_mutation
        assert set_headers(mutation) == {"x-went-into-resp-headers": b"true", "x-session-token": b"abc"}
        assert response.HasField("mode_override") == (asked is not None)


def test_what_never_comes_again_is_not_remembered() -> None:
    ext_proc.encode(AnswerRequestHeaders(["10.0.0.1:80"], 17, "id-0"))
    before = ext_proc._repeated_option.cache_info().misses
    for number in range(1, 20):
        ext_proc.encode(AnswerRequestHeaders(["10.0.0.1:80"], 17, f"id-{number}"))
    assert ext_proc._repeated_option.cache_info().misses == before


OVERRIDES = {
    "headers": (Override(BodyMode.STREAMED, True), {"responseHeaderMode": "SEND"}),
    "nothing": (Override(BodyMode.STREAMED, False), {"responseHeaderMode": "SKIP"}),
}


@pytest.mark.parametrize("wanted", OVERRIDES)
@pytest.mark.parametrize(
    "answer, part",
    [
        pytest.param(ContinueRequestHeaders, "request_headers", id="continue"),
        pytest.param(
            lambda o: AnswerRequestHeaders(["10.0.0.1:80"], None, None, o), "request_headers", id="to"
        ),
        pytest.param(AnswerResponseHeaders, "response_headers", id="response"),
    ],
)
def test_an_answer_may_ask_for_less_of_the_response(
    answer: Callable[[Override | None], Answer], part: str, wanted: str
) -> None:
    override, headers_mode = OVERRIDES[wanted]
    response = told(answer(override))
    assert MessageToDict(response.mode_override) == {
        "requestBodyMode": "STREAMED",  # as it is, said again
        "responseTrailerMode": "SEND",  # so that the stream lasts as long as the response
        **headers_mode,
    }
    assert response.WhichOneof("response") == part
    response.ClearField("mode_override")
    assert response == told(answer(None))


@pytest.mark.parametrize("mode", BodyMode)
def test_the_requests_body_stays_as_it_is_shown(mode: BodyMode) -> None:
    response = told(AnswerResponseHeaders(Override(mode, True)))
    numbers = {"NONE": "none", "FULL_DUPLEX_STREAMED": "full duplex streamed", "STREAMED": "streamed"}
    numbers |= {"BUFFERED": "buffered", "BUFFERED_PARTIAL": "buffered partial"}
    assert numbers[pb.BodySendMode.Name(response.mode_override.request_body_mode)] == mode.value


def test_several_destinations_are_one_comma_list_in_both_places() -> None:
    response = told(AnswerRequestHeaders(["10.0.0.1:80", "[fd00::1]:80"]))
    mutation = set_headers(response.request_headers.response.header_mutation)
    assert mutation == {"x-gateway-destination-endpoint": b"10.0.0.1:80,[fd00::1]:80"}
    assert (
        response.dynamic_metadata["envoy.lb"]["x-gateway-destination-endpoint"] == "10.0.0.1:80,[fd00::1]:80"
    )


def test_a_buffered_body_carries_the_destination_and_the_replacement() -> None:
    kept = told(AnswerBufferedBody(["10.0.0.1:80"]))
    assert set_headers(kept.request_body.response.header_mutation) == {
        "x-gateway-destination-endpoint": b"10.0.0.1:80"
    }
    assert not kept.request_body.response.HasField("body_mutation")
    replaced = told(AnswerBufferedBody(["10.0.0.1:80"], b"{}")).request_body.response
    assert set_headers(replaced.header_mutation)["Content-Length"] == b"2"
    assert replaced.body_mutation.body == b"{}"


@pytest.mark.parametrize("replacement", [None, b"{}", b""])
def test_a_buffered_body_says_all_that_request_headers_say(replacement: bytes | None) -> None:
    response = told(AnswerBufferedBody(["10.0.0.1:80", "10.0.0.2:80"], replacement, "id-1"))
    common = response.request_body.response
    assert common.clear_route_cache
    size = {} if replacement is None else {"Content-Length": str(len(replacement)).encode()}
    assert set_headers(common.header_mutation) == {
        "x-gateway-destination-endpoint": b"10.0.0.1:80,10.0.0.2:80",
        "x-request-id": b"id-1",
        **size,
    }
    assert common.HasField("body_mutation") == (replacement is not None)
    assert MessageToDict(response.dynamic_metadata) == {
        "envoy.lb": {"x-gateway-destination-endpoint": "10.0.0.1:80,10.0.0.2:80"}
    }


@pytest.mark.parametrize(
    "answer, part",
    [
        pytest.param(AnswerRequestBody(b"x", True), "request_body", id="request"),
        pytest.param(AnswerResponseBody(b"x", True), "response_body", id="response"),
    ],
)
def test_pieces_are_streamed_responses(answer: Answer, part: str) -> None:
    streamed = getattr(told(answer), part).response.body_mutation.streamed_response
    assert (streamed.body, streamed.end_of_stream) == (b"x", True)


@given(st.integers(0, 70_000), st.booleans(), st.booleans())
def test_a_piece_is_what_the_generated_classes_write(size: int, ended: bool, request: bool) -> None:
    data = b"x" * size
    expected = pb.ProcessingResponse()
    part = expected.request_body if request else expected.response_body
    part.response.body_mutation.streamed_response.body = data
    part.response.body_mutation.streamed_response.end_of_stream = ended
    kind = AnswerRequestBody if request else AnswerResponseBody
    assert ext_proc.encode(kind(data, ended)) == expected.SerializeToString()


@pytest.mark.parametrize(
    "answer, part",
    [
        pytest.param(ContinueRequestHeaders(), "request_headers", id="request headers"),
        pytest.param(ContinueRequestBody(), "request_body", id="request body"),
        pytest.param(AnswerRequestTrailers(), "request_trailers", id="request trailers"),
        pytest.param(AnswerResponseHeaders(), "response_headers", id="response headers"),
        pytest.param(ContinueResponseBody(), "response_body", id="response body"),
        pytest.param(AnswerResponseTrailers(), "response_trailers", id="response trailers"),
    ],
)
def test_what_passes_is_answered_in_its_own_kind(answer: Answer, part: str) -> None:
    response = told(answer)
    assert response.WhichOneof("response") == part
    assert not response.HasField("dynamic_metadata")


def test_a_response_says_that_a_picker_was_there() -> None:
    shorter = told(AnswerResponseHeaders(without_length=True)).response_headers.response.header_mutation
    assert list(shorter.remove_headers) == ["content-length"]
    mutation = told(AnswerResponseHeaders()).response_headers.response.header_mutation
    assert list(shorter.set_headers) == list(mutation.set_headers)
    assert not mutation.remove_headers
    assert set_headers(mutation) == {"x-went-into-resp-headers": b"true"}


REFUSALS = {
    "NO_CANDIDATES": (
        rejection.NO_CANDIDATES,
        503,
        b"inference error: ServiceUnavailable - failed to find endpoint candidates for serving the request",
        {"x-llm-d-request-dropped-reason": b"rejected-no-endpoints"},
    ),
    "ALL_FILTERED": (
        rejection.ALL_FILTERED,
        429,
        b"inference error: ResourceExhausted - no endpoints available for the given request",
        {"x-llm-d-request-dropped-reason": b"rejected-saturated"},
    ),
    "BODY_TOO_LARGE": (
        rejection.BODY_TOO_LARGE,
        413,
        b"inference error: PayloadTooLarge - the request body is over the limit of 64 MiB",
        {},
    ),
    "BUFFERS_FULL": (
        rejection.BUFFERS_FULL,
        503,
        b"inference error: ServiceUnavailable - the picker holds as many request bodies as it may, try again",
        {"x-llm-d-request-dropped-reason": b"rejected-saturated", "retry-after": b"1"},
    ),
    "PLUGIN_FAILED": (
        rejection.PLUGIN_FAILED,
        500,
        b"inference error: Internal - a plugin of the endpoint picker failed",
        {},
    ),
    "NOT_CACHED": (
        rejection.NOT_CACHED,
        412,
        b"inference error: PreconditionFailed - no decode worker has the requested KV cache",
        {},
    ),
    "TRAILERS_WITHOUT_BODY": (
        rejection.TRAILERS_WITHOUT_BODY,
        400,
        b"inference error: BadRequest - %s"
        % b"a request with trailers but without a body cannot be routed in BUFFERED mode",
        {},
    ),
    "bad_request": (
        rejection.bad_request("model is missing").rejection,
        400,
        b"inference error: BadRequest - model is missing",
        {},
    ),
}
"""Status, body and headers of every refusal, as upstream's clients know them; written out on purpose."""


@pytest.mark.parametrize("name", REFUSALS)
def test_every_refusal_reads_as_upstreams(name: str) -> None:
    refusal, status, text, told_why = REFUSALS[name]
    response = told(Reject(refusal))
    immediate = response.immediate_response
    assert response.WhichOneof("response") == "immediate_response"
    assert (immediate.status.code, immediate.body) == (status, text)
    assert set_headers(immediate.headers) == told_why
    assert len(immediate.headers.set_headers) == len(told_why), "none is there twice"


def test_the_table_of_refusals_is_whole() -> None:
    named = {name for name, one in vars(rejection).items() if isinstance(one, rejection.Rejection)}
    assert named == set(REFUSALS) - {"bad_request"}
    assert {one.code for one, *_ in REFUSALS.values()} == set(rejection.Code)


def test_a_refusal_may_quote_what_is_no_text() -> None:
    refusal = rejection.bad_request("model \ud83d is unknown").rejection
    assert told(Reject(refusal)).immediate_response.body == (
        b"inference error: BadRequest - model ? is unknown"
    )
