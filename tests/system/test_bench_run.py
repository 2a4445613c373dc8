"""`epp bench run` and `compare` as a person starts them, against real servers."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from bench.rig.envoy import Envoy
from bench.rig.llama import LlamaServer
from bench.rig.process import Process, answers_ok, free_port, wait_until

pytestmark = pytest.mark.default_driver
ROOT = Path(__file__).parents[2]
COMMAND = (sys.executable, "-m", "epp", "bench")
LOAD = ("--workload", "small", "--rate", "15")


class Engine(Process):
    """Answers at once, with sixteen tokens."""

    def __init__(self, logs: Path) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-m", "bench.engine", "--port", str(port)]
        super().__init__(
            "engine",
            [*command, "--sse-chunks", "16", "--chunk-interval", "0.002"],
            log=logs / f"engine-{port}.log",
        )

    def is_ready(self) -> bool:
        return answers_ok(f"{self.url}/health")


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    with Engine(tmp_path) as running:
        yield running


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )


def begun(*arguments: str) -> "subprocess.Popen[str]":
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        [*COMMAND, *arguments],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def report(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return found


def requests(found: dict[str, Any]) -> list[dict[str, Any]]:
    return [one for stretch in found["stretches"] for one in stretch["requests"]]


def taken(engine: Engine) -> int:
    """Connections that clients have to it now."""
    port = f":{int(engine.url.rsplit(':', 1)[1]):04X}"
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return sum(line.split()[1].endswith(port) and line.split()[3] == "01" for line in lines)


def test_a_run_ends_with_its_figures_and_a_report(engine: Engine, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = bench("run", "--url", engine.url, *LOAD, "--seconds", "2", "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert "| TTFT p90 [ms] |" in done.stdout and "\x1b" not in done.stdout + done.stderr
    found = report(out)
    assert not found["is_partial"] and found["whole"][0]["model"] == "bench"
    assert len(requests(found)) > 5
    assert all(one["error"] is None and one["output_tokens"] == 16 for one in requests(found))
    again = bench("run", "--url", engine.url, *LOAD, "--seconds", "2", "--out", str(out))
    assert again.returncode == 2
    assert again.stderr == (
        f"epp bench run: --out: there is a report in {out}: give another folder, or --force to replace it\n"
    )


def test_a_url_that_refuses_is_one_line_at_once(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    done = bench("run", "--url", url, *LOAD, "--seconds", "3600", "--out", str(tmp_path / "out"))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"epp bench run: {url}: refuses connections: is the server running there?\n"


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["--url", "nowhere"], "--url: 'nowhere' is no URL of a server"),
        (["--url", "http://h", "--workload", "smal"], 'workload "smal" is unknown, did you mean "small"'),
        (["--url", "http://h", "--workload", "small"], "has no rate: write requestsPerSecond into its file"),
        (["--url", "http://h", "--workload", "nowhere.jsonl"], "--workload: nowhere.jsonl is no file"),
        (["--url", "http://h", "--api-key-file", "/nowhere"], "--api-key-file: /nowhere cannot be read"),
        (["--url", "http://h", "--slo-ttft", "500"], "'500' is no time: write for example \"500ms\""),
        (["--url", "http://h", "--rate", "-1"], "'-1' is not a number above 0"),
    ],
)
def test_wrong_arguments_are_told_before_anybody_is_asked(arguments: Sequence[str], says: str) -> None:
    done = bench("run", *arguments)
    assert done.returncode == 2
    assert says in done.stderr and "Traceback" not in done.stderr


def test_an_interrupt_keeps_what_was_measured(engine: Engine, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with begun("run", "--url", engine.url, *LOAD, "--seconds", "600", "--out", str(out)) as running:
        wait_until(lambda: taken(engine) > 1, what="requests; the question for the model was one alone")
        running.send_signal(signal.SIGINT)
        stdout, stderr = running.communicate(timeout=30)
    assert running.returncode == 130, stderr
    assert stdout.startswith("PARTIAL: interrupted.") and "PARTIAL: interrupted" in stderr
    found = report(out)
    assert found["is_partial"] and found["stopped"] == "interrupted" and requests(found)


def test_a_server_that_dies_ends_the_run_and_what_was_measured_is_kept(
    engine: Engine, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with begun("run", "--url", engine.url, *LOAD, "--seconds", "600", "--out", str(out)) as running:
        wait_until(lambda: taken(engine) > 1, what="requests; the question for the model was one alone")
        engine.kill()
        stdout, stderr = running.communicate(timeout=60)
    assert running.returncode == 1, stderr
    assert f"PARTIAL: {engine.url} took no connection (connect: refused) for" in stdout
    found = report(out)
    assert found["is_partial"]
    assert {one["error"] for one in requests(found)} >= {"connect: refused"}


def test_two_listeners_before_real_servers_take_turns(
    servers: list[LlamaServer], gateway: Envoy, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    one, other = gateway.url("round_robin"), gateway.url("original_dst")
    flags = ["--rounds", "2", "--seconds", "4", "--rate", "8", "--workload", "small", "--model", "tiny"]
    done = bench("run", "--url", one, "--versus", other, *flags, "--out", str(out))
    assert done.returncode == 0, done.stderr
    found = report(out)
    asked = [stretch["policy"] for stretch in found["stretches"]]
    assert sorted(asked) == sorted([one, one, other, other])
    good = [each for each in requests(found) if each["error"] is None]
    assert len(good) >= 0.9 * len(requests(found)) > 5  # now and then llama.cpp closes under a request
    addresses = {server.address for server in servers}
    assert {each["server"] for each in good} <= addresses
    assert all(each["output_tokens"] >= 4 and each["ttft"] > 0 for each in good)
    assert any(each["cached_tokens"] for each in good if each["turn"] > 1)
    compared = bench("compare", str(out / "report.json"), str(out / "report.json"))
    assert compared.returncode == 0 and "2 by Welch's t" in compared.stdout
