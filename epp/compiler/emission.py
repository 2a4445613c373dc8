"""Objects that are to be: what a target makes.

Place:   made by targets/ and pools.py; compile.py marks them as ours.
Rule:    APPLY_ORDER is the safe one: nothing is there before what it names. Deletion is the reverse.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

from epp.compiler.findings import Finding, Origin
from epp.compiler.kinds import KINDS, Role

Object: TypeAlias = dict[str, Any]

APPLY_ORDER = tuple(dict.fromkeys(one.name for one in KINDS if one.role is Role.MADE))
"""Kinds; policies before the route that they are for, so that no route is ever served without its policy."""

FROZEN = frozenset(one.name for one in KINDS if one.is_frozen)
"""Kinds that nobody changes while one of their inputs has an error. Several inputs, or several models of a
fleet, may share one: what stands of the one in error would be open to everyone, or without its guard."""
ROUTES = frozenset({"AIGatewayRoute", "HTTPRoute"})
"""Kinds of which no new one is made for an input of which something FROZEN would have changed: it would be
without that."""


@dataclass(frozen=True)
class Emitted:
    """One object, and the inputs that it is for: with none of them left it goes."""

    document: Object
    sources: tuple[Origin, ...]

    @cached_property
    def key(self) -> tuple[str, str, str]:
        """Kind, namespace, name."""
        meta = self.document["metadata"]
        return self.document["kind"], meta.get("namespace", ""), meta["name"]


@dataclass(frozen=True, slots=True)
class Emission:
    """What a target makes of an intent."""

    objects: tuple[Emitted, ...]
    findings: tuple[Finding, ...] = ()


def made(
    api_version: str,
    kind: str,
    namespace: str,
    name: str,
    *sources: Origin,
    annotations: Mapping[str, str] | None = None,
    **content: Any,
) -> Emitted:
    """``content``: spec and what else stands beside metadata."""
    meta: Object = {"name": name, "namespace": namespace}
    if annotations:
        meta["annotations"] = dict(annotations)
    return Emitted({"apiVersion": api_version, "kind": kind, "metadata": meta, **content}, sources)
