"""``models-data-source``: where a server lists its models."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from epp.core.scoring import Kind, Seconds, check_target


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelsDataSource:
    """Settings for reading the list of models that each endpoint has.

    In:     the answer to ``GET path`` on the endpoint's serving port, with its API key where it has one.
    Out:    lists for a ``models-data-extractor``.
    Source: upstream ``models-data-source``.
    """

    scheme: Literal["http", "https"] | None = None
    """None: as the endpoint says, which is http unless it says otherwise."""
    path: str = "/v1/models"
    """Where the list is."""
    insecure_skip_verify: bool = True
    """With https: believe any certificate."""
    ca_cert_path: str = ""
    """A PEM file: with it certificates are verified, by this CA."""
    client_cert_path: str = ""
    """A PEM file: the certificate to show to servers that ask for one."""
    client_key_path: str = ""
    """A PEM file: its key."""
    interval: Seconds = 10.0
    """Time between two readings of one server, at least 1s."""

    kind: ClassVar[Kind] = Kind.SIDE_SOURCE
    extractor: ClassVar[str] = "models-data-extractor"
    port: ClassVar[int | None] = None
    use_node_address: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_target(self.path, self.interval)
        if bool(self.client_cert_path) != bool(self.client_key_path):
            raise ValueError("clientCertPath: clientCertPath and clientKeyPath belong together, give both")
