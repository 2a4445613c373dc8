"""Rules that are tried in their order, for gateways that try the most particular match first.

Place:   for all of targets/; how a gateway sorts is its ``strength``.
Rule:    where a later rule has a stronger match, the earlier one gets one for the requests that fit both.
         Matches of equal strength keep the order of the rules, so that the first rule that fits decides.
Source:  Gateway API, HTTPRouteRule: of matches of one path the one with more headers, then the oldest
         route, then the first in the route. Envoy Gateway compares the number of exact values before age.

``closure(alternatives of each rule, strength, pivot)`` is all that a target needs, ``split`` for its limits.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

from epp.compiler.findings import Finding, warning
from epp.compiler.intent import Router, Rule
from epp.compiler.patterns import EXACT, Matcher, of_model, of_value

LARGEST = 4096
"""Matches of one router; each is some 100 bytes, and an object in Kubernetes has at most 1.5 MB."""

Match: TypeAlias = Mapping[str, Matcher]
"""What the headers of a request must be, by name in lower case; empty: whatever they are."""

Strength: TypeAlias = Callable[[Match], tuple[int, ...]]


Item = TypeVar("Item")


class Unordered(ValueError):
    """The order cannot be kept; the text says why."""


def by_headers(match: Match) -> tuple[int, ...]:
    """As the Gateway API has it."""
    return (len(match),)


def by_exact_values(are_exact: Sequence[bool]) -> tuple[int, int]:
    """As Envoy Gateway has it, of a match with these headers: whether the value of each is Exact."""
    return len(are_exact), sum(are_exact)


def alternatives(rule: Rule, model_header: str) -> list[Match]:
    """One of these must fit a request of ``rule``: a match for each model and value. None: no request can."""
    found: list[Match] = [{}]
    if rule.models:
        found = [{model_header: of_model(model)} for model in rule.models]
    for condition in rule.conditions:
        values: list[Match] = [
            {condition.header: of_value(value, ignore_case=condition.ignore_case)}
            for value in condition.values
        ]
        if len(found) * len(values) > LARGEST:
            raise Unordered(f"more than {LARGEST} combinations of models and header values")
        found = [joined for one, other in itertools.product(found, values) for joined in both(one, other)]
    return _without_covered(found)


def unreached(router: Router, found: Sequence[Sequence[Match]]) -> Iterator[Finding]:
    """Of rules without matches; one that only refuses is of no use then, and nobody's fault."""
    for rule, matches in zip(router.rules, found, strict=True):
        if rule.backends and not matches:
            yield warning(
                "RuleNeverReached",
                rule.origin,
                f"rule {rule.name}: every request that fits it fits an earlier rule",
                "remove it, or put it before the other",
            )


def both(one: Match, other: Match) -> Iterator[Match]:
    """For the requests that fit both; usually one match, none where no request does."""
    shared = [name for name in one if name in other]
    for met in itertools.product(*(_meet(name, one[name], other[name]) for name in shared)):
        yield {**one, **other, **dict(zip(shared, met, strict=True))}


def _meet(name: str, one: Matcher, other: Matcher) -> tuple[Matcher, ...]:
    try:
        return one.meet(other)
    except ValueError as error:
        raise Unordered(f"header {name}: {error}") from None


def covers(one: Match, other: Match) -> bool:
    """Every request of ``other`` fits ``one``; False where that is not certain."""
    return all(name in other and matcher.covers(other[name]) for name, matcher in one.items())


class Near(Generic[Item]):
    """Items, found by matches that may share requests with theirs.

    Two that ask for different values of one header share none and are not compared: so 4,000 rules for a team
    each are put in order in 0.3 s.
    """

    __slots__ = ("_below", "_items")

    def __init__(self) -> None:
        self._items: dict[int, Item] = {}
        self._below: dict[str, dict[str, Near[Item]]] = {}

    def add(self, number: int, match: Match, item: Item) -> None:
        self._at(match)._items[number] = item

    def drop(self, number: int, match: Match) -> None:
        del self._at(match)._items[number]

    def to(self, match: Match) -> list[Item]:
        """In the order of their numbers."""
        return [item for _, item in sorted(self._found(dict(_texts(match))), key=lambda one: one[0])]

    def _at(self, match: Match) -> "Near[Item]":
        place = self
        for name, value in _texts(match):
            values = place._below.setdefault(name, {})
            place = values.get(value) or values.setdefault(value, Near())
        return place

    def _found(self, texts: Mapping[str, str]) -> Iterator[tuple[int, Item]]:
        yield from self._items.items()
        for name, values in self._below.items():
            wanted = texts.get(name)
            places = values.values() if wanted is None else [values[wanted]] if wanted in values else []
            for place in places:
                yield from place._found(texts)


