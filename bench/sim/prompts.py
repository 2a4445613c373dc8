"""The bytes that stand for a prompt: as long as its text, and equal where the text is.

Place:   bench.sim.play gives them to the picker, which hashes and counts them as it does real ones.
Ignores: what anybody would say.
Rule:    four bytes stand for a token, as in epp.core.request. A piece is its name over and over, so that
         pieces of one name have a common beginning and others differ in their first token or their second.
"""

from collections.abc import Iterable

from bench.workloads.sessions import Piece
from epp.core.request import BYTES_PER_TOKEN

_NAME_BYTES = 8
"""A session has 48 bits of these, its turn 16."""


def prompt_bytes(pieces: Iterable[Piece]) -> bytes:
    """A whole prompt."""
    return b"".join([_text(piece.name, piece.tokens * BYTES_PER_TOKEN) for piece in pieces])


def _text(name: int, size: int) -> bytes:
    word = name.to_bytes(_NAME_BYTES, "little", signed=True)
    return (word * (size // _NAME_BYTES + 1))[:size]
