"""How a response ends: its last piece and its end are one answer where that costs nobody any time."""

import pytest

from epp.core.events import (
    AnswerResponseBody,
    AnswerResponseHeaders,
    AnswerResponseTrailers,
    BodyMode,
    ContinueResponseBody,
    RequestBody,
    RequestHeaders,
    RequestTrailers,
    ResponseBody,
    ResponseHeaders,
    ResponseTrailers,
    StreamClosed,
)
from tests.core.conversation import Conversation

CHAT = b'{"model": "tiny", "messages": [{"role": "user", "content": "hello"}]}'
FOUR_BYTES = ResponseHeaders({":status": "200", "content-type": "application/json", "content-length": "4"})


def asked(**modes: BodyMode) -> Conversation:
    conversation = Conversation()
    conversation.hear(RequestHeaders({":path": "/v1/models"}, ended=True, **modes))
    return conversation


def test_the_last_piece_of_a_known_length_leaves_with_the_end() -> None:
    conversation = asked()
    assert conversation.hear(FOUR_BYTES) == [AnswerResponseHeaders()]
    assert conversation.hear(ResponseBody(b"{ ")) == [AnswerResponseBody(b"{ ", False)]
    assert conversation.hear(ResponseBody(b" }")) == []
    assert conversation.hear(ResponseBody(b"", ended=True)) == [AnswerResponseBody(b" }", True)]


def test_the_last_piece_leaves_before_the_trailers() -> None:
    conversation = asked()
    conversation.hear(FOUR_BYTES, ResponseBody(b"{  }"))
    assert conversation.hear(ResponseTrailers()) == [
        AnswerResponseBody(b"{  }", False),
        AnswerResponseTrailers(),
    ]
    assert conversation.releases == 1


@pytest.mark.parametrize("length", ["", "9", "-1", "4x"])
def test_a_piece_whose_end_may_take_its_time_passes_at_once(length: str) -> None:
    conversation = asked()
    conversation.hear(ResponseHeaders({":status": "200", "content-length": length}))
    assert conversation.hear(ResponseBody(b"data")) == [AnswerResponseBody(b"data", False)]


def test_a_gateway_that_keeps_the_body_gets_its_answer_at_once() -> None:
    conversation = asked(response_mode=BodyMode.STREAMED)
    conversation.hear(FOUR_BYTES)
    assert conversation.hear(ResponseBody(b"{  }")) == [ContinueResponseBody()]


def test_a_client_that_leaves_before_the_end_gets_its_reservation_back() -> None:
    conversation = asked()
    conversation.hear(FOUR_BYTES, ResponseBody(b"{  }"), StreamClosed())
    assert conversation.releases == 1 and not conversation.outcome.response_complete


def test_a_stream_is_over_when_nothing_more_can_come() -> None:
    conversation = asked()
    conversation.hear(FOUR_BYTES, ResponseBody(b"{  }"))
    assert not conversation.stream.is_over
    conversation.hear(ResponseBody(b"", ended=True))
    assert conversation.stream.is_over


def test_a_stream_whose_request_may_go_on_is_not_over() -> None:
    """agentgateway sends an empty chunk after the trailers; STREAMED bodies outlive an early answer."""
    after_trailers, streamed = Conversation(), Conversation()
    after_trailers.hear(RequestHeaders({":path": "/x"}), RequestBody(CHAT), RequestTrailers())
    streamed.hear(RequestHeaders({":path": "/x"}, request_mode=BodyMode.STREAMED))
    for conversation in (after_trailers, streamed):
        conversation.hear(FOUR_BYTES, ResponseBody(b"{  }", ended=True))
        assert conversation.releases == 1
        assert not conversation.stream.is_over
