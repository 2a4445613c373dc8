"""One repetition of one scenario: load, the fault at its moment, its end, and the account of it all.

Place:   between a House and an Account; bench.failover.__main__ plays the matrix with it.
Ignores: what is expected.
Rule:    the load is open and never waits for anything. The fault's moment is read just before it is
         injected, and recovery is what the victim itself answers, asked past gateway and picker.
"""

import asyncio
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count

from bench.failover.account import Account, Moments, Request, account
from bench.failover.house import ENVOY_SECONDS, House, answers
from bench.failover.scenarios import Scenario
from bench.load import Call, Options, Sample, Target, chat_call, clock, closed_loop, open_loop, text
from bench.rig.envoy import ACCOUNT
from bench.rig.process import RigError

TOKENS = 16
LONG_TOKENS, LONG_SECONDS = 384, 0.1
"""Streams that are open when the fault comes: how long they are, and for how long they are begun before."""
BEFORE_SHARE, AFTER_SHARE = 0.2, 0.4
"""Of a run's time, without the fault and after the victim's return."""
BACK_SECONDS = 20.0
"""Within which a victim must answer again when its fault is over."""
LOOK_SECONDS = 0.01
OPTIONS = Options(timeout_seconds=ENVOY_SECONDS + 5, served_by_header=ACCOUNT)
WARM_REQUESTS, WARM_ROUNDS = 20, 20
_seeds = count()


@dataclass(frozen=True, slots=True)
class Run:
    """One repetition."""

    requests: Sequence[Request]
    """All, in the order in which they were due."""
    moments: Moments
    account: Account
    addresses: dict[str, str]
    """Of the servers, by name."""


async def play(scenario: Scenario, house: House, *, seconds: float, rate: float) -> Run:
    """A run of ``seconds``, and what the victim's return takes longer."""
    target = Target.parse(house.url)
    await _warm_up(target, house)
    samples: list[Sample] = []
    talk = Talk()
    began, struck_at = clock(), house.address
    struck_due = began + BEFORE_SHARE * seconds
    fault_seconds = scenario.fault_share * scenario.longer * seconds
    if scenario.open_streams:
        talk.long_from, talk.long_until = struck_due - LONG_SECONDS, struck_due
    longest = struck_due - began + fault_seconds + BACK_SECONDS + seconds + 30.0
    async with asyncio.TaskGroup() as group:
        load = open_loop(target, talk, rate=rate, seconds=longest, options=OPTIONS, on_sample=samples.append)
        group.create_task(load, name="load")
        await _until(struck_due)
        struck = clock()
        strike = group.create_task(asyncio.to_thread(scenario.strike, house), name="strike")
        try:
            await _until(struck + fault_seconds)
        finally:
            house.over.set()
        await strike
        healing = clock()
        await asyncio.to_thread(scenario.heal, house)
        returned = await back(house.address)
        await _until(clock() + AFTER_SHARE * seconds)
        talk.is_over, ended = True, clock()
    moments = Moments(
        began=began,
        struck=struck,
        healing=healing,
        back=returned,
        ended=ended,
        struck_at=struck_at,
        back_at=house.address,
        can_serve=scenario.can_serve,
    )
    requests = sorted(map(Request.of, samples), key=lambda one: one.due)
    addresses = {"victim": struck_at, "other": house.other.address}
    if house.address != struck_at:
        addresses["victim, moved"] = house.address
    return Run(requests, moments, account(requests, moments), addresses)


class Talk(Iterator[Call]):
    """Short streams, never the same prompt twice: what one server has seen would stay there."""

    def __init__(self) -> None:
        self.is_over = False
        self.long_from = self.long_until = float("inf")

    def __next__(self) -> Call:
        if self.is_over:
            raise StopIteration
        words = text(random.Random(next(_seeds)), 20)
        tokens = LONG_TOKENS if self.long_from <= clock() < self.long_until else TOKENS
        return chat_call([{"role": "user", "content": words}], stream=True, max_tokens=tokens)


async def _warm_up(target: Target, house: House) -> None:
    """Until both servers have answered: the picker knows them and Envoy has met everybody."""
    wanted, met = {house.address, house.other.address}, set[str]()
    for _ in range(WARM_ROUNDS):
        done = await closed_loop(target, Talk(), concurrency=4, requests=WARM_REQUESTS, options=OPTIONS)
        met |= {one.picked or "" for one in map(Request.of, done.samples) if one.error is None}
        if wanted <= met:
            return
    failures = done.summary().failures_by_kind
    raise RigError(
        f"before any fault: {WARM_ROUNDS * WARM_REQUESTS} requests, and the picker chose only"
        f" {', '.join(sorted(met)) or 'nobody'} of {', '.join(sorted(wanted))}; {failures or 'no failures'}"
    )


async def back(address: str, *, within: float = BACK_SECONDS) -> float | None:
    """The first look at which the server there answered."""
    deadline = clock() + within
    while (looked := clock()) < deadline:
        if await asyncio.to_thread(answers, address):
            return looked
        await asyncio.sleep(LOOK_SECONDS)
    return None


async def _until(moment: float) -> None:
    await asyncio.sleep(max(0.0, moment - clock()))
