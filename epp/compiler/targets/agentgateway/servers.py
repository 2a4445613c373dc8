"""What a rule leads to, as backendRefs: an InferencePool, or an AgentgatewayBackend of providers in groups.

Rule:    where a group fails the next is asked within the same request: one failed answer evicts a provider
         for 15 s, as long as LLMKube's proxy keeps away from one, and the retry finds the next group.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from epp.compiler.documents import Documents
from epp.compiler.durations import duration
from epp.compiler.emission import Emitted, Object, made
from epp.compiler.findings import Finding, error, info
from epp.compiler.intent import Backend, Pool, Router, Rule, Schema, Strategy, Upstream
from epp.compiler.names import name_of
from epp.compiler.targets.gateway_api.routes import called, out_of_service, renamed
from epp.compiler.targets.gateway_api.servers import INFERENCE, machines, service_port

API = "agentgateway.dev/v1alpha1"
GROUP = "agentgateway.dev"
MOST_GROUPS, MOST_PROVIDERS = 8, 16
QUARANTINE = 15.0
"""[s]"""

_ROUTES = {
    "/v1/chat/completions": "Completions",
    "/v1/embeddings": "Embeddings",
    "/v1/messages": "Messages",
    "/v1/responses": "Responses",
    "*": "Detect",
}
"""What is asked for, by the end of the path; whatever else is passed on as it is, and its tokens counted."""
_FORMATS = [{"type": "Completions"}, {"type": "Embeddings"}]
"""What every server of models speaks; requests in other words are put into these."""


@dataclass(frozen=True, slots=True)
class Way:
    """``references`` empty: nobody can serve. ``attempts``: how many servers one request may see."""

    references: tuple[Object, ...] = ()
    pools: tuple[Pool, ...] = ()
    objects: tuple[Emitted, ...] = ()
    findings: tuple[Finding, ...] = ()
    attempts: int = 1
    unavailable: str = ""
    """Why nobody can."""


def way(rule: Rule, router: Router, documents: Documents, *, counted: bool) -> Way:
    """To the servers of ``rule``. ``counted``: tokens are to be known."""
    findings = [told for one in rule.backends for told in _refused(one)]
    if any(one.is_error for one in findings):
        return Way(findings=tuple(findings))
    findings += out_of_service(rule)
    backends = _able(rule)
    if not backends:
        why = "; ".join(dict.fromkeys(f"{one.name}: {one.down or 'has weight 0'}" for one in rule.backends))
        return Way(findings=tuple(findings), unavailable=why or "no backend may serve this")
    if rule.strategy is Strategy.WEIGHTED:
        ways = [_choice(rule, [one], router, documents, counted) for one in backends]
        references = [
            {**one.references[0], "weight": backend.weight} if one.references else {}
            for backend, one in zip(backends, ways, strict=True)
        ]
        found = _joined(ways, references)
    else:
        found = _choice(rule, backends, router, documents, counted)
    return replace(found, findings=(*findings, *found.findings))


def _able(rule: Rule) -> list[Backend]:
    """Those that can serve. A pool's picker knows best who can: with no other, pools are asked anyway."""
    distinct = list({_identity(one): one for one in reversed(rule.backends)}.values())[::-1]
    if rule.strategy is Strategy.WEIGHTED:
        distinct = [one for one in distinct if one.weight]
    live = [one for one in distinct if not one.down]
    return live or [one for one in distinct if isinstance(one.servers, Pool)]


def _identity(backend: Backend) -> tuple[str, ...]:
    servers = backend.servers
    if isinstance(servers, Pool):
        return "pool", servers.namespace, servers.name, backend.model
    return servers.host, str(servers.port), servers.prefix, servers.secret, backend.model


def _joined(ways: Sequence[Way], references: Iterable[Object]) -> Way:
    return Way(
        tuple(references),
        tuple(pool for one in ways for pool in one.pools),
        tuple(emitted for one in ways for emitted in one.objects),
        tuple(told for one in ways for told in one.findings),
        max(one.attempts for one in ways),
    )


