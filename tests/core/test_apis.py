"""Which API a path belongs to, and what bodies say."""

import contextlib
import gzip
import itertools
import json
import zlib
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from epp.core.apis import DEFAULT_PARSERS, Parser, Parsers, parse
from epp.core.json_edit import replace_string
from epp.core.prompts import MEDIA_TOKENS
from epp.core.rejection import Rejected
from epp.core.request import BYTES_PER_TOKEN, NO_PAYLOAD, Api

CHAT, COMPLETIONS, MESSAGES, RESPONSES = Api.CHAT_COMPLETIONS, Api.COMPLETIONS, Api.MESSAGES, Api.RESPONSES
HI = [{"role": "user", "content": "hi"}]


def prompt(api: Api, **fields: Any) -> bytes:
    """The prompt material of a body with these fields."""
    return parse(api, json.dumps({"model": "m", **fields}).encode()).prompt


def chat(*messages: Any, **fields: Any) -> bytes:
    return prompt(CHAT, messages=list(messages), **fields)


def refusal(api: Api, body: bytes) -> str:
    """What the client is told, which must be a 400."""
    with pytest.raises(Rejected) as refused:
        parse(api, body)
    assert refused.value.rejection.status == 400
    return refused.value.rejection.message


# --- paths ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path, api",
    [
        ("/v1/chat/completions", CHAT),
        ("/v1/completions", COMPLETIONS),
        ("/v1/chat/completions/render", CHAT),
        ("/v1/completions/render", COMPLETIONS),
        ("/openai/deployments/x/chat/completions?api-version=1", CHAT),
        ("/v1/chat/completions/", CHAT),
        ("/v1/chat/completions/?a=/v1/embeddings", CHAT),
        ("completions", COMPLETIONS),
        ("/v1/embeddings", Api.EMBEDDINGS),
        ("/v1/responses", RESPONSES),
        ("/v1/conversations", Api.CONVERSATIONS),
        ("/v1/images/generations", Api.IMAGES),
        ("/v1/messages", MESSAGES),
        ("/anthropic/v1/messages/count_tokens", MESSAGES),
        ("/inference/v1/generate", Api.GENERATE),
        ("/generate", Api.PASSTHROUGH),
        ("/v1/autocompletions", Api.PASSTHROUGH),
        ("/v1/models", Api.PASSTHROUGH),
        ("/", Api.PASSTHROUGH),
        ("", Api.PASSTHROUGH),
    ],
)
def test_the_longest_matching_path_suffix_names_the_api(path: str, api: Api) -> None:
    assert Parsers().api_of(path) is api


@pytest.mark.parametrize(
    "enabled, path",
    [
        pytest.param((Parser.OPENAI, Parser.ANTHROPIC), "/v1/models?x=1", id="no-parser-claims-it"),
        pytest.param((Parser.OPENAI,), "/v1/messages", id="its-parser-is-off"),
        pytest.param((), "/v1/completions", id="none-at-all"),
    ],
)
def test_an_unclaimed_path_is_refused_without_a_passthrough(enabled: tuple[Parser, ...], path: str) -> None:
    with pytest.raises(Rejected) as refused:
        Parsers(enabled).api_of(path)
    assert refused.value.rejection.status == 400
    assert refused.value.rejection.message == f"no parser registered matching path suffix for: {path}"


def test_a_parser_after_the_passthrough_is_not_asked() -> None:
    parsers = Parsers((Parser.ANTHROPIC, Parser.PASSTHROUGH, Parser.OPENAI))
    assert parsers.api_of("/v1/messages") is MESSAGES
    assert parsers.api_of("/v1/completions") is Api.PASSTHROUGH


def test_the_default_parsers_are_upstreams() -> None:
    names = ["openai-parser", "anthropic-parser", "vllmhttp-parser", "passthrough-parser"]
    assert [parser.value for parser in DEFAULT_PARSERS] == names


