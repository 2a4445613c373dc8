"""``prefix-cache-affinity-filter``: only endpoints that hold the prompt, unless they have too much to do."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from epp.core.scoring import Cycle, Endpoint, PrefixMatch


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixCacheAffinityFilter:
    """Keep the endpoints that hold most of the prompt, as long as waiting for them costs less than it saves.

    In:     n endpoints; the PrefixMatch of the named producer; ``tokens_in_flight`` [tokens].
    Out:    those with matched / total >= ``affinityThreshold``, in their order. All, if there are none, if
            the dice say so (``explorationProbability``), or if the least time to the first token among them
            is more than ``maxTTFTPenaltyMs`` above the least among the others; that time is tokens in flight
            / ``peakPrefillThroughput`` * 1000 [ms]. All as well, if the least tokens in flight among them are
            more than ``maxTokensInFlightPenalty`` above the least among the others.
    Lacks:  ``ttftSource: latencyPredictor``.
    Source: upstream ``prefix-cache-affinity-filter``.
    """

    affinity_threshold: float = 0.8
    """The share of the prompt that an endpoint has to hold, 0 to 1; 0 keeps all."""
    exploration_probability: float = 0.0
    """How often all are kept whatever they hold, 0 to 1."""
    max_ttft_penalty_ms: float = field(default=18000.0, metadata={"yaml": "maxTTFTPenaltyMs"})
    """How much longer [ms] the first token may take at those kept; 0: any time."""
    max_tokens_in_flight_penalty: int = 0
    """How many more tokens may be in flight at those kept; 0: any number. Of upstream's later versions."""
    ttft_source: Literal["prefillThroughput", "latencyPredictor"] = "prefillThroughput"
    """Only ``prefillThroughput`` is taken: there is no latency predictor."""
    peak_prefill_throughput: float = 15928.0
    """Prompt tokens that an endpoint works on in a second, at best."""
    prefix_match_info_producer_name: str = "approx-prefix-cache-producer"
    in_flight_load_producer_name: str = "inflight-load-producer"

    requires: ClassVar[Mapping[str, str]] = {
        "prefix_match_info_producer_name": "approx-prefix-cache-producer",
        "in_flight_load_producer_name": "inflight-load-producer",
    }

    def __post_init__(self) -> None:
        for name, value in (
            ("affinityThreshold", self.affinity_threshold),
            ("explorationProbability", self.exploration_probability),
        ):
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"{name}: must be from 0 to 1, got {value:g}")
        if self.max_ttft_penalty_ms < 0:
            raise ValueError(f"maxTTFTPenaltyMs: must be at least 0, got {self.max_ttft_penalty_ms:g}")
        if self.max_tokens_in_flight_penalty < 0:
            raise ValueError(
                f"maxTokensInFlightPenalty: must be at least 0, got {self.max_tokens_in_flight_penalty}"
            )
        if self.peak_prefill_throughput <= 0:
            raise ValueError(f"peakPrefillThroughput: must be above 0, got {self.peak_prefill_throughput:g}")
        if self.ttft_source != "prefillThroughput":
            raise ValueError(
                "ttftSource: latency prediction is not supported by this version, write prefillThroughput"
            )

    def filter(self, cycle: Cycle, endpoints: Sequence[Endpoint]) -> Sequence[Endpoint]:
        if len(endpoints) < 2 or not self.affinity_threshold:
            return endpoints
        if self.exploration_probability and cycle.chance.random() < self.exploration_probability:
            return endpoints
        match: PrefixMatch | None = cycle.facts.get(self.prefix_match_info_producer_name)
        if match is None or not match.total_blocks:
            return endpoints
        enough = self.affinity_threshold * match.total_blocks
        holding = [endpoint for endpoint in endpoints if match.blocks.get(endpoint, 0) >= enough]
        if not holding or len(holding) == len(endpoints) or self._take_too_long(holding, endpoints):
            return endpoints
        return holding

    def _take_too_long(self, holding: Sequence[Endpoint], endpoints: Sequence[Endpoint]) -> bool:
        if not (self.max_ttft_penalty_ms or self.max_tokens_in_flight_penalty):
            return False
        kept = set(holding)
        others = [endpoint for endpoint in endpoints if endpoint not in kept]
        more = min(each.tokens_in_flight for each in holding) - min(each.tokens_in_flight for each in others)
        if 0 < self.max_tokens_in_flight_penalty < more:
            return True
        return 0 < self.max_ttft_penalty_ms < more / self.peak_prefill_throughput * 1000.0
