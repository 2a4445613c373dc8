"""What the chart renders, in a real Kubernetes API, and what a kubelet starts of it.

Place:   for the tests of the picker's part and of the controller's.
"""

import json
import re
import sys
import urllib.error
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self

import pytest
import yaml

from bench.rig.kube import ADMIN
from bench.rig.llama import LlamaServer
from bench.rig.picker import Picker
from bench.rig.process import Process, http_get
from epp.config import flags
from tests.system import helm
from tests.system.kube_plane import CLUSTER_WIDE, ControlPlane, path_of
from tests.system.talk import channel_to, converse, destination, request_headers

ROOT = helm.ROOT
CRDS = ROOT / "tests" / "crds"
KINDS = [
    *sorted((CRDS / "gateway-api-v1.5.1").glob("*.yaml")),
    *sorted((CRDS / "gie-v1.5.0").glob("*.yaml")),
    *sorted((CRDS / "gie-v1.0.0").glob("*.yaml")),
    *sorted((CRDS / "llm-d-router-v0.10.0").glob("*.yaml")),
    *sorted((CRDS / "envoy-ai-gateway-v1.1.0").glob("*.yaml")),
    *sorted((CRDS / "envoy-gateway-v1.8.1").glob("*.yaml")),
]
PICKER, CONTROLLER = "fleet-epp", "fleet-controller"
ONLY_PARSED = {
    ("networking.istio.io/v1", "DestinationRule"),
    ("networking.gke.io/v1", "GCPBackendPolicy"),
    ("networking.gke.io/v1", "HealthCheckPolicy"),
    ("monitoring.coreos.com/v1", "ServiceMonitor"),
    ("monitoring.googleapis.com/v1", "PodMonitoring"),
}
"""Kinds whose CRDs are not here: Istio's, GKE's, the Prometheus operator's, Google's Prometheus'."""

Document = dict[str, Any]


def group(document: Mapping[str, Any]) -> str:
    return str(document["apiVersion"].rpartition("/")[0])


def kind(document: Mapping[str, Any]) -> tuple[str, str]:
    return document["apiVersion"], document["kind"]


def apply(plane: ControlPlane, documents: list[Document], namespace: str = helm.NAMESPACE) -> None:
    """As ``kubectl apply --server-side``, unknown fields being errors."""
    for document in documents:
        if kind(document) in ONLY_PARSED:
            assert document["metadata"]["name"] and document["spec"]
            continue
        placed = {**document, "metadata": {"namespace": namespace, **document["metadata"]}}
        if document["kind"] in CLUSTER_WIDE:
            placed["metadata"].pop("namespace")
        query = "fieldManager=tests&force=true&fieldValidation=Strict"
        try:
            plane.api.ask("PATCH", f"{path_of(placed)}?{query}", placed, kind="apply-patch+yaml")
        except urllib.error.HTTPError as refusal:
            text = json.loads(refusal.read())["message"]
            pytest.fail(f"{document['kind']} {document['metadata']['name']}: {text}")


def rendered(given: Document) -> list[Document]:
    return helm.documents(helm.template(given))


def of_kind(documents: list[Document], kind: str) -> list[Document]:
    return [one for one in documents if one["kind"] == kind]


def of(documents: list[Document], name: str) -> list[Document]:
    """Those of the picker or of the controller, when both are in one release."""
    return [
        one
        for one in documents
        if one["metadata"].get("labels", {}).get("app.kubernetes.io/name", name) == name
    ]


def deployment(documents: list[Document], name: str = PICKER) -> Document:
    (one,) = of_kind(of(documents, name), "Deployment")
    return one


def picker_container(documents: list[Document]) -> Document:
    (one,) = [
        c for c in deployment(documents)["spec"]["template"]["spec"]["containers"] if c["name"] == "epp"
    ]
    return one


def expanded(arguments: list[str], environment: Mapping[str, str]) -> list[str]:
    """``$(NAME)`` as Kubernetes does it."""
    return [re.sub(r"\$\((\w+)\)", lambda name: environment[name[1]], one) for one in arguments]


def token(plane: ControlPlane, namespace: str, account: str) -> str:
    """What a kubelet would put into the pod; the API server checks it, and what it may."""
    asked = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
    path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token"
    return str(plane.api.ask("POST", path, asked)["status"]["token"])


