"""Numbers drawn have the mean, the deviation and the bounds that are written."""

import math
from random import Random
from statistics import fmean, pstdev

import pytest

from bench.workloads.distributions import Lengths, Times, mean, quantile, seconds, whole

DRAWS = 40_000


def draws(of: Lengths, seed: int = 1) -> list[float]:
    chance = Random(seed)
    at = quantile(of)
    return [at(chance.random()) for _ in range(DRAWS)]


@pytest.mark.parametrize(
    "of",
    [
        Lengths(shape="normal", mean=3000, sd=500),
        Lengths(shape="logNormal", mean=4000, sd=2500),
        Lengths(shape="logNormal", mean=4000, sd=2500, min=500),
        Lengths(shape="exponential", mean=8000, min=500),
        Lengths(shape="bimodal", mean=15000, sd=22000, min=1000, max=80000),
        Lengths(shape="bimodal", mean=300, sd=850, min=50, max=4000),
    ],
    ids=lambda of: f"{of.shape}-{of.mean}",
)
def test_mean_and_deviation_are_as_written_where_no_bound_is_met(of: Lengths) -> None:
    sd = of.sd if of.sd is not None else of.mean - of.min
    error = sd / math.sqrt(DRAWS)
    values = draws(of)
    assert fmean(values) == pytest.approx(of.mean, abs=4 * error)
    assert mean(of) == pytest.approx(of.mean, rel=0.01)
    assert pstdev(values) == pytest.approx(sd, rel=0.05)
    assert min(values) >= of.min


def test_a_bound_takes_what_is_beyond_it_and_moves_the_mean() -> None:
    of = Lengths(shape="normal", mean=300, sd=150, min=10, max=400)
    values = draws(of)
    assert min(values) == 10 and max(values) == 400
    assert sum(value == 400 for value in values) / DRAWS == pytest.approx(
        0.2525, abs=0.01
    )  # 2/3 of a deviation
    assert mean(of) == pytest.approx(fmean(values), rel=0.01) and mean(of) < 290


def test_a_bimodal_has_nothing_between_its_modes() -> None:
    values = draws(Lengths(shape="bimodal", mean=15000, sd=22000, min=1000, max=80000))
    assert not [value for value in values if 2_000 < value < 25_000]
    assert sum(value > 25_000 for value in values) / DRAWS == pytest.approx(0.285, abs=0.01)


def test_whole_numbers_are_drawn_of_lengths_and_times_of_times() -> None:
    chance = Random(1)
    assert whole(7)(chance) == 7 and seconds(1.5)(chance) == 1.5
    drawn = [whole(Lengths(shape="normal", mean=5, sd=3, min=1, max=9))(chance) for _ in range(1_000)]
    assert set(drawn) == set(range(1, 10))
    pauses = [seconds(Times(shape="normal", mean=1.5, sd=0.2))(chance) for _ in range(1_000)]
    assert fmean(pauses) == pytest.approx(1.5, abs=0.03) and len(set(pauses)) == 1_000


def test_one_random_number_gives_one_value_even_the_smallest() -> None:
    class Zero(Random):
        def random(self) -> float:
            return 0.0

    for shape in ("normal", "logNormal", "bimodal"):
        assert whole(Lengths(shape=shape, mean=100, sd=300, max=3000))(Zero()) == 1  # type: ignore[arg-type]
