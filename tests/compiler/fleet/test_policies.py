"""Teams, budgets and priorities of a fleet file."""

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
