"""A server that is as simple as can be, sessions for it, and plays with both."""

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from bench.sim.fleet import Machine
from bench.sim.jobs import End, Job, Timeline, Timer
from bench.sim.play import Play, Setting
from bench.sim.policies import POLICIES
from bench.workloads.sessions import Piece, Session, Turn
from epp.core.fleet import Load


class FakeServer:
    """One job after the other, at a fixed rate [tokens/s] for prompts and answers alike."""

    def __init__(self, timeline: Timeline, rate: float = 10_000.0) -> None:
        self._timeline, self._rate, self._speed = timeline, rate, 1.0
        self._waiting: deque[Job] = deque()
        self._running: Job | None = None
        self._next: Timer | None = None
        self.taken: list[Job] = []

    def take(self, job: Job) -> None:
        self.taken.append(job)
        self._waiting.append(job)
        if self._running is None:
            self._begin()

    def load(self, *, with_work: bool = True) -> Load:
        running = int(self._running is not None)
        return Load(waiting=len(self._waiting), running=running, kv_usage=0.5 * running)

    def die(self) -> None:
        if self._next is not None:
            self._next.cancel()
        lost = [*([self._running] if self._running else []), *self._waiting]
        self._running = None
        self._waiting.clear()
        for job in lost:
            job.ended(self._timeline.now, End.FAILED)

    def start(self) -> None: ...

    def slow_down(self, speed: float) -> None:
        self._speed = speed

    def _begin(self) -> None:
        job = self._running = self._waiting.popleft()
        self._later(job.prompt_tokens, lambda: self._first(job))

    def _first(self, job: Job) -> None:
        job.first_token(self._timeline.now, 0)
        self._later(job.output_tokens - 1, lambda: self._end(job))

    def _end(self, job: Job) -> None:
        self._running = None
        if self._waiting:
            self._begin()
        job.ended(self._timeline.now, End.DONE)

    def _later(self, tokens: int, run: Callable[[], None]) -> None:
        self._next = self._timeline.later(tokens / (self._rate * self._speed), run)


def every(seconds: float, *, turns: int = 1, tokens: int = 500, output: int = 100) -> Iterator[Session]:
    """Sessions at a steady pace, for ever."""
    for number in itertools.count():
        asked = tuple(
            Turn(pieces=(Piece(number * 100 + turn, tokens),), output_tokens=output, think=0.05 * turn)
            for turn in range(turns)
        )
        yield Session(name=number, at=number * seconds, turns=asked)


LEAST_REQUEST, RANDOM = POLICIES["least-request"].config, POLICIES["random"].config


def machines(count: int, rate: float = 10_000.0) -> Callable[[Timeline], Sequence[Machine]]:
    return lambda timeline: [
        Machine(number, "fake", "vllm", FakeServer(timeline, rate), timeline) for number in range(count)
    ]


def setting(**changes: Any) -> Setting:
    given = Setting(machines=machines(3), sessions=lambda: every(0.03), warm_up=20, counted=100, seed="a")
    return replace(given, **changes)


def played(setting: Setting, config: str = LEAST_REQUEST) -> Play:
    play = Play(setting, config, "test")
    play.run()
    return play
