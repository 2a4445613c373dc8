"""One HTTP/2 connection with gRPC calls on it, without I/O: bytes in, bytes out.

Place:   fed by epp.runtime.fast.server; opens the Calls of epp.runtime.calls and feeds them.
Ignores: sockets, TLS, what is served.
Rule:    everything a read brings is worked off before the next one, and its answers are one piece of
         output. A Fault of the peer ends its stream or the connection, never more; every Call is closed
         exactly once.
Source:  RFC 9113; gRPC over HTTP/2 (PROTOCOL-HTTP2.md).
"""

import logging
import struct
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial

from epp.core.budget import Budget
from epp.runtime.calls import Call, CallFailed, Code, Services
from epp.runtime.fast import frames, headers
from epp.runtime.fast.frames import HEAD, ErrorCode, Fault, frame, numbers, require
from epp.runtime.fast.limits import Limits
from epp.runtime.fast.stream import Flow, Later, Stream, Timer

logger = logging.getLogger("epp.server")

PREFIX = struct.Struct(">BL")
"""In front of each gRPC message: compressed or not, length."""
_HEAD_AND_PREFIX = struct.Struct(">HBBBLBL")
_NOT_GRPC_TEXT = b"This is a gRPC service: fleet-epp, an endpoint picker for Envoy's ext_proc.\n"
_REMEMBERED_STREAMS = 1_000
_USEFUL = {frames.DATA, frames.HEADERS, frames.WINDOW_UPDATE}
"""Every other frame is a nuisance: GOAWAY too, since the peer closes by itself when its streams have ended,
and those from the future. A stream opened only to be reset costs us more than it costs the peer."""


