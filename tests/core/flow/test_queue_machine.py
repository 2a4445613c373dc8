"""Whatever happens: everybody who comes is dispatched, refused, expired or leaves, exactly once, in order."""

from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from epp.core.flow.policies import FlowSettings
from epp.core.flow.queues import Ticket
from epp.core.scheduling import Decision
from scorers.edf_ordering_policy import EdfOrderingPolicy
from scorers.fcfs_ordering_policy import FcfsOrderingPolicy
from scorers.global_strict_fairness_policy import GlobalStrictFairnessPolicy
from scorers.priority_holdback_policy import PriorityHoldbackPolicy
from scorers.priority_then_time_eviction_order_policy import PriorityThenTimeEvictionOrderPolicy
from scorers.program_aware_fairness import ProgramAwareFairness
from scorers.round_robin_fairness_policy import RoundRobinFairnessPolicy
from scorers.sheddable_eviction_filter import SheddableEvictionFilter
from scorers.soft_reflective_ceiling_policy import SoftReflectiveCeilingPolicy
from scorers.static_usage_limit_policy import StaticUsageLimitPolicy
from tests.core.flow.pools import ASKED, Pool, band_of, settings_of


class Miscounting(RoundRobinFairnessPolicy):
    """A policy of somebody's that fails at its accounts."""

    def dispatched(self, flow: str, waited: float, now: float) -> None:
        raise KeyError("in a policy")

    def completed(self, flow: str, prompt_tokens: int, output_tokens: int, now: float) -> None:
        raise KeyError("in a policy")


FAIRNESS = (GlobalStrictFairnessPolicy, RoundRobinFairnessPolicy, ProgramAwareFairness, Miscounting)
LIMITS = (
    StaticUsageLimitPolicy,
    SoftReflectiveCeilingPolicy,
    lambda: PriorityHoldbackPolicy(min_ceiling=0.3),
)
EVICTION = (SheddableEvictionFilter(), PriorityThenTimeEvictionOrderPolicy())
WHICH, TENANTS, SIZES = st.integers(0, 1), st.sampled_from("ab"), st.integers(0, 30)


@st.composite
def all_settings(draw: st.DrawFn) -> FlowSettings:
    band = band_of(
        fairness=draw(st.sampled_from(FAIRNESS))(),
        ordering=draw(st.sampled_from((FcfsOrderingPolicy, EdfOrderingPolicy)))(),
        max_requests=draw(st.integers(1, 4)),
        max_bytes=draw(st.integers(10, 60)),
    )
    return settings_of(
        room=draw(st.integers(1, 3)),
        default_band=band,
        usage_limit=draw(st.sampled_from(LIMITS))(),
        max_requests=draw(st.sampled_from((3, 1000))),
        max_bytes=draw(st.sampled_from((40, 10_000))),
        ttl=draw(st.sampled_from((5.0, 50.0))),
        no_endpoint_ttl=draw(st.sampled_from((3.0, 50.0))),
        eviction=draw(st.sampled_from((None, EVICTION))),
    )


