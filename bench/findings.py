"""What a run of bench.overhead found, and what follows from it.

Place:   bench.overhead fills a Report; bench.goals judges it, bench.report shows it.
Ignores: how anything was measured, and how it is shown.
Rule:    a figure that was not measured is None, never 0. Contenders take turns, so what belongs together
         is compared round by round, and the median counts.
"""

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from bench.load import Percentiles

NO_PICKER = "no picker"
OURS = "fleet-epp"
ECHO = "echo"
BARE = "bare echo"


def on(name: str, server: str | None) -> str:
    """A contender's name where it runs on one of several drivers."""
    return f"{name} {server}" if server else name


def is_ours(contender: str) -> bool:
    """Whether it is this project's picker, on whichever driver."""
    return contender == OURS or contender.startswith(OURS + " ")


def echo_of(contender: str) -> str:
    """The echo on the same driver."""
    return ECHO + contender.removeprefix(OURS)


# --- what was measured ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, order=True)
class Load:
    """One kind of load: so many clients in a closed loop, or so many requests a second."""

    body_kb: int
    concurrency: int = 0
    rate: int = 0

    def __str__(self) -> str:
        if self.rate:
            return f"{self.body_kb} KB, {self.rate}/s"
        return f"{self.body_kb} KB, {self.concurrency} client{'s' * (self.concurrency > 1)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One contender under one load, once. CPU is per request [µs]; None: no picker."""

    contender: str
    load: Load
    endpoints: int
    requests: int
    failures: int
    failures_by_kind: Mapping[str, int]
    requests_per_second: float
    latency: Percentiles | None
    picker_cpu_us: float | None
    envoy_cpu_us: float
    picker_rss_bytes: int | None
    """The most that was resident during the load."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Streaming:
    """One contender while many answers stream through it, once."""

    contender: str
    aimed: int
    """Chunks a second that the servers sent."""
    streams: int
    seconds: float
    chunks: int
    """As the clients received them, in that time."""
    failures: int
    failures_by_kind: Mapping[str, int]
    cores: Mapping[str, float]
    """CPU seconds a second by process: picker (where there is one), Envoy, servers, load."""

    @property
    def chunks_per_second(self) -> float:
        return self.chunks / self.seconds

    def cpu_us(self, process: str) -> float | None:
        """A process's CPU for each chunk."""
        cores = self.cores.get(process)
        return None if cores is None or not self.chunks else cores * self.seconds / self.chunks * 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class AtRest:
    """A picker without requests."""

    contender: str
    endpoints: int
    page_kb: int
    """Size of the servers' metrics pages."""
    after_load: bool
    seconds: float
    cores: float
    rss_bytes: int


@dataclass(frozen=True, slots=True)
class Start:
    """From the start of the process, in seconds; ``serving``: gRPC health, None when it never said so."""

    contender: str
    first_answer: float
    serving: float | None


@dataclass(slots=True)
class Report:
    """All measurements of a run."""

    command: str
    date: str
    machine: Mapping[str, str]
    contenders: Sequence[str]
    rounds: list[Round] = field(default_factory=list)
    fleet_rounds: list[Round] = field(default_factory=list)
    """The same load over few and over many endpoints, in turn."""
    streaming: list[Streaming] = field(default_factory=list)
    at_rest: list[AtRest] = field(default_factory=list)
    starts: list[Start] = field(default_factory=list)

    @property
    def ours(self) -> Sequence[str]:
        """This project's picker, once for each driver; the goals are the first one's."""
        return [one for one in self.contenders if is_ours(one)]


# --- what follows --------------------------------------------------------------------------------


