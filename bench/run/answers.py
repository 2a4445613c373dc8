"""What a server streams: its text, when each piece of it came, and what the engine counted.

Place:   hears each piece of a body from bench.load; bench.run.play puts the text into the next turn.
Ignores: HTTP; whether the stream ended as it should (bench.load says that).
Rule:    however the bytes are cut, the same text. What cannot be read tells nothing.
Source:  chat completions as OpenAI, vLLM, SGLang and llama.cpp stream them: one ``data:`` line an event.
"""

import msgspec

from bench.load import clock
from epp.core.request import Api
from epp.core.response_reader import Usage, reader_for

LINE_LIMIT = 4 << 20
"""Bytes of an unfinished line that are kept."""


class _Delta(msgspec.Struct, gc=False):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None


class _Choice(msgspec.Struct, gc=False):
    delta: _Delta | None = None


class _Chunk(msgspec.Struct, gc=False):
    choices: list[_Choice] | None = None


_CHUNK = msgspec.json.Decoder(_Chunk)


class Answer:
    """One answer as it comes."""

    __slots__ = ("_facts", "_texts", "_unread", "times")

    def __init__(self) -> None:
        self.times: list[float] = []
        """When pieces of text came, thought included [s]; those of one read at the same moment."""
        self._facts = reader_for(Api.CHAT_COMPLETIONS, "text/event-stream", request_streaming=True)
        self._texts: list[str] = []
        self._unread = b""

    @property
    def text(self) -> str:
        """What an assistant is remembered to have said: without its thoughts."""
        return "".join(self._texts)

    @property
    def usage(self) -> Usage:
        return self._facts.usage or Usage()

    @property
    def tokens(self) -> int:
        """As the engine counted, or as many as pieces came."""
        counted = self.usage.completion_tokens
        return len(self.times) if counted is None else counted

    def feed(self, data: bytes) -> None:
        self._facts.feed(data)
        now = clock()
        *lines, unread = (self._unread + data).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                self._take(line[5:], now)
        self._unread = unread if len(unread) <= LINE_LIMIT else b""

    def _take(self, data: bytes, now: float) -> None:
        try:
            chunk = _CHUNK.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return
        for choice in chunk.choices or ():
            delta = choice.delta
            if delta is None:
                continue
            if delta.content:
                self._texts.append(delta.content)
            if delta.content or delta.reasoning_content or delta.reasoning:
                self.times.append(now)
