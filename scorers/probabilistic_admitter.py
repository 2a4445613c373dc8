"""``probabilistic-admitter``: sheddable requests are turned away the more often the fuller the pool is."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from epp.core.scoring import Cycle, Endpoint, is_stale


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbabilisticAdmitter:
    """Turn requests of a negative priority away by chance, the more of them the fuller the pool is.

    In:     n endpoints in service; ``load.waiting`` [requests], ``load.kv_usage`` [fraction].
    Out:    refused with probability min(saturation**``power`` * ``k``, 1), where saturation is the average of
            max(waiting / ``queueDepthThreshold``, kv_usage / ``kvCacheUtilThreshold``). With the defaults
            none below about 0.1, 2.3 % at 0.15, 72.9 % at 0.3, all from (1 / 300)**(1 / 5) = 0.32 on. The
            client gets 429. Requests of priority 0 and above always go on, as do all where nobody is in
            service.
    Unknown: of a figure that is not known the other alone counts; an endpoint without a reading is full; one
            whose engine tells neither figure is left out, and if all are, every request goes on.
    Better: the client gets 429, not 500; dead endpoints and figures that nobody tells do not count.
    Source: upstream ``probabilistic-admitter``, whose clients get 500.
    """

    queue_depth_threshold: int = 5
    """Waiting requests at which a server is full."""
    kv_cache_util_threshold: float = 0.8
    """Fraction of the KV cache in use at which a server is full."""
    power: float = 5.0
    """How steep it gets: with more, less is refused at first."""
    k: float = 300.0
    """How soon all is refused: from a saturation of (1 / ``k``)**(1 / ``power``) on."""

    def __post_init__(self) -> None:
        for name, value in (
            ("queueDepthThreshold", self.queue_depth_threshold),
            ("kvCacheUtilThreshold", self.kv_cache_util_threshold),
            ("power", self.power),
            ("k", self.k),
        ):
            if value <= 0:
                raise ValueError(f"{name}: must be above 0, got {value:g}")

    def refusal(self, cycle: Cycle, endpoints: Sequence[Endpoint]) -> str:
        if cycle.request.priority >= 0:
            return ""
        fullness = [each for each in map(self._fullness, endpoints) if each is not None]
        if not fullness:
            return ""
        saturation = sum(fullness) / len(fullness)
        probability = self._probability(saturation)
        if not probability or (probability < 1.0 and cycle.chance.random() >= probability):
            return ""
        return f"sheddable requests are turned away, the pool's saturation is {saturation:.2f}"

    def _probability(self, saturation: float) -> float:
        if saturation <= 0.0:
            return 0.0
        # by logarithms, as the power alone may not fit into a float
        exponent = self.power * math.log(saturation) + math.log(self.k)
        return math.exp(exponent) if exponent < 0.0 else 1.0

    def _fullness(self, endpoint: Endpoint) -> float | None:
        load = endpoint.load
        if not endpoint.lifecycle.is_serving:
            return None
        if is_stale(endpoint):
            return 1.0
        parts = []
        if load.waiting is not None:
            parts.append(load.waiting / self.queue_depth_threshold)
        if load.kv_usage is not None:
            parts.append(load.kv_usage / self.kv_cache_util_threshold)
        return max(parts, default=None)
