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


def marked(emitted: Emitted, options: Options) -> Emitted:
    """The same object as ours."""
    document = emitted.document
    meta = dict(document["metadata"])
    meta["labels"] = {**meta.get("labels", {}), MANAGED_BY: MANAGER, INVENTORY: options.inventory}
    sources = sorted({one.object for one in emitted.sources})
    meta["annotations"] = {**meta.get("annotations", {}), SOURCE: ",".join(sources)}
    owners = _owners(emitted)
    if owners:
        meta["ownerReferences"] = owners
    return Emitted({**document, "metadata": meta}, emitted.sources)


def sources_of(document: Mapping[str, Any]) -> frozenset[str]:
    """``Origin.object`` of the inputs that an object of ours is for."""
    said = (document.get("metadata", {}).get("annotations") or {}).get(SOURCE, "")
    return frozenset(part for part in said.split(",") if part)


def _owners(emitted: Emitted) -> list[dict[str, Any]]:
    namespace = emitted.document["metadata"].get("namespace")
    owners = {one.uid: one for one in emitted.sources if one.uid and one.namespace == namespace}
    return [
        {"apiVersion": one.api_version, "kind": one.kind, "name": one.name, "uid": one.uid}
        for _, one in sorted(owners.items())
    ]
