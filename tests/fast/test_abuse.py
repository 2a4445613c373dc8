"""The connection under abuse: each kind gets its error code, costs little and leaves nothing behind."""

import time
import tracemalloc
from collections.abc import Callable

import pytest

from bench import frames
from bench.frames import Error, Kind, Setting, call, data, headers, message, reset, window_update
from epp.runtime.fast.limits import Limits
from tests.fast.abuse import CONNECTION, FLOOD, STREAM, Abuse
from tests.fast.peer import ECHO, LIMITS, Talk, held_bytes

MIB = 1 << 20
TLS_HELLO = bytes.fromhex("16030100c8010000c40303") + bytes(190)


@pytest.mark.parametrize("abuse", CONNECTION.values(), ids=CONNECTION.keys())
def test_a_peer_that_breaks_the_rules_of_the_connection_is_told_so_and_closed(abuse: Abuse) -> None:
    talk = Talk(acknowledged=abuse.acknowledged)
    talk.say(*abuse.sent(ECHO))
    assert talk.fault is abuse.code
    assert not talk.say(frames.ping()), "nothing is read any more"
    talk.end()


@pytest.mark.parametrize("abuse", STREAM.values(), ids=STREAM.keys())
def test_a_peer_that_breaks_the_rules_of_a_stream_loses_this_stream(abuse: Abuse) -> None:
    talk = Talk()
    talk.say(*abuse.sent(ECHO))
    assert talk[1].reset is abuse.code
    assert talk.is_alive()
    talk.end()


# --- how a connection begins -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"GET / HTTP/1.1\r\nhost: picker\r\n\r\n", id="http/1.1"),
        pytest.param(TLS_HELLO, id="tls"),
        pytest.param(frames.PREFACE[:20] + b"XXXX" + frames.settings(), id="nearly"),
        pytest.param(frames.PREFACE + frames.ping(), id="no settings"),
        pytest.param(frames.PREFACE + frames.settings(ack=True), id="an acknowledgement of nothing"),
        pytest.param(b"\0" * 100, id="zeros"),
    ],
)
@pytest.mark.parametrize("step", [1, 1000])
def test_what_is_no_http2_is_refused(sent: bytes, step: int) -> None:
    talk = Talk(begun=False)
    talk.say_slowly(sent, step=step)
    assert talk.fault is Error.PROTOCOL_ERROR
    talk.end()


@pytest.mark.parametrize("so_far", [0, 1, 24, 30])
def test_a_preface_must_come_in_time(so_far: int) -> None:
    talk = Talk(begun=False)
    talk.say((frames.PREFACE + frames.settings())[:so_far])
    talk.wait(LIMITS.handshake_seconds - 0.1)
    assert talk.fault is None
    talk.wait(0.2)
    assert talk.fault is Error.ENHANCE_YOUR_CALM and talk.woken
    talk.end()


def test_a_header_block_must_end_in_time() -> None:
    talk = Talk()
    block = frames.block(frames.request(ECHO))
    talk.say(headers(1, block[:20], whole=False))
    talk.wait(LIMITS.handshake_seconds - 0.1)
    talk.say(frames.continuation(1, block[20:], whole=False))
    assert talk.fault is None
    talk.wait(0.2)
    assert talk.fault is Error.ENHANCE_YOUR_CALM
    talk.end()


def test_a_connection_may_rest_for_ever() -> None:
    talk = Talk()
    talk.say(call(1, ECHO))
    talk.wait(1e6)
    assert talk.fault is None and talk.is_alive()
    talk.end()


# --- too much ----------------------------------------------------------------------------------------


def test_what_is_a_flood_at_once_is_none_over_time() -> None:
    talk = Talk()
    for number in range(1, FLOOD, 10):
        stream = 2 * number + 1
        talk.say(call(stream, ECHO), data(stream), frames.ping(), frames.settings(), reset(stream))
        talk.wait(0.5)
    assert talk.fault is None and talk.is_alive()
    talk.end()


def test_a_gateway_whose_clients_all_leave_at_once_is_no_attacker() -> None:
    talk = Talk()
    streams = range(1, 8_001, 2)
    talk.say(*(part for n in streams for part in (call(n, ECHO), data(n, message(b"e")))))
    talk.say(*map(reset, streams))
    assert talk.fault is None and talk.is_alive()
    talk.end()


