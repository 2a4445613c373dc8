"""``session-affinity-filter``: only the endpoint that had the last request of this session."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from epp.core.scoring import Cycle, EncodedEndpointHeader, Endpoint, SessionIds, Sessions


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionAffinityFilter:
    """Keep the endpoint that had the last request of the same session, as long as it is there.

    In:     n endpoints; with ``encoded_endpoint_header`` the token in a request header, which an earlier
            response gave; with ``session_id`` the session's identifier and where it went before.
    Out:    that endpoint alone; all, for a session that is bound to none of them.
    Then:   with ``encoded_endpoint_header`` the response tells the token of the endpoint picked, base64 of
            namespace/name, in the same header; with ``session_id`` the session is bound to it, for
            ``evictionTtlSeconds`` from its last request on. The last 100,000 sessions are remembered.
    Source: upstream ``session-affinity-filter``.
    """

    strategy: Literal["encoded_endpoint_header", "session_id"] = "encoded_endpoint_header"
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

    def joined(self, plugins: Mapping[str, Any], profiles: Collection[str]) -> "SessionAffinityFilter":
        """This filter; ValueError where it names something that is not there."""
        self.sessions.check(plugins, profiles)
        return self

    def filter(self, cycle: Cycle, endpoints: Sequence[Endpoint]) -> Sequence[Endpoint]:
        bound = self.sessions.bound(cycle.request.headers, cycle.facts, endpoints, cycle.now)
        return endpoints if bound is None else (bound,)

    def sent(self, cycle: Cycle, primary: str) -> Mapping[str, str]:
        """What the response tells."""
        return self.sessions.sent(cycle.request.headers, cycle.facts, cycle.picks, primary, cycle.now)
