"""How long a step takes: accelerators and models, from published figures.

Place:   bench.sim.batching and bench.sim.slots ask for the seconds of a step; the matrix for a server's
         capacity; bench.sim.calibration prints the published points beside the model's.
Model:   a step reads the weights once and multiplies them with each of its tokens; the two overlap. Attention
         comes on top: for each sequence that decodes its whole context is read, for each prompt token the
         tokens before it are looked at.

             seconds = overhead + hypot(weights, token · (prefill + decodes))
                       + context · tokens of those that decode + pair · pairs

         The root of the squares lies within 6 % of every GEMM time that Vidur published for A100 and H100
         (one token to 8,192); the sum of the two misses by up to 34 %, the larger of the two by up to 14 %.
Ignores: tokenizing, HTTP and detokenizing (BLIS: 2 to 10 ms for a request), kernels' steps in batch size,
         heat, speculative decoding.
Sources: Vidur's profiles (GEMM of all layers); BLIS, inference-sim (coefficients, H100 989.5 TFLOP/s and
         3.35 TB/s, ...); llm-d's hardware matrix (peak prefill); johnmusgrave.com (A100 at concurrency 1);
         llama.cpp's benchmarks of Apple machines (pp512, tg128); models' own configurations.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

# --- models ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A dense transformer, as its configuration says."""

    name: str
    layer_parameters: float
    """Of all layers: each token is multiplied with them."""
    head_parameters: float
    """Of the output matrix: read in each step, multiplied only with tokens that are answered."""
    embedding_parameters: float
    """In memory, but looked up."""
    layers: int
    query_width: int
    """Attention heads times their width."""
    kv_width: int
    """KV heads times their width."""
    weight_bytes: float = 2.0
    """Of one parameter."""

    @property
    def bytes_read(self) -> float:
        """In each step."""
        return (self.layer_parameters + self.head_parameters) * self.weight_bytes

    @property
    def bytes_held(self) -> float:
        return self.bytes_read + self.embedding_parameters * self.weight_bytes

    @property
    def kv_bytes(self) -> float:
        """Of one token, in fp16: keys and values of all layers."""
        return 2 * 2 * self.layers * self.kv_width

    @property
    def token_flop(self) -> float:
        return 2 * self.layer_parameters

    @property
    def pair_flop(self) -> float:
        """One token that looks at one other: a product with its key, one with its value."""
        return 2 * 2 * self.layers * self.query_width


LLAMA_8B = Model(
    name="Llama-3.1-8B",
    layer_parameters=6.98e9,
    head_parameters=0.525e9,
    embedding_parameters=0.525e9,
    layers=32,
    query_width=4096,
    kv_width=1024,
)
QWEN_32B = Model(
    name="Qwen3-32B",
    layer_parameters=31.2e9,
    head_parameters=0.778e9,
    embedding_parameters=0.778e9,
    layers=64,
    query_width=8192,
    kv_width=1024,
)
LLAMA_2_7B = Model(  # only to compare with what was published for it
    name="Llama-2-7B",
    layer_parameters=6.48e9,
    head_parameters=0.131e9,
    embedding_parameters=0.131e9,
    layers=32,
    query_width=4096,
    kv_width=4096,
)
LLAMA_8B_Q4 = Model(  # Q4_K_M: 4.58 GiB in all; 4.9 bits a parameter on average
    name="Llama-3.1-8B Q4_K_M",
    layer_parameters=6.98e9,
    head_parameters=0.525e9,
    embedding_parameters=0.525e9,
    layers=32,
    query_width=4096,
    kv_width=1024,
    weight_bytes=4.92e9 / 8.03e9,
)

# --- servers --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """One server: an engine with its model on its accelerators, and the limits it was started with."""

    name: str
    engine: str
    """As epp.core.engines calls it: ``vllm`` or ``llamacpp``."""
    model: str
    overhead: float
    """Of a step, whatever is in it [s]: scheduling, sampling, launches; between two GPUs also their sums."""
    weights: float
    """To read all weights [s]."""
    token: float
    """To multiply one token with them [s]."""
    context: float
    """To read keys and values of one token of a sequence that decodes [s]."""
    pair: float
    """For one prompt token to look at one token before it [s]."""
    cache_tokens: int
    """Room for keys and values [tokens]."""
    step_tokens: int
    """At most so many in one step: vLLM's max_num_batched_tokens, llama.cpp's n_batch."""
    sequences: int
    """At most so many at once: vLLM's max_num_seqs, llama.cpp's slots."""
    block_tokens: int = 16
    """Of a KV block (vLLM's default)."""
    kept_tokens: int = 0
    """Room in the machine's memory for texts that left their slot: llama.cpp's --cache-ram."""

    def step(self, prefill: float, decodes: float, context: float, pairs: float) -> float:
        """Seconds of one step: prompt tokens, sequences that decode, the sum of their contexts, pairs."""
        return (
            self.overhead
            + math.hypot(self.weights, self.token * (prefill + decodes))
            + self.context * context
            + self.pair * pairs
        )

    @property
    def blocks(self) -> int:
        return self.cache_tokens // self.block_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Accelerator:
    """What a data sheet and measurements say of one GPU."""

    name: str
    flops: float
    """Dense fp16 or bf16 [FLOP/s]."""
    bandwidth: float
    """[bytes/s]"""
    memory: float
    """What the driver shows [bytes]."""
    gemm: float
    """Share of ``flops`` that large matrix products reach."""
    reading: float
    """Share of ``bandwidth`` at which a step reads the weights."""
    step_tokens: int
    sequences: int


