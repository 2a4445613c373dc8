"""Kubernetes objects kept up to date: lists, watches, and everything that ends one.

The API here is an object of the test that keeps the rules of the real one; that the real one keeps them is
shown in tests/system/test_kubernetes.py.
"""

import asyncio
import datetime as dt
import itertools
import json
import logging
import random
import subprocess
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from epp.config.cluster.objects import Pod
from epp.config.cluster.wishes import Wish
from epp.core.directives import Directives
from epp.core.fleet import EndpointSpec
from epp.runtime.errors import StartError
from epp.runtime.kubernetes import discovery, following
from epp.runtime.kubernetes.api import KubernetesApi, Resource
from epp.runtime.kubernetes.discovery import KubernetesDiscovery, KubernetesSettings, selected
from epp.runtime.kubernetes.following import LONGEST_PAUSE, LONGEST_RECHECK, Following, Pauses
from epp.runtime.kubernetes.namespace import Namespaces
from epp.runtime.kubernetes.store import ApiFault, Expired, Store, lists
from epp.runtime.metrics import Values
from epp.runtime.tls import self_signed
from tests.runtime.raw_server import Peer, RawServer, Serve, answer, answering, eventually, serving

Object = dict[str, Any]


class Api:
    """What the tests need of an API server. ``change`` as kubectl would; faults are what it answers."""

    address = "https://kubernetes.test"

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Object]] = {}
        """By path and name."""
        self.fault: Exception | None = None
        """Of every question."""
        self.faults: dict[str, Exception] = {}
        """By path."""
        self.asked: list[tuple[str, str, Mapping[str, str]]] = []
        self.oldest = 0
        """Versions before this one are forgotten."""
        self.is_open = False
        self._version = 100
        self._history: list[tuple[int, str, bytes]] = []
        self._lines: dict[str, list[list[bytes]]] = {}
        """By path, what each watch has yet to be told beside the history."""
        self._news = asyncio.Event()
        self._era = 0

    # --- what Following asks

    async def open(self) -> None:
        self.is_open = True

    async def close(self) -> None:
        self.is_open = False

    async def fetch(self, path: str, query: Mapping[str, str]) -> bytes:
        self._ask("list", path, query)
        items = list(self.objects.get(path, {}).values())
        return json.dumps({"metadata": {"resourceVersion": str(self._version)}, "items": items}).encode()

    async def watch(self, path: str, query: Mapping[str, str]) -> AsyncGenerator[list[bytes], None]:
        self._ask("watch", path, query)
        since, era = int(query["resourceVersion"]), self._era
        if since < self.oldest:
            raise Expired("too old resource version")
        own: list[bytes] = []
        self._lines.setdefault(path, []).append(own)
        yield []
        while True:
            fresh = [one for one in self._history if one[0] > since and one[1] == path]
            fresh = fresh if self._era == era else []  # a watch that has ended skips no event
            lines, own[:] = [*(line for _, _, line in fresh), *own], []
            since = fresh[-1][0] if fresh else since
            if lines:
                yield lines
            elif self._era != era:
                return
            else:
                await self._news.wait()

    def _ask(self, verb: str, path: str, query: Mapping[str, str]) -> None:
        self.asked.append((verb, path, query))
        if fault := self.faults.get(path, self.fault):
            raise fault

    # --- what a test does

    def change(self, resource: Resource, document: Object) -> None:
        """Create or replace."""
        path, name = resource.path("models"), document["metadata"]["name"]
        known = self.objects.setdefault(path, {})
        self._tell("MODIFIED" if name in known else "ADDED", path, document)
        known[name] = document

    def delete(self, resource: Resource, name: str) -> None:
        path = resource.path("models")
        self._tell("DELETED", path, self.objects[path].pop(name))

    def tell(self, resource: Resource, line: bytes) -> None:
        """A line of every watch that there is."""
        for lines in self._lines.get(resource.path("models"), ()):
            lines.append(line)
        self._wake()

    def end_watches(self) -> None:
        """As the API does after a while, and a broken connection."""
        self._era += 1
        self._wake()

    def forget(self) -> None:
        """All versions there were: one that nobody was told is the oldest now."""
        self._version += 1
        self.oldest = self._version
        self._history.clear()
        self.end_watches()

    def _tell(self, kind: str, path: str, document: Object) -> None:
        self._version += 1
        document["metadata"]["resourceVersion"] = str(self._version)
        line = json.dumps({"type": kind, "object": document}).encode()
        self._history.append((self._version, path, line))
        self._wake()

    def _wake(self) -> None:
        self._news, news = asyncio.Event(), self._news
        news.set()

    def count(self, verb: str, resource: Resource) -> int:
        return sum(asked[:2] == (verb, resource.path("models")) for asked in self.asked)


PODS = Resource("pods", "", "v1")
POOLS = Resource("inferencepools", "inference.networking.k8s.io", "v1")
SLICES = Resource("endpointslices", "discovery.k8s.io", "v1")
SERVICES = Resource("inferenceservices", "inference.llmkube.dev", "v1alpha1")
MODELS = Resource("models", "inference.llmkube.dev", "v1alpha1")
AWAY = ApiFault(0, "no answer from https://kubernetes.test: Connection refused")


def pod(name: str, ip: str = "10.0.0.1", **labels: str) -> Object:
    return {
        "metadata": {"name": name, "namespace": "models", "labels": labels},
        "status": {"phase": "Running", "podIP": ip, "conditions": [{"type": "Ready", "status": "True"}]},
    }


def pool(*, slices: str = "", port: int = 8000) -> Object:
    return {
        "metadata": {
            "name": "qwen",
            "namespace": "models",
            "annotations": {"fleet-epp.dev/endpoint-slices": slices},
        },
        "spec": {"selector": {"matchLabels": {"app": "qwen"}}, "targetPorts": [{"number": port}]},
    }


def mac(name: str = "phi", beat: str = "2025-11-21T10:00:00Z") -> Object:
    return {
        "metadata": {
            "name": name,
            "namespace": "models",
            "labels": {"llmkube.ai/inference-service": name},
            "annotations": {"llmkube.ai/agent-heartbeat": beat},
        },
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["192.168.1.20"], "conditions": {"ready": True}}],
        "ports": [{"name": "http", "port": 50123}],
    }


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    make_quick(monkeypatch)


def make_quick(patch: pytest.MonkeyPatch) -> None:
    """Tries are a round of the loop apart."""
    for name in ("FIRST_PAUSE", "LONGEST_PAUSE", "FIRST_RECHECK", "LONGEST_RECHECK"):
        patch.setattr(following, name, 0.0)


# --- one kind ---------------------------------------------------------------------------------------


@asynccontextmanager
async def followed(api: Api, query: dict[str, str] | None = None) -> Any:
    """Pods, followed."""
    loop = asyncio.get_running_loop()
    found = Following(
        api,  # type: ignore[arg-type]
        *(PODS, Pod, "models", lambda: None),
        clock=loop.time,
        chance=random.Random(1),
    )
    found.select({} if query is None else query)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(found.run())
        yield found
        task.cancel()


async def test_a_list_then_what_changes() -> None:
    api = Api()
    api.change(PODS, pod("a"))
    async with followed(api) as pods:
        await eventually(lambda: set(pods.objects) == {"a"})
        api.change(PODS, pod("b"))
        await eventually(lambda: set(pods.objects) == {"a", "b"})
        api.change(PODS, pod("b", "10.0.0.9"))
        await eventually(lambda: pods.objects["b"].status.pod_ip == "10.0.0.9")
        api.delete(PODS, "a")
        await eventually(lambda: set(pods.objects) == {"b"})
    assert api.count("list", PODS) == 1
    assert pods.fault is None and pods.is_listed


async def test_a_watch_that_ends_goes_on_from_where_it_was() -> None:
    api = Api()
    async with followed(api) as pods:
        await eventually(lambda: api.count("watch", PODS) == 1)
        api.change(PODS, pod("a"))
        await eventually(lambda: "a" in pods.objects)
        api.end_watches()
        await eventually(lambda: api.count("watch", PODS) == 2)
        assert api.asked[-1][2]["resourceVersion"] == "101"
        api.change(PODS, pod("b"))
        await eventually(lambda: "b" in pods.objects)
    assert api.count("list", PODS) == 1


