"""What others' policies do to a router's routes: of two that say one field the narrower one counts.

Place:   beside gateways.py, which knows those that transform requests before routing.
Rule:    an error where a field of theirs would take the place of ours about who may ask, otherwise a warning.
"""

from collections.abc import Iterator, Sequence

from epp.compiler import attachment, marks
from epp.compiler.attachment import Thing
from epp.compiler.documents import Document
from epp.compiler.findings import Finding, error, warning
from epp.compiler.intent import Router
from epp.compiler.node import Node
from epp.compiler.options import Options
from epp.compiler.targets.agentgateway.gateways import Theirs
from epp.compiler.targets.gateway_api.routes import Section, label

_ACCESS = frozenset({"jwtAuthentication", "authorization", "transformation"})
"""The last of them says the team."""
_OF_A_RULE = frozenset({"retry", "directResponse"})


def told(
    router: Router, routes: Sequence[Sequence[Section]], theirs: Theirs, options: Options
) -> list[Finding]:
    """Of its HTTPRoutes, which policies find by their names or by their labels."""
    labels = {**marks.labels(options), **label(router)}
    names = dict.fromkeys(section.route for route in routes for section in route)
    things = [Thing("HTTPRoute", router.namespace, name, labels) for name in names]
    return [
        *_on_routes(router, [one for one in theirs.policies if attachment.sections(one, things)]),
        *_on_gateway(router, list(theirs.of(router.gateway))),
    ]


def _on_routes(router: Router, policies: Sequence[Document]) -> Iterator[Finding]:
    ours = _ours(router) | _OF_A_RULE
    for one in policies:
        fields = _fields(one)
        if router.access and fields & _ACCESS:
            yield error(
                "PolicyOfAnother",
                router.access.origin,
                f"{_title(one)}, which is not ours, is for a route of this router and says"
                f" {_listed(fields & _ACCESS)}, which may take the place of what is said here: others could"
                " ask, or for another team",
                "remove it or its target, and say here who may ask; or remove policy.auth here and say it in"
                f" {one.name}",
            )
        elif fields & ours:
            yield warning(
                "PolicyOfAnother",
                router.origin,
                f"{_title(one)}, which is not ours, is for a route of this router and says"
                f" {_listed(fields & ours)}, as a policy here does: one of the two counts, the narrower one",
                f"remove it from {one.name}; budgets and attempts are said here",
            )


def _on_gateway(router: Router, policies: Sequence[Document]) -> Iterator[Finding]:
    for one in policies:
        lost = _fields(one) & _ours(router)
        if lost and Node(one.content)["spec"]["traffic"]["phase"].text != "PreRouting":
            yield warning(
                "PolicyOfAnother",
                router.origin,
                f"{_title(one)} of the Gateway says {_listed(lost)}, which does not"
                " hold for this router: its routes have a narrower policy that says so, too",
                "say here what is to hold for its models",
            )
        if router.audit and Node(one.content)["spec"]["frontend"]["accessLog"].is_there:
            yield warning(
                "PolicyOfAnother",
                router.origin,
                f"{_title(one)} says the access log of the Gateway, as the one for"
                " audit does: one of the two counts",
                f"remove accessLog from {one.name}, or add to it what the audit log is to say",
            )


def _ours(router: Router) -> frozenset[str]:
    """What we say for all routes of it."""
    found = {"rateLimit"} if router.budgets else set()
    if router.access:
        found |= {"jwtAuthentication", "transformation"}
        found |= {"authorization"} if router.access.allowances else set()
    return frozenset(found)


def _fields(policy: Document) -> frozenset[str]:
    return frozenset(key for key, _ in Node(policy.content)["spec"]["traffic"].entries())


def _title(policy: Document) -> str:
    return f"{policy.kind} {policy.namespace}/{policy.name}"


def _listed(fields: frozenset[str]) -> str:
    return ", ".join(sorted(fields))
