"""One fleet while it is read: what it declares under which name, and what is wrong with it.

Place:   filled by declared.py; choices.py, rules.py and policies.py work on it.
Rule:    a fault of a model or of a backend is that one's alone (``Origin.part``), any other the whole
         fleet's.
"""

import re
from dataclasses import dataclass, field

from epp.compiler.findings import Finding, Origin, error, warning
from epp.compiler.inputs.fleet.file import FleetFile, ModelEntry
from epp.compiler.intent import Backend
from epp.config.decode import ConfigError
from epp.core.suggestions import suggestion

REFERENCE = "docs/fleet-file.md says what each field may be"


@dataclass(frozen=True, slots=True)
class Model:
    """One entry of ``models``, and its place in them. ``own``: its servers, where they stand in the entry."""

    entry: ModelEntry
    origin: Origin
    place: int
    own: Backend | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Under which clients ask for it."""
        return (self.entry.name, *self.entry.aliases)


@dataclass(frozen=True, slots=True)
class Lost:
    """An entry of ``models`` with an error. ``names``: that nothing else may have, as far as one can read."""

    names: tuple[str, ...]
    origin: Origin
    place: int


@dataclass(slots=True)
class Site:
    """``broken``: what each name stands for that is declared and has an error: a field, for people."""

    file: FleetFile
    namespace: str
    origin: Origin
    backends: dict[str, Backend] = field(default_factory=dict)
    models: dict[str, Model] = field(default_factory=dict)
    """By each of their names."""
    broken: dict[str, str] = field(default_factory=dict)
    lost: list[Lost] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    used: set[str] = field(default_factory=set)
    """Names of backends."""

    @property
    def entries(self) -> list[Model]:
        """Every model once, in the file's order."""
        return list({id(model): model for model in self.models.values()}.values())

    def error(self, code: str, origin: Origin, message: str, fix: str) -> None:
        """Tell it."""
        self.findings.append(error(code, origin, message, fix))

    def warning(self, code: str, origin: Origin, message: str, fix: str) -> None:
        """Tell it."""
        self.findings.append(warning(code, origin, message, fix))

    def invalid(self, origin: Origin, fault: ConfigError) -> None:
        """Tell what decoding has found."""
        self.findings.append(invalid(origin, fault))

    def unknown(self, name: str) -> str:
        """How to mend a name that nothing has."""
        known = [*self.file.backends, *self.models, *self.broken]
        return suggestion(name, known).removeprefix(", ") or "name a model, or an entry of backends"


def invalid(origin: Origin, fault: ConfigError) -> Finding:
    """What decoding has found, with the remedy apart."""
    message, fix = fault.said, REFERENCE
    if found := re.search(", (did you mean .*|known are .*|put it in quotes)$", message):
        message, fix = message[: found.start()], found[1]
    return error("SpecInvalid", origin.at(fault.path) if fault.path else origin, message, fix)
