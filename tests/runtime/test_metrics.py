"""What the metrics page says after a conversation, read by Prometheus' own parser."""

import math
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.core import Metric as CoreMetric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from epp.core.events import Outcome
from epp.core.fleet import Endpoint, EndpointSpec, Fleet, Load, Reservation
from epp.core.prefix import PrefixIndex
from epp.core.rejection import NO_CANDIDATES
from epp.core.request import Payload, Request
from epp.core.response_reader import Usage
from epp.core.scheduling import Decision
from epp.core.scoring import PrefixMatch
from epp.runtime.logs import Encoder, LogSettings, RequestLog
from epp.runtime.metrics import (
    HIT_RATIO,
    LATENCY,
    MAX_ATTEMPT_SERIES,
    MAX_LABEL_VALUES,
    PIECE_CHARACTERS,
    REQUEST_BYTES,
    TOKENS,
    Family,
    FleetMetrics,
    Histogram,
    Histograms,
    Metrics,
    Single,
    Values,
)
from epp.runtime.reporting import Reporter

SPEC = EndpointSpec(name="gpu-0", namespace="team", ip="10.0.0.1", port=8000)


def request(model: str = "m", **more: object) -> Request:
    return Request(payload=Payload(model=model), target_model=model, body_bytes=1000, **more)  # type: ignore[arg-type]


def decision(endpoint: Endpoint | None = None) -> Decision:
    endpoint = endpoint or Endpoint(SPEC)
    return Decision(
        endpoints=[endpoint],
        reservation=Reservation(endpoint, 1),
        candidates=[endpoint],
        scores={},
        totals=[1.0],
    )


def serve(metrics: Metrics, asked: Request, now: float = 12.0, **facts: object) -> None:
    """One good conversation from 10.0 to ``now``."""
    placed = decision()
    metrics.requests.placed(asked, placed, 0.0003)
    outcome = Outcome(received_at=10.0, request=asked, decision=placed, status=200, response_complete=True)
    for name, value in facts.items():
        setattr(outcome, name, value)
    metrics.requests.finished(outcome, now)


