"""The picture of a run: the first token over time, how it is distributed, who answered.

Place:   bench.run.report puts it into its page.
Ignores: goals.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.run.figures import NOBODY
from bench.run.play import Request, Stretch

Named = Sequence[tuple[str, Sequence[Stretch]]]


def draw(contenders: Named, folder: Path) -> list[Path]:
    """A PNG file; none where nothing was answered."""
    import matplotlib as mpl  # noqa: PLC0415 - takes half a second, and only the end of a run needs it

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415
    from matplotlib.ticker import LogLocator  # noqa: PLC0415

    if not any(_good(stretches) for _, stretches in contenders):
        return []
    figure, (over_time, distribution, shares) = plt.subplots(1, 3, figsize=(14, 4), layout="constrained")
    for number, (name, stretches) in enumerate(contenders):
        colour = f"C{number}"
        _over_time(over_time, stretches, colour, name)
        ttft = sorted(one.sample.ttft for _, one in _good(stretches) if one.sample.ttft is not None)
        ranks = [(rank + 1) / len(ttft) for rank in range(len(ttft))]
        distribution.step([1e3 * each for each in ttft], ranks, where="post", color=colour, label=name)
    _shares(shares, contenders)
    over_time.set(xlabel="due, from the begin of its stretch [s]", ylabel="TTFT [ms]", yscale="log")
    distribution.set(xlabel="TTFT [ms]", ylabel="share of answers", xscale="log")
    for axis in (over_time.yaxis, distribution.xaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter("")
    for axes in (over_time, distribution):
        axes.grid(visible=True, alpha=0.3)
    if len(contenders) > 1:
        distribution.legend(fontsize=8)
    path = folder / "requests.png"
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return [path]


def _good(stretches: Sequence[Stretch]) -> list[tuple[Stretch, Request]]:
    return [(each, one) for each in stretches for one in each.requests if one.is_good]


def _over_time(axes: Any, stretches: Sequence[Stretch], colour: str, name: str) -> None:
    good = [(each, one) for each, one in _good(stretches) if one.sample.ttft is not None]
    due = [one.sample.due - each.began for each, one in good]
    axes.plot(due, [1e3 * (one.sample.ttft or 0.0) for _, one in good], ".", color=colour, ms=3, label=name)
    failed = [
        one.sample.due - each.began
        for each in stretches
        for one in each.requests
        if one.is_over and not one.is_good
    ]
    # Below everything, wherever the axis ends.
    axes.plot(failed, [0.02] * len(failed), "x", color="red", ms=4, transform=axes.get_xaxis_transform())


def _shares(axes: Any, contenders: Named) -> None:
    counts = [Counter(one.sample.served_by or NOBODY for _, one in _good(each)) for _, each in contenders]
    names = sorted(set().union(*counts))
    width = 0.8 / len(contenders)
    for number, counted in enumerate(counts):
        places = [place + (number - (len(counts) - 1) / 2) * width for place in range(len(names))]
        total = sum(counted.values()) or 1
        axes.bar(places, [counted[name] / total for name in names], width * 0.92, color=f"C{number}")
    axes.set_xticks(range(len(names)), names, rotation=20, ha="right", fontsize=8)
    axes.set_ylabel("share of answers")
