"""Two routers want one model name."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp.compiler import claims
from epp.compiler.intent import Access, Budget, Condition, GatewayRef, Jwt, Router, Scope
from tests.compiler.makers import backend, origin, pool, router, rule

QWEN = backend(pool("qwen"))
OLD, YOUNG = "2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z"


def asking_for(name: str, created: str, *models: str, **more: Any) -> Router:
    return router(
        name, rule(QWEN, of=origin(name, created), models=models, name=name), created=created, **more
    )


def names(routers: tuple[Router, ...]) -> dict[str, tuple[str, ...]]:
    return {one.name: one.rules[0].models for one in routers}


def test_the_oldest_has_it_and_the_other_is_told() -> None:
    kept, (told,) = claims.settle([asking_for("b", YOUNG, "qwen", "phi"), asking_for("a", OLD, "qwen")])
    assert names(kept) == {"a": ("qwen",), "b": ("phi",)}
    assert (told.code, told.origin.name) == ("ModelNameTaken", "b")
    assert "ModelRouter/llm/a" in told.message


def test_whoever_has_no_name_left_has_no_rule() -> None:
    kept, told = claims.settle([asking_for("b", YOUNG, "qwen"), asking_for("a", OLD, "qwen")])
    assert names(kept) == {"a": ("qwen",)}
    assert len(told) == 1


def test_a_file_is_older_than_a_cluster() -> None:
    kept, _ = claims.settle([asking_for("cluster", OLD, "qwen"), asking_for("file", "", "qwen")])
    assert names(kept) == {"file": ("qwen",)}


def test_of_one_second_the_name_decides() -> None:
    kept, _ = claims.settle([asking_for("b", OLD, "qwen"), asking_for("a", OLD, "qwen")])
    assert names(kept) == {"a": ("qwen",)}


def test_at_another_gateway_it_is_another_name() -> None:
    elsewhere = asking_for("b", YOUNG, "qwen")
    elsewhere = Router("b", "llm", GatewayRef("other", "edge"), elsewhere.rules, elsewhere.origin)
    kept, told = claims.settle([asking_for("a", OLD, "qwen"), elsewhere])
    assert len(kept) == 2 and not told


@pytest.mark.parametrize(
    "one, other, is_taken",
    [
        pytest.param(("a.example.com",), ("b.example.com",), False, id="two"),
        pytest.param((), ("b.example.com",), True, id="one-has-none"),
        pytest.param(("*.example.com",), ("b.example.com",), True, id="one-has-a-star"),
        pytest.param(("*.example.com",), ("b.example.org",), False, id="a-star-elsewhere"),
        pytest.param(("*.example.com",), ("badexample.com",), False, id="a-star-is-a-label"),
        pytest.param(("a.example.com", "b.example.com"), ("b.example.com",), True, id="one-of-two"),
    ],
)
def test_where_hostnames_meet_it_is_one_place(
    one: tuple[str, ...], other: tuple[str, ...], is_taken: bool
) -> None:
    for first, second in ((one, other), (other, one)):
        older = asking_for("a", OLD, "qwen", hostnames=first)
        kept, told = claims.settle([older, asking_for("b", YOUNG, "qwen", hostnames=second)])
        assert (len(kept), len(told)) == ((1, 1) if is_taken else (2, 0))


@pytest.mark.parametrize(
    "one, other, is_taken",
    [("", "inside", True), ("inside", "", True), ("inside", "inside", True), ("inside", "outside", False)],
)
def test_a_listener_is_a_place_and_all_of_them_are(one: str, other: str, is_taken: bool) -> None:
    older, younger = (
        replace(asking_for(name, created, "qwen"), gateway=GatewayRef("ai", "edge", section))
        for name, created, section in (("a", OLD, one), ("b", YOUNG, other))
    )
    assert len(claims.settle([older, younger])[0]) == (1 if is_taken else 2)


TEAM = (Condition("x-team", ("red",)),)


def test_with_conditions_it_is_the_same_name() -> None:
    """Of two matches for a model that with more headers is tried first."""
    narrow = router("a", rule(QWEN, models=("qwen",), conditions=TEAM), created=OLD)
    wanting = rule(QWEN, of=origin("b", YOUNG), models=("qwen", "phi"), conditions=TEAM)
    for older, younger in (
        (narrow, router("b", wanting, created=YOUNG)),
        (asking_for("a", OLD, "qwen"), router("b", wanting, created=YOUNG)),
        (narrow, asking_for("b", YOUNG, "qwen", "phi")),
    ):
        kept, (told,) = claims.settle([younger, older])
        assert names(kept)["b"] == ("phi",) and told.code == "ModelNameTaken" and not told.is_error


def test_a_pattern_claims_nothing() -> None:
    pattern = asking_for("a", OLD, "qw*")
    kept, told = claims.settle([pattern, asking_for("b", YOUNG, "qwen", "qw*")])
    assert names(kept)["b"] == ("qwen", "qw*") and not told


def test_a_name_with_signs_of_a_pattern_is_a_name() -> None:
    kept, (told,) = claims.settle([asking_for("a", OLD, r"q\*"), asking_for("b", YOUNG, r"q\*", "phi")])
    assert names(kept)["b"] == ("phi",) and "model q* is" in told.message


PII: dict[str, Any] = {"conditions": (Condition("x-class", ("pii",), ignore_case=True),), "sensitive": True}


@pytest.mark.parametrize(
    "guarded",
    [
        pytest.param({"models": ("qwen",), **PII}, id="the-name"),
        pytest.param({"models": ("qw*",), **PII}, id="a-pattern"),
        pytest.param(PII, id="any-model"),
        pytest.param({"models": ("qwen",), "fail_closed": True}, id="closed"),
    ],
)
def test_a_name_whose_requests_are_guarded_is_refused_to_others(guarded: dict[str, Any]) -> None:
    """Of the younger nothing new is made, and what is there stays."""
    older = router("a", rule(QWEN, **guarded), rule(QWEN, models=("qwen",)), created=OLD)
    (told,) = claims.settle([older, asking_for("b", YOUNG, "qwen", "phi")])[1]
    assert told.is_error and (told.code, told.origin.name) == ("ModelNameTaken", "b")


def test_of_two_that_have_it_the_one_that_guards_it_is_named() -> None:
    """Though it is not the oldest."""
    first = asking_for("a", OLD, "qwen", hostnames=("a.example.com",))
    guarding = router(
        "c",
        rule(QWEN, of=origin("c"), models=("qwen",), **PII),
        created="2026-01-15T00:00:00Z",
        hostnames=("c.example.com",),
    )
    (told,) = claims.settle([first, guarding, asking_for("b", YOUNG, "qwen", "phi")])[1]
    assert told.is_error and "model qwen is that of ModelRouter/llm/c" in told.message


def test_a_guard_is_not_lost_in_silence() -> None:
    guard = rule(QWEN, of=origin("b", YOUNG), models=("qwen",), **PII)
    younger = router("b", guard, rule(QWEN, models=("phi",)), created=YOUNG)
    (told,) = claims.settle([asking_for("a", OLD, "qwen"), younger])[1]
    assert told.is_error and (told.code, told.origin.name) == ("ModelNameTaken", "b")


def test_another_guarded_model_of_the_older_does_not_matter() -> None:
    older = router("a", rule(QWEN, models=("phi",), **PII), rule(QWEN, models=("qwen", "phi")), created=OLD)
    (told,) = claims.settle([older, asking_for("b", YOUNG, "qwen", "gpt")])[1]
    assert not told.is_error


IDP = Jwt("https://idp.example.com", "https://idp.example.com/jwks", "team", "x-team")


@pytest.mark.parametrize(
    "older, younger", [(IDP, None), (None, IDP), (IDP, replace(IDP, issuer="https://other.example.com"))]
)
def test_a_name_is_for_the_same_clients_everywhere(older: Jwt | None, younger: Jwt | None) -> None:
    one, other = (
        asking_for(name, created, "qwen", access=Access(jwt, origin(name)) if jwt else None)
        for name, created, jwt in (("a", OLD, older), ("b", YOUNG, younger))
    )
    (told,) = claims.settle([one, other])[1]
    assert told.is_error and (told.code, told.origin.name) == ("AccessNotSeparable", "b")


def test_with_the_same_tokens_a_name_is_only_taken() -> None:
    one, other = (
        asking_for(name, created, "qwen", access=Access(IDP, origin(name)))
        for name, created in (("a", OLD), ("b", YOUNG))
    )
    (told,) = claims.settle([one, other])[1]
    assert not told.is_error and told.code == "ModelNameTaken"


def test_a_rule_that_is_gone_has_no_budget() -> None:
    budgets = tuple(Budget(name, Scope.RULE, 10, 60, origin("b"), rule=name) for name in ("one", "two"))
    younger = router(
        "b",
        rule(QWEN, name="one", models=("qwen",)),
        rule(QWEN, name="two", models=("phi",)),
        created=YOUNG,
        budgets=budgets,
    )
    kept, _ = claims.settle([asking_for("a", OLD, "qwen"), younger])
    assert kept[1].budgets == budgets[1:]


def test_a_budget_for_all_of_a_router_stays_and_so_does_a_rule_for_any_model() -> None:
    budget = Budget("all", Scope.ROUTER, 10, 60, origin("b"))
    younger = router(
        "b",
        rule(QWEN, name="one", models=("qwen",)),
        rule(QWEN, name="any", conditions=TEAM),
        created=YOUNG,
        budgets=(budget,),
    )
    kept, (told,) = claims.settle([asking_for("a", OLD, "qwen"), younger])
    assert told.code == "ModelNameTaken"
    assert [one.name for one in kept[1].rules] == ["any"] and kept[1].budgets == (budget,)


def test_a_router_may_say_a_name_twice() -> None:
    twice = router(
        "a", rule(QWEN, of=origin("a"), models=("qwen",)), rule(QWEN, of=origin("a"), models=("qwen",))
    )
    assert claims.settle([twice]) == ((twice,), ())


def test_an_error_changes_nobodys_names() -> None:
    """``a`` is left out with an error: ``b`` is told the same, and has what it had."""
    a, b = asking_for("a", OLD, "qwen"), asking_for("b", YOUNG, "qwen", "phi")
    assert names(claims.settle([a, b])[0]) == {"a": ("qwen",), "b": ("phi",)}
    kept, (told,) = claims.settle([b], [a])
    assert names(kept) == {"b": ("phi",)}
    assert "is that of ModelRouter/llm/a, which is older and has an error" in told.message


def test_of_one_with_an_error_nobody_knows_whom_it_lets_in() -> None:
    """The younger one, which is secured, is told what there is to mend, and not of authentication."""
    secured = asking_for("b", YOUNG, "qwen", "phi", access=Access(IDP, origin("b")))
    kept, (told,) = claims.settle([secured], [asking_for("a", OLD, "qwen")])
    assert names(kept) == {"b": ("phi",)} and (told.code, told.is_error) == ("ModelNameTaken", True)


@given(
    asked=st.lists(st.sets(st.sampled_from("abcd"), min_size=1), min_size=1, max_size=5),
    hosts=st.lists(st.sampled_from([(), ("x.example.com",), ("y.example.com",)]), min_size=5, max_size=5),
    wrong=st.sets(st.integers(0, 4)),
)
def test_who_has_a_name_does_not_depend_on_errors(
    asked: list[set[str]], hosts: list[tuple[str, ...]], wrong: set[int]
) -> None:
    everyone = [
        asking_for(f"r{place}", f"2026-01-0{place + 1}T00:00:00Z", *sorted(models), hostnames=hosts[place])
        for place, models in enumerate(asked)
    ]
    live = [one for place, one in enumerate(everyone) if place not in wrong]
    faulty = [one for place, one in enumerate(everyone) if place in wrong]
    all_of_them = names(claims.settle(everyone)[0])
    left = {one.name for one in live}
    assert names(claims.settle(live, faulty)[0]) == {
        name: models for name, models in all_of_them.items() if name in left
    }
