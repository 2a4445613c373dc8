"""How a run is followed: a bar on standard error, or a line now and then where there is no terminal.

Place:   beside bench.run.play, as a task of its own.
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from bench.load import Percentiles, clock
from bench.run.play import Stretch

LOOK_SECONDS = 0.25
SAY_EVERY = 10.0
"""Seconds between two lines where there is no terminal."""


class Follow:
    """Everything that is played, one stretch after the other."""

    def __init__(self, seconds: float) -> None:
        self._console = Console(stderr=True)
        self._bar = Progress(
            BarColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.description}", markup=False),
            console=self._console,
        )
        self._number = self._bar.add_task("", total=seconds)
        self._done = 0.0
        self._began = self._said = clock()

    @asynccontextmanager
    async def over(self, name: str, stretch: Stretch) -> AsyncIterator[None]:
        """Says how this one gets on while the block lasts."""
        async with asyncio.TaskGroup() as owner:
            task = owner.create_task(self._look_on(lambda: line(name, stretch), stretch), name="progress")
            try:
                yield
            finally:
                task.cancel()
                self._done += stretch.limits.seconds

    async def _look_on(self, said: Callable[[], str], stretch: Stretch) -> None:
        """Ends with the task that owns it."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            passed = min(max(clock() - stretch.began, 0.0), stretch.limits.seconds)
            self._bar.update(self._number, completed=self._done + passed, description=said())
            if not self._console.is_terminal and clock() - self._said >= SAY_EVERY:
                self._said = clock()
                print(f"[{self._said - self._began:5.0f} s] {said()}", file=sys.stderr, flush=True)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            self._bar.stop()


def line(name: str, stretch: Stretch) -> str:
    """A stretch so far."""
    requests = stretch.requests
    over = [one for one in requests if one.is_over]
    failed = sum(not one.is_good for one in over)
    ttft = Percentiles.of(one.sample.ttft for one in over[-100:] if one.is_good)
    shown = "" if ttft is None else f", TTFT p50 {ttft.p50 * 1e3:.0f} ms"
    counts = f"{len(over) - failed} answered, {failed} failed, {len(requests) - len(over)} under way"
    return f"{name}: {counts}{shown}"
