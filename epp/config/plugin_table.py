"""The plugins of one configuration: made of their parameters, and found by who names them.

Place:   filled by epp.config.picker_config; the other parts of a configuration take from it what they need.
Ignores: what plugins are for.
Rule:    to find is not to take. Who uses a plugin takes it; what nobody took is told at the end, beside what
         was written and has no effect.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from epp.config.decode import ConfigError, Section, camel, read
from epp.config.picker_file import NOT_SUPPORTED, PluginEntry, Reference
from epp.config.unsupported import UNSUPPORTED_TYPES
from epp.core.scoring import Kind, kinds
from epp.core.suggestions import suggestion

Settings = TypeVar("Settings")
FORMER_TYPES = {"kv-cache-scorer": "kv-cache-utilization-scorer"}
"""Names that types had in upstream's first versions, and nobody would guess what they are now."""
OURS = "scorers."
"""Where the plugin types are that come with the picker."""


@dataclass(slots=True, kw_only=True)
class Plugin:
    """One plugin, under its name."""

    name: str
    type_name: str
    kinds: frozenset[Kind]
    made: Any
    at: Section
    """Where it is configured; the whole configuration for one that was added."""
    entry: PluginEntry | None = None
    """None: it was added."""
    is_taken: bool = False

    def take(self) -> "Plugin":
        """It is used."""
        self.is_taken = True
        return self

    def as_ours(self, wanted: type[Settings]) -> Settings:
        """Settings that the picker itself reads: it understands those of its own types only."""
        if not isinstance(self.made, wanted):
            raise self.at.at("type").error(
                f"{with_article(self.kinds)} of a type that does not come with the picker {NOT_SUPPORTED}"
            )
        return self.made


