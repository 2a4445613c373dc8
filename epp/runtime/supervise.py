"""Background work has an owner and a name, and its end is a fault; what signals mean.

Place:   main runs everything that lives as long as the process through ``forever``.
"""

import asyncio
import contextlib
import signal
from collections.abc import Awaitable, Callable


async def forever(work: Awaitable[None], name: str) -> None:
    """Await ``work``, which is not meant to return."""
    await work
    raise RuntimeError(f"{name} has ended, which it never should")


async def told_or_after(event: asyncio.Event, seconds: float | None) -> None:
    """Until ``event``, which is cleared, or for ``seconds``; None: however long it takes."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
    event.clear()


def on_hangup(reread: Callable[[], None]) -> None:
    """From now on SIGHUP means: take over what has changed on disk."""
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reread)


async def told_to_stop() -> signal.Signals:
    """Return SIGTERM or SIGINT when it comes. The next one ends the process at once, as before this."""
    loop = asyncio.get_running_loop()
    told: asyncio.Queue[signal.Signals] = asyncio.Queue()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    for number in before:
        loop.add_signal_handler(number, told.put_nowait, number)
    try:
        return await told.get()
    finally:
        for number, handler in before.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler)
