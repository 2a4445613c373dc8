"""load-aware, token-load and no-hit-lru scorers, against numbers worked out by hand."""

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp.core.fleet import Endpoint, Load, Reservation
from epp.core.request import Payload, Request
from epp.core.scheduling import Decision, Profile, Scheduler
from epp.core.scoring import PrefixMatch, Scores
from scorers.approx_prefix_cache_producer import ApproxPrefixCacheProducer
from scorers.inflight_load_producer import InflightLoadProducer
from scorers.load_aware_scorer import LoadAwareScorer
from scorers.max_score_picker import MaxScorePicker
from scorers.no_hit_lru_scorer import NoHitLruScorer
from scorers.token_load_scorer import TokenLoadScorer
from tests.picking import cycle_of, endpoints_of, fleet_of, prompt_of

PREFIX, INFLIGHT = "approx-prefix-cache-producer", "inflight-load-producer"


@pytest.mark.parametrize(
    "threshold, queues, expected",
    [
        pytest.param(128, [0, 32, 64], [0.5, 0.375, 0.25], id="half-the-share-that-is-left"),
        pytest.param(128, [128, 1000], [0.0, 0.0], id="nothing-from-the-threshold-on"),
        pytest.param(4, [1, None], [0.375, None], id="unknown-has-no-score"),
        pytest.param(128, [0], [0.5], id="never-above-a-half"),
    ],
)
def test_load_aware_scorer_measures_queues_by_a_threshold(
    threshold: int, queues: list[int | None], expected: Scores
) -> None:
    endpoints = endpoints_of(*[Load(waiting=waiting) for waiting in queues])
    assert LoadAwareScorer(threshold=threshold).score(cycle_of(), endpoints) == expected


def loaded(*tokens: int) -> tuple[Endpoint, ...]:
    endpoints = endpoints_of(*[Load()] * len(tokens))
    for endpoint, count in zip(endpoints, tokens, strict=True):
        Reservation(endpoint, count)
    return endpoints


@pytest.mark.parametrize(
    "threshold, tokens, held, expected",
    [
        # the prompt has 4000 bytes, 1000 tokens
        pytest.param(10_000, [0, 4000, 9000], [0, 0, 0], [0.9, 0.5, 0.0], id="in-flight-and-the-prompt"),
        pytest.param(10_000, [4000, 20_000], [5, 0], [0.532, 0.0], id="less-what-is-cached"),
        pytest.param(4_194_304, [1_047_576], [0], [0.75], id="the-default"),
        pytest.param(10_000, [0], [20], [1.0], id="all-cached-is-no-work"),
    ],
)
def test_token_load_scorer_counts_what_would_have_to_be_worked_on(
    threshold: int, tokens: list[int], held: list[int], expected: list[float]
) -> None:
    endpoints = loaded(*tokens)
    cycle = cycle_of(Request(payload=Payload(prompt=b"x" * 4000)))
    blocks = dict(zip(endpoints, held, strict=True))
    cycle.facts[PREFIX] = PrefixMatch(blocks, 16, 64)
    InflightLoadProducer().produce(cycle, endpoints, INFLIGHT)
    scorer = TokenLoadScorer(queue_threshold_tokens=threshold)
    assert scorer.score(cycle, endpoints) == pytest.approx(expected)


def test_token_load_scorer_books_estimated_output_as_its_producer_does() -> None:
    endpoints = loaded(0)
    cycle = cycle_of(Request(payload=Payload(prompt=b"x" * 4000)))
    producer = InflightLoadProducer(add_estimated_output_tokens=True, output_ratio=2.0)
    producer.produce(cycle, endpoints, INFLIGHT)
    scorer = TokenLoadScorer(queue_threshold_tokens=10_000)
    assert scorer.score(cycle, endpoints) == [0.7]  # 1000 of the prompt, 2000 of the answer
    producer.picked(cycle, endpoints[0], None)
    assert cycle.charge == 3000


@given(tokens=st.lists(st.integers(0, 10_000), min_size=1, max_size=8), size=st.integers(0, 40_000))
def test_more_tokens_never_score_higher(tokens: list[int], size: int) -> None:
    endpoints = loaded(*tokens)
    cycle = cycle_of(Request(payload=Payload(prompt=b"x" * size)))
    InflightLoadProducer().produce(cycle, endpoints, INFLIGHT)
    scores = TokenLoadScorer(queue_threshold_tokens=8192).score(cycle, endpoints)
    rated = sorted(zip(tokens, scores, strict=True), key=lambda pair: pair[0])
    assert [score for _, score in rated] == sorted((score or 0.0 for score in scores), reverse=True)
    assert all(score is not None and 0.0 <= score <= 1.0 for score in scores)


