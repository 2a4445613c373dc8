"""The same server as bench.sim.batching, the long way: every step, every token and every block by itself.

It shares no code with it but the seconds of a step and the words of a job.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from bench.sim.hardware import Hardware
from bench.workloads.sessions import Piece

Token = tuple[int, int]
"""The name of a piece, and where in it."""
Block = int
"""The number of all text up to its end."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One job, and when it comes."""

    at: float
    prompt: tuple[Piece, ...]
    output_tokens: int
    answer: int
    priority: int = 0


@dataclass(eq=False)
class Told:
    """What became of it."""

    first_at: float | None = None
    cached: int | None = None
    ended_at: float | None = None


@dataclass(eq=False)
class Working:
    asked: Asked
    told: Told
    rank: tuple[int, int]
    tokens: list[Token]
    produced: int = 0
    computed: int = 0
    target: int = 0
    cached: int = 0
    shared: list[Block] = field(default_factory=list)
    private: int = 0


class Blocks:
    """Blocks by themselves: who uses each, and since when nobody does."""

    def __init__(self, count: int, size: int) -> None:
        self.count, self.size = count, size
        self.users: dict[Block, int] = {}
        self.idle: dict[Block, None] = {}
        """The longest idle first."""
        self.private = 0
        self.numbers: dict[tuple[Block, tuple[Token, ...]], Block] = {}

    @property
    def available(self) -> int:
        return self.count - self.private - len(self.users) + len(self.idle)

    def of(self, tokens: Sequence[Token]) -> list[Block]:
        """Its whole blocks, each by what is before it and in it."""
        found: list[Block] = []
        for end in range(self.size, len(tokens) + 1, self.size):
            text = (found[-1] if found else -1, tuple(tokens[end - self.size : end]))
            found.append(self.numbers.setdefault(text, len(self.numbers)))
        return found

    def known(self, tokens: Sequence[Token]) -> list[Block]:
        found = []
        for block in self.of(tokens[:-1]):  # the last token has to be computed
            if block not in self.users:
                break
            found.append(block)
        return found

    def hold(self, blocks: Sequence[Block]) -> None:
        for block in blocks:
            self.users[block] = self.users.get(block, 0) + 1
            self.idle.pop(block, None)

    def drop(self, blocks: Sequence[Block]) -> None:
        for block in reversed(blocks):
            self.users[block] -= 1
            if not self.users[block]:
                self.idle[block] = None

    def take(self, count: int) -> None:
        while self.count - self.private - len(self.users) < count:
            oldest = next(iter(self.idle))
            del self.idle[oldest], self.users[oldest]
        self.private += count


