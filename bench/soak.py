"""`make soak`: thousands of streams at once, whose clients leave at every moment; then: is anything left?

    python -m bench.soak [--seconds 600] [--streams 2000] [--connections 16] [--no-tls] [--server fast]

Place:   speaks ext_proc to a real ``epp serve`` in a gateway's place, by bench.gateway, so that
         it can stop in the middle of anything; servers are bench.engine.
Ignores: latency and throughput: that is what `make bench` is for.
Rule:    every stream that its client does not leave gets all of its answers before a deadline; at the end
         the picker's gauges, tasks, descriptors and memory are where they were before. Loopback only.
"""

import argparse
import asyncio
import json
import random
import ssl
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import uvloop
from prometheus_client.parser import text_string_to_metric_families

from bench import frames
from bench.gateway import Call, Gateway, Gone, Stuck
from bench.messages import body_message, headers_message
from bench.rig.picker import Picker
from bench.rig.process import RigError, wait_until
from bench.stations import Engines
from epp.wire.pb import ext_proc_pb2 as pb

MOST_SECONDS = 24 * 3_600
MOST_STREAMS = 10_000
MIB = 1 << 20
SPARE_MIB = 48
"""How much more memory the picker may hold than after the warm-up: caches, and what its allocator keeps."""
RELEASE_SECONDS = 30.0

AT_REST = (
    "llm_d_epp_extproc_streams_inflight",
    "llm_d_epp_request_running",
    "inference_objective_running_requests",
    "fleet_epp_endpoint_in_flight_requests",
    "fleet_epp_endpoint_in_flight_tokens",
    "fleet_epp_buffered_bytes",
)
"""Gauges that are 0 when no request is there."""


# --- what a client does ------------------------------------------------------------------------------


class Left(Exception):
    """The client leaves here, on purpose."""


@dataclass(slots=True)
class Counts:
    """What has happened so far."""

    finished: int = 0
    left: Counter[str] = field(default_factory=Counter)
    """By the phase in which a client left."""
    cut: Counter[str] = field(default_factory=Counter)
    """Connections, by how they ended."""
    cut_streams: int = 0
    wrong: list[str] = field(default_factory=list)

    def complain(self, what: str) -> None:
        if len(self.wrong) < 20:
            self.wrong.append(what)


LEAVE_CHANCE = 0.06
"""In each phase; half of the requests come to their end."""
PHASES = (
    "opened",
    "headers sent",
    "half a body sent",
    "body sent",
    "picked",
    "response headers",
    "half a response",
    "response sent",
)


