"""How system tests talk to a gateway and look at a picker: sockets and pages, no cleverness."""

import json
import re
import socket
import ssl
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import urlsplit

import grpc
import grpc.aio
from prometheus_client.parser import text_string_to_metric_families

from bench.http1 import Reader, status_of
from bench.rig.picker import Picker
from bench.rig.process import http_get, wait_until
from epp.wire.pb import ext_proc_pb2 as pb

DEADLINE = 60.0
"""Seconds for one answer: generous, the machine may be slow. Nothing is measured against it."""


# --- requests ----------------------------------------------------------------------------------------


@dataclass(slots=True)
class Reply:
    """One HTTP answer; ``complete`` is False when the connection ended before it did."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    complete: bool = False

    def json(self) -> Any:
        return json.loads(self.body)

    def events(self) -> list[str]:
        """The data of a server-sent event stream."""
        return [line[6:].decode() for line in self.body.splitlines() if line.startswith(b"data: ")]

    @property
    def served_by(self) -> str:
        return self.headers.get("x-served-by", "")


class Client:
    """One HTTP/1.1 connection that can stop at any point; ``with`` closes it."""

    def __init__(self, url: str, *, deadline: float = DEADLINE) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None and parts.port is not None
        self.authority = f"{parts.hostname}:{parts.port}"
        self.socket = socket.create_connection((parts.hostname, parts.port), timeout=deadline)
        self._reply = Reply()
        self._reader = Reader(self, responses=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, *parts: bytes) -> None:
        for part in parts:
            self.socket.sendall(part)

    def send_head(self, path: str, headers: Iterable[tuple[str, str | bytes]] = (), *, method: str) -> None:
        self._reply = Reply()
        lines = [f"{method} {path} HTTP/1.1".encode(), f"host: {self.authority}".encode()]
        lines += [
            name.encode() + b": " + (value if isinstance(value, bytes) else value.encode())
            for name, value in headers
        ]
        self.send(b"\r\n".join(lines) + b"\r\n\r\n")

    def read_until(self, wanted: bytes) -> Reply:
        """The answer as far as it has come once ``wanted`` is in its body."""
        while wanted not in self._reply.body and not self._reply.complete:
            if not self._receive():
                raise AssertionError(f"ended before {wanted!r}: {self._reply}")
        return self._reply

    def read(self) -> Reply:
        """The whole answer."""
        while not self._reply.complete and self._receive():
            pass
        return self._reply

    def has_answer(self) -> bool:
        """Something of the answer is there to be read."""
        self.socket.setblocking(False)
        try:
            return self.socket.recv(1, socket.MSG_PEEK) is not None
        except BlockingIOError:
            return False
        finally:
            self.socket.settimeout(DEADLINE)

    def _receive(self) -> bool:
        data = self.socket.recv(1 << 16)
        if data:
            self._reader.feed(data)
            return True
        self._reader.eof()
        return False

    # bench.http1.Sink

    def on_head(self, head: bytes) -> None:
        lines = head.decode("latin-1").split("\r\n")[1:]
        pairs = (line.partition(":") for line in lines)
        self._reply.status = status_of(head)
        self._reply.headers = {name.lower(): value.strip() for name, _, value in pairs}

    def on_body(self, data: bytes) -> None:
        self._reply.body += data

    def on_end(self) -> None:
        self._reply.complete = True


def ask(
    url: str,
    path: str,
    body: bytes | None = None,
    *,
    method: str | None = None,
    headers: Iterable[tuple[str, str | bytes]] = (),
    deadline: float = DEADLINE,
) -> Reply:
    """One request on its own connection."""
    with Client(url, deadline=deadline) as client:
        size = [] if body is None else [("content-length", str(len(body)))]
        kind = [] if body is None else [("content-type", "application/json")]
        method = method or ("GET" if body is None else "POST")
        client.send_head(path, [*kind, *size, *headers], method=method)
        if body:
            client.send(body)
        return client.read()


def chunks(
    body: bytes, size: int, trailers: Iterable[tuple[str, str]] = (), *, ended: bool = True
) -> Iterator[bytes]:
    """A body in HTTP/1.1 chunks, each to be written on its own."""
    for at in range(0, len(body), size):
        piece = body[at : at + size]
        yield b"%x\r\n%s\r\n" % (len(piece), piece)
    if ended:
        yield b"0\r\n" + b"".join(f"{name}: {value}\r\n".encode() for name, value in trailers) + b"\r\n"


def chat(words: str = "hello there", *, max_tokens: int = 4, stream: bool = False, **more: object) -> bytes:
    """A chat completion; what is in ``more`` comes before the messages."""
    body: dict[str, object] = {"model": "tiny", **more, "max_tokens": max_tokens}
    if stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    body["messages"] = [{"role": "user", "content": words}]
    return json.dumps(body).encode()


CHAT = "/v1/chat/completions"


def new_id() -> str:
    return uuid.uuid4().hex


# --- looking at the picker ---------------------------------------------------------------------------


class Series:
    """The picker's metrics page."""

    def __init__(self, page: str) -> None:
        self._samples = [s for family in text_string_to_metric_families(page) for s in family.samples]
        self.names = {sample.name for sample in self._samples}

    def get(self, name: str, /, **labels: str) -> float | None:
        """The sum of the matching samples; None where there are none."""
        found = [
            sample.value
            for sample in self._samples
            if sample.name == name and labels.items() <= sample.labels.items()
        ]
        return sum(found) if found else None

    def count(self, name: str, /, **labels: str) -> float:
        """The same for a counter, which begins at nothing."""
        return self.get(name, **labels) or 0.0