class Stepwise:
    """``play`` once."""

    def __init__(self, hardware: Hardware) -> None:
        self.hardware = hardware
        self.blocks = Blocks(hardware.blocks, hardware.block_tokens)
        self.waiting: list[Working] = []
        self.running: list[Working] = []
        self.preemptions = 0
        self.now = 0.0

    def play(self, all_asked: Sequence[Asked]) -> list[Told]:
        told = [Told() for _ in all_asked]
        coming = [
            Working(
                asked,
                told[number],
                (-asked.priority, number),
                [(piece.name, n) for piece in asked.prompt for n in range(piece.tokens)],
            )
            for number, asked in enumerate(all_asked)
        ]
        while coming or self.waiting or self.running:
            if not self.waiting and not self.running:
                self.now = coming[0].asked.at
                self.waiting.append(coming.pop(0))  # it begins at once: who comes with it, after it
            ends = self.now + self.begin_step()
            while coming and coming[0].asked.at < ends:
                self.waiting.append(coming.pop(0))
            self.now = ends
            self.end_step()
        return told

    def decodes(self) -> list[Working]:
        return [w for w in self.running if w.computed == w.target]

    def begin_step(self) -> float:
        size, has_preempted = self.blocks.size, False
        while sum((len(w.tokens) - 1) % size == 0 for w in self.decodes()) > self.blocks.available:
            self.preempt(max(self.running, key=lambda w: w.rank))
            has_preempted = True
        decodes = self.decodes()
        for working in decodes:  # all tokens but the last have their block
            if (len(working.tokens) - 1) % size == 0:
                self.take(working, 1)
        budget = self.hardware.step_tokens - len(decodes)
        self.chunks: list[tuple[Working, int]] = []
        for working in self.running:
            if working.computed < working.target and budget > 0:
                budget -= self.chunk(working, budget)
        while self.waiting and not has_preempted and budget > 0:
            head = min(self.waiting, key=lambda w: w.rank)
            if len(self.running) == self.hardware.sequences or not self.admit(head):
                break
            self.waiting.remove(head)
            self.running.append(head)
            budget -= self.chunk(head, budget)
        self.stepping = decodes
        pairs = sum(tokens * (w.computed + tokens / 2) for w, tokens in self.chunks)
        return self.hardware.step(
            sum(tokens for _, tokens in self.chunks),
            len(decodes),
            sum(len(w.tokens) - 1 for w in decodes),
            pairs,
        )

    def chunk(self, working: Working, budget: int) -> int:
        tokens = min(working.target - working.computed, budget)
        self.chunks.append((working, tokens))
        if working.computed + tokens == working.target:
            self.share(working, working.target)
        return tokens

    def admit(self, working: Working) -> bool:
        size, known = self.blocks.size, self.blocks.known(working.tokens)
        target = len(working.tokens)
        need = -(-target // size) - len(known)
        if need > self.blocks.available - sum(block in self.blocks.idle for block in known):
            return False
        self.blocks.hold(known)
        working.shared, working.target, working.computed = known, target, len(known) * size
        if not working.produced:
            working.cached = working.computed
        self.take(working, need)
        return True

    def take(self, working: Working, count: int) -> None:
        self.blocks.take(count)
        working.private += count

    def share(self, working: Working, tokens: int) -> None:
        blocks = self.blocks.of(working.tokens[:tokens])
        fresh = len(blocks) - len(working.shared)
        working.private -= fresh
        self.blocks.private -= fresh
        self.blocks.hold(blocks)
        self.blocks.drop(working.shared)
        working.shared = blocks

    def end_step(self) -> None:
        for working in self.stepping:
            self.answer(working)
            if working.produced < working.asked.output_tokens:
                working.computed = working.target = len(working.tokens) - 1
        for working in sorted(self.stepping, key=lambda w: w.rank):
            if working.produced == working.asked.output_tokens:
                self.leave(working, len(working.tokens) - 1)
                working.told.ended_at = self.now
        for working, tokens in self.chunks:
            working.computed += tokens
            if working.computed == working.target:
                if not working.produced:
                    working.told.first_at, working.told.cached = self.now, working.cached
                self.answer(working)
                if working.produced == working.asked.output_tokens:
                    self.leave(working, len(working.tokens) - 1)
                    working.told.ended_at = self.now

    def answer(self, working: Working) -> None:
        working.tokens.append((working.asked.answer, working.produced))
        working.produced += 1

    def preempt(self, working: Working) -> None:
        self.preemptions += 1
        self.leave(working, working.computed)
        self.waiting.append(working)

    def leave(self, working: Working, computed: int) -> None:
        self.running.remove(working)
        self.share(working, computed)
        self.blocks.drop(working.shared)
        self.blocks.private -= working.private
        working.shared, working.private = [], 0


@dataclass(eq=False)
class StepwiseSlot:
    number: int
    tokens: list[Token] = field(default_factory=list)
    """In its cache; of one that works, what is computed."""
    asked: Asked | None = None
    told: Told = field(default_factory=Told)
    prompt: list[Token] = field(default_factory=list)
    cached: int = 0
    produced: int = 0
    used: int = -1


def alike(one: Sequence[Token], other: Sequence[Token]) -> int:
    """Tokens of their common beginning."""
    shared = 0
    while shared < min(len(one), len(other)) and one[shared] == other[shared]:
        shared += 1
    return shared


class StepwiseSlots:
    """The same server as bench.sim.slots. ``play`` once."""

    def __init__(self, hardware: Hardware) -> None:
        self.hardware = hardware
        self.slots = [StepwiseSlot(number) for number in range(hardware.sequences)]
        self.kept: list[list[Token]] = []
        self.waiting: list[tuple[Asked, Told]] = []
        self.now = 0.0
        self.ended = 0

    def play(self, all_asked: Sequence[Asked]) -> list[Told]:
        told = [Told() for _ in all_asked]
        coming = list(zip(all_asked, told, strict=True))
        while coming or self.waiting or any(slot.asked for slot in self.slots):
            if not self.waiting and not any(slot.asked for slot in self.slots):
                self.now = coming[0][0].at
                self.waiting.append(coming.pop(0))
            ends = self.now + self.begin_step()
            while coming and coming[0][0].at < ends:
                self.waiting.append(coming.pop(0))
            self.now = ends
            self.end_step()
        return told

    def begin_step(self) -> float:
        while self.waiting and any(slot.asked is None for slot in self.slots):
            self.launch(*self.waiting.pop(0))
        self.stepping = [slot for slot in self.slots if slot.asked and slot.produced]
        context = sum(len(slot.tokens) for slot in self.stepping)
        budget = self.hardware.step_tokens - len(self.stepping)
        self.chunks: list[tuple[StepwiseSlot, int]] = []
        for slot in self.slots:
            left = len(slot.prompt) - len(slot.tokens)
            if slot.asked and not slot.produced and budget:
                self.chunks.append((slot, min(left, budget)))
                budget -= min(left, budget)
        pairs = sum(tokens * (len(slot.tokens) + tokens / 2) for slot, tokens in self.chunks)
        prefill = sum(tokens for _, tokens in self.chunks)
        return self.hardware.step(prefill, len(self.stepping), context, pairs)

    def launch(self, asked: Asked, told: Told) -> None:
        prompt = [(piece.name, n) for piece in asked.prompt for n in range(piece.tokens)]
        idle = [slot for slot in self.slots if slot.asked is None]
        best = max(idle, key=lambda slot: alike(slot.tokens, prompt))
        if alike(best.tokens, prompt) > 0.1 * len(prompt):
            slot = best
            loses = alike(best.tokens, prompt) < 0.5 * len(best.tokens)
        else:
            slot = max(idle, key=lambda slot: (-slot.used, slot.number))
            loses = True
        if loses:
            self.keep(slot.tokens)
            self.take_better(slot, prompt)
        for other in idle:
            if other is not slot:
                self.keep(other.tokens)
        slot.asked, slot.told, slot.prompt, slot.produced = asked, told, prompt, 0
        slot.cached = min(alike(slot.tokens, prompt), len(prompt) - 1)
        slot.tokens = prompt[: slot.cached]

    def keep(self, tokens: list[Token]) -> None:
        if not 0 < len(tokens) <= self.hardware.kept_tokens:
            return
        if any(alike(kept, tokens) == len(tokens) for kept in self.kept):
            return
        self.kept = [kept for kept in self.kept if alike(kept, tokens) < len(kept)]
        self.kept.append(list(tokens))
        while sum(map(len, self.kept)) > self.hardware.kept_tokens:
            self.kept.pop(0)

    def take_better(self, slot: StepwiseSlot, prompt: list[Token]) -> None:
        shared = alike(slot.tokens, prompt)
        part = shared / len(slot.tokens) if slot.tokens else -1.0
        best = None
        for kept in self.kept:
            here = alike(kept, prompt)
            if here / len(kept) >= 0.25 and here / len(kept) > part and here > shared:
                best, shared, part = kept, here, here / len(kept)
        if best is not None:
            self.kept.remove(best)
            slot.tokens = best

    def end_step(self) -> None:
        for slot in self.stepping:
            assert slot.asked is not None
            slot.tokens.append((slot.asked.answer, slot.produced - 1))
            self.answer(slot)
        for slot, tokens in self.chunks:
            slot.tokens = slot.prompt[: len(slot.tokens) + tokens]
            if len(slot.tokens) == len(slot.prompt):
                slot.told.first_at, slot.told.cached = self.now, slot.cached
                self.answer(slot)

    def answer(self, slot: StepwiseSlot) -> None:
        assert slot.asked is not None
        slot.produced += 1
        if slot.produced == slot.asked.output_tokens:
            self.ended += 1
            slot.used, slot.asked = self.ended, None
            slot.told.ended_at = self.now
