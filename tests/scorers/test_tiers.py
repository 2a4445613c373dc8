"""Own machines first, others when those are full or dead, and never where the request forbids it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp.core.fleet import Endpoint, Load
from epp.core.rejection import Rejected
from epp.core.request import Request
from scorers.lifecycle_filter import LifecycleFilter
from scorers.tier_preference import TierPreference
from tests.lives import LIVES, living
from tests.picking import cycle_of

FREE = Load(waiting=0, kv_usage=0.1)
FULL = Load(waiting=5)


def kept(endpoints: list[Endpoint], preference: TierPreference | None = None, /, **headers: str) -> list[str]:
    asked = cycle_of(Request(headers={name.replace("_", "-"): value for name, value in headers.items()}))
    return [endpoint.name for endpoint in (preference or TierPreference()).filter(asked, endpoints)]


def here(name: str, load: Load = FREE, *, tier: int = 0, how: str = "ready", in_flight: int = 0) -> Endpoint:
    return living(how, name=name, tier=tier, load=load, in_flight=in_flight)


@pytest.mark.parametrize(
    "endpoints, left",
    [
        pytest.param([here("c", tier=1), here("a"), here("b")], ["a", "b"], id="the-lowest"),
        pytest.param([here("c", tier=7), here("b", tier=3)], ["b"], id="the-lowest-need-not-be-0"),
        pytest.param(
            [here("a", FULL), here("b"), here("c", tier=1)], ["a", "b"], id="one-with-room-is-enough"
        ),
        pytest.param([here("a", FULL), here("c", tier=1), here("d", tier=2)], ["c"], id="to-the-next"),
        pytest.param(
            [here("a", FULL), here("c", FULL, tier=1), here("d", tier=2)], ["d"], id="to-the-one-after-that"
        ),
        pytest.param(
            [here("a", FULL), here("c", FULL, tier=1)], ["a", "c"], id="full-everywhere-all-share-it"
        ),
        pytest.param([here("a", Load()), here("c", tier=1)], ["a"], id="unknown-is-not-saturated"),
        pytest.param([here("a", how="refusing"), here("c", tier=1)], ["c"], id="dead"),
        pytest.param([here("a", how="silent"), here("c", tier=1)], ["c"], id="dead-on-suspicion"),
        pytest.param([here("a", how="loading"), here("c", tier=1)], ["c"], id="loading"),
        pytest.param([here("a", how="suspect"), here("c", tier=1)], ["a"], id="a-suspect-serves"),
        pytest.param(
            [here("a", how="warming", in_flight=1), here("c", tier=1)], ["a"], id="below-its-allowance"
        ),
        pytest.param(
            [here("a", how="warming", in_flight=2), here("c", tier=1)], ["c"], id="at-its-allowance"
        ),
        pytest.param([], [], id="nobody"),
    ],
)
def test_the_lowest_tier_with_room_is_kept(endpoints: list[Endpoint], left: list[str]) -> None:
    assert kept(endpoints) == left


@pytest.mark.parametrize(
    "load, in_flight, is_saturated",
    [
        pytest.param(Load(waiting=4), 0, False, id="4-waiting"),
        pytest.param(Load(waiting=5), 0, True, id="5-waiting"),
        pytest.param(Load(kv_usage=0.79), 0, False, id="79-percent-of-the-cache"),
        pytest.param(Load(kv_usage=0.8), 0, True, id="80-percent-of-the-cache"),
        pytest.param(Load(slots=4), 3, False, id="a-free-slot"),
        pytest.param(Load(slots=4), 4, True, id="no-free-slot"),
        pytest.param(Load(slots=4, running=4), 0, True, id="no-free-slot-because-of-others"),
        pytest.param(Load(slots=4, running=3), 2, False, id="ours-are-among-those-that-run"),
        pytest.param(Load(slots=0, running=0), 9, False, id="no-slots-no-opinion"),
        pytest.param(Load(running=999), 999, False, id="without-slots-running-says-nothing"),
    ],
)
def test_what_saturates(load: Load, in_flight: int, is_saturated: bool) -> None:
    endpoints = [here("a", load, in_flight=in_flight), here("c", tier=1)]
    assert kept(endpoints) == (["c"] if is_saturated else ["a"])


@pytest.mark.parametrize(
    "preference, load, in_flight, is_saturated",
    [
        pytest.param(TierPreference(saturated_waiting=1), Load(waiting=1), 0, True, id="waiting"),
        pytest.param(TierPreference(saturated_kv_usage=0.5), Load(kv_usage=0.5), 0, True, id="cache"),
        pytest.param(TierPreference(saturated_kv_usage=1.0), Load(kv_usage=0.99), 0, False, id="99-of-100"),
        pytest.param(TierPreference(saturated_slot_use=1.5), Load(slots=4), 5, False, id="5-in-4-slots"),
        pytest.param(TierPreference(saturated_slot_use=1.5), Load(slots=4), 6, True, id="6-in-4-slots"),
        pytest.param(TierPreference(saturated_in_flight=3), Load(), 2, False, id="2-of-ours"),
        pytest.param(TierPreference(saturated_in_flight=3), Load(), 3, True, id="3-of-ours"),
    ],
)
def test_what_saturates_can_be_set(
    preference: TierPreference, load: Load, in_flight: int, is_saturated: bool
) -> None:
    endpoints = [here("a", load, in_flight=in_flight), here("c", tier=1)]
    assert kept(endpoints, preference) == (["c"] if is_saturated else ["a"])


@pytest.mark.parametrize(
    "endpoints, left",
    [
        pytest.param([here("a"), here("c", tier=1)], ["a"], id="free"),
        pytest.param([here("a", FULL), here("c", tier=1)], ["a"], id="full"),
        pytest.param([here("a", how="refusing"), here("c", tier=1)], ["a"], id="dead"),
        pytest.param([], [], id="nobody-at-all"),
    ],
)
def test_a_local_request_stays_in_tier_0_whatever_happens(endpoints: list[Endpoint], left: list[str]) -> None:
    assert kept(endpoints, x_fleet_epp_tier="local") == left
    assert kept(endpoints, x_fleet_epp_tier=" Local ") == left
    assert kept(endpoints, TierPreference(header="x-where"), x_where="local") == left


@pytest.mark.parametrize(
    "objective, left",
    [pytest.param("pii", ["a"], id="listed"), pytest.param("chat", ["c"], id="another")],
)
@pytest.mark.parametrize("header", ["x_llm_d_inference_objective", "x_gateway_inference_objective"])
def test_an_objective_may_be_local_as_a_whole(objective: str, left: list[str], header: str) -> None:
    endpoints = [here("a", FULL), here("c", tier=1)]
    assert kept(endpoints, TierPreference(local_objectives=("pii", "phi")), **{header: objective}) == left
    assert kept(endpoints, **{header: objective}) == ["c"], "none is, unless it is listed"


def refused(endpoints: list[Endpoint], wanted: str) -> Rejected:
    with pytest.raises(Rejected) as caught:
        kept(endpoints, x_fleet_epp_tier=wanted)
    return caught.value


def test_a_local_request_without_anybody_local_is_refused() -> None:
    rejection = refused([here("c", tier=1)], "local").rejection
    assert rejection.status == 503
    assert rejection.message == "no endpoint is of tier 0, and the request may go to no other"
    assert rejection.headers == {"x-llm-d-request-dropped-reason": "rejected-no-endpoints"}


def test_a_local_request_is_refused_for_the_death_of_those_that_are_local() -> None:
    asked = cycle_of(Request(headers={"x-fleet-epp-tier": "local"}))
    left = TierPreference().filter(asked, [here("a", how="refusing"), here("c", tier=1)])
    with pytest.raises(Rejected, match="the only endpoint is down: 1 refusing connections"):
        LifecycleFilter().filter(asked, left)


@pytest.mark.parametrize("wanted", ["locl", "", "cloud", "local,local"])
def test_a_mistyped_wish_sends_a_request_nowhere(wanted: str) -> None:
    rejection = refused([here("a"), here("c", tier=1)], wanted).rejection
    assert rejection.status == 400
    assert rejection.message == f'x-fleet-epp-tier: expected "local", got "{wanted}"'


@pytest.mark.parametrize(
    "written, complaint",
    [
        ({"saturated_waiting": 0}, "saturatedWaiting: must be at least 1, got 0"),
        ({"saturated_kv_usage": 1.01}, "saturatedKvUsage: must be above 0 and at most 1, got 1.01"),
        ({"saturated_kv_usage": 0.0}, "saturatedKvUsage: must be above 0 and at most 1, got 0"),
        ({"saturated_slot_use": 0.0}, "saturatedSlotUse: must be above 0 and at most 1000, got 0"),
        ({"saturated_slot_use": 1001.0}, "saturatedSlotUse: must be above 0 and at most 1000, got 1001"),
        ({"saturated_in_flight": 0}, "saturatedInFlight: must be at least 1 (none: no limit), got 0"),
        (
            {"header": "X-Tier"},
            'header: must be a header name in lower case such as x-fleet-epp-tier, got "X-Tier"',
        ),
    ],
)
def test_a_parameter_that_cannot_work_is_named(written: dict[str, object], complaint: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        TierPreference(**written)  # type: ignore[arg-type]
    assert str(caught.value) == complaint


LOADS = st.sampled_from([FREE, FULL, Load(), Load(slots=2)])


@given(
    them=st.lists(
        st.tuples(st.sampled_from(sorted(LIVES)), st.integers(0, 3), LOADS, st.integers(0, 3)), max_size=8
    )
)
def test_nobody_is_moved_and_somebody_stays_and_no_lower_tier_has_room(
    them: list[tuple[str, int, Load, int]],
) -> None:
    preference = TierPreference()
    endpoints = [living(how, tier=tier, load=load, in_flight=count) for how, tier, load, count in them]
    left = list(preference.filter(cycle_of(), endpoints))
    assert left == [endpoint for endpoint in endpoints if endpoint in left]
    assert bool(left) == bool(endpoints)
    with_room = {endpoint.spec.tier for endpoint in endpoints if preference._has_room(endpoint)}
    if with_room:
        assert {endpoint.spec.tier for endpoint in left} == {min(with_room)}
