"""Token budgets as limits of the rate-limit service."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp.compiler.findings import Severity
from epp.compiler.intent import Access, Budget, Condition, Jwt, Scope
from epp.compiler.targets.envoy_ai_gateway.budgets import MOST, rate
from epp.compiler.targets.envoy_ai_gateway.refused import Refused
from tests.compiler.envoy_ai_gateway.made import document, made, provider
from tests.compiler.makers import origin, router, rule

LENGTHS = {"Second": 1, "Minute": 60, "Hour": 3600, "Day": 86_400, "Month": 2_592_000, "Year": 31_536_000}
QWEN = rule(provider("a"), name="qwen", models=("qwen", "qwen-2"))
GPT = rule(provider("b"), provider("c"), name="gpt", models=("gpt",), timeout=10.0)
TEAM = Access(Jwt("https://idp.example.com", "https://idp.example.com/jwks", "team", "x-team"), origin("mr"))


def budget(scope: Scope, tokens: int = 1000, seconds: int = 3600, **more: Any) -> Budget:
    return Budget("b", scope, tokens, seconds, origin("mr"), **more)


@pytest.mark.parametrize(
    "tokens, seconds, expected",
    [
        (1000, 3600, ("Hour", 1000)),
        (5_000_000, 90, ("Minute", 3_333_333)),
        (100, 7 * 86_400, ("Day", 14)),
        (5, 10 * 86_400, ("Hour", None)),
        (1000, 2_592_000, ("Month", 1000)),
        (10**12, 86_400, ("Minute", 694_444_444)),
    ],
)
def test_the_unit_is_the_windows_own_or_the_largest_within(
    tokens: int, seconds: int, expected: tuple[str, int | None]
) -> None:
    unit, requests = rate(budget(Scope.ROUTER, tokens, seconds))
    if expected[1] is None:
        assert unit == "Month" and requests == 15, "5 tokens in 10 days are less than one in a day"
    else:
        assert (unit, requests) == expected


@given(tokens=st.integers(1, 10**13), seconds=st.integers(1, 10**8))
def test_a_limit_is_never_more_than_the_budget_says_and_fits(tokens: int, seconds: int) -> None:
    asked = budget(Scope.ROUTER, tokens, seconds)
    try:
        unit, requests = rate(asked)
    except Refused:
        assert not any(1 <= tokens * length // seconds <= MOST for length in LENGTHS.values())
        return
    assert 1 <= requests <= MOST
    assert requests * seconds <= tokens * LENGTHS[unit]


def test_more_than_can_be_said_is_refused() -> None:
    asked = budget(Scope.ROUTER, 10**10, 1)
    assert made(router("mr", QWEN, budgets=(asked,))).codes() == ["InvalidBudget"]


def limits(found: Any) -> list[list[Any]]:
    policies = found.all("BackendTrafficPolicy")
    return [one["spec"].get("rateLimit", {}).get("global", {}).get("rules", []) for one in policies]


def test_a_routers_budget_is_one_bucket_for_all_its_routes() -> None:
    found = made(router("mr", QWEN, GPT, budgets=(budget(Scope.ROUTER),)))
    ((limit,),) = limits(found)
    assert limit["shared"] is True and limit["limit"] == {"requests": 1000, "unit": "Hour"}
    assert limit["cost"]["request"] == {"from": "Number", "number": 0}
    assert limit["cost"]["response"]["metadata"]["key"] == "llm_total_token"
    assert "clientSelectors" not in limit
    for route in found.all("AIGatewayRoute"):
        kinds = [one["type"] for one in route["spec"]["llmRequestCosts"]]
        assert kinds == ["InputToken", "OutputToken", "TotalToken"]
    told = found.told("OneTimeoutForAll")
    assert told.severity is Severity.WARNING and "120 s" in told.message


def test_a_teams_budget_counts_those_without_a_team_together() -> None:
    """A limit for each value of a header does not hold for requests without it."""
    found = made(router("mr", QWEN, budgets=(budget(Scope.TEAM, header="x-org"),)))
    ((named, nameless),) = limits(found)
    assert named["clientSelectors"] == [{"headers": [{"name": "x-org", "type": "Distinct"}]}]
    ((headers,),) = [one["headers"] for one in nameless["clientSelectors"]]
    assert headers == {"name": "x-org", "type": "RegularExpression", "value": ".+", "invert": True}
    assert named["limit"] == nameless["limit"]


def test_the_team_is_the_tokens_where_no_header_is_named() -> None:
    found = made(router("mr", QWEN, budgets=(budget(Scope.TEAM),), access=TEAM))
    assert limits(found)[0][0]["clientSelectors"][0]["headers"][0]["name"] == "x-team"
    assert made(router("mr", QWEN, budgets=(budget(Scope.TEAM),))).codes() == ["InvalidBudget"]


def test_a_rules_budget_has_a_route_of_its_own() -> None:
    other = rule(provider("d"), name="other", models=("other",))
    found = made(router("mr", QWEN, other, budgets=(budget(Scope.RULE, rule="qwen"),)))
    assert [len(one) for one in limits(found)] == [1, 0]
    assert [one["spec"]["rules"][0]["name"] for one in found.all("AIGatewayRoute")] == ["qwen", "other"]
    assert limits(found)[0][0]["shared"] is True, "its two models share the budget"


def test_beside_a_routers_budget_a_rules_requests_are_told_by_their_headers() -> None:
    asked = rule(
        provider("a"), name="qwen", models=("qwen*", "q.1"), conditions=(Condition("x-a", ("1", "2")),)
    )
    both = (budget(Scope.ROUTER), budget(Scope.RULE, 500, rule="qwen"))
    ((_, own),) = limits(made(router("mr", GPT, asked, budgets=both)))
    assert own["limit"]["requests"] == 500
    assert [(one["name"], one["value"]) for one in own["clientSelectors"][0]["headers"]] == [
        ("x-ai-eg-model", r"^(qwen[^/]*|q\.1)$"),
        ("x-a", "^(1|2)$"),
    ]


def test_which_cannot_be_where_an_earlier_rule_takes_some_of_them() -> None:
    first = rule(provider("z"), name="first", conditions=(Condition("x-a", ("1",)),))
    both = (budget(Scope.ROUTER), budget(Scope.RULE, rule="qwen"))
    found = made(router("mr", first, QWEN, budgets=both))
    assert found.codes() == ["UnsupportedBudgetScope"] and "rule first" in found.findings[0].message


def test_nor_where_its_models_are_too_many_for_one_header() -> None:
    wide = rule(provider("a"), name="wide", models=tuple(f"model-with-a-long-name-{n}" for n in range(60)))
    both = (budget(Scope.ROUTER), budget(Scope.RULE, rule="wide"))
    assert made(router("mr", wide, budgets=both)).codes() == ["UnsupportedBudgetScope"]


@pytest.mark.parametrize(
    "configured, code",
    [
        (None, "NeedsRateLimitService"),
        ("rateLimit:\n  backend: {type: Redis, redis: {url: redis:6379}}\n", None),
        ("gateway: {}\n", "NoRateLimitService"),
    ],
)
def test_who_counts_is_told(configured: str | None, code: str | None) -> None:
    name = "envoy-gateway-config"
    around = (document("ConfigMap", name, data={"envoy-gateway.yaml": configured}),) if configured else ()
    found = made(router("mr", QWEN, budgets=(budget(Scope.ROUTER),)), around=around)
    assert found.codes() == ([code] if code else [])
    assert code != "NeedsRateLimitService" or "1.8.2" in found.told(code).fix


def test_with_one_policy_for_all_routes_none_is_cut_off_before_its_longest_rule() -> None:
    """Streams that are silent for longer end: reading a long prompt is silence."""
    slow = rule(provider("s"), provider("t"), provider("u"), name="slow", models=("slow",), timeout=1800.0)
    many = [rule(provider("d"), name=f"m{n}", models=(f"m{n}",), timeout=10.0) for n in range(15)]
    for rules in ((slow, *many), (*many, slow)):
        found = made(router("mr", *rules, budgets=(budget(Scope.ROUTER),)))
        assert len(found.all("AIGatewayRoute")) == 2
        (policy,) = found.all("BackendTrafficPolicy")
        lasting = max(one["timeouts"]["request"] for one in found.rules)
        assert policy["spec"]["timeout"]["http"] == {"streamIdleTimeout": "1h30m2s"}, lasting


def test_an_earlier_rule_that_refuses_costs_no_tokens() -> None:
    """As the guard of a fleet's sensitive requests does, which stands before the model's rule."""
    guard = rule(name="guard", models=("qwen",), conditions=(Condition("x-class", ("pii",)),))
    both = (budget(Scope.ROUTER), budget(Scope.RULE, rule="qwen"))
    found = made(router("mr", guard, QWEN, budgets=both))
    assert not found.codes(Severity.ERROR) and len(found.rules) == 2
