"""``dcgm-data-source``: where the figures of the GPUs are read."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from epp.core.scoring import Kind, Seconds, check_target


@dataclass(frozen=True, slots=True, kw_only=True)
class DcgmDataSource:
    """Settings for reading NVIDIA's DCGM exporter beside each endpoint.

    In:     the page of the exporter at the endpoint's own address, or with ``useNodeAddress`` at that of the
            node that its pod runs on; an exporter of several endpoints is asked once for all of them.
    Out:    pages for a ``dcgm-extractor``. Endpoints outside of the cluster are asked as well, at their own
            address.
    Better: an exporter of several endpoints is asked once for all, and hosts outside of the cluster are
            asked as well.
    Source: upstream ``dcgm-data-source``, which asks as often as for the engine's metrics; the exporter looks
            at the GPUs every 30 s unless told otherwise.
    """

    scheme: Literal["http", "https"] = "http"
    """How the exporter is asked."""
    path: str = "/metrics"
    """Where its page is."""
    port: int = 9400
    """Its port."""
    insecure_skip_verify: bool = True
    """With https: believe any certificate."""
    use_node_address: bool = False
    """Ask at the node's address (an exporter in a DaemonSet), not at the pod's (one in a sidecar)."""
    interval: Seconds = 5.0
    """Time between two readings of one exporter, at least 1s; a figure counts for three of them."""

    is_experimental: ClassVar[bool] = True
    kind: ClassVar[Kind] = Kind.SIDE_SOURCE
    extractor: ClassVar[str] = "dcgm-extractor"
    ca_cert_path: ClassVar[str] = ""
    client_cert_path: ClassVar[str] = ""
    client_key_path: ClassVar[str] = ""

    def __post_init__(self) -> None:
        if not 1 <= self.port <= 65535:
            raise ValueError(f"port: must be from 1 to 65535, got {self.port}")
        check_target(self.path, self.interval)
