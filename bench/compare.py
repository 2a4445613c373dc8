"""`epp bench compare A.json B.json`: what is different, and whether that is more than chance.

    epp bench compare A.json B.json [--all] [--json FILE]

Place:   reads the reports of `epp bench sim` and `epp bench run`; the statistics are bench.sim.statistics'.
Rule:    B to A: ratios for times and rates, differences for shares. Plays of the same seed (of a simulation:
         the same clients) are compared in pairs, by Student's t on the logarithms of their ratios; where
         seeds differ, and for runs, whose parts lie at different moments, by Welch's t on the logarithms.
         What is not sure at 95 % is not called a difference.

Exit status: 0 compared, whatever came out; 1 there is nothing that both have; 2 wrong arguments or no report.
"""

import argparse
import dataclasses
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console

from bench.pages import UNKNOWN, known, number, ratio
from bench.report import Table
from bench.sim.statistics import Estimate, Figures, Times

SHOWN = 40
"""Rows of a table, beyond which only differences are shown."""
BOLD = "**"


# --- figures ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Figure:
    """One of those that a play comes to, for people."""

    what: str
    read: Callable[[Figures], float]
    scale: float = 1.0
    is_share: bool = False
    less_is_better: bool = True

    def shown(self, value: float) -> str:
        if math.isnan(value):
            return UNKNOWN
        return f"{value:.1%}" if self.is_share else number(value * self.scale)

    def to(self, ones: Sequence[float], others: Sequence[float], *, paired: bool) -> Estimate | None:
        """Of the first to the second; None where one of them is not known."""
        if any(map(math.isnan, (*ones, *others))) or not ones or not others:
            return None
        if self.is_share:
            if not paired:
                return Estimate.of_difference(ones, others)
            return Estimate.of([one - other for one, other in zip(ones, others, strict=True)])
        if not paired:
            return Estimate.of_unpaired_ratios(ones, others)
        return Estimate.of_ratios(list(zip(ones, others, strict=True)))

    def told(self, found: Estimate | None) -> str:
        """Bold: it is a difference."""
        if found is None:
            return UNKNOWN
        text = _points(found) if self.is_share else ratio(found)
        return f"{BOLD}{text}{BOLD}" if self.is_sure(found) else text

    def is_sure(self, found: Estimate) -> bool:
        same = 0.0 if self.is_share else 1.0
        return found.low > same or found.high < same


def _points(found: Estimate) -> str:
    value, low, high = (100 * each for each in dataclasses.astuple(found))
    is_alone = math.isnan(low) or low == high
    return f"{value:+.1f} points" + ("" if is_alone else f" [{low:+.1f}, {high:+.1f}]")


FIGURES = (
    Figure("TTFT p50 [ms]", lambda one: one.ttft.p50, 1e3),
    Figure("TTFT p90 [ms]", lambda one: one.ttft.p90, 1e3),
    Figure("TTFT p99 [ms]", lambda one: one.ttft.p99, 1e3),
    Figure("between tokens p50 [ms]", lambda one: one.inter_token.p50, 1e3),
    Figure("between tokens p90 [ms]", lambda one: one.inter_token.p90, 1e3),
    Figure("end to end p50 [ms]", lambda one: one.e2e.p50, 1e3),
    Figure("end to end p90 [ms]", lambda one: one.e2e.p90, 1e3),
    Figure("output tokens/s", lambda one: one.output_rate, less_is_better=False),
    Figure("good", lambda one: one.goodput, is_share=True, less_is_better=False),
    Figure("cached", lambda one: one.cached, is_share=True, less_is_better=False),
)
FEW = tuple(
    one for one in FIGURES if one.what in {"TTFT p50 [ms]", "TTFT p90 [ms]", "output tokens/s", "good"}
)
"""Where there are many cells."""


# --- reports ----------------------------------------------------------------------------------------


class NoReport(Exception):
    """The file is not what it should be; the text names it, and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """A report's plays: by cell and policy, then by seed."""

    kind: str
    is_partial: bool
    plays: Mapping[tuple[str, str], Mapping[int, Figures]]


