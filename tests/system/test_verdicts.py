"""What the real Envoy shows of servers that fail, and what is made of it: docs/gateways.md has the table."""

import asyncio
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from bench.rig.envoy import Envoy, Listener, Route
from bench.rig.picker import Picker
from bench.rig.process import free_port, wait_until
from epp.core.apis import Parsers
from epp.core.budget import Budget
from epp.core.events import Outcome
from epp.core.fleet import Endpoint, EndpointSpec, Reservation
from epp.core.rejection import Rejection
from epp.core.request import Request
from epp.core.scheduling import Decision
from epp.core.stream import StreamSettings
from epp.runtime.ext_proc import ExtProc
from tests.runtime.raw_server import Peer, RawServer, Serve, answer
from tests.system.gate import Gate
from tests.system.talk import (
    CHAT,
    METHOD,
    Client,
    Reply,
    ask,
    chat,
    endpoints,
    new_id,
    request_line,
    wait_at_rest,
)

EVENT = b'data: {"choices":[{"delta":{"content":"x"}}]}\n\n'
SSE = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
FIRST_TOKEN = SSE + b"%x\r\n%s\r\n" % (len(EVENT), EVENT)
LISTENERS = {
    "original_dst": Listener(timeout="1s"),
    "original_dst, retries": Listener(timeout="5s", retries=2, per_try_timeout="0.3s"),
    "override_host": Listener(route=Route.OVERRIDE_HOST, timeout="1s"),
    "override_host, retries": Listener(
        route=Route.OVERRIDE_HOST, timeout="5s", retries=3, per_try_timeout="0.3s"
    ),
}
WITHOUT_RETRIES = ["original_dst", "override_host"]

Said = tuple[str, str, str]
"""served, failed, late, quitting or busy; the endpoint's name; why."""


