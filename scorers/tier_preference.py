"""``tier-preference``: own machines first, others only when those are full or dead."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from epp.core.scoring import Cycle, Endpoint, bad_request, has_room, no_endpoint

LOCAL = "local"
"""The header's only value: tier 0, whatever happens."""

OBJECTIVE_HEADERS = ("x-llm-d-inference-objective", "x-gateway-inference-objective")


@dataclass(frozen=True, slots=True, kw_only=True)
class TierPreference:
    """Keep the endpoints of the lowest tier in which somebody has room.

    In:     n endpoints; tier (``tier`` in the endpoints file, or the label ``fleet-epp.dev/tier``; else 0),
            phase, ``load`` and ``requests_in_flight``; the request header ``header``.
    Out:    all of that tier, in their order. An endpoint has room if it is in service, below its allowance
            and not saturated by any of the figures below; an unknown figure saturates nobody. Where nobody
            has room: all endpoints, of every tier.
    Local:  with ``x-fleet-epp-tier: local``, or of an objective that is listed, those of tier 0, room or
            not: the request never leaves them. Are there none, it is refused with 503; are they all dead,
            ``lifecycle-filter`` refuses it with 503.
            Any other value of the header is refused with 400: a mistyped one must not send a request away.
    """

    saturated_waiting: int = 5
    """Requests in the engine's queue from which it is saturated; upstream's ``queueDepthThreshold``."""
    saturated_kv_usage: float = 0.8
    """Fraction of the KV cache in use from which it is saturated, above 0 to 1; upstream's
    ``kvCacheUtilThreshold``."""
    saturated_slot_use: float = 1.0
    """Requests per slot from which it is saturated, where the engine tells its slots (llama.cpp): those in
    flight or those that it says are running, whichever are more. 1: no slot is free."""
    saturated_in_flight: int | None = None
    """Requests of ours in flight from which it is saturated, whatever the engine says; for engines that tell
    no load. None: no limit."""
    header: str = "x-fleet-epp-tier"
    """The request header, in lower case."""
    local_objectives: tuple[str, ...] = ()
    """Names of objectives (header ``x-llm-d-inference-objective``) whose requests are local ones, whatever
    they say of themselves."""

    before_lifecycle: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.saturated_waiting < 1:
            raise ValueError(f"saturatedWaiting: must be at least 1, got {self.saturated_waiting}")
        if not 0 < self.saturated_kv_usage <= 1:
            raise ValueError(
                f"saturatedKvUsage: must be above 0 and at most 1, got {self.saturated_kv_usage:g}"
            )
        if not 0 < self.saturated_slot_use <= 1000:
            raise ValueError(
                f"saturatedSlotUse: must be above 0 and at most 1000, got {self.saturated_slot_use:g}"
            )
        if self.saturated_in_flight is not None and self.saturated_in_flight < 1:
            raise ValueError(
                f"saturatedInFlight: must be at least 1 (none: no limit), got {self.saturated_in_flight}"
            )
        if not re.fullmatch(r"[a-z0-9-]+", self.header):
            raise ValueError(
                f'header: must be a header name in lower case such as x-fleet-epp-tier, got "{self.header}"'
            )

    def filter(self, cycle: Cycle, endpoints: Sequence[Endpoint]) -> Sequence[Endpoint]:
        if self._is_local(cycle):
            local = [endpoint for endpoint in endpoints if endpoint.spec.tier == 0]
            if endpoints and not local:
                raise no_endpoint("no endpoint is of tier 0, and the request may go to no other")
            return local
        tiers = [endpoint.spec.tier for endpoint in endpoints if self._has_room(endpoint)]
        if not tiers:
            return endpoints
        lowest = min(tiers)
        return [endpoint for endpoint in endpoints if endpoint.spec.tier == lowest]

    def _is_local(self, cycle: Cycle) -> bool:
        headers = cycle.request.headers
        wanted = headers.get(self.header)
        if wanted is not None and wanted.strip().lower() != LOCAL:
            raise bad_request(f'{self.header}: expected "{LOCAL}", got "{wanted[:40]}"')
        return wanted is not None or (
            bool(self.local_objectives)
            and any(headers.get(name) in self.local_objectives for name in OBJECTIVE_HEADERS)
        )

    def _has_room(self, endpoint: Endpoint) -> bool:
        return has_room(endpoint) and not self._is_saturated(endpoint)

    def _is_saturated(self, endpoint: Endpoint) -> bool:
        load, in_flight = endpoint.load, endpoint.requests_in_flight
        return (
            _reaches(load.waiting, self.saturated_waiting)
            or _reaches(load.kv_usage, self.saturated_kv_usage)
            or (load.slots and max(in_flight, load.running or 0) >= self.saturated_slot_use * load.slots)
            or _reaches(in_flight, self.saturated_in_flight)
        )


def _reaches(figure: float | None, limit: float | None) -> bool:
    return figure is not None and limit is not None and figure >= limit
