"""A server with continuous batching: what it does step by step it also does in runs."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.sim.batching import BatchingServer
from bench.sim.hardware import H100, LLAMA_8B, Hardware, gpu
from bench.sim.jobs import End, Job
from bench.sim.timeline import EventQueue
from bench.workloads.sessions import Piece
from epp.core.fleet import Load
from epp.core.rates import Work
from tests.bench.sim.stepwise import Asked, Stepwise

SMALL = Hardware(
    name="small",
    engine="vllm",
    model="none",
    overhead=0.000317,
    weights=0.0107,
    token=0.00171,
    context=0.0000313,
    pair=0.00000077,
    cache_tokens=160,
    step_tokens=24,
    sequences=5,
    block_tokens=4,
)


@dataclass(eq=False)
class Heard:
    """What a job said, in order."""

    words: list[tuple[str, float, int | End]] = field(default_factory=list)

    def first(self, now: float, cached: int) -> None:
        self.words.append(("first", now, cached))

    def ended(self, now: float, end: End) -> None:
        self.words.append(("ended", now, end))


class Bench:
    """A server, its time, and what was heard of each job."""

    def __init__(self, hardware: Hardware = SMALL) -> None:
        self.time = EventQueue()
        self.server = BatchingServer(self.time, hardware)
        self.heard: list[Heard] = []

    def ask(
        self, *prompt: tuple[int, int], output: int = 1, answer: int | None = None, priority: int = 0
    ) -> Heard:
        heard = Heard()
        self.heard.append(heard)
        pieces = tuple(Piece(name, tokens) for name, tokens in prompt)
        self.server.take(
            Job(
                prompt=pieces,
                output_tokens=output,
                first_token=heard.first,
                ended=heard.ended,
                answer=answer,
                priority=priority,
            )
        )
        return heard

    def load(self) -> Load:
        return self.server.load()


def test_an_empty_server_answers_in_a_prefill_step_and_a_step_for_each_further_token() -> None:
    bench = Bench()
    heard = bench.ask((1, 10), output=3)
    bench.time.run()
    first = SMALL.step(10, 0, 0, 50.0)
    last = first + SMALL.step(0, 1, 10, 0) + SMALL.step(0, 1, 11, 0)
    assert heard.words == [
        ("first", pytest.approx(first), 0),
        ("ended", pytest.approx(last), End.DONE),
    ]


def test_a_long_prompt_comes_in_chunks() -> None:
    bench = Bench()
    heard = bench.ask((1, 60))
    bench.time.run()
    chunks = SMALL.step(24, 0, 0, 288), SMALL.step(24, 0, 0, 24 * 36), SMALL.step(12, 0, 0, 12 * 54)
    assert heard.words[0] == ("first", pytest.approx(sum(chunks)), 0)
    assert bench.server.counts.steps == 3


def test_who_decodes_goes_on_while_a_prompt_is_computed() -> None:
    bench = Bench()
    talking = bench.ask((1, 4), output=10)
    bench.time.run(until=0.02)  # it decodes
    asking = bench.ask((2, 40))
    bench.time.run()
    (_, asked_at, _), (_, done_at, _) = asking.words[0], talking.words[1]
    assert asked_at < done_at
    assert bench.server.counts.steps == 10  # none is for the prompt alone


def test_what_was_asked_before_is_cached_in_whole_blocks_and_never_whole() -> None:
    bench = Bench()
    bench.ask((1, 22))
    bench.time.run()
    longer, same = bench.ask((1, 22), (2, 8)), bench.ask((1, 20))
    bench.time.run()
    assert longer.words[0][2] == 20  # of 22: five blocks of 4
    assert same.words[0][2] == 16  # of 20: the last token has to be computed, and a block is computed whole


def test_an_answer_is_cached_for_the_turn_after_it() -> None:
    bench = Bench()
    bench.ask((1, 10), output=7, answer=50)
    bench.time.run()
    after = bench.ask((1, 10), (50, 7), (2, 3))
    bench.time.run()
    assert after.words[0][2] == 16  # of 17, of which the very last was never computed


def test_a_prompt_is_shared_within_the_step_that_computes_it() -> None:
    bench = Bench()
    bench.ask((9, 3))
    first, second = bench.ask((1, 12)), bench.ask((1, 12), (2, 4))
    bench.time.run()
    assert [first.words[0][2], second.words[0][2]] == [0, 12]
    assert first.words[0][1] == second.words[0][1]


def test_the_least_recently_used_text_makes_room() -> None:
    bench = Bench()
    for name in (1, 2, 3, 4):
        bench.ask((name, 36))
        bench.time.run()
    bench.ask((1, 36))  # used again: 2 is the oldest now
    bench.time.run()
    bench.ask((5, 40))
    bench.time.run()
    cached = [bench.server.cache.cached([Piece(name, 36), Piece(77, 1)]) for name in (1, 2, 3, 4, 5)]
    assert cached == [36, 12, 36, 36, 36]


def test_waiting_ones_wait_for_blocks_in_their_order() -> None:
    bench = Bench()
    bench.ask((1, 90), output=9)
    big, small = bench.ask((2, 90)), bench.ask((3, 10))
    bench.time.run(until=0.2)
    assert bench.load() == replace(bench.load(), waiting=2, running=1)
    bench.time.run()
    assert big.words[0][1] < small.words[0][1]


def test_a_higher_priority_goes_before() -> None:
    bench = Bench(replace(SMALL, sequences=1))
    bench.ask((1, 4), output=5)
    low, high = bench.ask((2, 4)), bench.ask((3, 4), priority=1)
    bench.time.run()
    assert high.words[1][1] <= low.words[0][1]


def test_the_last_one_is_preempted_when_blocks_run_out_and_is_answered_all_the_same() -> None:
    bench = Bench()
    before = bench.ask((1, 70), output=40)
    after = bench.ask((2, 70), output=40)
    bench.time.run()
    assert bench.server.counts.preemptions == 1
    assert before.words[1][1] < after.words[1][1]
    assert [word for word, _, _ in after.words] == ["first", "ended"]
    assert bench.server.counts.output_tokens == 80


def seen(bench: Bench) -> tuple[int | None, int | None, float]:
    load = bench.load()
    assert load.kv_usage is not None
    return load.waiting, load.running, load.kv_usage * 40


def test_the_metrics_page_is_that_of_the_last_whole_step() -> None:
    bench = Bench()
    assert replace(bench.load(), work=None) == Load(
        waiting=0, running=0, kv_usage=0.0, cache_block_tokens=4, cache_blocks=40, started_at=0.0
    )
    bench.ask((1, 8), output=30)
    bench.ask((2, 40), output=2)
    assert seen(bench) == (0, 0, 0)
    bench.time.run(until=bench.time.next_at)  # 1 is computed, of 2 nothing is
    assert seen(bench) == (0, 1, 2)
    bench.time.run(until=bench.time.next_at)  # it has answered a token, of 2 there are 23
    assert seen(bench) == (0, 2, 3 + 10)


def test_the_metrics_page_goes_on_within_a_run() -> None:
    bench = Bench()
    bench.ask((1, 8), output=30)
    first = bench.time.next_at
    steps = [SMALL.step(0, 1, 8 + number, 0) for number in range(6)]
    blocks = []
    for number in range(6):
        bench.time.run(until=first + sum(steps[:number]) + 1e-9)
        blocks.append(seen(bench)[2])
    assert blocks == [2, 3, 3, 3, 3, 4]
    assert bench.time.happened == 1
    bench.time.run()
    assert seen(bench) == (0, 0, 0)


def test_the_metrics_page_counts_prompts_at_their_end_and_tokens_as_they_come() -> None:
    bench = Bench()
    bench.ask((1, 10), output=21)
    first = bench.time.next_at
    bench.time.run(until=first + SMALL.step(0, 1, 10, 0) + SMALL.step(0, 1, 11, 0) + 1e-9)
    assert bench.load().work == Work(
        prompt_tokens=0,
        prompt_seconds=0.0,
        prompts=0,
        tokens=2,
        token_seconds=pytest.approx(bench.time.now - first, rel=1e-6),
        asked_tokens=10,
        hit_tokens=0,
    )
    bench.time.run()
    bench.ask((1, 10))
    bench.time.run()
    work = bench.load().work
    assert work is not None
    assert (work.prompt_tokens, work.prompts, work.tokens) == (12, 2, 20)
    assert (work.asked_tokens, work.hit_tokens) == (20, 8)


@pytest.mark.parametrize("prompt", [[(1, 200)], []])
def test_what_cannot_be_worked_on_is_not_taken(prompt: list[tuple[int, int]]) -> None:
    bench = Bench()
    assert bench.ask(*prompt).words == [("ended", 0.0, End.REFUSED)]


def test_who_dies_fails_its_jobs_takes_none_and_comes_back_with_nothing() -> None:
    bench = Bench()
    running, waiting = bench.ask((1, 20), output=50), bench.ask((2, 150))
    bench.time.run(until=0.3)
    bench.server.die()
    late = bench.ask((3, 4))
    bench.time.run()
    assert [word for word, _, _ in running.words] == ["first", "ended"]
    assert [heard.words[-1] for heard in (running, waiting, late)] == [
        ("ended", 0.3, End.FAILED),
        ("ended", 0.3, End.FAILED),
        ("ended", 0.3, End.REFUSED),
    ]
    assert bench.load() == Load()
    bench.server.start()
    again = bench.ask((1, 20))
    bench.time.run()
    assert again.words[0][2] == 0
    assert bench.load().started_at == 0.3


def test_who_is_asked_to_start_twice_says_so() -> None:
    with pytest.raises(RuntimeError, match="is running"):
        Bench().server.start()


def test_at_half_speed_the_rest_takes_twice_as_long_and_at_none_for_ever() -> None:
    usual = Bench()
    usual.ask((1, 10), output=20)
    usual.time.run()
    bench = Bench()
    heard = bench.ask((1, 10), output=20)
    bench.time.run(until=0.1)
    bench.server.slow_down(0.5)
    bench.time.run(until=0.15)
    bench.server.slow_down(0.0)
    bench.time.run()
    assert [word for word, _, _ in heard.words] == ["first"]
    bench.time.run(until=7.0)
    bench.server.slow_down(1.0)
    bench.time.run()
    assert heard.words[1][1] == pytest.approx(usual.heard[0].words[1][1] - 0.1 - 0.025 + 7.0)


@pytest.mark.parametrize("speed", [-0.1, float("nan")])
def test_a_speed_is_a_share(speed: float) -> None:
    with pytest.raises(ValueError, match="speed: expected at least 0"):
        Bench().server.slow_down(speed)


def test_callers_may_ask_again_from_what_they_are_told() -> None:
    bench = Bench()
    asked_again: list[Heard] = []
    job = Job(
        prompt=(Piece(1, 8),),
        output_tokens=1,
        first_token=lambda now, cached: asked_again.append(bench.ask((2, 8))),
        ended=lambda now, end: bench.server.die(),
    )
    bench.server.take(job)
    bench.time.run()
    assert [heard.words[-1][2] for heard in asked_again] == [End.FAILED]


# --- in general -------------------------------------------------------------------------------------

pieces = st.builds(Piece, st.integers(1, 4), st.integers(1, 30))
prompts = st.lists(pieces, min_size=1, max_size=4).map(tuple)


@st.composite
def asked(draw: st.DrawFn) -> list[Asked]:
    """Jobs that come one after the other; no two things at one time but at the beginning."""
    found, at = [], 0.0
    for number in range(draw(st.integers(1, 14))):
        at += draw(st.sampled_from([0.0, 0.0137, 0.0713, 0.317, 2.713])) * (1 + number / 977)
        found.append(
            Asked(
                at=at,
                prompt=draw(prompts),
                output_tokens=draw(st.integers(1, 30)),
                answer=draw(st.sampled_from([1, 2, 100 + number])),
                priority=draw(st.sampled_from([0, 0, 0, 1])),
            )
        )
    return found


hardware = st.builds(
    replace,
    st.just(SMALL),
    cache_tokens=st.sampled_from([156, 200, 320, 1000]),
    step_tokens=st.sampled_from([6, 24, 200]),
    sequences=st.sampled_from([1, 3, 6]),
    block_tokens=st.sampled_from([1, 4, 5]),
)


def checked(server: BatchingServer) -> None:
    """Nothing is lost and nothing is there twice."""
    cache = server.cache
    assert 0 <= cache.idle <= cache.shared
    assert cache.private >= 0
    assert cache.private + cache.shared <= cache.blocks
    assert (cache.shared, cache.idle) == cache.counted()
    if server.is_alive:
        server.load()
        page = server._page(server._done(), with_work=True)
        assert server.load() == page  # what is remembered of a look is still so


def played(hardware: Hardware, jobs: Sequence[Asked]) -> Bench:
    bench = Bench(hardware)

    def ask(job: Asked) -> None:
        prompt = [(piece.name, piece.tokens) for piece in job.prompt]
        bench.ask(*prompt, output=job.output_tokens, answer=job.answer, priority=job.priority)

    for job in jobs:
        bench.time.later(job.at, partial(ask, job))
    while bench.time.next_at < float("inf"):
        bench.time.run(until=bench.time.next_at)
        checked(bench.server)
    return bench


@given(hardware, asked())
def test_runs_are_as_steps_one_by_one(hardware: Hardware, jobs: list[Asked]) -> None:
    bench, stepwise = played(hardware, jobs), Stepwise(hardware)
    for heard, told in zip(bench.heard, stepwise.play(jobs), strict=True):
        assert told.first_at is not None
        assert heard.words == [
            ("first", pytest.approx(told.first_at, rel=1e-9), told.cached),
            ("ended", pytest.approx(told.ended_at, rel=1e-9), End.DONE),
        ]
    assert bench.server.counts.preemptions == stepwise.preemptions
    assert bench.server.cache.shared == len(stepwise.blocks.users)


@given(hardware, asked())
def test_what_was_asked_is_what_was_worked_on(hardware: Hardware, jobs: list[Asked]) -> None:
    server = played(hardware, jobs).server
    assert server.counts.output_tokens == sum(job.output_tokens for job in jobs)
    assert server.counts.prompt_tokens == sum(piece.tokens for job in jobs for piece in job.prompt)
    assert server.counts.requests == len(jobs)
    assert (server.cache.private, server.cache.idle) == (0, server.cache.shared)
    assert (server.load().running, server.load().waiting) == (0, 0)


faults = st.lists(
    st.tuples(st.floats(0.0, 3.0), st.sampled_from(["die", "start", "hang", "slow", "usual"])), max_size=8
)


@given(hardware, asked(), faults)
def test_every_job_ends_once_whatever_happens_to_the_server(
    hardware: Hardware, jobs: list[Asked], faults: list[tuple[float, str]]
) -> None:
    bench = Bench(hardware)
    deaths: list[float] = []

    def ask(job: Asked) -> None:
        prompt = [(piece.name, piece.tokens) for piece in job.prompt]
        bench.ask(*prompt, output=job.output_tokens, answer=job.answer, priority=job.priority)

    def strike(fault: str) -> None:
        server = bench.server
        match fault:
            case "die":
                server.die()
                deaths.append(bench.time.now)
            case "start":
                if not server.is_alive:
                    server.start()
            case _:
                server.slow_down({"hang": 0.0, "slow": 0.3, "usual": 1.0}[fault])

    for job in jobs:
        bench.time.later(job.at, partial(ask, job))
    for at, fault in [*faults, (300.0, "usual")]:  # who hangs goes on in the end
        bench.time.later(at, partial(strike, fault))
    passed = [0.0]
    while bench.time.next_at < float("inf"):
        bench.time.run(until=bench.time.next_at)
        passed.append(bench.time.now)
        checked(bench.server)
    assert passed == sorted(passed)
    for heard in bench.heard:
        words = [word for word, _, _ in heard.words]
        assert words in (["ended"], ["first", "ended"])
        times = [at for _, at, _ in heard.words]
        assert times == sorted(times)
        if heard.words[-1][2] is End.FAILED:
            assert times[-1] in deaths
        if heard.words[-1][2] is End.DONE:
            assert len(words) == 2


def test_a_request_costs_a_handful_of_events() -> None:
    """Five clients a second, each with 5,000 tokens of prompt and 300 of answer."""
    bench = Bench(gpu(H100, LLAMA_8B))
    for number in range(500):
        bench.time.later(number / 5, partial(bench.ask, (1, 4000), (number + 2, 1000), output=300))
    bench.time.run()
    assert bench.time.happened <= 500 * 5
    assert bench.server.counts.steps > 500 * 10  # which they were made of


def test_conversations_of_each_other_are_told_apart() -> None:
    """The same piece after other text is other text."""
    bench = Bench()
    for first, second in itertools.permutations([1, 2]):
        bench.ask((first, 12), (second, 12))
        bench.time.run()
    assert bench.heard[1].words[0][2] == 0
