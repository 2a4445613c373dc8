"""One measurement each: a load, many streams, a picker at rest, a start.

Place:   bench.overhead repeats these at its stations and keeps what they return.
Ignores: order, repetition, medians.
Rule:    CPU is counted from the first request to the last answer, after a warm-up.
"""

import asyncio
import contextlib
import gc
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

from bench.findings import AtRest, Load, Round, Start, Streaming
from bench.load import Call, Connection, Options, Result, Sample, Target, clock, closed_loop, open_loop
from bench.rig.picker import Picker
from bench.rig.process import RigError
from bench.stations import Station, cpu_seconds, rss_bytes

START_DEADLINE = 20.0
SPREAD_SECONDS = 0.7
"""In which all streams of a rate begin."""
SETTLE_SECONDS = 0.3
"""From the last stream's begin to the first count."""


@contextlib.contextmanager
def _without_collections() -> Iterator[None]:
    """The load generator's own garbage collection would be the slowest answers of a second."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


class _Peak:
    """The most memory of a process that was seen."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self.bytes = rss_bytes(pid)

    @contextlib.asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as group:
            watch = group.create_task(self._watch(), name="memory")
            yield
            watch.cancel()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(0.05)
            self.bytes = max(self.bytes, rss_bytes(self._pid))


async def one_round(
    here: Station, load: Load, calls: Iterator[Call], seconds: float, warm_seconds: float
) -> Round:
    """Warm up, then load."""
    peak = _Peak(here.process.pid) if here.process else None
    with _without_collections():
        if warm_seconds:
            await _offered(here.target, load, calls, warm_seconds)
        picker_before, envoy_before = here.cpu_seconds()
        async with peak.watched() if peak else contextlib.nullcontext():
            result = await _offered(here.target, load, calls, seconds)
        picker_after, envoy_after = here.cpu_seconds()
    summary = result.summary()
    per_request = 1e6 / max(summary.requests, 1)
    return Round(
        contender=here.contender.name,
        load=load,
        endpoints=here.endpoints,
        requests=summary.requests,
        failures=summary.failures,
        failures_by_kind=summary.failures_by_kind,
        requests_per_second=summary.requests_per_second,
        latency=summary.latency,
        picker_cpu_us=(picker_after - picker_before) * per_request if here.process else None,
        envoy_cpu_us=(envoy_after - envoy_before) * per_request,
        picker_rss_bytes=peak.bytes if peak else None,
    )


async def _offered(target: Target, load: Load, calls: Iterator[Call], seconds: float) -> Result:
    if load.rate:
        return await open_loop(target, calls, rate=load.rate, seconds=seconds, exact=True)
    return await closed_loop(target, calls, concurrency=load.concurrency, seconds=seconds)


async def one_streaming(
    here: Station, calls: Iterator[Call], *, streams: int, chunk_seconds: float, seconds: float
) -> Streaming:
    """``streams`` answers at once, one chunk each ``chunk_seconds``; counted when all have begun."""
    rng = random.Random(streams)
    samples = [Sample(due=0.0) for _ in range(streams)]
    with _without_collections():
        async with asyncio.TaskGroup() as group:
            for number, sample in enumerate(samples):
                # Evenly over the whole time, but not in step with each other's chunks.
                wait = SPREAD_SECONDS * number / streams + chunk_seconds * rng.random()
                group.create_task(_stream(here.target, next(calls), sample, wait), name=f"stream {number}")
            await asyncio.sleep(SPREAD_SECONDS + chunk_seconds + SETTLE_SECONDS)
            before, chunks_before, began = _cpu(here), sum(one.pieces for one in samples), clock()
            await asyncio.sleep(seconds)
            after, chunks, took = _cpu(here), sum(one.pieces for one in samples), clock() - began
    failures = Counter(one.error for one in samples if one.error is not None)
    return Streaming(
        contender=here.contender.name,
        aimed=round(streams / chunk_seconds),
        streams=streams,
        seconds=took,
        chunks=chunks - chunks_before,
        failures=failures.total(),
        failures_by_kind=failures,
        cores={name: (after[name] - before[name]) / took for name in before},
    )


async def _stream(target: Target, call: Call, sample: Sample, wait: float) -> None:
    await asyncio.sleep(wait)
    connection = Connection(target, Options())
    sample.due = clock()
    try:
        await connection.open()
        await connection.exchange(call, sample)
    except (OSError, TimeoutError) as problem:
        sample.error = f"connect: {type(problem).__name__}"
    finally:
        connection.close()


def _cpu(here: Station) -> dict[str, float]:
    """CPU seconds of everything that takes part."""
    picker, envoy = here.cpu_seconds()
    return {
        **({"picker": picker} if here.process else {}),
        "Envoy": envoy,
        "servers": cpu_seconds(here.engines.pid),
        "load": time.process_time(),
    }


async def at_rest(
    here: Station, seconds: float, settle_seconds: float, *, after_load: bool = False
) -> AtRest:
    """What the picker uses while nobody asks it."""
    pid = here.picker.pid
    await asyncio.sleep(settle_seconds)
    before, began = cpu_seconds(pid), time.perf_counter()
    await asyncio.sleep(seconds)
    took = time.perf_counter() - began
    return AtRest(
        contender=here.contender.name,
        endpoints=here.endpoints,
        page_kb=here.engines.page_kb,
        after_load=after_load,
        seconds=took,
        cores=(cpu_seconds(pid) - before) / took,
        rss_bytes=rss_bytes(pid),
    )


async def one_start(here: Station, calls: Iterator[Call]) -> Start:
    """Start the picker behind a running Envoy; RigError when it never answers."""
    picker = here.picker
    began = time.perf_counter()
    picker.launch()

    async def answered() -> bool:
        result = await closed_loop(here.target, calls, concurrency=1, requests=1, seconds=START_DEADLINE)
        return all(sample.ok for sample in result.samples)

    async def serving() -> bool:
        return await asyncio.to_thread(picker.is_ready)

    async with asyncio.TaskGroup() as group:
        first = group.create_task(_seconds_until(answered, picker, began), name="first answer")
        healthy = group.create_task(_seconds_until(serving, picker, began), name="serving")
    first_answer = first.result()
    if first_answer is None:
        raise RigError(f"{picker.name}: no answer within {START_DEADLINE:g} s:\n{picker.log_tail()}")
    return Start(here.contender.name, first_answer, healthy.result())


async def _seconds_until(
    condition: Callable[[], Awaitable[bool]], picker: Picker, began: float
) -> float | None:
    while time.perf_counter() - began < START_DEADLINE:
        if await condition():
            return time.perf_counter() - began
        if not picker.is_running:
            raise RigError(f"{picker.name} ended with status {picker.exit_status}:\n{picker.log_tail()}")
        await asyncio.sleep(0.005)
    return None
