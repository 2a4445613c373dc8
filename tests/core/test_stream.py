"""One request's conversation, in the words of every gateway."""

import itertools
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from epp.core.budget import Budget
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
    Evicted,
    Picked,
    Refused,
    Reject,
    RequestBody,
    RequestHeaders,
    RequestTrailers,
    ResponseBody,
    ResponseHeaders,
    ResponsePhase,
    ResponseTrailers,
    Served,
    StreamClosed,
)
from epp.core.flow.control import EVICTED
from epp.core.rejection import BODY_TOO_LARGE, BUFFERS_FULL, NO_CANDIDATES, Code
from epp.core.request import Api
from epp.core.response_reader import Usage
from epp.core.stream import CHUNK_BYTES, MAX_BODY_BYTES, TRANSITIONS, PeerError, State, Stream
from tests.core.conversation import FIRST, FLEET, SECOND, THIRD, Conversation, joined

CHAT = b'{"model": "tiny", "messages": [{"role": "user", "content": "hello"}]}'
OK = {":status": "200", "content-type": "application/json"}
REWRITE = "x-llm-d-model-name-rewrite"


def post(path: str = "/v1/chat/completions", **more: object) -> RequestHeaders:
    headers = {":method": "POST", ":path": path, "x-request-id": "r-1"}
    return RequestHeaders(headers, **more)  # type: ignore[arg-type]


def get(path: str = "/v1/models", **more: object) -> RequestHeaders:
    headers = {":method": "GET", ":path": path, "x-request-id": "r-1"}
    return RequestHeaders(headers, **more)  # type: ignore[arg-type]


def rewriting(model: str, **more: object) -> RequestHeaders:
    headers = {":path": "/v1/chat/completions", REWRITE: model, "x-request-id": "r-1"}
    return RequestHeaders(headers, **more)  # type: ignore[arg-type]


TO_FIRST = AnswerRequestHeaders(["10.0.0.1:8000"])
TO_FIRST_WITH_CHAT = AnswerRequestHeaders(["10.0.0.1:8000"], len(CHAT))
FULL = BodyMode.FULL_DUPLEX

