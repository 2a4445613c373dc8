"""How a matrix is shown: tables for a terminal and Markdown, JSON, one HTML page with its pictures inside.

Place:   after bench.sim.statistics; bench.sim.plots draws.
Ignores: how anything was played.
Rule:    nothing is shown that is not in the JSON. A run that was broken off says so at its head.
"""

import dataclasses
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import pages
from bench.pages import NAME, UNKNOWN, interval, known, milliseconds, number, ratio
from bench.report import Table
from bench.sim import plots
from bench.sim.matrix import Cell, Matrix
from bench.sim.policies import OURS, UPSTREAM, Policy
from bench.sim.statistics import NEAR, Figures, Overall, Standing, overall, standings

_GOALS, _OVERALL, _CAPACITY = f"Goals: {OURS}", "All cells (TTFT p90)", "Capacity"
OF_ALL = (_GOALS, _OVERALL)
"""Titles of the tables that speak of all cells."""


@dataclass(slots=True, kw_only=True)
class Report:
    """One run of the command."""

    command: str
    version: str
    """Of the product."""
    matrix: Matrix
    policies: Sequence[Policy]
    cells: Sequence[Cell]
    capacities: dict[tuple[str, str], float] = field(default_factory=dict)
    """Requests a second, by workload and fleet."""
    plays: dict[tuple[Cell, str, int], Figures] = field(default_factory=dict)
    """By cell, policy and seed."""

    @property
    def planned(self) -> int:
        return len(self.cells) * len(self.policies) * self.matrix.seeds

    @property
    def is_partial(self) -> bool:
        """It was broken off."""
        return len(self.plays) < self.planned

    def standings(self) -> dict[Cell, list[Standing]]:
        """Of every cell that all policies have played, the best first."""
        by_cell: dict[Cell, dict[str, dict[int, Figures]]] = {}
        for (cell, policy, seed), figures in self.plays.items():
            by_cell.setdefault(cell, {}).setdefault(policy, {})[seed] = figures
        found = {
            cell: standings(by_cell[cell], UPSTREAM)
            for cell in self.cells
            if len(by_cell.get(cell, ())) == len(self.policies)
        }
        return {cell: ranked for cell, ranked in found.items() if ranked}


# --- tables --------------------------------------------------------------------------------------


def tables(report: Report) -> list[Table]:
    """Those that have anything to show."""
    ranked = report.standings()
    found = [_goals(overall(ranked.values())), _overall(overall(ranked.values())), _capacities(report)]
    found += [_cell(report, cell, standing) for cell, standing in ranked.items()]
    return [table for table in found if table.rows]


def _goals(found: Sequence[Overall]) -> Table:
    """What is wanted of the product's own policy, if it was there and not alone."""
    ours = next((one for one in found if one.policy == OURS), None)
    rows: list[list[str]] = []
    if ours is not None and len(found) > 1:
        share, than_upstream = ours.near / ours.cells, ours.to_baseline
        rows = [
            _goal(
                f"best or within {NEAR - 1:.0%} of the best TTFT p90",
                "≥ 90 % of cells",
                f"{share:.0%}",
                share >= 0.9,
            ),
            _goal(
                f"TTFT p90 to that of {UPSTREAM}, median cell",
                "≤ 0.75",
                UNKNOWN if than_upstream is None else f"{than_upstream:.2f}",
                than_upstream is not None and than_upstream <= 0.75,
            ),
            _goal(
                "output tokens/s to the most of any, worst cell",
                "≥ 0.97",
                f"{ours.least_throughput:.3f}",
                ours.least_throughput >= 0.97,
            ),
            _goal("cells where it is the worst", "0", str(ours.worst), not ours.worst),
        ]
    return Table(_GOALS, ["figure", "goal", "found", "reached"], rows)


def _goal(what: str, goal: str, found: str, reached: bool) -> list[str]:
    return [what, goal, found, "yes" if reached else "**no**"]


def _overall(found: Sequence[Overall]) -> Table:
    columns = ["policy", "best", f"best or within {NEAR - 1:.0%}", "of cells"]
    columns += [f"to {UPSTREAM}, median cell", "to the best, median cell", "its worst cell"]
    columns += ["output tokens/s to the most, worst cell", "the worst"]
    rows = [
        [
            one.policy,
            str(one.best),
            f"{one.near / one.cells:.0%}",
            str(one.cells),
            UNKNOWN if one.to_baseline is None else f"{one.to_baseline:.2f}",
            f"{one.to_best:.2f}",
            f"{one.farthest:.2f}",
            f"{one.least_throughput:.3f}",
            str(one.worst),
        ]
        for one in found
    ]
    return Table(_OVERALL, columns, rows)


def _capacities(report: Report) -> Table:
    rows = [
        [workload, fleet, "-" if math.isinf(rate) else number(rate)]
        for (workload, fleet), rate in report.capacities.items()
    ]
    return Table(_CAPACITY, ["workload", "fleet", "requests/s"], rows)


