"""Blocks and the texts that are in them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.sim.cache import BlockCache, Run, common
from bench.workloads.sessions import Piece

Text = tuple[Piece, ...]


def text(*pieces: tuple[int, int]) -> Text:
    return tuple(Piece(name, tokens) for name, tokens in pieces)


def length(of: Text) -> int:
    return sum(piece.tokens for piece in of)


def tokens(of: Text) -> list[tuple[int, int]]:
    return [(piece.name, n) for piece in of for n in range(piece.tokens)]


def used(cache: BlockCache, of: Text) -> None:
    """A sequence that came, was computed and went."""
    run = cache.admit(of, length(of))
    assert run is not None
    run = cache.share(run, of, length(of))
    cache.release(run, length(of))


@pytest.mark.parametrize(
    "one, other, shared",
    [
        (text((1, 10)), text((1, 10)), 10),
        (text((1, 10), (2, 5)), text((1, 10), (3, 5)), 10),
        (text((1, 10), (2, 5)), text((1, 8), (2, 5)), 8),  # a piece that ends earlier: what follows differs
        (text((1, 10)), text((2, 10)), 0),
        (text(), text((1, 10)), 0),
        (text((1, 4), (1, 4)), text((1, 8)), 4),  # the same words again are not the words that follow
    ],
)
def test_texts_have_a_common_beginning(one: Text, other: Text, shared: int) -> None:
    assert common(one, other) == common(other, one) == shared


def test_pieces_that_end_within_a_block_share_what_is_before_it() -> None:
    cache = BlockCache(100, 16)
    used(cache, text((1, 1000), (2, 100)))
    assert cache.cached(text((1, 1000), (3, 100))) == 992
    assert cache.cached(text((1, 1000), (2, 100), (3, 1))) == 1088


def test_who_is_admitted_holds_what_it_found() -> None:
    cache = BlockCache(10, 4)
    used(cache, text((1, 20)))
    assert (cache.available, cache.in_use) == (10, 0)
    run = cache.admit(text((1, 20), (2, 6)), 26)
    assert run is not None
    assert run.end == 20
    assert (cache.available, cache.in_use) == (3, 7)
    assert cache.admit(text((3, 16)), 16) is None  # four blocks
    assert cache.admit(text((3, 12)), 12) is not None


def test_what_it_found_does_not_count_twice_as_room() -> None:
    cache = BlockCache(5, 4)
    used(cache, text((1, 16)))
    assert cache.admit(text((1, 16), (2, 8)), 24) is None  # six blocks, four of which are there
    assert cache.admit(text((1, 16), (2, 4)), 20) is not None


def test_the_end_of_the_oldest_text_goes_first() -> None:
    cache = BlockCache(6, 4)
    used(cache, text((1, 12)))
    used(cache, text((2, 12)))
    used(cache, text((3, 8)))
    known = [cache.cached((*text((name, 12)), Piece(9, 1))) for name in (1, 2, 3)]
    assert known == [4, 12, 8]


def test_a_beginning_that_others_use_stays_when_an_end_goes() -> None:
    cache = BlockCache(6, 4)
    used(cache, text((1, 8), (2, 8)))
    used(cache, text((1, 8), (3, 8)))
    used(cache, text((4, 12)))
    known = [cache.cached(text((1, 8), (name, 8), (9, 1))) for name in (2, 3)]
    assert known == [8, 12]


def test_two_that_computed_the_same_keep_one_copy() -> None:
    cache = BlockCache(20, 4)
    one, other = text((1, 8)), text((1, 8))
    first, second = cache.admit(one, 8), cache.admit(other, 8)
    assert first is not None
    assert second is not None
    assert cache.in_use == 4
    first, second = cache.share(first, one, 8), cache.share(second, other, 8)
    assert cache.in_use == 2
    cache.release(first, 8)
    cache.release(second, 8)
    assert (cache.in_use, cache.shared) == (0, 2)


pieces = st.builds(Piece, st.integers(1, 3), st.integers(1, 12))
texts = st.lists(pieces, min_size=1, max_size=4).map(tuple)


@given(texts, texts)
def test_the_common_beginning_is_that_of_their_tokens(one: Text, other: Text) -> None:
    same = 0
    for mine, yours in zip(tokens(one), tokens(other), strict=False):
        if mine != yours:
            break
        same += 1
    found = common(one, other)
    assert found <= same
    if [piece.tokens for piece in one] == [piece.tokens for piece in other]:
        assert found == same  # pieces may be cut elsewhere, which common() need not see


@given(st.lists(texts, max_size=12), st.sampled_from([1, 4, 7]))
def test_what_is_cached_is_the_longest_beginning_that_was_used(all_used: list[Text], size: int) -> None:
    """With room for all of them."""
    cache = BlockCache(10_000, size)
    for number, each in enumerate(all_used):
        before = [tokens(other) for other in all_used[:number]]
        mine = tokens(each)
        best = 0
        for other in before:
            shared = next((n for n, (a, b) in enumerate(zip(mine, other, strict=False)) if a != b), None)
            best = max(best, min(len(mine), len(other)) if shared is None else shared)
        assert cache.cached(each) == min(best, len(mine) - 1) // size * size
        used(cache, each)
    assert (cache.shared, cache.idle) == cache.counted()


moves = st.lists(st.tuples(st.sampled_from(["come", "grow", "go"]), texts, st.integers(0, 30)), max_size=60)


@given(moves, st.sampled_from([6, 15, 40]), st.sampled_from([1, 4]))
def test_blocks_are_kept_whatever_comes_and_goes(
    moves: list[tuple[str, Text, int]], blocks: int, size: int
) -> None:
    cache = BlockCache(blocks, size)
    there: list[tuple[Run, Text, int]] = []
    for move, new, number in moves:
        if move == "come":
            run = cache.admit(new, length(new))
            if run is not None:
                there.append((run, new, length(new)))
        elif there and move == "grow":
            run, each, held = there.pop(number % len(there))
            more = cache.blocks_of(held + number) - cache.blocks_of(held)
            if more <= cache.available:
                cache.grow(more)
                held += number
            there.append((cache.share(run, each, length(each)), each, held))
        elif there:
            run, _, held = there.pop(number % len(there))
            cache.release(run, held)
        assert (cache.shared, cache.idle) == cache.counted()
        assert 0 <= cache.idle <= cache.shared
        assert cache.private >= 0
        assert 0 <= cache.available <= cache.blocks
        assert cache.private + cache.shared <= cache.blocks
    for run, _, held in there:
        cache.release(run, held)
    assert (cache.private, cache.in_use) == (0, 0)
