"""A scheduler's plugins, each with a look at the clock before and after its work.

Place:   used for the few decisions of which more is to be known; the others never meet it.
Ignores: what becomes of the figures.
Rule:    what a plugin is asked and answers passes unchanged.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from epp.core.fleet import Endpoint
from epp.core.scheduling import Profile
from epp.core.scoring import Cycle, Filter, Picker, Producer, Scorer, Scores


class Step(NamedTuple):
    """A plugin at work in one decision."""

    profile: str
    """Empty: it works ahead of all profiles, or behind them."""
    point: str
    """Upstream's word for what it did."""
    plugin: str
    plugin_type: str
    began: float
    """[s, monotonic], as ``ended``."""
    ended: float


def type_of(plugin: object) -> str:
    """A plugin's type, from the name of its class: types are named as their classes."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", type(plugin).__name__).lower()


class Watch:
    """Notes the ``steps`` of a decision; who wants to know them lays out a new list ahead of it."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.steps: list[Step] = []

    def profile(self, profile: Profile) -> Profile:
        """The same one, watched."""
        name = profile.name
        picker, picks = profile.picker
        return Profile(
            name=name,
            filters=[(of, _Filter(self, name, of, each)) for of, each in profile.filters],
            scorers=[(of, _Scorer(self, name, of, each), weight) for of, each, weight in profile.scorers],
            picker=(picker, _Picker(self, name, picker, picks)),
        )

    def producers(self, producers: Sequence[tuple[str, Producer]]) -> Sequence[tuple[str, Producer]]:
        """The same ones, watched."""
        return [(of, _Producer(self, "", of, each)) for of, each in producers]


class _Watched:
    """One plugin in one place."""

    def __init__(self, watch: Watch, profile: str, name: str, plugin: Any) -> None:
        self._watch = watch
        self._key = (profile, name, type_of(plugin))
        self._plugin = plugin
        self.from_readings = bool(getattr(plugin, "from_readings", False))

    def _ran(self, point: str, began: float) -> None:
        profile, name, plugin_type = self._key
        self._watch.steps.append(Step(profile, point, name, plugin_type, began, self._watch.clock()))


class _Filter(_Watched):
    _plugin: Filter

    def filter(self, cycle: Cycle, endpoints: Sequence[Endpoint]) -> Sequence[Endpoint]:
        began = self._watch.clock()
        try:
            return self._plugin.filter(cycle, endpoints)
        finally:
            self._ran("Filter", began)


class _Scorer(_Watched):
    _plugin: Scorer

    def score(self, cycle: Cycle, endpoints: Sequence[Endpoint]) -> Scores:
        began = self._watch.clock()
        try:
            return self._plugin.score(cycle, endpoints)
        finally:
            self._ran("Scorer", began)


class _Picker(_Watched):
    _plugin: Picker

    def pick(
        self, cycle: Cycle, endpoints: Sequence[Endpoint], totals: Sequence[float]
    ) -> Sequence[Endpoint]:
        began = self._watch.clock()
        try:
            return self._plugin.pick(cycle, endpoints, totals)
        finally:
            self._ran("Picker", began)


class _Producer(_Watched):
    _plugin: Producer

    def produce(self, cycle: Cycle, endpoints: Sequence[Endpoint], name: str) -> Any:
        began = self._watch.clock()
        try:
            return self._plugin.produce(cycle, endpoints, name)
        finally:
            self._ran("PrepareData", began)

    def picked(self, cycle: Cycle, endpoint: Endpoint, found: Any) -> None:
        began = self._watch.clock()
        try:
            self._plugin.picked(cycle, endpoint, found)
        finally:
            self._ran("PreRequest", began)
