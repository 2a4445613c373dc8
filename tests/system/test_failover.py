"""Servers die, hang, come back and change; requests go where somebody answers.

The default driver only: what is learned of the servers, and chosen from that, does not know the driver.
"""

import asyncio
import os
import random
import signal
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path

import pytest

from bench.load import Call, Options, Result, Sample, Target, chat_call, clock, closed_loop, open_loop, text
from bench.rig.envoy import DIALECTS, Envoy
from bench.rig.llama import LlamaServer
from bench.rig.picker import Picker
from bench.rig.process import free_port, wait_until
from tests.system.gate import Gate
from tests.system.talk import (
    CHAT,
    DEADLINE,
    ask,
    chat,
    endpoints,
    page,
    reachability,
    series,
    wait_at_rest,
    wait_reachable,
)

STEERED = ["original_dst", "override_host"]
RATE = 50
OPTIONS = Options(timeout_seconds=20)


def call(seed: int) -> Call:
    words = text(random.Random(seed), 20)
    return chat_call([{"role": "user", "content": words}], max_tokens=2)


def calls(number: int = 1_000_000) -> Iterator[Call]:
    """Never the same prompt twice: what one server has seen would stay there."""
    return (call(next(_seeds)) for _ in range(number))


_seeds = count()


async def some(gateway: Envoy, listener: str, number: int) -> Result:
    """So many requests, four at a time."""
    target = Target.parse(gateway.url(listener) + CHAT)
    return await closed_loop(target, calls(number), concurrency=4, options=OPTIONS)


def failures(samples: list[Sample]) -> Counter[str]:
    return Counter(sample.error for sample in samples if sample.error is not None)


@contextmanager
def house(
    logs: Path, name: str, servers: list[LlamaServer], *, members: list[str] | None = None
) -> Iterator[tuple[Picker, Envoy]]:
    """A picker over these servers, and an Envoy in front of it."""
    listed = {server.name: server.address for server in servers}
    known = members or list(listed.values())
    with (
        Picker(logs=logs, name=f"picker-{name}", endpoints=listed) as picker,
        Envoy(
            logs=logs,
            name=f"envoy-{name}",
            servers=known,
            picker=picker.address,
            listeners={key: DIALECTS[key] for key in STEERED},
        ) as gateway,
    ):
        yield picker, gateway


@pytest.fixture(scope="module")
def _pair(logs: Path) -> Iterator[list[LlamaServer]]:
    with ExitStack() as stack:
        servers = [LlamaServer(logs=logs, name=f"mortal-{n}", slots=4, context=1024) for n in range(2)]
        yield [stack.enter_context(server) for server in servers]


@pytest.fixture
def pair(_pair: list[LlamaServer]) -> list[LlamaServer]:
    """Two servers that may be killed."""
    for server in _pair:
        if not server.is_running:
            server.start()
    return _pair


# --- death -------------------------------------------------------------------------------------------


@pytest.mark.timeout(180)
@pytest.mark.parametrize("listener, requests, lost", [("original_dst", 500, 5), ("override_host", 400, 4)])
async def test_hardly_a_request_fails_when_one_of_two_servers_is_killed(
    listener: str, requests: int, lost: int, logs: Path, pair: list[LlamaServer]
) -> None:
    victim, survivor = pair
    with house(logs, f"kill-{listener}", pair) as (picker, gateway):
        wait_reachable(picker, {victim.name: "up", survivor.name: "up"})
        target = Target.parse(gateway.url(listener) + CHAT)
        before = await some(gateway, listener, 60)
        assert not failures(before.samples)
        assert set(served(before.samples)) == {victim.address, survivor.address}

        seen: list[Sample] = []
        async with asyncio.TaskGroup() as group:
            seconds = (requests + 100) / RATE
            running = open_loop(
                target, calls(), rate=RATE, seconds=seconds, options=OPTIONS, on_sample=seen.append
            )
            load = group.create_task(running)
            await looked(lambda: len(seen) >= 50)
            victim.kill()
            killed_at = clock()
        after = [sample for sample in sorted(load.result().samples, key=due) if sample.due > killed_at]
        assert len(after) >= requests, len(after)
        failed = failures(after[:requests])
        assert sum(failed.values()) <= lost, failed
        assert served(after)[victim.address] == 0
        assert endpoints(picker)[victim.name]["phase"] == "ejected"
        assert endpoints(picker)[victim.name]["reason"]

        await asyncio.to_thread(victim.start)
        await served_again(gateway, listener, victim)
        wait_at_rest(picker)


