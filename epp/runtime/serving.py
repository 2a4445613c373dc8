"""The server of a gRPC port: which driver, and its end.

Place:   asked by main; the drivers are epp.runtime.fast and epp.runtime.grpcio_server.
Rule:    a driver is imported only when it is used: grpc alone takes 60 ms and 12 MB.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from epp.core.budget import Budget
from epp.core.stream import MAX_BODY_BYTES
from epp.runtime.calls import Services
from epp.runtime.tls import KeyPair

logger = logging.getLogger("epp.server")

_FRAME_MARGIN_BYTES = 16 * 1024 * 1024
"""Room to answer a body that is somewhat too large with 413 instead of breaking its stream."""


class Server(Protocol):
    """What both drivers are."""

    port: int
    """Where it listens, once bound."""

    def bind(self, port: int, *, flag: str) -> int:
        """Reserve the port on every address; returns it (chosen by the system when ``port`` is 0)."""

    async def start(self) -> None:
        """Serve from now on."""

    async def stop(self, grace: float) -> None:
        """No new streams; open ones may finish for ``grace`` seconds."""


def make_server(
    driver: str,
    services: Services,
    *,
    budget: Budget,
    pairs: Callable[[], KeyPair] | None = None,
    max_receive_bytes: int | None = None,
    max_send_bytes: int | None = None,
) -> Server:
    """A server that ``driver`` ("fast" or "grpcio") runs. ``pairs``: certificates; None: plaintext.

    ``budget``: what messages may hold whose rest is on its way (gRPC's own core does not ask).

    The limits are of one message; None: what the largest body needs, and no limit.
    """
    largest = MAX_BODY_BYTES + _FRAME_MARGIN_BYTES if max_receive_bytes is None else max_receive_bytes
    if driver == "grpcio":
        from epp.runtime.grpcio_server import GrpcioServer  # noqa: PLC0415 (see above)

        return GrpcioServer(services, pairs=pairs, max_receive_bytes=largest, max_send_bytes=max_send_bytes)
    from epp.runtime.fast.limits import Limits  # noqa: PLC0415
    from epp.runtime.fast.server import FastServer  # noqa: PLC0415

    limits = Limits(max_receive_bytes=largest, max_send_bytes=max_send_bytes)
    return FastServer(services, limits, budget=budget, pairs=pairs)


async def stop(
    leave: Callable[[float], Coroutine[Any, Any, None]], grace: float, *, open_streams: Callable[[], int]
) -> None:
    """Have ports left within ``grace`` seconds; says in the log what is waited for and what is cut off."""
    logger.info("draining", extra={"fields": {"open_streams": open_streams(), "timeout_seconds": grace}})
    stopping = asyncio.get_running_loop().create_task(leave(grace), name="drain")
    await asyncio.wait({stopping}, timeout=max(grace - 0.05, 0.0))
    cut_off = open_streams()
    if cut_off and not stopping.done():
        logger.warning("requests are cut off, raise --drain-timeout", extra={"fields": {"streams": cut_off}})
    await asyncio.shield(stopping)
