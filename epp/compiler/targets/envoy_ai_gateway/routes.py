"""A router's rules as AIGatewayRoutes: as few as their limits and their differences allow.

Place:   puts together what matches.py, backends.py, traffic.py and budgets.py make of the rules.
Rule:    matches of equal strength are tried in the order of their routes' age, and routes that are made in
         one second in the order of their names. So a rule never stands in an earlier route than one before it
         that it ties with, the names of a router's routes count up, and routes come and go at the end.

What in an input stands for itself, as a model of a fleet, has a route of its own where nothing ties it to
others: a fault of one then stops no other.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from epp.compiler import order
from epp.compiler.durations import duration
from epp.compiler.emission import Emitted, Object, made
from epp.compiler.findings import Origin
from epp.compiler.http_routes import MOST_AI_RULES, MOST_IN_AI_ROUTE, MOST_MATCHES
from epp.compiler.intent import Router
from epp.compiler.names import name_of, numbered
from epp.compiler.options import Options, Target
from epp.compiler.order import Match
from epp.compiler.targets.envoy_ai_gateway import matches as headers
from epp.compiler.targets.envoy_ai_gateway import traffic
from epp.compiler.targets.envoy_ai_gateway.backends import Plan
from epp.compiler.targets.envoy_ai_gateway.budgets import COSTS, Limits
from epp.compiler.targets.envoy_ai_gateway.providers import API
from epp.compiler.targets.envoy_ai_gateway.traffic import Traffic

RESERVED = "route-not-found"


@dataclass(frozen=True, slots=True)
class Placed:
    """Some of the matches of one rule."""

    number: int
    plan: Plan
    matches: tuple[Match, ...]


@dataclass(slots=True)
class Route:
    """One AIGatewayRoute while it is filled. ``part``: of the input that it is for; empty: of all."""

    name: str
    traffic: Traffic
    limits: tuple[Object, ...]
    rules: list[Placed] = field(default_factory=list)

    def room(self) -> int:
        """For how many matches of one more rule."""
        if len(self.rules) == MOST_AI_RULES:
            return 0
        return min(MOST_MATCHES, MOST_IN_AI_ROUTE - sum(len(one.matches) for one in self.rules))

    @property
    def longest(self) -> float:
        """[s] That a request of one of its rules may take."""
        return max(one.plan.traffic.longest for one in self.rules)

    @property
    def sources(self) -> tuple[Origin, ...]:
        return tuple(dict.fromkeys(one.plan.rule.origin.at("") for one in self.rules))


def packed(
    router: Router, plans: Sequence[Plan], found: Sequence[Sequence[Match]], limits: Limits, *, in_order: bool
) -> list[Route]:
    """The routes, the one to be made first first. ``found``: the matches of each rule.

    Refused: the order of the rules cannot be kept.
    """
    routes = _Packer(router, plans, limits, found, apart=not in_order).routes
    if in_order and len(routes) > 1:
        why = f"{len(routes)} routes are needed, and the first answers 404 for the others"
        raise headers.refusal(router, why, in_order=True)
    tried = [
        (one.number, match)
        for route in sorted(routes, key=lambda one: one.name)
        for one in route.rules
        for match in one.matches
    ]
    wrong = headers.misplaced(tried, in_order=in_order)
    if wrong:
        earlier, later = (router.rules[one].name for one in wrong)
        why = f"requests of rule {earlier} would be taken by rule {later}"
        raise headers.refusal(router, why, in_order=in_order)
    return routes


class _Packer:
    """Puts rules into routes, each into the first that it may be in."""

    def __init__(
        self,
        router: Router,
        plans: Sequence[Plan],
        limits: Limits,
        found: Sequence[Sequence[Match]],
        *,
        apart: bool,
    ) -> None:
        self.routes: list[Route] = []
        self._router = router
        self._limits = limits
        self._groups: dict[str, list[Route]] = {}
        self._apart = apart
        self._tied = _Tied(found)
        for number, plan in enumerate(plans):
            self._place(number, plan, tuple(found[number]))

    def _place(self, number: int, plan: Plan, rest: tuple[Match, ...]) -> None:
        part = plan.rule.origin.part if self._apart and not self._tied.to(number) else ""
        routes = self._groups.setdefault(part, [])
        limits = self._limits.of_rule(plan.rule)
        shared = self._limits.traffic or plan.traffic
        first = self._first(number, routes) if not part else 0
        while rest:
            route = next((one for one in routes[first:] if self._fits(one, shared, limits)), None)
            if route is None:
                route = Route(self._name(part, len(routes)), shared, limits)
                routes.append(route)
                self.routes.append(route)
            room = route.room()
            route.rules.append(Placed(number, plan, rest[:room]))
            rest = rest[room:]

    def _fits(self, route: Route, shared: Traffic, limits: tuple[Object, ...]) -> bool:
        return route.traffic == shared and route.limits == limits and route.room() > 0

    def _first(self, number: int, routes: Sequence[Route]) -> int:
        """The first route that is not older than one with an earlier rule that this one ties with."""
        tied = self._tied.to(number)
        places = [at for at, route in enumerate(routes) if any(one.number in tied for one in route.rules)]
        return max(places, default=0)

    def _name(self, part: str, count: int) -> str:
        if not part:
            return numbered(self._router.name, count)
        return name_of(self._router.name, part, *([f"{count:02}"] if count else []))


class _Tied:
    """Rules with matches of equal strength that a request can fit both of: the older decides."""

    def __init__(self, found: Sequence[Sequence[Match]]) -> None:
        self._ties: dict[int, set[int]] = {}
        by_strength: dict[tuple[int, ...], order.Near[tuple[int, Match]]] = {}
        placed = [(number, match) for number, matches in enumerate(found) for match in matches]
        for place, (number, match) in enumerate(placed):
            near = by_strength.setdefault(headers.strength(match), order.Near())
            for other, met in near.to(match):
                if number != other and other not in self.to(number):
                    self._add(number, match, other, met)
            near.add(place, match, (number, match))

    def _add(self, number: int, match: Match, other: int, met: Match) -> None:
        try:
            meets = any(order.both(match, met))
        except order.Unordered:
            meets = True
        if meets:
            self._ties.setdefault(number, set()).add(other)
            self._ties.setdefault(other, set()).add(number)

    def to(self, number: int) -> set[int]:
        """The rules that ``number`` ties with."""
        return self._ties.get(number, set())


# --- as objects ----------------------------------------------------------------------------------------


def objects(router: Router, routes: Sequence[Route], limits: Limits, options: Options) -> Iterator[Emitted]:
    """The routes, and the policies that say how their requests are tried."""
    for route in routes:
        yield _route(router, route, options, has_costs=limits.need_costs or router.audit)
    for name, sharing in _policies(routes, limits):
        yield traffic.policy(
            router.namespace,
            name,
            routes=[one.name for one in sharing],
            traffic=sharing[0].traffic,
            longest=max(one.longest for one in sharing),
            limits=[*limits.shared, *sharing[0].limits],
            sources=tuple(dict.fromkeys(source for one in sharing for source in one.sources)),
        )


def _policies(routes: Sequence[Route], limits: Limits) -> Iterable[tuple[str, Sequence[Route]]]:
    """A budget that counts for several routes together is in one policy for all of them."""
    if limits.shared and routes:
        return [(routes[0].name, routes)]
    return [(one.name, [one]) for one in routes]


def _route(router: Router, route: Route, options: Options, *, has_costs: bool) -> Emitted:
    parent: Object = {
        "group": "gateway.networking.k8s.io",
        "kind": "Gateway",
        "name": router.gateway.name,
        "namespace": router.gateway.namespace,
    }
    if router.gateway.section:
        parent["sectionName"] = router.gateway.section
    spec: Object = {"parentRefs": [parent]}
    if router.hostnames:
        spec["hostnames"] = list(router.hostnames)
    spec["rules"] = list(_rules(route, options.target))
    if has_costs:
        spec["llmRequestCosts"] = COSTS
    return made(API, "AIGatewayRoute", router.namespace, route.name, *route.sources, spec=spec)


def _rules(route: Route, target: Target) -> Iterator[Object]:
    seen: set[str] = set()
    for one in route.rules:
        rule: Object = {}
        if target is Target.ENVOY_AI_GATEWAY_1_1:
            rule["name"] = _rule_name(one.plan.rule.name, len(seen), seen)
        rule["matches"] = [headers.written(match) for match in one.matches]
        rule["backendRefs"] = list(one.plan.refs)
        rule["timeouts"] = {"request": duration(one.plan.traffic.longest)}
        if target is Target.ENVOY_AI_GATEWAY_1_1:  # else a server that dies amid a stream holds it till then
            rule["streamIdleTimeout"] = duration(one.plan.traffic.timeout)
        yield rule


def _rule_name(wanted: str, count: int, seen: set[str]) -> str:
    """Unique in the route, and not the gateway's own."""
    name = name_of(wanted)
    if name in seen or name == RESERVED:
        name = name_of(wanted, str(count))
    seen.add(name)
    return name
