"""The first rule of a router that fits decides, whatever order Envoy Gateway tries them in."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from epp.compiler import order
from epp.compiler.documents import Document, Documents
from epp.compiler.intent import Budget, Condition, Intent, Router, Rule, Scope, Upstream
from epp.compiler.options import Options, Target
from epp.compiler.patterns import Matcher
from epp.compiler.targets.envoy_ai_gateway import emit, matches
from tests.compiler.envoy_ai_gateway import envoy
from tests.compiler.envoy_ai_gateway.crds import complaints
from tests.compiler.makers import Backend, backend, origin, pool, router, rule

TARGETS = [Target.ENVOY_AI_GATEWAY_0_7, Target.ENVOY_AI_GATEWAY_1_1]
MODELS = ["qwen", "llama", "llama-3/8b", "llama-3", "gpt", ""]
PATTERNS = ["qwen", "llama", "llama-3/8b", "llama*", "llama-?", "*", "*/*", "q*"]
VALUES = {"x-class": ["pii", "PII", "Phi", "public"], "x-team": ["a", "b"], "x-tier": ["gold", ""]}
GATEWAY = {"apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway"}


def provider(name: str, **more: Any) -> Backend:
    at = origin(name)
    return Backend(name, Upstream(f"{name}.example.com", 443, at, tls=True), at, **more)


def emitted(
    target: Target, *routers: Router, around: tuple[Document, ...] = ()
) -> tuple[list[Any], list[str]]:
    """Documents, and codes of errors."""
    found = emit(Intent(routers), Documents(around), Options(target))
    return [one.document for one in found.objects], [one.code for one in found.findings if one.is_error]


def ordered_gateway() -> tuple[Document, ...]:
    proxy = {"group": "gateway.envoyproxy.io", "kind": "EnvoyProxy", "name": "ordered"}
    meta = {"namespace": "edge"}
    return (
        Document(
            {
                **GATEWAY,
                "metadata": {**meta, "name": "ai"},
                "spec": {"infrastructure": {"parametersRef": proxy}},
            }
        ),
        Document(
            {
                "apiVersion": "gateway.envoyproxy.io/v1alpha1",
                "kind": "EnvoyProxy",
                "metadata": {**meta, "name": "ordered"},
                "spec": {"preserveRouteOrder": True},
            }
        ),
    )


conditions = st.dictionaries(st.sampled_from(sorted(VALUES)), st.integers(0, 7), max_size=3).map(
    lambda chosen: tuple(
        Condition(
            name, tuple(VALUES[name][at % len(VALUES[name])] for at in {number, number // 2}), number % 2 == 0
        )
        for name, number in sorted(chosen.items())
    )
)
rules = st.lists(
    st.tuples(st.lists(st.sampled_from(PATTERNS), max_size=3, unique=True), conditions, st.integers(0, 2)),
    min_size=1,
    max_size=6,
)


def written(drawn: list[tuple[list[str], tuple[Condition, ...], int]], *, has_default: bool) -> Router:
    made: list[Rule] = []
    for number, (models, wanted, kind) in enumerate(drawn):
        name = f"rule-{number}"
        timeout = [None, 1.5, 600.0][kind]
        backends = (
            [backend(pool(name))] if kind == 0 else [provider(f"{name}-a"), provider(f"{name}-b")][:kind]
        )
        made.append(rule(*backends, name=name, models=tuple(models), conditions=wanted, timeout=timeout))
    if has_default:
        made.append(rule(backend(pool("rest")), name="default", is_default=True))
    return router("mr", *made)


def served_by(found: dict[str, Any] | None, router: Router) -> str:
    """Names of rules are in those of their backends."""
    if found is None:
        return ""
    first = found["backendRefs"][0]["name"]
    return next(one.name for one in router.rules if one.backends[0].name in first)


def agree(router: Router, documents: list[Any], *, preserve_order: bool) -> None:
    entries = envoy.table(documents, preserve_order=preserve_order)
    for model in MODELS:
        for klass in (None, *VALUES["x-class"], "other"):
            for team in (None, "a", "b"):
                for tier in (None, "gold", ""):
                    asked = {"x-class": klass, "x-team": team, "x-tier": tier}
                    headers = {name: value for name, value in asked.items() if value is not None}
                    wanted = envoy.decided(router, model, headers)
                    found = served_by(envoy.routed(entries, model, headers), router)
                    assert found == (wanted.name if wanted else ""), (model, headers)


PII = Condition("x-class", ("pii",), ignore_case=True)
TEAM = Condition("x-team", ("a",))


@given(drawn=rules, has_default=st.booleans(), target=st.sampled_from(TARGETS))
@example([([], (PII,), 0), (["qwen"], (TEAM,), 1), (["qwen"], (), 2)], True, TARGETS[0])
def test_sorted_the_first_rule_that_fits_decides(
    drawn: list[tuple[list[str], tuple[Condition, ...], int]], has_default: bool, target: Target
) -> None:
    made = written(drawn, has_default=has_default)
    documents, errors = emitted(target, made)
    assert not errors
    for one in documents:
        assert complaints(one, target) == []
    agree(made, documents, preserve_order=False)


@given(drawn=rules, has_default=st.booleans(), target=st.sampled_from(TARGETS))
def test_in_order_the_first_rule_that_fits_decides(
    drawn: list[tuple[list[str], tuple[Condition, ...], int]], has_default: bool, target: Target
) -> None:
    made = written([(models, wanted, 0) for models, wanted, _ in drawn], has_default=has_default)
    documents, errors = emitted(target, made, around=ordered_gateway())
    assert not errors
    agree(made, documents, preserve_order=True)


def test_of_one_route_both_orders_are_the_same() -> None:
    """What is made for a Gateway that sorts is right on one that does not."""
    made = written([([], (PII,), 0), (["qwen"], (TEAM,), 0), (["llama*"], (), 0)], has_default=True)
    documents, _ = emitted(TARGETS[1], made)
    assert len([one for one in documents if one["kind"] == "AIGatewayRoute"]) == 1
    agree(made, documents, preserve_order=True)


def test_in_order_all_rules_must_be_in_one_route() -> None:
    """The first route ends with a 404 for everything."""
    made = written([(["qwen"], (), 0), (["gpt"], (), 1)], has_default=False)
    assert emitted(TARGETS[1], made, around=ordered_gateway())[1] == ["RuleOrderNotExpressible"]
    assert emitted(TARGETS[1], made)[1] == []


def test_in_order_two_routers_need_hostnames() -> None:
    one = router("one", rule(backend(pool("qwen")), models=("qwen",)), created="2026-01-01T00:00:00Z")
    two = router("two", rule(backend(pool("gpt")), models=("gpt",)), created="2026-01-02T00:00:00Z")
    found = emit(Intent((one, two)), Documents(ordered_gateway()), Options(TARGETS[1]))
    (told,) = [told for told in found.findings if told.is_error]
    assert told.code == "RuleOrderNotExpressible" and told.origin.name == "two"
    assert "preserveRouteOrder" in told.fix


def test_more_than_sixteen_headers_cannot_be_kept_apart() -> None:
    """A rule with 9 headers before one with 9 others needs 18 in the match of both."""
    first = tuple(Condition(f"x-a-{number}", ("1",), ignore_case=False) for number in range(8))
    other = tuple(Condition(f"x-b-{number}", ("1",)) for number in range(9))
    made = router(
        "mr",
        rule(backend(pool("one")), name="one", conditions=first),
        rule(backend(pool("two")), name="two", conditions=other),
    )
    found = emit(Intent((made,)), Documents(()), Options(TARGETS[0]))
    (told,) = found.findings
    assert told.code == "RuleOrderNotExpressible" and told.is_error
    assert "preserveRouteOrder" in told.fix


@pytest.mark.parametrize(
    "name, value",
    [("x team", "a"), ("x-team", "zwölf"), ("x-team", "a" * 4097), ("x-team", " a"), ("x" * 257, "a")],
)
def test_what_no_http_route_can_name_is_refused(name: str, value: str) -> None:
    made = router("mr", rule(backend(pool("one")), conditions=(Condition(name, (value,)),)))
    assert emitted(TARGETS[1], made)[1] == ["UnsupportedMatchInGatewayMode"]


def test_a_rule_that_no_request_gets_to_is_told_and_makes_nothing() -> None:
    made = router(
        "mr",
        rule(provider("all"), name="all", models=("qwen",)),
        rule(provider("never"), name="never", models=("qwen",), conditions=(TEAM,)),
    )
    found = emit(Intent((made,)), Documents(()), Options(TARGETS[1]))
    assert [(one.code, one.origin.name) for one in found.findings] == [("RuleNeverReached", "router")]
    assert not [one for one in found.objects if "never" in one.key[2]]


@pytest.mark.parametrize("target", TARGETS)
def test_limits_are_kept_by_several_routes(target: Target) -> None:
    """40 rules, one with 200 models: each match once, no route over a limit, the names count up."""
    many = [rule(backend(pool(f"p{n}")), name=f"p{n}", models=(f"model-{n}",)) for n in range(40)]
    wide = rule(backend(pool("wide")), name="wide", models=tuple(f"wide-{n}" for n in range(200)))
    made = router("mr", *many, wide, rule(backend(pool("rest")), name="default", is_default=True))
    documents, errors = emitted(target, made)
    assert not errors
    routes = [one for one in documents if one["kind"] == "AIGatewayRoute"]
    assert [one["metadata"]["name"] for one in routes] == sorted(one["metadata"]["name"] for one in routes)
    assert len(routes) == 4
    for one in documents:
        assert complaints(one, target) == []
    entries = envoy.table(documents)
    for model in ("model-0", "model-39", "wide-0", "wide-199", "other"):
        wanted = envoy.decided(made, model, {})
        assert wanted is not None
        assert envoy.routed(entries, model, {})["backendRefs"][0]["name"] == wanted.backends[0].name  # type: ignore[index]


def test_a_rule_stands_behind_those_that_it_ties_with() -> None:
    """The third rule is tried as the first is, and yet cannot stand in its route: that is tried too soon."""
    made = router(
        "mr",
        rule(provider("first"), name="first", models=("a*",)),
        rule(provider("second"), name="second", models=("*b",), timeout=1.0),
        rule(provider("third"), name="third", models=("c*",)),
    )
    documents, errors = emitted(TARGETS[1], made)
    routes = [one for one in documents if one["kind"] == "AIGatewayRoute"]
    assert not errors and len(routes) == 3
    assert served_by(envoy.routed(envoy.table(documents), "cb", {}), made) == "second"


def test_of_more_than_a_hundred_routes_the_earlier_rule_still_decides() -> None:
    """All are made in one second, and then their names decide."""
    rules = (
        rule(
            provider(f"p{n:03}"), name=f"r{n:03}", conditions=(Condition(f"x-{n}", ("y",)),), timeout=10.0 + n
        )
        for n in range(102)
    )
    made = router("mr", *rules)
    documents, errors = emitted(TARGETS[1], made)
    assert not errors and len([one for one in documents if one["kind"] == "AIGatewayRoute"]) == 102
    found = envoy.routed(envoy.table(documents), "any", {"x-11": "y", "x-100": "y"})
    assert served_by(found, made) == "r011"


EXACT_A, ANY = {matches.MODEL: Matcher("a")}, dict[str, Matcher]()
TEAM_A = {"x-team": Matcher("a")}
BOTH = {**EXACT_A, **TEAM_A}


@pytest.mark.parametrize(
    "tried, in_order, wrong",
    [
        pytest.param([(0, EXACT_A), (1, ANY)], False, None, id="as-it-should-be"),
        pytest.param([(0, ANY), (1, EXACT_A)], False, (0, 1), id="more-exact-values-come-first"),
        pytest.param([(0, ANY), (1, EXACT_A)], True, None, id="in-order-they-do-not"),
        pytest.param([(1, EXACT_A), (0, ANY)], True, (0, 1), id="in-order-the-other-way-round"),
        pytest.param([(0, EXACT_A), (1, TEAM_A)], False, (0, 1), id="more-headers-come-first"),
        pytest.param([(0, EXACT_A), (0, BOTH), (1, TEAM_A)], False, None, id="made-up-for"),
        pytest.param([(1, TEAM_A), (0, EXACT_A), (0, BOTH)], False, None, id="wherever-it-stands"),
        pytest.param([(1, EXACT_A), (0, EXACT_A)], False, (0, 1), id="ties-are-decided-by-age"),
        pytest.param([(0, {matches.MODEL: Matcher("b")}), (1, BOTH)], False, None, id="no-request-fits-both"),
    ],
)
def test_what_the_gateway_would_take_for_another_is_found(
    tried: list[matches.Placed], in_order: bool, wrong: tuple[int, int] | None
) -> None:
    assert matches.misplaced(tried, in_order=in_order) == wrong


def test_rules_have_names_from_1_1_on() -> None:
    made = router(
        "mr",
        rule(backend(pool("one")), name="same", models=("one",)),
        rule(backend(pool("two")), name="same", models=("two",)),
        rule(backend(pool("three")), name="route-not-found", models=("three",)),
    )
    for target in TARGETS:
        documents, _ = emitted(target, made)
        (route,) = [one for one in documents if one["kind"] == "AIGatewayRoute"]
        assert complaints(route, target) == []
        assert [("name" in one) for one in route["spec"]["rules"]] == [target is TARGETS[1]] * 3


def test_a_younger_routers_default_is_not_shadowed_by_an_older_routers_404() -> None:
    older = router("older", rule(backend(pool("qwen")), models=("qwen",)), created="2026-01-01T00:00:00Z")
    younger = router(
        "younger",
        rule(backend(pool("gpt")), models=("gpt",)),
        rule(backend(pool("rest")), name="default", is_default=True),
        created="2026-01-02T00:00:00Z",
    )
    documents, errors = emitted(TARGETS[1], older, younger)
    assert not errors
    entries = envoy.table(documents)
    assert envoy.routed(entries, "qwen", {})["backendRefs"][0]["name"] == "qwen"  # type: ignore[index]
    assert envoy.routed(entries, "whatever", {})["backendRefs"][0]["name"] == "rest"  # type: ignore[index]


def test_an_exact_model_wins_over_an_older_routers_default() -> None:
    older = router("older", rule(backend(pool("rest")), is_default=True), created="2026-01-01T00:00:00Z")
    younger = router("younger", rule(backend(pool("gpt")), models=("gpt",)), created="2026-01-02T00:00:00Z")
    documents, _ = emitted(TARGETS[1], older, younger)
    assert envoy.routed(envoy.table(documents), "gpt", {})["backendRefs"][0]["name"] == "gpt"  # type: ignore[index]


@pytest.mark.parametrize(
    "older, younger, taker",
    [
        pytest.param({"is_default": True}, {"is_default": True}, "both", id="two-defaults"),
        pytest.param({"is_default": True}, {"models": ("gpt-*",)}, "both", id="default-and-glob"),
        pytest.param({"conditions": (TEAM,)}, {"models": ("gpt-*",)}, "older", id="header-and-glob"),
        pytest.param({"models": ("gpt-*",)}, {"conditions": (TEAM,)}, "younger", id="glob-and-header"),
        pytest.param({"is_default": True}, {"conditions": (TEAM,)}, "", id="default-and-header"),
        pytest.param({"models": ("gpt",)}, {"conditions": (TEAM,)}, "", id="model-and-header"),
        pytest.param({"conditions": (TEAM,)}, {"models": ("gpt",)}, "", id="header-and-model"),
        pytest.param({"models": ("gpt",)}, {"is_default": True}, "", id="model-and-default"),
        pytest.param({"models": ("gpt-*",)}, {"models": ("qwen-*",)}, "", id="globs-apart"),
        pytest.param({"models": ("gpt-*",)}, {"models": ("gpt-4",)}, "", id="glob-and-model"),
    ],
)
def test_who_takes_requests_of_another_router_is_told(
    older: dict[str, Any], younger: dict[str, Any], taker: str
) -> None:
    one = router("older", rule(backend(pool("one")), **older), created="2026-01-01T00:00:00Z")
    two = router("younger", rule(backend(pool("two")), **younger), created="2026-01-02T00:00:00Z")
    found = emit(Intent((one, two)), Documents(()), Options(TARGETS[1])).findings
    told = [one for one in found if one.code == "RequestsOfAnother"]
    assert [one.origin.name for one in told] == ["younger"] * bool(taker)
    both = "ModelRouter/llm/older and ModelRouter/llm/younger want"
    said = both if taker == "both" else f"ModelRouter/llm/{taker} takes"
    assert all(one.message.startswith(said) and not one.is_error for one in told)


@given(
    first=rules, second=rules, defaults=st.tuples(st.booleans(), st.booleans()), name=st.sampled_from("az")
)
def test_a_model_that_a_router_names_is_decided_by_its_rules(
    first: list[tuple[list[str], tuple[Condition, ...], int]],
    second: list[tuple[list[str], tuple[Condition, ...], int]],
    defaults: tuple[bool, bool],
    name: str,
) -> None:
    """Whatever headers the other router's rules ask for, be it older or younger."""
    other = written(first, has_default=defaults[0])
    naming = [(["own", *models], wanted, 0) for models, wanted, _ in second]
    named = written(naming, has_default=defaults[1])
    its_own = (replace(one, backends=(provider(f"{one.name}-x"),)) for one in named.rules)
    named = replace(named, name=name, origin=origin(name), rules=tuple(its_own))
    documents, errors = emitted(TARGETS[1], other, named)
    assert not errors
    for one in documents:
        assert complaints(one, TARGETS[1]) == []
    entries = envoy.table(documents)
    for klass in (None, *VALUES["x-class"]):
        for team in (None, "a", "b"):
            asked = {"x-class": klass, "x-team": team, "x-tier": "gold"}
            headers = {header: value for header, value in asked.items() if value is not None}
            wanted = envoy.decided(named, "own", headers)
            found = envoy.routed(entries, "own", headers)
            if wanted is not None:
                assert found is not None
                assert found["backendRefs"][0]["name"].startswith(f"{name}-{wanted.name}-x-"), headers


