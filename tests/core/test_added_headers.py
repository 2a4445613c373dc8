"""Headers that plugins add to requests and responses, and destinations other than the endpoints' own."""

from typing import Any

import msgspec
import pytest

from epp.core.apis import Parsers
from epp.core.budget import Budget
from epp.core.events import (
    AnswerBufferedBody,
    AnswerRequestHeaders,
    AnswerResponseHeaders,
    BodyMode,
    Failed,
    Moved,
    Pick,
    Picked,
    RequestBody,
    RequestHeaders,
    ResponseHeaders,
    ResponsePhase,
)
from epp.core.scheduling import Decision
from epp.core.stream import Stream, StreamSettings
from tests.core.conversation import FIRST, FLEET, SECOND, decide

CHAT = b'{"model":"m","messages":[{"role":"user","content":"hi"}]}'
HEADERS: dict[str, str | None] = {"x-prefiller-host-port": "10.0.0.9:8000", "x-encoder-hosts-ports": None}
TOKEN = {"x-session-token": "abc"}


def deciding(*endpoints: Any, **fields: Any) -> Decision:
    return msgspec.structs.replace(decide(*endpoints), **fields)


def talk(
    decision: Decision,
    *,
    mode: BodyMode = BodyMode.FULL_DUPLEX,
    phase: ResponsePhase = ResponsePhase.FULL,
    served: str | None = None,
    ended: bool = False,
) -> list[Any]:
    """Everything that one request and the headers of its response cause."""
    settings = StreamSettings(
        Parsers(), Budget(1 << 20), new_id=lambda: "id", response_phase=phase, endpoint_at=FLEET.get
    )
    stream = Stream(settings)
    headers = {":path": "/v1/chat/completions", ":method": "POST", "x-request-id": "r"}
    said: list[Any] = []
    for event in (RequestHeaders(headers, None, mode, mode), RequestBody(CHAT, ended=True)):
        for action in stream.receive(event, 1.0):
            said += stream.receive(Picked(decision), 1.0) if isinstance(action, Pick) else [action]
    said += stream.receive(ResponseHeaders({":status": "200"}, served=served, ended=ended), 2.0)
    return said


def only(said: list[Any], kind: type) -> Any:
    (found,) = [each for each in said if isinstance(each, kind)]
    return found


@pytest.mark.parametrize(
    "mode, kind",
    [
        (BodyMode.FULL_DUPLEX, AnswerRequestHeaders),
        (BodyMode.BUFFERED, AnswerBufferedBody),
        (BodyMode.STREAMED, AnswerRequestHeaders),
    ],
)
def test_the_request_gets_them_in_every_dialect(mode: BodyMode, kind: type) -> None:
    assert only(talk(deciding(headers=HEADERS), mode=mode), kind).headers == HEADERS


@pytest.mark.parametrize("ended", [False, True])
def test_the_response_gets_them(ended: bool) -> None:
    said = talk(deciding(response_headers=TOKEN), ended=ended)
    assert only(said, AnswerResponseHeaders).headers == TOKEN


def test_the_response_gets_them_beside_what_is_asked_of_the_gateway() -> None:
    said = talk(deciding(response_headers=TOKEN), mode=BodyMode.STREAMED, phase=ResponsePhase.HEADERS)
    answer = only(said, AnswerResponseHeaders)
    assert answer.headers == TOKEN and answer.override is not None


def test_what_is_known_of_one_endpoint_is_not_said_of_another_that_served() -> None:
    decision = deciding(FIRST, SECOND, response_headers=TOKEN)
    assert only(talk(decision, served=SECOND.address), AnswerResponseHeaders).headers is None
    decision = deciding(FIRST, SECOND, response_headers=TOKEN)
    assert only(talk(decision, served=FIRST.address), AnswerResponseHeaders).headers == TOKEN


def test_without_plugins_nothing_is_added() -> None:
    said = talk(decide())
    assert only(said, AnswerRequestHeaders).headers is None
    assert only(said, AnswerResponseHeaders).headers is None


def test_a_destination_may_be_another_than_the_endpoint_that_was_picked() -> None:
    decision = deciding(FIRST, destinations=["10.0.0.1:9000"])
    said = talk(decision, served="10.0.0.1:9000")
    assert only(said, AnswerRequestHeaders).addresses == ["10.0.0.1:9000"]
    assert not [each for each in said if isinstance(each, Moved | Failed)]  # it is where it should be


def test_the_second_of_such_destinations_is_the_second_endpoint() -> None:
    decision = deciding(FIRST, SECOND, destinations=["10.0.0.1:9000", "10.0.0.2:9000"])
    said = talk(decision, served="10.0.0.2:9000")
    assert only(said, Moved).endpoint is SECOND
    assert only(said, Failed).endpoint is FIRST


def test_agents_are_told_apart_where_somebody_knows_how() -> None:
    def identify(headers: Any) -> str:
        return f"agent-{headers['session-id']}"

    for identified, expected in ((identify, "agent-7"), (None, "")):
        stream = Stream(StreamSettings(Parsers(), Budget(1), new_id=lambda: "id", identify=identified))
        (pick,) = stream.receive(RequestHeaders({":path": "/", "session-id": "7"}, ended=True), 1.0)
        assert isinstance(pick, Pick) and pick.request.agent == expected
