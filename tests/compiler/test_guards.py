"""A router with an error was to keep sensitive requests: no younger one gets them meanwhile."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp.compiler import guards
from epp.compiler.compile import Compiled
from epp.compiler.documents import Document
from epp.compiler.intent import Router
from epp.compiler.options import Target
from tests.compiler import makers
from tests.compiler.test_names_kept import OLD, YOUNG, compiled, fleet, router

OLDER, YOUNGER = "ModelRouter/llm/older", "ModelRouter/llm/younger"
HEADER = "x-llmkube-classification"
TYPO = {"name": "t", "match": {"models": ["b"]}, "route": {"backends": ["nobody"]}}


def guard(match: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"name": "g", "match": match, "route": {"backends": ["b"]}, "failClosed": True, **more}


def older(*rules: Any, created: str = OLD, **more: Any) -> Document:
    return router("older", created, **{"rules": [*rules, TYPO], **more})


def younger(*models: str) -> Document:
    """Which serves any model where it names none."""
    return router("younger", YOUNG, *models)


def told(result: Compiled) -> list[tuple[str, str]]:
    """Of whom, and how grave."""
    codes = (one for one in result.findings if one.code == "RequestsOfAnother")
    return [(one.origin.object, one.severity.value) for one in codes]


PII = guard({"models": ["a"], "dataClassification": ["pii"]})


@pytest.mark.parametrize("target", Target)
@pytest.mark.parametrize("models", [(), ("*",), ("a*", "c")], ids=str)
def test_what_would_take_them_has_an_error(models: tuple[str, ...], target: Target) -> None:
    """Whatever the gateway."""
    result = compiled(older(PII), younger(*models), target=target)
    assert told(result) == [(YOUNGER, "error")]
    assert result.failed == {OLDER, YOUNGER}
    assert not [one for one in result.objects if any(each.name == "younger" for each in one.sources)]
    (found,) = (one for one in result.findings if one.code == "RequestsOfAnother")
    assert found.message == (
        f"{OLDER} has an error, and is to keep sensitive requests for a: until that is mended rule r of"
        f" {YOUNGER} would take them"
    )
    assert found.fix.startswith(f"mend {OLDER}, ")


@pytest.mark.parametrize("models", [("c",), ("b*",)], ids=str)
def test_what_is_for_other_models_has_none(models: tuple[str, ...]) -> None:
    assert told(compiled(older(PII), younger(*models))) == []


def test_nor_where_nothing_is_sensitive() -> None:
    for match in ({"models": ["a"]}, {"models": ["a"], "dataClassification": ["public"]}):
        rule = guard(match, failClosed=False)
        assert told(compiled(older(rule), younger())) == []


def test_nor_at_another_gateway() -> None:
    elsewhere = older(PII, gatewayRef={"name": "other", "namespace": "edge"})
    assert told(compiled(elsewhere, younger())) == []


def test_an_older_one_was_there_before_and_is_named() -> None:
    result = compiled(older(PII, created="2026-03-01T00:00:00Z"), younger())
    assert told(result) == [(OLDER, "warning")] and YOUNGER not in result.failed


@pytest.mark.parametrize("models", [(), ("c",)], ids=str)
def test_a_header_alone_is_a_guard(models: tuple[str, ...]) -> None:
    for match in ({"dataClassification": ["PHI"]}, {"headers": {HEADER.title(): "pii"}}):
        assert told(compiled(older(guard(match)), younger(*models))) == [(YOUNGER, "error")]


@pytest.mark.parametrize(
    "rule",
    [
        pytest.param(guard({"models": ["a"], "dataClasification": ["pii"]}, failClosed=None), id="misspelt"),
        pytest.param(guard({"dataClassification": "pii"}, failClosed=None), id="no-list"),
        pytest.param(guard({"dataClassification": [7]}, failClosed=None), id="no-text"),
        pytest.param(guard({"models": ["a"]}), id="fail-closed"),
        pytest.param({"mach": {"dataClassification": ["pii"]}}, id="no-match"),
        pytest.param(7, id="no-rule"),
    ],
)
def test_what_cannot_be_read_may_be_sensitive(rule: Any) -> None:
    """It costs no rule that names its models."""
    assert told(compiled(older(rule), younger())) == [(YOUNGER, "error")]
    assert told(compiled(older(rule), younger("c"))) == []


def test_nor_can_rules_that_are_no_list() -> None:
    assert told(compiled(older(rules={"a": 1}), younger())) == [(YOUNGER, "error")]


@pytest.mark.parametrize(
    "classification", [{"sensitiveClassifications": ["secret"]}, {"sensitiv": ["secret"]}]
)
def test_which_classes_are_sensitive_its_policy_says(classification: dict[str, Any]) -> None:
    rule = guard({"models": ["a"], "dataClassification": ["secret"]}, failClosed=False)
    broken = older(rule, policy={"classification": classification})
    assert told(compiled(broken, younger())) == [(YOUNGER, "error")]


def site(**more: Any) -> Document:
    """A younger fleet that serves any model by a provider."""
    anything = {"name": "*", "provider": "openai", "secret": "key"}
    meta = {"name": "site", "namespace": "llm", "creationTimestamp": YOUNG}
    return replace(fleet(), content={**fleet(anything, **more).content, "metadata": meta})


@pytest.mark.parametrize(
    "sensitive, is_safe",
    [
        ({"classes": ["PII"], "header": HEADER}, True),
        ({"classes": ["phi"], "header": HEADER}, False),
        ({"classes": ["pii"], "header": "x-other"}, False),
    ],
)
def test_to_be_refused_is_safe(sensitive: dict[str, Any], is_safe: bool) -> None:
    for broken in (older(PII), older(guard({"dataClassification": ["pii"]}))):
        assert told(compiled(broken, site(sensitive=sensitive))) == (
            [] if is_safe else [("Fleet/llm/site/*", "error")]
        )


class TestOfAFleet:
    """Which has an error as a whole: each of its names is kept."""

    def older(self, **more: Any) -> Document:
        return fleet({"name": "a", "pods": {"app": "a"}}, budgets=[{"tokens": "5X"}], **more)

    @pytest.mark.parametrize(
        "more", [{"sensitive": {"classes": ["pii"]}}, {"sensitive": 7}, {"sensitve": {"classes": ["pii"]}}]
    )
    def test_its_sensitive_requests_are_kept(self, more: dict[str, Any]) -> None:
        assert told(compiled(self.older(**more), younger())) == [(YOUNGER, "error")]
        assert told(compiled(self.older(**more), younger("c"))) == []

    def test_without_a_class_there_are_none(self) -> None:
        assert told(compiled(self.older(), younger())) == []

    def test_with_a_default_they_are_of_any_model(self) -> None:
        asked = self.older(sensitive={"classes": ["pii"]}, defaultModel="a")
        assert told(compiled(asked, younger("c"))) == [(YOUNGER, "error")]

    def test_with_an_error_in_its_only_model_that_is_refused(self) -> None:
        broken = fleet({"name": "a", "pods": {"app": "a"}, "prot": 1}, sensitive={"classes": ["pii"]})
        result = compiled(broken, younger())
        assert told(result) == [] and YOUNGER not in result.failed
        rules = [rule for one in result.intent.routers for rule in one.rules if rule.models == ("a",)]
        assert [rule.backends for rule in rules] == [()]
        assert "RefusedForNow" in {one.code for one in result.findings}


MODELS = st.lists(st.sampled_from(["a", "b", "c", "a*", "[ab]", r"\\*", "*"]), max_size=2, unique=True)


def of_rules(name: str, *asked: list[str], created: str = YOUNG, sensitive: bool = False) -> Router:
    rules = [
        makers.rule(
            makers.backend(makers.pool("p")),
            name=f"r{at}",
            of=makers.origin(name),
            models=tuple(models),
            sensitive=sensitive,
        )
        for at, models in enumerate(asked)
    ]
    return makers.router(name, *rules, created=created)


@given(
    asked=st.lists(st.lists(MODELS, min_size=1, max_size=3), max_size=5), kept=st.lists(MODELS, min_size=1)
)
def test_who_is_not_looked_at_has_nothing_to_do_with_it(
    asked: list[list[list[str]]], kept: list[list[str]]
) -> None:
    """Routers are found by the models that they name; the same comes out of looking at each on its own."""
    live = [of_rules(f"live-{place}", *rules) for place, rules in enumerate(asked)]
    broken = of_rules("broken", *kept, created=OLD, sensitive=True)
    each = [found for one in live for found in guards._told(one, broken, broken.rules)]
    assert list(guards.kept(live, [broken])) == each
