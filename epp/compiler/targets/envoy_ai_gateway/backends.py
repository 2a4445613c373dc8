"""Where the requests of a rule go: to one InferencePool, or to an AIServiceBackend for each backend.

Place:   routes.py puts the references into rules; a Plan is what a rule becomes.
Rule:    never both in a rule. References keep their places, since Envoy AI Gateway knows a backend by its
         place and learns of changes in two ways, five seconds apart: a backend that is down stays where it
         was with weight 0, and the others' priorities are counted anew.

Priorities count among backends that DNS knows, not among addresses: an address beside others gets a Service
without a cluster IP, whose name DNS knows. Behind a cluster IP a server's death would not be seen.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from typing import TypeGuard

from epp.compiler import pools
from epp.compiler.emission import Emitted, Object, made
from epp.compiler.findings import Finding, Origin, info, warning
from epp.compiler.http_routes import MOST_BACKENDS
from epp.compiler.intent import Backend, Host, Pool, Router, Rule, Servers, Strategy, Upstream
from epp.compiler.names import name_of
from epp.compiler.options import Target
from epp.compiler.pools import BODY_MODE
from epp.compiler.targets.envoy_ai_gateway import providers, traffic
from epp.compiler.targets.envoy_ai_gateway.refused import Refused
from epp.compiler.targets.envoy_ai_gateway.surroundings import Surroundings

POOLS = "inference.networking.k8s.io"
NOBODY = "no-server.invalid"
"""A name that no DNS may ever know [RFC 6761]. Envoy answers 503 at once for a backend that has no address;
where every reference has weight 0 Envoy Gateway would answer 500."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a rule becomes. ``pool``: where its picker chooses."""

    rule: Rule
    refs: tuple[Object, ...]
    traffic: traffic.Traffic
    pool: Pool | None = None
    objects: tuple[Emitted, ...] = ()
    findings: tuple[Finding, ...] = ()


_WORD = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_NAME = re.compile(rf"{_WORD}(\.{_WORD})+")
_NOWHERE = Origin("", "", "")
_OVERRIDE = "the gateway cannot change the model's name on the way to an InferencePool"
_SEVERAL = "several pools of servers are asked, each in its turn or for its share"
_ELSEWHERE = "a route reaches InferencePools of its own namespace only"
_FIXES = {
    _OVERRIDE: "let its servers know the name that clients use (vLLM: --served-model-name) and say so; in a"
    ' fleet file: servedAs: "*"',
    _SEVERAL: "for a picker to choose among all by load, make one backend of them by labels that all their"
    " pods have; or ask for a model of one pool",
    _ELSEWHERE: "put the router and its servers into one namespace; from Envoy AI Gateway 1.1 on, two"
    " ReferenceGrants do as well: to InferencePool from AIGatewayRoute and from HTTPRoute",
}


