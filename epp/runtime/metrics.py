"""What the process counts, and the page on which Prometheus reads it.

Place:   told by the server of picks and finished requests; read by epp.runtime.admin.
Ignores: how a request was served. prometheus-client is imported when the page is first read.
Rule:    on the request path only plain lists and dictionaries change: one count feeds every family
         of names under which upstream publishes it; labels and buckets become text when the page is
         read. An unknown value is left out, never a zero.
Source:  names, labels and buckets of GIE v1.5 (``inference_*``) and llm-d-router v0.10 (``llm_d_epp_*``).
"""

import functools
import itertools
import math
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol, TypeVar

from epp.core.budget import Budget
from epp.core.events import Outcome
from epp.core.fleet import Endpoint, Load, Reservation
from epp.core.flow.tenants import DEFAULT_FLOW, fairness_id
from epp.core.lifecycle import Phase
from epp.core.prefix import Held
from epp.core.rejection import Rejection
from epp.core.request import BYTES_PER_TOKEN, Request
from epp.core.scheduling import Decision
from epp.runtime.probe import ScrapeStats
from epp.runtime.side_scrape import SideSource

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
MAX_LABEL_VALUES = 100
"""Model names come from clients: later ones share the series of OTHER, as upstream does after 1000. A
histogram is 28 lines under each of two names, so that a thousand models made a page of 75 MB."""
MAX_LABEL_CHARACTERS = 256
OTHER = "other"
MAX_ATTEMPT_SERIES = 1000
"""Endpoints come and go for months: those that were not picked while so many others were are one, OTHER."""

# Bounds are of the type of what is observed: comparing a float with an int takes twice as long.
LATENCY = (
    *(0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0),
    *(15.0, 20.0, 30.0, 45.0, 60.0, 120.0, 180.0, 240.0, 300.0, 360.0, 480.0, 600.0, 900.0, 1200.0),
    *(1800.0, 2700.0, 3600.0),
)
TTFT = LATENCY[:24]
NTPOT = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
TPOT = (
    *(0.0005, 0.00205, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.125, 0.15, 0.2),
    *(0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 2.0),
)
ITL = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0)
SCHEDULER = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1)
REQUEST_PROCESSING = (
    *(0.0005, 0.001, 0.002, 0.005, 0.01, 0.015, 0.025, 0.04, 0.06, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0),
)
STREAM_SECONDS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
HIT_RATIO = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
HIT_BYTES = (0, *(2**power for power in range(4, 17)))
REQUEST_BYTES = tuple(2**power for power in range(6, 31))
# 32778 is upstream's spelling; a corrected bound would not add up with upstream's series.
TOKENS = (
    *(1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32778),
    *(2**p for p in range(16, 21)),
)
RESPONSE_BYTES = TOKENS[:15]
OUTPUT_TOKENS = TOKENS[:12]

INFLIGHT_PRODUCER = "inflight-load-producer"
DISAGGREGATION = {
    (False, False): "decode-only",
    (False, True): "prefill-decode",
    (True, False): "encode-decode",
    (True, True): "encode-prefill-decode",
}
"""By whether somebody else encodes, and whether somebody else works on the prompt."""
PROMPT_DISAGGREGATION = ("decode-only", "prefill-decode")

Labels = tuple[str, ...]
Numbers = dict[Labels, float]
Kind = Literal["counter", "gauge"]


class Histogram:
    """Counts per bucket (not cumulative until read) and the sum of what was observed."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def add(self, other: "Histogram") -> None:
        """Take in all that another one with the same bounds has observed."""
        self.counts = [a + b for a, b in zip(self.counts, other.counts, strict=True)]
        self.total += other.total


@dataclass(frozen=True, slots=True)
class Values:
    """One family of counters or gauges, as it is at the moment of reading."""

    name: str
    kind: Kind
    help: str
    labels: Labels = ()
    values: Mapping[Labels, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Histograms:
    """One family of histograms, as it is at the moment of reading."""

    name: str
    help: str
    labels: Labels = ()
    values: Mapping[Labels, Histogram] = field(default_factory=dict)


Family = Values | Histograms


class Source(Protocol):
    """Anything that has something to tell Prometheus."""

    def families(self) -> Iterable[Family]: ...


class Single:
    """A series without labels that is asked for its value when the page is read; None leaves it out."""

    __slots__ = ("_read", "help", "kind", "name")

    def __init__(
        self, name: str, help_text: str, read: Callable[[], float | None], *, kind: Kind = "gauge"
    ) -> None:
        self.name, self.help, self.kind, self._read = name, help_text, kind, read

    def families(self) -> Iterable[Family]:
        value = self._read()
        yield Values(self.name, self.kind, self.help, (), {} if value is None else {(): value})


class _Series:
    """All that is counted for one (model, target model, fairness id, priority)."""

    __slots__ = (
        "cached_tokens",
        "duration",
        "errors",
        "flow",
        "input_tokens",
        "itl",
        "ntpot",
        "output_tokens",
        "request_bytes",
        "requests",
        "response_bytes",
        "running",
        "tpot",
        "ttft_streaming",
        "ttft_whole",
    )

    def __init__(self, flow: tuple[str, str]) -> None:
        self.flow = flow  # fairness id and priority
        self.requests = 0
        self.running = 0
        self.errors: dict[str, int] = {}
        self.duration = Histogram(LATENCY)
        self.request_bytes = Histogram(REQUEST_BYTES)
        self.response_bytes = Histogram(RESPONSE_BYTES)
        self.input_tokens = Histogram(TOKENS)
        self.output_tokens = Histogram(OUTPUT_TOKENS)
        self.cached_tokens = Histogram(TOKENS)
        self.ntpot = Histogram(NTPOT)
        self.tpot = Histogram(TPOT)
        self.itl = Histogram(ITL)
        self.ttft_streaming = Histogram(TTFT)
        self.ttft_whole = Histogram(TTFT)

    def failed(self, code: str) -> None:
        self.errors[code] = self.errors.get(code, 0) + 1


_NO_REQUEST = ("", "", DEFAULT_FLOW, "0")
_Attempt = tuple[str, str, str, str, int | str]
"""Status, target model, and the endpoint's name, namespace and port; "" where there is none."""


