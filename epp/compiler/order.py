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

from epp.compiler.intent import Rule
from epp.compiler.patterns import EXACT, Matcher, of_model, of_value

LARGEST = 4096
"""Matches of one router; each is some 100 bytes, and an object in Kubernetes has at most 1.5 MB."""

Match: TypeAlias = Mapping[str, Matcher]
"""What the headers of a request must be, by name in lower case; empty: whatever they are."""

Strength: TypeAlias = Callable[[Match], tuple[int, ...]]


class Unordered(ValueError):
    """The order cannot be kept; the text says why."""


def by_headers(match: Match) -> tuple[int, ...]:
    """As the Gateway API has it."""
    return (len(match),)


def by_headers_and_exact_values(match: Match) -> tuple[int, ...]:
    """As Envoy Gateway has it."""
    return len(match), sum(one.kind == EXACT for one in match.values())


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


def closure(
    rules: Sequence[Sequence[Match]], *, strength: Strength = by_headers, pivot: str = ""
) -> list[list[Match]]:
    """The matches of each rule with which a gateway that sorts them by ``strength`` decides in this order.

    A rule with none is never reached. ``pivot``: a header that most matches have with an exact value, the
    model's: with it 1,000 rules are compared in 0.1 s. Unordered: it cannot be done.
    """
    later = _Later(pivot)
    kept: list[list[Match]] = [[] for _ in rules]
    for index in reversed(range(len(rules))):
        own = _without_covered(rules[index])
        added: list[Match] = []
        for match in own:
            for place, other in later.that_may_meet(match):
                if covers(match, other):
                    later.drop(place, other)
                elif strength(match) < strength(other):
                    added += both(match, other)
        kept[index] = _distinct([*own, *added])
        if sum(map(len, kept)) > LARGEST:
            raise Unordered(f"more than {LARGEST} matches")
        later.add(index, kept[index])
    return [[match for match in kept[index] if later.has(index, match)] for index in range(len(rules))]


class _Later:
    """Matches of the rules that come later, found by the value of ``pivot``."""

    def __init__(self, pivot: str) -> None:
        self._pivot = pivot
        self._by_value: dict[str, dict[tuple[int, int], Match]] = {}
        self._others: dict[tuple[int, int], Match] = {}

    def add(self, rule: int, matches: Iterable[Match]) -> None:
        for match in matches:
            self._place(match)[rule, id(match)] = match

    def has(self, rule: int, match: Match) -> bool:
        return (rule, id(match)) in self._place(match)

    def drop(self, rule: int, match: Match) -> None:
        self._place(match).pop((rule, id(match)), None)

    def that_may_meet(self, match: Match) -> list[tuple[int, Match]]:
        value = match.get(self._pivot)
        places: Iterable[dict[tuple[int, int], Match]]
        if value and value.kind == EXACT:
            places = [self._by_value.get(value.value, {}), self._others]
        else:
            places = [*self._by_value.values(), self._others]
        return [(rule, other) for place in places for (rule, _), other in place.items()]

    def _place(self, match: Match) -> dict[tuple[int, int], Match]:
        value = match.get(self._pivot)
        if value and value.kind == EXACT:
            return self._by_value.setdefault(value.value, {})
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


Item = TypeVar("Item")


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
