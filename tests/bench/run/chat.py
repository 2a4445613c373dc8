"""A server of chat completions that answers as a test says, and sessions for it."""

import asyncio
import itertools
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from typing import Any

from bench.load import Options
from bench.run.play import Limits, Stretch
from bench.run.server import server as asked
from bench.workloads.sessions import Piece, Session, Turn

HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nx-inference-pod: pod-1\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)
DONE = b"data: [DONE]\n\n"

Body = dict[str, Any]
Write = Callable[[bytes], Awaitable[None]]
Answer = Callable[[Body, Write], Awaitable[None]]


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def event(content: str) -> bytes:
    return b"data: " + json.dumps({"choices": [{"delta": {"content": content}}]}).encode() + b"\n\n"


def usage(prompt: int, completion: int, cached: int) -> bytes:
    counts = {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "prompt_tokens_details": {"cached_tokens": cached},
    }
    return b"data: " + json.dumps({"choices": [], "usage": counts}).encode() + b"\n\n"


async def says_hello(body: Body, write: Write) -> None:
    """Three tokens, of ten in the prompt four cached."""
    pieces = (event("hel"), event("lo"), usage(10, 3, 4) + DONE)
    await write(HEAD + b"".join(map(chunk, pieces)) + b"0\r\n\r\n")


class Chat:
    """What it was asked, in order."""

    def __init__(self, answer: Answer, models: bytes) -> None:
        self._answer, self._models = answer, models
        self.bodies: list[Body] = []
        self.heads: list[bytes] = []
        self.url = ""
        self.listening: asyncio.Server
        self._writers: list[asyncio.StreamWriter] = []

    def drop(self) -> None:
        """Every connection, at once."""
        for writer in self._writers:
            writer.transport.abort()

    async def connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)

        async def write(data: bytes) -> None:
            writer.write(data)
            await writer.drain()

        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
                content = await reader.readexactly(int(length))
                self.heads.append(head)
                if head.startswith(b"GET"):
                    size = len(self._models)
                    await write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (size, self._models))
                    continue
                body = json.loads(content)
                self.bodies.append(body)
                await self._answer(body, write)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def chat(
    answer: Answer = says_hello,
    *,
    tls: ssl.SSLContext | None = None,
    models: bytes = b'{"data":[{"id":"listed"}]}',
) -> AsyncIterator[Chat]:
    made = Chat(answer, models)
    listening = await asyncio.start_server(made.connection, "127.0.0.1", 0, ssl=tls)
    made.listening = listening
    made.url = f"{'https' if tls else 'http'}://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    async with listening:
        yield made


def session(name: int, at: float = 0.0, *, turns: int = 1, think: float = 0.0) -> Session:
    made = [
        Turn(pieces=(Piece(name * 100 + turn, 5),), output_tokens=3, think=think if turn else 0.0)
        for turn in range(turns)
    ]
    return Session(name=name, at=at, turns=tuple(made))


def every(seconds: float) -> Iterator[Session]:
    """One session after the other, without end."""
    return (session(number, number * seconds) for number in itertools.count())


def stretch(
    url: str,
    sessions: Iterable[Session],
    *,
    seconds: float = 0.3,
    requests: int = 10_000,
    in_flight: int = 100,
    timeout: float = 5.0,
    users: int | None = None,
) -> Stretch:
    return Stretch(
        server=asked(url, model="m"),
        sessions=iter(sessions),
        limits=Limits(seconds=seconds, requests=requests, in_flight=in_flight),
        options=Options(timeout_seconds=timeout, served_by_header=("x-served-by", "x-inference-pod")),
        users=users,
    )
