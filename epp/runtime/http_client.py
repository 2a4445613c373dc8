"""A keep-alive HTTP/1.1 client for one thing: GET a small page from one server, again and again.

Place:   used by epp.runtime.probe, one Connection for each endpoint.
Ignores: what is in a page, when to ask, redirects, proxies, cookies, compression.
Rule:    every way in which a server can fail has a Failure of its own, within the timeout; nothing
         that a server sends is held beyond ``max_body``.

A general client spends more on its own layers than a scrape may cost in all.
"""

import asyncio
import enum
import errno
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from socket import gaierror
from typing import cast

import httptools

_MAX_HEADERS = 64 * 1024
"""Bytes of status line and headers; engines send some hundred."""

_OURS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL})


class Failure(enum.Enum):
    """Why there is no answer."""

    REFUSED = "refused"
    UNREACHABLE = "unreachable"
    """No route, no address for the name."""
    OURS = "ours"
    """No descriptor, port or memory left in our own process or machine: says nothing of the server."""
    CLOSED = "closed"
    """Reset or closed before the answer was complete."""
    TIMEOUT = "timeout"
    NOT_HTTP = "not http"
    TOO_LARGE = "too large"
    TLS = "tls"


class FetchError(Exception):
    """No answer: what failed, and a sentence for the log."""

    def __init__(self, kind: Failure, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True, slots=True)
class Response:
    """One whole answer. Header names are in lower case; of repeated ones the last."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """Whom to ask, and how."""

    host: str
    """An address or a name."""
    port: int
    host_header: str = ""
    """What to send as Host, if not the above."""
    tls: ssl.SSLContext | None = None
    server_name: str = ""
    """The name the certificate must have, if not ``host``."""
    bearer: str = field(default="", repr=False)
    """An API key."""

    @property
    def address(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def with_other_scheme(self) -> "Server":
        """The same server with TLS instead of without, or the other way round, trusted with no secret."""
        return replace(self, tls=None if self.tls else _trusting(), bearer="")


@cache
def _trusting() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


class Connection:
    """At most one connection to one server, opened when needed, and one request at a time on it."""

    def __init__(
        self, server: Server, *, max_body: int = 4 << 20, on_idle_close: Callable[[], None] | None = None
    ) -> None:
        self.server = server
        self.max_body = max_body
        self._on_idle_close = on_idle_close
        self._protocol: _Protocol | None = None
        self._head = _head(server)

    async def get(self, path: str, timeout: float) -> Response:
        """The answer to ``GET path``; FetchError when there is none after ``timeout`` [s].

        A kept-alive connection that turns out to be closed costs no error but one new connection.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        request = b"GET %b HTTP/1.1\r\n%b" % (path.encode("ascii"), self._head)
        kept = self._protocol
        if kept is not None and kept.usable:
            try:
                return await kept.ask(request, deadline)
            except FetchError as error:
                if error.kind is not Failure.CLOSED or kept.heard:
                    raise
        protocol = await self._connect(deadline, timeout)
        return await protocol.ask(request, deadline)

    async def reach(self, timeout: float) -> None:
        """Open a new connection; FetchError when it is not there after ``timeout`` [s]."""
        await self._connect(asyncio.get_running_loop().time() + timeout, timeout)

    def abort(self) -> None:
        """Drop the connection. ``get`` may open a new one."""
        if self._protocol is not None:
            self._protocol.abort()

    async def aclose(self) -> None:
        """Drop the connection and wait until its descriptor is gone. ``get`` may open a new one."""
        protocol, self._protocol = self._protocol, None
        if protocol is not None:
            protocol.abort()
            await protocol.closed

    async def _connect(self, deadline: float, timeout: float) -> "_Protocol":
        await self.aclose()
        server, loop = self.server, asyncio.get_running_loop()
        try:
            async with asyncio.timeout_at(deadline):
                _, protocol = await loop.create_connection(
                    lambda: _Protocol(loop, self.max_body, self._on_idle_close, timeout),
                    server.host,
                    server.port,
                    ssl=server.tls,
                    server_hostname=(server.server_name or server.host) if server.tls else None,
                )
        except (OSError, ssl.SSLError, ssl.CertificateError, TimeoutError) as error:
            raise _connect_error(server, error, timeout) from error
        self._protocol = protocol
        return protocol


def _head(server: Server) -> bytes:
    """Everything after the request line."""
    for what, text in (("host name", server.host_header or server.host), ("API key", server.bearer)):
        if not (text.isascii() and text.isprintable()):
            raise ValueError(f"{what} for {server.address}: characters that no HTTP header may have")
    lines = [f"Host: {server.host_header or server.address}", "Accept: text/plain, application/json"]
    if server.bearer:
        lines.append(f"Authorization: Bearer {server.bearer}")
    return "\r\n".join([*lines, "", ""]).encode("ascii")


