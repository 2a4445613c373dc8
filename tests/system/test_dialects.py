"""Each way in which a gateway shows a request to the picker, on each driver, with real parts at both ends."""

import base64
import json
import random
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from google.protobuf.json_format import ParseDict
from google.protobuf.struct_pb2 import Value

from bench.rig.envoy import SUBSET_HINT, Envoy, Listener, Route
from bench.rig.llama import LlamaServer
from bench.rig.model import TINY, model_file, text
from bench.rig.picker import Picker
from bench.rig.process import free_port, http_post, wait_until
from tests.system.gate import TOKENS, Gate
from tests.system.listeners import HINTED, LISTENERS
from tests.system.talk import (
    CHAT,
    Client,
    Reply,
    ask,
    chat,
    chunks,
    endpoints,
    error_code,
    new_id,
    pick_of,
    picked_address,
    picks,
    request_line,
    series,
    wait_at_rest,
    wait_reachable,
)

CHOOSING = ["original_dst", "override_host", "buffered", "streamed", "headers_only", "request_only"]
"""The listeners whose requests the picker sees."""
READING = [name for name in CHOOSING if name not in {"streamed", "headers_only"}]
"""Those that show the body before the picker must choose."""
EVERY = [*CHOOSING, "response_only"]

JSON_TYPE = ("content-type", "application/json")


def post(gateway: Envoy, listener: str, body: bytes, **more: str) -> tuple[Reply, str]:
    """A chat request with an id of its own."""
    request_id = new_id()
    headers = [("x-request-id", request_id), *more.items()]
    return ask(gateway.url(listener), CHAT, body, headers=headers), request_id


@pytest.mark.parametrize("listener", EVERY)
def test_a_get_is_answered(listener: str, gateway: Envoy, servers: list[LlamaServer]) -> None:
    reply = ask(gateway.url(listener), "/v1/models")
    assert reply.status == 200, reply
    assert len(reply.json()["data"]) == 1
    assert reply.served_by in {server.address for server in servers}


@pytest.mark.parametrize("listener", EVERY)
def test_an_answer_arrives_intact_and_its_usage_is_read(
    listener: str, gateway: Envoy, picker: Picker
) -> None:
    model = f"intact-{listener}"
    reply, _ = post(gateway, listener, chat(max_tokens=5, model=model))
    assert reply.status == 200, reply
    assert len(reply.body) == int(reply.headers.get("content-length", len(reply.body)))
    answer = reply.json()
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 5
    if listener in {"original_dst", "override_host", "buffered"}:  # the answer's body is shown as well
        name = "llm_d_epp_request_output_tokens_sum"
        wait_until(lambda: series(picker).get(name, model_name=model) == 5, what="usage")


@pytest.mark.parametrize("listener", CHOOSING)
def test_requests_go_where_the_picker_chose(
    listener: str, gateway: Envoy, picker: Picker, servers: list[LlamaServer]
) -> None:
    def generated() -> list[float]:
        return [server.metrics()["llamacpp:tokens_predicted_total"] for server in servers]

    before, chance = generated(), random.Random(listener)
    chosen = []
    for _ in range(6):
        reply, request_id = post(gateway, listener, chat(text(40, chance)))
        assert reply.status == 200, reply
        assert reply.served_by == picked_address(picker, request_id)
        chosen.append(reply.served_by)
    by_server = Counter(chosen)
    assert [4 * by_server[server.address] for server in servers] == [
        now - then for now, then in zip(generated(), before, strict=True)
    ]


def test_the_gateway_says_which_server_it_was(gateway: Envoy, picker: Picker) -> None:
    reply, request_id = post(gateway, "override_host", chat())
    line = request_line(picker, request_id)
    assert line["address"] == reply.served_by
    assert "served" not in line  # it would be there if it were another one


@pytest.mark.parametrize("listener", READING)
def test_a_conversation_stays_where_its_prefix_is(listener: str, gateway: Envoy, picker: Picker) -> None:
    words = text(300, random.Random(f"prefix {listener}"))
    places = set()
    for turn in range(5):
        reply, _ = post(gateway, listener, chat(f"{words} turn {turn}"))
        assert reply.status == 200, reply
        places.add(reply.served_by)
        wait_at_rest(picker)
    assert len(places) == 1