def due(sample: Sample) -> float:
    return sample.due


def served(samples: list[Sample]) -> Counter[str]:
    return Counter(sample.served_by for sample in samples if sample.ok and sample.served_by)


async def served_again(gateway: Envoy, listener: str, server: LlamaServer) -> None:
    """Until a request has been answered by ``server``."""
    async with asyncio.timeout(DEADLINE):
        while not served((result := await some(gateway, listener, 20)).samples)[server.address]:
            assert not failures(result.samples)


@pytest.mark.parametrize("listener", STEERED)
async def test_a_server_that_was_dead_before_the_start_gets_nothing_until_it_lives(
    listener: str, logs: Path, pair: list[LlamaServer]
) -> None:
    dead, alive = pair
    dead.kill()
    with house(logs, f"dead-{listener}", pair) as (picker, gateway):
        first = await some(gateway, listener, 100)  # at once: nothing is waited for
        assert not failures(first.samples)
        assert served(first.samples) == {alive.address: 100}
        wait_reachable(picker, {dead.name: "down", alive.name: "up"})
        await asyncio.to_thread(dead.start)
        await served_again(gateway, listener, dead)


@pytest.mark.parametrize("listener", STEERED)
async def test_a_server_that_hangs_gets_nothing_more_once_that_is_seen(
    listener: str, logs: Path, pair: list[LlamaServer]
) -> None:
    hung, alive = pair
    with house(logs, f"hung-{listener}", pair) as (picker, gateway):
        wait_reachable(picker, {hung.name: "up", alive.name: "up"})
        os.kill(hung.pid, signal.SIGSTOP)
        try:
            wait_until(lambda: reachability(picker)[hung.name] == "down", what="seen", timeout=DEADLINE)
            result = await some(gateway, listener, 40)
        finally:
            os.kill(hung.pid, signal.SIGCONT)
        assert not failures(result.samples)
        assert served(result.samples) == {alive.address: 40}
        await served_again(gateway, listener, hung)


@pytest.mark.parametrize("listener", STEERED)
def test_with_every_server_dead_clients_are_told_at_once_and_later_served_again(
    listener: str, logs: Path, pair: list[LlamaServer]
) -> None:
    with house(logs, f"all-dead-{listener}", pair) as (picker, gateway):
        for server in pair:
            server.kill()
        wait_reachable(picker, {server.name: "down" for server in pair})
        reply = ask(gateway.url(listener), CHAT, chat())
        assert reply.status == 503
        assert b"all 2 endpoints are down: 2 refusing connections" in reply.body
        assert int(reply.headers["retry-after"]) >= 1
        pair[0].start()
        wait_until(lambda: reachability(picker)[pair[0].name] == "up", what="back", timeout=DEADLINE)
        reply = ask(gateway.url(listener), CHAT, chat())
        assert (reply.status, reply.served_by) == (200, pair[0].address)


# --- another list ------------------------------------------------------------------------------------


@pytest.mark.parametrize("listener", STEERED)
async def test_the_list_of_servers_changes_under_load_and_no_request_fails(
    listener: str, logs: Path, pair: list[LlamaServer]
) -> None:
    first, second = pair
    members = [server.address for server in pair]
    with house(logs, f"list-{listener}", [first], members=members) as (picker, gateway):
        wait_reachable(picker, {first.name: "up"})
        target = Target.parse(gateway.url(listener) + CHAT)
        seen: list[Sample] = []
        async with asyncio.TaskGroup() as group:
            load = group.create_task(
                closed_loop(target, calls(), concurrency=4, options=OPTIONS, on_sample=seen.append)
            )
            try:
                await seen_from(seen, first.address)
                picker.set_endpoints({first.name: first.address, second.name: second.address})
                await seen_from(seen, second.address)
                picker.set_endpoints({second.name: second.address})
                await looked(lambda: set(reachability(picker)) == {second.name})
                gone_at, enough = clock(), len(seen) + 60
                await looked(lambda: len(seen) >= enough)
            finally:
                load.cancel()
        assert not failures([sample for sample in seen if sample.error != "cancelled"])
        assert set(served([sample for sample in seen if sample.due > gone_at])) == {second.address}
        wait_at_rest(picker)


