"""What the picker counts of answers in each API's own words, through Envoy.

llama.cpp serves chat completions, completions, Anthropic messages and OpenAI responses, each as one JSON and
as events; what it never says (tools, pings, errors inside a 200) a scripted server says. The default driver
only: a response's bytes are read the same whoever brings them.
"""

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.rig.envoy import DIALECTS, Envoy
from bench.rig.model import text
from bench.rig.picker import Picker
from bench.rig.process import wait_until
from tests.system.gate import Gate
from tests.system.talk import (
    Reply,
    ask,
    new_id,
    request_line,
    series,
    wait_at_rest,
    wait_reachable,
)

pytestmark = pytest.mark.default_driver
MESSAGES = "/v1/messages"
RESPONSES = "/v1/responses"
TOKENS = 6


def chat(words: str, stream: bool) -> dict[str, Any]:
    more = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
    return {"max_tokens": TOKENS, "messages": [{"role": "user", "content": words}], **more}


def completion(words: str, stream: bool) -> dict[str, Any]:
    return {"max_tokens": TOKENS, "prompt": words, "stream": stream}


def messages(words: str, stream: bool) -> dict[str, Any]:
    return {"max_tokens": TOKENS, "messages": [{"role": "user", "content": words}], "stream": stream}


def responses(words: str, stream: bool) -> dict[str, Any]:
    return {"max_output_tokens": TOKENS, "input": words, "stream": stream}


Make = Callable[[str, bool], dict[str, Any]]
APIS: dict[str, Make] = {
    "/v1/chat/completions": chat,
    "/v1/completions": completion,
    MESSAGES: messages,
    RESPONSES: responses,
}


def usage(reply: Reply) -> tuple[int, int, int]:
    """Prompt, generated and cached tokens as the answer says, each API in its own place."""
    if not reply.headers["content-type"].startswith("text/event-stream"):
        return _counts(reply.json()["usage"])
    found: dict[str, Any] = {}
    for event in (json.loads(data) for data in reply.events() if data != "[DONE]"):
        for place in (event, event.get("message", {}), event.get("response", {})):
            found |= place.get("usage") or {}
    return _counts(found)


def _counts(found: dict[str, Any]) -> tuple[int, int, int]:
    details = found.get("prompt_tokens_details") or found.get("input_tokens_details") or {}
    prompt = found.get("prompt_tokens", found.get("input_tokens"))
    generated = found.get("completion_tokens", found.get("output_tokens"))
    if "cache_read_input_tokens" in found:  # Anthropic's, which are not among the input tokens
        cached = found["cache_read_input_tokens"]
        return prompt + cached, generated, cached
    return prompt, generated, details["cached_tokens"]


@pytest.mark.parametrize("stream", [False, True], ids=["json", "events"])
@pytest.mark.parametrize("path", APIS)
@pytest.mark.parametrize("listener", ["original_dst", "buffered"])
def test_usage_is_counted_as_the_server_says(
    listener: str, path: str, stream: bool, gateway: Envoy, picker: Picker
) -> None:
    """Twice the same, so that the second time most of the prompt is in the server's cache."""
    model = f"usage-{listener}-{path}-{stream}"
    words = text(120, random.Random(model))
    body = json.dumps({"model": model, **APIS[path](words, stream)}).encode()
    told, ids = [], [new_id(), new_id()]
    for request_id in ids:
        reply = ask(gateway.url(listener), path, body, headers=[("x-request-id", request_id)])
        assert reply.status == 200, reply
        told.append(usage(reply))
        wait_at_rest(picker)
    (prompt, generated, cached), (again, _, cached_again) = told
    assert generated == TOKENS and cached < 20 and cached_again > 100
    assert prompt == again > 120

    for request_id, counts in zip(ids, told, strict=True):
        line = request_line(picker, request_id)
        assert (line["prompt_tokens"], line["completion_tokens"], line["cached_tokens"]) == counts
        assert line["finish"] in ("length", "max_tokens", "completed", "incomplete")
        assert "error" not in line
    now = series(picker)
    sums = (
        "llm_d_epp_request_input_tokens",
        "llm_d_epp_request_output_tokens",
        "llm_d_epp_request_cached_tokens",
    )
    for name, one, other in zip(sums, *told, strict=True):
        assert now.get(f"{name}_sum", model_name=model) == one + other, name
        assert now.get(f"{name}_count", model_name=model) == 2, name
    ttft = "llm_d_epp_request_ttft_seconds_count"
    assert now.get(ttft, model_name=model, streaming=str(stream).lower()) == 2


