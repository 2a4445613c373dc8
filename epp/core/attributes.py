"""Figures of one's own: who reads what a plugin is told to look at.

Place:   used by the endpoint-attribute plugins, which are FigureReader, through epp.core.scoring.
Ignores: how figures are read, and what they are.
Source:  upstream's endpoint-attribute plugins (llm-d-router).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

METRICS_EXTRACTOR = "core-metrics-extractor"


@dataclass(frozen=True, slots=True, kw_only=True)
class FigureReader:
    """A plugin that looks at one figure of endpoints, which an extractor reads."""

    producer: str = METRICS_EXTRACTOR

    from_readings: ClassVar[bool] = True
    is_experimental: ClassVar[bool] = True
    requires: ClassVar[Mapping[str, str]] = {"producer": METRICS_EXTRACTOR}
    alternatives: ClassVar[Mapping[str, Sequence[str]]] = {"producer": ("dcgm-extractor",)}

    def figure(self, field_name: str, key: str, plugins: Mapping[str, Any]) -> str:
        """The figure that ``key`` means: one that the producer reads, or else ``figure/name`` with the name
        of another extractor. ValueError: nobody reads it."""
        known = _figures(plugins[self.producer])
        if key in known:
            return key
        figure, slash, other = key.rpartition("/")
        if slash and other in plugins and figure in _figures(plugins[other]):
            return figure
        what = f"known are {', '.join(known)}" if known else "there are none"
        raise ValueError(f'{field_name}: "{key}" is in no customMetrics of "{self.producer}", {what}')


def _figures(extractor: Any) -> Sequence[str]:
    """What an extractor reads beside the usual figures."""
    configs = getattr(extractor, "engine_configs", ())
    own = (each.attribute_key for config in configs for each in config.custom_metrics)
    return tuple(dict.fromkeys((*own, *getattr(extractor, "figures", ()))))
