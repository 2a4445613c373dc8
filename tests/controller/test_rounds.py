"""Rounds: what they conclude from what is known, and what is told of them."""

import asyncio
import datetime as dt
import itertools
import logging
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from epp.compiler.compile import Compiled
from epp.compiler.documents import Document
from epp.compiler.emission import Emitted
from epp.compiler.intent import Intent
from epp.controller.difference import Key
from epp.controller.events import Events
from epp.controller.fields import Object
from epp.controller.files import Files
from epp.controller.loop import Controller, Parts
from epp.controller.metrics import ControllerMetrics
from epp.controller.pace import Pace
from epp.controller.statuses import Statuses
from epp.runtime.kubernetes.store import ApiFault
from epp.runtime.metrics import Values
from tests.controller.model_api import ModelApi
from tests.controller.objects import OPTIONS, emitted

NOON = dt.datetime(2026, 11, 21, 12, tzinfo=dt.UTC)
LATEST = "last_success_timestamp_seconds"


class Known:
    """Of the cluster: all there is. ``going``: kinds of which only the API says that they go."""

    def __init__(self, api: ModelApi) -> None:
        self.is_complete = self.is_current = True
        self.absent: frozenset[str] = frozenset()
        self.missing: frozenset[str] = frozenset()
        self.going: frozenset[str] = frozenset()
        self.fault: Exception | None = None
        self._api = api

    def live(self) -> dict[Key, dict[str, Any]]:
        return dict(self._api.objects)

    def documents(self) -> list[Document]:
        return []

    def declared(self) -> Sequence[Object]:
        return ()

    def faults_told(self) -> list[str]:
        return []

    def covers(self, _: Key) -> bool:
        return True

    def wrote(self, *_: Any) -> None: ...

    async def confirm(self) -> None:
        if self.fault is not None:
            raise self.fault
        self.absent = self.going


class Leader:
    is_leader = True


class World:
    """A controller among fakes; ``wants`` is what the compiler says from then on."""

    def __init__(self) -> None:
        self.api, self.leader, self.controller = ModelApi(), Leader(), Controller()
        self.known = Known(self.api)
        self.metrics = ControllerMetrics(Counter())
        self.pace = Pace(random.Random(1))
        self._clock = itertools.count(1000)
        self._wanted: tuple[Emitted, ...] = ()
        how: Any = {"today": lambda: NOON, "clock": lambda: 0.0, "chance": random.Random(1)}
        cluster: Any = self.api
        self.parts = Parts(
            watching=self.known,  # type: ignore[arg-type]
            files=Files(self._files, lambda: None),
            cluster=cluster,
            compile=lambda *_, **__: Compiled(self._wanted, (), frozenset(), Intent((), ())),
            statuses=Statuses(cluster, OPTIONS, **how),
            events=Events(cluster, **how),
            metrics=self.metrics,
            leader=self.leader,
            options=OPTIONS,
            clock=lambda: 0.0,
            wall_clock=lambda: float(next(self._clock)),
            chance=random.Random(1),
        )

    def _files(self) -> list[Document]:
        """Others whenever something else is wanted."""
        return [Document({"kind": "Fleet", "metadata": {"name": repr(self._wanted)}})]

    def wants(self, *objects: Emitted) -> None:
        self._wanted = objects

    async def _round(self) -> None:
        await self.parts.files.look()
        await self.controller.round(self.parts, self.pace)

    def round(self) -> None:
        asyncio.run(self._round())

    def names(self) -> set[str]:
        return {f"{kind} {name}" for kind, _, name in self.api.objects}

    def shown(self) -> dict[str, float]:
        """Metrics without labels."""
        families = [one for one in self.metrics.families() if isinstance(one, Values)]
        return {
            one.name.removeprefix("fleet_epp_controller_"): one.values[()]
            for one in families
            if () in one.values
        }


@pytest.fixture
def world() -> World:
    made = World()
    made.wants(emitted("Service", "a"), emitted("HTTPRoute", "chat"))
    made.round()
    assert made.names() == {"Service a", "HTTPRoute chat"} and made.controller.trouble == ()
    return made


