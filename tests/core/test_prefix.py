"""The prefix index against naive models of what it stands for."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from xxhash import xxh64_intdigest

from epp.core.fleet import Endpoint, EndpointSpec, Fleet, Load
from epp.core.prefix import Generations, Lru, PrefixIndex, chain_seed, hash_blocks
from tests.picking import endpoints_of, fleet_of

# Prompts as paths: a block's hash stands for everything before it, so equal hashes mean equal beginnings.
PROMPT = st.lists(st.integers(0, 2), min_size=1, max_size=12)
PROMPTS = st.lists(PROMPT, max_size=30)


def hashes_of(prompt: Sequence[int]) -> list[int]:
    hashes, seed = [], 0
    for part in prompt:
        seed = xxh64_intdigest(bytes([part]), seed)
        hashes.append(seed)
    return hashes


def index_of(*, capacity: int = 1000, auto_tune: bool = False, contiguous: bool = True) -> PrefixIndex:
    return PrefixIndex(block_tokens=64, capacity=capacity, auto_tune=auto_tune, contiguous=contiguous)


def test_hashes_are_chained() -> None:
    first = xxh64_intdigest(b"aaaa", 7)
    second = xxh64_intdigest(b"bbbb", first)
    assert hash_blocks(b"aaaabbbb", 7, 4, 100) == [first, second]


@pytest.mark.parametrize(
    "size, limit, blocks",
    [(0, 9, 0), (1, 9, 1), (4, 9, 1), (5, 9, 2), (8, 9, 2), (9, 2, 2), (9, 0, 0)],
)
def test_a_partial_last_block_counts_and_the_limit_holds(size: int, limit: int, blocks: int) -> None:
    assert len(hash_blocks(b"x" * size, 0, 4, limit)) == blocks


@given(a=st.binary(max_size=64), b=st.binary(max_size=64))
def test_prompts_share_hashes_exactly_as_far_as_they_share_blocks(a: bytes, b: bytes) -> None:
    shared = 0
    for x, y in zip(hash_blocks(a, 1, 4, 99), hash_blocks(b, 1, 4, 99), strict=False):
        if x != y:
            break
        shared += 1
    blocks_a, blocks_b = ([p[i : i + 4] for i in range(0, len(p), 4)] for p in (a, b))
    same = next((i for i, (x, y) in enumerate(zip(blocks_a, blocks_b, strict=False)) if x != y), None)
    assert shared == (min(len(blocks_a), len(blocks_b)) if same is None else same)


def test_models_and_salts_begin_different_chains() -> None:
    seeds = {chain_seed("m", ""), chain_seed("m", "s"), chain_seed("n", ""), chain_seed("ms", "")}
    assert len(seeds) == 4


@given(prompts=PROMPTS, probe=PROMPT, capacity=st.integers(1, 40))
def test_bisection_finds_what_counting_finds(
    prompts: list[list[int]], probe: list[int], capacity: int
) -> None:
    held = Generations(capacity)
    for prompt in prompts:
        held.record(hashes_of(prompt))
        for generation in (held.current, held.previous):
            assert len(generation) <= max(1, capacity // 2)
        assert len(held) <= max(2, capacity)
    for asked in [probe, *prompts]:
        hashes = hashes_of(asked)
        everything = held.current | held.previous
        counted = next((i for i, block in enumerate(hashes) if block not in everything), len(hashes))
        assert held.match(hashes) == counted
        assert not any(block in everything for block in hashes[counted:]), "a block without its beginning"


@given(prompts=PROMPTS)
def test_the_last_prompt_is_held_as_far_as_it_fits(prompts: list[list[int]]) -> None:
    held = Generations(16)
    for prompt in prompts:
        held.record(hashes_of(prompt))
        assert held.match(hashes_of(prompt)) == min(len(prompt), 8)


def test_a_repeated_prompt_does_not_push_others_out() -> None:
    held = Generations(20)
    other, repeated = hashes_of([1, 1, 1]), hashes_of([2, 2, 2, 2, 2])
    held.record(other)
    for _ in range(100):
        held.record(repeated)
    assert held.match(other) == 3


@given(prompts=PROMPTS, capacity=st.integers(1, 20))
def test_lru_keeps_the_most_recently_used_blocks(prompts: list[list[int]], capacity: int) -> None:
    held, used = Lru(capacity), list[int]()
    for prompt in prompts:
        held.record(hashes_of(prompt))
        for block in hashes_of(prompt):
            used = [other for other in used if other != block] + [block]
    used = used[-capacity:] if prompts else []
    assert list(held.blocks) == used


@given(prompts=st.lists(st.tuples(st.integers(0, 2), PROMPT), max_size=20), probe=PROMPT)
def test_any_block_counting_is_upstreams_loop(prompts: list[tuple[int, list[int]]], probe: list[int]) -> None:
    index, endpoints = index_of(capacity=6, contiguous=False), endpoints_of(Load(), Load(), Load())
    for which, prompt in prompts:
        index.record(endpoints[which], hashes_of(prompt))
    expected: dict[Endpoint, int] = {}
    for block in hashes_of(probe):
        holders = [e for e in endpoints if index in e.memory and block in e.memory[index].blocks]
        if not holders:
            break
        for endpoint in holders:
            expected[endpoint] = expected.get(endpoint, 0) + 1
    assert index.matches(endpoints, hashes_of(probe)) == expected


def test_the_two_ways_of_counting_differ_where_a_beginning_was_forgotten() -> None:
    whole = hashes_of([1] * 8)
    counts = {}
    for contiguous in (True, False):
        a, b = endpoints_of(Load(), Load())
        index = index_of(capacity=8, contiguous=contiguous)
        index.record(a, whole)
        index.record(a, hashes_of([2, 2]))
        index.record(b, whole[:4])
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
    index.record(endpoint, hashes_of([1, 2]))
    assert index.matches([endpoint], hashes_of([1, 2])) == {endpoint: 2}
    fleet.reading(endpoint, Load(started_at=2.0), 1.0)
    assert index.matches([endpoint], hashes_of([1, 2])) == {}
    assert index.blocks_held(endpoint) == 0
    index.record(endpoint, hashes_of([3]))
    assert index.blocks_held(endpoint) == 1
    assert index.matches([endpoint], hashes_of([1, 2])) == {}, "what it held before does not come back"


@pytest.mark.parametrize("contiguous", [True, False])
def test_a_server_that_was_lost_holds_nothing(contiguous: bool) -> None:
    fleet = fleet_of([Load(), Load()])
    endpoint, index = fleet.endpoints[0], index_of(contiguous=contiguous)
    index.record(endpoint, hashes_of([1]))
    fleet.lost(endpoint, "connection refused")
    fleet.answered(endpoint)
    assert index.matches(fleet.endpoints, hashes_of([1])) == {}


@pytest.mark.parametrize("contiguous", [True, False])
def test_what_is_known_of_an_endpoint_goes_with_it(contiguous: bool) -> None:
    fleet, index = Fleet(), index_of(contiguous=contiguous)
    spec = EndpointSpec(name="e", ip="10.0.0.1", port=1)
    fleet.replace([spec])
    index.record(fleet.endpoints[0], hashes_of([1]))
    fleet.replace([])
    fleet.replace([spec])
    assert index.matches(fleet.endpoints, hashes_of([1])) == {}


def cache(tokens: int, blocks: int) -> Load:
    return Load(cache_block_tokens=tokens, cache_blocks=blocks)


def test_capacity_is_the_engines_cache_in_tokens() -> None:
    (endpoint,), index = endpoints_of(cache(16, 1000)), index_of(auto_tune=True)
    index.record(endpoint, [1])
    assert endpoint.memory[index].capacity == 250  # 16,000 tokens in blocks of 64, not 1,000 blocks


def test_capacity_stays_known_when_the_reading_is_gone() -> None:
    fleet = fleet_of([cache(16, 1000)], stale_after=2.0)
    (endpoint,), index = fleet.endpoints, index_of(auto_tune=True)
    index.record(endpoint, [1])
    fleet.candidates(10.0)
    assert endpoint.load.cache_blocks is None
    index.record(endpoint, [2])
    assert endpoint.memory[index].capacity == 250


def test_an_absurd_cache_size_is_not_believed() -> None:
    (endpoint,), index = endpoints_of(cache(16, 10**12)), index_of(auto_tune=True)
    index.record(endpoint, [1])
    assert endpoint.memory[index].capacity == 1_000_000


def test_without_auto_tune_the_configured_sizes_hold() -> None:
    (endpoint,), index = endpoints_of(cache(256, 1000)), index_of(capacity=77)
    index.record(endpoint, [1])
    assert (index.block_tokens, endpoint.memory[index].capacity) == (64, 77)


def test_block_size_follows_the_smallest_engine_and_changing_it_forgets() -> None:
    a, b = endpoints_of(cache(128, 100), cache(16, 100))
    index = index_of(auto_tune=True)
    index.record(a, [1])  # hashed with the size of before: not kept
    assert (index.block_tokens, index.blocks_held(a)) == (128, 0)
    index.record(a, [2])
    assert index.blocks_held(a) == 1
    index.record(b, [3])
    assert (index.block_tokens, index.blocks_held(a), index.blocks_held(b)) == (64, 0, 0)
    index.record(a, [4])
    assert (index.block_tokens, index.blocks_held(a)) == (64, 1)
    assert index.matches((a, b), [4]) == {a: 1}
