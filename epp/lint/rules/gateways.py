"""Traps of a Gateway that AIGatewayRoutes are attached to, and of what stands in front of them."""

import re
from collections.abc import Iterator

from epp.compiler.findings import Severity
from epp.lint.rule import Admission, Trap, rule
from epp.lint.rules.traffic import CONFIG, MODEL
from epp.lint.view import Object, View, is_pool

DESTINATION = "x-gateway-destination-endpoint"
_PLAIN = ("TLS", "TCP", "UDP")
_SMALL = re.compile(r"(\d+)(Ki|k|)")
_ENOUGH = 1 << 20


def _ai_gateways(view: View) -> list[Object]:
    """Those given that serve AIGatewayRoutes."""
    return [one for one in view.of("Gateway") if view.ai_routes(one) or one.annotations[CONFIG].is_there]


@rule(
    Severity.ERROR,
    "a listener without HTTP on a controller with an AI gateway",
    Admission(
        "Gateway",
        f"!('{CONFIG}' in object.metadata.?annotations.orValue({{}})) || "
        "object.spec.?listeners.orValue([]).all(l, !(l.?protocol.orValue('') in "
        + str(list(_PLAIN)).replace('"', "'")
        + "))",
    ),
)
def non_http_listener(view: View) -> Iterator[Trap]:
    """One TLS passthrough, TCP or UDP listener stops the configuration of every Gateway of the same
    controller.

    The AI gateway adds a field to the access log of all listeners (agent-session-id, by default) and fails
    on one that has no HTTP connection manager; the whole translation fails with it, so no proxy gets
    anything new (envoyproxy/ai-gateway#2600, present in v1.1.0). Setting logRequestHeaderAttributes to ""
    avoids it. The API server refuses such a listener only where the Gateway has the annotation
    aigateway.envoyproxy.io/gateway-config: which others serve AIGatewayRoutes their objects do not say.
    """
    if _has_no_log_attributes(view):
        return
    served = _ai_gateways(view)
    classes = {one.spec["gatewayClassName"].text for one in served}
    controllers = {view.controller(one) for one in served} - {""}
    for gateway in view.of("Gateway"):
        same = gateway.spec["gatewayClassName"].text in classes or view.controller(gateway) in controllers
        for listener in gateway.spec["listeners"]:
            if same and listener["protocol"].text in _PLAIN:
                yield Trap(
                    gateway,
                    listener["protocol"],
                    f"is {listener['protocol'].text}: no Gateway of this controller gets new configuration",
                    'controller.logRequestHeaderAttributes: "" in the values of ai-gateway-helm, or a'
                    " controller of its own for this Gateway",
                )


def _has_no_log_attributes(view: View) -> bool:
    flag = re.compile(r"--?logRequestHeaderAttributes=")
    return any(flag.fullmatch(one.text) for pod in view.of("Deployment") for one in view.arguments(pod))


@rule(Severity.WARNING, "headers that clients can set in place of the gateway")
def missing_header_hygiene(view: View) -> Iterator[Trap]:
    """Clients may send the headers by which the gateway routes, authenticates and picks.

    With x-ai-eg-model a client chooses the route before the model is read, and with it which authentication
    is skipped. x-gateway-destination-endpoint names the server: where a picker does not overwrite it, Envoy
    connects to whatever address the client wrote. Headers from claims count as proof only if nobody else
    can set them. A ClientTrafficPolicy on the Gateway removes them before anything else sees them.
    """
    for gateway in view.of("Gateway"):
        routes = view.ai_routes(gateway)
        if not routes or not view.is_readable("ClientTrafficPolicy"):
            continue
        at = ("Gateway", gateway.namespace, gateway.name)
        policies = view.policies("ClientTrafficPolicy", at)
        removed = {
            name.text.lower()
            for policy in policies
            for name in policy.spec["headers"]["earlyRequestHeaders"]["remove"]
        }
        missing = [name for name in _spoofable(view, gateway, routes) if name not in removed]
        if missing:
            holder = policies[0] if policies else gateway
            yield Trap(
                holder,
                "spec.headers.earlyRequestHeaders.remove" if policies else "",
                f"clients of {gateway.title} can send {', '.join(missing)}",
                "a ClientTrafficPolicy on the Gateway with headers.earlyRequestHeaders.remove:"
                f" [{', '.join(missing)}]",
            )


def _spoofable(view: View, gateway: Object, routes: list[Object]) -> Iterator[str]:
    at = ("Gateway", gateway.namespace, gateway.name)
    yield MODEL
    rules = [one for route in routes for one in route.spec["rules"]]
    if any(is_pool(ref) for one in rules for ref in one["backendRefs"]) or view.policies(
        "EnvoyExtensionPolicy", at
    ):
        yield DESTINATION
    for policy in view.policies("SecurityPolicy", at):
        for provider in policy.spec["jwt"]["providers"]:
            for claim in provider["claimToHeaders"]:
                yield claim["header"].text.lower()


@rule(Severity.WARNING, "requests of 32 KiB are too large")
def small_buffer(view: View) -> Iterator[Trap]:
    """Envoy Gateway lets a connection buffer 32 KiB, and the AI gateway buffers the whole request.

    A prompt of some thousand tokens, or one small picture, is answered 413. A ClientTrafficPolicy on the
    Gateway raises the limit.
    """
    for gateway in view.of("Gateway"):
        if not view.ai_routes(gateway) or not view.is_readable("ClientTrafficPolicy"):
            continue
        policies = view.policies("ClientTrafficPolicy", ("Gateway", gateway.namespace, gateway.name))
        limits = [one.spec["connection"]["bufferLimit"] for one in policies]
        if not any(one.is_there and not _is_small(one.value) for one in limits):
            yield Trap(
                policies[0] if policies else gateway,
                "spec.connection.bufferLimit" if policies else "",
                f"requests to {gateway.title} of more than 32 KiB, or what little is set, get 413",
                "a ClientTrafficPolicy on the Gateway with connection: {bufferLimit: 50Mi}",
            )


def _is_small(limit: object) -> bool:
    """A Kubernetes quantity below 1 MiB."""
    found = _SMALL.fullmatch(str(limit))
    return found is not None and int(found[1]) * {"Ki": 1024, "k": 1000, "": 1}[found[2]] < _ENOUGH


@rule(Severity.INFO, "everybody can list all models")
def models_listed(view: View) -> Iterator[Trap]:
    """GET /v1/models answers with every model of the Gateway, whoever asks (silogen/cluster-forge#799).

    Authorization by model refuses the requests to a model, not the knowledge of its name.
    """
    for policy in view.of("SecurityPolicy"):
        for one in policy.spec["authorization"]["rules"]:
            names = [header["name"].text.lower() for header in one["principal"]["headers"]]
            if MODEL in names:
                yield Trap(
                    policy,
                    one["principal"]["headers"],
                    "keeps a team from using a model, not from seeing its name in GET /v1/models",
                    "choose names that may be known, or put the models on another Gateway",
                )
                break
