"""Streams that wait for their turn, over a real gRPC connection and with both drivers."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import ClassVar, NamedTuple

import grpc
import grpc.aio
import pytest

from epp.core.apis import Parsers
from epp.core.budget import Budget
from epp.core.directives import OBJECTIVE_HEADERS
from epp.core.fleet import Endpoint, Fleet, Load
from epp.core.flow.control import Fate
from epp.core.flow.policies import Flow, FlowSettings
from epp.core.flow.shedding import SHED, Shedding
from epp.core.flow.tenants import FAIRNESS_HEADERS
from epp.core.lifecycle import Phase
from epp.core.rejection import DROPPED_REASON_HEADER, Rejection
from epp.core.request import Request
from epp.core.scheduling import Decision
from epp.core.stream import StreamSettings
from epp.runtime.ext_proc import PROCESS, ExtProc
from epp.runtime.flow import Queues, queued
from epp.runtime.metrics import Metrics
from epp.runtime.serving import make_server
from epp.wire.pb import ext_proc_pb2 as pb
from scorers.concurrency_detector import ConcurrencyDetector
from scorers.fcfs_ordering_policy import FcfsOrderingPolicy
from scorers.priority_then_time_eviction_order_policy import PriorityThenTimeEvictionOrderPolicy
from scorers.program_aware_fairness import ProgramAwareFairness
from scorers.round_robin_fairness_policy import RoundRobinFairnessPolicy
from scorers.sheddable_eviction_filter import SheddableEvictionFilter
from scorers.utilization_detector import UtilizationDetector
from tests.core.conversation import decide
from tests.core.flow.pools import ASKED, band_of, occupy, request_of, settings_of
from tests.picking import fleet_of
from tests.runtime.raw_server import eventually
from tests.runtime.test_server import Call, Watcher, body, response_body, response_headers

CHAT = b'{"model": "tiny", "messages": [{"role": "user", "content": "hello"}]}'
EVICTION = (SheddableEvictionFilter(), PriorityThenTimeEvictionOrderPolicy())


@pytest.fixture(params=["fast", "grpcio"])
def driver(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Setting:
    """One server that takes one request at a time, a picker with queues before it, a gateway's channel."""

    def __init__(self, settings: FlowSettings) -> None:
        self.fleet = fleet_of([None])
        self.watcher, self.budget = Watcher(), Budget(1 << 30)
        self.plain = ExtProc(
            scheduler=self,
            health=self.fleet,
            settings=StreamSettings(Parsers(), self.budget, new_id=lambda: "made-id", directives=ASKED),
            observer=self.watcher,
            clock=time.monotonic,
        )
        self.queues: Queues = queued(
            *(settings, self.plain),
            pool=self.fleet,
            pool_name="pool",
            loop=asyncio.get_running_loop,
        )
        self.fleet.on_news = lambda endpoint: self.queues.gate.wake()
        self.channel: grpc.aio.Channel

    def pick(self, request: Request, now: float) -> Decision | Rejection:
        return decide(self.fleet.endpoints[0])

    @property
    def control(self):  # type: ignore[no-untyped-def] # noqa: ANN201
        return self.queues.gate._control

    async def ask(self, objective: str = "", tenant: str = "") -> Call:
        """A stream whose request is complete."""
        pairs = {":path": "/v1/chat/completions", ":method": "POST"}
        pairs |= {OBJECTIVE_HEADERS[0]: objective, FAIRNESS_HEADERS[0]: tenant}
        values = [pb.HeaderValue(key=key, raw_value=value.encode()) for key, value in pairs.items() if value]
        call = self.channel.stream_stream(
            PROCESS,
            request_serializer=pb.ProcessingRequest.SerializeToString,
            response_deserializer=pb.ProcessingResponse.FromString,
        )(timeout=30)
        head = pb.HttpHeaders(headers=pb.HeaderMap(headers=values))
        await call.write(pb.ProcessingRequest(request_headers=head))
        await call.write(body(CHAT, ended=True))
        return call

    async def waiting(self, count: int) -> None:
        await eventually(lambda: self.control.waiting == count)

    async def nothing_left(self) -> None:
        await self.watcher.all_closed()
        assert self.control.waiting == 0
        assert self.fleet.endpoints[0].requests_in_flight == 0
        assert self.budget.used == 0


@asynccontextmanager
async def serving(driver: str, **settings: object) -> AsyncIterator[Setting]:
    setting = Setting(settings_of(room=1, **settings))
    server = make_server(driver, {PROCESS: setting.queues.service.open}, budget=setting.budget)
    port = server.bind(0, flag="grpc-port")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            setting.channel = channel
            yield setting
    finally:
        await server.stop(0)


