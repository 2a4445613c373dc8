"""Reads what is told about endpoints beside their metrics: GPU figures, lists of models.

Place:   writes epp.core.fleet (found_beside, lists); made only where a configuration asks for it; run by
         epp.process next to epp.runtime.scrape, which alone decides who is alive.
Ignores: whether an endpoint can serve; a page that does not come is a figure that is not known.
Rule:    at a slow pace, ``PLACES`` at a time, and a page that tells of several endpoints is read once:
         nothing here may delay or disturb the looks at the servers.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from epp.core.fleet import Endpoint, Fleet
from epp.core.side_pages import gpu_utilization, listed_models
from epp.runtime.files import FileFault
from epp.runtime.http_client import Connection, FetchError, Server
from epp.runtime.probe import ProbeSettings, TlsContexts, check_files, read_key
from scorers.dcgm_data_source import DcgmDataSource
from scorers.dcgm_extractor import ATTRIBUTE
from scorers.models_data_source import ModelsDataSource

logger = logging.getLogger("epp.side_scrape")

PLACES = 16
TIMEOUT = 2.0
"""Seconds for one page."""
SOON = 1.0
"""Seconds until a new endpoint is asked about."""
LASTS = 3.0
"""Intervals for which a figure counts."""
MAX_PAGE = 4 << 20
MAX_WRONG = 10_000


@dataclass(slots=True)
class SideStats:
    """What happened so far, for metrics."""

    poll_errors: int = 0
    """Pages that did not come."""
    extract_errors: int = 0
    """Pages that say nothing of whom they should tell."""


class _Whom(NamedTuple):
    """Who is asked, and with what: endpoints with the same one share an answer."""

    scheme: str
    host: str
    port: int
    host_name: str
    api_key_file: str | None
    ca_file: str | None


class SideSource:
    """One source: what is asked of whom, and who is told."""

    def __init__(self, fleet: Fleet, settings: DcgmDataSource | ModelsDataSource) -> None:
        self.interval = settings.interval
        self.path = settings.path
        self.name = "dcgm-data-source" if isinstance(settings, DcgmDataSource) else "models-data-source"
        self.extractor = settings.extractor
        self.stats = SideStats()
        self.wrong: dict[_Whom, str] = {}
        """What is wrong with pages that cannot be read: said once."""
        self._fleet = fleet
        self._settings = settings
        certificate = (settings.client_cert_path, settings.client_key_path)
        probe = ProbeSettings(
            verify_tls=not settings.insecure_skip_verify,
            ca_file=settings.ca_cert_path or None,
            client_certificate=certificate if settings.client_cert_path else None,
        )
        self._files_timeout = probe.files_timeout
        check_files(probe)
        self._contexts = TlsContexts(probe)

    def pages(self, endpoints: Iterable[Endpoint]) -> Sequence[tuple[_Whom, Sequence[Endpoint]]]:
        """The pages that tell of these endpoints, each once."""
        found: dict[_Whom, list[Endpoint]] = {}
        for endpoint in endpoints:
            found.setdefault(self._whom(endpoint), []).append(endpoint)
        return list(found.items())

    def _whom(self, endpoint: Endpoint) -> _Whom:
        spec, settings = endpoint.spec, self._settings
        scheme = settings.scheme or spec.scheme
        if settings.port is None:
            return _Whom(scheme, spec.ip, spec.port, spec.host_name, spec.api_key_file, spec.ca_file)
        host = (spec.node if settings.use_node_address else "") or spec.ip
        return _Whom(scheme, host, settings.port, "", None, None)

    async def server(self, whom: _Whom) -> Server:
        """FileFault or FetchError: its key or certificates cannot be read."""
        name, key_file = whom.host_name, whom.api_key_file
        return Server(
            host=whom.host,
            port=whom.port,
            host_header=f"{name}:{whom.port}" if name else "",
            tls=await self._contexts.get(whom.ca_file) if whom.scheme == "https" else None,
            server_name=name,
            bearer=await read_key(key_file, self._files_timeout) if key_file else "",
        )

    def take(self, endpoint: Endpoint, page: bytes, until: float) -> bool:
        """Tell the fleet what ``page`` says, which counts ``until`` [s]; whether it says anything."""
        if isinstance(self._settings, DcgmDataSource):
            name, namespace = endpoint.name, endpoint.spec.namespace
            value = gpu_utilization(page, name=name, namespace=namespace)
            if value is not None:
                self._fleet.found_beside(endpoint, {ATTRIBUTE: value}, until)
            return value is not None
        models = listed_models(page)
        if models is not None:
            self._fleet.lists(endpoint, models)
        return models is not None


class SideScraper:
    """Reads every source for every endpoint of one fleet. ``run`` must be running for anything to happen."""

    def __init__(self, fleet: Fleet, sources: Sequence[SideSource], *, clock: Callable[[], float]) -> None:
        self.sources = tuple(sources)
        self._fleet = fleet
        self._clock = clock

    async def run(self) -> None:
        """Read until cancelled."""
        async with asyncio.TaskGroup() as group:
            for source in self.sources:
                group.create_task(self._keep(source), name=f"side scrape: {source.name}")

    async def _keep(self, source: SideSource) -> None:
        asked: set[Endpoint] = set()
        due = self._clock()
        while True:
            endpoints = self._fleet.endpoints
            asked &= set(endpoints)
            if self._clock() >= due:
                asked.clear()
                due = self._clock() + source.interval
            new = [each for each in endpoints if each not in asked]
            asked.update(new)
            await self._read(source, new)
            if not asked.issuperset(self._fleet.endpoints):
                continue
            await asyncio.sleep(min(max(due - self._clock(), 0.0), SOON))

    async def _read(self, source: SideSource, endpoints: Sequence[Endpoint]) -> None:
        pages = source.pages(endpoints)
        waiting = iter(pages)
        lasts = LASTS * source.interval + TIMEOUT * len(pages) / PLACES  # where many do not answer

        async def work() -> None:
            for whom, those in waiting:  # shared: each takes the next one
                await self._safely_ask(source, whom, those, lasts)

        async with asyncio.TaskGroup() as group:
            for place in range(min(PLACES, len(pages))):
                group.create_task(work(), name=f"side scrape: {source.name} {place}")

    async def _safely_ask(
        self, source: SideSource, whom: _Whom, those: Sequence[Endpoint], lasts: float
    ) -> None:
        try:
            wrong = await self._ask(source, whom, those, lasts)
        except Exception as error:  # one server's oddity; the others are to be read
            source.stats.poll_errors += 1
            logger.exception("defect while reading a page beside the metrics")
            wrong = f"defect: {type(error).__name__}"
        before = source.wrong.pop(whom, "")
        if wrong:
            source.wrong[whom] = wrong
            while len(source.wrong) > MAX_WRONG:  # of servers that have gone
                source.wrong.pop(next(iter(source.wrong)))
        if wrong and not before:
            fields = {"source": source.name, "address": f"{whom.host}:{whom.port}", "remark": wrong}
            logger.warning("a page beside the metrics cannot be read", extra={"fields": fields})

    async def _ask(self, source: SideSource, whom: _Whom, those: Sequence[Endpoint], lasts: float) -> str:
        """What is wrong with the page, or nothing."""
        try:
            connection = Connection(await source.server(whom), max_body=MAX_PAGE)
            try:
                page = await connection.get(source.path, TIMEOUT)
            finally:
                await connection.aclose()
        except (FetchError, FileFault) as error:
            source.stats.poll_errors += 1
            return str(error)
        if page.status != 200:
            source.stats.poll_errors += 1
            return f"it answers {page.status} to {source.path}"
        until = self._clock() + lasts
        told = [source.take(each, page.body, until) for each in those]
        if any(told):
            return ""
        source.stats.extract_errors += 1
        return f"its {source.path} says nothing about {those[0].name}"
