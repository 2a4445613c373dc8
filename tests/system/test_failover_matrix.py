"""`epp bench failover` and `make chaos`, short: that they can be played, and that little is lost.

What they prove is in docs/failover.md; here limits are generous, for machines that do other things too.
"""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest

from bench.failover.front import Mode
from bench.failover.house import answers
from bench.failover.parts import Front
from bench.rig.llama import LlamaServer
from bench.rig.process import http_get, http_post, wait_until
from tests.system.test_demo import environment, left_over

ROOT = Path(__file__).parents[2]
COMMAND = (sys.executable, "-m", "epp", "bench", "failover")
SCENARIOS = ("kill", "hang", "failing", "blind")


# --- the matrix --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The account of each scenario, and what was said."""
    folder = tmp_path_factory.mktemp("failover")
    page = folder / "page.md"
    page.write_text("Before.\n\n<!-- failover: generated -->\n<!-- failover: end -->\n")
    chosen = [word for name in SCENARIOS for word in ("--scenario", name)]
    done = subprocess.run(
        [*COMMAND, *chosen, "--times=1", "--seconds=6", f"--out={folder}", f"--into={page}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    data = json.loads((folder / "failover.json").read_text())
    runs = {one["name"]: one["runs"][0] for one in data["scenarios"]}
    return {"runs": runs, "said": done.stdout, "page": page.read_text(), "folder": folder}


def test_every_request_has_an_account(played: dict[str, Any]) -> None:
    for name, run in played["runs"].items():
        # at 50 a second, as long as it lasted
        expected = 50 * (run["ended_s"] - run["began_s"])
        assert abs(len(run["requests"]) - expected) <= 3, name
        assert all(one[2] for one in run["requests"]), f"{name}: nobody said whom the picker chose"


def test_a_killed_server_gets_hardly_a_request_and_is_back_soon(played: dict[str, Any]) -> None:
    found = played["runs"]["kill"]["account"]
    assert found["lost_new"] <= 3 and found["last_sent"] < 0.5
    assert found["back_after"] < 3 and found["lost_after_back"] == 0


def test_a_server_that_hangs_is_left_alone(played: dict[str, Any]) -> None:
    found = played["runs"]["hang"]["account"]
    assert found["last_sent"] < 2 and found["back_after"] < 3


def test_a_server_that_answers_500_loses_its_requests(played: dict[str, Any]) -> None:
    assert played["runs"]["failing"]["account"]["sent_after"] <= 5


def test_a_server_without_metrics_goes_on(played: dict[str, Any]) -> None:
    found = played["runs"]["blind"]["account"]
    assert found["lost_new"] == 0 and found["kept_share"] > 0.2


def test_tables_and_pictures_are_there(played: dict[str, Any]) -> None:
    assert "### Goals" in played["said"] and played["said"].strip() in played["page"]
    for name in SCENARIOS:
        assert (played["folder"] / f"{name}.svg").stat().st_size > 1_000


def test_a_picker_that_does_not_start_is_told_and_nothing_is_left(tmp_path: Path) -> None:
    versus = f"{sys.executable} -c 'raise SystemExit(\"no such picker\")'"
    done = subprocess.run(
        [*COMMAND, "--scenario=kill", "--times=1", "--seconds=3", f"--out={tmp_path}", "--versus", versus],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "not played: picker ended with status 1: no such picker" in done.stdout


def test_an_interrupt_leaves_nothing(tmp_path: Path) -> None:
    command = [*COMMAND, "--scenario=flapping", f"--out={tmp_path}"]
    with subprocess.Popen(
        command, cwd=ROOT, env=environment(tmp_path), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as run:
        wait_until(lambda: any("envoy" in one for one in left_over(tmp_path)), what="it runs")
        run.send_signal(signal.SIGINT)
        _, said = run.communicate(timeout=60)
    assert run.returncode == 130, said
    assert said.decode().endswith("interrupted: everything is stopped\n")
    wait_until(lambda: not left_over(tmp_path), what="no process left")
    assert not list(tmp_path.iterdir())


# --- random faults -----------------------------------------------------------------------------------


def test_a_fleet_that_fails_at_random_loses_nothing_else() -> None:
    """Long enough for a server that is well and gets nothing (fleet_soak.OUT_SECONDS)."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.fleet_soak", "--seconds=40"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "nothing is left" in done.stdout


# --- what stands for a faulty server -----------------------------------------------------------------


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    logs = tmp_path_factory.mktemp("front")
    with LlamaServer(logs=logs, name="behind") as server, Front(logs, server.address) as front:
        yield front


def ask(front: Front) -> tuple[int, Any]:
    body = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 2}
    return http_post(f"http://{front.addresses[0]}/v1/chat/completions", body, timeout=1.0)


def look(front: Front, path: str) -> tuple[int, bytes]:
    return http_get(f"http://{front.addresses[0]}{path}", timeout=1.0)


def test_a_front_passes_a_server_s_own_answers(front: Front) -> None:
    front.say(Mode.PASSING)
    assert ask(front)[0] == 200 and answers(front.addresses[0])
    assert b"llamacpp:requests_processing" in look(front, "/metrics")[1]


@pytest.mark.parametrize(
    "mode, status, words",
    [
        (Mode.LOADING, 503, "Loading model"),
        (Mode.FAILING, 500, "Internal server error"),
        (Mode.DRAINING, 500, "after shutdown"),
    ],
)
def test_a_front_answers_in_its_place(front: Front, mode: Mode, status: int, words: str) -> None:
    front.say(mode)
    told, body = ask(front)
    assert (told, words in body["error"]["message"]) == (status, True)
    assert look(front, "/health")[0] == (503 if mode is Mode.LOADING else 200)


@pytest.mark.parametrize("mode", [Mode.GONE, Mode.SILENT, Mode.DEAF])
def test_a_front_is_not_there(front: Front, mode: Mode) -> None:
    front.say(mode)
    with pytest.raises(TimeoutError if mode is Mode.SILENT else URLError):
        ask(front)
    assert not answers(front.addresses[0])


def test_a_front_hides_the_metrics(front: Front) -> None:
    front.say(Mode.BLIND)
    assert ask(front)[0] == 200 and look(front, "/health")[0] == 200
    with pytest.raises(ConnectionResetError):
        look(front, "/metrics")
