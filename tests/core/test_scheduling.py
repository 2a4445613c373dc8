"""Picks and their reservations: one synchronous step, explained afterwards."""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp.core.fleet import Endpoint, EndpointSpec, Fleet, Load, Reservation
from epp.core.lifecycle import Phase
from epp.core.rejection import ALL_FILTERED, NO_CANDIDATES, NOT_CACHED, Code, Rejected, Rejection
from epp.core.request import Request
from epp.core.scheduling import Decision, Profile, Scheduler, describe, wants_cached
from epp.core.scoring import Cycle, Filter, Scorer, Scores
from scorers.active_request_scorer import ActiveRequestScorer
from scorers.approx_prefix_cache_producer import ApproxPrefixCacheProducer
from scorers.inflight_load_producer import InflightLoadProducer
from scorers.kv_cache_utilization_scorer import KvCacheUtilizationScorer
from scorers.lifecycle_filter import LifecycleFilter
from scorers.max_score_picker import MaxScorePicker
from scorers.prefix_cache_scorer import PrefixCacheScorer
from scorers.queue_scorer import QueueScorer
from scorers.utilization_detector import UtilizationDetector
from scorers.weighted_random_picker import WeightedRandomPicker
from tests.picking import fleet_of, prompt_of

IDLE = Load(waiting=0, running=0, kv_usage=0.0)


@dataclass(frozen=True)
class Fixed:
    """A scorer that gives what it is told, and a filter that keeps what it is told."""

    scores: Sequence[float | None] = ()
    keep: frozenset[str] = frozenset()

    def score(self, cycle: Cycle, endpoints: Sequence[Endpoint]) -> Scores:
        return self.scores

    def filter(self, cycle: Cycle, endpoints: Sequence[Endpoint]) -> Sequence[Endpoint]:
        return [endpoint for endpoint in endpoints if endpoint.name in self.keep]


def scheduler(
    fleet: Fleet,
    *scorers: tuple[Scorer, float],
    filters: Sequence[Filter] = (),
    producers: bool = False,
    seed: int = 0,
    **settings: Any,
) -> Scheduler:
    profile = Profile(
        filters=[(f"filter-{i}", each) for i, each in enumerate(filters)],
        scorers=[(f"scorer-{i}", each, weight) for i, (each, weight) in enumerate(scorers)],
        picker=("max-score-picker", MaxScorePicker()),
    )
    made = [
        ("approx-prefix-cache-producer", ApproxPrefixCacheProducer()),
        ("inflight-load-producer", InflightLoadProducer()),
    ]
    return Scheduler(fleet, profile, made if producers else [], chance=random.Random(seed), **settings)


def decided(outcome: Decision | Rejection) -> Decision:
    assert isinstance(outcome, Decision)
    return outcome


# --- how many ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "destinations, named",
    [
        pytest.param(1, ["e2"], id="one"),
        pytest.param(3, ["e2", "e3", "e0"], id="best-first"),
        pytest.param(9, ["e2", "e3", "e0", "e1"], id="no-more-than-there-are"),
    ],
)
def test_behind_the_pick_come_the_next_best(destinations: int, named: list[str]) -> None:
    picks = scheduler(fleet_of([None] * 4), (Fixed([0.5, 0.1, 0.9, 0.8]), 1.0), destinations=destinations)
    decision = decided(picks.pick(Request(), 0.0))
    assert [endpoint.name for endpoint in decision.endpoints] == named


def test_the_next_best_are_in_no_fixed_order_where_all_are_alike() -> None:
    fleet = fleet_of([None] * 4)
    picks = scheduler(fleet, destinations=2)
    seconds = {decided(picks.pick(Request(), 0.0)).endpoints[1].name for _ in range(100)}
    assert seconds == {"e0", "e1", "e2", "e3"}


def test_what_is_filtered_out_is_no_second_choice() -> None:
    picks = scheduler(fleet_of([None] * 3), filters=[Fixed(keep=frozenset({"e1"}))], destinations=3)
    assert [endpoint.name for endpoint in decided(picks.pick(Request(), 0.0)).endpoints] == ["e1"]


