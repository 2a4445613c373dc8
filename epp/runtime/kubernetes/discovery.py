"""Endpoints of one InferencePool: its pods, the EndpointSlices it names, and what LLMKube says of them.

Place:   tells main's callback the complete list whenever it has changed; run by main. The same shape as
         FileDiscovery.
Ignores: whether a server answers, and what a list is used for.
Rule:    objects are followed, the list is epp.config.cluster.translate of them, at once and whole. While the
         API is away the last list stays; what is wrong is said once, and shown in metrics and /readyz.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from epp.config.claims import Claims
from epp.config.cluster import (
    SLICES_ANNOTATION,
    Cluster,
    InferenceService,
    Model,
    Pod,
    Pool,
    Slice,
    Translation,
    translate,
)
from epp.core.fleet import EndpointSpec
from epp.runtime.kubernetes.api import KubernetesApi, Resource
from epp.runtime.kubernetes.following import Following, Pauses
from epp.runtime.kubernetes.store import ApiFault, T
from epp.runtime.metrics import Family, Numbers, Values
from epp.runtime.supervise import told_or_after

logger = logging.getLogger("epp.kubernetes")

POOLS = Resource("inferencepools", "inference.networking.k8s.io", "v1")
PODS = Resource("pods", "", "v1")
SLICES = Resource("endpointslices", "discovery.k8s.io", "v1")
SERVICES = Resource("inferenceservices", "inference.llmkube.dev", "v1alpha1")
MODELS = Resource("models", "inference.llmkube.dev", "v1alpha1")

LONGEST_REST = 0.1
"""[s] Between two lists, however long one takes to make."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KubernetesSettings:
    """Which pool. Times [s]."""

    pool: str
    namespace: str
    engines: Collection[str] = ()
    """Names that an engine may have; empty: any."""
    start_timeout: float = 5.0
    """For the lists of ``start``, which others wait for: longer than a connection is broken by a restart of
    the API, shorter than a server outside the cluster should wait for it."""


