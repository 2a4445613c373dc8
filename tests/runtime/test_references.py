"""Pools that come by themselves: those that name a Service, each on the port that it gives."""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from epp.config.cluster.wishes import PoolName, Wish
from epp.runtime.kubernetes.namespace import PICKERS, POOLS, Namespaces, Voice
from epp.runtime.kubernetes.references import References
from epp.runtime.kubernetes.store import ApiFault
from epp.runtime.metrics import Values
from tests.runtime.raw_server import eventually
from tests.runtime.test_kubernetes import Api, make_quick

QWEN, PHI = PoolName("models", "qwen"), PoolName("models", "phi")
ALL = Wish(namespace="models", service="fleet-epp")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    make_quick(monkeypatch)


def pool(name: str, port: int = 9002, service: str = "fleet-epp") -> dict[str, Any]:
    return {
        "metadata": {"name": name, "namespace": "models"},
        "spec": {
            "selector": {"matchLabels": {"app": name}},
            "targetPorts": [{"number": 8000}],
            "endpointPickerRef": {"name": service, "port": {"number": port}},
        },
    }


def service(port: int, target: int) -> dict[str, Any]:
    ports = [{"port": port, "targetPort": target}]
    return {"metadata": {"name": "fleet-epp", "namespace": "models"}, "spec": {"ports": ports}}


class World:
    def __init__(
        self, *wishes: Wish, taken: dict[int, str] | None = None, elsewhere: Sequence[PoolName] = ()
    ) -> None:
        self.api = Api()
        clock = asyncio.get_running_loop().time
        self.namespaces = Namespaces(
            self.api,  # type: ignore[arg-type]
            group=POOLS.group,
            clock=clock,
            chance=random.Random(1),
        )
        self.references = References(self.namespaces, wishes, taken or {}, elsewhere=elsewhere)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        await self.references.start()
        async with asyncio.TaskGroup() as group:
            task = group.create_task(self.namespaces.run())
            yield
            task.cancel()


async def test_the_pools_of_a_service_are_known_after_the_start() -> None:
    world = World(ALL)
    world.api.change(POOLS, pool("qwen", 9002))
    world.api.change(POOLS, pool("other", 9002, "another-picker"))
    await world.references.start()
    assert world.references.is_told and world.references.look() == {QWEN: 9002}


async def test_they_come_move_and_go() -> None:
    world = World(ALL)
    async with world.running():
        assert world.references.look() == {} and world.references.is_told
        for change, ports in (
            (lambda: world.api.change(POOLS, pool("qwen", 9002)), {QWEN: 9002}),
            (lambda: world.api.change(POOLS, pool("phi", 9012)), {QWEN: 9002, PHI: 9012}),
            (lambda: world.api.change(POOLS, pool("phi", 9022)), {QWEN: 9002, PHI: 9022}),
            (lambda: world.api.change(PICKERS, service(9022, 7022)), {QWEN: 9002, PHI: 7022}),
            (lambda: world.api.delete(POOLS, "qwen"), {PHI: 7022}),
        ):
            world.references.changed.clear()
            change()
            await asyncio.wait_for(world.references.changed.wait(), 5.0)
            await eventually(lambda ports=ports: world.references.look() == ports)


async def test_it_is_known_which_pools_there_are_when_every_namespace_has_told() -> None:
    world = World(ALL, Wish(namespace="others", service="fleet-epp"))
    world.api.change(POOLS, pool("qwen", 9002))
    world.api.faults[POOLS.path("others")] = ApiFault(0, "no answer from x")
    async with world.running():
        assert world.references.look() == {QWEN: 9002} and not world.references.is_told
        world.api.faults.clear()
        await eventually(lambda: world.references.is_told)


async def test_while_the_api_is_away_nothing_changes() -> None:
    world = World(ALL)
    world.api.change(POOLS, pool("qwen"))
    async with world.running():
        world.api.fault = ApiFault(0, "away")
        world.api.end_watches()
        await eventually(lambda: world.namespaces.at("models").pools.fault is not None)
        assert world.references.look() == {QWEN: 9002}


