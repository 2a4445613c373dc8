"""Keeps the pools running that are wanted, each on its port, as they come and go.

Place:   run by main; a pool's parts are put together by epp.pool.
Ignores: what a pool is made of, and who wants it.
Rule:    at the start a port that cannot be had is an error; later it is logged and tried again, and the other
         pools go on. A pool that goes, or moves to another port, finishes what it has begun.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Generic, Protocol, TypeVar

from epp.config.cluster.wishes import PoolName
from epp.runtime.errors import StartError
from epp.runtime.supervise import forever, told_or_after

logger = logging.getLogger("epp.pools")

RETRY = 5.0
"""[s] After which a port is tried again that could not be had."""


class Pool(Protocol):
    """One pool's parts. ``bind`` and ``start`` first, then ``run`` and ``open``; ``close`` last."""

    def bind(self, port: int) -> None:
        """Take the port; StartError if it cannot be had."""

    async def start(self) -> None:
        """Find the endpoints."""

    async def run(self) -> None:
        """Keep up with them, until cancelled."""

    async def open(self) -> None:
        """Serve on it."""

    async def leave(self, grace: float) -> None:
        """Free the port at once; open streams may finish for ``grace`` seconds."""

    def close(self) -> None:
        """Leave nothing behind."""


AnyPool = TypeVar("AnyPool", bound=Pool)


class Keeper(Generic[AnyPool]):
    """``make``: puts a pool together. ``first_look``: waits until new endpoints have been looked at.

    ``grace`` [s]: for what a pool has begun when it goes.
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
        """None: it has left one, and the next cannot be had."""
        self._running: dict[PoolName, asyncio.Task[None]] = {}
        self._refused: dict[PoolName, str] = {}

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
            await self._open(tuple(self._pools), group)
            self.is_open.set()
            while True:
                await told_or_after(changed, RETRY if self._refused else None)
                await self._take(wanted(), group)

    async def leave(self, grace: float) -> None:
        """All ports, at the end."""
        await asyncio.gather(*(pool.leave(grace) for pool in self._pools.values()))

    # --- inside

    def _add(self, name: PoolName, port: int) -> None:
        pool = self._make(name)
        try:
            pool.bind(port)
        except StartError:
            pool.close()
            raise
        self._pools[name], self._ports[name] = pool, port

    async def _open(self, names: Sequence[PoolName], group: asyncio.TaskGroup) -> None:
        for name in names:
            running = self._run(name, self._pools[name])
            self._running[name] = group.create_task(running, name=f"pool: {name}")
        await self._first_look()
        for name in names:
            await self._pools[name].open()

    async def _run(self, name: PoolName, pool: AnyPool) -> None:
        await forever(pool.run(), f"pool {name}")

    async def _take(self, wanted: Mapping[PoolName, int], group: asyncio.TaskGroup) -> None:
        for name in tuple(self._pools):
            if name not in wanted:
                self._retire(name, group)
            elif self._ports[name] not in (wanted[name], None):
                self._ports[name] = None
                group.create_task(self._pools[name].leave(self._grace), name=f"pool moves: {name}")
        await asyncio.sleep(0)  # their ports are free now
        before, self._refused = self._refused, {}
        for name in [name for name, port in self._ports.items() if port is None]:
            await self._try(name, self._move(name, wanted[name]), before)
        fresh = [name for name in wanted if name not in self._pools]
        for name in fresh:
            await self._try(name, self._admit(name, wanted[name]), before)
        fresh = [name for name in fresh if name in self._pools]
        if fresh:
            await asyncio.gather(*(self._pools[name].start() for name in fresh))
            await self._open(fresh, group)

    async def _try(self, name: PoolName, step: Awaitable[None], before: Mapping[PoolName, str]) -> None:
        try:
            await step
        except StartError as fault:
            self._refused[name] = str(fault)
            if before.get(name) != str(fault):
                fields = {"pool": str(name), "error": str(fault), "retry_seconds": RETRY}
                logger.warning("pool is not served where it is to be", extra={"fields": fields})

    async def _admit(self, name: PoolName, port: int) -> None:
        self._add(name, port)

    async def _move(self, name: PoolName, port: int) -> None:
        pool = self._pools[name]
        pool.bind(port)
        self._ports[name] = port
        await pool.open()
        logger.info("pool has moved", extra={"fields": {"pool": str(name), "port": port}})

    def _retire(self, name: PoolName, group: asyncio.TaskGroup) -> None:
        pool, running = self._pools.pop(name), self._running.pop(name)
        del self._ports[name]
        group.create_task(self._end(pool, running), name=f"pool ends: {name}")
        logger.info("pool is not served any more", extra={"fields": {"pool": str(name)}})

    async def _end(self, pool: AnyPool, running: asyncio.Task[None]) -> None:
        await pool.leave(self._grace)
        running.cancel()
        await asyncio.wait([running])
        pool.close()
