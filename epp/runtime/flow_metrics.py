"""What flow control counts, for Prometheus.

Place:   told by epp.core.flow.control and epp.runtime.flow; asks the queues when the page is read.
Rule:    as epp.runtime.metrics: plain dictionaries while requests pass, bounded labels, upstream's names.
Source:  names, labels and buckets of llm-d-router v0.10 (``llm_d_epp_*``) and GIE v1.5
         (``inference_extension_*``).
"""

import math
from collections.abc import Callable, Iterable, Iterator
from itertools import islice

from epp.core.flow.control import Fate, FlowControl
from epp.core.flow.policies import Programs, Staleness
from epp.core.flow.queues import Ticket
from epp.runtime.metrics import (
    MAX_LABEL_VALUES,
    OTHER,
    SCHEDULER,
    Family,
    Histogram,
    Histograms,
    Labels,
    Numbers,
    Values,
    as_label,
)

QUEUE_SECONDS = (
    *(0.0001, 0.0005, 0.001, 0.005, 0.01, 0.025, 0.05, 0.1),
    *(0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0),
)
PREFIXES = ("llm_d_epp", "inference_extension")
_Flow = tuple[str, str, str, str]
"""Fairness id, priority, model, target model."""
_ALL_OTHERS: _Flow = (OTHER, OTHER, OTHER, OTHER)


