"""What is learnt of a server's speed, from first tokens, whole answers and an engine's counters."""

import math
import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp.core.fleet import Endpoint, EndpointSpec, Fleet, Load, Reservation
from epp.core.rates import (
    AT_LEAST,
    FLUSHED,
    NEUTRAL,
    REMEMBERED,
    TYPICAL,
    Expected,
    Line,
    Rates,
    Speed,
    Work,
    expected,
    typical,
    work,
)

A100 = 1 / 15_000


def served(
    rates: Rates,
    *,
    per_token: float,
    overhead: float = 0.02,
    count: int = 40,
    start: float = 0.0,
    gap: float = 1.0,
) -> float:
    """So many requests of different lengths, one after another; when the last had its first token."""
    lengths, now = random.Random(1), start
    for _ in range(count):
        tokens = lengths.randrange(100, 4000)
        now += gap
        rates.first_token(tokens, overhead + tokens * per_token, now)
    return now


def learnt(rates: Rates, now: float, engine: str | None = "vllm") -> Speed:
    return rates.speed(now, typical(engine))


# --- first tokens ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "per_token", [1 / 50_000, 1 / 15_000, 1 / 3_400, 1 / 500], ids=["H100", "A100", "L4", "Mac"]
)
@pytest.mark.parametrize("overhead", [0.01, 0.2])
def test_requests_that_come_alone_show_speed_and_overhead(per_token: float, overhead: float) -> None:
    rates = Rates()
    now = served(rates, per_token=per_token, overhead=overhead)
    speed = learnt(rates, now)
    assert speed.per_prompt_token == pytest.approx(per_token, rel=0.15)
    assert speed.overhead == pytest.approx(overhead, abs=0.01 + 100 * per_token)


def test_a_server_with_much_to_do_shows_its_speed_whatever_its_steps_are() -> None:
    # steps of 8,192 tokens, 0.2 s each; the prompts that end in one have little to do with what it computed
    rates, chance, computed, now = Rates(), random.Random(2), 0, 0.0
    prompts = [chance.choice([1_200, 7_200]) for _ in range(300)]
    ends = [sum(prompts[: n + 1]) for n in range(len(prompts))]
    last, told = 0.0, 0
    while told < len(prompts):
        now += 0.2
        computed += 8_192
        while told < len(prompts) and ends[told] <= computed:
            rates.first_token(prompts[told], now - last, now, begins=told == 0, alone=False)
            last, told = now, told + 1
    found = learnt(rates, now).per_prompt_token
    assert found == pytest.approx(0.2 / 8_192, rel=0.1)


def test_a_slow_down_to_a_third_is_noticed_within_20_seconds() -> None:
    rates = Rates()
    before = served(rates, per_token=A100, count=60)
    now = served(rates, per_token=A100 / 0.3, count=20, start=before)
    assert now - before <= 20
    found = learnt(rates, now).per_prompt_token
    assert found is not None and found > 0.75 * A100 / 0.3


def test_one_request_that_hung_is_no_speed() -> None:
    rates = Rates()
    now = served(rates, per_token=A100, count=30)
    rates.first_token(1_000, 30.0, now + 30.0)
    found = learnt(rates, now + 30.0).per_prompt_token
    assert found is not None and found < 1.5 * A100


def test_where_requests_are_rare_the_last_ones_count_together() -> None:
    rates = Rates()
    now = served(rates, per_token=A100, count=20, gap=60.0)
    assert rates._seen.weight == pytest.approx(AT_LEAST, abs=1.1)
    assert learnt(rates, now).per_prompt_token == pytest.approx(A100, rel=0.1)


def test_few_requests_show_nothing_yet() -> None:
    rates = Rates()
    rates.first_token(1_000, 5.0, 1.0)
    rates.first_token(1_000, 5.0, 2.0)
    assert learnt(rates, 2.0) == Speed()


