"""A small pool, its queues, and who hears of them, for tests of flow control."""

from collections import Counter
from collections.abc import Callable

from epp.core.directives import OBJECTIVE_HEADERS, Directives
from epp.core.fleet import Endpoint, Fleet, Reservation
from epp.core.flow.control import Fate, FlowControl
from epp.core.flow.policies import BandSettings, FlowSettings
from epp.core.flow.queues import Ticket
from epp.core.flow.tenants import FAIRNESS_HEADERS
from epp.core.rejection import Rejection
from epp.core.request import Request
from epp.core.scheduling import Decision
from scorers.concurrency_detector import ConcurrencyDetector
from scorers.fcfs_ordering_policy import FcfsOrderingPolicy
from scorers.global_strict_fairness_policy import GlobalStrictFairnessPolicy
from scorers.static_usage_limit_policy import StaticUsageLimitPolicy
from tests.core.conversation import decide
from tests.picking import fleet_of

ASKED = Directives()
ASKED.priorities = {"interactive": 100, "standard": 0, "batch": -1, "spare": -10}


def band_of(**more: object) -> BandSettings:
    usual = {"fairness": GlobalStrictFairnessPolicy(), "ordering": FcfsOrderingPolicy()}
    return BandSettings(**{**usual, **more})  # type: ignore[arg-type]


def settings_of(*, room: int = 2, **more: object) -> FlowSettings:
    """Every endpoint takes ``room`` requests."""
    usual = {
        "bands": {},
        "default_band": band_of(),
        "detector": ConcurrencyDetector(max_concurrency=room),
        "usage_limit": StaticUsageLimitPolicy(),
    }
    return FlowSettings(**{**usual, **more})  # type: ignore[arg-type]


def request_of(objective: str = "", tenant: str = "", size: int = 0, **headers: str) -> Request:
    if objective:
        headers[OBJECTIVE_HEADERS[0]] = objective
    if tenant:
        headers[FAIRNESS_HEADERS[0]] = tenant
    return Request(headers=headers, priority=ASKED.priority(headers), body_bytes=size)


class Pool:
    """``endpoints`` servers; picks the one with the fewest requests."""

    def __init__(self, settings: FlowSettings, *, endpoints: int = 1) -> None:
        self.fleet: Fleet = fleet_of([None] * endpoints)
        self.fates: Counter[Fate] = Counter()
        self.waits: list[float] = []
        self.refusal: Rejection | None = None
        self.complaints: list[Exception] = []
        self.control = FlowControl(settings, self.fleet, self._pick, watcher=self, guard=self._guarded)

    def _pick(self, request: Request, now: float) -> Decision | Rejection:
        if self.refusal is not None:
            return self.refusal
        return decide(min(self.fleet.endpoints, key=_in_flight), tokens=0)

    def _guarded(self, count: Callable[[], None]) -> None:
        try:
            count()
        except KeyError as fault:
            self.complaints.append(fault)

    def left(self, ticket: Ticket, fate: Fate, waited: float) -> None:
        self.fates[fate] += 1
        self.waits.append(waited)

    def arrive(self, now: float, objective: str = "", tenant: str = "", size: int = 0) -> Ticket:
        return self.control.arrive(request_of(objective, tenant, size), now)

    def end(self, ticket: Ticket, now: float) -> None:
        """What the driver does when the stream is over."""
        if isinstance(ticket.result, Decision) and ticket.dispatched_at is not None:
            ticket.result.reservation.release()
        self.control.ended(ticket, now, prompt_tokens=100, output_tokens=50)

    @property
    def in_flight(self) -> int:
        return sum(map(_in_flight, self.fleet.endpoints))


def _in_flight(endpoint: Endpoint) -> int:
    return endpoint.requests_in_flight


def occupy(endpoint: Endpoint, requests: int, tokens: int = 0) -> list[Reservation]:
    return [Reservation(endpoint, tokens if i == 0 else 0) for i in range(requests)]
