"""EndpointPickerConfig: what it makes, what it refuses and how it says so."""

import copy
import json
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from epp.config.decode import ConfigError
from epp.config.picker_config import DEFAULT_TEXT, Assembly, build, load, load_default
from epp.config.picker_file import API_VERSIONS
from epp.config.unsupported import UNSUPPORTED_TYPES
from epp.core.apis import DEFAULT_PARSERS, Parser
from epp.core.lifecycle import HealthSettings
from epp.core.pacing import Pace
from epp.core.scoring import Cycle, Endpoint, Kind, Scores, kinds
from scorers.approx_prefix_cache_producer import ApproxPrefixCacheProducer
from scorers.core_metrics_extractor import CoreMetricsExtractor, EngineConfig
from scorers.file_discovery import FileDiscovery
from scorers.inflight_load_producer import InflightLoadProducer
from scorers.kv_cache_utilization_scorer import KvCacheUtilizationScorer
from scorers.label_selector_filter import LabelSelectorFilter, Requirement
from scorers.lifecycle_filter import LifecycleFilter
from scorers.lifecycle_scorer import LifecycleScorer
from scorers.max_score_picker import MaxScorePicker
from scorers.metrics_data_source import MetricsDataSource
from scorers.prefix_cache_scorer import PrefixCacheScorer
from scorers.queue_scorer import QueueScorer
from scorers.random_picker import RandomPicker
from tests.picking import TYPES

HEAD = "apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\n"


def made(body: str, head: str = HEAD) -> Assembly:
    return build(load(head + body, "c.yaml"), TYPES)


def scorers_of(assembly: Assembly) -> list[tuple[str, float]]:
    return [(name, weight) for name, _, weight in assembly.profile.scorers]


def test_without_a_file_it_is_upstreams_default_behind_our_lifecycle() -> None:
    assembly = build(load_default(), TYPES)
    assert assembly.profile.name == "default"
    assert list(assembly.profile.filters) == [("lifecycle-filter", LifecycleFilter())]
    assert list(assembly.profile.scorers) == [
        ("lifecycle-scorer", LifecycleScorer(), 4.0),
        ("queue-scorer", QueueScorer(), 2.0),
        ("kv-cache-utilization-scorer", KvCacheUtilizationScorer(), 2.0),
        ("prefix-cache-scorer", PrefixCacheScorer(), 3.0),
    ]
    assert assembly.profile.picker == ("max-score-picker", MaxScorePicker())
    assert dict(assembly.producers) == {
        "inflight-load-producer": InflightLoadProducer(),
        "approx-prefix-cache-producer": ApproxPrefixCacheProducer(),
    }
    assert assembly.parsers == DEFAULT_PARSERS
    assert assembly.metrics_source == MetricsDataSource()
    assert assembly.extractor == CoreMetricsExtractor()
    assert assembly.health == HealthSettings()
    assert (assembly.discovery, assembly.warnings) == (None, ())


@pytest.mark.parametrize("version", API_VERSIONS)
def test_every_api_group_is_read(version: str) -> None:
    head = HEAD.replace("llm-d.ai/v1alpha1", version)
    assert scorers_of(made("plugins: [{type: queue-scorer}]", head)) == [("queue-scorer", 1.0)]


EVERYTHING = """\
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
featureGates: [haPopulateNonLeaderDatastore, flowControl=false]
plugins:
- {name: files, type: file-discovery, parameters: {path: endpoints.yaml, watchFile: true}}
- type: queue-scorer
- name: prefix
  type: prefix-cache-scorer
  parameters: {matchLengthWeight: 0.5, prefixMatchInfoProducerName: big}
- {name: big, type: approx-prefix-cache-producer, parameters: {blockSizeTokens: 128, autoTune: false}}
- {type: active-request-scorer, parameters: {idleThreshold: 2}}
- {type: endpoint-health, parameters: {silence: 250ms, failures: 3}}
- type: label-selector-filter
  parameters: {matchLabels: {app: vllm}, matchExpressions: [{key: role, operator: NotIn, values: [prefill]}]}
- {name: picker, type: random-picker, parameters: {maxNumOfEndpoints: 2}}
- type: single-profile-handler
- {type: metrics-data-source, parameters: {scheme: https, path: /m, port: 9000, interval: 250ms}}
- type: core-metrics-extractor
  parameters:
    defaultEngine: mine
    engineConfigs: [{name: mine, queuedRequestsSpec: "q{kind=waiting}", kvUsageSpec: kv}]
- type: openai-parser
- type: passthrough-parser
schedulingProfiles:
- name: only
  plugins:
  - pluginRef: label-selector-filter
  - {pluginRef: queue-scorer, weight: 2}
  - {pluginRef: prefix, weight: 3.5}
  - pluginRef: active-request-scorer
  - pluginRef: picker
requestHandler: {parsers: [{pluginRef: openai-parser}, {pluginRef: passthrough-parser}]}
dataLayer:
  sources: [{pluginRef: metrics-data-source, extractors: [{pluginRef: core-metrics-extractor}]}]
  discovery: {pluginRef: files}
flowControl:
  maxBytes: 1Gi
  maxRequests: 1k
  defaultRequestTTL: 60s
  noEndpointRequestTTL: 5m
  defaultPriorityBand: {maxBytes: 1G}
  priorityBands: [{priority: 1, maxRequests: 5000, orderingPolicyRef: fcfs-ordering-policy}]
  saturationDetector: {pluginRef: utilization-detector}
  whatever: {is: written}
"""


