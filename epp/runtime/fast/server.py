"""Our driver's sockets: accepts connections, TLS included, and moves bytes (``--server=fast``).

Place:   serves the Calls of epp.runtime.calls through epp.runtime.fast.connection.
Ignores: frames, what is served.
Rule:    one read is one ``receive`` and at most one write. What a peer may take is bounded: the number
         of connections, the time of a handshake, the time in which it must empty its socket. How long a
         single stream may leave its window closed is the gateway's affair: its client may be slow.
"""

import asyncio
import socket
import time
from collections.abc import Callable, Coroutine
from typing import Any, cast

from epp.core.budget import Budget
from epp.runtime.calls import Services
from epp.runtime.complaints import Complaints
from epp.runtime.fast.connection import Connection
from epp.runtime.fast.limits import Limits
from epp.runtime.ports import listen
from epp.runtime.tls import KeyPair, context_of

MAX_CONNECTIONS = 1_000
"""A gateway's worker has one, or a few; each open one may take some hundred KB."""
HANDSHAKE_SECONDS = 10.0
UNREAD_SECONDS = 30.0
"""How long a peer may leave answers unread."""
_PIECE = 1 << 18
"""Bytes of one write. A TLS transport hands a write on as a whole and does not count it as waiting: only by
those that follow does it notice, and tell us, that the peer does not read."""


class FastServer:
    """Serves ``services``.

    ``pairs`` gives each new connection its certificate; None: plaintext. ``budget`` is what all
    connections may hold of messages whose rest is on its way.
    """

    def __init__(
        self,
        services: Services,
        limits: Limits,
        *,
        budget: Budget,
        pairs: Callable[[], KeyPair] | None = None,
    ) -> None:
        self.services, self.limits, self.budget = services, limits, budget
        self.peers: set[_Peer] = set()
        self.port = 0
        self.complaints = Complaints(time.monotonic)
        self._pairs = pairs
        self._listener: socket.socket | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def bind(self, port: int, *, flag: str) -> int:
        """Reserve the port on every address; returns it (chosen by the system when ``port`` is 0)."""
        self._listener = listen(port, flag=flag, backlog=1024)
        self._listener.setblocking(False)
        self.port = int(self._listener.getsockname()[1])
        self.complaints.flag, self.complaints.port = flag, self.port
        return self.port

    async def start(self) -> None:
        """Serve from now on."""
        assert self._listener is not None, "bind comes first"
        self._run(self._accept(self._listener), "accept")

    async def stop(self, grace: float) -> None:
        """No new connections or streams; open streams may finish for ``grace`` seconds."""
        for task in self._tasks:
            task.cancel()
        if self._listener is not None:
            self._listener.close()
        for peer in list(self.peers):
            peer.drain()
        if self.peers:
            await asyncio.wait([peer.gone for peer in self.peers], timeout=grace)
        for peer in list(self.peers):  # the grace is over
            peer.abort()

    def _run(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, address = await loop.sock_accept(listener)
            except OSError as failure:  # no descriptor is left, mostly: those who wait are served later
                self.complaints.tell("no connection can be accepted", str(failure), None)
                await asyncio.sleep(0.1)
                continue
            if len(self.peers) + len(self._tasks) > MAX_CONNECTIONS:
                self.complaints.tell("connection refused", f"{MAX_CONNECTIONS} are open already", address)
                sock.close()
            else:
                self._run(self._connect(sock, address), "handshake")

    async def _connect(self, sock: socket.socket, address: Any) -> None:
        """From an accepted socket to a connection; as a task, because a TLS handshake takes its time."""
        loop = asyncio.get_running_loop()
        try:
            keep_alive(sock)
            context = context_of(self._pairs()) if self._pairs is not None else None
            await loop.connect_accepted_socket(
                lambda: _Peer(self, loop),
                sock,
                ssl=context,
                ssl_handshake_timeout=None if context is None else HANDSHAKE_SECONDS,
            )
        except OSError as failure:  # ssl.SSLError is one
            self.complaints.handshake(failure, address)
            sock.close()


class _Peer(asyncio.Protocol):
    """One connection."""

    def __init__(self, server: FastServer, loop: asyncio.AbstractEventLoop) -> None:
        self._server, self._loop = server, loop
        self.gone = loop.create_future()
        self._unread: asyncio.TimerHandle | None = None
        self._first_bytes = b""

    # --- asyncio.Protocol ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Only now, and not before a TLS handshake that may come to nothing, is there something to keep."""
        server = self._server
        self._transport = cast("asyncio.Transport", transport)
        self._address = transport.get_extra_info("peername")
        later = self._loop.call_later
        self._connection = Connection(
            server.services, server.limits, later=later, wake=self._write, budget=server.budget
        )
        server.peers.add(self)
        self._write()

    def data_received(self, data: bytes) -> None:
        self._first_bytes = self._first_bytes or data[:16]
        self._connection.receive(data, self._loop.time())
        self._write()

    def pause_writing(self) -> None:
        """The peer does not read: nor do we, so that what waits for it stays bounded."""
        self._transport.pause_reading()
        self._unread = self._loop.call_later(UNREAD_SECONDS, self._give_up)

    def resume_writing(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._unread is not None:
            self._unread.cancel()
        self._connection.lost()
        self._server.peers.discard(self)
        self.gone.set_result(None)

    # --- for the server ---

    def drain(self) -> None:
        """No new streams; closes when those that are open have ended."""
        self._connection.drain()
        self._write()

    def abort(self) -> None:
        self._transport.abort()

    def _write(self) -> None:
        connection, transport = self._connection, self._transport
        out = connection.take()
        for at in range(0, len(out), _PIECE):
            transport.write(out[at : at + _PIECE])
        if connection.is_closing and not transport.is_closing():
            if connection.fault is not None:
                self._server.complaints.fault(str(connection.fault), self._first_bytes, self._address)
            transport.close()

    def _give_up(self) -> None:
        reason = f"answers unread for {UNREAD_SECONDS:g} s"
        self._server.complaints.tell("connection closed", reason, self._address)
        self.abort()


def keep_alive(sock: socket.socket) -> None:
    """Have the kernel end a connection whose peer is gone without a word, or takes nothing any more.

    Its streams hold reservations; under TLS the loop does not tell of the last answers that are not taken.
    """
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    unread = {"TCP_USER_TIMEOUT": int(UNREAD_SECONDS * 1000)}
    for option, value in {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3, **unread}.items():
        if hasattr(socket, option):  # macOS has not all
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
