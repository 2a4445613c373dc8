"""What Envoy said to a picker, byte by byte as it was read, so that it can be said again without Envoy.

Place:   made for bench.profile through a proxy between the two; bench.replay says it again.
Ignores: what the bytes mean; what the picker answered.
Rule:    one connection, in the order of its reads. A recording fits any server that announces frames and
         windows at least as large as the one it was made with.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

_MAGIC = b"fleet-epp recording 1\n"


@dataclass(frozen=True, slots=True)
class Recording:
    """One connection's bytes from Envoy."""

    requests: int
    chunks: int
    """Body pieces of all answers, as the clients received them."""
    reads: tuple[bytes, ...]

    def save(self, path: Path) -> None:
        head = {"requests": self.requests, "chunks": self.chunks, "reads": [len(one) for one in self.reads]}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"".join((_MAGIC, json.dumps(head).encode(), b"\n", *self.reads)))

    @classmethod
    def load(cls, path: Path) -> "Recording":
        """Raises ValueError for a file that is none, or not there."""
        try:
            whole = path.read_bytes()
        except FileNotFoundError:
            raise ValueError(f"{path}: is not there: make it with `make profile`") from None
        if not whole.startswith(_MAGIC):
            raise ValueError(f"{path}: not a recording: make it again with python -m bench.profile --record")
        end = whole.index(b"\n", len(_MAGIC)) + 1
        head = json.loads(whole[len(_MAGIC) : end])
        reads, at = [], end
        for size in head["reads"]:
            reads.append(whole[at : at + size])
            at += size
        if at != len(whole):
            raise ValueError(f"{path}: {len(whole)} bytes instead of {at}: make it again")
        return cls(head["requests"], head["chunks"], tuple(reads))


@dataclass(slots=True)
class Tape:
    """What a proxy hears; ``connections`` in the order in which they were opened."""

    connections: list[list[bytes]] = field(default_factory=list)

    @property
    def reads(self) -> tuple[bytes, ...]:
        """Of the connection that said most."""
        return tuple(max(self.connections, key=lambda reads: sum(map(len, reads)), default=[]))


class _Side(asyncio.Protocol):
    """One end of a connection through the proxy; what it reads goes to the other end, and to ``heard``."""

    def __init__(self, heard: list[bytes] | None = None) -> None:
        self._heard = heard
        self.transport: asyncio.Transport | None = None
        self.other: _Side | None = None
        self._early: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is one without saying so

    def joined(self, other: "_Side") -> None:
        """What came before the other end was there goes to it now."""
        self.other = other
        for data in self._early:
            self._pass(other, data)
        self._early.clear()

    def data_received(self, data: bytes) -> None:
        if self._heard is not None:
            self._heard.append(data)
        if self.other is None:
            self._early.append(data)
        else:
            self._pass(self.other, data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        if self.other is not None and self.other.transport is not None:
            self.other.transport.close()

    @staticmethod
    def _pass(other: "_Side", data: bytes) -> None:
        if other.transport is not None:
            other.transport.write(data)


@contextlib.asynccontextmanager
async def proxy(listen: int, to: int) -> AsyncIterator[Tape]:
    """Between a gateway that connects to port ``listen`` and the picker on port ``to``."""
    tape, loop = Tape(), asyncio.get_running_loop()
    open_sides: list[_Side] = []
    async with asyncio.TaskGroup() as group:

        def accepted() -> _Side:
            tape.connections.append([])
            gateway = _Side(tape.connections[-1])
            open_sides.append(gateway)
            group.create_task(_connect(gateway, to, open_sides), name="to the picker")
            return gateway

        server = await loop.create_server(accepted, "127.0.0.1", listen)
        try:
            yield tape
        finally:
            server.close()
            for side in open_sides:
                if side.transport is not None:
                    side.transport.abort()


async def _connect(gateway: _Side, to: int, open_sides: list[_Side]) -> None:
    loop = asyncio.get_running_loop()
    _, picker = await loop.create_connection(_Side, "127.0.0.1", to)
    open_sides.append(picker)
    picker.joined(gateway)
    gateway.joined(picker)
