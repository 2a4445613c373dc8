"""Whether a document is a Fleet, and which: a slip here must not read as if there were no such fleet.

Place:   asked by __init__.py, and by ``epp controller`` before it takes anything of its fleet files.
Ignores: what the fleet says.
Rule:    what may be meant as a Fleet and is not, or does not say plainly which, is an error of that Fleet.
"""

from collections.abc import Iterator
from dataclasses import replace

from epp.compiler.documents import Document
from epp.compiler.findings import Finding, Origin, error
from epp.compiler.inputs.fleet.file import API_VERSION, KIND, check_name
from epp.config import decode
from epp.core.suggestions import suggestion

GROUP = API_VERSION.partition("/")[0]
_ALIKE = frozenset({KIND.lower(), f"{KIND.lower()}s"})
_METADATA = frozenset(
    {
        *("name", "namespace", "labels", "annotations", "generateName", "finalizers", "ownerReferences"),
        *("uid", "resourceVersion", "generation", "selfLink", "managedFields"),
        *("creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"),
    }
)
"""What Kubernetes knows: of any other it would be told that there is none."""


def is_fleet(document: Document) -> bool:
    """By its kind, which is all that is known of one with a fault."""
    return document.kind == KIND and document.group == GROUP


def faults(document: Document) -> Iterator[Finding]:
    """What keeps it from being the Fleet that it is meant as; nothing also where it is meant as none."""
    if not is_fleet(document) and not _is_meant(document):
        return
    origin = replace(document.origin, kind=KIND)  # what was made for the one that it was stays
    if document.group != GROUP:
        message = f'there is no kind "{document.kind}" of {origin.api_version}'
        fix = f'write "apiVersion: {API_VERSION}" and "kind: {KIND}"'
        yield error("SpecInvalid", origin.at("apiVersion"), message, fix)
    elif document.kind != KIND:
        message = f'there is no kind "{document.kind}" of {API_VERSION}'
        yield error("SpecInvalid", origin.at("kind"), message, f'write "kind: {KIND}"')
    for field in document.metadata:
        if field not in _METADATA:
            fix = suggestion(field, sorted(_METADATA)).removeprefix(", ") or "leave it out"
            yield error("SpecInvalid", origin.at(f"metadata.{field}"), "unknown field", fix)
    yield from _named(document, origin.at("metadata.name"), needed=True)
    yield from _named(document, origin.at("metadata.namespace"), needed=False)


def _is_meant(document: Document) -> bool:
    """Others have Fleets too: theirs have a spec."""
    return document.group == GROUP or (document.kind.lower() in _ALIKE and "spec" not in document.content)


def _named(document: Document, origin: Origin, *, needed: bool) -> Iterator[Finding]:
    value = document.metadata.get(origin.field.rpartition(".")[2], "")
    if not isinstance(value, str):
        shown = decode.shown(decode.section(value, "").node)
        yield error("SpecInvalid", origin, f"expected a string, got {shown}", "put it in quotes")
    elif (needed or value) and (fault := check_name(value)):
        yield error("SpecInvalid", origin, fault, "give it another name")
