"""``lifecycle-scorer``: trust grows with time in service."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from epp.core.scoring import Chance, Cycle, Endpoint, Phase, Scores


@dataclass(frozen=True, slots=True)
class LifecycleScorer:
    """Prefer endpoints that have been in service for a while, without a failure or a warning.

    In:     n endpoints; ``lifecycle.score``: ready 1, pressured 0.7, warming from 0.3 up to 1, suspect 0.2,
            others 0.
    Out:    the same. One that warms up has 1 instead as often as its score says, drawn anew after each look:
            to a picker that takes the best, less than the others is nothing at all. One that is probed has 1,
            and so has one that warms up, has no request and has served none: the first shows what it can do.
    Ties:   all ready, all 1.
    """

    from_readings: ClassVar[bool] = True

    def score(self, cycle: Cycle, endpoints: Sequence[Endpoint]) -> Scores:
        ready, chance = Phase.READY, cycle.chance
        return [1.0 if each.lifecycle.phase is ready else _trust(each, chance) for each in endpoints]


def _trust(endpoint: Endpoint, chance: Chance) -> float:
    # By ``lifecycle.score`` alone one that comes back has its first request after 5.5 s, drawn after 0.02 s
    # (50 requests/s over two that never queue; docs/decisions/0013-trust-is-drawn.md).
    lifecycle = endpoint.lifecycle
    if lifecycle.phase is Phase.PROBING:
        return 1.0
    trust = lifecycle.score
    if lifecycle.phase is not Phase.WARMING:
        return trust
    is_untried = not endpoint.trials and endpoint.served_at < lifecycle.in_service_since
    return 1.0 if is_untried or chance.random() < trust else trust
