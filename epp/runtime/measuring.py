"""What is measured of a sample of the requests, because measuring it of all would cost too much.

Place:   stands around the calls of an ext_proc service and around a scheduler; its figures are on the page of
         epp.runtime.metrics.
Ignores: what is decided and answered.
Rule:    at most one request in SECONDS_BETWEEN is measured, whatever the load: all of a quiet pool's
         requests, one in 500 at 10,000 a second. The others pay a comparison.
Source:  names, labels and buckets of llm-d-router v0.10 and GIE v1.5.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from epp.core.rejection import Rejection
from epp.core.request import Request
from epp.core.scheduling import Decision, Scheduler
from epp.core.stream import State
from epp.core.watching import Step, Watch
from epp.runtime.calls import Call, Push
from epp.runtime.metrics import ITL, SCHEDULER, Family, Histogram, Histograms, Labels, RequestMetrics

SECONDS_BETWEEN = 0.05
RESPONSE_PROCESSING = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1),
    *(0.25, 0.5, 1.0, 2.5, 5.0),
)
_RESPONSE = (State.RESPONDING, State.RESPONDED)


def _first(seconds: float) -> float:
    """When the first one is measured."""
    return 0.0 if seconds < math.inf else math.inf


# --- streams


class Conversing(Call, Protocol):
    """A call whose request can be followed."""

    @property
    def state(self) -> State: ...

    @property
    def request(self) -> Request | None: ...


class StreamTimes:
    """How long responses keep us busy, and the gaps between their pieces."""

    def __init__(self, requests: RequestMetrics, clock: Callable[[], float], seconds: float) -> None:
        self._requests = requests
        self._seconds = seconds
        self._due = _first(seconds)
        self.clock = clock
        self._response = Histogram(RESPONSE_PROCESSING)

    def around(self, opened: Callable[[Push], Conversing]) -> Callable[[Push], Call]:
        """The same service; of some of its streams more is known."""
        clock = self.clock

        def open_(push: Push) -> Call:
            now = clock()
            if now < self._due:
                return opened(push)
            self._due = now + self._seconds
            return _Measured(opened(push), self)

        return open_

    def ended(self, request: Request | None, busy: float, gaps: Histogram) -> None:
        """A measured stream is over: it took ``busy`` [s] to pass its response on."""
        self._response.observe(busy)
        if request is not None and any(gaps.counts):
            self._requests.paused(request, gaps)

    def families(self) -> Iterable[Family]:
        help_text = "Seconds of work on a response, added up over its pieces, of a sample of the requests."
        name = "llm_d_epp_response_processing_duration_seconds"
        yield Histograms(name, help_text, (), {(): self._response})


class _Measured:
    """A call, and a look at the clock before and after each message."""

    __slots__ = ("_busy", "_call", "_gaps", "_last", "_times")

    def __init__(self, call: Conversing, times: StreamTimes) -> None:
        self._call = call
        self._times = times
        self._busy = 0.0
        self._last: float | None = None
        self._gaps = Histogram(ITL)

    @property
    def is_over(self) -> bool:
        return self._call.is_over

    @property
    def is_waiting(self) -> bool:
        return self._call.is_waiting

    def receive(self, message: bytes) -> Sequence[bytes]:
        call, clock = self._call, self._times.clock
        began, before = clock(), call.state
        answers = call.receive(message)
        state = call.state
        if state in _RESPONSE:
            self._busy += clock() - began
            if before is State.RESPONDING and state is before:  # a piece of its body, and not the last one
                self._piece(began)
        return answers

    def _piece(self, now: float) -> None:
        last, self._last = self._last, now
        request = self._call.request
        if last is not None and request is not None and request.payload.streaming:
            self._gaps.observe(now - last)

    def delivered(self) -> None:
        self._call.delivered()

    def close(self) -> None:
        is_answered = self._call.state in _RESPONSE
        try:
            self._call.close()
        finally:
            if is_answered:
                self._times.ended(self._call.request, self._busy, self._gaps)


# --- plugins


class Traces(Protocol):
    """Who wants to know more of some requests."""

    def begin(self, request: Request) -> bool:
        """Whether of this one."""

    def chosen(
        self, request: Request, result: Decision | Rejection, steps: Sequence[Step]
    ) -> Decision | Rejection:
        """It has been decided on, by these steps; the decision with what it takes along."""


class PluginTimes:
    """How long plugins take."""

    def __init__(self, clock: Callable[[], float], seconds: float) -> None:
        self.clock = clock
        self.seconds_between = seconds
        self._seconds: dict[Labels, Histogram] = {}

    def around(self, scheduler: Scheduler, traces: Traces | None = None) -> "Watched":
        """The same scheduler; of some of its decisions more is known."""
        return Watched(scheduler, self, traces)

    def ran(self, steps: Iterable[Step]) -> None:
        """These have, for one decision."""
        for step in steps:
            key = (step.point, step.plugin_type, step.plugin)
            histogram = self._seconds.get(key)
            if histogram is None:
                histogram = self._seconds[key] = Histogram(SCHEDULER)
            histogram.observe(step.ended - step.began)

    def families(self) -> Iterable[Family]:
        labels = ("extension_point", "plugin_type", "plugin_name")
        help_text = "Seconds that a plugin took, of a sample of the requests."
        for prefix in ("llm_d_epp", "inference_extension"):
            yield Histograms(f"{prefix}_plugin_duration_seconds", help_text, labels, dict(self._seconds))


class Watched:
    """A scheduler, and beside it one like it whose plugins are looked at, for the few."""

    def __init__(self, scheduler: Scheduler, times: PluginTimes, traces: Traces | None) -> None:
        self._pick = scheduler.pick
        self._watch = Watch(times.clock)
        self._pick_watched = scheduler.watched(self._watch).pick
        self._seconds = times.seconds_between
        self._due = _first(self._seconds)
        self._ran = times.ran
        self._traces = traces

    def pick(self, request: Request, now: float) -> Decision | Rejection:
        """As the scheduler does."""
        traces = self._traces
        is_traced = traces is not None and traces.begin(request)
        if now < self._due and not is_traced:
            return self._pick(request, now)
        steps = self._watch.steps = []
        try:
            result = self._pick_watched(request, now)
        finally:  # the time of a plugin that fails counts as well, and so does its place in the sample
            if now >= self._due:
                self._due = now + self._seconds
                self._ran(steps)
        if traces is not None and is_traced:
            return traces.chosen(request, result, steps)
        return result


# --- both


class Measuring:
    """All of it, once for each process. ``traces``: who makes spans, if anybody does.

    ``seconds``: at most one request in so many is measured; 0: every one; infinite: none.
    """

    def __init__(
        self,
        requests: RequestMetrics,
        clock: Callable[[], float],
        *,
        traces: Traces | None = None,
        seconds: float = SECONDS_BETWEEN,
    ) -> None:
        self._streams = StreamTimes(requests, clock, seconds)
        self._plugins = PluginTimes(clock, seconds)
        self._traces = traces

    def calls(self, opened: Callable[[Push], Conversing]) -> Callable[[Push], Call]:
        """What a driver is to open in place of ``opened``."""
        return self._streams.around(opened)

    def scheduler(self, scheduler: Scheduler) -> Watched:
        """Who is to be asked in place of ``scheduler``."""
        return self._plugins.around(scheduler, self._traces)

    def families(self) -> Iterable[Family]:
        yield from self._streams.families()
        yield from self._plugins.families()
