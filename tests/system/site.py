"""A namespace with LLMKube's objects in a real Kubernetes API, and controllers that see to it."""

import re
import subprocess
import sys
import urllib.error
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from bench.rig.kube import ADMIN, plural
from bench.rig.process import Process, answers_ok, free_port, http_get, wait_until
from epp.compiler.kinds import KINDS as ALL_KINDS
from epp.compiler.kinds import Role
from epp.controller.fields import unstamped
from epp.runtime.kubernetes.api import Resource
from tests.system.cluster import CRDS, LLMKUBE, NEW_KINDS, POOLS
from tests.system.kube_plane import ControlPlane, path_of

GATEWAY_API = CRDS / "gateway-api-v1.5.1"
ROUTES = GATEWAY_API / "gateway.networking.k8s.io_httproutes.yaml"
KINDS = [
    POOLS,
    *LLMKUBE,
    *NEW_KINDS,
    ROUTES,
    *(
        GATEWAY_API / f"gateway.networking.k8s.io_{kind}.yaml"
        for kind in ("gateways", "referencegrants", "backendtlspolicies")
    ),
]
ROOT = Path(__file__).parents[2]
INVENTORY = "fleet-epp.dev/inventory"
LISTED = (
    "/api/v1/namespaces/{}/services",
    "/apis/discovery.k8s.io/v1/namespaces/{}/endpointslices",
    "/apis/inference.networking.k8s.io/v1/namespaces/{}/inferencepools",
    "/apis/gateway.networking.k8s.io/v1/namespaces/{}/httproutes",
)
Object = dict[str, Any]


class Controller(Process):
    """``epp controller`` of one site. ``killed_after``: so many writes."""

    def __init__(
        self, name: str, flags: Sequence[str], *, logs: Path, kubeconfig: Path, killed_after: int | None
    ) -> None:
        self.port = free_port()
        program = ["epp"] if killed_after is None else ["tests.system.kill_after", str(killed_after)]
        super().__init__(
            f"controller-{name}",
            [sys.executable, "-m", *program, "controller", f"--metrics-port={self.port}", *flags],
            log=logs / f"controller-{name}.log",
            environment={"KUBECONFIG": str(kubeconfig), "PYTHONPATH": str(ROOT)},
        )

    def is_ready(self) -> bool:
        return answers_ok(f"http://127.0.0.1:{self.port}/readyz")

    def page(self, path: str) -> str:
        return http_get(f"http://127.0.0.1:{self.port}{path}")[1].decode()

    def series(self) -> dict[str, float]:
        found = re.findall(r"^(fleet_epp_\S+?(?:\{.*\})?) (\S+)$", self.page("/metrics"), re.MULTILINE)
        return {name: float(value) for name, value in found}

    def writes(self) -> float:
        return sum(value for name, value in self.series().items() if "_writes_total" in name)

    def deletions(self) -> float:
        return sum(value for name, value in self.series().items() if '_writes_total{verb="delete"' in name)

    def has_ended(self) -> bool:
        return not self.is_running

    def says(self, text: str) -> bool:
        return self.log.exists() and text in self.log.read_text()