async def answered(call: Call) -> None:
    """It has a server, and its body went on."""
    assert (await call.read()).WhichOneof("response") == "request_headers"
    piece = (await call.read()).request_body.response.body_mutation.streamed_response
    assert (piece.body, piece.end_of_stream) == (CHAT, True)


async def refused(call: Call, status: int, reason: str) -> None:
    answer = (await call.read()).immediate_response
    assert answer.status.code == status
    headers = {each.header.key: each.header.raw_value.decode() for each in answer.headers.set_headers}
    assert headers[DROPPED_REASON_HEADER] == reason


async def finish(call: Call) -> None:
    """The server's answer passes, and the gateway closes the stream."""
    await call.write(response_headers())
    await call.read()
    await call.write(response_body(b"{}", ended=True))
    await call.read()
    await call.done_writing()


async def test_a_request_waits_until_another_one_ends(driver: str) -> None:
    async with serving(driver) as setting:
        first = await setting.ask()
        await answered(first)
        second = await setting.ask()
        await setting.waiting(1)
        await finish(first)
        await answered(second)
        await finish(second)
        await setting.nothing_left()
        assert setting.queues.metrics._outcomes == {(0, Fate.DISPATCHED): 2}


async def test_a_client_that_leaves_is_gone_from_the_queue_at_once(driver: str) -> None:
    async with serving(driver) as setting:
        first = await setting.ask()
        await answered(first)
        leaving = await setting.ask("batch")
        await setting.waiting(1)
        staying = await setting.ask("batch")
        await setting.waiting(2)
        leaving.cancel()
        await setting.waiting(1)
        await finish(first)
        await answered(staying)
        await finish(staying)
        await setting.nothing_left()
        outcomes = setting.queues.metrics._outcomes
        assert outcomes[-1, Fate.EVICTED_CANCELLED] == 1
        assert len(setting.watcher.placements) == 2  # nobody was picked for it


async def test_a_half_closed_stream_still_waits_for_its_answer(driver: str) -> None:
    async with serving(driver) as setting:
        first = await setting.ask()
        await answered(first)
        second = await setting.ask()
        await second.done_writing()
        await setting.waiting(1)
        await finish(first)
        await answered(second)
        assert await second.code() is grpc.StatusCode.OK
        await setting.nothing_left()


async def test_the_time_in_the_queue_ends_without_any_event(driver: str) -> None:
    async with serving(driver, ttl=0.05) as setting:
        first = await setting.ask()
        await answered(first)
        second = await setting.ask()
        await refused(second, 429, "rejected-ttl-expired")
        await second.done_writing()
        await finish(first)
        await setting.nothing_left()


async def test_a_full_queue_refuses(driver: str) -> None:
    async with serving(driver, default_band=band_of(max_requests=1)) as setting:
        calls = [await setting.ask()]
        await answered(calls[0])
        calls.append(await setting.ask())
        await setting.waiting(1)
        third = await setting.ask()
        await refused(third, 429, "rejected-saturated")
        for call in (*calls, third):
            call.cancel()
        await setting.nothing_left()


async def test_a_look_at_a_server_lets_somebody_go(driver: str) -> None:
    async with serving(driver) as setting:
        (endpoint,) = setting.fleet.endpoints
        setting.fleet.lost(endpoint, time.monotonic(), "refused")
        call = await setting.ask()
        await setting.waiting(1)
        setting.fleet.loading(endpoint, time.monotonic(), "loading")
        setting.fleet.answered(endpoint, time.monotonic() + 1)
        await answered(call)
        await finish(call)
        await setting.nothing_left()


async def test_a_running_batch_request_makes_room(driver: str) -> None:
    async with serving(driver, eviction=EVICTION) as setting:
        batch = await setting.ask("batch")
        await answered(batch)
        urgent = await setting.ask("interactive")
        await refused(batch, 429, "evicted")
        await answered(urgent)
        await batch.done_writing()
        await finish(urgent)
        await setting.nothing_left()
        outcome = next(each for each in setting.watcher.outcomes if each.rejection is not None)
        assert outcome.rejection is not None and outcome.rejection.status == 429


async def test_the_end_of_the_process_is_told_to_those_that_wait(driver: str) -> None:
    async with serving(driver) as setting:
        first = await setting.ask()
        await answered(first)
        second = await setting.ask()
        await setting.waiting(1)
        setting.queues.gate.close()
        await refused(second, 503, "rejected-shutting-down")
        await second.done_writing()
        await finish(first)
        await setting.nothing_left()


