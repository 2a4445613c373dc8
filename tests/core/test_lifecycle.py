"""The life of an endpoint: what moves it, how long it is out, and that a healthy server always comes back."""

import math
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp.core.lifecycle import (
    GUARDS,
    TRANSITIONS,
    WARM_STEPS,
    Change,
    HealthSettings,
    Lifecycle,
    Phase,
    Signal,
)

P, S = Phase, Signal
SETTINGS = HealthSettings()


def living(settings: HealthSettings = SETTINGS) -> Lifecycle:
    """In service since our start."""
    life = Lifecycle(settings, 0.0)
    life.receive(S.FOUND, 0.0)
    assert life.phase is P.READY
    return life


def told(life: Lifecycle, *signals: tuple[float, Signal]) -> list[Phase]:
    """The phases that follow from signals at their times."""
    phases = [life.phase]
    for now, signal in signals:
        phases += [change.after for change in (*life.advance(now), *life.receive(signal, now))]
    return phases


@pytest.mark.parametrize(
    "signals, phases",
    [
        pytest.param([(1, S.REFUSED)], [P.READY, P.EJECTED], id="death-is-knowledge"),
        pytest.param([(1, S.SILENT), (1.1, S.ANSWERED)], [P.READY, P.SUSPECT, P.READY], id="a-late-answer"),
        pytest.param([(1, S.SILENT), (2, S.SILENT)], [P.READY, P.SUSPECT, P.EJECTED], id="a-hang"),
        pytest.param(
            [(1, S.SILENT), (1.1, S.ANSWERED), (2, S.SILENT)],
            [P.READY, P.SUSPECT, P.READY, P.SUSPECT],
            id="two-silences-that-are-not-in-a-row",
        ),
        pytest.param(
            [(1, S.FAILED), (1.1, S.ANSWERED), (1.2, S.FAILED)],
            [P.READY, P.SUSPECT, P.EJECTED],
            id="health-says-yes-requests-say-no",
        ),
        pytest.param(
            [(1, S.FAILED), (1.1, S.SERVED), (1.2, S.FAILED)],
            [P.READY, P.SUSPECT, P.READY, P.SUSPECT],
            id="one-failure-among-good-ones",
        ),
        pytest.param(
            [(1, S.FAILED), (7, S.ANSWERED), (8, S.FAILED)],
            [P.READY, P.SUSPECT, P.READY, P.EJECTED],
            id="time-alone-forgives-nothing",
        ),
        pytest.param(
            [(1, S.FAILED), (130, S.FAILED), (140, S.ANSWERED)],
            [P.READY, P.SUSPECT, P.READY, P.SUSPECT, P.READY],
            id="failures-of-different-days",
        ),
        pytest.param(
            [(1, S.FAILED), (2, S.BUSY), (3, S.FAILED)], [P.READY, P.SUSPECT], id="who-is-full-is-alive"
        ),
        pytest.param(
            [(1, S.LOADING), (2, S.SILENT), (3, S.LOADING), (4, S.SILENT), (5, S.ANSWERED)],
            [P.READY, P.LOADING, P.WARMING],
            id="a-loader-that-stalls-now-and-then",
        ),
        pytest.param([(1, S.FAILED), (7, S.ANSWERED)], [P.READY, P.SUSPECT, P.READY], id="no-further-news"),
        pytest.param([(1, S.LOADING), (2, S.ANSWERED)], [P.READY, P.LOADING, P.WARMING], id="restart"),
        pytest.param(
            [(1, S.QUITTING), (2, S.ANSWERED), (3, S.REFUSED)],
            [P.READY, P.DRAINING, P.EJECTED],
            id="a-draining-server-answers-as-if-it-were-well",
        ),
        pytest.param(
            [(1, S.QUITTING), (31, S.ANSWERED)], [P.READY, P.DRAINING, P.PROBING], id="it-changed-its-mind"
        ),
        pytest.param(
            [(1, S.REFUSED), (1.2, S.ANSWERED), (1.5, S.ANSWERED)],
            [P.READY, P.EJECTED, P.PROBING],
            id="back-off",
        ),
        pytest.param(
            [(1, S.REFUSED), (1.2, S.ANSWERED), (1.5, S.SERVED)],
            [P.READY, P.EJECTED, P.PROBING, P.WARMING],
            id="its-back-off-ends-without-another-look",
        ),
        pytest.param(
            [(1, S.REFUSED), (3, S.ANSWERED), (3.5, S.ANSWERED)],
            [P.READY, P.EJECTED, P.PROBING, P.WARMING],
            id="nobody-sent-a-request-to-prove-it",
        ),
        pytest.param(
            [(1, S.REFUSED), (3, S.ANSWERED), (3.1, S.FAILED)],
            [P.READY, P.EJECTED, P.PROBING, P.EJECTED],
            id="half-open-and-closed-again",
        ),
        pytest.param([(1, S.ABSENT), (2, S.ANSWERED)], [P.READY, P.PENDING, P.WARMING], id="absent"),
        pytest.param([(1, S.MOVED), (2, S.ANSWERED)], [P.READY, P.PENDING, P.WARMING], id="moved"),
        pytest.param([(1, S.REMOVED), (2, S.ANSWERED), (3, S.REFUSED)], [P.READY, P.GONE], id="gone-is-gone"),
    ],
)
def test_what_moves_an_endpoint(signals: list[tuple[float, Signal]], phases: list[Phase]) -> None:
    assert told(living(), *signals) == phases


