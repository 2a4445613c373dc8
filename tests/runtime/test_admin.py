"""The pages for operators, over real HTTP."""

import asyncio
import datetime as dt
import gzip
import json
import random
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp.core.fleet import Endpoint, EndpointSpec, Fleet, Load, Lora, Reservation
from epp.core.members import Members, Pools
from epp.core.request import Payload, Request
from epp.core.scheduling import Decision, Profile, Scheduler
from epp.core.scoring import Cycle, Scores
from epp.runtime import admin, ports, tls
from epp.runtime.health import Readiness
from epp.runtime.metrics import Metrics

SPECS = [EndpointSpec(name=f"gpu-{n}", ip=f"10.0.0.{n}", port=8000, labels={"gpu": "a"}) for n in (1, 2)]


class Halves:
    """A scorer with an opinion: the later in the list, the better."""

    def score(self, cycle: Cycle, endpoints: Sequence[Endpoint]) -> Scores:
        return [index / 2 for index, _ in enumerate(endpoints)]


class Best:
    def pick(
        self, cycle: Cycle, endpoints: Sequence[Endpoint], totals: Sequence[float]
    ) -> Sequence[Endpoint]:
        return [endpoints[totals.index(max(totals))]]


class APool:
    """A pool."""

    def __init__(self, title: str, fleet: Fleet | Members) -> None:
        self.title, self.members = title, fleet
        profile = Profile(scorers=[("halves", Halves(), 3.0)], picker=("best", Best()))
        self.scheduler = Scheduler(fleet, profile, chance=random.Random(1))


@pytest.fixture
def state() -> admin.AdminState:
    fleet = Fleet()
    fleet.replace(SPECS, 0.0)
    phi = Pools(fleet).add()
    phi.take(fleet.endpoints[1:])
    pools = [APool("qwen", fleet), APool("phi", phi)]
    return admin.AdminState(
        metrics=Metrics(version="1"),
        readiness=Readiness(),
        fleet=fleet,
        pools=lambda: pools,
        clock=lambda: 12.5,
        wall_clock=lambda: 1000.0,
    )