# --- totals ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "scores, totals",
    [
        pytest.param([([0.5, 1.0], 2.0), ([1.0, 0.0], 3.0)], [4.0, 2.0], id="weighted-sum"),
        pytest.param([([-3.0, 7.0], 2.0)], [0.0, 2.0], id="clamped"),
        pytest.param([([float("nan"), 0.5], 1.0)], [0.0, 0.5], id="not-a-number-is-0"),
        pytest.param([([0.5, float("nan")], 1.0)], [0.5, 0.0], id="wherever-it-stands"),
        pytest.param([([None, float("nan")], 1.0)], [0.0, 0.0], id="and-unknown-is-no-better"),
        pytest.param([([None, 0.0], 2.0), ([0.5, 0.0], 1.0)], [0.5, 0.0], id="unknown-beside-zero"),
        pytest.param([([None, 0.25], 2.0)], [0.5, 0.5], id="unknown-counts-as-the-lowest-known"),
        pytest.param(
            [([0.75, None], 1.0), ([None, None], 9.0)], [0.75, 0.75], id="nothing-known-is-left-out"
        ),
        pytest.param([([None, 0.25], -2.0)], [-0.5, -0.5], id="nor-does-it-win-by-a-negative-weight"),
        pytest.param([([0.0, None], 1.0), ([0.5, 1.0], 1.0)], [0.5, 1.0], id="per-scorer"),
        pytest.param([], [0.0, 0.0], id="no-scorers"),
    ],
)
def test_total_is_the_weighted_sum_of_clamped_scores(
    scores: list[tuple[list[float | None], float]], totals: list[float]
) -> None:
    made = [(Fixed(each), weight) for each, weight in scores]
    decision = decided(scheduler(fleet_of([IDLE, IDLE]), *made).pick(Request(), 0.0))
    assert list(decision.totals) == totals


@given(
    known=st.lists(st.floats(0, 1), min_size=1, max_size=6),
    where=st.integers(0, 6),
    weight=st.floats(-3, 3),
)
def test_an_unknown_score_never_beats_a_known_one(known: list[float], where: int, weight: float) -> None:
    scores: list[float | None] = [*known]
    scores.insert(min(where, len(known)), None)
    fleet = fleet_of([IDLE] * len(scores))
    decision = decided(scheduler(fleet, (Fixed(scores), weight)).pick(Request(), 0.0))
    assert decision.totals[scores.index(None)] == min(decision.totals)


def test_an_unscraped_endpoint_does_not_look_idle() -> None:
    fleet = fleet_of([Load(waiting=3, kv_usage=0.2), None, Load(waiting=9, kv_usage=0.9)])
    picks = scheduler(fleet, (QueueScorer(), 2.0), (KvCacheUtilizationScorer(), 2.0))
    for _ in range(20):
        assert decided(picks.pick(Request(), 0.0)).endpoints[0].name == "e0"


def test_a_reading_that_went_stale_is_unknown_again() -> None:
    fleet = fleet_of([Load(waiting=0), Load(waiting=5)], stale_after=2.0)
    fleet.reading(fleet.endpoints[1], Load(waiting=5), 3.0)
    decision = decided(scheduler(fleet, (QueueScorer(), 1.0)).pick(Request(), 4.0))
    assert decision.scores["scorer-0"] == [None, 1.0]


# --- who may serve -----------------------------------------------------------------------------------


def test_an_empty_pool_has_no_candidates() -> None:
    assert scheduler(Fleet()).pick(Request(), 0.0) is NO_CANDIDATES


