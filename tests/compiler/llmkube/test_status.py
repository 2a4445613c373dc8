"""What LLMKube's users read in the status of their objects."""

from collections.abc import Mapping
from typing import Any

import pytest

from epp.compiler.compile import compile_documents
from epp.compiler.documents import Document, Documents
from epp.compiler.findings import warning
from epp.compiler.inputs import llmkube
from epp.compiler.inputs.llmkube.status import LONGEST, Outcome, Word, words
from epp.compiler.options import Options, Target
from tests.compiler.llmkube.cluster import (
    FLEET,
    agent,
    document,
    exposed,
    model,
    outside,
    router,
    rule,
    service,
    to,
)

OPTIONS = Options(Target.ENVOY_AI_GATEWAY_1_1, is_live=True, claim=True)
DONE = Outcome()
QWEN = "ModelRouter/llm/qwen"


def say(
    *documents: Document,
    outcomes: Mapping[str, Outcome] | None = None,
    missing: tuple[str, ...] = (),
    options: Options = OPTIONS,
) -> list[Word]:
    """All routers are compiled and, if nothing else is said, served."""
    given = Documents(documents)
    reading = llmkube.read(given, options)
    if outcomes is None:
        outcomes = {one.origin.object: DONE for one in reading.routers}
    return list(words(given, options, reading.routers, reading.findings, outcomes=outcomes, missing=missing))


def only(found: list[Word]) -> tuple[Mapping[str, Any], str, str, str]:
    (word,) = found
    assert word.condition["type"] == "GatewayReady" and word.gateway is not None
    return word.gateway, word.condition["status"], word.condition["reason"], word.condition["message"]


def gateway(**status: Any) -> Document:
    spec = {"listeners": [{"name": "http", "port": 8080, "protocol": "HTTP"}]}
    meta = {"name": "ai-gateway", "namespace": "edge"}
    return document("Gateway", "", spec, api="gateway.networking.k8s.io/v1", metadata=meta, status=status)


def test_a_router_that_is_served_is_exposed() -> None:
    said, status, reason, message = only(say(*FLEET, router()))
    assert (said, status, reason) == ({"routeReady": True}, "True", "Exposed")
    assert message == "compiled 1 rule(s) onto gateway edge/ai-gateway"


def test_a_gate_is_none_of_the_rules_that_were_written() -> None:
    cloud = outside("cloud", url="https://llm.example.com/v1", tier="cloud")
    asked = router(backends=[cloud], rules=[rule("cloud", failClosed=True)])
    *_, message = only(say(*FLEET, asked))
    assert message == "compiled 1 rule(s) onto gateway edge/ai-gateway"


def test_all_that_is_enforced_and_who_is_out_is_said() -> None:
    jwt = {"provider": "k", "issuer": "https://id", "jwksURI": "https://id/certs", "teamClaim": "team"}
    policy = {
        "budgets": [{"name": "b", "scope": "router", "maxTokens": 1}],
        "auth": {"jwt": jwt, "allowlists": [{"team": "blue"}]},
    }
    mac = (model("mac", "metal"), service("metal", of="mac"), agent("metal", ready=False))
    asked = router(backends=[to("cuda"), to("metal")], rules=[rule("cuda", "metal")], policy=policy)
    said, _, reason, message = only(say(model(), service("cuda"), *mac, asked))
    assert (reason, said["authEnabled"]) == ("Exposed", True)
    assert message == (
        "compiled 1 rule(s) onto gateway edge/ai-gateway; enforced 1 token budget(s); JWT authentication "
        "enforced; 1 team model allowlist(s) enforced; ejected 1 unhealthy backend(s): metal"
    )


def test_clients_of_a_router_are_told_where_to_go() -> None:
    said, *_ = only(say(*FLEET, router(), gateway(addresses=[{"value": "192.0.2.7"}])))
    assert said == {"routeReady": True, "endpoint": "http://192.0.2.7:8080"}
    assert only(say(*FLEET, router(), gateway()))[0] == {"routeReady": True}


def test_clients_of_a_service_are_told_its_name() -> None:
    said, status, *_ = only(say(model(), exposed("cuda", gateway={"modelName": "phi"})))
    assert (said, status) == ({"routeReady": True, "modelName": "phi"}, "True")


def test_an_error_is_the_reason_and_what_was_there_stays() -> None:
    said, status, reason, message = only(say(*FLEET, router(gatewayRef=None, rules=[rule("gone")])))
    assert (said, status, reason) == ({"routeReady": False}, "False", "GatewayRefMissing")
    assert "spec.gatewayRef: " in message and "backend gone, which is not there" in message
    assert message.endswith("stays")


def test_applied_is_not_ready_before_the_gateway_says_so() -> None:
    assert only(say(*FLEET, router(), outcomes={}))[1:3] == ("False", "ReconcileFailed")
    refused = {QWEN: Outcome(refused="NoMatchingParent: no listener allows namespace llm")}
    _, status, _, message = only(say(*FLEET, router(), outcomes=refused))
    assert status == "False" and "no listener allows namespace llm" in message


