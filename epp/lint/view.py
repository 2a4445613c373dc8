"""The objects as rules ask for them: by kind, by name, and by what refers to what.

Rule:    what is not given is not known: an answer is only about objects that are there.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

from epp.compiler import attachment
from epp.compiler.attachment import Reference, Thing, reference
from epp.compiler.documents import CLUSTER_WIDE, Document, Documents
from epp.compiler.findings import Origin
from epp.compiler.kinds import GROUP_OF
from epp.compiler.node import Node
from epp.lint.context import Context

IGNORE = "fleet-epp.dev/lint-ignore"
"""Annotation: codes that are not told of this object, with commas between them."""
ENVOY_GATEWAY = "gateway.envoyproxy.io/gatewayclass-controller"
AI, EG = "aigateway.envoyproxy.io", "gateway.envoyproxy.io"
INFERENCE = "inference.networking.k8s.io"
GROUPS = {
    **GROUP_OF,
    **dict.fromkeys(("GatewayConfig", "QuotaPolicy"), AI),
    "EnvoyGateway": EG,
    **dict.fromkeys(("ConfigMap", "Secret"), ""),
    "Deployment": "apps",
    "CustomResourceDefinition": "apiextensions.k8s.io",
}
"""Whose kind it is that rules mean by a name: others have a Gateway and a Backend too."""


@dataclass(frozen=True, slots=True)
class Object:
    """One of them. ``namespace``: as the API server would have it."""

    document: Document
    namespace: str

    def __getitem__(self, key: str) -> Node:
        return Node(self.document.content)[key]

    @property
    def kind(self) -> str:
        return self.document.kind

    @property
    def name(self) -> str:
        return self.document.name

    @property
    def spec(self) -> Node:
        return self["spec"]

    @property
    def labels(self) -> Node:
        return self["metadata"]["labels"]

    @property
    def thing(self) -> Thing:
        return Thing(self.kind, self.namespace, self.name, self.document.labels)

    @property
    def annotations(self) -> Node:
        return self["metadata"]["annotations"]

    @property
    def origin(self) -> Origin:
        return self.document.origin

    @property
    def ignored(self) -> frozenset[str]:
        said = self.annotations[IGNORE].text
        return frozenset(code.strip() for code in said.split(","))

    @property
    def title(self) -> str:
        """For the middle of a sentence."""
        return f"{self.kind} {self.namespace}/{self.name}"


def is_pool(ref: Node) -> bool:
    """Of a rule's backendRefs."""
    return ref["kind"].text == "InferencePool"


