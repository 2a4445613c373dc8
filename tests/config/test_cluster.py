"""Kubernetes objects to endpoints: what each object makes, and what each oddity makes of it."""

import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp.config.cluster.endpoints import PRESSURE_HOLDS, Translation, translate
from epp.config.cluster.objects import (
    Cluster,
    InferenceService,
    Members,
    Model,
    OldPool,
    PickerRef,
    Pod,
    Pool,
    Slice,
)
from epp.config.endpoints_file import read_tier
from epp.core.fleet import EndpointSpec, Fleet

NOW = 1_763_719_200.0  # 2025-11-21T10:00:00Z
FRESH, STALE = "2025-11-21T09:59:50Z", "2025-11-21T09:56:00Z"
NAMESPACE = "models"


def pool(*ports: int, slices: str | None = None) -> Members:
    annotations = {} if slices is None else {"fleet-epp.dev/endpoint-slices": slices}
    found: Pool = of(
        Pool,
        metadata={"name": "qwen", "namespace": NAMESPACE, "annotations": annotations},
        spec={
            "selector": {"matchLabels": {"app": "qwen", "a": "b"}},
            "targetPorts": [{"number": port} for port in ports or (8000,)],
        },
    )
    return found.members


def of(kind: Any, **fields: Any) -> Any:
    """As it comes from the API: by way of JSON."""
    return msgspec.json.decode(json.dumps(fields), type=kind)


def pod(name: str = "qwen-0", ip: str | None = "10.0.0.1", *, ready: bool = True, **more: Any) -> Pod:
    labels = more.pop("labels", {"app": "qwen"})
    annotations = more.pop("annotations", None)
    deleted = more.pop("deleted", None)
    conditions = more.pop("conditions", [{"type": "Ready", "status": "True" if ready else "False"}])
    return of(
        Pod,
        metadata={
            "name": name,
            "namespace": NAMESPACE,
            "labels": labels,
            "annotations": annotations,
            **({"deletionTimestamp": deleted} if deleted else {}),
        },
        status={"phase": "Running", "podIP": ip, "hostIP": "192.168.7.1", "conditions": conditions, **more},
    )


def metal(
    name: str = "phi",
    ip: str = "192.168.1.20",
    port: int = 50123,
    *,
    ready: bool | None = True,
    beat: str | None = FRESH,
    service: str | None = None,
    **labels: str,
) -> Slice:
    """As LLMKube's metal agent writes it."""
    service = service or name
    return of(
        Slice,
        metadata={
            "name": name,
            "namespace": NAMESPACE,
            "labels": {
                "kubernetes.io/service-name": service,
                "app": service,
                "llmkube.ai/managed-by": "metal-agent",
                "llmkube.ai/inference-service": service,
                **labels,
            },
            "annotations": {} if beat is None else {"llmkube.ai/agent-heartbeat": beat},
        },
        addressType="IPv4",
        endpoints=[
            {
                "addresses": [ip],
                "conditions": {} if ready is None else {"ready": ready},
                "targetRef": {"kind": "Pod", "name": f"{service}-metal"},
            }
        ],
        ports=[{"name": "http", "port": port, "protocol": "TCP"}],
    )


def plain_slice(
    *endpoints: dict[str, Any], ports: Iterable[dict[str, Any]] = (), kind: str = "IPv4"
) -> Slice:
    """As people write them for a Service without selector."""
    return of(
        Slice,
        metadata={"name": "macs-1", "namespace": NAMESPACE, "labels": {"kubernetes.io/service-name": "macs"}},
        addressType=kind,
        endpoints=list(endpoints),
        ports=list(ports) or [{"port": 8080}],
    )


def service(name: str = "phi", phase: str = "Ready", **status: Any) -> dict[str, InferenceService]:
    told = of(
        InferenceService,
        metadata={"name": name},
        spec={"modelRef": "phi-3-mini"},
        status={"phase": phase, **status},
    )
    return {name: told}


def model(phase: str) -> dict[str, Model]:
    return {"phi-3-mini": of(Model, metadata={"name": "phi-3-mini"}, status={"phase": phase})}


def run(*objects: Pod | Slice, now: float = NOW, engines: tuple[str, ...] = (), **more: Any) -> Translation:
    cluster = Cluster(
        pool=more.pop("pool", pool()),
        pods=[one for one in objects if isinstance(one, Pod)],
        slices=[one for one in objects if isinstance(one, Slice)],
        **more,
    )
    return translate(cluster, now, engines=engines)


def addresses(found: Translation) -> list[str]:
    return [spec.address for spec in found.specs]


def only(found: Translation) -> EndpointSpec:
    (spec,) = found.specs
    return spec


# --- the pool ---------------------------------------------------------------------------------------


def test_without_a_pool_there_are_no_endpoints() -> None:
    assert run(pod(), metal(), pool=None) == Translation(specs=())


def test_a_pool_says_which_pods_and_slices_belong_to_it() -> None:
    assert pool().selector == "a=b,app=qwen"
    assert pool().slices == ""
    assert pool(slices=" fleet=macs,llmkube.ai/managed-by=metal-agent ").slices == (
        "fleet=macs,llmkube.ai/managed-by=metal-agent"
    )