@dataclass(frozen=True)
class Planner:
    """Makes the plans of one router's rules."""

    router: Router
    around: Surroundings
    _beside: frozenset[str] = field(init=False, repr=False)
    """Backends that stand beside others in some rule: what they are made of is the same in all rules."""
    _unclear: frozenset[str] = field(init=False, repr=False)
    """Names that are given to different servers."""

    def __post_init__(self) -> None:
        rules = self.router.rules
        beside = {one.name for rule in rules if len(rule.backends) > 1 for one in rule.backends}
        servers: dict[str, Servers] = {}
        every = [(one.name, replace(one.servers, origin=_NOWHERE)) for rule in rules for one in rule.backends]
        unclear = {name for name, those in every if servers.setdefault(name, those) != those}
        object.__setattr__(self, "_beside", frozenset(beside))
        object.__setattr__(self, "_unclear", frozenset(unclear))

    def plan(self, rule: Rule) -> Plan:
        """Refused: it cannot be expressed."""
        pool = pools.merge(rule)
        if pool is None:
            if sum(isinstance(one.servers, Pool) for one in rule.backends) < 2:
                return self._direct(rule)
            why = _SEVERAL
        else:
            why = self._why_not_picked(rule, pool)
            if not why:
                return self._picked(rule, pool)
        told = info(
            "PickerNotAsked",
            rule.origin,
            f"{why}: Envoy spreads the requests by itself, without knowing the servers' load",
            _FIXES[why],
        )
        made_of = self._direct(rule)
        return replace(made_of, findings=(told, *made_of.findings))

    def _why_not_picked(self, rule: Rule, pool: Pool) -> str:
        """Empty: it can be. Refused: it cannot, and there is no other way."""
        why = ""
        if pool.namespace != self.router.namespace and not self._is_granted(pool):
            why = _ELSEWHERE
        elif any(one.model for one in rule.backends):
            why = _SEVERAL if len({one.name for one in rule.backends}) > 1 else _OVERRIDE
        if why and pool.exists and not pool.service:
            raise Refused(
                "PoolNotReachable",
                rule.origin,
                f"{why}, and of InferencePool {pool.namespace}/{pool.name} only the picker knows the servers",
                _FIXES[why],
            )
        return why

    def _is_granted(self, pool: Pool) -> bool:
        if self.around.options.target is Target.ENVOY_AI_GATEWAY_0_7:
            return False
        return self.around.grants_pool(self.router.namespace, (pool.namespace, pool.name))

    def _picked(self, rule: Rule, pool: Pool) -> Plan:
        ref = {"group": POOLS, "kind": "InferencePool", "name": pool.name}
        if pool.namespace != self.router.namespace:
            ref["namespace"] = pool.namespace
        findings = list(self._buffering(rule, pool)) if pool.exists else []
        if all(one.down for one in rule.backends):
            findings += [_refused_at_once(rule)] if rule.backends else []
        return Plan(rule, (ref,), traffic.picked(rule), pool, findings=tuple(findings))

    def _buffering(self, rule: Rule, pool: Pool) -> Iterator[Finding]:
        found = self.around.documents.find("InferencePool", pool.namespace, pool.name)
        if found is not None and found.annotations.get(BODY_MODE, "duplex") != "duplex":
            yield warning(
                "PoolBuffersBodies",
                rule.origin,
                f"InferencePool {pool.namespace}/{pool.name} has {BODY_MODE}: {found.annotations[BODY_MODE]};"
                " the first token is held back until the answer is complete",
                f"annotate it with {BODY_MODE}: duplex",
            )

    def _direct(self, rule: Rule) -> Plan:
        is_ordered = rule.strategy is Strategy.FALLBACK
        living = [one for one in rule.backends if not one.down and (is_ordered or one.weight)]
        objects, findings, refs = list[Emitted](), [*_told(rule), *providers.told(rule)], list[Object]()
        for backend in rule.backends:
            site = self._site(rule, backend)
            needs_names = backend.name in self._beside
            objects += site.objects(backend, self._endpoints(backend.servers), needs_names=needs_names)
            if _wants_service(backend.servers):
                objects.append(pools.pods_service(backend.servers, *site.sources))
            refs.append(_ref(site.name, backend, living, is_ordered=is_ordered))
            findings += self._unseen(backend)
            if backend.down:
                message = f"{backend.name} is left out: {backend.down}"
                findings.append(info("BackendEjected", backend.origin, message))
        if not living:
            nobody = _Site(
                name_of(self.router.name, "no-server"), self.router.namespace, (self.router.origin,)
            )
            objects += nobody.nowhere()
            refs.append({"name": nobody.name, "weight": 1, **({"priority": 0} if is_ordered else {})})
            findings += [_refused_at_once(rule)] if rule.backends else []
        if len(refs) > MOST_BACKENDS:
            raise Refused(
                "TooManyBackends",
                rule.origin,
                f"{len(refs)} backends, and a rule of an HTTPRoute has at most {MOST_BACKENDS}",
                "leave some out, or put servers of one kind behind one Service",
            )
        return Plan(rule, tuple(refs), _tried(rule, living), None, tuple(objects), tuple(findings))

    def _unseen(self, backend: Backend) -> Iterator[Finding]:
        """A server whose death nobody sees."""
        servers = backend.servers
        if (
            isinstance(servers, Pool)
            and servers.slices
            and not servers.selector
            and not self._addresses(servers)
        ):
            yield warning(
                "DeathHidden",
                backend.origin,
                f"of {backend.name} only the Service {servers.service} is known: behind its cluster IP a dead"
                " host is not seen, and each attempt waits for its timeout",
                "compile with its EndpointSlices at hand, or name its addresses",
            )

    def _addresses(self, pool: Pool) -> list[tuple[str, int]]:
        found = [(one.address, one.port) for one in pool.hosts]
        for service in pool.slices:
            found += self.around.endpoints(pool.namespace, service)
        return list(dict.fromkeys(found))

    def _site(self, rule: Rule, backend: Backend) -> "_Site":
        parts = (rule.name, backend.name) if backend.name in self._unclear else (backend.name,)
        sources = (self.router.origin.at(""), backend.origin.at(""))
        return _Site(name_of(self.router.name, *parts), self.router.namespace, sources)

    def _endpoints(self, servers: Servers) -> list[tuple[str, int]]:
        """Addresses or names, with their ports."""
        if isinstance(servers, Upstream):
            return [(servers.host, servers.port)]
        found = self._addresses(servers)
        if found and not servers.selector:
            return found
        if servers.service:
            name, _, port = servers.service.partition(":")
            return [(f"{name}.{servers.namespace}.svc.cluster.local", int(port))]
        if _wants_service(servers):
            ours = name_of(servers.name, "pods")
            return [(f"{ours}.{servers.namespace}.svc.cluster.local", servers.ports[0])]
        raise Refused(
            "ServersNotKnown",
            servers.origin,
            f"{servers.name} is to be asked without a picker; neither a Service nor addresses of it are"
            " known",
            "give it a Service, or name no backend in this rule that keeps it from being an InferencePool",
        )


