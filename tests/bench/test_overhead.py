import itertools
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench import overhead
from bench.overhead import Contender, Plan, bodies, contenders
from bench.report import NO_PICKER, OURS, Cell
from bench.rig.process import Process


def first(count: int, size: int, *, streaming: bool) -> list[bytes]:
    calls = bodies(size, streaming=streaming, rng=random.Random(1))
    return [b"".join(call.parts) for call in itertools.islice(calls, count)]


@pytest.mark.parametrize("size", [1024, 8192, 220 * 1024])
@pytest.mark.parametrize("streaming", [True, False], ids=["stream", "json"])
def test_bodies_have_the_size_asked_for_and_none_is_like_another(size: int, streaming: bool) -> None:
    made = first(70, size, streaming=streaming)
    assert {len(body) for body in made} == {size}
    assert len(set(made)) == 70
    assert {json.loads(body)["stream"] for body in made} == {streaming}


def test_bodies_share_a_beginning_with_all_and_more_with_some() -> None:
    made = first(64, 8192, streaming=False)
    messages = [json.loads(body)["messages"] for body in made]
    assert len({one[0]["content"] for one in messages}) == 1
    assert len({one[1]["content"] for one in messages}) == overhead.GROUPS
    assert len({body[: 8192 // 5] for body in made}) == 1
    assert len({one[-1]["content"] for one in messages}) == 64


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
        counted = overhead.cpu_seconds(parent.pid)
        memory = overhead.rss_bytes(parent.pid)
        parent.communicate(b"\n")
    assert own >= 0.15
    assert own + 0.2 <= counted < own + 2.0
    assert memory > 10_000_000


def test_a_paused_process_uses_nothing_and_goes_on_afterwards(tmp_path: Path) -> None:
    with Process("busy", [sys.executable, "-c", "while True: pass"], log=tmp_path / "busy.log") as busy:
        with overhead.paused(busy):
            before = overhead.cpu_seconds(busy.pid)
            deadline = time.monotonic() + 0.1
            while time.monotonic() < deadline:
                os.sched_yield()
            assert overhead.cpu_seconds(busy.pid) - before < 0.02
        paused_at = overhead.cpu_seconds(busy.pid)
        deadline = time.monotonic() + 10
        while overhead.cpu_seconds(busy.pid) - paused_at < 0.02:
            assert time.monotonic() < deadline


@pytest.mark.parametrize(
    "versus, names",
    [
        pytest.param(None, [NO_PICKER, OURS], id="none"),
        pytest.param("/opt/epp/llm-epp --tracing=false", [NO_PICKER, OURS, "llm-epp"], id="another"),
        pytest.param("fleet-epp", [NO_PICKER, OURS, "versus fleet-epp"], id="same-name"),
    ],
)
def test_contenders_have_different_names(versus: str | None, names: list[str]) -> None:
    assert [one.name for one in contenders(versus)] == names


def test_the_command_in_a_report_names_no_folder_of_this_machine() -> None:
    chosen = contenders("/opt/epp/llm-epp --tracing=false")
    assert overhead.said(chosen, quick=False) == 'make bench VERSUS=".../llm-epp"'
    assert overhead.said(chosen[:2], quick=True) == "python -m bench.overhead --quick"


def test_a_run_through_envoy_without_a_picker_measures_envoy(capsys: pytest.CaptureFixture[str]) -> None:
    plan = Plan(cells=[Cell("json", 1, 4), Cell("sse", 1, 2)], rounds=1, load_seconds=0.2, warm_seconds=0.05)
    found = overhead.run(plan, [Contender(NO_PICKER, None)], "a test")
    plain, stream = found.rounds
    assert (plain.failures, stream.failures) == (0, 0)
    assert plain.picker_cpu_us is None and 5 < plain.envoy_cpu_us < 50_000
    assert stream.pieces == overhead.SSE_CHUNKS + 1
    overhead.show(found)
    assert "| 1 KB JSON c=4 | no picker |" in capsys.readouterr().out
