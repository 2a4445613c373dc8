"""Without flow control: a sheddable request is refused while the pool is saturated, all others pass.

Place:   stands before the scheduler where requests can have priorities and the feature gate is off.
Source:  upstream's legacy admission.
"""

from typing import Protocol

from epp.core.flow.policies import SaturationDetector
from epp.core.rejection import DROPPED_REASON_HEADER, Code, Rejection
from epp.core.request import Request
from epp.core.scheduling import Decision, Pool

SHED = Rejection(
    Code.RESOURCE_EXHAUSTED,
    "system saturated, sheddable request dropped",
    {DROPPED_REASON_HEADER: "rejected-saturated"},
)


class Chooser(Protocol):
    """The scheduler, as far as it is needed here."""

    def pick(self, request: Request, now: float) -> Decision | Rejection: ...


class Shedding:
    """A chooser that sheds."""

    __slots__ = ("_chooser", "_detector", "_pool")

    def __init__(self, chooser: Chooser, pool: Pool, detector: SaturationDetector) -> None:
        self._chooser, self._pool, self._detector = chooser, pool, detector

    def pick(self, request: Request, now: float) -> Decision | Rejection:
        """Where ``request`` goes, or why nowhere."""
        if request.priority < 0:
            self._pool.expire(now)
            serving = [each for each in self._pool.endpoints if each.lifecycle.is_serving]
            if self._detector.saturation(serving, now) >= 1.0:
                return SHED
        return self._chooser.pick(request, now)
