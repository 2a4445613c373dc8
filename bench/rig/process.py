"""Child processes that are ready when asked for and gone when their block ends.

Place:   the base of every real part: LlamaServer, Envoy, Picker.
Rule:    a part is its own process group with its own log. It is stopped by its process id on every
         way out: the context manager, an exception, the death of this process (see warden.py).
         Readiness is something observed before a deadline, never a pause.
"""

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bench.rig.warden import Warden

POLL_SECONDS = 0.02
LOG_TAIL_LINES = 25

# Below every system's ephemeral range: there a client socket could take the port of a server that
# was killed before it comes back.
_PORTS = range(12_000, 31_000)
_given_out: set[int] = set()
_warden = Warden()


class RigError(Exception):
    """A real part did not do what it should; the text says which one and ends with its log."""


def free_port() -> int:
    """A TCP port on which nobody listens, never given out before by this process."""
    while True:
        port = random.choice(_PORTS)
        if port in _given_out:
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue
        _given_out.add(port)
        return port


def wait_until(condition: Callable[[], bool], *, what: str, timeout: float = 20.0) -> None:
    """Return as soon as ``condition`` holds; raise RigError naming ``what`` after ``timeout`` [s]."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise RigError(f"not within {timeout:g} s: {what}")
        time.sleep(POLL_SECONDS)


def http_get(
    url: str, *, headers: Mapping[str, str] | None = None, timeout: float = 5.0
) -> tuple[int, bytes]:
    """Status and body of a GET, whatever the status; OSError when there is no answer."""
    request = urllib.request.Request(url, headers=dict(headers or {}))  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:  # noqa: S310
            return answer.status, answer.read()
    except urllib.error.HTTPError as refusal:
        with refusal:
            return refusal.code, refusal.read()


def http_post(url: str, body: object, *, timeout: float = 30.0) -> tuple[int, Any]:
    """Status and decoded answer of a POST with a JSON body; OSError when there is no answer."""
    data, headers = json.dumps(body).encode(), {"content-type": "application/json"}
    request = urllib.request.Request(url, data=data, headers=headers)  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:  # noqa: S310
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as refusal:
        with refusal:
            text = refusal.read()
            try:
                return refusal.code, json.loads(text)
            except ValueError:
                return refusal.code, text.decode(errors="replace")


def answers_ok(url: str) -> bool:
    """True when a GET gives 200 now."""
    try:
        return http_get(url, timeout=2.0)[0] == 200
    except (OSError, ValueError):
        return False


class Process:
    """One child process; ``with Process(...) as part:`` starts it, waits for readiness, stops it.

    A subclass says what ready means. ``start`` may be called again after the process has ended: it
    comes back with the same command and so on the same ports.
    """

    def __init__(
        self, name: str, command: Sequence[str], *, log: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self.command = [str(word) for word in command]
        self.log = log
        self.started_in: float | None = None
        """Seconds from the last start to readiness."""
        self._environment = dict(environment or {})
        self._child: subprocess.Popen[bytes] | None = None

    def is_ready(self) -> bool:
        """One look at whether the process does its work; plain processes do from the start."""
        return True

    # --- life --------------------------------------------------------------------------------------

    def launch(self) -> Self:
        """Start without waiting for readiness."""
        if self.is_running:
            raise RigError(f"{self.name} runs already (process {self.pid})")
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self._child = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self._environment},
                start_new_session=True,
            )
        _warden.watch(self._child.pid)
        return self

    def start(self, *, timeout: float = 20.0) -> Self:
        """Start and wait until ready."""
        began = time.monotonic()
        self.launch()
        try:
            self.wait_ready(timeout=timeout)
        except BaseException:
            self.kill()
            raise
        self.started_in = time.monotonic() - began
        return self

    def wait_ready(self, *, timeout: float = 20.0) -> None:
        """Return once ready; RigError with the end of the log when it ends first or takes too long."""

        def ready_or_gone() -> bool:
            if not self.is_running:
                raise RigError(f"{self.name} ended with status {self.exit_status}:\n{self.log_tail()}")
            return self.is_ready()

        try:
            wait_until(ready_or_gone, what=f"{self.name} ready", timeout=timeout)
        except RigError as failure:
            if not self.is_running:
                raise
            raise RigError(f"{failure}\n{self.log_tail()}") from None

    def terminate(self, *, timeout: float = 15.0) -> int:
        """SIGTERM and wait for the end; the exit status. RigError when it does not end in time."""
        child = self._running_child()
        child.send_signal(signal.SIGTERM)
        return self.wait(timeout=timeout)

    def kill(self) -> None:
        """SIGKILL to the process and all it started; returns when it is gone."""
        child = self._child
        if child is None or child.poll() is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        _warden.forget(child.pid)

    def wait(self, *, timeout: float) -> int:
        """The exit status, once the process has ended by itself or has done so already."""
        child = self._child
        if child is None:
            raise RigError(f"{self.name} was never started")
        try:
            status = child.wait(timeout)
        except subprocess.TimeoutExpired:
            raise RigError(f"{self.name} still runs after {timeout:g} s:\n{self.log_tail()}") from None
        _warden.forget(child.pid)
        return status

    def restart(self, *, timeout: float = 20.0) -> Self:
        """SIGKILL where it still runs, then start again on the same ports."""
        self.kill()
        return self.start(timeout=timeout)

    def stop(self, *, grace: float = 3.0) -> None:
        """End it: SIGTERM, and SIGKILL to the group when that does not do within ``grace`` [s]."""
        child = self._child
        if child is not None and child.poll() is None:
            child.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(grace)
        if child is not None and child.poll() is None:
            self.kill()
        elif child is not None:
            _warden.forget(child.pid)

    def __enter__(self) -> Self:
        return self if self.is_running else self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # --- what can be seen --------------------------------------------------------------------------

    @property
    def is_running(self) -> bool:
        return self._child is not None and self._child.poll() is None

    @property
    def pid(self) -> int:
        return self._running_child().pid

    @property
    def exit_status(self) -> int | None:
        """None while it runs and before it was started."""
        return None if self._child is None else self._child.poll()

    def log_tail(self, lines: int = LOG_TAIL_LINES) -> str:
        """The end of the log, for error messages."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return "\n".join(text.splitlines()[-lines:]) or "(its log is empty)"

    def cpu_seconds(self) -> float:
        """CPU time used since the start, user and system. Linux."""
        stat = Path(f"/proc/{self.pid}/stat").read_text()
        fields = stat[stat.rindex(")") + 2 :].split()  # the name in parentheses may hold anything
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def rss_bytes(self) -> int:
        """Resident memory. Linux."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def open_fds(self) -> int:
        """Open file descriptors. Linux."""
        return sum(1 for _ in Path(f"/proc/{self.pid}/fd").iterdir())

    def _running_child(self) -> subprocess.Popen[bytes]:
        if self._child is None or self._child.poll() is not None:
            raise RigError(f"{self.name} does not run")
        return self._child
