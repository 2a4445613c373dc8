"""A server with slots: who gets which, and what it need not compute."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.sim.hardware import HARDWARE, Hardware
from bench.sim.jobs import End, Job
from bench.sim.slots import KeptTexts, SlotServer
from bench.sim.timeline import EventQueue
from bench.workloads.sessions import Piece
from epp.core.fleet import Load
from epp.core.rates import Work
from tests.bench.sim.stepwise import Asked, StepwiseSlots
from tests.bench.sim.test_batching import Heard

SMALL = Hardware(
    name="small",
    engine="llamacpp",
    model="none",
    overhead=0.000317,
    weights=0.0107,
    token=0.00171,
    context=0.0000313,
    pair=0.00000077,
    cache_tokens=400,
    step_tokens=24,
    sequences=2,
)


class Bench:
    """A server, its time, and what was heard of each job."""

    def __init__(self, hardware: Hardware = SMALL) -> None:
        self.time = EventQueue()
        self.server = SlotServer(self.time, hardware)
        self.heard: list[Heard] = []

    def ask(self, *prompt: tuple[int, int], output: int = 1, answer: int | None = None) -> Heard:
        heard = Heard()
        self.heard.append(heard)
        self.server.take(
            Job(
                prompt=tuple(Piece(name, tokens) for name, tokens in prompt),
                output_tokens=output,
                first_token=heard.first,
                ended=heard.ended,
                answer=answer,
            )
        )
        return heard

    def answered(self, *prompt: tuple[int, int], output: int = 1, answer: int | None = None) -> Heard:
        heard = self.ask(*prompt, output=output, answer=answer)
        self.time.run()
        return heard

    def seen(self) -> tuple[int | None, int | None, int | None]:
        load = self.server.load()
        return load.waiting, load.running, load.slots


def test_who_finds_no_slot_is_deferred() -> None:
    bench = Bench()
    for name in (1, 2, 3):
        bench.ask((name, 10), output=5)
    bench.time.run(until=bench.time.next_at)
    assert bench.seen() == (1, 2, 2)
    bench.time.run()
    assert bench.seen() == (0, 0, 2)
    assert bench.heard[2].words[0][1] > bench.heard[0].words[1][1]


def test_who_has_a_slot_and_waits_for_the_step_is_not_deferred() -> None:
    bench = Bench()
    bench.ask((1, 10), output=5)
    bench.ask((2, 10), output=5)
    assert bench.seen() == (0, 1, 2)


def test_it_says_nothing_of_a_cache() -> None:
    load = Bench().server.load()
    assert (load.kv_usage, load.cache_blocks, load.started_at) == (None, None, None)


def test_a_conversation_comes_back_to_its_slot() -> None:
    bench = Bench()
    bench.answered((1, 30), output=8, answer=70)
    bench.answered((2, 30), output=8)
    after = bench.answered((1, 30), (70, 8), (3, 5))
    assert after.words[0][2] == 37  # all but the answer's last token, which was never computed


def test_less_than_a_tenth_is_no_likeness() -> None:
    bench = Bench(replace(SMALL, sequences=2))
    bench.answered((1, 4), (2, 40))
    bench.answered((3, 60))
    bench.answered((1, 4), (4, 60))  # 4 of 64: it takes the slot that is idle the longest, which is the first
    other = bench.answered((3, 60), (5, 1))
    assert other.words[0][2] == 60


def test_the_same_prompt_again_is_computed_from_its_last_token() -> None:
    bench = Bench()
    bench.answered((1, 30))
    assert bench.answered((1, 30)).words[0][2] == 29


def test_what_left_its_slot_comes_back_from_memory_if_there_is_room() -> None:
    cached = []
    for room in (0, 100):
        bench = Bench(replace(SMALL, sequences=1, kept_tokens=room))
        bench.answered((1, 40))
        bench.answered((2, 40))
        cached.append(bench.answered((1, 40), (3, 5)).words[0][2])
    assert cached == [0, 40]


def test_a_prompt_has_no_bound_in_a_step_but_the_batch() -> None:
    bench = Bench()
    talking = bench.ask((1, 4), output=10)
    bench.time.run(until=bench.time.next_at)
    asking = bench.ask((2, 46))
    bench.time.run()
    two_steps = SMALL.step(23, 1, 5, 23 * 11.5) + SMALL.step(23, 1, 6, 23 * 34.5)
    first_step = SMALL.step(0, 1, 4, 0)
    assert asking.words[0][1] == pytest.approx(talking.words[0][1] + first_step + two_steps)


def test_requests_are_counted_when_they_end() -> None:
    bench = Bench()
    bench.ask((1, 10), output=21)
    bench.time.run(until=bench.time.next_at)
    assert bench.server.load().work == Work(
        prompt_tokens=0, prompt_seconds=0.0, tokens=0, token_seconds=0.0, asked_tokens=0, hit_tokens=0
    )
    bench.time.run()
    (_, first_at, _), (_, ended_at, _) = bench.heard[0].words
    assert bench.server.load().work == Work(
        prompt_tokens=10,
        prompt_seconds=first_at,
        tokens=21,
        token_seconds=pytest.approx(ended_at - first_at),
        asked_tokens=10,
        hit_tokens=0,
    )


@pytest.mark.parametrize("prompt", [[(1, 200)], []])
def test_what_cannot_be_worked_on_is_not_taken(prompt: list[tuple[int, int]]) -> None:
    assert Bench().ask(*prompt).words == [("ended", 0.0, End.REFUSED)]


def test_who_dies_fails_its_jobs_and_comes_back_with_empty_slots() -> None:
    bench = Bench()
    for name in (1, 2, 3):
        bench.ask((name, 10), output=5)
    bench.time.run(until=0.05)
    bench.server.die()
    bench.time.run()
    assert [heard.words[-1] for heard in bench.heard] == [("ended", 0.05, End.FAILED)] * 3
    assert bench.server.load() == Load()
    bench.server.start()
    assert bench.answered((1, 10)).words[0][2] == 0


def test_kept_texts_are_the_latest_and_none_is_the_beginning_of_another() -> None:
    kept = KeptTexts(100)
    one, longer, other = (Piece(1, 40),), (Piece(1, 40), Piece(2, 10)), (Piece(3, 60),)
    kept.save(one)
    kept.save(longer)
    kept.save(one)
    assert kept.texts == [longer]
    kept.save(other)
    assert kept.texts == [other]  # both are 110
    kept.save((Piece(4, 101),))
    assert kept.texts == [other]


# --- in general -------------------------------------------------------------------------------------

LENGTHS = {1: 30, 2: 7, 3: 18, 4: 2}
pieces = st.sampled_from([Piece(name, tokens) for name, tokens in LENGTHS.items()])
prompts = st.lists(pieces, min_size=1, max_size=4).map(tuple)


@st.composite
def asked(draw: st.DrawFn) -> list[Asked]:
    """Jobs that come one after the other, some of which go on from the answer to an earlier one."""
    found: list[Asked] = []
    at = 0.0
    for number in range(draw(st.integers(1, 14))):
        at += draw(st.sampled_from([0.0, 0.0137, 0.0713, 0.317, 2.713])) * (1 + number / 977)
        prompt: tuple[Piece, ...] = draw(prompts)
        if found and draw(st.booleans()):
            before = draw(st.sampled_from(found))
            prompt = (*before.prompt, Piece(before.answer, before.output_tokens), *prompt[:1])
        output = draw(st.integers(1, 20))
        if sum(piece.tokens for piece in prompt) + output <= 200:
            found.append(Asked(at=at, prompt=prompt, output_tokens=output, answer=100 + number))
    return found


hardware = st.builds(
    replace,
    st.just(SMALL),
    cache_tokens=st.just(600),
    step_tokens=st.sampled_from([8, 24, 200]),
    sequences=st.integers(1, 3),
    kept_tokens=st.sampled_from([0, 120, 400]),
)


def ask_all(bench: Bench, jobs: Sequence[Asked]) -> None:
    def ask(job: Asked) -> None:
        prompt = [(piece.name, piece.tokens) for piece in job.prompt]
        bench.ask(*prompt, output=job.output_tokens, answer=job.answer)

    for job in jobs:
        bench.time.later(job.at, partial(ask, job))


@given(hardware, asked())
def test_runs_are_as_steps_one_by_one(hardware: Hardware, jobs: list[Asked]) -> None:
    bench = Bench(hardware)
    ask_all(bench, jobs)
    bench.time.run()
    for heard, told in zip(bench.heard, StepwiseSlots(hardware).play(jobs), strict=True):
        assert told.first_at is not None
        assert [word for word, _, _ in heard.words] == ["first", "ended"]
        assert heard.words[0][2] == told.cached
        times = [at for _, at, _ in heard.words]
        assert times == pytest.approx([told.first_at, told.ended_at], rel=1e-9)
    counts = bench.server.counts
    assert counts.output_tokens == counts.decoded_tokens == sum(job.output_tokens for job in jobs)
    assert bench.seen() == (0, 0, hardware.sequences)


@given(hardware, asked(), st.lists(st.floats(0.0, 2.0), max_size=3))
def test_every_job_ends_once_whoever_dies(hardware: Hardware, jobs: list[Asked], deaths: list[float]) -> None:
    bench = Bench(hardware)

    def die_and_start() -> None:
        bench.server.die()
        bench.server.start()

    ask_all(bench, jobs)
    for death in deaths:
        bench.time.later(death, die_and_start)
    bench.time.run()
    for heard in bench.heard:
        assert [word for word, _, _ in heard.words] in (["ended"], ["first", "ended"])
        times = [at for _, at, _ in heard.words]
        assert times == sorted(times)
        if heard.words[-1][2] is End.FAILED:
            assert times[-1] in deaths


def test_a_request_costs_a_handful_of_events() -> None:
    bench = Bench(HARDWARE["M2 Ultra"])
    for number in range(200):
        bench.time.later(number * 4.0, partial(bench.ask, (1, 1000), (number + 2, 1000), output=300))
    bench.time.run()
    assert bench.time.happened <= 200 * 6
    assert bench.server.counts.steps > 200 * 100