DIALECTS: dict[str, list[tuple[Event, list[Answer]]]] = {
    "no body: the end is on the headers": [
        (get(ended=True), [TO_FIRST]),
        (ResponseHeaders(OK), [AnswerResponseHeaders()]),
        (ResponseBody(b"{}", ended=True), [AnswerResponseBody(b"{}", True)]),
    ],
    "Envoy, full duplex: one chunk, then an empty one that ends": [
        (post(request_mode=FULL, response_mode=FULL), []),
        (RequestBody(CHAT), []),
        (RequestBody(b"", ended=True), [TO_FIRST_WITH_CHAT, AnswerRequestBody(CHAT, True)]),
        (ResponseHeaders(OK), [AnswerResponseHeaders()]),
        (ResponseBody(b"{}"), [AnswerResponseBody(b"{}", False)]),
        (ResponseBody(b"", ended=True), [AnswerResponseBody(b"", True)]),
    ],
    "the end is on the last chunk": [
        (post(), []),
        (RequestBody(CHAT[:20]), []),
        (RequestBody(CHAT[20:], ended=True), [TO_FIRST_WITH_CHAT, AnswerRequestBody(CHAT, True)]),
        (ResponseHeaders({":status": "204"}, ended=True), [AnswerResponseHeaders()]),
    ],
    "a chunk that is repeated after the end is not sent twice": [
        (post(), []),
        (RequestBody(CHAT, ended=True), [TO_FIRST_WITH_CHAT, AnswerRequestBody(CHAT, True)]),
        (RequestBody(CHAT, ended=True), []),
        (ResponseHeaders(OK), [AnswerResponseHeaders()]),
    ],
    "the end is in the trailers, which are answered": [
        (post(), []),
        (RequestBody(CHAT), []),
        (RequestTrailers(), [TO_FIRST, AnswerRequestBody(CHAT, False), AnswerRequestTrailers()]),
        (ResponseHeaders(OK), [AnswerResponseHeaders()]),
        (ResponseBody(b"{}"), [AnswerResponseBody(b"{}", False)]),
        (ResponseTrailers(), [AnswerResponseTrailers()]),
    ],
    "trailers without a body": [
        (post(), []),
        (RequestTrailers(), [TO_FIRST, AnswerRequestTrailers()]),
    ],
    "agentgateway: an empty chunk ends the request even after trailers": [
        (post(), []),
        (RequestBody(CHAT), []),
        (RequestTrailers(), [TO_FIRST, AnswerRequestBody(CHAT, False), AnswerRequestTrailers()]),
        (RequestBody(b"", ended=True), [AnswerRequestBody(b"", True)]),
        (ResponseHeaders(OK), [AnswerResponseHeaders()]),
        (ResponseBody(b"{}"), [AnswerResponseBody(b"{}", False)]),
        (ResponseTrailers(), [AnswerResponseTrailers()]),
        (ResponseBody(b"", ended=True), [AnswerResponseBody(b"", True)]),
    ],
    "agentgateway: a GET whose body is one empty chunk": [
        (get(), []),
        (RequestBody(b"", ended=True), [TO_FIRST, AnswerRequestBody(b"", True)]),
    ],
    "NGINX Gateway Fabric: one body, no response phase": [
        (post(), []),
        (RequestBody(CHAT, ended=True), [TO_FIRST_WITH_CHAT, AnswerRequestBody(CHAT, True)]),
        (StreamClosed(), []),
    ],
    "BUFFERED: headers go on at once, the pick rides on the body": [
        (
            post(request_mode=BodyMode.BUFFERED, response_mode=BodyMode.BUFFERED),
            [ContinueRequestHeaders()],
        ),
        (RequestBody(CHAT, ended=True), [AnswerBufferedBody(["10.0.0.1:8000"])]),
        (ResponseHeaders(OK), [AnswerResponseHeaders()]),
        (ResponseBody(b"{}", ended=True), [ContinueResponseBody()]),
    ],
    "BUFFERED with trailers: the body is whole although its end is not on it": [
        (post(request_mode=BodyMode.BUFFERED), [ContinueRequestHeaders()]),
        (RequestBody(CHAT), [AnswerBufferedBody(["10.0.0.1:8000"])]),
        (RequestTrailers(), [AnswerRequestTrailers()]),
    ],
    "BUFFERED without a body: the pick is on the headers": [
        (get(request_mode=BodyMode.BUFFERED, ended=True), [TO_FIRST]),
    ],
    "STREAMED: the pick is on the headers, the body passes": [
        (post(request_mode=BodyMode.STREAMED, response_mode=BodyMode.STREAMED), [TO_FIRST]),
        (RequestBody(CHAT[:9]), [ContinueRequestBody()]),
        (RequestBody(CHAT[9:], ended=True), [ContinueRequestBody()]),
        (ResponseHeaders(OK), [AnswerResponseHeaders()]),
        (ResponseBody(b"{}"), [ContinueResponseBody()]),
        (ResponseBody(b"", ended=True), [ContinueResponseBody()]),
    ],
    "STREAMED: the server answers before it has read all": [
        (post(request_mode=BodyMode.STREAMED, response_mode=BodyMode.STREAMED), [TO_FIRST]),
        (ResponseHeaders(OK), [AnswerResponseHeaders()]),
        (RequestBody(CHAT, ended=True), [ContinueRequestBody()]),
        (ResponseBody(b"{}", ended=True), [ContinueResponseBody()]),
    ],
    "NONE: headers only": [
        (post(request_mode=BodyMode.NONE, response_mode=BodyMode.NONE), [TO_FIRST]),
        (ResponseHeaders(OK), [AnswerResponseHeaders()]),
    ],
    "STREAMED is named only with the response headers": [
        (ResponseHeaders(OK, response_mode=BodyMode.STREAMED), [AnswerResponseHeaders()]),
        (ResponseBody(b"{}"), [ContinueResponseBody()]),
        (ResponseBody(b"", ended=True), [ContinueResponseBody()]),
    ],
    "a client without an id, BUFFERED: the id rides on the body's answer": [
        (RequestHeaders({":path": "/v1/x"}, request_mode=BodyMode.BUFFERED), [ContinueRequestHeaders()]),
        (RequestBody(CHAT, ended=True), [AnswerBufferedBody(["10.0.0.1:8000"], None, "made-id")]),
    ],
    "a rewrite and trailers: the new length is told all the same": [
        (rewriting("larger"), []),
        (RequestBody(CHAT), []),
        (
            RequestTrailers(),
            [
                AnswerRequestHeaders(["10.0.0.1:8000"], len(CHAT) + 2),
                AnswerRequestBody(CHAT.replace(b"tiny", b"larger"), False),
                AnswerRequestTrailers(),
            ],
        ),
    ],
    "a rewrite to the same model and trailers: no byte and no length changes": [
        (rewriting("tiny"), []),
        (RequestBody(CHAT), []),
        (RequestTrailers(), [TO_FIRST, AnswerRequestBody(CHAT, False), AnswerRequestTrailers()]),
    ],
    "a rewrite to the same model, BUFFERED: the body is not replaced": [
        (rewriting("tiny", request_mode=BodyMode.BUFFERED), [ContinueRequestHeaders()]),
        (RequestBody(CHAT, ended=True), [AnswerBufferedBody(["10.0.0.1:8000"])]),
    ],
    "response phase only": [
        (ResponseHeaders(OK, response_mode=FULL), [AnswerResponseHeaders()]),
        (ResponseBody(b"{}"), [AnswerResponseBody(b"{}", False)]),
        (ResponseBody(b"", ended=True), [AnswerResponseBody(b"", True)]),
    ],
    "the gateway answers by itself while the body is still coming": [
        (post(), []),
        (RequestBody(CHAT[:9]), []),
        (ResponseHeaders({":status": "408"}, ended=True), [AnswerResponseHeaders()]),
    ],
}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_dialect_gets_its_answers_and_gives_its_reservation_back(dialect: str) -> None:
    conversation = Conversation()
    closed_by_gateway = False
    for event, answers in DIALECTS[dialect]:
        assert conversation.hear(event) == answers
        closed_by_gateway = isinstance(event, StreamClosed)
    if not closed_by_gateway:
        assert conversation.hear(StreamClosed()) == []
    assert conversation.releases == len(conversation.decisions)
    assert conversation.budget.used == 0
    assert len(conversation.outcomes) == 1


def test_the_scheduler_sees_what_the_body_says() -> None:
    conversation = Conversation()
    conversation.hear(post(subset=("10.0.0.1",)), RequestBody(CHAT, ended=True))
    request = conversation.request
    assert (request.api, request.payload.model, request.target_model) == (
        Api.CHAT_COMPLETIONS,
        "tiny",
        "tiny",
    )
    assert (request.id, request.subset, request.body_bytes) == ("r-1", ("10.0.0.1",), len(CHAT))


def test_the_hint_on_the_end_of_the_body_replaces_the_one_on_the_headers() -> None:
    conversation = Conversation()
    conversation.hear(post(subset=("10.0.0.1",)), RequestBody(CHAT, ended=True, subset=()))
    assert conversation.request.subset == ()


def test_the_hint_on_the_trailers_replaces_the_one_on_the_headers() -> None:
    conversation = Conversation()
    conversation.hear(post(subset=("10.0.0.1",)), RequestBody(CHAT), RequestTrailers(subset=("10.0.0.2",)))
    assert conversation.request.subset == ("10.0.0.2",)