# --- no-hit-lru --------------------------------------------------------------------------------------


def cold(scorer: NoHitLruScorer, endpoint: Endpoint) -> None:
    """A request that nobody has cached goes there."""
    cycle = cycle_of()
    cycle.picks = {"default": (endpoint,)}
    scorer.sent(cycle, "default")


@pytest.mark.parametrize(
    "sent, expected",
    [
        pytest.param([], [1.0, 0.75, 0.5, 0.25, 0.0], id="nobody-had-one"),
        pytest.param([0], [0.0, 1.0, 0.75, 0.5, 0.25], id="who-had-one-is-last"),
        pytest.param([3, 1, 4], [1.0, 0.25, 0.75, 0.5, 0.0], id="longest-ago-first"),
        pytest.param([3, 1, 4, 3], [1.0, 0.5, 0.75, 0.0, 0.25], id="its-last-one-counts"),
        pytest.param([4, 3, 2, 1, 0], [0.0, 0.25, 0.5, 0.75, 1.0], id="all-had-one"),
    ],
)
def test_no_hit_lru_scorer_goes_round(sent: list[int], expected: list[float]) -> None:
    scorer, endpoints = NoHitLruScorer(), endpoints_of(*[Load()] * 5)
    for place in sent:
        cold(scorer, endpoints[place])
    assert scorer.score(cycle_of(), endpoints) == expected


def test_ranks_are_among_the_candidates() -> None:
    scorer, endpoints = NoHitLruScorer(), endpoints_of(*[Load()] * 4)
    for place in (0, 1, 2, 3):
        cold(scorer, endpoints[place])
    assert scorer.score(cycle_of(), [endpoints[3], endpoints[1]]) == [0.0, 1.0]
    assert scorer.score(cycle_of(), [endpoints[3]]) == [1.0]
    assert scorer.score(cycle_of(), []) == []


def test_a_request_that_somebody_has_cached_is_scored_and_remembered_by_nobody() -> None:
    scorer, endpoints = NoHitLruScorer(), endpoints_of(*[Load()] * 3)
    warm = cycle_of()
    warm.facts[PREFIX] = PrefixMatch({endpoints[1]: 2}, 4, 64)
    assert scorer.score(warm, endpoints) == [0.5, 0.5, 0.5]
    warm.picks = {"default": (endpoints[1],)}
    scorer.sent(warm, "default")
    assert scorer.score(cycle_of(), endpoints) == [1.0, 0.5, 0.0]


def test_no_more_endpoints_are_remembered_than_said() -> None:
    scorer, endpoints = NoHitLruScorer(lru_size=2), endpoints_of(*[Load()] * 4)
    for place in (0, 1, 2):
        cold(scorer, endpoints[place])
    assert list(scorer.last_cold) == [endpoints[1], endpoints[2]]


@given(sent=st.lists(st.integers(0, 5), max_size=30))
def test_every_rank_is_there_once_and_the_last_is_the_worst(sent: list[int]) -> None:
    scorer, endpoints = NoHitLruScorer(), endpoints_of(*[Load()] * 6)
    for place in sent:
        cold(scorer, endpoints[place])
    scores = [score or 0.0 for score in scorer.score(cycle_of(), endpoints)]
    assert sorted(scores) == pytest.approx([0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
    if sent:
        assert scores[sent[-1]] == 0.0


def test_cold_prompts_fill_all_caches_alike() -> None:
    scorer = NoHitLruScorer()
    profile = Profile(scorers=[("lru", scorer, 1.0)], picker=("max-score-picker", MaxScorePicker()))
    producers = [(PREFIX, ApproxPrefixCacheProducer())]
    scheduler = Scheduler(fleet_of([Load()] * 4), profile, producers, chance=random.Random(0))
    went: list[str] = []
    for number in range(8):
        decision = scheduler.pick(prompt_of(f"{number} " * 500), 0.0)
        assert isinstance(decision, Decision) and decision.response_headers is None
        went.append(decision.endpoints[0].name)
    assert sorted(went[:4]) == ["e0", "e1", "e2", "e3"] and went[4:] == went[:4]


@pytest.mark.parametrize(
    "plugin_type, parameters, message",
    [
        (LoadAwareScorer, {"threshold": 0}, "threshold: must be at least 1, got 0"),
        (TokenLoadScorer, {"queue_threshold_tokens": 0}, "queueThresholdTokens: must be at least 1, got 0"),
        (NoHitLruScorer, {"lru_size": 0}, "lruSize: must be at least 1, got 0"),
    ],
)
def test_what_cannot_work_is_refused(plugin_type: Any, parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plugin_type(**parameters)
