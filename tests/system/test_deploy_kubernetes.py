"""The chart, the manifests and the gateways' pages in a real Kubernetes API, and what a kubelet starts of it.

The Deployment's arguments start ``epp`` with its ConfigMap as files and its ServiceAccount's token, so that
the rules of rbac.yaml hold, for a pod that a real server stands for. Objects of a few kinds whose CRDs are
not here are only parsed; the output names the kinds.
"""

import json
import re
import shutil
import subprocess
import urllib.error
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench.rig.kube import ADMIN
from bench.rig.llama import LlamaServer
from bench.rig.process import free_port, http_get, wait_until
from epp.compiler.options import Options, Target
from epp.compiler.ports import COUNT, FIRST
from epp.config import flags, picker_config
from tests.system import helm
from tests.system.chart import (
    KINDS,
    ONLY_PARSED,
    PICKER,
    ROOT,
    Document,
    Pod,
    apply,
    deployment,
    expanded,
    group,
    kind,
    of,
    of_kind,
    picked,
    picker_container,
    rendered,
    server_pod,
    serves,
    shown,
    there,
    token,
)
from tests.system.kube_plane import MISSING, ControlPlane, is_possible

for missing, possible in ((MISSING, is_possible), (helm.MISSING, helm.is_possible)):
    if not possible():
        pytest.skip(missing, allow_module_level=True)
pytestmark = [
    pytest.mark.timeout(900),  # the first run builds the API server and helm
    pytest.mark.default_driver,
]

NAMESPACES = (
    *(helm.NAMESPACE, "other", "started", "standing-by", "strict", "installed"),
    *("llm", "research", "edge"),  # of docs/install.md
)


@pytest.fixture(scope="module")
def plane(logs: Path) -> Iterator[ControlPlane]:
    with ControlPlane(logs, users={}) as plane:
        for crd in KINDS:
            plane.define(crd)
        for name in NAMESPACES:
            plane.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        yield plane


def is_offered(plane: ControlPlane, version: str, name: str) -> bool:
    """The API server has this kind."""
    try:
        listed = plane.api.ask("GET", "/api/v1" if version == "v1" else f"/apis/{version}")
    except urllib.error.HTTPError as refusal:
        if refusal.code != 404:
            raise
        return False
    return name in {one["kind"] for one in listed["resources"]}


# --- values -----------------------------------------------------------------------------------------


def values(**more: Any) -> Document:
    """The least, and ``more``."""
    return {"inferencePool": {"modelServers": {"matchLabels": {"app": "qwen"}}}, **more}


CUSTOM = """\
apiVersion: inference.networking.x-k8s.io/v1alpha1
kind: EndpointPickerConfig
plugins:
- type: queue-scorer
- type: max-score-picker
schedulingProfiles:
- name: default
  plugins:
  - pluginRef: queue-scorer
    weight: 2
"""

