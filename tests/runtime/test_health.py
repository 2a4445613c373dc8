"""grpc.health.v1 over a real channel."""

from collections.abc import AsyncIterator

import grpc
import grpc.aio
import pytest
from google.protobuf.message import DecodeError
from hypothesis import example, given
from hypothesis import strategies as st

from epp.core.budget import Budget
from epp.runtime.calls import CallFailed, Code
from epp.runtime.health import NAMES, HealthService, Readiness
from epp.runtime.serving import make_server
from epp.wire.pb.health_pb2 import (
    HealthCheckRequest,
    HealthCheckResponse,
    HealthListRequest,
    HealthListResponse,
)

CHECK, LIST = "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/List"
SERVING, NOT_SERVING = HealthCheckResponse.SERVING, HealthCheckResponse.NOT_SERVING


@pytest.fixture
def state() -> Readiness:
    return Readiness()


@pytest.fixture(params=["fast", "grpcio"])
async def channel(state: Readiness, request: pytest.FixtureRequest) -> AsyncIterator[grpc.aio.Channel]:
    server = make_server(request.param, HealthService(state).services(), budget=Budget(1 << 20))
    port = server.bind(0, flag="grpc-health-port")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel
    await server.stop(0)


async def check(channel: grpc.aio.Channel, name: str) -> int:
    call = channel.unary_unary(
        CHECK,
        request_serializer=HealthCheckRequest.SerializeToString,
        response_deserializer=HealthCheckResponse.FromString,
    )
    return int((await call(HealthCheckRequest(service=name), timeout=10)).status)


@pytest.mark.parametrize("name", [*NAMES, "anything"])
async def test_a_name_serves_when_the_process_is_ready_and_liveness_always(
    channel: grpc.aio.Channel, state: Readiness, name: str
) -> None:
    unready = SERVING if name == "liveness" else NOT_SERVING
    assert await check(channel, name) == unready
    state.is_synced = True
    assert await check(channel, name) == SERVING
    state.is_draining = True
    assert await check(channel, name) == unready


@pytest.mark.parametrize("name", [*NAMES, "anything"])
async def test_with_leader_election_only_the_leader_is_ready_and_strange_names_are_unknown(
    channel: grpc.aio.Channel, state: Readiness, name: str
) -> None:
    why_not = "not the leader"
    state.is_synced, state.follows = True, lambda: why_not
    if name == "anything":
        assert await check(channel, name) == HealthCheckResponse.SERVICE_UNKNOWN
        return
    follows = SERVING if name == "liveness" else NOT_SERVING
    assert (await check(channel, name), state.reason) == (follows, "not the leader")
    why_not = ""
    assert (await check(channel, name), state.reason) == (SERVING, "")
    state.is_draining = True
    assert await check(channel, name) == follows


async def test_list_tells_the_names_that_gateways_ask_for(
    channel: grpc.aio.Channel, state: Readiness
) -> None:
    call = channel.unary_unary(
        LIST,
        request_serializer=HealthListRequest.SerializeToString,
        response_deserializer=HealthListResponse.FromString,
    )
    answer = await call(HealthListRequest(), timeout=10)
    assert {name: entry.status for name, entry in answer.statuses.items()} == {
        name: SERVING if name == "liveness" else NOT_SERVING for name in NAMES
    }


async def test_watch_is_unimplemented_as_upstream(channel: grpc.aio.Channel) -> None:
    call = channel.unary_stream("/grpc.health.v1.Health/Watch")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await anext(aiter(call(b"", timeout=10)))
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


RUBBISH = [
    pytest.param(b"\xff", id="no-field"),
    pytest.param(b"\x0a\x05abc", id="cut-off"),
    pytest.param(b"\x0a\x02\xff\xfe", id="a-name-that-is-no-text"),
]


@pytest.mark.parametrize("message", RUBBISH)
async def test_a_check_that_cannot_be_read_is_refused_and_the_next_one_answered(
    channel: grpc.aio.Channel, state: Readiness, message: bytes
) -> None:
    state.is_synced = True
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await channel.unary_unary(CHECK)(message, timeout=10)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details() == "not a grpc.health.v1 request"
    assert await check(channel, "") == SERVING


@pytest.mark.parametrize("method", [CHECK, LIST])
async def test_the_answer_ends_the_call_whatever_the_client_might_still_say(
    channel: grpc.aio.Channel, method: str
) -> None:
    call = channel.stream_stream(method)(timeout=10)
    await call.write(b"")
    assert await call.read()
    assert await call.read() is grpc.aio.EOF, "though the client has not ended its half"
    assert await call.code() is grpc.StatusCode.OK


def name_in(message: bytes) -> str | None:
    """None: it is no request."""
    try:
        return HealthCheckRequest.FromString(message).service
    except DecodeError:
        return None


@given(message=st.binary(max_size=40), is_ready=st.booleans())
@example(message=b"\x0a\x08liveness", is_ready=False)
def test_any_message_is_answered_or_refused(message: bytes, is_ready: bool) -> None:
    state = Readiness()
    state.is_synced = is_ready
    call, name = HealthService(state).services()[CHECK](lambda answers: None), name_in(message)
    assert not call.is_over and not call.is_waiting
    if name is None:
        with pytest.raises(CallFailed) as refused:
            call.receive(message)
        assert refused.value.code is Code.INVALID_ARGUMENT
    else:
        (answer,) = call.receive(message)
        serves = is_ready or name == "liveness"
        assert HealthCheckResponse.FromString(answer).status == (SERVING if serves else NOT_SERVING)
        assert call.is_over and not call.is_waiting


def test_readiness_says_why_not_and_what_else_is_wrong(state: Readiness) -> None:
    assert state.reason == "the pool's endpoints have not been read yet"
    state.is_synced = True
    state.explain("endpoints file", lambda: "f.yaml:3: broken")
    state.explain("nothing", lambda: "")
    assert (state.is_ready, state.reason) == (True, "")
    assert state.details() == {"endpoints file": "f.yaml:3: broken"}
    state.is_draining = True
    assert state.reason == "draining: the process was told to stop"
