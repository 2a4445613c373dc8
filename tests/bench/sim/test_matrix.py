"""What a matrix asks for, and how it is played."""

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.sim import matrix as matrices
from bench.sim.fleet import FLEETS
from bench.sim.matrix import (
    Cell,
    Matrix,
    Sizes,
    Task,
    Wanted,
    capacity,
    cells_of,
    find_matrix,
    play,
    spread,
    workload_of,
)
from bench.sim.policies import POLICIES, UPSTREAM
from bench.workloads.distributions import Times
from epp.config.decode import ConfigError, parse, read

SMALL = """\
seeds: 1
warmUp: 20
requests: 60
cells:
- workloads: [batch-rag]
  loads: [0.5]
"""
QUESTIONS = """\
name: questions
sessions:
- {name: question, inputTokens: 500, outputTokens: 100}
"""


def matrix(text: str) -> Matrix:
    return read(parse(text, "m.yaml"), Matrix)


def sizes(**changes: Any) -> Sizes:
    return replace(matrix(SMALL).sizes, **changes)


def cell(**changes: Any) -> Cell:
    return replace(Cell(workload="batch-rag", fleet="8xH100", load=0.5, interval=0.05), **changes)


@pytest.fixture
def questions(tmp_path: Path) -> str:
    path = tmp_path / "questions.yaml"
    path.write_text(QUESTIONS)
    return str(path)


# --- what is asked for ---------------------------------------------------------------------------


def test_the_default_matrix_has_the_cells_it_promises() -> None:
    cells = cells_of(find_matrix("default"))
    single = [each for each in cells if each.burst == 1]
    assert len(single) == 7 * 3 * 2 * 2
    assert Counter(each.load for each in single) == {0.5: 28, 0.8: 28, 0.95: 28}
    assert {each.interval for each in single} == {0.05, 1.0}
    assert {each.burst for each in cells} == {1, 50}
    assert find_matrix("default").seeds == 10


@pytest.mark.parametrize("name", ["small", "default"])
def test_a_matrix_that_is_there_knows_all_its_workloads_and_capacities(name: str) -> None:
    found = find_matrix(name)
    known = {(one.workload, one.fleet) for one in found.capacities}
    for each in cells_of(found):
        assert workload_of(each.workload, each.fleet, found.pauses).sessions
        assert (each.workload, each.fleet) in known


def test_groups_are_products_and_no_cell_is_there_twice() -> None:
    found = matrix(
        "cells:\n"
        "- {workloads: [mixed, agentic], loads: [0.5, 0.8], readings: [50ms, 1s]}\n"
        "- {workloads: [mixed], loads: [0.8], pickers: [1, 3]}\n"
    )
    cells = cells_of(found)
    assert len(cells) == len(set(cells)) == 9
    assert str(cells[-1]) == "mixed, 8xH100, 80%, readings every 50 ms, 3 pickers"


@pytest.mark.parametrize(
    "text, problem",
    [
        pytest.param("cells: []", "m.yaml:1: cells: is empty: write at least one group", id="no-cells"),
        pytest.param(
            "cells: [{workloads: []}]",
            "m.yaml:1: cells[0].workloads: is empty: write at least one",
            id="no-workload",
        ),
        pytest.param(
            "cells: [{workloads: [mixed], fleets: [mixd]}]",
            'm.yaml:1: cells[0].fleets: "mixd" is unknown, did you mean "mixed"?',
            id="fleet",
        ),
        pytest.param(
            "cells: [{workloads: [mixed], faults: [fire]}]",
            'm.yaml:1: cells[0].faults: "fire" is unknown, known are none, slow-node, death, restart',
            id="fault",
        ),
        pytest.param(
            "cells: [{workloads: [mixed], loads: [80]}]",
            "m.yaml:1: cells[0].loads: 80 is not a share of the capacity: write 0.8 for 80 %",
            id="percent",
        ),
        pytest.param(
            "cells: [{workloads: [mixed], readings: [0.05]}]",
            'm.yaml:1: cells[0].readings[0]: expected a duration such as "500ms", "2s" or "1m30s", got 0.05',
            id="no-unit",
        ),
        pytest.param(
            "{requests: 50, cells: [{workloads: [mixed], bursts: [50]}]}",
            "m.yaml:1: requests: must be more than come at once (50), got 50",
            id="one-burst",
        ),
        pytest.param(
            "{seeds: 0, cells: [{workloads: [mixed]}]}",
            "m.yaml:1: seeds: must be at least 1, got 0",
            id="no-seed",
        ),
        pytest.param(
            "{loss: 1.5, cells: [{workloads: [mixed]}]}",
            "m.yaml:1: loss: must be at least 0 and below 1, got 1.5",
            id="all-lost",
        ),
        pytest.param(
            "{seed: 3, cells: [{workloads: [mixed]}]}",
            'm.yaml:1: seed: unknown field, did you mean "seeds"?',
            id="unknown",
        ),
    ],
)
def test_what_is_wrong_is_said_in_one_line(text: str, problem: str) -> None:
    with pytest.raises(ConfigError) as raised:
        matrix(text)
    assert str(raised.value) == problem


