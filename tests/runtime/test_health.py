"""grpc.health.v1 over a real channel."""

from collections.abc import AsyncIterator

import grpc
import grpc.aio
import pytest

from epp.core.budget import Budget
from epp.runtime.health import NAMES, HealthService, Readiness
from epp.runtime.serving import make_server
from epp.wire.pb.health_pb2 import (
    HealthCheckRequest,
    HealthCheckResponse,
    HealthListRequest,
    HealthListResponse,
)

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
        "/grpc.health.v1.Health/Check",
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


async def test_list_tells_the_names_that_gateways_ask_for(
    channel: grpc.aio.Channel, state: Readiness
) -> None:
    call = channel.unary_unary(
        "/grpc.health.v1.Health/List",
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


def test_readiness_says_why_not_and_what_else_is_wrong(state: Readiness) -> None:
    assert state.reason == "the pool's endpoints have not been read yet"
    state.is_synced = True
    state.explain("endpoints file", lambda: "f.yaml:3: broken")
    state.explain("nothing", lambda: "")
    assert (state.is_ready, state.reason) == (True, "")
    assert state.details() == {"endpoints file": "f.yaml:3: broken"}
    state.is_draining = True
    assert state.reason == "draining: the process was told to stop"
