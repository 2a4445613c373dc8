"""One pool's parts, put together: where its endpoints come from, who chooses, the server on its port.

Place:   made by epp.process for each pool that epp.runtime.keeper is to serve; knows all rooms, as it does.
Rule:    wiring, no logic. What a process has once is in ``Shared``; what is here goes with the pool.
"""

import asyncio
import dataclasses
import functools
import random
import time
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from epp.config.cluster.wishes import PoolName
from epp.config.flags import ServeFlags, follows_kubernetes
from epp.config.picker_config import Assembly
from epp.core.apis import Parsers
from epp.core.budget import Budget
from epp.core.directives import Directives
from epp.core.events import ResponsePhase
from epp.core.fleet import EndpointSpec, Fleet
from epp.core.flow.shedding import Shedding
from epp.core.members import Pools
from epp.core.scheduling import Scheduler
from epp.core.stream import StreamSettings
from epp.runtime import logs, serving, tls
from epp.runtime.discovery import DiscoverySettings, FileDiscovery
from epp.runtime.ext_proc import PROCESS, ExtProc
from epp.runtime.flow import Queues, queued
from epp.runtime.health import HealthService, Readiness
from epp.runtime.measuring import Measuring
from epp.runtime.metrics import Metrics, Source
from epp.runtime.reporting import Reporter
from epp.runtime.scrape import Scraper
from epp.runtime.sources import Discovery, OnChange, Sources
from epp.runtime.tracing import Tracing

if TYPE_CHECKING:
    from epp.runtime.kubernetes.namespace import Namespaces

ORDERED_DESTINATIONS = 3
"""As many as a request is usually tried: Envoy's default is one retry, Istio's two."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """What all pools of a process have in common."""

    flags: ServeFlags
    main: PoolName | None
    """The pool that --grpc-port is for; None: every pool has a port of its own."""
    titles: Callable[[PoolName], str]
    """What metrics call a pool."""
    assemble: Callable[[], Assembly]
    """The configuration's plugins, made anew: what they remember is of one pool."""
    fleet: Fleet
    pools: Pools
    scraper: Scraper
    engines: Collection[str]
    """That endpoints may name."""
    metrics: Metrics
    measuring: Measuring
    tracing: Tracing | None
    """None: nobody wants spans."""
    request_log: logs.RequestLog
    budget: Budget
    """Of bodies."""
    pieces: Budget
    """Of messages whose rest is on its way. As much again as for bodies: a client is told what is refused
    there, here its stream breaks."""
    readiness: Readiness
    pairs: Callable[[], tls.KeyPair] | None
    """Where a new connection's certificate comes from; None: plaintext."""
    namespaces: "Namespaces | None"
    """None: nobody looks at Kubernetes."""


