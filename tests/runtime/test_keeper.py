"""Pools that come, move and go while others are served."""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from epp.config.cluster.wishes import PoolName
from epp.runtime import keeper as module
from epp.runtime.errors import StartError
from epp.runtime.keeper import Keeper
from tests.runtime.raw_server import eventually

A, B, C = (PoolName("models", name) for name in "abc")


class APool:
    """Says what is done with it. Streams end when the test says so."""

    def __init__(self, house: "House", name: PoolName) -> None:
        self.house, self.name = house, name
        self.ports: list[int] = []
        self.is_running = self.is_closed = False
        house.made.append(self)

    def bind(self, port: int) -> None:
        if port in self.house.occupied:
            raise StartError(f"--pool: port {port} cannot be bound")
        self.house.occupied.add(port)
        self.ports.append(port)

    async def start(self) -> None:
        if self.name in self.house.slow:
            await self.house.lists_come.wait()
        self.house.started.append(self.name)

    async def run(self) -> None:
        self.is_running = True
        try:
            await asyncio.Event().wait()
        finally:
            self.is_running = False

    async def open(self) -> None:
        assert self.is_running
        if self.ports:
            self.house.open[self.name] = self.ports[-1]

    def refuse_waiting(self) -> None:
        self.house.refused.append(self.name)

    async def leave(self, grace: float, *, but_the_last: bool = False) -> None:
        assert grace == 30.0
        kept = self.ports[-1:] if but_the_last else []
        left, self.ports = self.ports[: len(self.ports) - len(kept)], kept
        self.house.occupied -= {*left}
        if self.house.open.get(self.name) in left:
            del self.house.open[self.name]
        if left:
            self.house.left.append(self.name)
            await self.house.streams_end.wait()

    def close(self) -> None:
        assert not self.is_running and not self.ports
        self.is_closed = True


class House:
    def __init__(self) -> None:
        self.occupied: set[int] = set()
        self.made: list[APool] = []
        self.started: list[PoolName] = []
        self.open: dict[PoolName, int] = {}
        self.refused: list[PoolName] = []
        self.left: list[PoolName] = []
        self.streams_end, self.lists_come = asyncio.Event(), asyncio.Event()
        self.streams_end.set()
        self.slow: set[PoolName] = set()
        self.wanted: Mapping[PoolName, int] = {}
        self.changed = asyncio.Event()
        self.looks = 0
        self.seen = asyncio.Event()
        self.seen.set()
        self.keeper = Keeper(lambda name: APool(self, name), first_look=self._look, grace=30.0)

    async def _look(self) -> None:
        self.looks += 1
        await asyncio.sleep(0)
        await self.seen.wait()

    def want(self, wanted: Mapping[PoolName, int]) -> None:
        self.wanted = wanted
        self.changed.set()

    @asynccontextmanager
    async def running(self, first: Mapping[PoolName, int]) -> AsyncIterator[None]:
        self.wanted = first
        await self.keeper.prepare(first)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(self.keeper.run(lambda: self.wanted, self.changed))
            await self.keeper.is_open.wait()
            yield
            task.cancel()

    async def served(self, wanted: Mapping[PoolName, int]) -> None:
        await eventually(lambda: self.open == wanted)


async def rounds(number: int) -> None:
    """Of the loop: all that can go on does."""
    for _ in range(number):
        await asyncio.sleep(0)


@pytest.fixture
def house() -> House:
    return House()


async def test_pools_come_and_go(house: House) -> None:
    async with house.running({A: 1}):
        assert house.open == {A: 1} and house.looks == 1, "its servers have been looked at"
        house.want({A: 1, B: 2})
        await house.served({A: 1, B: 2})
        house.want({B: 2})
        await house.served({B: 2})
        gone, stays = house.made
        await eventually(lambda: gone.is_closed)
        assert stays.is_running and house.keeper.pools == {B: stays}


async def test_pools_that_a_change_does_not_concern_are_left_alone(house: House) -> None:
    async with house.running({A: 1, B: 2}):
        house.want({A: 1, B: 2, C: 3})
        await house.served({A: 1, B: 2, C: 3})
        assert house.left == []
        house.want({A: 1, C: 4})
        await house.served({A: 1, C: 4})
        await eventually(lambda: house.left == [B, C])
        assert house.started == [A, B, C], "once each"


