"""Clients that leave, thousands that stay, a picker that goes: afterwards nothing is left of any of them.

Everything on each driver: the end of a stream is the driver's business more than anything else.
"""

import asyncio
import os
import random
import resource
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from bench.load import Options, Sample, Target, chat_call, closed_loop, open_loop
from bench.rig.envoy import Envoy
from bench.rig.llama import LlamaServer
from bench.rig.picker import Picker
from bench.rig.process import wait_until
from tests.system.gate import Gate
from tests.system.listeners import LISTENERS
from tests.system.talk import (
    CHAT,
    DEADLINE,
    Client,
    Footprint,
    ask,
    chat,
    endpoints,
    footprint,
    page,
    series,
    wait_at_rest,
    wait_footprint,
    wait_reachable,
)

ALL = [name for name in LISTENERS if name != "round_robin"]


@pytest.fixture(scope="module")
def _gate() -> Iterator[Gate]:
    with Gate() as gate:
        yield gate


@pytest.fixture
def gate(_gate: Gate) -> Iterator[Gate]:
    """A server that answers when told, here for every test closed and at rest."""
    _gate.close()
    yield _gate
    _gate.open()
    wait_until(lambda: not _gate.held, what="the gate at rest")


@pytest.fixture
def picker(gate: Gate, driver: str, logs: Path, request: pytest.FixtureRequest) -> Iterator[Picker]:
    """A picker of this test's own, which may be stopped."""
    name, listed = f"picker-{request.node.name}", {"gate": gate.address}
    with Picker(logs=logs, name=name, endpoints=listed, driver=driver) as picker:
        wait_reachable(picker, {"gate": "up"})
        yield picker


@pytest.fixture
def gateway(gate: Gate, picker: Picker, logs: Path, request: pytest.FixtureRequest) -> Iterator[Envoy]:
    with Envoy(
        logs=logs,
        name=f"envoy-{request.node.name}",
        servers=[gate.address],
        picker=picker.address,
        listeners=LISTENERS,
    ) as envoy:
        yield envoy


def warmed_up(gateway: Envoy, picker: Picker, gate: Gate, listeners: list[str]) -> Footprint:
    """What is held when every connection that lasts has been made."""
    gate.open()
    for listener in listeners:
        assert ask(gateway.url(listener), CHAT, chat()).status == 200
    gate.close()
    wait_at_rest(picker)
    return footprint(picker)


def nothing_is_left(picker: Picker, before: Footprint) -> None:
    wait_at_rest(picker)
    assert not any(one["requests_in_flight"] for one in endpoints(picker).values())
    wait_footprint(picker, before)


# --- clients that leave ------------------------------------------------------------------------------

HEAD = (
    f"POST {CHAT} HTTP/1.1\r\nhost: test\r\ncontent-type: application/json\r\nconnection: close\r\n".encode()
)


def whole(body: bytes) -> bytes:
    return HEAD + b"content-length: %d\r\n\r\n" % len(body) + body


def in_the_head(_: random.Random) -> tuple[bytes, bytes | None]:
    return HEAD, None


def in_the_body(chance: random.Random) -> tuple[bytes, bytes | None]:
    request = whole(chat("word " * chance.randrange(10, 40_000)))
    return request[: chance.randrange(len(HEAD) + 40, len(request) - 1)], None


def between_chunks(chance: random.Random) -> tuple[bytes, bytes | None]:
    return HEAD + b"transfer-encoding: chunked\r\n\r\n" + b'5\r\n{"mod\r\n' * chance.randrange(3), None


def before_the_answer(chance: random.Random) -> tuple[bytes, bytes | None]:
    return whole(chat("word " * chance.randrange(10, 4_000))), None


def in_the_stream(_: random.Random) -> tuple[bytes, bytes | None]:
    return whole(chat(stream=True)), b" t0"


LEAVING = [in_the_head, in_the_body, between_chunks, before_the_answer, in_the_stream]
Leaves = Callable[[random.Random], tuple[bytes, bytes | None]]


