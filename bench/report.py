"""What a run of bench.overhead found, and how it is shown: tables, Markdown, JSON, a plot.

Place:   bench.overhead fills a Report; a person or docs/performance.md gets it.
Ignores: how anything was measured.
Rule:    a figure that was not measured is shown as such, never as 0; failures are always shown.
"""

import dataclasses
import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table as RichTable

from bench.load import Percentiles

NO_PICKER = "no picker"
OURS = "fleet-epp"
UNKNOWN = "n/a"
NOTHING = "-"
"""There is no such figure: a picker's CPU without a picker, for instance."""


# --- what was measured ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, order=True)
class Cell:
    """One kind of load."""

    answer: str
    """``json``, or ``sse`` for a streamed answer."""
    body_kb: int
    concurrency: int

    def __str__(self) -> str:
        return f"{self.body_kb} KB {self.answer.upper()} c={self.concurrency}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One contender under one load, once. CPU is per request [µs]; None: no picker."""

    contender: str
    cell: Cell
    endpoints: int
    requests: int
    failures: int
    failures_by_kind: Mapping[str, int]
    requests_per_second: float
    latency: Percentiles | None
    pieces: float
    """Body pieces per answer, as the client received them."""
    picker_cpu_us: float | None
    envoy_cpu_us: float


@dataclass(frozen=True, slots=True, kw_only=True)
class AtRest:
    """A picker without requests."""

    contender: str
    endpoints: int
    after_load: bool
    seconds: float
    cores: float
    rss_bytes: int


@dataclass(frozen=True, slots=True)
class Start:
    """From the start of the process, in seconds; ``serving``: gRPC health, None when it never said so."""

    contender: str
    first_answer: float
    serving: float | None


@dataclass(slots=True, kw_only=True)
class Report:
    """One run of the bench."""

    command: str
    date: str
    machine: Mapping[str, str]
    contenders: Sequence[str]
    rounds: list[Round] = field(default_factory=list)
    fleet_rounds: list[Round] = field(default_factory=list)
    """The same load over few and many endpoints."""
    at_rest: list[AtRest] = field(default_factory=list)
    starts: list[Start] = field(default_factory=list)


# --- medians and what follows from them ----------------------------------------------------------


def merge(rounds: Sequence[Round]) -> Round:
    """Several rounds of one contender and load as one: medians; requests and failures added up."""
    kinds: dict[str, int] = {}
    for one in rounds:
        for kind, count in one.failures_by_kind.items():
            kinds[kind] = kinds.get(kind, 0) + count
    latencies = [one.latency for one in rounds if one.latency is not None]
    picker = [one.picker_cpu_us for one in rounds if one.picker_cpu_us is not None]
    return dataclasses.replace(
        rounds[0],
        requests=sum(one.requests for one in rounds),
        failures=sum(one.failures for one in rounds),
        failures_by_kind=kinds,
        requests_per_second=statistics.median(one.requests_per_second for one in rounds),
        latency=_median_latency(latencies) if latencies else None,
        pieces=statistics.median(one.pieces for one in rounds),
        picker_cpu_us=statistics.median(picker) if picker else None,
        envoy_cpu_us=statistics.median(one.envoy_cpu_us for one in rounds),
    )


def _median_latency(latencies: Sequence[Percentiles]) -> Percentiles:
    return Percentiles(
        statistics.median(one.p50 for one in latencies),
        statistics.median(one.p95 for one in latencies),
        statistics.median(one.p99 for one in latencies),
    )


Key = tuple[str, Cell, int]


def medians(rounds: Iterable[Round]) -> dict[Key, Round]:
    """Merged rounds by contender, load and number of endpoints, in the order of first appearance."""
    groups: dict[Key, list[Round]] = {}
    for one in rounds:
        groups.setdefault((one.contender, one.cell, one.endpoints), []).append(one)
    return {key: merge(group) for key, group in groups.items()}


