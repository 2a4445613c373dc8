"""``dynamo-kv-scorer``: prefill blocks less overlap, and decode blocks, as Dynamo's KV router has it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from epp.core.scoring import Cycle, Endpoint, PrefixMatch, Scores, cheapest_first

_BLOCK_TOKENS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class DynamoKvScorer:
    """Prefer the lowest sum of the blocks to be worked on and the blocks in use.

    In:     n endpoints; ``tokens_in_flight`` [tokens]; the PrefixMatch of the named producer; of readings
            ``kv_usage`` with the engine's blocks, else requests in flight of the length of this prompt.
    Out:    by rank of ``prefillLoadScale`` * max(0, active prefill + this prompt - ``overlapCredit`` *
            cached) + active decode [blocks], 1 for the lowest and 0 for the highest.
    Ties:   equal sums, equal score (temperature 0).
    Lacks:  KV events, credits for blocks in host memory and on disk, own accounts of active decode blocks.
    Source: NVIDIA Dynamo, KV router (2026-08), default weights.
    """

    prefill_load_scale: float = 1.0
    """What a block to be worked on counts, beside one in use."""
    overlap_credit: float = 1.0
    """What a cached block counts, beside one to be worked on."""
    prefix_match_info_producer_name: str = "approx-prefix-cache-producer"
    in_flight_load_producer_name: str = "inflight-load-producer"

    requires: ClassVar[Mapping[str, str]] = {
        "prefix_match_info_producer_name": "approx-prefix-cache-producer",
        "in_flight_load_producer_name": "inflight-load-producer",
    }

    def __post_init__(self) -> None:
        for name, value in (
            ("prefillLoadScale", self.prefill_load_scale),
            ("overlapCredit", self.overlap_credit),
        ):
            if not 0 <= value <= 1000:
                raise ValueError(f"{name}: must be from 0 to 1000, got {value:g}")

    def score(self, cycle: Cycle, endpoints: Sequence[Endpoint]) -> Scores:
        match: PrefixMatch | None = cycle.facts.get(self.prefix_match_info_producer_name)
        size = match.block_tokens if match else _BLOCK_TOKENS
        blocks = cycle.request.prompt_tokens / size
        held: Callable[[Endpoint], int] = (lambda each: match.blocks.get(each, 0)) if match else lambda _: 0
        return cheapest_first(
            [
                self.prefill_load_scale
                * max(0.0, each.tokens_in_flight / size + blocks - self.overlap_credit * held(each))
                + _active(each, blocks, size)
                for each in endpoints
            ]
        )


def _active(endpoint: Endpoint, prompt_blocks: float, size: int) -> float:
    """Blocks in use there, of ``size`` tokens."""
    load = endpoint.load
    if load.kv_usage is not None and load.cache_blocks and load.cache_block_tokens:
        return load.kv_usage * load.cache_blocks * load.cache_block_tokens / size
    return endpoint.requests_in_flight * prompt_blocks
