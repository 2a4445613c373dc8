"""How fast one server works, learnt from what its requests showed and what its engine counts.

Place:   one Rates for each endpoint of epp.core.fleet, told by its reservations and readings; read by
         scorers.
Ignores: which server it is, who chooses, the clock (callers pass ``now`` [s, monotonic]).
Rule:    a server that restarts runs on the same hardware: its rates stay. Nothing that is told can make an
         estimate that is not finite and above 0; what nobody has seen is None, and ``typical`` says what to
         think of it.

A server works on prompts one after another, so that the time of one begins when it came, or with the first
token before it. How an engine divides its steps between prompts is its own affair: only sums of times over
sums of tokens are believed, and for the fixed part of a first token those requests that were alone.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from types import MappingProxyType
from typing import NamedTuple

HALF_LIFE = 8.0
"""Seconds after which what was seen counts half. Of a server that falls to 30 % of its speed, 82 % of the
change is in the estimate after 20 s; at one request a second it rests on 12 of them."""
AT_LEAST = 8.0
"""So many observations last until newer ones push them out, however old they are: where requests are rare,
the mean of one or two would be chance."""
KNOWN = 3.0
"""From so many observations on it is an estimate: the first request of a cold server has it compile."""
REMEMBERED = 600.0
"""Seconds after which a speed that nobody has seen since is unknown: a machine that was hot has cooled down,
a neighbour that was in the way has gone. One request then finds out."""
STALL = 4.0
"""One observation counts as at most so many times what was expected, once something is: a request that hung
for 30 s is no speed. A server at 30 % is 3.3 times slower, so that it passes."""
SAME_STEP = 0.003
"""First tokens within so many seconds were made in one step, which worked on their prompts together: a step
takes 5 ms and more on the hardware of today."""
STEP_TOKENS = 8192
"""A step may work on so many tokens of others beside: vLLM's largest default."""
PRIOR_TOKENS = 1000.0
"""Prompt tokens: until so many have been worked on, what is typical counts as much as what was seen."""
PROMPT_SPREAD = 500.0
"""Prompt tokens. As long as prompts differ by less, how much of their time is a fixed part is taken from what
is typical: a step's work on so many takes as long as its overhead (H100: 10 ms of 7; L4: 150 of 53)."""
BATCH_SPREAD = 4.0
"""The same of requests worked on at once."""
BATCH_GROWTH = 0.01
"""What one request more adds to the time of everybody's next token, as a part of that of one alone: 0.2 to
3 % are published for 7B to 120B models on A100 and H100."""

CHANCE = 0.25
"""Measured speeds of equal servers differ by about so much (in logarithms, in simulated fleets). What is that
far from the median is moved halfway to it, what is three times slower by a twentieth of the way."""
CHANCE_OF_TOKENS = 0.7
"""The same of what the time to a next token and a whole answer take: twice as long where prompts of others
come between."""
PROMISES = 0.1
"""Below this share of prompts promised, what the engine found says nothing about them: a block that is not
full is never found, and that may be as much of a short prompt."""
FLUSHED = 0.5
"""Where less than this part of what was promised is there, the cache was lost: eviction takes the oldest, and
takes it bit by bit."""

ATTENTION = 5e-5
"""What each token before it adds to the work on a prompt token, as a part of the work of one without
context: the weights of a dense model of width d are 6 d times as much work as one earlier token (8B: 27,000
times), and attention is 0.7 times as fast. So 20,000 tokens of context double it."""
_PROMPT = 1000.0
"""Prompt tokens that count as one observation of a cache."""
_MOST_SECONDS = 3600.0
_MOST_TOKENS = 1e8
_FASTEST_PROMPT, _FASTEST_TOKEN = 1e-7, 1e-5
"""Seconds a token: nothing is a hundred times faster than today's fastest."""


class Typical(NamedTuple):
    """What to think of a server of which nothing was seen."""

    overhead: float
    """Seconds that a first token takes whatever the prompt."""
    per_prompt_token: float
    """Seconds."""
    per_token: float
    """Seconds from one token to the next, alone."""
    stay: float
    """Seconds that a request stays after its first token."""
    output: float
    """Tokens of an answer: 300, as of the published chat workloads."""


