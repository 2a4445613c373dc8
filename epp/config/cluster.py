"""Kubernetes objects of one pool to endpoints, without a cluster.

Place:   called by epp.runtime.kubernetes with the objects as they are now; what comes out goes to the fleet.
Ignores: how objects are followed, and whether a server answers.
Rule:    a function of the objects and the time. An object says less than it should: its endpoint is left
         out or said to wait, with a finding; the others stay. Nothing that a dead manager may have left
         behind (an old heartbeat) takes an endpoint out of service: only looking at the server can tell.
Source:  InferencePool v1, core v1, discovery.k8s.io v1, inference.llmkube.dev v1alpha1; LLMKube's metal agent
         writes one EndpointSlice for each service that runs on a Mac, named as the service.

Only the fields that count are decoded; msgspec leaves the rest of an object unread.
"""

import datetime as dt
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import msgspec

from epp.config.endpoints_file import LAST_TIER, TIER_LABEL, read_tier
from epp.core.addresses import read_host
from epp.core.fleet import EndpointSpec
from epp.core.listing import named_apart

SLICES_ANNOTATION = "fleet-epp.dev/endpoint-slices"
"""Annotation of a pool: which EndpointSlices beside its pods belong to it, as a label selector."""
ENGINE = "fleet-epp.dev/engine"
"""Label or annotation of a pod or slice: its engine."""
HEARTBEAT = "llmkube.ai/agent-heartbeat"
"""Annotation of a slice: when its metal agent was last there, RFC 3339."""
SERVICE_OF_SLICE = "kubernetes.io/service-name"
LLMKUBE_OF_SLICE = "llmkube.ai/inference-service"
LLMKUBE_OF_POD = "inference.llmkube.dev/service"
LLMKUBE_RUNTIME = "inference.llmkube.dev/runtime"
RUNTIMES = {"llamacpp-router": "llamacpp"}
"""LLMKube's names for engines that we call otherwise."""

HEARTBEAT_TIMEOUT = 180.0
"""[s] LLMKube's own: the agent beats every 30 s."""
PRESSURE_HOLDS = 600.0
"""[s] The agent never takes a warning back (it tells of Warning and above only): an old one says nothing."""
LONGEST = 200
"""Characters of a message from the cluster."""


# --- the objects, as far as they count ---------------------------------------------------------------


class _Object(msgspec.Struct, frozen=True, kw_only=True, rename="camel", gc=False):
    """Part of an object. Absent and null are the same in Kubernetes, where a field may be either."""


class Meta(_Object, frozen=True):
    """Which object it is."""

    name: str
    namespace: str = ""
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    resource_version: str = ""
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


class _PoolSpec(_Object, frozen=True):
    selector: _Selector
    target_ports: list[_TargetPort]


class Pool(_Object, frozen=True):
    """InferencePool."""

    metadata: Meta
    spec: _PoolSpec

    @property
    def pods(self) -> str:
        """The label selector of its pods; empty: it selects none."""
        labels = self.spec.selector.match_labels or {}
        return ",".join(f"{key}={value}" for key, value in sorted(labels.items()))

    @property
    def slices(self) -> str:
        """The label selector of EndpointSlices that belong to it as well; empty: none do."""
        return ((self.metadata.annotations or {}).get(SLICES_ANNOTATION) or "").strip()


class _Stage(_Object, frozen=True):
    reason: str = ""
    message: str = ""
    exit_code: int | None = None


class _State(_Object, frozen=True):
    waiting: _Stage | None = None
    terminated: _Stage | None = None


class _Container(_Object, frozen=True):
    name: str
    ready: bool = False
    state: _State = _State()


class _PodStatus(_Object, frozen=True):
    phase: str = ""
    pod_ip: str | None = msgspec.field(default=None, name="podIP")
    conditions: list[Condition] | None = None
    container_statuses: list[_Container] | None = None
    init_container_statuses: list[_Container] | None = None


class Pod(_Object, frozen=True):
    """Pod."""

    metadata: Meta
    status: _PodStatus = _PodStatus()


class _Conditions(_Object, frozen=True):
    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class _Target(_Object, frozen=True):
    kind: str = ""
    name: str = ""


class _Backend(_Object, frozen=True):
    addresses: list[str] = []
    conditions: _Conditions = _Conditions()
    hostname: str | None = None
    target_ref: _Target | None = None

    @property
    def pod(self) -> str:
        """The name of the pod that it is; empty: it is none."""
        target = self.target_ref
        return target.name if target is not None and target.kind == "Pod" else ""


