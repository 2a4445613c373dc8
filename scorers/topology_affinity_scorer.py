"""``topology-affinity-scorer``: the endpoints that stand nearest to the one picked before first."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from epp.core.scoring import Cycle, Endpoint, Nearness, Scores, TopologyAffinity, nearness, peer_of

SCORES: Mapping[Nearness | None, float] = {
    Nearness.HOST: 1.0,
    Nearness.RACK: 0.2,
    Nearness.ZONE: 0.05,
    Nearness.REGION: 0.02,
    None: 0.0,
}
"""About as the bandwidth at which a KV cache moves between the two."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TopologyAffinityScorer(TopologyAffinity):
    """Prefer endpoints near the one that an earlier profile of this request picked.

    In:     n endpoints with the labels that the named ``topology-extractor`` names; the first pick of an
            earlier profile.
    Out:    by the closest they have in common: host 1, rack 0.2, zone 0.05, region 0.02, nothing 0; None
            everywhere where there was no earlier pick, or nobody knows where it stands.
    Ties:   equally near, equal score. A missing label is like no other, not even a missing one.
    Source: upstream ``topology-affinity-scorer``, within one picker.
    """

    def score(self, cycle: Cycle, endpoints: Sequence[Endpoint]) -> Scores:
        peer = peer_of(cycle)
        if peer is None or not any(map(peer.labels.get, self.labels)):
            return [None] * len(endpoints)
        return [SCORES[nearness(endpoint.labels, peer.labels, self.labels)] for endpoint in endpoints]
