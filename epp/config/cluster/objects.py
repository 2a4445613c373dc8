"""What is read of each kind of Kubernetes objects, and what they are to each other.

Place:   decoded by epp.runtime.kubernetes.store out of the API's JSON; read by the rest of this package.
Ignores: what follows from it.
Source:  InferencePool v1 and v1alpha2, InferenceObjective and InferenceModelRewrite v1alpha2, core v1,
         discovery.k8s.io v1, inference.llmkube.dev v1alpha1.

Only the fields that count are decoded; msgspec leaves the rest of an object unread.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import msgspec

from epp.config.cluster.groups import POOL_GROUP

SLICES_ANNOTATION = "fleet-epp.dev/endpoint-slices"
"""Annotation of a pool: which EndpointSlices beside its pods belong to it, as a label selector."""
LLMKUBE_OF_SLICE = "llmkube.ai/inference-service"
LLMKUBE_OF_POD = "inference.llmkube.dev/service"
SERVICE_OF_SLICE = "kubernetes.io/service-name"


class _Object(msgspec.Struct, frozen=True, kw_only=True, rename="camel", gc=False):
    """Part of an object. Absent and null are the same in Kubernetes, where a field may be either."""


class Meta(_Object, frozen=True):
    """Which object it is."""

    name: str
    namespace: str = ""
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    resource_version: str = ""
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None

    def said(self, key: str) -> str:
        """What a label says, or an annotation; empty: neither does."""
        return ((self.labels or {}).get(key) or (self.annotations or {}).get(key) or "").strip()


class Condition(_Object, frozen=True):
    """One line of a status."""

    type: str
    status: str = ""
    reason: str = ""
    message: str = ""
    last_transition_time: str | None = None


class _TargetPort(_Object, frozen=True):
    number: int


class _Selector(_Object, frozen=True):
    match_labels: dict[str, str] | None = None


class _PickerPort(_Object, frozen=True):
    number: int = 0


class PickerRef(_Object, frozen=True):
    """Who picks for a pool. An old pool has ``portNumber`` where a newer one has ``port.number``."""

    name: str
    group: str = ""
    kind: str = "Service"
    port: _PickerPort | None = None
    port_number: int | None = None

    @property
    def is_service(self) -> bool:
        return (self.group, self.kind) == ("", "Service")

    @property
    def service_port(self) -> int:
        """Of the Service, where gateways ask; 0: it does not say."""
        return self.port.number if self.port is not None else self.port_number or 0


class _PoolSpec(_Object, frozen=True):
    selector: _Selector
    target_ports: list[_TargetPort]
    endpoint_picker_ref: PickerRef | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Members:
    """Which pods belong to a pool, and where they are served: the same of every kind of pool."""

    name: str
    namespace: str
    labels: Mapping[str, str] = field(default_factory=dict)
    """That a pod must have; the selector of a pool."""
    selector: str
    """The same as the API wants it, or what a person has written; empty: it selects none."""
    ports: tuple[int, ...]
    """As they are written: a port that is there twice is."""
    slices: str = ""
    """The label selector of EndpointSlices that belong to it as well; empty: none do."""
    picker: PickerRef | None = None


class Pool(_Object, frozen=True):
    """InferencePool, v1."""

    metadata: Meta
    spec: _PoolSpec

    @property
    def members(self) -> Members:
        spec = self.spec
        ports = tuple(port.number for port in spec.target_ports)
        return _members(self.metadata, spec.selector.match_labels or {}, ports, spec.endpoint_picker_ref)


class _OldPoolSpec(_Object, frozen=True):
    selector: dict[str, str]
    target_port_number: int
    extension_ref: PickerRef | None = None


class OldPool(_Object, frozen=True):
    """InferencePool, v1alpha2 of the group before."""

    metadata: Meta
    spec: _OldPoolSpec

    @property
    def members(self) -> Members:
        spec = self.spec
        return _members(self.metadata, spec.selector, (spec.target_port_number,), spec.extension_ref)


def _members(
    meta: "Meta", labels: Mapping[str, str], ports: tuple[int, ...], picker: PickerRef | None
) -> Members:
    return Members(
        name=meta.name,
        namespace=meta.namespace,
        labels=labels,
        selector=",".join(f"{key}={value}" for key, value in sorted(labels.items())),
        ports=ports,
        slices=((meta.annotations or {}).get(SLICES_ANNOTATION) or "").strip(),
        picker=picker,
    )


# --- what is asked of requests -----------------------------------------------------------------------


class PoolRef(_Object, frozen=True):
    """Which pool an object is about."""

    name: str
    group: str = POOL_GROUP
    kind: str = "InferencePool"


class _ObjectiveSpec(_Object, frozen=True):
    pool_ref: PoolRef
    priority: int | None = None


class Objective(_Object, frozen=True):
    """InferenceObjective."""

    metadata: Meta
    spec: _ObjectiveSpec


class ModelMatch(_Object, frozen=True):
    """A condition on the model that a client asks for."""

    value: str
    type: str = "Exact"


class _Match(_Object, frozen=True):
    model: ModelMatch | None = None


class RewriteTarget(_Object, frozen=True):
    """A model to ask for instead, and its share."""

    model_rewrite: str
    weight: int | None = None


class RewriteRule(_Object, frozen=True):
    """What one rule of a rewrite says; without a match it is about every model."""

    matches: list[_Match] | None = None
    targets: list[RewriteTarget] | None = None


class _RewriteSpec(_Object, frozen=True):
    pool_ref: PoolRef
    rules: list[RewriteRule]


class Rewrite(_Object, frozen=True):
    """InferenceModelRewrite."""

    metadata: Meta
    spec: _RewriteSpec


# --- who serves --------------------------------------------------------------------------------------


class ServicePort(_Object, frozen=True):
    """Where a Service leads from one of its ports; the target may be the name of a container's port."""

    port: int
    target_port: int | str | None = None