def _connect_error(server: Server, error: Exception, timeout: float) -> FetchError:
    match error:
        case ssl.SSLError():  # before OSError, of which it is one; certificates included
            reason = getattr(error, "verify_message", "") or error.reason or str(error)
            return FetchError(Failure.TLS, f"TLS with {server.address} failed: {reason}")
        case TimeoutError():
            tls, hint = ("TLS ", ": see whether it speaks TLS") if server.tls else ("", "")
            message = f"no {tls}connection to {server.address} within {timeout:g} s{hint}"
            return FetchError(Failure.TIMEOUT, message)
        case ConnectionRefusedError():
            return FetchError(Failure.REFUSED, f"{server.address} refuses connections")
        case ConnectionError():
            return FetchError(Failure.CLOSED, f"{server.address} closed the connection at once")
        case gaierror():
            return FetchError(Failure.UNREACHABLE, f"no address for {server.host!r}: {error.strerror}")
        case OSError() if error.errno in _OURS:
            return FetchError(Failure.OURS, f"cannot open a connection: {error.strerror}")
        case _:
            reason = getattr(error, "strerror", None) or str(error)
            return FetchError(Failure.UNREACHABLE, f"cannot reach {server.address}: {reason}")


class _Protocol(asyncio.Protocol):
    """One TCP connection: idle, or one answer on its way."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        max_body: int,
        on_idle_close: Callable[[], None] | None,
        timeout: float,
    ) -> None:
        self._loop = loop
        self._max_body = max_body
        self._on_idle_close = on_idle_close
        self._timeout = timeout
        self._transport: asyncio.Transport | None = None
        self.closed: asyncio.Future[None] = loop.create_future()
        self._answer: asyncio.Future[Response] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._error: FetchError | None = None
        self._reset()
        self.usable = False
        self.heard = False
        """Whether any byte of the current answer has come."""

    def _reset(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._headers: dict[str, str] = {}
        self._body: list[bytes] = []
        self._received = 0
        self._body_size = 0
        self._headers_done = False
        self._complete = False

    # --- the owner's side

    async def ask(self, request: bytes, deadline: float) -> Response:
        if self._transport is None or self._answer is not None:
            raise RuntimeError("a connection takes one request at a time, while it is open")
        self.heard = False
        self._answer = self._loop.create_future()
        self._timer = self._loop.call_at(deadline, self._expire)
        self._transport.write(request)
        try:
            return await self._answer
        finally:
            self._timer.cancel()
            self._answer = None
            if not self._complete:  # failed or cancelled: whatever still comes belongs to nobody
                self._drop()
            else:
                self._reset()

    def abort(self) -> None:
        self._on_idle_close = None
        self._drop()

    # --- the loop's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self.usable = True

    def data_received(self, data: bytes) -> None:
        if self._answer is None or self._answer.done():
            self._drop()  # nobody asked: whatever it is, the next answer could not be told from it
            return
        self.heard = True
        self._received += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._fail(Failure.NOT_HTTP, "the answer switches to another protocol")
        except httptools.HttpParserError:
            self._fail(Failure.NOT_HTTP, f"the answer is not HTTP, it begins with {data[:24]!r}")
        if self._error is not None:
            self._finish_with(self._error)
        elif not self._headers_done and self._received > _MAX_HEADERS:
            self._fail(Failure.NOT_HTTP, f"no end of the headers after {self._received} bytes")

    def connection_lost(self, exc: Exception | None) -> None:
        was_idle = self.usable and self._answer is None
        self.usable = False
        if self._answer is not None and not self._answer.done():
            if self._ends_with_connection() and exc is None:
                self._deliver()
            else:
                self._fail(Failure.CLOSED, "the connection was closed before the answer was complete")
        if not self.closed.done():  # cancelled with whoever waited for it
            self.closed.set_result(None)
        if was_idle and self._on_idle_close is not None:
            self._on_idle_close()

    # --- the parser's side; an exception here would come out wrapped, so errors are kept for later

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_message_begin(self) -> None:
        if self._complete:  # more than was asked for
            self._drop()

    def on_headers_complete(self) -> None:
        self._headers_done = True
        length = self._headers.get("content-length", "")
        if length.isdecimal() and int(length[:20]) > self._max_body:
            self._too_large()

    def on_body(self, body: bytes) -> None:
        self._body_size += len(body)
        if self._body_size > self._max_body:
            self._too_large()
        elif self._error is None:
            self._body.append(body)

    def on_message_complete(self) -> None:
        if self._error is not None:
            return
        if 100 <= self._parser.get_status_code() < 200:  # an interim answer; the real one follows
            self._headers, self._body, self._headers_done = {}, [], False
            return
        self._deliver()

    # --- ends

    def _deliver(self) -> None:
        if self._answer is None or self._answer.done():
            return
        self._complete = True
        if not self._parser.should_keep_alive():
            self._drop()
        self._answer.set_result(Response(self._parser.get_status_code(), self._headers, b"".join(self._body)))

    def _ends_with_connection(self) -> bool:
        """Whether the end of the connection is the end of the body (HTTP/1.0 style)."""
        chunked = "chunked" in self._headers.get("transfer-encoding", "").lower()
        return self._headers_done and not chunked and "content-length" not in self._headers

    def _too_large(self) -> None:
        self._error = FetchError(Failure.TOO_LARGE, f"the answer is over the limit of {self._max_body} bytes")

    def _expire(self) -> None:
        what = "an incomplete answer" if self.heard else "no answer"
        self._fail(Failure.TIMEOUT, f"{what} within {self._timeout:g} s")

    def _fail(self, kind: Failure, message: str) -> None:
        self._finish_with(FetchError(kind, message))

    def _finish_with(self, error: FetchError) -> None:
        self._error = error
        self._body.clear()  # error and traceback keep us until the garbage is collected
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)
        self._drop()

    def _drop(self) -> None:
        """Close without ceremony: no TLS goodbye to wait for, nothing worth sending."""
        self.usable = False
        if self._transport is not None:
            self._transport.abort()
