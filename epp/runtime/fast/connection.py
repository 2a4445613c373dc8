"""One HTTP/2 connection with gRPC calls on it, without I/O: bytes in, bytes out.

Place:   fed by epp.runtime.fast.server; opens the Calls of epp.runtime.calls and feeds them.
Ignores: sockets, TLS, what is served.
Rule:    everything a read brings is worked off before the next one, and its answers are one piece of
         output. A fault of the peer ends its stream (StreamFault) or the connection
         (ConnectionFault), never more; every Call is closed exactly once.
Source:  RFC 9113; gRPC over HTTP/2 (PROTOCOL-HTTP2.md).
"""

import logging
import struct
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from epp.runtime.calls import Call, CallFailed, Code, Services
from epp.runtime.fast import frames, headers
from epp.runtime.fast.frames import HEAD, ConnectionFault, ErrorCode, StreamFault

logger = logging.getLogger("epp.server")

PREFIX = struct.Struct(">BL")
"""In front of each gRPC message: compressed or not, length."""
_HEAD_AND_PREFIX = struct.Struct(">HBBBLBL")
_NOT_GRPC_TEXT = b"This is a gRPC service: fleet-epp, an endpoint picker for Envoy's ext_proc.\n"


class Timer(Protocol):
    """What ``Limits.later`` returns."""

    def cancel(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one connection may take. Sizes in bytes."""

    max_receive_bytes: int
    """Of one message."""
    max_send_bytes: int | None = None
    """Of one message; None: no limit."""
    streams: int = 20_000
    """Open at once: a gateway opens another connection for more."""
    stream_window: int = 1 << 20
    connection_window: int = 16 << 20
    max_frame: int = 1 << 18
    """Larger than the usual 16 KB: a message of a body's piece is then one frame, where the peer makes them so."""
    stream_backlog: int = 1 << 18
    """Answers that wait for a slow stream, before we stop letting its peer send."""
    backlog: int = 64 << 20
    """The same, of all streams."""
    nuisances: int = 10_000
    """Frames without work in them (pings, resets, empty data) that are forgiven at once …"""
    nuisances_per_second: float = 1_000.0
    """… and over time. A gateway whose clients all leave at once resets a few thousand streams."""
    handshake_seconds: float = 10.0
    """For the preface, and for a header block that comes in several frames."""


class _Stream:
    """One stream and what waits on it."""

    __slots__ = (
        "announced",
        "backlog",
        "backlog_bytes",
        "call",
        "ending",
        "has_ended",
        "has_headers",
        "is_foreign",
        "number",
        "partial",
        "receive_window",
        "send_window",
        "timer",
        "wanted",
    )

    def __init__(self, number: int, receive_window: int, send_window: int) -> None:
        self.number = number
        self.call: Call | None = None
        """None: not a gRPC request, or its call is over while answers still wait."""
        self.is_foreign = False
        """Not gRPC: it is told so when it has ended."""
        self.has_ended = False
        """The peer has said all it will say."""
        self.has_headers = False
        """Our response headers are out."""
        self.receive_window = receive_window
        self.send_window = send_window
        self.announced: int | None = None
        """Bytes of DATA still to come, where the request has a content-length."""
        self.partial = bytearray()
        """The beginning of a message whose rest is on its way."""
        self.wanted = 0
        """Bytes that ``partial`` needs before it is worth a look."""
        self.backlog: deque[bytes | memoryview] = deque()
        """Answers that wait for the peer's windows."""
        self.backlog_bytes = 0
        self.ending: bytes | None = None
        """The frame that ends the stream, once the backlog is out."""
        self.timer: Timer | None = None


class Connection:
    """One peer. ``later`` calls a function after some seconds; ``wake`` asks for a ``take`` outside ``receive``."""

    def __init__(
        self,
        services: Services,
        limits: Limits,
        *,
        later: Callable[[float, Callable[[], None]], Timer],
        wake: Callable[[], None],
    ) -> None:
        self.is_closing = False
        """What ``take`` returns next is the last; then the connection is to be closed."""
        self.fault: ConnectionFault | None = None
        self._services, self._limits = services, limits
        self._later, self._wake = later, wake
        self._headers = headers.HeaderReader()
        self._streams: dict[int, _Stream] = {}
        self._reset: dict[
            int, None
        ] = {}  # streams we ended first, the latest thousand: late frames are ignored
        self._last = 0
        self._last_served: int | None = None  # what a GOAWAY promised
        self._is_draining = False
        self._rest = b""
        self._read: Callable[[bytes], int] = self._read_preface
        self._block: tuple[int, int, bytearray] | None = None  # stream, flags, header block so far
        self._receive_window = limits.connection_window
        self._send_window = frames.DEFAULT_WINDOW
        self._peer_window = frames.DEFAULT_WINDOW
        self._peer_max_frame = frames.SMALLEST_MAX_FRAME
        self._waiting: dict[int, _Stream] = {}  # streams with a backlog, in turn
        self._backlog_bytes = 0
        self._nuisances, self._nuisance_at = 0.0, 0.0
        self._now = 0.0
        self._timer: Timer | None = later(limits.handshake_seconds, self._too_slow)
        announced = {
            frames.HEADER_TABLE_SIZE: 0,
            frames.MAX_CONCURRENT_STREAMS: limits.streams,
            frames.INITIAL_WINDOW_SIZE: limits.stream_window,
            frames.MAX_FRAME_SIZE: limits.max_frame,
            frames.MAX_HEADER_LIST_SIZE: headers.MAX_LIST_BYTES,
        }
        more = limits.connection_window - frames.DEFAULT_WINDOW
        self._out: list[bytes | memoryview] = [frames.settings(announced), frames.window_update(0, more)]
        self._on_frame = (
            self._on_data,
            self._on_headers,
            self._on_priority,
            self._on_reset,
            self._on_settings,
            self._on_push_promise,
            self._on_ping,
            self._on_goaway,
            self._on_window_update,
            self._on_continuation,
        )

    # --- for the server ---

    @property
    def open_streams(self) -> int:
        """Streams that have not ended."""
        return len(self._streams)

    def receive(self, data: bytes, now: float) -> None:
        """Work off what came at ``now`` [s, monotonic]."""
        if self.is_closing:
            return
        self._now = now
        if self._rest:
            data = self._rest + data
        try:
            self._rest = data[self._read(data) :]
        except ConnectionFault as fault:
            self._fail(fault)

    def take(self) -> bytes:
        """What is to be sent, once."""
        out = b"".join(self._out)
        self._out.clear()
        return out

    def drain(self) -> None:
        """No new streams; ``is_closing`` once those that are open have ended."""
        if not self._is_draining:
            self._is_draining = True
            # The final one follows when the peer has seen this one: a stream on its way must not be lost.
            self._out.append(frames.goaway(frames.LARGEST_WINDOW, ErrorCode.NO_ERROR))
            self._out.append(frames.frame(frames.PING, 0, 0, b"draining"))
        self._close_if_drained()

    def lost(self) -> None:
        """The transport is gone: close every call."""
        self.is_closing = True
        self._cancel_timer()
        for stream in list(self._streams.values()):
            self._forget(stream)

    def _fail(self, fault: ConnectionFault) -> None:
        self.fault = fault
        self._out.append(frames.goaway(self._last, fault.code, str(fault)))
        self.lost()

    def _too_slow(self) -> None:
        self._timer = None
        self._fail(ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "too slow"))
        self._wake()

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _nuisance(self) -> None:
        """Count a frame that costs us something and does nothing for the peer."""
        passed, self._nuisance_at = self._now - self._nuisance_at, self._now
        self._nuisances = max(self._nuisances - passed * self._limits.nuisances_per_second, 0.0) + 1.0
        if self._nuisances > self._limits.nuisances:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "too many frames without work in them")

    # --- reading ---

    def _read_preface(self, data: bytes) -> int:
        size = len(frames.PREFACE)
        if data[:size] != frames.PREFACE[: len(data)]:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "no HTTP/2 preface")
        if len(data) < size + HEAD.size:
            return 0
        if data[size + 3] != frames.SETTINGS or data[size + 4] & frames.ACK:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "SETTINGS must come first")
        self._cancel_timer()
        self._read = self._read_frames
        return self._read_frames(data, size)

    def _read_frames(self, data: bytes, at: int = 0) -> int:
        """Work off the whole frames in ``data``; returns where the rest begins."""
        size = len(data)
        while size - at >= 9:
            high, low, kind, flags, number = HEAD.unpack_from(data, at)
            length = high << 8 | low
            if length > self._limits.max_frame:
                raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, f"a frame of {length} bytes")
            begin, end = at + 9, at + 9 + length
            if end > size:
                break
            if self._block is not None and kind != frames.CONTINUATION:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a header block is interrupted")
            try:
                if kind < 10:
                    self._on_frame[kind](flags, number & frames.LARGEST_WINDOW, data, begin, end)
                else:
                    self._nuisance()
            except StreamFault as fault:
                self._refuse(fault.stream, fault.code)
            if self.is_closing:
                return size
            at = end
        return at

    def _on_data(self, flags: int, number: int, data: bytes, at: int, end: int) -> None:
        size = end - at
        self._receive_window -= size
        if self._receive_window < 0:
            raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "connection window")
        self._credit()
        stream = self._streams.get(number)
        if stream is None or stream.has_ended:
            self._on_late(number, stream)
            return
        stream.receive_window -= size
        if stream.receive_window < 0:
            raise StreamFault(number, ErrorCode.FLOW_CONTROL_ERROR)
        if flags & frames.PADDED:
            at, end = frames.unpadded(flags, data, at, end)
        if at == end and not flags & frames.END_STREAM:
            self._nuisance()
        if stream.announced is not None:
            stream.announced -= end - at
            if stream.announced < 0:
                raise StreamFault(number, ErrorCode.PROTOCOL_ERROR)
        if stream.call is not None:
            self._messages(stream, data, at, end)
        if flags & frames.END_STREAM:
            self._on_end(stream)
        else:
            self._credit_stream(stream)

    def _on_late(self, number: int, stream: _Stream | None) -> None:
        """A frame for a stream that is not open for it."""
        if stream is None:
            if number in self._reset:
                return
            self._check_seen(number)
        self._nuisance()
        raise StreamFault(number, ErrorCode.STREAM_CLOSED)

    def _check_seen(self, number: int) -> None:
        if number == 0 or number > self._last or number % 2 == 0:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"a frame for stream {number}, which is idle")

    def _messages(self, stream: _Stream, data: bytes, at: int, end: int) -> None:
        """Hand over the whole messages, keep the rest."""
        if stream.partial:
            stream.partial += data[at:end]
            if len(stream.partial) < stream.wanted:
                return
            data, at, end = bytes(stream.partial), 0, len(stream.partial)
            stream.partial = bytearray()
        stream.wanted = PREFIX.size
        while end - at >= 5 and stream.call is not None:
            compressed, length = PREFIX.unpack_from(data, at)
            if compressed or length > self._limits.max_receive_bytes:
                self._refuse_message(stream, compressed, length)
                return
            stop = at + 5 + length
            if stop > end:
                stream.wanted = 5 + length
                break
            self._deliver(stream, stream.call, data[at + 5 : stop])
            at = stop
        if at < end and stream.call is not None:
            stream.partial += data[at:end]

    def _refuse_message(self, stream: _Stream, compressed: int, length: int) -> None:
        if compressed:
            self._finish(stream, Code.UNIMPLEMENTED, "compressed messages are not supported")
        else:
            most = self._limits.max_receive_bytes
            self._finish(stream, Code.RESOURCE_EXHAUSTED, f"a message of {length} bytes; {most} are allowed")

    def _deliver(self, stream: _Stream, call: Call, message: bytes) -> None:
        try:
            answers = call.receive(message)
        except CallFailed as failure:
            self._finish(stream, failure.code, str(failure))
            return
        except Exception:  # a defect of the service must not end its neighbours' streams
            logger.exception("a call failed")
            self._finish(stream, Code.INTERNAL, "the service failed")
            return
        if answers:
            self._send(stream, answers)
        if call.is_over and stream.call is not None:
            self._finish(stream)

    def _on_headers(self, flags: int, number: int, data: bytes, at: int, end: int) -> None:
        at, end = frames.unpadded(flags, data, at, end)
        if flags & frames.PRIORITIZED:
            if end - at < 5:
                raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "no room for the priority")
            if int.from_bytes(data[at : at + 4], "big") & frames.LARGEST_WINDOW == number:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a stream depends on itself")
            at += 5
        if number % 2 == 0:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"HEADERS on stream {number}")
        if flags & frames.END_HEADERS:
            self._on_block(number, flags, data[at:end])
        else:
            self._block = (number, flags, bytearray(data[at:end]))
            self._timer = self._later(self._limits.handshake_seconds, self._too_slow)

    def _on_continuation(self, flags: int, number: int, data: bytes, at: int, end: int) -> None:
        if self._block is None or self._block[0] != number:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "CONTINUATION without a beginning")
        _, first_flags, block = self._block
        block += data[at:end]
        if len(block) > headers.MAX_LIST_BYTES:  # it may not be longer than what it stands for
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "header list too large")
        self._nuisance()
        if flags & frames.END_HEADERS:
            self._block = None
            self._cancel_timer()
            self._on_block(number, first_flags, bytes(block))

    def _on_block(self, number: int, flags: int, block: bytes) -> None:
        if number > self._last:
            self._last = number
            self._open(number, block, ended=bool(flags & frames.END_STREAM))
            return
        stream = self._streams.get(number)
        try:
            self._headers.trailers(block)  # read in any case: blocks share a table
        except headers.Malformed:
            raise StreamFault(number, ErrorCode.PROTOCOL_ERROR) from None
        if stream is None or stream.has_ended:
            if number not in self._reset:
                raise ConnectionFault(ErrorCode.STREAM_CLOSED, f"HEADERS on stream {number}, which has ended")
        elif not flags & frames.END_STREAM:
            raise StreamFault(number, ErrorCode.PROTOCOL_ERROR)
        else:
            self._on_end(stream)

    def _open(self, number: int, block: bytes, *, ended: bool) -> None:
        try:
            opening = self._headers.opening(block)
        except headers.Malformed:
            raise StreamFault(number, ErrorCode.PROTOCOL_ERROR) from None
        if self._last_served is not None and number > self._last_served:
            return  # the peer has been told that these are not served
        if len(self._streams) >= self._limits.streams:
            raise StreamFault(number, ErrorCode.REFUSED_STREAM)
        stream = self._streams[number] = _Stream(number, self._limits.stream_window, self._peer_window)
        stream.announced = opening.content_length
        if not opening.is_grpc:
            stream.is_foreign = True
        else:
            self._begin(stream, opening)
        if ended:
            self._on_end(stream)

    def _begin(self, stream: _Stream, opening: headers.Opening) -> None:
        opened = self._services.get(opening.path)
        if opened is None:
            self._finish(stream, Code.UNIMPLEMENTED, f"unknown method {opening.path}")
            return
        if opening.bad_timeout:
            self._finish(stream, Code.INTERNAL, "grpc-timeout cannot be read")
            return
        stream.call = opened(partial(self._push, stream))
        if opening.timeout is not None:
            stream.timer = self._later(opening.timeout, partial(self._expired, stream))

    def _on_end(self, stream: _Stream) -> None:
        """The peer has said all it will say."""
        stream.has_ended = True
        if stream.announced:
            raise StreamFault(stream.number, ErrorCode.PROTOCOL_ERROR)
        if stream.is_foreign:
            self._answer_foreign(stream)
        elif stream.call is not None:
            if stream.partial:
                self._finish(stream, Code.INTERNAL, "the stream ended inside a message")
            else:
                self._finish(stream)

    def _on_priority(self, flags: int, number: int, data: bytes, at: int, end: int) -> None:
        if number == 0:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "PRIORITY on stream 0")
        if end - at != 5:
            raise StreamFault(number, ErrorCode.FRAME_SIZE_ERROR)
        if int.from_bytes(data[at : at + 4], "big") & frames.LARGEST_WINDOW == number:
            raise StreamFault(number, ErrorCode.PROTOCOL_ERROR)
        self._nuisance()

    def _on_reset(self, flags: int, number: int, data: bytes, at: int, end: int) -> None:
        if end - at != 4:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "RST_STREAM")
        self._check_seen(number)
        stream = self._streams.get(number)
        if stream is not None:
            self._nuisance()  # a stream opened only to be reset costs us more than it costs the peer
            self._forget(stream)

    def _on_settings(self, flags: int, number: int, data: bytes, at: int, end: int) -> None:
        if number:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "SETTINGS on a stream")
        if (end - at) % 6 or (flags & frames.ACK and end > at):
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS")
        if flags & frames.ACK:
            self._headers.table_is_gone()
            return
        self._nuisance()
        for name, value in frames.SETTING.iter_unpack(data[at:end]):
            self._set(name, value)
        # A peer enforces its old windows until it reads this: what the new ones allow comes behind it.
        self._out.append(frames.frame(frames.SETTINGS, frames.ACK, 0))
        self._flush_all()

    def _set(self, name: int, value: int) -> None:
        if name == frames.INITIAL_WINDOW_SIZE:
            if value > frames.LARGEST_WINDOW:
                raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "INITIAL_WINDOW_SIZE")
            change, self._peer_window = value - self._peer_window, value
            for stream in self._streams.values():
                stream.send_window += change
                if stream.send_window > frames.LARGEST_WINDOW:
                    raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "INITIAL_WINDOW_SIZE")
        elif name == frames.MAX_FRAME_SIZE:
            if not frames.SMALLEST_MAX_FRAME <= value <= frames.LARGEST_MAX_FRAME:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "MAX_FRAME_SIZE")
            self._peer_max_frame = min(value, self._limits.max_frame)
        elif name == frames.ENABLE_PUSH and value > 1:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "ENABLE_PUSH")

    def _on_push_promise(self, flags: int, number: int, data: bytes, at: int, end: int) -> None:
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "PUSH_PROMISE from a client")

    def _on_ping(self, flags: int, number: int, data: bytes, at: int, end: int) -> None:
        if number:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "PING on a stream")
        if end - at != 8:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "PING")
        self._nuisance()
        if not flags & frames.ACK:
            self._out.append(frames.frame(frames.PING, frames.ACK, 0, data[at:end]))
        elif self._is_draining and self._last_served is None:
            self._last_served = self._last
            self._out.append(frames.goaway(self._last, ErrorCode.NO_ERROR))
            self._close_if_drained()

    def _on_goaway(self, flags: int, number: int, data: bytes, at: int, end: int) -> None:
        if number:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "GOAWAY on a stream")
        if end - at < 8:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "GOAWAY")
        self._nuisance()  # the peer closes the connection when its streams have ended

    def _on_window_update(self, flags: int, number: int, data: bytes, at: int, end: int) -> None:
        if end - at != 4:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "WINDOW_UPDATE")
        increment = int.from_bytes(data[at:end], "big") & frames.LARGEST_WINDOW
        if number == 0:
            self._send_window += increment
            if not increment:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE of 0")
            if self._send_window > frames.LARGEST_WINDOW:
                raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "connection window")
            self._flush_all()
            return
        stream = self._streams.get(number)
        if stream is None:
            self._check_seen(number)  # it may have ended while this was on its way
            return
        stream.send_window += increment
        if not increment:
            raise StreamFault(number, ErrorCode.PROTOCOL_ERROR)
        if stream.send_window > frames.LARGEST_WINDOW:
            raise StreamFault(number, ErrorCode.FLOW_CONTROL_ERROR)
        self._flush(stream)

    # --- flow control: what the peer may send ---

    def _credit(self) -> None:
        """Give back the connection's window in large steps, unless too many answers wait already."""
        limits = self._limits
        owed = limits.connection_window - self._receive_window
        if owed > limits.connection_window // 2 and self._backlog_bytes < limits.backlog:
            self._receive_window += owed
            self._out.append(frames.window_update(0, owed))

    def _credit_stream(self, stream: _Stream) -> None:
        limits = self._limits
        owed = limits.stream_window - stream.receive_window
        if owed > limits.stream_window // 2 and stream.backlog_bytes < limits.stream_backlog:
            stream.receive_window += owed
            self._out.append(frames.window_update(stream.number, owed))

    # --- writing ---

    def _send(self, stream: _Stream, answers: Sequence[bytes]) -> None:
        """Answers to the peer, as far as its windows allow; the rest waits."""
        out, number, most = self._out, stream.number, self._limits.max_send_bytes
        if most is not None and max(map(len, answers)) > most:
            self._finish(stream, Code.RESOURCE_EXHAUSTED, f"an answer of more than {most} bytes")
            return
        if not stream.has_headers:
            stream.has_headers = True
            out.append(frames.frame(frames.HEADERS, frames.END_HEADERS, number, headers.RESPONSE))
        for answer in answers:
            size = 5 + len(answer)
            if stream.backlog or size > min(stream.send_window, self._send_window, self._peer_max_frame):
                self._put_off(stream, answer)
            else:
                stream.send_window -= size
                self._send_window -= size
                out.append(_HEAD_AND_PREFIX.pack(size >> 8, size & 255, frames.DATA, 0, number, 0, size - 5))
                out.append(answer)
        if stream.backlog:
            self._flush(stream)
        elif stream.call is not None:
            stream.call.delivered()

    def _put_off(self, stream: _Stream, answer: bytes) -> None:
        stream.backlog += (PREFIX.pack(0, len(answer)), answer)
        stream.backlog_bytes += 5 + len(answer)
        self._backlog_bytes += 5 + len(answer)
        self._waiting[stream.number] = stream

    def _flush_all(self) -> None:
        for stream in list(self._waiting.values()):
            self._flush(stream)

    def _flush(self, stream: _Stream) -> None:
        """Send of the backlog what the windows allow now."""
        if not stream.backlog:
            return
        while stream.backlog:
            room = min(stream.send_window, self._send_window, self._peer_max_frame)
            if room <= 0:
                return
            pieces = _taken(stream.backlog, room)
            size = sum(map(len, pieces))
            stream.send_window -= size
            self._send_window -= size
            stream.backlog_bytes -= size
            self._backlog_bytes -= size
            self._out.append(HEAD.pack(size >> 8, size & 0xFF, frames.DATA, 0, stream.number))
            self._out += pieces
        del self._waiting[stream.number]
        if stream.call is not None:
            stream.call.delivered()
            self._credit_stream(stream)
        self._credit()
        if stream.ending is not None:
            self._end(stream, stream.ending)

    def _finish(self, stream: _Stream, code: Code = Code.OK, message: str = "") -> None:
        """End the call with a status; the stream ends when its answers are out."""
        block = headers.OK if code is Code.OK else headers.failure(code, message)
        if not stream.has_headers:
            block = headers.RESPONSE + block
        flags = frames.END_STREAM | frames.END_HEADERS
        self._close_call(stream)
        self._end(stream, frames.frame(frames.HEADERS, flags, stream.number, block))

    def _answer_foreign(self, stream: _Stream) -> None:
        number = stream.number
        self._out.append(frames.frame(frames.HEADERS, frames.END_HEADERS, number, headers.NOT_GRPC))
        stream.backlog.append(_NOT_GRPC_TEXT)
        stream.backlog_bytes += len(_NOT_GRPC_TEXT)
        self._backlog_bytes += len(_NOT_GRPC_TEXT)
        self._waiting[number] = stream
        stream.ending = frames.frame(frames.DATA, frames.END_STREAM, number)
        self._flush(stream)

    def _end(self, stream: _Stream, ending: bytes) -> None:
        if stream.backlog:
            stream.ending = ending
            return
        self._out.append(ending)
        if not stream.has_ended:  # we need nothing more of it: the peer may stop sending
            self._out.append(frames.reset(stream.number, ErrorCode.NO_ERROR))
            self._remember_reset(stream.number)
        self._forget(stream)

    def _refuse(self, number: int, code: ErrorCode) -> None:
        """Reset a stream for its peer's fault."""
        self._out.append(frames.reset(number, code))
        self._remember_reset(number)
        stream = self._streams.get(number)
        if stream is not None:
            self._forget(stream)

    def _remember_reset(self, number: int) -> None:
        self._reset[number] = None
        if len(self._reset) > 1_000:
            del self._reset[next(iter(self._reset))]

    def _push(self, stream: _Stream, answers: Sequence[bytes]) -> None:
        """Answers that come when nothing was received: a service's own event."""
        if stream.call is None:
            return
        self._send(stream, answers)
        if stream.call.is_over:
            self._finish(stream)
        self._wake()

    def _expired(self, stream: _Stream) -> None:
        stream.timer = None
        self._finish(stream, Code.DEADLINE_EXCEEDED, "the deadline of the request has passed")
        self._wake()

    # --- the end ---

    def _close_call(self, stream: _Stream) -> None:
        call, stream.call = stream.call, None
        if stream.timer is not None:
            stream.timer.cancel()
            stream.timer = None
        if call is not None:
            try:
                call.close()
            except Exception:  # the same as in _deliver
                logger.exception("closing a call failed")

    def _forget(self, stream: _Stream) -> None:
        self._close_call(stream)
        self._waiting.pop(stream.number, None)
        self._backlog_bytes -= stream.backlog_bytes
        del self._streams[stream.number]
        self._close_if_drained()

    def _close_if_drained(self) -> None:
        if self._is_draining and not self._streams and self._last_served is not None:
            self.is_closing = True
            self._cancel_timer()


def _taken(backlog: deque[bytes | memoryview], room: int) -> list[bytes | memoryview]:
    """Up to ``room`` bytes from the front; what is not whole is cut without copying."""
    pieces: list[bytes | memoryview] = []
    while backlog and room > 0:
        piece = backlog.popleft()
        if len(piece) > room:
            view = memoryview(piece)
            backlog.appendleft(view[room:])
            piece = view[:room]
        pieces.append(piece)
        room -= len(piece)
    return pieces
