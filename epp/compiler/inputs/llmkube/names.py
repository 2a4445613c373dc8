"""What an object with an error asks for: its names stay its own, as what was made of it stays, and nobody
else gets the sensitive requests that it was to keep.

Place:   beside routers.py, which reads objects without one.
Rule:    a name that cannot be read is left out; a rule of which nobody can tell what it keeps may be for
         sensitive requests. Nothing is told, since something has been told already.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace

from epp.compiler.documents import Document
from epp.compiler.inputs.llmkube import objects
from epp.compiler.inputs.llmkube.objects import Classification, Match, Policy
from epp.compiler.inputs.llmkube.rules import CLASSIFICATION, SENSITIVE
from epp.compiler.intent import Condition, GatewayRef, Router, Rule
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
    rules = tuple(_rules(spec, document) if is_router else [_exposed(asked, document)])
    if gateway is not None and rules:
        yield Router(document.name, document.namespace, gateway, rules, document.origin)


def _is_for_gateway(plane: str, options: Options) -> bool:
    """What is no data plane may have been one."""
    return plane not in {"", "Proxy"} and (plane != "AgentGateway" or options.target is Target.AGENTGATEWAY)


def _gateway(ref: Node, home: str, options: Options) -> GatewayRef | None:
    name = ref["name"].text
    return GatewayRef(name, ref["namespace"].text or home) if name else options.gateway


def _exposed(asked: Node, document: Document) -> Rule:
    models = (escape(asked["modelName"].text or document.name),)
    return Rule(document.name, (), document.origin, models=models)


def _rules(spec: Node, document: Document) -> Iterator[Rule]:
    """Of each what it asks for. ``fail_closed``: it may be for sensitive requests; ``sensitive``: it is."""
    plain = Rule(document.name, (), document.origin)
    classes = _Classes(spec)
    for one in spec["rules"]:
        rule = replace(plain, models=tuple(name.text for name in one["match"]["models"] if name.text))
        said = classes.of(one)
        if said is None:
            rule = replace(rule, fail_closed=True)
        elif said:
            condition = Condition(classes.header, said, ignore_case=True)
            rule = replace(rule, conditions=(condition,), fail_closed=True, sensitive=True)
        if rule.models or rule.is_guarded:
            yield rule
    if spec["rules"].is_there and not isinstance(spec["rules"].value, list):
        yield replace(plain, fail_closed=True)
    if spec["defaultRouteStrategy"].text == "BackendNameMatch":
        names = tuple(escape(one["name"].text) for one in spec["backends"] if one["name"].text)
        if names:
            yield replace(plain, models=names)


class _Classes:
    """How a router knows sensitive requests."""

    def __init__(self, spec: Node) -> None:
        said = spec["policy"]["classification"]
        self.header = said["headerKey"].text.strip().lower() or CLASSIFICATION
        own = [one.text.strip().lower() for one in said["sensitiveClassifications"]]
        self._sensitive = frozenset(own or SENSITIVE)
        self._is_known = _has_only(spec["policy"], Policy) and _has_only(said, Classification)

    def of(self, rule: Node) -> tuple[str, ...] | None:
        """The sensitive ones that it asks for; None: nobody knows."""
        match = rule["match"]
        asked, headers = match["dataClassification"], match["headers"]
        is_read = self._is_known and _has_only(rule, objects.Rule) and _has_only(match, Match)
        is_read = is_read and rule["failClosed"].value in (None, False)
        values = [one.text for one in asked]
        values += [value.text for name, value in headers.entries() if name.strip().lower() == self.header]
        found = tuple(one for one in values if one.strip().lower() in self._sensitive)
        if found and self._is_known:
            return found
        is_read = is_read and all(values) and (not asked.is_there or isinstance(asked.value, list))
        return () if is_read else None


def _has_only(node: Node, kind: type[objects.Part]) -> bool:
    """It is what it should be, and has no field that there is not: one that is misspelt may mean anything."""
    return not node.is_there or (isinstance(node.value, Mapping) and kind.known().issuperset(node.value))
