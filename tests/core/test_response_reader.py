"""What responses say, read in pieces."""

import itertools
import json
from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from epp.core import response_reader
from epp.core.request import Api
from epp.core.response_reader import ResponseReader, Usage, reader_for
from tests.captures import capture

SSE = "text/event-stream; charset=utf-8"
CHAT, COMPLETIONS, MESSAGES, RESPONSES = Api.CHAT_COMPLETIONS, Api.COMPLETIONS, Api.MESSAGES, Api.RESPONSES
Facts = tuple[Usage | None, str | None, str | None, int | None]


def read(
    pieces: Iterable[bytes], api: Api = CHAT, content_type: str = SSE, asked: bool = True
) -> ResponseReader:
    reader = reader_for(api, content_type, asked)
    for piece in pieces:
        reader.feed(piece)
    reader.end()
    return reader


def facts(pieces: Iterable[bytes], api: Api, content_type: str = SSE) -> Facts:
    """Usage, finish, error, and after how many bytes the first token was seen."""
    reader, first, passed = reader_for(api, content_type, True), None, 0
    for piece in pieces:
        reader.feed(piece)
        passed += len(piece)
        if first is None and reader.first_token_seen:
            first = passed
    reader.end()
    return reader.usage, reader.finish, reader.error, first


def cut(data: bytes, places: Sequence[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


def events(*data: Any, named: bool = False, end: str = "\n") -> bytes:
    """Server-sent events, with their type as the event name if ``named``."""
    text = ""
    for one in data:
        text += f"event: {one['type']}{end}" if named else ""
        text += f"data: {one if isinstance(one, str) else json.dumps(one)}{end}{end}"
    return text.encode()


# --- recorded answers -------------------------------------------------------------------------------------

DEAD = "EngineCore encountered an issue. See stack trace (above) for the root cause."
STREAMS = [
    ("llama-server/chat-stream.txt", CHAT, Usage(28, 6, 0, 34), "length", None, 0),
    ("llama-server/chat-stream-usage.txt", CHAT, Usage(28, 6, 27, 34), "length", None, 0),
    ("vllm/main/chat-stream.txt", CHAT, None, "length", None, 0),
    ("vllm/main/chat-stream-usage.txt", CHAT, Usage(27, 6, None, 33), "length", None, 0),
    ("vllm/main/cmpl-stream-usage.txt", COMPLETIONS, Usage(6, 6, None, 12), "length", None, 0),
    ("vllm/lora/engine-killed-stream-0.txt", COMPLETIONS, None, None, DEAD, 0),
]


@pytest.mark.parametrize(
    "name, api, usage, finish, error, first_token", STREAMS, ids=[stream[0] for stream in STREAMS]
)
def test_a_recorded_stream(
    *, name: str, api: Api, usage: Usage | None, finish: str | None, error: str | None, first_token: int
) -> None:
    recorded = capture(name)
    reader = reader_for(api, recorded.headers["content-type"], True)
    seen = []
    for chunk in recorded.chunks:
        reader.feed(chunk)
        seen.append(reader.first_token_seen)
    reader.end()
    assert reader.streaming
    assert (reader.usage, reader.finish, reader.error) == (usage, finish, error)
    assert seen.index(True) == first_token


@pytest.mark.parametrize(
    "name, usage, finish, error",
    [
        ("llama-server/chat-nonstream.txt", Usage(28, 6, 27, 34), "length", None),
        ("vllm/main/cmpl-nonstream.txt", Usage(6, 6, None, 12), "length", None),
        ("vllm/main/cmpl-nonstream-orca-json.txt", Usage(6, 6, None, 12), "length", None),
        ("vllm/main/no-model.txt", Usage(4, 2, None, 6), "length", None),
        ("vllm/load/orca-busy.txt", Usage(2, 1, None, 3), "length", None),
        ("vllm/load/load-busy.txt", None, None, None),
        ("vllm/main/wrong-model.txt", None, None, "The model `nope` does not exist. Valid aliases: tiny."),
        ("vllm/drain/new-request-in-drain-11.txt", None, None, "cannot schedule new futures after shutdown"),
    ],
)
def test_a_recorded_whole_answer(
    name: str, usage: Usage | None, finish: str | None, error: str | None
) -> None:
    recorded = capture(name)
    reader = read([recorded.body], content_type=recorded.headers["content-type"])
    assert not reader.streaming
    assert not reader.first_token_seen
    assert (reader.usage, reader.finish, reader.error) == (usage, finish, error)


@pytest.mark.parametrize("name", ["llama-server/bad-json.txt", "vllm/main/too-long-nonstream.txt"])
def test_a_recorded_refusal_is_an_error(name: str) -> None:
    recorded = capture(name)
    assert read([recorded.body], content_type=recorded.headers["content-type"]).error


@pytest.mark.parametrize("name, api", [(stream[0], stream[1]) for stream in STREAMS])
def test_a_recorded_stream_reads_the_same_byte_by_byte(name: str, api: Api) -> None:
    body = capture(name).body
    whole, bytewise = facts([body], api), facts([body[i : i + 1] for i in range(len(body))], api)
    assert bytewise[:3] == whole[:3]
    assert bytewise[3] == body.index(b"\n\n") + 2


# --- which reader -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content_type, asked, streaming",
    [
        ("text/event-stream", False, True),
        ("Text/Event-Stream; charset=utf-8", True, True),
        ("application/json", True, False),
        ("application/problem+json", False, False),
        ("", True, True),
        ("", False, False),
        ("image/png", True, False),
    ],
)
def test_the_content_type_decides_and_the_request_where_there_is_none(
    content_type: str, asked: bool, streaming: bool
) -> None:
    assert reader_for(CHAT, content_type, asked).streaming is streaming


def test_other_content_tells_nothing() -> None:
    reader = read([b'{"usage":{"prompt_tokens":1}}'], content_type="text/html")
    assert (reader.usage, reader.finish, reader.error, reader.first_token_seen) == (None, None, None, False)


# --- streams ------------------------------------------------------------------------------------------------

ROLE = {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]}
WORD = {"choices": [{"index": 0, "delta": {"content": "usage\n\n"}, "finish_reason": None}]}
STOP = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": None}
COUNTS = {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}}
TIMINGS = {"choices": [], "timings": {"prompt_n": 3, "cache_n": 4, "predicted_n": 2}}
CHAT_STREAM = events(ROLE, WORD, STOP, COUNTS, "[DONE]")

