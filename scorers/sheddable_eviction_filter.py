"""``sheddable-eviction-filter``: only sheddable requests are stopped for others."""

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True, kw_only=True)
class SheddableEvictionFilter:
    """With `enableEviction`, running requests of a priority below 0 may be stopped.

    Note: the default, and the only one.
    Source: upstream ``sheddable-eviction-filter``.
    """

    is_experimental: ClassVar[bool] = True

    def may_evict(self, priority: int) -> bool:
        return priority < 0
