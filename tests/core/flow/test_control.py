"""Who goes next, who waits and who is refused, worked out by hand."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from epp.core.flow.control import (
    DISPLACED,
    EXPIRED,
    NOBODY_CAME,
    NOBODY_THERE,
    QUEUE_FULL,
    SHUTTING_DOWN,
    Fate,
)
from epp.core.flow.queues import Ticket
from epp.core.lifecycle import Phase
from epp.core.rejection import ALL_FILTERED
from epp.core.request import Request
from epp.core.scheduling import Decision
from scorers.concurrency_detector import ConcurrencyDetector
from scorers.edf_ordering_policy import EdfOrderingPolicy
from scorers.priority_holdback_policy import PriorityHoldbackPolicy
from scorers.priority_then_time_eviction_order_policy import PriorityThenTimeEvictionOrderPolicy
from scorers.round_robin_fairness_policy import RoundRobinFairnessPolicy
from scorers.sheddable_eviction_filter import SheddableEvictionFilter
from scorers.slo_deadline_ordering_policy import SloDeadlineOrderingPolicy
from scorers.soft_reflective_ceiling_policy import SoftReflectiveCeilingPolicy
from scorers.static_usage_limit_policy import StaticUsageLimitPolicy
from tests.core.flow.pools import Pool, band_of, occupy, request_of, settings_of
from tests.picking import fleet_of

NOW, FORMER = "x-llm-d-inference-fairness-id", "x-gateway-inference-fairness-id"
EVICTION = (SheddableEvictionFilter(), PriorityThenTimeEvictionOrderPolicy())


def served(pool: Pool, running: list[Ticket], now: float) -> list[Ticket]:
    """One running request ends after the other; who gets a server then, in order."""
    order: list[Ticket] = []
    while running:
        pool.end(running.pop(0), now)
        answered = pool.control.turn(now).answered
        order += answered
        running += answered
    return order


def test_with_room_nobody_waits() -> None:
    pool = Pool(settings_of(room=2))
    tickets = [pool.arrive(1.0), pool.arrive(1.0)]
    assert all(isinstance(ticket.result, Decision) for ticket in tickets)
    assert pool.fates == {Fate.DISPATCHED: 2}
    assert pool.waits == [0.0, 0.0]


class Miscounting(RoundRobinFairnessPolicy):
    """A policy of somebody's that fails at its accounts."""

    def dispatched(self, flow: str, waited: float, now: float) -> None:
        raise KeyError("dispatched")

    def completed(self, flow: str, prompt_tokens: int, output_tokens: int, now: float) -> None:
        raise KeyError("completed")


class Unsure(SheddableEvictionFilter):
    """A policy of somebody's that fails when a request starts."""

    def may_evict(self, priority: int) -> bool:
        raise KeyError("may_evict")


def test_a_policy_that_fails_at_counting_costs_no_request() -> None:
    eviction = (Unsure(), PriorityThenTimeEvictionOrderPolicy())
    pool = Pool(settings_of(room=1, default_band=band_of(fairness=Miscounting()), eviction=eviction))
    first, second, third = pool.arrive(1.0), pool.arrive(2.0), pool.arrive(3.0)
    assert served(pool, [first], 4.0) == [second, third]
    assert all(isinstance(ticket.result, Decision) for ticket in (first, second, third))
    assert (pool.in_flight, pool.fates) == (0, {Fate.DISPATCHED: 3})
    assert [fault.args[0] for fault in pool.complaints] == ["may_evict", "dispatched", "completed"] * 3


@dataclass(frozen=True, slots=True, eq=False)
class Bookkeeper(RoundRobinFairnessPolicy):
    """A policy that writes down what it is told."""

    told: list[tuple[object, ...]] = field(default_factory=list)

    def dispatched(self, flow: str, waited: float, now: float) -> None:
        self.told.append(("dispatched", flow, waited, now))

    def completed(self, flow: str, prompt_tokens: int, output_tokens: int, now: float) -> None:
        self.told.append(("completed", flow, prompt_tokens, output_tokens, now))


