"""What answers say about their servers: who served, who failed, who is only full, and who had the request."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp.core.events import (
    AnswerRequestHeaders,
    BodyMode,
    Busy,
    Event,
    Failed,
    Late,
    Quitting,
    RequestBody,
    RequestHeaders,
    ResponseBody,
    ResponseHeaders,
    ResponsePhase,
    ResponseTrailers,
    Served,
    StreamClosed,
)
from epp.core.fleet import Endpoint
from epp.core.verdict import judge
from tests.core.conversation import FIRST, SECOND, THIRD, Conversation

CHAT = (
    b'{"model": "tiny", "stream": true, "max_tokens": 3, "input": "hello",'
    b' "messages": [{"role": "user", "content": "hello"}]}'
)
"""For every API."""
TOKEN = b'data: {"choices":[{"delta":{"content":"x"}}]}\n\n'
DONE = b"data: [DONE]\n\n"
SSE = {":status": "200", "content-type": "text/event-stream", "x-envoy-upstream-service-time": "3"}
JSON = SSE | {"content-type": "application/json"}
ANSWER = b'{"choices":[{"finish_reason":"stop"}]}'
ENDED = ResponseBody(b"", True)
ENVOYS_RESET = b"upstream connect error or disconnect/reset before headers. reset reason: "
DEAD_ENGINE = (
    b'data: {"error": {"message": "EngineCore died", "type": "InternalServerError", "code": 500}}\n\n'
)


def asked(*endpoints: Endpoint, path: str = "/v1/chat/completions", **more: object) -> Conversation:
    conversation = Conversation(endpoints=endpoints, **more)  # type: ignore[arg-type]
    conversation.hear(RequestHeaders({":path": path, ":method": "POST"}), RequestBody(CHAT, True))
    return conversation


def verdicts(
    *events: Event, of: Conversation | None = None
) -> list[Served | Failed | Late | Quitting | Busy]:
    conversation = of or asked()
    conversation.hear(*events)
    return conversation.verdicts


def by_engine(status: int, kind: str = "application/json") -> ResponseHeaders:
    headers = {":status": str(status), "content-type": kind, "x-envoy-upstream-service-time": "0"}
    return ResponseHeaders(headers)


def by_gateway(status: int = 503, **more: str) -> ResponseHeaders:
    """As Envoy 1.40 shows an answer of its own."""
    return ResponseHeaders({":status": str(status), "content-type": "text/plain", **more})


def failed(reason: str, endpoint: Endpoint = FIRST) -> list[Failed]:
    return [Failed(endpoint, reason, 0.0)]


# --- good answers ------------------------------------------------------------------------------------


def test_a_stream_is_served_at_its_first_token() -> None:
    """vLLM sends the headers before it begins."""
    conversation = asked()
    assert verdicts(ResponseHeaders(SSE), of=conversation) == []
    assert verdicts(ResponseBody(TOKEN), of=conversation) == [Served(FIRST)]
    assert verdicts(ResponseBody(TOKEN), ResponseBody(DONE, True), StreamClosed(), of=conversation) == [
        Served(FIRST)
    ]


def test_a_whole_answer_is_served_at_its_headers() -> None:
    conversation = asked()
    assert verdicts(ResponseHeaders(JSON), of=conversation) == [Served(FIRST)]
    assert verdicts(ResponseBody(ANSWER, True), StreamClosed(), of=conversation) == [Served(FIRST)]


def test_a_stream_without_a_token_is_served_when_it_is_whole() -> None:
    assert verdicts(ResponseHeaders(SSE), ResponseBody(DONE, True)) == [Served(FIRST)]
    assert verdicts(ResponseHeaders(SSE), ResponseBody(b": ping\n\n"), StreamClosed()) == []


@pytest.mark.parametrize("phase", [ResponsePhase.FULL, ResponsePhase.HEADERS])
def test_a_stream_that_is_not_shown_is_served_at_its_headers(phase: ResponsePhase) -> None:
    mode = BodyMode.NONE if phase is ResponsePhase.FULL else BodyMode.STREAMED
    conversation = Conversation(response_phase=phase)
    headers = {":path": "/v1/chat/completions"}
    conversation.hear(RequestHeaders(headers, None, BodyMode.STREAMED, mode, ended=True))
    assert verdicts(ResponseHeaders(SSE), of=conversation) == [Served(FIRST)]


def test_a_stream_that_is_left_is_served_at_its_headers() -> None:
    conversation = Conversation(response_phase=ResponsePhase.NONE)
    headers = {":path": "/v1/chat/completions"}
    conversation.hear(RequestHeaders(headers, None, BodyMode.FULL_DUPLEX, BodyMode.STREAMED, ended=True))
    assert verdicts(ResponseHeaders(SSE), StreamClosed(), of=conversation) == [Served(FIRST)]


@pytest.mark.parametrize(
    "phase, mode, is_seen",
    [
        (ResponsePhase.FULL, BodyMode.STREAMED, True),
        (ResponsePhase.FULL, BodyMode.FULL_DUPLEX, True),
        (ResponsePhase.FULL, BodyMode.NONE, False),
        (ResponsePhase.HEADERS, BodyMode.STREAMED, False),
        (ResponsePhase.NONE, BodyMode.STREAMED, False),
    ],
)
def test_a_first_token_is_waited_for_where_it_will_be_seen(
    phase: ResponsePhase, mode: BodyMode, is_seen: bool
) -> None:
    conversation = Conversation(response_phase=phase)
    headers = {":path": "/v1/chat/completions"}
    conversation.hear(RequestHeaders(headers, None, BodyMode.FULL_DUPLEX, mode), RequestBody(CHAT, True))
    assert conversation.request.shows_first_token is is_seen


def test_nobody_waits_for_the_first_token_of_an_answer_in_one_piece() -> None:
    conversation = Conversation()
    whole = CHAT.replace(b"true", b"false")
    conversation.hear(RequestHeaders({":path": "/v1/chat/completions"}), RequestBody(whole, True))
    assert not conversation.request.shows_first_token


def test_a_get_says_nothing_good() -> None:
    """vLLM lists its models while it refuses to generate."""
    conversation = Conversation()
    conversation.hear(RequestHeaders({":path": "/v1/models", ":method": "GET"}, ended=True))
    assert verdicts(ResponseHeaders(JSON), ResponseBody(b"{}", True), of=conversation) == []


@pytest.mark.parametrize("status", [400, 404, 408, 422, 429, 499])
def test_what_the_client_did_wrong_says_nothing(status: int) -> None:
    body = b'{"error":{"message":"too long","type":"InternalServerError","code":500}}'
    assert verdicts(by_engine(status), ResponseBody(body, True), StreamClosed()) == []
    assert verdicts(by_engine(status, "text/event-stream"), ResponseBody(TOKEN), StreamClosed()) == []


@pytest.mark.parametrize(
    "shown",
    [
        pytest.param([], id="before the headers"),
        pytest.param([ResponseHeaders(SSE)], id="behind the headers"),
        pytest.param([ResponseHeaders(JSON), ResponseBody(b'{"choi')], id="in a whole answer"),
        pytest.param([ResponseHeaders(SSE), ResponseBody(TOKEN)], id="in a stream"),
    ],
)
def test_an_answer_that_breaks_off_blames_nobody(shown: list[Event]) -> None:
    """Envoy ends the ext_proc stream in the same way when the server dies and when the client hangs up."""
    conversation = asked()
    before = verdicts(*shown, of=conversation).copy()
    assert verdicts(StreamClosed(), of=conversation) == before
    assert conversation.releases == 1


# --- bad answers -------------------------------------------------------------------------------------


def test_a_failure_says_when_it_was_sent() -> None:
    conversation = asked()
    (decision,) = conversation.decisions
    decision.reservation.at = 42.0
    assert verdicts(by_engine(500), ENDED, of=conversation) == [Failed(FIRST, "engine: 500", 42.0)]


@pytest.mark.parametrize(
    "status, text, reason",
    [
        (503, ENVOYS_RESET + b"remote connection failure", "gateway: 503, remote connection failure"),
        (503, ENVOYS_RESET + b"connection termination", "gateway: 503, connection termination"),
        (503, ENVOYS_RESET + b"connection timeout", "gateway: 503, connection timeout"),
        (502, ENVOYS_RESET + b"protocol error", "gateway: 502, protocol error"),
        (503, b"upstream call failed: Connect", "gateway: 503, upstream call failed: Connect"),
        (
            503,
            ENVOYS_RESET.replace(b"reset reason", b"retried and the latest reset reason")
            + b"overloaded host",
            "gateway: 503, overloaded host",
        ),
    ],
)
def test_the_gateway_reached_nobody(status: int, text: bytes, reason: str) -> None:
    assert verdicts(by_gateway(status), ResponseBody(text, True)) == failed(reason)


@pytest.mark.parametrize(
    "text",
    [
        *("upstream request timeout", "stream timeout"),  # Envoy
        *("upstream call timeout", "request timeout"),  # agentgateway
    ],
)
def test_the_gateway_gave_up_waiting_for_what_may_only_be_long(text: str) -> None:
    said = verdicts(by_gateway(504), ResponseBody(text.encode(), True))
    assert said == [Late(FIRST, f"gateway: 504, {text}", 0.0)]


def test_the_gateways_own_form_of_its_answers_is_understood() -> None:
    """local_reply_config with a JSON format."""
    body = b'{"error":{"code":503,"message":"%sremote connection failure"}}' % ENVOYS_RESET
    assert verdicts(by_gateway(), ResponseBody(body, True)) == failed(
        "gateway: 503, remote connection failure"
    )


@pytest.mark.parametrize(
    "headers, text",
    [
        (by_gateway(**{"x-envoy-overloaded": "true"}), ENVOYS_RESET + b"overflow"),
        (by_gateway(**{"x-envoy-overloaded": "true"}), b""),
        (by_gateway(), ENVOYS_RESET + b"overflow"),
        (by_gateway(), b"no healthy upstream"),
        (by_gateway(), b"no healthy backends"),
    ],
)
def test_what_the_gateway_lacks_is_no_servers_fault(headers: ResponseHeaders, text: bytes) -> None:
    assert verdicts(headers, ResponseBody(text, True), StreamClosed()) == []


@pytest.mark.parametrize(
    "status, body, reason",
    [
        (500, b'{"error":{"message":"boom","code":500}}', "engine: 500, boom"),
        (500, b'{"error":"boom"}', "engine: 500, boom"),
        (500, b'{"object":"error","message":"boom","code":500}', "engine: 500, boom"),
        (500, b"Internal Server Error", "engine: 500, Internal Server Error"),
        (500, b'{"detail":"boom"}', 'engine: 500, {"detail":"boom"}'),
        (500, b"two\n  lines", "engine: 500, two lines"),
        (502, b"", "engine: 502"),
        (
            503,
            b'{"error":{"message":"Loading model","type":"unavailable_error","code":503}}',
            "loading model",
        ),
        (503, b"Service Unavailable", "engine: 503, Service Unavailable"),
        (500, b"error loading image", "engine: 500, error loading image"),
        (500, b"too many open files", "engine: 500, too many open files"),
        (503, b"still unloading", "engine: 503, still unloading"),
        (504, b"\xff", "engine: 504, \N{REPLACEMENT CHARACTER}"),
    ],
)
def test_the_engine_failed(status: int, body: bytes, reason: str) -> None:
    assert verdicts(by_engine(status), ResponseBody(body), ENDED) == failed(reason)
    assert verdicts(by_engine(status), ResponseBody(body), StreamClosed()) == failed(reason), "cut off"


def test_an_answer_without_a_body() -> None:
    headers = ResponseHeaders({":status": "503", "x-envoy-upstream-service-time": "0"}, ended=True)
    assert verdicts(headers) == failed("engine: 503")


def test_who_failed_is_not_known_where_envoys_headers_are_suppressed() -> None:
    body = ResponseBody(b'{"error":{"message":"boom"}}', True)
    assert verdicts(by_gateway(500), body) == failed("engine or gateway: 500, boom")


SHUTDOWNS = [
    "cannot schedule new futures after shutdown",
    "cannot schedule new futures after interpreter shutdown",
    "Server is draining.",
    "the server is shutting down",
]


@pytest.mark.parametrize("text", SHUTDOWNS)
def test_a_shutdown_is_no_mere_failure(text: str) -> None:
    body = b'{"error":{"message":"%s","type":"InternalServerError","param":null,"code":500}}' % text.encode()
    said = verdicts(by_engine(500), ResponseBody(body, True))
    assert said == [Quitting(FIRST, f"engine: 500, {text}", 0.0)]


@pytest.mark.parametrize("text", SHUTDOWNS)
@pytest.mark.parametrize("quoted", ["bad prompt: {}", "{} is no tool", "«{}»"])
def test_a_clients_words_inside_an_error_drain_no_server(text: str, quoted: str) -> None:
    said = quoted.format(text)
    body = ResponseBody(b'{"error":{"message":"%s","code":500}}' % said.encode(), True)
    assert verdicts(by_engine(500), body) == failed(f"engine: 500, {said}")


@pytest.mark.parametrize(
    "status, body",
    [
        (503, b'{"error":"server busy, please try again.  maximum pending requests exceeded"}'),
        (503, b'{"error":{"message":"Server overloaded, please retry shortly"}}'),
        (503, b"The request queue is full."),
        (503, b"too many requests"),
        (503, b"at capacity"),
        (503, b"no slot available"),
        (529, b'{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}'),
    ],
)
def test_a_full_queue_is_no_failure(status: int, body: bytes) -> None:
    (verdict,) = verdicts(by_engine(status), ResponseBody(body, True))
    assert isinstance(verdict, Busy)
    (verdict,) = verdicts(by_gateway(status), ResponseBody(body, True))
    assert isinstance(verdict, Busy), "whoever said it"


@pytest.mark.parametrize(
    "engine, kind", [("vllm", Busy), ("ollama", Busy), ("llamacpp", Failed), (None, Failed)]
)
def test_vllm_and_ollama_say_503_for_nothing_but_a_full_queue(
    engine: str | None, kind: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FIRST, "engine", engine)
    (verdict,) = verdicts(by_engine(503), ResponseBody(b"Service Unavailable", True))
    assert type(verdict) is kind


def test_a_503_that_may_be_the_gateways_says_nothing_of_a_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FIRST, "engine", "vllm")
    body = ResponseBody(b"Service Unavailable", True)
    assert verdicts(by_gateway(503), body) == failed("engine or gateway: 503, Service Unavailable")


def test_the_proxy_beside_a_server_fails_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sidecar speaks as gateways do, and the gateway's header says that it is not the gateway."""
    monkeypatch.setattr(FIRST, "engine", "vllm")
    body = ResponseBody(ENVOYS_RESET + b"remote connection failure", True)
    (verdict,) = verdicts(by_engine(503, "text/plain"), body)
    assert isinstance(verdict, Failed) and verdict.reason.startswith("engine: 503, upstream connect error")


