"""Our driver's sockets, in process: who does not read, who is there at the end, who cannot be accepted."""

import asyncio
import datetime as dt
import logging
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from bench import frames
from bench.frames import Error, Kind, Replies, Setting, call, data, message
from epp.core.budget import Budget
from epp.runtime import tls
from epp.runtime.fast import server as fast
from epp.runtime.fast.connection import Connection
from epp.runtime.fast.limits import Limits
from epp.runtime.fast.server import FastServer
from tests.fast.peer import ECHO, Service
from tests.runtime.raw_server import eventually

MIB = 1 << 20
PAIR = tls.self_signed(dt.datetime.now(dt.UTC))


class Client:
    """A connection in streams, with what came on it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.replies = Replies()

    def say(self, *parts: bytes) -> None:
        self.writer.write(b"".join(parts))

    def stop_reading(self) -> None:
        self.writer.transport.pause_reading()  # type: ignore[attr-defined]

    async def hear_until_closed(self) -> None:
        async with asyncio.timeout(20):
            while some := await self.reader.read(1 << 16):
                self.replies.feed(some)

    async def hear_until_answered(self, stream: int) -> None:
        async with asyncio.timeout(20):
            while not self.replies[stream].is_over:
                self.replies.feed(await self.reader.read(1 << 16))


class Served:
    """A server and its clients."""

    def __init__(self, server: FastServer, service: Service, port: int, *, secure: bool) -> None:
        self.server, self.service, self.port, self._secure = server, service, port, secure
        self.clients: list[Client] = []

    async def client(self, *, begun: bool = True) -> Client:
        context = None
        if self._secure:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            context.set_alpn_protocols(["h2"])
        client = Client(*await asyncio.open_connection("127.0.0.1", self.port, ssl=context))
        self.clients.append(client)
        if begun:
            client.say(frames.PREFACE, frames.settings(), frames.settings(ack=True))
        return client


@asynccontextmanager
async def serving(*, secure: bool = False) -> AsyncIterator[Served]:
    service = Service()
    server = FastServer(
        service.services(),
        Limits(max_receive_bytes=MIB),
        budget=Budget(16 * MIB),
        pairs=(lambda: PAIR) if secure else None,
    )
    port = server.bind(0, flag="grpc-port")
    await server.start()
    setting = Served(server, service, port, secure=secure)
    try:
        yield setting
    finally:
        await server.stop(0)
        for client in setting.clients:
            client.writer.transport.abort()
        await eventually(lambda: not server.peers)
        assert service.open_calls == 0


def is_refused(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) != 0


both = pytest.mark.parametrize("secure", [False, True], ids=["plaintext", "tls"])


@both
async def test_a_call_is_served(secure: bool) -> None:
    async with serving(secure=secure) as setting:
        client = await setting.client()
        client.say(call(1, ECHO), data(1, message(b"ehello"), ended=True))
        await client.hear_until_answered(1)
        assert client.replies[1].messages == [b"6 olleh" + b"e"]


@both
async def test_a_peer_that_leaves_its_answers_unread_is_cut_off(
    secure: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(fast, "UNREAD_SECONDS", 0.1)
    async with serving(secure=secure) as setting:
        client = await setting.client()
        client.stop_reading()
        windows = frames.settings({Setting.INITIAL_WINDOW_SIZE: 2**30}) + frames.window_update(0, 2**30)
        client.say(windows, call(1, ECHO), data(1, message(b"l30000000")))
        await eventually(lambda: setting.service.calls and setting.service.calls[0].heard)
        client.say(data(1, message(b"l30000000")))  # TLS notices only now that nobody reads
        await eventually(lambda: not setting.server.peers)
        assert setting.service.open_calls == 0
    assert "answers unread" in str([record.__dict__.get("fields") for record in caplog.records])


@both
async def test_a_peer_that_reads_slowly_gets_everything(secure: bool) -> None:
    async with serving(secure=secure) as setting:
        client = await setting.client()
        windows = frames.settings({Setting.INITIAL_WINDOW_SIZE: 2**30}) + frames.window_update(0, 2**30)
        client.say(windows, call(1, ECHO), data(1, message(b"l20000000"), ended=True))
        async with asyncio.timeout(30):
            while not client.replies[1].is_over:
                client.replies.feed(await client.reader.read(60_000))
        assert [len(one) for one in client.replies[1].messages] == [20_000_000]


@both
async def test_stopping_lets_streams_finish_and_then_closes(secure: bool) -> None:
    async with serving(secure=secure) as setting:
        busy, idle, silent = await setting.client(), await setting.client(), await setting.client(begun=False)
        busy.say(call(1, ECHO), data(1, message(b"e")))
        await eventually(lambda: setting.service.calls and len(setting.server.peers) == 3)
        async with asyncio.TaskGroup() as group:
            stopping = group.create_task(setting.server.stop(20), name="stopping")
            await eventually(lambda: is_refused(setting.port))
            for client in (busy, idle):
                async with asyncio.timeout(20):
                    while not any(one.kind == Kind.PING for one in client.replies.frames):
                        client.replies.feed(await client.reader.read(1 << 16))
                client.say(frames.ping(b"draining", ack=True))
            await idle.hear_until_closed()
            silent.writer.transport.abort()
            busy.say(data(1, message(b"emore"), ended=True))
            await busy.hear_until_answered(1)
            assert busy.replies[1].messages == [b"1 e", b"5 erome"]
            await busy.hear_until_closed()
            assert not stopping.done() or not setting.server.peers
        assert [one.code for one in busy.replies.goaways] == [Error.NO_ERROR, Error.NO_ERROR]


async def test_stopping_cuts_off_what_is_left_after_the_grace() -> None:
    async with serving() as setting:
        client = await setting.client()
        client.say(call(1, ECHO), data(1, message(b"e")))
        await client.reader.read(1)
        await setting.server.stop(0.1)
        await eventually(lambda: not setting.server.peers)
        assert setting.service.open_calls == 0


async def test_answers_that_come_later_leave_at_once() -> None:
    async with serving() as setting:
        client = await setting.client()
        client.say(call(1, ECHO), data(1, message(b"plater")))
        await eventually(lambda: setting.service.calls and setting.service.calls[0].later)
        setting.service.calls[0].push_next()
        async with asyncio.timeout(20):
            while not client.replies[1].messages:
                client.replies.feed(await client.reader.read(1 << 16))


async def test_a_deadline_is_kept_without_anything_being_read() -> None:
    async with serving() as setting:
        client = await setting.client()
        client.say(call(1, ECHO, ("grpc-timeout", "50m")), data(1, message(b"n")))
        await client.hear_until_answered(1)
        assert client.replies[1].status == 4


async def test_a_tls_handshake_that_comes_to_nothing_leaves_no_clock_behind(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made: list[Connection] = []

    def remembered(*arguments: Any, **more: Any) -> Connection:
        made.append(Connection(*arguments, **more))
        return made[-1]

    monkeypatch.setattr(fast, "Connection", remembered)
    async with serving(secure=True) as setting:
        reader, writer = await asyncio.open_connection("127.0.0.1", setting.port)
        writer.write(frames.PREFACE + frames.settings())
        async with asyncio.timeout(20):
            while await reader.read(1 << 16):
                pass
        writer.transport.abort()
        await eventually(lambda: "TLS handshake failed" in caplog.text)
    assert not made


async def test_when_no_descriptor_is_left_others_are_served_and_accepting_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What accept() says then, for a while."""
    refusals = iter([OSError(24, "Too many open files")] * 3)
    accept = socket.socket.accept

    def sometimes(self: socket.socket) -> object:
        for refusal in refusals:
            raise refusal
        return accept(self)

    monkeypatch.setattr(socket.socket, "accept", sometimes)
    async with serving() as setting:
        client = await setting.client()
        client.say(call(1, ECHO), data(1, message(b"e"), ended=True))
        await client.hear_until_answered(1)
    assert sum(record.levelno == logging.WARNING for record in caplog.records) <= 1
