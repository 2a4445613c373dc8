"""For which gateway, and with what is said on the command line."""

from dataclasses import dataclass
from enum import StrEnum

from epp.compiler.intent import GatewayRef


class Target(StrEnum):
    """Gateways that differ in the objects they want."""

    ENVOY_AI_GATEWAY_0_7 = "envoy-ai-gateway-0.7"
    ENVOY_AI_GATEWAY_1_1 = "envoy-ai-gateway-1.1"
    AGENTGATEWAY = "agentgateway"
    GATEWAY_API = "gateway-api"

    @property
    def is_envoy_ai_gateway(self) -> bool:
        """Whichever version."""
        return self in {Target.ENVOY_AI_GATEWAY_0_7, Target.ENVOY_AI_GATEWAY_1_1}

    @property
    def product(self) -> str:
        """Without the version: who upgrades a gateway goes on with what is there."""
        return "envoy-ai-gateway" if self.is_envoy_ai_gateway else self.value


AI_MODEL_HEADER = "x-ai-eg-model"
"""In which Envoy AI Gateway has the model, which it reads out of the body."""


@dataclass(frozen=True, slots=True)
class Options:
    """``gateway``: of objects that name none. ``picker``: the label ``inferencepool`` of its pods, which run
    in each pool's namespace; their Service is ours to make, see ``picker_service``.

    ``inventory``: which of several
    compilers of one cluster made an object. ``namespace``: of objects in files that name none.
    ``is_live``: objects are of a cluster, so that what is not there is missing. ``sees_gateways``: Gateways
    at least are all there. ``model_header``: in which a gateway is told the model; agentgateway sets it from
    the body, before others a body-based router does, or the client. Envoy AI Gateway has its own. ``claim``:
    LLMKube's objects in a cluster are ours even without the annotation.
    """

    target: Target
    gateway: GatewayRef | None = None
    picker: str = "fleet-epp"
    inventory: str = "default"
    namespace: str = "default"
    is_live: bool = False
    sees_gateways: bool = False
    model_header: str = "x-gateway-model-name"
    claim: bool = False

    @property
    def routed_by(self) -> str:
        """The header that a rule's models are compared with, in lower case."""
        return AI_MODEL_HEADER if self.target.is_envoy_ai_gateway else self.model_header.lower()

    @property
    def picker_service(self) -> str:
        """Whose ports are the pools'; a picker serves it with ``--pool-service``."""
        return f"{self.picker}-pools"
