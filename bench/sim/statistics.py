"""Plays in figures: one play, one cell over its seeds, all cells of a matrix.

Place:   after bench.sim.play; bench.sim.report shows it.
Ignores: what a cell is.
Rule:    a figure over seeds has a 95 % confidence interval; policies are compared on the same seeds, by the
         ratio of their figures on each. A request that failed has no times and counts as failed; one that is
         unfinished has waited at least for as long as it did.
"""

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from bench.load import percentile
from bench.sim.jobs import End
from bench.sim.play import Asked, Play
from epp.core.scoring import Seconds

NEAR = 1.05
"""Within so much of the best is as good as the best."""
NEVER = 86_400.0
"""What a policy without any good answer counts as [s], where policies are compared."""
SHARE_SECONDS = 5.0
"""Of the struck machine's share of requests, by time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """What a good answer takes at most [s]."""

    ttft: Seconds = 2.0
    inter_token: Seconds = 0.1
    """On average over the answer."""

    def __post_init__(self) -> None:
        for name, value in (("ttft", self.ttft), ("interToken", self.inter_token)):
            if value <= 0:
                raise ValueError(f"{name}: must be above 0, got {value:g}s")


# --- one play ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """Nearest-rank percentiles: each is a value that occurred [s]. Nothing occurred: nan."""

    mean: float
    p50: float
    p90: float
    p99: float

    @classmethod
    def of(cls, values: Iterable[float]) -> "Times":
        ordered = sorted(values)
        if not ordered:
            return cls(mean=math.nan, p50=math.nan, p90=math.nan, p99=math.nan)
        p50, p90, p99 = (percentile(ordered, share) for share in (0.50, 0.90, 0.99))
        return cls(mean=statistics.fmean(ordered), p50=p50, p90=p90, p99=p99)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What a play came to. Times and shares are of the counted requests."""

    requests: int
    failed: int
    unfinished: int
    seconds: float
    """The window."""
    ttft: Times
    inter_token: Times
    """A request's average."""
    e2e: Times
    output_rate: float
    """Tokens/s that all servers made in the window, for whichever requests they were."""
    goodput: float
    """The share of requests that met the objective."""
    cached: float
    """The share of prompt tokens that were cached where they went."""
    shares: tuple[float, ...]
    """Of requests, by machine."""
    spread: float
    """The standard deviation of these shares over their mean."""
    struck: tuple[float, ...] = ()
    """Where there was a fault: the share of requests that its machine got in each SHARE_SECONDS since."""


def figures(play: Play, objective: Objective) -> Figures:
    """What ``play`` came to; ValueError where too little was counted to say anything."""
    if play.began is None or play.until is None:
        asked, warm_up = len(play.asked), play.setting.warm_up
        raise ValueError(f"the workload ended after {asked} requests, within the warm-up of {warm_up}")
    if play.until == play.began:
        raise ValueError("all counted requests came at the same moment: count more")
    fault = play.setting.fault
    return counted_figures(
        play.asked,
        window=(play.began, play.until),
        stopped=play.timeline.now,
        machines=len(play.machines),
        objective=objective,
        struck=fault.machine if fault else None,
    )


def counted_figures(
    asked: Sequence[Asked],
    *,
    window: tuple[float, float],
    stopped: float,
    machines: int,
    objective: Objective,
    struck: int | None = None,
) -> Figures:
    """Of the counted ones among all that were asked, simulated or real; there must be one.

    ``stopped``: until when unfinished ones have waited. ``struck``: the machine that had a fault.
    """
    began, until = window
    counted = [each for each in asked if each.is_counted]
    seconds = until - began
    good = [each for each in counted if each.end in (End.DONE, None)]
    shares = _shares(counted, machines)
    prompts = sum(each.prompt_tokens for each in counted if each.cached_tokens is not None)
    cached = sum(each.cached_tokens for each in counted if each.cached_tokens is not None)
    return Figures(
        requests=len(counted),
        failed=len(counted) - len(good),
        unfinished=sum(each.end is None for each in good),
        seconds=seconds,
        ttft=Times.of(_until(each.first_at, each, stopped) for each in good),
        inter_token=Times.of(each for each in map(_pace, good) if each is not None),
        e2e=Times.of(_until(each.ended_at, each, stopped) for each in good),
        output_rate=_made(asked, began, until) / seconds if seconds else math.nan,
        goodput=sum(_is_met(each, objective) for each in good) / len(counted),
        cached=cached / prompts if prompts else 0.0,
        shares=shares,
        spread=statistics.pstdev(shares) * len(shares) if any(shares) else math.nan,
        struck=() if struck is None else _struck(counted, began, struck),
    )


