"""Who is dropped for the state it is in, who is kept when nobody is fit, and how trust is scored."""

import dataclasses
import random
import re
from collections import Counter, deque
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp.config.decode import camel
from epp.config.picker_config import build, load_default
from epp.core.fleet import Endpoint, Load
from epp.core.lifecycle import HealthSettings, Phase, Signal
from epp.core.rejection import Rejected, Rejection
from epp.core.scheduling import Decision, Scheduler
from epp.core.scoring import Cycle, Request
from scorers.endpoint_health import EndpointHealth
from scorers.lifecycle_filter import LifecycleFilter
from scorers.lifecycle_scorer import LifecycleScorer
from tests.lives import LIVES, NOW, SETTINGS, living
from tests.picking import TYPES, cycle_of, fleet_of, prompt_of


def cycle(*, seed: int = 0, now: float = NOW) -> Cycle:
    return Cycle(Request(), now=now, chance=random.Random(seed))


def lives(text: str) -> list[Endpoint]:
    """``ready warming:2 …``: as in LIVES, with so many requests in flight."""
    parsed = (word.partition(":") for word in text.split())
    return [living(how, name=f"{how}:{count}", in_flight=int(count or 0)) for how, _, count in parsed]


def kept(text: str, about: Cycle | None = None) -> str:
    """The same words for those that are kept."""
    left = LifecycleFilter().filter(about or cycle(), lives(text))
    return " ".join(endpoint.name.removesuffix(":") for endpoint in left)


@pytest.mark.parametrize(
    "there, left",
    [
        pytest.param("ready pressured suspect", "ready pressured suspect", id="in-service"),
        pytest.param(
            "loading ready held refusing silent draining gone untried", "ready", id="out-of-service"
        ),
        pytest.param("ready:500 warming", "ready:500 warming", id="ready-has-no-limit"),
        pytest.param("warming:1 ready", "warming:1 ready", id="warming-below-2"),
        pytest.param("warming:2 ready", "ready", id="warming-at-2"),
        pytest.param("probing ready", "probing ready", id="probing-with-none"),
        pytest.param("probing:1 ready", "ready", id="probing-with-its-one"),
        pytest.param("suspect refusing", "suspect", id="a-suspect-is-in-service"),
        pytest.param("ready waiting", "ready", id="half-of-them-are-fit-who-waits-waits"),
        pytest.param("ready waiting silent", "ready waiting", id="too-few-are-fit-who-only-waits-helps"),
        pytest.param("ready loaded silent", "ready loaded", id="who-has-loaded-waits-as-well"),
        pytest.param("ready failing refusing held", "ready", id="whose-requests-fail-helps-nobody"),
        pytest.param("waiting", "waiting", id="nobody-is-fit-and-one-only-waits"),
        pytest.param("loaded untried refusing", "loaded", id="nobody-is-fit-and-one-has-loaded"),
        pytest.param("", "", id="nobody"),
    ],
)
def test_those_are_kept_that_can_be_expected_to_answer(there: str, left: str) -> None:
    about = cycle()
    assert kept(there, about) == left
    assert about.facts == {}


@pytest.mark.parametrize(
    "there, left, said",
    [
        pytest.param(
            "probing:1 warming:2 warming:7 silent",
            "warming:2 warming:7",
            "nobody is fit, so 2 of 4 were kept: warming up and over its allowance",
            id="over-its-allowance",
        ),
        pytest.param(
            "silent untried probing:1 refusing",
            "probing:1",
            "nobody is fit, so 1 of 4 were kept: being tried with another request",
            id="probing",
        ),
        pytest.param(
            "untried silent refusing silent",
            "silent silent",
            "nobody is fit, so 2 of 4 were kept: ejected on suspicion",
            id="suspicion-is-no-knowledge",
        ),
        pytest.param(
            "loading untried held draining",
            "untried",
            "nobody is fit, so 1 of 4 were kept: not looked at yet",
            id="nobody-has-looked",
        ),
        pytest.param(
            "loading held draining",
            "draining",
            "nobody is fit, so 1 of 3 were kept: said to shut down, in an answer",
            id="words-may-be-misread",
        ),
    ],
)
def test_when_nobody_is_fit_the_least_bad_are_kept_and_it_is_said(there: str, left: str, said: str) -> None:
    about = cycle()
    assert kept(there, about) == left
    assert about.remark == said


@pytest.mark.parametrize(
    "there, now, message, retry_after",
    [
        pytest.param(
            "refusing loading",
            NOW + 0.5,
            "all 2 endpoints are down: 1 refusing connections, 1 loading",
            "1",  # a back-off of 0.5 s is over
            id="the-sooner-of-two",
        ),
        pytest.param("loading", NOW, "the only endpoint is down: 1 loading", "5", id="loading"),
        pytest.param(
            "leaving held loading loading gone",
            NOW,
            "all 5 endpoints are down: 1 draining, 1 pending, 2 loading, 1 gone",
            "5",
            id="counted",
        ),
    ],
)
def test_when_all_are_known_to_be_dead_the_request_is_refused(
    there: str, now: float, message: str, retry_after: str
) -> None:
    with pytest.raises(Rejected) as refused:
        kept(there, cycle(now=now))
    rejection = refused.value.rejection
    assert (rejection.status, rejection.body) == (503, f"inference error: ServiceUnavailable - {message}")
    assert rejection.headers == {
        "x-llm-d-request-dropped-reason": "rejected-endpoints-down",
        "retry-after": retry_after,
    }