@pytest.mark.parametrize("status", [501, 505])
def test_a_server_need_not_do_everything(status: int) -> None:
    assert verdicts(by_engine(status), ResponseBody(b'{"error":{"message":"no metrics"}}', True)) == []


def test_only_the_gateway_blames_a_get() -> None:
    for headers, text, said in (
        (by_engine(503), b'{"status":"no slot available"}', []),
        (by_gateway(), ENVOYS_RESET + b"remote connection failure", [Failed]),
    ):
        conversation = Conversation()
        conversation.hear(RequestHeaders({":path": "/slots", ":method": "GET"}, ended=True))
        assert [type(v) for v in verdicts(headers, ResponseBody(text, True), of=conversation)] == said


@pytest.mark.parametrize("engine", [None, "vllm"])
@pytest.mark.parametrize(
    "phase, mode", [(ResponsePhase.FULL, BodyMode.NONE), (ResponsePhase.NONE, BodyMode.STREAMED)]
)
def test_a_bad_answer_whose_body_is_not_shown_is_a_failure(
    phase: ResponsePhase, mode: BodyMode, engine: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FIRST, "engine", engine)
    conversation = Conversation(response_phase=phase)
    headers = {":path": "/v1/chat/completions"}
    conversation.hear(RequestHeaders(headers, None, BodyMode.FULL_DUPLEX, mode, ended=True))
    assert verdicts(by_engine(503), StreamClosed(), of=conversation) == failed("engine: 503")


