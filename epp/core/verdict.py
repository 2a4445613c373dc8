"""What an answer that is no good one says about the server that was to give it.

Place:   asked by epp.core.stream once for each such answer, when all that is shown of it is here.
Ignores: which endpoint it was, what follows from a failure (epp.core.lifecycle).
Rule:    what the client did wrong, and what the gateway alone lacks, says nothing about a server. A full
         queue is no failure.
Source:  measured answers of Envoy, llama.cpp and vLLM (docs/gateways.md); agentgateway's source, proxy/mod.rs
"""

import re
from collections.abc import Mapping

from epp.core.events import Busy, Failed, Late, Quitting

Verdict = tuple[type[Busy | Failed | Late | Quitting], str]
"""What to tell of an endpoint, and why."""

MADE_BY_SERVER = "x-envoy-upstream-service-time"
"""Envoy sets it on what a server answered, never on what it made itself; ``suppress_envoy_headers`` removes
it, and other gateways do not know it."""
OUT_OF_ROOM = "x-envoy-overloaded"
"""Envoy sets it where a circuit breaker of its own refused."""
_REASON_LIMIT = 200
_GATEWAYS_WORDS = (
    "upstream connect error or disconnect/reset before headers",
    *("upstream request timeout", "stream timeout", "no healthy upstream"),  # Envoy
    *(
        "upstream call failed",
        "upstream call timeout",
        "request timeout",
        "no healthy backends",
    ),  # agentgateway
)
_NO_SERVERS_FAULT = ("no healthy upstream", "no healthy backends", "reset reason: overflow")
"""The gateway found nobody to ask: it says that of any server."""
_RESET_REASON = "reset reason: "
_LOADING = re.compile(r"\bloading\b", re.IGNORECASE)
_QUITTING = re.compile(
    r"cannot schedule new futures after (interpreter )?shutdown|(the )?server is (shutting down|draining)\.?",
    re.IGNORECASE,
)
"""As a whole: the words of an error may be the client's."""
_FULL = re.compile(r"\bbusy\b|overload|queue|too many|capacity|no slot|maximum pending", re.IGNORECASE)
_OVERLOADED = 529  # Anthropic's
_UNAVAILABLE = 503
_GAVE_UP = 504
_ASKED_FOR_TOO_MUCH = (501, 505)
"""The server does not do such a thing: llama.cpp without ``--metrics``."""
_FULL_WHEN_UNAVAILABLE = ("vllm", "ollama")
"""Engines that answer a request with 503 only when a queue is full (vLLM: ``--max-num-queued-reqs``)."""


def judge(
    status: int,
    text: str | None,
    *,
    headers: Mapping[str, str],
    engine: str | None,
    is_generation: bool = True,
) -> Verdict | None:
    """What an answer of 500 and above says; None: nothing.

    ``text``: what it gave as the reason, None where its body was not shown. ``is_generation``: the request
    was to make the server work; a server that is well may answer others with 503.
    """
    if status < 500 or OUT_OF_ROOM in headers:
        return None
    said = _one_line(text or "")
    is_servers = MADE_BY_SERVER in headers
    sounds_like_gateway = said.startswith(_GATEWAYS_WORDS)  # a server's may be those of a proxy beside it
    if sounds_like_gateway and not is_servers:
        return _of_gateway(status, said)
    if status in _ASKED_FOR_TOO_MUCH or not is_generation:
        return None
    maker = "engine" if is_servers else "engine or gateway"
    reason = f"{maker}: {status}, {said}" if said else f"{maker}: {status}"
    if _QUITTING.fullmatch(said):
        return Quitting, reason
    if status == _UNAVAILABLE and _LOADING.search(said):
        return Failed, "loading model"
    speaks_itself = is_servers and text is not None and not sounds_like_gateway
    is_full = bool(_FULL.search(said)) or (speaks_itself and engine in _FULL_WHEN_UNAVAILABLE)
    if status == _OVERLOADED or (status == _UNAVAILABLE and is_full):
        return Busy, reason
    return Failed, reason


def judge_error(status: int | None, text: str, *, engine: str | None) -> Verdict | None:
    """What an error says that the engine reported in the middle of a good answer."""
    return judge(status or 0, text, headers={MADE_BY_SERVER: ""}, engine=engine)


def _one_line(text: str) -> str:
    """Of the server's words, what can stand in a log."""
    line = " ".join(text.split())[:_REASON_LIMIT]
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in line)


def _of_gateway(status: int, said: str) -> Verdict | None:
    if any(words in said for words in _NO_SERVERS_FAULT):
        return None
    kind = Late if status == _GAVE_UP else Failed
    return kind, f"gateway: {status}, {said.rpartition(_RESET_REASON)[2]}"
