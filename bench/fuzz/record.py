"""Records what real gateways and clients say to a picker: the first inputs of the fuzzer.

    python -m bench.fuzz.record     # writes bench/fuzz/seeds/ anew

A relay stands in front of the picker and writes down each read of each connection; what the picker answers
only passes. One recording is one connection with a few requests.
"""

import json
import socket
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

import grpc

from bench.fuzz.moves import In, Move, Wait, size, text
from bench.rig.envoy import Body, Envoy, Listener, Route
from bench.rig.picker import Picker
from bench.rig.process import Process, answers_ok, free_port, wait_until
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
PAUSE = 0.2
"""A gap between two reads from which on it is written down [s]."""


class Relay:
    """``with Relay(port) as relay:`` passes connections on to ``port`` and keeps what came."""

    def __init__(self, port: int) -> None:
        self.recordings: list[list[Move]] = []
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._threads = [threading.Thread(target=self._accept, name="relay")]

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._target))
            said: list[Move] = []
            self.recordings.append(said)
            for source, target, keep in ((client, server, said), (server, client, None)):
                thread = threading.Thread(target=_pass, args=(source, target, keep), name="relay")
                thread.start()
                self._threads.append(thread)


def _pass(source: socket.socket, target: socket.socket, keep: list[Move] | None) -> None:
    last = time.monotonic()
    with source, suppress(OSError):
        while data := source.recv(1 << 16):
            now, before = time.monotonic(), last
            last = now
            if keep is not None:
                keep += [Wait(round(now - before, 1))] if now - before >= PAUSE and keep else []
                keep.append(In(data))
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


class Engine(Process):
    """Servers that answer at once."""

    def __init__(self, logs: Path) -> None:
        self.ports = [free_port(), free_port()]
        command = [sys.executable, "-m", "bench.engine", "--answer-bytes", "300", "--sse-chunks", "3"]
        command += [word for port in self.ports for word in ("--port", str(port))]
        environment = {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
        super().__init__("engine", command, log=logs / "engine.log", environment=environment)

    def is_ready(self) -> bool:
        return all(answers_ok(f"http://127.0.0.1:{port}/metrics") for port in self.ports)


def _through_envoy(name: str, listener: Listener, engine: Engine, logs: Path) -> Callable[[int], None]:
    def talk(port: int) -> None:
        servers = [f"127.0.0.1:{one}" for one in engine.ports]
        envoy = Envoy(
            logs=logs,
            name=name,
            servers=servers,
            picker=f"127.0.0.1:{port}",
            picker_tls=False,
            listeners={name: listener},
        )
        with envoy:
            for stream in (False, True, False):
                chat = {"model": "tiny", "stream": stream, "messages": [{"role": "user", "content": "hi"}]}
                _post(f"{envoy.url(name)}/v1/chat/completions", json.dumps(chat).encode())

    return talk


def _post(url: str, body: bytes) -> None:
    request = urllib.request.Request(url, data=body, headers={"content-type": "application/json"})  # noqa: S310
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
            list(process(_endless(whole[:1]), timeout=0.2))


def _endless(messages: list[pb.ProcessingRequest]) -> Iterator[pb.ProcessingRequest]:
    yield from messages
    time.sleep(0.5)


@contextmanager
def _picker(engine: Engine, logs: Path) -> Iterator[Picker]:
    endpoints = {f"s{n}": f"127.0.0.1:{port}" for n, port in enumerate(engine.ports)}
    with Picker(logs=logs, endpoints=endpoints, tls=False, flags=["--server=fast"]) as picker:
        yield picker


def main() -> None:
    """Write every recording."""
    SEEDS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        logs = Path(folder)
        with Engine(logs) as engine, _picker(engine, logs) as picker:
            talks = {name: _through_envoy(name, one, engine, logs) for name, one in LISTENERS.items()}
            for name, talk in {**talks, "grpc-python": _by_grpc}.items():
                with Relay(picker.grpc_port) as relay:
                    talk(relay.port)
                    wait_until(lambda relay=relay: bool(relay.recordings), what=f"a recording of {name}")  # type: ignore[misc]
                longest = max(relay.recordings, key=size)
                (SEEDS / f"{name}.txt").write_bytes(text(longest))
                sys.stdout.write(f"{name}: {size(longest)} bytes in {len(longest)} reads\n")


if __name__ == "__main__":
    main()
