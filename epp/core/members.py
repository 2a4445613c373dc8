"""Which endpoints are whose: pools as parts of one fleet.

Place:   lists are told by discoveries; schedulers and flow control choose among a pool's members.
Ignores: what is known of an endpoint.
Rule:    a server that several pools list is one endpoint: looked at once, and what one pool sends there the
         others see. What is said of it is what the pool says that was here first.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

from epp.core.fleet import Endpoint, EndpointSpec, Fleet, Replaced
from epp.core.listing import free_name

_Server: TypeAlias = tuple[object, ...]
"""Which one it is, among all pools."""


class Members:
    """The endpoints of one pool. Made by ``Pools.add``."""

    def __init__(self, fleet: Fleet) -> None:
        self.endpoints: tuple[Endpoint, ...] = ()
        """In the order of its list; the same tuple until that changes."""
        self.on_news: Callable[[], None] | None = None
        """To be told of every look at one of them and all else that may have changed what it can do."""
        self.expire = fleet.expire
        """Let time pass: before a pick, and before anybody shows anything."""
        self._fleet = fleet
        self._by_address: dict[str, Endpoint] = {}

    @property
    def version(self) -> int:
        """Grows with everything that may change what a pick depends on."""
        return self._fleet.version

    def endpoint_at(self, address: str) -> Endpoint | None:
        """Who is at ``ip:port``; the first of several."""
        return self._by_address.get(address)

    def take(self, endpoints: Iterable[Endpoint]) -> None:
        """Have these; told by ``Pools``."""
        self.endpoints = tuple(endpoints)
        self._by_address = {endpoint.address: endpoint for endpoint in reversed(self.endpoints)}


class Pools:
    """All pools of a fleet, which nobody else gives lists to."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._lists: dict[Members, Sequence[EndpointSpec]] = {}
        self._called: dict[_Server, tuple[str, set[str]]] = {}
        """What a server is called in the fleet, and in the lists."""
        self._whose: dict[Endpoint, list[Members]] = {}
        fleet.on_news = self._tell

    def add(self) -> Members:
        """A pool without endpoints."""
        members = Members(self._fleet)
        self._lists[members] = ()
        return members

    def replace(self, members: Members, specs: Iterable[EndpointSpec], now: float) -> Replaced:
        """Take over a whole new list of one pool; what that changes in the fleet."""
        self._lists[members] = tuple(specs)
        return self._merge(now)

    def remove(self, members: Members, plugins: Iterable[object], now: float) -> Replaced:
        """There is no such pool any more, nor its ``plugins``: what they remember goes as well."""
        del self._lists[members]
        gone = {id(owner) for plugin in plugins for owner in (plugin, *_attributes(plugin))}
        for endpoint in members.endpoints:
            for key in [key for key in endpoint.memory if id(key) in gone]:
                del endpoint.memory[key]
        members.take(())
        return self._merge(now)

    def of(self, endpoint: Endpoint) -> Sequence[Members]:
        """The pools that list it."""
        return self._whose.get(endpoint, ())

    def _merge(self, now: float) -> Replaced:
        first: dict[_Server, EndpointSpec] = {}
        names: defaultdict[_Server, set[str]] = defaultdict(set)
        for specs in self._lists.values():
            for server, spec in _servers(specs):
                first.setdefault(server, spec)
                names[server].add(spec.name)
        replaced = self._fleet.replace(self._named(first, names), now)
        found = dict(zip(first, self._fleet.endpoints, strict=True))
        self._whose = {endpoint: [] for endpoint in self._fleet.endpoints}
        for members, specs in self._lists.items():
            members.take(found[server] for server, _ in _servers(specs))
            for endpoint in members.endpoints:
                self._whose[endpoint].append(members)
        return replaced

    def _named(
        self, first: Mapping[_Server, EndpointSpec], names: Mapping[_Server, set[str]]
    ) -> Iterator[EndpointSpec]:
        """Each with a name of its own: a pod's rank may be one port in this pool and another in that.

        It keeps the name as long as some list calls it as before: it is the same one, whichever pool goes.
        """
        before, self._called = self._called, {}
        for server in first:
            name, aliases = before.get(server, ("", set()))
            if aliases & names[server]:
                self._called[server] = name, names[server]
        taken = {(first[server].namespace, name) for server, (name, _) in self._called.items()}
        for server, spec in first.items():
            if server not in self._called:
                name = free_name(spec, taken)
                taken.add((spec.namespace, name))
                self._called[server] = name, names[server]
            name, _ = self._called[server]
            yield spec if spec.name == name else replace(spec, name=name)

    def _tell(self, endpoint: Endpoint) -> None:
        for members in self._whose.get(endpoint, ()):
            if members.on_news is not None:
                members.on_news()


def _attributes(plugin: object) -> Iterator[object]:
    """A plugin remembers under itself or an object of its own (docs/plugins.md)."""
    slots = (name for each in type(plugin).__mro__ for name in getattr(each, "__slots__", ()))
    for name in (*getattr(plugin, "__dict__", ()), *slots):
        yield getattr(plugin, name, None)


def _servers(specs: Iterable[EndpointSpec]) -> Iterator[tuple[_Server, EndpointSpec]]:
    """Who each is; what one list says twice is there twice."""
    times: Counter[_Server] = Counter()
    for spec in specs:
        server = spec.namespace, *spec.server
        times[server] += 1
        yield (*server, times[server]), spec
