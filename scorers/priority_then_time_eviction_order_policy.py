"""``priority-then-time-eviction-order-policy``: the least important goes first, the newest of them."""

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True, kw_only=True)
class PriorityThenTimeEvictionOrderPolicy:
    """With `enableEviction`, the lowest priority is stopped first, and of equal ones the one that began last.

    Note: that one loses the least work. The default, and the only one.

    Source: upstream ``priority-then-time-eviction-order-policy``.
    """

    is_experimental: ClassVar[bool] = True

    def evict_rank(self, priority: int, dispatched_at: float) -> tuple[float, ...]:
        return priority, -dispatched_at
