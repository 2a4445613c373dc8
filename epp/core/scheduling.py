"""Choosing: candidates, filters, scores, the pick and its reservation, in one synchronous step.

Place:   one Scheduler per pool, called by the driver with each request; reads epp.core.fleet.
Ignores: where requests come from and answers go, and how plugins were configured.
Rule:    nothing is awaited between looking at the endpoints and reserving, so no two requests see the
         same counts. An unknown score never beats a known one.
Source:  the upstream picker's scheduler: total = sum of weight * clamp(score, 0, 1).
"""

from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from heapq import nlargest
from itertools import compress, takewhile
from operator import not_
from typing import Any, NamedTuple, Protocol, TypeAlias

import msgspec

from epp.core.fleet import Endpoint, Reservation, StagedReservation
from epp.core.rejection import ALL_FILTERED, NO_CANDIDATES, NOT_CACHED, Rejected, Rejection, not_admitted
from epp.core.request import Request
from epp.core.scoring import (
    Admitter,
    Chance,
    Cycle,
    Explained,
    Filter,
    Picker,
    PrefixMatch,
    Producer,
    ProfileHandler,
    Route,
    Scorer,
    Scores,
    Told,
    addressed,
)

REMEMBERED = 100
"""The newest picks of a pool, which people may look at."""


class Decision(msgspec.Struct, frozen=True):
    """Where a request goes, and why."""

    endpoints: Sequence[Endpoint]
    """Best first; the reservation is on the first."""
    reservation: Reservation
    candidates: Sequence[Endpoint]
    """What the scorers saw, after filters."""
    scores: Mapping[str, Scores]
    """By plugin name, in the order of ``candidates``, before weights."""
    totals: Sequence[float]
    weights: Mapping[str, float] = msgspec.field(default_factory=dict)
    """By plugin name."""
    match: PrefixMatch | None = None
    """What was known of this prompt's prefix when it was picked; None without such a producer."""
    remark: str = ""
    """What a filter had to say: nobody was fit, and who was kept all the same."""
    headers: Mapping[str, str | None] | None = None
    """To be set on the request on its way to the server; a value of None: to be taken away."""
    response_headers: Mapping[str, str] | None = None
    """To be set on the response, if the first endpoint gave it."""
    destinations: Sequence[str] | None = None
    """Where to send the request, if not to the endpoints' own addresses."""
    picks: Mapping[str, Sequence[Endpoint]] | None = None
    """By profile, where a handler chooses between several."""
    stages: Collection[str] | None = None
    """As in Route."""

    @property
    def addresses(self) -> Sequence[str]:
        """Where to send the request, ``ip:port`` each, best first."""
        return self.destinations or [endpoint.address for endpoint in self.endpoints]


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """One way of choosing: plugins by name, in the order in which they run."""

    name: str = "default"
    filters: Sequence[tuple[str, Filter]] = ()
    scorers: Sequence[tuple[str, Scorer, float]] = ()
    """Name, scorer, weight."""
    picker: tuple[str, Picker]


class Watch(Protocol):
    """Puts something between the scheduler and its plugins."""

    def profile(self, profile: Profile) -> Profile: ...

    def producers(self, producers: Sequence[tuple[str, Producer]]) -> Sequence[tuple[str, Producer]]: ...


class PickRecord(NamedTuple):
    """One remembered pick, as references only; ``describe`` makes it readable."""

    at: float
    """When [s, monotonic]."""
    request_id: str
    model: str
    target_model: str
    prompt_tokens: int
    result: Decision | Rejection


class Pool(Protocol):
    """Whom a request may go to: a whole fleet, or the members of one pool."""

    @property
    def endpoints(self) -> Sequence[Endpoint]:
        """All of them; the same object as long as they are the same."""

    @property
    def version(self) -> int:
        """Grows with everything that may change what follows from readings, phases and labels."""

    def expire(self, now: float) -> None:
        """Let time pass."""


class _Hinted(NamedTuple):
    """What a gateway's subset hint came to: it gives the same one with each request, mostly."""

    version: int
    """Of the fleet."""
    subset: Sequence[str]
    candidates: Sequence[Endpoint]