def test_an_older_pool_says_the_same_in_other_words() -> None:
    old: OldPool = of(
        OldPool,
        metadata={"name": "qwen", "namespace": NAMESPACE},
        spec={
            "selector": {"app": "qwen", "a": "b"},
            "targetPortNumber": 8000,
            "extensionRef": {"name": "fleet-epp", "portNumber": 9002},
        },
    )
    assert replace(old.members, picker=None) == pool()
    assert old.members.picker is not None
    assert (old.members.picker.name, old.members.picker.port_number) == ("fleet-epp", 9002)
    assert addresses(run(pod(), pool=old.members)) == ["10.0.0.1:8000"]


def test_pods_may_be_selected_without_a_pool() -> None:
    own = Members(name="", namespace=NAMESPACE, selector="app in (a)", ports=(8000, 8001))
    assert addresses(run(pod(), pool=own)) == ["10.0.0.1:8000", "10.0.0.1:8001"]


def test_a_pool_that_selects_nothing_says_so() -> None:
    """The kinds before v1 let it through."""
    nothing = replace(pool(), selector="", labels={})
    assert run(pool=nothing).findings == (
        "InferencePool qwen: its selector is empty, so that no pod belongs to it: name their labels",
    )
    assert run(pool=replace(nothing, slices="fleet=macs")).findings == (), "machines outside are enough"


def test_a_port_that_is_there_twice_counts_once() -> None:
    found = run(pod(), pool=pool(8000, 8000, 8001))
    assert [(spec.name, spec.port) for spec in found.specs] == [
        ("qwen-0-rank-0", 8000),
        ("qwen-0-rank-2", 8001),
    ]
    assert found.findings == ("InferencePool qwen: target port 8000 is there twice: it counts once",)


def test_a_pool_whose_picker_is_no_service() -> None:
    with_picker = replace(pool(), picker=PickerRef(name="fleet-epp"))
    assert run(pod(), pool=with_picker).findings == ()
    found = run(pod(), pool=with_picker, has_picker_service=False)
    assert len(found.specs) == 1
    assert found.findings == (
        (
            "InferencePool qwen: there is no Service fleet-epp, which it names as its picker: gateways do not"
            " find the picker: create it or correct the pool"
        ),
    )


def test_pods_that_belong_to_two_pools_are_told() -> None:
    """Not selectors that might meet: pods that do."""
    other = replace(pool(), name="large", labels={"app": "qwen"})
    apart = replace(pool(), name="apart", labels={"app": "qwen", "size": "large"})
    empty = replace(pool(), name="empty", selector="", labels={})
    alone = run(pod("qwen-1", "10.0.0.2"), pod(), neighbours=[apart, empty])
    assert alone.findings == ()
    both = run(pod("qwen-1", "10.0.0.2"), pod(), neighbours=[other, apart])
    assert both.specs == alone.specs
    three = run(pod(), neighbours=[other, replace(other, name="a-third")])
    assert ["a-third" in finding for finding in three.findings] == [True, False]
    assert both.findings == (
        (
            "InferencePool qwen: pod qwen-0 and 1 more belong to InferencePool large as well, whose picker"
            " does not see what is sent there from here: make the selectors disjoint"
        ),
    )


# --- pods -------------------------------------------------------------------------------------------


NEW, OLD = "llm-d.ai/active-ports", "inference.networking.k8s.io/active-ports"


@pytest.mark.parametrize(
    "annotations, ranks, finding",
    [
        ({}, [0, 1, 2], ""),
        ({NEW: "8000,8001,8002"}, [0, 1, 2], ""),
        ({NEW: " 8002 , 8000"}, [0, 2], ""),
        ({OLD: "8001"}, [1], ""),
        ({NEW: "8002", OLD: "8001"}, [2], ""),
        ({NEW: ""}, [], ""),
        ({NEW: "8001,9999"}, [1], f"{NEW}: 9999 is none of the pool's target ports"),
        ({NEW: "9999"}, [], f"{NEW}: 9999 is none of the pool's target ports"),
        ({NEW: "8001,8002x"}, [1], f"{NEW}: '8002x' is no port"),
        ({NEW: "8001,0"}, [1], f"{NEW}: '0' is no port"),
        ({NEW: "all of them"}, [0, 1, 2], f"{NEW}: 'all of them' is no port; all of the pool's count"),
        ({OLD: "70000"}, [0, 1, 2], f"{OLD}: '70000' is no port; all of the pool's count"),
    ],
)
def test_a_pod_may_serve_on_some_of_the_ports(
    annotations: dict[str, str], ranks: list[int], finding: str
) -> None:
    """A rank is the port's place in the pool, whichever others are active. Rubbish stops no pod."""
    found = run(pod(annotations=annotations), pool=pool(8000, 8001, 8002))
    assert [spec.name for spec in found.specs] == [f"qwen-0-rank-{rank}" for rank in ranks]
    assert found.findings == ((f"pod qwen-0: annotation {finding}",) if finding else ())


@given(text=st.text(alphabet="0123456789,x -+٣\n", max_size=30))
def test_whatever_the_annotation_says_ports_are_the_pools(text: str) -> None:
    found = run(pod(annotations={NEW: text}), pool=pool(8000, 8001))
    assert {spec.port for spec in found.specs} <= {8000, 8001}
    if not text.strip(", \n"):
        assert found.specs == ()
    assert len(found.findings) <= 2


