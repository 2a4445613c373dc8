"""The plugin interface: everything a filter, scorer, picker or producer may see.

Place:   implemented by the files in ``scorers`` and by users' packages; called by epp.core.scheduling.
Rule:    plugins import only this module. They read endpoints and write nothing but their own facts.
         No opinion is None, never a number.

A plugin type is a class whose dataclass fields are its parameters (``block_size_tokens`` is written
``blockSizeTokens`` in a configuration). What it is follows from the methods it has; one class may
be several things. A type that only holds settings says what it is with a class variable ``kind``.

A filter or scorer that looks at nothing but readings, phases and labels may say so with the class
variable ``from_readings = True``. It then runs after a look at some endpoint, not with each request: with
100 endpoints two such scorers and their sum cost 30 us, of a pick of 70 us.

A filter with the class variable ``before_lifecycle = True`` runs ahead of a lifecycle-filter that the
configuration does not place itself: what such a filter drops may not serve the request, dead or alive.
"""

import enum
from collections.abc import Iterable, Mapping, MutableSequence, Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address
from typing import Annotated, Any, Protocol, TypeAlias, runtime_checkable

from epp.core.addresses import read_target
from epp.core.engines import ENGINES, Adapter, Series, series
from epp.core.fleet import Endpoint, Load, Lora
from epp.core.flow.policies import Flow
from epp.core.lifecycle import HealthSettings, Lifecycle, Phase
from epp.core.prefix import Chain, PrefixIndex, chain_seed
from epp.core.rejection import all_dead, bad_request, no_endpoint
from epp.core.request import BYTES_PER_TOKEN, Api, Payload, Request

__all__ = [
    "BYTES_PER_TOKEN",
    "ENGINES",
    "Adapter",
    "Api",
    "Bytes",
    "Chain",
    "Chance",
    "Cycle",
    "Endpoint",
    "Filter",
    "Flow",
    "HealthSettings",
    "Kind",
    "Lifecycle",
    "Load",
    "Lora",
    "Payload",
    "Phase",
    "Picker",
    "PrefixIndex",
    "PrefixMatch",
    "Producer",
    "Request",
    "Scorer",
    "Scores",
    "Seconds",
    "Series",
    "Spelling",
    "addressed",
    "all_dead",
    "bad_request",
    "chain_seed",
    "fewest_first",
    "has_room",
    "kinds",
    "no_endpoint",
    "read_target",
    "series",
]

Scores = Sequence[float | None]
"""One score per endpoint, in the order of the endpoints; in [0, 1], clamped; None = no opinion."""


# --- parameters --------------------------------------------------------------------------------


class Spelling(enum.Enum):
    """How a number is written in a configuration, where it is not written as a number."""

    DURATION = "a Go duration: 500ms, 2s, 1m30s"
    QUANTITY = "a Kubernetes quantity: 512Mi, 1G"


Seconds: TypeAlias = Annotated[float, Spelling.DURATION]
"""A parameter in seconds, written as a Go duration."""
Bytes: TypeAlias = Annotated[int, Spelling.QUANTITY]
"""A parameter in bytes (or pieces), written as a Kubernetes quantity."""


# --- what a decision works with ----------------------------------------------------------------


class Chance(Protocol):
    """The part of ``random.Random`` that plugins use."""

    def random(self) -> float:
        """A number in [0, 1)."""

    def shuffle(self, x: MutableSequence[Any]) -> None:
        """Reorder in place."""


@dataclass(frozen=True, slots=True)
class PrefixMatch:
    """How much of a prompt each endpoint probably holds. Missing endpoints hold nothing."""

    blocks: Mapping[Endpoint, int]
    total_blocks: int
    block_tokens: int


class Cycle:
    """One decision: the request, the time, and what producers found out for it."""

    __slots__ = ("chance", "charge", "facts", "now", "remark", "request", "version")

    def __init__(self, request: Request, *, now: float, chance: Chance, version: int | None = None) -> None:
        self.request = request
        self.now = now
        self.chance = chance
        self.version = version
        """Of the fleet: as long as it is the same, so are readings, phases and labels. None: not known."""
        self.facts: dict[str, Any] = {}
        """By producer name, for example a PrefixMatch."""
        self.remark = ""
        """What a filter has to say about whom it left; shown with the pick, and counted."""
        self.charge = 0
        """Tokens of work this request will be booked with on the picked endpoint."""


# --- what a plugin may be ----------------------------------------------------------------------


