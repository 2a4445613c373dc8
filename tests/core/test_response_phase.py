"""Less of the response: what the gateway is asked for, when a stream is left, what then feeds the counts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp.core.events import (
    Answer,
    AnswerBufferedBody,
    AnswerRequestBody,
    AnswerRequestHeaders,
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
    ResponseBody,
    ResponseHeaders,
    ResponsePhase,
    ResponseTrailers,
    StreamClosed,
)
from epp.core.rejection import NO_CANDIDATES
from epp.core.response_reader import Usage
from tests.core.conversation import FIRST, Conversation

STREAMED, BUFFERED, NONE, FULL = BodyMode.STREAMED, BodyMode.BUFFERED, BodyMode.NONE, BodyMode.FULL_DUPLEX
CHAT = b'{"model": "tiny", "messages": [{"role": "user", "content": "hello"}]}'
JSON = {":status": "200", "content-type": "application/json"}
SSE = {":status": "200", "content-type": "text/event-stream"}
TOKEN = b'data: {"choices":[{"delta":{"content":"x"}}]}\n\n'
ANSWER = b'{"usage":{"prompt_tokens":5,"completion_tokens":2,"total_tokens":7}}'
TO = ["10.0.0.1:8000"]


def post(request: BodyMode, response: BodyMode, *, ended: bool = False) -> RequestHeaders:
    headers = {":path": "/v1/chat/completions", "x-request-id": "r-1"}
    return RequestHeaders(headers, None, request, response, ended)


def headers_only(request: BodyMode) -> Override:
    return Override(request, True)


def nothing(request: BodyMode) -> Override:
    return Override(request, False)


# Until the stream is over, or the gateway closes it: what is said, what is answered.
LEAVES = "the picker ends the stream"
STAYS = "the gateway ends the stream"
HEADERS: dict[str, tuple[str, list[tuple[Event, list[Answer]]]]] = {
    "STREAMED, and the gateway leaves the body out": (
        STAYS,
        [
            (post(STREAMED, STREAMED), [AnswerRequestHeaders(TO)]),
            (RequestBody(CHAT, True), [ContinueRequestBody()]),
            (ResponseHeaders(SSE), [AnswerResponseHeaders(headers_only(STREAMED))]),
        ],
    ),
    "BUFFERED, and the gateway leaves the body out": (
        STAYS,
        [
            (post(BUFFERED, BUFFERED), [ContinueRequestHeaders()]),
            (RequestBody(CHAT, True), [AnswerBufferedBody(TO)]),
            (ResponseHeaders(JSON), [AnswerResponseHeaders(headers_only(BUFFERED))]),
        ],
    ),
    "it may still show trailers": (
        STAYS,
        [
            (post(STREAMED, STREAMED, ended=True), [AnswerRequestHeaders(TO)]),
            (ResponseHeaders(SSE), [AnswerResponseHeaders(headers_only(STREAMED))]),
            (ResponseTrailers(), [AnswerResponseTrailers()]),
        ],
    ),
    "STREAMED, and the gateway shows the body all the same": (
        LEAVES,
        [
            (post(STREAMED, STREAMED, ended=True), [AnswerRequestHeaders(TO)]),
            (ResponseHeaders(SSE), [AnswerResponseHeaders(headers_only(STREAMED))]),
            (ResponseBody(TOKEN), [ContinueResponseBody()]),
        ],
    ),
    "BUFFERED, and the gateway shows the body all the same: it is whole": (
        LEAVES,
        [
            (post(BUFFERED, BUFFERED, ended=True), [AnswerRequestHeaders(TO)]),
            (ResponseHeaders(JSON), [AnswerResponseHeaders(headers_only(BUFFERED))]),
            (ResponseBody(ANSWER, True), [ContinueResponseBody()]),
        ],
    ),
    "nothing can be asked where the request is full duplex": (
        LEAVES,
        [
            (post(FULL, STREAMED, ended=True), [AnswerRequestHeaders(TO)]),
            (ResponseHeaders(SSE), [AnswerResponseHeaders()]),
            (ResponseBody(TOKEN), [ContinueResponseBody()]),
        ],
    ),
    "a full duplex response is passed on to its end: its bytes are here and nowhere else": (
        LEAVES,
        [
            (post(FULL, FULL), []),
            (RequestBody(CHAT, True), [AnswerRequestHeaders(TO, len(CHAT)), AnswerRequestBody(CHAT, True)]),
            (ResponseHeaders(SSE), [AnswerResponseHeaders()]),
            (ResponseBody(TOKEN), [AnswerResponseBody(TOKEN, False)]),
            (ResponseBody(b"", True), [AnswerResponseBody(b"", True)]),
        ],
    ),
    "the same behind a request that is not": (
        LEAVES,
        [
            (post(BUFFERED, FULL, ended=True), [AnswerRequestHeaders(TO)]),
            (ResponseHeaders(SSE), [AnswerResponseHeaders()]),
            (ResponseBody(TOKEN), [AnswerResponseBody(TOKEN, False)]),
            (ResponseBody(TOKEN, True), [AnswerResponseBody(TOKEN, True)]),
        ],
    ),
    "a gateway that is set up so needs no asking": (
        STAYS,
        [
            (post(FULL, NONE, ended=True), [AnswerRequestHeaders(TO)]),
            (ResponseHeaders(SSE), [AnswerResponseHeaders()]),
        ],
    ),
    "an answer without a body": (
        STAYS,
        [
            (post(STREAMED, STREAMED, ended=True), [AnswerRequestHeaders(TO)]),
            (ResponseHeaders({":status": "204"}, ended=True), [AnswerResponseHeaders()]),
        ],
    ),
}
NOTHING: dict[str, tuple[str, list[tuple[Event, list[Answer]]]]] = {
    "STREAMED, and the gateway leaves all of it out": (
        STAYS,
        [
            (post(STREAMED, STREAMED), [AnswerRequestHeaders(TO, override=nothing(STREAMED))]),
            (RequestBody(CHAT, True), [ContinueRequestBody()]),
        ],
    ),
    "BUFFERED, and the gateway leaves all of it out": (
        STAYS,
        [
            (post(BUFFERED, BUFFERED), [ContinueRequestHeaders(nothing(BUFFERED))]),
            (RequestBody(CHAT, True), [AnswerBufferedBody(TO)]),
        ],
    ),
    "headers only, and the gateway leaves all of it out": (
        STAYS,
        [(post(NONE, NONE), [AnswerRequestHeaders(TO, override=nothing(NONE))])],
    ),
    "it may still show trailers": (
        STAYS,
        [
            (post(STREAMED, STREAMED, ended=True), [AnswerRequestHeaders(TO, override=nothing(STREAMED))]),
            (ResponseTrailers(), [AnswerResponseTrailers()]),
        ],
    ),
    "STREAMED, and the gateway shows the response all the same": (
        LEAVES,
        [
            (post(STREAMED, STREAMED, ended=True), [AnswerRequestHeaders(TO, override=nothing(STREAMED))]),
            (ResponseHeaders(SSE), [AnswerResponseHeaders()]),
        ],
    ),
    "nothing can be asked where the request is full duplex": (
        LEAVES,
        [
            (post(FULL, BUFFERED, ended=True), [AnswerRequestHeaders(TO)]),
            (ResponseHeaders(JSON), [AnswerResponseHeaders()]),
        ],
    ),
    "a full duplex response is passed on to its end": (
        LEAVES,
        [
            (post(FULL, FULL, ended=True), [AnswerRequestHeaders(TO)]),
            (ResponseHeaders(SSE), [AnswerResponseHeaders()]),
            (ResponseBody(TOKEN), [AnswerResponseBody(TOKEN, False)]),
            (ResponseBody(b"", True), [AnswerResponseBody(b"", True)]),
        ],
    ),
    "headers cost little where the gateway shows nothing else": (
        STAYS,
        [
            (post(FULL, NONE, ended=True), [AnswerRequestHeaders(TO)]),
            (ResponseHeaders(SSE), [AnswerResponseHeaders()]),
        ],
    ),
}


@pytest.mark.parametrize(
    "phase, name",
    [
        *((ResponsePhase.HEADERS, name) for name in HEADERS),
        *((ResponsePhase.NONE, name) for name in NOTHING),
    ],
)
def test_what_is_answered_and_who_ends_the_stream(phase: ResponsePhase, name: str) -> None:
    who, said = (HEADERS if phase is ResponsePhase.HEADERS else NOTHING)[name]
    conversation = Conversation(response_phase=phase)
    in_flight = FIRST.requests_in_flight
    for event, answers in said:
        assert not conversation.stream.is_over
        assert conversation.hear(event) == answers
    assert conversation.stream.is_over == (who is LEAVES)
    conversation.hear(StreamClosed())
    assert conversation.releases == len(conversation.decisions) == 1
    assert FIRST.requests_in_flight == in_flight and conversation.budget.used == 0
    assert len(conversation.outcomes) == 1


# --- what is left to count ---------------------------------------------------------------------------


def asked(phase: ResponsePhase, request: BodyMode, response: BodyMode) -> Conversation:
    conversation = Conversation(response_phase=phase)
    conversation.hear(post(request, response, ended=True))
    return conversation


def test_a_request_is_in_flight_until_the_stream_ends() -> None:
    """The gateway holds the stream open as long as it answers the client."""
    for phase, heard in ((ResponsePhase.HEADERS, [ResponseHeaders(SSE)]), (ResponsePhase.NONE, [])):
        before = FIRST.requests_in_flight
        conversation = asked(phase, STREAMED, STREAMED)
        conversation.hear(*heard)
        assert FIRST.requests_in_flight == before + 1
        conversation.hear(StreamClosed())
        assert FIRST.requests_in_flight == before


def test_the_prompt_is_worked_off_when_the_headers_come() -> None:
    """No first token will be seen; until the end it would look like work to come."""
    before = FIRST.tokens_in_flight
    for phase, response in ((ResponsePhase.HEADERS, STREAMED), (ResponsePhase.FULL, NONE)):
        conversation = asked(phase, STREAMED, response)
        assert FIRST.tokens_in_flight == before + 7
        conversation.hear(ResponseHeaders(SSE))
        assert (FIRST.tokens_in_flight, conversation.prefills) == (before, 1)
        conversation.hear(StreamClosed())
        assert (conversation.prefills, conversation.releases) == (1, 1)


def test_a_body_that_was_left_out_has_no_size_and_is_complete_with_its_status() -> None:
    conversation = asked(ResponsePhase.HEADERS, STREAMED, STREAMED)
    conversation.hear(ResponseHeaders(SSE), StreamClosed())
    outcome = conversation.outcome
    assert (outcome.status, outcome.response_bytes) == (200, None)
    assert outcome.response_complete and not outcome.is_unseen
    assert (outcome.usage, outcome.first_token_at) == (None, None)


def test_a_response_that_was_left_out_is_unseen() -> None:
    conversation = asked(ResponsePhase.NONE, STREAMED, STREAMED)
    conversation.hear(StreamClosed())
    outcome = conversation.outcome
    assert outcome.is_unseen and not outcome.response_complete
    assert (outcome.status, outcome.response_bytes) == (None, None)


def test_an_answer_that_was_left_in_the_middle_is_unseen() -> None:
    conversation = asked(ResponsePhase.HEADERS, STREAMED, STREAMED)
    conversation.hear(ResponseHeaders(SSE), ResponseBody(TOKEN), StreamClosed())
    outcome = conversation.outcome
    assert outcome.is_unseen and not outcome.response_complete
    assert outcome.status == 200


@pytest.mark.parametrize("request_mode", [BUFFERED, STREAMED, FULL])
def test_a_response_that_was_left_at_its_headers_has_a_status_and_no_end(request_mode: BodyMode) -> None:
    """The stream lasts a millisecond, whatever the answer takes: that is no duration."""
    conversation = asked(ResponsePhase.NONE, request_mode, STREAMED)
    conversation.hear(ResponseHeaders(SSE), StreamClosed())
    outcome = conversation.outcome
    assert (outcome.status, outcome.is_left, outcome.is_unseen) == (200, True, True)
    assert not outcome.response_complete


def test_headers_that_come_all_the_same_tell_the_status_of_a_stream_that_is_kept() -> None:
    """The gateway shows no body and holds the stream open to the end of the answer."""
    conversation = asked(ResponsePhase.NONE, FULL, NONE)
    conversation.hear(ResponseHeaders(SSE), StreamClosed())
    outcome = conversation.outcome
    assert outcome.response_complete and not outcome.is_left


def test_a_body_that_comes_whole_all_the_same_is_read() -> None:
    conversation = asked(ResponsePhase.HEADERS, BUFFERED, BUFFERED)
    conversation.hear(ResponseHeaders(JSON), ResponseBody(ANSWER, True))
    assert conversation.releases == 1
    conversation.hear(StreamClosed())
    outcome = conversation.outcome
    assert outcome.response_complete and not outcome.is_unseen
    assert (outcome.usage, outcome.response_bytes) == (Usage(5, 2, None, 7), len(ANSWER))


def test_trailers_end_a_response_of_which_nothing_else_was_shown() -> None:
    conversation = asked(ResponsePhase.NONE, STREAMED, STREAMED)
    conversation.hear(ResponseTrailers())
    assert conversation.releases == 1
    conversation.hear(StreamClosed())
    outcome = conversation.outcome
    assert outcome.response_complete and (outcome.status, outcome.response_bytes) == (None, None)


def test_what_gateways_leave_out_by_themselves_is_broken_off_when_nothing_comes() -> None:
    """Where all was to be seen, a stream that ends before the response is a client that left."""
    conversation = asked(ResponsePhase.FULL, STREAMED, NONE)
    conversation.hear(StreamClosed())
    outcome = conversation.outcome
    assert not outcome.is_unseen and not outcome.response_complete


@pytest.mark.parametrize("phase", ResponsePhase)
def test_a_refusal_asks_for_nothing(phase: ResponsePhase) -> None:
    conversation = Conversation(refuse=NO_CANDIDATES, response_phase=phase)
    assert conversation.hear(post(STREAMED, STREAMED)) == [Reject(NO_CANDIDATES)]
    conversation.hear(StreamClosed())
    assert not conversation.stream.is_over and conversation.releases == 0


# --- properties --------------------------------------------------------------------------------------

modes = st.sampled_from(BodyMode)
pieces = st.lists(st.sampled_from([TOKEN, ANSWER, b"", b"x" * 40]), max_size=5)


@given(
    phase=st.sampled_from(ResponsePhase),
    request=modes,
    response=modes,
    headers=st.sampled_from([JSON, SSE, {**JSON, "content-length": "40"}, {":status": "503"}]),
    body=pieces,
)
def test_nothing_of_a_body_in_our_hands_is_ever_left_behind(
    *, phase: ResponsePhase, request: BodyMode, response: BodyMode, headers: dict[str, str], body: list[bytes]
) -> None:
    """A stream is over only where the gateway has every byte, or has them all back."""
    conversation = asked(phase, request, response)
    given_away, back = b"", b""
    events: list[Event] = [ResponseHeaders(headers), *map(ResponseBody, body), ResponseBody(b"", True)]
    for event in events:
        if conversation.stream.is_over:
            break
        answers = conversation.hear(event)
        if isinstance(event, ResponseBody) and response is FULL:
            given_away += event.data
        back += b"".join(one.data for one in answers if isinstance(one, AnswerResponseBody))
        overrides = [one.override for one in answers if isinstance(one, AnswerResponseHeaders)]
        assert not (any(overrides) and FULL in (request, response)), "which Envoy would not heed"
        if conversation.stream.is_over:
            assert back == given_away
            assert response is not FULL or event is events[-1]
    conversation.hear(StreamClosed())
    assert conversation.releases == 1 and conversation.prefills <= 1
    assert (conversation.outcome.response_bytes is None) <= (
        phase is not ResponsePhase.FULL or response is NONE
    )