def test_a_ready_pod_is_an_endpoint_for_each_port() -> None:
    found = run(pod(), pod("qwen-1", "10.0.0.2"), pool=pool(8000, 8001))
    assert [(spec.name, spec.address) for spec in found.specs] == [
        ("qwen-0-rank-0", "10.0.0.1:8000"),
        ("qwen-0-rank-1", "10.0.0.1:8001"),
        ("qwen-1-rank-0", "10.0.0.2:8000"),
        ("qwen-1-rank-1", "10.0.0.2:8001"),
    ]
    first = found.specs[0]
    assert {spec.node for spec in found.specs} == {"192.168.7.1"}
    assert (first.namespace, first.labels, first.identity) == (NAMESPACE, {"app": "qwen"}, "")
    assert (first.hold, first.leaving, first.pressure, first.note) == ("", "", "", "")


def test_an_ipv6_pod_is_written_as_a_gateway_wants_it() -> None:
    assert only(run(pod(ip="fd00::1"))).address == "[fd00::1]:8000"


def container(name: str = "vllm", **state: Any) -> dict[str, Any]:
    return {"name": name, "ready": False, "state": state}


@pytest.mark.parametrize(
    "status, reason",
    [
        pytest.param({}, "its Ready condition is not True", id="nothing-said"),
        pytest.param({"conditions": []}, "its Ready condition is not True", id="no-condition"),
        pytest.param(
            {"containerStatuses": [container(running={})]},
            "container vllm does not pass its readiness probe",
            id="probe",
        ),
        pytest.param(
            {"containerStatuses": [{**container("proxy", running={}), "ready": True}, container(running={})]},
            "container vllm does not pass its readiness probe",
            id="probe-of-the-second",
        ),
        pytest.param(
            {"conditions": [{"type": "Ready", "status": "False", "reason": "NodeLost"}]},
            "NodeLost",
            id="reason-without-message",
        ),
        pytest.param(
            {"containerStatuses": [container(waiting={"reason": "CrashLoopBackOff"})]},
            "container vllm waits: CrashLoopBackOff",
            id="crashing",
        ),
        pytest.param(
            {"containerStatuses": [container(waiting={"message": "back-off\n  5 min"})]},
            "container vllm waits: back-off 5 min",
            id="message-without-reason",
        ),
        pytest.param(
            {"containerStatuses": [container(terminated={"reason": "OOMKilled", "exitCode": 137})]},
            "container vllm has ended: OOMKilled",
            id="ended",
        ),
        pytest.param(
            {"containerStatuses": [container(terminated={"exitCode": 3})]},
            "container vllm has ended: status 3",
            id="ended-without-reason",
        ),
        pytest.param(
            {
                "initContainerStatuses": [
                    container("fetch-config", terminated={"exitCode": 0}),
                    container("model-downloader", running={}),
                ],
                "containerStatuses": [container(waiting={"reason": "PodInitializing"})],
            },
            "init container model-downloader has not finished",
            id="downloading",
        ),
        pytest.param(
            {
                "initContainerStatuses": [
                    container("fetch-config", terminated={"reason": "Error", "exitCode": 1})
                ],
                "containerStatuses": [container(waiting={"reason": "PodInitializing"})],
            },
            "init container fetch-config has ended: Error",
            id="downloading-failed",
        ),
        pytest.param(
            {
                "conditions": [
                    {
                        "type": "Ready",
                        "status": "False",
                        "reason": "ReadinessGatesNotReady",
                        "message": "gate x",
                    }
                ]
            },
            "ReadinessGatesNotReady: gate x",
            id="gates",
        ),
    ],
)
def test_a_pod_that_is_not_ready_is_held_with_its_reason(status: dict[str, Any], reason: str) -> None:
    assert only(run(pod(ready=False, **status))).hold == f"pod is not ready: {reason}"


def test_a_pod_that_is_deleted_is_leaving_ready_or_not() -> None:
    for ready in (True, False):
        spec = only(run(pod(ready=ready, deleted="2025-11-21T10:00:00Z")))
        assert spec.leaving == "pod is terminating"


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
def test_a_pod_whose_containers_have_ended_for_good_is_none(phase: str) -> None:
    assert run(pod(ready=False, phase=phase)) == Translation(specs=())


def test_a_pod_without_an_address_is_waited_for() -> None:
    unscheduled = {
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": "0/3 nodes are available: 3 Insufficient nvidia.com/gpu.",
    }
    found = run(pod(ip=None, ready=False, conditions=[unscheduled]))
    assert found.specs == ()
    assert found.waiting == (
        "pod qwen-0: Unschedulable: 0/3 nodes are available: 3 Insufficient nvidia.com/gpu.",
    )


def test_a_pod_that_is_ready_without_an_address_is_odd() -> None:
    found = run(pod(ip=None))
    assert found.waiting == ("pod qwen-0: it has no address",)
    assert found.findings == ("pod qwen-0: it is Ready without an address: see its node",)


def test_one_that_is_deleted_before_it_had_an_address_is_not() -> None:
    for ready in (False, True):
        assert run(pod(ip=None, ready=ready, deleted="2025-11-21T10:00:00Z")) == Translation(specs=())