UPSTREAM = {
    "inferenceExtension": {
        "replicas": 1,
        "image": {"registry": "registry.example.com/team", "repository": "fleet-epp", "tag": "v1"},
        "extProcPort": 9002,
        "failureMode": "FailOpen",
        "env": [{"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
        "pluginsConfigFile": "custom-plugins.yaml",
        "pluginsCustomConfig": {"custom-plugins.yaml": CUSTOM},
        "extraContainerPorts": [{"name": "zmq", "containerPort": 5557, "protocol": "TCP"}],
        "extraServicePorts": [{"name": "zmq", "port": 5557, "protocol": "TCP"}],
        "flags": {"v": 3, "refresh-metrics-interval": "100ms", "secure-serving": True, "enable-pprof": False},
        "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
        "tolerations": [{"key": "gpu", "operator": "Exists"}],
        "resources": {"requests": {"cpu": "4", "memory": "8Gi"}, "limits": {"memory": "16Gi"}},
        "sidecar": {"enabled": False},
        "monitoring": {
            "interval": "10s",
            "provider": {"name": "", "gmp": {"autopilot": False}},
            "gke": {"enabled": False},
            "secret": {"name": "inference-gateway-sa-metrics-reader-secret"},
            "prometheus": {
                "enabled": False,
                "auth": {"enabled": True, "secretName": "inference-gateway-sa-metrics-reader-secret"},
                "extraLabels": {},
            },
        },
        "tracing": {
            "enabled": False,
            "otelExporterEndpoint": "http://localhost:4317",
            "sampling": {"sampler": "parentbased_traceidratio", "samplerArg": "0.1"},
        },
        "latencyPredictor": {"enabled": False, "predictionServers": {"count": 10}},
    },
    "inferencePool": {
        "targetPorts": [{"number": 8000}],
        "modelServerType": "trtllm-serve",
        "modelServerProtocol": "http",
        "parser": "",
        "apiVersion": "inference.networking.k8s.io/v1",
        "modelServers": {"matchLabels": {"app": "vllm-qwen3-32b"}},
    },
    "provider": {"name": "none", "istio": {"destinationRule": {"host": "", "trafficPolicy": {}}}},
    "experimentalHttpRoute": {
        "enabled": True,
        "inferenceGatewayName": "inference-gateway",
        "inferenceGatewayNamespace": "other",
        "requestTimeout": "300s",
        "headerMatches": {"x-model": "qwen"},
        "baseModel": "qwen",
    },
    "inferenceObjectives": [{"name": "high", "priority": 5}, {"name": "low", "priority": -1}],
}
"""Every value that upstream's chart has, by its name there."""

OLD = {
    "inferenceExtension": {
        "image": {"hub": "registry.example.com", "name": "fleet-epp", "tag": "v1"},
        "flags": [{"name": "v", "value": 3}, {"name": "grpc-port", "value": "9102"}],
        "env": {"HTTPS_PROXY": "http://proxy:3128", "DEPTH": 1000000},
        "trace": {"enabled": True},
    },
    "inferencePool": {
        "apiVersion": "inference.networking.x-k8s.io/v1alpha2",
        "targetPortNumber": 8001,
        "modelServers": {"matchLabels": {"app": "qwen"}},
    },
    "istio": {"destinationRule": {"enabled": True, "host": "a.b.svc", "trafficPolicy": {}}},
}

ALL_SERVE = {"replicas": 3, "flags": {"ha-enable-leader-election": False}}
PROMETHEUS = {"monitoring": {"prometheus": {"enabled": True}}}
SIDECAR = {
    "enabled": True,
    "name": "envoy",
    "image": "envoy",
    "ports": [{"name": "http", "containerPort": 10000}],
    "volumeMounts": [{"name": "envoy", "mountPath": "/etc/envoy"}],
    "volumes": [{"name": "envoy", "configMap": {"name": "envoy"}}],
    "configMap": {"name": "envoy", "data": {"envoy.yaml": "admin: {}"}},
}
TRACING = {"tracing": {"enabled": True, "sampling": {"samplerArg": "1.0"}}}
PORTS = {"grpc-port": 19002, "grpc-health-port": 19003, "metrics-port": 19090}

CONTROLLED = {"controller": {"enabled": True, "target": "gateway-api", "gateway": "models/main"}}

VARIANTS: dict[str, Document] = {
    "defaults": values(),
    "upstream's values": UPSTREAM,
    "older values": OLD,
    "leader election": values(inferenceExtension={"replicas": 3}),
    "all serve": values(inferenceExtension=ALL_SERVE),
    "monitoring": values(inferenceExtension=PROMETHEUS),
    "monitoring without a token": values(
        inferenceExtension={"monitoring": {"prometheus": {"enabled": True, "auth": {"enabled": False}}}}
    ),
    "tracing": values(inferenceExtension=TRACING),
    "Istio": values(provider={"name": "istio"}, experimentalHttpRoute={"enabled": True}),
    "GKE": values(
        provider={"name": "gke"}, inferenceExtension=PROMETHEUS, experimentalHttpRoute={"enabled": True}
    ),
    "a sidecar": values(inferenceExtension={"sidecar": SIDECAR}),
    "a certificate": values(inferenceExtension={"certificate": {"secretName": "tls"}}),
    "other ports": values(inferenceExtension={"flags": PORTS, "extProcPort": 9000}),
    "labels and no pool": {
        "inferencePool": {
            "enabled": False,
            "targetPorts": [{"number": 8000}, {"number": 8001}],
            "modelServers": {"matchLabels": {"app": "qwen", "tier": "a"}},
        }
    },
    "a pool that is there": {"inferencePool": {"create": False}},
    "metrics elsewhere": values(inferenceExtension={"metricsDataSource": {"path": "/prometheus/metrics"}}),
    "several pools": values(
        pools=[{"name": "llama", "port": 9012}, {"name": "phi", "namespace": "other", "port": 9013}]
    ),
    "the pools of its Service": values(poolService={"enabled": True, "ports": [9012, 9013]}),
    "the controller's pools": {"compiledPools": {"enabled": True}},
    "the controller's pools and its own": values(compiledPools={"enabled": True}),
    "with the controller": CONTROLLED,
    "with the controller, Istio": {**CONTROLLED, "provider": {"name": "istio"}},
    "its own network": values(
        inferenceExtension={
            "networkPolicy": {"gateways": [{"namespaceSelector": {}}], "monitoring": [{"podSelector": {}}]}
        }
    ),
}


def parsed_flags(documents: list[Document]) -> flags.ServeFlags:
    """What the picker makes of its arguments."""
    environment = {"NAMESPACE": helm.NAMESPACE, "POD_NAME": "fleet-epp-5c9d8f7b6-x2x4z"}
    return flags.parse(expanded(picker_container(documents)["args"], environment), environment)


# --- the chart --------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", VARIANTS.values(), ids=VARIANTS)
def test_the_chart_passes_helms_own_checks(given: Document) -> None:
    assert "0 chart(s) failed" in helm.run("lint", str(helm.CHART), "--strict", values=given)


@pytest.mark.parametrize("name", VARIANTS)
def test_what_the_chart_renders_is_applied(plane: ControlPlane, name: str) -> None:
    apply(plane, rendered(VARIANTS[name]))


@pytest.mark.parametrize("given", VARIANTS.values(), ids=VARIANTS)
def test_its_arguments_and_its_configuration_are_understood(given: Document) -> None:
    documents = rendered(given)
    (config,) = [one for one in of_kind(documents, "ConfigMap") if one["metadata"]["name"] == PICKER]
    taken = parsed_flags(documents)
    assert taken.config_file and taken.config_file.startswith("/config/")
    picker_config.load(config["data"][taken.config_file.removeprefix("/config/")], taken.config_file)


def test_its_configuration_is_the_pickers_own_default() -> None:
    (config,) = of_kind(rendered(values()), "ConfigMap")
    written = config["data"]["default-plugins.yaml"]
    assert yaml.safe_load(written) == yaml.safe_load(picker_config.DEFAULT_TEXT)


def test_an_older_charts_values_are_taken_over() -> None:
    """Flags as a list, a repeated one beside it, variables as a map, and traces by their older name."""
    container = picker_container(rendered(OLD))
    assert {"--v=3", "--grpc-port=9102", "--tracing=true"} <= set(container["args"])
    assert {"name": "grpc", "containerPort": 9102} in container["ports"]
    environment = {one["name"]: one.get("value") for one in container["env"]}
    assert (environment["HTTPS_PROXY"], environment["DEPTH"]) == ("http://proxy:3128", "1000000")
    assert environment["OTEL_TRACES_EXPORTER"] == "otlp"
    several = [{"name": "pool", "value": "llama=9012"}, {"name": "pool", "value": "phi=9013"}]
    arguments = picker_container(rendered(values(inferenceExtension={"flags": several})))["args"]
    assert [one for one in arguments if one.startswith("--pool=")] == ["--pool=llama=9012", "--pool=phi=9013"]


def test_the_schema_knows_the_pickers_flags() -> None:
    schema = json.loads((helm.CHART / "values.schema.json").read_text())
    known = schema["properties"]["inferenceExtension"]["properties"]["flags"]
    names = sorted(flag.name for flag in flags.FLAGS)
    assert list(known["patternProperties"]) == [f"^({'|'.join(names)})$"]
    assert known["items"]["properties"]["name"]["enum"] == names


def test_helm_installs_it_and_changes_it(plane: ControlPlane) -> None:
    chart, where = (helm.RELEASE, str(helm.CHART)), ("--namespace", "installed")
    cluster = plane.kubeconfig(ADMIN)
    deployed_at = "/apis/apps/v1/namespaces/installed/deployments/fleet-epp"
    said = helm.run("install", *chart, *where, values=values(), cluster=cluster)
    assert "fleet-epp picks for the InferencePool fleet" in said
    assert plane.api.ask("GET", deployed_at)["spec"]["replicas"] == 1
    helm.run("upgrade", *chart, *where, values=values(inferenceExtension=ALL_SERVE), cluster=cluster)
    assert plane.api.ask("GET", deployed_at)["spec"]["replicas"] == 3


def test_a_release_of_upstreams_chart_can_be_upgraded() -> None:
    """A Deployment's selector cannot change; gateways know the Service by its name."""
    documents = rendered(UPSTREAM)
    assert deployment(documents)["spec"]["selector"]["matchLabels"] == {"inferencepool": "fleet-epp"}
    names = {
        one["kind"]: one["metadata"]["name"] for one in documents if one["kind"] in {"Deployment", "Service"}
    }
    assert names == {"Deployment": "fleet-epp", "Service": "fleet-epp"}


REFUSED = {
    "a word for a number": (
        values(inferenceExtension={"replicas": "three"}),
        "at '/inferenceExtension/replicas': got string, want integer",
    ),
    "a value that is none": (
        values(inferenceExtension={"replica": 3}),
        "at '/inferenceExtension': additional properties 'replica' not allowed",
    ),
    "another chart's values": (values(router={"epp": {}}), "additional properties 'router' not allowed"),
    "no labels": ({"inferencePool": {}}, "inferencePool.modelServers.matchLabels: is missing"),
    "nine ports": (
        {"inferencePool": {"targetPorts": [{"number": n} for n in range(1, 10)]}},
        "at '/inferencePool/targetPorts'",
    ),
    "latency prediction": (
        values(inferenceExtension={"latencyPredictor": {"enabled": True}}),
        "latency prediction by sidecars is not supported: leave it out",
    ),
    "gRPC servers": (
        {"inferencePool": {"modelServerProtocol": "grpc", "modelServers": {"matchLabels": {"app": "a"}}}},
        "inferencePool.modelServerProtocol: grpc",
    ),
    "a configuration that is not there": (
        values(inferenceExtension={"pluginsConfigFile": "mine.yaml"}),
        "mine.yaml is not in pluginsCustomConfig",
    ),
    "a drain that is too long": (
        values(inferenceExtension={"flags": {"drain-timeout": "130s"}}),
        "terminationGracePeriodSeconds: 130 must be more than drain-timeout (130s)",
    ),
    "no time to drain": (
        values(inferenceExtension={"terminationGracePeriodSeconds": 30}),
        "30 must be more than drain-timeout (30s)",
    ),
    "no servers": ({"inferencePool": {"modelServers": None}}, "modelServers.matchLabels: is missing"),
    "no target ports": (
        {"inferencePool": {"targetPorts": None, "modelServers": {"matchLabels": {"app": "qwen"}}}},
        "inferencePool.targetPorts: is missing",
    ),
    "a flag that is none": (
        values(inferenceExtension={"flags": {"nosuch": 1}}),
        "at '/inferenceExtension/flags': additional properties 'nosuch' not allowed",
    ),
    "a flag with an underscore": (
        values(inferenceExtension={"flags": {"grpc_port": 9100}}),
        "at '/inferenceExtension/flags': additional properties 'grpc_port' not allowed",
    ),
    "a flag of a list that is none": (
        values(inferenceExtension={"flags": [{"name": "nosuch", "value": 1}]}),
        "at '/inferenceExtension/flags/0/name'",
    ),
    "a file that cannot be called so": (
        values(inferenceExtension={"pluginsCustomConfig": {"a/b": "x"}}),
        "at '/inferenceExtension/pluginsCustomConfig': additional properties 'a/b' not allowed",
    ),
    "a port that is none": (
        values(inferenceExtension={"flags": {"grpc-port": 0}}),
        "inferenceExtension.flags.grpc-port: must be a port from 1 to 65535, got 0",
    ),
    "a pool on the gateway's port": (
        values(pools=[{"name": "llama", "port": 9002}]),
        "pools, llama: port 9002 is taken by inferenceExtension.extProcPort: give each its own",
    ),
    "one port for two pools": (
        values(pools=[{"name": "llama", "port": 9012}, {"name": "phi", "port": 9012}]),
        "pools, phi: port 9012 is taken by pools, llama",
    ),
    "a pool on the port of metrics": (
        values(pools=[{"name": "llama", "port": 9090}]),
        "pools, llama: port 9090 is taken by inferenceExtension.metricsPort",
    ),
    "a pool where the pod shows its metrics": (
        values(pools=[{"name": "llama", "port": 9091}], inferenceExtension={"flags": {"metrics-port": 9091}}),
        "pools, llama: port 9091 is taken by inferenceExtension.flags.metrics-port",
    ),
    "a pool on the port of health": (
        values(pools=[{"name": "llama", "port": 9003}]),
        "pools, llama: port 9003 is taken by inferenceExtension.flags.grpc-health-port",
    ),
    "a pool where the pod listens": (
        values(pools=[{"name": "llama", "port": 9100}], inferenceExtension={"flags": {"grpc-port": 9100}}),
        "pools, llama: port 9100 is taken by inferenceExtension.flags.grpc-port",
    ),
    "a port of the Service twice": (
        values(poolService={"enabled": True, "ports": [9002]}),
        "poolService.ports: port 9002 is taken by inferenceExtension.extProcPort",
    ),
    "the gateway's port is that of metrics": (
        values(inferenceExtension={"extProcPort": 9090}),
        "inferenceExtension.metricsPort: port 9090 is taken by inferenceExtension.extProcPort",
    ),
    "one port for health and metrics": (
        values(inferenceExtension={"flags": {"grpc-health-port": 9090}}),
        "flags.metrics-port: port 9090 is taken by inferenceExtension.flags.grpc-health-port",
    ),
    "a pool of the release where there is none": (
        {**CONTROLLED, "inferenceObjectives": [{"name": "low", "priority": -1}]},
        "inferenceObjectives: are of the release's own pool: give inferencePool.modelServers.matchLabels",
    ),
    "a port of the controller's pools": (
        values(compiledPools={"enabled": True}, pools=[{"name": "llama", "port": 9100}]),
        "pools, llama: port 9100 is one of those for the controller's pools (9100 to 19099): give another",
    ),
    "the controller's pools of a kind that it does not make": (
        {
            "compiledPools": {"enabled": True},
            "inferencePool": {"apiVersion": "inference.networking.x-k8s.io/v1alpha2"},
        },
        "pools: only with inferencePool.apiVersion inference.networking.k8s.io/v1",
    ),
    "nothing at all": (values(inferenceExtension={"enabled": False}), "there would be nothing"),
    "pools by name and by Service": (
        values(pools=[{"name": "llama", "port": 9012}], poolService={"enabled": True}),
        "leave one of them out",
    ),
}


@pytest.mark.parametrize("given, said", REFUSED.values(), ids=REFUSED)
def test_wrong_values_are_refused_in_words(given: Document, said: str) -> None:
    with pytest.raises(helm.Refused) as refusal:
        helm.template(given)
    assert said in str(refusal.value)


def test_the_documented_refusal_is_what_helm_says() -> None:
    shown = re.search(
        r"```console\n\$ helm template[^\n]*\n(.*?)```", (ROOT / "docs/install.md").read_text(), re.DOTALL
    )
    with pytest.raises(helm.Refused) as refusal:
        helm.run("template", "fleet", str(helm.CHART), "--set", "inferencePool.targetPort=1", values={})
    assert shown and shown[1].strip() in str(refusal.value)


# --- what holds of every Deployment -----------------------------------------------------------------


EVERY = {**VARIANTS, "deploy/kubernetes": helm.MANIFESTS / "values.yaml"}
every = pytest.mark.parametrize("given", EVERY.values(), ids=EVERY)


@every
def test_a_picker_can_do_nothing_that_it_need_not(given: Document) -> None:
    documents = of(helm.documents(helm.template(given)), PICKER)
    pod = deployment(documents)["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True and pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert picker_container(documents)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert all(mount["readOnly"] for mount in picker_container(documents)["volumeMounts"])
    for role in [*of_kind(documents, "Role"), *of_kind(documents, "ClusterRole")]:
        for rule in role["rules"]:
            writes = set(rule["verbs"]) - {"get", "list", "watch"}
            assert not writes or set(rule["resources"]) <= {"leases", "tokenreviews", "subjectaccessreviews"}
            assert "*" not in [*rule["verbs"], *rule.get("resources", ()), *rule.get("apiGroups", ())]
            assert "secrets" not in rule.get("resources", ()) or rule["resourceNames"]


@pytest.mark.parametrize(
    "name", [one for one in VARIANTS if one != "a sidecar"]
)  # which says for itself what it may
def test_its_pods_may_run_where_little_is_allowed(plane: ControlPlane, name: str) -> None:
    """Kubernetes' own Pod Security Standard, ``restricted``, enforced by the API server."""
    strict = {"pod-security.kubernetes.io/enforce": "restricted"}
    plane.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "strict", "labels": strict}})
    path = "/api/v1/namespaces/strict/pods?dryRun=All&fieldValidation=Strict"
    pod = deployment(rendered(VARIANTS[name]))["spec"]["template"]
    plane.api.ask("POST", path, {"apiVersion": "v1", "kind": "Pod", **named(pod)})
    pod["spec"]["containers"][0]["securityContext"]["allowPrivilegeEscalation"] = True
    with pytest.raises(urllib.error.HTTPError, match="403"):
        plane.api.ask("POST", path, {"apiVersion": "v1", "kind": "Pod", **named(pod)})


