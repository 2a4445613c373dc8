"""``topology-extractor``: which labels say where an endpoint stands."""

from dataclasses import dataclass
from typing import ClassVar

from epp.core.scoring import Kind


@dataclass(frozen=True, slots=True, kw_only=True)
class TopologyExtractor:
    """Names the labels that say on which host, in which rack, zone and region an endpoint is.

    In:     the endpoints' labels: those of the endpoints file, or of the pods.
    Out:    settings of ``topology-affinity-filter`` and ``topology-affinity-scorer``.
    Lacks:  a pod's ``spec.hostname``, which upstream takes where the label is missing.
    Source: upstream ``topology-extractor``, which takes a pod's ``spec.hostname`` where the label is missing;
            here that is an unknown host.
    """

    hostname: str = "kubernetes.io/hostname"
    """The label with the host."""
    rack: str = "topology.kubernetes.io/rack"
    """The label with the rack."""
    zone: str = "topology.kubernetes.io/zone"
    """The label with the zone."""
    region: str = "topology.kubernetes.io/region"
    """The label with the region."""

    is_experimental: ClassVar[bool] = True
    kind: ClassVar[Kind] = Kind.TOPOLOGY

    def __post_init__(self) -> None:
        for name in ("hostname", "rack", "zone", "region"):
            if not getattr(self, name):
                raise ValueError(f"{name}: must not be empty, leave it out for the usual label")

    @property
    def labels(self) -> tuple[str, ...]:
        """From the closest to the widest."""
        return self.hostname, self.rack, self.zone, self.region
