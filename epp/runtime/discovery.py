"""Endpoints from a file: read, resolved, followed.

Place:   tells main's callback the complete list whenever it has changed; run by main.
Ignores: whether a server answers (the scraper's business) and what a list is used for.
Rule:    a list is taken over whole or not at all. A broken file keeps the last good list, a name that
         does not resolve keeps its last addresses; both are said once, and shown in metrics and /readyz.

The file is looked at once a second with one stat call (microseconds). That needs no dependency, works
on every file system, and sees the symbolic links by which Kubernetes swaps a mounted ConfigMap, where
watching the file itself would watch one that is gone.

A name is followed to all its addresses of one family, IPv4 if there is any: the two families of a name
are the same servers mostly, and each server must be counted once.
"""

import asyncio
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from epp.config.decode import ConfigError
from epp.config.endpoints_file import EndpointEntry, parse_endpoints
from epp.core.fleet import EndpointSpec
from epp.runtime.errors import StartError
from epp.runtime.metrics import Family, Values

logger = logging.getLogger("epp.discovery")

MAX_BYTES = 1 << 20
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""Host and port to addresses; OSError when there are none."""
Signature = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class DiscoverySettings:
    """Times [s]."""

    watch: bool = False
    """Follow the file."""
    default_namespace: str = "default"
    engines: Collection[str] = ()
    """Names that ``engine`` may have; empty: any."""
    poll_interval: float = 1.0
    settle: float = 0.1
    """A change is read when it has been the last one for so long: a file may be written piece by piece."""
    resolve_interval: float = 30.0
    """Between two lookups of a name that resolves."""
    retry_interval: float = 2.0
    """Before the second lookup of one that does not, doubling up to ``resolve_interval``; and the
    shortest time between two lookups that ``recheck`` asks for."""
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

    __slots__ = ("due", "error", "failures", "looked_up_at", "slots")

    def __init__(self) -> None:
        self.slots: list[str | None] = []
        self.due = float("-inf")
        self.looked_up_at = float("-inf")
        self.error = ""
        self.failures = 0

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
        self._entries: tuple[EndpointEntry, ...] = ()
        self._names: dict[tuple[str, int], _Name] = {}
        self._seen: Signature | None = None
        self._specs: tuple[EndpointSpec, ...] | None = None
        self._wake = asyncio.Event()

    # --- what others call

    async def start(self) -> None:
        """Read the file and tell its endpoints; StartError if it cannot be used.

        Names that do not resolve now are logged and tried again by ``run``.
        """
        try:
            text = self._read()
            self._entries = self._parse(text)
        except (OSError, ConfigError, ValueError) as fault:
            raise StartError(self._said(fault)) from fault
        if any(entry.is_literal for entry in self._entries):
            self._publish()  # these need not wait for a slow name server
        await self._resolve_due(self._settings.start_timeout)
        self._publish()

    async def run(self) -> None:
        """Follow the file and its names."""
        while True:
            await self._sleep()
            if self._settings.watch:
                await self._reread()
            await self._resolve_due(self._settings.resolve_timeout)
            self._publish()

    def recheck(self, host_name: str) -> None:
        """A connection to this name was lost: its addresses may have changed."""
        now = self._clock()
        for (host, _), name in self._names.items():
            # however many connections break, and whether or not the name is being looked up just now
            if host == host_name and now - name.looked_up_at >= self._settings.retry_interval:
                name.due = now
                self._wake.set()

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

    def _read(self) -> str:
        with self._path.open("rb") as file:
            self._seen = _signature(os.fstat(file.fileno()))
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise ConfigError(f"{self._path}: is larger than {MAX_BYTES >> 20} MiB")
        return content.decode()

    def _parse(self, text: str) -> tuple[EndpointEntry, ...]:
        return parse_endpoints(
            text,
            str(self._path),
            default_namespace=self._settings.default_namespace,
            engines=self._settings.engines,
        )

    async def _reread(self) -> None:
        """Take over the file if it has changed and is good."""
        signature = self._signature()
        if signature == self._seen:
            return
        await asyncio.sleep(self._settings.settle)
        if self._signature() != signature:
            return  # still being written: the next round sees it
        self._seen = signature
        try:
            if (
                self._path.exists() and not self._path.is_file()
            ):  # opening a pipe would wait for its writer, and requests with it
                raise ConfigError(f"{self._path}: is not a regular file")
            text = self._read()
            # a large list takes tenths of a second to parse: not on the event loop
            self._entries = await asyncio.to_thread(self._parse, text)
        except (OSError, ConfigError, ValueError) as fault:
            self._broken(self._said(fault))
        else:
            self.error = ""
            logger.log(
                logging.INFO if self._entries else logging.WARNING,
                "endpoints file taken over",
                extra={"fields": {"file": str(self._path), "endpoints": len(self._entries)}},
            )

    def _signature(self) -> Signature | None:
        try:
            return _signature(self._path.stat())
        except OSError:
            return None

    def _broken(self, message: str) -> None:
        self.errors += 1
        if message != self.error:
            logger.error(
                "endpoints file not usable, the last good list stays", extra={"fields": {"error": message}}
            )
        self.error = message

    def _said(self, fault: Exception) -> str:
        if isinstance(fault, OSError):
            return f"{self._path}: cannot be read: {fault.strerror}"
        if isinstance(fault, UnicodeDecodeError):
            return f"{self._path}: is not UTF-8 text"
        return str(fault)

    # --- names

    async def _resolve_due(self, timeout: float) -> None:
        """Look up what is due, all at once."""
        wanted = {(e.address, e.port) for e in self._entries if not e.is_literal}
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
        name.failures = name.failures + 1 if error else 0
        wait = self._settings.retry_interval * 2 ** min(name.failures - 1, 16) if error else float("inf")
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

    def _publish(self) -> None:
        """Tell the list if it is another one than last time."""
        taken = {(entry.namespace, entry.name) for entry in self._entries}
        specs = tuple(spec for entry in self._entries for spec in self._specs_of(entry, taken))
        if specs != self._specs:
            self._specs = specs
            self._on_change(specs)

    def _specs_of(self, entry: EndpointEntry, taken: set[tuple[str, str]]) -> Iterable[EndpointSpec]:
        """An endpoint for each address, the first slot's with the plain name."""
        if entry.is_literal:
            yield self._spec(entry, entry.name, entry.address)
        elif name := self._names.get((entry.address, entry.port)):
            for number, address in name.numbered():
                own = entry.name
                if number:
                    own = f"{entry.name}-{number}"
                    while (entry.namespace, own) in taken:  # another entry is called so in the file
                        own += f"@{address}"
                    taken.add((entry.namespace, own))
                yield self._spec(entry, own, address)

    def _spec(self, entry: EndpointEntry, name: str, ip: str) -> EndpointSpec:
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
        )

    def _beside(self, file: str | None) -> str | None:
        """A file named in the list, as seen from the list's own directory."""
        return None if file is None else str(self._path.parent / file)

    async def _sleep(self) -> None:
        """Until the file or a name is due; for ever if neither ever is."""
        due = min((name.due for name in self._names.values()), default=float("inf"))
        wait = due - self._clock()
        if self._settings.watch:
            wait = min(wait, self._settings.poll_interval)
        try:
            async with asyncio.timeout(None if wait == float("inf") else max(wait, 0.0)):
                await self._wake.wait()
        except TimeoutError:
            pass
        self._wake.clear()


def _signature(status: os.stat_result) -> Signature:
    """Changes with every new content, also when another file takes the place."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
