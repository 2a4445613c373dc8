"""LLMKube's objects for tests, in few words, and what is read of them."""

from collections.abc import Mapping
from typing import Any

from epp.compiler.documents import Document, Documents
from epp.compiler.findings import Finding
from epp.compiler.inputs import Reading, llmkube
from epp.compiler.intent import Backend, Pool, Router, Rule, Upstream
from epp.compiler.options import Options, Target

API = "inference.llmkube.dev/v1alpha1"
GATEWAY = {"name": "ai-gateway", "namespace": "edge"}


def document(kind: str, name: str, spec: Any, *, api: str = API, **more: Any) -> Document:
    meta = {"name": name, "namespace": "llm", **more.pop("metadata", {})}
    return Document({"apiVersion": api, "kind": kind, "metadata": meta, "spec": spec, **more})


def model(name: str = "phi", accelerator: str = "cuda") -> Document:
    return document("Model", name, {"hardware": {"accelerator": accelerator}})


def service(name: str, *, of: str = "phi", status: Any = None, metadata: Any = None, **spec: Any) -> Document:
    more = {"status": status} if status is not None else {}
    return document("InferenceService", name, {"modelRef": of, **spec}, metadata=metadata or {}, **more)


def exposed(name: str, **more: Any) -> Document:
    gateway = {"enabled": True, "gatewayRef": GATEWAY, **more.pop("gateway", {})}
    return service(name, endpoint={"gateway": gateway, **more.pop("endpoint", {})}, **more)


def agent(name: str, port: int = 54321, *, ready: bool = True, beat: str = "") -> Document:
    """A metal agent's EndpointSlice."""
    content = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": name,
            "namespace": "llm",
            "labels": {"kubernetes.io/service-name": name, "llmkube.ai/inference-service": name},
            "annotations": {"llmkube.ai/agent-heartbeat": beat},
        },
        "endpoints": [{"addresses": ["192.0.2.20"], "conditions": {"ready": ready}}],
        "ports": [{"name": "http", "port": port}],
    }
    return Document(content)


def router(*, metadata: Any = None, **spec: Any) -> Document:
    """With one rule to one backend, if nothing else is said."""
    usual = {
        "dataPlane": "Gateway",
        "gatewayRef": GATEWAY,
        "backends": [to("cuda")],
        "rules": [rule("cuda")],
    }
    return document("ModelRouter", "qwen", {**usual, **spec}, metadata=metadata or {})


def to(name: str, **more: Any) -> dict[str, Any]:
    """A backend that is an InferenceService."""
    return {"name": name, "inferenceServiceRef": {"name": name}, **more}


def outside(name: str, *, url: str | None = None, provider: str = "openai", **more: Any) -> dict[str, Any]:
    """A backend that is none."""
    external = {
        "provider": provider,
        "model": "big",
        **({"url": url} if url else {}),
        **more.pop("external", {}),
    }
    return {"name": name, "external": external, **more}


def rule(
    *backends: str, name: str = "r", route: Any = None, match: Any = None, **more: Any
) -> dict[str, Any]:
    said = {"name": name, "route": {"backends": list(backends), **(route or {})}, **more}
    return said if match is None else {**said, "match": match}


FLEET = (model(), model("mac", "metal"), service("cuda"), service("metal", of="mac"), agent("metal"))
"""One service in pods, and one on a Mac."""


def read(
    *documents: Document,
    target: Target = Target.ENVOY_AI_GATEWAY_1_1,
    now: float | None = None,
    **options: Any,
) -> Reading:
    return llmkube.read(Documents(documents), Options(target, **options), now=now)


def read_router(document: Document, **options: Any) -> Router:
    """The one router beside the usual fleet, with nothing said about it."""
    reading = read(*FLEET, document, **options)
    assert not reading.findings, reading.findings
    (found,) = reading.routers
    return found


def read_rules(*rules: Mapping[str, Any], **spec: Any) -> tuple[Rule, ...]:
    spec = {"backends": [to("cuda"), to("metal")], **spec}
    return read_router(router(rules=list(rules), **spec)).rules


def read_backend(*documents: Document, backend: Mapping[str, Any] | None = None, **options: Any) -> Backend:
    """The backend of a router's only rule."""
    written = dict(backend or to("cuda"))
    reading = read(*documents, router(backends=[written], rules=[rule(written["name"])]), **options)
    assert not [one for one in reading.findings if one.is_error], reading.findings
    (found,) = reading.routers
    return found.rules[0].backends[0]


def pool_of(backend: Backend) -> Pool:
    assert isinstance(backend.servers, Pool)
    return backend.servers


def upstream_of(backend: Backend) -> Upstream:
    assert isinstance(backend.servers, Upstream)
    return backend.servers


def refused(document: Document, *others: Document, **options: Any) -> Finding:
    """The only error; what has it is no router."""
    reading = read(*FLEET, *others, document, **options)
    assert not [one for one in reading.routers if one.origin.object == document.origin.object]
    (found,) = [one for one in reading.findings if one.is_error]
    assert found.message and found.fix
    return found


def told(document: Document, *others: Document, **options: Any) -> tuple[Router, list[Finding]]:
    """The router, and what is remarked on it."""
    reading = read(*FLEET, *others, document, **options)
    (found,) = reading.routers
    assert reading.findings and not [one for one in reading.findings if one.is_error]
    return found, list(reading.findings)
