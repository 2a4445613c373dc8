"""The message sequences of gateways that are not Envoy, word by word from a real gRPC client, on each driver.

agentgateway keeps a connection for many streams and each stream open through the response; NGINX Gateway
Fabric makes a connection for each request, ends its half after the body and never shows a response. Both
usually come over TLS and can be told not to.
"""

import asyncio
import random
from collections.abc import Sequence

import pytest

from bench.rig.llama import LlamaServer
from bench.rig.picker import Picker
from epp.wire.pb import ext_proc_pb2 as pb
from tests.system.talk import (
    CHAT,
    Stream,
    chat,
    destination,
    dialled,
    end_in_order,
    endpoints,
    footprint,
    hear,
    hear_body,
    new_id,
    opened,
    page,
    pieces,
    request_body,
    request_line,
    response_body,
    response_headers,
    say,
    series,
    wait_at_rest,
    wait_footprint,
)

DESTINATION = "x-gateway-destination-endpoint"
ANSWER = b'{"choices":[{"finish_reason":"stop"}],"usage":{"prompt_tokens":7,"completion_tokens":3}}'
TEXT = random.Random(3).randbytes(150_000).hex()


@pytest.fixture
def addresses(servers: list[LlamaServer]) -> set[str]:
    return {server.address for server in servers}


# --- agentgateway ------------------------------------------------------------------------------------


def agentgateway_headers(request_id: str, *, modes: bool) -> pb.ProcessingRequest:
    """Headers in ``raw_value``, then the pseudo-headers in ``value``; the body modes from 1.4 on."""
    normal = {"content-type": "application/json", "user-agent": "test", "x-request-id": request_id}
    pseudo = {":method": "POST", ":scheme": "http", ":authority": "models.example", ":path": CHAT}
    headers = [pb.HeaderValue(key=key, raw_value=value.encode()) for key, value in normal.items()]
    headers += [pb.HeaderValue(key=key, value=value.encode()) for key, value in pseudo.items()]
    message = pb.ProcessingRequest(request_headers=pb.HttpHeaders(headers=pb.HeaderMap(headers=headers)))
    if modes:
        message.protocol_config.request_body_mode = pb.FULL_DUPLEX_STREAMED
        message.protocol_config.response_body_mode = pb.FULL_DUPLEX_STREAMED
    return message


async def agentgateway_asks(
    stream: Stream, headers: pb.ProcessingRequest, body: Sequence[bytes], *, trailers: bool = False
) -> str:
    """The request phase: data chunks never end the body, an empty one does, even after trailers."""
    await say(stream, headers, *(request_body(piece, ended=False) for piece in body))
    if trailers:
        await say(stream, pb.ProcessingRequest(request_trailers=pb.HttpTrailers()))
    await say(stream, request_body(b"", ended=True))
    address = destination(await hear(stream))  # before any piece of the body, or agentgateway waits for ever
    assert await hear_body(stream, trailers=trailers) == b"".join(body)
    return address


async def agentgateway_shows(stream: Stream, served: str, body: Sequence[bytes]) -> None:
    """The response phase, with the endpoint that served; each piece comes back before the next is sent."""
    message = response_headers(("content-type", b"application/json"), ("transfer-encoding", b"chunked"))
    message.metadata_context.filter_metadata["envoy.lb"][f"{DESTINATION}-served"] = served
    await say(stream, message)
    assert (await hear(stream)).HasField("response_headers")
    for piece in body:
        await say(stream, response_body(piece, ended=False))
        answer = (await hear(stream)).response_body.response.body_mutation.streamed_response
        assert (answer.body, answer.end_of_stream) == (piece, False)
    await say(stream, response_body(b"", ended=True))
    assert await hear_body(stream) == b""