async def test_a_bookmark_is_what_the_next_watch_goes_on_from() -> None:
    api = Api()
    async with followed(api):
        await eventually(lambda: api.count("watch", PODS) == 1)
        api.tell(PODS, b'{"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "170"}}}')
        api.end_watches()
        await eventually(lambda: api.count("watch", PODS) == 2)
    assert api.asked[-1][2]["resourceVersion"] == "170"
    assert api.asked[-1][2]["allowWatchBookmarks"] == "true"


@pytest.mark.parametrize("how", ["at once", "in the stream"])
async def test_a_version_that_is_forgotten_leads_to_a_list(how: str) -> None:
    api = Api()
    api.change(PODS, pod("a"))
    async with followed(api) as pods:
        await eventually(lambda: "a" in pods.objects)
        del api.objects[PODS.path("models")]["a"]  # whoever watches is never told
        if how == "at once":
            api.forget()
        else:
            api.tell(PODS, b'{"type": "ERROR", "object": {"code": 410, "message": "too old"}}')
        await eventually(lambda: pods.objects == {})
        await eventually(lambda: pods.fault is None)
    assert api.count("list", PODS) == 2


async def test_what_was_told_stays_while_the_api_is_away() -> None:
    api = Api()
    api.change(PODS, pod("a"))
    async with followed(api) as pods:
        await eventually(lambda: "a" in pods.objects)
        api.fault = AWAY
        api.end_watches()
        await eventually(lambda: pods.faults["pods"] >= 5)
        assert (set(pods.objects), pods.fault) == ({"a"}, AWAY)
        api.fault = None
        await eventually(lambda: pods.fault is None)
    assert api.count("list", PODS) == 1


@pytest.mark.parametrize("status, lists", [(403, 2), (404, 2), (504, 2), (429, 1), (500, 1)])
async def test_who_may_not_watch_sees_changes_by_listing(status: int, lists: int) -> None:
    api = Api()
    async with followed(api) as pods:
        await eventually(lambda: api.count("watch", PODS) == 1)
        api.tell(PODS, json.dumps({"type": "ERROR", "object": {"code": status, "message": "no"}}).encode())
        await eventually(lambda: api.count("watch", PODS) == 2)
        assert pods.fault is None, "it goes on"
    assert api.count("list", PODS) == lists


@pytest.mark.parametrize("line", [b"", b"{", b"[]", b'{"type": "ADDED"}', b'{"type": "ADDED", "object": 1}'])
async def test_a_line_that_is_no_event_ends_the_watch_only(line: bytes) -> None:
    api = Api()
    async with followed(api) as pods:
        await eventually(lambda: api.count("watch", PODS) == 1)
        api.tell(PODS, line)
        api.change(PODS, pod("a"))
        await eventually(lambda: pods.faults["pods"] > 0)
        api.forget()
        await eventually(lambda: "a" in pods.objects)


@pytest.mark.parametrize("fault", [None, AWAY], ids=["a-list", "a-fault"])
async def test_those_who_cannot_wait_share_one_try(fault: ApiFault | None) -> None:
    """A hundred pools that start together ask for what they have in common once."""
    api = Api()
    api.fault, fetch = fault, api.fetch

    async def slow(path: str, query: Mapping[str, str]) -> bytes:
        await asyncio.sleep(0)
        return await fetch(path, query)

    api.fetch = slow  # type: ignore[method-assign]
    pods = Following(
        api,  # type: ignore[arg-type]
        *(PODS, Pod, "models", lambda: None),
        clock=asyncio.get_running_loop().time,
        chance=random.Random(1),
    )
    pods.select({})
    await asyncio.gather(*(pods.first() for _ in range(100)))
    assert api.count("list", PODS) == 1 and pods.is_listed is (fault is None)
    await pods.first()
    assert api.count("list", PODS) == (1 if fault is None else 2), "who comes later tries again"


async def test_another_selection_is_another_list() -> None:
    api = Api()
    api.change(PODS, pod("a"))
    async with followed(api, {"labelSelector": "app=a"}) as pods:
        await eventually(lambda: "a" in pods.objects)
        api.objects[PODS.path("models")] = {"b": pod("b")}
        pods.select({"labelSelector": "app=a"})
        assert api.count("list", PODS) == 1, "the same"
        assert pods.is_selected
        pods.select({"labelSelector": "app=b"})
        assert set(pods.objects) == {"a"} and not pods.is_selected, "until the others are listed"
        await eventually(lambda: set(pods.objects) == {"b"})
        assert pods.is_selected
        assert api.asked[-1][2]["labelSelector"] == "app=b"
        pods.select(None)
        assert pods.objects == {} and pods.is_told and not pods.is_listed
        before = len(api.asked)
        pods.select({})
        await eventually(lambda: set(pods.objects) == {"b"})
        assert len(api.asked) > before


@pytest.mark.parametrize("fault", [None, AWAY], ids=["a list", "a fault"])
async def test_an_answer_that_comes_when_nobody_asks_any_more_is_forgotten(fault: ApiFault | None) -> None:
    """Else the slices of an annotation that has gone would stay endpoints for ever."""
    api, is_asked, arrives = Api(), asyncio.Event(), asyncio.Event()
    api.change(PODS, pod("a"))
    api.fault = fault
    answer = api.fetch

    async def late(path: str, query: Mapping[str, str]) -> bytes:
        is_asked.set()
        await arrives.wait()
        return await answer(path, query)

    api.fetch = late  # type: ignore[method-assign]
    async with followed(api) as pods:
        await is_asked.wait()
        arrives.set()
        pods.select(None)
        await asyncio.sleep(0)
        assert pods.objects or pods.fault, "it came"
        await eventually(lambda: not pods.objects and pods.fault is None and not pods.is_listed)


async def test_a_first_list_that_comes_late_does_not_undo_what_was_heard_since() -> None:
    api, is_asked, arrives = Api(), asyncio.Event(), asyncio.Event()
    api.change(PODS, pod("a"))
    answer = api.fetch

    async def late(path: str, query: Mapping[str, str]) -> bytes:
        body = await answer(path, query)
        if not is_asked.is_set():
            is_asked.set()
            await arrives.wait()
        return body

    api.fetch = late  # type: ignore[method-assign]
    async with asyncio.TaskGroup() as group, followed(api) as pods:
        first = group.create_task(pods.first())
        await is_asked.wait()
        await eventually(lambda: api.count("watch", PODS) == 1)
        api.delete(PODS, "a")
        await eventually(lambda: pods.objects == {})
        arrives.set()
        await first
        assert pods.objects == {}


async def test_again_lists_again() -> None:
    api = Api()
    async with followed(api) as pods:
        await eventually(lambda: api.count("watch", PODS) == 1)
        pods.again()
        await eventually(lambda: api.count("list", PODS) == 2)


def test_pauses_grow_to_a_limit_and_begin_anew_with_another_kind_of_failure() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(following, "FIRST_PAUSE", 0.1)
        patch.setattr(following, "LONGEST_PAUSE", LONGEST_PAUSE)
        patch.setattr(following, "FIRST_RECHECK", 1.0)
        patch.setattr(following, "LONGEST_RECHECK", LONGEST_RECHECK)
        pauses = Pauses(random.Random(1))
        away = [pauses.after(AWAY, lasted=0.0) for _ in range(20)]
        assert 0.07 <= away[0] <= 0.1
        assert 0.7 * LONGEST_PAUSE <= min(away[8:]) <= max(away[8:]) <= LONGEST_PAUSE
        refused = [pauses.after(ApiFault(403, "no"), lasted=0.0) for _ in range(20)]
        assert 0.7 <= refused[0] <= 1.0
        assert 0.7 * LONGEST_RECHECK <= min(refused[8:]) <= max(refused[8:]) <= LONGEST_RECHECK
        assert pauses.after(None, lasted=200.0) == 0.0
        assert pauses.after(None, lasted=0.0) > 0, (
            "an API that ends every watch at once is not asked all the time"
        )
        assert pauses.after(AWAY, lasted=200.0) <= 0.1


