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
_REMEDY = re.compile(
    "[:,;] ((?:did you mean|known are|put|write|add|keep|leave|make|rename|name|give|one way is) .*)$"
)
"""The end of a message that says what to do."""
_EXAMPLES = {
    "address": "address: 10.0.0.21",
    "backends": "backends: [north/qwen3-235b, south/qwen3-235b]",
    "classes": "classes: [pii, phi]",
    "gateway": "gateway: edge/ai",
    "header": "header: x-data-class",
    "health": "health: /health",
    "hostnames": "hostnames: [ai.example.com]",
    "hosts": 'hosts: ["10.0.0.21:8080"]',
    "jwks": 'jwks: "https://idp.example.com/keys"',
    "labels": 'labels: {fleet-epp.dev/tier: "1"}',
    "metadata": "metadata: {name: site, namespace: llm}",
    "model": "model: qwen3-8b",
    "models": "models: [{name: qwen3-8b, pods: {app: qwen3-8b}}]",
    "name": "name: qwen3-8b",
    "pods": "pods: {app: qwen3-8b}",
    "pool": "pool: llm/qwen",
    "port": "port: 8080",
    "priorities": "priorities: {interactive: 10, batch: -10}",
    "region": "region: eu-central-1",
    "secret": "secret: north-key",
    "servedAs": "servedAs: Qwen/Qwen3-8B",
    "service": 'service: "media/whisper:8000"',
    "teams": "teams: [{name: research, models: [qwen3-8b]}]",
    "timeout": "timeout: 2m",
    "tokens": "tokens: 200k",
    "url": 'url: "https://llm.example.com/v1"',
    "window": "window: 24h",
}


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
    faulty: frozenset[str] = frozenset()
    """Fields of the file that had a fault and were left out, so as to find what else is wrong."""

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
        """How to mend the name of a model or of a backend that nothing has."""
        known = [*self.file.backends, *self.models, *self.broken]
        return suggestion(name, known).removeprefix(", ") or "name a model, or an entry of backends"

    def unknown_model(self, name: str) -> str:
        """The same where only a model may be named."""
        known = [*self.models, *(one for one, where in self.broken.items() if where.startswith("models["))]
        return suggestion(name, known).removeprefix(", ") or _some(known)


def invalid(origin: Origin, fault: ConfigError) -> Finding:
    """What decoding has found, with the remedy apart."""
    message = fault.said
    if found := _REMEDY.search(message):
        message, fix = message[: found.start()], found[1]
    elif found := re.fullmatch('"([A-Za-z]+)" is missing', message):
        fix = f'add "{_EXAMPLES.get(found[1], found[1])}"'
    else:
        named = [part for part in re.split(r"\[[^]]*\]|\.", fault.path) if part in _EXAMPLES]
        fix = f"write for example {_EXAMPLES[named[-1]]}" if named else REFERENCE
    return error("SpecInvalid", origin.at(fault.path) if fault.path else origin, message, fix)


def _some(names: list[str]) -> str:
    """Names to choose from, not more than one can read."""
    listed = f"there are {', '.join(names[:8])}" + (", ..." if len(names) > 8 else "")
    return listed if names else "declare a model of this name"
