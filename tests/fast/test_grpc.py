"""gRPC on one connection: messages, statuses, deadlines, and services that misbehave."""

import itertools
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import frames
from bench.frames import Error, Kind, Reply, block, call, data, headers, message, request, reset
from epp.runtime.calls import Push
from epp.runtime.fast.limits import Limits
from tests.fast.peer import BROKEN, ECHO, EchoCall, Service, Talk

OK, UNKNOWN, INVALID_ARGUMENT, DEADLINE_EXCEEDED = 0, 2, 3, 4
RESOURCE_EXHAUSTED, UNIMPLEMENTED, INTERNAL = 8, 12, 13


def ask(talk: Talk, *messages: bytes, path: str = ECHO, more: tuple[tuple[str, str], ...] = ()) -> Reply:
    """A whole call on the next stream."""
    stream = 2 * len(talk.service.calls) + 1
    talk.say(call(stream, path, *more), data(stream, b"".join(map(message, messages)), ended=True))
    return talk[stream]


# --- messages ----------------------------------------------------------------------------------------


def test_a_call_is_answered_message_by_message_and_ends_well() -> None:
    talk = Talk()
    talk.say(call(1, ECHO))
    assert not talk[1].headers, "nothing is said before there is something to say"
    talk.say(data(1, message(b"eone")))
    assert talk[1].headers == {
        ":status": "200",
        "content-type": "application/grpc",
        "grpc-accept-encoding": "identity",
    }
    assert talk[1].messages == [b"4 enoe"]
    talk.say(data(1, message(b"n") + message(b"etwo") + message(b"e")))
    assert talk[1].messages == [b"4 enoe", b"4 owte", b"1 e"]
    assert not talk[1].ended
    talk.say(data(1, ended=True))
    assert (talk[1].status, talk[1].reset) == (OK, None)
    talk.end()


@given(
    messages=st.lists(st.binary(max_size=300).map(lambda text: b"e" + text), max_size=8),
    cuts=st.lists(st.integers(0, 2_500), max_size=20),
    paddings=st.lists(st.none() | st.integers(0, 255), min_size=1),
    step=st.integers(1, 3_000),
)
def test_however_messages_are_cut_into_frames_and_reads_they_are_the_same(
    messages: list[bytes], cuts: list[int], paddings: list[int | None], step: int
) -> None:
    whole = b"".join(map(message, messages))
    edges = [0, *sorted(cut for cut in cuts if cut < len(whole)), len(whole)]
    parts = [whole[begin:end] for begin, end in itertools.pairwise(edges)]
    talk = Talk()
    sent = [data(1, part, padding=paddings[n % len(paddings)]) for n, part in enumerate(parts)]
    talk.say_slowly(call(1, ECHO), *sent, data(1, ended=True), step=step)
    (heard,) = talk.service.calls
    assert heard.heard == messages
    assert talk[1].messages == heard.said
    assert talk[1].status == OK
    talk.end()


def test_a_message_may_be_as_large_as_allowed_and_no_larger() -> None:
    talk = Talk(limits=Limits(max_receive_bytes=1_000))
    assert ask(talk, b"e" + bytes(999)).status == OK
    too_large = ask(talk, b"e" + bytes(1_000))
    assert too_large.status == RESOURCE_EXHAUSTED
    assert too_large.headers["grpc-message"] == "a message of 1001 bytes; 1000 are allowed"
    assert talk.is_alive()
    talk.end()


def test_a_message_that_only_says_that_it_is_too_large_is_refused_before_it_is_here() -> None:
    talk = Talk(limits=Limits(max_receive_bytes=1_000))
    talk.say(call(1, ECHO), data(1, frames.message(b"", length=2**32 - 1)))
    assert talk[1].status == RESOURCE_EXHAUSTED
    talk.end()


def test_an_answer_may_be_as_large_as_allowed_and_no_larger() -> None:
    talk = Talk(limits=Limits(max_receive_bytes=1_000, max_send_bytes=500))
    assert ask(talk, b"l500").status == OK
    too_large = ask(talk, b"l1", b"l501", b"l2")
    assert (too_large.status, [len(one) for one in too_large.messages]) == (RESOURCE_EXHAUSTED, [1])
    assert talk.is_alive()
    talk.end()


def test_large_answers_leave_in_frames_that_the_peer_takes() -> None:
    talk = Talk(settings={frames.Setting.MAX_FRAME_SIZE: 20_000, frames.Setting.INITIAL_WINDOW_SIZE: 1 << 20})
    talk.say(frames.window_update(0, 1 << 20))
    reply = ask(talk, b"l100000", b"e", b"l20000")
    sizes = [len(one.payload) for one in talk.replies.frames if one.kind == Kind.DATA]
    assert max(sizes) == 20_000 and len(sizes) < 10
    assert [len(one) for one in reply.messages] == [100_000, 3, 20_000]
    assert reply.status == OK
    talk.end()