# --- the store --------------------------------------------------------------------------------------


def event(kind: str, document: Any) -> bytes:
    return json.dumps({"type": kind, "object": document}).encode()


def listed(*documents: Any) -> bytes:
    return json.dumps({"metadata": {"resourceVersion": "7"}, "items": documents}).encode()


def test_an_object_that_cannot_be_read_keeps_what_it_was() -> None:
    store = Store(Pod)
    store.take_list(listed(pod("a"), pod("b")))
    broken = {"metadata": {"name": "a", "resourceVersion": "8"}, "status": {"podIP": 5}}
    assert store.take_event(event("MODIFIED", broken)), "to be said"
    assert not store.take_event(event("MODIFIED", broken)), "once"
    assert set(store.objects) == {"a", "b"}
    assert store.unreadable == {"a": "Expected `str | null`, got `int` - at `$.status.podIP`"}
    assert store.version == "8"
    store.take_list(listed(broken, pod("b")))
    assert set(store.objects) == {"a", "b"} and set(store.unreadable) == {"a"}
    assert store.take_event(event("MODIFIED", pod("a", "10.0.0.7")))
    assert store.unreadable == {}


def test_one_that_could_never_be_read_is_not_there() -> None:
    store = Store(Pod)
    broken = {"metadata": {"name": "a"}, "status": []}
    store.take_list(listed(broken, pod("b")))
    assert set(store.objects) == {"b"} and set(store.unreadable) == {"a"}
    assert store.take_event(event("DELETED", broken))
    assert store.unreadable == {}


def test_an_event_that_changes_nothing_that_counts_is_no_change() -> None:
    """A heartbeat every 30 s of a thousand objects must not be a thousand lists."""
    store = Store(Pod)
    store.take_list(listed(pod("a")))
    same = pod("a")
    same["metadata"]["managedFields"] = [{"manager": "kubelet"}]
    assert not store.take_event(event("MODIFIED", same))


def stopping(document: Object) -> Object:
    return {**document, "metadata": {**document["metadata"], "deletionTimestamp": "2025-11-21T10:00:00Z"}}


@pytest.mark.parametrize(
    "kind, changed, is_pressing",
    [
        pytest.param("MODIFIED", pod("a", size="m"), False, id="a-label"),
        pytest.param("MODIFIED", stopping(pod("a")), True, id="told-to-stop"),
        pytest.param("MODIFIED", {**pod("a"), "status": {"podIP": "10.0.0.1"}}, True, id="not-ready"),
        pytest.param("MODIFIED", pod("a", "10.0.0.2"), True, id="elsewhere"),
        pytest.param("DELETED", pod("a"), True, id="gone"),
        pytest.param("ADDED", pod("b", "10.0.0.2"), True, id="another"),
    ],
)
def test_some_changes_press(kind: str, changed: Object, is_pressing: bool) -> None:
    store = Store(Pod, lambda one: (one.serves, one.status.pod_ip))
    store.take_list(listed(pod("a")))
    store.is_pressing = False
    assert store.take_event(event(kind, changed))
    assert store.is_pressing is is_pressing


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"{}", b'{"metadata": {}, "items": [1]}'])
def test_a_list_that_is_none_is_a_fault(body: bytes) -> None:
    with pytest.raises(ApiFault, match="the list is not understood"):
        Store(Pod).take_list(body)


changes = st.lists(
    st.tuples(
        st.sampled_from(["put", "delete", "list", "bookmark"]), st.sampled_from("abc"), st.integers(1, 9)
    ),
    max_size=30,
)


@given(changes=changes)
def test_events_on_top_of_a_list_are_what_the_api_has(changes: Sequence[tuple[str, str, int]]) -> None:
    store, there, version = Store(Pod), dict[str, Object](), 1
    store.take_list(listed())
    for what, name, number in changes:
        version += 1
        document = pod(name, f"10.0.0.{number}")
        document["metadata"]["resourceVersion"] = str(version)
        if what == "put":
            known = there.get(name)
            changed = store.take_event(event("MODIFIED" if known else "ADDED", document))
            ip = known["status"]["podIP"] if known else None
            there[name] = document
            assert changed or ip == f"10.0.0.{number}"
        elif what == "delete" and name in there:
            del there[name]
            assert store.take_event(event("DELETED", document))
        elif what == "bookmark":
            bookmark = {"metadata": {"resourceVersion": str(version)}}
            assert not store.take_event(event("BOOKMARK", bookmark))
        else:
            store.take_list(listed(*there.values()))
        told = {name: one.status.pod_ip for name, one in store.objects.items()}
        assert told == {name: one["status"]["podIP"] for name, one in there.items()}


@given(line=st.binary(max_size=200) | st.sampled_from([b"null", b'{"type": 3}', event("ADDED", {})]))
def test_no_line_is_worse_than_a_fault(line: bytes) -> None:
    store = Store(Pod)
    store.take_list(listed(pod("a")))
    with pytest.raises((ApiFault, Expired)):
        store.take_event(line)
    assert set(store.objects) == {"a"}


# --- whatever happens -------------------------------------------------------------------------------

steps = st.lists(
    st.sampled_from(
        ["put a", "put b", "delete", "end", "forget", "away", "back", "refuse", "garbage", "rest"]
    ),
    max_size=25,
)


@settings(max_examples=60, deadline=None)
@given(steps=steps)
def test_whatever_happens_in_the_end_it_is_as_the_api_has_it(steps: Sequence[str]) -> None:
    async def play() -> None:
        api, number = Api(), 0
        async with followed(api) as pods:
            for step in steps:
                number += 1
                match step.split():
                    case ["put", name]:
                        api.change(PODS, pod(name, f"10.0.{number}.1"))
                    case ["delete"] if known := api.objects.get(PODS.path("models")):
                        api.delete(PODS, min(known))
                    case ["end"]:
                        api.end_watches()
                    case ["forget"]:
                        api.forget()
                    case ["away"]:
                        api.fault = AWAY
                        api.end_watches()
                    case ["refuse"]:
                        api.fault = ApiFault(403, "no")
                        api.end_watches()
                    case ["back"]:
                        api.fault = None
                    case ["garbage"]:
                        api.tell(PODS, b"\x00")
                        api.forget()
                    case ["rest"]:
                        await asyncio.sleep(0)
            api.fault = None
            there = api.objects.get(PODS.path("models"), {})
            expected = {name: one["status"]["podIP"] for name, one in there.items()}

            def is_so() -> bool:
                told = {name: one.status.pod_ip for name, one in pods.objects.items()}
                return told == expected and pods.fault is None and bool(pods.is_listed)

            await eventually(is_so)

    with pytest.MonkeyPatch.context() as patch:
        make_quick(patch)
        asyncio.run(play())


# --- a pool -----------------------------------------------------------------------------------------


class World:
    """An API, a clock, and all that discovery has told."""

    def __init__(self, **settings: Any) -> None:
        self.directives = Directives(random.Random(2))
        self.now = 1_763_719_200.0  # 2025-11-21T10:00:00Z
        self.told: list[dict[str, str]] = []
        self.specs: dict[str, EndpointSpec] = {}
        clock = asyncio.get_running_loop().time
        self.namespaces: Namespaces = settings.pop("namespaces", None) or Namespaces(
            Api(),  # type: ignore[arg-type]
            group=settings.pop("group", POOLS.group),
            clock=clock,
            chance=random.Random(1),
        )
        self.api: Api = self.namespaces.api  # type: ignore[assignment]
        self.discovery = KubernetesDiscovery(
            self.namespaces.at("models"),
            KubernetesSettings(**{"pool": "qwen", "start_timeout": 10.0, **settings}),
            self._take,
            title="qwen",
            directives=self.directives,
            voice=self.namespaces.voice,
            clock=clock,
            unix_clock=lambda: self.now,
        )

    def _take(self, specs: Sequence[EndpointSpec]) -> None:
        self.specs = {spec.name: spec for spec in specs}
        self.told.append({spec.name: spec.address for spec in specs})

    @asynccontextmanager
    async def running(self) -> Any:
        await self.api.open()
        await self.discovery.start()
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(each.run()) for each in (self.namespaces, self.discovery)]
            await asyncio.sleep(0)  # it has begun
            yield self
            for task in tasks:
                task.cancel()
        self.discovery.close()
        assert not self.api.is_open


