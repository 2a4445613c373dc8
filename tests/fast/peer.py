"""A client and the connection it talks to, without sockets and in virtual time; and what is served to it."""

from collections.abc import Sequence
from typing import Any

from bench import frames
from bench.frames import Error, Frame, Replies, Reply
from bench.virtual import Clock
from epp.core.budget import Budget
from epp.runtime.calls import CallFailed, Code, Push, Services
from epp.runtime.fast.connection import Connection
from epp.runtime.fast.limits import Limits

ECHO = "/test.Service/Echo"
BROKEN = "/test.Service/Broken"
LIMITS = Limits(max_receive_bytes=100_000)


class EchoCall:
    """Answers as each message asks in its first byte, and remembers what was said on both sides.

    ``e``: the message's length and its reverse. ``n``: nothing. ``l`` and a number: so many bytes.
    ``s`` and a number: so many answers. ``p``: later, when the test calls ``push_next``; ``w``: the same, and
    a peer that has said all waits for it. ``o``: an answer, and the call is over. ``f``: the call fails.
    ``x``: a defect.
    """

    def __init__(self, push: Push) -> None:
        self.heard: list[bytes] = []
        self.said: list[bytes] = []
        self.later: list[bytes] = []
        """Answers that wait for ``push_next``."""
        self.is_over = False
        self.failed = False
        self.closed = 0
        self.deliveries = 0
        self._push = push

    def receive(self, message: bytes) -> Sequence[bytes]:
        assert not self.closed and not self.failed and not self.is_over, "a call that is over hears no more"
        self.heard.append(message)
        answers: list[bytes] = []
        match message[:1]:
            case b"e":
                answers = [_echo(message)]
            case b"l":
                answers = [bytes(range(256)) * (int(message[1:]) // 256) + bytes(int(message[1:]) % 256)]
            case b"s":
                answers = [b"%d" % number for number in range(int(message[1:]))]
            case b"p" | b"w":
                self.later.append(_echo(message))
            case b"o":
                answers, self.is_over = [_echo(message)], True
            case b"f":
                self.failed = True
                raise CallFailed(Code.INVALID_ARGUMENT, "as you wish: 100 % \N{SNOWMAN}")
            case b"x":
                self.failed = True
                raise RuntimeError("a defect of the service")
            case _:
                pass
        self.said += answers
        return answers

    @property
    def is_waiting(self) -> bool:
        return any(answer.endswith(b"w") for answer in self.later)

    def push_next(self) -> bytes:
        """Say the first of what was put off."""
        answer = self.later.pop(0)
        self._push([answer])
        return answer

    def delivered(self) -> None:
        assert not self.closed
        self.deliveries += 1

    def close(self) -> None:
        self.closed += 1
        assert self.closed == 1, "closed twice"


def _echo(message: bytes) -> bytes:
    return b"%d " % len(message) + message[::-1]


class Service:
    """Keeps every call that was ever opened, in order."""

    def __init__(self) -> None:
        self.calls: list[EchoCall] = []

    def open(self, push: Push) -> EchoCall:
        self.calls.append(EchoCall(push))
        return self.calls[-1]

    def services(self) -> Services:
        return {ECHO: self.open, BROKEN: _broken}

    @property
    def open_calls(self) -> int:
        return sum(not call.closed for call in self.calls)


def _broken(_push: Push) -> EchoCall:
    raise RuntimeError("a service that cannot even begin")


class Talk:
    """Says bytes to a connection and collects what comes back, by stream."""

    def __init__(
        self,
        *,
        limits: Limits = LIMITS,
        services: Services | None = None,
        begun: bool = True,
        acknowledged: bool = True,
        settings: dict[int, int] | None = None,
    ) -> None:
        self.clock = Clock()
        self.service = Service()
        self.replies = Replies()
        self.woken = 0
        served = self.service.services() if services is None else services
        self.connection = Connection(
            served,
            limits,
            later=self.clock.later,
            wake=self._wake,
            budget=Budget(2 * limits.max_receive_bytes),
        )
        if begun:
            ack = frames.settings(ack=True) if acknowledged else b""
            self.say(frames.PREFACE, frames.settings(settings), ack)

    def _wake(self) -> None:
        self.woken += 1

    def say(self, *parts: bytes) -> list[Frame]:
        """One read with all of it; the frames that come back."""
        self.connection.receive(b"".join(parts), self.clock.now)
        return self.hear()

    def say_slowly(self, *parts: bytes, step: int = 1) -> list[Frame]:
        """The same in reads of ``step`` bytes."""
        whole = b"".join(parts)
        pieces = (whole[at : at + step] for at in range(0, len(whole), step))
        return [one for piece in pieces for one in self.say(piece)]

    def hear(self) -> list[Frame]:
        """What the connection has to say by now."""
        return self.replies.feed(self.connection.take())

    def wait(self, seconds: float) -> list[Frame]:
        self.clock.pass_by(seconds)
        return self.hear()

    def __getitem__(self, stream: int) -> Reply:
        return self.replies[stream]

    @property
    def fault(self) -> Error | None:
        """The code with which the connection has ended; None while it lives."""
        codes = [one.code for one in self.replies.goaways if one.code is not Error.NO_ERROR]
        assert bool(codes) == (self.connection.fault is not None)
        assert not codes or self.connection.is_closing
        return codes[0] if codes else None

    def is_alive(self) -> bool:
        """Another call is still served."""
        stream = 2 * 10**8 + 1
        self.say(frames.call(stream, ECHO), frames.data(stream, frames.message(b"e!"), ended=True))
        return self[stream].messages == [b"2 !e"] and self[stream].status == 0

    def end(self) -> None:
        """The transport is gone: nothing may be left."""
        self.connection.lost()
        assert not self.connection._streams
        assert self.service.open_calls == 0
        assert self.clock.timers == 0
        assert held_bytes(self.connection) == 0


def held_bytes(connection: Connection) -> int:
    """Bytes that wait in a connection, in either direction."""
    held: Any = connection
    streams = held._streams.values()
    waiting = sum(len(piece) for stream in streams for piece in stream.backlog)
    assert waiting == held._whole.backlog_bytes == sum(stream.backlog_bytes for stream in streams)
    return waiting + sum(len(stream.partial) for stream in streams)