async def leave(url: str, sent: bytes, wanted: bytes | None, *, abruptly: bool) -> None:
    """Send so much, wait for that part of the answer, and go."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        writer.write(sent)
        await writer.drain()
        if wanted is not None:
            async with asyncio.timeout(DEADLINE):
                await reader.readuntil(wanted)
    finally:
        if abruptly:
            writer.transport.abort()
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


@pytest.mark.parametrize("when", LEAVING, ids=lambda when: when.__name__)
async def test_nothing_is_left_of_clients_that_leave(
    when: Leaves, gate: Gate, picker: Picker, gateway: Envoy
) -> None:
    listeners = [name for name in ALL if not (name == "buffered" and when is in_the_stream)]
    before = warmed_up(gateway, picker, gate, ALL)
    chance = random.Random(when.__name__)
    for _ in range(4):
        async with asyncio.TaskGroup() as clients:
            for number in range(40):
                url = gateway.url(listeners[number % len(listeners)])
                clients.create_task(leave(url, *when(chance), abruptly=chance.random() < 0.5))
    await asyncio.to_thread(nothing_is_left, picker, before)
    wait_until(lambda: not gate.held, what="nothing held by the server")
    gate.open()
    assert ask(gateway.url("original_dst"), CHAT, chat()).status == 200


@pytest.mark.timeout(180)
async def test_nothing_is_left_of_hundreds_who_leave_real_servers_at_any_moment(
    driver: str, logs: Path, servers: list[LlamaServer]
) -> None:
    listed = {server.name: server.address for server in servers}
    with (
        Picker(logs=logs, name="picker-leave", endpoints=listed, driver=driver) as picker,
        Envoy(
            logs=logs,
            name="envoy-leave",
            servers=list(listed.values()),
            picker=picker.address,
            listeners=LISTENERS,
        ) as gateway,
    ):
        for listener in ALL:
            assert ask(gateway.url(listener), CHAT, chat()).status == 200
        wait_at_rest(picker)
        before = footprint(picker)
        chance = random.Random(20)
        results: Counter[str] = Counter()
        for _ in range(8):
            async with asyncio.TaskGroup() as clients:
                for listener in chance.choices(ALL, k=50):
                    body = chat(max_tokens=60, stream=chance.random() < 0.7)
                    clients.create_task(stay_a_while(gateway.url(listener), whole(body), chance, results))
        assert results["left"] > 100 and results["answered"] > 0, results
        await asyncio.to_thread(nothing_is_left, picker, before)
        reply = ask(gateway.url("original_dst"), CHAT, chat())
        assert reply.status == 200


async def stay_a_while(url: str, request: bytes, chance: random.Random, results: Counter[str]) -> None:
    """Leave after a random share of the request, or after a random number of answer pieces."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        cut = chance.choice([chance.randrange(len(request)), len(request), len(request), len(request)])
        writer.write(request[:cut])
        await writer.drain()
        patience = chance.randrange(6) if cut == len(request) else 0
        answer = b""
        async with asyncio.timeout(DEADLINE):
            while patience > 0 and (piece := await reader.read(2_000)):
                answer, patience = answer + piece, patience - 1
        ended = answer.endswith(b"0\r\n\r\n") or b'"timings"' in answer
        results["answered" if ended else "left"] += 1
    finally:
        writer.transport.abort()


def test_clients_that_stop_sending_hold_memory_only_while_they_are_there(
    gate: Gate, picker: Picker, gateway: Envoy
) -> None:
    before = warmed_up(gateway, picker, gate, ["original_dst"])
    piece = b"x" * 100_000
    stalled = [Client(gateway.url("original_dst")) for _ in range(20)]
    for client in stalled:
        client.send_head(CHAT, [("content-length", "1000000")], method="POST")
        client.send(piece)
    held = len(stalled) * len(piece)
    wait_until(lambda: series(picker).get("fleet_epp_buffered_bytes") == held, what=f"{held} bytes held")
    gate.open()
    assert ask(gateway.url("original_dst"), CHAT, chat()).status == 200  # nobody else waits for them
    for client in stalled:
        client.socket.close()
    nothing_is_left(picker, before)


