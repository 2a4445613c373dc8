"""Makes inputs out of inputs: at the level of reads, frames, header blocks, gRPC messages and protobuf.

Place:   libFuzzer's custom mutator and crossover (bench.fuzz.child).
Ignores: what the inputs bring about.
Rule:    any input can be changed, the result can be parsed, and chance is an argument. ``scramble`` changes
         bytes that have no structure we know of; libFuzzer does that better than anything here.
"""

import itertools
import random
from collections.abc import Callable, Sequence
from typing import TypeAlias

import hpack
from google.protobuf.message import DecodeError

from bench import frames
from bench.frames import (
    END_HEADERS,
    END_STREAM,
    PADDED,
    PRIORITIZED,
    Error,
    Frame,
    FrameReader,
    Kind,
    Setting,
)
from bench.fuzz.moves import Drain, In, Move, Push, Wait
from bench.fuzz.room import LATER
from epp.runtime.ext_proc import PROCESS
from epp.wire.pb import ext_proc_pb2 as pb

Item: TypeAlias = Frame | Move
"""An input without its reads: ``In`` is what is no frame."""
Scramble: TypeAlias = Callable[[bytes], bytes]

PATHS = (PROCESS, PROCESS, PROCESS, LATER, LATER, "/grpc.health.v1.Health/Check", "/unknown")
NUMBERS = (0, 1, 2, 5, 100, 2**14, 2**16 - 1, 2**16, 2**24 - 1, 2**31 - 1, 2**31, 2**32 - 1)
MOST_BYTES = 16_000


# --- reads and frames --------------------------------------------------------------------------------


def items(moves: Sequence[Move]) -> list[Item]:
    """The frames, however they were cut into reads."""
    found: list[Item] = []
    reader, unread = FrameReader(), len(frames.PREFACE)
    for move in moves:
        if not isinstance(move, In):
            found.append(move)
            continue
        start = move.data[:unread]
        unread -= len(start)
        found += [In(start)] if start else []
        found += reader.feed(move.data[len(start) :])
    return [*found, In(reader.rest)] if reader.rest else found


def moves(items: Sequence[Item], chance: random.Random) -> list[Move]:
    """Cut into reads again, in one of several ways."""
    way = chance.choice(["one", "frames", "frames", "some", "pieces"])
    found: list[Move] = []
    for item in items:
        if isinstance(item, Frame | In):
            data = bytes(item) if isinstance(item, Frame) else item.data
            joins = way in ("one", "pieces") or (way == "some" and chance.random() < 0.7)
            if joins and found and isinstance(before := found[-1], In):
                found[-1] = In(before.data + data)
            else:
                found.append(In(data))
        else:
            found.append(item)
    return [part for move in found for part in _cut(move, chance)] if way == "pieces" else found


def _cut(move: Move, chance: random.Random) -> list[Move]:
    if not isinstance(move, In) or len(move.data) < 2:
        return [move]
    count = chance.choice([1, 3, 10, 100])
    edges = sorted({0, len(move.data), *(chance.randrange(len(move.data)) for _ in range(count))})
    return [In(move.data[begin:end]) for begin, end in itertools.pairwise(edges)]


# --- the mutations -----------------------------------------------------------------------------------


