"""A gateway's end of one connection to a picker: gRPC calls by hand, which may stop anywhere.

Place:   bench.soak, which needs a client that can be told to misbehave; its frames are those of bench.frames.
Ignores: what the messages mean.
Rule:    keeps to the server's windows and complains (``fault``) of a server that does not keep to ours. What
         does not come within a time is Stuck, never waited for for ever.
"""

import asyncio
import struct
from dataclasses import dataclass, field
from typing import cast

from bench import frames
from bench.frames import DEFAULT_WINDOW, Error, Frame, FrameReader, Kind, Setting

STUCK_SECONDS = 60.0
"""Within which an answer must come, however busy the machine is."""
STREAM_WINDOW = 100_000
"""What we give a stream, so that large bodies wait for us."""
CONNECTION_WINDOW = 4 << 20


class Stuck(Exception):
    """An answer did not come."""


class Gone(Exception):
    """The connection has ended, by whoever's hand."""


@dataclass(slots=True)
class Call:
    """One stream and what came on it."""

    number: int
    send_window: int
    messages: list[bytes] = field(default_factory=list)
    is_over: bool = False
    unread: int = 0
    """Bytes that came and were not given back to the window."""
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    _partial: bytearray = field(default_factory=bytearray)

    def take(self, data: bytes) -> None:
        """Some of the answer."""
        self.unread += len(data)
        self._partial += data
        at, held = 0, self._partial
        while len(held) - at >= 5 and len(held) >= (
            end := at + 5 + int.from_bytes(held[at + 1 : at + 5], "big")
        ):
            self.messages.append(bytes(held[at + 5 : end]))
            at = end
        del held[:at]


class Gateway(asyncio.Protocol):
    """A client's end of a connection; keeps to the server's windows, and complains of what it may not do."""

    def __init__(self) -> None:
        self.calls: dict[int, Call] = {}
        self.is_gone = False
        self.fault = ""
        """What the picker did or said that it should not."""
        self._transport: asyncio.Transport | None = None
        self._reader = FrameReader()
        self._next = 1
        self._window = DEFAULT_WINDOW
        self._stream_window = DEFAULT_WINDOW
        self._unread = 0
        self._room = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        ours: dict[int, int] = {Setting.INITIAL_WINDOW_SIZE: STREAM_WINDOW, Setting.HEADER_TABLE_SIZE: 0}
        self.write(frames.PREFACE + frames.settings(ours) + frames.window_update(0, CONNECTION_WINDOW))

    def data_received(self, data: bytes) -> None:
        for one in self._reader.feed(data):
            self._take(one)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self.is_gone = True
        self._room.set()
        for call in self.calls.values():
            call.changed.set()

    def write(self, data: bytes) -> None:
        """Raises Gone."""
        if self._transport is None or self._transport.is_closing():
            raise Gone
        self._transport.write(data)

    def abort(self) -> None:
        """Without a word."""
        if self._transport is not None:
            self._transport.abort()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    # --- calls ---

    def open(self) -> Call:
        call = self.calls[self._next] = Call(self._next, self._stream_window)
        self._next += 2
        self.write(frames.call(call.number))
        return call

    async def say(self, call: Call, content: bytes, *, ended: bool = False) -> None:
        """One gRPC message in as many frames as the windows ask for."""
        left = memoryview(frames.message(content))
        while left:
            async with asyncio.timeout(STUCK_SECONDS):
                while (room := min(self._window, call.send_window, 16_384)) <= 0 and not self._is_lost(call):
                    self._room.clear()
                    await self._room.wait()
            if self._is_lost(call):
                raise Gone
            piece, left = bytes(left[:room]), left[room:]
            self._window -= len(piece)
            call.send_window -= len(piece)
            self.write(frames.data(call.number, piece, ended=ended and not left))

    def _is_lost(self, call: Call) -> bool:
        return self.is_gone or call.is_over

    async def hear(self, call: Call, count: int) -> list[bytes]:
        """The first ``count`` messages of the answer; fewer when the stream ends before."""
        try:
            async with asyncio.timeout(STUCK_SECONDS):
                while len(call.messages) < count and not call.is_over:
                    if self.is_gone:
                        raise Gone
                    self._give_back(call)
                    call.changed.clear()
                    await call.changed.wait()
                return call.messages
        except TimeoutError:
            raise Stuck(f"stream {call.number}: {count} messages are due") from None

    def _give_back(self, call: Call) -> None:
        if call.unread > STREAM_WINDOW // 2:
            self.write(frames.window_update(call.number, call.unread))
            call.unread = 0

    def leave(self, call: Call) -> None:
        """Reset, unless it is over."""
        if self.calls.pop(call.number, None) is not None and not call.is_over and not self.is_gone:
            self.write(frames.reset(call.number))

    # --- frames ---

    def _take(self, one: Frame) -> None:
        call = self.calls.get(one.stream)
        match one.kind:
            case Kind.DATA:
                self._unread += len(one.payload)
                if self._unread > CONNECTION_WINDOW // 2:
                    self.write(frames.window_update(0, self._unread))
                    self._unread = 0
                if call is not None:
                    call.take(one.payload)
                    if call.unread > STREAM_WINDOW:
                        self.fault = f"{call.unread} bytes into a window of {STREAM_WINDOW}"
                        self.abort()
            case Kind.SETTINGS if not one.flags & frames.ACK:
                self._set(one.payload)
            case Kind.WINDOW_UPDATE:
                increment = int.from_bytes(one.payload, "big")
                if one.stream == 0:
                    self._window += increment
                elif call is not None:
                    call.send_window += increment
                self._room.set()
            case Kind.PING if not one.flags & frames.ACK:
                self.write(frames.ping(one.payload, ack=True))
            case Kind.GOAWAY if one.code is not Error.NO_ERROR:
                self.fault = f"GOAWAY: {one.code.name}: {one.payload[8:].decode(errors='replace')}"
            case _:
                pass
        if call is not None:
            call.is_over = call.is_over or one.ended or one.kind == Kind.RST_STREAM
            call.changed.set()
            self._room.set()

    def _set(self, pairs: bytes) -> None:
        for name, value in struct.iter_unpack(">HL", pairs):
            if name == Setting.INITIAL_WINDOW_SIZE:
                for call in self.calls.values():
                    call.send_window += value - self._stream_window
                self._stream_window = value
        self.write(frames.settings(ack=True))
