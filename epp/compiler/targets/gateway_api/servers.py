"""What a rule leads to, as backendRefs of an HTTPRoute.

Place:   used by this target only.
Rule:    a picker chooses among pods: gateways refuse an address that is none of the pool's, or send the
         request to another server. Machines outside are a Service without a picker, or are left out and told.
"""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address

from epp.compiler.documents import Documents
from epp.compiler.emission import Emitted, Object, made
from epp.compiler.findings import Finding, error, warning
from epp.compiler.http_routes import MOST_WEIGHT
from epp.compiler.intent import Backend, Host, Pool, Router, Rule, Schema, Strategy, Upstream
from epp.compiler.names import name_of
from epp.compiler.pools import SERVICE_NAME
from epp.compiler.targets.gateway_api.routes import is_out, out_of_service, renamed

INFERENCE = "inference.networking.k8s.io"
AGENT_PORT = 8080
"""Of every Service that LLMKube's metal agent keeps."""
_IN_CLUSTER = re.compile(r"([a-z0-9-]+)\.([a-z0-9-]+)\.svc(?:\.cluster\.local)?\.?")
_SERVICE_PORT = 80


@dataclass(frozen=True, slots=True)
class Way:
    """To the servers of one backend, or of a whole rule. ``pools``: those that are to be made."""

    references: tuple[Object, ...] = ()
    pools: tuple[Pool, ...] = ()
    objects: tuple[Emitted, ...] = ()
    findings: tuple[Finding, ...] = ()


def way(rule: Rule, router: Router, documents: Documents) -> Way:
    """To the servers of ``rule``; with an error, to none."""
    if not rule.backends:
        return _nobody(rule, router, ())
    if rule.strategy is Strategy.FALLBACK and len({_identity(one) for one in rule.backends}) > 1:
        return Way(findings=(_no_fallback(rule),))
    backends = rule.backends if rule.strategy is Strategy.WEIGHTED else rule.backends[:1]
    ways = [_backend(one, rule, router, documents) for one in backends]
    findings = [told for one in ways for told in one.findings]
    if any(told.is_error for told in findings):
        return Way(findings=tuple(findings))
    findings += out_of_service(rule)
    if all(is_out(rule, one) for one in backends) and not any(
        one.pools and backend.weight for one, backend in zip(ways, backends, strict=True)
    ):
        return _nobody(rule, router, findings)
    if len([one for one in ways if one.pools]) > 1:
        findings.append(_several_pools(rule))
    return Way(
        tuple(_weighted(backends, [one.references for one in ways])),
        tuple(pool for one in ways for pool in one.pools),
        tuple(emitted for one in ways for emitted in one.objects),
        tuple(findings),
    )


def _nobody(rule: Rule, router: Router, findings: Sequence[Finding]) -> Way:
    """A pool without servers: its picker answers 503 at once, as nothing else in an HTTPRoute does."""
    pool = Pool(name_of(router.name, "nobody"), router.namespace, rule.origin)
    reference = _reference(INFERENCE, "InferencePool", pool.name, pool.namespace, router)
    return Way((reference,), (pool,), findings=tuple(findings))


def _identity(backend: Backend) -> tuple[str, ...]:
    servers = backend.servers
    if isinstance(servers, Pool):
        return "pool", servers.namespace, servers.name, backend.model
    return servers.host, str(servers.port), servers.prefix, servers.secret, backend.model


