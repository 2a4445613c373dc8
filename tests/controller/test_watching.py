"""What is known of the cluster: what has been listed, and what we have written ourselves."""

import asyncio
import datetime as dt
import json
import random
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any

import pytest

from epp.compiler.kinds import Kind, Role, kinds_of
from epp.compiler.marks import Inventory
from epp.compiler.options import Target
from epp.controller.discovery import Discovery
from epp.controller.watching import Watching
from epp.runtime.kubernetes.store import ApiFault
from tests.runtime import virtual

ROUTER = Kind("ModelRouter", "inference.llmkube.dev", ("v1alpha1",), Role.DECLARED)
SLICE = Kind("EndpointSlice", "discovery.k8s.io", ("v1",), Role.DECLARED, "llmkube.ai/inference-service")
SERVICE = Kind("Service", "", ("v1",))
ROUTE = Kind("HTTPRoute", "gateway.networking.k8s.io", ("v1",))
OURS = {"fleet-epp.dev/inventory": "test"}
NOON = dt.datetime(2026, 11, 21, 12, tzinfo=dt.UTC)


class Api:
    """Kinds by path, objects by plural; watches say nothing unless ``tell`` is called."""

    def __init__(self, *kinds: Kind) -> None:
        self.kinds = list(kinds)
        self.objects: dict[str, list[dict[str, Any]]] = {}
        self.going: list[Kind] = []
        self.refused: set[str] = set()
        self.away = False
        self.version = 10
        self.lines: dict[str, asyncio.Queue[bytes]] = {}
        self.asked: list[tuple[str, str]] = []
        """Paths of lists and watches, and by which labels."""

    def _asked(self, path: str) -> list[Kind]:
        """Kinds of the group that ``path`` is of, which is one of them or their list."""
        if self.away:
            raise ApiFault(0, "no answer")
        plural = path.rpartition("/")[2]
        of = [kind for kind in self.kinds if f"{kind.group}/{kind.versions[0]}".lstrip("/") == _group(path)]
        if not any(plural in {kind.versions[0], _plural(kind)} for kind in of):
            raise ApiFault(404, "the server could not find the requested resource")
        return of

    async def fetch(self, path: str, query: Mapping[str, str], *, timeout: Any = None) -> bytes:
        await asyncio.sleep(0.01)
        plural, of = path.rpartition("/")[2], self._asked(path)
        if plural in self.refused:
            raise ApiFault(403, f'cannot list resource "{plural}"')
        if plural.startswith("v1"):
            return json.dumps({"resources": [_served(k, is_going=k in self.going) for k in of]}).encode()
        self.asked.append((path, query.get("labelSelector", "")))
        items = self.objects.get(plural, [])
        return json.dumps({"metadata": {"resourceVersion": str(self.version)}, "items": items}).encode()

    async def watch(self, path: str, query: Mapping[str, str]) -> AsyncGenerator[list[bytes], None]:
        self._asked(path)
        self.asked.append((path, query.get("labelSelector", "")))
        queue = self.lines.setdefault(path.rpartition("/")[2], asyncio.Queue())
        yield []
        while True:
            line = await queue.get()
            if line == b"end":
                return
            yield [line]

    def end(self, plural: str) -> None:
        """Of the watch."""
        self.lines[plural].put_nowait(b"end")

    def tell(self, plural: str, what: str, document: dict[str, Any]) -> None:
        self.lines[plural].put_nowait(json.dumps({"type": what, "object": document}).encode())


def _served(kind: Kind, *, is_going: bool) -> dict[str, Any]:
    verbs = ["delete", "get", "list", "watch"]
    return {"name": _plural(kind), "kind": kind.name, "verbs": verbs if is_going else [*verbs, "create"]}


def _group(path: str) -> str:
    parts = path.strip("/").split("/")
    return parts[1] if parts[0] == "api" else "/".join(parts[1:3])


def _plural(kind: Kind) -> str:
    return f"{kind.name.lower()}s"


def watching(
    api: Api,
    *kinds: Kind,
    wall_clock: Callable[[], float] = lambda: 0.0,
    namespaces: tuple[str, ...] = (),
    discovery: Discovery | None = None,
) -> Watching:
    return Watching(
        *(api, discovery or Discovery(api), kinds),  # type: ignore[arg-type]
        namespaces=namespaces,
        inventory=Inventory("test"),
        changed=lambda: None,
        clock=virtual.now,
        wall_clock=wall_clock,
        chance=random.Random(1),
    )


async def until(condition: Any, *, within: float = 60.0) -> None:
    async with asyncio.timeout(within):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.1)


def made(name: str, version: int, **spec: Any) -> dict[str, Any]:
    meta = {
        "name": name,
        "namespace": "llm",
        "uid": f"u-{name}",
        "resourceVersion": str(version),
        "labels": OURS,
    }
    return {"metadata": meta, "spec": spec}


