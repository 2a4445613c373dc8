"""Who hears of every request: the metrics, the log line, and the scraper that looks where work goes.

Place:   told by the server; the only place where one request's facts are passed to several listeners.
"""

from collections.abc import Callable

from epp.core.events import Outcome
from epp.core.fleet import Endpoint
from epp.core.rejection import Rejection
from epp.core.request import Request
from epp.core.scheduling import Decision
from epp.runtime.logs import RequestLog
from epp.runtime.metrics import Metrics


class Reporter:
    """``kick``: an endpoint that gets work should be looked at soon. ``traced``: makes the spans."""

    __slots__ = ("_ended", "_finished", "_kick", "_log", "_placed", "_traced", "closed", "opened")

    def __init__(
        self,
        metrics: Metrics,
        log: RequestLog,
        kick: Callable[[Endpoint], None],
        *,
        traced: Callable[[Outcome], None] | None = None,
    ) -> None:
        self.opened = metrics.streams.opened
        """A stream began."""
        self.closed = metrics.streams.closed
        """A stream ended."""
        self._placed = metrics.requests.placed
        self._finished = metrics.requests.finished
        self._ended = metrics.streams.finished if metrics.streams.is_timed else None
        self._log = log.finished
        self._kick = kick
        self._traced = traced

    def placed(self, request: Request, result: Decision | Rejection, seconds: float) -> None:
        """The scheduler took ``seconds`` for this result."""
        self._placed(request, result, seconds)
        if not isinstance(result, Rejection):
            self._kick(result.endpoints[0])

    def finished(self, outcome: Outcome) -> None:
        """A request is over. Where its answer broke off, client or server may have gone: a look tells."""
        self._finished(outcome, outcome.ended_at)
        if self._ended is not None:
            self._ended(outcome)
        if self._traced is not None:
            self._traced(outcome)
        self._log(outcome)
        if outcome.decision is not None and not outcome.response_complete and not outcome.is_unseen:
            self._kick(outcome.decision.reservation.endpoint)