async def test_a_pool_that_goes_finishes_what_it_has_begun(house: House) -> None:
    house.streams_end.clear()
    async with house.running({A: 1}):
        house.want({})
        await house.served({})
        (pool,) = house.made
        assert house.occupied == set() and pool.is_running, "its port is free, its streams go on"
        house.want({A: 1})
        await house.served({A: 1})
        house.streams_end.set()
        await eventually(lambda: pool.is_closed)
        assert house.keeper.pools == {A: house.made[1]}, "another one, which stays"


async def test_a_pool_that_moves_stays_itself(house: House) -> None:
    async with house.running({A: 1}):
        house.want({A: 5})
        await house.served({A: 5})
        assert len(house.made) == 1 and house.occupied == {5} and house.started == [A]


async def test_a_pool_may_move_again_and_again(house: House) -> None:
    async with house.running({A: 1}):
        for port in (2, 3, 1):
            house.want({A: port})
            await house.served({A: port})
        house.want({A: 1, B: 2})
        await house.served({A: 1, B: 2})
        assert house.keeper.detail() == "" and house.occupied == {1, 2}
        assert house.left == [A, A, A] and len(house.made) == 2, "and nobody moves without need"


async def test_pools_may_change_places(house: House) -> None:
    async with house.running({A: 1, B: 2}):
        house.want({A: 2, B: 1})
        await house.served({A: 2, B: 1})
        assert len(house.made) == 2


async def test_a_pool_leaves_its_port_when_it_has_that_of_one_that_goes(house: House) -> None:
    async with house.running({A: 1, B: 2}):
        house.want({A: 2})
        await house.served({A: 2})
        await eventually(lambda: house.left == [B, A])


async def test_at_the_start_a_port_that_cannot_be_had_is_an_error(house: House) -> None:
    house.occupied.add(1)
    with pytest.raises(StartError, match="port 1 cannot be bound"):
        await house.keeper.prepare({A: 1})
    assert house.made[0].is_closed


async def test_later_it_is_tried_again_and_the_others_go_on(
    house: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "RETRY", 0.01)
    house.occupied.update({7, 8})
    async with house.running({A: 1, B: 2}):
        house.want({A: 7, B: 2, C: 8})
        await eventually(lambda: "models/a" in house.keeper.detail() and "models/c" in house.keeper.detail())
        assert house.open == {A: 1, B: 2}, "it stays where it is until it has the other port"
        house.occupied.discard(8)
        await house.served({A: 1, B: 2, C: 8})
        house.want({A: 1, B: 2, C: 8})
        await house.served({A: 1, B: 2, C: 8})
        await eventually(lambda: house.keeper.detail() == "")
        assert house.left == [], "however often it is tried"
    told = [r.fields["pool"] for r in caplog.records if r.levelno == logging.WARNING]  # type: ignore[attr-defined]
    assert told == ["models/a", "models/c"], "once each, however often it is tried"


