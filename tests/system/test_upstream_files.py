"""The process with configurations as upstream, its guides and KServe ship them: it starts and picks."""

import json
from pathlib import Path

import pytest
import yaml

from bench.rig.llama import LlamaServer
from bench.rig.picker import Picker
from tests.system.talk import (
    channel_to,
    chat,
    converse,
    destination,
    request_body,
    request_headers,
    wait_reachable,
)

FILES = Path(__file__).parents[1] / "config/upstream"
STARTED = [
    "gie-v1.5-legacy",
    "kserve-default",
    "kserve-older-prefill",
    "llm-d-flow-control",
    "llm-d-optimized-baseline",
    "llm-d-pd-older",
]


@pytest.mark.parametrize("name", STARTED)
def test_a_shipped_configuration_starts_unchanged_and_picks(
    name: str, servers: list[LlamaServer], logs: Path
) -> None:
    config = yaml.safe_load((FILES / f"{name}.yaml").read_text(encoding="utf-8"))
    endpoints = {f"llama-{i}": server.address for i, server in enumerate(servers)}
    with Picker(logs=logs, name=f"picker-{name}", endpoints=endpoints, config=config) as picker:
        wait_reachable(picker, dict.fromkeys(endpoints, "up"))
        with channel_to(picker) as channel:
            answer = next(converse(channel, [request_headers(), request_body(chat())]))
        assert destination(answer) in endpoints.values()
        lines = [json.loads(line) for line in picker.log.read_text().splitlines() if line.startswith("{")]
        assert not [line for line in lines if line["level"] == "error"]
