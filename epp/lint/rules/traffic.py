"""Traps in what a BackendTrafficPolicy says: retries, health checks, limits."""

from collections.abc import Iterator

from epp.compiler.attachment import Reference
from epp.compiler.findings import Severity
from epp.compiler.node import Node
from epp.compiler.options import AI_MODEL_HEADER
from epp.lint.rule import Admission, Trap, rule
from epp.lint.view import Object, View, is_pool

CONFIG = "aigateway.envoyproxy.io/gateway-config"
MODEL = AI_MODEL_HEADER
AI_METADATA = "io.envoy.ai_gateway"
LOWEST_EJECTION = 10
"""[%] The default."""


@rule(
    Severity.WARNING,
    "a health check that keeps sending requests to dead servers",
    Admission(
        "BackendTrafficPolicy",
        "!has(object.spec.healthCheck) || (has(object.spec.healthCheck.panicThreshold) && "
        "(!has(object.spec.healthCheck.passive) || "
        f"object.spec.healthCheck.passive.?maxEjectionPercent.orValue({LOWEST_EJECTION})"
        f" > {LOWEST_EJECTION}))",
    ),
)
def ejection_defaults(view: View) -> Iterator[Trap]:
    """By default Envoy ignores health when half of the servers are dead, and ejects a tenth of them at
    most.

    That is meant for hundreds of servers. Of two Macs with one dead, half of the requests still go to the
    dead one: with panicThreshold 50 the pool "panics", with maxEjectionPercent 10 outlier detection may not
    take out a second one.
    """
    for policy in view.of("BackendTrafficPolicy"):
        check = policy.spec["healthCheck"]
        if not check.is_there:
            continue
        if not check["panicThreshold"].is_there:
            yield Trap(
                policy,
                check["panicThreshold"],
                "is not set: with less than 50 % of the servers healthy Envoy sends to all of them, dead ones"
                " too",
                "panicThreshold: 0",
            )
        share = check["passive"]["maxEjectionPercent"]
        percent = LOWEST_EJECTION if share.number is None else share.number
        if check["passive"].is_there and percent <= LOWEST_EJECTION:
            yield Trap(
                policy,
                share,
                f"is {percent:g}: of less than ten servers a second one is never ejected",
                "maxEjectionPercent: 100",
            )


@rule(
    Severity.WARNING,
    "retries without a timeout for each attempt",
    Admission(
        "BackendTrafficPolicy",
        "!has(object.spec.retry) || object.spec.retry.?numRetries.orValue(2) == 0 || "
        "object.spec.retry.?perRetry.?timeout.hasValue()",
    ),
)
def retry_without_timeout(view: View) -> Iterator[Trap]:
    """A server that hangs answers nothing that could be retried.

    Without perRetry.timeout the first attempt takes the whole request's time, and the retries never happen: a
    host switched off behind a Service stalled every attempt for 60 s (defilantech/LLMKube#662, #817). The
    timeout is for the whole attempt, a stream's end included: as long as the longest answer takes.
    """
    for policy in view.of("BackendTrafficPolicy"):
        retry = policy.spec["retry"]
        wanted = retry.is_there and retry["numRetries"].number != 0
        if wanted and not retry["perRetry"]["timeout"].is_there:
            yield Trap(
                policy,
                retry["perRetry"]["timeout"],
                "is not set: a server that hangs takes the whole request's time, nothing is left for a retry",
                "perRetry: {timeout: 120s}, and a longer request timeout at the route",
            )


