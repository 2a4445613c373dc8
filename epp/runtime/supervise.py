"""Background work has an owner and a name, and its end is a fault.

Place:   main runs everything that lives as long as the process through ``forever``.
"""

import asyncio
import signal
from collections.abc import Awaitable


async def forever(work: Awaitable[None], name: str) -> None:
    """Await ``work``, which is not meant to return."""
    await work
    raise RuntimeError(f"{name} has ended, which it never should")


async def told_to_stop() -> None:
    """Return at SIGTERM or SIGINT. The next one ends the process in the system's way."""
    loop, told = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    try:
        await told.wait()
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
            if number is signal.SIGINT:
                signal.signal(number, signal.SIG_DFL)  # not a KeyboardInterrupt in the middle of a drain