def test_an_unknown_matrix_is_told_of_those_that_there_are(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r'--matrix: "smal" is unknown, did you mean "small"\?'):
        find_matrix("smal")
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot be read: No such file"):
        find_matrix(str(tmp_path / "none.yaml"))


# --- workloads on fleets -------------------------------------------------------------------------


def test_a_conversation_fits_into_every_server() -> None:
    whole, cut = (workload_of("agentic", fleet, 1.0).max_context_tokens for fleet in ("8xH100", "mixed"))
    assert whole == 131_072 and cut == FLEETS["mixed"].context_tokens < 40_000


def test_pauses_are_shortened_in_all_their_parts() -> None:
    (whole,), (short,) = (workload_of("interactive-chat", "8xH100", p).sessions or () for p in (1.0, 0.1))
    assert isinstance(whole.think, Times) and isinstance(short.think, Times)
    for name in ("mean", "sd", "min", "max"):
        assert getattr(short.think, name) == pytest.approx(0.1 * getattr(whole.think, name))


# --- plays ---------------------------------------------------------------------------------------


def test_a_play_is_the_same_wherever_it_is_played() -> None:
    tasks = [
        Task(cell=cell(), policy=POLICIES[name], seed=seed, rate=2.0, sizes=sizes())
        for name in ("random", UPSTREAM)
        for seed in (1, 2)
    ]
    here = dict(spread(play, tasks, 1))
    elsewhere = dict(spread(play, tasks, 2))
    assert here == elsewhere and len(set(here.values())) == 4


def test_all_policies_see_the_same_clients(questions: str) -> None:
    """Where servers are idle, nothing but the clients is left."""
    one, other = (
        play(Task(cell=cell(workload=questions), policy=POLICIES[name], seed=1, rate=0.2, sizes=sizes()))
        for name in ("random", "least-request")
    )
    assert one.seconds == other.seconds and one.ttft.p50 == pytest.approx(other.ttft.p50)


def test_bursts_come_at_the_same_rate(questions: str) -> None:
    single, bursts = (
        play(
            Task(
                cell=cell(workload=questions, burst=burst),
                policy=POLICIES["least-request"],
                seed=1,
                rate=20.0,
                sizes=sizes(counted=2000),
            )
        )
        for burst in (1, 50)
    )
    assert bursts.seconds == pytest.approx(single.seconds, rel=0.6)
    assert bursts.ttft.p90 > 2 * single.ttft.p90


def test_the_capacity_is_what_users_get_answered(questions: str) -> None:
    """A request of 500 and 100 tokens alone takes an H100 0.65 s; several at once take less each."""
    found = capacity(Wanted(workload=questions, fleet="8xH100", sizes=sizes()))
    assert 8 / 0.65 < found < 8 * 45_000 / 500


def test_a_closed_loop_has_no_capacity(tmp_path: Path) -> None:
    path = tmp_path / "users.yaml"
    path.write_text(QUESTIONS + "arrivals: {users: 20}\n")
    assert math.isinf(capacity(Wanted(workload=str(path), fleet="8xH100", sizes=sizes())))
    task = Task(
        cell=cell(workload=str(path)), policy=POLICIES["random"], seed=1, rate=math.inf, sizes=sizes()
    )
    assert play(task).requests == 60


def test_who_stops_listening_stops_the_work() -> None:
    tasks = [Task(cell=cell(), policy=POLICIES["random"], seed=n, rate=2.0, sizes=sizes()) for n in range(50)]
    listening = spread(play, tasks, 2)
    next(listening)
    listening.close()
    assert not matrices.active_children()


def test_a_slow_node_gets_less_in_time() -> None:
    task = Task(
        cell=cell(workload="shared-prefix", fault="slow-node"),
        policy=POLICIES["least-request"],
        seed=1,
        rate=12.0,
        sizes=sizes(warm_up=100, counted=500),
    )
    found = play(task)
    assert found.struck[0] > found.struck[-1] and found.shares[0] < 0.1
