"""Arguments as other people's charts write them start the picker unchanged, in a real cluster.

Only free ports are added at the end, and not to wait for gateways: what is written twice counts as written
last. The arguments are what the templates render, the configuration files those of the same charts.

Source: GIE v1.5, config/charts/epplib/templates; llm-d-router v0.10, config/charts/routerlib/templates;
KServe, config/llmisvcconfig and its LLMInferenceService controller.
"""

import datetime as dt
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench.rig.picker import Picker
from bench.rig.process import http_get, wait_until
from epp.runtime.tls import self_signed
from tests.system.cluster import NAMESPACE, Stage, picked
from tests.system.talk import page

pytestmark = [
    pytest.mark.timeout(900),  # the first run builds the API server
    pytest.mark.default_driver,
]

SCORERS = {"queue-scorer": 2, "kv-cache-utilization-scorer": 2, "prefix-cache-scorer": 3}
METRICS_SOURCE = {"scheme": "http", "path": "/metrics", "insecureSkipVerify": True}
TRITON = [
    *("--total-queued-requests-metric", "nv_trt_llm_request_metrics{request_type=waiting}"),
    *("--total-running-requests-metric", "nv_trt_llm_request_metrics{request_type=scheduled}"),
    *(
        "--kv-cache-usage-percentage-metric",
        "nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type=fraction}",
    ),
    *("--lora-info-metric", ""),
]
TRTLLM = [
    '--total-queued-requests-metric="trtllm_num_requests_waiting"',
    '--total-running-requests-metric="trtllm_num_requests_running"',
    '--kv-cache-usage-percentage-metric="trtllm_kv_cache_utilization"',
    '--cache-info-metric="trtllm_cache_config_info"',
    '--model-server-metrics-path="/prometheus/metrics"',
    *("--lora-info-metric", ""),
]


def charts_config(api_version: str) -> str:
    """``default-plugins.yaml`` of both charts."""
    return yaml.safe_dump(
        {
            "apiVersion": api_version,
            "kind": "EndpointPickerConfig",
            "plugins": [
                *({"type": scorer} for scorer in SCORERS),
                {"type": "metrics-data-source", "parameters": METRICS_SOURCE},
                {"type": "core-metrics-extractor"},
            ],
            "schedulingProfiles": [profile(SCORERS)],
        }
    )


def kserves_config() -> str:
    scorers = {**SCORERS, "no-hit-lru-scorer": 2}
    chosen = profile(scorers)
    chosen["plugins"].append({"pluginRef": "max-score-picker"})
    return yaml.safe_dump(
        {
            "apiVersion": "inference.networking.x-k8s.io/v1alpha1",
            "kind": "EndpointPickerConfig",
            "plugins": [{"type": kind} for kind in (*scorers, "max-score-picker")],
            "schedulingProfiles": [chosen],
        }
    )


def profile(scorers: dict[str, int]) -> dict[str, Any]:
    return {"name": "default", "plugins": [{"pluginRef": n, "weight": w} for n, w in scorers.items()]}


def started(stage: Stage, *arguments: str, tls: bool = True) -> Picker:
    """``epp`` with these arguments, over one pod that serves; ready, and it has picked that pod."""
    stage.server("127.0.0.2")
    stage.apply(stage.pool(), stage.pod("one", "127.0.0.2"))
    picker = stage.picker(NAMESPACE=NAMESPACE, POD_NAME=f"{stage.name[:20]}-epp-5d9c7f6b8-x2x4z")
    ports = {
        "grpc-port": picker.grpc_port,
        "grpc-health-port": picker.health_port,
        "metrics-port": picker.metrics_port,
    }
    # Go takes switches without a value only; the rest may be apart
    added = [*(f"--{flag}={port}" for flag, port in ports.items()), "--drain-timeout=0s"]
    picker.command[:] = [sys.executable, "-m", "epp", *arguments, *added]
    picker.tls = tls
    picker.start()
    wait_until(lambda: page(picker, "/readyz")["status"] == "ready", what="the pages")
    wait_until(lambda: "endpoint is ready" in picker.log.read_text(), what="the pod looked at")
    assert picked(picker, 3) == {f"127.0.0.2:{stage.port}"}
    return picker


