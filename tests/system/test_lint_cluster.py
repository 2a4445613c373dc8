"""``epp lint --cluster`` on a real Kubernetes API: what is there, may not be seen, or is not installed."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from bench.rig.kube import ADMIN
from tests.lint.cases import CASES
from tests.system.kube_plane import MISSING, ControlPlane, is_possible

if not is_possible():
    pytest.skip(MISSING, allow_module_level=True)
pytestmark = [pytest.mark.timeout(900), pytest.mark.default_driver]

CRDS = [
    Path(__file__).parents[1] / "crds" / name
    for name in (
        "gateway-api-v1.5.1/gateway.networking.k8s.io_gateways.yaml",
        "envoy-ai-gateway-v1.1.0/aigateway.envoyproxy.io_aigatewayroutes.yaml",
        "envoy-gateway-v1.8.1/gateway.envoyproxy.io_backendtrafficpolicies.yaml",
        "envoy-gateway-v1.8.1/gateway.envoyproxy.io_securitypolicies.yaml",
    )
]
"""No more than these: a cluster seldom has all kinds."""
TENANT = "tenant-token"
CONFIG = """\
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: EnvoyGateway
extensionManager:
  hooks: {xdsTranslator: {post: [Translation, Cluster, Route]}}
  backendResources: [{group: inference.networking.k8s.io, kind: InferencePool, version: v1}]
"""


class Ended(NamedTuple):
    status: int
    findings: dict[str, list[str]]
    """Codes by object."""
    err: str


def objects(code: str, name: str = "bad") -> list[dict[str, Any]]:
    (found,) = [one for one in CASES if one.code == code]
    return found.objects(name)


def meta(name: str, namespace: str = "") -> dict[str, str]:
    return {"name": name, **({"namespace": namespace} if namespace else {})}


@pytest.fixture(scope="module")
def plane(logs: Path) -> Iterator[ControlPlane]:
    with ControlPlane(logs, users={TENANT: "tenant"}) as plane:
        for crd in CRDS:
            plane.define(crd)
        for name in ("llm", "other", "envoy-gateway-system"):
            plane.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": meta(name)})
        config = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": meta("envoy-gateway-config", "envoy-gateway-system"),
            "data": {"envoy-gateway.yaml": CONFIG},
        }
        role = {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "Role",
            "metadata": meta("lint", "llm"),
            "rules": [
                {
                    "apiGroups": [
                        "gateway.networking.k8s.io",
                        "aigateway.envoyproxy.io",
                        "gateway.envoyproxy.io",
                    ],
                    "resources": [
                        "gateways",
                        "aigatewayroutes",
                        "backendtrafficpolicies",
                        "securitypolicies",
                    ],
                    "verbs": ["list"],
                }
            ],
        }
        binding = {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": meta("lint", "llm"),
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "lint"},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "tenant"}],
        }
        route = {**objects("MissingTimeout")[0], "metadata": meta("elsewhere", "other")}
        plane.apply(config, role, binding, route, *objects("DuplicateApiKey"), *objects("NonHttpListener"))
        yield plane


def lint(plane: ControlPlane, token: str, *arguments: str) -> Ended:
    done = subprocess.run(
        [sys.executable, "-m", "epp", "lint", "--cluster", "--format", "json", *arguments],
        env={**os.environ, "KUBECONFIG": str(plane.kubeconfig(token))},
        capture_output=True,
        text=True,
        check=False,
    )
    found: dict[str, list[str]] = {}
    for one in json.loads(done.stdout or '{"findings": []}')["findings"]:
        found.setdefault(one["object"], []).append(one["code"])
    return Ended(done.returncode, found, done.stderr)


def test_all_of_a_cluster_is_looked_at(plane: ControlPlane) -> None:
    ended = lint(plane, ADMIN)
    assert (ended.status, ended.err) == (1, "")
    assert ended.findings == {
        "EnvoyGateway/envoy-gateway-system/envoy-gateway-config": ["CrdMissing"],
        "CustomResourceDefinition/backendtrafficpolicies.gateway.envoyproxy.io": ["LimitsRefused"],
        "Gateway/llm/ai": ["NonHttpListener"],
        "SecurityPolicy/llm/keys": ["DuplicateApiKey"],
        "AIGatewayRoute/other/elsewhere": ["MissingBackend", "MissingTimeout"],
    }


def test_what_may_not_be_seen_is_told_and_nothing_is_concluded(plane: ControlPlane) -> None:
    """Who may list four kinds in one namespace, and read no Secret."""
    ended = lint(plane, TENANT, "--namespace", "llm")
    assert ended.findings == {"Gateway/llm/ai": ["NonHttpListener"]}
    assert ended.status == 1
    assert "epp lint: Secret could not be read, rules about it say nothing: " in ended.err
    assert "epp lint: CustomResourceDefinition could not be read" in ended.err


def test_without_any_right_there_is_no_answer(plane: ControlPlane) -> None:
    ended = lint(plane, TENANT, "--namespace", "other")
    assert (ended.status, ended.findings) == (2, {})
    assert "nothing may be read of what was asked for" in ended.err and "403" in ended.err


def test_a_cluster_that_does_not_let_us_in_is_no_answer(plane: ControlPlane) -> None:
    ended = lint(plane, "no-such-token")
    assert (ended.status, ended.findings) == (2, {})
    assert ended.err.startswith("epp lint: ") and "401" in ended.err


def test_only_reading_is_done(plane: ControlPlane) -> None:
    """Nothing has another version than before."""

    def versions() -> list[str]:
        paths = ("gateway.networking.k8s.io/v1/gateways", "gateway.envoyproxy.io/v1alpha1/securitypolicies")
        lists = [plane.api.ask("GET", f"/apis/{path}")["items"] for path in paths]
        return [one["metadata"]["resourceVersion"] for items in lists for one in items]

    before = versions()
    assert lint(plane, ADMIN).status == 1
    assert versions() == before
