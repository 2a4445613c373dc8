"""Several sources of endpoints as one list: a pool in Kubernetes and a file beside it.

Place:   between the discoveries and main's callback.
Ignores: where a source has its endpoints from.
Rule:    nothing is told before every source has started, so that a restart never serves half a fleet; from
         then on each source's last list counts. A server is listed once: what an earlier source says of an
         address counts.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

from epp.core.fleet import EndpointSpec
from epp.core.listing import merge
from epp.runtime.metrics import Family
from epp.runtime.supervise import forever

logger = logging.getLogger("epp.discovery")

OnChange = Callable[[Sequence[EndpointSpec]], None]


class Discovery(Protocol):
    """Where endpoints come from. ``start`` once, then ``run`` until it is cancelled."""

    async def start(self) -> None:
        """Tell what there is; StartError if there cannot be anything."""

    async def run(self) -> None:
        """Tell what changes."""

    def reread(self) -> None:
        """Look again at everything."""

    def recheck(self, host_name: str) -> None:
        """A connection to this name was lost."""

    def detail(self) -> str:
        """What is wrong, for /readyz; empty when nothing is."""

    def families(self) -> Iterable[Family]:
        """What it has to tell Prometheus."""


class Sources:
    """One Discovery of several. ``make``: by name for people, what makes each of its callback."""

    def __init__(self, make: Mapping[str, Callable[[OnChange], Discovery]], on_change: OnChange) -> None:
        self._on_change = on_change
        self._told: dict[str, Sequence[EndpointSpec]] = {}
        self._twins: dict[str, str] = {}
        self._is_started = False
        self._sources = {name: made(self._taker(name)) for name, made in make.items()}

    async def start(self) -> None:
        """Start one after the other, and tell what they have told; nothing if none has."""
        for source in self._sources.values():
            await source.start()
        self._is_started = True
        if self._told:
            self._tell()

    async def run(self) -> None:
        """Run all."""
        async with asyncio.TaskGroup() as group:
            for name, source in self._sources.items():
                group.create_task(forever(source.run(), name), name=f"discovery: {name}")

    def reread(self) -> None:
        for source in self._sources.values():
            source.reread()

    def recheck(self, host_name: str) -> None:
        for source in self._sources.values():
            source.recheck(host_name)

    def detail(self) -> str:
        return "; ".join(filter(None, (source.detail() for source in self._sources.values())))

    def families(self) -> Iterable[Family]:
        for source in self._sources.values():
            yield from source.families()

    def _taker(self, name: str) -> OnChange:
        def take(specs: Sequence[EndpointSpec]) -> None:
            self._told[name] = specs
            if self._is_started:
                self._tell()

        return take

    def _tell(self) -> None:
        lists = [self._told[name] for name in self._sources if name in self._told]
        specs, twins = merge(lists)
        for address, names in twins.items():
            if self._twins.get(address) != names:
                logger.warning(
                    "a server is listed twice: only its first entry counts",
                    extra={"fields": {"address": address, "endpoints": names}},
                )
        self._twins = twins
        self._on_change(specs)
