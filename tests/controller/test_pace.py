"""When a step may be tried again."""

import itertools
import math
import random

from hypothesis import given
from hypothesis import strategies as st

from epp.controller.carrying import Ended, Fate
from epp.controller.difference import Step, Verb
from epp.controller.pace import AT_ONCE, FORGOTTEN, LONGEST, TICK, Pace

KEY = ("Service", "llm", "one")


def change(value: int = 1) -> Step:
    return Step(Verb.CHANGE, KEY, frozenset(), {"spec": value})


def test_what_failed_is_tried_less_and_less_often() -> None:
    pace, now, waits = Pace(random.Random(1)), 0.0, []
    for _ in range(10):
        pace.failed(change(), now)
        waits.append(pace.due(change()) - now)
        now = pace.due(change())
    assert 0.5 < waits[0] <= 1.0 and waits[-1] >= LONGEST / 2.0
    assert all(later > earlier for earlier, later in itertools.pairwise(waits[1:7]))


def test_a_thousand_that_fail_for_ever_are_few_rounds() -> None:
    """Each round compares everything there is."""
    pace, now, rounds = Pace(random.Random(1)), 0.0, 0
    steps = [Step(Verb.CREATE, ("HTTPRoute", "llm", str(number)), frozenset()) for number in range(1000)]
    while now < 900.0:
        for step in steps:
            if pace.due(step) <= now:
                pace.failed(step, now)
        rounds += now >= 600.0
        now = pace.next(now)
    assert 5 <= rounds <= 300 / LONGEST * 4 + 1


def test_what_is_held_says_what_became_of_it() -> None:
    pace = Pace(random.Random(1))
    pace.failed(change(), 0.0, "the API answers 422: wrong", Fate.TAKEN)
    assert pace.held(change()) == Ended(change(), Fate.TAKEN, "the API answers 422: wrong")


def test_what_is_wanted_anew_is_tried_at_once() -> None:
    pace = Pace(random.Random(1))
    pace.failed(change(1), 0.0)
    assert pace.due(change(1)) > 0.0 and pace.due(change(2)) == 0.0


def test_drift_is_repaired_at_once_until_it_is_a_fight() -> None:
    pace = Pace(random.Random(1))
    assert [pace.repaired(change(), float(second)) for second in range(AT_ONCE)] == [False] * (
        AT_ONCE - 1
    ) + [True]
    assert pace.due(change()) > AT_ONCE - 1
    assert not pace.repaired(change(), FORGOTTEN * 2)
    assert pace.due(change()) == 0.0


def test_what_is_done_is_forgotten() -> None:
    pace = Pace(random.Random(1))
    pace.failed(change(), 0.0)
    assert pace.next(0.0) == pace.due(change())
    pace.done(change())
    assert (pace.due(change()), pace.next(0.0)) == (0.0, math.inf)


@given(st.lists(st.tuples(st.sampled_from(["failed", "repaired"]), st.floats(0, 100)), max_size=30))
def test_nothing_waits_longer_than_the_longest(story: list[tuple[str, float]]) -> None:
    pace, now = Pace(random.Random(0)), 0.0
    for what, passed in story:
        now += passed
        (pace.failed if what == "failed" else pace.repaired)(change(), now)
        assert pace.due(change()) <= now + LONGEST + TICK


def test_what_is_due_already_is_not_waited_for() -> None:
    """The loop sleeps until ``next``: with one that is over it would not sleep at all."""
    pace, other = Pace(random.Random(1)), Step(Verb.CHANGE, ("Service", "llm", "two"), frozenset(), {})
    pace.failed(change(), 0.0)
    pace.failed(other, 50.0)
    assert pace.due(change()) < 50.0 < pace.due(other)
    assert pace.next(50.0) == pace.due(other)
    assert pace.next(pace.due(other)) == math.inf
