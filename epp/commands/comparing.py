"""What files want and the cluster has: the part that ``epp plan`` and ``epp apply`` share.

Rule:    what cannot be read is an error before anything is compared: an object whose file is broken would
         look like one that is not wanted any more. What was made for an input that is not in the
         files is not undone: other files ask for it.
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
from epp.compiler.emission import ROUTES, Emitted
from epp.compiler.findings import Finding, Origin, Severity, error
from epp.compiler.kinds import KINDS, Kind, Role, kinds_of
from epp.compiler.marks import INVENTORY, OWNER, SOURCE, Inventory, sources_of
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
from epp.controller.fields import Object, is_as_wanted, ours_of, stamped, unstamped
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
    ``needed``: deletions of Services that InferencePools which stay ask for. ``unlisted``: kinds of other
    targets that could not be looked through for what is ours.
    """

    compiled: Compiled
    findings: tuple[Finding, ...]
    difference: Difference
    cluster: Cluster
    others: tuple[Step, ...] = ()
    needed: tuple[Step, ...] = ()
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
        help="take what these files do not name for gone: delete all of the inventory that they do not want",
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
    live = {key: one for key, (kind, one) in seen.objects.items() if kind.role is Role.MADE}
    ours = Inventory(settings.inventory)
    inputs = None if flags.prune_all else {"/".join(key) for key in given}
    desired = [_also_for(one, live.get(one.key), ours, inputs) for one in compiled.objects]
    found = difference(desired, live, inventory=ours, doubt=Doubt(failed=compiled.failed))
    others = tuple(step for step in found.steps if step.verb is Verb.DELETE and _is_of_others(step, inputs))
    taken = {one.key: one for step in found.steps if (one := _taken(step, live, inputs))}
    found = replace(
        found,
        steps=tuple(step for step in found.steps if step not in others and step.key not in taken),
        conflicts=(*found.conflicts, *taken.values()),
    )
    needed = tuple(_needed(found, live))
    return Compared(
        compiled,
        (*loaded.findings_with(compiled.findings), *_missing(compiled, discovery), *_nowhere(compiled, seen)),
        replace(found, steps=tuple(step for step in found.steps if step not in needed)),
        Cluster(api, discovery, ours),
        others,
        needed,
        tuple(sorted(seen.unlisted)),
    )


# --- other files ---------------------------------------------------------------------------------------
_TOGETHER = (
    "give the file of that, too (-f A -f B); where it is gone for good, all files that there are and"
    " --prune-all"
)
# ``inputs``: ``Kind/namespace/name`` of those in the files; None: there are no others.


def _also_for(
    emitted: Emitted, live: Object | None, inventory: Inventory, inputs: Collection[str] | None
) -> Emitted:
    """Made for inputs of other files still, as it says: so that those who have these know it for theirs."""
    if live is None or not belongs(live, inventory) or not (absent := _absent(live, inputs)):
        return emitted
    said = emitted.document["metadata"]["annotations"]
    sources = sources_of(emitted.document) | {one for one in sources_of(live) if _whole(one) in absent}
    owners = {one for each in (said, _marks(live)) for one in each.get(OWNER, "").split(", ") if one}
    marks = {SOURCE: ",".join(sorted(sources)), **({OWNER: ", ".join(sorted(owners))} if owners else {})}
    return replace(emitted, document=_with_marks(emitted.document, marks))


def _taken(step: Step, live: Mapping[Key, Object], inputs: Collection[str] | None) -> Conflict | None:
    """What others have, whose files are not here, and want as it is: an object, or a Gateway."""
    if inputs is None or step.wanted is None:
        return None
    if step.live is None:
        others, what = _beside(step.wanted, live, inputs), "it would be for a Gateway that serves"
    elif is_as_wanted(stamped(_as_before(step.wanted, step.live)), step.live):
        return None
    else:
        others, what = _absent(step.live, inputs), "it would change, and was made for"
    if not others:
        return None
    return Conflict(
        step.key, step.sources, f"{what} {', '.join(sorted(others))}, not in these files", _TOGETHER
    )


def _beside(policy: Object, live: Mapping[Key, Object], inputs: Collection[str]) -> frozenset[str]:
    """Whose routes come in where a policy is for."""
    targets = _gateways(policy, "targetRefs")
    routes = (one for key, one in live.items() if targets and key[0] in ROUTES)
    return frozenset(
        other
        for route in routes
        if any(_is_same_place(one, each) for one in targets for each in _gateways(route, "parentRefs"))
        for other in _absent(route, inputs)
    )