def test_two_pods_with_one_address_are_one_server_and_the_one_that_stays_counts() -> None:
    """On the host's network a new pod takes over the port of the one that leaves."""
    old = pod("old", deleted="2025-11-21T10:00:00Z")
    assert only(run(old, pod("zz-new"))).name == "zz-new-rank-0"


def test_of_two_pods_with_one_address_the_one_that_is_ready_counts() -> None:
    assert only(run(pod("a-crashing", ready=False), pod("zz-new"))).name == "zz-new-rank-0"


def test_what_a_pod_says_is_not_said_of_another_that_has_its_address() -> None:
    assert only(run(pod("old", ready=False), pod("zz-new"))).hold == ""


@pytest.mark.parametrize(
    "labels, engine, findings",
    [
        ({}, None, 0),
        ({"fleet-epp.dev/engine": "sglang"}, "sglang", 0),
        ({"fleet-epp.dev/engine": "vlm"}, None, 1),
        ({"inference.llmkube.dev/runtime": "llamacpp-router"}, "llamacpp", 0),
        ({"inference.llmkube.dev/runtime": "vllm"}, "vllm", 0),
        ({"inference.llmkube.dev/runtime": "personaplex"}, None, 0),
        ({"inference.llmkube.dev/runtime": "vllm", "fleet-epp.dev/engine": "sglang"}, "sglang", 0),
    ],
)
def test_labels_may_name_the_engine(labels: dict[str, str], engine: str | None, findings: int) -> None:
    found = run(pod(labels=labels), engines=("vllm", "sglang", "llamacpp"))
    assert only(found).engine == engine
    assert len(found.findings) == findings


def test_annotations_may_name_engine_and_tier() -> None:
    said = {"fleet-epp.dev/engine": "vllm", "fleet-epp.dev/tier": "2"}
    spec = only(run(pod(annotations=said), engines=("vllm",)))
    assert (spec.engine, spec.tier) == ("vllm", 2)


@pytest.mark.parametrize("said", ["-1", "1000", "first", "²", "1.5"])
def test_rubbish_for_a_tier_is_said_and_means_0(said: str) -> None:
    found = run(pod(annotations={"fleet-epp.dev/tier": said}))
    assert only(found).tier == 0
    assert found.findings == (f"pod qwen-0: fleet-epp.dev/tier must be from 0 to 999, got {said!a}",)


@given(said=st.text("0123456789 -²x", max_size=5) | st.integers(0, 1001).map(str))
def test_a_tier_is_the_same_on_a_pod_as_in_a_file(said: str) -> None:
    found = run(pod(annotations={"fleet-epp.dev/tier": said}))
    tier = read_tier(said.strip())
    assert only(found).tier == (tier or 0)
    assert bool(found.findings) == (tier is None and bool(said.strip()))


# --- slices -----------------------------------------------------------------------------------------


def test_a_slice_of_the_metal_agent_is_an_endpoint() -> None:
    spec = only(run(metal()))
    assert (spec.name, spec.namespace, spec.address) == ("phi", NAMESPACE, "192.168.1.20:50123")
    assert spec.labels["llmkube.ai/managed-by"] == "metal-agent"
    assert (spec.hold, spec.leaving, spec.note) == ("", "", "")


def test_it_stays_the_same_with_a_new_lease_and_a_new_port() -> None:
    before, after = only(run(metal())), only(run(metal(ip="192.168.1.77", port=61000)))
    assert before.address != after.address
    assert (before.name, before.server) == (after.name, after.server)


def test_pods_and_slices_are_one_pool() -> None:
    found = run(pod(), metal())
    assert [spec.name for spec in found.specs] == ["qwen-0-rank-0", "phi"]


@pytest.mark.parametrize(
    "conditions, hold, leaving",
    [
        ({}, "", ""),
        ({"ready": True}, "", ""),
        ({"ready": False}, "EndpointSlice macs-1 says not ready", ""),
        ({"ready": None, "serving": True}, "", ""),
        (
            {"ready": False, "serving": True, "terminating": True},
            "EndpointSlice macs-1 says not ready",
            "EndpointSlice macs-1 says terminating",
        ),
        ({"ready": True, "terminating": True}, "", "EndpointSlice macs-1 says terminating"),
    ],
)
def test_conditions_of_a_slice(conditions: dict[str, Any], hold: str, leaving: str) -> None:
    spec = only(run(plain_slice({"addresses": ["192.168.1.5"], "conditions": conditions})))
    assert (spec.hold, spec.leaving) == (hold, leaving)


def test_a_slice_that_is_deleted_has_no_endpoints() -> None:
    gone = of(
        Slice,
        metadata={"name": "x", "deletionTimestamp": FRESH},
        addressType="IPv4",
        endpoints=[{"addresses": ["192.168.1.5"]}],
        ports=[{"port": 1}],
    )
    assert run(gone).specs == ()


