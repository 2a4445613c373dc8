"""When garbage is looked for: never amid a round, and all of it in the end."""

import gc
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

from epp.controller.garbage import WHOLE, Garbage, looked_for_by_hand


class Ring:
    """Garbage that only a look finds."""

    def __init__(self) -> None:
        self.itself: Ring | None = self


@pytest.fixture
def garbage() -> Iterator[Garbage]:
    with looked_for_by_hand() as made:
        yield made


def test_amid_a_round_nobody_looks_at_all_there_is(garbage: Garbage) -> None:
    looks = list[int]()

    def seen(phase: str, info: dict[str, Any]) -> None:
        if phase == "start":
            looks.append(info["generation"])

    garbage.look(0.0)
    gc.callbacks.append(seen)
    try:
        site = [[number] for number in range(300_000)]
    finally:
        gc.callbacks.remove(seen)
    assert len(site) == 300_000 and set(looks) == {0, 1}


def test_what_a_round_leaves_is_found_after_it(garbage: Garbage) -> None:
    garbage.look(0.0)
    seen = weakref.ref(Ring())
    garbage.look(1.0)
    assert seen() is None


def test_what_was_set_aside_is_found_now_and_then(garbage: Garbage) -> None:
    garbage.look(0.0)
    ring: Ring | None = Ring()
    seen = weakref.ref(ring)
    garbage.look(1.0)
    ring = None
    garbage.look(WHOLE - 1.0)
    assert seen() is not None, "it was set aside"
    garbage.look(WHOLE)
    assert seen() is None
    garbage.look(WHOLE + 1.0)
    assert gc.get_freeze_count() > 0, "and what is left is set aside again"


def test_afterwards_all_is_as_before() -> None:
    before = gc.get_threshold()
    with looked_for_by_hand() as garbage:
        garbage.look(0.0)
        assert gc.get_threshold() != before
    assert gc.get_threshold() == before and gc.get_freeze_count() == 0