@pytest.mark.parametrize("listener", EVERY)
def test_five_megabytes_arrive(listener: str, gateway: Envoy, big_buffers: Envoy) -> None:
    envoy = big_buffers if listener == "buffered" else gateway
    short, _ = post(envoy, listener, chat("the end is what counts"))
    reply, _ = post(envoy, listener, chat("the end is what counts", padding="x" * 5_000_000))
    assert reply.status == 200, reply
    assert reply.json()["usage"]["prompt_tokens"] == short.json()["usage"]["prompt_tokens"]


@pytest.fixture(scope="module")
def big_buffers(_gateway: Envoy) -> Envoy:
    """The shared gateway: its BUFFERED listener has room for such a body."""
    assert _gateway.listeners["buffered"].buffer_limit > 6_000_000
    return _gateway


@pytest.mark.parametrize("listener", EVERY)
def test_an_unknown_path_passes_through_byte_for_byte(
    listener: str, gateway: Envoy, servers: list[LlamaServer]
) -> None:
    chance = random.Random(5)
    content = "".join(chance.choices(' aeinrst.,\N{SNOWMAN}\N{GRINNING FACE}é"\\/', k=60_000))
    body = json.dumps({"content": content}, ensure_ascii=False).encode()
    reply = ask(gateway.url(listener), "/tokenize", body)
    assert reply.status == 200, reply
    assert reply.json() == http_post(f"{servers[0].url}/tokenize", {"content": content})[1]


# --- streams -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("listener", EVERY)
def test_a_stream_arrives_complete(listener: str, gateway: Envoy, picker: Picker) -> None:
    model = f"stream-{listener}"
    reply, _ = post(gateway, listener, chat(max_tokens=30, stream=True, model=model))
    assert reply.status == 200, reply
    assert reply.headers["content-type"].startswith("text/event-stream")
    *events, done = reply.events()
    assert done == "[DONE]"
    decoded = [json.loads(event) for event in events]
    said = [e["choices"][0]["delta"].get("content") for e in decoded if e["choices"]]
    assert len([word for word in said if word]) == 30
    assert decoded[-1]["usage"]["completion_tokens"] == 30
    if listener in {"original_dst", "override_host", "buffered"}:
        name = "llm_d_epp_request_output_tokens_sum"
        wait_until(lambda: series(picker).get(name, model_name=model) == 30, what="usage")


@pytest.mark.parametrize("listener", [name for name in EVERY if name != "buffered"])
def test_the_first_token_arrives_while_the_server_still_generates(
    listener: str, gateway: Envoy, servers: list[LlamaServer]
) -> None:
    body = chat(max_tokens=1_500, stream=True)
    with Client(gateway.url(listener)) as client:
        client.send_head(CHAT, [JSON_TYPE, ("content-length", str(len(body)))], method="POST")
        client.send(body)
        client.read_until(b'"content":" ')
        assert sum(server.metrics()["llamacpp:requests_processing"] for server in servers) == 1
        reply = client.read()
    assert reply.complete and reply.events()[-1] == "[DONE]"


@pytest.mark.parametrize("listener", ["original_dst", "override_host", "streamed"])
def test_every_token_is_passed_on_when_it_comes(
    listener: str, gate: Gate, gate_gateway: Envoy, gate_picker: Picker
) -> None:
    body = chat(stream=True)
    with Client(gate_gateway.url(listener)) as client:
        client.send_head(CHAT, [JSON_TYPE, ("content-length", str(len(body)))], method="POST")
        client.send(body)
        client.read_until(b" t0")
        assert len(gate.held) == 1  # the server has sent one token and will send no more until told
        assert endpoints(gate_picker)["gate"]["requests_in_flight"] == 1
        gate.open()
        reply = client.read()
        gate.close()
    assert reply.complete
    assert len([event for event in reply.events() if "content" in event]) == TOKENS
    wait_at_rest(gate_picker)


@pytest.fixture(scope="module")
def gate() -> Iterator[Gate]:
    with Gate() as gate:
        yield gate


@pytest.fixture(scope="module")
def gate_picker(gate: Gate, driver: str, logs: Path) -> Iterator[Picker]:
    listed = {"gate": gate.address}
    with Picker(logs=logs, name="picker-gate", endpoints=listed, driver=driver) as picker:
        wait_reachable(picker, {"gate": "up"})
        yield picker


@pytest.fixture(scope="module")
def gate_gateway(gate: Gate, gate_picker: Picker, logs: Path) -> Iterator[Envoy]:
    with Envoy(
        logs=logs,
        name="envoy-gate",
        servers=[gate.address],
        picker=gate_picker.address,
        listeners=LISTENERS,
    ) as envoy:
        yield envoy


