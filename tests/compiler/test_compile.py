"""From objects to objects: who is left out with an error, and what that leaves to the others."""

from collections.abc import Mapping
from typing import Any

import pytest

from epp.compiler.compile import Compiled, compile_documents
from epp.compiler.documents import Document
from epp.compiler.emission import APPLY_ORDER, ROUTES
from epp.compiler.findings import Severity
from epp.compiler.intent import GatewayRef, Scope
from epp.compiler.options import Options, Target

ENVOY = Target.ENVOY_AI_GATEWAY_1_1
LOOPBACK = "http://127.0.0.1:8000/v1"
"""Read without complaint, and refused by Envoy AI Gateway."""


def fleet(name: str = "site", *models: Mapping[str, Any], **more: Any) -> Document:
    head = {"apiVersion": "fleet-epp.dev/v1alpha1", "kind": "Fleet"}
    meta = {"name": name, "namespace": "llm", **more.pop("metadata", {})}
    return Document(
        {**head, "metadata": meta, "gateway": "edge/ai", "models": list(models), **more}, "fleet.yaml:1"
    )


def router(name: str, created: str, *models: str, url: str = "http://one.example.com:8000/v1") -> Document:
    spec = {
        "dataPlane": "Gateway",
        "gatewayRef": {"name": "ai", "namespace": "edge"},
        "backends": [{"name": "b", "external": {"provider": "litellm", "model": "x", "url": url}}],
        "rules": [{"name": "r", "match": {"models": list(models)}, "route": {"backends": ["b"]}}],
    }
    meta = {"name": name, "namespace": "llm", "creationTimestamp": created, "uid": f"uid-{name}"}
    return Document(
        {
            "apiVersion": "inference.llmkube.dev/v1alpha1",
            "kind": "ModelRouter",
            "metadata": meta,
            "spec": spec,
        }
    )


OLD, YOUNG = "2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z"
QWEN = {"name": "qwen", "pods": {"app": "qwen"}}
AWAY = {"name": "away", "url": LOOPBACK}


def compiled(*documents: Document, target: Target = ENVOY) -> Compiled:
    return compile_documents(documents, Options(target, gateway=GatewayRef("ai", "edge")))


def errors(result: Compiled) -> list[tuple[str, str]]:
    return [(one.code, one.origin.object) for one in result.findings if one.is_error]


def routed(result: Compiled) -> set[str]:
    """Models that a route names."""
    return {
        header["value"]
        for one in result.objects
        if one.key[0] in ROUTES
        for rule in one.document["spec"]["rules"]
        for match in rule["matches"]
        for header in match["headers"]
        if header["name"] == "x-ai-eg-model"
    }


def served(result: Compiled) -> set[str]:
    """Models that somebody serves; what is left of one with an error refuses its requests."""
    rules = (rule for router in result.intent.routers for rule in router.rules)
    return {model for rule in rules if rule.backends for model in rule.models}


# --- errors --------------------------------------------------------------------------------------------


def test_a_model_that_the_target_refuses_leaves_the_others_their_budgets() -> None:
    budgets = [{"tokens": 5}, {"tokens": 6, "model": "qwen"}, {"tokens": 7, "model": "away"}]
    result = compiled(fleet("site", QWEN, AWAY, budgets=budgets))
    assert errors(result) == [("InvalidHost", "Fleet/llm/site/away")]
    assert result.failed == {"Fleet/llm/site", "Fleet/llm/site/away"}
    assert served(result) == {"qwen"}
    (left,) = result.intent.routers
    assert [(one.scope, one.rule, one.tokens) for one in left.budgets] == [
        (Scope.ROUTER, "", 5),
        (Scope.RULE, "qwen", 6),
    ]


def test_a_model_that_leads_to_one_with_an_error_has_none_of_its_own_and_goes() -> None:
    result = compiled(fleet("site", QWEN, AWAY, {"name": "both", "backends": ["qwen", "away"]}))
    assert served(result) == {"qwen"}
    assert "Fleet/llm/site/away" in result.failed and "Fleet/llm/site/qwen" not in result.failed


