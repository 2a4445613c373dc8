"""What there is of LLMKube, found by name: read once for all routers.

Rule:    only objects of LLMKube's own group count, whatever else is of the same kind.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from epp.compiler.documents import Document, Documents
from epp.compiler.findings import Finding
from epp.compiler.inputs.llmkube.objects import (
    Model,
    ModelPool,
    Part,
    Slice,
    Unreadable,
    Whole,
    decode,
)
from epp.compiler.inputs.llmkube.telling import INVALID, Told
from epp.compiler.kinds import LLMKUBE
from epp.compiler.memory import Call, plainly
from epp.compiler.options import Options
from epp.config.cluster.heartbeats import HEARTBEAT
from epp.config.cluster.heartbeats import is_late as late

Key: TypeAlias = tuple[str, str]
"""Namespace and name."""
Kind = TypeVar("Kind", bound=Part)
Result = TypeVar("Result")

KINDS = ("InferenceService", "Model", "ModelRouter", "ModelPool")
SLICE_LABEL = "llmkube.ai/inference-service"
"""Of a metal agent's EndpointSlice: which service it runs."""


@dataclass(frozen=True, slots=True)
class Agent:
    """A metal agent that runs a service. ``is_late``: nothing was heard of it for too long."""

    document: Document
    slice: Slice
    is_late: bool


class Known:
    """All of LLMKube's objects in ``documents``. ``findings``: what is wrong with some of them.

    ``now`` [unix s]: None where heartbeats are not to be judged, as in files.
    """

    def __init__(
        self, documents: Documents, options: Options, call: Call = plainly, now: float | None = None
    ) -> None:
        self.findings: list[Finding] = []
        self._is_live = options.is_live
        self._call = call
        self._of: dict[str, dict[Key, Document]] = {kind: {} for kind in KINDS}
        self._agents: dict[Key, list[Agent]] = {}
        for one in documents:
            if one.group == LLMKUBE and one.kind in KINDS:
                self._add(one)
            elif one.kind == "EndpointSlice" and (service := one.labels.get(SLICE_LABEL)):
                self._add_agent(one, service, now)
        self._pools = dict(self._memberships())

    def all(self, kind: str) -> Iterable[Document]:
        """The oldest first."""
        return sorted(self._of[kind].values(), key=lambda one: one.origin.age)

    def service(self, key: Key) -> Document | None:
        """The InferenceService of this name."""
        return self._of["InferenceService"].get(key)

    def model(self, key: Key) -> Model | None:
        """None: there is none, or it cannot be read, which is told."""
        document = self._of["Model"].get(key)
        return None if document is None else self.read(Model, document)

    def agents(self, key: Key) -> Sequence[Agent]:
        """Those that run the service."""
        return self._agents.get(key, ())

    def pool(self, key: Key) -> str:
        """The ModelPool in which the service shares its GPU; empty: none."""
        return self._pools.get(key, "")

    def read(self, kind: type[Kind], one: Document) -> Kind | None:
        """Its spec; None: it is wrong, which is told."""
        return self.ask(_spec, kind, one, self._is_live)

    def ask(self, reader: Callable[..., tuple[Result, Sequence[Finding]]], *inputs: object) -> Result:
        """What ``reader`` makes of ``inputs``; what it has to tell is kept."""
        result, told = self._call(reader, *inputs)
        self.findings += told
        return result

    # --- what there is

    def _add(self, one: Document) -> None:
        found = self._of[one.kind]
        key = one.namespace, one.name
        told = Told(one.origin, is_live=self._is_live)
        if not one.name:
            told.error(INVALID, "metadata.name", "the object has no name", "give it one")
        elif key in found:
            places = " and ".join(filter(None, (found[key].place, one.place))) or "two places"
            told.error("DuplicateObject", "", f"it is there twice, in {places}", "remove one of the two")
        else:
            found[key] = one
            self.ask(_whole, one, self._is_live)
        self.findings += told.findings

    def _add_agent(self, one: Document, service: str, now: float | None) -> None:
        is_late = now is not None and late(one.annotations.get(HEARTBEAT, ""), now)
        agent = self.ask(_agent, one, is_late, self._is_live)
        if agent is not None:
            self._agents.setdefault((one.namespace, service), []).append(agent)

    def _memberships(self) -> Iterator[tuple[Key, str]]:
        for one in self.all("ModelPool"):
            read = self.read(ModelPool, one)
            for member in (read and read.members) or ():
                if member.inference_service_ref is not None:
                    yield (one.namespace, member.inference_service_ref.name), one.name


# --- an object, and what is to be told of it -----------------------------------------------------------


def _whole(one: Document, is_live: bool) -> tuple[None, Sequence[Finding]]:
    told = Told(one.origin, is_live=is_live)
    told.unknown(Whole(), one.content, "")
    return None, told.findings


def _agent(one: Document, is_late: bool, is_live: bool) -> tuple[Agent | None, Sequence[Finding]]:
    told = Told(one.origin, is_live=is_live)
    try:
        return Agent(one, decode(Slice, one.content, ""), is_late), ()
    except Unreadable as fault:
        told.unreadable(fault)
        return None, told.findings


def _spec(kind: type[Kind], one: Document, is_live: bool) -> tuple[Kind | None, Sequence[Finding]]:
    told = Told(one.origin, is_live=is_live)
    try:
        found = decode(kind, one.content.get("spec"), "spec")
    except Unreadable as fault:
        told.unreadable(fault)
        return None, told.findings
    told.unknown(found, one.spec, "spec")
    return None if told.has_failed else found, told.findings
