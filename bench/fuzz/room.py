"""Plays one fuzz input into a connection with the real services behind it, and judges what comes of it.

Place:   inside the fuzzer (bench.fuzz.child) and the tests that replay what it found.
Rule:    a Finding is anything that no peer may bring about: an exception, an error in the log, a message read
         in two ways, a frame or a byte more than the peer allowed, a call or a reservation or a byte of the
         budget that is not given back, more memory or time than the input is worth.
"""

import logging
import random
import struct
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from bench import frames
from bench.frames import FrameReader, Kind, Replies, Setting
from bench.fuzz.moves import Drain, In, Move, Push, Wait, size
from bench.virtual import Clock
from epp.config.picker_config import build, load_default
from epp.core.apis import Parsers
from epp.core.budget import Budget
from epp.core.events import Outcome
from epp.core.fleet import EndpointSpec, Fleet
from epp.core.rejection import Rejection
from epp.core.request import Request
from epp.core.scheduling import Decision, Scheduler
from epp.core.stream import StreamSettings
from epp.runtime import calls
from epp.runtime.calls import CallFailed, Open, Services
from epp.runtime.ext_proc import PROCESS, ExtProc
from epp.runtime.fast.connection import Connection
from epp.runtime.fast.limits import Limits
from epp.runtime.health import HealthService, Readiness
from epp.runtime.plugins import load_types
from epp.wire import ext_proc, usual

LATER = "/fuzz.Later/Say"
LIMITS = Limits(
    max_receive_bytes=100_000,
    max_send_bytes=150_000,
    streams=30,
    stream_window=frames.DEFAULT_WINDOW,
    connection_window=2 * frames.DEFAULT_WINDOW,
    max_frame=20_000,
    stream_backlog=20_000,
    backlog=60_000,
    nuisances=200,
    nuisances_per_second=10.0,
)
"""So small that inputs of some kilobytes reach them."""
MOST_HELD = 2_000_000
"""Bytes in a connection: two messages, the backlog, and what a window's worth of the smallest messages is
answered with."""
SECONDS, SECONDS_PER_BYTE = 1.0, 50e-6
"""CPU that an input may take; instrumented code takes three times as long as it does otherwise."""


class Finding(Exception):
    """What must not happen."""


class Room:
    """The services, made once; ``play`` leaves them as it found them."""

    def __init__(self) -> None:
        self._fleet = Fleet(stale_after=2.0)
        self._fleet.replace([EndpointSpec(name=f"s{n}", ip=f"10.0.0.{n}", port=8000) for n in (1, 2)], 0.0)
        self._budget = Budget(300_000)
        assembly = build(load_default(), load_types())
        scheduler = Scheduler(self._fleet, assembly.profile, assembly.producers, chance=random.Random(1))
        self._clock = Clock()
        part = ExtProc(
            scheduler=scheduler,
            health=self._fleet,
            settings=StreamSettings(Parsers(assembly.parsers), self._budget, new_id=lambda: "made-id"),
            observer=_Counted(),
            clock=lambda: self._clock.now,
        )
        services = {PROCESS: part.open, **HealthService(Readiness()).services(), LATER: _Later}
        self._services: Services = {path: _watched(opened, path) for path, opened in services.items()}
        self._open: set[_Watched] = set()
        _Watched.room = self._open

    def play(self, moves: Sequence[Move]) -> None:
        """Raises Finding, or whatever the connection raises."""
        began = time.process_time()
        with _no_errors_logged():
            self._play(moves)
        took = time.process_time() - began
        if took > SECONDS + SECONDS_PER_BYTE * size(moves):
            raise Finding(f"{took:.1f} s for {size(moves)} bytes")

    def _play(self, moves: Sequence[Move]) -> None:
        clock = self._clock = Clock()
        connection = Connection(
            self._services, LIMITS, later=clock.later, wake=lambda: None, budget=self._budget
        )
        judge = _Judge()
        judge.hear(connection.take())
        for move in moves:
            match move:
                case In(data):
                    judge.said(data)
                    connection.receive(data, clock.now)
                case Wait(seconds):
                    clock.pass_by(seconds)
                case Push():
                    for call in list(self._open):
                        call.push_later()
                case Drain():
                    connection.drain()
            judge.hear(connection.take())
            held = _held(connection) + len(connection._rest)
            _require(held <= MOST_HELD, f"{held} bytes are held")
        connection.lost()
        self._nothing_is_left(connection, clock)

    def _nothing_is_left(self, connection: Connection, clock: Clock) -> None:
        _require(not connection._streams, "streams are left")
        _require(clock.timers == 0, "timers are left")
        _require(_held(connection) == 0, f"{_held(connection)} bytes are left")
        _require(not self._open, f"calls are left: {self._open}")
        _require(self._budget.used == 0, f"{self._budget.used} bytes of the budget are left")
        for endpoint in self._fleet.endpoints:
            left = (endpoint.requests_in_flight, endpoint.tokens_in_flight)
            _require(left == (0, 0), f"reservations are left: {left}")


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise Finding(what)


def _held(connection: Any) -> int:
    """Bytes that wait on streams."""
    streams = connection._streams.values()
    waiting = sum(len(piece) for stream in streams for piece in stream.backlog)
    begun = sum(len(stream.partial) for stream in streams)
    counted, lent = connection._whole.backlog_bytes, connection._budget.used
    _require(waiting == counted, f"{waiting} bytes wait, {counted} are counted")
    _require(begun <= lent, f"{begun} bytes of messages have come, the budget has lent {lent}")
    return waiting + begun


