"""Every request of a run is counted, once, and for the server that was chosen for it."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.failover.account import Account, Fate, Moments, Request, account
from bench.load import Sample

VICTIM, OTHER, SPARE = "127.0.0.1:1", "127.0.0.1:2", "127.0.0.3:1"
MOMENTS = Moments(
    began=100.0, struck=102.0, healing=106.0, back=106.5, ended=110.0, struck_at=VICTIM, back_at=VICTIM
)
"""Two seconds of peace, four of fault, and the server takes half a second to return."""


def request(
    at: float,
    to: str | None = OTHER,
    fate: Fate = Fate.OK,
    *,
    seconds: float = 0.01,
    served: str | None = None,
    late: float = 0.0,
) -> Request:
    """Sent ``at`` seconds after the fault, so ``late`` after it was due."""
    sent = MOMENTS.struck + at
    answered = fate is not Fate.FAILED
    return Request(
        due=sent - late,
        sent=sent,
        picked=to,
        served=served or to,
        status=200 if answered else 503,
        first_byte=sent + seconds / 2,
        first_token=sent + seconds / 2 if answered else None,
        ended=sent + seconds,
        body_bytes=10,
        error=None if fate is Fate.OK else "it failed",
    )


def of(*requests: Request, moments: Moments = MOMENTS) -> Account:
    return account(requests, moments)


# --- a request ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "told, picked, served",
    [
        ("127.0.0.1:1 127.0.0.1:2", VICTIM, OTHER),
        ("127.0.0.1:1 -", VICTIM, None),
        ("- -", None, None),
        ("127.0.0.1:1,127.0.0.1:2 127.0.0.1:2", VICTIM, OTHER),
        (None, None, None),
    ],
)
def test_the_gateway_says_who_was_chosen_and_who_got_it(
    told: str | None, picked: str | None, served: str | None
) -> None:
    one = Request.of(Sample(due=1.0, sent=1.1, served_by=told))
    assert (one.picked, one.served) == (picked, served)


@pytest.mark.parametrize(
    "status, error, fate",
    [
        (200, None, Fate.OK),
        (200, "answer cut off", Fate.BROKEN),
        (503, "http 503", Fate.FAILED),
        (None, "timeout", Fate.FAILED),
    ],
)
def test_a_request_fails_before_any_byte_or_breaks_in_mid_stream(
    status: int | None, error: str | None, fate: Fate
) -> None:
    assert Request.of(Sample(due=1.0, status=status, error=error)).fate is fate


def test_a_request_that_was_never_sent_counts_from_when_it_was_due() -> None:
    assert Request.of(Sample(due=1.0, error="connect: refused")).sent == 1.0


# --- the fault ---------------------------------------------------------------------------------------


def test_what_was_already_there_is_told_apart_from_what_was_sent_afterwards() -> None:
    found = of(
        request(-0.5, VICTIM),
        request(-0.05, VICTIM, Fate.BROKEN, seconds=0.1),
        request(-0.05, VICTIM, seconds=0.1),
        request(-0.05, OTHER, seconds=0.1),
        request(0.02, VICTIM, Fate.FAILED),
        request(0.03, OTHER),
    )
    assert (found.requests, found.on_it, found.lost_on_it) == (6, 2, 1)
    assert (found.failed, found.broken, found.lost, found.lost_new) == (1, 1, 2, 1)
    assert found.sent_after == 1
    assert found.last_sent == found.last_lost == pytest.approx(0.02)


def test_nothing_sent_there_is_no_time_at_all() -> None:
    found = of(request(-0.5, VICTIM), request(0.02, OTHER))
    assert (found.sent_after, found.last_sent, found.last_lost) == (0, 0.0, 0.0)


def test_a_request_answered_late_by_a_server_that_hung_was_still_sent_to_a_dead_one() -> None:
    assert of(request(0.4, VICTIM, seconds=4.0)).sent_after == 1


def test_between_the_end_of_the_fault_and_its_return_only_losses_were_a_mistake() -> None:
    found = of(request(4.2, VICTIM), request(4.3, VICTIM, Fate.FAILED))
    assert (found.sent_after, found.last_sent) == (1, pytest.approx(4.3))


def test_where_the_server_can_serve_meanwhile_only_losses_were_a_mistake() -> None:
    serves = replace(MOMENTS, can_serve=True)
    found = of(request(1.0, VICTIM), request(2.0, VICTIM, Fate.FAILED), moments=serves)
    assert (found.sent_after, found.kept_share) == (1, 0.5)


def test_a_retry_that_saves_a_request_does_not_excuse_the_choice() -> None:
    found = of(request(0.02, VICTIM, served=OTHER))
    assert (found.sent_after, found.lost) == (1, 0)


def test_a_request_sent_at_the_moment_of_the_fault_is_a_new_one() -> None:
    found = of(request(0.0, VICTIM, Fate.FAILED))
    assert (found.on_it, found.lost_new, found.sent_after) == (0, 1, 1)


def test_what_another_server_answered_was_not_kept_by_the_victim() -> None:
    assert of(request(1.0, VICTIM, served=OTHER)).kept_share == 0.0


def test_a_client_is_told_of_a_failure_from_when_its_request_was_due() -> None:
    failed = request(1.0, None, Fate.FAILED, seconds=0.2, late=0.5)
    assert of(failed).told_after == pytest.approx(0.7)


def test_a_stream_that_breaks_is_told_to_nobody() -> None:
    assert of(request(1.0, OTHER, Fate.BROKEN, seconds=1.0)).told_after is None


def test_how_late_requests_were_sent_is_said() -> None:
    assert of(request(1.0, late=0.5), request(2.0, late=0.25)).late == pytest.approx(0.5)


# --- the return --------------------------------------------------------------------------------------


def test_the_return_counts_from_when_the_server_itself_can_answer() -> None:
    found = of(
        request(4.6, OTHER), request(5.0, VICTIM), request(5.5, OTHER), request(5.9, VICTIM, Fate.FAILED)
    )
    assert found.back_after == pytest.approx(0.5)
    assert found.first_second == pytest.approx(2 / 3)
    assert found.lost_after_back == 1


def test_the_return_is_the_first_request_for_which_it_was_chosen() -> None:
    assert of(request(4.6, OTHER, served=VICTIM), request(5.0, VICTIM, served=OTHER)).back_after == (
        pytest.approx(0.5)
    )


def test_only_the_first_second_of_the_return_is_its_first_second() -> None:
    assert of(request(5.0, VICTIM), request(6.5, OTHER)).first_second == 1.0


def test_the_first_request_there_may_be_the_first_that_is_lost_there() -> None:
    assert of(request(5.0, VICTIM, Fate.FAILED)).lost_after_back == 1


def test_refusals_until_the_first_request_there_are_not_its_losses() -> None:
    found = of(request(4.6, None, Fate.FAILED), request(5.0, VICTIM))
    assert (found.lost_new, found.lost_after_back) == (1, 0)
    assert found.told_after is None  # sent when the fault was over
    assert of(request(1.0, None, Fate.FAILED, seconds=0.2)).told_after == pytest.approx(0.2)


def test_a_server_that_moved_is_back_at_its_new_address_and_its_old_one_stays_dead() -> None:
    moved = replace(MOMENTS, back_at=SPARE)
    found = of(request(4.7, VICTIM, Fate.FAILED), request(4.9, SPARE), moments=moved)
    assert (found.back_after, found.sent_after) == (pytest.approx(0.4), 1)


@pytest.mark.parametrize("moments", [MOMENTS, replace(MOMENTS, back=None)])
def test_who_never_gets_a_request_is_never_back(moments: Moments) -> None:
    found = of(request(4.9, OTHER), moments=moments)
    assert found.back_after is None and found.first_second == 0.0


def test_waits_are_told_apart_by_when_a_request_was_due() -> None:
    after = [request(at, seconds=0.06) for at in (5.0, 5.1)]
    found = of(request(-1.0, seconds=0.02), request(1.0, seconds=0.04), *after)
    waits = [one.p50 if one else None for one in (found.before, found.during, found.after)]
    assert waits == pytest.approx([0.01, 0.02, 0.03])


def test_a_wait_begins_when_a_request_is_due_and_belongs_to_that_time() -> None:
    found = of(request(0.25, late=0.5))
    assert found.before is not None and found.before.p50 == pytest.approx(0.505)
    assert found.during is None


def test_the_wait_of_an_answer_that_broke_does_not_count() -> None:
    assert of(request(-1.0, fate=Fate.BROKEN, seconds=1.0)).before is None


def test_the_fault_of_one_that_never_returns_lasts_until_a_second_behind_the_run() -> None:
    for_good = replace(MOMENTS, back=None)
    found = of(request(1.0), request(8.5, seconds=0.02), moments=for_good)
    assert found.during is not None and found.after is None
    assert of(request(8.5), moments=for_good).during is not None
    assert of(request(9.5), moments=for_good).after is not None


# --- for any requests --------------------------------------------------------------------------------

some = st.lists(
    st.builds(
        request,
        st.floats(-2, 8, width=32),
        st.sampled_from([VICTIM, OTHER, SPARE, None]),
        st.sampled_from(Fate),
        seconds=st.floats(0.0078125, 4, width=32),
    ),
    max_size=30,
)


@given(requests=some)
def test_every_request_is_counted_and_none_twice(requests: list[Request]) -> None:
    found = account(requests, MOMENTS)
    assert found.requests == len(requests)
    assert found.lost == sum(one.fate is not Fate.OK for one in requests)
    assert found.lost_on_it <= found.on_it
    assert found.lost_on_it + found.lost_new <= found.lost
    assert found.lost_after_back <= found.lost_new
    assert 0 <= found.kept_share <= 1 and 0 <= found.first_second <= 1
    assert found.last_sent >= 0 and (found.last_sent == 0 or found.sent_after)


@given(requests=some, chance=st.randoms(use_true_random=False))
def test_the_order_in_which_requests_ended_does_not_matter(requests: list[Request], chance: object) -> None:
    mixed = list(requests)
    chance.shuffle(mixed)  # type: ignore[attr-defined]
    assert account(mixed, MOMENTS) == account(requests, MOMENTS)
