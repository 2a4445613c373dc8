"""``epp compile``: what is declared in files, as the objects that a gateway needs.

Rule:    objects go to standard output or into a directory, findings to standard error; the exit status is 1
         with an error among them, 2 when it was asked wrongly.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from epp.commands import files, manifests, showing
from epp.commands.output import printed
from epp.commands.target import Parser, add_target, options, parsed
from epp.compiler import http_routes
from epp.compiler.compile import Compiled, compile_documents
from epp.compiler.emission import ROUTES
from epp.compiler.findings import Finding
from epp.compiler.options import Options, Target
from epp.compiler.targets import agentgateway
from epp.config.flags import UsageError

ABOUT = """\
Reads fleet files, and LLMKube's InferenceServices and ModelRouters, and makes what a gateway needs for them:
pools, routes, policies. Other objects in the same files (Gateways, Services) tell what is there.
"""
STATUS = """\
exit status: 0; 1 with an error among the findings, whose objects make nothing new; 2 for wrong arguments.
"""


def parser() -> Parser:
    """What the command takes."""
    made = Parser("compile", ABOUT, epilog=STATUS)
    files.add_file(made)
    add_target(made, inventory="default")
    made.add_argument(
        "--namespace",
        default="default",
        metavar="NAME",
        help="of objects in files that name none (default: %(default)s)",
    )
    made.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="write a file for each object there, and remove those of earlier runs that are not wanted now",
    )
    made.add_argument(
        "--split",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="spread the rules of a router or fleet that are too many for one route of the gateway over"
        " several, as plan, apply and controller do; with --no-split they are an error, and nothing is made",
    )
    made.add_argument(
        "--format",
        choices=("yaml", "json"),
        default="yaml",
        help="of standard output: the objects as YAML, or objects and findings as one JSON text "
        "(default: %(default)s)",
    )
    return made


def run(arguments: Sequence[str]) -> int:
    """The command; returns its exit status."""
    try:
        flags = parsed(parser(), arguments)
        loaded = files.load(flags.files)
        settings = options(flags, namespace=flags.namespace)
        compiled = compile_documents(loaded.documents, settings)
        if not flags.split and (large := _too_large(compiled, settings.target)):
            return _fault(large, 1)
        wrote = ""
        if flags.out is not None:
            compiled, wrote = _written(loaded, compiled, settings, flags.out)
        findings = loaded.findings_with(compiled.findings)
    except UsageError as fault:
        return _fault(fault, 2)
    except manifests.NotOursError as fault:
        return _fault(fault, 1)
    except OSError as fault:
        return _fault(
            f"--out {fault.filename or flags.out}: {fault.strerror}: name a directory to write to", 1
        )
    with printed():
        _print(compiled, findings, wrote, flags)
    return int(any(one.is_error for one in findings))


MOST_RULES = {
    Target.ENVOY_AI_GATEWAY_0_7: http_routes.MOST_AI_RULES,
    Target.ENVOY_AI_GATEWAY_1_1: http_routes.MOST_AI_RULES,
    Target.AGENTGATEWAY: agentgateway.MOST_RULES,
    Target.GATEWAY_API: http_routes.MOST_RULES,
}
"""Of one route."""


def _too_large(compiled: Compiled, target: Target) -> str:
    """The first input that one route has no room for, and how to mend it; empty: there is none."""
    rules: dict[str, list[Any]] = {}
    for one in compiled.objects:
        for whole in {source.whole for source in one.sources} if one.key[0] in ROUTES else ():
            rules.setdefault(whole, []).extend(one.document["spec"]["rules"])
    for whole, found in sorted(rules.items()):
        matches = sum(len(rule.get("matches") or (None,)) for rule in found)
        if len(found) > MOST_RULES[target] or matches > http_routes.MOST_IN_ROUTE:
            return (
                f"--no-split: {whole} comes to {len(found)} rules with {matches} matches, and a route of"
                f" {target} holds {MOST_RULES[target]} with {http_routes.MOST_IN_ROUTE}: leave --no-split"
                " out, or make several of it"
            )
    return ""


def _print(compiled: Compiled, findings: Sequence[Finding], wrote: str, flags: argparse.Namespace) -> None:
    if flags.format == "json":
        content = {
            "objects": [one.document for one in compiled.objects],
            "findings": [one.words for one in findings],
        }
        sys.stdout.write(f"{json.dumps(content, indent=2, ensure_ascii=False)}\n")
    else:
        if flags.out is None:
            manifests.print_all(compiled.objects, sys.stdout)
        showing.show(findings, sys.stderr)
        sys.stderr.write(_summary(compiled, findings, wrote))


def _fault(fault: object, status: int) -> int:
    sys.stderr.write(f"epp compile: {fault}\n")
    return status


def _written(loaded: files.Loaded, compiled: Compiled, settings: Options, out: Path) -> tuple[Compiled, str]:
    """What was compiled, and for people what was done in the directory.

    Where pools in it stay because of an error, it is compiled again with them: like those of a cluster they
    have their ports, which the picker's Service has to go on having, and no new pool may get.
    """
    is_whole = not any(one.is_error for one in loaded.findings)
    failed = compiled.failed if is_whole else None
    folder = manifests.opened(out, inventory=settings.inventory)
    given = {(one.kind, one.namespace or settings.namespace, one.name) for one in loaded.documents}
    staying = [one for one in folder.pools(failed) if (one.kind, one.namespace, one.name) not in given]
    if staying:
        compiled = compile_documents([*loaded.documents, *staying], settings)
    written, removed = manifests.write_all(compiled.objects, folder, failed=failed)
    return compiled, f", {written} files written and {removed} removed in {out}"


def _summary(compiled: Compiled, findings: Sequence[Finding], wrote: str) -> str:
    counted = showing.count(findings)
    return f"{len(compiled.objects)} objects{wrote}{'; ' if counted else ''}{counted}\n"
