"""Objects as they were handed in: of a cluster, or of files.

Place:   the compiler's input; epp.lint reads the same.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from epp.compiler.findings import Origin
from epp.compiler.kinds import GROUP_OF, KINDS

CLUSTER_WIDE = frozenset({"CustomResourceDefinition", *(one.name for one in KINDS if one.is_wide)})
"""Kinds that are in no namespace, of those that anybody looks at here."""


@dataclass(frozen=True, eq=False)
class Document:
    """One object, which nobody changes. ``place``: ``file:line``; empty: in a cluster."""

    content: Mapping[str, Any]
    place: str = ""

    def __eq__(self, other: object) -> bool:
        """Whether it says the same: ``1`` is not ``true``, although Python has them equal."""
        if self is other or not isinstance(other, Document):
            return self is other
        return self.place == other.place and _is_same(self.content, other.content)

    __hash__ = object.__hash__

    @cached_property
    def kind(self) -> str:
        """Empty: it says none."""
        return str(self.content.get("kind", ""))

    @cached_property
    def group(self) -> str:
        """``gateway.envoyproxy.io``; empty: Kubernetes' own."""
        return str(self.content.get("apiVersion", "")).rpartition("/")[0]

    @cached_property
    def metadata(self) -> Mapping[str, Any]:
        """Empty where there is none, or it is no mapping."""
        found = self.content.get("metadata")
        return found if isinstance(found, Mapping) else {}

    @cached_property
    def name(self) -> str:
        """Empty: it says none."""
        return str(self.metadata.get("name", ""))

    @cached_property
    def namespace(self) -> str:
        """Empty: the kind has none, or the file does not say."""
        return str(self.metadata.get("namespace", ""))

    @cached_property
    def labels(self) -> Mapping[str, str]:
        """Its own."""
        return _texts(self.metadata.get("labels"))

    @cached_property
    def annotations(self) -> Mapping[str, str]:
        """Its own."""
        return _texts(self.metadata.get("annotations"))

    @property
    def spec(self) -> Mapping[str, Any]:
        """Empty where there is none, or it is no mapping."""
        found = self.content.get("spec")
        return found if isinstance(found, Mapping) else {}

    @property
    def status(self) -> Mapping[str, Any]:
        """The same of its status."""
        found = self.content.get("status")
        return found if isinstance(found, Mapping) else {}

    @cached_property
    def origin(self) -> Origin:
        """For findings about it."""
        return Origin(
            self.kind,
            self.namespace,
            self.name,
            api_version=str(self.content.get("apiVersion", "")),
            uid=str(self.metadata.get("uid", "")),
            created=str(self.metadata.get("creationTimestamp") or ""),
            place=self.place,
        )


def _is_same(one: Any, other: Any) -> bool:
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_is_same(value, other[key]) for key, value in one.items())
    if isinstance(one, list):
        return len(one) == len(other) and all(map(_is_same, one, other))
    return bool(one == other)


def _texts(found: Any) -> Mapping[str, str]:
    if not isinstance(found, Mapping):
        return {}
    return {str(key): value for key, value in found.items() if isinstance(value, str)}


@dataclass(frozen=True)
class Documents:
    """All of them, found by kind and by name.

    ``group``: of whose kind; None: the one in KINDS, else Kubernetes' own. Other projects have kinds of the
    same names, and objects of the same names in them.
    """

    documents: Sequence[Document]
    _kinds: dict[tuple[str, str], dict[tuple[str, str], Document]] = field(
        init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        kinds: dict[tuple[str, str], dict[tuple[str, str], Document]] = {}
        for one in self.documents:
            kinds.setdefault((one.kind, one.group), {})[one.namespace, one.name] = one
        object.__setattr__(self, "_kinds", kinds)

    def of(self, kind: str, group: str | None = None) -> Iterator[Document]:
        """The oldest first."""
        return iter(sorted(self._named(kind, group).values(), key=lambda one: one.origin.age))

    def find(self, kind: str, namespace: str, name: str, group: str | None = None) -> Document | None:
        """The one of this name."""
        return self._named(kind, group).get((namespace, name))

    def _named(self, kind: str, group: str | None) -> Mapping[tuple[str, str], Document]:
        return self._kinds.get((kind, GROUP_OF.get(kind, "") if group is None else group), {})

    def __iter__(self) -> Iterator[Document]:
        return iter(self.documents)
