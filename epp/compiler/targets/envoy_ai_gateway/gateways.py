"""What all routers of one Gateway share: headers that clients must not send, room for bodies, the audit log.

Place:   beside access.py, which says who may ask.
Rule:    a Gateway has one policy of a kind: of two the younger counts for nothing. Where somebody else has
         one, nothing is made, and a finding says what to add to theirs.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from epp.compiler.documents import Document
from epp.compiler.emission import Emitted, Object, made
from epp.compiler.findings import Finding, info, warning
from epp.compiler.gateways import closed, missing
from epp.compiler.intent import Router
from epp.compiler.names import name_of
from epp.compiler.targets.envoy_ai_gateway.matches import MODEL
from epp.compiler.targets.envoy_ai_gateway.surroundings import GATEWAYS, Gateway

API = "gateway.envoyproxy.io/v1alpha1"
BUFFER = "50Mi"
"""Of a connection. Envoy Gateway's 32 KiB is 413 for every longer prompt."""

_WRITTEN_BY_US = (MODEL, "x-gateway-destination-endpoint", "x-gateway-destination-endpoint-served")


def objects(gateway: Gateway, routers: Sequence[Router]) -> tuple[list[Emitted], list[Finding]]:
    """All but access."""
    emitted, findings = _client_traffic(gateway, routers)
    audited = [one for one in routers if one.audit]
    if audited:
        logs, told = _audit_log(gateway, audited)
        emitted += logs
        findings += told
    return emitted, [*findings, *_taken(routers), *_listeners(gateway, routers)]


def target(gateway: Gateway, section: str = "") -> Object:
    """The Gateway as a policy names it."""
    found: Object = {"group": GATEWAYS, "kind": "Gateway", "name": gateway.name}
    return {**found, "sectionName": section} if section else found


def team_headers(routers: Sequence[Router]) -> list[str]:
    """Written from claims of tokens."""
    return list(dict.fromkeys(one.access.jwt.team_header for one in routers if one.access))


# --- clients -------------------------------------------------------------------------------------------


def _client_traffic(gateway: Gateway, routers: Sequence[Router]) -> tuple[list[Emitted], list[Finding]]:
    headers = [*_WRITTEN_BY_US, *team_headers(routers)]
    emitted, findings = list[Emitted](), list[Finding]()
    theirs = list(gateway.others("ClientTrafficPolicy"))
    if not any("" in gateway.sections(one) for one in theirs):
        spec = {
            "targetRefs": [target(gateway)],
            "connection": {"bufferLimit": BUFFER},
            "headers": {"earlyRequestHeaders": {"remove": headers}},
        }
        name = name_of(gateway.name, "clients")
        sources = [one.origin.at("") for one in routers]
        emitted.append(made(API, "ClientTrafficPolicy", gateway.namespace, name, *sources, spec=spec))
    sections = {one.gateway.section for one in routers}
    for one in theirs:
        if "" in sections or sections & gateway.sections(one) or "" in gateway.sections(one):
            findings += _lacking(one, headers)
    return emitted, findings


def _lacking(theirs: Document, headers: Sequence[str]) -> list[Finding]:
    """What somebody else's policy does not say, of what ours would."""
    early = (theirs.spec.get("headers") or {}).get("earlyRequestHeaders") or {}
    missing = [one for one in headers if one not in (early.get("remove") or [])]
    findings = []
    if missing:
        findings.append(
            warning(
                "ClientHeadersTrusted",
                theirs.origin.at("spec.headers.earlyRequestHeaders.remove"),
                f"clients may send {', '.join(missing)} and so choose a server, a route or a team themselves",
                f"add to it: remove: [{', '.join(missing)}]",
            )
        )
    if not (theirs.spec.get("connection") or {}).get("bufferLimit"):
        findings.append(
            warning(
                "BodiesLimited",
                theirs.origin.at("spec.connection.bufferLimit"),
                "requests of more than 32 KiB, as long prompts are, get 413",
                f"add to it: connection: {{bufferLimit: {BUFFER}}}",
            )
        )
    return findings


def _taken(routers: Sequence[Router]) -> Iterator[Finding]:
    """Of routers whose clients set a header that tokens set on the same Gateway."""
    teams = set(team_headers(routers))
    for router in routers if teams else ():
        asked = {condition.header for rule in router.rules for condition in rule.conditions}
        asked |= {one.header for one in router.budgets}
        for header in sorted(asked & teams) if router.access is None else ():
            yield warning(
                "HeaderTakenFromClients",
                router.origin,
                f"{header} is what clients send to this router, and on its Gateway it is taken from them:"
                " a token's claim is written to it",
                "use another header, or give the router a Gateway of its own",
            )


