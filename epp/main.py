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
import signal
import ssl
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvloop

from epp.config.cluster.wishes import PoolName
from epp.config.decode import ConfigError
from epp.config.flags import (
    HelpRequested,
    ServeFlags,
    UsageError,
    check_discovery,
    follows_kubernetes,
    has_own_pool,
    lease,
    parse,
    without_effect,
)
from epp.config.operation import Drain, drain, metrics_source
from epp.config.picker_config import Assembly, build, load, load_default
from epp.core.budget import Budget
from epp.core.fleet import Endpoint, Fleet
from epp.core.lifecycle import Change, Signal
from epp.core.members import Pools
from epp.pool import Pool, Shared
from epp.runtime import admin, files, logs, memory, ports, serving, tls, tracing
from epp.runtime.errors import StartError
from epp.runtime.files import FileFault
from epp.runtime.health import HealthService, Readiness
from epp.runtime.keeper import Keeper
from epp.runtime.measuring import Measuring, stages_of
from epp.runtime.metrics import BufferMetrics, FleetMetrics, Metrics, ScrapeMetrics, Single
from epp.runtime.plugins import load_types
from epp.runtime.probe import check_files
from epp.runtime.scrape import Scraper, ScrapeSettings, scrape_settings
from epp.runtime.side_scrape import SideScraper, SideSource
from epp.runtime.supervise import forever, on_hangup, told_to_stop
from epp.runtime.transitions import Transitions

if TYPE_CHECKING:
    from epp.runtime.kubernetes.lease import Leadership
    from epp.runtime.kubernetes.namespace import Namespaces
    from epp.runtime.kubernetes.references import References

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
FIRST_LOOK_SECONDS = 0.25
"""How long the first request may wait for the first look at every endpoint: dead ones refuse in
milliseconds, and a silent one should not delay the start."""
_KUBERNETES_FLAGS = ("pool-name", "endpoint-selector", "kubernetes")


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


def _assembler(flags: ServeFlags) -> Callable[[], Assembly]:
    """Makes the plugins that the configuration asks for."""
    if flags.config_file:
        try:
            text = files.read_text(Path(flags.config_file), pipes=True)
        except FileFault as fault:
            raise StartError(f"--config-file: {flags.config_file} {fault}") from fault
        config = load(text, flags.config_file)
    else:
        config = load(flags.config_text, "--config-text") if flags.config_text else load_default()
    return functools.partial(build, config, load_types(), allow_experimental=flags.allow_experimental_plugins)


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


def _oldest_tls(flags: ServeFlags) -> ssl.TLSVersion:
    only_tls13 = flags.tls_min_version == "VersionTLS13" or flags.tls_cipher_suites.only_tls13
    return ssl.TLSVersion.TLSv1_3 if only_tls13 else ssl.TLSVersion.TLSv1_2


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
            ciphers=flags.tls_cipher_suites.openssl,
            follow=flags.enable_cert_reload or flag == "metrics-cert-dir",  # as upstream
        )
        for flag, directory in directories.items()
        if directory
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """Everything that one process has once, nothing of it running yet."""

    fleet: Fleet
    scraper: Scraper
    side_scraper: SideScraper | None
    """None: nothing is read beside the metrics."""
    keeper: Keeper[Pool]
    first: Mapping[PoolName, int]
    """The pools that there are in any case, and their ports."""
    namespaces: "Namespaces | None"
    """None: nobody looks at Kubernetes."""
    leadership: "Leadership | None"
    """None: every replica serves."""
    readiness: Readiness
    pages: admin.AdminState
    tracing: tracing.Tracing | None
    """None: nobody wants spans."""
    certificates: Mapping[str, tls.Certificates]

    def reread(self) -> None:
        """What SIGHUP asks for."""
        logger.info("SIGHUP: endpoints and certificates are read again")
        if self.namespaces is not None:
            self.namespaces.reread()
        for pool in self.keeper.pools.values():
            pool.discovery.reread()
        for certificates in self.certificates.values():
            certificates.reread()

    def recheck(self, endpoint: Endpoint) -> None:
        """A connection to it was lost: its name may lead elsewhere now."""
        for pool in self.keeper.pools.values():
            pool.discovery.recheck(endpoint.spec.host_name)

    def refuse_waiting(self) -> None:
        """The end is near: tell the clients whose requests still wait."""
        for pool in self.keeper.pools.values():
            pool.refuse_waiting()


