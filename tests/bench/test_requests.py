"""Requests without a gateway, to a real picker."""

import asyncio
import itertools
import json
from collections.abc import Iterator

import pytest

from bench.messages import body_message, destination, headers_message
from bench.requests import Picked, Requests, alike, unlike
from bench.rig.picker import Picker
from bench.stations import Engines
from epp.wire.pb import ext_proc_pb2 as pb


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engines]:
    logs = tmp_path_factory.mktemp("engines")
    with Engines(logs, 2, page_kb=2, chunks=1, chunk_seconds=0.0) as engines:
        yield engines


@pytest.fixture(scope="module")
def picker(engines: Engines, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Picker]:
    named = {f"engine-{number}": address for number, address in enumerate(engines.addresses(2))}
    with Picker(logs=tmp_path_factory.mktemp("picker"), endpoints=named, tls=False) as picker:
        yield picker


def test_so_many_are_sent_and_each_is_picked_for(picker: Picker, engines: Engines) -> None:
    async def sent() -> Requests:
        async with Requests.to([picker.grpc_port] * 3, unlike()) as requests:
            await requests.send(clients=4, count=50)
            return requests

    requests = asyncio.run(sent())
    assert len(requests.picked) == 50
    assert {one.address for one in requests.picked} == set(engines.addresses(2))
    assert all(one.sent < one.heard for one in requests.picked)
    assert not any(gateway.fault for gateway in requests.gateways)


def test_they_go_on_until_told_and_a_wanted_address_is_waited_for(picker: Picker, engines: Engines) -> None:
    async def waited() -> tuple[float, list[Picked]]:
        async with Requests.to([picker.grpc_port], unlike()) as requests:
            async with requests.going_on(2):
                first = await requests.first_to(engines.addresses(2)[1], 20.0)
            assert asyncio.all_tasks() == {asyncio.current_task()}, "no client goes on"
            return first, requests.picked

    first, picked = asyncio.run(waited())
    assert first == next(one.heard for one in picked if one.address == engines.addresses(2)[1])


def test_an_address_that_nobody_is_sent_to_is_not_waited_for_for_ever(picker: Picker) -> None:
    async def waited() -> None:
        async with Requests.to([picker.grpc_port]) as requests, requests.going_on(1):
            await requests.first_to("127.0.0.1:1", 0.05)

    with pytest.raises(ExceptionGroup) as failed:
        asyncio.run(waited())
    assert failed.group_contains(TimeoutError)


def test_a_refusal_is_an_error_that_says_why() -> None:
    refusal = pb.ProcessingResponse(immediate_response=pb.ImmediateResponse(body=b"all are down"))
    with pytest.raises(ValueError, match=r"^no endpoint was picked: all are down$"):
        destination(refusal.SerializeToString())


def test_messages_are_those_of_ext_proc() -> None:
    head = pb.ProcessingRequest.FromString(
        headers_message("response_headers", (":status", "200"), ended=True)
    )
    assert head.response_headers.end_of_stream
    (pair,) = head.response_headers.headers.headers
    assert (pair.key, pair.raw_value) == (":status", b"200")
    piece = pb.ProcessingRequest.FromString(body_message("request_body", b"{}", ended=False))
    assert (piece.request_body.body, piece.request_body.end_of_stream) == (b"{}", False)


def test_prompts_have_common_beginnings_or_none() -> None:
    def prompts(calls: Iterator[object]) -> list[str]:
        bodies = [json.loads(b"".join(call.parts)) for call in itertools.islice(calls, 30)]  # type: ignore[attr-defined]
        return [body["messages"][0]["content"][:8] for body in bodies]

    assert len(set(prompts(alike()))) == 1
    assert len(set(prompts(unlike()))) == 30
