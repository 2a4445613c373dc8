"""The scraper against real servers: what it tells the fleet, how soon, and what it leaves behind."""

import asyncio
import datetime as dt
import errno
import json
import os
import random
import signal
import socket
import ssl
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import uvloop
from cryptography.hazmat.primitives import serialization
from hypothesis import example, given, settings
from hypothesis import strategies as st

from epp.config.decode import ConfigError
from epp.config.endpoints_file import parse_endpoints
from epp.core.addresses import MetricsUrl
from epp.core.engines import ENGINE_LABELS, ENGINES
from epp.core.fleet import Endpoint, EndpointSpec, Fleet, Load, Reservation
from epp.core.lifecycle import Change, HealthSettings, Lifecycle, Phase
from epp.runtime import files
from epp.runtime.files import FileFault
from epp.runtime.probe import check_files
from epp.runtime.scrape import Pace, ProbeSettings, Scraper, ScrapeSettings, scrape_settings
from epp.runtime.tls import self_signed
from scorers.core_metrics_extractor import CoreMetricsExtractor, EngineConfig
from scorers.metrics_data_source import MetricsDataSource
from tests.captures import capture
from tests.runtime.raw_server import (
    Peer,
    RawServer,
    Serve,
    answer,
    answering,
    descriptors,
    eventually,
    serving,
)

VLLM = b"vllm:num_requests_waiting 2\nvllm:num_requests_running 4\nvllm:kv_cache_usage_perc 0.5\n"
LOAD = Load(waiting=2, running=4, kv_usage=0.5)
LLAMA = b"llamacpp:requests_processing 1\nllamacpp:requests_deferred 0\n"
NOT_OFFERED = answer(b'{"error":{"code":501}}', "501 Not Implemented", Server="llama.cpp")
LOADING = answer(
    b'{"error":{"message":"Loading model","type":"unavailable_error","code":503}}', "503 Service Unavailable"
)
UNIX = 1795165040.0
QUICK = Pace(untold=0.2, loading=0.05, retry=0.05, retry_late=0.1)
UP = frozenset({Phase.READY, Phase.WARMING, Phase.PROBING})
DOWN = frozenset({Phase.EJECTED, Phase.LOADING})
PATIENT = 10.0
"""The usual silence of a look [s]: no loaded machine makes a server that answers look silent."""


@pytest.fixture(scope="module", autouse=True)
def uvloop_has_run() -> None:
    uvloop.run(asyncio.sleep(0))  # the first loop opens descriptors that stay


@pytest.fixture(autouse=True)
def nothing_stays_open(uvloop_has_run: None) -> Iterator[None]:
    before = descriptors()
    yield
    assert descriptors() <= before


def spec(server: RawServer | int, name: str = "a", **fields: Any) -> EndpointSpec:
    port = server if isinstance(server, int) else server.port
    return EndpointSpec(name=name, ip="127.0.0.1", port=port, **fields)


class Scene:
    """A fleet of which a scraper is running."""

    def __init__(self, pace: Pace, in_flight: int, silence: float, probe: Mapping[str, Any]) -> None:
        health = HealthSettings(
            silence=silence, second_silence=silence, back_off=0.05, back_off_most=0.1, probation=0.05
        )
        self.fleet = Fleet(health=health, on_change=self._changed)
        self.changes: list[tuple[str, Phase]] = []
        """Of every endpoint, by name."""
        self.heard: list[Endpoint] = []
        """Of which the scraper said that they are lost."""
        self.scraper = Scraper(
            self.fleet,
            ScrapeSettings(pace=pace, probe=ProbeSettings(**probe), in_flight=in_flight),
            clock=time.monotonic,
            unix_clock=lambda: UNIX,
            chance=random.Random(7),
            on_lost=self.heard.append,
        )

    @property
    def endpoint(self) -> Endpoint:
        return self.fleet.endpoints[0]

    @property
    def results(self) -> Mapping[str, int]:
        return self.scraper.stats.results

    @property
    def is_looking(self) -> bool:
        return any(watch.task is not None for watch in self.scraper._watches.values())

    def _changed(self, endpoint: Endpoint, change: Change) -> None:
        self.changes.append((endpoint.name, change.after))

    def replace(self, *specs: EndpointSpec) -> None:
        self.scraper.update(*self.fleet.replace(specs, time.monotonic()))

    def is_in(self, phases: Collection[Phase], endpoint: Endpoint | None = None) -> bool:
        self.fleet.expire(time.monotonic())
        return (endpoint or self.endpoint).lifecycle.phase in phases

    async def until(self, phases: Collection[Phase], within: float = 10.0) -> Endpoint:
        await eventually(lambda: self.is_in(phases), within)
        return self.endpoint


@asynccontextmanager
async def watching(
    *specs: EndpointSpec, pace: Pace = QUICK, in_flight: int = 64, silence: float = PATIENT, **probe: Any
) -> AsyncIterator[Scene]:
    scene = Scene(pace, in_flight, silence, probe)
    scene.replace(*specs)
    running = asyncio.get_running_loop().create_task(scene.scraper.run())
    tasks_before = asyncio.all_tasks()
    try:
        yield scene
    finally:
        running.cancel()
        await asyncio.wait([running])
        assert running.cancelled(), running.exception()
        own = {task for task in asyncio.all_tasks() - tasks_before if task.get_name().startswith("scrape")}
        assert not own


def routes(pages: Mapping[str, bytes], otherwise: bytes = answer(b"", "404 Not Found")) -> Serve:
    """Answer by path; the mapping may change while the server runs."""

    async def serve(peer: Peer) -> None:
        while (request := await peer.request()) is not None:
            await peer.send(pages.get(request.split()[1].decode(), otherwise))

    return serve


def paths(server: RawServer) -> list[str]:
    return [request.split()[1].decode() for request in server.requests]


# --- what the configuration says


MINE = EngineConfig(name="mine", queued_requests_spec="my_queue")
WITH_MINE = {**ENGINES, "mine": MINE.adapter()}
OTHER_VLLM = EngineConfig(name="vllm", queued_requests_spec="q")
KEYS = {"client_cert_path": "/c.pem", "client_key_path": "/k.pem"}


@pytest.mark.parametrize(
    "source, extractor, changed",
    [
        pytest.param({}, {}, {}, id="defaults"),
        pytest.param({"scheme": "https"}, {}, {"scheme": "https"}, id="scheme"),
        pytest.param({"path": "/m"}, {}, {"path": "/m"}, id="path"),
        pytest.param({"port": 9000}, {}, {"port": 9000}, id="port"),
        pytest.param({"insecure_skip_verify": False}, {}, {"verify_tls": True}, id="verify"),
        pytest.param({"ca_cert_path": "/ca.pem"}, {}, {"ca_file": "/ca.pem"}, id="ca"),
        pytest.param(KEYS, {}, {"client_certificate": ("/c.pem", "/k.pem")}, id="client-certificate"),
        pytest.param(
            {}, {"engine_label_key": "my/label"}, {"engine_labels": ("my/label", *ENGINE_LABELS)}, id="label"
        ),
        pytest.param(
            {},
            {"engine_label_key": ENGINE_LABELS[1]},
            {"engine_labels": (ENGINE_LABELS[1], ENGINE_LABELS[0], ENGINE_LABELS[2])},
            id="the-other-known-label",
        ),
        pytest.param({}, {"default_engine": "sglang"}, {"default_engine": "sglang"}, id="default-engine"),
        pytest.param({}, {"engine_configs": (MINE,)}, {"engines": WITH_MINE}, id="own-engine"),
        pytest.param(
            {},
            {"engine_configs": (OTHER_VLLM,)},
            {"engines": {**ENGINES, "vllm": OTHER_VLLM.adapter()}},
            id="own-engine-instead-of-a-built-in-one",
        ),
    ],
)
def test_every_field_of_the_configuration_reaches_the_scraper(
    source: dict[str, Any], extractor: dict[str, Any], changed: dict[str, Any]
) -> None:
    pace = Pace(floor=0.25)
    usual: dict[str, Any] = {
        "scheme": None,
        "port": None,
        "path": None,
        "verify_tls": False,
        "ca_file": None,
        "client_certificate": None,
        "engines": ENGINES,
        "engine_labels": ENGINE_LABELS,
        "default_engine": None,
    }
    made = scrape_settings(MetricsDataSource(**source), CoreMetricsExtractor(**extractor), pace)
    assert made == ScrapeSettings(pace=pace, probe=ProbeSettings(**{**usual, **changed}))


