"""`make chaos`: a fleet whose servers fail at random; then: is anything left, was anybody forgotten?

    python -m bench.fleet_soak [--seconds 1200] [--rate 100] [--seed 1]

Place:   the second part of `make soak`: real Envoy, picker and llama.cpp servers, half of them behind a
         front.
Ignores: how long a fault takes to be noticed: that is what `epp bench failover` is for.
Rule:    every loss is explained by a fault of the server that the picker chose; a healthy server is never
         without a request for longer than a back-off; at the end gauges are 0 and memory is flat.
"""

import argparse
import asyncio
import bisect
import contextlib
import os
import random
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import uvloop

from bench.failover.account import Fate, Request
from bench.failover.front import Mode
from bench.failover.house import CONTEXT, ENVOY_SECONDS, LISTENER
from bench.failover.parts import Front
from bench.failover.play import OPTIONS, Talk, back
from bench.load import Sample, Target, clock, open_loop
from bench.rig.envoy import Envoy, Listener
from bench.rig.llama import LlamaServer
from bench.rig.picker import Picker
from bench.rig.process import RigError, wait_until
from bench.soak import MIB, RELEASE_SECONDS, State, is_back, look

PLAIN, FRONTED = 4, 4
"""Servers that are processes of their own, and endpoints of a front before one more."""
UP_SECONDS, DOWN_SECONDS = 30.0, (0.2, 6.0)
"""Between two faults of a server, on average; how long they last."""
MOST_DOWN = 5
OUT_SECONDS = 35.0
"""A healthy server may be without requests for so long: the longest back-off, 30 s, and being looked at."""
AFTERMATH_SECONDS = 0.5
"""A loss is explained by a fault that ended so long before: who hung answers late."""
RSS_SECONDS, FLAT = 5.0, 0.05
"""How often memory is read, and by which share it may vary over the last three quarters ..."""
FLAT_AFTER = 240.0
"""... of a run of at least so long: a picker that has just started still grows."""
MOST_SECONDS, MOST_RATE = 24 * 3_600.0, 500.0

Act = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Trouble:
    """One fault; ``back`` None: it had not come back by the end."""

    what: str
    struck: float
    back: float | None

    def covers(self, request: Request) -> bool:
        """It explains that the request was lost."""
        end = float("inf") if self.back is None else self.back + AFTERMATH_SECONDS
        return request.ended >= self.struck and request.sent <= end


@dataclass(slots=True)
class Member:
    """One endpoint, what can be done to it, and what was."""

    name: str
    address: str
    faults: dict[str, tuple[Act, Act]]
    """By name, how it is brought about and ended."""
    had: list[Trouble] = field(default_factory=list)


def members(plain: Sequence[LlamaServer], front: Front) -> list[Member]:
    """What can happen to each."""

    def stopped(server: LlamaServer, number: signal.Signals) -> Act:
        return lambda: os.kill(server.pid, number)

    def said(number: int, mode: Mode) -> Act:
        return lambda: front.say(mode, number)

    found = [
        Member(
            server.name,
            server.address,
            {
                "killed": (server.kill, server.start),
                "hung": (stopped(server, signal.SIGSTOP), stopped(server, signal.SIGCONT)),
            },
        )
        for server in plain
    ]
    for number, address in enumerate(front.addresses):
        healed = said(number, Mode.PASSING)
        faults = {mode.value: (said(number, mode), healed) for mode in Mode if mode is not Mode.PASSING}
        found.append(Member(f"front-{number}", address, faults))
    return found


# --- the run -----------------------------------------------------------------------------------------


@dataclass(slots=True)
class Outcome:
    """What is judged."""

    members: list[Member]
    requests: list[Request] = field(default_factory=list)
    rss_mib: list[tuple[float, float]] = field(default_factory=list)
    """Moment and size."""
    began: float = 0.0
    ended: float = 0.0


