"""``priority-holdback-policy``: less important bands stop earlier."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class PriorityHoldbackPolicy:
    """Keep room for important requests: the lower a band's priority, the lower its ceiling.

    In:   the priorities of all bands, N of them.
    Out:  `rank`: maxCeiling - i * (maxCeiling - minCeiling) / (N - 1) for the i-th from the top, counted
          from 0. `value`: minCeiling + (p - lowest) / (highest - lowest) * (maxCeiling - minCeiling). One
          band alone: maxCeiling.
    Source: upstream ``priority-holdback-policy``.
    """

    min_ceiling: float
    """The saturation at which the least important band stops, 0 to below 1."""
    max_ceiling: float = 1.0
    """The saturation at which the most important band stops, above minCeiling and at most 1."""
    shape: Literal["linear"] = "linear"
    """The only one."""
    domain: Literal["rank", "value"] = "rank"
    """What counts: a band's place, or its number."""

    alternates: ClassVar[bool] = False
    is_experimental: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 <= self.min_ceiling < 1:
            raise ValueError(f"minCeiling: must be from 0 to below 1, got {self.min_ceiling:g}")
        if not 0 < self.max_ceiling <= 1:
            raise ValueError(f"maxCeiling: must be above 0 and at most 1, got {self.max_ceiling:g}")
        if self.min_ceiling >= self.max_ceiling:
            raise ValueError(
                f"minCeiling: must be below maxCeiling ({self.max_ceiling:g}), got {self.min_ceiling:g}"
            )

    def ceilings(self, saturation: float, priorities: Sequence[int]) -> Sequence[float]:
        highest, spread = self.max_ceiling, self.max_ceiling - self.min_ceiling
        if len(priorities) < 2:
            return [highest] * len(priorities)
        if self.domain == "rank":
            return [highest - i * spread / (len(priorities) - 1) for i in range(len(priorities))]
        top, bottom = priorities[0], priorities[-1]
        return [self.min_ceiling + (each - bottom) / (top - bottom) * spread for each in priorities]