def test_a_policy_is_told_what_becomes_of_requests() -> None:
    keeper = Bookkeeper()
    pool = Pool(settings_of(room=1, default_band=band_of(fairness=keeper)))
    first, second, third = (pool.arrive(at, tenant=name) for at, name in [(1.0, "a"), (2.0, "b"), (2.5, "c")])
    pool.end(third, 3.0)  # who leaves the queue had nothing
    pool.end(first, 4.0)
    assert pool.control.turn(4.5).answered == [second]
    pool.end(second, 7.0)
    assert keeper.told == [
        ("dispatched", "a", 0.0, 1.0),
        ("completed", "a", 100, 50, 4.0),
        ("dispatched", "b", 2.5, 4.5),
        ("completed", "b", 100, 50, 7.0),
    ]


def test_who_comes_to_a_full_pool_goes_when_somebody_ends() -> None:
    pool = Pool(settings_of(room=1))
    first, second = pool.arrive(1.0), pool.arrive(2.0)
    assert second.is_waiting and second.result is None
    assert pool.control.turn(3.0) == ([], [])
    pool.end(first, 4.0)
    assert pool.control.turn(4.5).answered == [second]
    assert pool.waits == [0.0, 2.5]
    pool.end(second, 5.0)
    assert (pool.control.waiting, pool.in_flight) == (0, 0)


def test_priorities_go_from_high_to_low_and_nobody_passes_a_band_that_waits() -> None:
    pool = Pool(settings_of(room=1))
    running = [pool.arrive(0.0)]
    names = ["spare", "batch", "standard", "interactive", "batch", "interactive"]
    tickets = [pool.arrive(1.0, name) for name in names]
    order = served(pool, running, 2.0)
    assert order == [tickets[3], tickets[5], tickets[2], tickets[1], tickets[4], tickets[0]]


def test_who_arrives_goes_past_those_of_lower_bands_only() -> None:
    held_back = settings_of(room=10, usage_limit=PriorityHoldbackPolicy(min_ceiling=0.5))
    pool = Pool(held_back)
    for _ in range(5):
        pool.arrive(0.0, "interactive")
    batch = pool.arrive(1.0, "batch")  # bands 100, 0, -1: ceilings 1.0, 0.75, 0.5; 5 of 10 is 0.5
    assert batch.is_waiting
    assert not pool.arrive(1.0, "interactive").is_waiting
    assert pool.arrive(1.0, "batch").is_waiting


def test_who_arrives_when_a_server_is_free_passes_nobody() -> None:
    """Between an end and the next turn."""
    for waits, arrives in [("interactive", "batch"), ("standard", "standard")]:
        pool = Pool(settings_of(room=1))
        running, early = pool.arrive(0.0), pool.arrive(1.0, waits)
        pool.end(running, 2.0)
        late = pool.arrive(2.0, arrives)
        assert late.is_waiting
        assert pool.control.turn(2.0).answered == [early]
        pool.end(early, 3.0)
        assert not pool.arrive(3.0, "interactive").is_waiting, "but those above may"
        assert late.is_waiting


def test_bands_are_listed_the_most_important_first() -> None:
    pool = Pool(settings_of(bands={priority: band_of() for priority in (-1, 100, 5)}))
    assert [band.priority for band in pool.control.bands] == [100, 5, 0, -1]


@dataclass(frozen=True, slots=True)
class Upside(StaticUsageLimitPolicy):
    """A policy of somebody's that stops the most important band first."""

    def ceilings(self, saturation: float, priorities: Sequence[int]) -> Sequence[float]:
        return [0.5 + 0.1 * place for place in range(len(priorities))]


