"""What may pass on one connection and on each of its streams: windows, and what waits for them.

Place:   kept by epp.runtime.fast.connection.
Ignores: frames, what is served.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field
from typing import Protocol, TypeAlias

from epp.runtime.calls import Call
from epp.runtime.fast.headers import RESPONSE, Opening


class Timer(Protocol):
    """What ``later`` returns."""

    def cancel(self) -> None: ...


Later: TypeAlias = Callable[[float, Callable[[], None]], Timer]
"""Calls a function after some seconds."""


@dataclass(slots=True, eq=False)
class Flow:
    """What may pass: of one stream, or of the whole connection (number 0)."""

    number: int
    window: int
    """Bytes that the peer may send before some are given back."""
    most_backlog: int
    """Bytes of answers waiting, above which none are given back."""
    send_window: int
    _: KW_ONLY
    owed: int = 0
    """Bytes that came and have not been given back."""
    backlog_bytes: int = 0

    def give_back(self) -> int:
        """What the peer may send again, in large steps; 0: nothing now."""
        owed = self.owed
        if owed * 2 <= self.window or self.backlog_bytes >= self.most_backlog:
            return 0
        self.owed = 0
        return owed


@dataclass(slots=True, eq=False)
class Stream(Flow):
    """One stream and what waits on it."""

    opening: Opening
    announced: int | None
    """Bytes of DATA still to come, where the request has a content-length."""
    has_ended: bool
    """The peer has said all it will say."""
    call: Call | None = None
    """None: no gRPC, or it could not be opened."""
    timer: Timer | None = None
    head: bytes = RESPONSE
    """Our response headers, until they are out."""
    partial: bytearray = field(default_factory=bytearray)
    """The beginning of a message whose rest is on its way."""
    wanted: int = 0
    """Bytes of ``partial`` that make it worth a look."""
    backlog: deque[bytes | memoryview] = field(default_factory=deque)
    """Answers that wait for the peer's windows."""
    ending: bytes | None = None
    """The frame that ends the stream, once the backlog is out; from then on nothing else counts."""

    def put_off(self, *pieces: bytes) -> int:
        """Have these wait; returns their bytes. What is empty would wait for room that it does not need."""
        size = sum(map(len, pieces))
        self.backlog.extend(filter(None, pieces))
        self.backlog_bytes += size
        return size

    def taken(self, room: int) -> tuple[list[bytes | memoryview], int]:
        """Up to ``room`` bytes of what waits, and their number; what is cut is not copied."""
        pieces: list[bytes | memoryview] = []
        left = room
        while self.backlog and left > 0:
            piece = self.backlog.popleft()
            if len(piece) > left:
                view = memoryview(piece)
                self.backlog.appendleft(view[left:])
                piece = view[:left]
            pieces.append(piece)
            left -= len(piece)
        self.backlog_bytes -= room - left
        self.send_window -= room - left
        return pieces, room - left
