"""``flowControl`` of an EndpointPickerConfig: queues, limits and policies.

Place:   read by epp.config.picker_config where the feature gate is on.
Ignores: how plugins are made (callers pass a function that finds them).
Source:  llm-d-router v0.10 and its main branch of August 2026.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from epp.config.decode import Here, Section
from epp.core.flow.policies import MAX_BYTES, MAX_REQUESTS, BandSettings, FlowSettings
from epp.core.scoring import Bytes, Kind, Seconds
from scorers.fcfs_ordering_policy import FcfsOrderingPolicy
from scorers.global_strict_fairness_policy import GlobalStrictFairnessPolicy
from scorers.priority_then_time_eviction_order_policy import PriorityThenTimeEvictionOrderPolicy
from scorers.sheddable_eviction_filter import SheddableEvictionFilter
from scorers.static_usage_limit_policy import StaticUsageLimitPolicy
from scorers.utilization_detector import UtilizationDetector

MAX_PRIORITY = 1 << 31
DEFAULT_TTL = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectorReference:
    """The name of a saturation detector."""

    plugin_ref: str
    at: Here


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
    saturation_detector: DetectorReference | None = None
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


class Find(Protocol):
    """The policy called ``name`` with its name; without a name the one of that type, else ``default``."""

    def __call__(
        self, kind: Kind, default: type, type_name: str, name: str, at: Section | None
    ) -> tuple[str, Any]: ...


def settings_of(
    section: FlowControlSection,
    find: Find,
    warn: Callable[[Section, str], None],
    older: DetectorReference | None = None,
) -> FlowSettings:
    """What the core works with. ``older``: the detector, where the file names it outside of the section."""
    reference = section.saturation_detector or older
    name, at = (reference.plugin_ref, reference.at) if reference else ("", None)
    detector_name, detector = find(Kind.DETECTOR, UtilizationDetector, "utilization-detector", name, at)
    wanted = section.usage_limit_policy_plugin_ref
    at = section.at.at("usageLimitPolicyPluginRef")
    _, limit = find(Kind.USAGE_LIMIT, StaticUsageLimitPolicy, "static-usage-limit-policy", wanted, at)
    ttl, alone = section.default_request_ttl, section.no_endpoint_request_ttl
    ttl = DEFAULT_TTL if ttl is None else ttl
    pattern, negative = section.default_priority_band, section.default_negative_priority_band
    for band in (pattern, negative):
        if band is not None and band.priority is not None:
            warn(band.at.at("priority"), "has no effect here, the band is the pattern of others")
    bands: dict[int, BandSettings] = {}
    for band in section.priority_bands:
        if band.priority is None:
            raise band.at.error('"priority" is missing')
        if band.priority in bands:
            raise band.at.at("priority").error(f"there is a band of priority {band.priority} already")
        bands[band.priority] = _band(band, find)
    return FlowSettings(
        bands=bands,
        default_band=_band(pattern, find),
        default_negative_band=_band(negative, find) if negative else None,
        detector=detector,
        detector_name=detector_name,
        usage_limit=limit,
        max_requests=section.max_requests or math.inf,
        max_bytes=section.max_bytes or math.inf,
        ttl=ttl or math.inf,
        no_endpoint_ttl=(ttl if alone is None else alone) or math.inf,
        eviction=_eviction(find) if section.enable_eviction else None,
    )


def _band(band: Band | None, find: Find) -> BandSettings:
    fairness, ordering, at = "", "", None
    if band is not None:
        fairness, ordering, at = band.fairness_policy_ref, band.ordering_policy_ref, band.at
    named = at and at.at("fairnessPolicyRef")
    kinds = (Kind.FAIRNESS, GlobalStrictFairnessPolicy, "global-strict-fairness-policy")
    _, fairness_policy = find(*kinds, fairness, named)
    named = at and at.at("orderingPolicyRef")
    _, ordering_policy = find(Kind.ORDERING, FcfsOrderingPolicy, "fcfs-ordering-policy", ordering, named)
    return BandSettings(
        max_requests=(band and band.max_requests) or MAX_REQUESTS,
        max_bytes=(band and band.max_bytes) or MAX_BYTES,
        fairness=fairness_policy,
        ordering=ordering_policy,
    )


def _eviction(find: Find) -> tuple[Any, Any]:
    name = "priority-then-time-eviction-order-policy"
    _, chosen_by = find(Kind.EVICTION_FILTER, SheddableEvictionFilter, "sheddable-eviction-filter", "", None)
    _, order = find(Kind.EVICTION_ORDER, PriorityThenTimeEvictionOrderPolicy, name, "", None)
    return chosen_by, order
