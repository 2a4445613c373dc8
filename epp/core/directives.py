"""What the owners of a pool ask for its requests: priorities by objective, other models by rewrite.

Place:   kept up to date by whoever knows the owners' wishes (epp.runtime.kubernetes); asked by
         epp.core.stream, once a request.
Ignores: where the wishes are written, and what a priority is good for.
Rule:    what is not known has priority 0 and keeps its model. A request is rewritten once: the model that a
         rule names is not looked up again.
Source:  upstream's Director: a rule for the model wins over a rule for any model, both over the header.
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate

from epp.core.scoring import Chance

OBJECTIVE_HEADERS = ("x-llm-d-inference-objective", "x-gateway-inference-objective")
REWRITE_HEADERS = ("x-llm-d-model-name-rewrite", "x-gateway-model-name-rewrite")


class Rule:
    """Models to ask for instead, drawn by weight. ``origin``: the object that says so."""

    __slots__ = ("_bounds", "models", "origin", "weights")

    def __init__(self, origin: str, models: Sequence[str], weights: Sequence[int]) -> None:
        self.origin, self.models, self.weights = origin, tuple(models), tuple(weights)
        self._bounds = tuple(accumulate(weights))

    def draw(self, chance: Chance) -> str:
        if len(self.models) == 1:
            return self.models[0]
        return self.models[bisect_right(self._bounds, chance.random() * self._bounds[-1])]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Rule) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def __repr__(self) -> str:
        return f"Rule{self._key}"

    @property
    def _key(self) -> tuple[str, tuple[str, ...], tuple[int, ...]]:
        return self.origin, self.models, self.weights


class Directives:
    """The wishes as they are now; each is replaced as a whole.

    ``chance``: None where there will be no rule.
    """

    __slots__ = ("_chance", "any_model", "by_model", "priorities")

    def __init__(self, chance: Chance | None = None) -> None:
        self.priorities: Mapping[str, int] = {}
        """By the name of an objective."""
        self.by_model: Mapping[str, Rule] = {}
        self.any_model: Rule | None = None
        self._chance = chance

    def priority(self, headers: Mapping[str, str]) -> int:
        """Of a request with these headers."""
        if not self.priorities:
            return 0
        named = headers.get(OBJECTIVE_HEADERS[0]) or headers.get(OBJECTIVE_HEADERS[1])
        return self.priorities.get(named, 0) if named else 0

    def target(self, model: str, headers: Mapping[str, str]) -> tuple[str, str]:
        """What to ask for where a client asks for ``model``, and the object that says so, if any does."""
        rule = self.by_model.get(model) or self.any_model
        if rule is not None:
            assert self._chance is not None  # whoever has rules has one
            return rule.draw(self._chance), rule.origin
        return headers.get(REWRITE_HEADERS[0]) or headers.get(REWRITE_HEADERS[1]) or model, ""
