"""``metrics-data-source``: how the endpoints' metrics are read."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from epp.core.scoring import Kind, Seconds, read_target


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsDataSource:
    """Settings of the scraper, where an endpoint has none of its own.

    Better: servers at rest are read less often, and one that dies is noticed at once.
    Source: upstream ``metrics-data-source``.
    """

    scheme: Literal["http", "https"] | None = None
    """None: as the endpoint says, which is http unless it says otherwise."""
    path: str | None = None
    """None: where the endpoint's engine shows its metrics."""
    port: int | None = None
    """None: the serving port."""
    insecure_skip_verify: bool = True
    """With https: believe any certificate."""
    ca_cert_path: str = ""
    """A PEM file: with it certificates are verified, by this CA."""
    client_cert_path: str = ""
    """A PEM file: the certificate to show to servers that ask for one."""
    client_key_path: str = ""
    """A PEM file: its key."""
    interval: Seconds | None = None
    """Shortest time between two readings of one server. None: as the command line says."""

    kind: ClassVar[Kind] = Kind.METRICS_SOURCE

    def __post_init__(self) -> None:
        if self.port is not None and not 1 <= self.port <= 65535:
            raise ValueError(f"port: must be from 1 to 65535, got {self.port}")
        if self.path is not None:
            try:
                read_target(self.path)
            except ValueError as error:
                raise ValueError(f"path: {error}") from None
        if bool(self.client_cert_path) != bool(self.client_key_path):
            raise ValueError("clientCertPath: clientCertPath and clientKeyPath belong together, give both")
