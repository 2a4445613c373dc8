"""What befalls machines while requests are counted.

Place:   bench.sim.play strikes with the first counted request; a cell names its fault.
Ignores: who notices, and how.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from bench.sim.fleet import Machine
from bench.sim.jobs import Timeline


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One machine works at ``speed`` (1: as it should; 0: it is dead) from ``at`` [s] for ``lasts`` [s].

    A dead one comes back with cold caches, and says for ``loading`` [s] that its model is not ready.
    """

    what: str
    speed: float
    machine: int = 0
    at: float = 0.0
    lasts: float | None = None
    """None: to the end."""
    loading: float = 0.0

    def strike(self, machines: Sequence[Machine], timeline: Timeline) -> None:
        """Now is the moment from which ``at`` counts."""
        timeline.later(self.at, partial(self._begin, machines[self.machine], timeline))

    def _begin(self, machine: Machine, timeline: Timeline) -> None:
        if self.speed:
            machine.server.slow_down(self.speed)
        else:
            machine.die()
        if self.lasts is not None:
            timeline.later(self.lasts, partial(self._end, machine, timeline))

    def _end(self, machine: Machine, timeline: Timeline) -> None:
        if self.speed:
            machine.server.slow_down(1.0)
        elif self.loading:
            machine.load_model()
            timeline.later(self.loading, machine.start)
        else:
            machine.start()


FAULTS: Mapping[str, Fault | None] = {
    "none": None,
    "slow-node": Fault(what="the first server works at 30 % of its speed", speed=0.3),
    "death": Fault(what="the first server dies after 5 s", speed=0.0, at=5.0),
    "restart": Fault(
        what="the first server dies after 5 s, loads from second 10 to second 20, and is cold",
        speed=0.0,
        at=5.0,
        lasts=5.0,
        loading=10.0,
    ),
}