class RequestMetrics:
    """Everything that is counted per request: ``placed`` with its decision, ``finished`` at its end."""

    def __init__(self) -> None:
        self.stages: tuple[str, str] | None = None
        """Name and type of the profile handler; None: there is none."""
        self._series: dict[tuple[str, str, str, str], _Series] = {}
        self._rewrites: dict[tuple[str, str, str], int] = {}
        self._attempts: dict[_Attempt, float] = {}
        self._attempts_before: dict[_Attempt, float] = {}  # not made again since the others are counted
        self._attempts_gone: dict[_Attempt, float] = {}
        self._targets: set[str] = set()
        self._scheduling = Histogram(SCHEDULER)
        self._hit_ratio = Histogram(HIT_RATIO)
        self._hit_bytes = Histogram(HIT_BYTES)
        self._processing = Histogram(REQUEST_PROCESSING)
        self._last_resorts = 0
        self._open: dict[int, tuple[_Series, Reservation]] = {}  # by the decision's id
        self._stages: dict[tuple[str, str], int] = {}

    def placed(self, request: Request, result: Decision | Rejection, seconds: float) -> None:
        """The scheduler took ``seconds`` for this result. A Decision makes the request a running one."""
        self._scheduling.observe(seconds)
        if request.rewritten_by:
            self._rewritten(request)
        if isinstance(result, Rejection):
            key: _Attempt = ("failure", request.target_model, "", "", "")
        else:
            series = self._of(request)
            series.running += 1
            self._open[id(result)] = series, result.reservation
            if result.stages is not None:
                self._staged(request, result.stages)
            self._last_resorts += bool(result.remark)
            endpoint, match = result.endpoints[0], result.match
            if match is not None and match.total_blocks:
                held = match.blocks.get(endpoint, 0)
                self._hit_ratio.observe(held / match.total_blocks)
                self._hit_bytes.observe(held * match.block_tokens * BYTES_PER_TOKEN)
            spec = endpoint.spec
            key = ("success", request.target_model, spec.name, spec.namespace, spec.port)
        try:
            self._attempts[key] += 1
        except KeyError:
            self._attempted(key)

    def _attempted(self, key: _Attempt) -> None:
        """An attempt whose like is not among the latest."""
        target = as_label(key[1])
        if target not in self._targets and len(self._targets) >= MAX_LABEL_VALUES:
            target = OTHER
        self._targets.add(target)
        key = (key[0], target, *key[2:])
        before = self._attempts_before.pop(key, 0)
        if key not in self._attempts and len(self._attempts) >= MAX_ATTEMPT_SERIES:
            _add_up(self._attempts_gone, self._attempts_before, _of_some_endpoint)
            self._attempts, self._attempts_before = {}, self._attempts
        self._attempts[key] = self._attempts.get(key, 0) + before + 1

    def _rewritten(self, request: Request) -> None:
        key = (request.rewritten_by, as_label(request.payload.model), request.target_model)
        if key not in self._rewrites and len(self._rewrites) >= MAX_LABEL_VALUES:
            key = (request.rewritten_by, OTHER, request.target_model)
        self._rewrites[key] = self._rewrites.get(key, 0) + 1

    def _staged(self, request: Request, stages: Collection[str]) -> None:
        """Where one server can work on the prompt and another on the answer: who does."""
        kind = DISAGGREGATION["encode" in stages, "prefill" in stages]
        key = (request.payload.model, kind)
        if key not in self._stages:
            key = (as_label(key[0]) if len(self._stages) < MAX_LABEL_VALUES else OTHER, kind)
        self._stages[key] = self._stages.get(key, 0) + 1

    def paused(self, request: Request, gaps: Histogram) -> None:
        """Its streamed answer came with these gaps between two pieces."""
        self._of(request).itl.add(gaps)

    def finished(self, outcome: Outcome, now: float) -> None:
        """Count a request that ended ``now`` [s], exactly once, whatever became of it."""
        request = outcome.request
        if request is None and outcome.rejection is None:
            return  # no request phase: nothing is known that upstream's labels could name
        series = self._of(request)
        series.requests += 1
        if request is not None:
            series.request_bytes.observe(request.body_bytes)
        if outcome.decision is not None:
            series.running -= 1
            self._open.pop(id(outcome.decision), None)
            if outcome.picked_at is not None:
                self._processing.observe(outcome.picked_at - outcome.received_at)
        if outcome.rejection is not None:
            series.failed(outcome.rejection.code.spelling)
        elif outcome.error is not None or (outcome.status is not None and outcome.status >= 400):
            series.failed("ModelServerError")
        elif outcome.response_complete:
            self._answered(series, outcome, now - outcome.received_at)

    @staticmethod
    def _answered(series: _Series, outcome: Outcome, duration: float) -> None:
        """A whole, good answer: sizes, times and what the engine counted."""
        series.duration.observe(duration)
        if outcome.response_bytes is not None:  # else its body was not shown: no size, no TTFT
            series.response_bytes.observe(outcome.response_bytes)
            if not outcome.response_streaming:
                series.ttft_whole.observe(duration)
        ttft = None
        if outcome.first_token_at is not None:
            ttft = outcome.first_token_at - outcome.received_at
            series.ttft_streaming.observe(ttft)
        usage = outcome.usage
        if usage is None:
            return
        if usage.prompt_tokens:
            series.input_tokens.observe(usage.prompt_tokens)
        if usage.cached_tokens is not None:
            series.cached_tokens.observe(usage.cached_tokens)
        output = usage.completion_tokens
        if output:
            series.output_tokens.observe(output)
            series.ntpot.observe(duration / output)
            if ttft is not None and output > 1:
                series.tpot.observe((duration - ttft) / (output - 1))

    def _of(self, request: Request | None) -> _Series:
        if request is None:
            key = _NO_REQUEST
        else:
            tenant = fairness_id(request.headers, request.agent)
            key = (request.payload.model, request.target_model, tenant, str(request.priority))
        try:
            return self._series[key]
        except KeyError:
            return self._admit(key)

    def _admit(self, key: tuple[str, str, str, str]) -> _Series:
        """A new label set, or what it shares once there are too many: first its flow, then its model."""
        model, target, fairness, priority = map(as_label, key)
        limits = (
            ((model, target, fairness, priority), MAX_LABEL_VALUES),
            ((model, target, OTHER, priority), 2 * MAX_LABEL_VALUES),
            ((OTHER, OTHER, OTHER, priority), 3 * MAX_LABEL_VALUES),
            ((OTHER, OTHER, OTHER, OTHER), math.inf),
        )
        for candidate, limit in limits:
            known = self._series.get(candidate)
            if known is not None:
                return known
            if len(self._series) < limit:
                break
        created = self._series[candidate] = _Series(candidate[2:])
        return created

    def families(self) -> Iterable[Family]:
        yield from self._counter_families()
        yield from self._histogram_families()
        yield from self._scheduler_families()
        yield from self._work_families()

    def _counter_families(self) -> Iterator[Family]:
        series = self._series.items()
        full = ("model_name", "target_model_name", "fairness_id", "priority")
        requests: Numbers = {key: float(s.requests) for key, s in series}
        running: Numbers = {key: float(s.running) for key, s in series}
        errors: Numbers = {(*key, code): float(n) for key, s in series for code, n in s.errors.items()}
        help_text = "Total number of processed requests."
        yield Values("llm_d_epp_request_total", "counter", help_text, full, requests)
        old = ("model_name", "target_model_name", "priority")
        yield Values(
            "inference_objective_request_total", "counter", help_text, old, _fold(requests, (0, 1, 3))
        )
        help_text = "Total number of request errors."
        yield Values("llm_d_epp_request_error_total", "counter", help_text, (*full, "error_code"), errors)
        old = ("model_name", "target_model_name", "error_code")
        yield Values(
            "inference_objective_request_error_total", "counter", help_text, old, _fold(errors, (0, 1, 4))
        )
        help_text = "Requests that are placed and not ended."
        yield Values("llm_d_epp_request_running", "gauge", help_text, full, running)
        yield Values(
            "inference_objective_running_requests", "gauge", help_text, ("model_name",), _fold(running, (0,))
        )

    def _histogram_families(self) -> Iterator[Family]:
        full = ("model_name", "target_model_name", "fairness_id", "priority")
        for attribute, name, old_name, help_text in _HISTOGRAMS:
            by_labels = _observed({key: getattr(s, attribute) for key, s in self._series.items()})
            yield Histograms(f"llm_d_epp_{name}", help_text, full, by_labels)
            if old_name:
                folded = _fold_histograms(by_labels)
                yield Histograms(f"inference_objective_{old_name}", help_text, full[:2], folded)
        help_text = "Seconds from the request's first byte to the first token; of a whole answer: to its end."
        ttft = _observed({(*key, "true"): s.ttft_streaming for key, s in self._series.items()})
        ttft |= _observed({(*key, "false"): s.ttft_whole for key, s in self._series.items()})
        yield Histograms("llm_d_epp_request_ttft_seconds", help_text, (*full, "streaming"), ttft)
        old = _fold_histograms(ttft)
        yield Histograms("inference_objective_request_ttft_seconds", help_text, full[:2], old)

    def _scheduler_families(self) -> Iterator[Family]:
        for name, help_text, histogram in (
            ("scheduler_e2e_duration_seconds", "Seconds that choosing an endpoint took.", self._scheduling),
            (
                "prefix_indexer_hit_ratio",
                "Part of the prompt that the picked endpoint probably had cached.",
                self._hit_ratio,
            ),
            (
                "prefix_indexer_hit_bytes",
                "Bytes of the prompt that the picked endpoint probably had cached.",
                self._hit_bytes,
            ),
        ):
            for prefix in ("llm_d_epp", "inference_extension"):
                yield Histograms(f"{prefix}_{name}", help_text, (), {(): histogram})
        attempts: Numbers = {}
        for each in (self._attempts_gone, self._attempts_before, self._attempts):
            _add_up(attempts, each, lambda key: (*key[:4], str(key[4])))
        help_text = "Attempts to choose an endpoint."
        for prefix, endpoint in (("llm_d_epp", "endpoint_name"), ("inference_extension", "pod_name")):
            labels = ("status", "target_model_name", endpoint, "namespace", "port")
            yield Values(f"{prefix}_scheduler_attempts_total", "counter", help_text, labels, attempts)
        rewrites: Numbers = {key: float(n) for key, n in self._rewrites.items()}
        help_text = "Requests for which an InferenceModelRewrite chose the model."
        old = ("model_rewrite_name", "model_name", "target_model")
        for prefix in ("llm_d_epp", "inference_extension"):
            yield Values(f"{prefix}_model_rewrite_decisions_total", "counter", help_text, old, rewrites)
        help_text = "Requests that went to the least bad endpoint, since none was fit."
        last_resorts: Numbers = {(): float(self._last_resorts)}
        yield Values("fleet_epp_picks_of_last_resort_total", "counter", help_text, (), last_resorts)
        help_text = "Seconds from a request's first byte until it had an endpoint, its wait included."
        name = "llm_d_epp_request_processing_duration_seconds"
        yield Histograms(name, help_text, (), {(): self._processing})

    def _work_families(self) -> Iterator[Family]:
        """What is at which endpoint now, and how often several work on one request."""
        requests: Numbers = {}
        tokens: Numbers = {}
        for series, reservation in self._open.values():
            spec = reservation.endpoint.spec
            key = (spec.name, spec.namespace, INFLIGHT_PRODUCER, *series.flow)
            requests[key] = requests.get(key, 0.0) + 1
            tokens[key] = tokens.get(key, 0.0) + reservation.tokens
        labels: Labels = ("endpoint_name", "namespace", "producer_name", "fairness_id", "priority")
        help_text = "Requests at each endpoint, by whose they are."
        yield Values("llm_d_epp_inflight_requests", "gauge", help_text, labels, requests)
        help_text = "Prompt tokens at each endpoint that are still to be worked on, by whose they are."
        yield Values("llm_d_epp_inflight_tokens", "gauge", help_text, labels, tokens)
        stages: Numbers = {key: float(count) for key, count in self._stages.items()}
        of_prompts = {key: count for key, count in stages.items() if key[1] in PROMPT_DISAGGREGATION}
        for what, help_text, values in (
            ("disagg", "Requests by the stages that have an endpoint of their own.", stages),
            ("pd", "Requests by whether the prompt has an endpoint of its own.", of_prompts),
        ):
            full = {(*(self.stages or ("", "")), *key): count for key, count in values.items()}
            labels = ("plugin_name", "plugin_type", "model_name", "decision_type")
            yield Values(f"llm_d_epp_{what}_decision_total", "counter", help_text, labels, full)
            name = f"llm_d_inference_scheduler_{what}_decision_total"
            yield Values(name, "counter", help_text, labels[2:], values)