class FlowMetrics:
    """Counts for one pool, ``pool``; ``watch`` says whose queues are shown."""

    def __init__(self, pool: str, clock: Callable[[], float]) -> None:
        self._pool = pool
        self._clock = clock
        self._control: FlowControl | None = None
        self._waits: dict[tuple[_Flow, Fate], Histogram] = {}
        self._outcomes: dict[tuple[int, Fate], int] = {}
        self._flows: dict[_Flow, None] = {}
        self._cycles = Histogram(SCHEDULER)
        self._arrivals: dict[tuple[str, str, str], Histogram] = {}

    def watch(self, control: FlowControl) -> None:
        """Its queues are those that are shown."""
        self._control = control

    # --- told while requests pass

    def left(self, ticket: Ticket, fate: Fate, waited: float) -> None:
        """A request's stay has ended so."""
        key = (ticket.priority, fate)
        self._outcomes[key] = self._outcomes.get(key, 0) + 1
        flow = self._known(ticket)
        histogram = self._waits.get((flow, fate))
        if histogram is None:
            histogram = self._waits[flow, fate] = Histogram(QUEUE_SECONDS)
        histogram.observe(waited)

    def arrived(self, ticket: Ticket, seconds: float) -> None:
        """It took so long to place it, or to have it wait."""
        flow = self._known(ticket)
        key = (flow[0], flow[1], "NotYetFinalized" if ticket.is_waiting else "Finalized")
        histogram = self._arrivals.get(key)
        if histogram is None:
            histogram = self._arrivals[key] = Histogram(SCHEDULER)
        histogram.observe(seconds)

    def turned(self, seconds: float) -> None:
        """A look at the queues took so long."""
        self._cycles.observe(seconds)

    def _known(self, ticket: Ticket) -> _Flow:
        """Its labels; from now on they are on the page."""
        flow = self._flow(ticket)
        self._flows[flow] = None
        return flow

    def _flow(self, ticket: Ticket) -> _Flow:
        """Its labels, or what it shares with others once there are too many."""
        request = ticket.request
        flow = (ticket.tenant, str(ticket.priority), request.payload.model, request.target_model)
        if flow not in self._flows:
            flow = (as_label(flow[0]), flow[1], as_label(flow[2]), as_label(flow[3]))
            if flow not in self._flows and len(self._flows) >= MAX_LABEL_VALUES:
                flow = _ALL_OTHERS
        return flow

    # --- the page

    def families(self) -> Iterable[Family]:
        outcomes: Numbers = {
            (fate.value, str(priority), self._pool): float(count)
            for (priority, fate), count in self._outcomes.items()
        }
        help_text = "Requests that went through flow control, by what became of them."
        labels: Labels = ("outcome", "priority", "inference_pool")
        yield Values("llm_d_epp_flow_control_requests_total", "counter", help_text, labels, outcomes)
        labels = (
            *("fairness_id", "priority", "outcome"),
            *("inference_pool", "model_name", "target_model_name"),
        )
        waits: dict[Labels, Histogram] = {
            (flow[0], flow[1], fate.value, self._pool, flow[2], flow[3]): histogram
            for (flow, fate), histogram in self._waits.items()
        }
        help_text = "Seconds from a request's arrival in flow control until it had a server or was given up."
        for prefix in PREFIXES:
            yield Histograms(
                f"{prefix}_flow_control_request_queue_duration_seconds", help_text, labels, waits
            )
        labels = ("fairness_id", "priority", "outcome")
        arrivals: dict[Labels, Histogram] = dict(self._arrivals.items())
        help_text = "Seconds that it took to place an arriving request or to have it wait."
        for prefix in PREFIXES:
            name = f"{prefix}_flow_control_request_enqueue_duration_seconds"
            yield Histograms(name, help_text, labels, arrivals)
        help_text = "Seconds that a look at the queues took, with all that it placed."
        for prefix in PREFIXES:
            yield Histograms(
                f"{prefix}_flow_control_dispatch_cycle_duration_seconds", help_text, (), {(): self._cycles}
            )
        if self._control is not None:
            yield from self._queues(self._control)
            yield from self._saturation(self._control)
            yield from _programs(self._control)

    def _queues(self, control: FlowControl) -> Iterator[Family]:
        size: Numbers = {(*flow[:2], self._pool, *flow[2:]): 0.0 for flow in self._flows}  # 0 scales down
        held = dict(size)
        shares: tuple[Numbers, Numbers] = ({}, {})
        for band in control.bands:
            for ticket in band.by_arrival:
                flow = self._flow(ticket)
                key = (*flow[:2], self._pool, *flow[2:])
                size[key] = size.get(key, 0.0) + 1
                held[key] = held.get(key, 0.0) + ticket.request.body_bytes
            of_band = (str(band.priority), self._pool)
            shares[0][of_band] = len(band) / band.settings.max_requests
            shares[1][of_band] = band.bytes / band.settings.max_bytes
        labels = ("fairness_id", "priority", "inference_pool", "model_name", "target_model_name")
        for prefix in PREFIXES:
            help_text = "Requests that wait in flow control."
            yield Values(f"{prefix}_flow_control_queue_size", "gauge", help_text, labels, size)
        for prefix in PREFIXES:
            help_text = "Bytes of the bodies of requests that wait in flow control."
            yield Values(f"{prefix}_flow_control_queue_bytes", "gauge", help_text, labels, held)
        settings = control.settings
        for what, values, used, limit in (
            ("requests", shares[0], control.waiting, settings.max_requests),
            ("bytes", shares[1], control.waiting_bytes, settings.max_bytes),
        ):
            help_text = f"Part of a band's limit of {what} that is taken."
            name = f"llm_d_epp_flow_control_capacity_utilization_{what}"
            yield Values(name, "gauge", help_text, ("priority", "inference_pool"), values)
            help_text = f"Part of the limit of {what} over all bands that is taken; absent without a limit."
            whole: Numbers = {(self._pool,): used / limit} if limit < math.inf else {}
            name = f"llm_d_epp_flow_control_global_capacity_utilization_{what}"
            yield Values(name, "gauge", help_text, ("inference_pool",), whole)

    def _saturation(self, control: FlowControl) -> Iterator[Family]:
        now = self._clock()
        value = control.saturation(now)
        help_text = "How full the pool is: 1 is full, and what waits goes on waiting; nobody in service is 1."
        name = "flow_control_pool_saturation"
        labels: Labels = ("inference_pool", "stage")
        yield Values(f"llm_d_epp_{name}", "gauge", help_text, labels, {(self._pool, "effective"): value})
        yield Values(
            f"inference_extension_{name}", "gauge", help_text, ("inference_pool",), {(self._pool,): value}
        )
        settings = control.settings
        if isinstance(settings.detector, Staleness):
            count = settings.detector.stale(control.serving, now)
            stale: Numbers = {(settings.detector_name,): float(count)}
            help_text = (
                "Endpoints in service whose load is unknown or too old although their engine tells it."
            )
            yield Values("llm_d_epp_flow_control_stale_endpoints", "gauge", help_text, ("detector",), stale)


def _programs(control: FlowControl) -> Iterator[Family]:
    """Of the first policy in use that shows them."""
    policies = [band.settings.fairness for band in control.bands]
    policy = next((each for each in policies if isinstance(each, Programs)), None)
    if policy is None:
        return
    shown = tuple(islice(policy.programs.items(), MAX_LABEL_VALUES))
    help_text = "How equal the tenants' average waits are: 1 equal, 1/n one of n alone waits."
    name = "llm_d_epp_program_aware_jains_fairness_index"
    yield Values(name, "gauge", help_text, (), {(): policy.jains_index()})
    waits: Numbers = {(as_label(name),): 1000 * each.average_wait for name, each in shown}
    help_text = "Average wait of a tenant's requests that got a server, in milliseconds."
    name = "llm_d_epp_program_aware_avg_wait_time_milliseconds"
    yield Values(name, "gauge", help_text, ("program_id",), waits)
    services: Numbers = {(as_label(name),): each.service for name, each in shown}
    help_text = "Weighted tokens that a tenant got lately."
    name = "llm_d_epp_program_aware_attained_service_tokens"
    yield Values(name, "gauge", help_text, ("program_id",), services)
