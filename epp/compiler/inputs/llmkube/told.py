"""What is found about one object while it is read.

Place:   filled by the readers beside it.
"""

import re

from epp.compiler.findings import Finding, Origin, error, info, warning
from epp.compiler.inputs.llmkube.objects import Unreadable

INVALID = "SpecInvalid"
UNSUPPORTED = "UnsupportedMatchInGatewayMode"
FAILED = "ReconcileFailed"
UNSAFE = "UnsafeSensitiveRoute"


class Told:
    """Findings about ``origin``, each at one of its fields."""

    def __init__(self, origin: Origin) -> None:
        self.origin = origin
        self.findings: list[Finding] = []

    @property
    def has_failed(self) -> bool:
        """Nothing can be made of the object."""
        return any(one.is_error for one in self.findings)

    def error(self, code: str, field: str, message: str, fix: str) -> None:
        self.findings.append(error(code, self.origin.at(field), message, fix))

    def unreadable(self, fault: Unreadable) -> None:
        """A part of it has the wrong type."""
        path = re.sub(r"\[.*?\]", "", f"{self.origin.kind.lower()}.{fault.field}".rstrip("."))
        self.error(INVALID, fault.field, str(fault), f"write what `kubectl explain {path}` shows")

    def warning(self, code: str, field: str, message: str, fix: str) -> None:
        self.findings.append(warning(code, self.origin.at(field), message, fix))

    def info(self, code: str, field: str, message: str, fix: str = "") -> None:
        self.findings.append(info(code, self.origin.at(field), message, fix))
