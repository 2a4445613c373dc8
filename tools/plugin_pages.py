"""One page for each plugin type, and their index: what the code says of itself, in docs/plugins/.

Used by tools/document-reference, tools/compatibility.py and tests.
"""

import ast
import dataclasses
import functools
import inspect
import re
import textwrap
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from epp.config.decode import camel
from epp.config.unsupported import UNSUPPORTED_TYPES
from epp.core.scoring import Kind, Spelling, kinds
from epp.runtime.plugins import load_types

OURS = "scorers."
MADE = "<!-- Made by tools/document-reference from scorers/{}; edit that. -->"
SECTIONS: Mapping[str, tuple[Kind, ...]] = {
    "Profile handlers and deciders": (Kind.PROFILE_HANDLER, Kind.DECIDER, Kind.NOTHING),
    "Admission and flow control": (
        Kind.ADMITTER,
        Kind.DETECTOR,
        Kind.USAGE_LIMIT,
        Kind.FAIRNESS,
        Kind.ORDERING,
        Kind.EVICTION_FILTER,
        Kind.EVICTION_ORDER,
    ),
    "Scorers": (Kind.SCORER,),
    "Filters": (Kind.FILTER,),
    "Pickers": (Kind.PICKER,),
    "Producers": (Kind.PRODUCER,),
    "Data layer": (
        Kind.METRICS_SOURCE,
        Kind.EXTRACTOR,
        Kind.SIDE_SOURCE,
        Kind.SIDE_EXTRACTOR,
        Kind.NOTIFICATION,
        Kind.DISCOVERY,
        Kind.TOPOLOGY,
        Kind.HEALTH,
    ),
    "Parsers": (Kind.PARSER,),
    "Responses": (Kind.REPORTER, Kind.RESPONSE_HEADER),
}
"""Which kinds stand together; a type of several kinds stands where it is found first."""
SHOWN = (
    *("Scorers", "Filters", "Pickers", "Profile handlers and deciders", "Producers"),
    *("Admission and flow control", "Data layer", "Parsers", "Responses"),
)


class PluginType(NamedTuple):
    """One type, as far as its pages and tables need it."""

    name: str
    plugin: type
    summary: str
    facts: Mapping[str, str]

    @property
    def section(self) -> str:
        """Where it stands in the index."""
        return next(title for title, several in SECTIONS.items() if kinds(self.plugin) & set(several))

    @property
    def maturity(self) -> str:
        """What upstream calls it."""
        if "upstream `" not in self.facts.get("Source", ""):
            return "-"
        if getattr(self.plugin, "deprecated", ""):
            return "deprecated"
        return "alpha" if getattr(self.plugin, "is_experimental", False) else "beta"

    @property
    def compared(self) -> str:
        """With upstream: the same, better, or what is missing."""
        if self.maturity == "-":
            return "ours"
        better, lacks = self.facts.get("Better", ""), self.facts.get("Lacks", "")
        words = [f"better: {_lower(better)}"] if better else []
        words += [f"not supported: {_lower(lacks)}"] if lacks else []
        return " ".join(words).rstrip(".") or "same"


@functools.cache
def plugin_types() -> tuple[PluginType, ...]:
    """Every type that comes with the picker, by name."""
    offered = load_types()
    found = ((name, offered[name]) for name in sorted(offered))
    return tuple(
        PluginType(name, each, *_docstring(each)) for name, each in found if each.__module__.startswith(OURS)
    )


def pages() -> dict[str, str]:
    """By file name without its ending."""
    return {"README": _index(), **{each.name: _page(each) for each in plugin_types()}}