# --- thousands ---------------------------------------------------------------------------------------


@pytest.mark.skipif(
    resource.getrlimit(resource.RLIMIT_NOFILE)[1] < 9_000,
    reason="fewer than 9,000 descriptors allowed (ulimit -Hn): 2,000 concurrent streams were not tested",
)
@pytest.mark.timeout(240)
async def test_two_thousand_streams_at_once_are_all_answered(
    gate: Gate, picker: Picker, gateway: Envoy
) -> None:
    before = warmed_up(gateway, picker, gate, ["original_dst"])
    streams = 2_000
    call = chat_call([{"role": "user", "content": "all at once"}], stream=True)
    target = Target.parse(gateway.url("original_dst") + CHAT)
    async with asyncio.TaskGroup() as group:
        options = Options(timeout_seconds=180, connect_seconds=60)
        calls = (call for _ in range(streams))
        load = group.create_task(closed_loop(target, calls, concurrency=streams, options=options))

        def all_there() -> bool:
            return len(gate.held) == streams

        await asyncio.to_thread(wait_until, all_there, what="2,000 held at once", timeout=120)
        now = await asyncio.to_thread(series, picker)
        assert now.get("llm_d_epp_extproc_streams_inflight") == streams
        assert now.get("fleet_epp_endpoint_in_flight_requests") == streams
        gate.open()
    samples = load.result().samples
    assert Counter(sample.error for sample in samples) == {None: streams}
    await asyncio.to_thread(nothing_is_left, picker, before)


# --- a picker that goes ------------------------------------------------------------------------------


@asynccontextmanager
async def open_streams(gateway: Envoy, gate: Gate, number: int) -> AsyncIterator[list[Sample]]:
    """So many streams that have begun and go on until the gate opens; the samples once they have ended."""
    call = chat_call([{"role": "user", "content": "hold on"}], stream=True)
    target = Target.parse(gateway.url("original_dst") + CHAT)
    ended: list[Sample] = []
    async with asyncio.TaskGroup() as group:
        calls = (call for _ in range(number))
        options = Options(timeout_seconds=DEADLINE)
        group.create_task(
            closed_loop(target, calls, concurrency=number, options=options, on_sample=ended.append)
        )
        await asyncio.to_thread(wait_until, lambda: len(gate.held) == number, what="streams open")
        yield ended


def told_of_the_end(gateway: Envoy) -> bool:
    """Every connection to the picker has brought a GOAWAY."""
    stats = gateway.stats("cluster.picker.")
    return stats["cluster.picker.upstream_cx_close_notify"] >= stats["cluster.picker.upstream_cx_active"]


async def test_sigterm_lets_open_streams_end_and_takes_no_new_ones(
    gate: Gate, picker: Picker, gateway: Envoy
) -> None:
    async with open_streams(gateway, gate, 50) as ended:
        os.kill(picker.pid, signal.SIGTERM)
        # A request that is on its way while the gateway has not heard of it is still taken, and waits here.
        await asyncio.to_thread(wait_until, lambda: told_of_the_end(gateway), what="the gateway told")
        late = await asyncio.to_thread(ask, gateway.url("original_dst"), CHAT, chat())
        assert late.status in (500, 503)  # told at once, not left waiting
        assert picker.is_running and not ended
        gate.open()
    assert Counter(sample.error for sample in ended) == {None: 50}
    assert await asyncio.to_thread(picker.wait, timeout=30) == 0
    assert "Traceback" not in picker.log.read_text()


