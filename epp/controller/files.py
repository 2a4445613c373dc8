"""Fleet files beside the cluster's objects, read again when they change.

Place:   run by loop.py's owner; ``read`` comes from the command line.
Rule:    a broken file changes nothing: what it said last stays.
"""

import asyncio
from collections.abc import Callable, Sequence

from epp.compiler.documents import Document
from epp.runtime.files import aside

LOOK_SECONDS = 1.0


class Unreadable(Exception):
    """A file cannot be used; the text names it and the remedy."""


class Files:
    """What ``read`` returns, or nothing where it is None. It raises Unreadable."""

    def __init__(self, read: Callable[[], Sequence[Document]] | None, changed: Callable[[], None]) -> None:
        self.documents: tuple[Document, ...] = ()
        """As last read."""
        self.fault = ""
        """Why they are not taken as they are now; empty: they are."""
        self.is_read = read is None
        self._read = read
        self._changed = changed

    async def look(self) -> None:
        """See once how they are."""
        if self._read is None:
            return
        try:
            documents = tuple(await aside(self._read, name="fleet files"))
        except Unreadable as fault:
            is_news, self.fault = str(fault) != self.fault, str(fault)
        else:
            is_news = documents != self.documents or not self.is_read or bool(self.fault)
            self.documents, self.fault, self.is_read = documents, "", True
        if is_news:
            self._changed()

    async def run(self) -> None:
        """Go on looking."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_SECONDS)
