"""Whatever clients, servers and files send, each gets the right answer, and everyone else is served on.

What clients and gateways send, on each driver; what servers send, on the default only: it comes through the
scraper, or through Envoy as any other answer.
"""

import gzip
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from itertools import chain, repeat
from pathlib import Path
from typing import Self

import grpc
import pytest

from bench.rig.envoy import Envoy, Listener, Route
from bench.rig.llama import LlamaServer
from bench.rig.picker import Picker
from bench.rig.process import free_port, wait_until
from tests.system.gate import Gate
from tests.system.talk import (
    CHAT,
    DEADLINE,
    Client,
    Reply,
    ask,
    channel_to,
    chat,
    chunks,
    converse,
    destination,
    endpoints,
    error_code,
    footprint,
    new_id,
    reachability,
    request_body,
    request_headers,
    request_line,
    series,
    wait_at_rest,
    wait_footprint,
    wait_reachable,
)

READING = ["original_dst", "override_host", "buffered"]
MIB = 1 << 20
MESSAGES = [{"role": "user", "content": "hi"}]


@pytest.fixture(autouse=True)
def _serves_on(picker: Picker, gateway: Envoy) -> Iterator[None]:
    """After each of these tests the same picker serves, and holds nothing of what it was sent."""
    pid = picker.pid
    yield
    assert picker.pid == pid
    assert ask(gateway.url("original_dst"), CHAT, chat()).status == 200
    wait_at_rest(picker)
    assert "Traceback" not in picker.log.read_text()


# --- bodies ------------------------------------------------------------------------------------------

WRONG = {
    "no-json": b"tell me a story",
    "cut-off": chat()[:-3],
    "two-values": chat() + b"{}",
    "a-list": b"[1, 2]",
    "a-number": b"7",
    "null": b"null",
    "no-model": json.dumps({"messages": MESSAGES}).encode(),
    "model-is-a-number": json.dumps({"model": 7, "messages": MESSAGES}).encode(),
    "model-is-null": json.dumps({"model": None, "messages": MESSAGES}).encode(),
    "no-messages": json.dumps({"model": "tiny"}).encode(),
    "messages-is-a-text": json.dumps({"model": "tiny", "messages": "hi"}).encode(),
    "a-message-is-a-number": json.dumps({"model": "tiny", "messages": [7]}).encode(),
    "deep": b'{"model": "tiny", "messages": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
}


@pytest.mark.parametrize("body", WRONG.values(), ids=WRONG.keys())
@pytest.mark.parametrize("listener", READING)
def test_a_wrong_body_is_the_clients_mistake(
    listener: str, body: bytes, gateway: Envoy, picker: Picker
) -> None:
    request_id = new_id()
    reply = ask(gateway.url(listener), CHAT, body, headers=[("x-request-id", request_id)])
    assert reply.status == 400, reply
    assert error_code(reply) == "BadRequest"
    line = request_line(picker, request_id)
    assert (line["status"], line["code"]) == (400, "BadRequest")


@pytest.mark.default_driver
@pytest.mark.parametrize(
    "body, headers, said",
    [
        (
            gzip.compress(chat()),
            [("content-encoding", "gzip")],
            b"the body is compressed (gzip), send it without",
        ),
        (b"\xef\xbb\xbf" + chat(), [], b"the body begins with a byte order mark, send UTF-8 without one"),
    ],
    ids=["gzip", "byte-order-mark"],
)
@pytest.mark.parametrize("listener", READING)
def test_a_body_in_another_form_is_refused_with_its_name(
    listener: str, body: bytes, headers: list[tuple[str, str]], said: bytes, gateway: Envoy
) -> None:
    reply = ask(gateway.url(listener), CHAT, body, headers=headers)
    assert reply.status == 400
    assert error_code(reply) == "BadRequest" and said in reply.body


def test_what_is_refused_is_counted_by_its_code(gateway: Envoy, picker: Picker) -> None:
    names = ("llm_d_epp_request_error_total", "inference_objective_request_error_total")
    before = series(picker)
    for _ in range(3):
        ask(gateway.url("original_dst"), CHAT, b"{")
    wait_at_rest(picker)
    now = series(picker)
    for name in names:
        grown = now.count(name, error_code="BadRequest") - before.count(name, error_code="BadRequest")
        assert grown == 3