# --- fields ---------------------------------------------------------------------------------------


def test_a_passed_through_body_is_not_looked_at() -> None:
    assert parse(Api.PASSTHROUGH, b"\xff{") is NO_PAYLOAD


@pytest.mark.parametrize(
    "api, fields, limit",
    [
        pytest.param(CHAT, {"messages": HI, "max_tokens": 5}, 5, id="chat-old-name"),
        pytest.param(
            CHAT, {"messages": HI, "max_tokens": 5, "max_completion_tokens": 6}, 6, id="chat-new-name-wins"
        ),
        pytest.param(CHAT, {"messages": HI, "max_tokens": None}, None, id="null"),
        pytest.param(CHAT, {"messages": HI, "max_tokens": -1}, None, id="llama-no-limit"),
        pytest.param(CHAT, {"messages": HI, "max_tokens": 16.0}, 16, id="float"),
        pytest.param(COMPLETIONS, {"prompt": "x", "max_tokens": 0}, 0, id="completions-zero"),
        pytest.param(
            COMPLETIONS, {"prompt": "x", "max_completion_tokens": 5}, None, id="completions-foreign-name"
        ),
        pytest.param(RESPONSES, {"input": "x", "max_output_tokens": 7}, 7, id="responses"),
        pytest.param(MESSAGES, {"messages": HI, "max_tokens": 8}, 8, id="anthropic"),
        pytest.param(
            Api.GENERATE, {"token_ids": [1], "sampling_params": {"max_tokens": 9}}, 9, id="generate"
        ),
        pytest.param(Api.EMBEDDINGS, {"input": "x"}, None, id="embeddings"),
    ],
)
def test_the_output_limit_has_a_name_per_api(api: Api, fields: dict[str, Any], limit: int | None) -> None:
    assert parse(api, json.dumps({"model": "m", **fields}).encode()).max_output_tokens == limit


@pytest.mark.parametrize("stream, streaming", [(True, True), (False, False), (None, False)])
def test_flags_and_salt_are_read(stream: bool | None, streaming: bool) -> None:
    payload = parse(
        CHAT, json.dumps({"model": "m", "messages": HI, "stream": stream, "cache_salt": "s"}).encode()
    )
    assert (payload.model, payload.streaming, payload.cache_salt) == ("m", streaming, "s")


def test_of_a_key_that_comes_twice_reader_and_editor_take_the_last() -> None:
    body = b'{"model":"a","prompt":"x","model":"b"}'
    assert parse(COMPLETIONS, body).model == "b"
    assert parse(COMPLETIONS, replace_string(body, "model", "new")).model == "new"


# --- refusals -------------------------------------------------------------------------------------

NOT_JSON = "error unmarshaling request bodyMap: "
NO_MODEL = "model not found in request body"


@pytest.mark.parametrize(
    "body, start",
    [
        pytest.param(b"", NOT_JSON, id="empty"),
        pytest.param(b"{", NOT_JSON, id="cut-off"),
        pytest.param(b"hello", NOT_JSON, id="text"),
        pytest.param(b"[1]", NOT_JSON, id="array"),
        pytest.param(b"null", NOT_JSON, id="null"),
        pytest.param(b'{"model":"m"} x', NOT_JSON, id="more-behind"),
        pytest.param(b'{"x":"a\x01"}', NOT_JSON, id="control-character"),
        pytest.param(b'{"x":' + b"[" * 99_999, NOT_JSON + "nested too deeply", id="deep"),
        pytest.param(b'{"tools":' + b"[" * 99_999, NOT_JSON + "nested too deeply", id="deep-in-tools"),
        pytest.param(
            b'{"model":"m","messages":[{"content":' + b'[{"content":' * 99_999,
            NOT_JSON + "nested too deeply",
            id="deep-parts",
        ),
    ],
)
def test_what_is_no_json_object_is_refused(body: bytes, start: str) -> None:
    assert refusal(CHAT, body).startswith(start)


