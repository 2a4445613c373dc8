"""An InferencePool followed in a real Kubernetes API: pods, slices of outside machines, LLMKube's word."""

import datetime as dt
import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench.rig.picker import Picker
from bench.rig.process import RigError, free_port, wait_until
from tests.system.cluster import (
    AGENTS,
    LISTER,
    LLMKUBE,
    NAMESPACE,
    NEW_KINDS,
    OLD_GROUP,
    OLD_KINDS,
    OLD_POOLS,
    OUTSIDE,
    POOLS,
    ROOT,
    STRANGER,
    Requests,
    Stage,
    detail,
    needs_address,
    phases,
    picked,
    rbac,
    said,
    wait_reason,
    wait_serving,
)
from tests.system.kube_plane import MISSING, is_possible, path_of
from tests.system.talk import (
    channel_to,
    converse,
    endpoints,
    request_body,
    request_headers,
    series,
)

if not is_possible():
    pytest.skip(MISSING, allow_module_level=True)
pytestmark = [
    pytest.mark.timeout(900),  # the first run builds the API server
    pytest.mark.default_driver,
]


# --- pods -------------------------------------------------------------------------------------------


def test_a_pod_serves_while_it_is_ready(stage: Stage) -> None:
    one, other = stage.pod("one", "127.0.0.2"), stage.pod("other", "127.0.0.3", ready=False)
    stage.server("127.0.0.2")
    stage.server("127.0.0.3")
    stage.apply(stage.pool(), one, other)
    with stage.picker() as picker:
        wait_serving(picker, "one-rank-0")
        wait_reason(
            picker,
            "other-rank-0",
            "pod is not ready: container server does not pass its readiness probe",
            "pending",
        )
        assert picked(picker) == {f"127.0.0.2:{stage.port}"}

        stage.apply(stage.pod("other", "127.0.0.3"))
        wait_serving(picker, "one-rank-0", "other-rank-0")

        stage.apply(stage.pod("one", "127.0.0.2", ready=False))
        wait_serving(picker, "other-rank-0")
        assert picked(picker) == {f"127.0.0.3:{stage.port}"}


def test_a_pod_that_terminates_gets_nothing_more(stage: Stage) -> None:
    one, other = stage.pod("leaves", "127.0.0.4"), stage.pod("stays", "127.0.0.5")
    stage.server("127.0.0.4")
    stage.server("127.0.0.5")
    stage.apply(stage.pool(), one, other)
    with stage.picker() as picker:
        wait_serving(picker, "leaves-rank-0", "stays-rank-0")
        stage.delete(one, grace=30)
        wait_reason(picker, "leaves-rank-0", "pod is terminating", "draining")
        assert picked(picker) == {f"127.0.0.5:{stage.port}"}
        stage.delete(one)
        wait_until(lambda: set(endpoints(picker)) == {"stays-rank-0"}, what="the pod gone")


def test_a_pod_without_an_address_is_waited_for(stage: Stage) -> None:
    stage.server("127.0.0.6")
    stage.apply(stage.pool(), stage.pod("here", "127.0.0.6"), stage.pod("queued", None, ready=False))
    with stage.picker() as picker:
        wait_serving(picker, "here-rank-0")
        assert "pod queued: " in detail(picker)
        assert set(endpoints(picker)) == {"here-rank-0"}


def test_the_pool_may_change(stage: Stage) -> None:
    """Other ports, other pods, none at all, and everything again."""
    first, second = stage.pod("first", "127.0.0.7"), stage.pod("second", "127.0.0.8", app="another")
    more = free_port()
    for host, port in (("127.0.0.7", 0), ("127.0.0.7", more), ("127.0.0.8", 0)):
        stage.server(host, port)
    stage.apply(stage.pool(), first, second)
    with stage.picker() as picker:
        wait_serving(picker, "first-rank-0")
        stage.apply(stage.pool(ports=(stage.port, more)))
        wait_serving(picker, "first-rank-0", "first-rank-1")
        stage.apply(stage.pool(app="another"))
        wait_serving(picker, "second-rank-0")
        stage.delete(stage.pool())
        wait_until(lambda: endpoints(picker) == {}, what="no endpoints without a pool")
        assert f"InferencePool {NAMESPACE}/{stage.name} is not there" in detail(picker)
        stage.apply(stage.pool())
        wait_serving(picker, "first-rank-0")
        assert detail(picker) == ""


