#!/usr/bin/env python
"""fleet_schema.py [--check]: write deploy/fleet.schema.json, for editors, from the classes of a fleet file.

With --check nothing is written, and the exit status is 1 when something would be. ``tables`` are the fields
in docs/fleet-file.md, which tools/document-reference writes.
"""

import dataclasses
import inspect
import json
import sys
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from epp.compiler.inputs.fleet import file as fleet  # noqa: E402 (found through the line above)
from epp.config.decode import camel  # noqa: E402
from epp.core.scoring import Spelling  # noqa: E402
from tools.plugin_pages import field_docstrings  # noqa: E402

PATH = ROOT / "deploy/fleet.schema.json"
TITLES: Mapping[type, str] = {
    fleet.FleetFile: "Fleet",
    fleet.ModelEntry: "Model",
    fleet.Servers: "Backend",
    fleet.HostEntry: "Host",
    fleet.Sensitive: "Sensitive",
    fleet.Auth: "Auth",
    fleet.Team: "Team",
    fleet.BudgetEntry: "Budget",
}
LATER: Mapping[str, Any] = {"models": tuple[fleet.ModelEntry, ...], "backends": Mapping[str, fleet.Servers]}
"""What is decoded one by one, so that a fault in one leaves the others."""
METADATA = {
    "type": "object",
    "required": ["name"],
    "properties": {
        "name": {"type": "string", "pattern": f"^{fleet.LABEL}$"},
        "namespace": {"type": "string", "pattern": f"^{fleet.LABEL}$"},
    },
}
DURATION = {"type": "string", "pattern": r"^(([0-9]+\.?[0-9]*|\.[0-9]+)(ns|us|µs|ms|s|m|h))+$"}
QUANTITY = {"type": ["integer", "string"], "pattern": r"^[0-9]+(\.[0-9]+)?([kMGT]|[KMGT]i)?$"}
PLAIN = {str: {"type": "string"}, bool: {"type": "boolean"}, int: {"type": "integer"}}


def schema() -> dict[str, Any]:
    """All of it."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Fleet file of fleet-epp",
        "$ref": "#/$defs/Fleet",
        "$defs": {title: _record(record) for record, title in TITLES.items()},
    }


def text() -> str:
    """As it stands in the file."""
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"


def _record(record: type) -> dict[str, Any]:
    texts = field_docstrings(record)
    fields = {
        name: {**_schema(hint), **_default(one), "description": _joined(texts[one.name])}
        for name, hint, one in _fields(record)
    }
    return {
        "type": "object",
        "description": _joined(record.__doc__ or ""),
        "additionalProperties": False,
        "required": [name for name, _, one in _fields(record) if _is_required(one)],
        "properties": fields,
    }


def _joined(text: str) -> str:
    return " ".join(text.split()).replace("``", "`")


def _fields(record: type) -> Iterator[tuple[str, Any, "dataclasses.Field[Any]"]]:
    hints = typing.get_type_hints(record, include_extras=True)
    own = set(inspect.get_annotations(record))
    for one in sorted(dataclasses.fields(record), key=lambda each: each.name not in own):
        name = camel(one.name)
        is_later = record is fleet.FleetFile and name in LATER
        yield name, LATER[name] if is_later else hints[one.name], one


def _is_required(one: "dataclasses.Field[Any]") -> bool:
    return one.default is dataclasses.MISSING and one.default_factory is dataclasses.MISSING


def _default(one: "dataclasses.Field[Any]") -> dict[str, Any]:
    if one.default is dataclasses.MISSING or one.default in {None, "", ()}:
        return {}
    return {"default": f"{one.default:g}s" if isinstance(one.default, float) else one.default}


def _schema(hint: Any) -> dict[str, Any]:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint in PLAIN:
        return dict(PLAIN[hint])
    if hint in TITLES:
        return {"$ref": f"#/$defs/{TITLES[hint]}"}
    if origin is typing.Annotated:
        return dict(DURATION if Spelling.DURATION in arguments else QUANTITY)
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin is tuple:
        return {"type": "array", "items": _schema(arguments[0])}
    if origin in (dict, Mapping):
        if arguments[1] is Any:
            return METADATA
        return {"type": "object", "additionalProperties": _schema(arguments[1])}
    if origin in (typing.Union, types.UnionType):
        several = [_schema(each) for each in arguments if each is not types.NoneType]
        return several[0] if len(several) == 1 else {"anyOf": several}
    raise TypeError(f"{hint} has no schema")


# --- for people ----------------------------------------------------------------------------------------


def tables() -> str:
    """Every field, by record."""
    parts = []
    for record, title in TITLES.items():
        parts += [f"### {title}", _joined(record.__doc__ or "")]
        shown = "\n".join(_rows(record))
        parts.append(f"| Field | Value | Default | |\n|---|---|---|---|\n{shown}")
    return "\n\n".join(parts)


def _rows(record: type) -> Iterator[str]:
    texts = field_docstrings(record)
    of_bases = {name for base in record.__bases__ for name in getattr(base, "__dataclass_fields__", ())}
    for name, hint, one in _fields(record):
        if one.name not in of_bases:
            default = "required" if _is_required(one) else _shown(_default(one).get("default"))
            meaning = _joined(texts[one.name]).replace("|", "\\|")
            yield f"| `{name}` | {_words(hint)} | {default} | {meaning} |"
    if of_bases:
        yield "| … | | | Instead of `backends`: the fields of a [backend](#backend). `timeout` is both's. |"


def _shown(default: Any) -> str:
    return "" if default is None else f"`{str(default).lower() if isinstance(default, bool) else default}`"


def _words(hint: Any) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint in PLAIN:
        return {str: "string", bool: "true, false", int: "integer"}[hint]
    if hint in TITLES:
        return f"[{TITLES[hint].lower()}](#{TITLES[hint].lower()})"
    if origin is typing.Annotated:
        return "duration" if Spelling.DURATION in arguments else "quantity"
    if origin is Literal:
        return ", ".join(f"`{each}`" for each in arguments)
    if origin is tuple:
        return f"list of {_words(arguments[0])}"
    if origin in (dict, Mapping):
        return "mapping" if arguments[1] is Any else f"mapping to {_words(arguments[1])}"
    return " or ".join(_words(each) for each in arguments if each is not types.NoneType)


def main(arguments: Sequence[str]) -> int:
    """The command; 1 when --check finds it out of date."""
    wanted = text()
    if PATH.exists() and PATH.read_text(encoding="utf-8") == wanted:
        return 0
    if "--check" in arguments:
        print(f"{PATH.relative_to(ROOT)} is out of date; run: tools/fleet_schema.py", file=sys.stderr)
        return 1
    PATH.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