@asynccontextmanager
async def running(state: admin.AdminState, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """The pages on some port, until it is cancelled, as main does it."""
    with ports.listen(0, flag="metrics-port") as listener:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(admin.run(state, listener, tls=tls))
            yield int(listener.getsockname()[1])
            task.cancel()


@pytest.fixture
async def site(state: admin.AdminState) -> AsyncIterator[str]:
    async with running(state) as port:
        yield f"http://127.0.0.1:{port}"


async def get(site: str, path: str, method: str = "GET") -> tuple[int, Any]:
    async with aiohttp.ClientSession() as session, session.request(method, site + path) as response:
        text = await response.text()
        return response.status, json.loads(text) if response.content_type == "application/json" else text


def pick(state: admin.AdminState, request_id: str = "r1", now: float = 12.0, pool: int = 0) -> None:
    request = Request(
        id=request_id, payload=Payload(model="m", prompt=b"x" * 40), target_model="n", headers={}
    )
    result = [*state.pools()][pool].scheduler.pick(request, now)
    if isinstance(result, Decision):
        result.reservation.release()


async def test_the_metrics_page_is_what_the_metrics_say(site: str, state: admin.AdminState) -> None:
    state.metrics.streams.opened()
    status, text = await get(site, "/metrics")
    assert status == 200
    assert "\nllm_d_epp_extproc_streams_inflight 1.0\n" in text


@pytest.mark.parametrize("method, is_empty", [("GET", False), ("HEAD", True)])
async def test_the_metrics_page_is_compressed_for_who_asks(
    method: str, is_empty: bool, site: str, state: admin.AdminState
) -> None:
    headers = {"accept-encoding": "gzip"}
    async with (
        aiohttp.ClientSession(auto_decompress=False) as session,
        session.request(method, site + "/metrics", headers=headers) as response,
    ):
        assert response.headers["content-encoding"] == "gzip"
        assert response.headers["vary"] == "accept-encoding"
        content = await response.read()
    assert (content == b"") == is_empty
    if not is_empty:
        whole = gzip.decompress(content)
        assert len(content) < len(whole) / 2
        assert [line for line in whole.splitlines() if not line.startswith(b"process_")] == [
            line for line in state.metrics.page().splitlines() if not line.startswith(b"process_")
        ]


async def test_the_metrics_page_is_plain_for_who_does_not(site: str) -> None:
    async with (
        aiohttp.ClientSession(headers={"accept-encoding": "identity"}) as session,
        session.get(site + "/metrics") as response,
    ):
        assert "content-encoding" not in response.headers
        assert (await response.text()).startswith("# HELP ")


@pytest.mark.parametrize(
    "header, accepted",
    [
        ("gzip", True),
        ("deflate, GZIP;q=0.5, br", True),
        ("gzip;q=1.0,*;q=0", True),
        ("", False),
        ("identity", False),
        ("gzip;q=0, deflate", False),
        ("gzip; q=0.000", False),
        ("xgzip, gzipx", False),
    ],
)
def test_gzip_is_accepted_when_named(header: str, accepted: bool) -> None:
    assert admin.accepts_gzip(header) == accepted


@given(parts=st.lists(st.binary(max_size=300), max_size=6))
def test_packing_loses_nothing(parts: list[bytes]) -> None:
    assert gzip.decompress(b"".join(admin.gzipped(parts))) == b"".join(parts)


async def test_readyz_follows_readiness_and_tells_details(site: str, state: admin.AdminState) -> None:
    reason = "the pool's endpoints have not been read yet"
    assert await get(site, "/readyz") == (503, {"status": "not ready", "reason": reason})
    state.readiness.is_synced = True
    state.readiness.explain("endpoints file", lambda: "f.yaml:1: broken")
    details = {"endpoints file": "f.yaml:1: broken"}
    assert await get(site, "/readyz") == (200, {"status": "ready", "details": details})
    state.readiness.is_draining = True
    assert (await get(site, "/readyz"))[0] == 503
    assert await get(site, "/healthz") == (200, {"status": "alive"})


async def test_endpoints_are_shown_as_the_picker_sees_them(site: str, state: admin.AdminState) -> None:
    first, second = state.fleet.endpoints
    state.fleet.reading(
        first, Load(waiting=3, lora=Lora(running=frozenset({"b", "a"}), max_adapters=4)), 12.0
    )
    state.fleet.lost(second, 0.0, "connection refused")
    Reservation(first, 7)
    status, page = await get(site, "/debug/endpoints")
    up, down = page["endpoints"]
    assert status == 200
    assert (up["name"], up["address"], up["labels"]) == ("gpu-1", "10.0.0.1:8000", {"gpu": "a"})
    assert (up["phase"], up["load"]["age_seconds"], up["load"]["waiting"]) == ("ready", 0.5, 3)
    assert up["load"]["lora"] == {"running": ["a", "b"], "waiting": [], "max_adapters": 4}
    assert (up["requests_in_flight"], up["tokens_in_flight"], up["load"]["kv_usage"]) == (1, 7, None)
    assert (down["phase"], down["reason"]) == ("ejected", "connection refused")
    assert down["load"]["age_seconds"] is None
    assert (up["pools"], down["pools"]) == (["qwen"], ["qwen", "phi"])


async def test_a_reading_that_is_too_old_is_shown_as_none_without_any_request(
    site: str, state: admin.AdminState
) -> None:
    first, _ = state.fleet.endpoints
    state.fleet.reading(first, Load(waiting=3), 12.5 - state.fleet.stale_after)
    shown = (await get(site, "/debug/endpoints"))[1]["endpoints"][0]["load"]
    assert (shown["age_seconds"], shown["waiting"]) == (None, None)


async def test_a_pick_is_explained_with_every_score(site: str, state: admin.AdminState) -> None:
    pick(state)
    _, page = await get(site, "/debug/picks")
    (found,) = page["picks"]
    assert (found["time"], found["request_id"], found["model"]) == (999.5, "r1", "m")
    assert (found["picked"], found["weights"]) == (["gpu-2"], {"halves": 3.0})
    assert [(c["endpoint"], c["scores"], c["total"]) for c in found["candidates"]] == [
        ("gpu-1", {"halves": 0.0}, 0.0),
        ("gpu-2", {"halves": 0.5}, 1.5),
    ]


async def test_a_refusal_is_explained_as_well(site: str, state: admin.AdminState) -> None:
    state.fleet.replace([], 0.0)
    pick(state)
    _, page = await get(site, "/debug/picks")
    assert page["picks"][0]["rejected"].startswith("inference error: ServiceUnavailable - ")


async def test_picks_are_the_newest_and_bounded(site: str, state: admin.AdminState) -> None:
    for number in range(300):
        pick(state, f"r{number}")
    _, page = await get(site, "/debug/picks?limit=100")
    assert [found["request_id"] for found in page["picks"]] == [f"r{n}" for n in range(299, 199, -1)]
    _, page = await get(site, "/debug/picks?limit=2")
    assert [found["request_id"] for found in page["picks"]] == ["r299", "r298"]


async def test_picks_of_several_pools_are_the_newest_of_all(site: str, state: admin.AdminState) -> None:
    for number in range(6):
        pick(state, f"r{number}", float(number), pool=number % 2)
    _, page = await get(site, "/debug/picks?limit=3")
    assert [(each["pool"], each["request_id"]) for each in page["picks"]] == [
        ("phi", "r5"),
        ("qwen", "r4"),
        ("phi", "r3"),
    ]
    _, page = await get(site, "/debug/picks?pool=qwen")
    assert [each["request_id"] for each in page["picks"]] == ["r4", "r2", "r0"]


async def test_a_pool_that_is_not_there_is_refused(site: str) -> None:
    assert await get(site, "/debug/picks?pool=llama") == (
        400,
        {"error": "pool: 'llama' is none of phi, qwen"},
    )


@pytest.mark.parametrize("limit", ["0", "-1", "x", "101", "9" * 5000, "²"])
async def test_a_limit_that_is_none_is_refused(site: str, limit: str) -> None:
    status, page = await get(site, f"/debug/picks?limit={limit}")
    assert status == 400 and page["error"].endswith("is not a number from 1 to 100")


async def test_a_question_that_is_misspelt_is_refused(site: str) -> None:
    assert await get(site, "/debug/picks?limits=5") == (
        400,
        {"error": "'limits': unknown, there are limit and pool"},
    )


async def test_tasks_are_named(site: str) -> None:
    status, page = await get(site, "/debug/tasks")
    assert status == 200 and page["tasks"]


async def test_an_unknown_path_tells_the_known_ones(site: str) -> None:
    status, page = await get(site, "/metrix")
    assert (status, page["error"]) == (404, "no such page")
    assert page["paths"] == [
        "/metrics",
        "/healthz",
        "/readyz",
        "/debug/endpoints",
        "/debug/picks",
        "/debug/tasks",
    ]
    assert (await get(site, "/metrics", "POST"))[0] == 405


async def test_both_families_of_addresses_are_served(site: str) -> None:
    assert (await get(site.replace("127.0.0.1", "[::1]"), "/healthz"))[0] == 200


async def test_the_pages_can_be_served_over_tls(state: admin.AdminState) -> None:
    pair = tls.self_signed(dt.datetime.now(dt.UTC))
    trusted = ssl.create_default_context(cadata=pair.chain.decode())
    async with (
        running(state, tls.pages_context(pair, None)) as port,
        aiohttp.ClientSession() as session,
        session.get(f"https://localhost:{port}/healthz", ssl=trusted) as response,
    ):
        assert response.status == 200


async def test_after_the_end_nothing_is_left(state: admin.AdminState) -> None:
    before = asyncio.all_tasks()
    async with running(state) as port:
        await get(f"http://127.0.0.1:{port}", "/healthz")
    assert asyncio.all_tasks() == before
    with pytest.raises(aiohttp.ClientConnectorError):
        await get(f"http://127.0.0.1:{port}", "/healthz")
