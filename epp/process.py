"""Everything that one process has once, put together, nothing of it running yet.

Place:   made by epp.commands.serve, which runs it; a pool's parts are put together by epp.pool.
Rule:    wiring, no logic. Clock and chance are made here and handed out. What is about Kubernetes is
         imported where it is made: whoever lists the servers should not wait for it.
"""

import dataclasses
import datetime as dt
import functools
import logging
import os
import random
import ssl
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from epp.config.cluster.wishes import PoolName
from epp.config.flags import (
    ServeFlags,
    check_discovery,
    follows_kubernetes,
    has_own_pool,
    lease,
    without_effect,
)
from epp.config.operation import metrics_source
from epp.config.picker_config import Assembly, build, load, load_default
from epp.core.budget import Budget
from epp.core.fleet import Endpoint, Fleet
from epp.core.lifecycle import Change, Signal
from epp.core.members import Pools
from epp.pool import Pool, Shared
from epp.runtime import files, logs, tls, tracing
from epp.runtime.errors import StartError
from epp.runtime.files import FileFault
from epp.runtime.health import Readiness
from epp.runtime.keeper import Keeper
from epp.runtime.measuring import Measuring
from epp.runtime.metrics import BufferMetrics, FleetMetrics, Metrics, ScrapeMetrics, Single
from epp.runtime.plugins import load_types
from epp.runtime.probe import check_files
from epp.runtime.scrape import Scraper, ScrapeSettings, scrape_settings
from epp.runtime.side_scrape import SideScraper, SideSource
from epp.runtime.transitions import Transitions

if TYPE_CHECKING:
    from epp.runtime.kubernetes.lease import Leadership
    from epp.runtime.kubernetes.namespace import Namespaces
    from epp.runtime.kubernetes.references import References

logger = logging.getLogger("epp.main")

FIRST_LOOK_SECONDS = 0.25
"""How long the first request may wait for the first look at every endpoint: dead ones refuse in
milliseconds, and a silent one should not delay the start."""
_KUBERNETES_FLAGS = ("pool-name", "endpoint-selector", "kubernetes")