_GIB = 2.0**30
# gemm: Vidur measured Llama-2-7B on H100 at 49k tok/s for 4,096 tokens: 6.48e9 · 2 · 49.3e3 / 989.5e12
# is .645, with which Qwen3-32B on two H100 gives 20,450 tok/s where llm-d fitted 20,480; Llama-3-8B on
# A100: 8,192 tokens in 543 ms, .675. BLIS states .45 and .38 for the same ("MFU prefill"), but its own
# b1 for H100, 19.8 µs, is .71, and its A100 b1, 47.84 µs, would be .94, which is not possible: its
# shares are not used as they are. For L40S there is nothing else: .32, raised by what H100's was too low
# (.645/.45) to .46. L4: the derived 3.4k tok/s, .39; a card of 72 W does not hold more.
# reading: Vidur at one token: 7B on H100 in 5.6 ms is .69 of 3.35 TB/s, 8B on A100 in 9.7 ms .71 of
# 2.039; BLIS's b0 for 8B on H100, 6.47 ms, is .72 with 0.3 ms overhead. One value, .71, for HBM. BLIS's
# b0 for A100, 16.4 ms, would be .45: against it stand Vidur and 75 tok/s at concurrency 1 on a card of
# 1.555 TB/s (13.3 ms, where .71 gives 14.0). GDDR6 loses less of its smaller bandwidth: .85, estimated
# (no point in the sources; the derived 53 ms for L4 assume 1.0).
# BLIS's b2, 304 µs for a sequence of an 8B on one H100, is not used: it would be the reading of 5,500
# tokens of context; with two H100 it states 2.84, for other models 18 to 27 (330 to 490 tokens).
# Contexts are counted here.
# sequences and step_tokens: vLLM V1's defaults for an API server: 8192 and 1024 from 70 GiB on but for
# A100, else 2048 and 256.
H100 = Accelerator(
    name="H100",
    flops=989.5e12,
    bandwidth=3.35e12,
    memory=79.6 * _GIB,
    gemm=0.645,
    reading=0.71,
    step_tokens=8192,
    sequences=1024,
)
A100 = Accelerator(
    name="A100",
    flops=312e12,
    bandwidth=2.039e12,
    memory=79.3 * _GIB,
    gemm=0.675,
    reading=0.71,
    step_tokens=2048,
    sequences=256,
)
L40S = Accelerator(
    name="L40S",
    flops=362e12,
    bandwidth=0.864e12,
    memory=44.5 * _GIB,
    gemm=0.46,
    reading=0.85,
    step_tokens=2048,
    sequences=256,
)
L4 = Accelerator(
    name="L4",
    flops=121e12,
    bandwidth=0.3e12,
    memory=22.5 * _GIB,
    gemm=0.39,
    reading=0.85,
    step_tokens=2048,
    sequences=256,
)

ATTENTION = 0.7
"""How fast attention over a prompt computes, as a share of the large products: BLIS's .45 for H100
against .645. What two other sources imply lies around it: Dynamo's T² term (0.84 ns a pair, if that is
an 8B on H100) 1.0; llm-d's peak of 15,928 tok/s against its fit of 20,480, if that is all attention in
steps of 8,192, 0.5."""
MEMORY_SHARE = 0.9
"""vLLM's gpu_memory_utilization."""
SET_ASIDE = {8192: 4.0e9, 2048: 1.5e9}
"""Of a GPU, for activations and graphs [bytes], by step_tokens: with 4 GB two H100 have 306,448 tokens
left for Qwen3-32B, where llm-d reports 307,328. BLIS's 132,139 blocks for an 8B on two H100 would be 277
GB. The smaller one: a quarter of the activations, and half a GB for the graphs."""
STEP_OVERHEAD = 0.0003
"""BLIS b0 for 8B on H100 less the reading of the weights [s]."""
JOINING = 0.00001
"""Two sums between two GPUs in each layer, each of so many seconds (estimated for NVLink)."""