def test_what_was_seen_long_ago_is_unknown_again() -> None:
    rates = Rates()
    now = served(rates, per_token=A100)
    assert learnt(rates, now + REMEMBERED - 1).per_prompt_token is not None
    assert learnt(rates, now + REMEMBERED).per_prompt_token is None


def test_a_restart_leaves_the_hardware_as_it_is() -> None:
    rates = Rates()
    now = served(rates, per_token=A100)
    before = learnt(rates, now)
    rates.restarted()
    assert learnt(rates, now) == before


def test_context_makes_prompt_tokens_dearer() -> None:
    assert work(1_000, 0) == pytest.approx(1_025)
    assert work(1_000, 20_000) == pytest.approx(2_025)
    assert work(0, 50_000) == 0


# --- answers -------------------------------------------------------------------------------------------


def test_answers_show_their_pace_length_and_stay() -> None:
    rates = Rates()
    for n in range(20):
        rates.generated(101, 2.0, n % 3, float(n))
        rates.stayed(2.0, float(n))
    speed = learnt(rates, 20.0)
    assert speed.per_token == pytest.approx(0.02, rel=0.05)
    assert speed.output == pytest.approx(101)
    assert speed.stay == pytest.approx(2.0)


# --- counters ------------------------------------------------------------------------------------------


def test_counters_show_what_nobody_has_seen() -> None:
    rates = Rates()
    for n in range(10):
        rates.read(
            Work(
                prompt_tokens=3_000.0 * n,
                prompt_seconds=(3_000 / 15_000 + 0.02) * n,
                prompts=float(n),
                tokens=500.0 * n,
                token_seconds=10.0 * n,
            ),
            running=1,
            now=float(n),
        )
    speed = learnt(rates, 9.0)
    assert speed.per_prompt_token == pytest.approx(A100, rel=0.05)
    assert speed.per_token == pytest.approx(0.02)


def test_a_counter_that_falls_is_a_restart() -> None:
    rates = Rates()
    rates.read(Work(tokens=1e6, token_seconds=1e4), 1, 0.0)
    for n in range(1, 6):
        rates.read(Work(tokens=100.0 * n, token_seconds=2.0 * n), 1, float(n))
    assert learnt(rates, 5.0).per_token == pytest.approx(0.02)


def test_counters_that_stand_still_say_nothing() -> None:
    rates = Rates()
    for n in range(10):
        rates.read(Work(tokens=100.0, token_seconds=2.0, prompt_tokens=5.0, prompt_seconds=1.0), 0, float(n))
    assert learnt(rates, 9.0) == Speed()


# --- a cache that was lost -----------------------------------------------------------------------------


def fed(rates: Rates, *, promised: float, found: float, count: int = 10) -> Rates:
    asked = hits = 0.0
    rates.read(Work(asked_tokens=0.0, hit_tokens=0.0), 1, 0.0)
    for n in range(1, count + 1):
        rates.promised(2_000, int(2_000 * promised), float(n))
        asked, hits = asked + 2_000, hits + 2_000 * found
        rates.read(Work(asked_tokens=asked, hit_tokens=hits), 1, float(n))
    return rates


@pytest.mark.parametrize(
    "promised, found, trust",
    [
        pytest.param(0.8, 0.8, 1.0, id="kept"),
        pytest.param(0.8, 0.9, 1.0, id="more-than-we-sent"),
        pytest.param(0.8, 0.6, 0.75, id="partly-evicted"),
        pytest.param(0.8, 0.0, 0.0, id="flushed"),
        pytest.param(0.05, 0.0, 1.0, id="little-was-promised"),
    ],
)
def test_promises_are_compared_with_what_the_engine_found(
    promised: float, found: float, trust: float
) -> None:
    assert fed(Rates(), promised=promised, found=found).trust == pytest.approx(trust)


def test_an_engine_that_tells_nothing_of_its_cache_is_trusted() -> None:
    rates = Rates()
    for n in range(10):
        rates.promised(2_000, 2_000, float(n))
    assert rates.trust == 1.0


