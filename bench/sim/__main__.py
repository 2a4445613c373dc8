"""`epp bench sim`: policies choose among simulated servers; which is the best where?

    epp bench sim [--matrix small|default|FILE] [--seeds N] [--policy NAME|FILE ...]
                  [--workload NAME|FILE ...] [--fleet NAME ...] [--load 0.5,0.8] [--readings 50ms,1s]
                  [--out DIR] [--force] [--jobs N] [--capacities]

Exit status: 0 played, whatever the figures; 1 broken off by a fault, 2 wrong arguments, 130 interrupted: what
was played is in the report.
"""

import argparse
import importlib.metadata
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from bench.demo.interrupt import terminate_is_interrupt
from bench.pages import claim
from bench.sim import report as reports
from bench.sim.faults import FAULTS
from bench.sim.fleet import FLEETS
from bench.sim.matrix import (
    Group,
    Matrix,
    Task,
    Wanted,
    capacity,
    cells_of,
    find_matrix,
    play,
    spread,
    workload_of,
)
from bench.sim.play import assembled
from bench.sim.policies import POLICIES, find_policy
from bench.sim.report import Report
from epp.config.decode import ConfigError
from epp.core.durations import duration

T = TypeVar("T")
R = TypeVar("R")

SAY_EVERY = 10.0
"""Seconds between two lines of progress where there is no terminal."""
DEFAULT_MATRIX = "small"


def main(arguments: Sequence[str] | None = None, prog: str = "python -m bench.sim") -> int:
    """The exit status."""
    given = _arguments(arguments, prog)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    terminate_is_interrupt()
    try:
        made = _planned(given)
        if not given.capacities:
            claim(given.out, force=given.force)
    except ConfigError as problem:
        print(f"{prog}: {problem}", file=sys.stderr)
        return 2
    status = _carry_out(made, given, prog)
    if given.capacities:
        _print_capacities(made)
    elif made.plays:
        _show(made, given.out)
    return status


def _carry_out(made: Report, given: argparse.Namespace, prog: str) -> int:
    try:
        _find_capacities(made, given.jobs)
        if not given.capacities:
            _play(made, given.jobs)
    except KeyboardInterrupt:
        print("interrupted: what was played is kept", file=sys.stderr)
        return 130
    except BrokenExecutor:
        print(f"{prog}: a process was killed, perhaps for want of memory: take fewer --jobs", file=sys.stderr)
        return 1
    except ValueError as problem:  # ConfigError too: what shows only on the way
        print(f"{prog}: {problem}", file=sys.stderr)
        return 1
    return 0


def _find_capacities(made: Report, jobs: int) -> None:
    """Of each workload on each fleet, those that the matrix does not say."""
    matrix = made.matrix
    known = {(one.workload, one.fleet): one.requests_per_second for one in matrix.capacities}
    wanted = list(dict.fromkeys((cell.workload, cell.fleet) for cell in made.cells))
    made.capacities.update({pair: known[pair] for pair in wanted if pair in known})
    asked = [
        Wanted(workload=pair[0], fleet=pair[1], sizes=matrix.sizes) for pair in wanted if pair not in known
    ]
    for one, rate in _with_progress(capacity, asked, jobs, "capacities"):
        made.capacities[one.workload, one.fleet] = rate


def _play(made: Report, jobs: int) -> None:
    tasks = [
        Task(
            cell=cell,
            policy=policy,
            seed=seed,
            rate=cell.load * made.capacities[cell.workload, cell.fleet],
            sizes=made.matrix.sizes,
        )
        for seed in range(1, made.matrix.seeds + 1)
        for cell in made.cells
        for policy in made.policies
    ]
    before = _cpu_seconds()
    for task, figures in _with_progress(play, tasks, jobs, "plays"):
        made.plays[task.cell, task.policy.name, task.seed] = figures
    requests = len(tasks) * (made.matrix.warm_up + made.matrix.requests)
    seconds = _cpu_seconds() - before
    a_minute = requests / seconds * 60
    print(f"{requests:,} requests in {seconds:.0f} s of CPU, {a_minute:,.0f} a minute", file=sys.stderr)


def _cpu_seconds() -> float:
    """Of this process and of those that it has waited for."""
    return sum(os.times()[:4])


def _with_progress(work: Callable[[T], R], asked: Sequence[T], jobs: int, what: str) -> Iterator[tuple[T, R]]:
    if not asked:
        return
    with _progress(what, len(asked)) as step:
        for one, found in spread(work, asked, jobs):
            yield one, found
            step()


@contextmanager
def _progress(what: str, total: int) -> Iterator[Callable[[], None]]:
    """On standard error: a bar at a terminal, else a line now and then."""
    console = Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
    )
    number = bar.add_task(what, total=total)
    began = said = time.monotonic()

    def step() -> None:
        nonlocal said
        bar.advance(number)
        now = time.monotonic()
        if not console.is_terminal and (now - said >= SAY_EVERY or bar.finished):
            said = now
            print(
                f"[{now - began:5.0f} s] {what}: {bar.tasks[0].completed:.0f} of {total}",
                file=sys.stderr,
                flush=True,
            )

    if not console.is_terminal:
        yield step
        return
    with bar:
        yield step


# --- what comes out ------------------------------------------------------------------------------


