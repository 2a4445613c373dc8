"""Which requests a rule is for, as headers, and in which order Envoy Gateway tries them.

Place:   between epp.compiler.order, which keeps the first rule first, and routes.py.
Rule:    every match asks for the model's header, with any value where the rule does not care: each
         AIGatewayRoute ends with a match for everything that answers 404, and of two matches without headers
         that of the older route counts.
Source:  Envoy Gateway: more headers first, then more Exact values, then the older HTTPRoute, then the order
         in it. With preserveRouteOrder of an EnvoyProxy: the older HTTPRoute, then the order in it.
"""

import re
from collections.abc import Collection, Sequence
from typing import TypeAlias

from epp.compiler import order, overlaps
from epp.compiler.emission import Object
from epp.compiler.findings import quoted
from epp.compiler.http_routes import MOST_HEADERS, is_value
from epp.compiler.intent import Router, Rule
from epp.compiler.options import AI_MODEL_HEADER
from epp.compiler.order import Match
from epp.compiler.patterns import EXACT, SPELLED, Matcher
from epp.compiler.targets.envoy_ai_gateway.refused import Refused

MODEL = AI_MODEL_HEADER

_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+\-.^_`|~]{1,256}", re.ASCII)


def strength(match: Match) -> tuple[int, ...]:
    """The larger is tried first."""
    are_exact = [_is_exact(one) for one in match.values()]
    return order.by_exact_values(are_exact if MODEL in match else [False, *are_exact])


def of_rules(router: Router, *, in_order: bool, crowded: Collection[str] = ()) -> list[list[Match]]:
    """The matches of each rule with which the first rule that fits decides. None: no request ever gets there.

    ``in_order``: the gateway tries them as they are written. ``crowded``: headers whose values are spelled
    out, where a match names no model. Refused: it cannot be done.
    """
    try:
        plain = [
            [_spelled(match, crowded) for match in order.alternatives(rule, MODEL)] for rule in router.rules
        ]
        _check_own(router, plain)
        found = plain if in_order else order.closure(plain, strength=strength, pivot=MODEL)
    except order.Unordered as fault:
        raise refusal(router, str(fault), in_order=in_order) from fault
    for rule, matches in zip(router.rules, found, strict=True):
        widest = max((strength(match)[0] for match in matches), default=0)
        if widest > MOST_HEADERS:
            why = f"rule {rule.name} needs {widest} headers in a match, of {MOST_HEADERS} that there can be"
            raise refusal(router, why, in_order=in_order)
        _check(rule, matches)
    return found


def _spelled(match: Match, crowded: Collection[str]) -> Match:
    """Weaker than one that names a model as well."""
    if overlaps.names(MODEL, match):
        return match
    return {
        name: Matcher(one.value, SPELLED) if name in crowded and _is_exact(one) else one
        for name, one in match.items()
    }


def _check_own(router: Router, plain: Sequence[Sequence[Match]]) -> None:
    """Refused: a rule by itself asks for too much, whatever the others do."""
    for rule, matches in zip(router.rules, plain, strict=True):
        own = max((strength(match)[0] for match in matches), default=0)
        if own > MOST_HEADERS:
            raise Refused(
                "TooManyHeaders",
                rule.origin,
                f"rule {rule.name} asks for {own} headers, the model's among them, and a match has"
                f" {MOST_HEADERS} at most",
                "ask for fewer headers",
            )


def _check(rule: Rule, matches: Sequence[Match]) -> None:
    """Refused: a name or a value is none that an HTTPRoute, which is made of the AIGatewayRoute, can have."""
    for header in (header for match in matches for header in written(match)["headers"]):
        name, value = header["name"], header["value"]
        if not _NAME.fullmatch(name) or not is_value(value):
            raise Refused(
                "UnsupportedMatchInGatewayMode",
                rule.origin,
                f"header {quoted(name)} with {quoted(value)} is none that an HTTPRoute can name",
                "rename it, or choose by another header",
            )


def refusal(router: Router, why: str, *, in_order: bool) -> Refused:
    """The order of the router's rules cannot be kept."""
    if in_order:
        return Refused(
            "RuleOrderNotExpressible",
            router.origin.at(_listed(router)),
            f"the Gateway's EnvoyProxy has preserveRouteOrder: {why}",
            "remove preserveRouteOrder; or have fewer rules, and one timeout for all",
        )
    return Refused(
        "RuleOrderNotExpressible",
        router.origin.at(_listed(router)),
        f"the gateway tries rules with more headers first, which cannot be made up for: {why}",
        "let earlier rules match on as many headers as later ones, or match on less in all: fewer names and"
        " aliases, or some of them at another hostname; or set preserveRouteOrder in the Gateway's"
        " EnvoyProxy",
    )


def _listed(router: Router) -> str:
    """The list that its rules are in: ``spec.rules``, or ``models`` of a fleet."""
    fields = (rule.origin.field.partition("[") for rule in router.rules)
    return next((name for name, bracket, _ in fields if bracket), "")


def written(match: Match) -> Object:
    """As in an AIGatewayRoute."""
    model = match.get(MODEL)
    headers = [_header(MODEL, model) if model else _regex(MODEL, ".*")]
    return {"headers": [*headers, *(_header(name, match[name]) for name in sorted(match) if name != MODEL)]}


def _header(name: str, matcher: Matcher) -> Object:
    if _is_exact(matcher):
        return {"type": "Exact", "name": name, "value": matcher.value}
    return _regex(name, matcher.regex)


def _is_exact(matcher: Matcher) -> bool:
    """An Exact value has at least one character."""
    return matcher.kind == EXACT and bool(matcher.value)


def _regex(name: str, value: str) -> Object:
    return {"type": "RegularExpression", "name": name, "value": value}


# --- looked at once more, as the gateway will -----------------------------------------------------------


Placed: TypeAlias = tuple[int, Match]
"""A match, and the number of its rule."""


def misplaced(tried: Sequence[Placed], *, in_order: bool) -> tuple[int, int] | None:
    """Two rules of which the gateway, which has the matches in this order, takes the wrong one.

    That is: a match of the later rule is tried first, requests fit both, and no match of the earlier rule, or
    of one before it, that is tried still sooner has all of these requests.
    """
    ranked = list(tried) if in_order else sorted(tried, key=lambda one: strength(one[1]), reverse=True)
    near: order.Near[int] = order.Near()
    for place, (_, match) in enumerate(ranked):
        near.add(place, match, place)
    for place, (rule, match) in enumerate(ranked):
        for other in near.to(match):
            earlier, late = ranked[other]
            if other < place or earlier >= rule:
                continue
            for met in order.both(match, late):
                sooner = (ranked[at] for at in near.to(met) if at < place)
                if not any(one <= earlier and order.covers(had, met) for one, had in sooner):
                    return earlier, rule
    return None