class Queues(RuleBasedStateMachine):
    """A driver that may do everything a driver does, in any order."""

    tickets = Bundle("tickets")

    @initialize(
        chosen=all_settings(),
        endpoints=st.integers(1, 2),
        objectives=st.permutations(list(ASKED.priorities)),
    )
    def begin(self, chosen: FlowSettings, endpoints: int, objectives: list[str]) -> None:
        self.pool = Pool(chosen, endpoints=endpoints)
        self.objectives = objectives[:2]  # few bands and few tenants meet often
        self.now = 0.0
        self.arrived: list[Ticket] = []
        self.ended: set[int] = set()
        self.told: Counter[int] = Counter()
        self.last: dict[tuple[int, str], int] = {}
        self.tells_apart = chosen.default_band.fairness.tells_apart

    @rule(target=tickets, which=WHICH, tenant=TENANTS, size=SIZES)
    def arrive(self, which: int, tenant: str, size: int) -> Ticket:
        return self._arrive(which, tenant, size)

    @rule(target=tickets, ending=consumes(tickets), which=WHICH, tenant=TENANTS, size=SIZES)
    def arrive_at_an_end(self, ending: Ticket, which: int, tenant: str, size: int) -> Ticket:
        """Somebody comes after an end, before the turn that it brings."""
        self._end(ending)
        return self._arrive(which, tenant, size)

    @rule(seconds=st.floats(0, 4))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def turn(self) -> None:
        waited = self._waiting()
        turn = self.pool.control.turn(self.now)
        went = [ticket.priority for ticket in turn.answered if isinstance(ticket.result, Decision)]
        assert went == sorted(went, reverse=True)
        for ticket in waited:
            if not isinstance(ticket.result, Decision):
                assert all(each >= ticket.priority for each in went), "nobody is passed by less"
        for ticket in turn.answered:
            assert not ticket.is_waiting and ticket.result is not None
            self._told(ticket)
        for ticket in turn.evicted:
            assert ticket.priority < 0 and ticket.dispatched_at is not None
            self._end(ticket)

    @rule(ticket=consumes(tickets))
    def end(self, ticket: Ticket) -> None:
        """The client leaves the queue, or its answer has ended, or it was refused."""
        self._end(ticket)

    @rule(is_lost=st.booleans())
    def server(self, is_lost: bool) -> None:
        fleet = self.pool.fleet
        for _ in range(2):  # a server that was ejected is probed first
            (fleet.lost if is_lost else fleet.failed)(fleet.endpoints[0], self.now, "gone")
            if not is_lost:
                fleet.answered(fleet.endpoints[0], self.now)

    def _arrive(self, which: int, tenant: str, size: int) -> Ticket:
        ticket = self.pool.arrive(self.now, self.objectives[which], tenant, size)
        if isinstance(ticket.result, Decision):
            passed = [other.priority for other in self._waiting()]
            assert all(each < ticket.priority for each in passed), "nobody is passed by his like or by less"
        self.arrived.append(ticket)
        if ticket.result is not None:
            self._told(ticket)
        return ticket

    def _waiting(self) -> list[Ticket]:
        return [ticket for ticket in self.arrived if ticket.is_waiting]

    def _end(self, ticket: Ticket) -> None:
        if ticket.number not in self.ended:
            self.ended.add(ticket.number)
            if ticket.is_waiting:
                self.told[ticket.number] += 1
            self.pool.end(ticket, self.now)

    def _told(self, ticket: Ticket) -> None:
        self.told[ticket.number] += 1
        if isinstance(ticket.result, Decision):
            flow = (ticket.priority, ticket.tenant if self.tells_apart else "")
            assert self.last.get(flow, 0) < ticket.number, "out of order within its flow"
            self.last[flow] = ticket.number

    @invariant()
    def counts_are_those_of_who_waits(self) -> None:
        if not hasattr(self, "pool"):
            return
        waiting = self._waiting()
        control = self.pool.control
        assert control.waiting == len(waiting)
        assert control.waiting_bytes == sum(ticket.request.body_bytes for ticket in waiting)
        for band in control.bands:
            assert sum(queue.count for queue in band.flows.values()) == len(band)
            assert all(queue.count and queue.head.is_waiting for queue in band.flows.values())
            assert len(band) <= band.settings.max_requests
            assert band.bytes <= band.settings.max_bytes
        running = [ticket for ticket in self.arrived if ticket.dispatched_at is not None]
        assert self.pool.in_flight == len(running)
        assert sum(self.pool.fates.values()) + len(waiting) == len(self.arrived)

    def teardown(self) -> None:
        if not hasattr(self, "pool"):
            return
        for ticket in self.pool.control.close(self.now):
            self._told(ticket)
        for ticket in self.arrived:
            self._end(ticket)
        control = self.pool.control
        assert (control.waiting, control.waiting_bytes, self.pool.in_flight) == (0, 0, 0)
        assert self.told == Counter({ticket.number: 1 for ticket in self.arrived})
        assert sum(self.pool.fates.values()) == len(self.arrived)
        assert not any(band.flows for band in control.bands)
        fairness = control.settings.default_band.fairness
        if isinstance(fairness, ProgramAwareFairness):
            assert all(program.in_flight == 0 for program in fairness.programs.values())


Queues.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestQueues = Queues.TestCase
