"""Models that routers name are kept from others' rules for any model, of many teams by few matches."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp.compiler.documents import Documents
from epp.compiler.emission import Emission
from epp.compiler.intent import Condition, Intent, Router
from epp.compiler.options import Options, Target
from epp.compiler.targets.envoy_ai_gateway import emit, separation
from tests.compiler.envoy_ai_gateway import envoy
from tests.compiler.envoy_ai_gateway.crds import complaints
from tests.compiler.envoy_ai_gateway.test_order import VALUES, agree, provider, rules, written
from tests.compiler.makers import backend, origin, pool, router, rule

TARGET = Target.ENVOY_AI_GATEWAY_1_1
ASKED = [(klass, team) for klass in (None, *VALUES["x-class"]) for team in (None, "a", "b")]


def compiled(*routers: Router) -> Emission:
    return emit(Intent(routers), Documents(()), Options(TARGET))


def routes(found: Emission) -> list[Any]:
    return [one.document for one in found.objects if one.key[0] == "AIGatewayRoute"]


def matches(found: Emission, name: str) -> list[dict[str, str]]:
    """Of a router, each header as Envoy is asked for it."""
    return [
        {header["name"]: f"{header['type']} {header['value']}" for header in match["headers"]}
        for route in routes(found)
        if route["metadata"]["name"].startswith(name)
        for one in route["spec"]["rules"]
        for match in one["matches"]
    ]


def team(number: int, **more: Any) -> Router:
    """It names a model, and has a rule for a team whatever the model."""
    name = f"r{number:03}"
    given_ = {"created": f"2026-01-01T00:{number // 60:02}:{number % 60:02}Z", **more.pop("router", {})}
    asks = Condition("x-team", (f"team-{number}",))
    return router(
        name,
        rule(backend(pool(f"{name}-own")), name="own", of=origin(name), models=(f"model-{number}",)),
        rule(backend(pool(f"{name}-any")), name="any", of=origin(name), conditions=(asks,), **more),
        **given_,
    )


def served(found: Emission, model: str, **headers: str) -> str:
    entry = envoy.routed(envoy.table(routes(found)), model, headers)
    return entry["backendRefs"][0]["name"] if entry else ""


def test_of_few_values_each_is_kept_from_each_name() -> None:
    found = compiled(*map(team, range(separation.MANY)))
    assert len(matches(found, "r003")) == 2 + separation.MANY
    assert {"x-ai-eg-model": "Exact model-3", "x-team": "Exact team-5"} in matches(found, "r003")


def test_of_many_values_a_name_is_kept_from_all_at_once() -> None:
    found = compiled(*map(team, range(separation.MANY + 1)))
    assert matches(found, "r003") == [
        {"x-ai-eg-model": "Exact model-3"},
        {"x-ai-eg-model": "Exact model-3", "x-team": r"RegularExpression ^team\-3$"},
        {"x-ai-eg-model": "Exact model-3", "x-team": "RegularExpression .*"},
        {"x-ai-eg-model": "RegularExpression .*", "x-team": r"RegularExpression ^team\-3$"},
    ]
    assert not found.findings
    assert served(found, "model-3", **{"x-team": "team-5"}) == "r003-own"
    assert served(found, "model-3", **{"x-team": "nobody"}) == "r003-own"
    assert served(found, "other", **{"x-team": "team-5"}) == "r005-any"
    assert served(found, "other", **{"x-team": "team-"}) == ""
    assert [complaints(one, TARGET) for one in routes(found)] == [[]] * (separation.MANY + 1)


def test_a_header_of_a_rule_that_keeps_its_requests_is_told_apart() -> None:
    """Else no name could be kept from the other teams: its match would take the guarded one's requests."""
    guarded = team(0, sensitive=True)
    found = compiled(guarded, *map(team, range(1, 12)))
    assert not [one for one in found.findings if one.is_error]
    assert served(found, "model-3", **{"x-team": "team-5"}) == "r003-own"
    assert served(found, "model-3", **{"x-team": "team-0"}) == "r000-any"


def test_alone_on_its_gateway_a_router_has_nothing_to_keep() -> None:
    many = tuple(f"team-{number}" for number in range(20))
    made = router("mr", rule(backend(pool("one")), conditions=(Condition("x-team", many),)))
    assert all(one["x-team"].startswith("Exact") for one in matches(compiled(made), "mr"))


def test_what_a_gateway_cannot_hold_is_told_and_made_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest are kept first."""
    monkeypatch.setattr(separation, "LARGEST", 6)
    found = compiled(*map(team, range(4)))
    assert [(one.code, one.origin.name, one.is_error) for one in found.findings] == [
        ("RequestsOfAnother", "r002", False),
        ("RequestsOfAnother", "r003", False),
    ]
    assert served(found, "model-0", **{"x-team": "team-3"}) == "r000-own"
    assert served(found, "model-3", **{"x-team": "team-0"}) == "r000-any"


# --- for any rules: all headers are crowded ----------------------------------------------------------------


@given(first=rules, second=rules, default=st.booleans(), name=st.sampled_from("az"))
def test_a_named_models_requests_are_its_routers(
    first: list[tuple[list[str], tuple[Condition, ...], int]],
    second: list[tuple[list[str], tuple[Condition, ...], int]],
    default: bool,
    name: str,
) -> None:
    """Whatever headers the other router's rules ask for, be it older or younger."""
    other = written(first, has_default=default)
    made = written([(["own", *models], wanted, 0) for models, wanted, _ in second], has_default=default)
    its_own = (replace(one, backends=(provider(f"{one.name}-x"),)) for one in made.rules)
    named = replace(made, name=name, origin=origin(name), rules=tuple(its_own))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(separation, "MANY", 0)
        found = compiled(other, named)
    assert not [one for one in found.findings if one.is_error]
    entries = envoy.table([one.document for one in found.objects])
    for klass, asked in ASKED:
        headers = {"x-class": klass, "x-team": asked, "x-tier": "gold"}
        given_ = {header: value for header, value in headers.items() if value is not None}
        wanted = envoy.decided(named, "own", given_)
        took = envoy.routed(entries, "own", given_)
        if wanted is not None:
            assert took is not None
            assert took["backendRefs"][0]["name"].startswith(f"{name}-{wanted.name}-x-"), given_


@given(drawn=rules, has_default=st.booleans())
def test_the_first_rule_that_fits_still_decides(
    drawn: list[tuple[list[str], tuple[Condition, ...], int]], has_default: bool
) -> None:
    """In a router that shares its Gateway with one at another hostname."""
    made = replace(written(drawn, has_default=has_default), hostnames=("a.example.com",))
    other = replace(team(1), hostnames=("b.example.com",))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(separation, "MANY", 0)
        found = compiled(made, other)
    assert not [one for one in found.findings if one.is_error]
    agree(
        made, [one.document for one in found.objects if one.sources[0].name != "r001"], preserve_order=False
    )
