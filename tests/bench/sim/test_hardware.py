"""Step times beside what is published, and how much a server can answer."""

from functools import partial
from pathlib import Path

import pytest

from bench.sim.batching import BatchingServer
from bench.sim.calibration import Point, main, points
from bench.sim.hardware import H100, HARDWARE, LLAMA_8B, Hardware, capacity, gpu
from bench.sim.jobs import End, Job
from bench.sim.slots import SlotServer
from bench.sim.timeline import EventQueue
from bench.workloads.sessions import Piece


@pytest.mark.parametrize("point", [*points()], ids=lambda point: point.what)
def test_the_model_is_near_what_is_published(point: Point) -> None:
    assert abs(point.deviation) <= point.tolerance


@pytest.mark.parametrize("point", [*points()], ids=lambda point: point.what)
def test_where_it_is_not_there_is_a_reason(point: Point) -> None:
    assert abs(point.deviation) <= 0.12 or point.note


def test_a_pair_is_twice_as_fast_but_for_what_is_said_between_them() -> None:
    one, two = gpu(H100, LLAMA_8B), gpu(H100, LLAMA_8B, 2)
    assert two.token == pytest.approx(one.token / 2)
    assert two.step(0, 1, 0, 0) > one.step(0, 1, 0, 0) / 2
    assert two.cache_tokens > 2 * one.cache_tokens  # the weights are there once


@pytest.mark.parametrize("hardware", [*HARDWARE.values()], ids=[*HARDWARE])
def test_more_work_takes_longer(hardware: Hardware) -> None:
    steps = [
        hardware.step(0, 1, 0, 0),
        hardware.step(0, 4, 0, 0),
        hardware.step(0, 4, 8_000, 0),
        hardware.step(500, 4, 8_000, 0),
        hardware.step(500, 4, 8_000, 500 * 250),
    ]
    assert steps == sorted(steps)
    assert hardware.cache_tokens % hardware.block_tokens == 0


def saturated(hardware: Hardware, prompt: int, cached: int, output: int, requests: int) -> float:
    """Requests a second of a server that always has some waiting; the first half warms it up."""
    time = EventQueue()
    kind = BatchingServer if hardware.engine == "vllm" else SlotServer
    server = kind(time, hardware)
    ends: list[float] = []

    def ask(number: int) -> None:
        server.take(
            Job(
                prompt=(Piece(1, cached), Piece(number + 2, prompt - cached)),
                output_tokens=output // 2 + output * (number * 617 % 1000) // 1000,
                first_token=lambda now, cached: None,
                ended=partial(ended, number),
            )
        )

    def ended(number: int, now: float, end: End) -> None:
        assert end is End.DONE
        ends.append(now)

    for number in range(requests):
        time.later(number * 1e-4, partial(ask, number))
    time.run()
    return (0.7 - 0.3) * requests / (ends[int(0.7 * requests)] - ends[int(0.3 * requests)])


@pytest.mark.parametrize(
    "name, prompt, cached, output, requests",
    [
        ("H100", 1_000, 0, 300, 8_000),
        ("H100", 7_200, 6_000, 1_000, 4_000),
        ("H100", 15_000, 500, 20, 400),
        ("2xH100", 7_200, 6_000, 1_000, 3_000),
        ("L4", 2_000, 1_000, 300, 500),
        ("A100", 200, 0, 2_000, 2_000),
        ("M1 Max", 2_000, 0, 300, 60),
        ("M2 Ultra", 500, 250, 400, 100),
    ],
)
def test_a_saturated_server_answers_what_its_capacity_says(
    name: str, prompt: int, cached: int, output: int, requests: int
) -> None:
    hardware = HARDWARE[name]
    computed = capacity(hardware, prompt=prompt, output=output, cached=cached, shared=cached)
    assert saturated(hardware, prompt, cached, output, requests) == pytest.approx(computed, rel=0.1)


def test_the_page_shows_what_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    main([])
    page = Path(__file__).parents[3] / "docs/simulated-servers.md"
    assert f"```\n{capsys.readouterr().out}```\n" in page.read_text(encoding="utf-8")