def series(picker: Picker) -> Series:
    status, page = http_get(f"{picker.metrics_url}/metrics")
    assert status == 200, page
    return Series(page.decode())


def page(picker: Picker, path: str) -> Any:
    """One of the JSON pages."""
    status, text = http_get(f"{picker.metrics_url}{path}")
    assert status in (200, 503), text
    return json.loads(text)


def endpoints(picker: Picker) -> dict[str, dict[str, Any]]:
    """What the picker knows of each endpoint, by name."""
    return {one["name"]: one for one in page(picker, "/debug/endpoints")["endpoints"]}


def reachability(picker: Picker) -> dict[str, str]:
    """What the picker thinks of each: up (it takes requests), untried, down."""
    return {name: _reachability(one["phase"]) for name, one in endpoints(picker).items()}


def _reachability(phase: str) -> str:
    if phase in {"warming", "ready", "pressured", "suspect", "probing"}:
        return "up"
    return "untried" if phase == "pending" else "down"


def wait_reachable(picker: Picker, wanted: Mapping[str, str], *, timeout: float = DEADLINE) -> None:
    """Until exactly these endpoints are known, and known like this."""
    wait_until(lambda: reachability(picker) == wanted, what=f"endpoints {wanted}", timeout=timeout)


def picks(picker: Picker, limit: int = 100) -> list[dict[str, Any]]:
    """The last picks, newest first."""
    found: list[dict[str, Any]] = page(picker, f"/debug/picks?limit={limit}")["picks"]
    return found


def pick_of(picker: Picker, request_id: str) -> dict[str, Any]:
    """The pick for one request."""
    found = [pick for pick in picks(picker) if pick["request_id"] == request_id]
    assert len(found) == 1, f"{len(found)} picks for {request_id}"
    return found[0]


def picked_address(picker: Picker, request_id: str) -> str:
    pick = pick_of(picker, request_id)
    (address,) = [c["address"] for c in pick["candidates"] if c["endpoint"] == pick["picked"][0]]
    return str(address)


def request_lines(picker: Picker) -> list[dict[str, Any]]:
    """The INFO lines of finished requests."""
    lines = picker.log.read_text().splitlines()
    found = [json.loads(line) for line in lines if '"epp.request"' in line]
    return [line for line in found if line["msg"] == "request"]


def request_line(picker: Picker, request_id: str) -> dict[str, Any]:
    """The line of one request; it is written when the gateway has closed the stream."""

    def lines() -> list[dict[str, Any]]:
        return [line for line in request_lines(picker) if line.get("request_id") == request_id]

    wait_until(lambda: bool(lines()), what=f"the log line of {request_id}")
    (line,) = lines()
    return line


