"""Without flow control: a sheddable request is refused while the pool is saturated, all others pass.

Place:   stands before the scheduler where requests can have priorities and the feature gate is off.
Source:  upstream's legacy admission.
"""

from typing import Protocol

from epp.core.fleet import Fleet
from epp.core.flow.objectives import Objectives
from epp.core.flow.policies import SaturationDetector
from epp.core.rejection import DROPPED_REASON_HEADER, Code, Rejection
from epp.core.request import Request
from epp.core.scheduling import Decision

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

    __slots__ = ("_chooser", "_detector", "_fleet", "_objectives")

    def __init__(
        self, chooser: Chooser, fleet: Fleet, detector: SaturationDetector, objectives: Objectives
    ) -> None:
        self._chooser, self._fleet, self._detector, self._objectives = chooser, fleet, detector, objectives

    def pick(self, request: Request, now: float) -> Decision | Rejection:
        """Where ``request`` goes, or why nowhere."""
        if self._objectives.priority(request.headers) < 0:
            self._fleet.expire(now)
            serving = [each for each in self._fleet.endpoints if each.lifecycle.is_serving]
            if self._detector.saturation(serving, now) >= 1.0:
                return SHED
        return self._chooser.pick(request, now)
