"""``lifecycle-filter``: only endpoints that can be expected to answer."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from epp.core.scoring import Cycle, Endpoint, Phase, all_dead, has_room

_LAST_RESORTS: Sequence[tuple[Phase, str]] = (
    (Phase.WARMING, "warming up and over its allowance"),
    (Phase.PROBING, "being tried with another request"),
    (Phase.EJECTED, "ejected on suspicion"),
    (Phase.LOADING, "has loaded, and its back-off is not over"),
    (Phase.PENDING, "not looked at yet"),
    (Phase.DRAINING, "said to shut down, in an answer"),
)
_DEAD: Mapping[Phase, str] = {Phase.EJECTED: "refusing connections"}
"""What a phase means of an endpoint that is known to be dead, where its name does not say it."""
_LOOK_AGAIN_SECONDS = 5.0
"""When a client may ask again while models load: a small one takes as long, a large one minutes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LifecycleFilter:
    """Drop endpoints that cannot be expected to answer, and those that have as much as they may have now.

    In:     n endpoints; ``lifecycle.phase``, ``lifecycle.allowance`` and ``requests_in_flight`` [requests].
    Out:    the ready, pressured and suspect ones, those that warm up and have less than they may have (2
            requests, growing to 64), and one that is probed if it has no request now; in their order. Those
            that are pending, loading, ejected, draining or gone are dropped.
    Few:    where fewer than half are left, those as well that nothing but their back-off keeps out: they
            answer their looks, and no request failed there. Too few for a load fall one after the other.
    Else:   where this leaves nobody, the least bad that are not known to be dead: those that warm up, the one
            that is probed, those ejected on suspicion, those that nobody has looked at yet, those whose
            answers said that they shut down, whichever comes
            first.
    Dead:   where all are known to be dead (they refuse connections, load, drain, or their manager says so),
            the request is refused: 503, with a reason and ``retry-after``.
    """

    enabled: bool = True
    """false: dead endpoints are picked like others."""

    from_readings: ClassVar[bool] = True  # where requests are limited, each changes the fleet's version

    def filter(self, cycle: Cycle, endpoints: Sequence[Endpoint]) -> Sequence[Endpoint]:
        if not self.enabled or not endpoints:
            return endpoints
        fit = [endpoint for endpoint in endpoints if has_room(endpoint)]
        if 2 * len(fit) < len(endpoints):
            fit = _with_those_that_wait(endpoints, fit)
        return fit or _least_bad(cycle, endpoints)


def _with_those_that_wait(endpoints: Sequence[Endpoint], fit: Sequence[Endpoint]) -> list[Endpoint]:
    """Envoy's panic threshold has the same reason."""
    return [endpoint for endpoint in endpoints if endpoint in fit or endpoint.lifecycle.only_waits]


def _least_bad(cycle: Cycle, endpoints: Sequence[Endpoint]) -> Sequence[Endpoint]:
    hopeful = [endpoint for endpoint in endpoints if not endpoint.lifecycle.is_known_dead]
    for phase, spoken in _LAST_RESORTS:
        if kept := [endpoint for endpoint in hopeful if endpoint.lifecycle.phase is phase]:
            cycle.remark = f"nobody is fit, so {len(kept)} of {len(endpoints)} were kept: {spoken}"
            return kept
    raise all_dead(_obituary(endpoints), min(_seconds_until_back(each, cycle.now) for each in endpoints))


def _obituary(endpoints: Sequence[Endpoint]) -> str:
    """``all 2 endpoints are down: 1 refusing connections, 1 loading``."""
    phases = Counter(endpoint.lifecycle.phase for endpoint in endpoints)
    causes = ", ".join(f"{count} {_DEAD.get(phase, phase.value)}" for phase, count in phases.items())
    whole = "the only endpoint is" if len(endpoints) == 1 else f"all {len(endpoints)} endpoints are"
    return f"{whole} down: {causes}"


def _seconds_until_back(endpoint: Endpoint, now: float) -> float:
    """The least time until it could serve again; what nobody can know counts as a load of a model."""
    lifecycle = endpoint.lifecycle
    if lifecycle.phase is Phase.EJECTED:
        return max(0.0, lifecycle.out_until - now)
    return _LOOK_AGAIN_SECONDS
