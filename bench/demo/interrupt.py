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


@contextmanager
def held_back() -> Iterator[None]:
    """An interrupt during the block comes at its end."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _INTERRUPT)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def run(work: Coroutine[Any, Any, None]) -> None:
    """``asyncio.run``; an interrupt cancels ``work`` and is raised when the loop is closed."""

    async def interruptible() -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _INTERRUPT)
        try:
            await work
        finally:
            signal.pthread_sigmask(signal.SIG_BLOCK, _INTERRUPT)

    with held_back():
        asyncio.run(interruptible())


def terminate_is_interrupt() -> None:
    """SIGTERM ends the demo in the same way."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        signal.raise_signal(signal.SIGINT)

    signal.signal(signal.SIGTERM, interrupt)