def _weighted(backends: Iterable[Backend], references: list[tuple[Object, ...]]) -> list[Object]:
    """Shares of the requests, 0 for who cannot serve: if that is all of them, they stay as they are."""
    given = list(backends)
    live = [0 if one.down else one.weight for one in given]
    weights = live if any(live) else [one.weight for one in given]
    if len(given) == len(references[0]) == 1:
        return [dict(references[0][0])]
    parts = math.lcm(*(len(found) or 1 for found in references))
    exact = [weight * parts // (len(found) or 1) for weight, found in zip(weights, references, strict=True)]
    most = max(exact)
    scale = MOST_WEIGHT / most if most > MOST_WEIGHT else 1
    return [
        {**one, "weight": math.ceil(weight * scale)}
        for weight, found in zip(exact, references, strict=True)
        for one in found
    ]


def _backend(backend: Backend, rule: Rule, router: Router, documents: Documents) -> Way:
    if isinstance(backend.servers, Upstream):
        return _upstream(backend, backend.servers, rule, router)
    return _pool(backend, backend.servers, rule, router, documents)


def _pool(backend: Backend, pool: Pool, rule: Rule, router: Router, documents: Documents) -> Way:
    outside = machines(pool)
    if pool.selector or pool.exists:
        pods = replace(pool, slices=(), hosts=(), origin=rule.origin)
        reference = _reference(INFERENCE, "InferencePool", pool.name, pool.namespace, router)
        left_out = (_left_out(backend, outside),) if outside else ()
        return Way((reference,), (pods,), findings=left_out)
    if renamed(rule, backend):
        return Way(findings=(_no_renaming(rule, backend),))
    services = [
        _reference("", "Service", name, pool.namespace, router, port=service_port(name, pool, documents))
        for name in pool.slices
    ]
    emitted, findings = service_of(pool.name, pool.namespace, pool.hosts, backend, rule)
    if emitted:
        services.append(_reference("", "Service", pool.name, pool.namespace, router, port=_SERVICE_PORT))
    return Way(tuple(services), (), tuple(emitted), (*findings, _without_picker(backend, outside)))


def machines(pool: Pool) -> list[str]:
    """Those outside the cluster, as people know them."""
    return [*pool.slices, *(f"{host.address} port {host.port}" for host in pool.hosts)]


def service_port(name: str, pool: Pool, documents: Documents) -> int:
    """Of a Service that somebody keeps: the one named http, else the first; else what the pool says."""
    found = documents.find("Service", pool.namespace, name)
    ports = [one for one in found.spec.get("ports") or [] if isinstance(one, dict)] if found else []
    for one in sorted(ports, key=lambda one: one.get("name") != "http"):
        if isinstance(one.get("port"), int):
            return int(one["port"])
    service, _, port = pool.service.partition(":")
    return int(port) if service == name and port.isdigit() else AGENT_PORT


def service_of(
    name: str, namespace: str, hosts: Iterable[Host], backend: Backend, rule: Rule
) -> tuple[list[Emitted], list[Finding]]:
    """A Service without pods, and a slice for each port and family of addresses of ``hosts``."""
    groups: dict[tuple[str, int], list[Host]] = {}
    for host in hosts:
        try:
            family = f"IPv{ip_address(host.address).version}"
        except ValueError:
            return [], [_no_name(backend, host.address)]
        groups.setdefault((family, host.port), []).append(host)
    if not groups:
        return [], []
    source = rule.origin.at("")
    spec = {"clusterIP": "None", "ports": [{"name": "http", "port": _SERVICE_PORT}]}
    emitted = [made("v1", "Service", namespace, name, source, spec=spec)]
    for (family, port), members in sorted(groups.items()):
        slice_ = made(
            "discovery.k8s.io/v1",
            "EndpointSlice",
            namespace,
            name_of(name, family.lower(), str(port)),
            source,
            addressType=family,
            endpoints=[
                {"addresses": [host.address], "hostname": name_of(host.name), "conditions": {"ready": True}}
                for host in members
            ],
            ports=[{"name": "http", "port": port}],
        )
        slice_.document["metadata"]["labels"] = {SERVICE_NAME: name}
        emitted.append(slice_)
    return emitted, []


def _upstream(backend: Backend, server: Upstream, rule: Rule, router: Router) -> Way:
    is_openai = server.schema is Schema.OPENAI
    wanted = [
        (not is_openai, f"asked in {server.schema}'s words"),
        (bool(server.secret), "asked with a key"),
        (server.tls, "asked by TLS"),
        (is_openai and server.prefix != "/v1", f"asked at {server.prefix or '/'}"),
    ]
    missing = [words for is_wanted, words in wanted if is_wanted]
    if missing:
        return Way(findings=(_no_provider(backend, server, missing),))
    if renamed(rule, backend):
        return Way(findings=(_no_renaming(rule, backend),))
    found = _IN_CLUSTER.fullmatch(server.host)
    if found:
        return Way((_reference("", "Service", found[1], found[2], router, port=server.port),))
    name = name_of(router.name, backend.name)
    host = Host(backend.name, server.host, server.port)
    emitted, findings = service_of(name, router.namespace, [host], backend, rule)
    if findings:
        return Way(findings=tuple(findings))
    return Way(
        (_reference("", "Service", name, router.namespace, router, port=_SERVICE_PORT),), (), tuple(emitted)
    )


def _reference(group: str, kind: str, name: str, namespace: str, router: Router, *, port: int = 0) -> Object:
    found: Object = {"group": group, "kind": kind, "name": name}
    if namespace != router.namespace:
        found["namespace"] = namespace
    if port:
        found["port"] = port
    return found


# --- what is told ----------------------------------------------------------------------------------------


def _no_fallback(rule: Rule) -> Finding:
    names = ", ".join(dict.fromkeys(one.name for one in rule.backends))
    return error(
        "UnsupportedFallback",
        rule.origin,
        f"rule {rule.name}: {names} are to be tried in their order, and an HTTPRoute has no order",
        "give their pods one label and make them one backend, whose picker goes on to others; or give them"
        " weights; or use the target envoy-ai-gateway or agentgateway",
    )


def _several_pools(rule: Rule) -> Finding:
    return warning(
        "SeveralPoolsInRule",
        rule.origin,
        f"rule {rule.name}: Istio, up to 2026-08, lets the picker of the last pool serve all of its requests",
        "with Istio, give each pool a model name of its own",
    )


def _left_out(backend: Backend, outside: list[str]) -> Finding:
    return warning(
        "OutsideMachinesLeftOut",
        backend.origin,
        f"{', '.join(outside)}: no pods, so that no gateway of this kind sends a request there though a"
        " picker named it; the pods of the pool serve alone",
        "make them a backend of their own, or use the target envoy-ai-gateway",
    )


def _without_picker(backend: Backend, outside: list[str]) -> Finding:
    return warning(
        "OutsideMachinesWithoutPicker",
        backend.origin,
        f"{', '.join(outside)}: no pods, so the gateway shares requests among them by itself and does not see"
        " that one is dead",
        "use the target envoy-ai-gateway, whose picker chooses among them",
    )


def _no_name(backend: Backend, address: str) -> Finding:
    return error(
        "HostNeedsAddress",
        backend.origin,
        f"{address} is a name, and how a gateway finds a name outside the cluster is its own affair",
        "give its IP address, or make a Service for it and name <service>.<namespace>.svc; or use the target"
        " envoy-ai-gateway or agentgateway",
    )


def _no_renaming(rule: Rule, backend: Backend) -> Finding:
    return error(
        "UnsupportedModelOverride",
        rule.origin,
        f"rule {rule.name}: servers of {backend.name} are to be asked for the model {backend.model}, whatever"
        " the client called it, and where no picker is asked nothing changes names",
        "let them know the name that clients use (vLLM: --served-model-name) and say so; in a fleet file:"
        ' servedAs: "*"',
    )


def _no_provider(backend: Backend, server: Upstream, missing: list[str]) -> Finding:
    return error(
        "UnsupportedProvider",
        backend.origin,
        f"{server.host} is to be {', '.join(missing)}: the Gateway API has no object for that",
        "use the target envoy-ai-gateway or agentgateway, or put a proxy that does it before the provider",
    )
