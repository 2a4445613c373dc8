"""How a matrix is shown: tables for a terminal and for docs/failover.md, everything for JSON.

Place:   after bench.failover.play; bench.failover.timeline draws the pictures beside it.
Ignores: how anything was measured.
Rule:    what was not played says why, a goal that was missed is bold, and every request is in the JSON.
"""

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from bench.failover.account import Account
from bench.failover.play import Run
from bench.failover.scenarios import Goal, Scenario
from bench.load import Percentiles
from bench.report import Table

NONE = "-"


@dataclass(slots=True)
class Row:
    """One scenario with one picker."""

    scenario: Scenario
    contender: str
    runs: list[Run] = field(default_factory=list)
    not_played: str = ""
    """Why it was not, or not to its end."""
    is_impossible: bool = False
    """It cannot be played on this machine."""

    @property
    def accounts(self) -> list[Account]:
        return [run.account for run in self.runs]

    def missed(self) -> list[Goal]:
        """Goals of what was played."""
        if not self.runs:
            return []
        return [goal for goal in self.scenario.expect if not goal.is_reached(self.accounts)]


@dataclass(slots=True)
class Matrix:
    """One run of the command."""

    command: str
    date: str
    machine: dict[str, str]
    rate: float
    seconds: float
    rows: list[Row] = field(default_factory=list)

    @property
    def contenders(self) -> list[str]:
        return list(dict.fromkeys(row.contender for row in self.rows))


# --- tables --------------------------------------------------------------------------------------


def tables(matrix: Matrix) -> list[Table]:
    """Goals and figures, for each picker."""
    many = len(matrix.contenders) > 1
    found = []
    for contender in matrix.contenders:
        rows = [row for row in matrix.rows if row.contender == contender]
        name = f": {contender}" if many else ""
        found += [_goals(rows, f"Goals{name}"), _losses(rows, f"Requests{name}")]
        found += [_times(rows, f"Times{name}")]
    return [table for table in found if table.rows]


def _goals(rows: Sequence[Row], title: str) -> Table:
    columns = ["fault", "figure", "goal", "measured", "reached"]
    lines = [line for row in rows for line in _goal_lines(row)]
    return Table(title, columns, lines)


def _goal_lines(row: Row) -> Iterator[list[str]]:
    name = row.scenario.name
    if row.not_played:
        yield [name, f"not played: {row.not_played}", NONE, NONE, NONE]
    if not row.runs:
        return
    for goal in row.scenario.expect:
        sign, reached = "≥" if goal.at_least else "≤", goal.is_reached(row.accounts)
        value = goal.value(row.accounts)
        yield [
            name,
            goal.what,
            f"{sign} {goal.limit:g} {goal.unit}".strip(),
            "never" if value is None else f"{_number(value)} {goal.unit}".strip(),
            "yes" if reached else "**no**",
        ]


def _losses(rows: Sequence[Row], title: str) -> Table:
    columns = ["fault", "runs", "requests", "on it", "of these lost", "lost besides"]
    columns += ["failed before any byte", "broken in mid-stream", "sent there after", "lost after return"]
    lines = []
    for row in rows:
        if all_ := row.accounts:
            totals = [sum(counts) for counts in zip(*map(_counts, all_), strict=True)]
            lines.append([row.scenario.name, str(len(all_)), *(f"{total:,}" for total in totals)])
    return Table(f"{title} (all runs together)", columns, lines)


def _counts(one: Account) -> list[int]:
    return [
        one.requests,
        one.on_it,
        one.lost_on_it,
        one.lost_new,
        one.failed,
        one.broken,
        one.sent_after,
        one.lost_after_back,
    ]


def _times(rows: Sequence[Row], title: str) -> Table:
    columns = ["fault", "last sent there [ms]", "worst", "back after [s]", "worst", "its share then"]
    columns += ["TTFT p50 / p99 before [ms]", "during", "after", "load late [ms]"]
    lines = []
    for row in rows:
        if all_ := row.accounts:
            line = [row.scenario.name, *_middle_and_worst([a.last_sent * 1e3 for a in all_])]
            line += _middle_and_worst([a.back_after for a in all_])
            line.append(f"{max(a.first_second for a in all_):.0%}")
            line += [
                _ttft([a.before for a in all_]),
                _ttft([a.during for a in all_]),
                _ttft([a.after for a in all_]),
                _number(max(a.late for a in all_) * 1e3),
            ]
            lines.append(line)
    return Table(f"{title} (medians of runs, and the worst)", columns, lines)


