"""What the rules of ``epp lint`` are, for people and for the API server: docs/lint.md and deploy/admission.

Used by tools/document-reference and tests.
"""

import re
from collections.abc import Iterator
from typing import Any

import yaml

from epp.compiler.findings import Severity
from epp.lint.registry import FAMILIES, RULES
from epp.lint.rule import Admission, Rule
from epp.lint.view import GROUPS, IGNORE

CASES = "../tests/golden/lint"

# --- docs/lint.md --------------------------------------------------------------------------------------


def index() -> str:
    """Every rule in a line, by family."""
    lines = ["| Code | Severity | What is wrong | The API server |", "|---|---|---|---|"]
    for family, title in FAMILIES.items():
        lines.append(f"| **{title}** | | | |")
        for one in _of(family.__name__):
            acts = sorted({"refuses" if _refuses(one, each) else "warns" for each in one.admissions})
            cells = f"[`{one.code}`](#{one.code.lower()})", str(one.severity), one.title, ", ".join(acts)
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def paragraphs() -> str:
    """Every rule with what it prevents."""
    parts = []
    for family, title in FAMILIES.items():
        parts.append(f"## {title}")
        for one in _of(family.__name__):
            files = {"bad": "bad", "good": "good", "what is said": "findings"}
            links = [f"[{word}]({CASES}/{one.code}/{file}.yaml)" for word, file in files.items()]
            parts += [f"### {one.code}", f"{_sentence(one)} {_prose(one.incident)}", ", ".join(links)]
    return "\n\n".join(parts)


def _of(module: str) -> Iterator[Rule]:
    family = module.rpartition(".")[2]
    yield from (one for one in RULES if one.family == family)


def _sentence(one: Rule) -> str:
    return f"*{one.severity}: {one.title}.*"


def _prose(text: str) -> str:
    return text.replace("*", "\\*").replace("|", "\\|").replace("<", "&lt;")


# --- deploy/admission ----------------------------------------------------------------------------------

HEADER = """\
# {what}
# Made by tools/document-reference from epp/lint/rules; docs/lint.md says what each code means.
"""
ABOUT = {
    "traps.yaml": "Refused: what cannot work whatever stands beside it.",
    "cautions.yaml": "Let through with a warning: what is wrong in most clusters, or with an AI gateway.",
}


def admission() -> dict[str, str]:
    """By file name."""
    files = {}
    for name, what in ABOUT.items():
        documents = [one for kind in _kinds() for one in _policy(kind, refuses=name == "traps.yaml")]
        text = yaml.safe_dump_all(documents, sort_keys=False, width=110)
        files[name] = HEADER.format(what=what) + text
    return files


def _kinds() -> list[str]:
    return sorted({each.kind for one in RULES for each in one.admissions})


def _refuses(one: Rule, each: Admission) -> bool:
    return one.severity is Severity.ERROR and each.is_certain


def plural(kind: str) -> str:
    """As the API's paths have it."""
    return re.sub(r"([^aeiou])y$", r"\1ie", kind.lower()) + "s"


def _policy(kind: str, *, refuses: bool) -> Iterator[dict[str, Any]]:
    """A policy for one kind, and its binding; nothing where it has no rules."""
    validations = [
        {
            "expression": f"'{one.code}' in variables.ignored || ({each.holds})",
            "message": f"{one.code}: {one.title} (epp lint --explain {one.code})",
        }
        for one in RULES
        for each in one.admissions
        if each.kind == kind and _refuses(one, each) is refuses
    ]
    if not validations:
        return
    name = f"fleet-epp-{'traps' if refuses else 'cautions'}-{kind.lower()}"
    rules = {
        "apiGroups": [GROUPS[kind]],
        "apiVersions": ["*"],
        "operations": ["CREATE", "UPDATE"],
        "resources": [plural(kind)],
    }
    yield {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": name},
        "spec": {
            "failurePolicy": "Fail",
            "matchConstraints": {"resourceRules": [rules]},
            "matchConditions": CONDITIONS,
            "variables": [{"name": "ignored", "expression": IGNORED}],
            "validations": validations,
        },
    }
    yield {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": name},
        "spec": {"policyName": name, "validationActions": ["Deny" if refuses else "Warn"]},
    }


IGNORED = f"object.metadata.?annotations[?'{IGNORE}'].orValue('').split(',').map(code, code.trim())"
CONDITIONS = [
    {
        "name": "not-made-by-a-controller",
        "expression": "!object.metadata.?ownerReferences.orValue([]).exists(o, o.?controller.orValue(false))",
    },
    {  # else what was there before could not even be deleted, where it has a finalizer
        "name": "spec-has-changed",
        "expression": "has(object.spec) && (oldObject == null || oldObject.?spec != object.?spec)",
    },
]