def test_a_picker_waits_for_its_pool(stage: Stage) -> None:
    stage.server("127.0.0.9")
    picker = stage.picker().launch()
    wait_until(lambda: picker.health() == "NOT_SERVING", what="a picker without a pool")
    wait_until(lambda: "is not there: create it" in detail(picker), what="what it waits for")
    stage.apply(stage.pool(), stage.pod("late", "127.0.0.9"))
    picker.wait_ready()
    wait_serving(picker, "late-rank-0")


def test_a_file_beside_the_pods(stage: Stage) -> None:
    stage.server("127.0.0.10")
    beside = stage.server("127.0.0.11")
    stage.apply(stage.pool(), stage.pod("inside", "127.0.0.10"))
    with stage.picker(beside={"desk": beside.address}) as picker:
        wait_serving(picker, "inside-rank-0", "desk")
        picker.set_endpoints({})
        wait_serving(picker, "inside-rank-0")
        picker.set_endpoints({"desk": beside.address})
        stage.delete(stage.pod("inside", "127.0.0.10"))
        wait_serving(picker, "desk")


def test_a_pod_serves_on_the_ports_that_it_says(stage: Stage) -> None:
    """A rank keeps its name whichever others are active. Rubbish is told, and stops nothing."""
    more = free_port()
    for port in (0, more):
        stage.server("127.0.0.22", port)
    stage.apply(stage.pool(ports=(stage.port, more)), stage.pod("ranks", "127.0.0.22"))
    with stage.picker() as picker:
        wait_serving(picker, "ranks-rank-0", "ranks-rank-1")
        stage.apply(stage.pod("ranks", "127.0.0.22", active=f"{more}"))
        wait_serving(picker, "ranks-rank-1")
        stage.apply(stage.pod("ranks", "127.0.0.22", active="all"))
        wait_serving(picker, "ranks-rank-0", "ranks-rank-1")
        assert detail(picker) == (
            "pod ranks: annotation llm-d.ai/active-ports: 'all' is no port; all of the pool's count"
        )
        assert series(picker).get("fleet_epp_kubernetes_findings") == 1


def test_a_pool_of_the_older_group_whose_kind_comes_later(stage: Stage) -> None:
    stage.plane.undefine(OLD_POOLS)
    stage.server("127.0.0.23")
    picker = stage.picker(f"--pool-group={OLD_GROUP}").launch()
    missing = f"it has no InferencePools of {OLD_GROUP}"
    wait_until(lambda: picker.health() == "NOT_SERVING", what="a picker without a pool")
    wait_until(lambda: missing in detail(picker), what="that there are none", timeout=60)
    stage.plane.define(OLD_POOLS)
    pool, nothing = stage.old_pool(), stage.old_pool()
    nothing["spec"]["selector"] = {}  # which newer kinds refuse
    stage.apply(nothing, stage.pod("old", "127.0.0.23"))
    os.kill(picker.pid, signal.SIGHUP)  # else it looks again within 30 s
    picker.wait_ready(timeout=60)
    wait_until(lambda: "its selector is empty" in detail(picker), what="that it has no pods")
    stage.apply(pool)
    wait_serving(picker, "old-rank-0")
    wait_until(lambda: detail(picker) == "", what="all in order")


