"""``fcfs-ordering-policy``: first come, first served."""

from dataclasses import dataclass

from epp.core.scoring import Request


@dataclass(frozen=True, slots=True, kw_only=True)
class FcfsOrderingPolicy:
    """Within a flow, requests go in the order in which they came. The default.

    Source: upstream ``fcfs-ordering-policy``.
    """

    def queue_rank(self, request: Request, received_at: float, deadline: float) -> float:
        return 0.0
