"""Leader election against an API that keeps the rules of the real one, in virtual time.

That the real one keeps them is shown in tests/system/test_leader_election.py.
"""

import asyncio
import datetime as dt
import itertools
import json
import logging
import random
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from epp.core.election import JITTER, LEASE_SECONDS, RENEW_DEADLINE, RETRY_PERIOD
from epp.runtime.kubernetes.lease import RELEASE_SECONDS, Leadership
from epp.runtime.kubernetes.store import ApiFault, Expired
from tests.runtime import virtual

HOME = "/apis/coordination.k8s.io/v1/namespaces/models/leases"
NAME = "epp-models-qwen.llm-d.ai"
AWAY = ApiFault(0, "no answer from https://kubernetes.test: Connection refused")
FORBIDDEN = ApiFault(
    403,
    'the API answers 403: leases.coordination.k8s.io is forbidden: User "epp" cannot create resource "leases"'
    ' in API group "coordination.k8s.io" in the namespace "models"',
)


class Api:
    """One Lease."""

    def __init__(self) -> None:
        self.lease: dict[str, Any] | None = None
        self.fault: Exception | None = None
        self.refused: set[str] = set()
        """Methods that nobody may use."""
        self.latency = 0.01
        self.asked: list[str] = []
        self._version = 0

    @property
    def spec(self) -> dict[str, Any]:
        assert self.lease is not None
        spec: dict[str, Any] = self.lease["spec"]
        return spec

    async def fetch(self, path: str, query: Mapping[str, str], *, timeout: Any = None) -> bytes:
        await self._begin("GET", path)
        if self.lease is None:
            raise ApiFault(404, f"the API answers 404: {NAME} not found")
        return json.dumps(self.lease).encode()

    async def write(self, method: str, path: str, document: Mapping[str, Any]) -> bytes:
        await self._begin(method, path)
        if method == "POST" and "resourceVersion" in document["metadata"]:
            raise ApiFault(500, "resourceVersion should not be set on objects to be created")
        if method == "POST" and self.lease is not None:
            raise ApiFault(409, "already exists")
        if method == "PUT":
            if self.lease is None:
                raise ApiFault(404, "not found")
            if document["metadata"]["resourceVersion"] != self.lease["metadata"]["resourceVersion"]:
                raise ApiFault(409, "the object has been modified")
        self.put(json.loads(json.dumps(document)))
        return json.dumps(self.lease).encode()

    def put(self, document: dict[str, Any]) -> None:
        """As somebody with an editor would."""
        self._version += 1
        document["metadata"]["resourceVersion"] = str(self._version)
        self.lease = document

    async def _begin(self, method: str, path: str) -> None:
        self.asked.append(f"{method} {path}")
        await asyncio.sleep(self.latency)
        if self.fault is not None:
            raise self.fault
        if method in self.refused:
            raise FORBIDDEN


def candidate(api: Api, name: str) -> Leadership:
    return Leadership(
        api,
        namespace="models",
        name=NAME,
        identity=name,
        clock=virtual.now,
        today=lambda: dt.datetime(2026, 11, 21, tzinfo=dt.UTC) + dt.timedelta(seconds=virtual.now()),
        chance=random.Random(name),
    )


@asynccontextmanager
async def running(*candidates: Leadership) -> AsyncIterator[list[asyncio.Task[None]]]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(each.run()) for each in candidates]
        yield tasks
        for task in tasks:
            task.cancel()


async def when(condition: Callable[[], bool], *, within: float) -> float:
    """How long it took [s]."""
    began = virtual.now()
    while not condition():
        assert virtual.now() - began < within, f"not within {within} s"
        await asyncio.sleep(0.05)
    return virtual.now() - began


def test_one_of_two_leads_and_only_it_writes() -> None:
    async def story() -> None:
        api = Api()
        one, two = candidate(api, "one"), candidate(api, "two")
        async with running(one, two):
            await when(lambda: one.is_leader or two.is_leader, within=1)
            leader, other = (one, two) if one.is_leader else (two, one)
            for _ in range(600):
                await asyncio.sleep(0.1)
                assert leader.is_leader and not other.is_leader
        assert api.spec["leaseTransitions"] == 0
        assert api.spec["leaseDurationSeconds"] == LEASE_SECONDS
        assert other.reason == f"not the leader of models/{NAME}: that is {api.spec['holderIdentity']}"
        assert (leader.reason, leader.detail(), other.detail()) == ("", "", "")

    virtual.run(story())


