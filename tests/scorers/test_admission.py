"""probabilistic-admitter: whom it turns away, by numbers worked out by hand."""

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp.core.fleet import Load
from epp.core.lifecycle import Phase
from epp.core.rejection import Rejection
from epp.core.request import Request
from epp.core.scheduling import Decision, Profile, Scheduler
from epp.core.scoring import Cycle
from scorers.max_score_picker import MaxScorePicker
from scorers.probabilistic_admitter import ProbabilisticAdmitter
from tests.picking import fleet_of


class Dice:
    """Throws one number again and again, and counts."""

    def __init__(self, number: float) -> None:
        self.number, self.thrown = number, 0

    def random(self) -> float:
        self.thrown += 1
        return self.number

    def shuffle(self, x: Any) -> None:
        raise AssertionError


class Gone(Load):
    """The last word of a server that takes no connections any more."""


def refuses(plugin: ProbabilisticAdmitter, loads: list[Any], dice: Dice, *, priority: int = -1) -> bool:
    fleet = fleet_of(loads)
    for endpoint, load in zip(fleet.endpoints, loads, strict=True):
        if isinstance(load, Gone):
            fleet.lost(endpoint, 0.0, "gone")
    cycle = Cycle(Request(priority=priority), now=0.0, chance=dice)
    return bool(plugin.refusal(cycle, fleet.endpoints))


@pytest.mark.parametrize(
    "loads, probability",
    [
        # max(0/5, 0/0.8) = 0
        pytest.param([Load(waiting=0, kv_usage=0.0)], 0.0, id="idle"),
        # max(0, 0.12/0.8 = 0.15); 0.15**5 * 300 = 0.02278125
        pytest.param([Load(waiting=0, kv_usage=0.12)], 0.02278125, id="onset"),
        # max(1/5, 0) = 0.2; 0.2**5 * 300 = 0.096
        pytest.param([Load(waiting=1, kv_usage=0.1)], 0.096, id="queue"),
        # (max(1/5, 0.32/0.8 = 0.4) + max(1/5, 0)) / 2 = 0.3; 0.3**5 * 300 = 0.729
        pytest.param(
            [Load(waiting=1, kv_usage=0.32), Load(waiting=1, kv_usage=0.0)], 0.729, id="the-average"
        ),
        # 0.25: (0.2 + 0.3) / 2 with one figure each; 0.25**5 * 300 = 0.29296875
        pytest.param([Load(waiting=1), Load(kv_usage=0.24)], 0.29296875, id="one-figure-each"),
        # (0.4 + 0.25) / 2 = 0.325 > (1/300)**(1/5) = 0.3196
        pytest.param([Load(waiting=2), Load(kv_usage=0.2)], 1.0, id="full"),
        # max(1/5, 0) = 0.2 alone; with the full one that is gone it would be (2 + 0.2) / 2
        pytest.param([Gone(waiting=10), Load(waiting=1, kv_usage=0.0)], 0.096, id="the-dead-do-not-count"),
        pytest.param([Phase.EJECTED], 0.0, id="nobody-in-service"),
    ],
)
def test_how_often_a_sheddable_request_is_refused(loads: list[Any], probability: float) -> None:
    plugin = ProbabilisticAdmitter()
    below, at = Dice(max(probability - 1e-9, 0.0)), Dice(min(probability + 1e-9, 1 - 1e-9))
    assert refuses(plugin, loads, below) is (probability > 0)
    assert refuses(plugin, loads, at) is (probability == 1.0)
    assert below.thrown == (0 < probability < 1)


@pytest.mark.parametrize("engine, refused", [("vllm", True), ("ollama", False), (None, True)])
def test_one_that_should_tell_and_does_not_is_full(engine: str | None, refused: bool) -> None:
    fleet = fleet_of([None])
    fleet.answered(fleet.endpoints[0], 0.0, engine=engine)
    cycle = Cycle(Request(priority=-1), now=0.0, chance=Dice(0.999))
    assert bool(ProbabilisticAdmitter().refusal(cycle, fleet.endpoints)) is refused


def test_requests_that_are_not_sheddable_always_go_on() -> None:
    full = [Load(waiting=99, kv_usage=1.0)]
    assert not refuses(ProbabilisticAdmitter(), full, Dice(0.0), priority=0)
    assert refuses(ProbabilisticAdmitter(), full, Dice(0.999), priority=-1)


@pytest.mark.parametrize(
    "parameters, loads, refused",
    [
        # max(4/40, 0) = 0.1; 0.1**2 * 50 = 0.5
        ({"queue_depth_threshold": 40, "power": 2.0, "k": 50.0}, [Load(waiting=4, kv_usage=0.0)], True),
        ({"queue_depth_threshold": 41, "power": 2.0, "k": 50.0}, [Load(waiting=4, kv_usage=0.0)], False),
        # 0.09/0.9 = 0.1
        ({"kv_cache_util_threshold": 0.9, "power": 2.0, "k": 50.0}, [Load(waiting=0, kv_usage=0.0901)], True),
    ],
)
def test_its_parameters(parameters: dict[str, Any], loads: list[Load], refused: bool) -> None:
    assert refuses(ProbabilisticAdmitter(**parameters), loads, Dice(0.4999)) is refused


@given(
    power=st.floats(1e-3, 1e3), k=st.floats(1e-6, 1e9), waiting=st.integers(0, 10_000), kv=st.floats(0.0, 1.0)
)
def test_any_pool_has_a_probability(power: float, k: float, waiting: int, kv: float) -> None:
    plugin = ProbabilisticAdmitter(power=power, k=k)
    assert 0.0 <= plugin._probability(max(waiting / 5, kv / 0.8)) <= 1.0


def test_the_scheduler_asks_before_it_chooses() -> None:
    fleet = fleet_of([Load(waiting=99, kv_usage=1.0)])
    profile = Profile(picker=("max-score-picker", MaxScorePicker()))
    scheduler = Scheduler(
        fleet, profile, chance=random.Random(0), admitters=[ProbabilisticAdmitter(), ProbabilisticAdmitter()]
    )
    refused = scheduler.pick(Request(priority=-1), 0.0)
    assert isinstance(refused, Rejection)
    assert refused.status == 429
    assert refused.body == (
        "inference error: ResourceExhausted - request cannot be admitted: "
        "sheddable requests are turned away, the pool's saturation is 19.80"
    )
    assert refused.headers == {"x-llm-d-request-dropped-reason": "rejected-saturated"}
    assert fleet.endpoints[0].requests_in_flight == 0
    assert isinstance(scheduler.pick(Request(priority=0), 0.0), Decision)
