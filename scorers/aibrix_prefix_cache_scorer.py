"""``aibrix-prefix-cache-scorer``: the best match that is not busier than most, as AIBrix has it."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from epp.core.scoring import Cycle, Endpoint, PrefixMatch, Scores


@dataclass(frozen=True, slots=True, kw_only=True)
class AibrixPrefixCacheScorer:
    """Choose by match among those that are not unusually busy; only by requests while the fleet is uneven.

    In:     n endpoints; ``requests_in_flight``; the PrefixMatch of the named producer.
    Out:    1 for whoever may be chosen, 0 for the others. If the most requests in flight are more than
            ``imbalanceAbsCount`` above the fewest: those with the fewest. Else the first of those that hold
            any of the prompt, longest match and then fewest requests first, with at most mean +
            ``standardDeviationFactor`` standard deviations of requests. Is there none, those with the fewest.
    Ties:   equal match and requests, equal score.
    Source: AIBrix, routing policy ``prefix-cache`` (2026-08), which counts blocks of 128 characters; here
            those of the producer.
    """

    imbalance_abs_count: int = 8
    """AIBRIX_PREFIX_CACHE_POD_RUNNING_REQUEST_IMBALANCE_ABS_COUNT."""
    standard_deviation_factor: float = 1.0
    """AIBRIX_PREFIX_CACHE_STANDARD_DEVIATION_FACTOR."""
    prefix_match_info_producer_name: str = "approx-prefix-cache-producer"

    requires: ClassVar[Mapping[str, str]] = {
        "prefix_match_info_producer_name": "approx-prefix-cache-producer",
    }

    def __post_init__(self) -> None:
        if self.imbalance_abs_count < 0:
            raise ValueError(f"imbalanceAbsCount: must be at least 0, got {self.imbalance_abs_count}")
        if self.standard_deviation_factor < 0:
            raise ValueError(
                f"standardDeviationFactor: must be at least 0, got {self.standard_deviation_factor:g}"
            )

    def score(self, cycle: Cycle, endpoints: Sequence[Endpoint]) -> Scores:
        counts = [endpoint.requests_in_flight for endpoint in endpoints]
        fewest = min(counts, default=0)
        if counts and max(counts) - fewest <= self.imbalance_abs_count:
            held = self._held(cycle, endpoints)
            most = statistics.fmean(counts) + self.standard_deviation_factor * statistics.pstdev(counts)
            able = [(-blocks, count) for blocks, count in zip(held, counts, strict=True) if count <= most]
            best = min((each for each in able if each[0]), default=None)
            if best is not None:
                both = zip(held, counts, strict=True)
                return [float((-blocks, count) == best) for blocks, count in both]
        return [float(count == fewest) for count in counts]

    def _held(self, cycle: Cycle, endpoints: Sequence[Endpoint]) -> list[int]:
        match: PrefixMatch | None = cycle.facts.get(self.prefix_match_info_producer_name)
        return [match.blocks.get(each, 0) if match else 0 for each in endpoints]
