"""The controller's HTTP port: /metrics, /healthz, /readyz.

Place:   run by epp.commands.controller. The picker's own pages are epp.runtime.admin.
"""

import asyncio
import importlib
import json
import socket
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from epp.runtime.metrics import CONTENT_TYPE, Source, pages

if TYPE_CHECKING:
    from aiohttp import web

Handler = Callable[["web.Request"], Awaitable["web.Response"]]
Details = Callable[[], Mapping[str, Any]]


async def run(
    listener: socket.socket, sources: Iterable[Source], *, why_not_ready: Callable[[], str], details: Details
) -> None:
    """Serve until cancelled. ``why_not_ready``: empty: it is. ``details``: what is worth knowing."""
    library: Any = await asyncio.to_thread(importlib.import_module, "aiohttp.web")
    await asyncio.to_thread(importlib.import_module, "prometheus_client")
    sources = tuple(sources)

    async def metrics(_: "web.Request") -> "web.Response":
        body = b"".join(pages(family for source in sources for family in source.families()))
        return _answer(library, 200, body, CONTENT_TYPE)

    async def healthz(_: "web.Request") -> "web.Response":
        return _json(library, 200, {"status": "alive"})

    async def readyz(_: "web.Request") -> "web.Response":
        reason = why_not_ready()
        told = {"status": "not ready", "reason": reason} if reason else {"status": "ready"}
        return _json(library, 503 if reason else 200, {**told, "details": details()})

    app = library.Application()
    handlers: dict[str, Handler] = {"/metrics": metrics, "/healthz": healthz, "/readyz": readyz}
    app.add_routes([library.get(path, handler) for path, handler in handlers.items()])
    runner = library.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await library.SockSite(runner, listener).start()
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()


def _json(library: Any, status: int, body: Mapping[str, Any]) -> "web.Response":
    return _answer(library, status, (json.dumps(body, indent=2) + "\n").encode(), "application/json")


def _answer(library: Any, status: int, body: bytes, content_type: str) -> "web.Response":
    answer: web.Response = library.Response(status=status, body=body, headers={"content-type": content_type})
    return answer
