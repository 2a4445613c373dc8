"""Routers that take requests from each other: on one Gateway they are one list of rules.

Place:   for all of targets/, before anything is made; claims.py asks who meets whom.
Rule:    claims.py has settled who has a name; this is about globs, defaults and rules that ask for headers
         alone. Where they take sensitive requests, or those that somebody else may make, the younger router
         gets nothing new; elsewhere it is told. To be refused is safe.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TypeAlias

from epp.compiler import order
from epp.compiler.findings import Finding, Origin, error, warning
from epp.compiler.intent import Access, Router, Rule
from epp.compiler.order import Match, Strength
from epp.compiler.patterns import EXACT

First: TypeAlias = Callable[[Router, Router], bool | None]
"""Of two matches that are equally strong, whether the gateway tries the first router's first; None: nobody
knows."""

_HOSTS = "give each a hostname, or one of them a listener of its own"
_FIX = f"{_HOSTS}, or let it name its models"


class _Host(Enum):
    """Whether a router's rules are tried before another's whatever they ask for: the longer hostname is."""

    SOONER = "sooner"
    ALIKE = "alike"
    LATER = "later"


def by_age(_one: Router, _other: Router) -> None:
    """By the age of the routes, which is not that of what they are made for: routes come and go."""
    return


@dataclass(frozen=True, slots=True)
class _Placed:
    """A match with its rule. ``is_wide``: it names no model."""

    rule: Rule
    match: Match
    strength: tuple[int, ...]
    is_wide: bool


@dataclass(slots=True)
class _Reach:
    """What a router takes."""

    router: Router
    placed: list[_Placed]
    by_model: dict[str, list[_Placed]] = field(default_factory=dict)
    wide: list[_Placed] = field(default_factory=list)
    guarded: list[_Placed] = field(default_factory=list)

    def index(self, model: str) -> None:
        """By the values of ``model``."""
        for one in self.placed:
            there = self.wide if one.is_wide else self.by_model.setdefault(one.match[model].value, [])
            there.append(one)
        self.guarded = [one for one in self.placed if one.rule.is_guarded]

    def has(self, met: Match, model: str, strength: tuple[int, ...]) -> bool:
        """Whether it has all requests of ``met`` by a match that is tried before one of ``strength``."""
        value = met.get(model)
        named = self.by_model.get(value.value, []) if value and value.kind == EXACT else []
        return any(
            one.strength > strength and order.covers(one.match, met)
            for near in (named, self.wide)
            for one in near
        )


@dataclass(frozen=True, slots=True)
class _Gateway:
    """How it tries matches. ``names_kept``: see told()."""

    model: str
    strength: Strength
    first: First
    names_kept: bool

    def reach(self, router: Router, rules: Sequence[Sequence[Match]]) -> _Reach:
        placed = [
            _Placed(rule, one, self.strength(one), not names(self.model, one))
            for rule, matches in zip(router.rules, rules, strict=True)
            for one in matches
        ]
        reach = _Reach(router, placed)
        reach.index(self.model)
        return reach

    def taken(
        self, taker: _Reach, takers: Sequence[_Placed], loser: _Reach, losers: Sequence[_Placed]
    ) -> Iterator["_Taken"]:
        """What matches of the one take of matches of the other; at least one of the two names no model."""
        hosts = _by_hosts(taker.router, loser.router) if takers and losers else ()
        is_first = _Host.SOONER in hosts
        if not is_first:  # so a default is compared with defaults only
            least = min((one.strength for one in losers), default=())
            takers = [one for one in takers if one.strength >= least]
        if not takers or not (is_first or _Host.ALIKE in hosts):
            return
        tie = self.first(taker.router, loser.router)
        for one in takers:
            for other in losers:
                if not (one.is_wide or other.is_wide):
                    continue
                is_tie = not is_first and one.strength == other.strength
                if not is_first and (
                    one.strength < other.strength
                    or (is_tie and tie is False)
                    or (self.names_kept and not other.is_wide)
                ):
                    continue
                met = self._met(one, other, None if is_first else loser)
                if met is not None:
                    yield _Taken(taker.router, loser.router, one, other, met, is_tie and tie is None)

    def _met(self, one: _Placed, other: _Placed, loser: _Reach | None) -> Match | None:
        """What fits both, and ``loser`` has by nothing that is tried sooner."""
        try:
            for met in order.both(one.match, other.match):
                if loser is None or not loser.has(met, self.model, one.strength):
                    return met
        except order.Unordered:
            return other.match
        return None


@dataclass(frozen=True, slots=True)
class _Taken:
    """``is_tie``: the other may have it as well."""

    taker: Router
    loser: Router
    by: _Placed
    of: _Placed
    what: Match
    is_tie: bool

    @property
    def is_natural(self) -> bool:
        """What a default loses to whoever wants more than it does."""
        return not self.of.match and bool(self.by.match)

    def unsafe(self, younger: Router) -> Finding | None:
        """The error, where sensitive requests or somebody else's are served."""
        rule = self.by.rule if self.taker is younger else self.of.rule
        if not self.by.rule.backends:
            return None
        if self.of.rule.is_guarded:
            what = f"{self._said}; rule {self.of.rule.name} is to keep them, they are sensitive"
            fix = _FIX if self.by.is_wide else f"{_HOSTS}, or let rule {self.of.rule.name} name its models"
            return error("RequestsOfAnother", rule.origin, what, fix)
        if said(self.taker) != said(self.loser) and not self.is_natural:
            what = f"{self._said}, and not the same clients may ask them"
            fix = "give one of them a listener of its own, or the same authentication to both"
            return error("AccessNotSeparable", rule.origin, what, fix)
        return None

    def told(self, younger: Router) -> Finding:
        return warning("RequestsOfAnother", younger.origin, self._said, _FIX)

    @property
    def _said(self) -> str:
        taker, loser = self.taker.origin.object, self.loser.origin.object
        if self.is_tie:
            return (
                f"{taker} and {loser} want the same requests on one Gateway, and whose route was made first"
                f" has them: {_shown(self.what)}"
            )
        return f"{taker} takes requests of {loser} on the same Gateway: {_shown(self.what)}"


