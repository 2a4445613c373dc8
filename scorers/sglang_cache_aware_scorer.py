"""``sglang-cache-aware-scorer``: the best match, else the smallest tree, as SGLang's gateway has it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from epp.core.scoring import Cycle, Endpoint, PrefixMatch, Scores, cheapest_first


@dataclass(frozen=True, slots=True, kw_only=True)
class SglangCacheAwareScorer:
    """Choose by match while the fleet is balanced, and by requests in flight while it is not.

    In:     n endpoints; ``requests_in_flight``; the PrefixMatch of the named producer; the tokens that were
            new to each endpoint among those sent there (its tree).
    Out:    imbalanced, that is max - min > ``balanceAbsThreshold`` and max > ``balanceRelThreshold`` * min
            requests: by rank, fewest requests first. Else, where the longest match is more than
            ``cacheThreshold`` of the prompt: 1 for who has it, 0 for the others. Else by rank, smallest tree
            first.
    Ties:   equal figures, equal score.
    Lacks:  eviction from the tree by size; a tree is forgotten with its server's life.
    Source: SGLang model gateway, policy ``cache_aware`` (defaults of its code; those of its command line are
            64, 1.5 and 0.3).
    """

    balance_abs_threshold: int = 32
    """Requests."""
    balance_rel_threshold: float = 1.1
    """The most requests as a multiple of the fewest."""
    cache_threshold: float = 0.5
    """Share of the prompt, 0 to 1."""
    prefix_match_info_producer_name: str = "approx-prefix-cache-producer"
    in_flight_load_producer_name: str = "inflight-load-producer"
    tree: object = field(init=False, repr=False, compare=False, default_factory=object)

    requires: ClassVar[Mapping[str, str]] = {
        "prefix_match_info_producer_name": "approx-prefix-cache-producer",
        "in_flight_load_producer_name": "inflight-load-producer",
    }

    def __post_init__(self) -> None:
        if self.balance_abs_threshold < 0:
            raise ValueError(f"balanceAbsThreshold: must be at least 0, got {self.balance_abs_threshold}")
        if self.balance_rel_threshold < 1:
            raise ValueError(f"balanceRelThreshold: must be at least 1, got {self.balance_rel_threshold:g}")
        if not 0 <= self.cache_threshold <= 1:
            raise ValueError(f"cacheThreshold: must be from 0 to 1, got {self.cache_threshold:g}")

    def score(self, cycle: Cycle, endpoints: Sequence[Endpoint]) -> Scores:
        counts = [endpoint.requests_in_flight for endpoint in endpoints]
        most, fewest = max(counts, default=0), min(counts, default=0)
        if most - fewest > self.balance_abs_threshold and most > self.balance_rel_threshold * fewest:
            return cheapest_first(counts)
        match: PrefixMatch | None = cycle.facts.get(self.prefix_match_info_producer_name)
        held = [match.blocks.get(each, 0) if match else 0 for each in endpoints]
        longest = max(held, default=0)
        if match and longest > self.cache_threshold * match.total_blocks:
            return [float(blocks == longest) for blocks in held]
        return cheapest_first([each.memory.get(self.tree, 0) for each in endpoints])

    def sent(self, cycle: Cycle, primary: str) -> Mapping[str, str]:
        """What is new there makes its tree larger."""
        endpoint = cycle.picks[primary][0]
        new = cycle.facts[self.in_flight_load_producer_name](cycle, endpoint)
        endpoint.memory[self.tree] = endpoint.memory.get(self.tree, 0) + new
        return {}