def test_who_is_not_quick_enough_knows_at_once_who_was(caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        api = Api()
        one, two = candidate(api, "one"), candidate(api, "two")
        async with running(one, two):
            await when(lambda: one.is_leader or two.is_leader, within=1)
            await asyncio.sleep(20)
            follower = two if one.is_leader else one
            assert follower.reason == f"not the leader of models/{NAME}: that is {api.spec['holderIdentity']}"
        assert sum(asked.startswith("POST") for asked in api.asked) == 2

    with caplog.at_level(logging.INFO):
        virtual.run(story())
    said = [record.message for record in caplog.records]
    assert sorted(said) == ["another replica leads", "this replica leads"], "once, however often it is seen"


def test_the_lease_says_when_it_was_acquired_and_renewed() -> None:
    async def story() -> None:
        api = Api()
        async with running(candidate(api, "one")):
            await asyncio.sleep(9)
        assert api.spec["acquireTime"] == "2026-11-21T00:00:00.010000Z"
        assert "2026-11-21T00:00:06" < api.spec["renewTime"] < "2026-11-21T00:00:09"
        assert api.asked[:2] == [f"GET {HOME}/{NAME}", f"POST {HOME}"]
        assert set(api.asked[2:]) == {f"PUT {HOME}/{NAME}"}

    virtual.run(story())


def test_after_the_death_of_the_leader_the_next_leads_when_the_lease_has_run_out() -> None:
    async def story() -> None:
        api = Api()
        one, two = candidate(api, "one"), candidate(api, "two")
        async with running(one) as [life]:
            await when(lambda: one.is_leader, within=1)
            async with running(two):
                await asyncio.sleep(5)
                life.cancel()
                took = await when(lambda: two.is_leader, within=60)
                assert LEASE_SECONDS - 2.5 < took < LEASE_SECONDS + 2.5
                assert not one.is_leader
                assert api.spec["leaseTransitions"] == 1

    virtual.run(story())


def test_a_lease_that_is_given_back_is_taken_at_the_next_try() -> None:
    async def story() -> None:
        api = Api()
        one, two = candidate(api, "one"), candidate(api, "two")
        async with running(one):
            await when(lambda: one.is_leader, within=1)
            async with running(two):
                await asyncio.sleep(5)
                async with asyncio.TaskGroup() as group:
                    group.create_task(one.release())
                    await asyncio.sleep(0)
                    assert not one.is_leader, "from the first moment on"
                assert (api.spec["holderIdentity"], api.spec["leaseDurationSeconds"]) == ("", 1)
                assert await when(lambda: two.is_leader, within=60) < 2.5
                await asyncio.sleep(60)
                assert two.is_leader and not one.is_leader, "one bids no more"

    virtual.run(story())


def test_a_leader_that_loses_the_api_steps_down_and_leads_again(caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        api = Api()
        one = candidate(api, "one")
        async with running(one):
            await when(lambda: one.is_leader, within=1)
            api.fault = AWAY
            took = await when(lambda: not one.is_leader, within=60)
            assert RENEW_DEADLINE - 2.5 < took < RENEW_DEADLINE + 0.1
            assert one.reason == f"not the leader of models/{NAME}: {AWAY}"
            await asyncio.sleep(30)
            api.fault = None
            assert await when(lambda: one.is_leader, within=60) < 2.5

    with caplog.at_level(logging.INFO):
        virtual.run(story())
    assert [record.message for record in caplog.records] == [
        "this replica leads",
        "the lease cannot be had",
        "this replica leads no longer",
        "this replica leads",
    ]


def test_an_answer_that_comes_late_does_not_make_a_leader_last_longer() -> None:
    """The others count from when they see the renewal, which may be as soon as it was sent."""

    async def story() -> None:
        api = Api()
        one = candidate(api, "one")
        async with running(one):
            await when(lambda: one.is_leader, within=1)
            api.latency, renewals = 4.0, len(api.asked)
            await when(lambda: len(api.asked) > renewals, within=5)
            asked_at = virtual.now()
            await asyncio.sleep(4.1)
            api.fault = AWAY
            await when(lambda: not one.is_leader, within=20)
            assert virtual.now() - asked_at < RENEW_DEADLINE + 0.1

    virtual.run(story())


def test_a_question_that_hangs_does_not_make_a_leader_last_longer() -> None:
    async def story() -> None:
        api = Api()
        one = candidate(api, "one")
        async with running(one):
            await when(lambda: one.is_leader, within=1)
            api.latency = 3600.0
            assert await when(lambda: not one.is_leader, within=60) < RENEW_DEADLINE + 0.1

    virtual.run(story())


@pytest.mark.parametrize("fault", [FORBIDDEN, Expired("410, from a proxy")])
def test_who_may_not_write_is_told_what_is_missing_once(
    fault: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    async def story() -> None:
        api = Api()
        api.fault = fault
        one = candidate(api, "one")
        async with running(one):
            await asyncio.sleep(60)
            assert not one.is_leader and one.detail().startswith(str(fault))
            await one.release()
            assert api.lease is None

    with caplog.at_level(logging.INFO):
        virtual.run(story())
    (record,) = caplog.records
    assert record.fields["error"].startswith(str(fault))  # type: ignore[attr-defined]


@pytest.mark.parametrize("lease", [None, {}], ids=["create", "update"])
def test_who_may_look_and_not_write_is_told_the_remedy(lease: dict[str, Any] | None) -> None:
    async def story() -> None:
        api = Api()
        api.refused = {"POST", "PUT"}
        if lease is not None:
            api.put({"metadata": {"name": NAME}, "spec": lease})
        one = candidate(api, "one")
        async with running(one):
            await asyncio.sleep(5)
            assert one.detail() == (
                f"{FORBIDDEN}: grant it as deploy/kubernetes/rbac.yaml does, or say with --pool-namespace"
                " where the Lease is to be"
            )
            assert not one.is_leader

    virtual.run(story())


def test_a_renewal_that_is_under_way_does_not_undo_the_release(caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        api = Api()
        one = candidate(api, "one")
        async with running(one):
            await when(lambda: one.is_leader, within=1)
            asked, api.latency = len(api.asked), 1.0
            await when(lambda: len(api.asked) > asked, within=5)
            await one.release()
            assert api.spec["holderIdentity"] == ""
            await asyncio.sleep(10)
            assert api.spec["holderIdentity"] == ""

    with caplog.at_level(logging.INFO):
        virtual.run(story())
    said = [record.message for record in caplog.records]
    assert said == ["this replica leads", "the lease is given back"], "it is nothing to be warned of"


def test_a_release_does_not_wait_for_ever() -> None:
    async def story() -> None:
        api = Api()
        one = candidate(api, "one")
        async with running(one):
            await when(lambda: one.is_leader, within=1)
            api.latency = 3600.0
            began = virtual.now()
            await one.release()
            assert virtual.now() - began == pytest.approx(RELEASE_SECONDS)

    virtual.run(story())


def test_tries_are_spaced_and_not_evenly() -> None:
    async def story() -> None:
        api = Api()
        times: list[float] = []
        async with running(candidate(api, "one")):
            for _ in range(40):
                asked = len(api.asked)
                await when(lambda asked=asked: len(api.asked) > asked, within=5)  # type: ignore[misc]
                times.append(virtual.now())
        gaps = [after - before for before, after in itertools.pairwise(times[2:])]
        least, most = RETRY_PERIOD, RETRY_PERIOD * (1 + JITTER)
        assert least - 0.05 <= min(gaps) and max(gaps) <= most + 0.1  # looked at every 0.05 s
        assert max(gaps) - min(gaps) > 0.15

    virtual.run(story())


def test_a_lease_that_somebody_deletes_is_made_anew() -> None:
    async def story() -> None:
        api = Api()
        one = candidate(api, "one")
        async with running(one):
            await when(lambda: one.is_leader, within=1)
            api.lease = None
            await when(lambda: api.lease is not None, within=10)
            assert one.is_leader

    virtual.run(story())


def test_a_lease_that_cannot_be_given_back_is_told(caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        api = Api()
        one = candidate(api, "one")
        async with running(one):
            await when(lambda: one.is_leader, within=1)
            api.fault = AWAY
            await one.release()
            assert not one.is_leader

    with caplog.at_level(logging.WARNING):
        virtual.run(story())
    assert "the lease cannot be given back: it runs out" in [record.message for record in caplog.records]


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param({}, id="empty"),
        pytest.param({"holderIdentity": "", "leaseDurationSeconds": None}, id="nobody's"),
        pytest.param(
            {
                "holderIdentity": "old",
                "leaseDurationSeconds": 1,
                "acquireTime": "2020-01-01T00:00:00.000000Z",
            },
            id="run out",
        ),
    ],
)
def test_a_lease_that_is_there_is_taken_over_with_what_others_wrote_on_it(spec: dict[str, Any]) -> None:
    async def story() -> None:
        api = Api()
        api.put({"metadata": {"name": NAME, "namespace": "models", "labels": {"a": "b"}}, "spec": spec})
        one = candidate(api, "one")
        async with running(one):
            await when(lambda: one.is_leader, within=10)
        assert api.lease is not None and api.lease["metadata"]["labels"] == {"a": "b"}
        assert api.spec["leaseTransitions"] == 1
        assert api.spec["acquireTime"].startswith("2026-11-21T")

    virtual.run(story())


def test_a_lease_that_is_not_understood_is_a_fault_and_no_crash() -> None:
    async def story() -> None:
        api = Api()
        api.put({"metadata": {"name": NAME}, "spec": {"leaseTransitions": "many"}})
        one = candidate(api, "one")
        async with running(one):
            await asyncio.sleep(5)
            assert one.detail().startswith("the Lease is not understood: ")

    virtual.run(story())


def test_what_prometheus_is_told() -> None:
    async def story() -> None:
        api = Api()
        one = candidate(api, "one")
        values = []
        async with running(one):
            for _ in range(2):
                (family,) = one.families()
                values.append(family.values)
                await asyncio.sleep(1)
        assert values == [{(): 0.0}, {(): 1.0}]

    virtual.run(story())
