"""One kind of objects, kept as the API has it: listed, then watched, for ever.

Place:   run by epp.runtime.kubernetes.discovery, one for each kind.
Ignores: what the objects mean.
Rule:    what was last told stays while the API is away or refuses. A broken watch goes on from its version;
         only a version that is too old leads to a new list. Tries are spaced, at random, further apart the
         longer they fail.
Source:  client-go's Reflector.
"""

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Callable
from contextlib import aclosing
from typing import Generic

from epp.runtime.kubernetes.api import KubernetesApi, Resource
from epp.runtime.kubernetes.store import ApiFault, Expired, Store, T, lists

logger = logging.getLogger("epp.kubernetes")

WATCH_SECONDS = (240, 300)
"""How long the API is asked to go on with one watch: not all of them end at once."""
STEADY = 5.0
"""[s] A watch that lasted so long was a good one."""
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
"""[s] Between tries while the API is away."""
FIRST_RECHECK, LONGEST_RECHECK = 1.0, 30.0
"""[s] Between tries when it has no such resource, or does not let us see it: people will have to act."""


REFUSALS = frozenset({400, 401, 403, 404})
"""Answers that stay until people act."""


class Pauses:
    """How long to wait between tries: longer with each failure of a kind, anew with another kind.

    An API that comes up refuses for a moment what it has always allowed.
    """

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._is_refused = False
        self._tries = 0

    def after(self, fault: Exception | None, *, lasted: float) -> float:
        """What a try of ``lasted`` [s] has to be followed by [s]; ``fault``: None: it ended in good order."""
        is_refused = isinstance(fault, ApiFault) and fault.status in REFUSALS
        if lasted >= STEADY or is_refused is not self._is_refused:
            self._tries = 0
        self._is_refused = is_refused
        self._tries += 1
        if fault is None and self._tries == 1:
            return 0.0  # the usual end of a watch
        first, longest = (FIRST_RECHECK, LONGEST_RECHECK) if is_refused else (FIRST_PAUSE, LONGEST_PAUSE)
        return min(longest, first * 2.0 ** min(self._tries - 1, 16)) * self._chance.uniform(0.7, 1.0)


