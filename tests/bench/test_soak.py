"""The soak's verdict: what is left is told, and what is not is not; and its client's end of a connection."""

import asyncio
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest

from bench import frames
from bench.frames import Kind, Setting, message
from bench.gateway import STREAM_WINDOW, Gateway, Gone
from bench.soak import PHASES, Counts, State, is_back, verdict
from tests.runtime.raw_server import eventually

RUNS: Any = SimpleNamespace(is_running=True)
ENDED: Any = SimpleNamespace(is_running=False)
BEFORE = State({}, Counter(["accept", "scraper"]), 20, 100.0)


def well() -> Counts:
    return Counts(finished=10, left=Counter(PHASES))


def test_nothing_is_left() -> None:
    assert verdict(well(), BEFORE, BEFORE, RUNS, "") == []
    assert is_back(State({}, Counter(["accept"]), 22, 500.0), BEFORE)


@pytest.mark.parametrize(
    "after, log, picker, told",
    [
        (State({"gauge": 3.0}, BEFORE.tasks, 20, 100.0), "", RUNS, "gauge is 3, not 0"),
        (State({}, BEFORE.tasks + Counter(["late"]), 20, 100.0), "", RUNS, "task left: late (1)"),
        (State({}, BEFORE.tasks, 23, 100.0), "", RUNS, "23 descriptors, 20 before"),
        (State({}, BEFORE.tasks, 20, 149.0), "", RUNS, "149 MiB resident, 100 before"),
        (BEFORE, "Traceback", RUNS, "a traceback in the picker's log"),
        (BEFORE, "", ENDED, "the picker has ended"),
    ],
)
def test_what_is_left_is_told(after: State, log: str, picker: Any, told: str) -> None:
    assert verdict(well(), BEFORE, after, picker, log) == [told]


def test_a_run_in_which_nobody_left_proves_little() -> None:
    counts = well()
    del counts.left["picked"]
    assert verdict(counts, BEFORE, BEFORE, RUNS, "") == ["nobody left when picked"]


def test_what_was_wrong_on_the_way_is_told() -> None:
    counts = well()
    for number in range(100):
        counts.complain(f"wrong answer {number}")
    assert len(verdict(counts, BEFORE, BEFORE, RUNS, "")) == 20


class Pipe(asyncio.Transport):
    """Takes what the gateway's end says."""

    def __init__(self) -> None:
        super().__init__()
        self.said = b""
        self.is_aborted = False

    def write(self, data: Any) -> None:
        self.said += data

    def is_closing(self) -> bool:
        return self.is_aborted

    def abort(self) -> None:
        self.is_aborted = True


def connected(*said: bytes) -> tuple[Gateway, Pipe]:
    gateway, pipe = Gateway(), Pipe()
    gateway.connection_made(pipe)
    gateway.data_received(b"".join(said))
    return gateway, pipe


def payloads(pipe: Pipe, kind: Kind) -> list[bytes]:
    said = frames.FrameReader().feed(pipe.said[len(frames.PREFACE) :])
    return [one.payload for one in said if one.kind == kind]


async def test_a_client_keeps_to_the_server_s_windows() -> None:
    gateway, pipe = connected(frames.settings({Setting.INITIAL_WINDOW_SIZE: 10}))
    call = gateway.open()
    async with asyncio.TaskGroup() as group:
        saying = group.create_task(gateway.say(call, b"x" * 20), name="saying")
        await eventually(lambda: len(b"".join(payloads(pipe, Kind.DATA))) == 10)
        assert not saying.done()
        gateway.data_received(frames.window_update(call.number, 100))
    assert b"".join(payloads(pipe, Kind.DATA)) == message(b"x" * 20)


async def test_a_server_that_does_not_keep_to_ours_is_told() -> None:
    gateway, pipe = connected()
    call = gateway.open()
    for _ in range(STREAM_WINDOW // 16_000 + 1):
        gateway.data_received(frames.data(call.number, bytes(16_000)))
    assert "into a window of" in gateway.fault and pipe.is_aborted


async def test_answers_are_heard_message_by_message() -> None:
    gateway, _ = connected()
    call = gateway.open()
    gateway.data_received(frames.data(call.number, message(b"one") + message(b"two")[:4]))
    assert await gateway.hear(call, 1) == [b"one"]
    gateway.data_received(frames.data(call.number, message(b"two")[4:]) + frames.reset(call.number, 0))
    assert await gateway.hear(call, 5) == [b"one", b"two"], "it is over"


async def test_a_goaway_with_a_reason_is_a_fault_and_a_lost_connection_ends_every_wait() -> None:
    gateway, _ = connected(frames.goaway(0, frames.Error.ENHANCE_YOUR_CALM, b"too much"))
    assert gateway.fault == "GOAWAY: ENHANCE_YOUR_CALM: too much"
    call = gateway.open()
    async with asyncio.TaskGroup() as group:

        async def waits() -> None:
            with pytest.raises(Gone):
                await gateway.hear(call, 1)

        group.create_task(waits(), name="waits")
        await asyncio.sleep(0)
        gateway.connection_lost(None)
    with pytest.raises(Gone):
        gateway.open()
