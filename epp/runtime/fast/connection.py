"""One HTTP/2 connection with gRPC calls on it, without I/O: bytes in, bytes out.

Place:   fed by epp.runtime.fast.server; opens the Calls of epp.runtime.calls and feeds them.
Ignores: sockets, TLS, what is served.
Rule:    everything a read brings is worked off before the next one, and its answers are one piece of
         output. A fault of the peer ends its stream (StreamFault) or the connection (ConnectionFault),
         never more; every Call is closed exactly once.
Source:  RFC 9113; gRPC over HTTP/2 (PROTOCOL-HTTP2.md).
"""

import logging
import struct
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from epp.core.budget import Budget
from epp.runtime.calls import CallFailed, Code, Services
from epp.runtime.fast import frames, headers
from epp.runtime.fast.frames import HEAD, ConnectionFault, ErrorCode, StreamFault, frame, numbers, require
from epp.runtime.fast.limits import Limits
from epp.runtime.fast.stream import Stream, Timer

logger = logging.getLogger("epp.server")

PREFIX = struct.Struct(">BL")
"""In front of each gRPC message: compressed or not, length."""
_HEAD_AND_PREFIX = struct.Struct(">HBBBLBL")
_NOT_GRPC_TEXT = b"This is a gRPC service: fleet-epp, an endpoint picker for Envoy's ext_proc.\n"
_REMEMBERED_STREAMS = 1_000