def _namespaces(flags: ServeFlags, *, config_has_discovery: bool) -> "Namespaces | None":
    if not (flags.wishes or follows_kubernetes(flags, config_has_discovery=config_has_discovery)):
        return None
    # imported here: whoever lists the servers should not wait for it
    from epp.runtime.kubernetes.api import KubernetesApi  # noqa: PLC0415
    from epp.runtime.kubernetes.namespace import Namespaces  # noqa: PLC0415

    flag = next((name for name in _KUBERNETES_FLAGS if getattr(flags, name.replace("-", "_"))), "pool")
    return Namespaces(
        KubernetesApi(os.environ, flag=flag),
        group=flags.pool_group,
        clock=time.monotonic,
        chance=random.Random(),
    )


def _leadership(flags: ServeFlags, namespaces: "Namespaces | None") -> "Leadership | None":
    """Who finds out whether this replica is the one to get the traffic."""
    if namespaces is None or not flags.ha_enable_leader_election:
        return None
    from epp.runtime.kubernetes.lease import Leadership, own_identity  # noqa: PLC0415 (as in _namespaces)

    namespace, name = lease(flags)
    return Leadership(
        namespaces.api,
        namespace=namespace,
        name=name,
        identity=own_identity(),
        clock=time.monotonic,
        today=_now,
        chance=random.Random(),
    )


def _access(flags: ServeFlags, namespaces: "Namespaces | None") -> admin.Access | None:
    """Who says who may see the pages; None: everybody may."""
    if namespaces is None or flags.metrics_endpoint_auth is False:
        return None
    from epp.runtime.kubernetes.access import Access  # noqa: PLC0415 (as in _namespaces)

    return Access(namespaces.api, clock=time.monotonic)


def _titles(flags: ServeFlags) -> Callable[[PoolName], str]:
    """What metrics call pools: as upstream does; with the namespace where there are several of these."""
    namespaces = {flags.pool_namespace, *(wish.namespace for wish in flags.wishes)}
    is_told_apart = len(namespaces) > 1 and bool(flags.wishes)

    def title(name: PoolName) -> str:
        return str(name) if is_told_apart else name.name

    return title


def _scrape_settings(flags: ServeFlags, assembly: Assembly) -> ScrapeSettings:
    pace = assembly.pace(floor=flags.refresh_metrics_interval, stale_after=flags.metrics_staleness_threshold)
    source = metrics_source(flags, assembly.metrics_source)
    settings = scrape_settings(source, assembly.extractor, pace)
    try:
        check_files(settings.probe)
    except FileFault as fault:
        raise assembly.metrics_source_at.error(str(fault)) from fault
    return settings


def _side_sources(assembly: Assembly, fleet: Fleet) -> list[SideSource]:
    """What is read of the servers beside their metrics."""
    sources = []
    for settings, at in assembly.side_sources:
        try:
            sources.append(SideSource(fleet, settings))
        except FileFault as fault:
            raise at.error(str(fault)) from fault
    return sources


def _tracing(flags: ServeFlags) -> tracing.Tracing | None:
    """Who makes spans, if the environment says where they go."""
    settings = tracing.settings_of(os.environ) if flags.tracing else None
    if settings is None:
        return None
    return tracing.start(
        *(settings, os.environ),
        version=version("fleet-epp"),
        chance=random.Random(),
        clock=time.monotonic,
        unix_clock=time.time,  # noqa: TID251 (spans carry unix times)
    )