REWRITING = {
    "original_dst": b"other",
    "override_host": b"other",
    "buffered": b"other",
    "request_only": b"other",
    "streamed": b"tiny",  # the body is shown too late to be changed
}
"""The model the server is asked for, by listener."""


@pytest.mark.parametrize("header", ["x-llm-d-model-name-rewrite", "x-gateway-model-name-rewrite"])
@pytest.mark.parametrize("listener", REWRITING)
def test_the_model_is_renamed_and_nothing_else(
    listener: str, header: str, gate: Gate, gate_gateway: Envoy, gate_picker: Picker
) -> None:
    body, request_id = chat("rename me: \u00fc\u2192", top_p=0.5), new_id()
    gate.open()
    reply = ask(
        gate_gateway.url(listener), CHAT, body, headers=[(header, "other"), ("x-request-id", request_id)]
    )
    gate.close()
    assert reply.status == 200, reply
    head, arrived = gate.received[-1]
    assert request_id.encode() in head
    assert arrived == body.replace(b'"tiny"', b'"%s"' % REWRITING[listener])
    lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    assert lengths in ([], [b"content-length: %d" % len(arrived)])
    assert lengths or b"transfer-encoding: chunked" in head.lower()
    wait_at_rest(gate_picker)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("listener", REWRITING)
def test_the_client_sees_the_model_that_it_asked_for(listener: str, stream: bool, gateway: Envoy) -> None:
    """Where the gateway leaves the response's bytes to the picker. llama.cpp names its file."""
    body, own = chat("name yourself", stream=stream), str(model_file(TINY))
    reply = ask(gateway.url(listener), CHAT, body, headers=[("x-llm-d-model-name-rewrite", own)])
    assert reply.status == 200 and reply.complete, reply
    texts = reply.events() if stream else [reply.body.decode()]
    named = {json.loads(text)["model"] for text in texts if text != "[DONE]"}
    assert named == {"tiny" if listener in {"original_dst", "override_host"} else own}


# --- how a request may end ---------------------------------------------------------------------------


@pytest.mark.parametrize("size", [7, 100_000], ids=["small-chunks", "one-chunk"])
@pytest.mark.parametrize("listener", EVERY)
def test_a_chunked_request_is_answered(listener: str, size: int, gateway: Envoy) -> None:
    with Client(gateway.url(listener)) as client:
        client.send_head(CHAT, [JSON_TYPE, ("transfer-encoding", "chunked")], method="POST")
        client.send(*chunks(chat("in pieces " * 20), size))
        reply = client.read()
    assert reply.status == 200, reply
    assert reply.json()["usage"]["completion_tokens"] == 4


@pytest.mark.parametrize("listener", ["override_host_once", *(n for n in EVERY if n != "override_host")])
def test_a_request_with_trailers_is_answered(listener: str, gateway: Envoy) -> None:
    with Client(gateway.url(listener)) as client:
        headers = [JSON_TYPE, ("transfer-encoding", "chunked"), ("trailer", "x-checksum")]
        client.send_head(CHAT, headers, method="POST")
        client.send(*chunks(chat(), 50, [("x-checksum", "1")]))
        reply = client.read()
    assert reply.status == 200, reply
    assert reply.json()["usage"]["completion_tokens"] == 4


@pytest.mark.parametrize("listener", ["original_dst", "override_host"])
def test_requests_on_one_connection_are_answered_one_after_the_other(listener: str, gateway: Envoy) -> None:
    body = chat()
    for_each = [JSON_TYPE, ("content-length", str(len(body)))]
    with Client(gateway.url(listener)) as client:
        for _ in range(5):
            client.send_head(CHAT, for_each, method="POST")
            client.send(body)
            reply = client.read()
            assert (reply.status, reply.json()["usage"]["completion_tokens"]) == (200, 4)


# --- who decides -------------------------------------------------------------------------------------