def test_every_part_of_a_file_arrives() -> None:
    assembly = build(load(EVERYTHING, "c.yaml"), TYPES)
    assert assembly.profile.name == "only"
    selector = LabelSelectorFilter(
        match_labels={"app": "vllm"},
        match_expressions=(Requirement(key="role", operator="NotIn", values=("prefill",)),),
    )
    assert list(assembly.profile.filters) == [
        ("label-selector-filter", selector),
        ("lifecycle-filter", LifecycleFilter()),
    ]
    assert scorers_of(assembly) == [("queue-scorer", 2.0), ("prefix", 3.5), ("active-request-scorer", 1.0)]
    prefix = assembly.profile.scorers[1][1]
    assert prefix == PrefixCacheScorer(match_length_weight=0.5, prefix_match_info_producer_name="big")
    assert assembly.profile.picker == ("picker", RandomPicker(max_num_of_endpoints=2))
    producers = dict(assembly.producers)
    assert producers["big"] == ApproxPrefixCacheProducer(block_size_tokens=128, auto_tune=False)
    assert producers["inflight-load-producer"] == InflightLoadProducer(prefix_match_info_producer_name="big")
    assert assembly.parsers == (Parser.OPENAI, Parser.PASSTHROUGH)
    assert assembly.discovery == FileDiscovery(path="endpoints.yaml", watch_file=True)
    assert assembly.metrics_source == MetricsDataSource(scheme="https", path="/m", port=9000, interval=0.25)
    engine = EngineConfig(name="mine", queued_requests_spec="q{kind=waiting}", kv_usage_spec="kv")
    assert assembly.extractor == CoreMetricsExtractor(default_engine="mine", engine_configs=(engine,))
    assert assembly.health == HealthSettings(silence=0.25, failures=3)
    assert assembly.warnings == (
        'c.yaml:36: flowControl: has no effect without the feature gate "flowControl"',
    )


@pytest.mark.parametrize(
    "body, scorers, picker",
    [
        pytest.param(
            "plugins: [{type: queue-scorer}, {name: kv, type: kv-cache-utilization-scorer}]",
            [("queue-scorer", 1.0), ("kv", 1.0)],
            "max-score-picker",
            id="no-profiles-is-one-with-all",
        ),
        pytest.param(
            "plugins: [{type: queue-scorer}, {name: any, type: random-picker}]\n"
            "schedulingProfiles: [{name: x, plugins: [{pluginRef: queue-scorer}]}]",
            [("queue-scorer", 1.0)],
            "any",
            id="a-configured-picker-is-the-default",
        ),
        pytest.param(
            "plugins: [{type: queue-scorer}]\n"
            "schedulingProfiles: [{name: x, plugins: [{pluginRef: queue-scorer, weight: 0}]}]",
            [("queue-scorer", 0.0)],
            "max-score-picker",
            id="a-weight-of-0-is-a-weight",
        ),
        pytest.param("{}", [], "max-score-picker", id="nothing-at-all"),
    ],
)
def test_what_is_left_out_is_filled_in(body: str, scorers: list[Any], picker: str) -> None:
    assembly = made("" if body == "{}" else body)
    assert (scorers_of(assembly), assembly.profile.picker[0]) == (scorers, picker)


@pytest.mark.parametrize(
    "body, name, producers",
    [
        pytest.param("", "approx-prefix-cache-producer", ["approx-prefix-cache-producer"], id="added"),
        pytest.param(
            ", {name: mine, type: approx-prefix-cache-producer}", "mine", ["mine"], id="the-only-one"
        ),
    ],
)
def test_a_scorer_finds_its_producer(body: str, name: str, producers: list[str]) -> None:
    assembly = made(f"plugins: [{{type: prefix-cache-scorer}}{body}]")
    (_, scorer, _) = assembly.profile.scorers[0]
    assert scorer == PrefixCacheScorer(prefix_match_info_producer_name=name)
    assert [each for each, _ in assembly.producers] == producers


