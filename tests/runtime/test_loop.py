"""The process' event loop: whoever's connection fails, no other one is closed with it."""

import asyncio
import gc
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohappyeyeballs
import pytest

from epp.runtime.kubernetes.api import KubernetesApi
from epp.runtime.kubernetes.store import ApiFault
from epp.runtime.loop import Loop

RESET = struct.pack("ii", 1, 0)
"""SO_LINGER: what is closed is reset, as by a process that is killed."""


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    async def played() -> None:
        await scenario()

    with asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(played())


def reset_by(listener: socket.socket) -> None:
    peer, _ = listener.accept()
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    peer.close()


def test_a_socket_whose_connection_came_to_nothing_owns_no_number() -> None:
    async def scenario() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            given = socket.create_connection(listener.getsockname())
            reset_by(listener)
            with pytest.raises(ConnectionResetError):
                await asyncio.get_running_loop().create_connection(
                    asyncio.Protocol, sock=given, ssl=ssl.create_default_context(), server_hostname="api"
                )
        assert given.fileno() == -1, "or it would close whatever has got the number since"

    run(scenario)


def test_a_connection_over_a_given_socket_is_one_like_any_other() -> None:
    async def scenario() -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            theirs.setblocking(False)
            reader, writer = await asyncio.open_connection(sock=ours)
            gc.collect()
            writer.write(b"ping")
            loop = asyncio.get_running_loop()
            assert await loop.sock_recv(theirs, 10) == b"ping"
            await loop.sock_sendall(theirs, b"pong")
            assert await reader.readexactly(4) == b"pong"
            writer.close()
            await writer.wait_closed()
            assert await loop.sock_recv(theirs, 10) == b"", "closed, and the descriptor not kept"

    run(scenario)


def test_an_api_that_is_killed_takes_no_connection_of_others_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the connection and the ClientHello, a moment that a busy loop makes long."""
    listener = socket.create_server(("127.0.0.1", 0))
    kubeconfig = tmp_path / "config"
    kubeconfig.write_text(f"""\
apiVersion: v1
kind: Config
clusters: [{{name: c, cluster: {{server: "https://127.0.0.1:{listener.getsockname()[1]}"}}}}]
contexts: [{{name: x, context: {{cluster: c, user: u}}}}]
users: [{{name: u, user: {{token: secret}}}}]
current-context: x
""")
    connect = aiohappyeyeballs.start_connection

    async def start_connection(*arguments: Any, **options: Any) -> socket.socket:
        sock = await connect(*arguments, **options)
        reset_by(listener)
        return sock

    monkeypatch.setattr(aiohappyeyeballs, "start_connection", start_connection)

    async def scenario() -> None:
        api = KubernetesApi({"KUBECONFIG": str(kubeconfig)})
        await api.open()
        others = []
        for _ in range(10):
            with pytest.raises(ApiFault, match="Connection reset by peer"):
                await api.fetch("/api/v1/namespaces/models/pods", {})
            others.append(socket.socketpair())
        gc.collect()
        for one, other in others:
            with one, other:
                one.sendall(b"ping")
                assert other.recv(4) == b"ping"
        await api.close()

    with listener:
        run(scenario)
