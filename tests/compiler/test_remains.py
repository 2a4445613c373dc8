"""A part of a router has an error: its names stay its own."""

from dataclasses import replace
from fnmatch import fnmatchcase

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp.compiler import remains
from epp.compiler.compile import compile_documents
from epp.compiler.documents import Document
from epp.compiler.emission import Emission
from epp.compiler.findings import Origin, error
from epp.compiler.intent import Budget, GatewayRef, Intent, Router, Rule, Scope
from epp.compiler.options import Options, Target
from tests.compiler.makers import backend, origin, pool, router, rule

SITE = origin("site", kind="Fleet")
NOBODY = frozenset[str]()


def part(name: str) -> Origin:
    return replace(SITE, part=name, field=f"models[{name}]")


def model(name: str, *names: str, **more: object) -> Rule:
    """A rule of a part that has a pool of its own."""
    servers = replace(pool(name), origin=part(name))
    return rule(backend(servers), name=name, of=part(name), models=names or (name,), **more)


def site(*rules: Rule, budgets: tuple[Budget, ...] = ()) -> Router:
    return replace(router("site", *rules), origin=SITE, budgets=budgets)


def failed(*names: str) -> frozenset[str]:
    return frozenset(part(name).object for name in names)


def served(found: Router) -> list[tuple[str, bool]]:
    return [(one.name, bool(one.backends)) for one in found.rules]


def test_it_is_refused_where_it_stood() -> None:
    whole = site(model("a"), model("b"), model("any", "*"))
    assert served(remains.left(whole, failed("a"), NOBODY)) == [("a", False), ("b", True), ("any", True)]
    assert remains.left(whole, failed("other"), NOBODY) is whole


def test_what_was_for_any_model_is_gone() -> None:
    whole = site(model("a"), replace(model("b"), models=(), is_default=True))
    assert served(remains.left(whole, failed("b"), NOBODY)) == [("a", True)]


def test_with_nothing_served_its_names_are_still_refused() -> None:
    assert served(remains.left(site(model("a")), failed("a"), NOBODY)) == [("a", False)]
    assert remains.left(site(model("a")), failed("a"), failed("a")).rules == ()


def test_its_budget_goes_and_that_of_all_stays() -> None:
    budgets = tuple(
        Budget(name, scope, 1, 60, SITE, rule=name)
        for name, scope in (("a", Scope.RULE), ("b", Scope.RULE), ("", Scope.ROUTER))
    )
    found = remains.left(site(model("a"), model("b"), budgets=budgets), failed("a"), NOBODY)
    assert [one.rule for one in found.budgets] == ["b", ""]


def test_who_leads_to_it_has_its_error() -> None:
    shared = replace(pool("pods"), origin=part("pods"))
    whole = site(rule(backend(shared), of=part("a"), models=("a",)), model("b"))
    assert remains.spread(failed("pods"), [whole]) == failed("pods", "a")


def test_an_object_in_error_that_others_lead_to_is_no_part() -> None:
    """It has its own word, and its servers are there."""
    wrong = frozenset({"ModelRouter/llm/phi"})
    assert remains.spread(wrong, [site(rule(backend(pool("phi")), of=part("a"), models=("a",)))]) == wrong


class TestWhatCannotEvenBeRefused:
    @pytest.mark.parametrize(
        "other, is_exposed",
        [
            (("b",), False),
            (("x-*",), False),
            (("a-?",), True),
            (("b", "*"), True),
            (("a-[0-9]",), True),
        ],
    )
    def test_it_is_left_out_where_nobody_else_takes_it(
        self, other: tuple[str, ...], is_exposed: bool
    ) -> None:
        whole = site(model("a", "a-1"), model("other", *other))
        assert [one.origin.object for one in remains.exposed(whole, failed("a"))] == (
            [SITE.object] if is_exposed else []
        )
        assert served(remains.left(whole, failed("a"), failed("a"))) == [("other", True)]

    def test_the_finding_names_who_would_take_it(self) -> None:
        default = replace(model("gpt"), models=(), is_default=True)
        (found,) = remains.exposed(site(model("a", "a", "b-*"), default), failed("a"))
        assert (found.message, found.fix) == (
            "requests for a, b-*, which has an error, would go to rule gpt: this gateway cannot refuse them",
            "mend models[a]",
        )

    def test_of_two_patterns_nobody_knows(self) -> None:
        whole = site(model("a", "a-*"), model("other", "*-x"))
        assert len(list(remains.exposed(whole, failed("a")))) == 1

    def test_who_refuses_as_well_takes_nothing(self) -> None:
        whole = site(model("a"), replace(model("b", "*"), backends=()), model("c"))
        assert list(remains.exposed(whole, failed("a"))) == []

    def test_what_comes_before_it_has_taken_its_own_already(self) -> None:
        whole = site(model("early", "a-*"), model("a", "*"))
        assert list(remains.exposed(whole, failed("a"))) == []


