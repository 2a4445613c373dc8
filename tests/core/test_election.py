"""Who leads: candidates of one Lease, each with a clock of its own and an API that may lose their words."""

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from epp.core.election import LEASE_SECONDS, RENEW_DEADLINE, RETRY_PERIOD, Bid, Election, Record


def written(bid: Bid, version: str) -> Record:
    return Record(holder=bid.holder, seconds=bid.seconds, transitions=bid.transitions, version=version)


class Api:
    """One Lease: a write counts only on top of the version that is there."""

    def __init__(self) -> None:
        self.lease: Record | None = None
        self._version = 0

    def write(self, bid: Bid) -> Record | None:
        """What it is now; None: refused."""
        if self.lease != bid.on:
            return None
        self._version += 1
        self.lease = written(bid, str(self._version))
        return self.lease


def lead(election: Election, api: Api, now: float, *, asked_at: float | None = None) -> bool:
    """One whole try, as the driver makes it; whether it wrote."""
    if election.must_read(now):
        election.read(api.lease, now)
    bid = election.bid(now)
    if bid is None:
        return False
    record = api.write(bid)
    if record is None:
        election.refused()
        return False
    election.taken(bid, record, now if asked_at is None else asked_at, now)
    return True


def test_the_first_takes_the_lease_and_the_second_waits_until_it_has_run_out() -> None:
    api, first, second = Api(), Election("a"), Election("b")
    assert lead(first, api, 0.0) and first.leads(0.0)
    assert not lead(second, api, 1.0)
    assert (second.leader, second.leads(1.0)) == ("a", False)
    assert not lead(second, api, 1.0 + LEASE_SECONDS - 0.1), "it counts from what it saw"
    assert lead(second, api, 1.0 + LEASE_SECONDS)
    assert second.leads(16.0) and not first.leads(16.0)
    assert api.lease is not None and api.lease.transitions == 1


def test_a_leader_renews_without_reading_and_stays() -> None:
    api, leader = Api(), Election("a")
    for second in range(0, 60, 2):
        assert leader.must_read(second) is (second == 0)
        assert lead(leader, api, second)
    assert api.lease is not None and api.lease.transitions == 0
    assert leader.leads(58 + RENEW_DEADLINE - 0.1)


def test_a_leader_steps_down_when_its_deadline_is_over_by_its_own_clock() -> None:
    api, leader = Api(), Election("a")
    lead(leader, api, 5.0, asked_at=3.0)
    assert leader.leads(3.0 + RENEW_DEADLINE - 0.001), "it counts from the question"
    assert not leader.leads(3.0 + RENEW_DEADLINE)


def test_the_lease_of_one_who_leaves_is_taken_at_the_next_try() -> None:
    api, first, second = Api(), Election("a"), Election("b")
    lead(first, api, 0.0)
    lead(second, api, 0.5)
    first.leave()
    assert not first.leads(1.0), "before anything is written"
    bid = first.release()
    assert bid is not None and api.write(bid) is not None
    assert api.lease == Record(holder="", seconds=1, version="2")
    assert lead(second, api, 1.1)
    assert not lead(first, api, 30.0), "whoever has left bids no more"


def test_who_does_not_lead_has_nothing_to_give_back() -> None:
    api, first, second = Api(), Election("a"), Election("b")
    lead(first, api, 0.0)
    lead(second, api, 0.5)
    second.leave()
    assert second.release() is None


def test_a_renewal_that_was_refused_is_followed_by_a_look_and_another_try() -> None:
    api, leader = Api(), Election("a")
    lead(leader, api, 0.0)
    assert api.lease is not None
    api.lease = replace(api.lease, version="by hand")  # an annotation was added
    assert not lead(leader, api, 2.0) and leader.leads(2.0)
    assert leader.must_read(2.0)
    assert lead(leader, api, 2.1)
    assert api.lease.transitions == 0


@pytest.mark.parametrize("taken_away", [Record(holder="b", version="9"), None], ids=["another's", "deleted"])
def test_a_leader_that_sees_its_lease_gone_steps_down_at_once(taken_away: Record | None) -> None:
    api, leader = Api(), Election("a")
    lead(leader, api, 0.0)
    leader.read(taken_away, 1.0)
    assert not leader.leads(1.0)


