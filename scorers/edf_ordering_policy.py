"""``edf-ordering-policy``: the earliest deadline first."""

from dataclasses import dataclass

from epp.core.scoring import Request


@dataclass(frozen=True, slots=True, kw_only=True)
class EdfOrderingPolicy:
    """Within a flow, the request goes first whose time in the queue ends first.

    In:   the request's arrival, and `defaultRequestTTL`.
    Out:  arrival + TTL; without a TTL never. Equal deadlines go in the order of arrival.
    Note: as long as every request has the same TTL, this is the order of arrival.
    Source: upstream ``edf-ordering-policy``.
    """

    def queue_rank(self, request: Request, received_at: float, deadline: float) -> float:
        return deadline
