"""Spans of a real picker, as a collector receives them over OTLP; and what goes on to the server.

The collectors are small servers that decode what the SDK's exporters send.
"""

import gzip
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from bench.rig.envoy import Envoy
from bench.rig.llama import LlamaServer
from bench.rig.picker import Picker
from bench.rig.process import wait_until
from epp.wire.pb import ext_proc_pb2 as pb
from tests.http_pages import Page, served
from tests.system.listeners import LISTENERS
from tests.system.talk import (
    CHAT,
    ask,
    channel_to,
    chat,
    converse,
    reachability,
    request_body,
    request_headers,
    response_body,
    response_headers,
)

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED, UNSAMPLED = f"00-{TRACE}-{SPAN}-01", f"00-{TRACE}-{SPAN}-00"

pytestmark = pytest.mark.default_driver


class Collected:
    """What came, however it came."""

    def __init__(self) -> None:
        self.requests: list[ExportTraceServiceRequest] = []

    @property
    def spans(self) -> list[Any]:
        return [
            span
            for request in self.requests
            for of_resource in request.resource_spans
            for of_scope in of_resource.scope_spans
            for span in of_scope.spans
        ]

    def named(self, name: str) -> Any:
        (span,) = [span for span in self.spans if span.name == name]
        return span

    @property
    def resource(self) -> dict[str, str]:
        attributes = self.requests[0].resource_spans[0].resource.attributes
        return {each.key: each.value.string_value for each in attributes}


@contextmanager
def http_collector(collected: Collected) -> Iterator[str]:
    class Collector(Page):
        def posted(self, body: bytes) -> bytes:
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            assert self.path == "/v1/traces"
            collected.requests.append(ExportTraceServiceRequest.FromString(body))
            return b""

    with served(Collector) as address:
        yield f"http://{address}"


