"""Filters and scorers by role, cache, header and utilization, against numbers worked out by hand."""

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp.core.fleet import Endpoint, EndpointSpec, Fleet, Load, Reservation
from epp.core.request import Request
from epp.core.scoring import Cycle, Filter, PrefixMatch
from scorers.decode_filter import DecodeFilter
from scorers.encode_filter import EncodeFilter
from scorers.header_label_affinity_scorer import HeaderLabelAffinityScorer
from scorers.prefill_filter import PrefillFilter
from scorers.prefix_cache_affinity_filter import PrefixCacheAffinityFilter
from scorers.utilization_filter import Condition, UtilizationFilter
from tests.picking import cycle_of, endpoints_of

PREFIX = "approx-prefix-cache-producer"


def labelled(*labels: Mapping[str, str]) -> tuple[Endpoint, ...]:
    fleet = Fleet()
    specs = (EndpointSpec(name=f"e{i}", ip="10.0.0.1", port=i, labels=each) for i, each in enumerate(labels))
    fleet.replace(specs, 0.0)
    return fleet.endpoints


# --- roles -------------------------------------------------------------------------------------------

ROLES = ("decode", "prefill", "encode", "prefill-decode", "both", "encode-prefill", "encode-prefill-decode")


@pytest.mark.parametrize(
    "plugin, roles",
    [
        (DecodeFilter(), {"decode", "prefill-decode", "both", "encode-prefill-decode", None}),
        (PrefillFilter(), {"prefill", "prefill-decode", "both", "encode-prefill", "encode-prefill-decode"}),
        (EncodeFilter(), {"encode", "encode-prefill", "encode-prefill-decode"}),
    ],
    ids=["decode", "prefill", "encode"],
)
def test_roles_say_which_stages_an_endpoint_is_for(plugin: Filter, roles: set[str | None]) -> None:
    endpoints = labelled(*({"llm-d.ai/role": role} for role in ROLES), {"llm-d.ai/role": "other"}, {})
    kept = {endpoint.labels.get("llm-d.ai/role") for endpoint in plugin.filter(cycle_of(), endpoints)}
    assert kept == roles


# --- prefix-cache-affinity-filter ----------------------------------------------------------------------


def asked(
    held: list[int], tokens: list[int] | None = None, total: int = 10
) -> tuple[Cycle, tuple[Endpoint, ...]]:
    endpoints = endpoints_of(*[Load()] * len(held))
    for endpoint, count in zip(endpoints, tokens or [0] * len(held), strict=True):
        Reservation(endpoint, count)
    cycle = cycle_of()
    blocks = {endpoint: count for endpoint, count in zip(endpoints, held, strict=True) if count}
    cycle.facts[PREFIX] = PrefixMatch(blocks, total, 64)
    return cycle, endpoints


