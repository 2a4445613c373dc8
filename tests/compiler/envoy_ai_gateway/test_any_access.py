"""Whatever routers share a Gateway: a request passes where the router that serves it lets it pass, and
nowhere else."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from epp.compiler.intent import Access, Allowance, Condition, GatewayRef, Jwt, Router
from tests.compiler.envoy_ai_gateway.made import Made, made, provider
from tests.compiler.makers import origin, router, rule

IDP = Jwt("https://idp.example.com", "https://idp.example.com/jwks", "team", "x-team", provider="idp")
OTHER = replace(IDP, issuer="https://other.example.com", team_claim="group", provider="idp")
LISTENERS = ("inside", "outside")
MODELS = (("qwen", "qwen-large"), ("gpt",), ("llama", "phi"))
TEAMS = ("red", "blue", "green", "ops")


@dataclass(frozen=True)
class Asked:
    """``issuer``: of a valid token; empty: there is none."""

    listener: str
    model: str
    issuer: str = ""
    team: str = ""


# --- what is wanted ------------------------------------------------------------------------------------


def serving(routers: Sequence[Router], asked: Asked) -> Router | None:
    here = [one for one in routers if one.gateway.section in {"", asked.listener}]
    named = (one for one in here for each in one.rules if asked.model in each.models)
    others = (one for one in here for each in one.rules if not each.models)
    return next(named, next(others, None))


def is_meant(access: Access | None, asked: Asked) -> bool:
    if access is None:
        return True
    if asked.issuer != access.jwt.issuer:
        return False
    return not access.allowances or any(
        one.team == asked.team and (not one.models or asked.model in one.models) for one in access.allowances
    )


# --- what Envoy does -----------------------------------------------------------------------------------


def passes(found: Made, asked: Asked) -> bool:
    """A policy of the listener stands in place of the Gateway's."""
    policies = {
        one["spec"]["targetRefs"][0].get("sectionName", ""): one["spec"]
        for one in found.all("SecurityPolicy")
    }
    policy = policies.get(asked.listener, policies.get(""))
    return policy is None or _is_let_in(policy, asked)


def _is_let_in(policy: Mapping[str, Any], asked: Asked) -> bool:
    providers = {one["name"]: one for one in policy["jwt"]["providers"]}
    if asked.issuer:
        if asked.issuer not in {one["issuer"] for one in providers.values()}:
            return False
    elif not policy["jwt"].get("optional"):
        return False
    rules = policy.get("authorization", {"rules": [{"action": "Allow", "principal": {}}]})["rules"]
    return any(_fits(one["principal"], providers, asked) for one in rules if one["action"] == "Allow")


def _fits(principal: Mapping[str, Any], providers: Mapping[str, Any], asked: Asked) -> bool:
    token = principal.get("jwt")
    if token is not None:
        by = providers[token["provider"]]
        claims = {"iss": asked.issuer, by["claimToHeaders"][0]["claim"]: asked.team}
        if by["issuer"] != asked.issuer:
            return False
        if any(claims.get(one["name"]) not in one["values"] for one in token["claims"]):
            return False
    return all(asked.model in one["values"] for one in principal.get("headers", ()))


# --- whatever there is ---------------------------------------------------------------------------------

names = st.sampled_from([name for several in MODELS for name in several])
allowances = st.lists(
    st.builds(Allowance, st.sampled_from(TEAMS[:2]), st.lists(names, max_size=2, unique=True).map(tuple)),
    max_size=2,
    unique_by=lambda one: one.team,
).map(lambda some: (*some, Allowance("ops")) if some else ())
accesses = st.none() | st.builds(Access, st.sampled_from([IDP, OTHER]), st.just(origin("x")), allowances)


@st.composite
def sites(draw: st.DrawFn) -> list[Router]:
    """Each with models of its own; the last may take whatever nobody names, where all share all listeners."""
    found = []
    for number, models in enumerate(MODELS[: draw(st.integers(1, len(MODELS)))]):
        of = f"r{number}"
        at = origin(of, f"2026-01-0{number + 1}T00:00:00Z")
        access = draw(accesses)
        one = router(
            of,
            rule(provider(of), models=models, of=at),
            created=at.created,
            access=access and replace(access, origin=at),
        )
        section = draw(st.sampled_from(["", "", *LISTENERS]))
        found.append(replace(one, gateway=GatewayRef("ai", "edge", section)))
    if draw(st.integers(0, 3)) == 0 and not any(one.gateway.section for one in found):
        rest = rule(provider("rest"), name="rest", is_default=True, of=found[-1].origin)
        found[-1] = replace(found[-1], rules=(*found[-1].rules, rest))
    return found