def endpoint() -> tuple[Fleet, Endpoint]:
    fleet = Fleet(stale_after=1e9)
    fleet.replace([EndpointSpec(name="gpu", ip="10.0.0.1", port=8000)], 0.0)
    return fleet, fleet.endpoints[0]


def test_what_is_remembered_of_a_flushed_cache_is_forgotten() -> None:
    fleet, gpu = endpoint()
    gpu.memory["what a plugin thinks is there"] = 1
    asked = 0.0
    for n in range(10):
        now = float(n)
        reservation = Reservation(
            gpu, 100, at=now, is_streamed=True, prompt_tokens=2_000, cached_tokens=1_900
        )
        reservation.prefilled(now + 0.1)
        reservation.release(now + 0.5)
        asked += 2_000
        fleet.reading(
            gpu, Load(waiting=0, running=0, work=Work(asked_tokens=asked, hit_tokens=0.0)), now + 0.9
        )
        if gpu.life:
            break
    assert gpu.life == 1 and not gpu.memory
    assert gpu.rates.trust >= FLUSHED, "it is asked anew what is there"


# --- reservations tell ---------------------------------------------------------------------------------


def test_a_request_behind_another_is_timed_from_the_first_token_before_it() -> None:
    _, gpu = endpoint()
    now = 0.0
    for _ in range(10):
        pair = [
            Reservation(gpu, 2_000, at=now, is_streamed=True, prompt_tokens=2_000, cached_tokens=0)
            for _ in range(2)
        ]
        for each in pair:
            now += 0.2
            each.prefilled(now)
        for each in pair:
            each.release(now)
        now += 1.0
    per_token = gpu.rates.speed(now, typical("vllm")).per_prompt_token
    assert per_token == pytest.approx(0.2 / work(2_000, 0), rel=0.1)


@pytest.mark.parametrize(
    "load",
    [
        pytest.param(Load(slots=1, running=1, waiting=0), id="no-slot"),
        pytest.param(
            Load(running=5, waiting=1, kv_usage=1.0, cache_blocks=100, cache_block_tokens=16), id="no-memory"
        ),
    ],
)
def test_a_request_that_waits_for_others_to_end_shows_no_speed(load: Load) -> None:
    fleet, gpu = endpoint()
    fleet.reading(gpu, load, 0.0)
    for n in range(10):
        reservation = Reservation(gpu, 0, at=float(n), is_streamed=True, prompt_tokens=1_000)
        reservation.prefilled(n + 0.9)
        reservation.release(n + 0.9)
    assert gpu.rates.speed(10.0).per_prompt_token is None


def test_a_request_that_has_moved_shows_nothing() -> None:
    _, gpu = endpoint()
    other = Endpoint(EndpointSpec(name="mac", ip="10.0.0.2", port=8000))
    for n in range(10):
        reservation = Reservation(gpu, 10, at=float(n), is_streamed=True, prompt_tokens=1_000)
        reservation.move(other)
        reservation.prefilled(n + 0.9)
        reservation.release(n + 0.95)
    assert other.rates.speed(10.0).per_prompt_token is None


def test_prompts_without_first_tokens_are_worked_off_by_time() -> None:
    _, gpu = endpoint()
    gpu.rates.per_prompt_token = 0.001
    first = Reservation(gpu, 1_000, at=0.0, prompt_tokens=1_000)
    second = Reservation(gpu, 1_000, at=0.5, prompt_tokens=1_000)
    both = 2 * work(1_000, 0)
    assert gpu.unseen.left(0.5, 0.001) == pytest.approx(both - 500, abs=1)
    assert gpu.unseen.left(1.0, 0.001) == pytest.approx(both - 1_000, abs=1)
    assert gpu.unseen.left(9.0, 0.001) == 0.0
    first.release()
    second.release()
    assert (gpu.unseen.work, gpu.work_in_flight, gpu.tokens_in_flight) == (0, 0, 0)


# --- the pool knows --------------------------------------------------------------------------------------


