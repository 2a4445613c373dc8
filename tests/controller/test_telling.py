"""What is written for people: statuses and Events, each once; and fleet files that are read again."""

import asyncio
import datetime as dt
from collections.abc import Sequence
from typing import Any

from epp.compiler.documents import Document
from epp.compiler.findings import Origin, error
from epp.compiler.options import Options, Target
from epp.controller.events import Events
from epp.controller.fields import Object
from epp.controller.files import Files, Unreadable
from epp.controller.statuses import STATUS_MANAGER, Statuses, why_refused
from epp.runtime.kubernetes.store import ApiFault

NOON = dt.datetime(2026, 11, 21, 12, tzinfo=dt.UTC)
LATER = NOON + dt.timedelta(hours=1)
KEY = ("ModelRouter", "llm", "chat")
READY = {"type": "GatewayReady", "status": "True", "reason": "Exposed", "message": "compiled"}


class Cluster:
    """Takes statuses and Events."""

    def __init__(self) -> None:
        self.written: list[Object] = []
        self.fault: ApiFault | None = None

    async def apply_status(self, document: Object, manager: str) -> Object:
        assert manager == STATUS_MANAGER
        return await self.post(document)

    async def post(self, document: Object) -> Object:
        if self.fault is not None:
            raise self.fault
        self.written.append(document)
        return document


def router(
    status: dict[str, Any] | None = None, *, ours: bool = False, claimed: bool = True
) -> dict[str, Any]:
    entry = {"manager": STATUS_MANAGER, "subresource": "status", "fieldsV1": {"f:status": {"f:gateway": {}}}}
    meta = {"name": "chat", "namespace": "llm", "managedFields": [entry] if ours else []}
    meta["annotations"] = {"fleet-epp.dev/claim": str(claimed).lower()}
    return {
        "apiVersion": "inference.llmkube.dev/v1alpha1",
        "kind": "ModelRouter",
        "metadata": meta,
        "status": status or {},
    }


def told(cluster: Cluster, live: Object, wanted: dict[str, Any] | None, *, today: dt.datetime = NOON) -> str:
    """Why it could not be told."""
    options = Options(Target.GATEWAY_API, is_live=True)
    statuses = Statuses(cluster, options, today=lambda: today)  # type: ignore[arg-type]
    words = {} if wanted is None else {KEY: wanted}
    asyncio.run(statuses.tell(words, [live], may_write=lambda: True))
    return statuses.fault


def test_a_status_is_written_when_it_changes() -> None:
    cluster, wanted = Cluster(), {"gateway": {"routeReady": True}, "conditions": [READY]}
    told(cluster, router(), wanted)
    (written,) = cluster.written
    assert written["status"]["conditions"] == [{**READY, "lastTransitionTime": "2026-11-21T12:00:00Z"}]
    told(cluster, router(written["status"], ours=True), wanted, today=LATER)
    assert len(cluster.written) == 1


def test_a_condition_keeps_the_time_since_when_it_is_so() -> None:
    cluster = Cluster()
    before = {"conditions": [{**READY, "lastTransitionTime": "2026-11-21T12:00:00Z"}]}
    told(cluster, router(before), {"conditions": [{**READY, "message": "more"}]}, today=LATER)
    told(cluster, router(before), {"conditions": [{**READY, "status": "False"}]}, today=LATER)
    times = [one["status"]["conditions"][0]["lastTransitionTime"] for one in cluster.written]
    assert times == ["2026-11-21T12:00:00Z", "2026-11-21T13:00:00Z"]


def test_our_part_of_an_object_that_is_not_claimed_any_more_goes() -> None:
    cluster = Cluster()
    told(cluster, router({"gateway": {}}, ours=True, claimed=False), None)
    (written,) = cluster.written
    assert "status" not in written
    told(cluster, router(claimed=False), None)
    told(cluster, router({"gateway": {}}, ours=True), None)  # claimed: nobody has a word for it now
    assert len(cluster.written) == 1


