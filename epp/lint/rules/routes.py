"""Traps of a route by itself, and of what its rules lead to."""

import re
from collections.abc import Iterator

from epp.compiler.attachment import Reference, reference
from epp.compiler.findings import Severity
from epp.compiler.http_routes import MOST_AI_RULES, MOST_IN_AI_ROUTE, MOST_MATCHES
from epp.compiler.node import Node
from epp.lint.rule import Admission, Trap, rule
from epp.lint.view import EG, Object, View, is_pool

_RULES = "object.spec.?rules.orValue([])"
_REFS = "r.?backendRefs.orValue([])"
_POOL = "b.?kind.orValue('') == 'InferencePool'"


@rule(
    Severity.ERROR,
    "a rule leads to an InferencePool and to something else",
    Admission("AIGatewayRoute", f"{_RULES}.all(r, !{_REFS}.exists(b, {_POOL}) || {_REFS}.all(b, {_POOL}))"),
    Admission(
        "HTTPRoute",
        f"{_RULES}.all(r, !{_REFS}.exists(b, {_POOL}) || "
        f"!{_REFS}.exists(b, b.?group.orValue('') == '{EG}' && b.?kind.orValue('') == 'Backend'))",
    ),
)
def mixed_backend_refs(view: View) -> Iterator[Trap]:
    """A pool's cluster takes its address from a header and has no list of endpoints.

    With a second kind of backend in the same rule Envoy refuses the whole cluster ("load_assignment" is not
    allowed there), so that neither is served; an AIGatewayRoute with such a rule is refused by its CRD since
    v0.7. There is no fallback from a pool to a provider at the gateway (envoyproxy/ai-gateway#2231): one pool
    for pods and machines outside is what gives a model name several kinds of servers.
    """
    for route in view.routes():
        for one in route.spec["rules"]:
            others = [ref for ref in one["backendRefs"] if not is_pool(ref)]
            if not others or len(others) == len(one["backendRefs"]):
                continue
            if view.is_envoy_gateway(route) or any(ref["group"].text == EG for ref in others):
                yield Trap(
                    route,
                    one["backendRefs"],
                    f"leads to an InferencePool and to {_named(others[0])}: Envoy refuses the cluster, none"
                    " of the rule's backends is served",
                    "one rule for the pool and one for the others, or all servers in one pool",
                )


def _named(ref: Node) -> str:
    return f"{ref['kind'].text or 'AIServiceBackend'} {ref['name'].text}"


@rule(
    Severity.ERROR,
    "a rule leads to several InferencePools",
    Admission("AIGatewayRoute", f"{_RULES}.all(r, {_REFS}.filter(b, {_POOL}).size() <= 1)"),
)
def several_pools(view: View) -> Iterator[Trap]:
    """Envoy AI Gateway takes one InferencePool a rule.

    In an AIGatewayRoute the CRD refuses the second; in an HTTPRoute the controller finds it too late ("BUG:
    at most one inferencepool") and nothing more is programmed. Shares between two pools, as for a canary,
    work where each pool has its rule, or with other gateways.
    """
    for route in view.routes():
        for one in route.spec["rules"]:
            pools = [ref["name"].text for ref in one["backendRefs"] if is_pool(ref)]
            if len(pools) > 1 and view.is_envoy_gateway(route):
                yield Trap(
                    route,
                    one["backendRefs"],
                    f"leads to {len(pools)} InferencePools ({', '.join(pools)}): one is allowed",
                    "one pool that selects the servers of all of them, or a rule for each",
                )


@rule(
    Severity.ERROR,
    "more rules or matches than the HTTPRoute behind it can have",
    Admission(
        "AIGatewayRoute",
        f"{_RULES}.size() <= {MOST_AI_RULES} && "
        f"{_RULES}.all(r, r.?matches.orValue([]).size() <= {MOST_MATCHES}) && "
        f"{_RULES}.map(r, r.?matches.orValue([]).size()).sum() <= {MOST_IN_AI_ROUTE}",
    ),
)
def too_many_rules(view: View) -> Iterator[Trap]:
    """An AIGatewayRoute becomes one HTTPRoute, which has 16 rules at most, 128 matches, and 64 in a rule.

    One rule is the catch-all that the controller adds. The CRD of v0.3 to v0.6 let 128 rules through, which
    the HTTPRoute behind it then refused; since v0.7 it is the CRD that does. What is in one route also
    fails together: a single missing backend freezes all its models.
    """
    for route in view.of("AIGatewayRoute"):
        rules = route.spec["rules"]
        if len(rules) > MOST_AI_RULES:
            yield Trap(
                route,
                rules,
                f"has {len(rules)} rules: {MOST_AI_RULES} at most become an HTTPRoute",
                "several AIGatewayRoutes, best one for each model",
            )
        matches = [one["matches"] for one in rules]
        most = max((len(one) for one in matches), default=0)
        if most > MOST_MATCHES or sum(map(len, matches)) > MOST_IN_AI_ROUTE:
            yield Trap(
                route,
                rules,
                f"has {sum(map(len, matches))} matches, {most} in one rule: {MOST_IN_AI_ROUTE} and"
                f" {MOST_MATCHES} at most become an HTTPRoute",
                "several AIGatewayRoutes, best one for each model",
            )


