"""Reading the files that people name: never waiting for a pipe, and faults in words with a remedy.

Place:   used wherever epp.runtime or main opens a file that somebody named.
Ignores: what is in a file.
Rule:    once the process serves, files are read through ``aside`` only: a network file system may answer
         late or never, and neither requests nor the exit wait for it.
"""

import asyncio
import contextlib
import errno
import os
import ssl
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

MAX_BYTES = 1 << 20
_KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a directory",
}


NO_PEM = "holds nothing in PEM form: give a PEM file, with a block that begins with -----BEGIN"


class FileFault(Exception):
    """Why a file cannot be used and what to do: what follows its name in a sentence."""


def why(fault: OSError, path: Path) -> str:
    """What the system says about ``path``, and the remedy where there is one."""
    said = os.strerror(fault.errno) if fault.errno else str(fault)
    match fault.errno:
        case errno.ENOENT | errno.ENOTDIR | errno.ELOOP:
            return f"cannot be read ({said}): check the path{_looked_for(path)}"
        case errno.EACCES | errno.EPERM:
            return f"cannot be read ({said}): let user {os.geteuid()}, as whom this process runs, read it"
        case errno.EISDIR:
            return "is a directory: give a file"
        case errno.EMFILE | errno.ENFILE:
            return f"cannot be read ({said}): raise the limit (ulimit -n)"
    return f"cannot be read ({said})"


def _looked_for(path: Path) -> str:
    try:
        return "" if path.is_absolute() else f", it is looked for in {Path.cwd()}"
    except FileNotFoundError:
        return ", it is relative and the working directory is gone"


def read(path: Path, *, max_bytes: int = MAX_BYTES, pipes: bool = False) -> tuple[bytes, os.stat_result]:
    """The content of a file and what it was read from; FileFault if it cannot be had.

    With ``pipes`` a pipe is read to its end, as ``--config-file <(command)`` is one.
    """
    try:
        opener = None if pipes else _without_waiting
        with open(path, "rb", opener=opener) as file:
            status = os.fstat(file.fileno())
            if not (stat.S_ISREG(status.st_mode) or (pipes and stat.S_ISFIFO(status.st_mode))):
                kind = _KINDS.get(stat.S_IFMT(status.st_mode), "no file")
                raise FileFault(f"is {kind}: give a regular file")
            content = file.read(max_bytes + 1)
    except OSError as fault:
        raise FileFault(why(fault, path)) from fault
    except ValueError as fault:
        raise FileFault("is a name that no file can have: check the path") from fault
    if len(content) > max_bytes:
        raise FileFault(f"is larger than {max_bytes >> 20} MiB: is it the right file?")
    return content, status


def read_text(path: Path, *, max_bytes: int = MAX_BYTES, pipes: bool = False) -> str:
    """The same as text."""
    content, _ = read(path, max_bytes=max_bytes, pipes=pipes)
    return as_text(content)


def read_pem(path: Path) -> str:
    """Certificates or a key; FileFault if there are none."""
    text = read(path)[0].decode("ascii", "ignore")  # comments may have other letters
    if "-----BEGIN" not in text:
        raise FileFault(NO_PEM)
    return text


def read_authorities(path: Path) -> str:
    """The certificates of authorities; FileFault if nobody could be verified with them."""
    text = read_pem(path)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=text)
    except ssl.SSLError as fault:
        reason = fault.reason or "no certificate in it"
        raise FileFault(f"{NO_PEM} ({reason})") from fault
    return text


def as_text(content: bytes) -> str:
    """What was read, as text; FileFault if it is none."""
    try:
        return content.decode()
    except UnicodeDecodeError as fault:
        raise FileFault(f"is not UTF-8 text (byte {fault.start}): save it as UTF-8") from fault


def _without_waiting(path: str, flags: int) -> int:
    """Opening a pipe would wait for its writer; a regular file does not care."""
    return os.open(path, flags | os.O_NONBLOCK)


def aside(work: Callable[[], T], *, name: str) -> "asyncio.Future[T]":
    """``work()`` in a thread of its own; the future has what became of it.

    Not one of the loop's pool: the pool is small, and the end of the process waits for its threads.
    """
    loop = asyncio.get_running_loop()
    told: asyncio.Future[T] = loop.create_future()

    def run() -> None:
        try:
            result = work()
        except BaseException as fault:  # noqa: BLE001 (for whoever waits)
            tell(told.set_exception, fault)
        else:
            tell(told.set_result, result)

    def tell(settle: Callable[..., None], outcome: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: the process ends
            loop.call_soon_threadsafe(lambda: None if told.done() else settle(outcome))

    threading.Thread(target=run, name=name, daemon=True).start()
    return told
