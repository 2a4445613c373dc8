"""How soon a picker does what the Kubernetes API tells: a pod that becomes Ready, one that terminates.

    python -m bench.pod_events [--times 20] [--crowd 200] [--out DIR] [--into PAGE]

Place:   a part of `make bench`: a real kube-apiserver, a real picker under load; needs tools/kube-plane.
Ignores: what a pick costs (bench.picks), and servers that die without a word (bench.failover).
Rule:    an event has happened when a watch of our own has it: the API server tells its watchers one after
         the other, so that the picker's may have it a little before or after. The time to the first pick has
         in it that a new server is looked at, and that it is drawn among the others.
"""

import asyncio
import contextlib
import json
import ssl
import statistics
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench import part
from bench.cluster import NAMESPACE, Cluster, missing, pod, pool
from bench.goals import LATE_PICKS, READY_SECONDS, Bound
from bench.load import clock
from bench.report import Table, kept
from bench.requests import Picked, Requests, unlike
from bench.rig.kube import ADMIN, ControlPlane, path_of
from bench.rig.process import RigError

APP, STEADY = "qwen", 3
"""Pods that are always there, beside the one that comes and goes."""
CLIENTS = 4
WATCH_SECONDS = 0.01
"""Within which the API server tells all of its watchers: a request that was sent later is late."""
AFTER_SECONDS = 0.2
"""As long as requests go on after an event."""
CHANGES = 50.0
"""A second, of the crowd: a rollout of a thousand pods in a minute is as many."""
GRACE = 30
DEADLINE = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One pod came and went. Times [s] from the event."""

    crowd: int
    """Further pods of the pool that change all the time, as in a rollout."""
    first_pick: float
    last_pick: float | None
    """Of the requests that were sent after the pod was told to stop; None: there was none."""
    late_picks: int
    """Those sent more than ``WATCH_SECONDS`` after."""
    requests: int


# --- the events ------------------------------------------------------------------------------------


@dataclass(slots=True)
class Watch:
    """When the API told what of a pod; ``heard`` by name and event."""

    heard: dict[tuple[str, str], float] = field(default_factory=dict)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def note(self, line: bytes) -> None:
        """One event as the API writes it; the first of its kind counts."""
        event = json.loads(line)
        name, status = event["object"]["metadata"]["name"], event["object"].get("status", {})
        if "deletionTimestamp" in event["object"]["metadata"]:
            what = "terminating"
        else:
            conditions = {one["type"]: one["status"] for one in status.get("conditions", ())}
            what = "ready" if conditions.get("Ready") == "True" else "not ready"
        self.heard.setdefault((name, what), clock())
        self._changed.set()

    async def until(self, name: str, what: str) -> float:
        """When it was told."""
        async with asyncio.timeout(DEADLINE):
            while (name, what) not in self.heard:
                self._changed.clear()
                await self._changed.wait()
        return self.heard[name, what]


@contextlib.asynccontextmanager
async def watched(plane: ControlPlane) -> AsyncIterator[Watch]:
    """The pods of the namespace, from now on."""
    context = ssl.create_default_context(cafile=str(plane.api.ca))
    version = plane.api.ask("GET", f"/api/v1/namespaces/{NAMESPACE}/pods?limit=1")["metadata"][
        "resourceVersion"
    ]
    path = f"/api/v1/namespaces/{NAMESPACE}/pods?watch=1&resourceVersion={version}"
    reader, writer = await asyncio.open_connection("127.0.0.1", plane.api.port, ssl=context, limit=1 << 20)
    # HTTP/1.0 has no chunks: one line is one event.
    writer.write(f"GET {path} HTTP/1.0\r\nhost: api\r\nauthorization: Bearer {ADMIN}\r\n\r\n".encode())
    head = await reader.readuntil(b"\r\n\r\n")
    if b" 200 " not in head.split(b"\r\n", 1)[0]:
        raise RigError(f"a watch of pods: {head.decode(errors='replace')}")
    watch = Watch()

    async def listen() -> None:
        while line := await reader.readline():
            watch.note(line)

    async with asyncio.TaskGroup() as group:
        listener = group.create_task(listen(), name="watch")
        try:
            yield watch
        finally:
            listener.cancel()
            writer.transport.abort()


# --- one turn --------------------------------------------------------------------------------------


async def one_turn(cluster: Cluster, watch: Watch, requests: Requests, number: int, crowd: int) -> Turn:
    """A pod becomes Ready and is told to stop, while requests go on."""
    name, ip = f"turn-{crowd}-{number}", f"127.{3 if crowd else 2}.0.{1 + number}"
    address = f"{ip}:{cluster.engine.port}"
    plane, ready = cluster.plane, pod(name, ip, app=APP)
    await asyncio.to_thread(plane.apply, pod(name, ip, app=APP, ready=False))
    await watch.until(name, "not ready")
    await asyncio.sleep(AFTER_SECONDS)  # it has been seen, and is looked at
    before = len(requests.picked)
    status = {"status": ready["status"]}
    await asyncio.to_thread(plane.patch, f"{path_of(ready)}/status", status)
    became = await watch.until(name, "ready")
    first = await requests.first_to(address, DEADLINE)
    await asyncio.sleep(AFTER_SECONDS)
    await asyncio.to_thread(plane.delete, ready, grace=GRACE)
    told = await watch.until(name, "terminating")
    await asyncio.sleep(AFTER_SECONDS)
    await asyncio.to_thread(plane.delete, ready)
    after = [one.sent - told for one in _picks(requests.picked[before:], address) if one.sent > told]
    return Turn(
        crowd=crowd,
        first_pick=first - became,
        last_pick=max(after, default=None),
        late_picks=sum(late > WATCH_SECONDS for late in after),
        requests=len(requests.picked) - before,
    )


def _picks(picked: Sequence[Picked], address: str) -> list[Picked]:
    return [one for one in picked if one.address == address]


async def turns(cluster: Cluster, port: int, times: int, crowd: int) -> list[Turn]:
    """As many as are wanted, one after the other, beside a crowd that changes all the time."""
    async with (
        Requests.to([port] * CLIENTS, unlike()) as requests,
        watched(cluster.plane) as watch,
        requests.going_on(CLIENTS),
        _restless(cluster, crowd),
    ):
        return [await one_turn(cluster, watch, requests, number, crowd) for number in range(times)]


@contextlib.asynccontextmanager
async def _restless(cluster: Cluster, crowd: int) -> AsyncIterator[None]:
    """The pods of the crowd, never Ready, say something new of themselves one after the other."""

    async def change(pods: Sequence[dict[str, Any]]) -> None:
        number, began = 0, clock()
        while True:
            one = pods[number % len(pods)]
            number += 1
            change = {"metadata": {"annotations": {"bench/turn": str(number)}}}
            await asyncio.to_thread(cluster.plane.patch, path_of(one), change)
            await asyncio.sleep(max(0.0, began + number / CHANGES - clock()))

    async with asyncio.TaskGroup() as group:
        pods = [
            pod(f"crowd-{number}", f"127.1.{number // 250}.{1 + number % 250}", app=APP, ready=False)
            for number in range(crowd)
        ]
        await asyncio.to_thread(cluster.fill, pods)
        task = group.create_task(change(pods), name="crowd") if pods else None
        try:
            yield
        finally:
            if task is not None:
                task.cancel()


# --- what follows ----------------------------------------------------------------------------------


def bounds(found: Sequence[Turn]) -> list[tuple[Bound, float | None]]:
    return [
        (READY_SECONDS, max((one.first_pick for one in found), default=None)),
        (LATE_PICKS, sum(one.late_picks for one in found) if found else None),
    ]


def tables(found: Sequence[Turn]) -> list[Table]:
    rows = []
    for crowd in dict.fromkeys(one.crowd for one in found):
        mine = [one for one in found if one.crowd == crowd]
        firsts = [one.first_pick * 1e3 for one in mine]
        lasts = [one.last_pick * 1e3 for one in mine if one.last_pick is not None]
        rows.append(
            [
                f"{STEADY} pods" + (f", {crowd} that change meanwhile" if crowd else ""),
                str(len(mine)),
                f"{statistics.median(firsts):.1f}",
                f"{max(firsts):.1f}",
                f"{max(lasts):.1f}" if lasts else "-",
                str(sum(one.late_picks for one in mine)),
                f"{sum(one.requests for one in mine):,}",
            ]
        )
    columns = ["pool", "turns", "first pick after Ready ms: median", "slowest"]
    columns += ["sent last after terminating ms", f"later than {WATCH_SECONDS * 1e3:g} ms", "requests"]
    return [kept(bounds(found)), Table("Pods that come and go", columns, rows)]


def run(times: int, crowd: int) -> list[Turn]:
    """Measure; RigError when a part does not start."""
    with tempfile.TemporaryDirectory(prefix="fleet-epp-pods-") as folder, Cluster(Path(folder)) as cluster:
        cluster.fill([pool(APP, target=cluster.engine.port, port=9002)])
        cluster.fill(pod(f"steady-{number}", f"127.0.1.{1 + number}", app=APP) for number in range(STEADY))
        flags = ["--pool-name", APP, "--pool-namespace", NAMESPACE]
        with cluster.picker("events", flags) as picker:
            found = []
            for beside in (0, crowd):
                _progress(f"{times} pods come and go, {beside} others change meanwhile")
                found += part.played(turns(cluster, picker.grpc_port, times, beside))
            return found


def _progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = part.parser("pod_events", __doc__)
    parser.add_argument("--times", type=int, default=20, help="how often a pod comes and goes (default: 20)")
    parser.add_argument("--crowd", type=int, default=200, help="pods that change meanwhile (default: 200)")
    options = parser.parse_args(arguments)
    if not 1 <= options.times <= 250 or not 1 <= options.crowd <= 2_000:
        parser.error("--times must be 1 to 250, --crowd 1 to 2000")
    if missing():
        return
    this = part.Part("pod_events", options)
    try:
        found = run(options.times, options.crowd)
        this.publish(tables(found), [asdict(one) for one in found])
    except (RigError, OSError, ValueError) as problem:
        parser.exit(1, f"bench.pod_events: {problem}\n")


if __name__ == "__main__":
    main()
