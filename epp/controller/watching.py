"""What people declare and what is there, as the API has it: listed, then watched.

Place:   read by loop.py.
Ignores: what the objects mean.
Rule:    nothing is concluded from what has not been listed. A kind that the cluster does not have is followed
         from when it comes, and till it goes; what was last told stays while the API is away.
"""

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from epp.compiler.documents import Document
from epp.compiler.inputs.llmkube.status import CONDITION
from epp.compiler.kinds import Kind, Role
from epp.compiler.marks import Inventory
from epp.compiler.memory import Memory
from epp.config.cluster.heartbeats import HEARTBEAT, is_late
from epp.controller.difference import Key, belongs
from epp.controller.discovery import Discovery
from epp.controller.fields import Object
from epp.runtime.kubernetes.api import KubernetesApi, Resource
from epp.runtime.kubernetes.following import Following
from epp.runtime.kubernetes.store import ApiFault
from epp.runtime.metrics import Family, Numbers, Values

logger = logging.getLogger("epp.controller")

LOOK_SECONDS = 5.0
"""Between two looks at whether a kind has come or gone; the API is asked only where one may have."""
_OF_INPUT = frozenset({"InferencePool", "Service"})
"""Kinds of which what we have made ourselves counts: a pool keeps its port."""
_KEEPS_STATUS = frozenset({"Gateway", "GatewayClass"})
_COUNTED = frozenset({"managedFields", "resourceVersion"})
_NOISE = frozenset({"lastUpdated", "gateway"})
"""Of a status: written anew by every look of its controller, and by us."""

