import asyncio
import itertools
import json
import math
import random
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.load import (
    Call,
    LoadError,
    Options,
    Percentiles,
    Sample,
    Target,
    chat_call,
    closed_loop,
    conversations,
    open_loop,
    percentile,
    summarize,
)

CALL = chat_call([{"role": "user", "content": "hello"}])
Answer = Callable[[asyncio.StreamWriter, int], Awaitable[None]]


@asynccontextmanager
async def server(answer: Answer) -> AsyncIterator[Target]:
    """An HTTP server whose ``answer`` is told how many requests its connection has had."""

    async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            for number in itertools.count():
                head = await reader.readuntil(b"\r\n\r\n")
                length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
                await reader.readexactly(int(length))
                await answer(writer, number)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    listening = await asyncio.start_server(connection, "127.0.0.1", 0)
    async with listening:
        yield Target("127.0.0.1", listening.sockets[0].getsockname()[1])


def says(data: bytes, *, then_close: bool = False) -> Answer:
    async def answer(writer: asyncio.StreamWriter, number: int) -> None:
        writer.write(data)
        if then_close:
            writer.close()

    return answer


def response(
    body: bytes, *, status: str = "200 OK", kind: str = "application/json", extra: str = ""
) -> bytes:
    head = f"HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n{extra}\r\n"
    return head.encode() + body


def stream(*events: bytes, close_early: bool = False) -> bytes:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    body = b"".join(b"%x\r\n%s\r\n" % (len(event), event) for event in events)
    return head + body + (b"" if close_early else b"0\r\n\r\n")


ROLE = b'data: {"choices":[{"delta":{"role":"assistant","content":""}}]}\n\n'
TEXT = b'data: {"choices":[{"delta":{"content":"hi"}}]}\n\n'
DONE = b"data: [DONE]\n\n"


async def one(data: bytes, options: Options = Options(), *, then_close: bool = False) -> Sample:  # noqa: B008
    async with server(says(data, then_close=then_close)) as target:
        result = await closed_loop(target, [CALL], concurrency=1, options=options)
    return result.samples[0]


# --- answers -------------------------------------------------------------------------------------


async def test_a_json_answer_has_times_size_and_server() -> None:
    sample = await one(response(b'{"a":1}', extra="X-Served-By: 8001\r\n"))
    assert sample.ok and sample.status == 200
    assert (sample.body_bytes, sample.served_by, sample.first_token) == (7, "8001", None)
    assert sample.due <= (sample.sent or 0) <= (sample.first_byte or 0) <= sample.ended


async def test_the_server_may_say_who_it_is_in_the_body() -> None:
    import re

    options = Options(served_by_pattern=re.compile(rb'"id":"([^"]*)"'))
    assert (await one(response(b'{"id":"here"}'), options)).served_by == "here"


@pytest.mark.parametrize(
    "events",
    [
        pytest.param([ROLE, TEXT, DONE], id="chat-after-an-empty-role"),
        pytest.param([b'data: {"choices":[{"text":"hi"}]}\n\n', DONE], id="completion"),
        pytest.param(
            [b'event: x\ndata: {"delta":{"type":"text_delta","text":"hi"}}\n\n', DONE], id="anthropic"
        ),
        pytest.param([TEXT[:30], TEXT[30:], DONE], id="an-event-in-two-pieces"),
    ],
)
async def test_the_first_token_is_the_first_event_with_text(events: list[bytes]) -> None:
    sample = await one(stream(*events))
    assert sample.error is None
    assert sample.first_token is not None and sample.ttft is not None
    assert (sample.first_byte or math.inf) <= sample.first_token


async def test_a_stream_without_text_has_no_first_token() -> None:
    sample = await one(stream(ROLE, b": ping\n\n", DONE))
    assert sample.ok and sample.first_token is None


@pytest.mark.parametrize(
    "data, then_close, error",
    [
        pytest.param(response(b"no", status="503 Service Unavailable"), False, "http 503", id="status"),
        pytest.param(b"SSH-2.0-x\r\n", False, "not HTTP: not an HTTP/1.1 answer", id="another-protocol"),
        pytest.param(b"", True, "closed before the answer", id="closed-before"),
        pytest.param(response(b"abc")[:-1], True, "answer cut off", id="cut-off"),
        pytest.param(stream(TEXT, close_early=True), True, "answer cut off", id="stream-cut-off"),
        pytest.param(stream(ROLE, TEXT), False, "stream without [DONE]", id="no-done"),
        pytest.param(
            stream(TEXT, b'data: {"error":{"code":500}}\n\n', DONE),
            False,
            "error event in the stream",
            id="error",
        ),
        pytest.param(b"", False, "timeout", id="silence"),
        pytest.param(response(b"abc")[:-1], False, "timeout", id="silence-in-the-answer"),
    ],
)
async def test_every_failure_has_its_kind(data: bytes, then_close: bool, error: str) -> None:
    assert (await one(data, Options(timeout_seconds=0.3), then_close=then_close)).error == error


