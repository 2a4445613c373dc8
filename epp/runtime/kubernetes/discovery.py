"""One InferencePool: its pods and the EndpointSlices it names, and what is asked of its requests.

Place:   tells main's callback the complete list whenever it has changed, and keeps its Directives up to date;
         run by main. The same shape as FileDiscovery.
Ignores: whether a server answers, and what a list is used for.
Rule:    objects are followed, the list is what epp.config.cluster makes of them, at once and whole. While the
         API is away the last list stays; what is wrong is said once, and shown in metrics and /readyz.
"""

import asyncio
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from epp.config.claims import Claims
from epp.config.cluster.endpoints import Translation, translate
from epp.config.cluster.objects import SLICES_ANNOTATION, Cluster, Members, Pod, Slice
from epp.config.cluster.rules import NO_RULES, Asked, rules
from epp.core.directives import Directives
from epp.core.fleet import EndpointSpec
from epp.runtime.kubernetes.api import Resource
from epp.runtime.kubernetes.following import Following
from epp.runtime.kubernetes.namespace import Namespace, Voice
from epp.runtime.kubernetes.store import ApiFault, T
from epp.runtime.metrics import Family, Numbers, Values
from epp.runtime.supervise import told_or_after

PODS = Resource("pods", "", "v1")
SLICES = Resource("endpointslices", "discovery.k8s.io", "v1")

REST, LONGEST_REST = 9, 0.1
"""Between two lists: as many times as long as it took to make one, and at most so long [s]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KubernetesSettings:
    """Which pool. Times [s]."""

    pool: str
    members: Members | None = None
    """What a pool would say, where there is none: ``pool`` is not looked for then, nor what is asked of its
    requests."""
    engines: Collection[str] = ()
    """Names that an engine may have; empty: any."""
    is_expected: bool = True
    """Somebody misses the pool where it is not there. Else it is followed because it was."""
    start_timeout: float = 5.0
    """For the lists of ``start``, which others wait for: longer than a connection is broken by a restart of
    the API, shorter than a server outside the cluster should wait for it."""


def selected(namespace: str, selector: str, ports: Sequence[int]) -> Members | None:
    """Pods by a selector of one's own; None: there is none."""
    if not selector:
        return None
    return Members(name="", namespace=namespace, selector=selector, ports=tuple(ports))