def kubeconfig(plane: ControlPlane, namespace: str, account: str, folder: Path) -> Path:
    like = yaml.safe_load(plane.kubeconfig("nobody").read_text())
    like["users"][0]["user"]["token"] = token(plane, namespace, account)
    path = folder / "kubeconfig"
    path.write_text(yaml.safe_dump(like))
    return path


def server_pod(namespace: str, server: LlamaServer, app: str = "qwen") -> Document:
    """As a kubelet keeps it, for a server that runs here."""
    host, _ = server.address.rsplit(":", 1)
    started = {"name": "server", "ready": True, "image": "x", "imageID": "x", "restartCount": 0}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": f"{app}-0", "namespace": namespace, "labels": {"app": app}},
        "spec": {"nodeName": "node-0", "containers": [{"name": "server", "image": "x"}]},
        "status": {
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": "True"}],
            "containerStatuses": [{**started, "state": {"running": {}}}],
            "podIP": host,
            "podIPs": [{"ip": host}],
        },
    }


@contextmanager
def there(plane: ControlPlane, documents: list[Document], namespace: str) -> Iterator[None]:
    """They are applied, and gone afterwards."""
    apply(plane, documents, namespace)
    with ExitStack() as parts:
        for document in documents:
            if kind(document) not in ONLY_PARSED:
                placed = {**document, "metadata": {"namespace": namespace, **document["metadata"]}}
                parts.callback(plane.delete, placed)
        yield


# --- what a kubelet starts --------------------------------------------------------------------------


class Pod(Process):
    """The container ``epp`` of a Deployment, as a kubelet would start it, and as tests look at a Picker."""

    def __init__(
        self, plane: ControlPlane, documents: list[Document], namespace: str, folder: Path, name: str
    ) -> None:
        spec = deployment(documents)["spec"]["template"]["spec"]
        container = picker_container(documents)
        fields = {"metadata.namespace": namespace, "metadata.name": name, "status.podIP": "127.0.0.1"}
        environment = {
            one["name"]: one["value"] if "value" in one else fields[one["valueFrom"]["fieldRef"]["fieldPath"]]
            for one in container["env"]
        }
        arguments = expanded(container["args"], environment)
        volumes = {one["name"]: one for one in spec["volumes"]}
        for mount in container["volumeMounts"]:
            below = folder / name / mount["mountPath"].strip("/")
            below.mkdir(parents=True)
            wanted = volumes[mount["name"]]["configMap"]["name"]
            (config,) = [one for one in of_kind(documents, "ConfigMap") if one["metadata"]["name"] == wanted]
            for file, text in config["data"].items():
                (below / file).write_text(text)
            arguments = [one.replace(f"={mount['mountPath']}/", f"={below}/") for one in arguments]
        environment["KUBECONFIG"] = str(
            kubeconfig(plane, namespace, spec["serviceAccountName"], folder / name)
        )
        environment["PYTHONPATH"] = str(ROOT)
        super().__init__(
            name,
            [sys.executable, "-m", "epp", *arguments],  # the image's entry point
            log=folder / f"{name}.log",
            environment=environment,
        )
        taken = flags.parse(arguments, environment)
        self.at(taken.grpc_port)
        self.metrics_url = f"http://127.0.0.1:{taken.metrics_port}"
        self.health_port = taken.grpc_health_port
        self.tls = taken.secure_serving
        self.probes = {
            probe: container[f"{probe}Probe"]["grpc"]["service"] for probe in ("liveness", "readiness")
        }

    health = Picker.health

    def at(self, port: int) -> Self:
        """To be asked there: each pool has a port."""
        self.grpc_port, self.address = port, f"127.0.0.1:{port}"
        return self

    def probe(self, name: str) -> bool:
        """As the kubelet does."""
        return self.health(self.probes[name]) == "SERVING"

    def is_ready(self) -> bool:
        return self.probe("readiness")


def shown(pod: Pod, path: str, bearer: str = ADMIN) -> tuple[int, bytes]:
    return http_get(f"{pod.metrics_url}{path}", headers={"authorization": f"Bearer {bearer}"})


def serves(pod: Pod) -> set[str]:
    listed = json.loads(shown(pod, "/debug/endpoints")[1])["endpoints"]
    return {one["name"] for one in listed if one["phase"] in {"warming", "ready"}}


def picked(pod: Pod, port: int = 0) -> str:
    with channel_to(pod.at(port or pod.grpc_port)) as channel:
        return destination(next(converse(channel, [request_headers(ended=True)])))
