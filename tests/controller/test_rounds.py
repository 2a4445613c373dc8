"""Rounds: what they conclude from what is known, and what is told of them."""

import asyncio
import datetime as dt
import itertools
import logging
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import pytest

from epp.compiler.compile import Compiled
from epp.compiler.documents import Document
from epp.compiler.emission import Emitted
from epp.compiler.findings import Finding
from epp.compiler.intent import Intent
from epp.controller.difference import Key
from epp.controller.events import Events
from epp.controller.fields import Object
from epp.controller.files import Files, Unreadable
from epp.controller.loop import Controller, Parts
from epp.controller.metrics import ControllerMetrics
from epp.controller.pace import Pace
from epp.controller.statuses import Statuses
from epp.runtime.kubernetes.store import ApiFault
from epp.runtime.metrics import Values
from tests.controller.model_api import ModelApi
from tests.controller.objects import OPTIONS, emitted, foreign, origin
from tests.controller.test_telling import router

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
        self.people: list[Object] = []
        self.told: list[Key] = []
        """What the controller says it has written."""
        self.unseen: set[str] = set()
        """Names of objects that the API has not told of yet."""
        self._api = api

    def live(self) -> dict[Key, dict[str, Any]]:
        return {key: one for key, one in self._api.objects.items() if key[2] not in self.unseen}

    def documents(self) -> list[Document]:
        return []

    def declared(self) -> Sequence[Object]:
        return self.people

    def faults_told(self) -> list[str]:
        return []

    def covers(self, _: Key) -> bool:
        return True

    def wrote(self, key: Key, before: Object | None, result: Object | None) -> None:
        assert self._api.objects.get(key) == result
        self.told.append(key)

    async def confirm(self) -> None:
        if self.fault is not None:
            raise self.fault
        self.absent = self.going


class Leader:
    is_leader = True


class Cluster(ModelApi):
    """It also takes statuses. ``tried``: names of what was to be created."""

    def __init__(self) -> None:
        super().__init__()
        self.statuses: list[Object] = []
        self.fault: ApiFault | None = None
        self.tried: list[str] = []

    async def create(self, document: Object) -> Object:
        self.tried.append(document["metadata"]["name"])
        return await super().create(document)

    async def apply_status(self, document: Object, manager: str, *, force: bool) -> Object:
        if self.fault is not None:
            raise self.fault
        self.statuses.append(document)
        return document


class World:
    """A controller among fakes; ``wants`` is what the compiler says from then on."""

    def __init__(self) -> None:
        self.api, self.leader, self.controller = Cluster(), Leader(), Controller()
        self.broken_file = ""
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
        if self.broken_file:
            raise Unreadable(self.broken_file)
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