@rule(
    Severity.WARNING,
    "without a timeout of its own a rule has 60 s, or 15 s",
    Admission(
        "AIGatewayRoute",
        f"{_RULES}.all(r, r.?timeouts.?request.hasValue() || r.?timeouts.?backendRequest.hasValue())",
    ),
)
def missing_timeout(view: View) -> Iterator[Trap]:
    """Long answers end in the middle: an AIGatewayRoute's rule without a timeout gets 60 s, streams included.

    These 60 s stand on the HTTPRoute that is made, and win over a BackendTrafficPolicy's requestTimeout
    (defilantech/LLMKube#734). A plain HTTPRoute to a pool has Envoy's own 15 s where no policy says more.
    """
    for route in view.of("AIGatewayRoute"):
        for one in route.spec["rules"]:
            limits = one["timeouts"]
            if not (limits["request"].is_there or limits["backendRequest"].is_there):
                yield Trap(
                    route,
                    one["timeouts"],
                    "is not set: every request ends after 60 s, streams too, whatever a policy says",
                    "timeouts: {request: 600s}, or as long as your longest answer takes",
                )
    for route in view.routes():
        if (
            route.kind == "HTTPRoute"
            and view.is_envoy_gateway(route)
            and not _has_policy_timeout(view, route)
        ):
            for one in route.spec["rules"]:
                to_pool = any(map(is_pool, one["backendRefs"]))
                if to_pool and not one["timeouts"]["request"].is_there:
                    yield Trap(
                        route,
                        one["timeouts"]["request"],
                        "is not set: every request ends after Envoy's 15 s, streams too",
                        "timeouts: {request: 600s}, or as long as your longest answer takes",
                    )


def _has_policy_timeout(view: View, route: Object) -> bool:
    policies = view.policies_of("BackendTrafficPolicy", route)
    return any(one.spec["timeout"]["http"]["requestTimeout"].is_there for one in policies)


@rule(Severity.ERROR, "a pool in another namespace than the route")
def pool_in_other_namespace(view: View) -> Iterator[Trap]:
    """Up to v1.0 an AIGatewayRoute's pool is looked for in the route's own namespace, whatever it says.

    v1.1 honours the namespace, but wants two ReferenceGrants beside the pool: from AIGatewayRoute and, for
    what is made of it, from HTTPRoute. With one of them the reference is not resolved and the model answers
    with an error.
    """
    for route in view.of("AIGatewayRoute"):
        for one in route.spec["rules"]:
            for ref in one["backendRefs"]:
                pool = reference(ref, route.namespace, kind="")
                if not is_pool(ref) or pool.namespace == route.namespace:
                    continue
                if view.context.version < (1, 1):
                    yield Trap(
                        route,
                        ref["namespace"],
                        f"is ignored before v1.1: pool {pool.name} is looked for in {route.namespace}",
                        "keep route and pool in one namespace",
                    )
                yield from _without_grants(view, route, pool)


def _without_grants(view: View, route: Object, pool: Reference) -> Iterator[Trap]:
    if view.context.version < (1, 1) or not (
        view.is_complete("ReferenceGrant", pool.namespace) or view.found(pool)
    ):
        return
    missing = [
        kind for kind in ("AIGatewayRoute", "HTTPRoute") if not view.is_granted(kind, route.namespace, pool)
    ]
    if missing:
        yield Trap(
            route,
            pool.at["namespace"],
            f"is not resolved: no ReferenceGrant in {pool.namespace} lets {' and '.join(missing)} of"
            f" {route.namespace} name its pools",
            f"a ReferenceGrant in {pool.namespace} from AIGatewayRoute and from HTTPRoute of"
            f" {route.namespace} to InferencePool",
        )


_IGNORED = ("modelNameOverride", "headerMutation", "bodyMutation")


