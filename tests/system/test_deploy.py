"""The files under deploy/ work as they are, but for their ports. They name no driver: the default.

What is for Kubernetes is in test_deploy_kubernetes.
"""

import configparser
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench.rig.envoy import DESTINATION
from bench.rig.llama import LlamaServer
from bench.rig.process import Process, answers_ok, free_port, http_get
from epp.config import flags
from tests.system.talk import CHAT, ask, chat

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "deploy" / "envoy" / "envoy.yaml"
PICKER, GATEWAY, ADMIN = 9002, 10000, 9901
"""The ports written there."""


class Answering(Process):
    """A command that is ready when a page answers 200."""

    def __init__(
        self,
        name: str,
        command: list[str],
        *,
        logs: Path,
        page: str,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(name, command, log=logs / f"{name}.log", environment=environment)
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
        documented = "".join(one.read_text(encoding="utf-8") for one in (ROOT / "docs").glob("*.md"))
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


# --- the image ------------------------------------------------------------------------------------------

DOCKERFILE = ROOT / "deploy" / "Dockerfile"
Step = tuple[str, str]


def stages() -> list[list[Step]]:
    """Instruction and the rest of its line, for each FROM."""
    text = re.sub(r"\\\n\s*", " ", DOCKERFILE.read_text(encoding="utf-8"))
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    found: list[list[Step]] = []
    for line in lines:
        word, rest = line.split(" ", 1)
        if word == "FROM":
            found.append([])
        if found:
            found[-1].append((word, rest))
    return found


def of_word(steps: list[Step], word: str) -> list[str]:
    return [rest for each, rest in steps if each == word]


def test_the_image_runs_as_nobody_and_takes_upstreams_arguments() -> None:
    last = stages()[-1]
    (user,), (entry,) = of_word(last, "USER"), of_word(last, "ENTRYPOINT")
    assert all(part.isdecimal() and int(part) > 0 for part in user.split(":"))
    assert json.loads(entry) == ["/app/epp"]
    defaults = flags.parse(["--pool-name=qwen"], {})
    ports = [defaults.grpc_port, defaults.grpc_health_port, defaults.metrics_port]
    assert of_word(last, "EXPOSE") == [" ".join(map(str, ports))]
    assert of_word(last, "RUN") == [] == of_word(last, "CMD")
    assert not re.search(r"https?://|--index-url|apt-get|latest", DOCKERFILE.read_text(encoding="utf-8"))


def test_everything_in_the_image_has_a_hash() -> None:
    installs = [run for run in of_word(stages()[0], "RUN") if " install " in run]
    assert len(installs) == 3
    assert all("--require-hashes" in run or "--no-index --find-links /src/dist" in run for run in installs)


def test_the_build_sees_what_it_copies() -> None:
    ignore = (DOCKERFILE.parent / "Dockerfile.dockerignore").read_text(encoding="utf-8").split()
    for copied in of_word(stages()[0], "COPY"):
        for source in copied.split()[:-1]:
            assert (ROOT / source).exists()
            assert any(Path(source).match(one[1:]) for one in ignore if one.startswith("!")), source


@pytest.mark.timeout(600)  # 48 wheels, where none is in pip's cache
def test_what_the_images_steps_make_serves(tmp_path: Path, logs: Path, servers: list[LlamaServer]) -> None:
    """The steps of the file, below another root, on this machine's Python."""
    root = tmp_path / "image"
    (root / "app").mkdir(parents=True)
    venv.create(root / "base", with_pip=True)  # the base image's Python
    environment = {**os.environ, "PATH": f"{root}/base/bin:{os.environ['PATH']}", "PYTHONPATH": ""}
    at = root
    for word, rest in stages()[0]:
        moved_rest = re.sub(r"(?<![\w/])/(app|src)\b", rf"{root}/\1", rest)
        match word:
            case "WORKDIR":
                at = Path(moved_rest)
                at.mkdir()
            case "ENV":
                given = dict(pair.split("=", 1) for pair in shlex.split(moved_rest))
                given.pop("PIP_NO_CACHE_DIR")  # for a small image; here it would be 40 MB each time
                environment |= given | {"PIP_NO_COMPILE": "0"}  # which is pip's way to say: do not
            case "COPY":
                *sources, target = moved_rest.split()
                for source in sources:
                    copy(ROOT / source, at / target)
            case "RUN":
                done = subprocess.run(
                    ["/bin/sh", "-c", moved_rest],
                    cwd=at,
                    env=environment,
                    capture_output=True,
                    text=True,
                    check=False,
                )
                assert done.returncode == 0, f"{rest}\n{done.stdout}\n{done.stderr}"
    shutil.rmtree(root / "src")  # is not in the second stage
    entry = root / "app" / "epp"
    assert (
        subprocess.run([entry, "version"], capture_output=True, text=True, check=True).stdout == "epp 0.1.0\n"
    )

    listed = tmp_path / "endpoints.yaml"
    listed.write_text(f"endpoints:\n- {{name: gpu-0, address: 127.0.0.1, port: {servers[0].port}}}\n")
    grpc, health, pages = free_port(), free_port(), free_port()
    command = [str(entry), "--pool-name", "qwen", "--endpoints-file", str(listed), "--zap-encoder", "json"]
    command += [f"--grpc-port={grpc}", f"--grpc-health-port={health}", f"--metrics-port={pages}"]
    image = dict(pair.split("=", 1) for env in of_word(stages()[-1], "ENV") for pair in shlex.split(env))
    page, elsewhere = f"http://127.0.0.1:{pages}/readyz", tmp_path / "elsewhere"
    elsewhere.mkdir()
    image |= {"PYTHONPATH": "", "HOME": str(elsewhere), "TMPDIR": str(elsewhere)}
    before = set(root.rglob("*"))
    with Answering("deploy-image", command, logs=logs, page=page, environment=image) as it:
        known = json.loads(http_get(f"http://127.0.0.1:{pages}/debug/endpoints")[1])["endpoints"]
        assert [one["name"] for one in known] == ["gpu-0"]
        assert it.terminate() == 0
    assert set(root.rglob("*")) == before and not list(elsewhere.iterdir())  # it writes nothing


def copy(source: Path, target: Path) -> None:
    """As COPY does: a folder's content into the folder, a file into it."""
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
        return
    target.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)


# --- the unit -------------------------------------------------------------------------------------------


def test_the_unit_is_one_and_its_flags_are_flags(tmp_path: Path) -> None:
    path = ROOT / "deploy" / "systemd" / "fleet-epp.service"
    unit = configparser.ConfigParser(interpolation=None)
    unit.optionxform = str  # systemd's keys have capitals
    unit.read(path)
    service = unit["Service"]
    program, *arguments = shlex.split(service["ExecStart"])
    taken = flags.parse(arguments[1:], {})
    assert (program, arguments[0]) == ("/opt/fleet-epp/bin/epp", "serve")
    assert taken.endpoints_file == "/etc/fleet-epp/endpoints.yaml"
    assert taken.drain_timeout < float(service["TimeoutStopSec"].removesuffix("s"))
    if verify := shutil.which("systemd-analyze"):
        there = tmp_path / "fleet-epp.service"
        there.write_text(path.read_text(encoding="utf-8").replace(program, sys.executable), encoding="utf-8")
        done = subprocess.run([verify, "verify", there], capture_output=True, text=True, check=False)
        assert done.returncode == 0 and "fleet-epp" not in done.stderr, done.stderr