@pytest.mark.parametrize(
    "subset, expected",
    [
        pytest.param(None, {"e0", "e1", "e2"}, id="no-hint"),
        pytest.param(("10.0.0.2",), {"e1"}, id="ip"),
        pytest.param(("10.0.0.2:8000", "10.0.0.3:8000"), {"e1", "e2"}, id="addresses"),
        pytest.param(("10.0.0.2:1",), None, id="another-port"),
        pytest.param((), None, id="empty"),
        pytest.param(("192.0.2.1",), None, id="no-match"),
    ],
)
def test_the_subset_hint_restricts_the_candidates(
    subset: tuple[str, ...] | None, expected: set[str] | None
) -> None:
    outcome = scheduler(fleet_of([IDLE] * 3)).pick(Request(subset=subset), 0.0)
    if expected is None:
        assert outcome is NO_CANDIDATES
    else:
        assert {endpoint.name for endpoint in decided(outcome).candidates} == expected


def test_the_subset_hint_can_be_switched_off() -> None:
    picks = scheduler(fleet_of([IDLE] * 3), honour_subset=False)
    assert len(decided(picks.pick(Request(subset=()), 0.0)).candidates) == 3


@dataclass(frozen=True)
class Hopeless:
    """A filter that knows why nobody is left."""

    def filter(self, cycle: Cycle, endpoints: Sequence[Endpoint]) -> Sequence[Endpoint]:
        raise Rejected(Rejection(Code.SERVICE_UNAVAILABLE, "all 2 endpoints are down", {"retry-after": "3"}))


def test_a_filter_may_say_why_nobody_is_left() -> None:
    fleet = fleet_of([IDLE, IDLE])
    picks = scheduler(fleet, filters=[Hopeless()])
    outcome = picks.pick(Request(), 0.0)
    assert isinstance(outcome, Rejection)
    assert (outcome.status, outcome.headers) == (503, {"retry-after": "3"})
    assert picks.recent[-1].result is outcome
    assert all(endpoint.requests_in_flight == 0 for endpoint in fleet.endpoints)


def test_the_same_hint_means_others_when_the_fleet_has_changed() -> None:
    fleet = fleet_of([IDLE] * 3)
    picks, hint = scheduler(fleet), Request(subset=("10.0.0.1", "10.0.0.2"))

    def candidates() -> list[str]:
        return [each.name for each in decided(picks.pick(hint, 0.0)).candidates]

    assert candidates() == candidates() == ["e0", "e1"]
    fleet.replace([each.spec for each in fleet.endpoints[1:]], 0.0)
    assert candidates() == ["e1"]
    fleet.replace([EndpointSpec(name="new", ip="10.0.0.2", port=8000)], 0.0)
    assert candidates() == ["new"]


def test_filters_run_in_order_and_may_leave_nothing() -> None:
    fleet = fleet_of([IDLE] * 3)
    first, second = Fixed(keep=frozenset({"e0", "e1"})), Fixed(keep=frozenset({"e1", "e2"}))
    kept = decided(scheduler(fleet, filters=[first, second]).pick(Request(), 0.0)).candidates
    assert [endpoint.name for endpoint in kept] == ["e1"]
    assert scheduler(fleet, filters=[first, Fixed()]).pick(Request(), 0.0) is ALL_FILTERED


@pytest.mark.parametrize(
    "header, wanted",
    [
        ("if-available", True),
        ("respond-async, If-Available; wait=1", True),
        ("if-available-now", False),
        ("return=minimal", False),
        ("", False),
    ],
)
def test_prefer_if_available_is_one_of_a_list(header: str, wanted: bool) -> None:
    assert wants_cached(header) is wanted


def test_prefer_if_available_takes_only_an_endpoint_with_the_prefix() -> None:
    fleet = fleet_of([IDLE, IDLE])
    picks = scheduler(fleet, (PrefixCacheScorer(), 1.0), producers=True)
    eager = prompt_of("x" * 600, prefer="if-available")
    assert picks.pick(eager, 0.0) is NOT_CACHED
    assert [endpoint.requests_in_flight for endpoint in fleet.endpoints] == [0, 0]
    assert picks.pick(eager, 0.0) is NOT_CACHED, "a refused request leaves nothing in the prefix index"
    first = decided(picks.pick(prompt_of("x" * 600), 0.0))
    assert decided(picks.pick(eager, 0.0)).endpoints[0] is first.endpoints[0]


