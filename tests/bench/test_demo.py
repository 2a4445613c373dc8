"""What the demo says follows from what was seen."""

import sys
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest

from bench.demo import __main__ as demo
from bench.demo.board import Board, Fault, Phase, stayed
from bench.demo.talk import TURNS, conversation_of, conversations
from bench.demo.verdict import broken_promises, figures, findings
from bench.demo.view import line, reason
from bench.load import Sample

AT_ONCE = 12
SERVERS = {"one": "127.0.0.1:1", "two": "127.0.0.1:2"}


def sample(
    sent: float, server: str = "one", *, key: str = "c00.1", error: str | None = None, took: float = 0.2
) -> Sample:
    return Sample(
        due=sent,
        key=key,
        sent=sent,
        first_token=None if error else sent + 0.1,
        ended=sent + took,
        served_by=SERVERS[server],
        error=error,
    )


def good_board() -> Board:
    """Round robin and picker at 0 and 10 s; "one" dies at 22 s and is back at 26 s."""
    board = Board(SERVERS, rate=1.0)
    for name, start in (("round_robin", 0.0), ("picker", 10.0), ("fault", 20.0)):
        phase = Phase(name, name, name, 10.0, started=start)
        phase.samples += [
            sample(start + 1, "one"),
            sample(start + 2, "two", key="c01.1"),
            sample(start + 9, "one", key="c02.1"),
        ]
        board.phases.append(phase)
    board.fault = Fault(
        "one",
        SERVERS["one"],
        killed=22.0,
        seen_down=22.1,
        started_again=26.0,
        loaded=26.2,
        returned=29.2,
        phases=[("ejected", "refuses connections"), ("probing", "it answers"), ("warming", "time")],
    )
    return board


def fault_of(board: Board) -> Fault:
    assert board.fault is not None
    return board.fault


def add(phase: str, one: Sample) -> Callable[[Board], object]:
    return lambda board: board.phase(phase).samples.append(one)


def test_a_good_run_breaks_no_promise() -> None:
    assert broken_promises(good_board()) == []


@pytest.mark.parametrize(
    "spoil, complaint",
    [
        pytest.param(
            add("round_robin", sample(3, error="http 503")),
            "1 of 4 requests failed: http 503",
            id="round-robin",
        ),
        pytest.param(
            add("picker", sample(13, error="timeout")), "1 of 4 requests failed: timeout", id="picker"
        ),
        pytest.param(
            add("fault", sample(21, error="http 503")), "1 request failed that was", id="before-the-kill"
        ),
        pytest.param(add("fault", sample(27, error="http 503")), "+5.0 s from it", id="after-the-return"),
        pytest.param(
            add("fault", sample(23.5, error="http 503")), "still picked 1500 ms", id="dead-still-picked"
        ),
        pytest.param(
            lambda board: setattr(fault_of(board), "seen_down", None),
            "never said that one was down",
            id="unseen",
        ),
        pytest.param(
            lambda board: setattr(fault_of(board), "loaded", None), "one did not start again", id="no-start"
        ),
        pytest.param(
            lambda board: setattr(fault_of(board), "returned", None),
            "came back but got no request",
            id="forgotten",
        ),
        pytest.param(
            lambda board: [board.phase(name).samples.pop(1) for name in ("picker", "fault")],
            "the picker never chose two",
            id="never-chosen",
        ),
    ],
)
def test_a_broken_promise_is_told(spoil: Callable[[Board], object], complaint: str) -> None:
    board = good_board()
    spoil(board)
    assert any(complaint in sentence for sentence in broken_promises(board)), broken_promises(board)


@pytest.mark.parametrize(
    "failure",
    [
        pytest.param(sample(21.9, error="answer cut off"), id="under-way"),
        pytest.param(sample(22.8, error="http 503"), id="just-after"),
    ],
)
def test_failures_that_the_kill_explains_are_counted_apart(failure: Sample) -> None:
    board = good_board()
    board.phase("fault").samples.append(failure)
    assert broken_promises(board) == []
    assert figures(board)["failures"] == figures(board)["failover"]["failures"] == 1


def test_the_last_request_to_the_dead_counts_from_the_kill_and_only_while_it_is_dead() -> None:
    board = good_board()
    assert figures(board)["failover"]["last_request_to_dead_ms"] == 0
    board.phase("fault").samples += [sample(22.25, error="http 503"), sample(22.5, "two"), sample(26.1)]
    assert figures(board)["failover"]["last_request_to_dead_ms"] == 250


def test_answers_are_counted_by_server() -> None:
    report = figures(good_board())
    assert report["endpoints"] == {"one": 6, "two": 3}
    assert report["requests"] == 9
    assert report["picker"]["ttft_ms"] == {"p50": 100.0, "p95": 100.0}


