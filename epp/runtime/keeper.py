"""Keeps the pools running that are wanted, each on its port, as they come and go.

Place:   run by main; a pool's parts are put together by epp.pool.
Ignores: what a pool is made of, and who wants it.
Rule:    at the start a port that cannot be had is an error; later it is logged and tried again, and the other
         pools go on. A pool that goes, or moves to another port, finishes what it has begun.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, Generic, Protocol, TypeVar

from epp.config.cluster.wishes import PoolName
from epp.runtime.errors import StartError
from epp.runtime.supervise import forever, told_or_after

logger = logging.getLogger("epp.pools")

RETRY = 5.0
"""[s] After which a port is tried again that could not be had."""


class Pool(Protocol):
    """One pool's parts. ``bind`` and ``start`` first, then ``run`` and ``open``; ``close`` last."""

    def bind(self, port: int) -> None:
        """Take the port, beside the one before; StartError if it cannot be had."""

    async def start(self) -> None:
        """Find the endpoints."""

    async def run(self) -> None:
        """Keep up with them, until cancelled."""

    async def open(self) -> None:
        """Serve on the last port, if there is one."""

    def refuse_waiting(self) -> None:
        """Nobody comes any more for whom requests could wait: tell their clients."""

    async def leave(self, grace: float, *, but_the_last: bool = False) -> None:
        """Free all ports at once; open streams may finish for ``grace`` seconds."""

    def close(self) -> None:
        """Leave nothing behind."""


AnyPool = TypeVar("AnyPool", bound=Pool)


class Keeper(Generic[AnyPool]):
    """``make``: puts a pool together. ``first_look``: waits until new endpoints have been looked at.

    ``grace`` [s]: for what a pool has begun when it goes or moves.
    """

    def __init__(
        self,
        make: Callable[[PoolName], AnyPool],
        *,
        first_look: Callable[[], Awaitable[None]],
        grace: float,
    ) -> None:
        self.is_open = asyncio.Event()
        """The first pools are served."""
        self._make = make
        self._first_look = first_look
        self._grace = grace
        self._pools: dict[PoolName, AnyPool] = {}
        self._ports: dict[PoolName, int | None] = {}
        """Where they are; None: it has left one, and the next cannot be had."""
        self._lives: dict[PoolName, asyncio.Task[None]] = {}
        self._seen: set[AnyPool] = set()
        """Those whose endpoints have been looked at: they are served as soon as they have a port."""
        self._ending: list[AnyPool] = []
        self._leaving: set[asyncio.Task[None]] = set()
        """Ports that are left, with streams that are still open."""
        self._refused: dict[PoolName, str] = {}
        self._is_over = False

    @property
    def pools(self) -> Mapping[PoolName, AnyPool]:
        """Those that are served, or about to be."""
        return self._pools

    def detail(self) -> str:
        """Whose port cannot be had, for /readyz; empty: every pool is served."""
        return "; ".join(f"InferencePool {name}: {why}" for name, why in self._refused.items())

    async def prepare(self, wanted: Mapping[PoolName, int]) -> None:
        """The first pools, up to serving; StartError if there is something that time will not mend."""
        for name, port in wanted.items():
            self._add(name, port)
        await asyncio.gather(*(pool.start() for pool in self._pools.values()))

    async def run(self, wanted: Callable[[], Mapping[PoolName, int]], changed: asyncio.Event) -> None:
        """Serve what was prepared, and what is wanted whenever that has ``changed``."""
        async with asyncio.TaskGroup() as group:
            first = [self._begin(name, group, is_started=True) for name in self._pools]
            await asyncio.gather(*(is_open.wait() for is_open in first))
            self.is_open.set()
            while True:
                await told_or_after(changed, RETRY if self._refused else None)
                if not self._is_over:
                    await self._take(wanted(), group)

    def refuse_waiting(self) -> None:
        """The end is near: tell all whose requests still wait."""
        for pool in (*self._pools.values(), *self._ending):
            pool.refuse_waiting()

    async def leave(self, grace: float) -> None:
        """All ports, at the end; from now on nothing is wanted any more."""
        self._is_over = True
        await asyncio.gather(*(pool.leave(grace) for pool in self._pools.values()), *self._leaving)

    # --- inside

    def _add(self, name: PoolName, port: int) -> None:
        pool = self._make(name)
        try:
            pool.bind(port)
        except StartError:
            pool.close()
            raise
        self._pools[name], self._ports[name] = pool, port

    async def _take(self, wanted: Mapping[PoolName, int], group: asyncio.TaskGroup) -> None:
        claimed = {port for name, port in wanted.items() if port != self._ports.get(name)}
        for name, port in tuple(self._ports.items()):
            if name not in wanted:
                self._retire(name, group)
            elif port != wanted[name] and port in claimed:
                self._ports[name] = None  # pools change places: nobody waits for the other
                self._leave(name, self._pools[name].leave(self._grace), group)
        await asyncio.sleep(0)  # their ports are free now
        before, self._refused = self._refused, {}
        for name, port in wanted.items():
            if self._ports.get(name) != port:
                try:
                    await self._place(name, port, group)
                except StartError as fault:
                    self._refuse(name, str(fault), before)

    async def _place(self, name: PoolName, port: int, group: asyncio.TaskGroup) -> None:
        """A new pool, or one that goes to another port: it leaves the one before when it has the next."""
        pool = self._pools.get(name)
        if pool is None:
            self._add(name, port)
            self._begin(name, group)
            return
        pool.bind(port)
        self._ports[name] = port
        if pool in self._seen:
            await pool.open()
        self._leave(name, pool.leave(self._grace, but_the_last=True), group)
        logger.info("pool has moved", extra={"fields": {"pool": str(name), "port": port}})

    def _refuse(self, name: PoolName, why: str, before: Mapping[PoolName, str]) -> None:
        self._refused[name] = why
        if before.get(name) != why:
            fields = {"pool": str(name), "error": why, "retry_seconds": RETRY}
            logger.warning("pool is not served where it is to be", extra={"fields": fields})

    def _begin(self, name: PoolName, group: asyncio.TaskGroup, *, is_started: bool = False) -> asyncio.Event:
        """Each on its own: one whose first lists take long keeps no other waiting."""
        is_open = asyncio.Event()
        life = self._live(name, self._pools[name], is_open, is_started=is_started)
        self._lives[name] = group.create_task(life, name=f"pool: {name}")
        return is_open

    async def _live(self, name: PoolName, pool: AnyPool, is_open: asyncio.Event, *, is_started: bool) -> None:
        if not is_started:
            await pool.start()
        async with asyncio.TaskGroup() as group:
            group.create_task(forever(pool.run(), f"pool {name}"), name=f"endpoints: {name}")
            await self._first_look()
            self._seen.add(pool)
            await pool.open()
            is_open.set()

    def _retire(self, name: PoolName, group: asyncio.TaskGroup) -> None:
        pool, life = self._pools.pop(name), self._lives.pop(name)
        del self._ports[name]
        self._ending.append(pool)
        pool.refuse_waiting()
        self._leave(name, self._end(pool, life), group)
        logger.info("pool is not served any more", extra={"fields": {"pool": str(name)}})

    def _leave(self, name: PoolName, leaving: Coroutine[Any, Any, None], group: asyncio.TaskGroup) -> None:
        task = group.create_task(leaving, name=f"pool leaves: {name}")
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    async def _end(self, pool: AnyPool, life: asyncio.Task[None]) -> None:
        await pool.leave(self._grace)
        life.cancel()
        await asyncio.wait([life])
        self._seen.discard(pool)
        self._ending.remove(pool)
        pool.close()
