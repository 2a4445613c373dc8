"""When to look at each endpoint next: cheap at rest, quick when it matters, never more than a budget.

Place:   used by epp.runtime.scrape.
Ignores: what a look is and what it finds, timers, the clock and chance (callers pass both).
Rule:    an endpoint that answers is looked at before its last reading becomes unknown, whatever the
         budget says; an endpoint that does not answer never takes from those that do.
"""

import enum
import heapq
import math
from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import Generic, Self, TypeVar

Item = TypeVar("Item", bound=Hashable)


class Standing(enum.Enum):
    """What an endpoint's last look and our own traffic say about it."""

    BUSY = "requests of ours are there, or were just now"
    QUIET = "answers with its load, and we sent it nothing lately"
    SILENT = "answers, but does not tell its load"
    LOST = "does not answer"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """Intervals [s] between two looks at one endpoint; ``of`` makes those that fit together."""

    floor: float = 0.05
    """While it is busy: ``--refresh-metrics-interval``, upstream's default and minimum. A gauge of vLLM
    trails reality by some 30 ms, so that less would read the same numbers again."""
    rest: float = 1.0
    """While nothing happens: two looks until a reading is unknown (2 s), so that one may be slow."""
    slowest: float = 1.5
    """An endpoint that answers is looked at this often, even over budget: unknown load is worse."""
    silent: float = 4.0
    """Below the 5 s after which vLLM and llama.cpp close an idle connection, whose end tells a death."""
    linger: float = 1.0
    """How long an endpoint counts as busy after the last sign of traffic."""
    budget: float = 150.0
    """Looks per second over all endpoints, at 0.16 ms each 2.4 % of a core: seven busy endpoints get the
    floor, and 100 are read once in two thirds of a second."""
    tick: float = 0.1
    """Looks at endpoints without traffic happen at multiples of this, and looks at busy ones that cannot
    have the floor at multiples of the floor. A look costs 0.16 ms in a row with others, 0.26 ms on its own
    and 0.4 ms if the process has to wake for it."""
    retry_first: float = 0.25
    """After the first failure; doubles with each further one."""
    retry_last: float = 2.0
    """What doubling ends at: a server that comes back waits no longer for its first request."""

    def __post_init__(self) -> None:
        if not self.floor >= 0.05:
            raise ValueError(f"must be at least 50ms, got {self.floor:g}s")
        if not self.rest <= self.slowest:
            raise ValueError(f"rest ({self.rest:g}s) must not be above slowest ({self.slowest:g}s)")
        if not self.tick > 0:
            raise ValueError(f"tick ({self.tick:g}s) must be above 0")
        if not 0 < self.retry_first <= self.retry_last:
            raise ValueError(f"retry_first ({self.retry_first:g}s) must be in (0, {self.retry_last:g}s]")
        if not self.budget > 0:
            raise ValueError(f"budget ({self.budget:g} looks a second) must be above 0")

    @classmethod
    def of(cls, *, floor: float, stale_after: float) -> Self:
        """The pace at which no reading of an endpoint that answers grows older than ``stale_after`` [s].

        ValueError when ``floor`` [s] is below the minimum, or leaves no room for a look to be late.
        """
        usual = cls(floor=floor)
        slowest = 0.75 * stale_after  # the rest is for a random tenth, the tick and the answer itself
        if floor > slowest:
            raise ValueError(
                f"must be at most three quarters of --metrics-staleness-threshold ({stale_after:g}s), "
                f"else readings become unknown in between; got {floor:g}s"
            )
        return replace(
            usual,
            rest=min(usual.rest, stale_after / 2),
            slowest=min(usual.slowest, slowest),
            tick=min(usual.tick, stale_after / 20),
        )

    def next_due(
        self,
        standing: Standing,
        now: float,
        *,
        busy: int,
        quiet: int,
        failures: int = 0,
        share: float = 1.0,
    ) -> float:
        """When to look again: after ``share`` of the interval, chosen near 1 so that looks spread."""
        interval = self.interval(standing, busy=busy, quiet=quiet, failures=failures)
        due = now + share * interval
        if standing in (Standing.QUIET, Standing.SILENT):
            return math.ceil(due / self.tick) * self.tick
        if standing is Standing.BUSY and interval > self.floor:
            together = min(self.floor, self.tick)
            return math.ceil(due / together) * together
        return due

    def interval(self, standing: Standing, *, busy: int, quiet: int, failures: int = 0) -> float:
        """The time to the next look, while ``busy`` and ``quiet`` endpoints share the budget."""
        match standing:
            case Standing.LOST:
                doublings = min(max(failures - 1, 0), 32)
                return min(self.retry_first * 2.0**doublings, self.retry_last)
            case Standing.SILENT:
                return max(self.silent, self.floor)
            case Standing.QUIET:
                return self._quiet(busy + quiet)
            case Standing.BUSY:
                left = max(self.budget - quiet / self.rest, self.budget / 4)
                return max(self.floor, min(busy / left, self._quiet(busy + quiet)))

    def _quiet(self, endpoints: int) -> float:
        return max(self.floor, min(max(self.rest, endpoints / self.budget), self.slowest))


class Agenda(Generic[Item]):
    """Who is due when: one time for each item, the earliest first."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Item]] = []
        self._entry: dict[Item, tuple[float, int]] = {}
        self._count = 0

    def __len__(self) -> int:
        return len(self._entry)

    def put(self, item: Item, due: float) -> None:
        """Set when ``item`` is due, instead of any earlier agreement."""
        self._count += 1
        self._entry[item] = (due, self._count)
        heapq.heappush(self._heap, (due, self._count, item))
        if len(self._heap) > 64 + 4 * len(self._entry):  # mostly agreements that no longer hold
            self._heap = [(at, number, each) for each, (at, number) in self._entry.items()]
            heapq.heapify(self._heap)

    def due(self, item: Item) -> float | None:
        """When ``item`` is due; None when it is not on the agenda."""
        entry = self._entry.get(item)
        return entry[0] if entry is not None else None

    def drop(self, item: Item) -> None:
        """``item`` is not due any more; no matter whether it was."""
        self._entry.pop(item, None)

    def next_due(self) -> float | None:
        """When the first item is due; None when nothing is on the agenda."""
        while self._heap:
            due, number, item = self._heap[0]
            if self._entry.get(item) == (due, number):
                return due
            heapq.heappop(self._heap)
        return None

    def take(self, now: float) -> Item | None:
        """The first item that is due, taken off the agenda; None when none is."""
        due = self.next_due()
        if due is None or due > now:
            return None
        item = heapq.heappop(self._heap)[2]
        del self._entry[item]
        return item
