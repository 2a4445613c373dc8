"""Sessions as they are generated: lengths, common beginnings, order, and that a seed is a workload."""

import itertools
import math
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from random import Random
from statistics import fmean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.workloads import spec
from bench.workloads.distributions import Lengths, Times, mean
from bench.workloads.generate import Rate, asked, generate, mean_turns
from bench.workloads.sessions import Piece, Session
from bench.workloads.spec import Arrivals, Beginning, Bursts, Kind, Stage, Workload
from epp.config.decode import ConfigError

SYNTHETIC = [name for name, path in spec.catalogue().items() if "trace:" not in path.read_text()]


def some(workload: Workload, count: int = 400, seed: int = 1) -> list[Session]:
    return list(itertools.islice(generate(workload, Random(seed), rate=Rate(10)), count))


def kind(**fields: object) -> Kind:
    return Kind(**{"name": "k", "input_tokens": 10, "output_tokens": 5, **fields})  # type: ignore[arg-type]


def one(**fields: object) -> Workload:
    return Workload(name="w", sessions=(kind(**fields),))


def begins_alike(a: Session, b: Session) -> int:
    """Tokens that two first prompts have in common."""
    common = 0
    for left, right in zip(a.turns[0].pieces, b.turns[0].pieces, strict=False):
        if left.name != right.name:
            break
        common += min(left.tokens, right.tokens)
        if left.tokens != right.tokens:
            break
    return common


# --- what is asked -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SYNTHETIC)
def test_a_later_turn_begins_with_the_earlier_one_and_its_answer(name: str) -> None:
    for session in some(spec.find(name), 50):
        before: tuple[Piece, ...] = ()
        for number, (turn, prompt) in enumerate(session.prompts()):
            assert prompt[: len(before)] == before and len(prompt) > len(before)
            assert all(piece.tokens > 0 for piece in prompt) and turn.output_tokens > 0
            assert (turn.think > 0) == (number > 0)
            before = (*prompt, session.answer(number))


@pytest.mark.parametrize("name", SYNTHETIC)
def test_no_two_texts_of_different_sessions_have_one_name_by_accident(name: str) -> None:
    workload = spec.find(name)
    sessions = some(workload, 200)
    users = Counter(
        name
        for session in sessions
        for name in {piece.name for turn in session.turns for piece in turn.pieces}
    )
    texts = sum(math.prod(part.texts or 1 for part in each.beginning) for each in workload.sessions or ())
    assert all(name < 2 * texts for name, count in users.items() if count > 1) and min(users) >= 0
    assert all(session.answer(0).name < 0 for session in sessions)


def test_chat_has_the_means_that_are_published() -> None:
    (chat,) = spec.find("interactive-chat").sessions or ()
    sessions = some(spec.find("interactive-chat"), 5_000)
    turns = [turn for session in sessions for turn in session.turns]
    assert {session.turns[0].pieces[0] for session in sessions} == {Piece(0, 1000)}
    own = [session.turns[0].pieces[1].tokens for session in sessions]
    assert fmean(own) == pytest.approx(4000, abs=4 * 2500 / math.sqrt(5_000))
    assert min(own) >= 500 and max(own) <= 15000
    assert fmean(len(session.turns) for session in sessions) == pytest.approx(
        4, abs=4 * 2.5 / math.sqrt(5_000)
    )
    assert fmean(turn.output_tokens for turn in turns) == pytest.approx(mean(chat.output_tokens), rel=0.01)  # type: ignore[arg-type]
    asked_tokens = [turn.pieces[-1].tokens for turn in turns]
    assert fmean(asked_tokens) == pytest.approx(50, abs=4 * 40 / math.sqrt(20_000))
    thought = [turn.think for session in sessions for turn in session.turns[1:]]
    assert fmean(thought) == pytest.approx(45, abs=1.5) and min(thought) >= 5 and max(thought) <= 300


def test_150_groups_of_5_prompts_are_dealt_and_then_dealt_again() -> None:
    sessions = some(spec.find("shared-prefix"), 1_500)
    prompts = [session.turns[0].pieces for session in sessions]
    assert prompts[:750] == prompts[750:] and len(set(prompts)) == 750
    assert {sum(piece.tokens for piece in prompt) for prompt in prompts} == {7200}
    groups = [prompt[0].name for prompt in prompts[:750]]
    assert len(set(groups)) == 150 and all(groups.count(group) == 5 for group in set(groups))
    assert groups != sorted(groups)


def test_shared_texts_have_one_length_each() -> None:
    sessions = some(spec.find("predicted-latency-b"), 7_000)
    lengths: dict[int, set[int]] = {}
    for session in sessions:
        for piece in session.turns[0].pieces:
            lengths.setdefault(piece.name, set()).add(piece.tokens)
    assert all(len(each) == 1 for each in lengths.values()) and len(lengths) == 6_006


