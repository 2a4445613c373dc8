"""Traps of what a policy is for: Gateway, route, or the same as another policy."""

from collections.abc import Iterator

from epp.compiler.attachment import Reference
from epp.compiler.findings import Severity
from epp.compiler.node import Node
from epp.lint.rule import Admission, Trap, rule
from epp.lint.view import Object, View

AUTHENTICATION = ("apiKeyAuth", "basicAuth", "extAuth", "jwt", "oidc")
"""Done by filters that the first matched route must enable; authorization is not, it is looked at later."""
POLICIES = (
    *("BackendTrafficPolicy", "SecurityPolicy", "EnvoyExtensionPolicy", "ClientTrafficPolicy"),
    "BackendSecurityPolicy",
)
_REFS = "(object.spec.?targetRefs.orValue([]) + (has(object.spec.targetRef) ? [object.spec.targetRef] : []))"
_ON_ROUTE = f"{_REFS}.exists(t, t.?kind.orValue('') == 'HTTPRoute')"


@rule(
    Severity.ERROR,
    "authentication on a route of an AI gateway",
    Admission(
        "SecurityPolicy",
        f"!{_ON_ROUTE} || !(" + " || ".join(f"has(object.spec.{one})" for one in AUTHENTICATION) + ")",
        is_certain=False,
    ),
)
def authentication_on_route(view: View) -> Iterator[Trap]:
    """The first route that matches decides which filters a request passes, and that is not the model's
    route.

    The model is only known after the AI gateway has read the body; before that every request matches the
    catch-all of the oldest AIGatewayRoute. Authentication of another route is then skipped for everybody,
    or for whoever sends x-ai-eg-model (silogen/cluster-forge#781, #793, #794; envoyproxy/ai-gateway#1474,
    #2461). At the Gateway it holds for all; who may use which model is an authorization rule there.
    """
    for policy in view.of("SecurityPolicy"):
        used = [name for name in AUTHENTICATION if policy.spec[name].is_there]
        for ref, route in _routes(view, policy):
            if used and view.is_ai(route):
                yield Trap(
                    policy,
                    ref.at,
                    f"{', '.join(used)} of {route.title} is skipped: the oldest AIGatewayRoute's catch-all"
                    " decides, before the model is known",
                    "target the Gateway; per model with authorization.rules on the header x-ai-eg-model",
                )


@rule(
    Severity.ERROR,
    "a processor on a route of an AI gateway",
    Admission("EnvoyExtensionPolicy", f"!{_ON_ROUTE}", is_certain=False),
)
def processor_on_route(view: View) -> Iterator[Trap]:
    """An EnvoyExtensionPolicy of one route is skipped, or another route's processor runs in its place.

    As with authentication, the first matched route decides, and that is the catch-all of the oldest
    AIGatewayRoute: measured with Envoy, a picker attached to a route was not asked, and requests went to
    wherever the client's own header said.
    """
    for policy in view.of("EnvoyExtensionPolicy"):
        for ref, route in _routes(view, policy):
            if view.is_ai(route):
                yield Trap(
                    policy,
                    ref.at,
                    f"is skipped for {route.title}, or runs for another route: the oldest AIGatewayRoute's"
                    " catch-all decides",
                    "target the Gateway",
                )


def _routes(view: View, policy: Object) -> Iterator[tuple[Reference, Object]]:
    """The routes that it is for, as far as given."""
    for ref in view.targets(policy):
        route = view.route_of(ref) if ref.kind == "HTTPRoute" else None
        if route is not None:
            yield ref, route


@rule(Severity.ERROR, "two policies for one target")
def two_policies_on_one_target(view: View) -> Iterator[Trap]:
    """Of two policies of a kind for one target the older one holds; the newer one is Conflicted, without
    effect.

    Somebody adds retries in a second BackendTrafficPolicy beside that with the token budget, and one of the
    two is off: which, the dates of creation decide. mergeType does not help, it is for a route below its
    Gateway. Two BackendSecurityPolicies for one backend are an error of the backend.
    """
    for kind in POLICIES:
        first: dict[tuple[str, str, str, str], Object] = {}
        for policy in view.of(kind):
            for ref in view.targets(policy):
                key = (ref.kind, ref.namespace, ref.name, ref.section)
                other = first.setdefault(key, policy)
                if (other.namespace, other.name) != (policy.namespace, policy.name):
                    yield Trap(
                        policy,
                        ref.at,
                        f"{other.title} is for {ref.title} too: the older of the two holds, the other has no"
                        " effect at all",
                        f"put everything into one {kind}",
                    )


