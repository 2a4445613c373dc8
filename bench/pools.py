"""One process that picks for many InferencePools: its memory, CPU at rest, CPU of a request, its start.

    python -m bench.pools [--pools 100] [--pods 10] [--out DIR] [--into PAGE]

Place:   a part of `make bench`: a real kube-apiserver with as many pools, one picker on as many ports; needs
         tools/kube-plane.
Ignores: Envoy: requests come as a gateway sends them, by bench.requests.
Rule:    the same with one of the pools stands beside it. Requests to one pool and over all pools take turns,
         with as many connections and clients each, so that the pools are what differs.
"""

import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bench import part
from bench.cluster import NAMESPACE, PICKER, Cluster, missing, pod, pool
from bench.gateway import Gone
from bench.goals import REST_CORES, Bound
from bench.report import Table, kept
from bench.requests import Requests
from bench.rig.picker import Picker
from bench.rig.process import RigError, free_port
from bench.stations import cpu_seconds, rss_bytes

POOLS, PODS = 100, 10
REST_SECONDS, SETTLE_SECONDS = 8.0, 3.0
CONNECTIONS, CLIENTS, REQUESTS, WARM_REQUESTS, ROUNDS = 100, 20, 3_000, 2_000, 4
START_DEADLINE = 60.0
RETRY_SECONDS = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """A picker that follows so many pools."""

    pools: int
    pods: int
    """In all of them."""
    start_seconds: float
    """From the start of the process until every port has picked an endpoint for a request."""
    rest_cores: float
    rest_rss_bytes: int
    one_cpu_us: Sequence[float]
    """CPU of a request beyond what is needed at rest, round by round, all requests to one pool."""
    all_cpu_us: Sequence[float]
    """The same, each request on the next pool's connection."""
    load_rss_bytes: int


async def _first_pick(picker: Picker, port: int) -> None:
    """As soon as the picker picks there, or has ended."""
    while picker.is_running:
        try:
            async with Requests.to([port]) as requests:
                await requests.one(requests.gateways[0])
                return
        except (ConnectionError, Gone, ValueError):  # nobody listens, or the pool has nobody yet
            await asyncio.sleep(RETRY_SECONDS)


async def _all_pick(picker: Picker, ports: Sequence[int]) -> None:
    """RigError with its log when it ends, or does not pick in time."""
    try:
        async with asyncio.timeout(START_DEADLINE), asyncio.TaskGroup() as group:
            for port in ports:
                group.create_task(_first_pick(picker, port), name=f"port {port}")
    except TimeoutError:
        raise RigError(f"{picker.name} does not pick on every port:\n{picker.log_tail()}") from None
    if not picker.is_running:
        raise RigError(f"{picker.name} ended with status {picker.exit_status}:\n{picker.log_tail()}")


async def _cpu_us(picker: Picker, ports: Sequence[int], count: int, rest_cores: float) -> float:
    """CPU of a request [µs] beyond what the picker needs at rest, of which slow requests would get more."""
    async with Requests.to(ports) as requests:
        before, began = cpu_seconds(picker.pid), time.monotonic()
        await requests.send(CLIENTS, count)
        spent = cpu_seconds(picker.pid) - before - rest_cores * (time.monotonic() - began)
        return spent / count * 1e6


def measured(picker: Picker, ports: Sequence[int], pods: int) -> Process:
    """Everything about a picker on these ports, from its start to its end."""
    began = time.monotonic()
    picker.launch()
    try:
        part.played(_all_pick(picker, ports))
        start_seconds = time.monotonic() - began
        time.sleep(SETTLE_SECONDS)
        before = cpu_seconds(picker.pid)
        time.sleep(REST_SECONDS)
        rest_cores = (cpu_seconds(picker.pid) - before) / REST_SECONDS
        rest_rss_bytes = rss_bytes(picker.pid)
        one = [ports[0]] * CONNECTIONS
        every = [ports[number % len(ports)] for number in range(CONNECTIONS)]
        part.played(_cpu_us(picker, every, WARM_REQUESTS, rest_cores))
        costs: dict[bool, list[float]] = {False: [], True: []}
        for _ in range(ROUNDS):
            for is_every, target in ((False, one), (True, every)):
                costs[is_every].append(part.played(_cpu_us(picker, target, REQUESTS, rest_cores)))
        return Process(
            pools=len(ports),
            pods=pods,
            start_seconds=start_seconds,
            rest_cores=rest_cores,
            rest_rss_bytes=rest_rss_bytes,
            one_cpu_us=costs[False],
            all_cpu_us=costs[True],
            load_rss_bytes=rss_bytes(picker.pid),
        )
    finally:
        picker.stop()


