"""Routers that take requests from each other: on one Gateway they are one list of rules.

Place:   before and after matches.py, before routes.py; epp.compiler.overlaps tells what is left.
Rule:    a model that a router names is the router's, whatever headers another one's rules ask for; but for
         the sensitive requests that an older router keeps whatever their model.

A name is kept by a match for it and the headers that another router's rule asks for. Of 200 teams with a rule
each that would be 200 for each name of the site: 240,000 at 1,200 names. So where rules for any model ask for
many values of one header, these values are spelled out as regular expressions, which are weaker than Exact
ones, and a match for the name with that header, whatever it says, comes before all of them.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from epp.compiler import order, overlaps
from epp.compiler.findings import Finding, error
from epp.compiler.http_routes import MOST_HEADERS
from epp.compiler.intent import Router, Rule
from epp.compiler.memory import Call, plainly
from epp.compiler.order import Match
from epp.compiler.overlaps import Where
from epp.compiler.patterns import ANYTHING, SPELLED, Matcher, literal
from epp.compiler.targets.envoy_ai_gateway.matches import MODEL, strength

MANY = 8
"""Values of one header that are told apart for each name."""
LARGEST = 4 * order.LARGEST
"""Matches of a Gateway that keep names from rules for any model; 8 for each of 1,200 names take 0.8 s."""

_OF_A_NAME = strength({MODEL: Matcher("some")})

Rules: TypeAlias = list[list[Match]]
"""The matches of each rule of a router."""


def crowded(routers: Sequence[Router], call: Call = plainly) -> frozenset[str]:
    """Headers of which rules for more than a model by name ask for many values.

    None of those that a rule asks for which keeps its requests: a name with such a header, whatever it says,
    would take them.
    """
    wide = [rule for router in routers for rule in call(_wide_rules, router)]
    values: dict[str, set[str]] = {}
    for condition in (one for rule in wide for one in rule.conditions):
        values.setdefault(condition.header, set()).update(condition.values)
    guarded = {one.header for rule in wide if rule.is_guarded for one in rule.conditions}
    return frozenset(name for name, found in values.items() if len(found) > MANY) - guarded - {MODEL}


def _wide_rules(router: Router) -> list[Rule]:
    return [rule for rule in router.rules if _is_wide(rule)]


def _is_wide(rule: Rule) -> bool:
    return not rule.models or any(literal(one) is None for one in rule.models)


def settled(
    routers: Sequence[Router], found: Sequence[Rules], call: Call = plainly
) -> tuple[list[Rules], list[Finding]]:
    """``found``, with the matches that keep the models that a router names from the others."""
    findings = list(overlaps.errors(routers, found, model=MODEL, strength=strength, call=call))
    refused = {one.origin.whole for one in findings}
    live = [at for at, one in enumerate(routers) if one.origin.whole not in refused]
    wide = _wide(routers, found, live, call)
    strong = [one for one in wide if one.tried.rank > _OF_A_NAME]
    kept, safe, room = list(found), set[int](), LARGEST
    for place, at in enumerate(live):
        own, where = call(_Own, routers[at], found[at]), overlaps.where(routers[at])
        near = [
            (one.tried, one.near(where))
            for one in (wide if own.wide else strong)
            if one.may_be_of(own.models)
        ]
        guards = [one for one, others in near if others.guard_from(at)]
        foreign = [one for one, others in near if others.may_lose_to(at)]
        if len(foreign) > room:
            continue
        made = call(_separated, routers[at], found[at], len(foreign), *foreign, *guards)
        if made is not None and made.added <= room:
            kept[at] = made.rules
            room -= made.added
            safe |= set() if guards else {place}
    left = [routers[at] for at in live], [kept[at] for at in live]
    findings += overlaps.told(*left, model=MODEL, strength=strength, names_kept=safe, call=call)
    return kept, findings


def _names(router: Router) -> list[str]:
    names = (name for rule in router.rules for name in map(literal, rule.models) if name is not None)
    return list(dict.fromkeys(names))


# --- matches for more than a model by name -----------------------------------------------------------------


class _Own:
    """Of a router: its ``models`` by name; and of each of its other matches the texts, and whether the rule
    keeps its requests."""

    __slots__ = ("models", "wide")

    def __init__(self, router: Router, found: Rules) -> None:
        self.models = _names(router)
        self.wide = [
            (_whatever_it_says(match), rule.is_guarded)
            for rule, matches in zip(router.rules, found, strict=True)
            for match in matches
            if not overlaps.names(MODEL, match)
        ]


@dataclass(frozen=True, slots=True)
class _Owners:
    """Places of routers, the oldest first. ``guarding``: of those with a rule that keeps its requests."""

    guarding: list[int] = field(default_factory=list)
    others: list[int] = field(default_factory=list)

    def guard_from(self, at: int) -> bool:
        """Whether one is older than the one at ``at``, and keeps its requests whatever their model."""
        return any(place < at for place in self.guarding[:1])

    def may_lose_to(self, at: int) -> bool:
        """Whether one is another than the one at ``at``, and none of those."""
        younger = any(place > at for place in (*self.guarding[-1:], *self.others[-1:]))
        return younger or any(place < at for place in self.others[:1])


@dataclass(frozen=True, slots=True)
class _Tried:
    """A match, and how strong it is."""

    match: Match
    rank: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Wide:
    """A match of several routers, or several matches that differ in crowded headers."""

    tried: _Tried
    owners: dict[Where, _Owners] = field(default_factory=dict)
    _near: dict[Where, _Owners] = field(default_factory=dict)

    def near(self, where: Where) -> _Owners:
        """Those that meet routers there."""
        if where not in self._near:
            met = [one for there, one in self.owners.items() if overlaps.meet(where, there)]
            self._near[where] = _Owners(
                sorted(at for one in met for at in one.guarding),
                sorted(at for one in met for at in one.others),
            )
        return self._near[where]

    def may_be_of(self, models: Sequence[str]) -> bool:
        """Whether it fits requests for one of ``models``."""
        model = self.tried.match.get(MODEL)
        return any(model is None or model.accepts(one) for one in models)


def _wide(routers: Sequence[Router], found: Sequence[Rules], live: Sequence[int], call: Call) -> list[_Wide]:
    """Each once, with the routers that have it; the strongest last."""
    wide: dict[tuple[str, ...], _Wide] = {}
    for at in live:
        where = overlaps.where(routers[at])
        for said, is_guarded in call(_Own, routers[at], found[at]).wide:
            one = wide.get(said) or wide.setdefault(said, _Wide(call(_tried, *said)))
            owners = one.owners.get(where) or one.owners.setdefault(where, _Owners())
            (owners.guarding if is_guarded else owners.others).append(at)
    return sorted(wide.values(), key=lambda one: one.tried.rank, reverse=True)[::-1]


def _whatever_it_says(match: Match) -> tuple[str, ...]:
    """The texts of one that is as strong, for all values of crowded headers."""
    matchers = ((name, ANYTHING if one.kind == SPELLED else one) for name, one in sorted(match.items()))
    return tuple(text for name, one in matchers for text in (name, one.value, one.kind))


def _tried(*texts: str) -> _Tried:
    match = {name: Matcher(*said) for name, *said in zip(texts[::3], texts[1::3], texts[2::3], strict=True)}
    return _Tried(match, strength(match))


# --- names kept from them ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Kept:
    """Rules with ``added`` matches more."""

    rules: Rules
    added: int


def _separated(router: Router, own: Rules, count: int, *near: _Tried) -> _Kept | None:
    """``own``, and where requests for its models fit one of ``count`` others, too, a match that is stronger;
    but none that takes requests of the guards, which come after the others. None: there are no such matches.
    """
    others, guards = near[:count], near[count:]
    models = _names(router)
    if not models or not others:
        return _Kept(own, 0)
    try:
        more = _stronger(models, own, others)
    except order.Unordered:
        return None
    takes = _takers(guards)
    found = [
        _distinct([*rule, *(one for one in added if not takes(one))])
        for rule, added in zip(own, more, strict=True)
    ]
    return _Kept(found, sum(map(len, found)) - sum(map(len, own)))


def _stronger(models: Sequence[str], own: Rules, others: Sequence[_Tried]) -> Rules:
    """Of ``own``, than ``others`` and than the rules after. order.Unordered: there are none."""
    found = order.closure(
        [[*_for(models, rule)] for rule in own],
        strength=strength,
        pivot=MODEL,
        after=[(one.match, (*one.rank, 1)) for one in others],  # of a tie nobody knows who has it
    )
    if any(strength(match)[0] > MOST_HEADERS for rule in found for match in rule):
        raise order.Unordered(f"more than {MOST_HEADERS} headers")
    return found


def _takers(guards: Sequence[_Tried]) -> Callable[[Match], bool]:
    """Whether a match takes requests of one of ``guards``."""
    near: order.Near[_Tried] = order.Near()
    for number, one in enumerate(guards):
        near.add(number, one.match, one)
    return lambda match: any(
        strength(match) >= one.rank and any(order.both(match, one.match)) for one in near.to(match)
    )


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
