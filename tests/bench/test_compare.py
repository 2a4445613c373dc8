import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import compare
from bench.pages import known
from bench.sim.statistics import Estimate, Figures, Times


def figures(ttft: float, *, rate: float = 100.0, good: float = 0.9) -> Figures:
    times = Times(mean=ttft, p50=ttft, p90=2 * ttft, p99=3 * ttft)
    return Figures(
        requests=100,
        failed=0,
        unfinished=0,
        seconds=60.0,
        ttft=times,
        inter_token=times,
        e2e=times,
        output_rate=rate,
        goodput=good,
        cached=math.nan,
        shares=(0.5, 0.5),
        spread=0.0,
    )


Plays = dict[str, list[Figures]]


def report(folder: Path, name: str, cells: dict[str, Plays], **more: Any) -> str:
    path = folder / f"{name}.json"
    found = {
        "matrix": {},
        "is_partial": False,
        "cells": [
            {
                "workload": cell,
                "load": 0.8,
                "standings": [],
                "plays": [
                    {"policy": policy, "seed": seed, **asdict(one)}
                    for policy, plays in policies.items()
                    for seed, one in enumerate(plays, 1)
                ],
            }
            for cell, policies in cells.items()
        ],
    }
    path.write_text(json.dumps(known({**found, **more})))
    return str(path)


def some(*ttfts: float) -> list[Figures]:
    return [figures(ttft) for ttft in ttfts]


def test_plays_of_the_same_seed_are_compared_in_pairs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Seeds differ by far more than the policies do: only in pairs does it show.
    a = report(tmp_path, "a", {"chat": {"x": some(0.1, 0.4, 1.0, 2.5)}})
    b = report(tmp_path, "b", {"chat": {"x": some(0.08, 0.32, 0.81, 2.0)}})
    assert compare.main([a, b]) == 0
    said = capsys.readouterr().out
    assert "| **0.80 [0.79, 0.81]** |" in said
    assert "1 by Student's t over pairs of the same seed" in said


def test_runs_are_compared_by_welch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = {"kind": "run"}
    paths = [
        report(tmp_path, "a", {"chat": {"http://old": some(0.10, 0.11, 0.09)}}, **more),
        report(tmp_path, "b", {"chat": {"http://new": some(0.05, 0.055, 0.045, 0.05)}}, **more),
    ]
    for path in paths:
        found = json.loads(Path(path).read_text())
        del found["matrix"]
        Path(path).write_text(json.dumps(found))
    assert compare.main([*paths, "--json", str(tmp_path / "out.json")]) == 0
    said = capsys.readouterr().out
    assert "1 by Welch's t" in said and "http://old, then http://new" in said
    (pair,) = json.loads((tmp_path / "out.json").read_text())
    ttft = pair["figures"][0]
    assert ttft["is_sure"] and ttft["b_to_a"]["value"] == pytest.approx(0.5, rel=0.02)
    assert pair["figures"][-1] == {
        "what": "cached",
        "a": None,
        "b": None,
        "is_ratio": False,
        "b_to_a": None,
        "is_sure": False,
    }


def test_what_is_not_sure_is_not_called_a_difference(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a = report(tmp_path, "a", {"chat": {"x": some(0.1, 0.2)}})
    b = report(tmp_path, "b", {"chat": {"x": some(0.2, 0.1)}})
    assert compare.main([a, b]) == 0
    assert "**" not in capsys.readouterr().out


def test_of_many_cells_those_with_a_difference_are_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cells = {f"cell-{number}": {"x": some(0.1, 0.2, 0.3)} for number in range(50)}
    a = report(tmp_path, "a", cells)
    b = report(tmp_path, "b", cells | {"cell-7": {"x": some(0.05, 0.1, 0.151)}, "new": {"x": some(0.1, 0.1)}})
    assert compare.main([a, b]) == 0
    said = capsys.readouterr().out
    assert "cell-7" in said and "cell-8" not in said
    assert "TTFT p50 [ms]: 1 better and 0 worse of 50." in said
    assert "1 of B's pairs of cell and policy are not in the other one." in said
    assert compare.main([a, b, "--all"]) == 0
    assert "cell-8" in capsys.readouterr().out


def test_a_report_that_was_broken_off_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = report(tmp_path, "a", {"chat": {"x": some(0.1)}}, is_partial=True)
    assert compare.main([a, a]) == 0
    assert "PARTIAL: A was broken off." in capsys.readouterr().out


@pytest.mark.parametrize(
    "text, says",
    [
        pytest.param(None, "cannot be read: No such file", id="no-file"),
        pytest.param("", "is not JSON: give the report.json", id="empty"),
        pytest.param("{", "is not JSON", id="cut-off"),
        pytest.param("[]", "is no report of epp bench sim or run", id="list"),
        pytest.param('{"kind":"run"}', "is no report of epp bench sim or run", id="no-cells"),
        pytest.param(
            '{"kind":"run","cells":[{"plays":[{"policy":"x","seed":1}]}]}', "is no report", id="no-figures"
        ),
    ],
)
def test_what_is_no_report_is_refused(
    text: str | None, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.json"
    if text is not None:
        path.write_text(text)
    assert compare.main([str(path), str(path)]) == 2
    said = capsys.readouterr().err
    assert says in said and str(path) in said and said.count("\n") == 1


def test_two_reports_must_be_of_one_kind_and_have_something_in_common(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sim = report(tmp_path, "sim", {"chat": {"x": some(0.1)}})
    run = tmp_path / "run.json"
    found = json.loads(Path(sim).read_text())
    del found["matrix"]
    run.write_text(json.dumps({**found, "kind": "run"}))
    assert compare.main([sim, str(run)]) == 2
    assert "give two of one kind" in capsys.readouterr().err
    others = report(tmp_path, "other", {"code": {"x": some(0.1), "y": some(0.1)}})
    assert compare.main([sim, others]) == 1
    assert "have no policy in the same cell" in capsys.readouterr().err


# --- Welch ------------------------------------------------------------------------------------------


def test_welchs_interval_is_the_published_one() -> None:
    # Wikipedia, "Welch's t-test", example 1: t = -2.46 with 25.0 degrees of freedom.
    ones = [27.5, 21.0, 19.0, 23.6, 17.0, 17.9, 16.9, 20.1, 21.9, 22.6, 23.1, 19.6, 19.0, 21.7, 21.4]
    others = [27.1, 22.0, 20.8, 23.4, 23.4, 23.5, 25.8, 22.0, 24.8, 20.2, 21.9, 22.1, 22.9, 20.5, 24.4]
    found = Estimate.of_difference(ones, others)
    half = (found.high - found.low) / 2
    assert found.value / half == pytest.approx(-2.46 / 2.06, rel=0.01)


def test_one_value_has_no_interval() -> None:
    found = Estimate.of_unpaired_ratios([1.0], [2.0, 2.0])
    assert found.value == pytest.approx(0.5) and math.isnan(found.low)


@given(
    st.lists(st.floats(0.01, 100), min_size=2, max_size=8),
    st.lists(st.floats(0.01, 100), min_size=2, max_size=8),
)
def test_a_ratio_is_within_its_interval_and_the_same_both_ways_round(
    ones: list[float], others: list[float]
) -> None:
    found, back = Estimate.of_unpaired_ratios(ones, others), Estimate.of_unpaired_ratios(others, ones)
    assert found.low <= found.value * (1 + 1e-9) and found.value <= found.high * (1 + 1e-9)
    assert found.value == pytest.approx(1 / back.value)
