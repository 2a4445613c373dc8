"""ModelRouters of a few words, so that their rules meet; and the requests that could be asked of them."""

import itertools
from collections.abc import Iterator, Sequence
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

MAC, CLOUD = "192.0.2.20", "192.0.2.99"


def _cloud(*, plain: bool) -> dict[str, Any]:
    """``plain``: asked without TLS, for a model by the name that clients use."""
    url = f"http://{CLOUD}/v1" if plain else "https://api.example.com/v1"
    external = {"provider": "openai", "url": url, "model": "phi" if plain else "large"}
    return {"name": "cloud", "tier": "cloud", "external": external}


def backends(*, cloud: bool, plain: bool = False) -> list[dict[str, Any]]:
    own: list[dict[str, Any]] = [
        {"name": name, "inferenceServiceRef": {"name": name}, "capabilities": capabilities}
        for name, capabilities in zip(SERVICES, (["tools", "vision"], ["tools"], []), strict=True)
    ]
    own[0]["displayName"] = "qwen-vl"
    return [*own, *([_cloud(plain=plain)] if cloud else [])]


@st.composite
def rules(draw: st.DrawFn, *, names: Sequence[str], sensitive: Sequence[str], plain: bool) -> dict[str, Any]:
    """One without its name. ``names``: of backends. ``plain``: with one of them."""
    chosen = draw(st.lists(st.sampled_from(names), min_size=1, max_size=1 if plain else 2, unique=True))
    match = draw(matches())
    if "cloud" in chosen and plain:
        match["models"] = ["phi"]
    if "cloud" in chosen and draw(st.integers(0, 19)):  # else it is refused
        allowed = [one for one in match.pop("dataClassification", ()) if one not in sensitive]
        match |= {"dataClassification": allowed} if allowed else {}
    rule: dict[str, Any] = {"route": {"backends": chosen}}
    if match:
        rule["match"] = match
    is_for_sensitive = set(match.get("dataClassification", ())) & set(sensitive)
    rule["failClosed"] = bool(is_for_sensitive) or draw(st.booleans())
    return rule


@st.composite
def matches(draw: st.DrawFn) -> dict[str, Any]:
    match: dict[str, Any] = {}
    if models := draw(st.lists(st.sampled_from(PATTERNS), max_size=2, unique=True)):
        match["models"] = models
    if classes := draw(st.lists(st.sampled_from(CLASSES), max_size=2, unique=True)):
        match["dataClassification"] = classes
    headers = {}
    if draw(st.integers(0, 3)) == 0:
        headers["X-Team"] = draw(st.sampled_from(TEAMS))
    if draw(st.integers(0, 7)) == 0:
        headers["X-LLMKube-Classification"] = draw(st.sampled_from(CLASSES))
    if headers:
        match["headers"] = headers
    if draw(st.integers(0, 5)) == 0:
        match["taskComplexity"] = draw(st.sampled_from(["simple", "complex"]))
    if draw(st.integers(0, 5)) == 0:
        match["requiredCapabilities"] = draw(st.sampled_from([["vision"], ["tools"], ["vision", "tools"]]))
    return match


@st.composite
def routers(draw: st.DrawFn, *, cloud: bool = False, plain: bool = False) -> dict[str, Any]:
    """A spec that is valid, with what it needs. ``plain``: for a gateway that has no fallback, no TLS to a
    provider and no other name for a model."""
    count = draw(st.integers(1, 4))
    names = draw(st.sampled_from([(*SERVICES, "cloud"), ("cloud",)])) if cloud else SERVICES
    classification: dict[str, Any] = {}
    if draw(st.booleans()):
        classification["headerKey"] = "X-Class"
    if draw(st.integers(0, 3)) == 0:
        classification["sensitiveClassifications"] = draw(st.sampled_from([["public"], ["phi", "public"]]))
    sensitive = classification.get("sensitiveClassifications", ("pii", "phi"))
    some = rules(names=names, sensitive=sensitive, plain=plain)
    spec: dict[str, Any] = {
        "dataPlane": "Gateway",
        "gatewayRef": {"name": "ai", "namespace": "llm"},
        "backends": backends(cloud=cloud, plain=plain),
        "rules": [{**draw(some), "name": f"rule-{number}"} for number in range(count)],
    }
    if draw(st.booleans()):
        spec["defaultRoute"] = draw(st.sampled_from(SERVICES if plain else names))
    if draw(st.integers(0, 3)) == 0 and not (cloud and plain):
        spec["defaultRouteStrategy"] = "BackendNameMatch"
    if classification:
        spec["policy"] = {"classification": classification}
    return spec


def requests(spec: dict[str, Any], *, names_none: bool = True) -> Iterator[Request]:
    """All that could make a difference.

    ``names_none``: the gateway has a header for the model even where there is none. For others LLMKube's
    pattern ``*``, which fits no model too, has another meaning, which is told (NamelessRequestsGoOn).
    """
    classification = spec.get("policy", {}).get("classification", {})
    header = classification.get("headerKey", "X-LLMKube-Classification").lower()
    models = (*MODELS, "cuda", "spare", "unheard-of")
    if names_none or not any("*" in one.get("match", {}).get("models", ()) for one in spec["rules"]):
        models = ("", *models)
    for model, cls, team, complexity in itertools.product(
        models, (None, "pii", "PII", "phi", "public", "other"), (None, *TEAMS), (None, "simple", "Complex")
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
