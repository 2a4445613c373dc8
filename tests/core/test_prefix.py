"""The prefix index against naive models of what it stands for."""

import gc
import sys
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from xxhash import xxh3_64_intdigest

from epp.core.fleet import Endpoint, EndpointSpec, Fleet, Load
from epp.core.prefix import GROWING, MAX_BLOCKS, Chain, Generations, Lru, PrefixIndex, chain_seed
from epp.core.request import BYTES_PER_TOKEN
from tests.picking import endpoints_of, fleet_of

BLOCK = 64 * BYTES_PER_TOKEN

# Prompts as paths: a piece's hash stands for everything before it, so equal hashes mean equal beginnings.
PROMPT = st.lists(st.integers(0, 2), min_size=1, max_size=12)
PROMPTS = st.lists(PROMPT, max_size=30)


def hashes_of(prompt: Sequence[int]) -> list[int]:
    hashes, seed = [], 0
    for part in prompt:
        seed = xxh3_64_intdigest(bytes([part]), seed)
        hashes.append(seed)
    return hashes


def chain_of(*prompt: int) -> Chain:
    """Of so few blocks that each is a piece."""
    return Chain(hashes_of(prompt), len(prompt))


def index_of(*, capacity: int = 1000, auto_tune: bool = False, contiguous: bool = True) -> PrefixIndex:
    return PrefixIndex(block_tokens=64, capacity=capacity, auto_tune=auto_tune, contiguous=contiguous)


# --- cutting up --------------------------------------------------------------------------------------


def test_hashes_are_chained() -> None:
    first = xxh3_64_intdigest(b"a" * BLOCK, 7)
    second = xxh3_64_intdigest(b"b" * BLOCK, first)
    assert index_of().chain(b"a" * BLOCK + b"b" * BLOCK, 7, 100) == ([first, second], 2)


@pytest.mark.parametrize("contiguous", [True, False])
@pytest.mark.parametrize(
    "size, limit, blocks",
    [(0, 9, 0), (1, 9, 1), (BLOCK, 9, 1), (BLOCK + 1, 9, 2), (2 * BLOCK, 9, 2), (9 * BLOCK, 2, 2), (9, 0, 0)],
)
def test_a_partial_last_block_counts_and_the_limit_holds(
    contiguous: bool, size: int, limit: int, blocks: int
) -> None:
    chain = index_of(contiguous=contiguous).chain(b"x" * size, 0, limit)
    assert (len(chain.hashes), chain.blocks) == (blocks, blocks)


def test_pieces_are_blocks_at_first_and_never_more_than_a_64th_of_what_is_before() -> None:
    assert GROWING[:128] == tuple(range(1, 129)) and GROWING[-1] >= MAX_BLOCKS
    assert all(end < after <= end + max(1, end / 64) for end, after in pairwise(GROWING))


def test_a_prompt_of_220_kb_is_a_third_of_the_hashes() -> None:
    prompt = bytes(220_000)
    pieces, singles = (index_of(contiguous=each).chain(prompt, 0, 2048) for each in (True, False))
    assert (len(pieces.hashes), pieces.blocks) == (266, 860)
    assert (len(singles.hashes), singles.blocks) == (860, 860)


LENGTHS = st.integers(0, 3000) | st.integers(0, 300).map(lambda blocks: blocks * BLOCK)


@given(a=LENGTHS, b=LENGTHS, common=LENGTHS, contiguous=st.booleans())
def test_prompts_share_hashes_exactly_as_far_as_they_share_pieces(
    a: int, b: int, common: int, contiguous: bool
) -> None:
    one, other = b"c" * common + b"a" * a, b"c" * common + b"b" * b
    index = index_of(contiguous=contiguous)
    hashes = [index.chain(prompt, 1, 9999).hashes for prompt in (one, other)]
    ends = [end * BLOCK for end in (GROWING if contiguous else range(1, 1000))]
    pieces = [(start, end) for start, end in pairwise([0, *ends]) if start < min(len(one), len(other))]
    expected = [one[:end] == other[:end] for _, end in pieces]
    assert [x == y for x, y in zip(*hashes, strict=False)] == expected


