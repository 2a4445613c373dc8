"""Each folder of tests/golden/compiler: what goes in, what comes out for each target, what is said about it.

``GOLDEN=write pytest tests/compiler/test_golden.py`` writes what comes out, for the targets whose files are
there, or all of them where none is. Read it before you keep it.
"""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from epp.commands.files import load
from epp.compiler.compile import Compiled, compile_documents
from epp.compiler.intent import GatewayRef
from epp.compiler.options import Options, Target

CASES = sorted(path.parent for path in (Path(__file__).parents[1] / "golden" / "compiler").glob("*/in.yaml"))
WRITES = os.environ.get("GOLDEN") == "write"


def targets(case: Path) -> list[Target]:
    there = [target for target in Target if (case / f"{target}.yaml").exists()]
    return there or (list(Target) if WRITES else [])


def compiled(case: Path, target: Target) -> Compiled:
    """Files name neither their folder nor the order in which they were read."""
    options = Options(target, gateway=GatewayRef("ai-gateway", "ai-gateway"), namespace="llm")
    documents = [
        replace(one, place=one.place.removeprefix(f"{case}/"))
        for one in load([str(case / "in.yaml")]).documents
    ]
    return compile_documents(documents, options)


def text(documents: Iterator[Any]) -> str:
    return yaml.safe_dump_all(documents, sort_keys=False, width=110, allow_unicode=True)


def compared(path: Path, came_out: str) -> None:
    if WRITES:
        path.write_text(came_out)
    assert came_out == path.read_text(), path


def test_there_are_cases() -> None:
    assert CASES


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_golden(case: Path) -> None:
    assert targets(case), f"{case.name}: for which targets? put an empty {Target.GATEWAY_API}.yaml there"
    findings = {}
    for target in targets(case):
        result = compiled(case, target)
        compared(case / f"{target}.yaml", text(one.document for one in result.objects))
        findings[str(target)] = [one.words for one in result.findings]
    compared(case / "findings.yaml", yaml.safe_dump(findings, sort_keys=False, width=110, allow_unicode=True))
    assert (case / "in.yaml").read_text().startswith("# "), "its first lines say what it shows"
