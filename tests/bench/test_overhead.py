import pytest

from bench import overhead
from bench.findings import NO_PICKER, Load
from bench.overhead import FULL, QUICK, Plan
from bench.stations import Contender, Kind, contenders


def test_the_command_in_a_report_names_no_folder_of_this_machine() -> None:
    chosen = contenders("/opt/epp/llm-epp --tracing=false")
    assert overhead.said(chosen, [], quick=False) == 'make bench VERSUS=".../llm-epp"'
    assert overhead.said(chosen[:3], [], quick=True) == "python -m bench.overhead --quick"
    both = overhead.said(contenders("llm-epp", ["fast", "grpcio"]), ["fast", "grpcio"], quick=False)
    assert both == 'make bench SERVERS="fast grpcio" VERSUS=".../llm-epp"'


def test_at_rest_ours_is_measured_on_one_driver_and_another_picker_spared_the_largest_fleet() -> None:
    chosen = contenders("llm-epp", ["fast", "grpcio"])
    fleets = [(2, 50), (100, 50), (1_000, 50)]
    wanted = {one.name: overhead.fleets_of(one, chosen, fleets) for one in chosen if one.is_picker}
    assert wanted == {
        "fleet-epp fast": fleets,
        "fleet-epp grpcio": [],
        "llm-epp": [(2, 50), (100, 50)],
    }


@pytest.mark.parametrize("plan", [FULL, QUICK], ids=["full", "quick"])
def test_a_plan_counts_its_steps(plan: Plan) -> None:
    alone = [Contender(NO_PICKER, Kind.NOTHING)]
    assert plan.steps(alone) == plan.rounds * len(plan.loads) + plan.chunk_rounds * len(plan.chunk_rates)
    with_ours = [*alone, Contender("fleet-epp", Kind.OURS, ("epp",))]
    fleets = 2 * plan.fleet_pairs * len(plan.fleet_loads)
    assert plan.steps(with_ours) - 2 * plan.steps(alone) == fleets + plan.starts + 1 + len(plan.rest)


def test_a_run_through_envoy_without_a_picker_measures_envoy(capsys: pytest.CaptureFixture[str]) -> None:
    plan = Plan(
        loads=[Load(1, 4), Load(1, rate=50)],
        rounds=1,
        load_seconds=0.2,
        even_seconds=0.2,
        warm_seconds=0.05,
        chunk_rates=[100],
        chunk_rounds=1,
        chunk_window=0.3,
        rest=[],
        fleet_loads=[],
    )
    found = overhead.run(plan, [Contender(NO_PICKER, Kind.NOTHING)], "a test")
    closed, even = found.rounds
    assert (closed.failures, even.failures) == (0, 0)
    assert closed.picker_cpu_us is None and 5 < closed.envoy_cpu_us < 50_000
    assert even.requests == 10
    (streaming,) = found.streaming
    assert (streaming.failures, streaming.streams, streaming.aimed) == (0, 2, 100)
    assert streaming.chunks > 0 and set(streaming.cores) == {"Envoy", "servers", "load"}
    overhead.show(found)
    assert "| 1 KB, 4 clients | no picker |" in capsys.readouterr().out


def test_an_echo_is_measured_as_a_picker_is() -> None:
    plan = Plan(loads=[Load(1, 2)], rounds=1, load_seconds=0.2, chunk_rates=[], rest=[], fleet_loads=[])
    chosen = [one for one in contenders() if one.kind is Kind.ECHO]
    found = overhead.run(plan, chosen, "a test")
    assert [one.contender for one in found.rounds] == ["bare echo", "echo"]
    for one in found.rounds:
        assert one.failures == 0 and one.requests > 0
        assert one.picker_cpu_us is not None and one.picker_rss_bytes is not None