def test_pods_by_a_selector_without_a_pool(stage: Stage) -> None:
    stage.server("127.0.0.24")
    stage.server("127.0.0.25")
    one, other = stage.pod("one", "127.0.0.24", size="s"), stage.pod("other", "127.0.0.25", size="m")
    stage.apply(one, other, stage.pod("none", "127.0.0.24", size="l"))
    selector = f"app={stage.name},size in (s,m)"
    flags = (f"--endpoint-selector={selector}", f"--endpoint-target-ports={stage.port}")
    with stage.picker(*flags, by_name=False, POD_NAME="fleet-epp-5d9c7f6b8-x2x4z") as picker:
        wait_serving(picker, "one-rank-0", "other-rank-0")
        stage.delete(other)
        wait_serving(picker, "one-rank-0")
        assert detail(picker) == ""
        assert series(picker).get("llm_d_epp_ready_endpoints", name="fleet-epp") == 1


def test_pods_that_two_pools_claim_and_a_picker_that_is_no_service(stage: Stage) -> None:
    stage.server("127.0.0.26")
    pool, other = stage.pool(), stage.pool()
    pool["spec"]["endpointPickerRef"]["name"] = "nobody"
    other["metadata"]["name"] = f"{stage.name}-too"
    stage.apply(pool, other, stage.pod("shared", "127.0.0.26"))
    with stage.picker() as picker:
        wait_serving(picker, "shared-rank-0")
        both = (f"belongs to InferencePool {stage.name}-too as well", "there is no Service nobody")
        wait_until(lambda: all(text in detail(picker) for text in both), what="both findings")
        assert all(said(picker, text) == 1 for text in both), "each once"
        stage.delete(other)
        stage.apply(stage.pool())
        wait_until(lambda: detail(picker) == "", what="all in order")


# --- what is asked of requests -----------------------------------------------------------------------


def chat_of(picker: Picker, model: str, objective: str = "") -> str:
    """One chat completion by the gateway's side; the model that the server is asked for."""
    body = b'{"model": "%s", "messages": [{"role": "user", "content": "hi"}]}' % model.encode()
    more = [("x-llm-d-inference-objective", objective.encode())] if objective else []
    with channel_to(picker) as channel:
        head, piece = converse(channel, [request_headers(more=more), request_body(body)])
    assert not head.HasField("immediate_response"), head
    return str(json.loads(piece.request_body.response.body_mutation.streamed_response.body)["model"])


def test_objectives_and_rewrites_of_both_groups_and_kinds_that_come_later(stage: Stage) -> None:
    """First there are none of them, then those of the old group, then those of the new one, which win."""
    stage.plane.undefine(*OLD_KINDS, *NEW_KINDS)
    stage.server("127.0.0.27")
    stage.apply(stage.pool(), stage.pod("pod", "127.0.0.27"))

    def rules(*targets: tuple[str, int]) -> list[dict[str, Any]]:
        matches = [{"model": {"value": "qwen"}}]
        weighted = [{"modelRewrite": model, "weight": weight} for model, weight in targets]
        return [{"matches": matches, "targets": weighted}]

    def counted(model: str, target: str, priority: int) -> float:
        labels = {"model_name": model, "target_model_name": target, "fairness_id": "default-flow"}
        found = series(picker).get("llm_d_epp_request_total", **labels, priority=str(priority))
        return found or 0.0

    with stage.picker() as picker:
        wait_serving(picker, "pod-rank-0")
        assert chat_of(picker, "qwen", "batch") == "qwen"
        wait_until(lambda: counted("qwen", "qwen", 0) == 1, what="priority 0")
        assert detail(picker) == "", "nobody misses them"

        for crd in OLD_KINDS:
            stage.plane.define(crd)
        old = stage.asking("InferenceModelRewrite", "canary", OLD_GROUP, rules=rules(("old", 1)))
        stage.apply(old, stage.asking("InferenceObjective", "batch", OLD_GROUP, priority=-5))
        os.kill(picker.pid, signal.SIGHUP)
        wait_until(lambda: chat_of(picker, "qwen", "batch") == "old", what="the old group's rewrite")
        wait_until(lambda: counted("qwen", "old", -5) >= 1, what="the old group's priority", timeout=30)

        for crd in NEW_KINDS:
            stage.plane.define(crd)
        new = stage.asking("InferenceModelRewrite", "canary", "llm-d.ai", rules=rules(("v1", 7), ("v2", 3)))
        stage.apply(new, stage.asking("InferenceObjective", "batch", "llm-d.ai", priority=7))
        os.kill(picker.pid, signal.SIGHUP)
        wait_until(lambda: chat_of(picker, "qwen", "batch") in {"v1", "v2"}, what="the new group's rewrite")
        wait_until(
            lambda: "batch of inference.networking.x-k8s.io: passed over" in detail(picker), what="both"
        )
        assert chat_of(picker, "phi") == "phi"
        drawn = [chat_of(picker, "qwen", "batch") for _ in range(200)]
        assert abs(drawn.count("v1") - 140) < 26, (
            "4 standard deviations of 200 draws, 4 * sqrt(200 * .7 * .3)"
        )
        wait_until(lambda: counted("qwen", "v1", 7) >= drawn.count("v1"), what="the new group's priority")

        new["spec"]["rules"] += [
            {"matches": [{"model": {"value": "v1"}}], "targets": [{"modelRewrite": "qwen", "weight": 1}]}
        ]
        stage.apply(new)
        wait_until(lambda: "its rules are a loop: qwen to v1 to qwen" in detail(picker), what="the loop")
        assert "what it said before stays" in detail(picker)
        assert {chat_of(picker, "qwen") for _ in range(30)} == {"v1", "v2"}
        assert said(picker, "its rules are a loop") == 1
        stage.delete(new)
        wait_until(lambda: chat_of(picker, "qwen") == "qwen", what="no rewrite")


