"""The controller's part of the chart in a real Kubernetes API: what it may do, and that this is what it does.

The controller and the picker are started as a kubelet would start them, with their ServiceAccounts' tokens.
agentgateway's CRDs are not here: its kinds are known by their names only.
"""

import itertools
import re
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench.rig.kube import plural
from bench.rig.llama import LlamaServer
from bench.rig.process import Process, answers_ok, free_port, http_get, wait_until
from epp.commands.controller import parser
from epp.compiler import ports
from epp.compiler.kinds import KINDS as EVERY_KIND
from epp.compiler.kinds import Kind, Role, kinds_of
from epp.compiler.options import Target
from tests.system import helm
from tests.system.chart import (
    CONTROLLER,
    CRDS,
    KINDS,
    ROOT,
    Document,
    Pod,
    apply,
    deployment,
    expanded,
    kubeconfig,
    of,
    of_kind,
    picked,
    rendered,
    server_pod,
    serves,
    there,
)
from tests.system.kube_plane import MISSING, ControlPlane, is_possible, mended
from tests.system.site import Site

for missing, possible in ((MISSING, is_possible), (helm.MISSING, helm.is_possible)):
    if not possible():
        pytest.skip(missing, allow_module_level=True)
pytestmark = [
    pytest.mark.timeout(900),  # the first run builds the API server and helm
    pytest.mark.default_driver,
]

EXAMPLES = sorted((ROOT / "docs" / "examples").glob("*/fleet.yaml"))
NAMESPACES = (helm.NAMESPACE, "other", "llm", "edge", "strict")


@pytest.fixture(scope="module")
def plane(logs: Path) -> Iterator[ControlPlane]:
    with ControlPlane(logs, users={}) as plane:
        for crd in (*KINDS, *sorted((CRDS / "llmkube-v0.9.19").glob("*.yaml"))):
            plane.define(mended(crd, logs))
        for name in NAMESPACES:
            plane.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        yield plane


# --- values -----------------------------------------------------------------------------------------


FLEET = """\
apiVersion: fleet-epp.dev/v1alpha1
kind: Fleet
metadata: {name: site, namespace: models}
gateway: edge/main
models:
- {name: qwen, pods: {app: qwen}, port: %d}
"""


def values(target: str = "gateway-api", **more: Any) -> Document:
    """The controller alone, and ``more`` of it."""
    given = {"enabled": True, "target": str(target), "gateway": "edge/main", **more}
    return {"inferenceExtension": {"enabled": False}, "controller": given}


VARIANTS: dict[str, Document] = {
    **{target: values(target) for target in Target},
    "in some namespaces": values(namespaces=["models", "other"]),
    "one": values(replicas=1),
    "a fleet": values(fleet=FLEET % 8000),
    "everything": values(
        claim=True,
        verbose=True,
        inventory="site",
        picker="picker",
        metricsPort=9192,
        gateway="edge/main/https",
        modelHeader="x-model",
        namespaces=["models"],
        fleet=FLEET % 8000,
        env=[{"name": "HTTPS_PROXY", "value": "http://proxy:3128"}],
    ),
    "monitoring": {
        **values(),
        "inferenceExtension": {"enabled": False, "monitoring": {"prometheus": {"enabled": True}}},
    },
    "beside its picker": {"controller": values()["controller"]},
}
every = pytest.mark.parametrize("given", VARIANTS.values(), ids=VARIANTS)


def controllers(given: Document) -> list[Document]:
    return of(rendered(given), CONTROLLER)


def container(documents: list[Document]) -> Document:
    (one,) = deployment(documents, CONTROLLER)["spec"]["template"]["spec"]["containers"]
    return dict(one)


def words(documents: list[Document], namespace: str = helm.NAMESPACE) -> list[str]:
    """Its arguments, without the command."""
    command, *rest = expanded(container(documents)["args"], {"NAMESPACE": namespace})
    assert command == "controller"
    return rest


# --- the chart --------------------------------------------------------------------------------------


