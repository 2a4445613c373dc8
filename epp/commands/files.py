"""Objects from files: what people keep in Git, read as kubectl would.

Place:   used by compile, plan, apply and lint for ``-f``.
Ignores: what the objects mean.
Rule:    what cannot be read is a finding on that file, and every other file is read. What is no object of
         Kubernetes is left out, and told: an error where the file was named, not where it was found.
"""

import argparse
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TextIO

import yaml

from epp.compiler.documents import Document
from epp.compiler.findings import Finding, Origin, error, info
from epp.config import decode
from epp.config.decode import ConfigError, Section
from epp.config.flags import UsageError

ENDINGS = (".yaml", ".yml", ".json")
MAX_CHARACTERS = 32 << 20
"""Of one file. The CRDs of all gateways together have 6 MiB."""
STDIN = "-"
NO_OBJECT = "NoObject"
"""The code of findings about what has no apiVersion, or no kind."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """``sections``: by ``Document.place``, where fields of it stand. ``values``: what is no object.

    ``empty``: files that hold nothing, or nothing but comments.
    """

    documents: tuple[Document, ...]
    findings: tuple[Finding, ...] = ()
    sections: dict[str, Section] = field(default_factory=dict)
    values: tuple[Document, ...] = ()
    empty: tuple[str, ...] = ()

    def findings_with(self, others: Iterable[Finding]) -> tuple[Finding, ...]:
        """What reading found and ``others``, each once, placed at the lines of their fields."""
        return tuple(dict.fromkeys(self.located(one) for one in (*self.findings, *others)))

    def located(self, finding: Finding) -> Finding:
        """The same, placed at the line of its field."""
        section = self.sections.get(finding.origin.place)
        if section is None or not finding.origin.field:
            return finding
        found = locate(section, finding.origin.field)
        return replace(finding, origin=replace(finding.origin, place=f"{found.file}:{found.line}"))


def add_file(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """``-f``, which becomes ``files``."""
    parser.add_argument(
        "-f",
        "--file",
        dest="files",
        action="append",
        required=required,
        default=[],
        metavar="FILE|DIR|-",
        help="objects: a file, a directory with all below it, or - for standard input; may be repeated",
    )


def load(paths: Sequence[str], stdin: TextIO = sys.stdin) -> Loaded:
    """Everything in ``paths``: files, directories with all below them, ``-``. UsageError: nothing there."""
    documents: list[Document] = []
    values: list[Document] = []
    findings: list[Finding] = []
    sections: dict[str, Section] = {}
    empty: list[str] = []
    for file, is_named in _files(paths):
        try:
            found = _read(file, stdin)
        except ConfigError as fault:
            findings.append(_unreadable(file, fault))
            continue
        for content, section in found:
            place = f"{section.file}:{section.line}"
            if not _is_object(content):
                findings.append(_no_object(section.file, place, is_named=is_named))
                if isinstance(content, dict):
                    values.append(Document(content, place))
                    sections.setdefault(place, section)
                continue
            documents.append(Document(content, place))
            sections.setdefault(place, section)  # of several on one line, as in JSON, one will do
        if not found:
            empty.append(file)
            findings += [_no_object(file, "", is_named=True)] if is_named else []
    kept, doubles = _distinct(documents)
    return Loaded(tuple(kept), (*findings, *doubles), sections, tuple(values), tuple(empty))


def locate(section: Section, path: str) -> Section:
    """The field at ``path``, or the last on the way to it that is there.

    ``spec.rules[2].match`` by index, ``models[qwen].pods`` by name; names of fields may have dots.
    """
    while path:
        found = _step(section, path)
        if found is None:
            return section
        section, path = found
    return section


# --- which files ---------------------------------------------------------------------------------------


def _files(paths: Iterable[str]) -> Iterator[tuple[str, bool]]:
    """Each once, and whether it was named."""
    seen: set[str] = set()
    for path in paths:
        for file, is_named in _below(path):
            if file not in seen:
                seen.add(file)
                yield file, is_named


def _below(path: str) -> Iterator[tuple[str, bool]]:
    if path == STDIN or not Path(path).is_dir():
        if path != STDIN and not Path(path).exists():
            raise UsageError(f"-f {path}: there is no such file or directory")
        yield path, True
        return
    found = False
    for folder, folders, names in os.walk(path):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            file = Path(folder) / name
            # a pipe would be waited for; one that is named may be meant
            if name.endswith(ENDINGS) and not name.startswith(".") and (file.is_file() or file.is_symlink()):
                found = True
                yield str(file), False
    if not found:
        raise UsageError(f"-f {path}: there is no file in it that ends with {', '.join(ENDINGS)}")


# --- what is in one ------------------------------------------------------------------------------------


def _read(file: str, stdin: TextIO) -> list[tuple[Any, Section]]:
    """Its documents, those of lists one by one, and where each stands."""
    name = "stdin" if file == STDIN else file
    try:
        text = stdin.read() if file == STDIN else Path(file).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ConfigError(f"{name}: is not UTF-8 text") from None
    except OSError as fault:
        raise ConfigError(f"{name}: cannot be read: {fault.strerror}") from None
    found = []
    for section in _sections(text, name):
        found += [(decode.plain(one), one) for one in _unlisted(section)]
    return found


def _sections(text: str, file: str) -> list[Section]:
    if text.lstrip()[:1] in {"{", "["} and (value := _json(text)) is not None:
        return [decode.section(value, file)]
    try:
        return decode.parse_all(text, file, max_characters=MAX_CHARACTERS)
    except ConfigError as fault:
        if "{{" in text:
            raise ConfigError(f"{fault}; is it a template? give what it renders to") from None
        raise


def _json(text: str) -> Any:
    """None: YAML may make something of it. What stands twice is only found there."""
    try:
        return json.loads(text, object_pairs_hook=_once)
    except (ValueError, RecursionError):
        return None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key twice")
    return found


def _unlisted(section: Section) -> list[Section]:
    """The items of a ``kind: List``, as kubectl writes them; anything else as it is."""
    if not isinstance(section.node, yaml.MappingNode):
        return [section]
    fields = section.fields()
    kind = fields.get("kind")
    if kind is None or not str(kind.node.value).endswith("List") or "items" not in fields:
        return [section]
    if not isinstance(fields["items"].node, yaml.SequenceNode):
        return [section]
    return [replace(item, path="") for item in fields["items"].items()]


def _is_object(content: Any) -> bool:
    return (
        isinstance(content, dict)
        and isinstance(content.get("apiVersion"), str)
        and isinstance(content.get("kind"), str)
    )


def _step(section: Section, path: str) -> tuple[Section, str] | None:
    """One field or item further, and what is left of the path."""
    if isinstance(section.node, yaml.SequenceNode):
        found = re.match(r"\[(\d+)\]\.?", path)
        items = section.items()
        if found and int(found[1]) < len(items):
            return items[int(found[1])], path[found.end() :]
        named = ((item, f"[{_name(item)}]") for item in items)
        return next(
            ((item, path[len(key) :].lstrip(".")) for item, key in named if path.startswith(key)), None
        )
    if not isinstance(section.node, yaml.MappingNode):
        return None
    fits = [
        name
        for name in section.fields()
        if path.startswith(name) and path[len(name) : len(name) + 1] in {"", ".", "["}
    ]
    if not fits:
        return None
    longest = max(fits, key=len)
    return section.fields()[longest], path[len(longest) :].lstrip(".")


def _name(section: Section) -> str:
    if not isinstance(section.node, yaml.MappingNode):
        return ""
    name = section.fields().get("name")
    return str(name.node.value) if name is not None else ""


# --- what is told --------------------------------------------------------------------------------------


def _unreadable(file: str, fault: ConfigError) -> Finding:
    name = "stdin" if file == STDIN else file
    found = re.fullmatch(rf"{re.escape(name)}(:\d+)?: (.*)", str(fault))
    line, message = (found[1] or "", found[2]) if found else ("", str(fault))
    return error(
        "Unreadable", Origin("", "", name, place=f"{name}{line}"), message, "nothing of this file was read"
    )


def _no_object(file: str, place: str, *, is_named: bool) -> Finding:
    origin = Origin("", "", file, place=place or file)
    message = "holds no object of Kubernetes: there is no apiVersion, or no kind"
    if is_named:
        return error(NO_OBJECT, origin, message, "name a file with objects")
    return info(NO_OBJECT, origin, f"{message}; left out")


def _distinct(documents: Iterable[Document]) -> tuple[list[Document], list[Finding]]:
    """One of each name, the first; that there are several is told. Configurations of programs have none."""
    found: dict[tuple[str, ...], Document] = {}
    findings = []
    for one in documents:
        name = (one.name,) if one.name else ("", one.place)
        first = found.setdefault((one.kind, one.group, one.namespace, *name), one)
        if first is one:
            continue
        if first.content == one.content:
            findings.append(info("DuplicateObject", one.origin, f"is the same in {first.place}"))
        else:
            message = f"is another one in {first.place}, which is the one that counts"
            findings.append(error("DuplicateObject", one.origin, message, "keep one of the two"))
    return list(found.values()), findings
