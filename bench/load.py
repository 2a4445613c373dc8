"""A load generator for HTTP inference servers: closed loop, open loop, and what to say of the answers.

Place:   used by the demo, the bench and the system tests; speaks to a gateway or straight to a server.
Ignores: what lies behind the address; which words are in the answers.
Rule:    bounded in time and in number; loopback addresses only, unless a person named another one. In the
         open loop a latency counts from the moment at which the request should have been sent, so a slow
         server cannot slow the clock that measures it (no coordinated omission).
"""

import asyncio
import contextlib
import ipaddress
import json
import math
import random
import re
import ssl
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import cast
from urllib.parse import urlsplit

from bench.http1 import ProtocolError, Reader, header, status_of

MAX_SECONDS = 3_600.0
MAX_REQUESTS = 2_000_000
MAX_CONCURRENCY = 4_096
RECONNECT_SECONDS = 0.02  # so that a refused port is not hammered
TIMER_SECONDS = 0.0015  # within which the loop's timers are good
CHAT_PATH = "/v1/chat/completions"

clock = time.perf_counter  # not loop.time: uvloop keeps that one in whole milliseconds

_CONTENT = re.compile(
    rb'"(?:content|text|reasoning|reasoning_content|delta|thinking|arguments|partial_json)"\s*:\s*"[^"]'
)
_ERROR_EVENT = re.compile(rb'data:\s*\{\s*"error"\s*:')
_TAIL = 64  # bytes of a stream kept for what may straddle two pieces


class LoadError(Exception):
    """The caller asked for a load that this generator does not make."""


# --- what is sent, and where ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Target:
    """A loopback address and the path used where a call names none."""

    host: str
    port: int
    path: str = CHAT_PATH
    tls: ssl.SSLContext | None = None
    anywhere: bool = False
    """A person named it: it need not be loopback."""

    def __post_init__(self) -> None:
        if not self.anywhere and self.host != "localhost" and not _is_loopback(self.host):
            raise LoadError(
                f"target host {self.host!r}: load goes to loopback only (127.0.0.0/8, ::1, localhost)"
            )
        if not 1 <= self.port <= 65_535:
            raise LoadError(f"target port {self.port}: must be 1 to 65535")
        if not self.path.startswith("/") or not self.path.isascii() or re.search(r"\s", self.path):
            raise LoadError(f"target path {self.path!r}: must begin with / and hold no blanks")

    @classmethod
    def parse(cls, url: str) -> "Target":
        """``http://127.0.0.1:8080/v1/completions``; the path is optional."""
        parts = urlsplit(url)
        if parts.scheme != "http" or parts.hostname is None:
            raise LoadError(f"target {url!r}: must look like http://127.0.0.1:8080/path")
        return cls(parts.hostname, parts.port or 80, parts.path or CHAT_PATH)

    @property
    def authority(self) -> str:
        """As the Host header says it: without the port that the scheme means anyway."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True, slots=True)
class Call:
    """One request, ready to be written. ``parts`` together are the body, so that big ones share memory."""

    parts: tuple[bytes, ...] = ()
    key: str = ""
    """Copied to the sample: a conversation's name, for instance."""
    path: str = ""
    """Empty: the target's."""
    method: str = "POST"
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(slots=True)
class Sample:
    """What became of one request. Times are ``clock()`` readings [s]; None: it did not happen."""

    due: float
    """When it should have been sent; in the closed loop, when it was."""
    key: str = ""
    sent: float | None = None
    first_byte: float | None = None
    """The answer's headers."""
    first_token: float | None = None
    """The first event of a stream that carries generated text."""
    ended: float = 0.0
    status: int | None = None
    body_bytes: int = 0
    pieces: int = 0
    """Body pieces as they came: chunks of a chunked answer, unless the network joined or cut them."""
    served_by: str | None = None
    error: str | None = None
    """Why it failed; None: a complete 2xx answer."""

    @property
    def ok(self) -> bool:
        return self.error is None

    @property
    def latency(self) -> float:
        """Seconds from due to the end."""
        return self.ended - self.due

    @property
    def ttfb(self) -> float | None:
        return None if self.first_byte is None else self.first_byte - self.due

    @property
    def ttft(self) -> float | None:
        return None if self.first_token is None else self.first_token - self.due


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How answers are waited for and read."""

    timeout_seconds: float = 30.0
    """From due to the end of the answer."""
    connect_seconds: float = 5.0
    served_by_header: str | Sequence[str] = "x-served-by"
    """The answer's header that names the server; of several the first that is there."""
    rest_seconds: float = 0.0
    """So long after an answer its connection is not used: llama.cpp closes it after a stream, having promised
    the opposite, and a request that meets the end of one fails."""
    served_by_pattern: re.Pattern[bytes] | None = None
    """Where there is no such header: group 1 of this, in the first piece of the body."""

    def __post_init__(self) -> None:
        if not 0 < self.timeout_seconds <= MAX_SECONDS:
            raise LoadError(f"timeout_seconds {self.timeout_seconds}: must be above 0, at most {MAX_SECONDS}")