def test_where_a_band_is_at_its_ceiling_nobody_below_it_goes_either() -> None:
    pool = Pool(settings_of(room=10, usage_limit=Upside(), bands={100: band_of()}))
    running = [pool.arrive(0.0) for _ in range(5)]
    waiting = pool.arrive(1.0)
    assert waiting.is_waiting and pool.control.turn(1.0).answered == [], "band 100 is full, with nobody in it"
    pool.end(running[0], 2.0)
    assert pool.control.turn(2.0).answered == [waiting]


def test_an_unknown_objective_is_priority_0() -> None:
    pool = Pool(settings_of())
    assert pool.arrive(0.0, "no-such").priority == 0
    assert pool.control.arrive(request_of(**{"x-gateway-inference-objective": "batch"}), 0.0).priority == -1


@pytest.mark.parametrize(
    "headers, agent, tenant",
    [
        ({NOW: "now", FORMER: "former"}, "agent", "now"),
        ({FORMER: "former"}, "agent", "former"),
        ({NOW: "", FORMER: "former"}, "", "former"),
        ({}, "agent", "agent"),
        ({NOW: ""}, "", "default-flow"),
    ],
)
def test_whose_request_it_is_its_headers_say_before_its_agent(
    headers: dict[str, str], agent: str, tenant: str
) -> None:
    assert Pool(settings_of()).control.arrive(Request(headers=headers, agent=agent), 0.0).tenant == tenant


def test_one_tenant_cannot_keep_another_waiting() -> None:
    fair = settings_of(room=1, default_band=band_of(fairness=RoundRobinFairnessPolicy()))
    pool = Pool(fair)
    running = [pool.arrive(0.0)]
    greedy = [pool.arrive(1.0, tenant="greedy") for _ in range(4)]
    modest = [pool.arrive(2.0, tenant="modest") for _ in range(2)]
    order = served(pool, running, 3.0)
    assert order == [greedy[0], modest[0], greedy[1], modest[1], greedy[2], greedy[3]]


def test_without_fairness_the_order_of_arrival_counts() -> None:
    pool = Pool(settings_of(room=1))
    running = [pool.arrive(0.0)]
    tickets = [pool.arrive(1.0, tenant=tenant) for tenant in ("greedy", "greedy", "modest", "greedy")]
    assert served(pool, running, 3.0) == tickets


def test_the_first_token_that_is_promised_first_goes_first() -> None:
    promised = settings_of(room=1, default_band=band_of(ordering=SloDeadlineOrderingPolicy()))
    pool = Pool(promised)
    running = [pool.arrive(0.0)]
    header, older = "x-llm-d-slo-ttft-ms", "x-slo-ttft-ms"
    nothing = pool.arrive(1.0)
    late = pool.control.arrive(request_of(**{header: "5000"}), 1.0)
    soon = pool.control.arrive(request_of(**{older: "1000"}), 2.0)
    rubbish = pool.control.arrive(request_of(**{header: "-3"}), 2.0)
    assert served(pool, running, 3.0) == [soon, late, nothing, rubbish]


def test_deadlines_of_one_ttl_are_the_order_of_arrival() -> None:
    ordered = settings_of(room=1, default_band=band_of(ordering=EdfOrderingPolicy()))
    pool = Pool(ordered)
    running = [pool.arrive(0.0)]
    tickets = [pool.arrive(float(at)) for at in (1, 2, 3)]
    assert [ticket.rank for ticket in tickets] == [61.0, 62.0, 63.0]
    assert served(pool, running, 4.0) == tickets


@pytest.mark.parametrize("limits", [{"max_requests": 2}, {"max_bytes": 20}], ids=["of requests", "of bytes"])
def test_a_band_is_full(limits: dict[str, int]) -> None:
    pool = Pool(settings_of(room=1, bands={-1: band_of(**limits)}))
    pool.arrive(0.0)
    waiting = [pool.arrive(1.0, "batch", size=10) for _ in range(2)]
    refused = pool.arrive(1.0, "batch", size=10)
    assert refused.result is QUEUE_FULL and QUEUE_FULL.status == 429
    assert QUEUE_FULL.headers == {"x-llm-d-request-dropped-reason": "rejected-saturated"}
    assert pool.arrive(1.0, "standard", size=10).is_waiting  # another band has room of its own
    pool.end(waiting[0], 2.0)
    assert pool.arrive(2.0, "batch", size=10).is_waiting
    assert pool.fates[Fate.REJECTED_CAPACITY] == 1


