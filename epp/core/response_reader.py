"""What a response says while it passes: first token, usage, how it ended, an error inside a 200.

Place:   fed by epp.core.stream with every piece of a response body, in any chunking.
Ignores: the clock (the caller looks at ``first_token_seen`` after each piece); what an error means.
Rule:    what cannot be read tells nothing; a response is never held up or changed for its facts. The event
         of an ordinary token is known by a few byte searches, not decoded. ``LIMIT`` bytes are kept at most.
Source:  the HTML standard on server-sent events; response formats of OpenAI, Anthropic and llama.cpp.

A byte search for ``"usage"`` is safe in JSON: generated text can only hold it with its quotes escaped.
"""

import enum
import functools
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, NamedTuple, TypeVar

import msgspec
from msgspec import Raw

from epp.core.request import Api

LIMIT = 4 << 20
"""Bytes of an unfinished event, or of a JSON answer, that are kept; one that is longer tells nothing."""
_MESSAGE_LIMIT = 500
"""Characters kept of an engine's error message."""
_FAULT_LIMIT = 1 << 16
"""Bytes that are looked at of an answer of 500 and above."""
_T = TypeVar("_T")


class Usage(msgspec.Struct, frozen=True, gc=False):
    """What the engine counted [tokens]; None where it did not say."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None
    """The part of the prompt that the engine took from its cache."""
    total_tokens: int | None = None


class ResponseReader:
    """The facts of one response so far. This one reads nothing: neither JSON nor events are in it."""

    __slots__ = ("error", "error_status", "finish", "first_token_seen", "usage")
    streaming = False

    def __init__(self) -> None:
        self.usage: Usage | None = None
        self.first_token_seen = False
        """Streams only: an event with generated output has passed."""
        self.error: str | None = None
        self.error_status: int | None = None
        """The HTTP status that ``error`` would have had, where it says so."""
        self.finish: str | None = None
        """finish_reason, stop_reason or status, as the engine spells it."""

    def feed(self, data: bytes) -> None:
        """Take the next piece of the body."""

    def end(self) -> None:
        """The body is complete, or no more of it will come."""

    def _note(self, fault: "_Fault | None") -> None:
        """Keep the first error."""
        if fault is not None and self.error is None:
            self.error, self.error_status = fault


def reader_for(
    api: Api, content_type: str, request_streaming: bool, status: int | None = None
) -> ResponseReader:
    """The reader for a response; what was asked for decides only where the response names no type."""
    if status is not None and status >= 500:
        return FaultReader()
    form = _form(content_type)
    if form is _Form.EVENTS or (form is _Form.UNNAMED and request_streaming):
        return _EVENTS.get(api, _AnyEvents)()
    if form is _Form.OTHER:
        return ResponseReader()
    return _GeneratedReader() if api is Api.SGLANG_GENERATE else JsonReader()


class _Form(enum.Enum):
    EVENTS, JSON, OTHER, UNNAMED = range(4)


@functools.lru_cache(maxsize=256)
def _form(content_type: str) -> _Form:
    kind = content_type.partition(";")[0].strip().lower()
    if "text/event-stream" in content_type.lower():
        return _Form.EVENTS
    if kind in {"application/json", "text/json"} or kind.endswith("+json"):
        return _Form.JSON
    return _Form.OTHER if kind else _Form.UNNAMED


# --- what is read of an answer ------------------------------------------------------------------------


# An engine's figure goes into sums that stay: what cannot be a number of tokens makes the chunk unreadable.
_Count = Annotated[int, msgspec.Meta(ge=0, lt=1 << 53)]


class _Details(msgspec.Struct, gc=False):
    cached_tokens: _Count | None = None


class _Counts(msgspec.Struct, gc=False):
    """``usage`` in the words of OpenAI's two APIs and Anthropic's.

    OpenAI counts what was cached as a part of the prompt; Anthropic's ``input_tokens`` are those that were
    neither read from the cache nor written to it.
    """

    prompt_tokens: _Count | None = None
    input_tokens: _Count | None = None
    completion_tokens: _Count | None = None
    output_tokens: _Count | None = None
    total_tokens: _Count | None = None
    prompt_tokens_details: _Details | None = None
    input_tokens_details: _Details | None = None
    cache_read_input_tokens: _Count | None = None
    cache_creation_input_tokens: _Count | None = None

    def usage(self) -> Usage:
        details = self.prompt_tokens_details or self.input_tokens_details
        cached = details.cached_tokens if details else None
        return _usage(
            prompt=self._input_tokens() if self.prompt_tokens is None else self.prompt_tokens,
            completion=_first(self.completion_tokens, self.output_tokens),
            cached=self.cache_read_input_tokens if cached is None else cached,
            total=self.total_tokens,
        )

    def _input_tokens(self) -> int | None:
        if self.input_tokens is None or self.input_tokens_details is not None:
            return self.input_tokens
        return (
            self.input_tokens + (self.cache_read_input_tokens or 0) + (self.cache_creation_input_tokens or 0)
        )

    def updated(self, newer: "_Counts") -> "_Counts":
        """What ``newer`` says, and of the rest what was said before."""
        said = {name: getattr(newer, name) for name in self.__struct_fields__}
        return msgspec.structs.replace(self, **{name: one for name, one in said.items() if one is not None})


class _Timings(msgspec.Struct, gc=False):
    """llama.cpp's own counts, its only ones in a chat stream without ``include_usage``."""

    prompt_n: _Count | None = None
    cache_n: _Count | None = None
    predicted_n: _Count | None = None

    def usage(self) -> Usage:
        prompt = None if self.prompt_n is None else self.prompt_n + (self.cache_n or 0)
        return _usage(prompt=prompt, completion=self.predicted_n, cached=self.cache_n)