_HISTOGRAMS = (
    ("duration", "request_duration_seconds", "request_duration_seconds", "Seconds from first to last byte."),
    ("request_bytes", "request_size_bytes", "request_sizes", "Size of the request's body."),
    ("response_bytes", "response_size_bytes", "response_sizes", "Size of the response's body."),
    ("input_tokens", "request_input_tokens", "input_tokens", "Prompt tokens, as the server counted them."),
    (
        "output_tokens",
        "request_output_tokens",
        "output_tokens",
        "Generated tokens, as the server counted them.",
    ),
    (
        "cached_tokens",
        "request_cached_tokens",
        "prompt_cached_tokens",
        "Prompt tokens the server had cached.",
    ),
    (
        "ntpot",
        "request_ntpot_seconds",
        "normalized_time_per_output_token_seconds",
        "Duration divided by generated tokens.",
    ),
    ("tpot", "request_streaming_tpot_seconds", "", "Seconds per token after the first, of streamed answers."),
    (
        "itl",
        "request_streaming_itl_seconds",
        "",
        "Seconds between two pieces of a streamed answer, of a sample of the requests.",
    ),
)


def _observed(values: Mapping[tuple[str, ...], Histogram]) -> dict[Labels, Histogram]:
    """As with upstream, a series begins with its first observation."""
    return {labels: histogram for labels, histogram in values.items() if any(histogram.counts)}


