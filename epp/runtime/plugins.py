"""Plugin types by name, out of every installed package that offers some.

Place:   gives epp.config.picker_config.build its ``types``.
Rule:    a type is imported when a configuration names it, not before: start-up pays for what is used.
         One name, one package.

A package offers a type with an entry point in the group ``fleet_epp.plugins``; docs/plugins.md.
"""

from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points

from epp.config.decode import ConfigError

GROUP = "fleet_epp.plugins"


class PluginError(ConfigError):
    """A plugin type that cannot be used, with the package that offers it."""


class PluginTypes(Mapping[str, type]):
    """Plugin types by name; looking one up imports it."""

    def __init__(self, offered: Iterable[EntryPoint]) -> None:
        self._offered: dict[str, EntryPoint] = {}
        self._found: dict[str, type] = {}  # a package's metadata take 0.5 ms to read, and each pool asks
        for entry in offered:
            other = self._offered.setdefault(entry.name, entry)
            if other is not entry:
                both = f"{_package(other)} and by {_package(entry)}"
                raise PluginError(f'the plugin type "{entry.name}" is offered by {both}, uninstall one')

    def __getitem__(self, name: str) -> type:
        if name not in self._found:
            self._found[name] = self._imported(name)
        return self._found[name]

    def _imported(self, name: str) -> type:
        entry = self._offered[name]
        where = f'the plugin type "{name}" of {_package(entry)}'
        try:
            found = entry.load()
        except Exception as error:  # importing a plugin runs other people's code, which may raise anything
            reason = f"{type(error).__name__}: {error}"
            raise PluginError(f"{where} cannot be imported from {entry.value}: {reason}") from error
        if not isinstance(found, type):
            raise PluginError(f"{where}: {entry.value} is no class")
        return found

    def __contains__(self, name: object) -> bool:
        return name in self._offered

    def __iter__(self) -> Iterator[str]:
        return iter(self._offered)

    def __len__(self) -> int:
        return len(self._offered)


def load_types() -> Mapping[str, type]:
    """The plugin types of all installed packages; raises PluginError when two offer the same name."""
    return PluginTypes(entry_points(group=GROUP))


def _package(entry: EntryPoint) -> str:
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else "an unnamed package"
