"""Which API a path belongs to, and what its body says.

Place:   called by epp.core.stream when a request body is complete.
Ignores: headers, and every field that choosing does not need; the bytes that are forwarded.
Rule:    decoded once, typed and partial: what is not asked for is skipped, what is wrong is the client's 400.
Source:  the parser plugins of the upstream picker (llm-d-router v0.10) for paths and refusals.
"""

import enum
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec import Raw

from epp.core import prompts
from epp.core.prompts import ABSENT, Item, Message, TokenId, Unreadable
from epp.core.rejection import Rejected, bad_request
from epp.core.request import NO_PAYLOAD, Api, Payload


class Parser(enum.Enum):
    """A parser plugin, named as in an EndpointPickerConfig."""

    OPENAI = "openai-parser"
    ANTHROPIC = "anthropic-parser"
    VLLM_HTTP = "vllmhttp-parser"
    SGLANG_HTTP = "sglanghttp-parser"
    PASSTHROUGH = "passthrough-parser"


DEFAULT_PARSERS = (Parser.OPENAI, Parser.ANTHROPIC, Parser.VLLM_HTTP, Parser.PASSTHROUGH)

SUFFIXES: Mapping[Parser, Mapping[str, Api]] = {
    Parser.OPENAI: {
        "chat/completions": Api.CHAT_COMPLETIONS,
        "chat/completions/render": Api.CHAT_COMPLETIONS,
        "completions": Api.COMPLETIONS,
        "completions/render": Api.COMPLETIONS,
        "embeddings": Api.EMBEDDINGS,
        "responses": Api.RESPONSES,
        "conversations": Api.CONVERSATIONS,
        "images/generations": Api.IMAGES,
    },
    Parser.ANTHROPIC: {"messages": Api.MESSAGES, "messages/count_tokens": Api.MESSAGES},
    Parser.VLLM_HTTP: {"inference/v1/generate": Api.GENERATE},
    Parser.SGLANG_HTTP: {"generate": Api.SGLANG_GENERATE},
    Parser.PASSTHROUGH: {},
}


_KNOWN_PATHS, _KNOWN_PATH_CHARACTERS = 1_000, 200


class Parsers:
    """The enabled parsers, in order; a passthrough takes what is left and ends the list."""

    def __init__(self, enabled: Sequence[Parser] = DEFAULT_PARSERS) -> None:
        self.passes_through = Parser.PASSTHROUGH in enabled
        if self.passes_through:
            enabled = enabled[: enabled.index(Parser.PASSTHROUGH)]
        claims = {f"/{suffix}": api for parser in enabled for suffix, api in SUFFIXES[parser].items()}
        self._longest_first = sorted(claims.items(), key=lambda claim: -len(claim[0]))
        self._known: dict[str, Api] = {}
        """What was found, by whole path: clients use a few, and the search takes 0.6 us."""

    def api_of(self, path: str) -> Api:
        """The API with the longest path suffix that matches whole segments; raises Rejected if none does."""
        api = self._known.get(path)
        if api is None:
            api = self._find(path)
            if len(self._known) < _KNOWN_PATHS and len(path) <= _KNOWN_PATH_CHARACTERS:
                self._known[path] = api
        return api

    def _find(self, path: str) -> Api:
        bare = "/" + path.partition("?")[0].rstrip("/")
        for suffix, api in self._longest_first:
            if bare.endswith(suffix):
                return api
        if self.passes_through:
            return Api.PASSTHROUGH
        raise bad_request(f"no parser registered matching path suffix for: {path}")


# --- what is read of a body ------------------------------------------------------------------------------

Limit = int | float | None
"""Some clients send ``256.0``."""


class _Body(msgspec.Struct, gc=False):
    """What every API has. Null counts as absent, since clients send it."""

    model: str | None = None
    stream: bool | None = None
    cache_salt: str | None = None

    def output_limit(self) -> Limit:
        """The most tokens the client wants back, as it said it."""
        return None

    def salt(self) -> str | None:
        """What parts its cache from others'."""
        return self.cache_salt

    def prompt_material(self) -> bytes | None:
        """The prompt; None where the body has none."""
        raise NotImplementedError