def as_label(text: str) -> str:
    """A client's text, fit for the page: not endless, and encodable."""
    return text[:MAX_LABEL_CHARACTERS].encode(errors="replace").decode()


_Key = TypeVar("_Key", bound=tuple[object, ...])
_NewKey = TypeVar("_NewKey", bound=tuple[object, ...])


def _add_up(
    totals: dict[_NewKey, float], counts: Mapping[_Key, float], rename: Callable[[_Key], _NewKey]
) -> None:
    """Add these to ``totals``, under new names."""
    for key, count in counts.items():
        new = rename(key)
        totals[new] = totals.get(new, 0) + count


def _of_some_endpoint(key: _Attempt) -> _Attempt:
    return (*key[:2], OTHER, "", "") if key[2] else key


def _fold(values: Mapping[Labels, float], keep: tuple[int, ...]) -> Numbers:
    """Sum over the labels that an older family does not have."""
    folded: Numbers = {}
    _add_up(folded, values, lambda labels: tuple(labels[index] for index in keep))
    return folded


def _fold_histograms(values: Mapping[Labels, Histogram]) -> dict[Labels, Histogram]:
    """The same for histograms: what remains is (model, target model)."""
    return _added_up(values, lambda labels: labels[:2])


def _added_up(
    values: Mapping[Labels, Histogram], rename: Callable[[Labels], Labels]
) -> dict[Labels, Histogram]:
    """The sums of those that get the same new name."""
    totals: dict[Labels, Histogram] = {}
    for labels, histogram in values.items():
        new = rename(labels)
        total = totals.get(new)
        if total is None:
            total = totals[new] = Histogram(histogram.bounds)
        total.add(histogram)
    return totals