@every
def test_the_chart_passes_helms_own_checks(given: Document) -> None:
    assert "0 chart(s) failed" in helm.run("lint", str(helm.CHART), "--strict", values=given)


@pytest.mark.parametrize("name", VARIANTS)
def test_what_the_chart_renders_is_applied(plane: ControlPlane, name: str) -> None:
    apply(plane, rendered(VARIANTS[name]))


@every
def test_its_arguments_are_understood(given: Document) -> None:
    said = given["controller"]
    taken = parser().parse_args(words(controllers(given)))
    assert (taken.target, taken.namespace) == (said["target"], said.get("namespaces", []))
    assert taken.lease == "models/fleet-controller"
    assert taken.picker == said.get("picker", "fleet-epp") and taken.claim is said.get("claim", False)
    assert taken.metrics_port == said.get("metricsPort", 9092)
    assert bool(taken.fleet) is ("fleet" in said)


def test_every_flag_is_a_value_of_the_chart() -> None:
    given = {one.partition("=")[0] for one in words(controllers(VARIANTS["everything"]))}
    known = {f"--{name.replace('_', '-')}" for name in vars(parser().parse_args(["--target=gateway-api"]))}
    assert given == known - {"--kubeconfig", "--context"}, "which cluster is for people to say"


@every
def test_ports_probes_and_selectors_fit_together(given: Document) -> None:
    documents = controllers(given)
    pod = deployment(documents, CONTROLLER)["spec"]
    (port,) = container(documents)["ports"]
    assert port["containerPort"] == parser().parse_args(words(documents)).metrics_port
    for probe in ("livenessProbe", "readinessProbe"):
        assert container(documents)[probe]["httpGet"]["port"] == port["name"]
    (policy,) = of_kind(documents, "NetworkPolicy")
    assert [one["port"] for rule in policy["spec"]["ingress"] for one in rule["ports"]] == [
        port["containerPort"]
    ]
    for service in of_kind(documents, "Service"):
        assert [one["port"] for one in service["spec"]["ports"]] == [port["containerPort"]]
    labels = pod["template"]["metadata"]["labels"].items()
    selectors = [pod["selector"]["matchLabels"], policy["spec"]["podSelector"]["matchLabels"]]
    selectors += [one["spec"]["selector"] for one in of_kind(documents, "Service")]
    selectors += [one["spec"]["selector"]["matchLabels"] for one in of_kind(documents, "PodDisruptionBudget")]
    assert all(selector.items() <= labels for selector in selectors)
    assert len(of_kind(documents, "PodDisruptionBudget")) == (pod["replicas"] > 1)


@pytest.mark.parametrize("name", VARIANTS)
def test_its_pods_may_run_where_little_is_allowed(plane: ControlPlane, name: str) -> None:
    """Kubernetes' own Pod Security Standard, ``restricted``, enforced by the API server."""
    strict = {"pod-security.kubernetes.io/enforce": "restricted"}
    plane.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "strict", "labels": strict}})
    documents = controllers(VARIANTS[name])
    assert container(documents)["securityContext"]["readOnlyRootFilesystem"] is True
    assert all(mount["readOnly"] for mount in container(documents).get("volumeMounts", ()))
    pod = deployment(documents, CONTROLLER)["spec"]["template"]
    named = {**pod, "metadata": {**pod["metadata"], "name": "fleet-controller-0"}}
    path = "/api/v1/namespaces/strict/pods?dryRun=All&fieldValidation=Strict"
    plane.api.ask("POST", path, {"apiVersion": "v1", "kind": "Pod", **named})


REFUSED = {
    "no target": (values(target=""), "controller.target: is missing"),
    "a target that is none": (values(target="nginx"), "at '/controller/target'"),
    "a gateway without its namespace": (values(gateway="main"), "at '/controller/gateway'"),
    "a value that is none": (values(replica=2), "additional properties 'replica' not allowed"),
    "the name of a file": (values(fleet="fleet.yaml"), "give its text, as --set-file controller.fleet="),
}


