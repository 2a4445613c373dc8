import asyncio
import itertools
import json
import re
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path

import pytest

from bench.engine import (
    PAGE_BYTES,
    Behaviour,
    Endpoint,
    Server,
    framed,
    json_answer,
    page_from_file,
    sse_events,
    synthetic_page,
)
from bench.load import Call, Target, chat_call, closed_loop

CHUNKS = 4
CAPTURED = """# a page
vllm:num_requests_running{engine="0"} 3.0
vllm:num_requests_waiting{engine="0"} 2.0
vllm:other 1.0
vllm:kv_cache_usage_perc{engine="0"} 0.5
vllm:more 1.0
"""


@pytest.fixture
def endpoint() -> Endpoint:
    return Endpoint(8001, Behaviour(json_answer(1024), framed(sse_events(CHUNKS)), 0.01, synthetic_page()))


@pytest.fixture
async def target(endpoint: Endpoint) -> AsyncIterator[Target]:
    server = await asyncio.get_running_loop().create_server(partial(Server, endpoint), "127.0.0.1", 0)
    async with server:
        yield Target("127.0.0.1", server.sockets[0].getsockname()[1])


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - the engine tells nobody
            await asyncio.sleep(0)


async def get(target: Target, path: str) -> tuple[int | None, bytes]:
    """Status and body of a GET."""
    reader, writer = await asyncio.open_connection(target.host, target.port)
    writer.write(f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(re.search(rb"content-length: (\d+)", head)[1])  # type: ignore[index]
    body = await reader.readexactly(length)
    writer.close()
    await writer.wait_closed()
    return int(head.split()[1]), body


async def test_it_answers_with_json_of_the_size_asked_for_and_its_name(
    target: Target,
) -> None:
    result = await closed_loop(target, [chat_call([{"role": "user", "content": "x"}])] * 3, concurrency=1)
    assert [sample.served_by for sample in result.samples] == ["8001"] * 3
    assert all(sample.ok and abs(sample.body_bytes - 1024) < 50 for sample in result.samples)
    assert json.loads(json_answer(1024))["usage"]["total_tokens"] > 0


@pytest.mark.parametrize("cut", [None, 3, 40], ids=["whole", "early-cut", "late-cut"])
async def test_it_streams_when_asked_to_one_chunk_at_a_time(
    target: Target, endpoint: Endpoint, cut: int | None
) -> None:
    body = b"".join(chat_call([{"role": "user", "content": "x" * 100}], stream=True).parts)
    call = Call((body,) if cut is None else (body[:cut], body[cut:]))
    sample = (await closed_loop(target, [call], concurrency=1)).samples[0]
    assert sample.ok and sample.first_token is not None
    assert sample.pieces == CHUNKS + 1
    assert sample.latency >= CHUNKS * endpoint.behaviour.chunk_interval * 0.8
    assert endpoint.in_flight == 0


async def test_its_gauges_show_what_is_in_flight(target: Target, endpoint: Endpoint) -> None:
    call = chat_call([{"role": "user", "content": "x"}], stream=True)
    async with asyncio.TaskGroup() as group:
        group.create_task(closed_loop(target, itertools.repeat(call), concurrency=3, requests=3))
        await until(lambda: endpoint.in_flight == 3)
        _, page = await get(target, "/metrics")
        assert b'\nvllm:num_requests_running{engine="0",model_name="bench"} 3.0\n' in page
    _, page = await get(target, "/metrics")
    assert b'\nvllm:num_requests_running{engine="0",model_name="bench"} 0.0\n' in page


async def test_a_client_that_leaves_is_not_in_flight_any_more(target: Target, endpoint: Endpoint) -> None:
    call = chat_call([{"role": "user", "content": "x"}], stream=True)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.02):
            await closed_loop(target, [call], concurrency=1)
    await until(lambda: not endpoint.in_flight)


@pytest.mark.parametrize(
    "path, status", [("/health", 200), ("/v1/models", 200), ("/metrics", 200), ("/elsewhere", 404)]
)
async def test_it_has_the_pages_of_an_engine(target: Target, path: str, status: int) -> None:
    assert (await get(target, path))[0] == status


@pytest.mark.parametrize("size", [2_000, 10_000, PAGE_BYTES, 200_000])
def test_the_synthetic_page_is_as_big_as_it_should_be_and_well_formed(size: int) -> None:
    page = synthetic_page(size).render(5).decode()
    assert abs(len(page) - size) < 1_100
    series = [line for line in page.splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9_:]+(\{[^{}]+\})? [-+.e0-9]+", line) for line in series)
    for name in ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc", "cache_config_info"):
        assert sum(line.startswith(f"vllm:{name}{{") for line in series) == 1


def test_a_recorded_page_keeps_everything_but_its_gauges(tmp_path: Path) -> None:
    path = tmp_path / "page.txt"
    path.write_text(CAPTURED)
    expected = CAPTURED.replace("3.0", "7.0").replace("2.0", "0.0").replace("0.5", "0.0273")
    assert page_from_file(path).render(7).decode() == expected


def test_a_page_without_the_gauges_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "page.txt"
    path.write_text("# nothing\n")
    with pytest.raises(ValueError, match="no series vllm:num_requests_running"):
        page_from_file(path)
