"""Two servers, a picker and an Envoy: where one scenario takes place, and what it may do there.

Place:   made anew for each repetition, so that none inherits what a picker has learned in the one before.
Ignores: the load, and what comes of it.
Rule:    the victim is always the first of two; where it stands (Stand) is all that differs. An address that
         the victim will have later is known to Envoy from the start, as a gateway knows a pool's members.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from bench.demo.interrupt import held_back
from bench.failover.front import Mode
from bench.failover.parts import Front, Hosts, Island
from bench.rig.envoy import Envoy, Listener, Route
from bench.rig.llama import LlamaServer
from bench.rig.picker import OURS, PROFILE, Picker
from bench.rig.process import http_post

ENVOY_SECONDS = 3
"""Envoy's timeout for a request: so long does one that nobody answers last, and then it is accounted for."""
RETRIES = 3
SLOTS, CONTEXT = 8, 1_024
VICTIM, OTHER = "victim", "other"
HOST_NAME = "mac.test"
LISTENER = "failover"
_ROUTES = {False: Route.ORIGINAL_DST, True: Route.OVERRIDE_HOST}


class Stand(Enum):
    """Where the victim is."""

    PLAIN = "a process on this machine"
    MOVING = "a process on this machine that will have another address"
    FRONT = "behind a proxy that can lie for it"
    ISLAND = "in a network of its own"
    NAMED = "behind a host name"


def not_here(stand: Stand) -> str:
    """Why it cannot be on this machine; empty when it can."""
    if stand is Stand.ISLAND:
        return Island.fault()
    return Hosts.fault() if stand is Stand.NAMED else ""


@dataclass(frozen=True, slots=True)
class Contender:
    """A picker that is measured. ``config`` None: its own default."""

    name: str
    command: Sequence[str] = OURS
    config: Mapping[str, Any] | None = None

    @classmethod
    def versus(cls, command: Sequence[str], name: str) -> "Contender":
        """Another one, with the flags of upstream's."""
        return cls(name, command, PROFILE)


class House:
    """The parts, running. Faults call these methods, each of which returns when it is done."""

    def __init__(
        self, victim: LlamaServer, other: LlamaServer, *, front: Front | None, island: Island | None
    ) -> None:
        self.victim, self.other = victim, other
        self.address = front.addresses[0] if front else victim.address
        """Where the victim is reached now."""
        self.spare = LlamaServer(
            logs=victim.log.parent, name="spare", host="127.0.0.3", port=victim.port, slots=SLOTS
        )
        """The victim's next life under another address."""
        self.over = threading.Event()
        """The fault's time has passed."""
        self._front, self._island = front, island
        self._picker: Picker | None = None
        self._envoy: Envoy | None = None
        self._hosts: Hosts | None = None

    def populate(
        self, contender: Contender, hosts: Hosts | None, logs: Path, *, retries: bool, moves: bool
    ) -> tuple[Picker, Envoy]:
        """A picker and an Envoy for these servers, not started."""
        self._hosts = hosts
        if hosts is not None:
            hosts.say(HOST_NAME, "127.0.0.1")
        self._picker = Picker(
            logs=logs,
            endpoints=self._listed(),
            command=[*(hosts.entry if hosts else ()), *contender.command],
            config=contender.config,
            tls=False,
        )
        self._envoy = Envoy(
            logs=logs,
            servers=[self.address, self.other.address, *([self.spare.address] if moves else [])],
            picker=self._picker.address,
            picker_tls=False,
            listeners={
                LISTENER: Listener(
                    route=_ROUTES[retries], retries=RETRIES * retries, timeout=f"{ENVOY_SECONDS}s"
                )
            },
            requests_per_connection=1,  # else now and then a 503 of llama.cpp's making
        )
        return self._picker, self._envoy

    @property
    def url(self) -> str:
        assert self._envoy is not None
        return self._envoy.url(LISTENER)

    def _listed(self) -> list[dict[str, Any]]:
        host, port = self.address.rsplit(":", 1)
        if self._hosts is not None:
            host = HOST_NAME
        other = {"name": OTHER, "address": "127.0.0.1", "port": str(self.other.port)}
        return [{"name": VICTIM, "address": host, "port": port}, other]

    # --- for faults ---

    @property
    def island(self) -> Island:
        assert self._island is not None, "the scenario's stand is not ISLAND"
        return self._island

    def say(self, mode: Mode) -> None:
        """The front before the victim does this from now on."""
        assert self._front is not None, "the scenario's stand is not FRONT"
        self._front.say(mode)

    def kill_all(self) -> None:
        self.victim.kill()
        self.other.kill()

    def move(self, *, told: Callable[[], None] | None = None) -> None:
        """The victim starts under its next address; then the picker's source is told."""
        self.spare.launch()
        self.address = self.spare.address
        assert self._picker is not None
        if told is None:
            self._picker.set_endpoints(self._listed())
        else:
            told()
        self.spare.wait_ready()

    def rename(self) -> None:
        """The host name means the victim's next address."""
        assert self._hosts is not None, "the scenario's stand is not NAMED"
        self._hosts.say(HOST_NAME, self.spare.address.rsplit(":", 1)[0])


_ASK = {"messages": [{"role": "user", "content": "are you there"}], "max_tokens": 1}


def answers(address: str) -> bool:
    """The server there answers a request for inference now, asked past gateway and picker."""
    try:
        status, _ = http_post(f"http://{address}/v1/chat/completions", _ASK, timeout=0.5)
    except (OSError, ValueError):
        return False
    return status == 200


@contextlib.contextmanager
def house(contender: Contender, stand: Stand, logs: Path, *, retries: bool = False) -> Iterator[House]:
    """Everything started and ready; stopped on every way out."""
    logs.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as life:
        island = None
        if stand is Stand.ISLAND:
            island = life.enter_context(Island(logs))
            island.connect()
        victim = LlamaServer(
            logs=logs,
            name=VICTIM,
            host=island.host if island else "127.0.0.1",
            slots=SLOTS,
            context=CONTEXT,
            inside=island.entry if island else (),
        )
        other = LlamaServer(logs=logs, name=OTHER, slots=SLOTS, context=CONTEXT)
        front = Front(logs, victim.address) if stand is Stand.FRONT else None
        here = House(victim, other, front=front, island=island)
        hosts = Hosts(logs) if stand is Stand.NAMED else None
        moves = stand in (Stand.MOVING, Stand.NAMED)
        picker, envoy = here.populate(contender, hosts, logs, retries=retries, moves=moves)
        parts = [part for part in (victim, other, front, picker, envoy) if part is not None]
        life.callback(here.spare.stop)
        with held_back():
            for part in parts:
                life.callback(part.stop)
                part.launch()
        for part in parts:
            part.wait_ready()
        yield here
