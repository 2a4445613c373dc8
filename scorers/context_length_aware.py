"""``context-length-aware``: long prompts to the endpoints that are set up for long ones."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, NamedTuple

from epp.core.scoring import Cycle, Endpoint, Scores

UNLABELLED = 0.5
OUTSIDE = 0.3
"""The most that an endpoint gets whose range the prompt is not in, and the least of those where it is."""


class _Range(NamedTuple):
    least: int
    most: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextLengthAware:
    """Prefer endpoints whose range of prompt lengths, a label, fits; or keep only those, as a filter.

    In:     n endpoints with the label, ``min-max`` [tokens]; the prompt's estimated length [tokens].
    Out:    inside the range 0.3 + 0.7 * (0.7 / (1 + width / 10000) + 0.3 * (max - length) / width), with a
            width of 0 then 1; outside 0.3 / (1 + distance / 1000); without the label 0.5; with one that is no
            range 0. As a filter, with ``enableFiltering``: those whose range the length is in, and those
            without the label.
    Ties:   equal ranges, equal score.
    Source: upstream ``context-length-aware``.
    """

    label: str = "llm-d.ai/context-length-range"
    """The label; its value is for example ``0-8192``."""
    enable_filtering: bool = False
    """Drop endpoints whose range the prompt is not in, and those whose label is no range."""

    before_lifecycle: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not self.label:
            raise ValueError("label: must not be empty")

    @property
    def is_filtering(self) -> bool:
        """Whether it is a filter at all."""
        return self.enable_filtering

    def filter(self, cycle: Cycle, endpoints: Sequence[Endpoint]) -> Sequence[Endpoint]:
        length = cycle.request.prompt_tokens
        return [endpoint for endpoint in endpoints if self._takes(endpoint, length)]

    def score(self, cycle: Cycle, endpoints: Sequence[Endpoint]) -> Scores:
        length = cycle.request.prompt_tokens
        return [_score(endpoint.labels.get(self.label), length) for endpoint in endpoints]

    def _takes(self, endpoint: Endpoint, length: int) -> bool:
        written = endpoint.labels.get(self.label)
        if written is None:
            return True
        taken = _range(written)
        return taken is not None and taken.least <= length <= taken.most


def _score(written: str | None, length: int) -> float:
    if written is None:
        return UNLABELLED
    taken = _range(written)
    if taken is None:
        return 0.0
    if length > taken.most:
        return OUTSIDE / (1.0 + (length - taken.most) / 1000.0)
    if length < taken.least:
        return OUTSIDE / (1.0 + (taken.least - length) / 1000.0)
    width = taken.most - taken.least
    if not width:
        return 1.0
    tightness, headroom = 1.0 / (1.0 + width / 10_000.0), (taken.most - length) / width
    return OUTSIDE + (1.0 - OUTSIDE) * (0.7 * tightness + 0.3 * headroom)


@lru_cache(maxsize=1024)
def _range(written: str) -> _Range | None:
    found = re.fullmatch(r"\s*(\d{1,12})\s*-\s*(\d{1,12})\s*", written, re.ASCII)
    if found is None or int(found[1]) > int(found[2]):
        return None
    return _Range(int(found[1]), int(found[2]))