def test_a_client_without_request_id_gets_one() -> None:
    (answer,) = Conversation().hear(RequestHeaders({":path": "/v1/models"}, ended=True))
    assert answer == AnswerRequestHeaders(["10.0.0.1:8000"], None, "made-id")


@pytest.mark.parametrize("status", ["9" * 5_000, "2000", "-1", "", "²00"])
def test_a_status_that_is_none_is_unknown(status: str) -> None:
    conversation = Conversation()
    conversation.hear(RequestHeaders({":path": "/v1/models"}, ended=True))
    conversation.hear(ResponseHeaders({":status": status}, ended=True), StreamClosed())
    assert conversation.outcome.status is None


@pytest.mark.parametrize(
    "headers, path",
    [
        pytest.param({":path": "/a", "x-original-path": "/b"}, "/a", id="path"),
        pytest.param({"x-original-path": "/b", "x-forwarded-path": "/c"}, "/b", id="original"),
        pytest.param({"x-forwarded-path": "/c"}, "/c", id="forwarded"),
        pytest.param({}, "/v1/completions", id="none"),
    ],
)
def test_the_path_is_found_where_gateways_put_it(headers: dict[str, str], path: str) -> None:
    conversation = Conversation()
    conversation.hear(RequestHeaders(headers, ended=True))
    assert conversation.request.path == path


@pytest.mark.parametrize(
    "body, path, complaint",
    [
        pytest.param(b'{"model":"m","prompt":"hi"}', "/v1/completions", "", id="a completion"),
        pytest.param(CHAT, "/v1/chat/completions", "", id="a chat"),
        pytest.param(
            b'{"model":"m"}', "/v1/completions", "completions request: must have prompt", id="neither"
        ),
        pytest.param(b"{", "/v1/completions", "error unmarshaling", id="no JSON"),
    ],
)
def test_without_a_path_the_body_tells(body: bytes, path: str, complaint: str) -> None:
    conversation = Conversation()
    answer = conversation.hear(RequestHeaders({"x-request-id": "r"}), RequestBody(body, ended=True))[0]
    if complaint:
        assert isinstance(answer, Reject) and complaint in answer.rejection.body
        conversation.hear(StreamClosed())
        assert conversation.outcome.path == path
    else:
        assert isinstance(answer, AnswerRequestHeaders)
        assert conversation.request.path == path


def test_a_path_that_was_told_counts_whatever_the_body_says() -> None:
    conversation = Conversation()
    headers = RequestHeaders({":path": "/v1/completions", "x-request-id": "r"})
    (answer,) = conversation.hear(headers, RequestBody(CHAT, ended=True))
    assert isinstance(answer, Reject)


def test_several_destinations_are_named_in_order() -> None:
    conversation = Conversation(endpoints=(SECOND, FIRST))
    (answer,) = conversation.hear(get(ended=True))
    assert answer == AnswerRequestHeaders(["10.0.0.2:8000", "10.0.0.1:8000"])


@pytest.mark.parametrize("name", ["x-llm-d-model-name-rewrite", "x-gateway-model-name-rewrite"])
def test_a_rewrite_changes_one_value_and_its_length(name: str) -> None:
    conversation = Conversation()
    body = b'{ "messages":[ {"role":"user","content":"hi"} ],"temperature": 1.000,  "model" : "tiny" }'
    rewritten = body.replace(b"tiny", b"much-larger")
    headers, piece = conversation.hear(
        RequestHeaders({":path": "/v1/chat/completions", name: "much-larger", "x-request-id": "r"}),
        RequestBody(body, ended=True),
    )
    assert headers == AnswerRequestHeaders(["10.0.0.1:8000"], len(rewritten))
    assert piece == AnswerRequestBody(rewritten, True)
    assert conversation.request.target_model == "much-larger"
    assert conversation.request.payload.model == "tiny"


def test_of_two_rewrites_the_one_of_this_picker_wins() -> None:
    conversation = Conversation()
    headers = {":path": "/v1/chat/completions", "x-gateway-model-name-rewrite": "other", REWRITE: "larger"}
    conversation.hear(RequestHeaders(headers), RequestBody(CHAT, ended=True))
    assert conversation.request.target_model == "larger"


def test_a_rewrite_of_a_buffered_body_replaces_it() -> None:
    conversation = Conversation()
    headers = {":path": "/v1/chat/completions", REWRITE: "larger", "x-request-id": "r"}
    conversation.hear(RequestHeaders(headers, request_mode=BodyMode.BUFFERED))
    (answer,) = conversation.hear(RequestBody(CHAT, ended=True))
    assert answer == AnswerBufferedBody(["10.0.0.1:8000"], CHAT.replace(b"tiny", b"larger"))


def test_a_truncated_body_is_not_judged() -> None:
    """BUFFERED_PARTIAL hands over what fits; half a JSON object is no mistake of the client."""
    conversation = Conversation()
    conversation.hear(post(request_mode=BodyMode.BUFFERED_PARTIAL))
    (answer,) = conversation.hear(RequestBody(CHAT[:20]))
    assert answer == AnswerBufferedBody(["10.0.0.1:8000"])
    assert conversation.request.api is Api.PASSTHROUGH


def test_large_bodies_leave_in_pieces() -> None:
    body = CHAT[:-1] + b" " * (2 * CHUNK_BYTES) + b"}"
    answers = Conversation().hear(post(), RequestBody(body, ended=True))
    pieces = [answer for answer in answers if isinstance(answer, AnswerRequestBody)]
    assert [len(piece.data) for piece in pieces] == [CHUNK_BYTES, CHUNK_BYTES, len(body) - 2 * CHUNK_BYTES]
    assert [piece.ended for piece in pieces] == [False, False, True]
    assert joined(pieces, AnswerRequestBody) == body


