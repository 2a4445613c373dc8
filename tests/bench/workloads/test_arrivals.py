"""Sessions come as often as they are asked for, in the way that is said."""

import itertools
import math
from collections import Counter
from random import Random
from statistics import fmean, pstdev

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.workloads.arrivals import mean_rate, moments
from bench.workloads.spec import Arrivals, Bursts, Diurnal, Stage

STAGES = (
    Stage(requests_per_second=15, duration=50),
    Stage(requests_per_second=3, duration=20),
    Stage(requests_per_second=60, duration=25),
)
KINDS = {
    "poisson": Arrivals(),
    "bursts": Arrivals(bursts=Bursts(sessions=50)),
    "diurnal": Arrivals(diurnal=Diurnal(period=100, swing=0.8)),
}


def within(arrivals: Arrivals, rate: float, seconds: float, seed: int = 1) -> list[float]:
    return list(itertools.takewhile(lambda at: at < seconds, moments(arrivals, rate, Random(seed))))


@pytest.mark.parametrize("arrivals", KINDS.values(), ids=KINDS)
def test_the_mean_rate_is_the_one_asked_for(arrivals: Arrivals) -> None:
    at_once = arrivals.bursts.sessions if arrivals.bursts else 1
    counted = len(within(arrivals, 20, 10_000))
    assert counted == pytest.approx(200_000, abs=4 * math.sqrt(200_000 * at_once))


def test_poisson_gaps_are_as_long_as_they_vary() -> None:
    found = within(Arrivals(), 10, 2_000)
    gaps = [after - before for before, after in itertools.pairwise(found)]
    assert fmean(gaps) == pytest.approx(0.1, rel=0.03) and pstdev(gaps) == pytest.approx(0.1, rel=0.05)


def test_a_burst_comes_at_one_moment() -> None:
    found = list(itertools.islice(moments(KINDS["bursts"], 20, Random(1)), 500))
    assert sorted(Counter(found).values()) == [50] * 10


def test_a_day_has_a_busy_and_a_quiet_half() -> None:
    found = within(KINDS["diurnal"], 20, 10_000)
    busy = sum(at % 100 < 50 for at in found) / len(found)
    assert busy == pytest.approx(0.5 + 0.8 / math.pi, abs=0.01)


def test_stages_follow_each_other_at_their_rates() -> None:
    found = list(moments(Arrivals(stages=STAGES), mean_rate(STAGES), Random(1)))
    first, second, third = (
        [at for at in found if begins <= at < ends] for begins, ends in ((0, 50), (50, 70), (70, 95))
    )
    for stage, stages_own in zip(STAGES, (first, second, third), strict=True):
        expected = stage.requests_per_second * stage.duration
        assert len(stages_own) == pytest.approx(expected, abs=4 * math.sqrt(expected))
    assert max(found) < 95


def test_stages_are_scaled_to_another_rate() -> None:
    assert mean_rate(STAGES) == pytest.approx((750 + 60 + 1_500) / 95)
    counted = len(list(moments(Arrivals(stages=STAGES), 200, Random(1))))
    assert counted == pytest.approx(19_000, abs=4 * math.sqrt(19_000))


@given(
    arrivals=st.one_of(
        st.just(Arrivals()),
        st.builds(Arrivals, bursts=st.builds(Bursts, sessions=st.integers(1, 100))),
        st.builds(Arrivals, diurnal=st.builds(Diurnal, period=st.floats(0.1, 1e5), swing=st.floats(0, 1))),
        st.builds(
            Arrivals,
            stages=st.lists(
                st.builds(Stage, requests_per_second=st.floats(0.1, 100), duration=st.floats(0.1, 100)),
                min_size=1,
                max_size=5,
            ).map(tuple),
        ),
    ),
    rate=st.floats(0.01, 1_000),
    seed=st.integers(0, 1_000),
)
def test_time_never_goes_back(arrivals: Arrivals, rate: float, seed: int) -> None:
    found = list(itertools.islice(moments(arrivals, rate, Random(seed)), 200))
    assert found == sorted(found) and all(at >= 0 for at in found)
