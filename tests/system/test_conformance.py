"""What the Gateway API Inference Extension's conformance suite asks of a picker, through a real Envoy.

Two pods of three ports each in a real Kubernetes API; who got a request is told by Envoy, and by the pods.
How a subset hint may be written, and what an empty one means, is in test_dialects.py.
"""

import base64
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from google.protobuf.json_format import ParseDict
from google.protobuf.struct_pb2 import Value

from bench.rig.envoy import SUBSET_HINT, Envoy, Listener, Route
from bench.rig.picker import Picker
from bench.rig.process import free_port
from tests.system.cluster import Stage, wait_serving
from tests.system.gate import Gate
from tests.system.kube_plane import MISSING, ControlPlane, is_possible
from tests.system.talk import Reply, ask, error_code

if not is_possible():
    pytest.skip(MISSING, allow_module_level=True)
pytestmark = [
    pytest.mark.timeout(900),  # the first run builds the API server
    pytest.mark.default_driver,
]

SELECTION = "test-epp-endpoint-selection"
SERVED = "x-conformance-test-served-endpoint"
PATH = "/primary-gateway-test"
"""Of no OpenAI API."""
BODY = b'{"model": "conformance-fake-model", "prompt": "Write as if you were a critic: San Francisco"}'
CONFIG = """
apiVersion: inference.networking.x-k8s.io/v1alpha1
kind: EndpointPickerConfig
plugins:
- type: header-based-testing-filter
- type: destination-endpoint-served-verifier
- type: random-picker
schedulingProfiles:
- name: default
  plugins:
  - pluginRef: header-based-testing-filter
  - pluginRef: random-picker
"""
"""As the suite's own picker has it."""
ANY = CONFIG.replace("  - pluginRef: header-based-testing-filter\n", "")
PODS = ("127.0.0.40", "127.0.0.41")
LISTENERS = {
    "original_dst": Listener(route=Route.ORIGINAL_DST),
    "override_host": Listener(route=Route.OVERRIDE_HOST, subset_hint=True),
}


# --- two pods of three ports -------------------------------------------------------------------------


class Rig:
    """A gateway, its picker, and the pods behind them."""

    def __init__(self, gateway: Envoy, picker: Picker, ports: Sequence[int], stage: Stage) -> None:
        self.gateway = gateway
        self.picker = picker
        self.ports = ports
        self.stage = stage

    def addresses(self, *named: str) -> set[str]:
        """Of pods by IP, all their ports; of a port by ``ip:rank``."""
        found = set()
        for name in named:
            ip, _, rank = name.partition(":")
            found |= {f"{ip}:{port}" for port in (self.ports if not rank else [self.ports[int(rank)]])}
        return found

    def header(self, *named: str) -> str:
        """The same as a client names them in a header."""
        return ", ".join(
            ip if not rank else f"{ip}:{self.ports[int(rank)]}"
            for ip, _, rank in (name.partition(":") for name in named)
        )

    def asks(
        self, listener: str, headers: Mapping[str, str | bytes], times: int, body: bytes | None = BODY
    ) -> list[Reply]:
        """As the suite does: so many requests, ten at a time."""
        url = self.gateway.url(listener)
        with ThreadPoolExecutor(10) as pool:
            waiting = [pool.submit(ask, url, PATH, body, headers=headers.items()) for _ in range(times)]
            return [one.result() for one in waiting]


@pytest.fixture(scope="module")
def rig(plane: ControlPlane, logs: Path) -> Iterator[Rig]:
    with rigged(plane, logs, "conformance", CONFIG) as rig:
        yield rig


@contextmanager
def rigged(plane: ControlPlane, logs: Path, name: str, config: str) -> Iterator[Rig]:
    with ExitStack() as parts:
        stage = Stage(plane, logs, name, parts)
        ports = [stage.port, free_port(), free_port()]
        gates = [stage.gate(ip, port) for ip in PODS for port in ports]
        stage.apply(stage.pool(ports=tuple(ports)), *(stage.pod(f"pod-{ip[-2:]}", ip) for ip in PODS))
        picker = parts.enter_context(stage.picker(f"--config-text={config}"))
        wait_serving(picker, *(f"pod-{ip[-2:]}-rank-{rank}" for ip in PODS for rank in range(3)))
        gateway = Envoy(
            logs=logs,
            name=f"envoy-{name}",
            servers=[gate.address for gate in gates],
            picker=picker.address,
            picker_tls=False,
            listeners=LISTENERS,
        )
        yield Rig(parts.enter_context(gateway), picker, ports, stage)


@pytest.mark.parametrize(
    "named",
    [
        pytest.param(["127.0.0.41"], id="ip"),
        pytest.param(["127.0.0.40:1"], id="ip-and-port"),
        pytest.param(["127.0.0.40:2", "127.0.0.41"], id="both"),
        pytest.param(["127.0.0.40", "127.0.0.41"], id="all"),
    ],
)
@pytest.mark.parametrize("listener", LISTENERS)
def test_only_the_endpoints_that_requests_name_serve_them(listener: str, named: list[str], rig: Rig) -> None:
    """On all of their ports or the one that is named, and each has its share."""
    replies = rig.asks(listener, {SELECTION: rig.header(*named)}, 100)
    assert Counter(reply.status for reply in replies) == {200: 100}
    assert {reply.served_by for reply in replies} == rig.addresses(*named)


