"""``program-aware-fairness``: the tenant goes first that has got the least lately."""

import math
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from epp.core.scoring import Flow

MAX_IDLE = 5_000
"""Clients choose tenants' names: of those without running requests no more are remembered. About 2 MB, and
0.8 ms for the index of all."""


class Program:
    """What is known of one tenant."""

    __slots__ = ("dispatched", "idle_since", "in_flight", "service", "used_at", "waited")

    def __init__(self) -> None:
        self.service = 0.0
        """Tokens, output twice, that decay while it is idle."""
        self.in_flight = 0
        self.idle_since: float | None = None
        """None: it has work."""
        self.used_at = 0.0
        self.waited = 0.0
        """Seconds in the queue, of all its requests that got a server."""
        self.dispatched = 0

    @property
    def average_wait(self) -> float:
        return self.waited / self.dispatched if self.dispatched else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramAwareFairness:
    """Of the tenants with waiting requests in a band, the one goes with the least attained service.

    In:   prompt tokens + 2 * output tokens of all its requests that have ended, as the server counted them;
          the sum halves every `lasHalfLifeSeconds` in which the tenant has neither waiting nor running
          requests; since when its first request waits.
    Out:  `lasWeightService` * (1 - service scaled to [0, 1]) + `lasWeightHeadWait` * (wait scaled to
          [0, 1]), the highest goes; scaled over the tenants that wait, all equal 0.5.
    Ties: the one whose last turn is longest ago.
    Better: 5,000 tenants without running requests are remembered, those that were idle for longest forgotten.
    Source: upstream ``program-aware-fairness`` (least attained service).
    """

    strategy: Literal["las"] = "las"
    """The only one."""
    las_weight_service: float = 0.8
    """Weight of having got little."""
    las_weight_head_wait: float = 0.2
    """Weight of waiting long."""
    las_half_life_seconds: float = 60.0
    """Idle seconds after which half of what a tenant got is forgotten."""
    eviction_ttl_seconds: float = 3600.0
    """Idle seconds after which a tenant is forgotten; 0: never."""
    eviction_sweep_seconds: float = 300.0
    """How often that is looked at."""
    programs: dict[str, Program] = field(init=False, repr=False, compare=False, default_factory=dict)
    idle: OrderedDict[str, None] = field(init=False, repr=False, compare=False, default_factory=OrderedDict)
    """Those without running requests, the one that was not heard of for longest first."""
    swept_at: list[float] = field(init=False, repr=False, compare=False, default_factory=list)

    tells_apart: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name, value, least in (
            ("lasWeightService", self.las_weight_service, 0.0),
            ("lasWeightHeadWait", self.las_weight_head_wait, 0.0),
            ("lasHalfLifeSeconds", self.las_half_life_seconds, 0.001),
            ("evictionTtlSeconds", self.eviction_ttl_seconds, 0.0),
            ("evictionSweepSeconds", self.eviction_sweep_seconds, 0.001),
        ):
            if not least <= value < math.inf:
                raise ValueError(f"{name}: must be at least {least:g}, got {value:g}")

    def choose_flow(self, flows: Mapping[str, Flow], now: float) -> str:
        services, waits = [], []
        for name, flow in flows.items():
            since = flow.head.at
            services.append(self._service(name, min(since, now), now))
            waits.append(now - since)
        scores = [
            self.las_weight_service * (1 - service) + self.las_weight_head_wait * wait
            for service, wait in zip(_scaled(services), _scaled(waits), strict=True)
        ]
        return list(flows)[scores.index(max(scores))]

    def dispatched(self, flow: str, waited: float, now: float) -> None:
        """A request of this tenant got a server."""
        self._sweep(now)
        program = self.programs.get(flow)
        if program is None:
            program = self.programs[flow] = Program()
        self._busy(program, now - waited, now)
        self.idle.pop(flow, None)
        program.in_flight += 1
        program.dispatched += 1
        program.waited += waited

    def completed(self, flow: str, prompt_tokens: int, output_tokens: int, now: float) -> None:
        """It has ended."""
        program = self.programs[flow]
        self._busy(program, now, now)
        program.in_flight -= 1
        program.service += prompt_tokens + 2 * output_tokens
        if program.in_flight == 0:
            program.idle_since = now
            self.idle[flow] = None
            if len(self.idle) > MAX_IDLE:
                self._forget_one()

    def jains_index(self) -> float:
        """How equal the tenants' average waits are: 1 equal, 1/n one alone waits."""
        waits = [program.average_wait for program in self.programs.values() if program.dispatched]
        squares = math.fsum(wait * wait for wait in waits)
        return math.fsum(waits) ** 2 / (len(waits) * squares) if squares else 1.0

    def _service(self, name: str, since: float, now: float) -> float:
        """What a tenant got whose requests wait since then."""
        program = self.programs.get(name)
        if program is None:
            return 0.0
        self._busy(program, since, now)
        if not program.in_flight:
            self.idle.move_to_end(name)
        return program.service

    def _busy(self, program: Program, since: float, now: float) -> None:
        """It has had work since then: what it got has decayed until then."""
        if program.idle_since is not None:
            idle = max(since - program.idle_since, 0.0)
            program.service *= 0.5 ** (idle / self.las_half_life_seconds)
            program.idle_since = None
        program.used_at = now

    def _forget_one(self) -> None:
        name, _ = self.idle.popitem(last=False)
        del self.programs[name]

    def _sweep(self, now: float) -> None:
        if not self.swept_at:
            self.swept_at.append(now)
        if now - self.swept_at[0] < self.eviction_sweep_seconds:
            return
        self.swept_at[0] = now
        if self.eviction_ttl_seconds:
            oldest = now - self.eviction_ttl_seconds
            while self.idle and self.programs[next(iter(self.idle))].used_at < oldest:
                self._forget_one()


def _scaled(values: list[float]) -> list[float]:
    least, spread = min(values), max(values) - min(values)
    return [(value - least) / spread if spread else 0.5 for value in values]