class Watched:
    """A picker without a scheduler: it names ``to``, and keeps what it says of endpoints."""

    def __init__(self, *specs: EndpointSpec) -> None:
        self.endpoints = {spec.name: Endpoint(spec) for spec in specs}
        self.to: list[str] = []
        self.said: list[Said] = []
        self.outcomes: list[Outcome] = []
        by_address = {endpoint.address: endpoint for endpoint in self.endpoints.values()}
        self._pool = ExtProc(
            scheduler=self,
            health=self,
            settings=StreamSettings(Parsers(), Budget(1 << 20), new_id=new_id, endpoint_at=by_address.get),
            observer=self,
            clock=time.monotonic,
        )

    @contextmanager
    def serving(self) -> Iterator[str]:
        service, _, method = METHOD[1:].partition("/")
        handlers = {method: grpc.stream_stream_rpc_method_handler(self._process)}
        with ThreadPoolExecutor(16) as threads:
            server = grpc.server(threads)
            server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
            port = server.add_insecure_port("127.0.0.1:0")
            server.start()
            try:
                yield f"127.0.0.1:{port}"
            finally:
                server.stop(None).wait()

    def _process(self, messages: Iterator[bytes], _: grpc.ServicerContext) -> Iterator[bytes]:
        call = self._pool.open(lambda answers: None)
        try:
            for message in messages:
                yield from call.receive(message)
        finally:
            call.close()

    def pick(self, request: Request, now: float) -> Decision | Rejection:
        named = [self.endpoints[name] for name in self.to]
        return Decision(named, Reservation(named[0], 0), named, {}, [])

    def served(self, endpoint: Endpoint, now: float) -> None:
        self.said.append(("served", endpoint.name, ""))

    def failed(self, endpoint: Endpoint, now: float, reason: str, *, sent_at: float) -> None:
        self.said.append(("failed", endpoint.name, reason))

    def quitting(self, endpoint: Endpoint, now: float, reason: str) -> None:
        self.said.append(("quitting", endpoint.name, reason))

    def late(self, endpoint: Endpoint, now: float, reason: str, *, sent_at: float) -> None:
        self.said.append(("late", endpoint.name, reason))

    def busy(self, endpoint: Endpoint, now: float, reason: str) -> None:
        self.said.append(("busy", endpoint.name, reason))

    def opened(self) -> None: ...

    def placed(self, request: Request, result: Decision | Rejection, seconds: float) -> None: ...

    def finished(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)

    def closed(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Stage:
    """Three servers behind an Envoy: one for a test to spoil, one that answers, one where nobody listens."""

    envoy: Envoy
    picker: Watched

    def port(self, name: str) -> int:
        return self.picker.endpoints[name].spec.port

    def address(self, name: str) -> str:
        return self.picker.endpoints[name].address

    @asynccontextmanager
    async def server(self, name: str, serve: Serve) -> Any:
        server = RawServer(serve)
        server.port = self.port(name)
        await server.start()
        try:
            yield server
        finally:
            await server.kill()

    async def ask(self, listener: str, *to: str) -> tuple[Reply, list[Said]]:
        """One request, and what was said of endpoints when its stream had ended."""
        self._expect(*to)
        reply = await asyncio.to_thread(ask, self.envoy.url(listener), CHAT, chat())
        return reply, await self.verdicts()

    def _expect(self, *to: str) -> None:
        self.picker.to = list(to)
        self.picker.said.clear()
        self.picker.outcomes.clear()

    async def break_off(self, listener: str, *, by: str) -> tuple[Reply, list[Said]]:
        """A stream that ends behind its first token, by the hand of client or server."""
        leave = asyncio.Event()

        async def serve(peer: Peer) -> None:
            await peer.request()
            await peer.send(FIRST_TOKEN)
            await (peer.until_gone() if by == "client" else leave.wait())

        def first_token(client: Client) -> None:
            client.send_head(CHAT, [("content-length", str(len(body)))], method="POST")
            client.send(body)
            client.read_until(b"data: ")

        self._expect("spoilt")
        body = chat(stream=True)
        async with self.server("spoilt", serve):
            with Client(self.envoy.url(listener)) as client:
                await asyncio.to_thread(first_token, client)
                if by == "server":
                    leave.set()
                    reply = await asyncio.to_thread(client.read)
                else:
                    reply = Reply()
            return reply, await self.verdicts()

    async def verdicts(self) -> list[Said]:
        await asyncio.to_thread(wait_until, lambda: bool(self.picker.outcomes), what="the end of the stream")
        assert sum(each.requests_in_flight for each in self.picker.endpoints.values()) == 0
        return self.picker.said.copy()


@pytest.fixture(scope="module")
def stage(logs: Path) -> Iterator[Stage]:
    names = ("spoilt", "good", "nobody")
    picker = Watched(*(EndpointSpec(name=name, ip="127.0.0.1", port=free_port()) for name in names))
    addresses = [endpoint.address for endpoint in picker.endpoints.values()]
    with (
        picker.serving() as address,
        Envoy(
            logs=logs,
            name="envoy-verdicts",
            servers=addresses[:2],
            picker=address,
            picker_tls=False,
            listeners=LISTENERS,
            requests_per_connection=1,
        ) as envoy,
    ):
        yield Stage(envoy, picker)


async def resets(peer: Peer) -> None:
    await peer.request()
    peer.reset()


async def breaks_its_head_off(peer: Peer) -> None:
    await peer.request()
    await peer.send(b"HTTP/1.1 200 OK\r\ncontent-ty")


async def hangs(peer: Peer) -> None:
    await peer.request()
    await peer.until_gone()


def says(status: str, body: bytes, kind: str = "application/json") -> Serve:
    async def serve(peer: Peer) -> None:
        await peer.request()
        await peer.send(answer(body, status, content_type=kind, connection="close"))
        await peer.until_gone()

    return serve


GOOD = says("200 OK", b'{"choices":[{"finish_reason":"stop"}]}')
LOADING = b'{"error":{"message":"Loading model","type":"unavailable_error","code":503}}'
SHUT_DOWN = b'{"error":{"message":"cannot schedule new futures after shutdown","type":"x","code":500}}'
FULL = b'{"error":"server busy, try again"}'
BOOM = b'{"error":{"message":"boom"}}'


# --- one attempt -------------------------------------------------------------------------------------


@pytest.mark.parametrize("listener", WITHOUT_RETRIES)
@pytest.mark.parametrize(
    "serve, status, verdict",
    [
        pytest.param(resets, 503, ("failed", "gateway: 503, connection termination"), id="resets"),
        pytest.param(breaks_its_head_off, 502, ("failed", "gateway: 502, protocol error"), id="half a head"),
        pytest.param(hangs, 504, ("late", "gateway: 504, upstream request timeout"), id="hangs"),
        pytest.param(says("500 E", BOOM), 500, ("failed", "engine: 500, boom"), id="fails"),
        pytest.param(
            says("504 E", b"upstream request timeout", "text/plain"),
            504,
            ("failed", "engine: 504, upstream request timeout"),
            id="in the gateway's words",
        ),
        pytest.param(says("503 E", b""), 503, ("failed", "engine: 503"), id="without a word"),
        pytest.param(says("503 E", LOADING), 503, ("failed", "loading model"), id="loads"),
        pytest.param(
            says("500 E", SHUT_DOWN),
            500,
            ("quitting", "engine: 500, cannot schedule new futures after shutdown"),
            id="shuts down",
        ),
        pytest.param(says("503 E", FULL), 503, ("busy", "engine: 503, server busy, try again"), id="is full"),
        pytest.param(says("400 E", b"{}"), 400, None, id="refuses nonsense"),
        pytest.param(says("429 E", b"{}"), 429, None, id="limits the rate"),
        pytest.param(GOOD, 200, ("served", ""), id="answers"),
    ],
)
async def test_one_attempt(
    serve: Serve, status: int, verdict: tuple[str, str] | None, listener: str, stage: Stage
) -> None:
    async with stage.server("spoilt", serve):
        reply, said = await stage.ask(listener, "spoilt")
    assert reply.status == status
    assert said == ([(verdict[0], "spoilt", verdict[1])] if verdict else [])


async def test_nobody_listens(stage: Stage) -> None:
    reply, said = await stage.ask("original_dst", "nobody")
    assert reply.status == 503
    assert said == [("failed", "nobody", "gateway: 503, remote connection failure")]


async def test_original_dst_cannot_read_a_list(stage: Stage) -> None:
    """Which says nothing about the servers on it."""
    async with stage.server("good", GOOD):
        reply, said = await stage.ask("original_dst", "good", "nobody")
    assert (reply.status, reply.body, said) == (503, b"no healthy upstream", [])


@pytest.mark.parametrize("listener", WITHOUT_RETRIES)
async def test_who_broke_a_stream_off_cannot_be_told(listener: str, stage: Stage) -> None:
    """When this fails, a newer Envoy tells, and ``Stream`` could count a cut-off stream as a failure."""
    by_server, said_then = await stage.break_off(listener, by="server")
    assert by_server.body == EVENT and not by_server.complete
    outcome_then = stage.picker.outcomes[0]
    _, said = await stage.break_off(listener, by="client")
    outcome = stage.picker.outcomes[0]
    assert said == said_then == [("served", "spoilt", "")]
    assert (outcome.status, outcome.response_bytes, outcome.response_complete) == (200, len(EVENT), False)
    assert outcome_then.response_bytes == outcome.response_bytes
    assert outcome_then.response_complete == outcome.response_complete


# --- several attempts --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "serve, reason",
    [(resets, "connection termination"), (hangs, "upstream request timeout")],
    ids=["resets", "hangs"],
)
async def test_original_dst_repeats_what_failed(serve: Serve, reason: str, stage: Stage) -> None:
    """One request, one verdict, however often Envoy tries."""
    async with stage.server("spoilt", serve) as server:
        reply, said = await stage.ask("original_dst, retries", "spoilt")
        assert server.connections >= 2
    kind = "late" if reply.status == 504 else "failed"
    assert said == [(kind, "spoilt", f"gateway: {reply.status}, {reason}")]


