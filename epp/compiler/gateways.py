"""Gateways that routers name and that are not there.

Place:   asked by targets/; what a Gateway at hand is like each target finds out for itself.
Rule:    what cannot be seen is not taken for missing: files seldom hold the Gateway that they are for.
"""

from epp.compiler.documents import Documents
from epp.compiler.findings import Finding, warning
from epp.compiler.intent import Router
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
