import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import frames
from bench.bare import Bare
from bench.echo import _TO_REQUEST_BODY, _TO_RESPONSE_BODY, Echo, body_of, piece
from bench.frames import Kind, Replies
from epp.core.stream import CHUNK_BYTES
from epp.wire.pb import ext_proc_pb2 as pb
from tests.bench.conversations import ANSWER, BODY, conversation, request_messages, response_messages

TO = "127.0.0.1:8001"


def said(call: Echo, messages: list[bytes]) -> list[pb.ProcessingResponse]:
    return [
        pb.ProcessingResponse.FromString(answer) for message in messages for answer in call.receive(message)
    ]


# --- the conversation ----------------------------------------------------------------------------


def test_a_request_goes_to_the_destination_when_its_body_is_complete() -> None:
    call = Echo(TO)
    first, second, last = request_messages()
    assert said(call, [first, second]) == []
    where, body = said(call, [last])
    headers = {
        one.header.key: one.header.raw_value
        for one in where.request_headers.response.header_mutation.set_headers
    }
    assert headers["x-gateway-destination-endpoint"] == TO.encode()
    streamed = body.request_body.response.body_mutation.streamed_response
    assert (streamed.body, streamed.end_of_stream) == (BODY, True)


def test_a_large_body_goes_back_in_the_pickers_pieces() -> None:
    body = bytes(range(256)) * 600
    _, *pieces = said(Echo(TO), request_messages(body))
    streamed = [one.request_body.response.body_mutation.streamed_response for one in pieces]
    assert b"".join(one.body for one in streamed) == body
    assert [len(one.body) for one in streamed] == [CHUNK_BYTES, CHUNK_BYTES, len(body) - 2 * CHUNK_BYTES]
    assert [one.end_of_stream for one in streamed] == [False, False, True]


def test_a_json_answer_goes_back_whole_with_its_end() -> None:
    call = Echo(TO)
    said(call, request_messages())
    answers = said(call, response_messages(ANSWER[:10], ANSWER[10:]))
    assert [one.WhichOneof("response") for one in answers] == ["response_headers", "response_body"]
    streamed = answers[1].response_body.response.body_mutation.streamed_response
    assert (streamed.body, streamed.end_of_stream) == (ANSWER, True)
    assert call.is_over


def test_a_streamed_answer_goes_back_piece_by_piece() -> None:
    call = Echo(TO)
    said(call, request_messages())
    answers = said(call, response_messages(b"data: 1\n\n", b"data: 2\n\n", kind="text/event-stream"))
    streamed = [one.response_body.response.body_mutation.streamed_response for one in answers[1:]]
    assert [one.body for one in streamed] == [b"data: 1\n\n", b"data: 2\n\n", b""]
    assert [one.end_of_stream for one in streamed] == [False, False, True]


@given(
    data=st.binary(max_size=300) | st.integers(0, 70_000).map(bytes),
    ended=st.booleans(),
    is_request=st.booleans(),
)
def test_bodies_are_read_and_written_as_protobuf_says(data: bytes, ended: bool, is_request: bool) -> None:
    part = pb.HttpBody(body=data, end_of_stream=ended)
    message = (
        pb.ProcessingRequest(request_body=part) if is_request else pb.ProcessingRequest(response_body=part)
    )
    assert body_of(message.SerializeToString()) == (data, ended)
    written = pb.ProcessingResponse.FromString(
        piece(_TO_REQUEST_BODY if is_request else _TO_RESPONSE_BODY, data, ended=ended)
    )
    answer = written.request_body if is_request else written.response_body
    streamed = answer.response.body_mutation.streamed_response
    assert (streamed.body, streamed.end_of_stream) == (data, ended)


# --- bare HTTP/2 ---------------------------------------------------------------------------------


class Wire:
    """A transport that keeps what is written, and counts how often."""

    def __init__(self) -> None:
        self.written: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.written.append(data)


def peer() -> tuple[Bare, Wire]:
    bare, wire = Bare(lambda: Echo(TO)), Wire()
    bare.connection_made(wire)  # type: ignore[arg-type]
    return bare, wire


def heard(wire: Wire) -> Replies:
    replies = Replies()
    replies.feed(b"".join(wire.written))
    return replies


@given(cuts=st.lists(st.integers(1, 10_000), max_size=30))
def test_however_a_conversation_is_cut_every_request_gets_its_answers(cuts: list[int]) -> None:
    bare, wire = peer()
    whole = conversation(requests=2)
    edges = sorted({0, len(whole), *(cut % len(whole) for cut in cuts)})
    for start, end in itertools.pairwise(edges):
        bare.data_received(whole[start:end])
    replies = heard(wire)
    for number in (1, 3):
        reply = replies[number]
        assert (reply.status, reply.ended, reply.reset) == (0, True, None)
        kinds = [pb.ProcessingResponse.FromString(one).WhichOneof("response") for one in reply.messages]
        assert kinds == ["request_headers", "request_body", "response_headers", "response_body"]


def test_one_read_is_one_write() -> None:
    bare, wire = peer()
    wire.written.clear()
    bare.data_received(conversation(requests=3))
    assert len(wire.written) == 1


def test_settings_and_pings_are_acknowledged() -> None:
    bare, wire = peer()
    bare.data_received(frames.PREFACE + frames.settings() + frames.ping(b"12345678"))
    acknowledged = [(one.kind, one.flags, one.payload) for one in heard(wire).frames[2:]]
    assert acknowledged == [(Kind.SETTINGS, frames.ACK, b""), (Kind.PING, frames.ACK, b"12345678")]


def test_answers_wait_for_the_connections_window() -> None:
    bare, wire = peer()
    body = bytes(100_000)
    messages = b"".join(frames.data(1, frames.message(one)) for one in request_messages(body))
    bare.data_received(frames.PREFACE + frames.settings() + frames.call(1) + messages)
    before = len(heard(wire)[1].body)
    assert before <= frames.DEFAULT_WINDOW
    bare.data_received(frames.window_update(0, 1 << 20))
    last = pb.ProcessingResponse.FromString(heard(wire)[1].messages[-1])
    assert last.request_body.response.body_mutation.streamed_response.end_of_stream


@pytest.mark.parametrize("size", [1, frames.SMALLEST_MAX_FRAME, frames.SMALLEST_MAX_FRAME + 1])
def test_no_frame_is_larger_than_the_peer_takes(size: int) -> None:
    bare, wire = peer()
    bare.data_received(frames.PREFACE + frames.settings() + frames.call(1))
    bare._answer(1, bytes(size))
    bare.data_received(frames.ping())
    found = [one for one in heard(wire).frames if one.kind == Kind.DATA]
    assert max(len(one.payload) for one in found) <= frames.SMALLEST_MAX_FRAME
    assert sum(len(one.payload) for one in found) == size + 5


def test_what_comes_for_a_stream_that_was_reset_is_ignored() -> None:
    bare, wire = peer()
    bare.data_received(frames.PREFACE + frames.settings() + frames.call(1) + frames.reset(1))
    bare.data_received(frames.data(1, frames.message(request_messages()[0])))
    assert heard(wire)[1].body == b""
