"""When a step may be tried again that has failed, or that somebody undoes whenever it is done.

Place:   asked by loop.py before steps are carried out, and told what became of them.
Rule:    drift is repaired at once; whoever goes on undoing it is told of, and not fought. What is wanted anew
         is tried at once. What waits longest is due together, so that a thousand of them are no thousand
         rounds.
"""

import math
import random
from collections.abc import Container
from dataclasses import dataclass

from epp.controller.carrying import Ended, Fate
from epp.controller.difference import Key, Step
from epp.controller.fields import Object

AT_ONCE = 3
"""Repairs of one object before they are spaced."""
FIRST, LONGEST = 0.5, 60.0
"""[s] Between tries: doubled with each."""
TICK, PART = 1.0, 0.25
"""[s] When something can be due: whole seconds, and whole quarters of longer pauses."""
FORGOTTEN = 600.0
"""[s] After so long without a try an object counts as quiet."""


@dataclass(slots=True)
class _Trouble:
    wanted: Object | None
    tries: int = 0
    last: float = 0.0
    due: float = 0.0
    fate: Fate = Fate.SKIPPED
    why: str = ""
    fix: str = ""


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
        """When the next step is due that could not be tried at that time; infinity: there is none."""
        return min((one.due for one in self._troubles.values() if one.due > now), default=math.inf)

    def held(self, step: Step) -> Ended:
        """What became of one that may not be tried yet when it was tried last."""
        trouble = self._troubles[step.key]
        return Ended(step, trouble.fate, trouble.why, fix=trouble.fix)

    def failed(self, step: Step, now: float, why: str = "", fate: Fate = Fate.FAILED, fix: str = "") -> None:
        """It could not be done."""
        trouble = self._next(step, now)
        trouble.due = self._due(now, trouble.tries)
        trouble.fate, trouble.why, trouble.fix = fate, why, fix

    def repaired(self, step: Step, now: float) -> bool:
        """It was done before, and undone by somebody. Whether that goes on."""
        trouble = self._next(step, now)
        goes_on = trouble.tries >= AT_ONCE
        trouble.due = self._due(now, trouble.tries - AT_ONCE + 1) if goes_on else 0.0
        trouble.fate, trouble.why = Fate.SKIPPED, "somebody else goes on changing it: it is tried again later"
        return goes_on

    def done(self, step: Step) -> None:
        """For the first time."""
        self._troubles.pop(step.key, None)

    def keep(self, keys: Container[Key]) -> None:
        """Forget the others."""
        self._troubles = {key: one for key, one in self._troubles.items() if key in keys}

    def _next(self, step: Step, now: float) -> _Trouble:
        known = self._troubles.get(step.key)
        if known is None or known.wanted != step.wanted or now - known.last > FORGOTTEN:
            known = self._troubles[step.key] = _Trouble(step.wanted)
        known.tries, known.last = known.tries + 1, now
        return known

    def _due(self, now: float, tries: int) -> float:
        pause = min(LONGEST, FIRST * 2.0 ** min(tries, 16))
        tick = max(TICK, pause * PART)
        return math.ceil((now + pause * self._chance.uniform(0.5, 1.0 - PART)) / tick) * tick
