"""Workloads as files say them: what is asked, how often, or which trace is replayed.

Place:   ``epp bench sim`` and ``epp bench run`` read the same files; bench.workloads.generate makes sessions.
Ignores: servers, chance.
Rule:    decoded strictly by epp.config.decode; lengths are numbers of tokens, times are durations ("45s").
         Published parameters stand as published, with their source in a comment.

    name: chat
    about: people who talk with an assistant
    requestsPerSecond: 10           # where the command line says no other rate
    sessions:                       # what is asked; several kinds have shares
    - name: chat
      beginning:                    # of the first turn's prompt
      - {tokens: 1000, texts: 1}    # one text for all; "texts: 64" would be one of 64
      - {tokens: 400}               # no "texts": each session has its own
      turns: {shape: logNormal, mean: 4, sd: 2.5, min: 1, max: 15}
      inputTokens: 50               # what each turn adds
      outputTokens: {shape: normal, mean: 300, sd: 150, min: 10, max: 1000}
      think: {shape: logNormal, mean: 45s, sd: 40s, min: 5s, max: 300s}
    arrivals: {bursts: {sessions: 50}}  # absent: a Poisson process
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from bench.workloads.distributions import Lengths, Times
from epp.config.decode import ConfigError, is_word, parse, read
from epp.core.scoring import Seconds
from epp.core.suggestions import suggestion

CATALOGUE = Path(__file__).with_name("catalogue")
MAX_TOKENS = 10_000_000
MAX_TURNS = 10_000
"""A session's texts are numbered with 16 bits."""
MAX_TEXTS = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Beginning:
    """A text with which first prompts begin."""

    tokens: int | Lengths
    texts: int | None = None
    """How many there are, after each of those before it; None: each session has its own."""

    def __post_init__(self) -> None:
        _check_tokens("tokens", self.tokens)
        if self.texts is not None and not 1 <= self.texts <= MAX_TEXTS:
            raise ValueError(f"texts: {self.texts} is not a number of texts: write 1 to {MAX_TEXTS:,}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """Sessions of one kind."""

    name: str
    input_tokens: int | Lengths
    """What each turn adds to the conversation."""
    output_tokens: int | Lengths
    share: float = 1.0
    """Of the sessions, beside the shares of the other kinds."""
    priority: int = 0
    beginning: tuple[Beginning, ...] = ()
    turns: int | Lengths = 1
    think: Seconds | Times = 0.0
    """Between an answer and the next turn."""

    def __post_init__(self) -> None:
        _check_name(self.name)
        if not self.share > 0:
            raise ValueError(f"share: {self.share:g} is not above 0: leave the kind out, or give it a share")
        _check_tokens("inputTokens", self.input_tokens, least=0)
        _check_tokens("outputTokens", self.output_tokens)
        if not 1 <= _least(self.turns) <= _most(self.turns, MAX_TURNS) <= MAX_TURNS:
            raise ValueError(f"turns: {_written(self.turns)} is not a number of turns: 1 to {MAX_TURNS:,}")
        if not isinstance(self.think, Times) and self.think < 0:
            raise ValueError(f"think: {self.think:g}s is negative: write 0s or more")
        if self.input_tokens == 0 and (not self.beginning or self.turns != 1):
            raise ValueError(
                "inputTokens: 0 leaves turns without a question: write how many tokens each adds"
            )
        self._check_beginning()

    def _check_beginning(self) -> None:
        counts = [part.texts for part in self.beginning]
        if None in counts and any(counts[counts.index(None) :]):
            raise ValueError("beginning: after a text of the session's own no text is shared: put it first")
        if math.prod(count for count in counts if count) > MAX_TEXTS:
            raise ValueError(f"beginning: has more than {MAX_TEXTS:,} texts in all: write fewer")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bursts:
    """So many sessions at the same moment; the mean rate stays."""

    sessions: int

    def __post_init__(self) -> None:
        if self.sessions < 1:
            raise ValueError(f"sessions: {self.sessions} at once is no burst: write 1 or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class Diurnal:
    """A rate that goes up and down like a sine, beginning at its mean and rising."""

    period: Seconds
    swing: float
    """Part of the mean rate by which it goes up and down: 0 to 1."""

    def __post_init__(self) -> None:
        if not self.period > 0:
            raise ValueError(f"period: {self.period:g}s is not above 0: write how long a day is")
        if not 0 <= self.swing <= 1:
            raise ValueError(f"swing: {self.swing:g} is not between 0 and 1: 0.5 is half of the mean rate")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A Poisson process for some time."""

    requests_per_second: float
    duration: Seconds

    def __post_init__(self) -> None:
        _check_rate("requestsPerSecond", self.requests_per_second)
        _check_duration("duration", self.duration)


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrivals:
    """When sessions begin: a Poisson process unless one of these is said."""

    bursts: Bursts | None = None
    diurnal: Diurnal | None = None
    stages: tuple[Stage, ...] | None = None
    """One after the other. Where another rate is asked for they are scaled, so that it is their mean."""
    users: int | None = None
    """A closed loop: so many have one session after the other, and there is no rate."""

    def __post_init__(self) -> None:
        said = [name for name in ("bursts", "diurnal", "stages", "users") if getattr(self, name) is not None]
        if len(said) > 1:
            raise ValueError(f"{said[1]}: excludes {said[0]}: write one of them")
        if self.stages is not None and not self.stages:
            raise ValueError("stages: is empty: write at least one, or leave it out")
        if self.users is not None and self.users < 1:
            raise ValueError(f"users: {self.users} ask nothing: write 1 or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """Requests that were recorded, or made with the shape of recorded ones."""

    file: str | None = None
    """Relative to the workload's file."""
    format: Literal["mooncake", "azure", "burstgpt"] | None = None
    like: Literal["mooncake-toolagent", "mooncake-conversation"] | None = None
    """Without a file: made anew for each seed by bench.workloads.mooncake."""

    def __post_init__(self) -> None:
        if self.like is not None:
            if self.file is not None or self.format is not None:
                raise ValueError("like: excludes file and format: write one or the other")
        elif self.file is None:
            raise ValueError('file: is missing: write a file and its format, or "like"')
        elif self.format is None:
            raise ValueError('format: is missing: write "mooncake", "azure" or "burstgpt"')


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """One file."""

    name: str
    about: str = ""
    sessions: tuple[Kind, ...] | None = None
    trace: Trace | None = None
    arrivals: Arrivals = field(default_factory=Arrivals)
    requests_per_second: float | None = None
    sessions_per_second: float | None = None
    duration: Seconds | None = None
    max_context_tokens: int | None = None
    """A turn that would make the conversation longer is not asked; a first prompt is cut to it."""

    def __post_init__(self) -> None:
        _check_name(self.name)
        if (self.sessions is None) == (self.trace is None):
            raise ValueError("sessions: write either sessions or a trace")
        if self.sessions is not None and not self.sessions:
            raise ValueError("sessions: is empty: write at least one kind of session")
        names = [kind.name for kind in self.sessions or ()]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f'sessions: two kinds have the name "{name}": rename one')
        if self.requests_per_second is not None and self.sessions_per_second is not None:
            raise ValueError("sessionsPerSecond: excludes requestsPerSecond: write one of them")
        _check_rate("requestsPerSecond", self.requests_per_second)
        _check_rate("sessionsPerSecond", self.sessions_per_second)
        _check_duration("duration", self.duration)
        if self.trace is not None and self.arrivals != Arrivals():
            raise ValueError("arrivals: a trace has its own: leave them out")
        if self.max_context_tokens is not None:
            self._check_context(self.max_context_tokens)

    def _check_context(self, room: int) -> None:
        for kind in self.sessions or ():
            longest = _most(kind.output_tokens, math.inf)
            if longest >= room:
                raise ValueError(
                    f"maxContextTokens: {room} is not above the longest answer of {kind.name}"
                    f" ({longest:g} tokens): write more, or a max for outputTokens"
                )


def decode(text: str, file: str) -> Workload:
    """A workload's file. Raises ConfigError."""
    return read(parse(text, file), Workload)


def load(path: Path) -> Workload:
    """The workload in this file. Raises ConfigError."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is not UTF-8 text") from None
    workload = decode(text, str(path))
    if workload.trace is None or workload.trace.file is None:
        return workload
    return replace(workload, trace=replace(workload.trace, file=str(path.parent / workload.trace.file)))


def catalogue() -> Mapping[str, Path]:
    """The workloads that come with the bench, by name."""
    return MappingProxyType({path.stem: path for path in sorted(CATALOGUE.glob("*.yaml"))})


def find(name: str) -> Workload:
    """One of the catalogue, or a file: what ends in .yaml or .yml, or has a slash. Raises ConfigError."""
    if name.endswith((".yaml", ".yml")) or "/" in name:
        return load(Path(name))
    known = catalogue()
    if name not in known:
        remedy = suggestion(name, known) or f", known are {', '.join(known)}, or write the path of a file"
        raise ConfigError(f'workload "{name}" is unknown{remedy}')
    return load(known[name])


# --- checks --------------------------------------------------------------------------------------


def _check_name(name: str) -> None:
    if not name or not is_word(name):
        raise ValueError(f'name: "{name}" is not one word: write one, such as "interactive-chat"')


def _check_tokens(subject: str, value: int | Lengths, *, least: int = 1) -> None:
    if not least <= _least(value) <= _most(value, 0) <= MAX_TOKENS:
        raise ValueError(
            f"{subject}: {_written(value)} is not a number of tokens: write {least} to {MAX_TOKENS:,}"
        )


def _check_rate(subject: str, value: float | None) -> None:
    if value is not None and not value > 0:
        raise ValueError(f"{subject}: {value:g} is not above 0: write how many a second, such as 10")


def _check_duration(subject: str, value: float | None) -> None:
    if value is not None and not value > 0:
        raise ValueError(f'{subject}: {value:g}s is not above 0: write how long, such as "10m"')


def _least(value: int | Lengths) -> float:
    return value if isinstance(value, int) else value.min


def _most(value: int | Lengths, unbounded: float) -> float:
    """``unbounded``: where there is no end to it."""
    if isinstance(value, int):
        return value
    return value.max if value.max < math.inf else max(unbounded, value.mean)


def _written(value: int | Lengths) -> str:
    return str(value) if isinstance(value, int) else f"{value.min:g} to {value.max:g}"