@pytest.fixture
async def world() -> World:
    return World()


async def test_the_whole_pool_is_there_after_the_start(world: World) -> None:
    world.api.change(POOLS, pool(slices="fleet=macs"))
    world.api.change(PODS, pod("a"))
    world.api.change(SLICES, mac())
    await world.discovery.start()
    assert world.told == [{"a-rank-0": "10.0.0.1:8000", "phi": "192.168.1.20:50123"}]
    assert world.discovery.detail() == ""
    selected = {path.rpartition("/")[2]: query for verb, path, query in world.api.asked if verb == "list"}
    assert selected["inferencepools"] == {}, "all: two may claim one pod"
    assert selected["pods"] == {"labelSelector": "app=qwen"}
    assert selected["endpointslices"] == {"labelSelector": "fleet=macs"}
    assert selected["inferenceservices"] == {}, "phi is LLMKube's"


async def test_nothing_is_told_before_there_is_a_pool(world: World) -> None:
    async with world.running():
        assert world.told == []
        assert world.discovery.detail() == (
            "InferencePool models/qwen is not there: create it, or see --pool-name, --pool-namespace"
        )
        world.api.change(PODS, pod("a"))
        world.api.change(POOLS, pool())
        await eventually(lambda: world.told == [{"a-rank-0": "10.0.0.1:8000"}])
        assert world.discovery.detail() == ""


async def test_an_empty_pool_is_one(world: World) -> None:
    world.api.change(POOLS, pool())
    await world.discovery.start()
    assert world.told == [{}]


@pytest.mark.parametrize("missed", [POOLS, PODS, SLICES], ids=lambda one: one.plural)
async def test_a_start_has_patience_with_an_api_that_is_away(world: World, missed: Resource) -> None:
    """Half a pool would take the load of the whole."""
    world.api.change(POOLS, pool(slices="fleet=macs"))
    world.api.change(PODS, pod("a"))
    world.api.change(SLICES, mac())
    world.api.faults[missed.path("models")] = AWAY
    async with asyncio.TaskGroup() as group:
        start = group.create_task(world.discovery.start())
        await eventually(lambda: world.api.count("list", missed) >= 3)
        assert not start.done() and world.told == []
        world.api.faults.clear()
    assert world.told == [{"a-rank-0": "10.0.0.1:8000", "phi": "192.168.1.20:50123"}]
    assert world.discovery.detail() == ""


@pytest.mark.parametrize("status", [400, 401, 403, 404])
async def test_a_start_does_not_wait_for_people(world: World, status: int) -> None:
    world.api.faults[POOLS.path("models")] = ApiFault(status, "no")
    await world.discovery.start()
    assert world.told == []
    assert world.api.count("list", POOLS) == 1


async def test_a_start_has_no_more_patience_than_it_is_given() -> None:
    world = World(start_timeout=0.05)
    world.api.fault = AWAY
    await world.discovery.start()
    assert world.told == []
    said = "Kubernetes API: no answer from https://kubernetes.test: Connection refused"
    assert world.discovery.detail() == said


async def test_a_start_without_the_api_is_made_up_for() -> None:
    world = World(start_timeout=0.0)
    world.api.fault = AWAY
    async with world.running():
        assert world.told == []
        assert world.discovery.detail() == "", "once is nothing"
        said = "Kubernetes API: no answer from https://kubernetes.test: Connection refused"
        await eventually(lambda: world.discovery.detail() == said)
        world.api.fault = None
        world.api.change(POOLS, pool())
        await eventually(lambda: world.told == [{}])
        await eventually(lambda: world.discovery.detail() == "")


async def test_slices_that_are_refused_do_not_hold_up_the_pods(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "epp.kubernetes")
    refused = ApiFault(403, 'endpointslices is forbidden: User "x" cannot list resource "endpointslices"')
    world.api.faults[SLICES.path("models")] = refused
    world.api.change(POOLS, pool(slices="fleet=macs"))
    world.api.change(PODS, pod("a"))
    async with world.running():
        assert world.told == [{"a-rank-0": "10.0.0.1:8000"}]
        said = (
            'Kubernetes API: endpointslices: endpointslices is forbidden: User "x" cannot list resource'
            ' "endpointslices": grant it as deploy/kubernetes/rbac.yaml does'
        )
        await eventually(lambda: world.discovery.detail() == said)
        tries = world.api.count("list", SLICES)
        await eventually(lambda: world.api.count("list", SLICES) >= tries + 5)
        assert [record.msg for record in caplog.records] == ["pool not as it should be"], "once"
        world.api.faults.clear()
        world.api.change(SLICES, mac())
        await eventually(lambda: "phi" in world.specs)
        await eventually(lambda: caplog.records[-1].msg == "pool: settled")


async def test_pods_that_are_refused_leave_the_pool_unread(world: World) -> None:
    world.api.faults[PODS.path("models")] = ApiFault(403, "no")
    world.api.change(POOLS, pool())
    await world.discovery.start()
    assert world.told == []


async def test_llmkube_is_not_missed_and_found_when_it_comes(world: World) -> None:
    missing = ApiFault(404, "the server could not find the requested resource")
    for resource in (SERVICES, MODELS):
        world.api.faults[resource.path("models")] = missing
    world.api.change(POOLS, pool(slices="fleet=macs"))
    world.api.change(SLICES, mac())
    async with world.running():
        await eventually(lambda: world.api.count("list", SERVICES) >= 2)
        assert world.discovery.detail() == ""
        world.api.faults.clear()
        world.api.change(
            SERVICES,
            {"metadata": {"name": "phi"}, "spec": {"modelRef": "m"}, "status": {"phase": "Suspended"}},
        )
        await eventually(lambda: world.specs["phi"].note == "Suspended")


async def test_llmkube_is_not_asked_where_nothing_is_its_own(world: World) -> None:
    world.api.change(POOLS, pool())
    world.api.change(PODS, pod("a"))
    async with world.running():
        await eventually(lambda: world.api.count("watch", PODS) == 1)
        assert world.api.count("list", SERVICES) == world.api.count("list", MODELS) == 0
        assert world.api.count("list", SLICES) == 0, "nor slices that no annotation names"


async def test_missing_pools_have_a_remedy(world: World) -> None:
    world.api.faults[POOLS.path("models")] = ApiFault(404, "not found")
    said = (
        "Kubernetes API: it has no InferencePools: install the CRDs of GIE v1.0 or newer, or give"
        " --pool-group=inference.networking.x-k8s.io for older ones"
    )
    async with world.running():
        await eventually(lambda: world.discovery.detail() == said)


async def test_a_pool_that_is_not_understood_stays_what_it_was(world: World) -> None:
    world.api.change(POOLS, pool())
    world.api.change(PODS, pod("a"))
    async with world.running():
        broken = pool()
        broken["spec"]["targetPorts"] = [{"number": "eight"}]
        await eventually(lambda: world.api.count("watch", POOLS) == 1)
        world.api.change(POOLS, broken)
        await eventually(lambda: "inferencepools qwen is not understood" in world.discovery.detail())
        assert world.told == [{"a-rank-0": "10.0.0.1:8000"}]


async def test_a_pool_that_was_never_understood_is_there_all_the_same(world: World) -> None:
    broken = pool()
    broken["spec"]["targetPorts"] = [{"number": "eight"}]
    world.api.change(POOLS, broken)
    async with world.running():
        assert world.discovery.detail().startswith("inferencepools qwen is not understood: Expected `int`")
        assert "not there" not in world.discovery.detail()
        world.api.change(POOLS, pool())
        await eventually(lambda: world.told == [{}])


