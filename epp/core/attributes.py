"""Figures of one's own: who reads what a plugin is told to look at.

Place:   used by the endpoint-attribute plugins, which are FigureReader, through epp.core.scoring.
Ignores: how figures are read, and what they are.
Source:  upstream's endpoint-attribute plugins (llm-d-router).
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

METRICS_EXTRACTOR = "core-metrics-extractor"


@dataclass(frozen=True, slots=True, kw_only=True)
class FigureReader:
    """A plugin that looks at one figure of endpoints, which an extractor reads."""

    producer: str = METRICS_EXTRACTOR

    key: ClassVar[tuple[str, str]]
    """The attribute that names the figure, and its name in a configuration."""
    from_readings: ClassVar[bool] = True
    is_experimental: ClassVar[bool] = True
    requires: ClassVar[Mapping[str, str]] = {"producer": METRICS_EXTRACTOR}
    alternatives: ClassVar[Mapping[str, Sequence[str]]] = {"producer": ("dcgm-extractor",)}

    def is_read_by(self, extractor: Any) -> bool:
        """Whether an extractor reads the figure: where no producer is named, that is the one."""
        return getattr(self, self.key[0]) in _figures(extractor)

    def joined(self, plugins: Mapping[str, Any], profiles: Collection[str]) -> Self:
        """This plugin; ValueError where nobody reads the figure."""
        attribute, field_name = self.key
        return replace(self, **{attribute: self._figure(field_name, getattr(self, attribute), plugins)})

    def _figure(self, field_name: str, key: str, plugins: Mapping[str, Any]) -> str:
        """The figure that ``key`` means: one that the producer reads, or else ``figure/name`` with the name
        of another extractor. ValueError: nobody reads it."""
        known = _figures(plugins[self.producer])
        if key in known:
            return key
        figure, slash, other = key.rpartition("/")
        if slash and other in plugins and figure in _figures(plugins[other]):
            return figure
        what = f"known are {', '.join(known)}" if known else "there are none"
        remedy = (
            f"add it there, or name in producer the {' or '.join(self.alternatives['producer'])} that has it"
        )
        raise ValueError(
            f'{field_name}: "{key}" is in no customMetrics of "{self.producer}", {what}: {remedy}'
        )


def _figures(extractor: Any) -> Sequence[str]:
    """What an extractor reads beside the usual figures."""
    configs = getattr(extractor, "engine_configs", ())
    own = (each.attribute_key for config in configs for each in config.custom_metrics)
    return tuple(dict.fromkeys((*own, *getattr(extractor, "figures", ()))))
