"""Whether a metal agent's heartbeat is too old."""

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp.config.cluster.heartbeats import TIMEOUT, instant, is_late

NOON = dt.datetime(2026, 11, 21, 12, tzinfo=dt.UTC)


@pytest.mark.parametrize(
    "beat, is_too_late",
    [
        pytest.param("2026-11-21T12:00:00Z", False, id="now"),
        pytest.param("2026-11-21T11:57:01Z", False, id="not yet"),
        pytest.param("2026-11-21T11:57:00Z", True, id="three minutes"),
        pytest.param("2026-11-21T12:57:00+01:00", True, id="of another time zone"),
        pytest.param("2026-11-21T13:00:00Z", False, id="of a clock that is ahead"),
        pytest.param("2026-11-21T11:00:00", False, id="of no time zone"),
        pytest.param("yesterday", False, id="no time"),
        pytest.param("", False, id="nothing"),
    ],
)
def test_when_a_heartbeat_is_late(beat: str, is_too_late: bool) -> None:
    assert is_late(beat, NOON.timestamp()) is is_too_late


@given(st.text() | st.datetimes(timezones=st.timezones()).map(dt.datetime.isoformat), st.floats(0, 4e9))
def test_whatever_is_written_it_is_late_from_some_time_on_or_never(beat: str, now: float) -> None:
    at = instant(beat)
    assert is_late(beat, now) is (at is not None and now >= at + TIMEOUT) or (
        at is not None and abs(now - at - TIMEOUT) < 1e-3
    )