# --- one connection ------------------------------------------------------------------------------

Listener = Callable[[bytes], None]


def _ignore_piece(_: bytes) -> None:
    """Nobody listens."""


class Connection(asyncio.Protocol):
    """A kept-alive HTTP/1.1 connection with at most one request in flight."""

    def __init__(self, target: Target, options: Options) -> None:
        self._target = target
        self._options = options
        names = options.served_by_header
        self._served_by = [name.lower().encode() for name in ([names] if isinstance(names, str) else names)]
        self._heads: dict[tuple[str, str, tuple[tuple[str, str], ...]], bytes] = {}
        self._transport: asyncio.Transport | None = None
        self._reader = Reader(self, responses=True)
        self._sample: Sample | None = None
        self._answered: asyncio.Future[None] | None = None
        self.answered_at = 0.0
        self._listen: Listener = _ignore_piece
        self._keep = True
        self._streaming = False
        self._unread = b""  # of a stream without a token yet: the last, incomplete line
        self._tail = b""
        self._error: str | None = None
        self._done_expected = False

    @property
    def usable(self) -> bool:
        """Open, and nothing in flight."""
        return self._transport is not None and self._keep and self._sample is None

    @property
    def expired(self) -> bool:
        """The request in flight has had its time."""
        sample = self._sample
        return sample is not None and clock() - sample.due > self._options.timeout_seconds

    async def open(self) -> None:
        """Connect; raises OSError or TimeoutError."""
        async with asyncio.timeout(self._options.connect_seconds):
            await asyncio.get_running_loop().create_connection(
                lambda: self, self._target.host, self._target.port, ssl=self._target.tls
            )

    async def exchange(self, call: Call, sample: Sample, listen: Listener | None = None) -> None:
        """Send and wait for the whole answer; what happened is in ``sample`` afterwards.

        ``listen`` hears each piece of the body when it comes.
        """
        assert self._sample is None
        self._sample, self._error, self._listen = sample, None, listen or _ignore_piece
        self._streaming, self._unread, self._tail = False, b"", b""
        path = call.path or self._target.path
        self._done_expected = path.endswith("completions")
        answered = self._answered = asyncio.get_running_loop().create_future()
        if self._transport is None:  # accepted and closed at once
            self._finish("closed before the answer")
            return
        sample.sent = clock()
        self._transport.writelines((self._head(call, path), *call.parts))
        try:
            await answered
        finally:
            if self._sample is not None:  # cancelled while waiting
                self._sample = None
                self.close()

    def close(self, error: str | None = None) -> None:
        """Drop the connection; a request in flight fails with ``error``."""
        self._keep = False
        if self._transport is not None:
            self._transport.abort()
            self._transport = None
        if self._sample is not None:
            self._finish(error or "cancelled")

    def _head(self, call: Call, path: str) -> bytes:
        key = (call.method, path, call.headers)
        fixed = self._heads.get(key)
        if fixed is None:
            extra = "".join(f"{name}: {value}\r\n" for name, value in call.headers)
            fixed = self._heads[key] = (
                f"{call.method} {path} HTTP/1.1\r\nhost: {self._target.authority}\r\n"
                f"user-agent: fleet-epp-bench\r\naccept: */*\r\ncontent-type: application/json\r\n{extra}"
            ).encode()
            if len(self._heads) > 64:
                self._heads.clear()
        return fixed + b"content-length: %d\r\n\r\n" % sum(map(len, call.parts))

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one without saying so

    def data_received(self, data: bytes) -> None:
        try:
            self._reader.feed(data)
        except ProtocolError as problem:
            self.close(f"not HTTP: {str(problem).partition(':')[0]}")

    def eof_received(self) -> None:
        self._keep = False
        if not self._reader.eof() and self._sample is not None:
            self._finish("answer cut off")

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._keep = False
        if self._sample is not None:
            begun = self._sample.first_byte is not None
            self._finish("answer cut off" if begun else "closed before the answer")

    # bench.http1.Sink

    def on_head(self, head: bytes) -> None:
        sample = self._sample
        if sample is None:
            raise ProtocolError("unasked answer")
        sample.first_byte = clock()
        sample.status = status_of(head)
        named = (header(head, name) for name in self._served_by)
        served_by = next((value for value in named if value is not None), None)
        sample.served_by = None if served_by is None else served_by.decode("latin-1")
        self._streaming = b"text/event-stream" in head
        if head.startswith(b"HTTP/1.0") or (header(head, b"connection") or b"").lower() == b"close":
            self._keep = False

    def on_body(self, data: bytes) -> None:
        sample = self._sample
        assert sample is not None
        if sample.served_by is None and not sample.pieces and self._options.served_by_pattern is not None:
            found = self._options.served_by_pattern.search(data)
            sample.served_by = found[1].decode("latin-1") if found else None
        sample.body_bytes += len(data)
        sample.pieces += 1
        self._listen(data)
        if self._streaming:
            self._events(sample, data)

    def _events(self, sample: Sample, data: bytes) -> None:
        if sample.first_token is None:
            text = self._unread + data
            if _CONTENT.search(text):
                sample.first_token = clock()
            self._unread = text[text.rfind(b"\n") + 1 :]
        seen = self._tail + data
        if b'"error"' in seen and _ERROR_EVENT.search(seen):
            self._error = "error event in the stream"
        self._tail = seen[-_TAIL:]

    def on_end(self) -> None:
        sample = self._sample
        assert sample is not None and sample.status is not None
        if not 200 <= sample.status < 300:
            self._error = f"http {sample.status}"
        elif self._streaming and self._done_expected and self._error is None and b"[DONE]" not in self._tail:
            self._error = "stream without [DONE]"
        self._finish(self._error)

    def _finish(self, error: str | None) -> None:
        sample, answered = self._sample, self._answered
        assert sample is not None and answered is not None
        self._sample = self._answered = None
        sample.ended, sample.error = clock(), error
        self.answered_at = sample.ended
        if not answered.done():
            answered.set_result(None)


