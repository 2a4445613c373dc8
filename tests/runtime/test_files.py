"""Files that people name: read whole or refused in words, and nobody waits for them."""

import asyncio
import contextlib
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp.runtime import files
from epp.runtime.files import FileFault


def complaint(path: Path, *, pipes: bool = False) -> str:
    with pytest.raises(FileFault) as caught:
        files.read_text(path, pipes=pipes)
    message = str(caught.value)
    assert "\n" not in message and "Errno" not in message
    return message


def socket_at(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


@pytest.mark.parametrize(
    "make, message",
    [
        pytest.param(
            lambda path: None, "cannot be read (No such file or directory): check the path", id="nothing"
        ),
        pytest.param(Path.mkdir, "is a directory: give a file", id="directory"),
        pytest.param(os.mkfifo, "is a pipe: give a regular file", id="pipe"),
        pytest.param(socket_at, "cannot be read (No such device or address)", id="socket"),
        pytest.param(
            lambda path: path.symlink_to("/dev/zero"), "is a device: give a regular file", id="device"
        ),
        pytest.param(
            lambda path: path.symlink_to(path),
            "(Too many levels of symbolic links): check the path",
            id="loop",
        ),
        pytest.param(
            lambda path: path.write_bytes(b"ab\xff"),
            "is not UTF-8 text (byte 2): save it as UTF-8",
            id="binary",
        ),
        pytest.param(
            lambda path: path.write_bytes(b"x" * (files.MAX_BYTES + 1)), "is larger than 1 MiB", id="large"
        ),
    ],
)
def test_what_cannot_be_read_is_said_in_words_with_a_remedy(
    tmp_path: Path, make: Callable[[Path], object], message: str
) -> None:
    path = tmp_path / "f"
    make(path)
    assert message in complaint(path)


def test_a_relative_path_is_told_from_where(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert complaint(Path("nowhere")).endswith(f"check the path, it is looked for in {tmp_path}")
    assert complaint(Path("a\0b")) == "is a name that no file can have: check the path"


def test_a_working_directory_that_is_gone_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert complaint(Path("x")).endswith("check the path, it is relative and the working directory is gone")


def test_a_limit_of_open_files_is_named() -> None:
    fault = OSError(24, "Too many open files")
    assert files.why(fault, Path("/f")) == "cannot be read (Too many open files): raise the limit (ulimit -n)"


def test_who_may_not_read_is_named() -> None:
    fault = PermissionError(13, "Permission denied")
    user = f"let user {os.geteuid()}, as whom this process runs, read it"
    assert files.why(fault, Path("/f")) == f"cannot be read (Permission denied): {user}"


def test_a_pipe_is_read_where_one_may_be_given(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_text, args=("text",))
    writer.start()
    assert files.read_text(path, pipes=True) == "text"
    writer.join()
    assert complaint(Path("/dev/zero"), pipes=True) == "is a device: give a regular file"


@given(content=st.binary(max_size=64), limit=st.integers(1, 64))
def test_content_is_whole_or_refused(
    content: bytes, limit: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "content"
    path.write_bytes(content)
    with contextlib.suppress(FileFault):
        assert files.read(path, max_bytes=limit)[0] == content
        assert len(content) <= limit
        return
    assert len(content) > limit


async def test_work_aside_is_answered_or_fails_as_it_did() -> None:
    assert await files.aside(lambda: 7, name="work") == 7
    with pytest.raises(ZeroDivisionError):
        await files.aside(lambda: 1 // 0, name="work")


async def test_nobody_waits_for_work_that_hangs() -> None:
    held = threading.Event()
    waiting = files.aside(lambda: held.wait(20), name="hanging work")
    (thread,) = (each for each in threading.enumerate() if each.name == "hanging work")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await waiting
    assert thread.is_alive() and thread.daemon, "the end of the process does not wait for it"
    held.set()
    thread.join(20)


def test_an_answer_after_the_end_of_the_loop_is_nobodys() -> None:
    held = threading.Event()

    async def ask() -> threading.Thread:
        files.aside(lambda: held.wait(20), name="late work")
        (thread,) = (each for each in threading.enumerate() if each.name == "late work")
        return thread

    thread = asyncio.run(ask())
    held.set()
    thread.join(20)  # an exception there would be a warning, and so an error of this test
    assert not thread.is_alive()
