"""Virtual time."""

import math
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.sim.timeline import EventQueue


def test_what_is_due_first_happens_first_and_what_is_due_together_as_it_was_asked_for() -> None:
    time, happened = EventQueue(), list[str]()
    for seconds, name in ((2.0, "c"), (1.0, "a"), (2.0, "d"), (1.0, "b")):
        time.later(seconds, partial(happened.append, name))
    time.run()
    assert happened == ["a", "b", "c", "d"]
    assert (time.now, time.happened, time.next_at) == (2.0, 4, math.inf)


def test_time_stands_where_it_was_told_to() -> None:
    time, happened = EventQueue(), list[float]()
    for seconds in (1.0, 2.0, 3.0):
        time.later(seconds, lambda: happened.append(time.now))
    time.run(until=2.0)
    assert (happened, time.now, time.next_at) == ([1.0, 2.0], 2.0, 3.0)
    time.run(until=2.5)
    assert time.now == 2.5


def test_what_happens_may_ask_for_more_and_may_stop_it() -> None:
    time, happened = EventQueue(), list[float]()

    def again() -> None:
        happened.append(time.now)
        time.later(1.0, again)
        if len(happened) == 3:
            time.stop()

    again()
    time.run()
    assert happened == [0.0, 1.0, 2.0]
    time.run(until=4.0)
    assert happened == [0.0, 1.0, 2.0, 3.0, 4.0]


def test_what_is_cancelled_does_not_happen_and_what_has_happened_is_not_cancelled() -> None:
    time, happened = EventQueue(), list[str]()
    first = time.later(1.0, partial(happened.append, "first"))
    second = time.later(2.0, partial(happened.append, "second"))
    time.run(until=1.0)
    first.cancel()
    second.cancel()
    second.cancel()
    time.run()
    assert (happened, time.happened) == (["first"], 1)


@pytest.mark.parametrize("seconds", [-1e-9, math.nan])
def test_nothing_happens_before_now(seconds: float) -> None:
    with pytest.raises(ValueError, match="seconds: expected at least 0"):
        EventQueue().later(seconds, lambda: None)


@given(st.lists(st.tuples(st.floats(0, 10), st.booleans()), max_size=400))
def test_all_that_is_not_cancelled_happens_in_order(asked: list[tuple[float, bool]]) -> None:
    time, happened = EventQueue(), list[float]()
    events = [time.later(seconds, lambda: happened.append(time.now)) for seconds, _ in asked]
    for event, (_, is_cancelled) in zip(events, asked, strict=True):
        if is_cancelled:
            event.cancel()
    time.run()
    assert happened == sorted(seconds for seconds, is_cancelled in asked if not is_cancelled)
