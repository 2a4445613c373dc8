"""Flow control at work: streams that wait for their turn, one timer for all of them.

Place:   an ext_proc service as epp.runtime.ext_proc, used with the feature gate ``flowControl`` only.
Ignores: who goes next and why (epp.core.flow decides), how answers travel.
Rule:    what may let somebody go (a release, a look at a server, time) asks for a turn, which runs once, in
         the loop's next step: no stream is answered while another one's message is worked off.
"""

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from epp.core.events import Action, Event, Evicted, Finished, Moved, Pick, Picked, Prefilled, Refused, Release
from epp.core.flow.control import EVICTED, FlowControl, Turn
from epp.core.flow.policies import FlowSettings
from epp.core.flow.queues import Ticket
from epp.core.rejection import PLUGIN_FAILED, Rejection
from epp.core.request import Request
from epp.core.scheduling import Decision, Pool
from epp.core.stream import State
from epp.runtime.calls import Push
from epp.runtime.ext_proc import OURS, Conversation, ExtProc
from epp.runtime.flow_metrics import FlowMetrics
from epp.wire import ext_proc

logger = logging.getLogger("epp.flow")


class Timer(Protocol):
    """What ``call_later`` returns."""

    def cancel(self) -> None: ...


class Loop(Protocol):
    """The part of an event loop that is used."""

    def call_soon(self, callback: Callable[[], None], /) -> object: ...

    def call_later(self, delay: float, callback: Callable[[], None], /) -> Timer: ...


class CycleWatch(Protocol):
    """Hears how long things took [s]."""

    def arrived(self, ticket: Ticket, seconds: float) -> None: ...

    def turned(self, seconds: float) -> None: ...


class Gate:
    """Drives one FlowControl. ``loop``: called when there is one to run on."""

    def __init__(
        self,
        control: FlowControl,
        *,
        clock: Callable[[], float],
        loop: Callable[[], Loop],
        watch: CycleWatch,
    ) -> None:
        self._control = control
        self._clock = clock
        self._loop = loop
        self._watch = watch
        self._is_asked = False
        self._timer: Timer | None = None
        self._timer_due = math.inf

    def arrive(self, request: Request, now: float, owner: "QueuedConversation") -> Ticket:
        """A request is complete. Where its ticket has no result yet, ``owner.happened`` will hear of it."""
        try:
            ticket = self._control.arrive(request, now, owner)
            _guarded(partial(self._watch.arrived, ticket, self._clock() - now))
            return ticket
        finally:  # where a policy fails, somebody may have lost his place to this request already
            self._plan(now)

    def ended(self, ticket: Ticket, now: float, *, prompt_tokens: int, output_tokens: int) -> None:
        """A request that arrived is over."""
        self._control.ended(ticket, now, prompt_tokens=prompt_tokens, output_tokens=output_tokens)
        self.wake()

    def wake(self) -> None:
        """Something has changed: see soon who may go. Nothing where nobody waits."""
        if not self._is_asked and self._control.waiting:
            self._is_asked = True
            self._loop().call_soon(self._turn)

    def close(self) -> None:
        """Refuse all that wait: the process ends."""
        now = self._clock()
        for ticket in self._control.close(now):
            self._tell(ticket, now)

    def _turn(self) -> None:
        self._is_asked = False
        now = began = self._clock()
        try:
            turn = self._control.turn(now)
        except (
            Exception
        ):  # a policy is other people's code: it fails those that wait for it, and nobody later
            logger.exception("a policy of flow control failed")
            turn = Turn(self._control.refuse_all(PLUGIN_FAILED, now), ())
        for ticket in turn.answered:
            self._tell(ticket, now)
        for ticket in turn.evicted:
            self._tell(ticket, now, Evicted(EVICTED))
        now = self._clock()
        _guarded(partial(self._watch.turned, now - began))
        self._plan(now)

    def _tell(self, ticket: Ticket, now: float, event: Event | None = None) -> None:
        owner = ticket.owner
        assert isinstance(owner, QueuedConversation)
        try:
            if event is None:
                owner.answered(ticket, now)
            else:
                owner.happened(event, now)
        except Exception:  # one stream's failure; the others' answers and reservations must reach them
            logger.exception("answering failed", extra={"fields": {"request_id": ticket.request.id}})

    def _plan(self, now: float) -> None:
        """See that there is a turn when time asks for one. A timer that is too early only looks again."""
        due = self._control.due(now)
        if due <= now:
            self._ask()
        elif due < self._timer_due:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_due = due
            self._timer = self._loop().call_later(due - now, self._at_time)

    def _ask(self) -> None:
        if not self._is_asked:
            self._is_asked = True
            self._loop().call_soon(self._turn)

    def _at_time(self) -> None:
        self._timer, self._timer_due = None, math.inf
        self._turn()


def _answer(ticket: Ticket) -> Picked | Refused:
    result = ticket.result
    assert result is not None
    return Refused(result) if isinstance(result, Rejection) else Picked(result)


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuedExtProc(ExtProc):
    """Serves one pool whose requests wait while it is saturated."""

    gate: Gate

    def open(self, push: Push) -> "QueuedConversation":
        """A stream began; it is answered later if it has to wait."""
        self.observer.opened()
        return QueuedConversation(self, push)


