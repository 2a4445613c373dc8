"""Requests to one picker or to many ports of one, without a gateway between: who is picked, and when.

Place:   bench.pools and bench.pod_events; speaks as bench.gateway does.
Ignores: servers: the response is made up here.
Rule:    so many clients, each with one request in flight; every request is a whole one, with a body of its
         own and a response. One that is refused is an error, one that nobody answers is Stuck.
"""

import asyncio
import contextlib
import itertools
import json
import random
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Self

from bench.bodies import bodies
from bench.gateway import Gateway
from bench.load import CHAT_PATH, Call, clock
from bench.messages import body_message, destination, headers_message

BODY_BYTES = 1_024
_HEADERS = headers_message("request_headers", (":method", "POST"), (":path", CHAT_PATH))
_RESPONSE_HEADERS = headers_message(
    "response_headers", (":status", "200"), ("content-type", "application/json")
)
_RESPONSE = body_message(
    "response_body",
    b'{"object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant","content":"Yes."},'
    b'"finish_reason":"stop"}],"usage":{"prompt_tokens":200,"completion_tokens":2,"total_tokens":202}}',
    ended=True,
)
_ANSWERS = 4
"""To the headers and the body of a request and of its response."""


def alike() -> Iterator[Call]:
    """Conversations with common beginnings, as those of ``bench.overhead``."""
    return bodies(BODY_BYTES, streaming=False, rng=random.Random(1))


def unlike() -> Iterator[Call]:
    """Prompts that have nothing in common: who gets them is decided by nothing but load and trust."""
    for number in itertools.count():
        message = {"role": "user", "content": f"{number} is a number, and so is {number + 1}. " * 20}
        yield Call((json.dumps({"model": "bench", "messages": [message]}).encode(),))


@dataclass(frozen=True, slots=True)
class Picked:
    """One request: when it was sent and the picker's answer heard, as ``clock()`` says, and where it goes."""

    sent: float
    heard: float
    address: str


@dataclass(slots=True)
class Requests:
    """What the clients sent so far, on these connections in turn."""

    gateways: Sequence[Gateway]
    calls: Iterator[Call]
    picked: list[Picked] = field(default_factory=list)
    _is_over: bool = False
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    @classmethod
    @contextlib.asynccontextmanager
    async def to(cls, ports: Sequence[int], calls: Iterator[Call] | None = None) -> AsyncIterator[Self]:
        """A connection for each of these ports, which may be the same."""
        loop = asyncio.get_running_loop()
        gateways: list[Gateway] = []
        try:
            for port in ports:
                _, gateway = await loop.create_connection(Gateway, "127.0.0.1", port)
                gateways += [gateway]
            yield cls(gateways, calls or alike())
        finally:
            for gateway in gateways:
                gateway.abort()

    async def first_to(self, address: str, seconds: float) -> float:
        """When the first request was answered with this address; TimeoutError when none is in time."""
        place = 0
        async with asyncio.timeout(seconds):
            while True:
                while place < len(self.picked):
                    if self.picked[place].address == address:
                        return self.picked[place].heard
                    place += 1
                self._changed.clear()
                await self._changed.wait()

    async def one(self, gateway: Gateway) -> Picked:
        """A whole request; ValueError when it is refused, Gone and Stuck as gateways raise them."""
        content = b"".join(next(self.calls).parts)
        call, sent = gateway.open(), clock()
        await gateway.say(call, _HEADERS)
        await gateway.say(call, body_message("request_body", content, ended=True))
        (first, *_) = await gateway.hear(call, 1)
        picked = Picked(sent, clock(), destination(first))
        await gateway.hear(call, 2)
        await gateway.say(call, _RESPONSE_HEADERS)
        await gateway.say(call, _RESPONSE)
        await gateway.hear(call, _ANSWERS)
        gateway.leave(call)
        return picked

    def _note(self, picked: Picked) -> None:
        self.picked.append(picked)
        self._changed.set()

    async def send(self, clients: int, count: int) -> None:
        """So many in all, by so many clients at once."""
        left = iter(range(count))
        turns = itertools.cycle(self.gateways)

        async def client() -> None:
            for _ in left:
                self._note(await self.one(next(turns)))

        async with asyncio.TaskGroup() as group:
            for number in range(clients):
                group.create_task(client(), name=f"client {number}")

    @contextlib.asynccontextmanager
    async def going_on(self, clients: int) -> AsyncIterator[None]:
        """As long as the block lasts."""
        turns = itertools.cycle(self.gateways)

        async def client() -> None:
            while not self._is_over:
                self._note(await self.one(next(turns)))

        async with asyncio.TaskGroup() as group:
            for number in range(clients):
                group.create_task(client(), name=f"client {number}")
            try:
                yield
            finally:
                self._is_over = True
