"""What it costs to compile a large site: 1,000 InferenceServices and 200 ModelRouters, for every gateway.

    python -m bench.compiling [--services 1000] [--routers 200] [--out DIR] [--into PAGE]

Place:   a part of `make bench`; each compilation is a process of its own, so that its memory is.
Ignores: the Kubernetes API (bench.controller).
Rule:    every service is exposed under its own name, every router has rules of every kind. Seconds are of
         CPU.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bench import part
from bench.goals import COMPILE_BYTES, COMPILE_SECONDS, Bound
from bench.report import Table, kept
from bench.rig.process import RigError
from epp.compiler.compile import compile_documents
from epp.compiler.documents import Document
from epp.compiler.options import Options, Target

SERVICES, ROUTERS = 1_000, 200
API = "inference.llmkube.dev/v1alpha1"
DEADLINE = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Compilation:
    """One of a whole site."""

    target: str
    services: int
    routers: int
    cpu_seconds: float
    peak_bytes: int
    objects: int
    errors: int


# --- a site ----------------------------------------------------------------------------------------


def site(services: int, routers: int) -> Iterator[dict[str, Any]]:
    """As a cluster would have it: each fifth service is a Mac's, routers lead to two of them and a
    provider."""
    for number in range(services):
        yield from _service(number, is_metal=number % 5 == 4)
    for number in range(routers):
        yield _object("ModelRouter", f"router-{number}", spec=_router(number, services))


def _object(kind: str, name: str, *, api: str = API, **content: Any) -> dict[str, Any]:
    meta = {"name": name, "namespace": "llm", "uid": f"{kind}-{name}"}
    meta["creationTimestamp"] = "2026-11-01T00:00:00Z"
    return {"apiVersion": api, "kind": kind, "metadata": meta, **content}


def _service(number: int, *, is_metal: bool) -> Iterator[dict[str, Any]]:
    name = f"model-{number}"
    accelerator = "metal" if is_metal else "cuda"
    yield _object("Model", name, spec={"source": "hf://a/b", "hardware": {"accelerator": accelerator}})
    gateway = {"enabled": True, "gatewayRef": {"name": "ai", "namespace": "llm"}, "modelName": name}
    yield _object(
        "InferenceService",
        name,
        spec={"modelRef": name, "runtime": "llamacpp", "endpoint": {"port": 8080, "gateway": gateway}},
        status={"phase": "Ready", "readyReplicas": 1, "desiredReplicas": 1, "modelReady": True},
    )
    if is_metal:
        yield from _registration(name)


def _registration(name: str) -> Iterator[dict[str, Any]]:
    labels = {"llmkube.ai/managed-by": "metal-agent", "llmkube.ai/inference-service": name}
    ports = [{"name": "http", "port": 8080, "targetPort": 52001}]
    service = _object("Service", name, api="v1", spec={"ports": ports})
    service["metadata"]["labels"] = labels
    endpoints = [{"addresses": ["192.0.2.20"], "conditions": {"ready": True}}]
    piece = _object(
        *("EndpointSlice", name),
        api="discovery.k8s.io/v1",
        addressType="IPv4",
        endpoints=endpoints,
        ports=[{"name": "http", "port": 52001}],
    )
    piece["metadata"]["labels"] = {**labels, "kubernetes.io/service-name": name}
    yield from (service, piece)


def _router(number: int, services: int) -> dict[str, Any]:
    own = [f"model-{(number * 5 + step) % services}" for step in (0, 4)]
    named = [{"name": one, "inferenceServiceRef": {"name": one}} for one in own]
    cloud = {"provider": "openai", "url": "https://api.example.com/v1", "model": "large"}
    named.append({"name": "cloud", "tier": "cloud", "external": cloud})
    chat = f"chat-{number}"
    return {
        "dataPlane": "Gateway",
        "gatewayRef": {"name": "ai", "namespace": "llm"},
        "backends": named,
        "rules": [
            {
                "name": "pii",
                "match": {"models": [chat], "dataClassification": ["pii", "phi"]},
                "route": {"backends": own[:1]},
                "failClosed": True,
            },
            {"name": "chat", "match": {"models": [chat]}, "route": {"backends": own}},
            {"name": "far", "match": {"models": [f"far-{number}"]}, "route": {"backends": ["cloud"]}},
            {"name": "team", "match": {"headers": {"x-team": f"team-{number}"}}, "route": {"backends": own}},
        ],
        **({"defaultRoute": own[0]} if number % 10 == 0 else {}),
    }


# --- a compilation, in a process of its own ----------------------------------------------------------


def compile_here(target: str, services: int, routers: int) -> Compilation:
    """Of this process; its memory counts from its start."""
    documents = [Document(one) for one in site(services, routers)]
    began = time.process_time()
    result = compile_documents(documents, Options(Target(target), is_live=True, claim=True))
    return Compilation(
        target=target,
        services=services,
        routers=routers,
        cpu_seconds=time.process_time() - began,
        peak_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        objects=len(result.objects),
        errors=sum(one.is_error for one in result.findings),
    )


def compile_apart(target: str, services: int, routers: int) -> Compilation:
    command = [sys.executable, "-m", "bench.compiling", "--here", target]
    command += ["--services", str(services), "--routers", str(routers)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=False)
    if ended.returncode:
        raise RigError(f"{target}: {ended.stderr.strip()[-2_000:]}")
    return Compilation(**json.loads(ended.stdout))


# --- what is shown -----------------------------------------------------------------------------------


def bounds(found: Sequence[Compilation]) -> list[tuple[Bound, float | None]]:
    """The slowest and the largest; a smaller site promises nothing."""
    whole = [one for one in found if (one.services, one.routers) == (SERVICES, ROUTERS)]
    return [
        (COMPILE_SECONDS, max((one.cpu_seconds for one in whole), default=None)),
        (COMPILE_BYTES, max((one.peak_bytes / 1e6 for one in whole), default=None)),
    ]


def tables(found: Sequence[Compilation]) -> list[Table]:
    rows = [
        [
            one.target,
            f"{one.services:,}",
            f"{one.routers:,}",
            f"{one.cpu_seconds:.2f}",
            f"{one.peak_bytes / 1e6:.0f}",
            f"{one.objects:,}",
            f"{one.errors:,}",
        ]
        for one in found
    ]
    columns = ["target", "services", "routers", "CPU s", "peak MB", "objects", "errors"]
    return [kept(bounds(found)), Table("A large site compiled", columns, rows)]


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = part.parser("compiling", __doc__)
    parser.add_argument("--services", type=int, default=SERVICES, help=f"(default: {SERVICES})")
    parser.add_argument("--routers", type=int, default=ROUTERS, help=f"(default: {ROUTERS})")
    parser.add_argument("--here", choices=[str(one) for one in Target], help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if not 10 <= options.services <= 10_000 or not 0 <= options.routers <= 2_000:
        parser.error("--services must be 10 to 10,000, --routers 0 to 2,000")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    if options.here:
        print(json.dumps(asdict(compile_here(options.here, options.services, options.routers))))
        return
    this = part.Part("compiling", options)
    try:
        found = [compile_apart(str(one), options.services, options.routers) for one in Target]
        this.publish(tables(found), [asdict(one) for one in found])
    except (RigError, OSError, subprocess.TimeoutExpired) as problem:
        sys.exit(f"bench.compiling: {problem}")


if __name__ == "__main__":
    main()
