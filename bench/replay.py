"""A recorded conversation against our picker, in this process: no sockets, no loop, no other process.

    python -m bench.replay FILE [--times N]

Place:   bench.profile measures stages of it and counts its instructions; the driver under it is
         epp.runtime.fast.connection, what it serves is a whole pool without its scraper.
Ignores: what is answered.
Rule:    each time the same: a fresh pool, a fresh connection, the same bytes in the same reads.
"""

import argparse
import gc
import itertools
import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.recording import Recording
from epp.config.picker_config import DEFAULT_TEXT, build, load
from epp.core.apis import Parsers
from epp.core.budget import Budget
from epp.core.fleet import EndpointSpec, Fleet, Load
from epp.core.members import Members, Pools
from epp.core.scheduling import Scheduler
from epp.core.stream import StreamSettings
from epp.runtime.calls import Services
from epp.runtime.ext_proc import PROCESS, ExtProc
from epp.runtime.fast.connection import Connection
from epp.runtime.fast.limits import Limits
from epp.runtime.logs import LogSettings, RequestLog
from epp.runtime.measuring import SECONDS_BETWEEN, Measuring
from epp.runtime.metrics import Metrics
from epp.runtime.plugins import load_types
from epp.runtime.reporting import Reporter

BUDGET_BYTES = 1 << 30
MESSAGE_BYTES = 1 << 27
CLOCK_SECONDS = 0.0002 / 10
"""By which the clock goes on with each look, of which a request of 1 KB needs ten: as with 5,000 requests a
second. So many are measured more closely as would be then, whatever this machine does meanwhile."""


class _NoTimer:
    """A recorded peer is never late."""

    def cancel(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Scheduled:
    """A profile over endpoints that answer."""

    fleet: Fleet
    members: Members
    scheduler: Scheduler
    parsers: Parsers


def scheduled(endpoints: int, config: str = DEFAULT_TEXT) -> Scheduled:
    """A pool of so many."""
    assembly = build(load(config, "bench"), load_types())
    fleet = Fleet(stale_after=1e9)
    pools = Pools(fleet)
    members = pools.add()
    specs = [EndpointSpec(name=f"engine-{n}", ip="127.0.0.1", port=8_000 + n) for n in range(endpoints)]
    pools.replace(members, specs, 0.0)
    for number, endpoint in enumerate(members.endpoints):
        fleet.reading(endpoint, load_of(number), 0.0)
    scheduler = Scheduler(members, assembly.profile, assembly.producers, chance=random.Random(1))
    return Scheduled(fleet, members, scheduler, Parsers(assembly.parsers))


def pool(endpoints: int, log_fd: int, *, measured: bool = False) -> Services:
    """The same as one process serves it, put together as epp.pool does.

    ``measured``: of every request as much is measured as otherwise of a few.
    """
    made, metrics = scheduled(endpoints), Metrics(version="bench")
    clock = itertools.count(0.0, SECONDS_BETWEEN if measured else CLOCK_SECONDS).__next__
    measuring = Measuring(metrics.requests, clock)
    log = RequestLog(LogSettings(), log_fd, later=lambda seconds, flush: None)
    ext_proc = ExtProc(
        scheduler=measuring.scheduler(made.scheduler),
        health=made.fleet,
        settings=StreamSettings(
            made.parsers,
            Budget(BUDGET_BYTES),
            new_id=lambda: "made-here",
            endpoint_at=made.members.endpoint_at,
        ),
        observer=Reporter(metrics, log, kick=lambda endpoint: None),
        clock=clock,
    )
    return {PROCESS: measuring.calls(ext_proc.open)}


def load_of(number: int) -> Load:
    """What one endpoint says of itself: each something else, as the bench's engine says it."""
    return Load(
        waiting=number % 3,
        running=number % 7,
        kv_usage=number % 5 / 10,
        cache_block_tokens=16,
        cache_blocks=27_000,
    )


class Replay:
    """One recording, any number of times."""

    def __init__(self, recording: Recording, *, endpoints: int = 2, measured: bool = False) -> None:
        self.recording = recording
        self._endpoints = endpoints
        self._measured = measured
        self._limits = Limits(max_receive_bytes=MESSAGE_BYTES)
        self._sink = os.open(os.devnull, os.O_WRONLY)

    def close(self) -> None:
        os.close(self._sink)

    def ready(self) -> Connection:
        """A connection to a pool of its own, nothing said yet."""
        services = pool(self._endpoints, self._sink, measured=self._measured)
        return Connection(
            services,
            self._limits,
            later=lambda seconds, late: _NoTimer(),
            wake=lambda: None,
            budget=Budget(BUDGET_BYTES),
        )

    def say(self, connection: Connection, before: Callable[[], None] = lambda: None) -> float:
        """Once, on a connection that is ready; returns CPU seconds. ``before`` is called just before."""
        with _no_collections():
            before()
            began = time.process_time()
            for number, data in enumerate(self.recording.reads):
                connection.receive(data, number / 1_000)
                connection.take()
            took = time.process_time() - began
        if connection.is_closing:
            raise RuntimeError(f"the driver closed the recorded connection: {connection.fault}")
        connection.lost()
        return took


@contextmanager
def _no_collections() -> Iterator[None]:
    """The process freezes what lives for ever and collects little; here it would be noise."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.replay", description=__doc__.partition("\n")[0])
    parser.add_argument("file", type=Path, help="made by python -m bench.profile")
    parser.add_argument("--times", type=int, default=1)
    parser.add_argument("--ready", type=int, default=1, help="as often it is made ready, said or not")
    parser.add_argument("--measured", action="store_true", help="every request, where otherwise a few are")
    options = parser.parse_args(arguments)
    try:
        replay = Replay(Recording.load(options.file), measured=options.measured)
    except (OSError, ValueError) as problem:
        parser.exit(1, f"bench.replay: {problem}\n")
    connections = [replay.ready() for _ in range(max(options.times, options.ready))]
    took = min(replay.say(connection) for connection in connections[: options.times])
    print(f"{took / replay.recording.requests * 1e6:.1f} µs a request, the best of {options.times} times")


if __name__ == "__main__":
    main()
