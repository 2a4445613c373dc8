"""Whom a backend leads to: pods, Macs, and whether they can serve."""

from typing import Any

import pytest

from tests.compiler.llmkube.cluster import (
    agent,
    document,
    exposed,
    model,
    pool_of,
    read,
    read_backend,
    router,
    service,
    to,
)

MAC = model("mac", "metal")
PODS = model()


# --- pods


def test_pods_are_found_by_llmkubes_label_and_asked_at_their_containers_port() -> None:
    pool = pool_of(
        read_backend(PODS, service("cuda", runtime="vllm", endpoint={"port": 80}, containerPort=8000))
    )
    assert pool.selector == {"inference.llmkube.dev/service": "cuda"}
    assert (pool.ports, pool.slices) == ((8000,), ())
    assert (pool.name, pool.namespace, pool.exists) == ("cuda", "llm", False)


@pytest.mark.parametrize(
    "spec, named",
    [
        ({}, "cuda:8080"),
        ({"endpoint": {"port": 80}}, "cuda:80"),
        ({"runtime": "vllm"}, ""),
        ({"endpoint": {"port": 80}, "containerPort": 8000}, ""),
    ],
)
def test_the_service_in_front_is_named_only_where_it_leads_to_the_containers_port(
    spec: dict[str, Any], named: str
) -> None:
    assert pool_of(read_backend(PODS, service("cuda", **spec))).service == named


def test_a_pool_belongs_to_the_router_for_which_it_is_made() -> None:
    first, second = read(PODS, service("cuda"), router(), exposed("cuda2", of="phi")).routers
    assert {pool_of(one.rules[0].backends[0]).origin.object for one in (first, second)} == {
        "InferenceService/llm/cuda2",
        "ModelRouter/llm/qwen",
    }


@pytest.mark.parametrize(
    "spec, port",
    [
        ({}, 8080),
        ({"runtime": "llamacpp"}, 8080),
        ({"runtime": "vllm"}, 8000),
        ({"runtime": "sglang"}, 30000),
        ({"runtime": "tgi"}, 80),
        ({"runtime": "personaplex"}, 8998),
        ({"runtime": "of-next-year"}, 8080),
        ({"runtime": "vllm", "endpoint": {"port": 9000}}, 9000),
        ({"runtime": "vllm", "endpoint": {}}, 8000),
        ({"runtime": "vllm", "endpoint": {"port": 9000}, "containerPort": 9001}, 9001),
    ],
)
def test_the_containers_port_is_what_the_operator_makes_it(spec: dict[str, Any], port: int) -> None:
    assert pool_of(read_backend(PODS, service("cuda", **spec))).ports == (port,)


def test_a_dot_in_a_name_is_a_dash_in_its_service_but_not_in_its_label() -> None:
    backend = {"name": "v3", "inferenceServiceRef": {"name": "qwen.v3"}}
    pool = pool_of(read_backend(PODS, service("qwen.v3"), backend=backend))
    assert (pool.service, pool.selector) == ("qwen-v3:8080", {"inference.llmkube.dev/service": "qwen.v3"})


HTTP_PROBE = {"readiness": {"httpGet": {"path": "/up"}}}


@pytest.mark.parametrize(
    "spec, path",
    [
        ({}, "/health"),
        ({"runtime": "vllm"}, "/health"),
        ({"runtime": "sglang"}, "/health"),
        ({"runtime": "generic"}, ""),
        ({"runtime": "personaplex"}, ""),
        ({"runtime": "generic", "probeOverrides": HTTP_PROBE}, "/up"),
        ({"runtime": "vllm", "probeOverrides": {"readiness": {"tcpSocket": {"port": 1}}}}, ""),
    ],
)
def test_health_is_asked_for_where_the_runtime_answers(spec: dict[str, Any], path: str) -> None:
    assert read_backend(PODS, service("cuda", **spec)).health_path == path


def test_what_the_router_says_of_health_comes_first() -> None:
    backend = to("cuda", healthCheck={"path": "/ready"})
    assert read_backend(PODS, service("cuda"), backend=backend).health_path == "/ready"


# --- Macs


def test_a_mac_is_found_by_its_agents_slice_at_the_port_of_its_process() -> None:
    isvc = service("cuda", of="mac", endpoint={"port": 9000})
    backend = read_backend(MAC, isvc, agent("cuda", 54321))
    pool = pool_of(backend)
    assert (pool.slices, pool.ports, pool.selector) == (("cuda",), (54321,), {})
    assert pool.service == "cuda:8080"  # the agent's, whatever endpoint.port says
    assert backend.health_path == ""  # which runtime it is stands nowhere


