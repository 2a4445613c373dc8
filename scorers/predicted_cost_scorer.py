"""``predicted-cost-scorer``: the endpoint where this request costs the least time, itself and others."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, ClassVar, TypeAlias

from epp.core.scoring import (
    ATTENTION,
    Cycle,
    Endpoint,
    Expected,
    Explained,
    PrefixMatch,
    Request,
    Scores,
    expected,
    typical,
)

SLO_HEADERS = ("x-llm-d-slo-ttft-ms", "x-slo-ttft-ms")
TERMS = ("first_token_ms", "wait_ms", "others_ms", "further_tokens_ms")
"""What a cost is made of."""
LATER_TOKEN = 0.05
"""What a second counts that an answer under way is later, against one until a first token: a pause of 20 ms
in each of 50 answers is a twentieth as bad as a second before one."""
OWN_ANSWER = 0.02
"""The same of a second by which the own answer is later complete: nobody knows how long it will be."""
BUSY_PACE = 2.0
"""A token takes up to so many times as long where prompts are worked on between two: a server is slower than
the fastest by what it takes more."""
REFRESH = 0.25
"""Seconds between two looks at what was learnt: a thirtieth of the time in which it fades to a half."""
NEAR = 0.02
"""Costs that differ by less than this part are equal: measured times differ by more."""
TICK = 0.001
"""So are costs that differ by less than so many seconds: a fifth of the shortest step of an engine."""
LATELY = 8.0
"""Half-life [s] of how often requests come, as of what is learnt of servers."""
SHARE_HALF_LIFE = 10.0
"""Seconds in which the estimate of our share of the load follows half of a change: pickers come and go."""
MOST_PICKERS = 16.0
"""More are not believed: who sends next to nothing himself knows little of his share."""
PROMPTS = 64.0
"""Over how many requests the mean of their prompts is taken."""

_Terms: TypeAlias = tuple[float, float, float, float]


class _Row:
    """What is known of one endpoint, worked out for the loop over all of them. Times in seconds."""

    __slots__ = (
        "gap",
        "is_measured",
        "others",
        "others_work",
        "overhead",
        "per_cache_token",
        "per_prompt_token",
        "places",
        "read_at",
        "room",
        "share",
        "slower",
        "stay",
        "trust",
        "used",
        "work_then",
    )

    def __init__(self) -> None:
        self.read_at: float | None = -math.inf
        """Of the reading that the following is from."""
        self.others = 0
        """Requests that we did not send, and ..."""
        self.others_work = 0.0
        """... the work on the prompts of those that wait."""
        self.work_then = 0
        """Of ours."""
        self.places = math.inf
        """Requests that it works on at once, and ..."""
        self.gap = 0.0
        """... the time between two ends while all are taken."""
        self.room = math.inf
        """Tokens for which its KV cache has room, and ..."""
        self.per_cache_token = 0.0
        """... how long it takes until one is free while it has none."""
        self.used = 0.0
        """Share of the KV cache that is in use."""

    def expect(self, speed: Expected, trust: float, *, share: float, usual: float) -> None:
        """Take what was learnt. ``share``: of all requests, those that it probably gets; ``usual``: what a
        token takes that is made beside others' prompts on the fastest."""
        self.overhead, self.per_prompt_token = speed.overhead, speed.per_prompt_token
        self.slower = max(speed.per_token - usual, 0.0)
        self.stay, self.is_measured = speed.stay, speed.is_measured
        self.trust, self.share = trust, share
        self.read_at = -math.inf

    def look(self, endpoint: Endpoint, fresh: float) -> None:
        """Take what the last reading said. ``fresh``: work that another's prompt probably is."""
        load, then = endpoint.load, endpoint.when_read
        self.read_at = endpoint.load_at
        self.others, self.others_work, self.work_then = 0, 0.0, then.work
        self.places, self.gap, self.room, self.per_cache_token, self.used = math.inf, 0.0, math.inf, 0.0, 0.0
        if endpoint.load_at is None:
            return
        waiting, running = load.waiting or 0, load.running or 0
        self.others = max(waiting + running - max(then.requests, then.requests_before), 0)
        self.others_work = min(self.others, waiting) * fresh
        if load.slots is not None:
            self.places, self.gap = load.slots, self.stay / load.slots
            self.used = min((waiting + running) / load.slots, 1.0)
        elif (size := load.cache_tokens) and load.kv_usage is not None:
            self.room, self.per_cache_token = size * (1.0 - load.kv_usage), self.stay / size
            self.used = load.kv_usage