class StreamMetrics:
    """Streams that gateways hold open to us, one per request in progress.

    ``is_timed``: their ends are counted and timed (--enable-grpc-stream-metrics).
    """

    __slots__ = ("_ends", "_seconds", "inflight", "is_timed")

    def __init__(self, *, is_timed: bool = False) -> None:
        self.inflight = 0
        self.is_timed = is_timed
        self._ends: dict[str, int] = {}
        self._seconds = Histogram(STREAM_SECONDS)

    def opened(self) -> None:
        self.inflight += 1

    def closed(self) -> None:
        self.inflight -= 1

    def finished(self, outcome: Outcome) -> None:
        """A stream that brought a message has ended."""
        code = "Canceled"  # the client left, mostly
        if outcome.response_complete or outcome.is_unseen or outcome.rejection is not None:
            code = "OK"
        elif outcome.is_misused:
            code = "InvalidArgument"
        self._ends[code] = self._ends.get(code, 0) + 1
        self._seconds.observe(outcome.ended_at - outcome.received_at)

    def families(self) -> Iterable[Family]:
        help_text = "ext_proc streams that are open now."
        yield Values("llm_d_epp_extproc_streams_inflight", "gauge", help_text, (), {(): float(self.inflight)})
        if not self.is_timed:
            return
        help_text = "ext_proc streams that have ended; Canceled: before the answer was complete."
        ends: Numbers = {(code,): float(count) for code, count in self._ends.items()}
        yield Values("llm_d_epp_extproc_streams_total", "counter", help_text, ("code",), ends)
        help_text = "Seconds from an ext_proc stream's first message to the end of its request."
        yield Histograms("llm_d_epp_extproc_stream_duration_seconds", help_text, (), {(): self._seconds})


class PoolEndpoints(Protocol):
    """What is asked of a pool: a Fleet."""

    @property
    def endpoints(self) -> Sequence[Endpoint]: ...

    def expire(self, now: float) -> None: ...


