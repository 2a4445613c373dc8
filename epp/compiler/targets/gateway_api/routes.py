"""Rules as HTTPRoutes: the matches that keep their order, within the limits of the CRD.

Place:   used by the targets gateway_api and agentgateway.
Rule:    a route that is split keeps the order by its names: of matches of equal strength the oldest route
         counts, then the first by name, and all are made in one go, in this order.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from epp.compiler import order, overlaps
from epp.compiler.durations import duration
from epp.compiler.emission import Emitted, Object, made
from epp.compiler.findings import Finding, error, quoted, warning
from epp.compiler.http_routes import MOST_HEADERS, MOST_IN_ROUTE, MOST_MATCHES, MOST_RULES, is_value
from epp.compiler.intent import DEFAULT_TIMEOUT, Backend, Router, Rule, Strategy
from epp.compiler.names import LONGEST, name_of, ordinal
from epp.compiler.patterns import EXACT, Matcher

GATEWAY_API = "gateway.networking.k8s.io"
ROUTER = "fleet-epp.dev/router"
_SAME_WAY = "rename it, or choose by another header"


@dataclass(frozen=True, slots=True)
class Section:
    """Where some of a rule's matches came to stand: the HTTPRoute, and its rule there."""

    rule: int
    route: str
    name: str
    matches: tuple[order.Match, ...]


Routes: TypeAlias = list[list[Section]]
"""What stands in which HTTPRoute."""


def sections(router: Router, header: str, most_rules: int = MOST_RULES) -> tuple[Routes, list[Finding]]:
    """The HTTPRoutes of ``router``, or errors."""
    try:
        wanted = [order.alternatives(rule, header) for rule in router.rules]
        own = [
            fault
            for rule, found in zip(router.rules, wanted, strict=True)
            for fault in _too_many(rule, found)
        ]
        if own:
            return [], own
        matches = order.closure(wanted, pivot=header)
    except order.Unordered as fault:
        return [], [
            error(
                "UnsupportedMatchInGatewayMode",
                router.origin,
                f"its rules cannot be kept in their order: {fault}",
                "make the patterns plainer, or the rules that overlap one router each",
            )
        ]
    faults = [
        fault for rule, found in zip(router.rules, matches, strict=True) for fault in _faults(rule, found)
    ]
    if faults:
        return [], faults
    shares = order.split(
        matches, rules_per_route=most_rules, matches_per_rule=MOST_MATCHES, matches_per_route=MOST_IN_ROUTE
    )
    return _named(router, shares), list(order.unreached(router, matches))


def stems(router: str) -> tuple[str, str]:
    """The name of its only HTTPRoute, and what the names of several begin with."""
    return name_of(router), name_of(router, longest=LONGEST - len("-00"))


def _named(router: Router, shares: Sequence[Sequence[order.Share[order.Match]]]) -> list[list[Section]]:
    routes = []
    only, stem = stems(router.name)
    for number, route in enumerate(shares):
        whole = only if len(shares) == 1 else name_of(f"{stem}-{ordinal(number)}")
        seen: dict[str, int] = {}
        found = []
        for share in route:
            plain = name_of(router.rules[share.rule].name)
            seen[plain] = seen.get(plain, 0) + 1
            name = plain if seen[plain] == 1 else f"{plain}-{seen[plain]}"
            found.append(Section(share.rule, whole, name, share.matches))
        routes.append(found)
    return routes


def _faults(rule: Rule, matches: Sequence[order.Match]) -> list[Finding]:
    """What no HTTPRoute can say, once for each text."""
    texts = dict.fromkeys(
        f"header {quoted(name)}: {quoted(written['value'])} is no value that an HTTPRoute can name"
        for match in matches
        for name, matcher in match.items()
        for written in [_written(name, matcher)]
        if not is_value(written["value"])
    )
    found = [error("UnsupportedMatchInGatewayMode", rule.origin, text, _SAME_WAY) for text in texts]
    return found + _too_many(rule, matches, "with the later rules that it goes before ")


def _too_many(rule: Rule, matches: Sequence[order.Match], why: str = "") -> list[Finding]:
    most = max(map(len, matches), default=0)
    if most <= MOST_HEADERS:
        return []
    return [
        error(
            "TooManyHeaders",
            rule.origin,
            f"{why}rule {rule.name} asks for {most} headers, and a match has {MOST_HEADERS} at most",
            "ask for fewer headers" + (", here or in the later rules" if why else ""),
        )
    ]


def overlapping(
    routers: Sequence[tuple[Router, Routes]], header: str, *, first: overlaps.First = overlaps.by_age
) -> list[Finding]:
    """What routers of one Gateway take from each other, the oldest first. ``first``: of two that match alike
    which is tried first."""
    gateways: dict[tuple[str, str], list[tuple[Router, Routes]]] = {}
    for router, routes in routers:
        gateways.setdefault((router.gateway.namespace, router.gateway.name), []).append((router, routes))
    return [
        told
        for here in gateways.values()
        for told in overlaps.told(
            [router for router, _ in here],
            [_by_rule(router, routes) for router, routes in here],
            model=header,
            first=first,
        )
    ]


def _by_rule(router: Router, routes: Routes) -> list[list[order.Match]]:
    found: list[list[order.Match]] = [[] for _ in router.rules]
    for section in (section for route in routes for section in route):
        found[section.rule] += section.matches
    return found


