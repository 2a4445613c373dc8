"""What an endpoint can do now: one small machine for each, moved by what is seen of it.

Place:   held by epp.core.fleet, which turns looks, responses and what managers say into signals; read by
         plugins and pages. docs/lifecycle.md is drawn from TRANSITIONS.
Ignores: how anything is seen, who is chosen, and the clock (callers pass ``now`` [s, monotonic]).
Rule:    every change of phase is a row of TRANSITIONS; a signal without a row changes none. A refused
         connection is knowledge, silence and failed requests are suspicion: two of a kind eject.
Source:  the half-open circuit breaker (Nygard, Release It!, 2007) with a slow start behind it.
"""

import enum
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple


class Phase(enum.Enum):
    """What an endpoint can do, as it is written in metrics and pages."""

    PENDING = "pending"
    LOADING = "loading"
    WARMING = "warming"
    READY = "ready"
    PRESSURED = "pressured"
    SUSPECT = "suspect"
    EJECTED = "ejected"
    PROBING = "probing"
    DRAINING = "draining"
    GONE = "gone"

    __hash__ = object.__hash__  # members are singletons; the inherited one is a Python call


class Signal(enum.Enum):
    """Something that was seen; the value is said where nothing better is known."""

    FOUND = "it answered the first look after our own start"
    ANSWERED = "it answers and is ready to serve"
    LOADING = "it answers that its model is not ready"
    REFUSED = "it takes no connections"
    ABSENT = "it takes no connections, and its manager knows why"
    SILENT = "it did not answer in time"
    MUTE = "it did not answer in time, again"
    FAILED = "a request there failed"
    BROKEN = "requests there fail one after another"
    SERVED = "it served a request"
    QUITTING = "it says that it shuts down"
    HELD = "its manager says that it does not serve"
    LEAVING = "its manager has told it to stop"
    FREED = "its manager lets it serve again"
    PRESSED = "its manager warns of memory or heat"
    RELIEVED = "its manager's warning is over"
    BUSY = "it refused a request because it is full"
    DUE = "its time has passed"
    MOVED = "it is listed under another address"
    REMOVED = "it is not listed any more"

    __hash__ = object.__hash__


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthSettings:
    """The thresholds of health [s], but ``failures``."""

    silence: float = 0.5
    """A look without an answer for so long makes an endpoint suspect. vLLM's page took 0.24 s when its loop
    stalled."""
    second_silence: float = 0.7
    """The second look, on a new connection, without an answer for so long ejects it."""
    first_token: float = 30.0
    """A request without its first token for so long is a sign of failure, where usual ones take less."""
    failures: int = 2
    """Requests that fail one after another until it is ejected."""
    suspicion: float = 5.0
    """A suspect without further news is ready again after so long."""
    back_off: float = 0.5
    """An ejected endpoint gets nothing for at least so long; doubles with each ejection ..."""
    back_off_most: float = 30.0
    """... up to this ..."""
    stable: float = 30.0
    """... and begins anew after so long in service."""
    probation: float = 0.5
    """One that answers again, and to which nobody sent a request for so long, goes on without that proof."""
    warm_up: float = 5.0
    """What it may have at once grows for so long, from 2 requests to 64."""
    overload: float = 2.0
    """One that refused a request because it is full counts as pressured for so long."""
    draining: float = 30.0
    """One that said itself that it shuts down, and is still there, is tried again after so long."""

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            if not 0 < value < math.inf:
                raise ValueError(f"{name}: must be above 0, got {value:g}")
        if self.back_off_most < self.back_off:
            raise ValueError(f"back_off_most: must be at least back_off ({self.back_off:g} s)")


class Change(NamedTuple):
    """One change of phase."""

    at: float
    before: Phase
    after: Phase
    signal: Signal
    reason: str


_P, _S = Phase, Signal
_LISTED = tuple(phase for phase in Phase if phase is not Phase.GONE)
_IN_SERVICE = (_P.READY, _P.PRESSURED, _P.WARMING)


def _rows(phases: Iterable[Phase], signals: Iterable[Signal], to: Phase) -> dict[tuple[Phase, Signal], Phase]:
    return {(phase, signal): to for phase in phases for signal in signals}


