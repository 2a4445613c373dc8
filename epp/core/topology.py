"""Where endpoints stand to each other: on one host, in one rack, zone or region.

Place:   used by the topology plugins, through epp.core.scoring.
Rule:    a missing label is like no other, not even a missing one.
Source:  upstream's topology plugins (llm-d-router).
"""

import enum
from collections.abc import Mapping, Sequence


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