async def test_a_port_that_two_want_is_told_and_settled(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="epp.kubernetes")
    world = World(ALL)
    world.api.change(POOLS, pool("qwen"))

    def findings() -> float:
        (family,) = world.references.families()
        assert isinstance(family, Values)
        return family.values[()]

    async with world.running():
        assert world.references.look() == {QWEN: 9002} and findings() == 0.0
        world.api.change(POOLS, pool("phi", 9002))
        await eventually(
            lambda: (
                "which is for InferencePool models/qwen"
                in (world.references.look() and world.references.detail())
            )
        )
        assert world.references.look() == {QWEN: 9002}, "who has it keeps it, though phi comes before qwen"
        assert findings() == 1.0
        world.api.change(POOLS, pool("phi", 9012))
        await eventually(lambda: world.references.look() == {QWEN: 9002, PHI: 9012})
        assert world.references.detail() == "" and findings() == 0.0
    assert [record.message for record in caplog.records] == ["pool not as it should be", "pool: settled"]


async def test_what_another_still_says_is_not_settled(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="epp.kubernetes")
    voice = Voice()
    for pool_, wrong in (("qwen", ("away",)), ("phi", ("away",)), ("qwen", ())):
        voice.say(pool_, wrong)
    assert [record.message for record in caplog.records] == ["pool not as it should be"]
    voice.say("phi", ())
    assert [record.message for record in caplog.records][1:] == ["pool: settled"]


async def test_a_port_that_is_written_needs_no_api() -> None:
    world = World(Wish(namespace="models", name="qwen", port=7000))
    await world.references.start()
    assert world.references.look() == {QWEN: 7000}
    assert world.api.asked == []


async def test_a_pool_is_from_the_start_where_its_service_leads() -> None:
    """Port 80 of a Service is none that a picker may listen on."""
    world = World(Wish(namespace="models", name="qwen"))
    world.api.change(POOLS, pool("qwen", 80))
    world.api.change(PICKERS, service(80, 9002))
    await world.references.start()
    assert world.references.look() == {QWEN: 9002}


async def test_a_pool_that_comes_later_is_where_its_service_leads_as_well() -> None:
    world = World(Wish(namespace="models", name="qwen"))
    async with world.running():
        assert world.references.look() == {}
        world.api.change(PICKERS, service(80, 9002))
        world.api.change(POOLS, pool("qwen", 80))
        await eventually(lambda: world.references.look() == {QWEN: 9002})


@pytest.mark.parametrize(
    "services, query",
    [(["fleet-epp"], {"fieldSelector": "metadata.name=fleet-epp"}), (["fleet-epp", "other"], {})],
    ids=["one", "several"],
)
async def test_services_that_are_named_are_looked_at_before_there_are_pools(
    services: list[str], query: dict[str, str]
) -> None:
    world = World(*(Wish(namespace="models", service=name) for name in services))
    await world.references.start()
    assert [asked[2] for asked in world.api.asked if asked[1] == PICKERS.path("models")] == [query]


@pytest.mark.parametrize("wish", [ALL, Wish(namespace="models", name="qwen")], ids=["service", "pool"])
@pytest.mark.parametrize(
    "fault, said",
    [
        (ApiFault(0, "no answer from x"), "Kubernetes API: no answer from x"),
        (
            ApiFault(403, "cannot list"),
            "Kubernetes API: inferencepools: cannot list: grant it as deploy/kubernetes/rbac.yaml does",
        ),
    ],
)
async def test_pools_that_nobody_has_told_of_are_not_called_missing(
    wish: Wish, fault: ApiFault, said: str
) -> None:
    world = World(wish)
    world.api.fault = fault
    world.api.change(POOLS, pool("qwen"))
    async with world.running():
        assert world.references.look() == {} and not world.references.is_told
        await eventually(lambda: not world.references.look() and world.references.detail() == said)
        world.api.fault = None
        await eventually(lambda: world.references.look() == {QWEN: 9002})
        assert world.references.detail() == ""


async def test_a_pool_that_cannot_be_read_is_there() -> None:
    world = World(Wish(namespace="models", name="qwen"))
    world.api.change(POOLS, pool("qwen", port="http"))  # type: ignore[arg-type]
    await world.references.start()
    assert world.references.look() == {}
    assert world.references.detail().startswith("InferencePool models/qwen is not understood: Expected `int`")
    assert world.references.detail().endswith(": correct it, or give its port as --pool models/qwen=9002")


async def test_a_pool_that_is_served_elsewhere_is_not_served_twice() -> None:
    world = World(ALL, taken={9002: "--grpc-port"}, elsewhere=[QWEN])
    for one in (pool("qwen", 9002), pool("phi", 9012)):
        world.api.change(POOLS, one)
    await world.references.start()
    assert (world.references.look(), world.references.detail()) == ({PHI: 9012}, "")