@pytest.mark.parametrize("so_far", [1, 4, 5, 7])
def test_a_call_that_ends_inside_a_message_fails(so_far: int) -> None:
    talk = Talk()
    talk.say(call(1, ECHO), data(1, message(b"e") + message(b"eabc")[:so_far], ended=True))
    assert talk[1].messages == [b"1 e"]
    assert talk[1].status == INTERNAL
    assert talk.is_alive()
    talk.end()


@pytest.mark.parametrize(
    "encoding, status",
    [(None, INTERNAL), ("identity", INTERNAL), ("gzip", UNIMPLEMENTED), ("deflate", UNIMPLEMENTED)],
)
def test_a_compressed_message_is_refused_with_what_is_accepted(encoding: str | None, status: int) -> None:
    talk = Talk()
    more = [] if encoding is None else [("grpc-encoding", encoding)]
    talk.say(call(1, ECHO, *more), data(1, message(b"xx", compressed=True)))
    assert talk[1].status == status
    assert talk[1].headers["grpc-accept-encoding"] == "identity"
    assert not talk.service.calls[0].heard
    talk.end()


def test_a_client_that_could_compress_but_does_not_is_served() -> None:
    assert ask(Talk(), b"e", more=(("grpc-encoding", "gzip"),)).status == OK


# --- who is served -----------------------------------------------------------------------------------


def test_an_unknown_method_is_unimplemented() -> None:
    talk = Talk()
    talk.say(call(1, "/test.Service/Unknown"), data(1, message(b"e")), call(3, "/other"), data(3, ended=True))
    for stream in (1, 3):
        assert talk[stream].headers[":status"] == "200"
        assert talk[stream].status == UNIMPLEMENTED
    assert talk.is_alive()
    talk.end()


@pytest.mark.parametrize("kind", [None, "", "text/plain", "application/grpcx", "application/json"])
def test_what_is_no_grpc_is_told_so_when_it_has_ended(kind: str | None) -> None:
    talk = Talk()
    talk.say(headers(1, block(request(ECHO, kind=kind))), data(1, b"hello"))
    assert not talk[1].headers
    talk.say(data(1, ended=True))
    assert talk[1].headers[":status"] == "415"
    assert talk[1].headers["content-type"].startswith("text/plain")
    assert talk[1].ended and talk[1].body.endswith(b"\n") and talk[1].body.count(b"\n") == 1
    assert talk.is_alive()
    talk.end()


def test_a_browser_is_told_so() -> None:
    talk = Talk()
    talk.say(headers(1, block(request("/", method="GET", kind=None)), ended=True))
    assert talk[1].headers[":status"] == "415"
    talk.end()


@pytest.mark.parametrize(
    "kind", ["application/grpc", "application/grpc+proto", "application/grpc;charset=utf-8"]
)
def test_every_spelling_of_the_content_type_is_served(kind: str) -> None:
    talk = Talk()
    talk.say(headers(1, block(request(ECHO, kind=kind))), data(1, message(b"e"), ended=True))
    assert talk[1].status == OK
    talk.end()


# --- how a call ends ---------------------------------------------------------------------------------


def test_a_call_that_is_over_is_ended_from_here_and_the_peer_may_stop_sending() -> None:
    talk = Talk()
    talk.say(call(1, ECHO), data(1, message(b"o") + message(b"e")))
    assert talk[1].messages == [b"1 o"] and talk[1].status == OK and talk[1].reset is Error.NO_ERROR
    talk.say(data(1, message(b"e")), data(1, ended=True))
    assert talk.fault is None
    talk.end()


def test_a_failure_carries_its_text() -> None:
    talk = Talk()
    reply = ask(talk, b"e", b"f", b"e")
    assert (reply.messages, reply.status) == ([b"1 e"], INVALID_ARGUMENT)
    assert reply.headers["grpc-message"] == "as you wish: 100 %25 %E2%98%83"
    talk.end()


def test_a_defect_of_a_service_costs_one_stream(caplog: pytest.LogCaptureFixture) -> None:
    talk = Talk()
    assert ask(talk, b"e", b"x", b"e").status == INTERNAL
    assert talk.is_alive()
    talk.end()
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


def test_a_service_that_cannot_begin_costs_one_stream(caplog: pytest.LogCaptureFixture) -> None:
    talk = Talk()
    talk.say(call(1, BROKEN), data(1, message(b"e"), ended=True))
    assert talk[1].status == INTERNAL
    assert talk.is_alive()
    talk.end()
    assert caplog.records


@pytest.mark.parametrize(
    "timeout, seconds", [("1S", 1.0), ("250m", 0.25), ("2M", 120.0), ("1H", 3600.0), ("500000u", 0.5)]
)
def test_a_deadline_ends_its_call(timeout: str, seconds: float) -> None:
    talk = Talk()
    talk.say(call(1, ECHO, ("grpc-timeout", timeout)), data(1, message(b"e")))
    talk.wait(seconds * 0.99)
    assert not talk[1].is_over and not talk.woken
    talk.wait(seconds * 0.02)
    assert talk[1].status == DEADLINE_EXCEEDED and talk.woken
    assert talk.service.calls[0].closed
    assert talk.is_alive()
    talk.end()


