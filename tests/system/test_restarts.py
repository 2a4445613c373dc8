"""A picker is replaced while requests go on: one that hands its port over, and two behind one gateway."""

import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bench.rig.envoy import Envoy, Listener
from bench.rig.picker import Picker
from bench.rig.process import wait_until
from tests.system.gate import Gate
from tests.system.talk import CHAT, Client, ask, chat, series, wait_reachable

RETRY = {
    "retry_on": "connect-failure,refused-stream,reset,cancelled,unavailable",
    "num_retries": 20,
    "retry_back_off": {"base_interval": "0.1s", "max_interval": "0.5s"},
}
"""As in deploy/envoy/envoy.yaml."""
OUTLIERS = {
    "consecutive_local_origin_failure": 1,
    "split_external_local_origin_errors": True,
    "interval": "1s",
    "base_ejection_time": "2s",
}
"""As in docs/operations.md."""


def house(logs: Path, name: str, pickers: Sequence[Picker], gate: Gate) -> Envoy:
    """A gateway that asks any of these pickers, and asks again when none answers."""
    envoy = Envoy(
        logs=logs,
        name=f"envoy-{name}",
        servers=[gate.address],
        picker=pickers[0].address,
        listeners={"in": Listener()},
    )
    resources = envoy.config["static_resources"]
    (asked,) = (one for one in resources["clusters"] if one["name"] == "picker")
    members = [("127.0.0.1", picker.grpc_port) for picker in pickers]
    asked["outlier_detection"] = OUTLIERS
    asked["load_assignment"]["endpoints"][0]["lb_endpoints"] = [
        {"endpoint": {"address": {"socket_address": {"address": host, "port_value": port}}}}
        for host, port in members
    ]
    (chain,) = resources["listeners"][0]["filter_chains"]
    ext_proc = chain["filters"][0]["typed_config"]["http_filters"][0]["typed_config"]
    ext_proc["grpc_service"]["retry_policy"] = RETRY
    return envoy


def picker_over(gate: Gate, logs: Path, name: str, driver: str) -> Picker:
    return Picker(logs=logs, name=f"picker-{name}", endpoints={"gate": gate.address}, driver=driver)


def successor_of(old: Picker, other: Picker) -> Picker:
    """The other on the port of the old one that gateways know; health and pages have their own."""
    other.command[other.command.index("--grpc-port") + 1] = str(old.grpc_port)
    return other


def test_a_successor_takes_the_port_while_the_old_one_drains(driver: str, logs: Path) -> None:
    with Gate() as gate, picker_over(gate, logs, "old", driver) as old:
        successor = successor_of(old, picker_over(gate, logs, "successor", driver))
        with house(logs, "handover", [old], gate) as gateway, Client(gateway.url("in")) as client:
            body = chat(stream=True)
            client.send_head(CHAT, [("content-length", str(len(body)))], method="POST")
            client.send(body)
            client.read_until(b"t0")
            os.kill(old.pid, signal.SIGTERM)
            wait_until(lambda: old.health() == "NOT_SERVING", what="draining")
            with successor:
                wait_reachable(successor, {"gate": "up"})
                assert ask(gateway.url("in"), "/v1/models").status == 200
                # Counted at the end of its stream, which the client does not wait for.
                wait_until(
                    lambda: series(successor).get("llm_d_epp_request_total") == 1, what="the request counted"
                )
                assert old.is_running
                gate.open()
                reply = client.read()
                assert reply.complete and reply.events()[-1] == "[DONE]"
                assert old.wait(timeout=20) == 0


@contextmanager
def asking(url: str, clients: int) -> Iterator[Counter[int]]:
    """Clients that ask one thing after the other; the statuses of all answers once the block has ended."""
    statuses, enough = Counter[int](), threading.Event()

    def client() -> None:
        while not enough.is_set():
            reply = ask(url, CHAT, chat(stream=True))
            statuses[reply.status if reply.complete else 0] += 1

    threads = [threading.Thread(target=client, name=f"client {n}") for n in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield statuses
    finally:
        enough.set()
        for thread in threads:
            thread.join()


def test_the_replacement_of_the_only_picker_is_nobodys_failure(driver: str, logs: Path) -> None:
    with Gate() as gate, picker_over(gate, logs, "first", driver) as old:
        gate.open()
        successor = successor_of(old, picker_over(gate, logs, "second", driver))
        with (
            ExitStack() as life,
            house(logs, "only", [old], gate) as gateway,
            asking(gateway.url("in"), 3) as statuses,
        ):
            wait_for_requests(old)
            os.kill(old.pid, signal.SIGTERM)
            life.enter_context(successor)
            wait_for_requests(successor)
            assert old.wait(timeout=20) == 0
    assert set(statuses) == {200}, statuses


def test_the_restart_of_one_of_two_pickers_is_nobodys_failure(driver: str, logs: Path) -> None:
    with Gate() as gate:
        gate.open()
        pickers = [picker_over(gate, logs, f"pair-{n}", driver) for n in range(2)]
        with (
            pickers[0],
            pickers[1],
            house(logs, "pair", pickers, gate) as gateway,
            asking(gateway.url("in"), 3) as statuses,
        ):
            for picker in pickers:
                wait_for_requests(picker)
                assert picker.terminate(timeout=30) == 0
                picker.start()
                wait_for_requests(picker)
    assert set(statuses) == {200}, statuses


def wait_for_requests(picker: Picker) -> None:
    wait_until(lambda: series(picker).count("llm_d_epp_request_total") > 20, what="requests")
