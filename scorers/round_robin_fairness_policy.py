"""``round-robin-fairness-policy``: one request of each tenant, in turn."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from epp.core.scoring import Flow


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundRobinFairnessPolicy:
    """Of the tenants with waiting requests in a band, the one goes whose last turn is longest ago.

    Note: turns are equal, requests need not be: a tenant with longer prompts gets more of the servers.
    Source: upstream ``round-robin-fairness-policy`` (there in the order of names; who is new comes last
            here).
    """

    tells_apart: ClassVar[bool] = True

    def choose_flow(self, flows: Mapping[str, Flow], now: float) -> str:
        return next(iter(flows))
