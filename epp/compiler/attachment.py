"""What hangs where: whom a policy is for, named or chosen by labels; whose routes a listener takes.

Place:   asked by the targets about others' policies, by gateways.py, and by epp.lint.
Rule:    what is not known chooses nothing: so a policy's selector of namespaces, whose labels are not asked.
Source:  Envoy Gateway 1.8 (targetRef, targetRefs, targetSelectors); agentgateway knows the last two.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from epp.compiler.documents import Document
from epp.compiler.node import Node


class Reference(NamedTuple):
    """To an object that is perhaps not given. ``at``: where it says so."""

    kind: str
    namespace: str
    name: str
    at: Node
    section: str = ""

    @property
    def title(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"


def reference(node: Node, home: str, *, kind: str) -> Reference:
    """What ``node`` refers to from namespace ``home``. ``kind``: where it names none."""
    namespace = node["namespace"].text or home
    return Reference(node["kind"].text or kind, namespace, node["name"].text, node, node["sectionName"].text)


def named(spec: Node, home: str) -> Iterator[Reference]:
    """What a policy of namespace ``home`` names."""
    if spec["targetRef"].is_there:
        yield reference(spec["targetRef"], home, kind="")
    for one in spec["targetRefs"]:
        yield reference(one, home, kind="")


@dataclass(frozen=True, slots=True)
class Thing:
    """An object that policies may be for, whether it is there or not."""

    kind: str
    namespace: str
    name: str
    labels: Mapping[str, str] = field(default_factory=dict)


def selects(selector: Node, home: str, thing: Thing) -> bool:
    """Whether one of the targetSelectors of a policy of namespace ``home`` chooses it."""
    if selector["kind"].text != thing.kind:
        return False
    if thing.namespace != home and selector["namespaces"]["from"].text != "All":
        return False
    return fits(selector, thing.labels)


def fits(selector: Node, labels: Mapping[str, str]) -> bool:
    """Whether a LabelSelector chooses what has ``labels``; an empty one chooses everything."""
    wanted = all(labels.get(key) == value.text for key, value in selector["matchLabels"].entries())
    return wanted and all(_holds(one, labels) for one in selector["matchExpressions"])


NAME_LABEL = "kubernetes.io/metadata.name"
"""Of every namespace, by Kubernetes itself."""


def admits(listener: Node, home: str, namespace: str, labels: Mapping[str, str] | None) -> bool | None:
    """Whether a listener of a Gateway in ``home`` takes routes of ``namespace``; None: nobody can tell.

    ``labels``: of the namespace; None: they are not at hand.
    """
    allowed = listener["allowedRoutes"]["namespaces"]
    selector = allowed["selector"]
    match allowed["from"].text or "Same":
        case "All":
            return True
        case "Same":
            return namespace == home
        case "Selector" if labels is not None or _keys(selector) <= {NAME_LABEL}:
            return selector.is_there and fits(selector, {NAME_LABEL: namespace, **(labels or {})})
        case "Selector":
            return None
        case _:
            return False


def _keys(selector: Node) -> set[str]:
    named = {key for key, _ in selector["matchLabels"].entries()}
    return named | {one["key"].text for one in selector["matchExpressions"]}


def _holds(expression: Node, labels: Mapping[str, str]) -> bool:
    value = labels.get(expression["key"].text)
    values = [one.text for one in expression["values"]]
    match expression["operator"].text:
        case "In":
            return value is not None and value in values
        case "NotIn":
            return value not in values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case _:
            return False


def places(policy: Document, thing: Thing) -> Iterator[Reference]:
    """Where ``policy`` says that it is for ``thing``, or for a part of it."""
    spec = Node(policy.content)["spec"]
    for one in named(spec, policy.namespace):
        if (one.kind, one.namespace, one.name) == (thing.kind, thing.namespace, thing.name):
            yield one
    for selector in spec["targetSelectors"]:
        if selects(selector, policy.namespace, thing):
            yield Reference(thing.kind, thing.namespace, thing.name, selector)


def sections(policy: Document, things: Sequence[Thing]) -> frozenset[str]:
    """Which parts of ``things`` it is for, one of them empty: all. None: it is for none of them."""
    return frozenset(place.section for thing in things for place in places(policy, thing))