def requests() -> Iterator[Asked]:
    for listener in LISTENERS:
        for model in ("unheard-of", *(name for several in MODELS for name in several)):
            yield Asked(listener, model)
            for issuer in (IDP.issuer, OTHER.issuer):
                yield from (Asked(listener, model, issuer, team) for team in TEAMS)


@given(routers=sites())
@settings(max_examples=150)
def test_a_request_passes_where_it_is_meant_to_and_nowhere_else(routers: list[Router]) -> None:
    found = made(*routers)
    codes = {one.code for one in found.findings if one.is_error}
    assert codes <= {"AccessNotSeparable"}
    if codes:
        event("refused")
        return
    event(f"{len(found.all('SecurityPolicy'))} policies")
    for asked in requests():
        served = serving(routers, asked)
        if served is None:
            continue
        meant = is_meant(served.access, asked)
        if served.access is None and asked.issuer:
            continue  # a token that nobody here knows is refused, and it need not be sent
        assert passes(found, asked) == meant, (asked, served.name, found.all("SecurityPolicy"))


def test_routers_that_share_tokens_hold_their_teams_each_to_its_own() -> None:
    """One issuer, and other teams at each: a team of the one gets nothing of the other."""
    one, other = (
        router(
            name, rule(provider(name), models=(name,)), access=Access(IDP, origin(name), (Allowance(team),))
        )
        for name, team in (("qwen", "red"), ("gpt", "blue"))
    )
    found = made(one, other)
    assert passes(found, Asked("inside", "qwen", IDP.issuer, "red"))
    assert not passes(found, Asked("inside", "qwen", IDP.issuer, "blue"))
    assert not passes(found, Asked("inside", "gpt", IDP.issuer, "red"))


OPEN = router("open", rule(provider("open"), models=("qwen",)), created="2026-01-01T00:00:00Z")
BETA = (Condition("x-beta", ("1",)),)


@pytest.mark.parametrize("models", [(), ("q*",)], ids=["default", "glob"])
@pytest.mark.parametrize(
    "opened, hostnames",
    [
        (replace(OPEN, rules=(replace(OPEN.rules[0], conditions=BETA),)), ()),
        (replace(OPEN, gateway=GatewayRef("ai", "edge", "inside")), ()),
        (replace(OPEN, hostnames=("open.example.com",)), ("safe.example.com",)),
    ],
    ids=["condition", "listener", "hostname"],
)
def test_what_is_open_elsewhere_is_not_open_here(
    opened: Router, hostnames: tuple[str, ...], models: tuple[str, ...]
) -> None:
    """Asked for outside, or without the header, it is the secured router that serves the model."""
    rest = rule(provider("safe"), models=models, is_default=not models)
    secured = router("secured", rest, access=Access(IDP, origin("secured")), hostnames=hostnames)
    found = made(opened, secured)
    assert "AccessNotSeparable" in found.codes() or not passes(found, Asked("outside", "qwen"))


@pytest.mark.parametrize("conditions", [(), BETA], ids=["always", "condition"])
def test_a_model_that_two_name_is_not_opened_by_one_of_them(conditions: tuple[Condition, ...]) -> None:
    opened = replace(OPEN, rules=(replace(OPEN.rules[0], conditions=conditions),))
    named = router("secured", rule(provider("safe"), models=("qwen",)), access=Access(IDP, origin("secured")))
    found = made(opened, named)
    assert "AccessNotSeparable" in found.codes() or not passes(found, Asked("outside", "qwen"))


def test_teams_that_may_ask_for_nothing_that_is_here_get_nothing() -> None:
    """A misspelt model in each list, as the only one."""
    one, other = (
        router(
            name,
            rule(provider(name), models=(name,)),
            access=Access(IDP, origin(name), (Allowance("red", (no,)),)),
        )
        for name, no in (("qwen", "qwen3"), ("gpt", "gpt5"))
    )
    assert not passes(made(one, other), Asked("inside", "qwen", IDP.issuer, "blue"))