def test_host_names_tell_the_servers_of_a_slice_apart_whatever_their_addresses() -> None:
    def macs(studio: str, mini: str) -> dict[str, EndpointSpec]:
        backends = (
            {"addresses": [studio], "hostname": "studio"},
            {"addresses": [mini], "hostname": "mini"},
        )
        return {spec.name: spec for spec in run(plain_slice(*backends)).specs}

    before, after = macs("192.168.1.5", "192.168.1.6"), macs("192.168.1.6", "192.168.1.7")
    assert list(before) == list(after) == ["macs-1-studio", "macs-1-mini"]
    assert all(before[name].server == after[name].server for name in before)


def test_pods_tell_the_servers_of_a_slice_apart_as_well() -> None:
    def listed(*ips: str) -> dict[str, EndpointSpec]:
        backends = [
            {"addresses": [ip], "targetRef": {"kind": "Pod", "name": f"vllm-{n}"}} for n, ip in enumerate(ips)
        ]
        return {spec.name: spec for spec in run(plain_slice(*backends)).specs}

    before, after = listed("10.0.0.1", "10.0.0.2"), listed("10.0.0.1", "10.0.0.9")
    assert list(before) == list(after) == ["macs-1-vllm-0", "macs-1-vllm-1"]
    assert all(before[name].server == after[name].server for name in before)


def test_several_servers_without_host_names_are_known_by_their_addresses() -> None:
    found = run(plain_slice({"addresses": ["192.168.1.5"]}, {"addresses": ["192.168.1.6", "192.168.1.9"]}))
    assert [(spec.name, spec.ip) for spec in found.specs] == [
        ("macs-1-192.168.1.5", "192.168.1.5"),
        ("macs-1-192.168.1.6", "192.168.1.6"),
    ]
    assert len({spec.identity for spec in found.specs}) == 2


@pytest.mark.parametrize(
    "ports, expected",
    [
        ([{"port": 8080}], {"macs-1": 8080}),
        ([{"name": "http", "port": 8080}, {"name": "metrics", "port": 9090}], {"macs-1": 8080}),
        (
            [{"name": "http-0", "port": 8080}, {"name": "http-1", "port": 8081}, {"name": "m", "port": 1}],
            {"macs-1-http-0": 8080, "macs-1-http-1": 8081},
        ),
        (
            [{"name": "https-metrics", "port": 1}, {"name": "grpc", "port": 2}],
            {"macs-1-https-metrics": 1, "macs-1-grpc": 2},
        ),
        ([{"name": "a", "port": 1}, {"name": "b", "port": 2}], {"macs-1-a": 1, "macs-1-b": 2}),
        ([{"name": "dns", "port": 53, "protocol": "UDP"}], {}),
        ([{"name": "http"}], {}),
    ],
)
def test_ports_of_a_slice(ports: list[dict[str, Any]], expected: dict[str, int]) -> None:
    found = run(plain_slice({"addresses": ["192.168.1.5"]}, ports=ports))
    assert {spec.name: spec.port for spec in found.specs} == expected


def test_the_ports_of_a_server_are_told_apart_by_name() -> None:
    ports = [{"name": "http-0", "port": 8080}, {"name": "http-1", "port": 8081}]
    found = run(plain_slice({"addresses": ["192.168.1.5"]}, ports=ports))
    assert len({spec.identity for spec in found.specs}) == 2


def test_a_mistake_of_a_slice_with_two_servers_is_said_once() -> None:
    slip = of(
        Slice,
        metadata={
            "name": "macs-1",
            "namespace": NAMESPACE,
            "annotations": {"fleet-epp.dev/tier": "first"},
        },
        addressType="IPv4",
        endpoints=[{"addresses": ["192.168.1.5"]}, {"addresses": ["192.168.1.6"]}],
        ports=[{"port": 8000}],
    )
    assert run(slip).findings == (
        "EndpointSlice macs-1: fleet-epp.dev/tier must be from 0 to 999, got 'first'",
    )


def test_a_slice_of_names_is_refused_with_a_remedy() -> None:
    found = run(plain_slice({"addresses": ["studio.local"]}, kind="FQDN"), metal())
    assert [spec.name for spec in found.specs] == ["phi"]
    assert found.findings == (
        "EndpointSlice macs-1: addressType FQDN is not followed: list its host names in an endpoints file",
    )


def test_an_address_that_is_none_is_said_and_the_others_stay() -> None:
    found = run(plain_slice({"addresses": ["0.0.0.0"]}, {"addresses": ["a.b"]}, {"addresses": ["1.2.3.4"]}))
    assert [spec.ip for spec in found.specs] == ["1.2.3.4"]
    assert found.findings == (
        "EndpointSlice macs-1: address 0.0.0.0 is not the address of one server",
        "EndpointSlice macs-1: a.b is no IP address",
    )


def test_a_slice_with_nothing_in_it_is_nothing() -> None:
    empty = of(
        Slice, metadata={"name": "x", "namespace": NAMESPACE}, addressType="IPv4", endpoints=None, ports=None
    )
    assert run(empty) == Translation(specs=())


# --- heartbeats -------------------------------------------------------------------------------------


def test_a_late_heartbeat_is_only_a_note_for_the_server_may_live() -> None:
    spec = only(run(metal(beat=STALE)))
    assert spec.note == f"no heartbeat of its agent since {STALE}"
    assert spec.hold == ""