class _Choice(msgspec.Struct, gc=False):
    finish_reason: str | None = None


class _Delta(msgspec.Struct, gc=False):
    stop_reason: str | None = None


class _Block(msgspec.Struct, gc=False):
    type: str = ""


class _Answer(msgspec.Struct, gc=False):
    """A whole answer, or one chunk of an OpenAI stream."""

    choices: list[_Choice] | None = None
    usage: _Counts | None = None
    timings: _Timings | None = None
    stop_reason: str | None = None
    status: str | int | None = None
    error: Raw = Raw()
    object: str | None = None
    message: Raw = Raw()
    code: Any = None

    def finish(self, *, by_status: bool = False) -> str | None:
        """``by_status``: in the Responses API; elsewhere a status tells of other things (``/health``)."""
        if by_status and isinstance(self.status, str):
            return self.status
        reasons = [choice.finish_reason for choice in self.choices or () if choice.finish_reason]
        return reasons[-1] if reasons else self.stop_reason


class _Reason(msgspec.Struct, gc=False):
    type: str | None = None


class _Meta(msgspec.Struct, gc=False):
    prompt_tokens: _Count | None = None
    completion_tokens: _Count | None = None
    cached_tokens: _Count | None = None
    finish_reason: _Reason | str | None = None


class _Generated(msgspec.Struct, gc=False):
    """SGLang's answer to one prompt, or one chunk of it: the counts so far."""

    meta_info: _Meta | None = None
    error: Raw = Raw()

    def usage(self) -> Usage | None:
        meta = self.meta_info
        if meta is None or (meta.prompt_tokens is None and meta.completion_tokens is None):
            return None
        counts = (meta.prompt_tokens, meta.completion_tokens, meta.cached_tokens)
        return _usage(prompt=counts[0], completion=counts[1], cached=counts[2])

    def finish(self) -> str | None:
        reason = self.meta_info.finish_reason if self.meta_info else None
        return reason.type if isinstance(reason, _Reason) else reason


class _MessageStart(msgspec.Struct, gc=False):
    usage: _Counts | None = None


class _AnthropicEvent(msgspec.Struct, gc=False):
    type: str = ""
    message: _MessageStart | str | None = None
    delta: _Delta | None = None
    content_block: _Block | None = None
    usage: _Counts | None = None
    error: Raw = Raw()


class _ResponsesEvent(msgspec.Struct, gc=False):
    type: str = ""
    response: _Answer | None = None
    error: Raw = Raw()
    message: Raw = Raw()
    code: Any = None


class _ErrorObject(msgspec.Struct, gc=False):
    message: str | None = None
    code: Any = None
    type: Any = None


class _Fault(NamedTuple):
    """What went wrong, in the engine's words, and the status it stands for."""

    text: str
    status: int | None


_ANSWER = msgspec.json.Decoder(_Answer)
_ANTHROPIC = msgspec.json.Decoder(_AnthropicEvent)
_RESPONSES = msgspec.json.Decoder(_ResponsesEvent)
_GENERATED = msgspec.json.Decoder(_Generated | list[_Generated])
_ERROR = msgspec.json.Decoder(_ErrorObject | str)


def _first(one: int | None, other: int | None) -> int | None:
    return other if one is None else one


