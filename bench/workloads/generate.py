"""Sessions of a workload, one after the other as they are asked for.

Place:   bench.sim plays them, ``epp bench run`` sends them.
Ignores: what becomes of them. In a closed loop (``arrivals.users``) every session says ``at`` 0, without end,
         and whoever plays them takes the next one when one has ended.
Rule:    the same workload, rate and chance give the same sessions, ordered by ``at``. What is asked does not
         depend on the rate: two loads of one seed ask the same, only faster.
Source:  shared texts are dealt as inference-perf does it: all of them in a shuffled order, then again.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from random import Random
from statistics import fmean
from typing import Literal

from bench.workloads import mooncake, traces
from bench.workloads.arrivals import mean_rate, moments
from bench.workloads.distributions import seconds as times
from bench.workloads.distributions import whole
from bench.workloads.sessions import Piece, Session, Turn
from bench.workloads.spec import Beginning, Kind, Trace, Workload
from epp.config.decode import ConfigError

OWN = 1 << 62
"""Names of texts that only one session has begin here; shared ones are counted from 0."""
_SAMPLED = 4_000
"""Sessions by which the mean number of turns is measured: within 1 % where the deviation is 0.6 of it."""


@dataclass(frozen=True, slots=True)
class Rate:
    """How much is asked."""

    per_second: float
    of: Literal["requests", "sessions"] = "requests"

    def __post_init__(self) -> None:
        if not self.per_second > 0:
            raise ConfigError(f"rate {self.per_second:g}: must be above 0 {self.of} a second")


def generate(
    workload: Workload, chance: Random, *, rate: Rate | None = None, seconds: float | None = None
) -> Iterator[Session]:
    """Sessions that begin within ``seconds``; None: what the workload says, which may be without end.

    ``rate`` None: the workload's. A trace is replayed as recorded, or faster or slower by ``rate``. Raises
    ConfigError, at once where no rate is known and on the way where a trace is broken.
    """
    end = seconds if seconds is not None else workload.duration
    contents, arriving = Random(chance.random()), Random(chance.random())
    if workload.trace is not None:
        found = _replayed(workload, workload.trace, rate, contents)
    else:
        found = asked(workload, _moments(workload, rate, arriving), contents)
    return found if end is None else itertools.takewhile(lambda session: session.at < end, found)


def asked(workload: Workload, at: Iterable[float], chance: Random) -> Iterator[Session]:
    """A session for each moment."""
    makers, base = [], 0
    for kind in workload.sessions or ():
        makers.append(_Maker(kind, base, workload.max_context_tokens, chance))
        base += _shared_names(kind.beginning)
    up_to = list(itertools.accumulate(kind.share for kind in workload.sessions or ()))
    for name, moment in enumerate(at):
        maker = makers[0] if len(makers) == 1 else chance.choices(makers, cum_weights=up_to)[0]
        yield maker.session(name, moment, chance)


@lru_cache(maxsize=256)
def mean_turns(workload: Workload) -> float:
    """Requests of a session."""
    sampled = asked(workload, itertools.repeat(0.0, _SAMPLED), Random(0))
    return fmean(len(session.turns) for session in sampled)


def _moments(workload: Workload, rate: Rate | None, chance: Random) -> Iterator[float]:
    if workload.arrivals.users is not None:
        if rate is not None:
            raise ConfigError(
                f"{workload.name}: has users and no rate: leave the rate out, or take other arrivals"
            )
        return itertools.repeat(0.0)
    wanted = rate or _own_rate(workload)
    turns = mean_turns(workload) if wanted.of == "requests" else 1.0
    return moments(workload.arrivals, wanted.per_second / turns, chance)


def _own_rate(workload: Workload) -> Rate:
    if workload.sessions_per_second is not None:
        return Rate(workload.sessions_per_second, "sessions")
    if workload.requests_per_second is not None:
        return Rate(workload.requests_per_second)
    if workload.arrivals.stages is not None:
        return Rate(mean_rate(workload.arrivals.stages))
    raise ConfigError(f"{workload.name}: has no rate: write requestsPerSecond into its file, or give a rate")


def _replayed(workload: Workload, trace: Trace, rate: Rate | None, chance: Random) -> Iterator[Session]:
    read = _reader(trace, chance)
    if rate is None and workload.requests_per_second is not None:
        rate = Rate(workload.requests_per_second)
    replayed = read() if rate is None else _at_rate(read, rate)
    room = workload.max_context_tokens
    return replayed if room is None else (_fitting(session, room) for session in replayed)


def _reader(trace: Trace, chance: Random) -> Callable[[], Iterator[Session]]:
    if trace.like is not None:
        shape, seed = mooncake.SHAPES[trace.like], chance.random()
        return lambda: traces.sessions(mooncake.requests(shape, Random(seed)))
    assert trace.file is not None and trace.format is not None
    return partial(traces.read, trace.file, trace.format)


def _at_rate(read: Callable[[], Iterator[Session]], rate: Rate) -> Iterator[Session]:
    """Read twice: first to see how fast it is. A trace's sessions are its requests."""
    count, last = 0, 0.0
    for session in read():
        count, last = count + 1, session.at
    scale = count / rate.per_second / last if last else 1.0
    return (replace(session, at=session.at * scale) for session in read())


