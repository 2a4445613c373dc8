"""Teams, budgets and priorities of a fleet file."""

import pytest

from epp.compiler.intent import Allowance, Scope
from tests.compiler.fleet.reading import read, router, told

SITE = """
models:
- {name: qwen, aliases: [small], servedAs: "*", pods: {app: q}}
- {name: llama-3.3, pods: {app: l}}
"""
AUTH = 'auth: {issuer: "https://idp.example.com", jwks: "https://idp.example.com/keys", header: X-Org}\n'


def test_a_team_may_ask_for_a_model_by_any_of_its_names() -> None:
    found = router(f"{SITE}{AUTH}teams: [{{name: support, models: [small]}}, {{name: platform}}]").access
    assert found is not None
    assert found.allowances == (Allowance("support", ("qwen", "small")), Allowance("platform"))
    assert (found.jwt.team_claim, found.jwt.team_header) == ("team", "x-org")


def test_without_teams_whoever_has_a_token_may_ask() -> None:
    found = router(SITE + AUTH).access
    assert found is not None and found.allowances == ()


def test_budgets_of_everybody_of_each_team_and_of_a_model() -> None:
    budgets = """
    budgets:
    - {tokens: 5M}
    - {tokens: 200k, window: 1m, per: team}
    - {tokens: 1k, window: 24h, model: small}
    """
    found = router(SITE, AUTH, budgets).budgets
    assert [(one.scope, one.tokens, one.seconds, one.rule, one.header) for one in found] == [
        (Scope.ROUTER, 5_000_000, 3600, "", ""),
        (Scope.TEAM, 200_000, 60, "", "x-org"),
        (Scope.RULE, 1_000, 86_400, "qwen", ""),
    ]


def test_a_model_with_a_budget_has_one_rule_for_all_its_names() -> None:
    text = "{models: [{name: qwen, aliases: [small], pods: {app: q}}], budgets: [{tokens: 1k, model: qwen}]}"
    (found,) = router(text).rules
    assert found.models == ("qwen", "small")


def test_a_budget_that_several_rules_count_is_told_with_its_sum() -> None:
    site = """{sensitive: {classes: [pii]}, defaultModel: m, budgets: [{tokens: 5M, window: 24h, model: m}],
    models: [{name: m, aliases: [m-1], backends: [home, north/x]}, {name: home, pods: {app: h}}]}"""
    (found,) = told(site)
    assert found == (
        "budgets[0] BudgetCountsApart: requests for m go by 4 rules, m-sensitive-72c99d, m,"
        " m-sensitive-others-2bff2d, default-m-d3a776, and each counts by itself: 20000000 tokens in all"
        " within the window -> write tokens: 1250000, or a budget of the whole fleet"
    )
    assert [one.tokens for one in read(site).routers[0].budgets] == [5_000_000] * 4


@pytest.mark.parametrize(
    "wrong, expected",
    [
        (
            "teams: [{name: t, models: []}]",
            "teams[0].models SpecInvalid: must not be empty -> leave it out for all",
        ),
        ("teams: []", "teams SpecInvalid: must not be empty -> leave it out for whoever has a valid token"),
        (
            "sensitive: {classes: [x], models: []}",
            "sensitive.models SpecInvalid: must not be empty -> leave it",
        ),
        (
            "auth: {issuer: i, jwks: 'https://i/k', audiences: []}",
            "auth.audiences SpecInvalid: must not be empty",
        ),
    ],
)
def test_an_empty_list_is_neither_nobody_nor_everybody(wrong: str, expected: str) -> None:
    (found,) = told(SITE, AUTH, wrong)
    assert found.startswith(expected)
    assert read(SITE, AUTH, wrong).routers == ()


def test_a_team_that_anybody_can_claim_to_be_is_told() -> None:
    (found,) = told(SITE, "budgets: [{tokens: 1, per: team}]")
    assert found.startswith("budgets TeamsUnverified: whoever asks can write any team into x-team")


def test_priorities_are_of_each_pool_under_a_name_that_can_be_said() -> None:
    found = read(SITE + "priorities: {interactive: 10, batch: -10}").objectives
    assert {(one.name, one.pool, one.priority) for one in found} == {
        ("qwen-interactive", "qwen", 10),
        ("qwen-batch", "qwen", -10),
        ("llama-3.3-interactive", "llama-3-3-8d566c", 10),
        ("llama-3.3-batch", "llama-3-3-8d566c", -10),
    }