COMPRESSED = "the body is compressed ({}), send it without content-encoding"


@pytest.mark.parametrize(
    "change, named",
    [
        pytest.param(gzip.compress, COMPRESSED.format("gzip"), id="gzip"),
        *(
            pytest.param(
                partial(zlib.compress, level=level), COMPRESSED.format("deflate"), id=f"zlib-{level}"
            )
            for level in (0, 5, 6, 9)
        ),
        pytest.param(lambda body: b"\x28\xb5\x2f\xfd" + body, COMPRESSED.format("zstd"), id="zstd"),
        pytest.param(
            lambda body: body.decode().encode("utf-8-sig"),
            "the body begins with a byte order mark, send UTF-8 without one",
            id="byte-order-mark",
        ),
        pytest.param(
            lambda body: body.decode().encode("utf-16"), "the body is UTF-16, send UTF-8", id="utf-16"
        ),
    ],
)
@pytest.mark.parametrize("api", [CHAT, RESPONSES, Api.GENERATE], ids=lambda api: api.name.lower())
def test_a_body_in_another_form_is_named(api: Api, change: Callable[[bytes], bytes], named: str) -> None:
    assert refusal(api, change(b'{"model":"m"}')) == NOT_JSON + named


@pytest.mark.parametrize("model", [None, "", 5, ["m"], {"name": "m"}, ...], ids=repr)
def test_a_body_without_a_model_name_is_refused(model: Any) -> None:
    fields = {"messages": HI} if model is ... else {"messages": HI, "model": model}
    assert refusal(CHAT, json.dumps(fields).encode()) == NO_MODEL


MISSING = {
    CHAT: ("messages", "invalid chat completions request: must have valid messages field"),
    COMPLETIONS: ("prompt", "invalid completions request: must have prompt field"),
    Api.EMBEDDINGS: ("input", "invalid embeddings request: must have input field"),
    RESPONSES: ("input", "invalid responses request: must have input field"),
    Api.CONVERSATIONS: ("items", "invalid conversations request: must have items field"),
    Api.IMAGES: ("prompt", "invalid images generations request: must have prompt field"),
    MESSAGES: ("messages", "invalid messages request: must have valid messages field"),
    Api.GENERATE: ("token_ids", "invalid generate request: must have non-empty token_ids field"),
}


@pytest.mark.parametrize("api", MISSING, ids=lambda api: api.name.lower())
def test_a_body_without_its_prompt_is_refused(api: Api) -> None:
    field, message = MISSING[api]
    lacking: list[dict[str, Any]] = [{}, {field: None}, *([] if api is RESPONSES else [{field: []}])]
    for value in lacking:
        assert refusal(api, json.dumps({"model": "m", **value}).encode()) == message


@pytest.mark.parametrize("wrong", [5, True, {"a": 1}], ids=repr)
@pytest.mark.parametrize("api", MISSING, ids=lambda api: api.name.lower())
def test_a_prompt_of_the_wrong_type_is_refused_by_name(api: Api, wrong: Any) -> None:
    field, message = MISSING[api]
    assert refusal(api, json.dumps({"model": "m", field: wrong}).encode()).startswith(f"{message}: ")


@pytest.mark.parametrize(
    "fields, named",
    [
        ({"stream": "true"}, "stream"),
        ({"stream": 1}, "stream"),
        ({"max_tokens": "5"}, "max_tokens"),
        ({"max_completion_tokens": [5]}, "max_completion_tokens"),
        ({"cache_salt": 5}, "cache_salt"),
        ({"messages": ["hi"]}, "messages"),
        ({"messages": [{"role": 5}]}, "messages"),
        ({"messages": [{"content": 5}]}, "messages"),
        ({"messages": [{"content": [5]}]}, "messages"),
        ({"messages": [{"content": [{"text": 5}]}]}, "messages"),
    ],
    ids=repr,
)
def test_a_field_of_the_wrong_type_is_refused_by_name(fields: dict[str, Any], named: str) -> None:
    message = refusal(CHAT, json.dumps({"model": "m", "messages": HI, **fields}).encode())
    assert message.startswith("invalid chat completions request: ")
    assert named in message


