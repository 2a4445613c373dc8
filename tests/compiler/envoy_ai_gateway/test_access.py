"""Who may ask for which model, and that one router's tokens do not close or open another's."""

from typing import Any

import pytest

from epp.compiler.intent import Access, Allowance, GatewayRef, Jwt, Router
from tests.compiler.envoy_ai_gateway.made import Made, document, made, provider
from tests.compiler.makers import origin, router, rule

IDP = Jwt("https://idp.example.com", "https://idp.example.com/jwks", "team", "x-team", provider="idp")
OTHER = Jwt("https://other.example.com", "https://other.example.com/jwks", "group", "x-group", provider="idp")


def named(name: str, *models: str, **more: Any) -> Router:
    created = more.pop("created", f"2026-01-0{len(name)}T00:00:00Z")
    return router(name, rule(provider(name), models=models or (name,)), created=created, **more)


def with_default(name: str, **more: Any) -> Router:
    return router(name, rule(provider(name), is_default=True), **more)


def access(*allowances: Allowance, jwt: Jwt = IDP) -> Access:
    return Access(jwt, origin("mr").at("spec.policy.auth"), allowances)


def may(found: Made, *, issuer: str = "", claims: dict[str, str] | None = None, model: str) -> bool:
    """Whether a request passes, as Envoy's jwt_authn and rbac filters have it."""
    policies = found.all("SecurityPolicy")
    if not policies:
        return True
    (spec,) = [one["spec"] for one in policies]
    provider_of = {one["issuer"]: one["name"] for one in spec["jwt"]["providers"]}
    if (issuer and issuer not in provider_of) or not (issuer or spec["jwt"].get("optional")):
        return False
    rules = spec.get("authorization", {}).get("rules")
    if rules is None:
        return True
    known = {**(claims or {}), "iss": issuer}
    for one in rules:
        who, which = one["principal"].get("jwt"), one["principal"].get("headers", [])
        if who and (
            not issuer
            or who["provider"] != provider_of[issuer]
            or any(known.get(claim["name"]) not in claim["values"] for claim in who["claims"])
        ):
            continue
        if all(model in header["values"] for header in which):
            return True
    return False


def test_a_valid_token_is_enough_where_no_team_is_held_to_models() -> None:
    found = made(named("qwen", access=access()))
    assert "authorization" not in found.one("SecurityPolicy")
    assert may(found, issuer=IDP.issuer, model="qwen") and not may(found, model="qwen")