STARTED = {
    "type": "message_start",
    "message": {"usage": {"input_tokens": 9, "cache_read_input_tokens": 4, "output_tokens": 1}},
}
TEXT_BLOCK = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
TOOL_BLOCK = {"type": "content_block_start", "index": 0, "content_block": {"type": "tool_use", "name": "f"}}
TEXT_DELTA = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "hi"}}
ENDED = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 3}}
PING = {"type": "ping"}
STOPPED = {"type": "message_stop"}
MESSAGE_STREAM = events(STARTED, PING, TEXT_BLOCK, TEXT_DELTA, ENDED, STOPPED, named=True)
OVERLOADED = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}

CREATED = {"type": "response.created", "response": {"status": "in_progress", "usage": None}}
ADDED = {"type": "response.output_item.added", "item": {"type": "message"}}
OUTPUT_DELTA = {"type": "response.output_text.delta", "delta": "hi"}
REASONING_DELTA = {"type": "response.reasoning_text.delta", "delta": "hm"}
COMPLETED = {
    "type": "response.completed",
    "response": {
        "status": "completed",
        "output": [{"content": "long"}],
        "error": None,
        "usage": {
            "input_tokens": 8,
            "input_tokens_details": {"cached_tokens": 6},
            "output_tokens": 2,
            "total_tokens": 10,
        },
    },
}
FAILED = {
    "type": "response.failed",
    "response": {"status": "failed", "error": {"code": "server_error", "message": "out of memory"}},
}
RESPONSE_STREAM = events(CREATED, ADDED, OUTPUT_DELTA, COMPLETED, named=True)


