"""What all routers of a Gateway share, and what is there already."""

from dataclasses import replace
from typing import Any

from epp.compiler import marks
from epp.compiler.documents import Document, Documents
from epp.compiler.intent import Access, Condition, Intent, Jwt, Router
from epp.compiler.options import Options
from epp.compiler.targets.envoy_ai_gateway import emit
from tests.compiler.envoy_ai_gateway.made import NEW, document, made, provider
from tests.compiler.makers import origin, router, rule

MR = router("mr", rule(provider("a"), models=("qwen",)))
TARGET = {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "ai"}
HEADERS = ["x-ai-eg-model", "x-gateway-destination-endpoint", "x-gateway-destination-endpoint-served"]


def gateway(proxy: str = "", **more: Any) -> Document:
    listener = {
        "name": "http",
        "protocol": "HTTP",
        "port": 80,
        "allowedRoutes": {"namespaces": {"from": "All"}},
    }
    spec: dict[str, Any] = {"gatewayClassName": "eg", "listeners": [listener], **more}
    if proxy:
        ref = {"group": "gateway.envoyproxy.io", "kind": "EnvoyProxy", "name": proxy}
        spec["infrastructure"] = {"parametersRef": ref}
    return document("Gateway", "ai", spec=spec)


def clients(**spec: Any) -> Document:
    return document("ClientTrafficPolicy", "theirs", spec={"targetRefs": [TARGET], **spec})


def test_what_only_the_gateway_may_write_is_taken_from_clients() -> None:
    policy = made(MR).one("ClientTrafficPolicy")
    assert policy["headers"]["earlyRequestHeaders"]["remove"] == HEADERS
    assert policy["connection"] == {"bufferLimit": "50Mi"}


def test_two_routers_share_one_policy() -> None:
    found = made(MR, router("other", rule(provider("b"), models=("gpt",))))
    assert len(found.all("ClientTrafficPolicy")) == 1


def test_beside_somebody_elses_policy_what_to_add_is_told() -> None:
    found = made(MR, around=(clients(),))
    assert not found.all("ClientTrafficPolicy")
    assert found.codes() == ["ClientHeadersTrusted", "BodiesLimited"]
    assert all(name in found.told("ClientHeadersTrusted").fix for name in HEADERS)
    assert found.findings[0].origin.name == "theirs"


def test_somebody_elses_policy_with_all_of_it_is_enough() -> None:
    there = clients(connection={"bufferLimit": "1Gi"}, headers={"earlyRequestHeaders": {"remove": HEADERS}})
    assert made(MR, around=(there,)).findings == ()


def test_ours_of_before_is_not_somebody_elses() -> None:
    ours = document(
        "ClientTrafficPolicy", "x", labels={marks.MANAGED_BY: marks.MANAGER}, spec={"targetRefs": [TARGET]}
    )
    assert made(MR, around=(ours,)).all("ClientTrafficPolicy")


AUDITED = replace(MR, audit=True)
IDP = Jwt("https://idp.example.com", "https://idp.example.com/jwks", "team", "x-llmkube-team")


def json_of(spec: Any) -> dict[str, str]:
    (setting,) = spec["telemetry"]["accessLog"]["settings"]
    found: dict[str, str] = setting["format"]["json"]
    return found


def test_the_audit_log_names_the_team_that_the_token_names() -> None:
    secured = replace(AUDITED, access=Access(IDP, origin("mr")))
    found = made(secured)
    fields = json_of(found.one("EnvoyProxy"))
    assert fields["team"] == "%REQ(X-LLMKUBE-TEAM)%" and "llm_input_token" in fields["input_tokens"]
    costs = found.one("AIGatewayRoute")["llmRequestCosts"]
    assert [one["metadataKey"] for one in costs] == ["llm_input_token", "llm_output_token", "llm_total_token"]


