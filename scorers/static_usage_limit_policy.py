"""``static-usage-limit-policy``: one ceiling for every band."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True, kw_only=True)
class StaticUsageLimitPolicy:
    """Every band may send requests while the pool's saturation is below `threshold`. The default.

    Source: upstream ``static-usage-limit-policy``.
    """

    threshold: float = 1.0
    """The saturation at which all wait; 1 is full."""

    alternates: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 100:
            raise ValueError(f"threshold: must be above 0 and at most 100, got {self.threshold:g}")

    def ceilings(self, saturation: float, priorities: Sequence[int]) -> Sequence[float]:
        return [self.threshold] * len(priorities)
