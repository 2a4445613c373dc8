"""``dataLayer`` and ``requestHandler`` of an EndpointPickerConfig: what is read, and by whom.

Place:   asked by epp.config.picker_config, once plugins are connected: by then it is known which figures
         somebody relies on.
Ignores: how anything is read.
Rule:    the endpoints' load is always read, from one source; a second source of anything is refused.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from epp.config.decode import Section
from epp.config.picker_file import NOT_SUPPORTED, DataLayer, DataSource, EndpointPickerConfig
from epp.config.plugin_table import Plugin, PluginTable
from epp.core.apis import DEFAULT_PARSERS, Parser
from epp.core.scoring import METRICS_EXTRACTOR, Kind
from scorers.core_metrics_extractor import CoreMetricsExtractor
from scorers.dcgm_data_source import DcgmDataSource
from scorers.metrics_data_source import MetricsDataSource
from scorers.models_data_source import ModelsDataSource

SideSettings: TypeAlias = DcgmDataSource | ModelsDataSource
METRICS_SOURCE = "metrics-data-source"
_SOURCES = {"dcgm-extractor": "dcgm-data-source", "models-data-extractor": "models-data-source"}
_NAME_ONE = "name one in dataLayer.sources"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """What is read of endpoints."""

    metrics: MetricsDataSource
    metrics_at: Section
    """Where it is configured."""
    extractor: CoreMetricsExtractor
    sides: tuple[tuple[SideSettings, Section], ...]
    """What is read beside the metrics, with the place where it is configured."""


def sources_of(table: PluginTable, layer: DataLayer) -> Sources:
    """Where metrics come from, who reads them, and what else is read; metrics have defaults."""
    metrics: tuple[Plugin, Plugin] | None = None
    sides: list[tuple[SideSettings, Section]] = []
    for each in layer.sources:
        of = (Kind.METRICS_SOURCE, Kind.SIDE_SOURCE, Kind.NOTIFICATION)
        source = table.take(each.plugin_ref, each.at, *of)
        if Kind.METRICS_SOURCE in source.kinds:
            if metrics:
                raise each.at.error(f"more than one source of metrics {NOT_SUPPORTED}, keep one")
            metrics = source, _extractor(table, each, METRICS_EXTRACTOR)
        elif Kind.SIDE_SOURCE in source.kinds:
            sides.append(_side_source(table, source, each, [settings for settings, _ in sides]))
        else:
            _warn_of_extractors(table, each)
    if not (metrics or layer.inject_defaults):
        raise table.at.at("dataLayer", "injectDefaults").error(
            f"false without a source of metrics {NOT_SUPPORTED}: the endpoints' load is always read; "
            "leave it out"
        )
    _check_side_extractors(table, {settings.extractor for settings, _ in sides})
    source, extractor = metrics or (
        table.take_only(METRICS_SOURCE, _NAME_ONE),
        table.take_only(METRICS_EXTRACTOR, _NAME_ONE),
    )
    return Sources(
        metrics=source.as_ours(MetricsDataSource),
        metrics_at=source.at,
        extractor=extractor.as_ours(CoreMetricsExtractor),
        sides=tuple(sides),
    )


def _extractor(table: PluginTable, source: DataSource, usual: str) -> Plugin:
    """The one extractor of a source."""
    if len(source.extractors) > 1:
        raise source.extractors[1].at.error(f"more than one extractor of a source {NOT_SUPPORTED}")
    if not source.extractors:
        return table.take_only(usual, _NAME_ONE)
    named = source.extractors[0]
    return table.take_of_types(named.plugin_ref, named.at, (usual,))


def _side_source(
    table: PluginTable, found: Plugin, source: DataSource, others: Sequence[Any]
) -> tuple[SideSettings, Section]:
    settings: SideSettings
    if isinstance(found.made, DcgmDataSource):
        settings = found.made
    else:
        settings = found.as_ours(ModelsDataSource)
    if any(type(each) is type(settings) for each in others):
        raise source.at.error("is the second source of its type, keep one")
    _extractor(table, source, settings.extractor)
    return settings, found.at


def _warn_of_extractors(table: PluginTable, source: DataSource) -> None:
    for extractor in source.extractors:
        table.take_referred(extractor)
        table.warn(extractor.at, "has no effect: nothing is handed to extractors of a notification source")


def _check_side_extractors(table: PluginTable, read: Collection[str]) -> None:
    """Extractors that others rely on must get something to read."""
    for each in table.of_kind(Kind.SIDE_EXTRACTOR):
        if each.is_taken and each.type_name not in read:
            source = _SOURCES.get(each.type_name, "source")
            raise each.at.error(
                f'nothing is read for "{each.name}": add a {source} to plugins and to dataLayer.sources'
            )


def discovery_of(table: PluginTable, layer: DataLayer) -> Plugin | None:
    """Where endpoints come from, if a plugin says so."""
    found = layer.discovery
    if found is None:
        return None
    if found.endpoints:
        return table.take_referred(found.endpoints, Kind.DISCOVERY)
    return table.take(found.plugin_ref, found.at, Kind.DISCOVERY)


def parsers_of(table: PluginTable, config: EndpointPickerConfig) -> tuple[Parser, ...]:
    """How request bodies are read."""
    handler, old = config.request_handler, config.parser
    references = handler.parsers if handler else ()
    if references and old:
        table.warn(old.at, "has no effect beside requestHandler.parsers")
    references = references or ((old,) if old else ())
    if not references:
        table.take_all(Kind.PARSER)
        return DEFAULT_PARSERS
    parsers: list[Parser] = []
    for reference in references:
        each = table.take_referred(reference, Kind.PARSER)
        if Parser.PASSTHROUGH in parsers:
            table.warn(reference.at, "has no effect after passthrough-parser, which takes every path")
        parsers.append(_parser(each))
    return tuple(dict.fromkeys(parsers))


def _parser(plugin: Plugin) -> Parser:
    known = {parser.value: parser for parser in Parser}
    if plugin.type_name not in known:
        raise plugin.at.error(f"a parser other than {', '.join(known)} {NOT_SUPPORTED}")
    return known[plugin.type_name]