@pytest.mark.parametrize("given, said", REFUSED.values(), ids=REFUSED)
def test_wrong_values_are_refused_in_words(given: Document, said: str) -> None:
    with pytest.raises(helm.Refused) as refusal:
        helm.template(given)
    assert said in str(refusal.value)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.parent.name)
def test_an_example_is_given_as_it_is(path: Path) -> None:
    """By the command of docs/install.md."""
    given = values()
    text = helm.run(
        *("template", helm.RELEASE, str(helm.CHART), "--set-file", f"controller.fleet={path}"), values=given
    )
    (config,) = of_kind(of(helm.documents(text), CONTROLLER), "ConfigMap")
    assert yaml.safe_load(config["data"]["fleet.yaml"]) == yaml.safe_load(path.read_text(encoding="utf-8"))


# --- what it may do ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Account:
    """The controller's ServiceAccount, of a release in the namespace ``models``."""

    plane: ControlPlane
    name: str

    def may(
        self, verb: str, resource: str, group: str = "", namespace: str = "other", name: str = ""
    ) -> bool:
        """By the API server's own word."""
        resource, _, below = resource.partition("/")
        asked = {"verb": verb, "resource": resource, "group": group, "namespace": namespace, "name": name}
        asked |= {"subresource": below} if below else {}
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {"user": f"system:serviceaccount:models:{self.name}", "resourceAttributes": asked},
        }
        path = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
        return bool(self.plane.api.ask("POST", path, review)["status"]["allowed"])

    def holds(self, namespace: str) -> bool:
        """The API server knows of its rules there, and of that for the Lease."""
        lease = ("leases", "coordination.k8s.io", helm.NAMESPACE)
        return self.may("create", "events", namespace=namespace) and self.may("create", *lease)

    def verbs(self, kind: Kind, namespace: str = "other") -> set[str]:
        """What it may do with objects of a kind."""
        return {verb for verb in VERBS if self.may(verb, plural(kind.name), kind.group, namespace)}


@contextmanager
def account_of(plane: ControlPlane, given: Document) -> Iterator[Account]:
    """Its roles are there, each time of another release: the API server is slow to forget."""
    release = f"r{next(RELEASES)}"
    documents = helm.documents(helm.template(given, release=release))
    account = Account(plane, f"{release}-controller")
    with there(plane, [one for one in documents if one["kind"] in ROLES], helm.NAMESPACE):
        namespaces = given["controller"].get("namespaces", ["other"])
        wait_until(lambda: all(map(account.holds, namespaces)), what="its rules hold")
        yield account


RELEASES = itertools.count()
ROLES = {"ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"}
VERBS = ("get", "list", "watch", "create", "update", "patch", "delete", "deletecollection", "*")
READS, WRITES = {"list", "watch"}, {"get", "list", "watch", "create", "patch", "delete"}


def wanted(kind: Kind, target: Target) -> set[str]:
    roles = {one.role for one in kinds_of(target) if one.name == kind.name}
    return WRITES if Role.MADE in roles else READS if roles else set()


@pytest.mark.parametrize("target", Target)
def test_it_may_read_and_write_what_its_target_needs(plane: ControlPlane, target: Target) -> None:
    with account_of(plane, values(target)) as account:
        found = {kind.name: account.verbs(kind) for kind in EVERY_KIND}
        assert found == {kind.name: wanted(kind, target) for kind in EVERY_KIND}
        for status in ("inferenceservices/status", "modelrouters/status"):
            assert account.may("patch", status, "inference.llmkube.dev")
            assert not account.may("update", status, "inference.llmkube.dev")
        assert account.may("create", "events") and not account.may("list", "events")


