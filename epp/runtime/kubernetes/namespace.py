"""One namespace, as far as all pools in it look at the same objects.

Place:   made by Namespaces, once for a namespace; epp.process makes these. Read by the discovery of each
         pool, and by references, which finds out which pools there are.
Ignores: which pod belongs to whom: each pool follows its own.
Rule:    a kind is followed from when somebody needs it, and once, however many pools need it.
"""

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from epp.config.cluster.assignments import takes
from epp.config.cluster.groups import NEW_GROUP, OLD_POOL_GROUP, POOL_GROUP
from epp.config.cluster.objects import (
    InferenceService,
    Members,
    Model,
    Objective,
    OldPool,
    PickerRef,
    Pool,
    Rewrite,
    Service,
)
from epp.config.cluster.wishes import Wish
from epp.runtime.kubernetes.api import KubernetesApi, Resource
from epp.runtime.kubernetes.following import Following, Pauses
from epp.runtime.kubernetes.store import T
from epp.runtime.metrics import Family, Numbers, Values

POOLS = Resource("inferencepools", POOL_GROUP, "v1")
OLD_POOLS = Resource("inferencepools", OLD_POOL_GROUP, "v1alpha2")
PICKERS = Resource("services", "", "v1")
OBJECTIVES = Resource("inferenceobjectives", NEW_GROUP, "v1alpha2")
OLD_OBJECTIVES = Resource("inferenceobjectives", OLD_POOL_GROUP, "v1alpha2")
REWRITES = Resource("inferencemodelrewrites", NEW_GROUP, "v1alpha2")
OLD_REWRITES = Resource("inferencemodelrewrites", OLD_POOL_GROUP, "v1alpha2")
SERVICES = Resource("inferenceservices", "inference.llmkube.dev", "v1alpha1")
MODELS = Resource("models", "inference.llmkube.dev", "v1alpha1")

logger = logging.getLogger("epp.kubernetes")


class Voice:
    """Says what is wrong with the objects of pools: what several have to say is said once."""

    def __init__(self) -> None:
        self._said: dict[object, tuple[str, ...]] = {}

    def forget(self, pool: object) -> None:
        """The pool is gone, and what was wrong with it: no word."""
        self._said.pop(pool, None)

    def say(self, pool: object, wrong: tuple[str, ...]) -> None:
        """What is wrong with this pool now; what was wrong before and is not any more is settled."""
        if wrong == self._said.get(pool, ()):
            return
        before = {text: None for texts in self._said.values() for text in texts}
        self._said[pool] = wrong
        now = {text: None for texts in self._said.values() for text in texts}
        for text in now:
            if text not in before:
                logger.warning("pool not as it should be", extra={"fields": {"error": text}})
        for text in before:
            if text not in now:
                logger.info("pool: settled", extra={"fields": {"was": text}})