class _Standing(NamedTuple):
    """What follows from readings alone: the same for every request until the fleet changes."""

    version: int
    """Of the fleet."""
    among: Sequence[Endpoint]
    """The candidates it was made for."""
    candidates: Sequence[Endpoint]
    """Those that the filters left."""
    scores: Mapping[str, Scores]
    totals: Sequence[float]
    """Empty where there are no such scorers."""
    remark: str


_Choice: TypeAlias = tuple[Sequence[Endpoint], Sequence[Endpoint], Mapping[str, Scores], Sequence[float], str]
"""What one profile comes to: who was chosen, best first; whom the filters left; scores, totals and a remark.
A plain tuple: one with names takes 0.3 us more to make, of a pick of 11."""


class _Chooser:
    """One profile at work."""

    def __init__(self, profile: Profile) -> None:
        self.name = profile.name
        self.weights = {name: weight for name, _, weight in profile.scorers}
        self._picker_name, self._picker = profile.picker
        filters = [each for _, each in profile.filters]
        self._standing_filters = tuple(takewhile(_is_from_readings, filters))
        self._filters = tuple(filters[len(self._standing_filters) :])
        # A score depends on who else is rated: behind a filter that sees the request none stands.
        standing = [bool(not self._filters and _is_from_readings(each)) for _, each, _ in profile.scorers]
        self._standing_scorers = tuple(compress(profile.scorers, standing))
        self._scorers = tuple(compress(profile.scorers, map(not_, standing)))
        self._standing = _Standing(-1, (), (), {}, (), "")

    def choose(self, cycle: Cycle, among: Sequence[Endpoint], version: int) -> _Choice | None:
        """The pick among these; None where the filters leave nobody. ``version``: of the fleet."""
        standing = self._standing
        if standing.version != version or standing.among is not among:
            standing = self._standing = self._stand(cycle, among, version)
        candidates = standing.candidates
        if self._filters:
            candidates = _filtered(self._filters, cycle, candidates)
        if not candidates:
            return None
        scores, totals = _scored(self._scorers, cycle, candidates, standing.scores, standing.totals)
        chosen = self._picker.pick(cycle, candidates, totals)
        if not chosen:
            count = len(candidates)
            raise RuntimeError(f'picker "{self._picker_name}" chose nothing out of {count} endpoints')
        return chosen, candidates, scores, totals, cycle.remark or standing.remark

    def _stand(self, cycle: Cycle, among: Sequence[Endpoint], version: int) -> _Standing:
        """What readings alone say about ``among``, worked out once until the fleet changes."""
        candidates = _filtered(self._standing_filters, cycle, among)
        scores: Mapping[str, Scores] = {}
        totals: Sequence[float] = ()
        if candidates and self._standing_scorers:
            scores, totals = _scored(self._standing_scorers, cycle, candidates, scores, totals)
        return _Standing(version, among, candidates, scores, totals, cycle.remark)


