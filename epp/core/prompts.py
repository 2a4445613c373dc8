"""Prompt material: what an engine will read of a request, in its order, as bytes to hash and to count.

Place:   used by epp.core.apis on the fields it decoded.
Ignores: templates and tokenizers; four bytes stand for one token.
Rule:    a conversation that goes on only adds bytes, and no text looks like the boundary of a message.

Material is a sequence of pieces behind one-byte marks. The marks are control characters, which JSON text
never holds unescaped, so no text can imitate one; nothing is closed or counted, so what comes later
changes nothing before it. Text stands as the client spelled it in JSON (escapes and all): unescaping
costs time and tells nothing, because the same client repeats its own bytes. What is not text (an image,
a sound, a file) is a digest of fixed length.
"""

import struct
from collections.abc import Iterable, Sequence
from operator import attrgetter
from typing import Annotated, Final

import msgspec
import xxhash
from msgspec import Raw

from epp.core.request import BYTES_PER_TOKEN, MEDIA

Piece = bytes | memoryview | Raw

ABSENT: Final = Raw()
"""A field that the client did not send."""

MESSAGE, TEXT, TOOLS = b"\x1e", b"\x1f", b"\x01"
THOUGHT, REFUSAL, NAME, CALL_ID = b"\x02", b"\x03", b"\x04", b"\x05"
CALLS, ARGUMENTS, KIND = b"\x06", b"\x07", b"\x08"
NEXT_PROMPT = b"\xff\xff\xff\xff"
"""Between the prompts of a list: no UTF-8 text and no token id holds it."""

MEDIA_TOKENS = 640 * 360 // 1024
"""Upstream's estimate for an image; sound, video and files count the same for want of a better one."""
_MEDIA_BYTES = MEDIA_TOKENS * BYTES_PER_TOKEN
_ROLE_MARKS = {
    role: MESSAGE + role.encode() for role in ("system", "developer", "user", "assistant", "tool", "function")
}
_QUOTE, _BRACKET, _NULL = b'"[n'
_NOTHING = frozenset((b"", b"null", b"[]", b"{}", b'""'))

TokenId = Annotated[int, msgspec.Meta(ge=0, lt=1 << 31)]


class Unreadable(ValueError):
    """A part of the prompt has a form that no engine knows; of wrong types msgspec.DecodeError says so."""


# --- conversations -------------------------------------------------------------------------------------


class Message(msgspec.Struct, gc=False):
    """A message of the chat or the Anthropic API."""

    role: str = ""
    content: Raw = ABSENT
    name: Raw = ABSENT
    tool_call_id: Raw = ABSENT
    tool_calls: Raw = ABSENT
    function_call: Raw = ABSENT
    reasoning_content: Raw = ABSENT
    reasoning: Raw = ABSENT
    refusal: Raw = ABSENT


class Item(msgspec.Struct, gc=False):
    """An item of the Responses API: a message, a call, a call's output, reasoning."""

    role: str = ""
    content: Raw = ABSENT
    type: Raw = ABSENT
    name: Raw = ABSENT
    call_id: Raw = ABSENT
    arguments: Raw = ABSENT
    input: Raw = ABSENT
    action: Raw = ABSENT
    summary: Raw = ABSENT
    encrypted_content: Raw = ABSENT
    output: Raw = ABSENT


class _Part(msgspec.Struct, gc=False):
    """A piece of a message's content, in any of the APIs."""

    text: Raw = ABSENT
    thinking: Raw = ABSENT
    refusal: Raw = ABSENT
    id: Raw = ABSENT
    tool_use_id: Raw = ABSENT
    name: Raw = ABSENT
    input: Raw = ABSENT
    image_url: Raw = ABSENT
    image: Raw = ABSENT
    source: Raw = ABSENT
    input_audio: Raw = ABSENT
    audio_url: Raw = ABSENT
    video_url: Raw = ABSENT
    file: Raw = ABSENT
    file_id: Raw = ABSENT
    file_url: Raw = ABSENT
    file_data: Raw = ABSENT
    data: Raw = ABSENT
    content: Raw = ABSENT


class _Extras:
    """The optional fields of a struct with their marks, read all at once: most messages have none."""

    def __init__(self, **marks: bytes) -> None:
        self._read = attrgetter(*marks)
        self._marks = tuple(marks.values())
        self._none = (ABSENT,) * len(marks)

    def add(self, holder: object, pieces: list[Piece]) -> bool:
        """Append what ``holder`` has; whether it has anything."""
        values = self._read(holder)
        if values == self._none:
            return False
        for mark, value in zip(self._marks, values, strict=True):
            if _is_given(value):
                pieces += (MEDIA, _stand_in(value)) if mark is MEDIA else (mark, value)
        return True


_MESSAGE_EXTRAS = _Extras(
    name=NAME,
    tool_call_id=CALL_ID,
    tool_calls=CALLS,
    function_call=CALLS,
    reasoning_content=THOUGHT,
    reasoning=THOUGHT,
    refusal=REFUSAL,
)
_ITEM_EXTRAS = _Extras(
    type=KIND,
    name=NAME,
    call_id=CALL_ID,
    arguments=ARGUMENTS,
    input=ARGUMENTS,
    action=ARGUMENTS,
    summary=THOUGHT,
    encrypted_content=THOUGHT,
)
_PART_EXTRAS = _Extras(
    thinking=THOUGHT,
    refusal=REFUSAL,
    id=CALL_ID,
    tool_use_id=CALL_ID,
    name=NAME,
    input=ARGUMENTS,
    image_url=MEDIA,
    image=MEDIA,
    source=MEDIA,
    input_audio=MEDIA,
    audio_url=MEDIA,
    video_url=MEDIA,
    file=MEDIA,
    file_id=MEDIA,
    file_url=MEDIA,
    file_data=MEDIA,
    data=MEDIA,
)
_PARTS = msgspec.json.Decoder(list[_Part | str])
_ITEMS = msgspec.json.Decoder(list[Item])


