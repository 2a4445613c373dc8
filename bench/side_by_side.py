"""Policies on real llama.cpp servers of unequal speed, through real Envoys: whose first token comes sooner?

    python -m bench.side_by_side [--seconds 240] [--rounds 8] [--rate N] [--out DIR] [--into PAGE]

Place:   the goals that no simulation can show; bench.run asks and counts, bench.rig has the parts.
Ignores: how a policy chooses.
Rule:    the servers are the same for all policies, which take turns over them with the same sessions; each
         has an Envoy and, but for round robin, a picker of its own. No cache is emptied between two turns.

Three servers with one slot of compute each share the machine's cores; the second and the third have twice and
three times the layers of the first, so that a token takes them two and three times as long.
"""

import argparse
import importlib.metadata
import itertools
import secrets
import shutil
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import yaml

from bench.compare import FIGURES
from bench.demo.interrupt import held_back, terminate_is_interrupt
from bench.demo.interrupt import run as interruptible
from bench.demo.talk import CONTEXT, SIZE, SLOTS, calibrate
from bench.load import Options, Target
from bench.pages import claim, ratio
from bench.report import Table, paste
from bench.rig.envoy import SENT_TO, Envoy, Listener, Route
from bench.rig.llama import LlamaServer
from bench.rig.model import model_file
from bench.rig.picker import Picker
from bench.rig.process import RigError
from bench.run import report as reports
from bench.run.play import Stretch
from bench.run.report import Found, Report
from bench.run.server import Unreachable, greeted, server
from bench.run.turns import Settings, Turns
from bench.sim.policies import OURS, POLICIES, UPSTREAM
from bench.sim.statistics import Estimate, Objective
from bench.workloads.spec import find
from epp.config.decode import ConfigError

SPEEDS: Mapping[str, int] = {"fast": 1, "half": 2, "third": 3}
"""How many times the layers of the smallest model each server has."""
ROUND_ROBIN = "round-robin"
POLICIES_HERE = (ROUND_ROBIN, UPSTREAM, OURS)
"""Round robin is Envoy's own: no picker at all."""
ROUTES = {ROUND_ROBIN: Listener(route=Route.ROUND_ROBIN)}
WORKLOAD = "small"
P90 = next(figure for figure in FIGURES if figure.what.startswith("TTFT p90"))


@dataclass(frozen=True, slots=True)
class Goal:
    """What the TTFT p90 of our own policy must be, to that of another."""

    other: str
    most: float

    def row(self, ours: Found, other: Found) -> list[str]:
        found = ours.to(other, P90)
        shown = "n/a" if found is None else ratio(found)
        return [
            f"TTFT p90 of {OURS} to {self.other}",
            f"≤ {self.most:.2f}",
            shown,
            _verdict(found, self.most),
        ]


def _verdict(found: Estimate | None, most: float) -> str:
    """Sure at 95 %, or not; or not reached."""
    if found is None or not found.value <= most:
        return "**no**"
    return "yes" if found.high <= most else "yes, within chance"


GOALS = (Goal(ROUND_ROBIN, 0.70), Goal(UPSTREAM, 1.00))


def house(stack: ExitStack, logs: Path) -> tuple[list[LlamaServer], dict[str, str]]:
    """Everything is started; the servers, and the URL of each policy."""
    sizes = {name: replace(SIZE, layers=SIZE.layers * times) for name, times in SPEEDS.items()}
    for size in sizes.values():
        model_file(size)  # here, not in each server's start
    servers = [
        LlamaServer(logs=logs, name=name, size=size, slots=SLOTS, context=CONTEXT)
        for name, size in sizes.items()
    ]
    addresses = [one.address for one in servers]
    listed = {one.name: one.address for one in servers}
    pickers = {
        name: Picker(
            logs=logs, name=f"picker-{name}", endpoints=listed, config=yaml.safe_load(POLICIES[name].config)
        )
        for name in POLICIES_HERE
        if name != ROUND_ROBIN
    }
    # One request on a connection: llama.cpp closes it after a stream, having promised the opposite.
    envoys = {
        name: Envoy(
            logs=logs,
            name=f"envoy-{name}",
            servers=addresses,
            picker=None if name == ROUND_ROBIN else pickers[name].address,
            listeners={name: ROUTES.get(name, Listener(route=Route.ORIGINAL_DST))},
            requests_per_connection=1,
        )
        for name in POLICIES_HERE
    }
    parts = (*servers, *pickers.values(), *envoys.values())
    with held_back():
        for part in parts:
            stack.callback(part.stop)
            part.launch()
    for part in parts:
        part.wait_ready()
    return servers, {name: envoy.url(name) for name, envoy in envoys.items()}