def test_prefer_if_available_is_refused_where_only_a_loser_has_the_prefix() -> None:
    fleet = fleet_of([IDLE, IDLE])
    preferred = [1.0, 0.0]
    picks = scheduler(fleet, (Fixed(preferred), 1.0), producers=True)
    first = decided(picks.pick(prompt_of("x" * 600), 0.0))
    assert first.endpoints[0].name == "e0"
    preferred.reverse()
    assert picks.pick(prompt_of("x" * 600, prefer="if-available"), 0.0) is NOT_CACHED
    preferred.reverse()
    again = decided(picks.pick(prompt_of("x" * 600, prefer="if-available"), 0.0))
    assert again.endpoints[0].name == "e0"
    assert [endpoint.requests_in_flight for endpoint in fleet.endpoints] == [2, 0]


def test_prefer_if_available_is_refused_where_nothing_is_known_of_prefixes() -> None:
    assert scheduler(fleet_of([IDLE])).pick(prompt_of("x", prefer="if-available"), 0.0) is NOT_CACHED


# --- what readings alone say -------------------------------------------------------------------------


@dataclass
class Counted:
    """Rates by queue length and keeps those with a label, and counts how often it was asked."""

    from_readings: bool
    asked: int = 0

    def score(self, cycle: Cycle, endpoints: Sequence[Endpoint]) -> Scores:
        self.asked += 1
        return QueueScorer().score(cycle, endpoints)

    def filter(self, cycle: Cycle, endpoints: Sequence[Endpoint]) -> Sequence[Endpoint]:
        self.asked += 1
        return [endpoint for endpoint in endpoints if "out" not in endpoint.labels]


def test_what_follows_from_readings_is_worked_out_once_until_the_next_look() -> None:
    fleet = fleet_of([IDLE, IDLE])
    scorer, each_time = Counted(from_readings=True), Counted(from_readings=False)
    picks = scheduler(fleet, (scorer, 1.0), (each_time, 1.0))
    for _ in range(3):
        picks.pick(Request(), 0.0)
    assert (scorer.asked, each_time.asked) == (1, 3)
    fleet.reading(fleet.endpoints[0], Load(waiting=4), 0.0)
    assert decided(picks.pick(Request(), 0.0)).endpoints[0] is fleet.endpoints[1]
    assert (scorer.asked, each_time.asked) == (2, 4)


def test_behind_a_filter_that_sees_the_request_nothing_stands() -> None:
    fleet = fleet_of([Load(waiting=3), Load(waiting=1), Load(waiting=2)])
    keep = Fixed(keep=frozenset({"e0", "e1", "e2"}))
    before, behind, scorer = (Counted(from_readings=True) for _ in range(3))
    picks = scheduler(fleet, (scorer, 1.0), filters=[before, keep, behind])
    for _ in range(3):
        assert decided(picks.pick(Request(), 0.0)).scores["scorer-0"] == [0.0, 1.0, 0.5]
    assert (before.asked, behind.asked, scorer.asked) == (1, 3, 3)


def test_what_a_filter_says_does_not_outlive_the_age_that_it_allows() -> None:
    fleet = fleet_of([IDLE, IDLE])
    older, newer = fleet.endpoints
    fleet.reading(older, IDLE, 10.0)
    fleet.reading(newer, IDLE, 10.25)
    picks = scheduler(fleet, filters=[UtilizationDetector(metrics_staleness_threshold=0.25)])
    assert decided(picks.pick(Request(), 10.25)).candidates == [older, newer]
    assert decided(picks.pick(Request(), 10.375)).candidates == [newer], "nobody was looked at meanwhile"


@dataclass(frozen=True)
class Remarking:
    """A filter that keeps all, and says something of it."""

    from_readings: bool

    def filter(self, cycle: Cycle, endpoints: Sequence[Endpoint]) -> Sequence[Endpoint]:
        cycle.remark = "nobody is fit"
        return endpoints


