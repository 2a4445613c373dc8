"""Random conversations: the h2 package as the client, the connection as the server, bytes between them.

The h2 package knows the rules and raises when the server breaks one: a frame too large, a window exceeded, a
frame where none may be. What is said must arrive: each stream gets exactly its answers, in order, and its
status, whatever the cuts, windows, settings and neighbours.
"""

import itertools
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

import h2.connection
import h2.events as h2_events
from h2.config import H2Configuration
from h2.settings import SettingCodes
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from bench import frames
from bench.frames import END_HEADERS, Frame, FrameReader, Kind, message
from bench.virtual import Clock
from epp.core.budget import Budget
from epp.runtime.fast.connection import Connection
from epp.runtime.fast.limits import Limits
from tests.fast.peer import ECHO, EchoCall, Service, held_bytes

OK, INVALID_ARGUMENT, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, UNIMPLEMENTED, INTERNAL = 0, 3, 4, 8, 12, 13
LARGEST_MESSAGE = 9_000
TIMEOUT = 5.0

which = st.integers(0, 10_000)
"""Picks one of those that are there."""
small = st.integers(1, 40)
sizes = st.one_of(small, st.integers(1, 5_000), st.just(10**6))
cuts = st.lists(st.integers(1, 60), max_size=4)
asked = st.one_of(
    st.tuples(st.sampled_from("en"), st.sampled_from([1, 2, 50, 3_000, LARGEST_MESSAGE])),
    st.tuples(st.just("l"), st.integers(0, 40_000)),
    st.tuples(st.sampled_from("fxoppwws"), st.integers(0, 20)),
)
"""What a message asks for, and a size: see EchoCall."""


def _message(kind: str, size: int) -> bytes:
    """The message that asks for it."""
    if kind in "en":
        return bytes(n * 7 % 251 for n in range(size)).replace(b"\0", kind.encode(), 1)
    return b"%s%d" % (kind.encode(), size)


@dataclass(slots=True)
class Talked:
    """One stream as its client knows it."""

    number: int
    path: str = ECHO
    has_timeout: bool = False
    said: list[bytes] = field(default_factory=list)
    unsent: bytearray = field(default_factory=bytearray)
    wanted: int | None = None
    """The status that what was said must lead to; None: what the server's call says."""
    has_ended: bool = False
    """We have said all that we say."""
    end_at: int | None = None
    """How many bytes of the connection the server has read when it knows that."""
    was_reset: bool = False
    """By us."""
    # what came
    body: bytearray = field(default_factory=bytearray)
    status: int | None = None
    is_over: bool = False
    server_reset: int | None = None
    call: EchoCall | None = None
    answers: list[bytes] = field(default_factory=list)
    """Pushed, in the order of pushing among those that ``call`` said by itself."""


