"""What flow control is told: the policies that plugins implement, and the settings of bands and queues.

Place:   implemented in ``scorers``, asked by epp.core.flow.control; epp.config makes the settings.
Ignores: how requests wait.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

from epp.core.fleet import Endpoint
from epp.core.request import Request

MAX_REQUESTS = 5000
MAX_BYTES = 1_000_000_000
"""Of a band, where nothing else is said."""


class Waiting(Protocol):
    """A request in a queue, as a fairness policy sees it."""

    @property
    def at(self) -> float:
        """Since when it waits [s]."""


class Flow(Protocol):
    """What waits of one tenant in one band."""

    @property
    def head(self) -> Waiting:
        """What would go next."""


@runtime_checkable
class SaturationDetector(Protocol):
    """Says how full the pool is."""

    lag: ClassVar[float]
    """How long it takes [s] until it sees that a request has gone."""

    def saturation(self, endpoints: Sequence[Endpoint], now: float) -> float:
        """Of the endpoints in service: 0 is idle, 1 is full; more is more than full. Nobody there is 1."""


@runtime_checkable
class Staleness(Protocol):
    """A detector that misses readings."""

    def stale(self, endpoints: Sequence[Endpoint], now: float) -> int:
        """Of how many the load is unknown or too old although their engines tell it."""


@runtime_checkable
class UsageLimit(Protocol):
    """Says up to which saturation each band may send requests."""

    alternates: ClassVar[bool]
    """What it says changes from one question to the next: it is to be asked again while requests wait."""

    def ceilings(self, saturation: float, priorities: Sequence[int]) -> Sequence[float]:
        """One for each priority, highest first; a band at or above its ceiling stops, and so do all below."""


@runtime_checkable
class Fairness(Protocol):
    """Says whose turn it is within a band."""

    tells_apart: ClassVar[bool]
    """False: all tenants of the band are one flow."""

    def choose_flow(self, flows: Mapping[str, Flow], now: float) -> str:
        """One of ``flows``, which are by tenant, those whose last turn is longest ago first; never empty."""


@runtime_checkable
class Accounts(Protocol):
    """A fairness policy that wants to know what becomes of requests."""

    def dispatched(self, flow: str, waited: float, now: float) -> None:
        """A request of this tenant got a server after ``waited`` [s]."""

    def completed(self, flow: str, prompt_tokens: int, output_tokens: int, now: float) -> None:
        """It has ended, however it ended."""


class Tenant(Protocol):
    """What a fairness policy knows of one, for people."""

    @property
    def average_wait(self) -> float:
        """Seconds, of its requests that got a server."""

    @property
    def service(self) -> float:
        """Weighted tokens that it got lately."""


@runtime_checkable
class Programs(Protocol):
    """A fairness policy that shows what it knows of tenants. Being asked changes nothing."""

    @property
    def programs(self) -> Mapping[str, Tenant]:
        """By their names; a limited number."""

    def jains_index(self) -> float:
        """How equal their average waits are: 1 equal, 1/n one of n alone waits."""


@runtime_checkable
class Ordering(Protocol):
    """Says in which order the requests of one flow go."""

    def queue_rank(self, request: Request, received_at: float, deadline: float) -> float:
        """The lowest goes first; equal ones in the order in which they came. ``deadline``: of its stay [s];
        inf: it may stay."""


@runtime_checkable
class EvictionFilter(Protocol):
    """Says which running requests may be stopped for others."""

    def may_evict(self, priority: int) -> bool: ...


@runtime_checkable
class EvictionOrder(Protocol):
    """Says which of them is stopped first."""

    def evict_rank(self, priority: int, dispatched_at: float) -> tuple[float, ...]:
        """The lowest is stopped first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BandSettings:
    """One priority's queue."""

    max_requests: int = MAX_REQUESTS
    max_bytes: int = MAX_BYTES
    fairness: Fairness
    ordering: Ordering


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowSettings:
    """All of flow control."""

    bands: Mapping[int, BandSettings]
    """By priority; there is always one of priority 0."""
    default_band: BandSettings
    """Of priorities that are not in ``bands``."""
    default_negative_band: BandSettings | None = None
    """Of those below 0; None: the same as of others."""
    detector: SaturationDetector
    detector_name: str = "utilization-detector"
    usage_limit: UsageLimit
    max_requests: float = math.inf
    max_bytes: float = math.inf
    ttl: float = 60.0
    """How long a request may wait [s]; inf: for ever."""
    no_endpoint_ttl: float = 60.0
    """The same, while nobody is in service."""
    eviction: tuple[EvictionFilter, EvictionOrder] | None = None
    """Stop running requests for more important ones that wait; None: never."""

    def band(self, priority: int) -> BandSettings:
        """The settings of a priority."""
        found = self.bands.get(priority)
        if found is None and priority < 0:
            found = self.default_negative_band
        return found or self.default_band
