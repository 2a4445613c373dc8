"""Writes: whose the object is, which one it is, and whether it is still us who write."""

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import pytest

from epp.compiler.marks import Inventory
from epp.controller.carrying import Fate, carry_out
from epp.controller.cluster import TRIES, Cluster, Deposed, Taken
from epp.controller.difference import Step, Verb
from epp.controller.discovery import Discovery
from epp.runtime.kubernetes.api import WRITE_TIMEOUT
from epp.runtime.kubernetes.store import ApiFault

Object = dict[str, Any]
OURS = {"fleet-epp.dev/inventory": "test"}
CHANGED = ApiFault(409, "the object has been modified")


class Api:
    """Has one object, or none; answers ``faults`` to the writes, one after the other, and then yes."""

    def __init__(self, there: Object | None, *faults: ApiFault) -> None:
        self.there, self.faults = there, list(faults)
        self.leads = self.has_kind = True
        self.is_deposed_by_a_look = False
        self.written: list[tuple[str, Any, Any]] = []
        self.timeouts: list[Any] = []
        self.begun, self.answers = asyncio.Event(), asyncio.Event()
        self.answers.set()

    async def fetch(self, path: str, query: Mapping[str, str], *, timeout: Any = None) -> bytes:
        if path.endswith("/v1"):
            kinds = [{"name": "services", "kind": "Service"}] if self.has_kind else []
            return json.dumps({"resources": kinds}).encode()
        self.timeouts.append(timeout)
        self.leads = self.leads and not self.is_deposed_by_a_look
        if self.there is None:
            raise ApiFault(404, "not found")
        return json.dumps(self.there).encode()

    async def write(self, method: str, path: str, document: Any, **how: Any) -> bytes:
        self.begun.set()
        await self.answers.wait()
        self.written.append((method, document, (how.get("query") or {}).get("force")))
        if self.faults:
            raise self.faults.pop(0)
        return json.dumps(document).encode()


def service(uid: str = "u", version: str = "5", **labels: str) -> Object:
    meta = {"name": "one", "namespace": "llm", "labels": labels or OURS}
    meta |= {"uid": uid, "resourceVersion": version} if uid else {}
    return {"apiVersion": "v1", "kind": "Service", "metadata": meta}


WANTED = service("")


def cluster(api: Api) -> Cluster:
    return Cluster(api, Discovery(api), Inventory("test"), may_write=lambda: api.leads)  # type: ignore[arg-type]


def seen(written: tuple[str, Any, Any]) -> tuple[str, str]:
    """Which object the API was to write, and which version of it."""
    meta = written[1]["metadata"]
    return meta.get("uid", ""), meta.get("resourceVersion", "")


def test_a_change_is_to_the_very_object_that_was_looked_at() -> None:
    api = Api(service())
    asyncio.run(cluster(api).change(WANTED, service()))
    assert [(method, force) for method, _, force in api.written] == [("PATCH", "true")]
    assert seen(api.written[0]) == ("u", "5")


def test_a_change_is_tried_again_on_what_the_object_is_now() -> None:
    api = Api(service(version="6"), CHANGED)
    asyncio.run(cluster(api).change(WANTED, service()))
    assert [seen(one) for one in api.written] == [("u", "5"), ("u", "6")]
    assert api.timeouts == [WRITE_TIMEOUT]


def test_what_lost_its_label_meanwhile_is_not_changed() -> None:
    api = Api(service(version="6", theirs="yes"), CHANGED)
    with pytest.raises(Taken, match="has no label") as taken:
        asyncio.run(cluster(api).change(WANTED, service()))
    assert len(api.written) == 1 and taken.value.fix.startswith("delete it, or give it the label")


def test_of_a_kind_that_has_gone_it_is_told_that_it_has() -> None:
    """The API says ``404 page not found``, before the kinds are looked at again."""
    api = Api(service(), ApiFault(404, "404 page not found"), ApiFault(404, 'namespaces "llm" not found'))
    writer = cluster(api)
    with pytest.raises(ApiFault, match="page not found"):
        asyncio.run(writer.change(WANTED, service()))
    api.has_kind = False
    with pytest.raises(ApiFault, match="the cluster has no Service of v1: install its CRD") as told:
        asyncio.run(writer.change(WANTED, service()))
    assert told.value.status == 404


@pytest.mark.parametrize("there", [None, service(uid="another")])
def test_what_is_another_object_by_now_is_not_changed(there: Object | None) -> None:
    api = Api(there, CHANGED)
    with pytest.raises(ApiFault, match="deleted meanwhile"):
        asyncio.run(cluster(api).change(WANTED, service()))
    assert len(api.written) == 1


def test_a_change_is_given_up_after_some_tries() -> None:
    api = Api(service(), *[CHANGED] * TRIES)
    with pytest.raises(ApiFault, match="modified"):
        asyncio.run(cluster(api).change(WANTED, service()))
    assert len(api.written) == TRIES


@pytest.mark.parametrize("verb", Verb)
def test_who_is_deposed_while_looking_writes_nothing(verb: Verb) -> None:
    api = Api(None if verb is Verb.CREATE else service(), *[CHANGED] * (verb is not Verb.CREATE))
    api.is_deposed_by_a_look = True
    live = None if verb is Verb.CREATE else service()
    step = Step(verb, ("Service", "llm", "one"), frozenset({"x"}), WANTED, live)
    report = asyncio.run(carry_out([step], cluster(api)))
    assert [one.fate for one in report.ended] == [Fate.SKIPPED]
    assert report.stopped == "this replica leads no longer"
    assert len(api.written) == (verb is not Verb.CREATE)


def test_at_the_end_writes_that_have_begun_are_waited_for_and_none_begins() -> None:
    async def story() -> None:
        api = Api(None)
        api.answers.clear()
        writes = cluster(api)
        async with asyncio.TaskGroup() as group:
            under_way = group.create_task(writes.create(WANTED), name="write")
            await api.begun.wait()
            end = group.create_task(writes.end(), name="end")
            await asyncio.sleep(0)
            with pytest.raises(Deposed):
                await writes.post(WANTED)
            assert not end.done()
            api.answers.set()
            await end
            assert (await under_way)["kind"] == "Service" and len(api.written) == 1

    asyncio.run(story())
