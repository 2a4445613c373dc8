"""Traps in objects for gateways that people have written, found before they are applied or in a cluster.

Place:   used by epp.commands.lint; reads what the compiler reads.
Ignores: files, the cluster, YAML.
Rule:    a finding is certain: a rule that would need an object which was not given says nothing. What no
         object shows is in docs/lint.md.
"""

from epp.compiler.documents import Documents
from epp.compiler.findings import Finding
from epp.lint.context import Context
from epp.lint.registry import RULES
from epp.lint.view import View


def lint(documents: Documents, context: Context) -> list[Finding]:
    """The gravest first."""
    view = View(documents, context)
    found = dict.fromkeys(finding for rule in RULES for finding in rule.findings(view))
    return sorted(found, key=_gravest_first)


def _gravest_first(finding: Finding) -> tuple[int, str, str, str, str]:
    origin = finding.origin
    return finding.severity.rank, origin.place, origin.object, origin.field, finding.code
