import shutil
from pathlib import Path

import pytest

from bench import flame, profile, stages
from bench.profile import TALKS, Talk
from bench.recording import Recording
from tests.bench.conversations import a_recording


def test_a_cost_is_of_a_request_or_of_a_chunk() -> None:
    small, _, stream = TALKS
    recording = Recording(20, 2_000, ())
    assert (small.count(recording), small.per) == (20, "request")
    assert (stream.count(recording), stream.per) == (2_000, "chunk")


def test_the_stages_of_every_conversation_stand_side_by_side_and_add_up() -> None:
    names = [stages.DRIVER, *stages.STAGES]
    costs = {TALKS[0]: dict.fromkeys(names, 2.0), TALKS[1]: dict.fromkeys(names, 10.0)}
    table = profile.stage_table(costs, dict.fromkeys(names, 3.0))
    assert table.columns[1:] == [
        "1 KB: µs a request",
        "220 KB: µs a request",
        "1 KB, 100 endpoints: µs a request",
    ]
    assert table.rows[0] == [stages.DRIVER, "2.0", "10.0", "3.0"]
    count = len(names)
    assert table.rows[-1] == ["in all", f"{2.0 * count:.1f}", f"{10.0 * count:.1f}", f"{3.0 * count:.1f}"]


def test_instructions_that_could_not_be_counted_are_not_zero() -> None:
    table = profile.instruction_table({TALKS[0]: 1_234_567.0, TALKS[1]: None})
    assert table.rows == [["1 KB", "request", "1,234,567"], ["220 KB", "request", "no valgrind"]]


def test_rooms_are_shown_with_their_share() -> None:
    root = flame.tree(["run (asyncio/runners.py:1);f (epp/core/a.py:1) 3", "run (asyncio/runners.py:1) 1"])
    assert profile.share_table(root).rows == [["core", "75%"], ["event loop, system calls, libraries", "25%"]]


def test_recordings_that_are_there_are_not_made_again(tmp_path: Path) -> None:
    for talk in TALKS:
        a_recording().save(tmp_path / f"{talk.name.replace(' ', '-')}.recording")
    paths = profile.recordings(tmp_path, again=False)
    assert [Recording.load(path).requests for path in paths.values()] == [3, 3, 3]


def test_without_valgrind_no_instruction_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert profile.instructions(TALKS[0], tmp_path / "none") is None


def test_a_conversation_with_a_real_envoy_is_recorded_and_can_be_said_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    talks = (Talk("small", 1, 4), Talk("streamed", 1, 2, streaming=True))
    monkeypatch.setattr(profile, "TALKS", talks)
    paths = profile.recordings(tmp_path, again=False)
    for talk, path in paths.items():
        costs = profile._costs(talk, path, repetitions=1)
        assert sum(costs.values()) > 0.0
        assert Recording.load(path).requests == talk.requests
    assert 2 < Recording.load(paths[talks[1]]).chunks <= 2 * (profile.CHUNKS + 1)
