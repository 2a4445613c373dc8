"""``schedulingProfiles`` of an EndpointPickerConfig: which plugins choose, and in what order.

Place:   asked by epp.config.picker_config, once all plugins are made.
Ignores: what plugins need of each other (epp.config.connections).
Rule:    every profile has a picker and, unless the configuration decides otherwise, a lifecycle-filter.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import takewhile
from typing import NamedTuple

from epp.config.decode import Section
from epp.config.picker_file import SchedulingProfile
from epp.config.plugin_table import Plugin, PluginTable, with_article
from epp.core.scheduling import Profile
from epp.core.scoring import Filter, Kind, ProfileHandler, Scorer
from scorers.lifecycle_filter import LifecycleFilter

LIFECYCLE_FILTER = "lifecycle-filter"
DEFAULT_PICKER = "max-score-picker"
_CHOOSING = (Kind.FILTER, Kind.SCORER, Kind.PICKER)


class _Use(NamedTuple):
    """A plugin in a profile."""

    plugin: Plugin
    weight: float | None
    at: Section


def handler_of(table: PluginTable, profiles: Sequence[SchedulingProfile]) -> Plugin | None:
    """The profile handler, if it is one that does something; checked against the number of profiles."""
    handlers = table.take_all(Kind.PROFILE_HANDLER)
    if len(handlers) > 1:
        raise handlers[1].at.error("there is more than one profile handler, keep one")
    names = [profile.name for profile in profiles]
    for profile in profiles:
        if names.count(profile.name) > 1:
            raise profile.at.error(f'the profile name "{profile.name}" is there twice')
    chooses = bool(handlers) and isinstance(handlers[0].made, ProfileHandler)
    if len(profiles) > 1 and not chooses:
        raise table.at.at("schedulingProfiles").error(
            f"{len(profiles)} profiles, but single-profile-handler takes one: add a handler that chooses "
            "between profiles, such as disagg-profile-handler"
        )
    return handlers[0] if chooses else None


def profiles_of(table: PluginTable, profiles: Sequence[SchedulingProfile]) -> list[Profile]:
    """The configured profiles; without any, one of all filters, scorers and pickers there are."""
    if not profiles:
        at = table.at.at("plugins")
        everything = [_Use(each.take(), None, at) for each in table.of_kind(*_CHOOSING)]
        return [_profile(table, "default", everything, table.at)]
    is_alone = len(profiles) == 1
    return [
        _profile(table, each.name, _uses(table, each), table.at if is_alone else each.at) for each in profiles
    ]


def _uses(table: PluginTable, profile: SchedulingProfile) -> Iterator[_Use]:
    seen: set[str] = set()
    for use in profile.plugins:
        each = table.take(use.plugin_ref, use.at)
        if use.plugin_ref in seen:
            raise use.at.at("pluginRef").error(f'"{use.plugin_ref}" is there twice')
        seen.add(use.plugin_ref)
        if not each.kinds & set(_CHOOSING):
            table.warn(use.at, f'"{each.name}" has no effect here, it is {with_article(each.kinds)}')
        yield _Use(each, use.weight, use.at)


def _profile(table: PluginTable, name: str, uses: Iterable[_Use], at: Section) -> Profile:
    filters: list[tuple[str, Filter]] = []
    scorers: list[tuple[str, Scorer, float]] = []
    pickers: list[Plugin] = []
    for each, weight, used_at in uses:
        if Kind.FILTER in each.kinds and getattr(each.made, "is_filtering", True):
            filters.append((each.name, each.made))
        if Kind.SCORER in each.kinds:
            scorers.append((each.name, each.made, 1.0 if weight is None else weight))
        elif weight is not None:
            table.warn(used_at, f'the weight of "{each.name}" has no effect, it is no scorer')
        if Kind.PICKER in each.kinds:
            pickers.append(each)
        if len(pickers) > 1:
            raise used_at.error(f'"{pickers[0].name}" and "{pickers[1].name}" are both pickers, keep one')
    if not scorers:
        table.warn(at, "no scorers: endpoints are picked without looking at their load")
    elif not any(weight for _, _, weight in scorers):
        table.warn(at, "every weight is 0: endpoints are picked without looking at their load")
    picker = pickers[0] if pickers else _default_picker(table)
    return Profile(
        name=name,
        filters=_with_lifecycle(table, filters),
        scorers=scorers,
        picker=(picker.name, picker.made),
    )


def _default_picker(table: PluginTable) -> Plugin:
    configured = table.of_kind(Kind.PICKER)
    return (configured[0] if configured else table.add(DEFAULT_PICKER)).take()


def _with_lifecycle(
    table: PluginTable, filters: Sequence[tuple[str, Filter]]
) -> Sequence[tuple[str, Filter]]:
    """A lifecycle-filter in front, if the configuration neither places one nor switches it off.

    Only filters that say so stay ahead of it: where what they leave is all dead, that is the reason, and
    the least bad is one that may serve the request.
    """
    configured = table.of_type(LIFECYCLE_FILTER)
    for each in configured:
        if not each.as_ours(LifecycleFilter).enabled:
            table.warn(each.take().at, "dead endpoints are picked like others")
            return filters
    placed = {name for name, _ in filters}
    if any(each.name in placed for each in configured):
        return filters
    added = (configured[0] if configured else table.add(LIFECYCLE_FILTER)).take()
    ahead = tuple(takewhile(lambda each: getattr(each[1], "before_lifecycle", False), filters))
    return *ahead, (added.name, added.made), *filters[len(ahead) :]