class KubernetesDiscovery:
    """Follows one pool. ``start`` once, then ``run`` until it is cancelled.

    ``clock`` [s] is monotonic, ``unix_clock`` [s] what heartbeats are compared with.
    """

    def __init__(
        self,
        api: KubernetesApi,
        settings: KubernetesSettings,
        on_change: Callable[[Sequence[EndpointSpec]], None],
        *,
        clock: Callable[[], float],
        unix_clock: Callable[[], float],
        chance: random.Random,
    ) -> None:
        self._api = api
        self._settings = settings
        self._on_change = on_change
        self._clock = clock
        self._unix_clock = unix_clock
        self._chance = chance
        self._changed = asyncio.Event()

        def follow(resource: Resource, kind: type[T]) -> Following[T]:
            namespace = settings.namespace
            return Following(api, resource, kind, namespace, self._changed.set, clock=clock, chance=chance)

        self._pools: Following[Pool] = follow(POOLS, Pool)
        self._pods: Following[Pod] = follow(PODS, Pod)
        self._slices: Following[Slice] = follow(SLICES, Slice)
        self._services: Following[InferenceService] = follow(SERVICES, InferenceService)
        self._models: Following[Model] = follow(MODELS, Model)
        self._all: tuple[Following[Any], ...] = (
            *(self._pools, self._pods, self._slices),
            *(self._services, self._models),
        )
        self._pools.select({"fieldSelector": f"metadata.name={settings.pool}"})
        self._claims = Claims()
        self._now = Translation(specs=())
        self._specs: tuple[EndpointSpec, ...] | None = None
        self._wrong: tuple[str, ...] = ()

    # --- what others call

    async def start(self) -> None:
        """Find the API and tell the pool's endpoints; StartError if nothing says where the API is.

        An API that is away is asked again for as long as the timeout lasts. What it has not told by then, or
        refuses, is logged and tried again by ``run``.
        """
        await self._api.open()
        try:
            async with asyncio.timeout(self._settings.start_timeout):
                await self._first_lists()
        except TimeoutError:
            pass  # run goes on, and says what is wrong
        self._take_over()

    async def run(self) -> None:
        """Follow the pool."""
        try:
            async with asyncio.TaskGroup() as group:
                for following in self._all:
                    group.create_task(following.run(), name=f"discovery: {following.resource.plural}")
                while True:
                    wait = self._now.due - self._unix_clock()
                    await told_or_after(self._changed, None if wait == float("inf") else max(wait, 0.0))
                    self._select()
                    began = self._clock()
                    self._take_over()
                    # A rollout of a thousand pods is thousands of events, each worth 10 ms: of a burst
                    # only as many become lists as take a tenth of the time.
                    await asyncio.sleep(min(9 * (self._clock() - began), LONGEST_REST))
        finally:
            await self._api.close()

    def reread(self) -> None:
        """Ask the API for everything again."""
        for following in self._all:
            following.again()

    def recheck(self, host_name: str) -> None:
        """Nothing here has a host name: where pods move to, the API tells."""

    def detail(self) -> str:
        """What is wrong or waited for, for /readyz; empty when nothing is."""
        return "; ".join((*self._wrong, *self._now.waiting))

    def families(self) -> Iterable[Family]:
        help_text = "Lists and watches of the Kubernetes API that failed, by resource."
        faults: Numbers = {(one.resource.plural,): float(one.faults) for one in self._all}
        yield Values("fleet_epp_kubernetes_faults_total", "counter", help_text, ("resource",), faults)
        help_text = (
            "1: what is known of the pool is as the Kubernetes API has it now; 0: it is away or refuses."
        )
        yield Values("fleet_epp_kubernetes_current", "gauge", help_text, (), {(): float(not self._faults())})
        help_text = "Pods of the pool that have no address yet."
        waiting = float(len(self._now.waiting))
        yield Values("fleet_epp_kubernetes_pods_without_address", "gauge", help_text, (), {(): waiting})

    async def _first_lists(self) -> None:
        """Ask for everything until nothing is missed: half a pool would take the whole load."""
        pauses = Pauses(self._chance)
        while True:
            for stage in ((self._pools,), (self._pods, self._slices), (self._services, self._models)):
                await asyncio.gather(*(following.first() for following in stage))
                self._select()
            missed = [one for one in (self._pools, self._pods, self._slices) if one.is_missed]
            if not missed:
                return
            await asyncio.sleep(pauses.after(missed[0].fault, lasted=0.0))

    # --- from objects to the list

    @property
    def _cluster(self) -> Cluster:
        return Cluster(
            pool=self._pools.objects.get(self._settings.pool),
            pods=self._pods.objects.values(),
            slices=self._slices.objects.values(),
            services=self._services.objects,
            models=self._models.objects,
        )

    def _select(self) -> None:
        """Follow what the pool asks for now, and LLMKube's own objects where servers are LLMKube's."""
        cluster = self._cluster
        pool = cluster.pool
        if pool is not None:
            self._pods.select(_labelled(pool.pods))
            self._slices.select(_labelled(pool.slices))
        if cluster.is_llmkube:
            self._services.select({})
            self._models.select({})

    def _take_over(self) -> None:
        """Tell the list if it is another one than last time, and what is wrong if it is something else."""
        if self._is_known():
            now = self._unix_clock()
            self._now = translate(self._cluster, now, engines=self._settings.engines)
            contested = self._claims.look(self._now.specs, now)
            self._say((*self._faults(), *self._now.findings, *contested))
            if self._now.specs != self._specs:
                self._specs = self._now.specs
                self._on_change(self._specs)
        else:
            self._say(self._faults())

    def _is_known(self) -> bool:
        """There is a list: from now on it is never nothing merely because something is not known."""
        if self._specs is not None:
            return True
        servers = (self._pods, self._slices)
        has_pool = self._settings.pool in self._pools.objects
        return has_pool and all(one.is_told for one in servers) and any(one.is_listed for one in servers)

    def _faults(self) -> tuple[str, ...]:
        """What the API does not tell, and why; the same fault of several resources once."""
        pool = f"{self._settings.namespace}/{self._settings.pool}"
        found = []
        for following in self._all:
            fault = following.fault if following.is_lasting else None
            plural = following.resource.plural
            if fault is not None and fault.status == 0:
                found.append(f"Kubernetes API: {fault}{', what it last told stays' if self._specs else ''}")
            elif fault is not None and fault.status == 404:
                if following is self._pools:
                    found.append(
                        "Kubernetes API: it has no InferencePools: install the CRDs of GIE v1.0 or newer"
                    )
            elif fault is not None:
                found.append(f"Kubernetes API: {plural}: {fault}{self._remedy(following)}")
            for name, why in following.unreadable.items():
                found.append(f"{plural} {name} is not understood, what it said before stays: {why}")
        if self._pools.is_listed and self._settings.pool not in self._pools.objects:
            found.append(
                f"InferencePool {pool} is not there: create it, or see --pool-name, --pool-namespace"
            )
        return tuple(dict.fromkeys(found))

    def _remedy(self, following: Following[Any]) -> str:
        match following.fault:
            case ApiFault(status=403):
                return ": grant it as deploy/kubernetes/rbac.yaml does"
            case ApiFault(status=400) if following is self._slices:
                return f": correct annotation {SLICES_ANNOTATION} of the InferencePool"
        return ""

    def _say(self, wrong: tuple[str, ...]) -> None:
        """Log what is wrong since now, and that it is not any more."""
        for text in wrong:
            if text not in self._wrong:
                logger.warning("pool not as it should be", extra={"fields": {"error": text}})
        for text in self._wrong:
            if text not in wrong:
                logger.info("pool: settled", extra={"fields": {"was": text}})
        self._wrong = wrong


def _labelled(selector: str) -> dict[str, str] | None:
    return {"labelSelector": selector} if selector else None
