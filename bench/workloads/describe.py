"""A workload in one line of figures.

Place:   ``epp bench sim --list``, docs/benchmarks.md.
Ignores: rates and times: these are the figures of what is asked.
Rule:    measured on sessions as they are generated, one after the other, not computed from parameters.
"""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from random import Random
from statistics import fmean

from bench.workloads.generate import asked, generate
from bench.workloads.sessions import Piece, Session
from bench.workloads.spec import Workload

SESSIONS = 1_000
REQUESTS = 25_000
"""Of a trace, where what is common to two of them may lie far apart: an hour of Mooncake's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """Means over the sampled sessions."""

    name: str
    about: str
    prompt_tokens: float
    """Of a request: the whole conversation that it sends."""
    output_tokens: float
    turns: float
    """Requests of a session."""
    common: float
    """Part of all prompt tokens that an earlier prompt of the sample, or its answer, has begun with: what a
    cache without bounds would have."""
    beginnings: int
    """Different first texts in the sample."""


def describe(workload: Workload, *, seed: int = 1) -> Description:
    """Of the first sessions. Raises ConfigError where a trace cannot be read."""
    chance = Random(seed)
    if workload.trace is None:
        found = asked(workload, itertools.repeat(0.0, SESSIONS), chance)
    else:
        found = itertools.islice(generate(workload, chance), REQUESTS)
    return _measured(workload, list(found))


def _measured(workload: Workload, sessions: Sequence[Session]) -> Description:
    seen = _Seen()
    prompts, outputs, known = [], [], 0
    for session in sessions:
        for number, (turn, prompt) in enumerate(session.prompts()):
            prompts.append(sum(piece.tokens for piece in prompt))
            outputs.append(turn.output_tokens)
            known += seen.common(prompt)
            seen.add((*prompt, session.answer(number)))
    return Description(
        name=workload.name,
        about=workload.about,
        prompt_tokens=fmean(prompts),
        output_tokens=fmean(outputs),
        turns=len(prompts) / len(sessions),
        common=known / sum(prompts),
        beginnings=len({session.turns[0].pieces[0].name for session in sessions}),
    )


class _Seen:
    """Prompts as a tree. A node is what came before; from it lead pieces."""

    def __init__(self) -> None:
        self._nodes: dict[tuple[int, int, int], int] = {}
        self._longest: dict[tuple[int, int], int] = {}
        self._numbers = itertools.count(1)

    def common(self, prompt: Iterable[Piece]) -> int:
        node, tokens = 0, 0
        for piece in prompt:
            longest = self._longest.get((node, piece.name), 0)
            tokens += min(longest, piece.tokens)
            node = self._nodes.get((node, piece.name, piece.tokens), 0)
            if not node:
                break
        return tokens

    def add(self, prompt: Iterable[Piece]) -> None:
        node = 0
        for piece in prompt:
            key = (node, piece.name)
            self._longest[key] = max(self._longest.get(key, 0), piece.tokens)
            node = self._nodes.setdefault((*key, piece.tokens), next(self._numbers))


_COLUMNS = ("workload", "prompt tokens", "output tokens", "turns", "common", "beginnings", "what it is")


def table(descriptions: Iterable[Description]) -> str:
    """In Markdown."""
    rows = [
        (
            one.name,
            f"{one.prompt_tokens:,.0f}",
            f"{one.output_tokens:,.0f}",
            f"{one.turns:.1f}",
            f"{one.common:.0%}",
            f"{one.beginnings:,}",
            one.about,
        )
        for one in descriptions
    ]
    rule = ["---", *["---:"] * 5, "---"]
    return "\n".join(f"| {' | '.join(row)} |" for row in [_COLUMNS, rule, *rows])