@pytest.fixture
def decoy() -> Iterator[socket.socket]:
    """A port where a client would like its request to go."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        yield listener
        with pytest.raises(BlockingIOError):
            listener.accept()


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("listener", CHOOSING)
def test_a_destination_from_the_client_is_never_followed(
    listener: str, method: str, gateway: Envoy, servers: list[LlamaServer], decoy: socket.socket
) -> None:
    address = f"127.0.0.1:{decoy.getsockname()[1]}"
    path, body = (CHAT, chat()) if method == "POST" else ("/v1/models", None)
    names = ("x-gateway-destination-endpoint", "X-Gateway-Destination-Endpoint")
    reply = ask(gateway.url(listener), path, body, headers=[(name, address) for name in names])
    assert reply.status == 200, reply
    assert reply.served_by in {server.address for server in servers}


def _value(value: object) -> bytes:
    """A google.protobuf.Value as the header takes it."""
    return base64.b64encode(ParseDict(value, Value()).SerializeToString())


@pytest.mark.parametrize(
    "hint, number",
    [
        pytest.param(lambda addresses: addresses[2:], 1, id="list"),
        pytest.param(lambda addresses: ",".join(addresses[:2]), 2, id="comma-string"),
        pytest.param(lambda _: ["127.0.0.1"], 3, id="ip-without-port"),
        pytest.param(lambda _: ["127.0.0.1:1"], 0, id="nobody"),
        pytest.param(lambda _: [], 0, id="empty"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("listener", HINTED)
def test_the_gateways_subset_is_chosen_from(
    *,
    listener: str,
    method: str,
    hint: Callable[[list[str]], object],
    number: int,
    gateway: Envoy,
    picker: Picker,
    servers: list[LlamaServer],
) -> None:
    addresses, request_id = [server.address for server in servers], new_id()
    headers = [(SUBSET_HINT, _value(hint(addresses))), ("x-request-id", request_id)]
    path, body = (CHAT, chat()) if method == "POST" else ("/v1/models", None)
    reply = ask(gateway.url(listener), path, body, headers=headers)
    if number:
        allowed = {1: addresses[2:], 2: addresses[:2], 3: addresses}[number]
        assert reply.status == 200, reply
        assert {one["address"] for one in pick_of(picker, request_id)["candidates"]} == set(allowed)
        assert reply.served_by in allowed
    else:
        assert reply.status == 503
        assert error_code(reply) == "ServiceUnavailable"


@pytest.mark.parametrize("listener", HINTED)
def test_without_a_hint_all_are_chosen_from(listener: str, gateway: Envoy, picker: Picker) -> None:
    reply, request_id = post(gateway, listener, chat())
    assert reply.status == 200, reply
    assert len(pick_of(picker, request_id)["candidates"]) == 3


@pytest.fixture(scope="module")
def empty_picker(driver: str, logs: Path) -> Iterator[Picker]:
    with Picker(logs=logs, name="picker-empty", endpoints={}, driver=driver) as picker:
        yield picker


@pytest.fixture(scope="module")
def empty_gateway(empty_picker: Picker, _servers: list[LlamaServer], logs: Path) -> Iterator[Envoy]:
    with Envoy(
        logs=logs,
        name="envoy-empty",
        servers=[server.address for server in _servers],
        picker=empty_picker.address,
        listeners=LISTENERS,
    ) as envoy:
        yield envoy


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("listener", CHOOSING)
def test_without_endpoints_clients_are_told_so(
    listener: str, method: str, empty_gateway: Envoy, decoy: socket.socket
) -> None:
    address = f"127.0.0.1:{decoy.getsockname()[1]}"
    path, body = (CHAT, chat()) if method == "POST" else ("/v1/models", None)
    headers = [("x-gateway-destination-endpoint", address)]
    reply = ask(empty_gateway.url(listener), path, body, headers=headers)
    assert reply.status == 503
    assert reply.headers["x-llm-d-request-dropped-reason"] == "rejected-no-endpoints"
    assert error_code(reply) == "ServiceUnavailable"


def test_a_gateway_that_shows_only_responses_gets_no_picks(gateway: Envoy, picker: Picker) -> None:
    newest = picks(picker, 1)
    reply, _ = post(gateway, "response_only", chat())
    assert reply.status == 200, reply
    assert picks(picker, 1) == newest


@pytest.mark.parametrize("route", [Route.ORIGINAL_DST, Route.OVERRIDE_HOST])
def test_a_failing_picker_fails_requests_and_never_hangs_them(
    route: Route, logs: Path, servers: list[LlamaServer]
) -> None:
    with Envoy(
        logs=logs,
        name=f"envoy-alone-{route.value}",
        servers=[server.address for server in servers],
        picker=f"127.0.0.1:{free_port()}",
        listeners={"alone": Listener(route=route)},
    ) as envoy:
        assert ask(envoy.url("alone"), CHAT, chat()).status in (500, 503)