def test_over_all_bands_sheddable_requests_give_way() -> None:
    pool = Pool(settings_of(room=1, max_requests=3))
    pool.arrive(0.0)
    spare, batch, newer = pool.arrive(1.0, "spare"), pool.arrive(1.0, "batch"), pool.arrive(2.0, "batch")
    assert pool.arrive(3.0, "interactive").is_waiting
    assert spare.result is DISPLACED
    assert pool.control.due(3.0) == 3.0
    assert pool.control.turn(3.0).answered == [spare]
    assert pool.arrive(3.0, "standard").is_waiting
    assert newer.result is DISPLACED and batch.is_waiting  # the newest of its band
    assert pool.arrive(3.0, "batch").result is QUEUE_FULL  # its like does not give way
    assert pool.arrive(3.0, "interactive").is_waiting
    assert pool.arrive(3.0, "interactive").result is QUEUE_FULL  # nor what is not sheddable
    displaced, full = 3, 2
    assert pool.fates == {Fate.DISPATCHED: 1, Fate.REJECTED_CAPACITY: displaced + full}


def test_nobody_gives_way_in_vain() -> None:
    pool = Pool(settings_of(room=1, max_bytes=100))
    pool.arrive(0.0)
    batch, standard = pool.arrive(1.0, "batch", size=20), pool.arrive(1.0, "standard", size=50)
    assert pool.arrive(1.0, "interactive", size=60).result is QUEUE_FULL
    assert batch.is_waiting and standard.is_waiting
    assert pool.arrive(1.0, "interactive", size=50).is_waiting
    assert batch.result is DISPLACED


def test_who_has_waited_too_long_is_told() -> None:
    pool = Pool(settings_of(room=1, ttl=5.0))
    running = pool.arrive(0.0)
    early, late = pool.arrive(1.0), pool.arrive(3.0, "batch")
    assert pool.control.due(3.0) == 6.0
    assert pool.control.turn(5.9).answered == []
    assert pool.control.turn(6.0).answered == [early]
    assert early.result is EXPIRED and EXPIRED.status == 429
    assert EXPIRED.headers == {"x-llm-d-request-dropped-reason": "rejected-ttl-expired"}
    assert pool.fates == {Fate.DISPATCHED: 1, Fate.EVICTED_TTL: 1}
    assert pool.control.due(6.0) == 8.0
    pool.end(running, 8.0)
    assert pool.control.turn(8.0).answered == [late]  # a server comes before the end of its stay
    assert isinstance(late.result, Decision)


def test_without_a_ttl_nobody_is_told() -> None:
    pool = Pool(settings_of(room=1, ttl=math.inf))
    pool.arrive(0.0)
    pool.arrive(1.0)
    assert pool.control.due(1.0) == math.inf
    assert pool.control.turn(1e9).answered == []


def test_a_pool_without_servers_has_a_ttl_of_its_own_which_begins_anew() -> None:
    pool = Pool(settings_of(ttl=5.0, no_endpoint_ttl=100.0, bands={-1: band_of(max_requests=1)}))
    pool.control._pool = pool.fleet = fleet_of([Phase.EJECTED])
    early, late = pool.arrive(10.0, "batch"), pool.arrive(50.0)
    refused = pool.arrive(50.0, "batch")
    assert refused.result is NOBODY_THERE and NOBODY_THERE.status == 503
    assert pool.control.due(50.0) == 110.0
    assert pool.control.turn(110.0).answered == [early]
    assert early.result is NOBODY_CAME and NOBODY_CAME.status == 503
    assert pool.fates == {Fate.REJECTED_NO_ENDPOINTS: 1, Fate.EVICTED_NO_ENDPOINTS: 1}
    assert NOBODY_CAME.headers == {"x-llm-d-request-dropped-reason": "rejected-no-endpoints"}
    pool.fleet = pool.control._pool = fleet_of([None])
    pool.control._serving_version = -1
    assert pool.control.turn(120.0).answered == [late]
    assert isinstance(late.result, Decision)


