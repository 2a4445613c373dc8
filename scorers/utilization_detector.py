"""``utilization-detector``: how full the pool is, from what its servers say."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

from epp.core.scoring import Cycle, Endpoint, Seconds, is_stale


class _Then(NamedTuple):
    """What was in flight when a reading was first seen."""

    read_at: float | None
    requests: int


_NEVER = _Then(None, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class UtilizationDetector:
    """Call the pool full when its servers have queues or full caches, on average. The default.

    In:   n endpoints in service; `load.waiting` [requests], `load.kv_usage` [fraction], and the requests in
          flight that came after that reading.
    Out:  the average of max(waiting / `queueDepthThreshold`, kv_usage / `kvCacheUtilThreshold`); of a
          figure that is unknown the other alone counts. No reading, or one that is too old: 1. An engine that
          tells neither figure is left out; if all are, 0: such a pool needs the `concurrency-detector`. No
          endpoint: 1.
    Since: only the next reading shows what was sent meanwhile. Until then a request in flight that came after
           the last one counts as waiting where others wait; where nobody does, the server is full when its
           requests have doubled (or are 2 * `queueDepthThreshold` more).
    Filter: in a scheduling profile it drops endpoints that have no reading or too old a one, or are at a
            threshold * (1 + `headroom`) or above; all of them stay if none would be left.
    Age: where `metricsStalenessThreshold` is written, readings that are older do not count here, and servers
         at rest are read so often that theirs do.
    Better: requests that were sent after a reading count until the next one; without
            `metricsStalenessThreshold` a reading counts for `--metrics-staleness-threshold` and not for
            200ms: servers at rest are read once a second.
    Source: upstream ``utilization-detector``, which lets one request a millisecond pass between two readings.
    """

    queue_depth_threshold: int = 5
    """Waiting requests at which a server is full."""
    kv_cache_util_threshold: float = 0.8
    """Fraction of the KV cache in use at which a server is full."""
    headroom: float = 0.0
    """How far above the thresholds an endpoint may still be chosen, as a fraction; for the filter."""
    metrics_staleness_threshold: Seconds | None = None
    """The age up to which a reading counts; not more than ``--metrics-staleness-threshold``, which is the
    default."""

    last: object = field(init=False, repr=False, compare=False, default_factory=object)

    lag: ClassVar[float] = 0.5

    def __post_init__(self) -> None:
        if self.queue_depth_threshold < 1:
            raise ValueError(f"queueDepthThreshold: must be at least 1, got {self.queue_depth_threshold}")
        if not 0 < self.kv_cache_util_threshold <= 1:
            raise ValueError(
                f"kvCacheUtilThreshold: must be above 0 and at most 1, got {self.kv_cache_util_threshold:g}"
            )
        if not 0 <= self.headroom <= 1000:
            raise ValueError(f"headroom: must be from 0 to 1000, got {self.headroom:g}")
        age = self.metrics_staleness_threshold
        if age is not None and age <= 0:
            raise ValueError(f"metricsStalenessThreshold: must be above 0s, got {age:g}s")

    @property
    def from_readings(self) -> bool:
        """Where a reading grows too old, what the filter says follows from the time as well."""
        return self.metrics_staleness_threshold is None

    def saturation(self, endpoints: Sequence[Endpoint], now: float) -> float:
        if not endpoints:
            return 1.0
        since = self._since(now)
        known = [each for each in (self._of(endpoint, since) for endpoint in endpoints) if each is not None]
        return sum(known) / len(known) if known else 0.0

    def stale(self, endpoints: Sequence[Endpoint], now: float) -> int:
        """How many of them should have a reading and have none, or too old a one."""
        since = self._since(now)
        return sum(is_stale(endpoint, since) for endpoint in endpoints)

    def filter(self, cycle: Cycle, endpoints: Sequence[Endpoint]) -> Sequence[Endpoint]:
        since, scale = self._since(cycle.now), 1 + self.headroom
        most_waiting, most_kv = self.queue_depth_threshold * scale, self.kv_cache_util_threshold * scale
        kept = [
            endpoint
            for endpoint in endpoints
            if not is_stale(endpoint, since)
            and (endpoint.load.waiting or 0) < most_waiting
            and (endpoint.load.kv_usage or 0.0) < most_kv
        ]
        return kept or endpoints

    def _since(self, now: float) -> float:
        """When the oldest reading that counts may have been taken."""
        age = self.metrics_staleness_threshold
        return -math.inf if age is None else now - age

    def _of(self, endpoint: Endpoint, since: float) -> float | None:
        if is_stale(endpoint, since):
            return 1.0
        load = endpoint.load
        waiting, kv_usage = load.waiting, load.kv_usage
        if waiting is None and kv_usage is None:
            return None
        in_flight = endpoint.requests_in_flight
        seen: _Then = endpoint.memory.get(self.last, _NEVER)
        if seen.read_at != endpoint.load_at:
            seen = endpoint.memory[self.last] = _Then(endpoint.load_at, in_flight)
        new = max(in_flight - seen.requests, 0)
        threshold = self.queue_depth_threshold
        queue = (waiting + new) / threshold if waiting else new / max(2 * threshold, seen.requests)
        return max(queue, kv_usage / self.kv_cache_util_threshold) if kv_usage is not None else queue
