"""What the fuzzer started from, what it found, and a little of what it does: in the same room, without it."""

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.fuzz.moves import Drain, In, Push, Wait, parse, text
from bench.fuzz.mutate import Mutator, items, moves
from bench.fuzz.record import SEEDS
from bench.fuzz.room import Finding, Room

FINDINGS = sorted(Path(__file__).with_name("findings").glob("*.txt"))
RECORDINGS = sorted(SEEDS.glob("*.txt"))


@pytest.mark.parametrize("path", [*RECORDINGS, *FINDINGS], ids=lambda path: path.stem)
def test_it_is_played_without_a_finding(path: Path) -> None:
    Room().play(parse(path.read_bytes()))


def test_there_are_recordings_of_every_kind_of_gateway() -> None:
    assert len(RECORDINGS) >= 7


any_moves = st.lists(
    st.binary(max_size=40).map(In)
    | st.floats(0, 1000).map(lambda seconds: Wait(float(f"{seconds:g}")))
    | st.just(Push())
    | st.just(Drain())
)


@given(any_moves)
def test_moves_are_read_as_they_are_written(given_moves: list[In | Wait | Push | Drain]) -> None:
    assert parse(text(given_moves)) == given_moves


@given(st.binary(max_size=300))
def test_any_text_can_be_read(rubbish: bytes) -> None:
    assert parse(text(parse(rubbish))) == parse(rubbish)


@given(st.sampled_from(RECORDINGS), st.integers())
def test_cutting_into_frames_and_reads_keeps_every_byte(path: Path, seed: int) -> None:
    recorded = parse(path.read_bytes())
    again = moves(items(recorded), random.Random(seed))
    assert b"".join(one.data for one in again if isinstance(one, In)) == b"".join(
        one.data for one in recorded if isinstance(one, In)
    )


@settings(max_examples=300)
@given(st.sampled_from(RECORDINGS), st.sampled_from(RECORDINGS), st.integers(), st.integers(0, 4))
def test_changed_conversations_are_no_harm(one: Path, other: Path, seed: int, changes: int) -> None:
    chance = random.Random(seed)
    mutator = Mutator(chance, lambda some: scrambled(some, chance))
    made = mutator.cross(parse(one.read_bytes()), parse(other.read_bytes()))
    for _ in range(changes):
        made = mutator.mutate(made)
    Room().play(made)


def scrambled(some: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(some) + 1)
    return some[:at] + chance.randbytes(chance.randrange(3)) + some[at + chance.randrange(3) :]


def test_a_defect_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The judge is no witness for the defence: what is broken on purpose is a finding."""
    from epp.core.budget import Budget

    recorded = parse((SEEDS / "envoy-duplex.txt").read_bytes())
    monkeypatch.setattr(Budget, "give_back", lambda self, count: None)
    with pytest.raises(Finding, match="of the budget are left"):
        Room().play(recorded)
