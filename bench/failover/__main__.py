"""`epp bench failover`: the matrix, its tables, pictures and JSON.

    epp bench failover [--scenario NAME ...] [--seconds 10] [--rate 50] [--times N] [--retries]
                       [--versus "COMMAND ..."] [--json FILE] [--plot FILE] [--into PAGE] [--out DIR]

Exit status: 0 played, whatever the figures; 1 a part was missing or did not start; 2 wrong arguments;
130 interrupted.
"""

import argparse
import asyncio
import contextlib
import json
import shlex
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import uvloop
from rich.console import Console

from bench import report as tables
from bench.demo.interrupt import terminate_is_interrupt
from bench.failover import report, timeline
from bench.failover.house import Contender, house, not_here
from bench.failover.play import Run, play
from bench.failover.report import Matrix, Row
from bench.failover.scenarios import BY_NAME, SCENARIOS, Scenario
from bench.overhead import Steps, machine
from bench.rig.model import TINY, model_file
from bench.rig.process import RigError

SHORTEST, LONGEST = 3.0, 120.0
LEAST_RATE, MOST_RATE = 5.0, 500.0
OURS = "fleet-epp"


class Bench:
    """One run of the command."""

    def __init__(self, matrix: Matrix, logs: Path, *, times: int | None) -> None:
        self._matrix, self._logs, self._times = matrix, logs, times

    def measure(self, scenarios: Sequence[Scenario], contenders: Sequence[Contender]) -> None:
        """Contenders take turns within each scenario; what cannot be played here is said."""
        model_file(TINY)  # here, not in each server's start
        rows = [Row(scenario, contender.name) for scenario in scenarios for contender in contenders]
        self._matrix.rows += rows
        steps = sum(self._repetitions(row.scenario) for row in rows)
        with Steps(steps) as progress:
            for row, contender in zip(rows, list(contenders) * len(scenarios), strict=True):
                row.not_played = not_here(row.scenario.stand)
                row.is_impossible = bool(row.not_played)
                for number in range(self._repetitions(row.scenario)):
                    progress.step(self._repeat(row, contender, number))

    def _repetitions(self, scenario: Scenario) -> int:
        return scenario.times if self._times is None else self._times

    def _repeat(self, row: Row, contender: Contender, number: int) -> str:
        if row.not_played:
            return f"{contender.name}, {row.scenario.name}: NOT PLAYED: {row.not_played}"
        try:
            run = self._one(row.scenario, contender, number)
        except (RigError, BaseExceptionGroup) as problem:
            row.not_played = _first_line(problem)
            return f"{contender.name}, {row.scenario.name}: NOT PLAYED: {row.not_played}"
        row.runs.append(run)
        return f"{contender.name}, {report.line(row.scenario, run.account)}"

    def _one(self, scenario: Scenario, contender: Contender, number: int) -> Run:
        logs = self._logs / f"{contender.name}-{scenario.name}-{number}".replace(" ", "-")
        matrix = self._matrix
        with house(contender, scenario.stand, logs, retries=scenario.retries) as here, _runner() as runner:
            return runner.run(play(scenario, here, seconds=matrix.seconds, rate=matrix.rate))


@contextlib.contextmanager
def _runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        yield runner


def _first_line(problem: BaseException) -> str:
    """What went wrong, out of the task groups it went through; anything but a RigError is a defect."""
    cause = problem
    while isinstance(cause, BaseExceptionGroup):
        cause = cause.exceptions[0]
    if not isinstance(cause, RigError):
        raise problem
    first, *log = str(cause).splitlines()
    return f"{first} {log[-1].strip()}" if log else first


def main(arguments: Sequence[str] | None = None, prog: str = "python -m bench.failover") -> int:
    """The exit status."""
    given = _arguments(arguments, prog)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    terminate_is_interrupt()
    matrix = Matrix(
        command=_said(given),
        date=f"{datetime.now(UTC):%Y-%m-%d}",
        machine=machine(),
        rate=given.rate,
        seconds=given.seconds,
    )
    scenarios = [BY_NAME[name] for name in given.scenario] if given.scenario else list(SCENARIOS)
    if given.retries:
        scenarios = [replace(one, retries=True) for one in scenarios]
    contenders = [Contender(OURS)]
    if given.versus:
        command = tuple(shlex.split(given.versus))
        contenders.append(Contender.versus(command, f"versus {Path(command[0]).name}"))
    logs = Path(tempfile.mkdtemp(prefix="fleet-epp-failover-"))
    status = 1
    try:
        Bench(matrix, logs, times=given.times).measure(scenarios, contenders)
        _show(matrix)
        _write(matrix, given)
        status = _verdict(matrix)
    except KeyboardInterrupt:
        print("interrupted: everything is stopped", file=sys.stderr)
        status = 130
    except (OSError, ValueError) as problem:
        print(f"{prog}: {problem}", file=sys.stderr)
    finally:
        if status == 1 or (status == 0 and any(row.missed() for row in matrix.rows)):
            print(f"{prog}: the logs are in {logs}", file=sys.stderr)
        else:
            shutil.rmtree(logs, ignore_errors=True)
    return status