@pytest.mark.parametrize("listener", READING)
def test_a_prompt_that_is_not_utf_8_is_the_servers_business(listener: str, gateway: Envoy) -> None:
    """As upstream's parser, which replaces such bytes, ours takes them for what they may be."""
    reply = ask(gateway.url(listener), CHAT, chat().replace(b"hello", b"h\xffllo"))
    assert reply.status == 400
    assert b"inference error" not in reply.body  # llama.cpp's own answer


@pytest.mark.parametrize("listener", ["streamed", "headers_only"])
def test_a_body_that_is_not_shown_to_the_picker_is_the_servers_business(
    listener: str, gateway: Envoy
) -> None:
    reply = ask(gateway.url(listener), CHAT, b"tell me a story")
    assert reply.status in (400, 500)
    assert b"inference error" not in reply.body  # llama.cpp's own answer


# --- too much ----------------------------------------------------------------------------------------


def send_until_answered(client: Client, parts: Iterator[bytes]) -> tuple[Reply, int]:
    """Write until an answer comes, as HTTP allows it at any time; how many bytes were written."""
    sent = 0
    with suppress(ConnectionError):
        for part in parts:
            if client.has_answer():
                break
            client.send(part)
            sent += len(part)
    return client.read(), sent


def test_a_body_announced_as_too_large_is_refused_before_it_is_sent(gateway: Envoy) -> None:
    with Client(gateway.url("original_dst")) as client:
        client.send_head(CHAT, [("content-length", str(65 * MIB))], method="POST")
        reply = client.read()
    assert reply.status == 413
    assert error_code(reply) == "PayloadTooLarge"


@pytest.mark.parametrize("listener", ["original_dst", "override_host"])
def test_a_body_that_never_ends_is_refused_when_it_is_too_large(
    listener: str, gateway: Envoy, picker: Picker
) -> None:
    with Client(gateway.url(listener)) as client:
        client.send_head(CHAT, [("transfer-encoding", "chunked")], method="POST")
        endless = chunks(b"x" * (200 * MIB), MIB, ended=False)
        reply, sent = send_until_answered(client, endless)
    assert reply.status == 413
    assert error_code(reply) == "PayloadTooLarge"
    assert 64 * MIB <= sent < 200 * MIB


def test_a_buffering_gateway_refuses_by_itself(gateway: Envoy) -> None:
    limit = gateway.listeners["buffered"].buffer_limit
    with Client(gateway.url("buffered")) as client:
        client.send_head(CHAT, [("transfer-encoding", "chunked")], method="POST")
        reply, _ = send_until_answered(client, chunks(b"x" * 4 * limit, MIB, ended=False))
    assert reply.status == 413


def test_bodies_over_the_picker_s_budget_are_refused_until_there_is_room(
    driver: str, logs: Path, servers: list[LlamaServer]
) -> None:
    listed = {server.name: server.address for server in servers}
    flags = ["--max-buffered-bytes", "1MiB"]
    with (
        Picker(logs=logs, name="picker-budget", endpoints=listed, flags=flags, driver=driver) as picker,
        Envoy(
            logs=logs, name="envoy-budget", servers=list(listed.values()), picker=picker.address
        ) as gateway,
    ):
        url = gateway.url("original_dst")
        with Client(url) as first:
            first.send_head(CHAT, [("content-length", "2000000")], method="POST")
            first.send(b"x" * 900_000)
            wait_until(lambda: series(picker).get("fleet_epp_buffered_bytes") == 900_000, what="held")
            reply = ask(url, CHAT, chat(padding="x" * 300_000))
            assert reply.status == 503
            assert reply.headers["retry-after"] == "1"
            assert error_code(reply) == "ServiceUnavailable"
            assert ask(url, CHAT, chat()).status == 200  # there is room for a small one
        wait_at_rest(picker)
        assert ask(url, CHAT, chat(padding="x" * 300_000)).status == 200


