"""The fleet soak's verdict: a loss needs a fault to explain it, and a healthy server is not forgotten."""

from collections import Counter
from dataclasses import replace

import pytest

from bench.fleet_soak import Member, Outcome, Trouble, longest_out, unexplained, variation, verdict, well
from bench.soak import State
from tests.bench.test_failover_account import OTHER, VICTIM, Fate, Request, request

BEFORE = State({}, Counter(["scraper"]), 20, 100.0)
START = 100.0
"""The requests' clock: ``request(at)`` is sent at 102 s and ``at``."""


def outcome(*requests: Request, had: list[Trouble] | None = None, seconds: float = 300.0) -> Outcome:
    fleet = [Member("first", VICTIM, {}, had or []), Member("second", OTHER, {}, [])]
    return Outcome(fleet, list(requests), [], START, START + seconds)


def often(to: str, begin: float, end: float) -> list[Request]:
    """One a second."""
    return [request(float(at), to) for at in range(int(begin), int(end))]


SERVED = [*often(VICTIM, -2, 298), *often(OTHER, -2, 298)]
KILLED = Trouble("killed", 110.0, 115.0)


def test_all_is_well() -> None:
    assert verdict(outcome(*SERVED), BEFORE, BEFORE, "") == []


@pytest.mark.parametrize("at, strange", [(3.0, 1), (9.0, 0), (12.0, 0), (16.0, 1)])
def test_a_loss_is_explained_by_a_fault_of_the_server_that_was_chosen(at: float, strange: int) -> None:
    lost = request(at, VICTIM, Fate.FAILED)
    assert len(unexplained(outcome(lost, had=[replace(KILLED, struck=111.0)]))) == strange
    assert len(unexplained(outcome(replace(lost, picked=OTHER), had=[KILLED]))) == 1


def test_nobody_may_be_chosen_only_while_all_have_faults() -> None:
    lost = request(10.0, None, Fate.FAILED)
    some = outcome(lost, had=[KILLED])
    assert unexplained(some) == [lost]
    some.members[1].had = [KILLED]
    assert unexplained(some) == []
    assert verdict(outcome(lost), BEFORE, BEFORE, "")[:2] == [
        "lost without a fault: 1 times it failed of nobody",
        "the first of these was sent after 12.0 s, the last after 12.0 s",
    ]


def test_a_healthy_server_without_requests_is_told() -> None:
    some = outcome(*often(VICTIM, -2, 100), *often(VICTIM, 140, 298), *often(OTHER, -2, 298))
    assert longest_out(some.members[0], some) == pytest.approx(41.0)
    assert verdict(some, BEFORE, BEFORE, "") == ["first was well and got nothing for 41.0 s"]


def test_time_with_a_fault_is_not_time_out() -> None:
    some = outcome(had=[KILLED, replace(KILLED, struck=200.0, back=None)], seconds=150.0)
    assert list(well(some.members[0], some)) == [(100.0, 110.0), (115.0, 200.0)]
    assert "first did not come back: killed" in verdict(some, BEFORE, BEFORE, "")


def test_memory_that_grows_is_told() -> None:
    some = outcome(*SERVED)
    some.rss_mib = [(START + second, 100.0) for second in range(0, 300, 5)]
    assert variation(some) == 0.0
    some.rss_mib[-1] = (START + 295, 120.0)
    assert verdict(some, BEFORE, BEFORE, "") == ["memory varies by 19.5% over the last three quarters"]


def test_what_is_left_is_told() -> None:
    after = State({"gauge": 3.0}, BEFORE.tasks + Counter(["late"]), 20, 100.0)
    told = ["gauge is 3, not 0", "task left: late (1)", "a traceback in the picker's log"]
    assert verdict(outcome(*SERVED), BEFORE, after, "Traceback") == told