def _build(flags: ServeFlags, request_log: logs.RequestLog) -> Process:
    assemble = _assembler(flags)
    assembly = assemble()  # of the process: how servers are looked at, and what is wrong with the file
    has_discovery = assembly.discovery is not None
    check_discovery(flags, config_has_discovery=has_discovery)
    namespaces = _namespaces(flags, config_has_discovery=has_discovery)
    told = without_effect(flags, in_kubernetes=namespaces is not None)
    logs.warn_of((*told, *assembly.warnings))
    if assembly.stamps_responses and flags.response_phase == "none":
        logs.warn_of(["--response-phase=none: plugins cannot add their headers to responses"])
    if assembly.reports is not None and flags.response_phase != "full":
        logs.warn_of([f"--response-phase={flags.response_phase}: usage is not seen, so none is reported"])
    readiness, transitions = Readiness(), Transitions()

    def changed(endpoint: Endpoint, change: Change) -> None:
        transitions.changed(endpoint, change)
        if change.signal in (Signal.FAILED, Signal.QUITTING):
            scraper.doubt(endpoint)

    fleet = Fleet(stale_after=flags.metrics_staleness_threshold, health=assembly.health, on_change=changed)
    settings = _scrape_settings(flags, assembly)
    scraper = Scraper(
        fleet,
        settings,
        clock=time.monotonic,
        unix_clock=time.time,  # noqa: TID251 (LoRA readings carry unix times)
        chance=random.Random(),
        on_lost=lambda endpoint: process.recheck(endpoint),  # noqa: PLW0108 (it is not there yet)
    )
    side_sources = _side_sources(assembly, fleet)
    certificates = _certificates(flags)
    readiness.explain("certificate", lambda: "; ".join(c.error for c in certificates.values() if c.error))
    budget = Budget(flags.max_buffered_bytes)
    metrics = Metrics(version=version("fleet-epp"), times_streams=flags.enable_grpc_stream_metrics)
    metrics.requests.stages = stages_of(assembly.handler)
    tracer = _tracing(flags)
    measuring = Measuring(metrics.requests, time.monotonic, traces=tracer)
    own = PoolName(flags.pool_namespace, flags.pool_title)
    has_own = has_own_pool(flags, config_has_discovery=has_discovery)
    shared = Shared(
        flags=flags,
        main=own if has_own else None,
        titles=_titles(flags),
        assemble=assemble,
        fleet=fleet,
        pools=Pools(fleet),
        scraper=scraper,
        engines=settings.probe.engines,
        metrics=metrics,
        measuring=measuring,
        tracing=tracer,
        request_log=request_log,
        budget=budget,
        pieces=Budget(flags.max_buffered_bytes),
        readiness=readiness,
        pairs=_pairs(flags, certificates),
        namespaces=namespaces,
    )
    keeper = Keeper(
        functools.partial(Pool, shared),
        first_look=lambda: scraper.first_look(FIRST_LOOK_SECONDS),
        grace=flags.drain_timeout,
    )
    readiness.explain("ports", keeper.detail)
    metrics.add(
        FleetMetrics(lambda: [(p.title, p.members) for p in keeper.pools.values()], clock=time.monotonic),
        transitions,
        measuring,
        ScrapeMetrics(scraper.stats, side_sources),
        BufferMetrics(budget),
        Single(
            "fleet_epp_log_lines_lost_total",
            "Request lines that the log did not take.",
            lambda: request_log.lost,
            kind="counter",
        ),
    )
    if namespaces is not None:
        metrics.add(namespaces)
    leadership = _leadership(flags, namespaces)
    if leadership is not None:
        readiness.follows = lambda: leadership.reason
        readiness.explain("leader election", leadership.detail)
        metrics.add(leadership)
    pages = admin.AdminState(
        metrics=metrics,
        readiness=readiness,
        fleet=fleet,
        pools=keeper.pools.values,
        clock=time.monotonic,
        wall_clock=time.time,  # noqa: TID251 (people read it)
    )
    process = Process(
        fleet=fleet,
        scraper=scraper,
        side_scraper=SideScraper(fleet, side_sources, clock=time.monotonic) if side_sources else None,
        keeper=keeper,
        first={own: flags.grpc_port} if has_own else {},
        namespaces=namespaces,
        leadership=leadership,
        readiness=readiness,
        pages=pages,
        tracing=tracer,
        certificates=certificates,
    )
    return process


def _pairs(
    flags: ServeFlags, certificates: Mapping[str, tls.Certificates]
) -> Callable[[], tls.KeyPair] | None:
    """Where a new connection's certificate comes from; None without TLS."""
    if not flags.secure_serving:
        return None
    if own := certificates.get("cert-path"):
        return own.current
    pair = dataclasses.replace(
        tls.self_signed(_now()), oldest=_oldest_tls(flags), ciphers=flags.tls_cipher_suites.openssl
    )
    return lambda: pair


def _checks(flags: ServeFlags, process: Process) -> serving.Server:
    """The server for health checks, on its port: of the process, and by ``namespace/name`` of each pool."""

    def pool(name: str) -> Readiness | None:
        namespace, _, own = name.rpartition("/")
        found = process.keeper.pools.get(PoolName(namespace, own))
        return None if found is None else found.readiness

    health = HealthService(process.readiness, pool).services()
    checks = serving.make_server(flags.server, health, budget=Budget(flags.max_buffered_bytes))
    checks.bind(flags.grpc_health_port, flag="grpc-health-port")
    return checks


def _pages_tls(flags: ServeFlags, process: Process) -> ssl.SSLContext | None:
    own = process.certificates.get("metrics-cert-dir")
    if own is None:
        return None
    client_ca = Path(flags.metrics_client_ca_file) if flags.metrics_client_ca_file else None
    context = tls.pages_context(own.current(), client_ca)
    own.on_change = lambda pair: tls.use(context, pair)
    return context


