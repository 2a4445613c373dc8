"""Where Ctrl-C may come, and where it waits a moment.

Rule:    while processes are started or an event loop is made or closed, an interrupt is held back: it
         would leave a process that nobody knows, or half a loop. Everywhere else it comes at once.
"""

import asyncio
import signal
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_INTERRUPT = {signal.SIGINT}


class _Held:
    """Takes the place of the handler: what comes is noted. Blocking the signal alone does not hold it back
    where another thread may take it (a library's, the console's)."""

    came = False

    def __call__(self, _number: int, _frame: FrameType | None) -> None:
        self.came = True


@contextmanager
def held_back() -> Iterator[_Held]:
    """An interrupt during the block comes at its end. Processes started in it do not see it at all."""
    held = _Held()
    handler = signal.signal(signal.SIGINT, held)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _INTERRUPT)
    try:
        yield held
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGINT, handler)
        if held.came:
            signal.raise_signal(signal.SIGINT)


def run(work: Coroutine[Any, Any, None]) -> None:
    """``asyncio.run``; an interrupt cancels ``work`` and is raised when the loop is closed."""

    async def interruptible(held: _Held) -> None:
        loop = asyncio.get_running_loop()
        task = loop.create_task(work, name="what an interrupt ends")

        def interrupt(number: int, frame: FrameType | None) -> None:
            held(number, frame)
            loop.call_soon_threadsafe(task.cancel)

        signal.signal(signal.SIGINT, interrupt)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _INTERRUPT)
        if held.came:
            task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            if not held.came:
                raise
        finally:
            signal.pthread_sigmask(signal.SIG_BLOCK, _INTERRUPT)
            signal.signal(signal.SIGINT, held)

    with held_back() as held:
        asyncio.run(interruptible(held))


def terminate_is_interrupt() -> None:
    """SIGTERM ends the demo in the same way."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        signal.raise_signal(signal.SIGINT)

    signal.signal(signal.SIGTERM, interrupt)
