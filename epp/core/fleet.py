"""What is known about each endpoint: identity, last reading with its age, and what we sent there.

Place:   written by the scraper, discovery and the scheduler, all on one event loop; read by plugins.
Ignores: how a reading was made, who chooses, and the clock (callers pass ``now`` [s, monotonic]).
Rule:    unknown is None. A reading that is too old is unknown again; it never becomes a zero.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from epp.core.addresses import MetricsUrl
from epp.core.lifecycle import Change, HealthSettings, Lifecycle, Phase, Signal
from epp.core.rates import FLUSHED, Rates, Work, work


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
    models: Mapping[str, int] | None = field(default=None, hash=False)
    """The models in its memory with their sizes [bytes], where it says so (Ollama)."""
    attributes: Mapping[str, float] | None = field(default=None, hash=False)
    """Figures of people's own, by the names that the configuration gives them; those that it tells."""
    work: Work | None = field(default=None, compare=False)
    """What it has counted: not a load, and not asked for with every look."""

    @property
    def cache_tokens(self) -> int | None:
        """How many tokens its KV cache has room for."""
        blocks, tokens = self.cache_blocks, self.cache_block_tokens
        return blocks * tokens if blocks and tokens else None

    def has_no_room(self, tokens: float) -> bool:
        """Whether it says that so many more tokens do not fit into its KV cache."""
        size, used = self.cache_tokens, self.kv_usage
        return size is not None and used is not None and (1.0 - used) * size < tokens

    def attribute(self, name: str) -> float | None:
        """One of them."""
        return None if self.attributes is None else self.attributes.get(name)


UNKNOWN = Load()


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
    tier: int = 0
    """0 is to be used first."""
    identity: str = ""
    """What the server is, wherever it is: under another address it is the same one, moved (a Mac with a new
    lease). Empty: its address says which server it is."""
    hold: str = ""
    """Why its manager says that it does not serve yet (a pod that is not ready)."""
    leaving: str = ""
    """Why its manager has told it to stop (a pod that is deleted)."""
    pressure: str = ""
    """Its manager's warning of memory or heat, as long as it holds."""
    node: str = ""
    """The address of the machine it runs on, if not its own (a pod's)."""
    note: str = ""
    """What its manager knows of it, to be said while it does not answer: its model is downloading."""

    @property
    def server(self) -> tuple[str | int, ...]:
        """Which server it is: where this is the same, the rest is only said differently of it."""
        return self.identity or self.address, self.scheme, self.host_name

    @property
    def address(self) -> str:
        """``ip:port``, with brackets around an IPv6 address, as a gateway wants it."""
        return f"[{self.ip}]:{self.port}" if ":" in self.ip else f"{self.ip}:{self.port}"


class Unseen:
    """Prompts that a server works on one after another, as far as can be known without first tokens."""

    __slots__ = ("_at", "_left", "work")

    def __init__(self) -> None:
        self.work = 0
        """Of requests that have not ended [tokens without context]."""
        self._left = 0.0
        self._at = -math.inf

    def add(self, work_more: int, now: float, per_token: float) -> None:
        """A prompt more, at ``per_token`` seconds each."""
        self._left = self.left(now, per_token) + work_more
        self._at = now
        self.work += work_more

    def ended(self, work_less: int) -> None:
        self.work -= work_less
        self._left = min(self._left, self.work)

    def left(self, now: float, per_token: float) -> float:
        """What is probably still to be done of it."""
        return max(self._left - (now - self._at) / per_token, 0.0) if self._left else 0.0


class WhenRead(NamedTuple):
    """What we had at an endpoint at the moment of a reading."""

    requests: int = 0
    work: int = 0
    requests_before: int = 0
    """At the reading before: a gauge trails behind requests that end."""


