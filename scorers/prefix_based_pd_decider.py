"""``prefix-based-pd-decider``: another server works on the prompt where much of it is not cached."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from epp.core.scoring import Cycle, Endpoint, Kind, PrefixMatch


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixBasedPdDecider:
    """Have another endpoint work on prompts of which the one that generates has little cached.

    In:     the prompt's estimated length [tokens]; the PrefixMatch of the named producer for the endpoint
            that was picked to generate.
    Out:    yes, if the length is at least ``promptTokens`` and the length without the cached blocks at least
            ``nonCachedTokens``; never, if that is 0, or nothing is known of caches.
    Source: upstream ``prefix-based-pd-decider``.
    """

    non_cached_tokens: int = 0
    """Tokens without cache from which it is worth it; 0: never."""
    prompt_tokens: int = 0
    """Tokens of the prompt below which it is not worth it, whatever is cached."""
    prefix_match_info_producer_name: str = "approx-prefix-cache-producer"

    kind: ClassVar[Kind] = Kind.DECIDER
    requires: ClassVar[Mapping[str, str]] = {
        "prefix_match_info_producer_name": "approx-prefix-cache-producer",
    }

    def __post_init__(self) -> None:
        for name, value in (
            ("nonCachedTokens", self.non_cached_tokens),
            ("promptTokens", self.prompt_tokens),
        ):
            if value < 0:
                raise ValueError(f"{name}: must be at least 0, got {value}")

    def disaggregates(self, cycle: Cycle, endpoint: Endpoint | None) -> bool:
        match: PrefixMatch | None = cycle.facts.get(self.prefix_match_info_producer_name)
        length = cycle.request.prompt_tokens
        if not self.non_cached_tokens or length < self.prompt_tokens or match is None or endpoint is None:
            return False
        return length - match.blocks.get(endpoint, 0) * match.block_tokens >= self.non_cached_tokens