TRANSITIONS: Mapping[tuple[Phase, Signal], Phase] = {
    # alive
    (_P.PENDING, _S.FOUND): _P.READY,  # as long in service as we are: nothing to warm up for us
    **_rows((_P.PENDING, _P.LOADING), (_S.ANSWERED,), _P.WARMING),
    (_P.LOADING, _S.DUE): _P.WARMING,
    (_P.PENDING, _S.FREED): _P.WARMING,
    **_rows((_P.EJECTED,), (_S.ANSWERED, _S.SERVED, _S.DUE), _P.PROBING),
    **_rows((_P.PROBING,), (_S.SERVED, _S.DUE), _P.WARMING),
    (_P.WARMING, _S.DUE): _P.READY,
    **_rows((_P.SUSPECT,), (_S.ANSWERED, _S.SERVED, _S.DUE), _P.READY),
    (_P.READY, _S.PRESSED): _P.PRESSURED,
    (_P.PRESSURED, _S.RELIEVED): _P.READY,
    (_P.READY, _S.BUSY): _P.PRESSURED,
    (_P.PRESSURED, _S.BUSY): _P.PRESSURED,
    (_P.PRESSURED, _S.DUE): _P.READY,
    # not ready
    **_rows((_P.PENDING, *_IN_SERVICE, _P.SUSPECT, _P.PROBING, _P.EJECTED), (_S.LOADING,), _P.LOADING),
    # suspicion
    **_rows(_IN_SERVICE, (_S.SILENT, _S.FAILED), _P.SUSPECT),
    **_rows((_P.PROBING,), (_S.SILENT, _S.FAILED), _P.EJECTED),
    **_rows((*_IN_SERVICE, _P.SUSPECT, _P.PROBING), (_S.MUTE, _S.BROKEN), _P.EJECTED),
    **_rows((_P.PENDING, _P.LOADING, _P.DRAINING), (_S.MUTE,), _P.EJECTED),
    # knowledge
    **_rows(_LISTED, (_S.REFUSED,), _P.EJECTED),
    **_rows(_LISTED, (_S.ABSENT,), _P.PENDING),
    # those who manage it, and its own last words
    **_rows(_LISTED, (_S.HELD,), _P.PENDING),
    **_rows(_LISTED, (_S.LEAVING,), _P.DRAINING),
    **_rows((*_IN_SERVICE, _P.SUSPECT, _P.PROBING, _P.LOADING), (_S.QUITTING,), _P.DRAINING),
    (_P.DRAINING, _S.DUE): _P.PROBING,
    (_P.DRAINING, _S.FREED): _P.PENDING,
    **_rows(_LISTED, (_S.MOVED,), _P.PENDING),
    **_rows(_LISTED, (_S.REMOVED,), _P.GONE),
}

GUARDS: Mapping[tuple[Phase, Signal], tuple[str, Callable[["Lifecycle", float], bool]]] = {
    **{
        (_P.PENDING, signal): ("its manager does not hold it", lambda life, now: not life.hold)
        for signal in (_S.LOADING, _S.REFUSED, _S.MUTE)
    },
    **{
        (phase, signal): ("it answers", lambda life, now: life.answers)
        for phase, signal in ((_P.PENDING, _S.FREED), (_P.EJECTED, _S.DUE), (_P.LOADING, _S.DUE))
    },
    **{
        (phase, signal): ("its back-off is over", lambda life, now: now >= life.out_until)
        for phase, signal in (
            (_P.EJECTED, _S.ANSWERED),
            (_P.EJECTED, _S.SERVED),
            (_P.LOADING, _S.ANSWERED),
        )
    },
    (_P.PROBING, _S.DUE): (
        "no request is there to prove it, or it takes too long",
        lambda life, now: not life.is_tried or now - life.since >= 2 * life.settings.first_token,
    ),
    (_P.SUSPECT, _S.ANSWERED): ("no request failed since", lambda life, now: life.failed_at < life.since),
    **{
        (_P.PRESSURED, signal): ("its manager does not warn", lambda life, now: not life.pressure)
        for signal in (_S.BUSY, _S.DUE)
    },
    (_P.WARMING, _S.DUE): ("it has warmed up", lambda life, now: life.steps >= WARM_STEPS),
    **{
        (_P.DRAINING, signal): ("its manager has not told it to stop", lambda life, now: not life.leaving)
        for signal in (_S.REFUSED, _S.ABSENT, _S.MUTE, _S.DUE, _S.HELD)
    },
}
"""What must hold for a row to be taken, in words and in fact. Of every row that leads into service besides:
its manager neither holds it nor has told it to stop."""

