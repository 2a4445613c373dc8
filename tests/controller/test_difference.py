"""What is written to get from what is there to what is wanted: in order, and no more than needed."""

import asyncio
import copy
from collections.abc import Iterable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp.compiler.emission import APPLY_ORDER, Emitted
from epp.compiler.findings import Origin
from epp.compiler.marks import Inventory, inventory, lacking
from epp.compiler.memory import Memory
from epp.compiler.options import Options, Target
from epp.controller.carrying import Fate, carry_out
from epp.controller.difference import Difference, Doubt, Key, Verb, difference, parts_of, rank
from epp.controller.fields import stamped
from tests.controller.model_api import ModelApi
from tests.controller.objects import INVENTORY, emitted, foreign, origin

CREATE, CHANGE, DELETE = Verb.CREATE, Verb.CHANGE, Verb.DELETE
KINDS = ("Service", "InferencePool", "SecurityPolicy", "BackendTrafficPolicy", "HTTPRoute")


def compared(api: ModelApi, *wanted: Emitted, doubt: Doubt | None = None) -> Difference:
    return difference(wanted, api.objects, inventory=INVENTORY, doubt=doubt)


def written(api: ModelApi, *wanted: Emitted) -> ModelApi:
    """The API after a whole round."""
    found = compared(api, *wanted)
    blocked = {source for one in found.conflicts for source in one.sources}
    asyncio.run(carry_out(found.steps, api, blocked=blocked))
    return api


def steps(found: Difference) -> list[tuple[Verb, str, str]]:
    return [(step.verb, step.key[0], step.key[2]) for step in found.steps]


def test_what_is_named_is_there_first_and_goes_last() -> None:
    api = ModelApi()
    old = [emitted(kind, "old") for kind in KINDS]
    new = [emitted(kind, "new") for kind in KINDS]
    written(api, *old)
    assert steps(compared(api, *reversed(new))) == [
        *[(CREATE, kind, "new") for kind in KINDS],
        *[(DELETE, kind, "old") for kind in reversed(KINDS)],
    ]


def test_what_is_equal_is_no_step() -> None:
    api = written(ModelApi(), emitted("Service", "one", value=1))
    assert steps(compared(api, emitted("Service", "one", value=1))) == []
    assert steps(compared(api, emitted("Service", "one", value=2))) == [(CHANGE, "Service", "one")]


def test_what_others_have_added_stays_and_what_they_have_changed_is_repaired() -> None:
    wanted = emitted("Service", "one", value=1)
    api = written(ModelApi(), wanted)
    there = api.objects["Service", "models", "one"]
    there["spec"]["clusterIP"] = "10.0.0.1"
    there["metadata"]["labels"]["theirs"] = "yes"
    assert steps(compared(api, wanted)) == []
    api.edit(("Service", "models", "one"), 7)
    assert steps(compared(api, wanted)) == [(CHANGE, "Service", "one")]
    written(api, wanted)
    assert there["spec"] == {"value": 1, "clusterIP": "10.0.0.1"}
    assert there["metadata"]["labels"]["theirs"] == "yes"


def test_what_is_not_wanted_any_more_of_an_object_goes() -> None:
    api = written(ModelApi(), emitted("Service", "one", value=1, more="x"))
    wanted = emitted("Service", "one", value=1)
    assert steps(compared(api, wanted)) == [(CHANGE, "Service", "one")]
    written(api, wanted)
    assert api.objects["Service", "models", "one"]["spec"] == {"value": 1}


def test_what_somebody_else_made_is_told_and_left() -> None:
    api = ModelApi()
    api.put(foreign("Service", "one", value=5))
    other = emitted("Service", "two").document
    api.put({**other, "metadata": {**other["metadata"], "labels": {"fleet-epp.dev/inventory": "b"}}})
    found = compared(api, emitted("Service", "one"), emitted("Service", "two"))
    assert steps(found) == []
    assert [(one.key[2], one.why) for one in found.conflicts] == [
        ("one", "it was made by kubectl and has no label fleet-epp.dev/inventory"),
        ("two", "it is of the inventory b"),
    ]
    of_nobody, of_another = (one.fix for one in found.conflicts)
    assert of_nobody == "delete it, or give it the label fleet-epp.dev/inventory=test"
    assert of_another.startswith("an object has one inventory") and "delete" not in of_another