def test_prompts_of_one_group_have_just_its_text_in_common() -> None:
    first, *others = some(spec.find("aibrix-842"), 100)
    assert {begins_alike(first, other) for other in others} == {0, 8000}
    documents = some(spec.find("batch-rag"), 100)
    assert {begins_alike(a, b) for a, b in itertools.pairwise(documents)} == {500}


def test_kinds_come_in_their_shares() -> None:
    workload = Workload(
        name="w", sessions=(kind(name="a", share=3, priority=1), kind(name="b", share=1, priority=2))
    )
    drawn = [session.priority for session in some(workload, 8_000)]
    assert drawn.count(1) / 8_000 == pytest.approx(0.75, abs=4 * math.sqrt(0.75 * 0.25 / 8_000))


def test_kinds_have_no_text_in_common() -> None:
    beginning = (Beginning(tokens=100, texts=3), Beginning(tokens=100, texts=2))
    workload = Workload(
        name="w", sessions=(kind(name="a", beginning=beginning), kind(name="b", beginning=beginning))
    )
    names = {piece.name for session in some(workload, 100) for piece in session.turns[0].pieces[:2]}
    assert names == set(range(2 * (3 + 6)))


# --- a context's end -----------------------------------------------------------------------------


def test_a_turn_that_does_not_fit_the_context_is_not_asked() -> None:
    (session,) = some(replace(one(turns=100), max_context_tokens=100), 1)
    assert [sum(piece.tokens for piece in prompt) for _, prompt in session.prompts()] == [
        10,
        25,
        40,
        55,
        70,
        85,
    ]


def test_a_first_prompt_is_cut_to_the_context() -> None:
    workload = one(beginning=(Beginning(tokens=60, texts=1), Beginning(tokens=60)))
    (session,) = some(replace(workload, max_context_tokens=100), 1)
    assert [piece.tokens for piece in session.turns[0].pieces] == [60, 35]


def test_no_conversation_is_longer_than_the_context() -> None:
    for session in some(spec.find("deep-research"), 300):
        *_, (last, prompt) = session.prompts()
        assert sum(piece.tokens for piece in prompt) + last.output_tokens <= 131072


# --- how often -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arrivals", [Arrivals(), Arrivals(bursts=Bursts(sessions=10))], ids=["poisson", "bursts"]
)
def test_a_rate_of_requests_counts_all_turns(arrivals: Arrivals) -> None:
    workload = replace(one(turns=Lengths(shape="normal", mean=4, sd=2)), arrivals=arrivals)
    sessions = list(generate(workload, Random(1), rate=Rate(20), seconds=2_000))
    requests = sum(len(session.turns) for session in sessions)
    assert requests / 2_000 == pytest.approx(20, rel=0.07)
    assert mean_turns(workload) == pytest.approx(4.05, rel=0.03)


def test_a_rate_of_sessions_counts_these() -> None:
    sessions = list(generate(one(turns=9), Random(1), rate=Rate(20, "sessions"), seconds=500))
    assert len(sessions) == pytest.approx(10_000, abs=400)


def test_a_workload_may_say_its_own_rate_and_duration() -> None:
    for said in ({"requests_per_second": 20.0}, {"sessions_per_second": 10.0}):
        workload = replace(one(turns=2, think=1.0), duration=500, **said)
        assert len(list(generate(workload, Random(1)))) == pytest.approx(5_000, abs=300)
    staged = replace(one(), arrivals=Arrivals(stages=(Stage(requests_per_second=10, duration=300),)))
    assert len(list(generate(staged, Random(1)))) == pytest.approx(3_000, abs=220)


def test_without_any_rate_nothing_is_guessed() -> None:
    with pytest.raises(
        ConfigError, match="w: has no rate: write requestsPerSecond into its file, or give a rate"
    ):
        generate(one(), Random(1))
    with pytest.raises(ConfigError, match="rate -1: must be above 0 requests a second"):
        Rate(-1)


def test_users_have_one_session_after_the_other_and_no_rate() -> None:
    workload = replace(one(), arrivals=Arrivals(users=3))
    assert [session.at for session in itertools.islice(generate(workload, Random(1)), 10)] == [0.0] * 10
    with pytest.raises(ConfigError, match="w: has users and no rate: leave the rate out"):
        generate(workload, Random(1), rate=Rate(1))


def test_a_seed_is_a_workload_and_another_rate_asks_the_same() -> None:
    workload = spec.find("mixed")
    assert some(workload, seed=7) == some(workload, seed=7) != some(workload, seed=8)
    slow, fast = (
        list(itertools.islice(generate(workload, Random(7), rate=Rate(rate)), 100)) for rate in (1, 50)
    )
    assert [session.turns for session in slow] == [session.turns for session in fast]
    assert all(a.at == pytest.approx(50 * b.at) for a, b in zip(slow, fast, strict=True))


