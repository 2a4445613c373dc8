"""Several sources of endpoints as one list: a pool in Kubernetes and a file beside it.

Place:   between the discoveries and main's callback.
Ignores: where a source has its endpoints from.
Rule:    nothing is told before every source has started, and a source starts for as long as it has patience
         to get its list: a restart does not send everything to half a fleet. Whoever has told nothing by
         then is waited for no longer, since half a fleet is better than none; that is logged once, and in
         /readyz as long as it lasts. From then on each source's last list counts. A server is listed once:
         what an earlier source says of an address counts.
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
        """Tell what there is, or give up waiting for it; StartError if there cannot be anything."""

    async def run(self) -> None:
        """Tell what changes."""

    def close(self) -> None:
        """Leave nothing behind, whether it has run or not."""

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
        if alone := self._alone():
            logger.warning("a source has told no endpoints yet", extra={"fields": {"consequence": alone}})

    async def run(self) -> None:
        """Run all."""
        async with asyncio.TaskGroup() as group:
            for name, source in self._sources.items():
                group.create_task(forever(source.run(), name), name=f"discovery: {name}")

    def close(self) -> None:
        for source in self._sources.values():
            source.close()

    def reread(self) -> None:
        for source in self._sources.values():
            source.reread()

    def recheck(self, host_name: str) -> None:
        for source in self._sources.values():
            source.recheck(host_name)

    def detail(self) -> str:
        details = [self._alone(), *(source.detail() for source in self._sources.values())]
        return "; ".join(filter(None, details))

    def families(self) -> Iterable[Family]:
        for source in self._sources.values():
            yield from source.families()

    def _alone(self) -> str:
        """Who serves without whom; empty: nothing has been told, or all of it."""
        silent = [name for name in self._sources if name not in self._told]
        if not (silent and self._told and self._is_started):
            return ""
        told = " and ".join(name for name in self._sources if name in self._told)
        return f"{' and '.join(silent)}: no endpoints told yet, {told} serves alone"

    def _taker(self, name: str) -> OnChange:
        def take(specs: Sequence[EndpointSpec]) -> None:
            if self._is_started and name not in self._told:
                logger.info("a source has told its endpoints", extra={"fields": {"source": name}})
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
