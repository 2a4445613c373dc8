"""``EndpointPickerConfig``: the plugins that a picker's configuration makes.

Place:   ``load`` (epp.config.picker_file) reads the text, ``build`` makes plugins; epp.main does both and
         hands the parts on.
Ignores: files, flags and where plugin types come from (``types`` is a mapping; it may import lazily).
Rule:    what is known upstream and not supported here is refused by name, never accepted silently;
         what has no effect upstream either is a warning.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, TypeAlias, TypeVar

from epp.config.decode import ConfigError, Section, camel, read, suggestion
from epp.config.flow_control import DetectorReference, FlowControlSection, settings_of
from epp.config.picker_file import (
    API_VERSIONS,
    DEFAULT_TEXT,
    NOT_SUPPORTED,
    DataSource,
    EndpointPickerConfig,
    PluginEntry,
    SchedulingProfile,
    load,
    load_default,
)
from epp.config.unsupported import UNSUPPORTED_TYPES
from epp.core.apis import DEFAULT_PARSERS, Parser
from epp.core.flow.policies import FlowSettings, SaturationDetector
from epp.core.lifecycle import HealthSettings
from epp.core.pacing import Pace
from epp.core.response_reader import Usage
from epp.core.scheduling import Profile
from epp.core.scoring import Admitter, Filter, Kind, Producer, ProfileHandler, Scorer, Told, kinds
from scorers.agent_identity import AgentIdentity
from scorers.core_metrics_extractor import CoreMetricsExtractor
from scorers.dcgm_data_source import DcgmDataSource
from scorers.destination_endpoint_served_verifier import DestinationEndpointServedVerifier
from scorers.endpoint_health import EndpointHealth
from scorers.file_discovery import FileDiscovery
from scorers.lifecycle_filter import LifecycleFilter
from scorers.metrics_data_source import MetricsDataSource
from scorers.models_data_source import ModelsDataSource
from scorers.request_attribute_reporter import RequestAttributeReporter
from scorers.tier_preference import TierPreference
from scorers.utilization_detector import UtilizationDetector

Settings = TypeVar("Settings")
SideSettings: TypeAlias = DcgmDataSource | ModelsDataSource

__all__ = ["API_VERSIONS", "DEFAULT_TEXT", "Assembly", "build", "load", "load_default"]

LIFECYCLE_FILTER = "lifecycle-filter"
LOAD_PRODUCER = "inflight-load-producer"
_CHOOSING = (Kind.FILTER, Kind.SCORER, Kind.PICKER)
_SOURCES = {"dcgm-extractor": "dcgm-data-source", "models-data-extractor": "models-data-source"}
OURS = "scorers."
"""Where the plugin types are that come with the picker."""


# --- the plugins -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Assembly:
    """Everything a configuration made: what chooses, what reads, and where endpoints come from."""

    profile: Profile
    """The first of ``schedulingProfiles``."""
    others: tuple[Profile, ...]
    """The further ones, which only a handler uses."""
    handler: ProfileHandler | None
    """None: every request goes through the one profile."""
    producers: tuple[tuple[str, Producer], ...]
    parsers: tuple[Parser, ...]
    discovery: FileDiscovery | None
    """None: endpoints do not come from a plugin."""
    discovery_at: Section
    """Where it is configured, for errors."""
    metrics_source: MetricsDataSource
    metrics_source_at: Section
    extractor: CoreMetricsExtractor
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
    warnings: tuple[str, ...]
    """One line each, for the log: what was written and has no effect."""

    def pace(self, *, floor: float, stale_after: float) -> Pace:
        """How often servers are read: as the source's ``interval`` says, else every ``floor`` [s]."""
        interval = self.metrics_source.interval
        try:
            return Pace.of(floor=floor if interval is None else interval, stale_after=stale_after)
        except ValueError as error:
            raise self.metrics_source_at.at("parameters", "interval").error(str(error)) from None


def build(
    config: EndpointPickerConfig, types: Mapping[str, type], *, allow_experimental: bool = False
) -> Assembly:
    """Make the plugins that ``config`` names; ``types`` by plugin type name."""
    return _Builder(config, types, allow_experimental=allow_experimental).build()