@pytest.mark.parametrize(
    "serve",
    [None, resets, breaks_its_head_off, hangs, says("503 E", LOADING)],
    ids=["refuses", "resets", "breaks its head off", "hangs", "loading"],
)
async def test_override_host_goes_on_to_the_next_of_the_list(serve: Serve | None, stage: Stage) -> None:
    async with stage.server("good", GOOD):
        if serve is None:
            reply, said = await stage.ask("override_host, retries", "spoilt", "good")
        else:
            async with stage.server("spoilt", serve):
                reply, said = await stage.ask("override_host, retries", "spoilt", "good")
    assert (reply.status, reply.served_by) == (200, stage.address("good"))
    reason = f"passed over: the gateway went on to {stage.address('good')}"
    assert said == [("failed", "spoilt", reason), ("served", "good", "")]
    assert stage.picker.outcomes[0].served == stage.address("good")


async def test_without_a_list_override_host_chooses_by_itself(stage: Stage) -> None:
    async with stage.server("good", GOOD):
        reply, said = await stage.ask("override_host, retries", "spoilt")
    if reply.status == 200:
        assert said[-1] == ("served", "good", "") and said[0][:2] == ("failed", "spoilt")
    else:  # its fallback may try the same again
        assert said[-1] == ("failed", "spoilt", "gateway: 503, remote connection failure")


