"""The HTTP port for operators: metrics, probes, and why requests went where they went.

Place:   started by main beside the gRPC server; reads, never writes.
Ignores: how it is known who asks: Access says whether a page may be shown (--metrics-endpoint-auth); TLS
         and client certificates are --metrics-cert-dir and --metrics-client-ca-file. Probes are for all.
Rule:    nothing here may delay a request: aiohttp and prometheus-client (400 ms) are imported in a thread
         after the gRPC port is open, and the metrics page is written piece by piece. To compress a piece
         of 35 KB takes 0.06 to 0.3 ms: less than handing it to a thread and back.
"""

import asyncio
import heapq
import importlib
import json
import logging
import re
import socket
import ssl
import zlib
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Protocol

from epp.core.fleet import Endpoint, Fleet
from epp.core.scheduling import REMEMBERED, Scheduler, describe
from epp.runtime.health import Readiness
from epp.runtime.metrics import CONTENT_TYPE, Metrics, PoolEndpoints

if TYPE_CHECKING:
    from aiohttp import web

logger = logging.getLogger("epp.admin")

Handler = Callable[["web.Request"], Awaitable["web.StreamResponse"]]


def describe_endpoint(endpoint: Endpoint, now: float) -> dict[str, Any]:
    """One endpoint as the picker sees it; null is unknown."""
    load = endpoint.load
    return {
        "name": endpoint.name,
        "namespace": endpoint.spec.namespace,
        "address": endpoint.address,
        "host": endpoint.spec.host_name or None,
        "engine": endpoint.engine,
        "tier": endpoint.spec.tier,
        "phase": endpoint.lifecycle.phase.value,
        "reason": endpoint.lifecycle.reason,
        "phase_seconds": round(now - endpoint.lifecycle.since, 3),
        "load": {
            "age_seconds": None if endpoint.load_at is None else round(now - endpoint.load_at, 3),
            "waiting": load.waiting,
            "running": load.running,
            "kv_usage": load.kv_usage,
            "slots": load.slots,
            "lora": None
            if load.lora is None
            else {
                "running": sorted(load.lora.running),
                "waiting": sorted(load.lora.waiting),
                "max_adapters": load.lora.max_adapters,
            },
        },
        "figures": dict(endpoint.figures),
        "models": None if endpoint.models is None else sorted(endpoint.models),
        "requests_in_flight": endpoint.requests_in_flight,
        "tokens_in_flight": endpoint.tokens_in_flight,
        "life": endpoint.life,
        "labels": dict(endpoint.labels),
    }


class Pool(Protocol):
    """What is shown of a pool."""

    @property
    def title(self) -> str: ...

    @property
    def members(self) -> PoolEndpoints: ...

    @property
    def scheduler(self) -> Scheduler: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminState:
    """What the pages are made of."""

    metrics: Metrics
    readiness: Readiness
    fleet: Fleet
    pools: Callable[[], Iterable[Pool]]
    clock: Callable[[], float]
    wall_clock: Callable[[], float]


OPEN_PAGES = ("/healthz", "/readyz")
"""And what is below them: a kubelet shows no token."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why somebody is not shown a page."""

    status: int
    """401, 403 or 500."""
    error: str


class Access(Protocol):
    """Who may see pages."""

    async def refusal(self, authorization: str, method: str, path: str) -> Refusal | None:
        """None: whoever sent this header may."""


