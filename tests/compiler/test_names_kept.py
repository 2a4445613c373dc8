"""An object with an error: what was made of it stays, and its model names stay its own."""

from typing import Any

import pytest

from epp.compiler.compile import Compiled, compile_documents
from epp.compiler.documents import Document
from epp.compiler.emission import Emission
from epp.compiler.findings import error
from epp.compiler.intent import GatewayRef
from epp.compiler.options import Options, Target

YOUNGER = "ModelRouter/llm/younger"
OLD, YOUNG = "2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z"
LOOPBACK = "http://127.0.0.1:8000/v1"
"""Read without complaint, and refused by Envoy AI Gateway."""
LLMKUBE = "inference.llmkube.dev/v1alpha1"


def document(kind: str, name: str, created: str, spec: dict[str, Any], api: str = LLMKUBE) -> Document:
    meta = {"name": name, "namespace": "llm", "creationTimestamp": created}
    return Document({"apiVersion": api, "kind": kind, "metadata": meta, "spec": spec})


def router(name: str, created: str, *models: str, **more: Any) -> Document:
    backend = {"provider": "litellm", "model": "x", "url": "http://one.example.com:8000/v1"}
    spec = {
        "dataPlane": "Gateway",
        "gatewayRef": {"name": "ai", "namespace": "edge"},
        "backends": [{"name": "b", "external": backend}],
        "rules": [{"name": "r", "match": {"models": list(models)}, "route": {"backends": ["b"]}}],
    }
    return document("ModelRouter", name, created, {**spec, **more})


def at(url: str) -> list[dict[str, Any]]:
    return [{"name": "b", "external": {"provider": "litellm", "model": "x", "url": url}}]


def fleet(*models: dict[str, Any], **more: Any) -> Document:
    head = {"apiVersion": "fleet-epp.dev/v1alpha1", "kind": "Fleet"}
    meta = {"name": "site", "namespace": "llm"}
    return Document({**head, "metadata": meta, "gateway": "edge/ai", "models": list(models), **more})


def compiled(*documents: Document, target: Target = Target.ENVOY_AI_GATEWAY_1_1) -> Compiled:
    return compile_documents(documents, Options(target, gateway=GatewayRef("ai", "edge")))


def names_of_younger(result: Compiled) -> set[str]:
    routers = (one for one in result.intent.routers if one.name == "younger")
    return {name for one in routers for rule in one.rules for name in rule.models}


def younger(*models: str) -> Document:
    return router("younger", YOUNG, *models)


def told(result: Compiled) -> list[str]:
    return [one.message for one in result.findings if one.code == "ModelNameTaken"]


@pytest.mark.parametrize("target", [Target.ENVOY_AI_GATEWAY_1_1, Target.AGENTGATEWAY])
@pytest.mark.parametrize(
    "older",
    [
        pytest.param(router("older", OLD, "qwen", backends="none"), id="cannot-be-read"),
        pytest.param(router("older", OLD, "qwen", backends=[]), id="leads-nowhere"),
        pytest.param(router("older", OLD, "qwen", dataPlane="Gatway"), id="no-such-data-plane"),
        pytest.param(
            router("older", OLD, rules=[7, {"match": {"models": ["qwen", 1, ""]}}]), id="one-rule-can"
        ),
        pytest.param(
            router("older", OLD, defaultRouteStrategy="BackendNameMatch", backends=[{"name": "qwen"}]),
            id="by-its-backend",
        ),
        pytest.param(
            document(
                "InferenceService",
                "older",
                OLD,
                {"containerPort": "x", "endpoint": {"gateway": {"enabled": True, "modelName": "qwen"}}},
            ),
            id="a-service",
        ),
        pytest.param(
            document(
                "InferenceService",
                "qwen",
                OLD,
                {"containerPort": "x", "endpoint": {"gateway": {"enabled": True}}},
            ),
            id="a-service-by-its-own-name",
        ),
        pytest.param(fleet({"name": "qwen", "pods": {"app": "qwen"}}, teams=[{"name": "a"}]), id="a-fleet"),
        pytest.param(fleet({"name": "qwen"}, gateway=7), id="a-fleet-at-the-gateway-of-the-flags"),
    ],
)
def test_a_younger_router_does_not_get_them(older: Document, target: Target) -> None:
    """Its route of before stands, and there would be two for one name."""
    result = compiled(older, younger("qwen", "phi"), target=target)
    assert any(one.startswith(older.origin.object) for one in result.failed)
    assert YOUNGER in result.failed and not names_of_younger(result)
    (message,) = told(result)
    assert message == (
        f"model qwen is that of {older.origin.object}, which is older and has an error: what was made of"
        " either stays as it is until that is mended"
    )