def test_who_was_there_before_us_need_not_warm_up() -> None:
    found, new = Lifecycle(SETTINGS, 0.0), Lifecycle(SETTINGS, 0.0)
    found.receive(S.FOUND, 0.1)
    new.receive(S.ANSWERED, 0.1)
    assert (found.phase, new.phase) == (P.READY, P.WARMING)


def test_the_back_off_doubles_and_is_forgotten_after_good_service() -> None:
    life, now, waits = living(), 100.0, []
    for _ in range(8):
        life.receive(S.REFUSED, now)
        waits.append(life.out_until - now)
        now = life.out_until
        told(life, (now, S.ANSWERED), (now, S.SERVED), (now + SETTINGS.warm_up + 0.01, S.ANSWERED))
        assert life.phase is P.READY
        now += SETTINGS.warm_up + 0.01
    assert waits == pytest.approx([0.5, 1, 2, 4, 8, 16, 30, 30])
    now += SETTINGS.stable - SETTINGS.warm_up
    life.receive(S.REFUSED, now)
    assert life.out_until - now == pytest.approx(0.5)


def test_a_flicker_of_suspicion_is_no_good_service() -> None:
    life = living()
    told(life, (100.0, S.REFUSED), (101.0, S.ANSWERED), (101.0, S.SERVED))
    told(life, (101.1, S.SILENT), (101.2, S.ANSWERED))
    life.receive(S.REFUSED, 102.0)
    assert life.out_until - 102.0 == pytest.approx(1.0)


def test_it_warms_up_in_steps() -> None:
    life = Lifecycle(SETTINGS, 0.0)
    life.receive(S.ANSWERED, 0.0)
    allowances, scores = [life.allowance], [life.score]
    while life.phase is P.WARMING:
        life.advance(life.due)
        allowances.append(life.allowance)
        scores.append(life.score)
    assert allowances == [2, 4, 8, 16, 32, 64, None]
    assert scores == sorted(scores) and (scores[0], scores[-1]) == (0.3, 1.0)
    assert life.since == pytest.approx(SETTINGS.warm_up)


def test_a_hiccup_does_not_end_the_warm_up() -> None:
    life = Lifecycle(SETTINGS, 0.0)
    told(life, (0.0, S.ANSWERED), (2.0, S.SILENT))
    steps = life.steps
    assert told(life, (2.1, S.ANSWERED)) == [P.SUSPECT, P.WARMING]
    assert life.steps == steps > 0 and life.allowance == 2 << steps
    life.advance(20.0)
    assert told(life, (20.0, S.SILENT), (20.1, S.ANSWERED)) == [P.READY, P.SUSPECT, P.READY]


def test_a_warning_holds_through_other_phases() -> None:
    life = living()
    life.managed(1.0, hold="", leaving="", pressure="memory")
    assert (life.phase, life.reason, life.score) == (P.PRESSURED, "memory", 0.7)
    phases = told(life, (2.0, S.SILENT), (2.1, S.ANSWERED))
    assert phases == [P.PRESSURED, P.SUSPECT, P.READY, P.PRESSURED]
    life.managed(3.0, hold="", leaving="", pressure="")
    assert life.phase is P.READY


