"""An InferenceService as a pool of servers, with what LLMKube knows of their health.

Rule:    pods are found by LLMKube's label and asked at their container's port, Macs by the EndpointSlice of
         their agent; the Service in front of either is another port. A service is down when LLMKube says that
         nothing of it runs, never because its Model is being downloaded anew while its pods serve.
Source:  LLMKube's deployment builder, phases and metal agent (v0.9.19).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from epp.compiler.documents import Document
from epp.compiler.findings import Finding
from epp.compiler.inputs.llmkube.known import Agent, Key, Known
from epp.compiler.inputs.llmkube.objects import Model, Service, ServiceStatus, Unreadable, decode
from epp.compiler.inputs.llmkube.telling import INVALID, Told
from epp.compiler.intent import MOST_PORTS, Pool
from epp.compiler.names import LONGEST, name_of
from epp.compiler.options import Options
from epp.config.cluster.heartbeats import HEARTBEAT

POD_LABEL = "inference.llmkube.dev/service"
METAL_SERVICE_PORT = 8080
"""Of the Service that a metal agent makes, whatever ``spec.endpoint.port`` says."""

_PORTS = {"vllm": 8000, "sglang": 30000, "tgi": 80, "personaplex": 8998}
_DEFAULT_PORT = 8080
_HEALTH = dict.fromkeys(("llamacpp", "llamacpp-router", "vllm", "tgi", "sglang"), "/health")
"""Of runtimes that have one. SGLang's readiness probe asks for /health_generate, which costs a generation."""
_DEFAULT_RUNTIME = "llamacpp"
_DOWN = frozenset({"Suspended", "Stopped", "Failed", "WaitingForGPU", "Creating"})
"""Phases in which nothing serves. Pending is none of them: it is also said while the pods of before serve."""


@dataclass(frozen=True, slots=True)
class Served:
    """An InferenceService. ``health_path``, ``down``: as a Backend has them."""

    spec: Service
    pool: Pool
    health_path: str = ""
    down: str = ""
    shares: str = ""
    """The ModelPool in which it takes turns with others; empty: none."""


class Servers:
    """The pools of all InferenceServices, each read when it is first asked for."""

    def __init__(self, known: Known, options: Options) -> None:
        self._known = known
        self._options = options
        self._specs: dict[Key, Service | None] = {}
        self._served: dict[Key, Served | None] = {}

    def spec(self, key: Key) -> Service | None:
        """None: there is no such service, or it cannot be read, which is told."""
        if key not in self._specs:
            document = self._known.service(key)
            self._specs[key] = None if document is None else self._known.read(Service, document)
        return self._specs[key]

    def get(self, key: Key) -> Served | None:
        """None: there is no such service, or it cannot be read, which is told."""
        if key not in self._served:
            document, spec = self._known.service(key), self.spec(key)
            self._served[key] = self._read(key, document, spec) if document and spec else None
        return self._served[key]

    def _read(self, key: Key, document: Document, spec: Service) -> Served | None:
        known = self._known
        model = known.model((key[0], spec.model_ref or ""))
        inputs = document, spec, model, known.pool(key), self._options.is_live
        return known.ask(_served, *inputs, *known.agents(key))


def _served(
    document: Document, spec: Service, model: Model | None, shares: str, is_live: bool, *agents: Agent
) -> tuple[Served | None, Sequence[Finding]]:
    """With what is to be told of it."""
    told = Told(document.origin, is_live=is_live)
    if len(document.name) > LONGEST:
        told.error(
            INVALID,
            "metadata.name",
            f"{document.name} has {len(document.name)} characters, and pods are found by a label with it",
            f"use at most {LONGEST}",
        )
        return None, told.findings
    down = _down(_status(document, told))
    if _is_metal(spec, model, told, agents):
        down = down or _down_agents(agents, is_live=is_live)
        return Served(spec, _macs(document, agents), "", down, shares), told.findings
    runtime = spec.runtime or _DEFAULT_RUNTIME
    path = spec.probe_path or ("" if spec.has_other_probe else _HEALTH.get(runtime, ""))
    return Served(spec, _pods(document, spec, runtime), path, down, shares), told.findings


def _status(document: Document, told: Told) -> ServiceStatus:
    try:
        return decode(ServiceStatus, document.content.get("status"), "status")
    except Unreadable as fault:
        told.warning("StatusUnreadable", fault.field, f"{fault}: it counts as serving", "correct the field")
        return ServiceStatus()


def _is_metal(spec: Service, model: Model | None, told: Told, agents: Sequence[Agent]) -> bool:
    if model is not None:
        return model.is_metal
    told.warning(
        "ModelNotFound",
        "spec.modelRef",
        f"there is no Model {spec.model_ref or '(none is named)'} that says whether it runs in pods "
        f"or on a Mac; it is taken for {'a Mac, since an agent serves it' if agents else 'pods'}",
        "add the Model",
    )
    return bool(agents)


# --- where ---------------------------------------------------------------------------------------------


def _pods(document: Document, spec: Service, runtime: str) -> Pool:
    written = spec.endpoint and spec.endpoint.port
    port = spec.container_port or written or _PORTS.get(runtime, _DEFAULT_PORT)
    # LLMKube's Service leads to the same number in the pods, so to nothing where they listen at another
    service = f"{_service_name(document.name)}:{spec.port}" if spec.port == port else ""
    return Pool(
        name=name_of(document.name),
        namespace=document.namespace,
        origin=document.origin,
        selector={POD_LABEL: document.name},
        ports=(port,),
        service=service,
    )


def _macs(document: Document, agents: Sequence[Agent]) -> Pool:
    ports = dict.fromkeys(one.slice.port for one in agents if one.slice.port is not None)
    name = _service_name(document.name)
    return Pool(
        name=name_of(document.name),
        namespace=document.namespace,
        origin=document.origin,
        slices=(name,),
        ports=tuple(ports)[:MOST_PORTS] or (_DEFAULT_PORT,),
        service=f"{name}:{METAL_SERVICE_PORT}",
    )


def _service_name(name: str) -> str:
    return name.replace(".", "-")


# --- whether -------------------------------------------------------------------------------------------


def _down(status: ServiceStatus) -> str:
    """Why nothing of it can serve; empty: it may."""
    phase = status.phase or ""
    if phase not in _DOWN or (status.ready_replicas or 0) > 0:
        return ""
    return f"{phase}: {status.scheduling_status}" if status.scheduling_status else phase


def _down_agents(agents: Sequence[Agent], *, is_live: bool) -> str:
    if not agents:
        return "no metal agent has registered it" if is_live else ""
    reasons = [_down_agent(one) for one in agents]
    return reasons[0] if all(reasons) else ""


def _down_agent(agent: Agent) -> str:
    if not agent.slice.is_ready:
        return "its metal agent says not ready"
    if agent.is_late:
        return f"no heartbeat of its metal agent since {agent.document.annotations.get(HEARTBEAT, '')}"
    return ""
