"""Whatever a configuration says: plugins are made of it, or one line says what is wrong, and where."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from epp.config.decode import ConfigError
from epp.config.picker_config import Assembly, build, load
from tests.config.test_parameters import parameters
from tests.picking import TYPES

HEAD: dict[str, Any] = {"apiVersion": "llm-d.ai/v1alpha1", "kind": "EndpointPickerConfig"}
SHIPPED = [
    yaml.safe_load(path.read_text(encoding="utf-8"))
    for path in sorted((Path(__file__).parent / "upstream").glob("*.yaml"))
]
WORDS = st.sampled_from(
    [
        *("", "a", "-", "{}", "0", "5s", "1Gi", "x-h", "http", "In", "usage.prompt_tokens", "usage", "1 +"),
        *("queue-scorer", "core-metrics-extractor", "approx-prefix-cache-producer", "threshold", "linear"),
    ]
)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-2, 10**6)
    | st.sampled_from([1 << 62, 1 << 64, -(1 << 64), 0.5, 1e300, -1e-300])
    | WORDS
)
KEYS = st.sampled_from(
    [
        *("name", "type", "key", "operator", "values", "metric", "maxValue", "min", "max", "value", "header"),
        *("attribute", "producer", "expression", "condition", "namespace", "fixedRange", "normalization"),
        *("decode", "prefill", "encode", "sources", "evictionTtlSeconds", "attributeKey", "metricSpec"),
    ]
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=6,
)


def builds_or_is_refused(document: Any) -> None:
    text = json.dumps(document)  # JSON is YAML
    try:
        found = build(load(text, "c.yaml"), TYPES, allow_experimental=True)
    except ConfigError as error:
        message = str(error)
    else:
        assert isinstance(found, Assembly)
        message = "c.yaml:1" + "".join(found.warnings)
    assert message.startswith("c.yaml:1") and "\n" not in message


def places(holder: Any) -> Iterator[tuple[Any, Any]]:
    """Every value in a document: in what, and under which key."""
    for key in list(holder) if isinstance(holder, dict) else range(len(holder)):
        yield holder, key
        if isinstance(holder[key], dict | list):
            yield from places(holder[key])


@settings(max_examples=300)
@given(name=st.sampled_from(sorted(TYPES)), data=st.data())
def test_any_parameters_of_any_type(name: str, data: st.DataObject) -> None:
    known = sorted(parameters(TYPES[name]))
    keys = st.sampled_from(known) if known else st.nothing()
    given_ = data.draw(st.dictionaries(keys, VALUES, max_size=3) if known else st.just({}))
    builds_or_is_refused({**HEAD, "plugins": [{"type": name, "parameters": given_}]})


@settings(max_examples=200)
@given(document=st.sampled_from(SHIPPED), data=st.data())
def test_any_value_in_place_of_one_that_is_shipped(document: dict[str, Any], data: st.DataObject) -> None:
    document = copy.deepcopy(document)
    holder, key = data.draw(st.sampled_from(list(places(document))))
    holder[key] = data.draw(VALUES)
    builds_or_is_refused(document)


@given(document=st.sampled_from(SHIPPED), data=st.data())
def test_any_part_that_is_left_out(document: dict[str, Any], data: st.DataObject) -> None:
    document = copy.deepcopy(document)
    holder, key = data.draw(st.sampled_from(list(places(document))))
    del holder[key]
    builds_or_is_refused(document)


NAMES = sorted(TYPES)


@settings(max_examples=200)
@given(
    plugins=st.lists(st.sampled_from(NAMES), max_size=6),
    used=st.lists(st.sampled_from(NAMES), max_size=4),
    sources=st.lists(st.sampled_from(NAMES), max_size=3),
    parsers=st.lists(st.sampled_from(NAMES), max_size=3),
    detector=st.sampled_from(NAMES),
)
def test_any_plugin_in_any_place(
    plugins: list[str], used: list[str], sources: list[str], parsers: list[str], detector: str
) -> None:
    document = {
        **HEAD,
        "featureGates": ["flowControl"],
        "plugins": [{"type": name} for name in plugins],
        "schedulingProfiles": [{"name": "a", "plugins": [{"pluginRef": name} for name in used]}],
        "dataLayer": {"sources": [{"pluginRef": name} for name in sources]},
        "requestHandler": {"parsers": [{"pluginRef": name} for name in parsers]},
        "flowControl": {"saturationDetector": {"pluginRef": detector}},
    }
    builds_or_is_refused(document)


@pytest.mark.parametrize(
    "fields, message",
    [
        (
            {"plugins": [{"type": "queue-scorer", "parameters": [1]}]},
            "plugins[0].parameters: expected a mapping, got a list",
        ),
        (
            {"plugins": [{"type": "load-aware-scorer", "parameters": {"threshold": "many"}}]},
            'plugins[0].parameters.threshold: expected an integer, got "many"',
        ),
        (
            {"plugins": [{"type": "label-selector-filter", "parameters": {"matchLabels": {"a": 1}}}]},
            "plugins[0].parameters.matchLabels.a: expected a string, got 1, put it in quotes",
        ),
        (
            {"plugins": [{"type": "queue-scorer", "parameter": {}}]},
            'plugins[0].parameter: unknown field, did you mean "parameters"?',
        ),
        (
            {"plugins": [{"type": "max-score-picer"}]},
            'plugins[0].type: unknown plugin type "max-score-picer", did you mean "max-score-picker"?',
        ),
        (
            {
                "plugins": [{"type": "queue-scorer"}],
                "requestHandler": {"parsers": [{"pluginRef": "queue-scorer"}]},
            },
            'requestHandler.parsers[0].pluginRef: "queue-scorer" is a scorer, expected a parser',
        ),
        (
            {
                "plugins": [{"type": "queue-scorer"}],
                "dataLayer": {"discovery": {"pluginRef": "queue-scorer"}},
            },
            'dataLayer.discovery.pluginRef: "queue-scorer" is a scorer, expected a discovery',
        ),
        (
            {"featureGates": ["flowControl"], "flowControl": {"priorityBands": [{"priority": "high"}]}},
            'flowControl.priorityBands[0].priority: expected an integer, got "high"',
        ),
        (
            {
                "featureGates": ["flowControl"],
                "plugins": [{"type": "queue-scorer"}],
                "flowControl": {"priorityBands": [{"priority": 1, "fairnessPolicyRef": "queue-scorer"}]},
            },
            'flowControl.priorityBands[0].fairnessPolicyRef: "queue-scorer" is a scorer, expected a fairness',
        ),
        (
            {
                "featureGates": ["flowControl"],
                "flowControl": {"priorityBands": [{"priority": 1}, {"priority": 1}]},
            },
            "flowControl.priorityBands[1].priority: there is a band of priority 1 already",
        ),
        (
            {"plugins": [{"type": "queue-scorer"}, {"type": "queue-scorer"}]},
            'plugins[1]: the name "queue-scorer" is there twice, first in line 1; give each plugin its own',
        ),
        (
            {"plugins": [{"type": "queue-scorer"}], "schedulingProfiles": [{"name": "a"}, {"name": "a"}]},
            'schedulingProfiles[0]: the profile name "a" is there twice',
        ),
    ],
)
def test_each_kind_of_mistake_names_its_place_and_the_remedy(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        build(load(json.dumps({**HEAD, **fields}), "c.yaml"), TYPES)
    assert str(raised.value).startswith(f"c.yaml:1: {message}")
