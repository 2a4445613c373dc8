"""The ``epp`` command: reads its arguments, builds every part once, runs them until told to stop.

Place:   the only module that knows all rooms.
Rule:    wiring, no logic; read from top to bottom. Clock and chance are made here and handed out.
"""

import asyncio
import dataclasses
import datetime as dt
import functools
import gc
import importlib.util
import logging
import os
import random
import ssl
import sys
import time
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import uvloop

from epp.config.decode import ConfigError
from epp.config.flags import (
    HelpRequested,
    ServeFlags,
    UsageError,
    check_discovery,
    follows_kubernetes,
    parse,
    without_effect,
)
from epp.config.picker_config import Assembly, build, load, load_default
from epp.core.apis import Parsers
from epp.core.budget import Budget
from epp.core.events import ResponsePhase
from epp.core.fleet import Endpoint, EndpointSpec, Fleet
from epp.core.flow.objectives import Objectives
from epp.core.flow.shedding import Shedding
from epp.core.lifecycle import Change, Signal
from epp.core.scheduling import Scheduler
from epp.core.stream import StreamSettings
from epp.runtime import admin, files, logs, memory, ports, serving, tls
from epp.runtime.discovery import DiscoverySettings, FileDiscovery
from epp.runtime.errors import StartError
from epp.runtime.ext_proc import ExtProc
from epp.runtime.files import FileFault
from epp.runtime.flow import queued
from epp.runtime.health import HealthService, Readiness
from epp.runtime.metrics import BufferMetrics, FleetMetrics, Metrics, ScrapeMetrics, Single
from epp.runtime.plugins import load_types
from epp.runtime.probe import check_files
from epp.runtime.reporting import Reporter
from epp.runtime.scrape import Scraper, scrape_settings
from epp.runtime.sources import Discovery, OnChange, Sources
from epp.runtime.supervise import forever, on_hangup, told_to_stop
from epp.runtime.transitions import Transitions

logger = logging.getLogger("epp.main")

USAGE = """\
usage: epp COMMAND

commands:
  serve     choose an endpoint for every request a gateway asks about (epp serve --help)
  bench     measure through a real gateway; needs the extra "bench" (epp bench --help)
  version   print the version
  help      print this; epp help serve is epp serve --help

epp --flag ... is epp serve --flag ..., so the arguments of the upstream picker work unchanged.
"""
ORDERED_DESTINATIONS = 3
"""As many as a request is usually tried: Envoy's default is one retry, Istio's two."""
FIRST_LOOK_SECONDS = 0.25
"""How long the first request may wait for the first look at every endpoint: dead ones refuse in
milliseconds, and a silent one should not delay the start."""

LAST_CALL_SECONDS = 1.0
"""So long before the end of a drain those are refused that still wait for a server."""


def main(arguments: Sequence[str]) -> int:
    """One command; returns the exit status."""
    match arguments:
        case ["serve", *flags]:
            return _serve(flags)
        case ["bench", *rest]:
            return _bench(rest)
        case ["help", "serve"]:
            return _serve(["--help"])
        case [] | ["help" | "-h" | "-help" | "--help"] | ["version", "-h" | "-help" | "--help"]:
            sys.stdout.write(USAGE)
        case ["version" | "--version" | "-version"]:
            sys.stdout.write(f"epp {version('fleet-epp')}\n")
        case ["version" | "--version" | "-version" | "help" as command, argument, *_]:
            sys.stderr.write(f'epp {command}: unexpected argument "{argument}": see epp help\n')
            return 2
        case [flag, *_] if flag.startswith("-"):
            return _serve(arguments)
        case [command, *_]:
            sys.stderr.write(f'epp: unknown command "{command}": there are serve, bench, version and help\n')
            return 2
    return 0


def _serve(arguments: Sequence[str]) -> int:
    try:
        flags = parse(arguments, os.environ)
        memory.keep_what_is_freed()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve(flags))
    except HelpRequested as wanted:
        sys.stdout.write(str(wanted))
    except UsageError as fault:
        return _fault(fault, 2)
    except (ConfigError, StartError) as fault:
        return _fault(fault, 1)
    return 0


def _bench(arguments: Sequence[str]) -> int:
    """Found by name when it is asked for: the product never needs it."""
    if importlib.util.find_spec("bench") is None:
        sys.stderr.write("epp bench: not installed: pip install 'fleet-epp[bench]'\n")
        return 1
    return int(importlib.import_module("bench.command").main(arguments))


