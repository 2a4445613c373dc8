"""LLMKube's objects, as far as a gateway needs them.

Place:   made by the readers beside it out of documents.
Rule:    a null is an absent field. What has the wrong type is Unreadable, with the field. Fields that LLMKube
         has and no gateway needs are only named (``unread``), so that what is misspelt can be told.
Source:  CRDs of inference.llmkube.dev/v1alpha1 as of v0.9.19; discovery.k8s.io/v1.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeAlias, TypeVar

import msgspec

Name: TypeAlias = Annotated[str, msgspec.Meta(pattern="^[a-z0-9][a-z0-9-]{0,62}$")]
Port: TypeAlias = Annotated[int, msgspec.Meta(ge=1, le=65535)]
Positive: TypeAlias = Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]
Weight: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]


class Unreadable(ValueError):
    """A part of an object is not what it has to be. ``field``: as in ``spec.rules[2].match``."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class Part(msgspec.Struct, frozen=True, kw_only=True, rename="camel", gc=False):
    """Some fields of an object. ``unread``: the others."""

    unread: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def known(cls) -> frozenset[str]:
        """Every field that there is."""
        return cls.unread.union(cls.__struct_encode_fields__)


class Whole(Part, frozen=True):
    """What every object has."""

    unread = frozenset({"apiVersion", "kind", "metadata", "spec", "status"})


Kind = TypeVar("Kind", bound=Part)


def decode(kind: type[Kind], content: Any, field: str) -> Kind:
    """``content`` is that of ``field``. Unreadable when something in it has the wrong type."""
    try:
        return msgspec.convert({} if content is None else content, kind)
    except msgspec.ValidationError as fault:
        message, _, path = str(fault).replace(" | null", "").partition(" - at ")
        below = re.sub(r"^(key in )?`\$|`$", "", path)
        raise Unreadable(f"{field}{below}".lstrip("."), message[:1].lower() + message[1:]) from None


def unknown(
    part: Part, content: Mapping[str, Any] | None, field: str
) -> Iterator[tuple[type[Part], str, str]]:
    """Fields in ``content``, of which ``part`` was read, that there are not: of what, where, and the name."""
    given = content or {}
    yield from ((type(part), field, str(name)) for name in given if name not in part.known())
    for name, written in zip(part.__struct_fields__, part.__struct_encode_fields__, strict=True):
        value, below = getattr(part, name), f"{field}.{written}"
        if isinstance(value, Part):
            yield from unknown(value, given[written], below)
        elif isinstance(value, list):
            for index, (one, raw) in enumerate(zip(value, given[written], strict=True)):
                if isinstance(one, Part):
                    yield from unknown(one, raw, f"{below}[{index}]")


# --- InferenceService and Model ------------------------------------------------------------------------


class GatewayRef(Part, frozen=True):
    """A Gateway."""

    name: str = ""
    namespace: str | None = None


class Exposure(Part, frozen=True):
    """``spec.endpoint.gateway`` of an InferenceService."""

    enabled: bool | None = None
    gateway_ref: GatewayRef | None = None
    model_name: str | None = None


class Endpoint(Part, frozen=True):
    """Where a service is reached."""

    unread = frozenset({"nodePort", "path", "type"})
    port: Port | None = None
    gateway: Exposure | None = None


class _HttpGet(Part, frozen=True):
    unread = frozenset({"host", "httpHeaders", "port", "scheme"})
    path: str | None = None


class _Probe(Part, frozen=True):
    unread = frozenset(
        "exec failureThreshold grpc initialDelaySeconds periodSeconds successThreshold tcpSocket "
        "terminationGracePeriodSeconds timeoutSeconds".split()
    )
    http_get: _HttpGet | None = None


class _Probes(Part, frozen=True):
    unread = frozenset({"liveness", "startup"})
    readiness: _Probe | None = None