def test_who_is_full_is_pressured_for_a_while() -> None:
    life = living()
    assert told(life, (1.0, S.BUSY), (2.0, S.BUSY), (3.9, S.ANSWERED)) == [P.READY, P.PRESSURED]
    assert told(life, (4.0, S.ANSWERED)) == [P.PRESSURED, P.READY]
    life.managed(5.0, hold="", leaving="", pressure="memory")
    assert told(life, (6.0, S.BUSY), (60.0, S.ANSWERED)) == [P.PRESSURED], "its manager still warns"


def test_what_a_manager_says_outweighs_what_is_seen() -> None:
    life = living()
    life.managed(1.0, hold="the pod is not ready", leaving="", pressure="")
    assert told(life, (2.0, S.ANSWERED), (3.0, S.REFUSED), (4.0, S.ANSWERED)) == [P.PENDING]
    assert life.is_known_dead
    life.managed(5.0, hold="", leaving="", pressure="")
    assert life.phase is P.WARMING, "it answered while it was held"
    life.managed(6.0, hold="", leaving="deleted", pressure="")
    assert told(life, (7.0, S.REFUSED), (90.0, S.ANSWERED)) == [P.DRAINING]
    life.managed(91.0, hold="", leaving="", pressure="")
    assert told(life, (92.0, S.ANSWERED)) == [P.PENDING, P.WARMING]


@pytest.mark.parametrize(
    "signals, is_known",
    [
        pytest.param([], False, id="nobody-has-looked"),
        pytest.param([S.REFUSED], True, id="refused"),
        pytest.param([S.SILENT, S.SILENT], False, id="silent"),
        pytest.param([S.REFUSED, S.SILENT], True, id="refused-then-switched-off"),
        pytest.param([S.SILENT, S.SILENT, S.REFUSED], True, id="silent-then-refused"),
        pytest.param([S.ANSWERED, S.FAILED, S.FAILED], False, id="failing"),
        pytest.param([S.LOADING], True, id="loading"),
        pytest.param([S.ABSENT], True, id="absent"),
        pytest.param([S.ANSWERED, S.QUITTING], False, id="words-that-may-be-misread"),
        pytest.param([S.REFUSED, S.ANSWERED], False, id="answers-during-its-back-off"),
        pytest.param([S.ANSWERED], False, id="well"),
    ],
)
def test_what_is_known_and_what_is_suspected(signals: list[Signal], is_known: bool) -> None:
    life = Lifecycle(SETTINGS, 0.0)
    told(life, *((0.1, signal) for signal in signals))
    assert life.is_known_dead is is_known


@pytest.mark.parametrize(
    "wrong", [{"silence": 0}, {"back_off": -1.0}, {"warm_up": math.inf}, {"back_off": 40.0}], ids=str
)
def test_thresholds_that_make_no_sense(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="^" + next(iter(wrong))):
        HealthSettings(**wrong)


def test_a_request_on_its_way_keeps_the_proof_open() -> None:
    life = living()
    told(life, (1.0, S.REFUSED), (2.0, S.ANSWERED))
    life.is_tried = True
    assert told(life, (4.0, S.ANSWERED)) == [P.PROBING], "its answer takes longer than half a second"
    assert told(life, (4.1, S.FAILED)) == [P.PROBING, P.EJECTED]
    told(life, (5.2, S.ANSWERED))
    life.is_tried = True
    phases = told(life, (5.2 + 2 * SETTINGS.first_token + SETTINGS.probation, S.ANSWERED))
    assert phases == [P.PROBING, P.WARMING], "but not for ever"


def test_who_is_held_while_it_drains_stays_out_until_it_is_freed() -> None:
    life = living()
    told(life, (1.0, S.QUITTING))
    life.managed(2.0, hold="the pod is not ready", leaving="", pressure="")
    assert told(life, (3.0, S.REFUSED), (40.0, S.ANSWERED), (80.0, S.SERVED)) == [P.PENDING]
    life.managed(81.0, hold="", leaving="", pressure="")
    assert life.phase is P.WARMING


def test_a_model_that_has_loaded_during_its_back_off_serves_when_that_is_over() -> None:
    life = living()
    told(life, (1.0, S.REFUSED), (1.1, S.LOADING), (1.2, S.ANSWERED))
    assert life.phase is P.LOADING and not life.is_known_dead
    assert told(life, (1.5, S.ANSWERED)) == [P.LOADING, P.WARMING]


