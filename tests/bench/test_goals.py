import pytest

from bench.findings import NO_PICKER, OURS, Load
from bench.goals import EVEN, FIGURES, FLEET_LOADS, LOADS, Verdict, verdicts
from bench.load import Percentiles
from tests.bench.measured import a_report, a_round, a_streaming, at_rest


def verdict(found: list[Verdict], what: str) -> Verdict:
    return next(one for one in found if one.figure.what == what)


@pytest.mark.parametrize(
    "cost, is_met", [(110.0, True), (111.0, False), (None, None)], ids=["reached", "missed", "not-measured"]
)
def test_a_goal_is_reached_missed_or_not_measured(cost: float | None, is_met: bool | None) -> None:
    rounds = [] if cost is None else [a_round(picker_cpu_us=cost)]
    found = verdict(verdicts(a_report(*rounds)), "1 KB at 100: CPU a request")
    assert found.is_met is is_met
    assert found.relative_is_met is None  # nothing was measured without a picker


def test_a_goal_may_be_missed_here_and_reached_in_what_travels() -> None:
    found = verdict(
        verdicts(a_report(a_round(NO_PICKER, envoy_cpu_us=100.0), a_round(picker_cpu_us=200.0))),
        "1 KB at 100: CPU a request",
    )
    assert (found.value, found.is_met) == (200.0, False)
    assert (found.relative_value, found.relative_is_met) == (2.0, True)
    assert found.figure.relative is not None and found.figure.relative.goal == pytest.approx(2.73, abs=0.01)


def test_more_requests_are_better_and_so_is_a_larger_share_of_what_is_possible() -> None:
    rounds = [a_round(NO_PICKER, requests_per_second=20_000.0), a_round(requests_per_second=6_000.0)]
    found = verdict(verdicts(a_report(*rounds)), "1 KB at 100: requests/s")
    assert found.is_met is False
    assert (found.relative_value, found.relative_is_met) == (0.3, True)


def test_a_chunk_is_compared_with_a_request_without_a_picker() -> None:
    found = verdict(
        verdicts(a_report(a_round(NO_PICKER), streaming=[a_streaming()])), "CPU a streamed chunk at 2,000/s"
    )
    assert found.value == pytest.approx(20.0) and found.is_met
    assert found.relative_value == pytest.approx(0.4) and found.relative_is_met


def test_every_figure_comes_from_the_measurements() -> None:
    rounds = [a_round(name, load) for load in (*LOADS, EVEN) for name in (NO_PICKER, OURS)]
    fleet = [
        a_round(load=load, endpoints=endpoints, picker_cpu_us=500.0 + endpoints)
        for load in FLEET_LOADS
        for endpoints in (2, 100)
    ]
    report = a_report(
        *rounds,
        fleet_rounds=fleet,
        streaming=[a_streaming(), a_streaming(aimed=20_000, chunks=40_000)],
        at_rest=[at_rest(2), at_rest(100, cores=0.02), at_rest(1_000, cores=0.3)],
    )
    measured = {one.figure.what: one.value for one in verdicts(report)}
    assert None not in measured.values()
    assert measured["220 KB at 100: CPU a request"] == 500.0
    assert measured["1 KB at 1: p50"] == pytest.approx(10.0)
    assert measured["1 KB, 300/s: p99"] == pytest.approx(30.0)
    assert measured["CPU a streamed chunk at 20,000/s"] == pytest.approx(2.0)
    assert measured["at rest, 1,000 endpoints, 50 KB pages"] == 0.3
    assert measured["100 endpoints, 220 KB at 20: requests/s of those with 2"] == 100.0
    assert measured["100 endpoints, 1 KB at 20: CPU a request more than with 2"] == 98.0
    assert (measured["resident at rest"], measured["resident, 220 KB at 100"]) == (50.0, 60.0)
    assert measured["start to first answer"] == 0.4


def test_the_goals_are_those_of_the_first_driver() -> None:
    names = [NO_PICKER, "fleet-epp fast", "fleet-epp grpcio"]
    rounds = [a_round("fleet-epp grpcio", picker_cpu_us=900.0), a_round("fleet-epp fast", picker_cpu_us=90.0)]
    found = verdicts(a_report(*rounds, contenders=names))
    assert verdict(found, "1 KB at 100: CPU a request").value == 90.0


def test_without_our_picker_there_are_no_goals() -> None:
    assert verdicts(a_report(contenders=[NO_PICKER])) == []


def test_rest_after_load_and_other_pages_are_other_figures() -> None:
    others = [at_rest(2, page_kb=2, cores=9.0), at_rest(2, after_load=True, cores=9.0), at_rest(2)]
    found = verdict(verdicts(a_report(at_rest=others)), "at rest, 2 endpoints, 50 KB pages")
    assert found.value == 0.01


def test_a_load_without_good_answers_has_no_latency_to_judge() -> None:
    found = verdicts(a_report(a_round(load=Load(1, 1), latency=None), a_round(NO_PICKER, Load(1, 1))))
    one = verdict(found, "1 KB at 1: p50")
    assert (one.value, one.is_met, one.relative_value) == (None, None, None)


def test_a_percentile_is_the_one_that_was_asked_for() -> None:
    found = verdicts(a_report(a_round(load=EVEN, latency=Percentiles(0.001, 0.002, 0.004))))
    assert verdict(found, "1 KB, 300/s: p50").value == 1.0
    assert verdict(found, "1 KB, 300/s: p99").value == 4.0


def test_no_two_figures_have_one_name() -> None:
    assert len({figure.what for figure in FIGURES}) == len(FIGURES) == 20