# --- what an answer means


@pytest.mark.parametrize(
    "pages, engine, load",
    [
        pytest.param({"/metrics": answer(VLLM)}, "vllm", LOAD, id="vllm"),
        pytest.param(
            {
                "/metrics": answer(LLAMA, Process_Start_Time_Unix="1795160000", Server="llama.cpp"),
                "/props": answer(capture("llama-server/GET_props.txt").body),
            },
            "llamacpp",
            Load(waiting=0, running=1, slots=2, started_at=1795160000.0),
            id="llamacpp",
        ),
        pytest.param(
            {"/metrics": answer(LLAMA), "/slots": answer(capture("llama-server/GET_slots.txt").body)},
            "llamacpp",
            Load(waiting=0, running=1, slots=2),
            id="llamacpp-slots-without-props",
        ),
        pytest.param(
            {"/metrics": answer(LLAMA)}, "llamacpp", Load(waiting=0, running=1), id="llamacpp-no-slots"
        ),
        pytest.param(
            {
                "/metrics": NOT_OFFERED,
                "/slots": answer(b'[{"is_processing":true},{"is_processing":false}]'),
            },
            "llamacpp",
            Load(running=1, slots=2),
            id="llamacpp-without-metrics",
        ),
        pytest.param(
            {"/metrics": NOT_OFFERED, "/slots": NOT_OFFERED, "/props": answer(b'{"total_slots":4}')},
            "llamacpp",
            Load(slots=4),
            id="llamacpp-with-props-only",
        ),
        pytest.param(
            {
                "/metrics": answer(b"[]"),
                "/prometheus/metrics": answer(b"trtllm_num_requests_waiting 3\n"),
            },
            "trtllm-serve",
            Load(waiting=3),
            id="trtllm-serve",
        ),
    ],
)
async def test_the_engine_is_found_and_its_load_is_read(
    pages: Mapping[str, bytes], engine: str, load: Load
) -> None:
    async with serving(routes(pages)) as server, watching(spec(server)) as scene:
        await eventually(lambda: scene.endpoint.load_at)
        assert (scene.endpoint.engine, scene.endpoint.load) == (engine, load)
        assert scene.is_in(UP)


