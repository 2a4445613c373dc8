"""YAML text into frozen dataclasses, strictly.

Place:   used for every file a person writes; knows no particular file.
Ignores: where the text came from (callers pass a name for messages) and what the values are for.
Rule:    an unknown field, a wrong type or a doubtful document is an error of one line that names file,
         line, field and remedy. Nothing is guessed and nothing is run: YAML is only composed, never
         constructed. The one exception that leaves this module is ConfigError.
Source:  YAML as Kubernetes reads it; Go's time.ParseDuration; Kubernetes resource quantities.

A dataclass field ``block_size_tokens`` is written ``blockSizeTokens``, unless ``metadata`` says
otherwise (``{"yaml": "metricsURL"}``); ``{"hidden": True}`` keeps its value out of messages. Supported
types: str, int, float, bool, Literal,
``X | None``, ``tuple[X, ...]``, ``Mapping[str, X]``, dataclasses, Section (left for later), Any, and the
spellings of epp.core.scoring (Seconds, Bytes). A null is an absent field. A ``__post_init__`` may raise
``ValueError("fieldName: what is wrong")``; it is given file, line and path here.
"""

import dataclasses
import json
import math
import re
import types
import typing
from collections.abc import Callable, Collection, Hashable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from typing import Any, Literal, TypeAlias, TypeVar, cast

import yaml

from epp.core.durations import duration
from epp.core.scoring import Spelling
from epp.core.suggestions import suggestion

T = TypeVar("T")

MAX_CHARACTERS = 1 << 20
MAX_NODES = 200_000
"""After the expansion of aliases, which may repeat each other's content."""
MAX_NUMBER = 1 << 63

_HERE = "the record's own section"


class ConfigError(ValueError):
    """What is wrong with a configuration, in one line for the person who wrote it.

    ``path`` and ``said``: the field and what is wrong with it, where it is about a field.
    """

    def __init__(self, message: str, *, path: str = "", said: str = "") -> None:
        super().__init__(" ".join(message.split()))
        self.path = path
        self.said = " ".join((said or message).split())


# --- documents ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a document, with the place where it stands."""

    node: yaml.Node
    file: str
    path: str = ""
    key: yaml.Node | None = None
    """The field's name, where it is a field: a block begins only on the line after it."""
    hidden: bool = False
    """Whether messages leave its value out."""

    def error(self, message: str) -> ConfigError:
        """An error at this place."""
        return ConfigError(f"{self.place}: {message}", path=self.path, said=message)

    @property
    def place(self) -> str:
        """File, line and field, for people."""
        where = f"{self.file}:{self.line}"
        return f"{where}: {self.path}" if self.path else where

    @property
    def line(self) -> int:
        """Where it begins, counted from 1."""
        return int((self.key or self.node).start_mark.line) + 1

    def empty(self, name: str) -> "Section":
        """An empty mapping in the place of a field that is not there."""
        node = yaml.MappingNode(_MAP, [], self.node.start_mark, self.node.end_mark)
        return Section(node, self.file, f"{self.path}.{name}" if self.path else name)

    def fields(self) -> dict[str, "Section"]:
        """The fields of a mapping; an error if this is none. Fields that are null are left out."""
        if not isinstance(self.node, yaml.MappingNode):
            raise self.error(f"expected a mapping, got {shown(self.node)}")
        return {
            key.value: Section(value, self.file, f"{self.path}.{key.value}" if self.path else key.value, key)
            for key, value in self.node.value
            if value.tag != _NULL
        }

    def only(self, names: Collection[str], *, others: bool = False) -> "Section":
        """This mapping with no fields but these; with ``others``, with all but these."""
        fields = [pair for pair in self.node.value if (pair[0].value in names) is not others]
        node = yaml.MappingNode(_MAP, fields, self.node.start_mark, self.node.end_mark)
        return Section(node, self.file, self.path, self.key)

    def items(self) -> list["Section"]:
        """The items of a list; an error if this is none."""
        if not isinstance(self.node, yaml.SequenceNode):
            raise self.error(f"expected a list, got {shown(self.node)}")
        return [Section(node, self.file, f"{self.path}[{i}]") for i, node in enumerate(self.node.value)]

    def at(self, *names: str) -> "Section":
        """The field with this name, or this section itself where there is none."""
        section = self
        for name in names:
            if not isinstance(section.node, yaml.MappingNode):
                return section
            section = section.fields().get(name, section)
        return section


Here: TypeAlias = typing.Annotated[Section, _HERE]
"""The type of a field that the decoder fills with the record's own section."""