def test_20_000_chat_sessions_take_no_two_seconds() -> None:
    workload = spec.find("interactive-chat")
    mean_turns(workload)
    began = time.process_time()
    sessions = generate(workload, Random(1), rate=Rate(100))
    assert sum(len(session.turns) for session in itertools.islice(sessions, 20_000)) > 70_000
    assert time.process_time() - began < 2  # 0.5 s where nothing else runs


# --- whatever the workload -----------------------------------------------------------------------

lengths = st.one_of(
    st.integers(1, 500),
    st.builds(
        Lengths, shape=st.sampled_from(["normal", "logNormal"]), mean=st.floats(1, 500), sd=st.floats(0, 500)
    ),
)
turns = st.one_of(
    st.integers(1, 6),
    st.builds(Lengths, shape=st.just("normal"), mean=st.just(3.0), sd=st.just(2.0), max=st.just(9)),
)
kinds = st.builds(
    kind,
    share=st.floats(0.1, 10),
    turns=turns,
    input_tokens=lengths,
    output_tokens=lengths.map(lambda of: of if isinstance(of, int) else replace(of, max=1_000)),
    think=st.floats(0, 10) | st.builds(Times, shape=st.just("exponential"), mean=st.floats(0.1, 10)),
    beginning=st.tuples(
        st.lists(st.builds(Beginning, tokens=lengths, texts=st.integers(1, 5)), max_size=2),
        st.lists(st.builds(Beginning, tokens=lengths), max_size=2),
    ).map(lambda parts: (*parts[0], *parts[1])),
)
workloads = st.builds(
    lambda kinds, room: Workload(
        name="w",
        sessions=tuple(replace(each, name=f"k{number}") for number, each in enumerate(kinds)),
        max_context_tokens=room,
    ),
    st.lists(kinds, min_size=1, max_size=3),
    st.none() | st.integers(1_001, 5_000),
)


@settings(deadline=None)  # the first look at a workload measures its turns
@given(workload=workloads, seed=st.integers(0, 100), rate=st.floats(0.1, 100))
def test_any_workload_is_generated_in_order_and_within_its_context(
    workload: Workload, seed: int, rate: float
) -> None:
    sessions = list(itertools.islice(generate(workload, Random(seed), rate=Rate(rate, "sessions")), 30))
    assert [session.name for session in sessions] == list(range(30))
    assert [session.at for session in sessions] == sorted(session.at for session in sessions)
    own: set[int] = set()
    for session in sessions:
        assert session.turns
        for turn, prompt in session.prompts():
            total = sum(piece.tokens for piece in prompt) + turn.output_tokens
            assert workload.max_context_tokens is None or total <= workload.max_context_tokens
            assert all(piece.tokens >= 1 for piece in prompt) and turn.think >= 0
        names = {piece.name for turn in session.turns for piece in turn.pieces if piece.name >= 1 << 62}
        assert not names & own
        own |= names


def test_what_is_asked_can_be_had_without_moments() -> None:
    assert len(list(asked(one(), itertools.repeat(0.0, 5), Random(1)))) == 5


# --- traces --------------------------------------------------------------------------------------


def test_a_trace_is_replayed_as_recorded_or_at_another_rate(tmp_path: Path) -> None:
    line = '{{"timestamp": {}, "input_length": 600, "output_length": 9, "hash_ids": [1, {}]}}\n'
    (tmp_path / "a.jsonl").write_text("".join(line.format(second * 1000, second) for second in range(101)))
    file = tmp_path / "w.yaml"
    file.write_text("name: replayed\ntrace: {file: a.jsonl, format: mooncake}\n")
    workload = spec.load(file)
    recorded = list(generate(workload, Random(1)))
    assert [session.at for session in recorded] == list(range(101))
    assert [session.at for session in generate(workload, Random(1), seconds=10)] == list(range(10))
    fast = list(generate(workload, Random(1), rate=Rate(4)))
    assert len(fast) == 101 and fast[-1].at == pytest.approx(101 / 4)
    assert [session.turns for session in fast] == [session.turns for session in recorded]
    short = next(generate(replace(workload, max_context_tokens=209), Random(1)))
    assert [piece.tokens for piece in short.turns[0].pieces] == [200] and short.turns[0].output_tokens == 9


def test_a_trace_that_is_made_is_another_one_for_each_seed() -> None:
    workload = spec.find("mooncake-toolagent")
    first, again, other = (list(itertools.islice(generate(workload, Random(seed)), 50)) for seed in (1, 1, 2))
    assert first == again != other