@pytest.mark.parametrize(
    "api, stream, usage, finish, error",
    [
        pytest.param(CHAT, CHAT_STREAM, Usage(5, 2, None, 7), "stop", None, id="chat"),
        pytest.param(
            CHAT, events(ROLE, STOP, TIMINGS), Usage(7, 2, 4, 9), "stop", None, id="llama-timings-only"
        ),
        pytest.param(
            CHAT, events(ROLE, COUNTS, TIMINGS), Usage(5, 2, None, 7), None, None, id="usage-beats-timings"
        ),
        pytest.param(
            CHAT, events(ROLE, TIMINGS, COUNTS), Usage(5, 2, None, 7), None, None, id="also-when-later"
        ),
        pytest.param(
            CHAT, events({"error": {"message": "died"}}, "[DONE]"), None, None, "died", id="error-object"
        ),
        pytest.param(CHAT, events({"error": "died"}), None, None, "died", id="error-text"),
        pytest.param(
            CHAT, events({"error": {"code": 5}}), None, None, '{"code": 5}', id="error-without-message"
        ),
        pytest.param(CHAT, events({**ROLE, "error": None}), None, None, None, id="error-null"),
        pytest.param(
            CHAT, events({"object": "error", "message": "m"}), None, None, "m", id="error-by-object"
        ),
        pytest.param(CHAT, b'data: {"choices":[{"finish_rea', None, None, None, id="cut-off"),
        pytest.param(
            CHAT,
            b'data: {"choices":[\ndata: {"finish_reason":"stop"}]}\n\n',
            None,
            "stop",
            None,
            id="two-lines",
        ),
        pytest.param(
            CHAT, b'data:{"choices":[{"finish_reason":"stop"}]}', None, "stop", None, id="no-line-end"
        ),
        pytest.param(CHAT, b"id: 1\nretry: 5\ndata\n\n:\n\n", None, None, None, id="other-fields"),
        pytest.param(MESSAGES, MESSAGE_STREAM, Usage(13, 3, 4, 16), "end_turn", None, id="anthropic"),
        pytest.param(
            MESSAGES,
            events(STARTED, ENDED),
            Usage(13, 3, 4, 16),
            "end_turn",
            None,
            id="anthropic-without-names",
        ),
        pytest.param(
            MESSAGES, events(OVERLOADED, named=True), None, None, "Overloaded", id="anthropic-error"
        ),
        pytest.param(RESPONSES, RESPONSE_STREAM, Usage(8, 2, 6, 10), "completed", None, id="responses"),
        pytest.param(
            RESPONSES, events(COMPLETED), Usage(8, 2, 6, 10), "completed", None, id="responses-without-names"
        ),
        pytest.param(
            RESPONSES, events(FAILED, named=True), None, "failed", "out of memory", id="responses-failed"
        ),
        pytest.param(
            RESPONSES,
            events({"type": "error", "message": "no"}, named=True),
            None,
            None,
            "no",
            id="responses-error",
        ),
        pytest.param(
            RESPONSES, events({"error": {"message": "no"}}), None, None, "no", id="responses-engine-died"
        ),
        pytest.param(
            Api.PASSTHROUGH, events("hello", COUNTS), Usage(5, 2, None, 7), None, None, id="unknown-api"
        ),
    ],
)
def test_what_a_stream_says(
    api: Api, stream: bytes, usage: Usage | None, finish: str | None, error: str | None
) -> None:
    assert facts([stream], api)[:3] == (usage, finish, error)


@pytest.mark.parametrize(
    "api, before, first",
    [
        pytest.param(CHAT, b": ping\n\n" + events({"choices": []}), events(ROLE), id="chat-empty-role-delta"),
        pytest.param(COMPLETIONS, b":\n\n", events({"choices": [{"text": "a"}]}), id="completions"),
        pytest.param(
            MESSAGES,
            events(STARTED, PING, TEXT_BLOCK, named=True),
            events(TEXT_DELTA, named=True),
            id="anthropic",
        ),
        pytest.param(
            MESSAGES, events(STARTED, PING, TEXT_BLOCK), events(TEXT_DELTA), id="anthropic-without-names"
        ),
        pytest.param(
            MESSAGES, events(STARTED, named=True), events(TOOL_BLOCK, named=True), id="anthropic-tool"
        ),
        pytest.param(
            RESPONSES, events(CREATED, ADDED, named=True), events(OUTPUT_DELTA, named=True), id="responses"
        ),
        pytest.param(
            RESPONSES, events(CREATED, ADDED), events(REASONING_DELTA), id="responses-without-names"
        ),
        pytest.param(Api.PASSTHROUGH, b": ping\n\n", events("anything"), id="unknown-api"),
        pytest.param(Api.PASSTHROUGH, events({"error": "x"}, "[DONE]"), b"", id="unknown-api-error"),
    ],
)
def test_the_first_token_is_the_first_event_with_output(api: Api, before: bytes, first: bytes) -> None:
    stream = before + first
    bytewise = facts([stream[i : i + 1] for i in range(len(stream))], api)
    assert bytewise[3] == (len(stream) if first else None)


