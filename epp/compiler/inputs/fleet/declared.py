"""Backends and models of a fleet, each on its own.

Place:   fills site.py.
Rule:    whatever is wrong with one leaves the others; its names stay known, so that who uses them is told
         what is really wrong.
"""

import re
from dataclasses import replace
from typing import TypeVar

from epp.compiler.findings import Origin
from epp.compiler.inputs.fleet.file import ModelEntry, Servers, check_name, twice
from epp.compiler.inputs.fleet.servers import is_local, servers
from epp.compiler.inputs.fleet.site import Lost, Model, Site
from epp.compiler.intent import Backend
from epp.compiler.names import name_of
from epp.config import decode
from epp.config.decode import ConfigError, Section

Entry = TypeVar("Entry", bound=Servers)


def declare(site: Site) -> None:
    """All of them."""
    for name, section in site.file.backends.items():
        _declare_backend(site, name, section)
    for place, section in enumerate(site.file.models):
        _declare_model(site, section, place)
    if not site.file.models:
        site.error("SpecInvalid", site.origin.at("models"), "there are none", "write at least one")


def complain(site: Site) -> None:
    """About what is of no use, unless an error may be the reason. Call it when everything is resolved."""
    if any(one.is_error for one in site.findings):
        return
    for name, one in site.backends.items():
        if name not in site.used:
            site.warning(
                "UnusedBackend", one.origin, "no model is served there", "name it in a model, or remove it"
            )


def _declare_backend(site: Site, name: str, section: Section) -> None:
    field = f"backends.{name}"
    origin = replace(site.origin, field=field, part=field)
    try:
        if fault := check_name(name):
            raise section.error(fault)
        entry = _entry(section, Servers, site, origin)
        if not entry.is_given:
            raise section.error('says nowhere where it is: write "pods", "hosts", "url" or "provider"')
        site.backends[name] = _backend(entry, name, site, origin, section)
    except ConfigError as wrong:
        site.invalid(origin, wrong)
        site.broken[name] = field


def _declare_model(site: Site, section: Section, place: int) -> None:
    names = _names(section)
    taken = next((name for name in names if name in site.models), None)
    own = names[0] if names and taken is None else ""
    field = f"models[{own}]" if own else section.path
    origin = replace(site.origin, field=field, part=own or section.path)
    section = replace(section, path=field)
    try:
        entry = _entry(section, ModelEntry, site, origin)
        if taken is not None:
            first = site.models[taken].entry.name
            site.error(
                "ModelNameTaken",
                origin,
                f'"{taken}" is a name of {first} already',
                "give one of the two another name",
            )
            site.lost.append(Lost(tuple(names), origin, place))
            return
        if repeated := twice(names):
            raise section.at("aliases").error(f'"{repeated}" is there twice, leave one out')
        backend = _own(entry, site, origin, section)
    except ConfigError as wrong:
        site.invalid(origin, wrong)
        site.broken.update((name, field) for name in names if name not in site.models)
        site.lost.append(Lost(tuple(names), origin, place))
        return
    site.models.update(dict.fromkeys(names, Model(entry, origin, place, backend)))


_LEANT_ON = frozenset({"name", "pods", "hosts", "pool", "service", "url", "provider", "backends"})
"""Fields without which others would be told to be wrong, as a secret that is of no use."""


def _entry(section: Section, kind: type[Entry], site: Site, origin: Origin) -> Entry:
    """ConfigError: the last of its faults; all others have been told."""
    try:
        return decode.read(section, kind)
    except ConfigError as first:
        last = first
    while (field := _field(last, section)) and field not in _LEANT_ON:
        section = section.only({field}, others=True)
        try:
            decode.read(section, kind)
            break
        except ConfigError as wrong:
            if not _field(wrong, section):  # only now, since something is left out
                break
            site.invalid(origin, last)
            last = wrong
    raise last


def _field(fault: ConfigError, section: Section) -> str:
    """Which field of ``section`` it is about; empty: the section itself."""
    name = re.split(r"[.\[]", fault.path.removeprefix(section.path).removeprefix("."), maxsplit=1)[0]
    return name if name in section.fields() else ""


def _names(section: Section) -> list[str]:
    """As far as they can be read."""
    try:
        content = decode.plain(section)
    except ConfigError:
        return []
    if not isinstance(content, dict):
        return []
    aliases = content.get("aliases")
    written = [content.get("name"), *(aliases if isinstance(aliases, list) else ())]
    return [name for name in written if isinstance(name, str) and name]


def _own(entry: ModelEntry, site: Site, origin: Origin, section: Section) -> Backend | None:
    if entry.backends:
        return None
    found = _backend(entry, entry.name, site, origin, section)
    if found.name in site.file.backends:
        raise section.error(
            f'its pool would be called "{found.name}", as an entry of backends is: rename one'
        )
    return found


def _backend(entry: Servers, name: str, site: Site, origin: Origin, section: Section) -> Backend:
    own = name_of(name)
    try:
        found = servers(entry, own, site.namespace, site.file.port, origin)
    except ConfigError:
        raise
    except ValueError as fault:
        field, _, message = str(fault).partition(": ")
        raise section.at(field).error(message) from None
    return Backend(
        own,
        found,
        origin,
        model=entry.served_as,
        local=is_local(entry),
        health_path=entry.health,
        timeout=entry.timeout or site.file.timeout,
    )
