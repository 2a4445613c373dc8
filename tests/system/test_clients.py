"""Real gRPC clients in Python, asyncio's and the other, at a picker's port: on each driver.

What other gRPC stacks do is alike: many streams on a connection, large messages, streams that are cancelled
anywhere, and readers that take their time. Afterwards nothing is left of any of them.
"""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import grpc
import pytest

from bench.rig.llama import LlamaServer
from bench.rig.picker import Picker
from bench.rig.process import wait_until
from epp.wire.pb import ext_proc_pb2 as pb
from tests.system.talk import (
    DEADLINE,
    METHOD,
    Stream,
    channel_to,
    chat,
    converse,
    destination,
    dialled,
    end_in_order,
    endpoints,
    footprint,
    hear,
    hear_body,
    opened,
    pieces,
    request_body,
    request_headers,
    response_body,
    response_headers,
    say,
    series,
    wait_at_rest,
    wait_footprint,
)

MIB = 1 << 20
PIECE = random.Random(1).randbytes(60_000)


@asynccontextmanager
async def connected(picker: Picker, *, windows_grow: bool) -> AsyncIterator[grpc.aio.Channel]:
    """A connection over TLS that is up; afterwards the picker holds no more than before."""
    async with dialled(picker, windows_grow=windows_grow) as channel:
        await channel.channel_ready()
        before = await asyncio.to_thread(footprint, picker)
        yield channel
        await asyncio.to_thread(wait_at_rest, picker)
        assert not any(one["requests_in_flight"] for one in endpoints(picker).values())
        await asyncio.to_thread(wait_footprint, picker, before)
        assert "Traceback" not in picker.log.read_text()


@pytest.fixture
async def channel(picker: Picker) -> AsyncIterator[grpc.aio.Channel]:
    async with connected(picker, windows_grow=True) as channel:
        yield channel


@pytest.fixture
async def narrow_channel(picker: Picker) -> AsyncIterator[grpc.aio.Channel]:
    """One that never takes in more than a little of what its user does not read."""
    async with connected(picker, windows_grow=False) as channel:
        yield channel


