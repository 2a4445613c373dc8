"""``active-request-scorer``: the endpoint with the fewest of our own requests in flight first."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from epp.core.scoring import Cycle, Endpoint, Scores


@dataclass(frozen=True, slots=True, kw_only=True)
class ActiveRequestScorer:
    """Prefer endpoints that are working on fewer of the requests this picker sent.

    In:     n endpoints; ``requests_in_flight`` [requests], always known.
    Out:    1 up to ``idleThreshold``; above it (max - count) / max * ``maxBusyScore``, in [0, 1].
    Ties:   equal counts, equal score.
    Better: the choice and its booking are one step, so that requests at one time do not all go to one
            server.
    Source: upstream ``active-request-scorer``.
    """

    idle_threshold: int = 0
    """Requests in flight up to which an endpoint counts as idle."""
    max_busy_score: float = 1.0
    """The best score of an endpoint that is not idle, 0 to 1."""
    in_flight_load_producer_name: str = "inflight-load-producer"
    request_timeout: str = field(default="", metadata={"deprecated": "requests in flight end by themselves"})

    requires: ClassVar[Mapping[str, str]] = {"in_flight_load_producer_name": "inflight-load-producer"}

    def __post_init__(self) -> None:
        if self.idle_threshold < 0:
            raise ValueError(f"idleThreshold: must be at least 0, got {self.idle_threshold}")
        if not 0.0 <= self.max_busy_score <= 1.0:
            raise ValueError(f"maxBusyScore: must be from 0 to 1, got {self.max_busy_score:g}")

    def score(self, cycle: Cycle, endpoints: Sequence[Endpoint]) -> Scores:
        counts = [endpoint.requests_in_flight for endpoint in endpoints]
        idle, busy_score, most = self.idle_threshold, self.max_busy_score, max(counts, default=0)
        return [1.0 if count <= idle else (most - count) / most * busy_score for count in counts]
