"""Windows in both directions, settings that change in between, and how a connection comes to its end."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import frames
from bench.frames import (
    Error,
    Kind,
    Setting,
    call,
    data,
    goaway,
    message,
    ping,
    reset,
    settings,
    window_update,
)
from epp.runtime.fast.limits import Limits
from tests.fast.peer import ECHO, Talk, held_bytes

MIB = 1 << 20


def small(window: int, **more: int) -> Talk:
    """A client that gives each stream so much, and the connection plenty."""
    talk = Talk(settings={Setting.INITIAL_WINDOW_SIZE: window, **more})
    talk.say(window_update(0, 100 * MIB))
    return talk


# --- answers that wait for the peer ------------------------------------------------------------------


def test_answers_wait_for_the_stream_s_window() -> None:
    talk = small(10)
    talk.say(call(1, ECHO), data(1, message(b"l100"), ended=True))
    assert len(talk[1].body) == 10 and not talk[1].ended
    talk.say(window_update(1, 94))
    assert len(talk[1].body) == 104 and not talk[1].ended
    talk.say(window_update(1, 1))
    assert [len(one) for one in talk[1].messages] == [100]
    assert talk[1].status == 0
    talk.end()


def test_answers_wait_for_the_connection_s_window_and_all_streams_have_their_turn() -> None:
    talk = Talk(settings={Setting.INITIAL_WINDOW_SIZE: MIB})
    for stream in (1, 3, 5):
        talk.say(call(stream, ECHO), data(stream, message(b"l50000"), ended=True))
    for _ in range(10):
        talk.say(window_update(0, 10_000))
    assert [talk[stream].status for stream in (1, 3, 5)] == [0, 0, 0]
    talk.end()


def test_a_stream_without_window_does_not_hold_up_the_others() -> None:
    talk = small(0)
    talk.say(call(1, ECHO), data(1, message(b"l100")))
    talk.say(call(3, ECHO), window_update(3, 1_000), data(3, message(b"e"), ended=True))
    assert talk[3].status == 0 and talk[1].body == b""
    talk.end()


def test_a_stream_with_an_endless_answer_does_not_starve_the_others() -> None:
    talk = Talk(settings={Setting.INITIAL_WINDOW_SIZE: 100 * MIB})
    talk.say(
        call(1, ECHO), data(1, message(b"l20000000")), call(3, ECHO), data(3, message(b"l100000"), ended=True)
    )
    for _ in range(60):
        talk.say(window_update(0, 10_000))
    assert talk[3].status == 0, "half of the window would have done"
    talk.end()


def test_an_empty_answer_needs_five_bytes_of_window() -> None:
    talk = small(4)
    talk.say(call(1, ECHO), data(1, message(b"l0"), ended=True))
    assert talk[1].body == bytes(4)
    talk.say(window_update(1, 1))
    assert talk[1].messages == [b""] and talk[1].status == 0
    talk.end()


def test_the_end_does_not_wait_for_a_window_when_there_is_nothing_to_send() -> None:
    talk = small(0)
    talk.say(call(1, ECHO), data(1, message(b"n"), ended=True))
    assert talk[1].status == 0
    talk.end()


def test_a_smaller_window_counts_for_open_streams_and_may_be_negative() -> None:
    talk = small(1_000)
    talk.say(call(1, ECHO), data(1, message(b"l5000")))
    assert len(talk[1].body) == 1_000
    talk.say(settings({Setting.INITIAL_WINDOW_SIZE: 200}), window_update(1, 800))
    assert len(talk[1].body) == 1_000
    talk.say(window_update(1, 5))
    assert len(talk[1].body) == 1_005
    talk.end()


def test_settings_are_acknowledged_before_they_are_made_use_of() -> None:
    """A client counts by its new windows and frame sizes from the acknowledgement on."""
    talk = small(0)
    talk.say(call(1, ECHO), data(1, message(b"l100000"), ended=True))
    told = talk.say(settings({Setting.MAX_FRAME_SIZE: 50_000, Setting.INITIAL_WINDOW_SIZE: MIB}))
    assert (told[0].kind, told[0].flags) == (Kind.SETTINGS, frames.ACK)
    assert max(len(one.payload) for one in told) == 50_000
    assert talk[1].status == 0
    talk.end()


def test_within_one_frame_of_settings_the_last_value_counts() -> None:
    talk = small(0)
    talk.say(call(1, ECHO), data(1, message(b"l100")))
    twice = settings({Setting.INITIAL_WINDOW_SIZE: MIB}) + settings({Setting.INITIAL_WINDOW_SIZE: 7})
    pairs = twice[9:15] + twice[24:30]
    talk.say(frames.frame(Kind.SETTINGS, 0, 0, pairs))
    assert len(talk[1].body) == 7
    talk.end()


def test_unknown_settings_are_no_mistake() -> None:
    talk = Talk()
    talk.say(settings({0x99: 7, Setting.MAX_HEADER_LIST_SIZE: 1, Setting.MAX_CONCURRENT_STREAMS: 0}))
    assert talk.is_alive()
    talk.end()


def test_delivered_is_said_when_everything_has_left() -> None:
    talk = small(100)
    talk.say(call(1, ECHO), data(1, message(b"e")))
    (served,) = talk.service.calls
    assert served.deliveries == 1
    talk.say(data(1, message(b"l200")))
    assert served.deliveries == 1
    talk.say(window_update(1, 1_000))
    assert served.deliveries == 2
    talk.end()


@given(
    windows=st.lists(st.tuples(st.sampled_from([0, 1]), st.integers(1, 3_000)), max_size=60),
    sizes=st.lists(st.integers(0, 4_000), min_size=1, max_size=8),
    first=st.integers(0, 3_000),
)
def test_whatever_the_windows_the_same_bytes_arrive_in_the_same_order(
    windows: list[tuple[int, int]], sizes: list[int], first: int
) -> None:
    talk = Talk(settings={Setting.INITIAL_WINDOW_SIZE: first})
    room = {0: 65_535, 1: first}
    talk.say(call(1, ECHO), data(1, b"".join(message(b"l%d" % size) for size in sizes), ended=True))
    for stream, increment in [*windows, (1, 100_000)]:
        assert len(talk[1].body) <= min(room.values())
        talk.say(window_update(stream, increment))
        room[stream] += increment
    assert talk[1].messages == talk.service.calls[0].said
    assert talk[1].status == 0
    talk.end()


# --- what the peer may send --------------------------------------------------------------------------


def test_windows_are_given_back_while_answers_are_taken() -> None:
    limits = Limits(max_receive_bytes=MIB, stream_window=50_000, connection_window=80_000)
    talk = Talk(limits=limits)
    talk.say(call(1, ECHO))
    given = {0: 80_000, 1: 50_000}
    for _ in range(100):
        for one in talk.say(data(1, message(b"n" * 9_990))):
            assert one.kind == Kind.WINDOW_UPDATE
            given[one.stream] += int.from_bytes(one.payload, "big")
        given = {stream: left - 9_995 for stream, left in given.items()}
        assert min(given.values()) > 20_000
    assert len(talk.service.calls[0].heard) == 100
    talk.end()


def test_a_stream_whose_answers_are_not_taken_may_send_no_more_until_they_are() -> None:
    limits = Limits(max_receive_bytes=MIB, stream_window=1_000, stream_backlog=5_000)
    talk = Talk(limits=limits, settings={Setting.INITIAL_WINDOW_SIZE: 0})
    talk.say(call(1, ECHO))
    for _ in range(9):
        assert not talk.say(data(1, message(b"l1000".ljust(100))))[1:], "answers wait, nothing is given back"
    assert len(talk.service.calls[0].heard) == 9
    talk.say(window_update(0, MIB))
    given = [one for one in talk.say(window_update(1, MIB)) if one.kind == Kind.WINDOW_UPDATE]
    assert [one.stream for one in given] == [1]
    assert held_bytes(talk.connection) == 0
    talk.end()


# --- resets ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "so_far",
    [
        pytest.param([], id="nothing said"),
        pytest.param([data(1, b"\0\0")], id="half a message"),
        pytest.param([data(1, message(b"e"))], id="answered"),
        pytest.param([data(1, message(b"l1000000"))], id="answers wait"),
        pytest.param([data(1, message(b"l1000000"), ended=True)], id="ended, answers wait"),
        pytest.param([data(1, message(b"p"))], id="answers to come"),
    ],
)
def test_a_stream_may_be_reset_at_any_moment(so_far: list[bytes]) -> None:
    talk = Talk()
    talk.say(call(1, ECHO), *so_far, call(3, ECHO))
    talk.say(reset(1))
    assert [one.closed for one in talk.service.calls] == [1, 0]
    assert held_bytes(talk.connection) == 0
    talk.say(window_update(0, 10 * MIB), window_update(1, 10 * MIB))
    assert not talk[1].ended and talk.fault is None and talk.is_alive()
    talk.end()


# --- the end -----------------------------------------------------------------------------------------


def test_draining_lets_open_streams_finish_and_streams_on_their_way_begin() -> None:
    talk = Talk()
    talk.say(call(1, ECHO), data(1, message(b"e")))
    talk.connection.drain()
    first, probe = talk.hear()
    assert (first.kind, first.code, int.from_bytes(first.payload[:4], "big")) == (7, 0, 2**31 - 1)
    assert (probe.kind, probe.flags) == (Kind.PING, 0)
    talk.say(call(3, ECHO), data(3, message(b"e")))  # it was sent before the GOAWAY came
    (last,) = talk.say(ping(probe.payload, ack=True))
    assert (last.kind, last.code, int.from_bytes(last.payload[:4], "big")) == (7, 0, 3)
    talk.say(call(5, ECHO), data(5, message(b"e"), ended=True))
    assert not talk[5].headers, "it may begin elsewhere"
    assert len(talk.service.calls) == 2
    talk.say(data(1, message(b"emore"), ended=True))
    assert talk[1].status == 0 and not talk.connection.is_closing
    talk.say(data(3, ended=True))
    assert talk[3].status == 0 and talk.connection.is_closing and talk.fault is None
    talk.end()


def test_a_connection_at_rest_is_drained_at_once() -> None:
    talk = Talk()
    talk.connection.drain()
    _, probe = talk.hear()
    talk.say(ping(probe.payload, ack=True))
    assert talk.connection.is_closing
    talk.end()


def test_a_connection_may_be_drained_before_it_has_begun_and_twice() -> None:
    talk = Talk(begun=False)
    talk.connection.drain()
    talk.connection.drain()
    assert [one.kind for one in talk.hear()] == [Kind.SETTINGS, Kind.WINDOW_UPDATE]
    assert talk.connection.is_closing, "it has asked for nothing yet"
    talk.end()


def test_a_drained_connection_is_told_twice_and_ends_with_its_last_stream() -> None:
    talk = Talk()
    talk.say(call(1, ECHO))
    talk.connection.drain()
    talk.connection.drain()
    assert [one.kind for one in talk.hear()] == [Kind.GOAWAY, Kind.PING]
    told = talk.say(call(3, ECHO), ping(ack=True), call(5, ECHO), ping(ack=True))
    assert [one.payload[:4] for one in told if one.kind == Kind.GOAWAY] == [b"\0\0\0\3"]
    talk.say(data(1, message(b"e"), ended=True))
    assert talk[1].status == 0 and not talk.connection.is_closing
    talk.say(data(3, message(b"e"), ended=True))
    assert talk[3].status == 0 and talk[5].status is None and talk.connection.is_closing
    talk.end()


def test_a_drained_peer_that_does_not_answer_is_not_waited_for() -> None:
    talk = Talk()
    talk.connection.drain()
    talk.wait(0.9)
    assert not talk.connection.is_closing
    talk.wait(0.2)
    assert talk.connection.is_closing and talk.fault is None
    talk.end()


def test_a_peer_s_goaway_lets_its_streams_finish() -> None:
    talk = Talk()
    talk.say(call(1, ECHO), goaway(), data(1, message(b"e")))
    assert talk[1].messages == [b"1 e"]
    talk.say(data(1, ended=True))
    assert talk[1].status == 0 and talk.fault is None
    talk.end()


def test_a_connection_that_has_ended_has_nothing_more_to_say() -> None:
    talk = Talk()
    talk.say(data(0))
    assert talk.fault is Error.PROTOCOL_ERROR
    talk.connection.drain()
    assert not talk.hear()
    talk.end()


@pytest.mark.parametrize("whole", range(0, 60, 7))
def test_a_connection_may_be_lost_at_any_byte(whole: int) -> None:
    talk = Talk(begun=False)
    sent = frames.PREFACE + settings() + call(1, ECHO) + data(1, message(b"l1000000"))
    talk.say(sent[: len(sent) * whole // 59])
    talk.end()
    assert not talk.say(sent[len(sent) * whole // 59 :])


def test_a_fault_says_how_far_it_was_heard() -> None:
    talk = Talk()
    talk.say(call(1, ECHO), call(3, ECHO), data(0))
    (told,) = talk.replies.goaways
    assert int.from_bytes(told.payload[:4], "big") == 3
    assert told.payload[8:], "and why"
    assert talk.fault is Error.PROTOCOL_ERROR
    talk.end()