def _index() -> str:
    about = (
        "Made from the code, with upstream's names and formulas: what stands behind a type is on its page. "
        "*Upstream* is how mature llm-d-router v0.10 calls it; alpha ones are used only with "
        "`--allow-experimental-plugins`. Types of your own: [plugins](../plugins.md). How they make a whole: "
        "[configuration](../configuration.md)."
    )
    parts = ["# Plugin types", MADE.format("*.py"), about]
    for title in SHOWN:
        rows = ["| Type | | Upstream | Compared with it |", "|---|---|---|---|"]
        for each in plugin_types():
            if each.section == title:
                cells = f"[`{each.name}`]({each.name}.md)", each.summary, each.maturity, each.compared
                rows.append("| " + " | ".join(cells) + " |")
        parts += [f"## {title}", "\n".join(rows)]
    refused: dict[str, list[str]] = {}
    for name, reason in UNSUPPORTED_TYPES.items():
        refused.setdefault(reason, []).append(f"`{name}`")
    rows = [f"| {', '.join(names)} | {reason} |" for reason, names in refused.items()]
    about = "Types that upstream has and this version has not; a line at the start says so, with this reason."
    parts += ["## Refused at the start", about, "\n".join(["| Types | Reason |", "|---|---|", *rows])]
    return "\n\n".join(parts) + "\n"


def _page(each: PluginType) -> str:
    file = Path(inspect.getfile(each.plugin)).name
    parts = [f"# `{each.name}`", MADE.format(file), each.summary, _about(each)]
    told = [f"- {title}: {text}" for title, text in each.facts.items() if title != "Source"]
    if told:
        parts.append("\n".join(told))
    parts += [*_parameters(each.plugin), *_nested(each.plugin), *_moved(each.plugin)]
    parts.append(f"[All types](README.md) · [scorers/{file}](../../scorers/{file})")
    return "\n\n".join(parts) + "\n"


def _moved(plugin: type) -> Iterator[str]:
    """Parameters that were here once."""
    for now_of, names in getattr(plugin, "moved", {}).items():
        listed = ", ".join(f"`{name}`" for name in names)
        yield (
            f"{listed} were parameters of this type once: they are read for the "
            f"[`{now_of}`]({now_of}.md) that is added, with a line in the log."
        )


def _about(each: PluginType) -> str:
    """One line: what it is, and what upstream calls it."""
    what = " and ".join(sorted(kind.value for kind in kinds(each.plugin)))
    if each.maturity == "-":
        return f"A {what}; upstream has none like it."
    experimental = ", used only with `--allow-experimental-plugins`" if each.maturity == "alpha" else ""
    remedy = getattr(each.plugin, "deprecated", "")
    deprecated = f": {remedy}" if remedy else ""
    article = "An" if what[0] in "aeiou" else "A"
    source = each.facts["Source"]
    return f"{article} {what}. Upstream: {each.maturity}{experimental}{deprecated}. From {_lower(source)}"


def _nested(holder: type, path: str = "") -> Iterator[str]:
    """The records among the parameters, and those within them."""
    for name, record, is_list in _records(holder):
        where = f"{path}{name}"
        yield f"{'Each of' if is_list else 'In'} `{where}`: {_lower(_docstring(record)[0])}"
        yield from _parameters(record)
        yield from _nested(record, f"{where}{'[]' if is_list else ''}.")


def _docstring(plugin: type) -> tuple[str, dict[str, str]]:
    """The summary, and the titled facts below it."""
    text = inspect.cleandoc(plugin.__doc__ or "")
    about, _, more = text.partition("\n\n")
    facts: dict[str, str] = {}
    title, said = "", [""]
    for line in [*more.splitlines(), "End: "]:
        found = re.fullmatch(r"([A-Z][a-z]+): *(.*)", line)
        if not found:
            said.append(line.strip())
            continue
        if title:
            facts[title] = _prose(plugin, " ".join(said))
        title, said = found[1], [found[2]]
    return _prose(plugin, about), facts


def _prose(plugin: type, text: str) -> str:
    """A docstring as Markdown, parameters spelled as in a configuration."""
    text = " ".join(text.split()).replace("``", "`")
    for parameter in dataclasses.fields(plugin):
        if "_" in parameter.name:
            text = text.replace(f"`{parameter.name}`", f"`{_written(parameter)}`")
    parts = text.split("`")
    parts[::2] = [part.replace("*", "\\*").replace("|", "\\|") for part in parts[::2]]
    return "`".join(parts)


def _written(parameter: "dataclasses.Field[Any]") -> str:
    """As it is spelled in a configuration."""
    return str(parameter.metadata.get("yaml") or camel(parameter.name))


