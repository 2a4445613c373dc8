"""Whose request it is.

Place:   asked by epp.core.flow.control; what a request's priority is stands in the request.
Source:  llm-d-router v0.10, and GIE v1.5 for the older name of the header.
"""

from collections.abc import Mapping

FAIRNESS_HEADERS = ("x-llm-d-inference-fairness-id", "x-gateway-inference-fairness-id")
DEFAULT_FLOW = "default-flow"


def fairness_id(headers: Mapping[str, str], agent: str = "") -> str:
    """The tenant whose request this is; ``agent``: its agent's session, where somebody finds that."""
    return headers.get(FAIRNESS_HEADERS[0]) or headers.get(FAIRNESS_HEADERS[1]) or agent or DEFAULT_FLOW