@pytest.mark.parametrize("from_readings", [True, False])
def test_every_pick_says_what_a_filter_remarked(from_readings: bool) -> None:
    picks = scheduler(fleet_of([IDLE]), filters=[Remarking(from_readings)])
    remarks = [decided(picks.pick(Request(), 0.0)).remark for _ in range(2)]
    assert remarks == ["nobody is fit", "nobody is fit"], "the second stands on what the first worked out"


NEWS = st.one_of(
    st.tuples(st.just("read"), st.integers(0, 2), st.integers(0, 3)),
    st.tuples(st.sampled_from(["answer", "lose", "silence", "relabel", "leave", "hold"]), st.integers(0, 2)),
    st.tuples(st.just("wait"), st.integers(0, 3)),
    st.tuples(st.just("release"), st.just(0)),
)
HINTS = (("10.0.0.1:1", "10.0.0.1:2"), None, ("10.0.0.1:3",), ("10.0.0.1:1", "10.0.0.1:2"))
"""The last is the first of the next step again: what was worked out for it is at hand."""


@given(news=st.lists(NEWS, max_size=30), narrowed=st.booleans())
def test_what_stands_is_what_would_be_worked_out_anew(news: list[tuple[Any, ...]], narrowed: bool) -> None:
    fleet, now, held = Fleet(stale_after=2.0), 0.0, list[Reservation]()
    specs = {i: EndpointSpec(name=f"e{i}", ip="10.0.0.1", port=i + 1) for i in range(3)}
    fleet.replace(specs.values(), 0.0)

    def picks_of(standing: bool) -> Scheduler:
        request_sees = [Fixed(keep=frozenset({"e0", "e2"}))] if narrowed else []
        filters = [Counted(standing), LifecycleFilter(), *request_sees]
        return scheduler(fleet, (Counted(standing), 2.0), filters=filters)

    def said(picks: Scheduler, subset: tuple[str, ...] | None) -> Any:
        outcome = picks.pick(Request(subset=subset), now)
        if isinstance(outcome, Rejection):
            return outcome
        outcome.reservation.release()
        return list(outcome.candidates), outcome.scores, list(outcome.totals), outcome.remark

    kept = picks_of(True)
    for what, number, *more in news:
        endpoint = {each.name: each for each in fleet.endpoints}.get(f"e{number}")
        match what:
            case "wait":
                now += number
            case "release" if held:
                held.pop(0).release()
            case "relabel" | "leave":
                labels = {"out": ""} if specs.get(number) is None or not specs[number].labels else {}
                specs[number] = EndpointSpec(name=f"e{number}", ip="10.0.0.1", port=number + 1, labels=labels)
                if what == "leave":
                    del specs[number]
                fleet.replace(specs.values(), now)
            case "read" if endpoint:
                fleet.reading(endpoint, Load(waiting=more[0]), now)
            case "answer" if endpoint:
                fleet.answered(endpoint, now)
            case "lose" if endpoint:
                fleet.lost(endpoint, now, "gone")
            case "silence" if endpoint:
                fleet.silent(endpoint, now, "no answer")
            case "hold" if endpoint:
                held.append(Reservation(endpoint, 1))
        for subset in HINTS:
            assert said(kept, subset) == said(picks_of(False), subset)


# --- reservations ------------------------------------------------------------------------------------


def test_two_picks_never_see_the_same_counts() -> None:
    fleet = fleet_of([IDLE] * 4)
    picks = scheduler(fleet, (ActiveRequestScorer(), 1.0))
    seen = []
    for _ in range(12):
        decision = decided(picks.pick(Request(), 0.0))
        seen.append(tuple(endpoint.requests_in_flight for endpoint in fleet.endpoints))
        assert decision.reservation.endpoint is decision.endpoints[0]
    assert len(set(seen)) == 12
    assert seen[-1] == (3, 3, 3, 3), "requests at the same moment spread instead of herding"


def test_a_pick_is_booked_with_its_time() -> None:
    picks = scheduler(fleet_of([IDLE]))
    assert decided(picks.pick(Request(), 5.0)).reservation.at == 5.0


