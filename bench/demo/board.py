"""What the demo has seen so far, and what follows from it.

Place:   written by bench.demo.play while it runs, read by bench.demo.view and bench.demo.verdict.
Ignores: how it is shown, and who sent what.
Rule:    only observations: samples of the load generator (times are its ``clock()`` [s]) and pages of
         the picker. What was not seen is None.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from bench.demo.talk import conversation_of
from bench.load import Percentiles, Sample

OUT = frozenset({"pending", "loading", "ejected", "draining", "gone"})
"""Phases in which the picker sends a server nothing."""
FAULT_SECONDS = 1.0
"""How long after a kill requests may fail: those that were there, and those sent before it was noticed."""


@dataclass(slots=True)
class Phase:
    """One stretch of load through one listener."""

    name: str
    title: str
    listener: str
    seconds: float
    started: float | None = None
    is_over: bool = False
    samples: list[Sample] = field(default_factory=list)

    @property
    def failures(self) -> list[Sample]:
        return [sample for sample in self.samples if not sample.ok]

    def ttft(self) -> Percentiles | None:
        """Of good answers."""
        return Percentiles.of(sample.ttft for sample in self.samples if sample.ok)


def answered_by(samples: Iterable[Sample], address: str) -> list[Sample]:
    """The good answers of one server."""
    return [sample for sample in samples if sample.ok and sample.served_by == address]


def stayed(samples: Iterable[Sample]) -> tuple[int, int]:
    """How many later turns were answered where the turn before was, and how many later turns there were."""
    turns = sorted((conversation_of(sample.key), sample.served_by) for sample in samples if sample.ok)
    stayed = later = 0
    for ((before, _), there), ((conversation, _), here) in pairwise(turns):
        if before == conversation:
            later += 1
            stayed += there == here
    return stayed, later


@dataclass(slots=True)
class Fault:
    """The death of one server and its return; times as in samples."""

    name: str
    address: str
    killed: float
    seen_down: float | None = None
    """When a look at the picker first showed it."""
    started_again: float | None = None
    loaded: float | None = None
    """When it said itself that its model was loaded."""
    returned: float | None = None
    """When its first good answer after that ended."""
    phases: list[tuple[str, str]] = field(default_factory=list)
    """What the picker's looks showed of it since the kill, and why, in their order."""

    def sent_while_dead(self, samples: Iterable[Sample]) -> list[Sample]:
        """The requests that were sent after the kill and went to the dead server all the same."""
        until = self.started_again or float("inf")
        return [
            sample
            for sample in samples
            if sample.served_by == self.address
            and sample.sent is not None
            and self.killed <= sample.sent < until
        ]

    def last_sent_to_dead_ms(self, samples: Iterable[Sample]) -> float:
        """Milliseconds from the kill to the last of those; 0 when there was none."""
        times = [sample.sent for sample in self.sent_while_dead(samples) if sample.sent is not None]
        return round((max(times) - self.killed) * 1e3, 1) if times else 0.0

    def covers(self, failure: Sample) -> bool:
        """The death explains this failure: under way at the kill, or sent shortly after it."""
        return failure.ended >= self.killed and _sent(failure) <= self.killed + FAULT_SECONDS

    def found_under_way(self, failure: Sample) -> bool:
        """Of those that the death explains: sent before it."""
        return _sent(failure) < self.killed


def _sent(sample: Sample) -> float:
    return sample.due if sample.sent is None else sample.sent


@dataclass(slots=True)
class Board:
    """Everything that is shown and told at the end."""

    servers: Mapping[str, str]
    """``ip:port`` by name."""
    rate: float = 0.0
    """Requests per second."""
    phases: list[Phase] = field(default_factory=list)
    fault: Fault | None = None
    readings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """The picker's view of each endpoint by name, from its /debug/endpoints."""
    looked_at: float = 0.0
    """When that page was asked for [s]."""
    picks: Sequence[Mapping[str, Any]] = ()
    """The last picks, newest first, from its /debug/picks."""

    def phase(self, name: str) -> Phase:
        return next(phase for phase in self.phases if phase.name == name)

    def state(self, name: str) -> str | None:
        """The phase of this server's life, as the picker sees it: ready, ejected, warming, ..."""
        return self.readings.get(name, {}).get("phase")

    def is_out(self, name: str) -> bool:
        """The picker sends it nothing."""
        return self.state(name) in OUT

    @property
    def current(self) -> Phase | None:
        return self.phases[-1] if self.phases else None

    @property
    def samples(self) -> list[Sample]:
        return [sample for phase in self.phases for sample in phase.samples]

    def counts(self, samples: Iterable[Sample]) -> dict[str, int]:
        """Good answers by server name; every server is there."""
        counted = Counter(sample.served_by for sample in samples if sample.ok)
        return {name: counted[address] for name, address in self.servers.items()}
