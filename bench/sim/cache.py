"""The KV blocks of one server and the text whose blocks they are, without looking at single tokens or blocks.

Place:   bench.sim.batching asks for blocks; bench.sim.slots only compares texts (``common``).
Rule:    a token is (name of its piece, offset in it), so a text is a few pieces and the cached texts are a
         radix tree of runs. A full block belongs to the run that holds its last token; what identifies it is
         the path to it, as vLLM chains its hashes.
Evicts:  the least recently used block that no sequence needs. A path's end is never used later than its
         beginning, so the oldest leaf goes first, from its end, as in vLLM's queue of free blocks.
Ignores: that vLLM keeps copies of a block which two sequences computed (here the second is given back at
         once), and that there a freed block without text waits its turn among the evictable ones.
"""

import heapq
from collections.abc import Sequence

from bench.workloads.sessions import Piece


def common(one: Sequence[Piece], other: Sequence[Piece]) -> int:
    """The length of their common beginning [tokens]."""
    tokens = 0
    for mine, yours in zip(one, other, strict=False):
        if mine.name != yours.name:
            break
        tokens += min(mine.tokens, yours.tokens)
        if mine.tokens != yours.tokens:
            break
    return tokens


class Run:
    """Consecutive tokens of one piece at the end of a path: ``start`` to ``end`` of the text."""

    __slots__ = ("children", "end", "first", "idle_since", "name", "parent", "start", "users")

    def __init__(self, parent: "Run | None", name: int, first: int, start: int, end: int) -> None:
        self.parent = parent
        self.name = name
        self.first = first
        """Where in the piece it begins."""
        self.start = start
        self.end = end
        self.children: dict[tuple[int, int], Run] = {}
        self.users = 0
        """Sequences that end here, and children with users."""
        self.idle_since = 0
        """The ordinal of when its last user left."""


