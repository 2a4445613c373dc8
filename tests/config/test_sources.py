"""dataLayer, what works without being named in a profile, and plugins that need others."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest

from epp.config.decode import ConfigError
from epp.config.picker_config import Assembly, build, load
from epp.core.scoring import Cycle, Endpoint, Scores, Usage
from scorers.core_metrics_extractor import CoreMetricsExtractor
from scorers.dcgm_data_source import DcgmDataSource
from scorers.endpoint_attribute_filter import EndpointAttributeFilter
from scorers.endpoint_attribute_scorer import EndpointAttributeScorer
from scorers.metrics_data_source import MetricsDataSource
from scorers.models_data_source import ModelsDataSource
from scorers.probabilistic_admitter import ProbabilisticAdmitter
from tests.picking import TYPES

HEAD = "apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\n"


def made(body: str, types: Mapping[str, type] = TYPES) -> Assembly:
    return build(load(HEAD + body, "c.yaml"), types, allow_experimental=True)


def refused(body: str, types: Mapping[str, type] = TYPES) -> str:
    with pytest.raises(ConfigError) as raised:
        made(body, types)
    assert "\n" not in str(raised.value)
    return str(raised.value)


# --- what is read beside the metrics -----------------------------------------------------------------

GPU = """\
plugins:
- {type: models-data-source, parameters: {interval: 30s}}
- type: models-data-extractor
- {type: dcgm-data-source, name: dcgm-source, parameters: {port: 9401, interval: 1s, useNodeAddress: true}}
- type: dcgm-extractor
- type: endpoint-attribute-filter
  parameters:
    attribute: GPUUtilization
    producer: dcgm-extractor
    fallbackOnEmpty: true
    algorithm: {type: threshold, threshold: {operator: LessThanOrEqual, value: 0.9}}
- type: endpoint-attribute-scorer
  parameters: {attributeKey: GPUUtilization/dcgm-extractor, algorithm: {type: linear_lower_is_better}}
"""
SOURCES = """\
dataLayer:
  sources:
  - {pluginRef: models-data-source, extractors: [{pluginRef: models-data-extractor}]}
  - {pluginRef: dcgm-source, extractors: [{pluginRef: dcgm-extractor}]}
"""


def test_further_sources_are_read_beside_the_metrics() -> None:
    assembly = made(GPU + SOURCES)
    assert [settings for settings, _ in assembly.side_sources] == [
        ModelsDataSource(interval=30.0),
        DcgmDataSource(port=9401, interval=1.0, use_node_address=True),
    ]
    assert [at.line for _, at in assembly.side_sources] == [4, 6]
    assert (assembly.metrics_source, assembly.extractor) == (MetricsDataSource(), CoreMetricsExtractor())
    assert assembly.warnings == ()


def test_a_figure_may_be_named_with_its_producer() -> None:
    assembly = made(GPU + SOURCES)
    (_, scorer, _) = assembly.profile.scorers[0]
    kept = next(each for _, each in assembly.profile.filters if isinstance(each, EndpointAttributeFilter))
    assert isinstance(scorer, EndpointAttributeScorer)
    assert scorer.attribute_key == kept.attribute == "GPUUtilization"


SCORER = """\
- type: endpoint-attribute-scorer
  parameters: {attributeKey: GPUUtilization, algorithm: {type: linear_lower_is_better}}
