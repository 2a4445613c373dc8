"""Objects as YAML: one after the other, or a directory with a file for each.

Place:   used by compile.
Rule:    kubectl applies a directory by name, so names begin with the place in the safe order. A file is ours
         if its first line says so; no other is written to or removed.
"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import yaml

from epp.compiler.documents import Document
from epp.compiler.emission import APPLY_ORDER, FROZEN, ROUTES, Emitted
from epp.compiler.marks import lacking, sources_of
from epp.config import decode
from epp.config.decode import ConfigError

MARK = "# Made by epp compile, inventory {}: changes are lost."
_OURS = re.compile(r"\d\d-[a-z0-9]+\.[a-z0-9-]*\.[a-z0-9.-]+\.yaml")
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


@dataclass(frozen=True, slots=True)
class Folder:
    """A directory as it was found. ``texts``: of the files that are ours."""

    path: Path
    mark: str
    texts: Mapping[str, str]

    def pools(self, failed: Collection[str] | None) -> list[Document]:
        """InferencePools of inputs that ``failed``, of which the files stay: their ports are theirs."""
        names = [name for name in self.texts if name.partition(".")[0].endswith("-inferencepool")]
        return [
            Document(_document(name, self.texts[name]))
            for name in names
            if _doubtful(name, self.texts[name], failed)
        ]


def opened(path: Path, *, inventory: str) -> Folder:
    """What stands in it; it is made where it is not there."""
    mark = MARK.format(inventory)
    path.mkdir(parents=True, exist_ok=True)
    ours = (one for one in path.iterdir() if _OURS.fullmatch(one.name) and _first_line(one) == mark)
    return Folder(path, mark, {one.name: one.read_text(encoding="utf-8") for one in sorted(ours)})


def write_all(
    objects: Sequence[Emitted], given: Folder, *, failed: Collection[str] | None
) -> tuple[int, int]:
    """A file for each; how many were written, and removed.

    ``failed``: inputs with an error; None: it is not known which, as something could not be read. What was
    made of them before stays.
    """
    folder, mark, before = given.path, given.mark, given.texts
    wanted = {name_of_file(one): one for one in objects}
    texts = {name: f"{mark}\n{text_of(one.document)}" for name, one in wanted.items()}
    for name in sorted(wanted):
        if (folder / name).exists() and _first_line(folder / name) != mark:
            raise NotOursError(
                f"{folder / name}: is not of this command and inventory: remove it, or give another --out"
            )
    doubtful = {name: found for name, text in before.items() if (found := _doubtful(name, text, failed))}
    differ = {name for name in doubtful if name in wanted and texts[name] != before[name]}
    frozen = {name for name in differ if wanted[name].key[0] in FROZEN}
    stuck = frozenset[str]().union(*(_lacking(wanted[name], doubtful[name], failed) for name in frozen))
    left = frozen | {name for name, one in wanted.items() if name not in before and _waits(one, stuck)}
    written = [name for name in wanted if name not in left and texts[name] != before.get(name)]
    removed = before.keys() - wanted.keys() - doubtful.keys()
    for name in written:
        _write(folder / name, texts[name])
    for name in removed:
        (folder / name).unlink()
    return len(written), len(removed)


def name_of_file(one: Emitted) -> str:
    """``14-aigatewayroute.llm.qwen.yaml``: with dots, which namespaces have none of, no two are the same."""
    kind, namespace, name = one.key
    return f"{APPLY_ORDER.index(kind):02}-{kind.lower()}.{namespace}.{name}.yaml"


def _waits(one: Emitted, stuck: frozenset[str]) -> bool:
    """Whether it is a new route that would be without something of its input that stays as it was."""
    return one.key[0] in ROUTES and not sources_of(one.document).isdisjoint(stuck)


def _lacking(one: Emitted, doubtful: frozenset[str], failed: Collection[str] | None) -> frozenset[str]:
    return doubtful if failed is None else lacking(doubtful | sources_of(one.document), failed) & set(failed)


def _doubtful(name: str, text: str, failed: Collection[str] | None) -> frozenset[str]:
    """Inputs of a file of ours that have an error, or may have one."""
    if failed is not None and not failed:
        return frozenset()
    sources = sources_of(_document(name, text))
    return sources if failed is None else sources & set(failed)


def _document(name: str, text: str) -> dict[str, Any]:
    try:
        document = decode.plain(decode.parse(text, name))
    except ConfigError as fault:
        raise NotOursError(f"{fault}; it was changed by somebody: remove it") from None
    return document if isinstance(document, dict) else {}


def _first_line(path: Path) -> str:
    try:
        with path.open(encoding="utf-8") as file:
            return file.readline(400).rstrip("\n")
    except (OSError, UnicodeDecodeError):
        return ""


def _write(path: Path, text: str) -> None:
    """Whole or not at all."""
    new = path.with_name(f".{path.name}.new")
    new.write_text(text, encoding="utf-8")
    new.replace(path)