@pytest.mark.parametrize(
    "raw, remark",
    [
        pytest.param(answer(b"", "401 Unauthorized"), "API key", id="401"),
        pytest.param(answer(b"", "403 Forbidden"), "API key", id="403"),
        pytest.param(answer(b"", "404 Not Found"), "URL", id="404"),
        pytest.param(NOT_OFFERED, "--metrics", id="501"),
        pytest.param(answer(b"", "500 Internal Server Error"), "500", id="500"),
        pytest.param(answer(b"python_info 1\n"), "no known engine", id="no-known-series"),
        pytest.param(answer(b"\xff<html>"), "no known engine", id="a-web-page"),
        pytest.param(
            answer(b"Client sent an HTTP request to an HTTPS server.", "400 Bad Request"),
            "set scheme: https",
            id="go-with-tls",
        ),
    ],
)
async def test_an_answer_without_load_is_up_and_unknown(
    raw: bytes, remark: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(answering(raw)) as server, watching(spec(server)) as scene:
        endpoint = await scene.until(UP)
        await eventually(lambda: sum(scene.results.values()) >= 2)
        assert (endpoint.load, endpoint.load_at) == (Load(), None)
    assert sum(remark in line for line in said(caplog)) == 1, "told once, not at each look"


async def hangs_up(peer: Peer) -> None:
    await peer.first_bytes()


async def says_nothing(peer: Peer) -> None:
    await peer.until_gone()


async def floods(peer: Peer) -> None:
    await peer.request()
    await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 50000000\r\n\r\n")
    for _ in range(1000):
        await peer.send(b"x" * 50_000)


@pytest.mark.parametrize(
    "serve, result, words",
    [
        pytest.param(hangs_up, "closed", "closed the connection|was closed", id="hangs-up"),
        pytest.param(says_nothing, "timeout", "no answer within 1 s", id="accepts-and-never-answers"),
        pytest.param(answering(b"SSH-2.0-x\r\n\r\n"), "not http", "not HTTP", id="not-http"),
        pytest.param(answering(LOADING), "unavailable", "loading model", id="loading"),
        pytest.param(answering(answer(b"", "503 Busy")), "unavailable", "503", id="unavailable"),
        pytest.param(answering(answer(b"", "502 Bad Gateway")), "unavailable", "502", id="behind-a-proxy"),
    ],
)
async def test_a_server_that_cannot_serve_is_lost(serve: Serve, result: str, words: str) -> None:
    async with serving(serve) as server, watching(spec(server), silence=1.0) as scene:
        endpoint = await scene.until(DOWN)
        assert any(word in endpoint.lifecycle.reason for word in words.split("|")), endpoint.lifecycle.reason
        await eventually(lambda: scene.results[result])
        assert set(scene.results) == {result} and endpoint.load == Load()


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Each log line with its fields."""
    fields = (getattr(record, "fields", {}) for record in caplog.records)
    return [
        " ".join((record.getMessage(), *map(str, each.values())))
        for record, each in zip(caplog.records, fields, strict=True)
    ]


async def test_a_loading_model_is_used_once_it_is_there() -> None:
    pages = {"/metrics": LOADING}
    async with serving(routes(pages)) as server, watching(spec(server)) as scene:
        endpoint = await scene.until({Phase.LOADING})
        assert endpoint.lifecycle.reason == "loading model"
        await eventually(lambda: scene.results["unavailable"] >= 3)
        pages["/metrics"] = answer(LLAMA)
        assert (await scene.until(UP)).load == Load(waiting=0, running=1)


async def test_a_page_that_is_too_large_is_an_unknown_load_of_a_server_that_is_there(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving(floods) as server, watching(spec(server)) as scene:
        endpoint = await scene.until(UP)
        await eventually(lambda: scene.results["too large"] >= 2)
        assert (endpoint.load, endpoint.load_at) == (Load(), None)
        assert scene.scraper.stats.poll_errors == scene.results["too large"] == sum(scene.results.values())
    remark = "its page is larger than 4 MiB, so its load is unknown: give a smaller one's URL"
    assert sum(remark in line for line in said(caplog)) == 1, "told once, not at each look"


async def test_what_cannot_be_is_unknown_and_told(caplog: pytest.LogCaptureFixture) -> None:
    pages = {"/metrics": answer(b"vllm:num_requests_waiting NaN\nvllm:num_requests_running -3\n" + VLLM[53:])}
    async with serving(routes(pages)) as server, watching(spec(server), pace=Pace(rest=0.05)) as scene:
        await eventually(lambda: scene.results["ok"] >= 3)
        assert scene.endpoint.load == Load(kv_usage=0.5)
        pages["/metrics"] = answer(VLLM)
        await eventually(lambda: scene.endpoint.load == LOAD)
        pages["/metrics"] = answer(VLLM.replace(b" 2", b" -7"))
        await eventually(lambda: scene.endpoint.load.waiting is None)
    wrong = [line.partition("metrics say ")[2] for line in said(caplog)]
    assert wrong == [
        "vllm:num_requests_waiting nan, which cannot be: taken as unknown",
        "vllm:num_requests_running -3, which cannot be: taken as unknown",
    ], "once for each series"


async def test_a_server_that_comes_back_was_lost() -> None:
    async with serving(answering(answer(VLLM))) as server, watching(spec(server)) as scene:
        await scene.until(UP)
        await server.kill()
        await scene.until(DOWN)
        await server.start()
        await scene.until(UP)
    assert [phase for _, phase in scene.changes[:3]] == [Phase.READY, Phase.EJECTED, Phase.PROBING]


async def test_an_engine_without_our_series_has_an_unknown_load() -> None:
    page = answer(b"process_start_time_seconds 17\n")
    labels = {"llm-d.ai/engine-type": "vllm"}
    async with serving(answering(page)) as server, watching(spec(server, labels=labels)) as scene:
        await eventually(lambda: scene.endpoint.load_at)
        assert scene.endpoint.load == Load(started_at=17.0)
        assert scene.scraper.stats.extract_errors >= 1


# --- which engine, which address


@pytest.mark.parametrize(
    "fields, probe",
    [
        pytest.param({"engine": "mine"}, {}, id="spec"),
        pytest.param({"labels": {"llm-d.ai/engine-type": "mine"}}, {}, id="label"),
        pytest.param({"labels": {"inference.networking.k8s.io/engine-type": "mine"}}, {}, id="legacy-label"),
        pytest.param({"labels": {"kind": "mine"}}, {"engine_labels": ["kind"]}, id="a-label-of-the-users"),
        pytest.param({}, {"default_engine": "mine"}, id="default"),
        pytest.param({}, {}, id="found-by-looking"),
    ],
)
async def test_an_engine_of_the_users_is_read(fields: Mapping[str, Any], probe: Mapping[str, Any]) -> None:
    async with (
        serving(answering(answer(b"my_queue 3\n"))) as server,
        watching(spec(server, **fields), engines=WITH_MINE, **probe) as scene,
    ):
        await eventually(lambda: scene.endpoint.load_at)
        assert (scene.endpoint.engine, scene.endpoint.load) == ("mine", Load(waiting=3))


async def test_an_unknown_engine_name_is_told_and_the_engine_is_found(
    caplog: pytest.LogCaptureFixture,
) -> None:
    labels = {"llm-d.ai/engine-type": "vlllm"}
    async with serving(answering(answer(VLLM))) as server, watching(spec(server, labels=labels)) as scene:
        await eventually(lambda: scene.endpoint.load_at)
        assert scene.endpoint.engine == "vllm"
    assert any('no engine is called "vlllm", known are vllm, sglang' in line for line in said(caplog))


async def test_metrics_at_an_address_of_their_own() -> None:
    async with serving(routes({"/stats?x=1": answer(VLLM)})) as server:
        url = MetricsUrl("http", "127.0.0.1", server.port, "/stats?x=1")
        async with watching(spec(server, metrics_url=url)) as scene:
            await eventually(lambda: scene.endpoint.load == LOAD)


async def test_an_api_key_is_read_again_when_it_is_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    key = tmp_path / "key"

    async def wants_the_new_key(peer: Peer) -> None:
        while (request := await peer.request()) is not None:
            known = b"Authorization: Bearer new\r\n" in request
            await peer.send(answer(VLLM) if known else answer(b"", "401 Unauthorized"))

    async with (
        serving(wants_the_new_key) as server,
        watching(spec(server, api_key_file=str(key)), metrics_again=0.1) as scene,
    ):
        await scene.until(UP)
        missing = "(No such file or directory): check the path; asking without a key"
        assert any(f"apiKeyFile {key} cannot be read {missing}" in line for line in said(caplog))
        key.write_text("old\n")
        await eventually(lambda: any(b"Bearer old" in request for request in server.requests))
        assert scene.endpoint.load_at is None
        key.write_text("new\n")
        await eventually(lambda: scene.endpoint.load == LOAD)


@pytest.mark.parametrize("name", ["a\0b", "\ud800"], ids=["nul", "surrogate"])
async def test_a_name_that_no_file_can_have_is_told(name: str, caplog: pytest.LogCaptureFixture) -> None:
    async with (
        serving(answering(answer(VLLM))) as server,
        watching(
            spec(server, "key", api_key_file=name), spec(server, "ca", scheme="https", ca_file=name)
        ) as scene,
    ):
        key, ca = scene.fleet.endpoints
        await eventually(lambda: key.load == LOAD and scene.is_in(DOWN, ca))
        assert "is a name that no file can have" in ca.lifecycle.reason and set(scene.results) == {
            "ok",
            "tls",
        }
    assert any("is a name that no file can have" in line for line in said(caplog))


@pytest.mark.parametrize(
    "make, said_of_it",
    [
        pytest.param(lambda file: file.write_text("no certificate"), "give a PEM file", id="no-pem"),
        pytest.param(
            lambda file: file.write_text("-----BEGIN CERTIFICATE-----\nxx"), "give a PEM file", id="damaged"
        ),
        pytest.param(os.mkfifo, "is a pipe: give a regular file", id="pipe"),
        pytest.param(Path.mkdir, "is a directory: give a file", id="directory"),
    ],
)
async def test_a_ca_file_that_is_none_is_the_reason(
    make: Callable[[Path], object], said_of_it: str, tmp_path: Path
) -> None:
    make(file := tmp_path / "ca.pem")
    async with watching(spec(9, scheme="https", ca_file=str(file))) as scene:
        reason = (await scene.until(DOWN)).lifecycle.reason
        assert reason.startswith(f"caFile {file} ") and said_of_it in reason


@pytest.mark.parametrize(
    "fields, fault",
    [
        pytest.param({"ca_file": "/nowhere/ca.pem"}, "caCertPath /nowhere/ca.pem cannot be read", id="ca"),
        pytest.param(
            {"client_certificate": ("/nowhere/c", "/nowhere/k")},
            "clientCertPath /nowhere/c cannot be read",
            id="client-certificate",
        ),
    ],
)
def test_files_that_are_named_for_all_are_checked_before_the_start(
    fields: dict[str, Any], fault: str
) -> None:
    with pytest.raises(FileFault, match=f"^{fault}"):
        check_files(ProbeSettings(**fields))


def test_where_no_file_is_named_for_all_there_is_nothing_to_check() -> None:
    check_files(ProbeSettings())


async def test_a_pipe_for_a_key_is_not_waited_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    os.mkfifo(pipe := tmp_path / "key")
    async with (
        serving(answering(answer(VLLM))) as server,
        watching(spec(server, api_key_file=str(pipe))) as scene,
    ):
        await eventually(lambda: scene.endpoint.load == LOAD)
    remark = f"apiKeyFile {pipe} is a pipe: give a regular file; asking without a key"
    assert any(remark in line for line in said(caplog))


async def test_files_that_never_come_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    held = threading.Event()
    monkeypatch.setattr(files, "read", lambda path: held.wait(20))
    async with watching(spec(9, scheme="https", ca_file="ca.pem"), files_timeout=0.05) as scene:
        reason = (await scene.until(DOWN)).lifecycle.reason
    held.set()
    assert reason == "its files cannot be read (their file system is silent for 0.05 s)"


async def test_an_encrypted_client_key_is_not_asked_about(tmp_path: Path) -> None:
    pair = self_signed(dt.datetime.now(dt.UTC))
    key = serialization.load_pem_private_key(pair.key, None)
    secret = serialization.BestAvailableEncryption(b"secret")
    form = serialization.PrivateFormat.PKCS8
    (tmp_path / "c").write_bytes(pair.chain)
    (tmp_path / "k").write_bytes(key.private_bytes(serialization.Encoding.PEM, form, secret))
    shown = (str(tmp_path / "c"), str(tmp_path / "k"))
    async with watching(spec(9, scheme="https"), client_certificate=shown) as scene:
        reason = (await scene.until(DOWN)).lifecycle.reason
    assert reason.startswith(f"clientCertPath {tmp_path}/c with clientKeyPath {tmp_path}/k cannot be used (")
    assert reason.endswith("give a certificate and its own key, not encrypted")


# --- TLS where there is none, and the other way round


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    pair = self_signed(dt.datetime.now(dt.UTC))
    file = tmp_path_factory.mktemp("tls") / "both.pem"
    file.write_bytes(pair.key + pair.chain)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    return context


def written_as_url(scheme: str, port: int) -> dict[str, Any]:
    return {"metrics_url": MetricsUrl(scheme, "127.0.0.1", port)}


@pytest.mark.parametrize(
    "fields, probe, remedy",
    [
        pytest.param(lambda port: {}, {}, "set scheme: https", id="entry"),
        pytest.param(
            lambda port: {}, {"scheme": "http"}, "set scheme: https of metrics-data-source", id="all"
        ),
        pytest.param(partial(written_as_url, "http"), {}, "write https:// in metricsURL", id="url"),
    ],
)
async def test_a_server_that_speaks_tls_and_is_asked_without(
    fields: Callable[[int], dict[str, Any]], probe: dict[str, Any], remedy: str, tls: ssl.SSLContext
) -> None:
    async with (
        serving(answering(answer(VLLM)), tls=tls) as server,
        watching(spec(server, **fields(server.port)), **probe) as scene,
    ):
        reason = (await scene.until(DOWN)).lifecycle.reason
        assert reason == f"127.0.0.1:{server.port} answers TLS: {remedy}"
        await eventually(lambda: scene.results["tls"] >= 3)
        assert server.connections == 1, "it is not asked with TLS each time"
        assert scene.endpoint.lifecycle.reason == reason


async def takes_a_hello_for_half_a_line(peer: Peer) -> None:
    while await peer.request() is not None:
        await peer.send(answer(VLLM))


async def refuses_a_hello(peer: Peer) -> None:
    if (await peer.first_bytes()).startswith(b"\x16\x03"):
        await peer.send(answer(b"", "400 Bad Request"))
    else:
        await takes_a_hello_for_half_a_line(peer)


@pytest.mark.parametrize("serve", [takes_a_hello_for_half_a_line, refuses_a_hello])
async def test_a_server_that_does_not_speak_tls_and_is_asked_with_it(serve: Serve, tmp_path: Path) -> None:
    (key := tmp_path / "key").write_text("secret")
    async with (
        serving(serve) as server,
        watching(spec(server, scheme="https", api_key_file=str(key)), silence=1.0) as scene,
    ):
        reason = (await scene.until(DOWN)).lifecycle.reason
        assert reason == f"127.0.0.1:{server.port} does not speak TLS: set scheme: http"
        assert server.requests and not any(b"secret" in request for request in server.requests)


async def test_a_server_that_has_answered_is_lost_before_anything_is_tried() -> None:
    seen: list[bytes] = []

    async def answers_once(peer: Peer) -> None:
        seen.append(await peer.first_bytes())
        if len(seen) == 1:
            await takes_a_hello_for_half_a_line(peer)

    async with serving(answers_once) as server, watching(spec(server), pace=never_again()) as scene:
        await scene.until(UP)
        for peer in list(server._peers.values()):
            peer.reset()
        await scene.until(DOWN)
        assert seen and not any(each.startswith(b"\x16\x03") for each in seen)
        await eventually(lambda: any(each.startswith(b"\x16\x03") for each in seen))
        assert "closed" in scene.endpoint.lifecycle.reason, "it does not speak TLS either"


# --- what cannot happen


async def test_a_defect_in_reading_metrics_leaves_the_load_unknown_and_is_told_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    url = MetricsUrl("http", "münchen", 9, "/→")
    async with (
        serving(answering(answer(VLLM))) as server,
        watching(spec(server, "odd", metrics_url=url), spec(server, "good"), metrics_again=0.05) as scene,
    ):
        odd, good = scene.fleet.endpoints
        await eventually(lambda: scene.results["defect"] >= 3 and scene.results["ok"] >= 1)
        assert scene.is_in(UP, odd) and odd.load_at is None, "its serving port answers"
        asked = len(server.requests)
        scene.scraper.kick(good)
        await eventually(lambda: len(server.requests) > asked)
    traced = [record for record in caplog.records if record.exc_info]
    assert [record.levelname for record in traced] == ["ERROR"]
    assert "odd" in said(caplog)[caplog.records.index(traced[0])]


async def test_a_defect_in_asking_at_all_is_silence_until_it_is_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def breaks(*_: Any) -> None:
        raise ZeroDivisionError

    async with serving(answering(answer(VLLM))) as server:
        with monkeypatch.context() as broken:
            broken.setattr("epp.runtime.probe.Probe.check", breaks)
            broken.setattr("epp.runtime.probe.Probe.read", breaks)
            async with watching(spec(server)) as scene:
                endpoint = await scene.until(DOWN)
                assert endpoint.lifecycle.reason == "defect: ZeroDivisionError: "
                broken.undo()
                await scene.until(UP)
                assert (endpoint.load, endpoint.engine) == (LOAD, "vllm")


async def test_after_a_defect_the_load_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(*_: Any) -> Load:
        raise ZeroDivisionError

    async with serving(answering(answer(VLLM))) as server:
        with monkeypatch.context() as broken:
            broken.setattr("epp.runtime.probe.read_load", breaks)
            async with watching(spec(server), metrics_again=0.05) as scene:
                endpoint = await scene.until(UP)
                await eventually(lambda: scene.results["defect"])
                assert endpoint.load == Load()
                broken.undo()
                await eventually(lambda: (endpoint.load, endpoint.engine) == (LOAD, "vllm"))


class Nameless(asyncio.SelectorEventLoop):
    """Knows no name, and reaches nothing but one port of this machine."""

    reachable = 0

    async def getaddrinfo(self, host: Any, port: Any, **_: Any) -> Any:  # type: ignore[override]
        host.encode("idna")  # as the real one does before it asks anyone
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    async def sock_connect(self, sock: socket.socket, address: Any) -> None:
        if address[:2] != ("127.0.0.1", self.reachable):
            raise ConnectionRefusedError
        await super().sock_connect(sock, address)


async def keeps_looking(texts: list[tuple[str, str]]) -> int:
    """How many of these (address, metrics URL) are endpoints; none keeps a good one from being read."""
    lines = [
        json.dumps({"name": f"odd-{i}", "address": address, "port": 9, "metricsURL": url}, ensure_ascii=False)
        for i, (address, url) in enumerate(texts)
    ]
    loop, specs = asyncio.get_running_loop(), []
    assert isinstance(loop, Nameless)
    async with serving(answering(answer(VLLM))) as server:
        loop.reachable = server.port
        for line in lines:
            try:
                (entry,) = parse_endpoints(f"endpoints:\n- {line}\n", "f.yaml")
            except ConfigError:
                continue
            specs.append(spec(9, entry.name, host_name=entry.address, metrics_url=entry.metrics_url))
            specs.append(spec(9, f"{entry.name}-tls", scheme="https", host_name=entry.address))
        async with watching(*specs, spec(server, "good"), pace=Pace(rest=0.05, tick=0.01)) as scene:
            *odd, good = scene.fleet.endpoints
            await eventually(lambda: all(scene.is_in(DOWN, each) for each in odd))
            read = scene.results["ok"]
            await eventually(lambda: scene.results["ok"] > read)
            assert good.load == LOAD
            assert "defect" not in scene.results
    return len(specs)


ODD = st.text(st.sampled_from("ab0-_.:/[]@%#→ü℀\0") | st.characters(codec="utf-8"), max_size=70)
URLS = st.builds(
    "{}{}{}".format,
    st.sampled_from(["", "http://", "http://h/", "https://[::1"]),
    ODD,
    st.sampled_from(["", ":9/m"]),
)


@given(
    texts=st.lists(st.tuples(st.sampled_from(["h", "::1"]) | ODD, st.just("http://h") | URLS), max_size=12)
)
@example(
    texts=[("h", f"http://{'h' * 63}.a:9/m"), ("xn--0", "http://xn--zz--/%zz?"), ("h", "http://h:65535")]
)
@settings(max_examples=25, deadline=None)
def test_any_address_and_metrics_url_is_refused_or_harmless(texts: list[tuple[str, str]]) -> None:
    with asyncio.Runner(loop_factory=Nameless) as runner:
        runner.run(keeps_looking(texts))


# --- death


def never_again(pace: Pace = QUICK) -> Pace:
    """At rest nothing is due within a test: whatever happens, happens because of something."""
    return replace(pace, rest=60.0, slowest=60.0)


async def test_a_killed_server_is_lost_at_once_and_another_is_not() -> None:
    async with (
        serving(answering(answer(VLLM))) as other,
        watching(pace=never_again()) as scene,
    ):
        server = await RawServer(answering(answer(VLLM))).start()
        scene.replace(spec(server, "a"), spec(other, "b"))
        await eventually(lambda: all(each.load_at for each in scene.fleet.endpoints))
        await server.kill()
        endpoint = await scene.until(DOWN)  # though no look was due for a minute
        assert "refuses connections" in endpoint.lifecycle.reason
        await eventually(lambda: scene.results["refused"] >= 3)
        lost = [change for change in scene.changes if change == ("a", Phase.EJECTED)]
        assert len(lost) == 1, "told once, not at each try"
        await server.start()
        await scene.until(UP)
        assert endpoint.life == 1
        await server.kill()


async def test_a_loss_is_told_once_until_it_is_over() -> None:
    async with serving(answering(answer(VLLM))) as other, watching() as scene:
        server = await RawServer(answering(answer(VLLM))).start()
        scene.replace(spec(server, "a"), spec(other, "b"))
        await eventually(lambda: all(each.load_at for each in scene.fleet.endpoints))
        assert scene.heard == []
        await server.kill()
        await eventually(lambda: scene.results["refused"] >= 4)
        assert scene.heard == [scene.endpoint]
        await server.start()
        await scene.until(UP)
        await server.kill()
        await scene.until(DOWN)
        assert scene.heard == [scene.endpoint] * 2


async def test_a_polite_end_of_an_idle_connection_is_no_death(caplog: pytest.LogCaptureFixture) -> None:
    async def closes_the_first(peer: Peer) -> None:
        await peer.request()
        await peer.send(answer(VLLM))
        if peer.number > 1:
            await peer.until_gone()

    async with serving(closes_the_first) as server, watching(spec(server), pace=never_again()) as scene:
        await eventually(lambda: scene.results["ok"] == 2)
        assert server.connections == 2
        assert scene.is_in(UP) and scene.endpoint.life == 0
    assert not caplog.records


async def test_a_server_that_closes_after_each_answer_is_not_asked_without_end() -> None:
    async def answers_and_closes(peer: Peer) -> None:
        await peer.request()
        await peer.send(answer(VLLM))

    async with (
        serving(answers_and_closes) as server,
        serving(answering(answer(VLLM))) as other,
        watching(spec(server), spec(other, "b"), pace=never_again()) as scene,
    ):
        await eventually(lambda: server.connections == 2)
        scene.scraper.kick(scene.fleet.endpoints[1])  # while this one is looked at many times
        await eventually(lambda: len(other.requests) >= 6)
        assert server.connections == 2


async def test_a_restart_is_seen_and_found_out_again() -> None:
    server = await RawServer(answering(answer(VLLM))).start()
    async with watching(spec(server)) as scene:
        await eventually(lambda: scene.endpoint.engine == "vllm")
        await server.kill()
        endpoint = await scene.until(DOWN)
        assert endpoint.engine is None
        server.serve = routes({"/metrics": answer(LLAMA), "/props": answer(b'{"total_slots":3}')})
        await server.start()
        await scene.until(UP)
        assert endpoint.engine == "llamacpp"
        assert endpoint.load == Load(waiting=0, running=1, slots=3)
        await server.kill()


async def test_a_restart_between_two_looks_asks_for_the_slots_again() -> None:
    pages = {
        "/metrics": answer(LLAMA, Process_Start_Time_Unix="1000"),
        "/props": answer(b'{"total_slots":3}'),
    }
    async with serving(routes(pages)) as server, watching(spec(server)) as scene:
        await eventually(lambda: scene.endpoint.load.slots == 3)
        pages["/metrics"] = answer(LLAMA, Process_Start_Time_Unix="2000")
        pages["/props"] = answer(b'{"total_slots":5}')
        await eventually(lambda: scene.endpoint.load.slots == 5)
        assert scene.endpoint.life == 1
        assert paths(server).count("/props") == 2


async def test_a_dead_endpoint_keeps_nobody_waiting() -> None:
    async with (
        serving(says_nothing) as dead,
        serving(answering(answer(VLLM))) as alive,
        watching(
            *(spec(dead, f"dead-{n}") for n in range(8)), spec(alive, "z"), silence=60.0, in_flight=16
        ) as scene,
    ):
        await eventually(lambda: dead.connections == 8 and scene.fleet.endpoints[-1].load_at)
        assert set(scene.results) == {"ok"}, "the dead ones are still being waited for"


async def test_no_more_looks_at_a_time_than_allowed_and_everyone_gets_a_turn() -> None:
    at_once: list[int] = []
    open_now = 0

    async def counts(peer: Peer) -> None:
        nonlocal open_now
        while await peer.request() is not None:
            open_now += 1
            at_once.append(open_now)
            await asyncio.sleep(0.005)
            open_now -= 1
            await peer.send(answer(VLLM))

    async with (
        serving(counts) as server,
        watching(*(spec(server, str(n)) for n in range(20)), in_flight=3) as scene,
    ):
        await eventually(lambda: all(each.load_at for each in scene.fleet.endpoints))
        assert max(at_once) <= 3


# --- suspicion, and what decides it


def phases(scene: Scene) -> list[Phase]:
    return [phase for _, phase in scene.changes]


STOPPABLE = """
import http.server, sys
class Answers(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        page = b"vllm:num_requests_waiting 2\\nvllm:num_requests_running 4\\n"
        self.send_response(200)
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)
    def log_message(self, *_): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers)
