"""Where a request costs least: conversations with the predicted-cost-scorer over servers of known speed."""

import random
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from epp.core.fleet import Endpoint, Load, Reservation
from epp.core.lifecycle import Phase
from epp.core.request import Payload, Request
from epp.core.scheduling import Decision, Profile, Scheduler, describe
from epp.core.scoring import Cycle, Explained, PrefixMatch
from scorers.approx_prefix_cache_producer import ApproxPrefixCacheProducer
from scorers.max_score_picker import MaxScorePicker
from scorers.predicted_cost_scorer import NEAR, TERMS, PredictedCostScorer
from tests.picking import cycle_of, fleet_of

FAST, SLOW = 1 / 10_000, 1 / 1_000
"""Seconds a prompt token."""
PRODUCER = "approx-prefix-cache-producer"
IDLE = Load(waiting=0, running=0)


def asked(
    tokens: int, *, text: str = "x", streamed: bool = True, promise: Mapping[str, str] | None = None
) -> Request:
    prompt = (text * (tokens * 4 // len(text) + 1))[: tokens * 4].encode()
    payload = Payload(model="m", prompt=prompt, streaming=True)
    return Request(
        payload=payload,
        target_model="m",
        shows_first_token=streamed,
        headers=promise or {},
    )


class Talk:
    """A fleet, a scheduler over it, and a clock."""

    def __init__(self, *speeds: float | None, load: Load = IDLE, seed: int = 0) -> None:
        """``speeds``: seconds a prompt token of each server; None: nobody has seen it work."""
        self.fleet = fleet_of([load] * len(speeds))
        self.now = 0.0
        for endpoint, speed in zip(self.fleet.endpoints, speeds, strict=True):
            if speed is not None:
                taught(endpoint, speed)
        self.scorer = PredictedCostScorer()
        profile = Profile(scorers=[("cost", self.scorer, 1.0)], picker=("max-score-picker", MaxScorePicker()))
        self.producer, self.chance = ApproxPrefixCacheProducer(), random.Random(seed)
        self.scheduler = Scheduler(self.fleet, profile, [(PRODUCER, self.producer)], chance=self.chance)

    def __getitem__(self, number: int) -> Endpoint:
        return self.fleet.endpoints[number]

    def ask(self, request: Request) -> Decision:
        decision = self.scheduler.pick(request, self.now)
        assert isinstance(decision, Decision)
        return decision

    def scores(self, request: Request) -> Explained:
        """What it would score, without being sent."""
        cycle = cycle_of(request, now=self.now)
        self.producer.produce(cycle, self.fleet.endpoints, PRODUCER)
        found = self.scorer.score(cycle, self.fleet.endpoints)
        assert isinstance(found, Explained)
        return found

    def goes_to(self, request: Request) -> str:
        """Where it would go."""
        picked = MaxScorePicker().pick(
            Cycle(request, now=self.now, chance=self.chance),
            self.fleet.endpoints,
            [score or 0.0 for score in self.scores(request)],
        )
        return picked[0].name

    def answer(self, decision: Decision, *, after: float = 0.0) -> None:
        self.now += after
        decision.reservation.prefilled(self.now)

    def terms(self, request: Request) -> Mapping[str, Mapping[str, float]]:
        """What each server would cost [ms], by its name."""
        scores = self.scores(request)
        return {each.name: scores.terms(place) for place, each in enumerate(self.fleet.endpoints)}


def taught(endpoint: Endpoint, per_token: float, *, overhead: float = 0.02) -> None:
    for n in range(40):
        tokens = 500 + 100 * (n % 30)
        endpoint.rates.first_token(tokens, overhead + tokens * per_token, n - 60.0)
        endpoint.rates.generated(100, 1.0, 0.0, n - 60.0)
        endpoint.rates.stayed(1.0, n - 60.0)


def held(talk: Talk, number: int, tokens: int, text: str) -> None:
    """A conversation of so many tokens was with this server."""
    cycle = cycle_of(asked(tokens, text=text))
    found = talk.producer.produce(cycle, talk.fleet.endpoints, PRODUCER)
    talk.producer.picked(cycle, talk[number], found)


# --- the own first token -------------------------------------------------------------------------------


def test_a_cached_prompt_goes_to_its_server() -> None:
    talk = Talk(FAST, FAST, FAST)
    held(talk, 1, 4_000, "conversation ")
    assert {talk.goes_to(asked(4_100, text="conversation ")) for _ in range(20)} == {"e1"}


def test_a_cached_prompt_stays_until_the_queue_there_costs_more_than_to_work_on_it_elsewhere() -> None:
    talk = Talk(FAST, FAST)
    held(talk, 1, 4_000, "conversation ")
    again = asked(4_000, text="conversation ")
    queued = 0
    while talk.goes_to(again) == "e1":
        Reservation(talk[1], 0, at=talk.now, is_streamed=True, prompt_tokens=1_000)
        queued += 1
        assert queued < 50
        talk.now += 1.0
    assert queued > 3
    terms = talk.terms(again)
    assert sum(terms["e0"].values()) < sum(terms["e1"].values())
    assert terms["e1"]["first_token_ms"] > 0.9 * 4_000 * FAST * 1000, "it was worth waiting for what it saves"


def test_a_prompt_that_nobody_knows_goes_to_the_fastest() -> None:
    talk = Talk(SLOW, FAST, SLOW)
    assert {talk.goes_to(asked(2_000)) for _ in range(20)} == {"e1"}


def test_the_slow_one_is_used_when_the_fast_one_has_ten_times_as_much_to_do() -> None:
    talk = Talk(SLOW, FAST)
    picked = [talk.ask(asked(1_000, text=f"prompt {n} ")).endpoints[0].name for n in range(22)]
    assert 1 <= picked.count("e0") <= 4
    assert picked[0] == "e1"


def test_our_own_requests_count_at_once() -> None:
    talk = Talk(FAST, FAST, FAST, FAST)
    picked = [talk.ask(asked(1_000, text=f"prompt {n} ")).endpoints[0].name for n in range(8)]
    assert sorted(picked) == sorted(["e0", "e1", "e2", "e3"] * 2), "a burst is spread, between two readings"


def test_work_passes_with_time_and_with_first_tokens() -> None:
    talk = Talk(FAST)
    ahead = talk.ask(asked(5_000, text="long "))
    me = asked(100)
    at_once = talk.terms(me)["e0"]["first_token_ms"]
    talk.now += 0.25
    later = talk.terms(me)["e0"]["first_token_ms"]
    assert at_once - later == pytest.approx(250, rel=0.05)
    talk.now += 60.0
    never_below = talk.terms(me)["e0"]["first_token_ms"]
    assert never_below < 50, "the head of the queue may be done any moment, and no more than it"
    talk.answer(ahead)
    assert talk.terms(me)["e0"]["first_token_ms"] <= never_below


def test_what_waits_behind_the_head_is_not_done_before_it() -> None:
    talk = Talk(FAST)
    for n in range(2):
        talk.ask(asked(5_000, text=f"long {n} "))
    talk.now += 60.0
    assert talk.terms(asked(100))["e0"]["first_token_ms"] > 400


# --- places and memory ---------------------------------------------------------------------------------


def test_without_a_free_slot_one_waits_for_an_answer_to_end() -> None:
    talk = Talk(FAST, FAST, load=Load(waiting=0, running=0, slots=2))
    for n in range(4):
        talk.answer(talk.ask(asked(100, text=f"prompt {n} ")))
    terms = talk.terms(asked(100, text="another "))
    assert terms["e0"]["wait_ms"] == pytest.approx(1000 / 2), "1 s each, two at a time"


def test_without_memory_one_waits_until_enough_is_free() -> None:
    full = Load(waiting=3, running=20, kv_usage=1.0, cache_blocks=1_000, cache_block_tokens=16)
    talk = Talk(FAST, FAST)
    talk.fleet.reading(talk[0], full, talk.now)
    assert talk.goes_to(asked(1_000)) == "e1"
    assert talk.terms(asked(1_000))["e0"]["wait_ms"] > 1000 * 1_000 / 16_000


# --- others --------------------------------------------------------------------------------------------


def test_what_others_have_sent_there_counts_as_far_as_readings_tell() -> None:
    talk = Talk(FAST, FAST)
    talk.fleet.reading(talk[0], Load(waiting=4, running=3), talk.now)
    assert talk.goes_to(asked(1_000)) == "e1"


def test_a_reading_that_tells_of_our_own_requests_tells_nothing_new() -> None:
    talk = Talk(FAST, FAST)
    first = talk.ask(asked(1_000))
    there = first.endpoints[0]
    before = talk.terms(asked(500))[there.name]["first_token_ms"]
    talk.fleet.reading(there, Load(waiting=1, running=0), talk.now)
    assert talk.terms(asked(500))[there.name]["first_token_ms"] == before


def test_a_long_prompt_keeps_away_from_those_that_answer_many() -> None:
    talk = Talk(FAST, FAST)
    talk.fleet.reading(talk[0], Load(waiting=0, running=20), talk.now)
    assert {talk.goes_to(asked(4_000)) for _ in range(20)} == {"e1"}


# --- what is not known ---------------------------------------------------------------------------------


def test_a_cold_server_is_held_for_as_fast_as_the_others() -> None:
    talk = Talk(FAST, None, SLOW)
    terms = talk.terms(asked(1_000))
    assert terms["e0"]["first_token_ms"] < terms["e1"]["first_token_ms"] < terms["e2"]["first_token_ms"]


def test_a_cold_server_gets_one_request_to_show_what_it_can_do() -> None:
    talk = Talk(FAST, FAST, FAST, SLOW, None)
    picked = [talk.ask(asked(1_000, text=f"prompt {n} ")).endpoints[0].name for n in range(8)]
    assert picked.count("e4") == 1


def test_where_nothing_is_known_all_are_alike() -> None:
    talk = Talk(None, None, None, load=Load())
    assert {talk.goes_to(asked(100)) for _ in range(60)} == {"e0", "e1", "e2"}


# --- ties ----------------------------------------------------------------------------------------------


def test_near_ties_are_decided_by_chance() -> None:
    talk = Talk(FAST, FAST * (1 + NEAR / 4), FAST)
    picks = [talk.goes_to(asked(1_000)) for _ in range(300)]
    assert all(picks.count(name) > 60 for name in ("e0", "e1", "e2"))


# --- promises ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("header", ["x-llm-d-slo-ttft-ms", "x-slo-ttft-ms"])
def test_whoever_can_wait_goes_where_it_costs_others_least(header: str) -> None:
    talk = Talk(FAST, SLOW)
    talk.fleet.reading(talk[0], Load(waiting=0, running=40), talk.now)
    talk.fleet.reading(talk[1], Load(waiting=0, running=0), talk.now)
    assert talk.goes_to(asked(100)) == "e0"
    talk.now += 60.0  # and nobody else comes
    assert talk.goes_to(asked(100, promise={header: "5000"})) == "e1"
    assert talk.goes_to(asked(100, promise={header: "100"})) == "e0", "the slow one would not make it"


@pytest.mark.parametrize("text", ["", "soon", "-5", "1e3", "9" * 5_000, "0"])
def test_a_promise_that_nobody_can_keep_or_read_changes_nothing(text: str) -> None:
    talk = Talk(FAST, SLOW)
    assert talk.goes_to(asked(2_000, promise={"x-llm-d-slo-ttft-ms": text})) == "e0"


# --- the map to scores ---------------------------------------------------------------------------------


def test_scores_are_least_cost_over_cost() -> None:
    talk = Talk(FAST, SLOW)
    found = talk.scores(asked(2_000))
    costs = [sum(found.terms(place).values()) for place in range(2)]
    assert found == pytest.approx([1.0, costs[0] / costs[1]])


def test_a_remembered_pick_shows_what_each_would_have_cost() -> None:
    talk = Talk(FAST, SLOW)
    talk.ask(asked(2_000))
    shown = describe(talk.scheduler.recent[-1])
    terms = [each["terms"]["cost"] for each in shown["candidates"]]
    assert [list(each) for each in terms] == [list(TERMS)] * 2
    assert terms[0]["first_token_ms"] == pytest.approx(20 + 2_000 * 1.05 * FAST * 1000, rel=0.2)


def test_nobody_has_no_scores() -> None:
    assert PredictedCostScorer().score(cycle_of(), []) == []


LOADS = st.builds(
    Load,
    waiting=st.none() | st.integers(0, 50),
    running=st.none() | st.integers(0, 50),
    kv_usage=st.none() | st.floats(0, 1),
    slots=st.none() | st.integers(1, 8),
    cache_blocks=st.none() | st.integers(1, 10_000),
    cache_block_tokens=st.none() | st.integers(1, 128),
)


@settings(max_examples=60)
@given(
    loads=st.lists(
        LOADS | st.sampled_from([Phase.PENDING, Phase.READY, Phase.EJECTED]), min_size=1, max_size=6
    ),
    steps=st.lists(
        st.tuples(
            st.sampled_from(["ask", "ask unseen", "first token", "end", "read", "silence"]),
            st.integers(0, 5_000),
            st.floats(0, 100),
        ),
        max_size=40,
    ),
    due=st.sampled_from(["", "0", "100", "100000"]),
)
def test_whatever_happens_scores_are_numbers_and_the_best_is_1(
    loads: list[Load | Phase], steps: list[tuple[str, int, float]], due: str
) -> None:
    talk = Talk(*[None] * len(loads))
    talk.fleet = fleet_of(loads)
    talk.scheduler._pool = talk.fleet
    under_way: list[Decision] = []
    for step, size, passed in steps:
        talk.now += passed
        match step:
            case "ask" | "ask unseen":
                decision = talk.ask(asked(size, streamed=step == "ask", promise={"x-slo-ttft-ms": due}))
                found = [score for score in decision.scores["cost"] if score is not None]
                assert len(found) == len(loads)
                assert all(0.0 < score <= 1.0 for score in found) and max(found) == 1.0
                under_way.append(decision)
            case "first token" if under_way and under_way[0].reservation.work:
                under_way[size % len(under_way)].reservation.prefilled(talk.now)
            case "end" if under_way:
                under_way.pop(size % len(under_way)).reservation.release(talk.now, size)
            case "read":
                load = loads[size % len(loads)]
                if isinstance(load, Load):
                    talk.fleet.reading(talk[size % len(loads)], load, talk.now)
            case "silence":
                talk.fleet.silent(talk[size % len(loads)], talk.now, "nothing")
    for decision in under_way:
        decision.reservation.release(talk.now)
    for endpoint in talk.fleet.endpoints:
        left = (endpoint.work_in_flight, endpoint.unseen.work, endpoint.requests_in_flight)
        assert left == (0, 0, 0)


def test_a_match_beyond_the_prompt_is_no_negative_work() -> None:
    fleet = fleet_of([IDLE] * 2)
    cycle = cycle_of(asked(100))
    cycle.facts[PRODUCER] = PrefixMatch({fleet.endpoints[0]: 2}, 2, 64)
    first, second = PredictedCostScorer().score(cycle, fleet.endpoints)
    assert first == 1.0 and second is not None and second < 1.0