def test_what_was_made_of_an_input_with_an_error_stays() -> None:
    api = written(
        ModelApi(), emitted("Service", "one", "broken", "whole"), emitted("Service", "two", "whole")
    )
    found = compared(api, doubt=Doubt(failed={"ModelRouter/models/broken"}))
    assert steps(found) == [(DELETE, "Service", "two")]
    assert found.kept == (("Service", "models", "one"),)


def test_what_was_made_of_a_kind_that_is_gone_stays() -> None:
    api = written(ModelApi(), emitted("Service", "one"))
    found = compared(api, doubt=Doubt(kinds={"ModelRouter"}))
    assert steps(found) == [] and found.kept == (("Service", "models", "one"),)


def test_a_policy_that_a_broken_input_shares_is_not_changed() -> None:
    api = ModelApi()
    before = [emitted(kind, "one", "broken", "whole", value=1) for kind in ("Service", "SecurityPolicy")]
    after = [emitted(kind, "one", "whole", value=2) for kind in ("Service", "SecurityPolicy")]
    written(api, *before)
    doubt = Doubt(failed={"ModelRouter/models/broken"})
    assert steps(compared(api, *after, doubt=doubt)) == [(CHANGE, "Service", "one")]


def test_a_new_route_waits_for_a_policy_that_is_not_changed() -> None:
    """It would be without that policy; others' routes do not wait."""
    api = written(ModelApi(), emitted("SecurityPolicy", "one", "broken", "whole", value=1))
    policy = emitted("SecurityPolicy", "one", "broken", value=2)
    mine, others = emitted("HTTPRoute", "mine", "broken"), emitted("HTTPRoute", "others", "whole")
    doubt = Doubt(failed={"ModelRouter/models/broken"})
    assert steps(compared(api, policy, mine, others, doubt=doubt)) == [(CREATE, "HTTPRoute", "others")]
    assert steps(compared(api, policy, mine, others)) == [
        (CHANGE, "SecurityPolicy", "one"),
        (CREATE, "HTTPRoute", "mine"),
        (CREATE, "HTTPRoute", "others"),
    ]


def test_but_not_for_what_is_of_a_model_in_error_alone() -> None:
    """Whose names are refused now: what stands of it stays, and nobody else lacks anything."""
    site, bad, good = "Fleet/models/site", "Fleet/models/site/bad", "Fleet/models/site/good"
    doubt = Doubt(failed={site, bad})
    assert lacking(frozenset({site, bad}), doubt.failed) == {bad}
    assert lacking(frozenset({site, bad, good}), doubt.failed) == {site, bad, good}
    assert lacking(frozenset({site}), doubt.failed) == {site}


def of_model(kind: str, name: str, *models: str, value: int) -> Emitted:
    """An object for models of one fleet."""
    parts = (replace(origin("site", kind="Fleet"), part=model) for model in models)
    return emitted(kind, name, *parts, value=value)


class TestARouteThatOnlyRefuses:
    """Of a model with an error: it needs no policy."""

    DOUBT = Doubt(failed={"Fleet/models/site", "Fleet/models/site/bad"})
    KEY = ("HTTPRoute", "models", "site-bad")

    def before(self) -> ModelApi:
        kinds = ("BackendTrafficPolicy", "HTTPRoute")
        return written(ModelApi(), *(of_model(kind, "site-bad", "bad", value=1) for kind in kinds))

    def wanted(self, *models: str) -> list[Emitted]:
        kinds = ("BackendTrafficPolicy", "HTTPRoute")
        return [of_model(kind, "site-bad", *models, value=2) for kind in kinds]

    def test_it_is_made_where_the_models_own_is_gone(self) -> None:
        api = self.before()
        del api.objects[self.KEY]
        found = compared(api, *self.wanted("bad"), doubt=self.DOUBT)
        assert steps(found) == [(CREATE, "HTTPRoute", "site-bad")]

    def test_not_where_it_stands(self) -> None:
        assert steps(compared(self.before(), *self.wanted("bad"), doubt=self.DOUBT)) == []

    def test_nor_beside_what_stands_under_another_name(self) -> None:
        api = self.before()
        refusal = of_model("HTTPRoute", "site-bad-01", "bad", value=2)
        assert steps(compared(api, refusal, doubt=self.DOUBT)) == []
        assert steps(compared(api, *self.wanted("bad"), refusal, doubt=self.DOUBT)) == []

    def test_what_serves_others_as_well_waits_for_its_policy(self) -> None:
        api = self.before()
        del api.objects[self.KEY]
        assert steps(compared(api, *self.wanted("bad", "good"), doubt=self.DOUBT)) == []


