"""Several pools of one process, each on the port that its endpointPickerRef gives, behind one Envoy."""

import contextlib
import math
import os
import signal
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest

from bench.rig.envoy import Envoy
from bench.rig.picker import Picker
from bench.rig.process import RigError, free_port, wait_until
from tests.system.cluster import NAMESPACE, STRANGER, Stage, rbac, said
from tests.system.gate import Gate
from tests.system.kube_plane import MISSING, ControlPlane, is_possible
from tests.system.pools_gateway import MODEL, pools_gateway
from tests.system.talk import (
    CHAT,
    Reply,
    ask,
    chat,
    converse,
    destination,
    footprint,
    page,
    request_headers,
    series,
    wait_at_rest,
    wait_footprint,
)

if not is_possible():
    pytest.skip(MISSING, allow_module_level=True)
pytestmark = [
    pytest.mark.timeout(900),  # the first run builds the API server
    pytest.mark.default_driver,
]

SERVICE = "picker-of-all"
WEIGHTS = {"qwen": 70, "phi": 30}
PODS = {"qwen": "127.0.0.60", "phi": "127.0.0.61"}


# --- two pools ---------------------------------------------------------------------------------------


class Rig:
    """A process that serves whatever pool names its Service, and a gateway with two of them."""

    def __init__(self, stage: Stage, parts: ExitStack) -> None:
        self.stage = stage
        self.ports = {name: free_port() for name in (*WEIGHTS, "later")}
        self.gates = {name: stage.gate(ip) for name, ip in PODS.items()}
        stage.apply(self.service())
        for name, ip in PODS.items():
            stage.apply(self.pool(name), stage.pod(name, ip, app=name))
        flags = f"--pool-service={NAMESPACE}/{SERVICE}"
        self.picker: Picker = parts.enter_context(stage.picker(flags, by_name=False))

    def service(self) -> dict[str, Any]:
        ports = [{"name": name, "port": port} for name, port in self.ports.items()]
        meta = {"name": SERVICE, "namespace": NAMESPACE}
        return {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": {"ports": ports}}

    def pool(self, name: str, *, port: int = 0, app: str = "") -> dict[str, Any]:
        pool = self.stage.pool(app=app or name)
        pool["metadata"]["name"] = name
        reference = {"name": SERVICE, "port": {"number": port or self.ports.get(name, 9002)}}
        pool["spec"]["endpointPickerRef"] = reference
        return pool

    def address(self, name: str) -> str:
        return f"127.0.0.1:{self.ports[name]}"

    def picked(self, port: int) -> str:
        """Where a request on ``port`` is sent; empty: nowhere, or nobody listens there."""
        options = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
            try:
                answer = next(converse(channel, [request_headers(ended=True)]))
            except grpc.RpcError as failure:
                if failure.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
                return ""
            return "" if answer.HasField("immediate_response") else destination(answer)

    def is_served(self, name: str) -> bool:
        return self.picker.health(f"{NAMESPACE}/{name}") == "SERVING"


@pytest.fixture(scope="module")
def rig(plane: ControlPlane, logs: Path) -> Iterator[Rig]:
    with ExitStack() as parts:
        rig = Rig(Stage(plane, logs, "pools", parts), parts)
        for name, gate in rig.gates.items():
            wait_until(lambda n=name, g=gate: rig.picked(rig.ports[n]) == g.address, what=f"{name} served")
        yield rig
        assert "Traceback" not in rig.picker.log.read_text()


@pytest.fixture(scope="module")
def gateway(rig: Rig, logs: Path) -> Iterator[Envoy]:
    with pools_gateway(logs, {name: rig.address(name) for name in WEIGHTS}, WEIGHTS) as gateway:
        yield gateway


def asks(gateway: Envoy, listener: str, times: int, model: str = "") -> list[Reply]:
    headers = [(MODEL, model)] if model else []
    with ThreadPoolExecutor(10) as pool:
        waiting = [
            pool.submit(ask, gateway.url(listener), CHAT, chat(), headers=headers) for _ in range(times)
        ]
        return [one.result() for one in waiting]


def test_two_pools_share_requests_by_their_weights(rig: Rig, gateway: Envoy) -> None:
    """Within what the conformance suite allows."""
    times, share = 200, WEIGHTS["qwen"] / 100
    replies = asks(gateway, "weighted", times)
    assert Counter(reply.status for reply in replies) == {200: times}
    by_server = Counter(reply.served_by for reply in replies)
    assert set(by_server) == {gate.address for gate in rig.gates.values()}
    tolerance = max(0.10, 4.5 * math.sqrt(share * (1 - share) / times))
    assert abs(by_server[rig.gates["qwen"].address] / times - share) <= tolerance, by_server


def test_the_route_says_which_pool_and_an_unknown_model_is_404(rig: Rig, gateway: Envoy) -> None:
    def asked() -> float:
        return series(rig.picker).count("llm_d_epp_request_total")

    for name, gate in rig.gates.items():
        before = asked()
        assert {reply.served_by for reply in asks(gateway, "by_model", 5, name)} == {gate.address}
        wait_until(lambda before=before: asked() == before + 5, what=f"five requests for {name}")
    before = asked()
    assert [reply.status for reply in asks(gateway, "by_model", 5, "no-such-model")] == [404] * 5
    assert [reply.status for reply in asks(gateway, "by_model", 5)] == [404] * 5
    assert asked() == before, "no picker hears of it"


def test_requests_are_counted_by_pool(rig: Rig) -> None:
    for name in WEIGHTS:
        assert series(rig.picker).get("llm_d_epp_ready_endpoints", name=name) == 1
        assert series(rig.picker).get("fleet_epp_kubernetes_findings", name=name) == 0


# --- they come and go --------------------------------------------------------------------------------


def test_a_pool_comes_moves_and_goes_and_nobody_else_notices(rig: Rig, gateway: Envoy) -> None:
    stage, picker, port, moved = rig.stage, rig.picker, rig.ports["later"], free_port()
    wait_at_rest(picker)
    before, pid = footprint(picker), picker.pid
    later = stage.gate("127.0.0.62")
    replies = []

    def wait_for(condition: Any, what: str) -> None:
        def is_so() -> bool:
            replies.extend(asks(gateway, "weighted", 10))
            return bool(condition())

        wait_until(is_so, what=what)

    assert rig.picked(port) == ""
    stage.apply(rig.pool("later"), stage.pod("later", "127.0.0.62", app="later"))
    wait_for(lambda: rig.picked(port) == later.address, "a pool that has come")
    assert rig.is_served("later")
    stage.apply(rig.pool("later", port=moved))
    wait_for(lambda: rig.picked(moved) == later.address, "a pool on another port")
    wait_for(lambda: rig.picked(port) == "", "the port before it free")
    stage.delete(rig.pool("later"))
    wait_for(lambda: rig.picked(moved) == "", "a pool that has gone")
    assert {reply.status for reply in replies} == {200}
    assert picker.pid == pid
    names = {one["name"] for one in page(picker, "/debug/endpoints")["endpoints"]}
    assert names == {"qwen-rank-0", "phi-rank-0"}
    assert series(picker).get("llm_d_epp_ready_endpoints", name="later") is None
    assert said(picker, "pool not as it should be") == 0, "nobody misses it"
    wait_at_rest(picker)
    wait_footprint(picker, before)


def test_each_port_is_ready_on_its_own(rig: Rig) -> None:
    """One pool is in a namespace whose pods we may not see at first; the other does not wait for it."""
    stage, near, far = rig.stage, free_port(), free_port()
    there = {"namespace": "elsewhere"}
    gate = stage.gate("127.0.0.63")
    objects = [rig.pool("far"), stage.pod("far", "127.0.0.63", app="far")]
    rights = [one for one in rbac() if one["kind"] in {"Role", "RoleBinding"}]
    for one in (*objects, *rights):
        one["metadata"] |= there
    stage.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "elsewhere"}}, *objects)
    flags = ("--health-checking", f"--pool={NAMESPACE}/qwen={near}", f"--pool=elsewhere/far={far}")
    with stage.picker(*flags, by_name=False, replica=1) as picker:
        wait_until(lambda: rig.picked(near) == rig.gates["qwen"].address, what="the pool that may be seen")
        assert picker.health(f"{NAMESPACE}/qwen") == picker.health(port=near) == "SERVING"
        assert picker.health("elsewhere/far") == picker.health(port=far) == "NOT_SERVING"
        wait_until(lambda: "cannot list resource" in str(page(picker, "/readyz")["details"]), what="why")
        assert rig.picked(far) == "", "nobody is there to be picked"

        stage.apply(*rights)
        os.kill(picker.pid, signal.SIGHUP)  # else it looks again within 30 s
        wait_until(lambda: rig.picked(far) == gate.address, what="the other pool")
        assert picker.health("elsewhere/far") == picker.health(port=far) == "SERVING"
        names = {"elsewhere/far", f"{NAMESPACE}/qwen"}
        assert all(series(picker).get("llm_d_epp_ready_endpoints", name=name) == 1 for name in names)