# --- the two loops -------------------------------------------------------------------------------


@dataclass(slots=True)
class Result:
    """All samples of a run and the window in which requests were issued."""

    samples: list[Sample] = field(default_factory=list)
    started: float = 0.0
    window_seconds: float = 0.0

    def summary(self) -> "Summary":
        return summarize(self.samples, started=self.started, window_seconds=self.window_seconds)


OnSample = Callable[[Sample], None]


def _ignore(_: Sample) -> None:
    """Nobody listens."""


class Traffic:
    """What all loops share: the calls, the samples, open connections and their deadline."""

    def __init__(
        self, target: Target, calls: Iterable[Call], options: Options, on_sample: OnSample = _ignore
    ) -> None:
        self.target, self.options = target, options
        self.calls = iter(calls)
        self.on_sample = on_sample
        self.result = Result()
        self.issued = 0
        self.connections: set[Connection] = set()
        self.idle: deque[Connection] = deque()

    def record(self, sample: Sample, error: str | None = None) -> None:
        if error is not None:
            sample.error, sample.ended = error, clock()
        self.result.samples.append(sample)
        self.on_sample(sample)

    def next_call(self) -> Call | None:
        call = next(self.calls, None) if self.issued < MAX_REQUESTS else None
        self.issued += call is not None
        return call

    async def connect(self) -> Connection:
        connection = Connection(self.target, self.options)
        await connection.open()
        self.connections.add(connection)
        return connection

    def drop(self, connection: Connection) -> None:
        self.connections.discard(connection)
        connection.close()

    def take_idle(self) -> Connection | None:
        """The one used last; where they rest, the one that has rested longest."""
        rest = self.options.rest_seconds
        while self.idle:
            if rest and clock() - self.idle[0].answered_at < rest:
                return None
            connection = self.idle.popleft() if rest else self.idle.pop()
            if connection.usable:
                return connection
            self.drop(connection)
        return None

    async def one(self, call: Call, sample: Sample, listen: Listener | None = None) -> bool:
        """One exchange on an idle or a new connection. False: there was no connection to be had."""
        connection = self.take_idle()
        if connection is None:
            try:
                connection = await self.connect()
            except TimeoutError:
                self.record(sample, "connect timeout")
                return False
            except OSError as problem:
                name = "refused" if isinstance(problem, ConnectionRefusedError) else type(problem).__name__
                self.record(sample, f"connect: {name}")
                return False
        await connection.exchange(call, sample, listen)
        if connection.usable:
            self.idle.append(connection)
        else:
            self.drop(connection)
        self.record(sample)
        return True

    async def enforce_timeouts(self) -> None:
        """Ends with the run that owns it."""
        while True:
            await asyncio.sleep(min(0.1, self.options.timeout_seconds / 4))
            for connection in [c for c in self.connections if c.expired]:
                connection.close("timeout")

    @contextlib.asynccontextmanager
    async def clients(self) -> AsyncIterator[asyncio.TaskGroup]:
        """A group for the exchanges, with their deadlines kept; closes every connection on the way out."""
        async with asyncio.TaskGroup() as owner:
            watch = owner.create_task(self.enforce_timeouts(), name="load timeouts")
            self.result.started = clock()
            try:
                async with asyncio.TaskGroup() as group:
                    yield group
            finally:
                watch.cancel()
                for connection in list(self.connections):
                    self.drop(connection)


