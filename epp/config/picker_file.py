"""``EndpointPickerConfig`` as it is written: the shape of the file, in all its versions.

Place:   ``load`` reads the text; epp.config.picker_config makes plugins of what it says.
Ignores: what plugin types there are, and their parameters.
Rule:    what is known upstream and not supported here is refused by name, never accepted silently. A field is
         at its oldest place as well as at its newest.
Source:  llm-d-router v0.10 (``llm-d.ai/v1alpha1``), its later ``llm-d.ai/v1``, and GIE v1.0 to v1.5
         (``inference.networking.x-k8s.io/v1alpha1``).
"""

from dataclasses import dataclass, field

from epp.config.decode import Here, Section, parse, read
from epp.core.suggestions import suggestion

API_VERSIONS = ("llm-d.ai/v1alpha1", "llm-d.ai/v1", "inference.networking.x-k8s.io/v1alpha1")
KIND = "EndpointPickerConfig"
DEFAULT_FILE = "default configuration"
DEFAULT_TEXT = """\
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
- type: lifecycle-filter
- type: lifecycle-scorer
- type: queue-scorer
- type: kv-cache-utilization-scorer
- type: prefix-cache-scorer
- type: inflight-load-producer
- type: max-score-picker
schedulingProfiles:
- name: default
  plugins:
  - {pluginRef: lifecycle-filter}
  - {pluginRef: lifecycle-scorer, weight: 4}
  - {pluginRef: queue-scorer, weight: 2}
  - {pluginRef: kv-cache-utilization-scorer, weight: 2}
  - {pluginRef: prefix-cache-scorer, weight: 3}
  - {pluginRef: max-score-picker}
"""
"""What is used without a file: upstream's default and our lifecycle. At its weight of 4 a whole cached prefix
(3) does not outweigh that its server is suspect (4 * 0.8); a queue and a full cache elsewhere (2 + 2) do."""

