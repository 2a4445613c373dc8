"""A server with continuous batching, as vLLM V1 does it.

Modelled: one queue, the first come first (those of a higher priority before); steps of at most
          ``step_tokens`` tokens, in which those that decode come first, then prompts that were begun, then
          waiting ones, a prompt in as many chunks as it needs; at most ``sequences`` at once; KV blocks for
          the whole prompt at admission and for each ``block_tokens`` tokens of the answer; a prompt's
          cached beginning in whole blocks, answers cached too; eviction of the least recently used
          blocks; when blocks run out the last sequence is preempted, its blocks become evictable and all its
          tokens are computed again. A prompt whose last chunk is in a step can be shared by the next prompts
          in that step. The metrics page says what was so at the end of the last whole step: of a burst that
          finds an idle server it says nothing until the first prompt is computed.
Not:      swapping, disaggregated prefill, LoRA, speculative decoding, multi-modal prompts, data parallel
          ranks, pipeline stages, clients that hang up, a limit of the queue; time outside of steps
          (tokenizing, HTTP); the time that a reading takes (readings have delays of their own).
          vLLM takes a prompt's blocks chunk by chunk after having seen that all of it fits; here it takes
          them at once.
Place:    driven by bench.sim.stepping; times are bench.sim.hardware's, blocks bench.sim.cache's.
Rule:     nothing is done for a single token: sequences that decode together share one count of steps, and
          what each needs is said in that count.
Source:   vllm/v1/core/sched/scheduler.py and kv_cache_manager.py (scheduler_reserve_full_isl is on)
"""

import heapq
from collections.abc import Sequence
from typing import NamedTuple

from bench.sim.cache import BlockCache, Run
from bench.sim.hardware import Hardware
from bench.sim.jobs import Job, Timeline
from bench.sim.stepping import SteppingServer, Steps
from bench.workloads.sessions import Piece
from epp.core.fleet import Load
from epp.core.rates import Work


class _Sequence:
    """A job at this server."""

    __slots__ = (
        "answer",
        "began",
        "cached",
        "computed",
        "first_at",
        "job",
        "joined",
        "produced",
        "rank",
        "run",
        "target",
    )

    def __init__(self, job: Job, number: int) -> None:
        self.job = job
        self.rank = (-job.priority, number)
        self.began: float | None = None
        """When it was first admitted."""
        self.first_at = 0.0
        self.answer = -(1 << 64) - number if job.answer is None else job.answer
        self.run: Run | None = None
        """Of the cache; None: it waits."""
        self.cached = 0
        self.target = 0
        """Tokens to be computed before the next one can be answered."""
        self.computed = 0
        """Those of them that are."""
        self.produced = 0
        """Answered tokens."""
        self.joined: int | None = None
        """While it decodes: the server's count of decode steps less its own answered tokens, which stays."""

    def __lt__(self, other: "_Sequence") -> bool:
        return self.rank < other.rank

    @property
    def text(self) -> Sequence[Piece]:
        """All its tokens so far."""
        return (*self.job.prompt, Piece(self.answer, self.produced)) if self.produced else self.job.prompt


class _Page(NamedTuple):
    """What of the metrics page changes."""

    waiting: int
    running: int
    blocks: int


