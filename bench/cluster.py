"""A cluster for measurements: a real Kubernetes API with InferencePools and pods, one server behind all pods.

Place:   under bench.pools and bench.pod_events.
Ignores: what is measured.
Rule:    nobody but the bench writes objects: it stands for the controllers and for every kubelet. Pods have
         addresses of 127.0.0.0/8, so that one process answers for all of them.
"""

import http.client
import json
import ssl
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bench.engine import PAGE_BYTES
from bench.rig.kube import ADMIN, NEEDED, ControlPlane, is_possible, path_of
from bench.rig.picker import Picker
from bench.rig.process import Process, answers_ok, free_port
from bench.stations import ROOT

NAMESPACE, PICKER = "models", "fleet-epp"
POOLS = Path(ROOT) / "tests" / "crds" / "gie-v1.5.0" / "inference.networking.k8s.io_inferencepools.yaml"
Json = dict[str, Any]


def missing() -> bool:
    """Whether there is no API to be had, which is said loudly."""
    if is_possible():
        return False
    sys.stderr.write(f"{NEEDED}: nothing is measured of pools and pods\n")
    return True


def pool(name: str, *, target: int, port: int) -> Json:
    """An InferencePool of the pods that have its name as a label; the picker serves it on ``port``."""
    return {
        "apiVersion": "inference.networking.k8s.io/v1",
        "kind": "InferencePool",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "selector": {"matchLabels": {"app": name}},
            "targetPorts": [{"number": target}],
            "endpointPickerRef": {"name": PICKER, "port": {"number": port}},
        },
    }


def pod(name: str, ip: str, *, app: str, ready: bool = True) -> Json:
    """As kubelet keeps it."""
    started = {"name": "server", "ready": ready, "image": "x", "imageID": "x", "restartCount": 0}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": {"app": app}},
        "spec": {"nodeName": "node-0", "containers": [{"name": "server", "image": "x"}]},
        "status": {
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": "True" if ready else "False"}],
            "containerStatuses": [{**started, "state": {"running": {}}}],
            "podIP": ip,
            "podIPs": [{"ip": ip}],
        },
    }


class Engine(Process):
    """One server that answers at once, at every address of 127.0.0.0/8."""

    def __init__(self, logs: Path) -> None:
        self.port = free_port()
        command = [sys.executable, "-m", "bench.engine", "--host", "0.0.0.0", "--port", str(self.port)]
        command += ["--metrics-bytes", str(PAGE_BYTES)]
        super().__init__("engine", command, log=logs / "engine.log", environment={"PYTHONPATH": ROOT})

    def is_ready(self) -> bool:
        return answers_ok(f"http://127.0.0.1:{self.port}/health")


class Cluster:
    """``with Cluster(logs) as cluster``: an API with the kind InferencePool, and an engine for every pod."""

    def __init__(self, logs: Path) -> None:
        self.logs = logs
        self.engine = Engine(logs)
        self.plane = ControlPlane(logs, users={})
        self._parts = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as parts:
            parts.enter_context(self.engine)
            parts.enter_context(self.plane)
            self.plane.define(POOLS)
            service = {"name": PICKER, "namespace": NAMESPACE}
            ports = [{"name": "grpc", "port": 9002}]
            self.plane.apply(
                {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
                {"apiVersion": "v1", "kind": "Service", "metadata": service, "spec": {"ports": ports}},
            )
            self._parts = parts.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._parts.__exit__(kind, error, trace)

    def fill(self, documents: Iterable[Mapping[str, Any]]) -> None:
        """New objects, many of them."""
        fill(self.plane, documents)

    def picker(self, name: str, flags: Sequence[str]) -> Picker:
        """One that follows what ``flags`` say. Not started."""
        environment = {"KUBECONFIG": str(self.plane.kubeconfig(ADMIN, namespace=NAMESPACE))}
        return Picker(
            logs=self.logs,
            name=f"picker-{name}",
            endpoints=None,
            flags=["--metrics-endpoint-auth=false", *flags],
            tls=False,
            environment=environment,
        )


def fill(plane: ControlPlane, documents: Iterable[Mapping[str, Any]]) -> None:
    """New objects, many of them: on one connection, and not one for each call."""
    api = plane.api
    context = ssl.create_default_context(cafile=str(api.ca))
    connection = http.client.HTTPSConnection("127.0.0.1", api.port, context=context, timeout=30)

    def call(method: str, path: str, content: object, kind: str = "json") -> None:
        headers = {"authorization": f"Bearer {ADMIN}", "content-type": f"application/{kind}"}
        connection.request(method, path, json.dumps(content), headers)
        with connection.getresponse() as answer:
            text = answer.read()
        if answer.status >= 300:
            raise OSError(f"{method} {path}: {answer.status}: {text.decode(errors='replace')}")

    try:
        for document in documents:
            path = path_of(document)
            call("POST", path.rpartition("/")[0], document)
            if "status" in document:
                call("PATCH", f"{path}/status", {"status": document["status"]}, "merge-patch+json")
    finally:
        connection.close()