def beside_others(plans: Sequence[Plan]) -> list[Plan]:
    """A rule without backends is tried like the one after it: it needs no route of its own."""
    settled: list[Plan] = []
    for plan in reversed(plans):
        like = plan if plan.rule.backends or not settled else settled[-1]
        settled.append(replace(plan, traffic=like.traffic))
    return settled[::-1]


def _wants_service(servers: Servers) -> TypeGuard[Pool]:
    """Whether only labels of its pods are known, so that the Service is ours to make."""
    return isinstance(servers, Pool) and bool(servers.selector and servers.ports) and not servers.service


def _tried(rule: Rule, living: list[Backend]) -> traffic.Traffic:
    paths = {one.health_path for one in living}
    return traffic.Traffic(
        traffic.timeout_of(rule),
        max(1, len(living)),
        is_ordered=rule.strategy is Strategy.FALLBACK and len(living) > 1,
        health_path=paths.pop() if len(paths) == 1 else "",
    )


def _told(rule: Rule) -> Iterator[Finding]:
    timeouts = {one.timeout for one in rule.backends}
    if rule.timeout is None and len(timeouts) > 1:
        yield warning(
            "OneTimeoutForAll",
            rule.origin,
            f"its backends differ in timeout, and each attempt gets the longest,"
            f" {traffic.timeout_of(rule):g} s",
            "set one timeout for the rule",
        )
    paths = {one.health_path for one in rule.backends}
    if len(paths) > 1:
        yield info(
            "NoActiveHealthCheck",
            rule.origin,
            "its backends answer health checks at different paths or not at all, and a route can ask for one"
            " only: a dead backend is found by the requests that fail there",
        )


