"""The pictures of a matrix: how far each policy is from the best in each cell, and how it bears load.

Place:   bench.sim.report puts them into its page.
Ignores: goals.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.sim.matrix import Cell
from bench.sim.statistics import Estimate, Standing

_MOST = 3.0
"""Beyond so many times the best, one colour."""

Ranked = Mapping[Cell, Sequence[Standing]]


def draw(ranked: Ranked, folder: Path) -> list[Path]:
    """PNG files; none where there is nothing to show."""
    import matplotlib as mpl  # noqa: PLC0415 - takes half a second, and only the end of a run needs it

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    if not ranked:
        return []
    drawn = [(_far, "far-from-the-best"), (_by_load, "by-load")]
    paths = []
    for make, name in drawn:
        figure = make(plt, ranked)
        if figure is not None:
            paths.append(folder / f"{name}.png")
            figure.savefig(paths[-1], dpi=110)
            plt.close(figure)
    return paths


def _policies(ranked: Ranked) -> list[str]:
    """Those near the best in most cells first."""
    near: dict[str, float] = {}
    for standings in ranked.values():
        for one in standings:
            near[one.policy] = near.get(one.policy, 0.0) + math.log(one.to_best.value)
    return sorted(near, key=near.__getitem__)


def _far(plt: Any, ranked: Ranked) -> Any:
    """A field of figures: TTFT p90 to the best one's."""
    policies, cells = _policies(ranked), list(ranked)
    values = [
        [next(one.to_best.value for one in ranked[cell] if one.policy == policy) for policy in policies]
        for cell in cells
    ]
    size = (4.5 + 0.95 * len(policies), 1.6 + 0.24 * len(cells))
    figure, axes = plt.subplots(figsize=size, layout="constrained")
    shown = [[math.log(min(value, _MOST)) for value in row] for row in values]
    axes.imshow(shown, aspect="auto", cmap="RdYlGn_r", vmin=0.0, vmax=math.log(_MOST))
    axes.set_xticks(range(len(policies)), policies, rotation=30, ha="left")
    axes.xaxis.tick_top()
    axes.set_yticks(range(len(cells)), [str(cell) for cell in cells], fontsize=7)
    for y, row in enumerate(values):
        for x, value in enumerate(row):
            axes.text(
                x, y, f"{value:.2f}" if value < 10 else f"{value:.0f}", ha="center", va="center", fontsize=7
            )
    axes.set_xlabel("TTFT p90 to that of the best policy in the cell")
    return figure


def _by_load(plt: Any, ranked: Ranked) -> Any:
    """TTFT p90 over load, where a situation was played at several; None: none was."""
    lines: dict[Cell, list[Cell]] = {}
    for cell in ranked:
        lines.setdefault(replace(cell, load=0.0), []).append(cell)
    lines = {key: sorted(cells, key=lambda cell: cell.load) for key, cells in lines.items() if len(cells) > 1}
    if not lines:
        return None
    columns = min(4, len(lines))
    rows = -(-len(lines) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(4.3 * columns, 3.2 * rows), layout="constrained", squeeze=False
    )
    for place in axes.flat[len(lines) :]:
        place.set_visible(False)
    for place, (key, cells) in zip(axes.flat, lines.items(), strict=False):
        for number, policy in enumerate(_policies(ranked)):
            found = [next(one.ttft_p90 for one in ranked[cell] if one.policy == policy) for cell in cells]
            _line(place, [cell.load for cell in cells], found, policy, number)
        place.set_title(str(key).replace(", 0%", ""), fontsize=8)
        place.set_yscale("log")
        place.set_xticks([cell.load for cell in cells], [f"{cell.load:.0%}" for cell in cells])
        place.grid(visible=True, alpha=0.3)
    axes[0][0].set_ylabel("TTFT p90 [s]")
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=8)
    return figure


def _line(axes: Any, loads: Sequence[float], found: Sequence[Estimate], policy: str, number: int) -> None:
    style = "-" if number < 10 else "--"
    values = [one.value for one in found]
    axes.plot(loads, values, style, marker=".", linewidth=1.2, color=f"C{number % 10}", label=policy)
    if all(one.low > 0 for one in found):  # of two or three seeds it may be of no use
        lows, highs = [one.low for one in found], [one.high for one in found]
        axes.fill_between(loads, lows, highs, color=f"C{number % 10}", alpha=0.12)
