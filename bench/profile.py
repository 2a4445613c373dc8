"""Where a request's CPU goes: a flame graph, the cost of each stage, the number of instructions.

    python -m bench.profile [--record] [--out DIR] [--into PAGE]

Place:   `make profile`. The picture is of our picker under load behind Envoy (py-spy); stages and
         instructions are of recorded conversations with that Envoy, said again in this process
         (bench.replay), so that they are the same from run to run.
Ignores: other pickers; how the figures compare with goals (bench.overhead does that).
Rule:    a recording is made once and kept. CPU is the best of many times; instructions are the difference
         between saying it once and saying it more often, so that starting does not count.
"""

import argparse
import asyncio
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import uvloop

from bench import flame, stages
from bench.bodies import bodies
from bench.findings import Load
from bench.load import CHAT_PATH, Target, closed_loop
from bench.measure import one_round
from bench.overhead import machine
from bench.recording import Recording, proxy
from bench.replay import Replay
from bench.report import Table, headed, paste
from bench.rig.envoy import Envoy, Listener, Route
from bench.rig.picker import OURS, Picker
from bench.rig.process import RigError, free_port
from bench.stations import ROOT, Contender, Engines, Kind, station

CHUNKS, CHUNK_SECONDS = 100, 0.005
SAMPLES_PER_SECOND = 400
DRIVER = "--server=fast"
PICTURE = "profile.svg"


@dataclass(frozen=True, slots=True)
class Talk:
    """One kind of conversation that is recorded."""

    name: str
    body_kb: int
    requests: int
    streaming: bool = False

    @property
    def per(self) -> str:
        """What its cost is divided by."""
        return "chunk" if self.streaming else "request"

    def count(self, recording: Recording) -> int:
        return recording.chunks if self.streaming else recording.requests


TALKS = (
    Talk("1 KB", 1, 400),
    Talk("220 KB", 220, 60),
    Talk("a stream of 100 chunks", 1, 20, streaming=True),
)
CONCURRENCY = 20


# --- recording -------------------------------------------------------------------------------------


def recordings(folder: Path, *, again: bool) -> dict[Talk, Path]:
    """Those that are there already, unless ``again``; the others are made."""
    paths = {talk: folder / f"{talk.name.replace(' ', '-')}.recording" for talk in TALKS}
    missing = [talk for talk, path in paths.items() if again or not path.exists()]
    if missing:
        with (
            tempfile.TemporaryDirectory(prefix="fleet-epp-profile-") as logs,
            _engines(Path(logs)) as engines,
        ):
            for talk in missing:
                _progress(f"recording {talk.name}")
                uvloop.run(_recorded(talk, engines, Path(logs))).save(paths[talk])
    return paths


def _engines(logs: Path) -> Engines:
    return Engines(logs, 2, page_kb=50, chunks=CHUNKS, chunk_seconds=CHUNK_SECONDS)


async def _recorded(talk: Talk, engines: Engines, logs: Path) -> Recording:
    servers = engines.addresses(2)
    picker = Picker(
        logs=logs,
        endpoints={f"engine-{number}": address for number, address in enumerate(servers)},
        flags=[DRIVER],
        tls=False,
        name=f"picker-{talk.body_kb}-{talk.streaming}",
    )
    port = free_port()
    envoy = Envoy(
        logs=logs,
        servers=servers,
        listeners={"bench": Listener(route=Route.ORIGINAL_DST)},
        picker=f"127.0.0.1:{port}",
        picker_tls=False,
        name=f"envoy-{talk.body_kb}-{talk.streaming}",
    )
    calls = bodies(talk.body_kb * 1024, streaming=talk.streaming, rng=random.Random(talk.body_kb))
    with picker, envoy:
        async with proxy(port, picker.grpc_port) as tape:
            target = Target.parse(envoy.url("bench") + CHAT_PATH)
            result = await closed_loop(target, calls, concurrency=CONCURRENCY, requests=talk.requests)
    summary = result.summary()
    if summary.failures:
        raise RigError(f"recording {talk.name}: {summary.failures_by_kind}")
    return Recording(summary.requests, summary.pieces, tape.reads)


# --- the picture -----------------------------------------------------------------------------------


def sampled(load: Load, seconds: float) -> tuple[flame.Frame, float]:
    """Our picker's stacks under a load, and its CPU a request meanwhile [µs]."""
    spy = _beside("py-spy")
    if spy is None:
        raise RigError("no py-spy found: install the [bench] extra")
    contender = Contender("fleet-epp", Kind.OURS, (*OURS, DRIVER))
    calls = bodies(load.body_kb * 1024, streaming=False, rng=random.Random(load.body_kb))
    with (
        tempfile.TemporaryDirectory(prefix="fleet-epp-profile-") as folder,
        _engines(Path(folder)) as engines,
    ):
        here = station(contender, 2, engines, Path(folder))
        with here.picker, here.envoy:
            stacks = Path(folder) / "stacks.txt"
            # A little more on both sides than what is sampled.
            work = one_round(here, load, calls, seconds + 1.0, 0.5)
            with _spied(spy, here.picker.pid, seconds, stacks):
                row = asyncio.run(work)
            lines = stacks.read_text().splitlines()
    return flame.tree(lines), row.picker_cpu_us or 0.0