class BlockCache:
    """All blocks of a server; ``hold`` by ``hold`` what sequences take of them.

    A sequence has the Run that its text is known up to, and the blocks after it for itself. ``admit`` it,
    ``grow`` it while it gets longer, ``share`` its text when it is computed, ``release`` it once.
    """

    def __init__(self, blocks: int, block_tokens: int) -> None:
        self.blocks = blocks
        self.block_tokens = block_tokens
        self.private = 0
        """Blocks of single sequences."""
        self.shared = 0
        """Blocks of texts."""
        self.idle = 0
        """Those of them that no sequence needs."""
        self._root = Run(None, 0, 0, 0, 0)
        self._leaves: list[tuple[int, Run]] = []
        """Idle leaves, the longest idle first; and what no longer is one."""
        self._ordinal = 0

    @property
    def available(self) -> int:
        """Blocks that can be had, by eviction too."""
        return self.blocks - self.private - self.shared + self.idle

    @property
    def in_use(self) -> int:
        return self.private + self.shared - self.idle

    def blocks_of(self, tokens: int) -> int:
        return -(-tokens // self.block_tokens)

    def cached(self, text: Sequence[Piece]) -> int:
        """Tokens at its beginning that need not be computed; at least the last one has to be."""
        return self._usable(text, self._find(text)[1])

    def admit(self, text: Sequence[Piece], tokens: int) -> Run | None:
        """All blocks for ``text`` with its ``tokens``; the run ends where computing begins. None: too few."""
        run, depth = self._find(text)
        hit = self._usable(text, depth)
        while run.parent is not None and run.start >= hit:
            run = run.parent
        need = self.blocks_of(tokens) - hit // self.block_tokens
        if need > self.available - self._idle_before(run, hit):
            return None
        if hit < run.end:
            run = self._split(run, hit)
        self._hold(run)
        self.grow(need)
        return run

    def grow(self, blocks: int) -> None:
        """So many more for sequences; the caller has seen that they are available."""
        lacking = blocks - (self.blocks - self.private - self.shared)
        if lacking > 0:
            self._evict(lacking)
        self.private += blocks

    def share(self, run: Run, text: Sequence[Piece], tokens: int) -> Run:
        """The first ``tokens`` of the text are computed: others can use them. For ``run`` it gets another."""
        self.private -= tokens // self.block_tokens - run.end // self.block_tokens
        longer = self._path(text, tokens)
        self._hold(longer)
        self._drop(run)
        return longer

    def release(self, run: Run, tokens: int) -> None:
        """It needs nothing any more; it had blocks for so many tokens."""
        self.private -= self.blocks_of(tokens) - run.end // self.block_tokens
        self._drop(run)

    def counted(self) -> tuple[int, int]:
        """``shared`` and ``idle``, counted anew: for tests."""
        shared = idle = 0
        runs = list(self._root.children.values())
        while runs:
            run = runs.pop()
            shared += self._size(run)
            idle += 0 if run.users else self._size(run)
            runs += run.children.values()
        return shared, idle

    # --- texts ------------------------------------------------------------------------------------

    def _usable(self, text: Sequence[Piece], depth: int) -> int:
        """Whole blocks only, and not the last token."""
        last = sum(piece.tokens for piece in text) - 1
        return max(0, min(depth, last)) // self.block_tokens * self.block_tokens

    def _find(self, text: Sequence[Piece]) -> tuple[Run, int]:
        """Where the known part of the text ends, and its length."""
        run, depth = self._root, 0
        for piece in text:
            offset = 0
            while offset < piece.tokens:
                child = run.children.get((piece.name, offset))
                if child is None:
                    return run, depth
                length = min(child.end - child.start, piece.tokens - offset)
                offset += length
                depth += length
                run = child
                if depth < run.end:
                    return run, depth
        return run, depth

    def _path(self, text: Sequence[Piece], tokens: int) -> Run:
        """The run that ends with the first ``tokens`` of the text; what is not there yet is made."""
        run, depth = self._root, 0
        for piece in text:
            offset, length = 0, min(piece.tokens, tokens - depth)
            while offset < length:
                child = run.children.get((piece.name, offset))
                if child is None:
                    child = self._add(run, piece.name, offset, depth + length - offset)
                elif child.end - child.start > length - offset:
                    child = self._split(child, depth + length - offset)
                taken = child.end - child.start
                offset, depth, run = offset + taken, depth + taken, child
            if depth == tokens:
                break
        return run

    def _add(self, parent: Run, name: int, first: int, end: int) -> Run:
        run = Run(parent, name, first, parent.end, end)
        parent.children[name, first] = run
        self.shared += self._size(run)
        self.idle += self._size(run)
        return run

    def _split(self, run: Run, depth: int) -> Run:
        """A run that ends at ``depth``, of the beginning of one that goes on; the rest stays who it is."""
        parent = run.parent
        assert parent is not None
        upper = Run(parent, run.name, run.first, run.start, depth)
        upper.users = 1 if run.users else 0
        upper.idle_since = run.idle_since
        parent.children[run.name, run.first] = upper
        run.first += depth - run.start
        run.start = depth
        run.parent = upper
        upper.children[run.name, run.first] = run
        return upper

    def _size(self, run: Run) -> int:
        return run.end // self.block_tokens - run.start // self.block_tokens

    # --- who needs them ---------------------------------------------------------------------------

    def _idle_before(self, run: Run, tokens: int) -> int:
        """Idle blocks on the path to it, up to so many tokens."""
        idle, end = 0, tokens
        while run.parent is not None and not run.users:
            idle += end // self.block_tokens - run.start // self.block_tokens
            run, end = run.parent, run.start
        return idle

    def _hold(self, run: Run) -> None:
        while run.parent is not None:
            run.users += 1
            if run.users > 1:
                return
            self.idle -= self._size(run)
            run = run.parent

    def _drop(self, run: Run) -> None:
        while run.parent is not None:
            run.users -= 1
            if run.users:
                return
            self.idle += self._size(run)
            self._ordinal += 1
            run.idle_since = self._ordinal
            if not run.children:
                heapq.heappush(self._leaves, (run.idle_since, run))
            run = run.parent

    def _evict(self, blocks: int) -> None:
        while blocks > 0:
            since, run = heapq.heappop(self._leaves)
            if run.users or run.children or run.idle_since != since or run.parent is None:
                continue
            size = min(self._size(run), blocks)
            self.shared -= size
            self.idle -= size
            if size < self._size(run):
                run.end = (run.end // self.block_tokens - size) * self.block_tokens
                heapq.heappush(self._leaves, (since, run))
            else:
                self._remove(run)
            blocks -= size

    def _remove(self, run: Run) -> None:
        parent, run.parent = run.parent, None
        assert parent is not None
        del parent.children[run.name, run.first]
        if parent.parent is not None and not parent.children and not parent.users:
            heapq.heappush(self._leaves, (parent.idle_since, parent))
