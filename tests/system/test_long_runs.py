"""`make soak` and `make fuzz` for seconds: not what they prove in an hour, but that they can."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(module: str, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", module, *flags]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)


def test_a_short_soak_leaves_nothing() -> None:
    done = run("bench.soak", "--seconds=3", "--streams=300", "--connections=6", "--think=0.2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "nothing is left" in done.stdout


@pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None,
    reason="atheris is not installed: that `make fuzz` runs was not tested",
)
def test_a_short_fuzz_run_finds_nothing(tmp_path: Path) -> None:
    done = run("bench.fuzz", "--seconds=5", f"--work={tmp_path}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("0 findings\n")
    assert any((tmp_path / "corpus").iterdir())
