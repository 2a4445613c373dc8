"""The figures that this project promises, and whether a run reached them.

Place:   between bench.findings (what was measured) and bench.report (what is shown).
Ignores: how anything was measured or is shown.
Rule:    a figure has its goal in the unit people think in and, where CPU or speed of the machine decides
         it, relative to the same run without a picker: that one travels between machines. A figure that
         was not measured is neither reached nor missed.
"""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.findings import (
    NO_PICKER,
    AtRest,
    Load,
    Report,
    Round,
    cpu_difference,
    fleet_pairs,
    medians,
    streamed,
    throughput_ratio,
)

Value = Callable[[Report, str], float | None]
"""A figure of one contender."""

LOADS = tuple(Load(body_kb, concurrency) for concurrency in (100, 1) for body_kb in (1, 8, 220))
EVEN = Load(1, rate=300)
BASE = Load(1, 100)
"""Without a picker, under this load, a request costs Envoy one unit."""
FLEET_LOADS = (Load(1, 20), Load(220, 20))
CHUNK_RATES = (2_000, 20_000)
FEW, MANY, MOST = FLEETS = (2, 100, 1_000)
PAGE_KB = 50

# The machine on which the goals were set: without a picker, Envoy's one worker, which was then the
# bottleneck, made so many requests a second, and one client waited so long for each [ms].
REFERENCE_RATE = {1: 24_788, 8: 23_257, 220: 9_922}
REFERENCE_P50 = {1: 0.20, 220: 0.25}


@dataclass(frozen=True, slots=True)
class Relative:
    """The same goal in what travels between machines."""

    unit: str
    goal: float
    value: Value


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """Something measured, its goal, and what the upstream picker reached where the goals were set."""

    what: str
    unit: str
    goal: float
    value: Value
    at_least: bool = False
    upstream: float | None = None
    relative: Relative | None = None

    def is_met(self, value: float | None, goal: float) -> bool | None:
        """None: not measured."""
        if value is None:
            return None
        return value >= goal if self.at_least else value <= goal


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One figure of a run against its goal."""

    figure: Figure
    value: float | None
    is_met: bool | None
    relative_value: float | None
    relative_is_met: bool | None


def verdicts(report: Report) -> list[Verdict]:
    """Every goal, for this project's picker (on the first driver, where there are several)."""
    return [_verdict(figure, report, report.ours[0]) for figure in FIGURES] if report.ours else []


def _verdict(figure: Figure, report: Report, contender: str) -> Verdict:
    value, relative = figure.value(report, contender), figure.relative
    relative_value = relative.value(report, contender) if relative else None
    return Verdict(
        figure=figure,
        value=value,
        is_met=figure.is_met(value, figure.goal),
        relative_value=relative_value,
        relative_is_met=figure.is_met(relative_value, relative.goal) if relative else None,
    )


# --- the figures ---------------------------------------------------------------------------------


def _under(load: Load, read: Callable[[Round], float | None]) -> Value:
    """What ``read`` finds in the contender's row."""

    def value(report: Report, contender: str) -> float | None:
        row = medians(report.rounds).get((contender, load, FEW))
        return read(row) if row else None

    return value


def _cpu(load: Load) -> Value:
    """CPU a request [µs]."""
    return _under(load, lambda row: row.picker_cpu_us)


def _throughput(load: Load) -> Value:
    return _under(load, lambda row: row.requests_per_second)


def _latency(load: Load, percentile: str) -> Value:
    """Milliseconds."""
    return _under(load, lambda row: getattr(row.latency, percentile) * 1e3 if row.latency else None)


def _load_memory(load: Load) -> Value:
    return _under(load, lambda row: None if row.picker_rss_bytes is None else row.picker_rss_bytes / 1e6)


def _chunk(rate: int) -> Value:
    """CPU a streamed chunk [µs]."""

    def value(report: Report, contender: str) -> float | None:
        found = streamed(report, contender, rate)
        return found.cpu_us("picker") if found else None

    return value


def _at_rest(endpoints: int, read: Callable[[AtRest], float | None]) -> Value:
    """What ``read`` finds where nothing happens, before any load."""

    def value(report: Report, contender: str) -> float | None:
        wanted = (contender, endpoints, PAGE_KB, False)
        found = (r for r in report.at_rest if (r.contender, r.endpoints, r.page_kb, r.after_load) == wanted)
        first = next(found, None)
        return read(first) if first else None

    return value


def _rest(endpoints: int) -> Value:
    return _at_rest(endpoints, lambda found: found.cores)


def _rest_memory(endpoints: int) -> Value:
    return _at_rest(endpoints, lambda found: found.rss_bytes / 1e6)


def _fleet_ratio(load: Load) -> Value:
    def value(report: Report, contender: str) -> float | None:
        ratio = throughput_ratio(fleet_pairs(report, contender, load))
        return None if ratio is None else ratio * 100

    return value


def _more_with_many(load: Load) -> Value:
    return lambda report, contender: cpu_difference(fleet_pairs(report, contender, load))


def _start(report: Report, contender: str) -> float | None:
    mine = [start.first_answer for start in report.starts if start.contender == contender]
    return statistics.median(mine) if mine else None


def _over(value: Value, base: Value) -> Value:
    """One figure in terms of another."""

    def ratio(report: Report, contender: str) -> float | None:
        over, under = value(report, contender), base(report, contender)
        return None if over is None or not under else over / under

    return ratio


def _without(value: Value) -> Value:
    """The same figure without a picker."""
    return lambda report, contender: value(report, NO_PICKER)


def _envoy(load: Load) -> Value:
    """What Envoy needs for the same request without a picker [µs]."""
    return _without(_under(load, lambda row: row.envoy_cpu_us))


