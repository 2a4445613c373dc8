"""Traps of a QuotaPolicy, which is young: much of it is not applied yet."""

from collections.abc import Iterator

from epp.compiler.attachment import reference
from epp.compiler.findings import Severity
from epp.compiler.node import Node
from epp.lint.rule import Admission, Trap, rule
from epp.lint.view import Object, View

_QUOTAS = "object.spec.?perModelQuotas.orValue([])"
_INSTEAD = "a BackendTrafficPolicy with rateLimit.global and a response cost from io.envoy.ai_gateway"


def _quotas(view: View) -> Iterator[tuple[Object, Node]]:
    for policy in view.of("QuotaPolicy"):
        for one in policy.spec["perModelQuotas"]:
            yield policy, one


@rule(
    Severity.ERROR,
    "a default bucket that refuses while its rules only watch",
    Admission(
        "QuotaPolicy",
        f"{_QUOTAS}.all(q, !has(q.quota) || !has(q.quota.defaultBucket) || "
        "!q.quota.?bucketRules.orValue([]).exists(b, b.?shadowMode.orValue(false)))",
    ),
)
def quota_default_enforces(view: View) -> Iterator[Trap]:
    """shadowMode is a matter of each bucket rule, and the default bucket has none: it always refuses.

    Whoever tries a quota out in shadow mode, with a default for the rest, refuses requests with 429 from the
    start.
    """
    for policy, one in _quotas(view):
        quota = one["quota"]
        if quota["defaultBucket"].is_there and any(
            rule_of["shadowMode"].is_true for rule_of in quota["bucketRules"]
        ):
            yield Trap(
                policy,
                quota["defaultBucket"],
                "has no shadow mode: it refuses requests while the bucket rules only watch",
                "leave defaultBucket out while you are trying, or " + _INSTEAD,
            )


@rule(
    Severity.WARNING,
    "a quota that nothing is charged to",
    Admission(
        "QuotaPolicy",
        f"!has(object.spec.serviceQuota) && {_QUOTAS}.all(q, q.?quota.?bucketRules.orValue([]).all(b, "
        "b.?clientSelectors.orValue([]).all(s, s.?headers.orValue([]).all(h, "
        "h.?type.orValue('') != 'Distinct'))))",
    ),
)
def quota_not_charged(view: View) -> Iterator[Trap]:
    """Buckets for each value of a header (Distinct) are never charged tokens, and serviceQuota is not
    enforced.

    Up to v1.1.0 both are accepted and do nothing (envoyproxy/ai-gateway#2551, #2597, #2664). Quotas also
    fail open: without the service envoy-ai-gateway-ratelimit there is no limit.
    """
    for policy in view.of("QuotaPolicy"):
        if policy.spec["serviceQuota"].is_there:
            yield Trap(policy, policy.spec["serviceQuota"], "is not enforced", _INSTEAD)
    for policy, one in _quotas(view):
        for rule_of in one["quota"]["bucketRules"]:
            headers = [header for selector in rule_of["clientSelectors"] for header in selector["headers"]]
            if any(header["type"].text == "Distinct" for header in headers):
                yield Trap(
                    policy,
                    rule_of["clientSelectors"],
                    "counts by a Distinct header: its buckets are never charged",
                    _INSTEAD,
                )


@rule(Severity.WARNING, "a quota for a model that no route asks for")
def quota_model_unknown(view: View) -> Iterator[Trap]:
    """A quota's modelName is compared with modelNameOverride of the route's backend, not with the client's
    model.

    Where no route says modelNameOverride, or another one, the quota is not applied; nothing says so. Told
    where the routes to the backend are given.
    """
    for policy, one in _quotas(view):
        for ref in view.targets(policy):
            asked = [
                backend["modelNameOverride"].text
                for route in view.of("AIGatewayRoute")
                for rule_of in route.spec["rules"]
                for backend in rule_of["backendRefs"]
                if reference(backend, route.namespace, kind="AIServiceBackend")[:3] == ref[:3]
            ]
            name = one["modelName"]
            if asked and name.text and name.text not in asked:
                yield Trap(
                    policy,
                    name,
                    f"{name.text} is no modelNameOverride of any route to {ref.title}: the quota is not"
                    " applied",
                    f"modelNameOverride: {name.text} in the routes' backendRefs",
                )