print(server.server_address[1], flush=True)
server.serve_forever()
"""


async def test_a_stopped_process_is_suspected_and_then_ejected_and_back_when_it_goes_on() -> None:
    """Its kernel still takes connections: only an answer shows life."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", STOPPABLE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        assert process.stdout is not None
        port = int(await process.stdout.readline())
        async with watching(spec(port), silence=0.5) as scene:
            await eventually(lambda: scene.endpoint.load_at)
            process.send_signal(signal.SIGSTOP)
            reservation = Reservation(scene.endpoint, 10)
            scene.scraper.kick(scene.endpoint)
            await scene.until({Phase.EJECTED})
            assert phases(scene) == [Phase.READY, Phase.SUSPECT, Phase.EJECTED]
            assert scene.endpoint.lifecycle.reason == "no answer within 0.5 s"
            assert not scene.endpoint.lifecycle.is_known_dead and scene.endpoint.life == 0
            process.send_signal(signal.SIGCONT)
            await scene.until(UP)
            reservation.release()
    finally:
        process.kill()
        await process.wait()


async def test_an_answer_that_comes_late_still_counts() -> None:
    async with serving(waits(0.6)) as server, watching(spec(server), silence=0.4) as scene:
        await eventually(lambda: scene.endpoint.load == LOAD)
        await eventually(lambda: scene.results["ok"] >= 2)
        assert set(scene.results) == {"ok"} and Phase.EJECTED not in phases(scene)