def test_after_many_deaths_a_client_is_told_to_wait_as_long_as_the_back_off() -> None:
    endpoint = living("refusing")
    life, now = endpoint.lifecycle, NOW
    for _ in range(3):  # 0.5 s, then 1, 2 and 4 s
        now = life.out_until
        life.receive(Signal.ANSWERED, now)
        life.receive(Signal.REFUSED, now)
    with pytest.raises(Rejected) as refused:
        LifecycleFilter().filter(cycle(now=now + 0.2), [endpoint])
    assert refused.value.rejection.headers["retry-after"] == "4"


def test_without_a_configuration_a_dead_pool_refuses_and_a_living_one_avoids_its_dead() -> None:
    assembly = build(load_default(), TYPES)
    fleet = fleet_of([Phase.EJECTED, Phase.EJECTED])
    scheduler = Scheduler(fleet, assembly.profile, assembly.producers, chance=random.Random(0))
    refused = scheduler.pick(Request(), 0.0)
    assert isinstance(refused, Rejection)
    assert refused.message == "all 2 endpoints are down: 2 refusing connections"
    fleet.answered(fleet.endpoints[1], 60.0)
    picked = scheduler.pick(Request(), 60.0)
    assert isinstance(picked, Decision) and picked.endpoints[0] is fleet.endpoints[1]


def test_switched_off_it_drops_nobody() -> None:
    endpoints = lives("refusing loading gone")
    assert LifecycleFilter(enabled=False).filter(cycle(), endpoints) == endpoints


ANY = st.lists(st.tuples(st.sampled_from(sorted(LIVES)), st.integers(0, 3)), max_size=8)


@given(them=ANY)
def test_it_keeps_somebody_unless_all_are_known_to_be_dead_and_the_order_always(
    them: list[tuple[str, int]],
) -> None:
    endpoints = [living(how, in_flight=count) for how, count in them]
    is_hopeless = all(endpoint.lifecycle.is_known_dead for endpoint in endpoints)
    try:
        left = list(LifecycleFilter().filter(cycle(), endpoints))
    except Rejected:
        assert endpoints and is_hopeless
        return
    assert bool(left) == bool(endpoints)
    assert not endpoints or not is_hopeless
    assert left == [endpoint for endpoint in endpoints if endpoint in left]
    assert not any(endpoint.lifecycle.is_known_dead for endpoint in left)
    ready = sum(how == "ready" for how, _ in them)
    if ready:
        assert all(endpoint.lifecycle.is_serving or endpoint.lifecycle.only_waits for endpoint in left)
    if 2 * ready >= len(them):
        assert all(endpoint.lifecycle.is_serving for endpoint in left)


# --- trust ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "how, score",
    [
        ("ready", 1.0),
        ("probing", 1.0),
        ("pressured", 0.7),
        ("suspect", 0.2),
        ("silent", 0.0),
        ("untried", 0.0),
        ("loading", 0.0),
    ],
)
def test_trust_is_that_of_the_phase(how: str, score: float) -> None:
    scorer, endpoint = LifecycleScorer(), living(how)
    assert {scorer.score(cycle(seed=seed), [endpoint])[0] for seed in range(50)} == {score}


@pytest.mark.parametrize(
    "later, score",
    [
        pytest.param(0.0, 0.3, id="just-back"),
        pytest.param(2.5, 0.65, id="half-of-5-seconds"),
    ],  # 0.3 + 0.7 * 3/6
)
def test_one_that_warms_up_is_trusted_as_often_as_its_score_says(later: float, score: float) -> None:
    endpoint = living("warming")
    endpoint.served_at = NOW
    endpoint.lifecycle.advance(NOW + later + 1e-9)
    drawn = random.Random(5)
    given_scores = Counter(
        LifecycleScorer().score(Cycle(Request(), now=NOW, chance=drawn), [endpoint])[0] for _ in range(2000)
    )
    assert sorted(given_scores) == [pytest.approx(score), 1.0]
    assert given_scores[1.0] / 2000 == pytest.approx(score, abs=0.04)


def test_one_that_warms_up_has_its_first_request_as_soon_as_any_other() -> None:
    """A pod that has just become Ready: drawn, it would wait for 0.03 s, and for 0.2 s now and then."""
    endpoint = living("warming")
    assert {LifecycleScorer().score(cycle(seed=seed), [endpoint])[0] for seed in range(50)} == {1.0}
    endpoint.trials = 1
    assert {LifecycleScorer().score(cycle(seed=seed), [endpoint])[0] for seed in range(50)} == {0.3, 1.0}
    endpoint.trials, endpoint.served_at = 0, NOW + 1
    assert {LifecycleScorer().score(cycle(seed=seed), [endpoint])[0] for seed in range(50)} == {0.3, 1.0}


