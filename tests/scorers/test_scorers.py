"""Each scorer against numbers worked out by hand from its formula."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from epp.core.fleet import Endpoint, Load, Lora, Reservation
from epp.core.request import Payload, Request
from epp.core.scoring import Cycle, Filter, Kind, PrefixMatch, Scorer, Scores, kinds
from scorers.active_request_scorer import ActiveRequestScorer
from scorers.endpoint_attribute_filter import Threshold, ThresholdAlgorithm
from scorers.endpoint_attribute_scorer import Algorithm
from scorers.kv_cache_utilization_scorer import KvCacheUtilizationScorer
from scorers.lora_affinity_scorer import LoraAffinityScorer
from scorers.prefix_cache_scorer import PrefixCacheScorer
from scorers.queue_scorer import QueueScorer
from scorers.running_requests_size_scorer import RunningRequestsSizeScorer
from tests.picking import TYPES, cycle_of, endpoints_of, fleet_of, prompt_of

MIN_MAX = [
    pytest.param([0, 5, 10], [1.0, 0.5, 0.0], id="linear-between-least-and-most"),
    pytest.param([3, 5, 11], [1.0, 0.75, 0.0], id="the-least-need-not-be-zero"),
    pytest.param([4, 4, 4], [1.0, 1.0, 1.0], id="all-equal-is-1"),
    pytest.param([0], [1.0], id="one-alone-is-1"),
    pytest.param([None, 2, 6], [None, 1.0, 0.0], id="unknown-has-no-score-and-moves-nobody"),
    pytest.param([None, 7], [None, 1.0], id="one-known"),
    pytest.param([None, None], [None, None], id="nothing-known"),
]


@pytest.mark.parametrize("values, expected", MIN_MAX)
def test_queue_scorer_prefers_the_shortest_queue(values: list[int | None], expected: Scores) -> None:
    endpoints = endpoints_of(*[Load(waiting=value) for value in values])
    assert QueueScorer().score(cycle_of(), endpoints) == expected


@pytest.mark.parametrize("values, expected", MIN_MAX)
def test_running_requests_size_scorer_prefers_the_fewest(values: list[int | None], expected: Scores) -> None:
    endpoints = endpoints_of(*[Load(running=value) for value in values])
    assert RunningRequestsSizeScorer().score(cycle_of(), endpoints) == expected


def test_kv_cache_utilization_scorer_is_the_free_share() -> None:
    endpoints = endpoints_of(Load(kv_usage=0.25), Load(kv_usage=1.0), Load(kv_usage=0.0), Load())
    assert KvCacheUtilizationScorer().score(cycle_of(), endpoints) == [0.75, 0.0, 1.0, None]


@pytest.mark.parametrize(
    "weight, scale, held, total, expected",
    [
        pytest.param(0.0, 8192, [3, 0, 10], 10, [0.3, 0.0, 1.0], id="share-of-the-prompt"),
        pytest.param(1.0, 1280, [10, 20, 40], 40, [0.25, 1.0, 1.0], id="square-of-length-up-to-the-scale"),
        # 0.75 * 10/40 + 0.25 * (640/1280)**2 = 0.1875 + 0.0625
        pytest.param(0.25, 1280, [10, 0], 40, [0.25, 0.0], id="a-blend"),
        pytest.param(0.0, 8192, [0, 0], 10, [0.0, 0.0], id="nobody-holds-anything"),
        pytest.param(0.5, 8192, [0, 0], 0, [0.0, 0.0], id="an-empty-prompt"),
    ],
)
def test_prefix_cache_scorer_prefers_the_longest_match(
    weight: float, scale: int, held: list[int], total: int, expected: list[float]
) -> None:
    scorer = PrefixCacheScorer(match_length_weight=weight, match_length_scale_tokens=scale)
    endpoints = endpoints_of(*[Load()] * len(held))
    blocks = {endpoint: count for endpoint, count in zip(endpoints, held, strict=True) if count}
    cycle = cycle_of()
    cycle.facts["approx-prefix-cache-producer"] = PrefixMatch(blocks, total, 64)
    assert scorer.score(cycle, endpoints) == pytest.approx(expected)


def test_prefix_cache_scorer_without_its_producer_has_no_opinion() -> None:
    assert PrefixCacheScorer().score(cycle_of(), endpoints_of(Load(), Load())) == [None, None]


@pytest.mark.parametrize(
    "idle, busy, counts, expected",
    [
        pytest.param(0, 1.0, [0, 2, 4], [1.0, 0.5, 0.0], id="idle-is-1-the-busiest-0"),
        pytest.param(0, 1.0, [3, 4], [0.25, 0.0], id="nobody-idle"),
        pytest.param(2, 1.0, [2, 4, 8], [1.0, 0.5, 0.0], id="idle-up-to-the-threshold"),
        pytest.param(0, 0.5, [0, 1, 2], [1.0, 0.25, 0.0], id="busy-ones-stay-below-max-busy-score"),
        pytest.param(0, 1.0, [0, 0], [1.0, 1.0], id="all-idle"),
    ],
)
def test_active_request_scorer_counts_our_own_requests(
    idle: int, busy: float, counts: list[int], expected: list[float]
) -> None:
    endpoints = endpoints_of(*[Load()] * len(counts))
    for endpoint, count in zip(endpoints, counts, strict=True):
        for _ in range(count):
            Reservation(endpoint, 0)
    scorer = ActiveRequestScorer(idle_threshold=idle, max_busy_score=busy)
    assert scorer.score(cycle_of(), endpoints) == expected


@pytest.mark.parametrize(
    "lora, expected",
    [
        pytest.param(Lora(frozenset({"sql"}), frozenset(), 1), 1.0, id="running"),
        pytest.param(Lora(frozenset({"a"}), frozenset({"b"}), 3), 0.8, id="room-for-one-more"),
        pytest.param(Lora(frozenset(), frozenset({"sql"}), 2), 0.8, id="room-beats-waiting"),
        pytest.param(Lora(frozenset({"a"}), frozenset({"sql"}), 2), 0.6, id="waited-for-and-full"),
        pytest.param(Lora(frozenset({"a", "b"}), frozenset(), 2), 0.0, id="full-of-others"),
        pytest.param(Lora(), 0.0, id="no-adapters-allowed"),
        pytest.param(None, None, id="unknown"),
    ],
)
def test_lora_affinity_scorer_follows_the_target_model(lora: Lora | None, expected: float | None) -> None:
    request = Request(payload=Payload(model="alias"), target_model="sql")
    assert LoraAffinityScorer().score(cycle_of(request), endpoints_of(Load(lora=lora))) == [expected]


THRESHOLD = ThresholdAlgorithm(type="threshold", threshold=Threshold(operator="LessThan", value=1.0))
NEEDED: Mapping[str, Mapping[str, Any]] = {
    "header-label-affinity-scorer": {"header_name": "x-zone", "label_key": "zone"},
    "endpoint-attribute-scorer": {
        "attribute_key": "power",
        "algorithm": Algorithm(type="linear_lower_is_better"),
    },
    "endpoint-attribute-filter": {"attribute": "power", "algorithm": THRESHOLD},
    "by-label": {"label": "role", "valid_values": ("decode",)},
}
"""Parameters without a default."""


def made(name: str, plugin_type: type) -> Any:
    return plugin_type(**NEEDED.get(name, {}))


def test_every_scorer_gives_one_score_per_endpoint_whatever_is_known() -> None:
    load = Load(waiting=1, running=1, kv_usage=0.5, lora=Lora(max_adapters=1))
    for loads in ([], [load], [load, None, Load(), replace(load, waiting=None)]):
        endpoints = fleet_of(loads).endpoints
        for name, plugin_type in TYPES.items():
            if Kind.SCORER in kinds(plugin_type):
                scorer = made(name, plugin_type)
                assert len(scorer.score(cycle_of(), endpoints)) == len(endpoints), name


def test_what_is_said_to_follow_from_readings_follows_from_nothing_else() -> None:
    loads = [Load(waiting=i, running=9 - i, kv_usage=i / 10, lora=Lora(max_adapters=i)) for i in range(4)]
    endpoints = fleet_of([*loads, None]).endpoints
    standing = {name: each for name, each in TYPES.items() if getattr(each, "from_readings", False)}
    first, second = cycle_of(), cycle_of(prompt_of("x" * 999, model="other", prefer="if-available"), seed=7)
    before = {name: _said(made(name, each), first, endpoints) for name, each in standing.items()}
    for i, endpoint in enumerate(endpoints):
        Reservation(endpoint, 10 * i)
        endpoint.memory["plugin"] = i
    assert {name: _said(made(name, each), second, endpoints) for name, each in standing.items()} == before
    assert set(standing) == {
        "queue-scorer",
        "running-requests-size-scorer",
        "kv-cache-utilization-scorer",
        "load-aware-scorer",
        "endpoint-attribute-scorer",
        "endpoint-attribute-filter",
        "decode-filter",
        "prefill-filter",
        "encode-filter",
        "label-selector-filter",
        "by-label",
        "by-label-selector",
        "lifecycle-filter",
        "lifecycle-scorer",
        "utilization-detector",
    }


def _said(plugin: object, cycle: Cycle, endpoints: Sequence[Endpoint]) -> object:
    if isinstance(plugin, Scorer):
        return plugin.score(cycle, endpoints)
    assert isinstance(plugin, Filter)
    return plugin.filter(cycle, endpoints)