def test_a_heartbeat_grows_old_by_time_alone() -> None:
    found = run(metal(beat=FRESH))
    assert found.due == NOW - 10 + 180.0
    assert only(run(metal(beat=FRESH), now=found.due)).note == f"no heartbeat of its agent since {FRESH}"
    assert run(metal(beat=FRESH), now=found.due).due == float("inf")


def test_a_heartbeat_that_only_goes_on_changes_nothing() -> None:
    assert run(metal(beat=FRESH)).specs == run(metal(beat="2025-11-21T10:00:00Z")).specs


@pytest.mark.parametrize("beat", ["yesterday", "2025-11-21T10:00:00", "", "9999999", "0001-01-01T00:00:00Z"])
def test_a_heartbeat_that_cannot_be_read_holds_nothing_back(beat: str) -> None:
    assert only(run(metal(beat=beat))).hold == ""


@pytest.mark.parametrize("beat", ["yesterday", "2025-11-21T09:00:00", ""])
def test_a_heartbeat_without_a_time_or_a_zone_is_said(beat: str) -> None:
    found = run(metal(beat=beat))
    assert found.findings == (
        f"EndpointSlice phi: annotation llmkube.ai/agent-heartbeat is no time: {beat!a}",
    )
    assert only(found).note == ""


def test_a_heartbeat_of_a_clock_that_is_ahead_is_fresh() -> None:
    assert only(run(metal(beat="2025-11-21T11:00:00Z"))).note == ""


def test_a_stale_slice_beside_a_live_one_stays_with_a_note() -> None:
    stale = metal("phi-old", "192.168.1.20", beat=STALE, service="phi")
    found = {spec.name: spec for spec in run(stale, metal("phi", "192.168.1.30")).specs}
    assert set(found) == {"phi", "phi-old"}
    assert found["phi"].note == ""
    assert found["phi-old"].note.startswith("no heartbeat")
    assert found["phi-old"].hold == ""


def test_a_stale_slice_loses_an_address_that_a_live_one_has() -> None:
    """Its host has gone, and another one has its lease."""
    stale, live = metal("a-old", beat=STALE), metal("b-new", ready=False)
    assert only(run(stale, live)).name == "b-new"


def of_pod(*, name: str = "", **conditions: bool) -> Slice:
    """A slice with the address of ``pod()``; ``name``: it says so."""
    target = {"targetRef": {"kind": "Pod", "name": name}} if name else {}
    backend = {"addresses": ["10.0.0.1"], "conditions": conditions, **target}
    return plain_slice(backend, ports=[{"port": 8000}])


@pytest.mark.parametrize(
    "one, other, hold, leaving",
    [
        (pod(), of_pod(), "", ""),
        (pod(ready=False), of_pod(), "pod is not ready: its Ready condition is not True", ""),
        (pod(), of_pod(ready=False), "EndpointSlice macs-1 says not ready", ""),
        (pod(deleted=FRESH), of_pod(), "", "pod is terminating"),
        (pod(), of_pod(terminating=True), "", "EndpointSlice macs-1 says terminating"),
        (
            pod(deleted=FRESH),
            of_pod(terminating=True),
            "",
            "pod is terminating; EndpointSlice macs-1 says terminating",
        ),
    ],
)
def test_a_pod_that_a_slice_lists_as_well_is_the_pod_and_what_either_says_counts(
    one: Pod, other: Slice, hold: str, leaving: str
) -> None:
    spec = only(run(one, other))
    assert (spec.name, spec.hold, spec.leaving) == ("qwen-0-rank-0", hold, leaving)


def test_a_pod_that_is_ready_at_times_stays_one_endpoint_whatever_its_slice_says() -> None:
    fleet = Fleet()
    fleet.replace(run(pod(), of_pod()).specs, 0.0)
    (endpoint,) = fleet.endpoints
    for ready in (False, True):
        fleet.replace(run(pod(ready=ready), of_pod()).specs, 1.0)
        assert fleet.endpoints == (endpoint,)


def test_two_slices_with_one_address_are_the_first_and_what_either_says_counts() -> None:
    by_hand = plain_slice({"addresses": ["192.168.1.20"]}, ports=[{"port": 50123}])
    spec = only(run(by_hand, metal(ready=False), services=pressed("Critical") | service("macs")))
    assert (spec.name, spec.hold) == ("macs-1", "EndpointSlice phi says not ready")
    assert spec.pressure == f"memory pressure Critical since {FRESH}"


def test_what_both_say_is_said_once() -> None:
    labelled = pod(ip="192.168.1.20", labels={"inference.llmkube.dev/service": "phi"})
    spec = only(run(labelled, metal(), pool=pool(50123), services=service(phase="Suspended")))
    assert (spec.name, spec.note) == ("qwen-0-rank-0", "Suspended")


def test_a_stale_slice_says_nothing_of_a_pod_that_has_its_address() -> None:
    spec = only(run(pod(ip="192.168.1.20"), metal(beat=STALE, ready=False), pool=pool(50123)))
    assert (spec.name, spec.hold, spec.note) == ("qwen-0-rank-0", "", "")


def test_what_a_slice_says_of_the_pod_before_is_not_said_of_its_successor() -> None:
    """On the host's network both have the address; the slice has the old one only."""
    spec = only(run(pod("old", deleted=FRESH), pod("zz-new"), of_pod(name="old", terminating=True)))
    assert (spec.name, spec.leaving) == ("zz-new-rank-0", "")