async def test_what_is_counted_is_on_the_page(driver: str) -> None:
    band = band_of(fairness=ProgramAwareFairness(), max_requests=4)
    async with serving(driver, default_band=band) as setting:
        first = await setting.ask("interactive", "acme")
        await answered(first)
        second = await setting.ask("batch", "zeta")
        await setting.waiting(1)
        metrics = Metrics()
        metrics.add(setting.queues.metrics)
        page = metrics.page().decode()
        flow = 'inference_pool="pool",model_name="tiny",priority="-1",target_model_name="tiny"'
        for line in (
            'flow_control_requests_total{inference_pool="pool",outcome="Dispatched",priority="100"} 1.0',
            f'llm_d_epp_flow_control_queue_size{{fairness_id="zeta",{flow}}} 1.0',
            f'inference_extension_flow_control_queue_size{{fairness_id="zeta",{flow}}} 1.0',
            f'llm_d_epp_flow_control_queue_bytes{{fairness_id="zeta",{flow}}} {float(len(CHAT))}',
            'llm_d_epp_flow_control_pool_saturation{inference_pool="pool",stage="effective"} 1.0',
            'inference_extension_flow_control_pool_saturation{inference_pool="pool"} 1.0',
            'llm_d_epp_flow_control_capacity_utilization_requests{inference_pool="pool",priority="-1"} 0.25',
            "llm_d_epp_program_aware_jains_fairness_index 1.0",
        ):
            assert line in page, line
        await finish(first)
        await answered(second)
        await finish(second)
        await setting.nothing_left()
        page = metrics.page().decode()
        assert f'llm_d_epp_flow_control_queue_size{{fairness_id="zeta",{flow}}} 0.0' in page
        waited = 'llm_d_epp_flow_control_request_queue_duration_seconds_count{fairness_id="zeta",'
        assert waited in page
        # no usage in "{}": the estimate of the prompt counts
        assert 'program_aware_attained_service_tokens{program_id="acme"} 0.0' not in page


class Faulty:
    """A fairness policy of somebody's."""

    tells_apart = True

    def choose_flow(self, flows: Mapping[str, Flow], now: float) -> str:
        raise KeyError("in a policy")