def _show(made: Report, folder: Path) -> None:
    """The tables that speak of all cells, and where everything is."""
    written = reports.write(made, folder)
    found = [table for table in reports.tables(made) if table.title in reports.OF_ALL]
    console = Console()
    for table in found:
        if console.is_terminal:
            console.print(table.rich())
        else:
            print(table.markdown())
    partial = "PARTIAL: " if made.is_partial else ""
    names = ", ".join(path.name for path in written)
    print(f"{partial}{len(made.plays):,} of {made.planned:,} plays; in {folder}: {names}", file=sys.stderr)


def _print_capacities(made: Report) -> None:
    """As a matrix takes them."""
    print("capacities:")
    for (workload, fleet), rate in made.capacities.items():
        if math.isfinite(rate):
            print(f"- {{workload: {workload}, fleet: {fleet}, requestsPerSecond: {rate:.3g}}}")


# --- arguments -----------------------------------------------------------------------------------


def _planned(given: argparse.Namespace) -> Report:
    """What is to be played. Raises ConfigError for all that can be known before."""
    matrix = _overridden(find_matrix(given.matrix), given)
    policies = [find_policy(name) for name in given.policy or matrix.policies or POLICIES]
    names = [policy.name for policy in policies]
    for policy in policies:
        if names.count(policy.name) > 1:
            raise ConfigError(f'--policy: two are called "{policy.name}": give a file another name')
        assembled(policy.config, policy.name)
    cells = cells_of(matrix)
    for cell in cells:
        workload_of(cell.workload, cell.fleet, matrix.pauses)
    return Report(
        command=_said(given),
        version=importlib.metadata.version("fleet-epp"),
        matrix=matrix,
        policies=policies,
        cells=cells,
    )


def _overridden(matrix: Matrix, given: argparse.Namespace) -> Matrix:
    """The matrix with what the command line says instead."""
    changes = {
        "workloads": tuple(given.workload),
        "fleets": tuple(given.fleet),
        "loads": _numbers("--load", given.load),
        "readings": _durations("--readings", given.readings),
    }
    changes = {name: value for name, value in changes.items() if value}
    try:
        groups: list[Group] = [replace(group, **changes) for group in matrix.cells]
        return replace(matrix, cells=tuple(groups), seeds=given.seeds or matrix.seeds)
    except ConfigError:
        raise
    except ValueError as problem:
        raise ConfigError(f"--{problem}") from None


def _numbers(flag: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(",") if text)
    except ValueError:
        raise ConfigError(f'{flag}: "{text}" is no list of numbers: write for example 0.5,0.8') from None


def _durations(flag: str, text: str) -> tuple[float, ...]:
    found = [duration(part.strip()) for part in text.split(",") if text]
    if None in found:
        raise ConfigError(f'{flag}: "{text}" is no list of durations: write for example 50ms,1s')
    return tuple(each for each in found if each is not None)


def _said(given: argparse.Namespace) -> str:
    """The command as a reader may repeat it."""
    words = ["epp bench sim", f"--matrix {_base(given.matrix)}"]
    words += [f"--seeds {given.seeds}"] if given.seeds else []
    words += [f"--policy {_base(name)}" for name in given.policy]
    words += [f"--workload {_base(name)}" for name in given.workload]
    words += [f"--fleet {name}" for name in given.fleet]
    words += [f"--load {given.load}"] if given.load else []
    words += [f"--readings {given.readings}"] if given.readings else []
    return " ".join(words)


def _base(name: str) -> str:
    """Where a file lies on this machine is nobody's business."""
    return Path(name).name


def _arguments(arguments: Sequence[str] | None, prog: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Policies choose among simulated servers: the code that ships, in virtual time.",
        epilog=_epilog(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--matrix", default=DEFAULT_MATRIX, metavar="NAME|FILE", help="the cells: small, default, or a file")
    add(
        "--seeds",
        type=int,
        metavar="N",
        help="plays of each policy in each cell; else as many as the matrix says",
    )
    add("--policy", action="append", default=[], metavar="NAME|FILE", help="only this; repeatable")
    add("--workload", action="append", default=[], metavar="NAME|FILE", help="in all cells; repeatable")
    add("--fleet", action="append", default=[], metavar="NAME", help="in all cells; repeatable")
    add("--load", default="", metavar="SHARES", help="of the capacity, in all cells: 0.5,0.8")
    add("--readings", default="", metavar="TIMES", help="intervals between readings, in all cells: 50ms,1s")
    add("--out", type=Path, default=Path(".build/bench/sim"), metavar="DIR", help="for the report")
    add("--force", action="store_true", help="replace a report that is in DIR")
    add("--jobs", type=int, default=os.cpu_count() or 1, metavar="N", help="processes at once (%(default)s)")
    add("--capacities", action="store_true", help="only find the capacities, as a matrix takes them")
    given = parser.parse_args(arguments)
    for name in ("seeds", "jobs"):
        value = getattr(given, name)
        if value is not None and value < 1:
            parser.error(f"--{name} {value}: must be at least 1")
    return given


def _epilog() -> str:
    policies = "\n".join(f"  {one.name:<24} {one.what}" for one in POLICIES.values())
    fleets = "\n".join(f"  {name:<24} {one.what}" for name, one in FLEETS.items())
    faults = "\n".join(f"  {name:<24} {one.what}" for name, one in FAULTS.items() if one is not None)
    return f"policies:\n{policies}\n\nfleets:\n{fleets}\n\nfaults (in a matrix's file):\n{faults}"


if __name__ == "__main__":
    sys.exit(main())