def test_what_another_inventory_has_is_told_and_nobody_is_asked_to_cut_it_off(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    theirs = dict(emitted("HTTPRoute", "theirs").document)
    labels = {**theirs["metadata"]["labels"], "fleet-epp.dev/inventory": "default"}
    world.api.put({**theirs, "metadata": {**theirs["metadata"], "labels": labels}})
    world.wants(emitted("HTTPRoute", "theirs"))
    with caplog.at_level(logging.INFO):
        world.round()
    (told,) = [one.fields for one in caplog.records if one.message == "finding"]  # type: ignore[attr-defined]
    assert told["code"] == "ObjectTaken"
    assert told["fix"].startswith("an object has one inventory: put what asks for it into one")


def test_errors_among_the_inputs_are_counted_for_people(world: World) -> None:
    assert world.controller.errors == 0
    world.api.put(foreign("Service", "theirs"))
    world.wants(emitted("Service", "theirs"))
    world.round()
    assert world.controller.errors == 1
    world.leader.is_leader = False
    world.round()
    assert world.controller.errors == 0


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


def test_whoever_does_not_lead_writes_nothing(world: World) -> None:
    world.leader.is_leader = False
    world.wants(emitted("Service", "b"))
    world.known.people = [router(ours=True, claimed=False)]
    world.round()
    assert world.names() == {"Service a", "HTTPRoute chat"} and not world.api.statuses
    world.leader.is_leader = True
    world.round()
    assert world.names() == {"Service b"} and len(world.api.statuses) == 1


def test_whoever_leads_no_longer_at_the_end_writes_no_status(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = world.known.live

    def deposed() -> dict[Key, dict[str, Any]]:
        world.leader.is_leader = False
        return live()

    world.known.people = [router(ours=True, claimed=False)]
    with monkeypatch.context() as patch:
        patch.setattr(world.known, "live", deposed)
        world.round()
    assert not world.api.statuses
    world.leader.is_leader = True
    world.round()
    assert len(world.api.statuses) == 1


def test_nothing_is_written_before_all_is_listed(world: World) -> None:
    world.known.is_complete = False
    world.wants(emitted("Service", "b"))
    world.round()
    assert world.names() == {"Service a", "HTTPRoute chat"}
    world.known.is_complete = True
    world.round()
    assert world.names() == {"Service b"}


def test_what_was_made_of_files_that_were_never_read_stays() -> None:
    """Of a controller that is started again while one of them is broken."""
    world = World()
    fleet, gone = origin("site", kind="Fleet"), origin("gone")
    for one in (emitted("Service", "of-files", fleet), emitted("Service", "left", gone)):
        world.api.put(one.document)
    world.broken_file = "fleet.yaml: line 3: no colon"
    world.round()
    assert world.names() == {"Service of-files"}
    assert world.controller.trouble == ("fleet.yaml: line 3: no colon",)
    world.broken_file = ""
    world.round()
    assert world.names() == set()


# --- success, and what is none ---------------------------------------------------------------------------


def test_with_a_file_that_cannot_be_read_any_more_it_is_no_success(world: World) -> None:
    before = world.shown()[LATEST]
    world.broken_file = "fleet.yaml: line 3: no colon"
    world.round()
    assert world.shown()[LATEST] == before
    world.broken_file = ""
    world.round()
    assert world.shown()[LATEST] > before


def test_with_a_status_that_is_refused_it_is_no_success(world: World) -> None:
    before = world.shown()[LATEST]
    world.known.people = [router(ours=True, claimed=False)]
    world.api.fault = ApiFault(422, "status.gateway: no such field")
    world.round()
    assert world.shown()[LATEST] == before
    (told,) = world.controller.trouble
    assert "no such field" in told
    assert world.controller._due < 10.0, "it is tried again before anything else happens"


def test_with_an_object_that_is_somebody_elses_it_is_no_success(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    before = world.shown()[LATEST]
    world.api.put(foreign("Service", "b"))
    world.wants(emitted("Service", "a"), emitted("HTTPRoute", "chat"), emitted("Service", "b", "code"))
    with caplog.at_level(logging.INFO):
        world.round()
    assert world.shown()[LATEST] == before and world.shown()["conflicts"] == 1
    assert findings(caplog) == [("ObjectTaken", "ModelRouter/models/code")]


def test_its_router_gets_no_route(world: World) -> None:
    world.api.put(foreign("Service", "b"))
    world.wants(
        *(emitted("Service", "a"), emitted("HTTPRoute", "chat"), emitted("Service", "b", "code")),
        *(emitted("HTTPRoute", "code", "code"), emitted("HTTPRoute", "more", "more")),
    )
    world.round()
    assert world.names() == {"Service a", "HTTPRoute chat", "Service b", "HTTPRoute more"}


def test_what_is_taken_as_we_write_is_told_and_not_tried_in_every_round(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.api.put(foreign("Service", "b"))
    world.known.unseen = {"b"}
    world.wants(emitted("Service", "a"), emitted("HTTPRoute", "chat"), emitted("Service", "b", "code"))
    with caplog.at_level(logging.INFO):
        world.round()
        world.round()
    assert world.api.tried.count("b") == 1
    assert findings(caplog) == [("ObjectTaken", "ModelRouter/models/code")]
    assert world.shown()["conflicts"] == 1
    world.wants(emitted("Service", "a"), emitted("HTTPRoute", "chat"))
    world.round()
    assert world.pace._troubles == {}, "for as long as the process lives"


def test_what_is_kept_is_told(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.known.absent = frozenset({"ModelRouter"})
    world.wants(emitted("HTTPRoute", "chat"))
    with caplog.at_level(logging.INFO):
        world.round()
        world.round()
    assert world.names() == {"Service a", "HTTPRoute chat"}
    assert findings(caplog) == [("ObjectKept", "Service/models/a")]


def test_what_is_written_counts_before_the_api_tells_it(world: World) -> None:
    assert world.known.told == [("Service", "models", "a"), ("HTTPRoute", "models", "chat")]
    world.wants(emitted("HTTPRoute", "chat", value=1))
    world.round()
    assert world.known.told[2:] == [("HTTPRoute", "models", "chat"), ("Service", "models", "a")]


# --- what people are told --------------------------------------------------------------------------------


def test_statuses_are_told_what_cannot_be_written_and_which_kinds_there_are_not(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []

    def wanted(*_: Any, **more: Any) -> dict[Key, Any]:
        asked.append(more)
        return {}

    monkeypatch.setattr("epp.controller.loop.wanted_statuses", wanted)
    world.known.missing = frozenset({"InferencePool"})
    world.api.put(foreign("Service", "b"))
    world.wants(
        *(emitted("Service", "a"), emitted("HTTPRoute", "chat"), emitted("Service", "b", "code")),
        emitted("HTTPRoute", "code", "code", "more"),
    )
    world.round()
    (told,) = asked
    assert told["missing"] == {"InferencePool"}
    assert told["errors"] == {
        "ModelRouter/models/code": "Service models/b: it was made by kubectl and has no label"
        " fleet-epp.dev/inventory",
        "ModelRouter/models/more": "create HTTPRoute models/code: something else of ModelRouter/models/code"
        " could not be written",
    }


def test_whoever_is_deposed_while_it_writes_says_nothing_of_it(world: World) -> None:
    world.known.people = [router(ours=True, claimed=False)]
    world.wants(emitted("Service", "b"))
    world.api.limit = world.api.writes
    world.round()
    assert not world.api.statuses and world.names() == {"Service a", "HTTPRoute chat"}
    world.api.limit = None
    world.round()
    assert len(world.api.statuses) == 1


def test_what_is_where_nobody_looks_is_told_and_not_made(
    world: World, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(world.known, "covers", lambda key: key[2] != "b")
    world.wants(emitted("Service", "a"), emitted("HTTPRoute", "chat"), emitted("Service", "b", "code"))
    with caplog.at_level(logging.INFO):
        world.round()
    assert world.names() == {"Service a", "HTTPRoute chat"}
    assert findings(caplog) == [("NamespaceNotWatched", "ModelRouter/models/code")]


def test_only_of_errors_there_are_events(
    world: World, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []

    async def tell(found: Iterable[Finding]) -> None:
        told.extend(one.code for one in found)

    monkeypatch.setattr(world.parts.events, "tell", tell)
    world.known.absent = frozenset({"ModelRouter"})
    world.api.put(foreign("Service", "b"))
    world.wants(emitted("HTTPRoute", "chat"), emitted("Service", "b", "code"))
    with caplog.at_level(logging.INFO):
        world.round()
    assert sorted(code for code, _ in findings(caplog)) == ["ObjectKept", "ObjectTaken"]
    assert told == ["ObjectTaken"]


def findings(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    """Code and object of each that was told."""
    told = [one.fields for one in caplog.records if one.message == "finding"]  # type: ignore[attr-defined]
    return [(one["code"], one["object"]) for one in told]
