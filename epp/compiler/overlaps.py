"""Routers that take requests from each other: on one Gateway they are one list of rules.

Place:   for all of targets/, before anything is made; claims.py asks who meets whom.
Rule:    claims.py has settled who has a name; this is about globs, defaults and rules that ask for headers
         alone. Where they take sensitive requests, or those that somebody else may make, the younger router
         gets nothing new; elsewhere it is told. To be refused is safe.
"""

import itertools
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import NamedTuple, TypeAlias

from epp.compiler import order
from epp.compiler.findings import Finding, Origin, error, warning
from epp.compiler.intent import Access, Router, Rule
from epp.compiler.memory import Call, plainly
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


class Where(NamedTuple):
    """Where a router's requests come in: the part of its Gateway, and the hostnames."""

    section: str
    hostnames: tuple[str, ...]


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


@dataclass(slots=True, eq=False)
class _Reach:
    """What a router takes. ``said``: who may ask. ``least``: strength of its weakest match. ``names_kept``:
    see told(). ``is_exposed``: some of what it guards may be lost to one that is at the same hostnames.
    """

    router: Router
    placed: list[_Placed]
    names_kept: bool
    where: Where = field(init=False)
    said: Access | None = field(init=False)
    least: tuple[int, ...] = field(init=False)
    by_model: dict[str, list[_Placed]] = field(default_factory=dict)
    wide: list[_Placed] = field(default_factory=list)
    named: list[_Placed] = field(default_factory=list)
    guarded: list[_Placed] = field(default_factory=list)
    is_exposed: bool = False

    def __post_init__(self) -> None:
        self.where = where(self.router)
        self.said = said(self.router)
        self.least = min((one.strength for one in self.placed), default=())

    def index(self, model: str) -> None:
        """By the values of ``model``."""
        for one in self.placed:
            (self.wide if one.is_wide else self.named).append(one)
        for one in self.named:
            self.by_model.setdefault(one.match[model].value, []).append(one)
        self.guarded = [one for one in self.placed if one.rule.is_guarded]
        self.is_exposed = any(one.is_wide or not self.names_kept for one in self.guarded)

    def may_err(self, other: "_Reach") -> bool:
        """Whether an error may come of what the two take from each other; most need not be looked at."""
        if self.said != other.said or self.is_exposed or other.is_exposed:
            return True
        has_hosts = bool(self.where.hostnames or other.where.hostnames)
        return has_hosts and bool(self.guarded or other.guarded)

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
    """How it tries matches."""

    model: str
    strength: Strength
    first: First

    def taken(
        self, taker: _Reach, takers: Sequence[_Placed], loser: _Reach, losers: Sequence[_Placed]
    ) -> Iterator["_Taken"]:
        """What matches of the one take of matches of the other; of any two one at least names no model."""
        if not takers or not losers:
            return
        hosts = _by_hosts(taker.where, loser.where)
        is_first = hosts is not _ALIKE and _Host.SOONER in hosts
        if not (hosts is _ALIKE or is_first or _Host.ALIKE in hosts):
            return
        if not is_first and not self._may_take(taker, takers, loser):
            return
        if not is_first:
            losers = [one for one in losers if one.is_wide or not loser.names_kept]
            least = min((one.strength for one in losers), default=())
            takers = [one for one in takers if one.strength >= least]  # so a default only meets defaults
        for one, other in itertools.product(takers, losers):
            if not is_first and one.strength < other.strength:
                continue
            is_tie = not is_first and one.strength == other.strength
            who = self.first(taker.router, loser.router) if is_tie else True
            if who is False:
                continue
            met = self._met(one, other, None if is_first else loser)
            if met is not None:
                yield _Taken(taker, loser, one, other, met, is_tie=who is None)

    def _may_take(self, taker: _Reach, takers: Sequence[_Placed], loser: _Reach) -> bool:
        """Whether the strongest is tried before the weakest; most routers need not be looked at closer."""
        strongest = max(one.strength for one in takers)
        return strongest > loser.least or (
            strongest == loser.least and self.first(taker.router, loser.router) is not False
        )

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

    taker: _Reach
    loser: _Reach
    by: _Placed
    of: _Placed
    what: Match
    is_tie: bool

    @property
    def is_natural(self) -> bool:
        """What a default loses to whoever wants more than it does."""
        return not self.of.match and bool(self.by.match)

    def unsafe(self, younger: _Reach) -> Finding | None:
        """The error, where sensitive requests or somebody else's are served."""
        rule = self.by.rule if self.taker is younger else self.of.rule
        if not self.by.rule.backends:
            return None
        if self.of.rule.is_guarded:
            what = f"{self._said}; rule {self.of.rule.name} is to keep them, they are sensitive"
            fix = _FIX if self.by.is_wide else f"{_HOSTS}, or let rule {self.of.rule.name} name its models"
            return error("RequestsOfAnother", rule.origin, what, fix)
        if self.taker.said != self.loser.said and not self.is_natural:
            what = f"{self._said}, and not the same clients may ask them"
            fix = "give one of them a listener of its own, or the same authentication to both"
            return error("AccessNotSeparable", rule.origin, what, fix)
        return None

    def told(self, younger: Router) -> Finding:
        return warning("RequestsOfAnother", younger.origin, self._said, _FIX)

    @property
    def _said(self) -> str:
        taker, loser = self.taker.router.origin.object, self.loser.router.origin.object
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
    names_kept: Container[int] = (),
    call: Call = plainly,
) -> Iterator[Finding]:
    """``routers``: the oldest first; ``found``: the matches of each rule of each. ``model``: the header that
    names it. ``names_kept``: places of routers of which what names a model loses nothing but to a longer
    hostname, the target has seen to that.

    For each younger router the errors, one for a rule; without any the first that is no error.
    """
    gateway = call(_Gateway, model, strength, first)
    for near, younger in _meeting(gateway, routers, found, names_kept, call):
        faults, notes = _between(gateway, near, younger, call, errors_only=False)
        yield from faults or notes or itertools.islice(_hidden(near, younger), 1)