# --- headers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, value",
    [
        pytest.param("x-name", b"caf\xe9 \xff\xfe", id="invalid-utf-8"),
        pytest.param("x-name", "\N{SNOWMAN}".encode(), id="utf-8"),
        pytest.param("x-request-id", b"\xff\xff", id="request-id"),
        pytest.param("x-request-id", b"a" * 5_000, id="long-request-id"),
        pytest.param("x-llm-d-inference-fairness-id", b"\xff" * 500, id="fairness-id"),
        pytest.param("content-type", b"\xff", id="content-type"),
        pytest.param("x-llm-d-inference-objective", b"", id="empty"),
    ],
)
@pytest.mark.parametrize("listener", READING)
def test_no_header_is_too_strange(
    listener: str, name: str, value: bytes, gateway: Envoy, picker: Picker
) -> None:
    reply = ask(gateway.url(listener), CHAT, chat(), headers=[(name, value)])
    assert reply.status == 200, reply
    assert series(picker).get("llm_d_epp_request_total")  # the page can still be read


def test_nothing_that_a_client_sends_reaches_the_log_raw(gateway: Envoy, picker: Picker) -> None:
    request_id = new_id()
    model = "\x1b[31mred\nnew line\u2028"
    ask(
        gateway.url("original_dst"),
        CHAT,
        chat(model=model),
        headers=[("x-request-id", request_id)],
    )
    line = request_line(picker, request_id)  # one line, and it is JSON
    assert "\x1b" not in line["model"] and "\n" not in line["model"]


# --- straight to the picker --------------------------------------------------------------------------


def test_the_picker_answers_without_a_gateway_as_well(picker: Picker, servers: list[LlamaServer]) -> None:
    with channel_to(picker) as channel:
        first, *rest = converse(channel, [request_headers(), request_body(chat())])
        assert destination(first) in {server.address for server in servers}
        assert len(rest) == 1


