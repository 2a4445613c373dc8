"""A ModelRouter and an exposed InferenceService as a router.

Rule:    an object is a router, or has an error; never both, never neither.
"""

from collections.abc import Mapping, Sequence

from epp.compiler.documents import Document
from epp.compiler.findings import Finding
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
from epp.compiler.inputs.llmkube.servers import Served
from epp.compiler.inputs.llmkube.telling import INVALID, Told
from epp.compiler.intent import Backend, Router, Rule, Scope, Upstream
from epp.compiler.intent import GatewayRef as Gateway
from epp.compiler.node import Node
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


def services(document: Document) -> tuple[str, ...]:
    """The InferenceServices that a ModelRouter leads to, each once: those of its own namespace."""
    refs = (one["inferenceServiceRef"] for one in Node(document.content)["spec"]["backends"])
    homes = {"", document.namespace}
    return tuple(dict.fromkeys(one["name"].text for one in refs if one["namespace"].text in homes))


def asks(document: Document, options: Options) -> tuple[bool, Sequence[Finding]]:
    """Whether a ModelRouter is to be compiled, and what is to be told of that."""
    told = Told(document.origin, is_live=options.is_live)
    return is_for_gateway(document, options, told), told.findings


def read_router(
    document: Document, options: Options, *served: Served | None
) -> tuple[Router | None, Sequence[Finding]]:
    """``served``: its ``services``. None: it is wrong, which is told."""
    told = Told(document.origin, is_live=options.is_live)
    return _router(document, dict(zip(services(document), served, strict=True)), options, told), told.findings


def _router(
    document: Document, served: Mapping[str, Served | None], options: Options, told: Told
) -> Router | None:
    try:
        spec = decode(ModelRouter, document.content.get("spec"), "spec")
    except Unreadable as fault:
        told.unreadable(fault)
        return None
    told.unknown(spec, document.spec, "spec")
    gateway = _gateway(spec.gateway_ref, "spec.gatewayRef", document, options, told)
    choices = Backends(document, served, options, told).read(spec)
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
        return None
    kept = {one.name for one in rules}
    return Router(
        name=document.name,
        namespace=document.namespace,
        gateway=gateway,
        rules=rules,
        origin=document.origin,
        budgets=tuple(one for one in budgets if one.scope is not Scope.RULE or one.rule in kept),
        access=access,
        audit=audit,
    )


def loops(router: Router, gateway: Document) -> tuple[None, Sequence[Finding]]:
    """What is to be told of backends that are the router's own ``gateway``."""
    told, theirs = Told(router.origin), hosts(gateway)
    backends = {one.name: one for rule in router.rules for one in rule.backends}
    for one in backends.values():
        if isinstance(one.servers, Upstream) and one.servers.host in theirs:
            told.warning(
                "LeadsBack",
                one.servers.origin.field,
                f"backend {one.name} is the gateway itself ({one.servers.host}): its requests come in again, "
                f"and go round until a time is up if a rule sends {one.model} there again",
                "name the server behind the gateway",
            )
    return None, told.findings


def exposure(spec: Service | None) -> Exposure | None:
    """How a service is to be reached at a gateway; None: it is not."""
    found = spec and spec.endpoint and spec.endpoint.gateway
    return found if found and found.enabled else None


def read_exposed(
    document: Document, served: Served, options: Options
) -> tuple[Router | None, Sequence[Finding]]:
    """A router of one rule, for the service's own name. None: it is not exposed, or wrong, which is told."""
    exposed, field = exposure(served.spec), "spec.endpoint.gateway"
    told = Told(document.origin, is_live=options.is_live)
    if exposed is None:
        return None, ()
    gateway = _gateway(exposed.gateway_ref, f"{field}.gatewayRef", document, options, told)
    if gateway is None:
        return None, told.findings
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
    models = (escape(model_name(document, exposed)),)
    rule = Rule(document.name, (backend,), document.origin.at(field), models=models)
    return Router(document.name, document.namespace, gateway, (rule,), document.origin), told.findings


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