class Following(Generic[T]):
    """Objects of ``kind``; none until ``select``. ``on_change``: they changed, or what is wrong.

    ``namespace`` empty: of all, by ``namespace/name``. ``pressing``: what of an object nobody can wait for.
    """

    def __init__(
        self,
        api: KubernetesApi,
        resource: Resource,
        kind: type[T],
        namespace: str,
        on_change: Callable[[], None],
        *,
        clock: Callable[[], float],
        chance: random.Random,
        faults: Counter[str] | None = None,
        pressing: Callable[[T], object] | None = None,
    ) -> None:
        self.resource = resource
        self.name = resource.name
        self.is_listed = False
        """Objects are as the API had them at some time."""
        self.is_selected = False
        """And they are those that are asked for now."""
        self.fault: ApiFault | None = None
        """Why the last try failed; None: it did not."""
        self.is_lasting = False
        """The try before the last failed the same way. An API that comes up refuses for a second what it has
        always allowed, and knows nothing for another; that is not worth a word."""
        self.faults: Counter[str] = Counter() if faults is None else faults
        """Tries that failed, by name; of others as well, where it is shared."""
        self._api = api
        self._path = resource.path(namespace)
        self._on_change = on_change
        self._clock = clock
        self._chance = chance
        self._store: Store[T] = Store(kind, pressing, is_wide=not namespace)
        self._query: dict[str, str] | None = None
        self._reselected = asyncio.Event()
        self._trying = asyncio.Lock()
        self._tries = 0

    @property
    def objects(self) -> dict[str, T]:
        """As last told, by name."""
        return self._store.objects

    @property
    def version(self) -> str | None:
        """Up to which the API has told; None: they are being listed anew."""
        return self._store.version

    @property
    def unreadable(self) -> dict[str, str]:
        """By name, why an object is not taken as it is now."""
        return self._store.unreadable

    @property
    def is_told(self) -> bool:
        """There is an answer: objects, or a fault; or nobody asks."""
        return self._query is None or self.is_listed or self.fault is not None

    @property
    def is_missed(self) -> bool:
        """Asked for, and neither listed nor refused: the API is away."""
        is_refused = self.fault is not None and self.fault.status in REFUSALS
        return self._query is not None and not self.is_listed and not is_refused

    def takes_pressing(self) -> bool:
        """Whether something has changed since the last time that nobody can wait for."""
        is_pressing, self._store.is_pressing = self._store.is_pressing, False
        return is_pressing

    def select(self, query: dict[str, str] | None) -> None:
        """Follow those that ``query`` selects; None: none. The ones before stay until these are listed."""
        if query == self._query:
            return
        self._query, self.is_selected = query, False
        self._store.version = None
        if query is None:
            self._forget()
        self._reselected.set()

    def again(self) -> None:
        """List again now, whatever is going on."""
        self._reselected.set()

    async def first(self) -> None:
        """One try to list, by whoever cannot wait for ``run``; of several at a time they share one."""
        tries = self._tries
        async with self._trying:
            if self._query is None or self.is_listed or self._tries != tries:
                return
            try:
                await self._list(self._query, is_first=True)
                self.fault = None
            except (ApiFault, Expired) as fault:
                self._failed(fault)
            self._tries += 1

    async def run(self) -> None:
        """Keep up."""
        while True:
            self._reselected.clear()
            async with asyncio.TaskGroup() as group:
                name = f"kubernetes: {self.resource.plural}"
                task = group.create_task(self._follow(self._query), name=name)
                await self._reselected.wait()
                task.cancel()
            self._store.version = None
            if self._query is None and (self.is_listed or self.fault is not None):
                self._forget()  # an answer was on its way when nobody asked any more
                self._on_change()

    async def _follow(self, query: dict[str, str] | None) -> None:
        pauses = Pauses(self._chance)
        while query is not None:
            began = self._clock()
            failed: Exception | None = None
            try:
                if self._store.version is None:
                    await self._list(query)
                await self._watch(query)
            except (ApiFault, Expired) as fault:
                failed = fault
                self._failed(fault)
            await asyncio.sleep(pauses.after(failed, lasted=self._clock() - began))

    async def _list(self, query: dict[str, str], *, is_first: bool = False) -> None:
        try:
            body = await self._api.fetch(self._path, query)
        except ApiFault as fault:
            if fault.status == 403 and not await self._is_there():
                raise ApiFault(404, "there is no such resource") from fault
            raise
        if is_first and self.is_listed:
            return  # ``run`` was quicker, and may have heard of changes since
        self._store.take_list(body)
        self.is_listed, self.is_selected = True, query is self._query
        self._on_change()

    async def _is_there(self) -> bool:
        """The API has this kind, which it refuses to show: of kinds that are not there it says the same."""
        if not self.resource.group:
            return True
        try:
            return lists(await self._api.fetch(self.resource.home, {}), self.resource.plural)
        except ApiFault as fault:
            return fault.status != 404

    async def _watch(self, query: dict[str, str]) -> None:
        how = {
            "resourceVersion": self._store.version or "",
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(self._chance.randint(*WATCH_SECONDS)),
        }
        async with aclosing(self._api.watch(self._path, {**query, **how})) as pieces:
            async for lines in pieces:
                changed = [self._store.take_event(line) for line in lines]
                if any(changed) or self.fault is not None:
                    self.fault = None
                    self._on_change()

    def _forget(self) -> None:
        self._store.clear()
        self.is_listed, self.fault = False, None

    def _failed(self, fault: ApiFault | Expired) -> None:
        self.faults[self.name] += 1
        if isinstance(fault, Expired):
            self._store.version = None
            logger.debug("version expired", extra={"fields": {"resource": self.resource.plural}})
            return
        if fault.status in {400, 403, 404, 504}:
            # Whoever may list and not watch sees changes by listing again. 504: the version is one that
            # this API has not reached, as after its data were restored.
            self._store.version = None
        self.is_lasting = self.fault is not None and self.fault.status == fault.status
        self.fault = fault
        self._on_change()
