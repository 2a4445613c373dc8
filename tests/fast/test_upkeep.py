"""When something ends, windows, clocks and counts go back to where they were."""

import time

from bench import frames
from bench.frames import Error, Kind, Setting, call, continuation, data, message, reset, settings
from epp.runtime.fast.limits import Limits
from tests.fast.peer import ECHO, LIMITS, Talk

MIB = 1 << 20
TIGHT = Limits(
    max_receive_bytes=MIB,
    stream_window=100_000,
    connection_window=200_000,
    stream_backlog=MIB,
    backlog=150_000,
)


def test_windows_that_go_up_and_down_over_many_streams_are_a_flood() -> None:
    talk = Talk(settings={Setting.INITIAL_WINDOW_SIZE: 0})
    streams = range(1, 20_001, 2)
    talk.say(*(call(number, ECHO) for number in streams))
    talk.say(*(data(number, message(b"l1000")) for number in streams))
    began = time.process_time()
    toggles = [settings({Setting.INITIAL_WINDOW_SIZE: size}) for size in (2, 0)]
    talk.say(*(toggles[turn % 2] for turn in range(4_000)))
    assert talk.fault is Error.ENHANCE_YOUR_CALM
    assert time.process_time() - began < 10, "it ends long before it has cost what 4,000 would cost"
    talk.end()


def blocked(talk: Talk, *, streams: int = 40) -> range:
    """Answers wait on every stream until the connection's window is not given back any more."""
    numbers = range(1, 2 * streams, 2)
    for number in numbers:
        talk.say(call(number, ECHO), data(number, message(b"l5000")))
    return numbers


def used_up(talk: Talk, numbers: range) -> int:
    """Fill the connection's window with what asks for nothing; how much of it was taken."""
    sent = 0
    for number in numbers:
        told = talk.say(data(number, frames.message(b"n" * 4_900)))
        sent += 4_905
        if any(one.kind == Kind.WINDOW_UPDATE and one.stream == 0 for one in told):
            return 0
    return sent


def test_the_connection_s_window_comes_back_when_blocked_streams_are_reset() -> None:
    talk = Talk(limits=TIGHT, settings={Setting.INITIAL_WINDOW_SIZE: 0})
    numbers = blocked(talk)
    assert used_up(talk, numbers) > TIGHT.connection_window // 2 + 5_000, "it is withheld"
    told = talk.say(*(reset(number) for number in numbers))
    assert any(one.kind == Kind.WINDOW_UPDATE and one.stream == 0 for one in told)
    talk.end()


def test_the_connection_s_window_comes_back_when_the_answers_are_taken() -> None:
    talk = Talk(limits=TIGHT, settings={Setting.INITIAL_WINDOW_SIZE: 0})
    numbers = blocked(talk)
    assert used_up(talk, numbers) > TIGHT.connection_window // 2 + 5_000, "it is withheld"
    told = talk.say(frames.window_update(0, MIB), *(frames.window_update(n, 10_000) for n in numbers))
    assert any(one.kind == Kind.WINDOW_UPDATE and one.stream == 0 for one in told)
    talk.end()


def test_a_block_in_two_frames_stops_the_clock_when_it_is_whole() -> None:
    talk = Talk()
    block = frames.block(frames.request(ECHO))
    first = frames.frame(Kind.HEADERS, 0, 1, block[:10])
    talk.say(first, continuation(1, block[10:]))
    talk.wait(60)
    assert talk.fault is None and talk.is_alive()
    talk.end()


def test_a_deadline_does_not_wait_for_the_window_that_its_answer_waits_for() -> None:
    talk = Talk(settings={Setting.INITIAL_WINDOW_SIZE: 0})
    talk.say(call(1, ECHO, ("grpc-timeout", "5S")), data(1, message(b"l1000")))
    talk.wait(6)
    assert talk[1].status == 4
    assert talk.service.calls[0].closed == 1
    talk.end()


def test_one_answer_does_not_pay_for_ten_resets() -> None:
    talk = Talk(limits=LIMITS)
    number = 1
    for _ in range(4_000):
        parts = [call(number, ECHO), data(number, message(b"n")), reset(number)]
        for _ in range(10):
            number += 2
            parts += [call(number, ECHO), reset(number)]
        talk.say(*parts)
        number += 2
        if talk.fault:
            break
    assert talk.fault is Error.ENHANCE_YOUR_CALM
    talk.end()
