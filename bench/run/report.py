"""How a run is shown: tables for a terminal and Markdown, JSON with every request, one HTML page.

Place:   after bench.run.figures; bench.run.plots draws.
Ignores: how anything was sent.
Rule:    nothing is shown that is not in the JSON. A run that was broken off says so at its head, one whose
         own lateness matters says that.
"""

import dataclasses
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import pages
from bench.compare import FIGURES, Figure
from bench.pages import NAME, UNKNOWN, known, number
from bench.report import Table
from bench.run import plots
from bench.run.figures import Details, Part, as_rows, details, is_late, of_part, servers, whole
from bench.run.play import Stretch
from bench.run.server import Server
from bench.sim.statistics import Estimate, Figures, Objective, Times

FEWER = 0.8
"""Less of the rate that was asked for is told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """One URL and what it came to."""

    name: str
    server: Server
    stretches: Sequence[Stretch]
    parts: dict[int, Part]
    """By the number of the round."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A contender in figures."""

    name: str
    model: str
    due_rate: float
    """Counted requests a second, whatever became of them."""
    figures: Figures | None
    """Of all counted requests; None: there are none."""
    rounds: dict[int, Figures]
    details: Details

    def column(self, figure: Figure) -> str:
        """The whole run's figure, and how sure that is."""
        if self.figures is None:
            return UNKNOWN
        value = figure.read(self.figures)
        spread = Estimate.of([figure.read(one) for one in self.rounds.values()]) if self.rounds else None
        if spread is None or math.isnan(spread.low) or math.isnan(value):
            return figure.shown(value)
        return f"{figure.shown(value)} ± {figure.shown(spread.high - spread.value)}"

    def to(self, first: "Found", figure: Figure) -> Estimate | None:
        """Its figure to that of another one, in the same rounds."""
        common = sorted(self.rounds.keys() & first.rounds.keys())
        ones = [figure.read(self.rounds[number]) for number in common]
        others = [figure.read(first.rounds[number]) for number in common]
        return figure.to(ones, others, paired=True)


@dataclass(slots=True, kw_only=True)
class Report:
    """One run of the command."""

    command: str
    version: str
    """Of the product."""
    date: str
    workload: str
    about: str
    asked: str
    """The rate and the time, in words."""
    asked_rate: float | None
    """Requests/s; None: whatever the workload says."""
    rounds: int
    warm_up: float
    seed: int
    salt: str
    objective: Objective
    contenders: Sequence[Contender] = ()
    stopped: str = ""
    """Why it was broken off; empty: it was not."""
    found: list[Found] = field(default_factory=list)

    def count(self) -> None:
        """All figures, once everything has been played."""
        names = servers(one for each in self.contenders for s in each.stretches for one in s.requests)
        for each in self.contenders:
            parts = list(each.parts.values())
            figures = whole(parts, self.objective, names)
            by_round = {number: of_part(part, self.objective, names) for number, part in each.parts.items()}
            self.found.append(
                Found(
                    name=each.name,
                    model=each.server.model,
                    due_rate=figures.requests / figures.seconds if figures else 0.0,
                    figures=figures,
                    rounds={number: one for number, one in by_round.items() if one is not None},
                    details=details(parts),
                )
            )

    @property
    def is_partial(self) -> bool:
        return bool(self.stopped)


# --- tables --------------------------------------------------------------------------------------


def tables(report: Report) -> list[Table]:
    """Those that have anything to show."""
    found = [_figures(report), _servers(report.found), _failures(report.found), _bench(report.found)]
    return [table for table in found if table.rows]


def _figures(report: Report) -> Table:
    found = report.found
    rows = [["requests", *(f"{one.figures.requests:,}" if one.figures else "0" for one in found)]]
    rows.append(["failed", *(_failed(one.figures) for one in found)])
    if report.is_partial:
        rows.append(["unfinished", *(str(one.figures.unfinished) if one.figures else "0" for one in found)])
    rows.append(["answers/s", *(_answered(one.figures) for one in found)])
    rows += [[figure.what, *(one.column(figure) for one in found)] for figure in FIGURES]
    columns = ["figure", *(one.name for one in found)]
    for other in found[1:]:
        columns.append(f"{other.name} to {found[0].name}" if len(found) > 2 else "the second to the first")
        rows = [[*row, _between(found[0], other, row[0])] for row in rows]
    return Table("Figures", columns, rows)


def _failed(figures: Figures | None) -> str:
    if figures is None or not figures.failed:
        return "0"
    return f"**{figures.failed:,} FAILED**"


def _answered(figures: Figures | None) -> str:
    if figures is None or not figures.seconds:
        return UNKNOWN
    return number((figures.requests - figures.failed - figures.unfinished) / figures.seconds)


def _between(first: Found, other: Found, what: str) -> str:
    figure = next((one for one in FIGURES if one.what == what), None)
    return "" if figure is None else figure.told(other.to(first, figure))


