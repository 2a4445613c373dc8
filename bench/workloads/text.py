"""Pieces as text that can be sent, and as the bytes that stand for it in the simulator.

Place:   ``epp bench run`` sends ``words``; bench.sim gives ``material`` to the picker.
Ignores: what anybody would say.
Rule:    pieces of the same name have a common beginning, whatever their lengths; pieces of other names differ
         from the first tokens on.
"""

from collections.abc import Iterable
from functools import lru_cache
from random import Random

import xxhash

from bench.rig import model
from bench.workloads.sessions import Piece
from epp.core.request import BYTES_PER_TOKEN

_PERIOD = 32 // BYTES_PER_TOKEN
"""Tokens after which a piece's material repeats itself: the digits of a 128-bit hash of its name."""


def material(prompt: Iterable[Piece]) -> bytes:
    """What stands for a whole prompt: four bytes for each token."""
    parts: list[bytes] = []
    for piece in prompt:
        digits = _digits(piece.name)
        times, rest = divmod(piece.tokens, _PERIOD)
        parts += (digits * times, digits[: rest * BYTES_PER_TOKEN])
    return b"".join(parts)


@lru_cache(maxsize=1 << 16)
def _digits(name: int) -> bytes:
    return xxhash.xxh3_128_hexdigest(name.to_bytes(8, "little", signed=True)).encode()


@lru_cache(maxsize=1 << 10)
def words(piece: Piece, salt: str = "") -> str:
    """Prose of about so many tokens: exactly so many for the bench's own models, whose words are tokens.

    With another ``salt`` every piece is another text.
    """
    return model.text(piece.tokens, Random(f"{salt}{piece.name}"))
