"""What becomes of steps when some of them fail."""

import asyncio
from typing import Any

from epp.controller.carrying import Fate, Report, carry_out
from epp.controller.difference import Step, Verb, difference
from epp.controller.fields import Object
from epp.runtime.kubernetes.store import ApiFault
from tests.controller.model_api import ModelApi
from tests.controller.objects import emitted


class Failing(ModelApi):
    """Answers ``faults`` to writes of objects of these kinds and names."""

    def __init__(self, **faults: ApiFault) -> None:
        super().__init__()
        self.faults = faults

    async def create(self, document: Object) -> Object:
        self._fail(document)
        return await super().create(document)

    async def delete(self, live: Object) -> None:
        self._fail(live)
        await super().delete(live)

    def _fail(self, document: Object) -> None:
        if document["kind"] in self.faults:
            raise self.faults[document["kind"]]


def steps(api: ModelApi, *wanted: Any) -> tuple[Step, ...]:
    return difference(wanted, api.objects, inventory="test").steps


def carried(api: ModelApi, *wanted: Any, **how: Any) -> tuple[Report, dict[tuple[str, str], Fate]]:
    report = asyncio.run(carry_out(steps(api, *wanted), api, **how))
    return report, {(one.step.key[0], one.step.key[2]): one.fate for one in report.ended}


INVALID = ApiFault(422, "the API answers 422: spec: wrong")
AWAY = ApiFault(0, "no answer from https://kubernetes.test: Connection refused")
FORBIDDEN = ApiFault(403, "the API answers 403: cannot patch resource services")


def test_a_route_is_not_applied_without_its_policy_and_others_do_not_suffer() -> None:
    api = Failing(BackendTrafficPolicy=INVALID)
    report, fates = carried(
        api,
        emitted("Service", "chat", "chat"),
        emitted("BackendTrafficPolicy", "chat", "chat"),
        emitted("HTTPRoute", "chat", "chat"),
        emitted("HTTPRoute", "code", "code"),
    )
    assert fates == {
        ("Service", "chat"): Fate.DONE,
        ("BackendTrafficPolicy", "chat"): Fate.FAILED,
        ("HTTPRoute", "chat"): Fate.SKIPPED,
        ("HTTPRoute", "code"): Fate.DONE,
    }
    assert not report.is_whole
    assert report.of(Fate.SKIPPED)[0].why == "something else of ModelRouter/models/chat could not be written"


def test_nothing_is_deleted_of_what_could_not_be_changed() -> None:
    api = Failing()
    carried(api, emitted("InferencePool", "old", "chat"), emitted("InferencePool", "gone", "code"))
    api.faults = {"HTTPRoute": INVALID}
    _, fates = carried(api, emitted("HTTPRoute", "chat", "chat"))
    assert fates == {
        ("HTTPRoute", "chat"): Fate.FAILED,
        ("InferencePool", "old"): Fate.SKIPPED,
        ("InferencePool", "gone"): Fate.DONE,
    }


def test_what_has_a_conflict_is_not_gone_on_with() -> None:
    _, fates = carried(
        Failing(),
        emitted("HTTPRoute", "chat", "chat"),
        emitted("HTTPRoute", "code", "code"),
        blocked=["ModelRouter/models/chat"],
    )
    assert fates == {("HTTPRoute", "chat"): Fate.SKIPPED, ("HTTPRoute", "code"): Fate.DONE}


def test_an_api_that_is_away_ends_it_all() -> None:
    api = Failing(Service=AWAY)
    report, fates = carried(api, emitted("Service", "one", "chat"), emitted("HTTPRoute", "two", "code"))
    assert fates == {("Service", "one"): Fate.FAILED, ("HTTPRoute", "two"): Fate.SKIPPED}
    assert report.stopped == str(AWAY)


def test_a_refusal_ends_only_its_own() -> None:
    api = Failing(Service=FORBIDDEN)
    report, fates = carried(api, emitted("Service", "one", "chat"), emitted("HTTPRoute", "two", "code"))
    assert fates == {("Service", "one"): Fate.FAILED, ("HTTPRoute", "two"): Fate.DONE}
    assert report.stopped == ""


def test_who_leads_no_longer_writes_no_more() -> None:
    api = ModelApi()
    wanted = [emitted("Service", str(number)) for number in range(5)]
    report, fates = carried(api, *wanted, may_write=lambda: api.writes < 2, at_once=1)
    assert list(fates.values()).count(Fate.DONE) == api.writes == 2
    assert report.stopped == "this replica leads no longer"


def test_every_end_is_told_once() -> None:
    told: list[str] = []
    api = Failing(BackendTrafficPolicy=INVALID)
    wanted = [emitted(kind, "one") for kind in ("Service", "BackendTrafficPolicy", "HTTPRoute")]
    report, _ = carried(api, *wanted, on_end=lambda ended: told.append(ended.step.title))
    assert told == [one.step.title for one in report.ended] and len(told) == 3
    assert {one.step.verb for one in report.ended} == {Verb.CREATE}
