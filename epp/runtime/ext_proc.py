"""The ext_proc service of one pool: each stream is one request's conversation.

Place:   a service for either driver; epp.wire reads and writes the messages, epp.core.stream decides.
Ignores: what the messages mean and why an endpoint won, how bytes arrive.
Rule:    a whole message is worked off at once, the pick and its reservation included; what was taken
         is given back by ``close``, however the stream ends.
"""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from epp.core.events import (
    Action,
    Answer,
    Event,
    Finished,
    Outcome,
    Pick,
    Picked,
    Prefilled,
    Refused,
    Release,
    StreamClosed,
)
from epp.core.rejection import PLUGIN_FAILED, Rejection
from epp.core.request import Request
from epp.core.scheduling import Decision
from epp.core.stream import PeerError, Stream, StreamSettings
from epp.runtime.calls import CallFailed, Code, Push, Services
from epp.wire import ext_proc

logger = logging.getLogger("epp.ext_proc")

PROCESS = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"


class Choose(Protocol):
    """Chooses an endpoint and reserves on it, in one step."""

    def pick(self, request: Request, now: float) -> Decision | Rejection: ...


class Observer(Protocol):
    """Hears of every stream, decision and request."""

    def opened(self) -> None: ...

    def placed(self, request: Request, result: Decision | Rejection, seconds: float) -> None: ...

    def finished(self, outcome: Outcome) -> None: ...

    def closed(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtProc:
    """Serves one pool."""

    scheduler: Choose
    settings: StreamSettings
    observer: Observer
    clock: Callable[[], float]

    def services(self) -> Services:
        """What a driver is to serve."""
        return {PROCESS: self.open}

    def open(self, _push: Push) -> "Conversation":
        """A stream began; every pick answers at once, so that nothing is ever pushed."""
        self.observer.opened()
        return Conversation(self)


class Conversation:
    """One stream, as a Call."""

    __slots__ = ("_pool", "_stream")

    def __init__(self, pool: ExtProc) -> None:
        self._pool = pool
        self._stream = Stream(pool.settings)

    @property
    def is_over(self) -> bool:
        return self._stream.is_over

    def receive(self, message: bytes) -> list[bytes]:
        """The answers to one ProcessingRequest."""
        try:
            return [ext_proc.encode(answer) for answer in self._react(ext_proc.events(message))]
        except (PeerError, ext_proc.WireError) as fault:
            raise CallFailed(Code.INVALID_ARGUMENT, str(fault)) from fault

    def delivered(self) -> None:
        self._stream.delivered()

    def close(self) -> None:
        try:
            self._react((StreamClosed(),))
        finally:
            self._pool.observer.closed()

    def _react(self, events: Iterable[Event]) -> list[Answer]:
        """Feed events and carry out what concerns us; returns what the gateway is to be told."""
        now = self._pool.clock()
        answers: list[Answer] = []
        for event in events:
            self._carry_out(self._stream.receive(event, now), now, answers)
        return answers

    def _carry_out(self, actions: Iterable[Action], now: float, answers: list[Answer]) -> None:
        for action in actions:
            match action:
                case Pick(request):
                    placed = self._choose(request, now)
                    self._carry_out(self._stream.receive(placed, now), now, answers)
                case Prefilled(decision):
                    decision.reservation.prefilled()
                case Release(decision):
                    decision.reservation.release()
                case Finished(outcome):
                    self._pool.observer.finished(outcome)
                case _:
                    answers.append(action)

    def _choose(self, request: Request, now: float) -> Picked | Refused:
        pool = self._pool
        try:
            result = pool.scheduler.pick(request, now)
        except Exception:  # a plugin is other people's code; one request fails, not the stream's owner
            logger.exception("a plugin failed", extra={"fields": {"request_id": request.id}})
            result = PLUGIN_FAILED
        try:
            pool.observer.placed(request, result, pool.clock() - now)
        except Exception:  # what is reserved must reach the machine, which gives it back
            logger.exception("counting a pick failed", extra={"fields": {"request_id": request.id}})
        return Refused(result) if isinstance(result, Rejection) else Picked(result)
