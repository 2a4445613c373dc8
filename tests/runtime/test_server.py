"""Both drivers over a real gRPC connection: streams end in every way and nothing stays behind."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import grpc
import grpc.aio
import pytest

from epp.core.apis import Parsers
from epp.core.budget import Budget
from epp.core.events import Outcome
from epp.core.fleet import Endpoint, EndpointSpec, Fleet
from epp.core.rejection import NO_CANDIDATES, Rejection
from epp.core.request import Request
from epp.core.scheduling import Decision
from epp.core.stream import StreamSettings
from epp.runtime import grpcio_server
from epp.runtime.calls import Push
from epp.runtime.errors import StartError
from epp.runtime.ext_proc import PROCESS as METHOD
from epp.runtime.ext_proc import Conversation, ExtProc
from epp.runtime.fast.frames import PREFACE, SETTINGS, frame
from epp.runtime.serving import make_server, stop
from epp.wire.pb import ext_proc_pb2 as pb
from tests.core.conversation import decide
from tests.runtime.raw_server import eventually

CHAT = b'{"model": "tiny", "messages": [{"role": "user", "content": "hello"}]}'
STREAMED_CHAT = CHAT[:-1] + b', "stream": true}'
Call = grpc.aio.StreamStreamCall


@pytest.fixture(params=["fast", "grpcio"])
def driver(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class OneEndpoint:
    """Stands for the scheduler: always the same endpoint, or always a refusal."""

    def __init__(self) -> None:
        self.endpoint = Endpoint(EndpointSpec(name="only", ip="10.0.0.1", port=8000))
        self.refusal: Rejection | None = None

    def pick(self, request: Request, now: float) -> Decision | Rejection:
        return self.refusal or decide(self.endpoint)


class Watcher:
    """Stands for metrics and the log."""

    def __init__(self) -> None:
        self.open = 0
        self.opened_ever = 0
        self.outcomes: list[Outcome] = []
        self.placements: list[Decision | Rejection] = []
        self.changed = asyncio.Event()

    def opened(self) -> None:
        self.open += 1
        self.opened_ever += 1

    def placed(self, request: Request, result: Decision | Rejection, seconds: float) -> None:
        self.placements.append(result)

    def finished(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)

    def closed(self) -> None:
        self.open -= 1
        self.changed.set()

    async def all_closed(self) -> None:
        """That there was a stream, and is none any more."""
        async with asyncio.timeout(20):
            while self.open or not self.opened_ever:
                self.changed.clear()
                await self.changed.wait()


class Setting:
    """A served picker and a channel to it."""

    def __init__(
        self, channel: grpc.aio.Channel, scheduler: OneEndpoint, watcher: Watcher, budget: Budget
    ) -> None:
        self.channel = channel
        self.scheduler = scheduler
        self.watcher = watcher
        self.budget = budget
        self._method = channel.stream_stream(
            METHOD,
            request_serializer=pb.ProcessingRequest.SerializeToString,
            response_deserializer=pb.ProcessingResponse.FromString,
        )

    def stream(self) -> Call:
        return self._method(timeout=30)

    async def nothing_left(self) -> None:
        await self.watcher.all_closed()
        assert self.scheduler.endpoint.requests_in_flight == 0
        assert self.scheduler.endpoint.tokens_in_flight == 0
        assert self.budget.used == 0


@asynccontextmanager
async def serving(driver: str, *, max_receive_bytes: int | None = None) -> AsyncIterator[Setting]:
    scheduler, watcher, budget = OneEndpoint(), Watcher(), Budget(1 << 30)
    settings = StreamSettings(Parsers(), budget, new_id=lambda: "made-id")
    part = ExtProc(
        scheduler=scheduler, health=Fleet(), settings=settings, observer=watcher, clock=time.monotonic
    )
    server = make_server(driver, {METHOD: part.open}, budget=budget, max_receive_bytes=max_receive_bytes)
    port = server.bind(0, flag="grpc-port")
    await server.start()
    options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options) as channel:
            yield Setting(channel, scheduler, watcher, budget)
    finally:
        await server.stop(0)


def headers(path: str = "/v1/chat/completions", *, ended: bool = False) -> pb.ProcessingRequest:
    pairs = {":path": path, ":method": "POST", "x-request-id": "r-1"}
    values = [pb.HeaderValue(key=key, raw_value=value.encode()) for key, value in pairs.items()]
    return pb.ProcessingRequest(
        request_headers=pb.HttpHeaders(headers=pb.HeaderMap(headers=values), end_of_stream=ended)
    )


def body(data: bytes, *, ended: bool = False) -> pb.ProcessingRequest:
    return pb.ProcessingRequest(request_body=pb.HttpBody(body=data, end_of_stream=ended))


def response_headers(kind: str = "application/json") -> pb.ProcessingRequest:
    pairs = {":status": "200", "content-type": kind}
    values = [pb.HeaderValue(key=key, raw_value=value.encode()) for key, value in pairs.items()]
    return pb.ProcessingRequest(response_headers=pb.HttpHeaders(headers=pb.HeaderMap(headers=values)))


def response_body(data: bytes, *, ended: bool = False) -> pb.ProcessingRequest:
    return pb.ProcessingRequest(response_body=pb.HttpBody(body=data, end_of_stream=ended))


PHASES = {
    "nothing sent": [],
    "headers": [headers()],
    "half a body": [headers(), body(CHAT[:10])],
    "whole request": [headers(), body(CHAT, ended=True)],
    "response headers": [headers(), body(CHAT, ended=True), response_headers()],
    "half a response": [headers(), body(CHAT, ended=True), response_headers(), response_body(b"{")],
}


async def test_a_whole_conversation_is_answered_message_by_message(driver: str) -> None:
    async with serving(driver) as setting:
        call = setting.stream()
        await call.write(headers())
        await call.write(body(CHAT))
        await call.write(body(b"", ended=True))
        answer = await call.read()
        sent = {
            h.header.key: h.header.raw_value
            for h in answer.request_headers.response.header_mutation.set_headers
        }
        assert sent["x-gateway-destination-endpoint"] == b"10.0.0.1:8000"
        piece = (await call.read()).request_body.response.body_mutation.streamed_response
        assert (piece.body, piece.end_of_stream) == (CHAT, True)
        await call.write(response_headers())
        assert (await call.read()).WhichOneof("response") == "response_headers"
        await call.write(response_body(b"{}", ended=True))
        assert (await call.read()).response_body.response.body_mutation.streamed_response.end_of_stream
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
        assert await call.code() is grpc.StatusCode.OK
        await setting.nothing_left()
        (outcome,) = setting.watcher.outcomes
        assert (outcome.status, outcome.response_complete) == (200, True)


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("leave", ["cancel", "half-close", "connection"])
async def test_a_client_may_leave_at_every_phase(
    driver: str, phase: str, leave: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[bytes] = []
    receive = Conversation.receive

    def counted(conversation: Conversation, message: bytes) -> Sequence[bytes]:
        heard.append(message)
        return receive(conversation, message)

    monkeypatch.setattr(Conversation, "receive", counted)
    async with serving(driver) as setting:
        call = setting.stream()
        for message in PHASES[phase]:
            await call.write(message)
        if len(PHASES[phase]) > 2:
            await call.read()
        await eventually(lambda: setting.watcher.open and len(heard) == len(PHASES[phase]))
        chosen = sum(isinstance(one, Decision) for one in setting.watcher.placements)
        assert chosen == (body(CHAT, ended=True) in PHASES[phase])
        assert setting.scheduler.endpoint.requests_in_flight == chosen, "there is something to give back"
        if phase == "half a body":
            assert setting.budget.used == 10
        match leave:
            case "cancel":
                call.cancel()
            case "half-close":
                await call.done_writing()
                async with asyncio.timeout(20):
                    while await call.read() is not grpc.aio.EOF:
                        pass
                assert await call.code() is grpc.StatusCode.OK
            case "connection":
                await setting.channel.close()
        await setting.nothing_left()


async def test_the_first_token_is_no_work_ahead_of_anyone_any_more(driver: str) -> None:
    async with serving(driver) as setting:
        endpoint, call = setting.scheduler.endpoint, setting.stream()
        await call.write(headers())
        await call.write(body(STREAMED_CHAT, ended=True))
        await call.read()
        await call.write(response_headers("text/event-stream"))
        await eventually(lambda: endpoint.requests_in_flight)
        assert (endpoint.requests_in_flight, endpoint.tokens_in_flight) == (1, 7)
        await call.write(response_body(b": still working\n\n"))
        await call.write(response_body(b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'))
        await eventually(lambda: not endpoint.tokens_in_flight)
        assert (endpoint.requests_in_flight, endpoint.tokens_in_flight) == (1, 0)
        call.cancel()
        await setting.nothing_left()


async def test_a_message_over_the_limit_ends_its_stream_alone(driver: str) -> None:
    async with serving(driver, max_receive_bytes=10_000) as setting:
        good, large = setting.stream(), setting.stream()
        for call, size in ((good, 9_000), (large, 11_000)):
            await call.write(headers("/anything"))
            await call.write(body(b"x" * size, ended=True))
        assert await large.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert (await good.read()).WhichOneof("response") == "request_headers"
        piece = (await good.read()).request_body.response.body_mutation.streamed_response
        assert len(piece.body) == 9_000
        await good.done_writing()
        assert await good.code() is grpc.StatusCode.OK
        await setting.nothing_left()


async def test_rubbish_ends_the_stream_with_an_error_and_no_other(driver: str) -> None:
    async with serving(driver) as setting:
        raw = setting.channel.stream_stream(METHOD)(timeout=30)
        await raw.write(b"\xff\xff")
        assert await raw.code() is grpc.StatusCode.INVALID_ARGUMENT
        second = setting.stream()
        await second.write(body(CHAT))
        assert await second.code() is grpc.StatusCode.INVALID_ARGUMENT
        good = setting.stream()
        await good.write(headers(ended=True))
        assert (await good.read()).WhichOneof("response") == "request_headers"
        good.cancel()
        await setting.nothing_left()


async def test_a_refusal_is_an_immediate_response(driver: str) -> None:
    async with serving(driver) as setting:
        setting.scheduler.refusal = NO_CANDIDATES
        call = setting.stream()
        await call.write(headers(ended=True))
        assert (await call.read()).immediate_response.status.code == 503
        await call.done_writing()
        assert await call.code() is grpc.StatusCode.OK
        await setting.nothing_left()


async def test_a_plugin_that_fails_costs_one_request(driver: str, caplog: pytest.LogCaptureFixture) -> None:
    async with serving(driver) as setting:
        good, setting.scheduler.pick = setting.scheduler.pick, fails  # type: ignore[method-assign]
        call = setting.stream()
        await call.write(headers(ended=True))
        assert (await call.read()).immediate_response.status.code == 500
        setting.scheduler.pick = good  # type: ignore[method-assign]
        after = setting.stream()
        await after.write(headers(ended=True))
        assert (await after.read()).WhichOneof("response") == "request_headers"
        call.cancel()
        after.cancel()
        await setting.nothing_left()
    assert "a plugin failed" in caplog.text


def fails(*_: object) -> Decision:
    raise KeyError("in a plugin")


async def test_what_cannot_be_counted_is_still_given_back(
    driver: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(driver) as setting:
        setting.watcher.placed = fails  # type: ignore[assignment]
        call = setting.stream()
        await call.write(headers(ended=True))
        assert (await call.read()).WhichOneof("response") == "request_headers"
        call.cancel()
        await setting.nothing_left()
    assert "counting a pick failed" in caplog.text


async def test_a_buffered_body_of_many_megabytes_fits_one_message(driver: str) -> None:
    async with serving(driver) as setting:
        call = setting.stream()
        await call.write(headers("/anything"))
        await call.write(body(b"x" * (20 << 20), ended=True))
        size = 0
        assert (await call.read()).WhichOneof("response") == "request_headers"
        while True:
            piece = (await call.read()).request_body.response.body_mutation.streamed_response
            size += len(piece.body)
            if piece.end_of_stream:
                break
        assert size == 20 << 20
        call.cancel()
        await setting.nothing_left()


async def test_two_thousand_streams_at_once_leave_nothing_behind(driver: str) -> None:
    async with serving(driver) as setting:
        calls = [setting.stream() for _ in range(2000)]
        for call in calls:
            await call.write(headers(ended=True))
        for call in calls:
            assert (await call.read()).WhichOneof("response") == "request_headers"
        assert setting.scheduler.endpoint.requests_in_flight == 2000
        for index, call in enumerate(calls):
            if index % 2:
                call.cancel()
            else:
                await call.done_writing()
        await setting.nothing_left()


async def test_draining_lets_open_streams_finish(driver: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpcio_server, "SETTLED", 0.0)  # what is not waited for is cut off at once
    scheduler, watcher = OneEndpoint(), Watcher()
    settings = StreamSettings(Parsers(), Budget(1 << 20), new_id=lambda: "made-id")
    part = ExtProc(
        scheduler=scheduler, health=Fleet(), settings=settings, observer=watcher, clock=time.monotonic
    )
    server = make_server(driver, {METHOD: part.open}, budget=settings.budget)
    port = server.bind(0, flag="grpc-port")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        setting = Setting(channel, scheduler, watcher, settings.budget)
        call = setting.stream()
        await call.write(headers(ended=True))
        await call.read()
        async with asyncio.TaskGroup() as tasks:
            stopping = tasks.create_task(
                stop(server.stop, 20, open_streams=lambda: watcher.open), name="stopping"
            )
            await call.write(response_headers())
            assert (await call.read()).WhichOneof("response") == "response_headers"
            assert not stopping.done()
            await call.done_writing()
            assert await call.code() is grpc.StatusCode.OK
        await setting.nothing_left()


async def test_a_peer_that_says_nothing_does_not_hold_up_the_end(driver: str) -> None:
    server = make_server(driver, {}, budget=Budget(1))
    port = server.bind(0, flag="grpc-port")
    await server.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(PREFACE + frame(SETTINGS, 0, 0))
    await reader.readexactly(9)
    async with asyncio.timeout(10):
        await server.stop(30)
    writer.close()


async def test_a_port_in_use_names_the_flag(driver: str) -> None:
    first, second = (make_server(driver, {}, budget=Budget(1)) for _ in range(2))
    port = first.bind(0, flag="grpc-port")
    await first.start()
    try:
        with pytest.raises(StartError, match=f"--grpc-port: port {port} "):
            second.bind(port, flag="grpc-port")
    finally:
        await first.stop(0)
        await second.stop(0)


class Later:
    """A Call that answers from events of its own: ``b"end"`` makes it over, ``b"wait"`` owes an answer."""

    def __init__(self, push: Push) -> None:
        self.push = push
        self.is_over = self.is_waiting = self.is_closed = False
        self.delivered_times = 0

    def receive(self, message: bytes) -> list[bytes]:
        self.is_waiting = message == b"wait"
        return [b"got " + message]

    def delivered(self) -> None:
        self.delivered_times += 1

    def close(self) -> None:
        self.is_closed = True


@asynccontextmanager
async def later(driver: str) -> AsyncIterator[tuple[grpc.aio.Channel, list[Later]]]:
    calls: list[Later] = []

    def opened(push: Push) -> Later:
        calls.append(Later(push))
        return calls[-1]

    server = make_server(driver, {"/test/Later": opened}, budget=Budget(1 << 20))
    port = server.bind(0, flag="grpc-port")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield channel, calls
        await eventually(lambda: all(call.is_closed for call in calls))
    finally:
        await server.stop(0)


async def test_an_answer_may_come_from_an_event_of_the_services_own(driver: str) -> None:
    async with later(driver) as (channel, calls):
        stream = channel.stream_stream("/test/Later")(timeout=30)
        await stream.write(b"one")
        assert await stream.read() == b"got one"
        for number in range(20):
            calls[0].push([b"late %d" % number, b"and"])
        for number in range(20):
            assert (await stream.read(), await stream.read()) == (b"late %d" % number, b"and")
        calls[0].is_over = True
        calls[0].push([b"last"])
        assert await stream.read() == b"last"
        assert await stream.read() is grpc.aio.EOF
        assert await stream.code() is grpc.StatusCode.OK
        assert calls[0].delivered_times > 1


async def test_a_peer_that_has_said_all_waits_for_the_answer_it_is_owed(driver: str) -> None:
    async with later(driver) as (channel, calls):
        stream = channel.stream_stream("/test/Later")(timeout=30)
        await stream.write(b"wait")
        await stream.done_writing()
        assert await stream.read() == b"got wait"
        calls[0].is_waiting = False
        calls[0].push([b"picked"])
        assert await stream.read() == b"picked"
        assert await stream.read() is grpc.aio.EOF
        assert await stream.code() is grpc.StatusCode.OK


async def test_a_peer_may_leave_while_an_answer_is_owed(driver: str) -> None:
    async with later(driver) as (channel, calls):
        stream = channel.stream_stream("/test/Later")(timeout=30)
        await stream.write(b"wait")
        assert await stream.read() == b"got wait"
        stream.cancel()
        await eventually(lambda: calls[0].is_closed)
        calls[0].push([b"too late"])


@pytest.mark.parametrize("limit", [100])
async def test_an_answer_over_the_limit_ends_its_stream(driver: str, limit: int) -> None:
    calls: list[Later] = []

    def opened(push: Push) -> Later:
        calls.append(Later(push))
        return calls[-1]

    server = make_server(driver, {"/test/Later": opened}, budget=Budget(1 << 20), max_send_bytes=limit)
    port = server.bind(0, flag="grpc-port")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stream = channel.stream_stream("/test/Later")(timeout=30)
        await stream.write(b"x" * 200)
        assert await stream.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        stream = channel.stream_stream("/test/Later")(timeout=30)
        await stream.write(b"x")
        assert await stream.read() == b"got x"
    await server.stop(0)
