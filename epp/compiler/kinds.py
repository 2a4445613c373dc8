"""Kinds of objects that are read or made: the only list.

Place:   documents.py and emission.py follow it; so do what epp.controller looks at, what it may do in a
         cluster (tools/controller-rbac), and what ``epp lint`` reads.
Rule:    in the order in which they are applied, which is the safe one: nothing is there before what it names,
         and policies before the route that they are for, so that no route is ever served without its policy.
"""

from dataclasses import dataclass
from enum import StrEnum

from epp.compiler.options import Target

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
_AGENT = frozenset({Target.AGENTGATEWAY})
_ROUTED = _EVERY - _ENVOYS
_STANDARD = frozenset({Target.GATEWAY_API})
_SLICED = _EVERY - _AGENT


@dataclass(frozen=True, slots=True)
class Kind:
    """``versions``: the first of them that is served is looked at. ``selector``: of labels; empty: all.

    ``targets``: for which it is looked at and, where its role is MADE, made. ``is_wide``: in no namespace, so
    that who may see one namespace only may not see it. ``is_told``: a part of its status is ours.
    ``is_frozen``: nobody changes one while an input of it has an error (emission.FROZEN).
    """

    name: str
    group: str
    versions: tuple[str, ...]
    role: Role = Role.MADE
    selector: str = ""
    targets: frozenset[Target] = _EVERY
    is_wide: bool = False
    is_told: bool = False
    is_frozen: bool = False


KINDS = (
    Kind("InferenceService", LLMKUBE, ("v1alpha1",), Role.DECLARED, is_told=True),
    Kind("Model", LLMKUBE, ("v1alpha1",), Role.DECLARED),
    Kind("ModelRouter", LLMKUBE, ("v1alpha1",), Role.DECLARED, is_told=True),
    Kind("ModelPool", LLMKUBE, ("v1alpha1",), Role.DECLARED),
    Kind("EndpointSlice", "discovery.k8s.io", ("v1",), Role.DECLARED, "llmkube.ai/inference-service"),
    Kind("GatewayClass", _GATEWAYS, ("v1",), Role.THERE, is_wide=True),
    Kind("Gateway", _GATEWAYS, ("v1",), Role.THERE),
    Kind("Namespace", "", ("v1",), Role.THERE, is_wide=True),
    Kind("ReferenceGrant", _GATEWAYS, ("v1beta1", "v1"), Role.THERE, targets=_ENVOYS),
    Kind("ReferenceGrant", _GATEWAYS, ("v1beta1", "v1"), targets=_ROUTED),
    Kind("EnvoyProxy", _ENVOY, ("v1alpha1",), targets=_ENVOYS),
    Kind("EnvoyExtensionPolicy", _ENVOY, ("v1alpha1",), Role.THERE, targets=_ENVOYS),
    Kind("Service", "", ("v1",)),
    Kind("EndpointSlice", "discovery.k8s.io", ("v1",), Role.MADE, "fleet-epp.dev/inventory", _SLICED),
    Kind("InferencePool", "inference.networking.k8s.io", ("v1",)),
    Kind("InferenceObjective", "llm-d.ai", ("v1alpha2",)),
    Kind("InferenceModelRewrite", "llm-d.ai", ("v1alpha2",), targets=_STANDARD, is_frozen=True),
    Kind("Backend", _ENVOY, ("v1alpha1",), targets=_ENVOYS),
    Kind("AgentgatewayBackend", _AGENTGATEWAY, ("v1alpha1",), targets=_AGENT),
    Kind("AIServiceBackend", _ENVOY_AI, ("v1beta1", "v1alpha1"), targets=_ENVOYS),
    Kind("BackendTLSPolicy", _GATEWAYS, ("v1", "v1alpha3"), targets=_ENVOYS),
    Kind("BackendSecurityPolicy", _ENVOY_AI, ("v1beta1", "v1alpha1"), targets=_ENVOYS),
    Kind("ClientTrafficPolicy", _ENVOY, ("v1alpha1",), targets=_ENVOYS),
    Kind("SecurityPolicy", _ENVOY, ("v1alpha1",), targets=_ENVOYS, is_frozen=True),
    Kind("AgentgatewayPolicy", _AGENTGATEWAY, ("v1alpha1",), targets=_AGENT, is_frozen=True),
    Kind("BackendTrafficPolicy", _ENVOY, ("v1alpha1",), targets=_ENVOYS, is_frozen=True),
    Kind("AIGatewayRoute", _ENVOY_AI, ("v1beta1", "v1alpha1"), targets=_ENVOYS, is_frozen=True),
    Kind("HTTPRoute", _GATEWAYS, ("v1",), targets=_ROUTED, is_frozen=True),
)
"""EndpointSlices change with every pod: only those with a label of LLMKube's or ours are read."""

GROUP_OF = {one.name: one.group for one in KINDS}
"""Whose kind is meant by its name: Istio and Knative have a Gateway and a Service too."""


def kinds_of(target: Target) -> tuple[Kind, ...]:
    """What is looked at for a gateway: of the others' kinds nobody need let us see anything."""
    return tuple(one for one in KINDS if target in one.targets)