def named(pod: Document) -> Document:
    """As the ReplicaSet would make it."""
    return {**pod, "metadata": {**pod["metadata"], "name": "fleet-epp-0"}}


@every
def test_ports_probes_and_selectors_fit_together(given: Document) -> None:
    documents = of(helm.documents(helm.template(given)), PICKER)
    spec, picker = deployment(documents)["spec"], picker_container(documents)
    taken = parsed_flags(documents)
    ports = {port["name"]: port["containerPort"] for port in picker["ports"]}
    assert ports.get("grpc", taken.grpc_port) == taken.grpc_port and ports["metrics"] == taken.metrics_port
    assert ("grpc" in ports) is bool(taken.pool_name or taken.endpoint_selector or of_service(taken, PICKER))
    assert ports["grpc-health"] == taken.grpc_health_port
    assert picker["livenessProbe"]["grpc"] == {"port": taken.grpc_health_port, "service": "liveness"}
    assert picker["readinessProbe"]["grpc"] == {"port": taken.grpc_health_port, "service": "readiness"}

    listening = [port for one in spec["template"]["spec"]["containers"] for port in one["ports"]]
    (service,) = of_kind(documents, "Service")
    for port in service["spec"]["ports"]:
        target = port.get("targetPort", port["port"])
        assert target in [one["name"] for one in listening] + [one["containerPort"] for one in listening]
    (policy,) = of_kind(documents, "NetworkPolicy")
    let_in = [port for rule in policy["spec"]["ingress"] for port in rule["ports"]]
    assert {one["port"] for one in let_in if "endPort" not in one} == {
        one["containerPort"] for one in listening
    }
    compiled = Options(Target.GATEWAY_API, picker=PICKER)
    first, count = FIRST, COUNT
    ranges = [(one["port"], one["endPort"]) for one in let_in if "endPort" in one]
    assert ranges == ([(first, first + count - 1)] if of_service(taken, compiled.picker_service) else [])
    for pool in of_kind(documents, "InferencePool"):
        reference = pool["spec"].get("endpointPickerRef") or pool["spec"]["extensionRef"]
        port = reference["port"]["number"] if "port" in reference else reference["portNumber"]
        assert reference["name"] == service["metadata"]["name"]
        assert port in [one["port"] for one in service["spec"]["ports"]]

    labels = spec["template"]["metadata"]["labels"].items()
    selectors = [spec["selector"]["matchLabels"], service["spec"]["selector"]]
    selectors += [policy["spec"]["podSelector"]["matchLabels"]]
    selectors += [
        one["labelSelector"]["matchLabels"] for one in spec["template"]["spec"]["topologySpreadConstraints"]
    ]
    selectors += [one["spec"]["selector"]["matchLabels"] for one in of_kind(documents, "PodDisruptionBudget")]
    assert all(selector.items() <= labels for selector in selectors)


