"""``EndpointPickerConfig``: everything that a picker's configuration makes.

Place:   ``load`` (epp.config.picker_file) reads the text, ``build`` makes plugins; epp.process does both and
         hands the parts on. Plugins are in a plugin_table; profiles, flow_control, connections and sources
         take from it.
Ignores: files, flags and where plugin types come from (``types`` is a mapping; it may import lazily).
Rule:    what is known upstream and not supported here is refused by name, never accepted silently;
         what has no effect upstream either is a warning.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from epp.config.connections import Connections
from epp.config.decode import Section
from epp.config.flow_control import flow_of
from epp.config.picker_file import DEFAULT_TEXT, EndpointPickerConfig, load, load_default
from epp.config.plugin_table import PluginTable
from epp.config.profiles import handler_of, profiles_of
from epp.config.sources import SideSettings, discovery_of, parsers_of, sources_of
from epp.core.apis import Parser
from epp.core.flow.policies import FlowSettings, SaturationDetector
from epp.core.lifecycle import HealthSettings
from epp.core.pacing import Pace
from epp.core.response_reader import Usage
from epp.core.scheduling import Profile
from epp.core.scoring import Admitter, Kind, Producer, ProfileHandler, Told
from scorers.agent_identity import AgentIdentity
from scorers.core_metrics_extractor import CoreMetricsExtractor
from scorers.destination_endpoint_served_verifier import DestinationEndpointServedVerifier
from scorers.endpoint_health import EndpointHealth
from scorers.file_discovery import FileDiscovery
from scorers.metrics_data_source import MetricsDataSource
from scorers.request_attribute_reporter import RequestAttributeReporter
from scorers.tier_preference import TierPreference
from scorers.utilization_detector import UtilizationDetector

__all__ = ["DEFAULT_TEXT", "Assembly", "build", "load", "load_default"]

LOAD_PRODUCER = "inflight-load-producer"


@dataclass(frozen=True, slots=True, kw_only=True)
class Assembly:
    """Everything a configuration made: what chooses, what reads, and where endpoints come from."""

    profile: Profile
    """The first of ``schedulingProfiles``."""
    others: tuple[Profile, ...]
    """The further ones, which only a handler uses."""
    handler: ProfileHandler | None
    """None: every request goes through the one profile."""
    handler_is: tuple[str, str] | None
    """Its name and its type."""
    producers: tuple[tuple[str, Producer], ...]
    parsers: tuple[Parser, ...]
    discovery: FileDiscovery | None
    """None: endpoints do not come from a plugin."""
    discovery_at: Section
    """Where it is configured, for errors."""
    metrics_source: MetricsDataSource
    metrics_source_at: Section
    extractor: CoreMetricsExtractor
    youngest: tuple[float, Section] | None
    """How old [s] readings may be for the plugin that wants them youngest, and where that is said."""
    side_sources: tuple[tuple[SideSettings, Section], ...]
    """What is read beside the metrics, with the place where it is configured."""
    admitters: tuple[Admitter, ...]
    """They may turn a request away before anybody is chosen for it."""
    reports: Callable[[Usage | None], Mapping[str, Mapping[str, float]]] | None
    """What the gateway is told at the end of a response."""
    served_header: Callable[[str | None], Mapping[str, str]] | None
    """What the client is told of the endpoint that served."""
    health: HealthSettings
    flow: FlowSettings | None
    """None: requests do not wait in the picker."""
    detector: SaturationDetector
    """Says when the pool is full, where requests of a negative priority are shed."""
    heeds_tiers: bool
    """Some filter looks at the endpoints' tiers."""
    identify: Callable[[Mapping[str, str]], str] | None
    """Finds an agent's session in a request's headers."""
    stamps_responses: bool
    """Some plugin may add headers to responses."""
    plugins: tuple[Any, ...]
    """All that were made."""
    warnings: tuple[str, ...]
    """One line each, for the log: what was written and has no effect."""

    def pace(self, *, floor: float, stale_after: float) -> Pace:
        """How often servers are read: as the source's ``interval`` says, else every ``floor`` [s]; at rest so
        often that readings count for those that want them young."""
        interval = self.metrics_source.interval
        floor = floor if interval is None else interval
        try:
            pace = Pace.of(floor=floor, stale_after=stale_after)
        except ValueError as error:
            raise self.metrics_source_at.at("parameters", "interval").error(str(error)) from None
        age, at = self.youngest or (stale_after, self.metrics_source_at)
        if age >= stale_after:
            return pace
        try:
            return Pace.of(floor=floor, stale_after=age)
        except ValueError:
            least = f"four thirds of the interval between two readings ({floor:g}s)"
            raise at.error(f"must be at least {least}, got {age:g}s") from None