_GPU = Typical(0.02, 1 / 15_000, 0.016, 4.8, 300.0)
"""8B on A100: 273 ms for 4,096 tokens, a step of 16 ms."""
_MAC = Typical(0.05, 1 / 500, 0.022, 6.6, 300.0)
"""8B Q4 on M1 Max: 500 and 46 tokens/s."""
NEUTRAL = Typical(0.03, 1 / 3_000, 0.019, 5.7, 300.0)
"""Between the two, as a geometric mean."""
TYPICAL: Mapping[str, Typical] = MappingProxyType(
    {
        **dict.fromkeys(("vllm", "sglang", "trtllm-serve", "triton-tensorrt-llm", "triton", "tgi"), _GPU),
        **dict.fromkeys(("llamacpp", "ollama", "omlx", "mlx-server"), _MAC),
    }
)
"""By engine: who runs it runs it on such hardware. Nobody is judged by it who has answered three requests."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What an engine has counted since its process began; None: it does not say."""

    prompt_tokens: float | None = None
    """Worked on, without those from its cache."""
    prompt_seconds: float | None = None
    """For these, from a request's turn to its first token."""
    prompts: float | None = None
    """Requests that these two are of."""
    tokens: float | None = None
    """Generated behind a first one."""
    token_seconds: float | None = None
    """For these, of each request."""
    asked_tokens: float | None = None
    """Prompt tokens that were looked up in its prefix cache."""
    hit_tokens: float | None = None
    """Of these, those that were found."""


class Line:
    """y = base + slope * x, from what was seen lately."""

    __slots__ = ("_x", "_xx", "_xy", "_y", "at", "weight")

    def __init__(self) -> None:
        self.weight = 0.0
        """How many observations it rests on, faded."""
        self.at = -math.inf
        """When the last one was made [s]."""
        self._x = self._y = self._xx = self._xy = 0.0

    def add(self, x: float, y: float, now: float, weight: float = 1.0) -> None:
        """``weight`` observations with these means. All must be finite and at least 0."""
        held = self.weight
        if held:
            keep = 0.5 ** (min(max(now - self.at, 0.0), _MOST_SECONDS) / HALF_LIFE)
            keep = max(keep, min(1.0, AT_LEAST / held))
            self.weight *= keep
            self._x *= keep
            self._y *= keep
            self._xx *= keep
            self._xy *= keep
        self.weight += weight
        self._x += weight * x
        self._y += weight * y
        self._xx += weight * x * x
        self._xy += weight * x * y
        self.at = max(now, self.at)

    def is_known(self, now: float) -> bool:
        """Whether it rests on enough, and that is not too old."""
        return self.weight >= KNOWN and now - self.at < REMEMBERED

    def fit(self, slope: float, spread: float) -> tuple[float, float]:
        """Base and slope, both at least 0. As long as the x differ by less than ``spread``, ``slope`` is
        believed: it counts as one observation that far from the others."""
        weight = self.weight
        mean_x, mean_y = self._x / weight, self._y / weight
        varied = max(self._xx - weight * mean_x * mean_x, 0.0)
        went_with = self._xy - weight * mean_x * mean_y
        one = spread * spread
        found = max((went_with + one * slope) / (varied + one), 0.0)
        base = mean_y - found * mean_x
        if base < 0.0:  # mean_x is above 0 then
            return 0.0, mean_y / mean_x
        return base, found

    @property
    def mean_x(self) -> float:
        return self._x / self.weight if self.weight else 0.0

    @property
    def mean_y(self) -> float:
        return self._y / self.weight if self.weight else 0.0


class Speed(NamedTuple):
    """How fast a server works, as far as it is known; None: it is not."""

    overhead: float | None = None
    """Seconds that a first token takes whatever the prompt."""
    per_prompt_token: float | None = None
    """Seconds."""
    per_token: float | None = None
    """Seconds from one token to the next, for a request alone."""
    stay: float | None = None
    """Seconds that a request stays after its first token."""
    output: float | None = None
    """Tokens of an answer."""