def test_other_hostnames_are_other_requests() -> None:
    one = router("older", rule(backend(pool("one")), is_default=True), hostnames=("a.example.com",))
    two = router("younger", rule(backend(pool("two")), is_default=True), hostnames=("*.example.org",))
    assert emit(Intent((one, two)), Documents(()), Options(TARGETS[1])).findings == ()


def apart(one: Rule) -> Rule:
    """Of a fleet, where each model stands for itself."""
    return replace(one, origin=replace(origin("site", kind="Fleet"), part=one.name))


def test_parts_of_an_input_have_routes_of_their_own() -> None:
    """Where nothing ties them: a glob and a default are tried in order, and stay together."""
    parts = [
        rule(backend(pool(name)), name=name, models=(model,))
        for name, model in (("qwen", "qwen"), ("gpt", "gpt"), ("llama", "llama-*"), ("rest", "*"))
    ]
    made = router("site", *map(apart, parts))
    documents, _ = emitted(TARGETS[1], made)
    routes = {one["metadata"]["name"]: one for one in documents if one["kind"] == "AIGatewayRoute"}
    assert [len(one["spec"]["rules"]) for one in routes.values()] == [1, 1, 2]
    policies = [one for one in documents if one["kind"] == "BackendTrafficPolicy"]
    assert sorted(one["metadata"]["name"] for one in policies) == sorted(routes)