def test_without_anybody_on_the_way_back_no_chance_is_drawn() -> None:
    about = cycle_of()
    before = about.chance.getstate()  # type: ignore[attr-defined]
    assert LifecycleScorer().score(about, lives("ready pressured suspect")) == [1.0, 0.7, 0.2]
    assert about.chance.getstate() == before  # type: ignore[attr-defined]


STEP = 0.005


def picks_of_one_that_comes_back(seed: int) -> list[float]:
    """When it is picked [s after its first answer]. Two servers, 50 new prompts a second of 15 ms each, looks
    every 50 ms, no queues: nothing but trust tells the two apart."""
    chance, load, begin = random.Random(seed), Load(waiting=0), 10.0
    fleet = fleet_of([load, load])
    back = fleet.endpoints[1]
    fleet.lost(back, 0.0, "dead")
    assembly = build(load_default(), TYPES)
    scheduler = Scheduler(fleet, assembly.profile, assembly.producers, chance=chance)
    under_way: deque[tuple[float, Decision]] = deque()
    picks = []
    for tick in range(round(8 / STEP)):
        now = begin + tick * STEP
        if tick % 10 == 0:
            for endpoint in fleet.endpoints:
                fleet.reading(endpoint, load, now)
        while under_way and under_way[0][0] <= now:
            decision = under_way.popleft()[1]
            decision.reservation.release()
            fleet.served(decision.endpoints[0], now)
        if chance.random() < 50 * STEP:
            decision = scheduler.pick(prompt_of(chance.randbytes(200).hex()), now)
            assert isinstance(decision, Decision)
            under_way.append((now + 0.015, decision))
            if decision.endpoints[0] is back:
                picks.append(now - begin)
    return picks


def test_one_that_comes_back_has_a_request_at_once_and_a_growing_share() -> None:
    runs = [picks_of_one_that_comes_back(seed) for seed in range(20)]
    firsts = sorted(picks[0] for picks in runs)
    assert firsts[10] < 0.1 and firsts[-1] < 1.0
    by_second = Counter(int(moment) for picks in runs for moment in picks)
    share = [by_second[second] / (20 * 50) for second in range(8)]
    assert all(later > earlier for earlier, later in pairwise(share[:6])), share
    assert share[0] < 0.2 and share[7] == pytest.approx(0.5, abs=0.05), "no burst, and in the end its half"


# --- thresholds ----------------------------------------------------------------------------------

FIELDS = [field.name for field in dataclasses.fields(EndpointHealth)]


def test_the_thresholds_have_one_default() -> None:
    assert EndpointHealth().settings() == SETTINGS == HealthSettings()


def test_every_threshold_arrives() -> None:
    assert set(FIELDS) == {field.name for field in dataclasses.fields(HealthSettings)}
    written = {name: 1 + i for i, name in enumerate(FIELDS)}
    assert EndpointHealth(**written).settings() == HealthSettings(**written)


@pytest.mark.parametrize(
    "written, complaint",
    [
        ({"silence": 0.0}, "silence: must be from 1ms to 1h, got 0s"),
        ({"second_silence": 0.0001}, "secondSilence: must be from 1ms to 1h, got 0.0001s"),
        ({"first_token": 7200.0}, "firstToken: must be from 1ms to 1h, got 7200s"),
        ({"warm_up": -1.0}, "warmUp: must be from 1ms to 1h, got -1s"),
        ({"draining": float("inf")}, "draining: must be from 1ms to 1h, got infs"),
        *(
            ({name: 0.0}, f"{camel(name)}: must be from 1ms to 1h, got 0s")
            for name in ("suspicion", "back_off", "stable", "probation", "overload")
        ),
        ({"failures": 0}, "failures: must be from 1 to 100, got 0"),
        ({"failures": 101}, "failures: must be from 1 to 100, got 101"),
        ({"back_off": 2.0, "back_off_most": 1.0}, "backOffMost: must be at least backOff (2s), got 1s"),
    ],
)
def test_a_threshold_that_cannot_work_is_named(written: dict[str, float], complaint: str) -> None:
    with pytest.raises(ValueError, match=r".") as refused:
        EndpointHealth(**written)  # type: ignore[arg-type]
    assert str(refused.value) == complaint


@given(
    written=st.dictionaries(
        st.sampled_from([name for name in FIELDS if name != "failures"]),
        st.floats() | st.floats(0, 4000),
    )
)
def test_any_thresholds_work_or_are_refused_in_one_line(written: dict[str, float]) -> None:
    complaint = ""
    try:
        settings = EndpointHealth(**written).settings()  # type: ignore[arg-type]
    except ValueError as refused:
        complaint = str(refused)
    else:
        assert settings.back_off <= settings.back_off_most
    assert re.fullmatch(r"([a-zA-Z]+: must be [^\n]+)?", complaint)