def test_what_was_made_for_a_kind_that_is_going_stays(world: World) -> None:
    world.known.going = frozenset({"ModelRouter"})
    world.wants()
    world.round()
    assert world.names() == {"Service a", "HTTPRoute chat"}
    world.known.going = frozenset()
    world.known.absent = frozenset()
    world.round()
    assert world.names() == set()


def test_an_api_that_does_not_say_which_kinds_there_are_has_nothing_deleted(world: World) -> None:
    world.known.fault = ApiFault(0, "no answer")
    world.wants(emitted("Service", "b"))
    world.round()
    assert world.names() == {"Service a", "HTTPRoute chat"}
    assert world.controller.trouble == ("Kubernetes API: no answer",)
    world.known.fault = None
    world.round()
    assert world.names() == {"Service b"} and world.controller.trouble == ()


def test_a_round_on_what_was_known_long_ago_is_no_success(world: World) -> None:
    before = world.shown()[LATEST]
    world.known.is_current = False
    world.round()
    assert world.shown()[LATEST] == before
    world.known.is_current = True
    world.round()
    assert world.shown()[LATEST] > before


def test_a_replica_that_leads_no_longer_tells_of_nothing_but_its_latest_success(world: World) -> None:
    assert world.shown().keys() >= {"conflicts", "queue_depth", LATEST}
    world.leader.is_leader = False
    world.round()
    assert not world.shown().keys() & {"conflicts", "queue_depth"}
    assert LATEST in world.shown()
    labelled = [one for one in world.metrics.families() if one.name.endswith(("_objects", "_findings"))]
    assert [dict(one.values) for one in labelled if isinstance(one, Values)] == [{}, {}]
    world.leader.is_leader = True
    world.round()
    assert world.shown().keys() >= {"conflicts", "queue_depth"}


def test_what_is_neither_wanted_nor_there_is_forgotten(world: World) -> None:
    """Kubernetes' collector deletes what belongs to an object that has gone, before we could."""
    names = [f"chat-{number}" for number in range(5)]
    for name in names:
        world.wants(emitted("HTTPRoute", name))
        world.round()
        world.api.objects.clear()
    world.wants()
    world.round()
    assert world.controller._state.settled == {}


def test_a_defect_of_one_object_does_not_keep_the_others(world: World) -> None:
    create = world.api.create

    async def broken(document: Object) -> Object:
        if document["metadata"]["name"] == "chat":
            raise ZeroDivisionError("chat")
        return await create(document)

    world.api.create = broken  # type: ignore[method-assign]
    world.wants(emitted("Service", "a"), emitted("HTTPRoute", "chat"), emitted("HTTPRoute", "code", "code"))
    world.api.objects.clear()
    world.round()
    assert world.names() == {"Service a", "HTTPRoute code"}
    assert world.controller.trouble == ("create HTTPRoute models/chat: defect: ZeroDivisionError: chat",)


def test_of_a_defect_in_a_task_the_defect_is_told(world: World) -> None:
    def broken() -> list[str]:
        raise ExceptionGroup("unhandled errors in a TaskGroup", [ExceptionGroup("again", [KeyError("kind")])])

    world.known.faults_told = broken  # type: ignore[method-assign]
    world.round()
    assert world.controller.trouble == ("defect: KeyError: 'kind'",)


def test_what_was_made_for_another_gateway_is_told_and_stays(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    left = [dict(emitted(kind, "old").document) for kind in ("Service", "HTTPRoute")]
    for one in left:
        labels = {**one["metadata"]["labels"], "fleet-epp.dev/target": "agentgateway"}
        world.api.put({**one, "metadata": {**one["metadata"], "labels": labels}})
    with caplog.at_level(logging.INFO):
        world.round()
        world.round()
    assert {"Service old", "HTTPRoute old"} <= world.names()
    told = [one.fields for one in caplog.records if one.message == "finding"]  # type: ignore[attr-defined]
    assert [one["code"] for one in told] == ["ObjectOfOtherTarget"]
    assert told[0]["message"] == (
        "HTTPRoute models/old was made for agentgateway, and so was 1 more object: they stay and go on acting"
    )
