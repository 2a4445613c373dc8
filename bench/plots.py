"""The picture of a run: CPU and latency by size of the request, one bar for each contender.

Place:   beside bench.report's tables; docs/performance.md may show it.
Ignores: goals.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.findings import Report, Round, medians


def draw(report: Report, folder: Path) -> list[Path]:
    """The closed loops at the highest concurrency (PNG, SVG); nothing where there were none."""
    import matplotlib as mpl  # noqa: PLC0415 - takes half a second, and only the end of a run needs it

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    rows = [row for row in medians(report.rounds).values() if row.load.concurrency]
    if not rows:
        return []
    busiest = max(row.load.concurrency for row in rows)
    rows = [row for row in rows if row.load.concurrency == busiest]
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    _draw_cpu(left, rows, report.contenders)
    _draw_latency(right, rows, report.contenders)
    figure.suptitle(f"What a picker costs: {busiest} clients, one Envoy worker")
    paths = [folder / "overhead.png", folder / "overhead.svg"]
    for path in paths:
        figure.savefig(path, dpi=130)
    plt.close(figure)
    return paths


def _sizes(rows: Sequence[Round]) -> list[int]:
    return sorted({row.load.body_kb for row in rows})


def _at(rows: Sequence[Round], contender: str, body_kb: int) -> Round | None:
    return next((r for r in rows if r.contender == contender and r.load.body_kb == body_kb), None)


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
            axes.text(x, picker + row.envoy_cpu_us, said, ha="center", va="bottom", fontsize=7)
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
