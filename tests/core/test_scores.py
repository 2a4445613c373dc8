"""What the gateway is told that endpoints scored, where it is told (--emit-endpoint-scores)."""

from typing import Any

import msgspec
import pytest

from epp.core.apis import Parsers
from epp.core.budget import Budget
from epp.core.events import (
    AnswerBufferedBody,
    AnswerRequestHeaders,
    BodyMode,
    Event,
    Pick,
    Picked,
    RequestBody,
    RequestHeaders,
)
from epp.core.stream import Stream, StreamSettings
from tests.core.conversation import FIRST, SECOND, decide

CHAT = b'{"model":"m","messages":[{"role":"user","content":"hi"}]}'


@pytest.mark.parametrize(
    "mode, kind",
    [
        (BodyMode.FULL_DUPLEX, AnswerRequestHeaders),
        (BodyMode.BUFFERED, AnswerBufferedBody),
        (BodyMode.STREAMED, AnswerRequestHeaders),
        (BodyMode.NONE, AnswerRequestHeaders),
    ],
)
@pytest.mark.parametrize(
    "emits_scores, told", [(True, {FIRST.address: 2.5, SECOND.address: 0.5}), (False, None)]
)
def test_each_candidate_is_told_with_its_total_also_those_that_were_not_picked(
    mode: BodyMode, kind: type, emits_scores: bool, told: dict[str, float] | None
) -> None:
    decision = msgspec.structs.replace(decide(FIRST), candidates=[FIRST, SECOND], totals=[2.5, 0.5])
    stream = Stream(
        StreamSettings(Parsers(), Budget(1 << 20), new_id=lambda: "id", emits_scores=emits_scores)
    )
    headers = {":path": "/v1/chat/completions", ":method": "POST"}
    said: list[Any] = []
    events: list[Event] = [RequestHeaders(headers, None, mode, BodyMode.NONE), RequestBody(CHAT, ended=True)]
    for event in events[:1] if mode is BodyMode.NONE else events:
        for action in stream.receive(event, 1.0):
            said += stream.receive(Picked(decision), 1.0) if isinstance(action, Pick) else [action]
    answer: Any = next(each for each in said if isinstance(each, kind))
    assert answer.scores == told
    assert answer.addresses == [FIRST.address]
