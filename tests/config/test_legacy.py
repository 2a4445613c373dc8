"""Configurations of older versions: they mean what they meant, and one line says what to write now."""

import pytest

from epp.config.decode import ConfigError
from epp.config.picker_config import Assembly, build, load
from epp.core.scoring import Cycle, Request
from scorers.approx_prefix_cache_producer import ApproxPrefixCacheProducer
from scorers.by_label import ByLabel
from scorers.disagg_profile_handler import DisaggProfileHandler, StageDeciders, StageProfiles
from scorers.pd_profile_handler import PdProfileHandler
from scorers.prefix_cache_scorer import PrefixCacheScorer
from scorers.utilization_detector import UtilizationDetector
from tests.picking import TYPES, cycle_of, fleet_of

V1 = "apiVersion: inference.networking.x-k8s.io/v1alpha1\nkind: EndpointPickerConfig\n"
STAGES = """\
schedulingProfiles:
- {name: prefill, plugins: [{pluginRef: prefill-filter}, {pluginRef: queue-scorer}]}
- {name: decode, plugins: [{pluginRef: decode-filter}, {pluginRef: queue-scorer}]}
"""
FILTERS = "- type: prefill-filter\n- type: decode-filter\n- type: queue-scorer\n"


def made(body: str) -> Assembly:
    return build(load(V1 + body, "c.yaml"), TYPES)


def refused(body: str) -> str:
    with pytest.raises(ConfigError) as raised:
        made(body)
    return str(raised.value)


# --- the file ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("gate", ["dataLayer", "prepareDataPlugins", "enableLegacyMetrics=false"])
def test_gates_that_ask_for_what_happens_anyway(gate: str) -> None:
    assert made(f"featureGates: [{gate}]\nplugins: [{{type: queue-scorer}}]").warnings == ()


def test_the_gate_of_the_metric_flags() -> None:
    (warning,) = made("featureGates: [enableLegacyMetrics]\nplugins: [{type: queue-scorer}]").warnings
    assert warning == (
        'c.yaml:3: featureGates: "enableLegacyMetrics" has no effect: '
        "metrics are named in core-metrics-extractor"
    )


def test_the_data_layer_was_called_data() -> None:
    body = "plugins: [{type: queue-scorer}, {type: metrics-data-source, parameters: {port: 9}}]\n"
    assembly = made(body + "data: {sources: [{pluginRef: metrics-data-source, extractors: []}]}")
    assert assembly.metrics_source.port == 9
    assert assembly.warnings == ("c.yaml:4: data: is deprecated: write it as dataLayer",)
    assert refused(body + "data: {}\ndataLayer: {}") == (
        "c.yaml:4: data: is the older name of dataLayer, which is there as well: keep one"
    )


def test_the_saturation_detector_was_its_thresholds() -> None:
    body = "plugins: [{type: queue-scorer}]\nsaturationDetector:\n  queueDepthThreshold: 7\n"
    assembly = made(body + "  metricsStalenessThreshold: 100ms\n  kvCacheUtilThreshold: 0.7")
    assert assembly.detector == UtilizationDetector(
        queue_depth_threshold=7, kv_cache_util_threshold=0.7, metrics_staleness_threshold=0.1
    )
    assert assembly.warnings == (
        "c.yaml:4: saturationDetector: is deprecated: write it as flowControl.saturationDetector",
    )
    assert refused(body + "  queueDepth: 3") == (
        'c.yaml:6: saturationDetector.queueDepth: unknown field, did you mean "queueDepthThreshold"?'
    )
    assert refused(body.replace("7", "seven")) == (
        'c.yaml:5: saturationDetector.queueDepthThreshold: expected an integer, got "seven"'
    )
    assert refused(body + "  pluginRef: x").startswith(
        "c.yaml:6: saturationDetector.pluginRef: is there beside"
    )
    assert refused(body.replace("queue-scorer", "utilization-detector")).startswith(
        "c.yaml:4: saturationDetector: there is a utilization-detector in plugins, write the thresholds there"
    )


# --- parameters that moved ----------------------------------------------------------------------------

MOVED = """\
plugins:
- type: prefix-cache-scorer
  parameters: {blockSizeTokens: 128, autoTune: false, maxPrefixBlocksToMatch: 256, lruCapacityPerServer: 99}
"""