@pytest.mark.parametrize("is_seen, since", [(True, 5.0), (False, None)])
def test_a_pick_whose_first_token_will_be_seen_waits_for_it(is_seen: bool, since: float | None) -> None:
    fleet = fleet_of([IDLE])
    scheduler(fleet).pick(Request(shows_first_token=is_seen), 5.0)
    assert fleet.endpoints[0].oldest_unanswered == since


def test_a_pick_is_booked_with_its_uncached_tokens() -> None:
    fleet = fleet_of([IDLE])
    (endpoint,), picks = fleet.endpoints, scheduler(fleet, (PrefixCacheScorer(), 1.0), producers=True)
    first = decided(picks.pick(prompt_of("x" * 1024), 0.0))
    assert endpoint.tokens_in_flight == 256
    first.reservation.prefilled(0.0)
    second = decided(picks.pick(prompt_of("x" * 1024 + "y" * 256), 0.0))
    assert endpoint.tokens_in_flight == 64
    first.reservation.release()
    second.reservation.release()
    assert (endpoint.requests_in_flight, endpoint.tokens_in_flight) == (0, 0)


def test_conversations_stay_where_their_prefix_is() -> None:
    fleet = fleet_of([IDLE] * 5)
    picks = scheduler(fleet, (PrefixCacheScorer(), 3.0), (QueueScorer(), 2.0), producers=True)
    talk, home = "system prompt" * 50, None
    for turn in range(10):
        decision = decided(picks.pick(prompt_of(talk), 0.0))
        decision.reservation.release()
        home = home or decision.endpoints[0]
        assert decision.endpoints[0] is home, turn
        talk += "another turn of the conversation" * 20


LOAD = st.builds(
    Load,
    waiting=st.none() | st.integers(0, 50),
    running=st.none() | st.integers(0, 50),
    kv_usage=st.none() | st.floats(0, 1),
)


NOT_UP = st.sampled_from([Phase.PENDING, Phase.EJECTED])
FLEETS = st.builds(
    fleet_of,
    st.lists(st.none() | LOAD | NOT_UP, max_size=6) | st.lists(NOT_UP, min_size=2, max_size=6),
    stale_after=st.sampled_from([1.0, 1e9]),
)
NAMES = st.frozensets(st.sampled_from([f"e{i}" for i in range(6)]))
REQUESTS = st.lists(
    st.builds(
        lambda text, subset, headers: (
            prompt_of(text, **headers) if subset is None else Request(subset=tuple(subset), headers=headers)
        ),
        st.sampled_from(["", "x" * 300, "x" * 900, "y" * 900]),
        st.none() | st.lists(st.sampled_from(["10.0.0.1", "10.0.0.2:8000", "bogus"]), max_size=2),
        st.sampled_from([{}, {"prefer": "if-available"}]),
    ),
    max_size=8,
)


@given(
    fleet=FLEETS,
    filters=st.lists(NAMES, max_size=2),
    requests=REQUESTS,
    weighted=st.booleans(),
    destinations=st.integers(1, 4),
)
def test_every_pick_is_a_candidate_with_one_reservation(
    fleet: Fleet, filters: list[frozenset[str]], requests: list[Request], weighted: bool, destinations: int
) -> None:
    profile = Profile(
        filters=[(str(i), Fixed(keep=keep)) for i, keep in enumerate(filters)],
        scorers=[
            ("queue", QueueScorer(), 2.0),
            ("kv", KvCacheUtilizationScorer(), 2.0),
            ("prefix", PrefixCacheScorer(), 3.0),
        ],
        picker=("picker", WeightedRandomPicker() if weighted else MaxScorePicker(max_num_of_endpoints=2)),
    )
    producers = [
        ("approx-prefix-cache-producer", ApproxPrefixCacheProducer()),
        ("inflight-load-producer", InflightLoadProducer()),
    ]
    picks = Scheduler(fleet, profile, producers, chance=random.Random(0), destinations=destinations)
    decisions = [
        outcome
        for i, request in enumerate(requests)
        if isinstance(outcome := picks.pick(request, float(i)), Decision)
    ]
    assert sum(endpoint.requests_in_flight for endpoint in fleet.endpoints) == len(decisions)
    for decision in decisions:
        assert decision.endpoints and set(decision.endpoints) <= set(decision.candidates)
        assert len(set(decision.endpoints)) == len(decision.endpoints)
        assert len(decision.endpoints) >= min(destinations, len(decision.candidates))
        assert decision.reservation.endpoint is decision.endpoints[0]
        assert all(endpoint.name in keep for endpoint in decision.candidates for keep in filters)
        decision.reservation.release()
    assert all(e.requests_in_flight == e.tokens_in_flight == 0 for e in fleet.endpoints)
    assert len(json.loads(json.dumps([describe(record) for record in picks.recent]))) == len(requests)