@rule(Severity.WARNING, "priorities that a retry does not follow")
def priority_without_retry(view: View) -> Iterator[Trap]:
    """The second priority is for when the first one's servers are known to be dead, not for the failed
    request.

    Retries are none by default, and stay in their priority unless numAttemptsPerPriority says when to go
    on: the request that finds the first backend dead fails, although a fallback is there.
    """
    for route in view.of("AIGatewayRoute"):
        tiers = [
            len({ref["priority"].number or 0 for ref in one["backendRefs"]}) for one in route.spec["rules"]
        ]
        policies = view.policies_of("BackendTrafficPolicy", route)
        if max(tiers, default=0) < 2:
            continue
        fix = "retry: {numRetries: 2, numAttemptsPerPriority: 1, ...} in the route's BackendTrafficPolicy"
        with_retry = [one for one in policies if one.spec["retry"].is_there]
        for policy in with_retry[:1] or policies[:1]:
            if not policy.spec["retry"]["numAttemptsPerPriority"].is_there:
                yield Trap(
                    policy,
                    policy.spec["retry"]["numAttemptsPerPriority"],
                    f"is not set: a request of {route.title} that fails at the first priority is not tried at"
                    " the next",
                    fix,
                )
        if not policies and view.is_complete("BackendTrafficPolicy", route.namespace):
            yield Trap(
                route,
                "spec.rules",
                "has priorities and no policy with retries: a request that fails is not tried at the next",
                fix,
            )


@rule(Severity.INFO, "the default circuit breaker before a pool")
def circuit_breaker_default(view: View) -> Iterator[Trap]:
    """1,024 requests at once to all servers of a pool together, then 503 from Envoy, not from any server.

    A stream counts from its first byte to its last. What the picker would have queued by priority is refused
    by who comes last.
    """
    for policy in view.of("BackendTrafficPolicy"):
        for ref in view.targets(policy):
            route = view.find("AIGatewayRoute", ref.namespace, ref.name) if ref.kind == "HTTPRoute" else None
            if route is None or policy.spec["circuitBreaker"].is_there:
                continue
            if any(is_pool(backend) for one in route.spec["rules"] for backend in one["backendRefs"]):
                yield Trap(
                    policy,
                    policy.spec["circuitBreaker"],
                    f"is not set: the pool of {route.title} takes 1,024 requests at once, more get 503",
                    "circuitBreaker: {maxConnections: 100000, maxPendingRequests: 100000,"
                    " maxParallelRequests: 100000}",
                )


def _limits(policy: Object) -> Iterator[Node]:
    yield from policy.spec["rateLimit"]["global"]["rules"]
    yield from policy.spec["rateLimit"]["local"]["rules"]


@rule(Severity.WARNING, "a limit for each value of a header that may be absent")
def distinct_without_deny(view: View) -> Iterator[Trap]:
    """A limit that counts by a Distinct header does not exist for requests without that header.

    Whoever leaves x-team out has no budget, so unlimited tokens. The header must be there for every
    request: from a claim, with everything denied that no rule allows, or as the client id of an API key.
    Told where the Gateway is given, and with it the policies that could see to that.
    """
    for policy in view.of("BackendTrafficPolicy"):
        gateways = list(view.gateways_of(policy))
        for header in _counted_by(policy):
            name = header["name"].text
            if name.lower() != MODEL and any(_lets_absent(view, one, name.lower()) for one in gateways):
                yield Trap(
                    policy,
                    header,
                    f"is counted by {name}: a request without it has no limit",
                    "a SecurityPolicy on the Gateway with authorization.defaultAction: Deny, that allows"
                    " known values only, or apiKeyAuth.forwardClientIDHeader",
                )


def _counted_by(policy: Object) -> Iterator[Node]:
    """Headers for each of whose values there is a limit."""
    for limit in _limits(policy):
        for selector in limit["clientSelectors"]:
            yield from (one for one in selector["headers"] if one["type"].text == "Distinct")


def _lets_absent(view: View, gateway: Reference, header: str) -> bool:
    """Whether requests without the header get through, as far as the Gateway is known."""
    if view.found(gateway) is None or not view.is_readable("SecurityPolicy"):
        return False
    at = ("Gateway", gateway.namespace, gateway.name)
    for policy in view.policies("SecurityPolicy", at):
        rules = policy.spec["authorization"]
        if rules.is_there and rules["defaultAction"].text != "Allow":
            return False
        if policy.spec["apiKeyAuth"]["forwardClientIDHeader"].text.lower() == header:
            return False
    for policy in view.policies("ClientTrafficPolicy", at):
        early = policy.spec["headers"]["earlyRequestHeaders"]
        if any(one["name"].text.lower() == header for key in ("set", "addIfAbsent") for one in early[key]):
            return False
    return True


