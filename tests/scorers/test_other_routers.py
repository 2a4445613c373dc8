"""Rules of other routers: each does what its source says."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp.core.fleet import Endpoint, Load, Reservation
from epp.core.scoring import Cycle, PrefixMatch, Scorer, cheapest_first
from scorers.aibrix_prefix_cache_scorer import AibrixPrefixCacheScorer
from scorers.bounded_load_hash_picker import BoundedLoadHashPicker
from scorers.dynamo_kv_scorer import DynamoKvScorer
from scorers.inflight_load_producer import InflightLoadProducer
from scorers.least_work_left_scorer import LeastWorkLeftScorer
from scorers.lmetric_scorer import LmetricScorer
from scorers.power_of_two_picker import PowerOfTwoPicker
from scorers.round_robin_picker import RoundRobinPicker
from scorers.sglang_cache_aware_scorer import SglangCacheAwareScorer
from tests.picking import cycle_of, endpoints_of, prompt_of

BLOCK = 64
PREFIX, IN_FLIGHT = "approx-prefix-cache-producer", "inflight-load-producer"


def servers(*work: Sequence[int], load: Load | None = None) -> tuple[Endpoint, ...]:
    """Each with reservations of so many tokens."""
    found = endpoints_of(*[load or Load()] * len(work))
    for endpoint, tokens in zip(found, work, strict=True):
        for each in tokens:
            Reservation(endpoint, each)
    return found


def asked(endpoints: Sequence[Endpoint], blocks: int, held: Sequence[int] = (), *, seed: int = 0) -> Cycle:
    """A prompt of so many blocks, of which the endpoints hold so many."""
    cycle = cycle_of(prompt_of("x" * blocks * BLOCK * 4), seed=seed)
    matches = {each: count for each, count in zip(endpoints, held, strict=False) if count}
    cycle.facts[PREFIX] = PrefixMatch(matches, blocks, BLOCK)
    InflightLoadProducer().produce(cycle, endpoints, IN_FLIGHT)
    return cycle


def best(scorer: Scorer, cycle: Cycle, endpoints: Sequence[Endpoint]) -> set[str]:
    scores = [score for score in scorer.score(cycle, endpoints) if score is not None]
    assert len(scores) == len(endpoints)
    return {each.name for each, score in zip(endpoints, scores, strict=True) if score == max(scores)}


def test_ranks_are_equal_steps_and_equals_are_equal() -> None:
    assert cheapest_first([7, 3, 3, 100]) == [0.5, 1.0, 1.0, 0.0]
    assert cheapest_first([5, 5]) == [1.0, 1.0]
    assert cheapest_first([]) == []


# --- LMetric, least work left ----------------------------------------------------------------------


def test_lmetric_multiplies_the_prefill_work_by_the_batch() -> None:
    # 640 tokens asked. e0: (0 + 640) * (9 + 1) = 6400; e1: (1280 + 640) * (1 + 1) = 3840
    endpoints = servers([0] * 9, [1280])
    assert best(LmetricScorer(), asked(endpoints, 10), endpoints) == {"e1"}
    # with nothing to be worked on there, the batch does not matter: (0 + 0) * 10 = 0
    assert best(LmetricScorer(), asked(endpoints, 10, [10, 0]), endpoints) == {"e0"}


def test_least_work_left_looks_at_tokens_and_then_at_requests() -> None:
    endpoints = servers([0] * 9, [1280], [0])
    assert best(LeastWorkLeftScorer(), asked(endpoints, 10), endpoints) == {"e2"}
    assert best(LeastWorkLeftScorer(), asked(endpoints, 10, [10, 0, 0]), endpoints) == {"e0"}
    assert best(LeastWorkLeftScorer(), asked(endpoints, 30, [0, 30, 0]), endpoints) == {"e1"}


# --- AIBrix ----------------------------------------------------------------------------------------


def test_aibrix_takes_the_longest_match_among_those_that_are_not_unusually_busy() -> None:
    endpoints = servers([0] * 2, [0] * 2, [0] * 3)  # mean 2.33, deviation 0.47
    assert best(AibrixPrefixCacheScorer(), asked(endpoints, 10, [5, 4, 9]), endpoints) == {"e0"}
    assert best(AibrixPrefixCacheScorer(), asked(endpoints, 10, [0, 0, 9]), endpoints) == {"e0", "e1"}
    wide = AibrixPrefixCacheScorer(standard_deviation_factor=2.0)
    assert best(wide, asked(endpoints, 10, [5, 4, 9]), endpoints) == {"e2"}


def test_aibrix_forgets_matches_while_requests_are_uneven() -> None:
    endpoints = servers([0] * 9, [0] * 1, [0])
    assert best(AibrixPrefixCacheScorer(), asked(endpoints, 10, [0, 9, 0]), endpoints) == {"e1"}
    endpoints = servers([0] * 10, [0] * 2, [0])  # more than 8 apart
    assert best(AibrixPrefixCacheScorer(), asked(endpoints, 10, [0, 9, 0]), endpoints) == {"e2"}


def test_aibrix_prefers_the_less_busy_of_equal_matches() -> None:
    endpoints = servers([0] * 2, [0], [0] * 2)
    assert best(AibrixPrefixCacheScorer(), asked(endpoints, 10, [5, 5, 5]), endpoints) == {"e1"}


# --- SGLang ----------------------------------------------------------------------------------------


def told(scorer: SglangCacheAwareScorer, endpoint: Endpoint, cycle: Cycle) -> None:
    cycle.picks = {"default": [endpoint]}
    assert scorer.sent(cycle, "default") == {}


def test_sglang_takes_a_match_of_more_than_half_else_the_smallest_tree() -> None:
    scorer, endpoints = SglangCacheAwareScorer(), servers([], [], [])
    told(scorer, endpoints[0], asked(endpoints, 30))
    told(scorer, endpoints[1], asked(endpoints, 20))
    assert best(scorer, asked(endpoints, 10), endpoints) == {"e2"}
    told(scorer, endpoints[2], asked(endpoints, 25))
    assert best(scorer, asked(endpoints, 10, [5, 0, 0]), endpoints) == {"e1"}  # a half is not more than it
    assert best(scorer, asked(endpoints, 10, [6, 0, 0]), endpoints) == {"e0"}


def test_sglang_counts_only_what_was_new_to_a_tree() -> None:
    scorer, endpoints = SglangCacheAwareScorer(), servers([], [])
    told(scorer, endpoints[0], asked(endpoints, 30, [28]))
    told(scorer, endpoints[1], asked(endpoints, 3))
    assert best(scorer, asked(endpoints, 10), endpoints) == {"e0"}


@pytest.mark.parametrize(
    "requests, chosen",
    [((33, 0), "e1"), ((32, 0), "e0"), ((363, 330), "e0"), ((364, 330), "e1")],
    ids=["33-apart", "32-apart", "not-10%-more", "10%-more"],
)
def test_sglang_goes_by_requests_while_they_are_uneven(requests: tuple[int, int], chosen: str) -> None:
    endpoints = servers(*([0] * count for count in requests))
    assert best(SglangCacheAwareScorer(), asked(endpoints, 10, [9, 0]), endpoints) == {chosen}


# --- Dynamo ----------------------------------------------------------------------------------------


def test_dynamo_adds_prefill_less_overlap_and_the_blocks_in_use() -> None:
    half = Load(kv_usage=0.5, cache_blocks=80, cache_block_tokens=16)  # 640 tokens: 10 of 64
    endpoints = servers([], [])
    busy = endpoints_of(half, Load(kv_usage=0.0, cache_blocks=80, cache_block_tokens=16))
    assert best(DynamoKvScorer(), asked(busy, 20, [9, 0]), busy) == {"e1"}  # 11 + 10 against 20
    assert best(DynamoKvScorer(), asked(busy, 20, [11, 0]), busy) == {"e0"}  # 9 + 10 against 20
    assert best(DynamoKvScorer(overlap_credit=0.0), asked(busy, 20, [11, 0]), busy) == {"e1"}
    assert best(DynamoKvScorer(), asked(endpoints, 20), endpoints) == {"e0", "e1"}


def test_dynamo_counts_requests_where_the_engine_does_not_tell_its_blocks() -> None:
    endpoints = servers([0], [0] * 2)
    assert best(DynamoKvScorer(), asked(endpoints, 10, [0, 9]), endpoints) == {"e0"}  # 10 + 10, 1 + 20
    assert best(DynamoKvScorer(), asked(endpoints, 10, [0, 10]), endpoints) == {"e0", "e1"}
    endpoints = servers([64 * 4], [])
    assert best(DynamoKvScorer(), asked(endpoints, 0), endpoints) == {"e1"}


# --- pickers ---------------------------------------------------------------------------------------


def counts(picked: Sequence[Endpoint]) -> Mapping[str, int]:
    return Counter(endpoint.name for endpoint in picked)


def test_power_of_two_takes_the_less_busy_of_any_two() -> None:
    endpoints, cycle = servers([0] * 3, [0] * 2, [0]), cycle_of(seed=3)
    picked = [PowerOfTwoPicker().pick(cycle, endpoints, ()) for _ in range(3000)]
    found = counts([one for (one,) in picked])
    assert set(found) == {"e1", "e2"}  # the busiest never is the less busy one
    assert found["e2"] == pytest.approx(2000, abs=100)  # it is in two of three pairs


def test_power_of_two_is_even_among_equals() -> None:
    endpoints, cycle = servers([0], [0], [0]), cycle_of(seed=3)
    found = counts([PowerOfTwoPicker().pick(cycle, endpoints, ())[0] for _ in range(3000)])
    assert [found[name] for name in ("e0", "e1", "e2")] == pytest.approx([1000] * 3, abs=100)
    assert PowerOfTwoPicker().pick(cycle, endpoints[:1], ()) == (endpoints[0],)


def test_round_robin_goes_on_where_it_was_when_others_come_and_go() -> None:
    picker, cycle = RoundRobinPicker(), cycle_of()
    e0, e1, e2 = endpoints = servers([], [], [])
    said = [picker.pick(cycle, among, ())[0] for among in (endpoints, endpoints, (e2, e0), (e1, e0, e2))]
    assert said == [e0, e1, e2, e0]
    assert picker.pick(cycle, (e0, e2), ())[0] is e2


def hashed(picker: BoundedLoadHashPicker, endpoints: Sequence[Endpoint], text: str, **more: Any) -> Endpoint:
    return picker.pick(cycle_of(prompt_of(text, **more)), endpoints, ())[0]


def test_a_prompts_beginning_has_its_place_on_the_ring() -> None:
    picker, endpoints = BoundedLoadHashPicker(), servers(*[[]] * 5)
    texts = [f"{number:0100}" for number in range(200)]
    before = [hashed(picker, endpoints, text) for text in texts]
    assert [hashed(picker, endpoints, text + "and more") for text in texts] == before
    assert [hashed(picker, endpoints, text, model="other") for text in texts] != before
    assert min(counts(before).values()) > 15  # of 40, if they were all alike
    left = endpoints[:-1]
    moved = [
        now
        for now, then in zip((hashed(picker, left, t) for t in texts), before, strict=True)
        if now is not then
    ]
    assert len(moved) == counts(before)["e4"]  # those of whoever is gone, and nobody else's


@given(st.lists(st.integers(0, 30), min_size=1, max_size=6), st.text(max_size=5), st.integers(100, 300))
def test_nobody_gets_more_than_the_bound(requests: list[int], text: str, percent: int) -> None:
    endpoints = servers(*([0] * count for count in requests))
    chosen = hashed(BoundedLoadHashPicker(mean_load_factor=percent, replication=8), endpoints, text)
    mean = (sum(requests) + 1) / len(requests)
    assert chosen.requests_in_flight < mean * percent / 100 + 1


def test_a_hot_prompt_spills_over_to_the_next_on_the_ring() -> None:
    picker, endpoints = BoundedLoadHashPicker(), servers(*[[]] * 4)
    for _ in range(40):
        Reservation(hashed(picker, endpoints, "hot"), 0)
    assert max(each.requests_in_flight for each in endpoints) == 13  # ceil(10 * 1.25), and not 40


@pytest.mark.parametrize(
    "make, field",
    [
        (lambda: AibrixPrefixCacheScorer(imbalance_abs_count=-1), "imbalanceAbsCount"),
        (lambda: AibrixPrefixCacheScorer(standard_deviation_factor=-0.1), "standardDeviationFactor"),
        (lambda: SglangCacheAwareScorer(balance_abs_threshold=-1), "balanceAbsThreshold"),
        (lambda: SglangCacheAwareScorer(balance_rel_threshold=0.9), "balanceRelThreshold"),
        (lambda: SglangCacheAwareScorer(cache_threshold=1.1), "cacheThreshold"),
        (lambda: DynamoKvScorer(prefill_load_scale=-1.0), "prefillLoadScale"),
        (lambda: DynamoKvScorer(overlap_credit=float("nan")), "overlapCredit"),
        (lambda: BoundedLoadHashPicker(mean_load_factor=99), "meanLoadFactor"),
        (lambda: BoundedLoadHashPicker(prefix_char_length=0), "prefixCharLength"),
        (lambda: BoundedLoadHashPicker(replication=0), "replication"),
    ],
)
def test_a_parameter_that_means_nothing_is_refused_by_name(make: Any, field: str) -> None:
    with pytest.raises(ValueError, match=f"^{field}: "):
        make()
