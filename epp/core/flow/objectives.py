"""What a request is: its objective's priority, and the tenant it belongs to.

Place:   filled by whoever follows InferenceObjectives; asked by epp.core.flow.control and shedding.
Rule:    an unknown objective, and none, is priority 0 (upstream's rule); a request is never refused for it.
Source:  llm-d-router v0.10, and GIE v1.5 for the older names of the headers.
"""

from collections.abc import Mapping

OBJECTIVE_HEADERS = ("x-llm-d-inference-objective", "x-gateway-inference-objective")
FAIRNESS_HEADERS = ("x-llm-d-inference-fairness-id", "x-gateway-inference-fairness-id")
DEFAULT_FLOW = "default-flow"


class Objectives:
    """The priorities of one pool, by the objective's name; ``replace`` takes over a whole new mapping."""

    __slots__ = ("by_name",)

    def __init__(self, by_name: Mapping[str, int] | None = None) -> None:
        self.by_name: Mapping[str, int] = by_name or {}

    def replace(self, by_name: Mapping[str, int]) -> None:
        """From now on these, and no others."""
        self.by_name = by_name

    def priority(self, headers: Mapping[str, str]) -> int:
        """Of a request with these headers; below 0 it is sheddable."""
        if not self.by_name:
            return 0
        name = headers.get(OBJECTIVE_HEADERS[0]) or headers.get(OBJECTIVE_HEADERS[1])
        return self.by_name.get(name, 0) if name else 0


def fairness_id(headers: Mapping[str, str], agent: str = "") -> str:
    """The tenant whose request this is; ``agent``: its agent's session, where somebody finds that."""
    return headers.get(FAIRNESS_HEADERS[0]) or headers.get(FAIRNESS_HEADERS[1]) or agent or DEFAULT_FLOW