def gpu(accelerator: Accelerator, model: Model, count: int = 1) -> Hardware:
    """vLLM on so many of them, the model divided among them."""
    token = model.token_flop / (accelerator.flops * accelerator.gemm * count)
    weights = model.bytes_read / (accelerator.bandwidth * accelerator.reading * count)
    room = accelerator.memory * MEMORY_SHARE - SET_ASIDE[accelerator.step_tokens]
    return Hardware(
        name=accelerator.name if count == 1 else f"{count}x{accelerator.name}",
        engine="vllm",
        model=model.name,
        overhead=STEP_OVERHEAD + (2 * model.layers * JOINING if count > 1 else 0.0),
        weights=weights,
        token=token,
        context=weights * model.kv_bytes / model.bytes_read,
        pair=token * model.pair_flop / model.token_flop / ATTENTION,
        cache_tokens=int((room * count - model.bytes_held) / model.kv_bytes) // 16 * 16,
        step_tokens=accelerator.step_tokens,
        sequences=accelerator.sequences,
    )


SLOTS = 4
"""llama.cpp's default, where nothing else is asked for."""
BATCH = 2048
"""llama.cpp's n_batch."""
KEPT_BYTES = 8192 * 2.0**20
"""llama.cpp's --cache-ram."""


def apple(name: str, *, prompt: float, decode: float, slot_tokens: int, q4_0_7b: bool = False) -> Hardware:
    """llama.cpp with Llama-3.1-8B Q4_K_M: pp512 and tg128 [tokens/s], or what Llama-2-7B Q4_0 says of them.

    From the smaller model: prompts in proportion to parameters, decoding to bytes (3.56 GiB and 4.58 GiB).
    """
    model = LLAMA_8B_Q4
    if q4_0_7b:
        prompt *= LLAMA_2_7B.layer_parameters / model.layer_parameters
        decode *= 3.56 / 4.58
    weights = 1 / decode - STEP_OVERHEAD
    token = math.sqrt((512 / prompt - STEP_OVERHEAD) ** 2 - weights**2) / 512
    return Hardware(
        name=name,
        engine="llamacpp",
        model=model.name,
        overhead=STEP_OVERHEAD,
        weights=weights,
        token=token,
        context=weights * model.kv_bytes / model.bytes_read,
        pair=token * model.pair_flop / model.token_flop / ATTENTION,
        cache_tokens=slot_tokens * SLOTS,
        step_tokens=BATCH,
        sequences=SLOTS,
        kept_tokens=int(KEPT_BYTES / model.kv_bytes),
    )


APPLE = (  # M1 Max and M4 as measured, the others by what is published for Llama-2-7B Q4_0 (unverified)
    apple("M1 Max", prompt=499.6, decode=46.2, slot_tokens=65_536),
    apple("M2 Ultra", prompt=1238, decode=94, slot_tokens=131_072, q4_0_7b=True),
    apple("M3 Max", prompt=760, decode=66, slot_tokens=65_536, q4_0_7b=True),
    apple("M3 Ultra", prompt=1471, decode=92, slot_tokens=131_072, q4_0_7b=True),
    apple("M4", prompt=224.8, decode=20.9, slot_tokens=24_576),
    apple("M4 Max", prompt=886, decode=83, slot_tokens=65_536, q4_0_7b=True),
)
HARDWARE: Mapping[str, Hardware] = {
    **{gpu(each, LLAMA_8B).name: gpu(each, LLAMA_8B) for each in (H100, A100, L40S, L4)},
    "2xH100": gpu(H100, QWEN_32B, 2),
    **{each.name: each for each in APPLE},
}
"""By name: Llama-3.1-8B on each, Qwen3-32B on a pair of H100."""


# --- how much it can answer -----------------------------------------------------------------------


def capacity(
    hardware: Hardware, *, prompt: float, output: float, cached: float = 0.0, shared: float = 0.0
) -> float:
    """Requests a second that one server can answer for ever, from the means of their tokens.

    ``cached``: of a prompt, what need not be computed when servers keep what they can; ``shared``: of that,
    what all have in common, so that it takes its room once. In the long run a step begins as many requests as
    it ends, so that prompts and answers are in it as they are in the requests; steps are as full as the
    limits allow. It says nothing of how long anybody waits, and takes it that ``cached`` is, however much the
    server has to do: where cached texts and requests contend for room, less can be answered.
    """
    fresh, decodes = max(prompt - cached, 1.0), max(output - 1.0, 0.0)
    room = (hardware.cache_tokens - shared) / (prompt - shared + output / 2)
    sequences = max(min(float(hardware.sequences), room), 1.0)
    a_step = hardware.step_tokens / (fresh + decodes)
    if decodes:
        a_step = min(a_step, sequences / decodes)
    decoding = a_step * decodes
    chunk = max(a_step * fresh, min(fresh, hardware.step_tokens))
    with_prompts = a_step * fresh / chunk
    context = decoding * (prompt + output / 2)
    pairs = chunk * (prompt - fresh / 2)
    seconds = with_prompts * hardware.step(chunk, decoding, context, pairs)
    if with_prompts < 1.0:
        seconds += (1.0 - with_prompts) * hardware.step(0, decoding, context, 0.0)
    return a_step / seconds
