"""What waits: tickets, one queue for each flow, one band for each priority.

Place:   filled and emptied by epp.core.flow.control only.
Ignores: saturation, and what is answered.
Rule:    whoever leaves is gone at once from every count; a queue that is empty is not there.
"""

import heapq
from collections import OrderedDict

from epp.core.flow.policies import BandSettings
from epp.core.rejection import Rejection
from epp.core.request import Request
from epp.core.scheduling import Decision


class Ticket:
    """One request's way through flow control, from its arrival to its end."""

    __slots__ = (
        "at",
        "dispatched_at",
        "flow",
        "is_waiting",
        "number",
        "owner",
        "priority",
        "rank",
        "request",
        "result",
        "tenant",
    )

    def __init__(
        self, request: Request, *, number: int, priority: int, tenant: str, owner: object, at: float
    ) -> None:
        self.request = request
        self.number = number
        """In the order of arrival."""
        self.priority = priority
        self.tenant = tenant
        """Whose request it is."""
        self.flow = tenant
        """The queue it is in: the tenant's, or that of all."""
        self.owner = owner
        """Whom the answer concerns; not looked at here."""
        self.at = at
        self.rank = 0.0
        self.is_waiting = False
        self.result: Decision | Rejection | None = None
        self.dispatched_at: float | None = None
        """When it got a server; None again when it has ended."""

    def __lt__(self, other: "Ticket") -> bool:
        return (self.rank, self.number) < (other.rank, other.number)


class FlowQueue:
    """What waits of one flow, the next one first. Never empty but between two steps of a Band."""

    __slots__ = ("_heap", "count")

    def __init__(self) -> None:
        self._heap: list[Ticket] = []
        self.count = 0

    @property
    def head(self) -> Ticket:
        return self._heap[0]

    def push(self, ticket: Ticket) -> None:
        self.count += 1
        heapq.heappush(self._heap, ticket)

    def dropped(self) -> None:
        """One of them does not wait any more: the head does again, and what is gone takes little room."""
        self.count -= 1
        heap = self._heap
        while heap and not heap[0].is_waiting:
            heapq.heappop(heap)
        if len(heap) > 16 + 2 * self.count:
            self._heap = [ticket for ticket in heap if ticket.is_waiting]
            heapq.heapify(self._heap)


class Band:
    """One priority: its flows in the order of their turns, and what they hold."""

    __slots__ = ("by_arrival", "bytes", "flows", "priority", "settings", "used_at")

    def __init__(self, priority: int, settings: BandSettings, now: float) -> None:
        self.priority = priority
        self.settings = settings
        self.flows: OrderedDict[str, FlowQueue] = OrderedDict()
        self.by_arrival: dict[Ticket, None] = {}
        self.bytes = 0
        self.used_at = now

    def __len__(self) -> int:
        return len(self.by_arrival)

    def has_room(self, size: int) -> bool:
        settings = self.settings
        return len(self) < settings.max_requests and self.bytes + size <= settings.max_bytes

    def add(self, ticket: Ticket, deadline: float) -> None:
        """Have it wait."""
        settings = self.settings
        ticket.flow = ticket.tenant if settings.fairness.tells_apart else ""
        ticket.rank = settings.ordering.queue_rank(ticket.request, ticket.at, deadline)
        ticket.is_waiting = True
        queue = self.flows.get(ticket.flow)
        if queue is None:
            queue = self.flows[ticket.flow] = FlowQueue()
        queue.push(ticket)
        self.by_arrival[ticket] = None
        self.bytes += ticket.request.body_bytes

    def remove(self, ticket: Ticket) -> None:
        """It does not wait any more."""
        ticket.is_waiting = False
        del self.by_arrival[ticket]
        self.bytes -= ticket.request.body_bytes
        queue = self.flows[ticket.flow]
        queue.dropped()
        if not queue.count:
            del self.flows[ticket.flow]

    def take(self, now: float) -> Ticket:
        """Who goes next, as the policies say; its flow had its turn."""
        flow = self.settings.fairness.choose_flow(self.flows, now)
        ticket = self.flows[flow].head
        self.flows.move_to_end(flow)
        self.remove(ticket)
        return ticket
