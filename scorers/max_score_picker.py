"""``max-score-picker``: the best total score wins."""

from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter

from epp.core.scoring import Cycle, Endpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class MaxScorePicker:
    """Pick the endpoints with the highest totals, best first.

    In:     endpoints, at least one, and their totals.
    Out:    up to ``maxNumOfEndpoints`` endpoints.
    Ties:   at random, each equally likely.
    Source: upstream ``max-score-picker`` (shuffle, then stable sort).
    """

    max_num_of_endpoints: int = 1
    """More than 1 answers a list, best first; a gateway has to be able to read one."""

    def __post_init__(self) -> None:
        if self.max_num_of_endpoints < 1:
            raise ValueError(f"maxNumOfEndpoints: must be at least 1, got {self.max_num_of_endpoints}")

    def pick(
        self, cycle: Cycle, endpoints: Sequence[Endpoint], totals: Sequence[float]
    ) -> Sequence[Endpoint]:
        if self.max_num_of_endpoints == 1:  # the same without sorting: one of the best, at random
            best = max(totals)
            if totals.count(best) == 1:
                return (endpoints[totals.index(best)],)
            ties = [endpoint for endpoint, total in zip(endpoints, totals, strict=True) if total == best]
            return (ties[int(cycle.chance.random() * len(ties))],)
        shuffled = list(zip(endpoints, totals, strict=True))
        cycle.chance.shuffle(shuffled)
        shuffled.sort(key=itemgetter(1), reverse=True)
        return [endpoint for endpoint, _ in shuffled[: self.max_num_of_endpoints]]