def _until(moment: float | None, asked: Asked, stopped: float) -> float:
    return (stopped if moment is None else moment) - asked.sent_at


def _pace(asked: Asked) -> float | None:
    """Seconds a token after the first; None: it had no second one, or did not end."""
    if asked.first_at is None or asked.ended_at is None or asked.output_tokens < 2:
        return None
    return (asked.ended_at - asked.first_at) / (asked.output_tokens - 1)


def _is_met(asked: Asked, objective: Objective) -> bool:
    if asked.first_at is None or asked.end is not End.DONE:
        return False
    in_time = asked.first_at - asked.sent_at <= objective.ttft
    return in_time and (_pace(asked) or 0.0) <= objective.inter_token


def _made(asked: Sequence[Asked], begin: float, until: float) -> float:
    """Output tokens within the window, those of one answer evenly from its first to its last."""
    made = 0.0
    for each in asked:
        first, last = each.first_at, each.ended_at
        if first is None or last is None or each.end is not End.DONE or last <= begin or first >= until:
            continue
        inside = min(last, until) - max(first, begin)
        made += each.output_tokens * (inside / (last - first) if last > first else 1.0)
    return made


def _shares(asked: Sequence[Asked], machines: int) -> tuple[float, ...]:
    counts = [0] * machines
    for each in asked:
        if each.machine is not None:
            counts[each.machine] += 1
    total = sum(counts)
    return tuple(count / total if total else 0.0 for count in counts)


def _struck(asked: Sequence[Asked], began: float, machine: int) -> tuple[float, ...]:
    bins: dict[int, list[bool]] = {}
    for each in asked:
        bins.setdefault(int((each.sent_at - began) / SHARE_SECONDS), []).append(each.machine == machine)
    last = max(bins)
    return tuple(statistics.fmean(bins.get(number, [False])) for number in range(last + 1))


# --- over seeds ----------------------------------------------------------------------------------

_T_95 = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)
"""Student's t, two-sided 95 %, for 1 to 30 degrees of freedom; beyond, that of 30 errs on the safe side."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean with its 95 % confidence interval; what is not known is nan, as the interval of one value."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Estimate":
        mean = statistics.fmean(values)
        if len(values) < 2 or math.isnan(mean):
            return cls(mean, math.nan, math.nan)
        half = _t_95(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
        return cls(mean, mean - half, mean + half)

    @classmethod
    def of_ratios(cls, pairs: Sequence[tuple[float, float]]) -> "Estimate":
        """Of the first to the second of each pair: the geometric mean, which is the same both ways round."""
        return cls.of([math.log(_above_0(one) / _above_0(other)) for one, other in pairs])._raised()

    @classmethod
    def of_difference(cls, ones: Sequence[float], others: Sequence[float]) -> "Estimate":
        """Of the first mean to the second, where values do not belong together in pairs: by Welch's t."""
        found = statistics.fmean(ones) - statistics.fmean(others)
        both = (ones, others)
        if min(map(len, both)) < 2:
            return cls(found, math.nan, math.nan)
        errors = [statistics.variance(values) / len(values) for values in both]
        spread = sum(error**2 / (len(values) - 1) for error, values in zip(errors, both, strict=True))
        freedom = sum(errors) ** 2 / spread if spread else math.inf
        half = _t_95(freedom) * math.sqrt(sum(errors))
        return cls(found, found - half, found + half)

    @classmethod
    def of_unpaired_ratios(cls, ones: Sequence[float], others: Sequence[float]) -> "Estimate":
        """As ``of_ratios`` without pairs: of the geometric means."""
        logs = [[math.log(_above_0(value)) for value in values] for values in (ones, others)]
        return cls.of_difference(*logs)._raised()

    def _raised(self) -> "Estimate":
        """Of a logarithm, the thing itself."""
        return Estimate(math.exp(self.value), math.exp(self.low), math.exp(self.high))


def _t_95(freedom: float) -> float:
    return _T_95[max(int(min(freedom, len(_T_95))), 1) - 1]


def _above_0(value: float) -> float:
    return max(value, 1e-9)


BySeed = Mapping[int, Figures]


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """One policy in one cell. Ratios are of TTFT p90, below 1: better; but ``throughput``."""

    policy: str
    seeds: int
    ttft_p50: Estimate
    ttft_p90: Estimate
    ttft_p99: Estimate
    inter_token_p50: Estimate
    e2e_p90: Estimate
    output_rate: Estimate
    goodput: Estimate
    cached: Estimate
    spread: Estimate
    failed: int
    unfinished: int
    to_best: Estimate
    to_baseline: Estimate | None
    """None: it was not played."""
    throughput: Estimate
    """Output tokens/s to those of the policy that made most."""
    is_worst: bool
    """None is slower, and the best one is far from it."""

    @property
    def is_near(self) -> bool:
        """The best, or as good as the best."""
        return self.to_best.value <= NEAR


