"""A server with slots, as llama.cpp's has them.

Modelled: as many sequences as slots; who finds none is deferred, in order of arrival; a step has one token
          of each slot that answers, then prompts in the order of slots up to ``step_tokens`` in all (n_batch,
          the only bound); each slot keeps its last text, and a prompt that goes on from it is computed from
          where they part; a prompt goes to the idle slot whose text is the largest part of it, if that is
          more than a tenth, else to the one that is idle the longest; texts of idle slots are kept in the
          machine's memory too (--cache-ram), and where a slot would lose more than half of its text the best
          of these is taken in its place.
Not:      priorities (llama.cpp has none), one cache for all slots (--kv-unified), context shift, speculative
          decoding, sleeping, the copying of kept texts (milliseconds), ghosts of clients that hung up. A
          request whose answer could not end within its slot is not taken; there the answer would be cut.
Place:    driven by bench.sim.stepping; times are bench.sim.hardware's.
Source:   tools/server/server-context.cpp (get_available_slot, update_slots), server-task.cpp
          (server_prompt_cache)
"""

from collections import deque
from collections.abc import Sequence

from bench.sim.cache import common
from bench.sim.hardware import Hardware
from bench.sim.jobs import Job, Timeline
from bench.sim.stepping import SteppingServer, Steps
from bench.workloads.sessions import Piece
from epp.core.fleet import Load
from epp.core.rates import Work

Text = tuple[Piece, ...]

SIMILARITY = 0.1
"""--slot-prompt-similarity: a slot is chosen for its text if more than this part of the prompt is in it."""
WORTH_KEEPING = 0.5
"""A slot that keeps less than this part of its text looks for a better one among the kept."""
WORTH_TAKING = 0.25
"""A kept text of which less would be used stays where it is."""


def _length(text: Text) -> int:
    return sum(piece.tokens for piece in text)


class KeptTexts:
    """What has left its slot, the oldest first."""

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens
        """All together at most so many."""
        self.texts: list[Text] = []

    def save(self, text: Text) -> None:
        length = _length(text)
        if not 0 < length <= self.tokens or any(common(kept, text) == length for kept in self.texts):
            return
        self.texts = [kept for kept in self.texts if common(kept, text) < _length(kept)]
        self.texts.append(text)
        while sum(map(_length, self.texts)) > self.tokens:
            del self.texts[0]

    def better(self, text: Text, prompt: Text) -> Text:
        """What serves the prompt better than ``text``, no longer kept; or ``text``."""
        best, shared = text, common(text, prompt)
        share = shared / _length(text) if text else -1.0
        for kept in self.texts:
            here = common(kept, prompt)
            part = here / _length(kept)
            if part >= WORTH_TAKING and part > share and here > shared:
                best, shared, share = kept, here, part
        if best is not text:
            self.texts.remove(best)
        return best


class _Slot:
    """One of them, with a job or without."""

    __slots__ = (
        "answer",
        "began",
        "cached",
        "computed",
        "first_at",
        "job",
        "number",
        "produced",
        "text",
        "used",
    )

    def __init__(self, number: int) -> None:
        self.number = number
        self.job: Job | None = None
        self.text: Text = ()
        """What is in its cache; of one with a job, what will be."""
        self.used = -1
        """The ordinal of when its last job ended."""
        self.answer = 0
        self.cached = self.computed = self.produced = 0
        self.began = self.first_at = 0.0

    @property
    def left(self) -> int:
        """Tokens of its prompt that are not computed."""
        return 0 if self.job is None else max(self.job.prompt_tokens - self.computed, 0)

    @property
    def decodes(self) -> bool:
        return self.job is not None and self.produced > 0


