"""Envoy AI Gateway 0.7 and 1.1, on Envoy Gateway.

Place:   one of targets/. backends.py, matches.py and budgets.py turn rules into routes.py's parts;
         gateways.py and access.py make what routers of one Gateway share; surroundings.py is what is there.
Rule:    a model has servers behind a picker (an InferencePool) or beside each other (AIServiceBackends),
         never both; every HTTPRoute that comes of an AIGatewayRoute has one BackendTrafficPolicy, every
         Gateway one policy of each other kind.
"""

from collections.abc import Sequence

from epp.compiler import order, pools
from epp.compiler.documents import Documents
from epp.compiler.emission import Emission, Emitted
from epp.compiler.findings import Finding
from epp.compiler.intent import GatewayRef, Intent, Pool, Router
from epp.compiler.memory import Call, plainly
from epp.compiler.options import Options
from epp.compiler.order import Match
from epp.compiler.targets.envoy_ai_gateway import (
    access,
    budgets,
    gateways,
    matches,
    others,
    routes,
    separation,
)
from epp.compiler.targets.envoy_ai_gateway.backends import Planner, beside_others
from epp.compiler.targets.envoy_ai_gateway.refused import Refused
from epp.compiler.targets.envoy_ai_gateway.surroundings import Gateway, Surroundings

__all__ = ["emit"]


def emit(intent: Intent, documents: Documents, options: Options, call: Call = plainly) -> Emission:
    """Everything that the intent asks of this gateway."""
    around = call(Surroundings, documents, options)
    emitted, findings, used = list[Emitted](), list[Finding](), list[Pool]()
    for gateway, routers in _by_gateway(intent, around, call):
        for router, found in _matches(gateway, routers, findings, call):
            made, told, wanted = call(_router, router, gateway, around, *found)
            emitted += made
            findings += told
            used += wanted
        for made, told in (gateways.objects(gateway, routers), access.objects(gateway, routers)):
            emitted += made
            findings += told
    made, told = pools.objects(used, documents, options, call)
    return Emission((*emitted, *made), (*findings, *told))


def _by_gateway(intent: Intent, around: Surroundings, call: Call) -> list[tuple[Gateway, list[Router]]]:
    found: dict[tuple[str, str], list[Router]] = {}
    for router in intent.routers:
        found.setdefault((router.gateway.namespace, router.gateway.name), []).append(router)
    return [(call(_gateway, around, *where), routers) for where, routers in found.items()]


def _gateway(around: Surroundings, namespace: str, name: str) -> Gateway:
    return around.gateway(GatewayRef(name, namespace))


def _router(
    router: Router, gateway: Gateway, around: Surroundings, *found: Sequence[Match]
) -> tuple[list[Emitted], list[Finding], list[Pool]]:
    planner = Planner(router, around)
    plans, refusals = [], list[Finding]()
    for rule in router.rules:
        try:
            plans.append(planner.plan(rule))
        except Refused as refused:
            refusals.append(refused.finding)
    if refusals:
        return [], refusals, []
    plans = beside_others(plans)
    try:
        limits, told = budgets.limits(router, plans)
        packed = routes.packed(router, plans, found, limits, in_order=gateway.keeps_order)
    except Refused as refused:
        return [], [refused.finding], []
    theirs = others.told(router, [one.name for one in packed], gateway, around.options)
    if any(one.is_error for one in theirs):
        return [], theirs, []
    plans = [plan for plan, reached in zip(plans, found, strict=True) if reached]
    emitted = [one for plan in plans for one in plan.objects]
    emitted += routes.objects(router, packed, limits, around.options)
    told += [one for plan in plans for one in plan.findings]
    told += [*order.unreached(router, found), *budgets.told(router, around.documents), *theirs]
    return emitted, told, [plan.pool for plan in plans if plan.pool]


def _matches(
    gateway: Gateway, routers: Sequence[Router], findings: list[Finding], call: Call
) -> list[tuple[Router, list[list[Match]]]]:
    """Of each router that can be had; about the others, and what is between them, there are ``findings``."""
    found, possible = list[list[list[Match]]](), list[Router]()
    in_order = gateway.keeps_order
    shares = len(routers) > 1 and not in_order
    crowded = sorted(separation.crowded(routers, call)) if shares else ()
    for router in routers:
        rules = call(_of_rules, router, in_order, *crowded)
        if isinstance(rules, Finding):
            findings.append(rules)
        else:
            found.append(rules)
            possible.append(router)
    if in_order:
        findings += separation.cannot_share(possible)
    elif shares:
        found, told = separation.settled(possible, found, call)
        findings += told
    return list(zip(possible, found, strict=True))


def _of_rules(router: Router, in_order: bool, *crowded: str) -> list[list[Match]] | Finding:
    try:
        return matches.of_rules(router, in_order=in_order, crowded=frozenset(crowded))
    except Refused as refused:
        return refused.finding
