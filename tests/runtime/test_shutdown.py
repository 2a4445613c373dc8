"""How llama.cpp goes when it is told to, as recorded: what the scraper and a reader of its answers see of it.

Each variant of the recording is one SIGTERM while some requests run: whether the process ended, and of each
request how its answer went on.
"""

import asyncio
import re
from dataclasses import dataclass, field

import pytest

from epp.core.fleet import Load
from epp.core.lifecycle import Phase
from epp.core.request import Api
from epp.core.response_reader import reader_for
from tests.captures import FOLDER, capture
from tests.runtime.raw_server import Peer, answer, eventually, serving
from tests.runtime.test_scrape import LLAMA, spec, watching

_VARIANT = re.compile(r"(\S+) rc (\d+|alive).* after ([\d.]+)")
_STREAM = re.compile(
    r"stream \d+ (HTTP/1\.1 200 OK)? *(EOF|TimeoutError).* chunks (\d+) after TERM: (\[.*?\]) \["
)


@dataclass(frozen=True, slots=True)
class Answer:
    """One request's answer."""

    has_headers: bool
    ended: bool
    """The connection was closed; else the client had to give up."""
    chunks: int
    """Before the SIGTERM."""
    pinged: bool
    """A comment came afterwards."""


@dataclass(frozen=True, slots=True)
class Variant:
    name: str
    exits: bool
    answers: list[Answer] = field(default_factory=list)


def _read() -> list[Variant]:
    found: list[Variant] = []
    for line in (FOLDER / "llama-server/TERM-variants.txt").read_text().splitlines():
        if variant := _VARIANT.match(line):
            found.append(Variant(variant[1], variant[2] != "alive"))
        elif stream := _STREAM.match(line.strip()):
            pinged = "b'3\\r\\n:" in stream[4]
            found[-1].answers.append(Answer(bool(stream[1]), stream[2] == "EOF", int(stream[3]), pinged))
    return found


VARIANTS = _read()
TOKEN = capture("llama-server/chat-stream.txt").chunks[1]
PING = b":\n\n"


def test_the_recording_is_read_whole() -> None:
    assert [(one.name, one.exits, len(one.answers)) for one in VARIANTS] == [
        ("1active", True, 1),
        ("2active-2deferred", False, 4),
        ("second-signal", True, 3),
        ("nonstream-2", False, 2),
        ("ping5", True, 2),
    ]


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
async def test_a_server_that_was_told_to_stop_is_lost_whether_it_ends_or_not(variant: Variant) -> None:
    """Its port is closed at once in any case; one that hangs keeps connections open and says nothing."""
    hang = asyncio.Event()

    async def serve(peer: Peer) -> None:
        while await peer.request() is not None:
            if hang.is_set():
                await peer.until_gone()
            await peer.send(answer(LLAMA, Server="llama.cpp"))

    async with serving(serve) as server, watching(spec(server), silence=2.0) as scene:
        await scene.until({Phase.READY})
        if variant.exits:
            await server.kill()
        else:
            hang.set()
            server.close_port()
        endpoint = await scene.until({Phase.EJECTED})
        assert endpoint.load == Load()
        await eventually(lambda: scene.results["refused"])  # nobody waits on a silent connection for long
        assert scene.results["timeout"] == (0 if variant.exits else 1)


STREAMS = [(variant.name, number, one) for variant in VARIANTS for number, one in enumerate(variant.answers)]


@pytest.mark.parametrize(
    "one", [one for *_, one in STREAMS], ids=[f"{name}-{number}" for name, number, _ in STREAMS]
)
def test_an_answer_that_is_cut_off_is_no_whole_one(one: Answer) -> None:
    reader = reader_for(Api.CHAT_COMPLETIONS, "text/event-stream", True)
    for _ in range(one.chunks):
        reader.feed(TOKEN)
    if one.pinged:
        reader.feed(PING)
    if one.ended:
        reader.end()
    assert reader.first_token_seen == (one.chunks > 0) == one.has_headers
    assert (reader.usage, reader.finish, reader.error) == (None, None, None)