class Connection:
    """One peer.

    ``later`` calls a function after some seconds; ``wake`` is called when there is something to
    ``take`` without anything received. ``budget`` lends what messages hold whose rest is on its way.
    """

    def __init__(
        self, services: Services, limits: Limits, *, later: Later, wake: Callable[[], None], budget: Budget
    ) -> None:
        self.is_closing = False
        """What ``take`` returns next is the last; then the transport is to be closed."""
        self.fault: Fault | None = None
        """Why it is closing, where the peer is to blame."""
        self._services, self._limits, self._budget = services, limits, budget
        self._later, self._wake = later, wake
        self._headers = headers.HeaderReader()
        self._streams: dict[int, Stream] = {}
        # The latest streams to end; True: the peer may not use it again. Ordered, since a plain dict is slow
        # to take from at its front (1.0 against 0.3 us, once a request).
        self._gone: OrderedDict[int, bool] = OrderedDict()
        self._last = 0
        self._last_served = frames.LARGEST  # what a GOAWAY promised
        self._read: Callable[[bytes], int] = self._read_preface
        self._rest = b""
        self._block_of = self._block_flags = 0  # stream (0: none) and flags of a header block that has begun
        self._block = bytearray()
        window = limits.connection_window
        self._whole = Flow(0, window, limits.backlog, frames.DEFAULT_WINDOW)
        self._peer_window = frames.DEFAULT_WINDOW  # of a new stream
        self._max_frame = frames.MAX_FRAME_SIZES.start  # of those we send
        self._waiting: OrderedDict[int, Stream] = OrderedDict()  # for the connection's window, in turn
        self._nuisances = self._nuisance_at = self._now = 0.0
        self._timer = later(limits.handshake_seconds, self._too_slow)
        self._drain_timer: Timer | None = None
        announced = {
            frames.HEADER_TABLE_SIZE: 0,
            frames.MAX_CONCURRENT_STREAMS: limits.streams,
            frames.INITIAL_WINDOW_SIZE: limits.stream_window,
            frames.MAX_FRAME_SIZE: limits.max_frame,
            frames.MAX_HEADER_LIST_SIZE: headers.MAX_LIST_BYTES,
        }
        more = numbers(frames.WINDOW_UPDATE, 0, window - frames.DEFAULT_WINDOW)
        self._out: list[bytes | memoryview] = [frames.settings(announced), more]
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

    def receive(self, data: bytes, now: float) -> None:
        """Work off what came at ``now`` [s, monotonic]."""
        if self.is_closing:
            return
        self._now = now
        if self._rest:
            data = self._rest + data
        try:
            self._rest = data[self._read(data) :]
        except Fault as fault:
            self._fail(fault)

    def take(self) -> bytes:
        """What is to be sent, once."""
        out = b"".join(self._out)
        self._out.clear()
        return out

    def drain(self) -> None:
        """No new streams; ``is_closing`` once those that are open have ended."""
        if self._read == self._read_preface:  # it has said nothing yet
            self.lost()
        if self.is_closing or self._drain_timer is not None:
            return
        # The final GOAWAY follows when the peer has seen this one, so that no stream on its way is lost; one
        # that does not answer is not waited for.
        self._out.append(numbers(frames.GOAWAY, 0, frames.LARGEST, ErrorCode.NO_ERROR))
        self._out.append(frame(frames.PING, 0, 0, b"draining"))
        self._drain_timer = self._later(self._limits.drain_seconds, self._drained)

    def _drained(self) -> None:
        """From now on a new stream is not served."""
        if self._last_served == frames.LARGEST:
            self._last_served = self._last
            self._out.append(numbers(frames.GOAWAY, 0, self._last, ErrorCode.NO_ERROR))
            self._close_if_drained()
            self._wake()

    def _close_if_drained(self) -> None:
        if not self._streams and self._last_served < frames.LARGEST:
            self.lost()

    def lost(self) -> None:
        """The transport is gone: close every call."""
        self.is_closing = True
        self._timer.cancel()
        if self._drain_timer is not None:
            self._drain_timer.cancel()
        for stream in list(self._streams.values()):
            self._forget(stream)

    def _fail(self, fault: Fault) -> None:
        self.fault = fault
        numbered, text = struct.pack(">LL", self._last, fault.code), str(fault).encode()[:256]
        self._out.append(frame(frames.GOAWAY, 0, 0, numbered + text))
        self.lost()

    def _too_slow(self) -> None:
        self._fail(Fault(ErrorCode.ENHANCE_YOUR_CALM, "too slow"))
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
        self._timer.cancel()
        self._read = self._read_frames
        return self._read_frames(data, size)

    def _read_frames(self, data: bytes, at: int = 0) -> int:
        """Work off the whole frames in ``data``; returns where the rest begins."""
        size, largest = len(data), self._limits.max_frame
        while size - at >= 9:
            high, low, kind, flags, number = HEAD.unpack_from(data, at)
            length = high << 8 | low
            if length > largest:
                raise Fault(ErrorCode.FRAME_SIZE_ERROR, f"a frame of {length} bytes")
            end = at + 9 + length
            if end > size:
                break
            number &= frames.LARGEST
            try:
                if kind != frames.DATA or self._block_of:
                    self._check(kind, number, length)
                handler = self._handlers.get(kind)
                if handler is not None:
                    handler(flags, number, data, at + 9, end)
            except Fault as fault:
                self._refuse(fault)
            if self.is_closing:
                return size
            at = end
        return at

    def _check(self, kind: int, number: int, size: int) -> None:
        """What needs no look into the payload; only DATA outside of a header block is spared it."""
        if self._block_of or kind == frames.CONTINUATION:
            goes_on = kind == frames.CONTINUATION and number == self._block_of
            require(goes_on, ErrorCode.PROTOCOL_ERROR, "a header block is interrupted, or there is none")
        frames.check(kind, number, size)
        if kind not in _USEFUL:
            self._nuisance()

    def _find(self, number: int) -> Stream | None:
        """A stream that has been opened; None: it is over."""
        stream = self._streams.get(number)
        if stream is None:
            seen = number <= self._last and number % 2 == 1
            require(seen, ErrorCode.PROTOCOL_ERROR, "a frame for a stream that is idle")
        return stream

    def _on_data(self, flags: int, number: int, data: bytes, at: int, end: int) -> None:
        size, whole = end - at, self._whole
        whole.owed += size
        if whole.owed * 2 > whole.window:
            require(whole.owed <= whole.window, ErrorCode.FLOW_CONTROL_ERROR, "connection window")
            self._credit(whole)
        stream = self._streams.get(number)
        if stream is None or stream.has_ended:
            self._on_late(number)
            return
        stream.owed += size
        if stream.owed > stream.window:
            raise Fault(ErrorCode.FLOW_CONTROL_ERROR, "stream window", number)
        if flags & frames.PADDED:
            at, end = frames.unpadded(flags, data, at, end)
        stream.has_ended = bool(flags & frames.END_STREAM)
        if at == end and not stream.has_ended:
            self._nuisance()
        if stream.announced is not None:
            stream.announced -= end - at
            require(stream.announced >= 0, ErrorCode.PROTOCOL_ERROR, "more than content-length", number)
        if stream.call is not None:
            self._on_messages(stream, stream.call, data, at, end)
        if stream.has_ended:
            self._on_end(stream)
        elif stream.owed * 2 > stream.window and stream.ending is None:
            self._credit(stream)

    def _on_late(self, number: int) -> None:
        """DATA for a stream that is not open for it: on its way when we ended it, or the peer's fault."""
        self._find(number)
        require(not self._gone.get(number, True), ErrorCode.STREAM_CLOSED, "DATA after the end", number)
        self._nuisance()

    def _on_messages(self, stream: Stream, call: Call, data: bytes, at: int, end: int) -> None:
        """Hand over the whole messages, keep the rest."""
        try:
            if stream.partial:
                self._keep(stream, data[at:end])
                if len(stream.partial) < stream.wanted:
                    return
                data, at, end = bytes(stream.partial), 0, len(stream.partial)
                stream.partial = bytearray()
                self._budget.give_back(end)
            stream.wanted = 5
            while end - at >= 5 and stream.ending is None:
                compressed, length = PREFIX.unpack_from(data, at)
                stop = at + 5 + length
                if compressed or length > self._limits.max_receive_bytes:
                    self._refuse_message(stream, length)
                if stop > end:
                    stream.wanted = 5 + length
                    break
                answers = call.receive(data[at + 5 : stop])
                if answers and stream.ending is None:
                    self._send(stream, answers)
                self._nuisances -= 1.0  # a stream with work in it may be reset
                if call.is_over:
                    self._finish(stream)
                at = stop
            if at < end and stream.ending is None:
                self._keep(stream, data[at:end])
        except Exception as failure:  # noqa: BLE001 (one stream's failure; _on_failure logs a defect)
            self._on_failure(stream, failure)

    def _keep(self, stream: Stream, rest: bytes) -> None:
        """The rest of a message is on its way."""
        if not self._budget.take(len(rest)):
            raise CallFailed(Code.RESOURCE_EXHAUSTED, "too many bytes of requests are held already")
        stream.partial += rest

    def _refuse_message(self, stream: Stream, length: int) -> None:
        most = self._limits.max_receive_bytes
        if length > most:
            raise CallFailed(Code.RESOURCE_EXHAUSTED, f"a message of {length} bytes; {most} are allowed")
        code = Code.UNIMPLEMENTED if stream.opening.names_encoding else Code.INTERNAL
        raise CallFailed(code, "compressed messages are not supported")

    def _on_failure(self, stream: Stream, failure: Exception) -> None:
        if not isinstance(failure, CallFailed):
            logger.error("a call failed", exc_info=failure)
            failure = CallFailed(Code.INTERNAL, "the service failed")
        self._finish(stream, failure.code, str(failure))

    def _on_headers(self, flags: int, number: int, data: bytes, at: int, end: int) -> None:
        require(number % 2 == 1, ErrorCode.PROTOCOL_ERROR, "HEADERS on a stream that is not the peer's")
        at, end = frames.unpadded(flags, data, at, end)
        if flags & frames.PRIORITIZED:
            require(end - at >= 5, ErrorCode.FRAME_SIZE_ERROR, "no room for the priority")
            itself = frames.depends_on(data, at) == number
            require(not itself, ErrorCode.PROTOCOL_ERROR, "a stream depends on itself")
            at += 5
        if flags & frames.END_HEADERS:
            self._on_block(number, flags, data[at:end])
        else:
            self._block_of, self._block_flags, self._block = number, flags, bytearray(data[at:end])
            self._timer = self._later(self._limits.handshake_seconds, self._too_slow)

    def _on_continuation(self, flags: int, number: int, data: bytes, at: int, end: int) -> None:
        self._block += data[at:end]
        # A block may not be longer than what it stands for.
        fits = len(self._block) <= headers.MAX_LIST_BYTES
        require(fits, ErrorCode.ENHANCE_YOUR_CALM, "header list too large")
        if flags & frames.END_HEADERS:
            self._block_of = 0
            self._timer.cancel()
            self._on_block(number, self._block_flags, bytes(self._block))

    def _on_block(self, number: int, flags: int, block: bytes) -> None:
        """A whole header block. It is read in any case: blocks share a table."""
        opening, ended = self._headers.read(block), bool(flags & frames.END_STREAM)
        stream = self._streams.get(number)
        if number > self._last:
            self._last = number
            if opening is None or opening is headers.TRAILERS:
                raise Fault(ErrorCode.PROTOCOL_ERROR, "a malformed request", number)
            self._open(number, opening, ended=ended)
        elif stream is None or stream.has_ended:
            known = stream is not None or number in self._gone
            require(known, ErrorCode.PROTOCOL_ERROR, "a stream is opened behind a later one")
            require(not self._gone.get(number, True), ErrorCode.STREAM_CLOSED, "HEADERS after the end")
            self._nuisance()
        else:
            good = ended and opening is headers.TRAILERS
            require(good, ErrorCode.PROTOCOL_ERROR, "malformed trailers", number)
            stream.has_ended = True
            self._on_end(stream)

    def _open(self, number: int, opening: headers.Opening, *, ended: bool) -> None:
        if number > self._last_served:
            return  # the peer has been told that these are not served
        limits, length = self._limits, opening.content_length
        if len(self._streams) >= limits.streams:
            raise Fault(ErrorCode.REFUSED_STREAM, "too many streams", number)
        window, backlog = limits.stream_window, limits.stream_backlog
        stream = Stream(number, window, backlog, self._peer_window, opening, length, ended)
        self._streams[number] = stream
        if opening.is_grpc:
            self._begin(stream, opening)
        if ended:
            self._on_end(stream)

    def _begin(self, stream: Stream, opening: headers.Opening) -> None:
        try:
            opened = self._services.get(opening.path)
            if opened is None:
                raise CallFailed(Code.UNIMPLEMENTED, f"unknown method {opening.path}")
            if opening.timeout is not None:
                stream.timer = self._later(opening.timeout, partial(self._expired, stream))
            stream.call = opened(partial(self._push, stream))
        except Exception as failure:  # noqa: BLE001 (one stream's failure; _on_failure logs a defect)
            self._on_failure(stream, failure)

    def _on_end(self, stream: Stream) -> None:
        """The peer has said all it will say."""
        if stream.ending is not None:
            return
        if stream.announced:
            raise Fault(ErrorCode.PROTOCOL_ERROR, "less than content-length", stream.number)
        if not stream.opening.is_grpc:  # told only now: whoever asks may not listen before
            self._out.append(frame(frames.HEADERS, frames.END_HEADERS, stream.number, headers.NOT_GRPC))
            self._whole.backlog_bytes += stream.put_off(_NOT_GRPC_TEXT)
            stream.ending = frame(frames.DATA, frames.END_STREAM, stream.number)
            self._flush(stream)
        elif stream.partial:
            self._finish(stream, Code.INTERNAL, "the stream ended inside a message")
        elif stream.call is not None and not stream.call.is_waiting:
            self._finish(stream)

    def _on_priority(self, flags: int, number: int, data: bytes, at: int, end: int) -> None:
        require(end - at == 5, ErrorCode.FRAME_SIZE_ERROR, "PRIORITY of a wrong size", number)
        itself = frames.depends_on(data, at) == number
        require(not itself, ErrorCode.PROTOCOL_ERROR, "a stream depends on itself", number)

    def _on_reset(self, flags: int, number: int, data: bytes, at: int, end: int) -> None:
        stream = self._find(number)
        if stream is not None:
            stream.has_ended = True
            self._forget(stream)

    def _on_settings(self, flags: int, number: int, data: bytes, at: int, end: int) -> None:
        if flags & frames.ACK:
            require(at == end, ErrorCode.FRAME_SIZE_ERROR, "an acknowledgement with settings")
            self._headers.table_is_gone()
            return
        self._nuisance((end - at) // frames.SETTING.size)
        settings = frames.read_settings(data[at:end])
        self._max_frame = min(settings.get(frames.MAX_FRAME_SIZE, self._max_frame), self._limits.max_frame)
        self._widen(settings.get(frames.INITIAL_WINDOW_SIZE, self._peer_window) - self._peer_window)
        # A peer enforces its old windows until it reads this: what the new ones allow comes behind it.
        self._out.append(frame(frames.SETTINGS, frames.ACK, 0))
        self._flush_all()

    def _widen(self, change: int) -> None:
        """The window of every stream, also of those to come, changes."""
        if change:
            self._peer_window += change
            self._nuisance(len(self._streams) // 20)  # each is visited
            for stream in self._streams.values():
                stream.send_window += change
                fits = stream.send_window <= frames.LARGEST
                require(fits, ErrorCode.FLOW_CONTROL_ERROR, "INITIAL_WINDOW_SIZE")
                if stream.backlog:
                    self._waiting[stream.number] = stream

    def _on_ping(self, flags: int, number: int, data: bytes, at: int, end: int) -> None:
        if not flags & frames.ACK:
            self._out.append(frame(frames.PING, frames.ACK, 0, data[at:end]))
        elif self._drain_timer is not None:
            self._drained()

    def _on_window_update(self, flags: int, number: int, data: bytes, at: int, end: int) -> None:
        increment = int.from_bytes(data[at:end], "big") & frames.LARGEST
        flow = self._find(number) if number else self._whole
        if flow is None:
            self._nuisance()  # it may have ended while this was on its way
            return
        flow.send_window += increment
        require(increment > 0, ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE of 0", number)
        require(flow.send_window <= frames.LARGEST, ErrorCode.FLOW_CONTROL_ERROR, "send window", number)
        if isinstance(flow, Stream):
            self._flush(flow)
        else:
            self._flush_all()

    # --- writing ---

    def _credit(self, flow: Flow) -> None:
        """The peer may send more."""
        owed = flow.give_back()
        if owed:
            self._out.append(numbers(frames.WINDOW_UPDATE, flow.number, owed))

    def _send(self, stream: Stream, answers: Sequence[bytes]) -> None:
        """Answers to the peer, as far as its windows allow; the rest waits."""
        out, number, whole, most = self._out, stream.number, self._whole, self._limits.max_send_bytes
        if most is not None and max(map(len, answers)) > most:
            raise CallFailed(Code.RESOURCE_EXHAUSTED, f"an answer of more than {most} bytes")
        if stream.head:
            out.append(frame(frames.HEADERS, frames.END_HEADERS, number, stream.head))
            stream.head = b""
        for answer in answers:
            size = 5 + len(answer)
            fits = size <= stream.send_window and size <= whole.send_window and size <= self._max_frame
            if stream.backlog or not fits:
                whole.backlog_bytes += stream.put_off(PREFIX.pack(0, len(answer)), answer)
            else:
                stream.send_window -= size
                whole.send_window -= size
                head = _HEAD_AND_PREFIX.pack(size >> 8, size & 255, frames.DATA, 0, number, 0, size - 5)
                out += (head, answer)
        if stream.backlog:
            self._flush(stream)
        elif stream.call is not None:
            stream.call.delivered()

    def _flush_all(self) -> None:
        """Share the connection's window out, the stream that has waited longest first."""
        while self._waiting and self._whole.send_window > 0:
            self._flush(self._waiting.popitem(last=False)[1])

    def _flush(self, stream: Stream) -> None:
        """Send of the backlog what the windows allow now."""
        if not stream.backlog:
            return
        while stream.backlog:
            room = min(stream.send_window, self._whole.send_window, self._max_frame)
            if room <= 0:
                if stream.send_window > 0:
                    self._waiting[stream.number] = stream
                return
            pieces, size = stream.taken(room)
            self._whole.send_window -= size
            self._whole.backlog_bytes -= size
            self._out += (HEAD.pack(size >> 8, size & 0xFF, frames.DATA, 0, stream.number), *pieces)
        self._waiting.pop(stream.number, None)
        self._credit(self._whole)
        if stream.call is not None:
            stream.call.delivered()
            self._credit(stream)
        if stream.ending is not None:
            self._end(stream, stream.ending)

    def _push(self, stream: Stream, answers: Sequence[bytes]) -> None:
        """Answers from an event of the service's own."""
        if stream.ending is not None or self.is_closing:
            return
        try:
            if answers:
                self._send(stream, answers)
            call = stream.call
            if call is not None and (call.is_over or (stream.has_ended and not call.is_waiting)):
                self._finish(stream)
        except CallFailed as failure:
            self._on_failure(stream, failure)
        self._wake()

    # --- the end of a stream ---

    def _finish(self, stream: Stream, code: Code = Code.OK, message: str = "") -> None:
        """End the stream with a status, once: when its answers are out, or now where it failed."""
        if stream.ending is not None:
            return
        block = headers.OK
        if code is not Code.OK:
            self._drop_backlog(stream)
            block = headers.failure(code, message)
        flags = frames.END_STREAM | frames.END_HEADERS
        stream.ending = frame(frames.HEADERS, flags, stream.number, stream.head + block)
        if not stream.backlog:
            self._end(stream, stream.ending)

    def _end(self, stream: Stream, ending: bytes) -> None:
        self._out.append(ending)
        if not stream.has_ended:  # we need nothing more of it: the peer may stop sending
            self._out.append(numbers(frames.RST_STREAM, stream.number, ErrorCode.NO_ERROR))
        self._forget(stream)

    def _drop_backlog(self, stream: Stream) -> None:
        if stream.backlog:
            self._whole.backlog_bytes -= stream.backlog_bytes
            stream.backlog_bytes = 0
            stream.backlog.clear()
            self._waiting.pop(stream.number, None)
            self._credit(self._whole)

    def _expired(self, stream: Stream) -> None:
        self._finish(stream, Code.DEADLINE_EXCEEDED, "the deadline of the request has passed")
        self._wake()

    def _refuse(self, fault: Fault) -> None:
        """Reset a stream for its peer's fault; one that is idle cannot be reset (RFC 9113, 6.4)."""
        number = fault.stream
        if not 0 < number <= self._last or number % 2 == 0:
            raise fault
        self._nuisance()
        self._out.append(numbers(frames.RST_STREAM, number, fault.code))
        stream = self._streams.get(number)
        if stream is None:
            self._remember(number, ended_by_peer=False)
        else:
            self._forget(stream)

    def _remember(self, number: int, *, ended_by_peer: bool) -> None:
        self._gone[number] = ended_by_peer
        if len(self._gone) > _REMEMBERED_STREAMS:
            self._gone.popitem(last=False)

    def _forget(self, stream: Stream) -> None:
        call, stream.call = stream.call, None
        stream.ending = stream.ending or b""
        if stream.timer is not None:
            stream.timer.cancel()
        if call is not None:
            try:
                call.close()
            except Exception:  # a defect of the service must not end its neighbours' streams
                logger.exception("closing a call failed")
        self._remember(stream.number, ended_by_peer=stream.has_ended)
        self._drop_backlog(stream)
        self._budget.give_back(len(stream.partial))
        stream.partial = bytearray()
        del self._streams[stream.number]
        self._close_if_drained()