@rule(Severity.ERROR, "a global limit without a service that counts")
def limit_without_service(view: View) -> Iterator[Trap]:
    """Without rateLimit in the EnvoyGateway configuration a global limit is absent, and nothing says so.

    Token budgets are global limits: they are accepted, and nobody is ever refused. The service that counts
    needs a Redis.
    """
    configs = list(view.envoy_gateways())
    if not configs or any(config["rateLimit"].is_there for _, config in configs):
        return
    for policy in view.of("BackendTrafficPolicy"):
        if policy.spec["rateLimit"]["global"].is_there:
            yield Trap(
                policy,
                policy.spec["rateLimit"]["global"],
                f"is not applied: the EnvoyGateway configuration ({configs[0][0].name}) has no rateLimit",
                "rateLimit: {backend: {type: Redis, redis: {url: ...}}} in the EnvoyGateway configuration",
            )


@rule(
    Severity.ERROR,
    "an endpoint override without a source",
    Admission(
        "BackendTrafficPolicy",
        "object.spec.?loadBalancer.?endpointOverride.?extractFrom.orValue([])"
        ".all(s, s.?header.orValue('') != '')",
    ),
)
def empty_override_source(view: View) -> Iterator[Trap]:
    """An entry of extractFrom without a header passes the API server, and Envoy refuses the cluster.

    "Empty override source": the cluster stays as it was, for a new model it is never there.
    """
    for policy in view.of("BackendTrafficPolicy"):
        for source in policy.spec["loadBalancer"]["endpointOverride"]["extractFrom"]:
            if not source["header"].text:
                yield Trap(
                    policy,
                    source,
                    "names no header: Envoy refuses the cluster",
                    "header: x-gateway-destination-endpoint",
                )


@rule(Severity.ERROR, "a token budget that nothing is charged to")
def token_cost_missing(view: View) -> Iterator[Trap]:
    """A limit that is charged from the metadata of the answer needs somebody who puts the tokens there.

    That is llmRequestCosts of the AIGatewayRoute, or globalLLMRequestCosts of the Gateway's GatewayConfig,
    under the same key. Without it each answer costs nothing, and the budget never ends.
    """
    for policy in view.of("BackendTrafficPolicy"):
        for limit in _limits(policy):
            charged = limit["cost"]["response"]["metadata"]
            key = charged["key"].text
            if charged["namespace"].text != AI_METADATA or not key:
                continue
            for route in _ai_routes(view, policy):
                costs = [
                    *_costs(route),
                    *(cost for one in view.gateways(route) for cost in _global(view, one)),
                ]
                if _knows_costs(view, route) and key not in costs:
                    yield Trap(
                        policy,
                        charged["key"],
                        f"is never set: neither {route.title} nor its Gateway's GatewayConfig counts {key}",
                        f"llmRequestCosts: [{{metadataKey: {key}, type: TotalToken}}] in the route",
                    )


def _ai_routes(view: View, policy: Object) -> Iterator[Object]:
    for ref in view.targets(policy):
        if ref.kind == "Gateway":
            yield from view.ai_routes(ref)
        found = view.find("AIGatewayRoute", ref.namespace, ref.name) if ref.kind == "HTTPRoute" else None
        if found is not None:
            yield found


def _costs(route: Object) -> list[str]:
    return [cost["metadataKey"].text for cost in route.spec["llmRequestCosts"]]


def _config(gateway: Object) -> str:
    return gateway.annotations[CONFIG].text


def _global(view: View, gateway: Object) -> list[str]:
    config = view.find("GatewayConfig", gateway.namespace, _config(gateway))
    return [cost["metadataKey"].text for cost in config.spec["globalLLMRequestCosts"]] if config else []


def _knows_costs(view: View, route: Object) -> bool:
    """Whether its Gateways are given, and the configurations that they name."""
    gateways = view.gateways(route)
    named = [one for one in gateways if _config(one)]
    return bool(gateways) and all(view.find("GatewayConfig", one.namespace, _config(one)) for one in named)