FLEET = origin("site", kind="Fleet")
GOOD, BAD, WORSE = (replace(FLEET, part=name) for name in ("good", "bad", "worse"))
CHAT, CODE = origin("chat"), origin("code")


@pytest.mark.parametrize(
    "failed, before, wanted, expected",
    [
        pytest.param(
            [BAD],
            [("SecurityPolicy", "all", GOOD, BAD), ("HTTPRoute", "good", GOOD)],
            [("SecurityPolicy", "all", GOOD), ("HTTPRoute", "good", GOOD), ("HTTPRoute", "more", GOOD)],
            [],
            id="of a fleet all that is frozen waits",
        ),
        pytest.param(
            [BAD],
            [("SecurityPolicy", "bad", BAD)],
            [("SecurityPolicy", "bad", BAD), ("HTTPRoute", "good", GOOD)],
            [(CREATE, "HTTPRoute", "good")],
            id="but not for what is of the one in error alone",
        ),
        pytest.param(
            [CHAT],
            [("SecurityPolicy", "all", CHAT, CODE)],
            [("SecurityPolicy", "all", CODE), ("HTTPRoute", "chat", CHAT), ("HTTPRoute", "code", CODE)],
            [(CREATE, "HTTPRoute", "code")],
            id="whoever has lost the policy waits",
        ),
        pytest.param(
            [CHAT, CODE],
            [("SecurityPolicy", "all", CHAT)],
            [("SecurityPolicy", "all", CHAT, CODE), ("HTTPRoute", "code", CODE)],
            [],
            id="and whoever was to get it",
        ),
        pytest.param(
            [CHAT],
            [("SecurityPolicy", "all", CHAT), ("HTTPRoute", "both", CODE)],
            [("SecurityPolicy", "all", CHAT), ("HTTPRoute", "both", CODE, CHAT)],
            [(CHANGE, "HTTPRoute", "both")],
            id="a route that is there is changed",
        ),
        pytest.param(
            [CHAT],
            [("SecurityPolicy", "all", CHAT), ("HTTPRoute", "both", CODE, CHAT)],
            [("SecurityPolicy", "all", CHAT), ("HTTPRoute", "both", CODE)],
            [],
            id="unless it is of the one in error",
        ),
        pytest.param(
            [CHAT],
            [("SecurityPolicy", "all", CHAT)],
            [("SecurityPolicy", "all", CHAT), ("Service", "chat", CHAT)],
            [(CREATE, "Service", "chat")],
            id="and what nobody asks is made",
        ),
        pytest.param(
            [CHAT],
            [("Service", "chat", CHAT), ("Service", "code", CODE), ("Service", "both", CODE, CHAT)],
            [],
            [(DELETE, "Service", "code")],
            id="what is not wanted any more stays",
        ),
    ],
)
def test_of_what_is_in_error_nothing_frozen_is_touched(
    failed: list[Origin],
    before: list[tuple[str, str, *tuple[Origin, ...]]],
    wanted: list[tuple[str, str, *tuple[Origin, ...]]],
    expected: list[tuple[Verb, str, str]],
) -> None:
    there, after = (
        [emitted(*one, value=value) for one in each] for value, each in ((1, before), (2, wanted))
    )
    doubt = Doubt(failed={name for one in failed for name in (one.whole, one.object)})
    assert steps(compared(written(ModelApi(), *there), *after, doubt=doubt)) == expected


def test_a_part_is_not_its_whole_and_a_longer_name_is_another() -> None:
    api = written(ModelApi(), emitted("Service", "one", GOOD, BAD))
    (step,) = compared(api).steps
    assert step.sources == {GOOD.object, BAD.object}
    assert parts_of(frozenset({"Fleet/a/site", "Fleet/a/site2"})) == {"Fleet/a/site", "Fleet/a/site2"}


def test_what_is_settled_is_so_until_something_else_is_wanted() -> None:
    one, two = (emitted("Service", "one", value=value) for value in (1, 2))
    api = written(ModelApi(), one)
    settled = {one.key: (stamped(one.document), _bare(api.objects[one.key]))}
    assert steps(difference([two], api.objects, inventory=INVENTORY, settled=settled)) == [
        (CHANGE, "Service", "one")
    ]


