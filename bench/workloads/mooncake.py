"""Traces with the shape of those that Mooncake published: as long, as bursty, with as much in common.

Place:   bench.workloads.generate replays them where a workload says ``trace: {like: ...}``.
Ignores: the recorded lines. None of them is here; their figures are.
Rule:    a seed gives one trace. Every figure below is published (P), or follows from published ones (D).

A trace is made of tools, each with a beginning common to all its requests, and of conversations, which grow:
a later turn's prompt is the earlier one's whole blocks, what was answered, and a question.

P  Mooncake, FAST25-release/README.md: toolagent 23,608 requests of 8,596 tokens, 182 answered (means);
   conversation 12,031 of 12,035, 343 answered; one hour; blocks of 512 tokens.
P  llmtrafficlens (PyPI) on the conversation trace: median prompt 6,909, answer 350; of its tokens 39.8 %
   could come from an unbounded prefix cache, 35.6 % from one of 16 M tokens, 18.8 % of 4 M, 5.6 % of 1 M,
   4.5 % of 64 k (which is the first block, common to all requests).
P  ai-dynamo/dynamo, lib/kv-router: of the toolagent requests 9,203 begin with the blocks 46, 47 and 3,449
   with 74, 75; 6,554 pairs begin a request; 17.4 blocks a request. The other trace has 7,373 pairs.
P  Two lines that the README shows have 12 blocks in common (46 to 57); their answers have 52 and 26 tokens.
P  Requests come every 3 s, those of 3 s at once; the shortest prompts of conversations have 890 tokens.
D  Tools have 53.6 % of the toolagent requests. If the rest is like the conversation trace, the tools' answers
   have 43 tokens in the mean ((182 - 0.464 * 343) / 0.536), and the second tool's prompts 3,100 tokens
   ((8,596 - 0.390 * 6,560 - 0.464 * 12,035) / 0.146): 5 blocks in common, and as much again as the first's.
D  A conversation has 1.6 to 1.7 requests (12,031 / 7,373; (23,608 - 9,203 - 3,449) / 6,552) in the hour.
D  Between two turns: the cache's sizes divided by 24,600 new tokens/s (12,035 tokens * 3.4/s * 60 %) are 41,
   163 and 650 s; 3 %, 41 % and 88 % of what is found again was there so short a time before. Turns that
   would come after the hour are missing, which is why shorter pauses are drawn than are seen.
D  Fitted to these: first prompts, questions and pauses are log-normal, answers of conversations normal.

What comes out of it (tests/bench/workloads/test_mooncake.py): means, median prompts, pairs and blocks within
5 % of the published, hit rates within 6 points. The tools' answers are too long in the median: with
conversations like those of the other trace, a mean of 182 and a median of 30 need more than a log-normal.
"""

import heapq
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from random import Random
from types import MappingProxyType

from bench.workloads.traces import BLOCK_TOKENS, Request

SECONDS = 3_600.0
TICK_SECONDS = 3.0
LONGEST_TOKENS = 126_000
SHORTEST_TOKENS = 890
"""Of a conversation's first prompt."""
FIRST_MEDIAN_TOKENS, FIRST_SIGMA = 5_300.0, 1.03
"""Of first prompts; with what later turns add their median is the published one."""
QUESTION_MEDIAN_TOKENS, QUESTION_SIGMA = 600.0, 2.2
"""Of what a later turn adds to the answer before it."""
ANSWER_TOKENS, ANSWER_SD_TOKENS = 343.0, 240.0
MORE_TURNS = 0.43
"""Probability of another turn after each."""
PAUSE_MEDIAN_SECONDS, PAUSE_SIGMA = 150.0, 1.2
TOOL_QUESTION_TOKENS = 416.0
TOOL_ANSWER_MEDIAN_TOKENS, TOOL_ANSWER_SIGMA = 12.0, 1.6