def test_the_same_leader_leads_on_when_nobody_took_its_lease_meanwhile() -> None:
    api, leader = Api(), Election("a")
    lead(leader, api, 0.0)
    assert not leader.leads(60.0)
    assert lead(leader, api, 60.0) and leader.leads(60.0)
    assert api.lease is not None and api.lease.transitions == 0


# --- never two ---------------------------------------------------------------------------------------


@dataclass
class Candidate:
    """One process: what it has sent that has not come to an end yet."""

    election: Election
    offset: float
    """Its clock against the true time [s]."""
    sent: tuple[Bid, float] | None = None
    came: Record | None = None
    is_applied: bool = False
    lost: list[Bid] = field(default_factory=list)
    """Given up, and perhaps still on their way."""


WHAT = [
    *["try"] * 6,
    "read",
    "read",
    "send",
    "send",
    "apply",
    "apply",
    "answer",
    "answer",
    "lose",
    "arrive",
    "leave",
]
"""Weighted so that leases change hands."""
STEPS = st.lists(
    st.tuples(
        st.sampled_from([0, 1, 2]),
        st.sampled_from(WHAT),
        st.sampled_from(
            [0.0, 0.0, 1.0, RETRY_PERIOD, RENEW_DEADLINE - 0.1, LEASE_SECONDS - 0.1, LEASE_SECONDS]
        ),
    ),
    min_size=20,
    max_size=60,
)


@settings(max_examples=600)
@given(steps=STEPS, offsets=st.tuples(*[st.floats(-1e6, 1e6)] * 3))
def test_there_are_never_two_leaders(
    steps: list[tuple[int, str, float]], offsets: tuple[float, float, float]
) -> None:
    """Questions, what becomes of them and their answers come in any order and as late as they like."""
    api, now = Api(), 0.0
    candidates = [Candidate(Election(name), offset) for name, offset in zip("abc", offsets, strict=True)]
    for who, what, seconds in steps:
        now += seconds
        one = candidates[who]
        own = now + one.offset
        match what:
            case "try" if one.sent is None:
                lead(one.election, api, own)
            case "read" if one.sent is None:
                one.election.read(api.lease, own)
            case "send" if one.sent is None:
                bid = one.election.bid(own)
                one.sent, one.is_applied, one.came = None if bid is None else (bid, own), False, None
            case "apply" if one.sent is not None and not one.is_applied:
                one.came, one.is_applied = api.write(one.sent[0]), True
            case "answer" if one.sent is not None and one.is_applied:
                bid, asked_at = one.sent
                if one.came is None:
                    one.election.refused()
                else:
                    one.election.taken(bid, one.came, asked_at, own)
                one.sent = None
            case "lose" if one.sent is not None:
                one.election.refused()
                one.lost += [] if one.is_applied else [one.sent[0]]
                one.sent = None
            case "arrive" if one.lost:
                api.write(one.lost.pop())
            case "leave":
                one.election.leave()
        leaders = [each.election.identity for each in candidates if each.election.leads(now + each.offset)]
        assert len(leaders) <= 1, leaders


@settings(max_examples=200)
@given(
    gaps=st.lists(st.floats(0.0, 5.0), min_size=1, max_size=80),
    who=st.lists(st.integers(0, 2), min_size=80, max_size=80),
)
def test_while_all_ask_there_is_always_a_leader_soon(gaps: list[float], who: list[int]) -> None:
    """Whoever asks often keeps the lease; when nobody does, the next one who asks gets it."""
    api, now = Api(), 0.0
    candidates = [Election(name) for name in "abc"]
    for gap, index in zip(gaps, who, strict=False):
        now += gap
        lead(candidates[index], api, now)
    for election in candidates:
        lead(election, api, now)
    now += LEASE_SECONDS
    for election in candidates:
        lead(election, api, now)
    assert sum(election.leads(now) for election in candidates) == 1