def _fault(fault: Exception, status: int) -> int:
    sys.stderr.write(f"epp serve: {fault}\n")
    return status


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """One pool's parts, ready to run."""

    fleet: Fleet
    transitions: Transitions
    scheduler: Scheduler
    scraper: Scraper
    discovery: Discovery
    parsers: Parsers
    objectives: Objectives
    """Nobody fills them in yet: every request has priority 0."""


def _configured(flags: ServeFlags) -> Assembly:
    """The plugins that the configuration asks for."""
    if flags.config_file:
        try:
            text = files.read_text(Path(flags.config_file), pipes=True)
        except FileFault as fault:
            raise StartError(f"--config-file: {flags.config_file} {fault}") from fault
        config = load(text, flags.config_file)
    else:
        config = load(flags.config_text, "--config-text") if flags.config_text else load_default()
    assembly = build(config, load_types())
    check_discovery(flags, config_has_discovery=assembly.discovery is not None)
    return assembly


def _discovery(
    flags: ServeFlags, assembly: Assembly, engines: Collection[str], take_over: OnChange
) -> Discovery:
    """Where the endpoints come from: a list in a file, an InferencePool, or both."""
    listed, clock = assembly.discovery, time.monotonic
    sources: dict[str, Callable[[OnChange], Discovery]] = {}
    if listed or flags.endpoints_file:
        settings = DiscoverySettings(
            named_by=assembly.discovery_at.at("parameters", "path").place if listed else "--endpoints-file",
            watch=listed.watch_file if listed else True,
            default_namespace=flags.pool_namespace,
            engines=engines,
        )
        file = Path(listed.path if listed else flags.endpoints_file)
        sources["endpoints file"] = lambda tell: FileDiscovery(file, settings, tell, clock=clock)
    if follows_kubernetes(flags, config_has_discovery=listed is not None):
        # imported here: whoever lists the servers should not wait for it
        from epp.runtime.kubernetes.api import KubernetesApi  # noqa: PLC0415
        from epp.runtime.kubernetes.discovery import KubernetesDiscovery, KubernetesSettings  # noqa: PLC0415

        pool = KubernetesSettings(pool=flags.pool_name, namespace=flags.pool_namespace, engines=engines)
        sources["Kubernetes"] = lambda tell: KubernetesDiscovery(
            *(KubernetesApi(os.environ), pool, tell),
            clock=clock,
            unix_clock=time.time,  # noqa: TID251 (heartbeats carry unix times)
            chance=random.Random(),
        )
    return Sources(sources, take_over)


def _pool(flags: ServeFlags, assembly: Assembly, readiness: Readiness) -> Pool:
    chance, clock = random.Random(), time.monotonic
    transitions = Transitions()

    def changed(endpoint: Endpoint, change: Change) -> None:
        transitions.changed(endpoint, change)
        if change.signal in (Signal.FAILED, Signal.QUITTING):
            scraper.doubt(endpoint)

    fleet = Fleet(
        stale_after=flags.metrics_staleness_threshold,
        health=assembly.health,
        on_change=changed,
    )
    pace = assembly.pace(floor=flags.refresh_metrics_interval, stale_after=flags.metrics_staleness_threshold)
    settings = scrape_settings(assembly.metrics_source, assembly.extractor, pace)
    try:
        check_files(settings.probe)
    except FileFault as fault:
        raise assembly.metrics_source_at.error(str(fault)) from fault
    scraper = Scraper(
        fleet,
        settings,
        clock=clock,
        unix_clock=time.time,  # noqa: TID251 (LoRA readings carry unix times)
        chance=chance,
        on_lost=lambda endpoint: discovery.recheck(endpoint.spec.host_name),
    )
    scheduler = Scheduler(
        fleet,
        assembly.profile,
        assembly.producers,
        chance=chance,
        honour_subset=not flags.disable_endpoint_subset_filter,
        destinations=ORDERED_DESTINATIONS if flags.destinations == "ordered" else 1,
    )

    @functools.cache
    def tell_of_tiers() -> None:
        logs.warn_of(["endpoints have tiers, and nothing heeds them: add a tier-preference filter"])

    def take_over(specs: Sequence[EndpointSpec]) -> None:
        if any(spec.tier for spec in specs) and not assembly.heeds_tiers:
            tell_of_tiers()
        scraper.update(*fleet.replace(specs, clock()))
        readiness.is_synced = True

    discovery = _discovery(flags, assembly, settings.probe.engines, take_over)
    return Pool(
        fleet=fleet,
        transitions=transitions,
        scheduler=scheduler,
        scraper=scraper,
        discovery=discovery,
        parsers=Parsers(assembly.parsers),
        objectives=Objectives(),
    )


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


