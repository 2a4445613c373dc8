"""An ext_proc server that knows nothing: every request goes to one destination, every byte goes back.

    python -m bench.echo --port N --to 127.0.0.1:8001 [--server bare|fast|grpcio]

Place:   in a picker's place in bench.overhead. On a driver of the picker's it says what the driver costs;
         on bench.bare it is the bound: what any server in this language needs to move these bytes.
Ignores: prompts, loads, scores, metrics, the log; faults of the peer, which is Envoy on this machine.
Rule:    the bytes that the picker would answer, at the moments at which it would.
Source:  envoy/service/ext_proc/v3/external_processor.proto, for the numbers of its fields
"""

import argparse
import asyncio
import signal
from collections.abc import Iterator, Sequence
from functools import lru_cache

import uvloop

from bench.bare import Bare
from epp.config.flags import FLAGS
from epp.core.budget import Budget
from epp.core.events import AnswerRequestHeaders, AnswerResponseHeaders
from epp.core.stream import CHUNK_BYTES
from epp.runtime import serving
from epp.runtime.calls import Push
from epp.runtime.ext_proc import PROCESS
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
    is_waiting = False

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


# --- the command -------------------------------------------------------------------------------------


async def serve(server: str, port: int, destination: str) -> None:
    """Say so on standard output when it listens; stop on SIGTERM."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    if server == BARE:
        listening = await loop.create_server(lambda: Bare(lambda: Echo(destination)), "127.0.0.1", port)
        print("ready", flush=True)
        await stop.wait()
        listening.close()
        return

    def opened(_push: Push) -> Echo:
        return Echo(destination)

    driver = serving.make_server(server, {PROCESS: opened}, budget=Budget(1 << 30))
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