# --- what is said to the peer ------------------------------------------------------------------------


class _Judge:
    """Whether the server keeps to what its peer allowed: an upper bound, as the peer's frames allow it.

    A frame that the server took is whole and well formed; what follows one that it did not take is of no
    interest, since nothing more may be answered.
    """

    def __init__(self) -> None:
        self._replies = Replies()
        self._said = FrameReader()
        self._unread = len(frames.PREFACE)
        self._windows: dict[int, int] = {}  # stream -> what WINDOW_UPDATE added
        self._initial = [frames.DEFAULT_WINDOW]  # what counted at one moment or another of the last read
        self._largest = frames.SMALLEST_MAX_FRAME
        self._sent: dict[int, int] = {}

    def said(self, data: bytes) -> None:
        """What the peer says."""
        skipped = min(self._unread, len(data))
        self._unread -= skipped
        for one in self._said.feed(data[skipped:]):
            if one.kind == Kind.WINDOW_UPDATE and len(one.payload) == 4:
                increment = int.from_bytes(one.payload, "big") & frames.LARGEST_WINDOW
                self._windows[one.stream] = self._windows.get(one.stream, 0) + increment
            elif one.kind == Kind.SETTINGS and len(one.payload) % 6 == 0:
                for name, value in struct.iter_unpack(">HL", one.payload):
                    self._set(name, value)

    def _set(self, name: int, value: int) -> None:
        if name == Setting.INITIAL_WINDOW_SIZE:
            self._initial.append(value)
        elif name == Setting.MAX_FRAME_SIZE:
            self._largest = max(self._largest, value)

    def hear(self, data: bytes) -> None:
        """What the server says; AssertionError where it makes no sense."""
        was_over = any(one.code for one in self._replies.goaways)
        new = self._replies.feed(data)
        _require(not (was_over and new), f"said after the end: {new}")
        for one in new:
            _require(len(one.payload) <= self._largest, f"a frame of {len(one.payload)} bytes")
            if one.kind == Kind.DATA:
                for stream in (0, one.stream):
                    self._sent[stream] = self._sent.get(stream, 0) + len(one.payload)
                    allowed = frames.DEFAULT_WINDOW if stream == 0 else max(self._initial)
                    allowed += self._windows.get(stream, 0)
                    _require(self._sent[stream] <= allowed, f"{self._sent[stream]} bytes on stream {stream}")
        del self._initial[:-1]


# --- the services ------------------------------------------------------------------------------------


class _Watched:
    """A call, its contract and its messages watched."""

    room: set["_Watched"]

    def __init__(self, call: calls.Call, path: str) -> None:
        self._call, self._path = call, path
        self._has_failed = False
        self.room.add(self)

    @property
    def is_over(self) -> bool:
        return self._call.is_over

    @property
    def is_waiting(self) -> bool:
        return self._call.is_waiting

    def receive(self, message: bytes) -> Sequence[bytes]:
        _require(self in self.room and not self._has_failed and not self.is_over, "a call hears too much")
        if self._path == PROCESS:
            _require(_read(usual, message) == _read(ext_proc, message), "a message is read in two ways")
        try:
            return self._call.receive(message)
        except CallFailed:
            self._has_failed = True
            raise

    def delivered(self) -> None:
        _require(self in self.room, "delivered after the end")
        self._call.delivered()

    def close(self) -> None:
        _require(self in self.room, "closed twice")
        self.room.remove(self)
        self._call.close()

    def push_later(self) -> None:
        if isinstance(self._call, _Later):
            self._call.push_all()


def _watched(opened: Open, path: str) -> Open:
    return lambda push: _Watched(opened(push), path)


def _read(by: Any, message: bytes) -> object:
    try:
        return by.event(message)
    except ext_proc.WireError as fault:
        return str(fault)


class _Later:
    """Says each message again when told; is over after three."""

    def __init__(self, push: calls.Push) -> None:
        self._push = push
        self._waiting: list[bytes] = []
        self._said = 0

    @property
    def is_over(self) -> bool:
        return self._said >= 3

    @property
    def is_waiting(self) -> bool:
        return bool(self._waiting)

    def receive(self, message: bytes) -> Sequence[bytes]:
        self._waiting.append(message)
        return []

    def push_all(self) -> None:
        answers, self._waiting = self._waiting, []
        self._said += len(answers)
        if answers:
            self._push(answers)

    def delivered(self) -> None:
        """Nothing was kept."""

    def close(self) -> None:
        """Nothing was taken."""


class _Counted:
    """Hears of everything and keeps nothing."""

    def opened(self) -> None: ...

    def placed(self, request: Request, result: Decision | Rejection, seconds: float) -> None: ...

    def finished(self, outcome: Outcome) -> None: ...

    def closed(self) -> None: ...


# --- the log -----------------------------------------------------------------------------------------


class _Errors(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@contextmanager
def _no_errors_logged() -> Iterator[None]:
    """A defect that the driver caught and logged is a finding all the same."""
    errors, logger = _Errors(), logging.getLogger("epp")
    logger.addHandler(errors)
    propagates, logger.propagate = logger.propagate, False
    try:
        yield
    finally:
        logger.removeHandler(errors)
        logger.propagate = propagates
    for record in errors.records:
        cause = record.exc_info[1] if record.exc_info else None
        raise Finding(f"an error was logged: {record.getMessage()}: {cause!r}") from cause
