"""Policies of somebody else for a router's routes, or for its Gateway: which of two holds."""

from dataclasses import replace
from typing import Any

import pytest

from epp.compiler import marks
from epp.compiler.documents import Document
from epp.compiler.intent import Access, Allowance, Budget, GatewayRef, Jwt, Scope
from tests.compiler.envoy_ai_gateway.made import document, made, provider
from tests.compiler.makers import origin, router, rule

IDP = Jwt("https://idp.example.com", "https://idp.example.com/jwks", "team", "x-llmkube-team")
OPEN = router("mr", rule(provider("a"), models=("qwen",)))
SECURED = replace(OPEN, access=Access(IDP, origin("mr"), (Allowance("red", ("qwen",)),)))
BY_NAME = {"targetRefs": [{"kind": "HTTPRoute", "name": "mr"}]}
OF_A_RULE = {"targetRefs": [{"kind": "HTTPRoute", "name": "mr", "sectionName": "r"}]}
BY_LABEL = {"targetSelectors": [{"kind": "HTTPRoute", "matchLabels": {marks.MANAGED_BY: marks.MANAGER}}]}
OF_ANOTHER = {"targetRefs": [{"kind": "HTTPRoute", "name": "theirs"}]}


def policy(kind: str, namespace: str = "llm", **spec: Any) -> Document:
    return document(kind, "theirs", namespace=namespace, spec=spec)


def on_gateway(section: str = "", **spec: Any) -> dict[str, Any]:
    target = {"kind": "Gateway", "name": "ai", **({"sectionName": section} if section else {})}
    return {"targetRefs": [target], **spec}


@pytest.mark.parametrize("target", [BY_NAME, OF_A_RULE, BY_LABEL], ids=["name", "rule", "label"])
def test_nothing_is_made_that_somebody_elses_policy_would_open(target: dict[str, Any]) -> None:
    found = made(SECURED, around=(policy("SecurityPolicy", **target, authorization={}),))
    assert found.codes("error") == ["PolicyOfAnother"] and not found.all("AIGatewayRoute")
    assert "llm/theirs" in found.told("PolicyOfAnother").message


def test_one_for_another_route_or_in_another_namespace_is_nobodys_business() -> None:
    around = (policy("SecurityPolicy", **OF_ANOTHER), policy("SecurityPolicy", "edge", **BY_NAME))
    assert made(SECURED, around=around).codes("error") == []


def test_ours_is_none_of_them() -> None:
    labels = {marks.MANAGED_BY: marks.MANAGER}
    ours = document("BackendTrafficPolicy", "mr", namespace="llm", labels=labels, spec=BY_NAME)
    assert made(OPEN, around=(ours,)).codes() == []


def test_of_an_open_router_only_authentication_is_told_which_is_skipped() -> None:
    told = made(OPEN, around=(policy("SecurityPolicy", **BY_NAME, jwt={}),)).told("PolicyOfAnother")
    assert told.severity == "warning" and "its jwt is skipped" in told.message
    assert made(OPEN, around=(policy("SecurityPolicy", **BY_NAME, cors={}),)).codes() == []


@pytest.mark.parametrize("target", [BY_NAME, OF_A_RULE, BY_LABEL], ids=["name", "rule", "label"])
def test_of_two_that_say_how_requests_are_tried_one_does_nothing(target: dict[str, Any]) -> None:
    theirs = policy("BackendTrafficPolicy", **target, retry={})
    told = made(OPEN, around=(theirs,)).told("PolicyOfAnother")
    assert told.severity == "warning" and "budgets" not in told.message
    counted = replace(OPEN, budgets=(Budget("b", Scope.ROUTER, 1000, 3600, origin("mr")),))
    assert "budgets are then not enforced" in made(counted, around=(theirs,)).told("PolicyOfAnother").message


def test_what_the_gateways_own_says_does_not_hold_for_our_routes() -> None:
    theirs = policy("BackendTrafficPolicy", "edge", **on_gateway(rateLimit={}, timeout={}))
    assert "says rateLimit, timeout" in made(OPEN, around=(theirs,)).told("PolicyOfAnother").message


@pytest.mark.parametrize("section, codes", [("chat", ["PolicyOfAnother"]), ("other", [])])
def test_one_of_a_listener_is_told_to_whom_comes_in_by_it(section: str, codes: list[str]) -> None:
    theirs = policy("BackendTrafficPolicy", "edge", **on_gateway(section, retry={}))
    assert made(replace(OPEN, gateway=GatewayRef("ai", "edge", "chat")), around=(theirs,)).codes() == codes


def test_a_processor_of_a_route_is_skipped() -> None:
    told = made(OPEN, around=(policy("EnvoyExtensionPolicy", **BY_NAME, extProc=[]),)).told("PolicyOfAnother")
    assert told.severity == "warning" and told.fix == "let it target the Gateway"


def test_a_gateway_is_found_by_its_labels() -> None:
    gateway = document("Gateway", "ai", labels={"site": "north"}, spec={})
    selector = {"kind": "Gateway", "matchLabels": {"site": "north"}}
    theirs = policy("SecurityPolicy", "edge", targetSelectors=[selector])
    assert made(SECURED, around=(gateway, theirs)).codes("error") == ["PolicyOfAnother"]
    assert made(SECURED, around=(theirs,)).codes("error") == [], (
        "of a Gateway that is not at hand, labels neither"
    )


def test_beside_somebody_elses_policy_for_a_listener_ours_is_for_the_others() -> None:
    theirs = policy("ClientTrafficPolicy", "edge", **on_gateway("chat"))
    found = made(OPEN, around=(theirs,))
    assert found.all("ClientTrafficPolicy") and "ClientHeadersTrusted" in found.codes()
    elsewhere = replace(OPEN, gateway=GatewayRef("ai", "edge", "code"))
    assert made(elsewhere, around=(theirs,)).codes() == []