def test_models_and_salts_begin_different_chains() -> None:
    seeds = {chain_seed("m", ""), chain_seed("m", "s"), chain_seed("n", ""), chain_seed("ms", "")}
    assert len(seeds) == 4


# --- what one endpoint holds -------------------------------------------------------------------------


@given(prompts=PROMPTS, probe=PROMPT, capacity=st.integers(1, 40))
def test_bisection_finds_what_counting_finds(
    prompts: list[list[int]], probe: list[int], capacity: int
) -> None:
    held = Generations(capacity)
    for prompt in prompts:
        held.record(hashes_of(prompt))
        for generation in (held.current, held.previous):
            assert len(generation) <= max(1, capacity // 2)
        assert held.blocks == len(held.current)
    for asked in [probe, *prompts]:
        hashes = hashes_of(asked)
        everything = held.current | held.previous
        counted = next((i for i, block in enumerate(hashes) if block not in everything), len(hashes))
        assert held.match(hashes[::-1]) == counted
        assert not any(block in everything for block in hashes[counted:]), "a block without its beginning"


@given(prompts=PROMPTS)
def test_the_last_prompt_is_held_as_far_as_it_fits(prompts: list[list[int]]) -> None:
    held = Generations(16)
    for prompt in prompts:
        held.record(hashes_of(prompt))
        assert held.match(hashes_of(prompt)[::-1]) == min(len(prompt), 8)


@pytest.mark.skipif(
    sys.version_info >= (3, 14),
    reason="Python 3.14 or newer, which tracks every dict: what the collector has to look at was not tested",
)
@pytest.mark.parametrize("kind", [Generations, Lru])
def test_what_is_held_is_nothing_to_the_garbage_collector(kind: type[Generations] | type[Lru]) -> None:
    held = kind(30)
    for number in range(20):
        held.record(hashes_of([number, 1, 2]))
    kept = [held.hashes] if isinstance(held, Lru) else [held.current, held.previous]
    assert all(kept) and not any(map(gc.is_tracked, kept))


def test_a_repeated_prompt_does_not_push_others_out() -> None:
    held = Generations(20)
    other, repeated = hashes_of([1, 1, 1]), hashes_of([2, 2, 2, 2, 2])
    held.record(other)
    for _ in range(100):
        held.record(repeated)
    assert held.match(other[::-1]) == 3


@given(prompts=PROMPTS, capacity=st.integers(1, 20))
def test_lru_keeps_the_most_recently_used_blocks(prompts: list[list[int]], capacity: int) -> None:
    held, used = Lru(capacity), list[int]()
    for prompt in prompts:
        held.record(hashes_of(prompt))
        for block in hashes_of(prompt):
            used = [other for other in used if other != block] + [block]
    used = used[-capacity:] if prompts else []
    assert list(held.hashes) == used


@pytest.mark.parametrize(
    "capacity, held",
    [
        pytest.param(1000, [0, 495, 495], id="a-generation-is-less-than-a-prompt"),
        pytest.param(2000, [0, 860, 860], id="one-prompt-each"),
        pytest.param(4000, [860, 860, 860], id="two-prompts-each"),
    ],
)
def test_capacity_is_in_blocks_however_long_pieces_are(capacity: int, held: list[int]) -> None:
    index, (endpoint,) = index_of(capacity=capacity), endpoints_of(Load())
    chains = [index.chain(bytes([number]) * 860 * BLOCK, 0, 2048) for number in range(3)]
    for chain in chains:
        index.record(endpoint, chain)
    assert [index.matches([endpoint], chain).get(endpoint, 0) for chain in chains] == held


# --- all endpoints -----------------------------------------------------------------------------------

WENT = st.lists(st.tuples(st.integers(0, 2), PROMPT), max_size=20)


@given(went=WENT, probe=PROMPT, capacity=st.integers(1, 40))
def test_each_endpoint_is_asked_on_its_own(
    went: list[tuple[int, list[int]]], probe: list[int], capacity: int
) -> None:
    index, endpoints = index_of(capacity=capacity), endpoints_of(Load(), Load(), Load())
    for which, prompt in went:
        index.record(endpoints[which], chain_of(*prompt))
    hashes = hashes_of(probe)
    expected = {}
    for endpoint in endpoints:
        held = endpoint.memory.get(index, Generations(0))
        everything = held.current | held.previous
        if count := next((i for i, each in enumerate(hashes) if each not in everything), len(hashes)):
            expected[endpoint] = count
    assert index.matches(endpoints, chain_of(*probe)) == expected


NEWS = st.lists(
    st.tuples(
        st.sampled_from(["goes", "goes", "asks", "restarts", "dies", "is there", "names"]),
        st.integers(0, 2),
        PROMPT,
    ),
    max_size=30,
)


@given(news=NEWS, contiguous=st.booleans())
def test_who_holds_anything_is_looked_up_anew_when_it_may_be_another(
    news: list[tuple[str, int, list[int]]], contiguous: bool
) -> None:
    index, fleet = index_of(auto_tune=True, contiguous=contiguous), fleet_of([Load(started_at=1.0)] * 3)
    everyone = fleet.endpoints
    for number, (what, which, prompt) in enumerate(news):
        endpoint = everyone[which]
        match what:
            case "goes":
                index.record(endpoint, chain_of(*prompt))
            case "restarts":
                fleet.reading(endpoint, Load(started_at=number + 2.0), 0.0)
            case "names":
                fleet.reading(endpoint, Load(cache_block_tokens=256 - number), 0.0)
            case "dies":
                fleet.lost(endpoint, 0.0, "gone")
            case "is there":
                fleet.answered(endpoint, 0.0)
        kept = index.matches(everyone, chain_of(*prompt), fleet.version)
        assert kept == index.matches(list(everyone), chain_of(*prompt))
        some = everyone[: which + 1]
        assert index.matches(some, chain_of(*prompt), fleet.version) == (
            {endpoint: count for endpoint, count in kept.items() if endpoint in some}
        )
        index.matches(everyone, chain_of(*prompt), fleet.version)


def test_a_match_is_counted_in_blocks_however_long_pieces_are() -> None:
    index, (a, b, c) = index_of(capacity=2000), endpoints_of(Load(), Load(), Load())
    prompt = bytes(860 * BLOCK)
    index.record(a, index.chain(prompt, 0, 2048))
    index.record(b, index.chain(prompt[: 500 * BLOCK] + b"another end", 0, 2048))
    matches = index.matches((a, b, c), index.chain(prompt, 0, 2048))
    assert matches == {a: 860, b: max(end for end in GROWING if end <= 500)}
    assert matches[b] > 500 * 63 / 64


@given(went=WENT, probe=PROMPT)
def test_any_block_counting_is_upstreams_loop(went: list[tuple[int, list[int]]], probe: list[int]) -> None:
    index, endpoints = index_of(capacity=6, contiguous=False), endpoints_of(Load(), Load(), Load())
    for which, prompt in went:
        index.record(endpoints[which], chain_of(*prompt))
    expected: dict[Endpoint, int] = {}
    for block in hashes_of(probe):
        holders = [e for e in endpoints if index in e.memory and block in e.memory[index].hashes]
        if not holders:
            break
        for endpoint in holders:
            expected[endpoint] = expected.get(endpoint, 0) + 1
    assert index.matches(endpoints, chain_of(*probe)) == expected


def test_the_two_ways_of_counting_differ_where_a_beginning_was_forgotten() -> None:
    whole = chain_of(*[1] * 8)
    counts = {}
    for contiguous in (True, False):
        a, b = endpoints_of(Load(), Load())
        index = index_of(capacity=8, contiguous=contiguous)
        index.record(a, whole)
        index.record(a, chain_of(2, 2))
        index.record(b, chain_of(*[1] * 4))
        counts[contiguous] = index.matches((a, b), whole)
        assert counts[contiguous][b] == 4
        counts[contiguous] = counts[contiguous][a]
    # Upstream's bookkeeping has lost the first two of eight blocks and still counts the other six;
    # an engine that lost the beginning can use none of them. Ours keeps or forgets a prompt as a whole.
    assert counts == {True: 4, False: 6}


@pytest.mark.parametrize("contiguous", [True, False])
def test_a_restarted_server_holds_nothing(contiguous: bool) -> None:
    fleet = fleet_of([Load(started_at=1.0)])
    (endpoint,), index = fleet.endpoints, index_of(contiguous=contiguous)
    index.record(endpoint, chain_of(1, 2))
    assert index.matches([endpoint], chain_of(1, 2)) == {endpoint: 2}
    fleet.reading(endpoint, Load(started_at=2.0), 1.0)
    assert index.matches([endpoint], chain_of(1, 2)) == {}
    index.record(endpoint, chain_of(3))
    assert index.matches([endpoint], chain_of(3)) == {endpoint: 1}
    assert index.matches([endpoint], chain_of(1, 2)) == {}, "what it held before does not come back"


@pytest.mark.parametrize("contiguous", [True, False])
def test_a_server_that_was_lost_holds_nothing(contiguous: bool) -> None:
    fleet = fleet_of([Load(), Load()])
    endpoint, index = fleet.endpoints[0], index_of(contiguous=contiguous)
    index.record(endpoint, chain_of(1))
    fleet.lost(endpoint, 0.0, "connection refused")
    fleet.answered(endpoint, 0.0)
    assert index.matches(fleet.endpoints, chain_of(1)) == {}


@pytest.mark.parametrize("contiguous", [True, False])
def test_what_is_known_of_an_endpoint_goes_with_it(contiguous: bool) -> None:
    fleet, index = Fleet(), index_of(contiguous=contiguous)
    spec = EndpointSpec(name="e", ip="10.0.0.1", port=1)
    fleet.replace([spec], 0.0)
    index.record(fleet.endpoints[0], chain_of(1))
    fleet.replace([], 0.0)
    fleet.replace([spec], 0.0)
    assert index.matches(fleet.endpoints, chain_of(1)) == {}


def cache(tokens: int, blocks: int) -> Load:
    return Load(cache_block_tokens=tokens, cache_blocks=blocks)


def test_capacity_is_the_engines_cache_in_tokens() -> None:
    (endpoint,), index = endpoints_of(cache(16, 1000)), index_of(auto_tune=True)
    index.record(endpoint, chain_of(1))
    assert endpoint.memory[index].capacity == 250  # 16,000 tokens in blocks of 64, not 1,000 blocks


def test_capacity_stays_known_when_the_reading_is_gone() -> None:
    fleet = fleet_of([cache(16, 1000)], stale_after=2.0)
    (endpoint,), index = fleet.endpoints, index_of(auto_tune=True)
    index.record(endpoint, chain_of(1))
    fleet.expire(10.0)
    assert endpoint.load.cache_blocks is None
    index.record(endpoint, chain_of(2))
    assert endpoint.memory[index].capacity == 250


def test_an_absurd_cache_size_is_not_believed() -> None:
    (endpoint,), index = endpoints_of(cache(16, 10**12)), index_of(auto_tune=True)
    index.record(endpoint, chain_of(1))
    assert endpoint.memory[index].capacity == 1_000_000


def test_without_auto_tune_the_configured_sizes_hold() -> None:
    (endpoint,), index = endpoints_of(cache(256, 1000)), index_of(capacity=77)
    index.record(endpoint, chain_of(1))
    assert (index.block_tokens, endpoint.memory[index].capacity) == (64, 77)


def test_block_size_follows_the_smallest_engine_and_changing_it_forgets() -> None:
    a, b = endpoints_of(cache(128, 100), cache(16, 100))
    index = index_of(auto_tune=True)

    def told(endpoint: Endpoint) -> tuple[int, dict[Endpoint, int]]:
        index.record(endpoint, chain_of(1))
        return index.block_tokens, index.matches((a, b), chain_of(1))

    assert told(a) == (128, {}), "hashed with the size of before: not kept"
    assert told(a) == (128, {a: 1})
    assert told(b) == (64, {}), "everything was forgotten"
    assert told(a) == (64, {a: 1})


def test_another_block_size_cuts_otherwise() -> None:
    (endpoint,), index = endpoints_of(cache(128, 100)), index_of(auto_tune=True)
    assert index.chain(bytes(1024), 0, 99).blocks == 4
    index.record(endpoint, chain_of(1))
    assert index.chain(bytes(1024), 0, 99).blocks == 2