def merge(rounds: Sequence[Round]) -> Round:
    """Medians of repeated rounds; failures added up."""
    kinds: Counter[str] = Counter()
    for one in rounds:
        kinds.update(one.failures_by_kind)
    first = rounds[0]
    latencies = [one.latency for one in rounds if one.latency is not None]
    picker = [one.picker_cpu_us for one in rounds if one.picker_cpu_us is not None]
    return Round(
        contender=first.contender,
        load=first.load,
        endpoints=first.endpoints,
        requests=sum(one.requests for one in rounds),
        failures=sum(one.failures for one in rounds),
        failures_by_kind=kinds,
        requests_per_second=statistics.median(one.requests_per_second for one in rounds),
        latency=_median_latency(latencies) if latencies else None,
        picker_cpu_us=statistics.median(picker) if picker else None,
        envoy_cpu_us=statistics.median(one.envoy_cpu_us for one in rounds),
        picker_rss_bytes=max(
            (one.picker_rss_bytes for one in rounds if one.picker_rss_bytes is not None), default=None
        ),
    )


def _median_latency(latencies: Sequence[Percentiles]) -> Percentiles:
    return Percentiles(
        statistics.median(one.p50 for one in latencies),
        statistics.median(one.p95 for one in latencies),
        statistics.median(one.p99 for one in latencies),
    )


Key = tuple[str, Load, int]
Rows = Mapping[Key, Round]


def medians(rounds: Iterable[Round]) -> Rows:
    """Merged rounds by contender, load and number of endpoints, in the order of first appearance."""
    groups: dict[Key, list[Round]] = {}
    for one in rounds:
        groups.setdefault((one.contender, one.load, one.endpoints), []).append(one)
    return {key: merge(group) for key, group in groups.items()}


def unit(row: Round, rows: Rows) -> float | None:
    """Picker CPU over Envoy's CPU without a picker, for the same load: it travels between machines."""
    base = rows.get((NO_PICKER, row.load, row.endpoints))
    if base is None or row.picker_cpu_us is None or not base.envoy_cpu_us:
        return None
    return row.picker_cpu_us / base.envoy_cpu_us


def streamed(report: Report, contender: str, aimed: int) -> Streaming | None:
    """All rounds of one contender at one rate, as if they had been one."""
    mine = [one for one in report.streaming if (one.contender, one.aimed) == (contender, aimed)]
    if not mine:
        return None
    kinds: Counter[str] = Counter()
    for one in mine:
        kinds.update(one.failures_by_kind)
    seconds = sum(one.seconds for one in mine)
    return Streaming(
        contender=contender,
        aimed=aimed,
        streams=mine[0].streams,
        seconds=seconds,
        chunks=sum(one.chunks for one in mine),
        failures=sum(one.failures for one in mine),
        failures_by_kind=kinds,
        cores={name: sum(one.cores[name] * one.seconds for one in mine) / seconds for name in mine[0].cores},
    )


Pair = tuple[Round, Round]


def fleet_pairs(report: Report, contender: str, load: Load) -> list[Pair]:
    """Neighbouring rounds with the fewest and with the most endpoints."""
    mine = [one for one in report.fleet_rounds if (one.contender, one.load) == (contender, load)]
    few = min((one.endpoints for one in mine), default=0)
    many = max((one.endpoints for one in mine), default=0)
    if few == many:
        return []
    return list(
        zip(
            (one for one in mine if one.endpoints == few),
            (one for one in mine if one.endpoints == many),
            strict=True,
        )
    )


def throughput_ratio(pairs: Sequence[Pair]) -> float | None:
    """Requests a second with many endpoints over those with few.

    The median over neighbours, so that a machine that slows down during the run does so for both.
    """
    ratios = [
        many.requests_per_second / few.requests_per_second for few, many in pairs if few.requests_per_second
    ]
    return statistics.median(ratios) if ratios else None


def cpu_difference(pairs: Sequence[Pair]) -> float | None:
    """What a request costs more with many endpoints than with few [µs]."""
    more = [
        many.picker_cpu_us - few.picker_cpu_us
        for few, many in pairs
        if many.picker_cpu_us is not None and few.picker_cpu_us is not None
    ]
    return statistics.median(more) if more else None