async def test_a_refused_connection_is_a_failure_and_the_next_call_tries_again() -> None:
    with socket.socket() as unused:  # bound, not listening
        unused.bind(("127.0.0.1", 0))
        target = Target("127.0.0.1", unused.getsockname()[1])
        result = await closed_loop(target, [CALL] * 3, concurrency=1)
    assert result.summary().failures_by_kind == {"connect: refused": 3}


# --- loops ---------------------------------------------------------------------------------------


async def test_a_closed_loop_keeps_connections_and_stops_at_its_number() -> None:
    numbers: list[int] = []

    async def answer(writer: asyncio.StreamWriter, number: int) -> None:
        numbers.append(number)
        writer.write(response(b"{}"))

    async with server(answer) as target:
        result = await closed_loop(target, itertools.repeat(CALL), concurrency=4, requests=40)
    assert [sample.ok for sample in result.samples] == [True] * 40
    assert numbers.count(0) <= 4


async def test_a_connection_that_the_server_ends_is_replaced() -> None:
    closing = response(b"{}", extra="connection: close\r\n")
    async with server(says(closing, then_close=True)) as target:
        result = await closed_loop(target, [CALL] * 5, concurrency=1)
    assert result.summary().failures == 0


async def test_a_connection_may_rest_before_it_is_used_again() -> None:
    used: list[int] = []

    async def answer(writer: asyncio.StreamWriter, number: int) -> None:
        used.append(number)
        writer.write(response(b"{}"))

    async with server(answer) as target:
        for rest, expected in ((0.0, [0, 1, 2]), (30.0, [0, 0, 0]), (1e-9, [0, 1, 2])):
            used.clear()
            await closed_loop(target, [CALL] * 3, concurrency=1, options=Options(rest_seconds=rest))
            assert used == expected


async def test_a_closed_loop_stops_at_its_time() -> None:
    async with server(says(response(b"{}"))) as target:
        result = await closed_loop(target, itertools.repeat(CALL), concurrency=2, seconds=0.1)
    assert 0.1 <= result.window_seconds < 1.0
    assert result.summary().requests_per_second > 0


async def test_an_open_loop_does_not_wait_for_answers_and_counts_from_the_due_time() -> None:
    arrived = asyncio.Event()
    waiting = 0

    async def answer(writer: asyncio.StreamWriter, number: int) -> None:
        nonlocal waiting
        waiting += 1
        if waiting == 20:
            arrived.set()
        await arrived.wait()
        writer.write(response(b"{}"))

    async with server(answer) as target:
        result = await open_loop(target, itertools.repeat(CALL), rate=200, seconds=0.1)
    summary = result.summary()
    assert (summary.requests, summary.failures) == (20, 0)
    first = min(result.samples, key=lambda sample: sample.due)
    assert first.latency >= 0.09  # it waited for the twentieth


async def test_an_exact_open_loop_sends_at_the_moment_and_never_before() -> None:
    async with server(says(response(b"{}"))) as target:
        result = await open_loop(target, itertools.repeat(CALL), rate=200, seconds=0.1, exact=True)
    assert result.summary().requests == 20 and not result.summary().failures
    assert all(sample.sent is not None and sample.sent >= sample.due for sample in result.samples)
    gaps = {
        round(b.due - a.due, 6) for a, b in itertools.pairwise(sorted(result.samples, key=lambda s: s.due))
    }
    assert gaps == {0.005}


async def test_an_open_loop_counts_what_it_could_not_send() -> None:
    async with server(says(b"")) as target:
        options = Options(timeout_seconds=0.3)
        result = await open_loop(
            target, itertools.repeat(CALL), rate=100, seconds=0.1, max_in_flight=2, options=options
        )
    assert result.summary().failures_by_kind == {"not sent: 2 in flight": 8, "timeout": 2}


async def test_a_poisson_process_has_the_rate_that_was_asked_for() -> None:
    async with server(says(response(b"{}"))) as target:
        result = await open_loop(target, itertools.repeat(CALL), rate=500, seconds=0.4, rng=random.Random(1))
    gaps = {
        round(b.due - a.due, 6) for a, b in itertools.pairwise(sorted(result.samples, key=lambda s: s.due))
    }
    assert 140 < len(result.samples) < 260
    assert len(gaps) > 50


async def test_every_sample_is_told_as_it_ends_and_cancelling_leaves_no_connection() -> None:
    told: list[Sample] = []
    async with server(says(response(b"{}"))) as target:
        loop = closed_loop(target, itertools.repeat(CALL), concurrency=3, seconds=60, on_sample=told.append)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await loop
    assert told and told[0].ok


# --- limits --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        pytest.param("http://192.0.2.1:80/", id="address"),
        pytest.param("http://example.com/", id="name"),
        pytest.param("http://0.0.0.0:80/", id="any"),
        pytest.param("https://127.0.0.1/", id="scheme"),
        pytest.param("127.0.0.1:80", id="no-scheme"),
    ],
)
def test_only_loopback_is_loaded(url: str) -> None:
    with pytest.raises(LoadError, match="target"):
        Target.parse(url)