def test_every_guard_belongs_to_a_row() -> None:
    assert GUARDS.keys() <= TRANSITIONS.keys()


# --- what holds whatever is seen -------------------------------------------------------------------

FROM_INSIDE = (S.MUTE, S.BROKEN, S.DUE, S.REMOVED)
MANAGED = (S.HELD, S.LEAVING, S.FREED, S.PRESSED, S.RELIEVED)
SEEN = st.sampled_from([signal for signal in Signal if signal not in FROM_INSIDE + MANAGED])
STEPS = st.lists(
    st.tuples(
        st.floats(0, 10, allow_nan=False),
        SEEN | st.tuples(st.booleans(), st.booleans(), st.booleans()),
    ),
    max_size=40,
)
THRESHOLDS = st.builds(
    HealthSettings,
    failures=st.integers(1, 4),
    back_off=st.floats(0.1, 2),
    back_off_most=st.floats(2, 60),
    stable=st.floats(1, 60),
    warm_up=st.floats(0.1, 20),
)


def lived(
    settings: HealthSettings, steps: Sequence[tuple[float, Any]]
) -> tuple[Lifecycle, float, list[Change]]:
    life, now, changes = Lifecycle(settings, 0.0), 0.0, list[Change]()
    for passed, what in steps:
        now += passed
        changes += life.advance(now)
        if isinstance(what, tuple):
            hold, leaving, pressure = ("x" if each else "" for each in what)
            changes += life.managed(now, hold=hold, leaving=leaving, pressure=pressure)
        else:
            changes += life.receive(what, now)
    return life, now, changes


@given(settings=THRESHOLDS, steps=STEPS)
def test_a_healthy_server_always_comes_back(settings: HealthSettings, steps: list[tuple[float, Any]]) -> None:
    life, now, _ = lived(settings, steps)
    life.managed(now, hold="", leaving="", pressure="")
    longest = settings.back_off_most + settings.probation + settings.warm_up + settings.draining + 6
    looks = 0
    while life.phase is not P.READY and looks < 20 + longest / 0.5:
        now, looks = now + 0.5, looks + 1
        life.advance(now)
        life.receive(S.ANSWERED, now)
    assert life.phase is P.READY and life.score == 1.0 and life.allowance is None


@given(settings=THRESHOLDS, steps=STEPS)
def test_changes_follow_one_another(settings: HealthSettings, steps: list[tuple[float, Any]]) -> None:
    life, _, changes = lived(settings, steps)
    phase = P.PENDING
    for change in changes:
        assert change.before is phase and change.after is not phase and change.reason
        row = TRANSITIONS[change.before, change.signal]
        resumes = (change.before, row, change.after) == (P.SUSPECT, P.READY, P.WARMING)
        assert change.after is row or resumes
        phase = change.after
    assert life.phase is phase
    assert [c.at for c in changes] == sorted(c.at for c in changes)
    assert not (life.is_serving and (life.hold or life.leaving))
    assert 0.0 <= life.score <= 1.0 and 0 <= life.steps <= WARM_STEPS


@given(settings=THRESHOLDS, steps=STEPS)
def test_nobody_returns_before_its_back_off_is_over(
    settings: HealthSettings, steps: list[tuple[float, Any]]
) -> None:
    _, _, changes = lived(settings, [(passed, what) for passed, what in steps if what is not S.MOVED])
    out_since: float | None = None
    for change in changes:
        if change.after is P.EJECTED:
            out_since = change.at
        elif change.after in (P.PENDING, P.DRAINING):  # on its manager's word
            out_since = None
        elif change.after in (P.PROBING, P.WARMING, P.READY) and out_since is not None:
            assert change.at - out_since >= settings.back_off * (1 - 1e-9)
            out_since = None


@given(settings=THRESHOLDS, steps=STEPS)
def test_suspicion_alone_is_never_knowledge(settings: HealthSettings, steps: list[tuple[float, Any]]) -> None:
    suspicions = [
        (passed, what)
        for passed, what in steps
        if what in (S.SILENT, S.FAILED, S.ANSWERED, S.SERVED, S.FOUND)
    ]
    life, _, _ = lived(settings, suspicions)
    assert not life.is_known_dead
