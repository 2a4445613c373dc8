"""Policies in cells: what a matrix asks for, played by as many processes as there are cores.

Place:   ``epp bench sim``; a cell is played by bench.sim.play and counted by bench.sim.statistics.
Rule:    chance depends on the cell and the number of the seed, never on the policy, on who plays it or when:
         in one cell with one seed all policies see the same clients. Seeds come one after the other, so that
         what is there when a run is broken off is of all cells.

A load is a share of the capacity: the most requests/s that any number of users gets answered, each with one
session after the other.
"""

import itertools
import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from multiprocessing import active_children, get_context
from pathlib import Path
from statistics import fmean
from typing import TypeVar

from bench.demo.interrupt import held_back
from bench.sim.faults import FAULTS
from bench.sim.fleet import FLEETS
from bench.sim.jobs import End
from bench.sim.play import Asked, Play, Setting
from bench.sim.policies import OURS, POLICIES, Policy
from bench.sim.readings import Readings
from bench.sim.statistics import Figures, Objective, figures
from bench.workloads.distributions import Lengths, Times
from bench.workloads.generate import Rate, generate, mean_turns
from bench.workloads.sessions import Session
from bench.workloads.spec import Arrivals, Bursts, Workload, find
from epp.config.decode import ConfigError, parse, read
from epp.core.scoring import Seconds
from epp.core.suggestions import suggestion

MATRICES = Path(__file__).with_name("matrices")

T = TypeVar("T")
R = TypeVar("R")