def _choice(
    rule: Rule, backends: Sequence[Backend], router: Router, documents: Documents, counted: bool
) -> Way:
    """One reference: to the pool where that is all, else to a backend with a group for each."""
    groups = _distinct([_providers(one, rule, documents) for one in backends])
    found = tuple(pool for one in backends for pool in _pods(one, rule))
    findings = [told for one in backends for told in _mixed(one)]
    only = backends[0]
    if len(groups) == len(groups[0]) == len(found) == 1 and not renamed(rule, only) and not counted:
        reference: Object = {"group": INFERENCE, "kind": "InferencePool", "name": found[0].name}
        return Way((_placed(reference, found[0].namespace, router),), found, findings=tuple(findings))
    namespaces = {pool.namespace for pool in found} | {router.namespace for one in backends if _is_own(one)}
    faults = _limits(rule, groups, namespaces)
    if faults:
        return Way(findings=tuple(faults))
    namespace = min(namespaces, default=router.namespace)
    single = only.name if rule.strategy is Strategy.WEIGHTED else ""
    name = name_of(*filter(None, (router.name, called(router, rule), single)))
    backend = made(API, "AgentgatewayBackend", namespace, name, rule.origin.at(""), spec=_spec(groups))
    reference = {"group": GROUP, "kind": "AgentgatewayBackend", "name": name}
    return Way(
        (_placed(reference, namespace, router),),
        found,
        (backend,),
        tuple(findings),
        attempts=sum(map(len, groups)),
    )


def _placed(reference: Object, namespace: str, router: Router) -> Object:
    return reference if namespace == router.namespace else {**reference, "namespace": namespace}


def _is_own(backend: Backend) -> bool:
    """It names something in the router's namespace."""
    return isinstance(backend.servers, Upstream) and bool(backend.servers.secret)


def _spec(groups: Sequence[Sequence[Object]]) -> Object:
    health = {
        "unhealthyCondition": "response.code >= 500",
        "eviction": {"duration": duration(QUARANTINE, plain=True), "consecutiveFailures": 1},
    }
    return {
        "ai": {"groups": [{"providers": list(group)} for group in groups]},
        "policies": {"ai": {"routes": dict(_ROUTES)}, "health": health},
    }


# --- providers ---------------------------------------------------------------------------------------------


def _pods(backend: Backend, rule: Rule) -> list[Pool]:
    pool = backend.servers
    if isinstance(pool, Pool) and (pool.selector or pool.exists):
        return [replace(pool, slices=(), hosts=(), origin=rule.origin)]
    return []


def _providers(backend: Backend, rule: Rule, documents: Documents) -> list[Object]:
    """All that can serve a request for ``backend``, alike; their names are of the rule's backends."""
    servers = backend.servers
    if isinstance(servers, Upstream):
        found = [_provider(backend, servers)]
    else:
        found = _of_pool(backend, servers, rule, documents)
    limit = backend.timeout
    if limit and not rule.timeout:
        for one in found:
            policies = one.setdefault("policies", {})
            policies["http"] = {"requestTimeout": duration(limit, plain=True)}
    return found


def _of_pool(backend: Backend, pool: Pool, rule: Rule, documents: Documents) -> list[Object]:
    model = {"model": backend.model} if backend.model else {}
    found: list[Object] = []
    for pods in _pods(backend, rule):
        reference: Object = {"group": INFERENCE, "kind": "InferencePool", "name": pods.name}
        found.append({"name": name_of(backend.name), "custom": {**_custom(model), "backendRef": reference}})
    for service in pool.slices:
        port = service_port(service, pool, documents)
        reference = {"group": "", "kind": "Service", "name": service, "port": port}
        found.append({"name": name_of(service), "custom": {**_custom(model), "backendRef": reference}})
    hosts = [
        {"name": name_of(host.name), "custom": _custom(model), "host": host.address, "port": host.port}
        for host in pool.hosts
    ]
    return [*found, *hosts]