# --- errors inside a 200 -----------------------------------------------------------------------------


def test_an_engine_that_dies_behind_a_stream_served_and_failed() -> None:
    """vLLM's end of a stream whose engine was killed: an error, and [DONE] as if nothing were the matter."""
    said = verdicts(ResponseHeaders(SSE), ResponseBody(TOKEN), ResponseBody(DEAD_ENGINE + DONE), ENDED)
    assert said == [Served(FIRST), *failed("engine: 500, EngineCore died")]
    assert verdicts(ResponseHeaders(SSE), ResponseBody(DEAD_ENGINE), StreamClosed()) == failed(
        "engine: 500, EngineCore died"
    )


@pytest.mark.parametrize(
    "path, event, kind",
    [
        ("/v1/chat/completions", b'data: {"error":{"message":"m","type":"server_error"}}', Failed),
        ("/v1/chat/completions", b'data: {"error":{"message":"m","code":"500"}}', Failed),
        ("/v1/chat/completions", b'data: {"error":{"message":"m","code":400}}', None),
        ("/v1/chat/completions", b'data: {"error":{"message":"m","code":[1]}}', None),
        ("/v1/chat/completions", b'data: {"error":"m"}', None),
        ("/v1/chat/completions", b'data: {"object":"error","message":"m","code":500}', Failed),
        (
            "/v1/messages",
            b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"m"}}',
            Busy,
        ),
        (
            "/v1/messages",
            b'event: error\ndata: {"type":"error","error":{"type":"api_error","message":"m"}}',
            Failed,
        ),
        (
            "/v1/responses",
            b'event: error\ndata: {"type":"error","code":"server_error","message":"m"}',
            Failed,
        ),
        (
            "/v1/responses",
            b'data: {"type":"response.failed","response":{"error":{"code":"server_error","message":"m"}}}',
            Failed,
        ),
    ],
)
def test_an_error_in_a_stream(path: str, event: bytes, kind: type | None) -> None:
    conversation = asked(path=path)
    said = verdicts(ResponseHeaders(SSE), ResponseBody(event + b"\n\n"), ENDED, of=conversation)
    assert [type(one) for one in said] == ([] if kind is None else [kind])


