"""The plugin interface: everything a filter, scorer, picker or producer may see.

Place:   implemented by the files in ``scorers`` and by users' packages; called by epp.core.scheduling.
Rule:    plugins import only this module. They read endpoints and write nothing but their own facts.
         No opinion is None, never a number.

A plugin type is a class whose dataclass fields are its parameters (``block_size_tokens`` is written
``blockSizeTokens`` in a configuration). What it is follows from the methods it has; one class may
be several things. A type that only holds settings says what it is with a class variable ``kind``.

A filter or scorer that looks at nothing but readings, phases and labels may say so with the class
variable (or a property) ``from_readings = True``. It then runs after a look at some endpoint, not with each
request: with 100 endpoints two such scorers and their sum cost 30 us, of a pick of 70 us.

A filter with the class variable ``before_lifecycle = True`` runs ahead of a lifecycle-filter that the
configuration does not place itself: what such a filter drops may not serve the request, dead or alive.
A plugin that is a filter only by its settings says so with a property ``is_filtering``.

A filter, scorer or picker with a method ``sent`` (see Told) learns where a request goes, and may add headers
to the response. A plugin with a method ``joined(plugins, profiles)`` is asked for itself once the
configuration is read: it may look up others by name, and raises ``ValueError("fieldName: …")`` where one is
missing; ``"fieldName.inner: …"`` for a field of a field.
The class variable ``is_experimental = True``: it is used only with --allow-experimental-plugins.
"""

import enum
import math
from collections.abc import Collection, Iterable, Mapping, MutableSequence, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import ip_address
from types import MappingProxyType
from typing import Annotated, Any, Protocol, TypeAlias, runtime_checkable

from epp.core.addresses import read_target
from epp.core.attributes import METRICS_EXTRACTOR, FigureReader
from epp.core.cel import CelError, Expression, compile_expression, whole_number
from epp.core.engines import ENGINES, Adapter, Series, series
from epp.core.fleet import Endpoint, Load, Lora
from epp.core.flow.policies import Flow
from epp.core.lifecycle import HealthSettings, Lifecycle, Phase
from epp.core.prefix import Chain, PrefixIndex, chain_seed
from epp.core.rates import ATTENTION, Expected, expected, typical
from epp.core.rejection import all_dead, bad_request, no_endpoint
from epp.core.request import BYTES_PER_TOKEN, Api, Payload, Request
from epp.core.response_reader import Usage
from epp.core.sessions import SessionAffinity
from epp.core.suggestions import suggestion
from epp.core.topology import Nearness, TopologyAffinity, nearness

__all__ = [
    "ATTENTION",
    "BYTES_PER_TOKEN",
    "ENGINES",
    "METRICS_EXTRACTOR",
    "ROLE_LABEL",
    "Adapter",
    "Admitter",
    "Api",
    "Bytes",
    "CelError",
    "Chain",
    "Chance",
    "Cycle",
    "Decider",
    "Endpoint",
    "Expected",
    "Explained",
    "Expression",
    "FigureReader",
    "Filter",
    "Flow",
    "HealthSettings",
    "Kind",
    "Lifecycle",
    "Load",
    "Lora",
    "Nearness",
    "Payload",
    "Phase",
    "Picker",
    "PrefixIndex",
    "PrefixMatch",
    "Producer",
    "ProfileHandler",
    "Request",
    "Route",
    "Scorer",
    "Scores",
    "Seconds",
    "Series",
    "SessionAffinity",
    "Spelling",
    "Told",
    "TopologyAffinity",
    "Usage",
    "addressed",
    "all_dead",
    "bad_request",
    "chain_seed",
    "cheapest_first",
    "check_target",
    "compile_expression",
    "expected",
    "fewest_first",
    "has_room",
    "is_stale",
    "kinds",
    "nearness",
    "no_endpoint",
    "peer_of",
    "read_target",
    "series",
    "suggestion",
    "typical",
    "whole_number",
    "with_port",
]

Scores = Sequence[float | None]
"""One score per endpoint, in the order of the endpoints; in [0, 1], clamped; None = no opinion."""


class Explained(list[float | None]):
    """Scores of which each can be explained: what a scorer may give instead of a list.

    ``names`` of what makes a score, and of each endpoint as many ``terms``, which times ``scale`` are in the
    units that the names say. Nothing is done with them until somebody looks at the pick.
    """

    __slots__ = ("_names", "_scale", "_terms")

    def __init__(
        self,
        scores: Iterable[float | None],
        names: Sequence[str],
        terms: Sequence[Sequence[float]],
        *,
        scale: float = 1.0,
    ) -> None:
        super().__init__(scores)
        self._names, self._terms, self._scale = names, terms, scale

    def terms(self, place: int) -> dict[str, float]:
        """Of the endpoint at ``place``, in the units of their names."""
        scale = self._scale
        return {name: value * scale for name, value in zip(self._names, self._terms[place], strict=True)}


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

    def tokens(self, endpoint: Endpoint) -> int:
        """The same in tokens."""
        return self.blocks.get(endpoint, 0) * self.block_tokens


