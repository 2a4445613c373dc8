"""The same request, asked of LLMKube's router-proxy and of a gateway with what the compiler made: the same
servers."""

from collections import Counter
from typing import Any

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from epp.compiler.compile import Compiled, compile_documents
from epp.compiler.documents import Document
from epp.compiler.intent import Rule
from epp.compiler.options import Options, Target
from tests.meaning import proxy
from tests.meaning.gateways import Gateway, Order
from tests.meaning.routers import CLOUD, MAC, backends, objects, requests, routers

ENVOY = [Target.ENVOY_AI_GATEWAY_0_7, Target.ENVOY_AI_GATEWAY_1_1]
ROUTES = {Target.AGENTGATEWAY: "HTTPRoute", Target.GATEWAY_API: "HTTPRoute"}
CASES = [
    *((target, order) for target in ENVOY for order in (Order.ENVOY, Order.DECLARED)),
    (Target.AGENTGATEWAY, Order.GATEWAY_API),
    (Target.GATEWAY_API, Order.GATEWAY_API),
]


def compiled(spec: dict[str, Any], target: Target, order: Order) -> Compiled:
    there = [*objects(spec), *gateway_of_envoy(preserve=order is Order.DECLARED)]
    return compile_documents([Document(one) for one in there], Options(target))


def gateway_of_envoy(*, preserve: bool) -> list[dict[str, Any]]:
    meta = {"name": "ai", "namespace": "llm"}
    ref = {"group": "gateway.envoyproxy.io", "kind": "EnvoyProxy", "name": "ai"}
    listeners = [{"name": "http", "protocol": "HTTP", "port": 80}]
    spec = {"gatewayClassName": "ai", "listeners": listeners, "infrastructure": {"parametersRef": ref}}
    proxy = {"preserveRouteOrder": preserve}
    return [
        {"apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "metadata": meta, "spec": spec},
        {
            "apiVersion": "gateway.envoyproxy.io/v1alpha1",
            "kind": "EnvoyProxy",
            "metadata": meta,
            "spec": proxy,
        },
    ]


def gateway(result: Compiled, target: Target, order: Order) -> Gateway:
    return Gateway(
        [one.document for one in result.objects],
        route=ROUTES.get(target, "AIGatewayRoute"),
        model_header="x-ai-eg-model" if target in ENVOY else "x-gateway-model-name",
        order=order,
        addresses={MAC: "metal", CLOUD: CLOUD},
    )


def ruled(result: Compiled) -> list[Rule]:
    return [rule for router in result.intent.routers for rule in router.rules]


def differences(spec: dict[str, Any], of: Gateway) -> list[str]:
    return [
        f"{one}: the proxy {wanted}, the gateway {got}"
        for one in requests(spec, names_none=of.names_none)
        if not (wanted := proxy.answer(spec, one)).is_like(got := of.answer(one))
    ]


@pytest.mark.parametrize("target, order", CASES, ids=lambda one: str(getattr(one, "name", one)).lower())
@given(data=st.data(), cloud=st.booleans())
@settings(max_examples=150, deadline=None)
def test_the_same_servers_or_the_same_refusal(
    target: Target, order: Order, data: st.DataObject, cloud: bool
) -> None:
    spec = data.draw(routers(cloud=cloud, plain=target is Target.GATEWAY_API))
    result = compiled(spec, target, order)
    if result.failed:
        codes = Counter(one.code for one in result.findings if one.is_error)
        event(f"refused: {sorted(codes)}")
        assert not result.objects
        return
    event("compiled, with a gate" if any(not one.backends for one in ruled(result)) else "compiled")
    assert not differences(spec, gateway(result, target, order))


@pytest.mark.parametrize("target", ENVOY)
def test_a_gate_is_in_the_route_of_its_rule(target: Target) -> None:
    """With the routes as they are written, a second one would never be tried."""
    rule = {"name": "large", "route": {"backends": ["cuda", "cloud"]}, "timeout": "10s", "failClosed": True}
    spec = {
        "dataPlane": "Gateway",
        "gatewayRef": {"name": "ai", "namespace": "llm"},
        "backends": backends(cloud=True),
        "rules": [rule],
    }
    result = compiled(spec, target, Order.DECLARED)
    assert [one.name for one in ruled(result)] == ["large-gate", "large"]
    assert [one.document["kind"] for one in result.objects].count("AIGatewayRoute") == 1
    assert not differences(spec, gateway(result, target, Order.DECLARED))