@pytest.mark.parametrize(
    "events, code",
    [
        pytest.param([post(), RequestBody(b"{no", ended=True)], Code.BAD_REQUEST, id="not JSON"),
        pytest.param([post(), RequestBody(b'{"messages":[]}', ended=True)], Code.BAD_REQUEST, id="no model"),
        pytest.param([post(), RequestBody(b"[1]", ended=True)], Code.BAD_REQUEST, id="not an object"),
        pytest.param(
            [post(), RequestBody(b'{"model":"\xff"}', ended=True)], Code.BAD_REQUEST, id="not UTF-8"
        ),
        pytest.param(
            [post(request_mode=BodyMode.BUFFERED), RequestTrailers()],
            Code.BAD_REQUEST,
            id="nothing to answer the pick on",
        ),
        pytest.param(
            [RequestHeaders({"content-length": str(MAX_BODY_BYTES + 1)})],
            Code.PAYLOAD_TOO_LARGE,
            id="announced as too large",
        ),
    ],
)
def test_the_clients_mistakes_are_answered_at_once(events: list[Event], code: Code) -> None:
    conversation = Conversation()
    answers = conversation.hear(*events)
    assert isinstance(answers[-1], Reject) and answers[-1].rejection.code is code
    assert conversation.hear(ResponseHeaders({":status": "400"}), ResponseBody(b"", ended=True)) == []
    conversation.hear(StreamClosed())
    assert conversation.outcome.rejection is answers[-1].rejection
    assert conversation.decisions == [] and conversation.budget.used == 0