def test_a_gateway_has_to_use_it() -> None:
    assert made(AUDITED).told("AuditLogNotInUse").severity == "info"
    assert made(AUDITED, around=(gateway(),)).told("AuditLogNotInUse").severity == "warning"
    (name,) = [one["metadata"]["name"] for one in made(AUDITED).all("EnvoyProxy")]
    there = (gateway(name), document("EnvoyProxy", name, spec={}))
    assert made(AUDITED, around=there).codes() == []


def test_what_somebody_elses_log_leaves_out_is_told() -> None:
    fields = json_of(made(AUDITED).one("EnvoyProxy"))
    fields.pop("model")

    def theirs(json: dict[str, str]) -> Document:
        settings = [{"format": {"type": "JSON", "json": json}}]
        return document("EnvoyProxy", "theirs", spec={"telemetry": {"accessLog": {"settings": settings}}})

    found = made(AUDITED, around=(gateway("theirs"), theirs(fields)))
    assert not found.all("EnvoyProxy")
    assert "%REQ(X-AI-EG-MODEL)%" in found.told("AuditLogIncomplete").message
    whole = {**fields, "m": "%REQ(X-AI-EG-MODEL)%"}
    assert made(AUDITED, around=(gateway("theirs"), theirs(whole))).codes() == []


def test_a_class_says_which_proxy_its_gateways_use() -> None:
    ref = {"kind": "EnvoyProxy", "name": "of-class", "namespace": "system"}
    around = (
        gateway(),
        document("GatewayClass", "eg", spec={"parametersRef": ref}),
        document("EnvoyProxy", "of-class", namespace="system", spec={"preserveRouteOrder": True}),
    )
    two = Router(
        "two",
        "llm",
        MR.gateway,
        (rule(provider("b"), models=("gpt",)),),
        origin("two", "2026-02-01T00:00:00Z"),
    )
    assert made(MR, two, around=around).codes() == ["RuleOrderNotExpressible"]


def test_a_listener_without_http_stops_everything() -> None:
    passing = {"name": "tls", "protocol": "TLS", "port": 443, "tls": {"mode": "Passthrough"}}
    open_to_all = gateway().spec["listeners"]
    found = made(MR, around=(gateway(listeners=[*open_to_all, passing]),))
    told = found.told("ListenerStopsGateway")
    assert told.origin.field == "spec.listeners[1]" and "TLS, passthrough" in told.message


def test_a_listener_that_takes_no_routes_of_the_namespace_is_told() -> None:
    closed = {"name": "http", "protocol": "HTTP", "port": 80}
    assert made(MR, around=(gateway(listeners=[closed]),)).codes() == ["ListenerNotOpen"]
    assert made(MR, around=(gateway(),)).codes() == []


def test_in_a_cluster_a_gateway_that_is_not_there_is_told() -> None:
    for is_live, codes in ((True, ["GatewayNotFound"]), (False, [])):
        options = Options(NEW, is_live=is_live)
        assert [one.code for one in emit(Intent((MR,)), Documents(()), options).findings] == codes


def test_a_header_that_tokens_set_for_one_router_is_no_clients_for_another() -> None:
    secured = replace(MR, access=Access(IDP, origin("mr")))
    team = Condition("x-llmkube-team", ("a",))
    other = router("open", rule(provider("b"), models=("gpt",), conditions=(team,)))
    assert made(secured, other).told("HeaderTakenFromClients").origin.name == "open"
    assert "HeaderTakenFromClients" not in made(MR, other).codes()
    assert "HeaderTakenFromClients" not in made(replace(other, access=secured.access)).codes()


def test_in_a_cluster_a_gateway_that_is_there_is_not_missing() -> None:
    asked = Intent((router("mr", rule(provider("a"), models=("qwen",))),))
    there = document("Gateway", "ai", spec={"listeners": [{"name": "http", "protocol": "HTTP"}]})
    for around, is_live, is_said in (((), True, True), ((there,), True, False), ((), False, False)):
        found = emit(asked, Documents(around), Options(NEW, is_live=is_live)).findings
        assert ("GatewayNotFound" in [one.code for one in found]) is is_said