@pytest.mark.parametrize("trailers", [False, True], ids=["", "trailers"])
@pytest.mark.parametrize("words", ["hello", TEXT], ids=["small", "large"])
@pytest.mark.parametrize("modes", [False, True], ids=["1.2", "1.4"])
async def test_agentgateway(
    modes: bool, words: str, trailers: bool, each_picker: Picker, addresses: set[str]
) -> None:
    request_id = new_id()
    body = pieces(chat(words), 16_000)
    async with dialled(each_picker) as channel:
        stream = opened(channel)
        headers = agentgateway_headers(request_id, modes=modes)
        address = await agentgateway_asks(stream, headers, body, trailers=trailers)
        assert address in addresses
        await agentgateway_shows(stream, address, pieces(ANSWER, 50))
        await end_in_order(stream)
    line = await asyncio.to_thread(request_line, each_picker, request_id)
    assert (line["status"], line["completion_tokens"], line["address"]) == (200, 3, address)


async def test_agentgateway_gets_without_a_body(each_picker: Picker, addresses: set[str]) -> None:
    """A GET is not marked as ended in its headers, and its body is one empty piece."""
    headers = agentgateway_headers(new_id(), modes=True)
    for header in headers.request_headers.headers.headers:
        header.value = {":method": b"GET", ":path": b"/v1/models"}.get(header.key, header.value)
    async with dialled(each_picker) as channel:
        stream = opened(channel)
        assert await agentgateway_asks(stream, headers, []) in addresses
        await agentgateway_shows(stream, "", [b"{}"])
        await end_in_order(stream)


async def test_agentgateway_shows_a_body_of_known_length(each_picker: Picker, addresses: set[str]) -> None:
    """Nothing says that each piece is answered before the next is shown, only that all come back."""
    async with dialled(each_picker) as channel:
        stream = opened(channel)
        headers = agentgateway_headers(new_id(), modes=True)
        assert await agentgateway_asks(stream, headers, [chat()]) in addresses
        await say(stream, response_headers(("content-length", str(len(ANSWER)).encode())))
        await say(stream, *(response_body(piece, ended=False) for piece in pieces(ANSWER, 30)))
        await say(stream, response_body(b"", ended=True))
        assert (await hear(stream)).HasField("response_headers")
        assert await hear_body(stream) == ANSWER
        await end_in_order(stream)


async def test_agentgateway_keeps_a_hundred_streams_on_a_connection(
    each_picker: Picker, addresses: set[str]
) -> None:
    """Each stream stays open through its response, however long that takes."""

    async def request(number: int) -> None:
        stream = opened(channel)
        headers = agentgateway_headers(new_id(), modes=True)
        address = await agentgateway_asks(stream, headers, pieces(chat(f"number {number}"), 30))
        assert address in addresses
        await all_open.wait()
        await agentgateway_shows(stream, address, [ANSWER])
        await end_in_order(stream)

    all_open = asyncio.Barrier(100)
    async with dialled(each_picker) as channel, asyncio.TaskGroup() as requests:
        for number in range(100):
            requests.create_task(request(number))
    await asyncio.to_thread(wait_at_rest, each_picker)


async def test_agentgateway_takes_a_refusal_instead_of_the_headers_answer(each_picker: Picker) -> None:
    request_id = new_id()
    async with dialled(each_picker) as channel:
        stream = opened(channel)
        headers = agentgateway_headers(request_id, modes=True)
        await say(stream, headers, request_body(b'{"model', ended=False), request_body(b"", ended=True))
        assert (await hear(stream)).immediate_response.status.code == 400
        await end_in_order(stream)
    await asyncio.to_thread(request_line, each_picker, request_id)


async def test_agentgateway_retries_on_a_stream_of_its_own(each_picker: Picker, addresses: set[str]) -> None:
    """One stream for each attempt: the first is dropped after the pick, the second goes on."""
    async with dialled(each_picker) as channel:
        before = await asyncio.to_thread(series, each_picker)
        headers = agentgateway_headers(request_id := new_id(), modes=True)
        for attempt in ("fails", "succeeds"):
            stream = opened(channel)
            address = await agentgateway_asks(stream, headers, [chat("once more")])
            assert address in addresses
            if attempt == "fails":
                stream.cancel()
            else:
                await agentgateway_shows(stream, address, [ANSWER])
                await end_in_order(stream)
        await asyncio.to_thread(wait_at_rest, each_picker)
    after = await asyncio.to_thread(series, each_picker)
    name = "llm_d_epp_request_total"
    assert after.count(name) - before.count(name) == 2
    picks = [one for one in page(each_picker, "/debug/picks")["picks"] if one["request_id"] == request_id]
    assert len(picks) == 2


