"""Which pools somebody wants to have served.

Place:   written by epp.config.flags; what they come to is in epp.config.cluster.assignments.
"""

from dataclasses import dataclass
from typing import NamedTuple


class PoolName(NamedTuple):
    """Which InferencePool."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What the command line asks for: one pool by ``name``, or all that name ``service`` as their picker."""

    namespace: str
    name: str = ""
    service: str = ""
    port: int | None = None
    """None: where the pool itself says that its picker is; 0: any."""

    def is_for(self, pool: PoolName) -> bool:
        """It names this pool and its port, so that the pool need not say anything."""
        return (self.namespace, self.name) == pool and self.port is not None