def test_a_deadline_is_forgotten_with_its_call() -> None:
    talk = Talk()
    ask(talk, b"e", more=(("grpc-timeout", "10S"),))
    talk.say(call(3, ECHO, ("grpc-timeout", "10S")), reset(3))
    assert talk.clock.timers == 0
    talk.end()


@pytest.mark.parametrize("timeout", ["", "5", "S", "1.5S", "-1S", "123456789S", "1 S", "1D", "\u0663S"])
def test_a_deadline_that_cannot_be_read_is_an_error(timeout: str) -> None:
    talk = Talk()
    pairs = [*request(ECHO), ("grpc-timeout", timeout.encode().decode("latin-1"))]
    talk.say(headers(1, block(pairs)), data(1, message(b"e"), ended=True))
    assert talk[1].reset is Error.PROTOCOL_ERROR, "which clients take for INTERNAL"
    assert talk.is_alive()
    talk.end()


# --- answers that come later -------------------------------------------------------------------------


def test_answers_may_come_later() -> None:
    talk = Talk()
    talk.say(call(1, ECHO), data(1, message(b"pone") + message(b"e")))
    assert talk[1].messages == [b"1 e"] and not talk.woken
    talk.service.calls[0].push_next()
    assert talk.woken == 1
    talk.hear()
    assert talk[1].messages == [b"1 e", b"4 enop"]
    talk.end()


def test_a_peer_that_has_said_all_waits_for_what_is_still_to_come() -> None:
    talk = Talk()
    talk.say(call(1, ECHO), data(1, message(b"w1") + message(b"p") + message(b"w2"), ended=True))
    (waiting,) = talk.service.calls
    for so_far in (1, 2, 3):
        assert not talk[1].ended
        waiting.push_next()
        talk.hear()
        assert len(talk[1].messages) == so_far
    assert talk[1].status == 0 and waiting.closed
    talk.end()


def test_answers_that_come_too_late_are_lost_without_harm() -> None:
    talk = Talk()
    talk.say(call(1, ECHO), data(1, message(b"p")), reset(1))
    talk.say(call(3, ECHO), data(3, message(b"p"), ended=True))
    for late in talk.service.calls:
        late.push_next()
    assert not talk.hear() and talk.is_alive()
    talk.end()
    talk.service.calls[0].later.append(b"after the connection")
    talk.service.calls[0].push_next()
    assert not talk.hear()


class Eager(EchoCall):
    """Pushes within ``receive``, and may be over at once."""

    def receive(self, message: bytes) -> list[bytes]:
        self.is_over = message == b"last"
        self._push([b"pushed"])
        return [b"returned"]


@pytest.mark.parametrize("last", [False, True])
def test_a_service_may_push_while_it_answers(last: bool) -> None:
    eager: list[Eager] = []

    def opened(push: Push) -> Eager:
        eager.append(Eager(push))
        return eager[-1]

    talk = Talk(services={ECHO: opened})
    talk.say(call(1, ECHO), data(1, message(b"last" if last else b"more")))
    assert talk[1].messages[0] == b"pushed", "and nothing after the end of the stream, or Replies complains"
    assert talk[1].ended == last
    talk.end()
    assert [one.closed for one in eager] == [1]


def test_a_service_may_push_while_it_opens() -> None:
    def opened(push: Push) -> EchoCall:
        push([b"welcome"])
        return EchoCall(push)

    talk = Talk(services={ECHO: opened})
    talk.say(call(1, ECHO))
    assert talk[1].messages == [b"welcome"] and not talk[1].ended
    talk.say(data(1, message(b"e"), ended=True))
    assert (talk[1].messages, talk[1].status) == ([b"welcome", b"1 e"], OK)
    talk.end()


def test_headers_on_a_stream_that_its_peer_has_ended_are_too_late_although_its_answer_is_due() -> None:
    talk = Talk()
    talk.say(call(1, ECHO), data(1, message(b"w"), ended=True))
    talk.say(headers(1, block([("x", "y")]), ended=True))
    assert talk.fault is Error.STREAM_CLOSED
    talk.end()


def test_services_that_have_nothing_to_do_with_each_other_share_a_connection() -> None:
    other = Service()
    talk = Talk(services={ECHO: other.open, "/more": other.open})
    talk.say(call(1, ECHO), call(3, "/more"), data(3, message(b"e3"), ended=True), data(1, message(b"e1")))
    assert (talk[3].messages, talk[1].messages) == ([b"2 3e"], [b"2 1e"])
    talk.end()
    assert other.open_calls == 0
