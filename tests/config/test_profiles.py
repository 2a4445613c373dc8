"""Configurations with several profiles, experimental types, and plugins that look up others."""

import re
from typing import Any

import pytest

from epp.config.decode import ConfigError
from epp.config.picker_config import Assembly, build, load
from scorers.always_disagg_pd_decider import AlwaysDisaggPdDecider
from scorers.disagg_profile_handler import DisaggProfileHandler
from scorers.no_hit_lru_scorer import NoHitLruScorer
from scorers.prefix_based_pd_decider import PrefixBasedPdDecider
from tests.picking import TYPES

HEAD = "apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\n"


def made(body: str, *, allow_experimental: bool = True) -> Assembly:
    return build(load(HEAD + body, "c.yaml"), TYPES, allow_experimental=allow_experimental)


PROFILES = """
schedulingProfiles:
- {name: decode, plugins: [{pluginRef: decode-filter}, {pluginRef: queue-scorer, weight: 2}]}
- name: prefill
  plugins: [{pluginRef: prefill-filter}, {pluginRef: queue-scorer}, {pluginRef: random-picker}]
"""
STAGES = """\
plugins:
- type: disagg-profile-handler
  parameters: {deciders: {prefill: worth}}
- {name: worth, type: prefix-based-pd-decider, parameters: {nonCachedTokens: 512}}
- type: decode-filter
- type: prefill-filter
- type: queue-scorer
- type: random-picker
"""


def test_every_profile_has_its_own_plugins_and_the_lifecycle_filter() -> None:
    assembly = made(STAGES + PROFILES)
    assert (assembly.profile.name, [other.name for other in assembly.others]) == ("decode", ["prefill"])
    shown = [
        (
            [name for name, _ in profile.filters],
            [(name, weight) for name, _, weight in profile.scorers],
            profile.picker[0],
        )
        for profile in (assembly.profile, *assembly.others)
    ]
    assert shown == [
        (["decode-filter", "lifecycle-filter"], [("queue-scorer", 2.0)], "random-picker"),
        (["prefill-filter", "lifecycle-filter"], [("queue-scorer", 1.0)], "random-picker"),
    ]
    assert assembly.warnings == ()


def test_a_lifecycle_filter_that_one_profile_places_is_added_to_the_others() -> None:
    placed = PROFILES.replace("{pluginRef: queue-scorer, weight: 2}", "{pluginRef: lifecycle-filter}")
    assembly = made(STAGES + "- type: lifecycle-filter" + placed)
    for profile in (assembly.profile, *assembly.others):
        assert [name for name, _ in profile.filters][1] == "lifecycle-filter"


def test_a_handler_finds_its_deciders_and_they_their_producers() -> None:
    assembly = made(STAGES + PROFILES)
    handler = assembly.handler
    assert isinstance(handler, DisaggProfileHandler)
    assert handler.prefill_decider == PrefixBasedPdDecider(non_cached_tokens=512)
    assert handler.encode_decider is None
    assert [name for name, _ in assembly.producers] == ["approx-prefix-cache-producer"]


def test_a_plugin_in_two_profiles_is_one_plugin() -> None:
    used = PROFILES.replace("queue-scorer", "no-hit-lru-scorer")
    assembly = made(STAGES + "- type: no-hit-lru-scorer" + used)
    first, second = assembly.profile.scorers[0][1], assembly.others[0].scorers[0][1]
    assert isinstance(first, NoHitLruScorer) and first is second


def test_the_handler_is_known_by_its_name_and_type() -> None:
    named = STAGES.replace("- type: disagg-profile-handler", "- name: mine\n  type: disagg-profile-handler")
    assert made(named + PROFILES).handler_is == ("mine", "disagg-profile-handler")
    assert made(STAGES + PROFILES).handler_is == ("disagg-profile-handler", "disagg-profile-handler")
    assert made("plugins: [{type: queue-scorer}]").handler_is is None


def test_token_producer_and_single_profile_handler_change_nothing() -> None:
    plugins = "{type: queue-scorer}, {type: single-profile-handler}"
    assert made(f"plugins: [{plugins}]").handler is None
    assembly = made(f"plugins: [{plugins}, {{type: token-producer, parameters: {{estimate: {{}}}}}}]")
    assert [name for name, _ in assembly.producers] == ["token-producer"]


