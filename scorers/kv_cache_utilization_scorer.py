"""``kv-cache-utilization-scorer``: the emptiest KV cache first."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from epp.core.scoring import Cycle, Endpoint, Scores


@dataclass(frozen=True, slots=True)
class KvCacheUtilizationScorer:
    """Prefer endpoints with more free KV cache.

    In:     n endpoints; ``load.kv_usage`` [fraction in use], None when unknown or too old.
    Out:    1 - kv_usage, in [0, 1]; None where unknown.
    Ties:   equal usage, equal score; nothing is scaled to the pool.
    Better: a figure that is not known is not taken for 0, so that a server whose metrics fail does not
            win.
    Source: upstream ``kv-cache-utilization-scorer``.
    """

    from_readings: ClassVar[bool] = True

    def score(self, cycle: Cycle, endpoints: Sequence[Endpoint]) -> Scores:
        return [None if (used := endpoint.load.kv_usage) is None else 1.0 - used for endpoint in endpoints]