class BatchingServer(SteppingServer):
    """One vLLM."""

    def __init__(self, timeline: Timeline, hardware: Hardware) -> None:
        super().__init__(timeline)
        self.hardware = hardware
        self._arrivals = 0
        self._reset()

    def _reset(self) -> None:
        self.cache = BlockCache(self.hardware.blocks, self.hardware.block_tokens)
        self._waiting: list[_Sequence] = []
        self._prefilling: list[_Sequence] = []
        self._decoding: dict[_Sequence, None] = {}
        self._finishing: list[tuple[int, _Sequence]] = []
        """Those that decode, by the count at which they are done; and some that no longer do."""
        self._decoded = 0
        """Decode steps so far."""
        self._context = 0
        """Tokens of all that decode."""
        self._phases = [0] * self.hardware.block_tokens
        """Those that decode, by the remainder of the counts at which each needs a block."""
        self._chunks: list[tuple[_Sequence, int]] = []
        """What the step under way computes of prompts."""
        self._left = _Page(0, 0, 0)
        """As the last run has left it."""
        self._left_waiting = 0
        """When the run began."""
        self._granted = 0
        """Blocks that those who decode got for the first step under way: before waiting ones are admitted."""

    # --- as seen from outside ---------------------------------------------------------------------

    def _page(self, done: int, *, with_work: bool) -> Load:
        page = self._after(done) if done else self._left
        return Load(
            waiting=page.waiting,
            running=page.running,
            kv_usage=page.blocks / self.cache.blocks,
            cache_block_tokens=self.cache.block_tokens,
            cache_blocks=self.cache.blocks,
            started_at=self.started_at,
            work=self._work_counted(done) if with_work else None,
        )

    def _work_counted(self, done: int) -> Work:
        """Prompts are counted when their requests end, times between tokens with each step."""
        counts, tokens, seconds = self.counts, self.counts.decoded_tokens, self.counts.decode_seconds
        if done:
            tokens += done * len(self._decoding)
            seconds += self._seconds(done) * len(self._decoding)
        return Work(
            prompt_tokens=counts.computed_tokens,
            prompt_seconds=counts.prefill_seconds,
            prompts=counts.requests,
            tokens=tokens,
            token_seconds=seconds,
            asked_tokens=counts.queried_tokens,
            hit_tokens=counts.cached_tokens,
        )

    def _after(self, done: int) -> _Page:
        """When so many steps of this run are done."""
        blocks = self.cache.in_use + self._blocks_for(done) - self._granted
        return _Page(len(self._waiting), len(self._prefilling) + len(self._decoding), blocks)

    def _fits(self, job: Job) -> bool:
        tokens = job.prompt_tokens + job.output_tokens
        return job.prompt_tokens > 0 and self.cache.blocks_of(tokens) <= self.cache.blocks

    def _queue(self, job: Job) -> bool:
        self._arrivals += 1
        sequence = _Sequence(job, self._arrivals)
        heapq.heappush(self._waiting, sequence)
        has_place = len(self._prefilling) + len(self._decoding) < self.hardware.sequences
        return has_place and self._waiting[0] is sequence

    def _waits(self) -> int:
        return len(self._waiting)

    def _clear(self) -> Sequence[Job]:
        sequences = sorted([*self._waiting, *self._prefilling, *self._decoding], key=lambda s: s.rank[1])
        self._reset()
        return [sequence.job for sequence in sequences]

    # --- what the next steps are ------------------------------------------------------------------

    def _compose(self) -> Steps | None:
        has_preempted = self._make_room()
        self._granted = self._blocks_for(1)
        self.cache.grow(self._granted)
        self._schedule_prompts(may_admit=not has_preempted)
        self._left_waiting = len(self._waiting)
        decodes, hardware = len(self._decoding), self.hardware
        if self._chunks:
            tokens = sum(chunk for _, chunk in self._chunks)
            pairs = sum(chunk * (s.computed + chunk / 2) for s, chunk in self._chunks)
            return Steps(1, hardware.step(tokens, decodes, self._context, pairs))
        if not decodes:
            return None
        first = hardware.step(0, decodes, self._context, 0.0)
        count = 1 if has_preempted else self._steps_unchanged()
        return Steps(count, first, hardware.context * decodes)

    def _make_room(self) -> bool:
        """The next token of each has its block; True: somebody had to go for it."""
        has_preempted = False
        while self._blocks_for(1) > self.cache.available:
            self._preempt(max([*self._prefilling, *self._decoding]))
            has_preempted = True
        return has_preempted

    def _schedule_prompts(self, *, may_admit: bool) -> None:
        budget = self.hardware.step_tokens - len(self._decoding)
        places = self.hardware.sequences - len(self._decoding) - len(self._prefilling)
        for sequence in self._prefilling:
            budget -= self._chunk(sequence, budget)
        while may_admit and budget > 0 and places > 0 and self._waiting and self._admit(self._waiting[0]):
            sequence = heapq.heappop(self._waiting)
            self._prefilling.append(sequence)
            budget -= self._chunk(sequence, budget)
            places -= 1

    def _chunk(self, sequence: _Sequence, budget: int) -> int:
        """What of its prompt comes into this step [tokens]."""
        left = sequence.target - sequence.computed
        tokens = max(min(left, budget), 0)
        if tokens:
            self._chunks.append((sequence, tokens))
        if tokens == left:
            assert sequence.run is not None
            sequence.run = self.cache.share(sequence.run, sequence.text, sequence.target)
        return tokens

    def _admit(self, sequence: _Sequence) -> bool:
        target = sequence.job.prompt_tokens + sequence.produced
        run = self.cache.admit(sequence.text, target)
        if run is None:
            return False
        sequence.run, sequence.target, sequence.computed = run, target, run.end
        if sequence.began is None:
            sequence.began = self._now
            self.counts.queried_tokens += target
            self.counts.cached_tokens += run.end
        if not sequence.produced:
            sequence.cached = run.end
        return True

    def _steps_unchanged(self) -> int:
        """Until one is done, or blocks run out."""
        while (first := self._finishing[0])[1].joined is None or self._end_of(first[1]) != first[0]:
            heapq.heappop(self._finishing)
        steps, available = first[0] - self._decoded, self.cache.available + self._granted
        if self._blocks_for(steps) <= available:
            return steps
        size = self.cache.block_tokens
        steps = available // len(self._decoding) * size  # whole rounds, then step by step
        while self._blocks_for(steps + 1) <= available:
            steps += 1
        return steps

    def _blocks_for(self, steps: int) -> int:
        """What those that decode need in the next ``steps``."""
        size = self.cache.block_tokens
        rounds, rest = divmod(steps, size)
        phases, first = self._phases, self._decoded % size
        need = rounds * len(self._decoding)
        for phase in range(first, first + rest):
            need += phases[phase % size]
        return need

    # --- what they have brought -------------------------------------------------------------------

    def _complete(self, count: int) -> None:
        decodes = len(self._decoding)
        if decodes:
            self.cache.grow(self._blocks_for(count) - self._granted)
            self._granted = 0
            self._decoded += count
            self._context += count * decodes
            self.counts.output_tokens += count * decodes
            self.counts.decoded_tokens += count * decodes
            self.counts.decode_seconds += (self._now - self._began_at) * decodes
            self._finish_decoded()
        chunks, self._chunks = self._chunks, []
        for sequence, tokens in chunks:
            sequence.computed += tokens
            if sequence.computed == sequence.target:
                self._prefilling.remove(sequence)
                self._prefilled(sequence)
        # who has come within a single step is not on its page
        waiting = self._left_waiting if count == 1 else len(self._waiting)
        self._left = _Page(waiting, len(self._prefilling) + len(self._decoding), self.cache.in_use)

    def _finish_decoded(self) -> None:
        while self._finishing and self._finishing[0][0] <= self._decoded:
            end, sequence = heapq.heappop(self._finishing)
            if sequence.joined is not None and self._end_of(sequence) == end:
                self._leave(sequence)
                self._finish(sequence)

    def _prefilled(self, sequence: _Sequence) -> None:
        """It answers its next token."""
        if not sequence.produced:
            sequence.first_at = self._now
            self.counts.prompt_tokens += sequence.job.prompt_tokens
            self._tell_first_token(sequence.job, sequence.cached)
        sequence.produced += 1
        self.counts.output_tokens += 1
        if sequence.produced >= sequence.job.output_tokens:
            self._finish(sequence)
        else:
            self._join(sequence)

    def _finish(self, sequence: _Sequence) -> None:
        assert sequence.began is not None
        self.counts.requests += 1
        self.counts.computed_tokens += sequence.job.prompt_tokens - sequence.cached
        self.counts.prefill_seconds += sequence.first_at - sequence.began
        self._give_back(sequence, sequence.computed)
        self._tell_end(sequence.job)

    # --- coming and going -------------------------------------------------------------------------

    def _join(self, sequence: _Sequence) -> None:
        """It decodes: with each step its text is one token longer."""
        sequence.joined = self._decoded - sequence.produced
        self._decoding[sequence] = None
        self._context += sequence.computed
        self._phases[(self._decoded - sequence.computed) % self.cache.block_tokens] += 1
        heapq.heappush(self._finishing, (self._end_of(sequence), sequence))

    def _leave(self, sequence: _Sequence) -> None:
        assert sequence.joined is not None
        produced = self._decoded - sequence.joined
        sequence.computed += produced - sequence.produced
        sequence.produced, sequence.joined = produced, None
        del self._decoding[sequence]
        self._context -= sequence.computed
        self._phases[(self._decoded - sequence.computed) % self.cache.block_tokens] -= 1

    def _end_of(self, sequence: _Sequence) -> int:
        assert sequence.joined is not None
        return sequence.joined + sequence.job.output_tokens

    def _preempt(self, sequence: _Sequence) -> None:
        """It waits again, in its old place; what it had computed may still be there when it is back."""
        self.counts.preemptions += 1
        if sequence.joined is not None:
            self._leave(sequence)
            self._give_back(sequence, sequence.computed)
        else:
            self._prefilling.remove(sequence)
            self._give_back(sequence, sequence.target)
        heapq.heappush(self._waiting, sequence)

    def _give_back(self, sequence: _Sequence, tokens: int) -> None:
        """Its text is shared as far as it is computed; it had blocks for so many ``tokens``."""
        assert sequence.run is not None
        run = self.cache.share(sequence.run, sequence.text, sequence.computed)
        self.cache.release(run, tokens)
        sequence.run = None