@rule(
    Severity.WARNING,
    "fields that have no effect on an InferencePool",
    Admission(
        "AIGatewayRoute",
        f"{_RULES}.all(r, {_REFS}.all(b, !({_POOL}) || !("
        + " || ".join(f"has(b.{field})" for field in _IGNORED)
        + " || b.?priority.orValue(0) != 0)))",
    ),
)
def ignored_on_pool(view: View) -> Iterator[Trap]:
    """Of a reference to an InferencePool an AIGatewayRoute reads the name and the weight, and nothing else.

    The model is not renamed, headers and body stay as they are, and a priority does not make it a fallback.
    Nobody is told: the object is accepted and the request reaches a server that does not know the model.
    """
    for route in view.of("AIGatewayRoute"):
        for one in route.spec["rules"]:
            for ref in filter(is_pool, one["backendRefs"]):
                written = [ref[name] for name in _IGNORED if ref[name].is_there]
                written += [ref["priority"]] if ref["priority"].number else []
                for node in written:
                    yield Trap(
                        route,
                        node,
                        "has no effect on an InferencePool",
                        "rename a model with an InferenceModelRewrite, or reach the servers as an"
                        " AIServiceBackend",
                    )


@rule(Severity.ERROR, "priorities between backends that are listed by address")
def priority_ignored(view: View) -> Iterator[Trap]:
    """Backends listed by IP become one flat list of endpoints: the fallback takes its share from the start.

    Besides, every request then goes out as the first backend's, with its key and its model name, to
    whichever server (envoyproxy/ai-gateway#950, #902). Where some are listed by IP and some by name,
    priorities are lost as well. With names alone they work.
    """
    for route in view.of("AIGatewayRoute"):
        for one in route.spec["rules"]:
            refs = list(one["backendRefs"])
            if len({ref["priority"].number or 0 for ref in refs}) < 2:
                continue
            for ref in refs:
                backend = view.backend_of(ref, route.namespace)
                if backend is not None and any(item["ip"].is_there for item in backend.spec["endpoints"]):
                    yield Trap(
                        route,
                        ref["priority"] if ref["priority"].is_there else ref,
                        f"is ignored: Backend {backend.name} lists addresses, so all backends of the rule get"
                        " requests at once, all as the first one's",
                        "list servers by host name (fqdn) in every Backend of the rule, or put them into one"
                        " Backend and mark the second tier with spec.fallback",
                    )
                    break


@rule(Severity.ERROR, "a backend that does not exist")
def missing_backend(view: View) -> Iterator[Trap]:
    """One missing AIServiceBackend freezes the whole AIGatewayRoute: it stays as it was, for all its models.

    A new model is not served, a removed one still is, and the other rules' changes wait too. Apply Backend,
    then AIServiceBackend, then the route, and delete in the reverse order. In files this is told, as a
    remark, where others of the kind and namespace are there.
    """
    severity = None if view.context.is_live else Severity.INFO
    for route in view.of("AIGatewayRoute"):
        for one in route.spec["rules"]:
            for ref in one["backendRefs"]:
                named = reference(ref, route.namespace, kind="AIServiceBackend")
                if view.lacks(named):
                    yield Trap(
                        route,
                        ref["name"],
                        f"there is no {named.title}: the whole route stays as it was, with all its models",
                        "create it before the route, or correct the name",
                        severity,
                    )
    for service in view.of("AIServiceBackend"):
        named = reference(service.spec["backendRef"], service.namespace, kind="Service")
        if view.lacks(named):
            yield Trap(
                service,
                named.at["name"],
                f"there is no {named.title}: routes that lead here stay as they were",
                "create it before the AIServiceBackend, or correct the name",
                severity,
            )


_FRACTION = re.compile(r"\d+\.\d+(h|m|s|ms)")
_DURATIONS = re.compile(r"[a-z]*([tT]imeout|[iI]nterval|[dD]uration|Time|[bB]ackendRequest|request)")
_WITH_DURATIONS = ("AIGatewayRoute", "HTTPRoute", "BackendTrafficPolicy", "ClientTrafficPolicy")


@rule(Severity.ERROR, "a duration with a fraction")
def fractional_duration(view: View) -> Iterator[Trap]:
    """Gateway API durations have whole numbers: 1s500ms, not 1.5s. The API server refuses the object.

    Whatever prints durations as Go does writes 1.5s, and so the last good object stays: a change that nobody
    sees fail.
    """
    for one in view.of(*_WITH_DURATIONS, "EnvoyExtensionPolicy", "SecurityPolicy"):
        for node in one.spec.texts():
            if _FRACTION.fullmatch(node.text) and _DURATIONS.fullmatch(node.field.rpartition(".")[2]):
                yield Trap(
                    one, node, f'"{node.text}" is refused by the API server', "whole numbers, as in 1s500ms"
                )