# --- machines outside the cluster -------------------------------------------------------------------


@needs_address
def test_a_mac_of_the_metal_agent_beside_a_pod(stage: Stage) -> None:
    stage.server("127.0.0.12")
    mac = stage.server(OUTSIDE, free_port())
    stage.apply(
        stage.pool(slices=AGENTS), stage.pod("pod", "127.0.0.12"), stage.metal("phi-3-mini", mac.port)
    )
    with stage.picker() as picker:
        wait_serving(picker, "pod-rank-0", "phi-3-mini")
        assert endpoints(picker)["phi-3-mini"]["address"] == mac.address
        assert picked(picker) == {f"127.0.0.12:{stage.port}", mac.address}

        stage.apply(stage.metal("phi-3-mini", mac.port, ready=False))  # its agent restarts the server
        wait_reason(picker, "phi-3-mini", "EndpointSlice phi-3-mini says not ready", "pending")
        moved = stage.server(OUTSIDE, free_port())
        stage.apply(stage.metal("phi-3-mini", moved.port))
        wait_serving(picker, "pod-rank-0", "phi-3-mini")
        assert endpoints(picker)["phi-3-mini"]["address"] == moved.address


@needs_address
def test_a_slice_whose_machine_is_dead_stays_ready_and_gets_nothing(stage: Stage) -> None:
    """Nobody takes a dead Mac out of its slice: only looking at the server tells."""
    stage.server("127.0.0.13")
    mac = stage.server(OUTSIDE, free_port())
    stage.apply(stage.pool(slices=AGENTS), stage.pod("pod", "127.0.0.13"), stage.metal("dying", mac.port))
    with stage.picker() as picker:
        wait_serving(picker, "pod-rank-0", "dying")
        mac.kill()
        wait_serving(picker, "pod-rank-0")
        assert picked(picker) == {f"127.0.0.13:{stage.port}"}
        assert endpoints(picker)["dying"]["phase"] == "ejected"
        mac.start()
        wait_serving(picker, "pod-rank-0", "dying")


@needs_address
def test_an_agent_may_be_dead_while_its_server_lives(stage: Stage) -> None:
    mac = stage.server(OUTSIDE, free_port())
    long_ago = dt.datetime.now(dt.UTC) - dt.timedelta(minutes=10)
    stage.apply(stage.pool(slices=AGENTS), stage.metal("orphan", mac.port, beat=long_ago))
    with stage.picker() as picker:
        wait_serving(picker, "orphan")
        mac.kill()
        wait_reason(picker, "orphan", "no heartbeat of its agent since", "pending")


