"""As much HTTP/2 and gRPC as Envoy needs of a server, and nothing else: what no driver can do without.

Place:   under bench.echo, where it is the bound for drivers.
Ignores: every header, every fault of the peer, priorities, padding, windows of streams: it is no server
         for anything but a measurement on one machine.
Rule:    one read, at most one write. The connection's window is kept, else large bodies would not arrive.
Source:  RFC 9113; gRPC over HTTP/2 (PROTOCOL-HTTP2.md)
"""

import asyncio
import struct
from collections import deque
from collections.abc import Callable
from typing import cast

from bench import frames
from bench.frames import ACK, END_HEADERS, END_STREAM, PREFACE, Kind, Setting
from epp.runtime.calls import Call

WINDOW = 1 << 30
CREDIT_BYTES = 1 << 24
MAX_FRAME = 1 << 18  # as the picker's own driver says
_HEAD = struct.Struct(">HBBBL")
_DATA, _HEADERS = int(Kind.DATA), int(Kind.HEADERS)
_OPENING = b"\x88\x0f\x10\x10application/grpc"  # :status 200 and content-type; no table, no Huffman code
_CLOSING = b"\x00\x0bgrpc-status\x010"


class Bare(asyncio.Protocol):
    """One connection; ``opened`` makes the Call of each stream."""

    def __init__(self, opened: Callable[[], Call]) -> None:
        self._opened = opened
        self._transport: asyncio.Transport | None = None
        self._rest = b""
        self._calls: dict[int, Call] = {}
        self._messages: dict[int, bytes] = {}  # the beginning of one whose end has not come
        self._out: list[bytes] = []
        self._window = frames.DEFAULT_WINDOW
        self._waiting: deque[tuple[int, bytes]] = deque()  # bytes of the window, a frame
        self._max_frame = frames.SMALLEST_MAX_FRAME
        self._received = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one without saying so
        wanted: dict[int, int] = {Setting.INITIAL_WINDOW_SIZE: WINDOW, Setting.MAX_FRAME_SIZE: MAX_FRAME}
        self._transport.write(frames.settings(wanted) + frames.window_update(0, WINDOW))

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None

    def data_received(self, data: bytes) -> None:
        data = self._rest + data if self._rest else data
        at = len(PREFACE) if data.startswith(PREFACE) else 0
        size = len(data)
        while size - at >= _HEAD.size:
            high, low, kind, flags, number = _HEAD.unpack_from(data, at)
            begin = at + _HEAD.size
            end = begin + (high << 8 | low)
            if end > size:
                break
            if kind == _DATA:
                self._on_data(number, data[begin:end])
            elif kind == _HEADERS:
                self._on_headers(number)
            else:
                self._on_other(kind, flags, number, data[begin:end])
            at = end
        self._rest = data[at:]
        if self._out and self._transport is not None:
            self._transport.write(b"".join(self._out))
            self._out.clear()

    def _on_headers(self, number: int) -> None:
        self._calls[number] = self._opened()
        self._messages[number] = b""
        self._out.append(_frame(_HEADERS, END_HEADERS, number, _OPENING))

    def _on_data(self, number: int, payload: bytes) -> None:
        self._received += len(payload)
        if self._received >= CREDIT_BYTES:
            self._out.append(frames.window_update(0, self._received))
            self._received = 0
        call = self._calls.get(number)
        if call is None:
            return
        before = self._messages[number]
        data, at = before + payload if before else payload, 0
        while len(data) - at >= 5:
            end = at + 5 + int.from_bytes(data[at + 1 : at + 5], "big")
            if end > len(data):
                break
            for answer in call.receive(data[at + 5 : end]):
                self._answer(number, answer)
            at = end
        self._messages[number] = data[at:]
        if call.is_over:
            self._queue(0, _frame(_HEADERS, END_HEADERS | END_STREAM, number, _CLOSING))
            self._forget(number)

    def _on_other(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        if kind == Kind.RST_STREAM:
            self._forget(number)
        elif kind == Kind.SETTINGS and not flags & ACK:
            given = dict(struct.iter_unpack(">HL", payload))
            self._max_frame = given.get(Setting.MAX_FRAME_SIZE, self._max_frame)
            self._out.append(frames.settings(ack=True))
        elif kind == Kind.PING and not flags & ACK:
            self._out.append(frames.ping(payload, ack=True))
        elif kind == Kind.WINDOW_UPDATE and not number:
            self._window += int.from_bytes(payload, "big")
            while self._waiting and self._waiting[0][0] <= self._window:
                self._send(*self._waiting.popleft())

    def _answer(self, number: int, message: bytes) -> None:
        framed = b"\0" + len(message).to_bytes(4, "big") + message
        for at in range(0, len(framed), self._max_frame):
            part = framed[at : at + self._max_frame]
            self._queue(len(part), _frame(_DATA, 0, number, part))

    def _queue(self, counts: int, frame: bytes) -> None:
        if self._waiting or counts > self._window:
            self._waiting.append((counts, frame))
        else:
            self._send(counts, frame)

    def _send(self, counts: int, frame: bytes) -> None:
        self._window -= counts
        self._out.append(frame)

    def _forget(self, number: int) -> None:
        self._calls.pop(number, None)
        self._messages.pop(number, None)


def _frame(kind: int, flags: int, number: int, payload: bytes) -> bytes:
    size = len(payload)
    return _HEAD.pack(size >> 8, size & 0xFF, kind, flags, number) + payload
