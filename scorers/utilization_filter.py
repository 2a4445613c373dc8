"""``utilization-filter``: no endpoints whose figures are above given limits."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from epp.core.scoring import Cycle, Endpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """One limit."""

    metric: Literal["active-requests", "running-requests", "waiting-queue", "kv-cache-utilization"]
    """The figure: our own requests in flight [requests], requests that the engine works on [requests], or
    that wait in it [requests], or the fraction of its KV cache that is in use."""
    max_value: float
    """The most that an endpoint may have and be kept, at least 0; a fraction at most 1."""

    def __post_init__(self) -> None:
        if self.max_value < 0:
            raise ValueError(f"maxValue: must be at least 0, got {self.max_value:g}")
        if self.metric == "kv-cache-utilization" and self.max_value > 1:
            raise ValueError(f"maxValue: of kv-cache-utilization, must be at most 1, got {self.max_value:g}")

    def holds(self, endpoint: Endpoint) -> bool:
        """Whether the endpoint is within the limit; one that does not tell is."""
        found = self._read(endpoint)
        return found is None or found <= self.max_value

    def _read(self, endpoint: Endpoint) -> float | None:
        match self.metric:
            case "active-requests":
                return endpoint.requests_in_flight
            case "running-requests":
                return endpoint.load.running
            case "waiting-queue":
                return endpoint.load.waiting
            case "kv-cache-utilization":
                return endpoint.load.kv_usage


@dataclass(frozen=True, slots=True, kw_only=True)
class UtilizationFilter:
    """Drop endpoints that are above any of several limits.

    In:     n endpoints; ``requests_in_flight`` and ``load``.
    Out:    those that are within every one of ``conditions``, in their order; a figure that is unknown or too
            old is within any limit. Where nobody is: nobody, or with ``fallbackOnEmpty`` all.
    Source: upstream ``utilization-filter``.
    """

    conditions: tuple[Condition, ...]
    """The limits, at least one."""
    fallback_on_empty: bool = False
    """Where nobody is within the limits, keep all instead of refusing the request (429)."""
    in_flight_load_producer_name: str = "inflight-load-producer"

    is_experimental: ClassVar[bool] = True
    requires: ClassVar[Mapping[str, str]] = {"in_flight_load_producer_name": "inflight-load-producer"}

    def __post_init__(self) -> None:
        if not self.conditions:
            raise ValueError("conditions: give at least one, such as {metric: waiting-queue, maxValue: 5}")

    def filter(self, cycle: Cycle, endpoints: Sequence[Endpoint]) -> Sequence[Endpoint]:
        kept = [each for each in endpoints if all(limit.holds(each) for limit in self.conditions)]
        return kept or (endpoints if self.fallback_on_empty else kept)
