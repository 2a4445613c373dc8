"""What files want and the cluster has: the part that ``epp plan`` and ``epp apply`` share.

Rule:    what cannot be read is an error before anything is compared: an object whose file is broken would
         look like one that is not wanted any more.
"""

import argparse
import asyncio
import difflib
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TextIO

import msgspec

from epp.commands import told
from epp.commands.files import Loaded, add_file, load
from epp.commands.manifests import text_of
from epp.commands.target import Parser, add_target, options
from epp.compiler.compile import Compiled, compile_documents
from epp.compiler.documents import Document
from epp.compiler.findings import Finding, Severity
from epp.compiler.kinds import Kind, Role, kinds_of
from epp.controller.cluster import Cluster
from epp.controller.difference import Difference, Doubt, Key, Step, Verb, belongs, difference, title
from epp.controller.discovery import Discovery
from epp.controller.fields import Object, ours_of, unstamped
from epp.runtime.errors import StartError
from epp.runtime.kubernetes.api import KubernetesApi
from epp.runtime.kubernetes.store import ApiFault

_COLOURS = {"+": "\033[32m", "-": "\033[31m", "@": "\033[36m", "~": "\033[33m"}
_PLAIN = "\033[0m"
_SIGNS = {Verb.CREATE: "+", Verb.CHANGE: "~", Verb.DELETE: "-"}


@dataclass(frozen=True, slots=True)
class Compared:
    """``cluster``: to write to, as long as the API is open."""

    compiled: Compiled
    findings: tuple[Finding, ...]
    difference: Difference
    cluster: Cluster

    @property
    def has_errors(self) -> bool:
        """Some input makes nothing new, or an object is somebody else's."""
        return any(one.is_error for one in self.findings) or bool(self.difference.conflicts)


def add_files(parser: Parser) -> None:
    """``-f``, the target's flags, and how it looks."""
    add_file(parser)
    add_target(parser, inventory="default")
    parser.add_argument(
        "--namespace", default="default", metavar="NAME", help="of objects that name none (default: default)"
    )
    parser.add_argument(
        "--color", choices=("auto", "always", "never"), default="auto", help="default: on a terminal"
    )


def read(flags: argparse.Namespace) -> Loaded:
    """The files; UsageError or StartError."""
    loaded = load(flags.files)
    for finding in loaded.findings:
        if finding.is_error:
            raise StartError(_sentence(finding))
    return loaded


async def compare(flags: argparse.Namespace, loaded: Loaded, api: KubernetesApi) -> Compared:
    """``api`` is open; StartError when the cluster cannot be read."""
    settings = options(flags, namespace=flags.namespace)
    discovery = Discovery(api)
    try:
        kinds = [one for one in kinds_of(settings.target) if one.role is not Role.DECLARED]
        await discovery.look(kinds)
        listed = await asyncio.gather(*(_listed(api, discovery, kind) for kind in kinds))
    except ApiFault as fault:
        raise StartError(f"the cluster cannot be read: {fault}") from fault
    there: dict[Key, tuple[Kind, Object]] = {}
    for kind, objects in zip(kinds, listed, strict=True):
        there.update((key, (kind, one)) for key, one in objects.items())
    given = {(one.kind, one.namespace or settings.namespace, one.name) for one in loaded.documents}
    around = [
        Document(dict(one))
        for key, (kind, one) in there.items()
        if key not in given and _counts(kind, one, settings.inventory)
    ]
    compiled = compile_documents([*loaded.documents, *around], settings)
    found = difference(
        compiled.objects,
        {key: one for key, (kind, one) in there.items() if kind.role is Role.MADE},
        inventory=settings.inventory,
        doubt=Doubt(failed=compiled.failed),
    )
    return Compared(
        compiled, loaded.findings_with(compiled.findings), found, Cluster(api, discovery, settings.inventory)
    )


def _counts(kind: Kind, live: Object, inventory: str) -> bool:
    """Of what we have made ourselves only what tells a pool's port."""
    return kind.name in {"InferencePool", "Service"} or not belongs(live, inventory)


async def _listed(api: KubernetesApi, discovery: Discovery, kind: Kind) -> Mapping[Key, Object]:
    resource = discovery.find(kind)
    if resource is None:
        return {}
    query = {"labelSelector": kind.selector} if kind.selector else {}
    try:
        body = await api.fetch(resource.path(""), query)
    except ApiFault as fault:
        if kind.role is Role.THERE and fault.status == 403:
            return {}
        raise
    found: dict[Key, Object] = {}
    api_version = f"{resource.group}/{resource.version}".lstrip("/")
    for item in msgspec.json.decode(body)["items"] or ():
        one = {"apiVersion": api_version, "kind": kind.name, **item}
        found[kind.name, one["metadata"].get("namespace", ""), one["metadata"]["name"]] = one
    return found


# --- for people ----------------------------------------------------------------------------------------


class Paper:
    """Where a plan is written, in colours where somebody sees them."""

    def __init__(self, out: TextIO, *, color: str) -> None:
        self.out = out
        self._is_coloured = color == "always" or (color == "auto" and told.is_coloured(out))

    def line(self, text: str, sign: str = "") -> None:
        """One line, in the colour of ``sign``."""
        colour = _COLOURS.get(sign, "") if self._is_coloured else ""
        self.out.write(f"{colour}{text}{_PLAIN if colour else ''}\n")
        self.out.flush()


def show(compared: Compared, paper: Paper) -> None:
    """Findings, what would change, and the sum of it."""
    told.show([one for one in compared.findings if one.severity is not Severity.INFO], paper.out)
    for conflict in compared.difference.conflicts:
        paper.line(
            f"error: {title(conflict.key)}: {conflict.why}: delete it, or give it our inventory label", "-"
        )
    for key in compared.difference.kept:
        paper.line(f"kept: {title(key)}: not wanted any more, but what it was made for has an error", "~")
    for step in compared.difference.steps:
        paper.line(f"{_SIGNS[step.verb]} {step.verb} {step.title}", _SIGNS[step.verb])
        for line in changes(step):
            paper.line(f"    {line}", line[:1])
    paper.line(summary(compared.difference.steps))


def summary(steps: Iterable[Step]) -> str:
    """``2 to create, 1 to change, 0 to delete``."""
    counts = Counter(step.verb for step in steps)
    if not counts:
        return "nothing to do: the cluster is as the files want it"
    return ", ".join(f"{counts[verb]} to {verb}" for verb in Verb)


def changes(step: Step) -> Iterator[str]:
    """The unified diff of our fields, as YAML; of what goes nothing."""
    if step.wanted is None:
        return
    before = "" if step.live is None else text_of(ours_of(step.live, step.wanted))
    after = text_of(unstamped(step.wanted))
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=3)
    yield from (line for line in lines if not line.startswith(("---", "+++")))


def _sentence(finding: Finding) -> str:
    origin = finding.origin
    where = ": ".join(part for part in (origin.place, origin.object, origin.field) if part)
    fix = f": {finding.fix}" if finding.fix else ""
    return f"{finding.severity}: {where}: {finding.message}{fix} ({finding.code})"


def without_deletions(found: Difference) -> Difference:
    """What is done without --prune."""
    return replace(found, steps=tuple(step for step in found.steps if step.verb is not Verb.DELETE))


def fault(command: str, text: object, status: int) -> int:
    """Said on standard error; the exit status."""
    sys.stderr.write(f"epp {command}: {text}\n")
    return status


def sources_of_conflicts(found: Difference) -> Sequence[str]:
    """Inputs of which an object is somebody else's."""
    return sorted({source for one in found.conflicts for source in one.sources})
