"""A server's misbehaviour on demand: an HTTP proxy in front of a real server, which can lie for it.

    python -m bench.failover.front --to 127.0.0.1:8080 --port 8081 [--port 8082 ...] --control 9000

Place:   a process of its own where a scenario needs a fault that a real server cannot be brought to show at
         will; each port is an endpoint with its own mode. ``PUT /8081/failing`` on the control port sets it.
Ignores: who asks.
Rule:    what a mode does not change is the real server's own answer, byte for byte and piece by piece.
Source:  the words of llama.cpp while it loads and of vLLM while it shuts down, as recorded from them
"""

import argparse
import asyncio
import contextlib
import enum
import re

import aiohttp
from aiohttp import web

LOADING_ANSWER = '{"error":{"message":"Loading model","type":"unavailable_error","code":503}}'
FAILING_ANSWER = '{"error":{"message":"Internal server error","type":"InternalServerError","code":500}}'
DRAINING_ANSWER = (
    '{"error":{"message":"cannot schedule new futures after shutdown","type":"InternalServerError",'
    '"param":null,"code":500}}'
)
_GAUGE = re.compile(rb"^([^#\n]*requests_(?:processing|deferred|running|waiting)[^\n]*) \S+$", re.MULTILINE)
_HOP_BY_HOP = frozenset(
    {"connection", "content-length", "keep-alive", "server", "date", "transfer-encoding", "host"}
)


class Mode(enum.Enum):
    """What a port does."""

    PASSING = "passing"
    """Passes everything on."""
    GONE = "gone"
    """Takes no connections; those that were open are reset."""
    DEAF = "deaf"
    """Takes no connections; those that are open go on. So llama.cpp ends while it still streams."""
    LOADING = "loading"
    """A new process that loads its model: older connections are reset, every path answers 503."""
    FAILING = "failing"
    """Every request for inference is answered 500; health and metrics are fine."""
    DRAINING = "draining"
    """As a vLLM that was told to stop: streams go on, new requests get 500, its gauges say idle."""
    SILENT = "silent"
    """Connections are taken and kept, nothing is ever said, not even in the middle of a stream."""
    BLIND = "blind"
    """``/metrics`` and ``/slots`` are closed without an answer, everything else is as always."""


class Port:
    """One endpoint."""

    def __init__(self, port: int, server: str, session: aiohttp.ClientSession) -> None:
        self._port, self._server, self._session = port, server, session
        self._mode = Mode.PASSING
        self._speaks = asyncio.Event()
        self._speaks.set()
        self._http = web.Server(self._answer)
        self._listener: asyncio.Server | None = None

    async def take(self, mode: Mode) -> None:
        """From now on."""
        before, self._mode = self._mode, mode
        if mode in (Mode.GONE, Mode.LOADING) or before is Mode.SILENT:
            self._reset()
        if mode is Mode.SILENT:
            self._speaks.clear()
        else:
            self._speaks.set()
        is_open = mode not in (Mode.GONE, Mode.DEAF)
        if self._listener is not None and not is_open:
            self._listener.close()
            self._listener = None
        elif self._listener is None and is_open:
            loop = asyncio.get_running_loop()
            self._listener = await loop.create_server(self._http, "127.0.0.1", self._port, backlog=512)

    def _reset(self) -> None:
        for connection in self._http.connections:
            if connection.transport is not None:
                connection.transport.abort()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        await self._speaks.wait()
        match self._mode:
            case Mode.LOADING:
                return _json(503, LOADING_ANSWER)
            case Mode.FAILING if request.method == "POST":
                return _json(500, FAILING_ANSWER)
            case Mode.DRAINING if request.method == "POST":
                return _json(500, DRAINING_ANSWER)
            case Mode.BLIND if request.path in ("/metrics", "/slots"):
                assert request.transport is not None
                request.transport.close()
                return web.Response()
        return await self._pass_on(request)

    async def _pass_on(self, request: web.BaseRequest) -> web.StreamResponse:
        url = f"http://{self._server}{request.path_qs}"
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP_BY_HOP}
        body = await request.read()
        try:
            async with self._session.request(request.method, url, headers=headers, data=body) as answer:
                return await self._relay(request, answer)
        except (aiohttp.ClientError, ConnectionError):
            if request.transport is not None:  # what happened to one side happens to the other
                request.transport.abort()
            return web.Response(status=502)

    async def _relay(self, request: web.BaseRequest, answer: aiohttp.ClientResponse) -> web.StreamResponse:
        kept = {name: value for name, value in answer.headers.items() if name.lower() not in _HOP_BY_HOP}
        if self._mode is Mode.DRAINING and request.path == "/metrics":
            page = _GAUGE.sub(rb"\1 0", await answer.read())
            return web.Response(status=answer.status, headers=kept, body=page)
        relayed = web.StreamResponse(status=answer.status, headers=kept)
        await relayed.prepare(request)
        async for piece in answer.content.iter_any():
            await self._speaks.wait()
            await relayed.write(piece)
        await relayed.write_eof()
        return relayed


def _json(status: int, text: str) -> web.Response:
    return web.Response(status=status, text=text, content_type="application/json")


async def serve(server: str, ports: list[int], control: int) -> None:
    """Until the process ends."""
    connector = aiohttp.TCPConnector(force_close=True, limit=0)
    async with aiohttp.ClientSession(connector=connector, auto_decompress=False) as session:
        fronts = {port: Port(port, server, session) for port in ports}
        for front in fronts.values():
            await front.take(Mode.PASSING)

        async def told(request: web.BaseRequest) -> web.Response:
            port, _, mode = request.path.strip("/").partition("/")
            if mode:
                await fronts[int(port)].take(Mode(mode))
            return web.Response()

        await asyncio.get_running_loop().create_server(web.Server(told), "127.0.0.1", control)
        await asyncio.get_running_loop().create_future()


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.failover.front", description=__doc__)
    parser.add_argument("--to", required=True, metavar="ADDRESS", help="the real server")
    parser.add_argument("--port", type=int, action="append", required=True, help="an endpoint")
    parser.add_argument("--control", type=int, required=True, help="where modes are set")
    given = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(given.to, given.port, given.control))


if __name__ == "__main__":
    main()
