"""Where endpoints stand to each other: on one host, in one rack, zone or region.

Place:   used by the topology-affinity plugins, which are TopologyAffinity, through epp.core.scoring.
Rule:    a missing label is like no other, not even a missing one.
Source:  upstream's topology plugins (llm-d-router).
"""

import enum
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

EXTRACTOR = "topology-extractor"


class Nearness(enum.IntEnum):
    """The closest that two endpoints have in common; the smaller the nearer."""

    HOST = 0
    RACK = 1
    ZONE = 2
    REGION = 3


def nearness(one: Mapping[str, str], other: Mapping[str, str], labels: Sequence[str]) -> Nearness | None:
    """How near two endpoints with these labels are; ``labels``: one name for each Nearness, in its order.

    None: they have nothing in common that anybody knows of.
    """
    for level, label in zip(Nearness, labels, strict=True):
        place = one.get(label)
        if place and place == other.get(label):
            return level
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class TopologyAffinity:
    """A plugin that looks at how near endpoints are, by the labels that an extractor names."""

    topology_producer_name: str = EXTRACTOR
    labels: tuple[str, ...] = field(default=(), init=False, repr=False, compare=False)

    is_experimental: ClassVar[bool] = True
    requires: ClassVar[Mapping[str, str]] = {"topology_producer_name": EXTRACTOR}

    def joined(self, plugins: Mapping[str, Any], profiles: Collection[str]) -> Self:
        """This plugin, with the labels of its extractor."""
        found = replace(self)
        object.__setattr__(found, "labels", plugins[self.topology_producer_name].labels)
        return found