def _lower(text: str) -> str:
    """A sentence in the middle of a line; names and abbreviations stay."""
    first = text.partition(" ")[0]
    return text[:1].lower() + text[1:] if first[1:].islower() or len(first) == 1 else text


def _parameters(plugin: type) -> Iterator[str]:
    hints = typing.get_type_hints(plugin, include_extras=True)
    said = field_docstrings(plugin)
    rows = []
    for parameter in sorted(dataclasses.fields(plugin), key=lambda each: _is_reference(plugin, each.name)):
        if parameter.init:
            meaning = _meaning(plugin, parameter, said.get(parameter.name, ""))
            kind = _type(hints[parameter.name])
            cells = (f"`{_written(parameter)}`", kind, _default(parameter, kind), meaning)
            rows.append("| " + " | ".join(cells) + " |")
    if rows:
        yield "\n".join(["| Parameter | Type | Default | |", "|---|---|---|---|", *rows])


def _is_reference(plugin: type, name: str) -> bool:
    """Whether it names a producer; such parameters come last."""
    return any(name in getattr(plugin, needs, {}) for needs in ("requires", "uses"))


def _meaning(plugin: type, parameter: "dataclasses.Field[Any]", said: str) -> str:
    for word, says in (("deprecated", "deprecated"), ("without_effect", "without effect")):
        if word in parameter.metadata:
            return f"{says}: {parameter.metadata[word]}"
    for needs in ("requires", "uses"):
        producer = getattr(plugin, needs, {}).get(parameter.name)
        if producer:
            others = getattr(plugin, "alternatives", {}).get(parameter.name, ())
            named = " or ".join(f"`{each}`" for each in (producer, *others))
            added = "; added when there is none" if needs == "requires" else ""
            return f"the {named} to read, by name; not needed when there is one{added}"
    if not said:
        raise SystemExit(
            f"{plugin.__module__}.{plugin.__name__}.{parameter.name}: write a docstring below it"
        )
    return _lower(_prose(plugin, said).replace("None:", "not set:")).rstrip(".")


def field_docstrings(plugin: type) -> Mapping[str, str]:
    """The texts below a class's fields, and its base's."""
    found: dict[str, str] = {}
    for holder in reversed(plugin.__mro__[:-1]):
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(holder))).body
        assert isinstance(tree, ast.ClassDef)
        for field, below in zip(tree.body, tree.body[1:], strict=False):
            match field, below:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    found[name] = inspect.cleandoc(text)
    return found


_WORDS = {str: "string", int: "integer", float: "number", bool: "true, false"}


def _type(hint: Any) -> str:
    if hint in _WORDS:
        return _WORDS[hint]
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return "duration" if Spelling.DURATION in arguments else "quantity"
    if origin is Literal:
        return ", ".join(map(str, arguments))
    if origin is tuple:
        return "list of strings" if arguments[0] is str else "list"
    if origin in (typing.Union, types.UnionType):
        return _type(next(each for each in arguments if each is not types.NoneType))
    return "mapping"


def _default(parameter: "dataclasses.Field[Any]", kind: str) -> str:
    value = parameter.default
    if value is dataclasses.MISSING:
        return "" if parameter.default_factory is not dataclasses.MISSING else "required"
    if value is None or value in ("", ()) or isinstance(value, tuple):
        return ""
    if kind == "duration":
        return f"`{value:g}s`" if value >= 1 else f"`{value * 1000:g}ms`"
    return f"`{value}`".lower() if isinstance(value, bool) else f"`{value}`"


def _records(holder: type) -> Iterator[tuple[str, type, bool]]:
    """The dataclasses that parameters consist of: under which name, and whether they are items of a list."""
    hints = typing.get_type_hints(holder)
    for parameter in dataclasses.fields(holder):
        if parameter.init:
            hint = hints[parameter.name]
            for found in (hint, *typing.get_args(hint)):
                if dataclasses.is_dataclass(found):
                    is_list = typing.get_origin(hint) is tuple
                    yield _written(parameter), typing.cast(type, found), is_list