class Scheduler:
    """Chooses endpoints of one pool.

    ``profile``: how; with a ``handler`` one of several ways, and ``others`` are the further ones.
    ``honour_subset``: whether the gateway's subset hint restricts the candidates.
    ``remember``: how many picks ``recent`` keeps, the newest last.
    ``destinations``: how many endpoints a decision names where so many are left; the picker may name more.
    """

    def __init__(
        self,
        pool: Pool,
        profile: Profile,
        producers: Sequence[tuple[str, Producer]] = (),
        *,
        chance: Chance,
        others: Sequence[Profile] = (),
        handler: ProfileHandler | None = None,
        honour_subset: bool = True,
        remember: int = REMEMBERED,
        destinations: int = 1,
        admitters: Sequence[Admitter] = (),
    ) -> None:
        self.recent: deque[PickRecord] = deque(maxlen=remember)
        self._pool = pool
        self._profiles = (profile, *others)
        self._chooser = _Chooser(profile)
        self._choosers = {each.name: _Chooser(each) for each in others} | {profile.name: self._chooser}
        self._handler = handler
        self._told = _told((profile, *others))
        self._producers = tuple(producers)
        self._admitters = tuple(admitters)
        self._chance = chance
        self._honour_subset = honour_subset
        self._destinations = destinations
        self._hinted = _Hinted(-1, (), ())

    def watched(self, watch: Watch) -> "Scheduler":
        """One like this, whose plugins work under the eyes of ``watch``; both remember the same picks."""
        twin = copy(self)
        profiles = [watch.profile(each) for each in self._profiles]
        twin._choosers = {each.name: _Chooser(each) for each in profiles}
        twin._chooser = twin._choosers[self._chooser.name]
        twin._producers = tuple(watch.producers(self._producers))
        return twin

    def pick(self, request: Request, now: float) -> Decision | Rejection:
        """Where ``request`` goes, reserved there; or why nowhere."""
        try:
            result = self._decide(request, now)
        except Rejected as rejected:  # a filter knows better than nobody why nobody is left
            result = rejected.rejection
        payload = request.payload
        self.recent.append(
            PickRecord(now, request.id, payload.model, request.target_model, request.prompt_tokens, result)
        )
        return result

    def _decide(self, request: Request, now: float) -> Decision | Rejection:
        candidates = self._candidates(request, now)
        if not candidates:
            return NO_CANDIDATES
        version = self._pool.version
        cycle = Cycle(request, now=now, chance=self._chance, version=version)
        found = [(each, each.produce(cycle, candidates, name)) for name, each in self._producers]
        for admitter in self._admitters:
            if refusal := admitter.refusal(cycle, candidates):
                return not_admitted(refusal)
        if self._handler is not None:
            return self._decide_in_stages(self._handler, cycle, candidates, found)
        chooser = self._chooser
        choice = chooser.choose(cycle, candidates, version)
        if choice is None:
            return ALL_FILTERED
        return self._settle(chooser, choice, cycle, found)

    def _decide_in_stages(
        self,
        handler: ProfileHandler,
        cycle: Cycle,
        candidates: Sequence[Endpoint],
        found: Sequence[tuple[Producer, Any]],
    ) -> Decision | Rejection:
        """As ``_decide``, with the profiles that the handler asks for, one after the other."""
        choices, refusals = self._run_stages(handler, cycle, candidates)
        route = handler.route(cycle)
        choice = choices.get(route.primary)
        if choice is None:
            return refusals.get(route.primary, ALL_FILTERED)
        remarks = [f"{name}: {remark}" for name, (*_, remark) in choices.items() if remark]
        remarks += [f"{name}: nobody could be picked, the request goes without" for name in refusals]
        choice = (*choice[:4], "; ".join(remarks))
        return self._settle(self._choosers[route.primary], choice, cycle, found, route)

    def _settle(
        self,
        chooser: _Chooser,
        choice: _Choice,
        cycle: Cycle,
        found: Sequence[tuple[Producer, Any]],
        route: Route | None = None,
    ) -> Decision | Rejection:
        """What a choice comes to: reserved, and told to those who want to know. ``route``: of a handler."""
        chosen, candidates, scores, totals, remark = choice
        if len(chosen) < self._destinations and len(chosen) < len(candidates):
            chosen = self._with_next_best(chosen, candidates, totals)
        match = self._match(cycle)
        first, request = chosen[0], cycle.request
        prefer = request.headers.get("prefer")
        if prefer and wants_cached(prefer) and not _held(match, first):
            return NOT_CACHED
        prompt_at = first if route is None else cycle.picks[route.prompt_at or route.primary][0]
        for endpoint in (first,) if prompt_at is first else (first, prompt_at):  # in the end both hold it
            cycle.charge = 0
            for producer, what in found:
                producer.picked(cycle, endpoint, what)
        told: Mapping[str, str] | None = None
        if self._told:
            if route is None:
                cycle.picks = {chooser.name: chosen}
            told = self._tell(cycle, chooser.name)
        weights = chooser.weights
        if route is None:  # without names: this is made for nearly every request
            reservation = Reservation(
                first,
                cycle.charge,
                at=cycle.now,
                is_streamed=request.shows_first_token,
                prompt_tokens=request.prompt_tokens,
                cached_tokens=match.tokens(first) if match is not None else 0,
            )
            return Decision(
                chosen, reservation, candidates, scores, totals, weights, match, remark, None, told
            )
        return Decision(
            endpoints=chosen,
            reservation=_reserve(cycle, route, first, prompt_at, match),
            candidates=candidates,
            scores=scores,
            totals=totals,
            weights=weights,
            match=match,
            remark=remark,
            headers=route.headers or None,
            response_headers=told,
            destinations=route.destinations,
            picks=cycle.picks,
            stages=route.stages,
        )

    def _run_stages(
        self, handler: ProfileHandler, cycle: Cycle, candidates: Sequence[Endpoint]
    ) -> tuple[dict[str, _Choice], dict[str, Rejection]]:
        """What each profile came to, or why nobody could be picked; the picks are in ``cycle``, too."""
        choices: dict[str, _Choice] = {}
        refusals: dict[str, Rejection] = {}
        picks: dict[str, Sequence[Endpoint]] = {}
        cycle.picks = picks
        while (name := handler.next_profile(cycle)) is not None and name not in picks:
            cycle.remark = ""
            try:
                choice = self._choosers[name].choose(cycle, candidates, self._pool.version)
            except Rejected as rejected:
                choice, refusals[name] = None, rejected.rejection
            if choice is None:
                refusals.setdefault(name, ALL_FILTERED)
                picks[name] = ()
            else:
                choices[name], picks[name] = choice, choice[0]
        return choices, refusals

    def _tell(self, cycle: Cycle, primary: str) -> Mapping[str, str] | None:
        """Tell those who want to know where the request goes; what they add to its response."""
        added: dict[str, str] = {}
        for plugin in self._told:
            added.update(plugin.sent(cycle, primary))
        return added or None

    def _with_next_best(
        self, chosen: Sequence[Endpoint], candidates: Sequence[Endpoint], totals: Sequence[float]
    ) -> Sequence[Endpoint]:
        """The picker's choice, and behind it the best of the others, equal ones at random."""
        others = [
            (total, self._chance.random(), place)
            for place, (endpoint, total) in enumerate(zip(candidates, totals, strict=True))
            if endpoint not in chosen
        ]
        next_best = nlargest(self._destinations - len(chosen), others)
        return (*chosen, *(candidates[place] for _, _, place in next_best))

    def _candidates(self, request: Request, now: float) -> Sequence[Endpoint]:
        pool, hinted = self._pool, self._hinted
        pool.expire(now)
        if request.subset is None or not self._honour_subset:
            return pool.endpoints
        if hinted.version != pool.version or hinted.subset != request.subset:
            among = addressed(pool.endpoints, request.subset)
            hinted = self._hinted = _Hinted(pool.version, request.subset, among)
        return hinted.candidates

    def _match(self, cycle: Cycle) -> PrefixMatch | None:
        for name, _ in self._producers:
            fact = cycle.facts.get(name)
            if isinstance(fact, PrefixMatch):
                return fact
        return None