def test_two_slices_of_one_service_are_two_servers() -> None:
    """Two Macs, each with a slice of its own."""
    found = run(metal("phi-a", "192.168.1.20", service="phi"), metal("phi-b", "192.168.1.30", service="phi"))
    assert [(spec.name, spec.ip) for spec in found.specs] == [
        ("phi-a", "192.168.1.20"),
        ("phi-b", "192.168.1.30"),
    ]


# --- LLMKube ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "services, models, note",
    [
        ({}, {}, ""),
        (service(), {}, ""),
        (service(phase="Progressing"), model("Ready"), ""),
        (service(phase="Pending"), model("Downloading"), "Model phi-3-mini Downloading"),
        (service(phase="Ready"), model("Failed"), "Model phi-3-mini Failed"),
        (service(phase="WaitingForGPU", queuePosition=3), {}, "WaitingForGPU, position 3"),
        (service(phase="WaitingForGPU", queuePosition=0), {}, "WaitingForGPU"),
        (
            service(phase="Creating", schedulingStatus="WaitingForMetalAgent"),
            model("Ready"),
            "Creating: WaitingForMetalAgent",
        ),
        (service(phase="Suspended"), {}, "Suspended"),
        (service("another", phase="Failed"), {}, ""),
    ],
)
def test_what_llmkube_says_of_a_service_is_a_note(
    services: dict[str, InferenceService], models: dict[str, Model], note: str
) -> None:
    mac = only(run(metal(), services=services, models=models))
    in_cluster = pod(labels={"inference.llmkube.dev/service": "phi"})
    assert (mac.note, mac.hold) == (note, "")
    assert only(run(in_cluster, services=services, models=models)).note == note


def test_a_pod_in_the_gpu_queue_says_so() -> None:
    queued = pod(ip=None, ready=False, labels={"inference.llmkube.dev/service": "phi"})
    found = run(queued, services=service(phase="WaitingForGPU", queuePosition=3))
    assert found.waiting == ("pod qwen-0: its Ready condition is not True; WaitingForGPU, position 3",)


def test_both_notes_are_said() -> None:
    told = service(phase="Creating", schedulingStatus="AgentHeartbeatStale")
    assert only(run(metal(beat=STALE), services=told)).note == (
        f"Creating: AgentHeartbeatStale; no heartbeat of its agent since {STALE}"
    )


def pressed(
    reason: str, since: str | None = FRESH, status: str = "True", kind: str = "MemoryPressure"
) -> dict[str, InferenceService]:
    return service(
        conditions=[
            {"type": "Available", "status": "True", "reason": "InferenceReady"},
            {"type": kind, "status": status, "reason": reason, "lastTransitionTime": since},
        ]
    )


@pytest.mark.parametrize("reason", ["Warning", "Critical"])
def test_memory_pressure_holds_for_ten_minutes(reason: str) -> None:
    found = run(metal(beat=None), services=pressed(reason))
    assert only(found).pressure == f"memory pressure {reason} since {FRESH}"
    assert found.due == NOW - 10 + PRESSURE_HOLDS
    assert only(run(metal(), services=pressed(reason), now=found.due)).pressure == ""


@pytest.mark.parametrize(
    "reason, since", [("Normal", FRESH), ("Evicted", FRESH), ("Critical", None), ("Warning", "soon")]
)
def test_other_conditions_press_nobody(reason: str, since: str | None) -> None:
    assert only(run(metal(), services=pressed(reason, since))).pressure == ""


def test_a_warning_of_something_else_presses_nobody() -> None:
    assert only(run(metal(), services=pressed("Critical", kind="DiskPressure"))).pressure == ""


def test_a_warning_that_is_taken_back_is_none() -> None:
    assert only(run(metal(), services=pressed("Critical", status="False"))).pressure == ""


def test_llmkube_is_asked_only_where_its_labels_are() -> None:
    assert not Cluster(pods=[pod()], slices=[plain_slice()]).is_llmkube
    assert Cluster(slices=[metal()]).is_llmkube
    assert Cluster(pods=[pod(labels={"inference.llmkube.dev/service": "phi"})]).is_llmkube


# --- names ------------------------------------------------------------------------------------------


def test_a_slice_may_be_called_as_a_pod_is() -> None:
    found = run(pod("phi"), metal("phi-rank-0"))
    assert [spec.name for spec in found.specs] == ["phi-rank-0", "phi-rank-0@2"]


def test_and_it_stays_itself_with_a_new_lease() -> None:
    def called_alike(ip: str) -> EndpointSpec:
        return run(pod("phi"), metal("phi-rank-0", ip)).specs[1]

    before, after = called_alike("192.168.1.20"), called_alike("192.168.1.77")
    assert before.address != after.address
    assert (before.name, before.server) == (after.name, after.server)


# --- properties -------------------------------------------------------------------------------------