def _references(flags: ServeFlags, process: Process) -> "References | None":
    """Who finds out which pools there are beside the own one; None: there are none."""
    if process.namespaces is None or not flags.wishes:
        return None
    from epp.runtime.kubernetes.references import References  # noqa: PLC0415 (as in _namespaces)

    taken = {flags.grpc_health_port: "--grpc-health-port", flags.metrics_port: "--metrics-port"}
    if process.first:
        taken[flags.grpc_port] = "--grpc-port"
    references = References(process.namespaces, flags.wishes, taken, elsewhere=process.first)
    process.readiness.explain("pools", references.detail)
    process.pages.metrics.add(references)
    return references


def _what_is_served(flags: ServeFlags, process: Process, taken: Sequence[int]) -> dict[str, Any]:
    pools = process.keeper.pools.values()
    return {
        "version": version("fleet-epp"),
        "server": flags.server,
        "tls": flags.secure_serving,
        "port": next((pool.port for pool in pools), None),
        **dict(zip(("health_port", "metrics_port"), taken, strict=True)),
        **({"pools": {pool.title: pool.port for pool in pools}} if flags.wishes else {}),
        "endpoints": len(process.fleet.endpoints),
        "serving": sum(e.lifecycle.is_serving for e in process.fleet.endpoints),
    }


async def _leave(process: Process, plan: Drain) -> None:
    """From the signal to the last answer."""
    process.readiness.is_draining = True
    streams = process.pages.metrics.streams
    async with asyncio.TaskGroup() as group:
        if process.leadership is not None:
            group.create_task(process.leadership.release(), name="leader election: release")
        if plan.serve_for:
            fields = {"seconds": plan.serve_for, "open_streams": streams.inflight}
            logger.info("not ready any more, requests are still taken", extra={"fields": fields})
            await asyncio.sleep(plan.serve_for)
        asyncio.get_running_loop().call_later(plan.last_call, process.refuse_waiting)
        await serving.stop(process.keeper.leave, plan.grace, open_streams=lambda: streams.inflight)


async def _prepare(
    process: Process, references: "References | None", wanted: Callable[[], Mapping[PoolName, int]]
) -> None:
    """The first pools, up to serving; nothing stays open if that does not succeed."""
    namespaces = process.namespaces
    if namespaces is not None:
        await namespaces.api.open()
    try:
        if references is not None:
            await references.start()
        await process.keeper.prepare(wanted())
    except BaseException:
        if namespaces is not None:
            await namespaces.api.close()
        raise


async def serve(flags: ServeFlags) -> None:
    """Everything that lives as long as the process; the first failure stops the rest."""
    request_log = logs.configure(logs.LogSettings.of(flags), later=asyncio.get_running_loop().call_later)
    process = _build(flags, request_log)
    pages_tls = _pages_tls(flags, process)
    keeper, namespaces = process.keeper, process.namespaces
    references = _references(flags, process)

    def wanted() -> Mapping[PoolName, int]:
        pools = {**process.first, **(references.ports() if references is not None else {})}
        if not pools and references is not None and references.is_told:
            process.readiness.is_synced = True  # there is nothing to wait for
        return pools

    with ports.listen(flags.metrics_port, flag="metrics-port") as listener:
        checks = _checks(flags, process)
        await _prepare(process, references, wanted)
        changed = references.changed if references is not None else asyncio.Event()
        parts = {
            "scraper": process.scraper.run(),
            **({"side scraper": process.side_scraper.run()} if process.side_scraper is not None else {}),
            "pools": keeper.run(wanted, changed),
            "admin": admin.run(process.pages, listener, tls=pages_tls, access=_access(flags, namespaces)),
            **({"leader election": process.leadership.run()} if process.leadership is not None else {}),
            **({"namespaces": namespaces.run()} if namespaces is not None else {}),
            **{f"--{flag}": certificates.run() for flag, certificates in process.certificates.items()},
        }
        on_hangup(process.reread)
        async with asyncio.TaskGroup() as group:
            running = [group.create_task(forever(work, name), name=name) for name, work in parts.items()]
            await keeper.is_open.wait()
            await checks.start()
            gc.freeze()  # what has lived until here lives for ever: no need to look at it again
            taken = (checks.port, listener.getsockname()[1])
            logger.info("serving", extra={"fields": _what_is_served(flags, process, taken)})
            is_told = await told_to_stop()
            by_kubelet = namespaces is not None and is_told is signal.SIGTERM
            await _leave(process, drain(flags, in_kubernetes=by_kubelet))
            await checks.stop(0)
            if process.tracing is not None:
                await asyncio.to_thread(process.tracing.stop)
            request_log.flush()
            logger.info("stopped")
            for task in running:
                task.cancel()