GAUGES_AT_REST = (
    "llm_d_epp_extproc_streams_inflight",
    "llm_d_epp_request_running",
    "inference_objective_running_requests",
    "fleet_epp_endpoint_in_flight_requests",
    "fleet_epp_endpoint_in_flight_tokens",
    "fleet_epp_buffered_bytes",
)


def busy_gauges(picker: Picker) -> dict[str, float | None]:
    """What is not 0 of that which is 0 when no request is there."""
    now = series(picker)
    values = {name: now.get(name) for name in GAUGES_AT_REST}
    always = {"llm_d_epp_extproc_streams_inflight", "fleet_epp_buffered_bytes"}
    return {name: value for name, value in values.items() if value or (value is None and name in always)}


def wait_at_rest(picker: Picker) -> None:
    """Until nothing is in flight any more, by every gauge."""
    try:
        wait_until(lambda: not busy_gauges(picker), what="nothing in flight", timeout=DEADLINE)
    except Exception as failure:
        failure.add_note(f"still busy: {busy_gauges(picker)}")
        raise


@dataclass(frozen=True, slots=True)
class Footprint:
    """What a picker holds of the machine."""

    descriptors: int
    tasks: tuple[str, ...]


def footprint(picker: Picker) -> Footprint:
    names = page(picker, "/debug/tasks")["tasks"]
    # a look at a server may be running at any moment; unnamed tasks are numbered
    lasting = [re.sub(r"^Task-\d+$", "Task", name) for name in names if not name.startswith("scrape: ")]
    return Footprint(picker.open_fds(), tuple(sorted(lasting)))


def wait_footprint(picker: Picker, before: Footprint, *, spare: int = 2) -> None:
    """Until no more is held than ``before``, give or take ``spare`` descriptors (admin connections)."""

    def same() -> bool:
        now = footprint(picker)
        more = Counter(now.tasks) - Counter(before.tasks)
        return not more and now.descriptors <= before.descriptors + spare

    try:
        wait_until(same, what=f"as little held as before: {before}", timeout=DEADLINE)
    except Exception as failure:
        failure.add_note(f"now: {footprint(picker)}")
        raise


# --- straight to the picker, as a gateway would ------------------------------------------------------

METHOD = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"


_CHANNEL = {
    "grpc.use_local_subchannel_pool": 1,  # a connection of its own
    "grpc.max_send_message_length": -1,
    "grpc.max_receive_message_length": -1,
    "grpc.ssl_target_name_override": "localhost",
}


def _credentials(picker: Picker) -> grpc.ChannelCredentials:
    """The picker's certificate is trusted because it is the one it shows."""
    shown = ssl.get_server_certificate(("127.0.0.1", picker.grpc_port)).encode()
    return grpc.ssl_channel_credentials(shown)


@contextmanager
def channel_to(picker: Picker) -> Iterator[grpc.Channel]:
    """A gRPC channel of its own."""
    options = list(_CHANNEL.items())
    with (
        grpc.secure_channel(picker.address, _credentials(picker), options=options)
        if picker.tls
        else grpc.insecure_channel(picker.address, options=options)
    ) as channel:
        yield channel


@asynccontextmanager
async def dialled(picker: Picker, *, windows_grow: bool = True) -> AsyncIterator[grpc.aio.Channel]:
    """The same for asyncio. ``windows_grow``: the client takes in more than is read, the faster the more."""
    options = [*_CHANNEL.items(), ("grpc.http2.bdp_probe", int(windows_grow))]
    async with (
        grpc.aio.secure_channel(picker.address, _credentials(picker), options=options)
        if picker.tls
        else grpc.aio.insecure_channel(picker.address, options=options)
    ) as channel:
        yield channel


Stream = grpc.aio.StreamStreamCall[pb.ProcessingRequest, pb.ProcessingResponse]


