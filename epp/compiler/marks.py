"""How we know again what we made, and for whom.

Rule:    labels find all of it (``Inventory``), an annotation says which inputs it is for, owner references
         let Kubernetes delete it with them.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from epp.compiler.emission import Emitted
from epp.compiler.options import Options

MANAGED_BY = "app.kubernetes.io/managed-by"
MANAGER = "fleet-epp"
INVENTORY = "fleet-epp.dev/inventory"
TARGET = "fleet-epp.dev/target"
"""For which gateway (``Target.product``): who makes objects for another one leaves it alone."""
SOURCE = "fleet-epp.dev/source"
"""``ModelRouter/llm/qwen``, several with a comma between them."""
OWNER = "fleet-epp.dev/owner"
"""Who answers for it, for people."""


@dataclass(frozen=True, slots=True)
class Inventory:
    """Which objects are ours: with the label of this name, and made for the gateway ``product``.

    Empty: for whichever. What says of no gateway is of each: so people hand it over.
    """

    name: str
    product: str = ""


def inventory(options: Options) -> Inventory:
    """Of one who sees to a gateway for ever, beside whom another may see to another gateway."""
    return Inventory(options.inventory, options.target.product)


def marked(emitted: Emitted, options: Options, *answering: str) -> Emitted:
    """The same object as ours. ``answering``: its ``people``."""
    document = emitted.document
    meta = dict(document["metadata"])
    meta["labels"] = {**meta.get("labels", {}), **labels(options)}
    sources = sorted({name for one in emitted.sources for name in (one.whole, one.object)})
    meta["annotations"] = {**meta.get("annotations", {}), SOURCE: ",".join(sources)}
    if answering:
        meta["annotations"][OWNER] = ", ".join(answering)
    references = _references(emitted)
    if references:
        meta["ownerReferences"] = references
    return Emitted({**document, "metadata": meta}, emitted.sources)


def people(emitted: Emitted, owners: Mapping[str, str]) -> list[str]:
    """Who answer for it. ``owners``: who does for an input, by ``Origin.object``."""
    names = {name for one in emitted.sources for name in (one.whole, one.object)} if owners else ()
    return sorted({owners[name] for name in names if name in owners})


def labels(options: Options) -> dict[str, str]:
    """Of everything that we make."""
    return {MANAGED_BY: MANAGER, INVENTORY: options.inventory, TARGET: options.target.product}


def sources_of(document: Mapping[str, Any]) -> frozenset[str]:
    """``Origin.object`` of the inputs that an object of ours is for."""
    said = (document.get("metadata", {}).get("annotations") or {}).get(SOURCE, "")
    return frozenset(part for part in said.split(",") if part)


def lacking(sources: frozenset[str], failed: Collection[str]) -> frozenset[str]:
    """Inputs that would be without something while an object that is for ``sources`` stays as it is: only its
    own where it is for nothing but parts with an error, as a refusal of their names.
    """
    parts = parts_in(sources)
    return parts if parts and parts <= set(failed) else sources


def parts_in(sources: frozenset[str]) -> frozenset[str]:
    """Those that are parts of an input, as a model of a fleet is."""
    return frozenset(one for one in sources if one.count("/") > 2)


def _references(emitted: Emitted) -> list[dict[str, Any]]:
    namespace = emitted.document["metadata"].get("namespace")
    owners = {one.uid: one for one in emitted.sources if one.uid and one.namespace == namespace}
    return [
        {"apiVersion": one.api_version, "kind": one.kind, "name": one.name, "uid": one.uid}
        for _, one in sorted(owners.items())
    ]
