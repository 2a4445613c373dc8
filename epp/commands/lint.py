"""``epp lint``: traps in manifests that people have written, of files or of a cluster.

Rule:    findings go to standard output, what kept us from looking to standard error. Exit status 0: none as
         grave as --fail-on; 1: some; 2: asked wrongly, or there is nothing that could be read.
"""

import argparse
import asyncio
import difflib
import json
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version

from epp.commands import linted, showing
from epp.commands.files import Loaded, load
from epp.commands.listing import add_cluster, api_of
from epp.commands.output import printed
from epp.commands.sarif import sarif
from epp.commands.target import Parser, parsed
from epp.compiler.documents import Document, Documents
from epp.compiler.findings import Finding, Severity
from epp.config import decode
from epp.config.decode import ConfigError
from epp.config.flags import UsageError
from epp.lint import lint
from epp.lint.context import LATEST, Context
from epp.lint.registry import BY_CODE, RULES
from epp.runtime.errors import StartError
from epp.runtime.kubernetes.store import ApiFault

STATUS = """\
exit status: 0; 1 with findings as grave as --fail-on; 2 for wrong arguments or a cluster without an answer,
or where nothing may be read.

The annotation fleet-epp.dev/lint-ignore: Code1,Code2 of an object says that it is meant so. What a code
means: epp lint --explain CODE, and docs/lint.md.
"""
VALUES = "Values"
"""Kind of what is no object, such as values of a Helm chart, held as a HelmRelease holds them."""
_IN_VALUES = "spec.values."
_NOTHING = "nothing found"


def parser() -> Parser:
    """What the command takes."""
    made = Parser("lint", "Find what will go wrong with objects for gateways.", epilog=STATUS)
    made.add_argument(
        "-f",
        "--file",
        dest="files",
        action="append",
        default=[],
        metavar="FILE|DIR|-",
        help="objects, and Helm values: a file, a directory with all below it, or - for standard input;"
        " several add up",
    )
    made.add_argument("--cluster", action="store_true", help="the objects of the cluster")
    add_cluster(made)
    made.add_argument(
        "--namespace",
        action="append",
        default=[],
        metavar="NAME",
        help="with --cluster, only of this namespace, may be repeated; with -f, of objects that name none",
    )
    made.add_argument("--format", choices=("text", "json", "sarif"), default="text", help="(default: text)")
    made.add_argument(
        "--fail-on",
        choices=(*Severity, "never"),
        default="error",
        help="the least grave finding with which the exit status is 1 (default: error)",
    )
    made.add_argument(
        "--ignore",
        action="append",
        default=[],
        type=_code,
        metavar="CODE",
        help="do not tell of this; may be repeated",
    )
    made.add_argument(
        "--version",
        type=_version,
        default=LATEST,
        metavar="N.N",
        help="of Envoy AI Gateway (default: 1.1)",
    )
    made.add_argument("--explain", type=_code, metavar="CODE", help="what a code means, and nothing else")
    return made


def _code(text: str) -> str:
    if text not in BY_CODE:
        near = difflib.get_close_matches(text, BY_CODE, 1)
        hint = f', did you mean "{near[0]}"?' if near else ": docs/lint.md has them all"
        raise argparse.ArgumentTypeError(f'there is no code "{text}"{hint}')
    return text


def _version(text: str) -> tuple[int, int]:
    parts = text.removeprefix("v").split(".")
    if len(parts) < 2 or not all(part.isdecimal() for part in parts):
        raise argparse.ArgumentTypeError(f'"{text}" is no version: write as in 0.7')
    return int(parts[0]), int(parts[1])


def run(arguments: Sequence[str]) -> int:
    """The command; returns its exit status."""
    try:
        flags = parsed(parser(), arguments)
        if flags.explain:
            return _explain(flags.explain)
        if bool(flags.files) == flags.cluster:
            raise UsageError("give -f FILE or --cluster, one of the two: see epp lint --help")
        if flags.files and len(flags.namespace) > 1:
            raise UsageError("--namespace: objects of files that name none are in one namespace")
        found, nothing = _of_cluster(flags) if flags.cluster else (_of_files(flags), _NOTHING)
    except SystemExit as end:  # --help, which argparse has printed
        if end.code:
            raise
        return 0
    except (UsageError, StartError, ApiFault) as fault:
        sys.stderr.write(f"epp lint: {fault}\n")
        return 2
    found = [one for one in found if one.code not in flags.ignore]
    with printed():
        _print(found, flags.format, nothing)
    return int(flags.fail_on != "never" and any(_is_as_grave(one, flags.fail_on) for one in found))


