"""Requests whose model is another one by a rule, and whose objective gives them a priority."""

import random
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from epp.core.directives import Directives, Rule
from epp.core.events import (
    AnswerBufferedBody,
    AnswerRequestBody,
    AnswerRequestHeaders,
    AnswerResponseBody,
    AnswerResponseHeaders,
    AnswerResponseTrailers,
    BodyMode,
    ContinueResponseBody,
    RequestBody,
    RequestHeaders,
    ResponseBody,
    ResponseHeaders,
    ResponseTrailers,
)
from tests.core.conversation import Conversation, joined

CHAT = b'{"model": "qwen", "messages": [{"role": "user", "content": "hello"}]}'
FOR_SERVER = CHAT.replace(b'"qwen"', b'"qwen-v2"')
ANSWER = b'{"id": "1", "model": "qwen-v2", "usage": {"prompt_tokens": 5, "completion_tokens": 2}}'
FOR_CLIENT = ANSWER.replace(b'"qwen-v2"', b'"qwen"')
OK = {":status": "200", "content-type": "application/json", "content-length": str(len(ANSWER))}
WITHOUT_LENGTH = AnswerResponseHeaders(without_length=True)


def directives(*models: str, of: str = "qwen") -> Directives:
    made = Directives(random.Random(3))
    made.by_model = {of: Rule("canary", models, [1] * len(models))}
    made.priorities = {"batch": -5}
    return made


def asked(conversation: Conversation, mode: BodyMode = BodyMode.FULL_DUPLEX, **headers: str) -> list[object]:
    """The answers to one chat request."""
    whole = {":path": "/v1/chat/completions", "x-request-id": "r", **headers}
    return [
        *conversation.hear(RequestHeaders(whole, request_mode=mode, response_mode=mode)),
        *conversation.hear(RequestBody(CHAT, ended=True)),
    ]


def test_the_server_is_asked_for_the_rules_model_and_the_client_sees_its_own() -> None:
    conversation = Conversation(directives=directives("qwen-v2"))
    assert asked(conversation) == [
        AnswerRequestHeaders(["10.0.0.1:8000"], len(FOR_SERVER)),
        AnswerRequestBody(FOR_SERVER, True),
    ]
    request = conversation.request
    assert (request.payload.model, request.target_model, request.rewritten_by) == (
        "qwen",
        "qwen-v2",
        "canary",
    )
    assert conversation.hear(ResponseHeaders(OK)) == [WITHOUT_LENGTH], "the body gets another length"
    assert conversation.hear(ResponseBody(ANSWER)) == [AnswerResponseBody(FOR_CLIENT, False)]
    assert conversation.hear(ResponseBody(b"", ended=True)) == [AnswerResponseBody(b"", True)]


def test_a_stream_is_renamed_event_by_event() -> None:
    conversation = Conversation(directives=directives("qwen-v2"))
    asked(conversation)
    conversation.hear(ResponseHeaders({":status": "200", "content-type": "text/event-stream"}))
    event = b'data: {"model":"qwen-v2","choices":[{"delta":{"content":"hi"}}]}\n\n'
    told = [conversation.hear(ResponseBody(event)) for _ in range(3)]
    assert told == [[AnswerResponseBody(event.replace(b"qwen-v2", b"qwen"), False)]] * 3
    assert conversation.hear(ResponseBody(event[:12])) == [AnswerResponseBody(b"data: {", False)]
    assert conversation.hear(ResponseBody(event[12:20])) == [], "nothing is certain yet"
    assert conversation.hear(ResponseBody(event[20:], ended=True)) == [
        AnswerResponseBody(event.replace(b"qwen-v2", b"qwen")[7:], True)
    ]


def test_what_waited_is_passed_on_before_the_trailers() -> None:
    conversation = Conversation(directives=directives("qwen-v2"))
    asked(conversation)
    conversation.hear(ResponseHeaders(OK))
    assert conversation.hear(ResponseBody(b'{"model": "q')) == [AnswerResponseBody(b"{", False)]
    assert conversation.hear(ResponseTrailers()) == [
        AnswerResponseBody(b'"model": "q', False),
        AnswerResponseTrailers(),
    ]


def test_a_buffered_body_is_replaced_and_the_gateway_keeps_the_response() -> None:
    """Its bytes are not in our hands: they pass as they are."""
    conversation = Conversation(directives=directives("qwen-v2"))
    answers = asked(conversation, BodyMode.BUFFERED)
    assert answers[1:] == [AnswerBufferedBody(["10.0.0.1:8000"], FOR_SERVER)]
    assert conversation.hear(ResponseHeaders(OK)) == [AnswerResponseHeaders()]
    assert conversation.hear(ResponseBody(ANSWER, ended=True)) == [ContinueResponseBody()]


def test_a_share_that_keeps_its_model_changes_no_byte() -> None:
    conversation = Conversation(directives=directives("qwen"))
    assert asked(conversation)[1] == AnswerRequestBody(CHAT, True)
    assert conversation.request.rewritten_by == "canary", "it was drawn all the same"
    assert conversation.hear(ResponseHeaders(OK)) == [AnswerResponseHeaders()]
    assert conversation.hear(ResponseBody(FOR_CLIENT, ended=True)) == [AnswerResponseBody(FOR_CLIENT, True)]


def test_a_rule_wins_over_the_header() -> None:
    conversation = Conversation(directives=directives("qwen-v2"))
    asked(conversation, **{"x-llm-d-model-name-rewrite": "by-header"})
    assert conversation.request.target_model == "qwen-v2"
    other = Conversation(directives=directives("qwen-v2", of="phi"))
    asked(other, **{"x-llm-d-model-name-rewrite": "by-header"})
    assert (other.request.target_model, other.request.rewritten_by) == ("by-header", "")


def test_a_request_has_its_objectives_priority() -> None:
    conversation = Conversation(directives=directives("qwen"))
    asked(conversation, **{"x-gateway-inference-objective": "batch"})
    assert conversation.request.priority == -5


@given(cuts=st.lists(st.integers(0, len(ANSWER)), max_size=8), by_trailers=st.booleans())
def test_however_the_response_is_cut_the_client_gets_the_same(cuts: list[int], by_trailers: bool) -> None:
    conversation = Conversation(directives=directives("qwen-v2"))
    asked(conversation)
    conversation.hear(ResponseHeaders(OK))
    at = [0, *sorted(cuts), len(ANSWER)]
    answers = [
        answer for start, end in pairwise(at) for answer in conversation.hear(ResponseBody(ANSWER[start:end]))
    ]
    answers += conversation.hear(ResponseTrailers() if by_trailers else ResponseBody(b"", ended=True))
    assert joined(answers, AnswerResponseBody) == FOR_CLIENT
    ends = [answer.ended for answer in answers if isinstance(answer, AnswerResponseBody)]
    assert not any(ends[:-1])
    assert by_trailers or ends[-1]
