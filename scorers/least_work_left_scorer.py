"""``least-work-left-scorer``: the endpoint with the least prefill work left, this prompt's included."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from epp.core.scoring import Cycle, Endpoint, Scores, cheapest_first


@dataclass(frozen=True, slots=True, kw_only=True)
class LeastWorkLeftScorer:
    """Prefer endpoints that would have the fewest prompt tokens to work on, then those with fewer requests.

    In:     n endpoints; ``tokens_in_flight`` [tokens] and ``requests_in_flight`` of what this picker sent
            there; what this request would add, as the named producer estimates it [tokens].
    Out:    by rank of (tokens in flight + uncached tokens of this prompt, requests in flight), 1 for the
            lowest and 0 for the highest.
            None everywhere when the producer found nothing out.
    Ties:   equal in both, equal score.
    Source: least prefill work left, the prototype ``agentic-kvc``.
    """

    in_flight_load_producer_name: str = "inflight-load-producer"

    requires: ClassVar[Mapping[str, str]] = {"in_flight_load_producer_name": "inflight-load-producer"}

    def score(self, cycle: Cycle, endpoints: Sequence[Endpoint]) -> Scores:
        added: Callable[[Cycle, Endpoint], int] | None = cycle.facts.get(self.in_flight_load_producer_name)
        if added is None:
            return [None] * len(endpoints)
        return cheapest_first(
            [(each.tokens_in_flight + added(cycle, each), each.requests_in_flight) for each in endpoints]
        )