class FleetMetrics:
    """The pools as they are when the page is read.

    ``pools``: each with its title, the value of upstream's label ``name``; asked with every page.
    """

    def __init__(
        self, pools: Callable[[], Iterable[tuple[str, PoolEndpoints]]], *, clock: Callable[[], float]
    ) -> None:
        self._pools = pools
        self._clock = clock

    def families(self) -> Iterable[Family]:
        now = self._clock()
        endpoints: dict[str, Sequence[Endpoint]] = {}
        for title, pool in self._pools():
            pool.expire(now)
            endpoints[title] = pool.endpoints
        fresh = {title: [e for e in each if e.load_at is not None] for title, each in endpoints.items()}
        yield from _average(
            "kv_cache_utilization", "fraction of the KV cache in use", fresh, lambda load: load.kv_usage
        )
        yield from _average(
            "queue_size", "number of requests waiting in a server", fresh, lambda load: load.waiting
        )
        yield from _average(
            "running_requests", "number of requests a server works on", fresh, lambda load: load.running
        )
        ready: Numbers = {
            (title,): float(sum(e.lifecycle.is_serving for e in each)) for title, each in endpoints.items()
        }
        help_text = "Endpoints that take requests."
        for name in ("llm_d_epp_ready_endpoints", "inference_pool_ready_pods"):
            yield Values(name, "gauge", help_text, ("name",), ready)
        yield from _queue_sizes(fresh)
        yield from _prefix_sizes(endpoints)
        yield from _endpoint_families(endpoints, now)


_ByPool = Mapping[str, Sequence[Endpoint]]


def _average(
    what: str, meaning: str, fresh: _ByPool, reading: Callable[[Load], float | None]
) -> Iterator[Family]:
    average: Numbers = {}
    spread: Numbers = {}
    for title, endpoints in fresh.items():
        known = [value for e in endpoints if (value := reading(e.load)) is not None]
        if known:
            mean = average[title,] = math.fsum(known) / len(known)
            spread[title,] = math.sqrt(math.fsum((k - mean) ** 2 for k in known) / len(known))
    help_text = f"Average {meaning}, over the endpoints that tell it."
    for prefix in ("llm_d_epp", "inference_pool"):
        yield Values(f"{prefix}_average_{what}", "gauge", help_text, ("name",), average)
    help_text = f"Standard deviation of the {meaning}."
    yield Values(f"llm_d_epp_std_dev_{what}", "gauge", help_text, ("name",), spread)


def _queue_sizes(fresh: _ByPool) -> Iterator[Family]:
    sizes: Numbers = {}
    for title, endpoints in fresh.items():
        for endpoint in endpoints:
            if endpoint.load.waiting is not None:  # names repeat across namespaces; the label has no room
                key = (title, endpoint.name)
                sizes[key] = sizes.get(key, 0.0) + endpoint.load.waiting
    help_text = "Requests waiting in each server."
    for name, label in (
        ("llm_d_epp_per_endpoint_queue_size", "model_server_endpoint"),
        ("inference_pool_per_pod_queue_size", "model_server_pod"),
    ):
        yield Values(name, "gauge", help_text, ("name", label), sizes)


def _prefix_sizes(by_pool: _ByPool) -> Iterator[Family]:
    every = {id(endpoint): endpoint for endpoints in by_pool.values() for endpoint in endpoints}
    held = [each for e in every.values() for each in e.memory.values() if isinstance(each, Held)]
    sizes: Numbers = {(): float(sum(each.size for each in held))} if held else {}
    help_text = "Pieces of prompts that are remembered, over all endpoints."
    for prefix in ("llm_d_epp", "inference_extension"):
        yield Values(f"{prefix}_prefix_indexer_size", "gauge", help_text, (), sizes)


def _endpoint_families(by_pool: _ByPool, now: float) -> Iterator[Family]:
    """Each endpoint of each pool; one that pools share is there with each of them."""
    keyed = [
        ((title, e.spec.namespace, e.name), e) for title, endpoints in by_pool.items() for e in endpoints
    ]
    labels = ("pool", "namespace", "endpoint")

    def gauge(name: str, help_text: str, values: Numbers) -> Family:
        return Values(f"fleet_epp_{name}", "gauge", help_text, labels, values)

    yield gauge(
        "endpoint_up",
        "1: the server takes requests, 0: it does not; absent while it is pending.",
        {key: float(e.lifecycle.is_serving) for key, e in keyed if e.lifecycle.phase is not Phase.PENDING},
    )
    yield Values(
        "fleet_epp_endpoint_phase",
        "gauge",
        "1 for the phase that an endpoint is in; the others are left out.",
        (*labels, "phase"),
        {(*key, e.lifecycle.phase.value): 1.0 for key, e in keyed},
    )
    yield gauge(
        "endpoint_in_flight_requests",
        "Requests that were sent there and have not ended.",
        {key: float(e.requests_in_flight) for key, e in keyed},
    )
    yield gauge(
        "endpoint_in_flight_tokens",
        "Prompt tokens sent there and not yet known to be processed (estimated).",
        {key: float(e.tokens_in_flight) for key, e in keyed},
    )
    yield gauge(
        "reading_age_seconds",
        "Age of the last load reading; absent when there is none that counts.",
        {key: max(now - e.load_at, 0.0) for key, e in keyed if e.load_at is not None},  # read meanwhile: 0
    )


