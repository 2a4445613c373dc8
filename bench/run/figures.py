"""A run in figures: those of a simulated play, and what only real requests have.

Place:   after bench.run.play; bench.run.report shows it. Figures and intervals are bench.sim.statistics'.
Ignores: how anything was sent.
Rule:    a run has parts, which stand in the place of a simulation's seeds: turns of two servers, or slices of
         the time. Times count from the moment at which a request was due. An answer without text in a
         stream has its first token at its end.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from bench.run.play import Request, Stretch
from bench.sim.jobs import End
from bench.sim.play import Asked
from bench.sim.statistics import Figures, Objective, Times, counted_figures

NOBODY = "not said"
"""Which server answered."""
LATE_SHARE, LATE_SECONDS = 0.05, 0.005
"""Of the median first token, and at least: beyond, the bench's own lateness makes its figures doubtful."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Requests that were due in one stretch of time, counted from its warm-up on."""

    stretch: Stretch
    begin: float
    end: float


def slices(stretch: Stretch, count: int, warm_up: float) -> list[Part]:
    """The time from the warm-up to the end, or to where it was broken off, in equal parts."""
    begin = stretch.began + warm_up
    step = (min(stretch.end, stretch.ended) - begin) / count
    if step <= 0:
        return []
    return [
        Part(stretch=stretch, begin=begin + number * step, end=begin + (number + 1) * step)
        for number in range(count)
    ]


def whole(parts: Sequence[Part], objective: Objective, names: Sequence[str]) -> Figures | None:
    """Of all parts of one server together, as if nothing had been between them; None: nothing was counted."""
    asked: list[Asked] = []
    passed = stopped = 0.0
    for stretch in dict.fromkeys(part.stretch for part in parts):
        mine = [part for part in parts if part.stretch is stretch]
        begin, end = mine[0].begin, mine[-1].end
        asked += [_moved(one, passed - begin) for one in _asked(stretch, begin, end, names)]
        stopped = max(stopped, passed + stretch.ended - begin)
        passed += end - begin
    return _figures(asked, (0.0, passed), stopped, objective, names)


def of_part(part: Part, objective: Objective, names: Sequence[str]) -> Figures | None:
    """None: nothing was counted."""
    asked = _asked(part.stretch, part.begin, part.end, names)
    return _figures(asked, (part.begin, part.end), part.stretch.ended, objective, names)


def servers(requests: Iterable[Request]) -> list[str]:
    """Who answered, by the names that they gave."""
    return sorted({one.sample.served_by or NOBODY for one in requests if one.is_good})


def _figures(
    asked: Sequence[Asked],
    window: tuple[float, float],
    stopped: float,
    objective: Objective,
    names: Sequence[str],
) -> Figures | None:
    if not any(one.is_counted for one in asked):
        return None
    found = counted_figures(asked, window=window, stopped=stopped, machines=len(names), objective=objective)
    told = any(one.cached_tokens is not None for one in asked)
    return found if told else replace(found, cached=math.nan)


def _asked(stretch: Stretch, begin: float, end: float, names: Sequence[str]) -> list[Asked]:
    """As bench.sim.statistics counts them."""
    return [_one(request, begin <= request.sample.due < end, names) for request in stretch.requests]


def _one(request: Request, is_counted: bool, names: Sequence[str]) -> Asked:
    sample, usage = request.sample, request.answer.usage
    good = request.is_good
    first = sample.first_token
    if good and first is None:
        first = sample.ended
    machine = sample.served_by or NOBODY
    return Asked(
        is_counted=is_counted,
        sent_at=sample.due,
        prompt_tokens=request.prompt_tokens if usage.prompt_tokens is None else usage.prompt_tokens,
        output_tokens=request.answer.tokens,
        machine=names.index(machine) if good else None,
        cached_tokens=usage.cached_tokens,
        first_at=first,
        ended_at=sample.ended if request.is_over else None,
        end=(End.DONE if good else End.FAILED) if request.is_over else None,
    )


def _moved(asked: Asked, by: float) -> Asked:
    asked.sent_at += by
    if asked.first_at is not None:
        asked.first_at += by
    if asked.ended_at is not None:
        asked.ended_at += by
    return asked


# --- what a simulation has not ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Here:
    """What one server of several behind a URL did."""

    name: str
    requests: int
    share: float
    ttft: Times
    output_tokens: int
    cached: float
    """The share of prompt tokens; nan: it does not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Details:
    """Of the counted requests of one URL. Times [s]."""

    gaps: Times
    """Between two pieces of text in one stream, as they came; those of one read have none."""
    late: Times
    """From the moment at which a request was due until it was handed to a connection: the bench's fault."""
    latest: float
    connecting: Times
    """From there until it was written: new connections, part of the time to the first token."""
    failures: dict[str, int]
    statuses: dict[str, int]
    without_text: int
    """Good answers that were no stream, or a stream without text."""
    servers: list[Here]


def details(parts: Sequence[Part]) -> Details:
    counted = _counted(parts)
    good = [one for one in counted if one.is_good]
    lates = [one.late for one in counted]
    return Details(
        gaps=Times.of(b - a for one in good for a, b in pairwise(one.answer.times) if b > a),
        late=Times.of(lates),
        latest=max(lates, default=math.nan),
        connecting=Times.of(
            one.sample.sent - one.sample.due - one.late for one in counted if one.sample.sent is not None
        ),
        failures=dict(Counter(one.sample.error for one in counted if one.sample.error).most_common()),
        statuses=dict(Counter(str(one.sample.status) for one in counted if one.sample.status).most_common()),
        without_text=sum(not one.answer.times for one in good),
        servers=[_here(name, good) for name in servers(counted)],
    )


def _here(name: str, good: Sequence[Request]) -> Here:
    mine = [one for one in good if (one.sample.served_by or NOBODY) == name]
    told = [one.answer.usage for one in mine if one.answer.usage.cached_tokens is not None]
    prompts = sum(usage.prompt_tokens or 0 for usage in told)
    return Here(
        name=name,
        requests=len(mine),
        share=len(mine) / len(good),
        ttft=Times.of(one.sample.ttft for one in mine if one.sample.ttft is not None),
        output_tokens=sum(one.answer.tokens for one in mine),
        cached=sum(usage.cached_tokens or 0 for usage in told) / prompts if prompts else math.nan,
    )


def _counted(parts: Sequence[Part]) -> list[Request]:
    return [one for part in parts for one in part.stretch.requests if part.begin <= one.sample.due < part.end]


def is_late(found: Details, figures: Figures) -> bool:
    """The bench itself was so late that the figures say something of it."""
    return found.late.p99 > max(LATE_SHARE * figures.ttft.p50, LATE_SECONDS)


def as_rows(stretch: Stretch) -> list[dict[str, object]]:
    """Every request, for JSON [s]: when it was due, from the begin; all others from that moment."""
    rows: list[dict[str, object]] = []
    for one in stretch.requests:
        sample, usage = one.sample, one.answer.usage
        ended = sample.ended if one.is_over else stretch.ended
        rows.append(
            {
                "session": one.session,
                "turn": one.turn,
                "due": round(sample.due - stretch.began, 6),
                "late": round(one.late, 6),
                "ttft": None if sample.ttft is None else round(sample.ttft, 6),
                "e2e": round(ended - sample.due, 6),
                "prompt_tokens": one.prompt_tokens if usage.prompt_tokens is None else usage.prompt_tokens,
                "cached_tokens": usage.cached_tokens,
                "output_tokens": one.answer.tokens,
                "status": sample.status,
                "server": sample.served_by,
                "error": sample.error if one.is_over else "unfinished",
            }
        )
    return rows