def read(path: Path) -> Read:
    """Raises NoReport."""
    try:
        found = json.loads(path.read_bytes())
    except OSError as problem:
        raise NoReport(f"{path}: cannot be read: {problem.strerror}") from None
    except (ValueError, RecursionError):
        raise NoReport(f"{path}: is not JSON: give the report.json of epp bench sim or run") from None
    try:
        kind = "sim" if "matrix" in found else found["kind"]
        plays: dict[tuple[str, str], dict[int, Figures]] = {}
        for cell in found["cells"]:
            for play in cell["plays"]:
                key = (_name(cell), play["policy"])
                plays.setdefault(key, {})[int(play["seed"])] = _figures(play)
        return Read(kind=str(kind), is_partial=bool(found["is_partial"]), plays=plays)
    except (LookupError, TypeError, ValueError, AttributeError, msgspec.ValidationError) as problem:
        reason = f"{type(problem).__name__}: {problem}"
        raise NoReport(f"{path}: is no report of epp bench sim or run ({reason})") from None


def _name(cell: Mapping[str, Any]) -> str:
    """What there is of it but figures. Two reports mean the same cell by the same words."""
    return ", ".join(f"{name} {value}" for name, value in cell.items() if not isinstance(value, list))


_TIMES = {one.name for one in dataclasses.fields(Figures) if one.type is Times}
_NUMBERS = {one.name for one in dataclasses.fields(Figures) if one.type is float}


def _figures(play: Mapping[str, Any]) -> Figures:
    """What is null was not known."""
    given = {one.name: play[one.name] for one in dataclasses.fields(Figures) if one.name in play}
    given |= {name: math.nan for name in _NUMBERS & given.keys() if given[name] is None}
    for name in _TIMES & given.keys():
        given[name] = {key: math.nan if value is None else value for key, value in given[name].items()}
    return msgspec.convert(given, Figures)


# --- both -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """One policy in one cell, in both."""

    cell: str
    policy: str
    a: Sequence[Figures]
    b: Sequence[Figures]
    paired: bool

    def values(self, figure: Figure) -> tuple[list[float], list[float]]:
        return [figure.read(one) for one in self.a], [figure.read(one) for one in self.b]

    def difference(self, figure: Figure) -> Estimate | None:
        """B to A."""
        a, b = self.values(figure)
        return figure.to(b, a, paired=self.paired)


def pairs(a: Read, b: Read) -> list[Pair]:
    """Those that both have. One play each: whatever they are called, those are meant."""
    if len(a.plays) == len(b.plays) == 1:
        ((cell, policy), one), ((_, other_policy), other) = *a.plays.items(), *b.plays.items()
        name = policy if policy == other_policy else f"{policy}, then {other_policy}"
        return [_pair(cell, name, one, other, is_sim=a.kind == b.kind == "sim")]
    return [
        _pair(*key, a.plays[key], b.plays[key], is_sim=a.kind == b.kind == "sim")
        for key in a.plays
        if key in b.plays
    ]


def _pair(
    cell: str, policy: str, a: Mapping[int, Figures], b: Mapping[int, Figures], *, is_sim: bool
) -> Pair:
    common = sorted(a.keys() & b.keys())
    if is_sim and common:
        return Pair(
            cell=cell,
            policy=policy,
            a=[a[seed] for seed in common],
            b=[b[seed] for seed in common],
            paired=True,
        )
    return Pair(cell=cell, policy=policy, a=list(a.values()), b=list(b.values()), paired=False)


def tables(found: Sequence[Pair], *, everything: bool = False) -> list[Table]:
    if len(found) <= 3:
        return [_whole(pair) for pair in found]
    return [_many(found, everything=everything)]


def _whole(pair: Pair) -> Table:
    rows = []
    for figure in FIGURES:
        a, b = (_mean(values) for values in pair.values(figure))
        rows.append([figure.what, figure.shown(a), figure.shown(b), figure.told(pair.difference(figure))])
    return Table(f"{pair.cell}: {pair.policy}", ["figure", "A", "B", "B to A"], rows)