async def run(picker: Picker, envoy: Envoy, fleet: list[Member], given: argparse.Namespace) -> Outcome:
    """The load, and the faults meanwhile; all servers are well again at the end."""
    outcome, samples = Outcome(fleet, began=clock()), list[Sample]()
    down, over = asyncio.Semaphore(MOST_DOWN), asyncio.Event()
    talk = Talk()
    async with asyncio.TaskGroup() as group:
        troubles = [
            group.create_task(_trouble(one, random.Random(given.seed + number), down, over), name=one.name)
            for number, one in enumerate(fleet)
        ]
        load = open_loop(
            Target.parse(envoy.url(LISTENER)),
            talk,
            rate=given.rate,
            seconds=given.seconds + 60.0,
            options=OPTIONS,
            on_sample=samples.append,
        )
        group.create_task(load, name="load")
        group.create_task(_watch(picker, outcome, samples, over), name="watch")
        await asyncio.sleep(given.seconds)
        over.set()
        await asyncio.wait(troubles)
        outcome.ended = clock()
        talk.is_over = True
    outcome.requests = [Request.of(one) for one in samples]
    return outcome


async def _trouble(
    member: Member, chance: random.Random, down: asyncio.Semaphore, over: asyncio.Event
) -> None:
    """One member's life."""
    while not await _is_over(over, chance.expovariate(1 / UP_SECONDS)):
        async with down:
            what = chance.choice(sorted(member.faults))
            strike, heal = member.faults[what]
            struck = clock()
            await asyncio.to_thread(strike)
            try:
                await _is_over(over, chance.uniform(*DOWN_SECONDS))
            finally:
                await asyncio.shield(asyncio.to_thread(heal))
            member.had.append(Trouble(what, struck, await back(member.address)))