def test_where_nothing_is_left_nothing_is_made() -> None:
    result = compiled(router("only", OLD, "qwen", url=LOOPBACK))
    assert result.objects == () and result.intent.routers == ()


def test_the_gravest_is_told_first_and_nothing_twice() -> None:
    routers = [router("b", YOUNG, "qwen"), router("a", OLD, "qwen"), router("c", YOUNG, "x", url=LOOPBACK)]
    findings = compiled(*routers).findings
    ranks = [list(Severity).index(one.severity) for one in findings]
    assert ranks == sorted(ranks) and len(set(findings)) == len(findings)
    assert {one.severity for one in findings} >= {Severity.ERROR, Severity.WARNING}


# --- one name for two things ---------------------------------------------------------------------------


@pytest.mark.parametrize("order", [1, -1])
def test_of_two_that_are_called_alike_the_older_has_the_name(order: int) -> None:
    """A fleet and a router of one name would have one route; what is in a file is the older."""
    tied = [{**QWEN, "name": "qwen-*"}, {**QWEN, "name": "*"}]
    documents = [fleet("chat", QWEN, *tied), router("chat", OLD, "phi")][::order]
    result = compiled(*documents)
    assert set(errors(result)) == {("NameTaken", "ModelRouter/llm/chat")}
    assert "is made for Fleet/llm/chat" in result.findings[0].message
    assert "qwen" in routed(result) and "phi" not in routed(result)
    assert not [one for one in result.objects if any(s.kind == "ModelRouter" for s in one.sources)]


def test_every_one_is_told_that_comes_too_late() -> None:
    """And nobody else loses anything."""
    tied = {name: [{**QWEN, "name": f"{name}{end}"} for end in ("-*", "*")] for name in ("chat", "code")}
    documents = [fleet(name, *models) for name, models in tied.items()]
    late = [router(name, OLD, f"m-{name}") for name in ("chat", "code")]
    result = compiled(*documents, *late, router("other", YOUNG, "gpt"))
    assert set(errors(result)) == {("NameTaken", f"ModelRouter/llm/{name}") for name in ("chat", "code")}
    assert {one.name for one in result.intent.routers} == {"chat", "code", "other"}
    assert "gpt" in routed(result)


def test_what_two_make_alike_is_there_once_and_for_both() -> None:
    result = compiled(router("a", OLD, "qwen"), router("b", YOUNG, "phi"))
    (clients,) = [one for one in result.objects if one.key[0] == "ClientTrafficPolicy"]
    assert {one.name for one in clients.sources} == {"a", "b"}
    assert len({one.key for one in result.objects}) == len(result.objects)


# --- what comes out ------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", list(Target))
def test_all_of_it_is_ours_and_in_the_order_in_which_to_apply_it(target: Target) -> None:
    result = compiled(fleet("site", QWEN, priorities={"batch": -1}), router("b", YOUNG, "phi"), target=target)
    kinds = [APPLY_ORDER.index(one.key[0]) for one in result.objects]
    assert kinds == sorted(kinds)
    for one in result.objects:
        meta = one.document["metadata"]
        assert meta["labels"]["fleet-epp.dev/inventory"] and meta["annotations"]["fleet-epp.dev/source"]
    objectives = [one.document for one in result.objects if one.key[0] == "InferenceObjective"]
    assert [(one["spec"]["priority"], one["spec"]["poolRef"]["name"]) for one in objectives] == [(-1, "qwen")]


def test_objectives_of_a_model_with_an_error_are_not_made() -> None:
    result = compiled(fleet("site", QWEN, {**AWAY, "name": "x"}, priorities={"batch": -1}))
    assert [one.pool for one in result.intent.objectives] == ["qwen"]
    assert compiled(fleet("site", {**AWAY, "name": "x"}, priorities={"batch": -1})).intent.objectives == ()


def test_an_object_without_a_namespace_is_in_the_one_that_is_given() -> None:
    content = router("a", OLD, "qwen").content
    meta = {key: value for key, value in content["metadata"].items() if key != "namespace"}
    result = compile_documents([Document({**content, "metadata": meta})], Options(ENVOY, namespace="there"))
    assert {one.key[1] for one in result.objects} == {"there", "edge"}