@given(body=st.binary(max_size=80) | st.text('{}[]":,nul model messages', max_size=60).map(str.encode))
def test_no_body_makes_parsing_fail_in_another_way(body: bytes) -> None:
    for api in Api:
        with contextlib.suppress(Rejected):
            parse(api, body)


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'[{"content":', b'{"content":[{"text":'])
def test_no_depth_makes_parsing_fail_in_another_way(opening: bytes) -> None:
    for depth in (*range(100, 1100, 20), *range(960, 1040)):
        for field in (b"messages", b"input", b"prompt", b"tools"):
            nested = opening * depth
            closing = nested.replace(b"{", b"}").replace(b"[", b"]").translate(None, b'":acontentx')[::-1]
            body = b'{"model":"m","messages":[{"content":' + nested + b"1" + closing + b"}]}"
            for api, given_body in (
                (CHAT, body),
                (RESPONSES, b'{"model":"m","' + field + b'":' + nested + b"1" + closing + b"}"),
            ):
                with contextlib.suppress(Rejected):
                    parse(api, given_body)


@pytest.mark.parametrize("text", [b'"\\ud800"', b'"\\ud83d and more text"'], ids=["alone", "before-text"])
def test_half_a_surrogate_pair_is_refused(text: bytes) -> None:
    for content in (text, b"[" + text + b"]", b'[{"text":' + text + b"}]"):
        body = b'{"model":"m","messages":[{"role":"user","content":' + content + b"}]}"
        assert refusal(CHAT, body).startswith(NOT_JSON)


# --- prompt material ------------------------------------------------------------------------------


def test_text_stands_as_the_client_spelled_it() -> None:
    body = b'{"model":"m","messages":[{"role":"user","content":"a\\u00e9\\"b\\n\xc3\xa9"}]}'
    assert b'a\\u00e9\\"b\\n\xc3\xa9' in parse(CHAT, body).prompt


def test_a_completions_prompt_is_its_text() -> None:
    assert prompt(COMPLETIONS, prompt="once upon a time") == b"once upon a time"
    assert prompt(COMPLETIONS, prompt=["once upon a time"]) == b"once upon a time"


def test_a_token_id_counts_as_one_token() -> None:
    ids = prompt(COMPLETIONS, prompt=[1, 2, 50_000])
    assert len(ids) == 3 * BYTES_PER_TOKEN
    assert (
        ids == prompt(Api.GENERATE, token_ids=[1, 2, 50_000]) == prompt(COMPLETIONS, prompt=[[1, 2, 50_000]])
    )
    assert prompt(COMPLETIONS, prompt=[1, 2]) == ids[:8]


@pytest.mark.parametrize("ids", [[-1], [1 << 31], [1.5], [1, "a"], [[1], 2], [[[1]]], [{}], [None]], ids=repr)
def test_a_list_that_is_no_prompt_is_refused(ids: list[Any]) -> None:
    body = json.dumps({"model": "m", "prompt": ids}).encode()
    assert refusal(COMPLETIONS, body).startswith("invalid completions request: must have prompt field: ")