class Mutator:
    """Changes one input; made anew for each."""

    def __init__(self, chance: random.Random, scramble: Scramble) -> None:
        self._chance, self._scramble = chance, scramble

    def mutate(self, given: Sequence[Move]) -> list[Move]:
        """A few changes."""
        changed = items(given) or [In(frames.PREFACE), *_frames(frames.settings())]
        for _ in range(self._chance.choice([1, 1, 1, 2, 3, 6])):
            changed = self._chance.choice(_CHANGES)(self, changed) or changed
        return self._short(moves(changed, self._chance))

    def cross(self, one: Sequence[Move], other: Sequence[Move]) -> list[Move]:
        """Two conversations on one connection: the other's streams come between, renumbered."""
        mine, theirs = items(one), [item for item in items(other) if isinstance(item, Frame)]
        above = max([item.stream for item in mine if isinstance(item, Frame)], default=0)
        above = min(above + above % 2, 2**30)
        moved = [_on(item, item.stream + above) if item.stream else item for item in theirs]
        mixed: list[Item] = []
        in_turn = self._chance.random() < 0.5
        while mine or moved:
            source = (
                mine
                if mine and (not moved or (in_turn and self._chance.random() < 0.5) or not in_turn)
                else moved
            )
            mixed.append(source.pop(0))
        return self._short(moves(mixed, self._chance))

    def _short(self, made: list[Move]) -> list[Move]:
        left = MOST_BYTES
        for at, move in enumerate(made):
            left -= len(move.data) if isinstance(move, In) else 0
            if left < 0:
                return made[:at]
        return made

    # --- frames and moves ---

    def _drop(self, given: list[Item]) -> list[Item]:
        at = self._chance.randrange(len(given))
        return given[:at] + given[at + self._chance.choice([1, 1, 1, 4]) :]

    def _repeat(self, given: list[Item]) -> list[Item]:
        begin = self._chance.randrange(len(given))
        part = given[begin : begin + self._chance.choice([1, 1, 2, 5])]
        at = self._chance.randrange(len(given) + 1)
        times = self._chance.choice([1, 1, 1, 2, 2, 10])
        if len(part) == 1 and isinstance(part[0], Frame) and len(part[0].payload) < 20:
            times = self._chance.choice([1, 2, 10, 210])  # a flood
        return [*given[:at], *part * times, *given[at:]]

    def _swap(self, given: list[Item]) -> list[Item]:
        one, other = (self._chance.randrange(len(given)) for _ in range(2))
        given[one], given[other] = given[other], given[one]
        return given

    def _insert(self, given: list[Item]) -> list[Item]:
        at = self._chance.randrange(len(given) + 1)
        return [*given[:at], *self._fresh(self._stream(given)), *given[at:]]

    def _append_call(self, given: list[Item]) -> list[Item]:
        numbers = [item.stream for item in given if isinstance(item, Frame) and item.kind == Kind.HEADERS]
        number = max(numbers, default=-1) + 2 | 1
        path = self._chance.choice(PATHS)
        said = [b"".join(frames.message(self._message()) for _ in range(self._chance.choice([0, 1, 2, 5])))]
        end = self._chance.choice([[], [frames.data(number, ended=True)], [frames.reset(number)]])
        more = [("grpc-timeout", "1S")] if self._chance.random() < 0.2 else []
        return [
            *given,
            *_frames(frames.call(number, path, *more), *(frames.data(number, one) for one in said), *end),
        ]

    def _event(self, given: list[Item]) -> list[Item]:
        at = self._chance.randrange(len(given) + 1)
        events: list[Move] = [Wait(0.5), Wait(2.0), Wait(11.0), Push(), Push(), Drain()]
        event = self._chance.choice(events)
        return [*given[:at], event, *given[at:]]

    def _head(self, given: list[Item]) -> list[Item] | None:
        at = self._some(given)
        if at is None:
            return None
        kind, flags, stream, payload = self._frame(given, at)
        match self._chance.randrange(5):
            case 0:
                kind = self._chance.choice([*range(11), 0x42])
            case 1:
                flags ^= self._chance.choice([END_STREAM, END_HEADERS, PADDED, PRIORITIZED, 0x2])
            case 2:
                stream = self._stream(given)
            case 3:
                payload = payload[: self._chance.randrange(len(payload) + 1)]
            case _:
                lie = self._chance.choice([0, 1, 8, len(payload) + 1, 20_000, 20_001, 2**24 - 1])
                given[at] = In(frames.frame(kind, flags, stream, payload, length=lie))
                return given
        given[at] = Frame(kind, flags, stream, payload)
        return given

    def _payload(self, given: list[Item]) -> list[Item] | None:
        at = self._some(given)
        if at is None:
            return None
        one = self._frame(given, at)
        given[at] = one._replace(payload=self._scramble(one.payload)[:20_000])
        return given

    def _raw(self, given: list[Item]) -> list[Item]:
        at = self._chance.randrange(len(given))
        item = given[at]
        if isinstance(item, Frame | In):
            given[at] = In(self._scramble(bytes(item) if isinstance(item, Frame) else item.data))
        return given

    # --- header blocks ---

    def _block(self, given: list[Item]) -> list[Item] | None:
        at = self._some(given, Kind.HEADERS)
        if at is None:
            return None
        one = self._frame(given, at)
        block = self._pairs() if self._chance.random() < 0.7 else self._scramble(one.payload)
        given[at] = one._replace(payload=block)
        return given

    def _pairs(self) -> bytes:
        """A block that is mostly right, in any coding."""
        chance = self._chance
        pairs = [
            *frames.request(chance.choice(PATHS)),
            *chance.choices(_FIELDS, k=chance.choice([0, 0, 1, 3])),
        ]
        if chance.random() < 0.2:
            chance.shuffle(pairs)
        if chance.random() < 0.2:
            del pairs[chance.randrange(len(pairs))]
        if chance.random() < 0.4:
            return frames.block(pairs)
        encoder = hpack.Encoder()
        if chance.random() < 0.3:
            encoder.header_table_size = chance.choice([0, 100, 4_096, 70_000])
        block = bytes(encoder.encode(pairs, huffman=chance.random() < 0.5))
        return block + bytes([chance.choice([0xBE, 0xBF, 0xC0, 0x80, 0x20, 0x3F])]) * chance.choice(
            [0, 0, 1, 500]
        )

    def _split_block(self, given: list[Item]) -> list[Item] | None:
        at = self._some(given, Kind.HEADERS)
        if at is None:
            return None
        one = self._frame(given, at)
        edges = sorted(
            self._chance.randrange(len(one.payload) + 1) for _ in range(self._chance.choice([1, 2, 10]))
        )
        pieces = [one.payload[a:b] for a, b in zip([0, *edges], [*edges, len(one.payload)], strict=True)]
        first = one._replace(flags=one.flags & ~END_HEADERS, payload=pieces[0])
        more = [frames.continuation(one.stream, piece, whole=False) for piece in pieces[1:-1]]
        last = frames.continuation(one.stream, pieces[-1], whole=bool(one.flags & END_HEADERS))
        return [*given[:at], first, *_frames(*more, last), *given[at + 1 :]]

    # --- DATA, gRPC, protobuf ---

    def _split_data(self, given: list[Item]) -> list[Item] | None:
        at = self._some(given, Kind.DATA)
        if at is None:
            return None
        one = self._frame(given, at)
        cut = self._chance.randrange(len(one.payload) + 1)
        first = one._replace(flags=one.flags & ~END_STREAM, payload=one.payload[:cut])
        return [*given[:at], first, one._replace(payload=one.payload[cut:]), *given[at + 1 :]]

    def _pad(self, given: list[Item]) -> list[Item] | None:
        at = self._some(given, Kind.DATA, Kind.HEADERS)
        if at is None:
            return None
        one, padding = self._frame(given, at), self._chance.choice([0, 1, 7, 255])
        payload = bytes([padding]) + one.payload + bytes(padding)
        given[at] = one._replace(flags=one.flags | PADDED, payload=payload)
        return given

    def _messages(self, given: list[Item]) -> list[Item] | None:
        """Change, drop, add or lie about a message of one DATA frame."""
        at = self._some(given, Kind.DATA)
        if at is None:
            return None
        one = self._frame(given, at)
        said = frames.Reply(body=one.payload).messages or [self._message()]
        which = self._chance.randrange(len(said))
        parts = [frames.message(message) for message in said]
        match self._chance.randrange(6):
            case 0:
                parts[which] = frames.message(said[which], length=self._chance.choice(NUMBERS) & 0xFFFFFFFF)
            case 1:
                parts[which] = frames.message(said[which], compressed=True)
            case 2:
                parts = parts[:which] + parts[which + 1 :]
            case 3:
                parts *= self._chance.choice([2, 5, 50])
            case _:
                parts[which] = frames.message(self._changed(said[which]))
        given[at] = one._replace(payload=b"".join(parts)[:20_000])
        return given

    def _changed(self, message: bytes) -> bytes:
        """The same ProcessingRequest, nearly."""
        if self._chance.random() < 0.4:
            return self._scramble(message)
        try:
            request = pb.ProcessingRequest.FromString(message)
        except DecodeError:
            return self._message()
        kind = request.WhichOneof("request")
        match kind:
            case "request_body" | "response_body":
                body = getattr(request, kind)
                if self._chance.random() < 0.5:
                    body.body = self._chance.choice(_BODIES)
                else:
                    body.end_of_stream = not body.end_of_stream
            case "request_headers" | "response_headers":
                part = getattr(request, kind)
                name, value = self._chance.choice(_HEADERS)
                part.headers.headers.add(key=name, raw_value=value)
                part.end_of_stream = self._chance.random() < 0.3
            case _:
                return self._message()
        if self._chance.random() < 0.3:
            request.protocol_config.request_body_mode = self._chance.choice(_MODES)
            request.protocol_config.response_body_mode = self._chance.choice(_MODES)
        return request.SerializeToString()

    def _message(self) -> bytes:
        """A ProcessingRequest from nothing."""
        chance, request = self._chance, pb.ProcessingRequest()
        match chance.randrange(7):
            case 0:
                return b""
            case 1 | 2:
                headers = request.request_headers.headers.headers
                for name, value in chance.choices(_HEADERS, k=chance.randrange(4)):
                    headers.add(key=name, raw_value=value)
                request.request_headers.end_of_stream = chance.random() < 0.4
            case 3:
                request.request_body.body = chance.choice(_BODIES)
                request.request_body.end_of_stream = chance.random() < 0.6
            case 4:
                request.response_headers.headers.headers.add(key=":status", raw_value=b"200")
            case 5:
                request.response_body.body = chance.choice(_BODIES)
                request.response_body.end_of_stream = chance.random() < 0.6
            case _:
                getattr(request, chance.choice(["request_trailers", "response_trailers"])).SetInParent()
        return request.SerializeToString()

    # --- a frame of the state machine's moves ---

    def _fresh(self, stream: int) -> list[Item]:
        chance = self._chance
        number = chance.choice(NUMBERS)
        makers: list[Callable[[], bytes]] = [
            lambda: frames.settings({chance.choice(list(Setting)): number & 0xFFFFFFFF}),
            lambda: frames.settings(
                {
                    Setting.INITIAL_WINDOW_SIZE: chance.choice([0, 1, 10, 70_000]),
                    Setting.MAX_FRAME_SIZE: 20_000,
                }
            ),
            lambda: frames.settings(ack=True),
            lambda: frames.window_update(chance.choice([0, stream]), number & 0xFFFFFFFF),
            lambda: frames.window_update(chance.choice([0, stream]), chance.choice([1, 5, 1_000])),
            lambda: frames.reset(stream, chance.choice(list(Error))),
            lambda: frames.ping(ack=chance.random() < 0.3),
            lambda: frames.ping(b"draining", ack=True),
            lambda: frames.priority(stream, chance.choice([0, 1, stream])),
            lambda: frames.goaway(stream, 0, b"bye"),
            lambda: frames.data(stream, ended=chance.random() < 0.5, padding=chance.choice([None, 3])),
            lambda: frames.data(stream, frames.message(self._message()), ended=chance.random() < 0.3),
            lambda: frames.headers(stream, self._pairs(), ended=chance.random() < 0.3),
            lambda: frames.headers(stream, frames.block([("x-trailer", "1")]), ended=chance.random() < 0.8),
            lambda: frames.continuation(stream, b"", whole=chance.random() < 0.5),
            lambda: frames.frame(chance.choice([5, 0x42]), chance.randrange(256), stream, b"12345"),
        ]
        return _frames(chance.choice(makers)())

    # --- choosing ---

    def _stream(self, given: list[Item]) -> int:
        known = [item.stream for item in given if isinstance(item, Frame)] or [1]
        return max(0, self._chance.choice(known) + self._chance.choice([0, 0, 0, 0, 1, 2, -2])) & 0x7FFFFFFF

    def _some(self, given: list[Item], *kinds: Kind) -> int | None:
        """The index of a frame, of these kinds where any are named."""
        found = [
            at
            for at, item in enumerate(given)
            if isinstance(item, Frame) and (not kinds or item.kind in kinds)
        ]
        return self._chance.choice(found) if found else None

    @staticmethod
    def _frame(given: list[Item], at: int) -> Frame:
        item = given[at]
        assert isinstance(item, Frame), item
        return item


