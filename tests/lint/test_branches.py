"""Branches of rules that no folder of tests/golden/lint goes through: a folder shows one trap, most rules
know several."""

from typing import Any

import pytest

from epp.compiler.documents import Documents
from epp.compiler.findings import Finding, Severity
from epp.lint.context import Context
from epp.lint.view import View
from tests.lint.cases import CASES, linted


def case(code: str, name: str = "bad") -> list[dict[str, Any]]:
    (found,) = [one for one in CASES if one.code == code]
    return found.objects(name)


def told(code: str, *objects: dict[str, Any], **context: Any) -> list[Finding]:
    return [one for one in linted(*objects, context=Context(**context)) if one.code == code]


def with_spec(document: dict[str, Any], **spec: Any) -> dict[str, Any]:
    return {**document, "spec": {**document["spec"], **spec}}


# --- routes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "counts, is_said",
    [
        ((64,), False),
        ((65,), True),
        ((64, 63), False),
        ((64, 64), True),
        ((50, 50, 27), False),
        ((50, 50, 28), True),
    ],
)
def test_matches_are_counted_in_a_rule_and_in_a_route(counts: tuple[int, ...], *, is_said: bool) -> None:
    (route, *_) = case("TooManyRules")
    first, *_ = route["spec"]["rules"]
    rules = [
        {**first, "matches": [{"headers": [{"name": "x", "value": f"{at}-{one}"}]} for one in range(count)]}
        for at, count in enumerate(counts)
    ]
    found = told("TooManyRules", with_spec(route, rules=rules))
    assert [f"has {sum(counts)} matches" in one.message for one in found] == [True] * is_said


def test_a_policy_without_any_retry_does_not_go_on_to_the_next_priority() -> None:
    route, policy, *rest = case("PriorityWithoutRetry")
    spec = {name: value for name, value in policy["spec"].items() if name != "retry"}
    (found,) = told("PriorityWithoutRetry", route, {**policy, "spec": spec}, *rest)
    assert found.origin.object == "BackendTrafficPolicy/llm/llama"
    assert found.origin.field == "spec.retry.numAttemptsPerPriority"


def test_priority_0_is_the_one_that_is_not_written() -> None:
    """Two backends of one priority have none."""
    route, *rest = case("PriorityIgnored")
    (one,) = route["spec"]["rules"]
    flat = [{"name": "studio"}, {"name": "mini", "priority": 0}]
    assert told("PriorityIgnored", with_spec(route, rules=[{**one, "backendRefs": flat}]), *rest) == []
    steep = [{"name": "studio"}, {"name": "mini", "priority": 1}]
    assert told("PriorityIgnored", with_spec(route, rules=[{**one, "backendRefs": steep}]), *rest)


class TestReordered:
    """A rule for what both are in does for the earlier rule only where it leads there, and is tried first."""

    def said(self, *more: tuple[int, str, list[str]]) -> list[str]:
        """``more``: rules, each with its place, its backend and its headers' names."""
        values = {"x-data-classification": "pii", "x-ai-eg-model": "gpt", "x-team": "red"}
        route, *rest = case("RulesReordered")
        rules = list(route["spec"]["rules"])
        for at, backend, names in more:
            match = {"headers": [{"name": name, "value": values[name]} for name in names]}
            rules.insert(at, {**rules[0], "matches": [match], "backendRefs": [{"name": backend}]})
        found = told("RulesReordered", with_spec(route, rules=rules), *rest)
        return [one.origin.field for one in found]

    def test_as_it_is(self) -> None:
        assert self.said() == ["spec.rules[1].matches"]

    def test_made_up_for(self) -> None:
        every = ["x-data-classification", "x-ai-eg-model", "x-team"]
        assert self.said((2, "inside", every)) == []

    def test_by_a_rule_that_leads_elsewhere(self) -> None:
        every = ["x-data-classification", "x-ai-eg-model", "x-team"]
        assert self.said((2, "elsewhere", every)) == ["spec.rules[1].matches"]

    def test_by_a_rule_that_is_no_stronger_and_stands_behind(self) -> None:
        assert "spec.rules[1].matches" in self.said((2, "inside", ["x-data-classification", "x-team"]))


# --- policies ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "condition, is_said",
    [
        ({"type": "Accepted", "status": "False"}, True),
        ({"type": "Accepted", "status": "True"}, False),
        ({"type": "NotAccepted", "status": "True"}, True),
        ({"type": "Warning", "status": "False"}, False),
        ({"type": "Overridden", "status": "False"}, False),
    ],
)
def test_a_condition_that_is_right_when_it_is_false_is_no_refusal(
    condition: dict[str, str], *, is_said: bool
) -> None:
    (policy,) = case("NotAccepted")
    (ancestor,) = policy["status"]["ancestors"]
    status = {"ancestors": [{**ancestor, "conditions": [{"reason": "R", "message": "m", **condition}]}]}
    assert bool(told("NotAccepted", {**policy, "status": status})) is is_said


