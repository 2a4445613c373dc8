"""Names of what is made."""

import re

from hypothesis import example, given
from hypothesis import strategies as st

from epp.compiler.names import LONGEST, name_of, numbered

LABEL = re.compile(r"[a-z]([a-z0-9-]*[a-z0-9])?")
PART = st.text(st.characters(codec="ascii"), max_size=80)


def test_a_thing_is_called_as_its_input() -> None:
    assert name_of("qwen3-8b") == "qwen3-8b"


def test_what_is_no_label_or_has_two_parts_gets_a_hash() -> None:
    assert name_of("Qwen3.6") == "qwen3-6-f41abf"
    assert name_of("7b") == "m-7b-925a7b"
    assert name_of("router", "pii") == "router-pii-b310ec"


def test_two_things_never_share_a_name() -> None:
    assert name_of("a", "b-c") != name_of("a-b", "c")
    assert name_of("a-b") != name_of("a", "b")
    assert name_of("x" * 64) != name_of("x" * 65)


@given(st.lists(PART, min_size=1, max_size=4))
def test_it_is_a_label_of_dns(parts: list[str]) -> None:
    name = name_of(*parts)
    assert LABEL.fullmatch(name) and len(name) <= LONGEST


@given(st.lists(PART, min_size=1, max_size=3), st.lists(PART, min_size=1, max_size=3))
def test_other_parts_make_another_name(one: list[str], other: list[str]) -> None:
    assert (name_of(*one) == name_of(*other)) == (one == other)


@given(PART.filter(bool), st.integers(0, 1034))
@example("site", 99)
@example("x" * 63, 99)
def test_names_of_several_stand_in_the_order_of_their_numbers(name: str, number: int) -> None:
    first, second = numbered(name, number), numbered(name, number + 1)
    assert first < second
    assert all(LABEL.fullmatch(one) and len(one) <= LONGEST for one in (first, second))


def test_a_name_with_room_for_a_number_is_the_first_of_several() -> None:
    assert numbered("site", 0) == "site"
    assert [numbered("site", one)[:8] for one in (99, 100, 136, 1035)] == [
        "site-99-",
        "site-a0-",
        "site-b0-",
        "site-zz-",
    ]
    assert numbered("x" * 63, 0).startswith("x" * 53 + "-00-")
    assert numbered("x" * 63, 1) != numbered("x" * 64, 1)
