"""Routers that take requests from each other: on one Gateway they are one list of rules.

Place:   after matches.py, before routes.py; epp.compiler.overlaps tells what is left.
Rule:    a model that a router names is the router's, whatever headers another one's rules ask for; but for
         the sensitive requests that an older router keeps whatever their model.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeAlias

from epp.compiler import order, overlaps
from epp.compiler.findings import Finding, error
from epp.compiler.intent import Router
from epp.compiler.order import Match
from epp.compiler.patterns import Matcher, literal
from epp.compiler.targets.envoy_ai_gateway.matches import MODEL, MOST_HEADERS, strength

_OF_A_NAME = strength({MODEL: Matcher("some")})

Rules: TypeAlias = list[list[Match]]
"""The matches of each rule of a router."""
_Owner: TypeAlias = tuple[int, bool]
"""Place of a router, and whether a match there is of a rule that keeps its requests."""


def settled(routers: Sequence[Router], found: Sequence[Rules]) -> tuple[list[Rules], list[Finding]]:
    """``found``, with the matches that keep the models that a router names from the others."""
    early = overlaps.told(routers, found, model=MODEL, strength=strength, names_kept=True)
    findings = [one for one in early if one.is_error]
    refused = {one.origin.whole for one in findings}
    live = [at for at, one in enumerate(routers) if one.origin.whole not in refused]
    wide = _wide(routers, found, live)
    strong = [one for one in wide if strength(one[0]) > _OF_A_NAME]
    kept = list(found)
    for at in live:
        rules, models = found[at], list(dict.fromkeys(_names(routers[at])))
        takes_more = any(not overlaps.names(MODEL, match) for rule in rules for match in rule)
        near = [
            (match, others)
            for match, owners in (wide if takes_more else strong)
            if _may_be_of(match, models) and (others := _others(owners, at, routers))
        ]
        guards = [match for match, others in near if any(_is_guard(one, at) for one in others)]
        foreign = [match for match, others in near if not all(_is_guard(one, at) for one in others)]
        kept[at] = _kept(models, rules, foreign, guards)
    left = [routers[at] for at in live], [kept[at] for at in live]
    findings += overlaps.told(*left, model=MODEL, strength=strength)
    return kept, findings


def _names(router: Router) -> Iterator[str]:
    for rule in router.rules:
        yield from (name for name in map(literal, rule.models) if name is not None)


def _wide(
    routers: Sequence[Router], found: Sequence[Rules], live: Sequence[int]
) -> list[tuple[Match, list[_Owner]]]:
    """Matches for more than a model by name, each once, with the routers that have it."""
    wide: dict[tuple[tuple[str, Matcher], ...], tuple[Match, list[_Owner]]] = {}
    for at in live:
        for rule, matches in zip(routers[at].rules, found[at], strict=True):
            for match in (one for one in matches if not overlaps.names(MODEL, one)):
                _, owners = wide.setdefault(tuple(sorted(match.items())), (match, []))
                owners.append((at, rule.is_guarded))
    return list(wide.values())


def _others(owners: Sequence[_Owner], at: int, routers: Sequence[Router]) -> list[_Owner]:
    """Those that meet the router at ``at``."""
    return [one for one in owners if one[0] != at and overlaps.same_requests(routers[one[0]], routers[at])]


def _is_guard(owner: _Owner, at: int) -> bool:
    """Whether a match is an older router's, which keeps its requests whatever their model."""
    place, is_guarded = owner
    return is_guarded and place < at


def _may_be_of(match: Match, models: Sequence[str]) -> bool:
    model = match.get(MODEL)
    return any(model is None or model.accepts(one) for one in models)


def _kept(models: Sequence[str], own: Rules, others: list[Match], guards: list[Match]) -> Rules:
    """``own``, and where requests for ``models`` fit one of ``others``, too, a match that is stronger; but
    none that takes requests of ``guards``. ``own`` alone where there are no such matches.
    """
    if not models or not others:
        return own
    try:
        return [
            _distinct([*rule, *(one for one in more if not _takes(one, guards))])
            for rule, more in zip(own, _stronger(models, own, others), strict=False)
        ]
    except order.Unordered:
        return own


def _stronger(models: Sequence[str], own: Rules, others: list[Match]) -> Rules:
    """Of ``own`` and then of ``others``. order.Unordered: there are none."""
    foreign = {id(one) for one in others}
    strongest_first = sorted(others, key=strength, reverse=True)  # so that none of them needs more itself
    found = order.closure(
        [*([*_for(models, rule)] for rule in own), *([one] for one in strongest_first)],
        strength=lambda match: (*strength(match), id(match) in foreign),  # of a tie nobody knows who has it
        pivot=MODEL,
    )
    if any(strength(match)[0] > MOST_HEADERS for rule in found for match in rule):
        raise order.Unordered(f"more than {MOST_HEADERS} headers")
    return found


def _takes(match: Match, guards: Sequence[Match]) -> bool:
    return any(strength(match) >= strength(one) and any(order.both(match, one)) for one in guards)


def _for(models: Sequence[str], rule: Sequence[Match]) -> Iterator[Match]:
    """A rule's matches for requests of ``models``."""
    for match in rule:
        if overlaps.names(MODEL, match):
            yield match
        else:
            for model in models:
                yield from order.both(match, {MODEL: Matcher(model)})


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