@given(loads=st.lists(LOAD, min_size=1, max_size=6), seed=st.integers(0, 99))
def test_picks_repeat_with_the_seed(loads: list[Load], seed: int) -> None:
    def names() -> list[str]:
        picks = scheduler(fleet_of(loads), (QueueScorer(), 1.0), producers=True, seed=seed)
        return [decided(picks.pick(prompt_of("x" * 300), 0.0)).endpoints[0].name for _ in range(5)]

    assert names() == names()


# --- afterwards --------------------------------------------------------------------------------------


def test_the_last_picks_are_remembered_with_every_score() -> None:
    fleet = fleet_of([Load(waiting=0), Load(waiting=4)])
    picks = scheduler(fleet, (QueueScorer(), 2.0), producers=True, remember=2)
    for i in range(3):
        picks.pick(Request(id=f"r{i}", payload=prompt_of("x" * 300).payload, target_model="t"), float(i))
    assert [record.request_id for record in picks.recent] == ["r1", "r2"]
    assert describe(picks.recent[-1]) == {
        "request_id": "r2",
        "model": "m",
        "target_model": "t",
        "prompt_tokens": 75,
        "picked": ["e0"],
        "remark": None,
        "prompt_blocks": 2,
        "weights": {"scorer-0": 2.0},
        "candidates": [
            {
                "endpoint": "e0",
                "address": "10.0.0.1:8000",
                "total": 2.0,
                "scores": {"scorer-0": 1.0},
                "cached_blocks": 2,
            },
            {
                "endpoint": "e1",
                "address": "10.0.0.2:8000",
                "total": 0.0,
                "scores": {"scorer-0": 0.0},
                "cached_blocks": 0,
            },
        ],
    }


def test_a_refusal_is_remembered_too() -> None:
    picks = scheduler(Fleet())
    picks.pick(Request(id="r"), 1.0)
    assert describe(picks.recent[0])["status"] == 503


def test_a_remembered_pick_does_not_hold_the_prompt() -> None:
    picks = scheduler(fleet_of([IDLE]), producers=True)
    request = prompt_of("x" * 300)
    picks.pick(request, 0.0)
    assert request.payload.prompt not in picks.recent[0]
    assert request not in picks.recent[0]


def test_an_endpoint_that_left_is_no_candidate() -> None:
    fleet = fleet_of([IDLE, IDLE])
    picks = scheduler(fleet)
    fleet.replace([EndpointSpec(name="e1", ip="10.0.0.2", port=8000)], 0.0)
    assert [e.name for e in decided(picks.pick(Request(), 0.0)).candidates] == ["e1"]


@pytest.mark.parametrize(
    "scorer, message",
    [(Fixed([1.0]), "gave 1 scores for 2 endpoints")],
    ids=["too-few-scores"],
)
def test_a_plugin_that_breaks_its_promise_is_named(scorer: Scorer, message: str) -> None:
    with pytest.raises(RuntimeError, match=f'scorer "scorer-0" {message}'):
        scheduler(fleet_of([IDLE, IDLE]), (scorer, 1.0)).pick(Request(), 0.0)
