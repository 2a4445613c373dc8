"""The demo's course: real parts, three stretches of load, one death.

Place:   started by bench.demo.__main__; writes the board, tells the audience what happens.
Ignores: how things are shown.
Rule:    nothing waits for effect. What follows something waits until that was observed, with a deadline;
         load is open: it comes when it is due, whatever became of the requests before.
"""

import asyncio
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import yaml

from bench.demo.board import Board, Fault, Phase
from bench.demo.interrupt import held_back
from bench.demo.talk import CONTEXT, FEW_TURNS, SIZE, SLOTS, at_once, calibrate, conversations
from bench.demo.watch import Watch
from bench.load import Call, Options, Sample, Target, clock, open_loop
from bench.rig.envoy import SENT_TO, Envoy, Listener, Route
from bench.rig.llama import LlamaServer
from bench.rig.model import model_file
from bench.rig.picker import Picker
from bench.rig.process import RigError

CONFIG = Path(__file__).with_name("picker.yaml")
LISTENERS = {
    "original_dst": Listener(route=Route.ORIGINAL_DST),  # as Envoy AI Gateway programs it
    "round_robin": Listener(route=Route.ROUND_ROBIN),
}
PODS, MAC = ("pod-1", "pod-2"), "mac"
HOST_NAME = "localhost"
"""As the list names the Mac: a machine under a desk, in no cluster; the pods have addresses."""

SEED, SEED_AFTER = 1, 2
KILL_AT, DEAD_FOR = 0.2, 0.3
"""Of the last stretch of load: when the server is killed, and how long it stays dead."""
GRACE_SECONDS = 20.0
"""How much longer than planned the last stretch may last until the returned server has answered."""
OPTIONS = Options(timeout_seconds=20.0, served_by_header=SENT_TO)


class Audience(Protocol):
    """Who watches."""

    def say(self, text: str) -> None:
        """Something happened."""


@dataclass(frozen=True, slots=True)
class Stage:
    """All parts, running."""

    servers: Sequence[LlamaServer]
    picker: Picker
    envoy: Envoy

    def target(self, listener: str) -> Target:
        return Target.parse(self.envoy.url(listener))


def set_up(stack: ExitStack, logs: Path) -> Stage:
    """Start everything at once; the stack ends it."""
    model_file(SIZE)  # here, not in each server's start
    servers = [
        LlamaServer(logs=logs, name=name, size=SIZE, slots=SLOTS, context=CONTEXT) for name in (*PODS, MAC)
    ]
    config: Mapping[str, Any] = yaml.safe_load(CONFIG.read_text())
    picker = Picker(logs=logs, endpoints=[_listed(server) for server in servers], config=config)
    envoy = Envoy(
        logs=logs,
        servers=[server.address for server in servers],
        picker=picker.address,
        listeners=LISTENERS,
        requests_per_connection=1,  # else now and then a 503 of llama.cpp's making
    )
    parts = (*servers, picker, envoy)
    with held_back():
        for part in parts:
            stack.callback(part.stop)
            part.launch()
    for part in parts:
        part.wait_ready()
    return Stage(servers, picker, envoy)


def _listed(server: LlamaServer) -> dict[str, Any]:
    """Its entry in the picker's list."""
    entry = {"name": server.name, "port": server.port}
    if server.name == MAC:
        return {**entry, "address": HOST_NAME, "engine": "llamacpp", "labels": {"site": "desk"}}
    return {**entry, "address": "127.0.0.1", "labels": {"site": "cluster"}}


async def play(stage: Stage, board: Board, audience: Audience, seconds: float) -> None:
    """The whole course; ``seconds`` of load."""
    third = seconds / 3
    watch = Watch(stage.picker, board)
    async with watch.looking():
        board.rate = await calibrate([Target.parse(server.url) for server in stage.servers])
        audience.say(f"calibrated: {board.rate:.1f} requests/s in all three stretches")
        await _fresh(stage)
        await _load(stage, board, Phase("round_robin", "round robin", "round_robin", third), SEED)
        # What the servers hold in their caches now would be a present to whoever comes next.
        await _fresh(stage)
        audience.say("new server processes again; to the picker they have to warm up")
        await _ready(board, watch)
        await _load(stage, board, Phase("picker", "picker, same load", "original_dst", third), SEED)
        await _load_with_fault(stage, board, watch, audience, third)


