"""``flowControl`` in a configuration: what it becomes, and what is said against it."""

import math
from pathlib import Path

import pytest

from epp.config.decode import ConfigError
from epp.config.picker_config import Assembly, build, load
from epp.core.flow.policies import FlowSettings
from scorers.concurrency_detector import ConcurrencyDetector
from scorers.edf_ordering_policy import EdfOrderingPolicy
from scorers.fcfs_ordering_policy import FcfsOrderingPolicy
from scorers.global_strict_fairness_policy import GlobalStrictFairnessPolicy
from scorers.priority_holdback_policy import PriorityHoldbackPolicy
from scorers.priority_then_time_eviction_order_policy import PriorityThenTimeEvictionOrderPolicy
from scorers.round_robin_fairness_policy import RoundRobinFairnessPolicy
from scorers.sheddable_eviction_filter import SheddableEvictionFilter
from scorers.static_usage_limit_policy import StaticUsageLimitPolicy
from scorers.utilization_detector import UtilizationDetector
from tests.picking import TYPES

PAGE = Path(__file__).parents[2] / "docs/flow-control.md"
HEAD = "apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\n"
QUEUE = "plugins: [{type: queue-scorer}]\n"
GATE = HEAD + "featureGates: [flowControl]\n"
WHOLE = (
    GATE
    + """\
plugins:
- type: queue-scorer
- {type: concurrency-detector, name: busy, parameters: {maxConcurrency: 7}}
- {type: priority-holdback-policy, parameters: {minCeiling: 0.5}}
- type: round-robin-fairness-policy
- {type: edf-ordering-policy, name: urgent}
schedulingProfiles: [{name: default, plugins: [{pluginRef: queue-scorer}]}]
flowControl:
  maxBytes: 2Gi
  maxRequests: 1k
  defaultRequestTTL: 5s
  noEndpointRequestTTL: 5m
  defaultPriorityBand: {maxRequests: 10, fairnessPolicyRef: round-robin-fairness-policy}
  defaultNegativePriorityBand: {maxBytes: 1Mi}
  priorityBands:
  - {priority: 100, maxBytes: 1G, maxRequests: 20, orderingPolicyRef: urgent}
  - {priority: -5}
  usageLimitPolicyPluginRef: priority-holdback-policy
  saturationDetector: {pluginRef: busy}
  enableEviction: true
"""
)


def made(text: str) -> Assembly:
    return build(load(text, "c.yaml"), TYPES, allow_experimental=True)


def flow_of(text: str) -> FlowSettings:
    flow = made(text).flow
    assert flow is not None
    return flow


def test_every_part_arrives() -> None:
    assembly = made(WHOLE)
    flow = assembly.flow
    assert flow is not None
    assert (flow.max_bytes, flow.max_requests) == (2 << 30, 1000)
    assert (flow.ttl, flow.no_endpoint_ttl) == (5.0, 300.0)
    assert (flow.detector, flow.detector_name) == (ConcurrencyDetector(max_concurrency=7), "busy")
    assert flow.usage_limit == PriorityHoldbackPolicy(min_ceiling=0.5)
    assert flow.eviction == (SheddableEvictionFilter(), PriorityThenTimeEvictionOrderPolicy())
    urgent, least = flow.bands[100], flow.bands[-5]
    assert (urgent.max_bytes, urgent.max_requests) == (10**9, 20)
    assert (urgent.ordering, urgent.fairness) == (EdfOrderingPolicy(), GlobalStrictFairnessPolicy())
    assert (least.max_bytes, least.max_requests) == (10**9, 5000)
    assert flow.band(100) is urgent
    assert flow.band(7) is flow.band(0) is flow.default_band
    assert flow.default_band.max_requests == 10
    assert isinstance(flow.default_band.fairness, RoundRobinFairnessPolicy)
    assert flow.band(-1) is flow.default_negative_band
    assert flow.band(-1).max_bytes == 1 << 20
    assert assembly.warnings == ()


