"""A pool under three times its load, in virtual time: who is served, who is shed, who waits."""

import heapq
import math
import random
from collections import Counter
from dataclasses import dataclass, field

import pytest

from epp.core.flow.policies import FlowSettings
from epp.core.flow.queues import Ticket
from epp.core.scheduling import Decision
from scorers.program_aware_fairness import ProgramAwareFairness
from scorers.round_robin_fairness_policy import RoundRobinFairnessPolicy
from tests.core.flow.pools import Pool, band_of, settings_of

ROOM, SERVERS, SERVICE_SECONDS = 4, 2, 1.0
CAPACITY = ROOM * SERVERS / SERVICE_SECONDS  # 8 requests a second


@dataclass
class Load:
    """Requests of one kind, so many a second."""

    objective: str
    rate: float
    tenant: str = ""


@dataclass
class Run:
    """What became of everybody, by objective and tenant."""

    served: Counter[tuple[str, str]] = field(default_factory=Counter)
    shed: Counter[tuple[str, str]] = field(default_factory=Counter)
    waits: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    served_at: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    shed_at: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    overtaken: int = 0
    """Batch requests that got a server while an interactive one waited."""


def run(settings: FlowSettings, loads: list[Load], seconds: float, *, seed: int = 1) -> Run:
    """Arrivals at random, each request takes SERVICE_SECONDS; turns as the driver would have them."""
    chance, pool, result = random.Random(seed), Pool(settings, endpoints=SERVERS), Run()
    events: list[tuple[float, int, str, object]] = []
    order = iter(range(10**9))

    def put(at: float, what: str, about: object = None) -> None:
        heapq.heappush(events, (at, next(order), what, about))

    def told(ticket: Ticket, now: float) -> None:
        kind = kinds[ticket.number]
        if isinstance(ticket.result, Decision):
            result.served[kind] += 1
            result.waits.setdefault(kind, []).append(now - ticket.at)
            result.served_at.setdefault(kind, []).append(now)
            is_batch = ticket.priority < 0
            result.overtaken += is_batch and any(
                len(band) for band in pool.control.bands if band.priority > 0
            )
            put(now + SERVICE_SECONDS, "end", ticket)
        else:
            result.shed[kind] += 1
            result.shed_at.setdefault(kind, []).append(now)

    kinds: dict[int, tuple[str, str]] = {}
    for load in loads:
        put(chance.expovariate(load.rate), "arrive", load)
    planned = math.inf
    while events:
        now, _, what, about = heapq.heappop(events)
        if what == "arrive" and isinstance(about, Load) and now < seconds:
            ticket = pool.arrive(now, about.objective, about.tenant, size=100)
            kinds[ticket.number] = (about.objective, about.tenant)
            if ticket.result is not None:
                told(ticket, now)
            put(now + chance.expovariate(about.rate), "arrive", about)
        elif what == "end" and isinstance(about, Ticket):
            pool.end(about, now)
        for ticket in pool.control.turn(now).answered:
            told(ticket, now)
        planned = planned if planned > now else math.inf
        due = pool.control.due(now)
        if due < planned:
            planned = due
            put(due, "turn")
    assert (pool.control.waiting, pool.in_flight) == (0, 0)
    return result


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "limits",
    [{}, {"max_requests": 40}, {"max_bytes": 4000}, {"default_negative_band": band_of(max_requests=20)}],
    ids=["as it is", "all queues at most 40", "at most 4000 bytes", "batch at most 20"],
)
def test_under_threefold_overload_batch_gives_way_to_interactive(
    limits: dict[str, object], seed: int
) -> None:
    """24 requests a second come, 8 can be served: 5 interactive, the rest batch."""
    settings = settings_of(room=ROOM, ttl=10.0, **limits)
    loads = [Load("interactive", 5.0), Load("batch", 3 * CAPACITY - 5.0)]
    result = run(settings, loads, 300.0, seed=seed)
    interactive, batch = ("interactive", ""), ("batch", "")
    assert result.shed[interactive] == 0
    assert result.overtaken == 0
    assert result.shed[batch] > 3000  # 16 a second are too many
    served = result.served[interactive] + result.served[batch]
    assert served > 0.97 * CAPACITY * 300  # nothing is left idle for it
    # An interactive request waits for one that ends, seldom behind one of its like.
    assert sum(result.waits[interactive]) / len(result.waits[interactive]) < SERVICE_SECONDS / 2


def test_when_interactive_alone_is_too_much_no_batch_is_served() -> None:
    """Then interactive requests are shed, too, but never while a batch request is served."""
    settings = settings_of(room=ROOM, ttl=10.0)
    result = run(settings, [Load("interactive", 16.0), Load("batch", 8.0)], 120.0)
    first_shed = min(result.shed_at["interactive", ""])
    last_shed = max(result.shed_at["interactive", ""])
    batch_served = result.served_at.get(("batch", ""), [])
    assert not [at for at in batch_served if first_shed <= at <= last_shed]
    assert result.overtaken == 0
    assert result.shed["batch", ""] > 0.9 * (result.shed["batch", ""] + result.served["batch", ""])


@pytest.mark.parametrize("fairness", [RoundRobinFairnessPolicy, ProgramAwareFairness])
def test_a_band_cannot_starve_a_tenant(
    fairness: type[RoundRobinFairnessPolicy | ProgramAwareFairness],
) -> None:
    """One tenant sends ten times as much as the pool can serve of it; the other one little: it gets that."""
    settings = settings_of(room=ROOM, ttl=20.0, default_band=band_of(fairness=fairness()))
    result = run(settings, [Load("", 22.0, "greedy"), Load("", 2.0, "modest")], 200.0)
    modest, greedy = ("", "modest"), ("", "greedy")
    assert result.shed[modest] == 0
    assert max(result.waits[modest]) < 2.0
    assert result.served[greedy] > 0.7 * CAPACITY * 200
    assert result.shed[greedy] > 2000


def test_without_fairness_between_tenants_the_modest_one_waits_with_the_greedy() -> None:
    """What the test above would look like if fairness did nothing."""
    settings = settings_of(room=ROOM, ttl=20.0)
    result = run(settings, [Load("", 22.0, "greedy"), Load("", 2.0, "modest")], 200.0)
    assert result.shed["", "modest"] > 50