def _custom(model: Object) -> Object:
    return {"formats": [dict(one) for one in _FORMATS], **model}


def _distinct(groups: Sequence[Sequence[Object]]) -> list[list[Object]]:
    """Each provider under a name of its own, whatever its group."""
    seen: dict[str, int] = {}
    return [[{**one, "name": _numbered(one["name"], seen)} for one in group] for group in groups]


def _numbered(name: str, seen: dict[str, int]) -> str:
    seen[name] = seen.get(name, 0) + 1
    return name if seen[name] == 1 else name_of(name, str(seen[name]))


def _provider(backend: Backend, server: Upstream) -> Object:
    given: Object = {"model": backend.model} if backend.model else {}
    found: Object = {"name": name_of(backend.name)}
    if server.schema is Schema.BEDROCK:
        found["bedrock"] = {**({"region": server.region} if server.region else {}), **given}
    elif server.schema is Schema.AZURE:
        deployment = {"deploymentName": backend.model} if backend.model else {}
        found["azureopenai"] = {"endpoint": server.host, **deployment}
    else:
        found["anthropic" if server.schema is Schema.ANTHROPIC else "openai"] = given
        found |= {"host": server.host, "port": server.port}
        if server.prefix != "/v1":
            found["pathPrefix"] = server.prefix or "/"
    policies: Object = {}
    if server.tls and "host" in found:
        policies["tls"] = {}
    if server.secret:
        key = {"secretRef": {"name": server.secret}}
        policies["auth"] = {"aws": key} if server.schema is Schema.BEDROCK else key
    return {**found, "policies": policies} if policies else found


# --- what is told ------------------------------------------------------------------------------------------


def _refused(backend: Backend) -> list[Finding]:
    server = backend.servers
    found = []
    if isinstance(server, Pool):
        if not (server.selector or server.exists or server.slices or server.hosts):
            found.append(
                error("BackendsUnresolved", backend.origin, f"{backend.name} has no servers", "name some")
            )
        return found
    if server.schema in {Schema.VERTEX, Schema.COHERE}:
        found.append(
            error(
                "UnsupportedProvider",
                backend.origin,
                f"{server.host} is to be asked in {server.schema}'s words: agentgateway has no provider that"
                " says this with what is known here",
                "use its OpenAI-compatible address, or the target envoy-ai-gateway",
            )
        )
    if server.secret:
        keys = "accessKey and secretKey" if server.schema is Schema.BEDROCK else "Authorization"
        found.append(
            info(
                "SecretKeys",
                backend.origin,
                f"agentgateway reads {keys} of Secret {server.secret}, in the router's namespace",
                f"name the key {keys} there",
            )
        )
    return found


def _mixed(backend: Backend) -> list[Finding]:
    pool = backend.servers
    if not isinstance(pool, Pool) or not (pool.slices or pool.hosts):
        return []
    return [
        info(
            "OutsideMachinesWithoutPicker",
            backend.origin,
            f"{', '.join(machines(pool))}: agentgateway refuses addresses that are no pods of the pool, so"
            " these are providers of their own: it chooses among them by itself, without those that failed",
            "use the target envoy-ai-gateway to have the picker choose",
        )
    ]


def _limits(rule: Rule, groups: Sequence[Sequence[Object]], namespaces: set[str]) -> list[Finding]:
    found = []
    if len(groups) > MOST_GROUPS or max(map(len, groups)) > MOST_PROVIDERS:
        found.append(
            error(
                "TooManyBackends",
                rule.origin,
                f"rule {rule.name}: more than {MOST_GROUPS} backends, or {MOST_PROVIDERS} servers of one",
                "name fewer backends; pods of one label are one",
            )
        )
    if len(namespaces) > 1:
        found.append(
            error(
                "SeveralNamespaces",
                rule.origin,
                f"rule {rule.name}: its backends are in {' and '.join(sorted(namespaces))}, and an"
                " AgentgatewayBackend names only what is in its own namespace",
                "put them, and the Secrets of providers, into one namespace",
            )
        )
    return found
