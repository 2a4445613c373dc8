"""One stretch of load on one server: sessions as they are due, and what became of every request.

Place:   bench.run.__main__ plays; bench.run.figures counts.
Ignores: what a request says, beyond the answers that go into later turns.
Rule:    a session's first turn is due at its time, a later one so long after the answer to the one before as
         its user thinks. What is due is sent, however many answers are awaited. How late the sending itself
         was is measured apart from how late the answers were. Who gets no answer gives up.

At the end of its time nobody asks any more, and what is under way is waited for. A server to which no
connection could be had for DEAD_SECONDS ends the stretch: what was measured before is kept.
"""

import asyncio
import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from bench.load import Call, Options, Sample, Traffic, clock
from bench.run.answers import Answer
from bench.run.server import Server
from bench.workloads.sessions import Session
from bench.workloads.text import words
from epp.config.decode import ConfigError

AHEAD_SECONDS = 1.0
"""So long before it is due a session's text is made, in a thread of its own: 10,000 tokens take 4 ms."""
LEAD_SECONDS = 0.2
"""Before the clock starts, for the texts of those who come first."""
DEAD_SECONDS = 3.0
DEAD_REQUESTS = 3
"""So many must have found no connection in that time."""


@dataclass(slots=True, eq=False, kw_only=True)
class Request:
    """One request, from the moment at which it was due. Times are ``clock()`` readings [s]."""

    session: int
    turn: int
    prompt_tokens: int
    """As the workload says."""
    late: float
    """How long after the moment at which it was due it was handed to a connection [s]."""
    sample: Sample
    answer: Answer = field(default_factory=Answer)
    is_over: bool = False

    @property
    def is_good(self) -> bool:
        """It ended, and as it should."""
        return self.is_over and self.sample.ok


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """When a stretch is over."""

    seconds: float
    requests: int
    in_flight: int
    """Beyond so many a request is not sent, and has failed."""


@dataclass(slots=True, eq=False, kw_only=True)
class Stretch:
    """What is asked, and what is found."""

    server: Server
    sessions: Iterator[Session]
    limits: Limits
    options: Options
    users: int | None = None
    """A closed loop: so many have one session after the other."""
    salt: str = ""
    """Texts with another one are other texts, which no cache has seen."""
    ignore_eos: bool = False
    requests: list[Request] = field(default_factory=list)
    began: float = 0.0
    ended: float = 0.0
    broken: str = ""
    """Why it ended before its time."""
    is_complete: bool = False
    """Neither broken off nor interrupted."""
    _under_way: int = 0
    _is_over: asyncio.Event = field(default_factory=asyncio.Event)
    _last_heard: float = 0.0
    _unheard: int = 0

    @property
    def end(self) -> float:
        """When nobody asks any more."""
        return self.began + self.limits.seconds

    async def play(self) -> None:
        """Once; when it is cancelled, what there is stays."""
        traffic = Traffic(self.server.target, (), self.options)
        try:
            async with traffic.clients() as group:
                self.began = self._last_heard = clock() + LEAD_SECONDS
                if self.users is None:
                    await self._arrivals(group, traffic)
                else:
                    for number in range(self.users):
                        group.create_task(self._user(traffic), name=f"user {number}")
            self.is_complete = not self.broken
        finally:
            self.ended = clock()

    # --- who asks

    async def _arrivals(self, group: asyncio.TaskGroup, traffic: Traffic) -> None:
        while (session := self._next()) is not None:
            due = self.began + session.at
            if due >= self.end or not await self._is_time(due - AHEAD_SECONDS):
                return
            group.create_task(self._session(session, due, traffic), name=f"session {session.name}")

    async def _user(self, traffic: Traffic) -> None:
        due: float | None = self.began
        while not self._is_over.is_set() and clock() < self.end and (session := self._next()) is not None:
            await self._session(session, due, traffic)
            due = None

    def _next(self) -> Session | None:
        try:
            return next(self.sessions, None)
        except ConfigError as problem:  # a trace that is broken further on
            self.broken = str(problem)
            return None

    async def _session(self, session: Session, due: float | None, traffic: Traffic) -> None:
        """``due`` None: when it can."""
        texts = await asyncio.to_thread(_texts, session, self.salt)
        messages: list[dict[str, str]] = []
        for number, ((turn, prompt), text) in enumerate(zip(session.prompts(), texts, strict=True)):
            messages.append({"role": "user", "content": text})
            call = self._call(messages, turn.output_tokens, key=f"{session.name}.{number + 1}")
            due = clock() if due is None else due
            if not await self._is_time(due):
                return
            request = Request(
                session=session.name,
                turn=number + 1,
                prompt_tokens=sum(piece.tokens for piece in prompt),
                late=clock() - due,
                sample=Sample(due=due, key=call.key),
            )
            if not await self._asked(request, call, traffic):
                return
            messages.append({"role": "assistant", "content": request.answer.text})
            following = session.turns[number + 1 : number + 2]
            due = request.sample.ended + (following[0].think if following else 0.0)

    async def _is_time(self, moment: float) -> bool:
        """Wait for it. False: it is not to be asked any more."""
        if moment >= self.end:
            return False
        if (wait := moment - clock()) > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._is_over.wait()
        return not self._is_over.is_set()

    # --- one request

    async def _asked(self, request: Request, call: Call, traffic: Traffic) -> bool:
        """Whether it was answered."""
        sample = request.sample
        self.requests.append(request)
        if len(self.requests) >= self.limits.requests:
            self._is_over.set()
        if self._under_way >= self.limits.in_flight:
            traffic.record(sample, f"not sent: {self.limits.in_flight} in flight")
        else:
            self._under_way += 1
            try:
                await traffic.one(call, sample, request.answer.feed)
            finally:
                self._under_way -= 1
            self._note(sample)
        request.is_over = True
        return sample.ok

    def _call(self, messages: Sequence[dict[str, str]], output_tokens: int, *, key: str) -> Call:
        body: dict[str, object] = {
            "model": self.server.model,
            "messages": messages,
            "max_tokens": output_tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if self.ignore_eos:
            body["ignore_eos"] = True
        encoded = json.dumps(body, separators=(",", ":")).encode()
        return Call((encoded,), key=key, headers=self.server.headers)

    def _note(self, sample: Sample) -> None:
        """Whether anybody is there."""
        if sample.sent is not None:  # there was a connection
            self._last_heard, self._unheard = clock(), 0
            return
        self._unheard += 1
        silent = clock() - self._last_heard
        if silent >= DEAD_SECONDS and self._unheard >= DEAD_REQUESTS and not self._is_over.is_set():
            self._is_over.set()
            self.broken = (
                f"{self.server.url} took no connection ({sample.error}) for {silent:.0f} s, to the"
                f" {clock() - self.began:.0f} s mark"
            )


def _texts(session: Session, salt: str) -> list[str]:
    """What each turn adds."""
    return ["".join(words(piece, salt) for piece in turn.pieces) for turn in session.turns]