def _middle_and_worst(values: Sequence[float | None]) -> list[str]:
    known = [value for value in values if value is not None]
    if not known:
        return ["never", "never"]
    worst = _number(max(known)) if len(known) == len(values) else "never"
    return [_number(statistics.median(known)), worst]


def _ttft(found: Sequence[Percentiles | None]) -> str:
    known = [one for one in found if one is not None]
    if not known:
        return NONE
    read: tuple[Callable[[Percentiles], float], ...] = (lambda one: one.p50, lambda one: one.p99)
    return " / ".join(_number(statistics.median(map(one, known)) * 1e3) for one in read)


def _number(value: float) -> str:
    if not value:
        return "0"
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def line(scenario: Scenario, one: Account) -> str:
    """One run in a line, for those who wait."""
    back = "never back" if one.back_after is None else f"back after {one.back_after:.2f} s"
    return (
        f"{scenario.name}: {one.requests} requests, {one.lost_on_it} of {one.on_it} on it lost,"
        f" {one.lost_new} besides; {one.sent_after} sent there, the last {one.last_sent * 1e3:.0f} ms after"
        f" the fault; {back}"
    )


def markdown(matrix: Matrix) -> str:
    """For docs/failover.md."""
    machine = "; ".join(f"{name} {value}" for name, value in matrix.machine.items())
    head = f"`{matrix.command}`, {matrix.date}; {machine}.\n"
    scenarios = dict.fromkeys(row.scenario for row in matrix.rows)
    faults = "".join(f"- **{one.name}**: {one.what}\n" for one in scenarios)
    return "\n".join([head, faults, *(table.markdown() for table in tables(matrix))])


# --- JSON ----------------------------------------------------------------------------------------

REQUEST_FIELDS = (
    "due_s",
    "sent_s",
    "picked",
    "served",
    "fate",
    "status",
    "first_byte_s",
    "first_token_s",
    "ended_s",
    "body_bytes",
    "error",
)


def as_dict(matrix: Matrix) -> dict[str, Any]:
    """Everything, times of requests in seconds from the fault."""
    return {
        "command": matrix.command,
        "date": matrix.date,
        "machine": matrix.machine,
        "rate": matrix.rate,
        "seconds": matrix.seconds,
        "request_fields": REQUEST_FIELDS,
        "scenarios": [_row(row) for row in matrix.rows],
    }


def _row(row: Row) -> dict[str, Any]:
    goals = [
        {
            "what": goal.what,
            "unit": goal.unit,
            "at_least" if goal.at_least else "at_most": goal.limit,
            "value": goal.value(row.accounts),
            "is_reached": goal.is_reached(row.accounts),
        }
        for goal in row.scenario.expect
        if row.runs
    ]
    return {
        "name": row.scenario.name,
        "what": row.scenario.what,
        "picker": row.contender,
        "not_played": row.not_played,
        "goals": goals,
        "runs": [_run(run) for run in row.runs],
    }


def _run(run: Run) -> dict[str, Any]:
    struck = run.moments.struck

    def since(moment: float | None) -> float | None:
        return None if moment is None else round(moment - struck, 6)

    requests = [
        [
            since(one.due),
            since(one.sent),
            one.picked,
            one.served,
            one.fate.value,
            one.status,
            since(one.first_byte),
            since(one.first_token),
            since(one.ended),
            one.body_bytes,
            one.error,
        ]
        for one in run.requests
    ]
    return {
        "addresses": run.addresses,
        "began_s": since(run.moments.began),
        "healing_s": since(run.moments.healing),
        "back_s": since(run.moments.back),
        "ended_s": since(run.moments.ended),
        "account": asdict(run.account),
        "requests": requests,
    }
