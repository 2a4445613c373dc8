"""``weighted-random-picker``: endpoints at random, in proportion to their total scores."""

from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter

from epp.core.scoring import Chance, Cycle, Endpoint

_LEAST = 1e-10
"""Stands for a random 0, which would make a positive score count as none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightedRandomPicker:
    """Pick endpoints at random, twice the score twice as often.

    In:     endpoints, at least one, and their totals.
    Out:    up to ``maxNumOfEndpoints`` endpoints by descending key U**(1/total), U uniform in (0, 1);
            a total of 0 or less has key 0. When no total is above 0, all are equally likely.
    Source: upstream ``weighted-random-picker`` (A-Res sampling, Efraimidis and Spirakis).
    """

    max_num_of_endpoints: int = 1
    """More than 1 answers a list, best first; a gateway has to be able to read one."""

    def __post_init__(self) -> None:
        if self.max_num_of_endpoints < 1:
            raise ValueError(f"maxNumOfEndpoints: must be at least 1, got {self.max_num_of_endpoints}")

    def pick(
        self, cycle: Cycle, endpoints: Sequence[Endpoint], totals: Sequence[float]
    ) -> Sequence[Endpoint]:
        if all(total <= 0 for total in totals):
            shuffled = list(endpoints)
            cycle.chance.shuffle(shuffled)
            return shuffled[: self.max_num_of_endpoints]
        keyed = [
            (_draw(cycle.chance, total), endpoint) for endpoint, total in zip(endpoints, totals, strict=True)
        ]
        keyed.sort(key=itemgetter(0), reverse=True)
        return [endpoint for _, endpoint in keyed[: self.max_num_of_endpoints]]


def _draw(chance: Chance, total: float) -> float:
    return (chance.random() or _LEAST) ** (1.0 / total) if total > 0 else 0.0