async def ask(stream: Stream, body: bytes, *, messages: int = 1) -> str:
    """The request phase, with the body in so many messages; the address."""
    cut = pieces(body, -(-len(body) // messages))
    await say(stream, request_headers(), *(request_body(piece, ended=piece is cut[-1]) for piece in cut))
    address = destination(await hear(stream))
    assert await hear_body(stream) == body
    return address


async def finish(stream: Stream) -> None:
    """The response phase, and an orderly end."""
    await say(stream, response_headers(), response_body(b"{}"))
    assert (await hear(stream)).HasField("response_headers")
    assert await hear_body(stream) == b"{}"
    await end_in_order(stream)


# --- many --------------------------------------------------------------------------------------------


async def test_two_thousand_streams_are_open_at_once_on_one_connection(
    channel: grpc.aio.Channel, picker: Picker, servers: list[LlamaServer]
) -> None:
    number = 2_000

    async def request(words: str) -> str:
        stream, body = opened(channel), chat(words)
        await say(stream, request_headers(), request_body(body[:20], ended=False))
        await all_open.wait()
        await say(stream, request_body(body[20:]))
        address = destination(await hear(stream))
        assert await hear_body(stream) == body
        await finish(stream)
        return address

    def open_streams() -> bool:
        return series(picker).get("llm_d_epp_extproc_streams_inflight") == number

    all_open = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        requests = [group.create_task(request(f"number {n}")) for n in range(number)]
        await asyncio.to_thread(wait_until, open_streams, what="all open", timeout=DEADLINE)
        all_open.set()
    by_server = Counter(one.result() for one in requests)
    assert set(by_server) == {server.address for server in servers}


@pytest.mark.parametrize("channels", [1, 8], ids=["one-connection", "a-connection-each"])
def test_threads_converse_side_by_side(
    channels: int, each_picker: Picker, servers: list[LlamaServer]
) -> None:
    """The blocking client: 8 threads with 50 conversations each."""
    addresses = {server.address for server in servers}

    def conversations(channel: grpc.Channel, thread: int) -> None:
        for number in range(50):
            body = chat(f"{thread} says {number}")
            phases = [request_headers(), request_body(body), response_headers(), response_body(b"{}")]
            first, back, third, last = converse(channel, phases)
            assert destination(first) in addresses
            assert back.request_body.response.body_mutation.streamed_response.body == body
            assert third.HasField("response_headers")
            assert last.response_body.response.body_mutation.streamed_response.body == b"{}"

    before = footprint(each_picker)
    with ThreadPoolExecutor(8) as threads:
        if channels == 1:
            with channel_to(each_picker) as shared:
                list(threads.map(conversations, [shared] * 8, range(8)))
        else:

            def connected(thread: int) -> None:
                with channel_to(each_picker) as own:
                    conversations(own, thread)

            list(threads.map(connected, range(8)))
    wait_at_rest(each_picker)
    wait_footprint(each_picker, before)


# --- large -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("messages", [1, 7, 1_000], ids=["one-message", "large-messages", "small-messages"])
async def test_a_large_body_goes_there_and_back(channel: grpc.aio.Channel, messages: int) -> None:
    stream = opened(channel)
    await ask(
        stream, chat("the end counts", padding=random.Random(2).randbytes(15 * MIB).hex()), messages=messages
    )
    await finish(stream)


async def test_large_bodies_side_by_side_do_not_hold_each_other_up(channel: grpc.aio.Channel) -> None:
    """Ten of 2 MB share a connection with fifty small ones; some are read late."""

    async def request(number: int) -> None:
        large = number % 6 == 0
        stream = opened(channel)
        await ask(
            stream, chat(f"number {number}", padding="x" * (2 * MIB if large else 10)), messages=1 + number
        )
        await finish(stream)

    async with asyncio.TaskGroup() as group:
        for number in range(60):
            group.create_task(request(number))


@pytest.mark.parametrize("size", [5 * MIB, 100], ids=["large-pieces", "small-pieces"])
async def test_an_answer_comes_back_as_it_was_shown(channel: grpc.aio.Channel, size: int) -> None:
    stream = opened(channel)
    await ask(stream, chat())
    answer = random.Random(3).randbytes(20 * MIB if size > MIB else 50_000)
    cut = pieces(answer, size)
    async with asyncio.TaskGroup() as group:
        back = group.create_task(hear_answer(stream))
        await say(stream, response_headers())
        await say(stream, *(response_body(piece, ended=piece is cut[-1]) for piece in cut))
    assert back.result() == answer
    await end_in_order(stream)


async def hear_answer(stream: Stream) -> bytes:
    assert (await hear(stream)).HasField("response_headers")
    return await hear_body(stream)


# --- readers that take their time --------------------------------------------------------------------


async def test_who_does_not_read_is_not_read_from(narrow_channel: grpc.aio.Channel, picker: Picker) -> None:
    """60 MB of answer are to be shown, none is taken back: soon no more is taken, and little is held."""
    number, sent = 1_000, 0
    stream = opened(narrow_channel)
    await ask(stream, chat())

    async def show() -> None:
        nonlocal sent
        await say(stream, response_headers())
        for sent in range(1, number + 1):
            await say(stream, response_body(PIECE, ended=sent == number))

    resident = picker.rss_bytes()
    async with asyncio.TaskGroup() as group:
        showing, before = group.create_task(show()), -1
        while before < sent:  # until a second has passed without a piece being taken
            before = sent
            await asyncio.wait({showing}, timeout=1.0)
        assert sent < number / 2
        assert picker.rss_bytes() - resident < 20 * MIB
        neighbour = opened(narrow_channel)
        await ask(neighbour, chat())
        await finish(neighbour)
        assert await hear_answer(stream) == PIECE * number
    await end_in_order(stream)


@pytest.mark.parametrize("half_closed", [False, True], ids=["open", "half-closed"])
async def test_a_body_counts_as_held_until_it_is_read(
    half_closed: bool, narrow_channel: grpc.aio.Channel, picker: Picker
) -> None:
    """The answer to a large request lies here until the client reads it, and so it stays in the budget."""
    stream = opened(narrow_channel)
    body = chat(padding="x" * 30 * MIB)
    await say(stream, request_headers(), request_body(body))
    if half_closed:
        await stream.done_writing()
    destination(await hear(stream))

    def held() -> float:
        return series(picker).get("fleet_epp_buffered_bytes") or 0.0

    assert await asyncio.to_thread(held) == len(body)
    neighbour = opened(narrow_channel)
    await ask(neighbour, chat())
    await finish(neighbour)
    assert await asyncio.to_thread(held) == len(body)
    assert await hear_body(stream) == body
    await asyncio.to_thread(wait_until, lambda: held() == 0, what="given back")
    await end_in_order(stream)


# --- clients that leave ------------------------------------------------------------------------------


async def nothing(_: Stream) -> None: ...


async def the_headers(stream: Stream) -> None:
    await say(stream, request_headers())


async def half_a_body(stream: Stream) -> None:
    await say(stream, request_headers(), request_body(PIECE, ended=False))


async def a_body(stream: Stream) -> None:
    await say(stream, request_headers(), request_body(chat(padding="x" * 500_000)))


async def the_destination(stream: Stream) -> None:
    await a_body(stream)
    destination(await hear(stream))


async def half_an_answer(stream: Stream) -> None:
    await ask(stream, chat())
    await say(stream, response_headers(("content-type", b"text/event-stream")))
    assert (await hear(stream)).HasField("response_headers")
    await say(stream, response_body(b'data: {"choices":[]}\n\n', ended=False))
    assert (await hear(stream)).HasField("response_body")


async def all_but_the_end(stream: Stream) -> None:
    await ask(stream, chat())
    await say(stream, response_headers(), response_body(b"{}"))


async def its_half(stream: Stream) -> None:
    await ask(stream, chat())
    await stream.done_writing()


POINTS = [
    *(nothing, the_headers, half_a_body, a_body, the_destination, half_an_answer, all_but_the_end, its_half)
]
Point = Callable[[Stream], Awaitable[None]]


@pytest.mark.parametrize("point", POINTS, ids=lambda point: point.__name__)
async def test_nothing_is_left_of_a_stream_that_is_cancelled_after(
    point: Point, channel: grpc.aio.Channel, picker: Picker
) -> None:
    async def leave() -> None:
        stream = opened(channel)
        await point(stream)
        stream.cancel()

    for _ in range(2):
        async with asyncio.TaskGroup() as group:
            for _ in range(25):
                group.create_task(leave())
    stream = opened(channel)  # the connection is as good as before
    await ask(stream, chat())
    await finish(stream)


@pytest.mark.parametrize("point", POINTS, ids=lambda point: point.__name__)
async def test_nothing_is_left_of_a_connection_that_is_closed_after(
    point: Point, channel: grpc.aio.Channel, picker: Picker
) -> None:
    """With 25 streams on it; the fixture's connection was there before and looks on."""
    async with dialled(picker) as another:
        streams = [opened(another) for _ in range(25)]
        async with asyncio.TaskGroup() as group:
            for stream in streams:
                group.create_task(point(stream))
        await another.close()
    await asyncio.to_thread(wait_at_rest, picker)


async def test_a_deadline_that_passes_ends_the_stream_and_leaves_nothing(
    channel: grpc.aio.Channel, picker: Picker
) -> None:
    async def too_slow() -> None:
        stream = opened(channel, timeout=0.3)
        await say(stream, request_headers(), request_body(PIECE, ended=False))
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await stream.read()
        assert failure.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED

    async with asyncio.TaskGroup() as group:
        for _ in range(20):
            group.create_task(too_slow())
    await asyncio.to_thread(wait_at_rest, picker)


# --- what is refused ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "method", ["/envoy.service.ext_proc.v3.ExternalProcessor/Nothing", "/grpc.health.v1.Health/Watch"]
)
async def test_a_method_that_is_not_served_is_unimplemented(channel: grpc.aio.Channel, method: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await channel.unary_unary(method)(b"", timeout=DEADLINE)
    assert failure.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_compressed_messages_are_read_or_refused_by_name(
    channel: grpc.aio.Channel, driver: str
) -> None:
    """No gateway sends any: our driver does not know how, and says so in gRPC's way."""
    call = channel.stream_stream(METHOD)(timeout=DEADLINE, compression=grpc.Compression.Gzip)
    await call.write(request_headers(ended=True, more=[("x-words", b"again and " * 500)]).SerializeToString())
    if driver == "fast":
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await call.read()
        assert failure.value.code() is grpc.StatusCode.UNIMPLEMENTED
        assert "compress" in str(failure.value.details())
    else:
        assert destination(pb.ProcessingResponse.FromString(await call.read()))
        call.cancel()


async def test_headers_of_many_kilobytes_are_taken(channel: grpc.aio.Channel) -> None:
    """Of the gRPC stream itself: metadata, on the wire several frames where it is over 16 KB."""
    for size in (10, 3_000, 7_500):
        stream = opened(channel, metadata=[("x-baggage", "b" * size), ("x-more-bin", b"\xff\x00")])
        await ask(stream, chat())
        await finish(stream)
