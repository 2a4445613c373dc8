"""``header-label-affinity-scorer``: the endpoints with the label that a request header asks for first."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from epp.core.scoring import Cycle, Endpoint, Scores


@dataclass(frozen=True, slots=True, kw_only=True)
class HeaderLabelAffinityScorer:
    """Prefer endpoints whose label says what a request header says.

    In:     n endpoints with ``labels``; the request's header.
    Out:    1 where the label is equal to the header, 0 elsewhere and without the label; without the header
            None everywhere, as nobody is asked for. The response tells the picked endpoint's label in
            the same header.
    Ties:   equal labels, equal score.
    Source: upstream ``header-label-affinity-scorer``.
    """

    header_name: str
    """The request header."""
    label_key: str
    """The label."""
    stamp_response_header: bool = True
    """Tell the label of the picked endpoint in the response's header of the same name; false for a header
    that is only asked with."""

    is_experimental: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_-]+", self.header_name):
            raise ValueError(f'headerName: must be a header name such as x-zone, got "{self.header_name}"')
        if not self.label_key:
            raise ValueError("labelKey: must not be empty")

    def score(self, cycle: Cycle, endpoints: Sequence[Endpoint]) -> Scores:
        wanted = cycle.request.headers.get(self.header_name.lower())
        if not wanted:
            return [None] * len(endpoints)
        return [1.0 if endpoint.labels.get(self.label_key) == wanted else 0.0 for endpoint in endpoints]

    def sent(self, cycle: Cycle, primary: str) -> Mapping[str, str]:
        """What the response tells."""
        told = cycle.picks[primary][0].labels.get(self.label_key, "")
        is_value = bool(told) and told.isascii() and told.isprintable()
        return {self.header_name.lower(): told} if is_value and self.stamp_response_header else {}