@runtime_checkable
class Filter(Protocol):
    """Drops endpoints that must not serve this request; keeps the order."""

    def filter(self, cycle: Cycle, endpoints: Sequence[Endpoint]) -> Sequence[Endpoint]: ...


@runtime_checkable
class Scorer(Protocol):
    """Rates endpoints: n endpoints in, n scores out."""

    def score(self, cycle: Cycle, endpoints: Sequence[Endpoint]) -> Scores: ...


@runtime_checkable
class Picker(Protocol):
    """Chooses from endpoints, at least one, with their total scores; best first, at least one."""

    def pick(
        self, cycle: Cycle, endpoints: Sequence[Endpoint], totals: Sequence[float]
    ) -> Sequence[Endpoint]: ...


@runtime_checkable
class Producer(Protocol):
    """Finds something out before filters and scorers run, and learns which endpoint was picked."""

    def produce(self, cycle: Cycle, endpoints: Sequence[Endpoint], name: str) -> Any:
        """Put a fact for others into ``cycle.facts[name]``; what is returned comes back in ``picked``."""

    def picked(self, cycle: Cycle, endpoint: Endpoint, found: Any) -> None:
        """The request goes to ``endpoint``; called before its reservation is made."""


class Kind(enum.Enum):
    """What a plugin is to a configuration."""

    FILTER = "filter"
    SCORER = "scorer"
    PICKER = "picker"
    PRODUCER = "producer"
    PROFILE_HANDLER = "profile handler"
    PARSER = "parser"
    METRICS_SOURCE = "metrics source"
    EXTRACTOR = "extractor"
    DISCOVERY = "discovery"
    HEALTH = "health setting"
    DETECTOR = "saturation detector"
    USAGE_LIMIT = "usage limit policy"
    FAIRNESS = "fairness policy"
    ORDERING = "ordering policy"
    EVICTION_FILTER = "eviction filter"
    EVICTION_ORDER = "eviction ordering policy"


_BY_METHOD = {
    "filter": Kind.FILTER,
    "score": Kind.SCORER,
    "pick": Kind.PICKER,
    "produce": Kind.PRODUCER,
    # of flow control: epp.core.flow.policies
    "saturation": Kind.DETECTOR,
    "ceilings": Kind.USAGE_LIMIT,
    "choose_flow": Kind.FAIRNESS,
    "queue_rank": Kind.ORDERING,
    "may_evict": Kind.EVICTION_FILTER,
    "evict_rank": Kind.EVICTION_ORDER,
}


def kinds(plugin_type: type) -> frozenset[Kind]:
    """What a plugin type is, from its methods and its class variable ``kind``."""
    found = {kind for method, kind in _BY_METHOD.items() if callable(getattr(plugin_type, method, None))}
    declared = getattr(plugin_type, "kind", None)
    return frozenset(found | {declared} if isinstance(declared, Kind) else found)


# --- what several plugins need -----------------------------------------------------------------


def fewest_first(values: Sequence[float | None]) -> list[float | None]:
    """Score 1 for the smallest value, 0 for the largest, linear between; all equal 1; None stays None."""
    known = [value for value in values if value is not None]
    if not known:
        return [None] * len(values)
    most = max(known)
    spread = most - min(known)
    if not spread:
        return [None if value is None else 1.0 for value in values]
    return [None if value is None else (most - value) / spread for value in values]


def has_room(endpoint: Endpoint) -> bool:
    """Whether it is in service and has fewer requests than it may have at once."""
    lifecycle = endpoint.lifecycle
    if lifecycle.phase is Phase.READY:  # most are: 12 instead of 33 us for 100 of them
        return True
    if not lifecycle.is_serving:
        return False
    allowance = lifecycle.allowance
    return allowance is None or endpoint.trials < allowance


def addressed(endpoints: Iterable[Endpoint], entries: Iterable[str]) -> list[Endpoint]:
    """The endpoints that ``entries`` name: ``ip``, ``ip:port`` or ``[v6]:port``; a bare IP is any port."""
    wanted = {_canonical(entry) for entry in entries}
    return [e for e in endpoints if _canonical(e.address) in wanted or _canonical(e.spec.ip) in wanted]


@lru_cache(maxsize=4096)
def _canonical(entry: str) -> str:
    """One spelling for one address: IPv6 shortened, brackets only with a port."""
    entry = entry.strip()
    if entry.count(":") < 2:
        return entry
    host, bracket, port = entry.removeprefix("[").partition("]")
    try:
        host = str(ip_address(host))
    except ValueError:
        return entry
    return f"[{host}]{port}" if bracket and port else host
