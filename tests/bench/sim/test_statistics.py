"""From requests to figures, from figures to who is best."""

import itertools
import math
import statistics
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.sim.play import Play
from bench.sim.statistics import (
    Estimate,
    Figures,
    Objective,
    Times,
    figures,
    overall,
    standings,
)
from tests.bench.sim.fakes import LEAST_REQUEST, RANDOM, every, machines, played, setting


def some(ttft: float, rate: float = 1000.0, **changes: Any) -> Figures:
    times = Times(mean=ttft, p50=ttft, p90=ttft, p99=ttft)
    made = Figures(
        requests=100,
        failed=0,
        unfinished=0,
        seconds=10.0,
        ttft=times,
        inter_token=times,
        e2e=times,
        output_rate=rate,
        goodput=1.0,
        cached=0.0,
        shares=(0.5, 0.5),
        spread=0.0,
    )
    return replace(made, **changes)


def seeds(*figures: Figures) -> Mapping[int, Figures]:
    return dict(enumerate(figures, 1))


# --- one play ------------------------------------------------------------------------------------


def test_an_idle_server_takes_what_it_takes() -> None:
    found = figures(played(setting(sessions=lambda: every(1.0))), Objective())
    assert found.requests == 100 and not found.failed and not found.unfinished
    assert (found.ttft.p50, found.ttft.p99) == pytest.approx((0.05, 0.05))
    assert found.inter_token.p90 == pytest.approx(1e-4)
    assert found.e2e.p50 == pytest.approx(0.0599)
    assert found.output_rate == pytest.approx(100.0, rel=0.02)
    assert found.seconds == pytest.approx(99.0) and found.goodput == 1.0


def test_tokens_are_counted_within_the_window_alone() -> None:
    """Of one server that is busy all the time, as many as it makes in a second, whatever is asked of it."""
    play = played(setting(machines=machines(1, rate=1000.0), sessions=lambda: every(0.1)))
    assert figures(play, Objective()).output_rate == pytest.approx(1000.0 / 6, rel=0.05)


def test_what_was_too_slow_is_no_good_answer() -> None:
    play = played(setting(sessions=lambda: every(1.0)))
    assert figures(play, Objective(ttft=0.04)).goodput == 0.0
    assert figures(play, Objective(inter_token=0.00005)).goodput == 0.0


def test_shares_are_of_all_machines() -> None:
    found = figures(played(setting(machines=machines(4)), RANDOM), Objective())
    assert sum(found.shares) == pytest.approx(1.0) and len(found.shares) == 4
    mean = statistics.fmean(found.shares)
    assert found.spread == pytest.approx(statistics.pstdev(found.shares) / mean)


def test_the_unfinished_have_waited_at_least_for_so_long() -> None:
    play = played(setting(machines=machines(1, rate=1.0), warm_up=0))
    found = figures(play, Objective())
    assert found.unfinished > 0 and found.failed == 0
    assert found.ttft.p99 > 3600.0 and found.goodput < 0.1


def test_a_workload_that_ends_in_its_warm_up_says_so() -> None:
    play = played(setting(sessions=lambda: itertools.islice(every(1.0), 5)))
    with pytest.raises(ValueError, match=r"ended after 5 requests, within the warm-up of 20"):
        figures(play, Objective())


def test_nothing_can_be_said_of_a_single_moment() -> None:
    with pytest.raises(ValueError, match=r"all counted requests came at the same moment: count more"):
        figures(played(setting(sessions=lambda: itertools.islice(every(0.0), 50))), Objective())


# --- over seeds ----------------------------------------------------------------------------------


def test_an_interval_is_students() -> None:
    found = Estimate.of([1.0, 2.0, 3.0])
    assert (found.value, found.low, found.high) == pytest.approx((2.0, 2.0 - 2.484, 2.0 + 2.484), abs=1e-3)
    assert math.isnan(Estimate.of([5.0]).low)


def test_the_interval_of_a_ratio_is_of_pairs() -> None:
    """Two seeds that differ tenfold say with confidence that one policy is twice as fast."""
    found = Estimate.of_ratios([(1.0, 2.0), (10.0, 20.0)])
    assert (found.value, found.low, found.high) == pytest.approx((0.5, 0.5, 0.5))


@given(st.lists(st.tuples(st.floats(1e-3, 1e3), st.floats(1e-3, 1e3)), min_size=2, max_size=12))
def test_a_ratio_is_the_same_both_ways_round(pairs: list[tuple[float, float]]) -> None:
    one = Estimate.of_ratios(pairs)
    other = Estimate.of_ratios([(b, a) for a, b in pairs])
    assert one.value == pytest.approx(1 / other.value) and one.low <= one.value * (1 + 1e-9)
    assert one.low == pytest.approx(1 / other.high) and one.high == pytest.approx(1 / other.low)


def test_policies_are_ranked_and_compared() -> None:
    cell = {
        "slow": seeds(some(4.0, 900.0), some(8.0, 900.0)),
        "best": seeds(some(1.0, 1000.0), some(2.0, 1000.0)),
        "near": seeds(some(1.04, 980.0), some(2.08, 980.0)),
    }
    best, near, slow = standings(cell, "slow")
    assert [best.policy, near.policy, slow.policy] == ["best", "near", "slow"]
    assert best.is_near and near.is_near and not slow.is_near
    assert near.to_best.value == pytest.approx(1.04)
    assert best.to_baseline is not None and best.to_baseline.value == pytest.approx(0.25)
    assert near.throughput.value == pytest.approx(0.98)
    assert [each.is_worst for each in (best, near, slow)] == [False, False, True]


def test_only_seeds_that_all_have_played_count() -> None:
    best, other = standings({"a": seeds(some(1.0)), "b": seeds(some(2.0), some(0.001))}, "a")
    assert best.policy == "a" and best.seeds == other.seeds == 1


def test_nobody_is_the_worst_among_equals() -> None:
    assert not any(each.is_worst for each in standings({"a": seeds(some(1.0)), "b": seeds(some(1.01))}, "a"))


def test_a_policy_without_any_good_answer_is_the_worst() -> None:
    nothing = replace(some(1.0), failed=100, ttft=Times.of([]), output_rate=0.0)
    _, last = standings({"dead": seeds(nothing), "slow": seeds(some(60.0))}, "slow")
    assert last.policy == "dead" and last.is_worst


def test_all_cells_together() -> None:
    one = standings({"ours": seeds(some(1.0)), "theirs": seeds(some(2.0))}, "theirs")
    other = standings({"ours": seeds(some(1.03, 950.0)), "theirs": seeds(some(1.0))}, "theirs")
    ours, theirs = overall([one, other])
    assert (ours.policy, ours.cells, ours.best, ours.near, ours.worst) == ("ours", 2, 1, 2, 0)
    assert ours.to_baseline == pytest.approx((0.5 + 1.03) / 2)
    assert ours.farthest == pytest.approx(1.03) and ours.least_throughput == pytest.approx(0.95)
    assert (theirs.best, theirs.near, theirs.worst) == (1, 1, 1)


def test_figures_of_the_same_seed_are_the_same() -> None:
    def once() -> Figures:
        play: Play = played(setting(), LEAST_REQUEST)
        return figures(play, Objective())

    assert once() == once()
