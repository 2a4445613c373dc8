"""Fleets to choose from, by name, and each machine of one as the network shows it.

Place:   bench.sim.play asks machines to take jobs, bench.sim.readings looks at them, bench.sim.faults breaks
         them.
Ignores: how a server works (bench.sim.batching, bench.sim.slots), and pickers.
"""

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from bench.sim.batching import BatchingServer
from bench.sim.hardware import HARDWARE, Hardware
from bench.sim.jobs import End, Job, Server, Timeline
from bench.sim.slots import SlotServer
from epp.core.fleet import EndpointSpec, Load


class State(enum.Enum):
    """What one finds at a machine's port."""

    UP = "it serves"
    LOADING = "it says that its model is not ready"
    DOWN = "it takes no connections"


class Machine:
    """A server at an address."""

    def __init__(self, number: int, kind: str, engine: str, server: Server, timeline: Timeline) -> None:
        self.kind, self.engine, self.server = kind, engine, server
        self.spec = EndpointSpec(
            name=f"{kind}-{number}", ip=f"10.0.{number >> 8}.{number & 255}", port=8000, engine=engine
        )
        self.state = State.UP
        self.life = 0
        """Grows with each death."""
        self.on_change: list[Callable[[], None]] = []
        """To be told when ``state`` has changed."""
        self._timeline = timeline

    def take(self, job: Job) -> None:
        """A request comes to its port."""
        if self.state is State.UP:
            self.server.take(job)
        else:
            job.ended(self._timeline.now, End.FAILED)

    def load(self, *, with_work: bool) -> Load:
        return self.server.load(with_work=with_work)

    def die(self) -> None:
        """All that it works on fails."""
        if self.state is not State.DOWN:
            self.life += 1
            self._enter(State.DOWN)
            self.server.die()

    def load_model(self) -> None:
        """It is there again, and not ready yet."""
        self._enter(State.LOADING)

    def start(self) -> None:
        self.server.start()
        self._enter(State.UP)

    def _enter(self, state: State) -> None:
        self.state = state
        for tell in self.on_change:
            tell()


@dataclass(frozen=True, slots=True)
class Lineup:
    """The servers of a fleet."""

    what: str
    hardware: tuple[Hardware, ...]

    def machines(self, timeline: Timeline) -> list[Machine]:
        """All of them, idle and with empty caches."""
        return [_machine(number, each, timeline) for number, each in enumerate(self.hardware)]

    @property
    def context_tokens(self) -> int:
        """A conversation of so many fits into any server."""
        return min(
            each.cache_tokens // (1 if each.engine == _BATCHES else each.sequences) for each in self.hardware
        )


_BATCHES = "vllm"
"""The engine whose requests share one cache; of others each has a slot."""


def _machine(number: int, hardware: Hardware, timeline: Timeline) -> Machine:
    make = BatchingServer if hardware.engine == _BATCHES else SlotServer
    kind = hardware.name.lower().replace(" ", "-")
    return Machine(number, kind, hardware.engine, make(timeline, hardware), timeline)


def _of(what: str, *names: str) -> Lineup:
    return Lineup(what, tuple(HARDWARE[name] for name in names))


FLEETS: Mapping[str, Lineup] = {
    "8xH100": _of("8 equal servers, an H100 each, Llama-3.1-8B on vLLM", *["H100"] * 8),
    "mixed": _of(
        "4 servers with an H100 and 4 with an L4 on vLLM, 4 Macs on llama.cpp, all with Llama-3.1-8B",
        *["H100"] * 4,
        *["L4"] * 4,
        *("M1 Max", "M2 Ultra", "M3 Max", "M4 Max"),
    ),
    "8x2xH100": _of("8 equal servers, 2 H100 each, Qwen3-32B on vLLM", *["2xH100"] * 8),
    "macs": _of("4 Macs on llama.cpp", "M1 Max", "M2 Ultra", "M3 Max", "M4 Max"),
}