def test_nothing_is_complete_before_all_is_listed_and_a_kind_may_come_later() -> None:
    async def story() -> None:
        api = Api(SERVICE)
        api.refused = {"services"}
        watch = watching(api, SERVICE, ROUTE, ROUTER)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(watch.run())
            await until(watch.faults_told)
            assert watch.faults_told() == ['Kubernetes API: cannot list resource "services"']
            assert not watch.is_complete
            api.refused = set()
            await until(lambda: watch.is_complete)
            assert (watch.missing, watch.absent) == ({"HTTPRoute"}, {"ModelRouter"})
            api.kinds += [ROUTE, ROUTER]
            await until(lambda: not watch.missing and not watch.absent, within=6.0)
            await until(lambda: watch.is_complete)
            task.cancel()

    virtual.run(story())


def test_a_kind_is_missing_as_soon_as_somebody_has_asked() -> None:
    """A write that finds nothing there asks, before it is looked at again."""

    async def story() -> None:
        api = Api(SERVICE, ROUTE)
        discovery = Discovery(api)  # type: ignore[arg-type]
        watch = watching(api, SERVICE, ROUTE, discovery=discovery)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(watch.run())
            await until(lambda: watch.is_complete)
            assert watch.missing == set()
            api.kinds = [SERVICE]
            with pytest.raises(ApiFault, match="install its CRD"):
                await discovery.again("gateway.networking.k8s.io/v1", "HTTPRoute")
            assert watch.missing == {"HTTPRoute"}
            task.cancel()

    virtual.run(story())


def test_with_a_kind_that_goes_its_objects_go_which_says_nothing() -> None:
    """First the API takes its objects away, then its lists are not found."""

    async def story() -> None:
        api = Api(SERVICE, ROUTER)
        api.objects = {"modelrouters": [made("chat", 1)]}
        watch = watching(api, SERVICE, ROUTER)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(watch.run())
            await until(lambda: watch.is_complete)
            await watch.confirm()
            assert (watch.absent, len(watch.documents())) == (set(), 1)
            api.going = [ROUTER]
            api.tell("modelrouters", "DELETED", made("chat", 2))
            await until(lambda: not watch.documents())
            await watch.confirm()
            assert watch.absent == {"ModelRouter"}
            api.kinds, api.going, api.objects = [SERVICE], [], {}
            api.end("modelrouters")
            await until(lambda: not watch.is_current)
            await until(lambda: watch.is_current)
            assert (watch.is_complete, watch.absent) == (True, {"ModelRouter"})
            api.kinds, api.objects = [SERVICE, ROUTER], {"modelrouters": [made("code", 3)]}
            await until(lambda: bool(watch.documents()), within=6.0)
            assert (watch.absent, watch.documents()[0].name) == (set(), "code")
            task.cancel()

    virtual.run(story())


@pytest.mark.parametrize("versions", [("v1", "v1alpha1"), ("v1alpha1", "v1")])
def test_a_version_that_is_not_served_any_more_is_left_for_the_one_that_is(versions: tuple[str, str]) -> None:
    async def story() -> None:
        both = Kind("ModelRouter", "inference.llmkube.dev", versions, Role.DECLARED)
        old, new = (Kind(both.name, both.group, (one,), both.role) for one in ("v1alpha1", "v1"))
        api = Api(SERVICE, old)
        api.objects = {"modelrouters": [made("chat", 1)]}
        watch = watching(api, SERVICE, both)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(watch.run())
            await until(lambda: watch.is_complete)
            api.kinds, api.objects = [SERVICE, new], {"modelrouters": [made("code", 2)]}
            api.end("modelrouters")
            await until(lambda: [one.name for one in watch.documents()] == ["code"])
            assert (watch.absent, watch.is_current) == (set(), True)
            task.cancel()

    virtual.run(story())


def test_an_api_that_is_away_takes_no_kind_with_it() -> None:
    """Everything is as it was told last, and known not to be of now."""

    async def story() -> None:
        api = Api(SERVICE, ROUTER)
        api.objects = {"modelrouters": [made("chat", 1)]}
        watch = watching(api, SERVICE, ROUTER)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(watch.run())
            await until(lambda: watch.is_complete)
            assert watch.is_current
            api.away = True
            api.end("modelrouters")
            await until(lambda: not watch.is_current)
            with pytest.raises(ApiFault, match="no answer"):
                await watch.confirm()
            assert (watch.absent, len(watch.documents())) == (set(), 1)
            api.away = False
            await until(lambda: watch.is_current)
            task.cancel()

    virtual.run(story())


def test_a_wide_kind_that_may_not_be_seen_does_not_count() -> None:
    async def story() -> None:
        wide = Kind("GatewayClass", "gateway.networking.k8s.io", ("v1",), Role.THERE, is_wide=True)
        api = Api(SERVICE, wide)
        api.refused = {"gatewayclasss"}
        watch = watching(api, SERVICE, wide)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(watch.run())
            await until(lambda: watch.is_complete)
            task.cancel()

    virtual.run(story())


