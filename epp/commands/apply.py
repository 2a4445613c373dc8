"""``epp apply``: make the cluster as files want it; fit for a CI job.

Rule:    what is to be done is shown first, and done when somebody agrees or has agreed (--yes). Nothing is
         deleted without --prune. At the end it is said of everything whether it was done.
"""

import argparse
import asyncio
import signal
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from itertools import count

from epp.commands.comparing import (
    UNREAD,
    Compared,
    Paper,
    add_files,
    compare,
    fault,
    read,
    show,
    sources_of_conflicts,
    summary,
    without_deletions,
)
from epp.commands.listing import api_of
from epp.commands.target import Parser, parsed
from epp.compiler.emission import ROUTES
from epp.config.flags import UsageError
from epp.controller.carrying import Ended, Fate, Report, carry_out
from epp.controller.difference import Step, Verb
from epp.controller.statuses import why_refused
from epp.runtime.errors import StartError
from epp.runtime.kubernetes.store import ApiFault

LOOK_SECONDS = 0.5


def parser() -> Parser:
    """What the command takes."""
    made = Parser(
        "apply",
        "Make the cluster as the files want it: shows the plan, asks, and applies it in the safe order.",
        epilog=(
            "exit status: 0 where everything is as wanted, 1 where something is not, 2 for a mistake on the"
            " command line. It may be run again at any time, also after it was killed."
        ),
    )
    add_files(made)
    made.add_argument(
        "--prune", action="store_true", help="delete what was made for these files and is not wanted any more"
    )
    made.add_argument("--yes", action="store_true", help="do not ask")
    made.add_argument(
        "--partial",
        action="store_true",
        help="apply the rest where an input has an error; what was made of that input before stays",
    )
    made.add_argument("--wait", action="store_true", help="until the gateway has accepted every route")
    made.add_argument(
        "--timeout", type=float, default=60.0, metavar="SECONDS", help="of --wait (default: %(default)g)"
    )
    return made


def run(arguments: Sequence[str]) -> int:
    """The command; returns its exit status."""
    try:
        flags = parsed(parser(), arguments)
        if not flags.yes and not sys.stdin.isatty():
            raise UsageError("nobody can be asked, standard input is no terminal: give --yes")
        signal.signal(signal.SIGINT, signal.default_int_handler)  # epp.__main__ lets it end the process
        return asyncio.run(_applied(flags))
    except UsageError as wrong:
        return fault("apply", wrong, 2)
    except StartError as wrong:
        return fault("apply", wrong, 1)
    except KeyboardInterrupt:
        return fault("apply", "interrupted: run it again to go on", 130)


async def _applied(flags: argparse.Namespace) -> int:
    loaded = read(flags)
    api = api_of(flags)
    await api.open()
    try:
        return await _Apply(
            flags, Paper(sys.stdout, color=flags.color), partial(compare, flags, loaded, api)
        ).go()
    finally:
        await api.close()


class _Apply:
    """``compare``: with the cluster as it is then."""

    def __init__(
        self, flags: argparse.Namespace, paper: Paper, compare: Callable[[], Awaitable[Compared]]
    ) -> None:
        self._flags, self._paper, self._compare = flags, paper, compare

    async def go(self) -> int:
        compared = await self._compare()
        show(compared, self._paper)
        prunes = self._flags.prune or self._flags.prune_all
        found = compared.difference if prunes else without_deletions(compared.difference)
        left = len(compared.difference.steps) - len(found.steps)
        if left:
            self._paper.line(f"{left} not deleted: give --prune")
        if compared.has_errors and not self._flags.partial:
            return fault("apply", "nothing was done: mend the errors, or give --partial to apply the rest", 1)
        if found.steps and not self._flags.yes and not (self._agreed(found.steps) and self._paper.is_read):
            return fault("apply", "nothing was done", 1)
        report = await self._carried_out(compared, found.steps)
        if report.is_whole and any(step.verb is Verb.DELETE for step in found.steps):
            report = await self._closed()
        is_accepted = not report.is_whole or await self._accepted(compared)
        if not (report.is_whole and is_accepted and not compared.has_errors):
            return 1
        return 0 if self._paper.is_read else UNREAD

    async def _closed(self) -> Report:
        """Ports of the picker's Services that were open as long as the pools behind them were there."""
        compared = await self._compare()
        steps = compared.difference.steps
        left = [step for step in steps if step.verb is Verb.CHANGE and step.key[0] == "Service"]
        if left:
            self._paper.line("what was open until the deletions:")
        return await self._carried_out(compared, left)

    def _agreed(self, steps: Sequence[Step]) -> bool:
        self._paper.line(f"do it ({summary(steps)})? only yes is yes:")
        return sys.stdin.readline().strip().lower() == "yes"

    async def _carried_out(self, compared: Compared, steps: Sequence[Step]) -> Report:
        numbers = count(1)

        def tell(ended: Ended) -> None:
            why = f": {ended.why}" if ended.why else ""
            step, sign = ended.step, "+" if ended.fate is Fate.DONE else "-"
            self._paper.line(
                f"[{next(numbers)}/{len(steps)}] {step.verb} {step.title}: {ended.fate}{why}", sign
            )

        blocked = sources_of_conflicts(compared.difference)
        report = await carry_out(steps, compared.cluster, blocked=blocked, on_end=tell)
        if steps:
            counts = Counter(one.fate for one in report.ended)
            told = ", ".join(f"{counts[fate]} {fate}" for fate in Fate if counts[fate])
            self._paper.line(f"{len(steps)} steps: {told}")
        if report.stopped:
            self._paper.line(f"stopped: {report.stopped}: run it again to go on", "-")
        return report

    async def _accepted(self, compared: Compared) -> bool:
        """Whether the gateway serves every route; at once True without --wait."""
        if not self._flags.wait:
            return True
        routes = [one for one in compared.compiled.objects if one.key[0] in ROUTES]
        deadline = time.monotonic() + self._flags.timeout
        while True:
            try:
                refusals = [why_refused(one.key, await compared.cluster.get(one.document)) for one in routes]
            except ApiFault as wrong:
                refusals = [str(wrong)]
            refusals = [one for one in refusals if one]
            if not refusals:
                self._paper.line(f"{len(routes)} routes accepted by the gateway")
                return True
            if time.monotonic() >= deadline:
                for one in refusals:
                    self._paper.line(f"after {self._flags.timeout:g} s: {one}", "-")
                return False
            await asyncio.sleep(LOOK_SECONDS)
