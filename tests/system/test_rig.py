"""The rig itself: real parts start, answer, can be watched, die and come back."""

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

import grpc
import pytest

from bench.rig.envoy import Envoy, Listener, Route
from bench.rig.llama import LlamaServer
from bench.rig.model import TINY, model_file, text
from bench.rig.process import Process, RigError, free_port, http_get, http_post, wait_until
from epp.wire.pb import ext_proc_pb2 as pb

SLEEPER = [sys.executable, "-c", "import signal; signal.pause()"]
DEAF_PROGRAM = """
import signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("deaf", flush=True)
while True:
    signal.pause()
"""


def prompt(tokens: int = 20) -> dict[str, object]:
    return {"prompt": text(tokens, random.Random(7)), "max_tokens": 4}


def says(part: Process, word: str) -> Callable[[], bool]:
    return lambda: word in part.log.read_text()


# --- processes ---------------------------------------------------------------------------------------


def test_a_process_ends_with_its_block(tmp_path: Path) -> None:
    with Process("sleeper", SLEEPER, log=tmp_path / "log") as sleeper:
        pid = sleeper.pid
        assert sleeper.is_running
    assert not sleeper.is_running
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_process_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    deaf = Process("deaf", [sys.executable, "-c", DEAF_PROGRAM], log=tmp_path / "log").start()
    wait_until(says(deaf, "deaf"), what="handler installed")
    with pytest.raises(RigError, match="still runs"):
        deaf.terminate(timeout=0.2)
    deaf.stop(grace=0.1)
    assert deaf.exit_status == -signal.SIGKILL


def test_a_process_that_ends_instead_of_getting_ready_shows_its_log(tmp_path: Path) -> None:
    class Never(Process):
        def is_ready(self) -> bool:
            return False

    command = [sys.executable, "-c", "print('no such port'); raise SystemExit(3)"]
    with pytest.raises(RigError, match=r"status 3:\nno such port"):
        Never("never", command, log=tmp_path / "log").start()


def test_a_process_can_be_measured(tmp_path: Path) -> None:
    busy = [sys.executable, "-c", "print(sum(range(9_000_000)), flush=True); import signal; signal.pause()"]
    with Process("busy", busy, log=tmp_path / "log") as part:
        wait_until(says(part, "40499995500000"), what="the sum")
        assert 0 < part.cpu_seconds() < 60
        assert part.rss_bytes() > 1_000_000
        assert part.open_fds() >= 3


def test_nothing_outlives_a_killed_test_run(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from bench.rig.process import Process\n"
        f"part = Process('sleeper', {SLEEPER!r}, log=Path({str(tmp_path / 'log')!r})).start()\n"
        "print(part.pid, flush=True); sys.stdin.read()"
    )
    run = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
        start_new_session=True,
    )
    with run:
        assert run.stdout is not None
        child = int(run.stdout.readline())
        os.kill(child, 0)
        run.kill()
    wait_until(lambda: not is_alive(child), what="the child's end")


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"  # where no init collects orphans, a dead one stays listed


def test_free_ports_are_never_given_out_twice() -> None:
    ports = [free_port() for _ in range(200)]
    assert len(set(ports)) == len(ports)


# --- llama.cpp -----------------------------------------------------------------------------------------


def test_a_model_is_made_once() -> None:
    first = model_file(TINY)
    made = first.stat().st_mtime_ns
    assert model_file(TINY) == first
    assert first.stat().st_mtime_ns == made


def test_a_prompt_has_the_tokens_it_was_made_with_and_an_answer_has_all_it_may(
    servers: list[LlamaServer],
) -> None:
    status, answer = http_post(f"{servers[0].url}/v1/completions", prompt(tokens=123))
    assert status == 200
    assert answer["usage"]["prompt_tokens"] == 123 + 1  # and the one that begins every sequence
    assert answer["usage"]["completion_tokens"] == 4


def test_a_metrics_page_reads(servers: list[LlamaServer]) -> None:
    before = servers[0].metrics()["llamacpp:tokens_predicted_total"]
    http_post(f"{servers[0].url}/v1/completions", prompt())
    assert servers[0].metrics()["llamacpp:tokens_predicted_total"] == before + 4


def test_a_server_without_metrics_and_with_a_key_says_so(logs: Path) -> None:
    with LlamaServer(logs=logs, name="locked", metrics=False, api_key="sesame") as server:
        assert http_get(f"{server.url}/metrics")[0] == 401
        assert http_get(f"{server.url}/metrics", headers={"authorization": "Bearer sesame"})[0] == 501


def test_a_killed_server_refuses_and_comes_back_on_its_port(servers: list[LlamaServer]) -> None:
    server = servers[1]
    server.kill()
    with pytest.raises(OSError, match="refused"):
        http_get(f"{server.url}/health")
    server.start()
    assert http_post(f"{server.url}/v1/completions", prompt())[0] == 200