EXPERIMENTAL = [
    ("agent-identity", ""),
    ("dcgm-data-source", ""),
    ("dcgm-extractor", ""),
    ("endpoint-attribute-filter", ""),
    ("endpoint-attribute-scorer", ""),
    ("header-label-affinity-scorer", "{headerName: x-zone, labelKey: zone}"),
    ("header-profile-handler", ""),
    ("priority-holdback-policy", "{minCeiling: 0.5}"),
    ("priority-then-time-eviction-order-policy", ""),
    ("sheddable-eviction-filter", ""),
    ("soft-reflective-ceiling-policy", ""),
    ("session-affinity-filter", ""),
    ("session-affinity-scorer", ""),
    ("topology-affinity-filter", ""),
    ("topology-affinity-scorer", ""),
    ("topology-extractor", ""),
    ("utilization-filter", "{conditions: [{metric: waiting-queue, maxValue: 5}]}"),
]


@pytest.mark.parametrize("name", [name for name, _ in EXPERIMENTAL])
def test_what_upstream_calls_alpha_is_refused_unless_it_is_allowed(name: str) -> None:
    with pytest.raises(ConfigError) as raised:
        made(f"plugins: [{{type: {name}}}]", allow_experimental=False)
    assert str(raised.value) == (
        f'c.yaml:3: plugins[0].type: the plugin type "{name}" is experimental: start with '
        "--allow-experimental-plugins to use it"
    )


def test_these_are_all() -> None:
    found = {name for name, each in TYPES.items() if getattr(each, "is_experimental", False)}
    assert found == {name for name, _ in EXPERIMENTAL}


@pytest.mark.parametrize(
    "name, parameters",
    [each for each in EXPERIMENTAL if not re.search("attribute|dcgm|priority|eviction|ceiling", each[0])],
)
def test_what_is_allowed_is_made(name: str, parameters: str) -> None:
    entry = f"{{type: {name}, parameters: {parameters or '{}'}}}"
    assembly = made(f"plugins: [{{type: queue-scorer}}, {entry}]")
    unused = [each for each in assembly.warnings if "used by nothing" in each]
    assert unused == (
        [f'c.yaml:3: plugins[1]: the topology setting "{name}" is used by nothing']
        if name == "topology-extractor"
        else []
    )


ATTRIBUTES = """\
plugins:
- name: metrics
  type: core-metrics-extractor
  parameters:
    engineConfigs: [{name: mine, customMetrics: [{attributeKey: power, metricSpec: watts}]}]
- type: endpoint-attribute-scorer
  parameters: {attributeKey: power, algorithm: {type: linear_lower_is_better}}
- type: endpoint-attribute-filter
  parameters:
    attribute: power
    algorithm: {type: threshold, threshold: {operator: LessThan, value: 300}}
"""


def test_figures_of_ones_own_are_found_under_whatever_name_their_extractor_has() -> None:
    assembly = made(ATTRIBUTES)
    assert [scorer.producer for _, scorer, _ in assembly.profile.scorers] == ["metrics"]  # type: ignore[attr-defined]
    assert assembly.warnings == ()


@pytest.mark.parametrize(
    "plugins, found",
    [("{type: agent-identity}", "s"), ("{type: queue-scorer}", None)],
)
def test_who_finds_agents_is_known(plugins: str, found: str | None) -> None:
    identify = made(f"plugins: [{plugins}]").identify
    assert (identify and identify({"session-id": "s"})) == found


@pytest.mark.parametrize(
    "plugins, stamps",
    [("{type: session-affinity-scorer}", True), ("{type: queue-scorer}", False)],
)
def test_whether_responses_get_headers_is_known(plugins: str, stamps: bool) -> None:
    assert made(f"plugins: [{plugins}]").stamps_responses is stamps


def stages(parameters: str, plugins: str = "") -> str:
    return f"plugins: [{{type: disagg-profile-handler, parameters: {parameters}}}{plugins}]" + PROFILES


