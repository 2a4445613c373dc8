"""The sessions that a workload comes to.

Rule:    lengths in tokens, times in seconds. Text is never written out here: a piece is named by a number,
         and equal pieces are equal text.
"""

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Piece:
    """Text of so many tokens; pieces of the same ``name`` have a common beginning, whatever their lengths."""

    name: int
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """``pieces``: what it adds to the conversation. ``think``: after the answer before it [s]."""

    pieces: tuple[Piece, ...]
    output_tokens: int
    think: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """``at``: when its first turn is sent [s]. A turn's prompt is all turns before it with their answers, and
    its own pieces."""

    name: int
    at: float
    turns: tuple[Turn, ...]
    priority: int = 0

    def prompts(self) -> Iterator[tuple[Turn, tuple[Piece, ...]]]:
        """Each turn with its whole prompt."""
        before: tuple[Piece, ...] = ()
        for number, turn in enumerate(self.turns):
            prompt = (*before, *turn.pieces)
            yield turn, prompt
            before = (*prompt, self.answer(number))

    def answer(self, number: int) -> Piece:
        """What turn ``number`` was answered: no other text is like it."""
        return Piece(-1 - (self.name << 16 | number), self.turns[number].output_tokens)