def test_what_we_have_written_counts_until_the_api_tells_it() -> None:
    key = ("Service", "llm", "one")

    async def story() -> None:
        api = Api(SERVICE)
        watch = watching(api, SERVICE)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(watch.run())
            await until(lambda: watch.is_complete)
            assert watch.live() == {}
            watch.wrote(key, None, made("one", 20, a=1))
            assert watch.live()[key]["spec"] == {"a": 1}
            api.tell("services", "ADDED", made("one", 21, a=2))  # somebody has changed it since
            await until(lambda: watch.live()[key]["spec"] == {"a": 2})
            watch.wrote(key, watch.live()[key], None)
            assert watch.live() == {}
            api.tell("services", "DELETED", made("one", 22))
            api.tell(
                "services",
                "ADDED",
                {**made("one", 23, a=3), "metadata": {**made("one", 23)["metadata"], "uid": "u-2"}},
            )
            await until(lambda: key in watch.live())
            task.cancel()

    virtual.run(story())


ACCEPTED = {"type": "Accepted", "status": "True"}
READY = {"type": "GatewayReady", "status": "True"}


@pytest.mark.parametrize(
    "change, is_news",
    [
        pytest.param({}, False, id="what is counted"),
        pytest.param({"lastUpdated": "2"}, False, id="when its controller looked"),
        pytest.param({"gateway": {"routeReady": True}}, False, id="our part"),
        pytest.param({"conditions": [ACCEPTED, READY]}, False, id="our condition"),
        pytest.param({"conditions": [{**ACCEPTED, "status": "False"}]}, True, id="anothers"),
        pytest.param({"phase": "Failed"}, True, id="phase"),
    ],
)
def test_what_changes_all_the_time_is_no_news_for_the_compiler(change: dict[str, Any], is_news: bool) -> None:
    async def story() -> None:
        api = Api(SERVICE, ROUTER)
        status = {"phase": "Ready", "lastUpdated": "1", "conditions": [ACCEPTED]}
        api.objects = {"modelrouters": [{**made("chat", 1), "status": status}]}
        watch = watching(api, SERVICE, ROUTER)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(watch.run())
            await until(lambda: watch.is_complete)
            (before,) = watch.documents()
            assert before.content["status"] == {"phase": "Ready", "conditions": [ACCEPTED]}
            again = {**made("chat", 30), "status": {**status, **change}}
            again["metadata"]["managedFields"] = [{"manager": "x"}]
            api.tell("modelrouters", "MODIFIED", again)
            await until(lambda: next(watch.declared())["metadata"]["resourceVersion"] == "30")
            (after,) = watch.documents()
            assert (after is not before) is is_news
            task.cancel()

    virtual.run(story())


def test_a_heartbeat_is_news_when_it_is_late() -> None:
    async def story() -> None:
        api = Api(SERVICE, SLICE)
        beating = made("mac", 1)
        beating["metadata"]["annotations"] = {"llmkube.ai/agent-heartbeat": NOON.isoformat()}
        api.objects = {"endpointslices": [beating]}
        passed = 30.0
        watch = watching(api, SERVICE, SLICE, wall_clock=lambda: NOON.timestamp() + passed)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(watch.run())
            await until(lambda: watch.is_complete)
            (before,) = watch.documents()
            assert not before.annotations
            passed = 60.0
            assert watch.documents()[0] is before
            passed = 181.0  # and the API has told nothing new
            assert list(watch.documents()[0].annotations) == ["llmkube.ai/agent-heartbeat"]
            task.cancel()

    virtual.run(story())


def test_where_it_may_look_and_for_which_labels_the_api_is_told() -> None:
    async def story() -> None:
        wide = Kind("GatewayClass", "gateway.networking.k8s.io", ("v1",), Role.THERE, is_wide=True)
        api = Api(SERVICE, SLICE, wide)
        watch = watching(api, SERVICE, SLICE, wide, namespaces=("a", "b"))
        async with asyncio.TaskGroup() as group:
            task = group.create_task(watch.run())
            await until(lambda: watch.is_complete)
            await asyncio.sleep(1.0)
            task.cancel()
        slices = "/apis/discovery.k8s.io/v1/namespaces/{}/endpointslices"
        wanted = [
            *(("/api/v1/namespaces/a/services", ""), ("/api/v1/namespaces/b/services", "")),
            *((slices.format(one), "llmkube.ai/inference-service") for one in "ab"),
            ("/apis/gateway.networking.k8s.io/v1/gatewayclasss", ""),
        ]
        assert sorted(api.asked) == sorted(2 * wanted), "each listed and watched"
        assert [watch.covers(("Service", one, "x")) for one in "abc"] == [True, True, False]

    virtual.run(story())


@pytest.mark.parametrize("target", Target)
def test_of_other_gateways_kinds_nothing_is_looked_at(target: Target) -> None:
    groups = {kind.group for kind in kinds_of(target)}
    assert ("aigateway.envoyproxy.io" in groups) is target.is_envoy_ai_gateway
    assert ("agentgateway.dev" in groups) is (target is Target.AGENTGATEWAY)
