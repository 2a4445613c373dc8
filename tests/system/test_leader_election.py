"""Several replicas of which one serves: two real pickers, one Lease in a real Kubernetes API.

What waits for a Lease to run out, or for gateways to hear of an end, is played at once (``scenes``).
"""

import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from bench.rig.picker import Picker
from bench.rig.process import wait_until
from epp.core.election import LEASE_SECONDS, RETRY_PERIOD
from tests.system.cluster import NAMESPACE, STRANGER, Stage, picked
from tests.system.kube_plane import ControlPlane
from tests.system.talk import endpoints, page, series

pytestmark = [
    pytest.mark.timeout(900),  # the first run builds the API server
    pytest.mark.default_driver,
]
TAKES_OVER = 2 * RETRY_PERIOD
"""[s] In which a lease that was given back is taken: a try and its answer."""


class Replicas:
    """Two pickers of one pool, neither of them started."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.name = f"epp-{NAMESPACE}-{stage.name}.llm-d.ai"
        """Of the Lease."""
        self.one, self.two = (stage.picker("--ha-enable-leader-election", replica=n) for n in (1, 2))

    def start(self) -> tuple[Picker, Picker]:
        """Both alive; which one leads, and which one follows."""
        for picker in (self.one, self.two):
            picker.launch()
        wait_until(self.is_decided, what="one leader")
        return (self.one, self.two) if serves(self.one) else (self.two, self.one)

    def is_decided(self) -> bool:
        alive = [picker.health("liveness") == "SERVING" for picker in (self.one, self.two)]
        return all(alive) and serves(self.one) is not serves(self.two)

    def lease(self) -> Mapping[str, Any]:
        path = f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases/{self.name}"
        spec: Mapping[str, Any] = self.stage.plane.api.ask("GET", path)["spec"]
        return spec


def serves(picker: Picker) -> bool:
    return picker.health("readiness") == "SERVING"


def leads(picker: Picker) -> float | None:
    return series(picker).get("fleet_epp_leader")


def replicas_of(stage: Stage) -> Replicas:
    stage.server("127.0.0.2")
    stage.apply(stage.pool(), stage.pod(f"{stage.name}-one", "127.0.0.2"))
    return Replicas(stage)


@pytest.fixture
def replicas(stage: Stage) -> Replicas:
    return replicas_of(stage)


def phase_of(picker: Picker) -> str:
    (one,) = endpoints(picker).values()
    return str(one["phase"])


def names_of(picker: Picker, *services: str) -> dict[str, str]:
    return {name: picker.health(name) for name in services}


def test_only_the_leader_is_ready_and_the_other_keeps_its_fleet_warm(replicas: Replicas) -> None:
    leader, follower = replicas.start()
    ready = ("", "readiness", "inference-extension", "envoy.service.ext_proc.v3.ExternalProcessor")
    assert names_of(leader, "liveness", *ready) == dict.fromkeys(("liveness", *ready), "SERVING")
    assert names_of(follower, *ready) == dict.fromkeys(ready, "NOT_SERVING")
    assert names_of(follower, "liveness", "anything") == {
        "liveness": "SERVING",
        "anything": "SERVICE_UNKNOWN",
    }
    wait_until(lambda: phase_of(follower) == "ready", what="the follower looks too")
    assert (leads(leader), leads(follower)) == (1.0, 0.0)
    lease = replicas.lease()
    assert (lease["leaseDurationSeconds"], lease["leaseTransitions"]) == (LEASE_SECONDS, 0)
    why_not = page(follower, "/readyz")["reason"]
    assert why_not == f"not the leader of {NAMESPACE}/{replicas.name}: that is {lease['holderIdentity']}"


@pytest.mark.parametrize(
    "signals", [[signal.SIGINT], [signal.SIGTERM, signal.SIGTERM]], ids=["Ctrl-C", "told twice"]
)
def test_whoever_does_not_want_to_wait_for_gateways_need_not(
    stage: Stage, signals: list[signal.Signals]
) -> None:
    stage.apply(stage.pool())
    picker = stage.picker("--drain-timeout=30s").start()
    first, *more = signals
    os.kill(picker.pid, first)
    for number in more:
        wait_until(lambda: "requests are still taken" in picker.log.read_text(), what="the drain")
        os.kill(picker.pid, number)
    picker.wait(timeout=10)


def test_whoever_may_not_have_the_lease_says_which_right_is_missing(stage: Stage) -> None:
    stage.apply(stage.pool())
    picker = stage.picker("--ha-enable-leader-election", token=STRANGER).launch()
    missing = 'cannot get resource "leases" in API group "coordination.k8s.io" in the namespace "models"'
    wait_until(lambda: missing in leadership(picker), what="the refusal", timeout=30)
    assert not serves(picker)


def leadership(picker: Picker) -> str:
    """What is wrong with it."""
    if picker.health("liveness") != "SERVING":
        return ""
    return str(page(picker, "/readyz").get("details", {}).get("leader election", ""))


# --- what takes its time -----------------------------------------------------------------------------


def hands_over(replicas: Replicas) -> None:
    """Gateways need time to hear of it; the lease does not wait for them."""
    for picker in (replicas.one, replicas.two):
        picker.command.append("--drain-timeout=8s")
    leader, follower = replicas.start()
    began = time.monotonic()
    os.kill(leader.pid, signal.SIGTERM)
    wait_until(lambda: serves(follower), what="the follower leads", timeout=LEASE_SECONDS)
    assert time.monotonic() - began < LEASE_SECONDS / 2
    assert not serves(leader)
    assert picked(leader, 1) == picked(follower, 1), "both still answer"
    assert leader.wait(timeout=20) == 0
    assert time.monotonic() - began > 8
    assert "the lease is given back" in leader.log.read_text()
    assert replicas.lease()["leaseTransitions"] == 1
    follower.kill()  # nobody waits for its gateways


def dies(replicas: Replicas) -> None:
    leader, follower = replicas.start()
    began = time.monotonic()
    leader.kill()
    wait_until(lambda: serves(follower), what="the follower leads", timeout=2 * LEASE_SECONDS)
    assert time.monotonic() - began < LEASE_SECONDS + TAKES_OVER + 1
    assert leads(follower) == 1.0


def sleeps(replicas: Replicas) -> None:
    leader, follower = replicas.start()
    os.kill(leader.pid, signal.SIGSTOP)
    with ExitStack() as later:
        later.callback(os.kill, leader.pid, signal.SIGCONT)
        wait_until(lambda: serves(follower), what="the follower leads", timeout=2 * LEASE_SECONDS)
    wait_until(lambda: leader.health("liveness") == "SERVING", what="the sleeper answers")
    assert not serves(leader) and serves(follower)


Scene: TypeAlias = Callable[[Replicas], None]


@pytest.fixture(scope="module")
def scenes(plane: ControlPlane, logs: Path) -> Iterator[Mapping[Scene, Future[None]]]:
    """How each of them ends."""
    with ThreadPoolExecutor() as together, ExitStack() as parts:
        played = {
            scene: replicas_of(Stage(plane, logs, name, parts))
            for name, scene in (("hands-over", hands_over), ("dies", dies), ("sleeps", sleeps))
        }
        yield {scene: together.submit(scene, replicas) for scene, replicas in played.items()}


def test_a_leader_that_is_told_to_stop_hands_over_at_once_and_serves_on_for_a_while(
    scenes: Mapping[Scene, Future[None]],
) -> None:
    scenes[hands_over].result()


def test_a_leader_that_dies_is_followed_when_its_lease_has_run_out(
    scenes: Mapping[Scene, Future[None]],
) -> None:
    scenes[dies].result()


def test_a_leader_that_was_asleep_wakes_up_as_a_follower(scenes: Mapping[Scene, Future[None]]) -> None:
    scenes[sleeps].result()