def test_what_becomes_of_its_requests_is_told_once() -> None:
    refused = [replace(one, backends=()) for one in (model("a", "a", "b"), model("a", "c-*"), model("d"))]
    (found,) = remains.notes(Intent((site(*refused, model("e")),)), failed("a"))
    assert found.message == (
        "requests for a, b, c-* get 503 until it is mended, or what was applied of it before: nothing else"
        " takes them"
    )
    assert remains.refused(Intent((site(*refused),)), failed("a")) == failed("a")


class TestCompiled:
    def fleet(self, *more: dict[str, object]) -> list[Document]:
        content = {
            "apiVersion": "fleet-epp.dev/v1alpha1",
            "kind": "Fleet",
            "metadata": {"name": "site", "namespace": "llm"},
            "models": [
                {"name": "home", "pods": {"app": "home"}},
                {"name": "bad", "backends": ["mac", "pods"]},
                *more,
            ],
            "backends": {"pods": {"pods": {"app": "p"}}, "mac": {"hosts": ["10.0.0.1:80"], "health": "x"}},
        }
        return [Document(content)]

    @pytest.mark.parametrize("target", Target)
    def test_a_model_whose_backend_has_an_error_is_not_served_by_a_pattern(self, target: Target) -> None:
        options = Options(target, gateway=GatewayRef("ai", "edge"))
        compiled = compile_documents(self.fleet({"name": "*", "backends": ["home"]}), options)
        rules = [one for found in compiled.intent.routers for one in found.rules]
        assert [bool(one.backends) for one in rules if one.models == ("bad",)] == [False]
        assert "Fleet/llm/site/bad" in compiled.failed

    def unable(self, intent: Intent, *_: object) -> Emission:
        """A gateway that can do nothing with the name."""
        rules = [one for found in intent.routers for one in found.rules if one.models == ("bad",)]
        return Emission((), tuple(error("Unable", one.origin, "it cannot", "rename it") for one in rules))

    def test_what_the_gateway_cannot_even_refuse_is_left_out(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("epp.compiler.compile._TARGETS", {Target.GATEWAY_API: self.unable})
        options = Options(Target.GATEWAY_API, gateway=GatewayRef("ai", "edge"))
        compiled = compile_documents(self.fleet(), options)
        (found,) = compiled.intent.routers
        assert [one.name for one in found.rules] == ["home"]
        assert "NotRefused" not in {one.code for one in compiled.findings}

    def test_or_costs_the_whole_fleet_where_a_pattern_would_have_it(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("epp.compiler.compile._TARGETS", {Target.GATEWAY_API: self.unable})
        options = Options(Target.GATEWAY_API, gateway=GatewayRef("ai", "edge"))
        compiled = compile_documents(self.fleet({"name": "*", "backends": ["home"]}), options)
        assert compiled.intent.routers == ()
        assert {"NotRefused", "Unable"} <= {one.code for one in compiled.findings}


MODELS = st.sampled_from(["a", "b", "ab", "a*", "*b", "*"])


@given(
    models=st.lists(st.lists(MODELS, min_size=1, max_size=2, unique=True), min_size=1, max_size=5),
    wrong=st.sets(st.integers(0, 4)),
    unable=st.sets(st.integers(0, 4)),
)
def test_nobody_is_served_by_another_rule_than_before(
    models: list[list[str]], wrong: set[int], unable: set[int]
) -> None:
    """But for what is told of the whole router, of which nothing is made then."""
    whole = site(*(model(f"m{place}", *names) for place, names in enumerate(models)))
    given_up = failed(*(f"m{place}" for place in wrong & unable))
    found = remains.left(whole, failed(*(f"m{place}" for place in wrong)), given_up)
    if list(remains.exposed(whole, given_up)):
        return
    for name in ("a", "b", "ab", "aab", "c"):
        before, after = _first(whole, name), _first(found, name)
        if after is not None and after.backends:
            assert after == before


def _first(found: Router, name: str) -> Rule | None:
    return next((one for one in found.rules if any(fnmatchcase(name, glob) for glob in one.models)), None)
