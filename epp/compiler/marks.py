"""How we know again what we made, and for whom.

Rule:    a label finds all of it (``inventory``), an annotation says which inputs it is for, owner references
         let Kubernetes delete it with them.
"""

from collections.abc import Mapping
from typing import Any

from epp.compiler.emission import Emitted
from epp.compiler.options import Options

MANAGED_BY = "app.kubernetes.io/managed-by"
MANAGER = "fleet-epp"
INVENTORY = "fleet-epp.dev/inventory"
SOURCE = "fleet-epp.dev/source"
"""``ModelRouter/llm/qwen``, several with a comma between them."""
OWNER = "fleet-epp.dev/owner"
"""Who answers for it, for people."""


def marked(emitted: Emitted, options: Options, owners: Mapping[str, str]) -> Emitted:
    """The same object as ours. ``owners``: who answers for an input, by ``Origin.object``."""
    document = emitted.document
    meta = dict(document["metadata"])
    meta["labels"] = {**meta.get("labels", {}), **labels(options)}
    sources = sorted({name for one in emitted.sources for name in (one.whole, one.object)})
    meta["annotations"] = {**meta.get("annotations", {}), SOURCE: ",".join(sources)}
    people = sorted({owners[name] for name in sources if name in owners})
    if people:
        meta["annotations"][OWNER] = ", ".join(people)
    references = _references(emitted)
    if references:
        meta["ownerReferences"] = references
    return Emitted({**document, "metadata": meta}, emitted.sources)


def labels(options: Options) -> dict[str, str]:
    """Of everything that we make."""
    return {MANAGED_BY: MANAGER, INVENTORY: options.inventory}


def sources_of(document: Mapping[str, Any]) -> frozenset[str]:
    """``Origin.object`` of the inputs that an object of ours is for."""
    said = (document.get("metadata", {}).get("annotations") or {}).get(SOURCE, "")
    return frozenset(part for part in said.split(",") if part)


def _references(emitted: Emitted) -> list[dict[str, Any]]:
    namespace = emitted.document["metadata"].get("namespace")
    owners = {one.uid: one for one in emitted.sources if one.uid and one.namespace == namespace}
    return [
        {"apiVersion": one.api_version, "kind": one.kind, "name": one.name, "uid": one.uid}
        for _, one in sorted(owners.items())
    ]