def test_parts_that_share_a_budget_share_a_policy() -> None:
    budget = Budget("all", Scope.ROUTER, 1000, 3600, origin("site"))
    made = router(
        "site",
        *(apart(rule(backend(pool(name)), name=name, models=(name,))) for name in ("qwen", "gpt")),
        budgets=(budget,),
    )
    documents, _ = emitted(TARGETS[1], made)
    (policy,) = [one for one in documents if one["kind"] == "BackendTrafficPolicy"]
    routes = [one["metadata"]["name"] for one in documents if one["kind"] == "AIGatewayRoute"]
    assert len(routes) == 2 and [one["name"] for one in policy["spec"]["targetRefs"]] == routes


@pytest.mark.parametrize("target", TARGETS)
def test_a_rule_that_asks_for_too_many_headers_is_blamed_itself(target: Target) -> None:
    many = tuple(Condition(f"x-{number}", ("yes",)) for number in range(16))
    first = rule(backend(pool("pii")), name="pii", conditions=(Condition("x-class", ("pii",)),))
    late = rule(backend(pool("late")), name="late", models=("qwen",), conditions=many)
    (told,) = emit(Intent((router("site", first, late),)), Documents(()), Options(target)).findings
    assert told.code == "TooManyHeaders" and told.message.startswith("rule late asks for 17 headers")
    assert "preserveRouteOrder" not in told.fix


