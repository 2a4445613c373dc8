"""What turns the objects that there are into those that are to be, step by step in the safe order.

Place:   asked by loop.py after each compilation, and by ``epp plan`` and ``epp apply``.
Rule:    only what carries the labels of our inventory is changed or deleted. What is of an input with an
         error, or of one that nobody knows now, stays. Everything is there before what names it, and goes
         after it.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeAlias

from epp.compiler.emission import APPLY_ORDER, FROZEN, ROUTES, Emitted
from epp.compiler.marks import INVENTORY, TARGET, Inventory, lacking, parts_in, sources_of
from epp.compiler.memory import Call, plainly
from epp.controller.fields import Object, bare, is_as_wanted, stamped

Key: TypeAlias = tuple[str, str, str]
"""Kind, namespace, name."""


class Verb(StrEnum):
    """What a step does."""

    CREATE = "create"
    CHANGE = "change"
    DELETE = "delete"


@dataclass(frozen=True, slots=True)
class Step:
    """One write. ``wanted``: None: the object goes. ``live``: None: it is not there."""

    verb: Verb
    key: Key
    sources: frozenset[str]
    wanted: Object | None = None
    live: Object | None = None

    @property
    def title(self) -> str:
        """For people."""
        return title(self.key)


@dataclass(frozen=True, slots=True)
class Conflict:
    """An object that we would make, and that somebody else has made.

    ``why``: whose it is. ``fix``: what to do about it.
    """

    key: Key
    sources: frozenset[str]
    why: str
    fix: str = ""


@dataclass(frozen=True, slots=True)
class Difference:
    """``steps``: in order. ``kept``: not wanted, and not deleted, because one of their inputs is in doubt.

    ``left``: of our name, made for the gateway that each names and not wanted for ours.
    """

    steps: tuple[Step, ...] = ()
    conflicts: tuple[Conflict, ...] = ()
    kept: tuple[Key, ...] = ()
    left: tuple[tuple[str, Key], ...] = ()


@dataclass(frozen=True, slots=True)
class Doubt:
    """Inputs of which nobody knows what they want.

    ``failed``: ``Kind/namespace/name`` of those with an error. ``kinds``: that the cluster does not have now,
    or that cannot be read: their objects may come back.
    """

    failed: Collection[str] = ()
    kinds: Collection[str] = ()

    def about(self, sources: Iterable[str]) -> bool:
        """Whether one of them is in doubt."""
        return any(one in self.failed or one.partition("/")[0] in self.kinds for one in sources)


Settled: TypeAlias = Mapping[Key, tuple[Object, Object]]
"""What was applied, and what the API has made of it (``fields.bare``), as it may respell a value."""


def difference(
    desired: Iterable[Emitted],
    live: Mapping[Key, Object],
    *,
    inventory: Inventory,
    doubt: Doubt | None = None,
    settled: Settled | None = None,
    call: Call = plainly,
) -> Difference:
    """From ``live``, in which there may be objects of others, to ``desired``."""
    doubt, settled = doubt or Doubt(), settled or {}
    wanted = {one.key: one for one in desired}
    every = (call(_asked, one, live.get(key), settled.get(key), inventory) for key, one in wanted.items())
    asked = sorted((one for one in every if one is not None), key=lambda one: rank(one.key))
    applied: list[Step] = []
    frozen, standing = set[str](), set[str]()
    for step in (one for one in asked if isinstance(one, Step)):
        before = sources_of(step.live) if step.live is not None else frozenset()
        if step.key[0] in FROZEN and doubt.about(before):
            frozen |= lacking(before | sources_of(step.wanted or {}), doubt.failed)
            standing |= before if step.key[0] in ROUTES else frozenset()
        else:
            applied.append(step)
    surplus = [key for key, there in live.items() if key not in wanted and belongs(there, inventory)]
    standing.update(one for key in surplus if key[0] in ROUTES for one in sources_of(live[key]))
    applied = [step for step in applied if not _waits(step, frozen, standing, doubt)]
    conflicts = tuple(one for one in asked if isinstance(one, Conflict))
    going, kept = list[Step](), list[Key]()
    for key in sorted(surplus, key=_deletion_rank):
        sources = sources_of(live[key])
        if _is_leaving(live[key]):
            continue
        if doubt.about(sources):
            kept.append(key)
        else:
            going.append(Step(Verb.DELETE, key, parts_of(sources), live=live[key]))
    others = ((_other_gateway(live[key], inventory), key) for key in sorted(live.keys() - wanted.keys()))
    left = tuple((gateway, key) for gateway, key in others if gateway)
    return Difference((*applied, *going), conflicts, tuple(kept), left)


def _asked(
    emitted: Emitted, live: Object | None, settled: tuple[Object, Object] | None, inventory: Inventory
) -> Step | Conflict | None:
    """What an object asks for when nothing is in doubt; None: it is as it should be, or going."""
    key, document = emitted.key, stamped(emitted.document)
    sources = frozenset(one.object for one in emitted.sources)
    if live is None:
        return Step(Verb.CREATE, key, sources, document)
    if not belongs(live, inventory):
        return Conflict(key, sources, whose(live), way_out(live, inventory))
    if _is_leaving(live) or _is_equal(document, live, settled):
        return None
    return Step(Verb.CHANGE, key, sources, document, live)


def _waits(step: Step, frozen: Collection[str], standing: Collection[str], doubt: Doubt) -> bool:
    """Whether it is a new route that would be without something FROZEN of its input. What only refuses the
    names of parts with an error needs nothing of that, and waits while a route of theirs is ``standing``.
    """
    if step.verb is not Verb.CREATE or step.key[0] not in ROUTES or step.wanted is None:
        return False
    sources = sources_of(step.wanted)
    parts = parts_in(sources)
    if parts and parts <= set(doubt.failed):
        return not parts.isdisjoint(standing)
    return doubt.about(sources & set(frozen))


def parts_of(sources: frozenset[str]) -> frozenset[str]:
    """Without the wholes of which a part is named: another part's trouble is not this object's."""
    return frozenset(one for one in sources if not any(other.startswith(f"{one}/") for other in sources))


def belongs(live: Object, inventory: Inventory) -> bool:
    """The object is one of our inventory."""
    return inventory_of(live) == inventory.name and not _other_gateway(live, inventory)


def _other_gateway(live: Object, inventory: Inventory) -> str:
    """For which it was made under our name; empty: for ours."""
    gateway = str(_labels(live).get(TARGET, ""))
    is_other = bool(inventory.product) and gateway != inventory.product
    return gateway if is_other and inventory_of(live) == inventory.name else ""


def inventory_of(live: Object) -> str:
    """The one that has it; empty: none."""
    return str(_labels(live).get(INVENTORY, ""))


def whose(live: Object) -> str:
    """Who has made it, as far as it says."""
    other = inventory_of(live)
    if other:
        gateway = _labels(live).get(TARGET)
        return f"it is of the inventory {other}{f', made for {gateway}' if gateway else ''}"
    managers = [entry.get("manager", "") for entry in live.get("metadata", {}).get("managedFields") or ()]
    by = f" by {', '.join(dict.fromkeys(filter(None, managers)))}" if any(managers) else ""
    return f"it was made{by} and has no label {INVENTORY}"


def way_out(live: Object, inventory: Inventory) -> str:
    """What to do about an object that somebody else has made."""
    other = inventory_of(live)
    if not other:
        return f"delete it, or give it the label {INVENTORY}={inventory.name}"
    if other == inventory.name:
        return f"take away its label {TARGET} to go on with it, or delete it"
    return "an object has one inventory: put what asks for it into one, or use another Gateway and namespace"


def key_of(document: Object) -> Key:
    """Of an object."""
    meta = document["metadata"]
    return document["kind"], meta.get("namespace", ""), meta["name"]


def title(key: Key) -> str:
    """``HTTPRoute models/chat``."""
    kind, namespace, name = key
    return f"{kind} {namespace}/{name}" if namespace else f"{kind} {name}"


def rank(key: Key) -> tuple[int, str, str, str]:
    """The smaller the earlier it is applied."""
    kind, namespace, name = key
    place = APPLY_ORDER.index(kind) if kind in APPLY_ORDER else len(APPLY_ORDER)
    return place, kind, namespace, name


def _deletion_rank(key: Key) -> tuple[int, str, str, str]:
    place, *rest = rank(key)
    return -place, *rest  # type: ignore[return-value]


def _is_equal(wanted: Object, live: Object, settled: tuple[Object, Object] | None) -> bool:
    if settled is not None and settled[0] == wanted and settled[1] == bare(live):
        return True
    return is_as_wanted(wanted, live)


def _is_leaving(live: Object) -> bool:
    return bool(live.get("metadata", {}).get("deletionTimestamp"))


def _labels(live: Object) -> Mapping[str, Any]:
    return live.get("metadata", {}).get("labels") or {}
