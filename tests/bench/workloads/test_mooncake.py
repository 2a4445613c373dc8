"""Traces that are made have the figures that are published of the recorded ones."""

from collections import Counter, OrderedDict
from collections.abc import Sequence
from random import Random
from statistics import fmean, median

import pytest

from bench.workloads.mooncake import SECONDS, SHAPES, requests
from bench.workloads.traces import BLOCK_TOKENS, Request


@pytest.fixture(scope="module", params=SHAPES)
def named(request: pytest.FixtureRequest) -> tuple[str, list[Request]]:
    return request.param, list(requests(SHAPES[request.param], Random(1)))


PUBLISHED = {  # requests, mean and median prompt, mean answer, pairs of first blocks, blocks a request
    "mooncake-toolagent": (23_608, 8_596, 6_346, 182, 6_554, 17.4),
    "mooncake-conversation": (12_031, 12_035, 6_909, 343, 7_373, 24.0),
}


def test_lengths_are_as_published(named: tuple[str, list[Request]]) -> None:
    name, trace = named
    count, prompt, middle, answer, pairs, blocks = PUBLISHED[name]
    assert len(trace) == count
    assert fmean(each.input_tokens for each in trace) == pytest.approx(prompt, rel=0.05)
    assert median(each.input_tokens for each in trace) == pytest.approx(middle, rel=0.05)
    assert fmean(each.output_tokens for each in trace) == pytest.approx(answer, rel=0.05)
    assert len({each.blocks[:2] for each in trace}) == pytest.approx(pairs, rel=0.05)
    assert fmean(len(each.blocks) for each in trace) == pytest.approx(blocks, rel=0.05)


def test_requests_come_every_3_seconds_within_the_hour(named: tuple[str, list[Request]]) -> None:
    moments = [each.at for each in named[1]]
    assert moments == sorted(moments) and moments[0] >= 0 and moments[-1] < SECONDS
    assert all(moment % 3 == 0 for moment in moments) and len(set(moments)) > 1_150


def test_blocks_are_as_many_as_prompts_need_and_new_ones_are_counted_up(
    named: tuple[str, list[Request]],
) -> None:
    newest = -1
    for each in named[1]:
        assert len(each.blocks) == -(-each.input_tokens // BLOCK_TOKENS)
        new = [block for block in each.blocks if block > newest]
        newest = max(newest, *each.blocks)
        assert new == sorted(new)


def test_two_tools_have_the_published_shares() -> None:
    trace = list(requests(SHAPES["mooncake-toolagent"], Random(1)))
    begins = Counter(each.blocks[:2] for each in trace)
    assert [count for _, count in begins.most_common(2)] == [9_203, 3_449]


def hits(trace: Sequence[Request], tokens: int) -> float:
    """Part of the later half's tokens that a cache of so many, the least recently used leaving first, has."""
    cached: OrderedDict[int, None] = OrderedDict()
    found = asked = 0
    for number, each in enumerate(trace):
        known = next((at for at, block in enumerate(each.blocks) if block not in cached), len(each.blocks))
        if number >= len(trace) // 2:
            found += min(known * BLOCK_TOKENS, each.input_tokens)
            asked += each.input_tokens
        for block in reversed(each.blocks):
            cached[block] = None
            cached.move_to_end(block)
        while len(cached) > tokens // BLOCK_TOKENS:
            cached.popitem(last=False)
    return found / asked


@pytest.mark.parametrize(
    "tokens, published",
    [(64_000, 0.045), (1_000_000, 0.056), (4_000_000, 0.188), (16_000_000, 0.356), (10**12, 0.398)],
)
def test_a_cache_finds_about_as_much_again_as_in_the_conversation_trace(
    tokens: int, published: float
) -> None:
    trace = list(requests(SHAPES["mooncake-conversation"], Random(1)))
    assert hits(trace, tokens) == pytest.approx(published, abs=0.06)
