"""What others' policies do to a router's routes: they take the place of ours, or ours of theirs.

Place:   after routes.py has said which routes there are; gateways.py and access.py look at the Gateway's own.
Rule:    of two policies of a kind the narrower one holds, whole: rule, route, listener, Gateway; of two for
         one thing the older. An error where it would decide who may ask, otherwise a warning.

An HTTPRoute has the name and the labels of its AIGatewayRoute, so that policies find it by either.
"""

from collections.abc import Iterator, Sequence

from epp.compiler import attachment, marks
from epp.compiler.attachment import Thing
from epp.compiler.documents import Document
from epp.compiler.findings import Finding, error, warning
from epp.compiler.intent import Router
from epp.compiler.options import Options
from epp.compiler.targets.envoy_ai_gateway.surroundings import Gateway

AUTHENTICATION = frozenset({"apiKeyAuth", "basicAuth", "extAuth", "jwt", "oidc"})
_TARGETS = frozenset({"targetRef", "targetRefs", "targetSelectors", "mergeType"})


def told(router: Router, routes: Sequence[str], gateway: Gateway, options: Options) -> list[Finding]:
    """Of the HTTPRoutes ``routes``."""
    labels = marks.labels(options)
    things = [Thing("HTTPRoute", router.namespace, name, labels) for name in routes]
    return [
        *_access(router, things, gateway),
        *_traffic(router, things, gateway),
        *(_extension(router, one) for one in _for(things, gateway, "EnvoyExtensionPolicy")),
    ]


def _for(things: Sequence[Thing], gateway: Gateway, kind: str) -> Iterator[Document]:
    return (one for one in gateway.theirs[kind] if attachment.sections(one, things))


def _access(router: Router, things: Sequence[Thing], gateway: Gateway) -> Iterator[Finding]:
    for one in _for(things, gateway, "SecurityPolicy"):
        if router.access:
            yield error(
                "PolicyOfAnother",
                router.access.origin,
                f"SecurityPolicy {one.namespace}/{one.name}, which is not ours, is for a route of this router"
                " and takes the place of the Gateway's there: tokens and teams would not be asked for",
                f"remove it or its target, and say here who may ask; or remove policy.auth here and say it in"
                f" {one.name}",
            )
        elif AUTHENTICATION & one.spec.keys():
            skipped = ", ".join(sorted(AUTHENTICATION & one.spec.keys()))
            yield warning(
                "PolicyOfAnother",
                router.origin,
                f"SecurityPolicy {one.namespace}/{one.name} is for a route of this router: its {skipped} is"
                " skipped, since the oldest AIGatewayRoute's catch-all decides before the model is known",
                "let it target the Gateway, or say here who may ask",
            )


def _traffic(router: Router, things: Sequence[Thing], gateway: Gateway) -> Iterator[Finding]:
    for one in _for(things, gateway, "BackendTrafficPolicy"):
        counted = "; budgets are then not enforced" if router.budgets else ""
        yield warning(
            "PolicyOfAnother",
            router.origin,
            f"BackendTrafficPolicy {one.namespace}/{one.name}, which is not ours, is for a route of this"
            f" router, which has one here: the narrower or older one holds, the other does nothing{counted}",
            f"remove {one.name} or its target; timeouts, retries and budgets are said here",
        )
    for one in gateway.others("BackendTrafficPolicy", router.gateway.section):
        lost = ", ".join(sorted(one.spec.keys() - _TARGETS))
        if lost:
            yield warning(
                "PolicyOfAnother",
                router.origin,
                f"BackendTrafficPolicy {one.namespace}/{one.name} of the Gateway says {lost}, which does not"
                " hold for this router: each of its routes has a policy of its own, which takes its place",
                "say here what is to hold for its models: budgets and timeouts",
            )


def _extension(router: Router, policy: Document) -> Finding:
    return warning(
        "PolicyOfAnother",
        router.origin,
        f"EnvoyExtensionPolicy {policy.namespace}/{policy.name} is for a route of this router: it is skipped,"
        " or runs for another route, since the oldest AIGatewayRoute's catch-all decides",
        "let it target the Gateway",
    )
