"""What is to be told about an object: what will happen, and the way out.

Place:   made by everything in epp.compiler and epp.lint; shown by epp.commands, written into status by
         epp.controller.
Rule:    a finding names the object and the field, says what will happen, and how to mend it.
"""

from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property

_LONGEST_VALUE = 64
"""Of what a message repeats."""


class Severity(StrEnum):
    """Of a finding. With an error nothing new is made of its object: what was made before stays."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"

    @property
    def rank(self) -> int:
        """0 is the gravest."""
        return list(Severity).index(self)


@dataclass(frozen=True, order=True)
class Origin:
    """The object, and in it the field, that asks for something or that something is said about."""

    kind: str
    namespace: str
    name: str
    api_version: str = ""
    field: str = ""
    """As in ``spec.rules[2].match.models``; empty: the object."""
    uid: str = ""
    created: str = ""
    """[RFC 3339] Empty: in a file, which counts as older than anything in a cluster."""
    place: str = ""
    """``file:line``; empty: in a cluster."""
    part: str = ""
    """What in the object stands for itself, as a model of a fleet: an error of it leaves the rest live."""

    def at(self, field: str) -> "Origin":
        """The same object, another field; ``+x`` is x below the field that it is at."""
        if field.startswith("+"):
            field = f"{self.field}.{field[1:]}".lstrip(".")
        return self if field == self.field else replace(self, field=field)

    @cached_property
    def object(self) -> str:
        """``ModelRouter/llm/qwen``, ``Fleet/llm/site/qwen``: which object and part, whatever the field."""
        return "/".join(part for part in (self.kind, self.namespace, self.name, self.part) if part)

    @cached_property
    def whole(self) -> str:
        """The same without the part."""
        return replace(self, part="").object if self.part else self.object

    @property
    def age(self) -> tuple[str, str, str]:
        """The smaller the older; objects of one second by namespace and name, as gateways do it."""
        return self.created, self.namespace, self.name


@dataclass(frozen=True, slots=True)
class Finding:
    """``code``: CamelCase, LLMKube's own reason where it has one."""

    severity: Severity
    code: str
    origin: Origin
    message: str
    fix: str = ""

    @property
    def is_error(self) -> bool:
        """Whether nothing is made of the object."""
        return self.severity is Severity.ERROR

    @property
    def words(self) -> dict[str, str]:
        """What it says, and of what, as programs and logs have it."""
        return {
            "severity": self.severity.value,
            "code": self.code,
            "object": self.origin.object,
            "field": self.origin.field,
            "message": self.message,
            "fix": self.fix,
        }


def quoted(value: str) -> str:
    """Somebody's value in a message, cut where it is long."""
    if len(value) <= _LONGEST_VALUE:
        return repr(value)
    return f"{value[:_LONGEST_VALUE]!r}... ({len(value)} characters)"


def error(code: str, origin: Origin, message: str, fix: str) -> Finding:
    """Nothing can be made of the object."""
    return Finding(Severity.ERROR, code, origin, message, fix)


def warning(code: str, origin: Origin, message: str, fix: str) -> Finding:
    """Something will not happen as its author thinks."""
    return Finding(Severity.WARNING, code, origin, message, fix)


def info(code: str, origin: Origin, message: str, fix: str = "") -> Finding:
    """Good to know."""
    return Finding(Severity.INFO, code, origin, message, fix)
