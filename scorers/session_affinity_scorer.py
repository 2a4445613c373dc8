"""``session-affinity-scorer``: the endpoint that had the last request of this session first."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from epp.core.scoring import Cycle, Endpoint, Scores, SessionAffinity


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionAffinityScorer(SessionAffinity):
    """Prefer the endpoint that had the last request of the same session.

    In:     n endpoints; with ``encoded_endpoint_header`` the token in a request header, which an earlier
            response gave; with ``session_id`` the session's identifier and where it went before.
    Out:    1 for that endpoint, 0 for the others; None everywhere for a session that is bound to none of
            them.
    Then:   with ``encoded_endpoint_header`` the response tells the token of the endpoint picked, base64 of
            namespace/name, in the same header; with ``session_id`` the session is bound to it, for
            ``evictionTtlSeconds`` from its last request on. The last 100,000 sessions are remembered.
    Source: upstream ``session-affinity-scorer``.
    """

    def score(self, cycle: Cycle, endpoints: Sequence[Endpoint]) -> Scores:
        bound = self.sessions.bound(cycle.request.headers, cycle.facts, endpoints, cycle.now)
        if bound is None:
            return [None] * len(endpoints)
        return [1.0 if endpoint is bound else 0.0 for endpoint in endpoints]

    def sent(self, cycle: Cycle, primary: str) -> Mapping[str, str]:
        """What the response tells."""
        return self.sessions.sent(cycle.request.headers, cycle.facts, cycle.picks, primary, cycle.now)
