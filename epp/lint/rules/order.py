"""Which rule a request gets: Envoy Gateway sorts them, whatever order they are written in."""

from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import TypeAlias

from epp.compiler.findings import Severity
from epp.compiler.gateways import envoy_proxy
from epp.compiler.node import Node
from epp.compiler.order import by_exact_values
from epp.lint.rule import Trap, rule
from epp.lint.view import Object, View

Headers: TypeAlias = Mapping[str, tuple[str, str]]
"""Of a match: type and value by name in lower case."""


@rule(Severity.WARNING, "a later rule is tried first")
def rules_reordered(view: View) -> Iterator[Trap]:
    """Rules are sorted by the number of their header matches, then of the exact ones; order breaks ties only.

    A rule for a sensitive class (one header), written first, comes after a rule for a team and its model (two
    headers): what is both leaves the rule that was to keep it inside. Told where two rules of a route lead to
    different backends, share requests and the later one is not just a special case of the earlier.
    EnvoyProxy's preserveRouteOrder keeps the order as written.
    """
    for route in view.of("AIGatewayRoute"):
        if not any(_sorts(view, gateway) for gateway in view.gateways(route)):
            continue
        rules = list(route.spec["rules"])
        for first, second in combinations(rules, 2):
            alike = [match for one in rules if _leads_to(one) == _leads_to(first) for match in _matches(one)]
            if _leads_to(first) != _leads_to(second) and _overtakes(first, second, alike):
                yield Trap(
                    route,
                    second["matches"],
                    f"has more headers than {first.field}, so requests that both match come here",
                    f"add the headers of {first.field} with its backends as a rule of its own, or set"
                    " preserveRouteOrder: true in the Gateway's EnvoyProxy",
                )


def _sorts(view: View, gateway: Object) -> bool:
    """Whether it certainly does; its EnvoyProxy, or that of its class, may say otherwise."""
    class_of = view.find("GatewayClass", "", gateway.spec["gatewayClassName"].text)
    if class_of is None:
        return False
    ref = envoy_proxy(gateway.spec, gateway.namespace, class_of.spec)
    if ref is None:
        return True
    proxy = view.found(ref)
    return proxy is not None and not proxy.spec["preserveRouteOrder"].is_true


def _leads_to(rule_of: Node) -> list[tuple[str, str, str]]:
    return [(ref["kind"].text, ref["namespace"].text, ref["name"].text) for ref in rule_of["backendRefs"]]


def _matches(rule_of: Node) -> list[Headers]:
    """No match at all is one of everything."""
    found = [
        {
            header["name"].text.lower(): (header["type"].text or "Exact", header["value"].text)
            for header in match["headers"]
        }
        for match in rule_of["matches"]
    ]
    return list(found) or [{}]


def _rank(headers: Headers) -> tuple[int, int]:
    return by_exact_values([kind == "Exact" for kind, _ in headers.values()])


def _overtakes(first: Node, second: Node, alike: list[Headers]) -> bool:
    """Whether some requests that match both go to the second. ``alike``: what leads where the first does."""
    return any(
        _rank(later) > _rank(earlier)
        and _may_meet(earlier, later)
        and not earlier.items() <= later.items()
        and not any(
            _rank(other) > _rank(later) and other.items() <= {**later, **earlier}.items() for other in alike
        )
        for earlier in _matches(first)
        for later in _matches(second)
    )


def _may_meet(one: Headers, other: Headers) -> bool:
    """Whether a request can have both; two patterns perhaps."""
    return all(
        one[name] == other[name] or "Exact" not in {one[name][0]} & {other[name][0]}
        for name in one.keys() & other.keys()
    )


@rule(Severity.WARNING, "a default that an older route shadows")
def default_shadowed(view: View) -> Iterator[Trap]:
    """The controller ends every AIGatewayRoute with a catch-all, "route-not-found", which answers 404.

    A rule without headers has no more than that catch-all has, and between equals the older route wins. So
    the default of a younger route on the same Gateway and hostnames is never reached: unknown models get 404
    although somebody has declared where they are to go.
    """
    routes = list(view.of("AIGatewayRoute"))
    for route in routes:
        for one in route.spec["rules"]:
            if all(_matches(one)):
                continue
            other = next((other for other in routes if _shadows(view, other, route)), None)
            if other is not None:
                older = "is older" if other.origin.created else "may become the older one"
                yield Trap(
                    route,
                    one["matches"],
                    f"has no header, and {other.title} {older}: then its catch-all answers 404 to what this"
                    " rule is for",
                    "put the default into the oldest route of the Gateway, or give its models names",
                )


def _shadows(view: View, other: Object, route: Object) -> bool:
    """Whether the other's catch-all comes first, or may do, for some of the same requests."""
    if other is route or (other.origin.age > route.origin.age and other.origin.created):
        return False
    shared = {ref[1:3] for ref in view.parents(other)} & {ref[1:3] for ref in view.parents(route)}
    hosts = [{host.text for host in one.spec["hostnames"]} for one in (other, route)]
    return bool(shared) and (not all(hosts) or bool(hosts[0] & hosts[1]))