ANTHROPIC_HALVES = {
    "all of it at the start": (
        {"input_tokens": 9, "cache_read_input_tokens": 4, "cache_creation_input_tokens": 2},
        {"output_tokens": 3},
        Usage(15, 3, 4, 18),
    ),
    "all of it again at the end": (
        {"input_tokens": 9, "cache_read_input_tokens": 4, "output_tokens": 1},
        {"input_tokens": 9, "cache_read_input_tokens": 4, "output_tokens": 3},
        Usage(13, 3, 4, 16),
    ),
    "only what was not cached again at the end": (
        {"input_tokens": 9, "cache_read_input_tokens": 4, "output_tokens": 1},
        {"input_tokens": 9, "output_tokens": 3},
        Usage(13, 3, 4, 16),
    ),
    "vLLM: the cached part is known at the end": (
        {"input_tokens": 13, "output_tokens": 0},
        {
            "input_tokens": 9,
            "cache_read_input_tokens": 4,
            "cache_creation_input_tokens": 0,
            "output_tokens": 3,
        },
        Usage(13, 3, 4, 16),
    ),
    "nothing was cached": (
        {"input_tokens": 9, "cache_read_input_tokens": 0},
        {"output_tokens": 3},
        Usage(9, 3, 0, 12),
    ),
    "more was cached than read anew": (
        {"input_tokens": 1, "cache_read_input_tokens": 4000},
        {"output_tokens": 3},
        Usage(4001, 3, 4000, 4004),
    ),
}


@pytest.mark.parametrize("name", ANTHROPIC_HALVES)
def test_a_prompt_is_what_was_cached_and_what_was_not(name: str) -> None:
    start, end, usage = ANTHROPIC_HALVES[name]
    stream = events({**STARTED, "message": {"usage": start}}, TEXT_DELTA, {**ENDED, "usage": end}, named=True)
    assert read([stream], MESSAGES).usage == usage
    both = {**start, **end}
    assert read([json.dumps({"usage": both}).encode()], MESSAGES, "application/json").usage == usage


def test_usage_that_comes_with_every_chunk_is_the_latest() -> None:
    chunks = [{**WORD, "usage": {"prompt_tokens": 5, "completion_tokens": n}} for n in (1, 2, 3)]
    assert read([events(*chunks)]).usage == Usage(5, 3, None, 8)


STREAM_SAMPLES = {
    "chat": (CHAT, CHAT_STREAM),
    "chat-cr-lf": (CHAT, events(ROLE, WORD, STOP, COUNTS, "[DONE]", end="\r\n")),
    "chat-cr": (CHAT, events(ROLE, WORD, STOP, TIMINGS, end="\r")),
    "anthropic": (MESSAGES, MESSAGE_STREAM),
    "anthropic-cr-lf": (MESSAGES, events(STARTED, TEXT_DELTA, ENDED, OVERLOADED, named=True, end="\r\n")),
    "responses": (RESPONSES, RESPONSE_STREAM),
    "engine-died": (COMPLETIONS, capture("vllm/lora/engine-killed-stream-0.txt").body[-1500:]),
    "llama": (CHAT, capture("llama-server/chat-stream.txt").body),
    "vllm": (CHAT, capture("vllm/main/chat-stream-usage.txt").body),
}


def same_in_pieces(api: Api, stream: bytes, places: Sequence[int]) -> None:
    bytewise = facts([stream[i : i + 1] for i in range(len(stream))], api)
    pieces = cut(stream, places)
    chunked = facts(pieces, api)
    assert chunked[:3] == bytewise[:3]
    ends = [sum(map(len, pieces[: i + 1])) for i in range(len(pieces))]
    assert chunked[3] == next((end for end in ends if bytewise[3] is not None and end >= bytewise[3]), None)


@settings(max_examples=200)
@given(name=st.sampled_from(sorted(STREAM_SAMPLES)), places=st.lists(st.integers(0, 10_000), max_size=30))
def test_no_chunking_changes_what_a_stream_says(name: str, places: list[int]) -> None:
    same_in_pieces(*STREAM_SAMPLES[name], places)