class _Chat(_Body, gc=False):
    messages: list[Message] | None = None
    tools: Raw = ABSENT
    functions: Raw = ABSENT
    max_tokens: Limit = None
    max_completion_tokens: Limit = None

    def output_limit(self) -> Limit:
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    def prompt_material(self) -> bytes | None:
        if not self.messages:
            return None
        return prompts.conversation(self.messages, tools=(self.tools, self.functions))


class _Completion(_Body, gc=False):
    prompt: Raw = ABSENT
    max_tokens: Limit = None

    def output_limit(self) -> Limit:
        return self.max_tokens

    def prompt_material(self) -> bytes | None:
        return prompts.plain(self.prompt) or None


class _Embedding(_Body, gc=False):
    input: Raw = ABSENT

    def prompt_material(self) -> bytes | None:
        return prompts.plain(self.input) or None


class _Image(_Body, gc=False):
    prompt: Raw = ABSENT

    def prompt_material(self) -> bytes | None:
        return prompts.plain(self.prompt) or None


class _Responses(_Body, gc=False):
    input: Raw = ABSENT
    instructions: Raw = ABSENT
    tools: Raw = ABSENT
    max_output_tokens: Limit = None

    def output_limit(self) -> Limit:
        return self.max_output_tokens

    def prompt_material(self) -> bytes | None:
        if not self.input or bytes(self.input) == b"null":
            return None
        return prompts.response_input(self.input, instructions=self.instructions, tools=self.tools)


class _Conversation(_Body, gc=False):
    items: list[Item] | None = None

    def prompt_material(self) -> bytes | None:
        return prompts.items(self.items) if self.items else None


class _Messages(_Body, gc=False):
    messages: list[Message] | None = None
    system: Raw = ABSENT
    tools: Raw = ABSENT
    max_tokens: Limit = None

    def output_limit(self) -> Limit:
        return self.max_tokens

    def prompt_material(self) -> bytes | None:
        if not self.messages:
            return None
        return prompts.conversation(self.messages, system=self.system, tools=(self.tools,))


class _Sampling(msgspec.Struct, gc=False):
    max_tokens: Limit = None


class _Generate(_Body, gc=False):
    token_ids: list[TokenId] | None = None
    sampling_params: _Sampling | None = None

    def output_limit(self) -> Limit:
        return self.sampling_params.max_tokens if self.sampling_params else None

    def prompt_material(self) -> bytes | None:
        return prompts.token_ids(self.token_ids) if self.token_ids else None


class _SglangSampling(msgspec.Struct, gc=False):
    max_new_tokens: Limit = None


class _SglangGenerate(_Body, gc=False):
    """SGLang's own API: one prompt or several, as tokens or as text; the cache's salt has another name."""

    input_ids: Raw = ABSENT
    text: Raw = ABSENT
    extra_key: str | None = None
    sampling_params: _SglangSampling | list[_SglangSampling] | None = None

    def output_limit(self) -> Limit:
        found = self.sampling_params
        return found.max_new_tokens if isinstance(found, _SglangSampling) else None

    def salt(self) -> str | None:
        return self.extra_key

    def prompt_material(self) -> bytes | None:
        return prompts.plain(self.input_ids) or prompts.plain(self.text) or None


@dataclass(frozen=True, slots=True)
class _Form:
    """How one API's body is read, and what is said of one that lacks its prompt."""

    decoder: msgspec.json.Decoder[Any]
    name: str
    prompt_field: str
    demand: str = "must have {} field"
    needs_model: bool = True

    @property
    def complaint(self) -> str:
        """The refusal, as upstream words it."""
        return f"invalid {self.name} request: {self.demand.format(self.prompt_field)}"


def _form(
    body: type[_Body],
    name: str,
    prompt_field: str,
    demand: str = "must have {} field",
    *,
    needs_model: bool = True,
) -> _Form:
    return _Form(msgspec.json.Decoder(body), name, prompt_field, demand, needs_model)


