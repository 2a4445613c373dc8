"""Kinds of objects that the controller looks at, and where the API has them.

Place:   used by watching.py and cluster.py.
Rule:    which of them there are, and what their plurals are, the API says (``Discovery``): kinds come with
         the CRDs, before us or after.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import aiohttp
import msgspec

from epp.compiler.emission import APPLY_ORDER
from epp.compiler.options import Target
from epp.runtime.kubernetes.api import Resource
from epp.runtime.kubernetes.store import ApiFault

LLMKUBE = "inference.llmkube.dev"
_GATEWAYS = "gateway.networking.k8s.io"
_ENVOY = "gateway.envoyproxy.io"
_ENVOY_AI = "aigateway.envoyproxy.io"
_AGENTGATEWAY = "agentgateway.dev"


class Role(StrEnum):
    """What a kind is to us."""

    DECLARED = "declared"
    """By people: what the compiler reads, with its status."""
    THERE = "there"
    """Gateways and what else is around what we make."""
    MADE = "made"
    """Also by us."""


_EVERY = frozenset(Target)
_ENVOYS = frozenset({Target.ENVOY_AI_GATEWAY_0_7, Target.ENVOY_AI_GATEWAY_1_1})
_ROUTED = _EVERY - _ENVOYS
_SLICED = _EVERY - {Target.AGENTGATEWAY}


@dataclass(frozen=True, slots=True)
class Kind:
    """``versions``: the first of them that is served is looked at. ``selector``: of labels; empty: all.

    ``targets``: for which it is looked at and, where its role is MADE, made. ``is_wide``: in no namespace, so
    that who may see one namespace only may not see it. ``is_told``: a part of its status is ours.
    """

    name: str
    group: str
    versions: tuple[str, ...]
    role: Role = Role.MADE
    selector: str = ""
    targets: frozenset[Target] = _EVERY
    is_wide: bool = False
    is_told: bool = False


KINDS = (
    Kind("InferenceService", LLMKUBE, ("v1alpha1",), Role.DECLARED, is_told=True),
    Kind("Model", LLMKUBE, ("v1alpha1",), Role.DECLARED),
    Kind("ModelRouter", LLMKUBE, ("v1alpha1",), Role.DECLARED, is_told=True),
    Kind("ModelPool", LLMKUBE, ("v1alpha1",), Role.DECLARED),
    Kind("EndpointSlice", "discovery.k8s.io", ("v1",), Role.DECLARED, "llmkube.ai/inference-service"),
    Kind("GatewayClass", _GATEWAYS, ("v1",), Role.THERE, is_wide=True),
    Kind("Gateway", _GATEWAYS, ("v1",), Role.THERE),
    Kind("ReferenceGrant", _GATEWAYS, ("v1beta1", "v1"), Role.THERE, targets=_ENVOYS),
    Kind("ReferenceGrant", _GATEWAYS, ("v1beta1", "v1"), targets=_ROUTED),
    Kind("EnvoyProxy", _ENVOY, ("v1alpha1",), targets=_ENVOYS),
    Kind("Service", "", ("v1",)),
    Kind("EndpointSlice", "discovery.k8s.io", ("v1",), Role.MADE, "fleet-epp.dev/inventory", _SLICED),
    Kind("InferencePool", "inference.networking.k8s.io", ("v1",)),
    Kind("InferenceObjective", "llm-d.ai", ("v1alpha2",)),
    Kind("InferenceModelRewrite", "llm-d.ai", ("v1alpha2",), targets=frozenset({Target.GATEWAY_API})),
    Kind("Backend", _ENVOY, ("v1alpha1",), targets=_ENVOYS),
    Kind("AgentgatewayBackend", _AGENTGATEWAY, ("v1alpha1",), targets=frozenset({Target.AGENTGATEWAY})),
    Kind("AIServiceBackend", _ENVOY_AI, ("v1beta1", "v1alpha1"), targets=_ENVOYS),
    Kind("BackendTLSPolicy", _GATEWAYS, ("v1", "v1alpha3"), targets=_ENVOYS),
    Kind("BackendSecurityPolicy", _ENVOY_AI, ("v1beta1", "v1alpha1"), targets=_ENVOYS),
    Kind("ClientTrafficPolicy", _ENVOY, ("v1alpha1",), targets=_ENVOYS),
    Kind("SecurityPolicy", _ENVOY, ("v1alpha1",), targets=_ENVOYS),
    Kind("AgentgatewayPolicy", _AGENTGATEWAY, ("v1alpha1",), targets=frozenset({Target.AGENTGATEWAY})),
    Kind("BackendTrafficPolicy", _ENVOY, ("v1alpha1",), targets=_ENVOYS),
    Kind("AIGatewayRoute", _ENVOY_AI, ("v1beta1", "v1alpha1"), targets=_ENVOYS),
    Kind("HTTPRoute", _GATEWAYS, ("v1",), targets=_ROUTED),
)
"""The only list: of what the controller follows, and of what it may (tools/controller-rbac).

EndpointSlices change with every pod: only those with a label of LLMKube's or ours are read."""

assert {one.name for one in KINDS if one.role is Role.MADE} == set(APPLY_ORDER)


def kinds_of(target: Target) -> tuple[Kind, ...]:
    """What is looked at for a gateway: of the others' kinds nobody need let us see anything."""
    return tuple(one for one in KINDS if target in one.targets)


class Api(Protocol):
    """What is needed of epp.runtime.kubernetes.api."""

    async def fetch(
        self, path: str, query: Mapping[str, str], *, timeout: aiohttp.ClientTimeout = ...
    ) -> bytes: ...


class _Served(msgspec.Struct, frozen=True):
    name: str
    kind: str


class _List(msgspec.Struct, frozen=True):
    resources: list[_Served] = []


class Discovery:
    """Which kinds the API has, as it last said."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._plurals: dict[tuple[str, str], dict[str, str]] = {}
        """By group and version: plurals by kind."""

    async def look(self, kinds: Iterable[Kind]) -> None:
        """Ask about those that were not there yet; ApiFault."""
        for group, version in sorted({(kind.group, each) for kind in kinds for each in kind.versions}):
            await self._ask(group, version)

    def find(self, kind: Kind) -> Resource | None:
        """Where its objects are; None: it is not there."""
        return next(
            (found for version in kind.versions if (found := self.at(kind.group, version, kind.name))), None
        )

    def at(self, group: str, version: str, kind: str) -> Resource | None:
        """The same for one version."""
        plural = self._plurals.get((group, version), {}).get(kind)
        return None if plural is None else Resource(plural, group, version)

    async def resource(self, api_version: str, kind: str) -> Resource:
        """Where objects of this kind are, asked for where nobody has said so; ApiFault 404: nowhere."""
        group, _, version = api_version.rpartition("/")
        if self.at(group, version, kind) is None:
            await self._ask(group, version)
        found = self.at(group, version, kind)
        if found is None:
            raise ApiFault(404, f"the cluster has no {kind} of {api_version}: install its CRD")
        return found

    async def _ask(self, group: str, version: str) -> None:
        try:
            body = await self._api.fetch(Resource("", group, version).home, {})
        except ApiFault as fault:
            if fault.status != 404:
                raise
            return  # what was there stays: it is the objects' lists that say when it goes
        try:
            served = msgspec.json.decode(body, type=_List).resources
        except msgspec.DecodeError as fault:
            raise ApiFault(0, f"its list of kinds of {group}/{version} is not understood: {fault}") from fault
        known = self._plurals.setdefault((group, version), {})
        known.update((one.kind, one.name) for one in served if "/" not in one.name)
