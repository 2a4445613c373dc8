"""What is written for people: statuses and Events, each once; and fleet files that are read again."""

import asyncio
import datetime as dt
import math
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from epp.compiler.documents import Document
from epp.compiler.findings import Finding, Origin, error
from epp.compiler.options import Options, Target
from epp.controller.carrying import AT_ONCE
from epp.controller.cluster import Deposed
from epp.controller.difference import key_of
from epp.controller.events import Events
from epp.controller.fields import Object
from epp.controller.files import Files, Unreadable
from epp.controller.statuses import STATUS_MANAGER, Statuses, why_refused
from epp.runtime.kubernetes.store import ApiFault

NOON = dt.datetime(2026, 11, 21, 12, tzinfo=dt.UTC)
LATER = NOON + dt.timedelta(hours=1)
KEY = ("ModelRouter", "llm", "chat")
READY = {"type": "GatewayReady", "status": "True", "reason": "Exposed", "message": "compiled"}
WANTED = {"gateway": {"routeReady": True}, "conditions": [READY]}


class Cluster:
    """Takes statuses and Events."""

    def __init__(self) -> None:
        self.written: list[Object] = []
        self.asked = 0
        self.fault: Exception | None = None
        self.is_others = False

    async def apply_status(self, document: Object, manager: str, *, force: bool) -> Object:
        assert manager == STATUS_MANAGER
        if self.is_others and not force:
            raise ApiFault(409, 'conflict with "llmkube-operator"')
        return await self.post(document)

    async def post(self, document: Object) -> Object:
        self.asked += 1
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
    statuses = Statuses(
        *(cluster, options),  # type: ignore[arg-type]
        today=lambda: today,
        clock=lambda: 0.0,
        chance=random.Random(1),
    )
    words = {} if wanted is None else {KEY: wanted}
    asyncio.run(statuses.tell(words, [live]))
    return statuses.fault


class Site:
    """Statuses and Events, told by a clock that the test moves."""

    def __init__(self, *lives: Object) -> None:
        self.cluster, self.lives, self.now = Cluster(), list(lives), 0.0
        paced: dict[str, Any] = {
            "today": lambda: NOON,
            "clock": lambda: self.now,
            "chance": random.Random(1),
        }
        options = Options(Target.GATEWAY_API, is_live=True)
        self.statuses = Statuses(self.cluster, options, **paced)  # type: ignore[arg-type]
        self.events = Events(self.cluster, **paced)  # type: ignore[arg-type]

    def tell(self, wanted: dict[str, Any] = WANTED) -> str:
        """All the same; why they could not be told."""
        keys = [key_of(live) for live in self.lives]
        asyncio.run(self.statuses.tell(dict.fromkeys(keys, wanted), self.lives))
        return self.statuses.fault

    def for_minutes(self, minutes: float, tell: Callable[[], object], *, every: float = 0.5) -> int:
        """How often the API was asked, with a round every so many seconds."""
        before, end = self.cluster.asked, self.now + minutes * 60.0
        while self.now < end:
            tell()
            self.now += every
        return self.cluster.asked - before


def operator(number: int = 0) -> dict[str, Any]:
    """The router after LLMKube's own operator has written its verdict into our part, again."""
    live = router({"conditions": [{**READY, "status": "False", "message": "AlreadyOwned"}]}, ours=True)
    fields = {"f:status": {"f:conditions": {'k:{"type":"GatewayReady"}': {}}}}
    live["metadata"]["managedFields"].append({"manager": "llmkube-operator", "fieldsV1": fields})
    live["metadata"]["resourceVersion"] = str(number)
    return live


def test_who_goes_on_writing_our_part_is_told_of_and_not_fought() -> None:
    site = Site(operator())

    def round_() -> None:
        site.lives = [operator(site.cluster.asked)]  # written over as soon as we have written
        site.tell()

    assert site.for_minutes(1.0, round_, every=0.05) <= 10
    (finding,) = site.statuses.findings
    assert finding.code == "StatusFought" and finding.origin.kind == "ModelRouter"
    assert "llmkube-operator goes on writing status.gateway or GatewayReady" in finding.message
    assert "llmkube-operator" in site.statuses.fault
    site.now += 120.0
    assert site.for_minutes(10.0, round_, every=0.5) <= 20
    site.lives = [router(WANTED, ours=True)]  # it has let go
    site.now += 300.0
    assert (site.tell(), site.statuses.findings) == ("", [])


def test_what_the_api_has_not_told_yet_is_not_written_again() -> None:
    site = Site(router())
    for _ in range(3):
        site.tell()
    assert site.cluster.asked == 1


