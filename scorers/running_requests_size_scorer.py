"""``running-requests-size-scorer``: the fewest running requests first."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from epp.core.scoring import Cycle, Endpoint, Scores, fewest_first


@dataclass(frozen=True, slots=True)
class RunningRequestsSizeScorer:
    """Prefer endpoints that work on fewer requests.

    In:     n endpoints; ``load.running`` [requests], None when unknown or too old.
    Out:    (max - running) / (max - min) over the known ones, in [0, 1]; None where unknown.
    Ties:   all equal score 1.0 everywhere.
    Better: a figure that is not known is not taken for 0, so that a server whose metrics fail does not
            win.
    Source: upstream ``running-requests-size-scorer``.
    """

    from_readings: ClassVar[bool] = True

    def score(self, cycle: Cycle, endpoints: Sequence[Endpoint]) -> Scores:
        return fewest_first([endpoint.load.running for endpoint in endpoints])
