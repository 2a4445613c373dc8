"""Heartbeats of LLMKube's metal agents: whether one is too old to say that its machine is there.

Place:   the one rule for what the picker, the compiler and the controller make of them.
Source:  LLMKube's operator (v0.9.19), which takes an agent for gone by the same rule.
"""

import datetime as dt

HEARTBEAT = "llmkube.ai/agent-heartbeat"
"""Annotation of a slice: when its metal agent was last there, RFC 3339."""
TIMEOUT = 180.0
"""[s] LLMKube's own: the agent beats every 30 s."""


def instant(written: str) -> float | None:
    """A time of RFC 3339 [unix s]; None: it is none."""
    try:
        at = dt.datetime.fromisoformat(written)
        return None if at.tzinfo is None else at.timestamp()
    except (ValueError, OverflowError):
        return None


def is_late(beat: str, now: float) -> bool:
    """Whether ``beat`` is too long ago. One that is no time says nothing, and is not late.

    One of the future is not late either, as for the operator: the clock of that machine is ahead, and to take
    it out of service for that would be worse than to notice its end later by so much.
    """
    at = instant(beat)
    return at is not None and now - at >= TIMEOUT
