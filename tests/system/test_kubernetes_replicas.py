"""Several pickers of one pool behind one Envoy: each knows its own requests and what the servers say."""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from bench.rig.envoy import Envoy, Listener, Route
from bench.rig.picker import Picker
from tests.system.cluster import Stage, wait_serving
from tests.system.kube_plane import MISSING, ControlPlane, is_possible
from tests.system.paced import Paced
from tests.system.talk import CHAT, Reply, ask, chat, series

if not is_possible():
    pytest.skip(MISSING, allow_module_level=True)
pytestmark = [
    pytest.mark.timeout(900),  # the first run builds the API server
    pytest.mark.default_driver,
]

FAST, SLOW = ("127.0.0.50", "127.0.0.51"), ("127.0.0.52", "127.0.0.53")
REQUESTS, AT_ONCE = 600, 32
"""Twice as many at once as all servers have slots."""


class Rig:
    def __init__(self, servers: dict[str, Paced], pickers: list[Picker], gateway: Envoy) -> None:
        self.servers = servers
        self.pickers = pickers
        self.gateway = gateway

    def asks(self, number: int) -> Reply:
        """A request of its own prompt, so that no prefix keeps them together."""
        return ask(self.gateway.url("gateway"), CHAT, chat(f"{number} " * 40))


@pytest.fixture(scope="module")
def rig(plane: ControlPlane, logs: Path) -> Iterator[Rig]:
    with ExitStack() as parts:
        stage = Stage(plane, logs, "replicas", parts)
        servers = {
            host: parts.enter_context(Paced(host, port=stage.port, slots=4, seconds=seconds))
            for hosts, seconds in ((FAST, 0.06), (SLOW, 0.24))
            for host in hosts
        }
        names = {host: f"pod-{host[-2:]}" for host in servers}
        stage.apply(stage.pool(), *(stage.pod(name, host) for host, name in names.items()))
        pickers = [parts.enter_context(stage.picker(replica=number)) for number in range(3)]
        for picker in pickers:
            wait_serving(picker, *(f"{name}-rank-0" for name in names.values()))
        gateway = Envoy(
            logs=logs,
            name="envoy-replicas",
            servers=[server.address for server in servers.values()],
            picker=[picker.address for picker in pickers],
            picker_tls=False,
            listeners={"gateway": Listener(route=Route.ORIGINAL_DST)},
        )
        yield Rig(servers, pickers, parts.enter_context(gateway))


def test_three_replicas_spread_requests_by_load(rig: Rig) -> None:
    """A server that is four times as fast gets more, twins get the same, and nobody is run down."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        replies = list(pool.map(rig.asks, range(REQUESTS)))
    assert Counter(reply.status for reply in replies) == {200: REQUESTS}
    chosen = [series(picker).count("llm_d_epp_request_total") for picker in rig.pickers]
    assert sum(chosen) == REQUESTS and min(chosen) > REQUESTS / 6, f"all three choose: {chosen}"

    served = Counter(reply.served_by.partition(":")[0] for reply in replies)
    for twins in (FAST, SLOW):
        fewer, more = sorted(served[host] for host in twins)
        assert fewer > 0.7 * more, served
    assert min(served[host] for host in FAST) > 2.5 * max(served[host] for host in SLOW), served
    waited = {host: server.most_waiting for host, server in rig.servers.items()}
    assert max(waited.values()) <= AT_ONCE / 2, f"at random 25 wait, in a herd all: {waited}"
