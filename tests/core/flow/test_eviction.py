"""How many are stopped, by upstream's formula."""

import pytest

from epp.core.flow.eviction import Eviction
from epp.core.flow.queues import Ticket
from scorers.priority_then_time_eviction_order_policy import PriorityThenTimeEvictionOrderPolicy
from scorers.sheddable_eviction_filter import SheddableEvictionFilter
from tests.core.flow.pools import request_of


def running(count: int, lag: float = 0.5) -> Eviction:
    eviction = Eviction(SheddableEvictionFilter(), PriorityThenTimeEvictionOrderPolicy(), lag)
    for number in range(count):
        ticket = Ticket(request_of(), number=number, priority=-1, tenant="t", owner=None, at=0.0)
        eviction.started(ticket, float(number))
    return eviction


@pytest.mark.parametrize(
    "in_flight, evictable, saturation, ceiling, expected",
    [
        pytest.param(6, 6, 1.2, 1.0, 1, id="credit 0.2, deficit 0.2"),
        pytest.param(6, 6, 1.4, 1.0, 2, id="credit 0.2333, deficit 0.4: 1.71"),
        pytest.param(10, 6, 2.0, 1.0, 2, id="5 wanted, 2 at most"),
        pytest.param(6, 6, 1.0, 1.0, 1, id="at the ceiling: one"),
        pytest.param(6, 1, 2.0, 1.0, 1, id="no more than there are"),
        pytest.param(6, 6, 1.2, 0.0, 0, id="a band that is shut by its policy"),
        pytest.param(0, 6, 1.2, 1.0, 0, id="nothing in flight"),
    ],
)
def test_as_many_as_the_deficit_needs(
    in_flight: int, evictable: int, saturation: float, ceiling: float, expected: int
) -> None:
    eviction = running(evictable)
    victims = eviction.victims(
        saturation=saturation, ceiling=ceiling, in_flight=in_flight, demand=0, now=100.0
    )
    assert [ticket.number for ticket in victims] == [*reversed(range(evictable))][:expected]


def test_after_each_step_the_detector_gets_its_time() -> None:
    eviction = running(6)

    def victims(now: float) -> int:
        return len(eviction.victims(saturation=1.2, ceiling=1.0, in_flight=6, demand=0, now=now))

    assert [victims(now) for now in (100.0, 100.1, 100.49, 100.5)] == [1, 0, 0, 1]