def closing(page: bytes) -> Serve:
    """Answer once on each connection."""

    async def serve(peer: Peer) -> None:
        await peer.request()
        await peer.send(answer(page, Connection="close"))

    return serve


async def test_each_look_is_waited_for_from_its_own_beginning() -> None:
    """The one timer goes on after a look that was answered in time."""
    pace = Pace(rest=60.0, slowest=60.0, linger=0.01)
    async with (
        serving(answering(answer(VLLM))) as well,
        serving(answering(answer(VLLM))) as other,
        watching(spec(well, "well"), spec(other, "other"), pace=pace, silence=0.3) as scene,
    ):
        first, second = scene.fleet.endpoints
        await eventually(lambda: first.load_at and second.load_at)
        other.serve = says_nothing
        read = scene.results["ok"]
        scene.scraper.kick(first)
        await eventually(lambda: scene.results["ok"] > read)
        for peer in other._peers.values():
            peer.reset()
        await eventually(lambda: scene.is_in({Phase.SUSPECT}, second))
        assert second.lifecycle.reason == "no answer within 0.3 s"


async def hangs_on_metrics(peer: Peer) -> None:
    while (request := await peer.request()) is not None:
        if b" /metrics " in request:
            await peer.until_gone()
        else:
            await peer.send(answer(b"OK"))


VLLM_LABEL = {"llm-d.ai/engine-type": "vllm"}


async def test_metrics_that_hang_cost_an_endpoint_its_load_and_nothing_else(
    caplog: pytest.LogCaptureFixture,
) -> None:
    pace = Pace(untold=0.05, untold_busy=0.05)
    async with (
        serving(hangs_on_metrics) as server,
        watching(spec(server, labels=VLLM_LABEL), pace=pace, silence=0.3, metrics_again=0.3) as scene,
    ):
        await eventually(lambda: paths(server).count("/metrics") >= 3 and scene.results["no metrics"] >= 5)
        assert scene.is_in(UP) and scene.endpoint.load_at is None
        assert not {Phase.SUSPECT, Phase.EJECTED} & {*phases(scene)}, "asked for again, suspected no more"
        server.serve = answering(answer(VLLM))
        await eventually(lambda: scene.endpoint.load == LOAD)
    assert sum("its metrics cannot be read" in line for line in said(caplog)) == 1


async def test_one_that_comes_back_with_metrics_that_hang_serves() -> None:
    server = await RawServer(answering(answer(VLLM))).start()
    async with watching(spec(server), silence=0.3) as scene:
        await eventually(lambda: scene.endpoint.engine == "vllm")
        await server.kill()
        await scene.until({Phase.EJECTED})
        server.serve = hangs_on_metrics
        await server.start()
        await scene.until({Phase.WARMING})
        await server.kill()


@pytest.mark.parametrize("status", ["500 Internal Server Error", "503 Busy", "404 Not Found", "401 No"])
async def test_metrics_that_are_refused_cost_nothing_else_where_the_server_says_that_it_is_well(
    status: str,
) -> None:
    pages = {"/metrics": answer(b"", status), "/health": answer(b"")}
    async with (
        serving(routes(pages)) as server,
        watching(spec(server, labels=VLLM_LABEL), metrics_again=0.1) as scene,
    ):
        await eventually(lambda: paths(server).count("/metrics") >= 2)
        assert phases(scene) == [Phase.READY] and scene.endpoint.load_at is None
        assert set(scene.results) == {"no metrics"}