def test_a_status_that_somebody_else_has_is_taken_over_and_told(caplog: pytest.LogCaptureFixture) -> None:
    site = Site(router())
    site.cluster.is_others = True
    with caplog.at_level("INFO"):
        assert site.tell() == ""
    assert "taken over" in caplog.text and len(site.cluster.written) == 1


def many(count: int) -> list[Object]:
    lives = []
    for number in range(count):
        live = router()
        live["metadata"]["name"] = f"chat-{number}"
        lives.append(live)
    return lives


def test_statuses_that_are_refused_are_tried_less_and_less_often_and_say_so_all_the_time() -> None:
    site = Site(*many(200))
    site.cluster.fault = ApiFault(403, "cannot patch resource modelrouters/status")
    faults = set[str]()
    site.for_minutes(5.0, lambda: faults.add(site.tell()))
    assert site.for_minutes(10.0, lambda: faults.add(site.tell())) <= 10 * 2 * AT_ONCE
    assert all("cannot patch resource modelrouters/status" in fault for fault in faults)
    assert site.statuses.next(site.now) < site.now + 60.0
    site.cluster.fault = None
    site.for_minutes(1.5, site.tell)
    assert len(site.cluster.written) == 200 and site.tell() == ""


def test_statuses_stop_at_the_first_answer_that_does_not_come() -> None:
    site = Site(*many(200))
    site.cluster.fault = ApiFault(0, "no answer: it does not answer in time")
    assert site.tell() == "no status is written: no answer: it does not answer in time"
    assert site.cluster.asked <= AT_ONCE
    assert site.statuses.next(0.0) == 10.0
    site.cluster.fault = Deposed()
    site.tell()
    assert site.cluster.asked <= 2 * AT_ONCE


def about(count: int) -> list[Finding]:
    origin = Origin("ModelRouter", "llm", "chat", api_version="inference.llmkube.dev/v1alpha1", uid="u")
    return [error("Wrong", origin, f"this {number}", "mend it") for number in range(count)]


def test_a_thousand_events_are_said_bit_by_bit() -> None:
    site, findings = Site(), about(1000)

    def say() -> None:
        asyncio.run(site.events.tell(findings))

    say()
    assert 0 < site.cluster.asked < 100 and site.events.next(site.now) == 1.0
    site.for_minutes(1.0, say)
    assert site.cluster.asked == len(site.cluster.written) == 1000
    assert site.events.next(site.now) == math.inf


def test_events_that_are_refused_are_tried_less_and_less_often() -> None:
    site, findings = Site(), about(200)
    site.cluster.fault = ApiFault(403, "cannot create resource events")
    site.for_minutes(5.0, lambda: asyncio.run(site.events.tell(findings)))
    assert site.for_minutes(10.0, lambda: asyncio.run(site.events.tell(findings))) <= 20
    site.cluster.fault = ApiFault(422, "no such field")  # of each by itself
    site.now += 100.0
    asyncio.run(site.events.tell(findings))
    asyncio.run(site.events.tell(findings[:2]))
    before = site.cluster.asked
    asyncio.run(site.events.tell(findings[:2]))
    assert site.cluster.asked == before


@pytest.mark.parametrize("fault", [ApiFault(0, "no answer"), Deposed()])
def test_events_stop_at_the_first_that_says_nothing_of_it(fault: Exception) -> None:
    site = Site()
    site.cluster.fault = fault
    asyncio.run(site.events.tell(about(100)))
    assert site.cluster.asked == 1


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
    site = Site()
    cluster, events = site.cluster, site.events
    origin = Origin("ModelRouter", "llm", "chat", api_version="inference.llmkube.dev/v1alpha1", uid="u")
    one, two = (error("Wrong", origin.at("spec"), text, "mend it") for text in ("this", "that"))
    in_a_file = error("Wrong", Origin("Fleet", "llm", "site", place="fleet.yaml:1"), "this", "mend it")
    cluster.fault = ApiFault(403, "cannot create resource events")
    asyncio.run(events.tell([one]))
    cluster.fault, site.now = None, 2.0
    for _ in range(2):
        asyncio.run(events.tell([one, two, in_a_file]))
    assert [event["message"] for event in cluster.written] == ["spec: this: mend it", "spec: that: mend it"]
    assert len({event["metadata"]["name"] for event in cluster.written}) == 2
    again = Site()
    asyncio.run(again.events.tell([one]))
    assert again.cluster.written[0]["metadata"]["name"] == cluster.written[0]["metadata"]["name"]


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
