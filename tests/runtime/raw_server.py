"""A server that says exactly what a test wants, byte by byte."""

import asyncio
import os
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Self

Serve = Callable[["Peer"], Awaitable[None]]


class Peer:
    """One accepted connection."""

    def __init__(
        self, server: "RawServer", reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.server = server
        self.number = server.connections
        self._reader = reader
        self._writer = writer

    async def request(self) -> bytes | None:
        """The next request's head; None at the end."""
        try:
            head = await self._reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        self.server.requests.append(head)
        return head

    async def first_bytes(self) -> bytes:
        """Three bytes, which tell a TLS hello from a request; the request's head then lacks them."""
        return await self._reader.read(3)

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def until_gone(self) -> None:
        """Wait until the other side closes."""
        while await self._reader.read(65536):
            pass

    def close(self) -> None:
        self._writer.close()

    def reset(self) -> None:
        self._writer.transport.abort()


class RawServer:
    """Listens on a free port; every connection runs ``serve``. Dies as a killed process does."""

    def __init__(self, serve: Serve, *, tls: ssl.SSLContext | None = None) -> None:
        self.serve = serve
        self.requests: list[bytes] = []
        self.connections = 0
        self.port = 0
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._peers: dict[asyncio.Task[None], Peer] = {}

    async def start(self) -> Self:
        self._server = await asyncio.start_server(
            self._accept, "127.0.0.1", self.port, ssl=self._tls, reuse_address=True
        )
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def close_port(self) -> None:
        """No listener any more; the connections stay."""
        assert self._server is not None
        self._server.close()

    async def kill(self) -> None:
        """No listener and no connection any more."""
        assert self._server is not None
        self._server.close()
        for task, peer in list(self._peers.items()):
            peer.close()
            task.cancel()
        if self._peers:
            await asyncio.wait(self._peers)
        await self._server.wait_closed()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task, peer = asyncio.current_task(), Peer(self, reader, writer)
        assert task is not None
        self._peers[task] = peer
        try:
            await self.serve(peer)
        except (ConnectionError, asyncio.CancelledError):
            pass  # the other side went away, or kill()
        finally:
            del self._peers[task]
            writer.close()


@asynccontextmanager
async def serving(serve: Serve, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[RawServer]:
    server = await RawServer(serve, tls=tls).start()
    try:
        yield server
    finally:
        await server.kill()


def answering(*answers: bytes) -> Serve:
    """Answer the requests of a connection with these, the last one again and again."""

    async def serve(peer: Peer) -> None:
        number = 0
        while await peer.request() is not None:
            await peer.send(answers[min(number, len(answers) - 1)])
            number += 1

    return serve


def answer(body: bytes, status: str = "200 OK", **headers: str) -> bytes:
    """A whole HTTP/1.1 response."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


async def eventually(holds: Callable[[], object], within: float = 10.0) -> None:
    """Wait until ``holds()``, looking again whenever the loop has done something."""
    async with asyncio.timeout(within):
        while not holds():  # noqa: ASYNC110 - anything may make it hold
            await asyncio.sleep(0.002)


def descriptors() -> int:
    """How many file descriptors this process has open."""
    return len(os.listdir(Path("/dev/fd")))  # noqa: PTH208 - of a folder that changes while it is read