class QueuedConversation(Conversation):
    """One stream, as a Call."""

    __slots__ = ("_gate", "_is_answered", "_output_tokens", "_prompt_tokens", "_push", "_ticket")

    def __init__(self, pool: QueuedExtProc, push: Push) -> None:
        super().__init__(pool)
        self._gate = pool.gate
        self._push = push
        self._ticket: Ticket | None = None
        self._is_answered = False  # the stream has what the ticket brought, and gives it back itself
        self._prompt_tokens = self._output_tokens = 0

    def receive(self, message: bytes) -> list[bytes]:
        answers = super().receive(message)
        ticket = self._ticket
        if ticket is not None and ticket.is_waiting and self._stream.state is not State.PICKING:
            self._end(self._pool.clock())  # the gateway answered by itself, or the body grew too large
        return answers

    def close(self) -> None:
        try:
            super().close()
        finally:
            self._end(self._pool.clock())

    def answered(self, ticket: Ticket, now: float) -> None:
        """What was waited for has come."""
        if ticket is self._ticket:  # else the stream is over, and nothing is reserved any more
            self._is_answered = True
            self.happened(_answer(ticket), now)

    def happened(self, event: Event, now: float) -> None:
        """Something that no message of the gateway brought."""
        answers: list[bytes] = []
        self._feed(event, now, answers)
        if answers:
            self._push(answers)

    def _end(self, now: float) -> None:
        ticket, self._ticket = self._ticket, None
        if ticket is None:
            return
        if isinstance(ticket.result, Decision) and not self._is_answered:
            ticket.result.reservation.release()
        tokens = self._prompt_tokens, self._output_tokens
        self._gate.ended(ticket, now, prompt_tokens=tokens[0], output_tokens=tokens[1])

    def _feed(self, event: Event, now: float, answers: list[bytes]) -> None:
        for action in self._stream.receive(event, now):
            carry_out = _QUEUED.get(type(action))
            if carry_out is None:
                answers.append(ext_proc.encode(action))  # type: ignore[arg-type] # as in Conversation
            else:
                carry_out(self, action, now, answers)

    def _pick(self, action: Pick, now: float, answers: list[bytes]) -> None:
        ticket = self._ticket = self._gate.arrive(action.request, now, self)
        if ticket.result is not None:
            self._is_answered = True
            self._feed(_answer(ticket), now, answers)

    def _prefilled(self, action: Prefilled, now: float, answers: list[bytes]) -> None:
        super()._prefilled(action, now, answers)
        self._gate.wake()

    def _moved(self, action: Moved, now: float, answers: list[bytes]) -> None:
        super()._moved(action, now, answers)
        self._gate.wake()

    def _release(self, action: Release, now: float, answers: list[bytes]) -> None:
        super()._release(action, now, answers)
        self._gate.wake()

    def _finished(self, action: Finished, now: float, answers: list[bytes]) -> None:
        usage, request = action.outcome.usage, action.outcome.request
        if usage is not None:
            self._prompt_tokens, self._output_tokens = usage.prompt_tokens or 0, usage.completion_tokens or 0
        elif request is not None:  # the server did not count: the estimate, as elsewhere
            self._prompt_tokens = request.prompt_tokens
        super()._finished(action, now, answers)


_QUEUED: Mapping[type[Action], Callable[..., None]] = {
    **OURS,
    Pick: QueuedConversation._pick,
    Prefilled: QueuedConversation._prefilled,
    Moved: QueuedConversation._moved,
    Release: QueuedConversation._release,
    Finished: QueuedConversation._finished,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Queues:
    """Flow control of one pool, put together."""

    service: QueuedExtProc
    gate: Gate
    metrics: FlowMetrics


def _guarded(count: Callable[[], None]) -> None:
    """A Guard of epp.core.flow.control."""
    try:
        count()
    except Exception:  # a policy is other people's code; no request fails with it
        logger.exception("counting in flow control failed")


def queued(
    settings: FlowSettings,
    plain: ExtProc,
    *,
    pool: Pool,
    pool_name: str,
    loop: Callable[[], Loop],
) -> Queues:
    """The same service as ``plain``, with queues. Releases ask for turns; who hears of looks at the pool
    should ``gate.wake`` as well."""
    metrics = FlowMetrics(pool_name, plain.clock)

    def pick(request: Request, _now: float) -> Decision | Rejection:
        return plain.choose(request, plain.clock())  # several in one turn, each at its own time

    control = FlowControl(settings, pool, pick, watcher=metrics, guard=_guarded)
    metrics.watch(control)
    gate = Gate(control, clock=plain.clock, loop=loop, watch=metrics)
    service = QueuedExtProc(
        scheduler=plain.scheduler,
        health=plain.health,
        settings=plain.settings,
        observer=plain.observer,
        clock=plain.clock,
        gate=gate,
    )
    return Queues(service=service, gate=gate, metrics=metrics)
