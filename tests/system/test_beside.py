"""The process with plugins that work beside the choice: GPU figures, lists of models, reports, who served."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from bench.rig.envoy import Body, Envoy, Listener, Route
from bench.rig.llama import LlamaServer
from bench.rig.picker import Picker
from bench.rig.process import wait_until
from epp.wire.pb import ext_proc_pb2 as pb
from tests.system.talk import (
    CHAT,
    ask,
    channel_to,
    chat,
    converse,
    destination,
    endpoints,
    request_body,
    request_headers,
    response_body,
    response_headers,
    series,
    wait_reachable,
)

ANSWER = json.dumps({"choices": [{}], "usage": {"prompt_tokens": 30, "completion_tokens": 12}}).encode()


class Exporter(ThreadingHTTPServer):
    """As NVIDIA's dcgm-exporter, of one GPU."""

    utilization = 10

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Page)


class _Page(BaseHTTPRequestHandler):
    server: Exporter

    def do_GET(self) -> None:
        page = b'DCGM_FI_DEV_GPU_UTIL{gpu="0",modelName="T4"} %d\n' % self.server.utilization
        self.send_response(200)
        self.send_header("content-length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base's name)
        """Silence."""


@pytest.fixture(scope="module")
def exporter() -> Iterator[Exporter]:
    with Exporter() as found:
        thread = threading.Thread(target=found.serve_forever, name="exporter")
        thread.start()
        yield found
        found.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def beside(exporter: Exporter, _servers: list[LlamaServer], logs: Path, driver: str) -> Iterator[Picker]:
    attribute = {
        "attribute": "GPUUtilization",
        "producer": "dcgm-extractor",
        "algorithm": {"type": "threshold", "threshold": {"operator": "LessThan", "value": 0.9}},
    }
    report = {
        "key": {"namespace": "envoy.lb", "name": "cost"},
        "expression": "usage.prompt_tokens + 3.0 * usage.completion_tokens",
        "condition": "has(usage.completion_tokens)",
    }
    config = {
        "plugins": [
            {"type": "queue-scorer"},
            {"type": "models-data-source", "parameters": {"interval": "1s"}},
            {"type": "models-data-extractor"},
            {"type": "dcgm-data-source", "parameters": {"port": exporter.server_port, "interval": "1s"}},
            {"type": "dcgm-extractor"},
            {"type": "endpoint-attribute-filter", "parameters": attribute},
            {"type": "request-attribute-reporter", "parameters": {"attributes": [report]}},
            {"type": "destination-endpoint-served-verifier"},
            {"type": "probabilistic-admitter"},
            {"type": "endpoint-notification-source"},
        ],
        "dataLayer": {
            "sources": [
                {"pluginRef": "models-data-source", "extractors": [{"pluginRef": "models-data-extractor"}]},
                {"pluginRef": "dcgm-data-source"},
                {"pluginRef": "endpoint-notification-source"},
            ]
        },
    }
    servers = {f"llama-{i}": server.address for i, server in enumerate(_servers)}
    flags = ["--allow-experimental-plugins"]
    with Picker(
        logs=logs, name="picker-beside", endpoints=servers, config=config, driver=driver, flags=flags
    ) as picker:
        wait_reachable(picker, dict.fromkeys(servers, "up"))
        yield picker
        assert "Traceback" not in picker.log.read_text()


def figures(picker: Picker) -> set[float | None]:
    return {each["figures"].get("GPUUtilization") for each in endpoints(picker).values()}


def test_real_servers_list_their_models(beside: Picker) -> None:
    def lists() -> bool:
        return all(each["models"] for each in endpoints(beside).values())

    wait_until(lists, what="the models of all servers")


def test_a_busy_gpu_gets_no_requests(beside: Picker, exporter: Exporter) -> None:
    wait_until(lambda: figures(beside) == {0.1}, what="a figure of each endpoint")
    messages = [request_headers(), request_body(chat())]
    with channel_to(beside) as channel:
        assert destination(next(converse(channel, messages)))
        exporter.utilization = 95
        wait_until(lambda: figures(beside) == {0.95}, what="the new figure")
        assert next(converse(channel, messages)).immediate_response.status.code == 429
        exporter.utilization = 10
        wait_until(lambda: figures(beside) == {0.1}, what="the old figure")
        assert destination(next(converse(channel, messages)))


def test_the_gateway_is_told_what_a_request_has_cost_and_the_client_who_served(beside: Picker) -> None:
    wait_until(lambda: figures(beside) == {0.1}, what="a figure of each endpoint")
    answered = response_headers(("content-type", b"application/json"))
    known = answered.metadata_context.filter_metadata["envoy.lb"]
    known["x-gateway-destination-endpoint-served"] = "10.1.2.3:8000"
    messages = [request_headers(), request_body(chat()), answered, response_body(ANSWER)]
    with channel_to(beside) as channel:
        answers = list(converse(channel, messages))
    headers, last = answers[-2], answers[-1]
    told = {
        one.header.key: one.header.raw_value.decode()
        for one in headers.response_headers.response.header_mutation.set_headers
    }
    assert told["x-conformance-test-served-endpoint"] == "10.1.2.3:8000"
    assert last.WhichOneof("response") == "response_body"
    assert last.response_body.response.body_mutation.streamed_response.body == ANSWER
    assert last.dynamic_metadata["envoy.lb"]["cost"] == 30 + 3 * 12
    assert isinstance(last, pb.ProcessingResponse)


def test_errors_are_counted_by_source(beside: Picker) -> None:
    page = series(beside)
    for source in ("metrics-data-source", "models-data-source", "dcgm-data-source"):
        assert page.get("llm_d_epp_datalayer_poll_errors_total", source_type=source) is not None


LISTENERS = {
    "full_duplex": Listener(),
    "override_host": Listener(route=Route.OVERRIDE_HOST),
    "buffered": Listener(request_body=Body.BUFFERED, response_body=Body.BUFFERED),
    "streamed": Listener(request_body=Body.STREAMED, response_body=Body.STREAMED),
}


@pytest.fixture(scope="module")
def gateway_beside(_servers: list[LlamaServer], beside: Picker, logs: Path) -> Iterator[Envoy]:
    servers = [server.address for server in _servers]
    with Envoy(
        logs=logs, name="envoy-beside", servers=servers, picker=beside.address, listeners=LISTENERS
    ) as envoy:
        yield envoy


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("listener", LISTENERS)
def test_behind_a_real_envoy_answers_are_whole_with_their_reports(
    listener: str, stream: bool, gateway_beside: Envoy, beside: Picker
) -> None:
    wait_until(lambda: figures(beside) == {0.1}, what="a figure of each endpoint")
    reply = ask(gateway_beside.url(listener), CHAT, chat(stream=stream))
    assert (reply.status, reply.complete) == (200, True)
    told = reply.headers["x-conformance-test-served-endpoint"]
    if listener == "override_host":
        assert told in {each["address"] for each in endpoints(beside).values()}
    else:
        assert told == "fail: missing destination endpoint served metadata"
    assert reply.events()[-1] == "[DONE]" if stream else reply.json()["choices"]


def test_a_report_that_cannot_be_made_is_told_at_the_start(
    servers: list[LlamaServer], logs: Path, driver: str
) -> None:
    report = {"key": {"name": "cost"}, "expression": "usage.total_tokens"}
    plugins = [
        {"type": "queue-scorer"},
        {"type": "request-attribute-reporter", "parameters": {"attributes": [report]}},
    ]
    with Picker(
        logs=logs,
        name="picker-unreported",
        endpoints={"llama-0": servers[0].address},
        config={"plugins": plugins},
        driver=driver,
        flags=["--response-phase=headers"],
    ) as picker:
        wait_reachable(picker, {"llama-0": "up"})
    assert "--response-phase=headers: usage is not seen, so none is reported" in picker.log.read_text()
