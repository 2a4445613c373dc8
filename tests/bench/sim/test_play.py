"""Clients, pickers and servers together, in virtual time."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.sim.faults import Fault
from bench.sim.fleet import Machine
from bench.sim.jobs import End, Timeline
from bench.sim.play import Asked
from bench.sim.policies import POLICIES
from bench.sim.readings import Readings
from epp.config.decode import ConfigError
from tests.bench.sim.fakes import LEAST_REQUEST, RANDOM, FakeServer, every, machines, played, setting


def facts(asked: Sequence[Asked]) -> list[tuple[object, ...]]:
    return [(each.sent_at, each.machine, each.first_at, each.ended_at, each.end) for each in asked]


def test_counted_requests_come_after_the_warm_up_and_all_are_answered() -> None:
    play = played(setting())
    assert [each.is_counted for each in play.asked[:121]] == [False] * 20 + [True] * 100 + [False]
    assert {each.end for each in play.asked} == {End.DONE}
    assert play.began == pytest.approx(20 * 0.03) and play.until == pytest.approx(119 * 0.03)


def test_a_request_takes_what_its_server_needs_for_it() -> None:
    first = played(setting()).asked[0]
    assert first.sent_at == 0.0 and first.prompt_tokens == 500
    assert first.first_at == pytest.approx(0.05) and first.ended_at == pytest.approx(0.05 + 0.0099)


def test_a_turn_follows_its_answer_after_a_pause() -> None:
    play = played(setting(sessions=lambda: itertools.islice(every(10.0, turns=3), 1), warm_up=0, counted=3))
    first, second, third = play.asked
    assert first.ended_at is not None and second.ended_at is not None
    assert second.sent_at == pytest.approx(first.ended_at + 0.05)
    assert third.sent_at == pytest.approx(second.ended_at + 0.10)
    assert [each.prompt_tokens for each in play.asked] == [500, 1100, 1700]


def test_clients_in_a_closed_loop_have_one_request_each() -> None:
    play = played(setting(clients=4, counted=50))
    for asked in play.asked:
        under_way = [
            each
            for each in play.asked
            if each.ended_at is not None and each.sent_at <= asked.sent_at < each.ended_at
        ]
        assert len(under_way) <= 4


def test_the_same_seed_plays_the_same_and_another_does_not() -> None:
    first, again = played(setting(), RANDOM), played(setting(), RANDOM)
    other = played(setting(seed="b"), RANDOM)
    assert facts(first.asked) == facts(again.asked) != facts(other.asked)


def test_a_workload_that_ends_ends_the_play() -> None:
    play = played(setting(sessions=lambda: itertools.islice(every(0.03, turns=2), 30), counted=1000))
    assert len(play.asked) == 60
    assert sum(each.is_counted for each in play.asked) == 40
    assert play.until == play.asked[-1].sent_at


def test_what_waits_in_an_overloaded_server_is_relieved_only_after_the_count() -> None:
    play = played(setting(machines=machines(1, rate=1000.0), warm_up=0))
    assert play.began is not None and play.until is not None
    window = play.until - play.began
    assert play.asked[-1].sent_at == pytest.approx(play.until + window / 2, abs=0.06)
    assert all(each.end is End.DONE for each in play.asked)


def test_what_takes_for_ever_is_left_unfinished_and_given_back() -> None:
    play = played(setting(machines=machines(1, rate=1.0), warm_up=0))
    assert sum(each.end is None for each in play.asked) > 100
    (endpoint,) = play.pickers[0].endpoints
    assert (endpoint.requests_in_flight, endpoint.tokens_in_flight) == (0, 0)


def test_pickers_share_the_requests_and_know_only_their_own() -> None:
    play = played(setting(pickers=3, machines=machines(2, rate=3000.0), counted=200))
    sent = [sum(each.requests_in_flight for each in picker.endpoints) for picker in play.pickers]
    assert sent == [0, 0, 0]
    assert len({id(picker.fleet) for picker in play.pickers}) == 3
    assert {each.machine for each in play.asked} == {0, 1}


def test_readings_come_at_their_interval_and_late() -> None:
    looks: list[tuple[float, bool]] = []

    class Looked(FakeServer):
        def load(self, *, with_work: bool = True) -> Any:
            looks.append((self._timeline.now, with_work))
            return super().load(with_work=with_work)

    def one(timeline: Timeline) -> Sequence[Machine]:
        return [Machine(0, "fake", "vllm", Looked(timeline), timeline)]

    play = played(setting(machines=one, readings=Readings(interval=0.5, delay=0.1)))
    times = [at for at, _ in looks]
    assert times[0] == 0.0
    assert [b - a for a, b in itertools.pairwise(times[1:])] == pytest.approx([0.5] * (len(times) - 2))
    assert play.pickers[0].endpoints[0].load_at == pytest.approx(times[-1] + 0.1)


def test_a_lost_look_leaves_what_was_known_to_grow_old() -> None:
    play = played(setting(readings=Readings(interval=0.1, loss=0.9)))
    ages = [
        play.timeline.now - each.load_at for each in play.pickers[0].endpoints if each.load_at is not None
    ]
    assert max(ages, default=3.0) > 0.2


def test_a_death_costs_what_is_there_and_little_more() -> None:
    death = Fault(what="", speed=0.0, at=1.0)
    play = played(setting(machines=machines(3, rate=6000.0), fault=death, counted=200))
    assert play.began is not None
    struck = play.began + 1.0
    failed = [each for each in play.asked if each.end is End.FAILED]
    assert failed and all(each.machine == 0 for each in failed)
    assert not [each for each in play.asked if each.machine == 0 and each.sent_at > struck + 0.01]


def test_a_server_that_returns_is_used_again() -> None:
    back = Fault(what="", speed=0.0, at=1.0, lasts=1.0, loading=1.0)
    play = played(setting(fault=back, counted=400))
    assert play.began is not None
    away = [each for each in play.asked if play.began + 1.1 < each.sent_at < play.began + 3.0]
    later = [each for each in play.asked if each.sent_at > play.began + 6.0]
    assert not [each for each in away if each.machine == 0]
    assert [each for each in later if each.machine == 0]


def test_a_slow_server_is_slow_for_as_long_as_it_is_said() -> None:
    slow = Fault(what="", speed=0.25, at=0.5, lasts=1.0)
    play = played(
        setting(machines=machines(1), sessions=lambda: every(1.0), fault=slow, warm_up=1, counted=4)
    )
    took = [each.first_at - each.sent_at for each in play.asked[:4] if each.first_at is not None]
    assert took == pytest.approx([0.05, 0.05, 0.2, 0.05])


def test_queues_of_the_picker_itself_are_refused() -> None:
    config = LEAST_REQUEST + "featureGates: [flowControl]\n"
    with pytest.raises(ConfigError, match=r"flowControl is not simulated"):
        played(setting(), config)


_FAULTS = st.builds(
    Fault,
    what=st.just(""),
    speed=st.sampled_from([0.0, 0.3]),
    at=st.just(0.5),
    lasts=st.none() | st.floats(0.0, 2.0),
    loading=st.floats(0.0, 1.0),
)
_CHANGES = st.fixed_dictionaries(
    {
        "fault": _FAULTS,
        "readings": st.builds(
            Readings, interval=st.sampled_from([0.05, 1.0]), loss=st.sampled_from([0.0, 0.5])
        ),
        "pickers": st.integers(1, 3),
        "clients": st.none() | st.integers(1, 20),
        "seed": st.text(max_size=3),
    }
)


@settings(deadline=None, max_examples=40)
@given(
    st.sampled_from(sorted(POLICIES)),
    st.integers(1, 4),
    st.floats(300.0, 20_000.0),
    st.integers(1, 4),
    _CHANGES,
)
def test_every_request_ends_once_and_is_given_back(
    policy: str, servers: int, rate: float, turns: int, changes: dict[str, Any]
) -> None:
    ends: dict[int, int] = {}

    def counted(timeline: Timeline) -> Sequence[Machine]:
        made = machines(servers, rate)(timeline)
        for machine in made:
            machine.take = watched(machine.take)  # type: ignore[method-assign]
        return made

    def watched(take: Callable[[Any], None]) -> Callable[[Any], None]:
        def take_and_count(job: Any) -> None:
            number, ended = len(ends), job.ended
            ends[number] = 0

            def end(now: float, how: End) -> None:
                ends[number] += 1
                ended(now, how)

            job.ended = end
            take(job)

        return take_and_count

    play = played(
        setting(
            machines=counted, sessions=lambda: every(0.05, turns=turns), warm_up=5, counted=40, **changes
        ),
        POLICIES[policy].config,
    )
    assert sum(each.is_counted for each in play.asked) == 40
    assert all(each.end is not None and each.ended_at is not None for each in play.asked)
    assert len(ends) == sum(each.machine is not None for each in play.asked)
    assert set(ends.values()) == {1}
    for each in play.asked:
        if each.end is End.DONE:
            assert each.first_at is not None and each.sent_at <= each.first_at <= (each.ended_at or 0.0)
    for picker in play.pickers:
        assert {(each.requests_in_flight, each.tokens_in_flight) for each in picker.endpoints} == {(0, 0)}
        assert not any(each.unanswered for each in picker.endpoints)
