"""The objects of a cluster that ``epp lint`` looks at.

Rule:    it only reads, and no more than it needs: of ConfigMaps that of Envoy Gateway, of Secrets those with
         API keys that a SecurityPolicy names. What may not be read is told, and nothing is concluded from
         its absence.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import msgspec

from epp.commands.listing import listed, patiently
from epp.compiler.attachment import reference
from epp.compiler.documents import CLUSTER_WIDE, Document, Documents
from epp.compiler.kinds import KINDS, Kind
from epp.controller.discovery import Api, Discovery
from epp.lint.context import Context
from epp.lint.view import View
from epp.runtime.kubernetes.api import Resource
from epp.runtime.kubernetes.store import ApiFault

T = TypeVar("T")
CONFIG = "envoy-gateway-config"
"""The ConfigMap of Envoy Gateway's chart."""
_OTHERS = (
    Kind("QuotaPolicy", "aigateway.envoyproxy.io", ("v1alpha1",)),
    Kind("ConfigMap", "", ("v1",)),
    Kind("Deployment", "apps", ("v1",)),
    Kind("HelmRelease", "helm.toolkit.fluxcd.io", ("v2",)),
    Kind("CustomResourceDefinition", "apiextensions.k8s.io", ("v1",), is_wide=True),
)
_NOT = {"EndpointSlice", "AgentgatewayBackend", "AgentgatewayPolicy", "Model", "ModelPool", "Namespace"}
READ = (*(one for one in KINDS if one.name not in _NOT), *_OTHERS)


@dataclass(slots=True)
class Found:
    """``readable``: kinds that could be read. ``unread``: why not, by kind."""

    documents: list[Document] = field(default_factory=list)
    readable: set[str] = field(default_factory=set)
    unread: dict[str, str] = field(default_factory=dict)


async def read(api: Api, namespaces: Sequence[str]) -> Found:
    """All of them; ``namespaces`` empty: everywhere. ApiFault: the API is not there."""
    discovery, found = Discovery(api), Found()
    await patiently(partial(discovery.look, READ))
    for kind in READ:
        resource = discovery.find(kind)
        if resource is None:
            continue  # not installed, so there are none
        try:
            async for one in _objects(api, kind, resource, namespaces):
                found.documents.append(one)
        except ApiFault as fault:
            _may_be_closed(fault)
            found.unread[kind.name] = str(fault)
        else:
            found.readable.add(kind.name)
    await _add_secrets(api, found)
    return found


def _decoded(body: bytes, form: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=form)
    except msgspec.DecodeError as fault:
        raise ApiFault(0, f"its answer is not understood: {fault}") from fault


def _may_be_closed(fault: ApiFault) -> None:
    """Without one kind we can go on, without the API not."""
    if fault.status not in {403, 404}:
        raise fault


async def _objects(
    api: Api, kind: Kind, resource: Resource, namespaces: Sequence[str]
) -> AsyncIterator[Document]:
    query = {"fieldSelector": f"metadata.name={CONFIG}"} if kind.name == "ConfigMap" else {}
    version = f"{resource.group}/{resource.version}" if resource.group else resource.version
    for namespace in [""] if kind.name in CLUSTER_WIDE else namespaces or [""]:
        for one in await listed(api, resource, namespace, query):
            yield Document({"apiVersion": version, "kind": kind.name, **one})


async def _add_secrets(api: Api, found: Found) -> None:
    view = View(Documents(found.documents), Context(is_live=True))
    wanted = {
        reference(ref, policy.namespace, kind="Secret")[1:3]
        for policy in view.of("SecurityPolicy")
        for ref in policy.spec["apiKeyAuth"]["credentialRefs"]
    }
    for namespace, name in sorted(wanted):
        try:
            path = f"/api/v1/namespaces/{namespace}/secrets/{name}"
            body = await patiently(partial(api.fetch, path, {}))
        except ApiFault as fault:
            _may_be_closed(fault)
            if fault.status == 403:
                found.unread["Secret"] = str(fault)
        else:
            secret = _decoded(body, dict[str, Any])
            found.documents.append(Document({**secret, "apiVersion": "v1", "kind": "Secret"}))