@pytest.mark.parametrize(
    "engine, path, status",
    [
        pytest.param("vllm", "/health", "503 Service Unavailable", id="vllm-whose-engine-is-dead"),
        pytest.param("triton", "/v2/health/ready", "400 Bad Request", id="triton"),
        pytest.param("ollama", "/api/version", "502 Bad Gateway", id="a-proxy-before-it"),
    ],
)
async def test_a_server_that_says_that_it_is_not_ready_is_believed_over_its_metrics(
    engine: str, path: str, status: str
) -> None:
    load = {"vllm": VLLM, "triton": b"nv_inference_pending_request_count 2\n", "ollama": b'{"models":[]}'}
    pages = {ENGINES[engine].metrics_path: answer(load[engine]), path: answer(b"")}
    async with serving(routes(pages)) as server, watching(spec(server, engine=engine)) as scene:
        await eventually(lambda: scene.endpoint.load_at)
        assert path not in paths(server), "one that is well is not asked twice"
        pages[path] = answer(b"", status)
        scene.scraper.doubt(scene.endpoint)
        endpoint = await scene.until({Phase.LOADING})
        assert endpoint.lifecycle.reason == f"it answers {status[:3]} to {path}"
        await eventually(lambda: scene.results["unavailable"] >= 4)
        assert scene.is_in({Phase.LOADING}) and endpoint.load_at is None
        pages[path] = answer(b"")
        await scene.until(UP)
        await eventually(lambda: endpoint.load_at)
        asked, read = paths(server).count(path), scene.results["ok"]
        await eventually(lambda: scene.results["ok"] >= read + 2)
        assert paths(server).count(path) == asked, "it has proved to be well"


async def test_metrics_that_fail_are_no_excuse_for_a_server_that_is_not_ready() -> None:
    pages = {"/metrics": answer(b"", "503 Busy"), "/health": answer(b"", "503 Busy")}
    async with serving(routes(pages)) as server, watching(spec(server, labels=VLLM_LABEL)) as scene:
        endpoint = await scene.until({Phase.LOADING})
        assert phases(scene) == [Phase.LOADING] and endpoint.lifecycle.reason == "it answers 503 to /health"


async def test_a_sleeping_engine_is_not_ready() -> None:
    sleeps = b'vllm:engine_sleep_state{sleep_state="weights_offloaded"} 1.0\n'
    pages = {"/metrics": answer(VLLM + sleeps), "/health": answer(b"")}
    async with serving(routes(pages)) as server, watching(spec(server)) as scene:
        assert (await scene.until({Phase.LOADING})).lifecycle.reason == "asleep (level 1)"
        pages["/metrics"] = answer(VLLM)
        await scene.until(UP)
        await eventually(lambda: scene.endpoint.load == LOAD)


async def test_a_doubt_shows_that_only_the_old_connections_live() -> None:
    """A llama.cpp server that is told to stop closes its port and may go on with what is open."""
    async with serving(answering(answer(VLLM))) as server, watching(spec(server)) as scene:
        await eventually(lambda: scene.endpoint.load_at)
        server.close_port()
        scene.scraper.doubt(scene.endpoint)
        endpoint = await scene.until({Phase.EJECTED})
        assert "refuses connections" in endpoint.lifecycle.reason and endpoint.lifecycle.is_known_dead


async def test_doubts_are_not_looked_into_more_often_than_the_floor() -> None:
    pace = Pace(floor=0.1, rest=60.0, slowest=60.0)
    async with serving(answering(answer(VLLM))) as server, watching(spec(server), pace=pace) as scene:
        await eventually(lambda: scene.endpoint.load_at)
        began, before = time.monotonic(), len(server.requests)
        while (lasted := time.monotonic() - began) < 0.5:
            if not scene.is_looking:
                scene.scraper.doubt(scene.endpoint)
            await asyncio.sleep(0)
        looks = (len(server.requests) - before) / 2  # each asks for health, and for the load
        assert 2 <= looks <= lasted / 0.1 + 2


async def test_a_doubt_of_someone_elses_endpoint_is_nothing() -> None:
    async with watching() as scene:
        scene.scraper.doubt(Endpoint(spec(9), Lifecycle(HealthSettings(), 0.0)))


async def test_resets_are_suspicion_and_two_in_a_row_eject() -> None:
    async with serving(hangs_up) as server, watching(spec(server)) as scene:
        endpoint = await scene.until({Phase.EJECTED})
        assert not endpoint.lifecycle.is_known_dead and server.connections >= 2


async def test_one_that_dies_between_two_questions_is_lost_at_once() -> None:
    async def dies(peer: Peer) -> None:
        await peer.request()
        peer.server.close_port()
        await peer.send(answer(LLAMA, Connection="close"))

    async with serving(dies) as server, watching(spec(server)) as scene:
        endpoint = await scene.until({Phase.EJECTED})
        assert phases(scene) == [Phase.EJECTED] and "refuses" in endpoint.lifecycle.reason


async def test_one_reset_is_asked_about_and_forgiven() -> None:
    async def resets_the_second(peer: Peer) -> None:
        while await peer.request() is not None:
            if len(peer.server.requests) in (2, 3):  # a kept connection's loss is made good once
                peer.reset()
            else:
                await peer.send(answer(VLLM))

    async with serving(resets_the_second) as server, watching(spec(server), pace=Pace(rest=0.1)) as scene:
        await eventually(lambda: scene.results["ok"] >= 4)
        assert phases(scene) == [Phase.READY, Phase.SUSPECT, Phase.READY] and scene.endpoint.life == 0


async def test_one_silence_is_counted_once() -> None:
    """The first question breaks off shortly before its time is up, the second is answered within its own."""

    async def breaks_off_late(peer: Peer) -> None:
        while await peer.request() is not None:
            match len(peer.server.requests):
                case 2 | 3:  # a kept connection's loss is made good once
                    await asyncio.sleep(0.4 if len(peer.server.requests) == 3 else 0.0)
                    peer.reset()
                case 4:
                    await asyncio.sleep(0.3)
            await peer.send(answer(VLLM))

    async with (
        serving(breaks_off_late) as server,
        watching(spec(server), pace=Pace(rest=0.1), silence=0.5) as scene,
    ):
        await eventually(lambda: len(server.requests) >= 6)
        assert phases(scene) == [Phase.READY, Phase.SUSPECT, Phase.READY]


async def test_what_we_lack_ourselves_says_nothing_of_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    async def none_left(*_: Any, **__: Any) -> Any:
        raise OSError(errno.EMFILE, "Too many open files")

    async with serving(closing(VLLM)) as server, watching(spec(server), pace=Pace(rest=0.05)) as scene:
        await eventually(lambda: scene.endpoint.load_at)
        with monkeypatch.context() as poor:
            poor.setattr(asyncio.get_running_loop(), "create_connection", none_left)
            await eventually(lambda: scene.results["ours"] >= 5)
        assert phases(scene) == [Phase.READY]


# --- metrics elsewhere


def elsewhere(server: RawServer) -> dict[str, Any]:
    return {"metrics_url": MetricsUrl("http", "127.0.0.1", server.port, "/stats")}


async def test_metrics_elsewhere_that_are_dead_leave_the_load_unknown() -> None:
    async with serving(routes({"/health": answer(b"")})) as server:
        metrics = await RawServer(answering(answer(VLLM))).start()
        where = spec(server, **elsewhere(metrics))
        async with watching(where, pace=Pace(rest=0.05, untold=0.05), metrics_again=0.1) as scene:
            await eventually(lambda: scene.endpoint.load == LOAD)
            await metrics.kill()
            await eventually(lambda: scene.results["refused"] >= 3)
            scene.fleet.expire(time.monotonic() + scene.fleet.stale_after)
            assert phases(scene) == [Phase.READY] and scene.endpoint.load_at is None
            await metrics.start()
            await eventually(lambda: scene.endpoint.load == LOAD)
            await metrics.kill()


