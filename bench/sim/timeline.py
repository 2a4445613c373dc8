"""Virtual time: what is due next happens next, and nothing passes in between.

Place:   one for each simulated fleet; bench.sim.jobs.Timeline is what servers see of it.
Rule:    what is due at the same time happens in the order in which it was asked for.
"""

import heapq
import math
from collections.abc import Callable


class Event:
    """What ``later`` returns."""

    __slots__ = ("_queue", "run")

    def __init__(self, queue: "EventQueue", run: Callable[[], None]) -> None:
        self._queue = queue
        self.run: Callable[[], None] | None = run

    def cancel(self) -> None:
        """It will not happen; after it has, this says nothing."""
        if self.run is not None:
            self.run = None
            self._queue.forget()


class EventQueue:
    """Time since the beginning [s]."""

    def __init__(self) -> None:
        self.now = 0.0
        self.happened = 0
        """Events so far: the simulation's own measure of work."""
        self._due: list[tuple[float, int, Event]] = []
        self._asked = 0
        self._cancelled = 0
        self._is_stopped = False

    def later(self, seconds: float, run: Callable[[], None]) -> Event:
        if not seconds >= 0.0:  # also no number
            raise ValueError(f"seconds: expected at least 0, got {seconds}")
        event = Event(self, run)
        self._asked += 1
        heapq.heappush(self._due, (self.now + seconds, self._asked, event))
        return event

    @property
    def next_at(self) -> float:
        """When the next thing happens; never: infinity."""
        due = self._due
        while due and due[0][2].run is None:
            heapq.heappop(due)
            self._cancelled -= 1
        return due[0][0] if due else math.inf

    def run(self, until: float = math.inf) -> None:
        """All that happens up to and at ``until``; without it, until nothing is due any more."""
        due = self._due
        self._is_stopped = False
        while due and due[0][0] <= until and not self._is_stopped:
            at, _, event = heapq.heappop(due)
            if event.run is None:
                self._cancelled -= 1
                continue
            self.now, run, event.run = at, event.run, None
            self.happened += 1
            run()
        if until < math.inf and not self._is_stopped:
            self.now = max(self.now, until)

    def stop(self) -> None:
        """What happens now is the last: ``run`` returns."""
        self._is_stopped = True

    def forget(self) -> None:
        """One event is cancelled. They are swept out when most are: in a saturated server each arrival
        cancels the end of a run that may be minutes away."""
        self._cancelled += 1
        if self._cancelled > len(self._due) // 2 + 64:
            self._due[:] = [entry for entry in self._due if entry[2].run is not None]
            heapq.heapify(self._due)
            self._cancelled = 0
