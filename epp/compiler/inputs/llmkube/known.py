"""What there is of LLMKube, found by name: read once for all routers.

Rule:    only objects of LLMKube's own group count, whatever else is of the same kind.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import TypeAlias, TypeVar

from epp.compiler.documents import Document, Documents
from epp.compiler.inputs.llmkube.objects import (
    GROUP,
    Model,
    ModelPool,
    Part,
    Slice,
    Unreadable,
    Whole,
    decode,
)
from epp.compiler.inputs.llmkube.told import INVALID, Told
from epp.compiler.options import Options

Key: TypeAlias = tuple[str, str]
"""Namespace and name."""
Kind = TypeVar("Kind", bound=Part)

KINDS = ("InferenceService", "Model", "ModelRouter", "ModelPool")
SLICE_LABEL = "llmkube.ai/inference-service"
"""Of a metal agent's EndpointSlice: which service it runs."""


class Known:
    """All of LLMKube's objects in ``documents``. ``told``: what is wrong with some of them."""

    def __init__(self, documents: Documents, options: Options) -> None:
        self.told: list[Told] = []
        self._is_live = options.is_live
        self._of = {kind: self._by_name(documents, kind) for kind in KINDS}
        self._models: dict[Key, Model | None] = {}
        self._slices = self._read_slices(documents)
        self._pools = dict(self._memberships())

    def all(self, kind: str) -> Iterable[Document]:
        """The oldest first."""
        return sorted(self._of[kind].values(), key=lambda one: one.origin.age)

    def service(self, key: Key) -> Document | None:
        """The InferenceService of this name."""
        return self._of["InferenceService"].get(key)

    def model(self, key: Key) -> Model | None:
        """None: there is none, or it cannot be read, which is told."""
        if key not in self._models:
            document = self._of["Model"].get(key)
            self._models[key] = None if document is None else self.read(Model, document)
        return self._models[key]

    def slices(self, key: Key) -> list[tuple[Document, Slice]]:
        """Of the agents that run the service."""
        return self._slices.get(key, [])

    def pool(self, key: Key) -> str:
        """The ModelPool in which the service shares its GPU; empty: none."""
        return self._pools.get(key, "")

    # --- reading

    def _by_name(self, documents: Documents, kind: str) -> Mapping[Key, Document]:
        found: dict[Key, Document] = {}
        for one in documents:
            if one.kind != kind or one.group != GROUP:
                continue
            key = one.namespace, one.name
            if not one.name:
                told = self.tell(one)
                told.error(INVALID, "metadata.name", "the object has no name", "give it one")
            elif key in found:
                told = self.tell(one)
                places = " and ".join(filter(None, (found[key].place, one.place))) or "two places"
                told.error("DuplicateObject", "", f"it is there twice, in {places}", "remove one of the two")
            else:
                found[key] = one
                self.tell(one).unknown(Whole(), one.content, "")
        return found

    def _read_slices(self, documents: Documents) -> Mapping[Key, list[tuple[Document, Slice]]]:
        found: dict[Key, list[tuple[Document, Slice]]] = {}
        for one in documents:
            service = one.labels.get(SLICE_LABEL)
            if one.kind != "EndpointSlice" or not service:
                continue
            try:
                read = decode(Slice, one.content, "")
            except Unreadable as fault:
                self.tell(one).unreadable(fault)
            else:
                found.setdefault((one.namespace, service), []).append((one, read))
        return found

    def _memberships(self) -> Iterator[tuple[Key, str]]:
        for one in self.all("ModelPool"):
            read = self.read(ModelPool, one)
            for member in (read and read.members) or ():
                if member.inference_service_ref is not None:
                    yield (one.namespace, member.inference_service_ref.name), one.name

    def read(self, kind: type[Kind], one: Document) -> Kind | None:
        """Its spec; None: it is wrong, which is told."""
        told = self.tell(one)
        try:
            found = decode(kind, one.content.get("spec"), "spec")
        except Unreadable as fault:
            told.unreadable(fault)
            return None
        told.unknown(found, one.spec, "spec")
        return None if told.has_failed else found

    def tell(self, one: Document) -> Told:
        """For what is to be said of it."""
        told = Told(one.origin, is_live=self._is_live)
        self.told.append(told)
        return told