def _texts(match: Match) -> list[tuple[str, str]]:
    return sorted((name, one.value) for name, one in match.items() if one.is_text)


def closure(
    rules: Sequence[Sequence[Match]],
    *,
    strength: Strength = by_headers,
    pivot: str = "",
    after: Iterable[tuple[Match, tuple[int, ...]]] = (),
) -> list[list[Match]]:
    """The matches of each rule with which a gateway that sorts them by ``strength`` decides in this order.

    A rule with none is never reached. ``pivot``: a header that most matches have with an exact value, the
    model's: with it 1,000 rules are compared in 0.1 s. ``after``: matches of others that come after all of
    these, and how strong they are; ``rules`` then have an exact ``pivot`` in every match, others in none.
    Unordered: it cannot be done.
    """
    later = _Later(pivot)
    for match, rank in after:
        later.add(_Tried(len(rules), match, rank))
    kept: list[list[Match]] = [[] for _ in rules]
    for index in reversed(range(len(rules))):
        own = _without_covered(rules[index])
        added: list[Match] = []
        for match in own:
            rank = strength(match)
            for other in later.that_may_meet(match):
                if covers(match, other.match):
                    later.drop(other)
                elif rank < other.rank:
                    added += both(match, other.match)
        kept[index] = _distinct([*own, *added])
        if sum(map(len, kept)) > LARGEST:
            raise Unordered(f"more than {LARGEST} matches")
        for match in kept[index]:
            later.add(_Tried(index, match, strength(match)))
    return [[match for match in kept[index] if later.has(index, match)] for index in range(len(rules))]


@dataclass(frozen=True, slots=True, eq=False)
class _Tried:
    """A match of rule ``rule``, and how strong it is."""

    rule: int
    match: Match
    rank: tuple[int, ...]


class _Later:
    """Matches of the rules that come later, found by the value of ``pivot`` and then by all others."""

    def __init__(self, pivot: str) -> None:
        self._pivot = pivot
        self._by_value: dict[str, Near[_Tried]] = {}
        self._others: Near[_Tried] = Near()
        self._count = itertools.count()
        self._numbers: dict[tuple[int, int], int] = {}

    def add(self, one: _Tried) -> None:
        number = self._numbers[one.rule, id(one.match)] = next(self._count)
        self._place(one.match).add(number, one.match, one)

    def has(self, rule: int, match: Match) -> bool:
        return (rule, id(match)) in self._numbers

    def drop(self, one: _Tried) -> None:
        number = self._numbers.pop((one.rule, id(one.match)), None)
        if number is not None:
            self._place(one.match).drop(number, one.match)

    def that_may_meet(self, match: Match) -> list[_Tried]:
        value = match.get(self._pivot)
        places: Iterable[Near[_Tried]]
        if value and value.kind == EXACT:
            here = self._by_value.get(value.value)
            places = [self._others] if here is None else [here, self._others]
        else:
            places = [*self._by_value.values(), self._others]
        return [found for place in places for found in place.to(match)]

    def _place(self, match: Match) -> Near[_Tried]:
        value = match.get(self._pivot)
        if value and value.kind == EXACT:
            return self._by_value.setdefault(value.value, Near())
        return self._others


def _distinct(matches: Iterable[Match]) -> list[Match]:
    return list({tuple(sorted(match.items())): match for match in reversed(list(matches))}.values())[::-1]


def _without_covered(matches: Iterable[Match]) -> list[Match]:
    """Those that say something that no other of the same rule says."""
    distinct = _distinct(matches)
    longest = max(map(len, distinct), default=0)
    broad: list[Match] = []
    kept: set[int] = set()
    for match in sorted(distinct, key=len):
        if any(covers(one, match) for one in broad):
            continue
        kept.add(id(match))
        if len(match) < longest or not _is_exact(match):
            broad.append(match)
    return [match for match in distinct if id(match) in kept]


def _is_exact(match: Match) -> bool:
    return all(one.kind == EXACT for one in match.values())


@dataclass(frozen=True, slots=True)
class Share(Generic[Item]):
    """Some of the matches of rule ``rule``."""

    rule: int
    matches: tuple[Item, ...]


def split(
    rules: Sequence[Sequence[Item]], *, rules_per_route: int, matches_per_rule: int, matches_per_route: int
) -> list[list[Share[Item]]]:
    """Routes with as much as fits into each, in order. A rule that is too large stands in several places."""
    routes: list[list[Share[Item]]] = []
    room = 0
    for index, matches in enumerate(rules):
        rest = tuple(matches)
        while rest:
            if not routes or not room or len(routes[-1]) == rules_per_route:
                routes.append([])
                room = matches_per_route
            count = min(len(rest), matches_per_rule, room)
            routes[-1].append(Share(index, rest[:count]))
            rest, room = rest[count:], room - count
    return routes
