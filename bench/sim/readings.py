"""How a picker learns of the load of its servers: looks at intervals, each of which may come late or never.

Place:   one Scraper for each picker; it tells the picker's Fleet what epp.runtime.scrape would.
Ignores: budgets and pacing: the interval is what a cell says.
Rule:    a reading is of the moment of the look and counts from the moment it is read. A look that is lost
         leaves what was known to grow old.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from bench.sim.fleet import Machine, State
from bench.sim.jobs import Timeline
from epp.core.fleet import Endpoint, Fleet, Load

STALE_AFTER = 2.0
"""At this age [s] the product's default lets a reading be unknown; or at that of two intervals."""
WORK_AGAIN = 1.0
"""So often [s] does the product read what a server counts of its work."""
CONNECTION_BROKE = 0.002
"""So soon [s] is a dead server noticed: the scraper's connection breaks, and a second one is refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Readings:
    """``interval`` between two looks at a server and ``delay`` of an answer [s]; ``loss``: share of looks."""

    interval: float = 0.05
    delay: float = 0.002
    loss: float = 0.0

    def __post_init__(self) -> None:
        if self.interval <= 0:
            raise ValueError(f"interval: must be above 0, got {self.interval:g}s")
        if self.delay < 0:
            raise ValueError(f"delay: must be at least 0, got {self.delay:g}s")
        if not 0 <= self.loss < 1:
            raise ValueError(f"loss: must be at least 0 and below 1, got {self.loss:g}")

    @property
    def stale_after(self) -> float:
        """The age [s] at which a reading is unknown."""
        return max(STALE_AFTER, 2 * self.interval)


class Scraper:
    """Looks at every machine from ``start`` until ``stop``."""

    def __init__(
        self, settings: Readings, fleet: Fleet, machines: Sequence[Machine], timeline: Timeline, seed: str
    ) -> None:
        self._settings, self._fleet, self._timeline = settings, fleet, timeline
        self._chance = random.Random(seed)
        self._runs = False
        self._work_due = dict.fromkeys(machines, 0.0)
        self._looks = list(zip(machines, fleet.endpoints, strict=True))
        for machine, endpoint in self._looks:
            machine.on_change.append(partial(self._changed, machine, endpoint))

    def start(self) -> None:
        """Look at everybody now, and from then on at each in its own rhythm."""
        self._runs = True
        for machine, endpoint in self._looks:
            self._look(machine, endpoint, 0.0)
            look = _Look(self._again, machine, endpoint)
            self._timeline.later(self._chance.random() * self._settings.interval, look)

    def stop(self) -> None:
        self._runs = False

    def _again(self, look: "_Look") -> None:
        if not self._runs:
            return
        self._timeline.later(self._settings.interval, look)
        if not self._settings.loss or self._chance.random() >= self._settings.loss:
            self._look(look.machine, look.endpoint, self._settings.delay)

    def _look(self, machine: Machine, endpoint: Endpoint, delay: float) -> None:
        now = self._timeline.now
        if machine.state is State.DOWN:
            self._fleet.lost(endpoint, now, "connection refused")
        elif machine.state is State.LOADING:
            self._fleet.loading(endpoint, now, "its model is loading")
        elif delay:
            self._timeline.later(
                delay, partial(self._read, machine, endpoint, machine.life, self._seen(machine))
            )
        else:
            self._read(machine, endpoint, machine.life, self._seen(machine))

    def _seen(self, machine: Machine) -> Load:
        """As much of its page as is read: its work only now and then."""
        now = self._timeline.now
        if now < self._work_due[machine]:
            return machine.load(with_work=False)
        self._work_due[machine] = now + WORK_AGAIN
        return machine.load(with_work=True)

    def _read(self, machine: Machine, endpoint: Endpoint, life: int, load: Load) -> None:
        if machine.life == life and machine.state is State.UP:
            self._fleet.reading(endpoint, load, self._timeline.now, engine=machine.engine)

    def _changed(self, machine: Machine, endpoint: Endpoint) -> None:
        if machine.state is State.DOWN:
            self._timeline.later(CONNECTION_BROKE, partial(self._look, machine, endpoint, 0.0))


class _Look:
    """One machine's turn, over and over."""

    __slots__ = ("_run", "endpoint", "machine")

    def __init__(self, run: Callable[["_Look"], None], machine: Machine, endpoint: Endpoint) -> None:
        self._run, self.machine, self.endpoint = run, machine, endpoint

    def __call__(self) -> None:
        self._run(self)