class ScrapeMetrics:
    """How reading the endpoints goes."""

    def __init__(self, stats: ScrapeStats, sides: Sequence[SideSource] = ()) -> None:
        self._stats = stats
        self._sides = sides

    def families(self) -> Iterable[Family]:
        stats = self._stats
        results: Numbers = {(result,): float(count) for result, count in stats.results.items()}
        help_text = "Looks at an endpoint's metrics, by result."
        yield Values("fleet_epp_scrapes_total", "counter", help_text, ("result",), results)
        help_text = "Time that looks took, added up over all of them."
        yield Values("fleet_epp_scrape_seconds_total", "counter", help_text, (), {(): stats.seconds})
        source, extractor = "metrics-data-source", "core-metrics-extractor"
        help_text = "Looks that brought no metrics page."
        polls: Numbers = {(source,): float(stats.poll_errors)}
        polls |= {(each.name,): float(each.stats.poll_errors) for each in self._sides}
        yield Values("llm_d_epp_datalayer_poll_errors_total", "counter", help_text, ("source_type",), polls)
        help_text = "Metrics pages without the engine's series."
        extracts: Numbers = {(source, extractor): float(stats.extract_errors)}
        for each in self._sides:
            extracts[each.name, each.extractor] = float(each.stats.extract_errors)
        labels = ("source_type", "extractor_type")
        yield Values("llm_d_epp_datalayer_extract_errors_total", "counter", help_text, labels, extracts)