def _usage(
    *, prompt: int | None, completion: int | None, cached: int | None, total: int | None = None
) -> Usage:
    if total is None and prompt is not None and completion is not None:
        total = prompt + completion
    return Usage(prompt, completion, cached, total)


_STATUS_OF = {
    **dict.fromkeys(("server_error", "internal_error", "InternalServerError", "api_error"), 500),
    "unavailable_error": 503,
    "ServiceUnavailableError": 503,
    "overloaded_error": 529,
}
"""By the name of an error in ``code`` or ``type``: OpenAI's, llama.cpp's, vLLM's and Anthropic's."""


def _status(*said: Any) -> int | None:
    """Of the first that is a status, or a name that stands for one."""
    for one in said:
        if isinstance(one, str):
            number = int(one) if len(one) == 3 and one.isascii() and one.isdigit() else _STATUS_OF.get(one)
        else:
            number = one if type(one) is int else None
        if number is not None and 400 <= number <= 599:
            return number
    return None


def _fault(raw: Raw, code: Any = None) -> _Fault | None:
    """What ``error`` says; None where it is absent or null. ``code``: said beside it."""
    if not raw or bytes(raw) == b"null":
        return None
    found = _decoded(_ERROR, raw)
    named = found if isinstance(found, _ErrorObject) else _ErrorObject(found)
    text = named.message or bytes(raw).decode(errors="replace")
    return _Fault(text[:_MESSAGE_LIMIT], _status(named.code, named.type, code))


def _decoded(decoder: msgspec.json.Decoder[_T], data: bytes | Raw) -> _T | None:
    """None: not what the decoder looks for. That is the engine's affair; the response passes either way."""
    try:
        return decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


# --- whole answers ------------------------------------------------------------------------------------


class JsonReader(ResponseReader):
    """Keeps a JSON answer and reads it at its end."""

    __slots__ = ("_pieces", "_size")

    def __init__(self) -> None:
        super().__init__()
        self._pieces: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > LIMIT:
            self._pieces.clear()
        else:
            self._pieces.append(data)

    def end(self) -> None:
        answer = _decoded(_ANSWER, b"".join(self._pieces))
        self._pieces.clear()
        if answer is None:
            return
        counts = answer.usage or answer.timings
        self.usage = counts.usage() if counts else None
        self.finish = answer.finish(by_status=answer.object == "response")
        fault = _answer_fault(answer)
        if fault is not None:
            self._note(fault)


class _GeneratedReader(JsonReader):
    """SGLang's own answer: to one prompt, or a list of those to several, which are added up."""

    __slots__ = ()

    def end(self) -> None:
        found = _decoded(_GENERATED, b"".join(self._pieces))
        self._pieces.clear()
        answers = found if isinstance(found, list) else [found] if found else []
        self.usage = _sum(usage for each in answers if (usage := each.usage()) is not None)
        for each in answers:
            self.finish = each.finish() or self.finish
            self._note(_fault(each.error))


def _sum(usages: Iterable[Usage]) -> Usage | None:
    """All of them together; a count that one does not tell is not known of all."""
    columns = list(zip(*(msgspec.structs.astuple(each) for each in usages), strict=True))
    return Usage(*(None if None in column else sum(column) for column in columns)) if columns else None


def _answer_fault(answer: _Answer) -> _Fault | None:
    if answer.object == "error":  # vLLM before it wrapped its errors
        return _fault(answer.message, answer.code) or _Fault("error", _status(answer.code))
    return _fault(answer.error)


class FaultReader(ResponseReader):
    """Reads an answer of 500 and above, which may be anything: its error, or the text itself."""

    __slots__ = ("_body",)

    def __init__(self) -> None:
        super().__init__()
        self._body = b""

    def feed(self, data: bytes) -> None:
        if len(self._body) < _FAULT_LIMIT:
            self._body += data

    def end(self) -> None:
        answer = _decoded(_ANSWER, self._body)
        text = self._body[:_MESSAGE_LIMIT].decode(errors="replace").strip()
        self._note((answer and _answer_fault(answer)) or (_Fault(text, None) if text else None))


# --- streams --------------------------------------------------------------------------------------------


_TEXTS = (
    *(b'"content":"', b'"text":"', b'"reasoning_content":"', b'"reasoning":"'),
    *(b'"content": "', b'"text": "', b'"reasoning_content": "', b'"reasoning": "'),
)
"""What stands before the generated text of an event."""
_LESSONS = 20
"""How often a stream is learnt from, for 0.9 us: where each event has its own number it is in vain."""


