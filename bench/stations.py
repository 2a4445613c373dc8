"""Who is measured, and the processes that this takes: pickers, echoes, each behind its own Envoy.

Place:   bench.overhead measures at a Station; Envoy and pickers come from bench.rig, the servers are
         bench.engine (they answer at once: the figures are the picker's and Envoy's, not inference).
Ignores: what is sent and what is made of the figures.
Rule:    all contenders stand in front of the same servers, behind Envoys that differ in nothing else.
         CPU is what the kernel charged to the process, all threads and children.
"""

import contextlib
import os
import shlex
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from bench.findings import BARE, ECHO, NO_PICKER, OURS, on
from bench.load import CHAT_PATH, Target
from bench.rig.envoy import Envoy, Listener, Route
from bench.rig.picker import OURS as OUR_COMMAND
from bench.rig.picker import Picker
from bench.rig.process import Process, answers_ok, free_port

ROOT = str(Path(__file__).resolve().parents[1])


class Kind(Enum):
    """What stands behind Envoy."""

    NOTHING = "no picker"
    ECHO = "a server that reads nothing"
    OURS = "this project's picker"
    VERSUS = "another picker"


@dataclass(frozen=True, slots=True)
class Contender:
    """One of those that are compared."""

    name: str
    kind: Kind
    command: tuple[str, ...] = ()

    @property
    def is_picker(self) -> bool:
        """It has starts, readiness and a life at rest."""
        return self.kind in (Kind.OURS, Kind.VERSUS)


def contenders(versus: str | None = None, servers: Sequence[str] = ()) -> list[Contender]:
    """No picker, the bound, on each driver an echo and our picker, and the other picker where one is given.

    ``servers`` are values of ``--server``; none: what the picker takes by itself.
    """
    chosen = [Contender(NO_PICKER, Kind.NOTHING), Contender(BARE, Kind.ECHO, _echo("bare"))]
    for server in servers or (None,):
        chosen.append(Contender(on(ECHO, server), Kind.ECHO, _echo(server)))
        flags = (f"--server={server}",) if server else ()
        chosen.append(Contender(on(OURS, server), Kind.OURS, (*OUR_COMMAND, *flags)))
    if versus:
        command = tuple(shlex.split(versus))
        name = Path(command[0]).name
        taken = {one.name for one in chosen}
        chosen.append(Contender(f"versus {name}" if name in taken else name, Kind.VERSUS, command))
    return chosen


def _echo(server: str | None) -> tuple[str, ...]:
    return (sys.executable, "-m", "bench.echo", *(("--server", server) if server else ()))


# --- processes -----------------------------------------------------------------------------------


class Engines(Process):
    """So many endpoints, in one process."""

    def __init__(self, logs: Path, count: int, *, page_kb: int, chunks: int, chunk_seconds: float) -> None:
        self.ports = [free_port() for _ in range(count)]
        self.page_kb = page_kb
        command = [sys.executable, "-m", "bench.engine", "--metrics-bytes", str(page_kb * 1_000)]
        command += [word for port in self.ports for word in ("--port", str(port))]
        command += ["--sse-chunks", str(chunks), "--chunk-interval", str(chunk_seconds)]
        name = f"engines-{page_kb}"
        super().__init__(name, command, log=logs / f"{name}.log", environment={"PYTHONPATH": ROOT})

    def is_ready(self) -> bool:
        return answers_ok(f"http://127.0.0.1:{self.ports[-1]}/health")

    def addresses(self, count: int) -> list[str]:
        return [f"127.0.0.1:{port}" for port in self.ports[:count]]


class Echo(Process):
    """bench.echo in a picker's place; every request goes to ``destination``."""

    def __init__(self, logs: Path, command: Sequence[str], destination: str, name: str) -> None:
        port = free_port()
        self.address = f"127.0.0.1:{port}"
        command = [*command, "--port", str(port), "--to", destination]
        super().__init__(name, command, log=logs / f"{name}.log", environment={"PYTHONPATH": ROOT})

    def is_ready(self) -> bool:
        return b"ready" in self.log.read_bytes()


def cpu_seconds(pid: int) -> float:
    """CPU time of a process and its living descendants, ended threads included, to the nanosecond."""
    # A process's CPU clock has the number (~pid << 3) | 2 (clock_getcpuclockid in the C library).
    return sum(time.clock_gettime((~member << 3) | 2) for member in _family(pid))


def rss_bytes(pid: int) -> int:
    """Resident memory of a process and its descendants."""
    page = os.sysconf("SC_PAGE_SIZE")
    return sum(int(Path(f"/proc/{member}/statm").read_text().split()[1]) * page for member in _family(pid))


def _family(pid: int) -> list[int]:
    members = [pid]
    for member in members:  # grows while it is walked
        for children in Path(f"/proc/{member}/task").glob("*/children"):
            with contextlib.suppress(FileNotFoundError):  # the thread has ended since it was found
                members += [int(child) for child in children.read_text().split()]
    return members


@contextlib.contextmanager
def paused(*processes: Process | None) -> Iterator[None]:
    """Stopped for the block's time, so that they take nothing from what is measured in it."""
    stopped = [process for process in processes if process is not None and process.is_running]
    for process in stopped:
        os.kill(process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for process in stopped:
            os.kill(process.pid, signal.SIGCONT)


# --- stations ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Station:
    """A contender behind its own Envoy, over the first ``endpoints`` engines."""

    contender: Contender
    endpoints: int
    engines: Engines
    envoy: Envoy
    process: Picker | Echo | None

    @property
    def target(self) -> Target:
        return Target.parse(self.envoy.url("bench") + CHAT_PATH)

    @property
    def picker(self) -> Picker:
        """The process of a contender that is one."""
        assert isinstance(self.process, Picker)
        return self.process

    def cpu_seconds(self) -> tuple[float, float]:
        """Of the picker (or echo) and of Envoy."""
        return cpu_seconds(self.process.pid) if self.process else 0.0, cpu_seconds(self.envoy.pid)


def station(contender: Contender, endpoints: int, engines: Engines, logs: Path) -> Station:
    """Put together, not started."""
    name = f"{contender.name}-{endpoints}-{engines.page_kb}".replace(" ", "-")
    servers = engines.addresses(endpoints)
    process: Picker | Echo | None = None
    if contender.is_picker:
        named = {f"engine-{number}": address for number, address in enumerate(servers)}
        process = Picker(
            logs=logs, endpoints=named, command=contender.command, tls=False, name=f"picker-{name}"
        )
    elif contender.kind is Kind.ECHO:
        process = Echo(logs, contender.command, servers[0], f"echo-{name}")
    route = Route.ORIGINAL_DST if process else Route.ROUND_ROBIN
    envoy = Envoy(
        logs=logs,
        servers=servers,
        listeners={"bench": Listener(route=route)},
        picker=process.address if process else None,
        picker_tls=False,
        name=f"envoy-{name}",
        log_level="error",
    )
    return Station(contender, endpoints, engines, envoy, process)
