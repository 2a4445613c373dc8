"""Routers that take requests from each other: on one Gateway they are one list of rules.

Place:   for all of targets/, before anything is made.
Source:  epp.compiler.claims has settled who has a model that two name; this is about globs, defaults and
         rules that ask for headers alone.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from epp.compiler import order
from epp.compiler.findings import Finding, warning
from epp.compiler.intent import Router
from epp.compiler.order import Match, Strength
from epp.compiler.patterns import EXACT


@dataclass(frozen=True, slots=True)
class _Taking:
    """What a router takes that it does not name, and what it names."""

    router: Router
    wide: tuple[Match, ...]
    named: tuple[Match, ...]


def told(
    routers: Sequence[Router],
    found: Sequence[Sequence[Sequence[Match]]],
    *,
    model: str,
    strength: Strength = order.by_headers,
) -> Iterator[Finding]:
    """``found``: the matches of each rule of each router, the router that is tried first where two match
    alike before the others. ``model``: the header that names it. One finding for a router.
    """
    before: list[_Taking] = []
    for router, rules in zip(routers, found, strict=True):
        matches = [match for rule in rules for match in rule]
        wide = tuple(one for one in matches if not _names(model, one))
        taking = _Taking(router, wide, tuple(one for one in matches if _names(model, one)))
        finding = next(
            (one for older in before if (one := _between(older, taking, strength)) is not None), None
        )
        if finding:
            yield finding
        if matches:
            before.append(taking)


def _between(older: _Taking, younger: _Taking, strength: Strength) -> Finding | None:
    if not (older.wide or younger.wide) or not same_requests(older.router, younger.router):
        return None
    taken = _first(older.wide, (*younger.wide, *younger.named), strength, ties=True)
    if taken is not None:
        who, whose = older.router, younger.router
    else:
        taken = _first(younger.wide, older.named, strength, ties=False)
        if taken is None:
            return None
        who, whose = younger.router, older.router
    return warning(
        "RequestsOfAnother",
        younger.router.origin,
        f"{who.origin.object} takes requests of {whose.origin.object} on the same Gateway: {_shown(taken)}",
        "give one of them a hostname or a listener of its own, or let it name its models",
    )


def _first(
    takers: Sequence[Match], losers: Sequence[Match], strength: Strength, *, ties: bool
) -> Match | None:
    """What the first of ``takers`` that comes sooner takes of ``losers``."""
    for one in takers:
        for other in losers:
            if strength(one) > strength(other) or (ties and strength(one) == strength(other)):
                try:
                    found = next(order.both(one, other), None)
                except order.Unordered:
                    found = other
                if found is not None:
                    return found
    return None


def _names(model: str, match: Match) -> bool:
    value = match.get(model)
    return value is not None and value.kind == EXACT


def same_requests(one: Router, other: Router) -> bool:
    """Of two routers of one Gateway, whether any request may be for both."""
    sections = {one.gateway.section, other.gateway.section}
    if len(sections) == 2 and "" not in sections:
        return False
    if not one.hostnames or not other.hostnames:
        return True
    return any(_is_within(a, b) or _is_within(b, a) for a in one.hostnames for b in other.hostnames)


def _is_within(host: str, pattern: str) -> bool:
    return host == pattern or (pattern.startswith("*.") and host.endswith(pattern[1:]))


def _shown(match: Match) -> str:
    parts = [f"{name} {one.value}" for name, one in sorted(match.items())]
    return ", ".join(parts) or "any model"