def _cell(report: Report, cell: Cell, ranked: Sequence[Standing]) -> Table:
    rate = cell.load * report.capacities[cell.workload, cell.fleet]
    asked = "" if math.isinf(rate) else f", {number(rate)} requests/s"
    columns = ["policy", "TTFT p50 [ms]", "p90 [ms]", "p99 [ms]", "p90 to the best", f"to {UPSTREAM}"]
    columns += ["between tokens p50 [ms]", "end to end p90 [s]", "output tokens/s", "to the most"]
    columns += ["good", "cached", "spread", "failed", "unfinished"]
    return Table(f"{cell}{asked}", columns, [_row(one) for one in ranked])


def _row(one: Standing) -> list[str]:
    return [
        f"**{one.policy}**" if one.is_near else one.policy,
        milliseconds(one.ttft_p50),
        milliseconds(one.ttft_p90),
        milliseconds(one.ttft_p99),
        ratio(one.to_best),
        UNKNOWN if one.to_baseline is None else ratio(one.to_baseline),
        milliseconds(one.inter_token_p50),
        interval(one.e2e_p90, number),
        interval(one.output_rate, number),
        f"{one.throughput.value:.3f}",
        f"{one.goodput.value:.1%}",
        f"{one.cached.value:.0%}",
        f"{one.spread.value:.2f}",
        str(one.failed),
        str(one.unfinished),
    ]


# --- text ----------------------------------------------------------------------------------------


def head(report: Report) -> Iterator[str]:
    """What a reader has to know, a paragraph each."""
    if report.is_partial:
        yield (
            f"PARTIAL: broken off after {len(report.plays):,} of {report.planned:,} plays; cells that not all"
            " policies have played are left out."
        )
    matrix = report.matrix
    yield f"`{report.command}`, fleet-epp {report.version}; {matrix.about or 'no description'}."
    objective = matrix.objective
    yield (
        f"{len(report.cells)} cells, {len(report.policies)} policies, {matrix.seeds} seeds; in each play"
        f" {matrix.warm_up:,} requests that are not counted and {matrix.requests:,} that are;"
        f" {matrix.pauses:.0%} of the workloads' pauses between turns; readings arrive"
        f" {matrix.delay * 1e3:g} ms late, {matrix.loss:.0%} of them never. Good: the first token within"
        f" {objective.ttft:g} s, {objective.inter_token * 1e3:g} ms between tokens. A load is a share of the"
        " capacity, the most requests/s that any number of users in a closed loop gets answered. ± and [ ]:"
        " 95 % confidence over seeds; ratios are of the same seeds. Bold: the best, or as good."
    )
    yield "\n".join(f"- **{policy.name}**: {policy.what}" for policy in report.policies)


def markdown(report: Report) -> str:
    return "\n\n".join([*head(report), *(table.markdown() for table in tables(report))])


def page(report: Report, pictures: Sequence[Path]) -> str:
    """Everything on one page, which needs nothing else."""
    found = tables(report)
    of_all = [table for table in found if table.title in OF_ALL]
    others = [table for table in found if table.title not in OF_ALL]
    return pages.page("epp bench sim", head(report), [*of_all, *pictures, *others])


# --- files ---------------------------------------------------------------------------------------


def as_dict(report: Report) -> dict[str, Any]:
    """Everything; what is not known is null."""
    ranked = report.standings()
    found: dict[str, Any] = {
        "command": report.command,
        "version": report.version,
        "is_partial": report.is_partial,
        "planned": report.planned,
        "played": len(report.plays),
        "matrix": dataclasses.asdict(report.matrix),
        "policies": [dataclasses.asdict(policy) for policy in report.policies],
        "capacities": [
            {"workload": workload, "fleet": fleet, "requests_per_second": rate}
            for (workload, fleet), rate in report.capacities.items()
        ],
        "overall": [dataclasses.asdict(one) for one in overall(ranked.values())],
        "cells": [
            {
                **dataclasses.asdict(cell),
                "standings": [
                    dataclasses.asdict(one) | {"is_near": one.is_near} for one in ranked.get(cell, ())
                ],
                "plays": [
                    {"policy": policy.name, "seed": seed, **dataclasses.asdict(figures)}
                    for policy in report.policies
                    for seed in range(1, report.matrix.seeds + 1)
                    if (figures := report.plays.get((cell, policy.name, seed))) is not None
                ],
            }
            for cell in report.cells
        ],
    }
    made: dict[str, Any] = known(found)
    return made


def write(report: Report, folder: Path) -> list[Path]:
    """All files, in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    data, text, html_page = (folder / f"{NAME}.{kind}" for kind in ("json", "md", "html"))
    data.write_text(json.dumps(as_dict(report), ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    text.write_text(markdown(report), encoding="utf-8")
    pictures = plots.draw(report.standings(), folder)
    html_page.write_text(page(report, pictures), encoding="utf-8")
    return [data, text, html_page, *pictures]
