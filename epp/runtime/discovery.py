"""Endpoints from a file: read, resolved, followed.

Place:   tells main's callback the complete list whenever it has changed; run by main.
Ignores: whether a server answers (the scraper's business) and what a list is used for.
Rule:    a list is taken over whole or not at all. A broken file keeps the last good list, a name that
         does not resolve keeps its last addresses; both are said once, and shown in metrics and /readyz.

The file is looked at twice a second with one stat call. That needs no dependency, works on every file
system, and sees the symbolic links by which Kubernetes swaps a mounted ConfigMap, where watching the
file itself would watch one that is gone. Looks happen aside of the event loop, and the names are followed
by a task of their own: a file system that hangs stops neither requests nor lookups.

A name is followed to all its addresses of one family, IPv4 if there is any: the two families of a name
are the same servers mostly, and each server must be counted once. A server behind a name is the name and
the slot of its address: under another address it is the same one, moved (a Mac with a new lease).
"""

import asyncio
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeVar

from epp.config.decode import ConfigError
from epp.config.endpoints_file import EndpointEntry, parse_endpoints
from epp.core.fleet import EndpointSpec
from epp.runtime import files
from epp.runtime.errors import StartError
from epp.runtime.files import FileFault
from epp.runtime.metrics import Family, Values
from epp.runtime.supervise import told_or_after

logger = logging.getLogger("epp.discovery")

T = TypeVar("T")
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""Host and port to addresses; OSError when there are none."""
Signature = tuple[int, int, int, int]
Loaded = tuple[Signature, tuple[EndpointEntry, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class DiscoverySettings:
    """Times [s]."""

    named_by: str = "--endpoints-file"
    """The flag or field that names the file."""
    watch: bool = False
    """Follow the file."""
    default_namespace: str = "default"
    engines: Collection[str] = ()
    """Names that ``engine`` may have; empty: any."""
    poll_interval: float = 0.5
    settle: float = 0.1
    """A change is read when it has been the last one for so long: a file may be written piece by piece."""
    patience: float = 5.0
    """A file system that takes longer to answer is said to be wrong."""
    resolve_interval: float = 30.0
    """Between two lookups of a name that resolves."""
    retry_interval: float = 0.25
    """Before the second lookup of one that does not, or to which a connection was lost, doubling up to
    ``resolve_interval``; and the shortest time between two lookups that ``recheck`` asks for."""
    resolve_timeout: float = 5.0
    start_timeout: float = 2.0
    """For the lookups of ``start``, which others wait for."""


async def resolve(host: str, port: int) -> list[str]:
    """The addresses of ``host``, of one family, in a stable order."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    by_family: dict[int, set[str]] = {}
    for family, _, _, _, address in found:
        by_family.setdefault(family, set()).add(str(address[0]))
    return sorted(by_family.get(socket.AF_INET) or by_family.get(socket.AF_INET6) or ())


class _Name:
    """A host name of the file and the addresses it has now, each in a slot that it keeps.

    The slot is the address's number in endpoint names: whatever other addresses come and go, an
    address stays the endpoint it was.
    """

    __slots__ = ("due", "error", "is_doubted", "looked_up_at", "slots", "tries")

    def __init__(self) -> None:
        self.slots: list[str | None] = []
        self.due = float("-inf")
        self.looked_up_at = float("-inf")
        self.error = ""
        self.is_doubted = False
        """A connection to an address was lost, and the addresses are the same since."""
        self.tries = 0
        """Lookups since then, or since they fail, that brought nothing new."""

    @property
    def addresses(self) -> set[str]:
        return {address for _, address in self.numbered()}

    def take(self, addresses: Iterable[str]) -> None:
        """These are the addresses now."""
        wanted = dict.fromkeys(addresses)
        self.slots = [slot if slot in wanted else None for slot in self.slots]
        new = [address for address in wanted if address not in self.slots]
        for address in new:
            if None in self.slots:
                self.slots[self.slots.index(None)] = address
            else:
                self.slots.append(address)
        while self.slots and self.slots[-1] is None:
            self.slots.pop()

    def numbered(self) -> list[tuple[int, str]]:
        """Each address with its slot."""
        return [(slot, address) for slot, address in enumerate(self.slots) if address is not None]


