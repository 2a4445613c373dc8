"""What files want and the cluster has: the part that ``epp plan`` and ``epp apply`` share.

Rule:    what cannot be read is an error before anything is compared: an object whose file is broken would
         look like one that is not wanted any more.
"""

import argparse
import asyncio
import difflib
import os
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import zip_longest
from typing import Any, TextIO

from epp.commands import showing
from epp.commands.files import Loaded, add_file, load
from epp.commands.listing import add_cluster, listed, patiently
from epp.commands.manifests import text_of
from epp.commands.target import Parser, add_target, options
from epp.compiler.compile import Compiled, compile_documents
from epp.compiler.documents import Document
from epp.compiler.findings import Finding, Origin, Severity, error
from epp.compiler.kinds import KINDS, Kind, Role, kinds_of
from epp.compiler.marks import INVENTORY, Inventory, sources_of
from epp.compiler.options import Options
from epp.controller.cluster import Cluster
from epp.controller.difference import (
    Conflict,
    Difference,
    Doubt,
    Key,
    Step,
    Verb,
    belongs,
    difference,
    title,
)
from epp.controller.discovery import Discovery
from epp.controller.fields import Object, ours_of, unstamped
from epp.runtime.errors import StartError
from epp.runtime.kubernetes.api import KubernetesApi
from epp.runtime.kubernetes.store import ApiFault

_COLOURS = {"+": "\033[32m", "-": "\033[31m", "@": "\033[36m", "~": "\033[33m"}
_PLAIN = "\033[0m"
UNREAD = 141
"""Exit status where nobody has read to the end: as a shell shows what SIGPIPE has ended."""
_SIGNS = {Verb.CREATE: "+", Verb.CHANGE: "~", Verb.DELETE: "-"}


@dataclass(frozen=True, slots=True)
class Compared:
    """``cluster``: to write to, as long as the API is open.

    ``others``: deletions that are not asked for: of our inventory, but not made for these files alone.
    ``unlisted``: kinds of other targets that could not be looked through for what is ours.
    """

    compiled: Compiled
    findings: tuple[Finding, ...]
    difference: Difference
    cluster: Cluster
    others: tuple[Step, ...] = ()
    unlisted: tuple[str, ...] = ()

    @property
    def has_errors(self) -> bool:
        """Some input makes nothing new, or an object is somebody else's."""
        return any(one.is_error for one in self.findings) or bool(self.difference.conflicts)

    @property
    def is_clean(self) -> bool:
        """With no step left the cluster is as the files want it."""
        return not (self.has_errors or self.difference.kept)


def add_files(parser: Parser) -> None:
    """``-f``, the target's flags, and how it looks."""
    add_file(parser)
    add_target(parser, inventory="default")
    parser.add_argument(
        "--namespace", default="default", metavar="NAME", help="of objects that name none (default: default)"
    )
    parser.add_argument(
        "--prune-all",
        action="store_true",
        help="delete all of the inventory that these files do not want, also what other files asked for",
    )
    add_cluster(parser)
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
    seen = await _seen(api, discovery, settings)
    settings = replace(settings, sees_gateways="Gateway" not in seen.hidden)
    given = {(one.kind, one.namespace or settings.namespace, one.name) for one in loaded.documents}
    around = [
        Document(dict(one))
        for key, (kind, one) in seen.objects.items()
        if key not in given and _counts(kind, one, settings)
    ]
    compiled = compile_documents([*loaded.documents, *around], settings)
    found = difference(
        compiled.objects,
        {key: one for key, (kind, one) in seen.objects.items() if kind.role is Role.MADE},
        inventory=Inventory(settings.inventory),
        doubt=Doubt(failed=compiled.failed),
    )
    others = () if flags.prune_all else tuple(_others(found, {"/".join(key) for key in given}))
    return Compared(
        compiled,
        (*loaded.findings_with(compiled.findings), *_missing(compiled, discovery)),
        replace(found, steps=tuple(step for step in found.steps if step not in others)),
        Cluster(api, discovery, Inventory(settings.inventory)),
        others,
        tuple(sorted(seen.unlisted)),
    )