@needs_address
def test_a_stale_slice_beside_a_live_one(stage: Stage) -> None:
    """A Mac has gone, another one serves its service: requests go where somebody answers."""
    live, gone = stage.server(OUTSIDE, free_port()), free_port()
    long_ago = dt.datetime.now(dt.UTC) - dt.timedelta(hours=1)
    old = stage.metal("phi-old", gone, beat=long_ago)
    old["metadata"]["labels"]["kubernetes.io/service-name"] = "phi"
    stage.apply(stage.pool(slices=AGENTS), stage.metal("phi", live.port), old)
    with stage.picker() as picker:
        wait_serving(picker, "phi")
        wait_reason(picker, "phi-old", "no heartbeat of its agent since", "pending")
        assert picked(picker) == {live.address}


@needs_address
def test_two_macs_that_take_one_slice_from_each_other_are_said(stage: Stage) -> None:
    """Each agent thinks the service its own; every beat moves the endpoint to its server."""
    one, other = stage.server(OUTSIDE, free_port()), stage.server(OUTSIDE, free_port())
    stage.apply(stage.pool(slices=AGENTS), stage.metal("contested", one.port))
    with stage.picker() as picker:
        for mac in (one, other, one):
            stage.apply(stage.metal("contested", mac.port))
            wait_serving(picker, "contested")
            wait_until(lambda mac=mac: picked(picker, 1) == {mac.address}, what="the last claim counts")
        assert "claim it in turn: let one agent serve it" in detail(picker)


@needs_address
def test_a_selector_that_is_none_is_said_and_the_pods_stay(stage: Stage) -> None:
    stage.server("127.0.0.14")
    stage.apply(stage.pool(slices="a in (b"), stage.pod("pod", "127.0.0.14"))
    with stage.picker() as picker:
        wait_serving(picker, "pod-rank-0")
        assert "endpointslices: the API answers 400: unable to parse requirement" in detail(picker)
        assert "correct annotation fleet-epp.dev/endpoint-slices of the InferencePool" in detail(picker)


# --- LLMKube ----------------------------------------------------------------------------------------


