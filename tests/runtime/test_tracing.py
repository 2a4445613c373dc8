"""Which requests get spans, what these say, and what goes on to the server."""

import random
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.trace import SpanKind, StatusCode

from epp.core.events import Outcome
from epp.core.fleet import Endpoint, EndpointSpec, Reservation
from epp.core.rejection import NO_CANDIDATES
from epp.core.request import Payload, Request
from epp.core.response_reader import Usage
from epp.core.scheduling import Decision
from epp.core.watching import Step
from epp.runtime import tracing
from epp.runtime.errors import StartError
from epp.runtime.tracing import Sampling, TraceSettings, Tracing, parent_of, settings_of

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED, UNSAMPLED = f"00-{TRACE}-{SPAN}-01", f"00-{TRACE}-{SPAN}-00"


# --- what the environment asks for


@pytest.mark.parametrize(
    "environment, expected",
    [
        pytest.param({}, None, id="nothing"),
        pytest.param({"OTEL_TRACES_SAMPLER": "always_on"}, None, id="a sampler alone"),
        pytest.param({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "x"}, None, id="none"),
        pytest.param({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_SDK_DISABLED": "true"}, None, id="disabled"),
        pytest.param(
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4317"},
            TraceSettings("otlp", "OTEL_EXPORTER_OTLP_ENDPOINT"),
            id="an endpoint alone",
        ),
        pytest.param(
            {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"},
            TraceSettings("otlp", "OTEL_TRACES_EXPORTER", "http/protobuf"),
            id="HTTP",
        ),
        pytest.param(
            {"OTEL_TRACES_EXPORTER": "console", "OTEL_TRACES_SAMPLER": "always_on"},
            TraceSettings("console", "OTEL_TRACES_EXPORTER", sampling=Sampling(1.0, by_parent=False)),
            id="all on the console",
        ),
        pytest.param(
            {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_TRACES_SAMPLER_ARG": "0.25"},
            TraceSettings("otlp", "OTEL_TRACES_EXPORTER", sampling=Sampling(0.25)),
            id="another ratio",
        ),
    ],
)
def test_spans_are_off_until_an_exporter_is_named(
    environment: dict[str, str], expected: TraceSettings | None
) -> None:
    assert settings_of(environment) == expected


@pytest.mark.parametrize(
    "name, value, said",
    [
        ("OTEL_TRACES_EXPORTER", "zipkin", "use otlp, console or none"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json", "use grpc or http/protobuf"),
        ("OTEL_TRACES_SAMPLER", "sometimes", "there are always_on, always_off and traceidratio"),
        ("OTEL_TRACES_SAMPLER_ARG", "1.5", "must be from 0 to 1"),
        ("OTEL_TRACES_SAMPLER_ARG", "nan", "must be from 0 to 1"),
        ("OTEL_TRACES_SAMPLER_ARG", "a tenth", "must be from 0 to 1"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_its_remedy(name: str, value: str, said: str) -> None:
    with pytest.raises(StartError) as refused:
        settings_of({"OTEL_TRACES_EXPORTER": "otlp", name: value})
    assert (
        str(refused.value).startswith(f"{name}: ")
        and said in str(refused.value)
        and value in str(refused.value)
    )


def test_a_missing_extra_is_one_line_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "opentelemetry.sdk.resources", None)
    with pytest.raises(StartError, match=r"OTEL_TRACES_EXPORTER.*pip install 'fleet-epp\[otel\]'"):
        tracing.start(
            TraceSettings("otlp", "OTEL_TRACES_EXPORTER"),
            {},
            version="1",
            chance=random.Random(1),
            clock=float,
            unix_clock=float,
        )


# --- the context


@pytest.mark.parametrize(
    "header, expected",
    [
        pytest.param(SAMPLED, (int(TRACE, 16), int(SPAN, 16), True), id="sampled"),
        pytest.param(UNSAMPLED, (int(TRACE, 16), int(SPAN, 16), False), id="not sampled"),
        pytest.param(f"cc-{TRACE}-{SPAN}-03-more", (int(TRACE, 16), int(SPAN, 16), True), id="later version"),
        pytest.param(f"00-{TRACE}-{SPAN}-01-more", None, id="too much for this version"),
        pytest.param(f"ff-{TRACE}-{SPAN}-01", None, id="no version"),
        pytest.param(f"00-{'0' * 32}-{SPAN}-01", None, id="no trace"),
        pytest.param(f"00-{TRACE}-{'0' * 16}-01", None, id="no span"),
        pytest.param(SAMPLED.upper(), None, id="upper case"),
        pytest.param("", None, id="empty"),
    ],
)
def test_a_traceparent_is_read_as_the_specification_says(
    header: str, expected: tuple[int, int, bool] | None
) -> None:
    assert parent_of(header) == expected


@given(header=st.text(max_size=80) | st.from_regex(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}.?"))
def test_no_traceparent_breaks_anything(header: str) -> None:
    parent = parent_of(header)
    if parent is not None:
        assert f"{parent[0]:032x}-{parent[1]:016x}" in header


@given(
    trace_id=st.integers(1, (1 << 128) - 1),
    ratio=st.floats(0, 1),
    parent=st.none() | st.booleans(),
    by_parent=st.booleans(),
)
def test_a_sender_decides_where_it_may(
    trace_id: int, ratio: float, parent: bool | None, by_parent: bool
) -> None:
    from opentelemetry.sdk.trace.sampling import TraceIdRatioBased

    taken = Sampling(ratio, by_parent).takes(trace_id, parent)
    if parent is not None and by_parent:
        assert taken is parent
    else:  # the same requests as every other service with this ratio
        theirs = TraceIdRatioBased(ratio).should_sample(None, trace_id, "")
        assert taken is theirs.decision.is_sampled()


# --- requests


class Collected(list[ReadableSpan]):
    """Spans as an exporter gets them."""

    def write(self, spans: Iterable[ReadableSpan]) -> None:
        self.extend(spans)

    def named(self, name: str) -> ReadableSpan:
        (found,) = [span for span in self if span.name == name]
        return found


def traced(collected: Collected, ratio: float = 1.0, clock: Callable[[], float] = lambda: 10.0) -> Tracing:
    return Tracing(
        Sampling(ratio),
        collected.write,
        resource=Resource({}),
        chance=random.Random(1),
        clock=clock,
        unix_clock=lambda: 1_000_000.0 + clock(),
    )


def asked(**headers: str) -> Request:
    return Request(id="r", headers=headers, payload=Payload(model="m"), target_model="t", priority=3)


def decided(**headers: str | None) -> Decision:
    endpoint = Endpoint(EndpointSpec(name="gpu-0", ip="10.0.0.1", port=8000))
    return Decision(
        endpoints=[endpoint],
        reservation=Reservation(endpoint, 1),
        candidates=[endpoint],
        scores={},
        totals=[1.0],
        headers=headers or None,
    )


STEPS = [
    Step("", "PrepareData", "tokens", "token-producer", 11.0, 11.1),
    Step("decode", "Filter", "alive", "lifecycle-filter", 11.1, 11.2),
    Step("decode", "Scorer", "queue", "queue-scorer", 11.2, 11.3),
    Step("decode", "Scorer", "kv", "kv-cache-utilization-scorer", 11.3, 11.4),
    Step("decode", "Picker", "best", "max-score-picker", 11.4, 11.5),
]


def test_a_request_becomes_a_tree_of_spans() -> None:
    spans = Collected()
    tracing, request = traced(spans), asked(traceparent=SAMPLED)
    assert tracing.begin(request)
    result = tracing.chosen(request, decided(), STEPS)
    assert isinstance(result, Decision)
    tracing.finished(
        Outcome(
            received_at=9.0,
            request=request,
            decision=result,
            status=200,
            first_token_at=12.0,
            ended_at=13.0,
            response_complete=True,
            usage=Usage(100, 20, 50),
        )
    )
    parents = {span.context.span_id: span.name for span in spans}
    assert {span.name: parents.get(span.parent.span_id) if span.parent else None for span in spans} == {
        "gateway.request": None,
        "gateway.request_orchestration": "gateway.request",
        "run_scheduler_profile": "gateway.request_orchestration",
        "filter_endpoints": "run_scheduler_profile",
        "llm_d.epp.scoring": "run_scheduler_profile",
        "llm_d.epp.scorer.queue-scorer": "llm_d.epp.scoring",
        "llm_d.epp.scorer.kv-cache-utilization-scorer": "llm_d.epp.scoring",
        "pick_endpoints": "run_scheduler_profile",
    }
    root = spans.named("gateway.request")
    assert root.parent is not None and root.parent.is_remote and f"{root.parent.span_id:016x}" == SPAN
    assert {f"{span.context.trace_id:032x}" for span in spans} == {TRACE}
    assert (root.start_time, root.end_time) == (1_000_009 * 10**9, 1_000_013 * 10**9)
    assert dict(root.attributes or {}) == {
        "gen_ai.request.model": "m",
        "request_id": "r",
        "http.response.status_code": 200,
        "llm_d.epp.endpoint": "gpu-0",
        "gen_ai.usage.input_tokens": 100,
        "gen_ai.usage.output_tokens": 20,
    }
    assert [(event.name, event.timestamp) for event in root.events] == [("first token", 1_000_012 * 10**9)]
    scoring = spans.named("llm_d.epp.scoring")
    assert (scoring.start_time, scoring.end_time) == (10_000_112 * 10**8, 10_000_114 * 10**8)
    assert {span.name for span in spans if span.kind is SpanKind.SERVER} == {"gateway.request"}
    assert {span.status.status_code for span in spans} == {StatusCode.UNSET}
    assert {
        span.name: dict(span.attributes or {}) for span in spans if span is not root and span.attributes
    } == {
        "gateway.request_orchestration": {"target_model": "t", "request_prio": 3},
        "run_scheduler_profile": {"profile": "decode"},
        "llm_d.epp.scorer.queue-scorer": {"plugin": "queue"},
        "llm_d.epp.scorer.kv-cache-utilization-scorer": {"plugin": "kv"},
    }


def test_the_decision_lasts_until_it_is_made() -> None:
    spans, now = Collected(), [10.0]
    tracing, request = traced(spans, clock=lambda: now[0]), asked()
    tracing.begin(request)
    now[0] = 11.0
    tracing.chosen(request, decided(), [])
    now[0] = 13.0
    tracing.finished(Outcome(received_at=9.0, request=request, ended_at=13.0))
    span = spans.named("gateway.request_orchestration")
    assert (span.start_time, span.end_time) == (1_000_010 * 10**9, 1_000_011 * 10**9)


def test_a_profile_has_spans_of_what_was_done_for_it_and_no_others() -> None:
    spans = Collected()
    tracing, request = traced(spans), asked()
    tracing.begin(request)
    tracing.chosen(request, NO_CANDIDATES, STEPS[:2])
    tracing.finished(Outcome(received_at=9.0, request=request, rejection=NO_CANDIDATES))
    assert [span.name for span in spans][2:] == ["run_scheduler_profile", "filter_endpoints"]


def test_the_server_hears_of_our_span_beside_all_else_that_is_said() -> None:
    spans = Collected()
    tracing, request = traced(spans), asked(traceparent=SAMPLED, baggage="a=b")
    tracing.begin(request)
    result = tracing.chosen(request, decided(**{"x-other": "1", "x-away": None}), [])
    assert isinstance(result, Decision) and result.headers is not None
    tracing.finished(Outcome(received_at=9.0, request=request, decision=result))
    ours = spans.named("gateway.request").context.span_id
    assert result.headers == {
        "x-other": "1",
        "x-away": None,
        "traceparent": f"00-{TRACE}-{ours:016x}-01",
    }


@pytest.mark.parametrize("headers", [{"traceparent": UNSAMPLED}, {}, {"traceparent": "rubbish"}])
def test_of_what_is_not_sampled_nothing_is_kept(headers: dict[str, str]) -> None:
    spans = Collected()
    tracing, request = traced(spans, ratio=0.0), asked(**headers)
    assert not tracing.begin(request)
    tracing.finished(Outcome(received_at=9.0, request=request))
    assert spans == []


def test_a_request_without_a_parent_begins_a_trace_of_its_own() -> None:
    spans = Collected()
    tracing = traced(spans)
    for request in (asked(), asked()):
        tracing.begin(request)
        tracing.chosen(request, decided(), [])
        tracing.finished(Outcome(received_at=9.0, request=request))
    first, second = [span for span in spans if span.name == "gateway.request"]
    assert first.parent is None and first.context.trace_id != second.context.trace_id


@pytest.mark.parametrize(
    "facts, status, said",
    [
        pytest.param({"rejection": NO_CANDIDATES}, 503, NO_CANDIDATES.message, id="refused"),
        pytest.param({"status": 503}, 503, "status 503", id="the server failed"),
        pytest.param({"status": 200, "error": "out of memory"}, 200, "out of memory", id="an error in a 200"),
        pytest.param({"status": 404}, 404, None, id="the client was wrong"),
    ],
)
def test_what_went_wrong_is_the_spans_status(facts: dict[str, Any], status: int, said: str | None) -> None:
    spans = Collected()
    tracing, request = traced(spans), asked()
    tracing.begin(request)
    result = NO_CANDIDATES if "rejection" in facts else decided()
    assert (tracing.chosen(request, result, []) is result) is ("rejection" in facts)
    tracing.finished(Outcome(received_at=9.0, request=request, **facts))
    root, decision = spans.named("gateway.request"), spans.named("gateway.request_orchestration")
    assert root.attributes and root.attributes["http.response.status_code"] == status
    assert root.status.description == said
    assert root.status.status_code is (StatusCode.ERROR if said else StatusCode.UNSET)
    assert decision.status.description == (said if "rejection" in facts else None), "not what came later"


def test_requests_that_never_end_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "MAX_OPEN", 3)
    spans = Collected()
    made = traced(spans)
    requests = [asked() for _ in range(5)]
    for request in requests:
        made.begin(request)
    told = []
    for request in requests:
        before = len(spans)
        made.finished(Outcome(received_at=9.0, request=request))
        told.append(len(spans) > before)
    assert told == [False, False, True, True, True], "the oldest are forgotten"


# --- the SDK


class Exporter(SpanExporter):
    """Keeps what it gets, or never comes back with it until it is shut down."""

    def __init__(self, *, is_stuck: bool = False) -> None:
        self.spans: list[ReadableSpan] = []
        self.may_end, self.is_shut_down = threading.Event(), threading.Event()
        if not is_stuck:
            self.may_end.set()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.spans += spans
        self.may_end.wait()
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        self.is_shut_down.set()
        self.may_end.set()


def exported(exporter: Exporter, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """One request's spans by way of the SDK, which is stopped."""
    monkeypatch.setattr(tracing, "_exporter", lambda settings: exporter)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    made = tracing.start(
        TraceSettings("otlp", "OTEL_TRACES_EXPORTER", sampling=Sampling(1.0)),
        environment,
        version="1.2",
        chance=random.Random(1),
        clock=lambda: 10.0,
        unix_clock=lambda: 10.0,
    )
    request = asked()
    made.begin(request)
    made.finished(Outcome(received_at=9.0, request=request))
    made.stop()


@pytest.mark.parametrize(
    "environment, name",
    [
        pytest.param({}, tracing.SERVICE, id="ours"),
        pytest.param({"OTEL_SERVICE_NAME": "mine"}, "mine", id="named"),
        pytest.param({"OTEL_RESOURCE_ATTRIBUTES": "a=b,service.name=mine"}, "mine", id="an attribute"),
    ],
)
def test_spans_say_whose_they_are(
    environment: dict[str, str], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    exporter = Exporter()
    exported(exporter, environment, monkeypatch)
    assert exporter.spans
    for span in exporter.spans:
        said = span.resource.attributes
        assert (said["service.name"], said["service.version"]) == (name, "1.2")


def test_a_collector_that_never_answers_does_not_hold_up_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "STOP_SECONDS", 0.01)
    exporter = Exporter(is_stuck=True)
    exported(exporter, {}, monkeypatch)
    assert exporter.is_shut_down.is_set(), "the SDK would wait for it"


@pytest.mark.parametrize(
    "settings, module",
    [
        (TraceSettings("console", "x"), "opentelemetry.sdk.trace.export"),
        (TraceSettings("otlp", "x"), "opentelemetry.exporter.otlp.proto.grpc.trace_exporter"),
        (
            TraceSettings("otlp", "x", "http/protobuf"),
            "opentelemetry.exporter.otlp.proto.http.trace_exporter",
        ),
    ],
    ids=["console", "grpc", "http"],
)
def test_spans_go_where_it_says(settings: TraceSettings, module: str) -> None:
    exporter = tracing._exporter(settings)
    assert type(exporter).__module__ == module
    exporter.shutdown()