"""
DCGM = "- type: dcgm-data-source\n- type: dcgm-extractor\n"
READ = "dataLayer: {sources: [{pluginRef: dcgm-data-source, extractors: [{pluginRef: dcgm-extractor}]}]}\n"


@pytest.mark.parametrize("metrics", ["", "- type: core-metrics-extractor\n"], ids=["alone", "beside"])
def test_the_only_extractor_that_has_the_figure_needs_no_name(metrics: str) -> None:
    assembly = made(READ + "plugins:\n" + DCGM + metrics + SCORER)
    (_, scorer, _) = assembly.profile.scorers[0]
    assert isinstance(scorer, EndpointAttributeScorer)
    assert (scorer.producer, scorer.attribute_key) == ("dcgm-extractor", "GPUUtilization")


def test_of_several_that_have_the_figure_one_is_named() -> None:
    body = f"{READ}plugins:\n{DCGM}- {{type: dcgm-extractor, name: other}}\n{SCORER}"
    assert refused(body) == (
        'c.yaml:9: plugins[3].parameters: there are "dcgm-extractor", "other" of type dcgm-extractor, name '
        "one in producer"
    )
    with_name = body.replace("{attributeKey", "{producer: other, attributeKey")
    (_, scorer, _) = made(with_name).profile.scorers[0]
    assert isinstance(scorer, EndpointAttributeScorer) and scorer.producer == "other"


def test_a_figure_that_nobody_reads_has_a_remedy() -> None:
    assert refused("plugins:\n" + SCORER) == (
        'c.yaml:5: plugins[0].parameters.attributeKey: "GPUUtilization" is in no customMetrics of '
        '"core-metrics-extractor", there are none: add it there, or name in producer the dcgm-extractor that '
        "has it"
    )


def test_an_extractor_is_found_by_its_source() -> None:
    listed = SOURCES.replace(", extractors: [{pluginRef: dcgm-extractor}]", "")
    assert len(made(GPU + listed).side_sources) == 2


def test_metrics_may_be_one_of_several_sources() -> None:
    plugins = "plugins: [{type: models-data-source}, {type: metrics-data-source, parameters: {port: 9}}]\n"
    sources = "[{pluginRef: models-data-source}, {pluginRef: metrics-data-source}]"
    assembly = made(f"{plugins}dataLayer: {{injectDefaults: false, sources: {sources}}}")
    assert assembly.metrics_source.port == 9 and len(assembly.side_sources) == 1


NOTIFYING = """\
plugins:
- type: queue-scorer
- {type: k8s-notification-source, name: pods, parameters: {version: v1, kind: Pod}}
- type: endpoint-notification-source
dataLayer: {sources: [{pluginRef: pods, extractors: []}, {pluginRef: endpoint-notification-source}]}
"""
WATCHED = "has no effect: what is needed of Kubernetes is always watched, and nothing else"


@pytest.mark.parametrize("body", [NOTIFYING, NOTIFYING[: NOTIFYING.index("dataLayer")]])
def test_notifications_come_anyway(body: str) -> None:
    assembly = made(body)
    assert assembly.side_sources == ()
    assert assembly.warnings == tuple(
        f"c.yaml:5: plugins[1].parameters.{name}: {WATCHED}" for name in ("version", "kind")
    )


def test_a_notification_source_hands_nothing_on() -> None:
    extracted = NOTIFYING.replace("extractors: []", "extractors: [{pluginRef: queue-scorer}]")
    *_, told = made(extracted).warnings
    assert told == (
        "c.yaml:7: dataLayer.sources[0].extractors[0]: has no effect: nothing is handed to extractors of a "
        "notification source"
    )


@pytest.mark.parametrize(
    "body, message",
    [
        pytest.param(
            GPU,
            'c.yaml:7: plugins[3]: nothing is read for "dcgm-extractor": add a dcgm-data-source to plugins '
            "and to dataLayer.sources",
            id="a-figure-that-nobody-reads",
        ),
        pytest.param(
            "plugins: [{type: models-data-source}]\n"
            "dataLayer: {injectDefaults: false, sources: [{pluginRef: models-data-source}]}",
            "c.yaml:4: dataLayer.injectDefaults: false without a source of metrics is not supported",
            id="no-metrics",
        ),
        pytest.param(
            "plugins: [{type: dcgm-data-source}, {type: dcgm-data-source, name: b}]\n"
            "dataLayer: {sources: [{pluginRef: dcgm-data-source}, {pluginRef: b}]}",
            "c.yaml:4: dataLayer.sources[1]: is the second source of its type, keep one",
            id="two-of-a-type",
        ),
        pytest.param(
            "plugins: [{type: metrics-data-source}, {type: metrics-data-source, name: b}]\n"
            "dataLayer: {sources: [{pluginRef: metrics-data-source}, {pluginRef: b}]}",
            "c.yaml:4: dataLayer.sources[1]: more than one source of metrics is not supported by this",
            id="two-of-metrics",
        ),
        pytest.param(
            "plugins: [{type: dcgm-data-source}, {type: models-data-extractor}]\n"
            "dataLayer: {sources: [{pluginRef: dcgm-data-source, extractors: "
            "[{pluginRef: models-data-extractor}]}]}",
            "c.yaml:4: dataLayer.sources[0].extractors[0].pluginRef: "
            '"models-data-extractor" is of type models-data-extractor, expected dcgm-extractor',
            id="another-extractor",
        ),
        pytest.param(
            "plugins: [{type: queue-scorer}]\ndataLayer: {sources: [{pluginRef: queue-scorer}]}",
            'c.yaml:4: dataLayer.sources[0].pluginRef: "queue-scorer" is a scorer, expected a metrics source '
            "and notification source and source of further figures",
            id="no-source",
        ),
        pytest.param(
            "plugins: [{type: dcgm-data-source, parameters: {interval: 10ms}}]",
            "c.yaml:3: plugins[0].parameters.interval: must be from 1s to 1h, got 0.01s",
            id="too-often",
        ),
        pytest.param(
            "plugins: [{type: models-data-source, parameters: {path: v1/models}}]",
            "c.yaml:3: plugins[0].parameters.path: ",
            id="no-path",
        ),
        pytest.param(
            "plugins: [{type: dcgm-data-source, parameters: {port: 0}}]",
            "c.yaml:3: plugins[0].parameters.port: must be from 1 to 65535, got 0",
            id="no-port",
        ),
        pytest.param(
            "plugins: [{type: models-data-source, parameters: {clientCertPath: a.pem}}]",
            "c.yaml:3: plugins[0].parameters.clientCertPath: clientCertPath and clientKeyPath belong ",
            id="half-a-certificate",
        ),
    ],
)
def test_sources_that_cannot_be_read_are_refused(body: str, message: str) -> None:
    assert refused(body).startswith(message)


# --- who works without being named -------------------------------------------------------------------


def test_admitters_reporters_and_the_verifier_work_without_being_named() -> None:
    assembly = made("""\