@dataclass(slots=True)
class _Plugin:
    """One plugin, with where it is configured (None: added here)."""

    name: str
    kinds: frozenset[Kind]
    plugin: Any
    entry: PluginEntry | None
    is_used: bool = False
    is_connected: bool = False


class _ByName(Mapping[str, Any]):
    """The configured plugins, for those that look up others; what is looked up counts as used."""

    def __init__(self, plugins: Mapping[str, _Plugin], connected: Callable[[str], Any]) -> None:
        self._plugins, self._connected = plugins, connected

    def __getitem__(self, name: str) -> Any:
        self._plugins[name].is_used = True
        return self._connected(name)

    def __contains__(self, name: object) -> bool:
        return name in self._plugins

    def __iter__(self) -> Iterator[str]:
        return iter(self._plugins)

    def __len__(self) -> int:
        return len(self._plugins)


class _Builder:
    def __init__(
        self, config: EndpointPickerConfig, types: Mapping[str, type], *, allow_experimental: bool
    ) -> None:
        self._config = config
        self._types = types
        self._allow_experimental = allow_experimental
        self._plugins: dict[str, _Plugin] = {}
        self._warnings: list[str] = []
        self._handed_on: dict[str, Section] = {}
        """Parameters for plugins of a type, which are written elsewhere."""
        self._connecting: list[str] = []

    def build(self) -> Assembly:
        for entry in self._config.plugins:
            self._configure(entry)
        if self._config.data:
            self._warn(self._config.at.at("data"), "is deprecated: write it as dataLayer")
        if self._config.has_gate("enableLegacyMetrics"):
            gates = self._config.at.at("featureGates")
            self._warn(
                gates, '"enableLegacyMetrics" has no effect: metrics are named in core-metrics-extractor'
            )
        handler = self._handler()
        profiles = self._profiles()
        _, detector = self._policy(
            Kind.DETECTOR, UtilizationDetector, "utilization-detector", *self._old_detector()
        )
        flow = self._flow()
        detector = flow.detector if flow else detector
        if getattr(detector, "counts_tokens", False) and not self._of_type(LOAD_PRODUCER):
            self._add(LOAD_PRODUCER)
        profiles, handler_plugin, producers = self._connect(profiles, handler)
        parsers = self._parsers()
        source, extractor, sides = self._sources()
        source_at = source.entry.at if source.entry else self._config.at
        health = self._ours(self._only("endpoint-health", "keep one"), EndpointHealth)
        discovery = self._discovery()
        discovery_at = discovery.entry.at if discovery and discovery.entry else self._config.at
        admitters = self._active(Kind.ADMITTER)
        reporters = [self._ours(each, RequestAttributeReporter) for each in self._active(Kind.REPORTER)]
        verifiers = [
            self._ours(each, DestinationEndpointServedVerifier) for each in self._active(Kind.RESPONSE_HEADER)
        ]
        self._active(Kind.NOTIFICATION, Kind.NOTHING)
        self._warn_of_what_has_no_effect()
        plugins = [each.plugin for each in self._plugins.values()]
        identities = [each for each in plugins if isinstance(each, AgentIdentity)]
        self._check_only_one("agent-identity")
        return Assembly(
            profile=profiles[0],
            others=tuple(profiles[1:]),
            handler=handler_plugin,
            producers=producers,
            parsers=parsers,
            discovery=self._ours(discovery, FileDiscovery) if discovery else None,
            discovery_at=discovery_at,
            metrics_source=self._ours(source, MetricsDataSource),
            metrics_source_at=source_at,
            extractor=self._ours(extractor, CoreMetricsExtractor),
            side_sources=sides,
            admitters=tuple(each.plugin for each in admitters),
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
            warnings=tuple(self._warnings),
        )

    # --- making and finding ---

    def _configure(self, entry: PluginEntry) -> None:
        name = entry.name or entry.type
        if name in self._plugins:
            first = self._plugins[name].entry
            where = f", first in line {first.at.line}" if first else ""
            raise entry.at.error(f'the name "{name}" is there twice{where}; give each plugin its own name')
        plugin_type = self._type(entry.type, entry.at.at("type"))
        parameters = entry.parameters or entry.at.empty("parameters")
        if remedy := getattr(plugin_type, "deprecated", ""):
            self._warn(entry.at.at("type"), f'the plugin type "{entry.type}" is deprecated: {remedy}')
        parameters = self._without_moved(plugin_type, parameters)
        self._warn_of_parameters(plugin_type, parameters)
        plugin = self._made(entry.type, plugin_type, parameters)
        self._plugins[name] = _Plugin(name, kinds(plugin_type), plugin, entry)

    def _warn_of_parameters(self, plugin_type: type, parameters: Section) -> None:
        given = parameters.fields()
        for parameter in dataclasses.fields(plugin_type):
            written = parameter.metadata.get("yaml") or camel(parameter.name)
            for word, says in (("deprecated", "is deprecated"), ("without_effect", "has no effect")):
                if written in given and (reason := parameter.metadata.get(word)):
                    self._warn(given[written], f"{says}: {reason}")

    def _without_moved(self, plugin_type: type, parameters: Section) -> Section:
        """The parameters that are still of this type; the others go to the type that has them now."""
        for now_of, names in getattr(plugin_type, "moved", {}).items():
            moved = {name: at for name, at in parameters.fields().items() if name in names}
            for at in moved.values():
                self._warn(at, f"is deprecated: write it in the parameters of {now_of}")
            if moved:
                self._handed_on[now_of] = parameters.only(moved)
                parameters = parameters.only(moved, others=True)
        return parameters

    def _active(self, *wanted: Kind) -> list[_Plugin]:
        """The plugins of these kinds, which work without being named anywhere."""
        found = self._of_kind(*wanted)
        for each in found:
            each.is_used = True
        return found

    def _type(self, name: str, at: Section) -> type:
        if name not in self._types:
            if name in UNSUPPORTED_TYPES:
                reason = UNSUPPORTED_TYPES[name]
                raise at.error(f'the plugin type "{name}" {NOT_SUPPORTED}: {reason}')
            hint = suggestion(name, self._types) or ", is the package that has it installed?"
            raise at.error(f'unknown plugin type "{name}"{hint}')
        try:
            plugin_type = self._types[name]
        except ConfigError as error:
            raise at.error(str(error)) from error
        if not dataclasses.is_dataclass(plugin_type) or not kinds(plugin_type):
            raise at.error(f'the plugin type "{name}" is no dataclass with the methods of a plugin')
        if getattr(plugin_type, "is_experimental", False) and not self._allow_experimental:
            raise at.error(
                f'the plugin type "{name}" is experimental: start with --allow-experimental-plugins to use it'
            )
        return plugin_type

    def _add(self, plugin_type: str) -> _Plugin:
        """A plugin that was not configured, with its defaults, named as its type."""
        found = self._type(plugin_type, self._config.at)
        parameters = self._handed_on.pop(plugin_type, None) or self._config.at.empty(plugin_type)
        plugin = self._made(plugin_type, found, parameters)
        if (other := self._plugins.get(plugin_type)) and other.entry:
            raise other.entry.at.at("name").error(
                f'a plugin of the type "{plugin_type}" is called so, rename it'
            )
        added = self._plugins[plugin_type] = _Plugin(plugin_type, kinds(found), plugin, None)
        return added

    def _made(self, name: str, plugin_type: type, parameters: Section) -> Any:
        try:
            return read(parameters, plugin_type)
        except (TypeError, NameError) as error:  # a field whose type cannot be written in YAML
            raise parameters.error(f'the plugin type "{name}" is faulty: {error}') from error

    def _referred(self, name: str, at: Section, *wanted: Kind) -> _Plugin:
        """The plugin called ``name``, which has to be of one of the kinds ``wanted``, if any are given."""
        place = at.at("pluginRef")
        found = self._plugins.get(name)
        if found is None:
            hint = suggestion(name, self._plugins) or ", add it to plugins"
            raise place.error(f'there is no plugin "{name}"{hint}')
        if wanted and not found.kinds & set(wanted):
            raise place.error(f'"{name}" is a {_spoken(found.kinds)}, expected a {_spoken(wanted)}')
        found.is_used = True
        return found

    def _of_type(self, plugin_type: str) -> list[_Plugin]:
        return [
            each
            for each in self._plugins.values()
            if (each.entry.type if each.entry else each.name) == plugin_type
        ]

    def _of_kind(self, *wanted: Kind) -> list[_Plugin]:
        return [each for each in self._plugins.values() if each.kinds & set(wanted)]

    def _warn(self, at: Section, message: str) -> None:
        self._warnings.append(str(at.error(message)))

    # --- scheduling ---

    def _handler(self) -> _Plugin | None:
        """The profile handler, if it is one that does something; checked against the number of profiles."""
        handlers, profiles = self._of_kind(Kind.PROFILE_HANDLER), self._config.scheduling_profiles
        for handler in handlers:
            handler.is_used = True
        if len(handlers) > 1 and handlers[1].entry:
            raise handlers[1].entry.at.error("there is more than one profile handler, keep one")
        names = [profile.name for profile in profiles]
        for profile in profiles:
            if names.count(profile.name) > 1:
                raise profile.at.error(f'the profile name "{profile.name}" is there twice')
        chooses = bool(handlers) and isinstance(handlers[0].plugin, ProfileHandler)
        if len(profiles) > 1 and not chooses:
            raise self._config.at.at("schedulingProfiles").error(
                f"{len(profiles)} profiles, but single-profile-handler takes one: add a handler that chooses "
                "between profiles, such as disagg-profile-handler"
            )
        return handlers[0] if chooses else None

    def _profiles(self) -> list[Profile]:
        """The configured profiles; without any, one of all filters, scorers and pickers there are."""
        configured = self._config.scheduling_profiles
        if not configured:
            choosing = self._of_kind(*_CHOOSING)
            return [
                self._profile("default", [(each, None, self._config.at.at("plugins")) for each in choosing])
            ]
        place = None if len(configured) == 1 else "schedulingProfiles"
        return [
            self._profile(each.name, self._profile_plugins(each), at=each.at if place else None)
            for each in configured
        ]

    def _profile(
        self, name: str, plugins: Iterable[tuple[_Plugin, float | None, Section]], at: Section | None = None
    ) -> Profile:
        """One profile; ``at``: where it is, if there are others."""
        filters: list[tuple[str, Filter]] = []
        scorers: list[tuple[str, Scorer, float]] = []
        pickers: list[_Plugin] = []
        for each, weight, used_at in plugins:
            each.is_used = True
            if Kind.FILTER in each.kinds and getattr(each.plugin, "is_filtering", True):
                filters.append((each.name, each.plugin))
            if Kind.SCORER in each.kinds:
                scorers.append((each.name, each.plugin, 1.0 if weight is None else weight))
            elif weight is not None:
                self._warn(used_at, f'the weight of "{each.name}" has no effect, it is no scorer')
            if Kind.PICKER in each.kinds:
                pickers.append(each)
            if len(pickers) > 1:
                raise used_at.error(f'"{pickers[0].name}" and "{pickers[1].name}" are both pickers, keep one')
        at = at or self._config.at
        if not scorers:
            self._warn(at, "no scorers: endpoints are picked without looking at their load")
        elif not any(weight for _, _, weight in scorers):
            self._warn(at, "every weight is 0: endpoints are picked without looking at their load")
        picker = pickers[0] if pickers else self._default_picker()
        picker.is_used = True
        return Profile(
            name=name,
            filters=self._with_lifecycle(filters),
            scorers=scorers,
            picker=(picker.name, picker.plugin),
        )

    def _with_lifecycle(self, filters: Sequence[tuple[str, Filter]]) -> Sequence[tuple[str, Filter]]:
        """A lifecycle-filter in front, if the configuration neither places one nor switches it off.

        Only filters that say so stay ahead of it: where what they leave is all dead, that is the reason, and
        the least bad is one that may serve the request.
        """
        configured = self._of_type(LIFECYCLE_FILTER)
        for each in configured:
            if not self._ours(each, LifecycleFilter).enabled:
                self._warn(
                    each.entry.at if each.entry else self._config.at, "dead endpoints are picked like others"
                )
                each.is_used = True
                return filters
        placed = {name for name, _ in filters}
        if any(each.name in placed for each in configured):
            return filters
        added = configured[0] if configured else self._add(LIFECYCLE_FILTER)
        added.is_used = True
        ahead = tuple(takewhile(lambda each: getattr(each[1], "before_lifecycle", False), filters))
        return *ahead, (added.name, added.plugin), *filters[len(ahead) :]

    def _profile_plugins(self, profile: SchedulingProfile) -> Iterable[tuple[_Plugin, float | None, Section]]:
        seen: set[str] = set()
        for use in profile.plugins:
            each = self._referred(use.plugin_ref, use.at)
            if use.plugin_ref in seen:
                raise use.at.at("pluginRef").error(f'"{use.plugin_ref}" is there twice')
            seen.add(use.plugin_ref)
            if not each.kinds & set(_CHOOSING):
                self._warn(use.at, f'"{each.name}" has no effect here, it is a {_spoken(each.kinds)}')
            yield each, use.weight, use.at

    def _default_picker(self) -> _Plugin:
        configured = self._of_kind(Kind.PICKER)
        return configured[0] if configured else self._add("max-score-picker")

    # --- what plugins need of each other ---

    def _connect(
        self, profiles: Iterable[Profile], handler: _Plugin | None
    ) -> tuple[list[Profile], ProfileHandler | None, tuple[tuple[str, Producer], ...]]:
        """Add the producers that plugins in use need, and let each plugin find those that it names."""
        connected = [
            dataclasses.replace(
                profile,
                filters=[(name, self._connected(name)) for name, _ in profile.filters],
                scorers=[(name, self._connected(name), weight) for name, _, weight in profile.scorers],
                picker=(profile.picker[0], self._connected(profile.picker[0])),
            )
            for profile in profiles
        ]
        made: ProfileHandler | None = self._connected(handler.name) if handler else None
        producers: dict[str, Producer] = {}
        while missing := [each for each in self._of_kind(Kind.PRODUCER) if each.name not in producers]:
            for each in missing:
                each.is_used = True
                producers[each.name] = self._connected(each.name)
        return connected, made, tuple(producers.items())

    def _connected(self, name: str) -> Any:
        """The plugin, made anew with what it needs of others, once."""
        each = self._plugins[name]
        if name in self._connecting:
            chain = " -> ".join((*self._connecting[self._connecting.index(name) :], name))
            at = each.entry.at if each.entry else self._config.at
            raise at.error(f"plugins need each other in a circle, {chain}: name another one in one of them")
        if each.is_connected:
            return each.plugin
        self._connecting.append(name)
        for needs, adds in (("requires", True), ("uses", False)):
            for attribute, producer_type in getattr(type(each.plugin), needs, {}).items():
                producer = self._producer(each, attribute, producer_type, adds=adds)
                if producer:
                    self._connected(producer)
                    each.plugin = dataclasses.replace(each.plugin, **{attribute: producer})
        join = getattr(each.plugin, "joined", None)
        if join is not None:
            names = [profile.name for profile in self._config.scheduling_profiles] or ["default"]
            try:
                each.plugin = join(_ByName(self._plugins, self._connected), names)
            except ValueError as error:
                if isinstance(error, ConfigError):
                    raise
                raise self._blamed(each, str(error)) from None
        self._connecting.pop()
        each.is_connected = True
        return each.plugin

    def _blamed(self, each: _Plugin, message: str) -> ConfigError:
        """An error of a plugin's, at the parameter that it names first, if it names one."""
        if each.entry is None:
            return self._config.at.error(f"{each.name}: {message}")
        name, colon, rest = message.partition(": ")
        given = each.entry.parameters.fields() if each.entry.parameters else {}
        return given[name].error(rest) if colon and name in given else each.entry.at.error(message)

    def _producer(self, user: _Plugin, attribute: str, producer_type: str, *, adds: bool) -> str:
        """The name of the producer that ``user`` means; the only one of that type if it names none."""
        named = getattr(user.plugin, attribute)
        if user.entry:
            at = user.entry.at.at("parameters", camel(attribute))
        else:
            at = self._config.at
        if named and (named in self._plugins or named != producer_type):
            allowed = (producer_type, *getattr(user.plugin, "alternatives", {}).get(attribute, ()))
            return self._of_types(named, at, allowed).name
        configured = self._of_type(producer_type)
        for each in configured[:1]:
            each.is_used = True
        if len(configured) > 1:
            names = ", ".join(f'"{each.name}"' for each in configured)
            raise at.error(f"there are {names} of type {producer_type}, name one in {camel(attribute)}")
        if configured:
            return configured[0].name
        return self._add(producer_type).name if adds else ""

    def _of_types(self, name: str, at: Section, allowed: Sequence[str]) -> _Plugin:
        """The plugin called ``name``: of one of these types, or somebody else's that can do the same."""
        wanted = {kind for plugin_type in allowed for kind in kinds(self._types[plugin_type])}
        found = self._referred(name, at, *wanted)
        its_type = found.entry.type if found.entry else found.name
        if its_type not in allowed and type(found.plugin).__module__.startswith(OURS):
            raise at.at("pluginRef").error(f'"{name}" is of type {its_type}, expected {" or ".join(allowed)}')
        return found

    # --- reading ---

    def _parsers(self) -> tuple[Parser, ...]:
        handler, old = self._config.request_handler, self._config.parser
        references = handler.parsers if handler else ()
        if references and old:
            self._warn(old.at, "has no effect beside requestHandler.parsers")
        references = references or ((old,) if old else ())
        if not references:
            for each in self._of_kind(Kind.PARSER):
                each.is_used = True
            return DEFAULT_PARSERS
        parsers: list[Parser] = []
        for reference in references:
            each = self._referred(reference.plugin_ref, reference.at, Kind.PARSER)
            assert each.entry is not None
            if Parser.PASSTHROUGH in parsers:
                self._warn(reference.at, "has no effect after passthrough-parser, which takes every path")
            parsers.append(self._parser(each.entry))
        return tuple(dict.fromkeys(parsers))

    def _parser(self, entry: PluginEntry) -> Parser:
        known = {parser.value: parser for parser in Parser}
        if entry.type not in known:
            raise entry.at.error(f"a parser other than {', '.join(known)} {NOT_SUPPORTED}")
        return known[entry.type]

    def _sources(self) -> tuple[_Plugin, _Plugin, tuple[tuple[SideSettings, Section], ...]]:
        """Where metrics come from, who reads them, and what else is read; metrics have defaults."""
        layer = self._config.layer
        metrics: tuple[_Plugin, _Plugin] | None = None
        sides: list[tuple[SideSettings, Section]] = []
        for each in layer.sources:
            of = (Kind.METRICS_SOURCE, Kind.SIDE_SOURCE, Kind.NOTIFICATION)
            source = self._referred(each.plugin_ref, each.at, *of)
            if Kind.METRICS_SOURCE in source.kinds:
                if metrics:
                    raise each.at.error(f"more than one source of metrics {NOT_SUPPORTED}, keep one")
                metrics = source, self._extractor(each, "core-metrics-extractor")
            elif Kind.SIDE_SOURCE in source.kinds:
                sides.append(self._side_source(source, each, [settings for settings, _ in sides]))
            else:
                for extractor in each.extractors:
                    self._referred(extractor.plugin_ref, extractor.at)
        if not (metrics or layer.inject_defaults):
            raise self._config.at.at("dataLayer", "injectDefaults").error(
                f"false without a source of metrics {NOT_SUPPORTED}: the endpoints' load is always read; "
                "leave it out"
            )
        self._check_side_extractors({settings.extractor for settings, _ in sides})
        metrics = metrics or (self._only("metrics-data-source"), self._only("core-metrics-extractor"))
        return *metrics, tuple(sides)

    def _extractor(self, source: DataSource, usual: str) -> _Plugin:
        """The one extractor of a source."""
        if len(source.extractors) > 1:
            raise source.extractors[1].at.error(f"more than one extractor of a source {NOT_SUPPORTED}")
        if not source.extractors:
            return self._only(usual)
        named = source.extractors[0]
        return self._of_types(named.plugin_ref, named.at, (usual,))

    def _side_source(
        self, found: _Plugin, source: DataSource, others: Sequence[Any]
    ) -> tuple[SideSettings, Section]:
        settings: SideSettings
        if isinstance(found.plugin, DcgmDataSource):
            settings = found.plugin
        else:
            settings = self._ours(found, ModelsDataSource)
        if any(type(each) is type(settings) for each in others):
            raise source.at.error("is the second source of its type, keep one")
        self._extractor(source, settings.extractor)
        return settings, found.entry.at if found.entry else source.at

    def _check_side_extractors(self, read: Iterable[str]) -> None:
        """Extractors that others rely on must get something to read."""
        for each in self._of_kind(Kind.SIDE_EXTRACTOR):
            its_type = each.entry.type if each.entry else each.name
            if each.is_used and each.entry and its_type not in read:
                source = _SOURCES.get(its_type, "source")
                raise each.entry.at.error(
                    f'nothing is read for "{each.name}": add a {source} to plugins and to dataLayer.sources'
                )

    def _check_only_one(self, plugin_type: str, remedy: str = "keep one") -> None:
        configured = self._of_type(plugin_type)
        if len(configured) > 1 and configured[1].entry:
            raise configured[1].entry.at.error(
                f"there are {len(configured)} plugins of type {plugin_type}; {remedy}"
            )

    def _only(self, plugin_type: str, remedy: str = "name one in dataLayer.sources") -> _Plugin:
        """The plugin of this type, added if there is none."""
        self._check_only_one(plugin_type, remedy)
        configured = self._of_type(plugin_type)
        plugin = configured[0] if configured else self._add(plugin_type)
        plugin.is_used = True
        return plugin

    def _ours(self, found: _Plugin, wanted: type[Settings]) -> Settings:
        """Settings that the picker itself reads: it understands those of its own types only."""
        if not isinstance(found.plugin, wanted):
            at = found.entry.at.at("type") if found.entry else self._config.at
            raise at.error(
                f"a {_spoken(found.kinds)} of a type that does not come with the picker {NOT_SUPPORTED}"
            )
        return found.plugin

    def _discovery(self) -> _Plugin | None:
        discovery = self._config.layer.discovery
        if discovery is None:
            return None
        if discovery.endpoints:
            reference = discovery.endpoints
            return self._referred(reference.plugin_ref, reference.at, Kind.DISCOVERY)
        return self._referred(discovery.plugin_ref, discovery.at, Kind.DISCOVERY)

    # --- flow control ---

    def _flow(self) -> FlowSettings | None:
        section = self._config.flow_control
        if not self._config.has_gate("flowControl"):
            if section:
                self._warn(section, 'has no effect without the feature gate "flowControl"')
            return None
        found = read(section or self._config.at.empty("flowControl"), FlowControlSection)
        old = self._config.saturation_detector
        older = DetectorReference(plugin_ref=old.plugin_ref, at=old.at) if old and old.plugin_ref else None
        return settings_of(found, self._policy, self._warn, older)

    def _old_detector(self) -> tuple[str, Section | None]:
        old = self._config.saturation_detector
        if old is None:
            return "", None
        self._warn(old.at, "is deprecated: write it as flowControl.saturationDetector")
        if old.thresholds:
            if self._of_type("utilization-detector"):
                raise old.at.error("there is a utilization-detector in plugins, write the thresholds there")
            self._handed_on["utilization-detector"] = old.thresholds
            self._add("utilization-detector").is_used = True
        return old.plugin_ref, old.at

    def _policy(
        self, kind: Kind, default: type, type_name: str, name: str, at: Section | None
    ) -> tuple[str, Any]:
        """The policy called ``name`` and its name; without a name the one of that type, or its default."""
        configured = self._of_type(type_name)
        if at is not None and name and (name in self._plugins or name != type_name):
            found = self._referred(name, at, kind)
            return found.name, found.plugin
        if not configured:
            return type_name, default()
        configured[0].is_used = True
        return configured[0].name, configured[0].plugin

    # --- warnings ---

    def _warn_of_what_has_no_effect(self) -> None:
        for now_of in self._handed_on:
            self._warn(self._handed_on[now_of], f"there is a {now_of} in plugins: what is here has no effect")
        for each in self._plugins.values():
            if each.entry and not each.is_used:
                self._warn(each.entry.at, f'the {_spoken(each.kinds)} "{each.name}" is used by nothing')


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


def _spoken(some: Iterable[Kind]) -> str:
    return " and ".join(sorted(kind.value for kind in some))