def _fitting(session: Session, room: int) -> Session:
    """Cut to a context: the answer first, then what is left of the prompt."""
    (turn,) = session.turns
    output = min(turn.output_tokens, room - 1)
    pieces = tuple(_cut(turn.pieces, room - output))
    return replace(session, turns=(replace(turn, pieces=pieces, output_tokens=output),))


# --- one kind ------------------------------------------------------------------------------------


def _shared_names(beginning: Sequence[Beginning]) -> int:
    """How many texts are shared in all: those of each part, after each of those before it."""
    counts = [part.texts for part in beginning if part.texts is not None]
    return sum(itertools.accumulate(counts, lambda texts, more: texts * more))


class _Maker:
    """Makes sessions of one kind."""

    def __init__(self, kind: Kind, base: int, room: int | None, chance: Random) -> None:
        self._priority = kind.priority
        self._room = room
        self._turns = whole(kind.turns)
        self._input = whole(kind.input_tokens)
        self._output = whole(kind.output_tokens)
        self._think = times(kind.think)
        counted = [part for part in kind.beginning if part.texts is not None]
        self._shared = _Shared(counted, base, chance)
        self._own = [whole(part.tokens) for part in kind.beginning if part.texts is None]

    def session(self, name: int, at: float, chance: Random) -> Session:
        own = itertools.count(OWN + (name << 16))
        pieces = [*self._shared.deal(), *[Piece(next(own), tokens(chance)) for tokens in self._own]]
        turns: list[Turn] = []
        think, used = 0.0, 0
        for number in range(self._turns(chance)):
            if number:
                pieces, think = [], self._think(chance)
            if tokens := self._input(chance):
                pieces.append(Piece(next(own), tokens))
            output = self._output(chance)
            if self._room is not None:
                if not number:
                    pieces = _cut(pieces, self._room - output)
                used += sum(piece.tokens for piece in pieces) + output
                if used > self._room:
                    break
            turns.append(Turn(pieces=tuple(pieces), output_tokens=output, think=think))
        return Session(name=name, at=at, turns=tuple(turns), priority=self._priority)


class _Shared:
    """Texts that several sessions begin with, dealt like cards."""

    def __init__(self, parts: Sequence[Beginning], base: int, chance: Random) -> None:
        self._texts: list[tuple[Piece, ...]] = [()]
        for part in parts:
            assert part.texts is not None
            tokens = whole(part.tokens)
            names = itertools.count(base)
            self._texts = [
                (*before, Piece(next(names), tokens(chance)))
                for before in self._texts
                for _ in range(part.texts)
            ]
            base += len(self._texts)
        chance.shuffle(self._texts)
        self.deal = itertools.cycle(self._texts).__next__


def _cut(pieces: Sequence[Piece], room: int) -> list[Piece]:
    """The beginning of a prompt."""
    kept = []
    for piece in pieces:
        if room <= 0:
            break
        kept.append(piece if piece.tokens <= room else Piece(piece.name, room))
        room -= piece.tokens
    return kept