class Service(Part, frozen=True):
    """The spec of an InferenceService."""

    unread = frozenset(
        "affinity args autoscaling batchSize bindAddress cacheTypeCustomK cacheTypeCustomV cacheTypeK "
        "cacheTypeV command contextSize disruption env evictionProtection extraArgs extraVolumeMounts "
        "extraVolumes flashAttention hotCacheMaxSize image imagePullSecrets jinja "
        "maxPodLifetimeIdleTimeoutSeconds maxPodLifetimeSeconds metadataOverrides mode modelCache "
        "moeCPULayers moeCPUOffload noKvOffload noWarmup nodeSelector pagedSSDCacheDir pagedSSDCacheMaxSize "
        "parallelSlots personaPlexConfig podAnnotations podLabels podSecurityContext priority "
        "priorityClassName reasoningBudget reasoningBudgetMessage replicas resources revisionHistoryLimit "
        "rolloutPolicy ropeScaling runtimeClassName securityContext sglangConfig skipModelInit slo "
        "speculativeDecoding suspend tensorOverrides tgiConfig tolerations "
        "topologySpreadConstraints turboQuantBits uBatchSize vllmConfig".split()
    )
    model_ref: str | None = None
    runtime: str | None = None
    endpoint: Endpoint | None = None
    container_port: Port | None = None
    probe_overrides: _Probes | None = None

    @property
    def port(self) -> int:
        """Of its Kubernetes Service; for pods that is not where they listen."""
        return (self.endpoint and self.endpoint.port) or 8080

    @property
    def probe_path(self) -> str:
        """Which it asks for instead of its runtime's; empty: it does not say."""
        probe = self._readiness
        return (probe and probe.http_get and probe.http_get.path) or ""

    @property
    def has_other_probe(self) -> bool:
        """It is probed by something else than HTTP, so its runtime's path need not be there."""
        return self._readiness is not None and self._readiness.http_get is None

    @property
    def _readiness(self) -> _Probe | None:
        return self.probe_overrides.readiness if self.probe_overrides is not None else None


class ServiceStatus(Part, frozen=True):
    """The status of an InferenceService."""

    phase: str | None = None
    scheduling_status: str | None = None
    ready_replicas: int | None = None


class _Hardware(Part, frozen=True):
    unread = frozenset({"gpu", "memoryBudget", "memoryFraction"})
    accelerator: str | None = None


class Model(Part, frozen=True):
    """The spec of a Model."""

    unread = frozenset(
        "files format mmproj prefetch prefetchTolerations quantization refreshPolicy resources sha256 source "
        "sourceSecretRef".split()
    )
    hardware: _Hardware | None = None

    @property
    def is_metal(self) -> bool:
        """It runs on a Mac, which nothing but its Model says."""
        return self.hardware is not None and self.hardware.accelerator == "metal"


class Ref(Part, frozen=True):
    """An InferenceService."""

    name: str = ""
    namespace: str | None = None
    """Not LLMKube's: people write it, and it has no effect."""


class _Member(Part, frozen=True):
    inference_service_ref: Ref | None = None


class ModelPool(Part, frozen=True):
    """The spec of a ModelPool."""

    unread = frozenset({"default", "gpu", "nodeSelector", "swapBudget", "swapPolicy"})
    members: list[_Member] | None = None


# --- EndpointSlice -------------------------------------------------------------------------------------


class _Conditions(Part, frozen=True):
    ready: bool | None = None


class _SliceEndpoint(Part, frozen=True):
    conditions: _Conditions | None = None


class _SlicePort(Part, frozen=True):
    name: str | None = None
    port: Port | None = None


class Slice(Part, frozen=True):
    """What a metal agent says of its one process."""

    endpoints: list[_SliceEndpoint] | None = None
    ports: list[_SlicePort] | None = None

    @property
    def is_ready(self) -> bool:
        """Unset means ready."""
        states = [one.conditions for one in self.endpoints or ()]
        return any(state is None or state.ready is not False for state in states)

    @property
    def port(self) -> int | None:
        """Of its process."""
        ports = sorted(self.ports or (), key=lambda one: one.name != "http")
        return next((one.port for one in ports if one.port is not None), None)


# --- ModelRouter ---------------------------------------------------------------------------------------


class _SecretRef(Part, frozen=True):
    name: str = ""


class External(Part, frozen=True):
    """A server that is not LLMKube's."""

    provider: Literal["anthropic", "openai", "bedrock", "vertex_ai", "litellm"]
    model: str
    url: str | None = None
    credentials_secret_ref: _SecretRef | None = None