@pytest.mark.parametrize(
    "discovery",
    ["{pluginRef: f}", "{endpoints: {pluginRef: f}}"],
    ids=["llm-d.ai/v1alpha1", "llm-d.ai/v1"],
)
def test_both_forms_of_discovery_are_read(discovery: str) -> None:
    plugins = "plugins: [{name: f, type: file-discovery, parameters: {path: p}}]"
    assert made(f"{plugins}\ndataLayer: {{discovery: {discovery}}}").discovery == FileDiscovery(path="p")


def test_the_old_place_of_the_parser_is_read() -> None:
    assert made("plugins: [{type: openai-parser}]\nparser: {pluginRef: openai-parser}").parsers == (
        Parser.OPENAI,
    )


def test_the_new_place_of_the_parsers_wins_over_the_old() -> None:
    both = "plugins: [{type: openai-parser}, {type: passthrough-parser}]\n"
    both += "parser: {pluginRef: openai-parser}\nrequestHandler: {parsers: [{pluginRef: passthrough-parser}]}"
    assert made(both).parsers == (Parser.PASSTHROUGH,)


def test_sources_of_ones_own_are_no_defaults() -> None:
    layer = "dataLayer: {injectDefaults: false, sources: [{pluginRef: s}]}"
    assembly = made(f"{layer}\nplugins: [{{name: s, type: metrics-data-source, parameters: {{port: 9}}}}]")
    assert assembly.metrics_source == MetricsDataSource(port=9)


def test_the_pace_is_the_sources_else_the_flags() -> None:
    source = "plugins: [{type: metrics-data-source, parameters: {interval: 250ms}}]"
    assert made(source).pace(floor=0.1, stale_after=2.0) == Pace(floor=0.25)
    assert made(QUEUE).pace(floor=0.1, stale_after=2.0) == Pace(floor=0.1)


@pytest.mark.parametrize(
    "interval, message",
    [
        ("10ms", "must be at least 50ms, got 0.01s"),
        ("0s", "must be at least 50ms, got 0s"),
        ("5s", "must be at most three quarters of --metrics-staleness-threshold (2s)"),
    ],
)
def test_an_interval_that_cannot_work_is_named_with_its_place(interval: str, message: str) -> None:
    plugins = f"plugins:\n- type: metrics-data-source\n  parameters:\n    interval: {interval}"
    with pytest.raises(ConfigError) as raised:
        made(plugins).pace(floor=0.05, stale_after=2.0)
    assert str(raised.value).startswith(f"c.yaml:6: plugins[0].parameters.interval: {message}")


QUEUE = "plugins: [{type: queue-scorer}]\n"


