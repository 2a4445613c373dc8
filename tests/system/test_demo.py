"""The demo as a person starts it, short, with its output in a pipe; its picker has the default driver."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.rig.process import wait_until

ROOT = Path(__file__).parents[2]
COMMAND = (sys.executable, "-m", "bench.demo")
PHASES = ("round_robin", "picker")


def environment(folder: Path) -> dict[str, str]:
    """Every process of this run has this folder in its environment, and writes there."""
    return {**os.environ, "TMPDIR": str(folder), "PYTHONUNBUFFERED": "1"}


def left_over(folder: Path) -> list[str]:
    """The command lines of processes of a run that still live."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            if process.name.isdigit() and f"TMPDIR={folder}".encode() in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:  # gone meanwhile, or not ours
            continue
    return found


def nothing_left(folder: Path) -> None:
    wait_until(lambda: not left_over(folder), what=f"no process left, not {left_over(folder)}")
    assert not list(folder.iterdir())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def run(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess[str]:
    report = tmp_path_factory.mktemp("report") / "out.json"
    done = subprocess.run(
        [*COMMAND, "--seconds", "12", "--json", str(report)],
        cwd=ROOT,
        env=environment(folder),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    done.args = report
    return done


@pytest.fixture(scope="module")
def report(run: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    decoded: dict[str, Any] = json.loads(Path(run.args).read_text())
    return decoded


def test_the_figures_are_complete(report: dict[str, Any]) -> None:
    for phase in PHASES:
        ttft = report[phase]["ttft_ms"]
        assert 0 < ttft["p50"] <= ttft["p95"], phase
    answered = sum(report["endpoints"].values())
    assert answered == report["requests"] - report["failures"] > 0


def test_both_ways_get_the_same_load(report: dict[str, Any]) -> None:
    assert report["picker"]["requests"] == report["round_robin"]["requests"] > 0


def test_requests_fail_only_because_of_the_kill(report: dict[str, Any]) -> None:
    assert [report[phase]["failures"] for phase in PHASES] == [0, 0]
    assert report["failures"] == report["failover"]["failures"]


def test_a_killed_server_is_picked_no_more_within_half_a_second(report: dict[str, Any]) -> None:
    assert 0 <= report["failover"]["last_request_to_dead_ms"] <= 500


def test_every_endpoint_gets_requests_and_the_killed_one_again(report: dict[str, Any]) -> None:
    assert len(report["endpoints"]) == 3
    assert all(report["endpoints"].values()), report["endpoints"]
    assert report["failover"]["back_after_load_ms"] > 0


def test_the_mac_goes_through_the_phases_of_a_return(report: dict[str, Any]) -> None:
    assert report["failover"]["killed"] == "mac"
    *_, last = phases = report["failover"]["phases"]
    assert "ejected" in phases
    assert last in {"probing", "warming", "ready"}, phases


def test_conversations_stay_where_their_prefix_is(report: dict[str, Any]) -> None:
    assert report["picker"]["stayed"] > 0.5
    assert report["picker"]["stayed"] > report["round_robin"]["stayed"]


def test_a_pipe_gets_plain_lines_that_tell_the_story(run: subprocess.CompletedProcess[str]) -> None:
    assert "\x1b" not in run.stdout
    for told in (
        "kill -9",
        "is down, says the picker",
        "mac is ejected: ",
        "answers requests again",
        "prefix-cache",
        "summary",
    ):
        assert told in run.stdout
    assert run.stderr == ""


def test_nothing_is_left_of_it(run: subprocess.CompletedProcess[str], folder: Path) -> None:
    nothing_left(folder)


@pytest.mark.parametrize("when", ["running:", "calibrated:"])
def test_an_interrupt_ends_everything(when: str, tmp_path: Path) -> None:
    with subprocess.Popen(
        COMMAND,
        cwd=ROOT,
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as demo:
        assert demo.stdout is not None and demo.stderr is not None
        assert any(when in line for line in demo.stdout)
        demo.send_signal(signal.SIGINT)
        assert demo.wait(20) == 130
        assert demo.stderr.read() == "interrupted: everything is stopped\n"
    nothing_left(tmp_path)


@pytest.mark.parametrize(
    "arguments, says",
    [
        pytest.param(["--seconds", "3"], "'3': must be a number from 9 to 600", id="too-short"),
        pytest.param(["--seconds", "soon"], "'soon': must be a number from 9 to 600", id="not-a-number"),
        pytest.param(
            ["--json", "/nowhere/out.json"], "must be a file in a directory that exists", id="no-directory"
        ),
    ],
)
def test_wrong_arguments_are_refused_before_anything_starts(
    arguments: list[str], says: str, tmp_path: Path
) -> None:
    done = subprocess.run(
        [*COMMAND, *arguments],
        cwd=ROOT,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert says in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_missing_part_is_named_with_its_remedy(tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['xllamacpp'] = None\nfrom bench.demo.__main__ import main; sys.exit(main())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert (
        done.stderr == "demo: not installed: xllamacpp: run `make setup`, or pip install 'fleet-epp[bench]'\n"
    )
    nothing_left(tmp_path)