class _Book:
    """What holds for a whole pool; the rows are remembered with their endpoints."""

    __slots__ = (
        "_among",
        "_began_at",
        "_came",
        "_came_at",
        "_due",
        "_list",
        "fresh",
        "output",
        "pickers",
        "slowest",
    )

    def __init__(self) -> None:
        self._among: Sequence[Endpoint] = ()
        self._list: Sequence[_Row] = ()
        self._due = self._began_at = self._came_at = -math.inf
        self._came = 0.0
        """Requests, faded to ``_came_at``."""
        self.fresh = 0.0
        """Tokens of a prompt that nobody has cached: a mean."""
        self.output = 0.0
        """Tokens that an answer probably has."""
        self.slowest = 0.0
        """Seconds a prompt token at the slowest endpoint that is measured."""
        self.pickers = 1.0
        """How much is sent to the pool for each request that we send."""

    def rows(self, endpoints: Sequence[Endpoint], now: float) -> Sequence[_Row]:
        """One for each endpoint, in their order."""
        if endpoints is not self._among or now >= self._due:
            found: list[Any] = [each.memory.get(self) for each in endpoints]
            is_due = now >= self._due or None in found
            self._among, self._list = endpoints, self._refresh(endpoints, now) if is_due else found
        return self._list

    def came(self, fresh: float, now: float) -> float:
        """A request, of which nobody has ``fresh`` tokens; how many come in a second."""
        if self._came:
            self._came *= 0.5 ** ((now - self._came_at) / LATELY)
        else:
            self._began_at = now
        self._came += 1.0
        self._came_at = now
        self.fresh += (fresh - self.fresh) / PROMPTS
        watched = max(now - self._began_at, REFRESH)
        weight: float = 1.0 - 0.5 ** (watched / LATELY)
        return self._came * math.log(2.0) / LATELY / weight * self.pickers

    def _refresh(self, endpoints: Sequence[Endpoint], now: float) -> list[_Row]:
        engines = [each.engine for each in endpoints]
        known = [each.rates.speed(now, typical(each.engine)) for each in endpoints]
        speeds = expected(known, engines)
        all_speed = sum(1.0 / speed.per_prompt_token for speed in speeds)
        usual = BUSY_PACE * min(speed.per_token for speed in speeds)
        rows = []
        for endpoint, speed in zip(endpoints, speeds, strict=True):
            row = endpoint.memory.get(self)
            if row is None:
                row = endpoint.memory[self] = _Row()
            share = 1.0 / (speed.per_prompt_token * all_speed)
            row.expect(speed, endpoint.rates.trust, share=share, usual=usual)
            endpoint.rates.per_prompt_token = speed.per_prompt_token
            rows.append(row)
        self.output = median(speed.output for speed in speeds)
        self.slowest = max((each.per_prompt_token for each in speeds if each.is_measured), default=0.0)
        self._count_pickers(endpoints)
        self._due = now + REFRESH
        return rows

    def _count_pickers(self, endpoints: Sequence[Endpoint]) -> None:
        """Others do as we do: they see the same readings. So what they have sent since is to what we have
        sent as all that the servers report is to ours."""
        read = [each for each in endpoints if each.load_at is not None]
        reported = sum((each.load.waiting or 0) + (each.load.running or 0) for each in read)
        ratio = (reported + 1) / (sum(each.when_read.requests for each in read) + 1)
        followed = 1.0 - 0.5 ** (REFRESH / SHARE_HALF_LIFE)
        self.pickers += (min(max(ratio, 1.0), MOST_PICKERS) - self.pickers) * followed


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictedCostScorer:
    """Prefer the endpoint where this request costs the least time: until its own first token, and of others.

    In:     n endpoints; what was learnt of their speed; our requests there, each counted from its pick on;
            their last readings, as far as these tell of others' requests and of memory; the PrefixMatch of
            the named producer.
    Out:    least cost / cost, in (0, 1]. A cost [s] is the time until the own first token, with the wait for
            memory or a slot where there is none, and what that takes from others: from those who come
            while it waits, from those whose answers are under way, and from those whose prefixes must make
            room. [The whole derivation](../scheduling.md). Where the header `x-llm-d-slo-ttft-ms` (or
            `x-slo-ttft-ms`) says when the first token is due, those that are predicted to have it by then
            score above all others, the one that costs others the least first.
    Ties:   costs within 2 % or 1 ms of the least are equal to it, and score 1.
    """

    prefix_match_info_producer_name: str = "approx-prefix-cache-producer"
    book: _Book = field(init=False, repr=False, compare=False, default_factory=_Book)

    requires: ClassVar[Mapping[str, str]] = {
        "prefix_match_info_producer_name": "approx-prefix-cache-producer",
    }

    def score(self, cycle: Cycle, endpoints: Sequence[Endpoint]) -> Scores:
        if not endpoints:
            return []
        terms = self._terms(cycle, endpoints)
        due = _due(cycle.request)
        if due is None:
            costs = [first + wait + others + further for first, wait, others, further in terms]
        else:
            costs = _by_harm(terms, due)
        best = min(costs)
        near = max(best * (1.0 + NEAR), best + TICK)
        scores = [1.0 if cost <= near else best / cost for cost in costs]
        return Explained(scores, TERMS, terms, scale=1000.0)

    def _terms(self, cycle: Cycle, endpoints: Sequence[Endpoint]) -> list[_Terms]:
        """Of each endpoint, the parts of its cost [s]. One loop without calls: 100 endpoints take 0.1 ms."""
        now, book, prompt = cycle.now, self.book, cycle.request.prompt_tokens
        rows = book.rows(endpoints, now)
        match: PrefixMatch | None = cycle.facts.get(self.prefix_match_info_producer_name)
        blocks: Mapping[Endpoint, int] = match.blocks if match is not None else {}
        block_tokens = match.block_tokens if match is not None else 0
        come = book.came(max(prompt - max(blocks.values(), default=0) * block_tokens, 0), now)
        allowed, output = cycle.request.payload.max_output_tokens, book.output
        if allowed is not None and allowed < output:
            output = max(allowed, 0)
        like_us, slowest, mean_fresh, mean_output = book.pickers - 1.0, book.slowest, book.fresh, book.output
        found = []
        for endpoint, row in zip(endpoints, rows):  # noqa: B905 (one length, and hot)
            if row.read_at != endpoint.load_at:
                row.look(endpoint, mean_fresh)
            per_token, unanswered = row.per_prompt_token, endpoint.unanswered
            without_token, count = len(unanswered), endpoint.requests_in_flight + row.others
            if without_token and not row.is_measured and per_token < slowest:
                per_token = slowest
            ahead, since_then = float(endpoint.work_in_flight), 0.0
            if ahead:
                if unanswered:
                    head = next(iter(unanswered))
                    ahead -= min((now - max(head.at, endpoint.first_token_at)) / per_token, head.work)
                if endpoint.unseen.work:
                    ahead += endpoint.unseen.left(now, per_token) - endpoint.unseen.work
                if ahead > row.work_then:
                    since_then = (ahead - row.work_then) * (1.0 + like_us)
                    ahead += since_then - (ahead - row.work_then)
            if row.others_work:
                theirs = row.others_work - (now - (row.read_at or now)) / per_token
                if theirs > 0.0:
                    ahead += theirs
            cached = blocks.get(endpoint)
            held = cached * block_tokens * row.trust if cached else 0.0
            fresh = prompt - held if held < prompt else 0.0
            work = fresh * (1.0 + ATTENTION * (held + 0.5 * fresh)) * per_token
            first, wait, taken = row.overhead + ahead * per_token + work, 0.0, work
            under_way = min(count - without_token, row.places)
            if count >= row.places:
                wait = (count + 1 - row.places) * row.gap
            elif row.per_cache_token:
                missing = ahead + fresh + without_token * mean_output - row.room
                if missing > 0.0:
                    wait = missing * row.per_cache_token
                    taken += fresh * row.per_cache_token
            used = row.used + since_then * row.per_cache_token / row.stay
            behind = come * row.share * (first + wait)
            found.append(
                (
                    first,
                    wait,
                    taken * (behind + under_way * LATER_TOKEN) + work * used,
                    output * OWN_ANSWER * row.slower,
                )
            )
        return found


def _by_harm(terms: Sequence[_Terms], due: float) -> list[float]:
    """Costs by which those whose first token is there when it is ``due`` [s] come first, by what they cost
    others; if none is, as ever."""
    costs = [first + wait + others + further for first, wait, others, further in terms]
    if not any(first + wait <= due for first, wait, _, _ in terms):
        return costs
    most = TICK + max(others + further for _, _, others, further in terms)
    return [
        TICK + others + further if first + wait <= due else most + cost
        for (first, wait, others, further), cost in zip(terms, costs, strict=True)
    ]


def _due(request: Request) -> float | None:
    """When its first token is due [s]; None: it does not say, or says what is no number of at least 0."""
    headers = request.headers
    text = headers.get(SLO_HEADERS[0]) or headers.get(SLO_HEADERS[1])
    if not text:
        return None
    text = text.strip()
    return int(text) / 1000 if len(text) <= 15 and text.isascii() and text.isdigit() else None