def test_of_another_inventory_nothing_is_left_and_one_without_a_gateway_has_all() -> None:
    api = ModelApi()
    for name, other in (("mine", "test"), ("others", "b")):
        labels = {"fleet-epp.dev/inventory": other, "fleet-epp.dev/target": "agentgateway"}
        one = foreign("Service", name, value=1)
        api.put({**one, "metadata": {**one["metadata"], "labels": labels}})
    mine = ("Service", "models", "mine")
    assert difference([], api.objects, inventory=INVENTORY) == Difference(left=(("agentgateway", mine),))
    whole = difference([], api.objects, inventory=Inventory("test"))
    assert steps(whole) == [(DELETE, "Service", "mine")] and whole.left == ()


def test_what_is_being_deleted_is_waited_for() -> None:
    wanted = emitted("Service", "one", value=1)
    api = written(ModelApi(), wanted)
    api.objects["Service", "models", "one"]["metadata"]["deletionTimestamp"] = "2026-11-21T00:00:00Z"
    assert steps(compared(api, emitted("Service", "one", value=2))) == []
    assert steps(compared(api)) == []


def test_a_value_that_the_api_respells_is_written_once() -> None:
    wanted = emitted("Service", "one", value="1000m")
    api = written(ModelApi(), wanted)
    there = api.objects["Service", "models", "one"]
    there["spec"]["value"] = "1"
    assert steps(compared(api, wanted)) == [(CHANGE, "Service", "one")]
    settled = {wanted.key: (stamped(wanted.document), _bare(there))}
    again = difference([wanted], api.objects, inventory=INVENTORY, settled=settled)
    assert steps(again) == []
    there["spec"]["value"] = "2"
    assert steps(difference([wanted], api.objects, inventory=INVENTORY, settled=settled)) == [
        (CHANGE, "Service", "one")
    ]


def test_what_is_not_wanted_any_more_goes_from_within_a_list_that_is_one_value() -> None:
    api = written(ModelApi(), emitted("HTTPRoute", "one", many=[{"name": "a", "override": "b"}]))
    less = emitted("HTTPRoute", "one", many=[{"name": "a"}])
    assert steps(compared(api, less)) == [(CHANGE, "HTTPRoute", "one")]
    written(api, less)
    there = api.objects["HTTPRoute", "models", "one"]
    assert there["spec"]["many"] == [{"name": "a"}]
    there["spec"]["many"][0]["weight"] = 1  # the API's default
    assert steps(compared(api, less)) == []


def _bare(there: object) -> object:
    from epp.controller.fields import bare

    return copy.deepcopy(bare(there))


# --- whatever is wanted, whatever is there ---------------------------------------------------------------

names = st.sampled_from("abc")
objects = st.lists(
    st.builds(
        emitted,
        st.sampled_from(KINDS),
        names,
        st.sampled_from(["chat", "code"]),
        value=st.one_of(st.integers(0, 3), st.dictionaries(names, st.integers(0, 2), min_size=1)),
        many=st.lists(st.one_of(st.integers(0, 2), st.dictionaries(names, st.integers(0, 1))), max_size=2),
    ),
    max_size=8,
    unique_by=lambda one: one.key,
)
strangers = st.lists(
    st.builds(foreign, st.sampled_from(KINDS), st.sampled_from("cd"), value=st.integers()), max_size=3
)


def world(before: Iterable[Emitted], others: Iterable[dict[str, object]]) -> ModelApi:
    api = ModelApi()
    for one in others:
        api.put(one)
    return written(api, *before)


def ours(api: ModelApi) -> dict[Key, object]:
    return {
        key: (one["spec"], one["metadata"]["labels"], one["metadata"]["annotations"])
        for key, one in api.objects.items()
        if "labels" in one["metadata"]
    }


@given(objects, objects, strangers)
def test_after_the_steps_it_is_as_wanted_and_nothing_is_left_to_do(
    before: list[Emitted], wanted: list[Emitted], others: list[dict[str, object]]
) -> None:
    api = world(before, others)
    theirs = {key: copy.deepcopy(one) for key, one in api.objects.items() if "labels" not in one["metadata"]}
    written(api, *wanted)
    free = {one.key: one.document for one in wanted if one.key not in theirs}
    is_blocked = any(one.key in theirs for one in wanted)
    if not is_blocked:
        assert ours(api) == {
            key: (one["spec"], one["metadata"]["labels"], stamped(one)["metadata"]["annotations"])
            for key, one in free.items()
        }
    assert {key: api.objects[key] for key in theirs} == theirs
    if not is_blocked:
        assert steps(compared(api, *wanted)) == []


