"""The files under deploy/ work as they are, but for their ports. They name no driver: the default."""

import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.rig.envoy import DESTINATION
from bench.rig.llama import LlamaServer
from bench.rig.process import Process, answers_ok, free_port, http_get
from tests.system.talk import CHAT, ask, chat

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "deploy" / "envoy" / "envoy.yaml"
PICKER, GATEWAY, ADMIN = 9002, 10000, 9901
"""The ports written there."""


class Answering(Process):
    """A command that is ready when a page answers 200."""

    def __init__(self, name: str, command: list[str], *, logs: Path, page: str) -> None:
        super().__init__(name, command, log=logs / f"{name}.log")
        self._page = page

    def is_ready(self) -> bool:
        return answers_ok(self._page)


def moved(text: str, ports: dict[int, int]) -> str:
    """The configuration on other ports, and on loopback only."""
    assert {int(port) for port in re.findall(r"port_value: (\d+)", text)} == set(ports)
    for written, free in ports.items():
        text = text.replace(f"port_value: {written}}}", f"port_value: {free}}}")
    return text.replace("address: 0.0.0.0", "address: 127.0.0.1")


@contextmanager
def plain_envoy(logs: Path, server: LlamaServer) -> Iterator[tuple[str, str]]:
    """The documented pair of commands over one server; the URLs of gateway and picker's pages."""
    grpc, health, pages = free_port(), free_port(), free_port()
    listed = logs / "deploy-endpoints.yaml"
    listed.write_text(f"endpoints:\n- {{name: gpu-0, address: 127.0.0.1, port: {server.port}}}\n")
    ports = {PICKER: grpc, GATEWAY: free_port(), ADMIN: free_port()}
    config = logs / "deploy-envoy.yaml"
    config.write_text(moved(CONFIG.read_text(encoding="utf-8"), ports))
    picker = [sys.executable, "-m", "epp", "serve", "--endpoints-file", str(listed)]
    picker += [f"--grpc-port={grpc}", f"--grpc-health-port={health}", f"--metrics-port={pages}"]
    envoy = [str(Path(sys.executable).with_name("envoy")), "--config-path", str(config)]
    envoy += ["--concurrency", "1", "--disable-hot-restart", "--log-level", "warning"]
    pages_url, admin = f"http://127.0.0.1:{pages}", f"http://127.0.0.1:{ports[ADMIN]}"
    with (
        Answering("deploy-picker", picker, logs=logs, page=f"{pages_url}/readyz"),
        Answering("deploy-envoy", envoy, logs=logs, page=f"{admin}/ready"),
    ):
        yield f"http://127.0.0.1:{ports[GATEWAY]}", pages_url


def test_the_plain_envoy_serves_through_the_picker(logs: Path, servers: list[LlamaServer]) -> None:
    server = servers[0]
    with plain_envoy(logs, server) as (gateway, pages):
        whole = ask(gateway, CHAT, chat())
        assert (whole.status, whole.headers["x-went-into-resp-headers"]) == (200, "true")
        assert whole.json()["usage"]["completion_tokens"] == 4
        assert ask(gateway, CHAT, chat(stream=True)).events()[-1] == "[DONE]"
        assert ask(gateway, "/v1/models").status == 200
        assert ask(gateway, CHAT, b'{"model":').status == 400
        elsewhere = [(DESTINATION, f"127.0.0.1:{free_port()}")]
        assert ask(gateway, CHAT, chat(), headers=elsewhere).status == 200
        picks = json.loads(http_get(f"{pages}/debug/picks")[1])["picks"]
        assert [pick["picked"] for pick in picks] == [["gpu-0"]] * 4
        documented = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
        shown = re.findall(r"^# TYPE (\S+)", http_get(f"{pages}/metrics")[1].decode(), re.MULTILINE)
        assert [name for name in shown if f"`{name}`" not in documented and "process_" not in name] == []


def test_the_plain_envoy_never_follows_a_clients_destination(logs: Path, servers: list[LlamaServer]) -> None:
    """With a picker that is gone, and even where Envoy is told to go on without it."""
    server = servers[0]
    config = CONFIG.read_text(encoding="utf-8")
    ports = {PICKER: free_port(), GATEWAY: free_port(), ADMIN: free_port()}
    for allow in ("false", "true"):
        path = logs / f"deploy-alone-{allow}.yaml"
        text = moved(config, ports).replace("failure_mode_allow: false", f"failure_mode_allow: {allow}")
        path.write_text(text)
        command = [str(Path(sys.executable).with_name("envoy")), "--config-path", str(path)]
        command += ["--concurrency", "1", "--disable-hot-restart", "--log-level", "warning"]
        admin = f"http://127.0.0.1:{ports[ADMIN]}/ready"
        with Answering(f"deploy-alone-{allow}", command, logs=logs, page=admin):
            gateway = f"http://127.0.0.1:{ports[GATEWAY]}"
            answer = ask(gateway, "/v1/models", headers=[(DESTINATION, server.address)])
            assert answer.status == (503 if allow == "true" else 500)