class View:
    """All that were given."""

    def __init__(self, documents: Documents, context: Context) -> None:
        self.context = context
        self._kinds: dict[str, list[Object]] = {}
        self._homes: set[tuple[str, str]] = set()
        """Kinds and namespaces of which there is something."""
        self._names: dict[tuple[str, str, str], Object] = {}
        for one in sorted(documents, key=lambda document: document.origin.age):
            if one.kind in GROUPS and one.group != GROUPS[one.kind]:
                continue
            wide = one.kind in CLUSTER_WIDE
            placed = Object(one, "" if wide else one.namespace or context.namespace)
            self._kinds.setdefault(one.kind, []).append(placed)
            self._homes.add((one.kind, placed.namespace))
            self._names.setdefault((one.kind, placed.namespace, one.name), placed)

    def of(self, *kinds: str) -> Iterator[Object]:
        """The oldest first."""
        for kind in kinds:
            yield from self._kinds.get(kind, ())

    def everything(self) -> Iterator[Object]:
        return self.of(*self._kinds)

    def find(self, kind: str, namespace: str, name: str) -> Object | None:
        return self._names.get((kind, namespace, name))

    def found(self, ref: Reference) -> Object | None:
        return self.find(ref.kind, ref.namespace, ref.name)

    def is_complete(self, kind: str, namespace: str) -> bool:
        """Whether what is not here does not exist."""
        read = self.context.namespaces
        is_read = not read or kind in CLUSTER_WIDE or namespace in read
        return self.context.is_live and kind not in self.context.unread and is_read

    def is_readable(self, kind: str) -> bool:
        """Nobody has kept us from seeing them."""
        return kind not in self.context.unread

    def lacks(self, ref: Reference) -> bool:
        """It is not here and should be: a cluster has not got it, or files have others like it."""
        if not ref.name or self.found(ref) is not None:
            return False
        if self.is_complete(ref.kind, ref.namespace):
            return True
        return not self.context.is_live and (ref.kind, ref.namespace) in self._homes

    # --- routes and gateways

    def routes(self) -> Iterator[Object]:
        """Written by people: an HTTPRoute with the name of an AIGatewayRoute is made from that one."""
        yield from self.of("AIGatewayRoute")
        for one in self.of("HTTPRoute"):
            if self.find("AIGatewayRoute", one.namespace, one.name) is None:
                yield one

    def route_of(self, ref: Reference) -> Object | None:
        """What a policy for an HTTPRoute is really about."""
        return self.find("AIGatewayRoute", ref.namespace, ref.name) or self.find(
            "HTTPRoute", ref.namespace, ref.name
        )

    def parents(self, route: Object) -> list[Reference]:
        return [reference(ref, route.namespace, kind="Gateway") for ref in route.spec["parentRefs"]]

    def gateways(self, route: Object) -> list[Object]:
        """Those of its Gateways that are given."""
        found = (self.found(ref) for ref in self.parents(route) if ref.kind == "Gateway")
        return [one for one in found if one is not None]

    def ai_routes(self, gateway: Object | Reference) -> list[Object]:
        """The AIGatewayRoutes of a Gateway."""
        return self._ai_routes.get((gateway.namespace, gateway.name), [])

    @cached_property
    def _ai_routes(self) -> dict[tuple[str, str], list[Object]]:
        found: dict[tuple[str, str], list[Object]] = {}
        for route in self.of("AIGatewayRoute"):
            for key in dict.fromkeys((ref.namespace, ref.name) for ref in self.parents(route)):
                found.setdefault(key, []).append(route)
        return found

    def is_ai(self, route: Object) -> bool:
        """Whether requests for it are first matched by an AI gateway's routes."""
        return route.kind == "AIGatewayRoute" or any(self.ai_routes(ref) for ref in self.parents(route))

    def controller(self, gateway: Object) -> str:
        """Who serves it; empty: not known."""
        found = self.find("GatewayClass", "", gateway.spec["gatewayClassName"].text)
        return found.spec["controllerName"].text if found is not None else ""

    def is_envoy_gateway(self, route: Object) -> bool:
        """Certainly; where it is not known, no."""
        return route.kind == "AIGatewayRoute" or any(
            self.controller(one) == ENVOY_GATEWAY for one in self.gateways(route)
        )

    # --- policies

    def targets(self, policy: Object) -> list[Reference]:
        """What it is for, by name or by labels."""
        return [*attachment.named(policy.spec, policy.namespace), *self._selected(policy)]

    def _selected(self, policy: Object) -> Iterator[Reference]:
        for selector in policy.spec["targetSelectors"]:
            for one in self._things(selector["kind"].text):
                if attachment.selects(selector, policy.namespace, one):
                    yield Reference(one.kind, one.namespace, one.name, selector)

    def _things(self, kind: str) -> Iterator[Thing]:
        """All of a kind; of HTTPRoutes also those that AIGatewayRoutes become, names and labels the same."""
        found = {(one.namespace, one.name): one.thing for one in self.of(kind)}
        for one in self.of("AIGatewayRoute") if kind == "HTTPRoute" else ():
            found.setdefault((one.namespace, one.name), replace(one.thing, kind=kind))
        yield from found.values()

    def policies(self, kind: str, *targets: tuple[str, str, str]) -> list[Object]:
        """Those of a kind that are for one of ``targets``: kind, namespace, name."""
        found = [one for target in targets for one in self._policies.get((kind, *target), ())]
        return list({(one.namespace, one.name): one for one in found}.values())

    @cached_property
    def _policies(self) -> dict[tuple[str, str, str, str], list[Object]]:
        """By their kind, and kind, namespace and name of what they are for."""
        found: dict[tuple[str, str, str, str], list[Object]] = {}
        for one in self.everything():
            for target in dict.fromkeys((ref.kind, ref.namespace, ref.name) for ref in self.targets(one)):
                found.setdefault((one.kind, *target), []).append(one)
        return found

    def policies_of(self, kind: str, route: Object) -> list[Object]:
        """Those of a route and of its Gateways."""
        above = [("Gateway", ref.namespace, ref.name) for ref in self.parents(route)]
        return self.policies(kind, ("HTTPRoute", route.namespace, route.name), *above)

    def gateways_of(self, policy: Object) -> Iterator[Reference]:
        """Gateways that it is for, or that the routes are of that it is for."""
        for ref in self.targets(policy):
            if ref.kind == "Gateway":
                yield ref
            route = self.route_of(ref) if ref.kind == "HTTPRoute" else None
            if route is not None:
                yield from self.parents(route)

    # --- servers

    def pool_refs(self, kinds: Iterable[str] = ("AIGatewayRoute", "HTTPRoute")) -> Iterator[Reference]:
        """What routes call an InferencePool."""
        for route in self.of(*kinds):
            for rule in route.spec["rules"]:
                for ref in rule["backendRefs"]:
                    if is_pool(ref):
                        yield reference(ref, route.namespace, kind="InferencePool")

    def is_used_by_ai(self, pool: Object) -> bool:
        """By an AIGatewayRoute that is given."""
        return (pool.namespace, pool.name) in self._ai_pools

    @cached_property
    def _ai_pools(self) -> frozenset[tuple[str, str]]:
        return frozenset((ref.namespace, ref.name) for ref in self.pool_refs(["AIGatewayRoute"]))

    def backend_of(self, ref: Node, home: str) -> Object | None:
        """The Backend behind a reference of an AIGatewayRoute to an AIServiceBackend, as far as given."""
        named = reference(ref, home, kind="AIServiceBackend")
        service = self.found(named)
        if service is None:
            return None
        return self.found(reference(service.spec["backendRef"], service.namespace, kind="Service"))

    def is_granted(self, kind: str, home: str, ref: Reference) -> bool:
        """Whether a ReferenceGrant lets objects of ``kind`` in namespace ``home`` name ``ref``."""
        source = {"group": GROUPS[kind], "kind": kind, "namespace": home}

        def lets(grant: Object) -> bool:
            lets_in = any(
                all(one[key].text == said for key, said in source.items()) for one in grant.spec["from"]
            )
            return lets_in and any(
                (one["group"].text, one["kind"].text) == (ref.at["group"].text, ref.kind)
                and one["name"].text in {"", ref.name}
                for one in grant.spec["to"]
            )

        return any(grant.namespace == ref.namespace and lets(grant) for grant in self.of("ReferenceGrant"))

    # --- configuration of Envoy Gateway

    def envoy_gateways(self) -> Iterator[tuple[Object, Node]]:
        """EnvoyGateway configurations, as they stand for themselves and as Helm values."""
        for one in self.of("EnvoyGateway"):
            yield one, Node(one.document.content)
        for one in self.everything():
            values = one.spec["values"]["config"]["envoyGateway"]
            if values.is_there:
                yield one, values

    def arguments(self, deployment: Object) -> Iterator[Node]:
        """Command and arguments of its containers."""
        for container in deployment.spec["template"]["spec"]["containers"]:
            yield from container["command"]
            yield from container["args"]