class PluginTable:
    """By name, in their order: those that are configured, then those that were added."""

    def __init__(self, types: Mapping[str, type], at: Section, *, allow_experimental: bool) -> None:
        self.at = at
        """The whole configuration."""
        self._types = types
        self._allow_experimental = allow_experimental
        self._plugins: dict[str, Plugin] = {}
        self._handed_on: dict[str, Section] = {}
        """Parameters for plugins of a type, which are written elsewhere."""
        self._warnings: list[str] = []

    def __iter__(self) -> Iterator[Plugin]:
        return iter(self._plugins.values())

    def __contains__(self, name: object) -> bool:
        return name in self._plugins

    def __getitem__(self, name: str) -> Plugin:
        return self._plugins[name]

    # --- filling ---

    def configure(self, entry: PluginEntry) -> None:
        """Make the plugin that ``entry`` describes."""
        name = entry.name or entry.type
        if name in self:
            first = self[name].at.line
            raise entry.at.error(
                f'the name "{name}" is there twice, first in line {first}; give each plugin its own name'
            )
        plugin_type = self._type(entry.type, entry.at.at("type"))
        if remedy := getattr(plugin_type, "deprecated", ""):
            self.warn(entry.at.at("type"), f'the plugin type "{entry.type}" is deprecated: {remedy}')
        parameters = self._without_moved(plugin_type, entry.parameters or entry.at.empty("parameters"))
        self._warn_of_parameters(plugin_type, parameters)
        self._plugins[name] = Plugin(
            name=name,
            type_name=entry.type,
            kinds=kinds(plugin_type),
            made=_made(entry.type, plugin_type, parameters),
            at=entry.at,
            entry=entry,
        )

    def add(self, type_name: str) -> Plugin:
        """A plugin that is not configured, named as its type, with its defaults or what was handed on."""
        plugin_type = self._type(type_name, self.at)
        parameters = self._handed_on.pop(type_name, None) or self.at.empty(type_name)
        made = _made(type_name, plugin_type, parameters)
        if type_name in self and (other := self[type_name]).entry:
            raise other.at.at("name").error(f'a plugin of the type "{type_name}" is called so, rename it')
        added = Plugin(name=type_name, type_name=type_name, kinds=kinds(plugin_type), made=made, at=self.at)
        self._plugins[type_name] = added
        return added

    def hand_on(self, type_name: str, parameters: Section) -> None:
        """Parameters for a plugin of this type, if one is added."""
        self._handed_on[type_name] = parameters

    def _type(self, name: str, at: Section) -> type:
        if name not in self._types:
            if name in UNSUPPORTED_TYPES:
                reason = UNSUPPORTED_TYPES[name]
                raise at.error(f'the plugin type "{name}" {NOT_SUPPORTED}: {reason}')
            hint = (
                suggestion(FORMER_TYPES.get(name, name), self._types)
                or ", is the package that has it installed?"
            )
            raise at.error(f'unknown plugin type "{name}"{hint}')
        try:
            plugin_type = self._types[name]
        except ConfigError as error:
            raise at.error(str(error)) from error
        if not dataclasses.is_dataclass(plugin_type) or not kinds(plugin_type):
            raise at.error(f'the plugin type "{name}" is no dataclass with the methods of a plugin')
        if getattr(plugin_type, "is_experimental", False) and not self._allow_experimental:
            raise at.error(
                f'the plugin type "{name}" is experimental: start with --allow-experimental-plugins to use it'
            )
        return plugin_type

    def _without_moved(self, plugin_type: type, parameters: Section) -> Section:
        """The parameters that are still of this type; the others go to the type that has them now."""
        for now_of, names in getattr(plugin_type, "moved", {}).items():
            moved = {name: at for name, at in parameters.fields().items() if name in names}
            for at in moved.values():
                self.warn(at, f"is deprecated: write it in the parameters of {now_of}")
            if moved:
                self.hand_on(now_of, parameters.only(moved))
                parameters = parameters.only(moved, others=True)
        return parameters

    def _warn_of_parameters(self, plugin_type: type, parameters: Section) -> None:
        given = parameters.fields()
        for parameter in dataclasses.fields(plugin_type):
            written = parameter.metadata.get("yaml") or camel(parameter.name)
            for word, says in (("deprecated", "is deprecated"), ("without_effect", "has no effect")):
                if written in given and (reason := parameter.metadata.get(word)):
                    self.warn(given[written], f"{says}: {reason}")

    # --- finding ---

    def of_type(self, type_name: str) -> list[Plugin]:
        """Those of one type."""
        return [each for each in self if each.type_name == type_name]

    def of_kind(self, *wanted: Kind) -> list[Plugin]:
        """Those that are of one of these kinds."""
        return [each for each in self if each.kinds & set(wanted)]

    def check_only(self, type_name: str, remedy: str) -> None:
        """An error where there are several of one type."""
        found = self.of_type(type_name)
        if len(found) > 1:
            raise found[1].at.error(f"there are {len(found)} plugins of type {type_name}; {remedy}")

    # --- taking ---

    def take(self, name: str, at: Section, *wanted: Kind) -> Plugin:
        """The plugin called ``name``, which has to be of one of the kinds ``wanted``, if any are given."""
        place = at.at("pluginRef")
        if name not in self:
            hint = suggestion(name, self._plugins) or ", add it to plugins"
            raise place.error(f'there is no plugin "{name}"{hint}')
        found = self[name]
        if wanted and not found.kinds & set(wanted):
            is_one, expected = with_article(found.kinds), with_article(wanted)
            raise place.error(f'"{name}" is {is_one}, expected {expected}')
        return found.take()

    def take_referred(self, reference: Reference, *wanted: Kind) -> Plugin:
        """The same, for a reference."""
        return self.take(reference.plugin_ref, reference.at, *wanted)

    def take_of_types(self, name: str, at: Section, allowed: Sequence[str]) -> Plugin:
        """The plugin called ``name``: of one of these types, or somebody else's that can do the same."""
        wanted = {kind for type_name in allowed for kind in kinds(self._types[type_name])}
        found = self.take(name, at, *wanted)
        if found.type_name not in allowed and type(found.made).__module__.startswith(OURS):
            raise at.at("pluginRef").error(
                f'"{name}" is of type {found.type_name}, expected {" or ".join(allowed)}'
            )
        return found

    def take_only(self, type_name: str, remedy: str) -> Plugin:
        """The one plugin of this type, added if there is none."""
        self.check_only(type_name, remedy)
        found = self.of_type(type_name)
        return (found[0] if found else self.add(type_name)).take()

    def take_all(self, *wanted: Kind) -> list[Plugin]:
        """The plugins of these kinds, which work without being named anywhere."""
        return [each.take() for each in self.of_kind(*wanted)]

    # --- telling ---

    def warn(self, at: Section, message: str) -> None:
        """Something for the log."""
        self._warnings.append(str(at.error(message)))

    def warnings(self) -> tuple[str, ...]:
        """All of it, when everybody has taken what he needs."""
        moved = [
            at.error(f"there is a {now_of} in plugins: what is here has no effect")
            for now_of, at in self._handed_on.items()
        ]
        idle = [
            each.at.error(f'the {spoken(each.kinds)} "{each.name}" is used by nothing')
            for each in self
            if each.entry and not each.is_taken
        ]
        return (*self._warnings, *map(str, (*moved, *idle)))


def _made(name: str, plugin_type: type, parameters: Section) -> Any:
    try:
        return read(parameters, plugin_type)
    except (TypeError, NameError) as error:  # a field whose type cannot be written in YAML
        raise parameters.error(f'the plugin type "{name}" is faulty: {error}') from error


def spoken(some: Iterable[Kind]) -> str:
    """Kinds, for people."""
    return " and ".join(sorted(kind.value for kind in some))


def with_article(some: Iterable[Kind]) -> str:
    """The same, with "a" or "an"."""
    words = spoken(some)
    return f"{'an' if words[0] in 'aeio' else 'a'} {words}"  # a usage limit policy
