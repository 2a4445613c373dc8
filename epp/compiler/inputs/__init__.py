"""What people declare, read into an intent: ``read(documents, options) -> Reading``.

Rule:    what is wrong with one object is a finding on it; all others are read.
"""

from dataclasses import dataclass

from epp.compiler.findings import Finding
from epp.compiler.intent import Objective, Router


@dataclass(frozen=True, slots=True)
class Reading:
    """What one kind of input says.

    ``faulty``: of objects with an error, at which gateway they ask for which models, as far as one can read.
    """

    routers: tuple[Router, ...] = ()
    objectives: tuple[Objective, ...] = ()
    findings: tuple[Finding, ...] = ()
    faulty: tuple[Router, ...] = ()