async def closed_loop(
    target: Target,
    calls: Iterable[Call],
    *,
    concurrency: int,
    seconds: float = MAX_SECONDS,
    requests: int = MAX_REQUESTS,
    options: Options = Options(),
    on_sample: OnSample = _ignore,
) -> Result:
    """``concurrency`` clients, each with one request in flight, until time, number or calls run out.

    Requests in flight at the end are waited for. To stop early, cancel; ``on_sample`` has seen all.
    """
    _check(concurrency=concurrency, seconds=seconds, requests=requests)
    run = Traffic(target, calls, options, on_sample)

    async def client(end: float) -> None:
        while run.issued < requests and (now := clock()) < end:
            call = run.next_call()
            if call is None:
                return
            if not await run.one(call, Sample(due=now, key=call.key)):
                await asyncio.sleep(RECONNECT_SECONDS)

    async with run.clients() as group:
        for number in range(concurrency):
            group.create_task(client(run.result.started + seconds), name=f"client {number}")
    run.result.window_seconds = min(seconds, clock() - run.result.started)
    return run.result


async def open_loop(
    target: Target,
    calls: Iterable[Call],
    *,
    rate: float,
    seconds: float,
    rng: random.Random | None = None,
    max_in_flight: int = 1_024,
    exact: bool = False,
    options: Options = Options(),
    on_sample: OnSample = _ignore,
) -> Result:
    """``rate`` requests a second whatever the answers do: evenly, or as a Poisson process with ``rng``.

    A request that would exceed ``max_in_flight`` is not sent and counts as failed. ``exact`` spends CPU
    on the moment: timers come up to a millisecond late, which is as long as some answers take.
    """
    _check(concurrency=max_in_flight, seconds=seconds, requests=math.ceil(rate * seconds))
    run = Traffic(target, calls, options, on_sample)
    async with run.clients() as group:
        due, issued = run.result.started, 0
        end = due + seconds
        in_flight: set[asyncio.Task[bool]] = set()
        while due < end:
            await _until(due, exact=exact)
            call = run.next_call()
            if call is None:
                break
            sample = Sample(due=due, key=call.key)
            if len(in_flight) >= max_in_flight:
                run.record(sample, f"not sent: {max_in_flight} in flight")
                await asyncio.sleep(0)
            else:
                task = group.create_task(run.one(call, sample))
                in_flight.add(task)
                task.add_done_callback(in_flight.discard)
            issued += 1
            # not added up: rounding would make it one request more or less
            due = due + rng.expovariate(rate) if rng is not None else run.result.started + issued / rate
    run.result.window_seconds = min(due, end) - run.result.started
    return run.result