class FileDiscovery:
    """Follows one file. ``start`` once, then ``run`` until it is cancelled."""

    def __init__(
        self,
        path: Path,
        settings: DiscoverySettings,
        on_change: Callable[[Sequence[EndpointSpec]], None],
        *,
        clock: Callable[[], float],
        resolve: Resolve = resolve,
    ) -> None:
        self.error = ""
        """Why the file as it is now is not in use; empty when it is."""
        self.errors = 0
        self._path = path
        self._settings = settings
        self._on_change = on_change
        self._clock = clock
        self._resolve = resolve
        self._written: tuple[EndpointEntry, ...] = ()
        """As in the last good file; told once its names are looked up."""
        self._names: dict[tuple[str, int], _Name] = {}
        self._seen: Signature | None = None
        self._specs: tuple[EndpointSpec, ...] | None = None
        self._twins: dict[str, str] = {}
        self._look = asyncio.Event()
        self._asked_for = False
        self._names_due = asyncio.Event()

    # --- what others call

    async def start(self) -> None:
        """Read the file and tell its endpoints; StartError if it cannot be used.

        Names that do not resolve now are logged and tried again by ``run``.
        """
        try:
            self._seen, self._written = await self._aside(self._load)
        except FileFault as fault:
            raise StartError(f"{self._settings.named_by}: {self._path} {fault}") from fault
        except ConfigError as fault:
            raise StartError(str(fault)) from fault
        self.error = ""
        if any(entry.is_literal for entry in self._written):
            self._publish(self._written)  # these need not wait for a slow name server
        await self._follow_names_once(self._settings.start_timeout)

    async def run(self) -> None:
        """Follow the file and its names."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow_file(), name="discovery: file")
            group.create_task(self._follow_names(), name="discovery: names")

    def close(self) -> None:
        """Everything that is taken belongs to ``run``."""

    def reread(self) -> None:
        """Take the file over as it is now, followed or not, changed or not, and look up its names."""
        self._asked_for = True
        self._look.set()
        for name in self._names.values():
            name.due = self._clock()
        self._names_due.set()

    def recheck(self, host_name: str) -> None:
        """A connection to this name was lost: its addresses may have changed, or are about to."""
        now = self._clock()
        for (host, _), name in self._names.items():
            if host == host_name:
                name.is_doubted, name.tries = True, 0
                # however many connections break, and whether or not the name is being looked up just now
                name.due = min(name.due, max(now, name.looked_up_at + self._settings.retry_interval))
                self._names_due.set()

    def detail(self) -> str:
        """What is wrong, for /readyz; empty when nothing is."""
        names = [f"{host}: {name.error}" for (host, _), name in self._names.items() if name.error]
        return "; ".join([self.error, *names] if self.error else names)

    def families(self) -> Iterable[Family]:
        help_text = "Times that a changed endpoints file could not be used."
        yield Values(
            "fleet_epp_endpoints_file_errors_total", "counter", help_text, (), {(): float(self.errors)}
        )
        help_text = "1: the endpoints file is in use as it is; 0: an older content is."
        yield Values("fleet_epp_endpoints_file_valid", "gauge", help_text, (), {(): float(not self.error)})
        unresolved = float(sum(bool(name.error) for name in self._names.values()))
        help_text = "Host names of the endpoints file whose last lookup failed."
        yield Values("fleet_epp_unresolved_host_names", "gauge", help_text, (), {(): unresolved})

    # --- the file

    async def _follow_file(self) -> None:
        while True:
            await told_or_after(self._look, self._settings.poll_interval if self._settings.watch else None)
            asked_for, self._asked_for = self._asked_for, False
            await self._reread(asked_for=asked_for)

    async def _reread(self, *, asked_for: bool) -> None:
        """Take over the file if it has changed and is good."""
        signature = await self._aside(self._signature)
        if signature == self._seen and not asked_for:
            return
        await asyncio.sleep(self._settings.settle)
        if await self._aside(self._signature) != signature:
            if asked_for:  # there is a next round, followed or not
                self._asked_for = True
                self._look.set()
            return  # still being written: the next round sees it
        self._seen = signature
        try:
            self._seen, self._written = await self._aside(self._load)
        except FileFault as fault:
            self._broken(f"{self._path}: {fault}", say_again=asked_for)
        except ConfigError as fault:
            self._broken(str(fault), say_again=asked_for)
        else:
            self.error = ""
            logger.log(
                logging.INFO if self._written else logging.WARNING,
                "endpoints file taken over",
                extra={"fields": {"file": str(self._path), "endpoints": len(self._written)}},
            )
            self._names_due.set()

    async def _aside(self, work: Callable[[], T]) -> T:
        """``work``, which waits for the file system; said to be wrong when that takes long."""
        answer = files.aside(work, name="endpoints file")
        try:
            await asyncio.wait({answer}, timeout=self._settings.patience)
            if not answer.done():
                self._seen = None  # read it when it answers, though it may be the same
                self._broken(
                    f"{self._path}: no answer from its file system for {self._settings.patience:g} s"
                )
            return await answer
        finally:
            answer.cancel()

    def _load(self) -> Loaded:
        """Read and parse, which takes tenths of a second for a large list."""
        content, status = files.read(self._path)
        entries = parse_endpoints(
            files.as_text(content),
            str(self._path),
            default_namespace=self._settings.default_namespace,
            engines=self._settings.engines,
            check_ca_file=cache(self._check_ca_file),
        )
        return _signature(status), entries

    def _check_ca_file(self, written: str) -> None:
        file = self._path.parent / written
        try:
            files.read_authorities(file)
        except FileFault as fault:
            raise ValueError(f"{file} {fault}") from fault

    def _signature(self) -> Signature | None:
        try:
            return _signature(self._path.stat())
        except (OSError, ValueError):  # ValueError: no file can be called so
            return None

    def _broken(self, message: str, *, say_again: bool = False) -> None:
        """``say_again``: who asks for the file to be read wants to know, though it is as before."""
        self.errors += 1
        if say_again or message != self.error:
            stays = "endpoints file not usable, the last good list stays"
            logger.error(
                "endpoints file not usable" if self._specs is None else stays,
                extra={"fields": {"error": message}},
            )
        self.error = message

    # --- names

    async def _follow_names(self) -> None:
        while True:
            due = min((name.due for name in self._names.values()), default=float("inf"))
            await told_or_after(
                self._names_due, None if due == float("inf") else max(due - self._clock(), 0.0)
            )
            await self._follow_names_once(self._settings.resolve_timeout)

    async def _follow_names_once(self, timeout: float) -> None:
        """Look up what is due, and tell the list that comes of it."""
        entries = self._written  # another file may be taken over during the lookups
        await self._resolve_due(entries, timeout)
        self._publish(entries)

    async def _resolve_due(self, entries: Iterable[EndpointEntry], timeout: float) -> None:
        """Look up what is due, all at once."""
        wanted = {(e.address, e.port) for e in entries if not e.is_literal}
        self._names = {key: self._names.get(key) or _Name() for key in sorted(wanted)}
        now = self._clock()
        async with asyncio.TaskGroup() as lookups:
            for (host, port), name in self._names.items():
                if name.due <= now:
                    lookups.create_task(self._look_up(host, port, name, timeout), name=f"resolve: {host}")

    async def _look_up(self, host: str, port: int, name: _Name, timeout: float) -> None:
        name.looked_up_at = self._clock()
        addresses: Sequence[str] = ()
        try:
            async with asyncio.timeout(timeout):
                addresses = await self._resolve(host, port)
            error = "" if addresses else "the name has no address"
        except TimeoutError:
            error = f"no answer within {timeout:g} s"
        except (OSError, UnicodeError) as fault:  # UnicodeError: no such name can exist
            error = getattr(fault, "strerror", None) or str(fault)
        name.is_doubted &= bool(error) or name.addresses == set(addresses)
        name.tries = name.tries + 1 if error or name.is_doubted else 0
        wait = self._settings.retry_interval * 2 ** min(name.tries - 1, 16) if name.tries else float("inf")
        name.due = self._clock() + min(wait, self._settings.resolve_interval)
        if error and error != name.error:
            kept = "its last addresses stay" if name.slots else "it is tried again"
            logger.warning(
                "host name does not resolve",
                extra={"fields": {"host": host, "error": error, "consequence": kept}},
            )
        elif name.error and not error:
            logger.info("host name resolves again", extra={"fields": {"host": host}})
        name.error = error
        if not error:
            name.take(addresses)

    # --- the list

    def _publish(self, entries: Sequence[EndpointEntry]) -> None:
        """Tell the list if it is another one than last time."""
        taken = {(entry.namespace, entry.name) for entry in entries}
        specs = tuple(spec for entry in entries for spec in self._specs_of(entry, taken))
        if specs != self._specs:
            self._specs = specs
            self._warn_of_twins(specs)
            self._on_change(specs)

    def _warn_of_twins(self, specs: Iterable[EndpointSpec]) -> None:
        known, self._twins = self._twins, _twins(specs)
        for address, names in self._twins.items():
            if known.get(address) != names:
                logger.warning(
                    "endpoints have the same address: list each server once",
                    extra={"fields": {"endpoints": names, "address": address}},
                )

    def _specs_of(self, entry: EndpointEntry, taken: set[tuple[str, str]]) -> Iterable[EndpointSpec]:
        """An endpoint for each address, the first slot's with the plain name."""
        if entry.is_literal:
            yield self._spec(entry, entry.name, entry.address, identity="")
        elif name := self._names.get((entry.address, entry.port)):
            for number, address in name.numbered():
                own = entry.name
                if number:
                    own = f"{entry.name}-{number}"
                    while (entry.namespace, own) in taken:  # another entry is called so in the file
                        own += f"@{entry.address}"
                    taken.add((entry.namespace, own))
                yield self._spec(entry, own, address, identity=f"{entry.address}/{number}")

    def _spec(self, entry: EndpointEntry, name: str, ip: str, *, identity: str) -> EndpointSpec:
        return EndpointSpec(
            name=name,
            namespace=entry.namespace,
            ip=ip,
            port=entry.port,
            labels=entry.labels,
            engine=entry.engine,
            metrics_url=entry.metrics_url,
            scheme=entry.scheme,
            host_name="" if entry.is_literal else entry.address,
            ca_file=self._beside(entry.ca_file),
            api_key_file=self._beside(entry.api_key_file),
            tier=entry.tier,
            identity=identity,
        )

    def _beside(self, file: str | None) -> str | None:
        """A file named in the list, as seen from the list's own directory."""
        return None if file is None else str(self._path.parent / file)


def _twins(specs: Iterable[EndpointSpec]) -> dict[str, str]:
    """By address, the names of those that share it: each gets a share, and knows half of what goes there."""
    named: dict[str, list[str]] = {}
    for spec in specs:
        named.setdefault(spec.address, []).append(f"{spec.namespace}/{spec.name}")
    return {address: " and ".join(names) for address, names in named.items() if len(names) > 1}


def _signature(status: os.stat_result) -> Signature:
    """Changes with every new content, also when another file takes the place."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
