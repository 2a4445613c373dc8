"""Where routes hang: at the Gateway, listener and hostnames of their router, and at no others."""

from dataclasses import replace
from typing import Any

import pytest

from epp.compiler.compile import compile_documents
from epp.compiler.documents import Document, Documents
from epp.compiler.emission import ROUTES, Emission
from epp.compiler.intent import Condition, GatewayRef, Intent, Router
from epp.compiler.options import Options, Target
from epp.compiler.targets import agentgateway, envoy_ai_gateway, gateway_api
from tests.compiler.makers import backend, pool, router, rule

EMIT = {
    Target.ENVOY_AI_GATEWAY_0_7: envoy_ai_gateway.emit,
    Target.ENVOY_AI_GATEWAY_1_1: envoy_ai_gateway.emit,
    Target.AGENTGATEWAY: agentgateway.emit,
    Target.GATEWAY_API: gateway_api.emit,
}
INSIDE = GatewayRef("ai", "edge", "inside")
MANY = tuple(rule(backend(pool(f"p{n}")), name=f"m{n}", models=(f"m{n}",)) for n in range(20))
"""More than one route holds."""


def emit(target: Target, *routers: Router) -> Emission:
    return EMIT[target](Intent(routers), Documents([]), Options(target))


def routes(emission: Emission) -> list[Any]:
    found = [one.document["spec"] for one in emission.objects if one.document["kind"] in ROUTES]
    assert found and not [one for one in emission.findings if one.is_error]
    return found


@pytest.mark.parametrize("target", list(Target))
def test_every_route_of_a_listener_names_it(target: Target) -> None:
    """One that names none is on all listeners, those without TLS and those of the internet, too."""
    found = routes(emit(target, replace(router("site", *MANY), gateway=INSIDE)))
    assert len(found) > 1
    for spec in found:
        (parent,) = spec["parentRefs"]
        assert (parent["namespace"], parent["name"], parent["sectionName"]) == ("edge", "ai", "inside")


@pytest.mark.parametrize("target", list(Target))
def test_of_a_whole_gateway_no_listener_is_named(target: Target) -> None:
    for spec in routes(emit(target, router("site", *MANY))):
        assert "sectionName" not in spec["parentRefs"][0]


@pytest.mark.parametrize("target", list(Target))
def test_every_route_has_the_hostnames(target: Target) -> None:
    names = ("ai.example.com", "*.ai.example.com")
    for spec in routes(emit(target, router("site", *MANY, hostnames=names))):
        assert spec["hostnames"] == list(names)
    for spec in routes(emit(target, router("site", *MANY))):
        assert "hostnames" not in spec


ANY = rule(backend(pool("rest")), name="rest", is_default=True)


@pytest.mark.parametrize("target", list(Target))
@pytest.mark.parametrize(
    "one, other, meet",
    [
        pytest.param((), (), True, id="all-and-all"),
        pytest.param(("a.example.com",), (), True, id="one-and-all"),
        pytest.param((), ("a.example.com",), True, id="all-and-one"),
        pytest.param(("a.example.com",), ("a.example.com",), True, id="the-same"),
        pytest.param(("*.example.com",), ("a.example.com",), True, id="wider"),
        pytest.param(("a.example.com",), ("*.example.com",), True, id="narrower"),
        pytest.param(("a.example.com", "c.example.com"), ("c.example.com",), True, id="one-of-two"),
        pytest.param(("a.example.com",), ("b.example.com",), False, id="others"),
        pytest.param(("*.example.com",), ("example.com",), False, id="a-star-is-a-label"),
        pytest.param(("*.example.com",), ("badexample.com",), False, id="whole-labels"),
    ],
)
def test_two_defaults_are_told_of_where_a_request_may_be_for_both(
    target: Target, one: tuple[str, ...], other: tuple[str, ...], *, meet: bool
) -> None:
    routers = (
        router("older", ANY, created="2026-01-01T00:00:00Z", hostnames=one),
        router("younger", ANY, created="2026-01-02T00:00:00Z", hostnames=other),
    )
    codes = [told.code for told in emit(target, *routers).findings]
    assert ("RequestsOfAnother" in codes) is meet