def parse(text: str, file: str) -> Section:
    """One YAML document, checked: plain values only, no key twice, bounded."""
    node = _composed(text, file, MAX_CHARACTERS, _compose)
    if node is None or node.tag == _NULL:
        raise ConfigError(f"{file}: is empty")
    _check(node, file)
    return Section(node, file)


def parse_all(text: str, file: str, *, max_characters: int = MAX_CHARACTERS) -> list[Section]:
    """Every YAML document that is not empty, each checked as ``parse`` does."""
    nodes = _composed(text, file, max_characters, _compose_all)
    found = [node for node in nodes if node.tag != _NULL]
    for node in found:
        _check(node, file)
    return [Section(node, file) for node in found]


def plain(section: Section) -> Any:
    """The value, as JSON would have it. Fields that are null are left out."""
    try:
        return _plain(section.node, section)
    except RecursionError:
        raise section.error("is nested too deeply") from None


def section(value: Any, file: str, path: str = "") -> Section:
    """What JSON has, as a section of no particular line. ``path``: the field that it is."""
    try:
        return Section(_node(value), file, path)
    except RecursionError:
        raise ConfigError(f"{file}: is nested too deeply") from None


def read(section: Section, target: type[T]) -> T:
    """A section as a ``target``."""
    try:
        return cast(T, _read(section, target))
    except RecursionError:
        raise section.error("is nested too deeply") from None


def shown(node: yaml.Node) -> str:
    """A value for an error message."""
    if isinstance(node, yaml.MappingNode):
        return "a mapping"
    if isinstance(node, yaml.SequenceNode):
        return "a list"
    text = str(node.value)
    text = text if len(text) <= 40 else text[:37] + "..."
    if node.tag == _NULL:
        return "nothing"
    return json.dumps(text, ensure_ascii=False) if node.tag == _STR else text


WORD = "one word of at most 253 characters"


def is_word(text: str) -> bool:
    """Whether a name is ``WORD``; empty counts as one."""
    return text.isprintable() and " " not in text and len(text) <= 253


# --- YAML --------------------------------------------------------------------------------------------

_TAG = "tag:yaml.org,2002:"
_NULL, _BOOL, _INT, _FLOAT, _STR = (_TAG + name for name in ("null", "bool", "int", "float", "str"))
_MERGE = _TAG + "merge"
_MAP, _SEQ = _TAG + "map", _TAG + "seq"
_LOADER: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


_WITH_UNIT = re.compile(r"[-+]?[0-9][0-9_.,]* ?[A-Za-z%µ/]+")


class _Loader(_LOADER):  # type: ignore[misc, valid-type]
    """Composes only. Fewer plain values are special than in YAML 1.1: no dates, octal or base 60."""

    yaml_implicit_resolvers: typing.ClassVar[dict[str, Any]] = {}


_PATTERNS = {
    _NULL: re.compile(r"~|null|Null|NULL|"),
    _BOOL: re.compile(r"true|True|TRUE|false|False|FALSE|yes|Yes|YES|no|No|NO|on|On|ON|off|Off|OFF"),
    _INT: re.compile(r"[-+]?(?:0|[1-9][0-9_]*)"),
    _FLOAT: re.compile(
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
    ),
}
for _tag, _first in ((_NULL, ["~", "n", "N", ""]), (_BOOL, "tTfFyYnNoO"), (_INT, "-+0123456789")):
    _Loader.add_implicit_resolver(_tag, re.compile(rf"(?:{_PATTERNS[_tag].pattern})\Z"), list(_first))
_Loader.add_implicit_resolver(
    _FLOAT, re.compile(rf"(?:{_PATTERNS[_FLOAT].pattern})\Z"), list("-+.0123456789")
)
_Loader.add_implicit_resolver(_MERGE, re.compile(r"<<\Z"), ["<"])


def _composed(text: str, file: str, max_characters: int, compose: Callable[[str], T]) -> T:
    """What ``compose`` makes of it; what it raises in one line."""
    if len(text) > max_characters:
        raise ConfigError(f"{file}: is larger than {max_characters >> 20} MiB")
    try:
        return compose(text)
    except yaml.MarkedYAMLError as error:
        raise ConfigError(_syntax(error, file, text)) from None
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{file}: is not YAML text: {error}") from None
    except RecursionError:
        raise ConfigError(f"{file}: is nested too deeply") from None


def _compose(text: str) -> yaml.Node | None:
    loader = _Loader(text)
    try:
        return cast("yaml.Node | None", loader.get_single_node())
    finally:
        loader.dispose()


