"""``no-hit-lru-scorer``: prompts that nobody has cached go round, so that all caches grow alike."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from epp.core.scoring import Cycle, Endpoint, PrefixMatch, Scores

_UNUSED = {"deprecated": "never had an effect"}


@dataclass(frozen=True, slots=True, kw_only=True)
class NoHitLruScorer:
    """Prefer endpoints that had no cold request for longest; a request is cold if nobody holds its prefix.

    In:     n endpoints; the PrefixMatch of the named producer; who got cold requests before.
    Out:    where anybody holds a block of the prompt, 0.5 for all; else 1 - rank / (n - 1), in [0, 1]: first
            those that never had a cold request, in their order, then those that had one, the one whose last
            is longest ago first. One endpoint alone: 1.
    Ties:   none; every rank is there once.
    Source: upstream ``no-hit-lru-scorer``. There the ranks of all endpoints count, here those of the
            candidates, which is the same while nobody is filtered out.
    """

    lru_size: int = 1024
    """Endpoints whose last cold request is remembered."""
    prefix_match_info_producer_name: str = "approx-prefix-cache-producer"
    prefix_plugin_type: str = field(default="", metadata=_UNUSED)
    prefix_plugin_name: str = field(default="", metadata=_UNUSED)
    last_cold: dict[Endpoint, None] = field(init=False, repr=False, compare=False, default_factory=dict)

    requires: ClassVar[Mapping[str, str]] = {
        "prefix_match_info_producer_name": "approx-prefix-cache-producer",
    }

    def __post_init__(self) -> None:
        if self.lru_size < 1:
            raise ValueError(f"lruSize: must be at least 1, got {self.lru_size}")

    def score(self, cycle: Cycle, endpoints: Sequence[Endpoint]) -> Scores:
        if not self._is_cold(cycle):
            return [0.5] * len(endpoints)
        last = len(endpoints) - 1
        if last < 1:
            return [1.0] * len(endpoints)
        ranks = {endpoint: rank for rank, endpoint in enumerate(self._in_turn(endpoints))}
        return [1.0 - ranks[endpoint] / last for endpoint in endpoints]

    def sent(self, cycle: Cycle, primary: str) -> Mapping[str, str]:
        """A cold request counts for every endpoint that works on its prompt."""
        if self._is_cold(cycle):
            for endpoint in dict.fromkeys(picked[0] for picked in cycle.picks.values() if picked):
                self.last_cold.pop(endpoint, None)
                self.last_cold[endpoint] = None
            while len(self.last_cold) > self.lru_size:
                del self.last_cold[next(iter(self.last_cold))]
        return {}

    def _in_turn(self, endpoints: Sequence[Endpoint]) -> Sequence[Endpoint]:
        among = set(endpoints)
        used = [endpoint for endpoint in self.last_cold if endpoint in among]
        return [*(endpoint for endpoint in endpoints if endpoint not in self.last_cold), *used]

    def _is_cold(self, cycle: Cycle) -> bool:
        match: PrefixMatch | Any = cycle.facts.get(self.prefix_match_info_producer_name)
        return match is None or not any(match.blocks.values())