def test_an_image_counts_as_upstream_reckons_it_whatever_its_size() -> None:
    def material(url: str) -> bytes:
        return chat({"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]})

    small, large = material("https://a/b.png"), material("data:image/png;base64," + "A" * 100_000)
    assert len(small) == len(large)
    assert MEDIA_TOKENS == 225
    assert MEDIA_TOKENS * BYTES_PER_TOKEN < len(small) < (MEDIA_TOKENS + 4) * BYTES_PER_TOKEN
    assert small != large


def test_one_text_part_is_the_same_as_the_text() -> None:
    assert chat({"role": "user", "content": [{"type": "text", "text": "hi"}]}) == chat(*HI)
    assert chat({"role": "user", "content": ["hi"]}) == chat(*HI)


def test_a_cache_mark_that_moves_on_changes_nothing() -> None:
    part = {"type": "text", "text": "hi"}
    marked = {**part, "cache_control": {"type": "ephemeral"}}
    with_mark = prompt(MESSAGES, messages=[{"role": "user", "content": [marked]}])
    assert with_mark == prompt(MESSAGES, messages=[{"role": "user", "content": [part]}])


TOOL = {"type": "function", "function": {"name": "f"}}
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
IMAGE = {"type": "image", "source": {"type": "base64", "data": "AA"}}


@pytest.mark.parametrize(
    "one, other",
    [
        pytest.param(chat(*HI), chat({"role": "system", "content": "hi"}), id="role"),
        pytest.param(chat(*HI), chat({"role": "user", "content": "ho"}), id="text"),
        pytest.param(chat(*HI), chat({**HI[0], "name": "bob"}), id="name"),
        pytest.param(chat(*HI), chat(*HI, tools=[TOOL]), id="tools"),
        pytest.param(chat(*HI), chat({"role": "us", "content": "erhi"}), id="role-runs-into-text"),
        pytest.param(chat(*HI, *HI), chat({"role": "user", "content": "hihi"}), id="messages-run-together"),
        pytest.param(
            chat(*HI, *HI),
            chat({"role": "user", "content": "hi\x1euser\x1fhi"}),
            id="text-imitates-a-message",
        ),
        pytest.param(
            chat(*HI, *HI),
            chat({"role": "user\x1fhi\x1euser", "content": "hi"}),
            id="role-imitates-a-message",
        ),
        pytest.param(
            chat(*HI, *HI), chat({"role": "user", "content": ["hi\x1euser\x1fhi"]}), id="part-imitates-one"
        ),
        pytest.param(
            chat({"role": "assistant", "content": None}),
            chat({"role": "assistant", "content": None, "tool_calls": [CALL]}),
            id="calls",
        ),
        pytest.param(
            chat({"role": "tool", "content": "x", "tool_call_id": "a"}),
            chat({"role": "tool", "content": "x", "tool_call_id": "b"}),
            id="call-id",
        ),
        pytest.param(
            chat({"role": "user", "content": [{"type": "new", "thing": 1}]}),
            chat({"role": "user", "content": [{"type": "new", "thing": 2}]}),
            id="unknown-parts",
        ),
        pytest.param(
            prompt(MESSAGES, messages=HI),
            prompt(MESSAGES, messages=HI, system="be brief"),
            id="anthropic-system",
        ),
        pytest.param(
            prompt(
                MESSAGES,
                messages=[{"role": "user", "content": [{"type": "tool_result", "content": [IMAGE]}]}],
            ),
            prompt(
                MESSAGES, messages=[{"role": "user", "content": [{"type": "tool_result", "content": "x"}]}]
            ),
            id="anthropic-tool-results",
        ),
        pytest.param(
            prompt(RESPONSES, input="x"), prompt(RESPONSES, input="x", instructions="y"), id="instructions"
        ),
        pytest.param(
            prompt(
                RESPONSES, input=[{"type": "function_call", "name": "f", "arguments": "{}", "call_id": "1"}]
            ),
            prompt(
                RESPONSES, input=[{"type": "function_call", "name": "g", "arguments": "{}", "call_id": "1"}]
            ),
            id="responses-calls",
        ),
        pytest.param(
            prompt(RESPONSES, input=[{"type": "function_call_output", "output": "1", "call_id": "1"}]),
            prompt(RESPONSES, input=[{"type": "function_call_output", "output": "2", "call_id": "1"}]),
            id="responses-outputs",
        ),
        pytest.param(
            prompt(COMPLETIONS, prompt=["a", "b"]), prompt(COMPLETIONS, prompt=["ab"]), id="two-prompts"
        ),
        pytest.param(
            prompt(COMPLETIONS, prompt=[[1], [2]]), prompt(COMPLETIONS, prompt=[1, 2]), id="two-id-prompts"
        ),
        pytest.param(
            prompt(COMPLETIONS, prompt=[1]), prompt(COMPLETIONS, prompt="\x00\x00\x00\x01"), id="ids-or-text"
        ),
    ],
)
def test_different_conversations_look_different(one: bytes, other: bytes) -> None:
    assert one != other


def test_the_input_of_responses_is_the_same_as_text_or_as_a_message() -> None:
    message = {"role": "user", "content": [{"type": "input_text", "text": "hi"}]}
    assert prompt(RESPONSES, input="hi") == prompt(RESPONSES, input=[message])
    assert prompt(RESPONSES, input="") != b""


def test_tools_come_before_the_messages() -> None:
    material = prompt(MESSAGES, messages=HI, system=[{"type": "text", "text": "be brief"}], tools=[TOOL])
    assert material.index(b"function") < material.index(b"be brief") < material.index(b"hi")


TEXTS = st.text(max_size=6) | st.sampled_from(["\x1e", "\x1f", '"', "\\", "user", "\x1euser\x1f"])
PARTS = st.one_of(
    TEXTS,
    st.builds(lambda text: {"type": "text", "text": text}, TEXTS),
    st.builds(lambda url: {"type": "image_url", "image_url": {"url": url}}, TEXTS),
    st.builds(lambda data: {"type": "image", "source": {"data": data}}, TEXTS),
    st.builds(lambda given: {"type": "tool_use", "id": given, "name": given, "input": {given: 1}}, TEXTS),
    st.builds(
        lambda given: {
            "type": "tool_result",
            "tool_use_id": given,
            "content": [{"type": "text", "text": given}],
        },
        TEXTS,
    ),
    st.builds(lambda given: {"type": "unknown", "field": given}, TEXTS),
)
TURNS = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "user", "assistant", "tool"]) | TEXTS},
    optional={
        "content": TEXTS | st.none() | st.lists(PARTS, max_size=3),
        "name": TEXTS,
        "tool_calls": st.lists(st.just(CALL), max_size=2) | st.none(),
        "tool_call_id": TEXTS,
        "reasoning_content": TEXTS,
    },
)
ITEMS = TURNS | st.builds(
    lambda given: {"type": "function_call_output", "call_id": given, "output": given}, TEXTS
)
CONVERSATIONS = st.sampled_from(
    [(CHAT, "messages"), (MESSAGES, "messages"), (RESPONSES, "input"), (Api.CONVERSATIONS, "items")]
)


