"""``flowControl`` of an EndpointPickerConfig: queues, limits and policies.

Place:   asked by epp.config.picker_config; the section is read where the feature gate is on.
Ignores: how requests wait (epp.core.flow).
Source:  llm-d-router v0.10 and its main branch of August 2026.
"""

import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from epp.config.decode import Here, Section, read
from epp.config.picker_file import EndpointPickerConfig, FormerDetector, Reference
from epp.config.plugin_table import PluginTable
from epp.core.flow.policies import MAX_BYTES, MAX_REQUESTS, BandSettings, FlowSettings, SaturationDetector
from epp.core.scoring import Bytes, Kind, Seconds
from scorers.fcfs_ordering_policy import FcfsOrderingPolicy
from scorers.global_strict_fairness_policy import GlobalStrictFairnessPolicy
from scorers.priority_then_time_eviction_order_policy import PriorityThenTimeEvictionOrderPolicy
from scorers.sheddable_eviction_filter import SheddableEvictionFilter
from scorers.static_usage_limit_policy import StaticUsageLimitPolicy
from scorers.utilization_detector import UtilizationDetector

MAX_PRIORITY = 1 << 31
DEFAULT_TTL = 60.0


# --- the section ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """The queue of one priority, or the pattern of such queues. 0 and nothing are the default."""

    priority: int | None = None
    max_bytes: Bytes = 0
    max_requests: Bytes = 0
    fairness_policy_ref: str = ""
    ordering_policy_ref: str = ""
    at: Here

    def __post_init__(self) -> None:
        if self.priority is not None and not -MAX_PRIORITY <= self.priority < MAX_PRIORITY:
            raise ValueError(f"priority: must be a number of 32 bits, got {self.priority}")
        _check_limits(self.max_bytes, self.max_requests)


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowControlSection:
    """The whole section."""

    max_bytes: Bytes = 0
    max_requests: Bytes = 0
    default_request_ttl: Seconds | None = field(default=None, metadata={"yaml": "defaultRequestTTL"})
    no_endpoint_request_ttl: Seconds | None = field(default=None, metadata={"yaml": "noEndpointRequestTTL"})
    default_priority_band: Band | None = None
    default_negative_priority_band: Band | None = None
    priority_bands: tuple[Band, ...] = ()
    usage_limit_policy_plugin_ref: str = ""
    saturation_detector: Reference | None = None
    enable_eviction: bool = False
    at: Here

    def __post_init__(self) -> None:
        _check_limits(self.max_bytes, self.max_requests)
        for name, value in (
            ("defaultRequestTTL", self.default_request_ttl),
            ("noEndpointRequestTTL", self.no_endpoint_request_ttl),
        ):
            if value is not None and value < 0:
                raise ValueError(f"{name}: must not be negative, 0s is no limit")


def _check_limits(max_bytes: int, max_requests: int) -> None:
    for name, value in (("maxBytes", max_bytes), ("maxRequests", max_requests)):
        if value < 0:
            raise ValueError(f"{name}: must be at least 0, got {value}")


# --- what is made of it -----------------------------------------------------------------------------


class _Policy(NamedTuple):
    """What a policy is for, and the type that is meant where none is named."""

    kind: Kind
    default: type
    type_name: str


_DETECTOR = _Policy(Kind.DETECTOR, UtilizationDetector, "utilization-detector")
_USAGE_LIMIT = _Policy(Kind.USAGE_LIMIT, StaticUsageLimitPolicy, "static-usage-limit-policy")
_FAIRNESS = _Policy(Kind.FAIRNESS, GlobalStrictFairnessPolicy, "global-strict-fairness-policy")
_ORDERING = _Policy(Kind.ORDERING, FcfsOrderingPolicy, "fcfs-ordering-policy")
_EVICTION_FILTER = _Policy(Kind.EVICTION_FILTER, SheddableEvictionFilter, "sheddable-eviction-filter")
_EVICTION_ORDER = _Policy(
    Kind.EVICTION_ORDER, PriorityThenTimeEvictionOrderPolicy, "priority-then-time-eviction-order-policy"
)


