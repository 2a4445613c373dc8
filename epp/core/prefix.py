"""Which prompt prefixes each endpoint probably holds in its cache.

Place:   used by ``approx-prefix-cache-producer``; what is known of an endpoint is kept in its ``memory``,
         so that it goes when the endpoint goes.
Ignores: tokenizers (a block is a number of bytes), time, and what the engine really evicted.
Rule:    block i is hashed with the hash of block i-1 as seed, so a block's hash stands for the whole
         prompt up to its end. Everything is bounded in blocks.
Source:  xxHash64; the chained hashes of upstream's ``approx-prefix-cache-producer``.
"""

from collections.abc import Sequence
from itertools import islice

from xxhash import xxh64_intdigest

from epp.core.fleet import Endpoint

MIN_BLOCK_TOKENS = 64
"""Smaller blocks cost memory and hashing and say nothing more about where a prompt was before."""
MAX_BLOCKS = 1_000_000
"""An engine's statement of its cache size is believed up to this many of our blocks (64 M tokens)."""


def chain_seed(model: str, cache_salt: str) -> int:
    """Where the chain begins: prompts for different models or salts share no block."""
    return xxh64_intdigest(f"{model}\0{cache_salt}".encode("utf-8", "surrogatepass"))


def hash_blocks(prompt: bytes, seed: int, block_bytes: int, max_blocks: int) -> list[int]:
    """The chained hashes of a prompt's first ``max_blocks`` blocks; a partial last block counts."""
    digest = xxh64_intdigest
    end = min(len(prompt), block_bytes * max_blocks)
    hashes = []
    for start in range(0, end, block_bytes):
        seed = digest(prompt[start : start + block_bytes], seed)
        hashes.append(seed)
    return hashes


class Held:
    """What one endpoint probably holds, bounded by ``capacity`` [blocks].

    ``life`` and ``layout`` say of which life of the endpoint, and in blocks of which size.
    """

    __slots__ = ("capacity", "layout", "life")

    def __init__(self, capacity: int, life: int = 0, layout: int = 0) -> None:
        self.capacity = capacity
        self.life = life
        self.layout = layout


