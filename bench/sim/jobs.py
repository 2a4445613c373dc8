"""What a simulated server is given, and what it is to its fleet.

Rule:    times in seconds of the simulation, lengths in tokens. A server says ``first_token`` once and
         ``ended`` once for each job that it has taken, in this order; ``ended`` alone where it failed.
"""

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from bench.workloads.sessions import Piece
from epp.core.fleet import Load


class End(enum.Enum):
    """How a job ended."""

    DONE = "answered"
    REFUSED = "not taken"
    FAILED = "server died"


@dataclass(slots=True, eq=False, kw_only=True)
class Job:
    """One request at one server."""

    prompt: Sequence[Piece]
    output_tokens: int
    first_token: Callable[[float, int], None]
    """When, and how many tokens of the prompt were cached."""
    ended: Callable[[float, End], None]
    """When, and how. A server that takes no job says so before ``take`` returns."""
    answer: int | None = None
    """The name of the text it is answered (``Session.answer``), where later prompts can contain it: its
    blocks stay cached like those of a prompt."""
    priority: int = 0
    """The higher goes first."""
    prompt_tokens: int = field(init=False)

    def __post_init__(self) -> None:
        self.prompt_tokens = sum(piece.tokens for piece in self.prompt)


class Server(Protocol):
    """A model of an engine, driven by a Timeline."""

    def take(self, job: Job) -> None:
        """It has arrived."""

    def load(self, *, with_work: bool = True) -> Load:
        """What its metrics page would say now, by the names of the engine it is a model of; with what it has
        counted, or without: a look without takes half of the time."""

    def die(self) -> None:
        """All jobs fail, what it held in its caches is gone; it takes none until ``start``."""

    def start(self) -> None:
        """It serves again, with nothing cached."""

    def slow_down(self, speed: float) -> None:
        """It works at ``speed`` (1: as it should) from now on."""


class Timeline(Protocol):
    """Virtual time."""

    @property
    def now(self) -> float: ...

    def later(self, seconds: float, run: Callable[[], None]) -> "Timer": ...


class Timer(Protocol):
    """Something that will happen."""

    def cancel(self) -> None: ...
