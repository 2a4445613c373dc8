"""One RPC as a driver sees it: messages in, answers out, one end.

Place:   between the drivers (epp.runtime.fast, epp.runtime.grpcio_server) and what they serve
         (epp.runtime.ext_proc, epp.runtime.health).
Ignores: HTTP/2, sockets, what the messages mean.
Rule:    a driver opens one Call per stream, feeds it in order and closes it exactly once, last,
         however the stream ends.
"""

import enum
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeAlias


class Code(enum.IntEnum):
    """gRPC status codes that we use (grpc/status.h)."""

    OK = 0
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    RESOURCE_EXHAUSTED = 8
    UNIMPLEMENTED = 12
    INTERNAL = 13


class CallFailed(Exception):
    """The stream ends with this status."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code


class Call(Protocol):
    """The server's side of one stream."""

    @property
    def is_over(self) -> bool:
        """Nothing more is to be said: the driver ends the stream with status OK."""

    @property
    def is_waiting(self) -> bool:
        """An answer is still to be pushed: a peer that has said all it will say waits for it."""

    def receive(self, message: bytes) -> Sequence[bytes]:
        """The answers to one message, in order. Raises CallFailed to end the stream with its status."""

    def delivered(self) -> None:
        """All answers so far have left for the peer: what was kept for them may go."""

    def close(self) -> None:
        """The stream has ended, whoever ended it."""


Push: TypeAlias = Callable[[Sequence[bytes]], None]
"""Sends answers that were not ready when their message came; after the end of the stream it does nothing."""
Open: TypeAlias = Callable[[Push], Call]
Services: TypeAlias = Mapping[str, Open]
"""By path: ``/package.Service/Method``."""