class Endpoint:
    """One server. Plugins read it; only Fleet and Reservation write it."""

    __slots__ = (
        "address",
        "engine",
        "figures",
        "figures_until",
        "first_token_at",
        "labels",
        "life",
        "lifecycle",
        "load",
        "load_at",
        "memory",
        "models",
        "name",
        "on_occupied",
        "rates",
        "requests_in_flight",
        "served_at",
        "spec",
        "started_at",
        "tokens_in_flight",
        "trials",
        "unanswered",
        "unseen",
        "was_lost",
        "when_read",
        "work_in_flight",
    )

    def __init__(self, spec: EndpointSpec, lifecycle: Lifecycle | None = None) -> None:
        self.spec = spec
        self.name = spec.name
        self.address = spec.address
        self.labels = spec.labels
        self.engine: str | None = spec.engine
        """The engine that its last answer is of; until it answers, what its spec says."""
        self.load = UNKNOWN
        self.load_at: float | None = None
        """When ``load`` was read [s]; None when it is unknown."""
        self.figures: Mapping[str, float] = {}
        """Further figures of it, which are read elsewhere than its load; those that are known."""
        self.figures_until = math.inf
        """When these are too old [s]."""
        self.models: Mapping[str, str] | None = None
        """The models that it lists, each with the one that it is an adapter of, or empty; None: not known."""
        self.started_at: float | None = None
        """When the server process started, as it last said; kept when a reading grows too old."""
        self.lifecycle = lifecycle or Lifecycle(HealthSettings(), 0.0)
        """What it can do now."""
        self.life = 0
        """Grows when the server is known to have lost its caches (restart, death)."""
        self.memory: dict[object, Any] = {}
        """What plugins remember about this life of the server, by an object of theirs. It goes with its
        caches and when it leaves the list, whoever still holds the endpoint (a remembered pick does)."""
        self.requests_in_flight = 0
        self.tokens_in_flight = 0
        """Prompt tokens sent there and not yet known to be processed (estimated, uncached only)."""
        self.work_in_flight = 0
        """The same of prompts, as Reservation measures work."""
        self.unanswered: dict[Reservation, None] = {}
        """Requests of streamed answers that have got no token yet, the oldest first."""
        self.rates = Rates()
        """How fast it works; whatever becomes of the process, the hardware is the same."""
        self.first_token_at = -math.inf
        """When a streamed answer there last got its first token [s]."""
        self.unseen = Unseen()
        """Of ``work_in_flight``, that of requests whose first token nobody will see."""
        self.when_read = WhenRead()
        """What we had there when its load was read."""
        self.on_occupied: Callable[[Endpoint], None] | None = None
        """To be told of every request that comes, or came and goes, while their number is limited."""
        self.trials = 0
        """Those requests: what was sent before it was out may hang for long, and is no sign."""
        self.served_at = -math.inf
        """When a request there last got its first token, or a good answer [s]."""
        self.was_lost = False
        """The last that was seen of it is that it takes no connections."""

    def attribute(self, name: str) -> float | None:
        """A figure of people's own, or a further one; None: unknown."""
        value = self.load.attribute(name)
        return self.figures.get(name) if value is None else value

    @property
    def oldest_unanswered(self) -> float | None:
        """Since when the longest waiting of ``unanswered`` is there [s]; None: there is none."""
        first = next(iter(self.unanswered), None)
        return None if first is None else first.at

    def __repr__(self) -> str:
        return f"Endpoint({self.name} {self.address})"