@given(objects, objects, strangers, st.data())
def test_a_round_that_is_killed_is_ended_by_the_next(
    before: list[Emitted], wanted: list[Emitted], others: list[dict[str, object]], data: st.DataObject
) -> None:
    whole = written(world(before, others), *wanted)
    api = world(before, others)
    there = api.writes
    api.limit = there + data.draw(st.integers(0, max(0, whole.writes - there)))
    asyncio.run(_killed(api, compared(api, *wanted)))
    api.limit = None
    written(api, *wanted)
    assert ours(api) == ours(whole)


@given(
    st.lists(st.tuples(objects, st.booleans()), max_size=5),
    strangers,
    st.sets(st.sampled_from(["chat", "code"])),
)
def test_with_a_memory_it_is_the_same(
    turns: list[tuple[list[Emitted], bool]], others: list[dict[str, object]], failed: set[str]
) -> None:
    """What is wanted and what is there change, and much of it does not."""
    api, memory = world((), others), Memory()
    live: dict[Key, dict[str, object]] = {}
    kept: dict[Key, Emitted] = {}
    doubt = Doubt(failed={f"ModelRouter/models/{name}" for name in failed})
    for wanted, is_written in turns:
        kept = {one.key: one if kept.get(one.key) != one else kept[one.key] for one in wanted}
        if is_written:
            written(api, *kept.values())
        live = {
            key: live[key] if live.get(key) == one else copy.deepcopy(one) for key, one in api.objects.items()
        }
        plain = difference(kept.values(), live, inventory=INVENTORY, doubt=doubt)
        with memory as call:
            assert difference(kept.values(), live, inventory=INVENTORY, doubt=doubt, call=call) == plain
        assert memory.size == len(kept)


async def _killed(api: ModelApi, found: Difference) -> None:
    blocked = {source for one in found.conflicts for source in one.sources}
    report = await carry_out(found.steps, api, blocked=blocked)
    assert all(one.fate is not Fate.FAILED for one in report.ended)


@given(objects, objects)
def test_the_order_is_the_safe_one(before: list[Emitted], wanted: list[Emitted]) -> None:
    found = compared(world(before, ()), *wanted).steps
    applied = [rank(step.key)[0] for step in found if step.verb is not DELETE]
    deleted = [rank(step.key)[0] for step in found if step.verb is DELETE]
    assert applied == sorted(applied) and deleted == sorted(deleted, reverse=True)
    assert [step.verb is DELETE for step in found] == sorted(step.verb is DELETE for step in found)


@pytest.mark.parametrize("kind", APPLY_ORDER)
def test_every_kind_has_its_place(kind: str) -> None:
    assert rank((kind, "", ""))[0] == APPLY_ORDER.index(kind)


@pytest.mark.parametrize(
    "target, is_ours",
    [
        pytest.param(None, True, id="handed over"),
        pytest.param("gateway-api", True, id="for our gateway"),
        pytest.param("agentgateway", False, id="for another gateway"),
    ],
)
def test_what_our_inventory_has_for_another_gateway_is_not_ours(target: str | None, is_ours: bool) -> None:
    api = ModelApi()
    for name in ("wanted", "left"):
        labels = {"fleet-epp.dev/inventory": "test", **({"fleet-epp.dev/target": target} if target else {})}
        one = foreign("Service", name, value=1)
        api.put({**one, "metadata": {**one["metadata"], "labels": labels}})
    found = difference([emitted("Service", "wanted", value=2)], api.objects, inventory=INVENTORY)
    left = ("Service", "models", "left")
    if is_ours:
        assert [(one.verb, one.key[2]) for one in found.steps] == [
            (Verb.CHANGE, "wanted"),
            (Verb.DELETE, "left"),
        ]
        assert not found.conflicts and not found.left
    else:
        assert not found.steps and found.left == (("agentgateway", left),)
        assert [one.why for one in found.conflicts] == ["it is of the inventory test, made for agentgateway"]


def test_a_newer_version_of_a_gateway_goes_on_with_what_is_there() -> None:
    old, new = (Options(one) for one in (Target.ENVOY_AI_GATEWAY_0_7, Target.ENVOY_AI_GATEWAY_1_1))
    assert inventory(old) == inventory(new) != inventory(Options(Target.AGENTGATEWAY))
