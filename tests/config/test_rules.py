"""What InferenceObjectives and InferenceModelRewrites come to, and what is wrong with some of them."""

import json
from collections.abc import Collection
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp.config.cluster.groups import OLD_POOL_GROUP
from epp.config.cluster.objects import Members, Objective, Rewrite
from epp.config.cluster.rules import Asked, Rules, rules
from epp.core.directives import Rule

POOL = Members(name="qwen", namespace="models", selector="app=qwen", ports=(8000,))
Targets = dict[str, int | None] | str


def of(kind: Any, name: str, spec: Any, **meta: Any) -> Any:
    fields = {"metadata": {"name": name, **meta}, "spec": spec}
    return msgspec.json.decode(json.dumps(fields), type=kind)


def objective(name: str, priority: int | None = None, pool: str = "qwen", **more: Any) -> Objective:
    group = more.pop("group", None)
    ref = {"name": pool, **({"group": group} if group else {})}
    spec = {"poolRef": ref, **({} if priority is None else {"priority": priority})}
    return of(Objective, name, spec, **more)  # type: ignore[no-any-return]


def rewrite(name: str, *rules: tuple[str, Targets], day: int = 1, pool: str = "qwen") -> Rewrite:
    """Each rule: the models it is about (``a b``; empty: any), and the models to ask for."""
    written = [
        {
            "matches": [{"model": {"type": "Exact", "value": model}} for model in models.split()],
            "targets": [_target(*one) for one in _shares(targets)],
        }
        for models, targets in rules
    ]
    spec = {"poolRef": {"name": pool}, "rules": written}
    return of(Rewrite, name, spec, creationTimestamp=f"2026-11-{day:02}T10:00:00Z")  # type: ignore[no-any-return]


def matching(name: str, model: dict[str, str] | None) -> Rewrite:
    """One that is about a model in another way."""
    match = {} if model is None else {"model": model}
    rule = {"matches": [match], "targets": [{"modelRewrite": "v2"}]}
    return of(Rewrite, name, {"poolRef": {"name": "qwen"}, "rules": [rule]})  # type: ignore[no-any-return]


def _shares(targets: Targets) -> Collection[tuple[str, int | None]]:
    return [(targets, None)] if isinstance(targets, str) else targets.items()


def _target(model: str, weight: int | None) -> dict[str, Any]:
    return {"modelRewrite": model, **({} if weight is None else {"weight": weight})}


def run(*rewrites: Rewrite, before: Rules | None = None) -> Rules:
    return rules(Asked(rewrites=rewrites), POOL, before=before.good if before else None)


# --- objectives -------------------------------------------------------------------------------------


def test_objectives_are_priorities_by_name() -> None:
    found = rules(Asked(objectives=[objective("chat", 10), objective("batch", -5), objective("plain")]), POOL)
    assert found.priorities == {"chat": 10, "batch": -5, "plain": 0}
    assert found.findings == ()


def test_one_that_is_deleted_or_about_another_pool_does_not_count() -> None:
    gone = objective("gone", 1, deletionTimestamp="2026-11-21T10:00:00Z")
    found = rules(
        Asked(objectives=[gone, objective("theirs", 2, pool="phi")]), POOL, neighbours={"qwen", "phi"}
    )
    assert (found.priorities, found.findings) == ({}, ())


def test_one_about_no_pool_is_told() -> None:
    asked = Asked(objectives=[objective("lost", 2, pool="qven")], rewrites=[rewrite("lost", pool="qven")])
    assert rules(asked, POOL).findings == (), "nothing is known of other pools"
    others = Asked(objectives=[objective("theirs", 2, pool="phi", group=OLD_POOL_GROUP)])
    assert rules(others, POOL, neighbours={"qwen"}).findings == (), "nor of those of the other group"
    several = Asked(objectives=[objective(name, 2, pool="qven") for name in "ba"])
    assert [said.split(":")[0] for said in rules(several, POOL, neighbours={"qwen"}).findings] == [
        "InferenceObjective a",
        "InferenceObjective b",
    ]
    assert rules(asked, POOL, neighbours={"qwen"}).findings == (
        "InferenceObjective lost: there is no InferencePool qven: create it or correct poolRef",
        "InferenceModelRewrite lost: there is no InferencePool qven: create it or correct poolRef",
    )