def page(metrics: Metrics) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Every sample, by name and labels; no sample may be there twice."""
    samples: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
    for family in text_string_to_metric_families(metrics.page().decode()):
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in samples
            samples[key] = sample.value
    return samples


def value(metrics: Metrics, name: str, /, **labels: str) -> float | None:
    return page(metrics).get((name, frozenset(labels.items())))


OLD = {"model_name": "m", "target_model_name": "m"}
NEW = {**OLD, "fairness_id": "default-flow", "priority": "0"}


def test_one_answer_is_counted_under_both_families_of_names() -> None:
    metrics = Metrics(version="1")
    serve(metrics, request(), usage=Usage(100, 20, 50), response_bytes=300)
    assert value(metrics, "llm_d_epp_request_total", **NEW) == 1
    assert value(metrics, "inference_objective_request_total", **OLD, priority="0") == 1
    for new, old, total in [
        ("request_duration_seconds", "request_duration_seconds", 2.0),
        ("request_size_bytes", "request_sizes", 1000),
        ("response_size_bytes", "response_sizes", 300),
        ("request_input_tokens", "input_tokens", 100),
        ("request_output_tokens", "output_tokens", 20),
        ("request_cached_tokens", "prompt_cached_tokens", 50),
        ("request_ntpot_seconds", "normalized_time_per_output_token_seconds", 0.1),
    ]:
        assert value(metrics, f"llm_d_epp_{new}_sum", **NEW) == pytest.approx(total)
        assert value(metrics, f"llm_d_epp_{new}_count", **NEW) == 1
        assert value(metrics, f"inference_objective_{old}_sum", **OLD) == pytest.approx(total)
    endpoint = {"namespace": "team", "port": "8000", "status": "success", "target_model_name": "m"}
    assert value(metrics, "llm_d_epp_scheduler_attempts_total", endpoint_name="gpu-0", **endpoint) == 1
    assert value(metrics, "inference_extension_scheduler_attempts_total", pod_name="gpu-0", **endpoint) == 1
    assert value(metrics, "inference_extension_scheduler_e2e_duration_seconds_sum") == pytest.approx(0.0003)
    assert value(metrics, "llm_d_epp_info", commit="", build_ref="fleet-epp-1") == 1


def test_a_priority_is_a_series_of_its_own() -> None:
    metrics = Metrics()
    serve(metrics, request())
    serve(metrics, request(priority=-5))
    serve(metrics, request(priority=-5))
    for priority, count in (("0", 1), ("-5", 2)):
        assert value(metrics, "llm_d_epp_request_total", **{**NEW, "priority": priority}) == count
        assert value(metrics, "inference_objective_request_total", **OLD, priority=priority) == count


def test_rewrites_are_counted_by_the_object_that_chose() -> None:
    metrics = Metrics()
    for target in ("v1", "v2", "v2"):
        asked = msgspec.structs.replace(request(), target_model=target, rewritten_by="canary")
        metrics.requests.placed(asked, decision(), 0.0)
    metrics.requests.placed(request(), decision(), 0.0)
    for prefix in ("llm_d_epp", "inference_extension"):
        name = f"{prefix}_model_rewrite_decisions_total"
        found = {
            dict(labels)["target_model"]: count for (of, labels), count in page(metrics).items() if of == name
        }
        assert found == {"v1": 1, "v2": 2}
        labels = {"model_rewrite_name": "canary", "model_name": "m", "target_model": "v1"}
        assert value(metrics, name, **labels) == 1


def test_the_models_of_rewrites_are_bounded() -> None:
    """A rule about any model lets clients name what they like."""
    metrics = Metrics()
    for number in range(MAX_LABEL_VALUES + 50):
        asked = msgspec.structs.replace(request(f"m{number}"), target_model="v1", rewritten_by="any")
        metrics.requests.placed(asked, decision(), 0.0)
    name = "llm_d_epp_model_rewrite_decisions_total"
    assert sum(of == name for of, _ in page(metrics)) == MAX_LABEL_VALUES + 1
    rest = {"model_rewrite_name": "any", "model_name": "other", "target_model": "v1"}
    assert value(metrics, name, **rest) == 50


def test_what_the_picked_endpoint_had_cached_is_counted() -> None:
    metrics, placed = Metrics(), decision()
    match = PrefixMatch(blocks={placed.endpoints[0]: 3}, total_blocks=4, block_tokens=16)
    metrics.requests.placed(request(), msgspec.structs.replace(placed, match=match), 0.0)
    for prefix in ("llm_d_epp", "inference_extension"):
        assert value(metrics, f"{prefix}_prefix_indexer_hit_ratio_sum") == 0.75
        assert value(metrics, f"{prefix}_prefix_indexer_hit_bytes_sum") == 3 * 16 * 4


def test_the_first_token_counts_for_a_stream_and_the_end_for_a_whole_answer() -> None:
    metrics = Metrics()
    serve(metrics, request(), response_streaming=True, first_token_at=10.5, usage=Usage(1, 4, None))
    serve(metrics, request())
    assert value(metrics, "llm_d_epp_request_ttft_seconds_sum", **NEW, streaming="true") == 0.5
    assert value(metrics, "llm_d_epp_request_ttft_seconds_sum", **NEW, streaming="false") == 2.0
    assert value(metrics, "inference_objective_request_ttft_seconds_sum", **OLD) == 2.5
    assert value(metrics, "llm_d_epp_request_streaming_tpot_seconds_sum", **NEW) == pytest.approx(0.5)


def test_a_body_that_was_not_shown_has_no_size_and_no_first_token() -> None:
    metrics = Metrics()
    serve(metrics, request(), response_bytes=None)
    assert value(metrics, "llm_d_epp_response_size_bytes_count", **NEW) is None
    assert value(metrics, "llm_d_epp_request_ttft_seconds_count", **NEW, streaming="false") is None
    assert value(metrics, "llm_d_epp_request_duration_seconds_count", **NEW) == 1


def test_a_response_that_was_not_to_be_seen_is_a_request_and_no_more() -> None:
    metrics = Metrics()
    serve(metrics, request(), response_complete=False, is_unseen=True, response_bytes=None, status=None)
    assert value(metrics, "llm_d_epp_request_total", **NEW) == 1
    assert value(metrics, "llm_d_epp_request_running", **NEW) == 0
    assert value(metrics, "llm_d_epp_request_duration_seconds_count", **NEW) is None
    assert value(metrics, "llm_d_epp_request_error_total", **NEW, error_code="ModelServerError") is None


@pytest.mark.parametrize(
    "facts, code",
    [
        pytest.param({"status": 503, "response_complete": True}, "ModelServerError", id="the server failed"),
        pytest.param({"error": "out of memory"}, "ModelServerError", id="an error inside a 200"),
    ],
)
def test_an_error_is_counted_and_its_times_are_not(facts: dict[str, object], code: str) -> None:
    metrics = Metrics()
    serve(metrics, request(), **facts)
    assert value(metrics, "llm_d_epp_request_error_total", **NEW, error_code=code) == 1
    assert value(metrics, "inference_objective_request_error_total", **OLD, error_code=code) == 1
    assert value(metrics, "llm_d_epp_request_duration_seconds_count", **NEW) is None


def test_a_refused_request_was_never_running() -> None:
    metrics = Metrics()
    metrics.requests.placed(request(), NO_CANDIDATES, 0.0001)
    assert value(metrics, "llm_d_epp_request_running", **NEW) is None
    metrics.requests.finished(Outcome(received_at=1.0, request=request(), rejection=NO_CANDIDATES), 2.0)
    assert value(metrics, "llm_d_epp_request_running", **NEW) == 0
    assert value(metrics, "llm_d_epp_request_error_total", **NEW, error_code="ServiceUnavailable") == 1
    failed = {"namespace": "", "port": "", "status": "failure", "target_model_name": "m", "endpoint_name": ""}
    assert value(metrics, "llm_d_epp_scheduler_attempts_total", **failed) == 1


def test_a_malformed_request_is_an_error_of_no_model() -> None:
    metrics = Metrics()
    metrics.requests.finished(Outcome(received_at=1.0, rejection=NO_CANDIDATES), 2.0)
    labels = {"model_name": "", "target_model_name": "", "fairness_id": "default-flow", "priority": "0"}
    assert value(metrics, "llm_d_epp_request_total", **labels) == 1


def test_a_conversation_without_a_request_is_not_counted() -> None:
    metrics = Metrics()
    metrics.requests.finished(Outcome(received_at=1.0), 2.0)
    assert value(metrics, "llm_d_epp_request_total", **NEW) is None


def test_a_request_is_running_from_its_pick_to_its_end_however_it_ends() -> None:
    metrics, placed = Metrics(), decision()
    metrics.requests.placed(request(), placed, 0.0)
    assert value(metrics, "llm_d_epp_request_running", **NEW) == 1
    assert value(metrics, "inference_objective_running_requests", model_name="m") == 1
    metrics.requests.finished(Outcome(received_at=1.0, request=request(), decision=placed), 2.0)
    assert value(metrics, "llm_d_epp_request_running", **NEW) == 0
    assert value(metrics, "llm_d_epp_request_duration_seconds_count", **NEW) is None


def test_flows_are_told_apart_where_upstream_does_and_added_up_where_it_does_not() -> None:
    metrics = Metrics()
    serve(metrics, request(headers={"x-llm-d-inference-fairness-id": "alice"}))
    serve(metrics, request(headers={"x-gateway-inference-fairness-id": "bob"}))
    serve(metrics, request(agent="session-7"))
    serve(metrics, request(agent="session-8", headers={"x-llm-d-inference-fairness-id": "carol"}))
    for flow in ("alice", "bob", "session-7", "carol"):
        assert value(metrics, "llm_d_epp_request_total", **{**NEW, "fairness_id": flow}) == 1
    assert value(metrics, "inference_objective_request_total", **OLD, priority="0") == 4
    assert value(metrics, "inference_objective_request_duration_seconds_count", **OLD) == 4


def test_clients_cannot_make_series_without_end() -> None:
    metrics = Metrics()
    for number in range(2 * MAX_LABEL_VALUES + 50):
        serve(
            metrics, request(f"model-{number}", headers={"x-llm-d-inference-fairness-id": f"flow-{number}"})
        )
    families = {family.name: family.values for family in metrics.families() if isinstance(family, Values)}
    totals = families["llm_d_epp_request_total"]
    assert totals["other", "other", "other", "0"] == 50
    assert sum(totals.values()) == 2 * MAX_LABEL_VALUES + 50
    assert set(families["llm_d_epp_request_running"].values()) == {0}
    assert len(families["llm_d_epp_scheduler_attempts_total"]) == MAX_LABEL_VALUES + 1


@given(picked=st.lists(st.tuples(st.integers(0, 9), st.sampled_from("ab")), max_size=60))
def test_endpoints_that_come_and_go_leave_few_series_and_all_attempts(picked: list[tuple[int, str]]) -> None:
    metrics = Metrics()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("epp.runtime.metrics.MAX_ATTEMPT_SERIES", 3)
        for number, model in picked:
            spec = EndpointSpec(name=f"pod-{number}", ip="10.0.0.1", port=8000)
            metrics.requests.placed(request(model), decision(Endpoint(spec)), 0.0)
            metrics.requests.placed(request(model), NO_CANDIDATES, 0.0)
    families = {family.name: family.values for family in metrics.families() if isinstance(family, Values)}
    attempts = families["llm_d_epp_scheduler_attempts_total"]
    assert sum(attempts.values()) == 2 * len(picked)
    kinds = [(status, "other" if name == "other" else name[:3]) for status, _, name, *_ in attempts]
    assert kinds.count(("success", "pod")) <= 2 * 3
    assert kinds.count(("success", "other")) <= 2, "one for each model"
    for model in "ab":
        refused = attempts.get(("failure", model, "", "", ""), 0)
        assert refused == sum(each == model for _, each in picked)


@pytest.mark.parametrize("every", [1, MAX_ATTEMPT_SERIES])
def test_an_endpoint_that_is_picked_now_and_then_keeps_its_series(every: int) -> None:
    metrics = Metrics()
    staying = decision()
    for number in range(3 * MAX_ATTEMPT_SERIES):
        spec = EndpointSpec(name=f"pod-{number}", ip="10.0.0.1", port=8000)
        metrics.requests.placed(request(), decision(Endpoint(spec)), 0.0)
        if number % every == 0:
            metrics.requests.placed(request(), staying, 0.0)
    families = {family.name: family.values for family in metrics.families() if isinstance(family, Values)}
    attempts = families["llm_d_epp_scheduler_attempts_total"]
    assert attempts["success", "m", "gpu-0", "team", "8000"] == 3 * MAX_ATTEMPT_SERIES // every
    assert sum(attempts.values()) == 3 * (MAX_ATTEMPT_SERIES + MAX_ATTEMPT_SERIES // every)
    assert len(attempts) <= 2 * MAX_ATTEMPT_SERIES + 1


def test_a_long_page_is_written_in_pieces() -> None:
    metrics = Metrics()
    for number in range(50):
        serve(metrics, request(f"model-{number}"))
    pieces = list(metrics.pages())
    assert sum(b"llm_d_epp_request_duration_seconds_bucket" in piece for piece in pieces) > 3
    assert max(map(len, pieces)) < PIECE_CHARACTERS + 10_000, "one series more at most"
    assert b"".join(pieces).count(b"# TYPE llm_d_epp_request_duration_seconds histogram") == 1
    assert sum(name == "llm_d_epp_request_total" for name, _ in page(metrics)) == 50


def test_what_comes_while_the_page_is_read_spoils_nothing() -> None:
    metrics = Metrics()
    fleet = Fleet()
    metrics.add(FleetMetrics(lambda: [("pool", fleet)], clock=lambda: 10.0))
    for number in range(60):
        serve(metrics, request(f"model-{number}"))
    endpoints, *_ = fleet.replace(
        (EndpointSpec(name=f"e{n}", ip="10.0.0.1", port=n) for n in range(1, 600)), 0.0
    )
    pieces = []
    for piece in metrics.pages():  # between two pieces anything may happen
        pieces.append(piece)
        serve(metrics, request(f"later-{len(pieces)}"))
        for endpoint in endpoints:
            fleet.reading(endpoint, Load(waiting=1), 10.0 + len(pieces))
        fleet.replace((each.spec for each in endpoints[len(pieces) :]), 0.0)
    for family in text_string_to_metric_families(b"".join(pieces).decode()):
        for sample in family.samples:
            assert sample.value >= 0


@pytest.mark.parametrize(
    "model", ['a"b\\c\nd', "é…", "\udcff", "x" * 5000], ids=["escapes", "unicode", "not", "long"]
)
def test_any_model_name_leaves_a_page_that_can_be_read(model: str) -> None:
    metrics = Metrics()
    serve(metrics, request(model))
    serve(metrics, request(model))
    totals = [count for (name, _), count in page(metrics).items() if name == "llm_d_epp_request_total"]
    assert totals == [2]


@settings(max_examples=30)
@given(values=st.lists(st.floats(0, 1e5), max_size=50))
def test_buckets_are_cumulative_and_end_with_all(values: list[float]) -> None:
    metrics = Metrics()
    for seconds in values:
        serve(metrics, request(), now=10.0 + seconds)
    observed = [(10.0 + seconds) - 10.0 for seconds in values]
    buckets = sorted(buckets_of(metrics, "llm_d_epp_request_duration_seconds_bucket"))
    for bound, count in buckets:
        assert count == sum(seconds <= bound for seconds in observed)
    if values:
        assert buckets[-1] == (math.inf, len(values))
        total = value(metrics, "llm_d_epp_request_duration_seconds_sum", **NEW)
        assert total == pytest.approx(sum(observed))


def buckets_of(metrics: Metrics, name: str) -> Iterator[tuple[float, float]]:
    for (found, labels), count in page(metrics).items():
        if found == name:
            yield float(dict(labels)["le"]), count


class Told:
    """A source with these families."""

    def __init__(self, *families: Family) -> None:
        self._families = families

    def families(self) -> Iterator[Family]:
        yield from self._families


def library_text(family: Family) -> str:
    """What prometheus-client makes of the family."""
    exported: CoreMetric
    if isinstance(family, Histograms):
        exported = HistogramMetricFamily(family.name, family.help, labels=family.labels)
        for labels, histogram in family.values.items():
            bounds = [*map(floatToGoString, histogram.bounds), "+Inf"]
            cumulated = zip(bounds, map(float, accumulate(histogram.counts)), strict=True)
            exported.add_metric(labels, list(cumulated), histogram.total)
    else:
        made = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
        exported = made(family.name, family.help, labels=family.labels)
        for labels, number in family.values.items():
            exported.add_metric(labels, number)
    return generate_latest(cast("Collector", SimpleNamespace(collect=lambda: [exported]))).decode()


def our_text(family: Family) -> str:
    metrics = Metrics()
    metrics.add(Told(family))
    head = f"# HELP {family.name} "
    return head + metrics.page().decode().partition(head)[2].partition("# HELP process_")[0]


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.sampled_from(['"', "\\", "a\nb"])
NAMES = st.sampled_from(["a", "fairness_id", "lb", "lf", "model_name", "namespace", "z"])


@st.composite
def families(draw: st.DrawFn) -> Family:
    labels = tuple(draw(st.lists(NAMES, max_size=4, unique=True)))
    keys = draw(st.lists(st.tuples(*(TEXTS for _ in labels)), min_size=1, max_size=3, unique=True))
    if draw(st.booleans()):
        counted = draw(st.sampled_from([LATENCY, TOKENS, REQUEST_BYTES, HIT_RATIO]))
        histograms = {}
        for key in keys:
            histograms[key] = Histogram(counted)
            for number in draw(st.lists(st.floats(0, 1e12) | st.integers(0, 1 << 40), max_size=5)):
                histograms[key].observe(number)
            histograms[key].counts[3] += draw(st.sampled_from([0, 999_999, 1_000_000, 123_456_789]))
        return Histograms("some_seconds", draw(TEXTS), labels, histograms)
    numbers = {key: draw(st.floats() | st.integers(-(10**18), 10**18)) for key in keys}
    if draw(st.booleans()):
        return Values("some_total", "counter", draw(TEXTS), labels, numbers)
    return Values("some", "gauge", draw(TEXTS), labels, numbers)


@given(family=families())
def test_the_text_is_what_prometheus_client_writes(family: Family) -> None:
    assert our_text(family) == library_text(family)


def test_a_value_on_a_bound_belongs_below_it() -> None:
    histogram = Histogram((1.0, 2.0))
    for observed in (1.0, 1.5, 2.0, 2.5):
        histogram.observe(observed)
    assert histogram.counts == [1, 2, 1]


# --- the pool


def fleet_page(fleet: Fleet, now: float) -> Metrics:
    metrics = Metrics()
    metrics.add(FleetMetrics(lambda: [("pool", fleet)], clock=lambda: now))
    return metrics


def test_unknown_readings_are_left_out_of_averages() -> None:
    fleet = Fleet(stale_after=2.0)
    first, second, third, silent = fleet.replace(
        (EndpointSpec(name=name, ip="10.0.0.1", port=port) for port, name in enumerate("abcd", start=1)), 0.0
    )[0]
    fleet.reading(first, Load(waiting=2, running=1, kv_usage=0.5), 10.0)
    fleet.reading(second, Load(waiting=4, kv_usage=None), 10.0)
    fleet.reading(third, Load(waiting=100), 7.0)
    fleet.answered(silent, 0.0)
    metrics = fleet_page(fleet, 11.0)
    for prefix in ("llm_d_epp", "inference_pool"):
        assert value(metrics, f"{prefix}_average_queue_size", name="pool") == 3
        assert value(metrics, f"{prefix}_average_kv_cache_utilization", name="pool") == 0.5
        assert value(metrics, f"{prefix}_average_running_requests", name="pool") == 1
    assert value(metrics, "llm_d_epp_std_dev_queue_size", name="pool") == 1
    assert value(metrics, "inference_pool_ready_pods", name="pool") == 4
    assert value(metrics, "llm_d_epp_per_endpoint_queue_size", name="pool", model_server_endpoint="a") == 2
    assert value(metrics, "llm_d_epp_per_endpoint_queue_size", name="pool", model_server_endpoint="c") is None
    assert (
        value(metrics, "fleet_epp_reading_age_seconds", pool="pool", namespace="default", endpoint="a") == 1
    )
    assert (
        value(metrics, "fleet_epp_reading_age_seconds", pool="pool", namespace="default", endpoint="c")
        is None
    )


def test_nothing_known_is_no_average_and_no_zero() -> None:
    fleet = Fleet()
    fleet.replace([SPEC], 0.0)
    metrics = fleet_page(fleet, 1.0)
    assert value(metrics, "llm_d_epp_average_queue_size", name="pool") is None
    assert value(metrics, "fleet_epp_endpoint_up", pool="pool", namespace="team", endpoint="gpu-0") is None
    assert value(metrics, "llm_d_epp_ready_endpoints", name="pool") == 0


def test_an_endpoint_shows_whether_it_is_up_and_what_it_carries() -> None:
    fleet = Fleet()
    (endpoint,), *_ = fleet.replace([SPEC], 0.0)
    fleet.lost(endpoint, 0.0, "refused")
    Reservation(endpoint, 30)
    metrics, labels = fleet_page(fleet, 1.0), {"pool": "pool", "namespace": "team", "endpoint": "gpu-0"}
    assert value(metrics, "fleet_epp_endpoint_up", **labels) == 0
    assert value(metrics, "fleet_epp_endpoint_in_flight_requests", **labels) == 1
    assert value(metrics, "fleet_epp_endpoint_in_flight_tokens", **labels) == 30


def test_others_add_single_series() -> None:
    metrics = Metrics()
    metrics.add(
        Single("fleet_epp_held_bytes", "Held.", lambda: 7),
        Single("fleet_epp_lost_total", "Lost.", lambda: 3, kind="counter"),
        Single("absent", "No.", lambda: None),
    )
    metrics.streams.opened()
    assert value(metrics, "fleet_epp_held_bytes") == 7
    assert value(metrics, "fleet_epp_lost_total") == 3
    assert value(metrics, "absent") is None
    assert value(metrics, "llm_d_epp_extproc_streams_inflight") == 1
    metrics.streams.closed()
    assert value(metrics, "llm_d_epp_extproc_streams_inflight") == 0


def test_the_process_itself_is_on_the_page() -> None:
    assert (value(Metrics(), "process_resident_memory_bytes") or 0) > 1e6


# --- several pools on one page


def two_pools() -> tuple[Metrics, Fleet]:
    """Two pools; the second endpoint is in both."""
    fleet = Fleet()
    first, second = fleet.replace(
        (EndpointSpec(name=name, ip="10.0.0.1", port=port) for port, name in enumerate("ab", start=1)), 0.0
    )[0]
    fleet.reading(first, Load(waiting=2), 10.0)
    fleet.reading(second, Load(waiting=4), 10.0)
    metrics = Metrics()
    views = {
        "one": SimpleNamespace(endpoints=[first, second], expire=fleet.expire),
        "two": SimpleNamespace(endpoints=[second], expire=fleet.expire),
    }
    metrics.add(FleetMetrics(lambda: cast("Any", views.items()), clock=lambda: 11.0))
    return metrics, fleet


def test_each_pool_has_its_own_figures() -> None:
    metrics, _ = two_pools()
    for prefix in ("llm_d_epp", "inference_pool"):
        assert value(metrics, f"{prefix}_average_queue_size", name="one") == 3
        assert value(metrics, f"{prefix}_average_queue_size", name="two") == 4
    assert value(metrics, "llm_d_epp_ready_endpoints", name="one") == 2
    assert value(metrics, "inference_pool_ready_pods", name="two") == 1
    for pool in ("one", "two"):
        labels = {"pool": pool, "namespace": "default", "endpoint": "b"}
        assert value(metrics, "fleet_epp_reading_age_seconds", **labels) == 1


def heads(metrics: Metrics) -> list[str]:
    return [line for line in metrics.page().decode().splitlines() if line.startswith(("# HELP", "# TYPE"))]


def observed(*values: float) -> Histogram:
    histogram = Histogram((1.0, 2.0))
    for each in values:
        histogram.observe(each)
    return histogram


def told(pool: str, count: float, *seconds: float) -> Told:
    return Told(
        Values("x_total", "counter", "All.", ("kind",), {("a",): count}),
        Values("x_of_pool_total", "counter", "One pool's.", ("pool",), {(pool,): count}),
        Values("x_now", "gauge", "Now.", (), {(): count}),
        Histograms("x_seconds", "Time.", (), {(): observed(*seconds)}),
    )


def test_what_several_tell_is_one_family() -> None:
    metrics = Metrics()
    metrics.add(told("one", 3, 0.5), told("two", 4, 1.5, 5.0))
    assert len(heads(metrics)) == len(set(heads(metrics)))
    assert value(metrics, "x_total", kind="a") == 7
    assert value(metrics, "x_of_pool_total", pool="one") == 3
    assert value(metrics, "x_of_pool_total", pool="two") == 4
    assert value(metrics, "x_now") == 4, "of gauges the largest"
    buckets = [value(metrics, "x_seconds_bucket", le=bound) for bound in ("1.0", "2.0", "+Inf")]
    assert (buckets, value(metrics, "x_seconds_sum")) == ([1, 2, 3], 7.0)


def test_a_pools_series_go_with_it_and_totals_stay() -> None:
    metrics, one, two = Metrics(), told("one", 3, 0.5), told("two", 4, 1.5)
    metrics.add(one, two)
    metrics.remove(one)
    assert value(metrics, "x_of_pool_total", pool="one") is None
    assert value(metrics, "x_of_pool_total", pool="two") == 4
    assert value(metrics, "x_total", kind="a") == 7, "a counter that fell would look like a restart"
    assert value(metrics, "x_seconds_count") == 2
    metrics.remove(two)
    assert value(metrics, "x_now") is None
    assert value(metrics, "x_total", kind="a") == 7
    metrics.add(told("three", 1))
    assert value(metrics, "x_total", kind="a") == 8


@given(turns=st.lists(st.tuples(st.booleans(), st.integers(0, 5), st.floats(0, 3)), max_size=30))
def test_totals_never_fall_whatever_comes_and_goes(turns: list[tuple[bool, int, float]]) -> None:
    metrics, there, expected = Metrics(), list[Told](), 0
    for comes, count, seconds in turns:
        if comes or not there:
            there.append(told("pool", count, seconds))
            metrics.add(there[-1])
            expected += count
        else:
            metrics.remove(there.pop(count % len(there)))
        found = {family.name: family for family in metrics.families()}
        total = found["x_total"]
        assert isinstance(total, Values) and total.values["a",] == expected


def test_clients_of_former_pools_do_not_make_the_page_grow() -> None:
    metrics, tenants = Metrics(), MAX_LABEL_VALUES // 2
    for pool in range(20):
        labels = [(f"tenant-{pool}-{number}", "a") for number in range(tenants)]
        source = Told(
            Values("x_total", "counter", "All.", ("fairness_id", "kind"), dict.fromkeys(labels, 1.0)),
            Histograms("x_seconds", "Time.", ("fairness_id", "kind"), dict.fromkeys(labels, observed(0.5))),
            Values(
                "x_files_total", "counter", "Files.", ("file",), {(f"{pool}-{n}",): 1.0 for n in range(9)}
            ),
        )
        metrics.add(source)
        metrics.remove(source)
    found = {family.name: family for family in metrics.families()}
    totals, seconds, files = found["x_total"], found["x_seconds"], found["x_files_total"]
    assert isinstance(totals, Values) and isinstance(seconds, Histograms)
    assert len(totals.values) == len(seconds.values) == MAX_LABEL_VALUES + 1
    assert totals.values["other", "a"] == 20 * tenants - MAX_LABEL_VALUES
    assert sum(totals.values.values()) == 20 * tenants
    assert totals.values["tenant-0-0", "a"] == 1
    assert sum(seconds.values["other", "a"].counts) == 20 * tenants - MAX_LABEL_VALUES
    assert len(files.values) == 20 * 9, "clients do not make these"


class OfALatePool(Told):
    """A source of a class that there was none of."""


def test_pools_may_come_and_go_while_the_page_is_written() -> None:
    metrics, staying, going = Metrics(), told("one", 3, 0.5), told("two", 4, 1.5)
    metrics.add(Single("before", "First.", lambda: 1.0), staying, going)
    families = metrics.families()
    seen = []
    for family in families:
        seen.append(family.name)
        if family.name == "before":
            metrics.remove(going)
            metrics.add(told("three", 5, 0.5), OfALatePool(Values("late", "gauge", "Late.", (), {(): 1.0})))
    assert len(seen) == len(set(seen)), "each family once"
    assert "x_total" in seen
    assert "late" not in seen
    assert value(metrics, "late") == 1, "it is on the next page"
    assert value(metrics, "x_total", kind="a") == 12


# --- what a request is at


def test_what_is_in_flight_is_shown_where_it_is_and_whose_it_is() -> None:
    fleet = Fleet()
    first, second = fleet.replace(
        (EndpointSpec(name=name, ip="10.0.0.1", port=port) for port, name in enumerate("ab", start=1)), 0.0
    )[0]
    metrics = Metrics()
    placed = [
        msgspec.structs.replace(decision(first), reservation=Reservation(first, tokens))
        for tokens in (30, 12)
    ]
    alice = request(headers={"x-llm-d-inference-fairness-id": "alice"}, priority=2)
    for each in placed:
        metrics.requests.placed(alice, each, 0.0)
    flow = {"namespace": "default", "producer_name": "inflight-load-producer"}
    flow |= {"fairness_id": "alice", "priority": "2"}
    at_first, at_second = {"endpoint_name": "a", **flow}, {"endpoint_name": "b", **flow}
    assert value(metrics, "llm_d_epp_inflight_requests", **at_first) == 2
    assert value(metrics, "llm_d_epp_inflight_tokens", **at_first) == 42
    placed[0].reservation.move(second)
    placed[1].reservation.prefilled(0.0)
    assert value(metrics, "llm_d_epp_inflight_tokens", **at_first) == 0
    assert value(metrics, "llm_d_epp_inflight_tokens", **at_second) == 30
    for each in placed:
        metrics.requests.finished(Outcome(received_at=1.0, request=alice, decision=each), 2.0)
    assert value(metrics, "llm_d_epp_inflight_requests", **at_first) is None
    assert value(metrics, "llm_d_epp_inflight_requests", **at_second) is None


def test_from_the_first_byte_to_the_pick_is_counted() -> None:
    metrics = Metrics()
    serve(metrics, request(), picked_at=10.25)
    assert value(metrics, "llm_d_epp_request_processing_duration_seconds_sum") == 0.25


@pytest.mark.parametrize(
    "stages, kind",
    [
        ([], "decode-only"),
        (["prefill"], "prefill-decode"),
        (["encode"], "encode-decode"),
        (["encode", "prefill"], "encode-prefill-decode"),
    ],
)
def test_requests_that_several_work_on_are_told_apart(stages: list[str], kind: str) -> None:
    metrics = Metrics()
    metrics.requests.stages = ("mine", "disagg-profile-handler")
    placed = msgspec.structs.replace(decision(), picks={"decode": []}, stages=stages)
    metrics.requests.placed(request(), placed, 0.0)
    old = {"model_name": "m", "decision_type": kind}
    new = {"plugin_name": "mine", "plugin_type": "disagg-profile-handler", **old}
    assert value(metrics, "llm_d_epp_disagg_decision_total", **new) == 1
    assert value(metrics, "llm_d_inference_scheduler_disagg_decision_total", **old) == 1
    is_of_prompts = kind in {"decode-only", "prefill-decode"}
    assert value(metrics, "llm_d_epp_pd_decision_total", **new) == (1 if is_of_prompts else None)


def test_a_handler_without_stages_is_not_counted() -> None:
    metrics = Metrics()
    metrics.requests.stages = ("mine", "header-profile-handler")
    metrics.requests.placed(request(), msgspec.structs.replace(decision(), picks={"decode": []}), 0.0)
    assert not any("decision_total" in line for line in heads(metrics))


@pytest.mark.parametrize(
    "facts, code",
    [
        ({"response_complete": True}, "OK"),
        ({"rejection": NO_CANDIDATES}, "OK"),
        ({"is_unseen": True}, "OK"),
        ({}, "Canceled"),
        ({"is_misused": True}, "InvalidArgument"),
    ],
)
def test_streams_are_counted_by_their_end_where_that_is_wanted(facts: dict[str, Any], code: str) -> None:
    for is_wanted in (True, False):
        metrics = Metrics(times_streams=is_wanted)
        metrics.streams.finished(Outcome(received_at=1.0, ended_at=3.5, **facts))
        count = value(metrics, "llm_d_epp_extproc_streams_total", code=code)
        seconds = value(metrics, "llm_d_epp_extproc_stream_duration_seconds_sum")
        assert (count, seconds) == ((1, 2.5) if is_wanted else (None, None))


def test_what_the_prefix_index_remembers_is_counted_once_for_each_endpoint() -> None:
    metrics, fleet = two_pools()
    assert value(metrics, "llm_d_epp_prefix_indexer_size") is None
    index = PrefixIndex(block_tokens=64, capacity=100, auto_tune=False, contiguous=True)
    for endpoint in fleet.endpoints:
        index.record(endpoint, index.chain(b"x" * 1000, 1, 100))
    for prefix in ("llm_d_epp", "inference_extension"):
        assert value(metrics, f"{prefix}_prefix_indexer_size") == 2 * 4


# --- who hears of a request


def test_a_request_is_told_to_metrics_and_log_and_its_endpoint_is_looked_at(tmp_path: Path) -> None:
    metrics = Metrics()
    kicked: list[Endpoint] = []
    first, second = Endpoint(SPEC), Endpoint(SPEC)
    placed = msgspec.structs.replace(decision(first), endpoints=[first, second])
    with (tmp_path / "log").open("wb") as file:
        reporter = Reporter(
            metrics, RequestLog(LogSettings(encoder=Encoder.JSON), file.fileno()), kicked.append
        )
        reporter.opened()
        reporter.placed(request(), placed, 0.1)
        assert kicked == [first], "the second is a reserve"
        assert value(metrics, "llm_d_epp_request_running", **NEW) == 1
        reporter.placed(request(), NO_CANDIDATES, 0.1)
        assert kicked == [first], "a refused request goes nowhere"
        ended = Outcome(
            received_at=1.0, ended_at=2.0, request=request(), decision=placed, response_complete=True
        )
        reporter.finished(ended)
        assert kicked == [first], "it ended well"
        assert value(metrics, "llm_d_epp_request_total", **NEW) == 1
        assert (tmp_path / "log").read_bytes().count(b"\n") == 1
        assert value(metrics, "llm_d_epp_extproc_streams_inflight") == 1
        reporter.closed()
        assert value(metrics, "llm_d_epp_extproc_streams_inflight") == 0


@pytest.mark.parametrize("facts, looked_at", [({}, True), ({"is_unseen": True}, False)])
def test_an_answer_that_broke_off_has_its_server_looked_at(
    facts: dict[str, bool], looked_at: bool, tmp_path: Path
) -> None:
    kicked: list[Endpoint] = []
    picked, last = Endpoint(SPEC), Endpoint(SPEC)
    placed = decision(picked)
    placed.reservation.move(last)
    with (tmp_path / "log").open("wb") as file:
        log = RequestLog(LogSettings(encoder=Encoder.JSON), file.fileno())
        Reporter(Metrics(), log, kicked.append).finished(
            Outcome(received_at=1.0, ended_at=2.0, request=request(), decision=placed, **facts)
        )
    assert kicked == [last] * looked_at, "where the request was last"