def unit(row: Round, rows: Mapping[Key, Round]) -> float | None:
    """Picker CPU over Envoy's CPU without a picker, for the same load: it travels between machines."""
    base = rows.get((NO_PICKER, row.cell, row.endpoints))
    if base is None or row.picker_cpu_us is None or not base.envoy_cpu_us:
        return None
    return row.picker_cpu_us / base.envoy_cpu_us


def chunk_cpu_us(row: Round, rows: Mapping[Key, Round]) -> float | None:
    """What each further piece of a stream adds, over a JSON answer under the same load [µs]."""
    plain = rows.get((row.contender, dataclasses.replace(row.cell, answer="json"), row.endpoints))
    if row.cell.answer != "sse" or plain is None or row.picker_cpu_us is None or plain.picker_cpu_us is None:
        return None
    more = row.pieces - plain.pieces
    return (row.picker_cpu_us - plain.picker_cpu_us) / more if more > 0 else None


def throughput_ratio(report: Report, contender: str) -> float | None:
    """Requests a second with the most endpoints over those with the fewest.

    The two are measured in turn: the median over such pairs, so that a machine that slows down during
    the run does so for both.
    """
    mine = [one for one in report.fleet_rounds if one.contender == contender]
    few, many = (
        min((one.endpoints for one in mine), default=0),
        max((one.endpoints for one in mine), default=0),
    )
    pairs = zip(
        (one.requests_per_second for one in mine if one.endpoints == few),
        (one.requests_per_second for one in mine if one.endpoints == many),
        strict=True,
    )
    ratios = [over / under for under, over in pairs if under]
    return statistics.median(ratios) if ratios and many > few else None


# --- goals ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Goal:
    """A figure of ours that this project promises, and what it is now (None: not measured)."""

    what: str
    value: float | None
    limit: float
    unit: str
    at_least: bool = False

    @property
    def is_met(self) -> bool | None:
        if self.value is None:
            return None
        return self.value >= self.limit if self.at_least else self.value <= self.limit


def goals(report: Report) -> list[Goal]:
    """All of them, for ``fleet-epp``."""
    rows = medians(report.rounds)

    def ours(body_kb: int) -> Round | None:
        wanted = (OURS, Cell("json", body_kb, 100))
        return next((row for row in rows.values() if (row.contender, row.cell) == wanted), None)

    small, large = ours(1), ours(220)

    def rest(endpoints: int) -> AtRest | None:
        found = [
            r for r in report.at_rest if (r.contender, r.endpoints, r.after_load) == (OURS, endpoints, False)
        ]
        return found[0] if found else None

    two, hundred = rest(2), rest(100)
    first = [start.first_answer for start in report.starts if start.contender == OURS]
    return [
        Goal("CPU a request, 1 KB, concurrency 100", small.picker_cpu_us if small else None, 600, "µs"),
        # It travels between machines: 600 µs were 14.8 where upstream took 263 µs, which were 6.5.
        Goal("the same over Envoy's without a picker", unit(small, rows) if small else None, 14.8, "units"),
        Goal("CPU a request, 220 KB, concurrency 100", large.picker_cpu_us if large else None, 1_400, "µs"),
        Goal("at rest, 2 endpoints", two.cores if two else None, 0.02, "cores"),
        Goal("at rest, 100 endpoints", hundred.cores if hundred else None, 0.05, "cores"),
        Goal(
            "requests/s with 100 endpoints over those with 2", throughput_ratio(report, OURS), 0.85, "", True
        ),
        Goal("resident memory at rest", two.rss_bytes / 1e6 if two else None, 90, "MB"),
        Goal("start to first answer", statistics.median(first) if first else None, 0.6, "s"),
    ]


# --- tables --------------------------------------------------------------------------------------


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
    made = (_goals(report), _loads(report), _chunks(report), _rest(report), _fleets(report), _starts(report))
    return [table for table in made if table.rows]