@pytest.mark.parametrize("url", ["http://127.0.0.1:8080", "http://[::1]:8080/x", "http://localhost:8080/x"])
def test_loopback_addresses_are_accepted(url: str) -> None:
    assert Target.parse(url).port == 8080


@pytest.mark.parametrize(
    "limits",
    [
        {"concurrency": 0},
        {"concurrency": 5_000},
        {"concurrency": 1, "seconds": 1e6},
        {"concurrency": 1, "requests": 0},
    ],
    ids=["no-client", "too-many-clients", "too-long", "no-request"],
)
async def test_every_loop_is_bounded(limits: dict[str, int]) -> None:
    with pytest.raises(LoadError, match="must be above 0 and at most"):
        await closed_loop(Target("127.0.0.1", 1), [CALL], **limits)  # type: ignore[arg-type]


# --- figures -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "values, share, expected",
    [
        pytest.param([7.0], 0.99, 7.0, id="one"),
        pytest.param([1.0, 2.0], 0.50, 1.0, id="half-of-two"),
        pytest.param([float(n) for n in range(1, 21)], 0.95, 19.0, id="95-of-20"),
        pytest.param([float(n) for n in range(1, 101)], 0.99, 99.0, id="99-of-100"),
        pytest.param([float(n) for n in range(1, 12)], 0.99, 11.0, id="99-of-11"),
    ],
)
def test_percentiles_are_nearest_rank(values: list[float], share: float, expected: float) -> None:
    assert percentile(values, share) == expected


@given(
    values=st.lists(st.floats(0, 1e6), min_size=1, max_size=200),
    share=st.integers(1, 100).map(lambda n: n / 100),
)
def test_a_percentile_occurred_and_bounds_its_share(values: list[float], share: float) -> None:
    found = percentile(sorted(values), share)
    assert found in values
    assert sum(value <= found for value in values) >= share * len(values) - 1e-6
    assert sum(value < found for value in values) < share * len(values) + 1e-6


def test_unknown_values_have_no_percentiles() -> None:
    assert Percentiles.of([None, None]) is None
    assert Percentiles.of([None, 2.0]) == Percentiles(2.0, 2.0, 2.0)


def test_a_summary_counts_good_answers_within_its_window() -> None:
    good = [
        Sample(due=0.0, first_byte=0.5, ended=1.0, served_by="a"),
        Sample(due=1.0, ended=9.0, served_by="b"),
    ]
    bad = Sample(due=0.0, ended=0.1, error="http 503")
    summary = summarize([*good, bad], started=0.0, window_seconds=2.0)
    assert (summary.requests, summary.failures, summary.failures_by_kind) == (3, 1, {"http 503": 1})
    assert summary.requests_per_second == 0.5
    assert summary.latency == Percentiles(1.0, 8.0, 8.0)
    assert summary.ttfb == Percentiles(0.5, 0.5, 0.5) and summary.ttft is None
    assert summary.served_by == {"a": 1, "b": 1}
    assert json.loads(json.dumps(summary.as_dict()))["latency_ms"] == {
        "p50": 1000.0,
        "p95": 8000.0,
        "p99": 8000.0,
    }


def test_nothing_happened_is_no_figure() -> None:
    summary = summarize([])
    assert (summary.requests, summary.requests_per_second, summary.latency) == (0, 0.0, None)


# --- bodies --------------------------------------------------------------------------------------


def test_conversations_grow_and_keep_their_beginning() -> None:
    calls = list(conversations(3, 4, random.Random(7)))
    assert len(calls) == 12
    assert [{call.key for call in calls[start : start + 3]} for start in range(0, 12, 3)] == [
        {"conversation-0", "conversation-1", "conversation-2"}
    ] * 4
    mine = [json.loads(b"".join(call.parts))["messages"] for call in calls if call.key == "conversation-1"]
    assert [len(messages) for messages in mine] == [2, 4, 6, 8]
    assert all(after[: len(before)] == before for before, after in itertools.pairwise(mine))


def test_the_same_seed_makes_the_same_conversations() -> None:
    assert list(conversations(2, 2, random.Random(1))) == list(conversations(2, 2, random.Random(1)))


async def test_a_call_may_have_its_own_method_path_headers_and_pieces() -> None:
    seen: list[bytes] = []

    async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readuntil(b"\r\n\r\n") + await reader.readexactly(4))
        writer.write(response(b"{}"))
        await writer.drain()
        writer.close()

    listening = await asyncio.start_server(connection, "127.0.0.1", 0)
    async with listening:
        target = Target("127.0.0.1", listening.sockets[0].getsockname()[1])
        call = Call((b"ab", b"cd"), path="/x", method="PUT", headers=(("x-a", "1"),))
        await closed_loop(target, [call], concurrency=1)
    head, _, body = seen[0].partition(b"\r\n\r\n")
    assert head.startswith(b"PUT /x HTTP/1.1\r\n") and b"\r\nx-a: 1\r\n" in head
    assert head.endswith(b"content-length: 4") and body == b"abcd"