def test_the_prefix_scorer_had_the_parameters_of_its_producer() -> None:
    assembly = made(MOVED)
    assert dict(assembly.producers) == {
        "approx-prefix-cache-producer": ApproxPrefixCacheProducer(
            block_size_tokens=128, auto_tune=False, max_prefix_blocks_to_match=256, lru_capacity_per_server=99
        )
    }
    assert assembly.profile.scorers[0][1] == PrefixCacheScorer()
    assert assembly.warnings[0] == (
        "c.yaml:5: plugins[0].parameters.blockSizeTokens: is deprecated: "
        "write it in the parameters of approx-prefix-cache-producer"
    )
    assert len(assembly.warnings) == 4


def test_they_are_read_as_strictly_as_there() -> None:
    assert refused(MOVED.replace("128", "many")) == (
        'c.yaml:5: plugins[0].parameters.blockSizeTokens: expected an integer, got "many"'
    )


def test_beside_a_producer_they_have_no_effect() -> None:
    assembly = made(MOVED + "- {type: approx-prefix-cache-producer, parameters: {blockSizeTokens: 64}}")
    assert dict(assembly.producers)["approx-prefix-cache-producer"].block_size_tokens == 64
    assert any("what is here has no effect" in warning for warning in assembly.warnings)


# --- types that were called otherwise -----------------------------------------------------------------


def test_filters_by_label() -> None:
    assembly = made(
        "plugins:\n- {type: by-label-selector, parameters: {matchLabels: {gpu: a100}}}\n"
        "- {type: by-label, parameters: {label: role, validValues: [decode, both], allowsNoLabel: true}}"
    )
    names = [name for name, _ in assembly.profile.filters]
    assert names == ["by-label-selector", "by-label", "lifecycle-filter"]
    assert [warning for warning in assembly.warnings if "deprecated" in warning] == [
        (
            'c.yaml:4: plugins[0].type: the plugin type "by-label-selector" is deprecated: '
            "use label-selector-filter, its parameters are the same"
        ),
        (
            'c.yaml:5: plugins[1].type: the plugin type "by-label" is deprecated: use label-selector-filter '
            "with matchExpressions: [{key: LABEL, operator: In, values: [...]}]"
        ),
    ]


@pytest.mark.parametrize(
    "allows_no_label, kept", [(False, [True, False, False]), (True, [True, False, True])]
)
def test_by_label(allows_no_label: bool, kept: list[bool]) -> None:
    endpoints = fleet_of([None, None, None]).endpoints
    for endpoint, labels in zip(endpoints, ({"role": "decode"}, {"role": "prefill"}, {}), strict=True):
        endpoint.labels = labels
    plugin = ByLabel(label="role", valid_values=("decode", "both"), allows_no_label=allows_no_label)
    found = plugin.filter(cycle_of(), endpoints)
    assert [endpoint in found for endpoint in endpoints] == kept


@pytest.mark.parametrize(
    "parameters, message",
    [
        ("{label: role}", ": validValues: must name a value, or nobody would be left"),
        ("{label: '', validValues: [decode]}", ".label: must not be empty"),
    ],
)
def test_a_label_filter_that_keeps_nobody_is_refused(parameters: str, message: str) -> None:
    text = refused(f"plugins: [{{type: by-label, parameters: {parameters}}}]")
    assert text == f"c.yaml:3: plugins[0].parameters{message}"


def test_a_label_filter_may_keep_those_without_the_label_alone() -> None:
    assert ByLabel(label="role", allows_no_label=True).valid_values == ()


def test_the_tokenizer() -> None:
    assembly = made("plugins: [{type: queue-scorer}, {type: tokenizer, parameters: {modelName: m}}]")
    assert [name for name, _ in assembly.producers] == ["tokenizer"]
    assert "is deprecated: use token-producer" in assembly.warnings[0]
    assert assembly.warnings[1].endswith(
        "parameters.modelName: has no effect: an estimate is the same for all models"
    )
    body = "plugins: [{type: tokenizer, parameters: {udsTokenizerConfig: {socketFile: /tmp/x}}}]"
    assert "asking for tokens is not supported by this version, write estimate: {}" in refused(body)


HANDLER = "plugins:\n- type: disagg-headers-handler\n- type: always-disagg-pd-decider\n"


