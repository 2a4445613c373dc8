"""One stream of a connection: its windows, and what waits for them.

Place:   kept by epp.runtime.fast.connection.
Ignores: frames, what is served.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import Protocol

from epp.runtime.calls import Call
from epp.runtime.fast.headers import Opening


class Timer(Protocol):
    """What ``later`` returns."""

    def cancel(self) -> None: ...


@dataclass(slots=True, eq=False)
class Stream:
    """One stream and what waits on it."""

    number: int
    receive_window: int
    send_window: int
    announced: int | None
    """Bytes of DATA still to come, where the request has a content-length."""
    opening: Opening
    call: Call | None = None
    """None: no gRPC, or it could not be opened."""
    timer: Timer | None = None
    has_ended: bool = False
    """The peer has said all it will say."""
    has_headers: bool = False
    """Our response headers are out."""
    partial: bytearray = field(default_factory=bytearray)
    """The beginning of a message whose rest is on its way."""
    wanted: int = 0
    """Bytes of ``partial`` that make it worth a look."""
    backlog: deque[bytes | memoryview] = field(default_factory=deque)
    """Answers that wait for the peer's windows."""
    backlog_bytes: int = 0
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
        return pieces, room - left