def test_the_group_of_the_pool_is_part_of_its_name() -> None:
    old = objective("old", 3, group=OLD_POOL_GROUP)
    asked = Asked(old_objectives=[objective("new", 2), old])
    found = rules(asked, POOL)
    assert found.priorities == {"new": 2}
    assert found.findings == (
        (
            "InferenceObjective old: poolRef is about InferencePool qwen of inference.networking.x-k8s.io,"
            " not about the InferencePool qwen of inference.networking.k8s.io: correct poolRef"
        ),
    )
    assert rules(asked, POOL, group=OLD_POOL_GROUP).priorities == {"old": 3}


def test_where_both_groups_are_there_the_new_one_counts() -> None:
    """As upstream: even if it has no objects."""
    old = [objective("chat", 1), objective("theirs", 1, pool="phi")]
    assert rules(Asked(old_objectives=old), POOL).priorities == {"chat": 1}
    found = rules(Asked(objectives=[], old_objectives=old), POOL)
    assert found.priorities == {}
    assert found.findings == (
        (
            "InferenceObjective chat of inference.networking.x-k8s.io: passed over, since there are those of"
            " llm-d.ai: create them there"
        ),
    )


def test_of_many_that_are_passed_over_a_few_are_named() -> None:
    old = [objective(name, 1) for name in "gfedcba"]
    found = rules(Asked(objectives=[], old_objectives=old), POOL)
    assert found.findings[0].startswith("InferenceObjective a, b, c, d, e and 2 more of ")


# --- rewrites ---------------------------------------------------------------------------------------


def test_a_rule_is_looked_up_by_the_model_that_is_asked_for() -> None:
    found = run(rewrite("canary", ("qwen chat", {"qwen-v1": 90, "qwen-v2": 10}), ("", "base")))
    shared = Rule("canary", ["qwen-v1", "qwen-v2"], [90, 10])
    assert found.by_model == {"qwen": shared, "chat": shared}
    assert found.any_model == Rule("canary", ["base"], [1])
    assert found.findings == ()


@pytest.mark.parametrize(
    "targets, models, weights, finding",
    [
        ({"a": None, "b": None}, ["a", "b"], [1, 1], ""),
        ({"a": 3, "b": 1}, ["a", "b"], [3, 1], ""),
        (
            {"a": 3, "b": None},
            ["a"],
            [3],
            (
                "InferenceModelRewrite one: rules[0]: targets without a weight get nothing, since others have"
                " one: give each one"
            ),
        ),
    ],
)
def test_weights_are_shares(
    targets: dict[str, int | None], models: list[str], weights: list[int], finding: str
) -> None:
    found = run(rewrite("one", ("qwen", targets)))
    assert found.by_model == {"qwen": Rule("one", models, weights)}
    assert found.findings == ((finding,) if finding else ())


def test_the_older_object_wins_and_then_the_earlier_rule() -> None:
    found = run(
        rewrite("a", ("qwen", "young"), ("", "young"), day=2),
        rewrite("b", ("qwen", "old"), ("qwen", "later rule"), ("", "old"), day=1),
    )
    assert found.by_model["qwen"].models == ("old",)
    assert found.any_model == Rule("b", ["old"], [1])
    same_age = run(rewrite("b", ("qwen", "of b")), rewrite("a", ("qwen", "of a")))
    assert same_age.by_model["qwen"].models == ("of a",)


