"""Less of the response, with the real Envoy: what the picker is shown, and that clients notice nothing."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from bench.rig.envoy import Body, Envoy, Listener
from bench.rig.picker import Picker
from bench.rig.process import http_post, wait_until
from epp.core.events import (
    AnswerRequestBody,
    AnswerRequestHeaders,
    AnswerResponseHeaders,
    RequestBody,
    RequestHeaders,
    ResponseHeaders,
)
from epp.wire import ext_proc, usual
from tests.system.gate import TOKENS, Gate
from tests.system.talk import (
    CHAT,
    METHOD,
    Client,
    Reply,
    chat,
    endpoints,
    new_id,
    request_line,
    series,
    wait_at_rest,
    wait_reachable,
)

LISTENERS = {
    "duplex": Listener(),
    "streamed": Listener(request_body=Body.STREAMED, response_body=Body.STREAMED, allow_mode_override=True),
    "buffered": Listener(request_body=Body.BUFFERED, response_body=Body.BUFFERED, allow_mode_override=True),
    "streamed, not allowed": Listener(request_body=Body.STREAMED, response_body=Body.STREAMED),
    "buffered, not allowed": Listener(request_body=Body.BUFFERED, response_body=Body.BUFFERED),
    "duplex request": Listener(response_body=Body.STREAMED, allow_mode_override=True),
    "no response body": Listener(response_body=Body.NONE),
}
ASKED = {name: 3 if one.request_body is Body.FULL_DUPLEX else 2 for name, one in LISTENERS.items()}
"""Messages of a request: its headers and one piece, and in full duplex an empty one that ends it."""


@dataclass(frozen=True, slots=True)
class Shown:
    """What a picker sees of a response, and whether it knows of the request until the response's end."""

    messages: int
    """Of the response."""
    to_the_end: bool = True


ALL, HEADERS_ONLY, NOTHING = Shown(-1), Shown(1), Shown(0)  # of a stream ALL is one message for each piece
SHOWN: dict[str, dict[str, Shown]] = {
    "full": dict.fromkeys(LISTENERS, ALL)
    | dict.fromkeys(("buffered", "buffered, not allowed"), Shown(2))
    | {"no response body": HEADERS_ONLY},
    "headers": {
        "duplex": ALL,
        "streamed": HEADERS_ONLY,
        "buffered": HEADERS_ONLY,
        "streamed, not allowed": Shown(2, to_the_end=False),
        "buffered, not allowed": Shown(2),
        "duplex request": Shown(2, to_the_end=False),
        "no response body": HEADERS_ONLY,
    },
    "none": {
        "duplex": ALL,
        "streamed": NOTHING,
        "buffered": NOTHING,
        "streamed, not allowed": Shown(1, to_the_end=False),
        "buffered, not allowed": Shown(1, to_the_end=False),
        "duplex request": Shown(1, to_the_end=False),
        "no response body": HEADERS_ONLY,
    },
}
"""By --response-phase and listener."""


@pytest.fixture(scope="module")
def gate() -> Iterator[Gate]:
    with Gate() as gate:
        yield gate


@dataclass(frozen=True, slots=True)
class Place:
    """A picker with one --response-phase, and the gateway before it."""

    phase: str
    picker: Picker
    gateway: Envoy

    def sent(self, listener: str) -> int:
        """Messages from this listener to the picker so far."""
        return sum(self.gateway.stats(f"http.{listener}.ext_proc.stream_msgs_sent").values())


@pytest.fixture(scope="module", params=list(SHOWN))
def place(request: pytest.FixtureRequest, driver: str, gate: Gate, logs: Path) -> Iterator[Place]:
    phase = request.param
    flags = [f"--response-phase={phase}"]
    with (
        Picker(
            logs=logs, name=f"phase-{phase}", endpoints={"gate": gate.address}, flags=flags, driver=driver
        ) as picker,
        Envoy(
            logs=logs,
            name=f"envoy-{picker.name}",
            servers=[gate.address],
            picker=picker.address,
            listeners=LISTENERS,
        ) as gateway,
    ):
        wait_reachable(picker, {"gate": "up"})
        yield Place(phase, picker, gateway)


def request_of(body: bytes, request_id: str) -> bytes:
    """Head and body in one write: in two, Envoy shows the body's end in a message of its own or not."""
    lines = [f"POST {CHAT} HTTP/1.1", "host: test", "content-type: application/json"]
    lines += [f"content-length: {len(body)}", f"x-request-id: {request_id}", "", ""]
    return "\r\n".join(lines).encode() + body