@pytest.mark.parametrize("target", list(Target))
@pytest.mark.parametrize(
    "sections, meet", [(("", ""), True), (("a", ""), True), (("a", "a"), True), (("a", "b"), False)]
)
def test_or_at_one_listener(target: Target, sections: tuple[str, str], *, meet: bool) -> None:
    routers = [
        replace(
            router(name, ANY, created=f"2026-01-0{at}T00:00:00Z"), gateway=GatewayRef("ai", "edge", where)
        )
        for at, (name, where) in enumerate(zip(("older", "younger"), sections, strict=True), 1)
    ]
    codes = [told.code for told in emit(target, *routers).findings]
    assert ("RequestsOfAnother" in codes) is meet


@pytest.mark.parametrize("target", list(Target))
def test_sixteen_headers_are_as_many_as_a_match_may_have(target: Target) -> None:
    def asking(count: int) -> list[str]:
        wanted = tuple(Condition(f"x-{n}", ("1",)) for n in range(count - 1))  # and the model's
        one = rule(backend(pool("p")), models=("qwen",), conditions=wanted)
        return [told.code for told in emit(target, router("site", one)).findings if told.is_error]

    assert asking(16) == []
    assert len(asking(17)) == 1


def test_a_fleet_is_compiled_to_its_listener() -> None:
    """From the file to the route."""
    content = {
        "apiVersion": "fleet-epp.dev/v1alpha1",
        "kind": "Fleet",
        "metadata": {"name": "site", "namespace": "llm"},
        "gateway": "edge/ai",
        "listener": "inside",
        "models": [{"name": "qwen", "pods": {"app": "qwen"}}],
    }
    for target in Target:
        found = compile_documents([Document(content, "fleet.yaml:1")], Options(target)).objects
        (parent,) = next(one.document["spec"]["parentRefs"] for one in found if one.key[0] in ROUTES)
        assert parent["sectionName"] == "inside"


def gateway(*listeners: dict[str, Any]) -> Document:
    meta = {"name": "ai", "namespace": "edge"}
    content = {"apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "metadata": meta}
    return Document({**content, "spec": {"gatewayClassName": "any", "listeners": list(listeners)}})


def listener(name: str, allowed: dict[str, Any] | None = None) -> dict[str, Any]:
    more = {"allowedRoutes": {"namespaces": allowed}} if allowed else {}
    return {"name": name, "protocol": "HTTP", "port": 80, **more}


def namespace(**labels: str) -> Document:
    meta = {"name": "llm", "labels": labels}
    return Document({"apiVersion": "v1", "kind": "Namespace", "metadata": meta})


NORTH = {"from": "Selector", "selector": {"matchLabels": {"site": "north"}}}
OPEN, CLOSED = listener("open", {"from": "All"}), listener("inside")


@pytest.mark.parametrize("target", list(Target))
@pytest.mark.parametrize(
    "section, given, told",
    [
        pytest.param("", [gateway(OPEN)], [], id="for-all"),
        pytest.param("", [gateway(CLOSED)], ["ListenerNotOpen"], id="for-its-own"),
        pytest.param("", [gateway(CLOSED, OPEN)], [], id="one-of-two"),
        pytest.param("inside", [gateway(CLOSED, OPEN)], ["ListenerNotOpen"], id="the-other-of-two"),
        pytest.param("none", [gateway(OPEN)], ["ListenerNotOpen"], id="no-such-listener"),
        pytest.param("", [gateway(listener("a", NORTH)), namespace(site="north")], [], id="fits"),
        pytest.param(
            "", [gateway(listener("a", NORTH)), namespace(site="south")], ["ListenerNotOpen"], id="not"
        ),
        pytest.param("", [gateway(listener("a", NORTH))], ["ListenerMayBeClosed"], id="not-at-hand"),
        pytest.param("", [], [], id="no-gateway-at-hand"),
    ],
)
def test_whether_a_listener_takes_its_routes_is_told(
    target: Target, section: str, given: list[Document], told: list[str]
) -> None:
    site = replace(router("site", *MANY), gateway=GatewayRef("ai", "edge", section))
    findings = EMIT[target](Intent((site,)), Documents(given), Options(target)).findings
    assert [one.code for one in findings if one.code.startswith("Listener")] == told
    assert not any(one.is_error for one in findings)