class Reservation:
    """What one request occupies on one endpoint, from the pick until ``release``.

    ``tokens`` >= 0, else ValueError and nothing is taken. ``at``: when it was picked [s]; ``is_streamed``:
    its first token will be seen. ``prompt_tokens``: the whole prompt, of which ``cached_tokens`` were thought
    to be in the server's cache. Exactly one ``release``: a second one is a defect of the caller and raises.
    """

    __slots__ = (
        "_first_token_at",
        "_is_open",
        "_is_telling",
        "_is_trial",
        "at",
        "cached_tokens",
        "endpoint",
        "prompt_tokens",
        "tokens",
        "work",
    )

    def __init__(
        self,
        endpoint: Endpoint,
        tokens: int,
        *,
        at: float = 0.0,
        is_streamed: bool = False,
        prompt_tokens: int = 0,
        cached_tokens: int = 0,
    ) -> None:
        if tokens < 0:  # made by a plugin: what is no number raises here, before anything is taken
            raise ValueError(f"tokens of a reservation: expected at least 0, got {tokens}")
        self.endpoint = endpoint
        self.tokens = tokens
        self.work = round(work(max(prompt_tokens - cached_tokens, 0), cached_tokens))
        """On its prompt, in tokens without context; 0 when it is done."""
        self.at = at
        self.prompt_tokens = prompt_tokens
        self.cached_tokens = cached_tokens
        self._is_open = True
        self._is_trial = False
        self._is_telling = not must_wait(endpoint, prompt_tokens)
        """Its first token will show how fast the server works: it need not wait for others to end."""
        self._first_token_at: float | None = None
        self._occupy(endpoint, is_streamed=is_streamed)

    def prefilled(self, now: float) -> None:
        """The prompt has been processed: its tokens are no work ahead of anyone any more."""
        work_done = self.work
        is_streamed = self.endpoint.unanswered.pop(self, 0) is None
        self._work_done(is_streamed=is_streamed)
        if is_streamed:
            self._first_token_at = now
            self._measure(work_done, now)

    def move(self, endpoint: Endpoint) -> None:
        """Another endpoint has it: the gateway went on to the next of its list."""
        if not self._is_open or endpoint is self.endpoint:
            return
        is_streamed = self in self.endpoint.unanswered
        self._is_telling = False
        self._leave()
        self.endpoint = endpoint
        self._occupy(endpoint, is_streamed=is_streamed)
        if is_streamed:  # it may have waited for longer than others there
            waiting = sorted(endpoint.unanswered, key=lambda each: each.at)
            endpoint.unanswered = dict.fromkeys(waiting)

    def release(self, now: float | None = None, output_tokens: int | None = None) -> None:
        """The request has ended, however it ended. ``now`` [s] and how many ``output_tokens`` it got, where
        that is known, tell how fast its server works."""
        if not self._is_open:
            raise RuntimeError(f"reservation on {self.endpoint} released twice")
        self._is_open = False
        if now is not None and self._first_token_at is not None:
            rates, seconds = self.endpoint.rates, now - self._first_token_at
            rates.stayed(seconds, now)
            if output_tokens is not None:
                beside = max(self.endpoint.requests_in_flight, self.endpoint.load.running or 0) - 1
                rates.generated(output_tokens, seconds, beside, now)
        self._leave()
        self.tokens = self.work = 0

    def _measure(self, work_done: int, now: float) -> None:
        """What its first token tells of the server that worked on its prompt."""
        endpoint = self.endpoint
        since, endpoint.first_token_at = max(self.at, endpoint.first_token_at), now
        if self._is_telling and not must_wait(endpoint, self.prompt_tokens, is_there=True):
            endpoint.rates.first_token(
                work_done, now - since, now, begins=since == self.at, alone=not endpoint.unanswered
            )
            endpoint.rates.promised(self.prompt_tokens, self.cached_tokens, now)

    def _occupy(self, endpoint: Endpoint, *, is_streamed: bool) -> None:
        endpoint.requests_in_flight += 1
        endpoint.tokens_in_flight += self.tokens
        endpoint.work_in_flight += self.work
        if is_streamed:
            endpoint.unanswered[self] = None
        elif self.work:
            endpoint.unseen.add(self.work, self.at, endpoint.rates.per_prompt_token)
        if endpoint.on_occupied is not None:
            self._is_trial = True
            endpoint.trials += 1
            endpoint.on_occupied(endpoint)

    def _work_done(self, *, is_streamed: bool) -> None:
        """Its prompt is no work any more."""
        endpoint = self.endpoint
        endpoint.tokens_in_flight -= self.tokens
        endpoint.work_in_flight -= self.work
        if self.work and not is_streamed:
            endpoint.unseen.ended(self.work)
        self.tokens = self.work = 0

    def _leave(self) -> None:
        endpoint, tokens, work_left = self.endpoint, self.tokens, self.work
        endpoint.requests_in_flight -= 1
        self._work_done(is_streamed=endpoint.unanswered.pop(self, 0) is None)
        self.tokens, self.work = tokens, work_left  # it may be moving
        if self._is_trial:
            self._is_trial = False
            endpoint.trials -= 1
            if endpoint.on_occupied is not None:
                endpoint.on_occupied(endpoint)


