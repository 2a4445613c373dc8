"""Durations, as every gateway's resources take them."""

import re
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp.compiler.durations import duration

UNITS = {"h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}


@pytest.mark.parametrize(
    "seconds, written, plain",
    [
        (0, "0s", "0s"),
        (1e-4, "1ms", "1ms"),
        (0.1, "100ms", "100ms"),
        (0.30000000000000004, "300ms", "300ms"),
        (1.5, "1s500ms", "1s500ms"),
        (242, "4m2s", "242s"),
        (1800, "30m", "1800s"),
        (99_999, "27h46m39s", "99999s"),
        (100_000, "27h46m40s", "27h46m40s"),
    ],
)
def test_durations_have_no_fractions(seconds: float, written: str, plain: str) -> None:
    assert (duration(seconds), duration(seconds, plain=True)) == (written, plain)


@given(st.integers(1, 10**10), st.booleans())
def test_durations_are_as_the_resources_want_them(milliseconds: int, plain: bool) -> None:
    written = duration(milliseconds / 1000, plain=plain)
    assert re.fullmatch(r"([0-9]{1,5}(h|m|s|ms)){1,4}", written)
    parts = re.findall(r"([0-9]+)(h|ms|m|s)", written)
    assert sum(Fraction(count) * UNITS[unit] for count, unit in parts) == milliseconds