def flow_of(
    table: PluginTable, config: EndpointPickerConfig
) -> tuple[FlowSettings | None, SaturationDetector]:
    """The queues, if there are any, and who says when the pool is full."""
    older = _older(table, config.saturation_detector)
    _, detector = _detector(table, older)
    section = config.flow_control
    if not config.has_gate("flowControl"):
        if section:
            table.warn(section, 'has no effect without the feature gate "flowControl"')
        return None, detector
    flow = _settings(table, read(section or table.at.empty("flowControl"), FlowControlSection), older)
    return flow, flow.detector


def _older(table: PluginTable, old: FormerDetector | None) -> Reference | None:
    """The detector that is named outside of the section; thresholds that are there make one."""
    if old is None:
        return None
    table.warn(old.at, "is deprecated: write it as flowControl.saturationDetector")
    if old.thresholds:
        if table.of_type(_DETECTOR.type_name):
            raise old.at.error("there is a utilization-detector in plugins, write the thresholds there")
        table.hand_on(_DETECTOR.type_name, old.thresholds)
        table.add(_DETECTOR.type_name).take()
    return Reference(plugin_ref=old.plugin_ref, at=old.at) if old.plugin_ref else None


def _settings(table: PluginTable, section: FlowControlSection, older: Reference | None) -> FlowSettings:
    """What the core works with."""
    detector_name, detector = _detector(table, section.saturation_detector or older)
    at = section.at.at("usageLimitPolicyPluginRef")
    usage_limit = _policy(table, _USAGE_LIMIT, section.usage_limit_policy_plugin_ref, at)
    pattern, negative = section.default_priority_band, section.default_negative_priority_band
    for band in (pattern, negative):
        if band is not None and band.priority is not None:
            table.warn(band.at.at("priority"), "has no effect here, the band is the pattern of others")
    ttl, alone = section.default_request_ttl, section.no_endpoint_request_ttl
    ttl = DEFAULT_TTL if ttl is None else ttl
    return FlowSettings(
        bands=_bands(table, section.priority_bands),
        default_band=_band(table, pattern or Band(at=section.at)),
        default_negative_band=_band(table, negative) if negative else None,
        detector=detector,
        detector_name=detector_name,
        usage_limit=usage_limit,
        max_requests=section.max_requests or math.inf,
        max_bytes=section.max_bytes or math.inf,
        ttl=ttl or math.inf,
        no_endpoint_ttl=(ttl if alone is None else alone) or math.inf,
        eviction=_eviction(table) if section.enable_eviction else None,
    )


def _bands(table: PluginTable, written: tuple[Band, ...]) -> dict[int, BandSettings]:
    bands: dict[int, BandSettings] = {}
    for band in written:
        if band.priority is None:
            raise band.at.error('"priority" is missing')
        if band.priority in bands:
            raise band.at.at("priority").error(f"there is a band of priority {band.priority} already")
        bands[band.priority] = _band(table, band)
    return bands


def _band(table: PluginTable, band: Band) -> BandSettings:
    fairness, ordering = band.fairness_policy_ref, band.ordering_policy_ref
    return BandSettings(
        max_requests=band.max_requests or MAX_REQUESTS,
        max_bytes=band.max_bytes or MAX_BYTES,
        fairness=_policy(table, _FAIRNESS, fairness, band.at.at("fairnessPolicyRef")),
        ordering=_policy(table, _ORDERING, ordering, band.at.at("orderingPolicyRef")),
    )


def _eviction(table: PluginTable) -> tuple[Any, Any]:
    return _policy(table, _EVICTION_FILTER), _policy(table, _EVICTION_ORDER)


def _detector(table: PluginTable, reference: Reference | None) -> tuple[str, SaturationDetector]:
    name, at = (reference.plugin_ref, reference.at) if reference else ("", None)
    return _named_policy(table, _DETECTOR, name, at)


def _policy(table: PluginTable, policy: _Policy, name: str = "", at: Section | None = None) -> Any:
    return _named_policy(table, policy, name, at)[1]


def _named_policy(table: PluginTable, policy: _Policy, name: str, at: Section | None) -> tuple[str, Any]:
    """The policy called ``name`` and its name; without a name the one of that type, or its default."""
    if at is not None and name and (name in table or name != policy.type_name):
        found = table.take(name, at, policy.kind)
        return found.name, found.made
    configured = table.of_type(policy.type_name)
    if not configured:
        return policy.type_name, policy.default()
    return configured[0].name, configured[0].take().made
