"""The driver on grpc.aio: one coroutine per stream (``--server=grpcio``).

Place:   serves the Calls of epp.runtime.calls; epp.runtime.fast does the same without grpc.
Ignores: what is served.
Rule:    between two awaits a whole message is worked off; every Call is closed at one exit.
         At the end our own streams count: gRPC may wait for others that never end.
"""

import asyncio
import functools
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import grpc
import grpc.aio

from epp.runtime.calls import CallFailed, Open, Services
from epp.runtime.errors import StartError
from epp.runtime.ports import listen
from epp.runtime.tls import KeyPair

_STATUS = {code.value[0]: code for code in grpc.StatusCode}
Context = grpc.aio.ServicerContext[bytes, bytes]
SETTLED = 1.0
"""[s] After the last stream of ours has ended, for gRPC to be done: milliseconds do. It would wait 20 s for a
peer that leaves its ping unanswered, and for ever for a stream that came at the very moment of the end: its
core may queue one when nobody takes any more (gRPC 1.85, under load at one end in some hundreds)."""


class GrpcioServer:
    """A grpc.aio server for few long-lived connections with many short streams.

    The limits [bytes] are of one message; ``max_send_bytes`` None: no limit. ``pairs`` gives each new
    connection its certificate; None: plaintext.
    """

    def __init__(
        self,
        services: Services,
        *,
        max_receive_bytes: int,
        max_send_bytes: int | None = None,
        pairs: Callable[[], KeyPair] | None = None,
    ) -> None:
        self.port = 0
        self._credentials = None if pairs is None else _credentials(pairs)
        self._server = grpc.aio.server(
            options=[
                ("grpc.so_reuseport", 0),  # two pickers on one port must be an error, not a lottery
                ("grpc.max_receive_message_length", max_receive_bytes),
                ("grpc.max_send_message_length", -1 if max_send_bytes is None else max_send_bytes),
                ("grpc.max_concurrent_streams", 2**31 - 1),  # the gateway's circuit breaker is the limit
                # The default cancels streams that wait for their turn in a burst of a thousand.
                ("grpc.server.max_pending_requests", 2**31 - 1),
                ("grpc.server.max_pending_requests_hard_limit", 2**31 - 1),
            ]
        )
        self._server.add_generic_rpc_handlers((_Handlers(services, self._run),))
        self._open: set[asyncio.Task[Any]] = set()
        """gRPC's own task of each stream: done when all that was said is on its way, the status included."""

    def bind(self, port: int, *, flag: str) -> int:
        """Listen on every address; returns the port (chosen by the system when ``port`` is 0)."""
        address = f"[::]:{port}"
        try:
            if self._credentials is None:
                self.port = self._server.add_insecure_port(address)
            else:
                self.port = self._server.add_secure_port(address, self._credentials)
        except RuntimeError as failure:
            listen(port, flag=flag).close()  # says why, as gRPC does not
            raise StartError(f"--{flag}: port {port} cannot be bound: choose another") from failure
        return self.port

    async def start(self) -> None:
        """Serve from now on."""
        await self._server.start()

    async def stop(self, grace: float) -> None:
        """No new streams; open ones may finish for ``grace`` seconds."""
        async with asyncio.TaskGroup() as group:
            cutting = group.create_task(self._cut_what_stays(), name="gRPC settles")
            await self._server.stop(grace)
            cutting.cancel()

    async def _cut_what_stays(self) -> None:
        """End the connections once nothing on them is ours."""
        is_settled = False
        while not is_settled:
            if self._open:
                await asyncio.wait(self._open)
            await asyncio.sleep(SETTLED)
            is_settled = not self._open
        await self._server.stop(None)

    async def _run(self, opened: Open, _requests: Any, context: Context) -> None:
        """One stream."""
        task = asyncio.current_task()
        assert task is not None, "gRPC runs each handler in a task"
        self._open.add(task)
        task.add_done_callback(self._open.discard)
        await _Stream(opened, context, task).run()


def _credentials(pairs: Callable[[], KeyPair]) -> grpc.ServerCredentials:
    """ALPN h2 and TLS 1.2 or newer are gRPC's own."""
    used = pairs()

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        nonlocal used
        before, used = used, pairs()
        return None if used is before else _configuration(used)

    return grpc.dynamic_ssl_server_credentials(_configuration(used), fetch)  # type: ignore[arg-type] # None is fine


def _configuration(pair: KeyPair) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(pair.key, pair.chain)])


class _Handlers(grpc.GenericRpcHandler):
    """Every method as one stream of bytes each way: on the wire a unary call is nothing else."""

    def __init__(self, services: Services, run: Callable[[Open, Any, Context], Awaitable[None]]) -> None:
        self._methods: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            path: grpc.stream_stream_rpc_method_handler(functools.partial(run, opened))
            for path, opened in services.items()
        }

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> "grpc.RpcMethodHandler[Any, Any] | None":
        return self._methods.get(handler_call_details.method)


class _Stream:
    """One stream: its Call, and what the Call pushes."""

    def __init__(self, opened: Open, context: Context, reader: asyncio.Task[Any]) -> None:
        self._context = context
        self._reader = reader
        self._late: deque[Sequence[bytes]] = deque()
        self._writer: asyncio.Task[None] | None = None
        self._written = asyncio.Event()
        self._turn = asyncio.Lock()  # gRPC takes one write at a time
        self._call = opened(self._push)

    async def run(self) -> None:
        call = self._call
        try:
            # A stream that is over is closed from here: the peer's own close would cost another wake-up.
            while not call.is_over and (message := await self._next()) is not None:
                await self._write(call.receive(message))
            while self._writer is not None or (call.is_waiting and not call.is_over):
                self._written.clear()
                await self._written.wait()
        except asyncio.CancelledError:
            if not call.is_over or self._context.cancelled():
                raise
        except CallFailed as failure:
            await self._context.abort(_STATUS[failure.code], str(failure))
        except grpc.aio.InternalError:
            pass  # the peer left while answers were on their way to it
        finally:
            if self._writer is not None:
                self._writer.cancel()
            call.close()

    async def _next(self) -> bytes | None:
        """The next message; None when the peer has no more."""
        message: Any = await self._context.read()
        return None if message is grpc.aio.EOF else message

    async def _write(self, answers: Sequence[bytes]) -> None:
        async with self._turn:
            for answer in answers:
                await self._context.write(answer)
        self._call.delivered()

    def _push(self, answers: Sequence[bytes]) -> None:
        self._late.append(answers)
        if self._writer is None:
            self._writer = asyncio.get_running_loop().create_task(self._write_late(), name="late answers")

    async def _write_late(self) -> None:
        try:
            while self._late:
                await self._write(self._late.popleft())
        except grpc.aio.InternalError:
            pass  # as in run
        self._writer = None
        self._written.set()
        if self._call.is_over:
            self._reader.cancel()  # it waits for a message that nobody needs any more
