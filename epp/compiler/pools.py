"""Pools of servers as objects, the same for every gateway.

Place:   used by targets/, for each set of servers that one rule chooses among.
Rule:    pods are found by labels, everything else by EndpointSlices of a Service: an InferencePool's selector
         can join no two sets of pods, its annotation can.
Source:  docs/kubernetes.md, for what our picker reads.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from ipaddress import ip_address
from typing import TypeAlias

from epp.compiler import ports
from epp.compiler.documents import Documents
from epp.compiler.emission import Emitted, made
from epp.compiler.findings import Finding, Origin, error, info
from epp.compiler.intent import MOST_PORTS, Host, Pool, Router, Rule, Strategy
from epp.compiler.memory import Call, plainly
from epp.compiler.names import name_of
from epp.compiler.options import Options

SLICES = "fleet-epp.dev/endpoint-slices"
BELONGS = "fleet-epp.dev/pool"
"""Label of nothing: a pool must select pods, and one without pods selects this."""
SERVICE_NAME = "kubernetes.io/service-name"
API = "inference.networking.k8s.io/v1"
MANY = 500
"""Pools in one namespace, from which on it is told."""
BODY_MODE = "aigateway.envoyproxy.io/processing-body-mode"


_Alike: TypeAlias = tuple[str, int, tuple[tuple[str, str], ...]]
"""Family, port and labels of hosts."""


def merge(rule: Rule) -> Pool | None:
    """The servers of all its backends as one pool; None where a picker cannot choose among them.

    That is: one of them is asked without a picker, they are not in one namespace, two have pods and the
    second no Service, or each is to have its share of the requests.
    """
    pools = [one.servers for one in rule.backends if isinstance(one.servers, Pool)]
    if not pools or len(pools) < len(rule.backends):
        return None
    if len(set(map(_identity, pools))) == 1:
        return pools[0]
    shared = {one.namespace for one in pools}
    if rule.strategy is Strategy.WEIGHTED or len(shared) > 1 or any(one.exists for one in pools):
        return None
    return _joined(rule, pools)


def shared_by_load(router: Router) -> list[tuple[tuple[str, str, str], Finding]]:
    """Pools that would stand for an order of backends, and what to say where one is made."""
    found = ((merge(rule), rule) for rule in router.rules if rule.strategy is Strategy.FALLBACK)
    return [
        (("InferencePool", *_identity(pool)), _shared_by_load(rule, names))
        for pool, rule in found
        if pool is not None and len(names := list(dict.fromkeys(one.name for one in rule.backends))) > 1
    ]


def _shared_by_load(rule: Rule, names: Sequence[str]) -> Finding:
    return info(
        "PickerSharesByLoad",
        rule.origin,
        f"{', '.join(names)} are one pool: its picker sends each request where it is served best, and to the"
        " others where that one fails; their order does not count",
        f"to have {names[0]} first, label the servers of the others fleet-epp.dev/tier=1 and configure the"
        " picker's tier-preference",
    )


def _identity(pool: Pool) -> tuple[str, str]:
    return pool.namespace, pool.name


def _joined(rule: Rule, pools: list[Pool]) -> Pool | None:
    with_pods = [one for one in pools if one.selector]
    others = with_pods[1:]
    if not all(one.service for one in others):
        return None
    services = [name for one in pools for name in one.slices]
    services += [one.service.partition(":")[0] for one in others]
    first = with_pods[0] if with_pods else pools[0]
    return replace(
        first,
        name=name_of(*(one.name for one in pools)),
        origin=rule.origin,
        slices=tuple(dict.fromkeys(services)),
        hosts=tuple({(host.address, host.port): host for one in pools for host in one.hosts}.values()),
    )


def objects(
    pools: Iterable[Pool], documents: Documents, options: Options, call: Call = plainly
) -> tuple[list[Emitted], list[Finding]]:
    """InferencePools, the Service of their picker in each namespace, and slices of machines outside.

    A pool may be there several times, once for each rule that leads to it.
    """
    wanted: dict[str, dict[str, list[Pool]]] = {}
    for pool in pools:
        if not pool.exists:
            wanted.setdefault(pool.namespace, {}).setdefault(pool.name, []).append(pool)
    emitted: list[Emitted] = []
    findings: list[Finding] = []
    for namespace, here in sorted(wanted.items()):
        taken = call(_taken, namespace, documents, options)
        try:
            numbers = ports.assign(here, taken, first=ports.FIRST, count=ports.COUNT)
        except ValueError as fault:
            origin = here[min(here)][0].origin
            findings.append(
                error("TooManyPools", origin, f"namespace {namespace}: {fault}", "use several namespaces")
            )
            continue
        for name in sorted(here):
            made_of, told = call(_made_of, options, numbers[name], *here[name])
            emitted += made_of
            findings += told
        if len(here) >= MANY:
            findings.append(_many(namespace, here))
        sources = [call(_sources, *here[name]) for name in sorted(here)]
        emitted.append(_picker_service(namespace, sources, {*numbers.values(), *taken.values()}, options))
    return emitted, findings


def _many(namespace: str, here: Mapping[str, Sequence[Pool]]) -> Finding:
    return info(
        "ManyPools",
        here[min(here)][0].origin,
        f"namespace {namespace} has {len(here)} pools: its picker's Service has a port for each, and its"
        " pickers listen on them all",
        "use several namespaces",
    )


def _made_of(options: Options, port: int, *same: Pool) -> tuple[list[Emitted], list[Finding]]:
    """Everything of one pool, asked for by several rules."""
    sources = _sources(*same)
    emitted, told = headless(same[0], sources)
    pool = _pool(same[0], sources, port, options, with_hosts=bool(emitted))
    return [*emitted, pool], [*told, *_clashes(same)]


def _sources(*same: Pool) -> tuple[Origin, ...]:
    return tuple(dict.fromkeys(one.origin.at("") for one in same))


def _clashes(same: Sequence[Pool]) -> list[Finding]:
    """Pools of one name that are not the same servers: two inputs chose one name, and the older has it."""
    first = same[0]
    others = (one for one in same if _servers(one) != _servers(first))
    return [
        error(
            "NameTaken",
            one.origin,
            f"InferencePool {one.namespace}/{one.name} is made for {first.origin.object} already",
            "give one of the two another name",
        )
        for one in others
    ]


def _servers(pool: Pool) -> tuple[object, ...]:
    return pool.selector, pool.ports, pool.slices, pool.hosts


def _taken(namespace: str, documents: Documents, options: Options) -> Mapping[str, int]:
    """The ports of pools that are there, whether they are wanted now or not."""
    taken: dict[str, int] = {}
    for one in documents.of("InferencePool", API.partition("/")[0]):
        picker = one.spec.get("endpointPickerRef") or {}
        if one.namespace == namespace and picker.get("name") == options.picker_service:
            number = (picker.get("port") or {}).get("number")
            if isinstance(number, int) and number not in taken.values():
                taken[one.name] = number
    return taken


def _pool(
    pool: Pool, sources: tuple[Origin, ...], port: int, options: Options, *, with_hosts: bool
) -> Emitted:
    services = [*pool.slices, *([pool.name] if with_hosts else [])]
    annotations = {}
    if services:
        annotations[SLICES] = f"{SERVICE_NAME} in ({','.join(services)})"
    if options.target.is_envoy_ai_gateway:
        annotations[BODY_MODE] = "duplex"
    numbers = pool.ports or tuple(dict.fromkeys(host.port for host in pool.hosts)) or (8000,)
    spec = {
        "selector": {"matchLabels": dict(pool.selector) or {BELONGS: pool.name}},
        "targetPorts": [{"number": number} for number in numbers[:MOST_PORTS]],
        "endpointPickerRef": {
            "name": options.picker_service,
            "port": {"number": port},
            "failureMode": "FailClose",
        },
    }
    return made(API, "InferencePool", pool.namespace, pool.name, *sources, annotations=annotations, spec=spec)


def headless(pool: Pool, sources: tuple[Origin, ...]) -> tuple[list[Emitted], list[Finding]]:
    """A Service without pods, and a slice for each port, family of addresses and labels: a slice has one of
    each."""
    findings, groups = [], dict[_Alike, list[Host]]()
    for host in pool.hosts:
        try:
            family = f"IPv{ip_address(host.address).version}"
        except ValueError:
            findings.append(
                error(
                    "HostNeedsAddress",
                    pool.origin,
                    f"{host.name} is at {host.address}, and a picker asks servers by their addresses",
                    "give its IP address, or make it a backend of its own",
                )
            )
        else:
            labels = tuple(sorted(host.labels.items()))
            groups.setdefault((family, host.port, labels), []).append(host)
    if not groups:
        return [], findings
    ports_of = sorted({port for _, port, _ in groups})
    service = made(
        "v1",
        "Service",
        pool.namespace,
        pool.name,
        *sources,
        spec={"clusterIP": "None", "ports": [{"name": _port_name(port), "port": port} for port in ports_of]},
    )
    slices = [_slice(pool, alike, groups[alike], sources) for alike in sorted(groups)]
    return [service, *slices], findings


def pods_service(pool: Pool, *sources: Origin) -> Emitted:
    """A headless Service of its pods, for the way without a picker where nobody has named one: whoever asks
    sees each pod, and sees it go."""
    ports_of = [{"name": _port_name(port), "port": port} for port in pool.ports]
    spec = {"clusterIP": "None", "selector": dict(pool.selector), "ports": ports_of}
    return made("v1", "Service", pool.namespace, name_of(pool.name, "pods"), *sources, spec=spec)


def _slice(pool: Pool, alike: _Alike, hosts: list[Host], sources: tuple[Origin, ...]) -> Emitted:
    family, port, labels = alike
    emitted = made(
        "discovery.k8s.io/v1",
        "EndpointSlice",
        pool.namespace,
        name_of(pool.name, family.lower(), str(port), *(part for label in labels for part in label)),
        *sources,
        addressType=family,
        endpoints=[
            {"addresses": [host.address], "hostname": name_of(host.name), "conditions": {"ready": True}}
            for host in hosts
        ],
        ports=[{"name": _port_name(port), "port": port}],
    )
    emitted.document["metadata"]["labels"] = {**dict(labels), SERVICE_NAME: pool.name}
    return emitted


def _port_name(port: int) -> str:
    return f"http-{port}"


def _picker_service(
    namespace: str, sources: Iterable[Sequence[Origin]], numbers: Collection[int], options: Options
) -> Emitted:
    """With the ports of pools that go, too: while their routes stand, they are asked for."""
    served = dict.fromkeys(one for of_pool in sources for one in of_pool)
    open_ports = [{"name": f"pool-{port}", "port": port, "targetPort": port} for port in sorted(numbers)]
    spec = {"selector": {"inferencepool": options.picker}, "ports": open_ports}
    return made("v1", "Service", namespace, options.picker_service, *served, spec=spec)