def test_it_may_do_nothing_else(plane: ControlPlane) -> None:
    with account_of(plane, values("envoy-ai-gateway-1.1")) as account:
        for resource in ("secrets", "configmaps", "pods", "pods/exec", "nodes", "*"):
            assert not any(account.may(verb, resource, namespace="models") for verb in VERBS), resource
        assert not any(account.may(verb, "namespaces") for verb in set(VERBS) - {"list", "watch"})
        for group, resource in (
            ("apps", "deployments"),
            ("rbac.authorization.k8s.io", "clusterroles"),
            ("inference.llmkube.dev", "gpuquotas"),
            ("gateway.networking.k8s.io", "httproutes"),  # Envoy AI Gateway writes these
            ("aigateway.envoyproxy.io", "aigatewayroutes/status"),
        ):
            assert not any(account.may(verb, resource, group) for verb in VERBS), resource
        lease = ("leases", "coordination.k8s.io")
        assert account.may("create", *lease, namespace="models")
        for verb in ("get", "update"):
            assert account.may(verb, *lease, namespace="models", name=account.name)
            assert not account.may(verb, *lease, namespace="models", name="fleet-epp")
            assert not account.may(verb, *lease, namespace="other", name=account.name)


def test_in_some_namespaces_it_may_do_nothing_in_others(plane: ControlPlane) -> None:
    with account_of(plane, values(namespaces=["models", "other"])) as account:
        for kind in kinds_of(Target.GATEWAY_API):
            expected = wanted(kind, Target.GATEWAY_API)
            assert account.verbs(kind, "models") == account.verbs(kind, "other") == expected
            assert account.verbs(kind, "llm") == (expected if kind.is_wide else set())
        assert not account.may("create", "events", namespace="llm")


# --- what a kubelet starts --------------------------------------------------------------------------


class Controller(Process):
    """As a kubelet would start it, with its ConfigMap as a file and its ServiceAccount's token."""

    def __init__(self, plane: ControlPlane, documents: list[Document], folder: Path) -> None:
        folder.mkdir()
        arguments = words(documents)
        for config in of_kind(documents, "ConfigMap"):
            for name, text in config["data"].items():
                (folder / name).write_text(text)
        arguments = [one.replace("=/fleet/", f"={folder}/") for one in arguments]
        self.fleet_file = folder / "fleet.yaml"
        self.port = parser().parse_args(arguments).metrics_port
        super().__init__(
            folder.name,
            [sys.executable, "-m", "epp", "controller", *arguments],  # the image's entry point
            log=folder / "log",
            environment={
                "KUBECONFIG": str(kubeconfig(plane, helm.NAMESPACE, CONTROLLER, folder)),
                "PYTHONPATH": str(ROOT),
            },
        )
        probes = (
            container(documents)[f"{name}Probe"]["httpGet"]["path"] for name in ("liveness", "readiness")
        )
        self._probes = tuple(probes)

    def is_ready(self) -> bool:
        return all(answers_ok(f"http://127.0.0.1:{self.port}{path}") for path in self._probes)

    def has_all_as_wanted(self) -> bool:
        page = http_get(f"http://127.0.0.1:{self.port}/metrics")[1].decode()
        return bool(
            re.search(r"^fleet_epp_controller_last_success_timestamp_seconds [1-9]", page, re.MULTILINE)
        )


@contextmanager
def installed(
    plane: ControlPlane, given: Document, folder: Path
) -> Iterator[tuple[list[Document], Controller]]:
    """The chart is installed, and the kubelet has started the controller."""
    ports = {**given, "controller": {**given["controller"], "metricsPort": free_port()}}
    documents = rendered(ports)
    mine = of(documents, CONTROLLER)
    with (
        there(plane, documents, helm.NAMESPACE),
        Controller(plane, mine, folder / "controller") as controller,
    ):
        wait_until(controller.has_all_as_wanted, what="all is as wanted")
        yield documents, controller
        assert "answers 403" not in controller.log.read_text()


def port_of_no_pool() -> int:
    """A free one, of those that the controller gives to no pool."""
    taken = range(ports.FIRST, ports.FIRST + ports.COUNT)
    return next(port for port in iter(free_port, 0) if port not in taken)


POOLS = ("inferencepools", "inference.networking.k8s.io")