@pytest.mark.parametrize("known", [True, False], ids=["of-a-known-engine", "of-no-known-engine"])
async def test_metrics_elsewhere_do_not_vouch_for_the_serving_port(known: bool) -> None:
    page = answer(VLLM) if known else answer(b"python_info 1\n")
    async with serving(answering(page)) as metrics:
        server = await RawServer(routes({"/health": answer(b"")})).start()
        async with watching(spec(server, **elsewhere(metrics)), pace=Pace(untold=0.05)) as scene:
            await scene.until(UP)
            assert set(paths(server)) <= {"/health"}, "nothing that nobody knows to be harmless"
            await server.kill()
            endpoint = await scene.until({Phase.EJECTED})
            assert f"127.0.0.1:{server.port} refuses connections" in endpoint.lifecycle.reason
            assert scene.results["refused"]


# --- engines without metrics


async def test_an_ollama_tells_its_models_and_is_never_asked_what_it_does_not_have() -> None:
    models = b'{"models":[{"name":"qwen3:8b","size":6591830464}]}'
    async with (
        serving(routes({"/api/ps": answer(models)})) as server,
        watching(spec(server), pace=Pace(rest=0.05)) as scene,
    ):
        await eventually(lambda: scene.results["ok"] >= 3)
        assert (scene.endpoint.engine, scene.endpoint.load) == (
            "ollama",
            Load(models={"qwen3:8b": 6591830464}),
        )
        assert scene.scraper.stats.extract_errors == 0
        assert "/health" not in paths(server)
        asked = paths(server)
        assert asked.count("/api/ps") == len(asked) - asked.index("/api/ps"), "found out once"


async def test_an_engine_that_tells_nothing_is_asked_only_how_it_is() -> None:
    async with (
        serving(routes({"/health": answer(b"{}")})) as server,
        watching(spec(server, engine="mlx-server")) as scene,
    ):
        await eventually(lambda: scene.results["no metrics"] >= 3)
        assert scene.is_in(UP) and set(paths(server)) == {"/health"}


async def test_one_without_load_is_watched_more_closely_while_requests_are_there() -> None:
    pace = Pace(untold=60.0, untold_busy=0.05, linger=0.1)
    async with (
        serving(routes({"/health": answer(b"{}")})) as server,
        watching(spec(server, engine="mlx-server"), pace=pace) as scene,
    ):
        await eventually(lambda: scene.results["no metrics"] == 1)
        reservation = Reservation(scene.endpoint, 10)
        scene.scraper.kick(scene.endpoint)
        await eventually(lambda: scene.results["no metrics"] >= 6)
        reservation.release()
        await eventually(lambda: scene.scraper._shares.busy == 0)


# --- first tokens that do not come


@pytest.mark.parametrize(
    "waiting, serves_others, blamed",
    [
        pytest.param(0, False, True, id="idle"),
        pytest.param(2, False, False, id="says-that-it-queues"),
        pytest.param(0, True, False, id="serves-others"),
    ],
)
async def test_a_first_token_that_does_not_come_is_a_failure_told_once(
    waiting: int, serves_others: bool, blamed: bool
) -> None:
    page = answer(VLLM.replace(b"waiting 2", b"waiting %d" % waiting))
    async with serving(answering(page)) as server, watching(spec(server), pace=Pace(rest=0.05)) as scene:
        scene.fleet.health = replace(scene.fleet.health, first_token=0.2)
        await eventually(lambda: scene.endpoint.load_at)
        requests = [Reservation(scene.endpoint, 1, at=time.monotonic(), is_streamed=True) for _ in range(2)]
        if serves_others:
            scene.fleet.served(scene.endpoint, time.monotonic())
        late = requests[1].at + 0.2
        await eventually(lambda: time.monotonic() > late)
        looked = scene.results["ok"]
        await eventually(lambda: scene.results["ok"] >= looked + 3)
        assert phases(scene) == [Phase.READY, *([Phase.SUSPECT] if blamed else [])]
        assert scene.endpoint.lifecycle.failures == blamed
        for each in requests:
            each.release()


# --- many that are dead


async def test_a_thousand_dead_endpoints_cost_what_a_few_do(unused_tcp_port: int) -> None:
    dead = [spec(unused_tcp_port, f"dead-{n}") for n in range(1000)]
    async with (
        serving(answering(answer(VLLM))) as server,
        watching(*dead, spec(server, "z"), pace=Pace()) as scene,
    ):
        await scene.scraper.first_look(60.0)
        began, before, read = time.monotonic(), scene.results["refused"], scene.results["ok"]
        await eventually(lambda: scene.results["ok"] >= read + 3)  # it is read as if it were alone
        lasted = time.monotonic() - began
        # those that were lost first did not know yet how many there are: once they come too soon
        assert scene.results["refused"] - before <= len(dead) + Pace().retry_budget * (lasted + 1.0)


async def test_those_that_never_answer_keep_no_place_of_those_that_do() -> None:
    async with (
        serving(says_nothing) as silent,
        serving(answering(answer(VLLM))) as server,
        watching(*(spec(silent, f"{n}") for n in range(6)), in_flight=2, silence=0.05) as scene,
    ):
        await eventually(lambda: all(scene.is_in(DOWN, each) for each in scene.fleet.endpoints))
        scene.scraper._fleet.health = HealthSettings(silence=PATIENT, second_silence=PATIENT)
        await eventually(lambda: not scene.scraper._absent.free)
        scene.replace(*(each.spec for each in scene.fleet.endpoints), spec(server, "z"))
        await eventually(lambda: scene.fleet.endpoints[-1].load_at)
        assert not scene.scraper._absent.free


async def test_one_that_is_back_is_looked_at_when_its_back_off_ends() -> None:
    """Not at its next turn, which is in a minute."""
    pace = Pace(rest=60.0, slowest=60.0, retry=0.02)
    async with serving(answering(answer(VLLM))) as server, watching(spec(server), pace=pace) as scene:
        await eventually(lambda: scene.endpoint.load_at)
        now = time.monotonic()
        for _ in range(2):
            scene.fleet.failed(scene.endpoint, now, "500")
        scene.scraper.doubt(scene.endpoint)
        read = scene.results["ok"]
        await eventually(lambda: scene.results["ok"] >= read + 2)
        assert scene.is_in(UP)


# --- never stuck


async def cuts_pages_short(peer: Peer) -> None:
    await peer.request()
    await peer.send(answer(VLLM)[:-5])


TROUBLES: dict[str, Serve] = {
    "hangs": says_nothing,
    "hangs up": hangs_up,
    "cuts its pages short": cuts_pages_short,
    "loads": answering(LOADING),
    "is behind a proxy": answering(answer(b"", "502 Bad Gateway")),
    "has metrics that hang": hangs_on_metrics,
    "has no metrics": answering(NOT_OFFERED),
    "has another page": answering(answer(b"<html>")),
    "is another engine": routes({"/metrics": answer(LLAMA), "/props": answer(b'{"total_slots":3}')}),
    "speaks ssh": answering(b"SSH-2.0-x\r\n\r\n"),
    "closes each connection": closing(VLLM),
    "is well": answering(answer(VLLM)),
}


@given(
    days=st.lists(
        st.tuples(
            st.sampled_from(sorted(TROUBLES)), st.sampled_from(["", "kill", "close_port", "doubt", "change"])
        ),
        max_size=5,
    ),
    apart=st.booleans(),
)
@example(days=[("hangs", "kill"), ("has metrics that hang", "doubt")], apart=False)
@settings(max_examples=15, deadline=None)
def test_whatever_a_server_went_through_it_is_found_well_when_it_is(
    days: list[tuple[str, str]], apart: bool
) -> None:
    asyncio.run(goes_through(days, apart))


async def goes_through(days: list[tuple[str, str]], apart: bool) -> None:
    pace = Pace(rest=0.05, untold=0.05, untold_busy=0.05, loading=0.05, retry=0.05, retry_late=0.05)
    async with serving(answering(answer(VLLM))) as metrics:
        server = await RawServer(answering(answer(VLLM))).start()
        fields = elsewhere(metrics) if apart else {}
        async with watching(
            spec(server, **fields), pace=pace, silence=0.1, metrics_again=0.1, other_scheme_again=0.1
        ) as scene:
            for number, (trouble, event) in enumerate(days):
                await server.kill()
                server.serve = TROUBLES[trouble]
                await server.start()
                looked = sum(scene.results.values())
                await eventually(lambda looked=looked: sum(scene.results.values()) >= looked + 2)
                if event in ("kill", "close_port"):
                    await server.kill() if event == "kill" else server.close_port()
                    scene.scraper.doubt(scene.endpoint)
                    await scene.until({Phase.EJECTED})
                elif event == "doubt":
                    scene.scraper.doubt(scene.endpoint)
                elif event == "change":
                    scene.replace(spec(server, labels={"n": str(number)}, **fields))
            await server.kill()
            server.serve = answering(answer(VLLM))
            await server.start()
            await eventually(lambda: scene.endpoint.load == LOAD and scene.is_in({*UP, Phase.PRESSURED}))
            assert scene.endpoint.engine == "vllm"
            lanes = (scene.scraper._answering, scene.scraper._absent)
            await eventually(lambda: all(lane.free == 64 for lane in lanes))
        await server.kill()