def of_service(taken: flags.ServeFlags, service: str) -> bool:
    """The pools that name this Service are served."""
    return any(wish.service == service and wish.namespace == helm.NAMESPACE for wish in taken.wishes)


@every
def test_a_picker_is_given_the_time_it_takes_to_drain(given: Document) -> None:
    documents = helm.documents(helm.template(given))
    taken = parsed_flags(documents)
    pod = deployment(documents)["spec"]["template"]["spec"]
    assert taken.drain_timeout < pod["terminationGracePeriodSeconds"]


@pytest.mark.parametrize(
    "given, elects, strategy, budgets",
    [
        pytest.param({}, False, "RollingUpdate", 0, id="one"),
        pytest.param({"replicas": 3}, True, "Recreate", 0, id="one of three"),
        pytest.param(ALL_SERVE, False, "RollingUpdate", 1, id="three"),
        pytest.param({"flags": {"ha-enable-leader-election": True}}, True, "Recreate", 0, id="one, elected"),
    ],
)
def test_how_several_replicas_are_replaced(
    given: Document, elects: bool, strategy: str, budgets: int
) -> None:
    documents = rendered(values(inferenceExtension=given))
    arguments = picker_container(documents)["args"]
    assert ("--ha-enable-leader-election=true" in arguments) == elects
    assert deployment(documents)["spec"]["strategy"]["type"] == strategy
    assert len(of_kind(documents, "PodDisruptionBudget")) == budgets
    assert any("leases" in str(role["rules"]) for role in of_kind(documents, "Role")) == elects


