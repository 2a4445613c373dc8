"""Who goes next, and when: requests that arrive, wait, get a server, are refused or leave.

Place:   one FlowControl per pool, driven by epp.runtime.flow; it asks the scheduler itself, so that the next
         one sees what the last one took.
Ignores: the clock (callers pass ``now`` [s, monotonic]), who is told, and how.
Rule:    every ticket that waits ends exactly once: dispatched, refused, expired or left. Nobody goes ahead
         of a band above that waits; where a band is at its ceiling, nobody below it goes either.
         A policy that fails at choosing fails the caller; one that fails at counting costs no request.
Source:  llm-d-router's flow control (its processor's dispatch cycle), without its tick of 1 ms: what may
         change something (an arrival, a release, a look at a server, time) asks for a turn.
"""

import enum
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple, Protocol, TypeAlias

from epp.core.fleet import Endpoint
from epp.core.flow.eviction import Eviction
from epp.core.flow.policies import Accounts, FlowSettings
from epp.core.flow.queues import Band, Ticket
from epp.core.flow.tenants import fairness_id
from epp.core.rejection import DROPPED_REASON_HEADER, Code, Rejection
from epp.core.request import Request
from epp.core.scheduling import Decision, Pool

MOST_PER_TURN = 16
"""Requests that are placed before others get the loop: 16 picks over 100 endpoints take about 2 ms."""
TICK = 0.001
"""How often a policy that alternates is asked again [s], as upstream."""
BAND_KEPT = 600.0
"""How long a band that nobody configured stays after its last request [s], as upstream."""


Guard: TypeAlias = Callable[[Callable[[], None]], None]
"""Calls whoever only counts, and does not raise: what is reserved must reach its stream."""


def _dropped(code: Code, message: str, reason: str) -> Rejection:
    return Rejection(code, message, {DROPPED_REASON_HEADER: reason})


QUEUE_FULL = _dropped(
    Code.RESOURCE_EXHAUSTED,
    "the pool is saturated and the queue of this priority is full",
    "rejected-saturated",
)
DISPLACED = _dropped(
    Code.RESOURCE_EXHAUSTED,
    "the pool is saturated, and a more important request took the place in the queue",
    "rejected-saturated",
)
EXPIRED = _dropped(Code.RESOURCE_EXHAUSTED, "request timed out in queue", "rejected-ttl-expired")
NOBODY_THERE = _dropped(
    Code.SERVICE_UNAVAILABLE, "no endpoints available, and the queue is full", "rejected-no-endpoints"
)
NOBODY_CAME = _dropped(
    Code.SERVICE_UNAVAILABLE, "no endpoints available: request timed out in queue", "rejected-no-endpoints"
)
SHUTTING_DOWN = _dropped(
    Code.SERVICE_UNAVAILABLE, "the endpoint picker is shutting down", "rejected-shutting-down"
)
EVICTED = _dropped(Code.RESOURCE_EXHAUSTED, "request evicted by flow control", "evicted")


class Fate(enum.Enum):
    """How a request's stay ended, as upstream's metrics spell it."""

    DISPATCHED = "Dispatched"
    REJECTED_CAPACITY = "RejectedCapacity"
    REJECTED_NO_ENDPOINTS = "RejectedNoEndpoints"
    REJECTED_OTHER = "RejectedOther"
    EVICTED_TTL = "EvictedTTL"
    EVICTED_NO_ENDPOINTS = "EvictedNoEndpoints"
    EVICTED_CANCELLED = "EvictedContextCancelled"
    EVICTED_OTHER = "EvictedOther"

    __hash__ = object.__hash__


class Watcher(Protocol):
    """Hears of every request's end of waiting, also of those that did not wait."""

    def left(self, ticket: Ticket, fate: Fate, waited: float) -> None: ...


class Turn(NamedTuple):
    """What came of one look at the queues."""

    answered: Sequence[Ticket]
    """Those that have a ``result`` now and did not before."""
    evicted: Sequence[Ticket]
    """Running ones that are to be stopped."""


