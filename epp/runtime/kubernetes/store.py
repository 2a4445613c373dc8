"""The objects of one kind as the API tells them: a list, then events on top of it.

Place:   fed by epp.runtime.kubernetes.following.
Ignores: connections, tries and time.
Rule:    ``objects`` is always what the API last said of each. An object that cannot be read keeps the
         version before it, and ``unreadable`` says so; the others do not suffer.
Source:  Kubernetes API concepts, "Efficient detection of changes".
"""

from collections.abc import Callable
from typing import Generic, TypeVar

import msgspec

from epp.config.cluster.objects import Meta

T = TypeVar("T")


class ApiFault(Exception):
    """The API refused, or could not be asked. ``status``: of HTTP; 0: there was no answer."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Expired(Exception):
    """The version to go on from is too old: list again."""


class _Version(msgspec.Struct, frozen=True, rename="camel"):
    resource_version: str = ""


class _List(msgspec.Struct, frozen=True):
    metadata: _Version
    items: list[msgspec.Raw] | None = None


class _Event(msgspec.Struct, frozen=True):
    type: str
    object: msgspec.Raw


class _Bare(msgspec.Struct, frozen=True):
    metadata: Meta


class _Bookmark(msgspec.Struct, frozen=True):
    metadata: _Version


class _Kind(msgspec.Struct, frozen=True):
    name: str


class _Kinds(msgspec.Struct, frozen=True):
    resources: list[_Kind]


class Status(msgspec.Struct, frozen=True):
    """What the API answers instead of what was asked for."""

    code: int = 0
    message: str = ""


class Store(Generic[T]):
    """Objects of ``kind`` in one namespace, by name; ``is_wide``: in all of them, by ``namespace/name``.

    ``pressing``: what of an object nobody can wait for.
    """

    def __init__(
        self, kind: type[T], pressing: Callable[[T], object] | None = None, *, is_wide: bool = False
    ) -> None:
        self.objects: dict[str, T] = {}
        self.version: str | None = None
        """What a watch goes on from; None: the objects are to be listed first."""
        self.unreadable: dict[str, str] = {}
        """By name, why an object is not taken as it is now."""
        self.is_pressing = False
        """Some object differs in what nobody can wait for; to be reset by whoever has taken it over."""
        self._pressing = pressing
        self._is_wide = is_wide
        self._decoder = msgspec.json.Decoder(kind)

    def take_list(self, body: bytes) -> None:
        """These are all there are."""
        try:
            listed = msgspec.json.decode(body, type=_List)
            named = [(self._name(_meta(item)), item) for item in listed.items or ()]
        except msgspec.DecodeError as fault:
            raise ApiFault(0, f"the list is not understood: {fault}") from fault
        before, self.objects, self.unreadable = self.objects, {}, {}
        for name, item in named:
            if name in before:
                self.objects[name] = before[name]
            self._put(name, item)
        self.version = listed.metadata.resource_version

    def take_event(self, line: bytes) -> bool:
        """One line of a watch; whether it changed anything. Expired or ApiFault when the watch is over."""
        try:
            event = msgspec.json.decode(line, type=_Event)
            if event.type == "ERROR":
                _raise(msgspec.json.decode(event.object, type=Status))
            if event.type == "BOOKMARK":
                self.version = msgspec.json.decode(event.object, type=_Bookmark).metadata.resource_version
                return False
            told = msgspec.json.decode(event.object, type=_Bare).metadata
        except msgspec.DecodeError as fault:
            raise ApiFault(0, f"an event is not understood: {fault}") from fault
        self.version = told.resource_version
        name = self._name(told)
        if event.type == "DELETED":
            known = name in self.objects or name in self.unreadable
            self._press(self.objects.pop(name, None), None)
            self.unreadable.pop(name, None)
            return known
        return self._put(name, event.object)

    def clear(self) -> None:
        """Nothing is known any more."""
        self.objects, self.unreadable, self.version = {}, {}, None

    def _name(self, meta: Meta) -> str:
        return f"{meta.namespace}/{meta.name}" if self._is_wide else meta.name

    def _put(self, name: str, item: msgspec.Raw) -> bool:
        try:
            read = self._decoder.decode(item)
        except msgspec.DecodeError as fault:
            is_news = self.unreadable.get(name) != str(fault)
            self.unreadable[name] = str(fault)
            return is_news
        was_unreadable = self.unreadable.pop(name, None) is not None
        before = self.objects.get(name)
        self.objects[name] = read
        self._press(before, read)
        return was_unreadable or before != read

    def _press(self, before: T | None, after: T | None) -> None:
        if self._pressing is not None and not self.is_pressing:
            said = [None if one is None else self._pressing(one) for one in (before, after)]
            self.is_pressing = said[0] != said[1]


def lists(body: bytes, plural: str) -> bool:
    """Whether the list of a group's kinds has this one; what is no such list says nothing against it."""
    try:
        kinds = msgspec.json.decode(body, type=_Kinds).resources
    except msgspec.DecodeError:
        return True
    return any(kind.name == plural for kind in kinds)


def _meta(item: msgspec.Raw) -> Meta:
    return msgspec.json.decode(item, type=_Bare).metadata


def _raise(status: Status) -> None:
    if status.code == 410:
        raise Expired(status.message)
    raise ApiFault(status.code, status.message)