def conversation(messages: Iterable[Message], *, system: Raw = ABSENT, tools: Iterable[Raw] = ()) -> bytes:
    """Tools, then the system prompt, then every message: the order in which chat templates render them."""
    pieces: list[Piece] = []
    for raw in tools:
        if _is_given(raw):
            pieces += (TOOLS, raw)
    _add_system(system, pieces)
    for message in messages:
        pieces.append(_ROLE_MARKS.get(message.role) or _role_mark(message.role))
        if message.content is not ABSENT:
            _add_content(message.content, pieces)
        _MESSAGE_EXTRAS.add(message, pieces)
    return b"".join(pieces)


def response_input(given: Raw, *, instructions: Raw = ABSENT, tools: Raw = ABSENT) -> bytes:
    """Instructions, tools, then the input of the Responses API: one text or a list of items."""
    pieces: list[Piece] = []
    _add_system(instructions, pieces)
    if _is_given(tools):
        pieces += (TOOLS, tools)
    if memoryview(given)[0] == _BRACKET:
        _add_items(_ITEMS.decode(given), pieces)
    else:
        pieces.append(_ROLE_MARKS["user"])
        _add_content(given, pieces)
    return b"".join(pieces)


def items(given: Iterable[Item]) -> bytes:
    """The items of a stored conversation."""
    pieces: list[Piece] = []
    _add_items(given, pieces)
    return b"".join(pieces)


def _add_system(raw: Raw, pieces: list[Piece]) -> None:
    if _is_given(raw):
        pieces.append(_ROLE_MARKS["system"])
        _add_content(raw, pieces)


def _add_items(given: Iterable[Item], pieces: list[Piece]) -> None:
    for item in given:
        pieces.append(_ROLE_MARKS.get(item.role) or _role_mark(item.role))
        _ITEM_EXTRAS.add(item, pieces)
        for content in (item.content, item.output):
            if content is not ABSENT:
                _add_content(content, pieces)


def _add_content(raw: Raw, pieces: list[Piece], *, nested: bool = False) -> None:
    view = memoryview(raw)
    kind = view[0]
    if kind == _QUOTE:
        pieces.append(TEXT)
        pieces.append(view[1:-1])
    elif kind == _BRACKET:
        for part in _PARTS.decode(raw):
            if isinstance(part, str):
                pieces += (TEXT, msgspec.json.encode(part)[1:-1])
            elif part.text is not ABSENT:
                _add_text(part.text, pieces)
            else:
                _add_part(part, raw, pieces, nested=nested)
    elif kind != _NULL:  # null: an assistant message that holds nothing but calls
        raise Unreadable("content is neither text nor a list of parts")


def _add_text(raw: Raw, pieces: list[Piece]) -> None:
    view = memoryview(raw)
    if view[0] == _QUOTE:
        pieces.append(TEXT)
        pieces.append(view[1:-1])
    elif view[0] != _NULL:
        raise Unreadable("the text of a content part is not a string")


def _add_part(part: _Part, whole: Raw, pieces: list[Piece], *, nested: bool) -> None:
    """A part that is not text: media, a call, a call's result; ``whole`` stands in for what is unknown."""
    known = _PART_EXTRAS.add(part, pieces)
    if part.content and not nested:
        _add_content(part.content, pieces, nested=True)
    elif part.content or not known:
        pieces += (MEDIA, _stand_in(whole))


def _role_mark(role: str) -> bytes:
    """An unusual role in quotes and escaped, so that it cannot hold a mark."""
    return MESSAGE + msgspec.json.encode(role)


def _stand_in(raw: Raw) -> bytes:
    """Something that is not text: its digest, over and over, for as long as its tokens."""
    return (xxhash.xxh64_digest(raw) * (_MEDIA_BYTES // 8 + 1))[:_MEDIA_BYTES]


def _is_given(raw: Raw) -> bool:
    return len(raw) > 4 or bytes(raw) not in _NOTHING


# --- plain prompts ----------------------------------------------------------------------------------------

_TOKEN_IDS = msgspec.json.Decoder(list[TokenId])
_PROMPTS = msgspec.json.Decoder(list[Raw])


def plain(raw: Raw) -> bytes:
    """A text, token ids, or a list of either; empty where there is nothing to read."""
    view = memoryview(raw)
    if not view or view[0] == _NULL:
        return b""
    if view[0] == _QUOTE:
        return bytes(view[1:-1])
    if view[0] != _BRACKET:
        raise Unreadable("neither text nor a list")
    if bytes(view[1:64]).lstrip()[:1].isdigit():
        return token_ids(_TOKEN_IDS.decode(raw))
    return NEXT_PROMPT.join(_one_of_many(one) for one in _PROMPTS.decode(raw))


def token_ids(ids: Sequence[int]) -> bytes:
    """Four bytes each. Big-endian: the first byte of every real token id is 0, as in no text."""
    return struct.pack(f">{len(ids)}I", *ids)


def _one_of_many(raw: Raw) -> bytes:
    view = memoryview(raw)
    if view[0] == _QUOTE:
        return bytes(view[1:-1])
    return token_ids(_TOKEN_IDS.decode(raw))