def errors(
    routers: Sequence[Router],
    found: Sequence[Sequence[Sequence[Match]]],
    *,
    model: str,
    strength: Strength = order.by_headers,
    call: Call = plainly,
) -> Iterator[Finding]:
    """Those of told() that there are even if no name loses anything."""
    gateway = call(_Gateway, model, strength, by_age)
    for near, younger in _meeting(gateway, routers, found, range(len(routers)), call):
        faults, _ = _between(gateway, near, younger, call, errors_only=True)
        yield from faults


def _meeting(
    gateway: _Gateway,
    routers: Sequence[Router],
    found: Sequence[Sequence[Sequence[Match]]],
    names_kept: Container[int],
    call: Call,
) -> Iterator[tuple[list[_Reach], _Reach]]:
    """Each router, with the older ones that may take of it or lose to it."""
    older = _Older()
    for place, (router, rules) in enumerate(zip(routers, found, strict=True)):
        younger = call(_reach, gateway, router, rules, place in names_kept)
        yield older.that_may_meet(younger), younger
        if younger.placed:
            older.add(younger)


def _reach(gateway: _Gateway, router: Router, rules: Sequence[Sequence[Match]], names_kept: bool) -> _Reach:
    placed = [
        _Placed(rule, one, gateway.strength(one), not names(gateway.model, one))
        for rule, matches in zip(router.rules, rules, strict=True)
        for one in matches
    ]
    reach = _Reach(router, placed, names_kept)
    reach.index(gateway.model)
    return reach