def ask(place: Place, listener: str, *, stream: bool, until: bytes | None, gate: Gate) -> tuple[Reply, str]:
    """One request; the server's answer is held back until ``until`` has come to the client."""
    request_id = new_id()
    with Client(place.gateway.url(listener)) as client:
        client.send(request_of(chat(stream=stream), request_id))
        if until is not None:
            client.read_until(until)
            in_flight = int(SHOWN[place.phase][listener].to_the_end)
            wait_until(
                lambda: endpoints(place.picker)["gate"]["requests_in_flight"] == in_flight,
                what=f"{in_flight} in flight while the server still answers",
            )
        gate.open()
        reply = client.read()
        gate.close()
    return reply, request_id


@pytest.mark.parametrize("listener", LISTENERS)
def test_a_stream_arrives_whole_and_the_picker_sees_no_more_than_it_wants(
    listener: str, place: Place, gate: Gate
) -> None:
    shown = SHOWN[place.phase][listener]
    before = place.sent(listener)
    whole_at_once = shown == Shown(2)  # where a BUFFERED body is shown, the client gets nothing until it ends
    reply, request_id = ask(place, listener, stream=True, until=None if whole_at_once else b" t0", gate=gate)
    assert (reply.status, reply.complete) == (200, True), reply
    *events, usage, done = reply.events()
    assert done == "[DONE]" and json.loads(usage)["usage"]["completion_tokens"] == TOKENS
    assert [json.loads(event)["choices"][0]["delta"]["content"] for event in events] == [
        f" t{number}" for number in range(TOKENS)
    ]
    wait_at_rest(place.picker)
    seen = place.sent(listener) - before - ASKED[listener]
    if shown == ALL:
        assert seen >= 3
    else:  # Envoy may send one more before it sees that the stream is over
        assert shown.messages <= seen <= shown.messages + (not shown.to_the_end)
    line = request_line(place.picker, request_id)
    assert line.get("status") == (200 if shown.messages else None)
    assert ("completion_tokens" in line) == (shown == ALL or whole_at_once)
    assert "incomplete" not in line


@pytest.mark.parametrize("listener", LISTENERS)
def test_an_answer_arrives_whole(listener: str, place: Place, gate: Gate) -> None:
    gate.open()
    expected = http_post(f"http://{gate.address}{CHAT}", json.loads(chat()))[1]
    gate.close()
    for _ in range(20):
        reply, _ = ask(place, listener, stream=False, until=None, gate=gate)
        assert (reply.status, reply.complete, reply.json()) == (200, True, expected), reply
    wait_at_rest(place.picker)
    assert series(place.picker).count("llm_d_epp_request_error_total") == 0


@pytest.mark.parametrize("listener", LISTENERS)
def test_a_client_that_leaves_leaves_nothing(listener: str, place: Place, gate: Gate) -> None:
    with Client(place.gateway.url(listener)) as client:
        client.send(request_of(chat(stream=True), new_id()))
        wait_until(lambda: bool(gate.held), what="the request at the server")
    wait_at_rest(place.picker)
    wait_until(lambda: not gate.held, what="nothing held by the server")


# --- why a full duplex response is never left --------------------------------------------------------


def _leaving(address: str) -> Callable[[Iterator[bytes], grpc.ServicerContext], Iterator[bytes]]:
    """A picker that ends the stream with its answer to the response's headers."""
    to = ext_proc.encode(AnswerRequestHeaders([address]))

    def process(messages: Iterator[bytes], _: grpc.ServicerContext) -> Iterator[bytes]:
        for message in messages:
            match usual.event(message):
                case RequestHeaders(ended=True):
                    yield to
                case RequestBody(data, is_last) if data or is_last:
                    if not is_last:
                        yield to
                    yield ext_proc.encode(AnswerRequestBody(data, is_last))
                case ResponseHeaders():
                    yield ext_proc.encode(AnswerResponseHeaders())
                    return

    return process


@pytest.mark.parametrize("mode, arrives", [(Body.STREAMED, True), (Body.FULL_DUPLEX, False)])
def test_envoy_keeps_what_it_streams_and_loses_full_duplex(
    mode: Body, arrives: bool, gate: Gate, logs: Path
) -> None:
    """When this fails for full duplex, a newer Envoy allows what ``Stream`` avoids."""
    handler = grpc.stream_stream_rpc_method_handler(_leaving(gate.address))
    service, _, method = METHOD[1:].partition("/")
    with ThreadPoolExecutor() as pool:
        server = grpc.server(pool)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            with Envoy(
                logs=logs,
                name=f"envoy-leaving-{mode.value}",
                servers=[gate.address],
                picker=f"127.0.0.1:{port}",
                picker_tls=False,
                listeners={"one": Listener(response_body=mode)},
            ) as envoy:
                gate.open()
                with Client(envoy.url("one")) as client:
                    client.send(request_of(chat(), new_id()))
                    reply = client.read()
                gate.close()
        finally:
            server.stop(None).wait()
    assert (reply.status, reply.complete) == (200, True)
    assert bool(reply.body) is arrives