@pytest.mark.parametrize(
    "parameters, held, tokens, kept",
    [
        pytest.param({}, [10, 8, 7], None, [0, 1], id="four-fifths-held"),
        pytest.param({}, [7, 0, 1], None, [0, 1, 2], id="nobody-holds-enough"),
        pytest.param({"affinity_threshold": 0.5}, [5, 4], None, [0], id="another-threshold"),
        pytest.param({"affinity_threshold": 0.0}, [10, 0], None, [0, 1], id="no-threshold"),
        # at 1000 tokens/s 18,000 tokens are 18 s: just what may be
        pytest.param({"peak_prefill_throughput": 1000.0}, [10, 0], [18_000, 0], [0], id="worth-waiting-for"),
        pytest.param({"peak_prefill_throughput": 1000.0}, [10, 0], [18_001, 0], [0, 1], id="too-long-a-wait"),
        pytest.param(
            {"peak_prefill_throughput": 1000.0},
            [10, 9, 0],
            [50_000, 7000, 0],
            [0, 1],
            id="the-best-of-them-counts",
        ),
        pytest.param(
            {"peak_prefill_throughput": 1000.0},
            [10, 0, 0],
            [30_000, 40_000, 15_000],
            [0],
            id="the-others-wait-too",
        ),
        pytest.param(
            {"peak_prefill_throughput": 1.0, "max_ttft_penalty_ms": 0.0},
            [10, 0],
            [10**9, 0],
            [0],
            id="any-wait",
        ),
        # 15,928 tokens/s by default: 286,704 are 18 s
        pytest.param({}, [10, 0], [286_704, 0], [0], id="the-default-speed"),
        pytest.param({}, [10, 0], [286_720, 0], [0, 1], id="the-default-speed-and-a-bit"),
        # 500 - 400 are just what may be; without a limit in ms
        pytest.param(
            {"max_tokens_in_flight_penalty": 100, "max_ttft_penalty_ms": 0.0},
            [10, 0, 0],
            [500, 400, 600],
            [0],
            id="as-many-tokens-as-may-be",
        ),
        pytest.param(
            {"max_tokens_in_flight_penalty": 100, "max_ttft_penalty_ms": 0.0},
            [10, 0, 0],
            [501, 400, 600],
            [0, 1, 2],
            id="a-token-too-many",
        ),
        pytest.param(
            {"max_tokens_in_flight_penalty": 10**6, "peak_prefill_throughput": 1000.0},
            [10, 0],
            [18_001, 0],
            [0, 1],
            id="either-limit",
        ),
        pytest.param({"exploration_probability": 1.0}, [10, 0], None, [0, 1], id="the-dice-say-so"),
    ],
)
def test_who_holds_the_prompt_is_kept_while_that_is_worth_it(
    parameters: dict[str, Any], held: list[int], tokens: list[int] | None, kept: list[int]
) -> None:
    cycle, endpoints = asked(held, tokens)
    plugin = PrefixCacheAffinityFilter(**parameters)
    assert list(plugin.filter(cycle, endpoints)) == [endpoints[i] for i in kept]


def test_where_nothing_is_known_of_the_prompt_all_are_kept() -> None:
    cycle, endpoints = asked([10, 0], total=0)
    assert PrefixCacheAffinityFilter().filter(cycle, endpoints) is endpoints
    assert PrefixCacheAffinityFilter().filter(cycle_of(), endpoints) is endpoints


def test_exploration_is_as_often_as_said() -> None:
    cycle, endpoints = asked([10, 0])
    plugin = PrefixCacheAffinityFilter(exploration_probability=0.25)
    explored = sum(len(plugin.filter(cycle, endpoints)) == 2 for _ in range(4000))
    assert 850 <= explored <= 1150  # 1000 ± 5.5 standard deviations


# --- header-label-affinity-scorer ----------------------------------------------------------------------

ZONE = HeaderLabelAffinityScorer(header_name="X-Zone", label_key="zone")


@pytest.mark.parametrize(
    "headers, expected",
    [
        pytest.param({"x-zone": "a"}, [1.0, 0.0, 0.0], id="asked-for"),
        pytest.param({"x-zone": "c"}, [0.0, 0.0, 0.0], id="asked-for-and-not-there"),
        pytest.param({}, [None, None, None], id="not-asked"),
        pytest.param({"x-zone": ""}, [None, None, None], id="empty"),
    ],
)
def test_the_header_says_which_label_is_preferred(
    headers: dict[str, str], expected: list[float | None]
) -> None:
    endpoints = labelled({"zone": "a"}, {"zone": "b"}, {})
    assert ZONE.score(cycle_of(Request(headers=headers)), endpoints) == expected


@pytest.mark.parametrize(
    "plugin, labels, added",
    [
        pytest.param(ZONE, {"zone": "b"}, {"x-zone": "b"}, id="the-picked-one's"),
        pytest.param(ZONE, {}, {}, id="without-a-label"),
        pytest.param(ZONE, {"zone": "b\r\nx: y"}, {}, id="no-header-value"),
        pytest.param(
            HeaderLabelAffinityScorer(header_name="x-zone", label_key="zone", stamp_response_header=False),
            {"zone": "b"},
            {},
            id="only-asked-with",
        ),
    ],
)
def test_the_response_tells_the_label_that_was_picked(
    plugin: HeaderLabelAffinityScorer, labels: dict[str, str], added: dict[str, str]
) -> None:
    cycle = cycle_of()
    cycle.picks = {"default": labelled(labels)}
    assert plugin.sent(cycle, "default") == added


# --- utilization-filter --------------------------------------------------------------------------------

FIGURES = (
    Load(waiting=0, running=10, kv_usage=0.5),
    Load(waiting=3, running=40, kv_usage=0.8),
    Load(waiting=4, running=41, kv_usage=0.81),
    Load(),
)


