"""What is known about each endpoint: identity, last reading with its age, and what we sent there.

Place:   written by the scraper, discovery and the scheduler, all on one event loop; read by plugins.
Ignores: how a reading was made, who chooses, and the clock (callers pass ``now`` [s, monotonic]).
Rule:    unknown is None. A reading that is too old is unknown again; it never becomes a zero.
"""

import enum
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from epp.core.addresses import MetricsUrl


@dataclass(frozen=True, slots=True)
class Lora:
    """LoRA adapters of one server: those with running requests, those only waited for, and the limit."""

    running: frozenset[str] = frozenset()
    waiting: frozenset[str] = frozenset()
    max_adapters: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """One reading of a server. None: the engine does not say, or what it said is too old."""

    waiting: int | None = None
    """Requests in the engine's queue."""
    running: int | None = None
    """Requests being worked on."""
    kv_usage: float | None = None
    """Fraction of the KV cache in use, 0 to 1."""
    slots: int | None = None
    """Requests the engine can work on at once, where it says so (llama.cpp)."""
    lora: Lora | None = None
    cache_block_tokens: int | None = None
    cache_blocks: int | None = None
    started_at: float | None = None
    """When the server process started [unix s], where it says so: a change means an empty cache."""


UNKNOWN = Load()


class Reachability(enum.Enum):
    """What the last attempt to talk to the server showed."""

    UNTRIED = "untried"
    UP = "up"
    DOWN = "down"


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointSpec:
    """Everything discovery knows of an endpoint: which server it is, and what is said about it."""

    name: str
    namespace: str = "default"
    ip: str
    port: int
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)
    engine: str | None = None
    """An engine adapter's name; None: the scraper finds out by looking."""
    metrics_url: MetricsUrl | None = None
    """Where to read metrics, if not at the engine's usual path on the serving port."""
    scheme: str = "http"
    host_name: str = ""
    """The name before resolution, for TLS and the Host header; empty for a literal address."""
    ca_file: str | None = None
    api_key_file: str | None = None

    @property
    def server(self) -> tuple[str | int, ...]:
        """Which server it is: where this is the same, the rest is only said differently of it."""
        return self.namespace, self.name, self.ip, self.port, self.scheme, self.host_name

    @property
    def address(self) -> str:
        """``ip:port``, with brackets around an IPv6 address, as a gateway wants it."""
        return f"[{self.ip}]:{self.port}" if ":" in self.ip else f"{self.ip}:{self.port}"


class Endpoint:
    """One server. Plugins read it; only Fleet and Reservation write it."""

    __slots__ = (
        "address",
        "down_reason",
        "engine",
        "labels",
        "life",
        "load",
        "load_at",
        "memory",
        "name",
        "reachability",
        "requests_in_flight",
        "spec",
        "started_at",
        "tokens_in_flight",
    )

    def __init__(self, spec: EndpointSpec) -> None:
        self.spec = spec
        self.name = spec.name
        self.address = spec.address
        self.labels = spec.labels
        self.engine: str | None = spec.engine
        """The engine that its last answer is of; until it answers, what its spec says."""
        self.load = UNKNOWN
        self.load_at: float | None = None
        """When ``load`` was read [s]; None when it is unknown."""
        self.started_at: float | None = None
        """When the server process started, as it last said; kept when a reading grows too old."""
        self.reachability = Reachability.UNTRIED
        self.down_reason = ""
        self.life = 0
        """Grows when the server is known to have lost its caches (restart, death)."""
        self.memory: dict[object, Any] = {}
        """What plugins remember about this life of the server, by an object of theirs. It goes with its
        caches and when it leaves the list, whoever still holds the endpoint (a remembered pick does)."""
        self.requests_in_flight = 0
        self.tokens_in_flight = 0
        """Prompt tokens sent there and not yet known to be processed (estimated, uncached only)."""

    def __repr__(self) -> str:
        return f"Endpoint({self.name} {self.address})"


class Reservation:
    """What one request occupies on one endpoint, from the pick until ``release``.

    ``tokens`` >= 0, else ValueError and nothing is taken. Exactly one ``release``: a second one is a
    defect of the caller and raises.
    """

    __slots__ = ("_open", "endpoint", "tokens")

    def __init__(self, endpoint: Endpoint, tokens: int) -> None:
        if tokens < 0:  # made by a plugin: what is no number raises here, before anything is taken
            raise ValueError(f"tokens of a reservation: expected at least 0, got {tokens}")
        self.endpoint = endpoint
        self.tokens = tokens
        self._open = True
        endpoint.requests_in_flight += 1
        endpoint.tokens_in_flight += tokens

    def prefilled(self) -> None:
        """The prompt has been processed: its tokens are no work ahead of anyone any more."""
        self.endpoint.tokens_in_flight -= self.tokens
        self.tokens = 0

    def release(self) -> None:
        """The request has ended, however it ended."""
        if not self._open:
            raise RuntimeError(f"reservation on {self.endpoint} released twice")
        self._open = False
        self.prefilled()
        self.endpoint.requests_in_flight -= 1


