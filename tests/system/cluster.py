"""A cluster for tests: objects of one test in a real Kubernetes API, pickers that follow them, what they say.

No controller runs there: the tests write what kubelet, LLMKube and its metal agent would. The servers are
real llama.cpp servers, or gates where what counts is who got a request: pods have addresses of 127.0.0.0/8,
machines outside the cluster this machine's own, because the API takes no loopback address in a slice.
"""

import datetime as dt
import socket
import threading
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import pytest
import yaml

from bench.rig.llama import LlamaServer
from bench.rig.picker import Picker
from bench.rig.process import free_port, wait_until
from tests.system.gate import Gate
from tests.system.kube_plane import CLUSTER_WIDE, ControlPlane, path_of
from tests.system.talk import channel_to, converse, destination, endpoints, page, request_headers

ROOT = Path(__file__).parents[2]
CRDS = ROOT / "tests" / "crds"
OLD_GROUP = "inference.networking.x-k8s.io"
ASKING = ("objectives", "modelrewrites")
RBAC = ROOT / "deploy" / "kubernetes" / "rbac.yaml"
POOLS = CRDS / "gie-v1.5.0" / "inference.networking.k8s.io_inferencepools.yaml"
OLD_POOLS = CRDS / "gie-v1.0.0" / "inference.networking.x-k8s.io_inferencepools.yaml"
OLD_KINDS = [CRDS / "gie-v1.5.0" / f"{OLD_GROUP}_inference{kind}.yaml" for kind in ASKING]
NEW_KINDS = [CRDS / "llm-d-router-v0.10.0" / f"llm-d.ai_inference{kind}.yaml" for kind in ASKING]
LLMKUBE = sorted((CRDS / "llmkube-v0.9.19").glob("*.yaml"))
NAMESPACE = "models"
TOKEN, STRANGER, LISTER = "picker-token", "stranger-token", "lister-token"
USERS = {
    TOKEN: f"system:serviceaccount:{NAMESPACE}:fleet-epp",
    STRANGER: f"system:serviceaccount:{NAMESPACE}:stranger",
    LISTER: f"system:serviceaccount:{NAMESPACE}:lister",
}


def own_address() -> str:
    """One that a slice may name."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])


OUTSIDE = own_address()
needs_address = pytest.mark.skipif(
    OUTSIDE.startswith("127."),
    reason="this machine has no address but loopback: EndpointSlices stay untested",
)


# --- objects ---------------------------------------------------------------------------------------------

PICKER = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "fleet-epp", "namespace": NAMESPACE},
    "spec": {"ports": [{"name": "grpc", "port": 9002}]},
}


def rbac() -> list[dict[str, Any]]:
    """As deploy/ has it, in the namespace that ``kubectl --namespace`` would say."""
    documents = list(yaml.safe_load_all(RBAC.read_text()))
    for document in documents:
        if document["kind"] not in CLUSTER_WIDE:
            document["metadata"]["namespace"] = NAMESPACE
        for subject in document.get("subjects", ()):
            subject["namespace"] = NAMESPACE
    return documents


def furnish(plane: ControlPlane) -> None:
    """What every test expects to be there."""
    plane.define(POOLS)
    plane.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}, PICKER)
    plane.apply(*rbac())


class Stage:
    """Objects of one test, gone after it, and pickers that follow them."""

    def __init__(self, plane: ControlPlane, logs: Path, name: str, parts: ExitStack) -> None:
        self.plane = plane
        self.name = name
        self.port = free_port()
        """Of every pod."""
        self._logs = logs
        self._parts = parts
        self._objects: dict[str, Mapping[str, Any]] = {}
        parts.callback(self._clear)

    def apply(self, *documents: Mapping[str, Any]) -> None:
        self.plane.apply(*documents)
        self._objects.update((path_of(one), one) for one in documents)

    def delete(self, document: Mapping[str, Any], *, grace: int = 0) -> None:
        self.plane.delete(document, grace=grace)
        if not grace:
            self._objects.pop(path_of(document), None)

    def _clear(self) -> None:
        for document in self._objects.values():
            self.plane.delete(document)

    # --- parts

    def picker(
        self,
        *flags: str,
        token: str = TOKEN,
        beside: Mapping[str, str] | None = None,
        by_name: bool = True,
        replica: int = 0,
        **environment: str,
    ) -> Picker:
        """One that follows the pool; ``beside``: servers of an endpoints file as well. Not started."""
        given = ["--pool-namespace", NAMESPACE]
        given += ["--pool-name", self.name, "--kubernetes"] if by_name else []
        # whoever asks for a page here has no token; and no test waits for gateways to hear of an end
        given += ["--metrics-endpoint-auth=false", "--drain-timeout=0s", *flags]
        picker = Picker(
            logs=self._logs,
            name=f"picker-{self.name}-{token}-{replica}",
            endpoints=beside,
            config=None,
            flags=given,
            tls=False,
            environment={"KUBECONFIG": str(self.plane.kubeconfig(token)), **environment},
        )
        self._parts.callback(picker.stop)
        return picker

    def server(self, host: str, port: int = 0) -> LlamaServer:
        """A real one, ready. Port 0: that of every pod."""
        name = f"llama-{self.name}-{host}-{port}"
        server = LlamaServer(logs=self._logs, name=name, host=host, port=port or self.port)
        self._parts.callback(server.stop)
        return server.start()

    def gate(self, host: str, port: int = 0) -> Gate:
        """A stand-in that answers whatever is posted to it, at once. Port 0: that of every pod."""
        gate = self._parts.enter_context(Gate(host, port=port or self.port))
        gate.open()
        return gate

    # --- objects

    def pool(
        self, *, ports: tuple[int, ...] = (), slices: str | None = None, app: str = ""
    ) -> dict[str, Any]:
        annotations = {} if slices is None else {"fleet-epp.dev/endpoint-slices": slices}
        return {
            "apiVersion": "inference.networking.k8s.io/v1",
            "kind": "InferencePool",
            "metadata": {"name": self.name, "namespace": NAMESPACE, "annotations": annotations},
            "spec": {
                "selector": {"matchLabels": {"app": app or self.name}},
                "targetPorts": [{"number": port} for port in ports or (self.port,)],
                "endpointPickerRef": {"name": "fleet-epp", "port": {"number": 9002}},
            },
        }

    def old_pool(self) -> dict[str, Any]:
        """As clusters had it before v1."""
        return {
            "apiVersion": f"{OLD_GROUP}/v1alpha2",
            "kind": "InferencePool",
            "metadata": {"name": self.name, "namespace": NAMESPACE},
            "spec": {
                "selector": {"app": self.name},
                "targetPortNumber": self.port,
                "extensionRef": {"name": "fleet-epp"},
            },
        }

    def asking(self, kind: str, name: str, group: str, **spec: Any) -> dict[str, Any]:
        """An InferenceObjective or InferenceModelRewrite of the pool."""
        return {
            "apiVersion": f"{group}/v1alpha2",
            "kind": kind,
            "metadata": {"name": name, "namespace": NAMESPACE},
            "spec": {"poolRef": {"name": self.name}, **spec},
        }

    def pod(
        self,
        name: str,
        ip: str | None,
        *,
        ready: bool = True,
        app: str = "",
        active: str | None = None,
        **labels: str,
    ) -> dict[str, Any]:
        """As kubelet keeps it. ``active``: its annotation of ports."""
        condition = {"type": "Ready", "status": "True" if ready else "False"}
        started = {"name": "server", "ready": ready, "image": "x", "imageID": "x", "restartCount": 0}
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": name,
                "namespace": NAMESPACE,
                "labels": {"app": app or self.name, **labels},
                "annotations": {} if active is None else {"llm-d.ai/active-ports": active},
            },
            "spec": {"nodeName": "node-0", "containers": [{"name": "server", "image": "x"}]},
            "status": {
                "phase": "Running" if ip else "Pending",
                "conditions": [condition],
                "containerStatuses": [{**started, "state": {"running": {}}}],
                **({"podIP": ip, "podIPs": [{"ip": ip}]} if ip else {}),
            },
        }

    def metal(
        self, name: str, port: int, *, ready: bool = True, beat: dt.datetime | None = None
    ) -> dict[str, Any]:
        """As LLMKube's metal agent writes it; ``beat``: its last one, now if left out."""
        beat = beat or dt.datetime.now(dt.UTC)
        return {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": name,
                "namespace": NAMESPACE,
                "labels": {
                    "kubernetes.io/service-name": name,
                    "app": name,
                    "llmkube.ai/managed-by": "metal-agent",
                    "llmkube.ai/inference-service": name,
                },
                "annotations": {"llmkube.ai/agent-heartbeat": beat.strftime("%Y-%m-%dT%H:%M:%SZ")},
            },
            "addressType": "IPv4",
            "endpoints": [
                {
                    "addresses": [OUTSIDE],
                    "conditions": {"ready": ready},
                    "targetRef": {"kind": "Pod", "name": f"{name}-metal", "namespace": NAMESPACE},
                }
            ],
            "ports": [{"name": "http", "port": port, "protocol": "TCP"}],
        }


