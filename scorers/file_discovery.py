"""``file-discovery``: the endpoints are listed in a file."""

from dataclasses import dataclass
from typing import ClassVar

from epp.core.scoring import Kind


@dataclass(frozen=True, slots=True, kw_only=True)
class FileDiscovery:
    """Where the list of endpoints is.

    Better: host names, IPv6, TLS, keys and metrics elsewhere; a broken file changes nothing.
    Source: upstream ``file-discovery``.
    """

    path: str
    """The endpoints file, relative to the directory in which the process was started."""
    watch_file: bool = False
    """Take over a changed file while running."""

    kind: ClassVar[Kind] = Kind.DISCOVERY

    def __post_init__(self) -> None:
        if not self.path:
            raise ValueError("path: must not be empty")
