"""Which models an object with an error asks for: these names stay its own, as what was made of it stays.

Place:   beside routers.py, which reads objects without one.
Rule:    whatever cannot be read is left out; nothing is told, since something has been told already.
"""

from collections.abc import Iterator

from epp.compiler.documents import Document
from epp.compiler.intent import GatewayRef, Router, Rule
from epp.compiler.node import Node
from epp.compiler.options import Options, Target
from epp.compiler.patterns import escape


def faulty(document: Document, options: Options) -> Iterator[Router]:
    """At most one; none where it asks for no gateway, or nothing says for which."""
    spec = Node(document.content)["spec"]
    is_router = document.kind == "ModelRouter"
    asked = spec if is_router else spec["endpoint"]["gateway"]
    if not (_is_for_gateway(spec["dataPlane"].text, options) if is_router else asked["enabled"].is_true):
        return
    gateway = _gateway(asked["gatewayRef"], document.namespace, options)
    models = tuple(_asked(spec) if is_router else [escape(asked["modelName"].text or document.name)])
    if gateway is not None and models:
        rule = Rule(document.name, (), document.origin, models=models)
        yield Router(document.name, document.namespace, gateway, (rule,), document.origin)


def _is_for_gateway(plane: str, options: Options) -> bool:
    """What is no data plane may have been one."""
    return plane not in {"", "Proxy"} and (plane != "AgentGateway" or options.target is Target.AGENTGATEWAY)


def _gateway(ref: Node, home: str, options: Options) -> GatewayRef | None:
    name = ref["name"].text
    return GatewayRef(name, ref["namespace"].text or home) if name else options.gateway


def _asked(spec: Node) -> Iterator[str]:
    for rule in spec["rules"]:
        yield from (one.text for one in rule["match"]["models"] if one.text)
    if spec["defaultRouteStrategy"].text == "BackendNameMatch":
        yield from (escape(one["name"].text) for one in spec["backends"] if one["name"].text)