# --- the manifests ----------------------------------------------------------------------------------


NOT_RENDERED = {"values.yaml", "kustomization.yaml"}
FOLDERS = pytest.mark.parametrize(
    "folder", [helm.MANIFESTS, helm.MANIFESTS / helm.CONTROLLER], ids=lambda p: p.name
)


def files(folder: Path) -> dict[str, str]:
    """Of a kustomization, as they are to be."""
    where = folder.relative_to(helm.MANIFESTS)
    return {Path(name).name: text for name, text in helm.manifests().items() if Path(name).parent == where}


def test_the_manifests_are_the_chart() -> None:
    written = {
        str(path.relative_to(helm.MANIFESTS)): path.read_text(encoding="utf-8")
        for path in helm.MANIFESTS.rglob("*.yaml")
        if path.name not in NOT_RENDERED
    }
    assert written == helm.manifests(), "make manifests"


@FOLDERS
def test_the_kustomization_has_them_all(folder: Path) -> None:
    listed = yaml.safe_load((folder / "kustomization.yaml").read_text())
    assert listed["namespace"] == helm.NAMESPACE
    assert set(listed["resources"]) == set(files(folder)) - {"monitoring.yaml"}


def test_the_manifests_are_applied(plane: ControlPlane) -> None:
    for text in helm.manifests().values():
        apply(plane, helm.documents(text))