class _Older:
    """Names alone take nothing of names, which claims.py has settled, and rules for one team nothing of those
    for another: of a site with 1,000 models and 200 teams few of 720,000 pairs are left.
    """

    def __init__(self) -> None:
        self._all: list[_Reach] = []
        self._hosted: set[int] = set()
        self._takers: set[int] = set()
        self._losers: set[int] = set()
        self._guards: set[int] = set()
        self._wide: order.Near[int] = order.Near()
        self._count = itertools.count()
        self._met: dict[tuple[Where, Where], bool] = {}

    def add(self, one: _Reach) -> None:
        place = len(self._all)
        self._all.append(one)
        if one.router.hostnames:
            self._hosted.add(place)
        if one.router.hostnames or one.wide:
            self._takers.add(place)
        if not one.names_kept:
            self._losers.add(place)
        if any(each.is_wide for each in one.guarded):
            self._guards.add(place)
        for each in one.wide:
            self._wide.add(next(self._count), each.match, place)

    def that_may_meet(self, younger: _Reach) -> list[_Reach]:
        """The oldest first."""
        return [one for one in self._asked(younger) if self._meets(one.where, younger.where)]

    def _asked(self, younger: _Reach) -> Sequence[_Reach]:
        if younger.where.hostnames:
            return self._all
        places = self._hosted | self._guards
        if not younger.names_kept:
            places |= self._takers
        if younger.wide:
            places |= self._losers
        for one in younger.wide:
            places.update(self._wide.to(one.match))
        return [self._all[place] for place in sorted(places)]

    def _meets(self, one: Where, other: Where) -> bool:
        if one == other:
            return True
        pair = one, other
        if pair not in self._met:
            self._met[pair] = meet(one, other)
        return self._met[pair]


def _between(
    gateway: _Gateway, near: Sequence[_Reach], younger: _Reach, call: Call, *, errors_only: bool
) -> tuple[list[Finding], list[Finding]]:
    """What the younger takes or loses: the errors, one for a rule; and the first that is none."""
    faults: dict[Origin, Finding] = {}
    notes: list[Finding] = []
    for older in near:
        is_quick = errors_only or bool(notes)
        if not (older.wide or younger.wide) or (is_quick and not older.may_err(younger)):
            continue
        ask = call if older.wide and younger.wide else plainly  # names meet far more routers than rules do
        unsafe, safe = ask(_pair, gateway, older, younger, is_quick)
        for fault in unsafe:
            faults.setdefault(fault.origin, fault)
        notes = notes or safe
    return list(faults.values()), notes


def _pair(
    gateway: _Gateway, older: _Reach, younger: _Reach, is_quick: bool
) -> tuple[list[Finding], list[Finding]]:
    """The same of two. ``is_quick``: of what cannot be an error, nothing."""
    unsafe, safe = list[Finding](), list[Finding]()
    for taken in _taken(gateway, older, younger, is_quick=is_quick):
        fault = taken.unsafe(younger)
        if fault is not None:
            unsafe.append(fault)
        elif not safe and not taken.is_natural:
            safe.append(taken.told(younger.router))
    return unsafe, safe


def _taken(gateway: _Gateway, older: _Reach, younger: _Reach, *, is_quick: bool) -> Iterator[_Taken]:
    if is_quick and older.said == younger.said:
        old, young = older.guarded, younger.guarded
    else:
        old, young = older.placed, younger.placed
    yield from gateway.taken(older, older.wide, younger, young)
    yield from gateway.taken(younger, younger.wide, older, old)
    if older.guarded:  # else a name wins over what is wide, and should
        yield from gateway.taken(younger, younger.named, older, [one for one in older.guarded if one.is_wide])


def _hidden(near: Sequence[_Reach], younger: _Reach) -> Iterator[Finding]:
    """Envoy looks for the longest hostname first, and then for routes at that one only."""
    for older in near:
        hosts = _by_hosts(younger.where, older.where) - {_Host.ALIKE}
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


def names(model: str, match: Match) -> bool:
    """Whether it is for one model only."""
    value = match.get(model)
    return value is not None and value.kind == EXACT


def where(router: Router) -> Where:
    """Few routers of one Gateway differ in it: what is told apart by it is told once for all of them."""
    return Where(router.gateway.section, router.hostnames)


def meet(one: Where, other: Where) -> bool:
    """Whether any request may come in at both."""
    if one.section != other.section and one.section and other.section:
        return False
    return not one.hostnames or not other.hostnames or bool(_by_hosts(one, other))


def same_requests(one: Router, other: Router) -> bool:
    """Of two routers of one Gateway, whether any request may be for both."""
    return meet(where(one), where(other))


_ALIKE = frozenset({_Host.ALIKE})


def _by_hosts(one: Where, other: Where) -> frozenset[_Host]:
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
