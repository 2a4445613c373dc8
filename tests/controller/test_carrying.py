"""What becomes of steps when some of them fail."""

import asyncio
import json
from pathlib import Path
from typing import Any

from epp.commands.files import load
from epp.compiler.compile import compile_documents
from epp.compiler.emission import ROUTES
from epp.compiler.intent import GatewayRef
from epp.compiler.options import Options, Target
from epp.controller.carrying import Ended, Fate, Report, carry_out
from epp.controller.difference import Key, Step, Verb, difference, key_of
from epp.controller.fields import Object
from epp.runtime.kubernetes.store import ApiFault
from tests.controller.model_api import ModelApi
from tests.controller.objects import INVENTORY, emitted


class Failing(ModelApi):
    """Answers ``faults`` to writes of objects of these kinds and names."""

    def __init__(self, **faults: Exception) -> None:
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
    return difference(wanted, api.objects, inventory=INVENTORY).steps


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
    api.limit = 2
    report, fates = carried(api, *wanted)
    assert list(fates.values()).count(Fate.DONE) == api.writes == 2
    assert report.stopped == "this replica leads no longer"


def test_every_end_is_told_once() -> None:
    told: list[str] = []
    api = Failing(BackendTrafficPolicy=INVALID)
    wanted = [emitted(kind, "one") for kind in ("Service", "BackendTrafficPolicy", "HTTPRoute")]
    report, _ = carried(api, *wanted, on_end=lambda ended: told.append(ended.step.title))
    assert told == [one.step.title for one in report.ended] and len(told) == 3
    assert {one.step.verb for one in report.ended} == {Verb.CREATE}


# --- a fleet, of which much is shared ----------------------------------------------------------------------

FLEETS = Path(__file__).parents[2] / "docs" / "examples"


class Refusing(ModelApi):
    """Takes everything but one object."""

    def __init__(self, refused: Key) -> None:
        super().__init__()
        self._refused = refused

    async def create(self, document: Object) -> Object:
        if key_of(document) == self._refused:
            raise INVALID
        return await super().create(document)


def fleet(example: str, target: Target) -> tuple[Step, ...]:
    documents = load([str(FLEETS / example / "fleet.yaml")]).documents
    options = Options(target, gateway=GatewayRef("ai", "edge"), inventory=INVENTORY.name)
    return difference(compile_documents(documents, options).objects, {}, inventory=INVENTORY).steps


def refused(steps: tuple[Step, ...], step: Step) -> dict[Key, Fate]:
    report = asyncio.run(carry_out(steps, Refusing(step.key)))
    return {one.step.key: one.fate for one in report.ended}


def test_of_a_fleet_only_the_models_suffer_whose_pool_is_refused() -> None:
    steps = fleet("partner-site", Target.ENVOY_AI_GATEWAY_1_1)
    pools = [step for step in steps if step.key[0] == "InferencePool"]
    assert len(pools) > 5
    for pool in pools:
        fates = refused(steps, pool)
        left = {key for key, fate in fates.items() if fate is Fate.SKIPPED and key[0] in ROUTES}
        named = {step.key for step in steps if step.key[0] in ROUTES and pool.sources & step.sources}
        assert named <= left and len(left) < 6
        policies = {key for key in fates if key[0] == "BackendTrafficPolicy"}
        assert policies and all(fates[key] is Fate.DONE for key in policies)


def test_of_a_fleet_no_route_is_applied_without_the_policy_that_all_share() -> None:
    steps = fleet("partner-site", Target.ENVOY_AI_GATEWAY_1_1)
    for kind in ("SecurityPolicy", "BackendTrafficPolicy"):
        (policy,) = [step for step in steps if step.key[0] == kind]
        fates = refused(steps, policy)
        assert {fates[step.key] for step in steps if step.key[0] in ROUTES} == {Fate.SKIPPED}


def test_no_route_is_applied_that_names_what_is_not_there() -> None:
    steps = fleet("partner-site", Target.ENVOY_AI_GATEWAY_1_1)
    (backend,) = [step for step in steps if step.key[0] == "Backend" and "-north-" in step.key[2]]
    fates = refused(steps, backend)
    name = f'"{backend.key[2]}"'
    to_it = {step.key for step in steps if step.key[0] in ROUTES and name in json.dumps(step.wanted)}
    routes = {key: fate for key, fate in fates.items() if key[0] in ROUTES}
    assert to_it and all(routes[key] is Fate.SKIPPED for key in to_it)
    assert all(routes[key] is Fate.DONE for key in routes.keys() - to_it)


def test_what_a_route_of_several_names_is_not_deleted_while_it_stays_as_it_is() -> None:
    api = Failing()
    carried(api, emitted("InferencePool", "old", "code"), emitted("HTTPRoute", "both", "chat", "code", a=1))
    api.faults = {"SecurityPolicy": INVALID}
    _, fates = carried(
        api, emitted("SecurityPolicy", "new", "chat"), emitted("HTTPRoute", "both", "chat", "code", a=2)
    )
    assert fates == {
        ("SecurityPolicy", "new"): Fate.FAILED,
        ("HTTPRoute", "both"): Fate.SKIPPED,
        ("InferencePool", "old"): Fate.SKIPPED,
    }


def test_a_defect_with_one_object_is_its_own() -> None:
    api = Failing(Service=KeyError("uid"))
    report, fates = carried(
        api,
        emitted("Service", "one", "chat"),
        emitted("Service", "two", "code"),
        emitted("HTTPRoute", "x", "y"),
    )
    assert fates["HTTPRoute", "x"] is Fate.DONE
    assert {one.why for one in report.of(Fate.FAILED)} == {"defect: KeyError: 'uid'"}
    assert report.stopped == ""


def test_what_is_held_counts_as_it_ended_before() -> None:
    api = ModelApi()
    held, route, other = steps(
        api,
        emitted("Service", "one", "chat"),
        emitted("HTTPRoute", "chat", "chat"),
        emitted("HTTPRoute", "code", "code"),
    )
    before = Ended(held, Fate.FAILED, "the API answers 422: wrong")
    report = asyncio.run(carry_out([route, other], api, held=[before]))
    assert report.ended[0] is before
    assert [one.fate for one in report.ended] == [Fate.FAILED, Fate.SKIPPED, Fate.DONE]


def test_a_report_is_whole_when_everything_was_done() -> None:
    """``epp apply`` ends with 1 where it is not."""
    assert carried(ModelApi())[0].is_whole
    assert carried(ModelApi(), emitted("Service", "one"))[0].is_whole
    failed, _ = carried(
        Failing(Service=INVALID), emitted("Service", "one"), emitted("HTTPRoute", "b", "other")
    )
    assert not failed.is_whole and [one.fate for one in failed.ended] == [Fate.FAILED, Fate.DONE]
    away, _ = carried(Failing(Service=AWAY), emitted("Service", "one"))
    assert not away.is_whole
    assert not Report(stopped="this replica leads no longer").is_whole