async def test_a_pool_that_selects_nothing_is_empty_and_says_so() -> None:
    """The kinds before v1 let it through."""
    world = World(group=OLD_GROUP)
    nothing = old_pool()
    nothing["spec"]["selector"] = {}
    world.api.change(OLD_POOLS, nothing)
    world.api.change(PICKERS, {"metadata": {"name": "fleet-epp"}})
    world.api.change(PODS, pod("a"))
    async with world.running():
        assert world.told == [{}]
        assert world.discovery.detail() == (
            "InferencePool qwen: its selector is empty, so that no pod belongs to it: name their labels"
        )
        world.api.change(OLD_POOLS, old_pool())
        await eventually(lambda: world.told[-1] == {"a-rank-0": "10.0.0.1:8000"})
        await eventually(lambda: world.discovery.detail() == "")


async def test_a_selector_of_slices_that_is_none_is_a_finding(world: World) -> None:
    world.api.faults[SLICES.path("models")] = ApiFault(400, "the API answers 400: unable to parse")
    world.api.change(POOLS, pool(slices="a in (b"))

    def findings() -> float:
        (found,) = [one for one in world.discovery.families() if one.name == "fleet_epp_kubernetes_findings"]
        return float(dict(found.values)["qwen",])

    async with world.running():
        await eventually(lambda: findings() == 1.0)
        world.api.faults.clear()
        await eventually(lambda: findings() == 0.0)