def standings(cell: Mapping[str, BySeed], baseline: str) -> list[Standing]:
    """The policies of a cell, the best first, on the seeds that all of them have played."""
    seeds = sorted(set.intersection(*(set(by_seed) for by_seed in cell.values()))) if cell else []
    if not seeds:
        return []
    played = {policy: [by_seed[seed] for seed in seeds] for policy, by_seed in cell.items()}
    slowness = {policy: _mean_log(map(_p90, plays)) for policy, plays in played.items()}
    rates = {policy: _mean_log(map(_rate, plays)) for policy, plays in played.items()}
    order = sorted(played, key=slowness.__getitem__)
    best, fastest = played[order[0]], played[max(rates, key=rates.__getitem__)]
    found = []
    for policy in order:
        plays = played[policy]
        to_best = _ratio(_p90, plays, best)
        estimate = partial(_estimate, plays)
        found.append(
            Standing(
                policy=policy,
                seeds=len(seeds),
                ttft_p50=estimate(lambda one: one.ttft.p50),
                ttft_p90=estimate(_p90),
                ttft_p99=estimate(lambda one: one.ttft.p99),
                inter_token_p50=estimate(lambda one: one.inter_token.p50),
                e2e_p90=estimate(lambda one: one.e2e.p90),
                output_rate=estimate(_rate),
                goodput=estimate(lambda one: one.goodput),
                cached=estimate(lambda one: one.cached),
                spread=estimate(lambda one: one.spread),
                failed=sum(one.failed for one in plays),
                unfinished=sum(one.unfinished for one in plays),
                to_best=to_best,
                to_baseline=_ratio(_p90, plays, played[baseline]) if baseline in played else None,
                throughput=_ratio(_rate, plays, fastest),
                is_worst=policy == order[-1] and to_best.value > NEAR,
            )
        )
    return found


def _p90(one: Figures) -> float:
    return NEVER if math.isnan(one.ttft.p90) else one.ttft.p90


def _rate(one: Figures) -> float:
    return one.output_rate


def _mean_log(values: Iterable[float]) -> float:
    return statistics.fmean(math.log(_above_0(value)) for value in values)


def _estimate(plays: Sequence[Figures], read: Callable[[Figures], float]) -> Estimate:
    return Estimate.of([read(one) for one in plays])


def _ratio(read: Callable[[Figures], float], one: Sequence[Figures], other: Sequence[Figures]) -> Estimate:
    return Estimate.of_ratios([(read(a), read(b)) for a, b in zip(one, other, strict=True)])


# --- over cells ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Overall:
    """One policy in all cells."""

    policy: str
    cells: int
    best: int
    near: int
    """Cells where it is the best or as good as the best."""
    to_baseline: float | None
    """TTFT p90 to the baseline's, in the median cell; None: that was not played."""
    to_best: float
    """The same to the best one's, in the median cell, and ..."""
    farthest: float
    """... in its worst."""
    least_throughput: float
    """Output tokens/s to those of whoever made most, in its worst cell."""
    worst: int
    """Cells where it is the worst."""


def overall(cells: Iterable[Sequence[Standing]]) -> list[Overall]:
    """The policies over all cells; the one that is near the best in the most cells first."""
    by_policy: dict[str, list[Standing]] = {}
    best: dict[str, int] = {}
    for standing in cells:
        for each in standing:
            by_policy.setdefault(each.policy, []).append(each)
        if standing:
            best[standing[0].policy] = best.get(standing[0].policy, 0) + 1
    found = [_overall(policy, mine, best.get(policy, 0)) for policy, mine in by_policy.items()]
    return sorted(found, key=lambda one: (-one.near / one.cells, one.to_best))


def _overall(policy: str, mine: Sequence[Standing], best: int) -> Overall:
    to_baseline = [each.to_baseline.value for each in mine if each.to_baseline is not None]
    return Overall(
        policy=policy,
        cells=len(mine),
        best=best,
        near=sum(each.is_near for each in mine),
        to_baseline=statistics.median(to_baseline) if to_baseline else None,
        to_best=statistics.median(each.to_best.value for each in mine),
        farthest=max(each.to_best.value for each in mine),
        least_throughput=min(each.throughput.value for each in mine),
        worst=sum(each.is_worst for each in mine),
    )