# --- NGINX Gateway Fabric ----------------------------------------------------------------------------


def nginx_headers(request_id: str, *, ended: bool = False) -> pb.ProcessingRequest:
    """No pseudo-header, so that the path is not known; ``raw_value`` only."""
    pairs = {
        "host": "models.example",
        "content-type": "application/json",
        "x-epp-host": "epp.default.svc",
        "x-epp-port": "9002",
        "x-request-id": request_id,
    }
    headers = [pb.HeaderValue(key=key, raw_value=value.encode()) for key, value in pairs.items()]
    return pb.ProcessingRequest(
        request_headers=pb.HttpHeaders(headers=pb.HeaderMap(headers=headers), end_of_stream=ended)
    )


@pytest.mark.parametrize(
    "body",
    [b'{"model":"tiny","prompt":"hello"}', b'{"model":"tiny","prompt":"%s"}' % TEXT.encode()],
    ids=["small", "large"],
)
async def test_nginx_gateway_fabric(body: bytes, each_picker: Picker, addresses: set[str]) -> None:
    async with dialled(each_picker) as channel:
        stream = opened(channel)
        await say(stream, nginx_headers(request_id := new_id()), request_body(body, ended=True))
        await stream.done_writing()
        answer = await hear(stream)
        headers = answer.request_headers.response.header_mutation.set_headers
        (found,) = [one.header for one in headers if one.header.key.lower() == DESTINATION]
        assert found.key == DESTINATION and found.raw_value.decode() in addresses and not found.value
        assert await hear_body(stream) == body  # which it ignores
        await end_in_order(stream)
    line = await asyncio.to_thread(request_line, each_picker, request_id)
    assert line["path"] == "/v1/completions"
    assert line["address"] == found.raw_value.decode()


async def test_nginx_gateway_fabric_tells_no_path_of_a_chat_either(
    each_picker: Picker, addresses: set[str]
) -> None:
    async with dialled(each_picker) as channel:
        stream = opened(channel)
        await say(stream, nginx_headers(request_id := new_id()), request_body(chat(), ended=True))
        await stream.done_writing()
        assert destination(await hear(stream)) in addresses
        assert await hear_body(stream) == chat()
        await end_in_order(stream)
    line = await asyncio.to_thread(request_line, each_picker, request_id)
    assert (line["path"], line["model"]) == ("/v1/chat/completions", "tiny")


async def test_nginx_gateway_fabric_gets_without_a_body(each_picker: Picker, addresses: set[str]) -> None:
    async with dialled(each_picker) as channel:
        stream = opened(channel)
        await say(stream, nginx_headers(new_id(), ended=True))
        await stream.done_writing()
        assert destination(await hear(stream)) in addresses
        await end_in_order(stream)


async def test_nothing_is_left_of_a_connection_for_each_request(
    each_picker: Picker, addresses: set[str]
) -> None:
    async def request() -> str:
        async with dialled(each_picker) as channel:
            stream = opened(channel)
            body = b'{"model":"tiny","prompt":"again"}'
            await say(stream, nginx_headers(new_id()), request_body(body))
            await stream.done_writing()
            address = destination(await hear(stream))
            if chance.random() < 0.5:  # it needs no more than that
                return address
            assert await hear_body(stream) == body
            await end_in_order(stream)
            return address

    chance = random.Random(9)
    await request()
    await asyncio.to_thread(wait_at_rest, each_picker)
    before = await asyncio.to_thread(footprint, each_picker)
    for _ in range(20):
        answers = await asyncio.gather(*(request() for _ in range(10)))
        assert set(answers) <= addresses
    await asyncio.to_thread(wait_at_rest, each_picker)
    assert not any(one["requests_in_flight"] for one in endpoints(each_picker).values())
    await asyncio.to_thread(wait_footprint, each_picker, before)