class FlowControl:
    """The queues of one pool. ``pick``: the scheduler, which reserves and does not raise."""

    def __init__(
        self,
        settings: FlowSettings,
        pool: Pool,
        pick: Callable[[Request, float], Decision | Rejection],
        *,
        watcher: Watcher,
        guard: Guard,
    ) -> None:
        self.settings = settings
        self._pool = pool
        self._pick = pick
        self._watcher = watcher
        self._guard = guard
        self._bands: dict[int, Band] = {}
        self._arrived = 0
        self._untold: list[Ticket] = []  # they have a result; the next turn tells
        self._has_more = False
        self._is_closed = False
        self._serving: tuple[Endpoint, ...] = ()
        self._serving_version = -1
        self._regime_since = -math.inf
        self._drop_bands_at = math.inf
        self._accounts_by_priority: dict[int, Accounts | None] = {}
        self._eviction: Eviction | None = None
        if settings.eviction is not None:
            self._eviction = Eviction(*settings.eviction, settings.detector.lag)
        for priority in sorted({*settings.bands, 0}, reverse=True):
            self._bands[priority] = Band(priority, settings.band(priority), 0.0)

    # --- what is known

    @property
    def bands(self) -> Sequence[Band]:
        """All of them, the most important first."""
        return tuple(self._bands.values())

    @property
    def waiting(self) -> int:
        """Requests in all queues."""
        return sum(map(len, self._bands.values()))

    @property
    def waiting_bytes(self) -> int:
        """Bytes of their bodies."""
        return sum(band.bytes for band in self._bands.values())

    @property
    def serving(self) -> Sequence[Endpoint]:
        """The endpoints in service, as of the last look at them."""
        return self._serving

    def saturation(self, now: float) -> float:
        """Of the endpoints in service, as of ``now``; it gates dispatch."""
        self._look(now)
        return self.settings.detector.saturation(self._serving, now)

    # --- what happens

    def arrive(self, request: Request, now: float, owner: object = None) -> Ticket:
        """A request is complete: where it need not wait, or may not, the ticket has its result already."""
        self._arrived += 1
        ticket = Ticket(
            request,
            number=self._arrived,
            priority=request.priority,
            tenant=fairness_id(request.headers, request.agent),
            owner=owner,
            at=now,
        )
        band = self._band(ticket.priority, now)
        if not band and self._is_open(band, now):
            self._dispatch(ticket, now)
        elif self._is_closed:
            self._end(ticket, SHUTTING_DOWN, Fate.REJECTED_OTHER, now)
        elif not self._make_room(ticket, band, now):
            if self._serving:
                self._end(ticket, QUEUE_FULL, Fate.REJECTED_CAPACITY, now)
            else:
                self._end(ticket, NOBODY_THERE, Fate.REJECTED_NO_ENDPOINTS, now)
        else:
            band.add(ticket, now + self.settings.ttl)
            self._has_more = self._has_more or bool(self._eviction)  # somebody may have to stop for it
        return ticket

    def turn(self, now: float) -> Turn:
        """Place what can be placed now, and give up what has waited too long."""
        answered = self._untold  # kept, should a policy fail
        evicted: list[Ticket] = []
        self._has_more = False
        if self.waiting:
            for _ in range(MOST_PER_TURN):
                band = self._next_band(now, evicted)
                if band is None:
                    break
                ticket = band.take(now)
                self._dispatch(ticket, now)
                answered.append(ticket)
            else:
                self._has_more = True
            self._expire(now, answered)
        self._untold = []
        return Turn(answered, evicted)

    def ended(self, ticket: Ticket, now: float, *, prompt_tokens: int = 0, output_tokens: int = 0) -> None:
        """The request is over, wherever it was: its client left, or its answer has ended."""
        if ticket.is_waiting:
            self._bands[ticket.priority].remove(ticket)
            self._guard(partial(self._watcher.left, ticket, Fate.EVICTED_CANCELLED, now - ticket.at))
        elif ticket.dispatched_at is not None:
            ticket.dispatched_at = None
            if self._eviction is not None:
                self._eviction.ended(ticket)
            accounts = self._accounts(ticket.priority)
            if accounts is not None:
                self._guard(partial(accounts.completed, ticket.tenant, prompt_tokens, output_tokens, now))

    def close(self, now: float) -> Sequence[Ticket]:
        """The process ends: refuse all that wait; from now on nobody waits."""
        self._is_closed = True
        return self.refuse_all(SHUTTING_DOWN, now)

    def refuse_all(self, rejection: Rejection, now: float) -> Sequence[Ticket]:
        """Refuse all that wait; those that have a result now, and were not told before."""
        waiting = [ticket for band in self._bands.values() for ticket in band.by_arrival]
        for ticket in waiting:
            self._give_up(ticket, rejection, Fate.EVICTED_OTHER, now)
        untold, self._untold = self._untold, []
        return [*untold, *waiting]

    def due(self, now: float) -> float:
        """When the next turn is needed if nothing happens before [s]; inf: never."""
        if self._untold or self._has_more:
            return now
        firsts = [next(iter(band.by_arrival)) for band in self._bands.values() if band]
        if not firsts:
            return math.inf
        due = min(map(self._deadline, firsts))
        if self.settings.usage_limit.alternates:
            due = min(due, now + TICK)
        if self._eviction is not None and self._eviction and self._eviction.next_at > now:
            due = min(due, self._eviction.next_at)
        return due

    # --- inside: who may go

    def _open_bands(self, now: float) -> "Iterator[tuple[Band, float, float]]":
        """Every band with its ceiling and the saturation, the most important first."""
        saturation = self.saturation(now)
        ceilings = self.settings.usage_limit.ceilings(saturation, tuple(self._bands))
        for band, ceiling in zip(self._bands.values(), ceilings, strict=True):
            yield band, ceiling, saturation

    def _is_open(self, wanted: Band, now: float) -> bool:
        """Whether a request of this band, in which nobody waits, may go past all that wait."""
        for band, ceiling, saturation in self._open_bands(now):
            if saturation >= ceiling:
                return False
            if band is wanted:
                return True
            if band:
                return False
        raise AssertionError("a band that is not listed")

    def _next_band(self, now: float, evicted: list[Ticket]) -> Band | None:
        """The band whose turn it is; None: nobody may go. ``evicted`` gets who is stopped for that."""
        is_blocked = False
        for band, ceiling, saturation in self._open_bands(now):
            is_blocked = is_blocked or saturation >= ceiling
            if not band:
                continue
            if not is_blocked:
                return band
            if self._eviction is None:
                break
            if saturation >= ceiling > 0:
                evicted += self._victims(band, ceiling, saturation, now)
                break
        return None

    def _victims(self, band: Band, ceiling: float, saturation: float, now: float) -> list[Ticket]:
        assert self._eviction is not None
        return self._eviction.victims(
            saturation=saturation,
            ceiling=ceiling,
            in_flight=sum(endpoint.requests_in_flight for endpoint in self._serving),
            demand=band.priority,
            now=now,
        )

    def _dispatch(self, ticket: Ticket, now: float) -> None:
        result = ticket.result = self._pick(ticket.request, now)
        waited = now - ticket.at
        if isinstance(result, Decision):
            ticket.dispatched_at = now
            if self._eviction is not None:
                self._guard(partial(self._eviction.started, ticket, now))
            accounts = self._accounts(ticket.priority)
            if accounts is not None:
                self._guard(partial(accounts.dispatched, ticket.tenant, waited, now))
        self._guard(partial(self._watcher.left, ticket, Fate.DISPATCHED, waited))

    def _accounts(self, priority: int) -> Accounts | None:
        """The fairness policy of a priority, if it wants to know what becomes of requests."""
        try:
            return self._accounts_by_priority[priority]
        except KeyError:  # asked once: such an isinstance takes 5 us
            fairness = self.settings.band(priority).fairness
            found = fairness if isinstance(fairness, Accounts) else None
            self._accounts_by_priority[priority] = found
            return found

    # --- inside: who may wait, and how long

    def _make_room(self, ticket: Ticket, band: Band, now: float) -> bool:
        """Whether the ticket may wait. Over all bands, sheddable requests give way to more important ones."""
        size = ticket.request.body_bytes
        if not band.has_room(size):
            return False
        below = [each for each in self._bands.values() if each.priority < min(ticket.priority, 0)]
        if not self._has_room(size, without=below):
            return False
        while not self._has_room(size):
            least = next(each for each in reversed(below) if each)
            displaced = next(reversed(least.by_arrival))
            self._give_up(displaced, DISPLACED, Fate.REJECTED_CAPACITY, now)
            self._untold.append(displaced)
        return True

    def _has_room(self, size: int, *, without: Sequence[Band] = ()) -> bool:
        settings = self.settings
        requests = self.waiting - sum(map(len, without))
        held = self.waiting_bytes - sum(band.bytes for band in without)
        return requests < settings.max_requests and held + size <= settings.max_bytes

    def _expire(self, now: float, answered: list[Ticket]) -> None:
        for band in self._bands.values():
            while band:
                ticket = next(iter(band.by_arrival))
                if self._deadline(ticket) > now:
                    break
                if self._serving:
                    self._give_up(ticket, EXPIRED, Fate.EVICTED_TTL, now)
                else:
                    self._give_up(ticket, NOBODY_CAME, Fate.EVICTED_NO_ENDPOINTS, now)
                answered.append(ticket)

    def _deadline(self, ticket: Ticket) -> float:
        """The end of its stay. It begins anew when the first endpoint comes or the last one goes."""
        settings = self.settings
        return max(ticket.at, self._regime_since) + (
            settings.ttl if self._serving else settings.no_endpoint_ttl
        )

    def _give_up(self, ticket: Ticket, rejection: Rejection, fate: Fate, now: float) -> None:
        self._bands[ticket.priority].remove(ticket)
        self._end(ticket, rejection, fate, now)

    def _end(self, ticket: Ticket, rejection: Rejection, fate: Fate, now: float) -> None:
        ticket.result = rejection
        self._guard(partial(self._watcher.left, ticket, fate, now - ticket.at))

    # --- inside: bands and endpoints

    def _band(self, priority: int, now: float) -> Band:
        if now >= self._drop_bands_at:
            self._drop_bands(now)
        band = self._bands.get(priority)
        if band is None:
            band = Band(priority, self.settings.band(priority), now)
            bands = sorted((*self._bands.values(), band), key=lambda each: -each.priority)
            self._bands = {each.priority: each for each in bands}
            self._drop_bands_at = min(self._drop_bands_at, now + BAND_KEPT)
        band.used_at = now
        return band

    def _drop_bands(self, now: float) -> None:
        """Forget bands of nobody's configuration that have not been used for long."""
        kept = {*self.settings.bands, 0}
        self._bands = {
            priority: band
            for priority, band in self._bands.items()
            if priority in kept or band or now - band.used_at < BAND_KEPT
        }
        used = [band.used_at for band in self._bands.values() if band.priority not in kept]
        self._drop_bands_at = max(now, min(used, default=math.inf)) + BAND_KEPT

    def _look(self, now: float) -> None:
        """Who is in service now."""
        pool = self._pool
        pool.expire(now)
        if pool.version != self._serving_version:
            self._serving_version = pool.version
            before = bool(self._serving)
            self._serving = tuple(each for each in pool.endpoints if each.lifecycle.is_serving)
            if bool(self._serving) is not before:
                self._regime_since = now
