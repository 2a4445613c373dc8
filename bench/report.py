"""How a run of bench.overhead is shown: tables, Markdown, JSON.

Place:   a person or docs/performance.md gets it; bench.plots draws the picture beside it.
Ignores: how anything was measured, and where the goals come from.
Rule:    a figure that was not measured is shown as such, never as 0; failures are always shown.
"""

import dataclasses
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table as RichTable

from bench import plots
from bench.findings import (
    BARE,
    Load,
    Report,
    Round,
    Rows,
    Streaming,
    cpu_difference,
    echo_of,
    fleet_pairs,
    medians,
    streamed,
    throughput_ratio,
    unit,
)
from bench.goals import FEW, FIGURES, Bound, Figure, Verdict, verdicts

UNKNOWN = "n/a"
NOTHING = "-"
"""There is no such figure: a picker's CPU without a picker, for instance."""


@dataclass(frozen=True, slots=True)
class Table:
    """Text in rows, for a terminal and for Markdown alike."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self) -> str:
        lines = [self.columns, ["---", *["---:"] * (len(self.columns) - 1)], *self.rows]
        return f"### {self.title}\n\n" + "".join(f"| {' | '.join(line)} |\n" for line in lines)

    def rich(self) -> RichTable:
        table = RichTable(title=self.title, title_justify="left", box=box.SIMPLE_HEAD)
        for number, column in enumerate(self.columns):
            table.add_column(column, justify="right" if number else "left", no_wrap=True)
        for row in self.rows:
            table.add_row(*row, style="bold red" if any("FAILED" in text for text in row) else None)
        return table


def tables(report: Report) -> list[Table]:
    """Those that have anything to show."""
    makers = (_goals, _side_by_side, _bound, _loads, _streaming, _rest, _fleets, _starts)
    return [table for table in (make(report) for make in makers) if table.rows]


# --- goals ---------------------------------------------------------------------------------------

_REACHED = {True: "yes", False: "**no**", None: "not measured"}


def _goals(report: Report) -> Table:
    title = f"Goals: {report.ours[0]}" if len(report.ours) > 1 else "Goals"
    columns = ["figure", "goal", "measured", "reached", "relative goal", "measured", "reached"]
    return Table(title, columns, [_goal_row(verdict) for verdict in verdicts(report)])


def _goal_row(verdict: Verdict) -> list[str]:
    figure, relative = verdict.figure, verdict.figure.relative
    row = [
        figure.what,
        f"{_bound_sign(figure)} {figure.goal:,g} {figure.unit}",
        UNKNOWN if verdict.value is None else f"{_number(verdict.value)} {figure.unit}",
        _REACHED[verdict.is_met],
    ]
    if relative is None:
        return [*row, NOTHING, NOTHING, NOTHING]
    value = verdict.relative_value
    return [
        *row,
        f"{_bound_sign(figure)} {relative.goal:.2f} {relative.unit}",
        UNKNOWN if value is None else f"{value:.2f}",
        _REACHED[verdict.relative_is_met],
    ]


def kept(bounds: Sequence[tuple[Bound, float | None]]) -> Table:
    """What the shorter benches promise and found."""
    rows = []
    for bound, value in bounds:
        measured = UNKNOWN if value is None else f"{_number(value)} {bound.unit}"
        reached = _REACHED[None if value is None else value <= bound.most]
        rows.append([bound.what, f"≤ {bound.most:,g} {bound.unit}", measured, reached])
    return Table("Goals", ["figure", "goal", "measured", "reached"], rows)


def _bound_sign(figure: Figure) -> str:
    return "≥" if figure.at_least else "≤"


def _side_by_side(report: Report) -> Table:
    columns = ["figure", *report.contenders, "upstream, where the goals were set"]
    rows = []
    for figure in FIGURES:
        values = [figure.value(report, one) for one in report.contenders]
        shown = [NOTHING if value is None else _number(value) for value in values]
        upstream = NOTHING if figure.upstream is None else _number(figure.upstream)
        if any(value is not None for value in values):
            rows.append([f"{figure.what} [{figure.unit}]", *shown, upstream])
    return Table("Side by side", columns, rows)


# --- the bound -----------------------------------------------------------------------------------


def _bound(report: Report) -> Table:
    """CPU split into what the bytes cost, what the driver adds and what the picker adds."""
    rows = medians(report.rounds)
    lines = []
    for load in dict.fromkeys(one.load for one in report.rounds):
        for ours in report.ours:
            costs = [_cpu(rows, contender, load) for contender in (BARE, echo_of(ours), ours)]
            lines += _bound_rows(f"{load}: a request", ours, costs)
    for rate in dict.fromkeys(one.aimed for one in report.streaming):
        for ours in report.ours:
            found = [streamed(report, contender, rate) for contender in (BARE, echo_of(ours), ours)]
            costs = [one.cpu_us("picker") if one else None for one in found]
            lines += _bound_rows(f"{rate:,} chunks/s: a chunk", ours, costs)
    columns = ["CPU µs", "contender", "bound", "driver adds", "picking adds", "in all"]
    return Table("How far from the bound", columns, lines)


def _bound_rows(what: str, ours: str, costs: Sequence[float | None]) -> list[list[str]]:
    bare, echo, whole = costs
    if bare is None or echo is None or whole is None:
        return []
    return [[what, ours, *(_number(part) for part in (bare, echo - bare, whole - echo, whole))]]


def _cpu(rows: Rows, contender: str, load: Load) -> float | None:
    row = rows.get((contender, load, FEW))
    return row.picker_cpu_us if row else None


# --- all of it -----------------------------------------------------------------------------------


def _loads(report: Report) -> Table:
    rows = medians(report.rounds)
    columns = ["load", "contender", "requests/s", "p50 ms", "p95 ms", "p99 ms"]
    columns += ["picker CPU µs", "Envoy CPU µs", "units", "resident MB", "requests", "failures"]
    ordered = sorted(rows.values(), key=lambda row: row.load)
    return Table("Through Envoy, 2 endpoints", columns, [_load_row(row, rows) for row in ordered])


def _load_row(row: Round, rows: Rows) -> list[str]:
    latency = row.latency
    times = [UNKNOWN] * 3 if latency is None else [_ms(t) for t in (latency.p50, latency.p95, latency.p99)]
    ratio = unit(row, rows)
    return [
        str(row.load),
        row.contender,
        f"{row.requests_per_second:,.0f}",
        *times,
        NOTHING if row.picker_cpu_us is None else f"{row.picker_cpu_us:,.0f}",
        f"{row.envoy_cpu_us:,.0f}",
        NOTHING if ratio is None else f"{ratio:.2f}",
        NOTHING if row.picker_rss_bytes is None else f"{row.picker_rss_bytes / 1e6:.0f}",
        f"{row.requests:,}",
        _failures(row.failures, row.failures_by_kind),
    ]


def _failures(count: int, by_kind: Mapping[str, int]) -> str:
    if not count:
        return "0"
    kinds = ", ".join(f"{count} {kind}" for kind, count in by_kind.items())
    return f"**{count} FAILED** ({kinds})"


def _streaming(report: Report) -> Table:
    rates = sorted({one.aimed for one in report.streaming})
    found = [streamed(report, contender, rate) for rate in rates for contender in report.contenders]
    columns = ["streams", "contender", "chunks/s", "picker CPU µs a chunk", "Envoy CPU µs a chunk"]
    columns += ["cores: picker", "Envoy", "servers", "load", "failures"]
    return Table("Streamed answers", columns, [_streaming_row(one) for one in found if one])


def _streaming_row(one: Streaming) -> list[str]:
    picker, envoy = one.cpu_us("picker"), one.cpu_us("Envoy")
    cores = [one.cores.get(name) for name in ("picker", "Envoy", "servers", "load")]
    return [
        f"{one.streams}, {one.aimed:,} chunks/s sent",
        one.contender,
        f"{one.chunks_per_second:,.0f}",
        NOTHING if picker is None else f"{picker:.1f}",
        UNKNOWN if envoy is None else f"{envoy:.1f}",
        *(NOTHING if share is None else f"{share:.2f}" for share in cores),
        _failures(one.failures, one.failures_by_kind),
    ]


def _rest(report: Report) -> Table:
    lines = [
        [
            f"{one.endpoints:,} endpoints, {one.page_kb} KB pages{', after load' if one.after_load else ''}",
            one.contender,
            f"{one.cores:.4f}",
            f"{one.rss_bytes / 1e6:.0f}",
            f"{one.seconds:.0f}",
        ]
        for one in report.at_rest
    ]
    return Table("At rest", ["fleet", "contender", "cores", "resident MB", "measured for s"], lines)


def _fleets(report: Report) -> Table:
    rows = medians(report.fleet_rounds)
    ordered = sorted(rows.values(), key=lambda row: (row.contender, row.load, row.endpoints))
    lines = []
    for row in ordered:
        pairs = fleet_pairs(report, row.contender, row.load)
        is_many = bool(pairs) and row.endpoints == pairs[0][1].endpoints
        ratio, more = throughput_ratio(pairs), cpu_difference(pairs)
        lines.append(
            [
                f"{row.endpoints} endpoints, {row.load}",
                row.contender,
                f"{row.requests_per_second:,.0f}",
                f"{ratio:.0%}" if is_many and ratio is not None else NOTHING,
                NOTHING if row.picker_cpu_us is None else f"{row.picker_cpu_us:,.0f}",
                f"{more:+,.0f}" if is_many and more is not None else NOTHING,
                _failures(row.failures, row.failures_by_kind),
            ]
        )
    columns = ["fleet", "contender", "requests/s", "of the smaller fleet", "picker CPU µs", "more"]
    return Table("Few and many endpoints", [*columns, "failures"], lines)


def _starts(report: Report) -> Table:
    lines = []
    for contender in dict.fromkeys(start.contender for start in report.starts):
        mine = [start for start in report.starts if start.contender == contender]
        serving = [start.serving for start in mine if start.serving is not None]
        lines.append(
            [
                contender,
                f"{statistics.median(start.first_answer for start in mine):.2f}",
                f"{statistics.median(serving):.2f}" if serving else UNKNOWN,
                str(len(mine)),
            ]
        )
    return Table("Start", ["contender", "first answer after s", "SERVING after s", "starts"], lines)


def _ms(seconds: float) -> str:
    milliseconds = seconds * 1e3
    return f"{milliseconds:.2f}" if milliseconds < 10 else f"{milliseconds:,.0f}"


def _number(value: float) -> str:
    size = abs(value)
    return f"{value:,.0f}" if size >= 30 else f"{value:.4f}" if size < 0.1 else f"{value:.2f}"


# --- files ---------------------------------------------------------------------------------------


def markdown(report: Report) -> str:
    """The whole report."""
    return headed(report.command, report.date, report.machine, tables(report))


def headed(command: str, date: str, machine: Mapping[str, str], tables: Sequence[Table]) -> str:
    """A report as Markdown: who measured what, when and where."""
    about = "; ".join(f"{name} {value}" for name, value in machine.items())
    return "\n".join([f"`{command}`, {date}; {about}.\n", *(table.markdown() for table in tables)])


def paste(text: str, page: Path, part: str) -> None:
    """Replace what stands in a page between the marks of a generated part; faults as of ``around``."""
    before, after = around(page, part)
    page.write_text(f"{before}\n{text.strip()}\n\n{after}", encoding="utf-8")


def around(page: Path, part: str) -> tuple[str, str]:
    """What stands before and behind a generated part, with its marks. ValueError without them, or OSError."""
    begin, end = f"<!-- {part}: generated -->\n", f"<!-- {part}: end -->\n"
    before, found, rest = page.read_text(encoding="utf-8").partition(begin)
    _, found_end, after = rest.partition(end)
    if not found or not found_end:
        raise ValueError(f"{page}: no part between {begin.strip()} and {end.strip()}")
    return before + begin, end + after


def as_dict(report: Report) -> dict[str, Any]:
    """Everything measured, and the goals, for JSON."""
    judged = [
        {
            "what": one.figure.what,
            "unit": one.figure.unit,
            "goal": one.figure.goal,
            "value": one.value,
            "is_met": one.is_met,
            "relative_unit": one.figure.relative and one.figure.relative.unit,
            "relative_goal": one.figure.relative and one.figure.relative.goal,
            "relative_value": one.relative_value,
            "relative_is_met": one.relative_is_met,
        }
        for one in verdicts(report)
    ]
    return {"goals": judged, **dataclasses.asdict(report)}


def write(report: Report, folder: Path) -> list[Path]:
    """overhead.json, overhead.md and the plot, in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    data, text = folder / "overhead.json", folder / "overhead.md"
    data.write_text(json.dumps(as_dict(report), indent=1, ensure_ascii=False) + "\n")
    text.write_text(markdown(report))
    return [data, text, *plots.draw(report, folder)]