def test_a_body_that_never_ends_is_cut_off() -> None:
    conversation = Conversation()
    piece = b" " * (1 << 22)
    conversation.hear(post())
    for _ in range(MAX_BODY_BYTES // len(piece)):
        assert conversation.hear(RequestBody(piece)) == []
    assert conversation.hear(RequestBody(b" ")) == [Reject(BODY_TOO_LARGE)]
    assert conversation.budget.used == 0
    assert conversation.hear(RequestBody(piece)) == []


def test_all_bodies_together_have_a_budget() -> None:
    budget = Budget(2 * len(CHAT) - 1)
    first, second = Conversation(budget=budget), Conversation(budget=budget)
    first.hear(post(), RequestBody(CHAT))
    assert second.hear(post(), RequestBody(CHAT)) == [Reject(BUFFERS_FULL)]
    first.hear(RequestBody(b"", ended=True))
    third = Conversation(budget=budget)
    assert third.hear(post(), RequestBody(CHAT, ended=True))[0] == TO_FIRST_WITH_CHAT
    assert budget.used == 0


def test_a_body_counts_until_its_pieces_are_with_the_gateway() -> None:
    """A gateway that reads slowly must not make us hold more than the budget."""
    conversation = Conversation()
    conversation.hear(post(), RequestBody(CHAT, ended=True))
    assert conversation.held_with_answers == len(CHAT)
    assert conversation.budget.used == 0


def test_a_refusal_is_told_and_nothing_is_reserved() -> None:
    conversation = Conversation(refuse=NO_CANDIDATES)
    assert conversation.hear(get(ended=True)) == [Reject(NO_CANDIDATES)]
    conversation.hear(StreamClosed())
    assert conversation.outcome.rejection is NO_CANDIDATES and conversation.releases == 0


def test_a_streamed_answer_frees_the_prompt_at_its_first_token_and_the_rest_at_its_end() -> None:
    conversation = Conversation()
    before = (FIRST.requests_in_flight, FIRST.tokens_in_flight)
    conversation.hear(post(), RequestBody(CHAT[:-1] + b', "stream": true}', ended=True))
    assert (FIRST.requests_in_flight, FIRST.tokens_in_flight) == (before[0] + 1, before[1] + 7)
    conversation.hear(ResponseHeaders({":status": "200", "content-type": "text/event-stream"}))
    conversation.hear(ResponseBody(b": ping\n\n"))
    assert conversation.prefills == 0
    conversation.hear(ResponseBody(b'data: {"choices":[{"delta":{"content":"x"}}]}\n\n'))
    assert conversation.prefills == 1 and FIRST.tokens_in_flight == before[1]
    assert FIRST.requests_in_flight == before[0] + 1
    first_token_at = conversation.now
    usage = b'data: {"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":1}}\n\ndata: [DONE]\n\n'
    conversation.hear(ResponseBody(usage))
    conversation.hear(ResponseBody(b"", ended=True))
    assert FIRST.requests_in_flight == before[0] and conversation.releases == 1
    conversation.hear(StreamClosed())
    outcome = conversation.outcome
    assert (outcome.status, outcome.first_token_at, outcome.response_complete) == (200, first_token_at, True)
    assert outcome.usage is not None and outcome.usage.prompt_tokens == 5


def test_the_endpoint_that_really_served_is_kept() -> None:
    conversation = Conversation()
    conversation.hear(get(ended=True), ResponseHeaders(OK, served="10.0.0.2:8000"), StreamClosed())
    assert conversation.outcome.served == "10.0.0.2:8000"
    assert not conversation.outcome.response_complete


def test_an_answer_whose_body_is_not_shown_is_complete_with_its_status() -> None:
    conversation = Conversation()
    conversation.hear(get(ended=True, response_mode=BodyMode.NONE), ResponseHeaders(OK), StreamClosed())
    assert conversation.outcome.response_complete
    gone = Conversation()
    gone.hear(get(ended=True, response_mode=BodyMode.NONE), StreamClosed())
    assert not gone.outcome.response_complete


def test_an_answer_of_the_gateways_own_gives_the_collected_body_back_at_once() -> None:
    conversation = Conversation()
    conversation.hear(post(), RequestBody(CHAT))
    assert conversation.budget.used == len(CHAT)
    conversation.hear(ResponseHeaders({":status": "408"}))
    assert conversation.budget.used == 0


@pytest.mark.parametrize(
    "events",
    [
        pytest.param([RequestBody(b"")], id="body first"),
        pytest.param([RequestTrailers()], id="trailers first"),
        pytest.param([ResponseBody(b"")], id="response body first"),
        pytest.param([get(ended=True), get(ended=True)], id="headers twice"),
        pytest.param([get(ended=True), ResponseBody(b"")], id="response body without headers"),
        pytest.param([get(ended=True), StreamClosed(), StreamClosed()], id="closed twice"),
    ],
)
def test_what_has_no_place_in_the_conversation_is_the_peers_error(events: list[Event]) -> None:
    conversation = Conversation()
    conversation.hear(*events[:-1])
    before = conversation.stream.state
    with pytest.raises(PeerError):
        conversation.hear(events[-1])
    assert conversation.stream.state is before


# --- a pick that takes its time (a queue may stand between Pick and Picked) ---


def test_pieces_that_come_while_a_pick_is_awaited_are_answered_after_it() -> None:
    conversation = Conversation(picks_at_once=False)
    conversation.hear(post(), RequestBody(CHAT))
    assert conversation.hear(RequestTrailers()) == []
    assert conversation.hear(RequestBody(b"", ended=True)) == []
    answers = conversation.hear(conversation.pick())
    assert answers == [
        TO_FIRST,
        AnswerRequestBody(CHAT, False),
        AnswerRequestTrailers(),
        AnswerRequestBody(b"", True),
    ]


@pytest.mark.parametrize(
    "meanwhile",
    [
        pytest.param([StreamClosed()], id="client gone"),
        pytest.param([ResponseHeaders({":status": "504"}, ended=True)], id="gateway answered"),
    ],
)
def test_a_pick_that_nobody_waits_for_is_given_back(meanwhile: list[Event]) -> None:
    conversation = Conversation(picks_at_once=False)
    conversation.hear(get(ended=True), *meanwhile)
    assert conversation.hear(conversation.pick()) == []
    assert conversation.releases == 1
    assert conversation.hear(Refused(NO_CANDIDATES)) == []


# --- what an answer says, as it arrives in the outcome ---

SSE, JSON = "text/event-stream", "application/json"
TOKEN = b'data: {"choices":[{"delta":{"content":"x"}}]}\n\n'
CHAT_STOP = b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\n'
CHAT_USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":1}}\n\n'
LAST_EVENTS = CHAT_USAGE + b"data: [DONE]\n\n"
CHAT_JSON = (
    b'{"choices":[{"message":{"content":"x"},"finish_reason":"length"}],'
    b'"usage":{"prompt_tokens":5,"completion_tokens":2,"total_tokens":7}}'
)
REQUESTS = {
    "/v1/chat/completions": CHAT,
    "/v1/messages": b'{"model":"tiny","max_tokens":9,"messages":[{"role":"user","content":"hello"}]}',
    "/v1/responses": b'{"model":"tiny","input":"hello"}',
}
ANTHROPIC = [
    (
        b'event: message_start\ndata: {"type":"message_start","message":'
        b'{"usage":{"input_tokens":9,"cache_read_input_tokens":4,"output_tokens":1}}}\n\n'
    ),
    b'event: ping\ndata: {"type":"ping"}\n\n',
    b'event: content_block_delta\ndata: {"type":"content_block_delta","delta":{"text":"hi"}}\n\n',
    (
        b'event: message_delta\ndata: {"type":"message_delta","delta":{"stop_reason":"end_turn"},'
        b'"usage":{"output_tokens":3}}\n\n'
    ),
    b'event: message_stop\ndata: {"type":"message_stop"}\n\n',
]
RESPONSES = [
    b'event: response.created\ndata: {"type":"response.created","response":{"status":"in_progress"}}\n\n',
    b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","delta":"hi"}\n\n',
    (
        b'event: response.completed\ndata: {"type":"response.completed","response":{"status":"completed",'
        b'"usage":{"input_tokens":8,"input_tokens_details":{"cached_tokens":6},"output_tokens":2}}}\n\n'
    ),
]


@dataclass(frozen=True, kw_only=True)
class Said:
    """What an answer of these pieces must leave in the outcome. ``first``: the piece with the first token."""

    path: str = "/v1/chat/completions"
    kind: str = SSE
    pieces: Sequence[bytes]
    whole: bool = True
    usage: Usage | None = None
    finish: str | None = None
    error: str | None = None
    first: int | None = None


ANSWERS = {
    "chat stream": Said(
        pieces=[b": ping\n\n", TOKEN, TOKEN, CHAT_STOP, LAST_EVENTS],
        usage=Usage(5, 1, None, 6),
        finish="stop",
        first=1,
    ),
    "chat stream, cut within events": Said(
        pieces=[TOKEN[:20], TOKEN[20:] + CHAT_STOP[:9], CHAT_STOP[9:] + LAST_EVENTS],
        usage=Usage(5, 1, None, 6),
        finish="stop",
        first=1,
    ),
    "chat stream without the last line end": Said(
        pieces=[TOKEN, CHAT_USAGE.rstrip()], usage=Usage(5, 1, None, 6), first=0
    ),
    "chat stream that is cut off": Said(pieces=[TOKEN, TOKEN], whole=False, first=0),
    "chat stream that is cut off after its usage": Said(
        pieces=[TOKEN, CHAT_USAGE], whole=False, usage=Usage(5, 1, None, 6), first=0
    ),
    "chat stream that is cut off before its first token": Said(pieces=[b": ping\n\n"], whole=False),
    "chat stream in which the engine dies": Said(
        pieces=[TOKEN, b'data: {"error":{"message":"died"}}\n\n'], error="died", first=0
    ),
    "Anthropic stream": Said(
        path="/v1/messages", pieces=ANTHROPIC, usage=Usage(13, 3, 4, 16), finish="end_turn", first=2
    ),
    "Anthropic stream that is cut off": Said(
        path="/v1/messages", pieces=ANTHROPIC[:3], whole=False, usage=Usage(13, 1, 4, 14), first=2
    ),
    "Responses stream": Said(
        path="/v1/responses", pieces=RESPONSES, usage=Usage(8, 2, 6, 10), finish="completed", first=1
    ),
    "plain JSON in two pieces": Said(
        kind=JSON, pieces=[CHAT_JSON[:50], CHAT_JSON[50:]], usage=Usage(5, 2, None, 7), finish="length"
    ),
    "plain JSON that is cut off": Said(kind=JSON, pieces=[CHAT_JSON[:50]], whole=False),
    "an error that is no stream": Said(kind=JSON, pieces=[b'{"error":{"message":"no"}}'], error="no"),
    "something else": Said(kind="text/plain", pieces=[CHAT_JSON]),
}


@pytest.mark.parametrize("end", ["last", "empty", "trailers"])
@pytest.mark.parametrize("answer", ANSWERS)
def test_what_an_answer_says_is_in_the_outcome(answer: str, end: str) -> None:
    said, conversation = ANSWERS[answer], Conversation()
    conversation.hear(post(said.path), RequestBody(REQUESTS[said.path], ended=True))
    conversation.hear(ResponseHeaders({":status": "200", "content-type": said.kind}))
    times = []
    for i, piece in enumerate(said.pieces):
        ended = said.whole and end == "last" and i == len(said.pieces) - 1
        assert conversation.hear(ResponseBody(piece, ended)) == [AnswerResponseBody(piece, ended)]
        times.append(conversation.now)
    if said.whole and end == "empty":
        conversation.hear(ResponseBody(b"", ended=True))
    if said.whole and end == "trailers":
        conversation.hear(ResponseTrailers())
    ended_at = conversation.now
    assert conversation.releases == said.whole
    if not said.whole:
        ended_at += 1.0  # by the close
    conversation.hear(StreamClosed())
    outcome = conversation.outcome
    assert (outcome.usage, outcome.finish, outcome.error) == (said.usage, said.finish, said.error)
    assert outcome.first_token_at == (None if said.first is None else times[said.first])
    assert conversation.prefills == (said.first is not None)
    assert outcome.response_bytes == sum(map(len, said.pieces))
    assert (outcome.response_complete, outcome.ended_at) == (said.whole, ended_at)
    assert (outcome.status, outcome.response_streaming) == (200, said.kind == SSE)
    assert conversation.releases == 1


# --- properties ---

modes = st.sampled_from(BodyMode)
subsets = st.sampled_from([None, None, ("10.0.0.1",), ()])
request_headers = st.fixed_dictionaries(
    {":path": st.sampled_from(["/v1/chat/completions", "/v1/chat/completions", "/x"])},
    optional={
        "content-length": st.sampled_from(["abc", "", "9" * 5_000, "9" * 30, "9" * 15]),
        "x-request-id": st.sampled_from(["r-1", ""]),
        REWRITE: st.sampled_from(["larger", "tiny", ""]),
    },
)
response_headers = st.fixed_dictionaries(
    {"content-type": st.sampled_from([*["text/event-stream"] * 3, "application/json", "text/plain", ""])},
    optional={
        ":status": st.sampled_from(["200", "503", "abc", "9" * 5_000]),
        "content-length": st.sampled_from([str(len(TOKEN)), "2", "0", "abc"]),
    },
)
SAID_BY_GATEWAY: dict[type, st.SearchStrategy[Event]] = {
    RequestHeaders: st.builds(
        RequestHeaders, request_headers, subsets, modes, modes, st.sampled_from([False, False, True])
    ),
    RequestBody: st.builds(RequestBody, st.sampled_from([CHAT, b"", CHAT[:9]]), st.booleans(), subsets),
    RequestTrailers: st.builds(RequestTrailers, subsets),
    ResponseHeaders: st.builds(
        ResponseHeaders,
        response_headers,
        st.sampled_from([None, None, *FLEET, "10.9.9.9:1"]),
        st.sampled_from([False, False, False, True]),
        st.none() | modes,
    ),
    ResponseBody: st.builds(
        ResponseBody,
        st.sampled_from([TOKEN, TOKEN, TOKEN[:20], LAST_EVENTS, b"", b"{}", b"\xff"]),
        st.sampled_from([False, False, True]),
    ),
    ResponseTrailers: st.just(ResponseTrailers()),
}
anything = st.one_of(*SAID_BY_GATEWAY.values())
USUAL = {
    State.START: RequestHeaders,
    State.COLLECTING: RequestBody,
    State.PICKING: Picked,
    State.FORWARDED: ResponseHeaders,
    State.RESPONDING: ResponseBody,
}
CHAT_HEADERS = {":path": "/v1/chat/completions"}
token_modes = st.sampled_from([BodyMode.FULL_DUPLEX, BodyMode.FULL_DUPLEX, BodyMode.STREAMED])
TOKENS: dict[type, st.SearchStrategy[Event]] = {
    RequestHeaders: st.builds(RequestHeaders, st.just(CHAT_HEADERS), subsets, modes, token_modes),
    RequestBody: st.just(RequestBody(CHAT, True)),
    ResponseHeaders: st.just(ResponseHeaders({":status": "200", "content-type": "text/event-stream"})),
    ResponseBody: st.builds(ResponseBody, st.sampled_from([TOKEN, LAST_EVENTS]), st.booleans()),
}
"""What is said more often where an answer is to stream."""


def in_flight() -> tuple[list[int], list[int]]:
    """Requests and tokens of each endpoint."""
    endpoints = FLEET.values()
    return [e.requests_in_flight for e in endpoints], [e.tokens_in_flight for e in endpoints]


class Play:
    """One conversation of mostly legal events; what must hold is looked at after every one of them.

    ``plot``: what it is to come to more often than it would by chance.
    """

    def __init__(self, draw: Callable[[st.SearchStrategy[Any]], Any]) -> None:
        self.draw = draw
        plot = draw(st.sampled_from(["any", "any", "late answer", "late answer", "tokens", "tokens"]))
        refuse = draw(
            st.sampled_from([None, NO_CANDIDATES] if plot == "late answer" else [None] * 3 + [NO_CANDIDATES])
        )
        at_once = False if plot == "late answer" else draw(st.booleans())
        self.phase = draw(st.sampled_from(ResponsePhase))
        self.conversation = Conversation(
            refuse=refuse,
            picks_at_once=at_once,
            response_phase=self.phase,
            endpoints=draw(st.sampled_from([(FIRST,), (FIRST, SECOND), (SECOND, THIRD, FIRST)])),
        )
        self.usual = USUAL | ({State.PICKING: ResponseHeaders} if plot == "late answer" else {})
        self.said = SAID_BY_GATEWAY | (TOKENS if plot == "tokens" else {})
        self.least_steps = 6 if plot == "tokens" else 0
        self.before = in_flight()
        self.seen: set[str] = set()
        self.accepted = 0
        """Picks that were waited for when they came."""
        self.refusals = 0

    @property
    def state(self) -> State:
        return self.conversation.stream.state

    @property
    def awaited(self) -> bool:
        """Whether a pick was asked for and not answered yet."""
        answered = len(self.conversation.decisions) + self.refusals
        return not self.conversation.picks_at_once and len(self.conversation.requests) > answered

    def run(self) -> None:
        for _ in range(self.draw(st.integers(self.least_steps, 14))):
            self.step()
            if self.conversation.stream.is_over and self.draw(st.booleans()):
                self.seen.add(f"left, of {self.phase.value}")  # the driver always does; a machine stands more
                break
        if self.state is State.RESPONDING and self.accepted:
            self.seen.add("closed in the middle of a response")
        began = self.state is not State.START
        self.hear(StreamClosed())
        for event in self.draw(st.lists(anything, max_size=1)):
            self.hear_illegal(event)
        if self.awaited:
            self.answer()
        conversation = self.conversation
        assert self.state is State.CLOSED
        assert conversation.releases == len(conversation.decisions) <= 1
        assert in_flight() == self.before
        assert conversation.budget.used == 0
        assert len(conversation.outcomes) == began

    def step(self) -> None:
        if self.draw(st.integers(0, 9)) == 9:
            self.hear_illegal(self.draw(anything))
            return
        legal = [kind for state, kind in TRANSITIONS if state is self.state and kind in SAID_BY_GATEWAY]
        if self.awaited and (self.state, Picked) in TRANSITIONS:
            legal.append(Picked)
        if self.usual.get(self.state) in legal:
            legal += [self.usual[self.state]] * 5
        kind = self.draw(st.sampled_from(legal))
        if kind is Picked:
            self.answer()
        else:
            self.hear(self.draw(self.said[kind]))

    def answer(self) -> None:
        event = self.conversation.pick()
        self.refusals += isinstance(event, Refused)
        if self.state is not State.PICKING:
            self.seen.add("late pick" if isinstance(event, Picked) else "late refusal")
        self.hear(event)

    def hear_illegal(self, event: Event) -> None:
        """An event that may have no place here; if so, nothing changes."""
        state, counted = self.state, (self.conversation.releases, self.conversation.prefills)
        try:
            self.hear(event)
        except PeerError:
            self.seen.add("peer error")
            assert self.state is state
            assert (self.conversation.releases, self.conversation.prefills) == counted

    def hear(self, event: Event) -> None:
        conversation, before = self.conversation, self.state
        taken, released, prefills = (
            len(conversation.decisions) - isinstance(event, Picked),
            conversation.releases,
            conversation.prefills,
        )
        answers = conversation.hear(event)
        if len(conversation.decisions) > taken and State.FORWARDED in (before, self.state):
            self.accepted += 1
            self.seen.add("picked")
        if any(isinstance(answer, Reject) for answer in answers):
            self.seen.add("refused")
        if conversation.moves:
            self.seen.add("moved" if State.CLOSED is not self.state else "closed where it moved to")
        if conversation.prefills > prefills:
            self.seen.add(
                "prefilled by its first token" if isinstance(event, ResponseBody) else "by its headers"
            )
        if any(getattr(answer, "override", None) for answer in answers):
            self.seen.add(f"asked for {self.phase.value}")
        if (
            conversation.releases > released
            and before is State.RESPONDING
            and not isinstance(event, Picked | StreamClosed)
        ):
            self.seen.add("released at the end of the response")
        self.check()

    def check(self) -> None:
        conversation = self.conversation
        held = len(conversation.decisions) - conversation.releases
        now = in_flight()
        assert sum(now[0]) - sum(self.before[0]) == held
        if held and not conversation.prefills:
            assert sum(now[1]) - sum(self.before[1]) == 7, "the prompt goes where the request goes"
        assert conversation.moves <= 1
        assert conversation.prefills <= self.accepted <= 1
        occupied = bool(self.accepted) and self.state in (State.FORWARDED, State.RESPONDING)
        assert held == occupied, "held from the pick to the end of the response, neither longer nor shorter"
        if self.state in (State.RESPONDING, State.RESPONDED, State.REJECTED, State.CLOSED):
            assert conversation.budget.used == 0


@given(st.data())
def test_whatever_comes_in_whatever_order_is_released_exactly_once(data: st.DataObject) -> None:
    Play(data.draw).run()


def test_what_comes_in_whatever_order_reaches_every_way_out() -> None:
    """The property above is worth what its examples reach."""
    seen: Counter[str] = Counter()

    @settings(max_examples=600, derandomize=True, database=None, phases=[Phase.generate])
    @given(st.data())
    def play(data: st.DataObject) -> None:
        played = Play(data.draw)
        played.run()
        seen.update(played.seen)

    play()
    ways = [
        "picked",
        "refused",
        "prefilled by its first token",
        "by its headers",
        "released at the end of the response",
        "closed in the middle of a response",
        "moved",
        "closed where it moved to",
        "late pick",
        "late refusal",
        "peer error",
        "asked for headers",
        "asked for none",
        "left, of full",
        "left, of headers",
        "left, of none",
    ]
    assert {way: seen[way] for way in ways if seen[way] < 6} == {}, seen


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[start:stop] for start, stop in itertools.pairwise(edges)] or [b""]