# --- pace


async def test_a_pick_makes_a_resting_endpoint_quick_until_traffic_ends() -> None:
    pace = Pace(rest=60.0, slowest=60.0, linger=0.2)
    async with serving(answering(answer(VLLM))) as server, watching(spec(server), pace=pace) as scene:
        await eventually(lambda: scene.results["ok"] == 1)
        reservation = Reservation(scene.endpoint, 10)
        scene.scraper.kick(scene.endpoint)
        await eventually(lambda: scene.results["ok"] >= 6)  # at rest the next one is due in a minute
        reservation.release()
        await eventually(lambda: scene.scraper._shares.busy == 0)


async def test_an_endpoint_with_a_request_is_busy_however_long_it_takes() -> None:
    pace = Pace(rest=60.0, slowest=60.0, linger=0.1)
    async with serving(answering(answer(VLLM))) as server, watching(spec(server), pace=pace) as scene:
        await eventually(lambda: scene.results["ok"] == 1)
        reservation = Reservation(scene.endpoint, 10)
        scene.scraper.kick(scene.endpoint)
        await asyncio.sleep(5 * pace.linger)
        looked = scene.results["ok"]
        await eventually(lambda: scene.results["ok"] >= looked + 3)
        reservation.release()
        await eventually(lambda: scene.scraper._shares.busy == 0)


async def test_a_pick_of_a_lost_endpoint_makes_the_next_try_come_soon() -> None:
    pace = Pace(retry=0.02, retry_late=60.0)
    async with serving(hangs_up) as server, watching(spec(server), pace=pace) as scene:
        for tries in range(1, 13):
            await eventually(lambda tries=tries: scene.results["closed"] >= tries and not scene.is_looking)
            scene.scraper.kick(scene.endpoint)  # the last of them while the next try is due in 41 s or later
        server.serve = answering(answer(VLLM))
        await scene.until(UP)


# --- the start


async def test_the_first_look_is_over_when_every_endpoint_was_looked_at(unused_tcp_port: int) -> None:
    async with serving(answering(answer(VLLM))) as quick, serving(waits(0.3)) as slow:
        specs = [spec(quick, "a"), spec(slow, "b"), spec(unused_tcp_port, "refuses"), spec(quick, "c")]
        async with watching(*specs, pace=never_again()) as scene:
            await scene.scraper.first_look(60.0)
            assert [scene.is_in(UP, each) for each in scene.fleet.endpoints] == [True, True, False, True]
            async with asyncio.timeout(5.0):
                await scene.scraper.first_look(60.0)  # there is nothing to wait for any more


async def test_the_first_look_waits_no_longer_than_it_may() -> None:
    async with (
        serving(answering(answer(VLLM))) as quick,
        serving(says_nothing) as silent,
        watching(spec(quick, "a"), spec(silent, "b"), silence=30.0) as scene,
    ):
        await eventually(lambda: scene.fleet.endpoints[0].load_at)
        started = time.monotonic()
        await scene.scraper.first_look(0.3)
        assert 0.29 <= time.monotonic() - started < 10.0
        assert [scene.is_in(UP, each) for each in scene.fleet.endpoints] == [True, False]


async def test_nobody_to_look_at_needs_no_first_look() -> None:
    async with watching() as scene, asyncio.timeout(5.0):
        await scene.scraper.first_look(60.0)


def waits(seconds: float) -> Serve:
    """Answer each request after a while."""

    async def serve(peer: Peer) -> None:
        while await peer.request() is not None:
            await asyncio.sleep(seconds)
            await peer.send(answer(VLLM))

    return serve


async def test_a_kick_of_someone_elses_endpoint_is_nothing() -> None:
    async with watching() as scene:
        scene.scraper.kick(Endpoint(spec(9), Lifecycle(HealthSettings(), 0.0)))


# --- coming and going


async def test_endpoints_come_and_go() -> None:
    async with (
        serving(answering(answer(VLLM))) as first,
        serving(says_nothing) as second,
        watching() as scene,
    ):
        scene.replace(spec(first, "a"), spec(second, "b"))
        await eventually(lambda: first.requests and second.connections)
        scene.replace(spec(first, "a"))
        await eventually(lambda: not second._peers)
        scene.replace()
        await eventually(lambda: not first._peers)
        asked = len(first.requests)
        scene.replace(spec(first, "c"))
        await eventually(lambda: len(first.requests) > asked)


async def test_a_changed_label_keeps_what_is_known_and_asks_anew(caplog: pytest.LogCaptureFixture) -> None:
    page = answer(VLLM + b"my_queue 3\n")
    async with (
        serving(answering(page)) as server,
        watching(spec(server), pace=never_again(), engines=WITH_MINE) as scene,
    ):
        await eventually(lambda: scene.endpoint.load == LOAD)
        endpoint, reservation = scene.endpoint, Reservation(scene.endpoint, 7)
        scene.replace(spec(server, labels={"llm-d.ai/engine-type": "mine"}))
        assert (scene.endpoint, endpoint.load) == (endpoint, LOAD), "until it has answered again"
        await eventually(lambda: endpoint.load == Load(waiting=3))
        assert (endpoint.engine, endpoint.requests_in_flight, endpoint.life) == ("mine", 1, 0)
        reservation.release()
        await eventually(lambda: len(server._peers) == 1)
    assert not caplog.records


async def test_a_change_while_a_look_is_on_its_way_drops_that_look() -> None:
    async with (
        serving(says_nothing) as silent,
        serving(answering(answer(VLLM))) as server,
        watching(spec(silent), silence=30.0) as scene,
    ):
        await eventually(lambda: silent.connections)
        scene.replace(spec(silent, metrics_url=MetricsUrl("http", "127.0.0.1", server.port)))
        await eventually(lambda: scene.endpoint.load == LOAD and not silent._peers)


async def test_a_lost_endpoint_that_is_changed_is_not_told_to_be_lost_again() -> None:
    async with serving(hangs_up) as server, watching(spec(server)) as scene:
        endpoint = await scene.until(DOWN)
        for n in range(3):
            tried = scene.results["closed"]
            scene.replace(spec(server, labels={"n": str(n)}))
            await eventually(lambda tried=tried: scene.results["closed"] > tried)
        server.serve = answering(answer(VLLM))
        await scene.until(UP)
        assert scene.endpoint is endpoint and scene.heard == [endpoint]
    assert [phase for _, phase in scene.changes[:2]] == [Phase.EJECTED, Phase.PROBING]


def on_uvloop(scenario: Callable[[], Any]) -> None:
    uvloop.run(scenario())


def test_the_same_on_uvloop() -> None:
    on_uvloop(test_endpoints_come_and_go)
    on_uvloop(test_a_restart_is_seen_and_found_out_again)
    on_uvloop(test_a_pick_makes_a_resting_endpoint_quick_until_traffic_ends)


async def test_stopping_in_the_middle_of_everything_leaves_nothing(unused_tcp_port: int) -> None:
    async with serving(says_nothing) as silent, serving(answering(answer(VLLM))) as server:
        before = descriptors()
        specs = [spec(silent, "silent"), spec(server, "a"), spec(unused_tcp_port, "refuses")]
        async with watching(*specs) as scene:
            await eventually(lambda: silent.connections and scene.results["ok"])
        await eventually(lambda: not silent._peers and not server._peers and descriptors() <= before)


def test_an_address_that_nobody_has_times_out() -> None:
    """A full backlog drops connection attempts, as a machine that is switched off does."""

    async def scenario() -> None:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen(0)
            fillers = [socket.socket() for _ in range(4)]
            for filler in fillers:
                filler.setblocking(False)
                filler.connect_ex(listener.getsockname())
            async with watching(spec(listener.getsockname()[1]), silence=0.2) as scene:
                reason = (await scene.until(DOWN)).lifecycle.reason
                assert "within 0.2 s" in reason
            for filler in fillers:
                filler.close()

    asyncio.run(scenario())