def _told(profiles: Iterable[Profile]) -> tuple[Told, ...]:
    """The plugins of these profiles that want to know where requests go, each once."""
    plugins: list[Any] = []
    for profile in profiles:
        plugins += [each for _, each in profile.filters]
        plugins += [each for _, each, _ in profile.scorers]
        plugins.append(profile.picker[1])
    return tuple({id(each): each for each in plugins if isinstance(each, Told)}.values())


def _reserve(
    cycle: Cycle, route: Route, endpoint: Endpoint, prompt_at: Endpoint, match: PrefixMatch | None
) -> Reservation:
    """What the request occupies: one endpoint to its end, those of other stages until the first token."""
    now, charge = cycle.now, cycle.charge
    if charge < 0:  # before anything is taken
        raise ValueError(f"tokens of a reservation: expected at least 0, got {charge}")
    is_apart, prompt_tokens = prompt_at is not endpoint, cycle.request.prompt_tokens
    cached = match.tokens(prompt_at) if match is not None else 0
    helpers = (
        [Reservation(prompt_at, charge, at=now, prompt_tokens=prompt_tokens, cached_tokens=cached)]
        if is_apart
        else []
    )
    stages = (route.primary, route.prompt_at)
    helpers += [
        Reservation(each, 0, at=now)
        for name, picked in cycle.picks.items()
        if name not in stages
        for each in picked
    ]
    return StagedReservation(
        endpoint,
        0 if is_apart else charge,
        helpers=helpers,
        at=now,
        is_streamed=cycle.request.shows_first_token,
        prompt_tokens=prompt_tokens,
        cached_tokens=prompt_tokens if is_apart else cached,
    )


