"""Flow control's policies and detectors, against upstream's formulas worked out by hand."""

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp.core.fleet import Endpoint, Load
from epp.core.lifecycle import Phase
from scorers.concurrency_detector import ConcurrencyDetector
from scorers.priority_holdback_policy import PriorityHoldbackPolicy
from scorers.program_aware_fairness import MAX_IDLE, ProgramAwareFairness
from scorers.soft_reflective_ceiling_policy import SoftReflectiveCeilingPolicy
from scorers.static_usage_limit_policy import StaticUsageLimitPolicy
from scorers.utilization_detector import UtilizationDetector
from tests.core.flow.pools import occupy
from tests.picking import cycle_of, endpoints_of, fleet_of

# --- detectors -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "loads, expected",
    [
        pytest.param([Load(waiting=0, kv_usage=0.0)], 0.0, id="idle"),
        pytest.param([Load(waiting=5, kv_usage=0.0)], 1.0, id="5 waiting is full"),
        pytest.param([Load(waiting=0, kv_usage=0.8)], 1.0, id="0.8 of the cache is full"),
        pytest.param([Load(waiting=10, kv_usage=0.4)], 2.0, id="max(10/5, 0.4/0.8)"),
        pytest.param([Load(waiting=1, kv_usage=0.4)], 0.5, id="max(1/5, 0.4/0.8)"),
        pytest.param([Load(waiting=5), Load(waiting=0)], 0.5, id="the average of 1 and 0"),
        pytest.param([Load(waiting=2)], 0.4, id="no word of the cache"),
        pytest.param([Load(kv_usage=0.2)], 0.25, id="no word of a queue"),
        pytest.param([None], 1.0, id="no reading"),
        pytest.param([None, Load(waiting=1, kv_usage=0.0)], 0.6, id="the average of 1 and 0.2"),
        pytest.param([], 1.0, id="nobody"),
    ],
)
def test_utilization(loads: list[Load | None], expected: float) -> None:
    endpoints = fleet_of(loads).endpoints
    assert UtilizationDetector().saturation(endpoints, 0.0) == pytest.approx(expected)


def test_utilization_by_thresholds_of_ones_own() -> None:
    detector = UtilizationDetector(queue_depth_threshold=20, kv_cache_util_threshold=0.5)
    assert detector.saturation(endpoints_of(Load(waiting=10, kv_usage=0.4)), 0.0) == pytest.approx(0.8)


def test_an_engine_that_tells_nothing_is_left_out() -> None:
    fleet = fleet_of([Load(waiting=3), None])
    fleet.answered(fleet.endpoints[1], 0.0, engine="ollama")
    detector = UtilizationDetector()
    assert detector.saturation(fleet.endpoints, 0.0) == pytest.approx(0.6)
    assert detector.saturation(fleet.endpoints[1:], 0.0) == 0.0
    assert detector.stale(fleet.endpoints, 0.0) == 0
    fleet.answered(fleet.endpoints[1], 0.0, engine="vllm")
    assert detector.stale(fleet.endpoints, 0.0) == 1


def test_what_was_sent_since_the_reading_counts() -> None:
    fleet = fleet_of([Load(waiting=2)])
    (endpoint,) = fleet.endpoints
    detector = UtilizationDetector()
    assert detector.saturation([endpoint], 0.0) == pytest.approx(0.4)
    sent = occupy(endpoint, 3)
    assert detector.saturation([endpoint], 0.0) == pytest.approx(1.0)  # (2 + 3) / 5
    sent.pop().release()
    assert detector.saturation([endpoint], 0.0) == pytest.approx(0.8)
    fleet.reading(endpoint, Load(waiting=2), 0.05)
    assert detector.saturation([endpoint], 0.05) == pytest.approx(0.4)


def test_where_nobody_waits_the_requests_may_double() -> None:
    fleet = fleet_of([Load(waiting=0)])
    (endpoint,) = fleet.endpoints
    detector = UtilizationDetector()
    detector.saturation([endpoint], 0.0)
    occupy(endpoint, 10)
    assert detector.saturation([endpoint], 0.0) == 1.0  # from none to 2 * 5
    occupy(endpoint, 20)
    fleet.reading(endpoint, Load(waiting=0), 0.05)
    assert detector.saturation([endpoint], 0.05) == 0.0
    occupy(endpoint, 15)
    assert detector.saturation([endpoint], 0.05) == pytest.approx(0.5)  # 15 / 30


