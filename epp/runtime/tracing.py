"""Spans of some requests, for OpenTelemetry; off unless the environment names an exporter.

Place:   asked by epp.runtime.measuring ahead of each decision, told by epp.runtime.reporting of each end.
Ignores: how spans travel: that is the SDK's (the extra ``otel``), imported only if there is an exporter.
Rule:    a request that is not sampled pays for reading one header. What is sampled is noted as plain values,
         and becomes spans when the request is over. Context that came with a request always goes on with it;
         where a span is recorded, the request's ``traceparent`` names that span.
Source:  span names of llm-d-router v0.10; W3C Trace Context; OpenTelemetry's environment variables, with
         upstream's defaults for sampler and service name.
"""

import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from epp.core.events import Outcome
from epp.core.rejection import Rejection
from epp.core.request import Request
from epp.core.scheduling import Decision
from epp.core.watching import Step
from epp.runtime.errors import StartError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.trace import SpanContext

HEADER = "traceparent"
SERVICE = "llm-d-epp"
SCOPE = "fleet-epp"
USUAL_SAMPLER, USUAL_RATIO = "parentbased_traceidratio", 0.1
MISSING = (
    "OpenTelemetry is not installed, and the environment asks for spans ({variable}): "
    "pip install 'fleet-epp[otel]', or --tracing=false"
)
STOP_SECONDS = 2.0
MAX_OPEN = 10_000
"""Requests under way of which spans are made; the oldest of more is forgotten."""
_PARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-((?!0{32})[0-9a-f]{32})-((?!0{16})[0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?"
)
_LOW = (1 << 64) - 1


# --- settings


@dataclass(frozen=True, slots=True)
class Sampling:
    """Which requests get spans: those whose sender says so (``by_parent``), of the others a part."""

    ratio: float = USUAL_RATIO
    by_parent: bool = True

    def takes(self, trace_id: int, parent: bool | None) -> bool:
        """``parent``: what the sender decided; None: there is no such sender."""
        if parent is not None and self.by_parent:
            return parent
        return (trace_id & _LOW) < round(self.ratio * (1 << 64))


@dataclass(frozen=True, slots=True)
class TraceSettings:
    """Where spans go, and of which requests."""

    exporter: str
    """``otlp`` or ``console``."""
    variable: str
    """The one that asks for it, for errors."""
    protocol: str = "grpc"
    """``grpc`` or ``http/protobuf``."""
    sampling: Sampling = field(default_factory=Sampling)


def settings_of(environment: Mapping[str, str]) -> TraceSettings | None:
    """What the environment asks for; None: no spans. Raises StartError for what cannot be meant."""

    def value(name: str) -> str:
        return environment.get(name, "").strip()

    if value("OTEL_SDK_DISABLED").lower() == "true":
        return None
    endpoints = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
    variable, exporter = "OTEL_TRACES_EXPORTER", value("OTEL_TRACES_EXPORTER")
    if not exporter:
        named = next((name for name in endpoints if value(name)), None)
        if named is None:
            return None
        variable, exporter = named, "otlp"
    if exporter == "none":
        return None
    if exporter not in ("otlp", "console"):
        raise StartError(f'OTEL_TRACES_EXPORTER: "{exporter}" is not known: use otlp, console or none')
    protocols = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
    at = next((name for name in protocols if value(name)), protocols[-1])
    protocol = value(at) or "grpc"
    if protocol not in ("grpc", "http/protobuf"):
        raise StartError(f'{at}: "{protocol}" is not known: use grpc or http/protobuf')
    return TraceSettings(
        exporter,
        variable,
        protocol,
        _sampling(value("OTEL_TRACES_SAMPLER"), value("OTEL_TRACES_SAMPLER_ARG")),
    )


def _sampling(sampler: str, argument: str) -> Sampling:
    sampler = sampler or USUAL_SAMPLER
    by_parent = sampler.startswith("parentbased_")
    kind = sampler.removeprefix("parentbased_")
    if kind in ("always_on", "always_off"):
        return Sampling(float(kind == "always_on"), by_parent)
    if kind != "traceidratio":
        known = "always_on, always_off and traceidratio, each also with parentbased_ ahead of it"
        raise StartError(f'OTEL_TRACES_SAMPLER: "{sampler}" is not known: there are {known}')
    try:
        ratio = float(argument or USUAL_RATIO)
    except ValueError:
        ratio = -1.0
    if not 0.0 <= ratio <= 1.0:
        raise StartError(f'OTEL_TRACES_SAMPLER_ARG: must be from 0 to 1, got "{argument}"')
    return Sampling(ratio, by_parent)


def parent_of(header: str) -> tuple[int, int, bool] | None:
    """Trace, span and whether it is sampled, as a ``traceparent`` says; None: it says nothing."""
    found = _PARENT.fullmatch(header)
    if found is None or (header.startswith("00") and len(header) > 55):  # only later versions may say more
        return None
    return int(found[1], 16), int(found[2], 16), bool(int(found[3], 16) & 1)


# --- requests


class Bits(Protocol):
    """The part of ``random.Random`` that is used."""

    def getrandbits(self, k: int, /) -> int: ...


class _Trace:
    """What is noted of one request until it is over."""

    __slots__ = ("began", "ended", "parent", "request", "span_id", "steps", "trace_id")

    def __init__(
        self,
        request: Request,
        trace_id: int,
        span_id: int,
        parent: tuple[int, int, bool] | None,
        began: float,
    ) -> None:
        self.request = request  # kept, so that its id stays its own
        self.trace_id = trace_id
        self.span_id = span_id
        self.parent = parent
        self.began = self.ended = began
        self.steps: Sequence[Step] = ()


class Tracing:
    """``write``: takes each finished request's spans."""

    def __init__(
        self,
        sampling: Sampling,
        write: Callable[[Iterable["ReadableSpan"]], None],
        *,
        resource: Any,
        chance: Bits,
        clock: Callable[[], float],
        unix_clock: Callable[[], float],
        stop: Callable[[], None] = lambda: None,
    ) -> None:
        self._sampling = sampling
        self._write = write
        self._resource = resource
        self._chance = chance
        self._clock = clock
        self._unix_clock = unix_clock
        self.stop = stop
        """Send what is left; may take STOP_SECONDS."""
        self._open: dict[int, _Trace] = {}

    # --- told while the request is under way

    def begin(self, request: Request) -> bool:
        """Whether there will be spans of it."""
        header = request.headers.get(HEADER)
        parent = parent_of(header) if header else None
        trace_id = parent[0] if parent else self._chance.getrandbits(128) or 1
        if not self._sampling.takes(trace_id, parent[2] if parent else None):
            return False
        key = id(request)
        if key not in self._open:
            if len(self._open) >= MAX_OPEN:
                del self._open[next(iter(self._open))]
            span_id = self._chance.getrandbits(64) or 1
            self._open[key] = _Trace(request, trace_id, span_id, parent, self._clock())
        return True

    def chosen(
        self, request: Request, result: Decision | Rejection, steps: Sequence[Step]
    ) -> Decision | Rejection:
        """The decision, with the span's name on the request's way to its server."""
        trace = self._open[id(request)]
        trace.steps, trace.ended = steps, self._clock()
        if isinstance(result, Rejection):
            return result
        named = f"00-{trace.trace_id:032x}-{trace.span_id:016x}-01"
        return msgspec.structs.replace(result, headers={**(result.headers or {}), HEADER: named})

    def finished(self, outcome: Outcome) -> None:
        """The request is over: its spans can be written."""
        trace = self._open.pop(id(outcome.request), None)
        if trace is not None:
            self._write(self._spans(trace, outcome))

    # --- spans

    def _spans(self, trace: _Trace, outcome: Outcome) -> Iterator["ReadableSpan"]:
        """The outer ones first."""
        to_unix = self._unix_clock() - self._clock()
        make = _SpanMaker(trace, self._resource, self._chance, to_unix)
        request = trace.request
        root = make.root(outcome)
        yield root
        rejection = outcome.rejection
        orchestration = make.span(
            "gateway.request_orchestration",
            root,
            (trace.began, trace.ended),
            {"target_model": request.target_model, "request_prio": request.priority},
            error=rejection.message if rejection is not None else None,
        )
        yield orchestration
        for name in dict.fromkeys(step.profile for step in trace.steps if step.profile):
            yield from make.profile(name, orchestration)


class _SpanMaker:
    """Makes one request's spans."""

    def __init__(self, trace: _Trace, resource: Any, chance: Bits, to_unix: float) -> None:
        from opentelemetry import trace as api  # noqa: PLC0415 (an extra)
        from opentelemetry.sdk import trace as sdk  # noqa: PLC0415
        from opentelemetry.sdk.util.instrumentation import InstrumentationScope  # noqa: PLC0415

        self._trace, self._resource, self._chance, self._to_unix = trace, resource, chance, to_unix
        self._api, self._sdk = api, sdk
        self._scope = InstrumentationScope(SCOPE)

    def root(self, outcome: Outcome) -> "ReadableSpan":
        """The request, from its first byte here to its last."""
        trace, request = self._trace, self._trace.request
        decision, usage, rejection = outcome.decision, outcome.usage, outcome.rejection
        attributes: dict[str, Any] = {
            "gen_ai.request.model": request.payload.model,
            "request_id": request.id,
            "http.response.status_code": rejection.status if rejection is not None else outcome.status,
            "llm_d.epp.endpoint": decision.reservation.endpoint.name if decision is not None else None,
            "gen_ai.usage.input_tokens": usage.prompt_tokens if usage is not None else None,
            "gen_ai.usage.output_tokens": usage.completion_tokens if usage is not None else None,
        }
        parent = None
        if trace.parent is not None:
            parent = self._context(*trace.parent[:2], is_remote=True, sampled=trace.parent[2])
        error = outcome.error
        if rejection is not None:
            error = rejection.message
        elif outcome.status is not None and outcome.status >= 500:
            error = error or f"status {outcome.status}"
        events = []
        if outcome.first_token_at is not None:
            events.append(self._sdk.Event("first token", timestamp=self._at(outcome.first_token_at)))
        return self._make(
            "gateway.request",
            self._context(trace.trace_id, trace.span_id),
            parent,
            (outcome.received_at, outcome.ended_at),
            attributes=attributes,
            error=error,
            events=events,
            kind="SERVER",
        )

    def profile(self, name: str, parent: "ReadableSpan") -> Iterator["ReadableSpan"]:
        """One scheduling profile, and what was done for it."""
        steps = [step for step in self._trace.steps if step.profile == name]
        whole = self._around("run_scheduler_profile", parent, steps, {"profile": name})
        yield whole
        for point, span_name in (("Filter", "filter_endpoints"), ("Scorer", "llm_d.epp.scoring")):
            of_point = [step for step in steps if step.point == point]
            if of_point:
                stage = self._around(span_name, whole, of_point)
                yield stage
                if point == "Scorer":
                    for step in of_point:
                        named = {"plugin": step.plugin}
                        yield self._around(f"llm_d.epp.scorer.{step.plugin_type}", stage, [step], named)
        picks = [step for step in steps if step.point == "Picker"]
        if picks:
            yield self._around("pick_endpoints", whole, picks)

    def _around(
        self,
        name: str,
        parent: "ReadableSpan",
        steps: Sequence[Step],
        attributes: Mapping[str, Any] | None = None,
    ) -> "ReadableSpan":
        return self.span(name, parent, (steps[0].began, steps[-1].ended), attributes or {})

    def span(
        self,
        name: str,
        parent: "ReadableSpan",
        between: tuple[float, float],
        attributes: Mapping[str, Any],
        *,
        error: str | None = None,
    ) -> "ReadableSpan":
        """A part of another one."""
        context = self._context(self._trace.trace_id, self._chance.getrandbits(64) or 1)
        return self._make(name, context, parent.context, between, attributes=attributes, error=error)

    def _make(
        self,
        name: str,
        context: "SpanContext",
        parent: "SpanContext | None",
        between: tuple[float, float],
        *,
        attributes: Mapping[str, Any],
        error: str | None,
        events: Sequence[Any] = (),
        kind: str = "INTERNAL",
    ) -> "ReadableSpan":
        api = self._api
        status = api.Status() if error is None else api.Status(api.StatusCode.ERROR, error)
        return self._sdk.ReadableSpan(
            name,
            context=context,
            parent=parent,
            resource=self._resource,
            attributes={key: value for key, value in attributes.items() if value not in (None, "")},
            events=events,
            kind=api.SpanKind[kind],
            status=status,
            start_time=self._at(between[0]),
            end_time=self._at(between[1]),
            instrumentation_scope=self._scope,
        )

    def _context(
        self, trace_id: int, span_id: int, *, is_remote: bool = False, sampled: bool = True
    ) -> "SpanContext":
        return self._api.SpanContext(trace_id, span_id, is_remote, self._api.TraceFlags(int(sampled)))

    def _at(self, monotonic: float) -> int:
        return int((monotonic + self._to_unix) * 1e9)


# --- the SDK


def start(
    settings: TraceSettings,
    environment: Mapping[str, str],
    *,
    version: str,
    chance: Bits,
    clock: Callable[[], float],
    unix_clock: Callable[[], float],
) -> Tracing:
    """Spans as ``settings`` says, sent by a thread of the SDK. Raises StartError where that is missing."""
    try:
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415 (0.1 s, and an extra)
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

        exporter = _exporter(settings)
    except ImportError as missing:
        raise StartError(MISSING.format(variable=settings.variable)) from missing
    attributes = {"service.version": version}
    is_named = environment.get("OTEL_SERVICE_NAME") or "service.name=" in environment.get(
        "OTEL_RESOURCE_ATTRIBUTES", ""
    )
    if not is_named:
        attributes["service.name"] = SERVICE
    processor = BatchSpanProcessor(exporter)

    def write(spans: Iterable["ReadableSpan"]) -> None:
        for span in spans:
            processor.on_end(span)

    def stop() -> None:
        # Of its own the SDK waits for half a minute for a collector that is gone.
        last = threading.Thread(target=processor.shutdown, name="the last spans", daemon=True)
        last.start()
        last.join(STOP_SECONDS)
        if last.is_alive():
            exporter.shutdown()

    return Tracing(
        settings.sampling,
        write,
        resource=Resource.create(attributes),
        chance=chance,
        clock=clock,
        unix_clock=unix_clock,
        stop=stop,
    )


def _exporter(settings: TraceSettings) -> Any:
    if settings.exporter == "console":
        from opentelemetry.sdk.trace.export import ConsoleSpanExporter  # noqa: PLC0415

        return ConsoleSpanExporter()
    if settings.protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import (  # noqa: PLC0415
            OTLPSpanExporter as ByGrpc,
        )

        return ByGrpc()
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415

    return OTLPSpanExporter()