def run(pools: int, pods: int) -> list[Process]:
    """A process for one pool, and one for all; RigError when a part does not start or does not pick."""
    ports = [free_port() for _ in range(pools)]
    with tempfile.TemporaryDirectory(prefix="fleet-epp-pools-") as folder, Cluster(Path(folder)) as cluster:
        _progress(f"{pools} pools of {pods} pods")
        for number, port in enumerate(ports):
            name = f"pool-{number}"
            cluster.fill([pool(name, target=cluster.engine.port, port=port)])
            cluster.fill(
                pod(f"{name}-{each}", f"127.{1 + number // 250}.{1 + number % 250}.{1 + each}", app=name)
                for each in range(pods)
            )
        alone = cluster.picker("one-pool", ["--pool-name", "pool-0", "--pool-namespace", NAMESPACE])
        crowd = cluster.picker("all-pools", ["--pool-service", f"{NAMESPACE}/{PICKER}"])
        _progress("a picker of one pool")
        found = [measured(alone, [alone.grpc_port], pods)]
        _progress("a picker of all pools")
        return [*found, measured(crowd, ports, pools * pods)]


# --- what follows ----------------------------------------------------------------------------------


def bounds(found: Sequence[Process]) -> list[tuple[Bound, float | None]]:
    most = max(found, key=lambda one: one.pods)
    return [(REST_CORES, most.rest_cores if most.pods == POOLS * PODS else None)]


def tables(found: Sequence[Process]) -> list[Table]:
    rows = []
    for one in found:
        lone, spread = statistics.median(one.one_cpu_us), statistics.median(one.all_cpu_us)
        ratio = statistics.median(
            every / single for single, every in zip(one.one_cpu_us, one.all_cpu_us, strict=True)
        )
        rows.append(
            [
                f"{one.pools:,} pool{'s' * (one.pools > 1)}, {one.pods:,} pods",
                f"{one.start_seconds:.2f}",
                f"{one.rest_cores:.4f}",
                f"{one.rest_rss_bytes / 1e6:.0f}",
                f"{one.load_rss_bytes / 1e6:.0f}",
                f"{lone:.0f}",
                f"{spread:.0f}",
                f"{ratio:.2f}",
            ]
        )
    columns = ["one process", "every port picks after s", "at rest cores", "resident MB", "under load MB"]
    columns += ["CPU µs a request to one pool", "over all pools", "ratio"]
    return [kept(bounds(found)), Table("Many pools in one process", columns, rows)]


def _progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = part.parser("pools", __doc__)
    parser.add_argument("--pools", type=int, default=POOLS, help=f"InferencePools (default: {POOLS})")
    parser.add_argument("--pods", type=int, default=PODS, help=f"of each pool (default: {PODS})")
    options = parser.parse_args(arguments)
    if not 1 <= options.pools <= 500 or not 1 <= options.pods <= 250:
        parser.error("--pools must be 1 to 500, --pods 1 to 250")
    if missing():
        return
    this = part.Part("pools", options)
    try:
        found = run(options.pools, options.pods)
        this.publish(tables(found), [asdict(one) for one in found])
    except (RigError, OSError, ValueError) as problem:
        parser.exit(1, f"bench.pools: {problem}\n")


if __name__ == "__main__":
    main()