async def test_readiness_says_that_the_picker_drains(gate: Gate, picker: Picker, gateway: Envoy) -> None:
    async with open_streams(gateway, gate, 1):
        os.kill(picker.pid, signal.SIGTERM)
        await asyncio.to_thread(
            wait_until, lambda: page(picker, "/readyz")["status"] != "ready", what="not ready"
        )
        assert "drain" in page(picker, "/readyz")["reason"]
        assert picker.health("liveness") == "SERVING"
        assert picker.health("readiness") == "NOT_SERVING"
        gate.open()
    assert await asyncio.to_thread(picker.wait, timeout=30) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_picker_at_rest_ends_at_once_and_with_status_0(number: signal.Signals, picker: Picker) -> None:
    os.kill(picker.pid, number)
    assert picker.wait(timeout=20) == 0
    assert "Traceback" not in picker.log.read_text()


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
async def test_a_second_signal_ends_the_wait_for_open_streams(
    second: signal.Signals, gate: Gate, picker: Picker, gateway: Envoy
) -> None:
    async with open_streams(gateway, gate, 5) as ended:
        os.kill(picker.pid, signal.SIGTERM)
        await asyncio.to_thread(wait_until, lambda: picker.health() != "SERVING", what="draining")
        os.kill(picker.pid, second)
        assert await asyncio.to_thread(picker.wait, timeout=20) in (0, -second)
        gate.open()
    assert len(ended) == 5  # cut off, but every client knows
    assert "Traceback" not in picker.log.read_text()


@pytest.mark.parametrize("drain", ["0s", "300ms"])
async def test_the_drain_has_an_end(drain: str, gate: Gate, driver: str, logs: Path) -> None:
    with Picker(
        logs=logs,
        name=f"picker-drain-{drain}",
        endpoints={"gate": gate.address},
        flags=["--drain-timeout", drain],
        driver=driver,
    ) as picker:
        wait_reachable(picker, {"gate": "up"})
        with Envoy(
            logs=logs, name=f"envoy-drain-{drain}", servers=[gate.address], picker=picker.address
        ) as gateway:
            async with open_streams(gateway, gate, 5) as ended:
                assert await asyncio.to_thread(picker.terminate, timeout=20) == 0
                gate.open()
            assert len(ended) == 5


@pytest.mark.timeout(180)
async def test_a_restart_under_load_costs_requests_only_while_no_picker_is_there(
    gate: Gate, picker: Picker, gateway: Envoy
) -> None:
    gate.open()
    call = chat_call([{"role": "user", "content": "again and again"}])
    target = Target.parse(gateway.url("original_dst") + CHAT)
    samples: list[Sample] = []
    async with asyncio.TaskGroup() as group:
        load = group.create_task(
            open_loop(
                target,
                iter(lambda: call, None),
                rate=50,
                seconds=120,
                options=Options(timeout_seconds=15),
                on_sample=samples.append,
            )
        )
        try:
            await seen(lambda: len(samples) >= 50)
            assert not errors(samples)
            status = await asyncio.to_thread(picker.terminate, timeout=60)
            gone_at = len(samples)
            await seen(lambda: len(samples) >= gone_at + 20)
            await asyncio.to_thread(picker.start)
            await seen(lambda: len(samples) > 0 and samples[-1].ok)
            back_at = len(samples)
            await seen(lambda: len(samples) >= back_at + 150)
        finally:
            load.cancel()
    assert status == 0
    in_the_gap = errors(samples[:back_at])
    assert in_the_gap and set(in_the_gap) <= {"http 500", "http 503"}, in_the_gap  # and no time-out
    assert not errors([sample for sample in samples[back_at:] if sample.error != "cancelled"])
    await asyncio.to_thread(wait_at_rest, picker)


def errors(samples: list[Sample]) -> Counter[str]:
    return Counter(sample.error for sample in samples if sample.error is not None)


async def seen(condition: Callable[[], bool]) -> None:
    await asyncio.to_thread(wait_until, condition, what="the load's next step", timeout=DEADLINE)


async def test_a_picker_that_is_killed_is_missed_only_until_it_is_back(
    gate: Gate, picker: Picker, gateway: Envoy
) -> None:
    before = warmed_up(gateway, picker, gate, ["original_dst"])
    async with open_streams(gateway, gate, 20) as ended:
        picker.kill()
        gate.open()
    assert len(ended) == 20
    assert ask(gateway.url("original_dst"), CHAT, chat()).status in (500, 503)
    picker.start()
    wait_until(lambda: ask(gateway.url("original_dst"), CHAT, chat()).status == 200, what="served again")
    nothing_is_left(picker, before)