def _is_as_grave(finding: Finding, least: str) -> bool:
    return finding.severity.rank <= Severity(least).rank


def _explain(code: str) -> int:
    rule = BY_CODE[code]
    incident = textwrap.fill(rule.incident, 100, break_on_hyphens=False)
    with printed():
        sys.stdout.write(f"{rule.code} ({rule.severity}): {rule.title}\n\n{incident}\n")
    return 0


# --- files ---------------------------------------------------------------------------------------------


def _of_files(flags: argparse.Namespace) -> list[Finding]:
    loaded = load(flags.files)
    values = [_as_release(one) for one in loaded.values]
    documents = [*unfolded(loaded.documents), *values]
    read_all_the_same = {one.place for one in values}
    kept = [
        one
        for one in loaded.findings
        if not (one.code == "NoObject" and one.origin.place in read_all_the_same)
    ]
    context = Context(version=flags.version, namespace=next(iter(flags.namespace), "default"))
    return [*kept, *(_located(loaded, one) for one in lint(Documents(documents), context))]


def _as_release(values: Document) -> Document:
    file = values.place.rpartition(":")[0]
    content = {"kind": VALUES, "metadata": {"name": file}, "spec": {"values": values.content}}
    return replace(values, content=content)


def _located(loaded: Loaded, finding: Finding) -> Finding:
    """At the line of its field."""
    if finding.origin.kind == VALUES:
        bare = finding.origin.field.removeprefix(_IN_VALUES)
        finding = replace(finding, origin=finding.origin.at(bare))
    return loaded.located(finding)


def unfolded(documents: Iterable[Document]) -> list[Document]:
    """With the EnvoyGateway configurations that ConfigMaps hold as text."""
    return [one for document in documents for one in (document, *_within(document))]


def _within(document: Document) -> Iterable[Document]:
    data = document.content.get("data")
    if document.kind != "ConfigMap" or not isinstance(data, Mapping):
        return
    for text in data.values():
        if isinstance(text, str) and "EnvoyGateway" in text:
            try:
                found = [decode.plain(one) for one in decode.parse_all(text, document.name)]
            except ConfigError:
                continue  # a ConfigMap may hold anything
            for one in found:
                if isinstance(one, dict) and one.get("kind") == "EnvoyGateway":
                    yield replace(document, content={**one, "metadata": document.metadata})


# --- cluster -------------------------------------------------------------------------------------------


def _of_cluster(flags: argparse.Namespace) -> tuple[list[Finding], str]:
    """What was found, and what to say where that is nothing."""
    found = asyncio.run(_ask(flags))
    if found.unread and not found.readable:
        reason = next(iter(found.unread.values()))
        raise StartError(f"--cluster: nothing may be read of what was asked for: {reason}")
    for kind, reason in found.unread.items():
        sys.stderr.write(f"epp lint: {kind} could not be read, rules about it say nothing: {reason}\n")
    context = Context(
        is_live=True,
        version=flags.version,
        unread=frozenset(found.unread),
        namespaces=frozenset(flags.namespace),
    )
    nothing = "nothing found in what may be read" if found.unread else _NOTHING
    return lint(Documents(unfolded(found.documents)), context), nothing


async def _ask(flags: argparse.Namespace) -> linted.Found:
    api = api_of(flags, flag="cluster", otherwise="-f takes files")
    await api.open()
    try:
        return await linted.read(api, flags.namespace)
    finally:
        await api.close()


# --- what is told --------------------------------------------------------------------------------------


def _print(findings: Sequence[Finding], form: str, nothing: str) -> None:
    if form == "text":
        showing.show(findings, sys.stdout)
        sys.stdout.write(f"{showing.count(findings) or nothing}\n")
        return
    shown = (
        sarif(findings, RULES, version("fleet-epp"))
        if form == "sarif"
        else {"findings": [one.words for one in findings]}
    )
    sys.stdout.write(json.dumps(shown, indent=2, ensure_ascii=False) + "\n")
