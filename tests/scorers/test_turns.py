"""Whose turn it is in a queue, who is stopped, and other plain rules: by numbers worked out by hand."""

import math
from dataclasses import dataclass

import pytest

from epp.core.request import Request
from scorers.edf_ordering_policy import EdfOrderingPolicy
from scorers.fcfs_ordering_policy import FcfsOrderingPolicy
from scorers.global_strict_fairness_policy import GlobalStrictFairnessPolicy
from scorers.priority_then_time_eviction_order_policy import PriorityThenTimeEvictionOrderPolicy
from scorers.round_robin_fairness_policy import RoundRobinFairnessPolicy
from scorers.sheddable_eviction_filter import SheddableEvictionFilter
from scorers.slo_deadline_ordering_policy import SloDeadlineOrderingPolicy
from scorers.token_producer import TokenProducer
from scorers.tokenizer import Tokenizer
from tests.picking import cycle_of, endpoints_of, prompt_of


@dataclass
class Queue:
    """What waits of one tenant."""

    @dataclass
    class Head:
        at: float

    head: Head


def test_the_first_that_came_goes_first() -> None:
    ranks = {FcfsOrderingPolicy().queue_rank(Request(), at, at + 60) for at in (1.0, 5.0, 3.0)}
    assert len(ranks) == 1  # equal ones go in the order in which they came


def test_the_one_whose_time_ends_first_goes_first() -> None:
    policy = EdfOrderingPolicy()
    # came at 10 with 60 s: 70; came at 20 with 30 s: 50; may stay for ever
    ranks = [policy.queue_rank(Request(), at, at + ttl) for at, ttl in ((10, 60), (20, 30), (0, math.inf))]
    assert ranks == [70, 50, math.inf]


@pytest.mark.parametrize(
    "headers, rank",
    [
        ({"x-llm-d-slo-ttft-ms": "250"}, 100.25),
        ({"x-slo-ttft-ms": "1500"}, 101.5),
        ({"x-llm-d-slo-ttft-ms": "0", "x-slo-ttft-ms": "900"}, 100.0),
        ({"x-llm-d-slo-ttft-ms": " 40 "}, 100.04),
        ({}, math.inf),
        ({"x-llm-d-slo-ttft-ms": "-1"}, math.inf),
        ({"x-llm-d-slo-ttft-ms": "1.5"}, math.inf),
        ({"x-llm-d-slo-ttft-ms": "soon"}, math.inf),
        ({"x-llm-d-slo-ttft-ms": "9" * 20}, math.inf),
    ],
)
def test_the_one_whose_first_token_is_due_first_goes_first(headers: dict[str, str], rank: float) -> None:
    found = SloDeadlineOrderingPolicy().queue_rank(Request(headers=headers), 100.0, 160.0)
    assert found == pytest.approx(rank)


@pytest.mark.parametrize(
    "policy, tells_apart", [(RoundRobinFairnessPolicy(), True), (GlobalStrictFairnessPolicy(), False)]
)
def test_the_tenant_whose_turn_is_longest_ago(
    policy: RoundRobinFairnessPolicy | GlobalStrictFairnessPolicy, tells_apart: bool
) -> None:
    flows = {"b": Queue(Queue.Head(5.0)), "a": Queue(Queue.Head(1.0))}
    assert policy.choose_flow(flows, 9.0) == "b"
    assert policy.tells_apart is tells_apart


def test_the_lowest_priority_is_stopped_first_and_of_these_the_newest() -> None:
    order, running = PriorityThenTimeEvictionOrderPolicy(), [(-1, 3.0), (-5, 1.0), (-5, 2.0), (0, 9.0)]
    stopped = sorted(running, key=lambda one: order.evict_rank(*one))
    assert stopped == [(-5, 2.0), (-5, 1.0), (-1, 3.0), (0, 9.0)]
    assert [SheddableEvictionFilter().may_evict(priority) for priority, _ in running] == [
        True,
        True,
        True,
        False,
    ]


@pytest.mark.parametrize(
    "prompt, tokens", [("", 0), ("abc", 1), ("abcd", 1), ("abcde", 2), ("x" * 4000, 1000)]
)
@pytest.mark.parametrize("plugin", [TokenProducer(), Tokenizer(model_name="m")])
def test_four_bytes_are_a_token(plugin: TokenProducer, prompt: str, tokens: int) -> None:
    cycle = cycle_of(prompt_of(prompt))
    plugin.produce(cycle, endpoints_of(), "tokens")
    assert cycle.facts == {"tokens": tokens}