WARM_STEPS = 6
"""While it warms up, an endpoint may have 2, 4, 8, 16, 32, 64 requests at once: a server that comes back
looks idle, and everybody would be sent there."""

FAILURES_COUNT_SECONDS = 120.0
"""Two failures that are further apart are not of one kind."""

_KNOWN = frozenset({_S.REFUSED, _S.ABSENT, _S.HELD, _S.LEAVING, _S.QUITTING, _S.LOADING})
_ALIVE = frozenset({_S.FOUND, _S.ANSWERED, _S.SERVED, _S.BUSY})
_FORGIVING = frozenset({_S.SERVED, _S.BUSY, _S.MOVED, *_KNOWN})
"""After these, requests that failed before say nothing more: most are of another process."""
_SERVING = frozenset({*_IN_SERVICE, _P.SUSPECT, _P.PROBING})
_SCORES: Mapping[Phase, float] = {_P.READY: 1.0, _P.PRESSURED: 0.7, _P.SUSPECT: 0.2, _P.PROBING: 0.1}


class Lifecycle:
    """The machine of one endpoint."""

    __slots__ = (
        "_ejections",
        "_is_known",
        "answers",
        "due",
        "failed_at",
        "failures",
        "hold",
        "in_service_since",
        "is_tried",
        "leaving",
        "out_until",
        "phase",
        "pressure",
        "reason",
        "settings",
        "silences",
        "since",
        "steps",
    )

    answers: bool
    failed_at: float
    hold: str
    is_tried: bool
    leaving: str
    out_until: float
    phase: Phase
    pressure: str
    settings: HealthSettings
    since: float
    steps: int

    def __init__(self, settings: HealthSettings, now: float) -> None:
        self.settings = settings
        self.phase = Phase.PENDING
        self.reason = "not looked at yet"
        self.since = now
        self.due = math.inf
        """When time alone changes something [s]."""
        self.hold = self.leaving = self.pressure = ""
        """What those who manage it say, as long as they say it."""
        self.answers = False
        """The last look found it ready."""
        self.failures = self.silences = 0
        """In a row: a failure is forgotten for a good answer, a silence for any."""
        self.failed_at = -math.inf
        """When a request failed last."""
        self.is_tried = False
        """A request is there that was sent since it came back; told by whoever counts them."""
        self.in_service_since = now
        """Since when it has served, suspected or not; what was sent before says nothing of it."""
        self.steps = 0
        """Of the warm-up."""
        self.out_until = -math.inf
        """The end of its back-off [s]."""
        self._ejections = 0
        self._is_known = False

    @property
    def allowance(self) -> int | None:
        """How many requests it may have at once; None: no limit of ours."""
        if self.phase is Phase.WARMING:
            return 2 << self.steps
        return 1 if self.phase is Phase.PROBING else None

    @property
    def is_serving(self) -> bool:
        """It takes requests, few or many."""
        return self.phase in _SERVING

    @property
    def only_waits(self) -> bool:
        """It answers, no request of late failed there, and nothing but its back-off keeps it out."""
        is_out = self.phase in (Phase.EJECTED, Phase.LOADING)
        return is_out and self.answers and not (self.failures or self.hold or self.leaving)

    @property
    def is_known_dead(self) -> bool:
        """It cannot serve, and that is no suspicion."""
        if self.phase in (Phase.EJECTED, Phase.PENDING):
            return self._is_known or bool(self.hold)
        if self.phase is Phase.LOADING:
            return not self.answers  # it waits for its back-off then
        if self.phase is Phase.DRAINING:
            return bool(self.leaving)  # its own words may be misread
        return self.phase is Phase.GONE

    @property
    def score(self) -> float:
        """How much it is to be trusted, 1 down to 0."""
        if self.phase is Phase.WARMING:
            return 0.3 + 0.7 * self.steps / WARM_STEPS
        return _SCORES.get(self.phase, 0.0)

    def receive(self, signal: Signal, now: float, reason: str = "") -> tuple[Change, ...]:
        """Take what was seen at ``now``; the changes of phase that it makes."""
        signal = self._count(signal, now)
        changes = self._take(signal, now, reason or signal.value)
        if changes and self.pressure and self.phase is Phase.READY:
            changes += self._take(Signal.PRESSED, now, self.pressure)
        return changes

    def managed(self, now: float, *, hold: str, leaving: str, pressure: str) -> tuple[Change, ...]:
        """Take what those who manage it say now, empty where they say nothing."""
        before = self.hold, self.leaving, self.pressure
        self.hold, self.leaving, self.pressure = hold, leaving, pressure
        changes: tuple[Change, ...] = ()
        if leaving and not before[1]:
            changes += self.receive(Signal.LEAVING, now, leaving)
        elif before[1] and not leaving:
            changes += self.receive(Signal.FREED, now)
        if hold and hold != before[0]:
            changes += self.receive(Signal.HELD, now, hold)
        elif before[0] and not hold:
            changes += self.receive(Signal.FREED, now)
        if pressure and not before[2]:
            changes += self.receive(Signal.PRESSED, now, pressure)
        elif before[2] and not pressure:
            changes += self.receive(Signal.RELIEVED, now)
        return changes

    def advance(self, now: float) -> tuple[Change, ...]:
        """Let time pass up to ``now``."""
        changes: tuple[Change, ...] = ()
        while self.due <= now:
            at, self.due = self.due, math.inf
            if self.phase is Phase.WARMING:
                self.steps += 1
            moved = self.receive(Signal.DUE, at)
            if not moved:
                self._set_due(at)
            changes += moved
        return changes

    def _count(self, signal: Signal, now: float) -> Signal:
        """Keep count of signals in a row; what the signal amounts to."""
        if signal in _FORGIVING:
            self.failures = 0
        if signal is Signal.SILENT:
            self.answers = False
            self.silences += 1
            return Signal.MUTE if self.silences > 1 else signal
        if signal is Signal.FAILED:
            return self._failed(now)
        if signal in _ALIVE:
            self.answers, self.silences, self._is_known = True, 0, False
        elif signal in _KNOWN:
            self.answers, self.silences, self._is_known = False, 0, True
        elif signal is Signal.MOVED:
            self.answers, self.silences, self._is_known = False, 0, False
            self.in_service_since = now
        return signal

    def _failed(self, now: float) -> Signal:
        if not self.is_serving:
            return Signal.FAILED  # of a time that is over
        if now - self.failed_at > FAILURES_COUNT_SECONDS:
            self.failures = 0
        self.failed_at = now
        self.failures += 1
        return Signal.BROKEN if self.failures >= self.settings.failures else Signal.FAILED

    def _take(self, signal: Signal, now: float, reason: str) -> tuple[Change, ...]:
        row = self.phase, signal
        to = TRANSITIONS.get(row)
        if to is None or (row in GUARDS and not GUARDS[row][1](self, now)):
            return ()
        if to in _SERVING and (self.hold or self.leaving):
            return ()
        if to is Phase.READY and self.phase is Phase.SUSPECT and self.steps < WARM_STEPS:
            to = Phase.WARMING  # it goes on where it was
        if to is self.phase:
            self.reason = reason
            if signal is Signal.BUSY:
                self._set_due(now)
            return ()
        change = Change(now, self.phase, to, signal, reason)
        self._enter(to, now, reason)
        return (change,)

    def _enter(self, to: Phase, now: float, reason: str) -> None:
        before, self.phase, self.since, self.reason = self.phase, to, now, reason
        if to is Phase.READY:
            self.steps = WARM_STEPS
        elif to not in _SERVING or to is Phase.PROBING:
            self.steps = 0
        if to is Phase.EJECTED:
            self._back_off(was_in_service=before in _IN_SERVICE or before is Phase.SUSPECT, now=now)
        elif to in _SERVING and before not in _SERVING:
            self.in_service_since = now
            self.is_tried = False
        self._set_due(now)

    def _back_off(self, *, was_in_service: bool, now: float) -> None:
        settings = self.settings
        if was_in_service and now - self.in_service_since >= settings.stable:
            self._ejections = 0
        wait = settings.back_off * 2.0 ** min(self._ejections, 32)
        self._ejections += 1
        self.out_until = now + min(wait, settings.back_off_most)

    def _set_due(self, now: float) -> None:
        settings, after = self.settings, math.inf
        match self.phase:
            case Phase.WARMING:
                after = settings.warm_up / WARM_STEPS
            case Phase.SUSPECT:
                after = settings.suspicion
            case Phase.PRESSURED if not self.pressure:
                after = settings.overload
            case Phase.PROBING:
                after = settings.probation
            case Phase.DRAINING if not self.leaving:
                after = settings.draining
            case Phase.EJECTED | Phase.LOADING if now < self.out_until:
                self.due = self.out_until
                return
        self.due = now + after