@pytest.mark.parametrize(
    "found, said",
    [
        pytest.param(
            [], "there is no Gateway edge/ai-gateway: nobody serves what is made for it: create it", id="none"
        ),
        pytest.param(
            [gateway()], "Gateway edge/ai-gateway has no listener that takes routes of", id="closed"
        ),
    ],
)
def test_a_gateway_that_cannot_take_it_is_the_cause_and_the_remedy_is_said(
    found: list[Document], said: str
) -> None:
    given = [*FLEET, router(), *found]
    compiled = compile_documents(given, OPTIONS)
    refused = {QWEN: Outcome(refused="HTTPRoute llm/qwen: no gateway has accepted it yet")}
    told = words(Documents(given), OPTIONS, compiled.intent.routers, compiled.findings, outcomes=refused)
    _, status, reason, message = only(list(told))
    assert (status, reason) == ("False", "ReconcileFailed")
    assert message.startswith(said)
    assert message.endswith("(HTTPRoute llm/qwen: no gateway has accepted it yet)")


def test_what_could_not_be_applied_says_why() -> None:
    failed = {QWEN: Outcome(error="AIGatewayRoute llm/qwen: 403")}
    assert only(say(*FLEET, router(), outcomes=failed))[2:] == (
        "ReconcileFailed",
        "AIGatewayRoute llm/qwen: 403",
    )


def test_a_cluster_without_the_gateways_kinds_says_which() -> None:
    _, status, reason, message = only(say(*FLEET, router(), missing=("AIGatewayRoute", "AIServiceBackend")))
    assert (status, reason) == ("False", "GatewayCRDsNotInstalled")
    assert message == "the cluster does not know AIGatewayRoute, AIServiceBackend"


def test_whose_name_an_older_object_has_is_told() -> None:
    given = Documents([model(), exposed("cuda")])
    origin = exposed("cuda").origin
    taken = [warning("ModelNameTaken", origin, "model cuda is that of ModelRouter/llm/old", "rename it")]
    found = list(words(given, OPTIONS, [], taken, outcomes={}))
    assert only(found)[1:3] == ("False", "ModelNameTaken")


def test_nothing_is_said_of_what_is_not_ours() -> None:
    live = Options(Target.ENVOY_AI_GATEWAY_1_1, is_live=True)
    assert say(*FLEET, router(), options=live) == []
    assert say(*FLEET, router(dataPlane="Proxy")) == []


READY = {"type": "GatewayReady", "status": "True", "reason": "Exposed", "message": "compiled"}


def test_what_asks_for_a_gateway_no_more_is_ready_no_more() -> None:
    before = {"gateway": {"routeReady": True}, "conditions": [READY]}
    (word,) = say(*FLEET, document("ModelRouter", "qwen", {"backends": [to("cuda")]}, status=before))
    assert (word.gateway, word.condition["status"]) == (None, "False")


def test_a_word_is_about_one_generation() -> None:
    (word,) = say(*FLEET, router(metadata={"generation": 3}))
    assert word.condition["observedGeneration"] == 3


def test_a_message_is_no_longer_than_people_read() -> None:
    backends = [f"gone-{number}" for number in range(400)]
    assert len(only(say(*FLEET, router(rules=[rule(*backends)])))[3]) == LONGEST


def test_conditions_of_others_are_not_ours() -> None:
    """That another one is true says nothing of whether we have served it."""
    others = [{"type": "Available", "status": "True"}, "odd"]
    ours = {"type": "GatewayReady", "status": "True"}
    plain = service("cuda", status={"phase": "Ready", "conditions": others})
    assert say(model(), plain) == []
    once = service("cuda", status={"phase": "Ready", "conditions": [*others, ours]})
    (word,) = say(model(), once)
    assert (word.condition["status"], word.condition["reason"]) == ("False", "NotExposed")


@pytest.mark.parametrize(
    "protocol, port, address, expected",
    [
        ("HTTP", 80, "192.0.2.1", "http://192.0.2.1"),
        ("HTTP", 443, "192.0.2.1", "http://192.0.2.1:443"),
        ("HTTPS", 443, "ai.example.com", "https://ai.example.com"),
        ("HTTPS", 8443, "ai.example.com", "https://ai.example.com:8443"),
        ("HTTP", 8080, "2001:db8::1", "http://[2001:db8::1]:8080"),
    ],
)
def test_the_endpoint_is_what_clients_type(protocol: str, port: int, address: str, expected: str) -> None:
    there = gateway(addresses=[{"value": address}]).content
    listener = {"name": "it", "port": port, "protocol": protocol}
    found, *_ = only(say(*FLEET, router(), Document({**there, "spec": {"listeners": [listener]}})))
    assert found["endpoint"] == expected