plugins:
- type: queue-scorer
- {type: probabilistic-admitter, parameters: {k: 100}}
- type: destination-endpoint-served-verifier
- type: request-attribute-reporter
  parameters: {attributes: [{key: {name: a}, expression: usage.prompt_tokens}]}
- type: request-attribute-reporter
  name: second
  parameters: {attributes: [{key: {name: a}, expression: "1"}, {key: {name: b}, expression: "2"}]}
""")
    assert assembly.admitters == (ProbabilisticAdmitter(k=100.0),)
    assert assembly.reports is not None and assembly.served_header is not None
    assert assembly.reports(Usage(prompt_tokens=7)) == {"envoy.lb": {"a": 7, "b": 2}}
    assert assembly.served_header("10.0.0.1:1") == {"x-conformance-test-served-endpoint": "10.0.0.1:1"}
    assert assembly.stamps_responses and assembly.warnings == ()


def test_without_them_there_are_none() -> None:
    assembly = made("plugins: [{type: queue-scorer}]")
    found = (assembly.admitters, assembly.reports, assembly.served_header, assembly.side_sources)
    assert found == ((), None, None, ()) and not assembly.stamps_responses


# --- who needs whom ----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Fact:
    """A producer of somebody's own, which needs another one."""

    of: str = "fact"
    uses: ClassVar[Mapping[str, str]] = {"of": "fact"}

    def produce(self, cycle: Cycle, endpoints: Sequence[Endpoint], name: str) -> None:
        cycle.facts[name] = self.of

    def picked(self, cycle: Cycle, endpoint: Endpoint, found: None) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Asking:
    """A scorer that looks up another plugin."""

    about: str = ""

    def joined(self, plugins: Mapping[str, Any], profiles: Any) -> "Asking":
        plugins[self.about]
        return self

    def score(self, cycle: Cycle, endpoints: Sequence[Endpoint]) -> Scores:
        return [1.0] * len(endpoints)


@dataclass(frozen=True, kw_only=True)
class Last:
    """A producer that needs nobody."""

    def produce(self, cycle: Cycle, endpoints: Sequence[Endpoint], name: str) -> None: ...

    def picked(self, cycle: Cycle, endpoint: Endpoint, found: None) -> None: ...


OWN = {**TYPES, "fact": Fact, "asking": Asking, "last": Last}


@pytest.mark.parametrize(
    "body, message",
    [
        pytest.param(
            "plugins:\n- {type: fact, name: a, parameters: {of: b}}\n"
            "- {type: fact, name: b, parameters: {of: a}}",
            "c.yaml:4: plugins[0]: plugins need each other in a circle, a -> b -> a: name another one in one",
            id="two",
        ),
        pytest.param(
            "plugins:\n- {type: fact, name: a, parameters: {of: a}}",
            "c.yaml:4: plugins[0]: plugins need each other in a circle, a -> a: ",
            id="itself",
        ),
        pytest.param(
            "plugins:\n- {type: asking, name: x, parameters: {about: y}}\n"
            "- {type: asking, name: y, parameters: {about: z}}\n"
            "- {type: asking, name: z, parameters: {about: x}}",
            "c.yaml:4: plugins[0]: plugins need each other in a circle, x -> y -> z -> x: ",
            id="three",
        ),
        pytest.param(
            "plugins: [{type: inflight-load-producer, parameters: {prefixMatchInfoProducerName: "
            "inflight-load-producer}}]",
            "c.yaml:3: plugins[0].parameters.prefixMatchInfoProducerName: "
            '"inflight-load-producer" is of type inflight-load-producer, expected approx-prefix-cache-',
            id="another-type",
        ),
        pytest.param(
            "plugins: [{type: token-load-scorer, parameters: {inFlightLoadProducerName: queue-scorer}}, "
            "{type: queue-scorer}]",
            'c.yaml:3: plugins[0].parameters.inFlightLoadProducerName: "queue-scorer" is a scorer, '
            "expected a producer",
            id="another-kind",
        ),
    ],
)
def test_plugins_that_cannot_find_what_they_need_are_refused(body: str, message: str) -> None:
    assert refused(body, OWN).startswith(message)


def test_a_chain_is_no_circle() -> None:
    assembly = made(
        "plugins:\n- {type: fact, name: a, parameters: {of: b}}\n"
        "- {type: fact, name: b, parameters: {of: c}}\n- {type: last, name: c}\n"
        "- {type: asking, parameters: {about: a}}",
        OWN,
    )
    assert [name for name, _ in assembly.producers] == ["a", "b", "c"]


def test_somebody_elses_producer_may_take_the_place_of_ours() -> None:
    body = "plugins: [{type: prefix-cache-scorer, parameters: {prefixMatchInfoProducerName: mine}}, "
    assembly = made(body + "{type: last, name: mine}]", OWN)
    assert [name for name, _ in assembly.producers] == ["mine"]
