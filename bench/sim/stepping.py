"""An engine that works in steps, of which a run with an unchanged batch is one event.

Place:   bench.sim.batching and bench.sim.slots say what the next run is and what it brought; here is when.
Rule:    what arrives waits for the end of the step that is under way: a run is cut there, never within a
         step. Callers of a server may call it again from ``first_token`` and ``ended``.
"""

import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from bench.sim.jobs import End, Job, Timeline, Timer
from epp.core.fleet import Load


@dataclass(slots=True)
class Steps:
    """So many steps, the first of ``first`` seconds, each ``growth`` seconds longer than the one before."""

    count: int
    first: float
    growth: float = 0.0

    def seconds(self, count: int) -> float:
        """How long the first ``count`` take."""
        return count * (self.first + self.growth * (count - 1) / 2)

    def done_after(self, seconds: float) -> int:
        """Whole steps within so many seconds."""
        if self.growth:
            half = self.first - self.growth / 2
            found = (math.sqrt(half * half + 2 * self.growth * seconds) - half) / self.growth
        else:
            found = seconds / self.first
        done = min(max(int(found), 0), self.count)
        while done < self.count and self.seconds(done + 1) <= seconds:  # what rounding has moved
            done += 1
        while done and self.seconds(done) > seconds:
            done -= 1
        return done


@dataclass(slots=True)
class Counts:
    """What a server has counted since it started."""

    prompt_tokens: int = 0
    """Of requests that got their first token, cached ones too."""
    output_tokens: int = 0
    requests: int = 0
    """Answered ones."""
    queried_tokens: int = 0
    """Prompt tokens that were looked up in the cache."""
    cached_tokens: int = 0
    """Those that were found."""
    computed_tokens: int = 0
    """Prompt tokens of answered requests, without cached ones; ..."""
    prefill_seconds: float = 0.0
    """... for these, from a request's first step to its first token."""
    decoded_tokens: int = 0
    """Output tokens, as the engine counts them for ..."""
    decode_seconds: float = 0.0
    """... this time."""
    preemptions: int = 0
    steps: int = 0
    busy_seconds: float = 0.0
    """Of steps, at full speed."""


class SteppingServer(ABC):
    """The time of a server; what it works on is its heirs' own."""

    def __init__(self, timeline: Timeline) -> None:
        self.timeline = timeline
        self.is_alive = True
        self.started_at = timeline.now
        self.counts = Counts()
        self._speed = 1.0
        self._run: Steps | None = None
        self._began_at = 0.0
        """When the run began."""
        self._worked = 0.0
        """Seconds of the run that were done at ``_since``, at full speed."""
        self._since = 0.0
        self._timer: Timer | None = None
        self._is_between = False
        """Between two runs: what comes is seen by the next."""
        self._looked_at: tuple[float, int, bool, int, int, bool] | None = None
        """The state of ``_seen``."""
        self._seen = Load()
        self._news: deque[Callable[[], None]] = deque()

    # --- what an heir says ------------------------------------------------------------------------

    @abstractmethod
    def _page(self, done: int, *, with_work: bool) -> Load:
        """What its metrics page says when so many steps of the run are done."""

    @abstractmethod
    def _waits(self) -> int:
        """Jobs in its queue."""

    @abstractmethod
    def _fits(self, job: Job) -> bool:
        """It can be worked on at all."""

    @abstractmethod
    def _queue(self, job: Job) -> bool:
        """It is kept; True: the next step could begin with it."""

    @abstractmethod
    def _compose(self) -> Steps | None:
        """What to do next; None: nothing."""

    @abstractmethod
    def _complete(self, count: int) -> None:
        """So many steps of the run are done; what that means for jobs is told by ``_tell``."""

    @abstractmethod
    def _clear(self) -> Sequence[Job]:
        """Everything is forgotten; the jobs that were there, as they came."""

    # --- what a fleet does with it ----------------------------------------------------------------

    def load(self, *, with_work: bool = True) -> Load:
        """What its metrics page would say now; of a dead one, nothing. Most looks find nothing new."""
        if not self.is_alive:
            return Load()
        done = self._done()
        state = (self.started_at, self.counts.steps, self._run is None, done, self._waits(), with_work)
        if state != self._looked_at:
            self._looked_at, self._seen = state, self._page(done, with_work=with_work)
        return self._seen

    def take(self, job: Job) -> None:
        if not self.is_alive or not self._fits(job):
            job.ended(self.timeline.now, End.REFUSED)
            return
        matters = self._queue(job)
        if self._is_between:
            return
        if self._run is None:
            self._go()
        elif matters:
            self._cut()

    def die(self) -> None:
        if not self.is_alive:
            return
        self._announce()  # what has happened before
        self.is_alive = False
        self._pause()
        self._run = None
        for job in self._clear():
            job.ended(self.timeline.now, End.FAILED)

    def start(self) -> None:
        if self.is_alive:
            raise RuntimeError("the server is running")
        self.is_alive = True
        self.started_at = self.timeline.now
        self.counts = Counts()

    def slow_down(self, speed: float) -> None:
        """0: it hangs."""
        if not speed >= 0.0:
            raise ValueError(f"speed: expected at least 0, got {speed}")
        self._pause()
        self._speed = speed
        self._looked_at = None
        if self._run is not None:
            self._arm()

    # --- the time of a run ------------------------------------------------------------------------

    @property
    def _now(self) -> float:
        return self.timeline.now

    def _done(self) -> int:
        """Whole steps of the run that are done now."""
        return 0 if self._run is None else self._run.done_after(self._work())

    def _seconds(self, done: int) -> float:
        """How long so many steps of the run have taken, at whatever speed."""
        assert self._run is not None
        worked, passed = self._run.seconds(done), self._since - self._began_at
        if worked > self._worked:
            return passed + (worked - self._worked) / self._speed
        return passed * worked / self._worked

    def _work(self) -> float:
        return self._worked + (self.timeline.now - self._since) * self._speed

    def _go(self) -> None:
        self._run = self._compose()
        if self._run is not None:
            self._worked, self._since = 0.0, self.timeline.now
            self._began_at = self.timeline.now
            self._arm()

    def _arm(self) -> None:
        assert self._run is not None
        if self._speed:
            left = self._run.seconds(self._run.count) - self._worked
            self._timer = self.timeline.later(max(left / self._speed, 0.0), self._end)

    def _pause(self) -> None:
        self._worked, self._since = self._work(), self.timeline.now
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _cut(self) -> None:
        """The run ends with the step that is under way."""
        assert self._run is not None
        count = self._run.done_after(self._work()) + 1
        if count < self._run.count:
            self._pause()
            self._run.count = count
            self._arm()

    def _end(self) -> None:
        run, self._run, self._timer = self._run, None, None
        assert run is not None
        self.counts.steps += run.count
        self.counts.busy_seconds += run.seconds(run.count)
        self._is_between = True
        self._complete(run.count)
        self._announce()
        self._is_between = False
        if self.is_alive and self._run is None:
            self._go()

    # --- what is told -----------------------------------------------------------------------------

    def _tell_first_token(self, job: Job, cached: int) -> None:
        self._news.append(partial(job.first_token, self.timeline.now, cached))

    def _tell_end(self, job: Job) -> None:
        self._news.append(partial(job.ended, self.timeline.now, End.DONE))

    def _announce(self) -> None:
        """Only when the server is in order again: who is told may ask it, or end it."""
        while self._news:
            self._news.popleft()()
