import pytest

from bench import findings
from bench.findings import NO_PICKER, OURS, Load
from tests.bench.measured import KB1, a_report, a_round, a_streaming


@pytest.mark.parametrize(
    "load, text",
    [
        (Load(1, 100), "1 KB, 100 clients"),
        (Load(220, 1), "220 KB, 1 client"),
        (Load(1, rate=300), "1 KB, 300/s"),
    ],
)
def test_a_load_is_named_as_people_say_it(load: Load, text: str) -> None:
    assert str(load) == text


def test_ours_is_ours_on_every_driver_and_has_an_echo_on_the_same() -> None:
    names = [NO_PICKER, "echo fast", "fleet-epp fast", "fleet-epp", "versus fleet-epp", "fleet-epper"]
    assert [name for name in names if findings.is_ours(name)] == ["fleet-epp fast", "fleet-epp"]
    assert findings.echo_of("fleet-epp fast") == "echo fast"
    assert findings.echo_of("fleet-epp") == "echo"
    assert a_report(contenders=names).ours == ["fleet-epp fast", "fleet-epp"]


def test_rounds_become_medians_failures_add_up_and_memory_is_the_most() -> None:
    costs = [(400.0, {}, 5), (900.0, {"http 503": 2}, 9), (500.0, {"http 503": 1, "timeout": 1}, 7)]
    merged = findings.merge(
        [
            a_round(
                picker_cpu_us=cost, failures=sum(kinds.values()), failures_by_kind=kinds, picker_rss_bytes=rss
            )
            for cost, kinds, rss in costs
        ]
    )
    assert merged.picker_cpu_us == 500.0
    assert (merged.requests, merged.failures) == (300, 4)
    assert merged.failures_by_kind == {"http 503": 3, "timeout": 1}
    assert merged.picker_rss_bytes == 9


def test_a_load_that_never_got_an_answer_has_no_latency() -> None:
    assert findings.merge([a_round(latency=None), a_round(latency=None)]).latency is None


def test_the_unit_is_envoys_cost_without_a_picker_under_the_same_load() -> None:
    other = a_round(NO_PICKER, Load(8, 100), envoy_cpu_us=1.0)
    rows = findings.medians([a_round(NO_PICKER), a_round(), other])
    assert findings.unit(a_round(), rows) == 10.0
    assert findings.unit(a_round(NO_PICKER), rows) is None
    assert findings.unit(a_round(), {}) is None


def test_a_chunk_costs_what_a_process_used_while_so_many_were_received() -> None:
    one = a_streaming()
    assert one.chunks_per_second == 2_000
    assert one.cpu_us("picker") == pytest.approx(20.0)
    assert one.cpu_us("Envoy") == pytest.approx(100.0)
    assert a_streaming(NO_PICKER).cpu_us("picker") is None
    assert a_streaming(chunks=0).cpu_us("picker") is None


def test_rounds_of_streaming_count_as_one() -> None:
    slow = a_streaming(
        seconds=4.0,
        chunks=2_000,
        cores={"picker": 0.01, "Envoy": 0.05, "servers": 0.1, "load": 0.1},
        failures=1,
        failures_by_kind={"timeout": 1},
    )
    found = findings.streamed(a_report(streaming=[a_streaming(), slow]), OURS, 2_000)
    assert found is not None
    assert (found.seconds, found.chunks, found.failures) == (6.0, 6_000, 1)
    assert found.cores["picker"] == pytest.approx((0.04 * 2 + 0.01 * 4) / 6)
    assert findings.streamed(a_report(), OURS, 2_000) is None


def test_fleets_are_compared_pair_by_pair_between_the_fewest_and_the_most_endpoints() -> None:
    rates = [(1_000.0, 900.0, 500, 540), (500.0, 250.0, 600, 700), (10.0, 9.5, 100, 130)]  # it slows down
    fleet = [
        a_round(endpoints=endpoints, requests_per_second=rate, picker_cpu_us=cost)
        for few, many, cheap, dear in rates
        for endpoints, rate, cost in ((2, few, cheap), (100, many, dear))
    ]
    pairs = findings.fleet_pairs(a_report(fleet_rounds=fleet), OURS, KB1)
    assert findings.throughput_ratio(pairs) == 0.9
    assert findings.cpu_difference(pairs) == 40.0


def test_one_fleet_alone_is_compared_with_nothing() -> None:
    assert findings.fleet_pairs(a_report(), OURS, KB1) == []
    assert findings.fleet_pairs(a_report(fleet_rounds=[a_round()]), OURS, KB1) == []
    assert findings.throughput_ratio([]) is None and findings.cpu_difference([]) is None


def test_fleets_under_another_load_are_not_mixed_in() -> None:
    fleet = [
        a_round(load=load, endpoints=endpoints) for load in (KB1, Load(220, 20)) for endpoints in (2, 100)
    ]
    assert len(findings.fleet_pairs(a_report(fleet_rounds=fleet), OURS, KB1)) == 1