def regular_expressions(routes: Sequence[Sequence[Section]]) -> bool:
    """Whether any match needs one, which not every gateway has."""
    return any(
        matcher.kind != EXACT
        for route in routes
        for section in route
        for match in section.matches
        for matcher in match.values()
    )


def _written(name: str, matcher: Matcher) -> Object:
    if matcher.kind == EXACT and matcher.value:
        return {"type": "Exact", "name": name, "value": matcher.value}
    return {"type": "RegularExpression", "name": name, "value": matcher.regex}


def _match(match: order.Match) -> Object:
    if not match:
        return {"path": {"type": "PathPrefix", "value": "/"}}
    return {"headers": [_written(name, matcher) for name, matcher in sorted(match.items())]}


def http_routes(
    router: Router, routes: Sequence[Sequence[Section]], content: Mapping[int, Object], *, named: bool
) -> list[Emitted]:
    """``content``: of each rule, all but its matches. ``named``: policies find them by the label ROUTER, and
    single rules by their names."""
    gateway = router.gateway
    parent: Object = {
        "group": GATEWAY_API,
        "kind": "Gateway",
        "name": gateway.name,
        "namespace": gateway.namespace,
    }
    if gateway.section:
        parent["sectionName"] = gateway.section
    head: Object = {"parentRefs": [parent]}
    if router.hostnames:
        head["hostnames"] = list(router.hostnames)
    emitted = []
    for route in routes:
        rules = [
            {
                **({"name": section.name} if named else {}),
                "matches": [_match(match) for match in section.matches],
                **content[section.rule],
            }
            for section in route
        ]
        one = made(
            f"{GATEWAY_API}/v1",
            "HTTPRoute",
            router.namespace,
            route[0].route,
            router.origin.at(""),
            spec={**head, "rules": rules},
        )
        if named:
            one.document["metadata"]["labels"] = label(router)
        emitted.append(one)
    return emitted


def label(router: Router) -> dict[str, str]:
    """Of all its HTTPRoutes, those of before as well: none that comes or goes is ever without its policy."""
    return {ROUTER: name_of(router.name)}


def blamed(router: Router, findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Errors are the router's: it is its objects that stay as they are."""
    return tuple(
        replace(one, origin=router.origin)
        if one.is_error and one.origin.whole != router.origin.object
        else one
        for one in findings
    )


def called(router: Router, rule: Rule) -> str:
    """The rule's name, with its number where several have it."""
    if sum(one.name == rule.name for one in router.rules) == 1:
        return rule.name
    return f"{rule.name}-{next(number for number, one in enumerate(router.rules) if one is rule)}"


def is_out(rule: Rule, backend: Backend) -> bool:
    """It gets no request: it is down, or has no share."""
    return bool(backend.down) or (rule.strategy is Strategy.WEIGHTED and not backend.weight)


def out_of_service(rule: Rule) -> list[Finding]:
    """Told where no backend can serve, though some were meant to."""
    if not rule.backends or not all(is_out(rule, one) for one in rule.backends):
        return []
    names = ", ".join(dict.fromkeys(one.name for one in rule.backends))
    return [
        warning(
            "NoBackendCanServe",
            rule.origin,
            f"none of {names} can serve: clients get 503 at once, and no other rule is tried",
            "; ".join(dict.fromkeys(f"{one.name}: {one.down or 'has weight 0'}" for one in rule.backends)),
        )
    ]


def renamed(rule: Rule, backend: Backend) -> str:
    """What ``backend`` calls the model, if that is not what clients call it already."""
    return "" if rule.models == (backend.model,) else backend.model


def attempt_timeout(rule: Rule) -> float:
    """[s] Of one attempt: the rule's, else the longest of its backends."""
    return rule.timeout or max(
        (one.timeout or DEFAULT_TIMEOUT for one in rule.backends), default=DEFAULT_TIMEOUT
    )


def shared_timeout(rule: Rule) -> list[Finding]:
    """Told where backends that want different limits have one."""
    wanted = {one.timeout or DEFAULT_TIMEOUT for one in rule.backends}
    if rule.timeout or len(wanted) < 2:
        return []
    return [
        warning(
            "TimeoutShared",
            rule.origin,
            f"rule {rule.name}: its backends have timeouts of their own, and an attempt has"
            f" {duration(max(wanted), plain=True)} whichever it is for",
            "give the rule one timeout, or each backend a rule",
        )
    ]


def grants(router: Router, references: Sequence[Object]) -> list[Emitted]:
    """What lets its routes name objects in other namespaces."""
    wanted: dict[str, set[tuple[str, str]]] = {}
    for one in references:
        where = one.get("namespace", router.namespace)
        if where != router.namespace:
            wanted.setdefault(where, set()).add((one["group"], one["kind"]))
    return [
        made(
            f"{GATEWAY_API}/v1beta1",
            "ReferenceGrant",
            namespace,
            name_of("routes", router.namespace, kind),
            router.origin.at(""),
            spec={
                "from": [{"group": GATEWAY_API, "kind": "HTTPRoute", "namespace": router.namespace}],
                "to": [{"group": group, "kind": kind}],
            },
        )
        for namespace, kinds in sorted(wanted.items())
        for group, kind in sorted(kinds)
    ]
