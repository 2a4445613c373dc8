"""ModelRouters of a few words, so that their rules meet; and the requests that could be asked of them."""

import itertools
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

from tests.meaning.request import Request

API = "inference.llmkube.dev/v1alpha1"
MODELS = ("qwen", "qwen-vl", "phi")
PATTERNS = (*MODELS, "qwen*", "ph?", "[a-q]*", "*")
CLASSES = ("pii", "phi", "public")
TEAMS = ("red", "blue")
SERVICES = ("cuda", "metal", "spare")
"""The first and the last are of pods, the second is a Mac's."""

MAC = "192.0.2.20"
_EXTERNAL = {"provider": "openai", "url": "https://api.example.com/v1", "model": "large"}
_CLOUD = {"name": "cloud", "tier": "cloud", "external": _EXTERNAL}


def backends(*, cloud: bool) -> list[dict[str, Any]]:
    own: list[dict[str, Any]] = [
        {"name": name, "inferenceServiceRef": {"name": name}, "capabilities": capabilities}
        for name, capabilities in zip(SERVICES, (["tools", "vision"], ["tools"], []), strict=True)
    ]
    own[0]["displayName"] = "qwen-vl"
    return [*own, *([_CLOUD] if cloud else [])]


@st.composite
def rules(draw: st.DrawFn, number: int, *, cloud: bool) -> dict[str, Any]:
    match: dict[str, Any] = {}
    if models := draw(st.lists(st.sampled_from(PATTERNS), max_size=2, unique=True)):
        match["models"] = models
    if classes := draw(st.lists(st.sampled_from(CLASSES), max_size=2, unique=True)):
        match["dataClassification"] = classes
    if draw(st.integers(0, 3)) == 0:
        match["headers"] = {"X-Team": draw(st.sampled_from(TEAMS))}
    if draw(st.integers(0, 5)) == 0:
        match["taskComplexity"] = draw(st.sampled_from(["simple", "complex"]))
    if draw(st.integers(0, 5)) == 0:
        match["requiredCapabilities"] = draw(st.sampled_from([["vision"], ["tools"], ["vision", "tools"]]))
    names = [*SERVICES, *(["cloud"] if cloud else [])]
    chosen = draw(st.lists(st.sampled_from(names), min_size=1, max_size=2, unique=True))
    rule: dict[str, Any] = {"name": f"rule-{number}", "route": {"backends": chosen}}
    if match:
        rule["match"] = match
    if "cloud" not in chosen:
        rule["failClosed"] = bool(classes) or draw(st.booleans())
    return rule


@st.composite
def routers(draw: st.DrawFn, *, cloud: bool = False) -> dict[str, Any]:
    """A spec that is valid, with what it needs."""
    count = draw(st.integers(1, 4))
    spec: dict[str, Any] = {
        "dataPlane": "Gateway",
        "gatewayRef": {"name": "ai", "namespace": "llm"},
        "backends": backends(cloud=cloud),
        "rules": [draw(rules(number, cloud=cloud)) for number in range(count)],
    }
    if draw(st.booleans()):
        spec["defaultRoute"] = draw(st.sampled_from(SERVICES))
    if draw(st.integers(0, 3)) == 0:
        spec["defaultRouteStrategy"] = "BackendNameMatch"
    if draw(st.booleans()):
        spec["policy"] = {"classification": {"headerKey": "X-Class"}}
    return spec


def requests(spec: dict[str, Any]) -> Iterator[Request]:
    """All that could make a difference."""
    header = "x-class" if "policy" in spec else "x-llmkube-classification"
    models = (*MODELS, "cuda", "spare", "unheard-of")
    for model, cls, team, complexity in itertools.product(
        models, (None, "pii", "PII", "phi", "other"), (None, *TEAMS), (None, "simple", "Complex")
    ):
        said = {header: cls, "x-team": team, "x-llmkube-task-complexity": complexity}
        yield Request(model, {name: value for name, value in said.items() if value is not None})


def objects(spec: dict[str, Any]) -> list[dict[str, Any]]:
    """The router, and all that it names: pods' services, and a Mac's with the slice that its agent keeps."""
    router = {"apiVersion": API, "kind": "ModelRouter", "metadata": _meta("router"), "spec": spec}
    return [router, *itertools.chain.from_iterable(map(_service, SERVICES))]


def _service(name: str) -> list[dict[str, Any]]:
    is_metal = name == "metal"
    hardware = {"accelerator": "metal" if is_metal else "cuda"}
    ready = {"phase": "Ready", "readyReplicas": 1, "desiredReplicas": 1}
    made = [
        {
            "apiVersion": API,
            "kind": "Model",
            "metadata": _meta(name),
            "spec": {"source": "x", "hardware": hardware},
        },
        {
            "apiVersion": API,
            "kind": "InferenceService",
            "metadata": _meta(name),
            "spec": {"modelRef": name, "runtime": "llamacpp"},
            "status": ready,
        },
    ]
    return [*made, *_registration(name)] if is_metal else made


def _registration(name: str) -> list[dict[str, Any]]:
    labels = {"app": name, "llmkube.ai/managed-by": "metal-agent", "llmkube.ai/inference-service": name}
    return [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {**_meta(name), "labels": labels},
            "spec": {"ports": [{"name": "http", "port": 8080, "targetPort": 52001}]},
        },
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                **_meta(name),
                "labels": {**labels, "kubernetes.io/service-name": name},
                "annotations": {"llmkube.ai/agent-heartbeat": "2026-11-21T12:00:00Z"},
            },
            "addressType": "IPv4",
            "endpoints": [{"addresses": [MAC], "conditions": {"ready": True}}],
            "ports": [{"name": "http", "port": 52001}],
        },
    ]


def _meta(name: str) -> dict[str, Any]:
    return {
        "name": name,
        "namespace": "llm",
        "uid": f"uid-{name}",
        "creationTimestamp": "2026-11-01T00:00:00Z",
    }
