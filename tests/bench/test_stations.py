import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.findings import BARE, ECHO, NO_PICKER, OURS
from bench.rig.process import Process
from bench.stations import Kind, contenders, cpu_seconds, paused, rss_bytes

BURN = "import time\nwhile time.process_time() < 0.2: pass\nprint(1, flush=True)\ntime.sleep(30)"
FAMILY = f"""
import subprocess, sys, threading, time
def burn():
    while time.thread_time() < 0.15: pass
thread = threading.Thread(target=burn)
thread.start(); thread.join()
child = subprocess.Popen([sys.executable, "-c", {BURN!r}], stdout=subprocess.PIPE)
child.stdout.readline()
print(time.process_time(), flush=True)
sys.stdin.readline()
child.kill()
"""


def test_cpu_time_counts_threads_that_ended_and_children() -> None:
    command = [sys.executable, "-c", FAMILY]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        own = float(parent.stdout.readline())
        counted = cpu_seconds(parent.pid)
        memory = rss_bytes(parent.pid)
        parent.communicate(b"\n")
    assert own >= 0.15
    assert own + 0.2 <= counted < own + 2.0
    assert memory > 10_000_000


def test_a_paused_process_uses_nothing_and_goes_on_afterwards(tmp_path: Path) -> None:
    with Process("busy", [sys.executable, "-c", "while True: pass"], log=tmp_path / "busy.log") as busy:
        with paused(None, busy):
            before = cpu_seconds(busy.pid)
            deadline = time.monotonic() + 0.1
            while time.monotonic() < deadline:
                os.sched_yield()
            assert cpu_seconds(busy.pid) - before < 0.02
        paused_at = cpu_seconds(busy.pid)
        deadline = time.monotonic() + 10
        while cpu_seconds(busy.pid) - paused_at < 0.02:
            assert time.monotonic() < deadline


def test_pausing_what_does_not_run_is_no_error(tmp_path: Path) -> None:
    with paused(Process("never started", [sys.executable], log=tmp_path / "log")):
        pass


@pytest.mark.parametrize(
    "versus, servers, names",
    [
        pytest.param(None, [], [NO_PICKER, BARE, ECHO, OURS], id="none"),
        pytest.param("/opt/epp/llm-epp --v=1", [], [NO_PICKER, BARE, ECHO, OURS, "llm-epp"], id="another"),
        pytest.param("fleet-epp", [], [NO_PICKER, BARE, ECHO, OURS, "versus fleet-epp"], id="same-name"),
        pytest.param(
            None,
            ["fast", "grpcio"],
            [NO_PICKER, BARE, "echo fast", "fleet-epp fast", "echo grpcio", "fleet-epp grpcio"],
            id="two-drivers",
        ),
    ],
)
def test_contenders_have_different_names(versus: str | None, servers: list[str], names: list[str]) -> None:
    assert [one.name for one in contenders(versus, servers)] == names


def test_a_driver_is_given_to_our_picker_and_to_its_echo() -> None:
    chosen = {one.name: one for one in contenders("llm-epp --v=1", ["grpcio"])}
    assert chosen["fleet-epp grpcio"].command[-2:] == ("serve", "--server=grpcio")
    assert chosen["echo grpcio"].command[-2:] == ("--server", "grpcio")
    assert chosen[BARE].command[-2:] == ("--server", "bare")
    assert chosen["llm-epp"].command == ("llm-epp", "--v=1")
    assert [one.name for one in chosen.values() if one.is_picker] == ["fleet-epp grpcio", "llm-epp"]
    assert chosen["llm-epp"].kind is Kind.VERSUS