class _Events(ResponseReader):
    """Cuts a stream into events. Subclasses read one API's events."""

    __slots__ = ("_after_cr", "_back", "_front", "_lessons", "_pending", "_skipping")
    streaming = True

    def __init__(self) -> None:
        super().__init__()
        self._pending = bytearray()
        self._skipping = False
        """The event that ``_pending`` belongs to is over the limit."""
        self._after_cr = False
        self._front: bytes | None = None
        """Of an event that was only output: all before its text, and ``_back``, all behind it."""
        self._back = b""
        self._lessons = _LESSONS

    def feed(self, data: bytes) -> None:
        if self.first_token_seen and not self._pending and not self._after_cr and self._tells_nothing(data):
            return
        if self._after_cr or b"\r" in data:
            data = self._with_plain_line_ends(data)
        if self._pending:
            searched = max(len(self._pending) - 1, 0)
            self._pending += data
            if self._pending.find(b"\n\n", searched) < 0:
                self._bound()
                return
            data = bytes(self._pending)
            self._pending.clear()
        *events, rest = data.split(b"\n\n")
        for event in events:
            if self._skipping:
                self._skipping = False
            elif event and len(event) <= LIMIT:
                self._take(event)
        if rest:
            self._pending += rest
            self._bound()

    def end(self) -> None:
        if self._pending and not self._skipping:
            self._take(bytes(self._pending))
        self._pending.clear()

    def _tells_nothing(self, data: bytes) -> bool:
        """Whether a piece behind the first token is whole events of mere output, as nearly every one is.

        Most differ from the event before in their text only, and a text without a quote holds no key: 0.3 us
        instead of 1.1 for the searches of ``_is_output``, and 1.9 for events one by one.
        """
        front, back = self._front, self._back
        if (
            front is not None
            and data.startswith(front)
            and data.endswith(back)
            and data.find(b'"', len(front), -len(back)) < 0
        ):
            return True
        if not data.endswith(b"\n\n") or not self._is_output(data):
            return False
        if self._lessons and (front is None or not data.startswith(front)):
            self._lessons -= 1
            self._remember(data)
        return True

    def _remember(self, event: bytes) -> None:
        """Learn what stands around the text of an event, if it is one, and its text has no quote."""
        if event.find(b"\n\n") != len(event) - 2:
            return
        for key in _TEXTS:
            begin = event.find(key)
            if begin >= 0:
                begin += len(key)
                end = event.find(b'"', begin)
                if end > 0 and not event.endswith(b"\\", begin, end):
                    self._front, self._back = event[:begin], event[end:]
                return

    def _with_plain_line_ends(self, data: bytes) -> bytes:
        if not data:
            return data
        if self._after_cr and data.startswith(b"\n"):
            data = data[1:]
        self._after_cr = data.endswith(b"\r")
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _bound(self) -> None:
        if len(self._pending) > LIMIT + 1:  # a line end that belongs to no event yet may be the last byte
            del self._pending[:-1]
            self._skipping = True

    def _take(self, event: bytes) -> None:
        if event.startswith(b"data:") and b"\n" not in event:
            self._read(b"", event[5:])
            return
        name, data = b"", []
        for line in event.split(b"\n"):
            if line.startswith(b"data:"):
                data.append(line[5:])
            elif line.startswith(b"event:"):
                name = line[6:].strip()
        if data:
            self._read(name, b"\n".join(data))

    def _read(self, name: bytes, data: bytes) -> None:
        """One event: its name, which may be missing, and its data."""
        raise NotImplementedError

    @staticmethod
    def _is_output(data: bytes) -> bool:
        """Whether these events, one or many, tell nothing once the first token has been seen."""
        raise NotImplementedError


class _ChunkEvents(_Events):
    """Chunks of the chat and completions APIs: the first with choices carries the first token."""

    __slots__ = ("_counted",)

    def __init__(self) -> None:
        super().__init__()
        self._counted = False
        """``usage`` is what the engine calls usage, not its timings."""

    def _read(self, name: bytes, data: bytes) -> None:
        if (self.first_token_seen and self._is_output(data)) or _is_done(data):
            return
        chunk = _decoded(_ANSWER, data)
        if chunk is None:
            return
        if chunk.choices:
            self.first_token_seen = True
        if chunk.usage is not None:
            self.usage, self._counted = chunk.usage.usage(), True
        elif chunk.timings is not None and not self._counted:
            self.usage = chunk.timings.usage()
        self.finish = chunk.finish() or self.finish
        self._note(_answer_fault(chunk))

    @staticmethod
    def _is_output(data: bytes) -> bool:
        return (
            b'"usage"' not in data
            and b'"error"' not in data
            and b'"timings"' not in data
            and data.count(b'"finish_reason"')
            == data.count(b'"finish_reason":null') + data.count(b'"finish_reason": null')
        )