AGENTS = "llmkube.ai/managed-by=metal-agent"


# --- what is seen -----------------------------------------------------------------------------------


def phases(picker: Picker) -> dict[str, str]:
    return {name: one["phase"] for name, one in endpoints(picker).items()}


def is_serving(picker: Picker, *names: str) -> bool:
    return {name for name, phase in phases(picker).items() if phase in {"warming", "ready"}} == set(names)


def wait_serving(picker: Picker, *names: str) -> None:
    """Until exactly these get requests."""
    wait_until(lambda: is_serving(picker, *names), what=f"{names} serve, not {phases(picker)}", timeout=60)


def wait_reason(picker: Picker, name: str, reason: str, phase: str) -> None:
    def is_so() -> bool:
        one = endpoints(picker).get(name)
        return one is not None and reason in one["reason"] and one["phase"] == phase

    wait_until(is_so, what=f"{name} {phase}, {reason}, not {endpoints(picker).get(name)}", timeout=60)


def detail(picker: Picker) -> str:
    return str(page(picker, "/readyz").get("details", {}).get("endpoints", ""))


def picked(picker: Picker, times: int = 20) -> set[str]:
    """Where so many requests are sent."""
    with channel_to(picker) as channel:
        return {destination(next(converse(channel, [request_headers(ended=True)]))) for _ in range(times)}


class Requests:
    """One after the other, as long as the block lasts."""

    def __init__(self, picker: Picker) -> None:
        self.refused: list[str] = []
        self._sent: list[str] = []
        self._picker = picker
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._go_on)

    def _go_on(self) -> None:
        with channel_to(self._picker) as channel:
            while not self._is_over.is_set():
                answer = next(converse(channel, [request_headers(ended=True)]))
                if answer.HasField("immediate_response"):
                    self.refused.append(str(answer.immediate_response))
                else:
                    self._sent.append(destination(answer))

    def wait_for(self, *addresses: str) -> None:
        """Until a hundred more have been sent, to exactly these."""
        before = len(self._sent)
        wait_until(lambda: len(self._sent) >= before + 100, what="a hundred requests")
        assert set(self._sent[before:]) == set(addresses)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._is_over.set()
        self._thread.join()


def said(picker: Picker, text: str) -> int:
    """How many log lines say it."""
    return sum(text in line for line in picker.log.read_text().splitlines())