class Namespace:
    """Objects of ``name``. ``group``: of the pools' kind. ``run`` must be running for them to be followed."""

    def __init__(
        self,
        api: KubernetesApi,
        name: str,
        *,
        group: str = POOL_GROUP,
        clock: Callable[[], float],
        chance: random.Random,
        faults: Counter[str] | None = None,
    ) -> None:
        self.name = name
        self.group = group
        self.listeners: set[Callable[[], None]] = set()
        """To be told of every change."""
        self.served: Counter[str] = Counter()
        """How many follow the pool of this name."""
        self.wishes: list[Wish] = []
        """Which pools are to be followed beside those, once they are there."""
        self._api = api
        self._clock = clock
        self._chance = chance
        self._faults: Counter[str] = Counter() if faults is None else faults
        self._services: set[str] = set()
        is_old = group == OLD_POOL_GROUP
        self.pools: Following[Any] = (
            self.follow(OLD_POOLS, OldPool, self._tell) if is_old else self.follow(POOLS, Pool, self._tell)
        )
        self.pickers = self.follow(PICKERS, Service, self._tell)
        """Services that pools name as their pickers."""
        self.objectives = self.follow(OBJECTIVES, Objective, self._tell)
        self.old_objectives = self.follow(OLD_OBJECTIVES, Objective, self._tell)
        self.rewrites = self.follow(REWRITES, Rewrite, self._tell)
        self.old_rewrites = self.follow(OLD_REWRITES, Rewrite, self._tell)
        self.services = self.follow(SERVICES, InferenceService, self._tell)
        self.models = self.follow(MODELS, Model, self._tell)

    @property
    def asking(self) -> tuple[Following[Any], ...]:
        """What is asked of requests."""
        return self.objectives, self.old_objectives, self.rewrites, self.old_rewrites

    @property
    def all(self) -> tuple[Following[Any], ...]:
        return self.pools, self.pickers, *self.asking, self.services, self.models

    def follow(
        self,
        resource: Resource,
        kind: type[T],
        on_change: Callable[[], None],
        pressing: Callable[[T], object] | None = None,
    ) -> Following[T]:
        """Objects of a kind, for whoever runs it. ``pressing``: what of them nobody can wait for."""
        self._faults.setdefault(resource.name, 0)
        return Following(
            *(self._api, resource, kind, self.name, on_change),
            clock=self._clock,
            chance=self._chance,
            faults=self._faults,
            pressing=pressing,
        )

    def need_pools(self) -> None:
        """From now on pools are followed, and what is asked of their requests."""
        for following in (self.pools, *self.asking):
            following.select({})

    def pauses(self) -> Pauses:
        """How to space tries."""
        return Pauses(self._chance)

    def need_picker(self, picker: PickerRef) -> None:
        """From now on this Service is followed; several of them by way of all that there are."""
        if picker.is_service:
            self._services.add(picker.name)
            one = {"fieldSelector": f"metadata.name={picker.name}"}
            self.pickers.select(one if len(self._services) == 1 else {})

    def serves(self, pool: Members) -> bool:
        """This process does, or is about to."""
        return self.served[pool.name] > 0 or any(takes(wish, pool) for wish in self.wishes)

    def may_have(self, picker: PickerRef) -> bool:
        """The Service is there, or nobody knows."""
        is_known = picker.is_service and self.pickers.is_selected
        return not is_known or picker.name in self.pickers.objects

    def wrong(self, following: Following[Any], *, is_serving: bool, remedy: str = "") -> str:
        """What is wrong with these objects, for people; empty: nothing that lasts, or that anybody misses."""
        fault = following.fault if following.is_lasting else None
        if fault is None:
            return ""
        match fault.status:
            case 0:
                return f"Kubernetes API: {fault}{', what it last told stays' if is_serving else ''}"
            case 404:
                return f"Kubernetes API: {self._without_pools()}" if following is self.pools else ""
            case 403 if following is self.pickers:
                return ""  # whether its Service is there is good to know, no more
            case 403:
                remedy = ": grant it as deploy/kubernetes/rbac.yaml does"
        return f"Kubernetes API: {following.name}: {fault}{remedy}"

    def _without_pools(self) -> str:
        if self.group == POOL_GROUP:
            return (
                "it has no InferencePools: install the CRDs of GIE v1.0 or newer, or give"
                f" --pool-group={OLD_POOL_GROUP} for older ones"
            )
        return f"it has no InferencePools of {self.group}: leave out --pool-group for newer ones"

    def need_llmkube(self) -> None:
        """From now on LLMKube's own objects are followed."""
        self.services.select({})
        self.models.select({})

    async def run(self) -> None:
        """Keep up."""
        async with asyncio.TaskGroup() as group:
            for following in self.all:
                group.create_task(following.run(), name=f"{self.name}: {following.resource.plural}")

    def reread(self) -> None:
        """Ask the API for everything again."""
        for following in self.all:
            following.again()

    def _tell(self) -> None:
        for listener in tuple(self.listeners):
            listener()


class Namespaces:
    """All that this process looks at, over one API, each with pools of ``group``; ``at`` before ``run``."""

    def __init__(
        self, api: KubernetesApi, *, group: str, clock: Callable[[], float], chance: random.Random
    ) -> None:
        self.api = api
        self.voice = Voice()
        self._group = group
        self._clock = clock
        self._chance = chance
        self._faults: Counter[str] = Counter()
        self._by_name: dict[str, Namespace] = {}

    def at(self, name: str) -> Namespace:
        """The namespace of this name."""
        found = self._by_name.get(name)
        if found is None:
            found = self._by_name[name] = Namespace(
                *(self.api, name),
                group=self._group,
                clock=self._clock,
                chance=self._chance,
                faults=self._faults,
            )
        return found

    async def run(self) -> None:
        """Follow them all; the API is open."""
        try:
            async with asyncio.TaskGroup() as group:
                for name, namespace in self._by_name.items():
                    group.create_task(namespace.run(), name=f"namespace: {name}")
        finally:
            await self.api.close()

    def reread(self) -> None:
        """Ask the API for everything again."""
        for namespace in self._by_name.values():
            namespace.reread()

    def families(self) -> Iterable[Family]:
        help_text = "Lists and watches of the Kubernetes API that failed, by resource."
        faults: Numbers = {(name,): float(count) for name, count in self._faults.items()}
        yield Values("fleet_epp_kubernetes_faults_total", "counter", help_text, ("resource",), faults)