async def _until(moment: float, *, exact: bool) -> None:
    wait = moment - clock()
    if not exact:
        if wait > 0:
            await asyncio.sleep(wait)
        return
    if wait > TIMER_SECONDS:
        await asyncio.sleep(wait - TIMER_SECONDS)
    while clock() < moment:  # noqa: ASYNC110 - it is waited for the clock
        await asyncio.sleep(0)  # answers that arrive meanwhile are read


def _check(*, concurrency: int, seconds: float, requests: int) -> None:
    for name, value, limit in (
        ("concurrency", concurrency, MAX_CONCURRENCY),
        ("seconds", seconds, MAX_SECONDS),
        ("requests", requests, MAX_REQUESTS),
    ):
        if not 0 < value <= limit:
            raise LoadError(f"{name} {value}: must be above 0 and at most {limit}")


# --- what to say of it ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Nearest-rank percentiles: each is a value that occurred [s]."""

    p50: float
    p95: float
    p99: float

    @classmethod
    def of(cls, values: Iterable[float | None]) -> "Percentiles | None":
        """None where there are no values. Unknown ones do not count."""
        ordered = sorted(value for value in values if value is not None)
        if not ordered:
            return None
        return cls(*(percentile(ordered, share) for share in (0.50, 0.95, 0.99)))

    def milliseconds(self) -> dict[str, float]:
        return {name: round(getattr(self, name) * 1e3, 3) for name in ("p50", "p95", "p99")}