def _is_from_readings(plugin: Filter | Scorer) -> bool:
    return bool(getattr(plugin, "from_readings", False))


def _filtered(filters: Iterable[Filter], cycle: Cycle, candidates: Sequence[Endpoint]) -> Sequence[Endpoint]:
    for each in filters:
        if not candidates:
            break
        candidates = each.filter(cycle, candidates)
    return candidates


def _scored(
    scorers: Iterable[tuple[str, Scorer, float]],
    cycle: Cycle,
    candidates: Sequence[Endpoint],
    scores: Mapping[str, Scores],
    totals: Sequence[float],
) -> tuple[Mapping[str, Scores], Sequence[float]]:
    """``scores`` and ``totals`` with those of further scorers."""
    by_name = dict(scores)
    totals = totals or [0.0] * len(candidates)
    for name, scorer, weight in scorers:
        given = by_name[name] = scorer.score(cycle, candidates)
        if len(given) != len(candidates):
            count = len(candidates)
            raise RuntimeError(f'scorer "{name}" gave {len(given)} scores for {count} endpoints')
        totals = _add(totals, given, weight)
    return by_name, totals


def _add(totals: Sequence[float], scores: Scores, weight: float) -> Sequence[float]:
    """The totals with one scorer's scores added, clamped; unknown ones count as the worst known one."""
    if not any(scores):  # nothing but zeros, or nothing known
        return totals
    try:  # one pass, and without a call for each score: this is the hottest line of a pick
        return [
            total + weight * (score if 0.0 <= score <= 1.0 else _clamp(score))  # type: ignore[operator,arg-type]
            for total, score in zip(totals, scores)  # noqa: B905 (one length, and hot)
        ]
    except TypeError:  # None is neither above nor below a number
        return _add(totals, _known(scores, weight), weight)


def _known(scores: Scores, weight: float) -> list[float]:
    known = [_clamp(score) for score in scores if score is not None]
    worst = min(known) if weight >= 0 else max(known)
    return [worst if score is None else score for score in scores]


def _held(match: PrefixMatch | None, endpoint: Endpoint) -> int:
    return match.blocks.get(endpoint, 0) if match else 0


def _clamp(score: float) -> float:
    """Into [0, 1]; what is not a number is 0."""
    if 0.0 <= score <= 1.0:
        return score
    return 1.0 if score > 1.0 else 0.0


def wants_cached(prefer: str) -> bool:
    """Whether a ``Prefer`` header says ``if-available``: only an endpoint that has the prompt cached."""
    return any(part.partition(";")[0].strip().lower() == "if-available" for part in prefer.split(","))


def _explained(scores: Mapping[str, Scores], place: int) -> dict[str, dict[str, dict[str, float]]]:
    """What scorers say of their scores for one candidate, if any of them says something."""
    terms = {
        name: {term: round(value, 3) for term, value in given.terms(place).items()}
        for name, given in scores.items()
        if isinstance(given, Explained)
    }
    return {"terms": terms} if terms else {}


def describe(record: PickRecord) -> dict[str, Any]:
    """A remembered pick for people: every candidate with every plugin's score and the total."""
    result = record.result
    shown: dict[str, Any] = {
        "request_id": record.request_id,
        "model": record.model,
        "target_model": record.target_model,
        "prompt_tokens": record.prompt_tokens,
    }
    if isinstance(result, Rejection):
        return {**shown, "rejected": result.body, "status": result.status}
    match = result.match
    if result.picks:
        shown["profiles"] = {name: [each.name for each in picked] for name, picked in result.picks.items()}
    return {
        **shown,
        "picked": [endpoint.name for endpoint in result.endpoints],
        "remark": result.remark or None,
        "prompt_blocks": match.total_blocks if match else None,
        "weights": dict(result.weights),
        "candidates": [
            {
                "endpoint": endpoint.name,
                "address": endpoint.address,
                "total": total,
                "scores": {name: scores[i] for name, scores in result.scores.items()},
                **_explained(result.scores, i),
                "cached_blocks": match.blocks.get(endpoint, 0) if match else None,
            }
            for i, (endpoint, total) in enumerate(zip(result.candidates, result.totals, strict=True))
        ],
    }
