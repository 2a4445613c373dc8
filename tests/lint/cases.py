"""The folders of tests/golden/lint: a trap, the same without it, and what is said."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from epp.compiler.documents import Document, Documents
from epp.compiler.findings import Finding
from epp.lint import lint
from epp.lint.context import Context

GOLDEN = Path(__file__).parents[1] / "golden" / "lint"


@dataclass(frozen=True)
class Case:
    """``context.yaml``: where it is not files for the latest version."""

    folder: Path

    @property
    def code(self) -> str:
        return self.folder.name

    @property
    def context(self) -> Context:
        path = self.folder / "context.yaml"
        said = yaml.safe_load(path.read_text()) if path.exists() else {}
        return Context(**{**said, "unread": frozenset(said.get("unread", ()))})

    def objects(self, name: str) -> list[dict[str, Any]]:
        text = (self.folder / f"{name}.yaml").read_text()
        assert text.startswith("# "), f"{self.folder.name}/{name}.yaml: the first line says what it shows"
        return list(yaml.safe_load_all(text))

    def findings(self, name: str) -> list[Finding]:
        return linted(*self.objects(name), context=self.context)


CASES = [Case(path.parent) for path in sorted(GOLDEN.glob("*/bad.yaml"))]


def linted(*objects: dict[str, Any], context: Context | None = None) -> list[Finding]:
    documents = Documents([Document(one) for one in objects])
    return lint(documents, context or Context())