MAX_WEIGHT = 1_000_000
GATES = (
    "flowControl",
    "haPopulateNonLeaderDatastore",
    "enableLegacyMetrics",
    "dataLayer",
    "prepareDataPlugins",
)
"""Upstream's, of all versions; ``dataLayer`` and ``prepareDataPlugins`` ask for what is always done here."""
NOT_SUPPORTED = "is not supported by this version"


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginEntry:
    """One entry of ``plugins``; ``name`` is ``type`` where there is none."""

    type: str
    name: str = ""
    parameters: Section | None = None
    at: Here


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """The name of a plugin, where it is used."""

    plugin_ref: str
    at: Here


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfilePlugin:
    """A plugin in a scheduling profile; the weight counts for scorers, 1 where there is none."""

    plugin_ref: str
    weight: float | None = None
    at: Here

    def __post_init__(self) -> None:
        # below 0 an unknown score, which counts as the lowest known one, would count as the best
        if self.weight is not None and not 0 <= self.weight <= MAX_WEIGHT:
            raise ValueError(f"weight: must be from 0 (no influence) to {MAX_WEIGHT}, got {self.weight:g}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulingProfile:
    """One way of choosing."""

    name: str
    plugins: tuple[ProfilePlugin, ...] = ()
    at: Here

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError('name: must not be empty, write for example "default"')


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSource:
    """A metrics source with what is made of its metrics."""

    plugin_ref: str
    extractors: tuple[Reference, ...] = ()
    at: Here


@dataclass(frozen=True, slots=True, kw_only=True)
class Discovery:
    """Where endpoints come from: ``pluginRef``, in newer files ``endpoints.pluginRef``."""

    plugin_ref: str = ""
    endpoints: Reference | None = None
    at: Here

    def __post_init__(self) -> None:
        if bool(self.plugin_ref) == (self.endpoints is not None):
            raise ValueError("give either pluginRef or endpoints.pluginRef")


@dataclass(frozen=True, slots=True, kw_only=True)
class DataLayer:
    """What is read from where."""

    inject_defaults: bool = True
    sources: tuple[DataSource, ...] = ()
    discovery: Discovery | None = None
    peer_discovery: Section | None = None
    cross_replica_syncer_plugin_ref: Section | None = None
    cross_replica_sync_interval: Section | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FormerDetector:
    """The saturation detector in its older place: the name of a plugin, or in v1.3 its thresholds."""

    plugin_ref: str = ""
    queue_depth_threshold: Section | None = None
    kv_cache_util_threshold: Section | None = None
    metrics_staleness_threshold: Section | None = None
    at: Here

    @property
    def thresholds(self) -> Section | None:
        """What is said of them, if anything."""
        given = self.at.only(("pluginRef",), others=True)
        return given if given.fields() else None

    def __post_init__(self) -> None:
        if self.plugin_ref and self.thresholds:
            raise ValueError("pluginRef: is there beside thresholds, write them in the plugin's parameters")


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestHandler:
    """How request bodies are read."""

    parsers: tuple[Reference, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointPickerConfig:
    """A whole file."""

    api_version: str
    kind: str
    feature_gates: tuple[str, ...] = ()
    plugins: tuple[PluginEntry, ...] = ()
    scheduling_profiles: tuple[SchedulingProfile, ...] = ()
    request_handler: RequestHandler | None = None
    parser: Reference | None = None
    data_layer: DataLayer | None = None
    data: DataLayer | None = field(default=None, metadata={"deprecated": "write it as dataLayer"})
    """Its older name."""
    flow_control: Section | None = None
    """Queues in the picker: read with their feature gate only, as upstream."""
    saturation_detector: FormerDetector | None = field(
        default=None, metadata={"deprecated": "write it as flowControl.saturationDetector"}
    )
    """Its older place."""
    at: Here

    @property
    def layer(self) -> DataLayer:
        """What is read from where, under either name."""
        return self.data_layer or self.data or DataLayer()

    def has_gate(self, name: str) -> bool:
        """Whether a feature gate is switched on."""
        return any(
            gate == name or gate.lower() == f"{name.lower()}=true"
            for gate in (each.replace(" ", "") for each in self.feature_gates)
        )


def load(text: str, file: str) -> EndpointPickerConfig:
    """A configuration's text as what it says; ``file`` is its name in messages."""
    root = parse(text, file)
    given = root.fields()
    if given.keys() == {"endpoints"}:
        raise root.error("is a list of servers, not a configuration: give it as --endpoints-file")
    for name, values in (("apiVersion", API_VERSIONS), ("kind", (KIND,))):
        if name not in given:
            raise root.error(f'"{name}" is missing, write {name}: {values[0]}')
        value = read(given[name], str)
        if value not in values:
            expected = " or ".join(f'"{known}"' for known in values)
            raise given[name].error(f'expected {expected}, got "{value}"')
    config = read(root, EndpointPickerConfig)
    _refuse_unsupported(config)
    return config


def load_default() -> EndpointPickerConfig:
    """What is used without a file."""
    return load(DEFAULT_TEXT, DEFAULT_FILE)


def _refuse_unsupported(config: EndpointPickerConfig) -> None:
    gates = config.at.at("featureGates")
    for gate in config.feature_gates:
        name, _, value = gate.partition("=")
        if name not in GATES:
            raise gates.error(f'unknown feature gate "{name}"' + suggestion(name, GATES))
        if value.strip().lower() not in {"", "true", "false"} or gate.endswith("="):
            raise gates.error(f'expected "{name}", "{name}=true" or "{name}=false", got "{gate}"')
    if config.data_layer and config.data:
        raise config.at.at("data").error("is the older name of dataLayer, which is there as well: keep one")
    layer = config.layer
    if not (layer.inject_defaults or layer.sources):
        raise config.at.at("dataLayer", "injectDefaults").error(
            f"false without sources {NOT_SUPPORTED}: the endpoints' load is always read; leave it out"
        )
    for section in (
        layer.peer_discovery,
        layer.cross_replica_syncer_plugin_ref,
        layer.cross_replica_sync_interval,
    ):
        if section is not None:
            raise section.error(f"{NOT_SUPPORTED}, remove it")