async def test_a_policy_that_fails_costs_those_that_wait_for_it(
    driver: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(driver, default_band=band_of(fairness=Faulty())) as setting:
        first = await setting.ask()
        await answered(first)
        second = await setting.ask()
        await setting.waiting(1)
        await finish(first)
        assert (await second.read()).immediate_response.status.code == 500
        await second.done_writing()
        third = await setting.ask()  # there is room: nobody has to be chosen
        await answered(third)
        await finish(third)
        await setting.nothing_left()
    assert "a policy of flow control failed" in caplog.text


class Miscounting(RoundRobinFairnessPolicy):
    """A policy of somebody's that chooses well and fails at its accounts."""

    def dispatched(self, flow: str, waited: float, now: float) -> None:
        raise KeyError("in a policy")

    def completed(self, flow: str, prompt_tokens: int, output_tokens: int, now: float) -> None:
        raise KeyError("in a policy")


async def test_a_policy_that_fails_at_counting_costs_no_request(
    driver: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(driver, default_band=band_of(fairness=Miscounting())) as setting:
        first = await setting.ask()
        await answered(first)
        second = await setting.ask()
        await setting.waiting(1)
        await finish(first)
        await answered(second)
        await finish(second)
        await setting.nothing_left()
    assert caplog.text.count("counting in flow control failed") == 4


class Unordered(FcfsOrderingPolicy):
    """An ordering of somebody's that fails."""

    def queue_rank(self, request: Request, received_at: float, deadline: float) -> float:
        raise KeyError("in a policy")


async def test_who_lost_his_place_is_told_though_the_other_one_cannot_take_it(driver: str) -> None:
    bands = {100: band_of(ordering=Unordered())}
    async with serving(driver, bands=bands, max_requests=1) as setting:
        first = await setting.ask()
        await answered(first)
        batch = await setting.ask("batch")
        await setting.waiting(1)
        urgent = await setting.ask("interactive")
        await refused(batch, 429, "rejected-saturated")
        assert await urgent.code() is not grpc.StatusCode.OK
        await batch.done_writing()
        await finish(first)
        await setting.nothing_left()


async def test_a_client_that_leaves_between_pick_and_answer_takes_nothing_along() -> None:
    setting = Setting(settings_of(room=1))
    (endpoint,) = setting.fleet.endpoints
    (running,) = occupy(endpoint, 1)
    told: list[list[bytes]] = []
    conversation = setting.queues.service.open(told.append)
    values = [pb.HeaderValue(key=":path", raw_value=b"/v1/chat/completions")]
    head = pb.HttpHeaders(headers=pb.HeaderMap(headers=values))
    conversation.receive(pb.ProcessingRequest(request_headers=head).SerializeToString())
    conversation.receive(body(CHAT, ended=True).SerializeToString())
    assert setting.control.waiting == 1
    running.release()
    (ticket,) = setting.control.turn(time.monotonic()).answered
    assert endpoint.requests_in_flight == 1
    conversation.close()
    assert endpoint.requests_in_flight == 0
    conversation.answered(ticket, time.monotonic())
    assert (endpoint.requests_in_flight, told) == (0, [])


class Watchful(ConcurrencyDetector):
    """A detector of somebody's that misses readings."""

    def stale(self, endpoints: Sequence[Endpoint], now: float) -> int:
        return 7 * len(endpoints)


class Known(NamedTuple):
    average_wait: float
    service: float


class Showing(RoundRobinFairnessPolicy):
    """A fairness policy of somebody's that shows what it knows."""

    programs: ClassVar[Mapping[str, Known]] = {"acme": Known(average_wait=0.25, service=40.0)}

    def jains_index(self) -> float:
        return 0.5


async def test_what_policies_of_others_show_is_on_the_page() -> None:
    setting = Setting(settings_of(detector=Watchful(), default_band=band_of(fairness=Showing())))
    metrics = Metrics()
    metrics.add(setting.queues.metrics)
    setting.control.saturation(0.0)
    page = metrics.page().decode()
    for line in (
        'llm_d_epp_flow_control_stale_endpoints{detector="utilization-detector"} 7.0',
        "llm_d_epp_program_aware_jains_fairness_index 0.5",
        'llm_d_epp_program_aware_avg_wait_time_milliseconds{program_id="acme"} 250.0',
        'llm_d_epp_program_aware_attained_service_tokens{program_id="acme"} 40.0',
    ):
        assert line in page, line


async def test_reading_the_page_changes_nothing() -> None:
    """Labels are few: a request takes its own when it is counted, not when somebody looks."""
    setting = Setting(settings_of(room=1))
    occupy(setting.fleet.endpoints[0], 1)
    setting.control.arrive(request_of(tenant="acme"), 0.0)
    size = "llm_d_epp_flow_control_queue_size"
    for _ in range(2):
        sizes = next(each for each in setting.queues.metrics.families() if each.name == size)
        assert {labels[0]: count for labels, count in sizes.values.items()} == {"acme": 1}
    assert not setting.queues.metrics._flows


class Anywhere:
    """A scheduler that takes the first one."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet

    def pick(self, request: Request, now: float) -> Decision | Rejection:
        return decide(self.fleet.endpoints[0])


def test_without_the_gate_sheddable_requests_are_shed_while_the_pool_is_full() -> None:
    fleet = fleet_of([None])
    chooser = Shedding(Anywhere(fleet), fleet, ConcurrencyDetector(max_concurrency=3))
    occupy(fleet.endpoints[0], 2)
    assert isinstance(chooser.pick(request_of("batch"), 0.0), Decision)
    shed = chooser.pick(request_of("batch"), 0.0)
    assert isinstance(shed, Rejection) and shed.status == 429
    assert shed.body == "inference error: ResourceExhausted - system saturated, sheddable request dropped"
    assert isinstance(chooser.pick(request_of("standard"), 0.0), Decision)
    assert isinstance(chooser.pick(request_of("no-such"), 0.0), Decision)


def test_without_the_gate_only_those_in_service_make_room() -> None:
    fleet = fleet_of([None, Phase.EJECTED])
    chooser = Shedding(Anywhere(fleet), fleet, ConcurrencyDetector(max_concurrency=3))
    occupy(fleet.endpoints[0], 3)
    assert chooser.pick(request_of("batch"), 0.0) is SHED


def test_without_the_gate_a_pool_of_which_nothing_new_is_known_counts_as_full() -> None:
    fleet = fleet_of([Load(waiting=0, kv_usage=0.0)], stale_after=2.0)
    chooser = Shedding(Anywhere(fleet), fleet, UtilizationDetector())
    assert isinstance(chooser.pick(request_of("batch"), 1.0), Decision)
    assert chooser.pick(request_of("batch"), 3.0) is SHED, "that reading is too old by now"