def test_an_error_in_a_whole_answer_of_200() -> None:
    body = b'{"error":{"message":"m","type":"server_error","code":500}}'
    assert verdicts(ResponseHeaders(JSON), ResponseBody(body, True)) == [
        Served(FIRST),
        *failed("engine: 500, m"),
    ]


# --- a list, and who of it served --------------------------------------------------------------------


@pytest.fixture
def all_free() -> None:
    """Other tests leave conversations open."""
    for endpoint in (FIRST, SECOND, THIRD):
        endpoint.requests_in_flight = endpoint.tokens_in_flight = 0
        endpoint.unanswered.clear()


def answered_by(served: str, headers: dict[str, str] = JSON) -> ResponseHeaders:
    return ResponseHeaders(headers, served)


def test_the_list_goes_out_best_first() -> None:
    conversation = Conversation(endpoints=(FIRST, SECOND, THIRD))
    (answer,) = conversation.hear(RequestHeaders({":path": "/v1/chat/completions"}, ended=True))
    assert isinstance(answer, AnswerRequestHeaders)
    assert answer.addresses == ["10.0.0.1:8000", "10.0.0.2:8000", "10.0.0.3:8000"]


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.usefixtures("all_free")
def test_the_reservation_follows_the_endpoint_that_served(place: int) -> None:
    listed = (FIRST, SECOND, THIRD)
    conversation = asked(*listed)
    assert [e.requests_in_flight for e in listed] == [1, 0, 0]
    served = listed[place]
    said = verdicts(answered_by(served.address), of=conversation)
    reason = f"passed over: the gateway went on to {served.address}"
    assert said == [*(Failed(each, reason, 0.0) for each in listed[:place]), Served(served)]
    assert [e.requests_in_flight for e in listed] == [each is served for each in listed]
    assert served.tokens_in_flight == 7
    conversation.hear(ResponseBody(ANSWER, True), StreamClosed())
    assert [(e.requests_in_flight, e.tokens_in_flight) for e in listed] == [(0, 0)] * 3
    assert conversation.outcome.served == served.address