class Generations(Held):
    """Blocks held by one endpoint, in two generations; the older one is forgotten as a whole.

    Every prompt that touches block k touches all blocks before it in the same call, and a call puts
    all of its blocks into one generation. So whoever has block k has all before it, and the length
    of the held prefix is found by bisection.
    """

    __slots__ = ("current", "previous")

    def __init__(self, capacity: int, life: int = 0, layout: int = 0) -> None:
        super().__init__(capacity, life, layout)
        self.current: set[int] = set()
        self.previous: set[int] = set()

    def __len__(self) -> int:
        return len(self.current | self.previous)

    def match(self, hashes: Sequence[int]) -> int:
        """How many blocks from the beginning are held."""
        current, previous = self.current, self.previous
        low, high = 0, len(hashes)  # the first `low` are held, those from `high` on are not
        while low < high:
            middle = (low + high) // 2
            block = hashes[middle]
            if block in current or block in previous:
                low = middle + 1
            else:
                high = middle
        return low

    def record(self, hashes: Sequence[int]) -> None:
        """The endpoint works on this prompt now, so it holds all of its blocks."""
        limit = max(1, self.capacity // 2)
        hashes = hashes[:limit]
        current = self.current
        known = _held_in(current, hashes)
        if len(current) + len(hashes) - known > limit:
            # Before inserting, so that all blocks of this prompt are in one generation.
            self.previous = current
            self.current = set(hashes)
        else:
            current.update(hashes[known:])


def _held_in(blocks: set[int], hashes: Sequence[int]) -> int:
    """How many of ``hashes`` from the beginning are in one generation (by bisection, as above)."""
    low, high = 0, len(hashes)
    while low < high:
        middle = (low + high) // 2
        if hashes[middle] in blocks:
            low = middle + 1
        else:
            high = middle
    return low


class Lru(Held):
    """Blocks held by one endpoint, each forgotten on its own: upstream's bookkeeping.

    The beginning of a prompt is its least recently used end, so what is left may have lost it.
    """

    __slots__ = ("blocks",)

    def __init__(self, capacity: int, life: int = 0, layout: int = 0) -> None:
        super().__init__(capacity, life, layout)
        self.blocks: dict[int, None] = {}

    def __len__(self) -> int:
        return len(self.blocks)

    def record(self, hashes: Sequence[int]) -> None:
        """The endpoint works on this prompt now, so it holds all of its blocks."""
        blocks = self.blocks
        for block in hashes:
            blocks.pop(block, None)
            blocks[block] = None
        surplus = len(blocks) - max(1, self.capacity)
        for block in list(islice(blocks, max(0, surplus))):
            del blocks[block]


class PrefixIndex:
    """All endpoints' probable prefixes.

    ``block_tokens``: tokens per block until an engine says how large its own are (``auto_tune``), then
    the smallest any engine named; never below MIN_BLOCK_TOKENS. When it changes, all hashes change, so
    everything is forgotten. ``capacity`` [blocks] per endpoint, unless its engine says how many tokens
    its cache holds (``auto_tune``). ``contiguous``: count only an unbroken prefix; otherwise count every
    block held, up to the first that nobody holds.
    """

    __slots__ = ("_auto_tune", "_capacity", "_contiguous", "_layout", "_named", "block_tokens")

    def __init__(self, *, block_tokens: int, capacity: int, auto_tune: bool, contiguous: bool) -> None:
        self.block_tokens = max(block_tokens, MIN_BLOCK_TOKENS)
        self._capacity = capacity
        self._auto_tune = auto_tune
        self._contiguous = contiguous
        self._named: int | None = None
        self._layout = 0

    def matches(self, endpoints: Sequence[Endpoint], hashes: Sequence[int]) -> dict[Endpoint, int]:
        """How many of these blocks each endpoint holds; endpoints that hold none are left out."""
        if not hashes:
            return {}
        return self._unbroken(endpoints, hashes) if self._contiguous else self._any(endpoints, hashes)

    def record(self, endpoint: Endpoint, hashes: Sequence[int]) -> None:
        """A prompt of these blocks goes to ``endpoint``."""
        if self._auto_tune and self._learn_block_size(endpoint):
            return  # these hashes are of the old size
        held: Generations | Lru | None = endpoint.memory.get(self)
        if held is None or held.life != endpoint.life or held.layout != self._layout:
            kind = Generations if self._contiguous else Lru
            held = endpoint.memory[self] = kind(self._capacity, endpoint.life, self._layout)
        if self._auto_tune:
            self._learn_capacity(held, endpoint)
        held.record(hashes)

    def blocks_held(self, endpoint: Endpoint) -> int:
        """Blocks remembered for ``endpoint``."""
        held: Generations | Lru | None = endpoint.memory.get(self)
        if held is None or held.life != endpoint.life or held.layout != self._layout:
            return 0
        return len(held)

    def _unbroken(self, endpoints: Sequence[Endpoint], hashes: Sequence[int]) -> dict[Endpoint, int]:
        found = {}
        layout, total, first, last = self._layout, len(hashes), hashes[0], hashes[-1]
        for endpoint in endpoints:
            held: Generations | None = endpoint.memory.get(self)
            if held is None or held.life != endpoint.life or held.layout != layout:
                continue
            current, previous = held.current, held.previous
            if last in current or last in previous:
                found[endpoint] = total
            elif first in current or first in previous:
                found[endpoint] = held.match(hashes)
        return found

    def _any(self, endpoints: Sequence[Endpoint], hashes: Sequence[int]) -> dict[Endpoint, int]:
        wanted = frozenset(hashes)
        have: dict[Endpoint, set[int]] = {}
        for endpoint in endpoints:
            held: Lru | None = endpoint.memory.get(self)
            if held is not None and held.life == endpoint.life and held.layout == self._layout:
                have[endpoint] = held.blocks.keys() & wanted
        anywhere = set().union(*have.values())
        end = next((i for i, block in enumerate(hashes) if block not in anywhere), len(hashes))
        reached = wanted if end == len(hashes) else frozenset(hashes[:end])
        counts = {endpoint: len(blocks & reached) for endpoint, blocks in have.items()}
        return {endpoint: count for endpoint, count in counts.items() if count}

    def _learn_block_size(self, endpoint: Endpoint) -> bool:
        """Take over the engine's block size, if it is a smaller one; True when ours changed."""
        named = endpoint.load.cache_block_tokens
        if not named or (self._named is not None and named >= self._named):
            return False
        self._named = named
        size = max(named, MIN_BLOCK_TOKENS)
        if size == self.block_tokens:
            return False
        self.block_tokens = size
        self._layout += 1
        return True

    def _learn_capacity(self, held: Held, endpoint: Endpoint) -> None:
        blocks, tokens = endpoint.load.cache_blocks, endpoint.load.cache_block_tokens
        if blocks and tokens:  # when the reading is gone, what was known stays
            held.capacity = min(max(1, blocks * tokens // self.block_tokens), MAX_BLOCKS)