async def run(
    state: AdminState,
    listener: socket.socket,
    *,
    tls: ssl.SSLContext | None = None,
    access: Access | None = None,
) -> None:
    """Serve the pages on ``listener`` until cancelled. ``access``: None: to everybody."""
    web = await asyncio.to_thread(importlib.import_module, "aiohttp.web")
    await asyncio.to_thread(importlib.import_module, "prometheus_client")
    pages = _Pages(state, web)
    app = web.Application(middlewares=[] if access is None else [web.middleware(pages.guard(access))])
    routes: dict[str, Handler] = {
        "/metrics": pages.metrics,
        "/healthz": pages.healthz,
        "/readyz": pages.readyz,
        "/debug/endpoints": pages.endpoints,
        "/debug/picks": pages.picks,
        "/debug/tasks": pages.tasks,
    }
    app.add_routes([web.get(path, handler) for path, handler in routes.items()])
    app.add_routes([web.route("*", "/{rest:.*}", pages.unknown(tuple(routes)))])
    logger.addFilter(_not_of_strangers)
    runner = web.AppRunner(app, access_log=None, logger=logger, handle_signals=False, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.SockSite(runner, listener, ssl_context=tls).start()
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()


def _not_of_strangers(record: logging.LogRecord) -> bool:
    """What is no HTTP is its sender's mistake: answered with 400, and no trace of ours in the log."""
    from aiohttp.http_exceptions import HttpProcessingError  # noqa: PLC0415 (see above)

    return record.exc_info is None or not isinstance(record.exc_info[1], HttpProcessingError)


def accepts_gzip(header: str) -> bool:
    """Whether an Accept-Encoding names gzip, as Prometheus' does."""
    for part in re.sub(r"\s", "", header.lower()).split(","):
        coding, _, weight = part.partition(";")
        if coding == "gzip":
            return re.fullmatch(r"q=0(\.0*)?", weight) is None
    return False


def gzipped(parts: Iterable[bytes]) -> Iterator[bytes]:
    """As many parts, some of them empty, and an end."""
    pack = zlib.compressobj(
        level=1, wbits=31
    )  # a tenth of the size; level 6 takes 3 times longer for 15% less
    for part in parts:
        yield pack.compress(part)
    yield pack.flush()


class _Pages:
    """The handlers. ``web``: the module, which is imported late."""

    def __init__(self, state: AdminState, web: Any) -> None:
        self._state = state
        self._web = web

    async def metrics(self, request: "web.Request") -> "web.StreamResponse":
        headers = {"content-type": CONTENT_TYPE, "vary": "accept-encoding"}
        parts: Iterable[bytes] = self._state.metrics.pages()
        if accepts_gzip(",".join(request.headers.getall("accept-encoding", ()))):
            headers["content-encoding"] = "gzip"
            parts = gzipped(parts)
        response: web.StreamResponse = self._web.StreamResponse(headers=headers)
        try:
            await response.prepare(request)
            for part in () if request.method == "HEAD" else parts:
                if part:
                    await response.write(part)
                await asyncio.sleep(0)  # requests go first
            await response.write_eof()
        except ConnectionResetError:
            logger.debug("a reader of /metrics hung up")
        return response

    async def healthz(self, _request: "web.Request") -> "web.StreamResponse":
        return self._json({"status": "alive"})

    async def readyz(self, _request: "web.Request") -> "web.StreamResponse":
        readiness = self._state.readiness
        body: dict[str, Any] = {"status": "ready" if readiness.is_ready else "not ready"}
        if not readiness.is_ready:
            body["reason"] = readiness.reason
        details = readiness.details()
        if details:
            body["details"] = details
        return self._json(body, status=200 if readiness.is_ready else 503)

    async def endpoints(self, _request: "web.Request") -> "web.StreamResponse":
        now = self._state.clock()
        self._state.fleet.expire(now)
        pools: dict[Endpoint, list[str]] = {each: [] for each in self._state.fleet.endpoints}
        for pool in self._state.pools():
            for endpoint in pool.members.endpoints:
                pools[endpoint].append(pool.title)
        shown = [{**describe_endpoint(each, now), "pools": names} for each, names in pools.items()]
        return self._json({"endpoints": shown})

    async def picks(self, request: "web.Request") -> "web.StreamResponse":
        unknown = [name for name in request.query if name not in ("limit", "pool")]
        if unknown:
            error = f"{unknown[0]!a}: unknown, there are limit and pool"
            return self._json({"error": error}, status=400)
        text = request.query.get("limit", "20")
        if not text.isascii() or not text.isdigit() or not 1 <= int(text[:9]) <= REMEMBERED:
            error = f"limit: {text!a} is not a number from 1 to {REMEMBERED}"
            return self._json({"error": error}, status=400)
        pools = {pool.title: pool.scheduler.recent for pool in self._state.pools()}
        wanted = request.query.get("pool")
        if wanted is not None and wanted not in pools:
            error = f"pool: {wanted!a} is none of {', '.join(sorted(pools)) or 'them: there are no pools'}"
            return self._json({"error": error}, status=400)
        titles = pools if wanted is None else (wanted,)
        newest_first = heapq.merge(
            *([(-record.at, title, record) for record in reversed(pools[title])] for title in titles),
            key=itemgetter(0),
        )
        offset = self._state.wall_clock() - self._state.clock()
        picks = [
            {"time": round(record.at + offset, 3), "pool": title, **describe(record)}
            for _, title, record in islice(newest_first, int(text))
        ]
        return self._json({"picks": picks})

    async def tasks(self, _request: "web.Request") -> "web.StreamResponse":
        """What runs now, to see that nothing is left behind."""
        return self._json({"tasks": sorted(task.get_name() for task in asyncio.all_tasks())})

    def guard(self, access: Access) -> Callable[["web.Request", Handler], Awaitable["web.StreamResponse"]]:
        """Before every page: what is not open to all is shown to those who may see it."""

        async def guarded(request: "web.Request", handler: Handler) -> "web.StreamResponse":
            path = request.path
            if any(path == page or path.startswith(f"{page}/") for page in OPEN_PAGES):
                return await handler(request)
            refusal = await access.refusal(request.headers.get("authorization", ""), request.method, path)
            if refusal is None:
                return await handler(request)
            response = self._json({"error": refusal.error}, status=refusal.status)
            if refusal.status == 401:
                response.headers["www-authenticate"] = "Bearer"
            return response

        return guarded

    def unknown(self, paths: tuple[str, ...]) -> Handler:
        async def answer(request: "web.Request") -> "web.StreamResponse":
            known = request.path in paths
            error = f"{request.path}: only GET" if known else "no such page"
            return self._json({"error": error, "paths": paths}, status=405 if known else 404)

        return answer

    def _json(self, body: Mapping[str, Any], *, status: int = 200) -> "web.StreamResponse":
        text = json.dumps(body, indent=2) + "\n"
        response: web.StreamResponse = self._web.Response(
            text=text, status=status, content_type="application/json"
        )
        return response