def _compose_all(text: str) -> list[yaml.Node]:
    loader = _Loader(text)
    nodes = []
    try:
        while loader.check_node():
            nodes.append(loader.get_node())
    finally:
        loader.dispose()
    return nodes


def _plain(node: yaml.Node, holder: Section) -> Any:
    if isinstance(node, yaml.MappingNode):
        return {key.value: _plain(value, holder) for key, value in node.value if value.tag != _NULL}
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item, holder) for item in node.value]
    return node.value if node.tag == _STR else _anything(Section(node, holder.file))


_NOWHERE = yaml.Mark("", 0, 0, 0, None, 0)


def _node(value: Any) -> yaml.Node:
    match value:
        case Mapping():
            pairs = [(_scalar(_STR, str(key)), _node(each)) for key, each in value.items()]
            return yaml.MappingNode(_MAP, pairs, _NOWHERE, _NOWHERE)
        case list() | tuple():
            return yaml.SequenceNode(_SEQ, [_node(each) for each in value], _NOWHERE, _NOWHERE)
        case None:
            return _scalar(_NULL, "null")
        case bool():
            return _scalar(_BOOL, str(value).lower())
        case int():
            return _scalar(_INT, str(value))
        case float():
            return _scalar(_FLOAT, repr(value))
    return _scalar(_STR, str(value))


def _scalar(tag: str, text: str) -> yaml.Node:
    return yaml.ScalarNode(tag, text, _NOWHERE, _NOWHERE)


def _syntax(error: yaml.MarkedYAMLError, file: str, text: str) -> str:
    mark = error.problem_mark or error.context_mark
    where = f"{file}:{mark.line + 1}" if mark else file
    line = "".join(text.split("\n")[mark.line : mark.line + 1]) if mark else ""
    if mark and "\t" in line[: mark.column + 1]:
        return f"{where}: is not valid YAML: there is a tab, indent with spaces"
    if error.context == "expected a single document in the stream":
        return f'{where}: holds more than one document, remove all from the second "---" on'
    remedy = ": quote values that hold a colon" if "::" in line else ""  # an IPv6 address in braces
    return f"{where}: is not valid YAML: {error.problem or error.context}{remedy}"


def _check(root: yaml.Node, file: str) -> None:
    """Every node, aliases expanded: their number, tags, and the keys of mappings."""
    waiting: list[tuple[yaml.Node, _Trail]] = [(root, None)]
    count = 0
    while waiting:
        node, trail = waiting.pop()
        count += 1
        if count > MAX_NODES:
            raise ConfigError(f"{file}: holds more than {MAX_NODES} values once its aliases are expanded")
        if not _is_plain(node):
            message = f'the tag "{node.tag}" is not supported, write a plain value'
            raise Section(node, file, _path(trail)).error(message)
        if isinstance(node, yaml.MappingNode):
            _check_keys(node, file, trail)
            waiting.extend((value, (f".{key.value}", trail)) for key, value in node.value)
        elif isinstance(node, yaml.SequenceNode):
            waiting.extend((item, (f"[{i}]", trail)) for i, item in enumerate(node.value))


def _is_plain(node: yaml.Node) -> bool:
    """Whether the tag is what the value would have without one; any scalar may be called a string."""
    if isinstance(node, yaml.ScalarNode):
        pattern = _PATTERNS.get(node.tag)
        return pattern.fullmatch(node.value) is not None if pattern else node.tag == _STR
    return bool(node.tag == (_MAP if isinstance(node, yaml.MappingNode) else _SEQ))


_Trail: TypeAlias = "tuple[str, _Trail] | None"
"""The way to a node, from its end; joined only for an error, as it may be as long as the document."""


def _path(trail: _Trail) -> str:
    parts = []
    while trail is not None:
        part, trail = trail
        parts.append(part)
    return "".join(reversed(parts)).removeprefix(".")


def _check_keys(node: yaml.MappingNode, file: str, trail: _Trail) -> None:
    seen: dict[str, int] = {}
    for key, _ in node.value:
        if key.tag == _MERGE:
            message = 'merge keys ("<<") are not supported, write the fields out'
        elif not isinstance(key, yaml.ScalarNode) or not _is_plain(key):
            message = f"field names are plain text, got {shown(key)}"
        elif key.value in seen:
            message = f'"{key.value}" is there twice, first in line {seen[key.value]}'
        else:
            seen[key.value] = key.start_mark.line + 1
            continue
        raise Section(key, file, _path(trail)).error(message)


# --- values ------------------------------------------------------------------------------------------


