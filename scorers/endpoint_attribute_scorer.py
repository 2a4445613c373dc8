"""``endpoint-attribute-scorer``: the endpoints with the best value of a figure of one's own first."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from epp.core.scoring import Cycle, Endpoint, FigureReader, Scores


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedRange:
    """The range that scores are of, the same for all requests."""

    min: float
    """The value at its lower end."""
    max: float
    """The value at its upper end, above ``min``."""

    def __post_init__(self) -> None:
        if self.min >= self.max:
            raise ValueError(f"max: must be above min ({self.min:g}), got {self.max:g}")


@dataclass(frozen=True, slots=True)
class AdaptiveRange:
    """From the least to the most of the candidates; without parameters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Normalization:
    """The range that scores are of: at most one of the two; none is ``adaptiveRange``."""

    fixed_range: FixedRange | None = None
    """The same for all requests; values outside count as its ends."""
    adaptive_range: AdaptiveRange | None = None
    """From the least to the most of the candidates; all equal score 1."""

    def __post_init__(self) -> None:
        if self.fixed_range and self.adaptive_range:
            raise ValueError("adaptiveRange: is there beside fixedRange, keep one")


@dataclass(frozen=True, slots=True, kw_only=True)
class Algorithm:
    """How a value becomes a score."""

    type: Literal["linear_lower_is_better", "linear_higher_is_better"]
    """Which end of the range scores 1."""
    normalization: Normalization = field(default_factory=Normalization)
    """The range."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointAttributeScorer(FigureReader):
    """Prefer endpoints by one figure of them that an extractor reads.

    In:     n endpoints; the figure, as ``customMetrics`` of ``core-metrics-extractor`` or a
            ``dcgm-extractor`` reads it. It may be written ``figure/producer`` as well.
    Out:    (value - min) / (max - min), or 1 minus that if lower is better, in [0, 1]; None where the figure
            is missing or too old.
    Ties:   equal values, equal score; with ``adaptiveRange`` 1 for all if all are equal.
    Better: a missing figure is unknown, not 0.
    Source: upstream ``endpoint-attribute-scorer``, where a missing figure scores 0.
    """

    attribute_key: str
    """The figure: an ``attributeKey`` of ``customMetrics``, or ``GPUUtilization`` of a ``dcgm-extractor``."""
    algorithm: Algorithm
    """How it becomes a score."""

    key: ClassVar[tuple[str, str]] = ("attribute_key", "attributeKey")

    def score(self, cycle: Cycle, endpoints: Sequence[Endpoint]) -> Scores:
        values = [endpoint.attribute(self.attribute_key) for endpoint in endpoints]
        known = [value for value in values if value is not None]
        if not known:
            return values
        fixed = self.algorithm.normalization.fixed_range
        least, most = (fixed.min, fixed.max) if fixed else (min(known), max(known))
        if least == most:
            return [None if value is None else 1.0 for value in values]
        best, spread = (least, least - most) if self._lower_is_better else (most, most - least)
        return [
            None if value is None else 1.0 - (best - min(max(value, least), most)) / spread
            for value in values
        ]

    @property
    def _lower_is_better(self) -> bool:
        return self.algorithm.type == "linear_lower_is_better"