def test_counting_tokens_generates_none(gateway: Envoy, picker: Picker) -> None:
    body = json.dumps({"model": "count", "messages": [{"role": "user", "content": "how many"}]}).encode()
    reply = ask(gateway.url("original_dst"), f"{MESSAGES}/count_tokens", body)
    assert reply.status == 200 and reply.json()["input_tokens"] > 0
    wait_at_rest(picker)
    now = series(picker)
    assert now.get("llm_d_epp_request_total", model_name="count") == 1
    assert now.get("llm_d_epp_request_output_tokens_sum", model_name="count") in (None, 0)


# --- what llama.cpp does not say ---------------------------------------------------------------------


def events(*pairs: tuple[str, dict[str, Any]]) -> bytes:
    lines = (f"event: {name}\ndata: {json.dumps({'type': name, **data})}\n\n" for name, data in pairs)
    return "".join(lines).encode()


STARTED = ("message_start", {"message": {"usage": {"input_tokens": 472, "cache_read_input_tokens": 30}}})
TOOL_CALL = events(
    STARTED,
    ("ping", {}),
    ("content_block_start", {"index": 0, "content_block": {"type": "tool_use", "name": "weather"}}),
    (
        "content_block_delta",
        {"index": 0, "delta": {"type": "input_json_delta", "partial_json": '{"usage": 9}'}},
    ),
    ("content_block_stop", {"index": 0}),
    ("message_delta", {"delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 89}}),
    ("message_stop", {}),
)
OVERLOADED = events(STARTED, ("error", {"error": {"type": "overloaded_error", "message": "Overloaded"}}))
COUNTED = {"input_tokens": 328, "input_tokens_details": {"cached_tokens": 64}, "output_tokens": 52}
REASONED = events(
    ("response.created", {"response": {"status": "in_progress", "usage": None}}),
    ("response.reasoning_summary_text.delta", {"delta": "hm"}),
    ("response.function_call_arguments.delta", {"delta": '{"x'}),
    ("response.incomplete", {"response": {"status": "incomplete", "usage": COUNTED}}),
)
FAILED = events(
    ("response.created", {"response": {"status": "in_progress"}}),
    (
        "response.failed",
        {"response": {"status": "failed", "error": {"code": "server_error", "message": "lost"}}},
    ),
)


@pytest.fixture(scope="module")
def scripted(logs: Path) -> Iterator[tuple[Gate, Picker, Envoy]]:
    with Gate() as gate:
        gate.open()
        with Picker(logs=logs, name="picker-scripted", endpoints={"gate": gate.address}) as picker:
            wait_reachable(picker, {"gate": "up"})
            with Envoy(
                logs=logs,
                name="envoy-scripted",
                servers=[gate.address],
                picker=picker.address,
                listeners=DIALECTS,
            ) as gateway:
                yield gate, picker, gateway


@pytest.mark.parametrize(
    "path, make, said, facts",
    [
        pytest.param(
            *(MESSAGES, messages, TOOL_CALL),
            {"prompt_tokens": 502, "cached_tokens": 30, "completion_tokens": 89, "finish": "tool_use"},
            id="messages-tool-call-and-ping",
        ),
        pytest.param(
            *(RESPONSES, responses, REASONED),
            {"prompt_tokens": 328, "cached_tokens": 64, "completion_tokens": 52, "finish": "incomplete"},
            id="responses-reasoning-and-incomplete",
        ),
        pytest.param(*(MESSAGES, messages, OVERLOADED), {"error": "Overloaded"}, id="messages-error"),
        pytest.param(*(RESPONSES, responses, FAILED), {"error": "lost"}, id="responses-failed"),
    ],
)
def test_events_are_read_as_the_api_means_them(
    path: str, make: Make, said: bytes, facts: dict[str, Any], scripted: tuple[Gate, Picker, Envoy]
) -> None:
    gate, picker, gateway = scripted
    gate.streams[path.encode()] = said
    model, request_id = new_id(), new_id()
    body = json.dumps({"model": model, **make("go on", True)}).encode()
    reply = ask(gateway.url("original_dst"), path, body, headers=[("x-request-id", request_id)])
    assert (reply.status, reply.body) == (200, said)
    line = request_line(picker, request_id)
    assert facts.items() <= line.items()
    failed = "llm_d_epp_request_error_total"
    wait_until(lambda: series(picker).get("llm_d_epp_request_total", model_name=model) == 1, what="counted")
    now = series(picker)
    if "error" in facts:  # inside a 200: the client has it, and it is no success
        assert now.get(failed, model_name=model, error_code="ModelServerError") == 1
        assert not now.count("llm_d_epp_request_duration_seconds_count", model_name=model)
    else:
        assert now.get(failed, model_name=model) is None
        assert now.get("llm_d_epp_request_ttft_seconds_count", model_name=model, streaming="true") == 1
        output = "llm_d_epp_request_output_tokens_sum"
        assert now.get(output, model_name=model) == facts["completion_tokens"]
