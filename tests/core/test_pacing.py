"""When to look next, in virtual time."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from epp.core.pacing import Agenda, Pace, Shares, Standing

PACE = Pace()


@pytest.mark.parametrize(
    "standing, shares, lost_for, expected",
    [
        pytest.param(Standing.QUIET, Shares(quiet=2), 0.0, 1.0, id="at-rest"),
        pytest.param(Standing.QUIET, Shares(quiet=195), 0.0, 1.3, id="many-at-rest-slow-down"),
        pytest.param(Standing.QUIET, Shares(quiet=5000), 0.0, 1.5, id="but-never-become-unknown"),
        pytest.param(Standing.BUSY, Shares(busy=2), 0.0, 0.05, id="busy"),
        pytest.param(Standing.BUSY, Shares(busy=7), 0.0, 0.05, id="the-floor-fits-for-7"),
        pytest.param(Standing.BUSY, Shares(busy=100), 0.0, 2 / 3, id="100-busy-share-the-budget"),
        pytest.param(Standing.BUSY, Shares(busy=10, quiet=100), 0.0, 0.2, id="quiet-ones-take-their-part"),
        pytest.param(Standing.BUSY, Shares(busy=10, quiet=1000), 0.0, 10 / 37.5, id="but-not-all"),
        pytest.param(Standing.BUSY, Shares(busy=2000), 0.0, 1.5, id="busy-is-never-slower-than-quiet"),
        pytest.param(Standing.BUSY, Shares(busy=2, absent=1000), 0.0, 0.05, id="the-dead-take-nothing"),
        pytest.param(Standing.UNTOLD, Shares(quiet=1), 0.0, 4.0, id="untold"),
        pytest.param(Standing.UNTOLD_BUSY, Shares(busy=1), 0.0, 0.25, id="untold-and-busy"),
        pytest.param(Standing.UNTOLD_BUSY, Shares(busy=100), 0.0, 2 / 3, id="untold-and-100-busy"),
        pytest.param(Standing.LOADING, Shares(absent=1), 1e9, 0.25, id="loading-however-long"),
        pytest.param(Standing.LOADING, Shares(absent=100), 0.0, 1.0, id="100-loading"),
        pytest.param(Standing.LOST, Shares(absent=1), 0.0, 0.25, id="lost"),
        pytest.param(Standing.LOST, Shares(absent=25), 299.9, 0.25, id="25-lost-for-minutes"),
        pytest.param(Standing.LOST, Shares(absent=1), 300.0, 2.0, id="lost-for-long"),
        pytest.param(Standing.LOST, Shares(absent=1000), 0.0, 10.0, id="1000-lost"),
        pytest.param(Standing.LOST, Shares(absent=1), 1e9, 2.0, id="dead-for-years"),
    ],
)
def test_intervals(standing: Standing, shares: Shares, lost_for: float, expected: float) -> None:
    assert PACE.interval(standing, shares, lost_for=lost_for) == pytest.approx(expected)


def test_a_slower_floor_slows_rest_as_well() -> None:
    pace = Pace(floor=3.0)
    assert pace.interval(Standing.QUIET, Shares(quiet=1)) == 3.0
    assert pace.interval(Standing.BUSY, Shares(busy=1)) == 3.0
    assert Pace(floor=6.0).interval(Standing.UNTOLD, Shares(quiet=1)) == 6.0


@given(standings=st.lists(st.sampled_from(Standing), max_size=20))
def test_each_endpoint_has_one_share(standings: list[Standing]) -> None:
    shares = Shares()
    for standing in standings:
        shares.add(standing, 1)
    assert shares.busy + shares.quiet + shares.absent == len(standings)
    for standing in standings:
        shares.add(standing, -1)
    assert (shares.busy, shares.quiet, shares.absent) == (0, 0, 0)


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"floor": 0.01}, "at least 50ms, got 0.01s"),
        ({"floor": float("nan")}, "at least 50ms"),
        ({"rest": 2.0}, "slowest"),
        ({"retry": 0.0}, "retry"),
        ({"retry": 3.0}, r"retry \(3s\) must be in \(0, 2s\]"),
        ({"retry_budget": 0.0}, "retry_budget"),
        ({"budget": 0.0}, "budget"),
        ({"tick": 0.0}, "tick"),
    ],
)
def test_settings_that_cannot_work_are_refused(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Pace(**wrong)


@pytest.mark.parametrize(
    "floor, stale_after, message",
    [
        (0.01, 2.0, "at least 50ms, got 0.01s"),
        (float("nan"), 2.0, "at least 50ms"),
        (2.0, 2.0, r"at most three quarters of --metrics-staleness-threshold \(2s\).* got 2s"),
        (1.6, 2.0, "at most three quarters"),
        (0.05, 0.05, "at most three quarters"),
        (0.05, 0.0, "at most three quarters"),
    ],
)
def test_a_floor_that_makes_readings_unknown_is_refused(
    floor: float, stale_after: float, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Pace.of(floor=floor, stale_after=stale_after)


def test_the_usual_staleness_gives_the_usual_pace() -> None:
    assert Pace.of(floor=0.05, stale_after=2.0) == PACE


@given(
    stale_after=st.floats(0.07, 10.0),
    part=st.floats(0.0, 1.0),
    counts=st.tuples(st.integers(0, 3000), st.integers(0, 3000)),
    share=st.floats(0.9, 1.1),
    now=st.floats(0.0, 1e6),
)
def test_no_reading_of_an_endpoint_that_answers_becomes_unknown(
    stale_after: float, part: float, counts: tuple[int, int], share: float, now: float
) -> None:
    pace = Pace.of(floor=max(0.05, part * 0.75 * stale_after), stale_after=stale_after)
    for standing in (Standing.QUIET, Standing.BUSY):
        due = pace.next_due(standing, now, Shares(busy=counts[0], quiet=counts[1]), share=share)
        assert due - now < 0.9 * stale_after


def looks_per_second(endpoints: int, busy: int, seconds: float = 10.0) -> tuple[float, float]:
    """Looks a second, and the longest time one endpoint was not looked at, in virtual time."""
    chance, agenda, now = random.Random(7), Agenda[int](), 0.0
    for endpoint in range(endpoints):
        agenda.put(endpoint, 0.0)
    looks, longest, last = 0, 0.0, dict.fromkeys(range(endpoints), 0.0)
    while (due := agenda.next_due()) is not None and due <= seconds:
        now = due
        while (endpoint := agenda.take(now)) is not None:
            looks, longest, last[endpoint] = looks + 1, max(longest, now - last[endpoint]), now
            standing = Standing.BUSY if endpoint < busy else Standing.QUIET
            share = chance.uniform(0.9, 1.1)
            agenda.put(
                endpoint,
                PACE.next_due(standing, now, Shares(busy=busy, quiet=endpoints - busy), share=share),
            )
    return looks / seconds, longest


@pytest.mark.parametrize(
    "endpoints, busy, most, longest",
    [
        pytest.param(2, 0, 3, 1.2, id="two-at-rest"),
        pytest.param(100, 0, 120, 1.2, id="hundred-at-rest"),
        pytest.param(2, 2, 42, 0.06, id="two-busy"),
        pytest.param(100, 100, 150, 0.8, id="hundred-busy"),
        pytest.param(100, 10, 150, 1.2, id="ten-of-hundred-busy"),
        pytest.param(1000, 0, 700, 1.75, id="thousand-are-known-nevertheless"),
    ],
)
def test_the_budget_holds_and_no_reading_gets_old(
    endpoints: int, busy: int, most: float, longest: float
) -> None:
    rate, gap = looks_per_second(endpoints, busy)
    assert rate <= most
    assert gap <= longest + 1e-6


@pytest.mark.parametrize(
    "standing, busy, together",
    [
        pytest.param(Standing.QUIET, 0, True, id="at-rest"),
        pytest.param(Standing.UNTOLD, 0, True, id="untold"),
        pytest.param(Standing.UNTOLD_BUSY, 1, True, id="untold-and-busy"),
        pytest.param(Standing.BUSY, 100, True, id="busy-beyond-the-budget"),
        pytest.param(Standing.BUSY, 2, False, id="busy-at-the-floor-is-not-delayed"),
        pytest.param(Standing.LOST, 0, False, id="lost"),
    ],
)
def test_looks_that_can_wait_are_made_together(standing: Standing, busy: int, together: bool) -> None:
    moments = [7.0 + i / 1000 for i in range(50)]
    dues = {PACE.next_due(standing, now, Shares(busy=busy, quiet=1, absent=1)) for now in moments}
    assert (len(dues) <= 2) is together


CHANGES_OF_MIND = 100
"""In one step: more than the agenda keeps of six items before it clears away what no longer holds."""
STEPS = st.lists(
    st.tuples(st.sampled_from(["put", "drop", "take", "waver"]), st.integers(0, 5), st.floats(0, 100)),
    max_size=60,
)


@given(steps=STEPS)
@settings(max_examples=200, deadline=None)
def test_the_agenda_holds_the_latest_agreement_with_each(steps: list[tuple[str, int, float]]) -> None:
    agenda, expected = Agenda[int](), dict[int, float]()
    for what, item, time in steps:
        if what == "put":
            agenda.put(item, time)
            expected[item] = time
        elif what == "waver":
            for number in range(CHANGES_OF_MIND):
                expected[item] = (time + 37 * number) % 100
                agenda.put(item, expected[item])
        elif what == "drop":
            agenda.drop(item)
            expected.pop(item, None)
        else:
            taken = agenda.take(time)
            first = min(expected.values(), default=None)
            if first is None or first > time:
                assert taken is None
            else:
                assert taken is not None and expected.pop(taken) == first
        assert agenda.next_due() == min(expected.values(), default=None)
        assert all(agenda.due(each) == expected.get(each) for each in range(6))
        assert len(agenda) == len(expected)
        assert len(agenda._heap) <= CHANGES_OF_MIND, "cleared away"


def test_the_agenda_does_not_grow_with_changes_of_mind() -> None:
    agenda = Agenda[str]()
    for time in range(10_000):
        agenda.put("endpoint", float(-time))
    assert len(agenda._heap) < 200
    assert agenda.next_due() == -9999.0
