"""``by-label-selector``: the former name of ``label-selector-filter``."""

from dataclasses import dataclass
from typing import ClassVar

from scorers.label_selector_filter import LabelSelectorFilter


@dataclass(frozen=True, slots=True, kw_only=True)
class ByLabelSelector(LabelSelectorFilter):
    """The former name of ``label-selector-filter``, with the same parameters.

    Source: upstream ``by-label-selector``, deprecated in v0.9.
    """

    deprecated: ClassVar[str] = "use label-selector-filter, its parameters are the same"