LINES = st.sampled_from(
    [
        b"data: " + json.dumps(one).encode()
        for one in (
            ROLE,
            WORD,
            STOP,
            COUNTS,
            TIMINGS,
            STARTED,
            TEXT_DELTA,
            ENDED,
            COMPLETED,
            FAILED,
            OVERLOADED,
        )
    ]
    + [
        b"data: [DONE]",
        b"data:",
        b"event: error",
        b"event: response.completed",
        b": ping",
        b"",
        b"data: \xff{",
    ]
)
LINE_ENDS = st.sampled_from([b"\n", b"\r\n", b"\r", b"\n\n", b"\r\n\r\n", b"\r\r"])


@settings(max_examples=300)
@given(
    api=st.sampled_from(list(Api)),
    lines=st.lists(st.tuples(LINES, LINE_ENDS).map(b"".join), max_size=8),
    places=st.lists(st.integers(0, 2_000), max_size=20),
)
def test_no_chunking_changes_what_a_strange_stream_says(
    api: Api, lines: list[bytes], places: list[int]
) -> None:
    same_in_pieces(api, b"".join(lines), places)


TEXT = st.sampled_from(
    ["hi", "", 'a "quoted" word', '"usage"', "error", "\n\n", "response.failed", "\u00fc\\"]
)


def chat_chunk(text: str, reason: str | None, more: dict[str, Any]) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": reason}], **more}


MORE = st.sampled_from([{}, {}, {}, {"usage": None}, {"error": {"message": "m"}}, COUNTS, TIMINGS])
ENDED_UNCOUNTED = {"type": "message_delta", "delta": {"stop_reason": "refusal"}}
COMPLETED_BRIEFLY = {"type": "response.completed", "response": {"status": "completed"}}
INCOMPLETE = {"type": "response.incomplete", "response": {"status": "incomplete"}}
FAILED_BRIEFLY = {"type": "response.failed", "response": {"status": "failed"}}
ERROR = {"type": "error", "message": "no"}
TOLD: dict[Api, st.SearchStrategy[tuple[str, Any]]] = {
    CHAT: st.tuples(
        st.just(""),
        st.builds(chat_chunk, TEXT, st.sampled_from([None, None, None, "stop"]), MORE)
        | st.sampled_from([ROLE, COUNTS, STOP, {"error": "e"}]),
    ),
    MESSAGES: st.tuples(
        st.sampled_from(["", "content_block_delta", "content_block_delta"]),
        st.builds(lambda text: {**TEXT_DELTA, "delta": {"type": "text_delta", "text": text}}, TEXT),
    )
    | st.sampled_from([(one["type"], one) for one in (STARTED, ENDED, ENDED_UNCOUNTED, OVERLOADED, PING)]),
    RESPONSES: st.tuples(
        st.sampled_from(["", "response.output_text.delta", "response.output_text.delta"]),
        st.builds(lambda text: {**OUTPUT_DELTA, "delta": text}, TEXT),
    )
    | st.sampled_from(
        [
            (one["type"], one)
            for one in (CREATED, COMPLETED, COMPLETED_BRIEFLY, INCOMPLETE, FAILED_BRIEFLY, ERROR)
        ]
    ),
}


@st.composite
def streams(draw: st.DrawFn) -> tuple[Api, list[bytes]]:
    """Whole events, as engines send them: the ones between are only output."""
    api = draw(st.sampled_from(sorted(TOLD, key=lambda api: api.value)))
    compact = (",", ":") if draw(st.booleans()) else None
    found = []
    for name, data in draw(st.lists(TOLD[api], max_size=10)):
        line = f"event: {name}\n" if name else ""
        found.append(f"{line}data: {json.dumps(data, separators=compact)}\n\n".encode())
    return api, found


@settings(max_examples=300)
@given(streams(), st.lists(st.integers(1, 3), min_size=10, max_size=10))
def test_events_that_are_passed_over_say_nothing(
    stream: tuple[Api, list[bytes]], together: list[int]
) -> None:
    """Byte by byte every event is looked at; one or a few at a time, most are not."""
    api, whole = stream
    left = iter(whole)
    pieces = [b"".join(itertools.islice(left, count)) for count in together]
    body = b"".join(pieces)
    assert facts(pieces, api)[:3] == facts([body[i : i + 1] for i in range(len(body))], api)[:3]


