"""Which pools a process serves, each on which port.

Place:   called by epp.runtime.kubernetes.references with the objects as they are now.
Ignores: how a pool is served.
Rule:    a port serves one pool: a gateway's request says nothing of the pool but the port it comes to. Who
         has a port keeps it, also one that asks for another it cannot have; what cannot be served is a
         finding, and the others are.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from epp.config.cluster.objects import Members, Service
from epp.config.cluster.wishes import PoolName, Wish


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What is known of a namespace."""

    pools: Mapping[str, Members] = field(default_factory=dict)
    services: Mapping[str, Service] = field(default_factory=dict)
    misread: Mapping[str, str] = field(default_factory=dict)
    """By name, why a pool cannot be read as it is now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignments:
    """Who is served where."""

    ports: Mapping[PoolName, int]
    findings: tuple[str, ...] = ()
    """What should be corrected, each with its remedy."""


def takes(wish: Wish, pool: Members) -> bool:
    """Whether it is one of those that are wished for; both are of one namespace."""
    if wish.name:
        return wish.name == pool.name
    return pool.picker is not None and pool.picker.is_service and pool.picker.name == wish.service


def assigned(
    wishes: Iterable[Wish],
    known: Mapping[str, Known],
    *,
    taken: Mapping[int, str],
    before: Mapping[PoolName, int],
) -> Assignments:
    """The ports of all pools. ``taken``: what this process uses otherwise, and for what.

    ``known``: by namespace, without those that nobody has told of yet.
    """
    wanted: dict[PoolName, int] = {}
    problems: dict[PoolName, str] = {}
    for wish in wishes:
        for pool, port, problem in _of(wish, known.get(wish.namespace)):
            if problem:
                problems.setdefault(pool, problem)
            else:
                wanted.setdefault(pool, port)
    ports: dict[PoolName, int] = {}
    owners: dict[int, str] = dict(taken)
    # who has the port he wants comes first
    for pool in sorted(wanted, key=lambda each: before.get(each) != wanted[each]):
        port = wanted[pool]
        owner = owners.get(port) if port else None
        if owner is None:
            ports[pool] = port
            owners[port] = f"InferencePool {pool}"
        else:
            problems[pool] = (
                f"InferencePool {pool}: its picker is to listen on port {port}, which is for {owner}: give"
                " each its own"
            )
    there = {PoolName(namespace, name) for namespace, each in known.items() for name in each.pools}
    for pool in problems:
        port = before.get(pool, 0)
        if pool in there and port and port not in owners:
            ports[pool] = port
            owners[port] = f"InferencePool {pool}"
            problems[pool] += f"; until then it stays on port {port}"
    order = [pool for pool in (*wanted, *problems) if pool in ports]
    return Assignments(
        ports={pool: ports[pool] for pool in order},
        findings=tuple(problems.values()),
    )


def _of(wish: Wish, known: Known | None) -> Iterator[tuple[PoolName, int, str]]:
    """The pools that are wished for, each with its port or why it has none."""
    if wish.port is not None:
        yield PoolName(wish.namespace, wish.name), wish.port, ""
    elif known is not None:
        for name in _names(wish, known):
            pool = PoolName(wish.namespace, name)
            port = _listening(known.pools[name], known.services) if name in known.pools else 0
            yield pool, port, "" if port else _problem(pool, known)


def _problem(pool: PoolName, known: Known) -> str:
    """Why a pool has no port."""
    remedy = f"give its port as --pool {pool}=9002"
    if pool.name in known.pools:
        what, correction = "does not say on which port its picker is", "write endpointPickerRef.port.number"
    elif pool.name in known.misread:
        what, correction = f"is not understood: {known.misread[pool.name]}", "correct it"
    else:
        what, correction = "is not there", "create it"
    return f"InferencePool {pool} {what}: {correction}, or {remedy}"


def _names(wish: Wish, known: Known) -> Collection[str]:
    if wish.name:
        return (wish.name,)
    return sorted(name for name, members in known.pools.items() if takes(wish, members))


def _listening(members: Members, services: Mapping[str, Service]) -> int:
    """The port of the picker itself: where its Service leads, if that is known; 0: nothing says."""
    picker = members.picker
    if picker is None:
        return 0
    service = services.get(picker.name)
    for port in (service.spec.ports or ()) if service is not None else ():
        if port.port == picker.service_port and isinstance(port.target_port, int):
            return port.target_port
    return picker.service_port
