"""What is read beside the metrics, from real sockets: GPU figures and lists of models."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from epp.core.fleet import Endpoint, EndpointSpec, Fleet
from epp.runtime.side_scrape import PLACES, SideScraper, SideSource
from scorers.dcgm_data_source import DcgmDataSource
from scorers.models_data_source import ModelsDataSource
from tests.runtime.raw_server import RawServer, answer, answering, eventually, serving

GPU = b'DCGM_FI_DEV_GPU_UTIL{gpu="0"} %d\n'
MODELS = b'{"object":"list","data":[{"id":"base"},{"id":"sql","parent":"base"}]}'


def spec(number: int, port: int, *, node: str = "", key: Path | None = None) -> EndpointSpec:
    return EndpointSpec(
        name=f"e{number}", ip="127.0.0.1", port=port, node=node, api_key_file=str(key) if key else None
    )


def fleet_of(*specs: EndpointSpec) -> Fleet:
    fleet = Fleet(stale_after=60.0)
    fleet.replace(specs, time.monotonic())
    return fleet


@asynccontextmanager
async def reading(fleet: Fleet, settings: DcgmDataSource | ModelsDataSource) -> AsyncIterator[SideSource]:
    source = SideSource(fleet, settings)
    task = asyncio.get_running_loop().create_task(
        SideScraper(fleet, [source], clock=time.monotonic).run(), name="side scraper"
    )
    try:
        yield source
    finally:
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()


def dcgm(server: RawServer, **more: object) -> DcgmDataSource:
    return DcgmDataSource(port=server.port, interval=1.0, **more)  # type: ignore[arg-type]


async def test_one_exporter_of_several_endpoints_is_asked_once() -> None:
    async with serving(answering(answer(GPU % 42))) as exporter:
        fleet = fleet_of(*(spec(number, 8000 + number) for number in range(5)))
        async with reading(fleet, dcgm(exporter)) as source:
            await eventually(lambda: all(each.figures for each in fleet.endpoints))
        assert {each.attribute("GPUUtilization") for each in fleet.endpoints} == {0.42}
        assert len(exporter.requests) == 1 and exporter.requests[0].startswith(b"GET /metrics HTTP/1.1")
        assert (source.stats.poll_errors, source.stats.extract_errors) == (0, 0)


async def test_a_figure_follows_and_is_unknown_when_it_grows_too_old() -> None:
    async with serving(answering(answer(GPU % 42), answer(GPU % 7))) as exporter:
        fleet = fleet_of(spec(0, 8000))
        (endpoint,) = fleet.endpoints
        before = fleet.version
        async with reading(fleet, dcgm(exporter)):
            await eventually(lambda: endpoint.attribute("GPUUtilization") is not None)
        assert fleet.version > before
        fleet.expire(time.monotonic() + 2.5)
        assert endpoint.attribute("GPUUtilization") == 0.42
        before = fleet.version
        fleet.expire(time.monotonic() + 3.5)
        assert endpoint.attribute("GPUUtilization") is None and fleet.version > before


async def test_the_exporter_of_a_pods_node_is_asked_at_the_nodes_address() -> None:
    async with serving(answering(answer(GPU % 5))) as exporter:
        away = EndpointSpec(name="e0", ip="127.0.0.9", port=8000, node="127.0.0.1")
        fleet = fleet_of(away, EndpointSpec(name="e1", ip="127.0.0.1", port=8001))
        async with reading(fleet, dcgm(exporter, use_node_address=True)):
            await eventually(lambda: all(each.figures for each in fleet.endpoints))
        assert len(exporter.requests) == 1  # one outside of the cluster has its own address


async def test_models_are_listed_with_the_endpoints_own_key(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("secret\n")
    async with serving(answering(answer(MODELS))) as server:
        fleet = fleet_of(spec(0, server.port, key=key))
        (endpoint,) = fleet.endpoints
        assert endpoint.models is None
        async with reading(fleet, ModelsDataSource(interval=1.0)):
            await eventually(lambda: endpoint.models is not None)
        assert endpoint.models == {"base": "", "sql": "base"}
        head = server.requests[0].lower()
        assert head.startswith(b"get /v1/models http/1.1") and b"authorization: bearer secret" in head
        fleet.lost(endpoint, time.monotonic(), "refused")
        assert endpoint.models is None


@pytest.mark.parametrize(
    "reply, remark, polls, extracts",
    [
        (answer(b"", "404 Not Found"), "it answers 404 to /v1/models", 1, 0),
        (answer(b"no list"), "its /v1/models says nothing about e0", 0, 1),
    ],
)
async def test_a_page_that_says_nothing_is_counted_and_said_once(
    reply: bytes, remark: str, polls: int, extracts: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "epp.side_scrape")
    async with serving(answering(reply)) as server:
        fleet = fleet_of(spec(0, server.port))
        async with reading(fleet, ModelsDataSource(interval=1.0)) as source:
            await eventually(lambda: source.stats.poll_errors + source.stats.extract_errors >= 2)
    assert source.stats.poll_errors >= polls and source.stats.extract_errors >= extracts
    assert (source.stats.poll_errors > 0, source.stats.extract_errors > 0) == (polls > 0, extracts > 0)
    (record,) = caplog.records
    assert record.__dict__["fields"]["remark"] == remark
    assert fleet.endpoints[0].models is None


async def test_a_list_that_fails_to_come_once_changes_nothing() -> None:
    async with serving(answering(answer(MODELS))) as server:
        fleet = fleet_of(spec(0, server.port))
        (endpoint,) = fleet.endpoints
        async with reading(fleet, ModelsDataSource(interval=1.0)) as source:
            await eventually(lambda: endpoint.models is not None)
            server.serve = answering(answer(b"", "500 Internal Server Error"))
            await eventually(lambda: source.stats.poll_errors)
        assert endpoint.models == {"base": "", "sql": "base"}


async def test_new_endpoints_are_asked_before_the_next_turn() -> None:
    async with serving(answering(answer(MODELS))) as server:
        fleet = fleet_of()
        async with reading(fleet, ModelsDataSource(interval=600.0)):
            fleet.replace([spec(0, server.port)], time.monotonic())
            await eventually(lambda: fleet.endpoints[0].models is not None)


async def test_those_that_never_answer_leave_places_for_the_others() -> None:
    async def silent(peer: object) -> None:
        await asyncio.Event().wait()

    async with serving(silent) as mute, serving(answering(answer(MODELS))) as server:
        number = PLACES - 1
        fleet = fleet_of(
            *(EndpointSpec(name=f"m{i}", ip=f"127.0.1.{i + 1}", port=mute.port) for i in range(number)),
            spec(0, server.port),
        )
        async with reading(fleet, ModelsDataSource(interval=1.0)):
            await eventually(lambda: fleet.endpoints[-1].models is not None, within=1.5)


def test_a_certificate_that_cannot_be_read_is_found_at_the_start(tmp_path: Path) -> None:
    from epp.runtime.files import FileFault

    with pytest.raises(FileFault, match=r"^caCertPath .*missing\.pem"):
        SideSource(fleet_of(), ModelsDataSource(ca_cert_path=str(tmp_path / "missing.pem")))


async def test_an_odd_server_does_not_keep_others_from_being_read(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    usual = SideSource.take

    def odd(source: SideSource, endpoint: Endpoint, page: bytes, until: float) -> bool:
        if endpoint.name == "e0":
            raise ZeroDivisionError
        return usual(source, endpoint, page, until)

    monkeypatch.setattr(SideSource, "take", odd)
    async with serving(answering(answer(MODELS))) as one, serving(answering(answer(MODELS))) as other:
        fleet = fleet_of(spec(0, one.port), spec(1, other.port))
        async with reading(fleet, ModelsDataSource(interval=1.0)) as source:
            await eventually(lambda: fleet.endpoints[1].models is not None and source.stats.poll_errors >= 2)
    assert fleet.endpoints[0].models is None
    warnings = [each for each in caplog.records if each.levelno == logging.WARNING]
    assert [each.__dict__["fields"]["remark"] for each in warnings] == ["defect: ZeroDivisionError"]
