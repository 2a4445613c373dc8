"""Which pools are to be served, as far as the pools themselves say.

Place:   asked by epp.runtime.keeper whenever something has changed.
Rule:    an API that is away changes nothing: who is served goes on being served.
"""

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence

from epp.config.cluster.assignments import Assignments, Known, assigned, takes
from epp.config.cluster.objects import Members, PickerRef
from epp.config.cluster.wishes import PoolName, Wish
from epp.runtime.kubernetes.namespace import Namespace, Namespaces
from epp.runtime.metrics import Family, Values

START_TIMEOUT = 5.0
"""[s] As long as a pool waits for its first lists."""


class References:
    """The pools that ``wishes`` come to. ``taken``: ports that are used otherwise, and for what.

    ``elsewhere``: pools that are served whatever they say.
    """

    def __init__(
        self,
        namespaces: Namespaces,
        wishes: Sequence[Wish],
        taken: Mapping[int, str],
        *,
        elsewhere: Collection[PoolName] = (),
    ) -> None:
        self.changed = asyncio.Event()
        """Set whenever ``look`` may come to something else."""
        self._wishes = wishes
        self._taken = taken
        self._elsewhere = elsewhere
        self._voice = namespaces.voice
        self._namespaces: dict[str, Namespace] = {}
        self._now = Assignments(ports={})
        self._wrong: tuple[str, ...] = ()
        for wish in wishes:
            namespace = self._namespaces[wish.namespace] = namespaces.at(wish.namespace)
            namespace.wishes.append(wish)
            if wish.port is None:
                namespace.need_pools()
                namespace.listeners.add(self.changed.set)
            if wish.service:
                namespace.need_picker(PickerRef(name=wish.service))

    async def start(self) -> None:
        """Have pools and Services listed; an API that is away is not waited for."""
        namespaces = self._namespaces.values()
        try:
            async with asyncio.timeout(START_TIMEOUT):
                await asyncio.gather(*(namespace.pools.first() for namespace in namespaces))
                self._need_pickers()
                await asyncio.gather(*(namespace.pickers.first() for namespace in namespaces))
        except TimeoutError:
            pass  # each is tried again by its namespace, which says what is wrong

    @property
    def is_told(self) -> bool:
        """The API has told which pools there are."""
        return all(namespace.pools.is_listed for namespace in self._namespaces.values())

    def look(self) -> Mapping[PoolName, int]:
        """See how it is now, and say what is wrong: the port of every pool that is to be served."""
        known: dict[str, Known] = {}
        faults = []
        self._need_pickers()
        for name, namespace in self._namespaces.items():
            pools = self._members(namespace)
            faults.append(namespace.wrong(namespace.pools, is_serving=bool(self._now.ports)))
            if namespace.pools.is_listed:
                misread = namespace.pools.unreadable
                known[name] = Known(pools=pools, services=namespace.pickers.objects, misread=misread)
        self._now = assigned(self._wishes, known, taken=self._taken, before=self._now.ports)
        self._wrong = (*dict.fromkeys(filter(None, faults)), *self._now.findings)
        self._voice.say(self, self._wrong)
        return self._now.ports

    def _members(self, namespace: Namespace) -> Mapping[str, Members]:
        """Of its pools, but for those that are served elsewhere."""
        return {
            name: pool.members
            for name, pool in namespace.pools.objects.items()
            if PoolName(namespace.name, name) not in self._elsewhere
        }

    def _need_pickers(self) -> None:
        """Look at the Services of all pools that are wished for: they say where their ports lead."""
        for wish in self._wishes:
            namespace = self._namespaces[wish.namespace]
            for members in self._members(namespace).values():
                if members.picker is not None and takes(wish, members):
                    namespace.need_picker(members.picker)

    def detail(self) -> str:
        """What is wrong, for /readyz; empty when nothing is."""
        return "; ".join(self._wrong)

    def families(self) -> Iterable[Family]:
        help_text = "What keeps pools from being served; /readyz and the log say what."
        findings = float(len(self._now.findings))
        yield Values("fleet_epp_pool_findings", "gauge", help_text, (), {(): findings})
