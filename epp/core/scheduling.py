"""Choosing: candidates, filters, scores, the pick and its reservation, in one synchronous step.

Place:   one Scheduler per pool, called by the driver with each request; reads epp.core.fleet.
Ignores: where requests come from and answers go, and how plugins were configured.
Rule:    nothing is awaited between looking at the endpoints and reserving, so no two requests see the
         same counts. An unknown score never beats a known one.
Source:  the upstream picker's scheduler: total = sum of weight * clamp(score, 0, 1).
"""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from heapq import nlargest
from itertools import compress, takewhile
from operator import not_
from typing import Any, NamedTuple

import msgspec

from epp.core.fleet import Endpoint, Fleet, Reservation
from epp.core.rejection import ALL_FILTERED, NO_CANDIDATES, NOT_CACHED, Rejected, Rejection
from epp.core.request import Request
from epp.core.scoring import (
    Chance,
    Cycle,
    Filter,
    Picker,
    PrefixMatch,
    Producer,
    Scorer,
    Scores,
    addressed,
)


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """One way of choosing: plugins by name, in the order in which they run."""

    name: str = "default"
    filters: Sequence[tuple[str, Filter]] = ()
    scorers: Sequence[tuple[str, Scorer, float]] = ()
    """Name, scorer, weight."""
    picker: tuple[str, Picker]


class PickRecord(NamedTuple):
    """One remembered pick, as references only; ``describe`` makes it readable."""

    at: float
    """When [s, monotonic]."""
    request_id: str
    model: str
    target_model: str
    prompt_tokens: int
    result: Decision | Rejection


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


class Scheduler:
    """Chooses endpoints of one fleet.

    ``honour_subset``: whether the gateway's subset hint restricts the candidates.
    ``remember``: how many picks ``recent`` keeps, the newest last.
    ``destinations``: how many endpoints a decision names where so many are left; the picker may name more.
    """

    def __init__(
        self,
        fleet: Fleet,
        profile: Profile,
        producers: Sequence[tuple[str, Producer]] = (),
        *,
        chance: Chance,
        honour_subset: bool = True,
        remember: int = 100,
        destinations: int = 1,
    ) -> None:
        self.recent: deque[PickRecord] = deque(maxlen=remember)
        self._fleet = fleet
        self._picker_name, self._picker = profile.picker
        self._producers = tuple(producers)
        self._chance = chance
        self._honour_subset = honour_subset
        self._destinations = destinations
        self._weights = {name: weight for name, _, weight in profile.scorers}
        filters = [each for _, each in profile.filters]
        self._standing_filters = tuple(takewhile(_is_from_readings, filters))
        self._filters = tuple(filters[len(self._standing_filters) :])
        # A score depends on who else is rated: behind a filter that sees the request none stands.
        standing = [bool(not self._filters and _is_from_readings(each)) for _, each, _ in profile.scorers]
        self._standing_scorers = tuple(compress(profile.scorers, standing))
        self._scorers = tuple(compress(profile.scorers, map(not_, standing)))
        self._standing = _Standing(-1, (), (), {}, (), "")
        self._hinted = _Hinted(-1, (), ())

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
        cycle = Cycle(request, now=now, chance=self._chance, version=self._fleet.version)
        found = [(each, each.produce(cycle, candidates, name)) for name, each in self._producers]
        standing = self._stand(cycle, candidates)
        candidates = _filtered(self._filters, cycle, standing.candidates)
        if not candidates:
            return ALL_FILTERED
        scores, totals = _scored(self._scorers, cycle, candidates, standing.scores, standing.totals)
        chosen = self._picker.pick(cycle, candidates, totals)
        if not chosen:
            count = len(candidates)
            raise RuntimeError(f'picker "{self._picker_name}" chose nothing out of {count} endpoints')
        if len(chosen) < self._destinations and len(chosen) < len(candidates):
            chosen = self._with_next_best(chosen, candidates, totals)
        match = self._match(cycle)
        prefer = request.headers.get("prefer")
        if prefer and wants_cached(prefer) and not _held(match, chosen[0]):
            return NOT_CACHED
        for producer, what in found:
            producer.picked(cycle, chosen[0], what)
        reservation = Reservation(chosen[0], cycle.charge, at=now, is_streamed=request.shows_first_token)
        remark = cycle.remark or standing.remark
        return Decision(chosen, reservation, candidates, scores, totals, self._weights, match, remark)

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
        if request.subset is None or not self._honour_subset:
            return self._fleet.candidates(now)
        fleet, hinted = self._fleet, self._hinted
        fleet.expire(now)
        if hinted.version != fleet.version or hinted.subset != request.subset:
            among = addressed(fleet.endpoints, request.subset)
            hinted = _Hinted(fleet.version, request.subset, fleet.candidates(now, among=among))
            self._hinted = hinted
        return hinted.candidates

    def _stand(self, cycle: Cycle, among: Sequence[Endpoint]) -> _Standing:
        """What readings alone say about ``among``, worked out once until the fleet changes."""
        standing, version = self._standing, self._fleet.version
        if standing.version != version or standing.among is not among:
            candidates = _filtered(self._standing_filters, cycle, among)
            scores: Mapping[str, Scores] = {}
            totals: Sequence[float] = ()
            if candidates and self._standing_scorers:
                scores, totals = _scored(self._standing_scorers, cycle, candidates, scores, totals)
            standing = self._standing = _Standing(version, among, candidates, scores, totals, cycle.remark)
        return standing

    def _match(self, cycle: Cycle) -> PrefixMatch | None:
        for name, _ in self._producers:
            fact = cycle.facts.get(name)
            if isinstance(fact, PrefixMatch):
                return fact
        return None


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
                "cached_blocks": match.blocks.get(endpoint, 0) if match else None,
            }
            for i, (endpoint, total) in enumerate(zip(result.candidates, result.totals, strict=True))
        ],
    }
