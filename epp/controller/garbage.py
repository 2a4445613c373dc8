"""When Python looks for garbage: after a round, never amid one.

Place:   around loop.py's rounds.
Rule:    what there is after a round lives for long, and is set aside; the next look is at what has come
         since. What of it has become garbage in the meantime is found by a whole look now and then.

Of 1,000 models and 200 routers a whole look takes 0.2 s, one at what a change has left 2 ms. By itself Python
would look at all that is not set aside whenever that is a quarter more: amid every other change.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

NEVER = 1_000_000
"""Looks at the second generation before one at the third."""
WHOLE = 600.0
"""[s] Between whole looks. Connections that ended are what they find: of each some 10 kB to 300 kB."""


class Garbage:
    """``look`` when nobody waits."""

    def __init__(self) -> None:
        self._due = 0.0

    def look(self, now: float) -> None:
        """A whole one where it is time for it."""
        if now >= self._due:
            self._due = now + WHOLE
            gc.unfreeze()
        gc.collect()
        gc.freeze()


@contextmanager
def looked_for_by_hand() -> Iterator[Garbage]:
    """No whole look but by Garbage."""
    before = gc.get_threshold()
    gc.set_threshold(*before[:2], NEVER)
    try:
        yield Garbage()
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