def test_a_mac_whose_agent_is_not_there_yet_has_a_pool_all_the_same() -> None:
    backend = read_backend(MAC, service("cuda", of="mac"))
    assert (pool_of(backend).slices, backend.down) == (("cuda",), "")
    assert read_backend(MAC, service("cuda", of="mac"), is_live=True, claim=True).down


def test_without_its_model_a_service_is_what_serves_it_and_that_is_said() -> None:
    reading = read(service("cuda", of="gone"), router())
    (remark,) = reading.findings
    assert (remark.code, remark.origin.name) == ("ModelNotFound", "cuda")
    assert pool_of(reading.routers[0].rules[0].backends[0]).selector
    with_agent = read(service("cuda", of="gone"), agent("cuda"), router())
    assert pool_of(with_agent.routers[0].rules[0].backends[0]).slices == ("cuda",)


# --- whether they can serve


@pytest.mark.parametrize(
    "status, down",
    [
        ({}, ""),
        ({"phase": "Ready", "readyReplicas": 1}, ""),
        ({"phase": "Progressing", "readyReplicas": 1}, ""),
        ({"phase": "Suspended"}, "Suspended"),
        ({"phase": "Stopped"}, "Stopped"),
        ({"phase": "Failed"}, "Failed"),
        ({"phase": "Creating"}, "Creating"),
        ({"phase": "WaitingForGPU", "schedulingStatus": "InsufficientGPU"}, "WaitingForGPU: InsufficientGPU"),
        ({"phase": "Creating", "schedulingStatus": "AgentHeartbeatStale"}, "Creating: AgentHeartbeatStale"),
        ({"phase": "Creating", "readyReplicas": 1}, ""),
        ({"phase": "OfNextYear", "readyReplicas": 0}, ""),
    ],
)
def test_a_service_is_down_when_llmkube_says_that_nothing_of_it_runs(
    status: dict[str, Any], down: str
) -> None:
    assert read_backend(PODS, service("cuda", status=status)).down == down


def test_a_model_that_is_downloaded_anew_takes_no_pods_out_of_service() -> None:
    status = {
        "phase": "Pending",
        "readyReplicas": 0,
        "desiredReplicas": 0,
        "modelReady": False,
        "endpoint": "",
    }
    assert read_backend(PODS, service("cuda", status=status)).down == ""


def test_a_warning_of_memory_is_advice() -> None:
    status = {
        "phase": "Ready",
        "conditions": [{"type": "MemoryPressure", "status": "True", "reason": "Critical"}],
    }
    assert read_backend(MAC, service("cuda", of="mac", status=status), agent("cuda")).down == ""


def test_a_mac_is_down_when_its_agent_says_so() -> None:
    assert "not ready" in read_backend(MAC, service("cuda", of="mac"), agent("cuda", ready=False)).down


BEAT = "2026-11-21T12:00:00Z"
AT = 1795262400.0


@pytest.mark.parametrize(
    "beat, now, is_down",
    [
        (BEAT, AT + 179, False),
        (BEAT, AT + 180, True),
        (BEAT, None, False),
        ("", AT, False),
        ("soon", AT, False),
    ],
)
def test_a_mac_is_down_when_its_agent_has_been_silent_for_three_minutes(
    beat: str, now: float | None, is_down: bool
) -> None:
    backend = read_backend(MAC, service("cuda", of="mac"), agent("cuda", beat=beat), now=now)
    assert bool(backend.down) is is_down


def test_a_service_that_shares_a_gpu_is_not_woken_by_a_gateway() -> None:
    members = [{"inferenceServiceRef": {"name": "cuda"}}, {"inferenceServiceRef": {"name": "other"}}]
    reading = read(PODS, service("cuda"), document("ModelPool", "slot", {"members": members}), router())
    (remark,) = reading.findings
    assert (remark.code, remark.origin.kind) == ("ModelPoolNotActivated", "ModelRouter")
    assert "ModelPool slot" in remark.message


def test_a_status_of_another_kind_counts_as_serving() -> None:
    reading = read(PODS, service("cuda", status={"phase": ["Failed"]}), router())
    (remark,) = reading.findings
    assert (remark.code, remark.origin.field) == ("StatusUnreadable", "status.phase")
    assert reading.routers[0].rules[0].backends[0].down == ""


def test_nor_is_one_that_is_exposed_by_itself() -> None:
    pool_of_two = document("ModelPool", "gpu", {"members": [{"inferenceServiceRef": {"name": "cuda"}}]})
    remarks = read(model(), exposed("cuda"), pool_of_two).findings
    assert [(one.code, one.origin.kind) for one in remarks] == [("ModelPoolNotActivated", "InferenceService")]