def _others(found: Difference, inputs: Collection[str]) -> Iterator[Step]:
    """Deletions of what was not made for these files alone: whoever has the other files wants it still."""
    for step in found.steps:
        if step.verb is Verb.DELETE and not (_wholes(step) and _wholes(step) <= set(inputs)):
            yield step


def _wholes(step: Step) -> frozenset[str]:
    """What an object was made for, without the parts of it."""
    return frozenset("/".join(one.split("/")[:3]) for one in sources_of(step.live or {}))


@dataclass(slots=True)
class _Seen:
    """``hidden``: kinds around that may not be listed. ``unlisted``: those that only other targets make."""

    objects: dict[Key, tuple[Kind, Object]] = field(default_factory=dict)
    hidden: set[str] = field(default_factory=set)
    unlisted: set[str] = field(default_factory=set)


async def _seen(api: KubernetesApi, discovery: Discovery, settings: Options) -> _Seen:
    """What the target makes and what is around it, and what was made here for other targets."""
    kinds = [one for one in kinds_of(settings.target) if one.role is not Role.DECLARED]
    names = {(one.group, one.name) for one in kinds if one.role is Role.MADE}
    foreign = [one for one in KINDS if one.role is Role.MADE and (one.group, one.name) not in names]
    ours = f"{INVENTORY}={settings.inventory}"
    seen = _Seen()
    try:
        await patiently(partial(discovery.look, [*kinds, *foreign]))
        asked = [_listed(api, discovery, kind, kind.selector, _may_miss(kind, seen.hidden)) for kind in kinds]
        asked += [_listed(api, discovery, kind, ours, seen.unlisted) for kind in foreign]
        for kind, answer in zip([*kinds, *foreign], await asyncio.gather(*asked), strict=True):
            seen.objects.update((key, (kind, one)) for key, one in answer.items())
    except ApiFault as fault:
        raise StartError(f"the cluster cannot be read: {fault}") from fault
    return seen


def _may_miss(kind: Kind, hidden: set[str]) -> set[str] | None:
    return hidden if kind.role is Role.THERE else None


def _counts(kind: Kind, live: Object, settings: Options) -> bool:
    """Of what we have made ourselves only what tells a pool's port."""
    return kind.name in {"InferencePool", "Service"} or not belongs(live, Inventory(settings.inventory))


async def _listed(
    api: KubernetesApi, discovery: Discovery, kind: Kind, selector: str, refused: set[str] | None
) -> Mapping[Key, Object]:
    """``refused``: gets the kind where it may not be listed; None: it has to be."""
    resource = discovery.find(kind)
    if resource is None:
        return {}
    try:
        items = await listed(api, resource, query={"labelSelector": selector} if selector else {})
    except ApiFault as fault:
        if fault.status != 403 or refused is None:
            raise
        refused.add(kind.name)
        return {}
    api_version = f"{resource.group}/{resource.version}".lstrip("/")
    found: dict[Key, Object] = {}
    for item in items:
        one = {"apiVersion": api_version, "kind": kind.name, **item}
        found[kind.name, one["metadata"].get("namespace", ""), one["metadata"]["name"]] = one
    return found


def _missing(compiled: Compiled, discovery: Discovery) -> Iterator[Finding]:
    """Kinds without which nothing can be applied, each once."""
    wanted = Counter((one.document["apiVersion"], one.key[0]) for one in compiled.objects)
    for (api_version, kind), number in sorted(wanted.items()):
        group, _, version = api_version.rpartition("/")
        if discovery.at(group, version, kind) is None:
            yield error(
                "GatewayCRDsNotInstalled",
                Origin("CustomResourceDefinition", "", f"{kind} of {api_version}"),
                f"the cluster does not have this kind: {number} of it cannot be made, nor what comes after",
                f"install the gateway with its CRDs ({group}), or name the --target that is installed",
            )


# --- for people ----------------------------------------------------------------------------------------


