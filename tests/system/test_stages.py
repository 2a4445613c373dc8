"""Several profiles and sessions with a real Envoy: what the server is told, what the client is told."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from bench.rig.envoy import Body, Envoy, Listener, Route
from bench.rig.picker import Picker
from tests.system.gate import Gate
from tests.system.talk import (
    CHAT,
    Reply,
    ask,
    chat,
    new_id,
    pick_of,
    picked_address,
    wait_at_rest,
    wait_reachable,
)

LISTENERS = {
    "full_duplex": Listener(),
    "override_host": Listener(route=Route.OVERRIDE_HOST),
    "buffered": Listener(request_body=Body.BUFFERED, response_body=Body.BUFFERED),
    "streamed": Listener(request_body=Body.STREAMED, response_body=Body.STREAMED),
}
STAGES = {"decode": "decode-filter", "prefill": "prefill-filter"}
CONFIG = {
    "plugins": [
        {
            "type": "disagg-profile-handler",
            "parameters": {"deciders": {"prefill": "always-disagg-pd-decider"}},
        },
        *({"type": name} for name in ("always-disagg-pd-decider", *STAGES.values(), "active-request-scorer")),
        {"type": "session-affinity-filter"},
    ],
    "schedulingProfiles": [
        {
            "name": name,
            "plugins": [
                {"pluginRef": role},
                *([{"pluginRef": "session-affinity-filter"}] if name == "decode" else []),
                {"pluginRef": "active-request-scorer"},
            ],
        }
        for name, role in STAGES.items()
    ],
}


@pytest.fixture(scope="module")
def gates() -> Iterator[dict[str, Gate]]:
    with ExitStack() as stack:
        found = {name: stack.enter_context(Gate()) for name in ("decode-0", "decode-1", "prefill-0")}
        for gate in found.values():
            gate.open()
        yield found


@pytest.fixture(scope="module")
def staged(gates: dict[str, Gate], logs: Path, driver: str) -> Iterator[Picker]:
    entries = [
        {
            "name": name,
            "address": gate.host,
            "port": str(gate.port),
            "labels": {"llm-d.ai/role": name.partition("-")[0]},
        }
        for name, gate in gates.items()
    ]
    with Picker(
        logs=logs,
        name="picker-stages",
        endpoints=entries,
        config=CONFIG,
        driver=driver,
        flags=["--allow-experimental-plugins"],
    ) as picker:
        wait_reachable(picker, dict.fromkeys(gates, "up"))
        yield picker
        wait_at_rest(picker)
        assert "Traceback" not in picker.log.read_text()


@pytest.fixture(scope="module")
def staged_gateway(gates: dict[str, Gate], staged: Picker, logs: Path) -> Iterator[Envoy]:
    addresses = [gate.address for gate in gates.values()]
    with Envoy(
        logs=logs, name="envoy-stages", servers=addresses, picker=staged.address, listeners=LISTENERS
    ) as envoy:
        yield envoy


def post(gateway: Envoy, listener: str, **headers: str) -> tuple[Reply, str]:
    request_id = new_id()
    named = [(name.replace("_", "-"), value) for name, value in headers.items()]
    return ask(
        gateway.url(listener), CHAT, chat(), headers=[("x-request-id", request_id), *named]
    ), request_id


def last_head(gates: dict[str, Gate], request_id: str) -> str:
    """What the server got of this request."""
    heads = (head for gate in gates.values() for head, _ in gate.received)
    return next(text for head in heads if request_id in (text := head.decode().lower()))


@pytest.mark.parametrize("listener", LISTENERS)
def test_who_generates_is_told_who_works_on_the_prompt(
    listener: str, staged_gateway: Envoy, staged: Picker, gates: dict[str, Gate]
) -> None:
    spoofed = {"x_prefiller_host_port": "10.9.9.9:1", "x_encoder_hosts_ports": "10.9.9.9:2"}
    reply, request_id = post(staged_gateway, listener, **spoofed)
    assert reply.status == 200
    head = last_head(gates, request_id)
    assert f"x-prefiller-host-port: {gates['prefill-0'].address}\r\n" in head
    assert "10.9.9.9" not in head and "x-encoder-hosts-ports" not in head
    assert pick_of(staged, request_id)["profiles"]["prefill"] == ["prefill-0"]
    assert not gates["prefill-0"].received


@pytest.mark.parametrize("listener", LISTENERS)
def test_a_session_goes_back_to_where_it_was(listener: str, staged_gateway: Envoy, staged: Picker) -> None:
    reply, request_id = post(staged_gateway, listener)
    address, token = picked_address(staged, request_id), reply.headers["x-session-token"]
    went = set()
    for _ in range(6):
        reply, request_id = post(staged_gateway, listener, x_session_token=token)
        assert reply.headers["x-session-token"] == token
        went.add(picked_address(staged, request_id))
    assert went == {address}
    alone = {picked_address(staged, post(staged_gateway, listener)[1]) for _ in range(30)}
    assert len(alone) == 2