class BufferMetrics:
    """Request bodies that wait in memory for their end."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget

    def families(self) -> Iterable[Family]:
        for name, help_text, value in (
            ("buffered_bytes", "Request body bytes held now.", self._budget.used),
            ("buffered_bytes_limit", "Request body bytes that may be held.", self._budget.limit),
        ):
            yield Values(f"fleet_epp_{name}", "gauge", help_text, (), {(): float(value)})


class Metrics:
    """Everything on the page. ``add`` what has something to tell; the first two are always there."""

    def __init__(self, *, version: str = "", times_streams: bool = False) -> None:
        self.requests = RequestMetrics()
        self.streams = StreamMetrics(is_timed=times_streams)
        self._version = version
        self._sources: dict[type[Source], list[Source]] = {}
        self._past: dict[type[Source], dict[str, Family]] = {}

    def add(self, *sources: Source) -> None:
        """Several of one class (each pool's) have each family once on the page. No two classes share one, so
        that one alone can be read piece by piece: 1,000 endpoints at once would take 3 ms."""
        for source in sources:
            self._sources.setdefault(type(source), []).append(source)

    def remove(self, *sources: Source) -> None:
        """A pool's series go with it. What was counted under no pool's name stays: a total never falls."""
        for source in sources:
            self._sources[type(source)].remove(source)
            totals = (each for each in source.families() if _is_total(each))
            past = self._past.get(type(source), {})
            merged = _merged([*past.values(), *totals])
            self._past[type(source)] = {name: _limited(family) for name, family in merged.items()}

    def families(self) -> Iterator[Family]:
        told = [(tuple(each), self._past.get(kind, {})) for kind, each in self._sources.items()]
        return self._families(told)  # sources come and go while the page is written

    def _families(self, told: Iterable[tuple[Sequence[Source], Mapping[str, Family]]]) -> Iterator[Family]:
        help_text = "The build that is running."
        labels = ("commit", "build_ref")
        values: Numbers = {("", f"fleet-epp-{self._version}"): 1.0}
        for prefix in ("llm_d_epp", "inference_extension"):
            yield Values(f"{prefix}_info", "gauge", help_text, labels, values)
        yield from self.requests.families()
        yield from self.streams.families()
        for sources, past in told:
            present = (family for source in sources for family in source.families())
            is_alone = len(sources) == 1 and not past
            yield from present if is_alone else _merged(itertools.chain(present, past.values())).values()

    def pages(self) -> Iterator[bytes]:
        """The page in pieces."""
        return pages(self.families())

    def page(self) -> bytes:
        """The whole page."""
        return b"".join(self.pages())


_POOL_LABELS = frozenset({"pool", "name", "inference_pool"})


def _is_total(family: Family) -> bool:
    """What only grows, and belongs to no pool."""
    grows = isinstance(family, Histograms) or family.kind == "counter"
    return grows and not _POOL_LABELS.intersection(family.labels)


_CLIENT_LABELS = frozenset({"fairness_id", "model_name", "priority", "target_model_name"})
"""Their values come from clients."""


def _limited(family: Family) -> Family:
    """What clients of former pools have brought must not grow with every pool: later ones become OTHER."""
    if len(family.values) <= MAX_LABEL_VALUES:
        return family
    of_clients = [name in _CLIENT_LABELS for name in family.labels]
    kept = set(itertools.islice(family.values, MAX_LABEL_VALUES))

    def renamed(labels: Labels) -> Labels:
        if labels in kept:
            return labels
        pairs = zip(labels, of_clients, strict=True)
        return tuple(OTHER if is_of_client else value for value, is_of_client in pairs)

    if isinstance(family, Values):
        numbers: Numbers = {}
        _add_up(numbers, family.values, renamed)
        return replace(family, values=numbers)
    return replace(family, values=_added_up(family.values, renamed))


def _merged(families: Iterable[Family]) -> dict[str, Family]:
    """One family for each name. The same series of several adds up; of gauges the largest is shown."""
    merged: dict[str, Family] = {}
    for family in families:
        known = merged.get(family.name)
        merged[family.name] = family if known is None else _both(known, family)
    return merged


def _both(one: Family, other: Family) -> Family:
    if isinstance(one, Histograms) and isinstance(other, Histograms):
        histograms = dict(one.values)
        for labels, histogram in other.values.items():
            if labels in histograms:
                total = Histogram(histogram.bounds)
                total.add(histograms[labels])
                total.add(histogram)
                histogram = total  # noqa: PLW2901 (either is what is shown)
            histograms[labels] = histogram
        return replace(one, values=histograms)
    assert isinstance(one, Values) and isinstance(other, Values), one.name
    numbers = dict(one.values)
    for labels, number in other.values.items():
        before = numbers.get(labels)
        if before is not None:
            number = before + number if one.kind == "counter" else max(before, number)  # noqa: PLW2901
        numbers[labels] = number
    return replace(one, values=numbers)


# --- the text: what prometheus-client's generate_latest writes, in a tenth of its time. It takes 2.5 ms for
# the histograms of one model, and clients can bring about two hundred.

PIECE_CHARACTERS = 1 << 15
"""Of the page at a time: less than 1 ms."""


def pages(families: Iterable[Family]) -> Iterator[bytes]:
    """The text of ``families`` in pieces, so that a reader on the event loop can let others in between."""
    from prometheus_client import ProcessCollector, generate_latest  # noqa: PLC0415 (70 ms, see above)

    held: list[str] = []
    size = 0
    for text in itertools.chain.from_iterable(map(_texts, families)):
        held.append(text)
        size += len(text)
        if size >= PIECE_CHARACTERS:
            yield "".join(held).encode()
            held, size = [], 0
    yield "".join(held).encode() + generate_latest(ProcessCollector(registry=None))


def _texts(family: Family) -> Iterator[str]:
    """The family's head and then each of its series; nothing if it has no values."""
    if not family.values:
        return
    kind = "histogram" if isinstance(family, Histograms) else family.kind
    help_text = family.help.replace("\\", "\\\\").replace("\n", "\\n")
    yield f"# HELP {family.name} {help_text}\n# TYPE {family.name} {kind}\n"
    if isinstance(family, Histograms):
        for values, histogram in family.values.items():
            yield _histogram_text(family.name, dict(zip(family.labels, values, strict=True)), histogram)
        return
    alphabetical = sorted((label, position) for position, label in enumerate(family.labels))
    for values, number in family.values.items():
        pairs = [f'{label}="{_escaped(values[position])}"' for label, position in alphabetical]
        yield f"{family.name}{_braced(pairs)} {_number(number)}\n"


def _histogram_text(name: str, labels: Mapping[str, str], histogram: Histogram) -> str:
    """All lines of one series; ``le`` has its place in the alphabet, as every other label."""
    pairs = {label: f'{label}="{_escaped(labels[label])}"' for label in sorted(labels)}
    before = "".join(f"{pair}," for label, pair in pairs.items() if label < "le")
    after = "".join(f",{pair}" for label, pair in pairs.items() if label > "le")
    head, tail = f'{name}_bucket{{{before}le="', f'"{after}}} '
    cumulated = list(itertools.accumulate(histogram.counts))
    lines = [
        f"{head}{bound}{tail}{_number(count)}\n"
        for bound, count in zip(_bound_texts(histogram.bounds), cumulated, strict=True)
    ]
    braced = _braced(pairs.values())
    lines.append(f"{name}_count{braced} {_number(cumulated[-1])}\n")
    lines.append(f"{name}_sum{braced} {_number(histogram.total)}\n")
    return "".join(lines)


def _braced(pairs: Collection[str]) -> str:
    return f"{{{','.join(pairs)}}}" if pairs else ""


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _number(value: float) -> str:
    """As Go writes it: ``1.0``, ``1.048576e+06``; Python turns to exponents later."""
    if 0 <= value < 1e6:
        return repr(float(value))
    from prometheus_client.utils import floatToGoString  # noqa: PLC0415 (70 ms, see above)

    return str(floatToGoString(value))  # type: ignore[no-untyped-call]


@functools.cache
def _bound_texts(bounds: tuple[float, ...]) -> tuple[str, ...]:
    return (*map(_number, bounds), "+Inf")
