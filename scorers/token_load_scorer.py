"""``token-load-scorer``: the endpoint with the fewest prompt tokens still to work on first."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from epp.core.scoring import Cycle, Endpoint, Scores


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLoadScorer:
    """Prefer endpoints that would have less to work on if they got this request, too.

    In:     n endpoints; ``tokens_in_flight`` [tokens] of what this picker sent there; what this request would
            add, as the named producer estimates it [tokens].
    Out:    1 - min(load, t) / t with load = tokens in flight + the request's uncached tokens and
            t = ``queueThresholdTokens``, in [0, 1].
    Ties:   equal loads, equal score; nothing is scaled to the pool.
    Better: the choice and its booking are one step, so that requests at one time do not all go to one
            server.
    Source: upstream ``token-load-scorer``.
    """

    queue_threshold_tokens: int = 4_194_304
    """Tokens from which the score is 0; upstream counts 128 requests of 32,768."""
    in_flight_load_producer_name: str = "inflight-load-producer"

    requires: ClassVar[Mapping[str, str]] = {"in_flight_load_producer_name": "inflight-load-producer"}

    def __post_init__(self) -> None:
        if self.queue_threshold_tokens < 1:
            raise ValueError(f"queueThresholdTokens: must be at least 1, got {self.queue_threshold_tokens}")

    def score(self, cycle: Cycle, endpoints: Sequence[Endpoint]) -> Scores:
        most = self.queue_threshold_tokens
        added: Callable[[Cycle, Endpoint], int] | None = cycle.facts.get(self.in_flight_load_producer_name)
        return [
            1.0 - min(endpoint.tokens_in_flight + (added(cycle, endpoint) if added else 0), most) / most
            for endpoint in endpoints
        ]