@pytest.mark.usefixtures("all_free")
def test_a_stream_that_moved_is_served_where_it_is() -> None:
    conversation = asked(FIRST, SECOND)
    said = verdicts(answered_by(SECOND.address, SSE), ResponseBody(TOKEN), of=conversation)
    assert [type(one) for one in said] == [Failed, Served] and said[-1] == Served(SECOND)
    assert SECOND.tokens_in_flight == 0 and SECOND.requests_in_flight == 1
    conversation.hear(StreamClosed())


def test_those_passed_over_failed_a_request_that_was_sent_at_its_pick() -> None:
    conversation = asked(FIRST, SECOND)
    (decision,) = conversation.decisions
    decision.reservation.at = 42.0
    passed_over, _ = verdicts(answered_by(SECOND.address), of=conversation)
    reason = "passed over: the gateway went on to 10.0.0.2:8000"
    assert passed_over == Failed(FIRST, reason, 42.0)


def test_a_get_that_moved_says_nothing_good_of_where_it_is() -> None:
    conversation = Conversation(endpoints=(FIRST, SECOND))
    conversation.hear(RequestHeaders({":path": "/v1/models", ":method": "GET"}, ended=True))
    assert verdicts(answered_by(SECOND.address), ResponseBody(b"{}", True), of=conversation) == failed(
        "passed over: the gateway went on to 10.0.0.2:8000"
    )