def test_a_reading_counts_up_to_the_age_that_is_written() -> None:
    fleet = fleet_of([Load(waiting=2), Load(waiting=1)])
    old, new = fleet.endpoints
    fleet.reading(old, Load(waiting=2), 10.0)
    fleet.reading(new, Load(waiting=1), 10.25)
    detector = UtilizationDetector(metrics_staleness_threshold=0.25)
    assert detector.saturation([old, new], 10.25) == pytest.approx(0.3)
    assert detector.saturation([old, new], 10.375) == pytest.approx(0.6)  # (1 + 0.2) / 2
    assert detector.stale([old, new], 10.375) == 1
    assert names(detector.filter(cycle_of(now=10.25), [old, new])) == ["e0", "e1"]
    assert names(detector.filter(cycle_of(now=10.375), [old, new])) == ["e1"]
    assert names(detector.filter(cycle_of(now=11.0), [old, new])) == ["e0", "e1"]  # all, if none is left
    assert UtilizationDetector().saturation([old, new], 11.0) == pytest.approx(0.3)
    with pytest.raises(ValueError, match=r"^metricsStalenessThreshold: must be above 0s, got 0s$"):
        UtilizationDetector(metrics_staleness_threshold=0.0)


def test_utilization_as_a_filter() -> None:
    loads = [Load(waiting=4, kv_usage=0.79), Load(waiting=5, kv_usage=0.1), Load(kv_usage=0.8), None]
    endpoints = fleet_of(loads).endpoints
    assert names(UtilizationDetector().filter(cycle_of(), endpoints)) == ["e0"]
    assert names(UtilizationDetector(headroom=0.25).filter(cycle_of(), endpoints)) == ["e0", "e1", "e2"]
    assert UtilizationDetector().filter(cycle_of(), endpoints[1:]) == endpoints[1:]  # all, if none is left


@pytest.mark.parametrize(
    "mode, expected",
    [
        ("requests", 0.75),  # (5 + 10) / (2 * 10)
        ("tokens", 0.25),  # (400 + 100) / (2 * 1000)
        ("hybrid", 0.75),  # (max(0.5, 0.4) + max(1.0, 0.1)) / 2
    ],
)
def test_concurrency(mode: str, expected: float) -> None:
    endpoints = endpoints_of(Load(), Load())
    occupy(endpoints[0], 5, tokens=400)
    occupy(endpoints[1], 10, tokens=100)
    detector = ConcurrencyDetector(
        max_concurrency=10,
        max_token_concurrency=1000,
        concurrency_mode=mode,  # type: ignore[arg-type]
    )
    assert detector.saturation(endpoints, 0.0) == pytest.approx(expected)