def must_wait(endpoint: Endpoint, prompt_tokens: int, *, is_there: bool = False) -> bool:
    """Whether a request with such a prompt would first have to wait there until others end, by what the
    server says: all of its slots are taken, or its cache has no room for those that wait and this one."""
    load = endpoint.load
    waiting = load.waiting or 0
    if load.slots is not None:
        return max(endpoint.requests_in_flight, (load.running or 0) + waiting) >= load.slots + is_there
    return bool(waiting) and load.has_no_room(prompt_tokens * (waiting + 1))


class StagedReservation(Reservation):
    """What one request occupies where other endpoints work for it as well, those until its first token.

    ``helpers``: made for this request, released here.
    """

    __slots__ = ("_helpers",)

    def __init__(
        self,
        endpoint: Endpoint,
        tokens: int,
        *,
        helpers: Sequence[Reservation],
        at: float = 0.0,
        is_streamed: bool = False,
        prompt_tokens: int = 0,
        cached_tokens: int = 0,
    ) -> None:
        super().__init__(
            endpoint,
            tokens,
            at=at,
            is_streamed=is_streamed,
            prompt_tokens=prompt_tokens,
            cached_tokens=cached_tokens,
        )
        self._helpers = tuple(helpers)

    def prefilled(self, now: float) -> None:
        super().prefilled(now)
        self._release_helpers()

    def release(self, now: float | None = None, output_tokens: int | None = None) -> None:
        super().release(now, output_tokens)
        self._release_helpers()

    def _measure(self, work_done: int, now: float) -> None:
        if not self._helpers:  # else its first token came after the work of several
            super()._measure(work_done, now)

    def _release_helpers(self) -> None:
        helpers, self._helpers = self._helpers, ()
        for helper in helpers:
            helper.release()


_START = 2.0
"""What is listed within this time [s] of the first list was there before us: the names of a file take up to
this long to be looked up."""


class Replaced(NamedTuple):
    """What a new list changed."""

    added: Sequence[Endpoint]
    changed: Sequence[Endpoint]
    """The same servers, of which something else is said now."""
    removed: Sequence[Endpoint]