def _servers(found: Sequence[Found]) -> Table:
    rows = [
        [
            here.name,
            one.name,
            f"{here.requests:,}",
            f"{here.share:.0%}",
            _ms(here.ttft.p50),
            _ms(here.ttft.p90),
            f"{here.output_tokens:,}",
            UNKNOWN if math.isnan(here.cached) else f"{here.cached:.0%}",
        ]
        for one in found
        for here in one.details.servers
    ]
    columns = ["server", "of", "answers", "share", "TTFT p50 [ms]", "p90 [ms]", "output tokens", "cached"]
    return Table("Who answered", columns, rows)


def _failures(found: Sequence[Found]) -> Table:
    rows = [[kind, one.name, f"{count:,}"] for one in found for kind, count in one.details.failures.items()]
    return Table("Failures", ["what happened", "of", "requests"], rows)


def _bench(found: Sequence[Found]) -> Table:
    def three(times: Times) -> list[str]:
        return [_ms(times.p50), _ms(times.p90), _ms(times.p99)]

    rows = []
    for one in found:
        rows.append(["between pieces of a stream, as they came", one.name, *three(one.details.gaps)])
        rows.append(["sent late, by the bench's fault", one.name, *three(one.details.late)])
        rows.append(["getting a connection", one.name, *three(one.details.connecting)])
    return Table("Beside these [ms]", ["what", "of", "p50", "p90", "p99"], rows)


def _ms(seconds: float) -> str:
    return number(seconds * 1e3)


# --- text ----------------------------------------------------------------------------------------


def head(report: Report) -> Iterator[str]:
    """What a reader has to know, a paragraph each."""
    if report.is_partial:
        yield f"PARTIAL: {report.stopped}. What was measured before is shown."
    yield (
        f"`{report.command}`, fleet-epp {report.version}, {report.date}; workload {report.workload}"
        f" ({report.about or 'no description'}), {report.asked}, seed {report.seed}."
    )
    yield _how(report)
    for one in report.found:
        if one.figures is None:
            yield f"Nothing was counted of {one.name}."
        elif is_late(one.details, one.figures):
            yield (
                f"LATE: the bench itself sent requests to {one.name} up to {_ms(one.details.latest)} ms after"
                " they were due; that is in all its times. Use another machine, or ask less."
            )
        if report.asked_rate is not None and one.due_rate < FEWER * report.asked_rate:
            yield (
                f"At {one.name} {one.due_rate:.1f} requests/s were due, of {report.asked_rate:.1f}: later"
                " turns wait for answers and for their users, and sessions had not time for all of theirs."
            )
        if one.details.without_text:
            yield (
                f"{one.details.without_text} good answers of {one.name} were no stream with text: their first"
                " token is at their end."
            )


def _how(report: Report) -> str:
    warm_up = f" The first {report.warm_up:.3g} s are not counted." if report.warm_up else ""
    objective = report.objective
    if len(report.contenders) > 1:
        rounds = f"over {report.rounds} rounds, in which the servers take turns; ratios are of the same round"
    else:
        rounds = f"over {report.rounds} equal parts of the time"
    return (
        "Times count from the moment at which a request was due, whenever it was sent. Good: the first token"
        f" within {objective.ttft * 1e3:g} ms, {objective.inter_token * 1e3:g} ms between tokens on average,"
        f" and an end. ± and [ ]: 95 % confidence (Student's t) {rounds}.{warm_up}"
    )


def markdown(report: Report) -> str:
    return "\n\n".join([*head(report), *(table.markdown() for table in tables(report))])


# --- files ---------------------------------------------------------------------------------------


def as_dict(report: Report) -> dict[str, Any]:
    """Everything, as `epp bench compare` reads it; what is not known is null."""
    made: dict[str, Any] = {
        "kind": "run",
        "command": report.command,
        "version": report.version,
        "date": report.date,
        "is_partial": report.is_partial,
        "stopped": report.stopped or None,
        "seed": report.seed,
        "salt": report.salt,
        "rounds": report.rounds,
        "warm_up": report.warm_up,
        "objective": dataclasses.asdict(report.objective),
        "cells": [
            {
                "workload": report.workload,
                "asked": report.asked,
                "plays": [
                    {"policy": one.name, "seed": number, **dataclasses.asdict(figures)}
                    for one in report.found
                    for number, figures in one.rounds.items()
                ],
            }
        ],
        "whole": [
            {
                "policy": one.name,
                "model": one.model,
                "figures": one.figures and dataclasses.asdict(one.figures),
                "details": dataclasses.asdict(one.details),
            }
            for one in report.found
        ],
        "stretches": [
            {"policy": each.name, "requests": as_rows(stretch)}
            for each in report.contenders
            for stretch in each.stretches
        ],
    }
    told: dict[str, Any] = known(made)
    return told


def write(report: Report, folder: Path) -> list[Path]:
    """All files, in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    data, text, page = (folder / f"{NAME}.{kind}" for kind in ("json", "md", "html"))
    data.write_text(json.dumps(as_dict(report), ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    text.write_text(markdown(report), encoding="utf-8")
    pictures = plots.draw([(each.name, each.stretches) for each in report.contenders], folder)
    first, *others = tables(report)
    page.write_text(pages.page("epp bench run", head(report), [first, *pictures, *others]), encoding="utf-8")
    return [data, text, page, *pictures]
