import random
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp.core.fleet import Endpoint, Load
from epp.core.request import Request
from epp.core.scoring import Cycle, Picker
from scorers.max_score_picker import MaxScorePicker
from scorers.random_picker import RandomPicker
from scorers.weighted_random_picker import WeightedRandomPicker
from tests.picking import cycle_of, endpoints_of

PICKERS = [MaxScorePicker, RandomPicker, WeightedRandomPicker]


def rated(totals: Sequence[float]) -> tuple[tuple[Endpoint, ...], Sequence[float]]:
    return endpoints_of(*[Load()] * len(totals)), totals


def shares(picker: Picker, totals: Sequence[float], rounds: int = 4000) -> list[float]:
    """How often each is picked first."""
    (endpoints, totals), cycle = rated(totals), cycle_of(seed=1)
    counts = Counter(picker.pick(cycle, endpoints, totals)[0] for _ in range(rounds))
    return [counts[endpoint] / rounds for endpoint in endpoints]


def test_max_score_takes_the_best() -> None:
    assert shares(MaxScorePicker(), [1.0, 3.0, 2.0], 20) == [0, 1, 0]


def test_max_score_breaks_ties_evenly() -> None:
    assert shares(MaxScorePicker(), [2.0, 1.0, 2.0, 2.0]) == pytest.approx([1 / 3, 0, 1 / 3, 1 / 3], abs=0.03)


def test_max_score_gives_the_next_best_in_order() -> None:
    picked = MaxScorePicker(max_num_of_endpoints=3).pick(cycle_of(), *rated([1.0, 3.0, 2.0, 0.0]))
    assert [endpoint.name for endpoint in picked] == ["e1", "e2", "e0"]


def test_max_score_breaks_ties_evenly_in_a_list_too() -> None:
    assert shares(MaxScorePicker(max_num_of_endpoints=2), [2.0, 1.0, 2.0]) == pytest.approx(
        [0.5, 0, 0.5], abs=0.03
    )


def test_random_ignores_scores() -> None:
    assert shares(RandomPicker(), [0.0, 9.0]) == pytest.approx([0.5, 0.5], abs=0.03)


def test_weighted_random_follows_the_scores() -> None:
    assert shares(WeightedRandomPicker(), [1.0, 3.0, 0.0]) == pytest.approx([0.25, 0.75, 0], abs=0.03)


@pytest.mark.parametrize("totals", [[0.0, 0.0], [-1.0, 0.0]], ids=["zeros", "below-zero"])
def test_weighted_random_is_even_without_a_positive_score(totals: list[float]) -> None:
    assert shares(WeightedRandomPicker(), totals) == pytest.approx([0.5, 0.5], abs=0.03)


def test_weighted_random_takes_a_random_zero_for_a_small_number() -> None:
    class Zero(random.Random):
        def random(self) -> float:
            return 0.0

    endpoints, totals = rated([0.0, 5.0])
    cycle = Cycle(Request(), now=0.0, chance=Zero())
    assert WeightedRandomPicker().pick(cycle, endpoints, totals) == [endpoints[1]]


@pytest.mark.parametrize("picker", PICKERS)
@given(
    totals=st.lists(st.floats(-10, 10), min_size=1, max_size=20),
    most=st.integers(1, 25),
    seed=st.integers(0, 9),
)
def test_picks_are_distinct_candidates_and_repeat_with_the_seed(
    picker: type, totals: list[float], most: int, seed: int
) -> None:
    endpoints, _ = rated(totals)
    once, again = (
        picker(max_num_of_endpoints=most).pick(cycle_of(seed=seed), endpoints, totals) for _ in range(2)
    )
    assert list(once) == list(again)
    assert len(set(once)) == len(once) == min(most, len(totals))
    assert set(once) <= set(endpoints)


@pytest.mark.parametrize("picker", PICKERS)
def test_a_picker_that_picks_none_is_refused(picker: type) -> None:
    with pytest.raises(ValueError, match="maxNumOfEndpoints: must be at least 1"):
        picker(max_num_of_endpoints=0)