@pytest.mark.skipif(
    not shutil.which("kubectl"),
    reason="no kubectl: that deploy/kubernetes is a kustomization was not tested, its files alone were",
)
@FOLDERS
def test_the_kustomization_is_applied_by_kubectl(plane: ControlPlane, folder: Path) -> None:
    for document in (each for text in files(folder).values() for each in helm.documents(text)):
        if kind(document) not in ONLY_PARSED:  # kubectl does not take over what others have written
            with there(plane, [document], helm.NAMESPACE):
                pass
    command = ["kubectl", "--kubeconfig", plane.kubeconfig(ADMIN), "apply", "--kustomize", folder]
    done = subprocess.run([str(one) for one in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    applied = len(
        re.findall(
            r"^\S+/\S+ (?:created|configured|serverside-applied|unchanged)$", done.stdout, re.MULTILINE
        )
    )
    assert applied == sum(
        len(helm.documents(text)) for name, text in files(folder).items() if name != "monitoring.yaml"
    )


@FOLDERS
def test_every_rule_says_why(folder: Path) -> None:
    lines = (folder / "rbac.yaml").read_text().splitlines()
    rules = [n for n, line in enumerate(lines) if re.match(r"- (apiGroups|nonResourceURLs):", line)]
    assert rules and [lines[n] for n in rules if not lines[n - 1].startswith("# ")] == []


# --- the pages --------------------------------------------------------------------------------------


GATEWAYS = sorted((ROOT / "docs" / "gateways").glob("*.md"))
PAGES = [*GATEWAYS, ROOT / "docs" / "install.md", ROOT / "docs" / "kubernetes.md"]
NOT_OBJECTS = {
    ("envoy.md", "metadata_options"),  # a part of Envoy's own configuration
    ("envoy-ai-gateway.md", "extensionApis"),  # of Envoy Gateway's
    ("install.md", "endpoints"),  # the endpoints file
}


@dataclass(frozen=True, slots=True)
class Written:
    """The YAML of a page."""

    objects: list[Document]
    values: list[Document]
    others: set[tuple[str, str]]


def written(page_path: Path) -> Written:
    objects, given, others = [], [], set()
    for block in re.findall(r"^```yaml\n(.*?)^```", page_path.read_text(), re.DOTALL | re.MULTILINE):
        for document in helm.documents(block):
            if "apiVersion" in document and "kind" in document:
                objects.append(document)
            elif document.keys() & {"inferenceExtension", "inferencePool", "controller"}:
                given.append(document)
            else:
                others.add((page_path.name, next(iter(document))))
    return Written(objects, given, others)


@pytest.mark.parametrize("page_path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_page_has_is_applied(plane: ControlPlane, page_path: Path) -> None:
    found = written(page_path)
    apply(plane, found.objects)
    for given in found.values:
        apply(plane, rendered(given))


def test_what_is_only_parsed_is_of_a_few_kinds(
    plane: ControlPlane, capsys: pytest.CaptureFixture[str]
) -> None:
    pages = [written(page) for page in PAGES]
    documents = [one for page in pages for one in page.objects]
    documents += [one for text in helm.manifests().values() for one in helm.documents(text)]
    for given in (*VARIANTS.values(), *(given for page in pages for given in page.values)):
        documents += rendered(given)
    kinds = {kind(one) for one in documents}
    not_here = {each for each in kinds if not is_offered(plane, *each)}
    with capsys.disabled():
        names = ", ".join(f"{name} ({version})" for version, name in sorted(not_here))
        print(f"\nonly parsed, for their CRDs are not here: {names}")  # noqa: T201 (for people)
    assert not_here == ONLY_PARSED


def test_no_block_of_a_page_is_passed_over() -> None:
    assert set().union(*(written(one).others for one in PAGES)) == NOT_OBJECTS


@pytest.mark.parametrize("page_path", GATEWAYS, ids=lambda path: path.name)
def test_a_page_fits_the_manifests(page_path: Path) -> None:
    """Its pool is theirs, is picked for by their Service, and is what its route leads to."""
    objects = written(page_path).objects
    if not objects:
        assert page_path.name == "envoy.md"
        return
    plain = [one for text in helm.manifests().values() for one in helm.documents(text)]
    (service,), (pool,) = of_kind(of(plain, PICKER), "Service"), of_kind(objects, "InferencePool")
    assert of_kind(plain, "InferencePool")[0]["spec"] == {
        **pool["spec"],
        "endpointPickerRef": {"failureMode": "FailClose", **pool["spec"]["endpointPickerRef"]},
    }
    (gateway,) = of_kind(objects, "Gateway")
    (route,) = [*of_kind(objects, "HTTPRoute"), *of_kind(objects, "AIGatewayRoute")]
    assert route["spec"]["parentRefs"][0]["name"] == gateway["metadata"]["name"]
    assert route["spec"]["rules"][0]["backendRefs"] == [
        {"group": group(pool), "kind": "InferencePool", "name": pool["metadata"]["name"]}
    ]
    for rule in of_kind(objects, "DestinationRule"):
        assert rule["spec"]["host"] == f"{service['metadata']['name']}.{helm.NAMESPACE}.svc.cluster.local"
    for policy in objects:
        for target in policy["spec"].get("targetRefs", [policy["spec"].get("targetRef")]):
            assert target is None or target["name"] in {one["metadata"]["name"] for one in objects}
    assert {one["metadata"].get("namespace", helm.NAMESPACE) for one in objects} == {helm.NAMESPACE}


def test_the_plain_envoys_file_is_the_sidecars() -> None:
    """By the command of the page."""
    (given,) = written(ROOT / "docs" / "gateways" / "envoy.md").values
    envoy = ROOT / "deploy" / "envoy" / "envoy.yaml"
    where = r"inferenceExtension.sidecar.configMap.data.envoy\.yaml"
    text = helm.run(
        *("template", helm.RELEASE, str(helm.CHART), "--set-file", f"{where}={envoy}"), values=given
    )
    documents = helm.documents(text)
    (config,) = [one for one in of_kind(documents, "ConfigMap") if one["metadata"]["name"] == "envoy"]
    assert config["data"] == {"envoy.yaml": envoy.read_text(encoding="utf-8")}
    (sidecar,) = [
        one
        for one in deployment(documents)["spec"]["template"]["spec"]["containers"]
        if one["name"] == "envoy"
    ]
    (port,) = [one["containerPort"] for one in sidecar["ports"]]
    assert f"port_value: {port}}}" in config["data"]["envoy.yaml"]
    assert parsed_flags(documents).grpc_port == 9002 and "port_value: 9002}" in config["data"]["envoy.yaml"]


def test_istio_is_told_how_to_speak_to_the_picker() -> None:
    def policy(**more: Any) -> Any:
        return of_kind(rendered(values(provider={"name": "istio"}, **more)), "DestinationRule")[0]["spec"]

    unverified = {"mode": "SIMPLE", "insecureSkipVerify": True}
    assert policy() == {"host": "fleet-epp.models.svc.cluster.local", "trafficPolicy": {"tls": unverified}}
    own = {"destinationRule": {"host": "a.b", "trafficPolicy": {"tls": {"mode": "MUTUAL"}}}}
    assert policy(istio=own) == {"host": "a.b", "trafficPolicy": {"tls": {"mode": "MUTUAL"}}}
    plain = policy(inferenceExtension={"flags": {"secure-serving": False}})
    assert plain["trafficPolicy"] == {}
    both = of_kind(rendered(VARIANTS["with the controller, Istio"]), "DestinationRule")
    assert {one["spec"]["host"].partition(".")[0] for one in both} == {"fleet-epp", "fleet-epp-pools"}


# --- what a kubelet starts --------------------------------------------------------------------------


def at_ports(given: Document, server: LlamaServer) -> Document:
    """The same values on free ports, for a pool of this server."""
    extension = given.get("inferenceExtension", {})
    ports = {flag: free_port() for flag in PORTS}
    pool = {"targetPorts": [{"number": server.port}], "modelServers": {"matchLabels": {"app": "qwen"}}}
    return {
        **given,
        "inferenceExtension": {
            **extension,
            "extProcPort": ports[
                "grpc-port"
            ],  # as two replicas on one machine cannot be told apart otherwise
            "flags": {"drain-timeout": "1s", **extension.get("flags", {}), **ports},
        },
        "inferencePool": {**given["inferencePool"], **pool},
    }


@contextmanager
def deployed(
    plane: ControlPlane, given: Document, namespace: str, folder: Path, name: str = "fleet-epp-0"
) -> Iterator[Pod]:
    """The chart is installed, and the kubelet has started one of its pods."""
    documents = helm.documents(helm.template(given, namespace=namespace))
    with there(plane, documents, namespace), Pod(plane, documents, namespace, folder, name) as pod:
        yield pod


STARTED = {
    "defaults": values(),
    "upstream's values": {**UPSTREAM, "inferenceObjectives": []},
    "all serve": values(inferenceExtension=ALL_SERVE),
    "monitoring": values(inferenceExtension=PROMETHEUS),
    "tracing": values(inferenceExtension=TRACING),
    "labels and no pool": {"inferencePool": {"enabled": False}},
}


@pytest.mark.parametrize("name", STARTED)
def test_the_deployment_starts_and_picks(
    plane: ControlPlane, name: str, servers: list[LlamaServer], tmp_path: Path
) -> None:
    server, given = servers[0], at_ports(STARTED[name], servers[0])
    plane.apply(server_pod("started", server))
    with deployed(plane, given, "started", tmp_path) as pod:
        assert pod.probe("liveness")
        wait_until(lambda: serves(pod) == {"qwen-0-rank-0"}, what="its pod serves")
        assert picked(pod) == server.address
        assert json.loads(shown(pod, "/readyz")[1]).get("details", {}) == {}
        assert "answers 403" not in pod.log.read_text()
        assert pod.terminate() == 0


def test_metrics_are_for_those_whom_the_rules_let(
    plane: ControlPlane, servers: list[LlamaServer], tmp_path: Path
) -> None:
    given = at_ports(values(inferenceExtension=PROMETHEUS), servers[0])
    plane.apply(
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "any", "namespace": "other"}}
    )
    with deployed(plane, given, "started", tmp_path) as pod:
        assert shown(pod, "/metrics", token(plane, "started", "fleet-epp"))[0] == 200  # Prometheus has it
        assert shown(pod, "/debug/picks", token(plane, "started", "fleet-epp"))[0] == 403
        assert shown(pod, "/metrics", token(plane, "other", "any"))[0] == 403
        assert http_get(f"{pod.metrics_url}/metrics")[0] == 401


def test_the_documented_account_may_read_every_page(
    plane: ControlPlane, servers: list[LlamaServer], tmp_path: Path
) -> None:
    """Of docs/install.md, "Does it work"."""
    install = written(ROOT / "docs" / "install.md").objects
    with (
        there(plane, install, helm.NAMESPACE),
        deployed(plane, at_ports(values(), servers[0]), "started", tmp_path) as pod,
    ):
        (account,) = of_kind(install, "ServiceAccount")
        reader = token(plane, account["metadata"]["namespace"], account["metadata"]["name"])
        for path in ("/metrics", "/debug/endpoints", "/debug/picks", "/debug/tasks"):
            assert shown(pod, path, reader)[0] == 200
        assert http_get(f"{pod.metrics_url}/debug/endpoints")[0] == 401
        assert http_get(f"{pod.metrics_url}/readyz")[0] == 200


def pool_of(name: str, server: LlamaServer, port: int) -> Document:
    return {
        "apiVersion": "inference.networking.k8s.io/v1",
        "kind": "InferencePool",
        "metadata": {"name": name},
        "spec": {
            "selector": {"matchLabels": {"app": name}},
            "targetPorts": [{"number": server.port}],
            "endpointPickerRef": {"name": "fleet-epp", "port": {"number": port}},
        },
    }


def test_one_picker_serves_the_pools_that_are_named(
    plane: ControlPlane, servers: list[LlamaServer], tmp_path: Path
) -> None:
    """One of them in another namespace, where the chart puts a Role as well."""
    first, second, third = servers
    ports = [free_port(), free_port()]
    named_pools = [
        {"name": "llama", "port": ports[0]},
        {"name": "phi", "namespace": "other", "port": ports[1]},
    ]
    plane.apply(
        server_pod("started", first),
        server_pod("started", second, "llama"),
        server_pod("other", third, "phi"),
    )
    with (
        there(plane, [pool_of("llama", second, ports[0])], "started"),
        there(plane, [pool_of("phi", third, ports[1])], "other"),
        deployed(plane, at_ports(values(pools=named_pools), first), "started", tmp_path) as pod,
    ):
        names = {"qwen-0-rank-0", "llama-0-rank-0", "phi-0-rank-0"}
        wait_until(lambda: serves(pod) == names, what="all pools serve")
        served = [picked(pod), *(picked(pod, port) for port in ports)]
        assert served == [first.address, second.address, third.address]
        assert "answers 403" not in pod.log.read_text()


def test_one_picker_serves_the_pools_of_its_service(
    plane: ControlPlane, servers: list[LlamaServer], tmp_path: Path
) -> None:
    """The release's own, and one that comes later."""
    first, second = servers[:2]
    port = free_port()
    given = at_ports(values(poolService={"enabled": True, "ports": [port]}), first)
    plane.apply(server_pod("started", first), server_pod("started", second, "llama"))
    with deployed(plane, given, "started", tmp_path) as pod:
        wait_until(lambda: serves(pod) == {"qwen-0-rank-0"}, what="its own pool serves")
        with there(plane, [pool_of("llama", second, port)], "started"):
            wait_until(lambda: serves(pod) == {"qwen-0-rank-0", "llama-0-rank-0"}, what="both serve")
            assert (picked(pod), picked(pod, port)) == (first.address, second.address)
        assert "answers 403" not in pod.log.read_text()


def test_of_two_replicas_one_is_ready_and_the_other_takes_over(
    plane: ControlPlane, servers: list[LlamaServer], tmp_path: Path
) -> None:
    server = servers[0]
    given = [at_ports(values(inferenceExtension={"replicas": 2}), server) for _ in range(2)]
    plane.apply(server_pod("standing-by", server))
    documents = [helm.documents(helm.template(one, namespace="standing-by")) for one in given]
    with there(plane, documents[0], "standing-by"):
        pods = [Pod(plane, one, "standing-by", tmp_path, f"fleet-epp-{n}") for n, one in enumerate(documents)]
        with pods[0] as leader, ExitStack() as parts:
            standby = pods[1].launch()
            parts.callback(standby.stop)
            wait_until(lambda: standby.probe("liveness"), what="the standby lives")
            assert leader.probe("readiness") and not standby.probe("readiness")
            assert leader.terminate() == 0
            wait_until(lambda: standby.probe("readiness"), what="the standby leads")
            wait_until(lambda: serves(standby) == {"qwen-0-rank-0"}, what="its pod serves")
            assert picked(standby) == server.address


def test_the_role_gives_no_more_than_it_says(plane: ControlPlane) -> None:
    """By the API server's own word, for the ServiceAccount of deploy/kubernetes."""
    apply(plane, helm.documents(helm.manifests()["rbac.yaml"]), "other")

    def may(verb: str, resource: str, api_group: str = "", namespace: str = "other") -> bool:
        asked = {"verb": verb, "resource": resource, "group": api_group, "namespace": namespace}
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {"user": "system:serviceaccount:other:fleet-epp", "resourceAttributes": asked},
        }
        path = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
        return bool(plane.api.ask("POST", path, review)["status"]["allowed"])

    assert may("watch", "pods") and may("list", "inferencepools", "inference.networking.k8s.io")
    assert may("update", "leases", "coordination.k8s.io")
    assert not may("list", "pods", namespace="started") and not may("list", "secrets")
    assert not may("delete", "pods") and not may("create", "pods") and not may("delete", "leases")
    assert not may("update", "inferencepools", "inference.networking.k8s.io")