def _refused_at_once(rule: Rule) -> Finding:
    names = ", ".join(one.name for one in rule.backends)
    return warning(
        "NoBackendCanServe",
        rule.origin,
        f"none of {names} can serve: clients get 503 at once, and no other rule is tried",
        "; ".join(f"{one.name}: {one.down or 'has weight 0'}" for one in rule.backends),
    )


def _ref(name: str, backend: Backend, living: list[Backend], *, is_ordered: bool) -> Object:
    ref: Object = {"name": name}
    if backend.model:
        ref["modelNameOverride"] = backend.model
    priority = next((at for at, one in enumerate(living) if one is backend), None)
    share = 1 if is_ordered else backend.weight
    ref["weight"] = 0 if priority is None else share
    if is_ordered:
        ref["priority"] = priority or 0
    return ref


@dataclass(frozen=True, slots=True)
class _Site:
    """The objects of one backend, all of one name."""

    name: str
    namespace: str
    sources: tuple[Origin, ...] = field(default=())

    def objects(
        self, backend: Backend, endpoints: list[tuple[str, int]], *, needs_names: bool
    ) -> list[Emitted]:
        names = [one for one in endpoints if not providers.is_address(one[0])]
        addresses = [one for one in endpoints if providers.is_address(one[0])]
        for host, _ in endpoints:
            _check(host, backend.origin)
        found: list[Emitted] = []
        if addresses and (names or needs_names):
            for port in sorted({port for _, port in addresses}):
                name, here = name_of(self.name, str(port)), [host for host, at in addresses if at == port]
                found += self._headless(name, here, port, backend)
                names.append((f"{name}.{self.namespace}.svc.cluster.local", port))
            addresses = []
        return [
            *found,
            self.backend(names or addresses),
            self.service(providers.schema(backend.servers)),
            *providers.policies(self.name, self.namespace, backend.servers, self.sources),
        ]

    def nowhere(self) -> list[Emitted]:
        """Of nobody."""
        return [self.backend([(NOBODY, 80)]), self.service({"name": "OpenAI", "prefix": "/v1"})]

    def backend(self, endpoints: list[tuple[str, int]]) -> Emitted:
        spec = {"endpoints": [_endpoint(host, port) for host, port in endpoints]}
        api = "gateway.envoyproxy.io/v1alpha1"
        return made(api, "Backend", self.namespace, self.name, *self.sources, spec=spec)

    def service(self, schema: Object) -> Emitted:
        backend = {"group": "gateway.envoyproxy.io", "kind": "Backend", "name": self.name}
        spec = {"schema": schema, "backendRef": backend}
        return made(providers.API, "AIServiceBackend", self.namespace, self.name, *self.sources, spec=spec)

    def _headless(self, name: str, addresses: list[str], port: int, backend: Backend) -> list[Emitted]:
        hosts = tuple(Host(f"{backend.name}-{at}", one, port) for at, one in enumerate(addresses, 1))
        standing = Pool(name, self.namespace, backend.origin, hosts=hosts)
        return pools.headless(standing, self.sources)[0]


def _endpoint(host: str, port: int) -> Object:
    if providers.is_address(host):
        # the CRD knows few of the short forms of IPv6
        return {"ip": {"address": ip_address(host).exploded, "port": port}}
    return {"fqdn": {"hostname": host, "port": port}}


def _check(host: str, origin: Origin) -> None:
    if providers.is_address(host):
        if ip_address(host).is_loopback:
            raise Refused(
                "InvalidHost",
                origin,
                f"{host} is whichever machine Envoy runs on",
                "give the address that others reach it by",
            )
    elif not _NAME.fullmatch(host):
        raise Refused(
            "InvalidHost",
            origin,
            f"{host!r} is no host name for Envoy Gateway: it takes two words or more, of a-z, 0-9 and -",
            "give its full name, or its IP address",
        )
