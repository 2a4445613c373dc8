"""``global-strict-fairness-policy``: all tenants of a band are one queue."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from epp.core.scoring import Flow


@dataclass(frozen=True, slots=True, kw_only=True)
class GlobalStrictFairnessPolicy:
    """The ordering policy decides over all tenants of a band together. The default.

    Note: a tenant that sends more gets more; it can keep others waiting.
    Source: upstream ``global-strict-fairness-policy``.
    """

    tells_apart: ClassVar[bool] = False

    def choose_flow(self, flows: Mapping[str, Flow], now: float) -> str:
        return next(iter(flows))