def _read(section: Section, hint: Any) -> Any:
    if hint is Section:
        return section
    if hint is Any:
        return _anything(section)
    if hint in _SCALARS:
        return _SCALARS[hint](section)
    if dataclasses.is_dataclass(hint):
        return _record(section, cast(type, hint))
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        spelling = next((mark for mark in arguments[1:] if mark in _SPELLINGS), None)
        return _SPELLINGS[spelling](section) if spelling else _read(section, arguments[0])
    if origin is Literal:
        return _choice(section, arguments)
    if origin is tuple and arguments[1:] == (...,):
        return tuple(_read(item, arguments[0]) for item in section.items())
    if origin in (dict, Mapping) and arguments[0] is str:
        return {name: _read(value, arguments[1]) for name, value in section.fields().items()}
    if origin in (typing.Union, types.UnionType):
        return _either(section, [argument for argument in arguments if argument is not types.NoneType])
    raise TypeError(f"{section.path}: a parameter of type {hint} cannot be written in a configuration")


def _record(section: Section, target: type[T]) -> T:
    given = section.fields()
    wanted = _wanted(cast("Hashable", target))
    for name, part in given.items():
        if name not in wanted:
            former = _former(cast("Hashable", target))
            current = [each for each in wanted if each not in former]
            raise part.error("unknown field" + (suggestion(name, current, former) or _all_of(current)))
    values: dict[str, Any] = {}
    for name, (attribute, hint, required) in wanted.items():
        if name in given:
            hidden = attribute in _hidden(cast("Hashable", target))
            part = dataclasses.replace(given[name], hidden=True) if hidden else given[name]
            values[attribute] = _read(part, hint)
        elif required:
            raise section.error(f'"{name}" is missing')
    for attribute in _own_place(cast("Hashable", target)):
        values[attribute] = section
    try:
        return target(**values)
    except ConfigError:
        raise
    except ValueError as error:
        raise _blamed(section, given, str(error)) from None


def _blamed(section: Section, given: Mapping[str, Section], message: str) -> ConfigError:
    """An error of a ``__post_init__``, at the field it names first, if it names one."""
    name, colon, rest = message.partition(": ")
    return given[name].error(rest) if colon and name in given else section.error(message)


def _all_of(wanted: Collection[str]) -> str:
    return f", known are {', '.join(wanted)}" if wanted else ", there are none here"


@lru_cache(maxsize=256)
def _wanted(target: type) -> dict[str, tuple[str, Any, bool]]:
    """By name in YAML: the attribute, its type, and whether it has to be there."""
    hints = typing.get_type_hints(target, include_extras=True)
    return {
        field.metadata.get("yaml") or camel(field.name): (field.name, hints[field.name], _is_required(field))
        for field in dataclasses.fields(target)
        if field.init and hints[field.name] != Here
    }


@lru_cache(maxsize=256)
def _former(target: type) -> frozenset[str]:
    """Names in YAML that are still read: deprecated ones, and those that others have now."""
    fields = [each for each in dataclasses.fields(target) if "deprecated" in each.metadata]
    moved = getattr(target, "moved", {}).values()
    return frozenset(
        [
            *(each.metadata.get("yaml") or camel(each.name) for each in fields),
            *(n for names in moved for n in names),
        ]
    )


@lru_cache(maxsize=256)
def _hidden(target: type) -> frozenset[str]:
    """Attributes into which people may write by mistake what nobody is to see."""
    return frozenset(each.name for each in dataclasses.fields(target) if each.metadata.get("hidden"))


@lru_cache(maxsize=256)
def _own_place(target: type) -> list[str]:
    hints = typing.get_type_hints(target, include_extras=True)
    return [field.name for field in dataclasses.fields(target) if hints[field.name] == Here]


def _is_required(field: "dataclasses.Field[Any]") -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def camel(name: str) -> str:
    """``block_size_tokens`` as ``blockSizeTokens``."""
    first, *rest = name.split("_")
    return first + "".join(part[:1].upper() + part[1:] for part in rest)


def _either(section: Section, hints: list[Any]) -> Any:
    if len(hints) == 1:
        return _read(section, hints[0])
    wrong: ConfigError | None = None
    for hint in [each for each in hints if _shape(each) is type(section.node)] or hints:
        try:
            return _read(section, hint)
        except ConfigError as error:
            wrong = wrong or error
    raise wrong or section.error("no value fits here")


def _shape(hint: Any) -> type[yaml.Node]:
    """How it is written, where that follows from the type."""
    origin = typing.get_origin(hint)
    if origin in (dict, Mapping) or dataclasses.is_dataclass(hint):
        return yaml.MappingNode
    return yaml.SequenceNode if origin is tuple else yaml.ScalarNode


