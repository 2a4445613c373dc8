"""``always-disagg-pd-decider``: another server works on every prompt."""

from dataclasses import dataclass
from typing import ClassVar

from epp.core.scoring import Cycle, Endpoint, Kind


@dataclass(frozen=True, slots=True)
class AlwaysDisaggPdDecider:
    """Have another endpoint work on every prompt; without parameters.

    Source: upstream ``always-disagg-pd-decider``.
    """

    kind: ClassVar[Kind] = Kind.DECIDER

    def disaggregates(self, cycle: Cycle, endpoint: Endpoint | None) -> bool:
        return True
