"""Who hears of every request: the metrics, the log line, and the scraper that looks where work goes.

Place:   told by the server; the only place where one request's facts are passed to several listeners.
"""

from collections.abc import Callable
from dataclasses import dataclass

from epp.core.events import Outcome
from epp.core.fleet import Endpoint
from epp.core.rejection import Rejection
from epp.core.request import Request
from epp.core.scheduling import Decision
from epp.runtime.logs import RequestLog
from epp.runtime.metrics import Metrics


@dataclass(frozen=True, slots=True)
class Reporter:
    """``kick``: an endpoint that gets work should be looked at soon."""

    metrics: Metrics
    log: RequestLog
    kick: Callable[[Endpoint], None]

    def opened(self) -> None:
        """A stream began."""
        self.metrics.streams.opened()

    def placed(self, request: Request, result: Decision | Rejection, seconds: float) -> None:
        """The scheduler took ``seconds`` for this result."""
        self.metrics.requests.placed(request, result, seconds)
        if not isinstance(result, Rejection):
            for endpoint in result.endpoints:
                self.kick(endpoint)

    def finished(self, outcome: Outcome) -> None:
        """A request is over."""
        self.metrics.requests.finished(outcome, outcome.ended_at)
        self.log.finished(outcome)

    def closed(self) -> None:
        """A stream ended."""
        self.metrics.streams.closed()
