"""What a pick costs over few and over very many endpoints: the pick alone, and a request through Envoy; by
predicted cost with short and with long prompts.

    python -m bench.picks [--quick] [--out DIR] [--into PAGE]

Place:   a part of `make bench`. In this process it is the scheduler with the default profile; through Envoy
         it is the real picker, which looks at all of its endpoints meanwhile.
Ignores: other pickers and other drivers (bench.overhead does that).
Rule:    fleets take turns, the others' pickers paused; the medians of neighbours are compared. Whoever looks
         at a server brings news, and news make a pick dear, so that picks after news are measured, too.
"""

import asyncio
import contextlib
import itertools
import random
import statistics
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bench import part
from bench.bodies import bodies
from bench.findings import Load, Round
from bench.goals import MANY, PAGE_KB, PICK_COST, PICK_MORE, SOME, Bound, pick_bound, pick_cost_bound
from bench.load import Call
from bench.measure import one_round
from bench.replay import load_of, scheduled
from bench.report import Table, kept
from bench.rig.process import RigError
from bench.stations import Engines, Kind, Station, contenders, paused, station
from epp.core.apis import parse
from epp.core.fleet import Reservation
from epp.core.request import Api, Request
from epp.core.scheduling import Decision

FLEETS = (SOME, *PICK_MORE)
LOAD = Load(1, 20)
PREDICTED_COST = """\
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
- type: lifecycle-filter
- type: lifecycle-scorer
- type: predicted-cost-scorer
- type: max-score-picker
schedulingProfiles:
- name: default
  plugins:
  - {pluginRef: lifecycle-filter}
  - {pluginRef: lifecycle-scorer, weight: 4}
  - {pluginRef: predicted-cost-scorer, weight: 1}
  - {pluginRef: max-score-picker}
"""
PICKS_A_SECOND = 1_000
"""By the clock of picks by predicted cost, which counts them: work passes between two."""
ALONE, AFTER_NEWS, THROUGH = "the pick alone", "the pick after news", "a request through Envoy"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much is measured. Times in seconds."""

    picks: int = 400
    repetitions: int = 15
    rounds: int = 5
    seconds: float = 1.0
    warm_seconds: float = 2.5
    """A picker that has just started is slower; one with a thousand endpoints has a thousand to look at."""


FULL = Plan()
QUICK = Plan(repetitions=5, rounds=2, seconds=0.6, warm_seconds=1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class PickCost:
    """CPU of one pick in this process [µs]."""

    endpoints: int
    after_news: bool
    cpu_us: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptCost:
    """CPU of one pick by predicted cost over ``MANY`` endpoints in this process [µs]."""

    body_kb: int
    after_news: bool
    cpu_us: float


@dataclass(frozen=True, slots=True)
class Found:
    """All of a run."""

    picks: Sequence[PickCost]
    rounds: Sequence[Round]
    prompts: Sequence[PromptCost] = ()


# --- in this process -------------------------------------------------------------------------------


def in_process(endpoints: int, plan: Plan, *, after_news: bool) -> PickCost:
    """The best of many times. ``after_news``: some server has answered a look since the pick before."""
    asked = [_request(call) for call in itertools.islice(_calls(), plan.picks)]
    spent = [_said(asked, endpoints, after_news=after_news) for _ in range(plan.repetitions)]
    return PickCost(endpoints=endpoints, after_news=after_news, cpu_us=min(spent) / plan.picks * 1e6)


def _said(asked: Sequence[Request], endpoints: int, *, after_news: bool) -> float:
    """CPU seconds of as many picks, on a fleet of their own."""
    made = scheduled(endpoints)
    spent = 0.0
    for number, request in enumerate(asked):
        if after_news:
            made.fleet.reading(made.members.endpoints[number % endpoints], load_of(number), 0.0)
        began = time.thread_time()
        decision = made.scheduler.pick(request, 0.0)
        spent += time.thread_time() - began
        assert isinstance(decision, Decision), decision
        decision.reservation.release()
    return spent


def by_cost(body_kb: int, plan: Plan, *, after_news: bool) -> PromptCost:
    """The same by predicted cost: with requests under way and a clock, as both are a part of it."""
    asked = [_request(call) for call in itertools.islice(_calls(body_kb), plan.picks)]
    spent = [_said_by_cost(asked, after_news=after_news) for _ in range(plan.repetitions)]
    return PromptCost(body_kb=body_kb, after_news=after_news, cpu_us=min(spent) / plan.picks * 1e6)


def _said_by_cost(asked: Sequence[Request], *, after_news: bool) -> float:
    made, under_way = scheduled(MANY, PREDICTED_COST), deque[Reservation]()
    spent = 0.0
    for number, request in enumerate(asked):
        now = number / PICKS_A_SECOND
        if after_news:
            made.fleet.reading(made.members.endpoints[number % MANY], load_of(number), now)
        began = time.thread_time()
        decision = made.scheduler.pick(request, now)
        spent += time.thread_time() - began
        assert isinstance(decision, Decision), decision
        under_way.append(decision.reservation)
        if len(under_way) > 2 * MANY:
            under_way[MANY].prefilled(now)
            under_way.popleft().release(now, 100)
    return spent


def _calls(body_kb: int = LOAD.body_kb) -> Iterator[Call]:
    return bodies(body_kb * 1024, streaming=False, rng=random.Random(body_kb))


def _request(call: Call) -> Request:
    body = b"".join(call.parts)
    api = Api.CHAT_COMPLETIONS
    payload = parse(api, body)
    return Request(
        api=api,
        payload=payload,
        target_model=payload.model,
        body_bytes=len(body),
        shows_first_token=True,
    )


# --- through Envoy ---------------------------------------------------------------------------------


def through_envoy(plan: Plan, logs: Path) -> list[Round]:
    """Rounds of each fleet in turn, each picker behind an Envoy of its own."""
    ours = next(one for one in contenders() if one.kind is Kind.OURS)
    with Engines(logs, max(FLEETS), page_kb=PAGE_KB, chunks=1, chunk_seconds=0.0) as engines:
        stations = [station(ours, endpoints, engines, logs) for endpoints in FLEETS]
        with contextlib.ExitStack() as running:
            for here in stations:
                running.enter_context(here.envoy)
                running.enter_context(here.picker)
            calls = _calls()
            for here in stations:
                _round(here, stations, calls, plan.warm_seconds)
            return [
                _round(here, stations, calls, plan.seconds)
                for _, here in itertools.product(range(plan.rounds), stations)
            ]


def _round(here: Station, stations: Sequence[Station], calls: Iterator[Call], seconds: float) -> Round:
    with paused(*(one.picker for one in stations if one is not here)):
        one = asyncio.run(one_round(here, LOAD, calls, seconds, 0.2))
    _progress(f"{here.endpoints:,} endpoints: {one.picker_cpu_us:.0f} µs a request")
    if one.failures:
        raise RigError(f"{here.endpoints:,} endpoints: {dict(one.failures_by_kind)}")
    return one


# --- what follows ----------------------------------------------------------------------------------


def cost(found: Found, endpoints: int, *, after_news: bool) -> float | None:
    """Of a pick alone [µs]."""
    mine = (one for one in found.picks if (one.endpoints, one.after_news) == (endpoints, after_news))
    return next((one.cpu_us for one in mine), None)


def more(found: Found, endpoints: int, where: str) -> float | None:
    """What so many endpoints add to what ``SOME`` cost [µs]."""
    if where == THROUGH:
        few, many = (
            [one.picker_cpu_us or 0.0 for one in found.rounds if one.endpoints == n]
            for n in (SOME, endpoints)
        )
        neighbours = [after - before for before, after in zip(few, many, strict=True)]
        return statistics.median(neighbours) if neighbours else None
    few_cost, many_cost = (cost(found, n, after_news=where == AFTER_NEWS) for n in (SOME, endpoints))
    return None if few_cost is None or many_cost is None else many_cost - few_cost


def slowest(found: Found, body_kb: int) -> float | None:
    """Of picks by predicted cost with such prompts, after news or not [µs]."""
    return max((one.cpu_us for one in found.prompts if one.body_kb == body_kb), default=None)


def bounds(found: Found) -> list[tuple[Bound, float | None]]:
    """Every promise, and what was found."""
    added = [
        (pick_bound(endpoints, where), more(found, endpoints, where))
        for where in (ALONE, AFTER_NEWS, THROUGH)
        for endpoints in PICK_MORE
    ]
    return added + [(pick_cost_bound(body_kb), slowest(found, body_kb)) for body_kb in PICK_COST]


def tables(found: Found) -> list[Table]:
    rows = []
    for endpoints in FLEETS:
        mine = [one for one in found.rounds if one.endpoints == endpoints]
        costs = [cost(found, endpoints, after_news=after_news) for after_news in (False, True)]
        costs.append(statistics.median(one.picker_cpu_us or 0.0 for one in mine) if mine else None)
        rate = statistics.median(one.requests_per_second for one in mine) if mine else None
        cells = ["n/a" if each is None else f"{each:,.1f}" for each in costs]
        rows.append([f"{endpoints:,}", *cells, "n/a" if rate is None else f"{rate:,.0f}"])
    columns = ["endpoints", *(f"{where}: CPU µs" for where in (ALONE, AFTER_NEWS, THROUGH)), "requests/s"]
    return [kept(bounds(found)), Table("Picks", columns, rows), _by_cost_table(found)]


def _by_cost_table(found: Found) -> Table:
    rows = []
    for body_kb in PICK_COST:
        costs = {one.after_news: f"{one.cpu_us:,.1f}" for one in found.prompts if one.body_kb == body_kb}
        rows.append([f"{body_kb} KB", *(costs.get(after_news, "n/a") for after_news in (False, True))])
    columns = ["prompt", *(f"{where}: CPU µs" for where in (ALONE, AFTER_NEWS))]
    return Table(f"Picks by predicted cost over {MANY} endpoints", columns, rows)


def _progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def run(plan: Plan) -> Found:
    """Measure; RigError when a part does not start or a request fails."""
    picks = []
    for endpoints, after_news in itertools.product(FLEETS, (False, True)):
        picks.append(in_process(endpoints, plan, after_news=after_news))
        _progress(f"{endpoints:,} endpoints{', news' * after_news}: {picks[-1].cpu_us:.1f} µs a pick")
    prompts = []
    for body_kb, after_news in itertools.product(PICK_COST, (False, True)):
        prompts.append(by_cost(body_kb, plan, after_news=after_news))
        _progress(f"{body_kb} KB, predicted cost{', news' * after_news}: {prompts[-1].cpu_us:.1f} µs a pick")
    with tempfile.TemporaryDirectory(prefix="fleet-epp-picks-") as folder:
        return Found(picks, through_envoy(plan, Path(folder)), prompts)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = part.parser("picks", __doc__)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds: 15 s instead of 45")
    options = parser.parse_args(arguments)
    this = part.Part("picks", options, " --quick" * options.quick)
    try:
        found = run(QUICK if options.quick else FULL)
        this.publish(tables(found), asdict(found))
    except (RigError, OSError, ValueError) as problem:
        parser.exit(1, f"bench.picks: {problem}\n")


if __name__ == "__main__":
    main()
