"""``topology-affinity-filter``: only endpoints that stand near the one picked before."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from epp.core.scoring import Cycle, Endpoint, Nearness, TopologyAffinity, nearness, peer_of


@dataclass(frozen=True, slots=True, kw_only=True)
class TopologyAffinityFilter(TopologyAffinity):
    """Keep the endpoints near the one that an earlier profile of this request picked.

    In:     n endpoints with the labels that the named ``topology-extractor`` names; the first pick of an
            earlier profile.
    Out:    those that have the host, rack, zone or region of ``minAffinity`` in common with it, or something
            closer; in their order. All, where there was no earlier pick, nobody knows where it stands, or
            nobody is near enough.
    Ties:   a missing label is like no other, not even a missing one.
    Source: upstream ``topology-affinity-filter``, within one picker.
    """

    min_affinity: Literal["host", "rack", "zone", "region"] = "host"
    """The widest that they have to have in common."""

    def filter(self, cycle: Cycle, endpoints: Sequence[Endpoint]) -> Sequence[Endpoint]:
        peer = peer_of(cycle)
        if peer is None:
            return endpoints
        widest = Nearness[self.min_affinity.upper()]
        near = [
            endpoint
            for endpoint in endpoints
            if (found := nearness(endpoint.labels, peer.labels, self.labels)) is not None and found <= widest
        ]
        return near or endpoints
