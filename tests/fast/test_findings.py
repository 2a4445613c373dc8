"""What the fuzzer started from, what it found, and a little of what it does: in the same room, without it."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench import frames
from bench.fuzz.moves import Drain, In, Push, Wait, parse, text
from bench.fuzz.mutate import Mutator, items, moves
from bench.fuzz.record import SEEDS
from bench.fuzz.room import Finding, Room
from epp.core.budget import Budget
from epp.runtime.ext_proc import Conversation
from epp.runtime.fast.connection import Connection
from epp.runtime.fast.stream import Stream
from epp.wire import usual

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


def small_windows(recorded: list[In | Wait | Push | Drain]) -> list[In | Wait | Push | Drain]:
    """The same from a peer that gives each stream five bytes."""
    preface, _, *rest = items(recorded)
    five = frames.settings({frames.Setting.INITIAL_WINDOW_SIZE: 5})
    return moves([preface, In(five), *rest], random.Random(1))


DEFECTS = {
    "a body stays with the budget": (Budget, "give_back", lambda self, count: None, "of the budget are left"),
    "a call is not told of its end": (Conversation, "close", lambda self: None, "reservations are left"),
    "a window is not kept": (Stream, "taken", lambda self, room: TAKEN(self, 10**6), "bytes on stream"),
    "an exception": (Connection, "_on_window_update", lambda *_: 1 / 0, "division by zero"),
    "a quick reading that is wrong": (usual, "event", lambda message: None, "read in two ways"),
    "an endless loop": (Connection, "_on_settings", lambda *_: sum(range(10**8)), "s for .* bytes"),
}
TAKEN = Stream.taken


@pytest.mark.parametrize("defect", DEFECTS.values(), ids=DEFECTS.keys())
def test_a_defect_would_be_found(
    defect: tuple[object, str, Callable[..., object], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    where, name, replacement, finding = defect
    recorded = parse((SEEDS / "envoy-duplex.txt").read_bytes())
    changed = small_windows(recorded) if name == "taken" else recorded[:2] if name == "close" else recorded
    Room().play(changed)
    monkeypatch.setattr(where, name, replacement)
    with pytest.raises((Finding, ArithmeticError), match=finding):
        Room().play(changed)
