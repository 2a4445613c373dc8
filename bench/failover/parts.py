"""What a House is made of beside the rig's parts: a front, a network of one's own, a hosts file of one's own.

Place:   used by bench.failover.house and bench.fleet_soak.
Rule:    nothing outlives its process: a network is a process's namespace, a hosts file is mounted in one,
         and both are gone with it, however it ends.
"""

import os
import subprocess
import sys
import urllib.request
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Self

from bench.failover.front import Mode
from bench.rig.process import Process, RigError, answers_ok, free_port

ROOT = str(Path(__file__).resolve().parents[2])


class Front(Process):
    """bench.failover.front with so many endpoints before one server."""

    def __init__(self, logs: Path, server: str, count: int = 1, name: str = "front") -> None:
        self.ports, self._control = [free_port() for _ in range(count)], free_port()
        self.addresses = [f"127.0.0.1:{port}" for port in self.ports]
        command = [sys.executable, "-m", "bench.failover.front", "--to", server]
        command += ["--control", str(self._control)]
        command += [word for port in self.ports for word in ("--port", str(port))]
        super().__init__(name, command, log=logs / f"{name}.log", environment={"PYTHONPATH": ROOT})

    def is_ready(self) -> bool:
        return answers_ok(f"http://127.0.0.1:{self._control}/")

    def say(self, mode: Mode, number: int = 0) -> None:
        """One endpoint does this from now on."""
        url = f"http://127.0.0.1:{self._control}/{self.ports[number]}/{mode.value}"
        with urllib.request.urlopen(urllib.request.Request(url, method="PUT"), timeout=5):
            pass


class Island(Process):
    """A network namespace with one cable to this machine: the host on which a server is alone.

    Its process sleeps. The namespace, its addresses and the cable live as long as it or a server inside.
    The addresses are from the range for benchmarks (RFC 2544), which nobody else uses.
    """

    _count = count(os.getpid())

    def __init__(self, logs: Path, name: str = "island") -> None:
        # Never the same twice: the cable of an island before may still be there for a moment.
        number = next(self._count) % 16_000 * 4
        net, first = f"198.18.{number // 256}", number % 256
        self._here, self.host = f"{net}.{first + 1}", f"{net}.{first + 2}"
        self._cable = f"epp{number}"
        command = ["unshare", "--net", "--", "sleep", "infinity"]
        super().__init__(name, command, log=logs / f"{name}.log")

    @staticmethod
    def fault() -> str:
        """Why there can be none on this machine; empty when there can."""
        return _fault(["unshare", "--net", "--", "ip", "link", "set", "lo", "up"], "network namespaces")

    def is_ready(self) -> bool:
        return Path(f"/proc/{self.pid}/ns/net").readlink() != Path("/proc/self/ns/net").readlink()

    def start(self, *, timeout: float = 20.0) -> Self:
        """The namespace, and the cable to it."""
        super().start(timeout=timeout)
        try:
            self._lay_cable()
        except BaseException:
            self.kill()
            raise
        return self

    def _lay_cable(self) -> None:
        peer = ["peer", "name", "uplink", "netns", str(self.pid)]
        _run("ip", "link", "add", self._cable, "type", "veth", *peer)
        _run("ip", "address", "add", f"{self._here}/30", "dev", self._cable)
        _run("ip", "link", "set", self._cable, "up")
        self._inside("link", "set", "lo", "up")
        self._inside("address", "add", f"{self.host}/30", "dev", "uplink")
        self._inside("link", "set", "uplink", "up")

    @property
    def entry(self) -> tuple[str, ...]:
        """The words before a command that make it run inside."""
        return ("nsenter", "--target", str(self.pid), "--net", "--")

    def unplug(self) -> None:
        """Nobody is there any more: what is sent gets no answer of any kind."""
        self._inside("link", "set", "uplink", "down")

    def plug(self) -> None:
        self._inside("link", "set", "uplink", "up")

    def lose(self) -> None:
        """Packets arrive and every answer is lost: no RST, no ICMP."""
        self._inside("route", "add", "blackhole", f"{self._here}/32")

    def find(self) -> None:
        self._inside("route", "del", "blackhole", f"{self._here}/32")

    def _inside(self, *words: str) -> None:
        _run(*self.entry, "ip", *words)


class Hosts:
    """A hosts file that only a process with ``entry`` before its command sees as /etc/hosts."""

    def __init__(self, logs: Path) -> None:
        self._file = (logs / "hosts").absolute()
        self._file.touch()
        mount = 'mount --bind "$0" /etc/hosts && exec "$@"'
        self.entry: Sequence[str] = ("unshare", "--mount", "--", "sh", "-c", mount, str(self._file))

    @staticmethod
    def fault() -> str:
        """Why there can be none on this machine; empty when there can."""
        bind = ["mount", "--bind", "/dev/null", "/etc/hosts"]
        return _fault(["unshare", "--mount", "--", *bind], "a mount namespace")

    def say(self, name: str, address: str) -> None:
        """In place, for the mount is of this very file; short enough to be written at once."""
        self._file.write_text(f"127.0.0.1 localhost\n{address} {name}\n")


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    if done.returncode:
        raise RigError(f"{' '.join(command)}: {done.stderr.strip()}")


def _fault(command: Sequence[str], what: str) -> str:
    try:
        _run(*command)
    except (RigError, OSError) as problem:
        return f"needs {what} (root, iproute2 and util-linux): {problem}"
    return ""
