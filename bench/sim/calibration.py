"""What is published about step times, beside what the model says.

    python -m bench.sim.calibration

Place:   bench.sim.hardware has the model, its constants and their sources; tests hold it to these points.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from bench.sim.hardware import (
    A100,
    H100,
    HARDWARE,
    L4,
    LLAMA_2_7B,
    LLAMA_8B,
    QWEN_32B,
    Accelerator,
    Model,
    capacity,
    gpu,
)

A100_40 = replace(A100, name="A100-40", bandwidth=1.555e12, memory=39.4 * 2.0**30)
QWEN_14B = Model(
    name="Qwen3-14B",
    layer_parameters=13.2e9,
    head_parameters=0.778e9,
    embedding_parameters=0.778e9,
    layers=40,
    query_width=5120,
    kv_width=1024,
)
QWEN_7B = Model(
    name="Qwen2.5-7B",
    layer_parameters=6.53e9,
    head_parameters=0.545e9,
    embedding_parameters=0.545e9,
    layers=28,
    query_width=3584,
    kv_width=512,
)
LLAMA_70B = Model(
    name="Llama-3.1-70B",
    layer_parameters=68.5e9,
    head_parameters=1.05e9,
    embedding_parameters=1.05e9,
    layers=80,
    query_width=8192,
    kv_width=1024,
)


class Point(NamedTuple):
    """A published figure and the model's."""

    what: str
    unit: str
    published: float
    model: float
    tolerance: float
    """How far off the model may be, as a share; above .1 with a reason in ``note``."""
    note: str = ""

    @property
    def deviation(self) -> float:
        return self.model / self.published - 1


def points() -> Iterator[Point]:
    """All that scheduling studies publish about these machines and that this model has an answer to."""
    yield from _gemm(
        "Vidur GEMM, 7B on H100", LLAMA_2_7B, H100, {1: 5.6, 512: 12, 1024: 21, 2048: 40, 4096: 83}
    )
    vidur = {1: 9.7, 64: 11.2, 512: 34.7, 2048: 142, 4096: 273, 8192: 543}
    yield from _gemm("Vidur GEMM, 8B on A100", LLAMA_8B, A100, vidur)
    yield from _blis()
    yield from _prefill()
    yield from _alone()
    pair = gpu(H100, QWEN_32B, 2)
    yield Point("llm-d: KV of Qwen3-32B on 2xH100", "tokens", 307_328, pair.cache_tokens, 0.05)


def _gemm(what: str, model: Model, card: Accelerator, published: Mapping[int, float]) -> Iterator[Point]:
    layers = replace(model, head_parameters=0.0)  # Vidur's times are those of the layers
    timed = replace(gpu(card, layers), overhead=0.0)
    for tokens, milliseconds in published.items():
        seconds = timed.step(tokens, 0, 0.0, 0.0)
        yield Point(f"{what}, {tokens} tokens", "ms", milliseconds, 1e3 * seconds, 0.07)


_REASONS = {
    "b1, 8B on H100": "Vidur and llm-d agree on .645 of the data sheet, this is .71",
    "b0, 70B on 4xH100": "it would be .82 of all bandwidth, without any overhead",
    "b1, 70B on 4xH100": "what four say to each other about prompts is not modelled",
    "b0, 8B on A100": "it would be .45 of all bandwidth; Vidur and the A100-40 say .71",
    "b1, 8B on A100": "it would be .94 of the data sheet, which is not possible; Vidur",
}
"""Why what BLIS fitted is not what the model says."""


def _blis() -> Iterator[Point]:
    """Its coefficients are fits over requests: b1 has attention in it, b2 the reading of contexts."""
    for model, server, b0, b1 in (
        ("8B", gpu(H100, LLAMA_8B), 6.472, 19.8),
        ("7B", gpu(H100, QWEN_7B), 7.052, 19.5),
        ("14B", gpu(H100, QWEN_14B), 13.578, 39.4),
        ("70B", gpu(H100, LLAMA_70B, 4), 12.601, 76.4),
        ("8B", gpu(A100, LLAMA_8B), 16.442, 47.84),
    ):
        for name, unit, published, seconds in (
            ("b0", "ms", b0, 1e3 * (server.overhead + server.weights)),
            ("b1", "us", b1, 1e6 * server.token),
        ):
            what = f"{name}, {model} on {server.name}"
            note = _REASONS.get(what, "")
            yield Point(f"BLIS: {what}", unit, published, seconds, 0.4 if note else 0.12, note)


def _prefill() -> Iterator[Point]:
    pair = gpu(H100, QWEN_32B, 2)
    chunk = pair.step_tokens
    yield Point("llm-d: fit, Qwen3-32B on 2xH100", "tok/s", 20_480, 1 / pair.token, 0.05)
    peak = chunk / pair.step(chunk, 0, 0.0, chunk * chunk / 2)
    yield Point("llm-d: peak prefill, the same", "tok/s", 15_928, peak, 0.1, "a step of 8,192")
    yield Point("derived: prefill, 8B on L4", "tok/s", 3_400, 1 / gpu(L4, LLAMA_8B).token, 0.05)


def _alone() -> Iterator[Point]:
    """Tokens a second of one request, after 1,024 tokens on the A100, after few on the others."""
    small, light = gpu(A100_40, LLAMA_8B), gpu(L4, LLAMA_8B)
    yield Point("A100-40 alone, 8B", "tok/s", 75, 1 / small.step(0, 1, 1_088, 0.0), 0.06)
    yield Point(
        "derived: L4 alone, 8B", "ms", 53, 1e3 * light.step(0, 1, 0, 0.0), 0.15, "it assumes all bandwidth"
    )
    for name, prompt, decode in (("M1 Max", 499.6, 46.2), ("M4", 224.8, 20.9)):
        mac = HARDWARE[name]
        yield Point(f"{name}: pp512", "tok/s", prompt, 512 / mac.step(512, 0, 0.0, 512 * 256), 0.05)
        yield Point(f"{name}: tg128", "tok/s", decode, 1 / mac.step(0, 1, 64, 0.0), 0.05)


def table() -> Iterator[str]:
    """All points, and all servers with what follows for them."""
    yield f"{'published':38}{'':7}{'':>8}{'model':>9}{'off':>7}"
    for point in points():
        published, model = (f"{value:,.0f}" if value >= 100 else f"{value:.3g}" for value in point[2:4])
        off = f"{round(point.deviation, 2) + 0.0:+.0%}"  # and no -0
        figures = f"{published:>8}{model:>9}{off:>7}"
        yield f"{point.what:38}{point.unit:7}{figures}  {point.note}".rstrip()
    yield ""
    yield f"{'server':10}{'engine':10}{'model':22}{'step':>6}{'prefill':>9}{'KV tokens':>11}{'req/s':>7}"
    for each in HARDWARE.values():
        alone, rate = f"{1e3 * each.step(0, 1, 0, 0):.1f}", f"{1 / each.token:,.0f}"
        chat = capacity(each, prompt=2_000, output=300, cached=1_500)
        sizes = f"{alone:>6}{rate:>9}{each.cache_tokens:>11,}{chat:>7.2f}"
        yield f"{each.name:10}{each.engine:10}{each.model:22}{sizes}"
    yield ""
    yield "step: of one token alone [ms]; prefill: tokens/s; req/s: the most of 2,000 tokens, 1,500 of"
    yield "them cached, with answers of 300"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.sim.calibration", description=__doc__.partition("\n")[0]
    )
    parser.parse_args(arguments)
    print("\n".join(table()))


if __name__ == "__main__":
    main()
