import asyncio
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.recording import Recording, Tape, proxy
from bench.replay import Replay
from bench.rig.process import free_port
from tests.bench.conversations import a_recording, conversation


@given(
    reads=st.lists(st.binary(max_size=50), max_size=8).map(tuple),
    requests=st.integers(0, 9),
    chunks=st.integers(0, 9),
)
def test_a_recording_comes_back_as_it_was_saved(
    tmp_path_factory: pytest.TempPathFactory, reads: tuple[bytes, ...], requests: int, chunks: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "recordings" / "one"
    Recording(requests, chunks, reads).save(path)
    assert Recording.load(path) == Recording(requests, chunks, reads)


def test_another_file_is_no_recording(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(b"hello")
    with pytest.raises(ValueError, match=r"notes\.txt: not a recording"):
        Recording.load(path)


def test_a_recording_that_is_not_there_is_made_by_profile(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not there: make it with `make profile`"):
        Recording.load(tmp_path / "none")


def test_a_recording_that_was_cut_off_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "one"
    a_recording().save(path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="make it again"):
        Recording.load(path)


def test_the_connection_that_said_most_is_the_one_recorded() -> None:
    assert Tape([[b"ab"], [b"abc", b"d"], []]).reads == (b"abc", b"d")
    assert Tape().reads == ()


async def test_a_proxy_passes_everything_on_and_keeps_what_the_gateway_said() -> None:
    async def shout(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"welcome\n")
        writer.write((await reader.readline()).upper())
        await writer.drain()
        writer.close()

    listening = await asyncio.start_server(shout, "127.0.0.1", 0)
    port = free_port()
    async with listening, proxy(port, listening.sockets[0].getsockname()[1]) as tape:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"hello\n")
        assert await reader.read() == b"welcome\nHELLO\n"
        writer.close()
        await writer.wait_closed()
    assert b"".join(tape.reads) == b"hello\n"


# --- said again ------------------------------------------------------------------------------------


def test_a_recording_is_said_again_to_a_whole_pool() -> None:
    replay = Replay(a_recording(requests=3))
    connection = replay.ready()
    out = bytearray()
    take = connection.take

    def noted() -> bytes:
        said = take()
        out.extend(said)
        return said

    connection.take = noted  # type: ignore[method-assign]
    assert replay.say(connection) >= 0.0
    replay.close()
    assert out.count(b"x-gateway-destination-endpoint") >= 3
    assert out.count(b"x-went-into-resp-headers") == 3


def test_what_breaks_the_connection_is_an_error_not_a_figure() -> None:
    broken = Recording(1, 1, (conversation(), b"\0" * 9))
    replay = Replay(broken)
    with pytest.raises(RuntimeError, match="closed the recorded connection"):
        replay.say(replay.ready())
    replay.close()