def test_the_phases_of_a_death_are_told_in_their_order() -> None:
    assert figures(good_board())["failover"]["phases"] == ["ejected", "probing", "warming"]


def test_findings_are_told_as_they_are() -> None:
    board = good_board()
    for phase, delay in (("round_robin", 0.5), ("picker", 0.25)):
        board.phase(phase).samples[0].first_token = board.phase(phase).samples[0].due + delay
    board.phase("picker").samples[1].first_token = board.phase("picker").samples[1].due + 0.125
    board.phase("picker").samples[2].first_token = board.phase("picker").samples[2].due + 0.125
    board.phase("fault").samples += [
        sample(21.9, error="answer cut off", key="c03.1"),
        sample(22.1, error="http 503", key="c03.2"),
    ]
    assert findings(board) == [
        "TTFT p50 on the same load: not lower with the picker this time (25% higher)",
        "TTFT p95 on the same load: 50% lower with the picker",
        (
            "one was killed: 1 request under way failed and 1 sent after the kill; "
            "the picker sent it 1 request after the kill, the last 100 ms after it"
        ),
        "one answered again 3.2 s after its new start",
    ]


def test_a_death_that_only_cut_off_what_was_there_is_told_so() -> None:
    board = good_board()
    board.phase("fault").samples += [
        sample(21.8, error="answer cut off", key="c03.1"),
        sample(21.9, error="answer cut off", key="c03.2"),
    ]
    assert findings(board)[-2] == (
        "one was killed: 2 requests under way failed; the picker sent it no requests after the kill"
    )


@pytest.mark.parametrize("seconds", ["8.9", "601", "soon", "nan", "-9"])
def test_seconds_out_of_range_are_refused_with_the_remedy(
    seconds: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["demo", "--seconds", seconds])
    with pytest.raises(SystemExit) as ended:
        demo.main()
    assert ended.value.code == 2
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "usage: make demo [SECONDS=30] [JSON=out.json]"
    assert said[-1] == (
        f"make demo: error: argument --seconds: '{seconds}': must be a number from 9 to 600, "
        "for example make demo SECONDS=20"
    )


def test_make_help_tells_the_range_of_seconds() -> None:
    makefile = (Path(__file__).parents[2] / "Makefile").read_text()
    assert f"[SECONDS=30, from {demo.SHORTEST:g} to {demo.LONGEST:g}]" in makefile


def test_a_turn_stays_when_the_turn_before_was_answered_there() -> None:
    samples = [
        sample(1, "one", key="c01.10"),
        sample(2, "one", key="c01.9"),
        sample(3, "two", key="c01.11"),
        sample(4, "two", key="c02.1"),
    ]
    assert stayed(samples) == (1, 2)


def test_the_same_seed_says_the_same() -> None:
    first, second = (list(islice(conversations(5, 12), 60)) for _ in range(2))
    assert first == second
    assert first != list(islice(conversations(6, 12), 60))


def test_conversations_come_turn_by_turn_and_never_twice_in_a_row() -> None:
    keys = [conversation_of(call.key) for call in islice(conversations(3, AT_ONCE), 400)]
    for name in {name for name, _ in keys}:
        turns = [turn for other, turn in keys if other == name]
        assert turns == list(range(1, len(turns) + 1))
        assert len(turns) <= TURNS
    positions: dict[str, int] = {}
    for position, (name, _) in enumerate(keys):
        assert position - positions.get(name, -AT_ONCE) > AT_ONCE // 2 - 1
        positions[name] = position


def test_a_pick_reads_as_one_line_with_the_picked_one_first() -> None:
    def candidate(name: str, total: float, prefix: float) -> dict[str, object]:
        scores = {"prefix-cache-scorer": prefix, "queue-scorer": 1.0, "kv-cache-utilization-scorer": None}
        return {"endpoint": name, "total": total, "scores": scores}

    pick = {
        "request_id": "c07.3",
        "picked": ["two"],
        "weights": {"prefix-cache-scorer": 3.0, "queue-scorer": 2.0, "kv-cache-utilization-scorer": 2.0},
        "candidates": [candidate("one", 2.0, 0.0), candidate("two", 4.7, 0.9)],
    }
    assert reason(pick) == "c07.3 → two: prefix-cache 0.90×3 + queue 1.00×2 = 4.70; one 2.00"


def test_a_refused_pick_says_why() -> None:
    assert reason({"request_id": "c07.3", "rejected": "no endpoints", "status": 503}) == (
        "c07.3 → nowhere: no endpoints"
    )


def test_a_phase_reads_as_one_line() -> None:
    assert line(good_board().phase("picker")) == ("3 requests, 0 failed, TTFT p50 100 ms, p95 100 ms")