def _frames(*parts: bytes) -> list[Item]:
    return [*FrameReader().feed(b"".join(parts))]


def _on(one: Frame, stream: int) -> Frame:
    return one._replace(stream=stream & 0x7FFFFFFF)


_CHANGES: Sequence[Callable[[Mutator, list[Item]], list[Item] | None]] = (
    Mutator._drop,
    Mutator._repeat,
    Mutator._swap,
    Mutator._insert,
    Mutator._insert,
    Mutator._append_call,
    Mutator._append_call,
    Mutator._event,
    Mutator._head,
    Mutator._payload,
    Mutator._raw,
    Mutator._block,
    Mutator._split_block,
    Mutator._split_data,
    Mutator._pad,
    Mutator._messages,
    Mutator._messages,
    Mutator._messages,
)

_CHAT = b'{"model": "tiny", "messages": [{"role": "user", "content": "hello"}], "stream": true}'
_BODIES = (
    b"",
    _CHAT,
    _CHAT[:30],
    _CHAT[30:],
    _CHAT.replace(b"tiny", b"\\u0000"),
    b"{",
    b"x" * 3_000,
    b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n',
    b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3}}\n\ndata: [DONE]\n\n',
    b'data: {"error": "full"}\n\n',
)
_HEADERS = (
    (":path", b"/v1/chat/completions"),
    (":path", b"/v1/completions"),
    (":method", b"POST"),
    (":status", b"200"),
    (":status", b"999999999999"),
    ("content-type", b"text/event-stream"),
    ("content-length", b"99999999999"),
    ("content-length", b"10"),
    ("x-request-id", b"\xff\xfe"),
    ("X-Gateway-Model-Name-Rewrite", b"other"),
    ("", b""),
)
_FIELDS = (
    ("grpc-timeout", "1S"),
    ("grpc-timeout", "99999999H"),
    ("grpc-timeout", "0n"),
    ("grpc-encoding", "gzip"),
    ("content-length", "5"),
    ("content-length", "99999"),
    ("content-type", "text/plain"),
    ("x-long", "y" * 3_000),
    ("Loud", "1"),
    ("connection", "close"),
    (":path", "/again"),
    ("te", "gzip"),
)
_MODES = (pb.NONE, pb.STREAMED, pb.BUFFERED, pb.BUFFERED_PARTIAL, pb.FULL_DUPLEX_STREAMED)