class Fleet:
    """All endpoints of one pool. ``stale_after`` [s]: the age at which a reading becomes unknown."""

    def __init__(self, *, stale_after: float = 2.0) -> None:
        self.stale_after = stale_after
        self.version = 0
        """Grows with every look at an endpoint and every change of the list: what follows from readings,
        reachability and labels alone holds as long as this stays the same."""
        self._endpoints: dict[tuple[str, str], Endpoint] = {}
        self._candidates: tuple[Endpoint, ...] | None = None
        self._next_expiry = float("inf")

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """Every known endpoint, reachable or not."""
        return tuple(self._endpoints.values())

    def replace(self, specs: Iterable[EndpointSpec]) -> tuple[list[Endpoint], list[Endpoint], list[Endpoint]]:
        """Take over a whole new list at once; returns (added, changed, removed).

        A server of which something else is said now (labels, engine, keys, metrics URL) stays the same
        endpoint, with its reading, its reservations and what is remembered of it. Under another address
        it is another server.
        """
        before, self._endpoints = self._endpoints, {}
        added, changed = [], []
        for key, spec in {(spec.namespace, spec.name): spec for spec in specs}.items():
            endpoint = before.get(key)
            if endpoint is None or endpoint.spec.server != spec.server:
                endpoint = Endpoint(spec)
                added.append(endpoint)
            elif endpoint.spec != spec:
                if endpoint.spec.engine != spec.engine:
                    endpoint.engine = spec.engine
                endpoint.spec, endpoint.labels = spec, spec.labels
                changed.append(endpoint)
            self._endpoints[key] = endpoint
        removed = [endpoint for key, endpoint in before.items() if self._endpoints.get(key) is not endpoint]
        for endpoint in removed:
            endpoint.memory.clear()
        self.version += 1
        self._candidates = None
        return added, changed, removed

    def reading(self, endpoint: Endpoint, load: Load, now: float, *, engine: str | None = None) -> None:
        """The server answered, with this load. ``engine``: as in ``answered``."""
        if load.started_at is not None:
            if endpoint.started_at not in (None, load.started_at):
                _end_life(endpoint)
            endpoint.started_at = load.started_at
        endpoint.load, endpoint.load_at = load, now
        self._next_expiry = min(self._next_expiry, now + self.stale_after)
        self.answered(endpoint, engine=engine)

    def answered(self, endpoint: Endpoint, *, engine: str | None = None) -> None:
        """The server is there, even if it does not tell its load. ``engine``: whose answer it was read as."""
        endpoint.engine = engine or endpoint.spec.engine
        self._set_reachability(endpoint, Reachability.UP, "")

    def lost(self, endpoint: Endpoint, reason: str) -> None:
        """Talking to the server failed: what it held in its caches is gone, its load is unknown.

        So is its engine, unless it is declared: another process may listen there next.
        """
        if endpoint.reachability is not Reachability.DOWN:
            _end_life(endpoint)
        endpoint.engine = endpoint.spec.engine
        endpoint.load, endpoint.load_at = UNKNOWN, None
        self._set_reachability(endpoint, Reachability.DOWN, reason)

    def candidates(self, now: float, among: Sequence[Endpoint] | None = None) -> tuple[Endpoint, ...]:
        """The endpoints a request may go to: those that answer, else the untried, else all.

        ``among``: of these only, whatever the others are. The last choice is never empty while
        endpoints are known: a fleet that looks dead from here may still serve.
        """
        self.expire(now)
        if among is not None:
            return _best_tier(among)
        if self._candidates is None:
            self._candidates = _best_tier(self._endpoints.values())
        return self._candidates

    def expire(self, now: float) -> None:
        """Forget readings that are too old by now: before a pick, and before anybody shows them."""
        if now < self._next_expiry:
            return
        self.version += 1
        self._next_expiry = float("inf")
        for endpoint in self._endpoints.values():
            if endpoint.load_at is None:
                continue
            if now - endpoint.load_at >= self.stale_after:
                endpoint.load, endpoint.load_at = UNKNOWN, None
            else:
                self._next_expiry = min(self._next_expiry, endpoint.load_at + self.stale_after)

    def _set_reachability(self, endpoint: Endpoint, to: Reachability, reason: str) -> None:
        self.version += 1
        endpoint.down_reason = reason
        if endpoint.reachability is not to:
            endpoint.reachability = to
            self._candidates = None


def _end_life(endpoint: Endpoint) -> None:
    endpoint.life += 1
    endpoint.memory.clear()


def _best_tier(endpoints: Collection[Endpoint]) -> tuple[Endpoint, ...]:
    for tier in (Reachability.UP, Reachability.UNTRIED):
        found = tuple(endpoint for endpoint in endpoints if endpoint.reachability is tier)
        if found:
            return found
    return tuple(endpoints)