def _choice(section: Section, values: tuple[Any, ...]) -> Any:
    text = _text(section)
    if text in values:
        return text
    choices = ", ".join(f'"{value}"' for value in values)
    raise section.error(f"expected one of {choices}, got {shown(section.node)}" + suggestion(text, values))


def _anything(section: Section) -> Any:
    if isinstance(section.node, yaml.MappingNode):
        return {name: _anything(part) for name, part in section.fields().items()}
    if isinstance(section.node, yaml.SequenceNode):
        return tuple(_anything(part) for part in section.items())
    for tag, reader in ((_BOOL, _boolean), (_INT, _integer), (_FLOAT, _number)):
        if section.node.tag == tag:
            return reader(section)
    return section.node.value if section.node.tag == _STR else None


def _text(section: Section) -> str:
    if section.node.tag == _STR:
        return str(section.node.value)
    quotes = ", put it in quotes" if isinstance(section.node, yaml.ScalarNode) else ""
    got = "" if section.hidden else f", got {shown(section.node)}"
    raise section.error(f"expected a string{got}{quotes}")


def _boolean(section: Section) -> bool:
    if section.node.tag != _BOOL:
        raise section.error(f"expected true or false, got {shown(section.node)}")
    return section.node.value.lower() in {"true", "yes", "on"}


def _integer(section: Section) -> int:
    if section.node.tag != _INT:
        raise section.error(f"expected an integer, got {shown(section.node)}{_no_unit(section.node)}")
    digits = section.node.value.replace("_", "")
    value = int(digits) if len(digits) <= 20 else MAX_NUMBER
    if abs(value) >= MAX_NUMBER:
        raise section.error(f"the number {shown(section.node)} is too large")
    return value


def _number(section: Section) -> float:
    if section.node.tag not in {_INT, _FLOAT}:
        raise section.error(f"expected a number, got {shown(section.node)}{_no_unit(section.node)}")
    text = section.node.value.replace("_", "").lower()
    value = float(text.replace(".inf", "inf").replace(".nan", "nan"))
    if not math.isfinite(value):
        raise section.error(f"expected a finite number, got {shown(section.node)}")
    return value


def _no_unit(node: yaml.Node) -> str:
    """The remedy where it is a number but for a unit."""
    is_text = isinstance(node, yaml.ScalarNode) and node.tag == _STR
    return ", write it without a unit" if is_text and _WITH_UNIT.fullmatch(node.value) else ""


# --- spellings ---------------------------------------------------------------------------------------

_QUANTITY = re.compile(r"([-+]?(?:\d+\.?\d*|\.\d+))(?:([eE][-+]?\d{1,2})|([numkMGTPE]|[KMGTPE]i)?)", re.ASCII)
_SUFFIXES = {
    **{suffix: Decimal(1000) ** power for power, suffix in enumerate("numkMGTPE", start=-3) if power < 0},
    **{suffix: Decimal(1000) ** power for power, suffix in enumerate("kMGTPE", start=1)},
    **{f"{suffix}i": Decimal(1024) ** power for power, suffix in enumerate("KMGTPE", start=1)},
}


def quantity(text: str) -> int | None:
    """A Kubernetes quantity as a whole number, rounded up; None if it is none or too large."""
    parts = _QUANTITY.fullmatch(text) if len(text) <= 64 else None
    if parts is None:
        return None
    number, exponent, suffix = parts.groups()
    value = Decimal(number + (exponent or "")) * _SUFFIXES.get(suffix or "", Decimal(1))
    return math.ceil(value) if abs(value) < MAX_NUMBER else None


def _duration(section: Section) -> float:
    value = duration(section.node.value) if section.node.tag == _STR else None
    if value is None and section.node.tag == _INT and section.node.value == "0":
        value = 0.0
    if value is None:
        raise section.error(
            f'expected a duration such as "500ms", "2s" or "1m30s", got {shown(section.node)}'
        )
    return value


def _quantity(section: Section) -> int:
    value = quantity(section.node.value) if isinstance(section.node, yaml.ScalarNode) else None
    if value is None:
        raise section.error(f'expected a quantity such as 1000, "200k" or "512Mi", got {shown(section.node)}')
    return value


_SCALARS: dict[Any, Callable[[Section], Any]] = {str: _text, bool: _boolean, int: _integer, float: _number}
_SPELLINGS: dict[Any, Callable[[Section], Any]] = {
    Spelling.DURATION: _duration,
    Spelling.QUANTITY: _quantity,
}