def test_nor_where_the_gateway_is_what_refuses_it() -> None:
    older = router("older", OLD, "qwen", backends=at(LOOPBACK))
    result = compiled(older, younger("qwen", "phi"))
    assert result.failed == {"ModelRouter/llm/older", YOUNGER} and not names_of_younger(result)
    assert "has an error" in told(result)[0]


def test_what_the_younger_serves_is_not_taken_down_by_somebody_elses_slip() -> None:
    """Nobody would have the name until the older is mended, whichever of them had it before."""
    older = router("older", OLD, "phi", "qwen", backends=[])
    result = compiled(older, younger("qwen"))
    (finding,) = (one for one in result.findings if one.code == "ModelNameTaken")
    assert finding.is_error and finding.origin.object == YOUNGER  # so that its objects stay
    mended = compiled(router("older", OLD, "phi", "qwen"), younger("qwen", "gemma"))
    assert not mended.failed and names_of_younger(mended) == {"gemma"}


def test_a_model_of_a_fleet_that_cannot_even_be_refused_keeps_its_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its rule is left out, and a router beside the fleet would have a second route for it."""

    def unable(intent: Any, *_more: Any) -> Emission:
        rules = [rule for one in intent.routers for rule in one.rules if rule.origin.part == "qwen"]
        return Emission((), tuple(error("Unable", rule.origin, "it cannot", "rename it") for rule in rules))

    monkeypatch.setattr("epp.compiler.compile._TARGETS", {Target.GATEWAY_API: unable})
    site = fleet({"name": "qwen", "pods": {"app": "a"}}, {"name": "gpt", "pods": {"app": "b"}})
    result = compiled(site, younger("qwen", "phi"), target=Target.GATEWAY_API)
    assert {rule.name for one in result.intent.routers for rule in one.rules} == {"gpt"}
    assert YOUNGER in result.failed


@pytest.mark.parametrize(
    "older",
    [
        pytest.param(router("older", OLD, "qwen", dataPlane="Proxy", ruls=[]), id="of-the-proxy"),
        pytest.param(router("older", OLD, "qwen", dataPlane="AgentGateway", ruls=[]), id="of-agentgateway"),
        pytest.param(router("older", OLD, "qwen", backends=7, gatewayRef={"name": "b"}), id="elsewhere"),
        pytest.param(
            document(
                "InferenceService",
                "qwen",
                OLD,
                {"containerPort": "x", "endpoint": {"gateway": {"enabled": False}}},
            ),
            id="not-exposed",
        ),
        pytest.param(fleet({"name": "qwen"}, gateway="edge/other"), id="a-fleet-elsewhere"),
        pytest.param(router("younger-still", "2026-03-01T00:00:00Z", "qwen", backends=7), id="is-younger"),
    ],
)
def test_what_was_never_its_own_is_free(older: Document) -> None:
    result = compiled(older, younger("qwen", "phi"))
    assert any(one.startswith(older.origin.object) for one in result.failed)
    assert names_of_younger(result) == {"qwen", "phi"} and not told(result)


@pytest.mark.parametrize("hostname, is_taken", [("a.example.com", True), ("b.example.com", False)])
def test_a_fleet_with_an_error_keeps_them_at_its_hostnames(hostname: str, is_taken: bool) -> None:
    older = fleet({"name": "qwen"}, hostnames=["a.example.com"])
    other = fleet({"name": "qwen", "pods": {"app": "q"}}, {"name": "phi", "pods": {"app": "p"}})
    meta = {"name": "younger", "namespace": "llm", "creationTimestamp": YOUNG}
    beside = Document({**other.content, "metadata": meta, "hostnames": [hostname]})
    result = compiled(older, beside)
    assert names_of_younger(result) == ({"phi"} if is_taken else {"qwen", "phi"})


@pytest.mark.parametrize("listener, is_taken", [("one", True), ("two", False), ("", True)])
def test_and_at_its_listener(listener: str, is_taken: bool) -> None:
    older = fleet({"name": "qwen"}, listener="one")
    other = fleet({"name": "qwen", "pods": {"app": "q"}}, {"name": "phi", "pods": {"app": "p"}})
    meta = {"name": "younger", "namespace": "llm", "creationTimestamp": YOUNG}
    more = {"listener": listener} if listener else {}
    beside = Document({**other.content, "metadata": meta, **more})
    assert names_of_younger(compiled(older, beside)) == ({"phi"} if is_taken else {"qwen", "phi"})
