"""What the gateway and the client are told at a response: reports of usage, and who served."""

from collections.abc import Mapping

import msgspec
import pytest

from epp.core.apis import Parsers
from epp.core.budget import Budget
from epp.core.events import (
    Action,
    AnswerResponseBody,
    AnswerResponseHeaders,
    AnswerResponseTrailers,
    BodyMode,
    ContinueResponseBody,
    Picked,
    RequestBody,
    RequestHeaders,
    ResponseBody,
    ResponseHeaders,
    ResponseTrailers,
)
from epp.core.response_reader import Usage
from epp.core.stream import Stream, StreamSettings
from epp.wire import ext_proc
from epp.wire.pb import ext_proc_pb2 as pb
from tests.core.conversation import FIRST, SECOND, decide

BODY = b'{"model":"m","messages":[{"role":"user","content":"hi"}]}'
JSON = b'{"choices":[{}],"usage":{"prompt_tokens":3,"completion_tokens":2}}'
EVENT = b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'
LAST = b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}\n\n'
TOLD = {"envoy.lb": {"cost": 5.0}}


def cost(usage: Usage | None) -> Mapping[str, Mapping[str, float]]:
    return {"envoy.lb": {"cost": float(usage.total_tokens)}} if usage and usage.total_tokens else {}


def served(address: str | None) -> Mapping[str, str]:
    return {"x-served": address or "?"}


class Exchange:
    """A request that has been sent to FIRST, with the response still to come."""

    def __init__(self, mode: BodyMode = BodyMode.FULL_DUPLEX) -> None:
        settings = StreamSettings(
            Parsers(), Budget(1 << 20), new_id=lambda: "id", reports=cost, served_header=served
        )
        self.stream = Stream(settings)
        self.stream.receive(
            RequestHeaders({":method": "POST", ":path": "/v1/chat/completions"}, response_mode=mode), 0.0
        )
        self.stream.receive(RequestBody(BODY, True), 0.0)
        self.stream.receive(Picked(decide(FIRST, SECOND)), 0.0)

    def respond(self, kind: str = "application/json", by: str | None = None) -> AnswerResponseHeaders:
        headers = {":status": "200", "content-type": kind}
        answer = self.stream.receive(ResponseHeaders(headers, by), 1.0)[0]
        assert isinstance(answer, AnswerResponseHeaders)
        return answer


def metadata(actions: object) -> list[tuple[type, object]]:
    assert isinstance(actions, list | tuple)
    kinds = (AnswerResponseBody, ContinueResponseBody, AnswerResponseTrailers)
    return [(type(each), each.metadata) for each in actions if isinstance(each, kinds)]


def test_the_last_piece_of_a_json_answer_carries_the_report() -> None:
    exchange = Exchange()
    exchange.respond()
    assert metadata(exchange.stream.receive(ResponseBody(JSON[:9]), 1.0)) == [(AnswerResponseBody, None)]
    assert metadata(exchange.stream.receive(ResponseBody(JSON[9:], True), 1.0)) == [
        (AnswerResponseBody, TOLD)
    ]


def test_so_does_the_empty_end_of_a_stream() -> None:
    exchange = Exchange()
    exchange.respond("text/event-stream")
    for piece in (EVENT, LAST):
        assert metadata(exchange.stream.receive(ResponseBody(piece), 1.0)) == [(AnswerResponseBody, None)]
    assert metadata(exchange.stream.receive(ResponseBody(b"", True), 1.0)) == [(AnswerResponseBody, TOLD)]


def test_or_the_trailers() -> None:
    exchange = Exchange()
    exchange.respond()
    exchange.stream.receive(ResponseBody(JSON), 1.0)
    assert metadata(exchange.stream.receive(ResponseTrailers(), 1.0)) == [(AnswerResponseTrailers, TOLD)]


@pytest.mark.parametrize("mode", [BodyMode.STREAMED, BodyMode.BUFFERED])
def test_a_piece_that_passes_as_it_is_carries_it_as_well(mode: BodyMode) -> None:
    exchange = Exchange(mode)
    exchange.respond()
    assert metadata(exchange.stream.receive(ResponseBody(JSON, True), 1.0)) == [(ContinueResponseBody, TOLD)]


def test_without_usage_nothing_is_told() -> None:
    exchange = Exchange()
    exchange.respond()
    assert metadata(exchange.stream.receive(ResponseBody(b"{}", True), 1.0)) == [(AnswerResponseBody, None)]


@pytest.mark.parametrize(
    "by, told", [(None, "?"), (FIRST.address, FIRST.address), (SECOND.address, SECOND.address)]
)
def test_the_client_is_told_who_served(by: str | None, told: str) -> None:
    assert Exchange().respond(by=by).headers == {"x-served": told}


@pytest.mark.parametrize(
    "answer, part",
    [
        (AnswerResponseBody(b"abc", True, TOLD), "response_body"),
        (AnswerResponseBody(b"abc", False, TOLD), "response_body"),
        (ContinueResponseBody(TOLD), "response_body"),
        (AnswerResponseTrailers(TOLD), "response_trailers"),
    ],
)
def test_on_the_wire_it_is_dynamic_metadata_beside_the_same_answer(answer: Action, part: str) -> None:
    found = pb.ProcessingResponse.FromString(ext_proc.encode(answer))  # type: ignore[arg-type]
    assert found.dynamic_metadata["envoy.lb"]["cost"] == 5.0
    assert found.WhichOneof("response") == part
    found.ClearField("dynamic_metadata")
    plain = msgspec.structs.replace(answer, metadata=None)
    assert found == pb.ProcessingResponse.FromString(ext_proc.encode(plain))  # type: ignore[arg-type]
