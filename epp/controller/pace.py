"""When a step may be tried again that has failed, or that somebody undoes whenever it is done.

Place:   asked by loop.py before steps are carried out, and told what became of them.
Rule:    drift is repaired at once; whoever goes on undoing it is told of, and not fought. What is wanted anew
         is tried at once.
"""

import math
import random
from dataclasses import dataclass

from epp.controller.difference import Key, Step
from epp.controller.fields import Object

AT_ONCE = 3
"""Repairs of one object before they are spaced."""
FIRST, LONGEST = 0.5, 60.0
"""[s] Between tries: doubled with each."""
FORGOTTEN = 600.0
"""[s] After so long without a try an object counts as quiet."""


@dataclass(slots=True)
class _Trouble:
    wanted: Object | None
    tries: int = 0
    last: float = 0.0
    due: float = 0.0


class Pace:
    """Times are the caller's clock's [s]."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._troubles: dict[Key, _Trouble] = {}

    def due(self, step: Step) -> float:
        """From when on it may be tried."""
        known = self._troubles.get(step.key)
        return known.due if known is not None and known.wanted == step.wanted else 0.0

    def next(self, now: float) -> float:
        """When the next step is due that may not be tried now; infinity: there is none."""
        return min((one.due for one in self._troubles.values() if one.due > now), default=math.inf)

    def failed(self, step: Step, now: float) -> None:
        """It could not be done."""
        trouble = self._next(step, now)
        trouble.due = now + self._pause(trouble.tries)

    def repaired(self, step: Step, now: float) -> bool:
        """It was done before, and undone by somebody. Whether that goes on."""
        trouble = self._next(step, now)
        goes_on = trouble.tries >= AT_ONCE
        trouble.due = now + self._pause(trouble.tries - AT_ONCE + 1) if goes_on else 0.0
        return goes_on

    def done(self, step: Step) -> None:
        """For the first time."""
        self._troubles.pop(step.key, None)

    def _next(self, step: Step, now: float) -> _Trouble:
        known = self._troubles.get(step.key)
        if known is None or known.wanted != step.wanted or now - known.last > FORGOTTEN:
            known = self._troubles[step.key] = _Trouble(step.wanted)
        known.tries, known.last = known.tries + 1, now
        return known

    def _pause(self, tries: int) -> float:
        return min(LONGEST, FIRST * 2.0 ** min(tries, 16)) * self._chance.uniform(0.7, 1.0)
