import json
from pathlib import Path

import pytest

from bench import report
from bench.findings import BARE, ECHO, NO_PICKER, OURS, Load, Report
from bench.report import Table
from tests.bench.measured import KB1, a_report, a_round, a_streaming


def everything() -> Report:
    fleet = [a_round(load=Load(1, 20), endpoints=endpoints) for endpoints in (2, 100)]
    costs = {BARE: 20.0, ECHO: 35.0, OURS: 100.0, "llm-epp": 260.0}
    rounds = [a_round(name, picker_cpu_us=cost) for name, cost in costs.items()]
    streaming = [a_streaming(name) for name in (NO_PICKER, *costs)]
    return a_report(a_round(NO_PICKER), *rounds, fleet_rounds=fleet, streaming=streaming)


def table(found: Report, title: str) -> Table:
    return next(one for one in report.tables(found) if one.title.startswith(title))


def test_the_markdown_has_every_table_with_rows_of_one_width() -> None:
    text = report.markdown(everything())
    titles = ("Goals", "Side by side", "How far from the bound", "Through Envoy", "Streamed answers")
    for title in (*titles, "At rest", "Few and many endpoints", "Start"):
        assert f"### {title}" in text
    for one in text.split("### ")[1:]:
        widths = {line.count("|") for line in one.splitlines() if line.startswith("|")}
        assert len(widths) == 1
    assert "`make bench`, 2026-01-01; CPU abacus." in text
    row = "| 1 KB, 100 clients | fleet-epp | 1,000 | 10 | 20 | 30 | 100 | 50 | 2.00 | 60 | 100 | 0 |"
    assert row in text


def test_a_goal_is_shown_in_its_unit_and_in_what_travels() -> None:
    cost, rate, *_ = table(everything(), "Goals").rows
    assert cost == ["1 KB at 100: CPU a request", "≤ 110 µs", "100 µs", "yes", "≤ 2.73 units", "2.00", "yes"]
    assert rate == [
        *("1 KB at 100: requests/s", "≥ 7,000 /s", "1,000 /s", "**no**"),
        *("≥ 0.28 of no picker's", "0.10", "**no**"),
    ]


def test_the_goals_say_whose_they_are_where_there_are_two_drivers() -> None:
    found = a_report(contenders=[NO_PICKER, "fleet-epp fast", "fleet-epp grpcio"])
    assert table(found, "Goals").title == "Goals: fleet-epp fast"
    assert table(everything(), "Goals").title == "Goals"


def test_contenders_stand_side_by_side_with_upstream_where_the_goals_were_set() -> None:
    found = table(everything(), "Side by side")
    assert found.columns[1:] == [NO_PICKER, BARE, ECHO, OURS, "llm-epp", "upstream, where the goals were set"]
    assert found.rows[0] == ["1 KB at 100: CPU a request [µs]", "-", "20.00", "35", "100", "260", "263"]
    assert not any("220 KB at 100: CPU" in row[0] for row in found.rows)  # nobody measured it


def test_a_request_is_split_into_bound_driver_and_picking() -> None:
    found = table(everything(), "How far from the bound")
    assert found.rows[0] == ["1 KB, 100 clients: a request", OURS, "20.00", "15.00", "65", "100"]
    assert found.rows[1][0] == "2,000 chunks/s: a chunk"


def test_without_an_echo_nothing_is_split() -> None:
    found = report.tables(a_report(a_round(NO_PICKER), a_round()))
    assert "How far from the bound" not in {one.title for one in found}


def test_streams_are_shown_with_what_each_process_used() -> None:
    row = table(everything(), "Streamed answers").rows[-1]
    costs = ["2,000", "20.0", "100.0", "0.04", "0.20", "0.10", "0.10", "0"]
    assert row == ["40, 2,000 chunks/s sent", "llm-epp", *costs]


def test_the_larger_fleet_is_compared_with_the_smaller() -> None:
    few, many = table(everything(), "Few and many").rows
    assert few[3:] == ["-", "500", "-", "0"]
    assert many[3:] == ["100%", "500", "+0", "0"]


def test_failures_are_marked() -> None:
    text = report.markdown(a_report(a_round(failures=3, failures_by_kind={"http 503": 3})))
    assert "**3 FAILED** (3 http 503)" in text


def test_a_report_is_written_as_json_markdown_and_plot(tmp_path: Path) -> None:
    found = a_report(a_round(NO_PICKER), a_round(), a_round(load=Load(220, 100), latency=None))
    paths = report.write(found, tmp_path)
    assert [path.name for path in paths] == ["overhead.json", "overhead.md", "overhead.png", "overhead.svg"]
    assert all(path.stat().st_size for path in paths)
    data = json.loads(paths[0].read_text())
    assert data["rounds"][0]["contender"] == NO_PICKER
    assert data["goals"][0]["is_met"] is False
    assert data["goals"][0]["relative_value"] == 10.0


def test_a_run_without_a_closed_loop_has_no_plot(tmp_path: Path) -> None:
    found = a_report(a_round(load=Load(1, rate=300)))
    assert [path.suffix for path in report.write(found, tmp_path)] == [".json", ".md"]


def test_every_table_can_be_shown_at_a_terminal() -> None:
    shown = {one.title: one.rich().row_count for one in report.tables(a_report(a_round(load=KB1)))}
    assert shown == {
        "Goals": 20,
        "Side by side": 6,
        "Through Envoy, 2 endpoints": 1,
        "At rest": 2,
        "Start": 1,
    }


# --- into a page ---------------------------------------------------------------------------------


def test_a_generated_part_of_a_page_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- bench: generated -->\nold\n<!-- bench: end -->\nafter\n")
    for text in ("new\n", "newer\n"):
        report.paste(text, page, "bench")
    expected = "before\n<!-- bench: generated -->\n\nnewer\n\n<!-- bench: end -->\nafter\n"
    assert page.read_text() == expected


@pytest.mark.parametrize("text", ["", "<!-- bench: generated -->\n", "<!-- bench: end -->\n"])
def test_a_page_without_the_marks_is_left_alone(tmp_path: Path, text: str) -> None:
    page = tmp_path / "page.md"
    page.write_text(text)
    with pytest.raises(ValueError, match=r"page\.md: no part between"):
        report.paste("new", page, "bench")
    assert page.read_text() == text