async def seen_from(seen: list[Sample], address: str) -> None:
    await looked(lambda: served(seen)[address] > 0)


async def looked(condition: Callable[[], bool]) -> None:
    """As wait_until, while the load goes on."""
    await asyncio.to_thread(wait_until, condition, what="the change", timeout=DEADLINE)


def test_a_broken_list_keeps_the_last_good_one_and_everyone_is_told(
    logs: Path, pair: list[LlamaServer]
) -> None:
    with house(logs, "broken", pair) as (picker, gateway):
        good = {server.name: "up" for server in pair}
        wait_reachable(picker, good)
        before = series(picker)
        picker.endpoints_file.write_text("endpoints:\n- {name: a, address: 127.0.0.1, prot: 1}\n")
        wait_until(lambda: "details" in page(picker, "/readyz"), what="told", timeout=DEADLINE)
        told = page(picker, "/readyz")
        assert told["status"] == "ready"
        (detail,) = told["details"].values()
        assert f"{picker.endpoints_file}:2" in detail and 'did you mean "port"?' in detail
        now = series(picker)
        assert now.get("fleet_epp_endpoints_file_valid") == 0
        errors = "fleet_epp_endpoints_file_errors_total"
        assert now.count(errors) == before.count(errors) + 1
        assert picker.endpoints_file.name in picker.log.read_text()
        assert reachability(picker) == good
        assert ask(gateway.url("original_dst"), CHAT, chat()).status == 200
        assert picker.health() == "SERVING"
        picker.set_endpoints({pair[0].name: pair[0].address})
        wait_reachable(picker, {pair[0].name: "up"})
        assert "details" not in page(picker, "/readyz")
        assert series(picker).get("fleet_epp_endpoints_file_valid") == 1


def test_a_list_that_is_gone_keeps_the_last_good_one(logs: Path, pair: list[LlamaServer]) -> None:
    with house(logs, "gone", pair) as (picker, gateway):
        wait_reachable(picker, {server.name: "up" for server in pair})
        picker.endpoints_file.unlink()
        wait_until(lambda: "details" in page(picker, "/readyz"), what="told", timeout=DEADLINE)
        assert ask(gateway.url("original_dst"), CHAT, chat()).status == 200


# --- other addresses ---------------------------------------------------------------------------------


def test_a_host_name_is_resolved_for_the_gateway(logs: Path, pair: list[LlamaServer]) -> None:
    entry = {"name": "by-name", "address": "localhost", "port": pair[0].port}
    with house(logs, "name", pair) as (picker, gateway):
        picker.set_endpoints([entry])
        wait_reachable(picker, {"by-name": "up"})
        for listener in STEERED:
            reply = ask(gateway.url(listener), CHAT, chat())
            assert (reply.status, reply.served_by) == (200, pair[0].address)
        assert endpoints(picker)["by-name"]["host"] == "localhost"


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.skipif(not has_ipv6(), reason="no ::1 on this machine: IPv6 endpoints were not tested")
def test_an_ipv6_endpoint_is_served(logs: Path, pair: list[LlamaServer]) -> None:
    with Gate("::1") as gate, house(logs, "ipv6", pair) as (picker, gateway):
        gate.open()
        picker.set_endpoints([{"name": "six", "address": "::1", "port": gate.port}])
        wait_reachable(picker, {"six": "up"})
        reply = ask(gateway.url("original_dst"), CHAT, chat())
        assert (reply.status, reply.served_by) == (200, f"[::1]:{gate.port}")


def test_a_name_that_does_not_resolve_is_told_and_harms_no_other(logs: Path, pair: list[LlamaServer]) -> None:
    nowhere = {"name": "nowhere", "address": "nowhere.invalid", "port": free_port()}
    with house(logs, "nowhere", pair) as (picker, gateway):
        picker.set_endpoints([nowhere, {"name": "here", "address": "127.0.0.1", "port": str(pair[0].port)}])
        wait_reachable(picker, {"here": "up"})
        assert ask(gateway.url("original_dst"), CHAT, chat()).status == 200
        wait_until(lambda: "nowhere.invalid" in str(page(picker, "/readyz")), what="told", timeout=DEADLINE)