async def test_another_port_that_cannot_be_had_is_told_again(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    house.occupied.update({7, 8})
    async with house.running({}):
        for port in (7, 8):
            house.want({A: port})
            await eventually(lambda: f"port {port} " in house.keeper.detail())  # noqa: B023
    told = [r.fields["error"] for r in caplog.records if r.levelno == logging.WARNING]  # type: ignore[attr-defined]
    assert told == ["--pool: port 7 cannot be bound", "--pool: port 8 cannot be bound"]


async def test_a_pool_whose_port_cannot_be_had_leaves_nothing_behind(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RETRY", 0.001)
    house.occupied.add(7)
    async with house.running({}):
        house.want({A: 7})
        await eventually(lambda: len(house.made) > 5)
        assert all(each.is_closed for each in house.made)


async def test_a_pool_whose_lists_are_late_keeps_no_other_waiting(house: House) -> None:
    house.slow.add(B)
    async with house.running({A: 1}):
        house.want({A: 1, B: 2})
        await eventually(lambda: 2 in house.occupied)
        house.want({B: 2, C: 3})
        await house.served({C: 3})
        house.want({B: 5, C: 3})
        await eventually(lambda: 5 in house.occupied and 2 not in house.occupied)
        assert house.open == {C: 3}
        house.lists_come.set()
        await house.served({B: 5, C: 3})


async def test_a_pool_that_goes_before_its_lists_have_come_is_closed(house: House) -> None:
    house.slow.add(B)
    async with house.running({A: 1}):
        house.want({A: 1, B: 2})
        await eventually(lambda: 2 in house.occupied)
        house.want({A: 1})
        await eventually(lambda: house.made[1].is_closed)
        assert house.occupied == {1} and house.started == [A]


async def test_a_pool_that_comes_again_is_served_when_its_own_servers_have_been_looked_at(
    house: House,
) -> None:
    async with house.running({}):
        house.seen.clear()
        house.streams_end.clear()
        house.want({A: 1})
        await eventually(lambda: house.looks == 1)
        house.want({})
        await eventually(lambda: house.occupied == set())
        house.seen.set()
        await rounds(10)  # what goes has been looked at
        house.seen.clear()
        house.want({A: 1})
        await eventually(lambda: house.looks == 2)
        house.want({A: 2})
        await eventually(lambda: house.occupied == {2})
        assert house.open == {}
        house.seen.set()
        await house.served({A: 2})
        house.streams_end.set()


async def test_those_who_wait_in_a_pool_that_goes_are_told(house: House) -> None:
    async with house.running({A: 1, B: 2}):
        house.want({A: 5})
        await house.served({A: 5})
        assert house.refused == [B], "and not those of one that moves"


async def test_who_has_gone_is_not_told_of_the_end(house: House) -> None:
    async with house.running({A: 1, B: 2}):
        house.want({A: 1})
        await eventually(lambda: house.made[1].is_closed)
        house.keeper.refuse_waiting()
        assert house.refused == [B, A], "b when it went"


async def test_at_the_end_all_ports_are_left(house: House) -> None:
    async with house.running({A: 1, B: 2}):
        await house.keeper.leave(30.0)
        assert house.open == {} and house.occupied == set()
        house.want({A: 5, B: 2, C: 3})
        await rounds(10)
        assert house.open == {} and house.occupied == set(), "nothing begins any more"


async def test_the_end_waits_for_those_that_were_going(house: House) -> None:
    house.streams_end.clear()
    async with house.running({A: 1, B: 2, C: 3}):
        house.want({A: 1, C: 4})
        await house.served({A: 1, C: 4})
        house.keeper.refuse_waiting()
        assert house.refused == [B, A, C, B]
        async with asyncio.TaskGroup() as group:
            end = group.create_task(house.keeper.leave(30.0))
            await eventually(lambda: house.open == {})
            assert not end.done(), "b and c have streams on ports that they have left"
            house.streams_end.set()
        assert house.made[1].is_closed


PLANS = st.dictionaries(st.sampled_from([A, B, C]), st.sampled_from([1, 2, 3]), max_size=3).filter(
    lambda plan: len(set(plan.values())) == len(plan)
)
STEPS = st.lists(st.tuples(PLANS, st.booleans()), max_size=6)
"""What is wanted next, and whether that is served before the next change."""


@given(first=PLANS, steps=STEPS)
@settings(max_examples=60)
def test_in_the_end_those_are_served_that_are_wanted(
    first: dict[PoolName, int], steps: list[tuple[dict[PoolName, int], bool]]
) -> None:
    """Whatever was wanted before, and however quickly that changed; of those at rest only who must moves."""

    async def play() -> None:
        house = House()
        async with house.running(first):
            before, is_at_rest = first, True
            for plan, is_served in [*steps, (steps[-1][0] if steps else first, True)]:
                pools, left = dict(house.keeper.pools), len(house.left)
                house.want(plan)
                await asyncio.sleep(0)
                if is_served:
                    await rounds(10)  # what was wanted before may look as if this were served
                    await house.served(plan)
                    await eventually(lambda: house.occupied == {*plan.values()})  # noqa: B023
                if is_at_rest and is_served:
                    unconcerned = {name for name, port in before.items() if plan.get(name) == port}
                    assert unconcerned.isdisjoint(house.left[left:])
                    assert all(house.keeper.pools[name] is pools[name] for name in unconcerned)
                before, is_at_rest = plan, is_served
            kept = house.keeper.pools.values()
            await eventually(lambda: all(each.is_closed is (each not in kept) for each in house.made))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "RETRY", 1e9)  # no port has to be tried again
        asyncio.run(play())
