"""``by-label``: only endpoints with one of certain values of a label."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from epp.core.scoring import Cycle, Endpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class ByLabel:
    """Keep the endpoints with one of certain values of one label.

    In:     endpoints with ``labels``.
    Out:    those whose ``label`` is one of ``validValues``, and with ``allowsNoLabel`` those without it; in
            their order.
    Source: upstream ``by-label``, deprecated in v0.9.
    """

    label: str
    """The label."""
    valid_values: tuple[str, ...] = ()
    """The values that are kept."""
    allows_no_label: bool = False
    """Keep endpoints without the label as well."""

    from_readings: ClassVar[bool] = True
    before_lifecycle: ClassVar[bool] = True
    deprecated: ClassVar[str] = (
        "use label-selector-filter with matchExpressions: [{key: LABEL, operator: In, values: [...]}]"
    )

    def __post_init__(self) -> None:
        if not self.label:
            raise ValueError("label: must not be empty")
        if not self.valid_values and not self.allows_no_label:
            raise ValueError("validValues: must name a value, or nobody would be left")

    def filter(self, cycle: Cycle, endpoints: Sequence[Endpoint]) -> Sequence[Endpoint]:
        return [each for each in endpoints if self._keeps(each.labels.get(self.label))]

    def _keeps(self, value: str | None) -> bool:
        return self.allows_no_label if value is None else value in self.valid_values