def test_a_stay_begins_anew_when_the_last_server_goes_and_when_one_comes_that_is_full() -> None:
    pool = Pool(settings_of(room=1, ttl=5.0, no_endpoint_ttl=100.0))
    (server,) = pool.fleet.endpoints
    running, waiting = pool.arrive(0.0), pool.arrive(1.0)
    pool.fleet.lost(server, 4.0, "gone")
    assert pool.control.turn(4.0).answered == [] and pool.control.due(4.0) == 104.0
    pool.fleet.failed(server, 50.0, "probed")
    pool.fleet.answered(server, 50.0)
    assert pool.control.turn(50.0).answered == [] and pool.control.due(50.0) == 55.0
    pool.fleet.answered(server, 54.0)
    assert pool.control.turn(54.0).answered == [], "it is full as before"
    assert pool.control.turn(55.0).answered == [waiting], "another look at a server changes nothing"
    assert waiting.result is EXPIRED
    assert pool.fates == {Fate.DISPATCHED: 1, Fate.EVICTED_TTL: 1}
    pool.end(running, 56.0)


def test_who_leaves_is_gone_at_once() -> None:
    pool = Pool(settings_of(room=1))
    running = pool.arrive(0.0)
    leaving, staying = pool.arrive(1.0, size=10), pool.arrive(2.0, size=5)
    pool.end(leaving, 3.0)
    assert (pool.control.waiting, pool.control.waiting_bytes) == (1, 5)
    assert pool.fates[Fate.EVICTED_CANCELLED] == 1
    pool.end(running, 4.0)
    assert pool.control.turn(4.0).answered == [staying]


def test_the_scheduler_may_refuse_whoever_has_its_turn() -> None:
    pool = Pool(settings_of())
    pool.refusal = ALL_FILTERED
    ticket = pool.arrive(0.0)
    assert ticket.result is ALL_FILTERED and ticket.dispatched_at is None


def test_a_long_queue_lets_others_in_between() -> None:
    pool = Pool(settings_of(room=100))
    occupied = [pool.arrive(0.0) for _ in range(100)]
    for _ in range(40):
        pool.arrive(1.0)
    for ticket in occupied:
        pool.end(ticket, 2.0)
    assert [len(pool.control.turn(2.0).answered) for _ in range(3)] == [16, 16, 8]
    assert pool.control.due(2.0) == math.inf


def test_a_shutdown_refuses_those_that_wait_and_those_that_would() -> None:
    pool = Pool(settings_of(room=1))
    running = pool.arrive(0.0)
    waiting = pool.arrive(1.0)
    assert list(pool.control.close(2.0)) == [waiting]
    assert waiting.result is SHUTTING_DOWN and SHUTTING_DOWN.status == 503
    assert pool.arrive(3.0).result is SHUTTING_DOWN
    assert pool.fates == {Fate.DISPATCHED: 1, Fate.EVICTED_OTHER: 1, Fate.REJECTED_OTHER: 1}
    pool.end(running, 4.0)
    assert isinstance(pool.arrive(5.0).result, Decision)  # there is room until the very end