class Rates:
    """All of one server."""

    __slots__ = (
        "_alone",
        "_alone_seen",
        "_base",
        "_base_at",
        "_began",
        "_hits",
        "_output",
        "_pace",
        "_promised",
        "_seen",
        "_stay",
        "_told",
        "per_prompt_token",
        "version",
    )

    def __init__(self) -> None:
        self.version = 0
        """Grows with everything that is told."""
        self.per_prompt_token = NEUTRAL.per_prompt_token
        """Seconds, as they were last expected by whoever asked."""
        self._seen, self._told = Line(), Line()
        """Seconds over prompt tokens: as first tokens passed here, and as the engine counts them."""
        self._began, self._alone = Line(), Line()
        """Of those that passed here: how often the server worked on no prompt before; and seconds over tokens
        of those that were alone."""
        self._pace = Line()
        """Seconds from token to token over the number of others."""
        self._stay, self._output = Line(), Line()
        self._promised, self._hits = Line(), Line()
        """The cached share of prompts: as our index promised, and as the engine found."""
        self._alone_seen: tuple[float, float, float] | None = None
        """The last of these, to which others of the same step may still come: tokens, seconds, when."""
        self._base: Work | None = None
        self._base_at = -math.inf

    # --- what requests show

    def first_token(
        self, tokens: float, seconds: float, now: float, *, begins: bool = True, alone: bool = True
    ) -> None:
        """A first token came at ``now``, after ``seconds`` of work on ``tokens`` of its prompt.

        ``begins``: before it the server worked on no prompt; ``alone``: nor does it now.
        """
        if not (0.0 <= tokens <= _MOST_TOKENS and 0.0 <= seconds <= _MOST_SECONDS):
            return
        self._tell_alone(now)
        if begins and alone:
            self._alone_seen = (tokens, seconds, now)
        seen = self._seen
        if seen.weight >= KNOWN:
            beside = 0 if begins and alone else STEP_TOKENS
            most = self._overhead(seen, NEUTRAL) + self._slope(seen, NEUTRAL) * (tokens + beside)
            seconds = min(seconds, STALL * most)
        seen.add(tokens, seconds, now)
        self._began.add(0.0, float(begins), now)
        self.version += 1

    def _tell_alone(self, now: float) -> None:
        """What the last request shows that was alone, unless another one was in the same step."""
        if self._alone_seen is not None and now - self._alone_seen[2] > SAME_STEP:
            self._alone.add(*self._alone_seen)
        self._alone_seen = None

    def promised(self, prompt_tokens: int, cached_tokens: int, now: float) -> None:
        """A request got its first token, of which our index promised so much."""
        if 0 < prompt_tokens <= _MOST_TOKENS:
            share = min(max(cached_tokens / prompt_tokens, 0.0), 1.0)
            self._promised.add(0.0, share, now, prompt_tokens / _PROMPT)
            self.version += 1

    def stayed(self, seconds: float, now: float) -> None:
        """A request left so many seconds after its first token."""
        if 0.0 <= seconds <= _MOST_SECONDS:
            self._stay.add(0.0, seconds, now)
            self.version += 1

    def generated(self, tokens: int, seconds: float, beside: float, now: float) -> None:
        """An answer of ``tokens`` took ``seconds`` behind its first one, ``beside`` so many others."""
        if not (0 < tokens <= _MOST_TOKENS and 0.0 <= seconds <= _MOST_SECONDS and 0.0 <= beside <= 1e6):
            return
        self._output.add(0.0, tokens, now)
        if tokens > 1:
            self._pace.add(beside, seconds / (tokens - 1), now)
        self.version += 1

    # --- what the engine counts

    def read(self, work: Work, running: int | None, now: float) -> None:
        """The engine's counts at ``now``, with ``running`` requests."""
        base, since = self._base, self._base_at
        self._base, self._base_at = work, now
        if base is None or now <= since:
            return
        self.version += 1
        tokens, seconds = (
            _more(base.prompt_tokens, work.prompt_tokens),
            _more(base.prompt_seconds, work.prompt_seconds),
        )
        if tokens and seconds:  # of an engine that does not count requests it is one
            count = max(_more(base.prompts, work.prompts) or 1.0, 1.0)
            tokens, seconds = min(tokens / count, _MOST_TOKENS), min(seconds / count, _MOST_SECONDS)
            self._told.add(tokens, seconds, now, min(count, AT_LEAST))
        tokens, seconds = _more(base.tokens, work.tokens), _more(base.token_seconds, work.token_seconds)
        if tokens and seconds and running is not None:
            self._pace.add(min(max(running - 1, 0), 1e6), min(seconds / tokens, _MOST_SECONDS), now)
        asked, hits = _more(base.asked_tokens, work.asked_tokens), _more(base.hit_tokens, work.hit_tokens)
        if asked and hits is not None:
            self._hits.add(0.0, min(hits / asked, 1.0), now, min(asked, _MOST_TOKENS) / _PROMPT)

    def restarted(self) -> None:
        """The server's process is another one: it counts from 0, with nothing in its cache."""
        self._base = None
        self._promised, self._hits = Line(), Line()
        self.version += 1

    # --- what follows

    def speed(self, now: float, usual: Typical = NEUTRAL) -> Speed:
        """What is known at ``now``; ``usual``: how what was seen is divided while that cannot be told."""
        line = self._seen if self._seen.is_known(now) else self._told
        overhead = per_prompt_token = per_token = None
        if line.is_known(now):
            overhead, per_prompt_token = self._overhead(line, usual), self._slope(line, usual)
        pace = self._pace
        if pace.is_known(now):
            growth = BATCH_GROWTH * pace.mean_y / (1.0 + BATCH_GROWTH * pace.mean_x)
            per_token = max(pace.fit(growth, BATCH_SPREAD)[0], _FASTEST_TOKEN)
        stay = self._stay.mean_y if self._stay.is_known(now) else None
        output = self._output.mean_y if self._output.is_known(now) else None
        return Speed(overhead, per_prompt_token, per_token, stay, output)

    @property
    def trust(self) -> float:
        """The part of what our index promised that the engine had in its cache, 0 to 1; 1 while that is not
        known."""
        promised, hits = self._promised, self._hits
        if promised.weight < KNOWN or hits.weight < KNOWN or promised.mean_y < PROMISES:
            return 1.0
        return min(hits.mean_y / promised.mean_y, 1.0)

    def _overhead(self, line: Line, usual: Typical) -> float:
        """As requests show it that were alone."""
        if self._alone.weight >= KNOWN:
            return self._alone.fit(usual.per_prompt_token, PROMPT_SPREAD)[0]
        return min(usual.overhead, line.mean_y)

    def _slope(self, line: Line, usual: Typical) -> float:
        """All time that was worked but for overheads, over all tokens that were worked on. A server with work
        for several steps divides it between them as it likes: single times say nothing then."""
        began = self._began.mean_y if line is self._seen else 1.0
        seconds = max(line.mean_y - began * self._overhead(line, usual), 0.0) * line.weight
        believed = usual.per_prompt_token * PRIOR_TOKENS
        return max((seconds + believed) / (line.mean_x * line.weight + PRIOR_TOKENS), _FASTEST_PROMPT)