def _many(found: Sequence[Pair], *, everything: bool) -> Table:
    rows = []
    for pair in found:
        told = [figure.told(pair.difference(figure)) for figure in FEW]
        if everything or len(found) <= SHOWN or any(text.startswith(BOLD) for text in told):
            rows.append([f"{pair.cell}: {pair.policy}", *told])
    return Table("B to A", ["where", *(figure.what for figure in FEW)], rows)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def sentences(a: Read, b: Read, found: Sequence[Pair]) -> Iterator[str]:
    """What a reader has to know."""
    for name, report in (("A", a), ("B", b)):
        if report.is_partial:
            yield f"PARTIAL: {name} was broken off."
        left_out = len(report.plays) - len(found)
        if left_out:
            yield f"{left_out} of {name}'s pairs of cell and policy are not in the other one."
    paired = sum(pair.paired for pair in found)
    ways = [
        f"{count} by {way}"
        for count, way in (
            (paired, "Student's t over pairs of the same seed"),
            (len(found) - paired, "Welch's t"),
        )
        if count
    ]
    yield f"[ ]: 95 % confidence; {', '.join(ways)}. Bold: a difference that is sure at 95 %."
    for figure in FIGURES:
        sure = [one for pair in found if (one := pair.difference(figure)) and figure.is_sure(one)]
        if sure and len(found) > 3:
            same = 0.0 if figure.is_share else 1.0
            better = sum((one.value < same) == figure.less_is_better for one in sure)
            yield f"{figure.what}: {better} better and {len(sure) - better} worse of {len(found)}."
    if len(found) > 3:
        yield f"By chance alone one in twenty would be bold: {len(found) / 20:.0f} of {len(found)}."


def as_dict(found: Sequence[Pair]) -> list[dict[str, Any]]:
    """For JSON."""
    return [
        {
            "cell": pair.cell,
            "policy": pair.policy,
            "method": "paired t" if pair.paired else "Welch's t",
            "figures": [
                {
                    "what": figure.what,
                    "a": _mean(pair.values(figure)[0]) * figure.scale,
                    "b": _mean(pair.values(figure)[1]) * figure.scale,
                    "is_ratio": not figure.is_share,
                    "b_to_a": None if (one := pair.difference(figure)) is None else dataclasses.asdict(one),
                    "is_sure": one is not None and figure.is_sure(one),
                }
                for figure in FIGURES
            ],
        }
        for pair in found
    ]


def main(arguments: Sequence[str] | None = None, prog: str = "python -m bench.compare") -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(
        prog=prog, description="Two reports of epp bench sim, or two of run: what is different, and how sure."
    )
    parser.add_argument("a", type=Path, metavar="A.json")
    parser.add_argument("b", type=Path, metavar="B.json")
    parser.add_argument(
        "--all", action="store_true", help=f"of more than {SHOWN} rows, those without a difference too"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the differences there")
    given = parser.parse_args(arguments)
    try:
        a, b = read(given.a), read(given.b)
        if a.kind != b.kind:
            raise NoReport(f"{given.a} is of epp bench {a.kind}, {given.b} of {b.kind}: give two of one kind")
        found = pairs(a, b)
    except NoReport as problem:
        print(f"{prog}: {problem}", file=sys.stderr)
        return 2
    if not found:
        print(f"{prog}: {given.a} and {given.b} have no policy in the same cell", file=sys.stderr)
        return 1
    _show(tables(found, everything=given.all), list(sentences(a, b, found)))
    if given.json is not None:
        text = json.dumps(known(as_dict(found)), ensure_ascii=False, indent=1)
        given.json.write_text(text + "\n", encoding="utf-8")
    return 0


def _show(found: Sequence[Table], said: Sequence[str]) -> None:
    console = Console()
    for table in found:
        if console.is_terminal:
            console.print(table.rich())
        else:
            print(table.markdown())
    for sentence in said:
        print(sentence)


if __name__ == "__main__":
    sys.exit(main())