def test_an_event_with_more_than_its_text_is_read_though_it_begins_and_ends_as_the_one_before() -> None:
    front, back = b'data: {"choices":[{"delta":{"content":"', b'"},"finish_reason":null}]}\n\n'
    counts = b'"},"finish_reason":null}],"usage":{"prompt_tokens":5},"choices":[{"delta":{"content":"'
    words = [front + word + back for word in (b"a", b"b", counts, b"c")]
    assert read(words).usage == Usage(5)


@pytest.mark.parametrize("name", ["llama-server/chat-stream.txt", "vllm/main/chat-stream-usage.txt"])
def test_most_events_of_a_stream_are_passed_over(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the test before this one would compare the whole reading with itself."""
    reader = reader_for(CHAT, SSE, True)
    reader.first_token_seen = True
    taken: list[bytes] = []
    monkeypatch.setattr(type(reader), "_take", lambda self, event: taken.append(event))
    chunks = [chunk for chunk in capture(name).chunks if chunk]
    for chunk in chunks:
        reader.feed(chunk)
    assert len(taken) <= len(chunks) - 3


@given(
    api=st.sampled_from(list(Api)),
    kind=st.sampled_from([SSE, "application/json"]),
    data=st.binary(max_size=200),
)
def test_no_bytes_make_a_reader_fail(api: Api, kind: str, data: bytes) -> None:
    facts([data, b"data: " + data + b"\n\n"], api, kind)


# --- bounds ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("piece", [7, 64, 10_000], ids=lambda size: f"in-pieces-of-{size}")
@pytest.mark.parametrize("surplus, read_it", [(0, True), (1, False)], ids=["at-the-limit", "over-the-limit"])
def test_an_event_over_the_limit_is_skipped_and_the_next_is_read(
    monkeypatch: pytest.MonkeyPatch, piece: int, surplus: int, read_it: bool
) -> None:
    monkeypatch.setattr(response_reader, "LIMIT", 200)
    frame = len(b'data: {"error":""}')
    long = b'data: {"error":"' + b"e" * (200 - frame + surplus) + b'"}\n\n'
    stream = long + events(COUNTS)
    reader = read([stream[i : i + piece] for i in range(0, len(stream), piece)])
    assert (reader.error is not None) is read_it
    assert reader.usage == Usage(5, 2, None, 7)


def test_what_is_kept_of_an_endless_event_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(response_reader, "LIMIT", 200)
    reader = reader_for(CHAT, SSE, True)
    for _ in range(1_000):
        reader.feed(b"x" * 50)
        assert len(reader._pending) <= 300  # type: ignore[attr-defined]
    reader.end()


@pytest.mark.parametrize(
    "error",
    [
        pytest.param({"error": {"message": "m" * 2000}}, id="message"),
        pytest.param({"error": "m" * 2000}, id="text"),
        pytest.param({"error": {"code": "m" * 2000}}, id="object"),
        pytest.param({"object": "error", "message": "m" * 2000}, id="by-object"),
    ],
)
@pytest.mark.parametrize("streamed", [True, False], ids=["stream", "whole"])
def test_what_is_kept_of_an_error_is_bounded(error: dict[str, Any], streamed: bool) -> None:
    """It goes into a log line and stays there."""
    body = events(error) if streamed else json.dumps(error).encode()
    kept = read([body], content_type=SSE if streamed else "application/json").error
    assert kept is not None and len(kept) == 500 and kept.endswith("m")


def test_a_whole_answer_over_the_limit_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(response_reader, "LIMIT", 200)
    usage = b'"usage":{"prompt_tokens":1,"completion_tokens":1}}'
    assert read([b'{"a":"b",', usage], content_type="application/json").usage == Usage(1, 1, None, 2)
    assert read([b'{"a":"' + b"b" * 200 + b'",', usage], content_type="application/json").usage is None


def test_a_json_answer_nested_too_deeply_tells_nothing() -> None:
    body = b'{"usage":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    assert read([body], content_type="application/json").usage is None


@pytest.mark.parametrize(
    "answer, usage, finish",
    [
        pytest.param(
            {
                "type": "message",
                "stop_reason": "max_tokens",
                "usage": {"input_tokens": 3, "output_tokens": 4},
            },
            Usage(3, 4, None, 7),
            "max_tokens",
            id="anthropic",
        ),
        pytest.param(
            {"object": "response", **COMPLETED["response"]},
            Usage(8, 2, 6, 10),
            "completed",
            id="responses",
        ),
        pytest.param({"status": "ok"}, None, None, id="a-health-check-has-a-status-and-no-finish"),
        pytest.param(
            {"data": [{"embedding": [0.5]}], "usage": {"prompt_tokens": 4, "total_tokens": 4}},
            Usage(4, None, None, 4),
            None,
            id="embeddings",
        ),
        pytest.param(
            {"content": "x", "timings": TIMINGS["timings"]}, Usage(7, 2, 4, 9), None, id="llama-native"
        ),
        pytest.param(
            {
                "usage": {
                    "prompt_tokens": 9,
                    "prompt_tokens_details": {"cached_tokens": 0},
                    "cache_read_input_tokens": 5,
                }
            },
            Usage(9, None, 0, None),
            None,
            id="cached-0-is-an-answer",
        ),
        pytest.param(
            {
                "usage": {
                    "prompt_tokens": 0,
                    "input_tokens": 7,
                    "completion_tokens": 0,
                    "output_tokens": 7,
                    "input_tokens_details": {},
                    "cache_read_input_tokens": 5,
                }
            },
            Usage(0, 0, 5, 0),
            None,
            id="so-is-a-prompt-of-0-but-not-details-without-the-count",
        ),
        pytest.param(
            {
                "usage": {
                    "input_tokens": 8,
                    "input_tokens_details": {"cached_tokens": 6},
                    "cache_read_input_tokens": 6,
                }
            },
            Usage(8, None, 6, None),
            None,
            id="where-there-are-details-the-prompt-is-whole",
        ),
        pytest.param({"usage": {"prompt_tokens": "four"}}, None, None, id="wrong-type"),
        pytest.param([1, 2], None, None, id="array"),
    ],
)
def test_what_a_whole_answer_says(answer: Any, usage: Usage | None, finish: str | None) -> None:
    reader = read([json.dumps(answer).encode()], content_type="application/json")
    assert (reader.usage, reader.finish) == (usage, finish)


@pytest.mark.parametrize("count", ["-1", "9" * 400, "1.5"])
def test_a_count_that_no_engine_can_mean_tells_nothing(count: str) -> None:
    """Sums of it would stay wrong for ever."""
    reader = reader_for(Api.CHAT_COMPLETIONS, "application/json", False)
    reader.feed(b'{"usage": {"prompt_tokens": ' + count.encode() + b"}}")
    reader.end()
    assert reader.usage is None


# --- SGLang's own API -----------------------------------------------------------------------------

SGLANG = Api.SGLANG_GENERATE
META = {"prompt_tokens": 7, "completion_tokens": 2, "cached_tokens": 4, "finish_reason": None}
STOPPED = {**META, "completion_tokens": 3, "finish_reason": {"type": "stop", "matched": 2}}


def test_sglangs_events_tell_the_counts_so_far_and_the_last_one_counts() -> None:
    stream = events({"text": "a", "meta_info": META}, {"text": "ab", "meta_info": STOPPED}, "[DONE]")
    assert facts([stream], SGLANG) == (Usage(7, 3, 4, 10), "stop", None, len(stream))
    assert facts(cut(stream, range(1, len(stream), 3)), SGLANG)[:3] == (Usage(7, 3, 4, 10), "stop", None)


def test_an_error_in_them_is_no_token() -> None:
    stream = events({"error": {"message": "out of memory", "code": 500}})
    assert facts([stream], SGLANG) == (None, None, "out of memory", None)


@pytest.mark.parametrize(
    "answer, usage, finish",
    [
        ({"text": "ab", "meta_info": STOPPED}, Usage(7, 3, 4, 10), "stop"),
        ([{"meta_info": META}, {"meta_info": STOPPED}], Usage(14, 5, 8, 19), "stop"),
        ([{"meta_info": {"prompt_tokens": 1}}, {"meta_info": STOPPED}], Usage(8, None, None, None), "stop"),
        ({"meta_info": {"finish_reason": "length"}}, None, "length"),
        ([], None, None),
        ({}, None, None),
    ],
)
def test_sglangs_whole_answers(answer: Any, usage: Usage | None, finish: str | None) -> None:
    assert facts([json.dumps(answer).encode()], SGLANG, "application/json")[:2] == (usage, finish)
