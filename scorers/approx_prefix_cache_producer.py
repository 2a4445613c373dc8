"""``approx-prefix-cache-producer``: remembers which prompts went where, and finds them again."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from epp.core.scoring import (
    Chain,
    Cycle,
    Endpoint,
    PrefixIndex,
    PrefixMatch,
    chain_seed,
)

DEFAULT_BLOCK_TOKENS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class ApproxPrefixCacheProducer:
    """Find out how many blocks of this prompt each endpoint probably holds.

    In:     the prompt [bytes], the model and the cache salt of the request; what went where before.
    Out:    a PrefixMatch in ``cycle.facts``, in blocks of ``blockSizeTokens`` (at least 64) tokens of
            4 bytes; after the pick the prompt counts as held by the picked endpoint.
    Forgets: an endpoint that restarted; what was used longest ago, when an endpoint's share is full.
    Better: an unbroken prefix counts, as an engine can use nothing else; what is remembered is bounded in
            the engine's own tokens; a restarted server holds nothing.
    Source: upstream ``approx-prefix-cache-producer``. Ours counts an unbroken prefix, as an engine can
            use nothing else, to within 1.6 % of its length; ``contiguousOnly: false`` counts as upstream
            does. Capacity from the engine is taken in tokens (upstream takes the engine's blocks for its
            own, 4 times larger).
    """

    auto_tune: bool = True
    """Take block size and capacity from the engine's statement about its cache, where it makes one."""
    block_size_tokens: int = DEFAULT_BLOCK_TOKENS
    """Tokens per block; fewer than 64 count as 64."""
    max_prefix_blocks_to_match: int = 2048
    """Blocks of a prompt that are looked at when ``maxPrefixTokensToMatch`` is 0; 0 for all."""
    max_prefix_tokens_to_match: int = 131072
    """Tokens of a prompt that are looked at; 0 leaves it to ``maxPrefixBlocksToMatch``."""
    lru_capacity_per_server: int = 31250
    """Blocks remembered per endpoint, where the engine does not say how large its cache is."""
    block_size: int = field(default=0, metadata={"deprecated": "use blockSizeTokens"})
    contiguous_only: bool = True
    """Count only blocks of an unbroken prefix; false counts every block held, as upstream does."""
    index: PrefixIndex = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name, value, least in (
            ("blockSizeTokens", self.block_size_tokens, 1),
            ("maxPrefixBlocksToMatch", self.max_prefix_blocks_to_match, 0),
            ("maxPrefixTokensToMatch", self.max_prefix_tokens_to_match, 0),
            ("lruCapacityPerServer", self.lru_capacity_per_server, 1),
            ("blockSize", self.block_size, 0),
        ):
            if value < least:
                raise ValueError(f"{name}: must be at least {least}, got {value}")
        is_default = self.block_size_tokens == DEFAULT_BLOCK_TOKENS
        index = PrefixIndex(
            block_tokens=self.block_size if self.block_size and is_default else self.block_size_tokens,
            capacity=self.lru_capacity_per_server,
            auto_tune=self.auto_tune,
            contiguous=self.contiguous_only,
        )
        object.__setattr__(self, "index", index)

    def produce(self, cycle: Cycle, endpoints: Sequence[Endpoint], name: str) -> Chain:
        index, request = self.index, cycle.request
        payload, block_tokens = request.payload, index.block_tokens
        if self.max_prefix_tokens_to_match:
            limit = self.max_prefix_tokens_to_match // block_tokens
        else:
            limit = self.max_prefix_blocks_to_match or len(payload.prompt)
        seed = chain_seed(request.target_model or payload.model, payload.cache_salt)
        chain = index.chain(payload.prompt, seed, limit)
        blocks = index.matches(endpoints, chain, cycle.version)
        cycle.facts[name] = PrefixMatch(blocks, chain.blocks, block_tokens)
        return chain

    def picked(self, cycle: Cycle, endpoint: Endpoint, found: Chain) -> None:
        if found.blocks:
            self.index.record(endpoint, found)