@contextmanager
def grpc_collector(collected: Collected) -> Iterator[str]:
    def export(request: ExportTraceServiceRequest, context: object) -> ExportTraceServiceResponse:
        collected.requests.append(request)
        return ExportTraceServiceResponse()

    handler = grpc.unary_unary_rpc_method_handler(
        export, ExportTraceServiceRequest.FromString, ExportTraceServiceResponse.SerializeToString
    )
    service = "opentelemetry.proto.collector.trace.v1.TraceService"
    server = grpc.server(
        ThreadPoolExecutor(1), [grpc.method_handlers_generic_handler(service, {"Export": handler})]
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


@pytest.fixture
def collected() -> Collected:
    return Collected()


@pytest.fixture
def collector(collected: Collected) -> Iterator[str]:
    with http_collector(collected) as url:
        yield url


def by_http(collector: str, **more: str) -> dict[str, str]:
    """The environment of a picker that sends its spans there at once."""
    return {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector,
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_BSP_SCHEDULE_DELAY": "20",
        **more,
    }


@contextmanager
def picker_with(
    environment: Mapping[str, str], logs: Path, servers: list[LlamaServer], *flags: str
) -> Iterator[Picker]:
    picker = Picker(
        logs=logs,
        name="picker-tracing",
        endpoints={server.name: server.address for server in servers},
        environment=environment,
        flags=["--tracing=true", *flags],
        tls=False,
    )
    with picker:
        wait_until(lambda: set(reachability(picker).values()) == {"up"}, what="all servers seen")
        yield picker


def answered(picker: Picker, *headers: tuple[str, bytes]) -> dict[str, str]:
    """One request to its end; the headers that its server would get from us."""
    messages = [
        request_headers(more=[("x-request-id", b"r-1"), *headers]),
        request_body(chat()),
        response_headers(("content-type", b"application/json")),
        response_body(b'{"usage": {"prompt_tokens": 7, "completion_tokens": 2}}'),
    ]
    with channel_to(picker) as channel:
        answers = list(converse(channel, messages))
    return set_headers(answers)


def set_headers(answers: list[pb.ProcessingResponse]) -> dict[str, str]:
    mutation = answers[0].request_headers.response.header_mutation
    assert not mutation.remove_headers
    return {one.header.key: one.header.raw_value.decode() for one in mutation.set_headers}


@pytest.mark.parametrize(
    "start, protocol", [(http_collector, "http/protobuf"), (grpc_collector, "grpc")], ids=["http", "grpc"]
)
def test_a_request_is_a_tree_of_spans_below_its_senders(
    start: Callable[[Collected], Any],
    protocol: str,
    collected: Collected,
    logs: Path,
    servers: list[LlamaServer],
) -> None:
    with (
        start(collected) as url,
        picker_with(by_http(url, OTEL_EXPORTER_OTLP_PROTOCOL=protocol), logs, servers) as picker,
    ):
        sent = answered(picker, ("traceparent", SAMPLED.encode()), ("baggage", b"user=a"))
        wait_until(lambda: bool(collected.spans), what="spans")
    names = {span.span_id: span.name for span in collected.spans}
    tree = {(span.name, names.get(span.parent_span_id)) for span in collected.spans}
    assert tree >= {
        ("gateway.request", None),
        ("gateway.request_orchestration", "gateway.request"),
        ("run_scheduler_profile", "gateway.request_orchestration"),
        ("filter_endpoints", "run_scheduler_profile"),
        ("llm_d.epp.scoring", "run_scheduler_profile"),
        ("llm_d.epp.scorer.queue-scorer", "llm_d.epp.scoring"),
        ("pick_endpoints", "run_scheduler_profile"),
    }
    root = collected.named("gateway.request")
    assert {span.trace_id.hex() for span in collected.spans} == {TRACE}
    assert root.parent_span_id.hex() == SPAN
    assert sent["traceparent"] == f"00-{TRACE}-{root.span_id.hex()}-01"
    assert "baggage" not in sent, "what came goes on as it is"
    attributes = {each.key: each.value for each in root.attributes}
    assert attributes["gen_ai.request.model"].string_value == "tiny"
    assert attributes["gen_ai.usage.output_tokens"].int_value == 2
    assert attributes["llm_d.epp.endpoint"].string_value in {server.name for server in servers}
    assert collected.resource["service.name"] == "llm-d-epp"
    for span in collected.spans:
        assert root.start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano
        assert span.end_time_unix_nano <= root.end_time_unix_nano


def test_what_the_sender_did_not_sample_has_no_spans(
    collector: str, collected: Collected, logs: Path, servers: list[LlamaServer]
) -> None:
    environment = by_http(collector, OTEL_SERVICE_NAME="mine")
    with picker_with(environment, logs, servers) as picker:
        assert "traceparent" not in answered(picker, ("traceparent", UNSAMPLED.encode()))
        answered(picker, ("traceparent", SAMPLED.encode()))  # behind it: what comes, has come
        wait_until(lambda: bool(collected.spans), what="spans")
    assert len([span for span in collected.spans if span.name == "gateway.request"]) == 1
    assert collected.resource["service.name"] == "mine"


def test_the_last_spans_are_sent_before_the_process_ends(
    collector: str, collected: Collected, logs: Path, servers: list[LlamaServer]
) -> None:
    environment = by_http(collector, OTEL_BSP_SCHEDULE_DELAY="600000", OTEL_TRACES_SAMPLER="always_on")
    with picker_with(environment, logs, servers) as picker:
        assert answered(picker)["traceparent"].startswith("00-")
        assert collected.spans == []
    assert collected.named("gateway.request").parent_span_id == b""


@pytest.mark.parametrize(
    "flag, environment",
    [
        pytest.param("--tracing=false", {}, id="the flag"),
        pytest.param("--tracing=true", {"OTEL_TRACES_EXPORTER": "none"}, id="the environment"),
    ],
)
def test_tracing_can_be_off_although_there_is_a_collector(
    flag: str, environment: dict[str, str], collected: Collected, logs: Path, servers: list[LlamaServer]
) -> None:
    with http_collector(collected) as collector:
        stays_silent(by_http(collector, OTEL_TRACES_SAMPLER="always_on", **environment), flag, logs, servers)
    assert collected.requests == [], "not even at its end"


def stays_silent(environment: dict[str, str], flag: str, logs: Path, servers: list[LlamaServer]) -> None:
    with picker_with(environment, logs, servers, flag) as picker:
        assert "traceparent" not in answered(picker, ("traceparent", SAMPLED.encode()))


class Mirror(Page):
    """A server that looks like vLLM to the picker, and answers with what it was sent."""

    def got(self) -> bytes:
        return b"vllm:num_requests_waiting 0\nvllm:num_requests_running 0\n"

    def posted(self, body: bytes) -> bytes:
        return json.dumps({name: self.headers.get_all(name) for name in ("traceparent", "baggage")}).encode()


@pytest.mark.parametrize("is_on", [True, False], ids=["with spans", "without"])
def test_the_server_gets_the_context_through_a_gateway(
    is_on: bool, collector: str, collected: Collected, logs: Path
) -> None:
    with served(Mirror) as server:
        picker = Picker(
            logs=logs,
            name="picker-mirror",
            endpoints={"mirror": server},
            environment=by_http(collector) if is_on else {},
            flags=["--tracing=true"],
            tls=False,
        )
        listeners = {"buffered": LISTENERS["buffered"], "override_host": LISTENERS["override_host"]}
        envoy = Envoy(
            logs=logs,
            name="envoy-mirror",
            servers=[server],
            picker=picker.address,
            picker_tls=False,
            listeners=listeners,
        )
        with picker, envoy:
            wait_until(lambda: set(reachability(picker).values()) == {"up"}, what="the server seen")
            sent = [("traceparent", SAMPLED), ("baggage", "user=a")]
            for name in listeners:
                seen = ask(envoy.url(name), CHAT, chat(), headers=sent).json()
                assert seen["baggage"] == ["user=a"]
                (parent,) = seen["traceparent"]
                assert parent.startswith(f"00-{TRACE}-") and parent.endswith("-01")
                assert (parent != SAMPLED) is is_on
    roots = [span for span in collected.spans if span.name == "gateway.request"]
    assert len(roots) == (len(listeners) if is_on else 0)


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_a_dead_collector_delays_no_request_and_no_end(
    protocol: str, logs: Path, servers: list[LlamaServer]
) -> None:
    with http_collector(Collected()) as url:
        pass  # it is gone
    environment = by_http(url, OTEL_TRACES_SAMPLER="always_on", OTEL_EXPORTER_OTLP_PROTOCOL=protocol)
    with picker_with(environment, logs, servers) as picker:
        for _ in range(5):
            assert "traceparent" in answered(picker)
        assert picker.terminate() == 0
    assert '"msg":"stopped"' in picker.log.read_text()


def test_without_the_extra_one_line_says_what_to_do(tmp_path: Path) -> None:
    absent = tmp_path / "opentelemetry"
    absent.mkdir()
    (absent / "__init__.py").write_text("raise ImportError('not installed')")
    done = run(tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:4317")
    assert done.returncode == 1
    assert done.stderr == (
        "epp serve: OpenTelemetry is not installed, and the environment asks for spans "
        "(OTEL_EXPORTER_OTLP_ENDPOINT): pip install 'fleet-epp[otel]', or --tracing=false\n"
    )


def test_a_wrong_setting_is_one_line(tmp_path: Path) -> None:
    done = run(tmp_path, OTEL_TRACES_EXPORTER="zipkin")
    assert done.returncode == 1
    assert done.stderr == (
        'epp serve: OTEL_TRACES_EXPORTER: "zipkin" is not known: use otlp, console or none\n'
    )


def run(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    root = str(Path(__file__).resolve().parents[2])
    (folder / "servers.yaml").write_text("endpoints: [{name: a, address: 127.0.0.1, port: 9}]")
    ports = ["--grpc-port=0", "--grpc-health-port=0", "--metrics-port=0", "--secure-serving=false"]
    command = [sys.executable, "-m", "epp", "serve", f"--endpoints-file={folder}/servers.yaml", *ports]
    return subprocess.run(
        command,
        env={"PYTHONPATH": f"{folder}:{root}", **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_nothing_of_it_is_imported_where_it_is_off() -> None:
    found = "[name for name in sys.modules if name.startswith('opentelemetry')]"
    code = f"import epp.commands.serve, sys; print({found})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