def test_a_status_that_is_refused_is_told_and_an_object_that_is_gone_is_not() -> None:
    cluster = Cluster()
    cluster.fault = ApiFault(403, "cannot patch resource modelrouters/status")
    assert told(cluster, router(), {"gateway": {}}) == (
        "status of ModelRouter llm/chat: cannot patch resource modelrouters/status"
    )
    cluster.fault = ApiFault(404, "not found")
    assert told(cluster, router(), {"gateway": {}}) == ""


def test_what_the_gateway_says_of_a_route() -> None:
    key = ("HTTPRoute", "llm", "chat")
    assert why_refused(key, None) == "HTTPRoute llm/chat has not been applied yet"
    assert why_refused(key, {"status": {}}) == "HTTPRoute llm/chat: no gateway has accepted it yet"
    yes, no = (
        {"type": "Accepted", "status": "True"},
        {"type": "Accepted", "status": "False", "reason": "NoHost"},
    )
    assert why_refused(key, {"status": {"parents": [{"conditions": [yes]}]}}) == ""
    assert (
        why_refused(key, {"status": {"parents": [{"conditions": [yes, no]}]}}) == "HTTPRoute llm/chat: NoHost"
    )
    assert why_refused(key, {"status": {"conditions": [yes]}}) == ""
    not_accepted = {"type": "NotAccepted", "status": "True", "message": "no such backend"}
    assert (
        why_refused(key, {"status": {"conditions": [not_accepted]}}) == "HTTPRoute llm/chat: no such backend"
    )


def test_an_event_is_said_once_and_again_when_it_could_not_be_said() -> None:
    cluster = Cluster()
    events = Events(cluster, today=lambda: NOON)  # type: ignore[arg-type]
    origin = Origin("ModelRouter", "llm", "chat", api_version="inference.llmkube.dev/v1alpha1", uid="u")
    one, two = (error("Wrong", origin.at("spec"), text, "mend it") for text in ("this", "that"))
    in_a_file = error("Wrong", Origin("Fleet", "llm", "site", place="fleet.yaml:1"), "this", "mend it")
    cluster.fault = ApiFault(403, "cannot create resource events")
    asyncio.run(events.tell([one]))
    cluster.fault = None
    for _ in range(2):
        asyncio.run(events.tell([one, two, in_a_file]))
    assert [event["message"] for event in cluster.written] == ["spec: this: mend it", "spec: that: mend it"]
    assert len({event["metadata"]["name"] for event in cluster.written}) == 2
    again = Events(cluster, today=lambda: LATER)  # type: ignore[arg-type]
    asyncio.run(again.tell([one]))
    assert cluster.written[2]["metadata"]["name"] == cluster.written[0]["metadata"]["name"]


def test_a_broken_file_changes_nothing() -> None:
    said: list[Sequence[Document] | str] = []
    changes: list[int] = []

    def read() -> Sequence[Document]:
        now = said[-1]
        if isinstance(now, str):
            raise Unreadable(now)
        return now

    files = Files(read, lambda: changes.append(1))
    good, other = (Document({"kind": "Fleet", "metadata": {"name": name}}) for name in ("one", "two"))

    def look(what: Sequence[Document] | str) -> tuple[tuple[Document, ...], str, int]:
        said.append(what)
        asyncio.run(files.look())
        return files.documents, files.fault, len(changes)

    assert look("fleet.yaml: no YAML") == ((), "fleet.yaml: no YAML", 1) and not files.is_read
    assert look([good]) == ((good,), "", 2) and files.is_read
    assert look([good]) == ((good,), "", 2)
    assert look("fleet.yaml: no YAML") == ((good,), "fleet.yaml: no YAML", 3)
    assert look("fleet.yaml: no YAML") == ((good,), "fleet.yaml: no YAML", 3)
    assert look([good]) == ((good,), "", 4)
    assert look([other]) == ((other,), "", 5)