def build(
    config: EndpointPickerConfig, types: Mapping[str, type], *, allow_experimental: bool = False
) -> Assembly:
    """Make the plugins that ``config`` names; ``types`` by plugin type name."""
    table = PluginTable(types, config.at, allow_experimental=allow_experimental)
    for entry in config.plugins:
        table.configure(entry)
    _warn_of_former_fields(table, config)
    handler = handler_of(table, config.scheduling_profiles)
    profiles = profiles_of(table, config.scheduling_profiles)
    flow, detector = flow_of(table, config)
    if getattr(detector, "counts_tokens", False) and not table.of_type(LOAD_PRODUCER):
        table.add(LOAD_PRODUCER)
    connections = Connections(table, [profile.name for profile in profiles])
    profiles = [connections.profile(profile) for profile in profiles]
    connected_handler = connections.plugin(handler.name) if handler else None
    producers = connections.producers()
    parsers = parsers_of(table, config)
    sources = sources_of(table, config.layer)
    health = table.take_only("endpoint-health", "keep one").as_ours(EndpointHealth)
    discovery = discovery_of(table, config.layer)
    admitters = table.take_all(Kind.ADMITTER)
    reporters = [each.as_ours(RequestAttributeReporter) for each in table.take_all(Kind.REPORTER)]
    verifiers = [
        each.as_ours(DestinationEndpointServedVerifier) for each in table.take_all(Kind.RESPONSE_HEADER)
    ]
    table.take_all(Kind.NOTIFICATION, Kind.NOTHING)
    table.check_only("agent-identity", "keep one")
    plugins = [each.made for each in table]
    identities = [each for each in plugins if isinstance(each, AgentIdentity)]
    return Assembly(
        profile=profiles[0],
        others=tuple(profiles[1:]),
        handler=connected_handler,
        handler_is=(handler.name, handler.type_name) if handler else None,
        producers=producers,
        parsers=parsers,
        discovery=discovery.as_ours(FileDiscovery) if discovery else None,
        discovery_at=discovery.at if discovery else table.at,
        metrics_source=sources.metrics,
        metrics_source_at=sources.metrics_at,
        extractor=sources.extractor,
        youngest=_youngest(table),
        side_sources=sources.sides,
        admitters=tuple(each.made for each in admitters),
        reports=_merged(reporters) if reporters else None,
        served_header=verifiers[0].served_header if verifiers else None,
        health=health.settings(),
        flow=flow,
        detector=detector,
        heeds_tiers=any(
            isinstance(each, TierPreference) for profile in profiles for _, each in profile.filters
        ),
        identify=identities[0].identity if identities else None,
        stamps_responses=bool(verifiers) or any(isinstance(each, Told) for each in plugins),
        plugins=tuple(plugins),
        warnings=table.warnings(),
    )


def _warn_of_former_fields(table: PluginTable, config: EndpointPickerConfig) -> None:
    if config.data:
        table.warn(config.at.at("data"), "is deprecated: write it as dataLayer")
    if config.has_gate("enableLegacyMetrics"):
        gates = config.at.at("featureGates")
        table.warn(gates, '"enableLegacyMetrics" has no effect: metrics are named in core-metrics-extractor')


def _youngest(table: PluginTable) -> tuple[float, Section] | None:
    found = []
    for each in table:
        if isinstance(each.made, UtilizationDetector) and each.made.metrics_staleness_threshold:
            parent = "parameters" if each.entry else "saturationDetector"
            at = each.at.at(parent, "metricsStalenessThreshold")
            found.append((each.made.metrics_staleness_threshold, at))
    return min(found, key=itemgetter(0), default=None)


def _merged(
    reporters: Sequence[RequestAttributeReporter],
) -> Callable[[Usage | None], Mapping[str, Mapping[str, float]]]:
    """What all of them tell; of one name the first."""

    def report(usage: Usage | None) -> Mapping[str, Mapping[str, float]]:
        told: dict[str, dict[str, float]] = {}
        for each in reporters:
            for namespace, values in each.report(usage).items():
                told[namespace] = {**values, **told.get(namespace, {})}
        return told

    return report