@contextmanager
def _spied(spy: str, pid: int, seconds: float, stacks: Path) -> Iterator[None]:
    command = [spy, "record", "--pid", str(pid), "--format", "raw", "--function", "--output", str(stacks)]
    command += ["--rate", str(SAMPLES_PER_SECOND), "--duration", str(round(seconds))]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        yield
        _, said = process.communicate()
    if process.returncode:
        raise RigError(f"py-spy: {said.strip()}\n(it must be allowed to look into its own children: ptrace)")


def _beside(name: str) -> str | None:
    """A program that was installed beside this Python, else one on the PATH."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return shutil.which(name, path=path)


# --- instructions ----------------------------------------------------------------------------------


def instructions(talk: Talk, path: Path, more: int = 2) -> float | None:
    """Machine instructions of one request or chunk; None without valgrind."""
    valgrind = shutil.which("valgrind")
    if valgrind is None:
        return None
    once, often = (_collected(valgrind, path, times, ready=1 + more) for times in (1, 1 + more))
    return (often - once) / more / talk.count(Recording.load(path))


def _collected(valgrind: str, path: Path, times: int, *, ready: int) -> int:
    command = [valgrind, "--tool=callgrind", "--callgrind-out-file=/dev/null"]
    command += [sys.executable, "-m", "bench.replay", str(path), "--times", str(times), "--ready", str(ready)]
    environment = {**os.environ, "PYTHONHASHSEED": "0", "PYTHONPATH": ROOT}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    found = re.search(r"Collected\s*:\s*(\d+)", done.stderr)
    if done.returncode or found is None:
        raise RigError(f"valgrind ended with status {done.returncode}:\n{done.stderr[-2_000:]}")
    return int(found[1])


# --- the report ------------------------------------------------------------------------------------

Costs = Mapping[Talk, Mapping[str, float]]
"""CPU by stage [µs]."""


def stage_table(costs: Costs, wide: Mapping[str, float]) -> Table:
    """``wide``: the first talk with a hundred endpoints."""
    first = next(iter(costs))
    columns = ["stage", *(f"{talk.name}: µs a {talk.per}" for talk in costs)]
    columns.append(f"{first.name}, 100 endpoints: µs a {first.per}")
    every = [*costs.values(), wide]
    names = [stages.DRIVER, *stages.STAGES]
    rows = [[name, *(f"{cost[name]:.1f}" for cost in every)] for name in names]
    rows.append(["in all", *(f"{sum(cost.values()):.1f}" for cost in every)])
    return Table("What each stage costs", columns, rows)


def instruction_table(counted: Mapping[Talk, float | None]) -> Table:
    rows = [
        [talk.name, talk.per, "no valgrind" if count is None else f"{count:,.0f}"]
        for talk, count in counted.items()
    ]
    return Table("Instructions", ["conversation", "per", "instructions"], rows)


def share_table(root: flame.Frame) -> Table:
    rows = [[room, f"{share:.0%}"] for room, share in flame.shares(root)]
    return Table("Where the samples fell", ["room", "share"], rows)


def _costs(talk: Talk, path: Path, repetitions: int, endpoints: int = 2) -> dict[str, float]:
    recording = Recording.load(path)
    replay = Replay(recording, endpoints=endpoints)
    try:
        seconds = stages.of_replay(replay, repetitions)
    finally:
        replay.close()
    return {name: cost / talk.count(recording) * 1e6 for name, cost in seconds.items()}


def _progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def profile(out: Path, *, again: bool, repetitions: int, seconds: float) -> str:
    """Everything; the report as Markdown, which is also written beside the picture in ``out``."""
    out.mkdir(parents=True, exist_ok=True)
    paths = recordings(out, again=again)
    load = Load(1, 100)
    _progress(f"sampling {load} for {seconds:g} s")
    root, cpu_us = sampled(load, seconds)
    (out / PICTURE).write_text(flame.svg(root, f"fleet-epp: {load}, {cpu_us:.0f} µs a request"))
    costs = {}
    for talk, path in paths.items():
        _progress(f"stages of {talk.name}")
        costs[talk] = _costs(talk, path, repetitions)
    first, first_path = next(iter(paths.items()))
    wide = _costs(first, first_path, repetitions, endpoints=100)
    counted = {}
    for talk, path in paths.items():
        _progress(f"instructions of {talk.name}")
        counted[talk] = instructions(talk, path)
    tables = [stage_table(costs, wide), instruction_table(counted), share_table(root)]
    text = headed("make profile", f"{datetime.now(UTC):%Y-%m-%d}", machine(), tables)
    (out / "profile.md").write_text(text)
    return text


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.profile", description=__doc__.partition("\n")[0])
    parser.add_argument("--record", action="store_true", help="make the recordings again")
    parser.add_argument(
        "--out", type=Path, default=Path(".build/profile"), help="folder for recordings and report"
    )
    parser.add_argument(
        "--into", type=Path, metavar="PAGE", help="put the tables into this page, the picture beside it"
    )
    parser.add_argument("--repetitions", type=int, default=40, help="how often a recording is said again")
    parser.add_argument("--seconds", type=float, default=8.0, help="how long the picker is sampled")
    options = parser.parse_args(arguments)
    try:
        text = profile(
            options.out, again=options.record, repetitions=options.repetitions, seconds=options.seconds
        )
        print(text)
        if options.into:
            paste(text, options.into, "profile")
            shutil.copyfile(options.out / PICTURE, options.into.with_name(PICTURE))
    except (RigError, OSError, ValueError, LookupError) as problem:
        parser.exit(1, f"bench.profile: {problem}\n")


if __name__ == "__main__":
    main()