def test_streams_that_did_some_work_may_be_reset_at_any_rate() -> None:
    """As some gateways end each of their streams."""
    talk = Talk()
    talk.say(window_update(0, 1 << 30))
    for begin in range(1, 120_001, 2_000):
        streams = range(begin, begin + 2_000, 2)
        talk.say(*(p for n in streams for p in (call(n, ECHO), data(n, message(b"e")), reset(n))))
    assert talk.fault is None and talk.is_alive()
    talk.end()


def test_streams_over_the_limit_are_refused_until_there_is_room() -> None:
    talk = Talk(limits=Limits(max_receive_bytes=1_000, streams=10))
    for number in range(11):
        talk.say(call(2 * number + 1, ECHO))
    assert talk[21].reset is Error.REFUSED_STREAM
    assert len(talk.service.calls) == 10
    talk.say(reset(5))
    assert talk.is_alive()
    talk.end()


def test_a_stream_may_not_exceed_its_window() -> None:
    talk = Talk(limits=Limits(max_receive_bytes=MIB, stream_window=20_000))
    talk.say(call(1, ECHO), data(1, frames.message(b"n", length=MIB) + b"x" * 16_000))
    assert not talk[1].is_over
    talk.say(data(1, b"x" * 20_001))
    assert talk[1].reset is Error.FLOW_CONTROL_ERROR
    assert talk.is_alive()
    talk.end()


def test_a_connection_may_not_exceed_its_window() -> None:
    talk = Talk(limits=Limits(max_receive_bytes=MIB, connection_window=70_000, max_frame=100_000))
    talk.say(call(1, ECHO), data(1, bytes(70_001)))
    assert talk.fault is Error.FLOW_CONTROL_ERROR
    talk.end()


def test_padding_counts_and_is_given_back() -> None:
    talk = Talk(limits=Limits(max_receive_bytes=MIB, stream_window=10_000, connection_window=70_000))
    talk.say(call(1, ECHO), window_update(0, MIB), window_update(1, MIB))
    room = {0: 70_000, 1: 10_000}
    for _ in range(500):
        for one in talk.say(data(1, message(b"e"), padding=255)):
            if one.kind == Kind.WINDOW_UPDATE:
                room[one.stream] += int.from_bytes(one.payload, "big")
        room = {stream: left - (1 + 6 + 255) for stream, left in room.items()}
        assert min(room.values()) > 1_000
    assert len(talk[1].messages) == 500
    talk.end()


# --- memory and time ---------------------------------------------------------------------------------


class Peer:
    """Sends as fast as it may, by the windows that it is given."""

    def __init__(self, talk: Talk, limits: Limits) -> None:
        self.talk = talk
        self.room = {0: limits.connection_window}
        self._initial = limits.stream_window

    def send(self, stream: int, content: bytes) -> bool:
        """One DATA frame; False when the windows do not allow it, or the stream is over."""
        left = self.room.setdefault(stream, self._initial)
        if min(left, self.room[0]) < len(content) or self.talk[stream].is_over:
            return False
        self.room[stream] -= len(content)
        self.room[0] -= len(content)
        for one in self.talk.say(data(stream, content)):
            if one.kind == Kind.WINDOW_UPDATE:
                self.room[one.stream] = self.room.get(one.stream, self._initial)
                self.room[one.stream] += int.from_bytes(one.payload, "big")
        return True