class Paper:
    """Where a plan is written, in colours where somebody sees them.

    Whoever reads may stop, as ``head`` does: what is being done then goes on.
    """

    def __init__(self, out: TextIO, *, color: str) -> None:
        self.is_read = True
        self._out = out
        self._is_coloured = color == "always" or (color == "auto" and showing.is_coloured(out))

    def line(self, text: str, sign: str = "") -> None:
        """One line, in the colour of ``sign``."""
        colour = _COLOURS.get(sign, "") if self._is_coloured else ""
        with self._watched():
            self._out.write(f"{colour}{text}{_PLAIN if colour else ''}\n")

    def findings(self, findings: Sequence[Finding]) -> None:
        """As every command shows them."""
        with self._watched():
            showing.show(findings, self._out)

    @contextmanager
    def _watched(self) -> Iterator[None]:
        try:
            yield
            self._out.flush()
        except BrokenPipeError:
            self.is_read = False
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._out.fileno())


def show(compared: Compared, paper: Paper) -> None:
    """Findings, what would change, and the sum of it."""
    paper.findings([one for one in compared.findings if one.severity is not Severity.INFO])
    for conflict in compared.difference.conflicts:
        paper.line(f"error: {title(conflict.key)}: {conflict.why}: {_way_out(conflict)}", "-")
    for key in compared.difference.kept:
        paper.line(f"kept: {title(key)}: not wanted any more, but what it was made for has an error", "~")
    for line in _kept_for_others(compared):
        paper.line(line, "~")
    for step in compared.difference.steps:
        paper.line(f"{_SIGNS[step.verb]} {step.verb} {step.title}", _SIGNS[step.verb])
        for line in changes(step):
            paper.line(f"    {line}", line[:1])
    paper.line(summary(compared.difference.steps, is_clean=compared.is_clean))


def _way_out(conflict: Conflict) -> str:
    if conflict.inventory:
        return (
            "an object has one inventory: put what asks for it into one, or use another Gateway and namespace"
        )
    return "delete it, or give it our inventory label"


def _kept_for_others(compared: Compared) -> Iterator[str]:
    counts = Counter(", ".join(sorted(_wholes(step))) or "nothing" for step in compared.others)
    for whose, number in sorted(counts.items()):
        objects = "1 object" if number == 1 else f"{number} objects"
        yield f"kept: {objects} of {whose}, not in these files alone: --prune-all would delete"
    if compared.unlisted:
        kinds = ", ".join(compared.unlisted)
        yield f"not looked for: what was made for other targets and may not be listed: {kinds}"


def summary(steps: Iterable[Step], *, is_clean: bool = True) -> str:
    """``2 to create, 1 to change, 0 to delete``. ``is_clean``: nothing else is left to mend."""
    counts = Counter(step.verb for step in steps)
    if not counts and is_clean:
        return "nothing to do: the cluster is as the files want it"
    return ", ".join(f"{counts[verb]} to {verb}" for verb in Verb)


def changes(step: Step) -> Iterator[str]:
    """The unified diff of our fields, as YAML; of what goes nothing."""
    if step.wanted is None:
        return
    wanted = unstamped(step.wanted)
    before = "" if step.live is None else text_of(in_order(ours_of(step.live, step.wanted), wanted))
    lines = difflib.unified_diff(before.splitlines(), text_of(wanted).splitlines(), lineterm="", n=3)
    yield from (line for line in lines if not line.startswith(("---", "+++")))


def in_order(live: Any, wanted: Any) -> Any:
    """``live`` with its fields where ``wanted`` has them: one that has only moved is no change."""
    if isinstance(live, Mapping) and isinstance(wanted, Mapping):
        names = [*(name for name in wanted if name in live), *(name for name in live if name not in wanted)]
        return {name: in_order(live[name], wanted.get(name)) for name in names}
    if isinstance(live, list) and isinstance(wanted, list):
        return [in_order(one, other) for one, other in zip_longest(live, wanted[: len(live)])]
    return live


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