@dataclass(frozen=True, slots=True)
class Tool:
    """Requests that all begin with the same ``blocks``."""

    requests: int
    blocks: int


@dataclass(frozen=True, slots=True)
class Shape:
    """Of how many requests a trace is made."""

    tools: tuple[Tool, ...]
    turns: int
    """Requests of conversations."""
    common_blocks: int
    """That all conversations begin with."""


SHAPES: Mapping[str, Shape] = MappingProxyType(
    {
        "mooncake-toolagent": Shape((Tool(9_203, 12), Tool(3_449, 5)), 10_956, 0),
        "mooncake-conversation": Shape((), 12_031, 1),
    }
)


def requests(shape: Shape, chance: Random) -> Iterator[Request]:
    """A whole trace, ordered by time."""
    ids = itertools.count()
    found: list[tuple[float, int, _Make]] = []
    order = itertools.count()
    for tool in shape.tools:
        beginning = tuple(itertools.islice(ids, tool.blocks))
        found += [(chance.uniform(0, SECONDS), next(order), _tool(beginning)) for _ in range(tool.requests)]
    common = tuple(itertools.islice(ids, shape.common_blocks))
    turns = 0
    while turns < shape.turns:
        moments = _turn_moments(chance)[: shape.turns - turns]
        make = _conversation(common)
        found += [(moment, next(order), make) for moment in moments]
        turns += len(moments)
    heapq.heapify(found)
    while found:
        moment, _, make = heapq.heappop(found)
        yield make(moment // TICK_SECONDS * TICK_SECONDS, ids, chance)


_Make = Callable[[float, Iterator[int], Random], Request]


def _turn_moments(chance: Random) -> list[float]:
    """Of one conversation, those within the hour."""
    moment = chance.uniform(0, SECONDS)
    moments = []
    while moment < SECONDS:
        moments.append(moment)
        if chance.random() >= MORE_TURNS:
            break
        moment += PAUSE_MEDIAN_SECONDS * math.exp(chance.gauss(0, PAUSE_SIGMA))
    return moments


def _tool(beginning: tuple[int, ...]) -> _Make:
    def make(at: float, ids: Iterator[int], chance: Random) -> Request:
        tokens = len(beginning) * BLOCK_TOKENS + 1 + int(chance.expovariate(1 / TOOL_QUESTION_TOKENS))
        return Request(
            at,
            tokens,
            _log_normal(TOOL_ANSWER_MEDIAN_TOKENS, TOOL_ANSWER_SIGMA, chance),
            _named(beginning, tokens, ids),
        )

    return make


def _conversation(common: tuple[int, ...]) -> _Make:
    """Makes its turns, one after the other."""
    before, tokens = common, 0

    def make(at: float, ids: Iterator[int], chance: Random) -> Request:
        nonlocal before, tokens
        if not tokens:
            tokens = max(_log_normal(FIRST_MEDIAN_TOKENS, FIRST_SIGMA, chance), SHORTEST_TOKENS)
        else:
            tokens += _log_normal(QUESTION_MEDIAN_TOKENS, QUESTION_SIGMA, chance)
        tokens = min(tokens, LONGEST_TOKENS)
        answer = max(round(chance.gauss(ANSWER_TOKENS, ANSWER_SD_TOKENS)), 1)
        blocks = _named(before, tokens, ids)
        before = blocks[: tokens // BLOCK_TOKENS]
        request = Request(at, tokens, answer, blocks)
        tokens += answer
        return request

    return make


def _named(before: tuple[int, ...], tokens: int, ids: Iterator[int]) -> tuple[int, ...]:
    """The names of a prompt's blocks: those of its beginning, then new ones."""
    count = -(-tokens // BLOCK_TOKENS)
    return (*before[:count], *itertools.islice(ids, max(count - len(before), 0)))


def _log_normal(median: float, sigma: float, chance: Random) -> int:
    return 1 + int(median * math.exp(chance.gauss(0, sigma)))