@pytest.mark.parametrize(
    "body, message",
    [
        pytest.param(
            STAGES.replace("prefill: worth", "prefill: worht") + PROFILES,
            'c.yaml:5: plugins[0].parameters.deciders.prefill: there is no plugin "worht" for prefill, did '
            'you mean "worth"?',
            id="decider",
        ),
        pytest.param(
            STAGES.replace("prefill: worth", "prefill: queue-scorer") + PROFILES,
            'c.yaml:5: plugins[0].parameters.deciders.prefill: "queue-scorer" for prefill is no decider',
            id="no-decider",
        ),
        pytest.param(
            STAGES.replace("prefill: worth", "encode: worth") + PROFILES,
            'c.yaml:5: plugins[0].parameters.deciders.encode: there is no profile "encode", which the '
            "decider for encode needs",
            id="stage-without-a-profile",
        ),
        pytest.param(
            STAGES.replace("deciders: {prefill: worth}", "profiles: {decode: generate}") + PROFILES,
            'c.yaml:5: plugins[0].parameters.profiles.decode: there is no profile "generate" for decode',
            id="decode-profile",
        ),
        pytest.param(
            STAGES.replace("deciders:", "profiles: {prefill: prefil}, deciders:") + PROFILES,
            'c.yaml:5: plugins[0].parameters.profiles.prefill: there is no profile "prefil" for prefill, did '
            'you mean "prefill"?',
            id="prefill-profile",
        ),
        pytest.param(
            STAGES.replace("deciders:", "prefillProfile: prefil, deciders:") + PROFILES,
            'c.yaml:5: plugins[0].parameters.prefillProfile: there is no profile "prefil" for prefill, did '
            'you mean "prefill"?',
            id="prefill-profile-as-it-was-written",
        ),
        pytest.param(
            STAGES.replace("deciders: {prefill: worth}", "profiles: {prefill: decode}") + PROFILES,
            "c.yaml:5: plugins[0].parameters.profiles: give each stage a profile of its own",
            id="one-profile-for-two-stages",
        ),
        pytest.param(
            STAGES.replace("deciders:", "stageOrder: prefill-first, deciders:") + PROFILES,
            "c.yaml:5: plugins[0].parameters.deciders: with prefill-first there is no decider for "
            "prefill, leave "
            "it out",
            id="prefill-first-with-a-decider",
        ),
        pytest.param(
            STAGES.replace("deciders:", "stageOrder: encode-first, deciders:") + PROFILES,
            'c.yaml:5: plugins[0].parameters.stageOrder: expected one of "decode-first", "prefill-first", '
            'got "encode-first", did you mean "decode-first"?',
            id="stage-order",
        ),
        pytest.param(
            "plugins: [{type: disagg-profile-handler}, {type: queue-scorer}]",
            'c.yaml:3: plugins[0]: profiles.decode: there is no profile "decode" for decode',
            id="no-profiles-at-all",
        ),
        pytest.param(
            "plugins: [{type: header-profile-handler, parameters: {defaultProfile: x}}, {type: "
            "decode-filter}, "
            "{type: prefill-filter}, {type: queue-scorer}, {type: random-picker}]" + PROFILES,
            'c.yaml:3: plugins[0].parameters.defaultProfile: there is no profile "x"',
            id="default-profile",
        ),
        pytest.param(
            "plugins: [{type: data-parallel-profile-handler}, {type: decode-filter}, {type: prefill-filter}, "
            "{type: queue-scorer}, {type: random-picker}]" + PROFILES,
            "c.yaml:3: plugins[0]: takes one scheduling profile, there are 2",
            id="data-parallel-with-two-profiles",
        ),
        pytest.param(
            "plugins: [{type: data-parallel-profile-handler, parameters: {primaryPort: 0}}]",
            "c.yaml:3: plugins[0].parameters.primaryPort: must be from 1 to 65535, got 0",
            id="primary-port",
        ),
        pytest.param(
            "plugins: [{type: session-affinity-scorer, parameters: {profileName: prefil}}]",
            'c.yaml:3: plugins[0].parameters.profileName: there is no profile "prefil"',
            id="profile-of-a-session",
        ),
        pytest.param(
            "plugins: [{type: session-affinity-filter, parameters: {strategy: session_id, "
            "sessionIdConfig: {sources: [{attribute: agent-identity}]}}}]",
            'c.yaml:3: plugins[0].parameters.sessionIdConfig: there is no plugin "agent-identity", add it to '
            "plugins",
            id="producer-of-a-session",
        ),
        pytest.param(
            ATTRIBUTES.replace("attributeKey: power, alg", "attributeKey: pwoer, alg"),
            'c.yaml:9: plugins[1].parameters.attributeKey: "pwoer" is in no customMetrics of "metrics", '
            "known are power: add it there, or name in producer the dcgm-extractor that has it",
            id="attribute",
        ),
        pytest.param(
            "plugins: [{type: endpoint-attribute-scorer, parameters: {attributeKey: power, "
            "algorithm: {type: linear_lower_is_better}}}]",
            'c.yaml:3: plugins[0].parameters.attributeKey: "power" is in no customMetrics of '
            '"core-metrics-extractor", there are none: add it there, or name in producer the dcgm-extractor '
            "that has it",
            id="attribute-of-nobody",
        ),
        pytest.param(
            "plugins: [{type: endpoint-attribute-scorer, parameters: {attributeKey: power, algorithm: "
            "{type: linear_lower_is_better, normalization: {fixedRange: {min: 0, max: 1}, adaptiveRange: "
            "{}}}}}]",
            "c.yaml:3: plugins[0].parameters.algorithm.normalization.adaptiveRange: is there beside "
            "fixedRange, "
            "keep one",
            id="two-ranges",
        ),
        pytest.param(
            "plugins: [{type: token-producer, parameters: {vllm: {url: x}}}]",
            "c.yaml:3: plugins[0].parameters.vllm: asking for tokens is not supported by this version, write "
            "estimate: {}",
            id="tokens-of-a-server",
        ),
        pytest.param(
            "plugins: [{type: token-producer, parameters: {estimate: {image: {}}}}]",
            "c.yaml:3: plugins[0].parameters.estimate: settings of it are not supported by this version, "
            "write "
            "estimate: {}",
            id="settings-of-the-estimate",
        ),
        pytest.param(
            "plugins: [{type: prefix-cache-affinity-filter, parameters: {maxTTFTPenaltyMs: -1}}]",
            "c.yaml:3: plugins[0].parameters.maxTTFTPenaltyMs: must be at least 0, got -1",
            id="a-name-with-capitals",
        ),
        pytest.param(
            "plugins: [{type: agent-identity}, {type: agent-identity, name: b}]",
            "c.yaml:3: plugins[1]: there are 2 plugins of type agent-identity; keep one",
            id="two-that-find-agents",
        ),
        pytest.param(
            "plugins: [{type: prefix-based-pd-decider, parameters: {nonCachedTokens: -1}}]",
            "c.yaml:3: plugins[0].parameters.nonCachedTokens: must be at least 0, got -1",
            id="decider-below-0",
        ),
        pytest.param(
            "plugins: [{type: header-profile-handler, parameters: {headerName: 'a b'}}]",
            "c.yaml:3: plugins[0].parameters.headerName: must be a header name such as EPP-Profile, got "
            '"a b"',
            id="header-name",
        ),
    ],
)
def test_a_name_of_nothing_is_told_with_its_place(body: str, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        made(body)
    assert str(raised.value) == message


@pytest.mark.parametrize(
    "body, warnings",
    [
        pytest.param(
            STAGES + "- type: always-disagg-pd-decider" + PROFILES,
            ('c.yaml:11: plugins[6]: the decider "always-disagg-pd-decider" is used by nothing',),
            id="a-decider-that-nobody-asks",
        ),
        pytest.param(
            STAGES + PROFILES.replace(", {pluginRef: queue-scorer, weight: 2}", ""),
            (
                (
                    "c.yaml:13: schedulingProfiles[0]: no scorers: endpoints are picked without looking at "
                    "their load"
                ),
            ),
            id="the-profile-without-scorers",
        ),
        pytest.param(
            "plugins: [{type: no-hit-lru-scorer, parameters: {prefixPluginName: x}}]",
            ("c.yaml:3: plugins[0].parameters.prefixPluginName: is deprecated: never had an effect",),
            id="deprecated",
        ),
    ],
)
def test_what_has_no_effect_is_warned_of(body: str, warnings: tuple[str, ...]) -> None:
    assert made(body).warnings == warnings


def test_deciders_say_what_they_are() -> None:
    decider: Any = AlwaysDisaggPdDecider()
    assert decider.disaggregates(None, None) is True
