import dataclasses
import json
from pathlib import Path

import pytest

from bench import report
from bench.load import Percentiles
from bench.report import NO_PICKER, OURS, AtRest, Cell, Report, Round, Start

KB1 = Cell("json", 1, 100)


def measured(contender: str = OURS, cell: Cell = KB1, **given: object) -> Round:
    base = Round(
        contender=contender,
        cell=cell,
        endpoints=2,
        requests=100,
        failures=0,
        failures_by_kind={},
        requests_per_second=1_000.0,
        latency=Percentiles(0.01, 0.02, 0.03),
        pieces=1.0,
        picker_cpu_us=None if contender == NO_PICKER else 500.0,
        envoy_cpu_us=50.0,
    )
    return dataclasses.replace(base, **given)  # type: ignore[arg-type]


def made(*rounds: Round, fleet: list[Round] | None = None) -> Report:
    return Report(
        command="make bench",
        date="2026-01-01",
        machine={"CPU": "abacus"},
        contenders=[NO_PICKER, OURS],
        rounds=list(rounds),
        fleet_rounds=fleet or [],
        at_rest=[
            AtRest(
                contender=OURS, endpoints=n, after_load=False, seconds=10, cores=0.01, rss_bytes=50_000_000
            )
            for n in (2, 100)
        ],
        starts=[Start(OURS, 0.3, 0.2), Start(OURS, 0.5, None), Start(OURS, 0.4, 0.4)],
    )


def test_rounds_become_medians_and_failures_add_up() -> None:
    costs = [(400.0, {}), (900.0, {"http 503": 2}), (500.0, {"http 503": 1, "timeout": 1})]
    rounds = [
        measured(picker_cpu_us=cost, failures=sum(kinds.values()), failures_by_kind=kinds)
        for cost, kinds in costs
    ]
    merged = report.merge(rounds)
    assert merged.picker_cpu_us == 500.0
    assert (merged.requests, merged.failures) == (300, 4)
    assert merged.failures_by_kind == {"http 503": 3, "timeout": 1}


def test_a_load_that_never_got_an_answer_has_no_latency() -> None:
    assert report.merge([measured(latency=None), measured(latency=None)]).latency is None


def test_the_unit_is_envoys_cost_without_a_picker_under_the_same_load() -> None:
    other = measured(NO_PICKER, Cell("json", 8, 100), envoy_cpu_us=1.0)
    rows = report.medians([measured(NO_PICKER), measured(), other])
    assert report.unit(measured(), rows) == 10.0
    assert report.unit(measured(NO_PICKER), rows) is None
    assert report.unit(measured(), {}) is None


def test_a_chunk_costs_what_a_stream_costs_more_than_a_json_answer() -> None:
    stream = measured(cell=Cell("sse", 1, 100), picker_cpu_us=2_100.0, pieces=17.0)
    rows = report.medians([measured(), stream])
    assert report.chunk_cpu_us(stream, rows) == 100.0
    assert report.chunk_cpu_us(measured(), rows) is None
    assert report.chunk_cpu_us(stream, {}) is None


def test_throughput_is_compared_pair_by_pair_between_the_fewest_and_the_most_endpoints() -> None:
    rates = [(1_000.0, 900.0), (500.0, 250.0), (10.0, 9.5)]  # the machine slows down
    fleet = [
        measured(endpoints=endpoints, requests_per_second=rate)
        for pair in rates
        for endpoints, rate in zip((2, 100), pair, strict=True)
    ]
    assert report.throughput_ratio(made(fleet=fleet), OURS) == 0.9
    assert report.throughput_ratio(made(), OURS) is None
    assert report.throughput_ratio(made(fleet=[measured()]), OURS) is None


@pytest.mark.parametrize(
    "cost, is_met", [(600.0, True), (601.0, False), (None, None)], ids=["reached", "missed", "not-measured"]
)
def test_a_goal_is_reached_missed_or_not_measured(cost: float | None, is_met: bool | None) -> None:
    found = report.goals(made(*([] if cost is None else [measured(picker_cpu_us=cost)])))
    assert found[0].is_met is is_met


def test_all_goals_come_from_the_measurements() -> None:
    found = made(
        measured(NO_PICKER),
        measured(),
        measured(cell=Cell("json", 220, 100), picker_cpu_us=1_300.0),
        fleet=[measured(), measured(endpoints=100)],
    )
    assert [goal.value for goal in report.goals(found)] == [500.0, 10.0, 1_300.0, 0.01, 0.01, 1.0, 50.0, 0.4]


def test_the_markdown_has_every_table_with_rows_of_one_width() -> None:
    text = report.markdown(made(measured(NO_PICKER), measured(), fleet=[measured(), measured(endpoints=100)]))
    for title in ("Goals", "Through Envoy", "At rest", "Few and many endpoints", "Start"):
        assert f"### {title}" in text
    for table in text.split("### ")[1:]:
        widths = {line.count("|") for line in table.splitlines() if line.startswith("|")}
        assert len(widths) == 1
    assert "`make bench`, 2026-01-01; CPU abacus." in text
    assert "| 1 KB JSON c=100 | fleet-epp | 1,000 | 10 | 20 | 30 | 500 | 50 | 10.0 | 100 | 0 |" in text


def test_failures_are_marked() -> None:
    text = report.markdown(made(measured(failures=3, failures_by_kind={"http 503": 3})))
    assert "**3 FAILED** (3 http 503)" in text


def test_a_report_is_written_as_json_markdown_and_plot(tmp_path: Path) -> None:
    found = made(measured(NO_PICKER), measured(), measured(cell=Cell("json", 220, 100), latency=None))
    paths = report.write(found, tmp_path)
    assert [path.name for path in paths] == ["overhead.json", "overhead.md", "overhead.png", "overhead.svg"]
    assert all(path.stat().st_size for path in paths)
    data = json.loads(paths[0].read_text())
    assert data["rounds"][0]["contender"] == NO_PICKER
    assert data["goals"][0]["is_met"] is True


def test_every_table_can_be_shown_at_a_terminal() -> None:
    assert [table.rich().row_count for table in report.tables(made(measured()))] == [8, 1, 2, 1]