class _PickerServiceSpec(_Object, frozen=True):
    ports: list[ServicePort] | None = None


class Service(_Object, frozen=True):
    """Service, one that pools name as their picker."""

    metadata: Meta
    spec: _PickerServiceSpec = _PickerServiceSpec()


class _Stage(_Object, frozen=True):
    reason: str = ""
    message: str = ""
    exit_code: int | None = None


class _State(_Object, frozen=True):
    waiting: _Stage | None = None
    terminated: _Stage | None = None


class Container(_Object, frozen=True):
    """Container of a pod, as its status has it."""

    name: str
    ready: bool = False
    state: _State = _State()


class _PodStatus(_Object, frozen=True):
    phase: str = ""
    pod_ip: str | None = msgspec.field(default=None, name="podIP")
    host_ip: str | None = msgspec.field(default=None, name="hostIP")
    conditions: list[Condition] | None = None
    container_statuses: list[Container] | None = None
    init_container_statuses: list[Container] | None = None


class Pod(_Object, frozen=True):
    """Pod."""

    metadata: Meta
    status: _PodStatus = _PodStatus()

    @property
    def serves(self) -> bool:
        """It is Ready, and nobody has told it to stop."""
        if self.metadata.deletion_timestamp is not None:
            return False
        return any(one.type == "Ready" and one.status == "True" for one in self.status.conditions or ())


class Conditions(_Object, frozen=True):
    """What a slice says of one of its backends; unset means ready."""

    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class _Target(_Object, frozen=True):
    kind: str = ""
    name: str = ""


class Backend(_Object, frozen=True):
    """One server of a slice."""

    addresses: list[str] = []
    conditions: Conditions = Conditions()
    hostname: str | None = None
    target_ref: _Target | None = None

    @property
    def pod(self) -> str:
        """The name of the pod that it is; empty: it is none."""
        target = self.target_ref
        return target.name if target is not None and target.kind == "Pod" else ""


class SlicePort(_Object, frozen=True):
    """Port of all backends of a slice."""

    name: str | None = None
    port: int | None = None
    protocol: str | None = None


class Slice(_Object, frozen=True):
    """EndpointSlice."""

    metadata: Meta
    address_type: str = ""
    endpoints: list[Backend] | None = None
    ports: list[SlicePort] | None = None

    @property
    def service(self) -> str:
        """The Service whose endpoints it lists."""
        return (self.metadata.labels or {}).get(SERVICE_OF_SLICE) or self.metadata.name


class _ServiceSpec(_Object, frozen=True):
    model_ref: str = ""


class _ServiceStatus(_Object, frozen=True):
    phase: str = ""
    scheduling_status: str = ""
    queue_position: int = 0
    conditions: list[Condition] | None = None


class InferenceService(_Object, frozen=True):
    """LLMKube's InferenceService."""

    metadata: Meta
    spec: _ServiceSpec = _ServiceSpec()
    status: _ServiceStatus = _ServiceStatus()


class _ModelStatus(_Object, frozen=True):
    phase: str = ""


class Model(_Object, frozen=True):
    """LLMKube's Model."""

    metadata: Meta
    status: _ModelStatus = _ModelStatus()


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """What is known of one pool, of one namespace."""

    pool: Members | None = None
    """None: there is none of this name."""
    neighbours: Collection[Members] = ()
    """The pools of its namespace that another process serves."""
    has_picker_service: bool = True
    """The Service that the pool names is there, or nobody knows."""
    pods: Collection[Pod] = ()
    """Those that it selects."""
    slices: Collection[Slice] = ()
    """Those that its annotation selects."""
    services: Mapping[str, InferenceService] = field(default_factory=dict)
    models: Mapping[str, Model] = field(default_factory=dict)

    @property
    def is_llmkube(self) -> bool:
        """Some of its servers are LLMKube's, which has more to say of them."""
        pods = any(LLMKUBE_OF_POD in (pod.metadata.labels or {}) for pod in self.pods)
        return pods or any(LLMKUBE_OF_SLICE in (one.metadata.labels or {}) for one in self.slices)
