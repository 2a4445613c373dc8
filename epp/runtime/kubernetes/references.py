"""Which pools are to be served, as far as the pools themselves say.

Place:   asked by epp.runtime.keeper whenever something has changed.
Rule:    an API that is away changes nothing: who is served goes on being served.
"""

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence

from epp.config.cluster.assignments import Assignments, Known, assigned
from epp.config.cluster.objects import PickerRef
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
        """Set whenever ``ports`` may say something else."""
        self._wishes = wishes
        self._taken = taken
        self._elsewhere = elsewhere
        self._voice = namespaces.voice
        self._namespaces: dict[str, Namespace] = {}
        self._now = Assignments(ports={})
        for wish in wishes:
            namespace = self._namespaces[wish.namespace] = namespaces.at(wish.namespace)
            if wish.port is None:
                namespace.need_pools()
                namespace.listeners.add(self.changed.set)
            if wish.service:
                namespace.need_picker(PickerRef(name=wish.service))

    async def start(self) -> None:
        """Have pools and Services listed; an API that is away is not waited for."""
        lists = [
            one for namespace in self._namespaces.values() for one in (namespace.pools, namespace.pickers)
        ]
        try:
            async with asyncio.timeout(START_TIMEOUT):
                await asyncio.gather(*(one.first() for one in lists))
        except TimeoutError:
            pass  # each is tried again by its namespace, which says what is wrong

    @property
    def is_told(self) -> bool:
        """The API has told which pools there are."""
        return all(namespace.pools.is_listed for namespace in self._namespaces.values())

    def ports(self) -> Mapping[PoolName, int]:
        """The port of every pool that is to be served now."""
        known = {}
        for name, namespace in self._namespaces.items():
            pools = {
                pool: one.members
                for pool, one in namespace.pools.objects.items()
                if PoolName(name, pool) not in self._elsewhere
            }
            for members in pools.values():
                if members.picker is not None and any(
                    wish.namespace == name
                    and (wish.name == members.name or wish.service == members.picker.name)
                    for wish in self._wishes
                ):
                    namespace.need_picker(members.picker)
            known[name] = Known(pools=pools, services=namespace.pickers.objects)
        self._now = assigned(self._wishes, known, taken=self._taken, before=self._now.ports)
        self._voice.say(self, self._now.findings)
        return self._now.ports

    def detail(self) -> str:
        """What is wrong, for /readyz; empty when nothing is."""
        return "; ".join(self._now.findings)

    def families(self) -> Iterable[Family]:
        help_text = "What keeps pools from being served; /readyz and the log say what."
        findings = float(len(self._now.findings))
        yield Values("fleet_epp_pool_findings", "gauge", help_text, (), {(): findings})