@given(
    kind=CONVERSATIONS,
    turns=st.lists(ITEMS, min_size=2, max_size=5),
    tools=st.lists(st.just(TOOL), max_size=1),
)
@example(kind=(CHAT, "messages"), turns=[HI[0], HI[0]], tools=[])
def test_a_conversation_that_goes_on_only_adds_bytes(
    kind: tuple[Api, str], turns: list[Any], tools: list[Any]
) -> None:
    api, field = kind
    grown = [prompt(api, **{field: turns[:length], "tools": tools}) for length in range(1, len(turns) + 1)]
    for before, after in itertools.pairwise(grown):
        assert after.startswith(before)
        assert len(after) > len(before)


FEW_TEXTS = st.sampled_from(["a", "b", "ab", "\x1e", "\x1f", "a\x1fb", "a\x1euser\x1fb"])
FEW_TURNS = st.fixed_dictionaries(
    {"role": st.just("user") | FEW_TEXTS, "content": FEW_TEXTS | st.lists(FEW_TEXTS, min_size=1, max_size=2)}
)


@given(one=st.lists(FEW_TURNS, min_size=1, max_size=3), other=st.lists(FEW_TURNS, min_size=1, max_size=3))
def test_equal_material_means_equal_roles_and_texts(one: list[Any], other: list[Any]) -> None:
    same = prompt(CHAT, messages=one) == prompt(CHAT, messages=other)
    assert same == (essence(one) == essence(other))