def percentile(ordered: Sequence[float], share: float) -> float:
    """The smallest value that at least ``share`` of the sorted values do not exceed (nearest rank)."""
    # The subtrahend keeps 0.95 * 20 = 19.000000000000004 from becoming rank 20.
    rank = math.ceil(share * len(ordered) - 1e-9)
    return ordered[min(max(rank, 1), len(ordered)) - 1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """One run in figures. Percentiles are those of good answers; the failures are beside them."""

    requests: int
    failures: int
    failures_by_kind: dict[str, int]
    window_seconds: float
    requests_per_second: float
    """Good answers that ended within the window, per second."""
    latency: Percentiles | None
    ttfb: Percentiles | None
    ttft: Percentiles | None
    """Streams only."""
    body_bytes: int
    pieces: int
    served_by: dict[str, int]

    def as_dict(self) -> dict[str, object]:
        """For JSON; times in milliseconds."""
        times = {"latency_ms": self.latency, "ttfb_ms": self.ttfb, "ttft_ms": self.ttft}
        return {
            "requests": self.requests,
            "failures": self.failures,
            "failures_by_kind": self.failures_by_kind,
            "window_seconds": round(self.window_seconds, 3),
            "requests_per_second": round(self.requests_per_second, 1),
            **{name: value and value.milliseconds() for name, value in times.items()},
            "body_bytes": self.body_bytes,
            "served_by": self.served_by,
        }


def summarize(samples: Sequence[Sample], *, started: float = 0.0, window_seconds: float = 0.0) -> Summary:
    """``window_seconds`` 0: from the first request due to the last end."""
    good = [sample for sample in samples if sample.ok]
    if samples and not window_seconds:
        started = min(sample.due for sample in samples)
        window_seconds = max(sample.ended for sample in samples) - started
    in_window = sum(sample.ended <= started + window_seconds for sample in good)
    return Summary(
        requests=len(samples),
        failures=len(samples) - len(good),
        failures_by_kind=dict(Counter(s.error for s in samples if s.error is not None).most_common()),
        window_seconds=window_seconds,
        requests_per_second=in_window / window_seconds if window_seconds > 0 else 0.0,
        latency=Percentiles.of(sample.latency for sample in good),
        ttfb=Percentiles.of(sample.ttfb for sample in good),
        ttft=Percentiles.of(sample.ttft for sample in good),
        body_bytes=sum(sample.body_bytes for sample in samples),
        pieces=sum(sample.pieces for sample in samples),
        served_by=dict(sorted(Counter(s.served_by for s in good if s.served_by is not None).items())),
    )


# --- bodies --------------------------------------------------------------------------------------

_PROSE = """
the picker asks each server how long its queue is and which prefix it holds before a request goes there
because memory moves slower than tokens and a warm cache answers sooner than an idle card please explain
why latency grows when batches fill what should an operator watch and how would you write this in plain
words with an example table list of steps numbers units and one caveat about rare failures at night
"""
_WORDS = _PROSE.split()


def text(rng: random.Random, words: int) -> str:
    """Prose of so many words, with the punctuation that JSON must escape now and then."""
    chosen = rng.choices(_WORDS, k=words)
    for position in range(11, words, 12):
        chosen[position] += rng.choice((".", ".\n", ', "so",', " \N{RIGHTWARDS ARROW} then"))
    return " ".join(chosen)


def chat_call(
    messages: Sequence[dict[str, str]],
    *,
    model: str = "demo",
    stream: bool = False,
    max_tokens: int = 16,
    key: str = "",
    headers: tuple[tuple[str, str], ...] = (),
) -> Call:
    """A chat completion of these messages."""
    body: dict[str, object] = {"model": model, "messages": list(messages), "max_tokens": max_tokens}
    if stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    encoded = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
    return Call((encoded,), key=key, path=CHAT_PATH, headers=headers)


def conversations(
    n: int,
    turns: int,
    rng: random.Random,
    *,
    model: str = "demo",
    stream: bool = True,
    max_tokens: int = 16,
    system_words: int = 60,
    turn_words: int = 40,
) -> Iterator[Call]:
    """``n`` conversations that grow over ``turns`` turns; a call's key names its conversation.

    All first turns come before all second ones, each round in its own order, so that a conversation
    meets servers that were busy with others meanwhile. The assistant's earlier answers are made up:
    a turn needs no answer to the one before. One system prompt is common to all.
    """
    system = {"role": "system", "content": text(rng, system_words)}
    histories = [[system] for _ in range(n)]
    for _ in range(turns):
        for number in rng.sample(range(n), n):
            history = histories[number]
            history.append({"role": "user", "content": text(rng, turn_words)})
            yield chat_call(
                history, model=model, stream=stream, max_tokens=max_tokens, key=f"conversation-{number}"
            )
            history.append({"role": "assistant", "content": text(rng, max_tokens)})