class _HealthCheck(Part, frozen=True):
    unread = frozenset({"intervalSeconds", "timeoutSeconds"})
    path: str | None = None


class Backend(Part, frozen=True):
    """One choice of a router."""

    unread = frozenset({"costPerMillionTokens"})
    name: Name
    display_name: str | None = None
    inference_service_ref: Ref | None = None
    external: External | None = None
    tier: Literal["local", "cloud"] | None = None
    capabilities: list[str] | None = None
    weight: Weight | None = None
    health_check: _HealthCheck | None = None
    timeout: str | None = None
    resolution: Literal["service", "endpoint"] | None = None


class Match(Part, frozen=True):
    """When a rule is meant; all of it must hold."""

    data_classification: list[str] | None = None
    task_complexity: Literal["simple", "moderate", "complex"] | None = None
    required_capabilities: list[str] | None = None
    latency_slo_ms: Positive | None = msgspec.field(default=None, name="latencySLOMs")
    headers: dict[str, str] | None = None
    models: list[str] | None = None


class Route(Part, frozen=True):
    """Where a rule leads."""

    backends: list[str] | None = None
    strategy: Literal["primary-fallback", "weighted", "shadow"] | None = None


class Rule(Part, frozen=True):
    """The first that matches decides."""

    name: Name
    match: Match | None = None
    route: Route | None = None
    fail_closed: bool | None = None
    timeout: str | None = None


class Budget(Part, frozen=True):
    """Tokens within a window."""

    name: Name
    scope: str
    rule_name: str | None = None
    header_key: str | None = None
    window_seconds: Positive | None = None
    max_tokens: Positive | None = None
    max_usd: str | None = msgspec.field(default=None, name="maxUSD")


class Classification(Part, frozen=True):
    """How it is known what a request contains."""

    mode: Literal["header-only", "detector", "hybrid"] | None = None
    header_key: str | None = None
    sensitive_classifications: list[str] | None = None


class AuditLog(Part, frozen=True):
    """Where a line for each request goes."""

    unread = frozenset({"filePath"})
    sink: Literal["stdout", "file", "otlp"] | None = None
    include_request_body: bool | None = None


class Jwt(Part, frozen=True):
    """Whose tokens are accepted."""

    provider: str | None = None
    issuer: str | None = None
    jwks_uri: str | None = msgspec.field(default=None, name="jwksURI")
    team_claim: str | None = None
    header_key: str | None = None


class Allowlist(Part, frozen=True):
    """The models that a team may ask for."""

    team: str | None = None
    models: list[str] | None = None


class Auth(Part, frozen=True):
    """Who may ask."""

    jwt: Jwt | None = None
    allowlists: list[Allowlist] | None = None


class Policy(Part, frozen=True):
    """What is asked of all requests."""

    budgets: list[Budget] | None = None
    classification: Classification | None = None
    audit_log: AuditLog | None = None
    auth: Auth | None = None


class _McpServer(Part, frozen=True):
    enabled: bool | None = None


class RouterHead(Part, frozen=True):
    """Of a ModelRouter, what says whether the rest is read at all."""

    unread = frozenset(
        "backends defaultRoute defaultRouteStrategy endpoint gatewayRef mcpServer policy proxy rules".split()
    )

    data_plane: str | None = None


class Proxy(Part, frozen=True):
    """Of LLMKube's own proxy: what it says about requests, not about pods."""

    unread = frozenset(
        "image imagePullSecrets nodeSelector quarantineDuration replicas resources "
        "revisionHistoryLimit".split()
    )
    response_header_timeout: str | None = None


class ModelRouter(RouterHead, frozen=True):
    """The spec of a ModelRouter."""

    unread = frozenset({"endpoint"})
    gateway_ref: GatewayRef | None = None
    backends: list[Backend] | None = None
    rules: list[Rule] | None = None
    default_route: str | None = None
    default_route_strategy: Literal["Static", "BackendNameMatch"] | None = None
    policy: Policy | None = None
    proxy: Proxy | None = None
    mcp_server: _McpServer | None = None