def essence(turns: list[Any]) -> list[Any]:
    """What must be equal: roles, and texts in order, be they one string or parts."""
    found = []
    for turn in turns:
        content = turn.get("content") or []
        parts = [content] if isinstance(content, str) else content
        texts = [part if isinstance(part, str) else part.get("text") for part in parts]
        found.append((turn["role"], [text for text in texts if text]))
    return found


@given(text=st.text(max_size=300))
def test_four_bytes_of_text_are_one_token(text: str) -> None:
    spelled = json.dumps(text)[1:-1].encode()
    overhead = len(chat({"role": "user", "content": text})) - len(spelled)
    assert 0 < overhead < 4 * BYTES_PER_TOKEN


def test_bytes_that_are_not_utf8_are_the_servers_to_judge_where_they_are_not_read() -> None:
    """Go's decoder replaces them, so upstream lets such a body pass, too."""
    body = b'{"model":"m","messages":[{"role":"user","content":"\xff"}],"x":"\xc3"}'
    assert b"\xff" in parse(Api.CHAT_COMPLETIONS, body).prompt
    with pytest.raises(Rejected, match="error unmarshaling request bodyMap"):
        parse(Api.CHAT_COMPLETIONS, b'{"model":"\xff","messages":[]}')


# --- SGLang's own API -----------------------------------------------------------------------------


def sglang(**fields: Any) -> Any:
    return parse(Api.SGLANG_GENERATE, json.dumps(fields).encode())


def test_sglangs_own_api_is_understood_where_it_is_asked_for() -> None:
    assert Parsers((Parser.SGLANG_HTTP,)).api_of("/generate") is Api.SGLANG_GENERATE
    assert Parsers((Parser.SGLANG_HTTP, Parser.VLLM_HTTP)).api_of("/inference/v1/generate") is Api.GENERATE
    assert Parsers().api_of("/generate") is Api.PASSTHROUGH


def test_its_prompts_are_tokens_or_text_one_or_several() -> None:
    one = sglang(input_ids=[1, 2, 50_000])
    assert one.prompt == prompt(Api.GENERATE, token_ids=[1, 2, 50_000])
    assert sglang(input_ids=[[1, 2], [3]]).prompt == prompt(COMPLETIONS, prompt=[[1, 2], [3]])
    assert sglang(text="hello").prompt == prompt(COMPLETIONS, prompt="hello")
    assert sglang(text=["a", "b"]).prompt == prompt(COMPLETIONS, prompt=["a", "b"])


def test_what_else_it_says() -> None:
    found = sglang(input_ids=[1], sampling_params={"max_new_tokens": 9}, stream=True, extra_key="tenant")
    assert (found.model, found.max_output_tokens, found.streaming, found.cache_salt) == (
        "",
        9,
        True,
        "tenant",
    )
    assert sglang(input_ids=[[1], [2]], sampling_params=[{"max_new_tokens": 9}]).max_output_tokens is None


@pytest.mark.parametrize(
    "body, message",
    [
        (b"{}", "invalid generate request: must have non-empty input_ids or text field"),
        (b'{"input_ids":[]}', "invalid generate request: must have non-empty input_ids or text field"),
        (
            b'{"input_ids":5}',
            "invalid generate request: must have non-empty input_ids or text field: neither",
        ),
        (b'{"input_ids":["x"', "error unmarshaling request bodyMap: "),
        (b'{"text":"a","extra_key":5}', "invalid generate request: "),
    ],
)
def test_what_sglang_could_not_answer_is_refused(body: bytes, message: str) -> None:
    assert refusal(Api.SGLANG_GENERATE, body).startswith(message)