def test_a_peer_that_gives_no_window_does_not_make_us_hold_much() -> None:
    limits = Limits(
        max_receive_bytes=100_000,
        stream_window=20_000,
        connection_window=200_000,
        stream_backlog=50_000,
        backlog=1_000_000,
    )
    talk = Talk(limits=limits, settings={Setting.INITIAL_WINDOW_SIZE: 0})
    peer, streams = Peer(talk, limits), range(1, 201, 2)
    for stream in streams:
        talk.say(call(stream, ECHO))
    asked = message(b"l10000")
    while sum(peer.send(stream, asked) for stream in streams):
        # what is on its way when we stop giving windows may still ask for ten thousand times its size
        assert held_bytes(talk.connection) < limits.backlog + (limits.connection_window // 11) * 10_005
    assert talk.fault is None
    talk.end()


def test_beginnings_of_messages_do_not_add_up_without_bound() -> None:
    limits = Limits(max_receive_bytes=4 * MIB)
    talk = Talk(limits=limits)
    peer, streams = Peer(talk, limits), range(1, 401, 2)
    for stream in streams:
        talk.say(call(stream, ECHO))
        assert peer.send(stream, frames.message(b"n", length=4 * MIB))
    chunk = bytes(60_000)
    for _ in range(66):
        for stream in streams:
            peer.send(stream, chunk)
        assert held_bytes(talk.connection) <= 2 * limits.max_receive_bytes + limits.max_frame
    refused = [stream for stream in streams if talk[stream].status == 8]
    assert refused and len(refused) < len(streams), "some are told RESOURCE_EXHAUSTED, the others go on"
    assert talk.fault is None and talk.is_alive()
    talk.end()


def test_a_connection_that_has_served_many_streams_holds_no_more_than_at_first() -> None:
    talk = Talk()

    def serve(first: int) -> None:
        for number in range(first, first + 4_000, 2):
            more = ("x-request-id", f"{number:09}")
            ways = [data(number, message(b"e!"), ended=True), reset(number), window_update(number, 0)]
            talk.say(call(number, ECHO, more), ways[number // 2 % 3])
            talk.wait(0.1)
        talk.replies = frames.Replies()
        talk.service.calls.clear()

    serve(1)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    serve(10_001)
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert grown < 600_000, "some memory of blocks and resets, with a bound"
    talk.end()


WAITING = range(3, 20_003, 2)
"""Streams whose answers wait."""


def waiting_for_their_own_windows() -> Talk:
    return Talk(settings={Setting.INITIAL_WINDOW_SIZE: 0})


def waiting_for_the_connections_window() -> Talk:
    """Each stream may send; another one's answer has taken all that the connection may."""
    talk = Talk()
    talk.say(call(1, ECHO), data(1, message(b"l%d" % (frames.DEFAULT_WINDOW - 5))))
    assert len(talk[1].messages[0]) == frames.DEFAULT_WINDOW - 5
    return talk


HEAVY = {
    "SETTINGS full of windows": (
        waiting_for_their_own_windows,
        [frames.frame(Kind.SETTINGS, 0, 0, b"\0\4\0\0\0\1\0\4\0\0\xff\xff" * 1_300)] * 20,
        Error.ENHANCE_YOUR_CALM,
    ),
    "SETTINGS one by one": (
        waiting_for_their_own_windows,
        [frames.settings({Setting.INITIAL_WINDOW_SIZE: n}) for n in range(400)],
        Error.ENHANCE_YOUR_CALM,
    ),
    "small steps of the connection's window": (
        waiting_for_the_connections_window,
        [window_update(0, 1)] * 2_000,
        None,
    ),
}


@pytest.mark.parametrize("begun, sent, fault", HEAVY.values(), ids=HEAVY.keys())
def test_a_few_bytes_are_no_work_on_every_stream_again_and_again(
    begun: Callable[[], Talk], sent: list[bytes], fault: Error | None
) -> None:
    """All that a peer sends here are some ten kilobytes; it has 10,000 streams whose answers wait."""
    talk = begun()
    talk.say(*(part for n in WAITING for part in (call(n, ECHO), data(n, message(b"e")))))
    assert held_bytes(talk.connection) == len(WAITING) * len(message(b"1 e"))
    began = time.process_time()
    talk.say(*sent)
    assert time.process_time() - began < 4.0
    assert talk.fault is fault
    talk.end()


def test_small_steps_of_the_connections_window_are_shared_out_in_turn() -> None:
    talk, few = waiting_for_the_connections_window(), WAITING[:100]
    talk.say(*(part for n in few for part in (call(n, ECHO), data(n, message(b"e")))))
    heard = [one for one in talk.say(*[window_update(0, 1)] * 3 * len(few)) if one.kind == Kind.DATA]
    assert [(one.stream, len(one.payload)) for one in heard] == [(n, 1) for n in few] * 3
    talk.end()


def test_a_frame_that_comes_byte_by_byte_costs_no_more_than_its_length_squared_allows() -> None:
    talk = Talk()
    talk.say(call(1, ECHO))
    began = time.process_time()
    talk.say_slowly(data(1, message(b"n" + bytes(60_000))))
    assert time.process_time() - began < 4.0
    assert talk.service.calls[0].heard == [b"n" + bytes(60_000)]
    talk.end()