class Fleet:
    """Every endpoint that there is. ``stale_after`` [s]: the age at which a reading becomes unknown.

    ``on_change`` hears of every change of phase.
    """

    def __init__(
        self,
        *,
        stale_after: float = 2.0,
        health: HealthSettings | None = None,
        on_change: Callable[[Endpoint, Change], None] = lambda endpoint, change: None,
    ) -> None:
        self.stale_after = stale_after
        self.health = health or HealthSettings()
        self.version = 0
        """Grows with every look at an endpoint and every change of the list or of a phase: what follows from
        readings, phases and labels alone holds as long as this stays the same."""
        self.on_news: Callable[[Endpoint], None] | None = None
        """To be told of every look at an endpoint and all else that may have changed what it can do."""
        self._on_change = on_change
        self._endpoints: dict[tuple[str, str], Endpoint] = {}
        self._began_at: float | None = None
        self._found_with_us: set[Endpoint] = set()
        self._next_expiry = math.inf
        self._all: tuple[Endpoint, ...] = ()

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """Every known endpoint, whatever it can do; the same tuple until the list changes."""
        return self._all

    # --- the list

    def replace(self, specs: Iterable[EndpointSpec], now: float) -> Replaced:
        """Take over a whole new list at once.

        A server of which something else is said now (labels, engine, keys, metrics URL) stays the same
        endpoint, with its reading, its reservations and what is remembered of it; also under another address
        where its identity says so, but then its reading is of the past. Else it is another server.
        """
        if self._began_at is None:
            self._began_at = now
        before, self._endpoints = self._endpoints, {}
        added, changed = [], []
        for key, spec in {(spec.namespace, spec.name): spec for spec in specs}.items():
            endpoint = before.get(key)
            if endpoint is None or endpoint.spec.server != spec.server:
                endpoint = self._add(spec, now)
                added.append(endpoint)
            elif endpoint.spec != spec:
                self._change(endpoint, spec, now)
                changed.append(endpoint)
            self._endpoints[key] = endpoint
        removed = [endpoint for key, endpoint in before.items() if self._endpoints.get(key) is not endpoint]
        for endpoint in removed:
            endpoint.memory.clear()
            self._found_with_us.discard(endpoint)
            self._signal(endpoint, Signal.REMOVED, now)
        self._all = tuple(self._endpoints.values())
        self._look_ahead()
        self.version += 1
        return Replaced(added, changed, removed)

    def _add(self, spec: EndpointSpec, now: float) -> Endpoint:
        endpoint = Endpoint(spec, Lifecycle(self.health, now))
        if self._began_at is not None and now - self._began_at <= _START:
            self._found_with_us.add(endpoint)
        self._manage(endpoint, now)
        return endpoint

    def _change(self, endpoint: Endpoint, spec: EndpointSpec, now: float) -> None:
        before, endpoint.spec, endpoint.labels = endpoint.spec, spec, spec.labels
        if before.engine != spec.engine:
            endpoint.engine = spec.engine
        if before.address != spec.address:
            endpoint.address = spec.address
            endpoint.load, endpoint.load_at = UNKNOWN, None
            self._signal(endpoint, Signal.MOVED, now, f"moved from {before.address} to {spec.address}")
        self._manage(endpoint, now)

    def _manage(self, endpoint: Endpoint, now: float) -> None:
        spec = endpoint.spec
        changes = endpoint.lifecycle.managed(
            now, hold=spec.hold, leaving=spec.leaving, pressure=spec.pressure
        )
        self._tell(endpoint, changes)

    # --- what looks show

    def reading(self, endpoint: Endpoint, load: Load, now: float, *, engine: str | None = None) -> None:
        """The server answered, ready to serve, with this load. ``engine``: as in ``answered``."""
        if load.started_at is not None:
            if endpoint.started_at not in (None, load.started_at):
                _end_life(endpoint)
            endpoint.started_at = load.started_at
        endpoint.load, endpoint.load_at = load, now
        before = endpoint.when_read.requests
        endpoint.when_read = WhenRead(endpoint.requests_in_flight, endpoint.work_in_flight, before)
        if load.work is not None:
            self._count(endpoint, load.work, now)
        self._next_expiry = min(self._next_expiry, now + self.stale_after)
        self.answered(endpoint, now, engine=engine)

    def _count(self, endpoint: Endpoint, work: Work, now: float) -> None:
        endpoint.rates.read(work, endpoint.load.running, now)
        if endpoint.rates.trust < FLUSHED:
            _end_life(endpoint)

    def answered(self, endpoint: Endpoint, now: float, *, engine: str | None = None) -> None:
        """The server is ready, even if it does not tell its load. ``engine``: whose answer it was read as."""
        endpoint.engine = engine or endpoint.spec.engine
        endpoint.was_lost = False
        found = endpoint in self._found_with_us and endpoint.lifecycle.phase is Phase.PENDING
        self._look(endpoint, Signal.FOUND if found else Signal.ANSWERED, now)

    def loading(self, endpoint: Endpoint, now: float, reason: str, *, engine: str | None = None) -> None:
        """The server is there, its model is not."""
        if endpoint.lifecycle.phase is not Phase.LOADING and not endpoint.was_lost:
            _end_life(endpoint)
        endpoint.was_lost = False
        endpoint.engine = engine or endpoint.spec.engine
        endpoint.load, endpoint.load_at = UNKNOWN, None
        self._look(endpoint, Signal.LOADING, now, reason)

    def lost(self, endpoint: Endpoint, now: float, reason: str) -> None:
        """The server takes no connections: what it held in its caches is gone, its load is unknown.

        So is its engine, unless it is declared: another process may listen there next.
        """
        if not endpoint.was_lost:
            _end_life(endpoint)
        endpoint.was_lost = True
        endpoint.models = None
        endpoint.engine = endpoint.spec.engine
        endpoint.load, endpoint.load_at = UNKNOWN, None
        note = endpoint.spec.note
        reason = f"{note} ({reason})" if note else reason
        self._look(endpoint, Signal.ABSENT if note else Signal.REFUSED, now, reason)

    def silent(self, endpoint: Endpoint, now: float, reason: str) -> None:
        """The server did not answer in time: what it said last holds until it is too old."""
        note = endpoint.spec.note
        self._look(endpoint, Signal.SILENT, now, f"{reason}; {note}" if note else reason)

    def found_beside(self, endpoint: Endpoint, figures: Mapping[str, float], until: float) -> None:
        """Further figures of it, which count ``until`` [s]; none: they are not known any more."""
        endpoint.figures, endpoint.figures_until = figures, until if figures else math.inf
        self._next_expiry = min(self._next_expiry, endpoint.figures_until)
        self.version += 1

    def lists(self, endpoint: Endpoint, models: Mapping[str, str]) -> None:
        """The models that it has."""
        if endpoint.models != models:
            endpoint.models = models
            self.version += 1

    # --- what requests show

    def served(self, endpoint: Endpoint, now: float) -> None:
        """A request there got its first token, or a good answer."""
        lifecycle, endpoint.served_at = endpoint.lifecycle, now
        if lifecycle.phase is not Phase.READY or lifecycle.failures:
            self._signal(endpoint, Signal.SERVED, now)

    def failed(self, endpoint: Endpoint, now: float, reason: str, *, sent_at: float = math.inf) -> None:
        """A request failed there. What was ``sent_at`` [s] before it came into service says nothing of it."""
        if sent_at >= endpoint.lifecycle.in_service_since:
            self._signal(endpoint, Signal.FAILED, now, reason)

    def late(self, endpoint: Endpoint, now: float, reason: str, *, sent_at: float = math.inf) -> None:
        """The gateway gave up waiting for an answer. It may only be long: a server that has served others
        since is not to blame."""
        if endpoint.served_at < sent_at:
            self.failed(endpoint, now, reason, sent_at=sent_at)

    def busy(self, endpoint: Endpoint, now: float, reason: str) -> None:
        """It refused a request because it is full: a sign of life, and a warning."""
        self._signal(endpoint, Signal.BUSY, now, reason)

    def quitting(self, endpoint: Endpoint, now: float, reason: str) -> None:
        """The server says itself that it shuts down."""
        self._signal(endpoint, Signal.QUITTING, now, reason)

    # --- time

    def expire(self, now: float) -> None:
        """Let time pass: before a pick, and before anybody shows anything."""
        if now < self._next_expiry:
            return
        self.version += 1
        for endpoint in self._all:
            if endpoint.load_at is not None and now - endpoint.load_at >= self.stale_after:
                endpoint.load, endpoint.load_at = UNKNOWN, None
            if endpoint.figures_until <= now:
                endpoint.figures, endpoint.figures_until = {}, math.inf
            if endpoint.lifecycle.due <= now:
                self._tell(endpoint, endpoint.lifecycle.advance(now))
        self._look_ahead()

    # --- inside

    def _look(self, endpoint: Endpoint, signal: Signal, now: float, reason: str = "") -> None:
        self._found_with_us.discard(endpoint)
        self._signal(endpoint, signal, now, reason)

    def _signal(self, endpoint: Endpoint, signal: Signal, now: float, reason: str = "") -> None:
        self.version += 1
        lifecycle = endpoint.lifecycle
        self._tell(endpoint, (*lifecycle.advance(now), *lifecycle.receive(signal, now, reason)))
        if self.on_news is not None:
            self.on_news(endpoint)

    def _tell(self, endpoint: Endpoint, changes: Sequence[Change]) -> None:
        lifecycle = endpoint.lifecycle
        self._next_expiry = min(self._next_expiry, lifecycle.due)
        endpoint.on_occupied = None if lifecycle.allowance is None else self._occupied
        lifecycle.is_tried = endpoint.trials > 0
        for change in changes:
            self._on_change(endpoint, change)

    def _occupied(self, endpoint: Endpoint) -> None:
        """A request came to or left an endpoint whose number of requests is limited."""
        self.version += 1
        endpoint.lifecycle.is_tried = endpoint.trials > 0

    def _look_ahead(self) -> None:
        """When time alone changes something next."""
        readings = (each.load_at + self.stale_after for each in self._all if each.load_at is not None)
        others = (min(each.lifecycle.due, each.figures_until) for each in self._all)
        self._next_expiry = min(min(readings, default=math.inf), min(others, default=math.inf))


def _end_life(endpoint: Endpoint) -> None:
    endpoint.life += 1
    endpoint.memory.clear()
    endpoint.rates.restarted()
