"""``max-score-picker``: the best total score wins."""

from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter

from epp.core.scoring import Cycle, Endpoint

_total = itemgetter(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class MaxScorePicker:
    """Pick the endpoints with the highest totals, best first.

    In:     (endpoint, total) pairs, at least one.
    Out:    up to ``maxNumOfEndpoints`` endpoints.
    Ties:   at random, each equally likely.
    Source: upstream ``max-score-picker`` (shuffle, then stable sort).
    """

    max_num_of_endpoints: int = 1
    """More than 1 answers a list, best first; a gateway has to be able to read one."""

    def __post_init__(self) -> None:
        if self.max_num_of_endpoints < 1:
            raise ValueError(f"maxNumOfEndpoints: must be at least 1, got {self.max_num_of_endpoints}")

    def pick(self, cycle: Cycle, scored: Sequence[tuple[Endpoint, float]]) -> Sequence[Endpoint]:
        if self.max_num_of_endpoints == 1:  # the same without sorting: one of the best, at random
            best = max(scored, key=_total)[1]
            ties = [endpoint for endpoint, total in scored if total == best]
            return ties if len(ties) == 1 else (ties[int(cycle.chance.random() * len(ties))],)
        shuffled = list(scored)
        cycle.chance.shuffle(shuffled)
        shuffled.sort(key=_total, reverse=True)
        return [endpoint for endpoint, _ in shuffled[: self.max_num_of_endpoints]]