def pool_of(stage: Stage) -> list[str]:
    given = {
        "pool-name": stage.name,
        "pool-namespace": NAMESPACE,
        "pool-group": "inference.networking.k8s.io",
    }
    return [word for flag, value in given.items() for word in (f"--{flag}", value)]


@pytest.mark.parametrize("of_model_server", [[], TRITON, TRTLLM], ids=["vllm", "triton", "trtllm"])
def test_the_inferencepool_chart_of_gie(stage: Stage, tmp_path: Path, of_model_server: list[str]) -> None:
    config = tmp_path / "default-plugins.yaml"
    config.write_text(charts_config("inference.networking.x-k8s.io/v1alpha1"))
    picker = started(
        stage,
        *(*pool_of(stage), *of_model_server, "--zap-encoder", "json", "--config-file", str(config)),
        *("--ha-enable-leader-election", "--enable-pprof=true", "--v=1", "--tracing=false"),
        "--metrics-endpoint-auth=false",
    )
    log = picker.log.read_text()
    assert log.count("no effect") == 1 + bool(of_model_server)
    assert "this replica leads" in log
    assert http_get(f"{picker.metrics_url}/metrics")[0] == 200


@pytest.mark.parametrize("by_selector", [False, True], ids=["pool", "standalone"])
def test_the_charts_of_llm_d(stage: Stage, tmp_path: Path, by_selector: bool) -> None:
    config = tmp_path / "default-plugins.yaml"
    config.write_text(charts_config("llm-d.ai/v1alpha1"))
    selected = ["--endpoint-selector", f"app={stage.name}", "--endpoint-target-ports", str(stage.port)]
    picker = started(
        stage,
        *(*(selected if by_selector else pool_of(stage)), "--zap-encoder", "json"),
        *("--config-file", str(config), "--grpc-health-port", "9003", "--health-checking=true"),
        *("--secure-serving=false", "--v=1", "--tracing=true"),
        tls=False,
    )
    assert http_get(f"{picker.metrics_url}/metrics")[0] == 401, "unless it is told not to ask, as upstream"


@pytest.mark.parametrize("replicas", [1, 2])
def test_kserve(stage: Stage, tmp_path: Path, replicas: int) -> None:
    pair = self_signed(dt.datetime.now(dt.UTC))
    (tmp_path / "tls.crt").write_bytes(pair.chain)
    (tmp_path / "tls.key").write_bytes(pair.key)
    picker = started(
        stage,
        *("--pool-name", stage.name, "--pool-namespace", NAMESPACE, "--zap-encoder", "json"),
        *("--grpc-port", "9002", "--grpc-health-port", "9003", "--enable-cert-reload", "--secure-serving"),
        *("--model-server-metrics-scheme", "http", "--cert-path", str(tmp_path)),
        *("--config-text", kserves_config()),
        *(["--ha-enable-leader-election"] if replicas > 1 else []),
    )
    assert {picker.health("liveness"), picker.health("readiness")} == {"SERVING"}
    assert "no effect" not in picker.log.read_text()


def test_kserve_asks_servers_for_metrics_by_https(stage: Stage) -> None:
    """Its servers speak TLS, with certificates of their own; one that does not is told apart."""
    stage.server("127.0.0.2")
    stage.apply(stage.pool(), stage.pod("one", "127.0.0.2"))
    picker = stage.picker(
        "--model-server-metrics-scheme", "https", "--model-server-metrics-https-insecure-skip-verify"
    )
    picker.start()
    wait_until(lambda: "does not speak TLS" in reason(picker), what="how it is asked")


def reason(picker: Picker) -> str:
    (one,) = page(picker, "/debug/endpoints")["endpoints"]
    return str(one["reason"])