# --- load ----------------------------------------------------------------------------------------


async def _load(stage: Stage, board: Board, phase: Phase, seed: int) -> None:
    board.phases.append(phase)
    phase.started = clock()
    await open_loop(
        stage.target(phase.listener),
        conversations(seed, at_once(board.rate * phase.seconds)),
        rate=board.rate,
        seconds=phase.seconds,
        rng=random.Random(seed),
        options=OPTIONS,
        on_sample=phase.samples.append,
    )
    phase.is_over = True


async def _load_with_fault(
    stage: Stage, board: Board, watch: Watch, audience: Audience, seconds: float
) -> None:
    phase = Phase("fault", "picker, the Mac dies", "original_dst", seconds)
    victim = next(server for server in stage.servers if server.name == MAC)
    board.phases.append(phase)
    phase.started = clock()
    end = phase.started + seconds

    def on_sample(sample: Sample) -> None:
        phase.samples.append(sample)
        fault = board.fault
        if fault is not None and fault.returned is None and _shows_return(fault, sample):
            fault.returned = sample.ended
            audience.say(f"{fault.name} answers requests again")

    def is_over() -> bool:
        return clock() >= end and board.fault is not None and board.fault.returned is not None

    # Short conversations, so that there are new ones for the server that returns with nothing cached.
    calls = conversations(SEED_AFTER, at_once(board.rate * seconds), turns=FEW_TURNS)
    async with asyncio.TaskGroup() as group:
        group.create_task(_kill_and_return(board, watch, audience, victim, phase), name="fault")
        await open_loop(
            stage.target(phase.listener),
            _until(calls, is_over),
            rate=board.rate,
            seconds=seconds + GRACE_SECONDS,
            rng=random.Random(SEED_AFTER),
            options=OPTIONS,
            on_sample=on_sample,
        )
    # the last answer may be younger than the last look
    await watch.until(lambda: not board.is_out(victim.name), deadline=clock() + GRACE_SECONDS)


def _shows_return(fault: Fault, sample: Sample) -> bool:
    began = fault.started_again
    return sample.ok and sample.served_by == fault.address and began is not None and sample.due >= began


def _until(calls: Iterator[Call], is_over: Callable[[], bool]) -> Iterator[Call]:
    for call in calls:
        if is_over():
            return
        yield call


async def _kill_and_return(
    board: Board, watch: Watch, audience: Audience, victim: LlamaServer, phase: Phase
) -> None:
    assert phase.started is not None
    await _sleep_until(phase.started + KILL_AT * phase.seconds)
    pid = victim.pid
    fault = board.fault = Fault(victim.name, victim.address, killed=clock())
    return_at = fault.killed + DEAD_FOR * phase.seconds
    watch.hurry()
    await asyncio.to_thread(victim.kill)
    audience.say(f"kill -9 {pid}: {victim.name} is dead")
    await watch.until(lambda: fault.seen_down is not None, deadline=return_at)
    if fault.seen_down is not None:
        after = (fault.seen_down - fault.killed) * 1e3
        audience.say(f"{victim.name} is down, says the picker at a look after {after:.0f} ms")
    await _sleep_until(return_at)
    fault.started_again = clock()
    await asyncio.to_thread(victim.start)
    fault.loaded = clock()
    seconds_to_load = fault.loaded - fault.started_again
    audience.say(f"{victim.name} is started again, model loaded in {seconds_to_load:.2f} s")


async def _sleep_until(moment: float) -> None:
    await asyncio.sleep(max(0.0, moment - clock()))


async def _fresh(stage: Stage) -> None:
    """New server processes with empty caches."""
    for server in stage.servers:
        server.kill()
        server.launch()
    for server in stage.servers:
        await asyncio.to_thread(server.wait_ready)


async def _ready(board: Board, watch: Watch) -> None:
    """The picker has seen that the servers are there, and let them warm up."""
    began = clock()

    def all_ready() -> bool:
        return board.looked_at > began and all(board.state(name) == "ready" for name in board.servers)

    if not await watch.until(all_ready, deadline=began + GRACE_SECONDS):
        raise RigError(f"not every server is ready to the picker {GRACE_SECONDS:g} s after their start")