@needs_address
def test_llmkube_says_why_a_model_does_not_serve(stage: Stage) -> None:
    """Its kinds may come later than the picker."""
    stage.plane.undefine(*LLMKUBE)
    model = {
        "apiVersion": "inference.llmkube.dev/v1alpha1",
        "kind": "Model",
        "metadata": {"name": "phi-3-mini", "namespace": NAMESPACE},
        "spec": {"source": "https://models.example.com/phi-3-mini-q4.gguf"},
        "status": {"phase": "Downloading"},
    }
    service = {
        "apiVersion": "inference.llmkube.dev/v1alpha1",
        "kind": "InferenceService",
        "metadata": {"name": "phi", "namespace": NAMESPACE},
        "spec": {"modelRef": "phi-3-mini"},
        "status": {"phase": "Pending"},
    }
    port = free_port()
    stage.apply(stage.pool(slices=AGENTS), stage.metal("phi", port))
    with stage.picker() as picker:
        wait_until(lambda: phases(picker).get("phi") == "ejected", what="a Mac that refuses")
        assert detail(picker) == "", "nobody misses LLMKube"
        for crd in LLMKUBE:
            stage.plane.define(crd)
        stage.apply(model, service)
        os.kill(picker.pid, signal.SIGHUP)  # else it looks again within 30 s
        wait_reason(picker, "phi", "Model phi-3-mini Downloading", "pending")

        stage.server(OUTSIDE, port)
        stage.plane.patch(f"{path_of(model)}/status", {"status": {"phase": "Ready"}})
        wait_serving(picker, "phi")
        pressed = {
            "type": "MemoryPressure",
            "status": "True",
            "reason": "Critical",
            "message": "5 % left",
            "lastTransitionTime": dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        stage.plane.patch(
            f"{path_of(service)}/status", {"status": {"phase": "Ready", "conditions": [pressed]}}
        )
        wait_reason(picker, "phi", "memory pressure Critical since", "pressured")


# --- what the page says -----------------------------------------------------------------------------


def test_the_objects_of_the_page_are_taken_and_followed(stage: Stage) -> None:
    page = (ROOT / "docs" / "kubernetes.md").read_text()
    blocks = re.findall(r"^```yaml\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    documents = [document for block in blocks for document in yaml.safe_load_all(block)]
    kinds = {"InferencePool", "Service", "EndpointSlice", "InferenceObjective", "InferenceModelRewrite"}
    assert {document["kind"] for document in documents} == kinds | {"ClusterRole"}
    for crd in NEW_KINDS:
        stage.plane.define(crd)
    stage.apply(*documents)
    with stage.picker("--pool-name=qwen") as picker:
        wait_until(lambda: set(endpoints(picker)) == {"studio-studio"}, what="the Mac of the page")
        assert endpoints(picker)["studio-studio"]["address"] == "192.0.2.20:8080"
        assert detail(picker) == ""


# --- the API goes away, forgets, refuses ------------------------------------------------------------


def test_the_last_list_serves_while_the_api_is_away(stage: Stage) -> None:
    """And what happened meanwhile is taken over, even if the API remembers no changes."""
    stage.server("127.0.0.15")
    stage.server("127.0.0.16")
    stage.apply(stage.pool(), stage.pod("stays", "127.0.0.15"), stage.pod("leaves", "127.0.0.16"))
    api = stage.plane.api
    with stage.picker() as picker:
        wait_serving(picker, "stays-rank-0", "leaves-rank-0")
        with Requests(picker) as requests:
            api.kill()
            wait_until(lambda: "Kubernetes API: no answer from" in detail(picker), what="the API missed")
            assert "what it last told stays" in detail(picker)
            assert picker.health() == "SERVING"
            requests.wait_for(f"127.0.0.15:{stage.port}", f"127.0.0.16:{stage.port}")

            api.start(timeout=60)
            stage.delete(stage.pod("leaves", "127.0.0.16"))
            wait_serving(picker, "stays-rank-0")
            wait_until(lambda: detail(picker) == "", what="the API back")
            requests.wait_for(f"127.0.0.15:{stage.port}")
        assert requests.refused == []
        assert said(picker, "Kubernetes API: no answer from") <= 4, "its beginning and end, not each try"
        assert "Traceback" not in picker.log.read_text()


def test_a_file_serves_alone_where_a_picker_starts_without_the_api(stage: Stage) -> None:
    stage.server("127.0.0.21")
    beside = stage.server("127.0.0.22")
    stage.apply(stage.pool(), stage.pod("inside", "127.0.0.21"))
    api = stage.plane.api
    api.kill()
    with stage.picker(beside={"desk": beside.address}) as picker:
        wait_serving(picker, "desk")
        assert detail(picker).startswith("Kubernetes: no endpoints told yet, endpoints file serves alone; ")
        assert "Kubernetes API: no answer from" in detail(picker)
        assert said(picker, "endpoints file serves alone") == 1
        api.start(timeout=60)
        wait_serving(picker, "inside-rank-0", "desk")
        wait_until(lambda: detail(picker) == "", what="the API back")


def test_a_version_that_the_api_has_forgotten_leads_to_a_new_list(stage: Stage) -> None:
    """410 Gone: an API that came up after the changes knows none of them, only their result."""
    stage.server("127.0.0.17")
    stage.server("127.0.0.18")
    stage.apply(stage.pool(), stage.pod("old", "127.0.0.17"))
    with stage.picker("-v=4") as picker:
        wait_serving(picker, "old-rank-0")
        os.kill(picker.pid, signal.SIGSTOP)
        stage.plane.api.restart(timeout=60)  # nothing of what follows is on its way to the picker
        stage.delete(stage.pod("old", "127.0.0.17"))
        stage.apply(stage.pod("new", "127.0.0.18"))
        stage.plane.api.restart(timeout=60)
        os.kill(picker.pid, signal.SIGCONT)
        wait_serving(picker, "new-rank-0")
        wait_until(lambda: said(picker, "version expired") > 0, what="410")
        assert "Traceback" not in picker.log.read_text()


def test_whoever_may_not_see_pods_says_so_once(stage: Stage) -> None:
    stage.server("127.0.0.19")
    stage.apply(stage.pool(), stage.pod("pod", "127.0.0.19"))
    picker = stage.picker(token=STRANGER).launch()
    refusal = 'cannot list resource \\"inferencepools\\" in API group \\"inference.networking.k8s.io\\"'
    wait_until(lambda: said(picker, refusal) == 1, what="the refusal, with verb and resource")
    assert "grant it as deploy/kubernetes/rbac.yaml does" in detail(picker)
    assert picker.health() == "NOT_SERVING"
    binding = next(one for one in rbac() if one["kind"] == "RoleBinding")
    binding["metadata"]["name"] = "stranger"
    binding["subjects"][0]["name"] = "stranger"
    stage.apply(binding)
    picker.wait_ready(timeout=60)
    wait_serving(picker, "pod-rank-0")
    assert said(picker, refusal) == 2, "that it is refused, and that this is settled"


def test_whoever_may_list_pods_and_not_watch_them_says_so_and_lists_again(stage: Stage) -> None:
    ours = {one["kind"]: one for one in rbac() if one["metadata"]["name"] == "fleet-epp"}
    role, binding = ours["Role"], ours["RoleBinding"]
    for document in (role, binding):
        document["metadata"]["name"] = "lister"
    binding["roleRef"]["name"] = binding["subjects"][0]["name"] = "lister"
    (pods,) = [rule for rule in role["rules"] if "pods" in rule["resources"]]
    pods["verbs"] = ["list"]
    stage.server("127.0.0.28")
    stage.server("127.0.0.29")
    stage.apply(role, binding, stage.pool(), stage.pod("one", "127.0.0.28"))
    with stage.picker(token=LISTER) as picker:
        wait_serving(picker, "one-rank-0")
        wait_until(lambda: 'cannot watch resource "pods" in API group ""' in detail(picker), what="the verb")
        stage.apply(stage.pod("other", "127.0.0.29"))
        wait_serving(picker, "one-rank-0", "other-rank-0")
        assert said(picker, "cannot watch resource") == 1
        pods["verbs"] = ["list", "watch"]
        stage.apply(role)
        os.kill(picker.pid, signal.SIGHUP)  # else it looks again within 30 s
        wait_until(lambda: detail(picker) == "", what="all in order")


def test_a_kind_that_is_taken_away_comes_back(stage: Stage) -> None:
    """With its CRD all pools are deleted."""
    stage.server("127.0.0.30")
    stage.apply(stage.pool(), stage.pod("pod", "127.0.0.30"))
    with stage.picker() as picker:
        wait_serving(picker, "pod-rank-0")
        stage.plane.undefine(POOLS)
        wait_until(lambda: endpoints(picker) == {}, what="no endpoints without a pool")
        wait_until(lambda: "it has no InferencePools: install" in detail(picker), what="that there are none")
        stage.plane.define(POOLS)
        stage.apply(stage.pool())
        os.kill(picker.pid, signal.SIGHUP)  # else it looks again within 30 s
        wait_serving(picker, "pod-rank-0")
        wait_until(lambda: detail(picker) == "", what="all in order")


def test_without_any_word_of_an_api_it_does_not_start(stage: Stage, tmp_path: Path) -> None:
    picker = stage.picker(KUBECONFIG="", KUBERNETES_SERVICE_HOST="", HOME=str(tmp_path))
    with pytest.raises(RigError, match="ended with status 1"):
        picker.start()
    remedy = "run in a pod, set KUBECONFIG, write ~/.kube/config, or list"
    assert said(picker, f"--pool-name: there is no Kubernetes API: {remedy}") == 1