async def test_a_pod_that_is_told_to_stop_does_not_wait_for_the_end_of_a_rest(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests would go there meanwhile. Lists take 5 ms here, and rests as long as they may be: an hour."""
    clock = itertools.count(step=0.005)
    monkeypatch.setattr(world.discovery, "_clock", lambda: next(clock))
    monkeypatch.setattr(discovery, "REST", 1_000_000)
    monkeypatch.setattr(discovery, "LONGEST_REST", 3_600.0)
    world.api.change(POOLS, pool())
    pods = [pod(f"pod-{number}", f"10.0.0.{number}") for number in range(3)]
    for one in pods:
        world.api.change(PODS, one)

    def leaving() -> set[str]:
        return {name for name, spec in world.specs.items() if spec.leaving}

    async with world.running():
        for number, one in enumerate(pods):
            world.api.change(PODS, stopping(one))
            await eventually(lambda name=f"pod-{number}-rank-0": name in leaving())


async def test_a_pod_of_two_pools_is_told_unless_this_process_serves_both(world: World) -> None:
    other = pool()
    other["metadata"]["name"] = "phi"
    world.api.change(POOLS, pool())
    world.api.change(POOLS, other)
    world.api.change(PODS, pod("a", app="qwen"))
    beside = World(pool="phi", namespaces=world.namespaces)
    said = "pod a belongs to InferencePool phi as well"
    async with world.running():
        assert (world.told, world.discovery.detail()) == ([{"a-rank-0": "10.0.0.1:8000"}], "")
        beside.discovery.close()
        world.api.change(PODS, pod("b"))
        await eventually(lambda: said in world.discovery.detail())


@pytest.mark.parametrize(
    "wish", [Wish(namespace="models", service="all"), Wish(namespace="models", name="phi")]
)
async def test_a_pod_of_a_pool_that_is_about_to_be_served_is_not_told(wish: Wish, world: World) -> None:
    other = pool()
    other["metadata"]["name"] = "phi"
    other["spec"]["endpointPickerRef"] = {"name": "all", "port": {"number": 9002}}
    world.api.change(POOLS, pool())
    world.api.change(POOLS, other)
    world.api.change(PODS, pod("a", app="qwen"))
    world.namespaces.at("models").wishes.append(wish)
    await world.discovery.start()
    assert (world.told, world.discovery.detail()) == ([{"a-rank-0": "10.0.0.1:8000"}], "")


async def test_a_heartbeat_grows_old_without_any_event(world: World) -> None:
    world.api.change(POOLS, pool(slices="fleet=macs"))
    world.api.change(SLICES, mac())
    await world.discovery.start()
    assert world.specs["phi"].note == ""
    world.now += 180.0
    async with asyncio.TaskGroup() as group:
        task = group.create_task(world.discovery.run())
        await eventually(lambda: world.specs["phi"].note.startswith("no heartbeat"))
        world.api.change(SLICES, mac(beat="2025-11-21T10:03:00Z"))
        await eventually(lambda: world.specs["phi"].note == "")
        task.cancel()


async def test_what_is_told_is_told_once(world: World) -> None:
    world.api.change(POOLS, pool(slices="fleet=macs"))
    world.api.change(SLICES, mac())
    async with world.running():
        await eventually(lambda: world.api.count("watch", SLICES) == 1)
        world.api.change(SLICES, mac(beat="2025-11-21T10:00:01Z"))
        world.api.change(PODS, pod("a"))
        await eventually(lambda: "a-rank-0" in world.specs)
        assert len(world.told) == 2


async def test_sighup_asks_for_everything_again(world: World) -> None:
    kinds = (
        *(POOLS, PICKERS, PODS, SLICES, SERVICES, MODELS),
        *(OBJECTIVES, OLD_OBJECTIVES, REWRITES, OLD_REWRITES),
    )
    named = pool(slices="fleet=macs")
    named["spec"]["endpointPickerRef"] = {"name": "fleet-epp", "port": {"number": 9002}}
    world.api.change(POOLS, named)
    world.api.change(SLICES, mac())
    async with world.running():
        await eventually(lambda: all(world.api.count("watch", kind) == 1 for kind in kinds))
        world.namespaces.reread()
        world.discovery.reread()
        await eventually(lambda: all(world.api.count("list", kind) == 2 for kind in kinds))
        world.discovery.recheck("studio.local")


async def test_a_pool_that_is_followed_no_more_leaves_nothing_behind(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "epp.kubernetes")
    namespace = world.namespaces.at("models")
    await world.discovery.start()
    assert "qwen is not there" in world.discovery.detail()
    world.discovery.close()
    assert not namespace.listeners and not namespace.served["qwen"]
    await World(namespaces=world.namespaces).discovery.start()
    said = [record.message for record in caplog.records]
    assert said == ["pool not as it should be"] * 2, "nothing was settled, and it is told anew"


async def test_a_pool_that_nobody_expects_is_not_missed() -> None:
    world = World(is_expected=False)
    await world.discovery.start()
    assert (world.told, world.discovery.detail()) == ([], "")


async def test_half_a_pool_is_not_told_while_the_other_half_is_on_its_way() -> None:
    world = World(start_timeout=0.05)
    world.api.change(POOLS, pool(slices="fleet=macs"))
    world.api.change(PODS, pod("a"))
    world.api.change(SLICES, mac())
    fetch, is_there = world.api.fetch, asyncio.Event()

    async def late(path: str, query: Mapping[str, str]) -> bytes:
        if path == SLICES.path("models"):
            await is_there.wait()
        return await fetch(path, query)

    world.api.fetch = late  # type: ignore[method-assign]
    async with world.running():
        assert world.told == []
        is_there.set()
        await eventually(lambda: set(world.specs) == {"a-rank-0", "phi"})
        assert len(world.told) == 1


async def test_what_it_tells_prometheus() -> None:
    world = World(start_timeout=0.0)
    world.api.change(POOLS, pool())
    waiting = pod("a")
    del waiting["status"]["podIP"], waiting["status"]["conditions"]
    world.api.change(PODS, waiting)
    world.api.fault = AWAY

    def told() -> dict[str, dict[tuple[str, ...], Any]]:
        families = itertools.chain(world.discovery.families(), world.namespaces.families())
        return {family.name: dict(family.values) for family in families if isinstance(family, Values)}

    async with world.running():
        await eventually(lambda: told()["fleet_epp_kubernetes_current"] == {("qwen",): 0.0})
        assert told()["fleet_epp_kubernetes_faults_total"][("inferencepools",)] >= 2.0
        assert told()["fleet_epp_kubernetes_faults_total"][("pods",)] == 0.0
        world.api.fault = None
        await eventually(lambda: world.told == [{}])
        await eventually(lambda: world.discovery.detail() == "pod a: its Ready condition is not True")
        assert told()["fleet_epp_kubernetes_current"] == {("qwen",): 1.0}
        assert told()["fleet_epp_kubernetes_pods_without_address"] == {("qwen",): 1.0}
        assert told()["fleet_epp_kubernetes_findings"] == {("qwen",): 0.0}
        world.api.change(PODS, pod("b", **{"fleet-epp.dev/tier": "first"}))
        await eventually(lambda: told()["fleet_epp_kubernetes_findings"] == {("qwen",): 1.0})
        broken = pool()
        broken["spec"]["targetPorts"] = [{"number": "eight"}]
        world.api.change(POOLS, broken)
        await eventually(lambda: told()["fleet_epp_kubernetes_findings"] == {("qwen",): 2.0})
        assert ("inferenceobjectives.llm-d.ai",) in told()["fleet_epp_kubernetes_faults_total"]


# --- pools of another kind, and none -----------------------------------------------------------------

OLD_GROUP = "inference.networking.x-k8s.io"
OLD_POOLS = Resource("inferencepools", OLD_GROUP, "v1alpha2")
PICKERS = Resource("services", "", "v1")
OBJECTIVES = Resource("inferenceobjectives", "llm-d.ai", "v1alpha2")
OLD_OBJECTIVES = Resource("inferenceobjectives", OLD_GROUP, "v1alpha2")
REWRITES = Resource("inferencemodelrewrites", "llm-d.ai", "v1alpha2")
OLD_REWRITES = Resource("inferencemodelrewrites", OLD_GROUP, "v1alpha2")


def old_pool() -> Object:
    return {
        "metadata": {"name": "qwen", "namespace": "models"},
        "spec": {
            "selector": {"app": "qwen"},
            "targetPortNumber": 8000,
            "extensionRef": {"name": "fleet-epp"},
        },
    }


async def test_a_pool_of_the_older_group_is_followed_where_it_is_asked_for() -> None:
    world = World(group=OLD_GROUP)
    world.api.change(OLD_POOLS, old_pool())
    world.api.change(PICKERS, {"metadata": {"name": "fleet-epp"}})
    world.api.change(PODS, pod("a"))
    async with world.running():
        assert world.told == [{"a-rank-0": "10.0.0.1:8000"}]
        assert world.api.count("list", POOLS) == 0
        assert world.discovery.detail() == ""


async def test_pods_by_a_selector_need_no_pool_and_no_crd() -> None:
    world = World(pool="", members=selected("models", "app in (a,b)", (8000, 8001)))
    world.api.change(PODS, pod("a"))
    async with world.running():
        assert world.told == [{"a-rank-0": "10.0.0.1:8000", "a-rank-1": "10.0.0.1:8001"}]
        await eventually(lambda: world.api.count("watch", PODS) == 1)
        assert {path for _, path, _ in world.api.asked} == {PODS.path("models")}
        queries = [query for verb, _, query in world.api.asked if verb == "list"]
        assert queries == [{"labelSelector": "app in (a,b)"}]
        assert world.discovery.detail() == ""


async def test_a_selector_that_is_none_is_the_flags_fault() -> None:
    world = World(pool="", members=selected("models", "a in (b", (8000,)))
    world.api.faults[PODS.path("models")] = ApiFault(400, "the API answers 400: unable to parse requirement")
    said = (
        "Kubernetes API: pods: the API answers 400: unable to parse requirement: correct --endpoint-selector"
    )
    async with world.running():
        await eventually(lambda: world.discovery.detail() == said)
        assert world.told == []


async def test_a_picker_service_that_is_missing_is_told_until_it_is_there(world: World) -> None:
    named = pool()
    named["spec"]["endpointPickerRef"] = {"name": "fleet-epp", "port": {"number": 9002}}
    world.api.change(POOLS, named)
    world.api.change(PODS, pod("a"))
    async with world.running():
        assert world.told == [{"a-rank-0": "10.0.0.1:8000"}], "it serves all the same"
        assert world.discovery.detail().startswith("InferencePool qwen: there is no Service fleet-epp")
        await eventually(lambda: world.api.count("watch", PICKERS) == 1)
        world.api.change(PICKERS, {"metadata": {"name": "fleet-epp"}})
        await eventually(lambda: world.discovery.detail() == "")


async def test_who_may_not_see_services_does_not_miss_them(world: World) -> None:
    """Upstream's role has no rule for them."""
    named = pool()
    named["spec"]["endpointPickerRef"] = {"name": "fleet-epp", "port": {"number": 9002}}
    world.api.change(POOLS, named)
    world.api.faults[PICKERS.path("models")] = ApiFault(403, "no")
    async with world.running():
        await eventually(lambda: world.api.count("list", PICKERS) >= 3)
        assert world.discovery.detail() == ""


# --- what is asked of requests -----------------------------------------------------------------------


def objective(name: str, priority: int, pool: str = "qwen") -> Object:
    return {
        "metadata": {"name": name, "namespace": "models"},
        "spec": {"poolRef": {"name": pool}, "priority": priority},
    }


def rewrite(target: str, weight: int = 1) -> Object:
    rule = {
        "matches": [{"model": {"value": "qwen"}}],
        "targets": [{"modelRewrite": target, "weight": weight}],
    }
    return {
        "metadata": {"name": "canary", "namespace": "models", "creationTimestamp": "2026-11-21T10:00:00Z"},
        "spec": {"poolRef": {"name": "qwen"}, "rules": [rule]},
    }


async def test_objectives_and_rewrites_are_there_with_the_pool_and_followed(world: World) -> None:
    world.api.change(POOLS, pool())
    world.api.change(OBJECTIVES, objective("chat", 10))
    world.api.change(REWRITES, rewrite("qwen-v1"))
    directives = world.directives
    async with world.running():
        assert world.told == [{}]
        assert directives.priorities == {"chat": 10}
        assert directives.target("qwen", {}) == ("qwen-v1", "canary")
        await eventually(
            lambda: world.api.count("watch", REWRITES) == world.api.count("watch", OBJECTIVES) == 1
        )
        world.api.change(OBJECTIVES, objective("chat", 5))
        await eventually(lambda: directives.priorities == {"chat": 5})
        world.api.change(REWRITES, rewrite("qwen-v2"))
        await eventually(lambda: directives.target("qwen", {})[0] == "qwen-v2")
        world.api.delete(REWRITES, "canary")
        await eventually(lambda: directives.target("qwen", {}) == ("qwen", ""))
        assert world.told == [{}], "endpoints are not told again"


async def test_a_rewrite_that_becomes_unusable_stays_what_it_was(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "epp.kubernetes")
    world.api.change(POOLS, pool())
    world.api.change(REWRITES, rewrite("qwen-v1"))
    async with world.running():
        await eventually(lambda: world.api.count("watch", REWRITES) == 1)
        world.api.change(REWRITES, rewrite("qwen-v2", weight=0))
        await eventually(lambda: "weight must be at least 1, got 0" in world.discovery.detail())
        assert world.directives.target("qwen", {}) == ("qwen-v1", "canary")
        world.api.change(PODS, pod("a"))
        await eventually(lambda: "a-rank-0" in world.specs)
        assert world.directives.target("qwen", {}) == ("qwen-v1", "canary"), "however often it is looked at"
        assert [record.msg for record in caplog.records] == ["pool not as it should be"], "once"
        world.api.change(REWRITES, rewrite("qwen-v2"))
        await eventually(lambda: world.directives.target("qwen", {}) == ("qwen-v2", "canary"))
        await eventually(lambda: world.discovery.detail() == "")


@pytest.mark.parametrize(
    "fault",
    [
        ApiFault(404, "the server could not find the requested resource"),
        ApiFault(403, "the API answers 403: cannot list resource"),
    ],
)
async def test_kinds_that_come_later_win_from_then_on(fault: ApiFault, world: World) -> None:
    """To whom a role says nothing of them the API refuses what it does not even have."""
    for resource in (OBJECTIVES, REWRITES):
        world.api.faults[resource.path("models")] = fault
        world.api.faults[resource.home] = ApiFault(404, "not found")
    world.api.change(POOLS, pool())
    world.api.change(OLD_OBJECTIVES, objective("chat", 1))
    async with world.running():
        await eventually(lambda: world.directives.priorities == {"chat": 1})
        await eventually(lambda: world.api.count("list", OBJECTIVES) >= 3)
        assert world.discovery.detail() == "", "nobody misses them"
        world.api.faults.clear()
        world.api.change(OBJECTIVES, objective("chat", 7))
        await eventually(lambda: world.directives.priorities == {"chat": 7})
        await eventually(
            lambda: "chat of inference.networking.x-k8s.io: passed over" in world.discovery.detail()
        )


async def test_objects_of_the_older_group_count_again_when_the_newer_is_taken_away(world: World) -> None:
    world.api.change(POOLS, pool())
    world.api.change(OLD_OBJECTIVES, objective("chat", 1))
    world.api.change(OBJECTIVES, objective("chat", 7))
    async with world.running():
        assert world.directives.priorities == {"chat": 7}
        await eventually(lambda: world.api.count("watch", OBJECTIVES) == 1)
        world.api.faults[OBJECTIVES.path("models")] = ApiFault(404, "not found")
        world.api.end_watches()
        await eventually(lambda: world.api.count("list", OBJECTIVES) >= 4)
        world.api.change(PODS, pod("a"))
        await eventually(lambda: "a-rank-0" in world.specs)
        assert world.directives.priorities == {"chat": 7}, "an API that comes up knows nothing for a while"
        world.api.faults.clear()
        await eventually(lambda: world.discovery.detail().startswith("InferenceObjective chat of inference"))

        world.api.delete(OBJECTIVES, "chat")  # as the API does before the kind goes
        await eventually(lambda: world.directives.priorities == {})
        world.api.faults[OBJECTIVES.path("models")] = ApiFault(404, "not found")
        world.api.end_watches()
        await eventually(lambda: world.directives.priorities == {"chat": 1})
        assert world.discovery.detail() == ""


@pytest.mark.parametrize("kind", [OBJECTIVES, OLD_REWRITES, SERVICES, MODELS], ids=lambda kind: kind.name)
async def test_kinds_that_are_there_and_refused_are_told(kind: Resource, world: World) -> None:
    world.api.faults[kind.path("models")] = ApiFault(403, "the API answers 403: cannot list them")
    world.api.change(POOLS, pool(slices="fleet=macs"))
    world.api.change(PODS, pod("a"))
    world.api.change(SLICES, mac())
    said = (
        f"Kubernetes API: {kind.name}: the API answers 403: cannot list them: grant it as"
        " deploy/kubernetes/rbac.yaml does"
    )
    async with world.running():
        assert world.told == [{"a-rank-0": "10.0.0.1:8000", "phi": "192.168.1.20:50123"}]
        await eventually(lambda: world.discovery.detail() == said)


async def test_what_is_asked_of_requests_stays_while_there_is_no_pool(world: World) -> None:
    world.api.change(POOLS, pool())
    world.api.change(OBJECTIVES, objective("chat", 10))
    async with world.running():
        assert world.directives.priorities == {"chat": 10}
        await eventually(lambda: world.api.count("watch", POOLS) == 1)
        world.api.delete(POOLS, "qwen")
        await eventually(lambda: "qwen is not there" in world.discovery.detail())
        assert world.directives.priorities == {"chat": 10}
        world.api.change(OBJECTIVES, objective("chat", 7))
        world.api.change(POOLS, pool())
        await eventually(lambda: world.directives.priorities == {"chat": 7})


@pytest.mark.parametrize("port", [8000, "http"], ids=["understood", "not understood"])
async def test_an_objective_about_no_pool_is_told(port: Any, world: World) -> None:
    world.api.change(POOLS, pool())
    other = pool(port=port)
    other["metadata"]["name"] = "phi"
    other["spec"]["selector"]["matchLabels"] = {"app": "phi"}
    world.api.change(POOLS, other)
    world.api.change(OBJECTIVES, objective("theirs", 1, pool="phi"))
    world.api.change(OBJECTIVES, objective("lost", 1, pool="qven"))
    async with world.running():
        assert world.discovery.detail() == (
            "InferenceObjective lost: there is no InferencePool qven: create it or correct poolRef"
        )
        assert world.directives.priorities == {}


@pytest.mark.parametrize(
    "body, is_listed",
    [
        (b'{"resources":[{"name":"inferencepools"},{"name":"inferencepools/status"}]}', True),
        (b'{"resources":[{"name":"other"}]}', False),
        (b'{"resources":[]}', False),
        (b"no list", True),
        (b"{}", True),
    ],
)
def test_what_a_group_lists(body: bytes, is_listed: bool) -> None:
    assert lists(body, "inferencepools") is is_listed


# --- where the API is -------------------------------------------------------------------------------

KUBECONFIG = """\
apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "https://10.1.2.3:6443"}}]
users: [{name: u, user: {token: secret}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
"""


async def opened(environment: Mapping[str, str]) -> str:
    api = KubernetesApi(environment)
    try:
        await api.open()
    finally:
        await api.close()
    return api.address


async def test_a_kubeconfig_says_where_the_api_is(tmp_path: Path) -> None:
    named = tmp_path / "config"
    named.write_text(KUBECONFIG)
    assert await opened({"KUBECONFIG": str(named)}) == "https://10.1.2.3:6443"
    usual = tmp_path / ".kube" / "config"
    usual.parent.mkdir()
    named.rename(usual)
    assert await opened({"HOME": str(tmp_path)}) == "https://10.1.2.3:6443"


@pytest.fixture
def in_a_pod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What kubelet gives a pod; returns its environment."""
    from kubernetes.aio.config import incluster_config

    token, ca = tmp_path / "token", tmp_path / "ca.crt"
    ca.write_bytes(self_signed(dt.datetime.now(dt.UTC)).chain)
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(token))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(ca))
    token.write_text("secret")
    given = {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443"}
    for name, value in given.items():
        monkeypatch.setenv(name, value)  # the client reads them itself
    return {**given, "HOME": str(tmp_path)}


async def test_in_a_pod_its_service_account_is_used(in_a_pod: dict[str, str], tmp_path: Path) -> None:
    usual = tmp_path / ".kube" / "config"
    usual.parent.mkdir()
    usual.write_text(KUBECONFIG)
    assert await opened(in_a_pod) == "https://10.96.0.1:443"


@pytest.mark.parametrize(
    "content, complaint",
    [
        pytest.param(None, r"cannot be read \(No such file or directory\): check the path$", id="no file"),
        pytest.param("a:\n  [", "config is no YAML: line 2: expected the node content", id="no YAML"),
        pytest.param("", "config is no kubeconfig: it has no clusters, users and contexts$", id="empty"),
        pytest.param("a: b", "Expected key current-context", id="something else"),
        pytest.param("clusters: 5", "is no kubeconfig: TypeError", id="no list of clusters"),
    ],
)
async def test_a_kubeconfig_that_is_none_stops_the_start(
    content: str | None, complaint: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "config"
    if content is not None:
        file.write_text(content)
    with pytest.raises(StartError, match=rf"^--pool-name: KUBECONFIG={file}: .*{complaint}") as caught:
        await opened({"KUBECONFIG": str(file)})
    assert "\n" not in str(caught.value) and not caplog.records


async def test_of_several_kubeconfigs_some_may_be_missing(tmp_path: Path) -> None:
    there, missing = tmp_path / "there", tmp_path / "missing"
    there.write_text(KUBECONFIG)
    assert await opened({"KUBECONFIG": f"{missing}:{there}"}) == "https://10.1.2.3:6443"
    with pytest.raises(StartError, match=r"cannot be read \(No such file or directory\): check the path$"):
        await opened({"KUBECONFIG": f"{missing}:{missing}2"})


async def test_without_any_word_of_an_api_there_is_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"set KUBECONFIG, write ~/\.kube/config, or list the servers with"):
        await opened({"HOME": str(tmp_path)})


def test_whoever_lists_the_servers_does_not_wait_for_the_client() -> None:
    """It takes half a second of CPU to import."""
    found = "sorted({'kubernetes', 'aiohttp', 'epp.config.cluster.objects'} & set(sys.modules))"
    told = subprocess.run(
        [sys.executable, "-c", f"import sys, epp.commands.serve; print({found})"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout == "[]\n"


# --- over the wire ----------------------------------------------------------------------------------


class Connected:
    """The client of an API that says what a test wants."""

    def __init__(self, server: RawServer, kubeconfig: Path) -> None:
        self.server = server
        self._kubeconfig = kubeconfig
        self.say_token("first")
        self.api = KubernetesApi({"KUBECONFIG": str(kubeconfig)})

    def say_token(self, token: str) -> None:
        text = KUBECONFIG.replace("https://10.1.2.3:6443", f"http://127.0.0.1:{self.server.port}")
        self._kubeconfig.write_text(text.replace("secret", token))

    async def fetch(self) -> bytes:
        return await self.api.fetch("/api/v1/namespaces/models/pods", {"labelSelector": "a=b,c in (d)"})

    async def watch(self) -> list[list[bytes]]:
        pieces = self.api.watch("/api/v1/namespaces/models/pods", {"resourceVersion": "7"})
        return [lines async for lines in pieces]


@asynccontextmanager
async def connected(serve: Serve, folder: Path) -> AsyncIterator[Connected]:
    async with serving(serve) as server:
        client = Connected(server, folder / "config")
        await client.api.open()
        try:
            yield client
        finally:
            await client.api.close()


def refusal(status: str, message: str) -> bytes:
    return answer(json.dumps({"kind": "Status", "code": 1, "message": message}).encode(), status)


async def test_a_list_is_asked_for_with_selector_and_token(tmp_path: Path) -> None:
    async with connected(answering(answer(b"{}")), tmp_path) as client:
        assert await client.fetch() == b"{}"
        (head,) = client.server.requests
        assert head.startswith(b"GET /api/v1/namespaces/models/pods?labelSelector=a%3Db,c%20in%20(d) ")
        assert b"\r\nauthorization: Bearer first\r\n" in head
        assert b"\r\nUser-Agent: fleet-epp\r\n" in head


async def test_a_token_that_has_run_out_is_read_anew(tmp_path: Path) -> None:
    async def serve(peer: Peer) -> None:
        while (head := await peer.request()) is not None:
            good = b"Bearer second" in head
            await peer.send(answer(b"{}") if good else refusal("401 Unauthorized", "Unauthorized"))

    async with connected(serve, tmp_path) as client:
        client.say_token("second")
        tries = await asyncio.gather(client.fetch(), client.fetch(), return_exceptions=True)
        assert [str(one) for one in tries] == ["the API answers 401: Unauthorized"] * 2
        assert await client.fetch() == b"{}"


async def test_a_configuration_that_has_gone_is_a_fault_like_any_other(tmp_path: Path) -> None:
    async with connected(answering(refusal("401 Unauthorized", "Unauthorized")), tmp_path) as client:
        (tmp_path / "config").unlink()
        with pytest.raises(ApiFault, match="--pool-name: KUBECONFIG=") as caught:
            await client.fetch()
        assert caught.value.status == 401


@pytest.mark.parametrize(
    "sent, status, said",
    [
        (
            refusal("403 Forbidden", 'pods is forbidden: User "x"'),
            403,
            "the API answers 403: pods is forbidden",
        ),
        (answer(b"", "503 Service Unavailable"), 503, "the API answers 503"),
        (
            answer(b"<h1>Bad gateway</h1>", "502 Bad Gateway"),
            502,
            "the API answers 502: <h1>Bad gateway</h1>",
        ),
        (b"nonsense", 0, "no answer from http://127.0.0.1:"),
    ],
)
async def test_whatever_is_no_list_is_a_fault(sent: bytes, status: int, said: str, tmp_path: Path) -> None:
    async def serve(peer: Peer) -> None:
        await peer.request()
        await peer.send(sent)

    async with connected(serve, tmp_path) as client:
        for ask in (client.fetch, client.watch):
            with pytest.raises(ApiFault) as caught:
                await ask()
            assert caught.value.status == status
            assert str(caught.value).startswith(said)


async def test_gone_is_gone_in_a_list_and_in_a_watch(tmp_path: Path) -> None:
    async with connected(answering(refusal("410 Gone", "too old resource version")), tmp_path) as client:
        for ask in (client.fetch, client.watch):
            with pytest.raises(Expired, match="too old resource version"):
                await ask()


async def test_an_api_that_is_not_there_is_said_in_the_same_words_each_time(tmp_path: Path) -> None:
    async with connected(answering(b""), tmp_path) as client:
        await client.server.kill()
        said = set()
        for _ in range(2):
            with pytest.raises(ApiFault) as caught:
                await client.fetch()
            said.add(str(caught.value))
        assert said == {f"no answer from http://127.0.0.1:{client.server.port}: Connection refused"}


async def test_a_defect_of_the_client_is_a_fault_like_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """And told as a defect, once until it is over."""
    defect = RuntimeError("File descriptor 16 is used by transport <TCPTransport closed=False 0x55d0>")

    async def connect(*_: Any, **__: Any) -> None:
        raise defect

    async with connected(answering(answer(b"{}")), tmp_path) as client:
        told = []
        for _ in range(2):
            with monkeypatch.context() as broken:
                broken.setattr(aiohttp.TCPConnector, "connect", connect)
                for ask in (client.fetch, client.watch):
                    with pytest.raises(ApiFault, match=r"^no answer from http://.*: defect: RuntimeError$"):
                        await ask()
            told.append([record.exc_info[1] for record in caplog.records if record.exc_info])
            assert await client.fetch() == b"{}"
        assert told == [[defect], [defect, defect]]


async def test_a_defect_in_the_middle_of_an_answer_is_one_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("the client's own")

    async with connected(answering(answer(b'{"a": 1}\n')), tmp_path) as client:
        monkeypatch.setattr(aiohttp.ClientResponse, "read", broken)
        with pytest.raises(ApiFault, match="defect: RuntimeError"):
            await client.fetch()
        monkeypatch.setattr(aiohttp.StreamReader, "iter_any", broken)
        assert await client.watch() == [[]], "it has begun and broke"
    assert [record.msg for record in caplog.records] == ["defect while asking the Kubernetes API"]


async def test_a_defect_where_a_configuration_is_read_anew_is_one_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kubernetes.aio import config

    async def broken(**_: Any) -> None:
        raise RuntimeError("the client's own")

    async with connected(answering(refusal("401 Unauthorized", "Unauthorized")), tmp_path) as client:
        monkeypatch.setattr(config, "load_kube_config", broken)
        with pytest.raises(ApiFault, match="defect: RuntimeError"):
            await client.fetch()


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


@pytest.mark.parametrize("end", [pytest.param(chunk(b""), id="in order"), pytest.param(b"", id="broken")])
async def test_a_watch_is_lines_however_they_are_cut(end: bytes, tmp_path: Path) -> None:
    async def serve(peer: Peer) -> None:
        await peer.request()
        for piece in (b'{"a":', b' 1}\n{"b": 2}\n\n{"c"', b": 3}\n{half"):
            await peer.send(CHUNKED * (piece == b'{"a":') + chunk(piece))
        await peer.send(end)

    async with connected(serve, tmp_path) as client:
        pieces = await client.watch()
        assert pieces[0] == [], "it has begun"
        assert [line for lines in pieces for line in lines] == [b'{"a": 1}', b'{"b": 2}', b'{"c": 3}']
        assert b"resourceVersion=7&watch=true" in client.server.requests[0]


async def test_a_watch_that_is_left_lets_go_of_its_connection(tmp_path: Path) -> None:
    gone = asyncio.Event()

    async def serve(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED + chunk(b'{"a": 1}\n'))
        await peer.until_gone()
        gone.set()

    async with connected(serve, tmp_path) as client:
        async with aclosing(client.api.watch("/x", {})) as pieces:
            async for lines in pieces:
                if lines:
                    break
        async with asyncio.timeout(10):
            await gone.wait()
