"""What is measured of a sample of the requests: plugins, gaps in streamed answers, work on responses."""

import math
import random
from collections.abc import Sequence
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from epp.config.picker_config import build, load, load_default
from epp.core.fleet import EndpointSpec, Fleet, Load
from epp.core.rejection import Rejection
from epp.core.request import Payload, Request
from epp.core.scheduling import Decision, Scheduler
from epp.core.stream import State
from epp.core.watching import Step, type_of
from epp.runtime.calls import CallFailed, Code
from epp.runtime.measuring import SECONDS_BETWEEN, Measuring
from epp.runtime.metrics import Metrics
from epp.runtime.plugins import load_types


class Clock:
    """Stands until it is moved. ``tick`` [s]: or goes on by so much whenever somebody looks."""

    def __init__(self, tick: float = 0.0) -> None:
        self.now = 100.0
        self.tick = tick

    def __call__(self) -> float:
        self.now += self.tick
        return self.now


def samples(metrics: Metrics, name: str) -> dict[tuple[str, ...], float]:
    """By label values, in the labels' alphabetical order."""
    return {
        tuple(value for _, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(metrics.page().decode())
        for sample in family.samples
        if sample.name == name
    }


# --- plugins


def fleet() -> Fleet:
    made = Fleet(stale_after=1e9)
    made.replace((EndpointSpec(name=f"e{n}", ip="10.0.0.1", port=8000 + n) for n in range(3)), 0.0)
    for number, endpoint in enumerate(made.endpoints):
        made.reading(endpoint, Load(waiting=number, running=number, kv_usage=number / 10), 0.0)
    return made


def scheduler(config: str = "") -> Scheduler:
    assembly = build(load(config, "config") if config else load_default(), load_types())
    return Scheduler(
        fleet(),
        assembly.profile,
        assembly.producers,
        chance=random.Random(1),
        others=assembly.others,
        handler=assembly.handler,
    )


def asked(number: int = 0) -> Request:
    return Request(id=f"r{number}", payload=Payload(model="m", prompt=b"x" * 500), target_model="m")


class Noted:
    """Traces every request, or none."""

    def __init__(self, *, wants: bool = True) -> None:
        self.wants = wants
        self.steps: list[Sequence[Step]] = []

    def begin(self, request: Request) -> bool:
        return self.wants

    def chosen(
        self, request: Request, result: Decision | Rejection, steps: Sequence[Step]
    ) -> Decision | Rejection:
        self.steps.append(steps)
        return result


def test_every_plugin_of_a_measured_decision_has_its_time() -> None:
    metrics, clock = Metrics(), Clock()
    measuring = Measuring(metrics.requests, clock)
    metrics.add(measuring)
    chooser = measuring.scheduler(scheduler())
    for number in range(5):
        chooser.pick(asked(number), clock.now)  # the first is measured
    clock.now += SECONDS_BETWEEN
    chooser.pick(asked(), clock.now)
    for prefix in ("llm_d_epp", "inference_extension"):
        counts = samples(metrics, f"{prefix}_plugin_duration_seconds_count")
        assert counts["Picker", "max-score-picker", "max-score-picker"] == 2
        assert counts["PrepareData", "approx-prefix-cache-producer", "approx-prefix-cache-producer"] == 2
        assert counts["PreRequest", "approx-prefix-cache-producer", "approx-prefix-cache-producer"] == 2
        assert counts["Scorer", "queue-scorer", "queue-scorer"] == 1, "it stands until the fleet changes"
        assert {point for point, _, _ in counts} == {
            "Filter",
            "Scorer",
            "Picker",
            "PrepareData",
            "PreRequest",
        }


def test_a_measured_decision_is_the_same_decision() -> None:
    plain, watched = scheduler(), scheduler()
    measured = Measuring(Metrics().requests, Clock(), traces=Noted()).scheduler(watched)
    for number in range(50):
        one, other = plain.pick(asked(number), float(number)), measured.pick(asked(number), float(number))
        assert isinstance(one, Decision) and isinstance(other, Decision)
        assert [each.name for each in one.endpoints] == [each.name for each in other.endpoints]
        assert dict(one.scores) == dict(other.scores) and one.totals == other.totals
        assert (one.match is None) == (other.match is None)
    assert len(watched.recent) == 50, "/debug/picks shows measured picks as well"


def test_the_time_of_a_plugin_is_from_its_beginning_to_its_end() -> None:
    metrics, clock = Metrics(), Clock(tick=0.001)
    measuring = Measuring(metrics.requests, clock)
    metrics.add(measuring)
    measuring.scheduler(scheduler()).pick(asked(), clock.now)
    sums = samples(metrics, "llm_d_epp_plugin_duration_seconds_sum")
    assert sums["Picker", "max-score-picker", "max-score-picker"] == pytest.approx(0.001)
    assert all(0.0005 < seconds < 0.1 for seconds in sums.values()), sums


def test_of_a_request_that_nobody_traces_nobody_hears() -> None:
    metrics, noted = Metrics(), Noted(wants=False)
    measuring = Measuring(metrics.requests, Clock(), traces=noted, seconds=math.inf)
    metrics.add(measuring)
    assert isinstance(measuring.scheduler(scheduler()).pick(asked(), 100.0), Decision)
    assert noted.steps == []
    assert samples(metrics, "llm_d_epp_plugin_duration_seconds_count") == {}


def test_traced_decisions_are_measured_no_oftener_than_others() -> None:
    metrics, clock, noted = Metrics(), Clock(), Noted()
    measuring = Measuring(metrics.requests, clock, traces=noted)
    metrics.add(measuring)
    chooser = measuring.scheduler(scheduler())
    for part in (0.0, 0.6, 0.6, 0.6):
        clock.now += part * SECONDS_BETWEEN
        chooser.pick(asked(), clock.now)  # the first is measured, and the third
    assert len(noted.steps) == 4
    counts = samples(metrics, "llm_d_epp_plugin_duration_seconds_count")
    assert counts["Picker", "max-score-picker", "max-score-picker"] == 2


def test_what_a_plugin_raises_passes_and_its_time_is_known() -> None:
    class Broken:
        def filter(self, cycle: object, endpoints: object) -> Any:
            raise RuntimeError("broken")

    metrics, clock = Metrics(), Clock(tick=0.001)
    measuring = Measuring(metrics.requests, clock)
    metrics.add(measuring)
    profile = build(load_default(), load_types()).profile
    object.__setattr__(profile, "filters", (("mine", Broken()),))
    chooser = measuring.scheduler(Scheduler(fleet(), profile, chance=random.Random(1)))
    for _ in range(3):
        with pytest.raises(RuntimeError, match="broken"):
            chooser.pick(asked(), 100.0)
    assert samples(metrics, "llm_d_epp_plugin_duration_seconds_count") == {("Filter", "mine", "broken"): 1}
    (seconds,) = samples(metrics, "llm_d_epp_plugin_duration_seconds_sum").values()
    assert seconds == pytest.approx(0.001)


STAGES = """
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
- {type: queue-scorer}
- {type: max-score-picker}
- {type: always-disagg-pd-decider}
- type: disagg-profile-handler
  parameters: {deciders: {prefill: always-disagg-pd-decider}}
schedulingProfiles:
- name: decode
  plugins: [{pluginRef: queue-scorer}, {pluginRef: max-score-picker}]
- name: prefill
  plugins: [{pluginRef: queue-scorer}, {pluginRef: max-score-picker}]
"""


def test_the_steps_of_several_profiles_are_told_apart() -> None:
    noted = Noted()
    Measuring(Metrics().requests, Clock(), traces=noted).scheduler(scheduler(STAGES)).pick(asked(), 0.0)
    (steps,) = noted.steps
    picks = [step.profile for step in steps if step.point == "Picker"]
    assert picks == ["decode", "prefill"]


def test_a_type_is_known_by_its_class() -> None:
    for name, found in load_types().items():
        if found.__module__.startswith("scorers."):
            assert type_of(object.__new__(found)) == name


# --- streams


class Call:
    """A conversation that goes where it is told."""

    is_over = False
    is_waiting = False

    def __init__(self, clock: Clock, request: Request | None) -> None:
        self.clock = clock
        self.request = request
        self.state = State.START
        self.closed = self.deliveries = 0

    def receive(self, message: bytes) -> Sequence[bytes]:
        if message == b"broken":
            raise CallFailed(Code.INVALID_ARGUMENT, "broken")
        self.clock.now += 0.001  # its work
        self.state = State[message.decode()]
        return [message]

    def delivered(self) -> None:
        self.deliveries += 1

    def close(self) -> None:
        self.closed += 1


def conversation(metrics: Metrics, clock: Clock, request: Request | None) -> tuple[Any, Call]:
    made = Call(clock, request)
    measuring = Measuring(metrics.requests, clock)
    metrics.add(measuring)
    return measuring.calls(lambda push: made)(lambda answers: None), made


STREAMED = Request(id="r", payload=Payload(model="m", streaming=True), target_model="m", priority=2)
NAME = "llm_d_epp_request_streaming_itl_seconds"


def test_gaps_between_pieces_are_the_requests_own() -> None:
    metrics, clock = Metrics(), Clock()
    call, inner = conversation(metrics, clock, STREAMED)
    for message, after in [
        (b"COLLECTING", 0.0),
        (b"FORWARDED", 0.0),
        (b"RESPONDING", 5.0),  # the headers
        (b"RESPONDING", 3.0),  # the first piece: its time is the TTFT's
        (b"RESPONDING", 0.030),
        (b"RESPONDING", 0.090),
        (b"RESPONDED", 0.0),  # the empty end, right behind
    ]:
        clock.now += after
        assert call.receive(message) == [message]
    call.delivered()
    call.close()
    assert (inner.closed, inner.deliveries) == (1, 1)
    assert samples(metrics, f"{NAME}_count") == {("default-flow", "m", "2", "m"): 2}
    (total,) = samples(metrics, f"{NAME}_sum").values()
    assert total == pytest.approx(0.031 + 0.091)
    (work,) = samples(metrics, "llm_d_epp_response_processing_duration_seconds_sum").values()
    assert work == pytest.approx(0.005), "five messages of the response, the waiting not counted"


@pytest.mark.parametrize(
    "request_", [None, Request(payload=Payload(model="m"), target_model="m")], ids=["none", "not streamed"]
)
def test_other_answers_have_no_gaps(request_: Request | None) -> None:
    metrics, clock = Metrics(), Clock()
    call, _ = conversation(metrics, clock, request_)
    for _ in range(4):
        clock.now += 1.0
        call.receive(b"RESPONDING")
    call.close()
    assert samples(metrics, f"{NAME}_count") == {}
    assert samples(metrics, "llm_d_epp_response_processing_duration_seconds_count") == {(): 1}


def test_a_stream_without_an_answer_is_no_response() -> None:
    metrics, clock = Metrics(), Clock()
    call, inner = conversation(metrics, clock, STREAMED)
    with pytest.raises(CallFailed):
        call.receive(b"broken")
    call.close()
    assert inner.closed == 1
    assert samples(metrics, "llm_d_epp_response_processing_duration_seconds_count") == {(): 0}


def test_most_streams_of_a_busy_pool_are_left_alone() -> None:
    metrics, clock = Metrics(), Clock()
    opened = Measuring(metrics.requests, clock).calls(lambda push: Call(clock, None))
    plain = 0
    for _ in range(1000):
        clock.now += SECONDS_BETWEEN / 100
        plain += isinstance(opened(lambda answers: None), Call)
    assert plain == pytest.approx(990, abs=1)
