"""Objects as YAML: one after the other, or a directory with a file for each.

Place:   used by compile.
Rule:    kubectl applies a directory by name, so names begin with the place in the safe order. A file is ours
         if its first line says so; no other is written to or removed.
"""

import re
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, TextIO

import yaml

from epp.compiler.emission import APPLY_ORDER, FROZEN, Emitted
from epp.compiler.marks import sources_of
from epp.config import decode
from epp.config.decode import ConfigError

MARK = "# Made by epp compile, inventory {}: changes are lost."
_OURS = re.compile(r"\d\d-[a-z0-9]+\.[a-z0-9-]*\.[a-z0-9.-]+\.yaml")
_FROZEN = frozenset(kind.lower() for kind in FROZEN)
_NUMBER = re.compile(r"[-+]?(?:\.\d+|\d[\d_]*(?:\.[\d_]*)?)(?:[eE][-+]?\d+)?|0[xob][\da-fA-F_]+", re.ASCII)
"""What some reader of YAML takes for a number: PyYAML would write the string ``1e3`` bare."""


class NotOursError(Exception):
    """A file that would be written is somebody else's, or cannot be written; in one line."""


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    def ignore_aliases(self, data: Any) -> bool:
        return True


def _string(_: Any, text: str) -> yaml.ScalarNode:
    style = '"' if _NUMBER.fullmatch(text) else None
    return yaml.ScalarNode("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _string)


def text_of(document: Any) -> str:
    """One document, fields in their order."""
    return yaml.dump(
        document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1 << 20, default_flow_style=False
    )


def print_all(objects: Iterable[Emitted], stream: TextIO) -> None:
    """All of them, in the order in which to apply them."""
    stream.writelines(f"---\n{text_of(one.document)}" for one in objects)


def write_all(
    objects: Sequence[Emitted], folder: Path, *, inventory: str, failed: Collection[str] | None
) -> tuple[int, int]:
    """A file for each; how many were written, and removed.

    ``failed``: inputs with an error; None: it is not known which, as something could not be read. What was
    made of them before stays.
    """
    mark = MARK.format(inventory)
    folder.mkdir(parents=True, exist_ok=True)
    wanted = {name_of_file(one): f"{mark}\n{text_of(one.document)}" for one in objects}
    for name in sorted(wanted):
        if (folder / name).exists() and _first_line(folder / name) != mark:
            raise NotOursError(
                f"{folder / name}: is not of this command and inventory: remove it, or give another --out"
            )
    before = [
        path for path in sorted(folder.iterdir()) if _OURS.fullmatch(path.name) and _first_line(path) == mark
    ]
    kept = {path.name for path in before if _is_kept(path, wanted, failed)}
    written = [name for name in sorted(wanted) if name not in kept and _write(folder / name, wanted[name])]
    removed = [path for path in before if path.name not in wanted and path.name not in kept]
    for path in removed:
        path.unlink()
    return len(written), len(removed)


def name_of_file(one: Emitted) -> str:
    """``14-aigatewayroute.llm.qwen.yaml``: with dots, which namespaces have none of, no two are the same."""
    kind, namespace, name = one.key
    return f"{APPLY_ORDER.index(kind):02}-{kind.lower()}.{namespace}.{name}.yaml"


def _is_kept(path: Path, wanted: Collection[str], failed: Collection[str] | None) -> bool:
    """Whether it is of an input with an error, or may be, and stays as it is."""
    if failed is not None and _sources(path).isdisjoint(failed):
        return False
    return path.name not in wanted or _kind(path) in _FROZEN


def _kind(path: Path) -> str:
    return path.name[3:].partition(".")[0]


def _sources(path: Path) -> frozenset[str]:
    try:
        document = decode.plain(decode.parse(path.read_text(encoding="utf-8"), path.name))
    except ConfigError:
        return frozenset()
    return sources_of(document) if isinstance(document, dict) else frozenset()


def _first_line(path: Path) -> str:
    try:
        with path.open(encoding="utf-8") as file:
            return file.readline(400).rstrip("\n")
    except (OSError, UnicodeDecodeError):
        return ""


def _write(path: Path, text: str) -> bool:
    """Whole or not at all; False: it says just that already."""
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return False
    new = path.with_name(f".{path.name}.new")
    new.write_text(text, encoding="utf-8")
    new.replace(path)
    return True