def test_a_name_before_an_earlier_rules_pattern_is_found() -> None:
    """Also with the pattern among many names, of which only those that meet are compared."""
    names = [(at, {matches.MODEL: Matcher(f"m{at}")}) for at in range(2, 9)]
    name, pattern = (1, EXACT_A), (0, {matches.MODEL: Matcher("a*", "glob")})
    assert matches.misplaced([*names, name, pattern], in_order=True) == (0, 1)
    assert matches.misplaced([name, *names, pattern], in_order=False) == (0, 1)
    assert matches.misplaced([*names, pattern, name], in_order=True) is None
    late, early = (0, {matches.MODEL: Matcher("a")}), (1, {matches.MODEL: Matcher("a*", "glob")})
    assert matches.misplaced([early, *names, late], in_order=True) == (0, 1)


texts = st.sampled_from([Matcher("a"), Matcher("b"), Matcher("a", "spelled"), Matcher(".*", "any")])
tries = st.lists(
    st.tuples(
        st.integers(0, 3),
        st.dictionaries(st.sampled_from([matches.MODEL, "x-team", "x-tier"]), texts),
    ),
    max_size=8,
)


@given(tried=tries, in_order=st.booleans())
def test_what_is_found_misplaced_is_what_comparing_all_of_them_finds(
    tried: list[matches.Placed], in_order: bool
) -> None:
    assert matches.misplaced(tried, in_order=in_order) == next(plainly_misplaced(tried, in_order), None)


