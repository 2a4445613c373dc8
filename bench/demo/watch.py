"""Looks at the picker's debug pages and keeps the board up to date.

Place:   one per demo; bench.demo.play waits here for what the picker has noticed.
Rule:    what is not answered is an error: the picker must be there all the time.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from bench.demo.board import Board, Fault
from bench.load import clock
from bench.rig.picker import Picker
from bench.rig.process import RigError, http_get

LOOK_SECONDS = 0.2
HURRY_SECONDS = 0.01
"""Between a kill and its notice: this is what measures how long that takes."""
PICKS_EVERY = 3
"""Looks; the page of picks is ten times as long as that of endpoints."""


class Watch:
    """The picker's view, again and again while ``looking``."""

    def __init__(self, picker: Picker, board: Board) -> None:
        self._picker = picker
        self._board = board
        self._looked = asyncio.Condition()
        self._hurried = asyncio.Event()

    def hurry(self) -> None:
        """Look as often as possible until the death of a server has been noticed."""
        self._hurried.set()

    @asynccontextmanager
    async def looking(self) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as owner:
            task = owner.create_task(self._look_on(), name="watch the picker")
            try:
                yield
            finally:
                task.cancel()

    async def until(self, condition: Callable[[], bool], *, deadline: float) -> bool:
        """Whether the condition came true before the deadline [s], as seen after each look."""
        try:
            async with asyncio.timeout(max(0.0, deadline - clock())), self._looked:
                await self._looked.wait_for(condition)
        except TimeoutError:
            return condition()
        return True

    async def _look_on(self) -> None:
        """Ends with the task that owns it."""
        looks = 0
        while True:
            await self._look(with_picks=looks % PICKS_EVERY == 0 and not self._hurried.is_set())
            looks += 1
            await self._pause()

    async def _pause(self) -> None:
        if self._hurried.is_set():
            await asyncio.sleep(HURRY_SECONDS)
            return
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                await self._hurried.wait()
        except TimeoutError:
            return

    async def _look(self, *, with_picks: bool) -> None:
        board, began = self._board, clock()
        page = await self._page("endpoints")
        board.readings = {one["name"]: one for one in page["endpoints"]}
        board.looked_at = began
        if board.fault is not None:
            self._follow(board.fault)
        if with_picks:
            board.picks = (await self._page("picks?limit=20"))["picks"]
        async with self._looked:
            self._looked.notify_all()

    def _follow(self, fault: Fault) -> None:
        reading = self._board.readings[fault.name]
        known = fault.phases[-1][0] if fault.phases else "ready"
        if reading["phase"] != known:
            fault.phases.append((reading["phase"], reading["reason"]))
        if fault.seen_down is None and self._board.is_out(fault.name):
            fault.seen_down = clock()
            self._hurried.clear()

    async def _page(self, page: str) -> Any:
        url = f"{self._picker.metrics_url}/debug/{page}"
        try:
            status, body = await asyncio.to_thread(http_get, url)
        except OSError as problem:
            raise RigError(f"the picker does not answer on {url}: {problem}") from problem
        if status != 200:
            raise RigError(f"the picker answers {status} on {url}")
        return json.loads(body)
