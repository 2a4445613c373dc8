from dataclasses import dataclass

from epp.core.scoring import Cycle, Endpoint, Scores


@dataclass(frozen=True, slots=True, kw_only=True)
class HotSpareScorer:
    """Keep endpoints labelled as spares for when the others are busy."""

    label: str = "spare"

    def score(self, cycle: Cycle, endpoints: list[Endpoint]) -> Scores:
        return [0.0 if self.label in endpoint.labels else 1.0 for endpoint in endpoints]
