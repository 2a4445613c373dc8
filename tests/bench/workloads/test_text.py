"""Pieces as bytes and as words: as long as said, and alike where pieces are."""

from hypothesis import given
from hypothesis import strategies as st

from bench.workloads.sessions import Piece, Session, Turn
from bench.workloads.text import material, words
from epp.core.request import BYTES_PER_TOKEN

pieces = st.builds(Piece, st.integers(-(1 << 63), (1 << 63) - 1), st.integers(1, 300))


@given(prompt=st.lists(pieces, max_size=5))
def test_four_bytes_stand_for_a_token(prompt: list[Piece]) -> None:
    assert len(material(prompt)) == BYTES_PER_TOKEN * sum(piece.tokens for piece in prompt)
    assert material(prompt) == b"".join(material([piece]) for piece in prompt)


@given(piece=pieces, longer=st.integers(0, 300))
def test_pieces_of_one_name_begin_alike(piece: Piece, longer: int) -> None:
    other = Piece(piece.name, piece.tokens + longer)
    assert material([other]).startswith(material([piece]))
    assert words(other).startswith(words(piece))


@given(a=pieces, b=pieces)
def test_pieces_of_other_names_differ_within_a_block(a: Piece, b: Piece) -> None:
    if a.name != b.name:
        left, right = (Piece(each.name, 16) for each in (a, b))
        assert material([left])[: 4 * BYTES_PER_TOKEN] != material([right])[: 4 * BYTES_PER_TOKEN]
        assert words(left) != words(right)


def test_a_turns_material_begins_with_the_turn_before_it() -> None:
    turns = tuple(Turn(pieces=(Piece(number, 50),), output_tokens=7) for number in range(3))
    prompts = [material(prompt) for _, prompt in Session(name=9, at=0.0, turns=turns).prompts()]
    assert prompts[2].startswith(prompts[1]) and prompts[1].startswith(prompts[0])


def test_words_are_one_token_each() -> None:
    assert len(words(Piece(5, 40)).split()) == 40
    assert words(Piece(5, 40)) != words(Piece(-5, 40))