def test_the_flat_parameters_of_the_stages() -> None:
    parameters = (
        "{deciderPluginName: always-disagg-pd-decider, prefillProfile: prefill, decodeProfile: decode}"
    )
    assembly = made(
        HANDLER + f"- {{type: disagg-profile-handler, parameters: {parameters}}}\n{FILTERS}{STAGES}"
    )
    handler = assembly.handler
    assert isinstance(handler, DisaggProfileHandler)
    assert handler.deciders == StageDeciders(prefill="always-disagg-pd-decider")
    assert handler.prefill_decider is not None and handler.encode_decider is None
    assert handler.profiles == StageProfiles()
    assert [warning.split(": ", 1)[1] for warning in assembly.warnings] == [
        (
            'plugins[0].type: the plugin type "disagg-headers-handler" is deprecated: '
            "disagg-profile-handler sets the headers itself, leave it out"
        ),
        "plugins[2].parameters.decodeProfile: is deprecated: write profiles: {decode: ...}",
        "plugins[2].parameters.prefillProfile: is deprecated: write profiles: {prefill: ...}",
        "plugins[2].parameters.deciderPluginName: is deprecated: write deciders: {prefill: ...}",
    ]


def test_what_is_written_now_counts_before_what_was_written_then() -> None:
    found = DisaggProfileHandler(
        profiles=StageProfiles(decode="d"),
        deciders=StageDeciders(prefill="new"),
        decode_profile="old",
        encode_profile="e",
        decider_plugin_name="old",
        encode_decider_plugin_name="media",
    )
    assert found.profiles == StageProfiles(decode="d", encode="e")
    assert found.deciders == StageDeciders(prefill="new", encode="media")


def pd(parameters: str, plugins: str = "- type: prefill-header-handler\n") -> str:
    return f"plugins:\n{plugins}- {{type: pd-profile-handler, parameters: {parameters}}}\n{FILTERS}{STAGES}"


@pytest.mark.parametrize(
    "parameters, plugins, decider",
    [
        pytest.param("{threshold: 0}", "", "_Always", id="always"),
        pytest.param("{}", "- type: prefix-based-pd-decider\n", "PrefixBasedPdDecider", id="by-default"),
        pytest.param(
            "{deciderPluginName: always-disagg-pd-decider, threshold: 0}",
            "- type: always-disagg-pd-decider\n",
            "AlwaysDisaggPdDecider",
            id="named",
        ),
    ],
)
def test_the_former_handler_of_two_stages(parameters: str, plugins: str, decider: str) -> None:
    handler = made(pd(parameters, plugins)).handler
    assert isinstance(handler, PdProfileHandler)
    assert type(handler.prefill_decider).__name__ == decider


def test_a_threshold_of_0_always_sends_the_prompt_elsewhere() -> None:
    handler = made(pd("{threshold: 0}")).handler
    assert handler is not None
    decode, prefill = fleet_of([None, None]).endpoints
    cycle = Cycle(Request(), now=0.0, chance=cycle_of().chance)
    assert handler.next_profile(cycle) == "decode"
    cycle.picks = {"decode": [decode]}
    assert handler.next_profile(cycle) == "prefill"
    cycle.picks = {"decode": [decode], "prefill": [prefill]}
    assert handler.next_profile(cycle) is None
    assert handler.route(cycle).headers == {"x-prefiller-host-port": prefill.address}


@pytest.mark.parametrize(
    "parameters, message",
    [
        (
            "{threshold: 500}",
            "threshold: 500 characters of a prompt are not supported by this version: use a ",
        ),
        (
            "{threshold: 500}",
            "prefix-based-pd-decider with nonCachedTokens: 125, and name it in deciderPlugin",
        ),
        (
            "{}",
            "there is no decider: add a prefix-based-pd-decider or an always-disagg-pd-decider to plugins",
        ),
        ("{primaryPort: 8000}", "primaryPort: is not supported here, use data-parallel-profile-handler"),
        ("{threshold: 0, prefillProfile: p}", 'there is no profile "p" for prefill'),
        ("{deciderPluginName: nobody}", 'there is no plugin "nobody" for prefill, add it to plugins'),
    ],
)
def test_what_the_former_handler_could_and_this_cannot(parameters: str, message: str) -> None:
    said = refused(pd(parameters))
    assert message in said and "\n" not in said
