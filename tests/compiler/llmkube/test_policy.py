"""Budgets, whose tokens are accepted, and the audit log."""

from typing import Any

import pytest

from epp.compiler.intent import Allowance, Budget, Scope
from tests.compiler.llmkube.cluster import read_router, refused, router, rule, told

JWT = {
    "provider": "keycloak",
    "issuer": "https://id.example.com",
    "jwksURI": "https://id.example.com/certs",
    "teamClaim": "team",
}


def budget(scope: str, **more: Any) -> dict[str, Any]:
    return {"name": "cap", "scope": scope, "maxTokens": 5_000_000, **more}


def read_budget(written: dict[str, Any], **policy: Any) -> Budget:
    (found,) = read_router(router(policy={"budgets": [written], **policy})).budgets
    return found


def test_a_routers_budget_counts_everything_within_an_hour_if_nobody_says() -> None:
    found = read_budget(budget("router"))
    assert (found.scope, found.tokens, found.seconds) == (Scope.ROUTER, 5_000_000, 3600)
    assert (found.rule, found.header, found.origin.field) == ("", "", "spec.policy.budgets[0]")


def test_a_rules_budget_names_the_rule() -> None:
    found = read_budget(budget("rule", ruleName="r", windowSeconds=90))
    assert (found.scope, found.rule, found.seconds) == (Scope.RULE, "r", 90)


def test_the_budget_of_a_rule_that_is_left_out_goes_with_it() -> None:
    rules = [rule("cuda", name="never", match={"models": ["["]}), rule("cuda")]
    found, _ = told(router(rules=rules, policy={"budgets": [budget("rule", ruleName="never")]}))
    assert found.budgets == ()


def test_a_teams_budget_is_by_the_header_that_the_token_sets() -> None:
    found = read_budget(budget("team"), auth={"jwt": {**JWT, "headerKey": "X-Org-Id"}})
    assert (found.scope, found.header) == (Scope.TEAM, "x-org-id")


@pytest.mark.parametrize("written, header", [({}, "x-llmkube-team"), ({"headerKey": "X-Org-Id"}, "x-org-id")])
def test_a_teams_budget_by_a_header_that_clients_set_is_remarked(
    written: dict[str, str], header: str
) -> None:
    found, (remark,) = told(router(policy={"budgets": [budget("team", **written)]}))
    assert found.budgets[0].header == header
    assert remark.code == "TeamNotVerified"


def test_a_token_names_the_team() -> None:
    found = read_router(router(policy={"auth": {"jwt": JWT}})).access
    assert found is not None
    assert (found.jwt.issuer, found.jwt.jwks) == (JWT["issuer"], JWT["jwksURI"])
    assert (found.jwt.provider, found.jwt.team_claim) == ("keycloak", "team")
    assert (found.jwt.team_header, found.allowances) == ("x-llmkube-team", ())


def test_a_team_without_models_may_ask_for_all() -> None:
    lists = [{"team": "blue", "models": ["qwen3", "phi", "phi"]}, {"team": "red"}]
    found = read_router(router(policy={"auth": {"jwt": JWT, "allowlists": lists}})).access
    assert found is not None
    assert found.allowances == (Allowance("blue", ("qwen3", "phi")), Allowance("red"))


@pytest.mark.parametrize(
    "log, audit", [(None, False), ({}, True), ({"sink": "stdout", "includeRequestBody": False}, True)]
)
def test_the_audit_log_is_written_where_it_is_asked_for(log: Any, audit: bool) -> None:
    assert read_router(router(policy={"auditLog": log})).audit is audit


def test_an_mcp_server_is_none_and_that_is_said() -> None:
    _, (remark,) = told(router(mcpServer={"enabled": True}))
    assert remark.code == "MCPServerIgnored"


def test_a_resolution_for_the_proxy_has_no_effect_and_that_is_said() -> None:
    backend = {"name": "cuda", "inferenceServiceRef": {"name": "cuda"}, "resolution": "service"}
    _, (remark,) = told(router(backends=[backend]))
    assert remark.code == "ResolutionIgnored"
    assert not read_router(router(backends=[{**backend, "resolution": "endpoint"}])).audit


@pytest.mark.parametrize("url", ["id.example.com/certs", "ftp://id.example.com/certs", "https:///certs"])
def test_keys_are_got_from_a_url(url: str) -> None:
    """A gateway refuses the whole policy otherwise, and with it that of every router there."""
    found = refused(router(policy={"auth": {"jwt": {**JWT, "jwksURI": url}}}))
    assert (found.code, found.origin.field) == ("InvalidAuth", "spec.policy.auth.jwt.jwksURI")


@pytest.mark.parametrize(
    "field, url",
    [
        ("issuer", "https://u:secretq@idp"),
        ("jwksURI", "https://u:secretq@idp/keys"),
        ("jwksURI", "ftp://idp/keys?token=secretq"),
    ],
)
def test_a_password_or_a_key_of_the_issuer_is_not_repeated(field: str, url: str) -> None:
    found = refused(router(policy={"auth": {"jwt": {**JWT, field: url}}}))
    assert (found.code, found.origin.field) == ("InvalidAuth", f"spec.policy.auth.jwt.{field}")
    assert "secretq" not in found.message + found.fix
