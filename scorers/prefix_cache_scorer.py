"""``prefix-cache-scorer``: the endpoint that already holds most of this prompt first."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from epp.core.scoring import Cycle, Endpoint, PrefixMatch, Scores


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixCacheScorer:
    """Prefer endpoints whose cache probably holds a longer beginning of the prompt.

    In:     n endpoints; the PrefixMatch that the named producer put into ``cycle.facts``.
    Out:    (1 - w) * matched / total + w * min(1, matched * block_tokens / scale)**2, in [0, 1]; with
            w = ``match_length_weight`` and scale = ``match_length_scale_tokens`` [tokens].
            None everywhere when the producer found nothing out; 0 everywhere for an empty prompt.
    Ties:   equal matches, equal score.
    Source: upstream ``prefix-cache-scorer``.
    """

    prefix_match_info_producer_name: str = "approx-prefix-cache-producer"
    match_length_weight: float = 0.0
    """How much the absolute length of the match counts beside its share of the prompt, 0 to 1."""
    match_length_scale_tokens: int = 8192
    """The match [tokens] at which the length part reaches 1."""

    requires: ClassVar[Mapping[str, str]] = {
        "prefix_match_info_producer_name": "approx-prefix-cache-producer",
    }
    moved: ClassVar[Mapping[str, Sequence[str]]] = {
        "approx-prefix-cache-producer": (
            "autoTune",
            "blockSize",
            "blockSizeTokens",
            "lruCapacityPerServer",
            "maxPrefixBlocksToMatch",
            "maxPrefixTokensToMatch",
        ),
    }
    """Parameters that were here once, and where they are now."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.match_length_weight <= 1.0:
            raise ValueError(f"matchLengthWeight: must be from 0 to 1, got {self.match_length_weight:g}")
        scale = self.match_length_scale_tokens
        if scale < 1:
            raise ValueError(f"matchLengthScaleTokens: must be at least 1, got {scale}")

    def score(self, cycle: Cycle, endpoints: Sequence[Endpoint]) -> Scores:
        match: PrefixMatch | None = cycle.facts.get(self.prefix_match_info_producer_name)
        if match is None:
            return [None] * len(endpoints)
        total, blocks = match.total_blocks, match.blocks
        if not total or not blocks:
            return [0.0] * len(endpoints)
        weight = self.match_length_weight
        if not weight:
            return [blocks.get(endpoint, 0) / total for endpoint in endpoints]
        scale = match.block_tokens / self.match_length_scale_tokens
        return [
            (1.0 - weight) * held / total + weight * min(1.0, held * scale) ** 2
            for held in [blocks.get(endpoint, 0) for endpoint in endpoints]
        ]
