"""``load-aware-scorer``: an endpoint without a queue first, then by its queue's share of a threshold."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from epp.core.scoring import Cycle, Endpoint, Scores

NO_QUEUE = 0.5
"""The best score there is: the other half is left to those who know of caches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadAwareScorer:
    """Prefer endpoints whose queue is short, measured by a threshold and not by the others.

    In:     n endpoints; ``load.waiting`` [requests], None when unknown or too old.
    Out:    0.5 * (1 - min(waiting, t) / t) with t = ``threshold``, in [0, 0.5]: an empty queue 0.5, one of
            t requests or more 0; None where unknown.
    Ties:   equal queues, equal score; nothing is scaled to the pool.
    Better: a figure that is not known is not taken for 0, so that a server whose metrics fail does not
            win.
    Source: upstream ``load-aware-scorer``.
    """

    threshold: int = 128
    """Waiting requests from which the score is 0."""

    from_readings: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.threshold < 1:
            raise ValueError(f"threshold: must be at least 1, got {self.threshold}")

    def score(self, cycle: Cycle, endpoints: Sequence[Endpoint]) -> Scores:
        most = self.threshold
        return [
            None if waiting is None else NO_QUEUE * (1.0 - min(waiting, most) / most)
            for waiting in [endpoint.load.waiting for endpoint in endpoints]
        ]