# --- Envoy ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plain(logs: Path, _servers: list[LlamaServer]) -> Iterator[Envoy]:
    listeners = {"round_robin": Listener(route=Route.ROUND_ROBIN)}
    addresses = [server.address for server in _servers]
    with Envoy(logs=logs, name="envoy-plain", servers=addresses, listeners=listeners) as envoy:
        yield envoy


def test_round_robin_reaches_every_server_in_turn(plain: Envoy, servers: list[LlamaServer]) -> None:
    before = [server.metrics()["llamacpp:tokens_predicted_total"] for server in servers]
    for _ in range(6):
        status, answer = http_post(f"{plain.url('round_robin')}/v1/completions", prompt())
        assert status == 200, answer
    after = [server.metrics()["llamacpp:tokens_predicted_total"] for server in servers]
    assert [now - then for now, then in zip(after, before, strict=True)] == [8, 8, 8]


def test_envoy_counts(plain: Envoy, servers: list[LlamaServer]) -> None:
    name = "http.round_robin.downstream_rq_2xx"
    before = plain.stats(name)[name]
    http_post(f"{plain.url('round_robin')}/v1/completions", prompt())
    assert plain.stats(name)[name] == before + 1


def test_a_listener_that_asks_a_picker_needs_one(tmp_path: Path) -> None:
    with pytest.raises(RigError, match="picker="):
        Envoy(logs=tmp_path, servers=["127.0.0.1:1"])


# --- the messages in proto/ ----------------------------------------------------------------------------


class FixedChoice:
    """The least that an ext_proc service must do: send every request to one address."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.seen: list[pb.ProcessingRequest] = []
        self._server = grpc.server(ThreadPoolExecutor(8))
        handler = grpc.stream_stream_rpc_method_handler(
            self._process,
            request_deserializer=pb.ProcessingRequest.FromString,
            response_serializer=pb.ProcessingResponse.SerializeToString,
        )
        methods = {"Process": handler}
        service = grpc.method_handlers_generic_handler("envoy.service.ext_proc.v3.ExternalProcessor", methods)
        self._server.add_generic_rpc_handlers((service,))
        self.port = self._server.add_insecure_port("127.0.0.1:0")

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(grace=None).wait()

    def _process(
        self, messages: Iterator[pb.ProcessingRequest], _context: object
    ) -> Iterator[pb.ProcessingResponse]:
        for message in messages:
            self.seen.append(message)
            answer = pb.ProcessingResponse()
            kind = message.WhichOneof("request")
            if kind == "request_headers":
                option = answer.request_headers.response.header_mutation.set_headers.add()
                option.header.key = "x-gateway-destination-endpoint"
                option.header.raw_value = self.address.encode()
                option.append_action = pb.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
                answer.dynamic_metadata["envoy.lb"] = {"x-gateway-destination-endpoint": self.address}
            elif kind == "response_headers":
                answer.response_headers.SetInParent()
            elif kind in {"request_body", "response_body"}:
                part = getattr(message, kind)
                streamed = getattr(answer, kind).response.body_mutation.streamed_response
                streamed.body, streamed.end_of_stream = part.body, part.end_of_stream
            else:
                getattr(answer, kind or "").SetInParent()
            yield answer


@pytest.mark.parametrize("dialect", ["original_dst", "override_host"])
def test_envoy_understands_our_messages_and_we_envoys(
    dialect: str, logs: Path, servers: list[LlamaServer]
) -> None:
    addresses = [server.address for server in servers]
    chosen = servers[2]
    before = chosen.metrics()["llamacpp:tokens_predicted_total"]
    with (
        FixedChoice(chosen.address) as choice,
        Envoy(
            logs=logs,
            name=f"envoy-{dialect}",
            servers=addresses,
            picker=f"127.0.0.1:{choice.port}",
            picker_tls=False,
            listeners={dialect: Listener(route=Route(dialect))},
        ) as envoy,
    ):
        for _ in range(3):
            status, answer = http_post(f"{envoy.url(dialect)}/v1/completions", prompt())
            assert status == 200, answer
    assert chosen.metrics()["llamacpp:tokens_predicted_total"] == before + 12
    first = choice.seen[0]
    headers = {one.key: one.raw_value.decode() for one in first.request_headers.headers.headers}
    assert headers[":path"] == "/v1/completions"
    assert first.protocol_config.request_body_mode == pb.FULL_DUPLEX_STREAMED
    assert first.protocol_config.response_body_mode == pb.FULL_DUPLEX_STREAMED
    served = [
        message.metadata_context.filter_metadata["envoy.lb"]["x-gateway-destination-endpoint-served"]
        for message in choice.seen
        if message.HasField("response_headers") and message.metadata_context.filter_metadata
    ]
    assert served == ([chosen.address] * 3 if dialect == "override_host" else [])
