"""``slo-deadline-ordering-policy``: the request whose promised first token is due first."""

import math
from dataclasses import dataclass

from epp.core.scoring import Request

HEADERS = ("x-llm-d-slo-ttft-ms", "x-slo-ttft-ms")


@dataclass(frozen=True, slots=True, kw_only=True)
class SloDeadlineOrderingPolicy:
    """Within a flow, the request goes first whose first token is due first.

    In:   the request's arrival, and the header `x-llm-d-slo-ttft-ms` (or `x-slo-ttft-ms`) [ms].
    Out:  arrival + TTFT. Without the header, or with one that is no number of at least 0: behind all that
          have one. Equal deadlines go in the order of arrival.
    Source: upstream ``slo-deadline-ordering-policy``.
    """

    def queue_rank(self, request: Request, received_at: float, deadline: float) -> float:
        text = (request.headers.get(HEADERS[0]) or request.headers.get(HEADERS[1]) or "").strip()
        is_number = len(text) <= 15 and text.isascii() and text.isdigit()
        return received_at + int(text) / 1000 if is_number else math.inf
