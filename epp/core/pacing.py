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
    UNTOLD = "answers, but does not tell its load"
    UNTOLD_BUSY = "the same, with requests of ours"
    LOADING = "answers that it cannot serve yet"
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
    untold: float = 4.0
    """While it tells no load. Below the 5 s after which vLLM and llama.cpp close an idle connection, whose
    end tells a death."""
    untold_busy: float = 0.25
    """And requests are there: a hang is seen within 1.5 s, of which two unanswered questions take 1.2."""
    linger: float = 1.0
    """How long an endpoint counts as busy after the last sign of traffic."""
    budget: float = 150.0
    """Looks per second over all endpoints, at 0.16 ms each 2.4 % of a core: seven busy endpoints get the
    floor, and 100 are read once in two thirds of a second."""
    tick: float = 0.1
    """Looks at endpoints without traffic happen at multiples of this, and looks at busy ones that cannot
    have the floor at multiples of the floor. A look costs 0.16 ms in a row with others, 0.26 ms on its own
    and 0.4 ms if the process has to wake for it."""
    loading: float = 0.25
    """While it says that it is not ready: it should have its first request within a second after it is."""
    retry: float = 0.25
    """While it does not answer. With the 0.7 s after which a look without an answer ends, one that comes
    back is seen within a second."""
    retry_late: float = 2.0
    """When it has not answered for ``late``."""
    late: float = 300.0
    retry_budget: float = 100.0
    """Looks per second over all that cannot serve: 25 are looked at every quarter of a second, 1,000 every
    10 s. A refused connection costs as much as a look."""

    def __post_init__(self) -> None:
        if not self.floor >= 0.05:
            raise ValueError(f"must be at least 50ms, got {self.floor:g}s")
        if not self.rest <= self.slowest:
            raise ValueError(f"rest ({self.rest:g}s) must not be above slowest ({self.slowest:g}s)")
        if not self.tick > 0:
            raise ValueError(f"tick ({self.tick:g}s) must be above 0")
        if not 0 < self.retry <= self.retry_late:
            raise ValueError(f"retry ({self.retry:g}s) must be in (0, {self.retry_late:g}s]")
        for name in ("budget", "retry_budget"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} ({getattr(self, name):g} looks a second) must be above 0")

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
        self, standing: Standing, now: float, among: "Shares", *, lost_for: float = 0.0, share: float = 1.0
    ) -> float:
        """When to look again: after ``share`` of the interval, chosen near 1 so that looks spread."""
        interval = self.interval(standing, among, lost_for=lost_for)
        due = now + share * interval
        if standing in (Standing.QUIET, Standing.UNTOLD):
            return math.ceil(due / self.tick) * self.tick
        if standing in _BUSY and interval > self.floor:
            together = min(self.floor, self.tick)
            return math.ceil(due / together) * together
        return due

    def interval(self, standing: Standing, among: "Shares", *, lost_for: float = 0.0) -> float:
        """The time to the next look at an endpoint that has not answered for ``lost_for`` [s], while those
        ``among`` which it is share the budget."""
        match standing:
            case Standing.LOST:
                usual = self.retry if lost_for < self.late else self.retry_late
                return max(usual, among.absent / self.retry_budget)
            case Standing.LOADING:
                return max(self.loading, among.absent / self.retry_budget)
            case Standing.UNTOLD:
                return max(self.untold, self.floor)
            case Standing.QUIET:
                return self._quiet(among)
            case Standing.UNTOLD_BUSY:
                return max(self.untold_busy, self._busy(among))
            case Standing.BUSY:
                return self._busy(among)

    def _busy(self, among: "Shares") -> float:
        left = max(self.budget - among.quiet / self.rest, self.budget / 4)
        return max(self.floor, min(among.busy / left, self._quiet(among)))

    def _quiet(self, among: "Shares") -> float:
        endpoints = among.busy + among.quiet
        return max(self.floor, min(max(self.rest, endpoints / self.budget), self.slowest))


_BUSY = (Standing.BUSY, Standing.UNTOLD_BUSY)
_ABSENT = (Standing.LOADING, Standing.LOST)


class Shares:
    """How many endpoints there are to look at, by what sort of look they need."""

    __slots__ = ("absent", "busy", "quiet")

    def __init__(self, *, busy: int = 0, quiet: int = 0, absent: int = 0) -> None:
        self.busy, self.quiet, self.absent = busy, quiet, absent

    def add(self, standing: Standing, number: int) -> None:
        """``number`` more, or fewer, are of this standing."""
        if standing in _BUSY:
            self.busy += number
        elif standing in _ABSENT:
            self.absent += number
        else:
            self.quiet += number


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
