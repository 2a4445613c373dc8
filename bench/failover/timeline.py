"""The picture of a run: requests by server over time, what was lost, and when the fault came and went.

Place:   beside bench.failover.report's tables.
Ignores: goals.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.failover.account import Fate, Request
from bench.failover.play import Run
from bench.failover.report import Row

BIN_SECONDS = 0.1
COLOURS = {"victim": "#c44e52", "victim, moved": "#dd8452", "other": "#4c72b0", "nobody": "#999999"}


def draw(rows: Sequence[Row], paths: Sequence[Path]) -> None:
    """The first run of each row, below each other, into files of these names."""
    import matplotlib as mpl  # noqa: PLC0415 - takes half a second, and only the end of a run needs it

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    drawn = [row for row in rows if row.runs]
    if not drawn:
        return
    figure, axes = plt.subplots(
        2 * len(drawn),
        1,
        figsize=(11, 3.4 * len(drawn)),
        layout="constrained",
        squeeze=False,
        height_ratios=[3, 2] * len(drawn),
    )
    for number, row in enumerate(drawn):
        top, bottom = axes[2 * number][0], axes[2 * number + 1][0]
        top.set_title(f"{row.scenario.what} ({row.scenario.name}, {row.contender})", loc="left", fontsize=10)
        _draw_counts(top, row.runs[0])
        _draw_waits(bottom, row.runs[0])
        bottom.sharex(top)
    axes[-1][0].set_xlabel("seconds from the fault")
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=110)
    plt.close(figure)


def _draw_counts(axes: Any, run: Run) -> None:
    """Who was chosen, requests for each tenth of a second; what was lost, by when it was sent."""
    struck, names = run.moments.struck, {address: name for name, address in run.addresses.items()}
    times: dict[str, list[float]] = {name: [] for name in [*run.addresses, "nobody"]}
    for one in run.requests:
        times[names.get(one.picked or "", "nobody")].append(one.sent - struck)
    times = {name: sent for name, sent in times.items() if sent}
    begin, end = run.moments.began - struck, run.moments.ended - struck
    bins = max(1, round((end - begin) / BIN_SECONDS))
    axes.hist(
        list(times.values()),
        bins=bins,
        range=(begin, end),
        stacked=True,
        color=[COLOURS[name] for name in times],
        label=list(times),
    )
    for fate, marker, height in ((Fate.FAILED, "x", 0.97), (Fate.BROKEN, "v", 0.9)):
        lost = [one.sent - struck for one in run.requests if one.fate is fate]
        if lost:
            top = axes.get_xaxis_transform()
            at = [height] * len(lost)
            axes.plot(lost, at, marker, color="black", markersize=5, transform=top, label=fate.value)
    _mark(axes, run)
    axes.set_ylabel(f"requests / {BIN_SECONDS:g} s")
    axes.legend(fontsize=7, loc="lower left", ncols=5)


def _draw_waits(axes: Any, run: Run) -> None:
    """Time to the first token of each request, and of lost ones until they were told."""
    struck = run.moments.struck

    def waits(requests: Sequence[Request]) -> tuple[list[float], list[float]]:
        ends = [one.ended if one.first_token is None else one.first_token for one in requests]
        pairs = [(r.due - struck, (end - r.due) * 1e3) for r, end in zip(requests, ends, strict=True)]
        return [at for at, _ in pairs], [wait for _, wait in pairs]

    for name, address in run.addresses.items():
        good = [one for one in run.requests if one.fate is Fate.OK and one.served == address]
        axes.plot(*waits(good), ".", color=COLOURS[name], markersize=3)
    lost = [one for one in run.requests if one.fate is not Fate.OK]
    axes.plot(*waits(lost), "x", color="black", markersize=4)
    axes.set_yscale("log")
    axes.set_ylabel("TTFT [ms]")
    _mark(axes, run)


def _mark(axes: Any, run: Run) -> None:
    moments = run.moments
    end = moments.ended if moments.back is None else moments.back
    axes.axvspan(0, end - moments.struck, color="#f2d7d5", zorder=0)
    axes.axvline(0, color="#c44e52", linewidth=1)
    axes.axvline(end - moments.struck, color="#55a868", linewidth=1)
