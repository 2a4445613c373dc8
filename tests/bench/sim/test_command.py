"""`epp bench sim`, as people call it."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bench import command
from bench.sim.__main__ import main

MATRIX = """\
about: a try
seeds: 2
warmUp: 30
requests: 80
policies: [upstream-default, random]
capacities:
- {workload: batch-rag, fleet: 8xH100, requestsPerSecond: 6}
cells:
- {workloads: [batch-rag], loads: [0.5]}
"""


@pytest.fixture
def matrix(tmp_path: Path) -> Path:
    path = tmp_path / "try.yaml"
    path.write_text(MATRIX)
    return path


def test_a_matrix_is_played_and_reported(
    matrix: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert command.main(["sim", "--matrix", str(matrix), "--out", str(out), "--jobs", "1"]) == 0
    captured = capsys.readouterr()
    assert "All cells (TTFT p90)" in captured.out and "| upstream-default |" in captured.out
    assert "4 of 4 plays" in captured.err
    assert {path.name for path in out.iterdir()} == {
        *("report.json", "report.md", "report.html", "far-from-the-best.png")
    }
    assert json.loads((out / "report.json").read_text())["command"] == "epp bench sim --matrix try.yaml"


def test_a_report_is_replaced_only_on_demand(
    matrix: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "report.json").write_text("{}")
    ask = [
        "--matrix",
        str(matrix),
        "--out",
        str(tmp_path),
        "--jobs",
        "1",
        "--seeds",
        "1",
        "--policy",
        "random",
    ]
    assert main(ask, "epp bench sim") == 2
    said = f"--out: there is a report in {tmp_path}: give another folder, or --force to replace it"
    assert capsys.readouterr().err == f"epp bench sim: {said}\n"
    assert main([*ask, "--force"], "epp bench sim") == 0
    assert json.loads((tmp_path / "report.json").read_text())["played"] == 1


def test_the_command_line_changes_what_the_matrix_says(
    matrix: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text(
        "apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\nplugins: [{type: queue-scorer}]\n"
    )
    ask = ["--matrix", str(matrix), "--out", str(tmp_path / "out"), "--jobs", "1", "--seeds", "1"]
    ask += ["--policy", str(config), "--policy", "random", "--load", "0.2,0.4", "--readings", "1s"]
    assert main(ask) == 0
    data = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [policy["name"] for policy in data["policies"]] == ["mine", "random"]
    assert [(cell["load"], cell["interval"]) for cell in data["cells"]] == [(0.2, 1.0), (0.4, 1.0)]
    assert str(tmp_path) not in data["command"]


def test_capacities_are_found_as_a_matrix_takes_them(
    matrix: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workload = tmp_path / "short.yaml"
    workload.write_text("name: short\nsessions: [{name: s, inputTokens: 100, outputTokens: 1}]\n")
    ask = ["--matrix", str(matrix), "--workload", str(workload), "--jobs", "1", "--capacities"]
    assert main(ask) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"capacities:\n- {{workload: {workload}, fleet: 8xH100, requestsPerSecond: ")


@pytest.mark.parametrize(
    "wrong, problem",
    [
        pytest.param(
            ["--policy", "randum"], '--policy: "randum" is unknown, did you mean "random"?', id="policy"
        ),
        pytest.param(
            ["--workload", "chat"],
            'workload "chat" is unknown',
            id="workload",
        ),
        pytest.param(["--fleet", "H100"], '--fleets: "H100" is unknown', id="fleet"),
        pytest.param(
            ["--load", "high"], '--load: "high" is no list of numbers: write for example 0.5', id="load"
        ),
        pytest.param(
            ["--readings", "50"],
            '--readings: "50" is no list of durations: write for example 50ms',
            id="readings",
        ),
        pytest.param(
            ["--policy", "random", "--policy", "random"], '--policy: two are called "random"', id="twice"
        ),
        pytest.param(["--matrix", "no/such.yaml"], "no/such.yaml: cannot be read: No such file", id="matrix"),
    ],
)
def test_wrong_arguments_are_told_before_anything_is_played(
    matrix: Path, tmp_path: Path, wrong: list[str], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--matrix", str(matrix), "--out", str(tmp_path / "out"), *wrong], "epp bench sim") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"epp bench sim: {problem}")
    assert not (tmp_path / "out").exists()


def test_a_workload_that_is_too_short_ends_the_run_with_a_reason(
    matrix: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = tmp_path / "trace.jsonl"
    trace.write_text(
        "".join(
            f'{{"timestamp": {n * 100}, "input_length": 512, "output_length": 10, "hash_ids": [{n}]}}\n'
            for n in range(20)
        )
    )
    workload = tmp_path / "trace.yaml"
    workload.write_text("name: recorded\ntrace: {file: trace.jsonl, format: mooncake}\n")
    matrix.write_text(
        MATRIX.replace("batch-rag", str(workload)),
    )
    ask = ["--matrix", str(matrix), "--out", str(tmp_path / "out"), "--jobs", "1"]
    assert main(ask, "epp bench sim") == 1
    assert "the workload ended after 20 requests, within the warm-up of 30" in capsys.readouterr().err


def test_an_interrupt_keeps_what_was_played(matrix: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    ask = ["--matrix", str(matrix), "--out", str(out), "--jobs", "2", "--seeds", "100000"]
    code = "import sys; from bench.sim import __main__ as m; m.SAY_EVERY = 0; sys.exit(m.main(sys.argv[1:]))"
    with subprocess.Popen(
        [sys.executable, "-c", code, *ask], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    ) as run:
        assert run.stderr is not None
        for line in run.stderr:
            if "plays: 5 of" in line:
                break
        os.kill(run.pid, signal.SIGINT)
        rest = run.stderr.read()
    assert run.returncode == 130
    assert "interrupted: what was played is kept" in rest and "PARTIAL: " in rest
    assert "Traceback" not in rest
    data = json.loads((out / "report.json").read_text())
    assert data["is_partial"] and data["played"] >= 5
    assert data["cells"][0]["standings"]