def _name(load: Load) -> str:
    return f"{load.body_kb} KB at {load.concurrency}"


def _cpu_figure(load: Load, goal: float, upstream: float) -> Figure:
    units = goal * REFERENCE_RATE[load.body_kb] / 1e6
    return Figure(
        what=f"{_name(load)}: CPU a request",
        unit="µs",
        goal=goal,
        value=_cpu(load),
        upstream=upstream,
        relative=Relative("units", units, _over(_cpu(load), _envoy(load))),
    )


def _throughput_figure(load: Load, goal: float, upstream: float) -> Figure:
    value = _throughput(load)
    return Figure(
        what=f"{_name(load)}: requests/s",
        unit="/s",
        goal=goal,
        at_least=True,
        value=value,
        upstream=upstream,
        relative=Relative(
            "of no picker's", goal / REFERENCE_RATE[load.body_kb], _over(value, _without(value))
        ),
    )


def _in_units(what: str, goal: float, value: Value, upstream: float | None = None) -> Figure:
    """CPU that is not a request's: the unit is then what a 1 KB request costs Envoy without a picker."""
    units = goal * REFERENCE_RATE[BASE.body_kb] / 1e6
    relative = Relative("units", units, _over(value, _envoy(BASE)))
    return Figure(what=what, unit="µs", goal=goal, value=value, upstream=upstream, relative=relative)


def _even_figure(percentile: str, goal: float, upstream: float) -> Figure:
    value = _latency(EVEN, percentile)
    return Figure(what=f"{EVEN}: {percentile}", unit="ms", goal=goal, value=value, upstream=upstream)


def _lone_figure() -> Figure:
    value = _latency(Load(1, 1), "p50")
    times = Relative("times no picker's", 0.65 / REFERENCE_P50[1], _over(value, _without(value)))
    return Figure(what="1 KB at 1: p50", unit="ms", goal=0.65, value=value, upstream=0.96, relative=times)


def _rest_figure(endpoints: int, goal: float, upstream: float | None) -> Figure:
    what = f"at rest, {endpoints:,} endpoints, {PAGE_KB} KB pages"
    return Figure(what=what, unit="cores", goal=goal, value=_rest(endpoints), upstream=upstream)


def _fleet_figure(load: Load, upstream: float) -> Figure:
    return Figure(
        what=f"100 endpoints, {_name(load)}: requests/s of those with 2",
        unit="%",
        goal=90,
        at_least=True,
        value=_fleet_ratio(load),
        upstream=upstream,
    )


FIGURES: Sequence[Figure] = (
    _cpu_figure(Load(1, 100), 110, 263),
    _throughput_figure(Load(1, 100), 7_000, 4_214),
    _cpu_figure(Load(8, 100), 130, 447),
    _throughput_figure(Load(8, 100), 6_000, 2_989),
    _cpu_figure(Load(220, 100), 900, 5_181),
    _throughput_figure(Load(220, 100), 1_300, 324),
    _lone_figure(),
    _even_figure("p50", 0.9, 1.5),
    _even_figure("p99", 1.8, 4.9),
    _in_units("CPU a streamed chunk at 2,000/s", 22, _chunk(2_000), 52),
    _in_units("CPU a streamed chunk at 20,000/s", 10, _chunk(20_000)),
    _rest_figure(FEW, 0.01, 0.09),
    _rest_figure(MANY, 0.03, 1.93),
    _rest_figure(MOST, 0.2, None),
    _fleet_figure(FLEET_LOADS[0], 3),
    _fleet_figure(FLEET_LOADS[1], 1),
    _in_units(
        "100 endpoints, 1 KB at 20: CPU a request more than with 2", 60, _more_with_many(FLEET_LOADS[0])
    ),
    Figure(what="resident at rest", unit="MB", goal=70, value=_rest_memory(FEW), upstream=62),
    Figure(
        what="resident, 220 KB at 100", unit="MB", goal=150, value=_load_memory(Load(220, 100)), upstream=237
    ),
    Figure(what="start to first answer", unit="s", goal=0.4, value=_start, upstream=0.045),
)


# --- promises about one number ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Bound:
    """What a figure of the shorter benches may come to at most; there is nothing to compare it with."""

    what: str
    most: float
    unit: str


def pick_bound(endpoints: int, where: str) -> Bound:
    """What a pick over so many endpoints may add to a request over ``SOME``."""
    return Bound(f"{endpoints:,} endpoints, {where}: CPU more than with {SOME}", PICK_MORE[endpoints], "µs")


def pick_cost_bound(body_kb: int) -> Bound:
    """What a whole pick by predicted cost may take over a hundred endpoints."""
    return Bound(f"100 endpoints, predicted cost, {body_kb} KB: CPU of a pick", PICK_COST[body_kb], "µs")


SOME = 3
PICK_MORE = {100: 300.0, 1_000: 2_000.0}
"""By endpoints [µs of CPU]."""
PICK_COST = {1: 300.0, 220: 2_000.0}
"""By KB of the prompt [µs of CPU]."""
REST_CORES = Bound("1,000 pods of 100 pools at rest: CPU", 0.25, "cores")
COMPILE_SECONDS = Bound("1,000 InferenceServices and 200 ModelRouters: CPU of a compilation", 2, "s")
COMPILE_BYTES = Bound("the same: memory of its process", 300, "MB")
CONVERGE_SECONDS = Bound("the same, by the controller: from nothing to everything applied", 60, "s")
CHANGE_SECONDS = Bound("100 of them and 20: one change applied after, the median", 0.2, "s")
REST_WRITES = Bound("at rest: writes", 0, "writes")
READY_SECONDS = Bound("a pod that becomes Ready: first pick after the event, the slowest", 0.1, "s")
LATE_PICKS = Bound("a pod that terminates: picks after the event", 0, "picks")
