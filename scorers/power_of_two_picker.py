"""``power-of-two-picker``: the less busy one of two taken at random."""

from collections.abc import Sequence
from dataclasses import dataclass

from epp.core.scoring import Cycle, Endpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerOfTwoPicker:
    """Pick one of two endpoints taken at random, the one with fewer requests in flight.

    In:     endpoints, at least one; ``requests_in_flight``; their totals do not matter.
    Out:    one endpoint.
    Ties:   the one taken first, which is any.
    Source: Mitzenmacher, The Power of Two Choices in Randomized Load Balancing (IEEE TPDS 2001).
    """

    def pick(
        self, cycle: Cycle, endpoints: Sequence[Endpoint], totals: Sequence[float]
    ) -> Sequence[Endpoint]:
        count = len(endpoints)
        first = int(cycle.chance.random() * count)
        if count == 1:
            return (endpoints[first],)
        second = (first + 1 + int(cycle.chance.random() * (count - 1))) % count
        one, other = endpoints[first], endpoints[second]
        return (other if other.requests_in_flight < one.requests_in_flight else one,)