@given(
    text=st.text(max_size=300),
    padding=st.integers(0, 2 * CHUNK_BYTES),
    cuts=st.lists(st.integers(0, 3 * CHUNK_BYTES), max_size=8),
    end=st.sampled_from(["last", "empty", "trailers"]),
)
def test_chunking_never_changes_the_answer(text: str, padding: int, cuts: list[int], end: str) -> None:
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": text}]}).encode()
    body += b" " * padding
    parts = cut(body, cuts)
    events: list[Event] = [
        RequestBody(part, end == "last" and i == len(parts) - 1) for i, part in enumerate(parts)
    ]
    events += {"last": [], "empty": [RequestBody(b"", True)], "trailers": [RequestTrailers()]}[end]
    whole: list[Event] = (
        [RequestBody(body), RequestTrailers()] if end == "trailers" else [RequestBody(body, True)]
    )
    reference, chunked = Conversation(), Conversation()
    assert chunked.hear(post(), *events) == reference.hear(post(), *whole)
    assert chunked.request == reference.request


STREAMS = {name: said for name, said in ANSWERS.items() if said.kind == SSE}


@given(
    answer=st.sampled_from(sorted(STREAMS)),
    cuts=st.lists(st.integers(0, 2000), max_size=20),
    end=st.sampled_from(["last", "empty", "trailers", "closed"]),
)
def test_chunking_never_changes_what_a_streamed_answer_says(answer: str, cuts: list[int], end: str) -> None:
    said, conversation = STREAMS[answer], Conversation()
    body = b"".join(said.pieces)
    parts = cut(body, cuts)
    events: list[Event] = [
        ResponseBody(part, end == "last" and i == len(parts) - 1) for i, part in enumerate(parts)
    ]
    events += {"empty": [ResponseBody(b"", True)], "trailers": [ResponseTrailers()]}.get(end, [])
    conversation.hear(post(said.path), RequestBody(REQUESTS[said.path], ended=True))
    conversation.hear(ResponseHeaders({":status": "200", "content-type": said.kind}))
    answers = conversation.hear(*events)
    assert joined(answers, AnswerResponseBody) == body
    assert [getattr(each, "ended", None) for each in answers] == [
        getattr(event, "ended", None) for event in events
    ], "one answer to each piece, which ends where the piece does"
    conversation.hear(StreamClosed())
    outcome = conversation.outcome
    whole_events = end != "closed" or body.endswith(b"\n\n")
    if whole_events:
        assert (outcome.usage, outcome.finish, outcome.error) == (said.usage, said.finish, said.error)
    assert outcome.response_bytes == len(body)
    assert conversation.prefills == (said.first is not None)
    assert outcome.response_complete == (end != "closed")