def known(per_prompt_token: float | None) -> Speed:
    return Speed(None if per_prompt_token is None else 0.02, per_prompt_token, 0.01, 5.0, 300.0)


def test_who_is_unknown_is_as_those_with_the_same_engine() -> None:
    speeds = [known(1e-5), known(1e-5), known(2e-3), Speed()]
    found = expected(speeds, ["vllm", "vllm", "llamacpp", "llamacpp"])
    assert found[3].per_prompt_token == pytest.approx(2e-3)
    assert [each.is_measured for each in found] == [True, True, True, False]


def test_who_is_alone_with_its_engine_is_as_the_pool() -> None:
    found = expected([known(1e-5), known(1e-5), Speed()], ["vllm", "vllm", "llamacpp"])
    assert found[2].per_prompt_token == pytest.approx(1e-5)


def test_where_nobody_knows_anything_the_engine_says_what_to_think() -> None:
    gpu, mac, some = expected([Speed()] * 3, ["vllm", "llamacpp", None])
    assert gpu.per_prompt_token == TYPICAL["vllm"].per_prompt_token
    assert mac.per_prompt_token == TYPICAL["llamacpp"].per_prompt_token
    assert some.per_prompt_token == NEUTRAL.per_prompt_token


def test_equal_servers_are_held_for_equal_and_slow_ones_for_slow() -> None:
    found = expected([known(each * 1e-4) for each in (0.9, 1.0, 1.1, 1.0, 3.3)], ["vllm"] * 5)
    seen = [each.per_prompt_token * 1e4 for each in found]
    assert max(seen[:4]) / min(seen[:4]) < 1.05
    assert seen[4] > 3.0


# --- whatever is told ------------------------------------------------------------------------------------

ANY = st.floats() | st.floats(0, 1e4) | st.integers(-5, 10**6).map(float)
COUNTED = st.none() | st.floats(0, 1e12) | st.floats()
STEPS = st.one_of(
    st.tuples(st.just("first_token"), ANY, ANY),
    st.tuples(st.just("stayed"), ANY),
    st.tuples(st.just("generated"), st.integers(-5, 10**9), ANY, ANY),
    st.tuples(st.just("promised"), st.integers(-5, 10**9), st.integers(-5, 10**9)),
    st.builds(
        lambda *values: ("read", Work(**dict(zip(Work.__slots__, values, strict=True))), 3),
        *[COUNTED] * len(Work.__slots__),
    ),
    st.tuples(st.just("restarted")),
)


@given(
    steps=st.lists(st.tuples(STEPS, st.floats(-10, 1e6)), max_size=60),
    engine=st.sampled_from(["vllm", "llamacpp", None]),
)
def test_nothing_that_is_told_makes_an_estimate_that_is_none(
    steps: Sequence[tuple[tuple[object, ...], float]], engine: str | None
) -> None:
    rates, now = Rates(), 0.0
    for (name, *arguments), later in steps:
        now += later
        if name == "restarted":
            rates.restarted()
        else:
            getattr(rates, str(name))(*arguments, now)
        assert 0.0 <= rates.trust <= 1.0
        speed = learnt(rates, now, engine)
        assert all(value is None or (math.isfinite(value) and value >= 0.0) for value in speed)
        (found,) = expected([speed], [engine])
        assert isinstance(found, Expected)
        assert all(math.isfinite(value) and value > 0.0 for value in found[1:5]) and found.overhead >= 0.0


@given(
    points=st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 1e4)), min_size=1, max_size=40),
    slope=st.floats(0, 1e2),
    spread=st.floats(0.1, 1e4),
)
def test_a_line_has_neither_a_negative_base_nor_slope(
    points: Sequence[tuple[float, float]], slope: float, spread: float
) -> None:
    line = Line()
    for n, (x, y) in enumerate(points):
        line.add(x, y, float(n))
    base, found = line.fit(slope, spread)
    assert base >= 0.0 and found >= 0.0 and math.isfinite(base) and math.isfinite(found)
