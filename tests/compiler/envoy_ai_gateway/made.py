"""What the target makes of routers, to look at in tests."""

from dataclasses import dataclass
from typing import Any

from epp.compiler.documents import Document, Documents
from epp.compiler.findings import Finding, Severity
from epp.compiler.intent import Backend, Host, Intent, Pool, Router, Upstream
from epp.compiler.options import Options, Target
from epp.compiler.targets.envoy_ai_gateway import emit
from tests.compiler.envoy_ai_gateway.crds import complaints
from tests.compiler.makers import origin

OLD, NEW = Target.ENVOY_AI_GATEWAY_0_7, Target.ENVOY_AI_GATEWAY_1_1


@dataclass(frozen=True)
class Made:
    documents: list[dict[str, Any]]
    findings: tuple[Finding, ...]

    def all(self, kind: str) -> list[dict[str, Any]]:
        return [one for one in self.documents if one["kind"] == kind]

    def one(self, kind: str, name: str = "") -> Any:
        """The spec of the only one whose name begins so."""
        (found,) = [one for one in self.all(kind) if one["metadata"]["name"].startswith(name)]
        return found["spec"]

    @property
    def rules(self) -> list[dict[str, Any]]:
        return [rule for route in self.all("AIGatewayRoute") for rule in route["spec"]["rules"]]

    def codes(self, severity: Severity | None = None) -> list[str]:
        return [one.code for one in self.findings if severity in {None, one.severity}]

    def told(self, code: str) -> Finding:
        (found,) = [one for one in self.findings if one.code == code]
        return found


def made(*routers: Router, target: Target = NEW, around: tuple[Document, ...] = ()) -> Made:
    """All of it as an API server would take it."""
    found = emit(Intent(routers), Documents(around), Options(target))
    documents = [one.document for one in found.objects]
    for one in documents:
        assert complaints(one, target) == [], one
    return Made(documents, found.findings)


def provider(name: str, *, down: str = "", **more: Any) -> Backend:
    """A server that is asked without a picker."""
    at, about = origin(name), {key: more.pop(key) for key in ("model", "weight", "timeout") if key in more}
    path = more.pop("health_path", "")
    upstream = Upstream(more.pop("host", f"{name}.example.com"), more.pop("port", 80), at, **more)
    return Backend(name, upstream, at, down=down, health_path=path, **about)


def machines(name: str, *addresses: str, port: int = 8080, **more: Any) -> Backend:
    """Servers outside the cluster, whose slice is ours."""
    hosts = tuple(Host(f"{name}-{at}", one, port) for at, one in enumerate(addresses, 1))
    return Backend(name, Pool(name, "llm", origin(name), hosts=hosts), origin(name), **more)


def document(
    kind: str, name: str, *, namespace: str = "edge", labels: Any = None, **content: Any
) -> Document:
    """Of somebody else."""
    groups = {
        "Gateway": "gateway.networking.k8s.io/v1",
        "GatewayClass": "gateway.networking.k8s.io/v1",
        "ReferenceGrant": "gateway.networking.k8s.io/v1beta1",
        "ConfigMap": "v1",
        "EndpointSlice": "discovery.k8s.io/v1",
        "InferencePool": "inference.networking.k8s.io/v1",
    }
    meta = {"name": name, "namespace": namespace, "labels": labels or {}, **content.pop("metadata", {})}
    if kind == "GatewayClass":
        meta["namespace"] = ""
    return Document(
        {
            "apiVersion": groups.get(kind, "gateway.envoyproxy.io/v1alpha1"),
            "kind": kind,
            "metadata": meta,
            **content,
        }
    )
