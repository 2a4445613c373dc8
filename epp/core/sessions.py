"""Sessions: which endpoint a client's conversation goes back to.

Place:   used by the session-affinity plugins, which are SessionAffinity, through epp.core.scoring.
Ignores: what a session is to the client, and the clock (callers pass ``now`` [s]).
Rule:    what is remembered is bounded in number and in time. A token that a client shows is believed only as
         far as it names an endpoint that the request may go to anyway.
Source:  upstream's session-affinity plugins (llm-d-router): a token is the base64 of ``namespace/name``.
"""

import base64
import binascii
import re
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Self

import xxhash

from epp.core.fleet import Endpoint

MAX_SESSIONS = 100_000
"""About 30 MB; the session that was not heard of for longest is forgotten first."""
MAX_KEPT_CHARACTERS = 64
"""Of an identifier; of a longer one a digest is kept."""
MAX_TOKEN_CHARACTERS = 1024
"""Kubernetes' longest names, 253 + 63 characters, take 424."""

ATTRIBUTES: Mapping[str, str] = {
    "SessionIDDataKey": "session-id-producer",
    "agent-identity": "agent-identity",
}
"""What producers find out about sessions, as upstream calls it, and who does by default."""

_HEADER = r"[A-Za-z0-9_-]+"


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedEndpointHeader:
    """Of the strategy ``encoded_endpoint_header``: where the token is."""

    header: str = "x-session-token"
    """The header of request and response."""

    def __post_init__(self) -> None:
        if not re.fullmatch(_HEADER, self.header):
            raise ValueError(f'header: must be a header name such as x-session-token, got "{self.header}"')


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionSource:
    """One place where a session's identifier may be: either a header or an attribute."""

    header: str = ""
    """A request header."""
    attribute: str = ""
    """What a producer found: ``SessionIDDataKey`` or ``agent-identity``."""
    producer: str = ""
    """The name of that producer; empty: ``session-id-producer`` or ``agent-identity``."""

    def __post_init__(self) -> None:
        if bool(self.header) == bool(self.attribute):
            raise ValueError("give either header or attribute")
        if self.header and not re.fullmatch(_HEADER, self.header):
            raise ValueError(f'header: must be a header name such as x-session-id, got "{self.header}"')
        if self.header and self.producer:
            raise ValueError("producer: belongs to an attribute, a header has none")
        if self.attribute and self.attribute not in ATTRIBUTES:
            known = " or ".join(f'"{name}"' for name in ATTRIBUTES)
            raise ValueError(f'attribute: expected {known}, got "{self.attribute}"')

    @property
    def read_from(self) -> str:
        """The producer's name; empty for a header."""
        return self.producer or ATTRIBUTES.get(self.attribute, "")

    def read(self, headers: Mapping[str, str], facts: Mapping[str, Any]) -> str:
        """The identifier that is there; empty without one."""
        found = headers.get(self.header.lower()) if self.header else facts.get(self.read_from)
        return found if isinstance(found, str) else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionIds:
    """Of the strategy ``session_id``: where identifiers are, and how long a binding lasts."""

    sources: tuple[SessionSource, ...] = (SessionSource(header="x-session-id"),)
    """Where a session's identifier is; the first that there is counts. Without any: the header
    ``x-session-id``."""
    eviction_ttl_seconds: float = 300.0
    """How long [s] a binding lasts that is not used."""
    eviction_sweep_seconds: float = 10.0
    """How often [s] those that lasted too long are dropped; none is used for longer than both together."""

    def __post_init__(self) -> None:
        if not self.sources:
            raise ValueError("sources: give at least one, such as {header: x-session-id}")
        for name, value in (
            ("evictionTtlSeconds", self.eviction_ttl_seconds),
            ("evictionSweepSeconds", self.eviction_sweep_seconds),
        ):
            if not 0 < value <= 7 * 86_400:
                raise ValueError(f"{name}: must be above 0 and at most a week (604800), got {value:g}")


Strategy = Literal["encoded_endpoint_header", "session_id"]


def token_of(endpoint: Endpoint) -> str:
    """What a client shows to come back to this endpoint."""
    return base64.b64encode(_full_name(endpoint).encode()).decode()


def endpoint_of(token: str, endpoints: Sequence[Endpoint]) -> Endpoint | None:
    """The one of ``endpoints`` that a token names; None: it names none of them, or nothing."""
    if not token or len(token) > MAX_TOKEN_CHARACTERS:
        return None
    try:
        name = base64.b64decode(token, validate=True).decode()
    except (binascii.Error, ValueError):  # not base64, not ASCII, not UTF-8
        return None
    return next((endpoint for endpoint in endpoints if _full_name(endpoint) == name), None)


def _full_name(endpoint: Endpoint) -> str:
    return f"{endpoint.spec.namespace}/{endpoint.name}"