def test_the_last_one_tried_failed_as_those_before_did() -> None:
    """Envoy names the host of the last attempt, also where that one failed."""
    headers = ResponseHeaders({":status": "503", "content-type": "text/plain"}, SECOND.address)
    text = ENVOYS_RESET + b"remote connection failure"
    conversation = asked(FIRST, SECOND, THIRD)
    assert verdicts(headers, ResponseBody(text, True), of=conversation) == [
        Failed(FIRST, "passed over: the gateway went on to 10.0.0.2:8000", 0.0),
        Failed(SECOND, "gateway: 503, remote connection failure", 0.0),
    ]


@pytest.mark.usefixtures("all_free")
def test_the_gateways_own_choice_is_followed() -> None:
    """Behind the end of the list override_host asks its fallback policy."""
    conversation = asked(FIRST)
    assert verdicts(answered_by(THIRD.address), of=conversation) == [
        Failed(FIRST, "passed over: the gateway went on to 10.0.0.3:8000", 0.0),
        Served(THIRD),
    ]
    assert (FIRST.requests_in_flight, THIRD.requests_in_flight) == (0, 1)
    conversation.hear(StreamClosed())
    assert THIRD.requests_in_flight == 0


@pytest.mark.parametrize("served", ["10.9.9.9:1", "10.0.0.1", "", "?"])
def test_an_address_that_nobody_has_says_nothing_of_anybody(served: str) -> None:
    conversation = asked(FIRST, SECOND)
    assert verdicts(answered_by(served), ResponseBody(ANSWER, True), of=conversation) == []
    assert (conversation.moves, conversation.releases) == (0, 1)


