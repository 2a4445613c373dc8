"""An ext_proc server that knows nothing: every request goes to one destination, every byte goes back.

    python -m bench.echo --port N --to 127.0.0.1:8001 [--server bare|fast|grpcio]

Place:   in a picker's place in bench.overhead. On a driver of the picker's it says what the driver costs;
         bare, it is the bound: what any server in this language needs to move these bytes.
Ignores: prompts, loads, scores, metrics, the log; faults of the peer, which is Envoy on this machine.
Rule:    the bytes that the picker would answer, at the moments at which it would.
Source:  RFC 9113 and gRPC over HTTP/2, as little of them as Envoy needs; ext_proc's field numbers
"""

import argparse
import asyncio
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from typing import cast

import uvloop

from epp.config.flags import FLAGS
from epp.core.events import AnswerRequestHeaders, AnswerResponseHeaders
from epp.core.stream import CHUNK_BYTES
from epp.runtime import serving
from epp.runtime.calls import Push
from epp.runtime.ext_proc import PROCESS
from epp.runtime.fast import frames
from epp.wire import ext_proc

BARE = "bare"

# --- the conversation ----------------------------------------------------------------------------

_RESPONSE_HEADERS, _REQUEST_BODY, _RESPONSE_BODY = 3, 4, 5  # fields of ProcessingRequest
_TO_REQUEST_BODY, _TO_RESPONSE_BODY = b"\x1a", b"\x22"  # tags in ProcessingResponse
_BYTES, _ENDED = 0x0A, b"\x10\x01"  # HttpBody and StreamedBodyResponse: body = 1, end_of_stream = 2
_WENT_THROUGH = ext_proc.encode(AnswerResponseHeaders())


class Echo:
    """One stream, as a Call: a body is collected and sent back in the picker's pieces."""

    __slots__ = ("_destination", "_pieces", "_streaming", "is_over")

    def __init__(self, destination: str) -> None:
        self._destination = destination
        self._pieces: list[bytes] = []
        self._streaming = False
        self.is_over = False

    def receive(self, message: bytes) -> Sequence[bytes]:
        kind = message[0] >> 3
        if kind == _RESPONSE_HEADERS:
            self._streaming = b"text/event-stream" in message
            return (_WENT_THROUGH,)
        if kind not in (_REQUEST_BODY, _RESPONSE_BODY):
            return ()
        data, ended = body_of(message)
        self._pieces.append(data)
        if not ended and not (kind == _RESPONSE_BODY and self._streaming):
            return ()
        whole = b"".join(self._pieces)
        self._pieces.clear()
        if kind == _RESPONSE_BODY:
            self.is_over = ended
            return (piece(_TO_RESPONSE_BODY, whole, ended=ended),)
        return (_to(self._destination, len(whole)), *_pieces(whole))

    def delivered(self) -> None:
        """Nothing is kept."""

    def close(self) -> None:
        """Nothing was taken."""


@lru_cache
def _to(destination: str, content_length: int) -> bytes:
    return ext_proc.encode(AnswerRequestHeaders([destination], content_length, None))


def _pieces(body: bytes) -> Iterator[bytes]:
    for at in range(0, len(body), CHUNK_BYTES):
        end = at + CHUNK_BYTES
        yield piece(_TO_REQUEST_BODY, body[at:end], ended=end >= len(body))


def body_of(message: bytes) -> tuple[bytes, bool]:
    """The bytes in a request_body or response_body message, and whether they are the last."""
    size, at = _varint(message, 1)
    end, data = at + size, b""
    if size and message[at] == _BYTES:
        size, at = _varint(message, at + 1)
        data = message[at : at + size]
        at += size
    return data, message[at:end] == _ENDED


def piece(tag: bytes, data: bytes, *, ended: bool) -> bytes:
    """The answer that passes on a piece of a body."""
    before = _before(tag, len(data), len(_ENDED) * ended)
    return b"".join((before, data, _ENDED)) if ended else before + data


@lru_cache(maxsize=4096)
def _before(tag: bytes, size: int, after: int) -> bytes:
    """BodyResponse.response.body_mutation.streamed_response, as far as the bytes."""
    head = b"\x0a" + _as_varint(size) if size else b""
    for outer in (b"\x1a", b"\x1a", b"\x0a", tag):
        head = outer + _as_varint(len(head) + size + after) + head
    return head


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """The number at ``at`` and where it ends."""
    value, shift = 0, 0
    while data[at] & 0x80:
        value |= (data[at] & 0x7F) << shift
        shift += 7
        at += 1
    return value | data[at] << shift, at + 1


def _as_varint(value: int) -> bytes:
    digits = bytearray()
    while value > 0x7F:
        digits.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*digits, value))


# --- HTTP/2, bare ------------------------------------------------------------------------------------

_WINDOW = 1 << 30
_CREDIT_BYTES = 1 << 24
_MAX_FRAME = 1 << 18
_HEADERS = b"\x88\x0f\x10\x10application/grpc"  # :status 200 and content-type, no table, no Huffman code
_TRAILERS = b"\x00\x0bgrpc-status\x010"