def test_a_policy_that_alternates_is_asked_again() -> None:
    pool = Pool(settings_of(room=10, usage_limit=SoftReflectiveCeilingPolicy()))
    pool.arrive(0.0, "interactive")
    occupy(pool.fleet.endpoints[0], 7)
    batch = pool.arrive(1.0, "batch")  # bands 100, 0, -1; 8 of 10: one question in 4 is open
    assert pool.control.due(1.0) == pytest.approx(1.001)
    answered = [pool.control.turn(1.0 + turn / 1000).answered for turn in range(3)]
    assert answered == [[], [], [batch]]  # its arrival was the first question


def test_bands_of_nobodys_configuration_are_forgotten() -> None:
    pool = Pool(settings_of(bands={7: band_of()}))
    pool.arrive(0.0, "batch")
    assert [band.priority for band in pool.control.bands] == [7, 0, -1]
    pool.arrive(599.0)
    assert [band.priority for band in pool.control.bands] == [7, 0, -1]
    pool.arrive(600.0)
    assert [band.priority for band in pool.control.bands] == [7, 0]


# --- eviction ------------------------------------------------------------------------------------


def test_the_newest_of_the_least_important_is_stopped_for_who_waits() -> None:
    pool = Pool(settings_of(room=4, eviction=EVICTION))
    standard = pool.arrive(0.0)
    old, new, spare = pool.arrive(1.0, "batch"), pool.arrive(2.0, "batch"), pool.arrive(1.5, "spare")
    first = pool.arrive(3.0, "interactive")
    turn = pool.control.turn(3.0)
    assert turn == ([], [spare])  # saturation 1, credit 1/4: one is stopped
    pool.end(spare, 3.0)
    assert pool.control.turn(3.0).answered == [first]
    assert pool.arrive(4.0, "interactive").is_waiting
    assert pool.control.turn(4.0).evicted == [new]
    pool.end(new, 4.0)
    assert len(pool.control.turn(4.0).answered) == 1
    assert old.dispatched_at is not None and standard.dispatched_at is not None


def test_nobody_is_stopped_for_its_like_or_without_need() -> None:
    pool = Pool(settings_of(room=1, eviction=EVICTION))
    running = pool.arrive(0.0, "batch")
    pool.arrive(1.0, "batch")
    pool.arrive(1.0, "spare")
    assert pool.control.turn(1.0).evicted == []
    standard = pool.arrive(2.0, "standard")
    assert pool.control.turn(2.0).evicted == [running]
    pool.end(running, 2.0)
    assert pool.control.turn(2.0).answered == [standard]
    pool.arrive(3.0, "interactive")
    assert pool.control.turn(3.0).evicted == []  # what is left is not sheddable


def test_without_leave_nobody_is_stopped() -> None:
    pool = Pool(settings_of(room=1))
    pool.arrive(0.0, "batch")
    pool.arrive(1.0, "interactive")
    assert pool.control.turn(1.0).evicted == []


def test_who_comes_and_waits_asks_for_a_turn_if_somebody_may_be_stopped_for_it() -> None:
    for eviction, due in [(EVICTION, 1.0), (None, 61.0)]:
        pool = Pool(settings_of(room=1, eviction=eviction))
        pool.arrive(0.0, "batch")
        pool.arrive(1.0, "interactive")
        assert pool.control.due(1.0) == due


def test_the_next_is_stopped_when_the_detector_has_had_time_to_see_what_the_last_one_brought() -> None:
    class Late(ConcurrencyDetector):
        lag = 3.0

    pool = Pool(settings_of(room=2, eviction=EVICTION, detector=Late(max_concurrency=2)))
    old, new = pool.arrive(0.0, "batch"), pool.arrive(1.0, "batch")
    pool.arrive(2.0, "interactive")
    assert pool.control.turn(2.0).evicted == [new]
    assert pool.control.due(2.0) == 5.0
    assert pool.control.turn(4.9).evicted == []
    assert pool.control.turn(5.0).evicted == [new], "it has not gone yet, and is still the first choice"
    pool.end(new, 5.0)
    assert old.dispatched_at is not None and pool.control.due(5.0) == 8.0
