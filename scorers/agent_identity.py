"""``agent-identity``: which agent's session a request belongs to, by the headers that agents send."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from epp.core.scoring import Cycle, Endpoint

AGENT_HEADERS = ("x-claude-code-session-id", "x-session-affinity", "session-id", "session_id")
"""Of Claude Code, OpenCode, Codex and older Codex."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentIdentity:
    """Find the session of the agent that sent a request; all its requests are of one fairness id.

    In:     the request's headers: ``additionalSessionHeaders``, then ``x-claude-code-session-id``,
            ``x-session-affinity``, ``session-id`` and ``session_id``; the first that is not empty counts.
    Out:    the session, as the request's fairness id unless the header ``x-llm-d-inference-fairness-id``
            names one; and in ``cycle.facts``, for the session-affinity plugins, which name it as the
            attribute ``agent-identity``. Nothing where the request has none of these headers.
    Source: upstream ``agent-identity``.
    """

    additional_session_headers: tuple[str, ...] = ()
    """Request headers to be looked at before the others."""

    is_experimental: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name in self.additional_session_headers:
            if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
                raise ValueError(
                    f'additionalSessionHeaders: must be header names such as x-agent-session, got "{name}"'
                )

    def identity(self, headers: Mapping[str, str]) -> str:
        """The session that these headers tell; empty without one."""
        names = (*(name.lower() for name in self.additional_session_headers), *AGENT_HEADERS)
        return next((found for name in names if (found := headers.get(name, "").strip())), "")

    def produce(self, cycle: Cycle, endpoints: Sequence[Endpoint], name: str) -> None:
        if cycle.request.agent:
            cycle.facts[name] = cycle.request.agent

    def picked(self, cycle: Cycle, endpoint: Endpoint, found: None) -> None:
        """Nothing to be remembered."""