class Bare(asyncio.Protocol):
    """As much HTTP/2 as Envoy needs: no header is read, no fault is seen, a stream has no window."""

    def __init__(self, opened: Callable[[], Echo]) -> None:
        self._opened = opened
        self._transport: asyncio.Transport | None = None
        self._rest = b""
        self._calls: dict[int, Echo] = {}
        self._messages: dict[int, bytes] = {}
        self._out: list[bytes] = []
        self._window = frames.DEFAULT_WINDOW
        self._waiting: deque[tuple[int, bytes]] = deque()  # bytes that count, frames
        self._max_frame = frames.SMALLEST_MAX_FRAME
        self._received = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one without saying so
        self._rest = b""
        wanted = {frames.INITIAL_WINDOW_SIZE: _WINDOW, frames.MAX_FRAME_SIZE: _MAX_FRAME}
        transport.write(frames.settings(wanted) + frames.window_update(0, _WINDOW))  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        data = self._rest + data if self._rest else data
        at = len(frames.PREFACE) if data.startswith(frames.PREFACE) else 0
        size = len(data)
        while size - at >= frames.HEAD.size:
            high, low, kind, flags, number = frames.HEAD.unpack_from(data, at)
            begin = at + frames.HEAD.size
            end = begin + (high << 8 | low)
            if end > size:
                break
            self._frame(kind, flags, number, data[begin:end])
            at = end
        self._rest = data[at:]
        if self._out:
            out, self._out = b"".join(self._out), []
            if self._transport is not None:
                self._transport.write(out)

    def _frame(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        if kind == frames.DATA:
            self._credit(len(payload))
            call = self._calls.get(number)
            if call is not None and payload:
                self._data(number, call, payload)
        elif kind == frames.HEADERS:
            self._calls[number] = self._opened()
            self._messages[number] = b""
            self._out.append(frames.frame(frames.HEADERS, frames.END_HEADERS, number, _HEADERS))
        elif kind == frames.RST_STREAM:
            self._forget(number)
        elif kind == frames.SETTINGS and not flags & frames.ACK:
            given = dict(frames.SETTING.iter_unpack(payload))
            self._max_frame = given.get(frames.MAX_FRAME_SIZE, self._max_frame)
            self._out.append(frames.frame(frames.SETTINGS, frames.ACK, 0))
        elif kind == frames.PING and not flags & frames.ACK:
            self._out.append(frames.frame(frames.PING, frames.ACK, 0, payload))
        elif kind == frames.WINDOW_UPDATE and not number:
            self._window += int.from_bytes(payload, "big")
            while self._waiting and self._waiting[0][0] <= self._window:
                self._send(*self._waiting.popleft())

    def _data(self, number: int, call: Echo, payload: bytes) -> None:
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
            flags = frames.END_HEADERS | frames.END_STREAM
            self._queue(0, frames.frame(frames.HEADERS, flags, number, _TRAILERS))
            self._forget(number)

    def _answer(self, number: int, message: bytes) -> None:
        framed = b"\0" + len(message).to_bytes(4, "big") + message
        for at in range(0, len(framed), self._max_frame):
            part = framed[at : at + self._max_frame]
            self._queue(len(part), frames.frame(frames.DATA, 0, number, part))

    def _queue(self, counts: int, frame: bytes) -> None:
        if self._waiting or counts > self._window:
            self._waiting.append((counts, frame))
        else:
            self._send(counts, frame)

    def _send(self, counts: int, frame: bytes) -> None:
        self._window -= counts
        self._out.append(frame)

    def _credit(self, count: int) -> None:
        self._received += count
        if self._received >= _CREDIT_BYTES:
            self._out.append(frames.window_update(0, self._received))
            self._received = 0

    def _forget(self, number: int) -> None:
        self._calls.pop(number, None)
        self._messages.pop(number, None)


# --- the command -------------------------------------------------------------------------------------


async def serve(server: str, port: int, destination: str) -> None:
    """Say so on standard output when it listens; stop on SIGTERM."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    if server == BARE:
        listening = await loop.create_server(lambda: Bare(partial(Echo, destination)), "127.0.0.1", port)
        print("ready", flush=True)
        await stop.wait()
        listening.close()
        return

    def opened(_push: Push) -> Echo:
        return Echo(destination)

    driver = serving.make_server(server, {PROCESS: opened})
    driver.bind(port, flag="port")
    await driver.start()
    print("ready", flush=True)
    await stop.wait()
    await driver.stop(0)


def main(arguments: Sequence[str] | None = None) -> None:
    default = next(str(flag.default) for flag in FLAGS if flag.name == "server")
    parser = argparse.ArgumentParser(prog="python -m bench.echo", description=__doc__.partition("\n")[0])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--to", required=True, metavar="IP:PORT", help="where every request goes")
    parser.add_argument("--server", choices=[BARE, "fast", "grpcio"], default=default)
    options = parser.parse_args(arguments)
    uvloop.run(serve(options.server, options.port, options.to))


if __name__ == "__main__":
    main()
