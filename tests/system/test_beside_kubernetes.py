"""What plugins do beside the choice, with a real Kubernetes API: who is turned away, whose GPUs those are."""

import pytest

from bench.rig.process import wait_until
from tests.system.cluster import NEW_KINDS, Stage, wait_serving
from tests.system.kube_plane import MISSING, is_possible
from tests.system.talk import (
    channel_to,
    chat,
    converse,
    destination,
    endpoints,
    request_body,
    request_headers,
)

if not is_possible():
    pytest.skip(MISSING, allow_module_level=True)
pytestmark = [
    pytest.mark.timeout(900),  # the first run builds the API server
    pytest.mark.default_driver,
]

# upstream's sample, whose detector never sheds, and the figures of the GPUs
CONFIG = """\
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
- type: probabilistic-admitter
- type: random-picker
- {{type: utilization-detector, parameters: {{queueDepthThreshold: 999999999, kvCacheUtilThreshold: 1.0}}}}
- {{type: dcgm-data-source, parameters: {{port: {port}, useNodeAddress: true, interval: 1s}}}}
- type: dcgm-extractor
saturationDetector: {{pluginRef: utilization-detector}}
schedulingProfiles: [{{name: default, plugins: [{{pluginRef: random-picker}}]}}]
dataLayer: {{sources: [{{pluginRef: dcgm-data-source, extractors: [{{pluginRef: dcgm-extractor}}]}}]}}
"""
NODE = "127.0.0.61"


def test_a_full_pool_turns_sheddable_requests_away_and_gpus_belong_to_pods(stage: Stage) -> None:
    for crd in NEW_KINDS:
        stage.plane.define(crd)
    exporter = stage.gate(NODE)
    exporter.page = (
        b'DCGM_FI_DEV_GPU_UTIL{gpu="0",pod="one"} 30\nDCGM_FI_DEV_GPU_UTIL{gpu="1",pod="two"} 80\n'
    )
    pods = []
    for name, ip in (("one", "127.0.0.62"), ("two", "127.0.0.63")):
        server, pod = stage.gate(ip), stage.pod(name, ip)
        server.page = server.readings(1, 10, 0.5)  # max(10/5, 0.5/0.8) = 2 is full
        pod["status"]["hostIP"] = NODE
        pods.append(pod)
    objective = stage.asking("InferenceObjective", "batch", "llm-d.ai", priority=-1)
    stage.apply(stage.pool(), *pods, objective)
    config = CONFIG.format(port=exporter.port)
    with stage.picker("--allow-experimental-plugins", f"--config-text={config}") as picker:
        wait_serving(picker, "one-rank-0", "two-rank-0")

        def ask(objective: str) -> str:
            more = [("x-llm-d-inference-objective", objective.encode())]
            with channel_to(picker) as channel:
                answer = next(converse(channel, [request_headers(more=more), request_body(chat())]))
            if not answer.HasField("immediate_response"):
                return destination(answer)
            said = answer.immediate_response
            return f"{said.status.code} {said.body.decode()}"

        turned_away = (
            "429 inference error: ResourceExhausted - request cannot be admitted: "
            "sheddable requests are turned away, the pool's saturation is 2.00"
        )
        wait_until(lambda: ask("batch") == turned_away, what="the refusal")
        assert ask("interactive") in {f"127.0.0.62:{stage.port}", f"127.0.0.63:{stage.port}"}

        def figures() -> dict[str, float | None]:
            return {name: one["figures"].get("GPUUtilization") for name, one in endpoints(picker).items()}

        wait_until(lambda: figures() == {"one-rank-0": 0.3, "two-rank-0": 0.8}, what="each pod's own GPU")
