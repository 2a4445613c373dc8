"""Models that routers name are kept from others' rules for any model, of many teams by few matches."""

import itertools
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp.compiler import overlaps
from epp.compiler.documents import Documents
from epp.compiler.emission import Emission
from epp.compiler.http_routes import MOST_HEADERS
from epp.compiler.intent import Condition, Intent, Router
from epp.compiler.memory import plainly
from epp.compiler.options import Options, Target
from epp.compiler.targets.envoy_ai_gateway import emit, separation
from epp.compiler.targets.envoy_ai_gateway.matches import of_rules
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


def asking(*headers: str, ignore_case: bool = False) -> tuple[Condition, ...]:
    return tuple(Condition(f"x-{one}", ("red",), ignore_case=ignore_case) for one in headers)


def of(name: str, second: int, *conditions: Condition, **more: Any) -> Router:
    servers = backend(pool(f"{name}-pool"))
    made = rule(servers, name="only", of=origin(name), conditions=conditions, **more)
    return router(name, made, created=f"2026-01-01T00:00:{second:02}Z")


RED_KIND = {"x-kind": "red", "x-team": "red"}


def test_a_name_is_kept_by_no_match_that_is_as_strong_as_an_older_guard() -> None:
    """Of a tie nobody knows. Another's rule for any model has some of the name's requests then."""
    guard = of("z-guard", 0, *asking("kind"), sensitive=True)
    named = of("a-named", 1, models=("own",))
    other = of("other", 2, *asking("team", ignore_case=True))
    found = compiled(guard, named, other)
    assert served(found, "own", **RED_KIND) == "z-guard-pool"
    assert served(found, "own", **{"x-team": "red"}) == "other-pool"
    assert served(found, "own") == "a-named-pool"
    assert not any(one.is_error for one in found.findings)
    (told,) = (one.message for one in found.findings if one.origin.name == "a-named")
    assert told.startswith("ModelRouter/llm/z-guard takes requests of ModelRouter/llm/a-named")


def test_but_by_one_that_is_weaker() -> None:
    guard = of("z-guard", 0, *asking("kind", "team"), sensitive=True)
    found = compiled(guard, of("a-named", 1, models=("own",)), of("other", 2, *asking("team")))
    assert served(found, "own", **RED_KIND) == "z-guard-pool"
    assert served(found, "own", **{"x-team": "red"}) == "a-named-pool"


def test_or_by_one_for_other_requests() -> None:
    guard = of("z-guard", 0, Condition("x-team", ("blue",), ignore_case=True), sensitive=True)
    found = compiled(guard, of("a-named", 1, models=("own",)), of("other", 2, *asking("team")))
    assert served(found, "own", **{"x-team": "red"}) == "a-named-pool"
    assert served(found, "own", **{"x-team": "BLUE"}) == "z-guard-pool"


def test_a_younger_guard_has_no_requests_of_a_name() -> None:
    found = compiled(of("named", 0, models=("own",)), of("guard", 1, *asking("kind"), sensitive=True))
    assert served(found, "own", **RED_KIND) == "named-pool"
    assert served(found, "other", **RED_KIND) == "guard-pool"


def test_of_a_tie_the_name_is_kept_too() -> None:
    """The route of the older may be the younger one, and its name decides here."""
    named = of("z-named", 0, *asking("kind", ignore_case=True), models=("own",))
    found = compiled(named, of("other", 1, *asking("team")))
    assert served(found, "own", **RED_KIND) == "z-named-pool"