def _gateways(document: Object, field_name: str) -> list[tuple[str, str, str]]:
    """Namespace, name and listener; an empty one: all of them."""
    home = document["metadata"].get("namespace", "")
    refs = (document.get("spec") or {}).get(field_name) or ()
    return [
        (one.get("namespace", home), one["name"], one.get("sectionName", ""))
        for one in refs
        if one.get("kind", "Gateway") == "Gateway"
    ]


def _is_same_place(one: tuple[str, str, str], other: tuple[str, str, str]) -> bool:
    return one[:2] == other[:2] and (one[2] == other[2] or not (one[2] and other[2]))


def _as_before(wanted: Object, live: Object) -> dict[str, Any]:
    """Without what takes nothing from anybody: more inputs that it is for, more ports of a Service."""
    before = _with_marks(unstamped(wanted), _marks(live))
    if before["kind"] == "Service":
        there = {one["port"] for one in (live.get("spec") or {}).get("ports") or ()}
        spec = before["spec"]
        before["spec"] = {**spec, "ports": [one for one in spec["ports"] if one["port"] in there]}
    return before


def _marks(live: Object) -> dict[str, str]:
    said = live["metadata"].get("annotations") or {}
    return {key: said[key] for key in (SOURCE, OWNER) if key in said}


def _with_marks(document: Object, marks: Mapping[str, str]) -> dict[str, Any]:
    meta = document["metadata"]
    others = {key: one for key, one in meta["annotations"].items() if key not in {SOURCE, OWNER}}
    return {**document, "metadata": {**meta, "annotations": {**others, **marks}}}


def _is_of_others(step: Step, inputs: Collection[str] | None) -> bool:
    """Whether a deletion is of what was not made for these files alone: whoever has the others wants it."""
    return inputs is not None and (not _wholes(step.live or {}) or bool(_absent(step.live or {}, inputs)))


def _absent(live: Object, inputs: Collection[str] | None) -> frozenset[str]:
    """What an object was made for, and is not in the files."""
    return frozenset() if inputs is None else _wholes(live) - set(inputs)


def _wholes(live: Object) -> frozenset[str]:
    """What an object was made for, without the parts of it."""
    return frozenset(map(_whole, sources_of(live)))


def _whole(source: str) -> str:
    return "/".join(source.split("/")[:3])


def _needed(found: Difference, live: Mapping[Key, Object]) -> Iterator[Step]:
    """Deletions of Services that a pool which stays, whoever has made it, has its picker behind."""
    going = {step.key for step in found.steps if step.verb is Verb.DELETE}
    pools = (one for key, one in live.items() if key[0] == "InferencePool" and key not in going)
    pickers = {_picker(one) for one in pools}
    yield from (step for step in found.steps if step.verb is Verb.DELETE and step.key in pickers)


def _picker(pool: Object) -> Key:
    picker = (pool.get("spec") or {}).get("endpointPickerRef") or {}
    return "Service", pool["metadata"].get("namespace", ""), picker.get("name", "")


# --- the cluster ---------------------------------------------------------------------------------------


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


def _nowhere(compiled: Compiled, seen: _Seen) -> Iterator[Finding]:
    """Namespaces that are not there, each once; where they may not be listed nobody knows."""
    if "Namespace" in seen.hidden:
        return
    wanted = Counter(one.key[1] for one in compiled.objects if one.key[1])
    for name, number in sorted(wanted.items()):
        if ("Namespace", "", name) not in seen.objects:
            yield error(
                "NamespaceNotFound",
                Origin("Namespace", "", name),
                f"the cluster does not have this namespace: {number} objects cannot be made in it",
                f"kubectl create namespace {name}, or name another one",
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
            showing.show(findings, self._out, coloured=self._is_coloured)

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
        paper.line(f"error: {title(conflict.key)}: {conflict.why}: {conflict.fix}", "-")
    for key in compared.difference.kept:
        paper.line(f"kept: {title(key)}: not wanted any more, but what it was made for has an error", "~")
    for step in compared.needed:
        paper.line(f"kept: {step.title}: InferencePools that stay ask for it", "~")
    for line in _kept_for_others(compared):
        paper.line(line, "~")
    for step in compared.difference.steps:
        paper.line(f"{_SIGNS[step.verb]} {step.verb} {step.title}", _SIGNS[step.verb])
        for line in changes(step):
            paper.line(f"    {line}", line[:1])
    paper.line(summary(compared.difference.steps, is_clean=compared.is_clean))


def _kept_for_others(compared: Compared) -> Iterator[str]:
    counts = Counter(", ".join(sorted(_wholes(step.live or {}))) or "nothing" for step in compared.others)
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