def _verdict(matrix: Matrix) -> int:
    """Says what was missed, and what was not played at all."""
    for row in matrix.rows:
        name = f"{row.contender}, {row.scenario.name}"
        for goal in row.missed():
            print(f"missed: {name}: {goal.what}", file=sys.stderr)
        if row.not_played:
            print(f"NOT PLAYED: {name}: {row.not_played}", file=sys.stderr)
    return int(any(row.not_played and not row.is_impossible for row in matrix.rows if row.contender == OURS))


def _show(matrix: Matrix) -> None:
    console = Console()
    if console.is_terminal:
        for table in report.tables(matrix):
            console.print(table.rich())
    else:
        print(report.markdown(matrix))


def _write(matrix: Matrix, given: argparse.Namespace) -> None:
    given.out.mkdir(parents=True, exist_ok=True)
    written = []
    for row in matrix.rows:
        if row.runs:
            name = row.scenario.name if row.contender == OURS else f"{row.scenario.name}-versus"
            paths = [given.out / f"{name}.{kind}" for kind in ("svg", "png")]
            timeline.draw([row], paths)
            written += paths
    data = given.json or given.out / "failover.json"
    data.write_text(json.dumps(report.as_dict(matrix), ensure_ascii=False) + "\n", encoding="utf-8")
    written.append(data)
    if given.plot:
        timeline.draw(matrix.rows, [given.plot])
        written.append(given.plot)
    if given.into:
        tables.paste(report.markdown(matrix), given.into, "failover")
    print(f"{len(written)} files: {data}, pictures in {given.out}", file=sys.stderr)


def _said(given: argparse.Namespace) -> str:
    """The command as a reader may repeat it; where another picker lies on this machine is left out."""
    words = ["epp bench failover", *(f"--scenario {name}" for name in given.scenario)]
    words += [f"--seconds {given.seconds:g}"] if given.seconds != DEFAULT_SECONDS else []
    words += [f"--rate {given.rate:g}"] if given.rate != DEFAULT_RATE else []
    words += [f"--times {given.times}"] if given.times else []
    words += ["--retries"] if given.retries else []
    words += [f'--versus ".../{Path(shlex.split(given.versus)[0]).name}"'] if given.versus else []
    return " ".join(words)


DEFAULT_SECONDS, DEFAULT_RATE = 10.0, 50.0


def _arguments(arguments: Sequence[str] | None, prog: str) -> argparse.Namespace:
    lines = "\n".join(f"  {one.name:<18} {one.what}" for one in SCENARIOS)
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Servers die, hang, load and lie under load; what does a request notice?",
        epilog=f"scenarios:\n{lines}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    names = list(BY_NAME)
    add(
        "--scenario", action="append", default=[], choices=names, metavar="NAME", help="only this; repeatable"
    )
    add("--seconds", type=float, default=DEFAULT_SECONDS, help="of a run (10); flapping takes 12 times that")
    add("--rate", type=float, default=DEFAULT_RATE, help="requests a second (50)")
    add("--times", type=int, metavar="N", help="repetitions of every scenario; else as many as it says")
    add("--retries", action="store_true", help="Envoy retries on another server (override_host) everywhere")
    add("--versus", metavar="COMMAND", help="another picker with upstream's flags, on the same matrix")
    add("--json", type=Path, metavar="FILE", help="every figure and every request")
    add("--plot", type=Path, metavar="FILE", help="one picture of all scenarios (.svg, .png)")
    add("--into", type=Path, metavar="PAGE", help="put the tables into this page as well")
    add(
        "--out", type=Path, default=Path(".build/bench/failover"), metavar="DIR", help="for pictures and JSON"
    )
    given = parser.parse_args(arguments)
    for name, value, least, most in (
        ("seconds", given.seconds, SHORTEST, LONGEST),
        ("rate", given.rate, LEAST_RATE, MOST_RATE),
        ("times", given.times, 1, 100),
    ):
        if value is not None and not least <= value <= most:
            parser.error(f"--{name} {value:g}: must be {least:g} to {most:g}")
    if wrong := _cannot_be_written(given):
        parser.error(wrong)
    if given.versus and shutil.which(shlex.split(given.versus)[0]) is None:
        parser.error(f"--versus: there is no command {shlex.split(given.versus)[0]}")
    return given


def _cannot_be_written(given: argparse.Namespace) -> str:
    """What would come to light after a quarter of an hour."""
    for name, file in (("json", given.json), ("plot", given.plot)):
        if file and not file.parent.is_dir():
            return f"--{name} {file}: there is no directory {file.parent}"
    try:
        if given.into:
            tables.around(given.into, "failover")
    except (OSError, ValueError) as problem:
        return f"--into: {problem}"
    return ""


if __name__ == "__main__":
    sys.exit(main())
