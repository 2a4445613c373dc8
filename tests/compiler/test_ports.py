"""Which port of the picker's Service is whose."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp.compiler.ports import assign

NAMES = st.sets(st.text("abcxyz-", min_size=1, max_size=6), max_size=12)


def test_a_name_leads_to_its_port_on_every_machine() -> None:
    assert assign(["qwen", "phi"], {}, first=9100, count=10_000) == {"qwen": 16713, "phi": 18989}


def test_a_pool_keeps_the_port_that_it_has() -> None:
    assert assign(["qwen", "phi"], {"qwen": 9999}, first=9100, count=10_000)["qwen"] == 9999


def test_the_port_of_a_pool_that_goes_is_not_given_away_while_it_is_there() -> None:
    (port,) = assign(["new"], {}, first=1, count=2).values()
    assert assign(["new"], {"old": port}, first=1, count=2) == {"new": 3 - port}


def test_there_are_no_more_pools_than_ports() -> None:
    with pytest.raises(ValueError, match="3 pools and 2 ports"):
        assign(["a", "b", "c"], {}, first=1, count=2)


@given(NAMES, NAMES)
def test_every_pool_has_a_port_of_its_own_and_keeps_it(before: set[str], after: set[str]) -> None:
    taken = assign(before, {}, first=100, count=30)
    ports = assign(after, taken, first=100, count=30)
    assert set(ports) == after
    assert len(set(ports.values())) == len(after)
    assert set(ports.values()) <= set(range(100, 130))
    assert all(ports[name] == taken[name] for name in before & after)
