"""``session-affinity-filter``: only the endpoint that had the last request of this session."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from epp.core.scoring import Cycle, Endpoint, SessionAffinity


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionAffinityFilter(SessionAffinity):
    """Keep the endpoint that had the last request of the same session, as long as it is there.

    In:     n endpoints; with ``encoded_endpoint_header`` the token in a request header, which an earlier
            response gave; with ``session_id`` the session's identifier and where it went before.
    Out:    that endpoint alone; all, for a session that is bound to none of them.
    Then:   with ``encoded_endpoint_header`` the response tells the token of the endpoint picked, base64 of
            namespace/name, in the same header; with ``session_id`` the session is bound to it, for
            ``evictionTtlSeconds`` from its last request on. The last 100,000 sessions are remembered.
    Source: upstream ``session-affinity-filter``.
    """

    def filter(self, cycle: Cycle, endpoints: Sequence[Endpoint]) -> Sequence[Endpoint]:
        bound = self.sessions.bound(cycle.request.headers, cycle.facts, endpoints, cycle.now)
        return endpoints if bound is None else (bound,)

    def sent(self, cycle: Cycle, primary: str) -> Mapping[str, str]:
        """What the response tells."""
        return self.sessions.sent(cycle.request.headers, cycle.facts, cycle.picks, primary, cycle.now)