_FORMS: Mapping[Api, _Form] = {
    Api.CHAT_COMPLETIONS: _form(_Chat, "chat completions", "messages", "must have valid {} field"),
    Api.COMPLETIONS: _form(_Completion, "completions", "prompt"),
    Api.EMBEDDINGS: _form(_Embedding, "embeddings", "input"),
    Api.RESPONSES: _form(_Responses, "responses", "input"),
    Api.CONVERSATIONS: _form(_Conversation, "conversations", "items"),
    Api.IMAGES: _form(_Image, "images generations", "prompt"),
    Api.MESSAGES: _form(_Messages, "messages", "messages", "must have valid {} field"),
    Api.GENERATE: _form(_Generate, "generate", "token_ids", "must have non-empty {} field"),
    Api.SGLANG_GENERATE: _form(
        _SglangGenerate, "generate", "input_ids", "must have non-empty {} or text field", needs_model=False
    ),
}


def parse(api: Api, body: bytes) -> Payload:
    """What ``body`` says; raises Rejected (400) for one that no server could answer."""
    form = _FORMS.get(api)
    if form is None:
        return NO_PAYLOAD
    fields = _decode(form, body)
    try:
        prompt = fields.prompt_material()
    except (Unreadable, msgspec.DecodeError) as error:
        raise bad_request(f"{form.complaint}: {error}") from error
    except RecursionError as error:
        raise bad_request(_TOO_DEEP) from error
    if prompt is None:
        raise bad_request(form.complaint)
    if form.needs_model and not fields.model:
        raise bad_request(_NO_MODEL)
    limit = fields.output_limit()
    return Payload(
        model=fields.model or "",
        prompt=prompt,
        streaming=bool(fields.stream),
        max_output_tokens=int(limit)
        if limit is not None and limit >= 0
        else None,  # llama.cpp: -1 is no limit
        cache_salt=fields.salt() or "",
    )


_NO_MODEL = "model not found in request body"
_NOT_JSON = "error unmarshaling request bodyMap: "
_TOO_DEEP = f"{_NOT_JSON}nested too deeply"


def _decode(form: _Form, body: bytes) -> _Body:
    try:  # what is not asked for is skipped without a look at its encoding: the server judges that
        fields: _Body = form.decoder.decode(body)
    except UnicodeDecodeError as error:
        raise bad_request(f"{_NOT_JSON}invalid UTF-8 (byte {error.start})") from error
    except RecursionError as error:
        raise bad_request(_TOO_DEEP) from error
    except msgspec.ValidationError as error:
        raise _wrong_type(form, str(error)) from error
    except msgspec.DecodeError as error:
        raise bad_request(f"{_NOT_JSON}{_what_else(body) or error}") from error
    return fields


_COMPRESSED = "the body is compressed ({}), send it without content-encoding"
_BEGINNINGS = {
    b"\x1f\x8b": _COMPRESSED.format("gzip"),
    b"\x28\xb5\x2f\xfd": _COMPRESSED.format("zstd"),
    b"x\x01": _COMPRESSED.format("deflate"),
    b"x\x5e": _COMPRESSED.format("deflate"),
    b"x\x9c": _COMPRESSED.format("deflate"),
    b"x\xda": _COMPRESSED.format("deflate"),
    b"\xef\xbb\xbf": "the body begins with a byte order mark, send UTF-8 without one",
    b"\xff\xfe": "the body is UTF-16, send UTF-8",
    b"\xfe\xff": "the body is UTF-16, send UTF-8",
}


def _what_else(body: bytes) -> str:
    """What a body that is no JSON is by its first bytes, and the remedy; empty: nobody knows."""
    return next((text for beginning, text in _BEGINNINGS.items() if body.startswith(beginning)), "")


def _wrong_type(form: _Form, reason: str) -> Rejected:
    """``reason`` ends in the place, as in ``Expected `bool`, got `str` - at `$.stream```."""
    place = re.search(r"at `\$\.(\w+)", reason)
    if place is None:
        return bad_request(f"{_NOT_JSON}{reason}")
    if place[1] == "model":
        return bad_request(_NO_MODEL)
    if place[1] == form.prompt_field:
        return bad_request(f"{form.complaint}: {reason}")
    return bad_request(f"invalid {form.name} request: {reason}")