def plainly_misplaced(tried: list[matches.Placed], in_order: bool) -> Iterator[tuple[int, int]]:
    ranked = tried if in_order else sorted(tried, key=lambda one: matches.strength(one[1]), reverse=True)
    for place, (later, match) in enumerate(ranked):
        for earlier, other in ranked[place + 1 :]:
            for met in order.both(match, other) if earlier < later else ():
                if not any(one <= earlier and order.covers(had, met) for one, had in ranked[:place]):
                    yield earlier, later


def test_routers_that_cannot_be_kept_apart_have_their_routes_all_the_same() -> None:
    """A match for both would need more headers than there can be."""
    wide = tuple(Condition(f"x-a-{number}", ("1",)) for number in range(9))
    more = tuple(Condition(f"x-b-{number}", ("1",)) for number in range(8))
    older = router("older", rule(backend(pool("one")), conditions=wide), created="2026-01-01T00:00:00Z")
    younger = router(
        "younger",
        rule(backend(pool("two")), models=("qwen",), conditions=more),
        created="2026-01-02T00:00:00Z",
    )
    last = router("zlast", rule(backend(pool("three")), models=("gpt",)), created="2026-01-03T00:00:00Z")
    found = emit(Intent((older, younger, last)), Documents(()), Options(TARGETS[1]))
    routes = {
        one.key[2]: one.document["spec"]["rules"] for one in found.objects if one.key[0] == "AIGatewayRoute"
    }
    assert {name: [one["backendRefs"][0]["name"] for one in rules] for name, rules in routes.items()} == {
        "older": ["one"],
        "younger": ["two"],
        "zlast": ["three"],
    }
    assert [one.origin.name for one in found.findings if one.code == "RequestsOfAnother"] == ["younger"]