class Bindings:
    """Sessions with the endpoints they are bound to, those not heard of for longest first."""

    def __init__(self, ttl: float, sweep: float) -> None:
        self._ttl, self._sweep = ttl, sweep
        self._bound: OrderedDict[str, tuple[Endpoint, float]] = OrderedDict()
        self._swept_at = float("-inf")

    def __len__(self) -> int:
        return len(self._bound)

    def find(self, session: str, now: float) -> Endpoint | None:
        """Where ``session`` went last."""
        self._sweep_out(now)
        bound = self._bound.get(session)
        return None if bound is None else bound[0]

    def bind(self, session: str, endpoint: Endpoint, now: float) -> None:
        """``session`` goes there now."""
        self._sweep_out(now)
        self._bound[session] = (endpoint, now)
        self._bound.move_to_end(session)
        if len(self._bound) > MAX_SESSIONS:
            self._bound.popitem(last=False)

    def _sweep_out(self, now: float) -> None:
        if now - self._swept_at < self._sweep:
            return
        self._swept_at = now
        while self._bound:
            session, (_, used_at) = next(iter(self._bound.items()))
            if now - used_at <= self._ttl:
                return
            del self._bound[session]


@dataclass(slots=True)
class Sessions:
    """One plugin's way to find and to remember where sessions go."""

    strategy: Strategy
    header: EncodedEndpointHeader
    ids: SessionIds
    profile: str
    """Whose picks count; empty: the primary one's."""
    bindings: Bindings = field(init=False)

    def __post_init__(self) -> None:
        self.bindings = Bindings(self.ids.eviction_ttl_seconds, self.ids.eviction_sweep_seconds)

    def bound(
        self, headers: Mapping[str, str], facts: Mapping[str, Any], endpoints: Sequence[Endpoint], now: float
    ) -> Endpoint | None:
        """The one of ``endpoints`` that a request's session is bound to; None without one."""
        if self.strategy == "encoded_endpoint_header":
            return endpoint_of(headers.get(self.header.header.lower(), ""), endpoints)
        session = self._session(headers, facts)
        found = self.bindings.find(session, now) if session else None
        return found if found in endpoints else None

    def sent(
        self,
        headers: Mapping[str, str],
        facts: Mapping[str, Any],
        picks: Mapping[str, Sequence[Endpoint]],
        primary: str,
        now: float,
    ) -> Mapping[str, str]:
        """Remember where it goes; headers for the client to remember it."""
        picked = picks.get(self.profile or primary)
        if not picked:
            return {}
        if self.strategy == "encoded_endpoint_header":
            return {self.header.header.lower(): token_of(picked[0])}
        session = self._session(headers, facts)
        if session:
            self.bindings.bind(session, picked[0], now)
        return {}

    def _session(self, headers: Mapping[str, str], facts: Mapping[str, Any]) -> str:
        found = next(filter(None, (source.read(headers, facts) for source in self.ids.sources)), "")
        return found if len(found) <= MAX_KEPT_CHARACTERS else xxhash.xxh3_128_hexdigest(found.encode())

    def check(self, producers: Mapping[str, Any], profiles: Collection[str]) -> None:
        """ValueError, with the field, where a name is of nothing."""
        if self.profile and self.profile not in profiles:
            raise ValueError(f'profileName: there is no profile "{self.profile}"')
        if self.strategy == "session_id":
            for source in self.ids.sources:
                if source.read_from:
                    try:
                        producers[source.read_from]
                    except KeyError:
                        raise ValueError(
                            f'sessionIdConfig: there is no plugin "{source.read_from}", add it to plugins'
                        ) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionAffinity:
    """The parameters of a plugin that brings sessions back to where they were."""

    strategy: Strategy = "encoded_endpoint_header"
    """Who remembers: the client, or this picker, which then has to be the only one."""
    encoded_endpoint_header_config: EncodedEndpointHeader = field(default_factory=EncodedEndpointHeader)
    """Settings of the strategy ``encoded_endpoint_header``."""
    session_id_config: SessionIds = field(default_factory=SessionIds)
    """Settings of the strategy ``session_id``."""
    profile_name: str = ""
    """The profile whose pick is remembered; empty: the one that gets the request."""
    sessions: Sessions = field(init=False, repr=False, compare=False)

    is_experimental: ClassVar[bool] = True

    def __post_init__(self) -> None:
        sessions = Sessions(
            self.strategy, self.encoded_endpoint_header_config, self.session_id_config, self.profile_name
        )
        object.__setattr__(self, "sessions", sessions)

    def joined(self, plugins: Mapping[str, Any], profiles: Collection[str]) -> Self:
        """This plugin; ValueError where it names something that is not there."""
        self.sessions.check(plugins, profiles)
        return self