@dataclass(frozen=True, slots=True, kw_only=True)
class Looks:
    """What is known of all servers, and who looks at them."""

    fleet: Fleet
    transitions: Transitions
    scraper: Scraper
    engines: Collection[str]
    """That endpoints may name."""
    side_sources: Sequence[SideSource]
    side_scraper: SideScraper | None
    """None: nothing is read beside the metrics."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """The parts."""

    looks: Looks
    keeper: Keeper[Pool]
    first: Mapping[PoolName, int]
    """The pools that there are in any case, and their ports."""
    namespaces: "Namespaces | None"
    """None: nobody looks at Kubernetes."""
    references: "References | None"
    """Who finds out which pools there are beside the own one; None: there are none."""
    leadership: "Leadership | None"
    """None: every replica serves."""
    readiness: Readiness
    metrics: Metrics
    tracing: tracing.Tracing | None
    """None: nobody wants spans."""
    certificates: Mapping[str, tls.Certificates]

    def wanted(self) -> Mapping[PoolName, int]:
        """See which pools are to be served now, and on which ports."""
        if self.references is None:
            return self.first
        pools = {**self.first, **self.references.look()}
        if not pools and self.references.is_told:
            self.readiness.is_synced = True  # there is nothing to wait for
        return pools

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


def build_process(flags: ServeFlags, request_log: logs.RequestLog) -> Process:
    """Put everything together; ConfigError, UsageError or StartError if that cannot be."""
    assemble = _assembler(flags)
    assembly = assemble()  # of the process: how servers are looked at, and what is wrong with the file
    has_discovery = assembly.discovery is not None
    check_discovery(flags, config_has_discovery=has_discovery)
    own = PoolName(flags.pool_namespace, flags.pool_title)
    has_own = has_own_pool(flags, config_has_discovery=has_discovery)
    namespaces = _namespaces(flags, config_has_discovery=has_discovery)
    _warn(flags, assembly, in_kubernetes=namespaces is not None, has_own_pool=has_own)
    looks = _looks(flags, assembly, lambda endpoint: process.recheck(endpoint))  # noqa: PLW0108 (to come)
    certificates, tracer, readiness = _certificates(flags), _tracing(flags), Readiness()
    readiness.explain("certificate", lambda: "; ".join(c.error for c in certificates.values() if c.error))
    metrics = Metrics(version=version("fleet-epp"), times_streams=flags.enable_grpc_stream_metrics)
    metrics.requests.stages = assembly.handler_is
    shared = Shared(
        flags=flags,
        main=own if has_own else None,
        titles=_titles(flags),
        assemble=assemble,
        fleet=looks.fleet,
        pools=Pools(looks.fleet),
        scraper=looks.scraper,
        engines=looks.engines,
        metrics=metrics,
        measuring=Measuring(metrics.requests, time.monotonic, traces=tracer),
        tracing=tracer,
        request_log=request_log,
        budget=Budget(flags.max_buffered_bytes),
        pieces=Budget(flags.max_buffered_bytes),
        readiness=readiness,
        pairs=_pairs(flags, certificates),
        namespaces=namespaces,
    )
    keeper = Keeper(
        functools.partial(Pool, shared),
        first_look=lambda: looks.scraper.first_look(FIRST_LOOK_SECONDS),
        grace=flags.drain_timeout,
    )
    readiness.explain("ports", keeper.detail)
    _count(shared, looks, keeper)
    process = Process(
        looks=looks,
        keeper=keeper,
        first={own: flags.grpc_port} if has_own else {},
        namespaces=namespaces,
        references=_references(flags, shared),
        leadership=_leadership(flags, shared),
        readiness=readiness,
        metrics=metrics,
        tracing=tracer,
        certificates=certificates,
    )
    return process


def _warn(flags: ServeFlags, assembly: Assembly, *, in_kubernetes: bool, has_own_pool: bool) -> None:
    """Say what was written and has no effect."""
    told = without_effect(flags, in_kubernetes=in_kubernetes, has_own_pool=has_own_pool)
    logs.warn_of((*told, *assembly.warnings))
    if assembly.stamps_responses and flags.response_phase == "none":
        logs.warn_of(["--response-phase=none: plugins cannot add their headers to responses"])
    if assembly.reports is not None and flags.response_phase != "full":
        logs.warn_of([f"--response-phase={flags.response_phase}: usage is not seen, so none is reported"])


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


def _looks(flags: ServeFlags, assembly: Assembly, on_lost: Callable[[Endpoint], None]) -> Looks:
    transitions = Transitions()

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
        on_lost=on_lost,
    )
    side_sources = _side_sources(assembly, fleet)
    return Looks(
        fleet=fleet,
        transitions=transitions,
        scraper=scraper,
        engines=settings.probe.engines,
        side_sources=side_sources,
        side_scraper=SideScraper(fleet, side_sources, clock=time.monotonic) if side_sources else None,
    )


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


def _count(shared: Shared, looks: Looks, keeper: Keeper[Pool]) -> None:
    """Have shown on /metrics what is there once."""
    shared.metrics.add(
        FleetMetrics(lambda: [(p.title, p.members) for p in keeper.pools.values()], clock=time.monotonic),
        looks.transitions,
        shared.measuring,
        ScrapeMetrics(looks.scraper.stats, looks.side_sources),
        BufferMetrics(shared.budget),
        Single(
            "fleet_epp_log_lines_lost_total",
            "Request lines that the log did not take.",
            lambda: shared.request_log.lost,
            kind="counter",
        ),
    )
    if shared.namespaces is not None:
        shared.metrics.add(shared.namespaces)


def _namespaces(flags: ServeFlags, *, config_has_discovery: bool) -> "Namespaces | None":
    follows = follows_kubernetes(flags, config_has_discovery=config_has_discovery)
    if not (flags.wishes or follows):
        return None
    from epp.runtime.kubernetes.api import KubernetesApi  # noqa: PLC0415
    from epp.runtime.kubernetes.namespace import Namespaces  # noqa: PLC0415

    return Namespaces(
        KubernetesApi(os.environ, flag=_asked_by(flags, follows=follows)),
        group=flags.pool_group,
        clock=time.monotonic,
        chance=random.Random(),
    )


def _asked_by(flags: ServeFlags, *, follows: bool) -> str:
    """The flag for which Kubernetes is asked. ``follows``: for the pool of --grpc-port."""
    if follows:
        return next(name for name in _KUBERNETES_FLAGS if getattr(flags, name.replace("-", "_")))
    return "pool" if any(wish.name for wish in flags.wishes) else "pool-service"


def _leadership(flags: ServeFlags, shared: Shared) -> "Leadership | None":
    """Who finds out whether this replica is the one to get the traffic."""
    if shared.namespaces is None or not flags.ha_enable_leader_election:
        return None
    from epp.runtime.kubernetes.lease import Leadership, own_identity  # noqa: PLC0415

    namespace, name = lease(flags)
    leadership = Leadership(
        shared.namespaces.api,
        namespace=namespace,
        name=name,
        identity=own_identity(),
        clock=time.monotonic,
        today=_now,
        chance=random.Random(),
    )
    shared.readiness.follows = lambda: leadership.reason
    shared.readiness.explain("leader election", leadership.detail)
    shared.metrics.add(leadership)
    return leadership


def _references(flags: ServeFlags, shared: Shared) -> "References | None":
    if shared.namespaces is None or not flags.wishes:
        return None
    from epp.runtime.kubernetes.references import References  # noqa: PLC0415

    taken = {flags.grpc_health_port: "--grpc-health-port", flags.metrics_port: "--metrics-port"}
    if shared.main is not None:
        taken[flags.grpc_port] = "--grpc-port"
    elsewhere = () if shared.main is None else (shared.main,)
    references = References(shared.namespaces, flags.wishes, taken, elsewhere=elsewhere)
    shared.readiness.explain("pools", references.detail)
    shared.metrics.add(references)
    return references


def _titles(flags: ServeFlags) -> Callable[[PoolName], str]:
    """What metrics call pools: as upstream does; with the namespace where there are several of these."""
    namespaces = {flags.pool_namespace, *(wish.namespace for wish in flags.wishes)}
    is_told_apart = len(namespaces) > 1 and bool(flags.wishes)

    def title(name: PoolName) -> str:
        return str(name) if is_told_apart else name.name

    return title


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
