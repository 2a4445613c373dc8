"""What plugins need of each other: producers that they read, and others that they look up by name.

Place:   used by epp.config.picker_config, once it is known which plugins choose.
Ignores: what plugins do with each other.
Rule:    a plugin is connected once, after those that it needs; a circle is refused.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from epp.config.decode import ConfigError, camel
from epp.config.plugin_table import Plugin, PluginTable
from epp.core.scheduling import Profile
from epp.core.scoring import Kind, Producer


class _ByName(Mapping[str, Any]):
    """The connected plugins, for those that look up others; what is looked up counts as used."""

    def __init__(self, table: PluginTable, connected: Callable[[str], Any]) -> None:
        self._table, self._connected = table, connected

    def __getitem__(self, name: str) -> Any:
        self._table[name].take()
        return self._connected(name)

    def __contains__(self, name: object) -> bool:
        return name in self._table

    def __iter__(self) -> Iterator[str]:
        return (each.name for each in self._table)

    def __len__(self) -> int:
        return sum(1 for _ in self._table)


class Connections:
    """Makes plugins anew with what they need; ``profiles`` are the names that they may refer to."""

    def __init__(self, table: PluginTable, profiles: Sequence[str]) -> None:
        self._table, self._profiles = table, profiles
        self._connected: set[str] = set()
        self._connecting: list[str] = []

    def profile(self, profile: Profile) -> Profile:
        """The profile, of connected plugins."""
        return dataclasses.replace(
            profile,
            filters=[(name, self.plugin(name)) for name, _ in profile.filters],
            scorers=[(name, self.plugin(name), weight) for name, _, weight in profile.scorers],
            picker=(profile.picker[0], self.plugin(profile.picker[0])),
        )

    def producers(self) -> tuple[tuple[str, Producer], ...]:
        """All that there are: those that are configured, and those that others made necessary."""
        found: dict[str, Producer] = {}
        while missing := [each for each in self._table.of_kind(Kind.PRODUCER) if each.name not in found]:
            for each in missing:
                found[each.name] = self.plugin(each.take().name)
        return tuple(found.items())

    def plugin(self, name: str) -> Any:
        """The plugin with what it needs of others."""
        each = self._table[name]
        if name in self._connecting:
            chain = " -> ".join((*self._connecting[self._connecting.index(name) :], name))
            raise each.at.error(
                f"plugins need each other in a circle, {chain}: name another one in one of them"
            )
        if name not in self._connected:
            self._connecting.append(name)
            self._connect(each)
            self._connecting.pop()
            self._connected.add(name)
        return each.made

    def _connect(self, each: Plugin) -> None:
        for needs, adds in (("requires", True), ("uses", False)):
            for attribute, producer_type in getattr(type(each.made), needs, {}).items():
                producer = self._producer(each, attribute, producer_type, adds=adds)
                if producer:
                    self.plugin(producer)
                    each.made = dataclasses.replace(each.made, **{attribute: producer})
        join = getattr(each.made, "joined", None)
        if join is None:
            return
        try:
            each.made = join(_ByName(self._table, self.plugin), self._profiles)
        except ConfigError:
            raise
        except ValueError as error:
            raise _blamed(each, str(error)) from None

    def _producer(self, user: Plugin, attribute: str, producer_type: str, *, adds: bool) -> str:
        """The name of the producer that ``user`` means; the only one of that type if it names none."""
        named = getattr(user.made, attribute)
        at = user.at.at("parameters", camel(attribute))
        allowed = (producer_type, *getattr(user.made, "alternatives", {}).get(attribute, ()))
        configured = self._table.of_type(producer_type)
        suits = getattr(user.made, "is_read_by", None)
        if suits and not _is_written(user, attribute):
            possible = [each for type_name in allowed for each in self._table.of_type(type_name)]
            configured = [each for each in possible if suits(each.made)] or configured
        elif named and (named in self._table or named != producer_type):
            return self._table.take_of_types(named, at, allowed).name
        if len(configured) > 1:
            names = ", ".join(f'"{each.name}"' for each in configured)
            type_names = " or ".join(sorted({each.type_name for each in configured}))
            raise at.error(f"there are {names} of type {type_names}, name one in {camel(attribute)}")
        if configured:
            return configured[0].take().name
        return self._table.add(producer_type).name if adds else ""


def _is_written(each: Plugin, attribute: str) -> bool:
    parameters = each.entry.parameters if each.entry else None
    return parameters is not None and camel(attribute) in parameters.fields()


def _blamed(each: Plugin, message: str) -> ConfigError:
    """An error of a plugin's, at the parameter that it names first, if it names one."""
    if each.entry is None:
        return each.at.error(f"{each.name}: {message}")
    path, colon, rest = message.partition(": ")
    at = each.entry.parameters
    for name in path.split("."):
        at = at.fields().get(name) if at else None
    return at.error(rest) if colon and at else each.at.error(message)