@rule(Severity.WARNING, "a route's policy replaces the Gateway's")
def gateway_policy_replaced(view: View) -> Iterator[Trap]:
    """A policy of a route takes the place of the Gateway's, whole; what the latter said does not hold there.

    A BackendTrafficPolicy with a longer timeout for one model takes that model's budget, retries and health
    checks away; a SecurityPolicy with CORS its authentication. With mergeType it adds to the Gateway's. A
    SecurityPolicy of an AI route is told, as a remark, where the Gateway's is not given.
    """
    for kind in ("BackendTrafficPolicy", "SecurityPolicy", "EnvoyExtensionPolicy"):
        for policy in view.of(kind):
            if policy.spec["mergeType"].is_there:
                continue
            for ref, route in _routes(view, policy):
                above = [("Gateway", one.namespace, one.name) for one in view.parents(route)]
                others = view.policies(kind, *above)[:1]
                if not others and kind == "SecurityPolicy" and _hides(view, policy, route):
                    yield Trap(
                        policy,
                        ref.at,
                        f"takes the place of the Gateway's SecurityPolicy for {route.title}: that one is not"
                        " given, and if there is one, what it says of who may ask does not hold there",
                        "let it target the Gateway, or set mergeType: StrategicMerge",
                        Severity.INFO,
                    )
                for other in others:
                    yield Trap(
                        policy,
                        ref.at,
                        f"{other.title} does not hold for {route.title} any more, not even where this one"
                        " says nothing",
                        "repeat here what is to hold"
                        + ("" if kind == "EnvoyExtensionPolicy" else ", or set mergeType: StrategicMerge"),
                    )


def _hides(view: View, policy: Object, route: Object) -> bool:
    """Whether it says who may use an AI route, whose Gateway may have a policy that nobody has shown us."""
    is_seen = all(view.is_complete(policy.kind, one.namespace) for one in view.parents(route))
    is_told = any(policy.spec[name].is_there for name in AUTHENTICATION)  # as AuthenticationOnRoute
    return view.is_ai(route) and not is_seen and not is_told


@rule(
    Severity.ERROR,
    "mergeType on a Gateway's policy",
    *(
        Admission(
            kind, f"!has(object.spec.mergeType) || !{_REFS}.exists(t, t.?kind.orValue('') == 'Gateway')"
        )
        for kind in ("BackendTrafficPolicy", "SecurityPolicy")
    ),
)
def merge_type_on_gateway(view: View) -> Iterator[Trap]:
    """mergeType merges a route's policy into its Gateway's. A Gateway's policy has nothing above it.

    Such a policy is invalid, and routes under an invalid BackendTrafficPolicy answer 500.
    """
    for policy in view.of("BackendTrafficPolicy", "SecurityPolicy"):
        if policy.spec["mergeType"].is_there and any(ref.kind == "Gateway" for ref in view.targets(policy)):
            yield Trap(
                policy,
                policy.spec["mergeType"],
                "a Gateway's policy cannot be merged into anything: the policy is invalid",
                "remove mergeType here, and set it in the policies of the routes",
            )


_TRUE_WHERE_RIGHT = {"Accepted", "ResolvedRefs"}
"""Envoy AI Gateway has NotAccepted as well, which is False where the object is refused and else absent."""
JUDGED = (*POLICIES, "Backend", "AIServiceBackend", "AIGatewayRoute")


@rule(Severity.ERROR, "the gateway has refused an object")
def not_accepted(view: View) -> Iterator[Trap]:
    """What the controller cannot use it says in the object's status only; kubectl apply has succeeded long
    ago.

    Routes under an invalid BackendTrafficPolicy or SecurityPolicy answer 500 to everything. Told from the
    status, so in a cluster, or in files that have one.
    """
    for one in view.of(*JUDGED):
        for node in _refusals(one["status"]):
            if node["reason"].text != "Conflicted":  # that is TwoPoliciesOnOneTarget
                said = " ".join(node["message"].text.split()).rstrip(".")
                yield Trap(
                    one,
                    node,
                    f"says {node['reason'].text}: {said}",
                    "correct what it says; until then the object has no effect, or its routes answer 500",
                )


def _refusals(status: Node) -> Iterator[Node]:
    lists = [status["conditions"]]
    lists += [one["conditions"] for key in ("ancestors", "parents") for one in status[key]]
    for conditions in lists:
        for one in conditions:
            is_false = one["status"].text == "False"
            if one["type"].text == "NotAccepted" or (is_false and one["type"].text in _TRUE_WHERE_RIGHT):
                yield one


@rule(Severity.WARNING, "a policy for something that is not there")
def dangling_target(view: View) -> Iterator[Trap]:
    """A policy whose route was renamed or deleted stays, and nobody sees that the new route has none.

    When somebody later makes a route of the old name, it holds again. In files this is told, as a remark,
    where others of the kind and namespace are there.
    """
    for policy in view.of(*POLICIES):
        for ref in view.targets(policy):
            if ref.kind == "HTTPRoute" and view.route_of(ref) is not None:
                continue
            is_made = ref.kind == "HTTPRoute" and not view.context.is_live
            if view.lacks(ref) or (is_made and view.lacks(ref._replace(kind="AIGatewayRoute"))):
                yield Trap(
                    policy,
                    ref.at,
                    f"there is no {ref.title}: the policy holds for nothing",
                    "correct the name, or delete the policy",
                    None if view.context.is_live else Severity.INFO,
                )