_Following: TypeAlias = Following[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class _Followed:
    kind: Kind
    namespace: str
    following: _Following
    task: asyncio.Task[None]

    @property
    def is_vital(self) -> bool:
        """Nothing can be concluded without it."""
        fault = self.following.fault
        is_refused = fault is not None and fault.status == 403
        return not (self.kind.is_wide and is_refused)

    @property
    def fault(self) -> ApiFault | None:
        """What goes on being wrong."""
        return self.following.fault if self.following.is_lasting else None


@dataclass(frozen=True, slots=True)
class Written:
    """What we have made of an object, until the API's events tell it. ``result``: None: it is deleted."""

    result: Object | None
    uid: str
    version: int


class Watching:
    """``namespaces`` empty: all. ``changed``: called after every change, and when something goes wrong."""

    def __init__(
        self,
        api: KubernetesApi,
        discovery: Discovery,
        kinds: Sequence[Kind],
        *,
        namespaces: Sequence[str],
        inventory: Inventory,
        changed: Callable[[], None],
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
        chance: random.Random,
    ) -> None:
        self.faults: Counter[str] = Counter()
        self._api, self._discovery, self._kinds = api, discovery, kinds
        self._namespaces = tuple(namespaces) or ("",)
        self._inventory = inventory
        self._changed = changed
        self._clock, self._wall_clock, self._chance = clock, wall_clock, chance
        self._followed: dict[Kind, list[_Followed]] = {}
        self._is_discovered = False
        self._fault: ApiFault | None = None
        self._written: dict[Key, Written] = {}
        self._documents: dict[Key, tuple[object, Document | None]] = {}
        self._typed = Memory()

    # --- what is known

    @property
    def is_complete(self) -> bool:
        """Everything that is there has been listed."""
        return self._is_discovered and all(one.following.is_listed for one in self._all() if one.is_vital)

    @property
    def is_current(self) -> bool:
        """Nothing that counts is kept from us now."""
        return self._fault is None and not any(one.fault for one in self._all() if one.is_vital)

    @property
    def absent(self) -> frozenset[str]:
        """Kinds that people declare things with, and that the cluster does not have: their objects have gone
        with them, which says nothing of what people want."""
        return frozenset(
            kind.name
            for kind in self._kinds
            if kind.role is Role.DECLARED
            and (kind not in self._followed or self._discovery.find(kind) is None)
        )

    @property
    def missing(self) -> frozenset[str]:
        """Kinds that we make, and that the cluster does not have."""
        return frozenset(
            kind.name
            for kind in self._kinds
            if kind.role is Role.MADE and (kind not in self._followed or self._discovery.find(kind) is None)
        )

    def faults_told(self) -> list[str]:
        """What is wrong, for people: of each kind of refusal a line, which names verb and resource."""
        told = [] if self._fault is None else [f"Kubernetes API: {self._fault}"]
        for one in self._all():
            if one.fault is not None and not (one.fault.status == 404 and one.following.is_listed):
                told.append(f"Kubernetes API: {one.fault}")
            told += [
                f"{one.kind.name} {name}: cannot be read: {why}"
                for name, why in one.following.unreadable.items()
            ]
        return list(dict.fromkeys(told))

    def covers(self, key: Key) -> bool:
        """Objects there are followed."""
        return self._namespaces == ("",) or key[1] in self._namespaces

    def live(self) -> dict[Key, Object]:
        """All objects of kinds that we make, ours and others', as they are after what we have written.

        The same objects stay the same.
        """
        found: dict[Key, Object] = {}
        with self._typed as call:
            for one in self._all():
                if one.kind.role is Role.MADE:
                    for document in one.following.objects.values():
                        is_typed = "kind" in document
                        found[_key(one.kind, document)] = (
                            document if is_typed else call(_typed, one.kind, document)
                        )
        for key, written in list(self._written.items()):
            there = found.get(key)
            if self._is_told(key, written, there):
                del self._written[key]
            elif written.result is not None:
                found[key] = written.result
            else:
                found.pop(key, None)
        return found

    def documents(self) -> list[Document]:
        """What the compiler reads, without what changes all the time. The same objects stay the same."""
        known, self._documents = self._documents, {}
        for one in self._all():
            for document in one.following.objects.values():
                key = _key(one.kind, document)
                had = known.get(key)
                if had is None or had[0] is not document or _beats(document):
                    had = document, self._input(one.kind, document, had and had[1])
                self._documents[key] = had
        return [document for _, document in self._documents.values() if document is not None]

    def _input(self, kind: Kind, document: Object, before: Document | None) -> Document | None:
        """``before``, when it says the same; None: it is none."""
        if not self._is_input(kind, document):
            return None
        plain = Document(self._plain(kind, document))
        return before if before == plain else plain

    def declared(self) -> Iterator[Object]:
        """What people declare as it is, with its status and whose its fields are."""
        for one in self._all():
            if one.kind.role is Role.DECLARED:
                for document in one.following.objects.values():
                    yield _typed(one.kind, document)

    # --- what we have written

    def wrote(self, key: Key, before: Object | None, result: Object | None) -> None:
        """Until the API's own events say so: a second write would be for nothing."""
        after = (result or before or {}).get("metadata", {})
        was = (before or {}).get("metadata", {})
        if result is not None and was.get("resourceVersion") == after.get("resourceVersion"):
            return  # nothing has changed
        version = str(after.get("resourceVersion", ""))
        if version.isdecimal():
            self._written[key] = Written(result, str(after.get("uid", "")), int(version))

    def _is_told(self, key: Key, written: Written, there: Object | None) -> bool:
        if written.result is None:
            meta = (there or {}).get("metadata", {})
            return meta.get("uid", "") != written.uid or bool(meta.get("deletionTimestamp"))
        versions = [
            one.following.version or "0"
            for one in self._all()
            if one.kind.name == key[0] and one.kind.role is Role.MADE and one.namespace in {"", key[1]}
        ]
        return any(version.isdecimal() and int(version) >= written.version for version in versions)

    # --- life

    async def run(self) -> None:
        """Keep up."""
        async with asyncio.TaskGroup() as group:
            while True:
                await self._discover(group)
                await asyncio.sleep(LOOK_SECONDS * self._chance.uniform(0.8, 1.0))

    async def confirm(self) -> None:
        """See whether kinds are there still, before anything is deleted since none of their objects asks for
        it any more: with a CRD all its objects go, and the first that is seen is that. ApiFault."""
        await self._discovery.look(kind for kind in self._kinds if kind.role is Role.DECLARED)

    async def _discover(self, group: asyncio.TaskGroup) -> None:
        open_ones = [kind for kind in self._kinds if self._is_open(kind)]
        before = self._news()
        try:
            await self._discovery.look(open_ones)
            self._fault, self._is_discovered = None, True
        except ApiFault as fault:
            self.faults["discovery"] += 1
            self._fault = fault
        for kind in open_ones:
            resource = self._discovery.find(kind)
            followed = self._followed.get(kind)
            if followed is not None and followed[0].following.resource != resource:
                self._leave(kind)
            if resource is not None and kind not in self._followed:
                self._follow(kind, resource, group)
        if self._news() != before:
            self._changed()

    def _is_open(self, kind: Kind) -> bool:
        """Whether it is there, in the version that is followed, has to be asked."""
        is_lost = any(
            one.fault is not None and one.fault.status == 404 for one in self._followed.get(kind, ())
        )
        return is_lost or kind not in self._followed or self._discovery.find(kind) is None

    def _news(self) -> tuple[object, ...]:
        return self._is_discovered, str(self._fault), self.absent, self.missing

    def _leave(self, kind: Kind) -> None:
        """It is not there any more, or in another version."""
        followed = self._followed.pop(kind)
        logger.warning(
            "the cluster does not have a kind any more",
            extra={"fields": {"resource": followed[0].following.resource.name}},
        )
        for one in followed:
            one.task.cancel()

    def _follow(self, kind: Kind, resource: Resource, group: asyncio.TaskGroup) -> None:
        followed = self._followed[kind] = []
        for namespace in ("",) if kind.is_wide else self._namespaces:
            following: _Following = Following(
                *(self._api, resource, dict[str, Any], namespace, self._changed),
                clock=self._clock,
                chance=self._chance,
                faults=self.faults,
            )
            self.faults.setdefault(resource.name, 0)
            following.select({"labelSelector": kind.selector} if kind.selector else {})
            name = f"kubernetes: {namespace or 'all'}: {resource.plural}"
            task = group.create_task(following.run(), name=name)
            followed.append(_Followed(kind, namespace, following, task))

    def _all(self) -> Iterator[_Followed]:
        for followed in self._followed.values():
            yield from followed

    def _is_input(self, kind: Kind, document: Mapping[str, Any]) -> bool:
        if kind.role is not Role.MADE or kind.name in _OF_INPUT:
            return True
        return not belongs(document, self._inventory)

    def _plain(self, kind: Kind, document: Mapping[str, Any]) -> dict[str, Any]:
        """The object for the compiler. Agents beat every 30 s: only that one does not any more is news."""
        meta = {key: value for key, value in document["metadata"].items() if key not in _COUNTED}
        beat = (meta.get("annotations") or {}).get(HEARTBEAT)
        if beat is not None and not is_late(beat, self._wall_clock()):
            meta["annotations"] = {
                key: value for key, value in meta["annotations"].items() if key != HEARTBEAT
            }
        plain = {**_typed(kind, document), "metadata": meta}
        status = plain.pop("status", None)
        if isinstance(status, Mapping) and (kind.role is Role.DECLARED or kind.name in _KEEPS_STATUS):
            plain["status"] = _foreign(status)
        return plain

    def families(self) -> Iterator[Family]:
        """Lists and watches that failed."""
        values: Numbers = {(name,): float(count) for name, count in self.faults.items()}
        help_text = "Lists and watches of the Kubernetes API that failed, by resource."
        yield Values("fleet_epp_kubernetes_faults_total", "counter", help_text, ("resource",), values)


def _key(kind: Kind, document: Object) -> Key:
    meta = document["metadata"]
    return kind.name, meta.get("namespace", ""), meta["name"]


def _typed(kind: Kind, document: Object) -> Object:
    """The object with its kind: in lists of Kubernetes' own kinds they do not say it."""
    if "kind" in document:
        return document
    return {"apiVersion": f"{kind.group}/{kind.versions[0]}".lstrip("/"), "kind": kind.name, **document}


def _beats(document: Object) -> bool:
    """Time changes it: what a metal agent says is news when it says it no more."""
    return HEARTBEAT in (document["metadata"].get("annotations") or {})


def _foreign(status: Mapping[str, Any]) -> dict[str, Any]:
    """Without what we write into it ourselves: it is not to be compiled again for that."""
    kept = {key: value for key, value in status.items() if key not in _NOISE}
    if isinstance(kept.get("conditions"), list):
        kept["conditions"] = [one for one in kept["conditions"] if one.get("type") != CONDITION]
    return kept