async def _is_over(over: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await over.wait()
    except TimeoutError:
        return False
    return True


async def _watch(picker: Picker, outcome: Outcome, samples: Sequence[Sample], over: asyncio.Event) -> None:
    told = 0.0
    while not await _is_over(over, RSS_SECONDS):
        outcome.rss_mib.append((clock(), picker.rss_bytes() / MIB))
        if clock() - told >= 20:
            told = clock()
            lost = sum(not one.ok for one in samples)
            faults = sum(len(one.had) for one in outcome.members)
            print(
                f"{told - outcome.began:6.0f} s  {len(samples):8,} requests  {lost:6,} lost "
                f"{faults:5} faults  {outcome.rss_mib[-1][1]:6.1f} MiB",
                flush=True,
            )


# --- the verdict -------------------------------------------------------------------------------------


def longest_out(member: Member, outcome: Outcome) -> float:
    """The longest stretch in which the member was well and got no request [s]."""
    sent = sorted(one.sent for one in outcome.requests if one.picked == member.address)
    longest = 0.0
    for begin, end in well(member, outcome):
        within = sent[bisect.bisect_left(sent, begin) : bisect.bisect_right(sent, end)]
        moments = [begin, *within, end]
        longest = max(longest, *(after - before for before, after in pairwise(moments)))
    return longest


def well(member: Member, outcome: Outcome) -> Iterator[tuple[float, float]]:
    """When it had no fault."""
    begin = outcome.began
    for trouble in member.had:
        yield begin, trouble.struck
        if trouble.back is None:
            return
        begin = trouble.back
    yield begin, max(begin, outcome.ended)


def unexplained(outcome: Outcome) -> list[Request]:
    """Lost without a fault of the chosen server, or without one chosen while somebody was well."""
    by_address = {one.address: one for one in outcome.members}
    found = []
    for request in outcome.requests:
        if request.fate is Fate.OK:
            continue
        chosen = by_address.get(request.picked or "")
        blamed = outcome.members if chosen is None else [chosen]
        if not all(any(trouble.covers(request) for trouble in one.had) for one in blamed):
            found.append(request)
    return found


def variation(outcome: Outcome) -> float:
    """By which share of their mean the sizes of the last three quarters differ from it at most."""
    begin = outcome.began + (outcome.ended - outcome.began) / 4
    sizes = [size for moment, size in outcome.rss_mib if moment >= begin]
    if not sizes:
        return 0.0
    mean = sum(sizes) / len(sizes)
    return max(abs(size - mean) for size in sizes) / mean


def verdict(outcome: Outcome, before: State, after: State, log: str) -> list[str]:
    """What should have held and did not."""
    wrong = [f"{name} is {value:g}, not 0" for name, value in after.busy.items()]
    wrong += [f"task left: {name} ({count})" for name, count in (after.tasks - before.tasks).items()]
    strange = unexplained(outcome)
    names = {one.address: one.name for one in outcome.members}
    kinds = Counter(f"{one.error} of {names.get(one.picked or '', 'nobody')}" for one in strange)
    wrong += [f"lost without a fault: {count} times {kind}" for kind, count in kinds.most_common(10)]
    if strange:
        first, last = (edge(one.sent for one in strange) - outcome.began for edge in (min, max))
        wrong.append(f"the first of these was sent after {first:.1f} s, the last after {last:.1f} s")
    for member in outcome.members:
        if (out := longest_out(member, outcome)) > OUT_SECONDS:
            wrong.append(f"{member.name} was well and got nothing for {out:.1f} s")
        wrong += [f"{member.name} did not come back: {one.what}" for one in member.had if one.back is None]
    if outcome.ended - outcome.began >= FLAT_AFTER and variation(outcome) > FLAT:
        wrong.append(f"memory varies by {variation(outcome):.1%} over the last three quarters")
    if "Traceback" in log:
        wrong.append("a traceback in the picker's log")
    return wrong


def summary(outcome: Outcome) -> str:
    """The table at the end."""
    fates = Counter(one.fate for one in outcome.requests)
    faults = Counter(trouble.what for member in outcome.members for trouble in member.had)
    out = max(outcome.members, key=lambda one: longest_out(one, outcome))
    sizes = [size for _, size in outcome.rss_mib] or [0.0]
    rows = [
        ("requests", f"{len(outcome.requests):,}"),
        *((fate.value, f"{fates[fate]:,}") for fate in Fate),
        *((f"fault: {what}", f"{count:,}") for what, count in sorted(faults.items())),
        (f"longest out while well ({out.name}) [s]", f"{longest_out(out, outcome):.1f}"),
        ("MiB resident, least and most", f"{min(sizes):.1f}, {max(sizes):.1f}"),
        ("variation in the last three quarters", f"{variation(outcome):.1%}"),
    ]
    return "\n".join(f"  {name:<44} {value:>12}" for name, value in rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 1 when something did not hold."""
    given = _arguments(arguments)
    logs = Path(tempfile.mkdtemp(prefix="fleet-soak-"))
    status = 1
    try:
        status = _stage(logs, given)
    finally:
        if status:
            print(f"the logs are in {logs}", file=sys.stderr)
        else:
            shutil.rmtree(logs)
    return status


def _stage(logs: Path, given: argparse.Namespace) -> int:
    with contextlib.ExitStack() as life:
        servers = [
            LlamaServer(logs=logs, name=f"llama-{number}", slots=4, context=CONTEXT, cache=0)
            for number in range(PLAIN + 1)
        ]
        front = Front(logs, servers[-1].address, FRONTED)
        fleet = members(servers[:-1], front)
        endpoints = {one.name: one.address for one in fleet}
        picker = Picker(logs=logs, endpoints=endpoints, config=None, tls=False, flags=["--v=0"])
        envoy = Envoy(
            logs=logs,
            servers=list(endpoints.values()),
            picker=picker.address,
            picker_tls=False,
            listeners={LISTENER: Listener(timeout=f"{ENVOY_SECONDS}s")},
            requests_per_connection=1,
        )
        for part in (*servers, front, picker, envoy):
            life.callback(part.stop)
            part.launch()
        for part in (*servers, front, picker, envoy):
            part.wait_ready()
        return _judge(picker, envoy, fleet, given)


def _judge(picker: Picker, envoy: Envoy, fleet: list[Member], given: argparse.Namespace) -> int:
    before = look(picker)
    print(f"{len(fleet)} endpoints, {given.rate:g} requests/s, {given.seconds:g} s", flush=True)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        outcome = runner.run(run(picker, envoy, fleet, given))
    with contextlib.suppress(RigError):  # the verdict says what is left
        wait_until(lambda: is_back(look(picker), before), what="at rest", timeout=RELEASE_SECONDS)
    wrong = verdict(outcome, before, look(picker), picker.log.read_text())
    print(summary(outcome))
    print("\n".join(["", "did not hold:", *(f"  {one}" for one in wrong)]) if wrong else "  nothing is left")
    return int(bool(wrong))


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make chaos", description="A fleet whose servers fail at random.")
    parser.add_argument("--seconds", type=float, default=1_200.0)
    parser.add_argument("--rate", type=float, default=100.0)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args(arguments)
    for name, value, most in (("seconds", given.seconds, MOST_SECONDS), ("rate", given.rate, MOST_RATE)):
        if not 1 <= value <= most:
            parser.error(f"--{name} {value:g}: must be 1 to {most:g}")
    return given


if __name__ == "__main__":
    sys.exit(main())
