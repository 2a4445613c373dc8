"""``soft-reflective-ceiling-policy``: less important bands get fewer and fewer turns as the pool fills."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar


@dataclass(frozen=True, slots=True, kw_only=True)
class SoftReflectiveCeilingPolicy:
    """Slow less important bands down as the pool fills, instead of stopping them.

    In:   the saturation s, and the bands, N of them, the i-th from the top counted from 0.
    Out:  the first 1; another below 1 - i * s / (N - 1) 1; from there on open (1) once in round(s / (1 - s))
          questions and shut (0) in the others, all of them together; from s = 1 on shut.
    Source: upstream ``soft-reflective-ceiling-policy``.
    """

    tick: list[int] = field(init=False, repr=False, compare=False, default_factory=lambda: [0])

    alternates: ClassVar[bool] = True
    is_experimental: ClassVar[bool] = True

    def ceilings(self, saturation: float, priorities: Sequence[int]) -> Sequence[float]:
        last = len(priorities) - 1
        if last < 1:
            return [1.0] * len(priorities)
        is_open = False
        if 1 - saturation <= saturation < 1:  # the last band is past its ceiling
            period = max(1, int(saturation / (1 - saturation + 1e-9) + 0.5))  # as Go rounds
            self.tick[0] += 1
            is_open = self.tick[0] % period == 0
        below = [
            1.0 if saturation < 1 - i * saturation / last or is_open else 0.0 for i in range(1, last + 1)
        ]
        return [1.0, *below]