@pytest.mark.parametrize("gate", ["flowControl", "flowControl=true", "flowControl=True"])
def test_the_gate_alone_is_upstreams_defaults(gate: str) -> None:
    flow = flow_of(HEAD + f"featureGates: [{gate}]\n" + QUEUE)
    assert (flow.max_bytes, flow.max_requests) == (math.inf, math.inf)
    assert (flow.ttl, flow.no_endpoint_ttl) == (60.0, 60.0)
    assert isinstance(flow.detector, UtilizationDetector)
    assert flow.usage_limit == StaticUsageLimitPolicy(threshold=1.0)
    assert flow.eviction is None
    band = flow.band(0)
    assert (band.max_bytes, band.max_requests) == (1_000_000_000, 5000)
    assert (band.fairness, band.ordering) == (GlobalStrictFairnessPolicy(), FcfsOrderingPolicy())
    assert flow.band(-1) is flow.band(3) is band


@pytest.mark.parametrize(
    "section, expected",
    [
        ("defaultRequestTTL: 5s", (5.0, 5.0)),
        ("defaultRequestTTL: 0s", (math.inf, math.inf)),
        ("noEndpointRequestTTL: 5m", (60.0, 300.0)),
        ("{defaultRequestTTL: 5s, noEndpointRequestTTL: 0s}", (5.0, math.inf)),
    ],
)
def test_times_to_live(section: str, expected: tuple[float, float]) -> None:
    section = section if section.startswith("{") else f"{{{section}}}"
    flow = flow_of(GATE + QUEUE + f"flowControl: {section}\n")
    assert (flow.ttl, flow.no_endpoint_ttl) == expected


def test_0_of_a_limit_is_its_default() -> None:
    band = "{priority: 1, maxBytes: 0, maxRequests: 0}"
    flow = flow_of(GATE + QUEUE + f"flowControl: {{maxBytes: 0, maxRequests: 0, priorityBands: [{band}]}}\n")
    assert (flow.max_bytes, flow.max_requests) == (math.inf, math.inf)
    assert (flow.bands[1].max_bytes, flow.bands[1].max_requests) == (10**9, 5000)


def test_without_the_gate_nothing_waits_and_the_section_is_not_looked_at() -> None:
    assembly = made(HEAD + QUEUE + "flowControl: {what: ever}\n")
    assert assembly.flow is None
    assert assembly.detector == UtilizationDetector()
    assert assembly.warnings == (
        'c.yaml:4: flowControl: has no effect without the feature gate "flowControl"',
    )


def test_the_older_place_of_the_detector() -> None:
    plugins = (
        "plugins: [{type: queue-scorer}, {type: concurrency-detector}]\n"
        "schedulingProfiles: [{name: a, plugins: [{pluginRef: queue-scorer}]}]\n"
        "saturationDetector: {pluginRef: concurrency-detector}\n"
    )
    deprecated = "saturationDetector: is deprecated: write it as flowControl.saturationDetector"
    for head, line in ((HEAD, 5), (GATE, 6)):
        assembly = made(head + plugins)
        assert isinstance(assembly.detector, ConcurrencyDetector)
        assert assembly.warnings == (f"c.yaml:{line}: {deprecated}",)


def test_a_detector_in_a_profile_is_a_filter() -> None:
    names = "{pluginRef: queue-scorer}, {pluginRef: utilization-detector}"
    plugins = "plugins: [{type: queue-scorer}, {type: utilization-detector, parameters: {headroom: 0.2}}]\n"
    assembly = made(HEAD + plugins + f"schedulingProfiles: [{{name: a, plugins: [{names}]}}]\n")
    assert [name for name, _ in assembly.profile.filters] == ["lifecycle-filter", "utilization-detector"]


AGED = "plugins: [{type: utilization-detector, parameters: {metricsStalenessThreshold: 200ms}}]\n"


def test_servers_at_rest_are_read_as_often_as_the_age_of_readings_asks_for() -> None:
    assembly = made(GATE + AGED)
    assert "metricsStalenessThreshold" not in " ".join(assembly.warnings)
    pace = assembly.pace(floor=0.05, stale_after=2.0)
    assert (pace.rest, pace.slowest) == (0.1, pytest.approx(0.15))
    assert assembly.pace(floor=0.05, stale_after=0.1).rest == 0.05  # the flag says less
    assert made(GATE).pace(floor=0.05, stale_after=2.0).rest == 1.0