@pytest.mark.parametrize(
    "body, message",
    [
        pytest.param(
            "plugins: [{type: queue-scroer}]",
            'c.yaml:3: plugins[0].type: unknown plugin type "queue-scroer", did you mean "queue-scorer"?',
            id="type",
        ),
        pytest.param(
            "plugins: [{type: zzz}]",
            'c.yaml:3: plugins[0].type: unknown plugin type "zzz", is the package that has it installed?',
            id="type-of-no-package",
        ),
        pytest.param(
            "plugins: [{type: kv-cache-scorer}]",
            'c.yaml:3: plugins[0].type: unknown plugin type "kv-cache-scorer", did you mean '
            '"kv-cache-utilization-scorer"?',
            id="type-by-its-former-name",
        ),
        pytest.param("plugins: [{name: x}]", 'c.yaml:3: plugins[0]: "type" is missing', id="no-type"),
        pytest.param(
            "plugins:\n- {type: queue-scorer}\n- {type: random-picker, name: queue-scorer}",
            'c.yaml:5: plugins[1]: the name "queue-scorer" is there twice, first in line 4; '
            "give each plugin its own name",
            id="name-twice",
        ),
        pytest.param(
            "plugins:\n- type: approx-prefix-cache-producer\n  parameters:\n    blockSizeTokns: 3",
            'c.yaml:6: plugins[0].parameters.blockSizeTokns: unknown field, did you mean "blockSizeTokens"?',
            id="parameter",
        ),
        pytest.param(
            "plugins: [{type: queue-scorer, parameters: {x: 1}}]",
            "c.yaml:3: plugins[0].parameters.x: unknown field, there are none here",
            id="parameter-of-a-plugin-without",
        ),
        pytest.param(
            "plugins: [{type: file-discovery}]",
            'c.yaml:3: plugins[0].parameters: "path" is missing',
            id="required-parameter",
        ),
        pytest.param(
            "plugins: [{type: core-metrics-extractor, parameters: {engineConfigs: [{name: a}, {name: a}]}}]",
            'c.yaml:3: plugins[0].parameters.engineConfigs: engine "a" is there twice',
            id="engine-twice",
        ),
        pytest.param(
            "plugins: [{type: core-metrics-extractor, parameters: {engineConfigs: "
            "[{name: a, customMetrics: [{attributeKey: x, metricSpec: 'y{'}]}]}}]",
            "c.yaml:3: plugins[0].parameters.engineConfigs[0].customMetrics[0].metricSpec: 'y{' is no "
            "metric: "
            "expected metric_name or metric_name{label=value,...}",
            id="custom-metrics",
        ),
        pytest.param(
            "plugins: [{type: core-metrics-extractor, parameters: {engineConfigs: "
            "[{name: a, loraSpec: 'x{'}]}}]",
            "c.yaml:3: plugins[0].parameters.engineConfigs[0].loraSpec: 'x{' is no metric: "
            "expected metric_name or metric_name{label=value,...}",
            id="metric",
        ),
        pytest.param(
            "plugins: [{type: core-metrics-extractor, parameters: {defaultEngine: vlm, "
            "engineConfigs: [{name: mine}]}}]",
            'c.yaml:3: plugins[0].parameters.defaultEngine: there is no engine "vlm", known are vllm, '
            "sglang, trtllm-serve, triton-tensorrt-llm, triton, tgi, llamacpp, omlx, ollama, mlx-server, "
            "mine",
            id="engine",
        ),
        pytest.param(
            QUEUE + "schedulingProfiles: [{name: a, plugins: [{pluginRef: queue-scorr}]}]",
            'c.yaml:4: schedulingProfiles[0].plugins[0].pluginRef: there is no plugin "queue-scorr", '
            'did you mean "queue-scorer"?',
            id="reference",
        ),
        pytest.param(
            QUEUE + "schedulingProfiles: [{name: a, plugins: [{pluginRef: queue-scorer, weight: heavy}]}]",
            'c.yaml:4: schedulingProfiles[0].plugins[0].weight: expected a number, got "heavy"',
            id="weight",
        ),
        pytest.param(
            QUEUE + 'schedulingProfiles: [{name: "", plugins: []}]',
            'c.yaml:4: schedulingProfiles[0].name: must not be empty, write for example "default"',
            id="profile-without-a-name",
        ),
        pytest.param(
            QUEUE + "schedulingProfiles: [{name: a, plugins: [{pluginRef: queue-scorer, weight: -2}]}]",
            "c.yaml:4: schedulingProfiles[0].plugins[0].weight: must be from 0 (no influence) to 1000000, "
            "got -2",
            id="weight-below-0",
        ),
        pytest.param(
            QUEUE + "schedulingProfiles: [{name: a, plugins: [{pluginRef: queue-scorer, weight: 1e300}]}]",
            "c.yaml:4: schedulingProfiles[0].plugins[0].weight: must be from 0 (no influence) to 1000000, "
            "got 1e+300",
            id="weight-without-measure",
        ),
        pytest.param(
            "plugins: [{type: inflight-load-producer, parameters: {outputRatio: 1e308}}]",
            "c.yaml:3: plugins[0].parameters.outputRatio: must be from 0 to 1000, got 1e+308",
            id="output-ratio",
        ),
        pytest.param(
            QUEUE + "schedulingProfiles: [{name: a, plugins: [&q {pluginRef: queue-scorer}, *q]}]",
            'c.yaml:4: schedulingProfiles[0].plugins[1].pluginRef: "queue-scorer" is there twice',
            id="reference-twice",
        ),
        pytest.param(
            QUEUE + "schedulingProfiles: [{name: a}, {name: a}]",
            'c.yaml:4: schedulingProfiles[0]: the profile name "a" is there twice',
            id="profile-twice",
        ),
        pytest.param(
            QUEUE + "schedulingProfiles: [{name: a}, {name: b}]",
            "c.yaml:4: schedulingProfiles: 2 profiles, but single-profile-handler takes one: add a handler "
            "that chooses between profiles, such as disagg-profile-handler",
            id="two-profiles",
        ),
        pytest.param(
            "plugins: [{type: random-picker}, {type: max-score-picker}]",
            'c.yaml:3: plugins: "random-picker" and "max-score-picker" are both pickers, keep one',
            id="two-pickers",
        ),
        pytest.param(
            "plugins: [{type: single-profile-handler}, {type: single-profile-handler, name: b}]",
            "c.yaml:3: plugins[1]: there is more than one profile handler, keep one",
            id="two-handlers",
        ),
        pytest.param(
            "plugins: [{type: prefix-cache-scorer, parameters: {prefixMatchInfoProducerName: gone}}]",
            "c.yaml:3: plugins[0].parameters.prefixMatchInfoProducerName: "
            'there is no plugin "gone", add it to plugins',
            id="producer",
        ),
        pytest.param(
            "plugins: [{type: queue-scorer}, "
            "{type: prefix-cache-scorer, parameters: {prefixMatchInfoProducerName: queue-scorer}}]",
            "c.yaml:3: plugins[1].parameters.prefixMatchInfoProducerName: "
            '"queue-scorer" is a scorer, expected a producer',
            id="no-producer",
        ),
        pytest.param(
            "plugins: [{type: prefix-cache-scorer}, {type: approx-prefix-cache-producer, name: a}, "
            "{type: approx-prefix-cache-producer, name: b}]",
            'c.yaml:3: plugins[0]: there are "a", "b" of type approx-prefix-cache-producer, '
            "name one in prefixMatchInfoProducerName",
            id="which-producer",
        ),
        pytest.param(
            QUEUE + "dataLayer: {discovery: {pluginRef: queue-scorer}}",
            'c.yaml:4: dataLayer.discovery.pluginRef: "queue-scorer" is a scorer, expected a discovery',
            id="no-discovery",
        ),
        pytest.param(
            "dataLayer: {discovery: {}}",
            "c.yaml:3: dataLayer.discovery: give either pluginRef or endpoints.pluginRef",
            id="empty-discovery",
        ),
        pytest.param(
            QUEUE + "requestHandler: {parsers: [{pluginRef: queue-scorer}]}",
            'c.yaml:4: requestHandler.parsers[0].pluginRef: "queue-scorer" is a scorer, expected a parser',
            id="no-parser",
        ),
        pytest.param(
            "featureGates: [flowcontrol]",
            'c.yaml:3: featureGates: unknown feature gate "flowcontrol", did you mean "flowControl"?',
            id="gate",
        ),
        pytest.param(
            "featureGates: [flowControl=maybe]",
            'c.yaml:3: featureGates: expected "flowControl", "flowControl=true" or "flowControl=false", '
            'got "flowControl=maybe"',
            id="gate-value",
        ),
        pytest.param(
            "dataLayer:\n  injectDefaults: false",
            "c.yaml:4: dataLayer.injectDefaults: false without sources is not supported by this version: "
            "the endpoints' load is always read; leave it out",
            id="no-reading",
        ),
        pytest.param(
            "plugins: [{type: metrics-data-source, parameters: {path: /é}}]",
            "c.yaml:3: plugins[0].parameters.path: has characters that no request may have: "
            'write them as %XX, and no "#"',
            id="metrics-path",
        ),
        pytest.param(
            "plugins:\n- type: endpoint-health\n  parameters:\n    silence: 0s",
            "c.yaml:6: plugins[0].parameters.silence: must be from 1ms to 1h, got 0s",
            id="threshold",
        ),
        pytest.param(
            "plugins: [{type: endpoint-health, parameters: {silence: 2}}]",
            'c.yaml:3: plugins[0].parameters.silence: expected a duration such as "500ms", "2s" or "1m30s", '
            "got 2",
            id="threshold-without-a-unit",
        ),
        pytest.param(
            "plugins: [{type: endpoint-health}, {type: endpoint-health, name: b}]",
            "c.yaml:3: plugins[1]: there are 2 plugins of type endpoint-health; keep one",
            id="two-sets-of-thresholds",
        ),
        pytest.param(
            "plugins: [{type: queue-scorer, name: lifecycle-filter}]",
            'c.yaml:3: plugins[0].name: a plugin of the type "lifecycle-filter" is called so, rename it',
            id="the-name-of-one-that-is-added",
        ),
        pytest.param(
            "plugins: [{type: prefix-cache-scorer, parameters: {blockSizeToken: 16}}]",
            'c.yaml:3: plugins[0].parameters.blockSizeToken: unknown field, did you mean "blockSizeTokens"?',
            id="a-parameter-that-has-moved",
        ),
        pytest.param(
            "metadata: {name: x}",
            "c.yaml:3: metadata: unknown field, known are apiVersion, kind, featureGates, plugins, "
            "schedulingProfiles, requestHandler, parser, dataLayer, flowControl",
            id="what-is-deprecated-is-no-suggestion",
        ),
        pytest.param(
            "saturationDetecter: {}",
            'c.yaml:3: saturationDetecter: unknown field, did you mean "saturationDetector"?',
            id="what-is-deprecated-may-be-misspelt",
        ),
        pytest.param(
            "plugins: [{type: queue-scorer}, {type: edf-ordering-policy}]\n"
            "requestHandler: {parsers: [{pluginRef: edf-ordering-policy}]}",
            'c.yaml:4: requestHandler.parsers[0].pluginRef: "edf-ordering-policy" is an ordering policy, '
            "expected a parser",
            id="article",
        ),
        pytest.param("pluginz: []", 'c.yaml:3: pluginz: unknown field, did you mean "plugins"?', id="field"),
    ],
)
def test_a_mistake_is_named_with_its_place(body: str, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        made(body)
    assert str(raised.value) == message


@pytest.mark.parametrize(
    "text, message",
    [
        ("plugins: []", 'c.yaml:1: "apiVersion" is missing, write apiVersion: llm-d.ai/v1alpha1'),
        ("apiVersion: llm-d.ai/v1", 'c.yaml:1: "kind" is missing, write kind: EndpointPickerConfig'),
        ("apiVersion: v1\nkind: x", 'c.yaml:1: apiVersion: expected "llm-d.ai/v1alpha1" or "llm-d.ai/v1"'),
        ("apiVersion: llm-d.ai/v1\nkind: Pod", 'c.yaml:2: kind: expected "EndpointPickerConfig", got "Pod"'),
        ("- x", "c.yaml:1: expected a mapping, got a list"),
    ],
    ids=["no-version", "no-kind", "another-version", "another-kind", "a-list"],
)
def test_the_kind_of_file_is_checked_first(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load(text, "c.yaml")
    assert str(raised.value).startswith(message)


def test_a_list_of_servers_is_known_for_what_it_is() -> None:
    with pytest.raises(
        ConfigError, match=r"^c\.yaml:1: is a list of servers, not a configuration: give it as --end"
    ):
        load("endpoints:\n- {name: a, address: 10.0.0.1, port: 1}\n", "c.yaml")


@pytest.mark.parametrize(
    "body, what",
    [
        ("dataLayer: {peerDiscovery: {pluginRef: x}}", "dataLayer.peerDiscovery: is"),
        ("dataLayer: {crossReplicaSyncerPluginRef: x}", "dataLayer.crossReplicaSyncerPluginRef: is"),
        ("dataLayer: {crossReplicaSyncInterval: 1s}", "dataLayer.crossReplicaSyncInterval: is"),
        *[
            (f"plugins: [{{type: {name}}}]", f'plugins[0].type: the plugin type "{name}" is')
            for name in ("predicted-latency-producer", "precise-prefix-cache-scorer")
        ],
    ],
)
def test_what_this_version_lacks_is_refused_by_name(body: str, what: str) -> None:
    with pytest.raises(ConfigError) as raised:
        made(body)
    assert str(raised.value).startswith(f"c.yaml:3: {what} not supported by this version")


def test_no_type_is_both_supported_and_not() -> None:
    assert not UNSUPPORTED_TYPES.keys() & TYPES.keys()


def test_the_reason_is_said_for_what_is_not_here() -> None:
    with pytest.raises(ConfigError) as raised:
        made("plugins: [{type: latency-slo-admitter}]")
    assert str(raised.value).endswith("is not supported by this version: there is no latency predictor")
    assert all(UNSUPPORTED_TYPES.values())


@pytest.mark.parametrize(
    "body, warnings",
    [
        pytest.param(
            QUEUE + "schedulingProfiles: [{name: a, plugins: []}]",
            (
                "c.yaml:1: no scorers: endpoints are picked without looking at their load",
                'c.yaml:3: plugins[0]: the scorer "queue-scorer" is used by nothing',
            ),
            id="unused",
        ),
        pytest.param(
            QUEUE + "schedulingProfiles: [{name: a, plugins: [{pluginRef: queue-scorer, weight: 0}]}]",
            ("c.yaml:1: every weight is 0: endpoints are picked without looking at their load",),
            id="no-weight",
        ),
        pytest.param(
            "plugins: [{type: queue-scorer}, {type: inflight-load-producer}, {type: random-picker}]\n"
            "schedulingProfiles: [{name: a, plugins: [{pluginRef: queue-scorer}, "
            "{pluginRef: inflight-load-producer}, {pluginRef: random-picker, weight: 3}]}]",
            (
                (
                    'c.yaml:4: schedulingProfiles[0].plugins[1]: "inflight-load-producer" '
                    "has no effect here, it is a producer"
                ),
                (
                    'c.yaml:4: schedulingProfiles[0].plugins[2]: the weight of "random-picker" '
                    "has no effect, it is no scorer"
                ),
            ),
            id="out-of-place",
        ),
        pytest.param(
            "plugins: [{type: active-request-scorer, parameters: {requestTimeout: 5m}}]",
            (
                (
                    "c.yaml:3: plugins[0].parameters.requestTimeout: is deprecated: "
                    "requests in flight end by themselves"
                ),
            ),
            id="deprecated",
        ),
        pytest.param(
            "plugins: [{type: queue-scorer}, {type: openai-parser}, {type: passthrough-parser}]\n"
            "requestHandler: {parsers: [{pluginRef: passthrough-parser}, {pluginRef: openai-parser}]}",
            (
                (
                    "c.yaml:4: requestHandler.parsers[1]: has no effect after passthrough-parser, "
                    "which takes every path"
                ),
            ),
            id="unreachable-parser",
        ),
    ],
)
def test_what_has_no_effect_is_warned_of(body: str, warnings: tuple[str, ...]) -> None:
    assert made(body).warnings == warnings


def test_a_plugin_of_another_package_is_like_ours() -> None:
    @dataclass(frozen=True, slots=True, kw_only=True)
    class Theirs:
        some_factor: float = 1.0
        fact_name: str = ""
        requires: ClassVar[dict[str, str]] = {"fact_name": "approx-prefix-cache-producer"}

        def score(self, cycle: Cycle, endpoints: list[Endpoint]) -> Scores:
            return [self.some_factor for _ in endpoints]

    text = HEAD + "plugins: [{type: theirs, parameters: {someFactor: 0.5}}]"
    assembly = build(load(text, "c.yaml"), {**TYPES, "theirs": Theirs})
    assert assembly.profile.scorers[0][1] == Theirs(some_factor=0.5, fact_name="approx-prefix-cache-producer")


@dataclass(frozen=True)
class Odd:
    when: complex = 0j

    def score(self, cycle: Cycle, endpoints: list[Endpoint]) -> Scores:
        return [None for _ in endpoints]


@pytest.mark.parametrize(
    "kind, place",
    [("METRICS_SOURCE", "sources: [{pluginRef: x}]"), ("DISCOVERY", "discovery: {pluginRef: x}")],
)
def test_settings_of_the_pickers_own_are_of_its_own_types(kind: str, place: str) -> None:
    theirs = dataclass(frozen=True)(type("Theirs", (), {"kind": Kind[kind]}))
    text = HEAD + f"plugins: [{{type: x}}]\ndataLayer: {{{place}}}"
    message = f"c.yaml:3: plugins[0].type: a {Kind[kind].value} of a type that does not come with the picker "
    with pytest.raises(ConfigError) as caught:
        build(load(text, "c.yaml"), {**TYPES, "x": theirs})
    assert str(caught.value) == message + "is not supported by this version"


@dataclass(frozen=True)
class Nothing:
    size: int = 0


@pytest.mark.parametrize(
    "plugin_type, parameters, message",
    [
        pytest.param(Odd, "{when: 1}", 'the plugin type "x" is faulty: ', id="type-of-a-field"),
        pytest.param(
            Nothing, "{}", 'the plugin type "x" is no dataclass with the methods of a', id="no-methods"
        ),
        pytest.param(
            object, "{}", 'the plugin type "x" is no dataclass with the methods of a', id="no-dataclass"
        ),
    ],
)
def test_a_faulty_plugin_type_is_named(plugin_type: type, parameters: str, message: str) -> None:
    text = HEAD + f"plugins: [{{type: x, parameters: {parameters}}}]"
    with pytest.raises(ConfigError, match=message):
        build(load(text, "c.yaml"), {**TYPES, "x": plugin_type})


SUFFIXES = {
    "source": Kind.METRICS_SOURCE,
    "handler": Kind.PROFILE_HANDLER,
    "health": Kind.HEALTH,
    "preference": Kind.FILTER,
    "identity": Kind.PRODUCER,
}
SEVERAL = {
    "context-length-aware": {Kind.SCORER, Kind.FILTER},
    "topology-extractor": {Kind.TOPOLOGY},
    "dcgm-data-source": {Kind.SIDE_SOURCE},
    "models-data-source": {Kind.SIDE_SOURCE},
    "dcgm-extractor": {Kind.SIDE_EXTRACTOR},
    "models-data-extractor": {Kind.SIDE_EXTRACTOR},
    "k8s-notification-source": {Kind.NOTIFICATION},
    "endpoint-notification-source": {Kind.NOTIFICATION},
    "destination-endpoint-served-verifier": {Kind.RESPONSE_HEADER},
    "by-label": {Kind.FILTER},
    "by-label-selector": {Kind.FILTER},
    "disagg-headers-handler": {Kind.NOTHING},
    "prefill-header-handler": {Kind.NOTHING},
    "tokenizer": {Kind.PRODUCER},
}


FLOW_TYPES = {
    "concurrency-detector": {Kind.DETECTOR, Kind.FILTER},
    "utilization-detector": {Kind.DETECTOR, Kind.FILTER},
    "edf-ordering-policy": {Kind.ORDERING},
    "fcfs-ordering-policy": {Kind.ORDERING},
    "slo-deadline-ordering-policy": {Kind.ORDERING},
    "global-strict-fairness-policy": {Kind.FAIRNESS},
    "program-aware-fairness": {Kind.FAIRNESS},
    "round-robin-fairness-policy": {Kind.FAIRNESS},
    "priority-holdback-policy": {Kind.USAGE_LIMIT},
    "soft-reflective-ceiling-policy": {Kind.USAGE_LIMIT},
    "static-usage-limit-policy": {Kind.USAGE_LIMIT},
    "priority-then-time-eviction-order-policy": {Kind.EVICTION_ORDER},
    "sheddable-eviction-filter": {Kind.EVICTION_FILTER},
}


def test_every_type_says_what_it_is() -> None:
    for name, plugin_type in TYPES.items():
        suffix = name.rpartition("-")[2]
        expected = FLOW_TYPES.get(name) or SEVERAL.get(name) or {SUFFIXES.get(suffix) or Kind(suffix)}
        assert kinds(plugin_type) == expected, name


PROFILE = "schedulingProfiles: [{name: a, plugins: ["


@pytest.mark.parametrize(
    "body, filters",
    [
        pytest.param("plugins: []", ["lifecycle-filter"], id="added"),
        pytest.param(
            "plugins: [{type: lifecycle-filter, name: alive}]\nschedulingProfiles: [{name: a, plugins: []}]",
            ["alive"],
            id="the-configured-one-is-in-use",
        ),
        pytest.param(
            "plugins: [{type: theirs}, {type: label-selector-filter}]",
            ["lifecycle-filter", "theirs", "label-selector-filter"],
            id="in-front",
        ),
        pytest.param(
            "plugins: [{type: label-selector-filter}, {type: tier-preference}, {type: theirs}]",
            ["label-selector-filter", "tier-preference", "lifecycle-filter", "theirs"],
            id="behind-those-that-say-who-may-serve-at-all",
        ),
        pytest.param(
            "plugins: [{type: theirs}, {type: lifecycle-filter}]",
            ["theirs", "lifecycle-filter"],
            id="where-it-is-placed",
        ),
        pytest.param(
            "plugins: [{type: lifecycle-filter, name: none, parameters: {enabled: false}}, {type: theirs}]\n"
            + PROFILE
            + "{pluginRef: theirs}]}]",
            ["theirs"],
            id="switched-off",
        ),
    ],
)
def test_dead_endpoints_are_dropped_unless_that_is_switched_off(body: str, filters: list[str]) -> None:
    @dataclass(frozen=True)
    class Theirs:
        def filter(self, cycle: Cycle, endpoints: list[Endpoint]) -> list[Endpoint]:
            return endpoints

    assembly = build(load(HEAD + body, "c.yaml"), {**TYPES, "theirs": Theirs})
    assert [name for name, _ in assembly.profile.filters] == filters
    assert "c.yaml:1: no scorers: endpoints are picked without looking at their load" in assembly.warnings
    is_off = "c.yaml:3: plugins[0]: dead endpoints are picked like others" in assembly.warnings
    assert is_off == ("enabled: false" in body)


PIECES = st.sampled_from(
    [
        "- ",
        ": ",
        "{",
        "}",
        "[",
        "]",
        "\n",
        "  ",
        "null",
        "-1",
        "1e9",
        "x",
        "plugins",
        "queue-scorer",
        "&a ",
        "*a",
        '"',
    ]
)


@given(
    base=st.sampled_from([EVERYTHING, DEFAULT_TEXT]),
    edits=st.lists(
        st.tuples(st.integers(0, len(EVERYTHING)), st.integers(0, 12), PIECES | st.text(max_size=2)),
        max_size=3,
    ),
)
def test_any_mutation_of_a_good_file_builds_or_is_a_config_error(
    base: str, edits: list[tuple[int, int, str]]
) -> None:
    text = base
    for place, removed, inserted in edits:
        text = text[:place] + inserted + text[place + removed :]
    _builds_or_is_refused(text)


DOCUMENT = yaml.safe_load(EVERYTHING)


@given(data=st.data())
def test_any_value_in_place_of_another_builds_or_is_a_config_error(data: st.DataObject) -> None:
    document = copy.deepcopy(DOCUMENT)
    holder: Any = document
    for _ in range(data.draw(st.integers(0, 5))):
        keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
        inner = [key for key in keys if isinstance(holder[key], dict | list) and holder[key]]
        if not inner:
            break
        holder = holder[data.draw(st.sampled_from(inner))]
    keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
    holder[data.draw(st.sampled_from(keys))] = data.draw(
        st.sampled_from([None, "", "x", 0, -1, 1.5, True, [], {}, [None], {"a": 1}, {"pluginRef": "big"}])
    )
    _builds_or_is_refused(json.dumps(document))  # JSON is YAML


def _builds_or_is_refused(text: str) -> None:
    try:
        assert isinstance(build(load(text, "c.yaml"), TYPES), Assembly)
    except ConfigError as error:
        message = str(error)
    else:
        return
    assert message.startswith("c.yaml") and "\n" not in message


@pytest.mark.parametrize("plugins, heeds", [("", False), ("- type: tier-preference\n", True)])
def test_whether_anybody_heeds_tiers_is_known(plugins: str, heeds: bool) -> None:
    assert made(f"plugins:\n- type: queue-scorer\n{plugins}").heeds_tiers is heeds