# --- what they share ---------------------------------------------------------------------------------


def looks(gate: Gate) -> int:
    return sum(b"/metrics" in head.partition(b"\r\n")[0] for head in gate.heads)


def test_a_pod_of_two_pools_is_looked_at_once(rig: Rig) -> None:
    stage, shared, alone = rig.stage, rig.gates["qwen"], rig.gates["phi"]
    stage.apply(rig.pool("later", app="qwen"))
    wait_until(lambda: rig.picked(rig.ports["later"]) == shared.address, what="a pod of two pools")
    at_shared, at_alone = looks(shared), looks(alone)

    def looked_at_often() -> bool:
        for port in rig.ports.values():
            rig.picked(port)  # whoever is busy is looked at every 50 ms
        return looks(alone) >= at_alone + 30

    wait_until(looked_at_often, what="thirty looks at another pod")
    assert looks(shared) - at_shared < 1.5 * (looks(alone) - at_alone)
    endpoints = page(rig.picker, "/debug/endpoints")["endpoints"]
    assert [one["address"] for one in endpoints].count(shared.address) == 1
    stage.delete(rig.pool("later"))
    wait_until(lambda: rig.picked(rig.ports["later"]) == "", what="the other pool gone")
    assert rig.picked(rig.ports["qwen"]) == shared.address


