"""Whoever reads what a command prints may go before its end, or not be there at all."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FLEET = str(ROOT / "docs" / "examples" / "home-lab" / "fleet.yaml")
PRINTING = [
    ["version"],
    ["serve", "--help"],
    ["plan", "--help"],
    ["lint", "-f", FLEET],
    ["lint", "--explain", "InsecureSeed"],
    ["compile", "-f", FLEET, "--target", "envoy-ai-gateway-1.1", "--namespace", "llm"],
]


@pytest.fixture(params=PRINTING, ids=lambda command: " ".join(command[:2]).replace(FLEET, ""))
def command(request: pytest.FixtureRequest) -> list[str]:
    found: list[str] = request.param
    return found


def run(command: list[str], stdout: int | None) -> subprocess.CompletedProcess[str]:
    """``stdout`` None: closed."""
    settings = {**os.environ, "PYTHONUNBUFFERED": ""}
    return subprocess.run(
        [sys.executable, "-m", "epp", *command],
        cwd=ROOT,
        env=settings,
        stdin=subprocess.DEVNULL,
        stdout=stdout if stdout is not None else subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        preexec_fn=(lambda: os.close(1)) if stdout is None else None,
        text=True,
        timeout=60,
        check=False,
    )


def test_without_standard_output_it_ends_as_with_it(command: list[str]) -> None:
    end = run(command, None)
    assert (end.returncode, "Traceback" in end.stderr) == (0, False)


def test_a_reader_that_has_gone_is_no_fault(command: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as pipe:
        end = run(command, pipe.fileno())
    assert end.returncode == 0
    assert "Traceback" not in end.stderr and "BrokenPipe" not in end.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_what_cannot_be_written_is_told(command: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        end = run(command, full.fileno())
    assert end.returncode == 1
    assert end.stderr.splitlines()[-1] == "epp: standard output: No space left on device"