class _SlicePort(_Object, frozen=True):
    name: str | None = None
    port: int | None = None
    protocol: str | None = None


class Slice(_Object, frozen=True):
    """EndpointSlice."""

    metadata: Meta
    address_type: str = ""
    endpoints: list[_Backend] | None = None
    ports: list[_SlicePort] | None = None

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

    pool: Pool | None = None
    """None: there is none of this name."""
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Translation:
    """The endpoints of a pool."""

    specs: tuple[EndpointSpec, ...]
    waiting: tuple[str, ...] = ()
    """Servers without an address yet, and why."""
    findings: tuple[str, ...] = ()
    """What cannot be used, each with its object and its remedy."""
    due: float = math.inf
    """When time alone makes another translation [unix s]."""


# --- the translation ---------------------------------------------------------------------------------


def translate(cluster: Cluster, now: float, *, engines: Collection[str] = ()) -> Translation:
    """The endpoints at ``now`` [unix s]. ``engines``: the names that there are; empty: any."""
    if cluster.pool is None:
        return Translation(specs=())
    work = _Work(cluster, now, engines)
    found = [*work.of_pods(cluster.pool), *work.of_slices()]
    return Translation(
        specs=tuple(named_apart(_once_each(found))),
        waiting=tuple(work.waiting),
        findings=tuple(dict.fromkeys(work.findings)),
        due=work.due,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    spec: EndpointSpec
    rank: tuple[bool, ...]
    """Of several at one address the lowest is the endpoint."""
    pod: str = ""
    """The pod that it is, or that a slice means; empty: the slice means none that is known."""
    is_word: bool = True
    """What it says counts for whoever is at its address."""


class _Work:
    """One translation."""

    def __init__(self, cluster: Cluster, now: float, engines: Collection[str]) -> None:
        self.waiting: list[str] = []
        self.findings: list[str] = []
        self.due = math.inf
        self._cluster = cluster
        self._now = now
        self._engines = engines
        self._pods = {pod.metadata.name for pod in cluster.pods}

    # --- pods

    def of_pods(self, pool: Pool) -> Iterator[_Found]:
        """One for each target port of a pod that has an address, ready or not."""
        ports = list(dict.fromkeys(port.number for port in pool.spec.target_ports))
        for pod in sorted(self._cluster.pods, key=lambda pod: pod.metadata.name):
            if pod.status.phase in {"Succeeded", "Failed"}:
                continue  # its containers have ended for good
            meta = pod.metadata
            note, pressure = self._llmkube((meta.labels or {}).get(LLMKUBE_OF_POD, ""))
            unready = _why_not_ready(pod)
            why = "; ".join(filter(None, (unready, note)))
            ip = self._address(f"pod {meta.name}", pod.status.pod_ip) if pod.status.pod_ip else None
            if ip is None:
                if meta.deletion_timestamp is None:
                    self.waiting.append(f"pod {meta.name}: {why or 'it has no address'}")
                continue
            for rank, port in enumerate(ports):
                yield _Found(
                    spec=EndpointSpec(
                        name=f"{meta.name}-rank-{rank}",
                        namespace=meta.namespace,
                        ip=ip,
                        port=port,
                        labels=meta.labels or {},
                        engine=self._engine(f"pod {meta.name}", meta),
                        tier=self._tier(f"pod {meta.name}", meta),
                        hold=f"pod is not ready: {why}" if unready else "",
                        leaving="pod is terminating" if meta.deletion_timestamp else "",
                        pressure=pressure,
                        note=note,
                    ),
                    # two pods are two servers: whoever serves has the address
                    rank=(False, meta.deletion_timestamp is not None, bool(unready)),
                    pod=meta.name,
                    is_word=False,
                )

    # --- slices

    def of_slices(self) -> Iterator[_Found]:
        """One for each backend and port of a slice."""
        for one in sorted(self._cluster.slices, key=lambda one: one.metadata.name):
            if one.address_type == "FQDN":
                self.findings.append(
                    f"EndpointSlice {one.metadata.name}: addressType FQDN is not followed:"
                    " list its host names in an endpoints file"
                )
                continue
            if one.metadata.deletion_timestamp is None:
                yield from self._of_slice(one)

    def _of_slice(self, one: Slice) -> Iterator[_Found]:
        meta = one.metadata
        where = f"EndpointSlice {meta.name}"
        late = self._heartbeat(where, meta)
        note, pressure = self._llmkube((meta.labels or {}).get(LLMKUBE_OF_SLICE, ""))
        ports = _ports(one.ports or ())
        backends = one.endpoints or []
        for backend in backends:
            ip = self._address(where, backend.addresses[0]) if backend.addresses else None
            if ip is None:
                continue
            own = _own_name(one, backend, ip, is_alone=len(backends) == 1)
            for port, number in ports:
                yield _Found(
                    spec=EndpointSpec(
                        name=own if len(ports) == 1 else f"{own}-{port or number}",
                        namespace=meta.namespace,
                        ip=ip,
                        port=number,
                        labels=meta.labels or {},
                        engine=self._engine(where, meta),
                        tier=self._tier(where, meta),
                        identity=f"{one.service}/{own}/{port}",
                        hold=_hold(where, backend.conditions),
                        leaving=f"{where} says terminating" if backend.conditions.terminating else "",
                        pressure=pressure,
                        note=_all_of((note, late)),
                    ),
                    rank=(True, bool(late)),
                    pod=backend.pod if backend.pod in self._pods else "",
                    is_word=not late,
                )

    def _heartbeat(self, where: str, meta: Meta) -> str:
        """What an agent that has not been there for long means for its servers; empty: nothing."""
        written = (meta.annotations or {}).get(HEARTBEAT)
        if written is None:
            return ""
        at = _unix(written)
        if at is None:
            self.findings.append(f"{where}: annotation {HEARTBEAT} is no time: {written[:LONGEST]!a}")
            return ""
        if self._now - at >= HEARTBEAT_TIMEOUT:
            return f"no heartbeat of its agent since {written}"
        self.due = min(self.due, at + HEARTBEAT_TIMEOUT)
        return ""

    # --- what both have

    def _llmkube(self, service: str) -> tuple[str, str]:
        """What LLMKube says of a service: why it does not serve, and its warning of memory."""
        known = self._cluster.services.get(service)
        if known is None:
            return "", ""
        return _progress(known, self._cluster.models.get(known.spec.model_ref)), self._pressure(known)

    def _pressure(self, service: InferenceService) -> str:
        for condition in service.status.conditions or ():
            warns = condition.reason in {"Warning", "Critical"} and condition.status != "False"
            if condition.type != "MemoryPressure" or not warns:
                continue
            at = _unix(condition.last_transition_time or "")
            if at is not None and self._now - at < PRESSURE_HOLDS:
                self.due = min(self.due, at + PRESSURE_HOLDS)
                return f"memory pressure {condition.reason} since {condition.last_transition_time}"
        return ""

    def _address(self, where: str, written: str) -> str | None:
        try:
            ip, is_literal = read_host(written)
        except ValueError as fault:
            self.findings.append(f"{where}: address {fault}")
            return None
        if not is_literal:
            self.findings.append(f"{where}: {written[:LONGEST]} is no IP address")
        return ip if is_literal else None

    def _engine(self, where: str, meta: Meta) -> str | None:
        """As somebody says, or LLMKube; None: to be found out by looking."""
        said = meta.said(ENGINE)
        runtime = meta.said(LLMKUBE_RUNTIME)
        if said and self._engines and said not in self._engines:
            known = ", ".join(sorted(self._engines))
            self.findings.append(
                f"{where}: {ENGINE} names the unknown engine {said[:LONGEST]!a}: use {known}"
            )
            said = ""
        runtime = RUNTIMES.get(runtime, runtime)
        return said or (runtime if runtime in self._engines else None) or None

    def _tier(self, where: str, meta: Meta) -> int:
        said = meta.said(TIER_LABEL)
        tier = read_tier(said)
        if said and tier is None:
            self.findings.append(
                f"{where}: {TIER_LABEL} must be from 0 to {LAST_TIER}, got {said[:LONGEST]!a}"
            )
        return tier or 0


# --- pods --------------------------------------------------------------------------------------------


def _why_not_ready(pod: Pod) -> str:
    """As a person would say it after ``kubectl describe``; empty: it is ready."""
    status = pod.status
    by_type = {one.type: one for one in status.conditions or ()}
    if "Ready" in by_type and by_type["Ready"].status == "True":
        return ""
    for container in status.init_container_statuses or ():
        if container.ready or _has_done(container):
            continue
        return f"init container {container.name} {_stage(container) or 'has not finished'}"
    for container in status.container_statuses or ():
        if not container.ready:
            return f"container {container.name} {_stage(container) or 'does not pass its readiness probe'}"
    for kind in ("PodScheduled", "Ready"):
        said = by_type.get(kind)
        if said and said.status == "False" and (said.message or said.reason):
            return _short(": ".join(filter(None, (said.reason, said.message))))
    return "its Ready condition is not True"


def _has_done(container: _Container) -> bool:
    ended = container.state.terminated
    return ended is not None and ended.exit_code == 0


def _stage(container: _Container) -> str:
    state = container.state
    if state.waiting is not None:
        return f"waits: {_short(state.waiting.reason or state.waiting.message or 'no reason given')}"
    if state.terminated is not None:
        return f"has ended: {_short(state.terminated.reason or f'status {state.terminated.exit_code}')}"
    return ""


# --- slices ------------------------------------------------------------------------------------------


def _ports(ports: Iterable[_SlicePort]) -> list[tuple[str, int]]:
    """Name and number of those where requests go: all over TCP; where some are named ``http``, only these."""
    tcp = [(port.name or "", port.port) for port in ports if port.protocol in {None, "", "TCP"}]
    usable = [(name, number) for name, number in tcp if number is not None]
    return [one for one in usable if one[0] == "http" or one[0].startswith("http-")] or usable


def _own_name(one: Slice, backend: _Backend, ip: str, *, is_alone: bool) -> str:
    """What stays when the server gets another address, as far as the slice says.

    Its host name, that it is the slice's only one, or its pod. Else its address is all that tells it from
    the others: their order means nothing, and whoever writes slices may change it.
    """
    if not backend.hostname and is_alone:
        return one.metadata.name
    return f"{one.metadata.name}-{backend.hostname or backend.pod or ip.replace(':', '-')}"


def _hold(where: str, conditions: _Conditions) -> str:
    """Unset means ready."""
    return f"{where} says not ready" if conditions.ready is False else ""


# --- LLMKube -----------------------------------------------------------------------------------------


def _progress(service: InferenceService, model: Model | None) -> str:
    """What stands between a service and serving; empty: nothing that its status knows of."""
    status = service.status
    if model is not None and model.status.phase not in {"", "Ready"}:
        return f"Model {model.metadata.name} {model.status.phase}"
    if status.phase in {"", "Ready", "Progressing"}:
        return ""
    if status.phase == "WaitingForGPU":
        return f"WaitingForGPU, position {status.queue_position}" if status.queue_position else status.phase
    return f"{status.phase}: {status.scheduling_status}" if status.scheduling_status else status.phase


# --- the list ----------------------------------------------------------------------------------------


def _once_each(found: Iterable[_Found]) -> list[EndpointSpec]:
    """One endpoint for each address: a server that is listed twice would get two shares.

    Pods come before slices, whatever either says: were it the one that serves, the endpoint would be another
    one with every word of "not ready", and lose all that is known of it. A stale slice comes last: its
    address may be another server's by now.
    """
    at: dict[str, list[_Found]] = {}
    for one in found:
        at.setdefault(one.spec.address, []).append(one)
    return [_joined(sorted(those, key=lambda one: one.rank)) for those in at.values()]


def _joined(those: Sequence[_Found]) -> EndpointSpec:
    """The first of ``those``, with what the others say of it."""
    first, *others = those
    words = [one.spec for one in others if one.is_word and one.pod in {"", first.pod}]
    if not words:
        return first.spec
    said = [first.spec, *words]
    return replace(
        first.spec,
        hold=_all_of(one.hold for one in said),
        leaving=_all_of(one.leaving for one in said),
        pressure=_all_of(one.pressure for one in said),
        note=_all_of(one.note for one in said),
    )


# --- words -------------------------------------------------------------------------------------------


def _unix(written: str) -> float | None:
    """A time of RFC 3339 [unix s]; None: it is none."""
    try:
        at = dt.datetime.fromisoformat(written)
        return None if at.tzinfo is None else at.timestamp()
    except (ValueError, OverflowError):
        return None


def _all_of(words: Iterable[str]) -> str:
    return "; ".join(dict.fromkeys(filter(None, words)))


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 1]}…"
