"""What is asked of requests: priorities by objective, other models by rewrite."""

import random

import pytest

from epp.core.directives import Directives, Rule


@pytest.mark.parametrize(
    "headers, priority",
    [
        ({}, 0),
        ({"x-llm-d-inference-objective": "chat"}, 10),
        ({"x-gateway-inference-objective": "batch"}, -5),
        ({"x-llm-d-inference-objective": "chat", "x-gateway-inference-objective": "batch"}, 10),
        ({"x-llm-d-inference-objective": "unknown"}, 0),
        ({"x-llm-d-inference-objective": ""}, 0),
    ],
)
def test_a_request_has_the_priority_of_its_objective(headers: dict[str, str], priority: int) -> None:
    directives = Directives()
    assert directives.priority(headers) == 0, "nothing is known of any"
    directives.priorities = {"chat": 10, "batch": -5}
    assert directives.priority(headers) == priority


def test_the_models_own_rule_wins_then_any_models_then_the_header() -> None:
    """As upstream."""
    header = {"x-llm-d-model-name-rewrite": "by-header"}
    directives = Directives(random.Random(1))
    assert directives.target("qwen", {}) == ("qwen", "")
    assert directives.target("qwen", header) == ("by-header", "")
    directives.by_model = {"qwen": Rule("own", ["qwen-v2"], [1])}
    assert directives.target("qwen", header) == ("qwen-v2", "own")
    assert directives.target("phi", header) == ("by-header", "")
    directives.any_model = Rule("any", ["base"], [1])
    assert directives.target("qwen", header) == ("qwen-v2", "own")
    assert directives.target("phi", header) == ("base", "any")


def test_targets_are_drawn_by_weight() -> None:
    """70 to 30 over 10,000 draws: within four standard deviations, 4 * sqrt(0.7 * 0.3 / 10,000) = 0.0183."""
    rule, chance = Rule("canary", ["v1", "v2"], [700_000, 300_000]), random.Random(5)
    drawn = [rule.draw(chance) for _ in range(10_000)]
    assert abs(drawn.count("v1") / 10_000 - 0.7) < 0.0183


class Fixed(random.Random):
    def __init__(self, value: float) -> None:
        super().__init__()
        self._value = value

    def random(self) -> float:
        return self._value


@pytest.mark.parametrize(
    "value, model", [(0.0, "a"), (0.2499, "a"), (0.25, "b"), (0.7499, "b"), (0.75, "c"), (0.9999999, "c")]
)
def test_where_one_share_ends_and_the_next_begins(value: float, model: str) -> None:
    """1 of 4, 2 of 4, 1 of 4."""
    assert Rule("one", ["a", "b", "c"], [1, 2, 1]).draw(Fixed(value)) == model
