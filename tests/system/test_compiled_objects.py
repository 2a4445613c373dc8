"""What ``epp compile`` makes, before a real Kubernetes API: golden objects and examples, for each target.

Nothing is stored (``dryRun=All``): schemas, defaults and CEL rules are all that is asked of the server, and
that no field is unknown. The CRDs of agentgateway are not here, so that its kinds are only parsed; the output
names them, and tests/compiler/agentgateway/shape.py has what is known of them.
"""

import json
import urllib.error
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from epp.commands.files import load
from epp.compiler.compile import compile_documents
from epp.compiler.intent import GatewayRef
from epp.compiler.options import Options, Target
from tests.system.kube_plane import CLUSTER_WIDE, MISSING, ControlPlane, is_possible, mended, path_of

if not is_possible():
    pytest.skip(MISSING, allow_module_level=True)
pytestmark = [
    pytest.mark.timeout(900),  # the first run builds the API server
    pytest.mark.default_driver,
]

ROOT = Path(__file__).parents[2]
CRDS = ROOT / "tests" / "crds"
GOLDEN = ROOT / "tests" / "golden" / "compiler"
EXAMPLES = ROOT / "docs" / "examples"

ALWAYS = ("gateway-api-v1.5.1", "gie-v1.5.0", "llm-d-router-v0.10.0", "envoy-gateway-v1.8.1")
OF_TARGET = {
    Target.ENVOY_AI_GATEWAY_0_7: "envoy-ai-gateway-v0.7.0",
    Target.ENVOY_AI_GATEWAY_1_1: "envoy-ai-gateway-v1.1.0",
}
"""Folders of tests/crds; those of Envoy AI Gateway have the same kinds in two versions."""
ONLY_PARSED = {"AgentgatewayBackend", "AgentgatewayPolicy"}

Document = dict[str, Any]


def crds(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((CRDS / folder).glob("*.yaml"))]


@pytest.fixture(scope="module")
def plane(logs: Path) -> Iterator[ControlPlane]:
    with ControlPlane(logs, users={}) as plane:
        for crd in crds(*ALWAYS):
            plane.define(mended(crd, logs))
        yield plane


@pytest.fixture(scope="module", params=list(Target), ids=str)
def target(request: pytest.FixtureRequest, plane: ControlPlane) -> Iterator[Target]:
    """A cluster with the kinds of one target, in its version."""
    folder = OF_TARGET.get(request.param)
    kinds = crds(folder) if folder else []
    for crd in kinds:
        plane.define(crd)
    yield request.param
    plane.undefine(*kinds)


def golden(target: Target) -> Iterator[tuple[str, Document]]:
    for path in sorted(GOLDEN.glob(f"*/{target}.yaml")):
        for document in yaml.safe_load_all(path.read_text()):
            yield path.parent.name, document


def of_examples(target: Target) -> Iterator[tuple[str, Document]]:
    options = Options(target, gateway=GatewayRef("ai-gateway", "ai-gateway"), namespace="llm")
    for path in sorted(EXAMPLES.glob("*/fleet.yaml")):
        for one in compile_documents(load([str(path)]).documents, options).objects:
            yield path.parent.name, one.document


def refusal(plane: ControlPlane, document: Mapping[str, Any]) -> str:
    """What the server has against it; empty: nothing."""
    query = "dryRun=All&fieldManager=tests&force=true&fieldValidation=Strict"
    try:
        plane.api.ask("PATCH", f"{path_of(document)}?{query}", document, kind="apply-patch+yaml")
    except urllib.error.HTTPError as error:
        return str(json.loads(error.read())["message"])
    return ""


def looked_at(plane: ControlPlane, documents: Iterator[tuple[str, Document]]) -> Counter[str]:
    """How many of each kind the server took; fails with all that it did not."""
    taken: Counter[str] = Counter()
    known: set[str] = set()
    faults = []
    for case, document in documents:
        kind = document["kind"]
        taken[kind] += 1
        if kind in ONLY_PARSED:
            assert document["metadata"]["name"] and document["spec"]
            continue
        namespace = document["metadata"].get("namespace", "")
        if kind not in CLUSTER_WIDE and namespace not in known:
            plane.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
            known.add(namespace)
        fault = refusal(plane, document)
        if fault:
            faults.append(f"{case}: {kind} {document['metadata']['name']}: {fault}")
    assert not faults, "\n".join(faults)
    return taken


def test_every_golden_object_is_accepted(
    plane: ControlPlane, target: Target, capsys: pytest.CaptureFixture[str]
) -> None:
    taken = looked_at(plane, golden(target))
    assert taken["InferencePool"], "there are golden cases for every target"
    parsed = sorted(ONLY_PARSED & taken.keys())
    if parsed:
        with capsys.disabled():
            names = ", ".join(parsed)
            print(f"\n{target}: {names} only parsed, for want of their CRDs")  # noqa: T201 (for people)


def test_the_examples_are_accepted(plane: ControlPlane, target: Target) -> None:
    """As far as the target has a form for them; what it refuses is in its golden cases."""
    taken = looked_at(plane, of_examples(target))
    if target.is_envoy_ai_gateway:
        assert {"AIGatewayRoute", "InferencePool", "BackendTrafficPolicy"} <= taken.keys()


def test_the_server_does_look(plane: ControlPlane) -> None:
    """So that the others can fail: a field that is not there, a limit, a CEL rule."""
    route: Document = {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {"name": "bad", "namespace": "default"},
    }
    assert "field not declared in schema" in refusal(plane, {**route, "spec": {"hostname": []}})
    assert "Too many" in refusal(plane, {**route, "spec": {"rules": [{} for _ in range(17)]}})
    timeouts = {"request": "1s", "backendRequest": "2s"}
    assert "cannot be longer" in refusal(plane, {**route, "spec": {"rules": [{"timeouts": timeouts}]}})