def test_every_state_can_be_left_and_every_row_names_a_handler() -> None:
    """A state without StreamClosed would keep its reservation for ever."""
    for state in State:
        assert state is State.CLOSED or (state, StreamClosed) in TRANSITIONS
    from epp.core import stream

    own = {stream.RequestComplete, stream.ResponseComplete}
    assert {event for _, event in TRANSITIONS} == set(stream._HANDLERS) | own
    assert all(
        callable(handler) and hasattr(Stream, handler.__name__) for handler in stream._HANDLERS.values()
    )


# --- eviction: a request that has a server makes room for others ---


@pytest.mark.parametrize(
    "meanwhile",
    [
        pytest.param([], id="nothing came yet"),
        pytest.param([ResponseHeaders(OK)], id="headers came"),
        pytest.param([ResponseHeaders(OK), ResponseBody(b'{"a')], id="half an answer came"),
    ],
)
def test_who_is_evicted_is_told_and_holds_nothing_any_more(meanwhile: list[Event]) -> None:
    conversation = Conversation()
    conversation.hear(post(), RequestBody(CHAT, ended=True), *meanwhile)
    assert conversation.hear(Evicted(EVICTED)) == [Reject(EVICTED)]
    assert conversation.releases == 1 and conversation.budget.used == 0
    late: list[Event] = [ResponseBody(b"}", ended=True), Evicted(EVICTED)]
    assert conversation.hear(*late, StreamClosed()) == []
    assert conversation.releases == 1
    assert conversation.outcome.rejection is EVICTED
    assert [said for said in conversation.verdicts if not isinstance(said, Served)] == []


@pytest.mark.parametrize(
    "before",
    [
        pytest.param([ResponseHeaders(OK), ResponseBody(b"{}", ended=True)], id="it has ended"),
        pytest.param([StreamClosed()], id="nobody is there"),
    ],
)
def test_an_eviction_that_comes_too_late_is_none(before: list[Event]) -> None:
    conversation = Conversation()
    conversation.hear(post(), RequestBody(CHAT, ended=True), *before)
    assert conversation.hear(Evicted(EVICTED)) == []
    assert conversation.releases == 1
