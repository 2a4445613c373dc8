"""``queue-scorer``: the shortest queue first."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from epp.core.scoring import Cycle, Endpoint, Scores, fewest_first


@dataclass(frozen=True, slots=True)
class QueueScorer:
    """Prefer endpoints with fewer waiting requests.

    In:     n endpoints; ``load.waiting`` [requests], None when unknown or too old.
    Out:    (max - waiting) / (max - min) over the known ones, in [0, 1]; None where unknown.
    Ties:   all queues equal score 1.0 everywhere.
    Better: a figure that is not known is not taken for 0, so that a server whose metrics fail does not
            win.
    Source: upstream ``queue-scorer``.
    """

    from_readings: ClassVar[bool] = True

    def score(self, cycle: Cycle, endpoints: Sequence[Endpoint]) -> Scores:
        return fewest_first([endpoint.load.waiting for endpoint in endpoints])