_NO_PICKS: Mapping[str, Sequence[Endpoint]] = MappingProxyType({})


class Cycle:
    """One decision: the request, the time, and what producers found out for it."""

    __slots__ = ("chance", "charge", "facts", "now", "picks", "remark", "request", "version")

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
        self.picks: Mapping[str, Sequence[Endpoint]] = _NO_PICKS
        """What profiles have picked so far, by their names, in the order in which they ran; best first."""


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


@runtime_checkable
class Told(Protocol):
    """A filter, scorer or picker that wants to know where requests go."""

    def sent(self, cycle: Cycle, primary: str) -> Mapping[str, str]:
        """The request goes to the first of ``cycle.picks[primary]``; headers to be set on its response."""


@runtime_checkable
class Admitter(Protocol):
    """Turns requests away before anybody is chosen for them."""

    def refusal(self, cycle: Cycle, endpoints: Sequence[Endpoint]) -> str:
        """Why the request is refused (429); empty: it may go on."""


@dataclass(frozen=True, slots=True)
class Route:
    """What the picks of several profiles come to."""

    primary: str
    """The profile whose pick gets the request."""
    headers: Mapping[str, str | None] = field(default_factory=dict)
    """Headers to be set on the request; None: to be taken away."""
    prompt_at: str = ""
    """The profile whose first pick works on the prompt; empty: the primary one."""
    destinations: Sequence[str] | None = None
    """Where to send the request, ``ip:port`` each, if not to where the picked endpoints are."""
    stages: Collection[str] | None = None
    """Of ``encode`` and ``prefill``, those that an endpoint of their own works on; None: this handler never
    has several endpoints work on one request. Counted."""


@runtime_checkable
class ProfileHandler(Protocol):
    """Says which scheduling profiles a request goes through, and what their picks come to."""

    def next_profile(self, cycle: Cycle) -> str | None:
        """The profile to run next, by what ``cycle.picks`` holds; None: enough. A profile that could pick
        nobody is there with an empty pick."""

    def route(self, cycle: Cycle) -> Route:
        """The result; where the primary profile could pick nobody, the request is refused."""


@runtime_checkable
class Decider(Protocol):
    """Says whether a stage of its own is worth it for a request."""

    def disaggregates(self, cycle: Cycle, endpoint: Endpoint | None) -> bool:
        """``endpoint``: picked to generate; None: nobody is yet."""


class Kind(enum.Enum):
    """What a plugin is to a configuration."""

    FILTER = "filter"
    SCORER = "scorer"
    PICKER = "picker"
    PRODUCER = "producer"
    PROFILE_HANDLER = "profile handler"
    DECIDER = "decider"
    TOPOLOGY = "topology setting"
    PARSER = "parser"
    METRICS_SOURCE = "metrics source"
    EXTRACTOR = "extractor"
    DISCOVERY = "discovery"
    HEALTH = "health setting"
    SIDE_SOURCE = "source of further figures"
    SIDE_EXTRACTOR = "extractor of further figures"
    NOTIFICATION = "notification source"
    ADMITTER = "admitter"
    REPORTER = "reporter"
    RESPONSE_HEADER = "writer of a response header"
    NOTHING = "name without effect"
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
    "refusal": Kind.ADMITTER,
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


def cheapest_first(costs: Sequence[Any]) -> list[float]:
    """Score 1 for the lowest of these numbers or tuples, 0 for the highest, equal steps between; for rules
    that only put endpoints in an order."""
    steps = {cost: step for step, cost in enumerate(sorted(set(costs)))}
    last = len(steps) - 1
    return [1.0 - steps[cost] / last for cost in costs] if last > 0 else [1.0] * len(costs)


ROLE_LABEL = "llm-d.ai/role"
"""The label that says which stages of a request an endpoint is for."""


def check_target(path: str, interval: float) -> None:
    """ValueError for what cannot be read every ``interval`` [s]."""
    try:
        read_target(path)
    except ValueError as error:
        raise ValueError(f"path: {error}") from None
    if not 1.0 <= interval <= 3600.0:
        raise ValueError(f"interval: must be from 1s to 1h, got {interval:g}s")


def peer_of(cycle: Cycle) -> Endpoint | None:
    """Who was picked first by an earlier profile of this request; None: nobody was."""
    return next((picked[0] for picked in cycle.picks.values() if picked), None)


def with_port(endpoint: Endpoint, port: int) -> str:
    """The endpoint's address with another port."""
    return f"{endpoint.address.rpartition(':')[0]}:{port}"


def is_stale(endpoint: Endpoint, since: float = -math.inf) -> bool:
    """Whether its load is unknown, or was read before ``since``, although its engine tells it."""
    if endpoint.load_at is not None:
        return endpoint.load_at < since
    adapter = ENGINES.get(endpoint.engine or "")
    return adapter is None or bool(adapter.waiting or adapter.kv_usage)


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
