"""What is found about one object while it is read.

Place:   filled by the readers beside it.
"""

import re
from collections.abc import Mapping
from typing import Any

from epp.compiler.findings import Finding, Origin, error, info, warning
from epp.compiler.inputs.llmkube.objects import Part, Unreadable, unknown
from epp.core.suggestions import suggestion

INVALID = "SpecInvalid"
UNSUPPORTED = "UnsupportedMatchInGatewayMode"
FAILED = "ReconcileFailed"
UNSAFE = "UnsafeSensitiveRoute"


class Told:
    """Findings about ``origin``, each at one of its fields. ``is_live``: it is in a cluster."""

    def __init__(self, origin: Origin, *, is_live: bool = False) -> None:
        self.origin = origin
        self.is_live = is_live
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

    def unknown(self, part: Part, content: Mapping[str, Any] | None, field: str) -> None:
        """``content``, which was read as ``part``, has fields that LLMKube has not.

        In a cluster a newer LLMKube may have them. In a file whoever wrote them relies on them: it is an
        error in a router, which decides who may ask for what, and where another field seems to be meant.
        """
        for kind, where, name in unknown(part, content, field):
            hint = suggestion(name, sorted(kind.known()))
            tell = self.error if not self.is_live and (hint or self.is_router) else self.warning
            tell(
                "UnknownField",
                f"{where}.{name}".lstrip("."),
                f"LLMKube has no field {name}: what it says has no effect",
                f"remove it, or correct its name{hint}",
            )

    @property
    def is_router(self) -> bool:
        return self.origin.kind == "ModelRouter"

    def warning(self, code: str, field: str, message: str, fix: str) -> None:
        self.findings.append(warning(code, self.origin.at(field), message, fix))

    def info(self, code: str, field: str, message: str, fix: str = "") -> None:
        self.findings.append(info(code, self.origin.at(field), message, fix))
