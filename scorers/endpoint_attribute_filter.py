"""``endpoint-attribute-filter``: only endpoints with a certain value of a figure of one's own."""

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from epp.core.scoring import Cycle, Endpoint, FigureReader

OPERATORS: Mapping[str, Callable[[float, float], bool]] = {
    "LessThan": operator.lt,
    "LessThanOrEqual": operator.le,
    "GreaterThan": operator.gt,
    "GreaterThanOrEqual": operator.ge,
    "Equal": operator.eq,
    "NotEqual": operator.ne,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Threshold:
    """What a value has to be."""

    operator: Literal["LessThan", "LessThanOrEqual", "GreaterThan", "GreaterThanOrEqual", "Equal", "NotEqual"]
    """How it has to compare."""
    value: float
    """To what."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ThresholdAlgorithm:
    """Which endpoints are kept."""

    type: Literal["threshold"]
    """Only ``threshold`` is taken."""
    threshold: Threshold
    """What their value has to be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointAttributeFilter(FigureReader):
    """Drop endpoints by one figure of them that an extractor reads.

    In:     n endpoints; the figure, as ``customMetrics`` of ``core-metrics-extractor`` or a
            ``dcgm-extractor`` reads it. It may be written ``figure/producer`` as well.
    Out:    those whose figure is as ``algorithm.threshold`` says, in their order; those where it is missing
            or too old as ``onMissing`` says. Where nobody is left: nobody, or with ``fallbackOnEmpty`` all.
    Source: upstream ``endpoint-attribute-filter``.
    """

    attribute: str
    """The figure: an ``attributeKey`` of ``customMetrics``, or ``GPUUtilization`` of a ``dcgm-extractor``."""
    algorithm: ThresholdAlgorithm
    """Which are kept."""
    on_missing: Literal["Pass", "Fail"] = "Pass"
    """Whether endpoints without the figure are kept."""
    fallback_on_empty: bool = False
    """Where nobody is left, keep all instead of refusing the request (429)."""

    key: ClassVar[tuple[str, str]] = ("attribute", "attribute")

    def filter(self, cycle: Cycle, endpoints: Sequence[Endpoint]) -> Sequence[Endpoint]:
        kept = [each for each in endpoints if self._keeps(each.attribute(self.attribute))]
        return kept or (endpoints if self.fallback_on_empty else kept)

    def _keeps(self, value: float | None) -> bool:
        if value is None:
            return self.on_missing == "Pass"
        wanted = self.algorithm.threshold
        return OPERATORS[wanted.operator](value, wanted.value)