class Machine(RuleBasedStateMachine):
    """Rules are moves of the client, of the wire, of the service and of the clock."""

    @initialize(
        window=st.integers(1_000, 4_000),
        connection=st.integers(66_000, 90_000),
        backlog=st.integers(1, 20_000),
    )
    def begin(self, window: int | None, connection: int, backlog: int) -> None:
        """``window`` None: the usual one, so that the client may begin before it has heard the server."""
        self.limits = Limits(
            max_receive_bytes=LARGEST_MESSAGE,
            stream_window=window or frames.DEFAULT_WINDOW,
            connection_window=connection,
            stream_backlog=backlog,
            backlog=backlog * 4,
            handshake_seconds=1e9,
        )
        self.clock, self.service = Clock(), Service()
        served = self.service.services()
        self.budget = Budget(10**7)
        self.server = Connection(
            served, self.limits, later=self.clock.later, wake=self._hear, budget=self.budget
        )
        self.client = h2.connection.H2Connection(H2Configuration(client_side=True))
        self.client.initiate_connection()
        self.streams: list[Talked] = []
        self.to_server, self.to_client = bytearray(), bytearray()
        self.written = self.read = 0  # bytes towards the server, ever
        self._pings = self._pongs = 0
        self._unacknowledged = 1
        self._frames, self._answers = FrameReader(), FrameReader()
        self._preface = len(frames.PREFACE)
        self._flush([], None)
        self._hear()
        if window is not None:
            self.carry_to_the_client(10**9)

    # --- the client's moves ---

    @rule(
        path=st.sampled_from([ECHO, ECHO, ECHO, "/unknown"]),
        has_timeout=st.booleans(),
        more=st.lists(st.sampled_from([1, 200, 4_000]), max_size=3),
        priority=st.none() | st.tuples(st.integers(1, 256), st.integers(0, 7), st.booleans()),
        ended=st.sampled_from([False, False, True]),
        cuts=cuts,
        padding=st.none() | st.integers(0, 255),
    )
    def open(
        self,
        *,
        path: str,
        has_timeout: bool,
        more: list[int],
        priority: tuple[int, int, bool] | None,
        ended: bool,
        cuts: list[int],
        padding: int | None,
    ) -> None:
        stream = Talked(self.client.get_next_available_stream_id(), path, has_timeout)
        extra = [(f"x-{n}", "a" * length) for n, length in enumerate(more)]
        pairs = frames.request(path, *extra, *([("grpc-timeout", f"{TIMEOUT:g}S")] if has_timeout else []))
        weight, depends_on, exclusive = priority or (None, None, None)
        depends_on = None if depends_on is None else depends_on * 2
        self.client.send_headers(
            *(stream.number, pairs, ended),
            priority_weight=weight,
            priority_depends_on=depends_on,
            priority_exclusive=exclusive,
        )
        self.streams.append(stream)
        self._flush(cuts, padding)
        if path != ECHO:
            stream.wanted = UNIMPLEMENTED
        if ended:
            self._said_all(stream)

    @precondition(lambda self: self._open())
    @rule(which=which, asked=st.lists(asked, min_size=1, max_size=4))
    def say(self, which: int, asked: list[tuple[str, int]]) -> None:
        """Messages to be sent; ``send`` sends them."""
        stream = self._one(self._open(), which)
        said = [_message(*one) for one in asked]
        stream.said += said
        stream.unsent += b"".join(map(message, said))

    @precondition(lambda self: self._open())
    @rule(which=which, wrong=st.sampled_from(["large", "compressed"]))
    def say_wrong(self, which: int, wrong: str) -> None:
        """A message that ends its call, unless something before it does."""
        stream = self._one(self._open(), which)
        if stream.wanted is None:
            stream.wanted = RESOURCE_EXHAUSTED if wrong == "large" else INTERNAL
            length = LARGEST_MESSAGE + 1 if wrong == "large" else 3
            stream.unsent += frames.message(b"abc", compressed=wrong == "compressed", length=length)

    @precondition(lambda self: self._open())
    @rule(which=which, size=sizes, padding=st.none() | st.integers(0, 255), ended=st.booleans())
    def send(self, which: int, size: int, padding: int | None, ended: bool) -> None:
        """One DATA frame, as large as the server's windows and we like."""
        stream = self._one(self._open(), which)
        self._send(stream, size, padding, ended=ended)

    def _send(self, stream: Talked, size: int, padding: int | None, *, ended: bool) -> bool:
        room, around = self._room(stream), 0 if padding is None else padding + 1
        piece = bytes(stream.unsent[: min(size, max(room - around, 0))])
        ended = ended and len(piece) == len(stream.unsent)
        if around > room or not (piece or ended or padding):
            return False
        self.client.send_data(stream.number, piece, end_stream=ended, pad_length=padding)
        del stream.unsent[: len(piece)]
        self._flush([], None)
        if ended:
            self._said_all(stream)
        return True

    def _room(self, stream: Talked) -> int:
        window = self.client.local_flow_control_window(stream.number)
        return min(window, self.client.max_outbound_frame_size)

    @precondition(lambda self: self._open())
    @rule(which=which, so_far=st.integers(1, 8))
    def end_inside_a_message(self, which: int, so_far: int) -> None:
        stream = self._one(self._open(), which)
        if not stream.unsent and self._room(stream) >= so_far:
            stream.unsent += message(b"ecut")[:so_far]
            stream.wanted = stream.wanted or INTERNAL
            self._send(stream, so_far, None, ended=True)

    @precondition(lambda self: self._open())
    @rule(which=which, cuts=cuts)
    def trailers(self, which: int, cuts: list[int]) -> None:
        stream = self._one(self._open(), which)
        if not stream.unsent:
            self.client.send_headers(stream.number, [("x-checksum", "abc")], end_stream=True)
            self._flush(cuts, None)
            self._said_all(stream)

    @precondition(lambda self: self._living())
    @rule(which=which)
    def reset(self, which: int) -> None:
        stream = self._one(self._living(), which)
        self.client.reset_stream(stream.number, 8)
        stream.was_reset = True
        self._flush([], None)

    @precondition(lambda self: self._living())
    @rule(which=which, increment=sizes)
    def widen(self, which: int, increment: int) -> None:
        self._widen(self._one(self._living(), which), increment)

    def _widen(self, stream: Talked, increment: int) -> None:
        self.client.increment_flow_control_window(increment, stream.number)
        self._flush([], None)

    @rule(increment=sizes)
    def widen_the_connection(self, increment: int) -> None:
        self.client.increment_flow_control_window(increment)
        self._flush([], None)

    @precondition(lambda self: not self._unacknowledged)
    @rule(
        window=st.sampled_from([0, 1, 5, 100, 16_384, 65_535, 200_000]),
        frame=st.sampled_from([16_384, 16_385, 40_000, 2**24 - 1]),
        table=st.sampled_from([0, 100, 4_096, 65_536]),
    )
    def change_settings(self, window: int, frame: int, table: int) -> None:
        self._set(window, frame, table)

    def _set(self, window: int, frame: int = 16_384, table: int = 0) -> None:
        """At most one change is on its way: the h2 package takes any acknowledgement for the latest."""
        self._unacknowledged += 1
        self.client.update_settings(
            {
                SettingCodes.INITIAL_WINDOW_SIZE: window,
                SettingCodes.MAX_FRAME_SIZE: frame,
                SettingCodes.HEADER_TABLE_SIZE: table,
            }
        )
        self._flush([], None)

    @rule()
    def ping(self) -> None:
        self.client.ping(b"hello %02d" % (self._pings % 100))
        self._pings += 1
        self._flush([], None)

    @rule(
        extra=st.sampled_from(
            [
                frames.frame(0x42, 0xFF, 77, b"from the future"),
                frames.priority(9, 3),
                frames.priority(1_001, 0),
                frames.settings({0x77: 5}),
                frames.goaway(0, 0, b"bye"),
                frames.ping(b"unasked!", ack=True),
                frames.window_update(0, 1 << 31 | 1)[:9] + b"\x80\0\0\1",
            ]
        )
    )
    def say_something_else(self, extra: bytes) -> None:
        """Frames without consequence, the h2 package does not know of them."""
        if extra[3] == Kind.WINDOW_UPDATE:
            return self.widen_the_connection(1)
        if extra[3] == Kind.SETTINGS:
            return self.ping()
        return self._write(extra)

    # --- the wire's, the service's and the clock's moves ---

    @rule(size=sizes)
    def carry_to_the_server(self, size: int) -> None:
        some = bytes(self.to_server[:size])
        del self.to_server[:size]
        self.read += len(some)
        known = len(self.service.calls)
        self.server.receive(some, self.clock.now)
        self._hear()
        expecting = [one for one in self.streams if one.path == ECHO]
        for stream, call in list(zip(expecting, self.service.calls, strict=False))[known:]:
            stream.call = call

    @rule(size=sizes)
    def carry_to_the_client(self, size: int) -> None:
        some = bytes(self.to_client[:size])
        del self.to_client[:size]
        # One by one: the h2 package takes a new frame size over only between two calls.
        for one in self._answers.feed(some):
            for event in self.client.receive_data(bytes(one)):
                self._take(event)
        self._flush([], None)

    @precondition(lambda self: self._waiting())
    @rule(which=which)
    def push(self, which: int) -> None:
        stream = self._one(self._waiting(), which)
        call = stream.call
        assert call is not None
        is_heard = not call.closed and (call.is_waiting or not self._has_heard_the_end(stream))
        answer = call.push_next()
        if is_heard:
            call.said.append(answer)

    @rule(seconds=st.sampled_from([0.5, 2.0, TIMEOUT]))
    def wait(self, seconds: float) -> None:
        self.clock.pass_by(seconds)

    # --- what must hold ---

    @invariant()
    def is_served(self) -> None:
        if hasattr(self, "server"):
            assert self.server.fault is None and not self.server.is_closing
            assert held_bytes(self.server) == self.server._whole.backlog_bytes + self.budget.used
            for stream in self.streams:
                self._is_right_so_far(stream)

    def teardown(self) -> None:
        if hasattr(self, "server") and self.server.fault is None:
            self._settle()
            for stream in self.streams:
                self._is_right_at_the_end(stream)
            assert not self.server._streams
            assert held_bytes(self.server) == self.budget.used == 0
            assert self._pongs == self._pings
            self.server.lost()
            assert [call.closed for call in self.service.calls] == [1] * len(self.service.calls)
            assert self.clock.timers == 0

    def _settle(self) -> None:
        """Let everything come to its end: windows wide open, all said, all pushed, all carried."""
        for _ in range(2):
            self.carry_to_the_server(10**9)
            self.carry_to_the_client(10**9)
        self._set(100_000)
        self.widen_the_connection(10**8)
        for _ in range(2_000):
            self.carry_to_the_server(10**9)
            self.carry_to_the_client(10**9)
            before = self.written
            for stream in self._waiting():
                self.push(self._waiting().index(stream))
            for stream in self._open():
                while stream.unsent and self._send(stream, 10**6, None, ended=False):
                    pass
                later = stream.call is not None and stream.call.later
                if not stream.unsent and not later and not self.to_server:
                    self._send(stream, 0, None, ended=True)
            for stream in self._living():
                if self.client.remote_flow_control_window(stream.number) < 60_000:
                    self._widen(stream, 10**6)
            if self.written == before and not self.to_client and not self.to_server:
                return
        raise AssertionError("it never ends")

    def _is_right_so_far(self, stream: Talked) -> None:
        heard = stream.call.heard if stream.call else []
        assert heard == stream.said[: len(heard)]
        said = b"".join(map(message, stream.call.said)) if stream.call else b""
        assert said.startswith(bytes(stream.body))

    def _is_right_at_the_end(self, stream: Talked) -> None:
        if stream.was_reset:
            return
        assert stream.is_over, stream
        assert stream.server_reset in (None, 0), stream
        call = stream.call
        if call is not None and stream.status == OK:  # what failed ends at once, whatever waits
            assert bytes(stream.body) == b"".join(map(message, call.said))
        assert stream.status in self._right_statuses(stream), stream
        if stream.status == OK and call is not None and not call.is_over:
            assert call.heard == stream.said

    def _right_statuses(self, stream: Talked) -> set[int]:
        call = stream.call
        if call is not None and call.failed:
            right = {INVALID_ARGUMENT if call.heard[-1][:1] == b"f" else INTERNAL}
        elif call is not None and call.is_over:
            right = {OK}
        else:
            right = {OK if stream.wanted is None else stream.wanted}
        return {*right, DEADLINE_EXCEEDED} if stream.has_timeout else right

    # --- helpers ---

    def _living(self) -> list[Talked]:
        """Streams that the h2 package has not forgotten."""
        return [one for one in self.streams if not one.was_reset and not one.is_over]

    def _open(self) -> list[Talked]:
        """Streams on which more can be said."""
        return [one for one in self._living() if not one.has_ended]

    def _waiting(self) -> list[Talked]:
        return [one for one in self.streams if one.call is not None and one.call.later]

    @staticmethod
    def _one(among: Sequence[Talked], which: int) -> Talked:
        return among[which % len(among)]

    def _said_all(self, stream: Talked) -> None:
        stream.has_ended, stream.end_at = True, self.written

    def _has_heard_the_end(self, stream: Talked) -> bool:
        return stream.end_at is not None and self.read >= stream.end_at

    def _hear(self) -> None:
        self.to_client += self.server.take()

    def _write(self, some: bytes) -> None:
        self.to_server += some
        self.written += len(some)

    def _flush(self, cuts: list[int], padding: int | None) -> None:
        """What the h2 package wants to send; header blocks cut into CONTINUATIONs and padded as asked."""
        some = self.client.data_to_send()
        self._write(some[: self._preface])
        some, self._preface = some[self._preface :], 0
        for one in self._frames.feed(some):
            for part in _recut(one, cuts, padding) if one.kind == Kind.HEADERS else [bytes(one)]:
                self._write(part)
        assert not self._frames.rest

    def _take(self, event: h2_events.Event) -> None:
        stream = self.streams[event.stream_id // 2] if getattr(event, "stream_id", None) else None
        match event:
            case h2_events.ResponseReceived() | h2_events.TrailersReceived():
                assert stream is not None
                pairs = dict(event.headers)
                stream.status = int(pairs[b"grpc-status"]) if b"grpc-status" in pairs else stream.status
            case h2_events.DataReceived():
                assert stream is not None
                stream.body += event.data
            case h2_events.StreamEnded():
                assert stream is not None
                stream.is_over = True
            case h2_events.StreamReset():
                assert stream is not None
                stream.is_over, stream.server_reset = True, int(event.error_code)
            case h2_events.SettingsAcknowledged():
                self._unacknowledged -= 1
            case h2_events.PingAckReceived():
                self._pongs += 1
            case h2_events.ConnectionTerminated():
                raise AssertionError(event)
            case _:
                pass


def _recut(one: Frame, cuts: list[int], padding: int | None) -> list[bytes]:
    """The same HEADERS in other frames."""
    flags, payload = one.flags, one.payload
    if padding is not None and not flags & frames.PADDED:
        flags, payload = flags | frames.PADDED, bytes([padding]) + payload + bytes(padding)
        cuts = []  # padding belongs to the first frame: leave the block whole
    if flags & frames.PRIORITIZED and cuts:
        cuts = [cuts[0] + 5, *cuts[1:]]
    edges = [0, *itertools.accumulate(cuts), len(payload)]
    edges = [edge for edge in edges if edge < len(payload)] + [len(payload)]
    pieces = [payload[begin:end] for begin, end in itertools.pairwise(edges)]
    first = frames.frame(Kind.HEADERS, flags & ~END_HEADERS if pieces[1:] else flags, one.stream, pieces[0])
    last = len(pieces) - 2
    more = [frames.continuation(one.stream, piece, whole=n == last) for n, piece in enumerate(pieces[1:])]
    return [first, *more]


TestConnection = Machine.TestCase
TestConnection.settings = settings(
    max_examples=150,
    stateful_step_count=60,
    phases=set(Phase) - {Phase.shrink, Phase.explain},  # they take minutes; the command below has them
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)

if __name__ == "__main__":  # python -m tests.fast.test_connection_machine [EXAMPLES]
    logging.disable()  # the defects of the service
    many = int(sys.argv[1]) if sys.argv[1:] else 3_000
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=many,
            stateful_step_count=80,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            database=None,
        ),
    )
