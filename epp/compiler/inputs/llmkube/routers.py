"""A ModelRouter and an exposed InferenceService as a router.

Rule:    an object is a router, or has an error; never both, never neither.
"""

from collections.abc import Collection, Iterable, Iterator

from epp.compiler.documents import Document, Documents
from epp.compiler.inputs.llmkube.backends import Backends
from epp.compiler.inputs.llmkube.claiming import CLAIM
from epp.compiler.inputs.llmkube.gateways import hosts
from epp.compiler.inputs.llmkube.objects import (
    Exposure,
    GatewayRef,
    ModelRouter,
    Policy,
    RouterHead,
    Service,
    Unreadable,
    decode,
)
from epp.compiler.inputs.llmkube.policy import read_access, read_audit, read_budgets
from epp.compiler.inputs.llmkube.rules import Rules
from epp.compiler.inputs.llmkube.servers import Served, Servers
from epp.compiler.inputs.llmkube.told import INVALID, Told
from epp.compiler.intent import Backend, Router, Rule, Scope, Upstream
from epp.compiler.intent import GatewayRef as Gateway
from epp.compiler.options import Options, Target
from epp.compiler.patterns import escape

DATA_PLANES = ("Proxy", "Gateway", "AgentGateway")


def is_for_gateway(document: Document, options: Options, told: Told) -> bool:
    """Whether a ModelRouter is to be compiled, rather than served by LLMKube's proxy."""
    try:
        head = decode(RouterHead, document.content.get("spec"), "spec")
    except Unreadable as fault:
        told.unreadable(fault)
        return False
    told.unknown(head, document.spec, "spec")
    plane = head.data_plane or "Proxy"
    if plane == "Proxy" and CLAIM in document.annotations:
        told.info(
            "ServedByProxy",
            "spec.dataPlane",
            f"{document.name} is claimed, and its dataPlane is Proxy: LLMKube's proxy serves it, no gateway",
            "write dataPlane: Gateway, or remove the annotation",
        )
    if plane not in DATA_PLANES:
        told.error(
            INVALID,
            "spec.dataPlane",
            f"there is no data plane {plane!r}",
            f"write one of {', '.join(DATA_PLANES)}",
        )
    if plane == "AgentGateway":
        return options.target is Target.AGENTGATEWAY
    return plane == "Gateway"


def read_router(
    document: Document, servers: Servers, documents: Documents, options: Options, told: Told
) -> Iterator[Router]:
    """At most one; none where it is wrong, which is told."""
    try:
        spec = decode(ModelRouter, document.content.get("spec"), "spec")
    except Unreadable as fault:
        told.unreadable(fault)
        return
    told.unknown(spec, document.spec, "spec")
    gateway = _gateway(spec.gateway_ref, "spec.gatewayRef", document, options, told)
    choices = Backends(document, servers, options, told).read(spec)
    rules = Rules(spec, choices, options, told).read()
    policy = spec.policy or Policy()
    access = read_access(policy.auth, told)
    names = {one.name for one in spec.rules or ()}
    budgets = read_budgets(policy, names, access, told)
    audit = read_audit(policy.audit_log, told)
    if spec.mcp_server is not None and spec.mcp_server.enabled:
        told.warning(
            "MCPServerIgnored",
            "spec.mcpServer.enabled",
            "no gateway makes a router an MCP server",
            "leave it out",
        )
    if gateway is None or told.has_failed:
        return
    _remark_loops(rules, hosts(gateway, documents), told)
    kept = {one.name for one in rules}
    yield Router(
        name=document.name,
        namespace=document.namespace,
        gateway=gateway,
        rules=rules,
        origin=document.origin,
        budgets=tuple(one for one in budgets if one.scope is not Scope.RULE or one.rule in kept),
        access=access,
        audit=audit,
    )


def _remark_loops(rules: Iterable[Rule], gateway_hosts: Collection[str], told: Told) -> None:
    backends = {one.name: one for rule in rules for one in rule.backends}
    for one in backends.values():
        if isinstance(one.servers, Upstream) and one.servers.host in gateway_hosts:
            told.warning(
                "LeadsBack",
                one.servers.origin.field,
                f"backend {one.name} is the gateway itself ({one.servers.host}): its requests come in again, "
                f"and go round until a time is up if a rule sends {one.model} there again",
                "name the server behind the gateway",
            )


def exposure(spec: Service | None) -> Exposure | None:
    """How a service is to be reached at a gateway; None: it is not."""
    found = spec and spec.endpoint and spec.endpoint.gateway
    return found if found and found.enabled else None


def read_exposed(
    document: Document, served: Served, exposed: Exposure, options: Options, told: Told
) -> Iterator[Router]:
    """A router of one rule, for the service's own name; none where it is wrong, which is told."""
    field = "spec.endpoint.gateway"
    gateway = _gateway(exposed.gateway_ref, f"{field}.gatewayRef", document, options, told)
    if gateway is None:
        return
    if served.shares:
        told.warning(
            "ModelPoolNotActivated",
            field,
            f"it takes turns on one GPU in ModelPool {served.shares}, and no gateway wakes it: while another "
            "member is resident, requests for it get 503",
            "take it out of the pool, or reach it through a ModelRouter with dataPlane: Proxy",
        )
    backend = Backend(
        document.name, served.pool, document.origin, down=served.down, health_path=served.health_path
    )
    rule = Rule(
        document.name, (backend,), told.origin.at(field), models=(escape(model_name(document, exposed)),)
    )
    yield Router(document.name, document.namespace, gateway, (rule,), document.origin)


def model_name(document: Document, exposed: Exposure) -> str:
    """What clients call it."""
    return exposed.model_name or document.name


def _gateway(
    ref: GatewayRef | None, field: str, document: Document, options: Options, told: Told
) -> Gateway | None:
    if ref is not None and ref.name:
        return Gateway(ref.name, ref.namespace or document.namespace)
    if options.gateway is None:
        told.error(
            "GatewayRefMissing",
            field,
            f"{document.name} is to be reached at a gateway, and names none",
            f"write {field} with name and namespace",
        )
    return options.gateway