def test_what_would_be_more_than_a_gateway_holds_is_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few rules of others may ask for many matches."""
    site = of("named", 0, models=("own", "more")), of("other", 1, *asking("team"))
    assert served(compiled(*site), "own", **RED_KIND) == "named-pool"
    monkeypatch.setattr(separation, "LARGEST", 1)
    found = compiled(*site)
    assert served(found, "own", **RED_KIND) == "other-pool"
    assert [one.code for one in found.findings] == ["RequestsOfAnother"]


def test_a_match_with_more_headers_than_it_may_have_is_not_made() -> None:
    named = of("named", 0, *asking("mine"), models=("own",))
    other = of("other", 1, *asking(*(f"h{number}" for number in range(MOST_HEADERS - 1))))
    found = compiled(named, other)
    assert [one.code for one in found.findings] == ["RequestsOfAnother"]
    assert [complaints(one, TARGET) for one in routes(found)] == [[], []]


# --- for any routers: as if each were asked ----------------------------------------------------------------

hosts = st.sampled_from([(), (), ("ai.example.com",), ("*.example.com",), ("b.example.org",)])


@st.composite
def sharing(draw: st.DrawFn) -> list[Router]:
    """Some with a rule for any model, which may keep its requests."""
    found = []
    for number in range(draw(st.integers(2, 6))):
        section, own = draw(st.sampled_from(["", "", "a", "b"])), team(number)
        rules = draw(st.sampled_from([own.rules, own.rules[:1]]))
        sensitive = draw(st.booleans())
        wide = (replace(one, conditions=(), sensitive=sensitive and not one.models) for one in rules)
        gateway = replace(own.gateway, section=section)
        found.append(replace(own, rules=tuple(wide), gateway=gateway, hostnames=draw(hosts)))
    return found


@given(site=sharing())
def test_whom_a_match_belongs_to_is_known_as_if_each_were_asked(site: list[Router]) -> None:
    found = [of_rules(one, in_order=False, crowded=frozenset()) for one in site]
    wide = separation._wide(site, found, range(len(site)), plainly)
    assert len(wide) <= 1
    for one, (at, own) in itertools.product(wide, enumerate(site)):
        others = [
            any(rule.is_guarded for rule in other.rules) and place < at
            for place, other in enumerate(site)
            if place != at and len(other.rules) > 1 and overlaps.same_requests(own, other)
        ]
        near = one.near(overlaps.where(own))
        assert near.guard_from(at) == any(others)
        assert near.may_lose_to(at) == (not all(others))


# --- for any rules: all headers are crowded ----------------------------------------------------------------


@given(
    first=rules,
    second=rules,
    default=st.booleans(),
    name=st.sampled_from("az"),
    sensitive=st.just(set()) | st.sets(st.integers(0, 5)),
    is_older=st.booleans(),
)
def test_a_named_models_requests_are_its_routers(
    *,
    first: list[tuple[list[str], tuple[Condition, ...], int]],
    second: list[tuple[list[str], tuple[Condition, ...], int]],
    default: bool,
    name: str,
    sensitive: set[int],
    is_older: bool,
) -> None:
    """Whatever headers the other router's rules ask for, be it older or younger; but what an older one guards
    whatever the model is that one's."""
    other = written(first, has_default=default)
    guarded = (replace(one, sensitive=place in sensitive) for place, one in enumerate(other.rules))
    other = replace(other, rules=tuple(guarded), origin=origin("mr", "2026-01-02T00:00:00Z"))
    made = written([(["own", *models], wanted, 0) for models, wanted, _ in second], has_default=default)
    its_own = (replace(one, backends=(provider(f"{one.name}-x"),)) for one in made.rules)
    created = "2026-01-03T00:00:00Z" if is_older else "2026-01-01T00:00:00Z"
    named = replace(made, name=name, origin=origin(name, created), rules=tuple(its_own))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(separation, "MANY", 0)
        found = compiled(*((other, named) if is_older else (named, other)))
    if [one for one in found.findings if one.is_error]:
        assert any(one.is_guarded for one in other.rules)
        return
    entries = envoy.table([one.document for one in found.objects])
    for klass, asked in ASKED:
        headers = {"x-class": klass, "x-team": asked, "x-tier": "gold"}
        given_ = {header: value for header, value in headers.items() if value is not None}
        wanted = envoy.decided(named, "own", given_)
        took = envoy.routed(entries, "own", given_)
        guard = envoy.decided(other, "own", given_) if is_older else None
        if guard is not None and guard.is_guarded:
            assert took is not None
            assert took["backendRefs"][0]["name"].startswith(guard.name), given_
        elif wanted is not None and not (is_older and sensitive):
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
