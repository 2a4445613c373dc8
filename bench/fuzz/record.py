"""Records what real gateways and clients say to a picker: the first inputs of the fuzzer.

    python -m bench.fuzz.record     # writes bench/fuzz/seeds/ anew

Each recording is one connection with a few requests, in the reads in which they came.
"""

import asyncio
import json
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path

import grpc

from bench.fuzz.moves import In, size, text
from bench.recording import proxy
from bench.rig.envoy import Body, Envoy, Listener, Route
from bench.rig.picker import Picker
from bench.rig.process import free_port
from bench.stations import Engines
from epp.wire.pb import ext_proc_pb2 as pb

SEEDS = Path(__file__).parent / "seeds"
LISTENERS: Mapping[str, Listener] = {
    "envoy-duplex": Listener(),
    "envoy-override-host": Listener(route=Route.OVERRIDE_HOST),
    "envoy-buffered": Listener(request_body=Body.BUFFERED, response_body=Body.BUFFERED, buffer_limit=1 << 20),
    "envoy-streamed": Listener(request_body=Body.STREAMED, response_body=Body.STREAMED),
    "envoy-headers": Listener(request_body=Body.NONE, response_body=Body.NONE),
    "envoy-request-only": Listener(response_phase=False),
}


def _by_envoy(name: str, listener: Listener, servers: list[str], logs: Path, port: int) -> None:
    """Three chats through an Envoy of this dialect, the second one streamed."""
    with Envoy(
        logs=logs,
        name=name,
        servers=servers,
        picker=f"127.0.0.1:{port}",
        picker_tls=False,
        listeners={name: listener},
    ) as envoy:
        for stream in (False, True, False):
            chat = {"model": "tiny", "stream": stream, "messages": [{"role": "user", "content": "hi"}]}
            url, kind = f"{envoy.url(name)}/v1/chat/completions", {"content-type": "application/json"}
            request = urllib.request.Request(url, data=json.dumps(chat).encode(), headers=kind)  # noqa: S310
            with urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310
                answer.read()


def _by_grpc(port: int) -> None:
    """grpcio's client: a whole conversation, one that is cancelled, one with a deadline."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        process = channel.stream_stream(
            "/envoy.service.ext_proc.v3.ExternalProcessor/Process",
            request_serializer=pb.ProcessingRequest.SerializeToString,
            response_deserializer=pb.ProcessingResponse.FromString,
        )
        path = pb.HeaderValue(key=":path", raw_value=b"/v1/completions")
        headers = pb.HttpHeaders(headers=pb.HeaderMap(headers=[path]))
        body = pb.HttpBody(body=b'{"model": "tiny", "prompt": "hi"}', end_of_stream=True)
        whole = [pb.ProcessingRequest(request_headers=headers), pb.ProcessingRequest(request_body=body)]
        assert len(list(process(iter(whole)))) == 2
        cancelled = process(iter(whole))
        next(cancelled)
        cancelled.cancel()
        with suppress(grpc.RpcError):
            list(process(_then_silent(whole[:1]), timeout=0.2))


def _then_silent(messages: list[pb.ProcessingRequest]) -> Iterator[pb.ProcessingRequest]:
    yield from messages
    time.sleep(0.5)


async def _record(name: str, talk: Callable[[int], None], picker: Picker) -> None:
    port = free_port()
    async with proxy(port, picker.grpc_port) as tape:
        await asyncio.to_thread(talk, port)
    moves = [In(read) for read in tape.reads]
    (SEEDS / f"{name}.txt").write_bytes(text(moves))
    sys.stdout.write(f"{name}: {size(moves)} bytes in {len(moves)} reads\n")


async def main() -> None:
    """Write every recording."""
    SEEDS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        logs = Path(folder)
        with Engines(logs, 2, page_kb=2, chunks=3, chunk_seconds=0.01) as engines:
            servers = engines.addresses(2)
            endpoints = {f"s{number}": address for number, address in enumerate(servers)}
            with Picker(logs=logs, endpoints=endpoints, tls=False, flags=["--server=fast"]) as picker:
                for name, listener in LISTENERS.items():
                    await _record(name, partial(_by_envoy, name, listener, servers, logs), picker)
                await _record("grpc-python", _by_grpc, picker)


if __name__ == "__main__":
    asyncio.run(main())