class Client:
    """One request after the other on a connection of the pool; ``run`` ends when told."""

    def __init__(self, pool: "Pool", counts: Counts, chance: random.Random, *, think: float) -> None:
        self._pool, self._counts, self._chance, self._think = pool, counts, chance, think

    async def run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            gateway = await self._pool.one(self._chance)
            try:
                await self._request(gateway)
                self._counts.finished += 1
            except Left as left:
                self._counts.left[str(left)] += 1
            except Gone:
                self._counts.cut_streams += 1
                if gateway.fault:
                    self._counts.complain(gateway.fault)
            except (Stuck, TimeoutError) as stuck:
                self._counts.complain(f"stuck: {stuck!r}")
                return

    async def _request(self, gateway: Gateway) -> None:
        call = gateway.open()
        try:
            await self._talk(gateway, call)
        finally:
            try:
                gateway.leave(call)
            except Gone:
                pass  # its connection was cut; it has left all the same

    def _maybe_leave(self, phase: str) -> None:
        if self._chance.random() < LEAVE_CHANCE:
            raise Left(phase)

    async def _talk(self, gateway: Gateway, call: Call) -> None:
        body = self._body()
        self._maybe_leave("opened")
        await gateway.say(call, _HEADERS)
        self._maybe_leave("headers sent")
        pieces = [body[at : at + 30_000] for at in range(0, len(body), 30_000)]
        for piece in pieces[:-1]:
            await gateway.say(call, body_message("request_body", piece, ended=False))
            self._maybe_leave("half a body sent")
        await gateway.say(call, body_message("request_body", pieces[-1], ended=True))
        self._maybe_leave("body sent")
        await self._pause()
        answers = -(-len(body) // 62_000)
        heard = await gateway.hear(call, 1 + answers)
        self._check_request(heard, body)
        self._maybe_leave("picked")
        await gateway.say(call, _RESPONSE_HEADERS)
        await gateway.hear(call, 2 + answers)
        self._maybe_leave("response headers")
        tokens = self._chance.randrange(1, 6)
        for number in range(tokens):
            await gateway.say(call, body_message("response_body", _TOKEN, ended=False))
            await self._pause()
            if number:
                self._maybe_leave("half a response")
        await gateway.hear(call, 2 + answers + tokens)
        await gateway.say(call, body_message("response_body", _LAST, ended=True))
        self._maybe_leave("response sent")
        if len(heard := await gateway.hear(call, 3 + answers + tokens)) != 3 + answers + tokens:
            self._counts.complain(f"{len(heard)} answers instead of {3 + answers + tokens}")

    async def _pause(self) -> None:
        """A server's time, mostly: it is what keeps thousands of streams open at once."""
        await asyncio.sleep(self._think * self._chance.choice([0.0, 0.05, 0.5, 1.0]))

    def _body(self) -> bytes:
        filling = "word " * self._chance.choice([1, 50, 400, 400, 8_000, 30_000])
        chat = {"model": "tiny", "stream": True, "messages": [{"role": "user", "content": filling}]}
        return json.dumps(chat).encode()

    def _check_request(self, heard: Sequence[bytes], body: bytes) -> None:
        answers = [pb.ProcessingResponse.FromString(one) for one in heard]
        passed = b"".join(
            one.request_body.response.body_mutation.streamed_response.body for one in answers[1:]
        )
        if not answers or b"x-gateway-destination-endpoint" not in heard[0] or passed != body:
            self._counts.complain(f"a wrong answer to a body of {len(body)} bytes: {answers[:1]}")


_HEADERS = headers_message("request_headers", (":method", "POST"), (":path", "/v1/chat/completions"))
_RESPONSE_HEADERS = headers_message(
    "response_headers", (":status", "200"), ("content-type", "text/event-stream")
)
_TOKEN = b'data: {"choices":[{"index":0,"delta":{"content":" token"}}]}\n\n'
_LAST = b'data: {"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":5}}\n\ndata: [DONE]\n\n'


class Pool:
    """The connections; one that has ended is made anew."""

    def __init__(self, connect: Callable[[], Awaitable[Gateway]], count: int) -> None:
        self._connect = connect
        self._places: list[Gateway | None] = [None] * count
        self._locks = [asyncio.Lock() for _ in range(count)]

    async def one(self, chance: random.Random) -> Gateway:
        """Any of them, alive."""
        place = chance.randrange(len(self._places))
        async with self._locks[place]:
            gateway = self._places[place]
            if gateway is None or gateway.is_gone:
                gateway = self._places[place] = await self._connect()
        return gateway

    @property
    def living(self) -> list[Gateway]:
        return [one for one in self._places if one is not None and not one.is_gone]

    def close(self) -> None:
        for gateway in self.living:
            gateway.close()


async def cut(pool: Pool, counts: Counts, chance: random.Random, stop: asyncio.Event) -> None:
    """Ends a connection now and then, in each of the ways in which connections end."""
    while not stop.is_set():
        await asyncio.sleep(chance.uniform(0.2, 2.0))
        if not (living := pool.living):
            continue
        gateway, way = chance.choice(living), chance.choice(["reset", "closed", "goaway", "half a frame"])
        counts.cut[way] += 1
        try:
            match way:
                case "goaway":
                    gateway.write(frames.goaway())
                    gateway.close()
                case "half a frame":
                    gateway.write(frames.data(1, bytes(5_000))[:2_000])
                    gateway.close()
                case "closed":
                    gateway.close()
                case _:
                    gateway.abort()
        except Gone:
            continue


# --- what is left of it ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class State:
    """What a picker holds."""

    busy: dict[str, float]
    """Gauges that are not 0."""
    tasks: Counter[str]
    descriptors: int
    rss_mib: float


def look(picker: Picker) -> State:
    """Now."""
    with urllib.request.urlopen(f"{picker.metrics_url}/metrics", timeout=30) as page:  # noqa: S310
        families = list(text_string_to_metric_families(page.read().decode()))
    with urllib.request.urlopen(f"{picker.metrics_url}/debug/tasks", timeout=30) as page:  # noqa: S310
        names = json.load(page)["tasks"]
    values = dict.fromkeys(AT_REST, 0.0)
    for sample in (sample for family in families for sample in family.samples):
        if sample.name in AT_REST:
            values[sample.name] += sample.value
    tasks = Counter(
        "Task" if name.startswith("Task-") else name for name in names if not name.startswith("scrape: ")
    )
    busy = {name: value for name, value in values.items() if value}
    return State(busy, tasks, picker.open_fds(), picker.rss_bytes() / MIB)


def is_back(now: State, before: State) -> bool:
    """Nothing is left but a connection or two of our own looks."""
    more = now.tasks - before.tasks
    return not now.busy and not more and now.descriptors <= before.descriptors + 2


# --- the run -----------------------------------------------------------------------------------------


async def soak(picker: Picker, given: argparse.Namespace) -> tuple[Counts, list[str]]:
    """The load; what happened, and a line for each look at the picker in between."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    loop = asyncio.get_running_loop()

    async def connect() -> Gateway:
        while True:
            try:
                _, gateway = await loop.create_connection(
                    Gateway, "127.0.0.1", picker.grpc_port, ssl=context if picker.tls else None
                )
            except ConnectionError:
                await asyncio.sleep(0.1)
            else:
                return gateway

    counts, stop, chance = Counts(), asyncio.Event(), random.Random(given.seed)
    pool = Pool(connect, given.connections)
    looks: list[str] = []
    async with asyncio.TaskGroup() as group:
        for number in range(given.streams):
            client = Client(pool, counts, random.Random(given.seed + number), think=given.think)
            group.create_task(client.run(stop), name=f"client {number}")
        group.create_task(cut(pool, counts, chance, stop), name="cutter")
        began = time.monotonic()
        while (passed := time.monotonic() - began) < given.seconds and picker.is_running:
            await asyncio.sleep(min(max(given.seconds / 20, 1.0), given.seconds - passed))
            state = await asyncio.to_thread(look, picker)
            looks.append(_line(time.monotonic() - began, counts, state))
            print(looks[-1], flush=True)
        stop.set()
    pool.close()
    return counts, looks


def _line(seconds: float, counts: Counts, state: State) -> str:
    open_streams = state.busy.get("llm_d_epp_extproc_streams_inflight", 0)
    return (
        f"{seconds:5.0f} s  {counts.finished:8,} finished  {counts.left.total():7,} left "
        f"{counts.cut_streams:7,} cut  {open_streams:6,.0f} open  {state.rss_mib:6.0f} MiB"
    )


def verdict(counts: Counts, before: State, after: State, picker: Picker, log: str) -> list[str]:
    """What should have held and did not."""
    wrong = list(counts.wrong)
    wrong += [f"{name} is {value:g}, not 0" for name, value in after.busy.items()]
    wrong += [f"task left: {name} ({count})" for name, count in (after.tasks - before.tasks).items()]
    if after.descriptors > before.descriptors + 2:
        wrong.append(f"{after.descriptors} descriptors, {before.descriptors} before")
    if after.rss_mib > before.rss_mib + SPARE_MIB:
        wrong.append(f"{after.rss_mib:.0f} MiB resident, {before.rss_mib:.0f} before")
    wrong += [
        f"nobody left when {phase}"
        for phase in PHASES
        if phase not in counts.left and phase != "half a frame sent"
    ]
    if "Traceback" in log:
        wrong.append("a traceback in the picker's log")
    if not picker.is_running:
        wrong.append("the picker has ended")
    return wrong


def summary(counts: Counts, before: State, after: State) -> str:
    """The table at the end."""
    rows = [
        ("streams finished", f"{counts.finished:,}"),
        *((f"left: {phase}", f"{counts.left[phase]:,}") for phase in PHASES if counts.left[phase]),
        *((f"connections cut: {way}", f"{count:,}") for way, count in sorted(counts.cut.items())),
        ("streams on them", f"{counts.cut_streams:,}"),
        ("descriptors before, after", f"{before.descriptors}, {after.descriptors}"),
        ("tasks before, after", f"{before.tasks.total()}, {after.tasks.total()}"),
        ("MiB resident before, after", f"{before.rss_mib:.0f}, {after.rss_mib:.0f}"),
    ]
    return "\n".join(f"  {name:<32} {value:>12}" for name, value in rows)


def main() -> int:
    """The exit status: 1 when something did not hold."""
    given = _arguments()
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        logs = Path(folder)
        with Engines(logs, 2, page_kb=2, chunks=3, chunk_seconds=0.01) as engines:
            endpoints = {f"s{number}": address for number, address in enumerate(engines.addresses(2))}
            flags = [f"--server={given.server}", "--v=0"]
            with Picker(logs=logs, endpoints=endpoints, tls=given.tls, flags=flags) as picker:
                return _run(picker, given)


def _run(picker: Picker, given: argparse.Namespace) -> int:
    # What is held after as many streams as there will be is what may be held at the end.
    warm = argparse.Namespace(**{**vars(given), "seconds": min(15.0, given.seconds)})
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        start = look(picker)
        print("warming up", flush=True)
        warming, _ = runner.run(soak(picker, warm))
        _settle(picker, start)
        before = look(picker)
        print(
            f"{given.streams:,} streams on {given.connections} connections for {given.seconds:g} s",
            flush=True,
        )
        counts, _ = runner.run(soak(picker, given))
    counts.wrong = warming.wrong + counts.wrong
    _settle(picker, start)
    after = look(picker)
    wrong = verdict(counts, before, after, picker, picker.log.read_text())
    print(summary(counts, before, after))
    print("\n".join(["", "did not hold:", *(f"  {one}" for one in wrong)]) if wrong else "  nothing is left")
    return bool(wrong)


def _settle(picker: Picker, start: State) -> None:
    try:
        wait_until(lambda: is_back(look(picker), start), what="at rest", timeout=RELEASE_SECONDS)
    except RigError:
        pass  # the verdict says what is left


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make soak", description="Many streams, for long, and leaving clients."
    )
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--streams", type=int, default=2_000)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--think", type=float, default=2.0, help="longest pause [s] (default: 2)")
    parser.add_argument("--tls", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--server", default="fast", choices=["fast", "grpcio"])
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    for name, value, most in (
        ("seconds", given.seconds, MOST_SECONDS),
        ("streams", given.streams, MOST_STREAMS),
        ("connections", given.connections, 500),
    ):
        if not 1 <= value <= most:
            parser.error(f"--{name} {value:g}: must be 1 to {most}")
    return given


if __name__ == "__main__":
    sys.exit(main())