def told(
    routers: Sequence[Router],
    found: Sequence[Sequence[Sequence[Match]]],
    *,
    model: str,
    strength: Strength = order.by_headers,
    first: First = by_age,
    names_kept: bool = False,
) -> Iterator[Finding]:
    """``routers``: the oldest first; ``found``: the matches of each rule of each. ``model``: the header that
    names it. ``names_kept``: what names a model will lose nothing, the target sees to that.

    For each younger router the errors, one for a rule; without any the first that is no error.
    """
    gateway = _Gateway(model, strength, first, names_kept)
    before: list[_Reach] = []
    meeting: list[_Reach] = []  # more than names, which claims.py has settled
    for router, rules in zip(routers, found, strict=True):
        younger = gateway.reach(router, rules)
        meets = bool(younger.wide or router.hostnames)
        near = [one for one in (before if meets else meeting) if same_requests(one.router, router)]
        yield from _told(gateway, near, younger)
        if younger.placed:
            before.append(younger)
        if younger.placed and meets:
            meeting.append(younger)


def _told(gateway: _Gateway, near: Sequence[_Reach], younger: _Reach) -> Iterator[Finding]:
    errors: dict[Origin, Finding] = {}
    first: Finding | None = None
    for older in near:
        for taken in _between(gateway, older, younger):
            fault = taken.unsafe(younger.router)
            if fault is not None:
                errors.setdefault(fault.origin, fault)
            elif first is None and not taken.is_natural:
                first = taken.told(younger.router)
    if errors:
        yield from errors.values()
    else:
        yield from [first] if first is not None else []
        yield from itertools.islice(_hidden(near, younger), 1)


def _hidden(near: Sequence[_Reach], younger: _Reach) -> Iterator[Finding]:
    """Envoy looks for the longest hostname first, and then for routes at that one only."""
    for older in near:
        hosts = _by_hosts(younger.router, older.router) - {_Host.ALIKE}
        for side in sorted(hosts, key=lambda one: one.value):
            pair = (younger, older) if side is _Host.SOONER else (older, younger)
            longer, shorter = (one.router for one in pair)
            yield warning(
                "HostnameHidesModels",
                younger.router.origin,
                f"at {', '.join(longer.hostnames)} models of {shorter.origin.object} get 404 from Envoy and"
                f" its like: that is the longer hostname, and only {longer.origin.object} has it",
                "give both the same hostnames, or such that do not meet",
            )


def _between(gateway: _Gateway, older: _Reach, younger: _Reach) -> Iterator[_Taken]:
    yield from gateway.taken(older, older.wide, younger, younger.placed)
    yield from gateway.taken(younger, younger.wide, older, older.placed)
    named = [one for one in younger.placed if not one.is_wide]  # a name wins over what is wide, and should
    yield from gateway.taken(younger, named, older, [one for one in older.guarded if one.is_wide])


def names(model: str, match: Match) -> bool:
    """Whether it is for one model only."""
    value = match.get(model)
    return value is not None and value.kind == EXACT


def same_requests(one: Router, other: Router) -> bool:
    """Of two routers of one Gateway, whether any request may be for both."""
    sections = {one.gateway.section, other.gateway.section}
    if len(sections) == 2 and "" not in sections:
        return False
    if not one.hostnames or not other.hostnames:
        return True
    return bool(_by_hosts(one, other))


_ALIKE = frozenset({_Host.ALIKE})


def _by_hosts(one: Router, other: Router) -> frozenset[_Host]:
    """Of ``one``, at each hostname that both have."""
    if not one.hostnames and not other.hostnames:
        return _ALIKE
    found = set()
    for a, b in itertools.product(one.hostnames or ("",), other.hostnames or ("",)):
        if not a or not b or _is_within(a, b) or _is_within(b, a):
            own, others = _exactness(a), _exactness(b)
            found.add(_Host.ALIKE if own == others else _Host.SOONER if own > others else _Host.LATER)
    return frozenset(found)


def _exactness(host: str) -> tuple[bool, int]:
    return bool(host) and not host.startswith("*."), len(host)


def _is_within(host: str, pattern: str) -> bool:
    return host == pattern or (pattern.startswith("*.") and host.endswith(pattern[1:]))


def said(router: Router) -> Access | None:
    """Who may ask, wherever that is written."""
    return router.access and replace(router.access, origin=Origin("", "", ""))


def _shown(match: Match) -> str:
    parts = [f"{name} {one.value}" for name, one in sorted(match.items())]
    return ", ".join(parts) or "any model"