@pytest.mark.parametrize(
    "bad, fault",
    [
        (
            rewrite("one", ("qwen", {"v2": 0})),
            "rules[0].targets[0].weight must be at least 1, got 0: take the target out",
        ),
        (
            rewrite("one", ("qwen", {"v1": 1, "v2": -3})),
            "rules[0].targets[1].weight must be at least 1, got -3: take the target out",
        ),
        (rewrite("one", ("qwen", {})), "rules[0] has no targets: name the model to ask for in modelRewrite"),
        (
            rewrite("one", ("", "x"), ("qwen", "")),
            "rules[1].targets[0].modelRewrite is empty: name the model to ask for",
        ),
        (
            matching("one", {"type": "Prefix", "value": "qwen"}),
            "rules[0].matches: only model with type Exact is there",
        ),
        (matching("one", None), "rules[0].matches: only model with type Exact is there"),
        (
            rewrite("one", ("qwen", "v2"), ("v2", "qwen")),
            "its rules are a loop: qwen to v2 to qwen: take one of them out",
        ),
    ],
)
def test_what_cannot_be_carried_out_is_left_out_or_stays_what_it_was(bad: Rewrite, fault: str) -> None:
    assert run(bad) == Rules(findings=(f"InferenceModelRewrite one: {fault}; it is left out",))
    good = run(rewrite("one", ("qwen", "v1")))
    still = run(bad, before=good)
    assert still.by_model == good.by_model
    assert still.findings == (f"InferenceModelRewrite one: {fault}; what it said before stays",)
    assert run(bad, before=still) == still, "and goes on staying"
    assert run(rewrite("one", ("qwen", "v3")), before=still).by_model["qwen"].models == ("v3",)
    assert run(before=still) == Rules(), "what is deleted does not stay"


def test_what_was_said_before_does_not_stay_where_it_would_close_a_loop() -> None:
    before = run(rewrite("young", ("x", "y"), day=2))
    found = run(rewrite("old", ("y", "x"), day=1), rewrite("young", ("x", {"y": 0}), day=2), before=before)
    assert set(found.by_model) == {"y"}
    assert found.findings == (
        (
            "InferenceModelRewrite young: rules[0].targets[0].weight must be at least 1, got 0: take the"
            " target out; it is left out"
        ),
    )


def test_of_several_objects_the_one_that_closes_a_loop_is_left_out() -> None:
    a, b = rewrite("a", ("x", "y"), day=1), rewrite("b", ("y", "z"), day=2)
    c = rewrite("c", ("z", {"z": 1, "x": 1}), day=3)
    found = run(c, b, a)
    assert set(found.by_model) == {"x", "y"}
    assert found.findings == (
        (
            "InferenceModelRewrite c: its rules are a loop: z to x to y to z: take one of them out; it is"
            " left out"
        ),
    )


def test_what_is_no_loop() -> None:
    """A rewrite happens once: a model may keep a share, and any model's target may have a rule of its own."""
    found = run(rewrite("a", ("x", {"x": 9, "y": 1}), ("", "base"), ("base", "base-v2")))
    assert found.findings == ()
    assert set(found.by_model) == {"x", "base"}


MODELS = st.sampled_from(["a", "b", "c", "d"])
REWRITES = st.lists(
    st.builds(
        lambda name, rules, day: rewrite(name, *rules, day=day),
        st.sampled_from(["one", "two", "three"]),
        st.lists(
            st.tuples(
                st.lists(MODELS, max_size=2).map(" ".join),
                st.dictionaries(MODELS, st.sampled_from([None, 0, 1, 5]), max_size=2),
            ),
            max_size=3,
        ),
        st.integers(1, 3),
    ),
    max_size=3,
    unique_by=lambda one: one.metadata.name,
)


@given(first=REWRITES, second=REWRITES)
def test_whatever_is_written_rules_can_be_carried_out(first: list[Rewrite], second: list[Rewrite]) -> None:
    before = run(*first)
    found = run(*second, before=before)
    assert run(*reversed(second), before=before) == found
    assert run(*second, before=found).by_model == found.by_model, "asked again it is the same"
    for rule in (*found.by_model.values(), *filter(None, [found.any_model])):
        assert rule.models
        assert all(weight > 0 for weight in rule.weights)
        assert len(rule.models) == len(rule.weights)
    for start in found.by_model:  # whoever follows any way never comes back
        ahead, seen = {start}, set()
        while ahead:
            here = ahead.pop()
            seen.add(here)
            rule_of = found.by_model.get(here)
            following = set(rule_of.models if rule_of else ()) - {here}
            assert start not in following
            ahead |= following - seen
