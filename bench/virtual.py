"""Time that passes when told, for whatever is driven without a loop."""

import heapq
import itertools
from collections.abc import Callable


class Clock:
    """``later`` as an event loop has it; ``pass_by`` runs what has become due."""

    def __init__(self) -> None:
        self.now = 100.0
        self._due: list[tuple[float, int, Timer]] = []
        self._numbers = itertools.count()

    def later(self, seconds: float, run: Callable[[], None]) -> "Timer":
        timer = Timer(run)
        heapq.heappush(self._due, (self.now + seconds, next(self._numbers), timer))
        return timer

    def pass_by(self, seconds: float) -> None:
        until = self.now + seconds
        while self._due and self._due[0][0] <= until:
            self.now, _, timer = heapq.heappop(self._due)
            if not timer.is_cancelled:
                timer.is_cancelled = True
                timer.run()
        self.now = until

    @property
    def timers(self) -> int:
        """Those that still wait."""
        return sum(not timer.is_cancelled for _, _, timer in self._due)


class Timer:
    """What ``later`` returns."""

    def __init__(self, run: Callable[[], None]) -> None:
        self.run = run
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True
