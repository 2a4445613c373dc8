"""Who is stopped so that more important requests find room: sheddable ones that are running.

Place:   kept by epp.core.flow.control, for ``enableEviction``.
Ignores: how a request is stopped.
Rule:    a victim is less important than everybody it is stopped for; after each step the detector gets the
         time to see what it brought, so that no request is stopped for room that is already there.
Source:  llm-d-router's reclamation: n = max(1, ceil((saturation - ceiling) / (saturation / in flight))), at
         most 2 at a time. Its wait for a confirmation is not needed: here a reservation ends with the
         answer.
"""

import math

from epp.core.flow.policies import EvictionFilter, EvictionOrder
from epp.core.flow.queues import Ticket

MOST_AT_ONCE = 2


class Eviction:
    """Running requests that may be stopped. ``lag`` [s]: how late the detector sees that one has gone."""

    def __init__(self, chosen_by: EvictionFilter, order: EvictionOrder, lag: float) -> None:
        self._filter, self._order = chosen_by, order
        self._lag = lag
        self._running: dict[Ticket, tuple[float, ...]] = {}
        self.next_at = -math.inf
        """Not before [s]."""

    def __len__(self) -> int:
        return len(self._running)

    def started(self, ticket: Ticket, now: float) -> None:
        if self._filter.may_evict(ticket.priority):
            self._running[ticket] = self._order.evict_rank(ticket.priority, now)

    def ended(self, ticket: Ticket) -> None:
        self._running.pop(ticket, None)

    def victims(
        self, *, saturation: float, ceiling: float, in_flight: int, demand: int, now: float
    ) -> list[Ticket]:
        """Whom to stop for requests of priority ``demand`` that wait below ``ceiling``; often nobody."""
        if now < self.next_at or ceiling <= 0 or saturation <= 0 or not in_flight:
            return []
        below = [ticket for ticket in self._running if ticket.priority < demand]
        if not below:
            return []
        credit = saturation / in_flight
        wanted = max(1, math.ceil((saturation - ceiling) / credit - 1e-9))  # 0.3 / 0.1 is 3, but for rounding
        below.sort(key=self._running.__getitem__)
        chosen = below[: min(wanted, MOST_AT_ONCE)]
        self.next_at = now + self._lag
        return chosen