class Pool:
    """One pool; what it does when is said in epp.runtime.keeper."""

    def __init__(self, shared: Shared, name: PoolName) -> None:
        flags, assembly, chance = shared.flags, shared.assemble(), random.Random()
        self._shared = shared
        self._is_main = name == shared.main
        self._is_followed = not self._is_main or follows_kubernetes(
            flags, config_has_discovery=assembly.discovery is not None
        )
        self._heeds_tiers, self._plugins = assembly.heeds_tiers, assembly.plugins
        self._servers: list[serving.Server] = []
        """That on the last port, and before it those on ports that are about to be left."""
        self._is_open = False
        self.title = shared.titles(name)
        self.readiness = Readiness(above=shared.readiness)
        self.members = shared.pools.add()
        self.directives = Directives(chance)
        self.discovery: Discovery = Sources(self._sources(name, assembly), self._take_over)
        self.scheduler = Scheduler(
            self.members,
            assembly.profile,
            assembly.producers,
            chance=chance,
            others=assembly.others,
            handler=assembly.handler,
            honour_subset=not flags.disable_endpoint_subset_filter,
            destinations=ORDERED_DESTINATIONS if flags.destinations == "ordered" else 1,
            admitters=assembly.admitters,
        )
        self._ext_proc, self._queues = self._conversations(assembly)
        self._metrics: list[Source] = [self.discovery]
        if self._queues is not None:
            self._metrics.append(self._queues.metrics)
        shared.metrics.add(*self._metrics)
        shared.readiness.explain(self._subject, self.discovery.detail)

    # --- what the keeper calls

    def bind(self, port: int) -> None:
        flags = self._shared.flags
        health = HealthService(self.readiness).services() if flags.health_checking else {}
        server = serving.make_server(
            flags.server,
            {PROCESS: self._shared.measuring.calls(self._ext_proc.open), **health},
            budget=self._shared.pieces,
            pairs=self._shared.pairs,
            max_receive_bytes=flags.grpc_max_recv_msg_size,
            max_send_bytes=flags.grpc_max_send_msg_size,
        )
        server.bind(port, flag="grpc-port" if self._is_main else "pool")
        self._servers.append(server)
        self._is_open = False

    async def start(self) -> None:
        await self.discovery.start()

    async def run(self) -> None:
        await self.discovery.run()

    async def open(self) -> None:
        if self._servers and not self._is_open:
            self._is_open = True
            await self._servers[-1].start()

    async def leave(self, grace: float, *, but_the_last: bool = False) -> None:
        kept = self._servers[-1:] if but_the_last else []
        left, self._servers = [each for each in self._servers if each not in kept], kept
        await asyncio.gather(*(server.stop(grace) for server in left))

    def close(self) -> None:
        shared = self._shared
        self.discovery.close()
        shared.readiness.forget(self._subject, self.discovery.detail)
        shared.metrics.remove(*self._metrics)
        shared.scraper.update(*shared.pools.remove(self.members, self._plugins, time.monotonic()))

    def refuse_waiting(self) -> None:
        if self._queues is not None:
            self._queues.gate.close()

    # --- for main

    @property
    def port(self) -> int:
        """Where it is served; 0: nowhere now."""
        return self._servers[-1].port if self._servers else 0

    # --- inside

    @property
    def _subject(self) -> str:
        return "endpoints" if self._is_main else f"pool {self.title}"

    def _take_over(self, specs: Sequence[EndpointSpec]) -> None:
        if any(spec.tier for spec in specs) and not self._heeds_tiers:
            _tell_of_tiers()
        shared = self._shared
        shared.scraper.update(*shared.pools.replace(self.members, specs, time.monotonic()))
        self.readiness.is_synced = shared.readiness.is_synced = True

    def _sources(self, name: PoolName, assembly: Assembly) -> Mapping[str, Callable[[OnChange], Discovery]]:
        """Where its endpoints come from: a list in a file, an InferencePool, or both."""
        shared, flags = self._shared, self._shared.flags
        listed, sources = assembly.discovery, dict[str, Callable[[OnChange], Discovery]]()
        if self._is_main and (listed or flags.endpoints_file):
            place = assembly.discovery_at.at("parameters", "path").place if listed else "--endpoints-file"
            settings = DiscoverySettings(
                named_by=place,
                watch=listed.watch_file if listed else True,
                default_namespace=flags.pool_namespace,
                engines=shared.engines,
            )
            file = Path(listed.path if listed else flags.endpoints_file)
            sources["endpoints file"] = lambda tell: FileDiscovery(file, settings, tell, clock=time.monotonic)
        if shared.namespaces is not None and self._is_followed:
            sources["Kubernetes"] = functools.partial(self._followed, name, shared.namespaces)
        return sources

    def _followed(self, name: PoolName, namespaces: "Namespaces", tell: OnChange) -> Discovery:
        # imported here: whoever lists the servers should not wait for it
        from epp.runtime.kubernetes.discovery import (  # noqa: PLC0415
            KubernetesDiscovery,
            KubernetesSettings,
            selected,
        )

        flags = self._shared.flags
        members = None
        if self._is_main:
            members = selected(flags.pool_namespace, flags.endpoint_selector, flags.endpoint_target_ports)
        return KubernetesDiscovery(
            namespaces.at(name.namespace),
            KubernetesSettings(
                pool=name.name,
                members=members,
                engines=self._shared.engines,
                is_expected=self._is_main or any(wish.is_for(name) for wish in flags.wishes),
            ),
            tell,
            title=self.title,
            directives=self.directives,
            voice=namespaces.voice,
            clock=time.monotonic,
            unix_clock=time.time,  # noqa: TID251 (heartbeats carry unix times)
        )

    def _conversations(self, assembly: Assembly) -> tuple[ExtProc, Queues | None]:
        """The ext_proc service, and its queues where the configuration has them."""
        shared, flags = self._shared, self._shared.flags
        ext_proc = ExtProc(
            scheduler=shared.measuring.scheduler(self.scheduler),
            health=shared.fleet,
            settings=StreamSettings(
                Parsers(assembly.parsers),
                shared.budget,
                new_id=lambda: str(uuid.uuid4()),
                directives=self.directives,
                response_phase=ResponsePhase(flags.response_phase),
                emits_scores=flags.emit_endpoint_scores,
                endpoint_at=self.members.endpoint_at,
                identify=assembly.identify,
                reports=assembly.reports,
                served_header=assembly.served_header,
            ),
            observer=Reporter(
                *(shared.metrics, shared.request_log, shared.scraper.kick),
                traced=shared.tracing.finished if shared.tracing is not None else None,
            ),
            clock=time.monotonic,
        )
        if assembly.flow is not None:
            # bodies that wait must leave room for those that come
            room = min(assembly.flow.max_bytes, shared.budget.limit / 2)
            queues = queued(
                *(dataclasses.replace(assembly.flow, max_bytes=room), ext_proc),
                pool=self.members,
                pool_name=self.title,
                loop=asyncio.get_running_loop,
            )
            self.members.on_news = queues.gate.wake
            return queues.service, queues
        if self._is_followed:
            sheds = Shedding(ext_proc.scheduler, self.members, assembly.detector)
            return dataclasses.replace(ext_proc, scheduler=sheds), None
        return ext_proc, None


@functools.cache
def _tell_of_tiers() -> None:
    logs.warn_of(["endpoints have tiers, and nothing heeds them: add a tier-preference filter"])
