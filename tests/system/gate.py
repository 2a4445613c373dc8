"""An inference server whose answers a test holds back, so that what is open stays open until it says so.

Stands for vLLM where a real server would end too soon: it streams one token at once and the rest when the
gate opens; an answer that is no stream waits altogether. It can be told its words, over TLS as well.
"""

import asyncio
import json
import ssl
import threading
from collections.abc import Callable
from typing import Self, cast

from bench.http1 import ProtocolError, Reader
from bench.rig.process import free_port

TOKENS = 3
_LABELS = 'engine="0",model_name="gate"'


def _event(**fields: object) -> bytes:
    data = b"data: " + json.dumps({"object": "chat.completion.chunk", **fields}).encode() + b"\n\n"
    return b"%x\r\n%s\r\n" % (len(data), data)


def _token(number: int) -> bytes:
    return _event(choices=[{"index": 0, "delta": {"content": f" t{number}"}, "finish_reason": None}])


_STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_USAGE = {"prompt_tokens": 7, "completion_tokens": TOKENS, "total_tokens": 7 + TOKENS}
_DONE = b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"
_REST = b"".join([*(_token(n) for n in range(1, TOKENS)), _event(choices=[], usage=_USAGE), _DONE])
_WHOLE = json.dumps(
    {
        "object": "chat.completion",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": " t"}, "finish_reason": "stop"}],
        "usage": _USAGE,
    }
).encode()


class Gate:
    """``with Gate() as gate:`` serves on its own thread. Closed at first."""

    def __init__(
        self, host: str = "127.0.0.1", *, tls: ssl.SSLContext | None = None, port: int | None = None
    ) -> None:
        self.host = host
        self.tls = tls
        self.port = port or free_port()
        self.address = f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"
        self.held: set[Held] = set()
        """Requests that are here and wait."""
        self.served = 0
        """POSTs answered completely."""
        self.received: list[tuple[bytes, bytes]] = []
        """Head and body of each POST."""
        self.heads: list[bytes] = []
        """Head of each GET."""
        self.is_open = False
        self.resets = False
        """Each POST gets a reset in place of an answer; everything else goes on as before."""
        self.page: bytes | None = None
        """The metrics, in place of vLLM's."""
        self.streams: dict[bytes, bytes] = {}
        """By path, the server-sent events that answer a POST, in place of a chat completion."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="gate")
        self._connections: set[Held] = set()
        self._listening = threading.Event()
        self._stop = asyncio.Event()

    def open(self) -> None:
        """Let everything out that is held, and all that comes."""
        asyncio.run_coroutine_threadsafe(self._set(is_open=True), self._loop).result()

    def close(self) -> None:
        """Hold what comes."""
        asyncio.run_coroutine_threadsafe(self._set(is_open=False), self._loop).result()

    async def _set(self, *, is_open: bool) -> None:
        self.is_open = is_open
        if is_open:
            for connection in list(self.held):
                connection.let_out()

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._listening.wait(20)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(
            lambda: Held(self), self.host, self.port, backlog=2_048, ssl=self.tls
        )
        self._listening.set()
        await self._stop.wait()
        server.close()
        for connection in list(self._connections):
            connection.abort()

    def joined(self, connection: "Held") -> None:
        self._connections.add(connection)

    def arrived(self, request: "Held") -> None:
        """It is here as a whole."""
        self.held.add(request)
        if self.is_open:
            request.let_out()

    def later(self, seconds: float, call: Callable[["Held"], None], request: "Held") -> None:
        """To be called on the thread of all requests."""
        self._loop.call_later(seconds, call, request)

    def left(self, connection: "Held") -> None:
        self._connections.discard(connection)
        self.held.discard(connection)

    def metrics(self) -> bytes:
        if self.page is not None:
            return self.page
        return self.readings(len(self.held), 0, 0)

    def readings(self, running: int, waiting: int, kv_usage: float) -> bytes:
        """As vLLM writes them."""
        values = {
            "num_requests_running": running,
            "num_requests_waiting": waiting,
            "kv_cache_usage_perc": kv_usage,
        }
        return "".join(
            f"vllm:{name}{{{_LABELS}}} {float(value)}\n" for name, value in values.items()
        ).encode()


class Held(asyncio.Protocol):
    """A connection, and what is held back of the answer to its request."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._reader = Reader(self, responses=False)
        self._transport: asyncio.Transport | None = None
        self._head = b""
        self._body = b""
        self._rest = b""
        """What is held back."""

    def let_out(self) -> None:
        self._gate.held.discard(self)
        self._gate.served += 1
        self._write(self._rest)

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._gate.joined(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._gate.left(self)

    def data_received(self, data: bytes) -> None:
        try:
            self._reader.feed(data)
        except ProtocolError:
            self.abort()

    # bench.http1.Sink

    def on_head(self, head: bytes) -> None:
        self._head, self._body = head, b""

    def on_body(self, data: bytes) -> None:
        self._body += data

    def on_end(self) -> None:
        method, path, _ = self._head.partition(b"\r\n")[0].split(b" ")
        if method != b"POST":
            self._gate.heads.append(self._head)
            self._write(_json(self._gate.metrics() if path.startswith(b"/metrics") else b"{}"))
            return
        self._gate.received.append((self._head, self._body))
        if self._gate.resets:
            self.abort()
            return
        events = self._gate.streams.get(path)
        if events is not None:
            self._rest = _STREAM + b"%x\r\n%s\r\n0\r\n\r\n" % (len(events), events)
        elif b'"stream": true' in self._body or b'"stream":true' in self._body:
            self._rest = _REST
            self._write(_STREAM + _token(0))
        else:
            self._rest = _json(_WHOLE)
        self._gate.arrived(self)

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)


def _json(body: bytes) -> bytes:
    kind = b"application/json" if body.startswith(b"{") else b"text/plain"
    return b"HTTP/1.1 200 OK\r\ncontent-type: %s\r\ncontent-length: %d\r\n\r\n%s" % (kind, len(body), body)
