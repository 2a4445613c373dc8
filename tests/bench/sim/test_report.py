"""What a run of the command leaves behind."""

import json
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from bench.sim import report as reports
from bench.sim.matrix import Matrix, cells_of, find_matrix
from bench.sim.policies import OURS, POLICIES, UPSTREAM
from bench.sim.report import Report
from bench.sim.statistics import Figures
from epp.config.decode import parse, read
from tests.bench.sim.test_statistics import some

MATRIX = """\
about: two cells
seeds: 2
cells:
- {workloads: [mixed], loads: [0.5, 0.8]}
"""


def report(policies: Sequence[str] = (OURS, UPSTREAM, "random"), **figures: Figures) -> Report:
    matrix = read(parse(MATRIX, "m.yaml"), Matrix)
    made = Report(
        command="epp bench sim --matrix m.yaml",
        version="1.2.3",
        matrix=matrix,
        policies=[POLICIES[name] for name in policies],
        cells=cells_of(matrix),
    )
    made.capacities["mixed", "8xH100"] = 10.0
    speeds = {OURS: some(0.1), UPSTREAM: some(0.2), "random": some(0.4, 900.0)}
    for cell in made.cells:
        for policy in made.policies:
            for seed in (1, 2):
                made.plays[cell, policy.name, seed] = figures.get(policy.name) or speeds[policy.name]
    return made


def test_the_tables_say_who_is_best_where() -> None:
    goals, all_cells, capacities, half, most = reports.tables(report())
    assert [row[-1] for row in goals.rows] == ["yes"] * 4
    assert [row[0] for row in all_cells.rows] == [OURS, UPSTREAM, "random"]
    assert capacities.rows == [["mixed", "8xH100", "10.0"]]
    assert half.title == "mixed, 8xH100, 50%, readings every 50 ms, 5.00 requests/s"
    assert most.rows[0][:6] == [f"**{OURS}**", "100 ± 0.00", "100 ± 0.00", "100 ± 0.00", "1.00", "0.50"]


def test_a_goal_that_is_missed_stands_out() -> None:
    goals, *_ = reports.tables(report(**{OURS: some(0.3, 950.0)}))
    assert [row[-1] for row in goals.rows] == ["**no**", "**no**", "**no**", "yes"]


def test_without_our_own_policy_there_is_no_goal() -> None:
    titles = [table.title for table in reports.tables(report((UPSTREAM, "random")))]
    assert "Goals: predicted-cost" not in titles and "All cells (TTFT p90)" in titles


def test_what_was_broken_off_says_so_everywhere(tmp_path: Path) -> None:
    made = report()
    second = made.cells[1]
    del made.plays[second, "random", 1], made.plays[second, "random", 2]
    reports.write(made, tmp_path)
    said = "PARTIAL: broken off after 10 of 12 plays"
    assert (tmp_path / "report.md").read_text().startswith(said)
    assert said in (tmp_path / "report.html").read_text()
    data = json.loads((tmp_path / "report.json").read_text())
    assert data["is_partial"] and (data["played"], data["planned"]) == (10, 12)
    assert [len(cell["standings"]) for cell in data["cells"]] == [3, 0]
    assert [len(cell["plays"]) for cell in data["cells"]] == [6, 4]


def test_the_json_has_every_play_and_nothing_that_json_does_not_know(tmp_path: Path) -> None:
    made = report(random=some(float("nan")))
    reports.write(made, tmp_path)

    def refused(name: str) -> Any:
        raise AssertionError(name)

    data = json.loads((tmp_path / "report.json").read_text(), parse_constant=refused)
    (play, *_) = [each for each in data["cells"][0]["plays"] if each["policy"] == "random"]
    assert play["ttft"]["p90"] is None and play["seed"] == 1 and play["output_rate"] == 1000.0


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.wanted: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.wanted += [value or "" for name, value in attrs if name in {"src", "href"}]
        if tag not in {"meta", "img"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_needs_no_network_and_is_whole(tmp_path: Path) -> None:
    written = reports.write(report(), tmp_path)
    assert [path.name for path in written] == [
        *("report.json", "report.md", "report.html"),
        *("far-from-the-best.png", "by-load.png"),
    ]
    text = (tmp_path / "report.html").read_text()
    page = _Page()
    page.feed(text)
    assert not page.open
    assert len(page.wanted) == 2 and all(each.startswith("data:image/png;base64,") for each in page.wanted)
    assert not re.search(r"https?:|@import|url\(", text)


def test_the_matrices_that_are_there_say_what_they_are() -> None:
    assert all(find_matrix(name).about for name in ("small", "default"))


@pytest.mark.parametrize("unwelcome", ["<script>alert(1)</script>", "a & b"])
def test_names_of_people_are_text_and_nothing_else(tmp_path: Path, unwelcome: str) -> None:
    made = report()
    made.command = unwelcome
    reports.write(made, tmp_path)
    assert unwelcome not in (tmp_path / "report.html").read_text()