@pytest.mark.parametrize(
    "limits, kept",
    [
        pytest.param([("waiting-queue", 3)], [0, 1, 3], id="queue"),
        pytest.param([("running-requests", 40)], [0, 1, 3], id="running"),
        pytest.param([("kv-cache-utilization", 0.8)], [0, 1, 3], id="cache"),
        pytest.param([("active-requests", 1)], [0, 3], id="our-own"),
        pytest.param([("waiting-queue", 3), ("running-requests", 10)], [0, 3], id="all-must-hold"),
        pytest.param([("waiting-queue", 0), ("active-requests", 0)], [3], id="unknown-is-within-any"),
    ],
)
def test_who_is_above_a_limit_is_dropped(limits: list[tuple[Any, float]], kept: list[int]) -> None:
    endpoints = endpoints_of(*FIGURES)
    for endpoint, count in zip(endpoints, (1, 2, 3, 0), strict=True):
        for _ in range(count):
            Reservation(endpoint, 0)
    plugin = UtilizationFilter(
        conditions=tuple(Condition(metric=metric, max_value=most) for metric, most in limits)
    )
    assert list(plugin.filter(cycle_of(), endpoints)) == [endpoints[i] for i in kept]


@pytest.mark.parametrize("fallback, kept", [(False, 0), (True, 2)])
def test_where_all_are_above_it_all_are_kept_on_demand(fallback: bool, kept: int) -> None:
    endpoints = endpoints_of(FIGURES[1], FIGURES[2])
    condition = Condition(metric="waiting-queue", max_value=2)
    plugin = UtilizationFilter(conditions=(condition,), fallback_on_empty=fallback)
    assert len(plugin.filter(cycle_of(), endpoints)) == kept


@given(
    waiting=st.lists(st.none() | st.integers(0, 9), max_size=6),
    most=st.integers(0, 9),
    fallback=st.booleans(),
)
def test_a_filter_keeps_some_of_them_in_their_order(
    waiting: list[int | None], most: int, fallback: bool
) -> None:
    endpoints = endpoints_of(*(Load(waiting=each) for each in waiting))
    condition = Condition(metric="waiting-queue", max_value=most)
    kept = UtilizationFilter(conditions=(condition,), fallback_on_empty=fallback).filter(
        cycle_of(), endpoints
    )
    within = [each for each in endpoints if each.load.waiting is None or each.load.waiting <= most]
    assert list(kept) == (within or (list(endpoints) if fallback else []))


# --- settings ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "plugin_type, parameters, message",
    [
        (PrefixCacheAffinityFilter, {"affinity_threshold": 1.1}, "affinityThreshold: must be from 0 to 1"),
        (
            PrefixCacheAffinityFilter,
            {"exploration_probability": -0.1},
            "explorationProbability: must be from 0 to 1, got -0.1",
        ),
        (PrefixCacheAffinityFilter, {"max_ttft_penalty_ms": -1.0}, "maxTTFTPenaltyMs: must be at least 0"),
        (
            PrefixCacheAffinityFilter,
            {"max_tokens_in_flight_penalty": -1},
            "maxTokensInFlightPenalty: must be at least 0, got -1",
        ),
        (PrefixCacheAffinityFilter, {"peak_prefill_throughput": 0.0}, "peakPrefillThroughput: must be above"),
        (
            PrefixCacheAffinityFilter,
            {"ttft_source": "latencyPredictor"},
            "ttftSource: latency prediction is not",
        ),
        (HeaderLabelAffinityScorer, {"header_name": "a b", "label_key": "x"}, "headerName: must be a header"),
        (HeaderLabelAffinityScorer, {"header_name": "a", "label_key": ""}, "labelKey: must not be empty"),
        (UtilizationFilter, {"conditions": ()}, "conditions: give at least one"),
        (Condition, {"metric": "waiting-queue", "max_value": -1.0}, "maxValue: must be at least 0, got -1"),
        (Condition, {"metric": "kv-cache-utilization", "max_value": 80.0}, "maxValue: .* at most 1, got 80"),
    ],
)
def test_what_cannot_work_is_refused(plugin_type: Any, parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plugin_type(**parameters)