def typical(engine: str | None) -> Typical:
    """What to think of a server with this engine; None: it is not known."""
    return TYPICAL.get(engine or "", NEUTRAL)


def work(fresh: float, cached: float) -> float:
    """The work on ``fresh`` tokens behind ``cached`` ones, in tokens without context."""
    return fresh * (1.0 + ATTENTION * (cached + 0.5 * fresh))


def _more(before: float | None, after: float | None) -> float | None:
    """What was counted since; None: a counter is not there, or began anew."""
    if before is None or after is None or not after >= before:
        return None
    return after - before


class Expected(NamedTuple):
    """A Speed without gaps; all finite and above 0, but ``overhead`` may be 0."""

    overhead: float
    per_prompt_token: float
    per_token: float
    stay: float
    output: float
    is_measured: bool
    """Its own prompts have been measured."""


def expected(known: Sequence[Speed], engines: Sequence[str | None]) -> list[Expected]:
    """What to expect of each: what it showed itself, as far as that is no chance, and what it did not show
    from the median of those with the same engine, else of all, else from what is typical."""
    of_all = _medians(known)
    by_engine = {
        engine: _medians([speed for speed, its in zip(known, engines, strict=True) if its == engine])
        for engine in set(engines)
    }
    found = []
    for speed, engine in zip(known, engines, strict=True):
        usual, alike = typical(engine), by_engine[engine]
        own = [_between(*each) for each in zip(speed, alike, _CHANCES, strict=True)]
        sources = zip(own, alike, of_all, usual, strict=True)
        overhead, prompt, token, stay, output = (
            next(value for value in each if value is not None) for each in sources
        )
        is_measured = speed.per_prompt_token is not None
        found.append(Expected(overhead, prompt, token, stay, output, is_measured))
    return found


def _medians(speeds: Sequence[Speed]) -> Speed:
    columns = ([value for value in column if value is not None] for column in zip(*speeds, strict=True))
    return Speed(*(median(column) if column else None for column in columns))


_CHANCES = (CHANCE, CHANCE, *(CHANCE_OF_TOKENS,) * 3)


def _between(value: float | None, middle: float | None, chance: float) -> float | None:
    """Close to ``middle`` where it differs by ``chance``, as it is where it differs by more."""
    if not value or not middle:
        return value
    apart = math.log(value / middle)
    return middle * math.exp(apart - apart / (1.0 + (apart / chance) ** 2))