def test_concurrency_of_mixed_pressure_is_the_average_of_the_greater() -> None:
    endpoints = endpoints_of(Load(), Load())
    occupy(endpoints[0], 2, tokens=900)
    occupy(endpoints[1], 7)
    hybrid = ConcurrencyDetector(max_concurrency=10, max_token_concurrency=1000, concurrency_mode="hybrid")
    assert hybrid.saturation(endpoints, 0.0) == pytest.approx(0.8)  # (0.9 + 0.7) / 2
    assert ConcurrencyDetector().saturation((), 0.0) == 1.0
    assert ConcurrencyDetector().saturation(endpoints, 0.0) == pytest.approx(0.045)  # 9 of 200


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"max_concurrency": 0}, "maxConcurrency: must be at least 1, got 0"),
        ({"max_token_concurrency": 0}, "maxTokenConcurrency: must be at least 1, got 0"),
        ({"headroom": -0.1}, "headroom: must be from 0 to 1000, got -0.1"),
        ({"headroom": 1000.5}, "headroom: must be from 0 to 1000, got 1000.5"),
    ],
)
def test_concurrency_refuses_what_cannot_be(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ConcurrencyDetector(**settings)


def test_concurrency_as_a_filter() -> None:
    endpoints = endpoints_of(Load(), Load())
    occupy(endpoints[0], 10)
    occupy(endpoints[1], 9)
    assert names(ConcurrencyDetector(max_concurrency=10).filter(cycle_of(), endpoints)) == ["e1"]
    roomy = ConcurrencyDetector(max_concurrency=10, headroom=0.1)
    assert names(roomy.filter(cycle_of(), endpoints)) == ["e0", "e1"]


def names(endpoints: object) -> list[str]:
    return [endpoint.name for endpoint in endpoints if isinstance(endpoint, Endpoint)]  # type: ignore[attr-defined]


# --- ceilings ------------------------------------------------------------------------------------


def test_one_ceiling_for_all() -> None:
    assert StaticUsageLimitPolicy().ceilings(0.5, (1, 0, -1)) == [1.0, 1.0, 1.0]
    assert StaticUsageLimitPolicy(threshold=0.7).ceilings(0.5, (1,)) == [0.7]


@pytest.mark.parametrize(
    "domain, highest, priorities, expected",
    [
        ("rank", 1.0, (100, 0, -1), [1.0, 0.75, 0.5]),
        ("rank", 0.9, (100, 10, 0, -1, -2), [0.9, 0.8, 0.7, 0.6, 0.5]),
        ("value", 1.0, (10, 5, 0), [1.0, 0.75, 0.5]),
        ("value", 1.0, (100, 0, -25), [1.0, 0.6, 0.5]),  # 0.5 + 25 / 125 * 0.5
        ("rank", 0.8, (3,), [0.8]),
        ("value", 0.8, (3,), [0.8]),
        ("rank", 0.8, (), []),
    ],
)
def test_holdback(domain: str, highest: float, priorities: tuple[int, ...], expected: list[float]) -> None:
    policy = PriorityHoldbackPolicy(min_ceiling=0.5, max_ceiling=highest, domain=domain)  # type: ignore[arg-type]
    assert policy.ceilings(0.0, priorities) == pytest.approx(expected)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"min_ceiling": 1.0}, "minCeiling: must be from 0 to below 1, got 1"),
        ({"min_ceiling": 0.5, "max_ceiling": 0.5}, r"minCeiling: must be below maxCeiling \(0.5\), got 0.5"),
        ({"min_ceiling": 0.5, "max_ceiling": 1.5}, "maxCeiling: must be above 0 and at most 1, got 1.5"),
    ],
)
def test_holdback_refuses_what_cannot_be(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PriorityHoldbackPolicy(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "saturation, questions",
    [
        # three bands: reflective ceilings 1, 1 - s/2, 1 - s
        pytest.param(0.4, [[1, 1, 1]] * 3, id="below all"),
        pytest.param(0.5, [[1, 1, 1]] * 2, id="the last at its ceiling, period round(1)"),
        pytest.param(0.65, [[1, 1, 0], [1, 1, 1]] * 2, id="0.65 < 0.675: the last only, period round(1.86)"),
        pytest.param(0.8, [[1, 0, 0], [1, 0, 0], [1, 0, 0], [1, 1, 1]] * 2, id="period round(4)"),
        pytest.param(1.0, [[1, 0, 0]] * 3, id="full"),
        pytest.param(1.3, [[1, 0, 0]] * 3, id="more than full"),
    ],
)
def test_soft_ceilings(saturation: float, questions: list[list[int]]) -> None:
    policy = SoftReflectiveCeilingPolicy()
    assert [policy.ceilings(saturation, (1, 0, -1)) for _ in questions] == questions


def test_a_soft_ceiling_of_one_band_is_none() -> None:
    assert SoftReflectiveCeilingPolicy().ceilings(0.9, (0,)) == [1.0]
    assert SoftReflectiveCeilingPolicy().ceilings(0.9, ()) == []


# --- the tenant that got least -------------------------------------------------------------------


class Waits:
    """A tenant's queue whose first request waits since ``at``."""

    def __init__(self, at: float) -> None:
        self.at = at

    @property
    def head(self) -> "Waits":
        return self


def test_who_got_least_goes_first_and_output_counts_twice() -> None:
    policy = ProgramAwareFairness()
    for name, prompt, output in (("a", 100, 50), ("b", 150, 0), ("c", 0, 100)):  # 200, 150, 200
        policy.dispatched(name, 0.0, 10.0)
        policy.completed(name, prompt, output, 10.0)
    assert [policy.programs[name].service for name in "abc"] == [200, 150, 200]
    assert policy.choose_flow({name: Waits(10.0) for name in "abc"}, 11.0) == "b"


@pytest.mark.parametrize(
    "service, since, expected",
    [
        # a: 0 tokens, just here: 0.8 * 1 + 0.2 * 0; b has waited longest: 0.8 * (1 - service) + 0.2
        pytest.param({"a": 0, "b": 100}, {"a": 100.0, "b": 0.0}, "a", id="0.8 against 0.2"),
        # c in between: 0.8 * 0.9 + 0.2 * 1 = 0.92 against a's 0.8 and b's 0.2 * 0.5
        pytest.param({"a": 0, "b": 100, "c": 10}, {"a": 100.0, "b": 50.0, "c": 0.0}, "c", id="0.92"),
        pytest.param({"a": 7, "b": 7}, {"a": 5.0, "b": 5.0}, "a", id="equal: the longest without a turn"),
        pytest.param({"a": 7, "b": 7}, {"a": 5.0, "b": 4.0}, "b", id="equal but for the wait"),
    ],
)
def test_little_service_and_long_waits(
    service: dict[str, int], since: dict[str, float], expected: str
) -> None:
    policy = ProgramAwareFairness()
    for name, tokens in service.items():
        policy.dispatched(name, 0.0, 0.0)
        policy.dispatched(name, 0.0, 0.0)  # one is still running: nothing decays
        policy.completed(name, tokens, 0, 0.0)
    assert policy.choose_flow({name: Waits(at) for name, at in since.items()}, 100.0) == expected


def test_what_a_tenant_got_decays_while_it_is_idle_only() -> None:
    policy = ProgramAwareFairness(las_half_life_seconds=60.0)
    policy.dispatched("a", 0.0, 0.0)
    policy.completed("a", 1000, 0, 100.0)  # running for 100 s: nothing decays
    policy.choose_flow({"a": Waits(160.0)}, 200.0)  # idle for 60 s, then waiting
    assert policy.programs["a"].service == pytest.approx(500.0)
    policy.choose_flow({"a": Waits(160.0)}, 300.0)
    assert policy.programs["a"].service == pytest.approx(500.0)


def test_idle_tenants_are_forgotten() -> None:
    policy = ProgramAwareFairness(eviction_ttl_seconds=100.0, eviction_sweep_seconds=10.0)
    policy.dispatched("gone", 0.0, 0.0)
    policy.completed("gone", 1, 1, 0.0)
    policy.dispatched("running", 0.0, 0.0)
    policy.dispatched("other", 0.0, 100.0)
    assert set(policy.programs) == {"gone", "running", "other"}
    policy.dispatched("other", 0.0, 110.0)
    assert set(policy.programs) == {"running", "other"}


def test_of_tenants_whose_names_clients_make_up_the_longest_idle_is_forgotten() -> None:
    policy = ProgramAwareFairness(eviction_ttl_seconds=0.0)
    policy.dispatched("running", 0.0, 0.0)
    for number in range(MAX_IDLE):
        policy.dispatched(f"t{number}", 0.0, 1.0 + number)
        policy.completed(f"t{number}", 1, 1, 1.0 + number)
    policy.choose_flow({"t0": Waits(9e3), "unheard": Waits(9e3)}, 9e3)  # t0 was just heard of
    assert len(policy.programs) == MAX_IDLE + 1, "who only waits is not remembered"
    policy.dispatched("new", 0.0, 1e4)
    policy.completed("new", 1, 1, 1e4)
    assert len(policy.programs) == MAX_IDLE + 1
    assert "t1" not in policy.programs
    assert {"running", "t0", "t2", "new"} <= set(policy.programs)
    policy.completed("running", 1, 1, 1e4)
    assert policy.programs["running"].in_flight == 0


@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["dispatched", "completed", "waits", "later"]), st.sampled_from("abcdef")),
        max_size=60,
    )
)
def test_running_tenants_are_never_forgotten_and_idle_ones_are_few(steps: list[tuple[str, str]]) -> None:
    policy = ProgramAwareFairness(eviction_ttl_seconds=20.0, eviction_sweep_seconds=5.0)
    running: Counter[str] = Counter()
    now = 0.0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scorers.program_aware_fairness.MAX_IDLE", 2)
        for step, name in steps:
            now += 1.0
            if step == "dispatched":
                policy.dispatched(name, 0.5, now)
                running[name] += 1
            elif step == "completed" and running[name]:
                policy.completed(name, 1, 1, now)
                running[name] -= 1
            elif step == "waits":
                policy.choose_flow({name: Waits(now)}, now)
            elif step == "later":
                now += 10.0
            assert {
                name: each.in_flight for name, each in policy.programs.items() if each.in_flight
            } == +running
            idle = {name for name, each in policy.programs.items() if not each.in_flight}
            assert idle == set(policy.idle)
            assert len(idle) <= 2


def test_jains_index_of_the_average_waits() -> None:
    policy = ProgramAwareFairness()
    assert policy.jains_index() == 1.0
    for name, waited in (("a", 1.0), ("a", 3.0), ("b", 4.0)):  # averages 2 and 4
        policy.dispatched(name, waited, 10.0)
    assert policy.jains_index() == pytest.approx(36 / (2 * 20))


def test_phases_are_not_looked_at() -> None:
    """Whom to look at is decided by flow control: those in service."""
    endpoints = fleet_of([Phase.EJECTED, Load(waiting=0)]).endpoints
    assert UtilizationDetector().saturation(endpoints, 0.0) == 0.5
