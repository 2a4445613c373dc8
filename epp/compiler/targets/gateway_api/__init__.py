"""The Gateway API with the inference extension: HTTPRoutes to InferencePools.

For Istio, kgateway, NGINX Gateway Fabric, GKE and every other implementation that conforms. The model is in
a header (``Options.model_header``), set by a body-based router or by clients. Only what the standard channel
has is written: no retries, no rule names.

Source:  Gateway API v1.5.1, its CRDs in tests/crds; docs/gateways.md for what each gateway makes of it.
"""

from epp.compiler import gateways, pools
from epp.compiler.documents import Documents
from epp.compiler.durations import duration
from epp.compiler.emission import Emission, Emitted
from epp.compiler.findings import Finding, error, info, warning
from epp.compiler.intent import GatewayRef, Intent, Pool, Router
from epp.compiler.memory import Call, plainly
from epp.compiler.options import Options
from epp.compiler.targets.gateway_api import rewrites, routes, servers

__all__ = ["emit"]


def emit(intent: Intent, documents: Documents, options: Options, call: Call = plainly) -> Emission:
    """All routers; one with an error makes nothing."""
    objects: list[Emitted] = []
    findings: list[Finding] = []
    wanted: list[Pool] = []
    names = rewrites.Names()
    known: set[GatewayRef] = set()
    live: list[tuple[Router, routes.Routes]] = []
    for router in intent.routers:
        laid, emission, reached = call(_router, router, documents, options)
        clashes = () if any(one.is_error for one in emission.findings) else names.ask(router)
        findings += routes.blamed(router, [*emission.findings, *clashes]) if clashes else emission.findings
        if clashes or any(one.is_error for one in emission.findings):
            continue
        objects += emission.objects
        wanted += reached
        live.append((router, laid))
        if router.gateway not in known:
            known.add(router.gateway)
            findings.append(_header(router, options))
    findings += routes.overlapping(live, options.model_header)
    made, faults = pools.objects(wanted, documents, options, call)
    return Emission((*made, *names.objects(), *objects), (*findings, *faults))


def _router(
    router: Router, documents: Documents, options: Options
) -> tuple[routes.Routes, Emission, list[Pool]]:
    laid, told = routes.sections(router, options.model_header)
    findings = [*_refused(router), *told]
    ways = [servers.way(rule, router, documents) for rule in router.rules]
    findings += [told for one in ways for told in one.findings]
    for rule in router.rules:
        findings += routes.shared_timeout(rule)
    if routes.regular_expressions(laid):
        findings.append(_regex(router))
    if any(one.is_error for one in findings):
        return laid, Emission((), routes.blamed(router, findings)), []
    findings += [*gateways.missing(router, documents, options), *gateways.closed(router, documents)]
    content = {
        index: {
            "backendRefs": list(one.references),
            "timeouts": {"request": duration(routes.attempt_timeout(router.rules[index]), plain=True)},
        }
        for index, one in enumerate(ways)
    }
    objects = [
        *(emitted for one in ways for emitted in one.objects),
        *routes.grants(router, [reference for one in ways for reference in one.references]),
        *routes.http_routes(router, laid, content, named=False),
    ]
    return laid, Emission(tuple(objects), tuple(findings)), [pool for one in ways for pool in one.pools]


def _refused(router: Router) -> list[Finding]:
    """What no object of the Gateway API is for."""
    elsewhere = "use the target envoy-ai-gateway or agentgateway"
    found = []
    if router.access:
        found.append(
            error(
                "UnsupportedAuth",
                router.access.origin,
                "the Gateway API has no tokens and no lists of who may ask for what",
                f"{elsewhere}, or remove it here and use a policy of your gateway's own",
            )
        )
    found += [
        error(
            "UnsupportedBudgetScope",
            budget.origin,
            f"budget {budget.name}: no object of the Gateway API counts tokens",
            "use the target envoy-ai-gateway",
        )
        for budget in router.budgets
    ]
    if router.audit:
        found.append(
            error(
                "UnsupportedAuditLogInGatewayMode",
                router.origin,
                "the Gateway API has no access log",
                f"{elsewhere}, or remove it here and switch your gateway's own access log on",
            )
        )
    return found


def _regex(router: Router) -> Finding:
    return warning(
        "RegularExpressionMatch",
        router.origin,
        "patterns and values in whatever case are header matches of type RegularExpression: Istio, kgateway,"
        " Envoy Gateway, agentgateway and NGINX Gateway Fabric have it, GKE refuses the route",
        "on GKE, name each model and value",
    )


def _header(router: Router, options: Options) -> Finding:
    return info(
        "ModelFromHeader",
        router.origin,
        f"Gateway {router.gateway.namespace}/{router.gateway.name} is told the model in the header"
        f" {options.model_header}; a request without it goes to rules for any model only, else it gets 404",
        "install a body-based router, which sets it from the body, or have clients send it",
    )