words = st.sampled_from(["a", "b", "studio", "10.0.0.1", "192.168.1.5", "::1", "0.0.0.0", "x.y", "☃", ""])
maybe = st.none() | st.booleans()
times = st.none() | words | st.sampled_from([FRESH, STALE, "0001-01-01T00:00:00+23:59"])
mappings = st.dictionaries(
    st.sampled_from(
        [
            *("kubernetes.io/service-name", "llmkube.ai/inference-service", "llmkube.ai/agent-heartbeat"),
            *("inference.llmkube.dev/service", "fleet-epp.dev/engine", "fleet-epp.dev/tier"),
        ]
    ),
    words | st.sampled_from([FRESH, STALE, "1"]),
)
metas = st.fixed_dictionaries(
    {"name": st.sampled_from("abc"), "namespace": st.just(NAMESPACE)},
    optional={"labels": mappings, "annotations": mappings, "deletionTimestamp": times},
)
pods = st.fixed_dictionaries(
    {"metadata": metas},
    optional={
        "status": st.fixed_dictionaries(
            {},
            optional={
                "phase": st.sampled_from(["Pending", "Running", "Failed"]),
                "podIP": st.none() | words,
                "conditions": st.none()
                | st.lists(st.fixed_dictionaries({"type": st.just("Ready"), "status": words}), max_size=2),
                "containerStatuses": st.none()
                | st.lists(st.fixed_dictionaries({"name": words, "ready": st.booleans()}), max_size=2),
            },
        )
    },
)
backends = st.fixed_dictionaries(
    {"addresses": st.lists(words, max_size=2)},
    optional={
        "hostname": st.none() | words,
        "conditions": st.fixed_dictionaries({}, optional={"ready": maybe, "terminating": maybe}),
    },
)
slices = st.fixed_dictionaries(
    {"metadata": metas, "addressType": st.sampled_from(["IPv4", "IPv6", "FQDN"])},
    optional={
        "endpoints": st.none() | st.lists(backends, max_size=3),
        "ports": st.none()
        | st.lists(
            st.fixed_dictionaries(
                {},
                optional={
                    "name": st.none() | st.sampled_from(["http", "http-1", "metrics"]),
                    "port": st.none() | st.integers(1, 65535),
                },
            ),
            max_size=3,
        ),
    },
)


@given(
    pod_objects=st.lists(pods, max_size=4),
    slice_objects=st.lists(slices, max_size=4),
    ports=st.lists(st.integers(1, 65535), min_size=1, max_size=3),
    now=st.floats(0, 4e9),
)
def test_whatever_the_objects_say(
    pod_objects: list[Any], slice_objects: list[Any], ports: list[int], now: float
) -> None:
    """Each server once, each name once, addresses that a gateway takes, and the same from any order."""
    cluster = Cluster(
        pool=pool(*ports),
        pods=list({one.metadata.name: one for one in (of(Pod, **fields) for fields in pod_objects)}.values()),
        slices=list(
            {one.metadata.name: one for one in (of(Slice, **fields) for fields in slice_objects)}.values()
        ),
    )
    found = translate(cluster, now)
    addresses = [spec.address for spec in found.specs]
    names = [(spec.namespace, spec.name) for spec in found.specs]
    assert len(set(addresses)) == len(addresses)
    assert len(set(names)) == len(names)
    assert all(0 < spec.port < 65536 and spec.name and not spec.note.startswith(";") for spec in found.specs)
    assert found.due > now
    backwards = replace(cluster, pods=list(cluster.pods)[::-1], slices=list(cluster.slices)[::-1])
    assert translate(backwards, now) == found


address_of_two = st.sampled_from(["10.0.0.1", "10.0.0.2"])
words_of_a_slice = st.fixed_dictionaries({"ready": st.booleans(), "terminating": st.booleans()})
listings = st.lists(st.tuples(address_of_two, words_of_a_slice), min_size=1, max_size=2)


@given(
    pod_words=st.tuples(st.booleans(), st.none() | st.just(FRESH)),
    slices=st.lists(listings, max_size=3),
)
def test_what_is_said_of_a_server_does_not_make_it_another(
    pod_words: tuple[bool, str | None], slices: list[list[tuple[str, dict[str, bool]]]]
) -> None:
    """A pod, and slices that list some of the same addresses."""

    def found(*, is_silent: bool) -> dict[str, EndpointSpec]:
        ready, deleted = (True, None) if is_silent else pod_words
        many = [
            of(
                Slice,
                metadata={"name": f"s{number}", "namespace": NAMESPACE},
                addressType="IPv4",
                endpoints=[
                    {"addresses": [ip], "conditions": {} if is_silent else said} for ip, said in backends
                ],
                ports=[{"port": 8000}],
            )
            for number, backends in enumerate(slices)
        ]
        return {spec.address: spec for spec in run(pod(ready=ready, deleted=deleted), *many).specs}

    said, silent = found(is_silent=False), found(is_silent=True)
    assert [(spec.name, spec.server) for spec in said.values()] == [
        (spec.name, spec.server) for spec in silent.values()
    ]
    for address, spec in said.items():
        of_slices = [words for backends in slices for ip, words in backends if f"{ip}:8000" == address]
        of_pod = spec.ip == "10.0.0.1"
        held = any(not words["ready"] for words in of_slices) or (of_pod and not pod_words[0])
        leaving = any(words["terminating"] for words in of_slices) or (of_pod and bool(pod_words[1]))
        assert (bool(spec.hold), bool(spec.leaving)) == (held, leaving)