class SlotServer(SteppingServer):
    """One llama.cpp."""

    def __init__(self, timeline: Timeline, hardware: Hardware) -> None:
        super().__init__(timeline)
        self.hardware = hardware
        self.slot_tokens = hardware.cache_tokens // hardware.sequences
        self._arrivals = 0
        self._reset()

    def _reset(self) -> None:
        self._waiting: deque[tuple[Job, int]] = deque()
        self._slots = [_Slot(number) for number in range(self.hardware.sequences)]
        self._kept = KeptTexts(self.hardware.kept_tokens)
        self._ended = 0
        self._chunks: list[tuple[_Slot, int]] = []
        self._deferred = 0
        """When the run began; who has come since is looked at after the step."""

    def _page(self, done: int, *, with_work: bool) -> Load:
        return Load(
            waiting=len(self._waiting) if done else self._deferred,
            running=sum(slot.job is not None for slot in self._slots),
            slots=len(self._slots),
            work=self._work_counted() if with_work else None,
        )

    def _work_counted(self) -> Work:
        return Work(
            prompt_tokens=self.counts.computed_tokens,
            prompt_seconds=self.counts.prefill_seconds,
            tokens=self.counts.decoded_tokens,
            token_seconds=self.counts.decode_seconds,
            asked_tokens=self.counts.queried_tokens,
            hit_tokens=self.counts.cached_tokens,
        )

    def _fits(self, job: Job) -> bool:
        return job.prompt_tokens > 0 and job.prompt_tokens + job.output_tokens <= self.slot_tokens

    def _queue(self, job: Job) -> bool:
        self._arrivals += 1
        self._waiting.append((job, self._arrivals))
        return any(slot.job is None for slot in self._slots)

    def _waits(self) -> int:
        return len(self._waiting)

    def _clear(self) -> Sequence[Job]:
        running = [slot.job for slot in sorted(self._slots, key=lambda s: s.began) if slot.job is not None]
        jobs = [*running, *(job for job, _ in self._waiting)]
        self._reset()
        return jobs

    # --- which slot -------------------------------------------------------------------------------

    def _launch(self) -> None:
        """Who waits, while there is a slot."""
        while self._waiting and (idle := [slot for slot in self._slots if slot.job is None]):
            job, number = self._waiting.popleft()
            prompt = tuple(job.prompt)
            slot = self._choose(idle, prompt)
            for other in idle:
                if other is not slot:
                    self._kept.save(other.text)
            self._begin(slot, job, prompt)
            slot.answer = -(1 << 64) - number if job.answer is None else job.answer

    def _choose(self, idle: Sequence[_Slot], prompt: Text) -> _Slot:
        """The best, with the text that it will go on from."""
        alike = max(idle, key=lambda slot: (common(slot.text, prompt), -slot.number))
        shared = common(alike.text, prompt)
        is_alike = shared > SIMILARITY * _length(prompt)
        slot = alike if is_alike else max(idle, key=lambda slot: (-slot.used, slot.number))
        if not is_alike or shared < WORTH_KEEPING * _length(slot.text):
            self._kept.save(slot.text)
            slot.text = self._kept.better(slot.text, prompt)
        return slot

    def _begin(self, slot: _Slot, job: Job, prompt: Text) -> None:
        slot.job, slot.began, slot.produced = job, self._now, 0
        slot.cached = slot.computed = min(common(slot.text, prompt), job.prompt_tokens - 1)
        slot.text = prompt

    # --- steps ------------------------------------------------------------------------------------

    def _compose(self) -> Steps | None:
        self._launch()
        self._deferred = len(self._waiting)
        hardware, deciding = self.hardware, [slot for slot in self._slots if slot.decodes]
        decodes, context = len(deciding), sum(slot.computed for slot in deciding)
        budget = hardware.step_tokens - decodes
        for slot in self._slots:
            if (tokens := min(slot.left, budget)) > 0 and not slot.decodes:
                self._chunks.append((slot, tokens))
                budget -= tokens
        if self._chunks:
            tokens = sum(chunk for _, chunk in self._chunks)
            pairs = sum(chunk * (slot.computed + chunk / 2) for slot, chunk in self._chunks)
            return Steps(1, hardware.step(tokens, decodes, context, pairs))
        if not deciding:
            return None
        count = min(slot.job.output_tokens - slot.produced for slot in deciding if slot.job is not None)
        return Steps(count, hardware.step(0, decodes, context, 0.0), hardware.context * decodes)

    def _complete(self, count: int) -> None:
        decoding = [slot for slot in self._slots if slot.decodes]
        chunks, self._chunks = self._chunks, []
        for slot in decoding:
            slot.computed += count
            self._answered(slot, count)
        for slot, tokens in chunks:
            slot.computed += tokens
            if not slot.left:
                self._first(slot)

    def _first(self, slot: _Slot) -> None:
        assert slot.job is not None
        slot.first_at = self._now
        self.counts.prompt_tokens += slot.job.prompt_tokens
        self._tell_first_token(slot.job, slot.cached)
        self._answered(slot, 1)

    def _answered(self, slot: _Slot, tokens: int) -> None:
        job = slot.job
        assert job is not None
        slot.produced += tokens
        self.counts.output_tokens += tokens
        if slot.produced < job.output_tokens:
            return
        self._ended += 1
        slot.job, slot.used = None, self._ended
        if slot.produced > 1:  # the last token was never computed
            slot.text = (*slot.text, Piece(slot.answer, slot.produced - 1))
        self._count(slot, job)
        self._tell_end(job)

    def _count(self, slot: _Slot, job: Job) -> None:
        """llama.cpp counts a request when it ends."""
        self.counts.requests += 1
        self.counts.queried_tokens += job.prompt_tokens
        self.counts.cached_tokens += slot.cached
        self.counts.computed_tokens += job.prompt_tokens - slot.cached
        self.counts.prefill_seconds += slot.first_at - slot.began
        self.counts.decoded_tokens += job.output_tokens
        self.counts.decode_seconds += self._now - slot.first_at