def _goals(report: Report) -> Table:
    words = {True: "yes", False: "**no**", None: "not measured"}
    rows = [
        [
            goal.what,
            f"{'≥' if goal.at_least else '≤'} {goal.limit:g} {goal.unit}".strip(),
            UNKNOWN if goal.value is None else f"{_number(goal.value)} {goal.unit}".strip(),
            words[goal.is_met],
        ]
        for goal in goals(report)
    ]
    return Table(
        "Goals", ["figure", "goal", "measured", "reached"], rows if OURS in report.contenders else []
    )


def _loads(report: Report) -> Table:
    rows = medians(report.rounds)
    columns = ["load", "contender", "requests/s", "p50 ms", "p95 ms", "p99 ms"]
    columns += ["picker CPU µs", "Envoy CPU µs", "units", "requests", "failures"]
    ordered = sorted(rows.values(), key=lambda row: row.cell)
    return Table("Through Envoy, 2 endpoints", columns, [_load_row(row, rows) for row in ordered])


def _load_row(row: Round, rows: Mapping[Key, Round]) -> list[str]:
    latency = row.latency
    times = [UNKNOWN] * 3 if latency is None else [_ms(t) for t in (latency.p50, latency.p95, latency.p99)]
    ratio = unit(row, rows)
    return [
        str(row.cell),
        row.contender,
        f"{row.requests_per_second:,.0f}",
        *times,
        NOTHING if row.picker_cpu_us is None else f"{row.picker_cpu_us:,.0f}",
        f"{row.envoy_cpu_us:,.0f}",
        NOTHING if ratio is None else f"{ratio:.1f}",
        f"{row.requests:,}",
        _failures(row),
    ]


def _failures(row: Round) -> str:
    if not row.failures:
        return "0"
    kinds = ", ".join(f"{count} {kind}" for kind, count in row.failures_by_kind.items())
    return f"**{row.failures} FAILED** ({kinds})"


def _chunks(report: Report) -> Table:
    rows = medians(report.rounds)
    measured = [(row, chunk_cpu_us(row, rows)) for row in sorted(rows.values(), key=lambda row: row.cell)]
    lines = [
        [str(row.cell), row.contender, f"{cost:.0f}", f"{row.pieces:.1f}"]
        for row, cost in measured
        if cost is not None
    ]
    return Table("Picker CPU per streamed chunk", ["load", "contender", "µs", "chunks an answer"], lines)


def _rest(report: Report) -> Table:
    lines = [
        [
            f"{one.endpoints} endpoints{', after load' if one.after_load else ''}",
            one.contender,
            f"{one.cores:.4f}",
            f"{one.rss_bytes / 1e6:.0f}",
            f"{one.seconds:.0f}",
        ]
        for one in report.at_rest
    ]
    return Table("At rest", ["fleet", "contender", "cores", "resident MB", "measured for s"], lines)


def _fleets(report: Report) -> Table:
    rows = sorted(medians(report.fleet_rounds).values(), key=lambda row: (row.contender, row.endpoints))
    lines = []
    for row in rows:
        ratio = throughput_ratio(report, row.contender)
        many = row.endpoints > min(r.endpoints for r in rows)
        lines.append(
            [
                f"{row.endpoints} endpoints, {row.cell}",
                row.contender,
                f"{row.requests_per_second:,.0f}",
                NOTHING if row.picker_cpu_us is None else f"{row.picker_cpu_us:,.0f}",
                f"{ratio:.0%}" if many and ratio is not None else NOTHING,
                _failures(row),
            ]
        )
    columns = ["fleet", "contender", "requests/s", "picker CPU µs", "of the smaller fleet", "failures"]
    return Table("Few and many endpoints", columns, lines)


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
    return f"{value:,.0f}" if value >= 10 else f"{value:.4f}" if value < 0.1 else f"{value:.2f}"


# --- files ---------------------------------------------------------------------------------------


def markdown(report: Report) -> str:
    """The whole report, to be pasted into docs/performance.md."""
    machine = "; ".join(f"{name} {value}" for name, value in report.machine.items())
    head = f"`{report.command}`, {report.date}; {machine}.\n"
    return "\n".join([head, *(table.markdown() for table in tables(report))])


