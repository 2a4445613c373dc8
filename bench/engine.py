"""A stand-in for an inference server that answers at once, so that what is measured is not the engine.

    python -m bench.engine --port 8001 --port 8002 [--answer-bytes 1024]
                           [--sse-chunks 32 --chunk-interval 0.01]
                           [--metrics-bytes 50000 | --metrics-page FILE]

Place:   behind the gateway in bench.overhead, one process for any number of ports (endpoints).
Ignores: prompts, models, sampling: it infers nothing. Figures taken with it are the picker's cost.
Rule:    one read callback per request, no parsing beyond the message's frame. A stream keeps the pace
         it announced: an event that is late does not delay the next.
Source:  the metrics page has the names and labels of vLLM 0.32
"""

import argparse
import asyncio
import itertools
import json
import resource
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import cast

import uvloop

from bench.http1 import ProtocolError, Reader

MODEL = "bench"
PAGE_BYTES = 50_000
_STREAM_MARKS = (b'"stream":true', b'"stream": true')
_MARK_BYTES = max(map(len, _STREAM_MARKS))


# --- answers -------------------------------------------------------------------------------------


def json_answer(size: int) -> bytes:
    """A chat completion with usage, padded to about ``size`` bytes."""
    usage = {"prompt_tokens": 200, "completion_tokens": 16, "total_tokens": 216}
    message = {"role": "assistant", "content": ""}
    answer = {
        "id": "chatcmpl-bench",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": MODEL,
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": usage,
    }
    message["content"] = _words(max(size - len(json.dumps(answer)), 1))
    return json.dumps(answer).encode()


def sse_events(count: int) -> list[bytes]:
    """The events of one stream: ``count`` with text, then usage and the end mark, both in one write."""
    frame = {
        "id": "chatcmpl-bench",
        "object": "chat.completion.chunk",
        "created": 1_700_000_000,
        "model": MODEL,
    }
    delta = {"index": 0, "delta": {"content": " token"}, "finish_reason": None}
    text = _event({**frame, "choices": [delta]})
    usage = {"prompt_tokens": 200, "completion_tokens": count, "total_tokens": 200 + count}
    return [*[text] * count, _event({**frame, "choices": [], "usage": usage}) + b"data: [DONE]\n\n"]


def framed(events: Sequence[bytes]) -> list[bytes]:
    """The events as chunks of a chunked body; the last with the body's end."""
    chunks = [b"%x\r\n%s\r\n" % (len(event), event) for event in events]
    return [*chunks[:-1], chunks[-1] + b"0\r\n\r\n"]


def _event(data: dict[str, object]) -> bytes:
    return b"data: " + json.dumps(data, separators=(",", ":")).encode() + b"\n\n"