# --- who asked what ------------------------------------------------------------------------------------


def log_fields(routers: Sequence[Router]) -> dict[str, str]:
    """Of a line for each request. The team is the header that the token's claim is written to."""
    fields = {
        "start": "%START_TIME%",
        "code": "%RESPONSE_CODE%",
        "detail": "%RESPONSE_CODE_DETAILS%",
        "flags": "%RESPONSE_FLAGS%",
        "duration_ms": "%DURATION%",
        "route": "%ROUTE_NAME%",
        "upstream": "%UPSTREAM_HOST%",
        "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
        "request_id": "%REQ(X-REQUEST-ID)%",
        "model": f"%REQ({MODEL.upper()})%",
        "pick": "%REQ(X-GATEWAY-DESTINATION-ENDPOINT)%",
        "input_tokens": "%DYNAMIC_METADATA(io.envoy.ai_gateway:llm_input_token)%",
        "output_tokens": "%DYNAMIC_METADATA(io.envoy.ai_gateway:llm_output_token)%",
        "total_tokens": "%DYNAMIC_METADATA(io.envoy.ai_gateway:llm_total_token)%",
    }
    teams = team_headers(routers) or ["x-team"]
    names = ["team", *(f"team_{number}" for number in range(2, len(teams) + 1))]
    return fields | {name: f"%REQ({one.upper()})%" for name, one in zip(names, teams, strict=True)}


def _audit_log(gateway: Gateway, routers: Sequence[Router]) -> tuple[list[Emitted], list[Finding]]:
    fields = log_fields(routers)
    name = name_of(gateway.name, "audit")
    proxy = gateway.proxy
    if proxy is not None and proxy.name != name:
        missing = sorted(set(fields.values()) - _logged(proxy.spec))
        if not missing:
            return [], []
        return [], [
            warning(
                "AuditLogIncomplete",
                proxy.origin.at("spec.telemetry.accessLog.settings"),
                f"its access log says nothing of {', '.join(missing)}",
                "add a JSON format with these operators to its accessLog settings; the Gateway uses it"
                " already",
            )
        ]
    sinks = [{"type": "File", "file": {"path": "/dev/stdout"}}]
    setting = {"sinks": sinks, "format": {"type": "JSON", "json": fields}}
    spec = {"telemetry": {"accessLog": {"settings": [setting]}}}
    sources = [one.origin.at("") for one in routers]
    emitted = [made(API, "EnvoyProxy", gateway.namespace, name, *sources, spec=spec)]
    if proxy is not None:
        return emitted, []
    reference = f"{{group: gateway.envoyproxy.io, kind: EnvoyProxy, name: {name}}}"
    say = warning if gateway.document else info
    told = say(
        "AuditLogNotInUse",
        routers[0].origin,
        f"the access log is in EnvoyProxy {gateway.namespace}/{name}, and is written once Gateway"
        f" {gateway.namespace}/{gateway.name} uses it",
        f"set on the Gateway: spec.infrastructure.parametersRef: {reference}; or copy its spec.telemetry into"
        " the EnvoyProxy that the Gateway uses",
    )
    return emitted, [told]


def _logged(spec: Any) -> set[str]:
    settings = ((spec.get("telemetry") or {}).get("accessLog") or {}).get("settings") or []
    return {value for one in settings for value in ((one.get("format") or {}).get("json") or {}).values()}


# --- listeners -----------------------------------------------------------------------------------------


def _listeners(gateway: Gateway, routers: Sequence[Router]) -> Iterator[Finding]:
    document = gateway.document
    if document is None:
        for router in routers:
            yield from missing(router, gateway.documents, gateway.options)
        return
    for at, listener in enumerate(gateway.listeners):
        protocol = str(listener.get("protocol", ""))
        is_passed = (listener.get("tls") or {}).get("mode") == "Passthrough"
        if is_passed or protocol in {"TCP", "UDP"}:
            yield warning(
                "ListenerStopsGateway",
                document.origin.at(f"spec.listeners[{at}]"),
                f"listener {listener.get('name')} has no HTTP filters"
                f" ({protocol}{', passthrough' * is_passed}):"
                " Envoy AI Gateway fails on it, and no Gateway of its controller gets any change",
                "move it to a Gateway of another controller, and set logRequestHeaderAttributes of the AI"
                " Gateway's controller to an empty string",
            )
    for router in routers:
        yield from closed(router, gateway.documents)
