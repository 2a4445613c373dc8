"""Routers that take requests from each other: on one Gateway they are one list of rules.

Place:   after matches.py, before routes.py; epp.compiler.overlaps tells what is left.
Rule:    a model that a router names is the router's, whatever headers another one's rules ask for.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeAlias

from epp.compiler import order, overlaps
from epp.compiler.findings import Finding, error
from epp.compiler.intent import Router, is_glob
from epp.compiler.order import Match
from epp.compiler.patterns import EXACT, Matcher
from epp.compiler.targets.envoy_ai_gateway.matches import MODEL, MOST_HEADERS, strength

_OF_A_NAME = strength({MODEL: Matcher("some")})

Rules: TypeAlias = list[list[Match]]
"""The matches of each rule of a router."""


def settled(routers: Sequence[Router], found: Sequence[Rules]) -> tuple[list[Rules], list[Finding]]:
    """``found``, with the matches that keep the models that a router names from the others."""
    wide = _wide(routers, found)
    strong = [one for one in wide if strength(one[0]) > _OF_A_NAME]
    kept, loose = list[Rules](), list[Rules]()
    for router, rules in zip(routers, found, strict=True):
        names = (model for rule in router.rules for model in rule.models if not is_glob(model))
        models = list(dict.fromkeys(names))
        takes_more = any(not _names_model(match) for rule in rules for match in rule)
        others = [
            match
            for match, owners in (wide if takes_more else strong)
            if _may_be_of(match, models)
            and any(one is not router and overlaps.same_requests(one, router) for one in owners)
        ]
        try:
            kept.append(_kept(models, rules, others))
            loose.append([[one for one in rule if not _names_model(one)] for rule in rules])
        except order.Unordered:
            kept.append(rules)
            loose.append(rules)
    return kept, list(overlaps.told(routers, loose, model=MODEL, strength=strength))


def _wide(routers: Sequence[Router], found: Sequence[Rules]) -> list[tuple[Match, list[Router]]]:
    """Matches for more than a model by name, each once, with the routers that have it."""
    wide: dict[tuple[tuple[str, Matcher], ...], tuple[Match, list[Router]]] = {}
    for router, rules in zip(routers, found, strict=True):
        for match in (match for rule in rules for match in rule if not _names_model(match)):
            wide.setdefault(tuple(sorted(match.items())), (match, []))[1].append(router)
    return list(wide.values())


def _may_be_of(match: Match, models: Sequence[str]) -> bool:
    model = match.get(MODEL)
    return any(model is None or model.accepts(one) for one in models)


def _kept(models: Sequence[str], own: Rules, others: list[Match]) -> Rules:
    """``own``, and where requests for ``models`` fit one of ``others``, too, a match that is stronger.

    order.Unordered: there is none.
    """
    if not models or not others:
        return own
    foreign = {id(one) for one in others}
    strongest_first = sorted(others, key=strength, reverse=True)  # so that none of them needs more itself
    found = order.closure(
        [*([*_for(models, rule)] for rule in own), *([one] for one in strongest_first)],
        strength=lambda match: (*strength(match), id(match) in foreign),  # of a tie the older has it
        pivot=MODEL,
    )
    if any(strength(match)[0] > MOST_HEADERS for rule in found for match in rule):
        raise order.Unordered(f"more than {MOST_HEADERS} headers")
    return [_distinct([*rule, *more]) for rule, more in zip(own, found, strict=False)]


def _for(models: Sequence[str], rule: Sequence[Match]) -> Iterator[Match]:
    """A rule's matches for requests of ``models``."""
    for match in rule:
        if _names_model(match):
            yield match
        else:
            for model in models:
                yield from order.both(match, {MODEL: Matcher(model)})


def _names_model(match: Match) -> bool:
    model = match.get(MODEL)
    return model is not None and model.kind == EXACT


def _distinct(matches: Iterable[Match]) -> list[Match]:
    return list({tuple(sorted(match.items())): match for match in matches}.values())


def cannot_share(routers: Sequence[Router]) -> Iterator[Finding]:
    """Of a Gateway that tries rules in their order: everything ends at the oldest route's 404."""
    for at, router in enumerate(routers):
        older = next((one for one in routers[:at] if overlaps.same_requests(one, router)), None)
        if older:
            yield error(
                "RuleOrderNotExpressible",
                router.origin,
                "the Gateway's EnvoyProxy has preserveRouteOrder, so the route of"
                f" {older.origin.object}, which is older, answers 404 for all models that it does not have",
                "remove preserveRouteOrder, which nothing here needs; or give the router a hostname or a"
                " listener of its own",
            )
