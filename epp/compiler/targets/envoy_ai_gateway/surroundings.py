"""What is there already, as far as the objects at hand tell: Gateways with their policies, slices, grants.

Rule:    what cannot be seen is not taken for missing: files seldom hold the Gateway that they are for.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from epp.compiler import attachment, marks, pools
from epp.compiler.attachment import Thing
from epp.compiler.documents import Document, Documents
from epp.compiler.gateways import envoy_proxy
from epp.compiler.intent import GatewayRef
from epp.compiler.node import Node
from epp.compiler.options import Options

GATEWAYS = "gateway.networking.k8s.io"
ENVOY = "gateway.envoyproxy.io"
POLICIES = ("BackendTrafficPolicy", "ClientTrafficPolicy", "EnvoyExtensionPolicy", "SecurityPolicy")


@dataclass(frozen=True)
class Surroundings:
    """Indexed once: a large cluster has thousands of slices."""

    documents: Documents
    options: Options
    _slices: dict[tuple[str, str], list[Document]] = field(init=False, repr=False, compare=False)
    _theirs: dict[str, list[Document]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        slices: dict[tuple[str, str], list[Document]] = {}
        for one in self.documents.of("EndpointSlice"):
            slices.setdefault((one.namespace, one.labels.get(pools.SERVICE_NAME, "")), []).append(one)
        object.__setattr__(self, "_slices", slices)
        object.__setattr__(self, "_theirs", {kind: self._not_ours(kind) for kind in POLICIES})

    def _not_ours(self, kind: str) -> list[Document]:
        every = self.documents.of(kind, ENVOY)
        return [one for one in every if one.labels.get(marks.MANAGED_BY) != marks.MANAGER]

    def endpoints(self, namespace: str, service: str) -> Iterator[tuple[str, int]]:
        """Addresses and ports in the EndpointSlices of a Service, of servers that are ready."""
        for one in self._slices.get((namespace, service), []):
            numbers = [port["port"] for port in one.content.get("ports") or [] if port.get("port")]
            for endpoint in one.content.get("endpoints") or []:
                if numbers and (endpoint.get("conditions") or {}).get("ready") is not False:
                    yield from ((address, numbers[0]) for address in endpoint.get("addresses") or [])

    def grants_pool(self, source: str, pool: tuple[str, str]) -> bool:
        """Whether routes of namespace ``source`` may name the InferencePool: that takes two grants."""
        namespace, name = pool
        given = [
            (one["kind"], two.get("name"))
            for grant in self.documents.of("ReferenceGrant")
            if grant.namespace == namespace
            for one in grant.spec.get("from") or []
            for two in grant.spec.get("to") or []
            if one.get("namespace") == source and two.get("kind") == "InferencePool"
        ]
        return all((kind, None) in given or (kind, name) in given for kind in ("AIGatewayRoute", "HTTPRoute"))

    def gateway(self, ref: GatewayRef) -> "Gateway":
        """One, whether it is there or not."""
        document = self.documents.find("Gateway", ref.namespace, ref.name)
        return Gateway(self.documents, self.options, ref.namespace, ref.name, document, self._theirs)


@dataclass(frozen=True)
class Gateway:
    """``document``: None where it is not at hand."""

    documents: Documents
    options: Options
    namespace: str
    name: str
    document: Document | None
    theirs: Mapping[str, Sequence[Document]] = field(default_factory=dict, repr=False)
    """Policies that are not ours, by kind, the oldest first; for whatever they are."""

    @property
    def proxy(self) -> Document | None:
        """The EnvoyProxy that it uses, itself or by its class; None: none, or it is not at hand."""
        if self.document is None:
            return None
        spec = Node(self.document.spec)
        class_of = self.documents.find("GatewayClass", "", spec["gatewayClassName"].text)
        ref = envoy_proxy(spec, self.namespace, Node(class_of.spec if class_of else {}))
        return self.documents.find(ref.kind, ref.namespace, ref.name) if ref else None

    @property
    def keeps_order(self) -> bool:
        """Routes are tried as they are written, and not the most particular first."""
        return self.proxy is not None and self.proxy.spec.get("preserveRouteOrder") is True

    @property
    def listeners(self) -> list[Mapping[str, Any]]:
        """Of the Gateway at hand."""
        return list(self.document.spec.get("listeners") or []) if self.document else []

    def others(self, kind: str, section: str = "") -> Iterator[Document]:
        """Policies of Envoy Gateway that are not ours, for all of it or a listener.

        ``section``: only those that hold for this listener.
        """
        for one in self.theirs[kind]:
            sections = self.sections(one)
            if sections & {"", section} or (sections and not section):
                yield one

    def sections(self, policy: Document) -> frozenset[str]:
        """The listeners that a policy is for, one of them empty: all. None: it is for another Gateway."""
        return attachment.sections(policy, [self.thing])

    @property
    def thing(self) -> Thing:
        """As policies name and choose it."""
        return Thing("Gateway", self.namespace, self.name, self.document.labels if self.document else {})
