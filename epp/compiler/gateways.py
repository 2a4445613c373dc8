"""Gateways that routers name: not there, or closed to them; and by what Envoy's are set up.

Place:   asked by targets/ and epp.lint; what else a Gateway at hand is like each target finds out for itself.
Rule:    what cannot be seen is not taken for missing: files seldom hold the Gateway that they are for.
"""

from epp.compiler.attachment import Reference, admits, reference
from epp.compiler.documents import Documents
from epp.compiler.findings import Finding, info, warning
from epp.compiler.intent import Router
from epp.compiler.node import Node
from epp.compiler.options import Options


def missing(router: Router, documents: Documents, options: Options) -> list[Finding]:
    """Empty: it is there, or nobody can tell."""
    ref = router.gateway
    if not (options.is_live or options.sees_gateways) or documents.find("Gateway", ref.namespace, ref.name):
        return []
    return [
        warning(
            "GatewayNotFound",
            router.origin,
            f"there is no Gateway {ref.namespace}/{ref.name}: nobody serves what is made for it",
            "create it, or name another",
        )
    ]


def closed(router: Router, documents: Documents) -> list[Finding]:
    """Empty: one of its Gateway's listeners takes its routes, or the Gateway is not at hand."""
    ref = router.gateway
    found = documents.find("Gateway", ref.namespace, ref.name)
    if found is None:
        return []
    home = documents.find("Namespace", "", router.namespace)
    labels = None if home is None else home.labels
    listeners = Node(found.content)["spec"]["listeners"]
    takes = [
        admits(one, ref.namespace, router.namespace, labels)
        for one in listeners
        if ref.section in {"", one["name"].text}
    ]
    which = f" {ref.section}" if ref.section else ""
    if True in takes:
        return []
    if None in takes:
        return [
            info(
                "ListenerMayBeClosed",
                router.origin,
                f"whether Gateway {ref.namespace}/{ref.name} has a listener{which} that takes routes of"
                f" namespace {router.namespace} depends on labels of that namespace, which are not at hand;"
                " where they do not fit, its requests get 404",
                f"give Namespace {router.namespace} with the other objects, or let the controller list"
                " namespaces",
            )
        ]
    return [
        warning(
            "ListenerNotOpen",
            router.origin,
            f"Gateway {ref.namespace}/{ref.name} has no listener{which} that takes routes of namespace"
            f" {router.namespace}: its requests get 404",
            "set allowedRoutes.namespaces.from: All on the listener, or a selector that fits the namespace",
        )
    ]


def envoy_proxy(gateway: Node, home: str, class_of: Node) -> Reference | None:
    """Which one a Gateway of namespace ``home`` uses: its own, else that of its class; both are specs."""
    for ref, namespace in (
        (gateway["infrastructure"]["parametersRef"], home),
        (class_of["parametersRef"], ""),
    ):
        if ref.is_there:
            return reference(ref, namespace, kind="EnvoyProxy")
    return None