@pytest.mark.parametrize("chunk", [62_000, 2 * MIB, 64 * MIB + 1], ids=["chunks", "large-chunks", "one"])
def test_a_body_over_64_mib_is_refused_however_it_comes(chunk: int, picker: Picker) -> None:
    """Also in one message: the limit of a message is above that of a body."""
    number = -(-(64 * MIB + 1) // chunk)
    piece = b"x" * chunk
    bodies = chain(repeat(request_body(piece, ended=False), number), [request_body(b"")])
    with channel_to(picker) as channel:
        answers = list(converse(channel, chain([request_headers()], bodies)))
    (answer,) = answers
    assert answer.immediate_response.status.code == 413


def test_a_message_over_the_limit_ends_only_its_stream(picker: Picker) -> None:
    with channel_to(picker) as channel:
        with pytest.raises(grpc.RpcError) as failure:
            list(converse(channel, [request_headers(), request_body(b"x" * (100 * MIB))]))
        assert failure.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        first, _ = converse(channel, [request_headers(), request_body(chat())])
        assert destination(first)


@pytest.mark.parametrize("data", [b"\xff\xff\xff", b"\x12\x05ab", b""], ids=["garbage", "cut-off", "empty"])
def test_what_is_no_message_ends_only_its_stream(data: bytes, picker: Picker) -> None:
    with channel_to(picker) as channel:
        process = channel.stream_stream("/envoy.service.ext_proc.v3.ExternalProcessor/Process")
        with suppress(grpc.RpcError):
            assert not list(process(iter([data]), timeout=DEADLINE))
        first, _ = converse(channel, [request_headers(), request_body(chat())])
        assert destination(first)


def test_messages_out_of_order_end_only_their_stream(picker: Picker) -> None:
    with channel_to(picker) as channel:
        with pytest.raises(grpc.RpcError) as failure:
            list(converse(channel, [request_body(chat())]))
        assert failure.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        with pytest.raises(grpc.RpcError):
            list(converse(channel, [request_headers(), request_headers()]))


@pytest.mark.parametrize(
    "data",
    [b"GET / HTTP/1.1\r\n\r\n", b"\x00" * 4_096, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 64, b""],
    ids=["http-1", "zeros", "broken-http-2", "nothing"],
)
def test_no_connection_harms_the_ports(data: bytes, picker: Picker) -> None:
    before = footprint(picker)
    for port in (picker.grpc_port, picker.health_port, picker.metrics_port):
        address = ("127.0.0.1", port)
        with socket.create_connection(address, timeout=DEADLINE) as connection, suppress(ConnectionError):
            connection.sendall(data)
    assert picker.health() == "SERVING"
    wait_footprint(picker, before)


@pytest.mark.default_driver
@pytest.mark.parametrize(
    "path, status",
    [
        ("/nothing", 404),
        ("/debug/picks?limit=0", 400),
        ("/debug/picks?limit=x", 400),
        ("/debug/picks?limits=5", 400),
        ("/../etc/passwd", 404),
    ],
)
def test_a_wrong_page_is_said_to_be_one(path: str, status: int, picker: Picker) -> None:
    reply = ask(picker.metrics_url, path)
    assert reply.status == status
    assert "error" in reply.json()


# --- servers whose metrics are no metrics ------------------------------------------------------------


class BadServer:
    """Listens, and does with every connection what it was made for."""

    def __init__(self, treat: Callable[[socket.socket], None]) -> None:
        self._treat = treat
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._listener.getsockname()[1]
        self.posts = 0
        """Requests for inference that came here."""
        self._thread = threading.Thread(target=self._accept, name="bad server")
        self._kept: list[socket.socket] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        for connection in self._kept:
            connection.close()

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                connection = self._listener.accept()[0]
                self._kept.append(connection)
                connection.settimeout(DEADLINE)
                with suppress(OSError):
                    if self._treat is not silent:
                        self.posts += connection.recv(4_096).startswith(b"POST")
                    self._treat(connection)


def silent(_: socket.socket) -> None:
    """Accepts and never answers."""


def answers_ssh(connection: socket.socket) -> None:
    connection.sendall(b"SSH-2.0-OpenSSH_9.6\r\n")
    connection.close()


def answers_endless_headers(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\n" + b"x-more: and more\r\n" * 100_000)
    connection.close()


def answers_fifty_megabytes(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 50000000\r\n\r\n")
    piece = b"vllm:num_requests_running 0\n" * 20_000
    for _ in range(90):
        connection.sendall(piece)


def answers_without_end(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    piece = b"vllm:num_requests_running 0\n" * 2_000
    chunk = b"%x\r\n%s\r\n" % (len(piece), piece)
    for _ in range(2_000):
        connection.sendall(chunk)


def answers_half(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\nvllm:num_requests_running 0\n")
    connection.close()


def hangs_up(connection: socket.socket) -> None:
    connection.close()


BAD = {
    one.__name__: one for one in (*(silent, answers_ssh, answers_endless_headers, answers_half, hangs_up),)
}
LARGE = {one.__name__: one for one in (answers_fifty_megabytes, answers_without_end)}
"""These serve, as far as one can see: only their load stays unknown."""


@pytest.fixture(scope="module")
def company(logs: Path) -> Iterator[tuple[Picker, Envoy, dict[str, BadServer], LlamaServer]]:
    """One good server among all the bad ones."""
    with ExitStack() as stack:
        bad = {name: stack.enter_context(BadServer(treat)) for name, treat in BAD.items()}
        good = stack.enter_context(LlamaServer(logs=logs, name="good"))
        listed = {name.replace("_", "-"): f"127.0.0.1:{server.port}" for name, server in bad.items()}
        listed |= {"good": good.address, "refuses": f"127.0.0.1:{free_port()}"}
        picker = stack.enter_context(Picker(logs=logs, name="picker-company", endpoints=listed))
        gateway = Envoy(logs=logs, name="envoy-company", servers=list(listed.values()), picker=picker.address)
        stack.enter_context(gateway)
        wait_until(lambda: reachability(picker)["good"] == "up", what="the good one", timeout=DEADLINE)
        yield picker, gateway, bad, good


Company = tuple[Picker, Envoy, dict[str, BadServer], LlamaServer]


@pytest.mark.default_driver
@pytest.mark.parametrize("name", [*(name.replace("_", "-") for name in BAD), "refuses"])
def test_a_bad_server_is_no_candidate_and_one_can_read_why(name: str, company: Company) -> None:
    picker, *_ = company
    wait_until(lambda: reachability(picker)[name] == "down", what=f"{name} down", timeout=DEADLINE)
    shown = endpoints(picker)[name]
    assert len(shown["reason"]) > 5
    assert shown["load"]["running"] is None  # unknown, not 0
    assert f'"endpoint":"{name}"' in picker.log.read_text()
    assert series(picker).get("fleet_epp_endpoint_up", endpoint=name) == 0


@pytest.mark.default_driver
@pytest.mark.parametrize("listener", ["original_dst", "override_host"])
def test_a_good_server_among_bad_ones_gets_all_requests(listener: str, company: Company) -> None:
    picker, gateway, bad, good = company
    wait_reachable(picker, {name: "up" if name == "good" else "down" for name in reachability(picker)})
    for _ in range(20):
        reply = ask(gateway.url(listener), CHAT, chat())
        assert (reply.status, reply.served_by) == (200, good.address)
    assert not any(server.posts for server in bad.values())


@pytest.fixture(scope="module")
def flooded(logs: Path) -> Iterator[Picker]:
    with ExitStack() as stack:
        servers = {name: stack.enter_context(BadServer(treat)) for name, treat in LARGE.items()}
        listed = {  # several times the same, so that there is enough to look at
            f"{name.replace('_', '-')}-{number}": f"127.0.0.1:{server.port}"
            for name, server in servers.items()
            for number in range(8)
        }
        yield stack.enter_context(Picker(logs=logs, name="picker-flooded", endpoints=listed))


@pytest.mark.default_driver
@pytest.mark.parametrize("name", [f"{name.replace('_', '-')}-0" for name in LARGE])
def test_a_server_whose_page_is_too_large_stays_and_one_can_read_why(name: str, flooded: Picker) -> None:
    wait_until(lambda: reachability(flooded)[name] == "up", what=f"{name} up", timeout=DEADLINE)
    remark = f'"endpoint":"{name}"', "larger than 4 MiB"
    wait_until(
        lambda: any(all(part in line for part in remark) for line in flooded.log.read_text().splitlines()),
        what="told",
    )
    assert endpoints(flooded)[name]["load"]["running"] is None  # unknown, not 0


@pytest.mark.default_driver
def test_fifty_megabytes_of_metrics_are_not_kept(flooded: Picker) -> None:
    def looks() -> float:
        return series(flooded).count("llm_d_epp_datalayer_poll_errors_total")

    before, resident = looks(), flooded.rss_bytes()
    wait_until(lambda: looks() >= before + 32, what="all looked at twice", timeout=DEADLINE)
    assert flooded.rss_bytes() < resident + 30 * MIB


# --- a server that answers badly ---------------------------------------------------------------------


@pytest.mark.default_driver
@pytest.mark.parametrize("treat", [answers_ssh, answers_half, hangs_up], ids=lambda treat: treat.__name__)
@pytest.mark.parametrize("route", [Route.ORIGINAL_DST, Route.OVERRIDE_HOST], ids=lambda route: route.value)
def test_a_server_that_answers_badly_gives_an_error_and_leaves_nothing(
    route: Route, treat: Callable[[socket.socket], None], logs: Path
) -> None:
    with (
        BadServer(treat) as server,
        Gate() as gate,
        Picker(
            logs=logs,
            name=f"picker-badly-{treat.__name__}-{route.value}",
            endpoints=[
                {
                    "name": "bad",
                    "address": "127.0.0.1",
                    "port": server.port,
                    "engine": "vllm",
                    "metricsURL": f"http://{gate.address}/metrics",
                }
            ],
        ) as picker,
    ):
        # Its metrics are well, and it is not. That is suspicion: the only one there is is asked all the same.
        wait_reachable(picker, {"bad": "down"})
        with Envoy(
            logs=logs,
            name=f"envoy-badly-{treat.__name__}-{route.value}",
            servers=[f"127.0.0.1:{server.port}"],
            picker=picker.address,
            listeners={"bad": Listener(route=route)},
        ) as gateway:
            for _ in range(5):
                reply = ask(gateway.url("bad"), CHAT, chat())
                assert reply.status >= 500 or not reply.complete, reply
            wait_at_rest(picker)
