"""agentgateway: the model is read out of the body before routing, and rules are HTTPRoutes on that header.

A model that no rule wants gets 404: there is no catch-all but a router's own default. Backends that are tried
in their order are the priority groups of one AgentgatewayBackend; a pool stands there as a provider, and its
picker chooses among its pods. Whatever has to know of tokens or names of models goes by such a backend.

Source:  agentgateway's controller/api/v1alpha1 at 005d0299 (policies) and 08abd7b4 (backends: pools as
         providers, June 2026); agentgateway.dev/docs on failover, content-based routing and the
         processing order. Its CRDs are not in tests/crds.
"""

import itertools
from functools import lru_cache

from epp.compiler import pools
from epp.compiler.documents import Documents
from epp.compiler.durations import duration
from epp.compiler.emission import Emission, Emitted, Object
from epp.compiler.findings import Finding
from epp.compiler.gateways import closed, missing
from epp.compiler.intent import Intent, Pool, Router
from epp.compiler.memory import Call, plainly
from epp.compiler.options import Options
from epp.compiler.targets.agentgateway import gateways, others, policies, servers
from epp.compiler.targets.gateway_api import routes

__all__ = ["emit"]

MOST_RULES = 10
"""Of an HTTPRoute: before it wrote rule numbers with two digits, agentgateway compared them as texts."""


def emit(intent: Intent, documents: Documents, options: Options, call: Call = plainly) -> Emission:
    """All routers; one with an error makes nothing."""
    objects: list[Emitted] = []
    findings: list[Finding] = []
    wanted: list[Pool] = []
    live: list[tuple[Router, routes.Routes]] = []
    theirs = call(gateways.Theirs, documents)
    for router in intent.routers:
        laid, emission, reached = call(_router, router, theirs, documents, options)
        findings += emission.findings
        if not any(one.is_error for one in emission.findings):
            objects += emission.objects
            wanted += reached
            live.append((router, laid))
    findings += routes.overlapping(live, options.model_header, first=_by_name)
    made, faults = pools.objects(wanted, documents, options, call)
    shared = gateways.policies([router for router, _ in live], theirs, options)
    return Emission((*made, *shared, *objects), (*findings, *faults))


def _by_name(one: Router, other: Router) -> bool | None:
    """It compares no ages. None: one name begins the other, and what counts are the numbers behind them."""
    first, second = _names(one.namespace, one.name), _names(other.namespace, other.name)
    for a, b in itertools.product(first, second):
        if a.startswith(b) or b.startswith(a):
            return None
    return first[-1] < second[0] or (None if first[0] < second[-1] else False)


@lru_cache(maxsize=4096)  # of 200 rules for any model beside 1,000 models 200,000 pairs are compared
def _names(namespace: str, router: str) -> list[str]:
    """What those of its HTTPRoutes may begin with, sorted."""
    return sorted({f"{namespace}/{stem}" for stem in routes.stems(router)})


def _router(
    router: Router, theirs: gateways.Theirs, documents: Documents, options: Options
) -> tuple[routes.Routes, Emission, list[Pool]]:
    laid, told = routes.sections(router, options.model_header, MOST_RULES)
    told += gateways.refused(router, theirs, options)
    told += others.told(router, laid, theirs, options)
    counted = bool(router.budgets) or router.audit
    ways = [servers.way(rule, router, documents, counted=counted) for rule in router.rules]
    findings = [
        *told,
        *(finding for one in ways for finding in one.findings),
        *policies.refused(router, laid),
    ]
    if any(one.is_error for one in findings):
        return laid, Emission((), routes.blamed(router, findings)), []
    content = {index: _content(router, index, one) for index, one in enumerate(ways)}
    references = [reference for one in ways for reference in one.references]
    objects = [
        *(emitted for one in ways for emitted in one.objects),
        *routes.grants(router, references),
        *policies.of_router(router, laid, ways, options),
        *routes.http_routes(router, laid, content, named=True),
    ]
    findings += [*missing(router, documents, options), *closed(router, documents)]
    return laid, Emission(tuple(objects), tuple(findings)), [pool for one in ways for pool in one.pools]


def _content(router: Router, index: int, way: servers.Way) -> Object:
    each = routes.attempt_timeout(router.rules[index])
    limits = {"request": each * way.attempts, "backendRequest": each}
    timeouts = {name: duration(limit, plain=True) for name, limit in limits.items()}
    return {
        **({"backendRefs": list(way.references)} if way.references else {}),
        "timeouts": timeouts,
    }
