"""Who an endpoint is, what stays when something is said differently of it, and who may serve."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp.core.addresses import MetricsUrl
from epp.core.fleet import Endpoint, EndpointSpec, Fleet, Load, Reachability, Reservation

SPEC = EndpointSpec(name="a", ip="10.0.0.1", port=8000)


def used() -> tuple[Fleet, Endpoint]:
    """A fleet of one, in use."""
    fleet = Fleet()
    (endpoint,), *_ = fleet.replace([SPEC])
    fleet.reading(endpoint, Load(waiting=3), 1.0, engine="vllm")
    Reservation(endpoint, 50)
    endpoint.memory["plugin"] = "what it remembers"
    return fleet, endpoint


@pytest.mark.parametrize(
    "said",
    [
        {"labels": {"zone": "b"}},
        {"engine": "sglang"},
        {"metrics_url": MetricsUrl("http", "10.0.0.1", 9400)},
        {"ca_file": "ca.pem"},
        {"api_key_file": "key"},
    ],
    ids=lambda said: next(iter(said)),
)
def test_a_server_of_which_something_else_is_said_stays_the_same_endpoint(said: dict[str, Any]) -> None:
    fleet, endpoint = used()
    spec = replace(SPEC, **said)
    assert fleet.replace([spec]) == ([], [endpoint], [])
    assert fleet.endpoints == (endpoint,)
    assert (endpoint.spec, endpoint.labels) == (spec, spec.labels)
    assert (endpoint.requests_in_flight, endpoint.tokens_in_flight) == (1, 50)
    assert (endpoint.load, endpoint.load_at, endpoint.reachability) == (
        Load(waiting=3),
        1.0,
        Reachability.UP,
    )
    assert endpoint.memory == {"plugin": "what it remembers"} and endpoint.life == 0
    assert endpoint.engine == (spec.engine or "vllm")
    assert fleet.replace([spec]) == ([], [], [])


@pytest.mark.parametrize(
    "other",
    [{"ip": "10.0.0.2"}, {"port": 8001}, {"scheme": "https"}, {"host_name": "gpu"}, {"name": "b"}],
    ids=lambda other: next(iter(other)),
)
def test_at_another_place_is_another_server(other: dict[str, Any]) -> None:
    fleet, endpoint = used()
    (added,), changed, removed = fleet.replace([replace(SPEC, **other)])
    assert (changed, removed, fleet.endpoints) == ([], [endpoint], (added,))
    assert (added.requests_in_flight, added.memory, added.load_at) == (0, {}, None)


def test_the_order_of_the_list_is_the_order_of_the_endpoints() -> None:
    fleet, endpoint = used()
    other = replace(SPEC, name="b", port=1)
    fleet.replace([other, SPEC])
    assert [each.name for each in fleet.endpoints] == ["b", "a"]
    assert fleet.endpoints[1] is endpoint


def test_the_engine_is_that_of_the_last_answer() -> None:
    fleet, endpoint = used()
    assert endpoint.engine == "vllm"
    fleet.lost(endpoint, "connection refused")
    assert endpoint.engine is None, "another process may listen there next"
    fleet.answered(endpoint)
    assert endpoint.engine is None
    fleet.answered(endpoint, engine="llamacpp")
    assert endpoint.engine == "llamacpp"


def test_a_declared_engine_is_known_without_an_answer() -> None:
    fleet = Fleet()
    (endpoint,), *_ = fleet.replace([replace(SPEC, engine="tgi")])
    assert endpoint.engine == "tgi"
    fleet.lost(endpoint, "connection refused")
    assert endpoint.engine == "tgi"


UP, UNTRIED, DOWN = Reachability.UP, Reachability.UNTRIED, Reachability.DOWN


def fleet_in(*states: Reachability) -> Fleet:
    fleet = Fleet()
    fleet.replace(replace(SPEC, name=f"e{i}", port=i + 1) for i in range(len(states)))
    for endpoint, state in zip(fleet.endpoints, states, strict=True):
        if state is UP:
            fleet.answered(endpoint)
        elif state is DOWN:
            fleet.lost(endpoint, "gone")
    return fleet


@pytest.mark.parametrize(
    "states, among, expected",
    [
        pytest.param([DOWN, UNTRIED, UP], None, ["e2"], id="all-of-them"),
        pytest.param([DOWN, UNTRIED, UP], [0, 1], ["e1"], id="a-dead-one-never-beats-an-untried-one"),
        pytest.param([DOWN, UNTRIED, UP], [0, 1, 2], ["e2"], id="with-one-that-answers"),
        pytest.param([DOWN, UNTRIED, UP], [0], ["e0"], id="only-a-dead-one"),
        pytest.param([DOWN, UNTRIED, UP], [], [], id="nobody"),
        pytest.param([DOWN, DOWN], None, ["e0", "e1"], id="all-look-dead"),
    ],
)
def test_who_may_serve(states: list[Reachability], among: list[int] | None, expected: list[str]) -> None:
    fleet = fleet_in(*states)
    subset = None if among is None else [fleet.endpoints[i] for i in among]
    assert [each.name for each in fleet.candidates(0.0, among=subset)] == expected
    assert [each.name for each in fleet.candidates(0.0, subset)] == expected, "nothing is remembered"


STATES = st.lists(st.sampled_from(Reachability), max_size=6)


@given(states=STATES, data=st.data())
def test_the_best_of_a_subset_are_served(states: list[Reachability], data: st.DataObject) -> None:
    fleet = fleet_in(*states)
    among = [each for each in fleet.endpoints if data.draw(st.booleans())]
    found = fleet.candidates(0.0, among=among)
    rank = [UP, UNTRIED, DOWN].index
    best = min((rank(each.reachability) for each in among), default=None)
    assert list(found) == [each for each in among if rank(each.reachability) == best]


def test_a_reading_grows_old_within_a_subset_too() -> None:
    fleet, endpoint = used()
    fleet.candidates(3.0, among=[endpoint])
    assert endpoint.load == Load()


def test_readings_of_different_ages_are_forgotten_one_by_one() -> None:
    fleet = Fleet(stale_after=2.0)
    fleet.replace([SPEC, replace(SPEC, name="b", port=1)])
    old, young = fleet.endpoints
    fleet.reading(old, Load(waiting=3), 0.0)
    fleet.reading(young, Load(waiting=4), 1.0)
    fleet.candidates(1.9)
    assert (old.load, young.load) == (Load(waiting=3), Load(waiting=4))
    fleet.candidates(2.0)
    assert (old.load, old.load_at, young.load, young.load_at) == (Load(), None, Load(waiting=4), 1.0)
    fleet.candidates(2.9)
    assert young.load == Load(waiting=4)
    fleet.candidates(3.0)
    assert (young.load, young.load_at) == (Load(), None)


def test_a_reading_grows_old_without_a_request_too() -> None:
    fleet, endpoint = used()
    fleet.expire(2.9)
    assert endpoint.load == Load(waiting=3)
    fleet.expire(3.0)
    assert (endpoint.load, endpoint.load_at) == (Load(), None)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda fleet, endpoint: fleet.reading(endpoint, Load(waiting=3), 2.0), id="reading"),
        pytest.param(lambda fleet, endpoint: fleet.answered(endpoint), id="answered"),
        pytest.param(lambda fleet, endpoint: fleet.lost(endpoint, "gone"), id="lost"),
        pytest.param(lambda fleet, endpoint: fleet.replace([replace(SPEC, labels={"a": "b"})]), id="label"),
        pytest.param(lambda fleet, endpoint: fleet.replace([]), id="left"),
        pytest.param(lambda fleet, endpoint: fleet.candidates(3.0), id="too-old"),
    ],
)
def test_the_version_grows_with_every_look_and_every_list(change: Callable[[Fleet, Endpoint], Any]) -> None:
    fleet, endpoint = used()
    before = fleet.version
    fleet.candidates(1.5)
    Reservation(endpoint, 1)
    assert fleet.version == before, "neither a pick nor a reservation is news"
    change(fleet, endpoint)
    assert fleet.version > before


def test_what_is_remembered_of_a_server_goes_when_it_leaves_the_list() -> None:
    fleet, endpoint = used()
    fleet.replace([replace(SPEC, name="b")])
    assert endpoint.memory == {}, "whoever still holds the endpoint"


def test_a_lost_server_has_no_load() -> None:
    fleet, endpoint = used()
    fleet.lost(endpoint, "connection refused")
    assert (endpoint.load, endpoint.load_at) == (Load(), None)
    assert (endpoint.reachability, endpoint.down_reason, endpoint.life) == (DOWN, "connection refused", 1)
    fleet.lost(endpoint, "still refused")
    assert (endpoint.down_reason, endpoint.life) == ("still refused", 1), "it died once"
    fleet.answered(endpoint)
    assert (endpoint.load, endpoint.load_at, endpoint.down_reason) == (Load(), None, "")


@pytest.mark.parametrize("between", [[], [99.0]], ids=["while-fresh", "after-it-went-stale"])
def test_a_restart_is_noticed(between: list[float]) -> None:
    fleet = Fleet(stale_after=2.0)
    (endpoint,), *_ = fleet.replace([SPEC])
    fleet.reading(endpoint, Load(started_at=1.0), 0.0)
    fleet.reading(endpoint, Load(started_at=1.0), 0.5)
    fleet.reading(endpoint, Load(), 1.0)
    assert endpoint.life == 0
    for now in between:
        fleet.candidates(now)
    assert endpoint.life == 0, "a reading that is too old is no restart"
    fleet.reading(endpoint, Load(started_at=2.0), 100.0)
    assert endpoint.life == 1


@pytest.mark.parametrize("among", [True, False], ids=["subset", "all"])
def test_who_was_a_candidate_is_asked_again_after_any_change(among: bool) -> None:
    fleet = fleet_in(UP, UP, UNTRIED)

    def names() -> list[str]:
        found = fleet.candidates(0.0, fleet.endpoints if among else None)
        return [each.name for each in found]

    specs = [each.spec for each in fleet.endpoints]
    assert names() == ["e0", "e1"]
    fleet.replace(specs[1:])
    assert names() == ["e1"], "who was removed is no candidate"
    fleet.lost(fleet.endpoints[0], "gone")
    assert names() == ["e2"]
    fleet.reading(fleet.endpoints[0], Load(), 0.0)
    assert names() == ["e1"]
    fleet.replace([])
    assert names() == []
    fleet.replace(specs[:1])
    assert names() == ["e0"]


# --- what a request occupies ---


@pytest.mark.parametrize("prefilled", [True, False])
def test_a_reservation_is_released_once(prefilled: bool) -> None:
    endpoint = Endpoint(SPEC)
    reservation = Reservation(endpoint, 50)
    assert (endpoint.requests_in_flight, endpoint.tokens_in_flight) == (1, 50)
    if prefilled:
        reservation.prefilled()
        reservation.prefilled()
        assert (endpoint.requests_in_flight, endpoint.tokens_in_flight) == (1, 0)
    reservation.release()
    assert (endpoint.requests_in_flight, endpoint.tokens_in_flight) == (0, 0)
    with pytest.raises(RuntimeError, match="released twice"):
        reservation.release()
    assert (endpoint.requests_in_flight, endpoint.tokens_in_flight) == (0, 0)


def test_a_reservation_of_less_than_nothing_takes_nothing() -> None:
    endpoint = Endpoint(SPEC)
    with pytest.raises(ValueError, match="expected at least 0, got -1"):
        Reservation(endpoint, -1)
    assert (endpoint.requests_in_flight, endpoint.tokens_in_flight) == (0, 0)
    Reservation(endpoint, 0).release()
    assert (endpoint.requests_in_flight, endpoint.tokens_in_flight) == (0, 0)


NAMES = st.sampled_from("abc")
LISTS = st.lists(
    st.builds(
        EndpointSpec,
        name=NAMES,
        ip=st.sampled_from(["10.0.0.1", "10.0.0.2"]),
        port=st.just(1),
        labels=st.sampled_from([{}, {"x": "y"}]),
    ),
    max_size=4,
)


@given(lists=st.lists(LISTS, max_size=5))
def test_what_replace_returns_is_what_happened(lists: list[list[EndpointSpec]]) -> None:
    fleet = Fleet()
    for specs in lists:
        before = {each: each.spec for each in fleet.endpoints}
        addresses = {each: each.address for each in before}
        added, changed, removed = fleet.replace(specs)
        after = set(fleet.endpoints)
        assert {each.name: each.spec for each in after} == {spec.name: spec for spec in specs}
        assert (set(added), set(removed)) == (after - before.keys(), before.keys() - after)
        kept = after & before.keys()
        assert set(changed) == {each for each in kept if each.spec != before[each]}
        assert all(each.address == each.spec.address == addresses[each] for each in kept)
