"""Ends the rig's processes when the process that started them can no longer do so itself.

A test run that is killed with SIGKILL runs no cleanup. The warden is a small child that hears on a
pipe which process groups live; when the pipe closes, for whatever reason, it kills those that are
left and ends. Run as a program it is that child.
"""

import atexit
import contextlib
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path


class Warden:
    """The parent's end; the child is started with the first process to watch."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def watch(self, group: int) -> None:
        self._tell(f"+{group}")

    def forget(self, group: int) -> None:
        self._tell(f"-{group}")

    def _tell(self, line: str) -> None:
        with self._lock:
            if self._child is None:
                self._child = subprocess.Popen(
                    [sys.executable, "-S", "-E", str(Path(__file__).resolve())],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                )
                atexit.register(self._close)
            pipe = self._child.stdin
            assert pipe is not None
            pipe.write(f"{line}\n".encode())
            pipe.flush()

    def _close(self) -> None:
        if self._child is not None:
            self._child.communicate()


def guard() -> None:
    """The child: follow the lines until the pipe closes, then end what is still listed."""
    groups: set[int] = set()
    for line in sys.stdin:
        if line.startswith("+"):
            groups.add(int(line[1:]))
        else:
            groups.discard(int(line[1:]))
    for group in groups:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)


if __name__ == "__main__":
    guard()
