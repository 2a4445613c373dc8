"""Two servers, a picker and an Envoy: where one scenario takes place, and what it may do there.

Place:   made anew for each repetition, so that none inherits what a picker has learned in the one before.
Ignores: the load, and what comes of it.
Rule:    the victim is always the first of two; where it stands (Stand) is all that differs. An address that
         the victim will have later is known to Envoy from the start, as a gateway knows a pool's members.
"""

import contextlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from http.client import HTTPException
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
        self,
        victim: LlamaServer,
        other: LlamaServer,
        spare: LlamaServer,
        picker: Picker,
        envoy: Envoy,
        *,
        front: Front | None = None,
        island: Island | None = None,
        hosts: Hosts | None = None,
    ) -> None:
        self.victim, self.other = victim, other
        self.address = _address(victim, front)
        """Where the victim is reached now."""
        self.url = envoy.url(LISTENER)
        self.over = threading.Event()
        """The fault's time has passed."""
        self._spare, self._picker = spare, picker
        self._front, self._island, self._hosts = front, island, hosts

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

    def move(self) -> None:
        """The victim starts under its next address, and the picker's source is told: host name or list."""
        self._spare.launch()
        self.address = self._spare.address
        if self._hosts is not None:
            self._hosts.say(HOST_NAME, self.address.rpartition(":")[0])
        else:
            self._picker.set_endpoints({VICTIM: self.address, OTHER: self.other.address})
        self._spare.wait_ready()


_ASK = {"messages": [{"role": "user", "content": "are you there"}], "max_tokens": 1}


def answers(address: str) -> bool:
    """The server there answers a request for inference now, asked past gateway and picker."""
    try:
        status, _ = http_post(f"http://{address}/v1/chat/completions", _ASK, timeout=0.5)
    except (OSError, HTTPException, ValueError):
        return False
    return status == 200


@contextlib.contextmanager
def house(contender: Contender, stand: Stand, logs: Path, *, retries: bool = False) -> Iterator[House]:
    """Everything started and ready; stopped on every way out."""
    logs.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as life:
        island = life.enter_context(Island(logs)) if stand is Stand.ISLAND else None
        victim = _server(logs, VICTIM, island)
        other = _server(logs, OTHER)
        spare = LlamaServer(logs=logs, name="spare", host="127.0.0.3", port=victim.port, slots=SLOTS)
        front = Front(logs, victim.address) if stand is Stand.FRONT else None
        hosts = Hosts(logs) if stand is Stand.NAMED else None
        addresses = {VICTIM: _address(victim, front), OTHER: other.address}
        listed = dict(addresses)
        if hosts is not None:
            hosts.say(HOST_NAME, "127.0.0.1")
            listed[VICTIM] = f"{HOST_NAME}:{victim.port}"
        picker = Picker(
            logs=logs,
            endpoints=listed,
            command=[*(hosts.entry if hosts else ()), *contender.command],
            config=contender.config,
            tls=False,
        )
        moves = stand in (Stand.MOVING, Stand.NAMED)
        envoy = _envoy(logs, picker, [*addresses.values(), *([spare.address] if moves else [])], retries)
        parts = [part for part in (victim, other, front, picker, envoy) if part is not None]
        life.callback(spare.stop)
        with held_back():
            for part in parts:
                life.callback(part.stop)
                part.launch()
        for part in parts:
            part.wait_ready()
        yield House(victim, other, spare, picker, envoy, front=front, island=island, hosts=hosts)


def _address(victim: LlamaServer, front: Front | None) -> str:
    return front.addresses[0] if front else victim.address


def _server(logs: Path, name: str, island: Island | None = None) -> LlamaServer:
    host, inside = (island.host, island.entry) if island else ("127.0.0.1", ())
    return LlamaServer(logs=logs, name=name, host=host, inside=inside, slots=SLOTS, context=CONTEXT, cache=0)


def _envoy(logs: Path, picker: Picker, servers: Sequence[str], retries: bool) -> Envoy:
    route = Route.OVERRIDE_HOST if retries else Route.ORIGINAL_DST
    listener = Listener(route=route, retries=RETRIES if retries else 0, timeout=f"{ENVOY_SECONDS}s")
    return Envoy(
        logs=logs,
        servers=servers,
        picker=picker.address,
        picker_tls=False,
        listeners={LISTENER: listener},
        requests_per_connection=1,  # else now and then a 503 of llama.cpp's making
    )