async def test_what_is_not_retried_ends_with_the_first(stage: Stage) -> None:
    async with stage.server("good", GOOD), stage.server("spoilt", says("500 E", b"boom")):
        reply, said = await stage.ask("override_host, retries", "spoilt", "good")
    assert (reply.status, said) == (500, [("failed", "spoilt", "engine: 500, boom")])


# --- a whole picker ----------------------------------------------------------------------------------


@pytest.mark.default_driver
def test_a_list_loses_nothing_when_its_first_server_fails(driver: str, logs: Path) -> None:
    """Every look finds it well: only the answers tell."""
    profile = {
        "plugins": [{"type": "queue-scorer"}],
        "schedulingProfiles": [{"name": "default", "plugins": [{"pluginRef": "queue-scorer"}]}],
    }
    with Gate() as failing, Gate() as spare:
        waiting = b'vllm:num_requests_waiting{model_name="x"} 9\n'
        spare.page = b'vllm:num_requests_running{model_name="x"} 0\n' + waiting
        with (
            Picker(
                logs=logs,
                name="picker-ordered",
                endpoints={"failing": failing.address, "spare": spare.address},
                config=profile,
                driver=driver,
                flags=["--destinations=ordered"],
            ) as picker,
            Envoy(
                logs=logs,
                name="envoy-ordered",
                servers=[failing.address, spare.address],
                picker=picker.address,
                listeners={"list": Listener(route=Route.OVERRIDE_HOST, retries=3)},
            ) as envoy,
        ):
            wait_until(
                lambda: [e["load"]["waiting"] for e in endpoints(picker).values()] == [0, 9],
                what="both loads known",
            )
            failing.open()
            assert ask(envoy.url("list"), CHAT, chat()).served_by == failing.address
            failing.resets = True
            with Client(envoy.url("list")) as client:
                body, request_id = chat(stream=True), new_id()
                headers = [("content-length", str(len(body))), ("x-request-id", request_id)]
                client.send_head(CHAT, headers, method="POST")
                client.send(body)
                reply = client.read_until(b"data: ")
                assert (reply.status, reply.served_by) == (200, spare.address)
                known = endpoints(picker)
                in_flight = {name: each["requests_in_flight"] for name, each in known.items()}
                assert in_flight == {"failing": 0, "spare": 1}, "the reservation went where the request went"
                assert known["failing"]["phase"] in ("suspect", "ejected")
                assert f'"passed over: the gateway went on to {spare.address}"' in picker.log.read_text()
                spare.open()
                assert client.read().complete
            line = request_line(picker, request_id)
            assert (line["address"], line["served"], line["status"]) == (failing.address, spare.address, 200)
            wait_at_rest(picker)
