"""When a step may be tried again."""

import itertools
import math
import random

from hypothesis import given
from hypothesis import strategies as st

from epp.controller.difference import Step, Verb
from epp.controller.pace import AT_ONCE, FORGOTTEN, LONGEST, Pace

KEY = ("Service", "llm", "one")


def change(value: int = 1) -> Step:
    return Step(Verb.CHANGE, KEY, frozenset(), {"spec": value})


def test_what_failed_is_tried_less_and_less_often() -> None:
    pace, now, waits = Pace(random.Random(1)), 0.0, []
    for _ in range(10):
        pace.failed(change(), now)
        waits.append(pace.due(change()) - now)
        now = pace.due(change())
    assert 0.5 < waits[0] <= 1.0 and waits[-1] > LONGEST * 0.69
    assert all(later > earlier * 1.3 for earlier, later in itertools.pairwise(waits[:6]))


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
        assert pace.due(change()) <= now + LONGEST
