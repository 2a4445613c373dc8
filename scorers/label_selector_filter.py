"""``label-selector-filter``: only endpoints with certain labels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from epp.core.scoring import Cycle, Endpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirement:
    """One expression over a label: ``key operator values``."""

    key: str
    """The label."""
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    """NotIn holds for a missing label, too."""
    values: tuple[str, ...] = ()
    """For In and NotIn, at least one."""

    def __post_init__(self) -> None:
        takes_values = self.operator in {"In", "NotIn"}
        if takes_values and not self.values:
            raise ValueError(f"values: {self.operator} needs at least one value")
        if not takes_values and self.values:
            raise ValueError(f"values: {self.operator} takes no values")

    def holds(self, labels: Mapping[str, str]) -> bool:
        """Whether these labels meet the requirement; NotIn holds for a missing label, as in Kubernetes."""
        match self.operator:
            case "In":
                return labels.get(self.key) in self.values
            case "NotIn":
                return self.key not in labels or labels[self.key] not in self.values
            case "Exists":
                return self.key in labels
            case "DoesNotExist":
                return self.key not in labels


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelSelectorFilter:
    """Keep the endpoints whose labels match a Kubernetes LabelSelector.

    In:     endpoints with ``labels``.
    Out:    those that have every one of ``matchLabels`` and meet all ``matchExpressions``, in their
            order; an empty selector keeps all.
    Source: upstream ``label-selector-filter``; meta/v1 LabelSelector.
    """

    match_labels: Mapping[str, str] = field(default_factory=dict)
    """Labels with the values that an endpoint must have."""
    match_expressions: tuple[Requirement, ...] = ()
    """Expressions that must all hold."""

    from_readings: ClassVar[bool] = True
    before_lifecycle: ClassVar[bool] = True

    def filter(self, cycle: Cycle, endpoints: Sequence[Endpoint]) -> Sequence[Endpoint]:
        wanted, requirements = self.match_labels.items(), self.match_expressions
        return [
            endpoint
            for endpoint in endpoints
            if all(endpoint.labels.get(key) == value for key, value in wanted)
            and all(requirement.holds(endpoint.labels) for requirement in requirements)
        ]