def opened(
    channel: grpc.aio.Channel,
    *,
    timeout: float | None = DEADLINE,
    metadata: Sequence[tuple[str, str | bytes]] = (),
) -> Stream:
    """One ext_proc stream, to be written to and read from."""
    process = channel.stream_stream(
        METHOD,
        request_serializer=pb.ProcessingRequest.SerializeToString,
        response_deserializer=pb.ProcessingResponse.FromString,
    )
    stream: Stream = process(timeout=timeout, metadata=metadata)
    return stream


async def say(stream: Stream, *messages: pb.ProcessingRequest) -> None:
    for message in messages:
        await stream.write(message)


async def hear(stream: Stream) -> pb.ProcessingResponse:
    """The next answer; AssertionError where the stream has ended instead."""
    answer = await stream.read()
    assert isinstance(answer, pb.ProcessingResponse), await stream.code()
    return answer


async def hear_body(stream: Stream, *, trailers: bool = False) -> bytes:
    """A body that comes back in pieces, request's or response's; its trailers are answered before its end."""
    pieces, ended = [], False
    while not ended:
        answer = await hear(stream)
        kind = str(answer.WhichOneof("response"))
        if trailers and kind.endswith("_trailers"):
            trailers = False
            continue
        piece = getattr(answer, kind).response.body_mutation.streamed_response
        assert len(piece.body) <= 62_000 or kind == "response_body"  # what Envoy shows is what it takes
        pieces.append(piece.body)
        ended = piece.end_of_stream
    assert not trailers, "answered"
    return b"".join(pieces)


async def end_in_order(stream: Stream) -> None:
    """We have said all, now or before; the picker has nothing more to say, and says OK."""
    await stream.done_writing()
    assert await stream.read() is grpc.aio.EOF
    assert await stream.code() is grpc.StatusCode.OK


def pieces(body: bytes, size: int) -> list[bytes]:
    return [body[at : at + size] for at in range(0, len(body), size)]


def converse(
    channel: grpc.Channel, messages: Iterable[pb.ProcessingRequest]
) -> Iterator[pb.ProcessingResponse]:
    """One ext_proc stream; the answers as they come."""
    process = channel.stream_stream(
        METHOD,
        request_serializer=pb.ProcessingRequest.SerializeToString,
        response_deserializer=pb.ProcessingResponse.FromString,
    )
    answers: Iterator[pb.ProcessingResponse] = process(iter(messages), timeout=DEADLINE)
    return answers


def request_headers(
    path: str = CHAT, *, ended: bool = False, more: Sequence[tuple[str, bytes]] = ()
) -> pb.ProcessingRequest:
    pairs = [(":method", b"POST"), (":path", path.encode()), *more]
    headers = [pb.HeaderValue(key=key, raw_value=value) for key, value in pairs]
    return pb.ProcessingRequest(
        request_headers=pb.HttpHeaders(headers=pb.HeaderMap(headers=headers), end_of_stream=ended)
    )


def request_body(data: bytes, *, ended: bool = True) -> pb.ProcessingRequest:
    return pb.ProcessingRequest(request_body=pb.HttpBody(body=data, end_of_stream=ended))


def response_headers(*more: tuple[str, bytes], status: bytes = b"200") -> pb.ProcessingRequest:
    headers = [pb.HeaderValue(key=key, raw_value=value) for key, value in ((":status", status), *more)]
    return pb.ProcessingRequest(response_headers=pb.HttpHeaders(headers=pb.HeaderMap(headers=headers)))


def response_body(data: bytes, *, ended: bool = True) -> pb.ProcessingRequest:
    return pb.ProcessingRequest(response_body=pb.HttpBody(body=data, end_of_stream=ended))


def destination(answer: pb.ProcessingResponse) -> str:
    """The address in the answer to the request headers."""
    mutation = answer.request_headers.response.header_mutation
    found = [
        one.header.raw_value.decode()
        for one in mutation.set_headers
        if one.header.key == "x-gateway-destination-endpoint"
    ]
    assert len(found) == 1, answer
    return found[0]


ERROR = re.compile(r"inference error: (\w+) - .+", re.DOTALL)


def error_code(reply: Reply) -> str:
    """The class that an error answer names in its text."""
    found = ERROR.fullmatch(reply.body.decode())
    assert found, reply
    return found[1]
