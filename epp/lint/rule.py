"""What a rule is: a function that looks for one trap, and what is to be said of it.

Rule:    the function's docstring is the paragraph that docs/lint.md and ``epp lint --explain`` show: what
         happens, and where it happened to somebody. The code is the function's name in CamelCase.
"""

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

from epp.compiler.findings import Finding, Severity
from epp.compiler.node import Node
from epp.lint.view import Object, View


@dataclass(frozen=True, slots=True)
class Trap:
    """Where a rule has found it. ``severity``: None: the rule's own."""

    object: Object
    at: Node | str
    message: str
    fix: str
    severity: Severity | None = None

    @property
    def field(self) -> str:
        return self.at if isinstance(self.at, str) else self.at.field


@dataclass(frozen=True, slots=True)
class Admission:
    """The rule as far as one object shows it, for the API server. ``holds``: CEL, true for a good one.

    ``is_certain``: nothing else must be looked at to know; where not, people are warned only.
    """

    kind: str
    holds: str
    is_certain: bool = True


Check: TypeAlias = Callable[[View], Iterator[Trap]]


@dataclass(frozen=True, slots=True)
class Rule:
    """``severity``: of the worst that it finds. ``title``: what is wrong, in a line."""

    code: str
    severity: Severity
    title: str
    incident: str
    check: Check
    family: str
    admissions: tuple[Admission, ...] = ()

    def findings(self, view: View) -> Iterator[Finding]:
        """Of all objects, but for those whose annotation says that it is meant so."""
        for trap in self.check(view):
            if self.code not in trap.object.ignored:
                origin = trap.object.origin.at(trap.field)
                yield Finding(trap.severity or self.severity, self.code, origin, trap.message, trap.fix)


def rule(severity: Severity, title: str, *admissions: Admission) -> Callable[[Check], Rule]:
    """Make a Rule of a function. ``admissions``: for each kind that the API server can judge alone."""

    def made(check: Check) -> Rule:
        code = "".join(word.capitalize() for word in check.__name__.split("_"))
        family = check.__module__.rpartition(".")[2]
        incident = " ".join(inspect.cleandoc(check.__doc__ or "").split())
        return Rule(code, severity, title, incident, check, family, admissions)

    return made