def test_nobody_serves_where_requests_name_none_that_is_there(rig: Rig) -> None:
    (reply,) = rig.asks("original_dst", {SELECTION: f"127.0.0.40:1,{PODS[0][:-1]}"}, 1)
    assert (reply.status, error_code(reply)) == (429, "ResourceExhausted")


@pytest.mark.parametrize("listener", LISTENERS)
def test_a_get_without_a_body_gets_one_of_the_endpoints(listener: str, rig: Rig) -> None:
    replies = rig.asks(listener, {SELECTION: rig.header("127.0.0.40")}, 40, body=None)
    assert Counter(reply.status for reply in replies) == {200: 40}
    assert {reply.served_by for reply in replies} == rig.addresses("127.0.0.40")


@pytest.mark.parametrize(
    "hint",
    [
        pytest.param(["127.0.0.41"], id="ip"),
        pytest.param(["127.0.0.40:1"], id="ip-and-port"),
        pytest.param(["127.0.0.40:2", "127.0.0.41"], id="both"),
    ],
)
@pytest.mark.parametrize("as_list", [True, False], ids=["list", "comma-string"])
def test_a_subset_by_ip_is_every_port_of_the_pod(hint: list[str], as_list: bool, rig: Rig) -> None:
    told = rig.header(*hint)
    value = ParseDict(told.split(", ") if as_list else told, Value()).SerializeToString()
    everybody = rig.header(*PODS)
    replies = rig.asks("override_host", {SUBSET_HINT: base64.b64encode(value), SELECTION: everybody}, 60)
    assert Counter(reply.status for reply in replies) == {200: 60}
    assert {reply.served_by for reply in replies} == rig.addresses(*hint)


@pytest.mark.parametrize("body", [BODY, None], ids=["POST", "GET"])
def test_the_client_is_told_which_endpoint_served_it(body: bytes | None, rig: Rig) -> None:
    replies = rig.asks("override_host", {SELECTION: rig.header(*PODS)}, 20, body=body)
    assert all(reply.headers[SERVED] == reply.served_by for reply in replies), replies
    assert {reply.headers[SERVED] for reply in replies} <= rig.addresses(*PODS)


def test_the_client_is_told_where_a_gateway_does_not_say_who_served(rig: Rig) -> None:
    (reply,) = rig.asks("original_dst", {SELECTION: rig.header(*PODS)}, 1)
    assert reply.headers[SERVED] == "fail: missing destination endpoint served metadata"


# --- how servers are spoken to -----------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["http", "kubernetes.io/h2c"])
def test_a_pool_is_served_in_the_protocol_that_it_names(
    protocol: str, plane: ControlPlane, logs: Path
) -> None:
    """The picker looks at the servers in HTTP/1.1; what the gateway speaks to them is the pool's affair."""
    is_http2 = protocol != "http"
    with ExitStack() as parts:
        behind = parts.enter_context(Gate())
        behind.open()
        ranks = {f"rank-{rank}": Listener(route=Route.ROUND_ROBIN) for rank in range(3)}
        servers = Envoy(logs=logs, name="envoy-servers", servers=[behind.address], listeners=ranks)
        parts.enter_context(servers)  # takes both protocols on each of its ports

        stage = Stage(plane, logs, f"conformance-{'h2c' if is_http2 else 'http'}", parts)
        pool = stage.pool(ports=tuple(servers.ports.values()))
        pool["spec"]["appProtocol"] = protocol
        stage.apply(pool, stage.pod("pod", "127.0.0.1"))
        picker = parts.enter_context(stage.picker(f"--config-text={ANY}"))
        wait_serving(picker, *(f"pod-{name}" for name in ranks))
        addresses = {f"127.0.0.1:{port}" for port in servers.ports.values()}
        gateway = Envoy(
            logs=logs,
            name="envoy-h2c",
            servers=sorted(addresses),
            picker=picker.address,
            picker_tls=False,
            listeners=LISTENERS,
            http2=is_http2,
        )
        rig = Rig(parts.enter_context(gateway), picker, [], stage)
        for listener in LISTENERS:
            replies = rig.asks(listener, {}, 30)
            assert Counter(reply.status for reply in replies) == {200: 30}
            assert {reply.served_by for reply in replies} == addresses
            assert json.loads(replies[0].body)["choices"]
        spoken = servers.stats("http.rank-")
        connections = {
            name: sum(spoken[f"http.{rank}.downstream_cx_{name}_total"] for rank in ranks)
            for name in ("http1", "http2")
        }
        assert (connections["http2"] > 0) is is_http2, connections


# --- the API goes away -------------------------------------------------------------------------------


def test_no_request_fails_while_the_api_is_restarted(rig: Rig) -> None:
    """And what is new then is served."""
    stage, everywhere = rig.stage, [*PODS, "127.0.0.42"]
    with ThreadPoolExecutor(1) as background:
        restart = background.submit(stage.plane.api.restart, timeout=60)
        replies = []
        while not restart.done():
            replies += rig.asks("original_dst", {SELECTION: rig.header(*everywhere)}, 50)
        restart.result()
    gates = [stage.gate("127.0.0.42", port) for port in rig.ports]
    stage.apply(stage.pod("pod-42", "127.0.0.42"))
    wait_serving(rig.picker, *(f"pod-{ip[-2:]}-rank-{rank}" for ip in everywhere for rank in range(3)))
    replies += rig.asks("original_dst", {SELECTION: rig.header("127.0.0.42")}, 30)
    assert {reply.status for reply in replies} == {200}
    assert {reply.served_by for reply in replies[-30:]} == {gate.address for gate in gates}