def test_a_target_that_is_made_of_an_ai_gateway_route_is_there_in_a_cluster_before_it_is_made() -> None:
    route, *_ = case("PriorityWithoutRetry")
    policy = next(one for one in case("PriorityWithoutRetry") if one["kind"] == "BackendTrafficPolicy")
    assert told("DanglingTarget", route, policy, is_live=True) == []
    assert told("DanglingTarget", policy, is_live=True)


def test_what_is_charged_to_others_metadata_is_not_ours_to_count() -> None:
    objects = case("TokenCostMissing")
    assert told("TokenCostMissing", *objects)
    for one in objects:
        rules = one["spec"].get("rateLimit", {}).get("global", {}).get("rules", [])
        for limit in rules:
            limit["cost"]["response"]["metadata"]["namespace"] = "com.example.tokens"
    assert told("TokenCostMissing", *objects) == []


@pytest.mark.parametrize(
    "namespace, severity",
    [
        ("com.example.tokens", Severity.WARNING),
        ("io.envoy.ai_gateway", Severity.INFO),
        ("envoy.filters.http.jwt_authn", Severity.INFO),
    ],
)
def test_the_access_log_reads_metadata_too(namespace: str, severity: Severity) -> None:
    """Envoy's own and the AI gateway's are no processor's."""
    processor, *_ = case("MissingWritableNamespaces")
    log = {"format": {"type": "JSON", "json": {"total": f"%DYNAMIC_METADATA({namespace}:total)%"}}}
    proxy = {
        "apiVersion": "gateway.envoyproxy.io/v1alpha1",
        "kind": "EnvoyProxy",
        "metadata": {"name": "ai", "namespace": "llm"},
        "spec": {"telemetry": {"accessLog": {"settings": [log]}}},
    }
    assert [one.severity for one in told("MissingWritableNamespaces", processor, proxy)] == [severity]


# --- what is not there ---------------------------------------------------------------------------------


def test_what_has_no_namespace_is_read_with_any() -> None:
    def is_complete(kind: str, **context: Any) -> bool:
        return View(Documents([]), Context(**{"is_live": True, **context})).is_complete(kind, "")

    some = {"namespaces": frozenset({"llm"})}
    assert is_complete("GatewayClass", **some) and not is_complete("Gateway", **some)
    assert is_complete("Gateway") and not is_complete("Gateway", is_live=False)
    assert not is_complete("GatewayClass", unread=frozenset({"GatewayClass"}), **some)


@pytest.mark.parametrize(
    "source", ["ModelRouter/llm/qwen,Fleet/llm/site", "Fleet/llm/site", "Fleet/llm/site/qwen", "qwen", ""]
)
def test_what_is_for_something_that_is_in_a_file_is_no_leftover(source: str) -> None:
    (bad,) = case("Leftover")
    meta = {**bad["metadata"], "annotations": {"fleet-epp.dev/source": source}}
    assert told("Leftover", bad, is_live=True)
    assert told("Leftover", {**bad, "metadata": meta}, is_live=True) == []


def test_only_a_limit_for_each_value_misses_those_without_one() -> None:
    objects = case("DistinctWithoutDeny")
    assert told("DistinctWithoutDeny", *objects)
    for one in objects:
        for limit in one["spec"].get("rateLimit", {}).get("global", {}).get("rules", []):
            for selector in limit["clientSelectors"]:
                for header in selector["headers"]:
                    header |= {"type": "Exact", "value": "blue"}
    assert told("DistinctWithoutDeny", *objects) == []


def test_of_several_policies_it_is_the_one_that_retries() -> None:
    """One for the Gateway says nothing of retries; the route's does."""
    route, policy, *rest = case("PriorityWithoutRetry")
    right = with_spec(policy, retry={**policy["spec"]["retry"], "numAttemptsPerPriority": 1})
    target = {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "ai"}
    plain = {
        **policy,
        "metadata": {"name": "ai", "namespace": "llm"},
        "spec": {"targetRefs": [target], "timeout": {"tcp": {"connectTimeout": "2s"}}},
    }
    assert told("PriorityWithoutRetry", route, right, plain, *rest) == []
    assert told("PriorityWithoutRetry", route, plain, right, *rest) == []