def ours(plane: ControlPlane, namespace: str, resource: str, group: str = "") -> list[Document]:
    """What is of its inventory."""
    home = f"/apis/{group}" if group else "/api"
    query = "labelSelector=fleet-epp.dev/inventory%3Dcontroller"
    return list(plane.api.ask("GET", f"{home}/v1/namespaces/{namespace}/{resource}?{query}")["items"])


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.parent.name)
def test_its_account_is_enough_for_an_example(plane: ControlPlane, path: Path, tmp_path: Path) -> None:
    given = values("envoy-ai-gateway-1.1", fleet=path.read_text(encoding="utf-8"))
    with installed(plane, given, tmp_path):
        lease = "/apis/coordination.k8s.io/v1/namespaces/models/leases/fleet-controller"
        assert plane.api.ask("GET", lease)["spec"]["holderIdentity"]
        (fleet,) = helm.documents(path.read_text(encoding="utf-8"))
        assert ours(plane, fleet["metadata"]["namespace"], *POOLS)


def test_a_pool_that_it_makes_is_served_by_the_picker_of_its_release(
    plane: ControlPlane, servers: list[LlamaServer], tmp_path: Path
) -> None:
    server = servers[0]
    own_ports = {name: port_of_no_pool() for name in ("grpc-port", "grpc-health-port", "metrics-port")}
    given = {
        "controller": values(fleet=FLEET % server.port, namespaces=["models", "edge"])["controller"],
        "inferenceExtension": {"flags": {"drain-timeout": "1s", **own_ports}},
    }
    plane.apply(server_pod(helm.NAMESPACE, server))
    with installed(plane, given, tmp_path) as (documents, controller):
        (pool,) = ours(plane, helm.NAMESPACE, *POOLS)
        (service,) = ours(plane, helm.NAMESPACE, "services")
        picker, labels = (
            pool["spec"]["endpointPickerRef"],
            deployment(documents)["spec"]["template"]["metadata"],
        )
        assert service["metadata"]["name"] == picker["name"] == "fleet-epp-pools"
        assert service["spec"]["selector"].items() <= labels["labels"].items()
        (port,) = service["spec"]["ports"]
        assert port["port"] == port["targetPort"] == picker["port"]["number"]
        with Pod(plane, documents, helm.NAMESPACE, tmp_path, "fleet-epp-0") as pod:
            wait_until(lambda: serves(pod) == {"qwen-0-rank-0"}, what="its pod serves")
            assert picked(pod, port["port"]) == server.address
            assert "answers 403" not in pod.log.read_text()
            assert pod.terminate() == 0
        controller.fleet_file.write_text((FLEET % server.port).replace("qwen", "phi"))
        names = lambda: [one["metadata"]["name"] for one in ours(plane, helm.NAMESPACE, *POOLS)]  # noqa: E731
        wait_until(lambda: names() == ["phi"], what="the pool of the other model, and no more")


def test_its_account_is_enough_to_tell_what_became_of_an_object(plane: ControlPlane, tmp_path: Path) -> None:
    with ExitStack() as parts:
        site = Site(plane, "other", tmp_path, parts)
        good, broken = site.router("good", "qwen"), site.router("broken", "phi", defaultRoute="nobody")
        site.apply(*site.model("qwen"), good, broken)
        for one in (*site.model("qwen"), good, broken):
            parts.callback(plane.delete, one)
        with installed(plane, values(namespaces=["other", "edge"]), tmp_path):
            events = "/api/v1/namespaces/other/events"
            for router in (good, broken):
                wait_until(partial(is_told, site, router), what="GatewayReady in its status")
            told = lambda: {e["involvedObject"]["name"] for e in plane.api.ask("GET", events)["items"]}  # noqa: E731
            wait_until(lambda: told() == {"broken"}, what="an Event")


def is_told(site: Site, router: Document) -> bool:
    conditions = site.get(router).get("status", {}).get("conditions", ())
    return any(one["type"] == "GatewayReady" for one in conditions)
