"""``lmetric-scorer``: the least of prefill work times batch."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from epp.core.scoring import Cycle, Endpoint, Scores, cheapest_first


@dataclass(frozen=True, slots=True, kw_only=True)
class LmetricScorer:
    """Prefer the lowest product of the prompt tokens to be worked on and the requests that wait for them.

    In:     n endpoints; ``tokens_in_flight`` [tokens] and ``requests_in_flight`` of what this picker sent
            there; what this request would add, as the named producer estimates it [tokens].
    Out:    by rank of (tokens in flight + uncached tokens of this prompt) * (requests in flight + 1), 1 for
            the lowest and 0 for the highest.
            None everywhere when the producer found nothing out.
    Ties:   equal products, equal score; all equal 1.
    Lacks:  the filter of hot prefixes, and batches of other pickers: requests are this picker's own.
    Source: LMetric (OSDI 2026, arXiv 2603.15202), Ptok * BS.
    """

    in_flight_load_producer_name: str = "inflight-load-producer"

    requires: ClassVar[Mapping[str, str]] = {"in_flight_load_producer_name": "inflight-load-producer"}

    def score(self, cycle: Cycle, endpoints: Sequence[Endpoint]) -> Scores:
        added: Callable[[Cycle, Endpoint], int] | None = cycle.facts.get(self.in_flight_load_producer_name)
        if added is None:
            return [None] * len(endpoints)
        return cheapest_first(
            [
                (each.tokens_in_flight + added(cycle, each)) * (each.requests_in_flight + 1)
                for each in endpoints
            ]
        )