class KubernetesDiscovery:
    """Follows one pool. ``start`` once, then ``run`` until it is cancelled; somebody runs ``namespace``.

    ``title``: what metrics call the pool. ``clock`` [s] is monotonic, ``unix_clock`` [s] what heartbeats are
    compared with.
    """

    def __init__(
        self,
        namespace: Namespace,
        settings: KubernetesSettings,
        on_change: Callable[[Sequence[EndpointSpec]], None],
        *,
        title: str,
        directives: Directives,
        voice: Voice,
        clock: Callable[[], float],
        unix_clock: Callable[[], float],
    ) -> None:
        self._namespace = namespace
        self._settings = settings
        self._on_change = on_change
        self._title = title
        self._directives = directives
        self._voice = voice
        self._clock = clock
        self._unix_clock = unix_clock
        self._changed = asyncio.Event()
        namespace.listeners.add(self._changed.set)
        namespace.served[settings.pool] += 1
        self._pressing = asyncio.Event()
        """Who serves is another now, or where."""
        self._pods = namespace.follow(PODS, Pod, self._told, lambda one: (one.serves, one.status.pod_ip))
        self._slices = namespace.follow(SLICES, Slice, self._told, lambda one: one.endpoints)
        self._own: tuple[Following[Any], ...] = (self._pods, self._slices)
        self._all = (namespace.pools, *self._own, namespace.pickers, *namespace.asking)
        self._all += (namespace.services, namespace.models)
        if settings.members is None:
            namespace.need_pools()
        self._claims = Claims()
        self._rules = NO_RULES
        self._now = Translation(specs=())
        self._specs: tuple[EndpointSpec, ...] | None = None
        self._wrong: tuple[str, ...] = ()

    # --- what others call

    async def start(self) -> None:
        """Tell the pool's endpoints.

        An API that is away is asked again for as long as the timeout lasts. What it has not told by then, or
        refuses, is logged and tried again by ``run``.
        """
        try:
            async with asyncio.timeout(self._settings.start_timeout):
                await self._first_lists()
        except TimeoutError:
            pass  # run goes on, and says what is wrong
        self._take_over()

    async def run(self) -> None:
        """Follow the pool."""
        async with asyncio.TaskGroup() as group:
            for following in self._own:
                name = f"discovery: {following.resource.plural} of {self._title}"
                group.create_task(following.run(), name=name)
            while True:
                wait = self._now.due - self._unix_clock()
                await told_or_after(self._changed, None if wait == float("inf") else max(wait, 0.0))
                self._select()
                self._pressing.clear()
                began = self._clock()
                self._take_over()
                # A rollout of a thousand pods is thousands of events, each worth 10 ms: of a burst only as
                # many become lists as take a tenth of the time. A pod that is told to stop gets requests
                # until it is taken over: for that a list may take half of the time.
                took = min(self._clock() - began, LONGEST_REST)
                await asyncio.sleep(took)
                await told_or_after(self._pressing, min((REST - 1) * took, LONGEST_REST))

    def _told(self) -> None:
        """Pods or slices have changed."""
        if self._pods.takes_pressing() | self._slices.takes_pressing():
            self._pressing.set()
        self._changed.set()

    def close(self) -> None:
        self._namespace.listeners.discard(self._changed.set)
        self._namespace.served[self._settings.pool] -= 1
        self._voice.forget(self)

    def reread(self) -> None:
        """Ask the API for everything again."""
        for following in self._own:
            following.again()

    def recheck(self, host_name: str) -> None:
        """Nothing here has a host name: where pods move to, the API tells."""

    def detail(self) -> str:
        """What is wrong or waited for, for /readyz; empty when nothing is."""
        return "; ".join((*self._wrong, *self._now.waiting))

    def families(self) -> Iterable[Family]:
        def gauge(name: str, help_text: str, value: float) -> Family:
            values: Numbers = {(self._title,): value}
            return Values(f"fleet_epp_kubernetes_{name}", "gauge", help_text, ("name",), values)

        yield gauge(
            "current",
            "1: what is known of the pool is as the Kubernetes API has it now; 0: it is away or refuses.",
            float(not self._faults()),
        )
        findings = (*self._now.findings, *self._rules.findings, *self._misread(), *self._refused_selectors())
        yield gauge(
            "findings",
            "What is to be corrected in the objects of the pool; /readyz and the log say what.",
            float(len(findings)),
        )
        help_text = "Pods of the pool that have no address yet."
        yield gauge("pods_without_address", help_text, float(len(self._now.waiting)))

    async def _first_lists(self) -> None:
        """Ask for everything until nothing is missed: half a pool would take the whole load."""
        namespace = self._namespace
        pauses = namespace.pauses()
        while True:
            for stage in (
                (namespace.pools, *namespace.asking),
                (*self._own, namespace.pickers),
                (namespace.services, namespace.models),
            ):
                await asyncio.gather(*(following.first() for following in stage))
                self._select()
            missed = [one for one in (namespace.pools, *self._own) if one.is_missed]
            if not missed:
                return
            await asyncio.sleep(pauses.after(missed[0].fault, lasted=0.0))

    # --- from objects to the list

    @property
    def _pool(self) -> Members | None:
        pool = self._namespace.pools.objects.get(self._settings.pool)
        return self._settings.members if pool is None else pool.members

    @property
    def _cluster(self) -> Cluster:
        namespace, pool = self._namespace, self._pool
        others = (one.members for one in namespace.pools.objects.values())
        return Cluster(
            pool=pool,
            # those that this process serves as well know of each other's requests
            neighbours=[one for one in others if not namespace.serves(one)],
            has_picker_service=pool is None or pool.picker is None or namespace.may_have(pool.picker),
            pods=self._pods.objects.values(),
            slices=self._slices.objects.values(),
            services=namespace.services.objects,
            models=namespace.models.objects,
        )

    def _select(self) -> None:
        """Follow what the pool asks for now, and LLMKube's own objects where servers are LLMKube's."""
        cluster = self._cluster
        pool = cluster.pool
        if pool is not None:
            self._pods.select(_labelled(pool.selector))
            self._slices.select(_labelled(pool.slices))
            if pool.picker is not None:
                self._namespace.need_picker(pool.picker)
        if cluster.is_llmkube:
            self._namespace.need_llmkube()

    def _take_over(self) -> None:
        """Tell the list if it is another one than last time, and what is wrong if it is something else."""
        if self._is_known():
            now = self._unix_clock()
            self._now = translate(self._cluster, now, engines=self._settings.engines)
            contested = self._claims.look(self._now.specs, now)
            self._direct()
            self._say((*self._faults(), *self._now.findings, *self._rules.findings, *contested))
            if self._now.specs != self._specs:
                self._specs = self._now.specs
                self._on_change(self._specs)
        else:
            self._say(self._faults())

    def _direct(self) -> None:
        """What is asked of requests, as the objects have it now. It stays while there is no pool."""
        pool = self._pool
        if pool is None or self._settings.members is not None:
            return
        namespace = self._namespace
        neighbours = {*namespace.pools.objects, *namespace.pools.unreadable}
        asked = Asked(
            objectives=_told(namespace.objectives),
            old_objectives=_told(namespace.old_objectives),
            rewrites=_told(namespace.rewrites),
            old_rewrites=_told(namespace.old_rewrites),
        )
        found = rules(asked, pool, group=namespace.group, neighbours=neighbours, before=self._rules.good)
        self._rules, directives = found, self._directives
        directives.priorities = found.priorities
        directives.by_model, directives.any_model = found.by_model, found.any_model

    def _is_known(self) -> bool:
        """There is a list: from now on it is never nothing merely because something is not known."""
        if self._specs is not None:
            return True
        servers = (self._pods, self._slices)
        is_told = all(one.is_told for one in servers) and all(one.is_told for one in self._namespace.asking)
        pool = self._pool
        if pool is None or not is_told:
            return False
        has_servers = pool.selector or pool.slices
        return not has_servers or any(one.is_listed for one in servers)

    def _faults(self) -> tuple[str, ...]:
        """What the API does not tell, and why; the same fault of several resources once."""
        pools, pool = self._namespace.pools, f"{self._namespace.name}/{self._settings.pool}"
        found = [
            self._namespace.wrong(one, is_serving=bool(self._specs), remedy=self._remedy(one))
            for one in self._all
        ]
        found += self._misread()
        is_missing = pools.is_listed and self._settings.pool not in {*pools.objects, *pools.unreadable}
        if is_missing and self._settings.is_expected:
            found.append(
                f"InferencePool {pool} is not there: create it, or see --pool-name, --pool-namespace"
            )
        return tuple(dict.fromkeys(filter(None, found)))

    def _misread(self) -> list[str]:
        """Objects that are not what they should be; of the pools only our own is our affair."""
        return [
            f"{following.name} {name} is not understood"
            f"{', what it said before stays' if name in following.objects else ''}: {why}"
            for following in self._all
            for name, why in following.unreadable.items()
            if following is not self._namespace.pools or name == self._settings.pool
        ]

    def _refused_selectors(self) -> list[Following[Any]]:
        return [
            one for one in self._own if one.is_lasting and one.fault is not None and one.fault.status == 400
        ]

    def _remedy(self, following: Following[Any]) -> str:
        match following.fault:
            case ApiFault(status=400) if following is self._pods and self._settings.members is not None:
                return ": correct --endpoint-selector"
            case ApiFault(status=400) if following is self._slices:
                return f": correct annotation {SLICES_ANNOTATION} of the InferencePool"
        return ""

    def _say(self, wrong: tuple[str, ...]) -> None:
        self._wrong = wrong
        self._voice.say(self, wrong)


def _told(following: Following[T]) -> Collection[T] | None:
    """None: there is no such kind (any more), or it is not for us to see."""
    is_gone = following.is_lasting and following.fault is not None and following.fault.status == 404
    if not following.is_listed or (is_gone and not following.objects):
        return None
    return following.objects.values()


def _labelled(selector: str) -> dict[str, str] | None:
    return {"labelSelector": selector} if selector else None
