"""Who an endpoint is, what stays when something is said differently of it, and who may serve."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp.core.addresses import MetricsUrl
from epp.core.fleet import Endpoint, EndpointSpec, Fleet, Load, Reservation
from epp.core.lifecycle import Change, HealthSettings, Phase

SPEC = EndpointSpec(name="a", ip="10.0.0.1", port=8000)


def used() -> tuple[Fleet, Endpoint]:
    """A fleet of one, in use."""
    fleet = Fleet()
    (endpoint,), *_ = fleet.replace([SPEC], 0.0)
    fleet.reading(endpoint, Load(waiting=3), 1.0, engine="vllm")
    Reservation(endpoint, 50)
    endpoint.memory["plugin"] = "what it remembers"
    return fleet, endpoint


@pytest.mark.parametrize(
    "said",
    [
        {"labels": {"zone": "b"}},
        {"engine": "sglang"},
        {"note": "Progressing"},
        {"metrics_url": MetricsUrl("http", "10.0.0.1", 9400)},
        {"ca_file": "ca.pem"},
        {"api_key_file": "key"},
    ],
    ids=lambda said: next(iter(said)),
)
def test_a_server_of_which_something_else_is_said_stays_the_same_endpoint(said: dict[str, Any]) -> None:
    fleet, endpoint = used()
    spec = replace(SPEC, **said)
    assert fleet.replace([spec], 0.0) == ([], [endpoint], [])
    assert fleet.endpoints == (endpoint,)
    assert (endpoint.spec, endpoint.labels) == (spec, spec.labels)
    assert (endpoint.requests_in_flight, endpoint.tokens_in_flight) == (1, 50)
    assert (endpoint.load, endpoint.load_at) == (Load(waiting=3), 1.0)
    assert endpoint.lifecycle.phase is Phase.READY
    assert endpoint.memory == {"plugin": "what it remembers"} and endpoint.life == 0
    assert endpoint.engine == (spec.engine or "vllm")
    assert fleet.replace([spec], 0.0) == ([], [], [])


@pytest.mark.parametrize(
    "other",
    [{"ip": "10.0.0.2"}, {"port": 8001}, {"scheme": "https"}, {"host_name": "gpu"}, {"name": "b"}],
    ids=lambda other: next(iter(other)),
)
def test_at_another_place_is_another_server(other: dict[str, Any]) -> None:
    fleet, endpoint = used()
    (added,), changed, removed = fleet.replace([replace(SPEC, **other)], 0.0)
    assert (changed, removed, fleet.endpoints) == ([], [endpoint], (added,))
    assert (added.requests_in_flight, added.memory, added.load_at) == (0, {}, None)


def test_the_order_of_the_list_is_the_order_of_the_endpoints() -> None:
    fleet, endpoint = used()
    other = replace(SPEC, name="b", port=1)
    fleet.replace([other, SPEC], 0.0)
    assert [each.name for each in fleet.endpoints] == ["b", "a"]
    assert fleet.endpoints[1] is endpoint


def test_the_engine_is_that_of_the_last_answer() -> None:
    fleet, endpoint = used()
    assert endpoint.engine == "vllm"
    fleet.lost(endpoint, 0.0, "connection refused")
    assert endpoint.engine is None, "another process may listen there next"
    fleet.answered(endpoint, 0.0)
    assert endpoint.engine is None
    fleet.answered(endpoint, 0.0, engine="llamacpp")
    assert endpoint.engine == "llamacpp"


def test_a_declared_engine_is_known_without_an_answer() -> None:
    fleet = Fleet()
    (endpoint,), *_ = fleet.replace([replace(SPEC, engine="tgi")], 0.0)
    assert endpoint.engine == "tgi"
    fleet.answered(endpoint, 0.0)
    assert endpoint.engine == "tgi", "an answer that does not say whose it is"
    fleet.lost(endpoint, 0.0, "connection refused")
    assert endpoint.engine == "tgi"


def test_a_server_that_loads_says_whose_engine_it_is() -> None:
    fleet, endpoint = used()
    fleet.loading(endpoint, 2.0, "loading model", engine="llamacpp")
    assert endpoint.engine == "llamacpp"


def test_an_engine_that_is_declared_no_more_is_unknown_until_the_next_answer() -> None:
    fleet = Fleet()
    (endpoint,), *_ = fleet.replace([replace(SPEC, engine="tgi")], 0.0)
    fleet.replace([SPEC], 1.0)
    assert endpoint.engine is None


def test_everybody_is_a_candidate_whatever_they_can_do() -> None:
    fleet = Fleet()
    fleet.replace((replace(SPEC, name=f"e{i}", port=i + 1) for i in range(3)), 0.0)
    dead, untried, up = fleet.endpoints
    fleet.lost(dead, 0.0, "gone")
    fleet.answered(up, 0.0)
    before = fleet.endpoints
    assert before == (dead, untried, up)
    fleet.expire(1.0)
    assert fleet.endpoints is before, "one tuple, so that what follows from it may stand"
    fleet.replace([dead.spec], 1.0)
    assert fleet.endpoints == (dead,)


def test_a_reading_grows_old_within_a_subset_too() -> None:
    fleet, endpoint = used()
    fleet.expire(3.0)
    assert endpoint.load == Load()


def test_readings_of_different_ages_are_forgotten_one_by_one() -> None:
    fleet = Fleet(stale_after=2.0)
    fleet.replace([SPEC, replace(SPEC, name="b", port=1)], 0.0)
    old, young = fleet.endpoints
    fleet.reading(old, Load(waiting=3), 0.0)
    fleet.reading(young, Load(waiting=4), 1.0)
    fleet.expire(1.9)
    assert (old.load, young.load) == (Load(waiting=3), Load(waiting=4))
    fleet.expire(2.0)
    assert (old.load, old.load_at, young.load, young.load_at) == (Load(), None, Load(waiting=4), 1.0)
    fleet.expire(2.9)
    assert young.load == Load(waiting=4)
    fleet.expire(3.0)
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
        pytest.param(lambda fleet, endpoint: fleet.answered(endpoint, 0.0), id="answered"),
        pytest.param(lambda fleet, endpoint: fleet.lost(endpoint, 0.0, "gone"), id="lost"),
        pytest.param(
            lambda fleet, endpoint: fleet.replace([replace(SPEC, labels={"a": "b"})], 0.0), id="label"
        ),
        pytest.param(lambda fleet, endpoint: fleet.replace([], 0.0), id="left"),
        pytest.param(lambda fleet, endpoint: fleet.expire(3.0), id="too-old"),
        pytest.param(lambda fleet, endpoint: fleet.failed(endpoint, 2.0, "500"), id="failed"),
    ],
)
def test_the_version_grows_with_every_look_and_every_list(change: Callable[[Fleet, Endpoint], Any]) -> None:
    fleet, endpoint = used()
    before = fleet.version
    fleet.expire(1.5)
    Reservation(endpoint, 1)
    assert fleet.version == before, "neither a pick nor a reservation is news"
    change(fleet, endpoint)
    assert fleet.version > before


def test_what_has_grown_old_is_news_once() -> None:
    fleet, _ = used()
    fleet.expire(3.0)
    before = fleet.version
    fleet.expire(3.1)
    assert fleet.version == before


def test_what_is_remembered_of_a_server_goes_when_it_leaves_the_list() -> None:
    fleet, endpoint = used()
    fleet.replace([replace(SPEC, name="b")], 0.0)
    assert endpoint.memory == {}, "whoever still holds the endpoint"


def test_a_lost_server_has_no_load() -> None:
    fleet, endpoint = used()
    fleet.lost(endpoint, 2.0, "connection refused")
    assert (endpoint.load, endpoint.load_at) == (Load(), None)
    lifecycle = endpoint.lifecycle
    assert (lifecycle.phase, lifecycle.reason, endpoint.life) == (Phase.EJECTED, "connection refused", 1)
    fleet.lost(endpoint, 2.1, "still refused")
    assert (lifecycle.reason, endpoint.life) == ("still refused", 1), "it died once"
    fleet.answered(endpoint, 10.0)
    assert (endpoint.load, endpoint.load_at, lifecycle.phase) == (Load(), None, Phase.PROBING)


@pytest.mark.parametrize(
    "seen, lives",
    [
        pytest.param(lambda fleet, endpoint: None, 1, id="nothing"),
        pytest.param(lambda fleet, endpoint: fleet.answered(endpoint, 3.0), 2, id="an-answer"),
        pytest.param(lambda fleet, endpoint: fleet.loading(endpoint, 3.0, "loading"), 2, id="a-load"),
        pytest.param(lambda fleet, endpoint: fleet.silent(endpoint, 3.0, "no answer"), 1, id="silence"),
    ],
)
def test_who_was_there_between_two_refusals_died_twice(
    seen: Callable[[Fleet, Endpoint], Any], lives: int
) -> None:
    fleet, endpoint = used()
    fleet.lost(endpoint, 2.0, "connection refused")
    seen(fleet, endpoint)
    endpoint.memory["plugin"] = "what it learned since"
    fleet.lost(endpoint, 4.0, "connection refused")
    assert endpoint.life == lives
    assert bool(endpoint.memory) is (lives == 1)


def test_a_model_that_loads_after_a_death_is_the_same_life() -> None:
    fleet, endpoint = used()
    fleet.lost(endpoint, 2.0, "connection refused")
    fleet.loading(endpoint, 3.0, "loading model")
    assert endpoint.life == 1


def test_what_its_manager_notes_is_said_beside_its_silence() -> None:
    fleet, endpoint = used()
    fleet.replace([replace(SPEC, note="no heartbeat of its agent")], 1.0)
    fleet.silent(endpoint, 2.0, "no answer for 0.5 s")
    assert endpoint.lifecycle.reason == "no answer for 0.5 s; no heartbeat of its agent"


def test_a_silent_server_keeps_its_caches_and_its_reading_until_that_is_old() -> None:
    fleet, endpoint = used()
    fleet.silent(endpoint, 2.0, "no answer for 0.5 s")
    assert (endpoint.load, endpoint.load_at) == (Load(waiting=3), 1.0)
    assert (endpoint.life, endpoint.memory) == (0, {"plugin": "what it remembers"})
    assert endpoint.lifecycle.phase is Phase.SUSPECT


def test_a_server_that_loads_has_lost_its_caches() -> None:
    fleet, endpoint = used()
    fleet.loading(endpoint, 2.0, "loading model")
    fleet.loading(endpoint, 2.5, "loading model")
    assert (endpoint.load, endpoint.life, endpoint.memory) == (Load(), 1, {})
    assert endpoint.lifecycle.phase is Phase.LOADING


def test_what_its_manager_knows_explains_why_it_is_not_there() -> None:
    fleet = Fleet()
    spec = replace(SPEC, note="Model qwen is Downloading")
    (endpoint,), *_ = fleet.replace([spec], 0.0)
    fleet.lost(endpoint, 0.1, "connection refused")
    lifecycle = endpoint.lifecycle
    assert lifecycle.phase is Phase.PENDING and lifecycle.is_known_dead
    assert lifecycle.reason == "Model qwen is Downloading (connection refused)"
    fleet.answered(endpoint, 60.0)
    assert lifecycle.phase is Phase.WARMING, "who answers serves, whatever is said of it"


def test_who_answers_soon_after_our_start_was_there_before_us() -> None:
    fleet = Fleet(health=HealthSettings(warm_up=5.0))
    fleet.replace([SPEC], 100.0)
    fleet.replace([SPEC, replace(SPEC, name="resolved", port=2)], 102.0)
    fleet.replace([SPEC, replace(SPEC, name="resolved", port=2), replace(SPEC, name="new", port=3)], 102.1)
    for endpoint in fleet.endpoints:
        fleet.answered(endpoint, 200.0)
    assert [e.lifecycle.phase for e in fleet.endpoints] == [Phase.READY, Phase.READY, Phase.WARMING]


def test_a_server_that_was_down_when_we_started_warms_up() -> None:
    fleet = Fleet()
    (endpoint,), *_ = fleet.replace([SPEC], 0.0)
    fleet.lost(endpoint, 0.1, "connection refused")
    fleet.answered(endpoint, 1.0)
    assert endpoint.lifecycle.phase is Phase.PROBING


def test_what_managers_say_moves_an_endpoint() -> None:
    heard: list[tuple[str, Change]] = []
    fleet = Fleet(on_change=lambda endpoint, change: heard.append((endpoint.name, change)))
    (endpoint,), *_ = fleet.replace([replace(SPEC, hold="the pod is not ready")], 0.0)
    fleet.answered(endpoint, 0.1)
    assert endpoint.lifecycle.phase is Phase.PENDING and endpoint.lifecycle.is_known_dead
    fleet.replace([SPEC], 1.0)
    fleet.replace([replace(SPEC, leaving="the pod is deleted")], 2.0)
    fleet.replace([], 3.0)
    assert [change.after for _, change in heard] == [Phase.WARMING, Phase.DRAINING, Phase.GONE]
    assert [change.reason for _, change in heard][1] == "the pod is deleted"


def test_a_server_with_an_identity_may_move() -> None:
    fleet = Fleet()
    mac = replace(SPEC, identity="studio", host_name="studio.local")
    (endpoint,), *_ = fleet.replace([mac], 0.0)
    fleet.reading(endpoint, Load(waiting=3), 0.1)
    reservation, endpoint.memory["rates"] = Reservation(endpoint, 5), "learned"
    moved = replace(mac, ip="10.0.0.99", port=8001)
    assert fleet.replace([moved], 1.0) == ([], [endpoint], [])
    assert (endpoint.address, endpoint.memory, endpoint.load) == (
        "10.0.0.99:8001",
        {"rates": "learned"},
        Load(),
    )
    assert endpoint.lifecycle.phase is Phase.PENDING
    assert endpoint.lifecycle.reason == "moved from 10.0.0.1:8000 to 10.0.0.99:8001"
    reservation.release()
    assert endpoint.requests_in_flight == 0


def test_what_was_sent_before_it_came_into_service_says_nothing_of_it() -> None:
    fleet = Fleet()
    (endpoint,), *_ = fleet.replace([SPEC], 0.0)
    fleet.lost(endpoint, 1.0, "connection refused")
    fleet.answered(endpoint, 10.0)
    fleet.failed(endpoint, 10.1, "gateway: 503", sent_at=0.9)
    assert endpoint.lifecycle.phase is Phase.PROBING
    fleet.served(endpoint, 10.2)
    fleet.expire(30.0)
    assert endpoint.lifecycle.phase is Phase.READY
    for _ in range(3):
        fleet.failed(endpoint, 30.1, "gateway: 503", sent_at=0.9)
    assert endpoint.lifecycle.phase is Phase.READY
    fleet.failed(endpoint, 30.2, "gateway: 503", sent_at=10.1)
    assert endpoint.lifecycle.phase is Phase.SUSPECT


def test_the_request_that_was_to_prove_it_counts_however_long_it_takes() -> None:
    fleet = Fleet()
    (endpoint,), *_ = fleet.replace([SPEC], 0.0)
    old = Reservation(endpoint, 1, at=0.5)
    fleet.lost(endpoint, 1.0, "connection refused")
    fleet.answered(endpoint, 10.0)
    proof = Reservation(endpoint, 1, at=10.1)
    old.release()
    fleet.answered(endpoint, 14.0)
    assert endpoint.lifecycle.phase is Phase.PROBING
    proof.release()
    fleet.failed(endpoint, 14.1, "engine: 500", sent_at=10.1)
    assert endpoint.lifecycle.phase is Phase.EJECTED
    assert endpoint.trials == 0


def test_requests_that_hang_from_before_keep_nobody_from_trying() -> None:
    fleet = Fleet()
    (endpoint,), *_ = fleet.replace([SPEC], 0.0)
    hanging = [Reservation(endpoint, 1, at=0.5) for _ in range(5)]
    fleet.lost(endpoint, 1.0, "connection refused")
    fleet.answered(endpoint, 10.0)
    assert (endpoint.requests_in_flight, endpoint.trials) == (5, 0)
    fleet.answered(endpoint, 10.6)
    assert endpoint.lifecycle.phase is Phase.WARMING
    for each in hanging:
        each.release()
    assert (endpoint.requests_in_flight, endpoint.trials) == (0, 0)


def test_long_answers_are_no_failures_of_a_server_that_serves_others() -> None:
    fleet, endpoint = used()
    for now in (20.0, 40.0, 60.0):
        fleet.served(endpoint, now - 5.0)
        fleet.late(endpoint, now, "gateway: 504", sent_at=now - 15.0)
    assert endpoint.lifecycle.phase is Phase.READY


def test_a_good_answer_forgives_a_failure_of_one_that_is_in_service_again() -> None:
    fleet, endpoint = used()
    fleet.failed(endpoint, 2.0, "engine: 500")
    fleet.expire(8.0)
    assert endpoint.lifecycle.phase is Phase.READY
    fleet.served(endpoint, 9.0)
    fleet.failed(endpoint, 10.0, "engine: 500")
    assert endpoint.lifecycle.phase is Phase.SUSPECT


def test_a_server_whose_looks_are_well_and_that_serves_nobody_is_ejected() -> None:
    fleet, endpoint = used()
    fleet.late(endpoint, 20.0, "gateway: 504", sent_at=5.0)
    fleet.answered(endpoint, 20.1)
    fleet.late(endpoint, 35.0, "gateway: 504", sent_at=20.0)
    assert endpoint.lifecycle.phase is Phase.EJECTED


@pytest.mark.parametrize(
    "said",
    [
        lambda fleet, endpoint: fleet.quitting(endpoint, 2.0, "after shutdown"),
        lambda fleet, endpoint: fleet.replace([replace(SPEC, hold="not ready")], 2.0),
        lambda fleet, endpoint: fleet.replace([replace(SPEC, leaving="deleted")], 2.0),
    ],
    ids=["quitting", "held", "leaving"],
)
def test_caches_do_not_survive_a_death_that_was_announced(said: Callable[[Fleet, Endpoint], Any]) -> None:
    fleet, endpoint = used()
    said(fleet, endpoint)
    assert (endpoint.life, endpoint.memory) == (0, {"plugin": "what it remembers"})
    fleet.lost(endpoint, 3.0, "connection refused")
    fleet.lost(endpoint, 4.0, "connection refused")
    assert (endpoint.life, endpoint.memory) == (1, {})


def test_what_time_has_changed_is_known_before_anything_new_counts() -> None:
    fleet, endpoint = used()
    fleet.failed(endpoint, 2.0, "engine: 500")
    fleet.silent(endpoint, 60.0, "no answer")
    assert endpoint.lifecycle.phase is Phase.SUSPECT
    assert endpoint.lifecycle.since == 60.0, "the suspicion of before was over"


def test_answers_from_an_old_address_say_nothing_of_the_new_one() -> None:
    fleet = Fleet()
    mac = replace(SPEC, identity="studio")
    (endpoint,), *_ = fleet.replace([mac], 0.0)
    fleet.answered(endpoint, 0.1)
    fleet.replace([replace(mac, ip="10.0.0.99")], 10.0)
    fleet.served(endpoint, 10.1)
    assert endpoint.lifecycle.phase is Phase.PENDING, "nobody has looked there"
    for _ in range(3):
        fleet.failed(endpoint, 10.2, "gateway: 503", sent_at=9.0)
    fleet.answered(endpoint, 10.3)
    fleet.failed(endpoint, 10.4, "gateway: 503", sent_at=10.35)
    assert endpoint.lifecycle.phase is Phase.SUSPECT


def test_failures_at_an_old_address_are_none_of_the_new_one() -> None:
    fleet = Fleet()
    mac = replace(SPEC, identity="studio")
    (endpoint,), *_ = fleet.replace([mac], 0.0)
    fleet.answered(endpoint, 0.1)
    fleet.failed(endpoint, 5.0, "engine: 500")
    fleet.replace([replace(mac, ip="10.0.0.99")], 10.0)
    fleet.answered(endpoint, 10.3)
    fleet.failed(endpoint, 10.4, "engine: 500", sent_at=10.3)
    assert endpoint.lifecycle.phase is Phase.SUSPECT, "sent when it came into service, and the first there"


def test_requests_at_an_endpoint_whose_number_is_limited_are_news() -> None:
    fleet, endpoint = used()
    fleet.lost(endpoint, 2.0, "connection refused")
    fleet.answered(endpoint, 10.0)
    before = fleet.version
    reservation = Reservation(endpoint, 1)
    assert fleet.version == before + 1
    reservation.release()
    assert fleet.version == before + 2


def test_time_alone_moves_a_phase() -> None:
    fleet, endpoint = used()
    fleet.failed(endpoint, 2.0, "engine: 500")
    assert endpoint.lifecycle.phase is Phase.SUSPECT
    fleet.expire(6.9)
    assert endpoint.lifecycle.phase is Phase.SUSPECT
    fleet.expire(7.0)
    assert endpoint.lifecycle.phase is Phase.READY


@pytest.mark.parametrize("between", [[], [99.0]], ids=["while-fresh", "after-it-went-stale"])
def test_a_restart_is_noticed(between: list[float]) -> None:
    fleet = Fleet(stale_after=2.0)
    (endpoint,), *_ = fleet.replace([SPEC], 0.0)
    fleet.reading(endpoint, Load(started_at=1.0), 0.0)
    fleet.reading(endpoint, Load(started_at=1.0), 0.5)
    fleet.reading(endpoint, Load(), 1.0)
    assert endpoint.life == 0
    for now in between:
        fleet.expire(now)
    assert endpoint.life == 0, "a reading that is too old is no restart"
    fleet.reading(endpoint, Load(started_at=2.0), 100.0)
    assert endpoint.life == 1


# --- what a request occupies ---


@pytest.mark.parametrize("prefilled", [True, False])
def test_a_reservation_is_released_once(prefilled: bool) -> None:
    endpoint = Endpoint(SPEC)
    reservation = Reservation(endpoint, 50)
    assert (endpoint.requests_in_flight, endpoint.tokens_in_flight) == (1, 50)
    if prefilled:
        reservation.prefilled(0.0)
        reservation.prefilled(0.0)
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


def test_a_reservation_follows_the_endpoint_that_really_served() -> None:
    fleet = Fleet()
    fleet.replace([SPEC, replace(SPEC, name="b", port=1)], 0.0)
    first, second = fleet.endpoints
    reservation = Reservation(first, 50, at=1.0, is_streamed=True)
    assert (first.oldest_unanswered, second.oldest_unanswered) == (1.0, None)
    reservation.move(second)
    reservation.move(second)
    assert [(e.requests_in_flight, e.tokens_in_flight) for e in (first, second)] == [(0, 0), (1, 50)]
    assert (first.oldest_unanswered, second.oldest_unanswered) == (None, 1.0)
    reservation.prefilled(0.0)
    assert second.oldest_unanswered is None and second.requests_in_flight == 1
    younger = Reservation(second, 1, at=9.0, is_streamed=True)
    older = Reservation(first, 1, at=2.0, is_streamed=True)
    older.move(second)
    assert second.oldest_unanswered == 2.0
    younger.release()
    older.release()
    reservation.release()
    reservation.move(first)
    assert [(e.requests_in_flight, e.tokens_in_flight) for e in (first, second)] == [(0, 0), (0, 0)]


def test_a_proof_that_moved_away_is_no_trial_anywhere() -> None:
    fleet = Fleet()
    fleet.replace([SPEC, replace(SPEC, name="b", port=1)], 0.0)
    tried, other = fleet.endpoints
    fleet.answered(other, 0.1)
    fleet.lost(tried, 1.0, "connection refused")
    fleet.answered(tried, 10.0)
    proof = Reservation(tried, 1)
    assert tried.trials == 1
    proof.move(other)
    proof.release()
    assert (tried.trials, other.trials) == (0, 0)


def test_a_first_token_behind_the_end_gives_nothing_back_twice() -> None:
    endpoint = Endpoint(SPEC)
    reservation = Reservation(endpoint, 50)
    reservation.release()
    reservation.prefilled(0.0)
    assert (endpoint.requests_in_flight, endpoint.tokens_in_flight) == (0, 0)


def test_the_longest_waiting_request_is_known() -> None:
    _, endpoint = used()
    first, second = (Reservation(endpoint, 1, at=at, is_streamed=True) for at in (5.0, 6.0))
    Reservation(endpoint, 1, at=4.0)
    assert endpoint.oldest_unanswered == 5.0, "nobody sees the first token of an answer in one piece"
    first.prefilled(0.0)
    assert endpoint.oldest_unanswered == 6.0
    second.release()
    assert endpoint.oldest_unanswered is None


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
        added, changed, removed = fleet.replace(specs, 0.0)
        after = set(fleet.endpoints)
        assert {each.name: each.spec for each in after} == {spec.name: spec for spec in specs}
        assert (set(added), set(removed)) == (after - before.keys(), before.keys() - after)
        kept = after & before.keys()
        assert set(changed) == {each for each in kept if each.spec != before[each]}
        assert all(each.address == each.spec.address == addresses[each] for each in kept)