# --- whatever is said --------------------------------------------------------------------------------

said_headers = st.builds(
    ResponseHeaders,
    st.fixed_dictionaries(
        {},
        optional={
            ":status": st.sampled_from(["200", "204", "400", "500", "503", "504", "529", "x"]),
            "content-type": st.sampled_from(["text/event-stream", "application/json", "text/plain"]),
            "x-envoy-upstream-service-time": st.just("3"),
            "x-envoy-overloaded": st.just("true"),
        },
    ),
    st.sampled_from([None, FIRST.address, SECOND.address, THIRD.address, "10.9.9.9:1"]),
    st.sampled_from([False, False, True]),
)
said_bodies = st.builds(
    ResponseBody,
    st.sampled_from([TOKEN, DEAD_ENGINE, DONE, ANSWER, ENVOYS_RESET, b'{"error":{"message":"busy"}}', b""]),
    st.booleans(),
)


@given(
    endpoints=st.sampled_from([(FIRST,), (FIRST, SECOND), (FIRST, SECOND, THIRD)]),
    headers=said_headers,
    rest=st.lists(said_bodies | st.just(ResponseTrailers()), max_size=4),
    phase=st.sampled_from(ResponsePhase),
    mode=st.sampled_from([BodyMode.FULL_DUPLEX, BodyMode.STREAMED, BodyMode.NONE]),
)
def test_one_verdict_of_each_endpoint_and_none_before_it_is_due(
    endpoints: tuple[Endpoint, ...],
    headers: ResponseHeaders,
    rest: list[Event],
    phase: ResponsePhase,
    mode: BodyMode,
) -> None:
    conversation = Conversation(endpoints=endpoints, response_phase=phase)
    request = RequestHeaders({":path": "/v1/chat/completions"}, None, mode, mode, ended=True)
    conversation.hear(request, headers, *rest, StreamClosed())
    assert (conversation.releases, conversation.moves <= 1) == (1, True)
    served = [one.endpoint for one in conversation.verdicts if isinstance(one, Served)]
    condemned = [one.endpoint for one in conversation.verdicts if not isinstance(one, Served)]
    assert len(served) <= 1 and len(set(condemned)) == len(condemned)
    for endpoint in served:
        about = [type(one) for one in conversation.verdicts if one.endpoint is endpoint]
        assert about[0] is Served
    status = headers.headers.get(":status", "")
    if (
        status in ("400", "x", "")
        or "x-envoy-overloaded" in headers.headers
        or headers.served not in (None, endpoints[0].address)
    ):
        return
    assert bool(served) <= (status < "400") and (bool(condemned) or status != "500")


@given(st.integers(500, 599), st.none() | st.text(), st.booleans(), st.sampled_from([None, "vllm", "ollama"]))
def test_a_reason_is_one_short_line(
    status: int, text: str | None, by_server: bool, engine: str | None
) -> None:
    headers = {"x-envoy-upstream-service-time": "1"} if by_server else {}
    found = judge(status, text, headers=headers, engine=engine)
    if found is not None:
        assert 0 < len(found[1]) < 250 and found[1].isprintable()