def _words(size: int) -> str:
    return ("the quick brown server answers at once " * (size // 39 + 1))[:size]


# --- the metrics page ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class MetricsPage:
    """A page cut where its live gauges stand."""

    pieces: tuple[bytes, bytes, bytes, bytes]

    def render(self, running: int) -> bytes:
        """With ``running`` requests and the KV share that so many would take."""
        before, waiting, kv, rest = self.pieces
        share = b"%.4f" % min(running / 256, 1.0)
        return b"".join((before, b"%d.0" % running, waiting, b"0.0", kv, share, rest))


_LABELS = f'engine="0",model_name="{MODEL}"'
_GAUGES = ("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc")
_HISTOGRAMS = (
    "time_to_first_token_seconds",
    "inter_token_latency_seconds",
    "e2e_request_latency_seconds",
    "request_queue_time_seconds",
    "request_inference_time_seconds",
    "request_prefill_time_seconds",
    "request_decode_time_seconds",
    "request_time_per_output_token_seconds",
    "request_prompt_tokens",
    "request_generation_tokens",
    "request_max_num_generation_tokens",
    "request_params_max_tokens",
    "request_prefill_kv_computed_tokens",
    "iteration_tokens_total",
)
_COUNTERS = (
    "prompt_tokens",
    "generation_tokens",
    "num_preemptions",
    "prefix_cache_queries",
    "prefix_cache_hits",
    "external_prefix_cache_queries",
    "external_prefix_cache_hits",
    "mm_cache_queries",
    "mm_cache_hits",
    "estimated_flops_per_gpu",
    "estimated_read_bytes_per_gpu",
    "estimated_write_bytes_per_gpu",
)
_BOUNDS = (
    *("0.001", "0.005", "0.01", "0.02", "0.04", "0.06", "0.08", "0.1", "0.25", "0.5", "0.75", "1.0"),
    *("2.5", "5.0", "7.5", "10.0", "20.0", "40.0", "80.0", "160.0", "640.0", "2560.0", "+Inf"),
)


def synthetic_page(size: int = PAGE_BYTES) -> MetricsPage:
    """A page as vLLM writes it: its names, its labels, its order, and about its size.

    A smaller one ends earlier; a larger one is filled with the web framework's own series, as there.
    """
    head = [
        "# HELP python_info Python platform information",
        "# TYPE python_info gauge",
        'python_info{implementation="CPython",major="3",minor="12",patchlevel="3",version="3.12.3"} 1.0',
    ]
    gauges = [f"# HELP {name} Gauge.\n# TYPE {name} gauge\n{name}{{{_LABELS}}} \0\n" for name in _GAUGES]
    cache = [
        "# TYPE vllm:cache_config_info gauge",
        f'vllm:cache_config_info{{block_size="16",num_gpu_blocks="27000",{_LABELS}}} 1.0',
    ]
    page = "\n".join(head) + "\n" + "".join(gauges) + "\n".join(cache) + "\n"
    for family in _families():
        text = "\n".join(family) + "\n"
        if len(page) + len(text) // 2 > size:
            break
        page += text
    before, waiting, kv, rest = page.split("\0")
    return MetricsPage((before.encode(), waiting.encode(), kv.encode(), rest.encode()))


def _families() -> Iterator[list[str]]:
    """The series that no picker reads, without end."""
    yield from (_counter(f"vllm:{name}") for name in _COUNTERS)
    yield from (_histogram(f"vllm:{name}", _LABELS) for name in _HISTOGRAMS)
    for number in itertools.count():
        yield _histogram("http_request_duration_seconds", f'handler="/v1/{number}"')


def _counter(name: str) -> list[str]:
    lines = [f"# HELP {name}_total Cumulative number.", f"# TYPE {name}_total counter"]
    twin = [f"# HELP {name}_created Cumulative number.", f"# TYPE {name}_created gauge"]
    return [
        *lines,
        f"{name}_total{{{_LABELS}}} 12345.0",
        *twin,
        f"{name}_created{{{_LABELS}}} 1.795164444e+09",
    ]


def _histogram(name: str, labels: str) -> list[str]:
    lines = [f"# HELP {name} Histogram of {name}.", f"# TYPE {name} histogram"]
    lines += [f'{name}_bucket{{{labels},le="{bound}"}} {n * 100}.0' for n, bound in enumerate(_BOUNDS)]
    return [*lines, f"{name}_count{{{labels}}} 2300.0", f"{name}_sum{{{labels}}} 815.25"]


def page_from_file(path: Path) -> MetricsPage:
    """A recorded page; the values of the three gauges become live. Raises ValueError."""
    rest = path.read_bytes()
    pieces = []
    for name in _GAUGES:
        start = rest.find(b"\n" + name.encode() + b"{")
        cut = rest.find(b"} ", start) + 2
        end = rest.find(b"\n", cut)
        if start < 0 or cut < 2 or end < 0:
            raise ValueError(f"{path}: no series {name}, in this order: {', '.join(_GAUGES)}")
        pieces.append(rest[:cut])
        rest = rest[end:]
    return MetricsPage((pieces[0], pieces[1], pieces[2], rest))


# --- the server ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What all endpoints of the process answer with."""

    answer: bytes
    chunks: Sequence[bytes]
    """A stream's events, framed."""
    chunk_interval: float
    page: MetricsPage


@dataclass(slots=True)
class Endpoint:
    """One port: its name in answers and what is in flight there."""

    port: int
    behaviour: Behaviour
    in_flight: int = 0
    json_head: bytes = field(init=False)
    sse_head: bytes = field(init=False)

    def __post_init__(self) -> None:
        served = f"x-served-by: {self.port}\r\n"
        length = len(self.behaviour.answer)
        self.json_head = (
            f"HTTP/1.1 200 OK\r\n{served}content-type: application/json\r\ncontent-length: {length}\r\n\r\n"
        ).encode()
        self.sse_head = (
            f"HTTP/1.1 200 OK\r\n{served}content-type: text/event-stream; charset=utf-8\r\n"
            "transfer-encoding: chunked\r\n\r\n"
        ).encode()


class Server(asyncio.Protocol):
    """One connection to one endpoint."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._reader = Reader(self, responses=False)
        self._transport: asyncio.Transport | None = None
        self._line = b""
        self._tail = b""
        self._streaming = False
        self._busy = False  # counted as in flight
        self._timer: asyncio.TimerHandle | None = None
        self._began = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one without saying so

    def data_received(self, data: bytes) -> None:
        try:
            self._reader.feed(data)
        except ProtocolError as problem:
            print(f"bench.engine: {problem}", file=sys.stderr)
            self._close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._finished()
        if self._timer is not None:
            self._timer.cancel()

    # bench.http1.Sink

    def on_head(self, head: bytes) -> None:
        if self._busy:
            raise ProtocolError("a second request before the answer to the first")
        self._line = head[: head.find(b"\r\n")]
        self._tail = b""
        self._streaming = False
        self._busy = self._line.startswith(b"POST ")
        self._endpoint.in_flight += self._busy

    def on_body(self, data: bytes) -> None:
        if not self._streaming:
            seen = self._tail + data if self._tail else data
            self._streaming = any(mark in seen for mark in _STREAM_MARKS)
            self._tail = seen[-_MARK_BYTES:]

    def on_end(self) -> None:
        if self._line.startswith(b"POST "):
            if self._streaming:
                self._write(self._endpoint.sse_head)
                self._began = asyncio.get_running_loop().time()
                self._next_chunk(0)
            else:
                self._write(self._endpoint.json_head, self._endpoint.behaviour.answer)
                self._finished()
        else:
            self._get(self._line.split(b" ")[1] if self._line.count(b" ") == 2 else b"")

    def _get(self, path: bytes) -> None:
        behaviour = self._endpoint.behaviour
        if path == b"/metrics":
            self._plain(b"200 OK", behaviour.page.render(self._endpoint.in_flight))
        elif path == b"/health":
            self._plain(b"200 OK", b"")
        elif path == b"/v1/models":
            models = {"object": "list", "data": [{"id": MODEL, "object": "model"}]}
            self._plain(b"200 OK", json.dumps(models).encode())
        else:
            self._plain(b"404 Not Found", b"")

    def _plain(self, status: bytes, body: bytes) -> None:
        head = b"HTTP/1.1 %s\r\ncontent-type: text/plain\r\ncontent-length: %d\r\n\r\n" % (status, len(body))
        self._write(head, body)

    def _next_chunk(self, number: int) -> None:
        """Write one and, when its time has come, the next: apart, so that each travels on its own."""
        behaviour = self._endpoint.behaviour
        self._write(behaviour.chunks[number])
        number += 1
        if number == len(behaviour.chunks):
            self._timer = None
            self._finished()
        elif self._transport is not None:
            loop = asyncio.get_running_loop()
            due = self._began + number * behaviour.chunk_interval
            self._timer = loop.call_later(max(due - loop.time(), 0.0), self._next_chunk, number)

    def _finished(self) -> None:
        self._endpoint.in_flight -= self._busy
        self._busy = False

    def _write(self, *parts: bytes) -> None:
        if self._transport is not None:
            self._transport.writelines(parts)

    def _close(self) -> None:
        if self._transport is not None:
            self._transport.abort()


async def serve(ports: Sequence[int], behaviour: Behaviour, host: str = "127.0.0.1") -> None:
    """Listen on all ports, say so on standard output, stop on SIGTERM or SIGINT."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # a port and some connections for each endpoint
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    servers = []
    for port in ports:
        connected = partial(Server, Endpoint(port, behaviour))
        servers.append(await loop.create_server(connected, host, port, backlog=1_024))
    print(json.dumps({"ready": list(ports)}), flush=True)
    await stop.wait()
    for server in servers:
        server.close()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.engine", description=__doc__.partition("\n")[0])
    parser.add_argument("--port", type=int, action="append", required=True, help="repeat for more endpoints")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0: all of 127.0.0.0/8 serves")
    parser.add_argument("--answer-bytes", type=int, default=1_024, help="size of a JSON answer")
    parser.add_argument("--sse-chunks", type=int, default=32, help="events with text in a streamed answer")
    parser.add_argument("--chunk-interval", type=float, default=0.01, help="seconds between two of them")
    parser.add_argument("--metrics-bytes", type=int, default=PAGE_BYTES, help="size of the metrics page")
    parser.add_argument("--metrics-page", type=Path, help="a recorded vLLM page instead of the synthetic one")
    options = parser.parse_args(arguments)
    if options.sse_chunks < 1 or options.chunk_interval < 0:
        parser.error("--sse-chunks must be at least 1 and --chunk-interval not negative")
    try:
        page = page_from_file(options.metrics_page) if options.metrics_page else None
        behaviour = Behaviour(
            json_answer(options.answer_bytes),
            framed(sse_events(options.sse_chunks)),
            options.chunk_interval,
            page or synthetic_page(options.metrics_bytes),
        )
        uvloop.run(serve(options.port, behaviour, options.host))
    except (OSError, ValueError) as problem:
        parser.exit(1, f"bench.engine: {problem}\n")


if __name__ == "__main__":
    main()
