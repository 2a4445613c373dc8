"""``concurrency-detector``: how full the pool is, from what was sent there."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from epp.core.scoring import Cycle, Endpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class ConcurrencyDetector:
    """Call the pool full when it has so many requests of this picker, or tokens, in flight.

    In:   n endpoints in service; `requests_in_flight` [requests], `tokens_in_flight` [prompt tokens that
          are not processed yet], always known.
    Out:  `requests`: all requests in flight / (n * `maxConcurrency`). `tokens`: all tokens in flight / (n *
          `maxTokenConcurrency`). `hybrid`: the average over the endpoints of the greater of both. No
          endpoint: 1.
    Filter: in a scheduling profile it drops endpoints that have as much as they may have * (1 + `headroom`).
    Source: upstream ``concurrency-detector``.
    """

    max_concurrency: int = 100
    """Requests in flight at which a server is full."""
    max_token_concurrency: int = 1_000_000
    """Tokens in flight at which a server is full."""
    concurrency_mode: Literal["requests", "tokens", "hybrid"] = "requests"
    """What counts."""
    headroom: float = 0.0
    """How far above that an endpoint may still be chosen, as a fraction; for the filter."""

    lag: ClassVar[float] = 0.0

    def __post_init__(self) -> None:
        if self.max_concurrency < 1:
            raise ValueError(f"maxConcurrency: must be at least 1, got {self.max_concurrency}")
        if self.max_token_concurrency < 1:
            raise ValueError(f"maxTokenConcurrency: must be at least 1, got {self.max_token_concurrency}")
        if not 0 <= self.headroom <= 1000:
            raise ValueError(f"headroom: must be from 0 to 1000, got {self.headroom:g}")

    @property
    def counts_tokens(self) -> bool:
        """Somebody has to book them: the inflight-load-producer."""
        return self.concurrency_mode != "requests"

    def saturation(self, endpoints: Sequence[Endpoint], now: float) -> float:
        if not endpoints:
            return 1.0
        return sum(map(self._of, endpoints)) / len(endpoints)

    def filter(self, cycle: Cycle, endpoints: Sequence[Endpoint]) -> Sequence[Endpoint]:
        limit = 1 + self.headroom
        return [endpoint for endpoint in endpoints if self._of(endpoint) < limit]

    def _of(self, endpoint: Endpoint) -> float:
        requests = endpoint.requests_in_flight / self.max_concurrency
        if self.concurrency_mode == "requests":
            return requests
        tokens = endpoint.tokens_in_flight / self.max_token_concurrency
        return tokens if self.concurrency_mode == "tokens" else max(requests, tokens)