class Connection:
    """One peer.

    ``later`` calls a function after some seconds; ``wake`` is called when there is something to
    ``take`` without anything received. ``budget`` lends what messages hold whose rest is on its way.
    """

    def __init__(
        self,
        services: Services,
        limits: Limits,
        *,
        later: Callable[[float, Callable[[], None]], Timer],
        wake: Callable[[], None],
        budget: Budget | None = None,
    ) -> None:
        self.is_closing = False
        """What ``take`` returns next is the last; then the transport is to be closed."""
        self.fault: ConnectionFault | None = None
        """Why it is closing, where the peer is to blame."""
        self._services, self._limits, self._later, self._wake = services, limits, later, wake
        self._budget = Budget(2 * limits.max_receive_bytes) if budget is None else budget
        self._headers = headers.HeaderReader()
        self._streams: dict[int, Stream] = {}
        # The latest streams to end; True: the peer may not use it again. Ordered, since a plain dict is slow
        # to take from at its front (1.0 against 0.3 us, once a request).
        self._gone: OrderedDict[int, bool] = OrderedDict()
        self._last = 0
        self._last_served = frames.LARGEST  # what a GOAWAY promised
        self._is_draining = False
        self._read: Callable[[bytes], int] = self._read_preface
        self._rest = b""
        self._block: tuple[int, int, bytearray] | None = None  # stream, flags, header block so far
        self._receive_window = limits.connection_window
        self._send_window = self._peer_window = frames.DEFAULT_WINDOW
        self._max_frame = frames.MAX_FRAME_SIZES.start  # of those we send
        self._waiting: OrderedDict[int, Stream] = OrderedDict()  # for the connection's window, in turn
        self._backlog_bytes = 0
        self._nuisances = self._nuisance_at = self._now = 0.0
        self._timer: Timer | None = later(limits.handshake_seconds, self._too_slow)
        self._drain_timer: Timer | None = None
        announced = {
            frames.HEADER_TABLE_SIZE: 0,
            frames.MAX_CONCURRENT_STREAMS: limits.streams,
            frames.INITIAL_WINDOW_SIZE: limits.stream_window,
            frames.MAX_FRAME_SIZE: limits.max_frame,
            frames.MAX_HEADER_LIST_SIZE: headers.MAX_LIST_BYTES,
        }
        more = limits.connection_window - frames.DEFAULT_WINDOW
        self._out: list[bytes | memoryview] = [
            frames.settings(announced),
            numbers(frames.WINDOW_UPDATE, 0, more),
        ]
        self._handlers = {
            frames.DATA: self._on_data,
            frames.HEADERS: self._on_headers,
            frames.PRIORITY: self._on_priority,
            frames.RST_STREAM: self._on_reset,
            frames.SETTINGS: self._on_settings,
            frames.PING: self._on_ping,
            frames.WINDOW_UPDATE: self._on_window_update,
            frames.CONTINUATION: self._on_continuation,
        }

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
        if self._is_draining or self.is_closing:
            return
        self._is_draining = True
        if self._read == self._read_preface:  # it has said nothing yet
            self.lost()
            return
        # The final GOAWAY follows when the peer has seen this one, so that no stream on its way is lost; one
        # that does not answer is not waited for.
        self._out.append(numbers(frames.GOAWAY, 0, frames.LARGEST, ErrorCode.NO_ERROR))
        self._out.append(frame(frames.PING, 0, 0, b"draining"))
        self._drain_timer = self._later(self._limits.drain_seconds, self._drained)

    def _drained(self) -> None:
        """From now on a new stream is not served."""
        _stop(self._drain_timer)
        self._drain_timer = None
        if self._last_served == frames.LARGEST:
            self._last_served = self._last
            self._out.append(numbers(frames.GOAWAY, 0, self._last, ErrorCode.NO_ERROR))
            self._close_if_drained()
            self._wake()

    def lost(self) -> None:
        """The transport is gone: close every call."""
        self.is_closing = True
        _stop(self._timer)
        _stop(self._drain_timer)
        self._timer = self._drain_timer = None
        while self._streams:
            self._forget(next(iter(self._streams.values())))

    def _fail(self, fault: ConnectionFault) -> None:
        self.fault = fault
        text = str(fault).encode()[:256]
        payload = self._last.to_bytes(4, "big") + fault.code.to_bytes(4, "big") + text
        self._out.append(frame(frames.GOAWAY, 0, 0, payload))
        self.lost()

    def _too_slow(self) -> None:
        self._timer = None
        self._fail(ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "too slow"))
        self._wake()

    def _nuisance(self, count: int = 1) -> None:
        """Count what costs us something and does nothing for the peer."""
        passed, self._nuisance_at = self._now - self._nuisance_at, self._now
        self._nuisances = max(self._nuisances - passed * self._limits.nuisances_per_second, 0.0) + count
        calm = self._nuisances <= self._limits.nuisances
        require(calm, ErrorCode.ENHANCE_YOUR_CALM, "too many frames without work in them")

    # --- reading ---

    def _read_preface(self, data: bytes) -> int:
        size = len(frames.PREFACE)
        good = data[:size] == frames.PREFACE[: len(data)]
        require(good, ErrorCode.PROTOCOL_ERROR, "no HTTP/2 preface")
        if len(data) < size + HEAD.size:
            return 0
        good = data[size + 3] == frames.SETTINGS and not data[size + 4] & frames.ACK
        require(good, ErrorCode.PROTOCOL_ERROR, "SETTINGS must come first")
        _stop(self._timer)
        self._timer = None
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
            end = at + 9 + length
            if end > size:
                break
            try:
                if kind != frames.DATA or self._block is not None:
                    self._check(kind, number & frames.LARGEST, length)
                handler = self._handlers.get(kind)
                if handler is None:  # GOAWAY: the peer closes when its streams have ended; or from the future
                    self._nuisance()
                else:
                    handler(flags, number & frames.LARGEST, data, at + 9, end)
            except StreamFault as fault:
                self._refuse(fault)
            if self.is_closing:
                return size
            at = end
        return at

    def _check(self, kind: int, number: int, size: int) -> None:
        whole = self._block is None or kind == frames.CONTINUATION
        require(whole, ErrorCode.PROTOCOL_ERROR, "a header block is interrupted")
        frames.check(kind, number, size)

    def _on_data(self, flags: int, number: int, data: bytes, at: int, end: int) -> None:
        size = end - at
        self._receive_window -= size
        if self._receive_window < self._limits.connection_window // 2:
            require(self._receive_window >= 0, ErrorCode.FLOW_CONTROL_ERROR, "connection window")
            self._credit()
        stream = self._streams.get(number)
        if stream is None or stream.has_ended:
            self._on_late(number)
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
        stream.has_ended = bool(flags & frames.END_STREAM)
        if stream.call is not None:
            self._on_messages(stream, data, at, end)
        if stream.ending is not None:
            return
        if stream.has_ended:
            self._on_end(stream)
        elif stream.receive_window < self._limits.stream_window // 2:
            self._credit_stream(stream)

    def _on_late(self, number: int) -> None:
        """DATA for a stream that is not open for it."""
        self._check_seen(number)
        if self._gone.get(number, True):
            raise StreamFault(number, ErrorCode.STREAM_CLOSED)
        self._nuisance()

    def _check_seen(self, number: int) -> None:
        seen = 0 < number <= self._last and number % 2 == 1
        require(seen, ErrorCode.PROTOCOL_ERROR, f"a frame for stream {number}, which is idle")

    def _on_messages(self, stream: Stream, data: bytes, at: int, end: int) -> None:
        """Hand over the whole messages, keep the rest."""
        if stream.partial:
            self._keep(stream, data[at:end])
            if len(stream.partial) < stream.wanted or stream.ending is not None:
                return
            data, at, end = bytes(stream.partial), 0, len(stream.partial)
            stream.partial = bytearray()
            self._budget.give_back(end)
        stream.wanted = PREFIX.size
        while end - at >= 5 and stream.ending is None and (call := stream.call) is not None:
            compressed, length = PREFIX.unpack_from(data, at)
            stop = at + 5 + length
            try:
                if compressed or length > self._limits.max_receive_bytes:
                    self._refuse_message(stream, length)
                if stop > end:
                    stream.wanted = 5 + length
                    break
                answers = call.receive(data[at + 5 : stop])
                if answers and stream.ending is None:
                    self._send(stream, answers)
                self._nuisances -= 1.0  # a stream with work in it may be reset
                if call.is_over and stream.ending is None:
                    self._finish(stream)
            except Exception as failure:  # noqa: BLE001 (one stream's failure; _on_failure logs a defect)
                self._on_failure(stream, failure)
            at = stop
        if at < end and stream.ending is None:
            self._keep(stream, data[at:end])

    def _keep(self, stream: Stream, rest: bytes) -> None:
        """The rest of a message is on its way."""
        if self._budget.take(len(rest)):
            stream.partial += rest
        else:
            self._finish(stream, Code.RESOURCE_EXHAUSTED, "too many bytes of requests are held already")

    def _refuse_message(self, stream: Stream, length: int) -> None:
        most = self._limits.max_receive_bytes
        if length > most:
            raise CallFailed(Code.RESOURCE_EXHAUSTED, f"a message of {length} bytes; {most} are allowed")
        code = Code.UNIMPLEMENTED if stream.opening.names_encoding else Code.INTERNAL
        raise CallFailed(code, "compressed messages are not supported")

    def _on_failure(self, stream: Stream, failure: Exception) -> None:
        known = failure if isinstance(failure, CallFailed) else None
        if known is None:
            logger.error("a call failed", exc_info=failure)
            known = CallFailed(Code.INTERNAL, "the service failed")
        if stream.ending is None:
            self._finish(stream, known.code, str(known))

    def _on_headers(self, flags: int, number: int, data: bytes, at: int, end: int) -> None:
        require(number % 2 == 1, ErrorCode.PROTOCOL_ERROR, f"HEADERS on stream {number}")
        at, end = frames.unpadded(flags, data, at, end)
        if flags & frames.PRIORITIZED:
            require(end - at >= 5, ErrorCode.FRAME_SIZE_ERROR, "no room for the priority")
            itself = frames.depends_on(data, at) == number
            require(not itself, ErrorCode.PROTOCOL_ERROR, "a stream depends on itself")
            at += 5
        if flags & frames.END_HEADERS:
            self._on_block(number, flags, data[at:end])
        else:
            self._block = (number, flags, bytearray(data[at:end]))
            self._timer = self._later(self._limits.handshake_seconds, self._too_slow)

    def _on_continuation(self, flags: int, number: int, data: bytes, at: int, end: int) -> None:
        if self._block is None or self._block[0] != number:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "CONTINUATION of nothing")
        _, first_flags, block = self._block
        block += data[at:end]
        # A block may not be longer than what it stands for.
        require(len(block) <= headers.MAX_LIST_BYTES, ErrorCode.ENHANCE_YOUR_CALM, "header list too large")
        self._nuisance()
        if flags & frames.END_HEADERS:
            self._block = None
            _stop(self._timer)
            self._timer = None
            self._on_block(number, first_flags, bytes(block))

    def _on_block(self, number: int, flags: int, block: bytes) -> None:
        """A whole header block. It is read in any case: blocks share a table."""
        read = self._headers.read(block)
        stream = self._streams.get(number)
        if number > self._last:
            self._last = number
            if read.opening is None:
                raise StreamFault(number, ErrorCode.PROTOCOL_ERROR)
            self._open(number, read.opening, ended=bool(flags & frames.END_STREAM))
        elif stream is None or stream.has_ended:
            require(number in self._gone, ErrorCode.PROTOCOL_ERROR, f"stream {number} after {self._last}")
            require(not self._gone[number], ErrorCode.STREAM_CLOSED, f"stream {number} has ended")
            self._nuisance()
        elif not flags & frames.END_STREAM or not read.are_trailers:
            raise StreamFault(number, ErrorCode.PROTOCOL_ERROR)
        else:
            stream.has_ended = True
            if stream.ending is None:
                self._on_end(stream)

    def _open(self, number: int, opening: headers.Opening, *, ended: bool) -> None:
        if number > self._last_served:
            return  # the peer has been told that these are not served
        if len(self._streams) >= self._limits.streams:
            raise StreamFault(number, ErrorCode.REFUSED_STREAM)
        window, length = self._limits.stream_window, opening.content_length
        stream = Stream(number, window, self._peer_window, length, opening)
        self._streams[number] = stream
        stream.has_ended = ended
        if opening.is_grpc:
            self._begin(stream, opening)
        if ended and stream.ending is None:
            self._on_end(stream)

    def _begin(self, stream: Stream, opening: headers.Opening) -> None:
        try:
            opened = self._services.get(opening.path)
            if opened is None:
                raise CallFailed(Code.UNIMPLEMENTED, f"unknown method {opening.path}")
            stream.call = opened(partial(self._push, stream))
        except Exception as failure:  # noqa: BLE001 (one stream's failure; _on_failure logs a defect)
            self._on_failure(stream, failure)
        else:
            if opening.timeout is not None:
                stream.timer = self._later(opening.timeout, partial(self._expired, stream))

    def _on_end(self, stream: Stream) -> None:
        """The peer has said all it will say."""
        if stream.announced:
            raise StreamFault(stream.number, ErrorCode.PROTOCOL_ERROR)
        if not stream.opening.is_grpc:  # told only now: whoever asks may not listen before
            self._out.append(frame(frames.HEADERS, frames.END_HEADERS, stream.number, headers.NOT_GRPC))
            self._backlog_bytes += stream.put_off(_NOT_GRPC_TEXT)
            stream.ending = frame(frames.DATA, frames.END_STREAM, stream.number)
            self._flush(stream)
        elif stream.partial:
            self._finish(stream, Code.INTERNAL, "the stream ended inside a message")
        elif stream.call is not None and not stream.call.is_waiting:
            self._finish(stream)

    def _on_priority(self, flags: int, number: int, data: bytes, at: int, end: int) -> None:
        if end - at != 5:
            raise StreamFault(number, ErrorCode.FRAME_SIZE_ERROR)
        if frames.depends_on(data, at) == number:
            raise StreamFault(number, ErrorCode.PROTOCOL_ERROR)
        self._nuisance()

    def _on_reset(self, flags: int, number: int, data: bytes, at: int, end: int) -> None:
        self._check_seen(number)
        self._nuisance()  # a stream opened only to be reset costs us more than it costs the peer
        stream = self._streams.get(number)
        if stream is not None:
            stream.has_ended = True
            self._forget(stream)

    def _on_settings(self, flags: int, number: int, data: bytes, at: int, end: int) -> None:
        if flags & frames.ACK:
            require(at == end, ErrorCode.FRAME_SIZE_ERROR, "an acknowledgement with settings")
            self._nuisance()
            self._headers.table_is_gone()
            return
        require((end - at) % 6 == 0, ErrorCode.FRAME_SIZE_ERROR, "SETTINGS")
        values = list(frames.SETTING.iter_unpack(data[at:end]))
        self._nuisance(1 + len(values))
        for setting in values:
            frames.check_setting(*setting)
        self._adopt(dict(values))
        # A peer enforces its old windows until it reads this: what the new ones allow comes behind it.
        self._out.append(frame(frames.SETTINGS, frames.ACK, 0))
        self._flush_all()

    def _adopt(self, settings: Mapping[int, int]) -> None:
        self._max_frame = min(settings.get(frames.MAX_FRAME_SIZE, self._max_frame), self._limits.max_frame)
        before = self._peer_window
        self._peer_window = settings.get(frames.INITIAL_WINDOW_SIZE, before)
        if self._peer_window != before:
            self._nuisance(len(self._streams) // 20)  # each is visited
            for stream in self._streams.values():
                stream.send_window += self._peer_window - before
                fits = stream.send_window <= frames.LARGEST
                require(fits, ErrorCode.FLOW_CONTROL_ERROR, "INITIAL_WINDOW_SIZE")
                if stream.backlog:
                    self._waiting[stream.number] = stream

    def _on_ping(self, flags: int, number: int, data: bytes, at: int, end: int) -> None:
        self._nuisance()
        if not flags & frames.ACK:
            self._out.append(frame(frames.PING, frames.ACK, 0, data[at:end]))
        elif self._is_draining:
            self._drained()

    def _on_window_update(self, flags: int, number: int, data: bytes, at: int, end: int) -> None:
        increment = int.from_bytes(data[at:end], "big") & frames.LARGEST
        if number == 0:
            self._send_window += increment
            require(increment > 0, ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE of 0")
            require(self._send_window <= frames.LARGEST, ErrorCode.FLOW_CONTROL_ERROR, "connection window")
            self._flush_all()
        elif (stream := self._streams.get(number)) is None:
            self._check_seen(number)
            self._nuisance()  # it may have ended while this was on its way
        else:
            stream.send_window += increment
            if not increment:
                raise StreamFault(number, ErrorCode.PROTOCOL_ERROR)
            if stream.send_window > frames.LARGEST:
                raise StreamFault(number, ErrorCode.FLOW_CONTROL_ERROR)
            self._flush(stream)

    # --- flow control: what the peer may send ---

    def _credit(self) -> None:
        """Give the connection's window back, in large steps; not while too many answers wait."""
        owed = self._limits.connection_window - self._receive_window
        if owed > self._limits.connection_window // 2 and self._backlog_bytes < self._limits.backlog:
            self._receive_window += owed
            self._out.append(numbers(frames.WINDOW_UPDATE, 0, owed))

    def _credit_stream(self, stream: Stream) -> None:
        owed = self._limits.stream_window - stream.receive_window
        if owed > self._limits.stream_window // 2 and stream.backlog_bytes < self._limits.stream_backlog:
            stream.receive_window += owed
            self._out.append(numbers(frames.WINDOW_UPDATE, stream.number, owed))

    # --- writing ---

    def _send(self, stream: Stream, answers: Sequence[bytes]) -> None:
        """Answers to the peer, as far as its windows allow; the rest waits."""
        out, number, most = self._out, stream.number, self._limits.max_send_bytes
        if most is not None and max(map(len, answers)) > most:
            raise CallFailed(Code.RESOURCE_EXHAUSTED, f"an answer of more than {most} bytes")
        if not stream.has_headers:
            stream.has_headers = True
            out.append(frame(frames.HEADERS, frames.END_HEADERS, number, headers.RESPONSE))
        for answer in answers:
            size = 5 + len(answer)
            if stream.backlog or size > min(stream.send_window, self._send_window, self._max_frame):
                self._backlog_bytes += stream.put_off(PREFIX.pack(0, len(answer)), answer)
            else:
                stream.send_window -= size
                self._send_window -= size
                out.append(_HEAD_AND_PREFIX.pack(size >> 8, size & 255, frames.DATA, 0, number, 0, size - 5))
                out.append(answer)
        if stream.backlog:
            self._flush(stream)
        elif stream.call is not None:
            stream.call.delivered()

    def _flush_all(self) -> None:
        """Share the connection's window out, the stream that has waited longest first."""
        while self._waiting and self._send_window > 0:
            self._flush(self._waiting.popitem(last=False)[1])

    def _flush(self, stream: Stream) -> None:
        """Send of the backlog what the windows allow now."""
        if not stream.backlog:
            return
        while stream.backlog:
            room = min(stream.send_window, self._send_window, self._max_frame)
            if room <= 0:
                if stream.send_window > 0:
                    self._waiting[stream.number] = stream
                return
            pieces, size = stream.taken(room)
            stream.send_window -= size
            self._send_window -= size
            self._backlog_bytes -= size
            self._out += (HEAD.pack(size >> 8, size & 0xFF, frames.DATA, 0, stream.number), *pieces)
        self._waiting.pop(stream.number, None)
        self._credit()
        if stream.call is not None:
            stream.call.delivered()
            self._credit_stream(stream)
        if stream.ending is not None:
            self._end(stream)

    def _push(self, stream: Stream, answers: Sequence[bytes]) -> None:
        """Answers from an event of the service's own."""
        call = stream.call
        if stream.ending is not None or self.is_closing:
            return
        if call is None:
            raise RuntimeError("a call pushes before it is open")
        try:
            if answers:
                self._send(stream, answers)
            if call.is_over or (stream.has_ended and not call.is_waiting):
                self._finish(stream)
        except CallFailed as failure:
            self._on_failure(stream, failure)
        self._wake()

    # --- the end of a stream ---

    def _finish(self, stream: Stream, code: Code = Code.OK, message: str = "") -> None:
        """End the stream with a status: when its answers are out, or at once where it failed."""
        if code is not Code.OK:
            self._drop_backlog(stream)
        block = headers.OK if code is Code.OK else headers.failure(code, message)
        if not stream.has_headers:
            block = headers.RESPONSE + block
        flags = frames.END_STREAM | frames.END_HEADERS
        stream.ending = frame(frames.HEADERS, flags, stream.number, block)
        if not stream.backlog:
            self._end(stream)

    def _end(self, stream: Stream) -> None:
        assert stream.ending is not None  # set by whoever ends it
        self._out.append(stream.ending)
        if not stream.has_ended:  # we need nothing more of it: the peer may stop sending
            self._out.append(numbers(frames.RST_STREAM, stream.number, ErrorCode.NO_ERROR))
        self._forget(stream)

    def _drop_backlog(self, stream: Stream) -> None:
        if not stream.backlog:
            return
        self._backlog_bytes -= stream.backlog_bytes
        stream.backlog_bytes = 0
        stream.backlog.clear()
        self._waiting.pop(stream.number, None)
        self._credit()

    def _expired(self, stream: Stream) -> None:
        stream.timer = None
        self._finish(stream, Code.DEADLINE_EXCEEDED, "the deadline of the request has passed")
        self._wake()

    def _refuse(self, fault: StreamFault) -> None:
        """Reset a stream for its peer's fault; one that is idle cannot be reset (RFC 9113, 6.4)."""
        if fault.stream > self._last or fault.stream % 2 == 0:
            raise ConnectionFault(fault.code, f"a fault on stream {fault.stream}, which is idle")
        self._nuisance()
        self._out.append(numbers(frames.RST_STREAM, fault.stream, fault.code))
        stream = self._streams.get(fault.stream)
        if stream is None:
            self._remember(fault.stream, ended_by_peer=False)
        else:
            self._forget(stream)

    def _remember(self, number: int, *, ended_by_peer: bool) -> None:
        self._gone[number] = ended_by_peer
        if len(self._gone) > _REMEMBERED_STREAMS:
            self._gone.popitem(last=False)

    def _forget(self, stream: Stream) -> None:
        self._close_call(stream)
        stream.ending = stream.ending or b""
        self._remember(stream.number, ended_by_peer=stream.has_ended)
        self._drop_backlog(stream)
        self._budget.give_back(len(stream.partial))
        stream.partial = bytearray()
        del self._streams[stream.number]
        self._close_if_drained()

    def _close_call(self, stream: Stream) -> None:
        call, stream.call = stream.call, None
        _stop(stream.timer)
        stream.timer = None
        if call is not None:
            try:
                call.close()
            except Exception:  # a defect of the service must not end its neighbours' streams
                logger.exception("closing a call failed")

    def _close_if_drained(self) -> None:
        if not self._streams and self._last_served < frames.LARGEST:
            self.lost()


def _stop(timer: Timer | None) -> None:
    if timer is not None:
        timer.cancel()
