"""Made-up measurements for the tests of what is made of them."""

import dataclasses

from bench.findings import NO_PICKER, OURS, AtRest, Load, Report, Round, Start, Streaming
from bench.load import Percentiles

KB1 = Load(1, 100)
EVERYBODY = (NO_PICKER, "bare echo", "echo", OURS, "llm-epp")


def a_round(contender: str = OURS, load: Load = KB1, **given: object) -> Round:
    is_none = contender == NO_PICKER
    base = Round(
        contender=contender,
        load=load,
        endpoints=2,
        requests=100,
        failures=0,
        failures_by_kind={},
        requests_per_second=10_000.0 if is_none else 1_000.0,
        latency=Percentiles(0.01, 0.02, 0.03),
        picker_cpu_us=None if is_none else 500.0,
        envoy_cpu_us=50.0,
        picker_rss_bytes=None if is_none else 60_000_000,
    )
    return dataclasses.replace(base, **given)  # type: ignore[arg-type]


def a_streaming(contender: str = OURS, **given: object) -> Streaming:
    cores = {"Envoy": 0.2, "servers": 0.1, "load": 0.1}
    base = Streaming(
        contender=contender,
        aimed=2_000,
        streams=40,
        seconds=2.0,
        chunks=4_000,
        failures=0,
        failures_by_kind={},
        cores=cores if contender == NO_PICKER else {"picker": 0.04, **cores},
    )
    return dataclasses.replace(base, **given)  # type: ignore[arg-type]


def at_rest(endpoints: int, contender: str = OURS, **given: object) -> AtRest:
    base = AtRest(
        contender=contender,
        endpoints=endpoints,
        page_kb=50,
        after_load=False,
        seconds=10,
        cores=0.01,
        rss_bytes=50_000_000,
    )
    return dataclasses.replace(base, **given)  # type: ignore[arg-type]


def a_report(*rounds: Round, **given: object) -> Report:
    base = Report(
        command="make bench",
        date="2026-01-01",
        machine={"CPU": "abacus"},
        contenders=EVERYBODY,
        rounds=list(rounds),
        at_rest=[at_rest(2), at_rest(100)],
        starts=[Start(OURS, 0.3, 0.2), Start(OURS, 0.5, None), Start(OURS, 0.4, 0.4)],
    )
    return dataclasses.replace(base, **given)  # type: ignore[arg-type]