class SideBySide:
    """One run of the command."""

    def __init__(self, given: argparse.Namespace) -> None:
        self._given = given
        self.turns: Turns | None = None
        self.rate = 0.0

    async def play(self, servers: Sequence[LlamaServer], urls: Mapping[str, str]) -> None:
        given = self._given
        self.rate = given.rate or await calibrate([Target.parse(one.url) for one in servers])
        print(f"{self.rate:.1f} requests/s", file=sys.stderr, flush=True)
        self.turns = Turns(
            names=list(urls),
            servers=[await greeted(server(url, model="bench")) for url in urls.values()],
            workload=find(WORKLOAD),
            settings=Settings(
                seconds=given.seconds,
                salt=secrets.token_hex(4),
                rate=self.rate,
                rounds=given.rounds,
                warm_up=given.seconds / given.rounds / 3,
            ),
            options=Options(timeout_seconds=60.0, served_by_header=SENT_TO),
        )
        try:
            await self.turns.play()
        finally:
            names = {one.address: one.name for one in servers}
            for stretch in itertools.chain.from_iterable(self.turns.played):
                for request in stretch.requests:
                    address = request.sample.served_by
                    request.sample.served_by = names.get(address or "", address)

    def report(self, stopped: str) -> Report | None:
        """None: nothing was asked."""
        turns = self.turns
        if turns is None or not any(_asked(each) for each in turns.played):
            return None
        workload, settings = turns.workload, turns.settings
        found = Report(
            command="python -m bench.side_by_side" + _flags(self._given),
            version=importlib.metadata.version("fleet-epp"),
            date=f"{datetime.now(UTC):%Y-%m-%d}",
            workload=workload.name,
            about=workload.about,
            asked=f"{self.rate:.1f} requests/s for {settings.seconds:g} s each",
            asked_rate=self.rate,
            rounds=settings.rounds,
            warm_up=settings.warm_up,
            seed=settings.seed,
            salt=settings.salt,
            objective=Objective(),
            contenders=turns.contenders(),
            stopped=stopped or turns.stopped,
        )
        found.count()
        return found


def _asked(stretches: Sequence[Stretch]) -> bool:
    return any(each.requests for each in stretches)


def goals(report: Report) -> Table:
    by_name = {one.name: one for one in report.found}
    rows = [goal.row(by_name[OURS], by_name[goal.other]) for goal in GOALS]
    return Table("Goals", ["figure", "goal", "found", "reached"], rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 0 played, whatever the figures."""
    given = _arguments(arguments)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    terminate_is_interrupt()
    prog = "bench.side_by_side"
    try:
        claim(given.out, force=given.force)
    except ConfigError as problem:
        print(f"{prog}: {problem}", file=sys.stderr)
        return 2
    logs = Path(tempfile.mkdtemp(prefix="fleet-epp-side-by-side-"))
    made, status, stopped = SideBySide(given), 1, ""
    try:
        with ExitStack() as stack:
            servers, urls = house(stack, logs)
            interruptible(made.play(servers, urls))
        status = 0
    except KeyboardInterrupt:
        status, stopped = 130, "interrupted"
    except (RigError, Unreachable) as problem:
        print(f"{prog}: {problem}; the logs are in {logs}", file=sys.stderr)
    found = made.report(stopped)
    if found is not None:
        _show(found, given)
    if status != 1:
        shutil.rmtree(logs, ignore_errors=True)
    return status


def _show(found: Report, given: argparse.Namespace) -> None:
    reports.write(found, given.out)
    text = "\n\n".join([goals(found).markdown(), reports.markdown(found)])
    print(text)
    if given.into:
        paste(text, given.into, "side-by-side")


def _flags(given: argparse.Namespace) -> str:
    flags = f" --seconds {given.seconds:g} --rounds {given.rounds}"
    return flags + (f" --rate {given.rate:g}" if given.rate else "")


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.side_by_side", description=__doc__.partition("\n")[0]
    )
    add = parser.add_argument
    add("--seconds", type=float, default=240.0, help="of load for each policy (240)")
    add("--rounds", type=int, default=8, help="in which the policies take turns (8)")
    add("--rate", type=float, help="requests/s; else half of what the servers can do")
    add("--out", type=Path, default=Path(".build/bench/side-by-side"), metavar="DIR", help="for the report")
    add("--force", action="store_true", help="replace a report that is in DIR")
    add("--into", type=Path, metavar="PAGE", help="put the tables into this page as well")
    given = parser.parse_args(arguments)
    if not (3 <= given.seconds <= 3_600 and 1 <= given.rounds <= 100 and (given.rate or 1) > 0):
        parser.error("--seconds must be 3 to 3600, --rounds 1 to 100, --rate above 0")
    return given


if __name__ == "__main__":
    sys.exit(main())