def test_the_policy_is_the_gateways_and_never_a_routes() -> None:
    """The first route that matches decides which filters run: the 404 of the oldest."""
    found = made(named("qwen", access=access()))
    policy = found.one("SecurityPolicy")
    assert policy["targetRefs"] == [{"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "ai"}]
    (claim,) = policy["jwt"]["providers"][0]["claimToHeaders"]
    assert claim == {"claim": "team", "header": "x-team"}
    clients = found.one("ClientTrafficPolicy")
    assert "x-team" in clients["headers"]["earlyRequestHeaders"]["remove"], "clients name no team themselves"


def test_teams_get_what_they_may_ask_for() -> None:
    teams = access(Allowance("a"), Allowance("b", ("qwen",)))
    found = made(named("mr", "qwen", "gpt", access=teams))
    token = {"issuer": IDP.issuer}
    assert may(found, **token, claims={"team": "a"}, model="gpt")
    assert may(found, **token, claims={"team": "b"}, model="qwen")
    assert not may(found, **token, claims={"team": "b"}, model="gpt")
    assert not may(found, **token, claims={"team": "c"}, model="qwen")
    assert not may(found, **token, model="qwen")
    assert not may(found, model="qwen")
    assert found.codes() == ["ModelNamesAreListed"]


def test_a_router_without_tokens_stays_open() -> None:
    found = made(named("qwen", access=access(Allowance("a"))), named("open"))
    assert may(found, model="open") and not may(found, model="qwen")
    assert may(found, issuer=IDP.issuer, claims={"team": "a"}, model="qwen")
    assert not may(found, issuer=IDP.issuer, claims={"team": "b"}, model="qwen")


def test_two_routers_tokens_are_for_their_own_models() -> None:
    """Both call their provider idp."""
    one, two = named("qwen", access=access()), named("gpt", access=access(Allowance("a"), jwt=OTHER))
    found = made(one, two)
    assert may(found, issuer=IDP.issuer, model="qwen") and not may(found, issuer=IDP.issuer, model="gpt")
    assert may(found, issuer=OTHER.issuer, claims={"group": "a"}, model="gpt")
    assert not may(found, issuer=OTHER.issuer, claims={"group": "a"}, model="qwen")
    names = [one["name"] for one in found.one("SecurityPolicy")["jwt"]["providers"]]
    assert len(set(names)) == 2


def test_what_two_routers_say_alike_is_said_once() -> None:
    teams = access(Allowance("a", ("qwen",)))
    found = made(named("qwen", access=teams), named("gpt", access=teams))
    assert len(found.one("SecurityPolicy")["authorization"]["rules"]) == 1


@pytest.mark.parametrize(
    "older, younger, blamed",
    [
        (named("aa", access=access()), with_default("open", created="2026-02-01T00:00:00Z"), "open"),
        (
            with_default("open", created="2025-01-01T00:00:00Z"),
            named("secured", access=Access(IDP, origin("secured", "2026-02-01T00:00:00Z"))),
            "secured",
        ),
        (
            with_default("one", created="2025-01-01T00:00:00Z", access=Access(IDP, origin("one"))),
            named("two", access=Access(OTHER, origin("two", "2026-02-01T00:00:00Z"))),
            "two",
        ),
    ],
)
def test_what_cannot_be_told_apart_is_refused_to_the_younger(
    older: Router, younger: Router, blamed: str
) -> None:
    found = made(older, younger)
    told = found.told("AccessNotSeparable")
    assert told.is_error and told.origin.name == blamed and "listener" in told.fix
    assert not found.all("SecurityPolicy")


def test_a_listener_of_its_own_separates() -> None:
    listener = GatewayRef("ai", "edge", "secured")
    found = made(
        Router("secured", "llm", listener, with_default("secured").rules, origin("secured"), access=access()),
        Router("open", "llm", GatewayRef("ai", "edge", "open"), with_default("open").rules, origin("open")),
    )
    (target,) = found.one("SecurityPolicy")["targetRefs"]
    assert target["sectionName"] == "secured" and "optional" not in found.one("SecurityPolicy")["jwt"]


def test_models_are_compared_as_they_are() -> None:
    found = made(named("qwen", access=access(Allowance("a", ("qwen*",)))))
    assert found.told("InvalidAuthorization").is_error


def test_beside_somebody_elses_policy_nothing_is_made() -> None:
    """The younger of two counts for nothing, and the router would be open."""
    target = {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "ai"}
    theirs = document("SecurityPolicy", "theirs", spec={"targetRef": target})
    found = made(named("qwen", access=access()), named("open"), around=(theirs,))
    told = found.told("PolicyOfAnother")
    assert told.is_error and "theirs" in told.fix and not found.all("SecurityPolicy")


def test_more_models_than_a_rule_can_list_are_in_several() -> None:
    many = tuple(f"model-{number}" for number in range(300))
    found = made(named("many", *many, access=access(Allowance("a", many))))
    rules = found.one("SecurityPolicy")["authorization"]["rules"]
    assert [len(one["principal"]["headers"][0]["values"]) for one in rules] == [256, 44]
    assert may(found, issuer=IDP.issuer, claims={"team": "a"}, model="model-299")


def test_a_gateway_takes_tokens_of_at_most_16_issuers() -> None:
    def secured(number: int) -> Router:
        jwt = Jwt(f"https://{number}.example.com", "https://keys.example.com", "team", "x-team")
        at = origin(f"r{number}", f"2026-01-{number + 1:02}T00:00:00Z")
        return named(f"r{number}", access=Access(jwt, at))

    found = made(*map(secured, range(17)))
    assert found.told("AccessNotSeparable").origin.name == "r16"
    assert len(made(*map(secured, range(16))).one("SecurityPolicy")["jwt"]["providers"]) == 16