def test_two_pools_on_one_port_are_told_and_the_first_keeps_it(rig: Rig) -> None:
    stage, picker = rig.stage, rig.picker
    clash = rig.pool("later", port=rig.ports["qwen"])
    text = f"InferencePool {NAMESPACE}/later: its picker is to listen on port {rig.ports['qwen']}"
    stage.apply(clash)
    wait_until(lambda: series(picker).get("fleet_epp_pool_findings") == 1, what="the finding")
    assert text in page(picker, "/readyz")["details"]["pools"]
    assert said(picker, text) == 1
    assert rig.picked(rig.ports["qwen"]) == rig.gates["qwen"].address
    stage.delete(clash)
    wait_until(lambda: series(picker).get("fleet_epp_pool_findings") == 0, what="nothing to find")
    assert said(picker, text) == 2, "that it is so, and that it is settled"


# --- one of them by name -----------------------------------------------------------------------------


def test_a_pool_by_name_is_on_its_flags_port_whatever_it_says(rig: Rig) -> None:
    """And the others are where they say."""
    stage, gate = rig.stage, rig.gates["phi"]
    by_service = f"--pool-service={NAMESPACE}/{SERVICE}-too"
    picker = stage.picker(f"--pool-name={NAMESPACE}-own", by_service, replica=2)
    named = {name: rig.pool(name, app="phi") for name in (f"{NAMESPACE}-own", "beside")}
    ports = {f"{NAMESPACE}-own": picker.grpc_port, "beside": free_port()}
    for name, pool in named.items():
        reference = {"name": f"{SERVICE}-too", "port": {"number": ports[name]}}
        pool["spec"]["endpointPickerRef"] = reference
    service = rig.service()
    service["metadata"]["name"] = f"{SERVICE}-too"
    stage.apply(service, *named.values())
    with picker:
        for port in ports.values():
            wait_until(lambda port=port: rig.picked(port) == gate.address, what=f"a pool on {port}")
        assert series(picker).get("fleet_epp_pool_findings") == 0
        assert "pools" not in page(picker, "/readyz").get("details", {})
    for pool in named.values():
        stage.delete(pool)


def test_a_port_that_another_process_has_stops_the_start_with_one_line(rig: Rig) -> None:
    picker = rig.stage.picker(f"--pool-service={NAMESPACE}/{SERVICE}", by_name=False, replica=3)
    with pytest.raises(RigError, match="ended with status 1"):
        picker.start()
    lines = picker.log.read_text().splitlines()
    (line,) = [one for one in lines if '"epp.config"' not in one]  # that --grpc-port is for nobody
    assert "cannot be bound (Address already in use): stop what uses it or choose another" in line


def test_whoever_may_not_see_pools_says_so_and_not_that_they_are_missing(rig: Rig) -> None:
    flags = (f"--pool-service={NAMESPACE}/{SERVICE}", f"--pool={NAMESPACE}/later")
    picker = rig.stage.picker(*flags, by_name=False, replica=4, token=STRANGER).launch()
    wait_until(lambda: "cannot list resource" in str(page_of_pools(picker)), what="the refusal")
    assert 'cannot list resource "inferencepools" in API group' in page_of_pools(picker)
    assert "is not there" not in page_of_pools(picker)
    assert picker.health() == "NOT_SERVING"
    assert said(picker, "cannot list resource") == 1


def page_of_pools(picker: Picker) -> str:
    with contextlib.suppress(OSError):  # not there yet
        return str(page(picker, "/readyz").get("details", {}).get("pools", ""))
    return ""