class _AnyEvents(_ChunkEvents):
    """Events of an API that is not known: whatever comes first is output, unless it is an error."""

    __slots__ = ()

    def _read(self, name: bytes, data: bytes) -> None:
        super()._read(name, data)
        if not self.first_token_seen and self.error is None and not _is_done(data):
            self.first_token_seen = True


class _GeneratedEvents(_Events):
    """Events of SGLang's own API: each tells the counts so far, so that the last one is read."""

    __slots__ = ("_last",)

    def __init__(self) -> None:
        super().__init__()
        self._last = b""

    def _read(self, name: bytes, data: bytes) -> None:
        if _is_done(data):
            return
        self._last = data
        if b'"error"' in data and isinstance(found := _decoded(_GENERATED, data), _Generated):
            self._note(_fault(found.error))
        if self.error is None:
            self.first_token_seen = True

    def end(self) -> None:
        super().end()
        found = _decoded(_GENERATED, self._last)
        if isinstance(found, _Generated):
            self.usage, self.finish = found.usage(), found.finish()

    @staticmethod
    def _is_output(data: bytes) -> bool:
        return not data  # the last event is known only when there is no other


class _MessageEvents(_Events):
    """Events of the Anthropic API: usage comes in two halves, output in deltas and in calls of tools."""

    __slots__ = ("_counts",)

    def __init__(self) -> None:
        super().__init__()
        self._counts = _Counts()

    def _read(self, name: bytes, data: bytes) -> None:
        if name in (b"ping", b"content_block_stop", b"message_stop"):
            return
        if name == b"content_block_delta":
            self.first_token_seen = True
            return
        event = _decoded(_ANTHROPIC, data)
        if event is None:
            return
        match event.type:
            case "content_block_delta":
                self.first_token_seen = True
            case "content_block_start" if event.content_block and event.content_block.type.endswith(
                "tool_use"
            ):
                self.first_token_seen = True
            case "message_start" if isinstance(event.message, _MessageStart):
                self._merge(event.message.usage)
            case "message_delta":
                self._merge(event.usage)
                self.finish = (event.delta.stop_reason if event.delta else None) or self.finish
        self._note(_fault(event.error))

    def _merge(self, counts: _Counts | None) -> None:
        if counts is not None:
            self._counts = self._counts.updated(counts)
            self.usage = self._counts.usage()

    @staticmethod
    def _is_output(data: bytes) -> bool:
        return b'"usage"' not in data and b'"error"' not in data and b'"stop_reason"' not in data


class _ResponseEvents(_Events):
    """Events of the Responses API: any delta is output; the last event holds the whole response."""

    __slots__ = ()
    _TELLING = frozenset((b"", b"response.completed", b"response.incomplete", b"response.failed", b"error"))

    @staticmethod
    def _is_output(data: bytes) -> bool:
        return (
            b"response.completed" not in data
            and b"response.incomplete" not in data
            and b"response.failed" not in data
            and b"error" not in data
        )

    def _read(self, name: bytes, data: bytes) -> None:
        if name.endswith(b".delta"):
            self.first_token_seen = True
        if name not in self._TELLING or (not name and _is_done(data)):
            return
        event = _decoded(_RESPONSES, data)
        if event is None:
            return
        kind = event.type.encode() or name
        if kind.endswith(b".delta"):
            self.first_token_seen = True
        elif kind == b"error":
            said = _fault(event.message, event.code) or _fault(event.error, event.code)
            self._note(said or _Fault("error", _status(event.code)))
        elif kind == b"":
            self._note(_fault(event.error))
        elif event.response is not None and kind in self._TELLING:
            self.usage = event.response.usage.usage() if event.response.usage else self.usage
            self.finish = event.response.finish(by_status=True) or self.finish
            self._note(_fault(event.response.error))


_EVENTS: Mapping[Api, type[_Events]] = {
    Api.CHAT_COMPLETIONS: _ChunkEvents,
    Api.COMPLETIONS: _ChunkEvents,
    Api.GENERATE: _ChunkEvents,
    Api.SGLANG_GENERATE: _GeneratedEvents,
    Api.MESSAGES: _MessageEvents,
    Api.RESPONSES: _ResponseEvents,
}


def _is_done(data: bytes) -> bool:
    return len(data) < 16 and data.strip() == b"[DONE]"
