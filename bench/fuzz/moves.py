"""What a fuzz input says: bytes that arrive, time that passes, events in between. One line each.

    in 505249202a20485454502f322e30 …    one read, in hexadecimal
    wait 2.5                             seconds
    push                                 services that put answers off say them
    drain                                the server is told to stop

Rule:    any text can be read; lines that mean nothing are left out. The end is always that the
         connection is lost.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

LONGEST_WAIT = 1_000.0


@dataclass(frozen=True, slots=True)
class In:
    """One read."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Wait:
    """Time passes."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Push:
    """Answers that were put off are said."""


@dataclass(frozen=True, slots=True)
class Drain:
    """No new streams."""


Move: TypeAlias = In | Wait | Push | Drain


def parse(text: bytes) -> list[Move]:
    moves: list[Move] = []
    for line in text.splitlines():
        word, _, rest = line.partition(b" ")
        try:
            match word:
                case b"in":
                    moves.append(In(bytes.fromhex(rest.decode("ascii"))))
                case b"wait":
                    moves.append(Wait(min(max(float(rest), 0.0), LONGEST_WAIT)))
                case b"push":
                    moves.append(Push())
                case b"drain":
                    moves.append(Drain())
                case _:
                    pass
        except ValueError:  # not hexadecimal, not a number: as a line that means nothing
            continue
    return moves


def text(moves: Iterable[Move]) -> bytes:
    return b"".join(_line(move) + b"\n" for move in moves)


def _line(move: Move) -> bytes:
    match move:
        case In(data):
            return b"in " + data.hex().encode()
        case Wait(seconds):
            return b"wait %g" % seconds
        case Push():
            return b"push"
        case Drain():
            return b"drain"


def size(moves: Sequence[Move]) -> int:
    """Bytes that arrive."""
    return sum(len(move.data) for move in moves if isinstance(move, In))