# --- what is asked for ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One situation."""

    workload: str
    fleet: str
    load: float
    """Of the capacity."""
    interval: float
    """Between two readings of a server [s]."""
    burst: int = 1
    """Sessions that begin at the same moment."""
    fault: str = "none"
    pickers: int = 1

    def __str__(self) -> str:
        parts = [self.workload, self.fleet, f"{self.load:.0%}", f"readings every {_seconds(self.interval)}"]
        parts += [f"bursts of {self.burst}"] if self.burst > 1 else []
        parts += [self.fault] if self.fault != "none" else []
        parts += [f"{self.pickers} pickers"] if self.pickers > 1 else []
        return ", ".join(parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Cells: each of these with each."""

    workloads: tuple[str, ...]
    """Of the catalogue, or files."""
    fleets: tuple[str, ...] = ("8xH100",)
    loads: tuple[float, ...] = (0.8,)
    readings: tuple[Seconds, ...] = (0.05,)
    bursts: tuple[int, ...] = (1,)
    faults: tuple[str, ...] = ("none",)
    pickers: tuple[int, ...] = (1,)

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if not getattr(self, name):
                raise ValueError(f"{name}: is empty: write at least one")
        _check_known("fleets", self.fleets, FLEETS)
        _check_known("faults", self.faults, FAULTS)
        for load in self.loads:
            if not 0 < load <= 10:
                raise ValueError(f"loads: {load:g} is not a share of the capacity: write 0.8 for 80 %")
        for interval in self.readings:
            if not interval > 0:
                raise ValueError(f"readings: {interval:g}s is not above 0")
        for name in ("bursts", "pickers"):
            if any(number < 1 for number in getattr(self, name)):
                raise ValueError(f"{name}: must be at least 1, got {min(getattr(self, name))}")

    @property
    def cells(self) -> Iterator[Cell]:
        for workload, fleet, load, interval, burst, fault, pickers in itertools.product(
            *(self.workloads, self.fleets, self.loads, self.readings, self.bursts, self.faults, self.pickers)
        ):
            yield Cell(
                workload=workload,
                fleet=fleet,
                load=load,
                interval=interval,
                burst=burst,
                fault=fault,
                pickers=pickers,
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How a play is made, whatever the cell."""

    warm_up: int
    counted: int
    pauses: float
    delay: float
    loss: float
    objective: Objective


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """The capacity of a fleet for a workload, found before with the same pauses."""

    workload: str
    fleet: str
    requests_per_second: float

    def __post_init__(self) -> None:
        _check_known("fleet", (self.fleet,), FLEETS)
        if not self.requests_per_second > 0:
            raise ValueError(f"requestsPerSecond: {self.requests_per_second:g} is not above 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Matrix:
    """One file."""

    about: str = ""
    cells: tuple[Group, ...]
    capacities: tuple[Known, ...] = ()
    """Those that need not be found; ``--capacities`` finds them."""
    policies: tuple[str, ...] = ()
    """None: all."""
    seeds: int = 10
    warm_up: int = 800
    """Requests that are not counted, before ..."""
    requests: int = 1200
    """... those that are."""
    pauses: float = 1.0
    """What is left of the pauses between two turns: with shorter ones sessions end within a play, and caches
    hold them."""
    delay: Seconds = 0.002
    """Of a reading, from the server to the picker."""
    loss: float = 0.0
    """The share of readings that do not arrive."""
    objective: Objective = field(default_factory=Objective)

    def __post_init__(self) -> None:
        if not self.cells:
            raise ValueError("cells: is empty: write at least one group")
        if self.seeds < 1:
            raise ValueError(f"seeds: must be at least 1, got {self.seeds}")
        if self.warm_up < 0:
            raise ValueError(f"warmUp: must be at least 0, got {self.warm_up}")
        most = max(burst for group in self.cells for burst in group.bursts)
        if self.requests <= most:
            raise ValueError(f"requests: must be more than come at once ({most}), got {self.requests}")
        if not 0 <= self.pauses <= 10:
            raise ValueError(f"pauses: must be from 0 to 10, got {self.pauses:g}")
        Readings(delay=self.delay, loss=self.loss)

    @property
    def sizes(self) -> Sizes:
        return Sizes(
            warm_up=self.warm_up,
            counted=self.requests,
            pauses=self.pauses,
            delay=self.delay,
            loss=self.loss,
            objective=self.objective,
        )


def find_matrix(name: str) -> Matrix:
    """One of those that come with the bench, or a file. Raises ConfigError."""
    known = {path.stem: path for path in MATRICES.glob("*.yaml")}
    is_file = name.endswith((".yaml", ".yml")) or "/" in name
    if not is_file and name not in known:
        remedy = (
            suggestion(name, known) or f", known are {', '.join(sorted(known))}, or write the path of a file"
        )
        raise ConfigError(f'--matrix: "{name}" is unknown{remedy}')
    path = Path(name) if is_file else known[name]
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is not UTF-8 text") from None
    return read(parse(text, str(path) if is_file else path.name), Matrix)


def cells_of(matrix: Matrix) -> list[Cell]:
    """Each once, in the order of the file."""
    return list(dict.fromkeys(cell for group in matrix.cells for cell in group.cells))


def _check_known(field_name: str, given: Iterable[str], known: Mapping[str, object]) -> None:
    for name in given:
        if name not in known:
            remedy = suggestion(name, known) or f", known are {', '.join(known)}"
            raise ValueError(f'{field_name}: "{name}" is unknown{remedy}')


def _seconds(value: float) -> str:
    return f"{value:g} s" if value >= 1 else f"{value * 1e3:g} ms"


# --- one play ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One policy in one cell with one seed."""

    cell: Cell
    policy: Policy
    seed: int
    rate: float
    """Requests a second; of a closed loop it says nothing."""
    sizes: Sizes


def play(task: Task) -> Figures:
    """In any process, at any time: the same."""
    cell, sizes = task.cell, task.sizes
    workload = workload_of(cell.workload, cell.fleet, sizes.pauses)
    if cell.burst > 1:
        workload = replace(workload, arrivals=Arrivals(bursts=Bursts(sessions=cell.burst)))
    setting = Setting(
        machines=FLEETS[cell.fleet].machines,
        sessions=partial(_sessions, workload, task.rate, f"{cell.workload} {cell.burst} {task.seed}"),
        warm_up=sizes.warm_up,
        counted=sizes.counted,
        readings=Readings(interval=cell.interval, delay=sizes.delay, loss=sizes.loss),
        pickers=cell.pickers,
        clients=workload.arrivals.users,
        fault=FAULTS[cell.fault],
        seed=f"{cell} {task.seed}",
    )
    made = Play(setting, task.policy.config, task.policy.name)
    made.run()
    return figures(made, sizes.objective)


def _sessions(workload: Workload, rate: float, seed: str) -> Iterator[Session]:
    wanted = None if workload.arrivals.users is not None else Rate(rate)
    return generate(workload, random.Random(seed), rate=wanted)


@lru_cache(maxsize=64)
def workload_of(name: str, fleet: str, pauses: float) -> Workload:
    """What is asked of this fleet: conversations that every server of it has room for."""
    workload = find(name)
    if workload.sessions is None:
        return workload
    room = FLEETS[fleet].context_tokens
    kinds = tuple(
        replace(
            kind,
            think=_shortened(kind.think, pauses),
            output_tokens=_bounded(kind.output_tokens, room // 2),
        )
        for kind in workload.sessions
    )
    most = min(room, workload.max_context_tokens or room)
    return replace(workload, sessions=kinds, max_context_tokens=most)


def _shortened(think: float | Times, pauses: float) -> float | Times:
    if not isinstance(think, Times):
        return think * pauses
    return replace(
        think,
        mean=think.mean * pauses,
        sd=None if think.sd is None else think.sd * pauses,
        min=think.min * pauses,
        max=think.max * pauses,
    )


def _bounded(tokens: int | Lengths, most: int) -> int | Lengths:
    if isinstance(tokens, int):
        return min(tokens, most)
    return tokens if tokens.max <= most else replace(tokens, max=most, mean=min(tokens.mean, most))


# --- capacity ------------------------------------------------------------------------------------

REFERENCES = (OURS, "sticky-until-saturated", "least-request")
"""Policies that find it out, whichever gets more: one for each kind of fleet and workload."""
USERS = 4
"""For each server to begin with: as many as a Mac has slots."""
MORE = 1.05
"""Twice as many users have to get so much more."""
MOST_USERS = 4096
"""For each server: more than any can hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Whose capacity is wanted, for what."""

    workload: str
    fleet: str
    sizes: Sizes


def capacity(asked: Wanted) -> float:
    """The most requests/s that any number of users gets answered, each with one session after the other.

    Found by doubling their number, with one seed. Infinite for a workload that has users itself.
    """
    workload = workload_of(asked.workload, asked.fleet, asked.sizes.pauses)
    if workload.arrivals.users is not None:
        return math.inf
    turns = mean_turns(workload) if workload.sessions is not None else 1.0
    servers = len(FLEETS[asked.fleet].hardware)
    users, ramp = USERS * servers, 0.0
    rate = _rate_with(asked, users, turns, ramp)
    while users < MOST_USERS * servers:
        ramp = users * turns / rate
        users *= 2
        more = _rate_with(asked, users, turns, ramp)
        if more < rate * MORE:
            return max(rate, more)
        rate = more
    return rate


def _rate_with(asked: Wanted, users: int, turns: float, ramp: float) -> float:
    """Requests/s, counted over as many as there are in two sessions of each user, after those of one.

    They are average ones: where long prompts are left behind, short ones do not count for them.
    ``ramp``: about as long as a session [s].
    """
    workload = workload_of(asked.workload, asked.fleet, asked.sizes.pauses)
    requests = max(round(users * turns), asked.sizes.warm_up)

    def rate(policy: Policy) -> float:
        setting = Setting(
            machines=FLEETS[asked.fleet].machines,
            sessions=partial(_sessions, workload, 1.0, "capacity"),
            warm_up=requests,
            counted=2 * requests,
            readings=Readings(interval=1.0),  # younger ones would take most of the time
            clients=users,
            ramp=ramp,
            seed="capacity",
            ends_with_window=True,
        )
        made = Play(setting, policy.config, policy.name)
        made.run()
        if made.began is None or made.until is None or made.until == made.began:
            raise ConfigError(f"{asked.workload}: ended after {len(made.asked)} requests, within the warm-up")
        return _average_ones(made.asked, made.began, made.until) / (made.until - made.began)

    return max(rate(POLICIES[name]) for name in REFERENCES)


def _average_ones(asked: Sequence[Asked], began: float, until: float) -> float:
    """How many were answered within, each for as much as it is of an average one: by prompt tokens, or by
    output tokens where that is less."""
    ended = [each for each in asked if each.end is End.DONE and began <= (each.ended_at or 0.0) <= until]
    prompts = sum(each.prompt_tokens for each in ended) / fmean(each.prompt_tokens for each in asked)
    outputs = sum(each.output_tokens for each in ended) / fmean(each.output_tokens for each in asked)
    return min(prompts, outputs)


# --- in parallel ---------------------------------------------------------------------------------


def spread(work: Callable[[T], R], asked: Sequence[T], jobs: int) -> Iterator[tuple[T, R]]:
    """Each with what it came to, as they are done. Whoever stops listening stops the work."""
    if jobs == 1:
        for one in asked:
            yield one, work(one)
        return
    executor = ProcessPoolExecutor(min(jobs, len(asked) or 1), mp_context=get_context("spawn"))
    try:
        with held_back():  # an interrupt is ours alone
            futures: dict[Future[R], T] = {executor.submit(work, one): one for one in asked}
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BaseException:
        for child in active_children():
            child.terminate()
        raise
    finally:
        executor.shutdown(cancel_futures=True)