class Site:
    """``name``: of the namespace, and of the inventory."""

    def __init__(self, plane: ControlPlane, name: str, logs: Path, parts: ExitStack) -> None:
        self.plane, self.name = plane, name
        self._logs, self._parts = logs, parts
        self._count = 0
        plane.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})

    # --- controllers and commands

    def controller(
        self, *flags: str, token: str = ADMIN, killed_after: int | None = None, is_wide: bool = False
    ) -> Controller:
        """Not started."""
        self._count += 1
        given = ["--target=gateway-api", f"--inventory={self.name}", "--gateway=edge/main", *flags]
        given += [] if is_wide else [f"--namespace={self.name}"]
        made = Controller(
            f"{self.name}-{self._count}",
            given,
            logs=self._logs,
            kubeconfig=self.plane.kubeconfig(token),
            killed_after=killed_after,
        )
        self._parts.callback(made.stop)
        return made

    def epp(self, command: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """``epp plan`` or ``apply``, to its end."""
        words = [sys.executable, "-m", "epp", command, f"--inventory={self.name}"]
        return subprocess.run(
            [*words, f"--namespace={self.name}", *arguments],
            env={"KUBECONFIG": str(self.plane.kubeconfig(ADMIN)), "PATH": "", "PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    # --- what people declare

    def model(self, name: str, *, phase: str = "Ready", port: int = 8080) -> list[Object]:
        """A Model and its InferenceService, as LLMKube shows them."""
        ready = {"phase": phase, "readyReplicas": 1, "desiredReplicas": 1}
        return [
            self._llmkube("Model", name, {"source": f"https://models.test/{name}.gguf"}, phase="Ready"),
            self._llmkube("InferenceService", name, {"modelRef": name, "endpoint": {"port": port}}, **ready),
        ]

    def router(self, name: str, *models: str, claimed: bool = True, **more: Any) -> Object:
        """One rule for each model."""
        spec = {
            "dataPlane": "Gateway",
            "gatewayRef": {"name": "main", "namespace": "edge"},
            "backends": [{"name": one, "inferenceServiceRef": {"name": one}} for one in models],
            "rules": [
                {"name": one, "match": {"models": [one]}, "route": {"backends": [one]}} for one in models
            ],
            **more,
        }
        made = self._llmkube("ModelRouter", name, spec)
        if claimed:
            made["metadata"]["annotations"] = {"fleet-epp.dev/claim": "true"}
        return made

    def _llmkube(self, kind: str, name: str, spec: Mapping[str, Any], **status: Any) -> Object:
        made = {
            "apiVersion": "inference.llmkube.dev/v1alpha1",
            "kind": kind,
            "metadata": {"name": name, "namespace": self.name},
            "spec": dict(spec),
        }
        return {**made, "status": status} if status else made

    def apply(self, *documents: Object) -> None:
        self.plane.apply(*documents)

    # --- what is there

    def live(self, *, ours: bool = True) -> dict[tuple[str, str], Object]:
        """Objects by kind and name; of our inventory, or all."""
        query = f"?labelSelector={INVENTORY}%3D{self.name}" if ours else ""
        found = {}
        for path in LISTED:
            listed = self.plane.api.ask("GET", path.format(self.name) + query)
            kind = listed["kind"].removesuffix("List")
            found.update({(kind, one["metadata"]["name"]): one for one in listed["items"]})
        return found

    def names(self) -> set[tuple[str, str]]:
        return set(self.live())

    def versions(self) -> dict[tuple[str, str], str]:
        return {key: one["metadata"]["resourceVersion"] for key, one in self.live().items()}

    def content(self) -> dict[tuple[str, str], Any]:
        """What does not depend on when it was written, nor on which router of that name owns it."""
        return {
            key: (one["spec"], one["metadata"].get("labels"), unstamped(one)["metadata"].get("annotations"))
            for key, one in self.live().items()
            if "spec" in one
        }

    def count(self) -> int:
        """Objects of our inventory, of whatever kind and wherever."""
        found = set()
        for kind in (one for one in ALL_KINDS if one.role is Role.MADE):
            path = Resource(plural(kind.name), kind.group, kind.versions[0]).path("")
            with suppress(urllib.error.HTTPError):  # the kind is not there
                for one in self.plane.api.ask("GET", f"{path}?labelSelector={INVENTORY}%3D{self.name}")[
                    "items"
                ]:
                    found.add((kind.name, one["metadata"]["namespace"], one["metadata"]["name"]))
        return len(found)

    def get(self, document: Object) -> Object:
        found: Object = self.plane.api.ask("GET", path_of(document))
        return found

    def wait(self, *names: tuple[str, str], timeout: float = 20.0) -> None:
        """Until just these are there."""
        wait_until(lambda: self.names() == set(names), what=f"{sorted(names)}", timeout=timeout)


@contextmanager
def site_of(cluster: ControlPlane, logs: Path, test: str) -> Iterator[Site]:
    """One that is called as its test, and all that it has started ended with it."""
    name = re.sub("[^a-z0-9]+", "-", test.lower().removeprefix("test_"))[:40].strip("-")
    with ExitStack() as parts:
        yield Site(cluster, name, logs, parts)


def made_for(router: str, *models: str) -> set[tuple[str, str]]:
    """What a router of these models comes to."""
    return {
        ("Service", "fleet-epp-pools"),
        ("HTTPRoute", router),
        *(("InferencePool", one) for one in models),
    }
