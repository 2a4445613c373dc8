from pathlib import Path

import pytest

from bench import side_by_side
from bench.run.figures import details
from bench.run.report import Found
from bench.side_by_side import GOALS, OURS, ROUND_ROBIN, UPSTREAM
from tests.bench.test_compare import figures


def found(name: str, *ttfts: float) -> Found:
    rounds = {number: figures(ttft) for number, ttft in enumerate(ttfts, 1)}
    return Found(name=name, model="m", due_rate=1.0, figures=rounds[1], rounds=rounds, details=details([]))


@pytest.mark.parametrize(
    "ours, verdict",
    [
        pytest.param((0.5, 0.51, 0.49), "yes", id="sure"),
        pytest.param((0.5, 0.9, 0.6), "yes, within chance", id="not-sure"),
        pytest.param((0.8, 0.81, 0.79), "**no**", id="missed"),
    ],
)
def test_a_goal_is_reached_for_sure_perhaps_or_not(ours: tuple[float, ...], verdict: str) -> None:
    goal = next(one for one in GOALS if one.other == ROUND_ROBIN)
    row = goal.row(found(OURS, *ours), found(ROUND_ROBIN, 1.0, 1.0, 1.0))
    assert row[0].startswith("TTFT p90 of predicted-cost to round-robin") and row[-1] == verdict


def test_upstreams_default_is_not_to_be_exceeded() -> None:
    goal = next(one for one in GOALS if one.other == UPSTREAM)
    assert goal.row(found(OURS, 1.0, 1.0), found(UPSTREAM, 1.0, 1.0))[-1] == "yes"
    assert goal.row(found(OURS, 1.1, 1.1), found(UPSTREAM, 1.0, 1.0))[-1] == "**no**"


def test_policies_without_common_rounds_have_no_verdict() -> None:
    nothing = Found(name=OURS, model="m", due_rate=0.0, figures=None, rounds={}, details=details([]))
    assert GOALS[0].row(nothing, found(ROUND_ROBIN, 1.0))[2:] == ["n/a", "**no**"]


def test_a_report_that_is_there_is_not_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "report.json").write_text("{}")
    assert side_by_side.main(["--out", str(tmp_path)]) == 2
    assert "there is a report in" in capsys.readouterr().err
