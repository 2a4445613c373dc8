"""An InferenceService that is to be reached at a gateway by itself; and which objects are ours at all."""

from typing import Any

import pytest

from epp.compiler.intent import GatewayRef
from epp.compiler.options import Target
from tests.compiler.llmkube.cluster import FLEET, GATEWAY, exposed, model, read, refused, router, service


def test_it_is_a_router_of_one_rule_for_its_own_name() -> None:
    (found,) = read(model(), exposed("cuda")).routers
    (rule,) = found.rules
    assert (found.name, found.namespace, found.gateway) == ("cuda", "llm", GatewayRef("ai-gateway", "edge"))
    assert (rule.models, rule.conditions, rule.is_default) == (("cuda",), (), False)
    assert [one.name for one in rule.backends] == ["cuda"]


@pytest.mark.parametrize("written, models", [("qwen3", ("qwen3",)), ("qwen*", ("qwen\\*",)), ("", ("cuda",))])
def test_clients_call_it_as_it_says_and_that_is_no_pattern(written: str, models: tuple[str, ...]) -> None:
    (found,) = read(model(), exposed("cuda", gateway={"modelName": written})).routers
    assert found.rules[0].models == models


@pytest.mark.parametrize("gateway", [{"enabled": False}, {"enabled": None}])
def test_who_does_not_ask_for_it_is_not_exposed(gateway: dict[str, Any]) -> None:
    assert not read(model(), exposed("cuda", gateway=gateway), service("other")).routers


def test_without_a_gateway_it_goes_to_the_one_of_the_command_line_or_is_refused() -> None:
    alone = exposed("cuda", gateway={"gatewayRef": None})
    assert refused(exposed("open", gateway={"gatewayRef": None})).code == "GatewayRefMissing"
    (found,) = read(model(), alone, gateway=GatewayRef("ai", "edge")).routers
    assert found.gateway == GatewayRef("ai", "edge")


def test_a_gateway_without_a_namespace_is_in_the_objects_own() -> None:
    (found,) = read(model(), exposed("cuda", gateway={"gatewayRef": {"name": "ai"}})).routers
    assert found.gateway == GatewayRef("ai", "llm")


# --- data planes


@pytest.mark.parametrize(
    "plane, target, is_ours",
    [
        ("Gateway", Target.ENVOY_AI_GATEWAY_0_7, True),
        ("Gateway", Target.AGENTGATEWAY, True),
        ("AgentGateway", Target.AGENTGATEWAY, True),
        ("AgentGateway", Target.ENVOY_AI_GATEWAY_1_1, False),
        ("Proxy", Target.ENVOY_AI_GATEWAY_1_1, False),
        (None, Target.GATEWAY_API, False),
    ],
)
def test_a_router_of_another_data_plane_is_none_of_ours(
    plane: str | None, target: Target, is_ours: bool
) -> None:
    reading = read(*FLEET, router(dataPlane=plane), target=target)
    assert (bool(reading.routers), reading.findings) == (is_ours, ())


def test_what_is_wrong_with_a_router_of_the_proxy_is_the_proxys_business() -> None:
    reading = read(*FLEET, router(dataPlane="Proxy", rules=7))
    assert (reading.routers, reading.findings) == ((), ())


# --- claims


def claiming(said: str | None) -> dict[str, Any]:
    return {} if said is None else {"annotations": {"fleet-epp.dev/claim": said}}


@pytest.mark.parametrize(
    "said, is_live, claim, is_ours",
    [
        (None, False, False, True),
        ("false", False, False, False),
        (None, True, False, False),
        ("true", True, False, True),
        ("True", True, False, True),
        ("yes", True, False, False),
        (None, True, True, True),
        ("false", True, True, False),
    ],
)
def test_in_a_cluster_only_what_is_claimed_is_ours(
    said: str | None, is_live: bool, claim: bool, is_ours: bool
) -> None:
    options: dict[str, Any] = {"is_live": is_live, "claim": claim}
    reading = read(*FLEET, router(metadata=claiming(said)), **options)
    assert (bool(reading.routers), reading.findings) == (is_ours, ())
    assert bool(read(model(), exposed("open", metadata=claiming(said)), **options).routers) is is_ours


def test_what_a_claimed_router_names_need_not_be_claimed() -> None:
    reading = read(*FLEET, router(gatewayRef=GATEWAY, metadata=claiming("true")), is_live=True)
    assert [one.name for one in reading.routers] == ["qwen"]


def test_what_nobody_claims_is_not_judged() -> None:
    reading = read(*FLEET, router(rules=7), service("broken", containerPort="x"), is_live=True)
    assert (reading.routers, reading.findings) == ((), ())


def test_who_claims_a_router_of_the_proxy_is_told_that_nothing_comes_of_it() -> None:
    reading = read(*FLEET, router(dataPlane="Proxy", metadata=claiming("true")), is_live=True)
    (remark,) = reading.findings
    assert (reading.routers, remark.code) == ((), "ServedByProxy")