def as_dict(report: Report) -> dict[str, Any]:
    """Everything measured, and the goals, for JSON."""
    checked = [{**dataclasses.asdict(goal), "is_met": goal.is_met} for goal in goals(report)]
    return {"goals": checked, **dataclasses.asdict(report)}


def write(report: Report, folder: Path) -> list[Path]:
    """overhead.json, overhead.md and the plot, in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    data, text = folder / "overhead.json", folder / "overhead.md"
    data.write_text(json.dumps(as_dict(report), indent=1, ensure_ascii=False) + "\n")
    text.write_text(markdown(report))
    return [data, text, *plot(report, folder)]


def plot(report: Report, folder: Path) -> list[Path]:
    """CPU and latency of JSON answers at the highest concurrency, by size and contender (PNG, SVG)."""
    import matplotlib as mpl  # noqa: PLC0415 - takes half a second, and only the end of a run needs it

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    rows = [row for row in medians(report.rounds).values() if row.cell.answer == "json"]
    if not rows:
        return []
    busiest = max(row.cell.concurrency for row in rows)
    rows = [row for row in rows if row.cell.concurrency == busiest]
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    _draw_cpu(left, rows, report.contenders)
    _draw_latency(right, rows, report.contenders)
    figure.suptitle(f"What a picker costs: JSON answers, concurrency {busiest}, one Envoy worker")
    paths = [folder / "overhead.png", folder / "overhead.svg"]
    for path in paths:
        figure.savefig(path, dpi=130)
    plt.close(figure)
    return paths


def _sizes(rows: Sequence[Round]) -> list[int]:
    return sorted({row.cell.body_kb for row in rows})


def _at(rows: Sequence[Round], contender: str, body_kb: int) -> Round | None:
    return next((r for r in rows if r.contender == contender and r.cell.body_kb == body_kb), None)


def _draw_cpu(axes: Any, rows: Sequence[Round], contenders: Sequence[str]) -> None:
    width = 0.8 / len(contenders)
    for number, contender in enumerate(contenders):
        for place, size in enumerate(_sizes(rows)):
            row = _at(rows, contender, size)
            if row is None:
                continue
            x, picker = place + (number - (len(contenders) - 1) / 2) * width, row.picker_cpu_us or 0.0
            first = place == 0
            axes.bar(x, picker, width * 0.92, color=f"C{number}", label=contender if first else None)
            axes.bar(x, row.envoy_cpu_us, width * 0.92, bottom=picker, color=f"C{number}", alpha=0.35)
            said = f"{picker:,.0f}" if row.picker_cpu_us is not None else ""
            axes.text(x, picker + row.envoy_cpu_us, said, ha="center", va="bottom", fontsize=8)
    axes.set_xticks(range(len(_sizes(rows))), [f"{size} KB" for size in _sizes(rows)])
    axes.set_ylabel("CPU a request [µs]")
    axes.set_title("solid: picker (the figure), pale: Envoy", fontsize=10)
    axes.legend(fontsize=8)


def _draw_latency(axes: Any, rows: Sequence[Round], contenders: Sequence[str]) -> None:
    width = 0.8 / len(contenders)
    for number, contender in enumerate(contenders):
        for place, size in enumerate(_sizes(rows)):
            row = _at(rows, contender, size)
            if row is None or row.latency is None:
                continue
            x, latency = place + (number - (len(contenders) - 1) / 2) * width, row.latency
            axes.bar(x, latency.p50 * 1e3, width * 0.92, color=f"C{number}")
            axes.plot([x, x], [latency.p50 * 1e3, latency.p99 * 1e3], color="black", linewidth=1, marker="_")
    axes.set_xticks(range(len(_sizes(rows))), [f"{size} KB" for size in _sizes(rows)])
    axes.set_yscale("log")
    axes.set_ylabel("latency [ms]")
    axes.set_title("bar: p50, line: up to p99", fontsize=10)
