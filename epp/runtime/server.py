"""The ext_proc server on grpc.aio: one coroutine per stream, everything else in the core.

Place:   reads bytes from the gateway, lets epp.wire and epp.core.stream decide, writes the answers.
Ignores: what the messages mean and why an endpoint won.
Rule:    between two awaits a whole event is worked off, the pick and its reservation included; what
         was taken is given back at one exit, however the stream ends.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import grpc
import grpc.aio

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
from epp.core.stream import MAX_BODY_BYTES, PeerError, Stream, StreamSettings
from epp.runtime.errors import StartError
from epp.wire import ext_proc

logger = logging.getLogger("epp.server")

SERVICE = "envoy.service.ext_proc.v3.ExternalProcessor"
_FRAME_MARGIN_BYTES = 16 * 1024 * 1024
"""Room to answer a body that is somewhat too large with 413 instead of breaking its stream."""


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

    def handler(self) -> grpc.GenericRpcHandler:
        """The service for a grpc.aio server; messages stay bytes, epp.wire reads them."""
        method: grpc.RpcMethodHandler[bytes, bytes] = grpc.stream_stream_rpc_method_handler(self.process)
        return grpc.method_handlers_generic_handler(SERVICE, {"Process": method})

    async def process(self, _requests: Any, context: "grpc.aio.ServicerContext[bytes, bytes]") -> None:
        """One stream, one request."""
        stream = Stream(self.settings)
        self.observer.opened()
        try:
            # A stream that is over is closed from here: the gateway's own close would cost another wake-up.
            while not stream.is_over and (message := await self._next(context)) is not None:
                for answer in self._react(stream, ext_proc.events(message)):
                    await context.write(ext_proc.encode(answer))
                stream.delivered()
        except (PeerError, ext_proc.WireError) as fault:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(fault))
        finally:
            try:
                self._react(stream, (StreamClosed(),))
            finally:
                self.observer.closed()

    @staticmethod
    async def _next(context: "grpc.aio.ServicerContext[bytes, bytes]") -> bytes | None:
        """The next message; None when the gateway has no more."""
        message: Any = await context.read()
        return None if message is grpc.aio.EOF else message

    def _react(self, stream: Stream, events: Iterable[Event]) -> list[Answer]:
        """Feed events and carry out what concerns us; returns what the gateway is to be told."""
        now = self.clock()
        answers: list[Answer] = []
        for event in events:
            self._carry_out(stream, stream.receive(event, now), now, answers)
        return answers

    def _carry_out(
        self, stream: Stream, actions: Iterable[Action], now: float, answers: list[Answer]
    ) -> None:
        for action in actions:
            match action:
                case Pick(request):
                    placed = self._choose(request, now)
                    self._carry_out(stream, stream.receive(placed, now), now, answers)
                case Prefilled(decision):
                    decision.reservation.prefilled()
                case Release(decision):
                    decision.reservation.release()
                case Finished(outcome):
                    self.observer.finished(outcome)
                case _:
                    answers.append(action)

    def _choose(self, request: Request, now: float) -> Picked | Refused:
        try:
            result = self.scheduler.pick(request, now)
        except Exception:  # a plugin is other people's code; one request fails, not the stream's owner
            logger.exception("a plugin failed", extra={"fields": {"request_id": request.id}})
            result = PLUGIN_FAILED
        try:
            self.observer.placed(request, result, self.clock() - now)
        except Exception:  # what is reserved must reach the machine, which gives it back
            logger.exception("counting a pick failed", extra={"fields": {"request_id": request.id}})
        return Refused(result) if isinstance(result, Rejection) else Picked(result)


def make_server(
    handlers: Iterable[grpc.GenericRpcHandler],
    *,
    max_receive_bytes: int | None = None,
    max_send_bytes: int | None = None,
) -> grpc.aio.Server:
    """A grpc.aio server for few long-lived connections with many short streams.

    The limits are of one message; None: what the largest body needs, and no limit.
    """
    largest = MAX_BODY_BYTES + _FRAME_MARGIN_BYTES if max_receive_bytes is None else max_receive_bytes
    server = grpc.aio.server(
        options=[
            ("grpc.so_reuseport", 0),  # two pickers on one port must be an error, not a lottery
            ("grpc.max_receive_message_length", largest),
            ("grpc.max_send_message_length", -1 if max_send_bytes is None else max_send_bytes),
            ("grpc.max_concurrent_streams", 2**31 - 1),  # the gateway's circuit breaker is the limit
            # The default cancels streams that wait for their turn in a burst of a thousand.
            ("grpc.server.max_pending_requests", 2**31 - 1),
            ("grpc.server.max_pending_requests_hard_limit", 2**31 - 1),
        ]
    )
    server.add_generic_rpc_handlers(tuple(handlers))
    return server


def bind(server: grpc.aio.Server, port: int, *, flag: str, credentials: grpc.ServerCredentials | None) -> int:
    """Listen on every address; returns the port (chosen by the system when ``port`` is 0)."""
    try:
        if credentials is None:
            return server.add_insecure_port(f"[::]:{port}")
        return server.add_secure_port(f"[::]:{port}", credentials)
    except RuntimeError as failure:
        raise StartError(
            f"--{flag}: port {port} cannot be bound: stop what uses it or choose another"
        ) from failure


async def stop(server: grpc.aio.Server, grace: float, *, open_streams: Callable[[], int]) -> None:
    """No new streams; open ones may finish for ``grace`` seconds."""
    logger.info("draining", extra={"fields": {"open_streams": open_streams(), "timeout_seconds": grace}})
    stopping = asyncio.get_running_loop().create_task(server.stop(grace), name="drain")
    await asyncio.wait({stopping}, timeout=max(grace - 0.05, 0.0))
    cut_off = open_streams()
    if cut_off and not stopping.done():
        logger.warning("requests are cut off, raise --drain-timeout", extra={"fields": {"streams": cut_off}})
    await asyncio.shield(stopping)
