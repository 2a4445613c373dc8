"""Findings as SARIF 2.1.0, which code hosts show beside the lines of a change.

Place:   used by lint.
Source:  https://docs.oasis-open.org/sarif/sarif/v2.1.0/os/sarif-v2.1.0-os.html
"""

from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import quote

from epp.compiler.findings import Finding, Severity
from epp.lint.rule import Rule

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/os/schemas/sarif-schema-2.1.0.json"
_LEVELS = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.INFO: "note"}


def sarif(findings: Iterable[Finding], rules: Sequence[Rule], version: str) -> dict[str, Any]:
    """One run, with all ``rules``. ``version``: of this program."""
    indices = {one.code: index for index, one in enumerate(rules)}
    driver = {"name": "epp lint", "version": version, "rules": [_rule(one) for one in rules]}
    results = [_result(one, indices) for one in findings]
    return {"$schema": SCHEMA, "version": "2.1.0", "runs": [{"tool": {"driver": driver}, "results": results}]}


def _rule(rule: Rule) -> dict[str, Any]:
    return {
        "id": rule.code,
        "name": rule.code,
        "shortDescription": {"text": rule.title},
        "fullDescription": {"text": rule.incident},
        "defaultConfiguration": {"level": _LEVELS[rule.severity]},
    }


def _result(finding: Finding, indices: dict[str, int]) -> dict[str, Any]:
    known = {"ruleIndex": indices[finding.code]} if finding.code in indices else {}
    origin = finding.origin
    subject = f"{origin.object}: {origin.field}" if origin.field else origin.object
    text = f"{subject} {finding.message}" + (f". {finding.fix}" if finding.fix else "")
    return {
        "ruleId": finding.code,
        **known,
        "level": _LEVELS[finding.severity],
        "message": {"text": text},
        "locations": [_location(finding)],
    }


def _location(finding: Finding) -> dict[str, Any]:
    """The object, and where it stands in a file; of one in a cluster there is no more."""
    origin = finding.origin
    found: dict[str, Any] = {"logicalLocations": [{"fullyQualifiedName": origin.object, "kind": "object"}]}
    file, _, line = origin.place.rpartition(":")
    if not line.isdecimal():
        file, line = origin.place, ""
    if file:
        region = {"region": {"startLine": max(int(line), 1)}} if line else {}
        found["physicalLocation"] = {"artifactLocation": {"uri": quote(file)}, **region}
    return found