def _oldest_tls(flags: ServeFlags) -> ssl.TLSVersion:
    return ssl.TLSVersion.TLSv1_3 if flags.tls_min_version == "VersionTLS13" else ssl.TLSVersion.TLSv1_2


def _certificates(flags: ServeFlags) -> dict[str, tls.Certificates]:
    """Those that come from a directory, by the flag that names it."""
    directories = {"metrics-cert-dir": flags.metrics_cert_dir}
    if flags.secure_serving:
        directories["cert-path"] = flags.cert_path
    return {
        flag: tls.Certificates(
            Path(directory),
            flag=flag,
            today=_now,
            oldest=_oldest_tls(flags),
            follow=flags.enable_cert_reload,
        )
        for flag, directory in directories.items()
        if directory
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """Everything that one process is made of, nothing of it running yet."""

    pool: Pool
    readiness: Readiness
    ext_proc: ExtProc
    pages: admin.AdminState
    certificates: Mapping[str, tls.Certificates]
    refuse_waiting: Callable[[], None]
    """The end is near: tell the clients whose requests still wait."""

    def reread(self) -> None:
        """What SIGHUP asks for."""
        logger.info("SIGHUP: endpoints and certificates are read again")
        self.pool.discovery.reread()
        for certificates in self.certificates.values():
            certificates.reread()


def _build(flags: ServeFlags, request_log: logs.RequestLog) -> Process:
    assembly = _configured(flags)
    logs.warn_of((*without_effect(flags), *assembly.warnings))
    readiness = Readiness()
    pool = _pool(flags, assembly, readiness)
    readiness.explain("endpoints", pool.discovery.detail)
    certificates = _certificates(flags)
    readiness.explain("certificate", lambda: "; ".join(c.error for c in certificates.values() if c.error))
    budget = Budget(flags.max_buffered_bytes)
    metrics = Metrics(version=version("fleet-epp"))
    metrics.add(
        FleetMetrics(pool.fleet, pool=flags.pool_name, clock=time.monotonic),
        pool.transitions,
        ScrapeMetrics(pool.scraper.stats),
        BufferMetrics(budget),
        pool.discovery,
        Single(
            "fleet_epp_log_lines_lost_total",
            "Request lines that the log did not take.",
            lambda: request_log.lost,
            kind="counter",
        ),
    )
    ext_proc = ExtProc(
        scheduler=pool.scheduler,
        health=pool.fleet,
        settings=StreamSettings(
            pool.parsers,
            budget,
            new_id=lambda: str(uuid.uuid4()),
            response_phase=ResponsePhase(flags.response_phase),
            endpoint_at=pool.fleet.endpoint_at,
        ),
        observer=Reporter(metrics, request_log, pool.scraper.kick),
        clock=time.monotonic,
    )
    refuse_waiting: Callable[[], None] = _nothing
    if assembly.flow is not None:
        # bodies that wait must leave room for those that come
        flow = dataclasses.replace(assembly.flow, max_bytes=min(assembly.flow.max_bytes, budget.limit / 2))
        queues = queued(
            *(flow, ext_proc),
            fleet=pool.fleet,
            objectives=pool.objectives,
            pool_name=flags.pool_name,
            loop=asyncio.get_running_loop,
        )
        ext_proc, refuse_waiting = queues.service, queues.gate.close
        metrics.add(queues.metrics)
    elif follows_kubernetes(flags, config_has_discovery=assembly.discovery is not None):
        sheds = Shedding(pool.scheduler, pool.fleet, assembly.detector, pool.objectives)
        ext_proc = dataclasses.replace(ext_proc, scheduler=sheds)
    pages = admin.AdminState(
        metrics=metrics,
        readiness=readiness,
        fleet=pool.fleet,
        scheduler=pool.scheduler,
        clock=time.monotonic,
        wall_clock=time.time,  # noqa: TID251 (people read it)
    )
    return Process(
        pool=pool,
        readiness=readiness,
        ext_proc=ext_proc,
        refuse_waiting=refuse_waiting,
        pages=pages,
        certificates=certificates,
    )


def _nothing() -> None:
    """Nobody waits."""


def _pairs(flags: ServeFlags, process: Process) -> Callable[[], tls.KeyPair] | None:
    """Where a new connection's certificate comes from; None without TLS."""
    if not flags.secure_serving:
        return None
    if own := process.certificates.get("cert-path"):
        return own.current
    pair = dataclasses.replace(tls.self_signed(_now()), oldest=_oldest_tls(flags))
    return lambda: pair


def _servers(flags: ServeFlags, process: Process) -> tuple[serving.Server, serving.Server]:
    """The one for gateways and the one for health checks, on their ports."""
    health = HealthService(process.readiness).services()
    # As much again as for bodies: a client is told what is refused there, here its stream breaks.
    pieces = Budget(flags.max_buffered_bytes)
    gateways = serving.make_server(
        flags.server,
        {**process.ext_proc.services(), **(health if flags.health_checking else {})},
        budget=pieces,
        pairs=_pairs(flags, process),
        max_receive_bytes=flags.grpc_max_recv_msg_size,
        max_send_bytes=flags.grpc_max_send_msg_size,
    )
    gateways.bind(flags.grpc_port, flag="grpc-port")
    checks = serving.make_server(flags.server, health, budget=pieces)
    checks.bind(flags.grpc_health_port, flag="grpc-health-port")
    return gateways, checks


def _pages_tls(flags: ServeFlags, process: Process) -> ssl.SSLContext | None:
    own = process.certificates.get("metrics-cert-dir")
    if own is None:
        return None
    client_ca = Path(flags.metrics_client_ca_file) if flags.metrics_client_ca_file else None
    context = tls.pages_context(own.current(), client_ca)
    own.on_change = lambda pair: tls.use(context, pair)
    return context


def _what_is_served(flags: ServeFlags, pool: Pool, taken: Sequence[int]) -> dict[str, Any]:
    return {
        "version": version("fleet-epp"),
        "server": flags.server,
        "tls": flags.secure_serving,
        **dict(zip(("port", "health_port", "metrics_port"), taken, strict=True)),
        "endpoints": len(pool.fleet.endpoints),
        "serving": sum(e.lifecycle.is_serving for e in pool.fleet.endpoints),
    }


async def serve(flags: ServeFlags) -> None:
    """Everything that lives as long as the process; the first failure stops the rest."""
    request_log = logs.configure(logs.LogSettings.of(flags), later=asyncio.get_running_loop().call_later)
    process = _build(flags, request_log)
    pages_tls = _pages_tls(flags, process)
    pool, streams = process.pool, process.pages.metrics.streams
    with ports.listen(flags.metrics_port, flag="metrics-port") as listener:
        gateways, checks = _servers(flags, process)
        await pool.discovery.start()
        parts = {
            "scraper": pool.scraper.run(),
            "discovery": pool.discovery.run(),
            "admin": admin.run(process.pages, listener, tls=pages_tls),
            **{f"--{flag}": certificates.run() for flag, certificates in process.certificates.items()},
        }
        on_hangup(process.reread)
        async with asyncio.TaskGroup() as group:
            running = [group.create_task(forever(work, name), name=name) for name, work in parts.items()]
            await pool.scraper.first_look(FIRST_LOOK_SECONDS)
            await gateways.start()
            await checks.start()
            gc.freeze()  # what has lived until here lives for ever: no need to look at it again
            taken = (gateways.port, checks.port, listener.getsockname()[1])
            logger.info("serving", extra={"fields": _what_is_served(flags, pool, taken)})
            await told_to_stop()
            process.readiness.is_draining = True
            last_call = max(flags.drain_timeout - LAST_CALL_SECONDS, flags.drain_timeout / 2)
            asyncio.get_running_loop().call_later(last_call, process.refuse_waiting)
            await serving.stop(gateways, flags.drain_timeout, open_streams=lambda: streams.inflight)
            await checks.stop(0)
            request_log.flush()
            logger.info("stopped")
            for task in running:
                task.cancel()
