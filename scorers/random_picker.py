"""``random-picker``: any endpoint, whatever its score."""

from collections.abc import Sequence
from dataclasses import dataclass

from epp.core.scoring import Cycle, Endpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomPicker:
    """Pick endpoints at random.

    In:     endpoints, at least one; their totals do not matter.
    Out:    up to ``maxNumOfEndpoints`` endpoints in random order.
    Source: upstream ``random-picker``.
    """

    max_num_of_endpoints: int = 1
    """More than 1 answers a list, best first; a gateway has to be able to read one."""

    def __post_init__(self) -> None:
        if self.max_num_of_endpoints < 1:
            raise ValueError(f"maxNumOfEndpoints: must be at least 1, got {self.max_num_of_endpoints}")

    def pick(
        self, cycle: Cycle, endpoints: Sequence[Endpoint], totals: Sequence[float]
    ) -> Sequence[Endpoint]:
        if self.max_num_of_endpoints == 1:
            return (endpoints[int(cycle.chance.random() * len(endpoints))],)
        shuffled = list(endpoints)
        cycle.chance.shuffle(shuffled)
        return shuffled[: self.max_num_of_endpoints]
