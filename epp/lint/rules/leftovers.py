"""What nobody has deleted."""

from collections.abc import Iterator

from epp.compiler.findings import Severity
from epp.compiler.marks import INVENTORY, SOURCE
from epp.lint.rule import Trap, rule
from epp.lint.view import GROUPS, View

_SOURCES = ("InferenceService", "ModelRouter")
"""Kinds that a cluster has. Of a file only whoever has the file knows."""


@rule(Severity.WARNING, "an object of ours that nothing asks for any more")
def leftover(view: View) -> Iterator[Trap]:
    """What was made of an object goes on acting when the object is gone and nobody prunes.

    A SecurityPolicy whose router was deleted keeps refusing, a route keeps taking requests for a model that
    the next owner thinks is free. Told in a cluster, of objects with the label fleet-epp.dev/inventory,
    when none of the objects in fleet-epp.dev/source exists; sources in files are not looked for.
    """
    for one in view.everything():
        if not one.labels[INVENTORY].is_there:
            continue
        sources = [tuple(said.split("/")) for said in one.annotations[SOURCE].text.split(",") if said]
        known = [said for said in sources if len(said) == 3 and said[0] in _SOURCES]
        if not known or len(known) < len(sources):
            continue
        if any(
            not view.is_complete(kind, where) or view.find(kind, where, name) for kind, where, name in known
        ):
            continue
        yield Trap(
            one,
            "metadata.annotations." + SOURCE,
            f"{one.annotations[SOURCE].text} is gone, and this {one.kind} still acts",
            "epp apply --prune, or delete it" if one.kind in GROUPS else "delete it",
        )
