"""A server that moves: its name has another address, and the picker follows.

The picker is the real process and resolves as always, through the C library's ``getaddrinfo``. Changing
what that answers takes root, or a name server; so a few lines of C stand before it (LD_PRELOAD), which look
the one name up in a file of the test.
"""

import os
import signal
import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest

from bench.rig.picker import Picker
from bench.rig.process import wait_until
from tests.system.gate import Gate
from tests.system.talk import channel_to, converse, destination, endpoints, page, request_headers

NAME = "studio.test"
RESOLVER = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef int (*resolve)(const char *, const char *, const struct addrinfo *, struct addrinfo **);

int getaddrinfo(const char *name, const char *port, const struct addrinfo *hints, struct addrinfo **found) {
    resolve real = (resolve)dlsym(RTLD_NEXT, "getaddrinfo");
    if (!name || strcmp(name, "studio.test")) return real(name, port, hints, found);
    char address[64];
    struct addrinfo **next = found;
    FILE *hosts = fopen(getenv("TEST_HOSTS"), "r");
    for (*next = NULL; fscanf(hosts, "%63s", address) == 1; next = &(*next)->ai_next)
        if (real(address, port, hints, next)) break;
    fclose(hosts);
    return *found ? 0 : EAI_NONAME;
}
"""


class Hosts:
    """What names mean to a process with this ``environment``."""

    def __init__(self, folder: Path) -> None:
        source, library = folder / "resolver.c", folder / "resolver.so"
        source.write_text(RESOLVER)
        subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True, timeout=60)
        self._file = folder / "hosts"
        self.environment = {"LD_PRELOAD": str(library), "TEST_HOSTS": str(self._file)}

    def say(self, *addresses: str) -> None:
        """Whole at once: a look never sees half a file."""
        beside = self._file.with_suffix(".new")
        beside.write_text("\n".join(addresses))
        beside.replace(self._file)


@pytest.fixture
def hosts(tmp_path: Path) -> Hosts:
    return Hosts(tmp_path)


def picker_over(name: str, port: int, hosts: Hosts, logs: Path) -> Picker:
    return Picker(
        logs=logs,
        name=f"picker-{name}",
        endpoints=[{"name": "mac", "address": NAME, "port": port, "engine": "vllm"}],
        environment=hosts.environment,
        tls=False,
    )


def addresses(picker: Picker) -> dict[str, str]:
    """Of the servers that answer, by name."""
    found = endpoints(picker)
    assert all(one["host"] == NAME for one in found.values())
    return {
        name: one["address"] for name, one in found.items() if one["phase"] in {"ready", "warming", "probing"}
    }


def sent_to(picker: Picker) -> str:
    with channel_to(picker) as channel:
        return destination(next(converse(channel, [request_headers(ended=True)])))


def test_a_server_that_moves_is_followed_by_its_name(hosts: Hosts, logs: Path) -> None:
    hosts.say("127.0.0.1")
    with (
        ExitStack() as life,
        picker_over("moves", (before := life.enter_context(Gate())).port, hosts, logs) as picker,
    ):
        wait_until(lambda: addresses(picker) == {"mac": before.address}, what="the first address")
        assert sent_to(picker) == before.address
        with Gate("127.0.0.2", port=before.port) as after:
            hosts.say("127.0.0.2")
            life.close()  # its connections break: the reason to ask for the name again
            wait_until(lambda: addresses(picker) == {"mac": after.address}, what="the second address")
            assert sent_to(picker) == after.address


def test_a_name_that_gets_a_second_address_is_two_servers(hosts: Hosts, logs: Path) -> None:
    hosts.say("127.0.0.1")
    with (
        Gate() as one,
        Gate("127.0.0.2", port=one.port) as other,
        picker_over("grows", one.port, hosts, logs) as picker,
    ):
        wait_until(lambda: addresses(picker) == {"mac": one.address}, what="the first address")
        hosts.say("127.0.0.1", "127.0.0.2")
        os.kill(picker.pid, signal.SIGHUP)
        both = {"mac": one.address, "mac-1": other.address}
        wait_until(lambda: addresses(picker) == both, what="both addresses")
        hosts.say()
        os.kill(picker.pid, signal.SIGHUP)
        wait_until(lambda: NAME in str(page(picker, "/readyz")), what="the lookup that failed")
        assert addresses(picker) == both, "the last addresses stay"
