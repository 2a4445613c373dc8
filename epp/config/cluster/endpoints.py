"""Kubernetes objects of one pool to endpoints.

Place:   called by epp.runtime.kubernetes with the objects as they are now; what comes out goes to the fleet.
Ignores: how objects are followed, and whether a server answers.
Rule:    a function of the objects and the time. An object says less than it should: its endpoint is left
         out or said to wait, with a finding; the others stay. Nothing that a dead manager may have left
         behind (an old heartbeat) takes an endpoint out of service: only looking at the server can tell.
Source:  upstream's datastore for pods and active ports; LLMKube's metal agent writes one EndpointSlice for
         each service that runs on a Mac, named as the service.
"""

import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from epp.config.cluster.heartbeats import HEARTBEAT, TIMEOUT, instant, is_late
from epp.config.cluster.neighbourhood import findings
from epp.config.cluster.objects import (
    LLMKUBE_OF_POD,
    LLMKUBE_OF_SLICE,
    Backend,
    Cluster,
    Conditions,
    Container,
    InferenceService,
    Members,
    Meta,
    Model,
    Pod,
    Slice,
    SlicePort,
)
from epp.config.endpoints_file import LAST_TIER, TIER_LABEL, read_tier
from epp.core.addresses import read_host
from epp.core.fleet import EndpointSpec
from epp.core.listing import named_apart

ACTIVE_PORTS = ("llm-d.ai/active-ports", "inference.networking.k8s.io/active-ports")
"""Annotations of a pod, the first that is there counts: on which of the pool's ports it serves."""
ENGINE = "fleet-epp.dev/engine"
"""Label or annotation of a pod or slice: its engine."""
LLMKUBE_RUNTIME = "inference.llmkube.dev/runtime"
RUNTIMES = {"llamacpp-router": "llamacpp"}
"""LLMKube's names for engines that we call otherwise."""

PRESSURE_HOLDS = 600.0
"""[s] The agent never takes a warning back (it tells of Warning and above only): an old one says nothing."""
LONGEST = 200
"""Characters of a message from the cluster."""


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
    work.findings += findings(cluster, cluster.pool)
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

    def of_pods(self, pool: Members) -> Iterator[_Found]:
        """One for each target port of a pod that has an address, ready or not."""
        ranks = {port: rank for rank, port in reversed(list(enumerate(pool.ports)))}
        ports = sorted(ranks, key=ranks.__getitem__)
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
                    if not unready and not pod.status.pod_ip:
                        self.findings.append(f"pod {meta.name}: it is Ready without an address: see its node")
                continue
            for port in self._active_ports(f"pod {meta.name}", meta, ports):
                yield _Found(
                    spec=EndpointSpec(
                        name=f"{meta.name}-rank-{ranks[port]}",
                        namespace=meta.namespace,
                        ip=ip,
                        port=port,
                        node=pod.status.host_ip or "",
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

    def _active_ports(self, where: str, meta: Meta, ports: Sequence[int]) -> Sequence[int]:
        """Those of ``ports`` that the pod's annotation names; all where it has none, or mere rubbish."""
        annotations = meta.annotations or {}
        key = next((key for key in ACTIVE_PORTS if key in annotations), None)
        if key is None:
            return ports
        words = [word.strip() for word in annotations[key].split(",") if word.strip()]
        named = {int(word) for word in words if _is_port(word)}
        rubbish = [word for word in words if not _is_port(word)]
        if rubbish:
            stays = "" if named else "; all of the pool's count"
            self.findings.append(f"{where}: annotation {key}: {rubbish[0][:LONGEST]!a} is no port{stays}")
        if rubbish and not named:
            return ports
        foreign = sorted(named.difference(ports))
        if foreign:
            self.findings.append(
                f"{where}: annotation {key}: {foreign[0]} is none of the pool's target ports"
            )
        return [port for port in ports if port in named]

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
        at = instant(written)
        if at is None:
            self.findings.append(f"{where}: annotation {HEARTBEAT} is no time: {written[:LONGEST]!a}")
            return ""
        if is_late(written, self._now):
            return f"no heartbeat of its agent since {written}"
        self.due = min(self.due, at + TIMEOUT)
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
            at = instant(condition.last_transition_time or "")
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


def _is_port(word: str) -> bool:
    return word.isascii() and word.isdigit() and len(word) <= 5 and 0 < int(word) <= 65535


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


def _has_done(container: Container) -> bool:
    ended = container.state.terminated
    return ended is not None and ended.exit_code == 0


def _stage(container: Container) -> str:
    state = container.state
    if state.waiting is not None:
        return f"waits: {_short(state.waiting.reason or state.waiting.message or 'no reason given')}"
    if state.terminated is not None:
        return f"has ended: {_short(state.terminated.reason or f'status {state.terminated.exit_code}')}"
    return ""


# --- slices ------------------------------------------------------------------------------------------


def _ports(ports: Iterable[SlicePort]) -> list[tuple[str, int]]:
    """Name and number of those where requests go: all over TCP; where some are named ``http``, only these."""
    tcp = [(port.name or "", port.port) for port in ports if port.protocol in {None, "", "TCP"}]
    usable = [(name, number) for name, number in tcp if number is not None]
    return [one for one in usable if one[0] == "http" or one[0].startswith("http-")] or usable


def _own_name(one: Slice, backend: Backend, ip: str, *, is_alone: bool) -> str:
    """What stays when the server gets another address, as far as the slice says.

    Its host name, that it is the slice's only one, or its pod. Else its address is all that tells it from
    the others: their order means nothing, and whoever writes slices may change it.
    """
    if not backend.hostname and is_alone:
        return one.metadata.name
    return f"{one.metadata.name}-{backend.hostname or backend.pod or ip.replace(':', '-')}"


def _hold(where: str, conditions: Conditions) -> str:
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


def _all_of(words: Iterable[str]) -> str:
    return "; ".join(dict.fromkeys(filter(None, words)))


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 1]}…"
