"""What routers of one Gateway take from each other, and when the younger is refused for it."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from epp.compiler import order, overlaps
from epp.compiler.findings import Finding
from epp.compiler.intent import Access, Condition, GatewayRef, Jwt, Router
from tests.compiler.makers import backend, origin, pool, router, rule

HERE = backend(pool("here"))
MODEL = "x-model"


def asks(**headers: str) -> tuple[Condition, ...]:
    return tuple(Condition(f"x-{name}", (value,)) for name, value in headers.items())


PII: dict[str, Any] = {"conditions": asks(kind="pii"), "sensitive": True}
RED: dict[str, Any] = {"conditions": asks(team="red")}
TWO: dict[str, Any] = {"conditions": asks(team="red", app="q")}
QWEN, QWEN_RED = {"models": ("qwen",)}, {"models": ("qwen",), **RED}
QWEN_PII = {"models": ("qwen",), **PII}
PATTERN, DEFAULT = {"models": ("qw*",)}, {"is_default": True}


def of(name: str, *rules: dict[str, Any], hosts: tuple[str, ...] = (), **more: Any) -> Router:
    made = (rule(HERE, name=f"{name}-{at}", of=origin(name), **one) for at, one in enumerate(rules))
    return router(name, *made, created=f"2026-01-01T00:00:0{len(name)}Z", hostnames=hosts, **more)


def told(*routers: Router, first: Callable[[Router, Router], bool | None] = overlaps.by_age) -> list[Finding]:
    found = [
        order.closure([order.alternatives(one, MODEL) for one in each.rules], pivot=MODEL) for each in routers
    ]
    return list(overlaps.told(routers, found, model=MODEL, first=first))


@pytest.mark.parametrize(
    "older, younger, severity",
    [
        pytest.param([PII], [TWO], "error", id="more-headers-take-a-guarded-class"),
        pytest.param([PII], [RED], "error", id="as-many-may"),
        pytest.param([PII], [PATTERN], "error", id="so-may-a-pattern"),
        pytest.param([PII], [QWEN], "error", id="and-a-name"),
        pytest.param([PII], [DEFAULT], "", id="a-default-does-not"),
        pytest.param([{**TWO, "sensitive": True}], [RED], "warning", id="nor-less"),
        pytest.param([{**QWEN_RED, "sensitive": True}], [TWO], "error", id="a-guarded-name"),
        pytest.param([QWEN_PII], [RED], "", id="which-is-tried-first"),
        pytest.param([QWEN_PII, TWO], [TWO], "error", id="whatever-else-the-older-has"),
        pytest.param([QWEN_PII], [{"models": ("gpt*",), **TWO}], "", id="other-models"),
        pytest.param([TWO], [PII], "error", id="an-older-one-takes-what-the-younger-guards"),
        pytest.param([DEFAULT], [PII], "", id="the-older-default-does-not"),
        pytest.param([QWEN], [PII], "warning", id="a-name-is-its-owners"),
        pytest.param([RED], [TWO], "warning", id="nothing-is-guarded"),
        pytest.param([PII], [{"conditions": asks(kind="public")}], "", id="no-request-fits-both"),
    ],
)
def test_guarded_requests_are_not_anothers(
    older: list[dict[str, Any]], younger: list[dict[str, Any]], severity: str
) -> None:
    found = told(of("a", *older), of("bb", *younger))
    assert [(one.code, str(one.severity), one.origin.name) for one in found] == (
        [("RequestsOfAnother", severity, "bb")] if severity else []
    )


def test_what_is_tried_sooner_still_is_safe() -> None:
    """The older has a stronger match for just these requests."""
    older = of("a", {"conditions": asks(kind="pii", team="red", app="q"), "sensitive": True}, PII)
    assert [one.is_error for one in told(older, of("bb", TWO))] == [False]


def test_to_be_refused_is_safe() -> None:
    refusing = router("bb", rule(of=origin("bb"), **TWO), created="2026-02-01T00:00:00Z")
    (found,) = told(of("a", PII), refusing)
    assert not found.is_error


def test_each_rule_at_fault_is_named() -> None:
    found = told(
        of("a", PII),
        router("bb", rule(HERE, of=origin("bb").at("x"), **TWO), rule(HERE, of=origin("bb").at("y"), **RED)),
    )
    assert sorted(one.origin.field for one in found) == ["x", "y"]


@pytest.mark.parametrize(
    "older, younger, told_of",
    [
        pytest.param((), ("ai.example.com",), "RequestsOfAnother", id="only-one-has-a-hostname"),
        pytest.param(("*.example.com",), ("ai.example.com",), "RequestsOfAnother", id="without-a-star"),
        pytest.param(("ai.example.com",), (), "HostnameHidesModels", id="the-older-has-it"),
        pytest.param(("ai.example.com",), ("ai.example.com",), "", id="the-same"),
        pytest.param(("ai.example.com",), ("b.example.com",), "", id="two"),
    ],
)
def test_the_longest_hostname_counts_before_all_matches(
    older: tuple[str, ...], younger: tuple[str, ...], told_of: str
) -> None:
    found = told(of("a", QWEN_PII, hosts=older), of("bb", DEFAULT, hosts=younger))
    assert [one.code for one in found] == [told_of] * bool(told_of)
    assert all(one.is_error == (one.code == "RequestsOfAnother") for one in found)


def test_whose_models_are_not_there_is_told() -> None:
    """Names alone: nobody takes anything, and yet one of the two is not found."""
    gpt = {"models": ("gpt",)}
    (found,) = told(of("a", QWEN), of("bb", gpt, hosts=("ai.example.com",)))
    assert not found.is_error and "at ai.example.com models of ModelRouter/llm/a get 404" in found.message
    (found,) = told(of("a", QWEN, hosts=("ai.example.com",)), of("bb", gpt))
    assert "at ai.example.com models of ModelRouter/llm/bb get 404" in found.message


def test_a_listener_of_its_own_is_another_place() -> None:
    one, other = (
        replace(of(name, wanted), gateway=GatewayRef("ai", "edge", name))
        for name, wanted in (("a", PII), ("bb", TWO))
    )
    assert not told(one, other)


@pytest.mark.parametrize(
    "first, said", [(True, "a takes"), (False, "bb takes"), (None, "whose route was made first")]
)
def test_of_two_alike_it_is_told_who_has_it(first: bool | None, said: str) -> None:
    (found,) = told(
        of("a", RED),
        of("bb", RED),
        first=lambda one, _: first if first is None else (one.name == "a") is first,
    )
    assert said in found.message and not found.is_error


def test_what_not_the_same_clients_may_ask_is_an_error() -> None:
    jwt = Jwt("https://idp.example.com", "https://idp.example.com/jwks", "team", "x-team")
    secured = of("a", RED, access=Access(jwt, origin("a")))
    assert [(one.code, one.is_error) for one in told(secured, of("bb", TWO))] == [
        ("AccessNotSeparable", True)
    ]
    alike = of("bb", TWO, access=Access(jwt, origin("bb")))
    assert [one.code for one in told(secured, alike)] == ["RequestsOfAnother"]