@pytest.mark.parametrize(
    "body, place",
    [
        (AGED, "c.yaml:4: plugins[0].parameters.metricsStalenessThreshold"),
        (
            "saturationDetector: {metricsStalenessThreshold: 200ms}\n",
            "c.yaml:4: saturationDetector.metricsStalenessThreshold",
        ),
    ],
)
def test_readings_cannot_be_younger_than_they_are_made(body: str, place: str) -> None:
    with pytest.raises(ConfigError) as caught:
        made(GATE + body).pace(floor=0.2, stale_after=2.0)
    said = "must be at least four thirds of the interval between two readings (0.2s), got 0.2s"
    assert str(caught.value) == f"{place}: {said}"


@pytest.mark.parametrize(
    "section, message",
    [
        ("{maxRequest: 5}", 'flowControl.maxRequest: unknown field, did you mean "maxRequests"?'),
        ("{maxRequests: many}", "flowControl.maxRequests: "),
        ("{defaultRequestTTL: 60}", "flowControl.defaultRequestTTL: "),
        ("{priorityBands: [{maxBytes: 1G}]}", 'flowControl.priorityBands[0]: "priority" is missing'),
        (
            "{priorityBands: [{priority: 1}, {priority: 1}]}",
            "flowControl.priorityBands[1].priority: there is a band of priority 1 already",
        ),
        (
            "{priorityBands: [{priority: 3000000000}]}",
            "flowControl.priorityBands[0].priority: must be a number of 32 bits, got 3000000000",
        ),
        (
            "{usageLimitPolicyPluginRef: queue-scorer}",
            'flowControl.usageLimitPolicyPluginRef: "queue-scorer" is a scorer, expected a usage limit',
        ),
        (
            "{saturationDetector: {pluginRef: no-such}}",
            'flowControl.saturationDetector.pluginRef: there is no plugin "no-such"',
        ),
        (
            "{defaultPriorityBand: {fairnessPolicyRef: round-robin-fairness-policy}}",
            "flowControl.defaultPriorityBand.fairnessPolicyRef: there is no plugin",
        ),
    ],
)
def test_what_is_wrong_is_said_in_one_line(section: str, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        made(GATE + QUEUE + f"flowControl: {section}\n")
    assert str(raised.value).startswith(f"c.yaml:5: {message}")


def test_a_pattern_has_no_priority() -> None:
    assembly = made(GATE + QUEUE + "flowControl: {defaultPriorityBand: {priority: 3}}\n")
    (warning,) = assembly.warnings
    assert warning.startswith("c.yaml:5: flowControl.defaultPriorityBand.priority: has no effect here")


def test_the_default_policies_need_no_entry() -> None:
    section = "{defaultPriorityBand: {fairnessPolicyRef: global-strict-fairness-policy}}"
    assert (
        flow_of(GATE + QUEUE + f"flowControl: {section}\n").band(0).fairness == GlobalStrictFairnessPolicy()
    )


@pytest.mark.parametrize(
    "mode, producers",
    [("requests", []), ("tokens", ["inflight-load-producer"]), ("hybrid", ["inflight-load-producer"])],
)
def test_tokens_are_booked_where_they_count(mode: str, producers: list[str]) -> None:
    detector = f"{{type: concurrency-detector, parameters: {{concurrencyMode: {mode}}}}}"
    section = "flowControl: {saturationDetector: {pluginRef: concurrency-detector}}\n"
    assembly = made(GATE + f"plugins: [{{type: queue-scorer}}, {detector}]\n" + section)
    assert [name for name, _ in assembly.producers] == producers


def test_the_example_of_the_page_is_a_configuration() -> None:
    example = PAGE.read_text(encoding="utf-8").split("```yaml\n")[1].split("```")[0]
    assembly = made(example)
    assert assembly.warnings == ()
    flow = assembly.flow
    assert flow is not None and flow.ttl == 30.0
    assert isinstance(flow.band(0).fairness, RoundRobinFairnessPolicy)
    assert flow.band(-1).max_requests == 500
